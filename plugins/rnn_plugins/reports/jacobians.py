"""Jacobians of what a cell carries, step by step along a text, for any cell. What is made of them others say."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from minigrad import scan, trees
from minigrad.trees import Tree
from rnn_cells import Cell
from rnn_cells.anatomy import jacobians, places_of_states
from rnn_plugins.errors import UserError
from rnn_plugins.reports.probing import places, read, require_finite, windows

if TYPE_CHECKING:
    from rnn_lab.subject import Subject
    from rnn_plugins.reports.report import Look

Array: TypeAlias = NDArray[Any]

NUMBERS_AT_ONCE = 2_000_000
"""Numbers of Jacobians that are held together."""


class Stretches(NamedTuple):
    """Where Jacobians are taken: stretches of text, and the states that reading what comes before them leads to.

    Attributes:
        cell: whose.
        params: its parameters, float64.
        carry: before the first step, (B, ...) each.
        xs: (T, B, I), what it sees.
        targets: (B,), the symbols that follow.
        read: symbols that it has read before.
        notices: what had to be done otherwise than asked.
    """

    cell: Cell
    params: Tree
    carry: Tree
    xs: Array
    targets: Array
    read: int
    notices: tuple[str, ...]


def stretches(subject: Subject, look: Look, steps: int, count: int) -> Stretches:
    """Stretches of a subject's text, in float64, each read from a first carry of its own ``look.lags`` symbols before.

    Args:
        subject: the model and its text.
        look: how much is read before, and the seed of the choice.
        steps: T, the length of each.
        count: B, how many.

    Raises:
        UserError: the text is too short, or the cell carries nothing.
    """
    model, params = replace(subject.model, dtype="float64"), trees.cast(subject.params, "float64")
    if not width_of_carry(model.cell):
        raise UserError("the cell carries no state from step to step, so there is no Jacobian to look at")
    available = len(subject.tokens) - 1
    if available < 2:
        raise UserError(
            f"the text has {len(subject.tokens)} symbols, and a Jacobian along it takes 3: give a longer one"
        )
    short = min(steps, max(available - look.lags, available // 2))
    before = min(look.lags, available - short)
    reduced = [
        f"the steps {name} from {asked} to {used}"
        for name, asked, used in (("looked at", steps, short), ("read before them", look.lags, before))
        if asked != used
    ]
    notices = (f"the text is short ({available + 1:,} symbols), which reduces {' and '.join(reduced)}",)
    ends = places(len(subject.tokens), before + short, count, np.random.default_rng(look.seed))
    text = windows(subject.tokens, ends, before + short)
    carry = read(model, params, text[:before])
    xs = np.asarray(model.table(params))[text[before:]]
    targets = np.asarray(subject.tokens[ends], np.intp)
    return Stretches(model.cell, params["cell"], carry, xs, targets, before, notices if reduced else ())


def width_of_carry(cell: Cell) -> int:
    """How many numbers a cell carries, D: the states of one sequence."""
    carry = cell.init_carry(1)
    leaves = trees.leaves(carry)
    return sum(int(leaves[place].size) for place in places_of_states(carry))


def jacobians_along(cell: Cell, params: Tree, carry: Tree, xs: Array) -> Iterator[Array]:
    """The derivatives of the carry after each step by that before it, along sequences.

    Args:
        cell: whose steps.
        params: its parameters.
        carry: before the first step, (B, ...) each.
        xs: inputs (T, B, I).

    Yields:
        (B, D, D) for each of the T steps, as ``rnn_cells.anatomy.jacobians`` gives them.

    Raises:
        UserError: the states or their derivatives grow beyond all numbers.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        _, after = scan(_Carries(cell), params, carry, xs)
    before = trees.map(lambda first, later: np.concatenate([np.asarray(first)[None], later[:-1]]), carry, after)
    require_finite(before)
    batch, width = xs.shape[1], width_of_carry(cell)
    together = max(1, NUMBERS_AT_ONCE // (batch * width * width))
    for start in range(0, len(xs), together):
        stop = start + together
        carries = trees.map(lambda leaf: leaf[start:stop].reshape(-1, *leaf.shape[2:]), before)  # noqa: B023
        with np.errstate(all="ignore"):
            J = jacobians(cell, params, carries, xs[start:stop].reshape(-1, xs.shape[-1]))
        require_finite(J)
        yield from J.reshape(-1, batch, width, width)


@dataclass(frozen=True)
class _Carries:
    """The step of a cell with its carry in place of the output."""

    cell: Cell

    def __call__(self, params: Tree, carry: Tree, x: Any) -> tuple[Tree, Tree]:
        """One step."""
        carry, _ = self.cell(params, carry, x)
        return carry, carry


def norm(matrices: Array) -> Array:
    """The largest singular value of each of some matrices, (B, D, D) -> (B,)."""
    # The square root of an eigenvalue is as precise as a singular value where it is the largest, in half the time.
    return np.sqrt(np.maximum(np.linalg.eigvalsh(matrices @ matrices.swapaxes(1, 2))[:, -1], 0))


def log(values: Any) -> Array:
    """The natural logarithm, minus infinity of 0."""
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(values))


def exp(logs: Any) -> Array:
    """The exponential, infinity where it is too large for a number."""
    with np.errstate(over="ignore"):
        return np.asarray(np.exp(logs))
