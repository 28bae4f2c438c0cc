"""Charts, images and coloured texts in terminal characters.

We do not use plotext (6.1): it keeps one figure per process, draws its legend over the curves, puts ticks at uneven
numbers, needs box-drawing characters, and ships machine code for one architecture.
"""

from __future__ import annotations

import itertools
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from rich.cells import cell_len, set_cell_size
from rich.style import Style
from rich.text import Text

from rnn_cli import console
from rnn_cli.drawing.curves import COLOURS, Drawn, colour, dots, letters
from rnn_lab.drawing.scales import FAINT, Axis, axes, coloured_values, drawable, image_axis, minor_ticks, ticks
from rnn_lab.drawing.words import number
from rnn_lab.printable import visible
from rnn_plugins.reports.report import Array, Chart, Colouring, Curve, Image

CHART_ROWS, IMAGE_ROWS = 14, 24

DOWNWARDS = 16
"""The longest word that is written downwards below a column."""

SHADES = ".:-=+*#%@"
"""From the lowest value to the highest; a blank is a missing value."""

VIRIDIS = ("#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725")
"""The same as colours, in equal steps of lightness."""

SIGNED = ("#2166ac", "#4393c3", "#92c5de", "#d1e5f0", "#f7f7f7", "#fddbc7", "#f4a582", "#d6604d", "#b2182b")
"""Those of signed values, from blue through white at 0 to red (Brewer's RdBu)."""

PLAINER = str.maketrans(console.PLAINER | {"–": "-", "—": "-", "’": "'", "×": "x", "…": "..."})
"""The nearest ASCII characters."""


@dataclass(frozen=True)
class Screen:
    """The output's width in columns, its encoding, whether it has colours, and if so only few, such as 16."""

    width: int = 80
    encoding: str = "utf-8"
    coloured: bool = False
    few: bool = False

    def text(self, words: str) -> str:
        """A line of text with a question mark for each character that the terminal lacks."""
        plain = visible(words) if self.encoding.startswith("utf") else visible(words).translate(PLAINER)
        return plain.encode(self.encoding, "replace").decode(self.encoding)

    @property
    def shaded(self) -> bool:
        """Whether it has enough colours to show numbers as shades."""
        return self.coloured and not self.few

    def styled(self, words: str, style: str | Style) -> Text:
        """The same in a style, if the terminal has styles."""
        return Text(self.text(words), style if self.coloured else "")

    def axis(self) -> tuple[str, str, str, str, str]:
        """The characters of a y tick, the y axis, the corner, the x axis and a tick of a logarithmic x axis."""
        return ("┤", "│", "└", "─", "┬") if self.encoding.startswith("utf") else ("+", "|", "+", "-", "+")


def chart(figure: Chart, screen: Screen) -> list[Text]:
    """A chart's lines: axes, curves and legend."""
    curves = drawable(figure)
    x_axis, y_axis = axes(figure, curves, bands=False)
    heights = {_cell(position, CHART_ROWS): _tick(value, y_axis) for value, position in _ticks(y_axis, 6)}
    margin = max(map(len, heights.values()), default=0)
    columns = screen.width - margin - 3
    dotted = screen.shaded and screen.encoding.startswith("utf") and all(c.role != "points" for c in curves)
    drawn = (dots if dotted else letters)(curves, x_axis, y_axis, columns, CHART_ROWS)
    tick, side, corner, foot, minor = screen.axis()
    lines = _caption(figure.y_label, screen)
    for row in reversed(range(CHART_ROWS)):
        line = Text(f"{heights.get(row, ''):>{margin}} {tick if row in heights else side}")
        for column in range(columns):
            character, index = drawn.cells.get((column, row), (" ", None))
            line.append(character if index is None else _marked(character, curves, index, drawn.dotted, screen))
        lines.append(line)
    below = {_cell(position, columns) for position in x_axis.position(np.array(minor_ticks(x_axis))).tolist()}
    lines.append(Text(" " * (margin + 1) + corner + "".join(minor if c in below else foot for c in range(columns))))
    marks = [(_cell(position, columns), _tick(value, x_axis)) for value, position in _ticks(x_axis, 8 if below else 6)]
    lines.append(Text(_ruler(marks, columns + 1, margin + 2)))
    for label in _caption(figure.x_label, screen):
        lines.append(Text(" " * (screen.width - 1 - label.cell_len)) + label)
    if any(curve.label for curve in curves):
        lines += _legend(curves, drawn, screen, margin + 2)
    return lines


def _marked(character: str, curves: Sequence[Curve], index: int, dotted: bool, screen: Screen) -> Text:
    style = COLOURS[colour(curves[index], index)]
    return screen.styled(character, f"dim {style}" if dotted and curves[index].role in FAINT else style)


def _ticks(axis: Axis, most: int) -> list[tuple[float, float]]:
    values = ticks(axis, most)
    return list(zip(values, axis.position(np.array(values)).tolist(), strict=True))


def _tick(value: float, axis: Axis) -> str:
    if axis.log and not 1e-3 <= value < 1e5:
        mantissa, exponent = f"{value:.0e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    return f"{value:.6g}"


def _cell(position: float, cells: int) -> int:
    return round(position * (cells - 1))


def _ruler(marks: Sequence[tuple[int, str]], width: int, indent: int) -> str:
    """Words below their columns, as many as fit."""
    line = ""
    for column, word in marks:
        start = max(min(indent + column - len(word) // 2, indent + width - len(word) - 1), 0)
        if not line or start > len(line):
            line = line.ljust(start) + word
    return line


def _legend(curves: Sequence[Curve], drawn: Drawn, screen: Screen, indent: int) -> list[Text]:
    """Samples and labels, as many per line as fit."""
    lines = [Text(" " * indent)]
    for index, curve in enumerate(curves):
        words = screen.text(curve.label)
        if not np.isfinite(curve.y).any():
            words += " (nothing to draw)"
        elif index in drawn.behind:
            words += " (behind others)"
        sample = drawn.samples[index]
        room = screen.width - indent - len(sample) - 1
        if cell_len(words) > room:
            words = set_cell_size(words, room - 4).rstrip() + " ..."
        entry = Text.assemble(_marked(sample, curves, index, drawn.dotted, screen), " ", words, "   ")
        if lines[-1].cell_len > indent and lines[-1].cell_len + entry.cell_len - 3 > screen.width:
            lines.append(Text(" " * indent))
        lines[-1].append(entry)
    for line in lines:
        line.rstrip()
    return lines


def _caption(words: str, screen: Screen, indent: int = 0) -> list[Text]:
    """A caption, wrapped."""
    lines = filled(screen.text(words), screen.width - indent) or [""]
    return [screen.styled(" " * indent + line, "dim") for line in lines]


def image(figure: Image, screen: Screen) -> list[Text]:
    """A matrix as coloured blocks, or as characters of different density, with the scale below."""
    values = np.asarray(figure.values, np.float64)
    if not values.size:
        return [screen.styled("(nothing to draw)", "")]
    names = [screen.text(word) for word in figure.y_ticks] or [str(row) for row in range(len(values))]
    margin = min(max(map(cell_len, names)), 16)
    room = screen.width - margin - 3
    # With a floor, infinite values have a colour, so they count in the mean.
    blocks = _means(coloured_values(figure, values) if figure.floor else values, IMAGE_ROWS, room)
    wide = _width(figure, values.shape[1], blocks.shape[1], room, screen)
    # Means of signed values are nearer to 0 than the largest of these, in whose scale they would all look alike.
    axis = image_axis(replace(figure, values=blocks) if figure.signed and figure.limits is None else figure)
    levels = _levels(axis.position(coloured_values(figure, blocks)), len(SHADES))
    _, side, corner, foot, _ = screen.axis()
    lines = _caption(figure.y_label, screen)
    for row, line_levels in enumerate(levels):
        name = names[row * len(names) // len(levels)]
        every = -(-len(names) // IMAGE_ROWS) if figure.y_ticks else max(len(levels) // 5, 1)
        line = Text(_fitted(name if figure.y_ticks or row % every == 0 else "", margin) + " " + side)
        for level in line_levels:
            line.append(_shade(level, wide, screen, figure.signed))
        lines.append(line)
    lines.append(Text(" " * (margin + 1) + corner + foot * (blocks.shape[1] * wide)))
    lines += _columns(figure, values.shape[1], blocks.shape[1], wide, margin + 2, screen)
    lines += _caption(figure.x_label, screen, margin + 2)
    scale = Text.assemble(" " * (margin + 2), number(axis.low), " ")
    for level in range(len(SHADES)):
        scale.append(_shade(level, 2, screen, figure.signed))
    scale.append(f" {number(axis.high)}")
    label = screen.text(figure.value_label) + (" (log scale)" if axis.log else "")
    beside = scale.cell_len + 2 + cell_len(label) < screen.width
    lines.append(scale.append(f"  {label}") if beside else scale)
    if not beside:
        lines += _caption(label, screen, margin + 2)
    if blocks.shape != values.shape:
        height, width = (f"{whole / part:.3g}" for whole, part in zip(values.shape, blocks.shape, strict=True))
        lines += _caption(f"each square is the mean of {height} x {width} values (rows x columns)", screen, margin + 2)
    return lines


def _means(values: Array, rows: int, columns: int) -> Array:
    """A matrix reduced to at most ``rows`` x ``columns`` block means; NaN for an empty block."""
    for axis, most in ((0, rows), (1, columns)):
        edges = np.linspace(0, values.shape[axis], min(most, values.shape[axis]) + 1).round().astype(int)[:-1]
        known = np.isfinite(values)
        counts = np.add.reduceat(known, edges, axis=axis, dtype=np.float64)
        sums = np.add.reduceat(np.where(known, values, 0.0), edges, axis=axis)
        values = np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)
    return values


def _levels(positions: Array, count: int) -> list[list[int | None]]:
    """Numbers in [0, 1] as levels 0 to ``count`` - 1; None for a missing value."""
    steps = np.clip(np.nan_to_num(positions) * count, 0, count - 1).astype(int)
    return [
        [int(step) if known else None for step, known in zip(*row, strict=True)]
        for row in zip(steps, np.isfinite(positions), strict=True)
    ]


def _shade(level: int | None, wide: int, screen: Screen, signed: bool) -> Text:
    if level is None:
        return Text(" " * wide)
    if screen.shaded:
        return Text(" " * wide, Style(bgcolor=(SIGNED if signed else VIRIDIS)[level]))
    return Text(SHADES[level] * wide)


def _width(figure: Image, all_columns: int, blocks: int, room: int, screen: Screen) -> int:
    """The width of a block: at most 3, unless the words below the columns fit with a wider one."""
    if figure.x_ticks and blocks == all_columns:
        longest = max(cell_len(screen.text(word)) for word in figure.x_ticks)
        if longest >= 3 and longest < room // blocks:
            return longest + 1
    return max(min(3, room // blocks), 1)


def _columns(figure: Image, all_columns: int, blocks: int, wide: int, indent: int, screen: Screen) -> list[Text]:
    """The labels below the columns: their words, downwards where they are wider than a block, or some numbers."""
    words = [screen.text(word) for word in figure.x_ticks]
    if words and blocks == all_columns:
        longest = max(map(cell_len, words))
        if longest <= wide:
            return [Text(" " * indent + "".join(_fitted(word, wide) for word in words))]
        if longest <= DOWNWARDS and all(cell_len(letter) <= wide for word in words for letter in word):
            rows = itertools.zip_longest(*words, fillvalue=" ")
            lines = [Text(" " * indent + "".join(_fitted(letter, wide) for letter in row)) for row in rows]
            for line in lines:
                line.rstrip()
            return lines
    shown = range(0, blocks, max(-(-blocks * wide // 6) // wide, 1))
    marks = [(block * wide, str(block * all_columns // blocks)) for block in shown]
    return [Text(_ruler(marks, blocks * wide + 1, indent))]


def _fitted(word: str, width: int) -> str:
    """A word cut or padded to ``width`` columns."""
    return set_cell_size(word, width)


def colouring(figure: Colouring, screen: Screen) -> list[Text]:
    """A text with values as colours, or as a digit below each symbol; the scale is above it."""
    words = screen.text(figure.value_label)
    low, high = number(figure.low), number(figure.high)
    middle = "" if figure.low == 0 else f" ... {number((figure.low + figure.high) / 2)} white"
    first = "white" if figure.low == 0 else "blue"
    scale = f"{words}: {low} {first}{middle} ... {high} red" if screen.shaded else f"{words}: 0 is {low}, 9 is {high}"
    lines = _caption(scale, screen)
    positions = (np.asarray(figure.values, np.float64) - figure.low) / ((figure.high - figure.low) or 1.0)
    (levels,) = _levels(positions[None], 10)
    text, digits = Text(), ""
    for symbol, position, level in zip(figure.symbols, positions.tolist(), levels, strict=True):
        word = screen.text(symbol) or " "
        if not cell_len(word):
            word = " " + word  # a combining mark would attach to the previous symbol
        if text.cell_len + cell_len(word) > screen.width:
            lines += _pair(text, digits, figure.low == 0, screen)
            text, digits = Text(), ""
        text.append(word, _background(position, figure.low == 0) if screen.shaded and level is not None else "")
        digits += ("" if level is None else str(level)).ljust(cell_len(word))
        if symbol.endswith("\n"):
            lines += _pair(text, digits, figure.low == 0, screen)
            text, digits = Text(), ""
    return lines + (_pair(text, digits, figure.low == 0, screen) if text else [])


def _pair(text: Text, digits: str, one_sided: bool, screen: Screen) -> list[Text]:
    """A line of text, and without shades a line of digits below it, in which the outer ones stand out."""
    if screen.shaded:
        return [text]
    below = Text(digits.rstrip())
    if screen.coloured:
        below.highlight_regex("[7-9]+", "bold red")
        if not one_sided:
            below.highlight_regex("[0-2]+", "bold blue")
    return [text, below]


def _background(position: float, one_sided: bool) -> Style:
    """Black on blue, white or red; the further from the middle, the deeper."""
    position = min(max(position, 0.0), 1.0)
    amount = position if one_sided else 2 * position - 1
    full = (240, 90, 70) if amount > 0 else (80, 150, 240)
    mixed = (round(255 + (part - 255) * abs(amount)) for part in full)
    return Style(color="#000000", bgcolor="#" + "".join(f"{part:02x}" for part in mixed))


def filled(words: str, width: int, indent: str = "") -> list[str]:
    """Words wrapped to ``width`` columns, lines after the first indented; symbols may be two columns wide."""
    counted = re.sub(r"[^\x00-\u10ff]", lambda found: found[0] + "\0" * (cell_len(found[0]) - 1), words)
    lines = textwrap.wrap(counted, width - 1, subsequent_indent=indent, break_on_hyphens=False)
    return [line.replace("\0", "") for line in lines]
