"""What the checks of cells and of tasks share: reports, comparisons, and gradients against finite differences."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from minigrad import trees
from minigrad.checking import TOLERANCE, directional_error
from minigrad.scan import use_backend
from minigrad.trees import Tree

Array = NDArray[Any]

DIFFERENCE = 1e-9
"""Largest relative difference, in float64, of two ways to compute one thing."""

POINTS = 5
"""How many points are tried where even the shortest finite differences meet a kink."""


class CheckError(AssertionError):
    """A cell or a task that fails a check."""


class Check(NamedTuple):
    """One thing that was checked.

    Attributes:
        name: what.
        passed: whether it holds.
        detail: what was found where it does not; else empty.
        error: the largest relative error, where numbers were compared.
    """

    name: str
    passed: bool
    detail: str
    error: float | None


@dataclass(frozen=True)
class CheckReport:
    """All that was checked of one cell or task.

    Attributes:
        subject: the cell or the task.
        checks: in order.
    """

    subject: Any
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether everything holds."""
        return all(check.passed for check in self.checks)

    @property
    def failures(self) -> tuple[Check, ...]:
        """What does not hold."""
        return tuple(check for check in self.checks if not check.passed)

    @property
    def error(self) -> float:
        """The largest relative error of all."""
        return max((check.error for check in self.checks if check.error is not None), default=0.0)

    def raise_if_failed(self) -> None:
        """Do nothing where everything holds.

        Raises:
            CheckError: something does not; a line for each.
        """
        if not self.passed:
            lines = [f"\n  {check.name}: {check.detail}" for check in self.failures]
            raise CheckError(f"{self.subject} fails {len(lines)} of {len(self.checks)} checks:{''.join(lines)}")


class Failed(Exception):
    """What a check has found, and the error where there is a number."""

    def __init__(self, detail: str, error: float | None = None) -> None:
        super().__init__(detail)
        self.error = error


def attempt(name: str, check: Callable[[], float | None]) -> Check:
    """Run one check, which gives the largest error that it saw or raises; whatever it raises is its finding."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)  # an overflow or an empty mean is a fault of what is checked
            with use_backend("reference"):  # the step itself is checked, as often as it is called
                return Check(name, True, "", check())
    except Failed as failure:
        return Check(name, False, str(failure), failure.error)
    except Exception as error:
        return Check(name, False, f"{type(error).__name__}: {error}", None)


def gradient_error(draw: Callable[[], tuple[Callable[..., Tree], Sequence[Array]]], rng: np.random.Generator) -> float:
    """The relative error of a gradient by finite differences that are short enough to lie between two kinks.

    Across a kink a difference is no derivative, so shorter ones are taken at the same point, until one agrees with the
    gradient. Where the shortest two agree with each other instead, the gradient is wrong; where they agree with
    nothing, a kink is too near, and another point is drawn. Nothing passes but a gradient that agrees.

    Args:
        draw: gives a function of arrays and the point at which it is differentiated, in float64.
        rng: draws directions.

    Raises:
        Failed: the gradient is wrong.
    """
    for _ in range(POINTS):
        f, primals = draw()
        tangents = [normal(x, rng) for x in primals]
        seed = int(rng.integers(2**32))
        errors = []
        for shorter in (4.0**-k for k in range(7)):
            moved = [t * shorter for t in tangents]
            errors.append(directional_error(f, primals, moved, np.random.default_rng(seed)))
            if errors[-1] <= TOLERANCE:
                return errors[-1]
        if not np.isfinite(errors[-1]):
            raise Failed("a value or a gradient is not finite")
        if abs(errors[-1] - errors[-2]) < 1e-3 * errors[-1]:
            raise Failed(f"the relative error is {errors[-1]:.1e}, where {TOLERANCE:.0e} is allowed", errors[-1])
    raise Failed(f"at each of {POINTS} points even the shortest finite differences meet a kink or a jump")


def normal(like: Any, rng: np.random.Generator) -> Array:
    """Normal numbers; smaller in a matrix, so that a product with it moves by about as much as a vector."""
    shape = np.shape(like)
    return np.asarray(rng.standard_normal(shape) / np.sqrt(max(shape[0], 1) if len(shape) > 1 else 1))


def is_float(x: Any) -> bool:
    """Whether a leaf holds floating-point numbers."""
    return np.asarray(x).dtype.kind == "f"


def pairs(a: Tree, b: Tree) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """The path and both leaves, for every leaf of two trees of one structure."""
    return zip(trees.paths(a), trees.zip_leaves(a, b), strict=True)


def same(a: Tree, b: Tree) -> bool:
    """Whether two trees of one structure hold the same bits."""
    return all(np.asarray(x).dtype == np.asarray(y).dtype and np.array_equal(x, y) for x, y in trees.zip_leaves(a, b))


def compare(what: str, actual: Tree, expected: Tree, allowed: float = DIFFERENCE) -> float:
    """The largest difference of two trees, relative to the largest element of its array.

    Raises:
        Failed: it is larger than is allowed, or the shapes differ.
    """
    worst = 0.0
    for x, y in trees.zip_leaves(actual, expected):
        require_shape(f"{what}: one", x, np.shape(y))
        if np.size(x):
            # Rounding in a state that is nearly zero has the size of what it came from, which is of order 1.
            scale = max(float(np.max(np.abs(y))), 1e-2)
            error = float(np.max(np.abs(x - y))) / scale
            if not error <= allowed:
                raise Failed(f"{what}: the relative difference is {error:.1e}", error)
            worst = max(worst, error)
    return worst


def require_shape(what: str, x: Any, shape: tuple[int, ...]) -> None:
    """See to it that an array has a shape.

    Raises:
        Failed: it has another.
    """
    if np.shape(x) != shape:
        raise Failed(f"{what} is of shape {np.shape(x)} where {shape} is expected")
