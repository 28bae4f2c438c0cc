"""How far one step of a cell stretches and shrinks what it carries, along sequences."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from minigrad.graph import TraceError
from rnn_plugins.reports.jacobians import (
    exp,
    jacobians_along,
    log,
    memory_of_jacobians,
    norm,
    stretches,
    width_of_carry,
)
from rnn_plugins.reports.matrices import SLOPES, Basic, Recurrent, basic_form, recurrent_matrices, spectral_radius
from rnn_plugins.reports.report import Chart, Curve, Figure, Findings, Look, Quantity, Report, Table
from rnn_plugins.reports.subject import Subject

Array: TypeAlias = NDArray[Any]

STRETCHES = 3
"""Stretches of sequences along which Jacobians are multiplied, at most."""

MOST_JACOBIANS = 300
"""Jacobians that are measured, at most."""

WORK = 75 * 512**3
"""Jacobians that are measured, times the cube of their width: a few seconds' work."""

LEAST_STEPS = 8
"""Steps of each stretch, however wide the carry is."""

DECOMPOSED = 24
"""Jacobians of which all singular values are computed, about; of the others only the largest."""

LAGS = 12
"""Lengths at which the norm of the product is computed."""

ROUNDING = 1e-6
"""How far from 1 a singular value must be not to count as 1: parameters are rounded to float32."""

DECADE = float(np.log(10))
"""The logarithm of a factor from which on what is carried is said to shrink or to be stretched."""

TALLEST_BOUND = float(np.log(1e4))
"""How far above what was measured a bound is drawn, so that it does not flatten all the rest: a logarithm."""

PER_DECADE = 10
"""Bars of the histogram to a factor of 10."""

LOWEST = 1e-6
"""The smallest singular value that the histogram shows."""


def effort(width: int, lags: int) -> tuple[int, int]:
    """The steps and the number of stretches to measure, for a carry of so many numbers."""
    count = min(MOST_JACOBIANS, WORK // max(1, width) ** 3)
    steps = min(lags, max(LEAST_STEPS, count // STRETCHES))
    return steps, min(STRETCHES, max(1, count // steps))


class Measured(NamedTuple):
    """Singular values along windows of sequences.

    Attributes:
        values: (N, D), all of some Jacobians, the largest first.
        norms: (T, B), the largest of every one.
        lags: (K,), lengths of products.
        products: (K, B), the logarithm of the norm of the product of the first k Jacobians; minus infinity where it is
            nothing.
    """

    values: Array
    norms: Array
    lags: Array
    products: Array


def measure_spectrum(steps: Iterable[Array], length: int) -> Measured:
    """The singular values of Jacobians (B, D, D), ``length`` of them one after another, and of their products."""
    lags = np.unique(np.geomspace(1, length, LAGS).round().astype(int))
    values: list[Array] = []
    norms: list[Array] = []
    products: list[Array] = []
    product: Array | None = None
    scale: Any = 0.0
    for k, J in enumerate(steps, start=1):
        if (k - 1) % max(1, length * len(J) // DECOMPOSED) == 0:
            values.append(np.linalg.svd(J, compute_uv=False))
        norms.append(norm(J))
        product = J if product is None else J @ product
        # The product is kept at size 1 and its size beside it, for after many steps it is no number any more.
        size = np.linalg.norm(product, axis=(1, 2))
        product = product / np.where(size > 0, size, 1.0)[:, None, None]
        scale = scale + log(size)
        if k in lags:
            products.append(scale + log(norm(product)))
    return Measured(np.concatenate(values), np.array(norms), lags, np.array(products))


class Spectrum(Report):
    """How far a step stretches the state: singular values of its Jacobian.

    Singular values of the one-step Jacobian of the whole carry along sequences, the norm of the product of Jacobians
    over k steps, which is what backpropagation through time multiplies, the recurrent matrices, and for a basic network
    the bound of Pascanu, Mikolov and Bengio (2013, arXiv:1211.5063). All in float64.
    """

    title: ClassVar[str] = "Spectrum of the Jacobian"
    question: ClassVar[str] = "How far does a step stretch or shrink what is carried, and what is left after k steps?"
    averaged: ClassVar[str] = (
        "The best direction: this is the one that is kept best over these steps, another one in each window; the "
        "gradients of losses (--kind flow), in whatever direction they point, keep at most as much."
    )

    def memory(self, subject: Subject, look: Look) -> int:
        """For Jacobians."""
        return memory_of_jacobians(subject.probe, *effort(width_of_carry(subject.probe.cell), look.lags))

    def measure(self, subject: Subject, look: Look) -> Findings:
        """Measure one network.

        Raises:
            UserError: the sequences are too short, the cell carries nothing, or its states overflow.
        """
        probe = subject.probe
        width = width_of_carry(probe.cell)
        along = stretches(probe, look, *effort(width, look.lags))
        length, batch = along.xs.shape[:2]
        cell, params = along.probe.cell, along.probe.params
        measured = measure_spectrum(jacobians_along(cell, params, along.carry, along.xs), length)
        notices = list(along.notices)
        matrices: list[Recurrent] = []
        try:
            matrices = recurrent_matrices(cell, params)
            form = basic_form(cell, params)
        except TraceError as error:
            form = f"it cannot be read: {error}"
            notices.append(f"the recurrent matrices are left out, because the step cannot be read: {error}")
        where = (
            f"of the {length * batch} Jacobians along {batch} windows of {probe.sequences}, of {length} steps "
            f"each, {along.preceded}"
        )
        figures: list[Figure] = [*_charts(measured, form, where, f"{probe.unit}s")]
        if matrices:
            figures.append(_table(matrices))
        quantities = _quantities(measured, matrices, form, where)
        return Findings(quantities, tuple(figures), _verdict(measured, form), tuple(notices))


def _charts(measured: Measured, form: Basic | str, where: str, unit: str) -> tuple[Chart, ...]:
    values, lags = measured.values, measured.lags
    width = values.shape[1]
    some = f"of {len(values)} {where}"
    low, high = np.quantile(values, [0.1, 0.9], axis=0)
    logs = measured.products
    products = [Curve("product", lags, exp(logs.mean(axis=1)), exp(logs.min(axis=1)), exp(logs.max(axis=1)))]
    norms = np.cumsum(log(measured.norms), axis=0)[lags - 1].mean(axis=1)
    products.append(Curve("its norms multiplied", lags, _drawn(norms, logs), role="bound"))
    if isinstance(form, Basic):
        products.append(Curve("bound by W", lags, _drawn(lags * log(form.bound), logs), role="reference"))
    return (
        Chart(
            "products",
            "The product of the Jacobians of k steps",
            f"k, {unit}",
            "largest singular value",
            tuple(products),
            log_y=True,
            definition=f"The largest singular value of the product {where}: the geometric mean, and a band from the "
            "smallest to the largest window. It is at most the product of the largest singular values of each, also a "
            "geometric mean, and in a basic network at most (steepest slope x largest singular value of W)^k; these "
            "bounds are drawn as far as they are of use.",
        ),
        Chart(
            "histogram",
            "Singular values of the one-step Jacobian",
            "singular value",
            f"share in 1/{PER_DECADE} of a decade",
            (Curve("", *histogram(values), role="steps"),),
            log_x=True,
            definition=f"How many of the {width} singular values {some}, lie in each range; those below {LOWEST:g} are "
            "not drawn.",
        ),
        Chart(
            "singular_values",
            "Singular values of the one-step Jacobian, in order",
            "share of the dimension",
            "singular value",
            (Curve("", np.arange(1, width + 1) / width, values.mean(axis=0), low, high),),
            log_y=True,
            definition=f"The largest, the second and so on {some}: the mean, and the band that contains 80 % of them.",
        ),
    )


def _drawn(bound: Array, products: Array) -> Array:
    """A bound, from logarithms, as far as it is not so far above all products that it would flatten them."""
    return np.where(bound <= max(products.max(), 0.0) + TALLEST_BOUND, exp(bound), np.nan)


def histogram(values: Array) -> tuple[Array, Array]:
    """The share of values in each tenth of a decade, as an outline: lower ends of ranges, and shares, 0 at last."""
    total = values.size
    values = values[values >= LOWEST]
    # Ranges have powers of 10^(1/10) in their middle, so that rounding does not throw values at 1 to both sides.
    ranges = np.round(PER_DECADE * np.log10(values)).astype(int)
    first, last = (int(ranges.min()), int(ranges.max())) if len(ranges) else (0, 0)
    shares = np.bincount(ranges - first, minlength=last - first + 1) / total
    return 10 ** ((np.arange(first, last + 2) - 0.5) / PER_DECADE), np.append(shares, 0.0)


def _table(matrices: list[Recurrent]) -> Table:
    rows = []
    for found in matrices:
        square = found.matrix.shape[0] == found.matrix.shape[1]
        rows.append(
            (
                found.name,
                found.operand,
                " x ".join(map(str, found.matrix.shape)),
                spectral_radius(found.matrix) if square else None,
                float(np.linalg.norm(found.matrix, 2)),
            )
        )
    return Table(
        "recurrent",
        "Recurrent matrices",
        ("matrix", "multiplies", "size", "spectral radius", "largest singular value"),
        tuple(rows),
        "The parameters that multiply a carried state, or their rows and columns that do. The spectral radius is the "
        "largest modulus of an eigenvalue; a matrix that is not square has none.",
    )


def _quantities(measured: Measured, matrices: list[Recurrent], form: Basic | str, where: str) -> tuple[Quantity, ...]:
    largest = f"largest singular value {where}"
    squares = [found.matrix for found in matrices if found.matrix.shape[0] == found.matrix.shape[1]]
    end = int(measured.lags[-1])
    nothing = "minus infinity"
    return (
        Quantity(
            "largest_mean",
            "largest singular value, mean",
            float(measured.norms.mean()),
            "",
            f"The mean of the {largest}: how far a step stretches what it stretches most.",
        ),
        Quantity(
            "largest_max",
            "largest singular value, maximum",
            float(measured.norms.max()),
            "",
            f"The maximum of the {largest}.",
        ),
        Quantity(
            "bound",
            "its bound by W",
            form.bound if isinstance(form, Basic) else None,
            "",
            "For s_t = f(s_{t-1} W + ...): the steepest slope of f (1 for tanh and relu, 1/4 for sigmoid) times the "
            "largest singular value of W (Pascanu, Mikolov and Bengio 2013). Below 1 gradients vanish on any input.",
            "not a basic network",
        ),
        Quantity(
            "share_above_one",
            "singular values above 1",
            float((measured.values > 1 + ROUNDING).mean()),
            "share of all",
            f"The share of all singular values of {len(measured.values)} {where}, that are above 1 by {ROUNDING:g}.",
        ),
        Quantity(
            "growth",
            "growth of the product",
            _finite(float(measured.products[-1].mean()) / end),
            "nats per step",
            f"The logarithm of the largest singular value of the product {where}, divided by {end}: the mean of the "
            "windows.",
            nothing,
        ),
        Quantity(
            "bound_growth",
            "growth of its norms multiplied",
            _finite(float(log(measured.norms).mean())),
            "nats per step",
            f"The mean logarithm of the {largest}: the product grows no faster.",
            nothing,
        ),
        Quantity(
            "spectral_radius",
            "largest spectral radius",
            max(map(spectral_radius, squares), default=None),
            "",
            "The largest modulus of an eigenvalue of a square recurrent matrix; the table has each of them.",
            "no square matrix",
        ),
    )


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _verdict(measured: Measured, form: Basic | str) -> tuple[str, ...]:
    """What it means: what the products do, and what the matrix alone would have told."""
    end, growth = int(measured.lags[-1]), float(measured.products[-1].mean())
    steps = f"{end} steps" if end > 1 else "1 step"
    if growth == -np.inf:
        first = f"Forgets: nothing of what is carried is left after {steps}."
    else:
        word = "Shrinks" if growth < -DECADE else "Stretches" if growth > DECADE else "Holds"
        first = (
            f"{word}: the largest singular value over {steps} is {exp(growth):.3g}, a factor of "
            f"{exp(growth / end):.3f} per step, while that of one step is {measured.norms.mean():.3f}."
        )
    if isinstance(form, str):
        return (
            first,
            f"The bound of Pascanu, Mikolov and Bengio (2013) is for a basic network, and this is not one: {form}.",
        )
    bound, greatest = f"{SLOPES[form.activation]:g} x sigma_max(W) = {form.bound:.3f}", measured.norms.max()
    if form.bound < 1 - ROUNDING:
        second = f"Its matrix decides: {bound} is below 1, so that gradients vanish on any input."
    else:
        second = (
            f"Its matrix does not decide: {bound} is not below 1, so that gradients need not vanish, and may explode "
            f"if it is above. Here no step stretches by more than {greatest:.3f}."
        )
    return first, second
