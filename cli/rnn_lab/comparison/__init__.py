"""Compare cells: the plan of their runs, their results, and the statistics of the verdict."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from minigrad.training import NotFinite
    from rnn_lab.runs import Run
    from rnn_lab.session import Session
    from rnn_lab.trainer import Progress


class Watcher:
    """Callbacks for the runs of a plan during training; the base class does nothing."""

    def passed(self, run: Run, number: int, total: int) -> None:
        """Run ``number`` of ``total``, from 1, was finished before."""

    def begin(self, session: Session, number: int, total: int) -> None:
        """Run ``number`` of ``total``, from 1, begins."""

    def show(self, progress: Progress) -> None:
        """A step was taken."""

    def end(self, session: Session, error: NotFinite | None) -> None:
        """A run has ended, or diverged."""
