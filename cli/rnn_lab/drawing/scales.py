"""The scales of a figure: which values can be drawn, the limits of axes and colours, and the ticks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rnn_plugins.reports.report import Array, Chart, Curve, Image, colour_limits

FAINT = ("thin", "bound", "reference")
"""Roles of curves that are drawn for comparison."""

LEAST = 1e-12
"""Lower limit of a logarithmic axis relative to the largest value, if one curve would compress the others."""

MINOR_DECADES = 7
"""The largest number of decades of an axis that has ticks between its powers of ten."""


@dataclass(frozen=True)
class Axis:
    """The range of an axis.

    Attributes:
        low: the lower limit; above 0 if the axis is logarithmic.
        high: the upper limit, above ``low``.
        log: whether the axis is logarithmic.
    """

    low: float
    high: float
    log: bool = False

    def position(self, values: Array) -> Array:
        """The positions of values on the axis, 0 at ``low`` and 1 at ``high``; NaN stays NaN."""
        low, high = self.low, self.high
        if self.log:
            low, high, values = np.log10(low), np.log10(high), np.log10(values)
        return (values - low) / (high - low)


def drawable(chart: Chart) -> tuple[Curve, ...]:
    """The chart's curves in float64, with NaN in both coordinates of points that its axes cannot show."""
    return tuple(_drawable(curve, chart) for curve in chart.curves)


def _drawable(curve: Curve, chart: Chart) -> Curve:
    x, y = (np.asarray(values, np.float64) for values in (curve.x, curve.y))
    possible = np.isfinite(x) & np.isfinite(y)
    if chart.log_x:
        possible &= x > 0
    if chart.log_y:
        possible &= y > 0
    x, y = (np.where(possible, values, np.nan) for values in (x, y))
    if curve.low is None or curve.high is None:
        return replace(curve, x=x, y=y, low=None, high=None)
    return replace(curve, x=x, y=y, low=np.asarray(curve.low, np.float64), high=np.asarray(curve.high, np.float64))


def axes(chart: Chart, curves: Sequence[Curve], bands: bool = True) -> tuple[Axis, Axis]:
    """The ranges of both axes: x without a margin, y with a small one.

    Args:
        chart: the chart.
        curves: its curves from :func:`drawable`.
        bands: whether bands are drawn too.
    """
    x_axis = _around([curve.x for curve in curves], chart.log_x, room=0.0)
    if chart.y_limits is not None and (chart.y_limits[0] > 0 or not chart.log_y):
        return x_axis, Axis(*chart.y_limits, log=chart.log_y)
    edges = [edge for curve in curves for edge in (curve.low, curve.high) if bands and edge is not None]
    y_axis = _around([curve.y for curve in curves] + edges, chart.log_y, room=0.04)
    if chart.log_y:
        known = [curve.y[np.isfinite(curve.y)] for curve in curves if curve.role != "reference"]
        lowest = [float(values.min()) for values in known if values.size]
        floor = LEAST * max((float(values.max()) for values in known if values.size), default=0.0)
        if lowest and min(lowest) < floor <= max(lowest):
            y_axis = replace(y_axis, low=floor)
    return x_axis, y_axis


def image_axis(image: Image) -> Axis:
    """The range of an image's colours."""
    limits = image.limits or colour_limits([image])
    return _around([np.array(limits)] if limits else [], image.log, room=0.0)


def coloured_values(image: Image, values: Array) -> Array:
    """An image's values, or block means, to be coloured; NaN for blanks."""
    values = np.asarray(values, np.float64)
    if image.log and image.floor:
        axis = image_axis(image)
        values = np.where(values >= 0, np.clip(values, axis.low, axis.high), np.nan)
    return np.where(np.isfinite(values) & (values > 0 if image.log else True), values, np.nan)


def _around(arrays: Sequence[Array], log: bool, room: float) -> Axis:
    values = np.concatenate([np.ravel(array) for array in arrays] or [np.empty(0)]).astype(np.float64)
    values = values[np.isfinite(values) & (values > 0 if log else True)]
    if not values.size:
        return Axis(0.1, 1.0, log) if log else Axis(0.0, 1.0)
    low, high = float(values.min()), float(values.max())
    if log:
        room = max((high / low) ** room, 1.0 if high > low else 3.0)
        return Axis(max(low / room, 5e-324), min(high * room, 1.7e308), log)
    room *= high - low
    if not high > low:
        room = abs(high) / 2 or 0.5
    return Axis(low - room, high + room)


def ticks(axis: Axis, most: int) -> list[float]:
    """At most ``most`` round numbers on an axis, and at least one if there is one.

    On a logarithmic axis they are 1, 2 and 5 times powers of ten if there is room for them, otherwise powers of ten.
    """
    if axis.log:
        first, last = int(np.ceil(np.log10(axis.low) - 1e-9)), int(np.floor(np.log10(axis.high) + 1e-9))
        found = _multiples(axis, (1, 2, 5)) if last - first <= most else []
        if len(found) > most or last - first > most:
            stride = -(-(last - first + 1) // most)
            return [10.0**exponent for exponent in range(first + -first % stride, last + 1, stride)]
        return found or [axis.low]
    rough = (axis.high - axis.low) / most
    magnitude = 10.0 ** np.floor(np.log10(rough))
    for step in (float(m * magnitude) for m in (1, 2, 5, 10, 20)):
        first, last = int(np.ceil(axis.low / step - 1e-9)), int(np.floor(axis.high / step + 1e-9))
        if last - first < most:
            break
    return [count * step for count in range(first, last + 1)]


def minor_ticks(axis: Axis) -> list[float]:
    """1 to 9 times each power of ten on a logarithmic axis; none on others, and on those of many decades."""
    return _multiples(axis, range(1, 10)) if axis.log and axis.high / axis.low <= 10.0**MINOR_DECADES else []


def _multiples(axis: Axis, factors: Iterable[int]) -> list[float]:
    """Some multiples of all powers of ten that lie on an axis."""
    exponents = range(int(np.floor(np.log10(axis.low))), int(np.ceil(np.log10(axis.high))) + 1)
    found = [factor * 10.0**exponent for exponent in exponents for factor in factors]
    return [value for value in found if axis.low * (1 - 1e-9) <= value <= axis.high * (1 + 1e-9)]
