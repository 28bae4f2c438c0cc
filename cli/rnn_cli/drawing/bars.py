"""Shares as horizontal bars."""

from __future__ import annotations

FULL, HALF, PLAIN = "█", "▌", "#"


def bar(share: float, width: int, encoding: str) -> str:
    """A bar of at most ``width`` columns for a share between 0 and 1, to half a column; of ``#`` without Unicode."""
    if not encoding.lower().startswith("utf"):
        return PLAIN * round(share * width)
    halves = round(2 * share * width)
    return FULL * (halves // 2) + HALF * (halves % 2)
