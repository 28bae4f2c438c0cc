"""Parts of pages: text with markup escaped, and tables."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Collection, Iterable, Sequence
from itertools import zip_longest
from typing import Any

from rnn_lab.drawing.words import number
from rnn_lab.printable import NEWLINE, visible

LABEL_WIDTH = 12
"""Minimum width of a column of words, in characters, even if the table then has to be scrolled."""


def escaped(words: str) -> str:
    """Text with markup escaped."""
    return html.escape(visible(words))


def sentence(words: str) -> str:
    """A sentence that is never broken within a command-line option."""
    return re.sub(r"--[\w-]+", r'<span class="option">\g<0></span>', escaped(words))


def symbol_text(symbol: str) -> str:
    """A symbol of a text; a line ends after its mark."""
    return escaped(symbol).replace(NEWLINE, f"{NEWLINE}\n") if "\n" in symbol else escaped(symbol)


def as_data(value: Any) -> str:
    """An element with a value as JSON for ``page.js``."""
    text = json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")
    return f'<script type="application/json">{text}</script>'


def table(
    heads: Sequence[str],
    rows: Iterable[Sequence[str | float | int | None]],
    words: Collection[int] = (),
    bars: Sequence[float] = (),
) -> str:
    """A table that scrolls in its own box; the first column and the columns ``words`` are aligned left.

    If there are ``bars``, shares of a full one, each row ends with one.
    """
    cells = [[number(value) for value in row] for row in rows]
    left = [' class="words"' if column in words else "" for column in range(len(heads))]
    widths = [""] * len(heads)
    for column in {0, *words}:
        longest = max((len(row[column]) for row in cells), default=0)
        widths[column] = f' style="min-width:{min(longest, LABEL_WIDTH)}ch"'
    head = "".join(
        f'<th scope="col"{side}{width}>{_head(word)}</th>'
        for word, side, width in zip(heads, left, widths, strict=True)
    )
    body = "".join(
        "<tr>"
        + "".join(
            f"<td{side or _unbroken(word)}>{html.escape(word)}</td>" for word, side in zip(row, left, strict=True)
        )
        + (f'<td class="bar"><span style="width:{share:.1%}"></span></td>' if share is not None else "")
        + "</tr>"
        for row, share in zip_longest(cells, bars)
    )
    if bars:
        head += '<td class="bar"></td>'
    top = f"<thead><tr>{head}</tr></thead>" if any(heads) else ""
    return f'<div class="box" tabindex="0"><table>{top}<tbody>{body}</tbody></table></div>'


def _unbroken(word: str) -> str:
    """The class of a cell with a number such as 1e-4, which a browser would break after the sign."""
    return ' class="number"' if re.fullmatch(r"-?[\d.]+e-\d+", word) else ""


def _head(name: str) -> str:
    """A column's head, which may be broken after punctuation."""
    return re.sub(r"([:=,_])", r"\1<wbr>", escaped(name))
