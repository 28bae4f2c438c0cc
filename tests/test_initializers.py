"""Every initialiser draws what its published formula says, of the dtype asked for, and the same from the same seed."""

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigrad import initializers
from minigrad.initializers import glorot_normal, glorot_uniform, he_normal, he_uniform, identity, orthogonal


def exactly(message: str) -> str:
    return f"^{re.escape(message)}$"


OF_MATRICES = [glorot_uniform, glorot_normal, he_uniform, he_normal, orthogonal, identity]
ALL = [*OF_MATRICES, initializers.uniform, initializers.zeros]
SIZES = st.integers(0, 12)


@pytest.mark.parametrize(
    ("initializer", "variance"),
    [
        (glorot_uniform, lambda fan_in, fan_out: 2 / (fan_in + fan_out)),
        (glorot_normal, lambda fan_in, fan_out: 2 / (fan_in + fan_out)),
        (he_uniform, lambda fan_in, fan_out: 2 / fan_in),
        (he_normal, lambda fan_in, fan_out: 2 / fan_in),
    ],
)
@pytest.mark.parametrize("shape", [(300, 500), (500, 300)])
def test_variance(
    initializer: Callable[..., Any], variance: Callable[[int, int], float], shape: tuple[int, int]
) -> None:
    drawn = initializer(np.random.default_rng(0), shape)
    # 150,000 draws: the standard deviation of their variance is below 0.4 % of it, of their mean 0.26 % of its root.
    assert drawn.var() == pytest.approx(variance(*shape), rel=0.02)
    assert abs(drawn.mean()) < 0.015 * math.sqrt(variance(*shape))


@pytest.mark.parametrize(
    ("initializer", "bound"),
    [(glorot_uniform, math.sqrt(6 / 800)), (he_uniform, math.sqrt(6 / 300)), (initializers.uniform, 0.08)],
)
def test_uniform_bounds_are_kept_and_nearly_reached(initializer: Callable[..., Any], bound: float) -> None:
    drawn = initializer(np.random.default_rng(0), (300, 500))
    for end in (drawn.max(), -drawn.min()):
        assert 0.999 * bound < end <= bound * (1 + 1e-6)


@pytest.mark.parametrize("initializer", [glorot_normal, he_normal])
def test_normal_ones_are_normal(initializer: Callable[..., Any]) -> None:
    drawn = initializer(np.random.default_rng(0), (300, 500))
    inside = [np.mean(np.abs(drawn) < k * drawn.std()) for k in (1, 2, 3)]
    assert inside == pytest.approx([0.6827, 0.9545, 0.9973], abs=0.005)


@given(rows=SIZES, columns=SIZES, gain=st.floats(0.1, 3), seed=st.integers(0, 2**32))
def test_orthogonal(rows: int, columns: int, gain: float, seed: int) -> None:
    w = orthogonal(np.random.default_rng(seed), (rows, columns), np.float64, gain=gain)
    assert w.shape == (rows, columns)
    product = w.T @ w if rows >= columns else w @ w.T
    np.testing.assert_allclose(product, gain**2 * np.eye(min(rows, columns)), atol=1e-12)


def test_orthogonal_is_even_over_all_rotations() -> None:
    # Without the sign correction LAPACK's Householder vectors make the first entry negative in every draw.
    rng = np.random.default_rng(0)
    positive = [orthogonal(rng, (2, 2), np.float64)[0, 0] > 0 for _ in range(400)]
    assert np.mean(positive) == pytest.approx(0.5, abs=0.1)


def test_identity() -> None:
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(identity(rng, (3, 3)), np.eye(3))
    np.testing.assert_array_equal(identity(rng, (2, 3), scale=0.01), np.array([[0.01, 0, 0], [0, 0.01, 0]], np.float32))


def test_uniform_and_zeros_take_any_shape() -> None:
    rng = np.random.default_rng(0)
    drawn = initializers.uniform(rng, (4, 5, 6), scale=2.0)
    assert drawn.shape == (4, 5, 6)
    assert 1 < np.abs(drawn).max() <= 2
    np.testing.assert_array_equal(initializers.zeros(rng, (3,)), np.zeros(3))
    assert initializers.zeros(rng, ()).shape == ()


@pytest.mark.parametrize("initializer", ALL)
def test_one_seed_means_one_network_at_every_precision(initializer: Callable[..., Any]) -> None:
    single = initializer(np.random.default_rng(5), (4, 3))
    double = initializer(np.random.default_rng(5), (4, 3), np.float64)
    assert single.dtype == np.float32
    assert double.dtype == np.float64
    np.testing.assert_array_equal(single, double.astype(np.float32))


@pytest.mark.parametrize("initializer", ALL)
@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
def test_empty_matrices(initializer: Callable[..., Any], shape: tuple[int, int]) -> None:
    assert initializer(np.random.default_rng(0), shape).shape == shape


@pytest.mark.parametrize("initializer", OF_MATRICES)
def test_matrices_only(initializer: Callable[..., Any]) -> None:
    with pytest.raises(
        ValueError, match=exactly(f"{initializer.__name__} got the shape (7,); give a matrix's, (fan_in, fan_out)")
    ):
        initializer(np.random.default_rng(0), [7])


@pytest.mark.parametrize("initializer", ALL)
def test_floats_only(initializer: Callable[..., Any]) -> None:
    with pytest.raises(
        TypeError, match=exactly("a parameter cannot start as int64; give a floating-point dtype, such as float32")
    ):
        initializer(np.random.default_rng(0), (2, 2), np.int64)
