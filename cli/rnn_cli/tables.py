"""Text laid out in plain characters: aligned columns, and paragraphs as wide as the terminal. It knows no numbers."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Sequence

import click


def table(rows: Sequence[Sequence[str]], heads: Sequence[str] = (), align: str = "", indent: int = 0) -> str:
    """Rows under their heads, two spaces between columns.

    Args:
        rows: of cells.
        heads: of the columns; none leaves their line out.
        align: a letter a column, ``<`` or ``>``; columns beyond it are ``<``.
        indent: spaces before each line.

    Returns:
        Lines, the last one with its line feed. On a terminal the last column is wrapped to its width; elsewhere a row
        is a line.
    """
    lines = [list(row) for row in ([heads] if heads else []) + list(rows)]
    columns = max(map(len, lines), default=0)
    align = align.ljust(columns, "<")
    widths = [max(len(click.unstyle(line[i])) for line in lines) for i in range(columns)]
    left = indent + sum(width + 2 for width in widths[:-1])
    room = shutil.get_terminal_size().columns - left if sys.stdout.isatty() else 0
    text = ""
    for number, line in enumerate(lines):
        cells = [_pad(cell, widths[i], align[i]) for i, cell in enumerate(line)]
        last = cells[-1].rstrip()
        if room >= 20 and "\x1b" not in last and align[-1] == "<":
            last = ("\n" + " " * left).join(textwrap.wrap(last, room) or [""])
        row = " " * indent + "".join(f"{cell}  " for cell in cells[:-1]) + last
        text += (click.style(row.rstrip(), bold=True) if heads and number == 0 else row.rstrip()) + "\n"
    return text


def prose(text: str) -> str:
    """Paragraphs filled to the width of the terminal, 100 at most; what is indented stays as it is."""
    width = min(shutil.get_terminal_size().columns, 100)
    blocks = text.split("\n\n")
    return "".join((b if b.startswith(" ") else textwrap.fill(b, width)) + "\n\n" for b in blocks)[:-1]


def sentence(text: str) -> str:
    """A remark with a capital letter and a full stop."""
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def _pad(cell: str, width: int, align: str) -> str:
    space = " " * (width - len(click.unstyle(cell)))
    return space + cell if align == ">" else cell + space
