"""How many threads NumPy's matrix products take: one, and large products more where a measurement shows that they pay.

A thread of a BLAS that waits for its turn on a busy processor holds up all the others, many times a training step.
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
"""Environment variables by which a user decides; then nothing is measured and nothing changed."""

LARGE = 4_000_000
"""Multiplications of a product below which its threads are never worth their agreement."""

PAYS = 0.8
"""The time of more threads, as a share of that of fewer, from which they are taken."""

FALLEN = 1.5
"""How many times as long as at its best a loop takes where the speed has fallen."""

LOOPS = 3
"""So many slow loops, one after the other, are no chance."""

SECONDS = 0.01
"""How long a number of threads is tried: a few turns of a busy processor."""


class Counts(NamedTuple):
    """How many threads products take.

    Attributes:
        small: most products.
        large: those of time loops whose products are large.
    """

    small: int
    large: int


@dataclass
class _State:
    """What is known in this process.

    Attributes:
        counts: those in use.
        wanted: for large products, as measured last.
        measured: whether that was done.
        held: whether somebody wants these counts and no others.
        steady: whether what is measured is taken over only when somebody says so.
        depth: how many blocks of ``managed`` are under way, in all threads.
        found: each library, and how many threads it had before the first of them.
        best: the shortest time of a step, by the kind of loop.
        slow: slow loops, one after the other.
    """

    counts: Counts = field(default_factory=lambda: Counts(1, 1))
    wanted: int = 1
    measured: bool = False
    held: bool = False
    steady: bool = False
    depth: int = 0
    found: list[tuple[Any, int]] = field(default_factory=list)
    best: dict[Any, float] = field(default_factory=dict)
    slow: int = 0


_state = _State()


@functools.cache
def _libraries() -> list[Any]:
    """The BLAS libraries in this process, as threadpoolctl controls them."""
    try:
        threadpoolctl = importlib.import_module("threadpoolctl")
    except ImportError:
        return []
    return list(threadpoolctl.ThreadpoolController().select(user_api="blas").lib_controllers)


def name() -> str:
    """The library, its version, and the kind of processor that its kernels are made for."""
    parts = [(x.internal_api, x.version, getattr(x, "architecture", None)) for x in _libraries()]
    return ", ".join(" ".join(filter(None, part)) for part in parts) or "unknown"


def counts() -> Counts:
    """How many threads products take within ``managed``."""
    if not is_given():
        return _state.counts
    number = max((library.num_threads for library in _libraries()), default=1)
    return Counts(number, number)


@contextmanager
def steady() -> Iterator[None]:
    """Within this block counts change only by ``settle`` and ``hold``, and so between two steps of somebody's."""
    before, held = _state.steady, _state.held
    _state.steady = True
    try:
        yield
    finally:
        _state.steady, _state.held = before, held


def settle() -> Counts:
    """Take over what was measured, and give what holds from now on."""
    if not _state.held:
        _state.counts = _state.counts._replace(large=_state.wanted)
    return counts()


def hold(wanted: Counts) -> None:
    """Take these counts and no others, to get the same bits as once before."""
    _state.counts, _state.wanted, _state.held = wanted, wanted.large, True


def begin_with(before: Counts) -> None:
    """Take these counts, as once before, and fewer for large products where so many do not pay now."""
    _state.counts, _state.wanted, _state.measured = before, before.large, before.large == 1
    _state.best.clear()


@contextmanager
def managed() -> Iterator[None]:
    """Within this block the number of threads is chosen here, unless the user has."""
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
    """Run a time loop on as many threads as suit its products.

    Args:
        call: runs it.
        product: m, k and n of a typical product.
        kind: loops of one kind have equally much to do in a step.
        steps: how many it takes.
    """
    if _state.depth == 0 or math.prod(product) < LARGE or is_given():
        return call()
    if not (_state.held or _state.measured):
        _measure(product)
    if not _state.steady:
        settle()
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
    """Measure again where the speed has fallen."""
    best = _state.best[kind] = min(seconds, _state.best.get(kind, seconds))
    _state.slow = _state.slow + 1 if seconds > FALLEN * best else 0
    if _state.slow == LOOPS and not _state.held:
        _state.slow = 0
        _state.best.clear()
        _measure(product)


def _measure(shape: tuple[int, int, int]) -> None:
    """Find out how many threads suit a product now; more than were taken before are not tried a second time."""
    most = _state.counts.large if _state.measured or _state.counts.large > 1 else threads()
    _state.measured = True
    try:
        _state.wanted = best_of(shape, most)
    finally:
        _use(_state.counts.small)


def best_of(shape: tuple[int, int, int], most: int) -> int:
    """The number of threads, up to ``most``, with which products (m, k) @ (k, n) are clearly the fastest now."""
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
                call()  # which may have to start them
            started = time.perf_counter()
            call()
            spent[i] += time.perf_counter() - started
        rounds += 1
    return [seconds / rounds for seconds in spent]


def _use(number: int) -> None:
    for library in _libraries():
        library.set_num_threads(number)


def is_given() -> bool:
    """Whether the user has decided, by one of ``VARIABLES``."""
    return any(os.environ.get(variable) for variable in VARIABLES)
