"""How ``rnn_lab.train`` shows its progress: as a block below a notebook's cell, as lines, or not at all."""

from __future__ import annotations

import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from rnn_lab.drawing import inline
from rnn_lab.drawing.words import shown
from rnn_lab.runs import Run
from rnn_lab.sessions import Session
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

    def end(self) -> None:
        """Training has ended, whatever the reason."""


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

    def end(self) -> None:
        """Print how it ended."""
        trainer = self.session.trainer
        self._print(f"{ENDINGS.get(trainer.outcome or '', 'stopped')} after step {trainer.state.step:,}")

    def _print(self, words: str) -> None:
        print(f"{self.session.run.name}: {words}", file=sys.stderr, flush=True)


class Block(Follower):
    """A block of HTML below the notebook's cell: a bar, the numbers, and the losses so far."""

    def __init__(self, session: Session, shell: Any) -> None:
        super().__init__(session)
        self.shell = shell
        self.records = list(session.run.records())
        self.drawn = 0.0
        self.identifier = uuid.uuid4().hex
        self._send(update=False)

    def show(self, progress: Progress) -> None:
        """Keep the record, for the next update."""
        super().show(progress)
        if progress.record is not None:
            self.records.append(progress.record)

    def tick(self) -> None:
        """Update the block, if its last update is long enough ago."""
        if time.monotonic() - self.drawn > BLOCK_SECONDS:
            self._send()

    def end(self) -> None:
        """Update the block to the end."""
        self._send(ended=True)
        self.cell = cell_count()

    def _send(self, update: bool = True, ended: bool = False) -> None:
        bundle = {"text/html": self.html(ended), "text/plain": self.words()}
        # What IPython's display does, without importing it.
        self.shell.display_pub.publish(bundle, transient={"display_id": self.identifier}, update=update)
        self.drawn = time.monotonic()

    def words(self) -> str:
        """The progress in a line."""
        if self.progress is None or not self.records:
            return f"{self.session.run.name}: the first steps"
        return f"{self.session.run.name}: {standing(self.session, self.progress, self.records[-1])}"

    def html(self, ended: bool) -> str:
        """The progress as a block."""
        session, progress, records = self.session, self.progress, list(self.records)
        trainer, run = session.trainer, session.run
        notices = [inline.sentence(f"Note: {notice}") for notice in session.notices]
        share, words = 0.0, "the first steps"
        if ended:
            outcome = trainer.outcome or "interrupted"
            share, words = (1.0 if outcome == "finished" else 0.0), ENDINGS[outcome]
        if progress is not None:
            share = max(share, progress.done)
            words = words if ended else f"{progress.done:.0%}, {duration(progress.seconds_left)} left"
        parts = [inline.bar(run.name, share, words)]
        if progress is not None and records:
            parts.append(inline.sentence(standing(session, progress, records[-1])))
        parts.append(inline.losses(loss_curves(records), loss_label(run), float(trainer.last_step)))
        return inline.block(*parts, *notices)


def cell_count() -> int:
    """How many cells the notebook has executed; 0 outside of one."""
    shell = notebook()
    return int(shell.execution_count) if shell else 0


def standing(session: Session, progress: Progress, record: Mapping[str, Any]) -> str:
    """The numbers of training so far, in a line."""
    trainer, run = session.trainer, session.run
    words = [f"step {progress.step.step:,} of {trainer.last_step:,}", f"epoch {progress.epoch:.1f}"]
    words.append(f"training loss {amount(run, 'loss', record['train_loss'])}")
    best = trainer.best["metrics"]
    if best and session.problem.validates:
        name = trainer.metric
        words.append(f"best held-out {run.task.metrics[name].word or name} {amount(run, name, best[name])}")
        words[-1] += f" at step {trainer.best['step']:,}"
    words.append(f"{record['units_per_second']:,.0f} {session.unit} per second")
    return ", ".join(words)


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
