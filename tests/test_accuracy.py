"""Every primitive is held against mpmath, which computes with any number of digits, on every backend and at both ends.

A value may be 4 units in its last place away from the true one, where terms are added up of the largest of them.
Compiled code takes denormal numbers for zeros; elsewhere they are held as all others are.
"""

from __future__ import annotations

import functools
from typing import Any

import mpmath
import numpy as np
import pytest

from minigrad.scan import available_backends, reference, scan, use_backend
from minigrad.tensor import PRIMITIVES

ULPS = 4

mp = mpmath.mp.clone()
mp.prec = 1200  # the sine of a large double needs that many bits

UNARY: dict[str, Any] = {
    "negative": lambda x: -x,
    "exp": mp.exp,
    "expm1": mp.expm1,
    "log": mp.log,
    "log1p": mp.log1p,
    "sqrt": mp.sqrt,
    "square": lambda x: x * x,
    "abs": abs,
    "sin": mp.sin,
    "cos": mp.cos,
    "tanh": mp.tanh,
    "sigmoid": lambda x: 1 / (1 + mp.exp(-x)),
    "softplus": lambda x: mp.log1p(mp.exp(x)) if x < 0 else x + mp.log1p(mp.exp(-x)),
    "relu": lambda x: max(x, 0),
    "alias": lambda x: x,
    "stop_gradient": lambda x: x,
}
BINARY: dict[str, Any] = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "divide": lambda a, b: a / b,
    "power": lambda a, b: a**b,
    "maximum": max,
    "minimum": min,
}


def _logsumexp(row: list[Any]) -> Any:
    return mp.log(mp.fsum(map(mp.exp, row)))


SUMS: dict[str, Any] = {
    "sum": mp.fsum,
    "mean": lambda row: mp.fsum(row) / len(row),
    "max": max,
    "min": min,
    "logsumexp": _logsumexp,
    "log_softmax": lambda row: [x - _logsumexp(row) for x in row],
}
ELSEWHERE = {"matmul", "cumsum"}
"""Products and partial sums: what they add is held against NumPy's in the tests of the primitives."""
MOVES = {
    "astype", "where", "clip", "reshape", "transpose", "broadcast_to", "pad", "concatenate", "stack", "getitem", "take",
    "pick", "place", "scatter",
}  # fmt: skip
"""Primitives that give elements of what they are given."""

DOMAINS = {"log": (0, np.inf), "log1p": (-1, np.inf), "sqrt": (0, np.inf)}


def test_every_primitive_is_in_a_table():
    assert {*UNARY, *BINARY, *SUMS, *MOVES} | ELSEWHERE == PRIMITIVES.keys()


def numbers(dtype: Any) -> Any:
    """Numbers of every magnitude, denormal ones too, around 0 and 1, and where exponentials end."""
    rng = np.random.default_rng(0)
    info = np.finfo(dtype)
    powers = np.geomspace(float(info.smallest_normal) * 2.0**-20, float(info.max) / 2, 90)
    near_one = 1 + np.arange(1, 20) * float(info.eps)
    end = float(np.log(info.max)) * 1.25
    positive = [
        powers,
        near_one,
        2 - near_one,
        rng.uniform(0, 3, 100),
        rng.uniform(0, 30, 100),
        rng.uniform(0, end, 150),
    ]
    x = np.concatenate(positive).astype(dtype)
    return np.concatenate([x, -x])


def on(backend: str, f: Any, *arrays: Any) -> Any:
    """``f`` of rows of arrays, on a backend of the time loop."""
    xs = [a[None] for a in arrays]
    with use_backend(backend), pytest.MonkeyPatch.context() as patch:
        if backend != "reference":
            patch.delattr(reference, "scan")  # a step that fell back would show nothing
        _, ys = scan(lambda p, h, x: (h * 1, f(*x)), (), np.zeros((len(arrays[0]), 1), arrays[0].dtype), xs)
    return ys[0]


def error(actual: Any, true: Any, unit: Any = None) -> float:
    """The distance from the true value, in units of its last place, or of that of another number."""
    dtype = type(actual)
    with np.errstate(over="ignore"):
        rounded = dtype(float(true)) if dtype is np.float64 else dtype(mpmath.nstr(true, 30))
        if actual == rounded:
            return 0.0
        place = np.spacing(max(abs(rounded), dtype(abs(float(unit))) if unit is not None else 0))
    if not np.isfinite(actual) or not np.isfinite(rounded):
        return float("inf")
    return float(abs(mp.mpf(float(actual)) - true) / mp.mpf(float(place)))


@functools.cache
def unary(name: str, dtype: Any) -> tuple[Any, Any]:
    low, high = DOMAINS.get(name, (-np.inf, np.inf))
    x = numbers(dtype)
    x = x[(x > low) & (x < high)]
    return x, np.array([UNARY[name](mp.mpf(float(element))) for element in x], object)


@functools.cache
def binary(name: str, dtype: Any) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(1)
    a, b = numbers(dtype), rng.permutation(numbers(dtype))
    if name == "power":
        a, b = np.abs(a), rng.uniform(-4, 4, len(a)).astype(dtype)
        a, b = np.append(a, -a[::7]), np.append(b, np.rint(b[::7]))
    true = [BINARY[name](mp.mpf(float(x)), mp.mpf(float(y))) for x, y in zip(a, b, strict=True)]
    return a, b, np.array(true, object)


every_backend = pytest.mark.parametrize("backend", ["reference", *available_backends()])
both_types = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def held(backend: str, dtype: Any, *arrays: Any) -> Any:
    """Which rows of inputs a backend is held to."""
    if backend != "compiled":
        return slice(None)
    return np.all([(a == 0) | (np.abs(a) >= np.finfo(dtype).smallest_normal) for a in arrays], axis=0)


def hold(backend: str, found: Any, true: Any, units: Any = None) -> None:
    if backend == "compiled":
        smallest = float(np.finfo(found.dtype).smallest_normal)
        true = [mp.mpf(0) if y == 0 and abs(t) < smallest else t for y, t in zip(found, true, strict=True)]
    errors = [
        error(y, t, None if units is None else units[i]) for i, (y, t) in enumerate(zip(found, true, strict=True))
    ]
    worst = int(np.argmax(errors))
    assert errors[worst] <= ULPS, f"number {worst}: {found[worst]!r} is {errors[worst]:.3g} units off {true[worst]}"


@every_backend
@both_types
@pytest.mark.parametrize("name", UNARY)
def test_functions_of_one_number(name, dtype, backend):
    x, true = unary(name, dtype)
    rows = held(backend, dtype, x)
    with np.errstate(over="ignore"):
        found = on(backend, PRIMITIVES[name], x[rows, None])[:, 0]
    hold(backend, found, true[rows])


@every_backend
@both_types
@pytest.mark.parametrize("name", BINARY)
def test_functions_of_two_numbers(name, dtype, backend):
    a, b, true = binary(name, dtype)
    rows = held(backend, dtype, a, b)
    with np.errstate(over="ignore"):
        found = on(backend, PRIMITIVES[name], a[rows, None], b[rows, None])[:, 0]
    hold(backend, found, true[rows])


@every_backend
@both_types
@pytest.mark.parametrize("name", SUMS)
def test_reductions(name, dtype, backend):
    rng = np.random.default_rng(2)
    rows = np.concatenate([scale * rng.standard_normal((40, 4)) for scale in (1e-20, 1e-3, 1.0, 30.0, 300.0)])
    rows = rows.astype(dtype)
    options = {"axis": -1} if name == "log_softmax" else {"axis": -1, "keepdims": True}
    found = on(backend, functools.partial(PRIMITIVES[name], **options), rows)
    true = [SUMS[name]([mp.mpf(float(x)) for x in row]) for row in rows]
    # What an exponential is added to is at least 1.
    largest = np.maximum(np.abs(rows).max(axis=1), 1 if name in ("logsumexp", "log_softmax") else 0)
    if name != "log_softmax":
        hold(backend, found[:, 0], true, largest)
        return
    hold(backend, found.reshape(-1), [y for row in true for y in row], np.repeat(largest, rows.shape[1]))
