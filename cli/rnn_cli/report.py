"""``rnn report``: what a network remembers and why it forgets."""

from __future__ import annotations

import dataclasses
import math
import os
import shlex
from typing import TYPE_CHECKING, Any

import click

from rnn_cli import completion, piped
from rnn_cli.arguments import downloading
from rnn_cli.console import remark, suppress_notes
from rnn_cli.options import BACKEND, PROGRESS, QUIET, SETTINGS, TRUST, like
from rnn_cli.output import chosen, output_options, put
from rnn_cli.tables import sentence, table
from rnn_lab.settings import Settings
from rnn_plugins.errors import UserError

if TYPE_CHECKING:
    from rnn_lab.reporting import Needed
    from rnn_lab.runs import Run
    from rnn_lab.settings import Backend
    from rnn_plugins.reports.subject import Subject

FRESH = ("steps", "hidden_size", "num_layers", "embedding_size", "learning_rate", "task", "level")
"""Options that are valid only with ``--cell``."""

READERS = {"units": ("--unit", "neurons"), "gates": ("--gate", "neurons"), "characters": ("--characters", "structure")}
"""Options that apply to only one kind."""

INTERRUPTED = 130
"""The exit code after Ctrl-C."""

EXAMPLES = """\b
Examples:
  rnn report
  rnn report gru lstm --kind loss
  rnn report --cell rnn --cell lstm --cell gru book.txt --html report.html
  rnn report --cell rnn:recurrent_scale=1.5 --cell lstm:forget_bias=3
  rnn report gru lstm --kind memory --kind neurons"""


@click.command(epilog=EXAMPLES)
@click.argument("runs_or_files", metavar="[RUN|FILE]...", nargs=-1, shell_complete=completion.runs_or_files)
@click.option(
    "--cell",
    "cells",
    metavar=SETTINGS["cell"].metavar,
    multiple=True,
    shell_complete=completion.cells,
    help="A cell to measure, with new weights or trained for --steps; may be repeated, to compare.",
)
@click.option(
    "--kind",
    "kinds",
    metavar="KIND",
    multiple=True,
    shell_complete=completion.kinds,
    help="Report to show: one of --list, or FILE.py:CLASS; may be repeated.",
)
@click.option("--all", "everything", is_flag=True, help="Show all reports.")
@click.option("--list", "listing", is_flag=True, help="List the installed reports.")
@click.option("--text", metavar="FILE", help="Measure runs on this file instead of their held-out data.")
@like("steps", "With --cell: number of training steps before measuring.", 0)
@like("hidden_size", "With --cell: units per layer.", Settings.hidden_size)
@like("num_layers", "With --cell: number of layers.", Settings.num_layers)
@like("embedding_size", "With --cell: width of the embedding of symbols; 0 for one-hot.  [default: as rnn train]")
@like("learning_rate", "With --cell: learning rate of the training.  [default: what the cell suggests]")
@like("task", "With --cell: what the network learns.", Settings.task)
@like("level", "With --cell: what counts as one symbol of the text.  [default: char]")
@like("seed", "Random seed for initial weights, batches and positions.", 1)
@click.option("--lags", metavar="N", type=int, default=100, show_default=True, help="Number of steps to look back.")
@click.option(
    "--positions", metavar="N", type=int, default=2000, show_default=True, help="Number of positions to average over."
)
@click.option(
    "--unit",
    "units",
    metavar="UNIT",
    multiple=True,
    shell_complete=completion.units,
    help="For neurons: a unit to show, such as h.17 or forget.3.",
)
@click.option(
    "--gate",
    "gates",
    metavar="GATE",
    multiple=True,
    shell_complete=completion.gates,
    help="For neurons: a gate to show, the mean over its units.",
)
@click.option(
    "--characters",
    metavar="N",
    type=int,
    default=100_000,
    show_default=True,
    help="For structure: characters that each model generates.",
)
@BACKEND
@TRUST
@PROGRESS
@QUIET
@output_options
@click.pass_context
def report(
    ctx: click.Context,
    /,
    runs_or_files: tuple[str, ...],
    cells: tuple[str, ...],
    kinds: tuple[str, ...],
    everything: bool,
    listing: bool,
    text: str | None,
    units: tuple[str, ...],
    gates: tuple[str, ...],
    backend: Backend,
    quiet: bool,
    **given: Any,
) -> None:
    """Show what a network remembers and why it forgets.

    Without --cell, RUN names trained runs; the default is the newest. With --cell, those cells are compared on FILE
    (builtin:latex by default), all with the same data, seed and sizes.
    """
    if listing:
        _list()
        return
    if quiet:
        suppress_notes()
    output = chosen(given)
    _check(ctx, cells, text)
    from rnn_cli.bars import announcing
    from rnn_lab.backends import on_backend
    from rnn_lab.reporting import kinds as kinds_of
    from rnn_lab.reporting import load, make_pages, memory_of
    from rnn_plugins.reports.report import Look

    reports = load(kinds_of(everything, kinds), everything)
    if text is None and not (cells and runs_or_files):
        piped.ignored(f"rnn report {'--cell NAME' if cells else '--text'} - reads it as the text")
    look = Look(given["lags"], given["positions"], units, given["characters"], given["seed"], gates)
    try:
        with on_backend(backend):
            subjects, about = _fresh(cells, runs_or_files, given) if cells else _trained(runs_or_files, text)
            _announce(memory_of(reports, subjects, look, backend))
            with announcing(len(reports) * len(subjects)) as tell:
                pages = make_pages(reports, subjects, look, lambda kind, label: tell(f"{kind} of {label}"))
    except KeyboardInterrupt:
        click.echo(err=True)  # end the line on which the terminal shows ^C
        remark("Interrupted before everything was measured: nothing was written.")
        ctx.exit(INTERRUPTED)
    put(pages, ", ".join(subject.label for subject in subjects), about, output)


def _check(ctx: click.Context, cells: tuple[str, ...], text: str | None) -> None:
    """Check that the options are compatible.

    Raises:
        UserError: two of them are incompatible, or one is out of range.
    """
    values = ctx.params
    given = {name for name in values if ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE}
    if not cells and (meaningless := sorted(given & set(FRESH))):
        option = meaningless[0].replace("_", "-")
        raise UserError(f"--{option} applies only with --cell: add --cell, or leave it out")
    if cells and text is not None:
        raise UserError("--text is for runs; with --cell the text is FILE: leave --text out")
    if len(set(cells)) < len(cells):
        twice = next(cell for cell in cells if cells.count(cell) > 1)
        raise UserError(f"--cell {twice} is given twice: leave one of them out")
    if values["kinds"] and values["everything"]:
        raise UserError("--all shows all kinds: leave out --kind")
    for name, (option, kind) in READERS.items():
        if name in given and not values["everything"] and kind not in values["kinds"]:
            raise UserError(f"{option} applies only to the kind {kind}: add --kind {kind}, or leave it out")
    least = {"lags": 1, "positions": 1, "characters": 1, "steps": 0, "seed": 0, "hidden_size": 1, "num_layers": 1}
    for name, bound in least.items():
        if values[name] < bound:
            raise UserError(f"--{name.replace('_', '-')} is {values[name]}; it must be at least {bound}")


def _announce(needed: Needed) -> None:
    """Print the memory that measuring takes, to two digits, since it is an estimate."""
    from rnn_cli.display import memory

    if needed.kind:
        size = memory(round(needed.bytes, 1 - int(math.log10(needed.bytes))))
        remark(f"Measuring takes about {size} of memory, most of it for {needed.kind} of {needed.label}.")


def _trained(names: tuple[str, ...], text: str | None) -> tuple[list[Subject], list[str]]:
    """The runs to measure, and a line for each."""
    from rnn_lab.subject import of_run

    subjects: list[Subject] = []
    for name in names or (None,):
        run = _found(name)
        if run.name in {subject.label for subject in subjects}:
            raise UserError(f"the run {run.name!r} is named twice: leave one of them out")
        for notice in run.code_changed():
            remark(f"Note: {sentence(notice)}")
        files = run.settings.files if text is None else (text,)
        with downloading(files):
            subjects.append(of_run(run, () if text is None else files))
    about = [f"{subject.label}: {subject.about}" for subject in subjects]
    for notice in dict.fromkeys(notice for subject in subjects for notice in subject.notices):
        remark(f"Note: {sentence(notice)}")
    for line in about:
        remark(line)
    return subjects, about


def _found(name: str | None) -> Run:
    from rnn_lab.runs import find_run

    try:
        return find_run(name)
    except UserError:
        if name is None or not (os.path.isfile(name) or name.startswith("builtin:")):
            raise
        raise UserError(
            f"{name!r} is a file; expected a run: use --text {shlex.quote(name)} to measure runs on it, or add --cell"
        ) from None


def _fresh(cells: tuple[str, ...], files: tuple[str, ...], given: dict[str, Any]) -> tuple[list[Subject], list[str]]:
    """The cells to measure, a line for each, and one for the data."""
    from rnn_cli.bars import announcing
    from rnn_lab.problem import files_of, read
    from rnn_lab.runs import require_files
    from rnn_lab.subject import fresh_cells
    from rnn_plugins import registry
    from rnn_plugins.words import amount

    require_files(files, "to inspect cells on")
    names = {field.name for field in dataclasses.fields(Settings)}
    settings = Settings(**{key: value for key, value in given.items() if key in names and key != "steps"})
    task = registry.make_task(settings.task, settings.task_option)
    files = files_of(task, settings.task, files)
    with downloading(files):
        data = read(task, files)
    for notice in data.notices:
        remark(f"Note: {sentence(notice)}")
    steps = given["steps"]
    with announcing(len(cells)) as tell:

        def begin(cell: str) -> None:
            if steps:
                tell(f"{cell}: training for {amount(steps, 'step')}")

        subjects, about = fresh_cells(cells, task, data, settings, steps, begin)
    for line in about:
        remark(line)
    return subjects, about


def _list() -> None:
    """Print the installed kinds, one per line."""
    from rnn_lab.reporting import installed
    from rnn_plugins import registry

    order, rows = installed(), []
    for entry in sorted(registry.entries("reports"), key=lambda entry: order.index(entry.name)):
        summary, error = registry.describe("reports", entry)
        rows.append((entry.name, f"{error}" if error else summary))
    click.echo(table(rows, ("KIND", "WHAT IT SHOWS")), nl=False)
