"""The lines of a text file or of standard input, as a stream: whether packed or not, decoded as every other text."""

import gzip
import io
import os
import stat
import zlib
from collections.abc import Iterator
from itertools import chain
from typing import Protocol

from rnn_plugins.data.decoding import Changes, NoText, cleaned, decoded
from rnn_plugins.data.sources import CHUNK, Part, Unreadable, is_pipe, refuse_devices, standard_input
from rnn_plugins.errors import UserError

LONGEST = 1 << 24
"""Characters in a line, or in a field; more are a file of another kind, or an unclosed quote."""

LABEL = 200
"""Characters in a label; more are a text, which is in the wrong column."""

GZIP = b"\x1f\x8b"


class Hash(Protocol):
    """What takes bytes, such as ``hashlib.sha256()``."""

    def update(self, data: bytes, /) -> None:
        """Take more bytes."""


def name_of(file: str) -> str:
    """The name of a file in messages."""
    return "standard input" if file == "-" else file


def contents(file: str) -> Iterator[bytes]:
    """The bytes of a file, in pieces, unpacked if they are gzip's, whatever the file is called.

    Args:
        file: its path; ``-`` for standard input.

    Raises:
        UserError: it cannot be read, is a folder or a device, or is a damaged gzip file.
    """
    if file == "-":
        pieces = standard_input()
    else:
        _check(file)
        pieces = Part(repr(file), file).chunks()
    head = b""
    while len(head) < len(GZIP) and (piece := next(pieces, b"")):
        head += piece
    pieces = chain([head], pieces)
    if not head.startswith(GZIP):
        yield from filter(None, pieces)
        return
    try:
        with gzip.GzipFile(fileobj=io.BufferedReader(_Pieces(pieces), CHUNK)) as unpacked:
            while piece := unpacked.read1(CHUNK):
                yield piece
    except (gzip.BadGzipFile, EOFError, zlib.error):
        advice = "download it again, or unpack it and give its content"
        raise Unreadable(_label(file), "is not a complete gzip file", advice) from None


def lines(file: str, digest: Hash | None = None) -> Iterator[str]:
    """The lines of a file, without their ends.

    Args:
        file: its path; ``-`` for standard input.
        digest: takes the bytes of the file, unpacked.

    Raises:
        UserError: it cannot be read, is not text in UTF-8, or has a line of more than ``LONGEST`` characters.
    """
    unfinished: list[str] = []
    number, size = 1, 0
    for text in _texts(file, digest):
        first, *others = text.split("\n")
        unfinished.append(first)
        size += len(first)
        if others:
            yield "".join(unfinished)
            yield from others[:-1]
            unfinished, size, number = others[-1:], len(others[-1]), number + len(others)
        if size > LONGEST:
            raise UserError(
                f"{name_of(file)}, line {number}: it has more than {LONGEST:,} characters; expected a text with lines"
            )
    if size:
        yield "".join(unfinished)


def _texts(file: str, digest: Hash | None) -> Iterator[str]:
    def observed() -> Iterator[bytes]:
        for piece in contents(file):
            if digest is not None:
                digest.update(piece)
            yield piece

    try:
        yield from cleaned(decoded(observed()), Changes())
    except NoText as error:
        path = None if is_pipe(file) else file
        raise Unreadable(_label(file), error.flaw, error.advice(path, file.lower().endswith(".gz"))) from None


def _check(file: str) -> None:
    """Check that a path is a file or a pipe."""
    if not file:
        raise UserError("a file with an empty name was given; give its path")
    refuse_devices(repr(file), file)
    try:
        mode = os.stat(file).st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a NUL character in the name
        raise UserError(f"there is no file {file!r}; check the path") from None
    except OSError:
        return  # whoever opens it says why
    if stat.S_ISDIR(mode):
        raise UserError(f"{file!r} is a folder; give a file in it")
    if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode)):
        raise UserError(f"{file!r} is neither a file nor a pipe; give a file")


def _label(file: str) -> str:
    return "standard input" if file == "-" else repr(file)


class _Pieces(io.RawIOBase):
    """Pieces of bytes as a file that is read once."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = memoryview(piece)
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size
