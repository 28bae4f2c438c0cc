"""The one terminal that all commands write to: results on standard output, progress and remarks on standard error."""

from __future__ import annotations

import shutil
import sys
import textwrap
from functools import cache
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.console import Console


@cache
def errors() -> Console:
    """Rich on standard error, for progress and remarks."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


@cache
def results() -> Console:
    """Rich on standard output, for tables."""
    from rich.console import Console

    return Console(highlight=False)


def remark(text: str) -> None:
    """A line for the person, on standard error; on a terminal as many as it takes, broken between words."""
    if is_live():
        width = shutil.get_terminal_size().columns
        text = textwrap.fill(text, max(width - 1, 20), break_long_words=False, break_on_hyphens=False)
        print(text, file=sys.stderr)  # where Rich draws it puts itself in between, and Click would write past it
    else:
        click.echo(text, err=True)


def is_live() -> bool:
    """Whether somebody is watching a terminal that can redraw."""
    return sys.stderr.isatty()
