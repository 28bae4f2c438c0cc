"""Small pieces of HTML for a notebook's output: a bar, facts, loss curves, pages of reports; all styles are inline."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

import numpy as np

from rnn_lab.drawing import pictures
from rnn_lab.drawing.scales import Axis, axes, drawable, ticks
from rnn_lab.drawing.words import number, shown
from rnn_lab.printable import visible
from rnn_plugins.reports.report import Chart, Curve, Image, Page, Quantity

WIDTH, HEIGHT = 560, 230
"""The size of a chart in CSS pixels, if there is room for it."""

LEFT, RIGHT, TOP, BOTTOM = 52, 12, 8, 42
"""The margins around its axes."""

FIRST = 0.05
"""The share of the steps so far whose losses do not determine the axis, because they are far higher than the rest."""

VARIABLES = ";".join(
    [
        "--ink:currentColor",
        "--quiet:currentColor",
        "--grid:rgba(127,127,127,.3)",
        "--paper:transparent",
        *(f"--series-{index + 1}:{colour}" for index, colour in enumerate(pictures.SERIES)),
    ]
)
"""The colours of ``pictures.svg``, for a notebook of any theme."""


def block(*parts: str, wide: bool = False) -> str:
    """Pieces below each other."""
    width = 1080 if wide else 640
    style = f"max-width:{width}px;font:14px/1.5 system-ui,sans-serif;{VARIABLES}"
    return f'<div style="{style}">{"".join(parts)}</div>'


def bar(name: str, share: float, words: str) -> str:
    """A progress bar below its name and, at the right, some words."""
    return (
        '<div style="display:flex;justify-content:space-between;gap:1em;flex-wrap:wrap">'
        f"<b>{text(name)}</b><span>{text(words)}</span></div>"
        f'<div role="progressbar" aria-valuenow="{share:.0%}" '
        'style="height:.5em;margin:.2em 0 .4em;border-radius:.25em;background:rgba(127,127,127,.25)">'
        f'<div style="width:{share:.1%};height:100%;border-radius:.25em;background:var(--series-1)"></div></div>'
    )


def sentence(words: str) -> str:
    """A paragraph."""
    return f'<p style="margin:.2em 0 .5em">{text(words)}</p>' if words else ""


def remarks(lines: Iterable[str]) -> str:
    """Lines of less importance."""
    return f'<p style="margin:.5em 0;opacity:.75">{"<br>".join(map(text, lines))}</p>'


def text(words: str) -> str:
    """Text in one line with markup escaped."""
    return html.escape(visible(words))


def facts(heading: str, rows: Iterable[Quantity]) -> str:
    """A heading above a table of quantities, one row each."""
    cells = "".join(
        f'<tr><td style="text-align:left;padding:0 1.5em 0 0">{text(row.label)}</td>'
        f'<td style="text-align:left;padding:0">{text(shown(row))}</td></tr>'
        for row in rows
        if row.value is not None
    )
    return f'<b>{text(heading)}</b><table style="margin:.3em 0 .6em;border:0;font-size:1em">{cells}</table>'


def losses(curves: Sequence[Curve], y_label: str, last: float | None = None) -> str:
    """A chart of losses against steps; empty without points.

    Args:
        curves: x are steps; a ``thin`` one is drawn without marks.
        y_label: with the unit.
        last: the step at the right edge; None for the last of the curves.
    """
    chart = Chart("loss", "Loss", "step", y_label, tuple(curve for curve in curves if len(curve.x)))
    chart_curves = drawable(chart)
    if not chart_curves:
        return ""
    end = max(float(curve.x[-1]) for curve in chart_curves)
    later = [Curve(c.label, c.x[c.x >= FIRST * end], c.y[c.x >= FIRST * end]) for c in chart_curves]
    _, y_axis = axes(chart, later)
    x_axis = Axis(0.0, max(last or end, end, 1.0))
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    parts = []
    for value in ticks(y_axis, 5):
        y = TOP + (1 - (value - y_axis.low) / (y_axis.high - y_axis.low)) * height
        parts.append(
            f'<path d="M{LEFT} {y:.1f}h{width}" stroke="var(--grid)"/>'
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>'
        )
    for value in ticks(x_axis, 6):
        x = LEFT + value / x_axis.high * width
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{value:,.0f}</text>')
    for place, curve in enumerate(chart_curves):
        parts.append(_line(curve, place, x_axis, y_axis))
    legend = "".join(
        f'<tspan fill="var(--series-{place + 1})" font-weight="bold" dx="{12 if place else 0}">{text(c.label)}</tspan>'
        for place, c in enumerate(chart_curves)
    )
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="loss by step" font-size="12" fill="currentColor" '
        f'style="display:block;width:100%;max-width:{WIDTH}px;height:auto">'
        f'{"".join(parts)}<path d="M{LEFT} {TOP}v{height}h{width}" fill="none" stroke="currentColor"/>'
        f'<text x="{LEFT}" y="{HEIGHT - 8}">{legend}</text>'
        f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 8}" text-anchor="end">{text(y_label)} by step</text></svg>'
    )


def _line(curve: Curve, place: int, x_axis: Axis, y_axis: Axis) -> str:
    """A curve with a mark at each of few points; what is above the axis is drawn at its edge."""
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    points = [
        (LEFT + x * width, TOP + (1 - min(y, 1.0)) * height)
        for x, y in zip(x_axis.position(curve.x), y_axis.position(curve.y), strict=True)
        if np.isfinite(y)
    ]
    drawn = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    colour, thickness = f"var(--series-{place + 1})", 1 if curve.role == "thin" else 2
    line = f'<polyline class="curve" points="{drawn}" fill="none" stroke="{colour}" stroke-width="{thickness}"/>'
    marks = [] if curve.role == "thin" or len(points) > 30 else points
    return line + "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in marks)


def fits(pages: Sequence[Page]) -> bool:
    """Whether all figures of pages can be shown inline: charts and images, and no texts, pictures or tables."""
    return all(isinstance(figure, Chart | Image) for page in pages for figure in page.figures)


def page(page: Page, identifier: str) -> str:
    """The verdict, the numbers and the figures of a page.

    Args:
        page: its figures are charts and images.
        identifier: the prefix of every id in it, unique in the notebook.

    Raises:
        UserError: matplotlib is not installed.
    """
    several = len(page.subjects) > 1
    said = "".join(
        sentence(f"{label}: {' '.join(sentences)}" if several else " ".join(sentences))
        for label, sentences in [*page.verdict.items(), *((label, (why,)) for label, why in page.failed.items())]
        if sentences
    )
    drawn = "".join(
        f'<div style="flex:1 1 340px;max-width:480px"><b>{text(figure.title)}</b>'
        f"{_short(pictures.svg(figure, f'{identifier}-{index}'))}</div>"
        for index, figure in enumerate(page.figures)
        if isinstance(figure, Chart | Image)
    )
    return (
        f'<h3 style="margin:.6em 0 .3em">{text(page.title)}</h3>{said}{_numbers(page)}'
        f'<div style="display:flex;flex-wrap:wrap;gap:1em 2em">{drawn}</div>'
    )


def _short(svg: str) -> str:
    """A drawing without what it does not need, since a notebook keeps all its outputs.

    That is the fonts, since it has the notebook's, ids that nothing refers to, white space, and the parts of a pixel
    beyond a hundredth.
    """
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    svg = re.sub(r"\s+", " ", svg).replace("> <", "><")
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg))
    svg = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", svg)
    return re.sub(r"<[^>]*>", lambda tag: re.sub(r"(\d\.\d\d)\d+", r"\1", tag[0]), svg)


def _numbers(page: Page) -> str:
    """Quantities as rows, subjects as columns."""
    labels = {q.key: q.label for quantities in page.quantities.values() for q in quantities}
    if not labels:
        return ""
    values = [{q.key: shown(q) for q in quantities} for quantities in page.quantities.values()]
    edge = 'style="text-align:right;white-space:nowrap;padding:0 1.5em 0 0"'
    first = edge.replace("right", "left")
    head = "".join(f"<th {edge}>{text(label)}</th>" for label in page.quantities) if len(values) > 1 else ""
    rows = "".join(
        f"<tr><td {first}>{text(label)}</td>"
        + "".join(f"<td {edge}>{text(of.get(key, number(None)))}</td>" for of in values)
        + "</tr>"
        for key, label in labels.items()
    )
    top = f"<tr><td></td>{head}</tr>" if head else ""
    table = f'<table style="margin:.3em 0 .8em;border:0;font-size:1em">{top}{rows}</table>'
    return f'<div style="overflow-x:auto">{table}</div>'
