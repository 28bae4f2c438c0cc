"""How far back in time the gradient reaches, for any cell, and what makes it reach farther."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from minigrad import trees
from minigrad.scan import release
from rnn_cells import Cell, Stacked
from rnn_cells.wrapped import Wrapped
from rnn_plugins.errors import UserError
from rnn_plugins.options import values_of
from rnn_plugins.progress import begin
from rnn_plugins.registry import cell_options
from rnn_plugins.reports.gradients import (
    REACHED,
    STRETCHES,
    Norms,
    bounded,
    crossing,
    growth,
    left_of,
    main_state,
    measure_flow,
    most_lags,
)
from rnn_plugins.reports.jacobians import TooWide, memory_of_jacobians
from rnn_plugins.reports.probe import COPIES, Probe
from rnn_plugins.reports.probing import is_short, too_short
from rnn_plugins.reports.report import Chart, Curve, Findings, Look, Quantity, Report
from rnn_plugins.reports.subject import Subject

Array: TypeAlias = NDArray[Any]

TRIED = 50
"""Positions at most at which advice on an option is tried."""

TALLEST_BOUND = 1e4
"""How far above what was measured a bound is drawn, so that it does not flatten all the rest."""


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
        release()  # the plans for many positions, before those for Jacobians
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
        verdict = _verdict(probe, flow, _Trial(probe, lags, look), limit.growth if limit else None)
        return Findings(tuple(quantities), tuple(charts), verdict, tuple(notices))

    def memory(self, subject: Subject, look: Look) -> int:
        """For positions that are taken together, or for the Jacobians of the bound."""
        probe = subject.probe
        gradients = look.positions * (look.lags + 1) * COPIES * probe.bytes_per_step
        return max(min(super().memory(subject, look), gradients), memory_of_jacobians(probe, look.lags, STRETCHES))


def _band(norms: Array) -> Array:
    """The quantiles of 10 % and 90 % at each lag; of what is infinite they may be no number."""
    with np.errstate(invalid="ignore"):
        quantiles: Array = np.quantile(norms, [0.1, 0.9], axis=1)
    return quantiles


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


def _verdict(probe: Probe, flow: Norms, trial: _Trial, limit: float | None) -> tuple[str, ...]:
    """What it means, and what to try."""
    best, lags = flow.farthest, trial.lags
    state, norms = flow.states[best], flow.mean[best].tolist()
    through = f", through {state.label}" if len(flow.states) > 1 else ""
    fate, left = flow.fate, left_of(norms)
    factor, steps = growth(norms), f"{lags} step{'s' if lags > 1 else ''}"
    if fate == "nothing":
        return ("The loss does not depend on the state at all.",)
    if not any(norms[1:]):
        return ("Forgets at once: nothing is left of the gradient after one step.",)
    if fate == "explodes":
        size = f"is {left:.3g} times what it was" if math.isfinite(left) else "is too large for a number"
        pace = f", a factor of {factor:.3f} per step" if factor else ""
        return (f"Explodes: after {steps} the gradient {size}{through}{pace}.", _against_explosion(trial, limit))
    if fate == "grows":
        grown = f"is {left:.3g} times what it was{through}; not by a factor per step"
        return (f"Grows: after {steps} the gradient {grown}, so it does not explode.",)
    if fate != "vanishes":
        amount = f"is {left:.3g} times what it was" if left > 1 else f"has {100 * left:.1f} % of its size left"
        return (f"{fate.capitalize()}: after {steps} the gradient {amount}{through}.",)
    gone = crossing(norms, REACHED)
    half = crossing(norms, 0.5) or gone or 0.0
    words = f"Vanishes: half-life {half:.2g} steps, and 1 % is left after {gone:.3g}{through}"
    distance, thing = probe.distance()
    if distance is None or distance <= half:
        return (f"{words}.", *_against_vanishing(trial, factor, max(10 * half, lags), limit))
    return f"{words}, while {thing} {distance:.0f}.", *_against_vanishing(trial, factor, distance, limit)


@dataclass(frozen=True)
class _Trial:
    """Tries options of the cell of a network with fresh weights, since an option is advised for what it does.

    Another cell's option of a known name may be another thing.

    Attributes:
        probe: the network.
        lags: how far back its gradient is measured.
        look: the number of positions and the seed.
    """

    probe: Probe
    lags: int
    look: Look

    def option(self, name: str) -> float | None:
        """The value of an option of the cell that is a number; None where it has none of that name."""
        cell: Any = self.probe.cell
        while isinstance(cell, Stacked | Wrapped):
            cell = cell.cells[0] if isinstance(cell, Stacked) else cell.cell
        with suppress(AttributeError, TypeError, ValueError):
            return float(getattr(cell, name))
        return None

    def lengthens(self, option: str) -> bool:
        """Whether the gradient reaches farther with an option, given as ``NAME=VALUE``."""
        after, before = self._flow(option), self._flow("")
        return after is not None and before is not None and after.reach > before.reach

    def tames(self, option: str) -> bool:
        """Whether the gradient does not explode with an option."""
        flow = self._flow(option)
        return flow is not None and flow.fate != "explodes"

    def _flow(self, option: str) -> Norms | None:
        """The gradient by lag; None where the cell fails with the option, or its states overflow."""
        name, equals, value = option.partition("=")
        begin(f"trying {option}" if option else "trying it without")
        with suppress(Exception):  # nobody asked for this value: a cell that fails with it is only not advised
            cell = _with_options(self.probe.cell, {name: value} if equals else {})
            probe = copy.copy(self.probe)
            probe.cell = cell
            probe.params = trees.cast(cell.init_params(np.random.default_rng(self.look.seed)), probe.dtype)
            vars(probe).pop("anatomy", None)  # that of the other cell
            return measure_flow(probe, self.lags, min(self.look.positions, TRIED), self.look.seed)
        return None


def _with_options(cell: Cell, options: Mapping[str, str]) -> Cell:
    """A cell with other options, or a cell around such cells.

    Raises:
        UserError: it has no such option, or a value is invalid.
        ValueError: it refuses a value.
    """
    if isinstance(cell, Stacked):
        return replace(cell, cells=[_with_options(layer, options) for layer in cell.cells])
    if isinstance(cell, Wrapped):
        return replace(cell, cell=_with_options(cell.cell, options))
    known = [option for option in cell_options(type(cell)) if option.name in options]  # all others have their values
    return replace(cell, **values_of(f"the cell {type(cell).__name__}", known, options))


def _against_vanishing(trial: _Trial, factor: float | None, distance: float, limit: float | None) -> tuple[str, ...]:
    """What to try, with the values that follow from what was measured."""
    advice = []
    scale = trial.option("recurrent_scale")
    bias = None if trial.option("chrono") else trial.option("forget_bias")
    functions = {activation.function for activation in trial.probe.anatomy.activations}
    if scale is not None and factor:
        wanted = scale / factor
        if "relu" in functions and limit:  # nothing bounds such states, so that no step may stretch them
            wanted = min(wanted, scale / limit)
        option = f"recurrent_scale={wanted:.2g}"
        if wanted > 1.02 * scale and trial.lengthens(option):
            advice.append(f"--cell-option {option}")
    if bias is not None:
        # sigmoid(b) ** distance = 1/2: half of what is remembered is still there after the distance.
        kept = 0.5 ** (1 / distance)
        wanted = math.log(kept / (1 - kept))
        option = f"forget_bias={wanted:.2g}"
        if wanted > bias + 0.1:
            if trial.lengthens(option):
                advice.append(f"--cell-option {option}")
            else:
                bias = None  # it is another thing
    if not _gated(trial.probe):
        advice.append("a cell with gates, which training can open (--cell gru or --cell lstm)")
    elif bias is None and not trial.option("chrono"):
        advice.append("a cell whose forget gate starts open (--cell lstm --cell-option forget_bias=3)")
    if not advice:
        return ()
    return (f"For a longer reach (which alone does not lower the loss), try {' or '.join(advice)}.",)


def _against_explosion(trial: _Trial, limit: float | None) -> str:
    scale, advice = trial.option("recurrent_scale"), []
    if scale and limit and trial.tames(option := f"recurrent_scale={scale / limit:.2g}"):
        advice.append(f"--cell-option {option} (at which no step stretches it)")
    if not _gated(trial.probe):
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
            if flow.fate != "explodes":
                return ()
            return _verdict(probe, flow, _Trial(probe, lags, look), bounded(probe, lags, look.seed).growth)
        lags //= 4
    return ()
