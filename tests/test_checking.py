"""The tester is tested: it accepts right gradients and rejects wrong ones, however slightly wrong they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad
from minigrad import Tensor
from minigrad.checking import TOLERANCE, GradientError, check_vjp, directional_error, numerical_jvp
from minigrad.tensor import PRIMITIVES, Primitive, Scattered, value_of

X = np.random.default_rng(0).standard_normal((3, 4))


@contextmanager
def temporary(forward: Any, *rules: Any, **kwargs: Any) -> Iterator[Primitive]:
    """A primitive that leaves the registry again."""
    primitive = Primitive("temporary", forward, *rules, **kwargs)
    try:
        yield primitive
    finally:
        del PRIMITIVES["temporary"]


def product_rule(g: Any, y: Any, a: Any, b: Any) -> Any:
    return g * b


WRONG_FIRST: dict[str, tuple[Any, ...]] = {
    "a factor slightly off": (np.square, lambda g, y, x: g * 2.001 * x),
    "a sign": (np.cos, lambda g, y, x: g * minigrad.sin(x)),
    "a missing factor": (np.exp, lambda g, y, x: g),
    "nothing at all": (np.exp, lambda g, y, x: g * 0),
    "something where zero is right": (lambda x: x * 0, lambda g, y, x: g),
    "one entry": (np.exp, lambda g, y, x: g * y * (1 + 0.01 * (np.arange(12).reshape(3, 4) == 5))),
    "the transpose": (lambda x: x[:, :3] * 2, lambda g, y, x: minigrad.pad(g.T * 2, ((0, 0), (0, 1)))),
    "repeated indices that do not add up": (
        lambda x: x[np.array([0, 0, 1])],
        lambda g, y, x: Scattered(np.array([0, 2, 1]), g),
    ),
    "not a number": (np.exp, lambda g, y, x: g * np.nan),
    "infinity": (np.exp, lambda g, y, x: g * np.inf),
}  # fmt: skip


@pytest.mark.parametrize("rule", WRONG_FIRST.values(), ids=WRONG_FIRST)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_wrong_gradients_are_rejected(rule):
    with temporary(*rule) as primitive, pytest.raises(GradientError, match="a derivative rule is wrong"):
        check_vjp(primitive, [X])


def test_a_factor_of_one_in_two_thousand_is_named_in_the_message():
    with temporary(np.tanh, lambda g, y, x: g * 1.0005 * (1 - y * y)) as primitive:
        with pytest.raises(GradientError) as caught:
            check_vjp(primitive, [X], directions=1)
        assert str(caught.value) == (
            "the gradient is off by 1.4e-04 of its size, and finite differences allow 1e-06: a derivative rule is wrong"
        )


@pytest.mark.parametrize("position", [0, 1])
def test_one_wrong_argument_of_two_is_enough(position):
    rules = [lambda g, y, a, b: g * b, lambda g, y, a, b: g * a]
    rules[position] = lambda g, y, a, b: g * a * b
    with temporary(np.multiply, *rules) as primitive, pytest.raises(GradientError):
        check_vjp(primitive, [X, X + 1])


def test_a_rule_that_is_missing_is_rejected():
    with temporary(np.multiply, lambda g, y, a, b: g * b, None) as primitive, pytest.raises(GradientError):
        check_vjp(primitive, [X, X + 1])


WRONG_SECOND: dict[str, tuple[Any, ...]] = {
    "the rule takes its input for a constant": (np.sin, lambda g, y, x: g * np.cos(value_of(x))),
    "the rule takes its output for a constant": (np.exp, lambda g, y, x: g * value_of(y)),
    "the rule takes the cotangent for a constant": (np.square, lambda g, y, x: value_of(g) * 2 * x),
}


@pytest.mark.parametrize("rule", WRONG_SECOND.values(), ids=WRONG_SECOND)
def test_wrong_second_derivatives_are_rejected_at_order_two_only(rule):
    with temporary(*rule) as primitive:
        check_vjp(lambda x: primitive(x) * x, [X])
        with pytest.raises(GradientError):
            check_vjp(lambda x: primitive(x) * x, [X], order=2)


def test_right_gradients_are_far_within_the_tolerance():
    error = check_vjp(lambda x: minigrad.tanh(x) * minigrad.exp(x), [X], order=2)
    assert 0 < error < TOLERANCE / 100


def test_third_order():
    check_vjp(lambda x: minigrad.sin(x) ** 2, [X], order=3)


def test_a_function_that_is_constant_has_gradient_zero():
    assert check_vjp(lambda x: x * 0 + 1, [X], order=2) == 0


def test_a_value_that_is_not_finite_is_rejected():
    for bad in (np.nan, np.inf):
        x = X.copy()
        x[0, 0] = bad
        with np.errstate(invalid="ignore"), pytest.raises(GradientError):
            check_vjp(lambda x: x * x, [x])


def test_a_difference_that_is_not_finite_is_rejected_though_the_gradient_is():
    with np.errstate(invalid="ignore"), pytest.raises(GradientError):
        check_vjp(lambda x: (x * x) ** 0.5 + (x - 1) ** 0.5 - (x - 1) ** 0.5, [np.array([1.0 + 1e-9])])


@pytest.mark.parametrize("primal", [X.astype(np.float32), 3, np.arange(3)])
def test_other_types_than_float64_are_refused_in_a_sentence(primal):
    with pytest.raises(TypeError) as caught:
        check_vjp(lambda x: x * 1.0, [{"x": primal}])
    dtype = np.asarray(primal).dtype
    assert str(caught.value) == f"check_vjp: an input has dtype {dtype}; finite differences need float64"


def test_trees_go_in_and_out():
    def f(params, x):
        return {"y": params["a"] * x, "z": (params["b"][0] + x.sum(), 2.0)}

    check_vjp(f, [{"a": X, "b": [X + 1]}, X], order=2)
    with pytest.raises(GradientError):
        check_vjp(lambda p: {"y": p["a"] * p["a"].value if isinstance(p["a"], Tensor) else p["a"] ** 2}, [{"a": X}])


@given(st.integers(0, 2**32 - 1))
def test_no_direction_hides_a_wrong_gradient_or_accuses_a_right_one(seed):
    rng = np.random.default_rng(seed)
    tangents = [rng.standard_normal(X.shape)]
    with temporary(np.tanh, lambda g, y, x: g * 1.01 * (1 - y * y)) as wrong:
        assert directional_error(wrong, [X], tangents, rng) > TOLERANCE
    assert directional_error(minigrad.tanh, [X], tangents, rng) < TOLERANCE


def test_numerical_jvp_is_of_fourth_order():
    t = np.ones_like(X)
    np.testing.assert_allclose(numerical_jvp(np.exp, [X], [t]), np.exp(X), rtol=1e-11)
    np.testing.assert_allclose(numerical_jvp(lambda x: x**4, [X], [t]), 4 * X**3, rtol=1e-9, atol=1e-12)


def test_directions_are_the_same_every_time():
    def error() -> float:
        return check_vjp(minigrad.tanh, [X])

    assert error() == error()
