"""Format numbers for all drawings: short, and free of control characters."""

from __future__ import annotations

import math

from rnn_lab.printable import visible
from rnn_plugins.reports.report import Quantity, Table

SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(value: float | int | str | None, missing: str = "-", digits: int | None = None) -> str:
    """A number to 3 significant digits, between 1 and 10 to 4, as for losses; integers in full; words unchanged.

    Args:
        value: the number or the words.
        missing: for None and NaN.
        digits: decimals of a number below a million, instead of significant digits.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return missing
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, int) or not math.isfinite(value):
        return f"{value:,}"
    size = abs(value)
    if digits is not None and size < 1e6:
        return f"{value:,.{digits}f}"
    if size >= 1e6 or 0 < size < 1e-3:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:,.0f}" if size >= 999.5 else f"{value:.{4 if 1 <= size < 10 else 3}g}"


def logarithmic(value: float) -> str:
    """A tick of a logarithmic axis, such as 0.02, 500, 10⁻⁵ and 2×10⁶."""
    mantissa, exponent = (float(part) for part in f"{value:.5e}".split("e"))
    if -4 < exponent < 4:
        return f"{value:g}"
    power = "10" + str(int(exponent)).translate(SUPERSCRIPTS)
    return power if mantissa == 1 else f"{mantissa:g}×{power}"


def shown(quantity: Quantity) -> str:
    """A quantity's value with its unit, or the text for a missing value."""
    value, unit = quantity.value, quantity.unit
    if unit.startswith("share ") and isinstance(value, float):
        value, unit = 100 * value, unit.replace("share", "%", 1)
    text = number(value, quantity.missing, quantity.digits)
    has_unit = unit and text != quantity.missing and not isinstance(value, str)
    return f"{text} {unit}" if has_unit else text


def rows_of(table: Table) -> list[list[str]]:
    """The rows of a table as they are written."""
    return [
        [
            str(value)
            if column in table.names and isinstance(value, int)
            else number(value, digits=table.digits_of(column))
            for column, value in enumerate(row)
        ]
        for row in table.rows
    ]


def bars_of(table: Table) -> list[float]:
    """The lengths of the bars of a table, from 0 to 1, and 0 for what is no number; none if it has no bars."""
    if table.bars is None:
        return []
    lengths = [float(row[table.bars] or 0) for row in table.rows]
    return [0.0 if math.isnan(length) else min(max(length, 0.0), 1.0) for length in lengths]
