"""Where the training of a comparison is: the run in training, its share of all runs, and the time left."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from typing import TYPE_CHECKING

from rnn_lab.comparison import Watcher

if TYPE_CHECKING:
    from minigrad.training import NotFinite
    from rnn_lab.runs import Run
    from rnn_lab.session import Session
    from rnn_lab.trainer import Progress


class Course(Watcher):
    """Follows the runs of a plan.

    Attributes:
        name: of the run in training or the last one, as ``2 of 6, lstm-fox-s1``.
        number: its number, from 1; 0 before the first.
        total: the number of all runs.
        progress: of the run in training; None between runs.
    """

    def __init__(self, cells: int) -> None:
        """A course of runs, in which so many cells take turns."""
        self.name, self.number, self.total = "", 0, 0
        self.progress: Progress | None = None
        self._cells = cells
        self._took: defaultdict[int, list[float]] = defaultdict(list)  # seconds of the runs of each cell
        self._began: float | None = None

    def passed(self, run: Run, number: int, total: int) -> None:
        """Count the time that it took."""
        from rnn_lab.comparison.plan import seconds_of

        self._enter(run, number, total)
        self._took[self._cell(number)].append(seconds_of(run))

    def begin(self, session: Session, number: int, total: int) -> None:
        """A run begins."""
        self._enter(session.run, number, total)
        self._began = time.monotonic()

    def show(self, progress: Progress) -> None:
        """A step was taken."""
        self.progress = progress

    def end(self, session: Session, error: NotFinite | None) -> None:
        """A run has ended."""
        self._took[self._cell(self.number)].append(self._so_far())
        self.progress = self._began = None

    @property
    def share(self) -> float:
        """The finished share of all runs, from 0 to 1."""
        now = 1.0 if self._began is None else self.progress.done if self.progress else 0.0
        return (self.number - 1 + now) / self.total if self.total else 0.0

    def left(self) -> float:
        """Seconds until all runs have ended: each takes as long as those of its cell did, or else as the others do."""
        took, left = dict(self._took), 0.0
        if self.progress is not None:
            left = self.progress.seconds_left
            took.setdefault(self._cell(self.number), [self._so_far() + left])
        every = [seconds for some in took.values() for seconds in some]
        return left + sum(
            statistics.fmean(took.get(self._cell(number), every)) for number in range(self.number + 1, self.total + 1)
        )

    def _enter(self, run: Run, number: int, total: int) -> None:
        self.name, self.number, self.total = f"{number} of {total}, {run.name}", number, total

    def _cell(self, number: int) -> int:
        """The cell of a run: they take turns."""
        return (number - 1) % self._cells

    def _so_far(self) -> float:
        """Seconds of the run in training."""
        return time.monotonic() - (self._began or 0.0)
