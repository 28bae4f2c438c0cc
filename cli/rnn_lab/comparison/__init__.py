"""Cells side by side: the plan of their runs, what comes out of them, and the statistics behind a verdict."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from minigrad.training import NotFinite
    from rnn_lab.sessions import Session
    from rnn_lab.trainer import Progress


class Watcher:
    """What is told of the runs of a plan while they are trained; the base shows nothing."""

    def begin(self, session: Session, number: int, total: int) -> None:
        """A run begins, the ``number``-th from 1."""

    def show(self, progress: Progress) -> None:
        """A step was taken."""

    def end(self, session: Session, error: NotFinite | None) -> None:
        """A run has ended, or diverged."""
