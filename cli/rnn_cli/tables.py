"""Plain-text layout: aligned columns, and paragraphs as wide as the terminal."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterable, Sequence
from itertools import zip_longest

import click

from rnn_cli.console import columns
from rnn_lab.printable import printable

NARROWEST = 20
"""Columns of the terminal that the last column needs to be wrapped."""


def table(
    rows: Iterable[Sequence[str]],
    heads: Sequence[str] = (),
    align: str = "",
    indent: int = 0,
    bold: int | None = None,
) -> str:
    """Rows under their heads, two spaces between columns.

    Args:
        rows: of cells.
        heads: of the columns; without any there is no header line.
        align: one letter per column, ``<`` or ``>``; further columns are ``<``.
        indent: spaces before each line.
        bold: the row printed in bold, as the heads are.

    Returns:
        Lines, the last one with its line feed. On a terminal the last column is wrapped to its width, and where the
        others leave no room, a row is a paragraph: its first cell, and the others behind their heads. Elsewhere a row
        is one line.
    """
    lines = [[printable(cell) for cell in row] for row in [*([heads] if heads else []), *rows]]
    stand_out = {0 if heads else None, None if bold is None else bold + bool(heads)}
    count = max(map(len, lines), default=0)
    align = align.ljust(count, "<")
    widths = [max(len(line[i]) for line in lines) for i in range(count)]
    left = indent + sum(width + 2 for width in widths[:-1])
    room = columns(sys.stdout) - left if sys.stdout.isatty() else 0
    wraps = align[-1:] == "<" and room >= NARROWEST
    if sys.stdout.isatty() and not wraps and count and room < widths[-1]:
        return "".join(_paragraph(heads, line, indent, i == bold) for i, line in enumerate(lines[bool(heads) :]))
    text = ""
    for number, line in enumerate(lines):
        cells = [_pad(cell, widths[i], align[i]) for i, cell in enumerate(line)]
        last = cells[-1].rstrip()
        if wraps:
            last = ("\n" + " " * left).join(textwrap.wrap(last, room) or [""])
        row = " " * indent + "".join(f"{cell}  " for cell in cells[:-1]) + last
        text += (click.style(row.rstrip(), bold=True) if number in stand_out else row.rstrip()) + "\n"
    return text


def _paragraph(heads: Sequence[str], line: Sequence[str], indent: int, bold: bool) -> str:
    """A row where its columns do not fit side by side."""
    left = " " * (indent + 2)
    cells = []
    for head, cell in zip_longest(heads[1:], line[1:], fillvalue=""):
        words = f"{head} {cell}".strip()
        if cell:
            cells.append(words.replace(" ", "\0") if len(words) <= NARROWEST else words)
    rest = textwrap.wrap("  ".join(cells), columns(sys.stdout) - len(left), break_long_words=False)
    first = " " * indent + (click.style(line[0], bold=True) if bold else line[0])
    return "\n".join([first, *(left + row.replace("\0", " ").strip() for row in rest)]) + "\n"


def prose(text: str) -> str:
    """Paragraphs filled to the width of the terminal, 100 at most; indented lines only if they do not fit."""
    width = min(columns(sys.stdout), 100)
    blocks = printable(text, keep="\n").split("\n\n")
    return "".join((_indented(b) if b.startswith(" ") else textwrap.fill(b, width)) + "\n\n" for b in blocks)[:-1]


def _indented(block: str) -> str:
    """Lines that stay as they are; on a terminal the rest of a long one stands below it, farther to the right."""
    if not sys.stdout.isatty():
        return block
    room = columns(sys.stdout)
    lines = []
    for line in block.splitlines():
        further = " " * (len(line) - len(line.lstrip()) + 2)
        lines += (
            textwrap.wrap(line, room, subsequent_indent=further, break_on_hyphens=False) if len(line) > room else [line]
        )
    return "\n".join(lines)


def filled(text: str) -> str:
    """A line, on a terminal wrapped between words."""
    if not sys.stdout.isatty():
        return text
    return textwrap.fill(text, columns(sys.stdout), break_long_words=False, break_on_hyphens=False)


def sentence(text: str) -> str:
    """A note with a capital letter and a full stop."""
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def _pad(cell: str, width: int, align: str) -> str:
    return cell.rjust(width) if align == ">" else cell.ljust(width)
