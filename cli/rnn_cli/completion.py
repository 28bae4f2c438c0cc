"""What the shell completes: names of runs and of cells. It imports nothing large, for it runs at every press of Tab."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem


def runs(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The names of the runs there are, the newest first; none that would command the terminal."""
    from rnn_cli.console import printable
    from rnn_lab.paths import run_folders

    names = [path.name for path in run_folders() if path.name.startswith(incomplete)]
    return [CompletionItem(name) for name in names if printable(name) == name]


def runs_or_files(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The names of the runs there are; where none begins so, the shell's own completion of files."""
    return runs(ctx, param, incomplete) or [CompletionItem(incomplete, type="file")]


def cells(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The names of the installed cells; where none begins so, files, since a cell may be in one."""
    from rnn_plugins.registry import entries

    names = dict.fromkeys(entry.name for entry in entries("cells") if entry.name.startswith(incomplete))
    return [CompletionItem(name) for name in names] or [CompletionItem(incomplete, type="file")]
