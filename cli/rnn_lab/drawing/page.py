"""Pages of reports as one self-contained HTML page, which asks for nothing else.

Each figure has a caption and its numbers in a table. The one script in the page is ``page.js``; without it all is there
to be read.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib import resources
from typing import Any

import numpy as np

from rnn_lab.drawing import pictures, reader, sheets
from rnn_lab.drawing.markup import as_data, escaped, sentence, symbol_text, table
from rnn_lab.drawing.scales import axes, drawable
from rnn_lab.drawing.words import bars_of, number, rows_of, shown
from rnn_lab.printable import visible
from rnn_plugins.reports.report import Array, Chart, Colouring, Curve, Figure, Image, Page, Panel, Picture
from rnn_plugins.reports.transcript import Transcript

STEPS = 24
"""The number of steps of a picture that are shown, from the first to the last."""

ALLOWED = "default-src 'none'; img-src data:; style-src 'unsafe-inline';"
"""What a browser may load for a page: nothing but what is in it."""

LEVELS = 12
"""Levels between no colour and full colour of a symbol."""

COLOURS = {
    "paper": ("#ffffff", "#14171b"),
    "card": ("#f6f7f9", "#1c2026"),
    "ink": ("#1b1f24", "#e8eaed"),
    "quiet": ("#555d66", "#a6adb6"),
    "grid": ("#dfe3e8", "#333a43"),
    "accent": ("#0061a8", "#79bff0"),
    "blue": ("0 114 178", "60 150 220"),
    "red": ("224 80 30", "224 90 45"),
} | {f"series-{index + 1}": pair for index, pair in enumerate(zip(pictures.SERIES, pictures.DARK_SERIES, strict=True))}
"""The page's colours, for light and dark."""

STYLE = """
*{box-sizing:border-box}
body{margin:0 auto;max-width:68rem;padding:1.5rem 1rem 4rem;background:var(--paper);color:var(--ink);
font:1rem/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;overflow-wrap:anywhere;
-webkit-text-size-adjust:100%}
h1,h2,h3{line-height:1.25;text-wrap:balance}
h1{font-size:1.8rem;margin:0 0 .5rem}
h2{font-size:1.4rem;margin:0 0 .25rem}
h3{font-size:1rem;margin:0 0 .5rem}
p{margin:.4rem 0;max-width:44rem}
a{color:var(--accent)}
.about,.question,.note,figcaption,summary{color:var(--quiet)}
.about{margin:0;padding:0;list-style:none}
nav ul{display:flex;flex-wrap:wrap;gap:.25rem 1.25rem;margin:1rem 0 0;padding:0;list-style:none}
section{border-top:1px solid var(--grid);margin-top:2rem;padding-top:1.5rem}
.verdict{margin:1rem 0;padding:.75rem 1rem;max-width:48rem;border-left:4px solid var(--accent);
background:var(--card);border-radius:0 6px 6px 0}
.option,.number{white-space:nowrap}
.verdict dt{font-weight:650}
.verdict dd{margin:0 0 .6rem;max-width:44rem}
.verdict dd:last-child{margin-bottom:0}
.failed{border-left-color:var(--series-2)}
.box{overflow:auto;max-width:100%;background:linear-gradient(90deg,var(--paper) 40%,transparent) 0 0/2rem 100% local,
linear-gradient(-90deg,var(--paper) 40%,transparent) 100% 0/2rem 100% local,
linear-gradient(90deg,var(--quiet),transparent) 0 0/.4rem 100%,
linear-gradient(-90deg,var(--quiet),transparent) 100% 0/.4rem 100%;background-repeat:no-repeat}
details .box{max-height:26rem}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums;overflow-wrap:normal}
th,td{padding:.3rem 1.25rem .3rem 0;border-bottom:1px solid var(--grid);text-align:right;vertical-align:top}
th{font-weight:600}
thead th{position:sticky;top:0;background:var(--paper)}
tr>:first-child,.words{text-align:left}
.bar{width:100%;min-width:6rem;padding-right:0;text-align:left;vertical-align:middle}
.bar span{display:block;height:.8em;background:var(--accent)}
details{margin:.5rem 0}
summary{cursor:pointer;font-size:.9rem;padding:.2rem 0}
.definitions dt{font-weight:600}
.definitions dd{margin:0 0 .5rem;max-width:44rem}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,26rem),1fr));
gap:2rem 2.5rem;margin-top:1.5rem}
figure{margin:0;min-width:0;position:relative}
svg[tabindex]{touch-action:pan-y}
.tip{position:absolute;z-index:1;max-width:16rem;padding:.35rem .6rem;background:var(--card);
border:1px solid var(--quiet);border-radius:6px;font-size:.8rem;line-height:1.45;pointer-events:none;
font-variant-numeric:tabular-nums}
.tip i{display:inline-block;width:.7em;height:.7em;margin-right:.4em;border-radius:2px}
.tip span{font-weight:600}
.guide{position:absolute;pointer-events:none;outline:1px solid var(--ink)}
[hidden]{display:none}
figure.wide{grid-column:1/-1}
svg{display:block;width:100%;max-width:480px;height:auto}
svg image{image-rendering:pixelated}
.panels{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,8rem),10rem));gap:.75rem}
.panels.alone{grid-template-columns:minmax(0,20rem)}
.panels.given{grid-template-columns:repeat(var(--columns),minmax(3rem,10rem))}
.steps{display:flex;gap:.5rem;margin-top:.75rem}
.steps .panel{flex:0 0 6rem}
.panel{min-width:0;font-size:.8rem;color:var(--quiet)}
.panel svg{border:1px solid var(--grid)}
.panel rect{fill:none;stroke-width:2px;vector-effect:non-scaling-stroke}
figcaption{font-size:.9rem;margin:.4rem 0}
pre{margin:0;padding:.75rem;background:var(--card);border-radius:6px;white-space:pre-wrap;overflow-wrap:anywhere;
font:.85rem/1.7 ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace}
pre span{padding:.15em 0}
.scale,.ends{display:flex;align-items:center;gap:.5rem}
.scale{flex-wrap:wrap;font-size:.85rem;margin:.4rem 0}
.ramp{display:inline-block;width:8rem;height:.8rem;border:1px solid var(--grid)}
@media(max-width:40rem){table{font-size:.8rem}th,td{padding-right:.75rem}}
@media print{details{display:none}}
"""


def html(pages: Sequence[Page], heading: str, about: Sequence[str]) -> str:
    """The HTML page.

    Args:
        pages: one section per page.
        heading: the page's heading, and the window's title.
        about: lines that describe the subjects.

    Raises:
        UserError: there is a chart, and matplotlib is not installed.
    """
    contents = ""
    if len(pages) > 1:
        links = "".join(
            f'<li><a href="#{_section_id(index)}">{escaped(page.title)}</a></li>' for index, page in enumerate(pages)
        )
        contents = f'<nav aria-label="Contents"><ul>{links}</ul></nav>'
    lines = "".join(f"<li>{escaped(line)}</li>" for line in about)
    sections = "\n".join(_section(page, _section_id(index)) for index, page in enumerate(pages))
    body = f"""<header>
<h1>{escaped(heading)}</h1>
<ul class="about">{lines}</ul>
{contents}
</header>
<main>
{sections}
</main>"""
    return document(heading, body, STYLE + reader.STYLE + _levels())


def document(title: str, body: str, style: str, scripts: Sequence[str] = (), allowed: str = "") -> str:
    """A whole page with the page's colours and ``page.js``.

    Args:
        title: the window's title.
        body: its elements.
        style: beside the colours.
        scripts: names of further scripts in this folder.
        allowed: what a browser may load for the page beside what is in it, as its content security policy says it.
    """
    folder = resources.files("rnn_lab.drawing")
    script = "".join(folder.joinpath(name).read_text("utf-8") for name in ("page.js", *scripts))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="{ALLOWED}{allowed} script-src 'sha256-{digest}'">
<link rel="icon" href="data:,">
<title>{escaped(title)}</title>
<style>{_colours()}{style}</style>
</head>
<body>
{body}
<script>{script}</script>
</body>
</html>
"""


def _section_id(index: int) -> str:
    return f"report-{index + 1}"


def _colours() -> str:
    light, dark = (";".join(f"--{name}:{pair[mode]}" for name, pair in COLOURS.items()) for mode in (0, 1))
    return f":root{{color-scheme:light dark;{light}}}@media(prefers-color-scheme:dark){{:root{{{dark}}}}}"


def _levels() -> str:
    """The background of each level of a coloured text, light enough that the text stays legible."""
    return "".join(
        f".{name[0]}{level}{{background:rgb(var(--{name})/{0.65 * level / LEVELS:.3f})}}"
        for name in ("blue", "red")
        for level in range(1, LEVELS + 1)
    )


def _section(page: Page, identifier: str) -> str:
    figures = "\n".join(
        _figure(figure, f"{identifier}-figure-{index + 1}") for index, figure in enumerate(page.figures)
    )
    notices = f'<p class="note">{sentence(page.averaged)}</p>' if page.averaged else ""
    notices += "".join(f'<p class="note">Note: {escaped(notice)}</p>' for notice in page.notices)
    return f"""<section id="{identifier}">
<h2>{escaped(page.title)}</h2>
<p class="question">{escaped(page.question)}</p>
{_verdicts(page)}{notices}
{_quantities(page)}
<div class="figures">
{figures}
</div>
</section>"""


def _verdicts(page: Page) -> str:
    several = len(page.subjects) > 1
    parts = []
    failed = {label: (why,) for label, why in page.failed.items()}
    for kind, said in (("verdict", page.verdict), ("verdict failed", failed)):
        entries = [
            (f"<dt>{escaped(label)}</dt>" if label and (several or said is failed) else "")
            + f"<dd>{' '.join(map(sentence, sentences))}</dd>"
            for label, sentences in said.items()
            if sentences
        ]
        if entries:
            parts.append(f'<dl class="{kind}">{"".join(entries)}</dl>')
    return "".join(parts)


def _quantities(page: Page) -> str:
    """Quantities as rows, subjects as columns, and the definition of each quantity."""
    labels = {q.key: q.label for quantities in page.quantities.values() for q in quantities}
    if not labels:
        return ""
    definitions = {q.key: q.definition for quantities in page.quantities.values() for q in quantities if q.definition}
    values = {subject: {q.key: shown(q) for q in quantities} for subject, quantities in page.quantities.items()}
    several = len(page.subjects) > 1
    rows = [[label, *(values[subject].get(key, "-") for subject in values)] for key, label in labels.items()]
    numbers = table(["", *(values if several else [""] * len(values))], rows)
    terms = "".join(f"<dt>{escaped(labels[key])}</dt><dd>{escaped(words)}</dd>" for key, words in definitions.items())
    meaning = (
        f'<details><summary>What these mean</summary><dl class="definitions">{terms}</dl></details>' if terms else ""
    )
    return numbers + meaning


def _figure(figure: Figure, identifier: str) -> str:
    wide = ""
    if isinstance(figure, Chart):
        drawn, numbers = pictures.svg(figure, identifier), _points(figure)
    elif isinstance(figure, Image):
        drawn, numbers = pictures.svg(figure, identifier), _matrix(figure)
    elif isinstance(figure, Transcript):
        drawn, numbers, wide = _transcript(figure), table(*reader.rows(figure), (1, 3)), " wide"
    elif isinstance(figure, Colouring):
        drawn, numbers, wide = _coloured(figure), _symbols(figure), " wide"
    elif isinstance(figure, Picture):
        drawn, numbers, wide = _picture(figure), "", " wide" if len(figure.panels) > 1 or figure.steps else ""
    else:
        words = {index for row in figure.rows for index, value in enumerate(row) if isinstance(value, str)}
        bars = bars_of(figure)
        drawn, numbers = table(figure.heads, rows_of(figure), words, bars), ""
        wide = "" if bars else " wide"
    caption = f"<figcaption>{escaped(figure.definition)}</figcaption>" if figure.definition else ""
    details = f"<details><summary>The numbers</summary>{numbers}</details>" if numbers else ""
    located = as_data(found) if (found := _located(figure)) else ""
    return f"""<figure class="{type(figure).__name__.lower()}{wide}" data-key="{escaped(figure.key)}">
<h3>{escaped(figure.title)}</h3>
{drawn}{located}
{caption}{details}
</figure>"""


def _located(figure: Figure) -> dict[str, Any]:
    """Where the rows of a figure's tables are drawn, in thousandths of the plot, for the values under the pointer."""
    if isinstance(figure, Image):
        named = [bool(figure.x_ticks), bool(figure.y_ticks)]
        return {"x": visible(figure.x_label), "y": visible(figure.y_label), "named": named}
    if not isinstance(figure, Chart):
        return {}
    curves, tables = drawable(figure), []
    x_axis, y_axis = axes(figure, curves)
    for group in _tables(figure):
        column, columns = 1, []
        for place in group:
            curve = curves[place]
            columns.append(
                {
                    "column": column,
                    "label": visible(curve.label or figure.y_label),
                    "colour": pictures.colour_number(curve, place) + 1,
                    "band": curve.low is not None,
                    "fixed": curve.role == "reference",
                    "y": _thousandths(y_axis.position(curve.y)) if curve.role == "points" else None,
                }
            )
            column += 3 if curve.low is not None else 1
        tables.append({"x": _thousandths(x_axis.position(curves[group[0]].x)), "columns": columns})
    return {"x": visible(figure.x_label), "y": visible(figure.y_label), "tables": tables}


def _thousandths(shares: Array) -> list[float | None]:
    """Shares of a plot's side in thousandths, to a tenth; None for what lies beyond it or is missing."""
    return [round(1000 * share, 1) if 0 <= share <= 1 else None for share in shares.tolist()]


def _picture(figure: Picture) -> str:
    """Panels in a grid, and some of the steps in a row that scrolls."""
    panels = "".join(_panel(panel, figure.title) for panel in figure.panels)
    if figure.columns and len(figure.panels) > 1:
        kind = f'given" style="--columns:{figure.columns}'
    else:
        kind = "alone" if len(figure.panels) == 1 else "free"
    drawn = f'<div class="box" tabindex="0"><div class="panels {kind}">{panels}</div></div>'
    if figure.steps:
        places = np.linspace(0, len(figure.steps) - 1, min(STEPS, len(figure.steps))).round().astype(int)
        steps = "".join(_panel(figure.steps[place], figure.title) for place in places)
        drawn += f'<div class="box" tabindex="0"><div class="steps">{steps}</div></div>'
    return drawn


def _panel(panel: Panel, title: str) -> str:
    """A picture as an ``<svg>`` of its pixels with frames over them, and its label."""
    height, width = panel.pixels.shape[:2]
    file = base64.b64encode(sheets.png(panel.pixels)).decode()
    frames = "".join(
        f'<rect x="{frame.left:.4g}" y="{frame.top:.4g}" width="{frame.width:.4g}" height="{frame.height:.4g}" '
        f'style="stroke:{sheets.as_hex(sheets.colour(frame))}"/>'
        for frame in panel.frames
    )
    words = escaped(f"{title}, {panel.label}" if panel.label else title)
    label = f"<div>{escaped(panel.label)}</div>" if panel.label else ""
    return (
        f'<div class="panel"><svg viewBox="0 0 {width} {height}" role="img" aria-label="{words}">'
        f'<image width="{width}" height="{height}" preserveAspectRatio="none" href="data:image/png;base64,{file}"/>'
        f"{frames}</svg>{label}</div>"
    )


def _tables(figure: Chart) -> list[list[int]]:
    """The curves of a chart by their places; those with the same x share a table."""
    groups: list[list[int]] = []
    for place, curve in enumerate(figure.curves):
        same = (group for group in groups if np.array_equal(figure.curves[group[0]].x, curve.x, equal_nan=True))
        group = next(same, None)
        if group is None:
            groups.append([place])
        else:
            group.append(place)
    return groups


def _points(figure: Chart) -> str:
    """The points of all curves."""
    return "".join(_points_of(figure, [figure.curves[place] for place in group]) for group in _tables(figure))


def _points_of(figure: Chart, curves: Sequence[Curve]) -> str:
    heads, columns = [figure.x_label], [np.asarray(curves[0].x)]
    for curve in curves:
        heads.append(curve.label or figure.y_label)
        columns.append(np.asarray(curve.y))
        if curve.low is not None and curve.high is not None:
            heads += ["from", "to"]
            columns += [np.asarray(curve.low), np.asarray(curve.high)]
    return table(heads, zip(*(column.tolist() for column in columns), strict=True))


def _matrix(figure: Image) -> str:
    rows, columns = figure.values.shape
    names = figure.y_ticks or tuple(map(str, range(rows)))
    heads = ["", *(figure.x_ticks or map(str, range(columns)))]
    return table(heads, ([name, *row] for name, row in zip(names, figure.values.tolist(), strict=True)))


def _symbols(figure: Colouring) -> str:
    values = np.asarray(figure.values).tolist()
    rows = ([index, symbol, value] for index, (symbol, value) in enumerate(zip(figure.symbols, values, strict=True)))
    return table(["position", "symbol", figure.value_label], rows)


def _coloured(figure: Colouring) -> str:
    """A text as spans of equal colour, with values as titles; the scale is above it."""
    values = np.asarray(figure.values, np.float64)
    classes = _classes(figure, values)
    starts = [index for index in range(len(classes)) if not index or classes[index] != classes[index - 1]]
    spans = []
    for start, end in zip(starts, [*starts[1:], len(classes)], strict=True):
        words = "".join(map(symbol_text, figure.symbols[start:end]))
        if classes[start] is None:
            spans.append(words)
            continue
        known = values[start:end]
        low, high = number(float(known.min())), number(float(known.max()))
        label = f"{figure.value_label}: {low if low == high else f'{low} to {high}'}"
        spans.append(f'<span class="{classes[start]}" title="{escaped(label)}">{words}</span>')
    return f"{_scale(figure)}<pre>{''.join(spans)}</pre>"


def _transcript(figure: Transcript) -> str:
    """A text as a span for each symbol, the panel that the script fills, and its data; the scale is above it."""
    spans = reader.spans(figure, _classes(figure, np.asarray(figure.values, np.float64)))
    return (
        f'{_scale(figure)}<div class="reader"><pre>{spans}</pre><div class="chosen" hidden></div></div>'
        f"{reader.data(figure)}"
    )


def _scale(figure: Colouring) -> str:
    """What the colours of a text mean."""
    full = "rgb(var(--{})/.65)"
    first = "transparent" if figure.low == 0 else f"{full.format('blue')},transparent"
    return f"""<div class="scale"><span>{escaped(figure.value_label)}</span>
<span class="ends"><span>{number(figure.low)}</span>
<span class="ramp" style="background:linear-gradient(90deg,{first},{full.format("red")})"></span>
<span>{number(figure.high)}</span></span></div>"""


def _classes(figure: Colouring, values: Array) -> list[str | None]:
    """Each symbol's CSS class: None for a missing value, empty in the middle of the scale."""
    fractions = np.clip((values - figure.low) / ((figure.high - figure.low) or 1.0), 0, 1)
    amounts = fractions if figure.low == 0 else 2 * fractions - 1
    return [
        None
        if np.isnan(amount)
        else f"{'r' if amount > 0 else 'b'}{level}"
        if (level := round(abs(amount) * LEVELS))
        else ""
        for amount in amounts.tolist()
    ]
