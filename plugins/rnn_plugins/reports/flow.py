"""How far back in time the gradient reaches, for any cell, and what would help. It draws nothing."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from minigrad.trees import Tree
from rnn_cells.anatomy import State, anatomy
from rnn_plugins import registry
from rnn_plugins.errors import UserError
from rnn_plugins.reports.jacobians import exp, jacobians_along, log, norm, stretches
from rnn_plugins.reports.probing import places, read, rows_at_once, state_gradients, windows
from rnn_plugins.reports.report import Chart, Curve, Findings, Look, Quantity, Report
from rnn_plugins.tasks.language_model import Model
from rnn_plugins.text.latex_check import check
from rnn_plugins.text.vocabulary import NOUNS

if TYPE_CHECKING:
    from rnn_plugins.reports.subject import Subject

Array: TypeAlias = NDArray[Any]

REACHED = 0.01
"""The share of its value at lag 0 below which a gradient is called gone."""

STRETCHES = 2
"""Stretches of text along which the bound is computed: each takes a singular value a step."""

FEW = 20
"""Brackets, or lines, of a text below which nothing is said of how far apart they are."""

TALLEST_BOUND = 1e4
"""How far above what was measured a bound is drawn, so that it does not flatten all the rest."""


@dataclass(frozen=True)
class Norms:
    """Norms of the derivatives of losses by the states before them.

    Attributes:
        states: by which states.
        norms: for each state (K + 1, P): of dL_t/ds_{t-k} for each lag k from 0 to K and each of P positions t.
    """

    states: tuple[State, ...]
    norms: tuple[Array, ...]

    @property
    def mean(self) -> list[Array]:
        """For each state (K + 1,), the mean over positions."""
        return [norms.mean(axis=1) for norms in self.norms]

    @property
    def main(self) -> int:
        """Which state is the last layer's output, or where none is, its first."""
        return main_state(self.states)

    @property
    def farthest(self) -> int:
        """Through which state most is left at the last lag, compared with lag 0."""
        return max(range(len(self.states)), key=lambda i: _ratio(self.mean[i][-1], self.mean[i][0]))


def main_state(states: Sequence[State]) -> int:
    """Which state is the last layer's output, or where none is, its first."""
    last = max(state.layer for state in states)
    places = [i for i, state in enumerate(states) if state.layer == last]
    return next((i for i in places if states[i].name == "h"), places[0])


def measure_flow(model: Model, params: Tree, tokens: Array, lags: int, positions: int, seed: int = 0) -> Norms:
    """Differentiate losses at many places of a text by the states before them.

    Every place is a row of a batch, which reads ``lags`` symbols to come to a state of its own and then the
    ``lags + 1`` symbols whose states are differentiated by: one backward pass for some hundred places and all lags.

    Args:
        model: the model.
        params: its parameters.
        tokens: (N,), the text.
        lags: how far back, K.
        positions: how many places at most.
        seed: of their choice.

    Raises:
        UserError: the text is shorter than 2 K + 2 symbols.
    """
    ends = places(len(tokens), 2 * lags + 1, positions, np.random.default_rng(seed))
    together = rows_at_once(model, lags + 1)
    found: list[list[Array]] = []
    for start in range(0, len(ends), together):
        some = ends[start : start + together]
        text = windows(tokens, some, 2 * lags + 1)
        carry = read(model, params, text[:lags])
        gradients = state_gradients(model, params, carry, text[lags:], np.asarray(tokens[some]))
        # float64, because a square of 1e-25 is nothing in float32.
        found.append([np.linalg.norm(g.astype(np.float64), axis=-1)[::-1] for g in gradients])
    return Norms(anatomy(model.cell).states, tuple(np.concatenate(parts, axis=1) for parts in zip(*found, strict=True)))


def crossing(norms: Sequence[float], share: float) -> float | None:
    """The lag at which a falling curve first comes to a share of its value at lag 0, interpolated; None if it does not.

    Between two lags it is taken to fall by a constant factor, or where it falls to 0, at once.
    """
    goal = share * norms[0]
    for lag in range(1, len(norms)):
        before, after = norms[lag - 1], norms[lag]
        if after <= goal:
            if after <= 0 or before <= goal:
                return float(lag)
            return lag - 1 + math.log(before / goal) / math.log(before / after)
    return None


def growth(norms: Sequence[float]) -> float | None:
    """The factor a step, as a geometric mean from lag 1 to the last lag at which anything is left; None for one lag."""
    left = [lag for lag in range(1, len(norms)) if norms[lag] > 0]
    if len(left) < 2:
        return 0.0 if len(norms) > 2 else None
    return float((norms[left[-1]] / norms[left[0]]) ** (1 / (left[-1] - left[0])))


def bound(subject: Subject, lags: int, seed: int) -> Array:
    """The product of the largest singular values of the carry's Jacobians over the last k steps, (K + 1,).

    A geometric mean over a few stretches of the text. |dL_t/ds_{t-k}| <= |dL_t/ds_t| times the product, for the carry s
    as a whole, as the derivative is the product of the Jacobians (Pascanu, Mikolov and Bengio 2013, arXiv:1211.5063).
    """
    along = stretches(subject, Look(lags=lags + 1, seed=seed), lags, STRETCHES)
    norms = [norm(J) for J in jacobians_along(along.cell, along.params, along.carry, along.xs)]
    logs = log(np.array(norms[::-1])).mean(axis=1)  # the last step first
    return exp(np.concatenate([[0.0], np.cumsum(logs)]))


class Flow(Report):
    """How far back in time the gradient of the loss reaches.

    The norm of the derivative of the loss at one position by the state k steps before it, for every state that the
    cell carries, over many positions of a text (Hochreiter 1991; Bengio, Simard and Frasconi 1994).
    """

    title: ClassVar[str] = "Gradient flow"
    question: ClassVar[str] = "How much does a loss depend on the state k steps before it: how far back can it teach?"

    def measure(self, subject: Subject, look: Look) -> Findings:
        """Look at one model on one text.

        Raises:
            UserError: the text is too short for any lag.
        """
        lags, notices = _lags(subject, look)
        flow = measure_flow(subject.model, subject.params, subject.tokens, lags, look.positions, look.seed)
        means = flow.mean
        limit = bound(subject, lags, look.seed)
        curves = [
            Curve(state.label, np.arange(lags + 1), mean, *np.quantile(norms, [0.1, 0.9], axis=1))
            for state, mean, norms in zip(flow.states, means, flow.norms, strict=True)
        ]
        main = flow.main
        order = [main, *(i for i in range(len(curves)) if i != main)]
        scaled = limit * means[main][0]
        scaled[scaled > TALLEST_BOUND * max(mean.max() for mean in means)] = np.nan
        count = flow.norms[0].shape[1]
        unit = f"{NOUNS[subject.vocabulary.level]}s"
        what = f"over {count:,} positions of the text"
        charts = (
            Chart(
                "flow",
                "The gradient k steps back",
                f"lag k, {unit}",
                "|dL(t) / ds(t-k)|, nats",
                tuple(curves[i] for i in order),
                log_y=True,
                definition="The Euclidean norm of the derivative of the loss at a position by each carried state k "
                f"steps before it, all ways included: the mean {what}, and the band that holds 80 % of them.",
            ),
            Chart(
                "bound",
                "The same, beside its bound",
                f"lag k, {unit}",
                "|dL(t) / ds(t-k)|, nats",
                (
                    Curve(flow.states[main].label, np.arange(lags + 1), means[main]),
                    Curve("bound", np.arange(lags + 1), scaled, role="bound"),
                ),
                log_y=True,
                definition="The bound is the norm at lag 0 times the largest singular values of the Jacobians of the "
                f"last k steps, a geometric mean over {STRETCHES} stretches; it is drawn as far as it is of use.",
            ),
        )
        quantities = [q for i in order for q in _quantities(flow, i, i == main, lags, what)]
        quantities.append(
            Quantity(
                "bound_growth",
                "growth of its bound",
                growth(limit.tolist()),
                "a step",
                "The geometric mean of the largest singular value of the carry's one-step Jacobian along the text: the "
                "gradient of the carry as a whole grows no faster.",
            )
        )
        return Findings(tuple(quantities), charts, _verdict(subject, flow, lags), tuple(notices))


def _lags(subject: Subject, look: Look) -> tuple[int, list[str]]:
    """How far back the text allows to look, and what is to be said of that."""
    most = (len(subject.tokens) - 2) // 2
    if look.lags <= most:
        return look.lags, []
    if most < 1:
        raise UserError(
            f"the text has {len(subject.tokens)} symbols, and the gradient over one lag takes 4: give a longer one"
        )
    return most, [
        f"the text is short ({len(subject.tokens):,} symbols), which reduces the lags from {look.lags} to {most}"
    ]


def _quantities(flow: Norms, place: int, is_main: bool, lags: int, what: str) -> list[Quantity]:
    """The numbers of one state; those of the main one have plain keys, so that subjects can be compared by them."""
    state, norms = flow.states[place], flow.mean[place].tolist()
    key, of = ("", f"dL/d{state.name}") if is_main else (f".{state.label}", f"dL/d{state.label}")
    norm, beyond = f"mean norm of the derivative of the loss by {state.label}", f"not within {lags}"
    return [
        Quantity(f"norm{key}", f"|{of}| at lag 0", norms[0], "", f"The {norm} after the last step before it, {what}."),
        Quantity(
            f"half_life{key}",
            f"half-life of {of}",
            crossing(norms, 0.5),
            "steps",
            f"The lag at which the {norm} first comes to half its value at lag 0.",
            beyond,
        ),
        Quantity(
            f"one_percent_lag{key}",
            f"1 %-lag of {of}",
            crossing(norms, REACHED),
            "steps",
            f"The lag at which the {norm} first comes to 1 % of its value at lag 0.",
            beyond,
        ),
        Quantity(
            f"growth{key}",
            f"growth of {of}",
            growth(norms),
            "a step",
            f"The factor by which the {norm} changes from one lag to the next, a geometric mean from lag 1 on.",
        ),
    ]


def _verdict(subject: Subject, flow: Norms, lags: int) -> tuple[str, ...]:
    """What it means, and what to try."""
    best = flow.farthest
    state, norms = flow.states[best], flow.mean[best].tolist()
    through = f", through {state.label}" if len(flow.states) > 1 else ""
    factor = growth(norms)
    if norms[0] == 0:
        return ("The loss does not depend on the state at all.",)
    if norms[1] == 0:
        return ("Forgets at once: nothing is left of the gradient after one step.",)
    if norms[-1] > 10 * norms[0]:
        words = f"Explodes: after {lags} steps the gradient is {norms[-1] / norms[0]:.3g} times what it was{through}"
        return (f"{words}, a factor of {factor:.3f} a step.", _against_explosion(subject, factor or 1.0))
    gone = crossing(norms, REACHED)
    if gone is None:
        return (f"Holds: after {lags} steps {_ratio(norms[-1], norms[0]):.3g} of the gradient is left{through}.",)
    half = crossing(norms, 0.5) or gone
    words = f"Vanishes: half-life {half:.2g} steps, and 1 % is left after {gone:.3g}{through}"
    distance, thing = _distance(subject)
    if distance is None or distance <= half:
        return (f"{words}.", *_against_vanishing(subject, factor, max(10 * half, lags)))
    return (
        f"{words}, while half of this text's {thing} {distance:.0f}.",
        *_against_vanishing(subject, factor, distance),
    )


def _distance(subject: Subject) -> tuple[float | None, str]:
    """How far apart things are in the text that belong together: brackets where there are any, otherwise lines."""
    if subject.vocabulary.level == "word":
        return None, ""
    text = subject.vocabulary.decode(subject.tokens[:200_000])
    closings = [closing.distance for closing in check(text).closings if closing.right]
    if len(closings) >= FEW:
        return statistics.median(closings), "brackets close later than"
    lines = [len(line) for line in text.splitlines() if line]
    if len(lines) >= FEW:
        return statistics.median(lines), "lines are longer than"
    return None, ""


def _option(subject: Subject, name: str) -> float | None:
    """The value of an option of the cell; None where it has none of that name."""
    for option in registry.cell_options(registry.cell_class(subject.cell)):
        if option.name == name:
            return float(subject.options.get(name, option.default))
    return None


def _against_vanishing(subject: Subject, factor: float | None, distance: float) -> tuple[str, ...]:
    """What to try, with the values that follow from what was measured."""
    advice = []
    scale, bias = _option(subject, "recurrent_scale"), _option(subject, "forget_bias")
    if scale is not None and factor:
        advice.append(f"recurrent_scale={scale / factor:.2g}")
    if bias is not None:
        # sigmoid(b) ** distance = 1/2: half of what is remembered is still there after the distance.
        kept = 0.5 ** (1 / distance)
        wanted = math.log(kept / (1 - kept))
        if wanted > bias + 0.1:
            advice.append(f"forget_bias={wanted:.2g}")
    gated = any(activation.function == "sigmoid" for activation in subject.anatomy.activations)
    if not gated:
        advice.append("a gated cell (--cell gru, --cell lstm)")
    elif bias is None:
        advice.append("a cell with a forget gate that starts open (--cell lstm:forget_bias=3)")
    if not advice:
        return ()
    return (f"To reach farther, try {' or '.join(advice)}.",)


def _against_explosion(subject: Subject, factor: float) -> str:
    scale = _option(subject, "recurrent_scale")
    smaller = f"recurrent_scale={scale / factor:.2g}, or " if scale is not None else ""
    return f"To hold it, try {smaller}clipping (--grad-clip 1) and a gated cell (--cell gru, --cell lstm)."


def _ratio(value: float, start: float) -> float:
    return value / start if start > 0 else 0.0
