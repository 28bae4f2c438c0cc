"""The number of threads of NumPy's matrix products: one, and more for large products if measured to be faster.

On a busy processor, a BLAS thread that waits to be scheduled delays all the others, many times per training step.
"""

from __future__ import annotations

import functools
import importlib
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import numpy as np

from minigrad.compiled.parallel import threads

T = TypeVar("T")

VARIABLES = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "OMP_NUM_THREADS")
"""Environment variables that set the number; if one is set, nothing is measured or changed."""

LARGE = 4_000_000
"""Multiplications of a product below which several threads are never faster."""

PAYS = 0.8
"""More threads are used if they take at most this fraction of the time of fewer."""

FALLEN = 1.5
"""A loop is slow if it takes so many times its best time."""

LOOPS = 3
"""The number of consecutive slow loops after which to measure again."""

SECONDS = 0.01
"""How long to try a number of threads, in seconds: a few time slices of a busy processor."""


class Counts(NamedTuple):
    """Numbers of threads.

    Attributes:
        small: for most products.
        large: for the products of time loops with large products.
    """

    small: int
    large: int


@dataclass
class _State:
    """The state of this process.

    Attributes:
        counts: those in use.
        wanted: for large products, as last measured.
        measured: whether they were measured.
        fixed: whether the counts were set by ``fix`` and must not change.
        steady: whether measured counts are adopted only by ``adopt``.
        depth: the number of active ``managed`` blocks, in all threads.
        found: each library, and its number of threads before the first such block.
        best: the shortest time of a step, by kind of loop.
        slow: the number of consecutive slow loops.
    """

    counts: Counts = field(default_factory=lambda: Counts(1, 1))
    wanted: int = 1
    measured: bool = False
    fixed: bool = False
    steady: bool = False
    depth: int = 0
    found: list[tuple[Any, int]] = field(default_factory=list)
    best: dict[Any, float] = field(default_factory=dict)
    slow: int = 0


_state = _State()


@functools.cache
def _libraries() -> list[Any]:
    """The BLAS libraries in this process, as threadpoolctl's controllers."""
    try:
        threadpoolctl = importlib.import_module("threadpoolctl")
    except ImportError:
        return []
    return list(threadpoolctl.ThreadpoolController().select(user_api="blas").lib_controllers)


def name() -> str:
    """The library, its version, and the processor type of its kernels."""
    parts = [(x.internal_api, x.version, getattr(x, "architecture", None)) for x in _libraries()]
    return ", ".join(" ".join(filter(None, part)) for part in parts) or "unknown"


def counts() -> Counts:
    """The numbers of threads within ``managed``."""
    if not is_given():
        return _state.counts
    number = max((library.num_threads for library in _libraries()), default=1)
    return Counts(number, number)


@contextmanager
def steady() -> Iterator[None]:
    """Within this block counts change only by ``adopt`` and ``fix``, so the caller can keep them within a step."""
    before, fixed = _state.steady, _state.fixed
    _state.steady = True
    try:
        yield
    finally:
        _state.steady, _state.fixed = before, fixed


def adopt() -> Counts:
    """Adopt the measured counts, and return those in use from now on."""
    if not _state.fixed:
        _state.counts = _state.counts._replace(large=_state.wanted)
    return counts()


def fix(wanted: Counts) -> None:
    """Set these counts permanently, to reproduce the bits of an earlier run."""
    _state.counts, _state.wanted, _state.fixed = wanted, wanted.large, True


def begin_with(before: Counts) -> None:
    """Start with the counts of an earlier run, and fewer for large products if so many are not faster now."""
    _state.counts, _state.wanted, _state.measured = before, before.large, before.large == 1
    _state.best.clear()


@contextmanager
def managed() -> Iterator[None]:
    """Within this block this module chooses the number of threads, unless the user has."""
    if is_given():
        yield
        return
    _state.depth += 1
    try:
        if _state.depth == 1:
            _state.found = [(library, library.num_threads) for library in _libraries()]
            _use(_state.counts.small)
        yield
    finally:
        _state.depth -= 1
        if not _state.depth:
            for library, number in _state.found:
                library.set_num_threads(number)


def run(call: Callable[[], T], product: tuple[int, int, int], kind: Any, steps: int) -> T:
    """Run a time loop with the best number of threads for its products.

    Args:
        call: runs the loop.
        product: m, k and n of a typical product.
        kind: loops of the same kind have the same work per step.
        steps: the number of steps.
    """
    if _state.depth == 0 or math.prod(product) < LARGE or is_given():
        return call()
    if not (_state.fixed or _state.measured):
        _measure(product)
    if not _state.steady:
        adopt()
    several = _state.counts.large
    if several == _state.counts.small:
        return call()
    _use(several)
    started = time.perf_counter()
    try:
        result = call()
    finally:
        _use(_state.counts.small)
    _watch((time.perf_counter() - started) / steps, product, kind)
    return result


def _watch(seconds: float, product: tuple[int, int, int], kind: Any) -> None:
    """Measure again if loops have become slow."""
    best = _state.best[kind] = min(seconds, _state.best.get(kind, seconds))
    _state.slow = _state.slow + 1 if seconds > FALLEN * best else 0
    if _state.slow == LOOPS and not _state.fixed:
        _state.slow = 0
        _state.best.clear()
        _measure(product)


def _measure(shape: tuple[int, int, int]) -> None:
    """Measure the best number of threads for a product; never more than before, after the first measurement."""
    most = _state.counts.large if _state.measured or _state.counts.large > 1 else threads()
    _state.measured = True
    try:
        _state.wanted = best_of(shape, most)
    finally:
        _use(_state.counts.small)


def best_of(shape: tuple[int, int, int], most: int) -> int:
    """The number of threads, up to ``most``, with which products (m, k) @ (k, n) are clearly fastest now."""
    m, k, n = shape
    left, right, out = np.ones((m, k), np.float32), np.ones((k, n), np.float32), np.empty((m, n), np.float32)
    chosen, number = 1, 2
    while number <= most:
        fewer, more = _times(lambda: np.matmul(left, right, out), (chosen, number))
        if more > PAYS * fewer:
            break
        chosen, number = number, min(2 * number, most) if number < most else most + 1
    return chosen


def _times(call: Callable[[], Any], numbers: tuple[int, ...]) -> list[float]:
    """The mean time of a call with each number of threads, tried in turn."""
    spent = [0.0] * len(numbers)
    rounds = 0
    while (rounds < 5 or min(spent) < SECONDS) and max(spent) < 8 * SECONDS:
        for i, number in enumerate(numbers):
            _use(number)
            if not rounds:
                call()  # the first call may start the threads
            started = time.perf_counter()
            call()
            spent[i] += time.perf_counter() - started
        rounds += 1
    return [seconds / rounds for seconds in spent]


def _use(number: int) -> None:
    for library in _libraries():
        library.set_num_threads(number)


def is_given() -> bool:
    """Whether the user has set the number by one of ``VARIABLES``."""
    return bool(given_by())


def given_by() -> str:
    """The first of ``VARIABLES`` that is set; empty if none is."""
    return next(filter(os.environ.get, VARIABLES), "")
