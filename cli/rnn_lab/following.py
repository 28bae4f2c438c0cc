"""How training from Python shows its progress: as a block below a notebook's cell, as lines, or not at all."""

from __future__ import annotations

import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from minigrad.training import NotFinite
from rnn_lab.comparison.course import Course
from rnn_lab.drawing import inline
from rnn_lab.drawing.words import shown
from rnn_lab.runs import Run
from rnn_lab.session import Session
from rnn_lab.trainer import Progress
from rnn_plugins.errors import UserError
from rnn_plugins.reports.loss import POINTS, averaged
from rnn_plugins.reports.report import Curve, Quantity
from rnn_plugins.words import duration

Shown: TypeAlias = Literal["auto", "plain", "none"]
"""``auto`` is a block of HTML in a notebook and nothing elsewhere, ``plain`` is lines on standard error."""

BLOCK_SECONDS, LINE_SECONDS = 0.5, 10.0
"""Least time between two updates of the block, and between two lines."""

ENDINGS = {
    "finished": "finished",
    "time": "ended by max_time",
    "patience": "ended by patience",
    "interrupted": "interrupted",
    "diverged": "diverged",
}
"""How a block names the outcomes."""

FAILED = "stopped by an error"
"""How it names the end by an error, which the run itself has as an interruption: it can be resumed."""


def require(progress: str) -> None:
    """Check the argument ``progress``.

    Raises:
        UserError: it is none of its values.
    """
    if progress not in get_args(Shown):
        raise UserError(f"progress is {progress!r}; it must be one of {', '.join(get_args(Shown))}")


def follower(session: Session, progress: Shown) -> Follower:
    """What shows the progress of a session."""
    if progress == "plain":
        return Lines(session)
    shell = notebook() if progress == "auto" else None
    return Block(session, shell) if shell else Follower(session)


def watcher(cells: int, progress: Shown) -> Watching:
    """What shows the progress of a comparison of so many cells."""
    if progress == "plain":
        return WatchingLines(cells)
    shell = notebook() if progress == "auto" else None
    return WatchingBlock(cells, shell) if shell else Watching(cells)


def notebook() -> Any:
    """IPython's shell, if this code runs in the kernel of a notebook; otherwise None."""
    get = getattr(sys.modules.get("IPython"), "get_ipython", None)
    shell = get() if get else None
    return shell if getattr(shell, "kernel", None) else None


class Follower:
    """Follows a session; the base class shows nothing.

    ``show`` is called by the thread that trains, ``tick`` and ``end`` by the caller's, to which a notebook's output
    belongs.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.progress: Progress | None = None
        self.cell = 0  # the count of the notebook's cell that shows the losses

    def show(self, progress: Progress) -> None:
        """A step was taken."""
        self.progress = progress

    def tick(self) -> None:
        """Show what is new, if it is time to."""

    def end(self, error: BaseException | None = None) -> None:
        """Training has ended; with an error if one ended it."""


class Lines(Follower):
    """A line at intervals on standard error."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self.record: dict[str, Any] = {}
        self.due = time.monotonic()
        for notice in session.notices:
            self._print(notice)

    def show(self, progress: Progress) -> None:
        """Print a line if due; a record with a validation sooner."""
        super().show(progress)
        record = progress.record
        if record is None:
            return
        self.record = record
        validated = "valid_loss" in record
        if (now := time.monotonic()) >= self.due - (0.9 * LINE_SECONDS if validated else 0):
            self.due = now + LINE_SECONDS
            self._print(f"{standing(self.session, progress, record)}, {duration(progress.seconds_left)} left")

    def end(self, error: BaseException | None = None) -> None:
        """Print how it ended."""
        trainer = self.session.trainer
        self._print(f"{ending(trainer.outcome, error)} after step {trainer.state.step:,}")

    def _print(self, words: str) -> None:
        _tell(f"{self.session.run.name}: {words}")


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class Output:
    """An output of a notebook's cell that is replaced by the next one."""

    def __init__(self, shell: Any) -> None:
        self._shell, self._identifier = shell, uuid.uuid4().hex
        self._shown_at: float | None = None

    def show(self, page: str, words: str) -> None:
        """Show HTML, or where there is none the words."""
        bundle = {"text/html": page, "text/plain": words}
        # What IPython's display does, without importing it.
        update = self._shown_at is not None
        self._shell.display_pub.publish(bundle, transient={"display_id": self._identifier}, update=update)
        self._shown_at = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether it was shown long enough ago."""
        return self._shown_at is None or time.monotonic() - self._shown_at > BLOCK_SECONDS


class Block(Follower):
    """A block of HTML below the notebook's cell: a bar, the numbers, and the losses so far."""

    def __init__(self, session: Session, shell: Any) -> None:
        super().__init__(session)
        self.records = list(session.run.records())
        self.output = Output(shell)
        self._send()

    def show(self, progress: Progress) -> None:
        """Keep the record, for the next update."""
        super().show(progress)
        if progress.record is not None:
            self.records.append(progress.record)

    def tick(self) -> None:
        """Update the block, if its last update is long enough ago."""
        if self.output.due:
            self._send()

    def end(self, error: BaseException | None = None) -> None:
        """Update the block to the end."""
        self._send(ending(self.session.trainer.outcome, error))
        self.cell = cell_count()

    def _send(self, ended: str = "") -> None:
        self.output.show(self.html(ended), self.words())

    def words(self) -> str:
        """The progress in a line."""
        if self.progress is None or not self.records:
            return f"{self.session.run.name}: the first steps"
        return f"{self.session.run.name}: {standing(self.session, self.progress, self.records[-1])}"

    def html(self, ended: str) -> str:
        """The progress as a block, with the words on how it ended, if it has."""
        session, progress, records = self.session, self.progress, list(self.records)
        run = session.run
        notices = [inline.sentence(f"Note: {notice}") for notice in session.notices]
        share, words = 0.0, "the first steps"
        if ended:
            share, words = (1.0 if ended == "finished" else 0.0), ended
        if progress is not None:
            share = max(share, progress.done)
            words = words if ended else f"{progress.done:.0%}, {duration(progress.seconds_left)} left"
        parts = [inline.bar(run.name, share, words)]
        if progress is not None and records:
            parts.append(inline.sentence(standing(session, progress, records[-1])))
        parts.append(inline.losses(loss_curves(records), loss_label(run), float(session.trainer.last_step)))
        return inline.block(*parts, *notices)


class Watching(Course):
    """Follows the runs of a comparison; the base class shows nothing."""

    def __init__(self, cells: int) -> None:
        super().__init__(cells)
        self.session: Session | None = None  # that of the run in training, or the last one
        self.record: dict[str, Any] | None = None  # its last one
        self.notices = set[str]()  # those told
        self.diagnoses = list[str]()  # of runs that diverged

    def begin(self, session: Session, number: int, total: int) -> None:
        """A run begins."""
        super().begin(session, number, total)
        self.session, self.record = session, None
        for notice in dict.fromkeys(session.notices):
            if notice not in self.notices:
                self.told(f"Note: {notice}")
        self.notices |= {*session.notices}

    def show(self, progress: Progress) -> None:
        """A step was taken."""
        super().show(progress)
        self.record = progress.record or self.record

    def passed(self, run: Run, number: int, total: int) -> None:
        """A run was finished before."""
        super().passed(run, number, total)
        self.told(f"{self.name}: finished before")

    def end(self, session: Session, error: NotFinite | None) -> None:
        """A run has ended."""
        super().end(session, error)
        trainer = session.trainer
        words = ending(trainer.outcome, error)
        if error:
            words += f" at step {error.step:,}"
        elif trainer.outcome != "finished":
            words += f" after step {trainer.state.step:,}"
        if trainer.best["metrics"] and not error:
            words += f", {best_of(session)}"
        self.told(f"{self.name}: {words}")
        if error:
            first, *rest = session.diagnosis(error)
            self.diagnoses.append(" ".join([f"{session.run.name}: {first}", *rest]))
            for line in rest:
                self.told(line)

    def told(self, line: str) -> None:
        """A notice, or how a run has ended."""

    def close(self, ended: str) -> None:
        """Training has ended, as the words say."""

    def standing(self) -> str:
        """The numbers of the run in training so far, in a line; empty before its first record."""
        if self.session is None or self.progress is None or self.record is None:
            return ""
        return standing(self.session, self.progress, self.record)


class WatchingLines(Watching):
    """A line at intervals, and one per run, on standard error."""

    def __init__(self, cells: int) -> None:
        super().__init__(cells)
        self.due = time.monotonic()

    def show(self, progress: Progress) -> None:
        """Print a line if due."""
        super().show(progress)
        if progress.record and time.monotonic() >= self.due:
            self.due = time.monotonic() + LINE_SECONDS
            self.told(f"{self.name}: {self.standing()}, {duration(self.left())} left for all runs")

    def told(self, line: str) -> None:
        """Print the line."""
        _tell(line)


class WatchingBlock(Watching):
    """A block of HTML below the notebook's cell: a bar of all runs, the numbers of this one, and the results."""

    def __init__(self, cells: int, shell: Any) -> None:
        super().__init__(cells)
        self.output, self.lines = Output(shell), list[str]()

    def begin(self, session: Session, number: int, total: int) -> None:
        """Update the block."""
        super().begin(session, number, total)
        self._send()

    def show(self, progress: Progress) -> None:
        """Update the block, if its last update is long enough ago."""
        super().show(progress)
        if self.output.due:
            self._send()

    def told(self, line: str) -> None:
        """Keep the line for the next update."""
        self.lines.append(line)

    def close(self, ended: str) -> None:
        """Update the block to the end."""
        if self.number:
            self._send(ended)

    def _send(self, ended: str = "") -> None:
        words = ended or f"{self.share:.0%}" + (f", {duration(self.left())} left" if self.progress else "")
        standing = self.standing()
        parts = [inline.bar(self.name, self.share, words), inline.sentence(standing), inline.remarks(self.lines)]
        self.output.show(inline.block(*parts), f"{self.name}: {standing or words}")


def ending(outcome: str | None, error: BaseException | None) -> str:
    """How training ended, in words.

    Args:
        outcome: the trainer's.
        error: the error that ended it, if one did.
    """
    outcome = outcome or "interrupted"
    failed = outcome == "interrupted" and error is not None and not isinstance(error, KeyboardInterrupt)
    return FAILED if failed else ENDINGS[outcome]


def cell_count() -> int:
    """How many cells the notebook has executed; 0 outside of one."""
    shell = notebook()
    return int(shell.execution_count) if shell else 0


def standing(session: Session, progress: Progress, record: Mapping[str, Any]) -> str:
    """The numbers of training so far, in a line."""
    trainer, run = session.trainer, session.run
    words = [f"step {progress.step.step:,} of {trainer.last_step:,}", f"epoch {progress.epoch:.1f}"]
    words.append(f"training loss {amount(run, 'loss', record['train_loss'])}")
    if trainer.best["metrics"] and session.problem.validates:
        words.append(best_of(session))
    words.append(f"{record['units_per_second']:,.0f} {session.unit} per second")
    return ", ".join(words)


def best_of(session: Session) -> str:
    """The deciding metric of the best weights so far, or of the latest average, with their step."""
    trainer, run, name = session.trainer, session.run, session.trainer.metric
    what = f"best held-out {run.task.metrics[name].word or name}"
    if not session.problem.validates:
        what = "training loss" if trainer.settings.average else "best training loss"
    return f"{what} {amount(run, name, trainer.best['metrics'][name])} at step {trainer.best['step']:,}"


def amount(run: Run, name: str, value: float) -> str:
    """A metric with its unit."""
    metric = run.task.metrics[name]
    return shown(Quantity(name, name, float(value), metric.unit, digits=metric.digits))


def loss_curves(records: Sequence[Mapping[str, Any]]) -> list[Curve]:
    """The training loss, averaged over parts of the run where there are many records, and the held-out loss."""
    curves = []
    for key, label in (("train_loss", "training"), ("valid_loss", "held out")):
        points = np.array([(r["step"], r[key]) for r in records if r.get(key) is not None], float).reshape(-1, 2)
        steps, values = points.T
        if key == "train_loss" and len(steps) > POINTS:
            steps, values, _, _ = averaged(steps, values, steps / steps[-1])
        curves.append(Curve(label, steps, values, role="thin" if key == "train_loss" else "measured"))
    return curves


def loss_label(run: Run) -> str:
    """The label of an axis of losses."""
    unit = run.manifest["metrics"]["loss"]["unit"]
    return f"loss in {unit}" if unit else "loss"
