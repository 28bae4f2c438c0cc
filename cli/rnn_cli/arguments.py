"""The arguments of several commands: a run, and files or other inputs."""

from __future__ import annotations

import glob
import os
import shlex
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import click

from rnn_cli.console import remark, showing
from rnn_plugins.data.download import is_url
from rnn_plugins.errors import UserError, did_you_mean
from rnn_plugins.words import brief

if TYPE_CHECKING:
    from rnn_lab.runs import Run


def downloading(sources: Iterable[str]) -> AbstractContextManager[Any]:
    """Shows how far files from the web are, if there are some among the sources; otherwise it imports nothing."""
    if not any(is_url(str(source)) for source in sources):
        return nullcontext()
    from rnn_cli.bars import announcing

    return announcing()


def reading(sources: Sequence[str]) -> AbstractContextManager[Any]:
    """As ``downloading``, and shows on a terminal that the files are read, unless somebody is typing them there."""
    if not sources or "-" in sources or showing() != "live":
        return downloading(sources)
    from rnn_cli.bars import waiting

    return waiting(f"reading {brief(sources)}")


def find_run_and_files(arguments: tuple[str, ...]) -> tuple[Run, tuple[str, ...]]:
    """The run and the files: the first argument is a run if there is one of that name."""
    from rnn_lab.runs import find_run

    if not arguments:
        return find_run(), ()
    first = arguments[0]
    try:
        return find_run(first), arguments[1:]
    except UserError as no_run:
        if (
            os.path.exists(first)
            or glob.has_magic(first)
            or first == "-"
            or first.startswith("builtin:")
            or is_url(first)
        ):
            return find_run(), arguments
        if len(arguments) > 1:
            raise
        raise UserError(f"{first!r} is neither a file nor a run: {no_run}") from None


def find_run_and_inputs(
    arguments: tuple[str, ...], takes_some: Callable[[Run], bool], *, texts_given: bool = False
) -> tuple[Run, tuple[str, ...], bool]:
    """The run, its inputs, and whether it is named.

    The first argument is a run if there is one of that name; otherwise the run is the newest, and the argument a file,
    or a text if that run reads texts. A word that looks like a misspelt run is refused before other inputs; alone, it
    is a text, and a note says so.

    Args:
        arguments: as typed.
        takes_some: whether a run takes inputs.
        texts_given: whether an option gives texts, so that a word which is no file is meant as a run.

    Raises:
        UserError: there is no run, or the first argument is neither.
    """
    from rnn_lab.runs import find_run

    if not arguments:
        return find_run(), (), False
    first, *others = arguments
    try:
        return find_run(first), tuple(others), True
    except UserError as no_run:
        from rnn_lab.predicting import is_source

        run = find_run()
        if not takes_some(run) or (texts_given and not is_source(first)):
            raise
        if is_source(first):
            return run, arguments, False
        if not run.task.takes_text:
            raise UserError(f"{first!r} is neither a file nor a run: {no_run}") from None
        _check_text(first, others, run)
        return run, arguments, False


def _check_text(first: str, others: Sequence[str], newest: Run) -> None:
    """Check that a text is not meant as a run, because it is a word like the name of one, or stands before files.

    Raises:
        UserError: it probably is, and other inputs come after it.
    """
    from rnn_lab.predicting import is_source
    from rnn_lab.runs import find_runs

    suggestion = did_you_mean(first, [run.name for run in find_runs()])
    before_files = bool(others) and all(map(is_source, others))
    if len(first.split()) != 1 or not (suggestion or before_files):
        return
    if not others:
        remark(f"Note: {first!r} is neither a file nor a run, so it is a text.{suggestion}")
        return
    command = f"rnn {click.get_current_context().info_name} {newest.quoted} {shlex.join([first, *others])}"
    raise UserError(f"{first!r} is neither a file nor a run.{suggestion} If it is a text, name the run too: {command}")
