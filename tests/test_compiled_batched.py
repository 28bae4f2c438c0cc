"""Small products of matrices with fixed sizes and strides, against NumPy in double precision."""

from __future__ import annotations

import ctypes
import itertools

import numpy as np
import pytest

pytest.importorskip("llvmlite")

from minigrad.compiled import batched, jit
from minigrad.compiled.llvm import module

SHAPES = [(1, 1, 1), (1, 33, 7), (7, 1, 33), (33, 7, 1), (2, 3, 5), (6, 20, 9), (4, 9, 40), (12, 28, 28)]
LAYOUTS = ["rows", "columns", "spread"]
GUARD = 77.0
LANES = [("float32", 16), ("float64", 4)]
"""Vectors wider than the host's registers are divided by the compiler, so every host can run them."""


def placed(values: np.ndarray, layout: str) -> tuple[np.ndarray, np.ndarray]:
    """Memory full of guards, and a view of it with these values: its rows adjacent, its columns, or neither."""
    rows, columns = values.shape
    if layout == "rows":
        whole = np.full((rows + 2, columns + 3), GUARD, values.dtype)
        part = whole[1:-1, 1:-2]
    elif layout == "columns":
        whole = np.full((columns + 2, rows + 3), GUARD, values.dtype)
        part = whole[1:-1, 1:-2].T
    else:
        whole = np.full((2 * rows + 2, 3 * columns + 3), GUARD, values.dtype)
        part = whole[1:-1:2, 1:-2:3]
    part[...] = values
    return whole, part


def multiply(a: np.ndarray, b: np.ndarray, c: np.ndarray, lanes: int) -> None:
    (m, k), n = a.shape, b.shape[1]
    strides = [tuple(step // x.itemsize for step in x.strides) for x in (a, b, c)]
    dtype = {"float32": "float", "float64": "double"}[a.dtype.name]
    function = batched.product("product", shape=(m, n, k), strides=strides, dtype=dtype, lanes=lanes, linkage="")
    library = jit.compile_ir(module(function))
    ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 3)(library.address("product"))(*(x.ctypes.data for x in (a, b, c)))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("dtype", "lanes"), LANES)
def test_the_product_is_numpys_for_all_strides(shape: tuple[int, int, int], dtype: str, lanes: int) -> None:
    m, n, k = shape
    rng = np.random.default_rng(shape)
    a, b = (rng.standard_normal(size).astype(dtype) for size in ((m, k), (k, n)))
    exact, terms = a.astype(float) @ b.astype(float), np.abs(a).astype(float) @ np.abs(b).astype(float)
    bound = 2 * np.sqrt(k + 1) * np.finfo(dtype).eps * terms
    for layouts in itertools.product(LAYOUTS, repeat=3):
        before = np.full((m, n), np.nan, dtype)
        (_, a_part), (_, b_part), (whole, c_part) = map(placed, (a, b, before), layouts)
        multiply(a_part, b_part, c_part, lanes)
        error = np.abs(c_part - exact)
        assert (error <= bound).all(), layouts
        c_part[...] = GUARD
        assert (whole == GUARD).all(), layouts
