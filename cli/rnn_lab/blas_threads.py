"""The number of BLAS threads at each step of a run, as its manifest records it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from minigrad import blas
from minigrad.blas import Counts

KEY = "blas_threads"
"""In a manifest's environment: a list of [first step, threads of small products, of large ones]."""

Changes = list[tuple[int, Counts]]
"""The counts that apply from a step on, in the order of the steps."""


def changes_of(environment: Mapping[str, Any], until: int | None = None) -> Changes:
    """The changes recorded in an environment, up to the step after ``until``; none if it is damaged."""
    try:
        changes = [(int(step), Counts(int(small), int(large))) for step, small, large in environment.get(KEY, [])]
    except (TypeError, ValueError):
        return []
    if any(not 0 < number < 10_000 for _, counts in changes for number in counts):
        return []
    return [(step, counts) for step, counts in changes if until is None or step <= until + 1]


class Threads:
    """The threads of a run in training.

    Attributes:
        changes: so far.
        follows: the changes of the run that is repeated.
    """

    def __init__(self, changes: Sequence[tuple[int, Counts]] = (), follows: Sequence[tuple[int, Counts]] = ()) -> None:
        self.changes, self.follows = [*changes], [*follows]
        if changes:
            blas.begin_with(changes[-1][1])

    def enter(self, step: int) -> dict[str, Any]:
        """Set the threads for a step, and return the entry for the manifest's environment."""
        followed = [counts for first, counts in self.follows if first <= step]
        if followed:
            blas.fix(followed[-1])
        counts = blas.adopt()
        if not self.changes or self.changes[-1][1] != counts:
            self.changes.append((step, counts))
        return {KEY: [[step, *counts] for step, counts in self.changes]}


def contradiction(before: Changes) -> str:
    """The counts before and those that the user sets, in words; empty if they are equal or the user sets none."""
    if not before or not blas.is_given() or before[-1][1] == blas.counts():
        return ""
    return f"{_in_words(before[-1][1])}, and the environment says {_in_words(blas.counts())}"


def _in_words(counts: Counts) -> str:
    several = f" and {counts.large} for large ones" if counts.large != counts.small else ""
    return f"{counts.small}{several}"
