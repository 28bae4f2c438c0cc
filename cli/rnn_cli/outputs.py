"""Print outputs that a run draws, for inputs or without them, and write their pictures to files."""

from __future__ import annotations

import secrets
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from rnn_cli.console import remark
from rnn_cli.output import write
from rnn_cli.tables import sentence
from rnn_plugins.errors import UserError

if TYPE_CHECKING:
    from rnn_lab.runs import Run
    from rnn_lab.settings import Backend
    from rnn_plugins.language.sampling import Choice
    from rnn_plugins.reports.report import Picture

OF_OUTPUTS = ("run_and_inputs", "temperature", "top_k", "top_p", "greedy", "count", "seed", "png", "gif", "backend")
"""Parameters that apply to outputs drawn for inputs."""

IN_TERMINAL = 3
"""Pictures that are printed with their steps; more are printed together, on a sheet."""


def generate(ctx: click.Context, run: Run, inputs: tuple[str, ...], choice: Choice, backend: Backend) -> None:
    """Print outputs that are drawn for inputs, or without them, and write their pictures.

    Raises:
        UserError: there is no input or a needless one, or an option does not apply.
    """
    import numpy as np

    from rnn_cli.printer import Printer
    from rnn_lab import predicting
    from rnn_lab.backends import on_backend

    for name in ctx.params:
        if name not in OF_OUTPUTS and ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise UserError(
                f"--{name.replace('_', '-')} is for runs that continue a text, and {run.name} is a run of the task "
                f"{run.settings.task}: leave it out"
            )
    if inputs and not run.task.needs_input:
        raise UserError(
            f"{run.name} is a run of the task {run.settings.task}, which takes no INPUT: leave out {shlex.join(inputs)}"
        )
    if not inputs and run.task.needs_input:
        what = "a FILE, a text in quotes, or - for standard input" if run.task.takes_text else "a FILE"
        raise UserError(f"there is no input: rnn sample {run.quoted} takes {what}")
    seed = ctx.params["seed"]
    if choice.draws and seed is None:
        seed = secrets.randbelow(1_000_000)
    answer = predicting.generator(run, choice, np.random.default_rng(seed), ctx.params["count"])
    for notice in run.code_changed():
        remark(f"Note: {sentence(notice)}")
    remark(f"From the run {run.name}{f', with --seed {seed}' if choice.draws else ''}.")
    png, gif, count = (ctx.params[name] for name in ("png", "gif", "count"))
    given = predicting.inputs_of(run, inputs) if inputs else (None,)
    one_by_one = not run.task.shows_pictures or count * max(len(inputs), 1) <= IN_TERMINAL
    printer = Printer(keep=predicting.ON_SHEET if png or gif or not one_by_one else 0, figures=one_by_one)
    with on_backend(backend):
        printer.follow(predicting.Answers(given, answer, count=count))
    pictures = predicting.pictures_of(printer.kept)
    _write(pictures, png, gif)
    if (png or gif) and printer.count > len(printer.kept):
        remark(f"Note: The files show the first {len(printer.kept):,} of {printer.count:,} pictures.")
    if not one_by_one and pictures:
        from rnn_cli.drawing import terminal
        from rnn_lab.drawing import sheets

        terminal.draw_figures(sheets.together(pictures))


def _write(pictures: Sequence[Picture], png: str | None, gif: str | None) -> None:
    """Write pictures, and how they were painted, to files."""
    from rnn_lab.drawing import sheets

    if png is not None and pictures:
        write(png, sheets.sheet(pictures))
    if gif is not None and (moving := [picture for picture in pictures if picture.steps]):
        write(gif, sheets.animation(moving))
    elif gif is not None:
        remark(f"Note: The pictures are painted in one step: {gif} is not written.")
