"""A user's Python file as a module, executed once per content."""

from __future__ import annotations

import hashlib
import sys
import traceback
from pathlib import Path
from types import ModuleType

from rnn_plugins.errors import UserError, said


def module_of(path: Path, source: bytes) -> ModuleType:
    """A file with this content as a module, executed once per content.

    It is not imported by the import system, which would write a cache beside the user's file. The file cannot import
    others from its folder, which is not on the search path, so its digest determines all that it defines.

    Raises:
        UserError: it raises an exception.
    """
    name = f"rnn_plugin_file_{digest(str(path.resolve()).encode() + source)[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    module = ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module  # dataclasses look up their module there
    try:
        exec(compile(source, str(path), "exec"), module.__dict__)
    except BaseException as error:
        del sys.modules[name]
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        line = f" at line {lines[-1]}" if lines else ""
        raise UserError(f"{path} cannot be loaded: it raised{line} {said(error)}") from error
    return module


def read(word: str, path: Path) -> bytes:
    """The content of a file that defines what ``word`` names.

    Raises:
        UserError: it is not there, or cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"there is no file {path}: give the Python file that defines the {word}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


def digest(content: bytes) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()
