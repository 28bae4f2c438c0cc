"""The layout of explanations: headings, formulas, vectors, matrices, columns of numbers and paragraphs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import click

from rnn_cli.console import columns

WIDTH = 80
"""Maximum width."""


def width() -> int:
    """The width of a line."""
    return min(columns(sys.stdout), WIDTH)


def number(x: float) -> str:
    """Four decimals, in 7 columns."""
    text = f"{x:7.4f}"
    return text.replace("-", " ") if not text.strip("-0. ") else text  # no minus sign before zero


def vector(values: Any) -> str:
    """Numbers in parentheses."""
    return f"({' '.join(map(number, values))})"


def _rows(matrix: Any) -> list[str]:
    return [f"[{' '.join(map(number, row))}]" for row in matrix]


def matrices(*named: tuple[str, Any]) -> None:
    """Matrices under their names, as many side by side as fit."""
    line: list[list[str]] = []
    for name, matrix in named:
        rows = [name, *_rows(matrix)]
        wide = max(map(len, rows))
        block = [row.ljust(wide) for row in rows]
        if line and 4 + sum(len(other[0]) + 3 for other in line) + wide > width():
            _beside(line)
            line = []
        line.append(block)
    _beside(line)


def _beside(blocks: Sequence[list[str]]) -> None:
    height = max(map(len, blocks))
    for i in range(height):
        parts = [block[i] if i < len(block) else " " * len(block[0]) for block in blocks]
        click.echo(("    " + "   ".join(parts)).rstrip())
    click.echo()


def grid(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Rows under their heads: the first column to the left, numbers to the right, and what is beyond them as it is."""
    widths = [max(len(row[i]) for row in [heads, *rows]) for i in range(len(heads))]
    gap = "  " if 4 + sum(widths) + 2 * len(widths[1:]) <= width() else " "
    for row in [heads, *rows]:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(wide) for cell, wide in zip(row[1:], widths[1:], strict=False))]
        click.echo(("    " + gap.join([*cells, *row[len(heads) :]])).rstrip())
    click.echo()


def formulas(*lines: str) -> None:
    """Indented lines."""
    click.echo("".join(f"    {line}\n" for line in lines))


def paragraph(text: str) -> None:
    """Words wrapped to the width."""
    click.echo(click.wrap_text(text, width()) + "\n")


def heading(text: str) -> None:
    """A line in bold, wrapped to the width."""
    click.secho(click.wrap_text(text, width()) + "\n", bold=True)
