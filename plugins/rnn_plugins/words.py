"""Counts, shares, times and lists of names in messages, and whole numbers in names."""

import unicodedata
from collections.abc import Iterable, Sequence

FEW = 3
"""The number of names in a phrase that names some."""

NAMED = 8
"""The number of names in a message before "and n more"."""

LONGEST = 200
"""The number of characters of a name in a message before "..."."""


def listing(names: Iterable[str], total: int | None = None) -> str:
    """``a, b and c``: the first eight names, and the number of the rest of ``total`` (by default, of those given)."""
    names = list(names)
    named = [name if len(name) <= LONGEST else f"{name[:LONGEST]}..." for name in names[:NAMED]]
    more = (total or len(names)) - len(named)
    if more:
        return f"{', '.join(named)} and {more:,} more"
    return " and ".join(filter(None, [", ".join(named[:-1]), named[-1]]))


def brief(names: Sequence[str]) -> str:
    """``a, b, c, 15 more``: the first three names, and the number of the rest."""
    return ", ".join([*names[:FEW], *([f"{len(names) - FEW:,} more"] if len(names) > FEW else [])])


def amount(count: int, noun: str) -> str:
    """``1 word``, ``2,000 words``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def percent(share: float, decimals: int = 1) -> str:
    """``12.3 %``; ``under 0.1 %`` and ``over 99.9 %`` for shares that are not 0 or 1 and would be rounded to them."""
    least = 10.0**-decimals
    shown = round(100 * float(share), decimals)
    if share > 0 and shown == 0:
        return f"under {least:.{decimals}f} %"
    if share < 1 and shown == 100:
        return f"over {100 - least:.{decimals}f} %"
    return f"{shown:.{decimals}f} %"


def duration(seconds: float) -> str:
    """Seconds in the two largest units."""
    if seconds < 9.5:
        return f"{seconds:.2g} s"
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    if days:
        return f"{days} d {h} h"
    if hours:
        return f"{h} h {m:02d} min"
    return f"{m} min {s:02d} s" if minutes else f"{s} s"


def legible(text: str) -> str:
    """A text as it is; in quotes if it is empty, has a blank at an end, or characters that are not printed.

    An accent without its letter is its code point.
    """
    if len(text) == 1 and unicodedata.combining(text):
        return f"U+{ord(text):04X}"
    return text if text and text.isprintable() and text == text.strip() else repr(text)


def beside_truth(written: str, reference: str) -> str:
    """A text with whether it is right, or else with the reference."""
    return f"{written} ({'right' if written == reference else f'true: {reference}'})"


def is_whole(text: str) -> bool:
    """Whether a text is a whole number of at most seven digits, as in the names of generated data."""
    return text.isascii() and text.isdigit() and len(text) < 8


def is_number(text: str) -> bool:
    """Whether a text is a number as ``float`` reads it."""
    try:
        float(text)
    except ValueError:
        return False
    return True
