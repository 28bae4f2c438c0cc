"""Standard input for commands that answer at once: what has arrived is dealt with before a read that may wait."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

SIZE = 1 << 16
"""Bytes per read: as many as a pipe holds."""


class _Announced(io.RawIOBase):
    """A stream that calls a function before each read. What the function raises ends the stream, and is kept."""

    def __init__(self, source: Any, before: Callable[[], None]) -> None:
        self.source, self.before = source, before
        self.failure: BaseException | None = None

    def readable(self) -> bool:
        """It is only read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """What has arrived, at least one byte unless the stream has ended."""
        try:
            if self.failure is None:
                self.before()
        except BaseException as error:  # whoever reads would take it for an error of the stream
            self.failure = error
        if self.failure is not None:
            return 0
        data = self.source.read1(len(buffer))
        buffer[: len(data)] = data
        return len(data)


@contextmanager
def before_reading(before: Callable[[], None]) -> Iterator[None]:
    """Within this block ``before`` is called before each read from standard input.

    Raises:
        BaseException: what ``before`` raised, after the block, in place of what that led to.
    """
    own = sys.stdin
    if own is None:  # it is closed
        yield
        return
    raw = _Announced(own.buffer, before)
    sys.stdin = io.TextIOWrapper(io.BufferedReader(raw, SIZE), own.encoding, own.errors)
    try:
        yield
    except Exception:
        if raw.failure is None:
            raise
    finally:
        sys.stdin = own
    if raw.failure is not None:
        raise raw.failure
