"""Pictures in a terminal: half blocks in colour, or characters for their brightness."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import groupby, zip_longest

import numpy as np
from rich.cells import cell_len, set_cell_size
from rich.style import Style
from rich.text import Text

from rnn_cli.drawing.characters import Screen
from rnn_lab.drawing import sheets
from rnn_plugins.data.pixels import LUMA
from rnn_plugins.reports.report import Array, Panel, Picture

ROWS, STEP_ROWS = 20, 8
"""Lines of a panel, and of a step: a panel, its title and the prompt fit into a terminal of 24 lines."""

STEPS, STEP_COLUMNS = 6, 14
"""The largest number of steps that are shown, and the least width of one."""

LEAST = 12
"""The least width of a panel in a row of several, unless it has fewer pixels."""

SMALL = 12
"""Pictures of at most this many pixels are drawn twice as large."""

LABEL = 12
"""The width to which a panel that is narrower is widened for its label."""

INK, FRAME = " .,:;*o#@", "+"
"""Characters from the darkest pixel to the brightest, and the one of frames."""

GAP = 2


def picture(figure: Picture, screen: Screen) -> list[Text]:
    """The panels of a picture in rows, and some of its steps in a row below them."""
    lines = _rows(figure.panels, figure.columns, ROWS, screen)
    if len(figure.steps) > 1:
        count = min(STEPS, len(figure.steps), (screen.width - 1 + GAP) // (STEP_COLUMNS + GAP))
        places = np.linspace(0, len(figure.steps) - 1, count).round().astype(int)
        lines += [Text(), *_rows([figure.steps[place] for place in places], count, STEP_ROWS, screen)]
    return lines


def _rows(panels: Sequence[Panel], columns: int, rows: int, screen: Screen) -> list[Text]:
    """Panels in rows of ``columns``, or of as many as fit; each at most ``rows`` lines high.

    A row whose panels would become too narrow continues on further lines.
    """
    room, beside = screen.width - 1, 0
    if columns:
        least = min(LEAST, max(panel.pixels.shape[1] for panel in panels))
        beside = -(-columns // -(-columns // max((room + GAP) // (least + GAP), 1)))
        room = max((room + GAP) // beside - GAP, 1)
    drawn = [_drawn(panel, rows, room, screen) for panel in panels]
    labels = [screen.text(panel.label) for panel in panels]
    widths = [
        max(lines[0].cell_len, min(cell_len(label), LABEL, room)) for lines, label in zip(drawn, labels, strict=True)
    ]
    lines: list[Text] = []
    for some in _lines(len(panels), columns, beside) if columns else _filled(widths, room):
        if lines:
            lines.append(Text())
        wide = [max(widths)] * len(some) if columns else widths[some.start : some.stop]
        lines += [_beside(row, wide) for row in zip_longest(*drawn[some.start : some.stop], fillvalue=Text())]
        words = labels[some.start : some.stop]
        if any(words):
            lines.append(_beside([Text(_label(word, width)) for word, width in zip(words, wide, strict=True)], wide))
    return lines


def _lines(count: int, columns: int, beside: int) -> Iterator[range]:
    """The places of the panels of each line: rows of ``columns``, on lines of ``beside``."""
    for row in range(0, count, columns):
        end = min(row + columns, count)
        for start in range(row, end, beside):
            yield range(start, min(start + beside, end))


def _filled(widths: Sequence[int], room: int) -> Iterator[range]:
    """The places of the panels of each line: as many as there is room for."""
    start = 0
    for end in range(1, len(widths) + 1):
        if end == len(widths) or sum(widths[start : end + 1]) + GAP * (end - start) > room:
            yield range(start, end)
            start = end


def _label(words: str, width: int) -> str:
    """Words, or where they are wider than ``width`` their last one, such as a number."""
    if cell_len(words) > width:
        words = words.split()[-1]
    return words if cell_len(words) <= width else set_cell_size(words, width)


def _beside(parts: Sequence[Text], widths: Sequence[int]) -> Text:
    line = Text()
    for part, width in zip(parts[:-1], widths, strict=False):
        line.append_text(part)
        line.append(" " * (width - part.cell_len + GAP))
    return line.append_text(parts[-1])


def _drawn(panel: Panel, rows: int, columns: int, screen: Screen) -> list[Text]:
    """One panel: a column for each pixel and a line for two, or for more if they do not fit."""
    pixels = sheets.rgb(panel.pixels)
    height, width = pixels.shape[:2]
    scale = min(2 * rows / height, columns / width, 2.0 if max(height, width) <= SMALL else 1.0)
    scale = scale if scale <= 1 else int(scale)
    size = max(round(scale * height), 1), max(round(scale * width), 1)
    if scale > 1:
        pixels = pixels.repeat(scale, axis=0).repeat(scale, axis=1)
    elif scale < 1:
        pixels = sheets.reduced(pixels, *size)
    outlines = [(sheets.outline(frame, scale, *size), sheets.colour(frame)) for frame in panel.frames]
    if screen.shaded and screen.encoding.startswith("utf"):
        pixels = pixels.copy()
        for on, colour in outlines:
            pixels[on] = colour
        return _blocks(pixels)
    return _characters(pixels, [on for on, _ in outlines])


def _blocks(pixels: Array) -> list[Text]:
    """Two rows of pixels per line: the upper one is the colour of a half block, the lower one of what is behind it."""
    lines = []
    for top in range(0, len(pixels), 2):
        upper = [tuple(colour) for colour in pixels[top].tolist()]
        lower = [tuple(colour) for colour in pixels[top + 1].tolist()] if top + 1 < len(pixels) else [None] * len(upper)
        line = Text()
        for pair, same in groupby(zip(upper, lower, strict=True)):
            line.append("▀" * len(list(same)), _style(*pair))
        lines.append(line)
    return lines


@lru_cache(maxsize=4096)
def _style(upper: tuple[int, int, int], lower: tuple[int, int, int] | None) -> Style:
    return Style(color=sheets.as_hex(upper), bgcolor=None if lower is None else sheets.as_hex(lower))


def _characters(pixels: Array, outlines: Sequence[Array]) -> list[Text]:
    """A character for two rows of pixels, by the brightness of both, and one for frames."""
    odd = len(pixels) % 2
    grey = np.pad(pixels @ np.array(LUMA), ((0, odd), (0, 0)), "edge").reshape(-1, 2, pixels.shape[1]).mean(1)
    drawn = np.array(list(INK))[(grey / 256 * len(INK)).astype(int)]
    for on in outlines:
        drawn[np.pad(on, ((0, odd), (0, 0))).reshape(-1, 2, pixels.shape[1]).any(1)] = FRAME
    return [Text("".join(row)) for row in drawn.tolist()]
