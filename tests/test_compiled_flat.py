"""Fused elementwise functions and the sum of squares: in blocks, in machine code and on threads, against NumPy."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minigrad import primitives
from minigrad.compiled import flat, jit, memory
from minigrad.compiled.flat import Fused, fused, sum_of_squares
from minigrad.compiled.parallel import in_parallel, threads
from minigrad.graph import TraceError
from minigrad.scan import use_backend

SIZES = [0, 1, 15, 16, 17, 129, 100_001]

needs_compiler = pytest.mark.skipif(not jit.available(), reason="the extra jit is not installed")


def step(a: Any, b: Any, s: Any, t: Any) -> tuple[Any, ...]:
    """Operations that IEEE 754 rounds correctly, so that there is one right result."""
    c = a * s - b / t
    return c, np.sqrt(np.abs(c) + s * t), np.maximum(c, -a)


def curved(a: Any, b: Any) -> tuple[Any, ...]:
    return np.tanh(a) * np.exp(b), primitives.sigmoid(b)


def chosen(a: Any, b: Any, s: Any) -> tuple[Any, ...]:
    return (
        np.where(np.isfinite(a) & (a > s), a, -b),
        np.clip(a, -0.5, 0.5),
        primitives.where(np.logical_not(a > 0.25), 3.0, a),
        (a > b) * 2.0,
        np.sign(a),
    )


def noise(count: int, size: int, dtype: Any) -> list[np.ndarray]:
    rng = np.random.default_rng(size)
    return [rng.standard_normal(size).astype(dtype) for _ in range(count)]


def forbid(*_: Any) -> None:
    raise AssertionError("the other way was taken")


@pytest.fixture
def in_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Machine code for every array that has an element, and nothing else."""
    if not jit.available():
        pytest.skip("the extra jit is not installed")
    monkeypatch.setenv("MINIGRAD_CACHE", str(tmp_path))
    monkeypatch.setattr(flat, "BLOCK", 0)
    monkeypatch.setattr(Fused, "_in_blocks", forbid)


@pytest.fixture
def in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """NumPy in blocks of 16 numbers."""
    monkeypatch.setattr(flat, "BLOCK", 16)
    monkeypatch.setattr(Fused, "_kernel", forbid)


@pytest.fixture(params=["in_code", "in_blocks"])
def way(request: pytest.FixtureRequest) -> bool:
    """Either, as what is to be given for ``compiled``."""
    request.getfixturevalue(request.param)
    return bool(request.param == "in_code")


@pytest.fixture(params=[1, 2, 3])
def workers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setenv("MINIGRAD_THREADS", str(request.param))
    monkeypatch.setattr(flat, "WORTH_SHARING", 2)
    return int(request.param)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_fused_function_is_the_function_to_the_last_bit(way: bool, workers: int, dtype: Any) -> None:
    kernel = fused(step, arrays=2, scalars=2, outputs=3)
    for size in SIZES:
        a, b = noise(2, size, dtype)
        made = kernel((a, b), (0.1, 0.3), compiled=way)
        expected = step(a, b, dtype(0.1), dtype(0.3))
        for got, want, true in zip(
            made, expected, step(a.astype(np.float64), b.astype(np.float64), 0.1, 0.3), strict=True
        ):
            assert got.dtype == dtype
            np.testing.assert_array_equal(got, want)
            # Five roundings, each of half a unit of what may be ten times the result's size.
            np.testing.assert_allclose(got, true, rtol=0, atol=50 * np.finfo(dtype).eps)


@pytest.mark.usefixtures("in_code")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_functions_that_are_approximated_differ_by_a_few_units(dtype: Any) -> None:
    a, b = noise(2, 1001, dtype)
    # Neither NumPy nor the emitters round exp correctly, but both err by two units at most, and a product adds one.
    for got, want in zip(fused(curved, arrays=2, outputs=2)((a, b), ()), curved(a, b), strict=True):
        np.testing.assert_array_max_ulp(got, np.asarray(want), 5)


def test_masks_choose_and_count(way: bool) -> None:
    a, b = noise(2, 77, np.float32)
    a[::7], b[::5] = np.nan, np.inf
    made = fused(chosen, arrays=2, scalars=1, outputs=5)((a, b), (0.5,), compiled=way)
    for got, want in zip(made, chosen(a, b, np.float32(0.5)), strict=True):
        np.testing.assert_array_equal(got, np.asarray(want))


@pytest.mark.usefixtures("in_code")
def test_a_scalar_is_no_constant_of_the_code() -> None:
    kernel = fused(lambda a, s: (a * s,), arrays=1, scalars=1)
    a = np.ones(20)
    assert [kernel([a], [s])[0][3] for s in (2.0, 0.1, math.inf)] == [2.0, 0.1, math.inf]
    assert len(kernel._kernels) == 1


@pytest.mark.usefixtures("in_code")
def test_two_functions_and_two_types_do_not_disturb_each_other() -> None:
    double, square = fused(lambda a: (a + a,), arrays=1), fused(lambda a: (a * a,), arrays=1)
    for dtype in (np.float32, np.float64, np.float32):
        a = np.arange(1, 40, dtype=dtype)
        np.testing.assert_array_equal(double([a], [])[0], 2 * a)
        np.testing.assert_array_equal(square([a], [])[0], a**2)


def test_arrays_of_any_layout_give_new_ones_in_c_order(way: bool) -> None:
    kernel = fused(lambda a, b: (a - b, a), arrays=2, outputs=2)
    whole = np.arange(48.0).reshape(6, 8)
    broadcast = np.broadcast_to(np.float64(2), (4, 6))
    raw = np.zeros(24 * 8 + 1, np.uint8)
    unaligned = raw[1:].view(np.float64).reshape(4, 6)
    for a in (whole[:, ::2].T, np.asfortranarray(whole[:4, :6]), whole[1:5, 1:7], broadcast):
        before = a.copy()
        made = kernel((a, broadcast), (), compiled=way)
        np.testing.assert_array_equal(made, [before - 2, before])
        np.testing.assert_array_equal(a, before)
        assert all(x.flags.c_contiguous and x.flags.writeable and not np.shares_memory(x, whole) for x in made)
    if not way:
        np.testing.assert_array_equal(kernel((unaligned, broadcast), (), compiled=way), [unaligned - 2, unaligned])


@pytest.mark.parametrize("shape", [(), (1,), (3, 0), (2, 3)])
def test_short_arrays_keep_their_shape(shape: tuple[int, ...]) -> None:
    a = np.full(shape, 3, np.float32)
    (made,) = fused(lambda a, s: (a * s,), arrays=1, scalars=1)([a], [np.float64(0.1)])
    assert isinstance(made, np.ndarray)
    assert made.shape == shape
    assert made.dtype == np.float32
    np.testing.assert_array_equal(made, a * np.float32(0.1))
    (same,) = fused(lambda a: (a,), arrays=1)([a], [])
    assert same is not a
    assert not np.shares_memory(same, a)


def test_results_may_go_into_the_arrays_themselves(way: bool, workers: int) -> None:
    a, b = noise(2, 1001, np.float32)
    expected = step(a, b, np.float32(2), np.float32(3))
    third = np.empty_like(a)
    made = fused(step, arrays=2, scalars=2, outputs=3)((a, b), (2, 3), (a, b, third), compiled=way)
    assert [x is y for x, y in zip(made, (a, b, third), strict=True)] == [True] * 3
    np.testing.assert_array_equal((a, b, third), expected)


def test_results_do_not_go_everywhere() -> None:
    a = np.ones((2, 3), np.float32)
    kernel = fused(lambda a: (a + a,), arrays=1)
    fixed = np.ones((2, 3), np.float32)
    fixed.flags.writeable = False
    for out in (np.ones((3, 2), np.float32), np.ones((2, 3)), np.ones((3, 2), np.float32).T, fixed):
        with pytest.raises(ValueError, match="results cannot go to an array of shape"):
            kernel([a], [], [out])


def test_arrays_of_several_shapes() -> None:
    with pytest.raises(ValueError, match=r"^arrays have the shapes \(3,\) and \(1,\); give arrays of one shape$"):
        fused(lambda a, b: (a + b,), arrays=2)([np.ones(3), np.ones(1)], [])


@pytest.mark.parametrize("dtype", [np.float16, np.longdouble, ">f4"])
def test_types_without_machine_code_run_in_numpy(monkeypatch: pytest.MonkeyPatch, dtype: Any) -> None:
    monkeypatch.setattr(flat, "BLOCK", 16)
    a = np.linspace(0, 1, 50).astype(dtype)
    (made,) = fused(lambda a, s: (a * s,), arrays=1, scalars=1)([a], [0.5])
    assert made.dtype == dtype
    np.testing.assert_array_equal(made, a / 2)
    assert sum_of_squares(a) == pytest.approx(np.sum(np.square(a.astype(np.float64))), rel=0.01)


def test_mixed_types_give_that_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flat, "BLOCK", 16)
    for size in (9, 50):
        (made,) = fused(lambda a, b: (a + b,), arrays=2)([np.ones(size, np.float32), np.full(size, 1e-9)], [])
        assert made.dtype == np.float32


def test_without_a_compiler_numpy_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jit, "available", lambda: False)
    flat._sum_kernel.cache_clear()
    a, b = noise(2, 100_001, np.float64)
    made = fused(step, arrays=2, scalars=2, outputs=3)((a, b), (0.1, 0.3))
    np.testing.assert_array_equal(made, step(a, b, 0.1, 0.3))
    assert sum_of_squares(a) == pytest.approx(np.sum(a * a), rel=1e-13)
    flat._sum_kernel.cache_clear()


@pytest.mark.usefixtures("in_code")
@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda a: (np.sum(a),), "its sum works on more than one element, or has no machine code"),
        (lambda a: (a + np.arange(13.0),), "it uses an array that is not an argument"),
    ],
)
def test_functions_that_are_not_elementwise(function: Callable[..., Any], message: str) -> None:
    with pytest.raises(TraceError, match=f"^{message}$"):
        fused(function, arrays=1)([np.ones(20)], [])


@pytest.mark.usefixtures("in_code")
def test_a_function_with_another_number_of_results() -> None:
    with pytest.raises(ValueError, match=r"^a fused function gives 1 results; expected 2$"):
        fused(lambda a: (a,), arrays=1, outputs=2)([np.ones(20)], [])


def test_over_many_groups_of_arrays(way: bool, workers: int) -> None:
    kernel = fused(step, arrays=2, scalars=2, outputs=3)
    rows = [noise(2, size, np.float32) for size in (3, 1000, 0, 4097)] + [noise(2, 500, np.float64)]
    for row, made in zip(rows, kernel.over(rows, (0.1, 0.3), compiled=way), strict=True):
        for got, want in zip(made, kernel(row, (0.1, 0.3), compiled=way), strict=True):
            np.testing.assert_array_equal(got, want)
    assert kernel.over([], (0.1, 0.3), compiled=way) == []


def test_memory_is_used_again_when_nobody_can_see_it(way: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "WORTH_KEEPING", 0)
    kernel = fused(lambda a, s: (a * s,), arrays=1, scalars=1)
    a = np.ones((40, 50))
    (first,) = kernel([a], [2.0], compiled=way)
    where = first.ctypes.data
    corner = first[3:5, ::2].T
    del first
    gc.collect()
    others = [kernel([a], [s], compiled=way)[0] for s in (3.0, 4.0)]
    assert not any(np.shares_memory(corner, x) for x in others)
    np.testing.assert_array_equal(corner, np.full((25, 2), 2.0))
    del corner
    gc.collect()
    (again,) = kernel([a], [5.0], compiled=way)
    assert again.ctypes.data == where
    assert [x[0, 0] for x in others] == [3.0, 4.0]


def test_spare_memory_does_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "WORTH_KEEPING", 0)
    monkeypatch.setattr(memory, "MOST_KEPT", 10 * 8 * flat.BLOCK)
    double = fused(lambda a: (a + a,), arrays=1)
    for size in range(flat.BLOCK + 1, flat.BLOCK + 200):
        double([np.ones(size)], [], compiled=False)
    gc.collect()
    assert sum(len(blocks) for blocks in memory._pool.spare.values()) <= 10


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=needs_compiler)])
@pytest.mark.parametrize(("dtype", "rel"), [(np.float32, 1e-6), (np.float64, 1e-14)])
def test_sum_of_squares(monkeypatch: pytest.MonkeyPatch, compiled: bool, dtype: Any, rel: float) -> None:
    monkeypatch.setattr(flat, "WORTH_WIDENING", 0)
    for size in (*SIZES, 8191, 8193):
        (a,) = noise(1, size, dtype)
        exact = math.fsum((a.astype(np.float64) ** 2).tolist())
        # In machine code, squares of float32 are exact, and so the sum is as good as one of float64.
        assert sum_of_squares(a, compiled=compiled) == pytest.approx(exact, rel=1e-14 if compiled else rel)
    square = noise(1, 35 * 35, dtype)[0].reshape(35, 35)
    for a in (square.T, square[::2, 1:], square[3:]):
        assert sum_of_squares(a, compiled=compiled) == pytest.approx(np.sum(np.square(a.astype(np.float64))), rel=rel)


@needs_compiler
def test_sum_of_squares_in_code_does_not_leave_the_range_of_float32() -> None:
    for scale in (1e30, 1e-40):
        a = np.full(flat.WORTH_WIDENING + 5, scale, np.float32)
        assert sum_of_squares(a) == pytest.approx(a.size * float(a[0]) ** 2, rel=1e-12)
    a[3] = np.nan
    assert math.isnan(sum_of_squares(a))
    a[3] = -np.inf
    assert sum_of_squares(a) == math.inf


@needs_compiler
def test_sum_of_squares_does_not_depend_on_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    (a,) = noise(1, 300_001, np.float32)
    sums = set()
    for count in "123":
        monkeypatch.setenv("MINIGRAD_THREADS", count)
        sums.add(sum_of_squares(a))
    assert len(sums) == 1


def test_tasks_run_all(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[int] = []
    in_parallel([lambda i=i: done.append(i) for i in range(5)])  # type: ignore[misc]
    assert sorted(done) == [0, 1, 2, 3, 4]
    monkeypatch.setenv("MINIGRAD_THREADS", "0")
    assert threads() == 1
    monkeypatch.delenv("MINIGRAD_THREADS")
    assert threads() >= 1


@pytest.mark.parametrize("backend", ["numpy", pytest.param("compiled", marks=needs_compiler)])
def test_the_optimizers_take_the_way_of_the_time_loop(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    from minigrad.optimizers import adam, clip_by_global_norm

    monkeypatch.setattr(Fused, "_kernel" if backend == "numpy" else "_in_blocks", forbid)
    params = {"W": np.ones(flat.WORTH_WIDENING + 1, np.float32), "b": np.ones(3, np.float32)}
    with use_backend(backend):
        grads, norm = clip_by_global_norm(params, 1.0)
        adam().update(grads, adam().init(params), params, 0.1)
    assert norm == pytest.approx(math.sqrt(flat.WORTH_WIDENING + 4))
