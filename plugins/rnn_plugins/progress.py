"""What a long computation is at: it tells whoever follows it, and nobody where nobody does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Told = Callable[[str | None, float | None], None]
"""Takes the name of a part that begins, or None, and the finished share of the current part, None if unknown."""

_TOLD: ContextVar[Told | None] = ContextVar("told", default=None)


@contextmanager
def following(told: Told) -> Iterator[None]:
    """Within this block ``told`` is called by ``begin`` and ``advance``."""
    before = _TOLD.set(told)
    try:
        yield
    finally:
        _TOLD.reset(before)


def begin(what: str) -> None:
    """A part of the work begins, such as "counting n-grams"."""
    if told := _TOLD.get():
        told(what, None)


def advance(share: float) -> None:
    """A share of the current part is finished, from 0 to 1."""
    if told := _TOLD.get():
        told(None, share)
