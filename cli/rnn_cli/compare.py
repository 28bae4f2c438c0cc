"""``rnn compare``: compare networks side by side."""

from __future__ import annotations

import os
import shlex
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click

from rnn_cli import completion, piped
from rnn_cli.console import remark, showing, suppress_notes
from rnn_cli.display import LINE_SECONDS, amount
from rnn_cli.options import OPTIONS, SETTINGS, SHOWN, TRUST, Setting, TrainingCommand, collect
from rnn_cli.output import chosen, output_options, put
from rnn_cli.tables import sentence
from rnn_lab.comparison.course import Course
from rnn_lab.settings import named
from rnn_plugins.errors import UserError
from rnn_plugins.words import duration

if TYPE_CHECKING:
    from rich.console import RenderableType

    from minigrad.training import NotFinite
    from rnn_lab.runs import Run
    from rnn_lab.session import Session
    from rnn_lab.trainer import Progress

SIDE_BY_SIDE = "Side by side"

INTERRUPTED = 130

EXAMPLES = """\b
Examples:
  rnn compare gru-book lstm-book
  rnn compare --cell rnn --cell gru --cell lstm book.txt --hidden-size 128 --epochs 2
  rnn compare --cell lstm --cell lstm:forget_bias=3 book.txt --match seconds --max-time 60s --html page.html"""


@click.command(cls=TrainingCommand, epilog=EXAMPLES)
@click.argument("runs_or_files", metavar="[RUN|FILE]...", nargs=-1, shell_complete=completion.runs_or_files)
@output_options
@TRUST
@click.pass_context
def compare(ctx: click.Context, /, runs_or_files: tuple[str, ...], **given: Any) -> None:
    """Compare runs, or train cells side by side and compare them.

    Without --cell, RUN names two trained runs or more; runs that differ only in their seeds count as one.

    With --cell, given twice or more, those cells are trained on FILE (builtin:latex by default), --seeds runs of each,
    in turn: on the same data, with the same batches and seeds, each with its suggested learning rate unless
    --learning-rate sets one for all. --hidden-size is that of the first; the others get the size that --match
    requires. The runs stay in the runs folder. After Ctrl-C, the finished runs are compared; the same command with
    --resume continues, with the interrupted run where it was.
    """
    output = chosen(given)
    given.pop("progress")
    cells, match, seeds = given.pop("cell"), given.pop("match"), given.pop("seeds")
    going_on = given.pop("resume")
    wanted = collect((), given)
    if wanted.pop("quiet", False):
        suppress_notes()
    from rnn_cli.bars import announcing
    from rnn_lab.comparison.comparison import compare as laid_out
    from rnn_lab.comparison.comparison import group
    from rnn_lab.comparison.plan import SEEDS, plan, train

    interrupted = False
    about: tuple[str, ...] = ()
    if cells:
        from rnn_lab.runs import require_files

        require_files(runs_or_files, "to train on")
        if runs_or_files:
            wanted["files"] = runs_or_files
        else:
            piped.ignored("each run reads the data, so save them to a file and name that")
        with announcing():  # files from the web
            planned = plan(cells, wanted, match or "params", SEEDS if seeds is None else seeds)
        if going_on:
            planned = planned.resumed()
        about = planned.lines
        for line in about:
            remark(line)
        groups, interrupted = train(planned, Bars(len(planned.settings)))
        if interrupted:
            remark(f"Resume with: {_again(ctx)}")
        if interrupted and len(groups) < 2:
            remark("Interrupted before two cells had a run, so there is nothing to compare.")
            ctx.exit(INTERRUPTED)
        if interrupted:
            remark("Interrupted: what follows compares the runs that were finished.")
    else:
        useless = [
            key
            for key, value in (("match", match), ("seeds", seeds), ("resume", going_on or None))
            if value is not None
        ]
        useless += [key for key, value in given.items() if not (value is None or value is False or value == ())]
        _require_runs(runs_or_files, [key for key in useless if key != "quiet"])
        groups = group(_found(runs_or_files))
    with announcing(sum(map(len, groups.values()))) as tell:
        page = laid_out(groups, lambda name: tell(f"inspecting {name}"))
    put([page], " and ".join(page.subjects), about, output)
    if interrupted:
        ctx.exit(INTERRUPTED)


compare.params[1:1] = [
    Setting(
        SIDE_BY_SIDE,
        "cell",
        "A cell to train, with its options; give two or more.",
        default="none: runs are compared",
        metavar=SETTINGS["cell"].metavar,
        multiple=True,
        shell_complete=completion.cells,
    ),
    Setting(
        SIDE_BY_SIDE,
        "match",
        "What to keep equal: parameters, operations per step, training time, or only the settings.",
        default="params",
        type=click.Choice(["params", "flops", "seconds", "none"]),
    ),
    Setting(
        SIDE_BY_SIDE,
        "resume",
        "Continue this comparison: train only what is not finished; --seeds may be more.",
        is_flag=True,
    ),
    Setting(SIDE_BY_SIDE, "seeds", "Number of runs per cell, each with its own seed.", default=3, type=int),
    *(option for option in OPTIONS if option.name in named("shared")),
    SHOWN,
    Setting("Output", "quiet", "Print nothing but errors and the result.", is_flag=True, short="-q"),
    Setting(
        "Run",
        "valid-every",
        "Steps between validations.",
        default="ten per run or more; 100 where --max-time decides",
        type=int,
    ),
]


def _again(ctx: click.Context) -> str:
    """The typed command, with --resume."""
    from rnn_cli.main import TYPED

    typed = [word for word in ctx.meta.get(TYPED, ()) if word != "--resume"]
    return shlex.join(["rnn", *typed, "--resume"])


def _require_runs(names: tuple[str, ...], useless: list[str]) -> None:
    """Check that runs are named and no options of training are given.

    Raises:
        UserError: they are not, or one is.
    """
    if useless:
        option = useless[0].replace("_", "-")
        raise UserError(f"--{option} applies only to cells that are trained: add --cell, or leave it out")
    if not names:
        raise UserError("there is nothing to compare: name two runs, or give --cell twice and a FILE")
    if len(names) == 1:
        raise UserError(f"there is only one run to compare, {names[0]!r}: name another")


def _found(names: tuple[str, ...]) -> list[Run]:
    from rnn_lab.runs import find_run

    runs = []
    for name in names:
        try:
            runs.append(find_run(name))
        except UserError:
            if not os.path.isfile(name):
                raise
            raise UserError(f"{name!r} is a file: give --cell and --cell to train cells on it, or name runs") from None
        for notice in runs[-1].code_changed():
            remark(f"Note: {sentence(notice)}")
    return runs


class Bars(Course):
    """Two bars, for the run in training and for all, and a line for each finished run; elsewhere only lines."""

    def __init__(self, cells: int) -> None:
        super().__init__(cells)
        self._said, self._stack, self._word = set[str](), ExitStack(), ""

    def passed(self, run: Run, number: int, total: int) -> None:
        """Say so, and count its time."""
        super().passed(run, number, total)
        if showing() != "none":
            remark(f"{self.name}: finished before")

    def begin(self, session: Session, number: int, total: int) -> None:
        """Print the notes that were not printed for another run, and show the bars."""
        from rnn_cli.bars import Drawing
        from rnn_cli.training import stopping

        super().begin(session, number, total)
        for notice in session.notices:
            if notice not in self._said:
                remark(f"Note: {sentence(notice)}")
            self._said.add(notice)
        self._shown = time.monotonic()
        self._stack.enter_context(stopping(session.trainer, self.note))
        if showing() == "live":
            self._stack.enter_context(Drawing(self._picture, transient=True))

    def show(self, progress: Progress) -> None:
        """Move the bars; without bars, print a line at intervals."""
        super().show(progress)
        if showing() == "plain" and time.monotonic() - self._shown > LINE_SECONDS:
            self._shown = time.monotonic()
            left = f"{duration(progress.seconds_left)} left, {duration(self.left())} for all"
            remark(f"  step {progress.step.step:,}, {left}")

    def note(self, text: str) -> None:
        """Show a sentence in the next drawing."""
        self._word = text

    def end(self, session: Session, error: NotFinite | None) -> None:
        """Print the result."""
        self._stack.close()
        super().end(session, error)
        if error:
            remark(f"{self.name}: diverged at step {error.step:,}")
            for line in session.diagnosis(error)[1:]:
                remark(f"  {line}")
        elif session.trainer.outcome == "interrupted":
            remark(f"{self.name}: interrupted after step {session.trainer.saved:,} and saved")
        elif showing() != "none" and (metrics := session.trainer.best["metrics"]) is not None:
            from rnn_lab.comparison.plan import seconds_of

            run, task = session.run, session.run.task
            took = duration(seconds_of(run))
            found = run.metrics(metrics)
            name = task.compared if task.compared in found else session.trainer.metric
            left = f"; {duration(self.left())} left for all" if self.number < self.total else ""
            steps = f"{session.trainer.state.step:,} steps"
            remark(f"{self.name}: {amount(run, name, found)} after {steps}, {took}{left}")

    def _picture(self) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        from rnn_cli.bars import bar

        if self.progress is None:
            return bar(self.name, 0.0, "")
        this = bar(self.name, self.progress.done, f"{duration(self.progress.seconds_left)} left")
        if self.total == 1:
            return this
        whole = bar(f"all {self.total} runs", self.share, f"{duration(self.left())} left")
        return Group(this, whole, *([Text(self._word, style="bold")] if self._word else []))
