"""Check gradients against finite differences, in random directions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minigrad import trees
from minigrad.gradients import vjp
from minigrad.tensor import value_of
from minigrad.trees import Tree

STEP = 1e-3
"""Step of a finite difference, for inputs of order 1; it balances truncation, STEP**4, and rounding, 1e-16 / STEP."""

TOLERANCE = 1e-6
"""Largest relative error of a correct gradient in float64. Correct ones reach 1e-9; wrong ones differ visibly."""


class GradientError(AssertionError):
    """A gradient that is not the derivative of its function."""


def numerical_jvp(f: Callable[..., Tree], primals: Sequence[Tree], tangents: Sequence[Tree]) -> Tree:
    """The derivative of ``f`` in a direction by central differences of fourth order, in float64.

    (8 (f(x + h) - f(x - h)) - (f(x + 2h) - f(x - 2h))) / 12h.

    Args:
        f: a function of trees of float64 arrays that returns a tree of arrays.
        primals: the point, one tree per argument.
        tangents: the direction, with the same structure and shapes.
    """

    def at(distance: float) -> Tree:
        moved = [trees.map(lambda x, t: x + distance * STEP * t, p, t) for p, t in zip(primals, tangents, strict=True)]
        return trees.map(value_of, f(*moved))

    return trees.map(lambda a, b, c, d: (8 * (a - b) - (c - d)) / (12 * STEP), at(1.0), at(-1.0), at(2.0), at(-2.0))


def directional_error(
    f: Callable[..., Tree], primals: Sequence[Tree], tangents: Sequence[Tree], rng: np.random.Generator
) -> float:
    """The relative difference between <g, J t> by finite differences and <J' g, t> by ``vjp``, for a random g.

    Two inner products test the whole Jacobian J: a wrong entry changes them in nearly every direction. The difference
    is relative to the inner product's average size over g, so that an accidental cancellation is not an error.
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
    """Check the gradient of ``f`` against finite differences in random directions; return the largest relative error.

    Args:
        f: a function of trees of float64 arrays that returns a tree of arrays.
        primals: the point, one tree per argument, away from kinks.
        order: 2 also checks the gradient of the gradient.
        directions: the number of directions.
        rng: the generator of directions; seeded with 0 by default.
        tolerance: the largest error allowed.

    Raises:
        GradientError: an error exceeds ``tolerance``, or a gradient is not finite.
        TypeError: a primal has a narrower dtype than float64, in which differences of nearby values are mostly noise.
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
