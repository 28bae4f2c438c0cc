"""A transcript on the page: its text, of which each symbol can be chosen, and what is shown of the chosen one.

Without scripts the text is coloured by surprise, and a table has what was expected.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from rnn_lab.drawing.markup import as_data, symbol_text
from rnn_lab.printable import visible
from rnn_plugins.reports.report import Array
from rnn_plugins.reports.transcript import Trace, Transcript
from rnn_plugins.words import percent

STYLE = """
.reader{display:grid;grid-template-columns:minmax(0,1fr);gap:1rem;align-items:start}
.reader>div{min-width:0}
.reader pre{font-size:.95rem;line-height:1.8}
.reader pre[role] span{cursor:pointer}
.reader [aria-selected=true]{outline:2px solid var(--ink);outline-offset:1px;border-radius:2px}
.reader [aria-selected=true]:focus{outline:3px solid var(--accent)}
.chosen h4{margin:0 0 .25rem;font-size:1rem}
.chosen h5{margin:.9rem 0 .25rem;font-size:.9rem}
.chosen p{font-size:.85rem;color:var(--quiet);margin:.25rem 0}
.chosen table{width:100%}
.chosen td{padding:.15rem .75rem .15rem 0;white-space:nowrap}
.chosen td:first-child{max-width:9rem;overflow:hidden;text-overflow:ellipsis}
.chosen .here{font-weight:700}
.chosen .bar span{height:.7em}
.moves{display:flex;gap:.5rem;margin:0 0 .5rem}
.moves button{font:inherit;font-size:.85rem;padding:.35rem .8rem;color:var(--ink);background:var(--card);
border:1px solid var(--grid);border-radius:6px;cursor:pointer}
.moved{display:flex;flex-direction:row-reverse;align-items:flex-end;height:5rem;border-bottom:1px solid var(--quiet)}
.moved i{flex:1 1 0;min-width:0;height:100%;display:flex;align-items:flex-end;padding-right:1px}
.moved i::before{content:"";width:100%;height:var(--share);min-height:1px;background:rgb(var(--blue))}
.ends{display:flex;justify-content:space-between}
.trace{position:relative;display:block;height:.7em;min-width:6rem;background:var(--grid)}
.trace b{position:absolute;top:0;bottom:0;background:var(--accent)}
@media(max-width:59.99rem){.reader pre[role]{max-height:45vh;overflow:auto}}
@media(min-width:60rem){.reader{grid-template-columns:minmax(0,1fr) 24rem}.chosen{position:sticky;top:1rem}}
"""


def spans(figure: Transcript, classes: Sequence[str | None]) -> str:
    """The text, an element for each symbol with its colour's class."""
    return "".join(
        f'<span class="{kind}">{symbol_text(symbol)}</span>' if kind else f"<span>{symbol_text(symbol)}</span>"
        for symbol, kind in zip(figure.symbols, classes, strict=True)
    )


def rows(figure: Transcript) -> tuple[list[str], list[list[str | float | int | None]]]:
    """The heads and rows of a table: position, symbol, surprise and what was expected."""
    values = np.asarray(figure.values).tolist()
    found: list[list[str | float | int | None]] = [
        [place, symbol, value, ", ".join(f"{visible(name)} {percent(share)}" for name, share in expected) or None]
        for place, (symbol, value, expected) in enumerate(zip(figure.symbols, values, figure.expected, strict=True))
    ]
    return ["position", "symbol", figure.value_label, "expected"], found


def data(figure: Transcript) -> str:
    """What the script shows, with numbers as short as they are shown."""
    most = [float(np.max(row[np.isfinite(row)], initial=0.0)) for row in figure.influence]
    found = {
        "unit": figure.unit,
        "symbols": [visible(symbol) for symbol in figure.symbols],
        "bits": [_rounded(value) for value in np.asarray(figure.values).tolist()],
        "expected": [[[visible(name), round(share, 4)] for name, share in some] for some in figure.expected],
        "moved": [_permille(row, largest) for row, largest in zip(figure.influence, most, strict=True)],
        "most": [_rounded(largest) for largest in most],
        "traces": [_trace(trace) for trace in figure.traces],
    }
    return as_data(found)


def _permille(row: Array, largest: float) -> list[int]:
    """Influences in thousandths of the largest; those that there are."""
    row = row[~np.isnan(row)]
    if not largest:
        return [0] * len(row)
    shares: list[int] = np.round(1000 * np.minimum(row / largest, 1.0)).astype(int).tolist()
    return shares


def _trace(trace: Trace) -> dict[str, Any]:
    values = [_rounded(value) for value in np.asarray(trace.values).tolist()]
    return {"label": visible(trace.label), "low": trace.low, "high": _rounded(trace.high), "values": values}


def _rounded(value: float) -> float | None:
    return float(f"{value:.3g}") if math.isfinite(value) else None
