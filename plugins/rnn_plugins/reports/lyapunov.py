"""The Lyapunov exponents of a cell that its inputs drive: how fast two states that differ a little come together.

They are computed for any cell from the Jacobians of its step.
"""

from __future__ import annotations

import math
from typing import ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from minigrad.trees import Tree
from rnn_cells import Cell
from rnn_plugins.reports.jacobians import jacobians_along, log, memory_of_jacobians, stretches, width_of_carry
from rnn_plugins.reports.report import Chart, Curve, Findings, Look, Quantity, Report
from rnn_plugins.reports.subject import Subject

Array: TypeAlias = NDArray[np.float64]

STRETCHES = 3
"""Stretches of sequences, each with a first state of its own, whose differences tell the error."""

WORK = 80_000
"""Steps of all stretches, times the width of the carry: a few seconds' work."""

MOST_STEPS = 500
"""Steps of each stretch, however narrow the carry is."""

LEAST_STEPS = 10
"""Steps of each stretch, however wide the carry is."""

DIRECTIONS = 256**2
"""Numbers of the orthonormal basis: the exponents that are computed, times the width of the carry."""

WARM_UP = 5
"""One in so many steps only turns the basis into the directions that grow most."""

ZERO = 1e-10
"""Exponents closer to 0 than this are 0 but for rounding."""


def growth_rates(
    cell: Cell,
    params: Tree,
    carry: Tree,
    xs: Array,
    *,
    count: int | None = None,
    warm_up: int = 0,
    seed: int = 0,
) -> Array:
    """How much each direction of an orthonormal basis, carried along by the steps, grows at each of them.

    An orthonormal basis Q is multiplied by the Jacobian of each step and made orthonormal anew, J Q = Q' R; the
    logarithms of the diagonal of R, averaged over time, are the Lyapunov exponents, the largest first (Benettin et al.
    1980; for driven networks Engelken, Wolf and Abbott 2023, arXiv:2006.02427, and Vogt et al. 2020, arXiv:2006.14123).
    This is done after every step, so that exponents are exact to rounding however far they lie apart.

    Args:
        cell: any cell.
        params: its parameters; float64 where the result shall be.
        carry: of B sequences, before the first step, on the attractor.
        xs: inputs (T, B, I).
        count: how many exponents, the largest; None is all D.
        warm_up: steps at the beginning that only turn the basis, and are not in the result.
        seed: of the first basis, which is random.

    Returns:
        (T - warm_up, B, count), natural logarithms; minus infinity where a direction is lost in one step, to nothing or
        to less than rounding.

    Raises:
        UserError: the states overflow.
    """
    batch, width = xs.shape[1], width_of_carry(cell)
    count = min(count or width, width)
    start = np.random.default_rng(seed).normal(size=(batch, width, count))
    basis = np.linalg.qr(start)[0]
    found = []
    for J in jacobians_along(cell, params, carry, xs):
        moved = J @ basis
        basis, R = np.linalg.qr(moved)
        grown = np.abs(np.diagonal(R, axis1=1, axis2=2))
        # What is left of a column that lies in the span of those before it is rounding, relative to the column.
        rounding = width * np.finfo(moved.dtype).eps * np.linalg.norm(moved, axis=1)
        found.append(log(np.where(grown > rounding, grown, 0.0)))
    return np.array(found[warm_up:], np.float64).reshape(-1, batch, count)


def exponents(rates: Array) -> Array:
    """Lyapunov exponents in nats per step, the largest first: (T, B, count) growth rates -> (count,)."""
    found = np.sort(rates.mean(axis=(0, 1)))[::-1]
    return np.where(np.abs(found) < ZERO, 0.0, found)


def kaplan_yorke(found: Array, width: int) -> float | None:
    """The Kaplan-Yorke dimension: how many exponents add up to no less than 0, the last of them in part.

    0 where the first exponent is negative, and the whole dimension where the sum of all is not (Kaplan and Yorke 1979).

    Args:
        found: exponents, the largest first.
        width: how many there are in all; where ``found`` has fewer, it may be too few.

    Returns:
        None where those in ``found`` add up to 0 or more and there are further ones.
    """
    sums = np.cumsum(found)
    whole = int((sums >= -ZERO).sum())
    if whole == len(found):
        return float(width) if whole == width else None
    if whole == 0:
        return 0.0
    return float(whole + max(sums[whole - 1], 0.0) / -found[whole])


class Lyapunov(Report):
    """Lyapunov exponents: whether small differences of the state die out or grow.

    The exponents of the network as its inputs drive it, by repeated QR, and the Kaplan-Yorke dimension of where its
    states lie (Engelken, Wolf and Abbott 2023, arXiv:2006.02427; Vogt et al. 2020, arXiv:2006.14123). In float64.
    """

    title: ClassVar[str] = "Lyapunov exponents"
    question: ClassVar[str] = "Do two states that differ a little converge or diverge along the same inputs?"
    averaged: ClassVar[str] = (
        "The long run: this is the rate per step over many steps, in the direction that lasts longest; over fewer "
        "(--kind spectrum) the best direction keeps at least as much per step, so what is forgotten in the long run "
        "can hold for a while."
    )

    def memory(self, subject: Subject, look: Look) -> int:
        """For Jacobians."""
        steps, _ = effort(width_of_carry(subject.probe.cell))
        return memory_of_jacobians(subject.probe, steps, STRETCHES)

    def measure(self, subject: Subject, look: Look) -> Findings:
        """Measure one network.

        Raises:
            UserError: the sequences are too short, the cell carries nothing, or its states overflow.
        """
        probe = subject.probe
        width = width_of_carry(probe.cell)
        steps, count = effort(width)
        along = stretches(probe, look, steps, STRETCHES)
        length = len(along.xs)
        warm_up = length // WARM_UP
        rates = growth_rates(
            along.probe.cell,
            along.probe.params,
            along.carry,
            along.xs,
            count=count,
            warm_up=warm_up,
            seed=look.seed,
        )
        notices = list(along.notices)
        if count < width:
            notices.append(f"the carry is {width:,} wide, so that only the largest {count} exponents are computed")
        measured, batch = rates.shape[:2]
        where = (
            f"over {measured} steps of each of {batch} windows of {probe.sequences}, {along.preceded} and {warm_up} "
            "more for the directions to converge"
        )
        found, error = exponents(rates), standard_error(rates)
        return Findings(
            _quantities(found, error, width, where),
            _charts(rates, found, width, where, f"{probe.unit}s"),
            _verdict(found, max(2 * (error or 0.0), 1 / measured)),
            tuple(notices),
        )


def effort(width: int) -> tuple[int, int]:
    """The steps of each stretch and the number of exponents to compute, for a carry of so many numbers."""
    width = max(1, width)
    steps = min(MOST_STEPS, max(LEAST_STEPS, WORK // (STRETCHES * width)))
    return steps, min(width, max(1, DIRECTIONS // width))


def standard_error(rates: Array) -> float | None:
    """The standard error of the largest exponent, from the differences between sequences; None where it has none."""
    each = rates[:, :, 0].mean(axis=0)
    if len(each) < 2 or not np.isfinite(each).all():
        return None
    return float(each.std(ddof=1) / math.sqrt(len(each)))


def _charts(rates: Array, found: Array, width: int, where: str, unit: str) -> tuple[Chart, ...]:
    each = np.sort(rates.mean(axis=0), axis=1)[:, ::-1]
    steps = np.arange(1, len(rates) + 1)
    so_far = np.cumsum(rates[:, :, 0], axis=0) / steps[:, None]
    return (
        Chart(
            "exponents",
            "Lyapunov exponents",
            "share of the dimension",
            "nats per step",
            (_banded(np.arange(1, len(found) + 1) / width, found, each.T),),
            definition=f"The exponents, the largest first, {where}, and a band from the smallest to the largest "
            "window.",
        ),
        Chart(
            "convergence",
            "The largest exponent, from the steps so far",
            f"steps, {unit}",
            "nats per step",
            (_banded(steps, so_far.mean(axis=1), so_far),),
            definition="The mean growth of the direction that grows most, up to each step: the mean of the windows, "
            "and a band from the smallest to the largest.",
        ),
    )


def _banded(x: NDArray[np.generic], middle: Array, each: Array) -> Curve:
    """A curve with a band from the least to the greatest of each row; what is minus infinity is left out."""
    middle, low, high = (np.where(np.isfinite(y), y, np.nan) for y in (middle, each.min(axis=1), each.max(axis=1)))
    return Curve("", x, middle, low, high)


def _quantities(found: Array, error: float | None, width: int, where: str) -> tuple[Quantity, ...]:
    dimension = kaplan_yorke(found, width)
    total, positive = float(found.sum()), int((found > 0).sum())
    some = len(found) < width
    nothing = "minus infinity"
    return (
        Quantity(
            "largest",
            "largest exponent",
            _finite(found[0]),
            "nats per step",
            f"The mean logarithmic growth of the direction that grows most, {where}.",
            nothing,
        ),
        Quantity(
            "largest_error",
            "its standard error",
            error,
            "nats per step",
            "The standard deviation between the windows, divided by the square root of their number.",
        ),
        Quantity(
            "positive",
            "positive exponents",
            positive if positive < len(found) or not some else None,
            f"of {width}",
            f"How many exponents are above 0, {where}.",
            f"at least {positive}",
        ),
        Quantity(
            "kaplan_yorke",
            "Kaplan-Yorke dimension",
            dimension,
            f"of {width}",
            "How many exponents add up to no less than 0, the last in part: 0 where all are negative.",
            f"at least {len(found)}",
        ),
        Quantity(
            "sum",
            "sum of the exponents",
            None if some else _finite(total),
            "nats per step",
            "The mean logarithm of how far a step changes volumes.",
            f"only {len(found)} of {width} computed" if some else nothing,
        ),
    )


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _verdict(found: Array, margin: float) -> tuple[str, ...]:
    """What it means for memory and for the gradient; closer to 0 than the margin, nothing can be told.

    The margin is twice the standard error, but no less than a factor of e over a whole stretch: that much of a growth
    may come from the directions where it began.
    """
    first = float(found[0])
    if not np.isfinite(first):
        return ("Forgets completely: after some steps nothing of the state is left.",)
    value = f"{first:+.3f} nats per step, plus or minus {margin:.2g}"
    if first + margin < 0:
        return (
            f"Forgets: the largest exponent is {value}, so that a difference between two states is halved every "
            f"{math.log(2) / -first:.3g} steps, and the gradient vanishes at that rate.",
        )
    if first - margin > 0:
        return (
            f"Chaotic: the largest exponent is {value}, so that a difference between two states doubles every "
            f"{math.log(2) / first:.3g} steps, and the gradient explodes at that rate.",
            "To prevent that, try a smaller recurrent matrix, clipping (--grad-clip 1) or a gated cell (--cell gru).",
        )
    return (
        f"At the edge: the largest exponent is {value}, so that differences between states neither shrink nor grow as "
        "far as can be told.",
    )
