"""Shared by the checks of cells and of tasks: results, comparisons, and gradients against finite differences."""

from __future__ import annotations

import html
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from minigrad import stop_gradient, trees
from minigrad.checking import TOLERANCE, directional_error
from minigrad.scan import use_backend
from minigrad.trees import Tree

Array = NDArray[Any]

DIFFERENCE = 1e-9
"""Largest allowed relative difference, in float64, of two ways to compute the same value."""

POINTS = 5
"""Number of points to try if even the shortest finite differences cross a kink."""


class CheckError(AssertionError):
    """A cell or a task fails a check."""


class Check(NamedTuple):
    """The result of one check.

    Attributes:
        name: the check's name.
        passed: whether it passed.
        detail: what is wrong; empty if it passed.
        error: the largest relative error, if numbers were compared.
    """

    name: str
    passed: bool
    detail: str
    error: float | None


@dataclass(frozen=True, repr=False)
class CheckReport:
    """The results of all checks of one cell or task.

    Attributes:
        subject: the cell or the task.
        checks: in order.
    """

    subject: Any
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether all checks passed."""
        return all(check.passed for check in self.checks)

    @property
    def failures(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if not check.passed)

    @property
    def error(self) -> float:
        """The largest relative error of all."""
        return max((check.error for check in self.checks if check.error is not None), default=0.0)

    def __repr__(self) -> str:
        """The result in a line, and a line per failed check."""
        count = len(self.checks)
        if not self.failures:
            return f"<{self.subject} passes all {count} checks; the largest relative error is {self.error:.1g}>"
        return f"<{self._failed()}>"

    def _failed(self) -> str:
        lines = [f"\n  {check.name}: {check.detail}" for check in self.failures]
        return f"{self.subject} fails {len(lines)} of {len(self.checks)} checks:{''.join(lines)}"

    def _repr_html_(self) -> str:
        """A table with a row per check, for a notebook."""
        rows = "".join(
            f'<tr><td style="text-align:left">{html.escape(check.name)}</td>'
            f'<td style="text-align:left">{"passed" if check.passed else "<b>failed</b>"}</td>'
            f'<td style="text-align:left">{"" if check.error is None else f"{check.error:.1g}"}</td>'
            f'<td style="text-align:left">{html.escape(check.detail)}</td></tr>'
            for check in self.checks
        )
        heads = "".join(f'<th style="text-align:left">{head}</th>' for head in ("check", "", "relative error", ""))
        return f"<p>{html.escape(str(self.subject))}</p><table><tr>{heads}</tr>{rows}</table>"

    def raise_if_failed(self) -> None:
        """Raise an error if a check failed.

        Raises:
            CheckError: with a line per failed check.
        """
        if not self.passed:
            raise CheckError(self._failed())


class Failed(Exception):
    """What is wrong, and the relative error if there is one."""

    def __init__(self, detail: str, error: float | None = None) -> None:
        super().__init__(detail)
        self.error = error


def attempt(name: str, check: Callable[[], float | None]) -> Check:
    """Run one check, which returns its largest relative error, or raises an exception that says what is wrong."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)  # such as an overflow or the mean of nothing
            with use_backend("reference"):  # which calls the step itself each time
                return Check(name, True, "", check())
    except Failed as failure:
        return Check(name, False, str(failure), failure.error)
    except Exception as error:
        return Check(name, False, f"{type(error).__name__}: {error}", None)


def gradient_error(draw: Callable[[], tuple[Callable[..., Tree], Sequence[Array]]], rng: np.random.Generator) -> float:
    """The relative error of a gradient against finite differences short enough to lie between two kinks.

    A difference across a kink is not a derivative, so ever shorter ones are tried at the same point until one agrees
    with the gradient. If the two shortest agree with each other instead, the gradient is wrong; if they do not, a kink
    is too near, and another point is drawn. Only a gradient that agrees passes.

    Args:
        draw: returns a function of arrays and the point at which to differentiate it, in float64.
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
            raise Failed(f"the relative error is {errors[-1]:.1e}; it must be at most {TOLERANCE:.0e}", errors[-1])
    raise Failed(f"at each of {POINTS} points even the shortest finite differences cross a kink or a jump")


@contextmanager
def constants(known: list[Array], *, new: bool) -> Iterator[None]:
    """Within this block ``stop_gradient`` returns the same values at every point, in the order of its calls.

    What it returns has no derivative, whatever the parameters do to it, so finite differences must not change it. Such
    is the loss of sampled actions (REINFORCE): its gradient is that of a function in which samples, rewards and the
    baseline are constants. Runs on the reference loop alone, where each step calls the primitive.

    Args:
        known: the values.
        new: whether to note them; otherwise they are returned.
    """
    if new:
        known.clear()
    left, forward = iter(list(known)), stop_gradient.forward

    def noted(x: Array) -> Array:
        known.append(np.array(x))
        return x

    stop_gradient.forward = noted if new else lambda x: next(left)
    try:
        yield
    finally:
        stop_gradient.forward = forward


def normal(like: Any, rng: np.random.Generator) -> Array:
    """Normal numbers; smaller in a matrix, so that a product with it changes by about as much as a vector."""
    shape = np.shape(like)
    return np.asarray(rng.standard_normal(shape) / np.sqrt(max(shape[0], 1) if len(shape) > 1 else 1))


def is_float(x: Any) -> bool:
    """Whether a leaf contains floating-point numbers."""
    return np.asarray(x).dtype.kind == "f"


def pairs(a: Tree, b: Tree) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """The path and both leaves, for every leaf of two trees of the same structure."""
    return zip(trees.paths(a), trees.zip_leaves(a, b), strict=True)


def same(a: Tree, b: Tree) -> bool:
    """Whether two trees of the same structure are equal, bit for bit."""
    return all(np.asarray(x).dtype == np.asarray(y).dtype and np.array_equal(x, y) for x, y in trees.zip_leaves(a, b))


def compare(what: str, actual: Tree, expected: Tree, allowed: float = DIFFERENCE) -> float:
    """The largest difference of two trees, relative to the largest element of the array.

    Raises:
        Failed: it is larger than allowed, or the shapes differ.
    """
    worst = 0.0
    for x, y in trees.zip_leaves(actual, expected):
        require_shape(f"{what}: one", x, np.shape(y))
        if np.size(x):
            # Rounding errors in a state near zero are relative to the terms it came from, which are of order 1.
            scale = max(float(np.max(np.abs(y))), 1e-2)
            error = float(np.max(np.abs(x - y))) / scale
            if not error <= allowed:
                raise Failed(f"{what}: the relative difference is {error:.1e}", error)
            worst = max(worst, error)
    return worst


def require_shape(what: str, x: Any, shape: tuple[int, ...]) -> None:
    """Check an array's shape.

    Raises:
        Failed: it is another.
    """
    if np.shape(x) != shape:
        raise Failed(f"{what} is of shape {np.shape(x)}; expected {shape}")
