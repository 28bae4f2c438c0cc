"""Machine code for ``minigrad.scan``, generated as LLVM text; needs the extra ``jit``."""
