"""How far back the input matters to a network: what it loses without the inputs further back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from minigrad import trees
from minigrad.trees import Tree
from rnn_plugins.errors import UserError
from rnn_plugins.reports.probe import Probe, part_of, require_finite
from rnn_plugins.reports.probing import ROWS_AT_ONCE, chosen, is_short, too_short
from rnn_plugins.reports.report import Chart, Curve, Findings, Look, Quantity, Report
from rnn_plugins.reports.subject import Subject

Array: TypeAlias = NDArray[Any]

FURTHER = 10
"""How many times ``Look.lags`` this report looks back: it takes no gradients, and what is remembered is long ago."""

FEWER = 4
"""By how much it divides ``Look.positions``: each of its positions gives a loss at every lag."""

FORGOTTEN = 0.01
"""The rise of the loss below which what lies further back is called forgotten."""

DRAWN = (1e-3, 20.0)
"""The range of rises that is drawn: what is smaller does not matter, and much of it is rounding."""

WIDTH = 1.15
"""The ratio of the lags between which losses are averaged; small lags stand alone."""


@dataclass(frozen=True)
class Rise:
    """How much a loss rises when only the last inputs are the true ones.

    Attributes:
        rise: (K, P): row k - 1 is what it rises by with the last k inputs alone, at each of P positions.
        loss: (K, P): what it is with all inputs.
    """

    rise: Array
    loss: Array


def measure_rise(probe: Probe, lags: int, count: int, seed: int = 0) -> Rise:
    """Compare what a network predicts after the true past with what it predicts after another one.

    At each position it reads what comes before; then it reads the steps that follow, once from the carry that it has,
    and once from the carry that it has half of all positions away. After k steps the second knows the last k alone, so
    one reading gives all lags.

    Args:
        probe: the network, with a loss at every step.
        lags: how far back, K; of one long sequence at most a sixth, so that the other past overlaps nothing of what is
            read.
        count: of positions at most; there are at least two.
        seed: of their choice.

    Raises:
        UserError: the states overflow.
    """
    ends = probe.ends(lags, lags)
    half = len(ends) // 2
    first = np.sort(np.random.default_rng(seed).choice(half, size=min(max(1, count // 2), half), replace=False))
    some = chosen(ends, np.concatenate([first, first + half]))
    window, targets = probe.window(some, lags, lags), probe.targets(some, lags)
    carry = trees.map(lambda leaf: np.concatenate([leaf, np.roll(leaf, len(first), axis=0)]), window.carry)
    twice = (slice(None), np.tile(np.arange(len(some)), 2))
    losses = _losses(probe, carry, part_of(window.xs, twice), targets[twice])
    full, cut = np.split(losses, 2, axis=1)
    return Rise(cut - full, full)


def _losses(probe: Probe, carry: Tree, xs: Any, targets: Array) -> Array:
    """The losses along inputs (T, B, ...), (T, B).

    Sequences are read side by side, which is fastest, and so few steps at a time that the memory holds what they give.

    Raises:
        UserError: the states overflow.
    """
    length, batch = targets.shape
    steps = min(probe.rows_at_once(batch), max(1, ROWS_AT_ONCE // (batch * probe.numbers_per_output)))
    parts = []
    for start in range(0, length, steps):
        some = slice(start, start + steps)
        with np.errstate(over="ignore", invalid="ignore"):
            carry, outputs = probe.cell.unroll(probe.params, carry, part_of(xs, some))
            losses = probe.loss(outputs, targets[some])
        require_finite((carry, losses))
        parts.append(np.asarray(losses, np.float64))
    return np.concatenate(parts)


def bands(lags: int) -> Array:
    """The first lag of each group of lags that are averaged over, and the end of the last, (G + 1,)."""
    powers = int(math.log(lags) / math.log(WIDTH)) + 1
    firsts = np.unique(np.ceil(WIDTH ** np.arange(powers) - 1e-9).astype(int))
    return np.append(firsts[firsts <= lags], lags + 1)


def reach(lags: Array, rise: Array, threshold: float = FORGOTTEN) -> float | None:
    """The lag at which a curve first falls below a threshold, interpolated over log lags; None if it does not."""
    below = np.flatnonzero(rise < threshold)
    if not len(below):
        return None
    after = int(below[0])
    if after == 0:
        return float(lags[0])
    share = (rise[after - 1] - threshold) / (rise[after - 1] - rise[after])
    return float(lags[after - 1] * (lags[after] / lags[after - 1]) ** share)


class Memory(Report):
    """How far back the input matters.

    The rise of the loss when all inputs before the last k are replaced by those before another position,
    against k (in the manner of Khandelwal, He, Qi and Jurafsky 2018, arXiv:1805.04623).
    """

    title: ClassVar[str] = "Memory"
    question: ClassVar[str] = "How much does the loss rise when only the last k inputs are the true ones?"

    def measure(self, subject: Subject, look: Look) -> Findings:
        """Measure one network.

        Raises:
            UserError: not every step is predicted, the sequences are too short for any lag, or the states grow beyond
                all numbers.
        """
        probe = subject.probe
        if not probe.every_step:
            raise UserError(
                f"memory measures losses at every step, and {subject.label} predicts only at the end of a "
                f"{probe.sequence}: flow and heatmap show how far back that depends on what was read"
            )
        asked, share = FURTHER * look.lags, 2 if probe.separate else 6
        lags = min(asked, (probe.longest() - (not probe.separate)) // share)
        if lags < 2:
            raise too_short(probe, "a lag of two", 2 * share + (not probe.separate))
        notices = []
        if lags < asked:
            notices.append(
                is_short(
                    probe,
                    f"the lags from {asked:,} to {lags:,}, so that the other past contains nothing of what is "
                    "predicted",
                )
            )
        found = measure_rise(probe, lags, look.positions // FEWER, look.seed)
        count = found.rise.shape[1]
        edges = bands(lags)
        widths = np.diff(edges)
        by_group = np.add.reduceat(found.rise, edges[:-1] - 1, axis=0) / widths[:, None]  # (G, P)
        rise = by_group.mean(axis=1)
        error = by_group.std(axis=1, ddof=1) / math.sqrt(count)
        centres = np.sqrt(edges[:-1] * (edges[1:] - 1.0))
        last = reach(centres, rise)
        forgotten = _losses_of(FORGOTTEN, probe)
        unit, before = probe.unit, "all" if probe.separate else f"the {lags:,}"
        what = (
            f"the mean over {count:,} positions of {probe.sequences} of how much the loss rises when the last k inputs "
            f"are the true ones and {before} before them are those of another position"
        )
        chart = Chart(
            "memory",
            "The rise of the loss when only the last inputs are known",
            f"known {unit}s k",
            probe.in_loss("rise of the loss"),
            (Curve("", centres, rise, rise - 2 * error, rise + 2 * error),),
            log_x=True,
            log_y=True,
            y_limits=DRAWN,
            definition=f"{what[0].upper()}{what[1:]}; lags that differ by less than {WIDTH - 1:.0%} are averaged over. "
            "The band is two standard errors of that mean to either side.",
        )
        quantities = [
            Quantity(
                "reach",
                f"lag at which the rise falls below {forgotten}",
                last,
                f"{unit}s",
                f"The number k at which it first falls below {forgotten}, interpolated: {what}.",
                f"not within {lags:,}",
            ),
            *(_rise_at(k, edges, rise, error, what, probe) for k in (1, 10, 100, 1000) if k <= lags),
            Quantity(
                "full_loss",
                "loss with all inputs",
                float(found.loss.mean()),
                probe.loss_unit,
                f"The mean loss at the same positions with all that is before them, {lags:,} {unit}s and more.",
            ),
        ]
        return Findings(tuple(quantities), (chart,), _verdict(last, lags, rise, probe), tuple(notices))


def _rise_at(lag: int, edges: Array, rise: Array, error: Array, what: str, probe: Probe) -> Quantity:
    place = int(np.searchsorted(edges, lag, side="right")) - 1
    first, last = int(edges[place]), int(edges[place + 1]) - 1
    over = f"k from {first} to {last}" if last > first else f"k = {lag}"
    return Quantity(
        f"rise_{lag}",
        f"rise at lag {lag}",
        float(rise[place]),
        probe.loss_unit,
        f"For {over}, {what}; its standard error is {error[place]:.2g}.",
    )


def _verdict(last: float | None, lags: int, rise: Array, probe: Probe) -> tuple[str, ...]:
    unit, forgotten = probe.unit, _losses_of(FORGOTTEN, probe)
    if last is None:
        left = _losses_of(rise[-1], probe, ".2g")
        return (f"Remembers: what lies more than {lags:,} {unit}s back still lowers the loss, by {left}.",)
    if last <= 1:
        return (f"Knows no more than the last {unit}: all before it lowers the loss by less than {forgotten}.",)
    return (f"The last {last:.3g} {unit}s count: all before them lowers the loss by less than {forgotten}.",)


def _losses_of(amount: float, probe: Probe, digits: str = "g") -> str:
    """An amount with the unit of the losses: "0.01 nats"."""
    return f"{amount:{digits}} {probe.loss_unit}".strip()
