"""Show the engine's warnings as notes.

A module of its own, because ``logging`` is slow to import and not needed for ``rnn --help`` and completion.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from rnn_cli.console import remark


@contextmanager
def warnings_as_notes() -> Iterator[None]:
    """Within this block each warning of the engine is printed as a note."""
    engine, handler = logging.getLogger("minigrad"), _Notes(logging.WARNING)
    engine.addHandler(handler)
    try:
        yield
    finally:
        engine.removeHandler(handler)


@contextmanager
def no_warnings() -> Iterator[None]:
    """Within this block warnings of the engine are not shown."""
    engine = logging.getLogger("minigrad")
    before = engine.level
    engine.setLevel(logging.ERROR)
    try:
        yield
    finally:
        engine.setLevel(before)


class _Notes(logging.Handler):
    """Prints every record as a note."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.reasons: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Print it, unless its reason was printed before: for a cell, and then for the stack that contains it."""
        said = record.getMessage().rstrip(".")
        reason = said.partition(": ")[2] or said
        if reason not in self.reasons:
            self.reasons.add(reason)
            remark(f"Note: {said}.")
