"""Gradients held against finite differences, in random directions.

It checks; it computes no gradient that anything uses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minigrad import trees
from minigrad.gradients import vjp
from minigrad.tensor import value_of
from minigrad.trees import Tree

STEP = 1e-3
"""Length of a finite difference, for inputs of order 1: its error, STEP**4, and rounding, 1e-16 / STEP, meet here."""

TOLERANCE = 1e-6
"""Largest relative error of a right gradient in float64. Right ones reach 1e-9; wrong ones show in the first digits."""


class GradientError(AssertionError):
    """A gradient that is not the derivative of its function."""


def numerical_jvp(f: Callable[..., Tree], primals: Sequence[Tree], tangents: Sequence[Tree]) -> Tree:
    """The derivative of ``f`` in a direction by central differences of fourth order, in float64.

    (8 (f(x + h) - f(x - h)) - (f(x + 2h) - f(x - 2h))) / 12h.

    Args:
        f: a function of trees of float64 arrays that gives a tree of arrays.
        primals: where, one tree an argument.
        tangents: the direction, of the same structure and shapes.
    """

    def at(distance: float) -> Tree:
        moved = [trees.map(lambda x, t: x + distance * STEP * t, p, t) for p, t in zip(primals, tangents, strict=True)]
        return trees.map(value_of, f(*moved))

    return trees.map(lambda a, b, c, d: (8 * (a - b) - (c - d)) / (12 * STEP), at(1.0), at(-1.0), at(2.0), at(-2.0))


def directional_error(
    f: Callable[..., Tree], primals: Sequence[Tree], tangents: Sequence[Tree], rng: np.random.Generator
) -> float:
    """The relative difference between <g, J t> by finite differences and <J' g, t> by ``vjp``, for a random g.

    Two inner products stand for the whole Jacobian J: a wrong entry shows in nearly every direction. The difference
    is relative to the size that the inner product has on average over g, so that a chance cancellation is no error.
    """
    outputs, pullback = vjp(f, *primals)
    g = trees.map(lambda y: rng.standard_normal(y.shape), outputs)
    numerical = numerical_jvp(f, primals, tangents)
    terms = [np.ravel(a * b) for a, b in trees.zip_leaves(g, numerical)]
    pulled = [np.ravel(a * b) for a, b in trees.zip_leaves(tuple(tangents), pullback(g))]
    expected = np.concatenate([*terms, np.zeros(1)])
    actual = np.concatenate([*pulled, np.zeros(1)])
    scale = max(abs(actual.sum()), abs(expected.sum()), float(np.sqrt(np.square(expected).sum())))
    difference = float(abs(actual.sum() - expected.sum()))
    if not np.isfinite(difference):
        return float("inf")
    return difference / scale if scale > 1e-12 else 0.0


def check_vjp(
    f: Callable[..., Tree],
    primals: Sequence[Tree],
    *,
    order: int = 1,
    directions: int = 3,
    rng: np.random.Generator | None = None,
    tolerance: float = TOLERANCE,
) -> float:
    """Hold the gradient of ``f`` against finite differences in random directions; give the largest relative error.

    Args:
        f: a function of trees of float64 arrays that gives a tree of arrays.
        primals: where, one tree an argument. Keep them away from kinks.
        order: 2 checks the gradient of the gradient as well.
        directions: how many.
        rng: where directions come from; seeded where left out.
        tolerance: what is still right.

    Raises:
        GradientError: an error exceeds ``tolerance``, or a gradient is not finite.
        TypeError: a primal is of a narrower type than float64, in which differences of nearby values are mostly noise.
    """
    for leaf in trees.leaves(tuple(primals)):
        if np.asarray(leaf).dtype != np.float64:
            raise TypeError(f"check_vjp: an input has dtype {np.asarray(leaf).dtype}; finite differences need float64")
    rng = rng or np.random.default_rng(0)
    worst = 0.0
    for _ in range(directions):
        tangents = [trees.map(lambda x: rng.standard_normal(np.shape(x)), p) for p in primals]
        worst = max(worst, directional_error(f, primals, tangents, rng))
    if worst > tolerance:
        raise GradientError(
            f"the gradient is off by {worst:.1e} of its size, and finite differences allow {tolerance:.0e}: "
            "a derivative rule is wrong"
        )
    if order > 1:
        outputs, _ = vjp(f, *primals)
        g = trees.map(lambda y: rng.standard_normal(y.shape), outputs)

        def gradient(*inner: Any) -> Tree:
            return vjp(f, *inner)[1](g)

        worst = max(
            worst,
            check_vjp(gradient, primals, order=order - 1, directions=directions, rng=rng, tolerance=tolerance),
        )
    return worst
