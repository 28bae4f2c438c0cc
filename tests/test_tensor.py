"""The tensor: an array with NumPy's interface, and messages for what it does not support."""

from __future__ import annotations

import copy
import gc
import math
import threading
import weakref
from operator import attrgetter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad
from minigrad import Tensor, no_grad, value_and_grad, vjp
from minigrad.checking import check_vjp
from minigrad.tensor import ARRAY_FUNCTIONS, PIECEWISE_CONSTANT, PRIMITIVES, UFUNCS, Node, is_recording

X = np.arange(6.0).reshape(2, 3) + 1
W = np.linspace(-1, 1, 12).reshape(3, 4)


# --- an array ---------------------------------------------------------------------------------------------------------


def test_what_an_array_says_of_itself():
    x = Tensor(X)
    assert (x.shape, x.dtype, x.ndim, x.size, len(x)) == ((2, 3), np.float64, 2, 6, 2)
    np.testing.assert_array_equal(x.T.value, X.T)
    assert x.value is X
    assert (f"{Tensor(2.5):.2f}", f"{Tensor(2.5)}") == ("2.50", "Tensor(2.5, dtype=float64)")
    assert repr(Tensor([1.0, 2.0])) == "Tensor([1., 2.], dtype=float64)"
    assert repr(Tensor(X)) == "Tensor([[1., 2., 3.],\n        [4., 5., 6.]], dtype=float64)"


def test_a_number():
    x = Tensor(2.5)
    assert x.shape == ()
    assert (float(x), int(x), bool(x), x.item()) == (2.5, 2, True, 2.5)
    with pytest.raises(ValueError, match="ambiguous"):
        bool(Tensor(X))
    with pytest.raises(TypeError, match="unsized"):
        len(x)


def test_iteration_gives_rows_with_gradients():
    value, gradient = value_and_grad(lambda x: sum(((i + 1) * row).sum() for i, row in enumerate(x)))(X)
    assert value == X[0].sum() + 2 * X[1].sum()
    np.testing.assert_array_equal(gradient, [[1] * 3, [2] * 3])
    first, second = Tensor(X)
    np.testing.assert_array_equal(first.value, X[0])
    np.testing.assert_array_equal(second.value, X[1])


OPERATORS = [
    lambda a, b: a + b,
    lambda a, b: a - b,
    lambda a, b: a * b,
    lambda a, b: a / b,
    lambda a, b: a**b,
    lambda a, b: a @ b.T,
    lambda a, b: a > b,
    lambda a, b: a >= b,
    lambda a, b: a < b,
    lambda a, b: a <= b,
    lambda a, b: a == b,
    lambda a, b: a != b,
]


@pytest.mark.parametrize("operator", OPERATORS)
def test_operators_on_either_side_of_arrays_and_tensors(operator):
    a, b = X, X[:, ::-1].copy()
    expected = operator(a, b)
    for left, right in [(Tensor(a), Tensor(b)), (Tensor(a), b), (a, Tensor(b))]:
        actual = operator(left, right)
        assert isinstance(actual, np.ndarray if expected.dtype == bool else Tensor)
        np.testing.assert_array_equal(getattr(actual, "value", actual), expected)


@pytest.mark.parametrize("operator", OPERATORS[:5] + OPERATORS[6:])
@pytest.mark.parametrize("number", [2, 2.0, np.float64(2), np.float32(2), np.int64(2), np.array(2.0)])
def test_operators_on_either_side_of_numbers(operator, number):
    for left, right in [(X, number), (number, X)]:
        tensors = [Tensor(x) if x is X else x for x in (left, right)]
        actual = operator(*tensors)
        np.testing.assert_array_equal(getattr(actual, "value", actual), operator(left, right))


def test_unary_operators():
    np.testing.assert_array_equal((-Tensor(X)).value, -X)
    np.testing.assert_array_equal(abs(Tensor(-X)).value, X)


def test_methods_are_numpys():
    x = Tensor(X)
    for name in ("sum", "mean", "max", "min"):
        for kwargs in ({}, {"axis": 0}, {"axis": -1, "keepdims": True}, {"axis": (0, 1)}):
            expected = getattr(X, name)(**kwargs)
            np.testing.assert_array_equal(getattr(x, name)(**kwargs).value, expected)
    for shape in ((3, 2), (-1,), ((3, 2),), ([6],)):
        np.testing.assert_array_equal(x.reshape(*shape).value, X.reshape(*shape))
    for axes in ((), (1, 0), ((1, 0),), (-1, 0), (None,)):
        np.testing.assert_array_equal(x.transpose(*axes).value, X.transpose(*axes))


def test_a_tensor_may_be_an_index():
    i, mask = Tensor(np.array([1, 1])), Tensor(X > 2)
    np.testing.assert_array_equal(Tensor(X)[i].value, X[[1, 1]])
    np.testing.assert_array_equal(Tensor(X)[mask].value, X[X > 2])
    np.testing.assert_array_equal(Tensor(X)[:, i].value, X[:, [1, 1]])
    _, gradient = value_and_grad(lambda x: x[i, Tensor(np.array(2))].sum())(X)
    np.testing.assert_array_equal(gradient, [[0, 0, 0], [0, 0, 2]])


def test_a_tensor_has_no_hash_because_equality_is_element_by_element():
    with pytest.raises(TypeError, match="unhashable type: 'Tensor'"):
        hash(Tensor(1.0))


def test_whatever_numpy_takes_becomes_a_plain_array():
    class Sub(np.ndarray):
        pass

    for value in (1, [1.0, 2.0], np.float32(1), X.view(Sub), np.bool_(True)):
        assert type(Tensor(value).value) is np.ndarray


# --- NumPy's protocols ------------------------------------------------------------------------------------------------

PROTOCOLS: dict[Any, list[Any]] = {
    np.sum: [lambda x: np.sum(x), lambda x: np.sum(x, axis=1), lambda x: np.sum(x, 0, keepdims=True)],
    np.mean: [lambda x: np.mean(x, axis=(0, 1))],
    np.max: [lambda x: np.max(x, axis=1)],
    np.amax: [lambda x: np.amax(x, axis=0)],
    np.min: [lambda x: np.min(x, axis=1)],
    np.amin: [lambda x: np.amin(x)],
    np.cumsum: [lambda x: np.cumsum(x, axis=1), lambda x: np.cumsum(x)],
    np.clip: [
        lambda x: np.clip(x, 1.5, 4.5),
        lambda x: np.clip(x, None, a_max=4.5),
        lambda x: np.clip(x, min=1.5, max=4.5),
    ],
    np.einsum: [lambda x: np.einsum("ij,jk->ik", x, W), lambda x: np.einsum("ij,ij", x, x)],
    np.where: [lambda x: np.where(x > 2.5, x, 0), lambda x: np.where(X > 2, 1.0, x)],
    np.reshape: [lambda x: np.reshape(x, (3, 2)), lambda x: np.reshape(x, shape=-1)],
    np.transpose: [
        lambda x: np.transpose(x),
        lambda x: np.transpose(x, (1, 0)),
        lambda x: np.transpose(x, axes=[1, 0]),
    ],
    np.broadcast_to: [lambda x: np.broadcast_to(x, (4, 2, 3))],
    np.pad: [lambda x: np.pad(x, 1), lambda x: np.pad(x, ((1, 0), (0, 2)), "constant", constant_values=3)],
    np.concatenate: [
        lambda x: np.concatenate([x, X], -1),
        lambda x: np.concatenate((X, x, x), axis=0),
        lambda x: np.concatenate([x, x], axis=None),
        lambda x: np.concatenate(x),
    ],
    np.stack: [lambda x: np.stack([x, X]), lambda x: np.stack([X, x], axis=-1), lambda x: np.stack(x, axis=1)],
    np.take: [
        lambda x: np.take(x, [0, 0, -1], axis=1),
        lambda x: np.take(x, np.array([[5, 0]])),
        lambda x: np.take(x, 3),
    ],
    np.swapaxes: [lambda x: np.swapaxes(x[None], 0, -1), lambda x: np.swapaxes(x, 1, 1)],
    np.moveaxis: [
        lambda x: np.moveaxis(x[None], 0, -1),
        lambda x: np.moveaxis(x[None], -1, 0),
        lambda x: np.moveaxis(x[None], [0, 1], [-1, 0]),
    ],
    np.expand_dims: [lambda x: np.expand_dims(x, 1), lambda x: np.expand_dims(x, (0, -1))],
    np.squeeze: [lambda x: np.squeeze(x[:1]), lambda x: np.squeeze(x[None, :, :1], axis=(0, 2))],
    np.ravel: [lambda x: np.ravel(x)],
    np.copy: [lambda x: np.copy(x)],
    np.var: [
        lambda x: np.var(x),
        lambda x: np.var(x, axis=0, ddof=1),
        lambda x: np.var(x, (0, 1), keepdims=True),
        lambda x: np.var(x[:, :1], axis=1),
    ],
    np.std: [lambda x: np.std(x), lambda x: np.std(x, axis=1, ddof=1, keepdims=True)],
    np.prod: [
        lambda x: np.prod(x),
        lambda x: np.prod(x, axis=1),
        lambda x: np.prod(x[None], axis=(0, 2), keepdims=True),
        lambda x: np.prod(x, axis=0, keepdims=True),
        lambda x: np.prod(x[:, :0] + x.sum(), axis=1),
    ],
    np.linalg.norm: [
        lambda x: np.linalg.norm(x),
        lambda x: np.linalg.norm(x, axis=1, keepdims=True),
        lambda x: np.linalg.norm(x, "fro"),
        lambda x: np.linalg.norm(x[0], 2),
        lambda x: np.linalg.norm(x, 1, 0),
        lambda x: np.linalg.norm(x, np.inf, axis=-1),
        lambda x: np.linalg.norm(x[1], -np.inf),
    ],
    np.dot: [
        lambda x: np.dot(x, W),
        lambda x: np.dot(x[0], x[1]),
        lambda x: np.dot(x, x[0]),
        lambda x: np.dot(2.0, x),
        lambda x: np.dot(x, W.reshape(2, 3, 2)),
        lambda x: np.dot(W.reshape(2, 2, 3), x.T),
    ],
    np.inner: [lambda x: np.inner(x, W.T), lambda x: np.inner(x[0], x[1]), lambda x: np.inner(x, 2.0)],
    np.outer: [lambda x: np.outer(x, W), lambda x: np.outer(x[0], x[1])],
    np.tensordot: [
        lambda x: np.tensordot(x, W, 1),
        lambda x: np.tensordot(x, X),
        lambda x: np.tensordot(x, W, axes=0),
        lambda x: np.tensordot(x, W.reshape(2, 3, 2), axes=([1, 0], [1, 0])),
        lambda x: np.tensordot(W.reshape(2, 3, 2), x, axes=(1, -1)),
    ],
    np.hstack: [
        lambda x: np.hstack([x, X]),
        lambda x: np.hstack([x[0], X[1], x[0, 0]]),
        lambda x: np.hstack((x[0, 0], 1.0)),
    ],
    np.vstack: [lambda x: np.vstack([X, x]), lambda x: np.vstack([x[0], X]), lambda x: np.vstack((x[0, 0], 1.0))],
    np.flip: [lambda x: np.flip(x), lambda x: np.flip(x, 1), lambda x: np.flip(x, axis=(0, -1))],
    np.roll: [
        lambda x: np.roll(x, 2),
        lambda x: np.roll(x, -1, axis=1),
        lambda x: np.roll(x, 7, axis=-1),
        lambda x: np.roll(x, (1, 2), axis=(0, 1)),
        lambda x: np.roll(x, 1, axis=(0, 1)),
        lambda x: np.roll(x, 3, axis=1),
    ],
    np.repeat: [
        lambda x: np.repeat(x, 2),
        lambda x: np.repeat(x, 2, axis=1),
        lambda x: np.repeat(x, [2, 0], axis=0),
    ],
    np.tile: [
        lambda x: np.tile(x, 2),
        lambda x: np.tile(x, (2, 1)),
        lambda x: np.tile(x, (2, 1, 3)),
        lambda x: np.tile(x[None], [2]),
    ],
    np.full_like: [lambda x: np.full_like(x, x[0, 1]), lambda x: np.full_like(a=x, fill_value=x[1, 0])],
    np.split: [
        lambda x: np.split(x, 3, axis=1)[2],
        lambda x: np.split(x, 2)[1],
        lambda x: np.split(x, [1, 2], axis=-1)[1],
        lambda x: np.split(x, [2, 7, -1], axis=1)[2],
    ],
}  # fmt: skip
"""Calls of NumPy's own functions on a tensor of the shape of X; the keys are all functions that have a rule."""


def test_the_calls_cover_every_function_with_a_rule():
    assert PROTOCOLS.keys() == ARRAY_FUNCTIONS.keys()
    assert {primitive.name for primitive in UFUNCS.values()} <= PRIMITIVES.keys()


@pytest.mark.parametrize("call", [call for calls in PROTOCOLS.values() for call in calls])
def test_numpys_functions_work_on_tensors(call):
    expected = call(X)
    actual = call(Tensor(X))
    assert isinstance(actual, Tensor)
    if call in ADDED_IN_ANOTHER_ORDER:
        np.testing.assert_allclose(actual.value, expected, rtol=1e-14, strict=True)
    else:
        np.testing.assert_array_equal(actual.value, expected, strict=True)
    check_vjp(call, [X], order=2)


ADDED_IN_ANOTHER_ORDER = {
    *PROTOCOLS[np.linalg.norm],
    *PROTOCOLS[np.tensordot],
    *PROTOCOLS[np.dot],
    *PROTOCOLS[np.inner],
}

METHODS: list[Any] = [
    lambda x: x.dot(W),
    lambda x: x[0].dot(x[1]),
    lambda x: x.std(axis=0),
    lambda x: x.var(),
    lambda x: x.prod(1),
    lambda x: x.min(axis=1, keepdims=True),
    lambda x: x.flatten(),
    lambda x: x.ravel(),
    lambda x: x[None].squeeze(0),
    lambda x: x.cumsum(1),
    lambda x: x.clip(1.5, 4.5),
    lambda x: x.copy(),
    lambda x: x.repeat(2, axis=0),
    lambda x: x.swapaxes(0, 1),
    lambda x: x.take([0, 0], axis=1),
    lambda x: x.astype(np.float64),
    lambda x: x.astype(float),
]


@pytest.mark.parametrize("call", METHODS)
def test_an_arrays_methods_work_on_tensors(call):
    actual = call(Tensor(X))
    assert isinstance(actual, Tensor)
    np.testing.assert_array_equal(actual.value, call(X), strict=True)
    check_vjp(call, [X], order=2)


def test_places_of_extremes_are_plain_arrays():
    assert Tensor(X).argmax() == 5
    np.testing.assert_array_equal(Tensor(X).argmin(axis=1), [0, 0])


def test_another_float_type_takes_the_gradient_back_to_the_first():
    x = X.astype(np.float32)
    value, gradient = value_and_grad(lambda x: (x.astype(np.float64) * X).sum())(x)
    assert value.dtype == np.float64
    np.testing.assert_array_equal(gradient, x, strict=True)
    value, gradient = value_and_grad(lambda x: (x.astype("float32") * x.astype(np.float32)).sum())(X)
    assert value.dtype == np.float32
    np.testing.assert_array_equal(gradient, 2 * X, strict=True)
    for dtype in (int, np.uint8, bool):  # constant piece by piece, as a comparison is
        np.testing.assert_array_equal(Tensor(X).astype(dtype), X.astype(dtype), strict=True)
    for other in (complex, object):  # these keep the value, and would lose the gradient
        np.testing.assert_array_equal(Tensor(X).astype(other), X.astype(other), strict=True)
        with pytest.raises(TypeError, match="would lose its gradient"):
            value_and_grad(lambda x, other=other: (x * x.astype(other).real).sum())(X)


@pytest.mark.parametrize(("shape", "axis"), [((3, 0), 0), ((0, 3), 1), ((2, 0, 3), (0, 2)), ((2, 3), (-1, 0))])
def test_variances_of_no_columns_are_none(shape, axis):
    x = np.ones(shape)
    np.testing.assert_array_equal(np.var(Tensor(x), axis=axis).value, np.var(x, axis=axis), strict=True)
    check_vjp(lambda x: np.std(x + 1, axis=axis), [x])


def test_factors_of_zero_have_the_gradient_of_the_others():
    for zeros, expected in (((), [60, 40, 30, 24]), ((1,), [0, 40, 0, 0]), ((1, 2), [0, 0, 0, 0])):
        x = np.array([2.0, 3.0, 4.0, 5.0])
        x[list(zeros)] = 0
        _, gradient = value_and_grad(np.prod)(x)
        np.testing.assert_array_equal(gradient, expected)
        check_vjp(np.prod, [x], order=2)


def test_the_length_of_a_vector_has_derivative_zero_at_zero():
    for length in (np.linalg.norm, np.std, lambda x: np.linalg.norm(x, axis=0)):
        value, gradient = value_and_grad(length)(np.zeros(3))
        assert value == 0
        np.testing.assert_array_equal(gradient, np.zeros(3))
    assert np.isnan(np.linalg.norm(Tensor([1.0, np.nan])).value)


@pytest.mark.parametrize("ufunc", UFUNCS)
def test_numpys_ufuncs_work_on_tensors(ufunc):
    args = [X, X.T] if ufunc is np.matmul else [X / 7] * ufunc.nin
    expected = ufunc(*args)
    for i in range(ufunc.nin):
        mixed = [Tensor(x) if i == j else x for j, x in enumerate(args)]
        actual = ufunc(*mixed)
        assert isinstance(actual, Tensor)
        np.testing.assert_array_equal(actual.value, expected)


def test_a_step_in_numpys_words_has_the_gradient_of_the_step_in_ours():
    h, x, weights = np.ones((2, 2)), X, np.linspace(-1, 1, 10).reshape(5, 2)

    def numpys(W):
        return np.sum(np.tanh(np.concatenate([h, x], -1) @ W) * np.ones(2))

    def ours(W):
        return minigrad.sum(minigrad.tanh(minigrad.concat(h, x) @ W))

    np.testing.assert_array_equal(value_and_grad(numpys)(weights)[1], value_and_grad(ours)(weights)[1])
    check_vjp(numpys, [weights])


def test_functions_without_derivative_answer_with_arrays():
    x = Tensor(X)
    for function in PIECEWISE_CONSTANT:
        args = [x, 2.0] if getattr(function, "nin", 1) == 2 or function in _OF_TWO else [x]
        plain = [X if a is x else a for a in args]
        actual, expected = function(*args), function(*plain)
        assert not isinstance(actual, Tensor)
        if function is np.empty_like:
            assert actual.shape == expected.shape
        else:
            np.testing.assert_array_equal(actual, expected)


_OF_TWO = {np.isclose, np.allclose, np.array_equal}


@pytest.mark.parametrize("function", sorted(PIECEWISE_CONSTANT, key=attrgetter("__name__")), ids=attrgetter("__name__"))
def test_functions_without_derivative_carry_no_value(function):
    """A small change of any argument changes nothing, so that no gradient is lost."""
    args = [X / 7, X[:, ::-1] / 7 + 0.01][: 2 if getattr(function, "nin", 1) == 2 or function in _OF_TWO else 1]
    if function is np.empty_like:
        return  # whose elements are whatever was there
    for i in range(len(args)):
        moved = [x + 1e-6 if i == j else x for j, x in enumerate(args)]
        np.testing.assert_array_equal(function(*map(Tensor, moved)), function(*map(Tensor, args)))


def test_functions_without_derivative_take_tensors_by_keyword():
    assert np.argmax(a=Tensor(X)) == 5
    assert np.allclose(X, b=Tensor(X))
    np.testing.assert_array_equal(np.argmax(Tensor(X), axis=1), [2, 2])


# --- plain numbers ----------------------------------------------------------------------------------------------------

PLAIN_NUMBER = (
    "a Tensor that is being differentiated was given where Python needs a plain number, which would lose its "
    "gradient: use NumPy's function instead of math's (np.exp for math.exp), stack for elements assigned one "
    "by one, or .value where no gradient is wanted, as in a log"
)


def element_by_element(x: Any) -> Any:
    costs = np.zeros(3)
    for t in range(3):
        costs[t] = x[0, t] ** 2
    return costs.sum()


def filled(x: Any) -> Any:
    costs = np.zeros(3)
    costs.fill(x[0, 0])
    return costs.sum()


CONVERSIONS = {
    "float": lambda x: float(x[0, 0]),
    "int": lambda x: int(x[0, 0]) * x.sum(),
    "complex": lambda x: complex(x[0, 0]).real * x.sum(),
    "item": lambda x: x[0, 0].item() * x.sum(),
    "index": lambda x: [1.0, 2.0][x[0, 0]] * x.sum(),
    "range": lambda x: sum(x.sum() for _ in range(x[0, 0])),
    "math": lambda x: (x * math.tanh(x[0, 0])).sum(),
    "fsum": lambda x: math.fsum(x[0]) * x.sum(),
    "round": lambda x: math.floor(x[0, 0]) * x.sum(),
    "logged": lambda x: (log.append(float(x.sum())), x.sum())[1],
    "element by element": element_by_element,
    "filled": filled,
    "fromiter": lambda x: np.fromiter(x[0], float).sum() * x.sum(),
}
log: list[float] = []


@pytest.mark.parametrize("loss", CONVERSIONS.values(), ids=CONVERSIONS)
def test_a_tensor_that_is_differentiated_becomes_no_plain_number(loss):
    for call in (lambda: value_and_grad(loss)(X), lambda: vjp(loss, X), lambda: minigrad.grad(loss)(X)):
        with pytest.raises((TypeError, ValueError)) as caught:
            call()
        # NumPy puts a sentence of its own before ours where an element of an array is assigned.
        assert str(caught.value.__cause__ or caught.value) == PLAIN_NUMBER


@pytest.mark.parametrize("scalar", [np.float64, np.float32, np.int64])
def test_a_tensor_that_is_differentiated_becomes_no_scalar_of_numpy(scalar):
    with pytest.raises(TypeError) as caught:
        value_and_grad(lambda x: (scalar(x[0, 0]) * x).sum())(X)
    assert str(caught.value) == PLAIN_ARRAY


def test_decisions_and_constants_are_free():
    """Whether something is done may depend on the value; so may what is not differentiated."""

    def loss(x):
        total = x.sum()
        with no_grad():
            log.append(float(total))
        log.append(float(total.value))
        assert f"{total:.1f}" == "21.0"
        factor = 2 if total > 0 and total else math.exp(Tensor(1.0)) + int(Tensor(2)) + [0, 1][Tensor(1)]
        return total * factor

    assert value_and_grad(loss)(X)[0] == 2 * X.sum()
    assert complex(Tensor(2.5)) == 2.5


def test_full_of_a_tensor_has_its_gradient():
    value, gradient = value_and_grad(lambda x: (np.full_like(x, x[0, 1]) * X).sum())(X)
    assert value == 2 * X.sum()
    np.testing.assert_array_equal(gradient, [[0, X.sum(), 0], [0, 0, 0]])
    for options in ({}, {"dtype": np.float32}, {"shape": (4,)}):
        np.testing.assert_array_equal(np.full_like(Tensor(X), 3, **options), np.full_like(X, 3, **options), strict=True)


def test_a_deep_copy_is_part_of_the_graph():
    _, gradient = value_and_grad(lambda x: (copy.deepcopy({"x": x})["x"] * x).sum())(X)
    np.testing.assert_array_equal(gradient, 2 * X)


# --- what a tensor cannot do ------------------------------------------------------------------------------------------

PUBLIC = ", ".join(sorted(PRIMITIVES.keys() - {"alias", "scatter"}))
PLAIN_ARRAY = (
    "a Tensor was given where NumPy needs a plain array, which would lose its gradient: "
    "use its .value, or a function that minigrad has a rule for"
)
IN_PLACE = "a Tensor cannot be changed in place: write x = x + y instead of x += y"


def no_rule(name: str) -> str:
    return (
        f"{name} has no derivative rule here: compose it from {PUBLIC}, "
        "or apply it to tensor.value where no gradient is wanted"
    )


def out(name: str) -> str:
    return (
        f"np.{name} with out= would write into an array in place, which loses the gradient: "
        "write x = x + y instead of x += y"
    )


def assign(x: Any, index: Any, value: Any) -> None:
    x[index] = value


def in_place(name: str) -> Any:
    return lambda x: getattr(x, name)(1.0)


REFUSALS: list[tuple[Any, str]] = [
    (
        lambda x: assign(x, 0, 1.0),
        "a Tensor cannot be assigned to, because its gradient uses the old value: "
        "build the new one with where, concatenate or stack",
    ),
    *((in_place(f"__{name}__"), IN_PLACE) for name in ("iadd", "isub", "imul", "itruediv", "ipow", "imatmul")),
    (lambda x: np.asarray(x), PLAIN_ARRAY),
    (lambda x: np.array([x, x]), PLAIN_ARRAY),
    (lambda x: assign(np.zeros((2, 3)), ..., x), PLAIN_ARRAY),
    (lambda x: minigrad.add([x, x], X), PLAIN_ARRAY),
    (lambda x: X.dot(x), PLAIN_ARRAY),
    (lambda x: np.arctan(x), no_rule("np.arctan")),
    (lambda x: np.logaddexp(X, x), no_rule("np.logaddexp")),
    (lambda x: np.add.reduce(x), no_rule("np.add.reduce")),
    (lambda x: np.multiply.outer(X, x), no_rule("np.multiply.outer")),
    (lambda x: np.add(x, 1, where=X > 2), no_rule("np.add with where=")),
    (lambda x: np.add(x, 1, where=X > 2, dtype=float), no_rule("np.add with where=, dtype=")),
    (lambda x: np.linalg.svd(x), no_rule("np.linalg.svd")),
    (
        lambda x: np.linalg.norm(x[None], 2),
        "np.linalg.norm with ord=2 of an array of 3 axes has no derivative rule here: it has the Frobenius norm of a "
        "matrix, and ord 1, 2, inf and -inf of a vector",
    ),
    (
        lambda x: np.linalg.norm(x, 2),
        "np.linalg.norm with ord=2 of a matrix has no derivative rule here: it has the Frobenius norm of a matrix, "
        "and ord 1, 2, inf and -inf of a vector",
    ),
    (lambda x: np.fft.fft(x), no_rule("np.fft.fft")),
    (lambda x: np.median(x), no_rule("np.median")),
    (lambda x: np.copyto(np.zeros(3), x), no_rule("np.copyto")),
    (lambda x: X.copy().__iadd__(x), out("add")),
    (lambda x: np.tanh(x, out=X.copy()), out("tanh")),
    (lambda x: np.tanh(X, out=x), out("tanh")),
    (lambda x: np.greater(X, 0, out=x), out("greater")),
    (lambda x: np.sum(x, dtype=np.float32), "sum takes 1 array, axis=, keepdims=; it got 1 by position, dtype="),
    (lambda x: np.max(x, initial=0), "max takes 1 array, axis=, keepdims=; it got 1 by position, initial="),
    (lambda x: np.var(x, dtype=float), "np.var() got an unexpected keyword argument 'dtype'"),
    (lambda x: np.take(x, [0], mode="wrap"), "np.take() got an unexpected keyword argument 'mode'"),
    (lambda x: np.where(x), "where takes 3 arrays; it got 1 by position"),
    (
        lambda x: np.clip(X, x, 3),
        "clip: a_min= is a Tensor, and its gradient would be lost: give its .value, "
        "or compose the function from primitives that take two arrays",
    ),
    (
        lambda x: minigrad.pad(x, 1, constant_values=Tensor(1.0)),
        "pad: constant_values= is a Tensor, and its gradient would be lost: give its .value, "
        "or compose the function from primitives that take two arrays",
    ),
]


@pytest.mark.parametrize(("what", "sentence"), REFUSALS)
def test_refusals_are_told_in_a_sentence(what, sentence):
    with pytest.raises(TypeError) as caught:
        what(Tensor(X))
    assert str(caught.value) == sentence


def test_in_place_operators_are_refused_as_statements():
    x = Tensor(X)
    with pytest.raises(TypeError) as caught:
        x += 1
    assert str(caught.value) == IN_PLACE
    array = X.copy()
    with pytest.raises(TypeError) as caught:
        array *= x
    assert str(caught.value) == out("multiply")
    np.testing.assert_array_equal(array, X)


def test_the_primitives_that_a_refusal_names_are_public():
    assert set(PUBLIC.split(", ")) <= set(minigrad.__all__)
    for name in PUBLIC.split(", "):
        assert callable(getattr(minigrad, name))


def test_every_public_name_is_there_and_explained():
    for name in minigrad.__all__:
        assert getattr(minigrad, name).__doc__


# --- what is remembered -----------------------------------------------------------------------------------------------


def nodes_of(tensor: Tensor) -> list[Node]:
    todo, seen = [tensor.node], set()
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            todo += node.parents
    return sorted(seen, key=lambda node: node.index)


def test_constants_are_not_remembered():
    assert Tensor(X).node is None
    assert (Tensor(X) * 2 + Tensor(X)).node is None

    def f(x):
        y = Tensor(X) * 2 + x
        assert [node.primitive.name for node in nodes_of(y) if node.primitive] == ["add"]
        return y.sum()

    value_and_grad(f)(X)


def test_no_grad_remembers_nothing():
    def f(x):
        with no_grad():
            assert not is_recording()
            constant = x * x
            with no_grad():
                pass
            assert not is_recording()
        assert is_recording()
        assert constant.node is None
        return (constant * x).sum()

    np.testing.assert_array_equal(value_and_grad(f)(X)[1], X * X)


def test_no_grad_ends_with_an_error_too():
    with pytest.raises(KeyError), no_grad():
        raise KeyError
    assert is_recording()


def test_no_grad_is_a_decorator():
    @no_grad()
    def evaluate(x):
        return x * x

    _, gradient = value_and_grad(lambda x: (evaluate(x) * x).sum())(X)
    np.testing.assert_array_equal(gradient, X * X)


def test_no_grad_in_one_thread_is_no_business_of_another():
    seen = []
    with no_grad():
        thread = threading.Thread(target=lambda: seen.append(value_and_grad(lambda x: (x * x).sum())(X)[1]))
        thread.start()
        thread.join()
    np.testing.assert_array_equal(seen[0], 2 * X)


def test_threads_take_gradients_side_by_side():
    found = {}
    barrier = threading.Barrier(4)

    def work(k):
        barrier.wait()
        for _ in range(20):
            with no_grad():
                assert Tensor(X).node is None
            found[k] = value_and_grad(lambda x: minigrad.tanh(x * k).sum())(X)[1]

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for k in range(4):
        np.testing.assert_allclose(found[k], k * (1 - np.tanh(k * X) ** 2))


def test_a_graph_has_no_reference_cycles():
    def use_everything():
        def f(p):
            h = np.tanh(np.concatenate([p["h"], X], -1) @ p["W"])
            parts = minigrad.split(h, 2)
            y = minigrad.einsum("ij,ij->i", parts[0], parts[1])
            rows = minigrad.take(p["W"], np.array([0, 0, 1])).sum()
            return minigrad.cross_entropy(h, np.array([0, 1])) + y.sum() + rows, h

        params = {"h": np.ones((2, 2)), "W": np.linspace(-1, 1, 20).reshape(5, 4)}
        value_and_grad(f, has_aux=True)(params)
        _, pullback = vjp(f, params)
        pullback((np.ones(()), np.ones((2, 4))))
        minigrad.jvp(lambda p: f(p)[0], [params], [params])

        def gradient_norm(p):
            return sum((g * g).sum() for g in value_and_grad(lambda p: f(p)[0])(p)[1].values())

        value_and_grad(gradient_norm)(params)

    use_everything()  # whatever is made once only, by imports for instance
    gc.collect()
    gc.disable()
    try:
        use_everything()
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_memory_goes_with_the_last_tensor():
    def f(x):
        middle = x * 2
        alive = weakref.ref(middle.value)
        y = middle + 1  # whose rule needs no input, but a node keeps its inputs
        del middle
        assert alive() is not None
        del y
        assert alive() is None
        return x.sum()

    value_and_grad(f)(X)


def test_a_chain_of_many_nodes_is_deleted_without_recursion():
    def f(x):
        y = x
        for _ in range(10_000):
            y = y + 1
        refs = weakref.ref(y.value)
        del y
        assert refs() is None
        return x.sum()

    value_and_grad(f)(X)


@given(st.integers(0, 2**32 - 1))
def test_a_whole_step_in_float32_holds_no_other_type(seed):
    """An LSTM's step and its loss, with the numbers that people write: every array of the graph is float32."""
    rng = np.random.default_rng(seed)
    batch, inputs, hidden = 2, 3, 4
    params = {name: rng.standard_normal((hidden + inputs, hidden), dtype=np.float32) for name in "fioc"}
    params["gain"] = np.ones(hidden, np.float32)
    x = rng.standard_normal((batch, inputs), dtype=np.float32)
    mask = np.array([True, False])

    def loss(p):
        h = c = np.zeros((batch, hidden), np.float32)
        for _ in range(3):
            hx = np.concatenate([h, x], axis=-1)
            f, i, o = (minigrad.sigmoid(hx @ p[gate] + 1) for gate in "fio")
            c = f * c + (1 - f) * np.tanh(hx @ p["c"]) * i**0.5
            c = minigrad.where(mask[:, None], c, 0)
            h = o * np.tanh(minigrad.layer_norm(c, p["gain"], 0.5)) / 2
            h = minigrad.dropout(h, 0.5, rng)
        total = minigrad.cross_entropy(h, np.array([0, 3]), mask) + 1e-3 * minigrad.sum(np.square(p["f"])) + h.max()
        arrays = [node.output for node in nodes_of(total)] + [
            value for node in nodes_of(total) for value in node.inputs if isinstance(value, np.ndarray)
        ]
        assert {a.dtype for a in arrays} <= {np.dtype(np.float32), np.dtype(bool)}
        assert len(arrays) > 100
        return total

    value, gradients = value_and_grad(loss)(params)
    assert value.dtype == np.float32
    assert {g.dtype for g in gradients.values()} == {np.dtype(np.float32)}

    def gradient_norm(p):
        norm = sum((g * g).sum() for g in value_and_grad(loss)(p)[1].values())
        assert {node.output.dtype for node in nodes_of(norm)} == {np.dtype(np.float32)}
        return norm

    assert {g.dtype for g in value_and_grad(gradient_norm)(params)[1].values()} == {np.dtype(np.float32)}
