"""The arguments of several commands: a run, and files or other inputs."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from rnn_plugins.errors import UserError

if TYPE_CHECKING:
    from rnn_lab.runs import Run


def find_run_and_files(arguments: tuple[str, ...]) -> tuple[Run, tuple[str, ...]]:
    """The run and the files: the first argument is a run if there is one of that name."""
    from rnn_lab.runs import find_run

    if not arguments:
        return find_run(), ()
    first = arguments[0]
    try:
        return find_run(first), arguments[1:]
    except UserError as no_run:
        if os.path.exists(first) or glob.has_magic(first) or first == "-" or first.startswith("builtin:"):
            return find_run(), arguments
        if len(arguments) > 1:
            raise
        raise UserError(f"{first!r} is neither a file nor a run: {no_run}") from None


def find_run_and_inputs(
    arguments: tuple[str, ...], takes_some: Callable[[Run], bool]
) -> tuple[Run, tuple[str, ...], bool]:
    """The run, its inputs, and whether it is named.

    The first argument is a run if there is one of that name; otherwise the run is the newest, and the argument a file,
    or a text if that run reads texts.

    Args:
        arguments: as typed.
        takes_some: whether a run takes inputs.

    Raises:
        UserError: there is no run, or the first argument is neither.
    """
    from rnn_lab.runs import find_run

    if not arguments:
        return find_run(), (), False
    try:
        return find_run(arguments[0]), arguments[1:], True
    except UserError as no_run:
        run = find_run()
        if not takes_some(run):
            raise
        from rnn_lab.predicting import is_source

        if is_source(arguments[0]) or run.task.takes_text:
            return run, arguments, False
        raise UserError(f"{arguments[0]!r} is neither a file nor a run: {no_run}") from None
