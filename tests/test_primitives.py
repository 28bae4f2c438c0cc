"""One table of sample inputs drives the tests of every primitive: its keys are the registry's.

What all of them promise is tested row by row; what one of them promises beside that, below.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad
from minigrad import Tensor, einsum, trees, value_and_grad, vjp
from minigrad.checking import check_vjp, numerical_jvp
from minigrad.gradients import jvp
from minigrad.tensor import PRIMITIVES

_rng = np.random.default_rng(0)


def normal(*shape: int) -> Any:
    return _rng.standard_normal(shape)


def positive(*shape: int) -> Any:
    return _rng.uniform(0.5, 2.0, shape)


def apart(*shape: int) -> Any:
    """Values at least 0.1 from each other and from 0, so that no finite difference crosses a kink."""
    size = int(np.prod(shape))
    return _rng.permutation(np.arange(1, size + 1) * _rng.choice([-0.3, 0.3], size)).reshape(shape)


@dataclass(frozen=True)
class Sample:
    args: tuple[Any, ...]
    options: dict[str, Any] = field(default_factory=dict)


def sample(*args: Any, **options: Any) -> Sample:
    return Sample(args, options)


def unary(draw: Any) -> list[Sample]:
    return [sample(draw()), sample(draw(3)), sample(draw(2, 3)), sample(draw(3, 2).T), sample(draw(0, 3))]


def binary(draw: Any) -> list[Sample]:
    # Pairs come from one draw, so that no two of their values meet at a kink.
    both = draw(2, 2, 3)
    column, row, scalar = both[1, :, :1], both[0, 0], both[1, 1, 2:3].reshape(())
    return [
        sample(both[0], both[1]),
        sample(column, row),
        sample(row, scalar),
        sample(scalar, both[0]),
        sample(both[0][:, ::-1].T, column.T),
        sample(both[0], 0.25),
        sample(0.25, both[0]),
        sample(both[0], 1),
        sample(draw(0, 3), draw(3)),
        sample(draw(0), draw(1)),
    ]


def reductions(draw: Any) -> list[Sample]:
    x = draw(2, 3, 4)
    axes = (None, 0, 1, -1, (0, 2), (-1, 1), (0, 1, 2), ())
    rows = [sample(x, axis=axis, keepdims=keepdims) for axis in axes for keepdims in (False, True)]
    return [*rows, sample(draw()), sample(draw(1), axis=0), sample(draw(0, 3), axis=1), sample(draw(3, 2).T, axis=0)]


BATCHED_SHAPES = [
    ((3,), (3,)),
    ((3,), (3, 2)),
    ((3,), (4, 3, 2)),
    ((3,), (5, 4, 3, 2)),
    ((2, 3), (3,)),
    ((4, 2, 3), (3,)),
    ((5, 4, 2, 3), (3,)),
    ((2, 3), (3, 4)),
    ((5, 2, 3), (3, 4)),
    ((6, 5, 2, 3), (3, 4)),
    ((2, 3), (5, 3, 4)),
    ((5, 2, 3), (5, 3, 4)),
    ((1, 2, 3), (5, 3, 4)),
    ((5, 2, 3), (1, 3, 4)),
    ((6, 1, 2, 3), (5, 3, 4)),
    ((5, 2, 3), (6, 1, 3, 4)),
    ((1, 1), (1, 1)),
    ((0, 3), (3, 2)),
    ((2, 0), (0, 3)),
    ((0,), (0,)),
    ((4, 2, 0), (0, 3)),
    ((0, 2, 3), (3, 4)),
    ((4, 0, 3), (3, 4)),
    ((4, 2, 3), (3, 0)),
    ((0, 2, 3), (0, 3, 4)),
]

EINSUMS = [
    ("ij,jk->ik", (2, 3), (3, 4)),
    ("ij,jk", (2, 3), (3, 4)),
    ("ba,cb", (2, 3), (4, 2)),
    ("ij,ij->", (2, 3), (2, 3)),
    ("ij,ij", (2, 3), (2, 3)),
    ("i,j->ij", (2,), (3,)),
    ("i,j->ji", (2,), (3,)),
    ("i,j->", (2,), (3,)),
    ("ij,k->k", (2, 3), (4,)),
    ("ijk,k->j", (2, 3, 4), (4,)),
    ("tbh,hk->tbk", (4, 2, 3), (3, 5)),
    ("bij,bjk->bik", (2, 3, 4), (2, 4, 5)),
    ("bij,bjk->ikb", (2, 3, 4), (2, 4, 5)),
    ("...ij,...jk->...ik", (2, 3, 4), (2, 4, 5)),
    ("...ij,...jk->...ik", (3, 4), (2, 4, 5)),
    ("...ij,...jk->...ik", (6, 1, 3, 4), (2, 4, 5)),
    ("...i,i->...", (2, 3, 4), (4,)),
    ("...i,i", (2, 3, 4), (4,)),
    ("i...,i->...", (3, 2, 4), (3,)),
    ("...,...->...", (2, 3), (3,)),
    ("...,...", (), ()),
    (",i->i", (), (3,)),
    (",", (), ()),
    (" ij , jk -> ik ", (2, 3), (3, 4)),
    ("ij,jk->ik", (2, 1), (3, 4)),
    ("ij,jk->ik", (2, 3), (1, 4)),
    ("ij,ij->ij", (1, 3), (2, 1)),
    ("ij,ij->j", (1, 3), (2, 1)),
    ("Zz,zA->ZA", (2, 3), (3, 4)),
    ("ij,jk->ik", (0, 3), (3, 4)),
    ("ij,jk->ik", (2, 0), (0, 4)),
    ("ij,j->i", (2, 0), (1,)),
    ("bi,oi->bo", (2, 3), (4, 3)),
    ("oi,bi->bo", (4, 3), (2, 3)),
    ("i,bi->b", (3,), (2, 3)),
    ("bj,bij->bi", (2, 3), (2, 4, 3)),
    ("bhqd,bhkd->bhqk", (2, 2, 3, 4), (2, 2, 5, 4)),
    ("abij,cij->cab", (2, 1, 3, 2), (4, 3, 2)),
]

_mask = np.array([[True, False, True], [False, True, True]])
_table = normal(5, 3, 2)

INDICES: list[Any] = [
    0,
    -1,
    np.int64(2),
    slice(1, 4),
    slice(None, None, -1),
    slice(4, 0, -2),
    slice(3, 3),
    None,
    Ellipsis,
    (),
    (1, 2, 0),
    (..., 1),
    (..., -1, None),
    (slice(None), None, slice(1, None), ...),
    (slice(None, None, 2), ..., slice(None, None, -1)),
    [0, 0, 3],
    ((0, 0, 3),),
    np.array([0, 0, -1, 3, -5]),
    np.array([4, 4, 1], np.uint8),
    np.array([[0, 1], [1, -4]]),
    np.array(2),
    np.zeros((0,), int),
    np.zeros((2, 0), int),
    (np.array([0, 0, -5]), np.array([1, 1, -2])),
    (np.array([[0], [1]]), np.array([1, 1])),
    (slice(None), np.array([1, 1, -2])),
    (np.array([1, 1]), slice(None), 0),
    (np.array([1, 1]), slice(None), np.array([0, 1])),
    (..., np.array([0, 0, 1])),
    (0, np.array([1, 1])),
    (None, np.array([1, 1])),
    (range(2), [1, 1]),
    _table[:, 0, 0] > 0,
    _table > 0,
    (slice(None), np.array([True, False, True])),
    (np.array([True, False, True, False, False]), np.array([0, 0])),
    np.zeros(5, bool),
    True,
    np.bool_(False),
]

SAMPLES: dict[str, list[Sample]] = {
    "add": binary(normal),
    "subtract": binary(normal),
    "multiply": binary(normal),
    "divide": [s for s in binary(positive) if np.all(s.args[1])],
    "power": [
        *binary(positive),
        *(sample(positive(2, 3), exponent) for exponent in (0, 1, 2, 3, -1, 0.5, -1.5, np.float64(2.0))),
        *(sample(normal(2, 3), exponent) for exponent in (0, 1, 2, 3)),
        *(sample(np.array([0.0, 1.0, -2.0]), exponent) for exponent in (0, 1, 2, 3)),
        sample(np.array([0.0, 1.0, 2.0]), np.array([3, 2, 0])),
        sample(2, normal(3)),
        sample(np.int64(3), normal(3)),
    ],
    "negative": unary(normal),
    "exp": unary(normal),
    "expm1": unary(normal),
    "log": unary(positive),
    "log1p": unary(positive),
    "sqrt": unary(positive),
    "square": unary(normal),
    "abs": unary(apart),
    "sin": unary(normal),
    "cos": unary(normal),
    "tanh": unary(normal),
    "sigmoid": unary(normal),
    "softplus": unary(normal),
    "relu": unary(apart),
    "alias": unary(normal),
    "stop_gradient": unary(normal),
    "astype": [sample(s.args[0], dtype=np.float64) for s in unary(normal)],
    "maximum": binary(apart),
    "minimum": binary(apart),
    "where": [
        sample(_mask, normal(2, 3), normal(2, 3)),
        sample(_mask, normal(3), normal(2, 1)),
        sample(_mask[0], normal(), normal(2, 3)),
        sample(np.bool_(True), normal(2, 3), normal()),
        sample(True, normal(2, 1), normal(3)),
        sample(_mask.astype(int), normal(2, 3), 0),
        sample(_mask, 1.5, normal(2, 1)),
        sample(np.zeros((0, 3), bool), normal(3), normal(0, 3)),
    ],
    "clip": [
        sample(apart(2, 3), a_min=-0.5, a_max=0.5),
        sample(apart(2, 3), a_min=None, a_max=0.5),
        sample(apart(2, 3), a_min=-0.5, a_max=None),
        sample(apart(2, 3), a_min=None, a_max=None),
        sample(apart(3), a_min=np.full((2, 1), -0.5, np.float32), a_max=1),
        sample(apart(), a_min=-9, a_max=9),
        sample(apart(0, 3), a_min=-9, a_max=9),
    ],
    "matmul": [sample(normal(*a), normal(*b)) for a, b in BATCHED_SHAPES]
    + [sample(normal(3, 2).T, normal(4, 3).T), sample(normal(4, 5, 3)[:, ::2], normal(3, 2))],
    "sum": [*reductions(normal), sample(normal(), axis=0), sample(normal(0, 3), axis=0)],
    "mean": reductions(normal),
    "max": [*reductions(apart), sample(apart(), axis=-1)],
    "min": [*reductions(apart), sample(apart(), axis=-1)],
    "logsumexp": reductions(normal),
    "log_softmax": [
        *(sample(normal(2, 3, 4), axis=axis) for axis in (0, 1, -1)),
        sample(normal(3)),
        sample(normal(1)),
        sample(normal(0, 3)),
    ],
    "cumsum": [
        *(sample(normal(2, 3, 4), axis=axis) for axis in (None, 0, 1, -1)),
        sample(normal()),
        sample(normal(), axis=0),
        sample(normal(0, 3)),
        sample(normal(0, 3), axis=0),
    ],
    "reshape": [
        *(sample(normal(2, 3), shape=shape) for shape in ((3, 2), (6,), 6, -1, (-1, 2), (1, 6, 1), [3, 2])),
        sample(normal(3, 2).T, shape=(3, 2)),
        sample(normal(), shape=(1, 1)),
        sample(normal(1), shape=()),
        sample(normal(0, 3), shape=(2, 0)),
    ],
    "transpose": [
        *(sample(normal(2, 3, 4), axes=axes) for axes in (None, (1, 0, 2), (2, 0, 1), (-1, 0, 1), [1, 2, 0])),
        sample(normal(3)),
        sample(normal()),
        sample(normal(0, 3)),
    ],
    "broadcast_to": [
        *(sample(normal(2, 1), shape=shape) for shape in ((2, 1), (2, 3), (4, 2, 3), (1, 2, 1), (2, 0))),
        sample(normal(), shape=(2, 3)),
        sample(normal(1), shape=3),
        sample(normal(0), shape=(2, 0)),
    ],
    "pad": [
        *(sample(normal(2, 3), pad_width=width) for width in (0, 1, (2,), (1, 2), [1, 2], ((1, 2),), ((1,), (2,)))),
        *(sample(normal(2, 3), pad_width=width) for width in (((1, 0), (0, 2)), np.array([[1, 2], [0, 0]]))),
        *(sample(normal(2, 3), pad_width=width) for width in ({0: 1}, {-1: (1, 2)}, {0: (0, 1), 1: 2})),
        sample(normal(2, 3), pad_width=1, constant_values=5),
        sample(normal(2, 3), pad_width=1, constant_values=((1, 2), (3, 4))),
        sample(normal(0, 3), pad_width=1),
        sample(normal(0, 3), pad_width=((0, 0), (1, 1))),
    ],
    "concatenate": [
        *(sample(normal(2, 3), normal(2, 3), axis=axis) for axis in (0, 1, -1, -2)),
        sample(normal(2, 1), normal(2, 0), normal(2, 4), axis=-1),
        sample(normal(3)),
    ],
    "stack": [
        *(sample(normal(2, 3), normal(2, 3), normal(2, 3), axis=axis) for axis in (0, 1, 2, -1, -3)),
        sample(normal(), normal()),
        sample(normal(0, 3), normal(0, 3), axis=1),
    ],
    "getitem": [
        *(sample(_table, index=index) for index in INDICES),
        sample(normal(256, 1), index=np.array([0, 255, 255], np.uint8)),
        sample(normal(200, 1), index=np.array([-1, 127, 127], np.int8)),
        sample(normal(), index=()),
        sample(normal(0), index=...),
    ],
    "take": [
        *(sample(normal(4, 3), np.array([0, 2, 0, -1, -4]), axis=axis) for axis in (0,)),
        sample(normal(4, 3), np.array([[0, 2], [2, -1]]), axis=1),
        sample(normal(2, 4, 3), np.array([3, 3, -4]), axis=-2),
        sample(normal(4, 3), 2),
        sample(normal(4, 3), -1, axis=-1),
        sample(normal(4, 3), [1, 1]),
        sample(normal(4, 3), np.array([True, False])),
        sample(normal(256, 1), np.array([0, 255, 255], np.uint8)),
        sample(normal(200, 1), np.array([-1, 127, 127], np.int8)),
        sample(normal(4, 3), np.zeros((2, 0), int)),
        sample(normal(4, 0), np.array([1, 1])),
    ],
    "pick": [
        sample(normal(3, 4), np.array([0, 3, 3])),
        sample(normal(2, 3, 4), np.array([[0, 1, 2], [3, 3, 0]], np.uint8)),
        sample(normal(4), np.array(2)),
        sample(normal(4), 2),
        sample(normal(4, 3).T, np.array([1, 2, 3])),
        sample(normal(3, 1), np.array([False, False, False])),
        sample(normal(0, 4), np.zeros(0, int)),
    ],
    "place": [
        sample(normal(3), np.array([0, 3, 3]), size=4),
        sample(normal(2, 3), np.array([[0, 1, 2], [3, 3, 0]], np.uint8), size=4),
        sample(normal(), np.array(2), size=4),
        sample(normal(), 2, size=4),
        sample(normal(3, 2).T, np.array([[0, 0, 1], [1, 0, 1]]), size=2),
        sample(normal(2), np.array([0, 0]), size=1),
        sample(normal(0), np.zeros(0, int), size=4),
    ],
    "scatter": [
        sample(normal(3), normal(3), indices=(0, 0), shape=(2, 3)),
        sample(normal(2, 3), normal(), indices=(np.array([1, 1]), (0, 2)), shape=(2, 3)),
        sample(normal(3, 2), indices=((slice(None), np.array([0, 0])),), shape=(3, 2)),
        sample(normal(0, 3), indices=(np.zeros(0, int),), shape=(2, 3)),
    ],
}  # fmt: skip


def _scattered(*gs: Any, indices: Any, shape: Any) -> Any:
    out = np.zeros(shape, gs[0].dtype)
    for index, g in zip(indices, gs, strict=True):
        np.add.at(out, index, g)
    return out


def _placed(x: Any, indices: Any, size: int) -> Any:
    out = np.zeros((*np.shape(x), size), x.dtype)
    for place, element in np.ndenumerate(x):
        out[(*place, np.asarray(indices)[place])] = element
    return out


def _logsumexp(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    return np.log(np.sum(np.exp(x), axis=axis, keepdims=keepdims))


ORACLES: dict[str, Any] = {
    "abs": np.absolute,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "softplus": lambda x: np.log1p(np.exp(x)),
    "relu": lambda x: x * (x > 0),
    "alias": lambda x: x,
    "stop_gradient": lambda x: x,
    "astype": lambda x, dtype: x.astype(dtype),
    "clip": lambda x, a_min, a_max: np.clip(x, a_min, a_max),
    "logsumexp": _logsumexp,
    "log_softmax": lambda x, axis=-1: x - _logsumexp(x, axis, keepdims=True),
    "concatenate": lambda *xs, axis=0: np.concatenate(xs, axis),
    "stack": lambda *xs, axis=0: np.stack(xs, axis),
    "getitem": lambda x, index: x[index],
    "take": lambda x, indices, axis=0: np.take(x, indices, axis),
    "pick": lambda x, indices: np.take_along_axis(x, np.expand_dims(indices, -1).astype(int), -1).squeeze(-1),
    "place": _placed,
    "scatter": _scattered,
}
"""What the forward pass must equal, where it is not the NumPy function of the same name."""

NOT_ANALYTIC = {
    "abs", "relu", "softplus", "maximum", "minimum", "clip", "max", "min", "logsumexp", "log_softmax", "astype",
}  # fmt: skip
"""Where the forward pass is no analytic function, or NumPy has it for real numbers only."""

CONSTANT = {"stop_gradient"}
"""Primitives without the derivative of their forward pass, on purpose."""

ROWS = [pytest.param(name, row, id=f"{name}-{i}") for name, rows in SAMPLES.items() for i, row in enumerate(rows)]
every_row = pytest.mark.parametrize(("name", "row"), ROWS)
every_row_with_a_derivative = pytest.mark.parametrize(("name", "row"), [p for p in ROWS if p.values[0] not in CONSTANT])


def differentiable(name: str, row: Sample) -> list[int]:
    """The positions of the float arrays among the inputs for which the primitive has a rule, or whose rule is 0."""
    primitive = PRIMITIVES[name]
    return [
        i
        for i, x in enumerate(row.args)
        if isinstance(x, np.ndarray | np.float64) and np.asarray(x).dtype.kind == "f"
        if name in CONSTANT or primitive.variadic or primitive.rules[i] is not None
    ]


def as_function(name: str, row: Sample, dtype: Any = np.float64) -> tuple[Any, list[Any]]:
    """The primitive as a function of its differentiable inputs, and these."""
    positions = differentiable(name, row)

    def f(*xs: Any) -> Any:
        args = list(row.args)
        for i, x in zip(positions, xs, strict=True):
            args[i] = x
        return PRIMITIVES[name](*args, **row.options)

    return f, [np.asarray(row.args[i], dtype) for i in positions]


# --- what every primitive promises ------------------------------------------------------------------------------------


def test_the_table_has_every_primitive_and_no_other():
    assert SAMPLES.keys() == PRIMITIVES.keys()


@pytest.mark.parametrize("name", SAMPLES)
def test_the_table_has_something_empty_and_something_to_differentiate_for(name):
    inputs = [as_function(name, row)[1] for row in SAMPLES[name]]
    assert all(inputs)
    assert any(x.size == 0 for xs in inputs for x in xs)


@every_row
def test_value_is_that_of_numpy(name, row):
    oracle = ORACLES.get(name) or getattr(np, name)
    expected = oracle(*row.args, **row.options)
    actual = PRIMITIVES[name](*row.args, **row.options)
    np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-14, strict=True)
    f, xs = as_function(name, row)
    tensor = f(*map(Tensor, xs))
    assert isinstance(tensor, Tensor)
    np.testing.assert_array_equal(tensor.value, actual)


@every_row_with_a_derivative
def test_gradient_and_gradient_of_gradient_are_those_of_finite_differences(name, row):
    f, xs = as_function(name, row)
    check_vjp(f, xs, order=2, directions=2)


@every_row_with_a_derivative
def test_jvp_is_that_of_finite_differences(name, row):
    f, xs = as_function(name, row)
    rng = np.random.default_rng(1)
    tangents = [rng.standard_normal(x.shape) for x in xs]
    value, tangent = jvp(f, xs, tangents)
    np.testing.assert_array_equal(value, f(*xs))
    np.testing.assert_allclose(tangent, numerical_jvp(f, xs, tangents), rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize(("name", "row"), [p for p in ROWS if p.values[0] not in NOT_ANALYTIC | CONSTANT])
def test_jvp_is_that_of_a_complex_step(name, row):
    """f(x + iht).imag / h has no subtraction in it, so it is exact to the last digits."""
    f, xs = as_function(name, row)
    rng = np.random.default_rng(2)
    tangents = [rng.standard_normal(x.shape) for x in xs]
    step = f(*(x + 1e-30j * t for x, t in zip(xs, tangents, strict=True)))
    np.testing.assert_allclose(jvp(f, xs, tangents)[1], np.imag(step) / 1e-30, rtol=1e-12, atol=1e-13)


def widens(name: str, row: Sample) -> bool:
    """Whether NumPy itself gives float64, because a constant that stays as it is has a wide type."""
    constants = [x for i, x in enumerate(row.args) if i not in differentiable(name, row) and hasattr(x, "dtype")]
    if name in ("where", "take", "pick", "place"):  # what chooses is not computed with
        return False
    if name == "astype":
        return True
    return any(x.dtype in (np.float64, np.int64) for x in constants)


@pytest.mark.parametrize(("name", "row"), [p for p in ROWS if not widens(*p.values)])
def test_float32_stays_float32(name, row):
    f, xs = as_function(name, row, np.float32)
    value, pullback = vjp(f, *xs)
    g = np.ones(value.shape, np.float32)

    def squared_gradient(*inner: Any) -> Any:
        parts = [(part * part).sum() for part in vjp(f, *inner)[1](g)]
        assert all(part.dtype == np.float32 for part in parts)
        return minigrad.sum(minigrad.stack(parts))

    assert value.dtype == np.float32
    assert [(x.dtype, x.shape) for x in pullback(g)] == [(np.float32, x.shape) for x in xs]
    loss, gradients = value_and_grad(lambda inner: squared_gradient(*inner))(xs)
    assert loss.dtype == np.float32
    assert [x.dtype for x in gradients] == [np.float32] * len(xs)
    assert trees.leaves(jvp(f, xs, xs))[1].dtype == np.float32


@every_row
def test_gradients_are_the_callers_own(name, row):
    """Nobody else holds their memory: not the cotangent, not the inputs, not another gradient."""
    f, xs = as_function(name, row)
    value, pullback = vjp(f, *xs)
    g = np.random.default_rng(3).standard_normal(value.shape)
    before = [x.copy() for x in (g, *xs)]
    first, second = pullback(g), pullback(g)
    for x in first:
        assert type(x) is np.ndarray
        assert x.flags.writeable
        x += 1000
    np.testing.assert_array_equal([*map(np.sum, pullback(g))], [*map(np.sum, second)])
    for old, new in zip(before, (g, *xs), strict=True):
        np.testing.assert_array_equal(old, new)


# --- broadcasting -----------------------------------------------------------------------------------------------------

ELEMENTWISE = [name for name, p in PRIMITIVES.items() if p.broadcasts and name != "clip"]


@pytest.mark.parametrize("name", ELEMENTWISE)
@given(st.data())
def test_broadcasting_is_broadcast_to_and_then_the_primitive(name, data):
    primitive = PRIMITIVES[name]
    n = len(primitive.rules)
    shapes = data.draw(hnp.mutually_broadcastable_shapes(num_shapes=n, min_side=0, max_side=3, max_dims=3))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    xs = [rng.uniform(0.5, 2.0, shape) for shape in shapes.input_shapes]
    if name == "where":
        xs[0] = xs[0] > 1
    positions = [i for i, rule in enumerate(primitive.rules) if rule is not None]

    def f(*inner: Any) -> Any:
        args = list(xs)
        for i, x in zip(positions, inner, strict=True):
            args[i] = x
        return primitive(*args)

    def spread(*inner: Any) -> Any:
        args = [np.broadcast_to(x, shapes.result_shape) for x in xs]
        for i, x in zip(positions, inner, strict=True):
            args[i] = minigrad.broadcast_to(x, shapes.result_shape)
        return primitive(*args)

    inner = [xs[i] for i in positions]
    value, pullback = vjp(f, *inner)
    expected, expected_pullback = vjp(spread, *inner)
    np.testing.assert_array_equal(value, expected)
    assert value.shape == shapes.result_shape
    g = rng.standard_normal(value.shape)
    for gradient, other in zip(pullback(g), expected_pullback(g), strict=True):
        np.testing.assert_allclose(gradient, other, rtol=1e-13, atol=1e-13, strict=True)


@given(
    shapes=hnp.mutually_broadcastable_shapes(num_shapes=1, min_side=0, max_side=4, max_dims=4),
    extra=hnp.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=3),
)
def test_the_gradient_of_broadcast_to_counts_the_copies(shapes, extra):
    (shape,) = shapes.input_shapes
    full = (*extra, *shapes.result_shape)
    _, gradient = value_and_grad(lambda x: minigrad.broadcast_to(x, full).sum())(np.ones(shape))
    count = np.prod(full) / np.prod(shape) if np.prod(shape) else 0
    np.testing.assert_array_equal(gradient, np.full(shape, count))


# --- reductions -------------------------------------------------------------------------------------------------------


@st.composite
def shape_and_axes(draw):
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=3))
    axis = draw(st.one_of(st.none(), hnp.valid_tuple_axes(len(shape)), st.integers(-len(shape), len(shape) - 1)))
    return shape, axis


@pytest.mark.parametrize("name", ["sum", "mean", "max", "min", "logsumexp"])
@given(shape_and_axes(), st.booleans(), st.integers(0, 2**32 - 1))
def test_reductions_over_any_axes(name, shape_and_axis, keepdims, seed):
    shape, axis = shape_and_axis
    rng = np.random.default_rng(seed)
    x = rng.permutation(np.prod(shape)).reshape(shape) / 5  # no two within reach of a finite difference
    f = PRIMITIVES[name]
    oracle = ORACLES.get(name) or getattr(np, name)
    np.testing.assert_allclose(f(x, axis=axis, keepdims=keepdims), oracle(x, axis=axis, keepdims=keepdims), rtol=1e-12)
    check_vjp(lambda x: f(x, axis=axis, keepdims=keepdims), [x], directions=1, rng=rng)


def test_equal_maxima_share_the_cotangent():
    _, gradient = value_and_grad(lambda x: minigrad.max(x))(np.array([1.0, 3.0, 3.0, 2.0, 3.0]))
    np.testing.assert_allclose(gradient, [0, 1 / 3, 1 / 3, 0, 1 / 3])
    _, gradient = value_and_grad(lambda x: minigrad.min(x, axis=1).sum())(np.array([[1.0, 3.0, 1.0], [2.0, 2.0, 2.0]]))
    np.testing.assert_allclose(gradient, [[1 / 2, 0, 1 / 2], [1 / 3, 1 / 3, 1 / 3]])


@pytest.mark.parametrize("name", ["maximum", "minimum"])
def test_equal_arguments_share_the_cotangent(name):
    gradients = value_and_grad(lambda pair: PRIMITIVES[name](*pair).sum())((np.ones(3), np.ones(3)))[1]
    np.testing.assert_array_equal(gradients, np.full((2, 3), 0.5))


@pytest.mark.parametrize(("name", "expected"), [("relu", 0.0), ("abs", 0.0)])
def test_derivative_at_the_kink(name, expected):
    assert value_and_grad(PRIMITIVES[name])(0.0)[1] == expected


def test_stop_gradient_makes_a_constant_of_its_operand_in_derivatives_of_every_order():
    stop, x, v = minigrad.stop_gradient, np.array([2.0, -3.0]), np.array([1.0, 10.0])
    value, gradient = value_and_grad(lambda x: (stop(x * x) * x).sum())(x)
    assert value == 8 - 27
    np.testing.assert_array_equal(gradient, x * x)
    np.testing.assert_array_equal(value_and_grad(lambda x: stop(x).sum())(x)[1], [0, 0])
    np.testing.assert_array_equal(jvp(lambda x: stop(x) * x, [x], [v])[1], x * v)

    def inner(x: Any) -> Any:
        return value_and_grad(lambda x: (stop(x) * x**3).sum())(x)[1]  # 3 c x^2 for the constant c = x

    np.testing.assert_allclose(inner(x), 3 * x**3)
    np.testing.assert_allclose(value_and_grad(lambda x: inner(x).sum())(x)[1], 6 * x**2)


def test_stop_gradient_stops_infinities_too():
    f = lambda x: minigrad.where(x > 0, x, minigrad.stop_gradient(1 / x))  # noqa: E731
    with np.errstate(divide="ignore"):
        np.testing.assert_array_equal(value_and_grad(lambda x: f(x).sum())(np.array([0.0, 2.0]))[1], [0, 1])


def test_clip_passes_the_cotangent_at_its_bounds_and_inside():
    _, gradient = value_and_grad(lambda x: minigrad.clip(x, -1, 1).sum())(np.array([-2.0, -1.0, 0.0, 1.0, 2.0]))
    np.testing.assert_array_equal(gradient, [0, 1, 1, 1, 0])


def test_logsumexp_of_a_row_of_minus_infinity_is_minus_infinity_with_gradient_zero():
    x = np.array([[-np.inf, -np.inf], [-np.inf, 0.0], [1000.0, 1000.0]])
    value, pullback = vjp(lambda x: minigrad.logsumexp(x, axis=1), x)
    np.testing.assert_allclose(value, [-np.inf, 0, 1000 + np.log(2)])
    np.testing.assert_allclose(pullback(np.ones(3))[0], [[0, 0], [0, 1], [0.5, 0.5]], rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("row", "value", "gradient"),
    [
        ([np.inf, 0, 0], np.inf, [1, 0, 0]),
        ([np.inf, 1e4, np.inf], np.inf, [0.5, 0, 0.5]),
        ([-np.inf, np.inf, 0], np.inf, [0, 1, 0]),
        ([np.nan, 0, 0], np.nan, [np.nan, np.nan, np.nan]),
    ],
)
def test_logsumexp_of_infinite_elements(row, value, gradient, dtype):
    """The gradient goes to infinite elements alone; equal ones share it, as equal maxima do."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found, pullback = vjp(lambda x: minigrad.logsumexp(x, axis=1), np.array([row, [0, 0, 0]], dtype))
        np.testing.assert_allclose(found, np.array([value, np.log(3)], dtype))
        np.testing.assert_allclose(pullback(np.ones(2, dtype))[0], np.array([gradient, [1 / 3] * 3], dtype), rtol=1e-6)


def test_reductions_of_nothing():
    x = np.zeros((2, 0), np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for f in (minigrad.softmax, minigrad.log_softmax):
            value, pullback = vjp(f, x)
            assert (value.shape, value.dtype, pullback(value)[0].shape) == ((2, 0), np.float32, (2, 0))
        value, pullback = vjp(lambda x: minigrad.logsumexp(x, axis=1), x)
        np.testing.assert_array_equal(value, [-np.inf, -np.inf])
        assert pullback(value)[0].shape == (2, 0)


def test_the_logarithm_of_a_sigmoid_has_its_gradient_far_out():
    for dtype, x in ((np.float32, [-13, -20, -80]), (np.float64, [-38, -400, -700])):
        value, gradient = value_and_grad(lambda x: minigrad.log(minigrad.sigmoid(x)).sum())(np.array(x, dtype))
        np.testing.assert_allclose(value, sum(x), rtol=1e-6)
        np.testing.assert_allclose(gradient, np.ones(3), rtol=1e-5)


@pytest.mark.parametrize("name", ["softplus", "sigmoid", "log_softmax", "logsumexp", "tanh"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_no_overflow_at_either_end(name, dtype):
    x = np.array([-1e4, -100, 0, 100, 1e4], dtype)
    value, pullback = vjp(PRIMITIVES[name], x)
    assert np.isfinite(value).all()
    assert np.isfinite(pullback(np.ones_like(value))[0]).all()


# --- powers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("exponent", "first", "second"),
    [(0, 0, 0), (1, 1, 0), (2, 0, 2), (3, 0, 0), (0.0, 0, 0), (1.0, 1, 0), (2.0, 0, 2)],
)
@pytest.mark.parametrize("wrap", [lambda e: e, np.array, lambda e: Tensor(float(e))], ids=["number", "array", "tensor"])
def test_power_at_base_zero(exponent, first, second, wrap):
    def slope(x: Any) -> Any:
        return value_and_grad(lambda x: x ** wrap(exponent))(x)[1]

    assert slope(0.0) == first
    assert value_and_grad(lambda x: slope(x) + 0 * x)(0.0)[1] == second


def test_power_by_a_tensor_at_base_zero_has_derivative_zero():
    base, exponent = np.zeros(3), np.array([0.5, 1.0, 2.0])
    for f in (lambda e: (base**e).sum(), lambda e: (0.0**e).sum()):
        np.testing.assert_array_equal(value_and_grad(f)(exponent)[1], np.zeros(3))


def test_power_of_a_negative_number_has_no_derivative_by_its_exponent():
    value, gradient = value_and_grad(lambda e: (-2) ** e)(2.0)
    assert value == 4
    assert np.isnan(gradient)


# --- einsum -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("subscripts", "a", "b"), EINSUMS)
def test_einsum_is_numpys(subscripts, a, b):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal(a), rng.standard_normal(b)
    np.testing.assert_allclose(einsum(subscripts, x, y), np.einsum(subscripts, x, y), rtol=1e-12, strict=True)
    np.testing.assert_allclose(np.einsum(subscripts, Tensor(x), y).value, np.einsum(subscripts, x, y), rtol=1e-12)
    check_vjp(lambda x, y: einsum(subscripts, x, y), [x, y], order=2, directions=2)


@pytest.mark.parametrize(
    ("subscripts", "shapes"),
    [
        ("ij->ji", [(2, 3)]),
        ("ij->", [(2, 3)]),
        ("ji", [(2, 3)]),
        ("i...->...", [(2, 3)]),
        ("ij,jk,kl->il", [(2, 3), (3, 4), (4, 2)]),
        ("ij,j,i->", [(2, 3), (3,), (2,)]),
        ("bi,bj,bij->b", [(2, 3), (2, 4), (2, 3, 4)]),
        ("ij,ij,ij->ij", [(2, 3), (1, 3), (2, 1)]),
    ],
)
def test_einsum_of_one_operand_and_of_many(subscripts, shapes):
    xs = [np.random.default_rng(0).standard_normal(shape) for shape in shapes]
    np.testing.assert_allclose(einsum(subscripts, *xs), np.einsum(subscripts, *xs), rtol=1e-12, strict=True)
    found = np.einsum(subscripts, *map(Tensor, xs), optimize=True)
    np.testing.assert_allclose(found.value, np.einsum(subscripts, *xs), rtol=1e-12)
    check_vjp(lambda *xs: einsum(subscripts, *xs), xs, order=2, directions=2)


@pytest.mark.parametrize(
    "call",
    [
        lambda a, b: (a, [0, 1], b, [1, 2], [0, 2]),
        lambda a, b: (a, [0, 1], b, [1, 2]),
        lambda a, b: (a, [27, 1], b, [1, 2]),
        lambda a, b: (a, [..., 1], b, [1, 2], [..., 2]),
        lambda a, b: (a, [5, 3], [3, 5]),
        lambda a, b: (a, [0, 1]),
    ],
)
def test_einsum_of_labels_in_lists(call):
    a, b = np.arange(6.0).reshape(2, 3), np.arange(12.0).reshape(3, 4)
    np.testing.assert_array_equal(einsum(*call(a, b)), np.einsum(*call(a, b)))
    np.testing.assert_array_equal(np.einsum(*call(Tensor(a), b)).value, np.einsum(*call(a, b)))
    check_vjp(lambda a, b: np.einsum(*call(a, b)), [a, b])


@st.composite
def contractions(draw):
    """Two operands over some of five labels, an output over some of theirs, and lengths, some of them 1 or 0."""
    terms = [draw(st.lists(st.sampled_from("abcde"), unique=True, max_size=4)) for _ in range(2)]
    out = draw(st.lists(st.sampled_from(sorted({*terms[0], *terms[1]}) or ["a"]), unique=True, max_size=3))
    out = [label for label in out if label in terms[0] or label in terms[1]]
    lengths = {label: draw(st.integers(0, 3)) for label in "abcde"}
    shapes = [tuple(draw(st.sampled_from([lengths[label], 1])) for label in term) for term in terms]
    subscripts = ",".join("".join(term) for term in terms)
    return draw(st.sampled_from([subscripts, f"{subscripts}->{''.join(out)}"])), *shapes


@given(contractions())
def test_einsum_of_any_two_operands(contraction):
    subscripts, a, b = contraction
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal(a), rng.standard_normal(b)
    np.testing.assert_allclose(einsum(subscripts, x, y), np.einsum(subscripts, x, y), rtol=1e-12, atol=1e-12)
    check_vjp(lambda x, y: einsum(subscripts, x, y), [x, y], directions=1)


# --- choosing ---------------------------------------------------------------------------------------------------------


def gradient_of_choosing(x: Any, index: Any) -> tuple[Any, Any]:
    """The gradient of <g, x[index]>, and the same by NumPy."""
    g = np.random.default_rng(0).standard_normal(x[index].shape)
    expected = np.zeros_like(x)
    np.add.at(expected, index, g)
    return value_and_grad(lambda x: (x[index] * g).sum())(x)[1], expected


@given(st.data())
def test_basic_indexing(data):
    x = np.ones(data.draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)))
    index = data.draw(hnp.basic_indices(x.shape, allow_newaxis=True, allow_ellipsis=True))
    np.testing.assert_array_equal(*gradient_of_choosing(x, index))


@given(st.data())
def test_indexing_by_integer_arrays(data):
    x = np.ones(data.draw(hnp.array_shapes(max_dims=3, max_side=4)))
    dtype = data.draw(st.sampled_from([np.dtype(np.int8), np.dtype(np.uint8), np.dtype(np.int64)]))
    index = data.draw(hnp.integer_array_indices(x.shape, dtype=dtype))
    np.testing.assert_allclose(*gradient_of_choosing(x, index), atol=1e-13)


@given(st.data())
def test_indexing_by_a_mask(data):
    x = np.ones(data.draw(hnp.array_shapes(max_dims=3, max_side=4)))
    index = data.draw(hnp.arrays(bool, x.shape[: data.draw(st.integers(1, x.ndim))]))
    np.testing.assert_array_equal(*gradient_of_choosing(x, index))


@given(st.data())
def test_take_of_any_rows(data):
    x = np.ones(data.draw(hnp.array_shapes(max_dims=3, max_side=5)))
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    rows = st.integers(-x.shape[axis], x.shape[axis] - 1)
    indices = data.draw(
        hnp.arrays(data.draw(st.sampled_from([np.int8, np.int64])), hnp.array_shapes(max_dims=2), elements=rows)
    )
    g = np.random.default_rng(0).standard_normal(np.take(x, indices, axis).shape)
    expected = np.zeros_like(x)
    np.add.at(expected, (slice(None),) * (axis % x.ndim) + (indices,), g)
    _, gradient = value_and_grad(lambda x: (minigrad.take(x, indices, axis) * g).sum())(x)
    np.testing.assert_allclose(gradient, expected, atol=1e-13)


def test_take_without_an_axis_flattens_as_numpy_does():
    x = np.arange(6.0).reshape(2, 3)
    indices = np.array([5, 0, 5])
    for f in (lambda x: np.take(x, indices), lambda x: minigrad.take(x, indices, axis=None)):
        value, pullback = vjp(f, x)
        np.testing.assert_array_equal(value, np.take(x, indices))
        np.testing.assert_array_equal(pullback(np.ones(3))[0], [[1, 0, 0], [0, 0, 2]])


def test_pick_counts_from_the_end_as_indexing_does():
    x, indices = normal(3, 4), np.array([-1, 0, -4])
    value, pullback = vjp(lambda x: minigrad.tensor.PRIMITIVES["pick"](x, indices), x)
    np.testing.assert_array_equal(value, x[np.arange(3), indices])
    expected = np.zeros((3, 4))
    expected[np.arange(3), indices] = 1
    np.testing.assert_array_equal(pullback(np.ones(3))[0], expected)


def test_concatenate_without_an_axis_flattens_as_numpy_does():
    x, y = np.arange(4.0).reshape(2, 2), np.ones(1)
    check_vjp(lambda x, y: minigrad.concatenate([x, y], axis=None), [x, y])
    np.testing.assert_array_equal(minigrad.concatenate([x, y], axis=None), np.concatenate([x, y], axis=None))


# --- what a primitive says --------------------------------------------------------------------------------------------

ONES = np.ones((2, 3))

MISTAKES: list[tuple[Any, type[Exception], str]] = [
    (
        lambda x: x + np.ones(4),
        ValueError,
        "add: shapes (2, 3) and (4,) do not fit: axes must be equal or 1, counted from the last",
    ),
    (
        lambda x: minigrad.where(np.ones(2, bool), x, 0),
        ValueError,
        "where: shapes (2,) and (2, 3) and () do not fit: axes must be equal or 1, counted from the last",
    ),
    (
        lambda x: x @ np.ones((4, 2)),
        ValueError,
        "matmul: shapes (2, 3) and (4, 2) do not fit: "
        "the last axis of the first must equal the last but one of the second",
    ),
    (
        lambda x: minigrad.concatenate([x, np.ones((2, 4))]),
        ValueError,
        "concatenate: shapes (2, 3) and (2, 4) do not fit: all axes but the one they are joined on must be equal",
    ),
    (
        lambda x: minigrad.concatenate([x, x], axis=2),
        ValueError,
        "concatenate: axis 2 is out of bounds for array of dimension 2 (given (2, 3) and (2, 3))",
    ),
    (lambda x: minigrad.concatenate([]), ValueError, "concatenate: need at least one array to concatenate"),
    (
        lambda x: minigrad.stack([x, np.ones(3)]),
        ValueError,
        "stack: shapes (2, 3) and (3,) do not fit: they must all be equal",
    ),
    (
        lambda x: minigrad.reshape(x, (4, 2)),
        ValueError,
        "reshape: shape (2, 3) does not fit into (4, 2): the number of elements must stay the same",
    ),
    (
        lambda x: minigrad.broadcast_to(x, (3, 2)),
        ValueError,
        "broadcast_to: shape (2, 3) does not fit into (3, 2): axes must be equal or 1, counted from the last",
    ),
    (
        lambda x: minigrad.sum(x, axis=2),
        ValueError,
        "sum: axis 2 is out of bounds for array of dimension 2 (given (2, 3))",
    ),
    (
        lambda x: x[2],
        IndexError,
        "getitem: index 2 is out of bounds for axis 0 with size 2 (given (2, 3))",
    ),
    (
        lambda x: minigrad.take(x, np.array([3]), axis=1),
        IndexError,
        "take: index 3 is out of bounds for axis 1 with size 3 (given (2, 3) and (1,))",
    ),
    (
        lambda x: minigrad.pad(x, 1, mode="edge"),
        ValueError,
        "pad: mode 'edge' has no rule here, only 'constant': build the border with concatenate (given (2, 3))",
    ),
    (
        lambda x: minigrad.tanh(x, x),
        TypeError,
        "tanh takes 1 array; it got 2 by position",
    ),
    (lambda x: minigrad.add(x), TypeError, "add takes 2 arrays; it got 1 by position"),
    (lambda x: minigrad.reshape(x), TypeError, "reshape takes 1 array, shape=; it got 1 by position"),
    (
        lambda x: minigrad.sum(x, 0, axis=1),
        TypeError,
        "sum takes 1 array, axis=, keepdims=; it got 2 by position, axis=",
    ),
    (
        lambda x: minigrad.sum(x, where=True),
        TypeError,
        "sum takes 1 array, axis=, keepdims=; it got 1 by position, where=",
    ),
    (
        lambda x: minigrad.clip(x, x, 1),
        TypeError,
        "clip: a_min= is a Tensor, and its gradient would be lost: give its .value, "
        "or compose the function from primitives that take two arrays",
    ),
    (
        lambda x: x * np.ones(3),
        TypeError,
        "multiply: a float32 tensor met float64 values, and nothing is widened silently: "
        "convert them first, with .astype(np.float32)",
    ),
    (
        lambda x: x * np.float64(0.5),
        TypeError,
        "multiply: a float32 tensor met float64 values, and nothing is widened silently: "
        "convert them first, with .astype(np.float32)",
    ),
    (
        lambda x: x + np.ones(3, int),
        TypeError,
        "add: a float32 tensor met int64 values, and nothing is widened silently: "
        "convert them first, with .astype(np.float32)",
    ),
    (
        lambda x: Tensor(np.ones(3)) * x,
        TypeError,
        "multiply: a float32 tensor met float64 values, and nothing is widened silently: "
        "convert them first, with .astype(np.float32)",
    ),
    (
        lambda x: einsum("ii,i->i", x, x),
        ValueError,
        "einsum: 'ii,i->i' has a label twice in one operand, and a diagonal has no rule here: "
        "multiply by a mask and sum instead",
    ),
    (
        lambda x: einsum("ij,jk->ik", x),
        ValueError,
        "einsum: 'ij,jk->ik' names 2 operands and 1 came: give one for each",
    ),
    (
        lambda x: einsum("ijk,k->i", x, x[0]),
        ValueError,
        "einsum: 'ijk,k->i' has 3 labels for an operand of shape (2, 3)",
    ),
    (
        lambda x: einsum("ij,jk->ik", x, x),
        ValueError,
        "einsum: 'j' in 'ij,jk->ik' is 3 long and 2: make it one length",
    ),
    (
        lambda x: einsum("ij->ik", x),
        ValueError,
        "einsum: the output of 'ij->ik' has a label twice, or one that no operand has",
    ),
    (
        lambda x: einsum("...j,j->j", x, x[0]),
        ValueError,
        "einsum: the output of '...j,j->j' has no '...', which its operands have: add it",
    ),
    (
        lambda x: minigrad.tensor.Primitive("tanh", np.tanh),
        ValueError,
        "there is a primitive called 'tanh' already: give this one another name",
    ),
]


@pytest.mark.parametrize(("mistake", "error", "sentence"), MISTAKES, ids=[m[2][:40] for m in MISTAKES])
def test_mistakes_are_told_in_a_sentence(mistake, error, sentence):
    with pytest.raises(error) as caught:
        mistake(Tensor(ONES.astype(np.float32)))
    assert str(caught.value) == sentence


def test_numbers_and_small_integers_do_not_widen_float32():
    x = Tensor(np.ones(3, np.float32))
    for other in (2, 2.5, True, np.float32(2), np.int8(2), np.bool_(True), np.array([True, False, True])):
        for y in (x + other, other * x, x / other if np.all(other) else x, x**other, minigrad.maximum(x, other)):
            assert y.dtype == np.float32


def test_integers_stay_what_numpy_makes_of_them():
    x = Tensor(np.arange(3))
    assert (x + 1).dtype == np.int64
    assert (x * 0.5).dtype == np.float64
    assert minigrad.sum(x).dtype == np.int64


def test_no_primitive_warns_where_numpy_does_not():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for x in (0.0, -1e30, 1e30):
            value_and_grad(lambda x: minigrad.sigmoid(x) + minigrad.softplus(x) + minigrad.relu(x) + x**2 + x**0)(x)


def test_repr():
    assert repr(PRIMITIVES["tanh"]) == "<primitive tanh>"
