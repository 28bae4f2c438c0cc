"""How far gradients reach back in time: their norms by lag, what is left of them, and how fast they fall."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from minigrad import scan, sum, trees, vjp
from minigrad.trees import Tree
from rnn_cells import Cell
from rnn_cells.anatomy import State, indices_of_states
from rnn_plugins.errors import UserError
from rnn_plugins.progress import advance
from rnn_plugins.reports.jacobians import exp, jacobians_along, log, norm, stretches, width_of_carry
from rnn_plugins.reports.probe import Probe
from rnn_plugins.reports.probing import draw_positions, losses_at_end, parts_of, state_gradients
from rnn_plugins.reports.report import Look

Array: TypeAlias = NDArray[Any]

REACHED = 0.01
"""The share of its value at lag 0 below which a gradient is called gone."""

STRETCHES = 2
"""Stretches along which the bound is computed: each takes a singular value per step."""

EXPLODED, HELD = 10.0, 0.1
"""How many times what it was a gradient is that explodes, and one that holds; see ``fate_of``."""

LEAST_BOUNDED, BOUND_WORK = 8, 100 * 512**3
"""How far back the bound goes at least, and how far, times the cube of the carry's width, in a few seconds."""

ROUNDINGS = 100
"""How many units in the last place of the largest gradient at a lag one may be and count as rounding noise."""


@dataclass(frozen=True)
class Norms:
    """Norms of the derivatives of losses by the states before them.

    Attributes:
        states: by which states.
        norms: for each state (K + 1, P): of dL_t/ds_{t-k} for each lag k from 0 to K and each of P positions t.
        noise: the share of the largest norm at a lag below which one may come from rounding alone.
    """

    states: tuple[State, ...]
    norms: tuple[Array, ...]
    noise: float = 0.0

    @cached_property
    def mean(self) -> list[Array]:
        """For each state (K + 1,), the mean over positions."""
        return [norms.mean(axis=1) for norms in self.norms]

    @property
    def main(self) -> int:
        """Which state is the last layer's output, or where none is, its first."""
        return main_state(self.states)

    @cached_property
    def real(self) -> list[int]:
        """The states whose gradient is more than rounding noise beside the largest, at one lag at least.

        That by a state which shifts nothing but the scale of others, as the stabiliser of an exponential gate does, is
        exactly 0 and is computed as a difference of large numbers.
        """
        means = np.stack(self.mean)
        counts = (means > self.noise * means.max(axis=0)) | np.isinf(means)
        return [place for place, some in enumerate(counts.any(axis=1)) if some] or list(range(len(self.states)))

    @property
    def farthest(self) -> int:
        """The state through which the gradient falls to 1 % last; where it does not, that of which most is left.

        A state with nothing but noise is none of them.
        """
        return max(self.real, key=lambda place: reach_of(self.mean[place].tolist()))

    @property
    def reach(self) -> tuple[float, float]:
        """As ``reach_of``, through that state."""
        return reach_of(self.mean[self.farthest].tolist())

    @property
    def fate(self) -> str:
        """As ``fate_of``, through that state."""
        return fate_of(self.mean[self.farthest].tolist(), self.above(self.farthest))

    def above(self, place: int) -> int:
        """The layers above that of a state."""
        return max(state.layer for state in self.states) - self.states[place].layer


def main_state(states: Sequence[State]) -> int:
    """Which state is the last layer's output, or where none is, its first.

    Raises:
        UserError: there is no state.
    """
    if not states:
        raise UserError("the cell carries no state from step to step, so no gradient goes back in time")
    last = max(state.layer for state in states)
    indices = [i for i, state in enumerate(states) if state.layer == last]
    return next((i for i in indices if states[i].name == "h"), indices[0])


def measure_flow(probe: Probe, lags: int, positions: int, seed: int = 0) -> Norms:
    """Differentiate losses at many positions by the states before them.

    Every position is a row of a batch, which reads ``lags`` steps to come to a state of its own and then the
    ``lags + 1`` steps whose states are differentiated by: one backward pass for some hundred positions and all lags.

    Args:
        probe: the network.
        lags: how far back, K.
        positions: how many at most.
        seed: of their choice.

    Returns:
        The norms; infinite where a gradient is too large for a number.

    Raises:
        UserError: no position has as many steps before it, or the states overflow.
    """
    ends = draw_positions(probe, lags + 1, lags, positions, np.random.default_rng(seed))
    found: list[list[Array]] = []
    for rows, repeated in parts_of(len(ends), probe.rows_at_once(lags + 1)):
        some = ends[rows]
        gradients = state_gradients(probe, probe.window(some, lags + 1, lags), probe.targets(some, lags + 1))
        # float64, because a square of 1e-25 is nothing in float32; what is no number was infinite a step before.
        norms = [_lengths(g)[::-1, repeated:] for g in gradients]
        found.append([np.where(np.isnan(lengths), np.inf, lengths) for lengths in norms])
        advance(rows.stop / len(ends))
    whole = tuple(np.concatenate(part, axis=1) for part in zip(*found, strict=True))
    return Norms(probe.anatomy.states, whole, ROUNDINGS * float(np.finfo(probe.dtype).eps))


def _lengths(gradients: Array) -> Array:
    """Norms of vectors (T, B, size), in float64 but a step at a time."""
    return np.stack([np.linalg.norm(step.astype(np.float64), axis=-1) for step in gradients])


def crossing(norms: Sequence[float], share: float) -> float | None:
    """The lag at which a falling curve first comes to a share of its value at lag 0, interpolated; None if it does not.

    Between two lags it is taken to fall by a constant factor, or where it falls to 0, at once. Where nothing is at the
    first lags, as in a state that the output does not see at once, the first lag that has something counts as lag 0.
    """
    start = next((lag for lag, norm in enumerate(norms) if norm > 0), len(norms))
    for lag in range(start + 1, len(norms)):
        before, after, goal = norms[lag - 1], norms[lag], share * norms[start]
        if after <= goal:
            if after <= 0 or before <= goal:
                return float(lag)
            return lag - 1 + math.log(before / goal) / math.log(before / after)
    return None


def reach_of(norms: Sequence[float]) -> tuple[float, float]:
    """The lag at which 1 % is left, infinite where that is not reached, and what the last lag has left."""
    gone = crossing(norms, REACHED)
    return math.inf if gone is None and any(norms) else gone or 0.0, left_of(norms)


def growth(norms: Sequence[float]) -> float | None:
    """The factor per step, as a geometric mean from lag 1 to the last lag at which there is a number above 0.

    None where there is only one lag, or no number.
    """
    left = [lag for lag in range(1, len(norms)) if 0 < norms[lag] < math.inf]
    if len(left) < 2:
        return 0.0 if len(norms) > 2 and not any(norms[2:]) else None
    return float((norms[left[-1]] / norms[left[0]]) ** (1 / (left[-1] - left[0])))


class Bounded(NamedTuple):
    """The gradient of the whole carry beside its bound, from lag 1 on: means over a few windows of text.

    Attributes:
        measured: (K,), the norm of dL_t/ds_{t-k}, where s are all states together.
        bound: (K,), the norm at lag 1 times the largest singular values of the Jacobians between.
        growth: the geometric mean of those singular values.
    """

    measured: Array
    bound: Array
    growth: float


def bounded(probe: Probe, lags: int, seed: int) -> Bounded:
    """Compare the gradient of the carry with what its Jacobians allow.

    |dL_t/ds_{t-k}| is at most |dL_t/ds_{t-1}| times the product of the largest singular values of the Jacobians from
    t - k + 1 to t - 1, since the derivative is that times those (Pascanu, Mikolov and Bengio 2013, arXiv:1211.5063).

    Args:
        probe: the network.
        lags: how far back; less where the carry is so wide that its singular values would take long.
        seed: of the choice of stretches.

    Raises:
        UserError: states or their derivatives overflow.
        TooWide: the carry is too wide for Jacobians.
    """
    width = width_of_carry(probe.cell)
    lags = min(lags, max(LEAST_BOUNDED, BOUND_WORK // width**3))
    along = stretches(probe, Look(lags=lags + 1, seed=seed), lags, STRETCHES)
    leaves = trees.leaves(along.carry)
    nudges = [np.zeros((len(along.xs), *leaves[index].shape)) for index in indices_of_states(along.carry)]

    def loss(nudges: list[Any]) -> Any:
        _, outputs = scan(_Moved(along.probe.cell), along.probe.params, along.carry, (along.xs, nudges))
        return sum(losses_at_end(along.probe, outputs, along.targets))

    # Not value_and_grad, which refuses a loss that depends on nothing: here zeros are what is measured.
    (gradients,) = vjp(loss, nudges)[1](np.ones(()))
    flat = np.concatenate([g.reshape(*g.shape[:2], -1) for g in gradients], axis=-1)
    measured = np.linalg.norm(flat, axis=-1)[::-1]
    norms = [norm(J) for J in jacobians_along(along.probe.cell, along.probe.params, along.carry, along.xs)]
    logs = log(np.array(norms[::-1]))  # (K, B), the last step first; that one is in the derivative at lag 1
    products = np.concatenate([np.zeros_like(logs[:1]), np.cumsum(logs[1:], axis=0)])
    return Bounded(measured.mean(axis=1), (measured[0] * exp(products)).mean(axis=1), float(exp(logs.mean())))


@dataclass(frozen=True)
class _Moved:
    """The step of a cell from a carry that is moved by what comes beside the input, an array like each state."""

    cell: Cell

    def __call__(self, params: Tree, carry: Tree, x: tuple[Any, Sequence[Any]]) -> tuple[Tree, Any]:
        """One step."""
        x, nudges = x
        leaves = trees.leaves(carry)
        for index, nudge in zip(indices_of_states(carry), nudges, strict=True):
            leaves[index] = leaves[index] + nudge
        new, y = self.cell(params, trees.unflatten(carry, leaves), x)
        return trees.map(lambda _, leaf: leaf, carry, new), y  # in the order by which states are told


def most_lags(probe: Probe) -> int:
    """How far back the gradient can be measured: before that, one long sequence is read as far again."""
    return (probe.longest() - 1) // (1 if probe.separate else 2)


def fate_of(norms: Sequence[float], above: int = 0) -> str:
    """What becomes of a gradient within the measured lags, in a word.

    Above ten times what it was it ``explodes`` if it would grow as much at the rate of the second half of the lags,
    otherwise it ``grows``. It ``vanishes`` where it comes to a hundredth, ``holds`` where a tenth is left, and
    ``fades`` between; ``nothing`` is where there was none.

    Args:
        norms: for each lag from 0 on.
        above: the layers above the one whose state it is, through which a gradient has ever more paths the further it
            goes back: such growth is no explosion.
    """
    if not any(norms):
        return "nothing"
    if left_of(norms) > EXPLODED:
        return "explodes" if _late_growth(norms, above) > EXPLODED else "grows"
    if crossing(norms, REACHED) is not None:
        return "vanishes"
    return "holds" if left_of(norms) > HELD else "fades"


def _late_growth(norms: Sequence[float], above: int) -> float:
    """The factor over all lags at the mean rate of the second half of them, for a constant number of paths."""
    last, start = len(norms) - 1, next(lag for lag, norm in enumerate(norms) if norm > 0)
    middle = (start + last) // 2
    if not math.isfinite(norms[-1]):
        return math.inf
    half = math.log(norms[-1]) - math.log(norms[middle]) if norms[middle] > 0 else math.inf
    half -= math.log(math.comb(last + above, above) / math.comb(middle + above, above))
    return math.exp(min(half * (last - start) / (last - middle), 700.0))


def left_of(norms: Sequence[float]) -> float:
    """What the last lag has of the first that has anything."""
    start = next((norm for norm in norms if norm > 0), 1.0)
    return norms[-1] / start if math.isfinite(norms[-1]) else math.inf
