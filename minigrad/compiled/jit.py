"""Compile LLVM text for this processor, and cache the machine code on disk."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import importlib
import importlib.util
import logging
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import platformdirs

if TYPE_CHECKING:  # no text is written before something is compiled
    from minigrad.compiled.llvm import Function

_DEFINITION = re.compile(r"^define (?!.*\b(?:internal|private)\b[^@]*@)[^@]*@([\w.$-]+)\(", re.MULTILINE)
_DIGEST_SIZE = hashlib.sha256().digest_size
_log = logging.getLogger("minigrad.compiled")


class Library:
    """Compiled functions, valid as long as this object exists.

    Args:
        code: an object file from ``compile_ir``.
        names: the functions it exports.
    """

    def __init__(self, code: bytes, names: frozenset[str]) -> None:
        binding = _binding()
        _load_math_library()
        self.names = names
        # The engine needs a module; all code that runs comes from the object file.
        self._engine = binding.create_mcjit_compiler(binding.parse_assembly(""), _target_machine())
        self._object = binding.ObjectFileRef.from_data(code)
        self._engine.add_object_file(self._object)
        self._engine.finalize_object()

    def address(self, name: str) -> int:
        """The address of a function.

        Raises:
            KeyError: the library has no function of this name.
        """
        if name not in self.names:
            raise KeyError(f"no compiled function {name!r}. Available names: {', '.join(sorted(self.names))}")
        return int(self._engine.get_function_address(name))


@functools.cache
def available() -> bool:
    """Whether the optional extra ``jit`` is installed."""
    return importlib.util.find_spec("llvmlite") is not None


def compile_ir(text: str) -> Library:
    """Compile LLVM text for this processor, or load it from the cache.

    Args:
        text: a module whose functions are called by address. It may call the functions of the C mathematics library.

    Raises:
        RuntimeError: the text is not valid LLVM text.
    """
    path = cache_folder() / f"{_fingerprint(text)}.o"
    code = _read(path)
    if code is None:
        code = _compile(text)
        _write(path, code)
    return Library(code, frozenset(_DEFINITION.findall(text)))


def cache_folder() -> Path:
    """The folder of cached code: ``MINIGRAD_CACHE`` if set, else one in the user's cache.

    Code is only written to, and loaded from, a folder that belongs to the user and that no other user can write to.
    """
    chosen = os.environ.get("MINIGRAD_CACHE")
    return Path(chosen) if chosen else Path(platformdirs.user_cache_dir("rnn-lab")) / "kernels"


def vector_width(dtype: str) -> int:
    """Numbers of this dtype, "float32" or "float64", per vector register of the host."""
    size = {"float32": 4, "float64": 8}[dtype]
    return _vector_bytes(_host()[1]) // size


def vector_registers() -> int:
    """The number of vector registers of the host."""
    cpu_features = _host()[1]
    return 32 if _has(cpu_features, "avx512f") or _has(cpu_features, "neon") else 16


def is_loaded() -> bool:
    """Whether this process has compiled code, or is about to."""
    return _host.cache_info().currsize > 0


@functools.cache
def processor() -> str:
    """The target processor: its name, and a digest of its features."""
    name, features = _host()
    return f"{name} (features {hashlib.sha256(features.encode()).hexdigest()[:8]})"


def is_x86() -> bool:
    """Whether the host is of the x86 family."""
    return _has(_host()[1], "sse2")


@contextlib.contextmanager
def without_denormals(f: Function) -> Iterator[None]:
    """Write a part of a function in which denormal numbers are 0.

    Vanishing gradients become denormal, and some processors multiply such numbers a hundred times more slowly.
    """
    if not is_x86():
        yield
        return
    before, inside = f.memory("i32", 1), f.memory("i32", 1)
    f.call("void", "llvm.x86.sse.stmxcsr", before)
    inside.store(before.load() | 0x8040)  # results and operands
    f.call("void", "llvm.x86.sse.ldmxcsr", inside)
    yield
    f.call("void", "llvm.x86.sse.ldmxcsr", before)


def _binding() -> Any:
    """LLVM's binding, imported on first use, since that is slow and it may be missing."""
    return importlib.import_module("llvmlite.binding")


def _vector_bytes(cpu_features: str) -> int:
    if _has(cpu_features, "avx512f"):
        return 64
    return 32 if _has(cpu_features, "avx2") else 16


def _has(cpu_features: str, feature: str) -> bool:
    return f"+{feature}" in cpu_features.split(",")


@functools.cache
def _host() -> tuple[str, str]:
    """LLVM's names of the processor and its features."""
    binding = _binding()
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    # Processors that execute out of order gain nothing from it, and it takes a third of the time of long functions.
    binding.set_option("", "-disable-post-ra")
    return binding.get_host_cpu_name(), binding.get_host_cpu_features().flatten()


@functools.cache
def _load_math_library() -> None:
    """Make expf and similar functions resolvable if the process does not link them yet."""
    binding = _binding()
    for name in ("libm.so.6", "libm.dylib"):
        with contextlib.suppress(OSError, RuntimeError):
            ctypes.CDLL(name)
            binding.load_library_permanently(name)


def _target_machine() -> Any:
    binding = _binding()
    name, features = _host()
    target = binding.Target.from_default_triple()
    return target.create_target_machine(cpu=name, features=features, opt=3, jit=True)


def _compile(text: str) -> bytes:
    """The object file of a text."""
    binding = _binding()
    machine = _target_machine()
    module = binding.parse_assembly(text)
    module.triple = machine.triple
    module.data_layout = str(machine.target_data)
    module.verify()
    # The text is vectorised and unrolled as it should run, so LLVM's usual pipeline would double the time of
    # compiling and gain nothing.
    passes = binding.create_new_module_pass_manager()
    passes.add_sroa_pass()
    passes.add_instruction_combine_pass()
    passes.add_simplify_cfg_pass()
    passes.run(module, binding.create_pass_builder(machine, binding.create_pipeline_tuning_options()))
    return bytes(machine.emit_object(module))


def _fingerprint(text: str) -> str:
    """A name that differs whenever the compiled code might."""
    binding = _binding()
    llvmlite = importlib.import_module("llvmlite")
    compiler = f"llvmlite {llvmlite.__version__}, LLVM {binding.llvm_version_info}, layout 2"
    return hashlib.sha256("\0".join((*_host(), compiler, text)).encode()).hexdigest()


def _digest(path: Path, code: bytes) -> bytes:
    """A digest of the name and the code, so that one file cannot replace another."""
    return hashlib.sha256(path.name.encode() + code).digest()


def _read(path: Path) -> bytes | None:
    """The code cached under a path; None if there is none, or if another user may have written it."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        if not _is_ours(os.stat(path.parent)):
            return None
        with open(os.open(path, flags), "rb") as file:
            status = os.fstat(file.fileno())
            if not (stat.S_ISREG(status.st_mode) and _is_ours(status)):
                return None
            content = file.read()
    except OSError:
        return None
    digest, code = content[:_DIGEST_SIZE], content[_DIGEST_SIZE:]
    return code if code and _digest(path, code) == digest else None


def _is_ours(status: os.stat_result) -> bool:
    """Whether a file or folder belongs to the user, and no other user can write to it."""
    return not hasattr(os, "geteuid") or (status.st_uid == os.geteuid() and not status.st_mode & 0o022)


def _write(path: Path, code: bytes) -> None:
    """Cache code under a path. Other processes may access the file at the same time; a read-only folder is no error."""
    temporary = ""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_ours(os.stat(path.parent)):
            _warn_of(path.parent)
            return
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
            temporary = file.name
            file.write(_digest(path, code) + code)
        os.replace(temporary, path)
    except OSError:
        pass
    finally:
        with contextlib.suppress(OSError):  # it was usually renamed
            os.unlink(temporary)


@functools.cache
def _warn_of(folder: Path) -> None:
    _log.warning(
        "compiled code is not cached, so every start takes longer: another user owns or can write to "
        "%s; remove their write permission (chmod go-w), or set MINIGRAD_CACHE to another folder",
        folder,
    )
