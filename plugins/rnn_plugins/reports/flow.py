"""How far back in time the gradient reaches, for any cell, and what makes it reach farther."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from minigrad import scan, sum, trees, vjp
from minigrad.trees import Tree
from rnn_cells import Cell, Stacked
from rnn_cells.ablated import Ablated
from rnn_cells.anatomy import State, indices_of_states
from rnn_plugins.errors import UserError
from rnn_plugins.progress import advance
from rnn_plugins.reports.jacobians import TooWide, exp, jacobians_along, log, norm, stretches, width_of_carry
from rnn_plugins.reports.probe import Probe
from rnn_plugins.reports.probing import draw_positions, is_short, losses_at_end, state_gradients, too_short
from rnn_plugins.reports.report import Chart, Curve, Findings, Look, Quantity, Report
from rnn_plugins.reports.subject import Subject

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

TALLEST_BOUND = 1e4
"""How far above what was measured a bound is drawn, so that it does not flatten all the rest."""


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

        def reach(place: int) -> tuple[float, float]:
            norms = self.mean[place].tolist()
            gone = crossing(norms, REACHED)
            return math.inf if gone is None and any(norms) else gone or 0.0, _left(norms)

        return max(self.real, key=reach)


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
    parts = -(-len(ends) // probe.rows_at_once(lags + 1))
    together = -(-len(ends) // parts)
    found: list[list[Array]] = []
    for part in range(parts):
        # All parts are of one size, since each size has a plan with buffers of its own: the last repeats some.
        start = min(part * together, len(ends) - together)
        some = ends[start : start + together]
        gradients = state_gradients(probe, probe.window(some, lags + 1, lags), probe.targets(some, lags + 1))
        # float64, because a square of 1e-25 is nothing in float32; what is no number was infinite a step before.
        norms = [_lengths(g)[::-1, part * together - start :] for g in gradients]
        found.append([np.where(np.isnan(lengths), np.inf, lengths) for lengths in norms])
        advance((part + 1) / parts)
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


class Flow(Report):
    """How far back in time the gradient of the loss reaches.

    The norm of the derivative of the loss at one position by the state k steps before it, for every state that the
    cell carries, over many positions (Hochreiter 1991; Bengio, Simard and Frasconi 1994).
    """

    title: ClassVar[str] = "Gradient flow"
    question: ClassVar[str] = "How much does a loss depend on the state k steps before it?"
    averaged: ClassVar[str] = (
        "All directions: this averages the gradients of many losses, in whatever direction of the state each of them "
        "points; the direction that is kept best (--kind spectrum) can last longer."
    )

    def measure(self, subject: Subject, look: Look) -> Findings:
        """Measure one network.

        Raises:
            UserError: the sequences are too short for any lag, there is no state, or states overflow.
        """
        probe = subject.probe
        main_state(probe.anatomy.states)
        lags, notices = _lags(probe, look)
        flow = measure_flow(probe, lags, look.positions, look.seed)
        means = flow.mean
        limit = None
        try:
            limit = bounded(probe, lags, look.seed)
        except TooWide as error:
            notices.append(f"the bound of the gradient is left out: {error}")
        if probe.anatomy.reason:
            notices.append(
                f"the step cannot be traced ({probe.anatomy.reason}), so paths within a step from one state to "
                "another are not in the derivatives"
            )
        notices += [
            f"the gradient with respect to {state.label} is rounding noise, and the verdict ignores it"
            for place, state in enumerate(flow.states)
            if place not in flow.real
        ]
        curves = [
            Curve(state.label, np.arange(lags + 1), mean, *_band(norms))
            for state, mean, norms in zip(flow.states, means, flow.norms, strict=True)
        ]
        main = flow.main
        order = [main, *(i for i in range(len(curves)) if i != main)]
        count = flow.norms[0].shape[1]
        what = f"over {count:,} positions of {probe.sequences}"
        charts = [
            Chart(
                "flow",
                "The gradient k steps back",
                f"lag k, {probe.unit}s",
                probe.in_loss("|dL(t) / ds(t-k)|"),
                tuple(curves[i] for i in order),
                log_y=True,
                definition="The Euclidean norm of the derivative of the loss at a position with respect to each "
                f"carried state k steps before it, along all paths: the mean {what}, and the band that contains "
                "80 % of them.",
            ),
        ]
        quantities = [q for i in order for q in _quantities(flow, i, i == main, lags, what)]
        if limit is not None:
            allowed = np.where(limit.bound > TALLEST_BOUND * limit.measured.max(), np.nan, limit.bound)
            back = np.arange(1, len(allowed) + 1)
            charts.append(
                Chart(
                    "bound",
                    "The gradient of the whole carry, beside its bound",
                    f"lag k, {probe.unit}s",
                    probe.in_loss("|dL(t) / d carry(t-k)|"),
                    (Curve("carry", back, limit.measured), Curve("bound", back, allowed, role="bound")),
                    log_y=True,
                    definition="The norm of the derivative of the loss with respect to the whole carry, and its "
                    "upper bound: its value at lag 1 times the largest singular values of the Jacobians of the steps "
                    f"between; both are means over {STRETCHES} windows of {probe.sequences}. The bound is drawn as far "
                    "as it is of use.",
                )
            )
            quantities.append(
                Quantity(
                    "bound_growth",
                    "growth of its bound",
                    limit.growth,
                    "per step",
                    "The geometric mean of the largest singular value of the carry's one-step Jacobian, along "
                    f"{STRETCHES} windows of {probe.sequences}.",
                )
            )
        verdict = _verdict(probe, flow, lags, limit.growth if limit else None)
        return Findings(tuple(quantities), tuple(charts), verdict, tuple(notices))


def _band(norms: Array) -> Array:
    """The quantiles of 10 % and 90 % at each lag; of what is infinite they may be no number."""
    with np.errstate(invalid="ignore"):
        quantiles: Array = np.quantile(norms, [0.1, 0.9], axis=1)
    return quantiles


def most_lags(probe: Probe) -> int:
    """How far back the gradient can be measured: before that, one long sequence is read as far again."""
    return (probe.longest() - 1) // (1 if probe.separate else 2)


def _lags(probe: Probe, look: Look) -> tuple[int, list[str]]:
    """The lags that the sequences allow, and a notice where these are fewer than asked for."""
    most = most_lags(probe)
    if look.lags <= most:
        return look.lags, []
    if most < 1:
        raise too_short(probe, "the gradient over one lag", 2 if probe.separate else 3)
    return most, [is_short(probe, f"the lags from {look.lags} to {most}")]


def _quantities(flow: Norms, place: int, is_main: bool, lags: int, what: str) -> list[Quantity]:
    """The numbers of one state; those of the main one have plain keys, so that subjects can be compared by them."""
    state, norms = flow.states[place], flow.mean[place].tolist()
    key, of = ("", f"dL/d{state.name}") if is_main else (f".{state.label}", f"dL/d{state.label}")
    norm, beyond = f"mean norm of the derivative of the loss with respect to {state.label}", f"not within {lags}"
    noisy = place not in flow.real
    if noisy:
        beyond = "rounding noise"
    return [
        Quantity(f"norm{key}", f"|{of}| at lag 0", norms[0], "", f"The {norm} after the last step before it, {what}."),
        Quantity(
            f"half_life{key}",
            f"half-life of {of}",
            None if noisy else crossing(norms, 0.5),
            "steps",
            f"The lag at which the {norm} first falls to half its value at lag 0.",
            beyond,
        ),
        Quantity(
            f"one_percent_lag{key}",
            f"1 %-lag of {of}",
            None if noisy else crossing(norms, REACHED),
            "steps",
            f"The lag at which the {norm} first falls to 1 % of its value at lag 0.",
            beyond,
        ),
        Quantity(
            f"growth{key}",
            f"growth of {of}",
            None if noisy else growth(norms),
            "per step",
            f"The factor by which the {norm} changes from one lag to the next, a geometric mean from lag 1 on.",
            "rounding noise" if noisy else "-",
        ),
    ]


def _verdict(probe: Probe, flow: Norms, lags: int, limit: float | None) -> tuple[str, ...]:
    """What it means, and what to try."""
    best = flow.farthest
    state, norms = flow.states[best], flow.mean[best].tolist()
    through = f", through {state.label}" if len(flow.states) > 1 else ""
    fate, left = fate_of(norms), _left(norms)
    factor, steps = growth(norms), f"{lags} step{'s' if lags > 1 else ''}"
    if fate == "nothing":
        return ("The loss does not depend on the state at all.",)
    if not any(norms[1:]):
        return ("Forgets at once: nothing is left of the gradient after one step.",)
    if fate == "explodes":
        size = f"is {left:.3g} times what it was" if math.isfinite(left) else "is too large for a number"
        pace = f", a factor of {factor:.3f} per step" if factor else ""
        return (f"Explodes: after {steps} the gradient {size}{through}{pace}.", _against_explosion(probe, limit))
    if fate != "vanishes":
        amount = f"is {left:.3g} times what it was" if left > 1 else f"has {100 * left:.1f} % of its size left"
        return (f"{fate.capitalize()}: after {steps} the gradient {amount}{through}.",)
    gone = crossing(norms, REACHED)
    half = crossing(norms, 0.5) or gone or 0.0
    words = f"Vanishes: half-life {half:.2g} steps, and 1 % is left after {gone:.3g}{through}"
    distance, thing = probe.distance()
    if distance is None or distance <= half:
        return (f"{words}.", *_against_vanishing(probe, factor, max(10 * half, lags), limit))
    return f"{words}, while {thing} {distance:.0f}.", *_against_vanishing(probe, factor, distance, limit)


def fate_of(norms: Sequence[float]) -> str:
    """What becomes of a gradient within the measured lags, in a word.

    It ``explodes`` above ten times what it was, ``vanishes`` where it comes to a hundredth, ``holds`` where a tenth is
    left, and ``fades`` between; ``nothing`` is where there was none.
    """
    if not any(norms):
        return "nothing"
    if _left(norms) > EXPLODED:
        return "explodes"
    if crossing(norms, REACHED) is not None:
        return "vanishes"
    return "holds" if _left(norms) > HELD else "fades"


def _left(norms: Sequence[float]) -> float:
    """What the last lag has of the first that has anything."""
    start = next((norm for norm in norms if norm > 0), 1.0)
    return norms[-1] / start if math.isfinite(norms[-1]) else math.inf


def _option(probe: Probe, name: str) -> float | None:
    """The value of an option of the cell that is a number; None where it has none of that name."""
    cell: Any = probe.cell
    while isinstance(cell, Stacked | Ablated):
        cell = cell.cells[0] if isinstance(cell, Stacked) else cell.cell
    with suppress(AttributeError, TypeError, ValueError):
        return float(getattr(cell, name))
    return None


def _against_vanishing(probe: Probe, factor: float | None, distance: float, limit: float | None) -> tuple[str, ...]:
    """What to try, with the values that follow from what was measured."""
    advice = []
    scale = _option(probe, "recurrent_scale")
    bias = None if _option(probe, "chrono") else _option(probe, "forget_bias")
    functions = {activation.function for activation in probe.anatomy.activations}
    if scale is not None and factor:
        wanted = scale / factor
        if "relu" in functions and limit:  # nothing bounds such states, so that no step may stretch them
            wanted = min(wanted, scale / limit)
        if wanted > 1.02 * scale:
            advice.append(f"--cell-option recurrent_scale={wanted:.2g}")
    if bias is not None:
        # sigmoid(b) ** distance = 1/2: half of what is remembered is still there after the distance.
        kept = 0.5 ** (1 / distance)
        wanted = math.log(kept / (1 - kept))
        if wanted > bias + 0.1:
            advice.append(f"--cell-option forget_bias={wanted:.2g}")
    if not _gated(probe):
        advice.append("a cell with gates, which training can open (--cell gru or --cell lstm)")
    elif bias is None and not _option(probe, "chrono"):
        advice.append("a cell whose forget gate starts open (--cell lstm --cell-option forget_bias=3)")
    if not advice:
        return ()
    return (f"For a longer reach (which alone does not lower the loss), try {' or '.join(advice)}.",)


def _against_explosion(probe: Probe, limit: float | None) -> str:
    scale, advice = _option(probe, "recurrent_scale"), []
    if scale and limit:
        advice.append(f"--cell-option recurrent_scale={scale / limit:.2g} (at which no step stretches it)")
    if not _gated(probe):
        advice.append("a cell with gates (--cell gru or --cell lstm)")
    others = f"{' or '.join(advice)}, and " if advice else ""
    return f"To prevent that, try {others}clipping (--grad-clip 1)."


def _gated(probe: Probe) -> bool:
    return any(activation.function == "sigmoid" for activation in probe.anatomy.activations)


def explosion(probe: Probe, look: Look) -> tuple[str, ...]:
    """What the report says where the gradient explodes, and what would hold it; nothing where it does not.

    Where the states along the sequences overflow, shorter stretches are measured.

    Raises:
        UserError: the sequences are too short for any lag.
    """
    lags, _ = _lags(probe, look)
    while lags and probe.anatomy.states:
        with suppress(UserError):
            flow = measure_flow(probe, lags, look.positions, look.seed)
            if fate_of(flow.mean[flow.farthest].tolist()) != "explodes":
                return ()
            return _verdict(probe, flow, lags, bounded(probe, lags, look.seed).growth)
        lags //= 4
    return ()
