"""Time loops in machine code, written as LLVM text: an optional engine that computes what ``minigrad.scan`` defines.

It changes how fast a result comes, never what it is; without the extra ``jit`` nothing in this package is needed.
"""
