"""How much of the time each gate and each activation is at the end of its range."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rnn_cells.anatomy import Activation, anatomy
from rnn_plugins.errors import UserError
from rnn_plugins.reports.probe import Probe
from rnn_plugins.reports.probing import chosen, layers, watch
from rnn_plugins.reports.report import Chart, Curve, Figure, Findings, Look, Quantity, Report, Table
from rnn_plugins.reports.subject import Subject
from rnn_plugins.words import listing, percent

Array: TypeAlias = NDArray[Any]

ENDS = {"sigmoid": (0.1, 0.9), "tanh": (-0.97, 0.97), "relu": (0.0, math.inf)}
"""Below the first number a value is left-saturated, above the second right-saturated; a relu is, where it is at 0."""

MOST = 0.9
"""The share of the time for which a unit has to be saturated to be counted as such."""

MANY = 0.2
"""The share of an activation's units that has to be saturated for the verdict to name it."""

STEPS = 100
"""Steps along each stretch."""


@dataclass(frozen=True)
class Habits:
    """How the units of one activation behave along sequences.

    Attributes:
        activation: which.
        low: (size,), the share of the time for which each unit is left-saturated.
        high: (size,), likewise right-saturated.
        still: (size,), whether a unit never moves.
    """

    activation: Activation
    low: Array
    high: Array
    still: Array

    @property
    def saturated(self) -> Array:
        """(size,), whether a unit is saturated for more than ``MOST`` of the time, at either end."""
        return np.asarray(self.low + self.high > MOST)


def habits(probe: Probe, warm_up: int, positions: int) -> list[Habits]:
    """Watch the activations of every step along windows of a probe's sequences, spread evenly over them.

    Args:
        probe: the network.
        warm_up: steps that are read before each stretch of one long sequence; fewer where it is short.
        positions: steps that are measured, rounded up to whole stretches; fewer where the sequences are short.

    Returns:
        One for each activation of the cell; none of layers whose step cannot be traced.

    Raises:
        UserError: the states overflow.
    """
    longest = probe.longest(scored=False)
    if not probe.separate:
        warm_up = min(warm_up, longest // 2)
    steps = min(STEPS, longest - (0 if probe.separate else warm_up))
    ends = probe.ends(steps, warm_up, scored=False)
    where = np.linspace(0, len(ends) - 1, min(-(-positions // steps), len(ends))).astype(np.intp)
    window = probe.window(chosen(ends, where), steps, warm_up)
    found: list[Habits] = []
    xs = window.xs
    # Layer by layer, as it is trained: the step of a whole stack would be planned and compiled anew, for this alone.
    for layer, cell, part, before in layers(probe.cell, probe.params, window.carry):
        activations = anatomy(cell).activations
        seen = watch(cell, part, before, xs, [activation.op for activation in activations])
        xs = seen.outputs
        for activation, values in zip(activations, seen.activations, strict=True):
            found.append(_habits(replace(activation, layer=layer), values))
    return found


def _habits(activation: Activation, values: Array) -> Habits:
    rows = values.reshape(-1, activation.size)
    below, above = ENDS[activation.function]
    low = rows <= below if activation.function == "relu" else rows < below
    return Habits(activation, low.mean(axis=0), (rows > above).mean(axis=0), rows.min(axis=0) == rows.max(axis=0))


class Saturation(Report):
    """How much of the time gates and activations are saturated.

    The share of the time for which each sigmoid is below 0.1 or above 0.9, each tanh below -0.97 or above 0.97, and
    each relu at 0 (Karpathy, Johnson and Fei-Fei 2015, arXiv:1506.02078, figure 2).
    """

    title: ClassVar[str] = "Saturation"
    question: ClassVar[str] = "Which gates are always open or closed, and which units pass no gradient on?"

    def memory(self, subject: Subject, look: Look) -> int:
        """For what each step computes, at all positions."""
        return look.positions * subject.probe.bytes_per_step

    def measure(self, subject: Subject, look: Look) -> Findings:
        """Measure one network.

        Raises:
            UserError: the step of its cell cannot be traced, or has no sigmoid, tanh or relu.
        """
        parts = subject.probe.anatomy
        if not parts.activations:
            reason = f"its step cannot be traced: {parts.reason}" if parts.reason else "it has no sigmoid, tanh or relu"
            raise UserError(f"the saturation of the cell {subject.cell} cannot be measured: {reason}")
        found = habits(subject.probe, look.lags, look.positions)
        figures: list[Figure] = [*_charts(found), unit_table(found, subject.probe.sequences)]
        return Findings(_quantities(found), tuple(figures), _verdict(found, trained=subject.steps > 0))


def unit_table(found: Sequence[Habits], where: str) -> Table:
    """A row for each activation; ``where`` is what the title calls that which they were watched on."""
    return Table(
        "units",
        f"Saturated and dead units on {where}",
        ("activation", "function", "units", "share low", "share high", "saturated", "dead"),
        tuple(
            (
                habit.activation.label,
                habit.activation.function,
                habit.activation.size,
                _mean([habit.low]),
                None if habit.activation.function == "relu" else _mean([habit.high]),
                int(habit.saturated.sum()),
                int(habit.still.sum()),
            )
            for habit in found
        ),
        definition="The share of the time for which a unit is low (a sigmoid below 0.1, a tanh below -0.97, a relu at "
        "0) and high (above 0.9, above 0.97), mean over units; how many units are so, at either end, for more than "
        f"{percent(MOST, 0)} of the time; and how many never change at all.",
    )


def _quantities(found: Sequence[Habits]) -> tuple[Quantity, ...]:
    by_function = {name: [habit for habit in found if habit.activation.function == name] for name in ENDS}
    sigmoid, tanh, relu = by_function.values()
    return (
        Quantity(
            "gate_low", "gates below 0.1", _mean(h.low for h in sigmoid), "share of the time",
            "The share of steps and units at which a sigmoid is below 0.1.", "no sigmoid",
        ),
        Quantity(
            "gate_high", "gates above 0.9", _mean(h.high for h in sigmoid), "share of the time",
            "The share of steps and units at which a sigmoid is above 0.9.", "no sigmoid",
        ),
        Quantity(
            "tanh_saturated", "tanh beyond 0.97", _mean(h.low + h.high for h in tanh), "share of the time",
            "The share of steps and units at which a tanh is below -0.97 or above 0.97.", "no tanh",
        ),
        Quantity(
            "relu_zero", "relu at 0", _mean(h.low for h in relu), "share of the time",
            "The share of steps and units at which a relu is at 0.", "no relu",
        ),
        Quantity(
            "saturated_units", "saturated units", _mean(h.saturated for h in found), "share of all",
            f"The share of units that are saturated for more than {percent(MOST, 0)} of the time, at either end.",
        ),
        Quantity(
            "dead_units", "dead units", _mean(h.still for h in found), "share of all",
            "The share of units that have the same value at every step.",
        ),
    )  # fmt: skip


def _charts(found: Sequence[Habits]) -> list[Chart]:
    """One for each layer and function: a point for each unit, and for relus, which have one side, a histogram."""
    kinds = dict.fromkeys((habit.activation.layer, habit.activation.function) for habit in found)
    charts = []
    for layer, function in kinds:
        some = [habit for habit in found if (habit.activation.layer, habit.activation.function) == (layer, function)]
        where, key = (f" of layer {layer}", f".layer{layer}") if layer else ("", "")
        if function == "relu":
            charts.append(_zeros(some, f"saturation.relu{key}", where))
            continue
        below, above = ENDS[function]
        charts.append(
            Chart(
                f"saturation.{function}{key}",
                f"The {function} units{where}",
                f"time above {above:g}",
                f"time below {below:g}",
                (
                    *(Curve(habit.activation.name, habit.high, habit.low, role="points") for habit in some),
                    Curve("always saturated", np.array([0.0, 1.0]), np.array([1.0, 0.0]), role="reference"),
                ),
                definition=f"A point for each unit: the share of the time for which it is above {above:g}, and below "
                f"{below:g}. A unit on the line from corner to corner is never between the two.",
                overlay=False,
                y_limits=(0.0, 1.0),
            )
        )
    return charts


def _zeros(some: Sequence[Habits], key: str, where: str) -> Chart:
    edges = np.linspace(0, 1, 21)
    curves = []
    for habit in some:
        counts = np.histogram(habit.low, edges)[0]
        curves.append(Curve(habit.activation.name, edges, np.append(counts, 0).astype(float), role="steps"))
    return Chart(
        key,
        f"The relu units{where}",
        "time at 0",
        "units",
        tuple(curves),
        definition="How many units are at 0 for which share of the time. A unit that always is cannot learn.",
        overlay=False,
    )


def _verdict(found: Sequence[Habits], trained: bool) -> tuple[str, ...]:
    """What it means, and what to try: first what harms, then what gates do.

    A learning rate has done nothing to weights that were not trained, so none is advised for them.
    """
    still = [
        f"{count} of {habit.activation.size} in {habit.activation.label}"
        for habit in found
        if (count := int(habit.still.sum()))
    ]
    shares = {habit.activation.label: float(habit.saturated.mean()) for habit in found}
    many = [
        f"{percent(share, 0)} of those in {label}"
        for label, share in sorted(shares.items(), key=lambda pair: -pair[1])
        if share > MANY
    ]
    flat = [
        f"{habit.activation.label} for {percent(share, 0)}"
        for habit in found
        if habit.activation.function == "tanh" and (share := float((habit.low + habit.high).mean())) > 0.5
    ]
    gates = [
        f"{habit.activation.label} {percent(habit.low.mean(), 0)} and {percent(habit.high.mean(), 0)}"
        for habit in found
        if habit.activation.function == "sigmoid" and (habit.low + habit.high).mean() > 0.1
    ]
    words = []
    if still:
        words.append(
            f"Dead units, whose value never changes: {listing(still)}"
            f"{'; a lower --learning-rate avoids that' if trained else ''}."
        )
    if many:
        words.append(
            f"Saturated units, which pass hardly any gradient on for more than {percent(MOST, 0)} of the time: "
            f"{listing(many)}."
        )
    if flat:
        words.append(
            f"Saturates: beyond 0.97, where less than 6 % of a gradient passes, {'are' if len(flat) > 1 else 'is'} "
            f"{listing(flat)} of the time; smaller weights{' or a lower --learning-rate' if trained else ''} help."
        )
    if gates:
        words.append(f"Gates that are closed (below 0.1), and open (above 0.9), of the time: {listing(gates)}.")
    if words:
        return tuple(words)
    total = _mean(habit.low + habit.high for habit in found if habit.activation.function != "relu")
    if total is None:
        return ("Alive: every unit changes.",)
    return (f"Hardly anything saturates: units are at an end of their range for {percent(total)} of the time.",)


def _mean(shares: Iterable[Array]) -> float | None:
    """The mean over all units; None without any."""
    units = list(shares)
    return float(np.concatenate(units).mean()) if units else None
