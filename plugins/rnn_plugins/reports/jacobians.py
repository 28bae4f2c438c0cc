"""Jacobians of what a cell carries, step by step along sequences, for any cell."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from minigrad import scan, trees
from minigrad.scan import Lookup
from minigrad.trees import Tree
from rnn_cells import Cell
from rnn_cells.anatomy import indices_of_states, jacobians
from rnn_plugins.errors import UserError
from rnn_plugins.reports.probe import COPIES, Probe, require_finite
from rnn_plugins.reports.probing import draw_positions, is_short, too_short

if TYPE_CHECKING:
    from rnn_plugins.reports.report import Look

Array: TypeAlias = NDArray[Any]

NUMBERS_AT_ONCE = 1_000_000
"""Numbers of Jacobians that are computed together; what they are computed from takes some thirty times as many."""

MOST_BYTES = 16e9
"""Memory that the Jacobians of one step of all stretches may take, with all that one of them is computed from."""


class TooWide(UserError):
    """The cell carries too many numbers for its Jacobians to be measured."""


class Stretches(NamedTuple):
    """Where Jacobians are taken: windows of sequences, and the states that reading what comes before them leads to.

    Attributes:
        probe: the network, in float64.
        carry: before the first step, (B, ...) each.
        xs: (T, B, I), what it sees.
        targets: as ``Probe.targets`` gives them.
        read: steps that it has read before; None where that is all that each sequence has.
        notices: what had to be done otherwise than asked.
    """

    probe: Probe
    carry: Tree
    xs: Array
    targets: Array
    read: int | None
    notices: tuple[str, ...]

    @property
    def preceded(self) -> str:
        """What comes before them, in words."""
        return "after all steps before them" if self.read is None else f"after {self.read} steps of warm-up"


def stretches(probe: Probe, look: Look, steps: int, count: int) -> Stretches:
    """Stretches of a probe's sequences, in float64.

    Those of one long sequence are each read from a first carry of their own ``look.lags`` steps before.

    Args:
        probe: the network.
        look: how much is read before, and the seed of the choice.
        steps: T, the length of each.
        count: B, how many.

    Raises:
        UserError: the sequences are too short, or the cell carries nothing.
        TooWide: the Jacobians would take more than ``MOST_BYTES``.
    """
    width = width_of_carry(probe.cell)
    if not width:
        raise UserError("the cell carries no state from step to step, so there is no Jacobian to measure")
    needed = _bytes_of(probe, steps, count)
    if needed > MOST_BYTES:
        raise TooWide(
            f"the cell carries {width:,} numbers, too many to measure Jacobians ({width:,} x {width:,}), which would "
            f"take about {needed / 1e9:.0f} GB of memory: measure a smaller network (--hidden-size, or the cell's "
            "options)"
        )
    available = probe.longest()
    if available < 2:
        raise too_short(probe, "a Jacobian", 2)
    short = min(steps, available if probe.separate else max(available - look.lags, available // 2))
    before = look.lags if probe.separate else min(look.lags, available - short)
    reduced = [
        f"the steps {name} from {asked} to {used}"
        for name, asked, used in (("measured", steps, short), ("read before them", look.lags, before))
        if asked != used
    ]
    ends = draw_positions(probe, short, before, count, np.random.default_rng(look.seed))
    probe = probe.astype("float64")
    window, targets = probe.window(ends, short, before), probe.targets(ends, short)
    xs = window.xs.array() if isinstance(window.xs, Lookup) else window.xs
    notices = (is_short(probe, " and ".join(reduced)),) if reduced else ()
    return Stretches(probe, window.carry, np.asarray(xs), targets, None if probe.separate else before, notices)


def memory_of_jacobians(probe: Probe, steps: int, count: int) -> int:
    """The bytes that Jacobians along ``count`` stretches of ``steps`` take; 0 where ``stretches`` refuses them."""
    needed = _bytes_of(probe, steps, count)
    return needed if needed <= MOST_BYTES else 0


def _bytes_of(probe: Probe, steps: int, count: int) -> int:
    """Those of the Jacobians, of what they are computed from, and of parameters: in float64, and as loops pack them."""
    width = width_of_carry(probe.cell)
    rows = min(_rows_at_once(width), steps * count)
    numbers = width * (max(count, rows) * width + rows * probe.anatomy.numbers * COPIES)
    return (numbers + COPIES * trees.count(probe.params)) * np.dtype(np.float64).itemsize


def _rows_at_once(width: int) -> int:
    """How many Jacobians of a carry of so many numbers are computed together."""
    return max(1, NUMBERS_AT_ONCE // max(width, 1) ** 2)


def width_of_carry(cell: Cell) -> int:
    """How many numbers a cell carries, D: the states of one sequence."""
    carry = cell.init_carry(1)
    leaves = trees.leaves(carry)
    return sum(int(leaves[index].size) for index in indices_of_states(carry))


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
        UserError: the states or their derivatives overflow.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        _, after = scan(_Carries(cell), params, carry, xs)
    before = trees.map(lambda first, later: np.concatenate([np.asarray(first)[None], later[:-1]]), carry, after)
    require_finite(before)
    length, batch, width = *xs.shape[:2], width_of_carry(cell)
    carries = trees.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), before)
    inputs = xs.reshape(-1, xs.shape[-1])

    def some(rows: slice) -> Array:
        with np.errstate(all="ignore"):
            J = jacobians(cell, params, trees.map(lambda leaf: leaf[rows], carries), inputs[rows])
        require_finite(J)
        return J

    rows = _rows_at_once(width)
    together = max(1, rows // batch) * batch  # whole steps, each in parts where one alone is too large
    for start in range(0, length * batch, together):
        stop = min(start + together, length * batch)
        J = np.concatenate([some(slice(part, min(part + rows, stop))) for part in range(start, stop, rows)])
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
