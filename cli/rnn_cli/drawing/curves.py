"""Curves in the cells of a terminal: a character of its own for each, or dots of braille in its colour."""

from __future__ import annotations

import itertools
import string
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from rnn_lab.drawing.scales import FAINT, Axis
from rnn_plugins.reports.report import Curve

Cell: TypeAlias = tuple[int, int]
"""Column and row, from the lower left."""

MARKERS, BOUNDS, REFERENCES, THIN, MARKS = "ox+*#@%&", "-=~^", ".:',", "`.,;", "X@%&"
"""The characters of curves: one per curve, so that curves differ without colour."""

MORE_MARKERS = string.ascii_uppercase + string.digits + string.ascii_lowercase
"""The characters of reference curves."""

BRAILLE, MARK = 0x2800, "●"
"""The blank of braille, from which its dots are counted in bits, and what stands out among them."""

BITS = ((0x40, 0x80), (0x04, 0x20), (0x02, 0x10), (0x01, 0x08))
"""The bits of a cell's dots, from the lowest row up."""

DASHES = {"bound": (3, 3), "reference": (1, 3)}
"""Dots that are drawn of a curve, and dots that are left out after them, by its role."""

MEASURED = ((1, 0), (4, 2), (2, 2), (1, 1))
"""The same of measured curves that share a colour, one after the other."""

COLOURS = ("#2a8fd6", "#d65f1e", "#0fa37a", "#c9629f", "#a58612", "#888888")
"""Of medium lightness, legible on black and on white."""

SAMPLE = 4
"""Cells of a curve in the legend."""


class Drawn(NamedTuple):
    """Curves in cells.

    Attributes:
        cells: the character of each cell and the curve whose colour it has.
        samples: of each curve, for the legend.
        dotted: whether they are dots, which only a colour tells from others.
        behind: curves of which nothing is to be seen, because others cover them.
    """

    cells: Mapping[Cell, tuple[str, int]]
    samples: Sequence[str]
    dotted: bool
    behind: Collection[int]


def letters(curves: Sequence[Curve], x_axis: Axis, y_axis: Axis, columns: int, rows: int) -> Drawn:
    """A character for each curve.

    Args:
        curves: from ``drawable``.
        x_axis: of the chart.
        y_axis: likewise.
        columns: of cells.
        rows: of cells.
    """
    samples = _markers(curves)
    owner, behind = _owners(curves, [_path(curve, x_axis, y_axis, columns, rows) for curve in curves])
    return Drawn({cell: (samples[index], index) for cell, index in owner.items()}, samples, False, behind)


def dots(curves: Sequence[Curve], x_axis: Axis, y_axis: Axis, columns: int, rows: int) -> Drawn:
    """As ``letters``, with dots of braille, two columns and four rows of them per cell; a cell has one colour."""
    masks: Counter[Cell] = Counter()
    whose: list[list[Cell]] = []
    marked: set[Cell] = set()
    samples = []
    for curve, (drawn, left_out) in zip(curves, _dashes(curves), strict=True):
        path = _path(curve, x_axis, y_axis, columns, rows, 2, 4)
        some = [dot for place, dot in enumerate(path) if place % (drawn + left_out) < drawn]
        cells = [(column // 2, row // 4) for column, row in some]
        for cell, (column, row) in zip(cells, some, strict=True):
            masks[cell] |= BITS[row % 4][column % 2]
        stands_out = curve.role == "mark" or 0 < len(path) < 3
        if stands_out:
            marked |= set(cells)
        whose.append(cells)
        line = [BITS[1][place % 2] if place % (drawn + left_out) < drawn else 0 for place in range(2 * SAMPLE)]
        sample = "".join(chr(BRAILLE + sum(line[start : start + 2])) for start in range(0, len(line), 2))
        samples.append(MARK if stands_out else sample)
    owner, behind = _owners(curves, whose)
    cells_drawn = {
        cell: (MARK if cell in marked else chr(BRAILLE + masks[cell]), index) for cell, index in owner.items()
    }
    return Drawn(cells_drawn, samples, True, behind)


def _owners(curves: Sequence[Curve], cells: Sequence[Collection[Cell]]) -> tuple[dict[Cell, int], set[int]]:
    """The curve that each cell shows, and the curves that no cell shows although they pass through some."""
    through: dict[Cell, list[int]] = {}
    for index, some in enumerate(cells):
        for cell in dict.fromkeys(some):
            through.setdefault(cell, []).append(index)
    owner: dict[Cell, int] = {}
    for (column, row), indices in through.items():
        standing_out = [index for index in indices if curves[index].role == "mark"]
        prominent = standing_out or [index for index in indices if curves[index].role not in FAINT] or indices
        owner[column, row] = prominent[column % len(prominent)]  # where curves overlap, they alternate
    return owner, {index for indices in through.values() for index in indices} - set(owner.values())


def _markers(curves: Sequence[Curve]) -> list[str]:
    """A character for each curve, unique as long as there are enough."""
    kinds = {"bound": BOUNDS, "reference": REFERENCES, "thin": THIN, "mark": MARKS}
    chosen: list[str] = []
    for curve in curves:
        kind = kinds.get(curve.role, MARKERS)
        chosen.append(next((marker for marker in kind + MORE_MARKERS if marker not in chosen), kind[0]))
    return chosen


def _dashes(curves: Sequence[Curve]) -> list[tuple[int, int]]:
    """How each curve is dashed: measured ones that share a colour differ."""
    turns: Counter[int] = Counter()
    found = []
    for index, curve in enumerate(curves):
        if curve.role != "measured":
            found.append(DASHES.get(curve.role, MEASURED[0]))
            continue
        number = colour(curve, index)
        found.append(MEASURED[turns[number] % len(MEASURED)])
        turns[number] += 1
    return found


def colour(curve: Curve, index: int) -> int:
    """The number of a curve's colour, by its place in the chart if it has no style."""
    return (index if curve.style is None else curve.style) % len(COLOURS)


def _path(
    curve: Curve, x_axis: Axis, y_axis: Axis, columns: int, rows: int, across: int = 1, up: int = 1
) -> list[Cell]:
    """The places that a curve passes through, in order and each once, ``across`` x ``up`` of them per cell.

    The middle of a cell is where letters and the ticks of the axes are, so the outermost cells are not filled by dots.
    """
    x, y = curve.x, curve.y
    if curve.role == "steps":
        x, y = np.repeat(x, 2)[1:], np.repeat(y, 2)[:-1]
    right = across * x_axis.position(x) * (columns - 1) + (across - 1) / 2
    above = up * y_axis.position(y) * (rows - 1) + (up - 1) / 2
    points = np.stack([right, above], 1)
    places = list(points[:1])
    for start, end in itertools.pairwise(points):
        if curve.role not in ("points", "mark") and np.isfinite(start).all() and np.isfinite(end).all():
            between = int(np.abs(np.clip(end, -1e4, 1e4) - np.clip(start, -1e4, 1e4)).max())
            places.extend(np.linspace(start, end, between + 2)[1:-1])
        places.append(end)
    places = [place for place in places if np.isfinite(place).all()]
    rounded = dict.fromkeys((round(float(column)), round(float(row))) for column, row in places)
    return [(column, row) for column, row in rounded if 0 <= row < rows * up and 0 <= column < columns * across]
