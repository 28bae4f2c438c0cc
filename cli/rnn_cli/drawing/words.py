"""Numbers and symbols as they are written in every drawing: short, and harmless. It knows no terminal and no page."""

from __future__ import annotations

import math

from rnn_plugins.reports.report import Quantity

NEWLINE, TAB, OTHER = "↵", "⇥", "·"
"""What stands for a symbol that would move the cursor, and is not printed as itself."""

SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(value: float | int | str | None, missing: str = "-") -> str:
    """A number to three figures, from 1 to 10 to four, as losses are read; integers to the last; words as they are."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return missing
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, int) or not math.isfinite(value):
        return f"{value:,}"
    size = abs(value)
    if size >= 1e6 or 0 < size < 1e-3:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:,.0f}" if size >= 999.5 else f"{value:.{4 if 1 <= size < 10 else 3}g}"


def power(exponent: int) -> str:
    """A power of ten beside an axis, such as 0.01 and 10⁻⁵."""
    return f"{10.0**exponent:g}" if -4 < exponent < 4 else "10" + str(exponent).translate(SUPERSCRIPTS)


def shown(quantity: Quantity) -> str:
    """A quantity's value with its unit, or what stands in its place."""
    text = number(quantity.value, quantity.missing)
    has_unit = quantity.unit and text != quantity.missing and not isinstance(quantity.value, str)
    return f"{text} {quantity.unit}" if has_unit else text


def visible(text: str) -> str:
    """Text in a line, in which nothing can move the cursor, turn the direction or break a document."""
    return "".join(c if c.isprintable() else {"\n": NEWLINE, "\t": TAB}.get(c, OTHER) for c in text)
