"""What the engine warns of, as remarks on the terminal; it has no words of its own.

It stands apart from ``console`` because ``logging`` takes time to import, which ``rnn --help`` and completion spare.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from rnn_cli.console import remark


@contextmanager
def warnings_as_remarks() -> Iterator[None]:
    """Within this block what the engine warns of is told in a line each, as everything else is."""
    engine, handler = logging.getLogger("minigrad"), _Remarks(logging.WARNING)
    engine.addHandler(handler)
    try:
        yield
    finally:
        engine.removeHandler(handler)


@contextmanager
def no_warnings() -> Iterator[None]:
    """Within this block the engine warns of nothing."""
    engine = logging.getLogger("minigrad")
    before = engine.level
    engine.setLevel(logging.ERROR)
    try:
        yield
    finally:
        engine.setLevel(before)


class _Remarks(logging.Handler):
    """Makes a remark of every record."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.reasons: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Say it, unless the same reason was given before: of a cell, and then of what the cell is a part of."""
        said = record.getMessage().rstrip(".")
        reason = said.partition(": ")[2] or said
        if reason not in self.reasons:
            self.reasons.add(reason)
            remark(f"Note: {said}.")
