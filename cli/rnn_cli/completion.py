"""Shell completion of the names of runs, cells and tasks; it runs at each Tab, so imports must be small."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem


def runs(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The names of the runs, the newest first, without names that contain control characters."""
    from rnn_lab.paths import run_folders
    from rnn_lab.printable import printable

    names = [path.name for path in run_folders() if path.name.startswith(incomplete)]
    return [CompletionItem(name) for name in names if printable(name) == name]


def runs_or_files(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The names of the runs; if none matches, the shell's own completion of files."""
    return runs(ctx, param, incomplete) or [CompletionItem(incomplete, type="file")]


def cells(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The names of the installed cells; if none matches, files, since a cell may be in one."""
    return _installed("cells", incomplete)


def tasks(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The names of the installed tasks; if none matches, files, since a task may be in one."""
    return _installed("tasks", incomplete)


def _installed(group: str, incomplete: str) -> list[CompletionItem]:
    from rnn_plugins.registry import entries

    names = dict.fromkeys(entry.name for entry in entries(group) if entry.name.startswith(incomplete))
    return [CompletionItem(name) for name in names] or [CompletionItem(incomplete, type="file")]
