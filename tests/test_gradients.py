"""The backward pass: sums, order, freed and returned memory, and nesting."""

from __future__ import annotations

import gc
import math
import tracemalloc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad
from minigrad import Tensor, grad, gradients, jvp, no_grad, tanh, trees, value_and_grad, vjp
from minigrad.checking import check_vjp, numerical_jvp
from minigrad.tensor import PRIMITIVES, Primitive

X = np.arange(6.0).reshape(2, 3) - 2
RNG = np.random.default_rng(0)
PARAMS = {"W": RNG.standard_normal((3, 4)), "deep": (RNG.standard_normal((4, 2)), [RNG.standard_normal(2)])}


def network(params: Any, x: Any = X) -> Any:
    """Two layers, (2, 3) -> (2, 2)."""
    V, [b] = params["deep"]
    return tanh(tanh(x @ params["W"]) @ V + b)


def loss_of(params: Any, x: Any = X) -> Any:
    return (network(params, x) ** 2).mean()


def slope(f: Any) -> Any:
    """The gradient alone."""
    return lambda *args: value_and_grad(f)(*args)[1]


@contextmanager
def temporary(*args: Any, **kwargs: Any) -> Iterator[Primitive]:
    """A primitive that leaves the registry again."""
    primitive = Primitive(*args, **kwargs)
    try:
        yield primitive
    finally:
        del PRIMITIVES[primitive.name]


def assert_trees_equal(actual: Any, expected: Any, **tolerance: float) -> None:
    for a, b in trees.zip_leaves(actual, expected):
        np.testing.assert_allclose(getattr(a, "value", a), getattr(b, "value", b), **tolerance)


# --- value_and_grad ---------------------------------------------------------------------------------------------------


def test_gradient_of_a_tree_of_parameters():
    value, gradient = value_and_grad(loss_of)(PARAMS)
    assert type(value) is np.ndarray
    assert value == loss_of(PARAMS)
    assert trees.structure(gradient) == trees.structure(PARAMS)
    for g, p in trees.zip_leaves(gradient, PARAMS):
        assert (type(g), g.shape, g.dtype) == (np.ndarray, p.shape, p.dtype)
    check_vjp(loss_of, [PARAMS], order=2)


def test_further_arguments_are_passed_on_and_not_differentiated():
    value, gradient = value_and_grad(loss_of)(PARAMS, x=X * 2)
    assert value == loss_of(PARAMS, X * 2)
    assert trees.structure(gradient) == trees.structure(PARAMS)


def test_named_tuples_come_back_as_what_they_are():
    class Pair(NamedTuple):
        a: Any
        b: Any

    _, gradient = value_and_grad(lambda p: (p.a * p.b).sum())(Pair(X, X + 1))
    assert type(gradient) is Pair
    np.testing.assert_array_equal(gradient.a, X + 1)


def test_a_number_is_a_parameter_too():
    value, gradient = value_and_grad(lambda x: x * x)(3.0)
    assert (value, gradient) == (9, 6)
    assert type(gradient) is np.ndarray
    assert gradient.shape == ()


def test_what_the_loss_does_not_depend_on_has_gradient_zero():
    params = {"used": X, "unused": np.ones(2, np.float32), "none": None}
    _, gradient = value_and_grad(lambda p: (p["used"] > 0).sum() + p["used"].sum())(params)
    np.testing.assert_array_equal(gradient["unused"], np.zeros(2))
    assert gradient["unused"].dtype == np.float32
    assert gradient["none"] is None


LOST = "compute it from the tensors that the function is given, without .value, float() or no_grad on the way"


@no_grad()
def _unrecorded(x):
    return x.sum()


@pytest.mark.parametrize(
    "loss",
    [
        lambda x: 1.0,
        lambda x: np.float32(2),
        lambda x: np.zeros(()),
        lambda x: Tensor(3.0),
        lambda x: x.value.sum(),
        lambda x: (x > 0).sum(),
        _unrecorded,
    ],
)
def test_a_loss_that_depends_on_no_parameter_is_refused(loss):
    with pytest.raises(ValueError, match="depends on no parameter") as caught:
        value_and_grad(loss)(X)
    assert str(caught.value) == f"value_and_grad: the loss depends on no parameter, and so has no gradient: {LOST}"
    with pytest.raises(ValueError, match="depends on no parameter"):
        value_and_grad(lambda x: (loss(x), x), has_aux=True)(X)
    with pytest.raises(ValueError, match="depends on no parameter"):  # though it depends on a tensor from outside
        value_and_grad(lambda outer: value_and_grad(lambda x: loss(x) + outer.sum())(X)[0])(X)


def test_a_constant_loss_is_refused():
    with pytest.raises(ValueError, match="constant Tensor") as caught:
        value_and_grad(lambda x: grad(Tensor(3.0), x))(X)
    assert str(caught.value) == f"grad: the loss is a constant Tensor, and so has no gradient: {LOST}"


def test_a_loss_without_parameters_is_none_of_our_business():
    assert value_and_grad(lambda params: 2.0)({}) == (2.0, {})


def test_the_gradient_of_a_linear_function_has_gradient_zero():
    for f in (lambda x: (3 * x).sum(), lambda x: x.sum(), lambda x: minigrad.relu(x).sum()):
        value, gradient = value_and_grad(lambda x, f=f: slope(f)(x).sum())(X + 0.1)
        assert value == slope(f)(X + 0.1).sum()
        np.testing.assert_array_equal(gradient, np.zeros_like(X))
    assert slope(slope(slope(lambda x: x * x)))(2.0) == 0


# --- grad of a function -----------------------------------------------------------------------------------------------


def test_grad_of_a_function_is_the_function_of_its_gradient():
    def cube(x):
        """x * x * x."""
        return x**3

    assert grad(cube)(2.0) == 12
    assert grad(grad(cube))(2.0) == 12
    assert grad(grad(grad(cube)))(2.0) == 6
    assert grad(cube).__doc__ == "x * x * x."
    assert_trees_equal(grad(loss_of)(PARAMS), value_and_grad(loss_of)(PARAMS)[1], rtol=0)
    assert_trees_equal(grad(loss_of)(PARAMS, x=2 * X), value_and_grad(loss_of)(PARAMS, 2 * X)[1], rtol=0)


def test_an_argument_that_is_not_there_by_position_is_named():
    for call in (lambda: grad(lambda x: x * x)(x=2.0), lambda: grad(lambda x, y: x * y, (0, 1))(1.0, y=2.0)):
        with pytest.raises(TypeError, match=r"wrt is argument \d, and \d came by position: give it without"):
            call()


def test_grad_of_a_function_by_other_arguments_than_the_first():
    def f(x, y):
        return x * y**2

    assert grad(f, 1)(2.0, 3.0) == 12
    assert grad(f, -1)(2.0, 3.0) == 12
    assert grad(f, (1, 0))(2.0, 3.0) == (12, 9)
    assert grad(grad(f, 0), 1)(2.0, 3.0) == 6
    gradient, aux = grad(lambda x, y: (f(x, y), {"y": y}), has_aux=True)(2.0, 3.0)
    assert (gradient, aux) == (9, {"y": 3})
    with pytest.raises(TypeError, match="the argument has dtype int64, and only float32 or float64 has a gradient"):
        grad(f)(np.array(2), 3.0)
    with pytest.raises(TypeError) as caught:
        grad(f, "x")
    assert str(caught.value) == (
        "grad: for a function wrt is a str, and must be the position of an argument, or a tuple of positions: "
        "grad(f)(x), or grad(f, 1)(x, y)"
    )


def test_positions_have_the_name_that_they_have_in_jax():
    def f(x, y):
        return x * y**2

    assert grad(f, argnums=1)(2.0, 3.0) == 12
    assert grad(f, argnums=[0, 1])(2.0, 3.0) == grad(f, (0, 1))(2.0, 3.0) == (9, 12)
    assert value_and_grad(f, 1)(2.0, 3.0) == value_and_grad(f, argnums=-1)(2.0, 3.0) == (18, 12)
    assert value_and_grad(f, argnums=(1, 0))(2.0, 3.0) == (18, (12, 9))
    assert value_and_grad(lambda x, y: (f(x, y), y), 1, has_aux=True)(2.0, 3.0) == ((18, 3), 12)
    assert grad(grad(f, argnums=1), argnums=0)(2.0, 3.0) == 6
    for call in (lambda: grad(f, 0, argnums=1), lambda: value_and_grad(lambda x: grad(x * x, argnums=0))(2.0)):
        with pytest.raises(TypeError, match=r"^grad: argnums are positions of a function's arguments: use grad\(f, ar"):
            call()
    with pytest.raises(TypeError, match=r"^value_and_grad: argnums is a str, and must be the position of an argument"):
        value_and_grad(f, "y")
    with pytest.raises(TypeError, match=r"^value_and_grad: argnums is argument 2, and 2 came by position: give it wi"):
        value_and_grad(f, 2)(2.0, 3.0)


def test_numpy_functions_are_differentiated_directly():
    assert grad(np.tanh)(0.5) == 1 - np.tanh(0.5) ** 2


# --- value_and_grad of trees ------------------------------------------------------------------------------------------


def test_the_order_of_bytes_is_no_type():
    for dtype in (">f4", ">f8", "<f4"):
        x, native = X.astype(dtype), X.astype(np.dtype(dtype).newbyteorder("="))
        constant = Tensor(x)
        assert constant.dtype.isnative
        for f in (loss_of, lambda p, x: (tanh(x) * x * p).sum(), lambda p, x: minigrad.concat(p * x, x).sum()):
            params = trees.cast(PARAMS, native.dtype) if f is loss_of else native
            swapped = trees.map(lambda leaf, dtype=dtype: leaf.astype(dtype), params)
            value, gradient = value_and_grad(f)(params, native)
            for argument in (x, constant):
                found = value_and_grad(f)(swapped, argument)
                assert found[0] == value
                assert_trees_equal(found[1], gradient, rtol=0)
                assert all(leaf.dtype.isnative for leaf in trees.leaves(found[1]))


def test_the_loss_may_be_the_parameter_itself():
    assert value_and_grad(lambda x: x)(2.0) == (2, 1)


def test_no_parameters_no_gradient():
    assert value_and_grad(lambda p: 2.0)({}) == (2, {})


def test_aux_is_passed_on_as_plain_arrays():
    def f(x):
        h = tanh(x)
        return h.sum(), {"h": h, "n": 3, "text": "abc", "none": None, "array": X}

    (value, aux), gradient = value_and_grad(f, has_aux=True)(X)
    assert value == np.tanh(X).sum()
    assert type(aux["h"]) is np.ndarray
    np.testing.assert_array_equal(aux["h"], np.tanh(X))
    assert (aux["n"], aux["text"], aux["none"]) == (3, "abc", None)
    assert aux["array"] is X
    np.testing.assert_allclose(gradient, 1 - np.tanh(X) ** 2)


# --- grad -------------------------------------------------------------------------------------------------------------


def test_gradient_by_hidden_states():
    """dE/ds_k by way of all later states, for a recurrent network whose states are in nobody's parameters."""
    W = RNG.standard_normal((3, 3))
    states = []

    def run(start: Any, W: Any, keep: Any = None) -> Any:
        s = start
        for _ in range(4):
            s = tanh(s @ W)
            if keep is not None:
                keep.append(s)
        return (s * s).sum()

    def f(W):
        loss = run(X, W, states)
        by_state = grad(loss, {"states": states})["states"]
        for i, g in enumerate(by_state):
            rest = states[i].value

            def from_here(s, i=i):
                for _ in range(3 - i):
                    s = np.tanh(s @ W.value)
                return (s * s).sum()

            t = np.ones_like(rest)
            np.testing.assert_allclose((g * t).sum(), numerical_jvp(from_here, [rest], [t]), rtol=1e-9)
        return loss

    value_and_grad(f)(W)
    assert len(states) == 4


def test_gradient_by_a_tensor_and_what_it_was_made_from():
    def f(x):
        h = x * x
        y = (h * x).sum()
        by_h, by_x, again = grad(y, (h, x, h))
        np.testing.assert_array_equal(by_h, X)
        np.testing.assert_array_equal(by_x, 3 * X**2)
        np.testing.assert_array_equal(again, by_h)
        np.testing.assert_array_equal(grad(y, y), 1)
        np.testing.assert_array_equal(grad(y, (h * 2)), np.zeros_like(X))  # made from h, but not used
        return y

    np.testing.assert_array_equal(slope(f)(X), 3 * X**2)


def test_gradients_that_can_be_differentiated_again():
    def f(x):
        first = grad((x**3).sum(), x, create_graph=True)
        assert isinstance(first, Tensor)
        second = grad(first.sum(), x, create_graph=True)
        np.testing.assert_allclose(second.value, 6 * X)
        np.testing.assert_allclose(grad(second.sum(), x), np.full_like(X, 6))
        zero = grad(first.sum() * 0 + Tensor(1.0), x, create_graph=True)
        assert isinstance(zero, Tensor)
        return first.sum()

    np.testing.assert_allclose(slope(f)(X), 6 * X)


def test_a_backward_pass_walks_no_further_back_than_what_it_is_asked_for(monkeypatch):
    walked = []
    history = gradients._history

    def spy(*args: Any, **kwargs: Any) -> Any:
        result = history(*args, **kwargs)
        walked.append(len(result[0]))
        return result

    monkeypatch.setattr(gradients, "_history", spy)

    def f(x):
        for _ in range(100):
            x = x * 1.01
        h = x * 2
        grad((h * h).sum(), h)  # h, the product, the sum
        value_and_grad(lambda p: (p * h).sum())(X)  # p, the product, the sum
        return h.sum()

    value_and_grad(f)(X)
    assert walked == [3, 3, 103]


# --- mistakes ---------------------------------------------------------------------------------------------------------


def grads_of(make_wrt: Any, make_loss: Any = None) -> Any:
    def f(x):
        y = (x * x).sum()
        grad(y if make_loss is None else make_loss(x), make_wrt(x))
        return y

    return lambda: value_and_grad(f)(X)


def within_no_grad(f: Any) -> Any:
    def g() -> None:
        with no_grad():
            f()

    return g


MISTAKES: list[tuple[Any, type[Exception], str]] = [
    (
        lambda: value_and_grad(lambda p: p["n"])({"n": np.arange(3)}),
        TypeError,
        "value_and_grad: parameter 'n' has dtype int64, and only float32 or float64 has a gradient: "
        "convert it, for example with .astype(np.float32)",
    ),
    (
        lambda: value_and_grad(lambda p: p)(3),
        TypeError,
        "value_and_grad: the argument has dtype int64, and only float32 or float64 has a gradient: "
        "convert it, for example with .astype(np.float32)",
    ),
    (
        lambda: value_and_grad(lambda p: p["deep"][0].sum())({"deep": (np.array([True]),)}),
        TypeError,
        "value_and_grad: parameter 'deep.0' has dtype bool, and only float32 or float64 has a gradient: "
        "convert it, for example with .astype(np.float32)",
    ),
    (
        lambda: value_and_grad(lambda x: x * 2)(X),
        ValueError,
        "value_and_grad: the loss has shape (2, 3), and a gradient needs a scalar: take its mean() or sum()",
    ),
    (
        lambda: value_and_grad(lambda x: (x.sum(), x))(X),
        TypeError,
        "value_and_grad: the loss is a tuple, and a gradient needs a scalar: "
        "let the function return one number, or with has_aux=True a pair (loss, aux)",
    ),
    (
        lambda: value_and_grad(lambda x: None)(X),
        TypeError,
        "value_and_grad: the loss is a NoneType, and a gradient needs a scalar: "
        "let the function return one number, or with has_aux=True a pair (loss, aux)",
    ),
    (
        lambda: value_and_grad(lambda x: x.sum(), has_aux=True)(X),
        TypeError,
        "value_and_grad: the function gave a Tensor; has_aux=True needs a pair (loss, aux)",
    ),
    (
        within_no_grad(lambda: value_and_grad(lambda x: x.sum())(X)),
        RuntimeError,
        "value_and_grad: within no_grad nothing is recorded, so there is no gradient: leave that block first",
    ),
    (
        within_no_grad(lambda: vjp(lambda x: x, X)),
        RuntimeError,
        "vjp: within no_grad nothing is recorded, so there is no gradient: leave that block first",
    ),
    (
        within_no_grad(lambda: jvp(lambda x: x, [X], [X])),
        RuntimeError,
        "jvp: within no_grad nothing is recorded, so there is no gradient: leave that block first",
    ),
    (
        grads_of(lambda x: x, lambda x: x * x),
        ValueError,
        "grad: the loss has shape (2, 3), and a gradient needs a scalar: take its mean() or sum()",
    ),
    (
        grads_of(lambda x: x, lambda x: 1.0),
        TypeError,
        "grad: the loss is a float, and a gradient needs a Tensor: compute it from tensors",
    ),
    (
        grads_of(lambda x: {"h": x, "c": Tensor(X)}),
        TypeError,
        "grad: wrt 'c' is a constant Tensor, and a gradient needs a Tensor that the loss was computed from: "
        "use value_and_grad(f)(params), or a Tensor computed from its parameters",
    ),
    (
        grads_of(lambda x: X),
        TypeError,
        "grad: wrt is a ndarray, and a gradient needs a Tensor that the loss was computed from: "
        "use value_and_grad(f)(params), or a Tensor computed from its parameters",
    ),
    (
        grads_of(lambda x: np.arange(3)),
        TypeError,
        "grad: the argument has dtype int64, and only float32 or float64 has a gradient: "
        "convert it, for example with .astype(np.float32)",
    ),
    (
        lambda: vjp(lambda x: x, np.arange(3)),
        TypeError,
        "vjp: parameter '0' has dtype int64, and only float32 or float64 has a gradient: "
        "convert it, for example with .astype(np.float32)",
    ),
    (
        lambda: vjp(lambda x: {"y": x}, X)[1]({"y": np.ones(3)}),
        ValueError,
        "vjp: a cotangent has shape (3,), and its output has (2, 3)",
    ),
    (
        lambda: vjp(lambda x: {"y": x}, X)[1](np.ones((2, 3))),
        ValueError,
        "vjp: the trees differ at the root: a dict with the keys 'y' in the first, a leaf in tree 2; "
        "give trees of one structure",
    ),
    (
        lambda: jvp(lambda x: x, [X], [np.ones(3)]),
        ValueError,
        "jvp: a tangent has shape (3,), and its primal has (2, 3)",
    ),
    (
        lambda: jvp(lambda x: x, [X], [X, X]),
        ValueError,
        "jvp: the trees differ at the root: a tuple of 1 in the first, a tuple of 2 in tree 2; "
        "give trees of one structure",
    ),
]


@pytest.mark.parametrize(("mistake", "error", "sentence"), MISTAKES, ids=[m[2][:50] for m in MISTAKES])
def test_mistakes_are_told_in_a_sentence(mistake, error, sentence):
    with pytest.raises(error) as caught:
        mistake()
    assert str(caught.value) == sentence


# --- vjp and jvp ------------------------------------------------------------------------------------------------------


def two_outputs(params: Any, x: Any) -> Any:
    y = network(params, x)
    return {"y": y, "rest": (y.sum(axis=0), [x * 2])}


def random_like(tree: Any, seed: int) -> Any:
    rng = np.random.default_rng(seed)
    return trees.map(lambda x: rng.standard_normal(np.shape(x)), tree)


def inner(a: Any, b: Any) -> float:
    return sum(float(np.sum(x * y)) for x, y in trees.zip_leaves(a, b))


def test_jvp_and_vjp_are_each_others_transpose():
    primals = (PARAMS, X)
    tangents = random_like(primals, 1)
    value, tangent = jvp(two_outputs, primals, tangents)
    other_value, pullback = vjp(two_outputs, *primals)
    assert_trees_equal(value, other_value)
    g = random_like(value, 2)
    pulled = pullback(g)
    assert trees.structure(pulled) == trees.structure(primals)
    assert trees.structure(tangent) == trees.structure(value)
    assert inner(g, tangent) == pytest.approx(inner(pulled, tangents), rel=1e-12)
    assert_trees_equal(tangent, numerical_jvp(two_outputs, primals, tangents), rtol=1e-8)
    for leaf in [*trees.leaves(value), *trees.leaves(pulled), *trees.leaves(tangent)]:
        assert type(leaf) is np.ndarray


@given(st.integers(0, 2**32 - 1), st.floats(-3, 3), st.floats(-3, 3))
def test_the_pullback_is_linear(seed, a, b):
    value, pullback = vjp(two_outputs, PARAMS, X)
    g, h = random_like(value, seed), random_like(value, seed + 1)
    together = pullback(trees.map(lambda g, h: a * g + b * h, g, h))
    apart = trees.map(lambda g, h: a * g + b * h, pullback(g), pullback(h))
    assert_trees_equal(together, apart, rtol=1e-9, atol=1e-12)


def test_the_pullback_can_be_called_again_and_again():
    _, pullback = vjp(two_outputs, PARAMS, X)
    g = random_like(two_outputs(PARAMS, X), 3)
    assert_trees_equal(pullback(g), pullback(g))


def test_outputs_that_depend_on_nothing():
    value, pullback = vjp(lambda x: (x * 2, np.ones(3), 5.0), X)
    assert value[2] == 5
    np.testing.assert_array_equal(pullback((X, np.ones(3), 1.0))[0], 2 * X)
    _, tangent = jvp(lambda x: (x * 2, np.ones(3), x > 0), [X], [X])
    np.testing.assert_array_equal(tangent[0], 2 * X)
    np.testing.assert_array_equal(tangent[1], np.zeros(3))
    np.testing.assert_array_equal(tangent[2], np.zeros((2, 3)))


def test_one_tensor_may_be_several_outputs():
    def f(x):
        y = x * x
        return y, [y, x, x]

    value, pullback = vjp(f, X)
    gradient = pullback(trees.map(np.ones_like, value))[0]
    np.testing.assert_array_equal(gradient, 4 * X + 2)
    _, tangent = jvp(f, [X], [np.ones_like(X)])
    assert_trees_equal(tangent, (2 * X, [2 * X, np.ones_like(X), np.ones_like(X)]))


@given(st.integers(0, 2**32 - 1))
def test_the_jvp_of_a_linear_function_is_the_function(seed):
    t = np.random.default_rng(seed).standard_normal((2, 3))

    def linear(x):
        return minigrad.cumsum(x[::-1] @ PARAMS["W"], axis=0) - minigrad.pad(x, ((0, 0), (0, 1)))

    np.testing.assert_allclose(jvp(linear, [X], [t])[1], linear(t), rtol=1e-12, atol=1e-12)


# --- reuse ------------------------------------------------------------------------------------------------------------


def test_a_value_used_many_times():
    def f(x):
        return minigrad.stack([x * k for k in range(50)]).sum() + (x + x).sum() + minigrad.concatenate([x, x]).sum()

    np.testing.assert_array_equal(slope(f)(X), np.full_like(X, sum(range(50)) + 4))


def test_sixty_diamonds_are_not_two_to_the_sixty_paths():
    def f(x):
        for _ in range(60):
            x = x + x
        return x

    assert slope(f)(1.0) == 2.0**60


@st.composite
def graphs(draw):
    """A random graph of sums and products: each node names two earlier ones."""
    n = draw(st.integers(1, 9))
    return [(draw(st.sampled_from("+*")), draw(st.integers(0, i)), draw(st.integers(0, i))) for i in range(n)]


def evaluate(graph: Any, x: Any) -> list[Any]:
    values = [x]
    for kind, i, j in graph:
        values.append(values[i] + values[j] if kind == "+" else values[i] * values[j])
    return values


@given(graphs(), st.floats(0.5, 1.5))
def test_the_gradient_is_the_sum_over_all_paths_of_products_of_derivatives(graph, x):
    values = evaluate(graph, x)

    def over_paths(node: int) -> float:
        if node == 0:
            return 1.0
        kind, i, j = graph[node - 1]
        if kind == "+":
            return over_paths(i) + over_paths(j)
        return values[j] * over_paths(i) + values[i] * over_paths(j)

    f = lambda x: evaluate(graph, x)[-1]  # noqa: E731
    assert slope(f)(x) == pytest.approx(over_paths(len(graph)), rel=1e-9)
    assert jvp(f, [x], [1.0])[1] == pytest.approx(over_paths(len(graph)), rel=1e-9)
    second = (8 * (slope(f)(x + 1e-3) - slope(f)(x - 1e-3)) - (slope(f)(x + 2e-3) - slope(f)(x - 2e-3))) / 12e-3
    assert slope(lambda x: slope(f)(x) + 0 * x)(x) == pytest.approx(second, rel=1e-3, abs=1e-3)


# --- depth, memory ----------------------------------------------------------------------------------------------------

DEPTH = 10_000


def test_a_deep_chain_forwards_and_backwards():
    def f(x):
        for _ in range(DEPTH):
            x = x * 1.0001
        return x

    value, gradient = value_and_grad(f)(1.0)
    assert value == pytest.approx(1.0001**DEPTH)
    assert gradient == pytest.approx(1.0001**DEPTH)
    assert jvp(f, [1.0], [1.0])[1] == pytest.approx(1.0001**DEPTH)


def test_a_deep_chain_differentiated_twice():
    def f(x):
        y = x
        for _ in range(DEPTH // 5):
            y = y * x
        return y

    n = DEPTH // 5 + 1
    assert slope(slope(f))(1.0) == pytest.approx(n * (n - 1))


def test_the_backward_pass_frees_what_it_has_used():
    """When the rule of the first node runs, the arrays of all later ones are gone."""
    refs: list[Any] = []
    alive = []

    def rule(g: Any, y: Any, x: Any) -> Any:
        alive.append(sum(ref() is not None for ref in refs))
        return g

    with temporary("probe", lambda x: x * 1, rule) as probe:

        def f(params):
            h = probe(params["x"])
            for _ in range(20):
                h = tanh(h @ params["W"])
                refs.append(weakref.ref(h.value))
            return (h * h).sum()

        gc.disable()
        try:
            value_and_grad(f)({"x": np.ones((2, 3)), "W": np.eye(3)})
        finally:
            gc.enable()
    assert alive == [0]


def test_the_backward_pass_needs_no_second_graphs_worth_of_memory():
    size, depth = 100_000, 40

    def f(x):
        for _ in range(depth):
            x = x * 1.5
        return x.sum()

    x = np.ones(size)
    tracemalloc.start()
    try:
        value_and_grad(f)(x)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < (depth + 6) * x.nbytes


@pytest.mark.parametrize(
    ("slices", "makes"),
    [
        (lambda xs: [xs[t] for t in range(len(xs))], 1),
        (lambda xs: list(xs), 1),
        (lambda xs: [minigrad.take(xs, t) for t in range(len(xs))], 1),
        (lambda xs: minigrad.split(xs, len(xs), axis=0), 1),
    ],
)
def test_a_loop_over_slices_makes_one_array_of_the_full_size(monkeypatch, slices, makes):
    made = []
    forward = PRIMITIVES["scatter"].forward
    monkeypatch.setattr(
        PRIMITIVES["scatter"], "forward", lambda *gs, **options: made.append(1) or forward(*gs, **options)
    )
    xs = np.ones((300, 8, 16))
    weights = np.arange(300.0)

    def f(xs):
        return sum((w * x).sum() for w, x in zip(weights, slices(xs), strict=True))

    tracemalloc.start()
    try:
        _, gradient = value_and_grad(f)(xs)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(gradient, np.broadcast_to(weights[:, None, None], xs.shape))
    assert len(made) == makes
    assert peak < 10 * xs.nbytes  # dense cotangents of all slices would be 300 times that array


# --- whose memory -----------------------------------------------------------------------------------------------------


def test_a_sum_of_cotangents_makes_one_array_and_then_adds_to_it():
    first, second = np.ones(3), np.full(3, 2.0)
    cotangent = gradients._Cotangent()
    cotangent.add(first)
    cotangent.add(second)
    made = cotangent.total
    cotangent.add(second)
    cotangent.add(first)
    assert cotangent.total is made
    np.testing.assert_array_equal([made, first, second], [[6] * 3, [1] * 3, [2] * 3])


def test_cotangents_are_added_up_in_nobodys_array():
    """The first part of a sum may be a view of something else; only what the sum itself made is written to."""
    g = np.arange(6.0).reshape(2, 3)
    g.flags.writeable = False

    def f(x):
        return (
            x + x + x.reshape(3, 2).reshape(2, 3) + x.T.T + x[:] + minigrad.broadcast_to(x, (2, 3)) + minigrad.add(x, 0)
        )

    _, pullback = vjp(f, X)
    np.testing.assert_array_equal(pullback(g)[0], 7 * g)
    np.testing.assert_array_equal(pullback(g)[0], 7 * g)


@pytest.mark.parametrize(
    "f",
    [
        lambda a, b: a + b,
        lambda a, b: a + b + a,
        lambda a, b: (a + b) + (a + b),
        lambda a, b: a - b,
        lambda a, b: minigrad.concatenate([a, b]),
        lambda a, b: minigrad.stack([a, b, a]),
        lambda a, b: (a.T + b.T).reshape(2, 3) + a,
        lambda a, b: (a.sum() + b.sum()) * 1,
        lambda a, b: a[0] + b[1],
        lambda a, b: (a, b, a),
    ],
)
def test_gradients_share_no_memory(f):
    value, pullback = vjp(f, X, X + 1)
    g = random_like(value, 0)
    first, second = pullback(g)
    expected = [x.copy() for x in (first, second)]
    before = trees.map(np.copy, g)
    assert not np.shares_memory(first, second)
    assert not any(np.shares_memory(first, leaf) for leaf in trees.leaves(g))
    first[...] = np.nan
    np.testing.assert_array_equal(second, expected[1])
    assert_trees_equal(g, before)
    np.testing.assert_array_equal(pullback(g)[0], expected[0])


def test_hidden_states_gradients_are_untouched_by_what_follows():
    def f(x):
        a = x * 2
        b = a + a
        c = b + a
        by_a, by_b, by_c, by_x = grad(c.sum(), (a, b, c, x))
        np.testing.assert_array_equal(by_c, np.ones_like(X))
        np.testing.assert_array_equal(by_b, np.ones_like(X))
        np.testing.assert_array_equal(by_a, np.full_like(X, 3))
        np.testing.assert_array_equal(by_x, np.full_like(X, 6))
        assert not np.shares_memory(by_b, by_c)
        return c.sum()

    value_and_grad(f)(X)


def test_parameters_are_not_written_to():
    params = trees.map(np.copy, PARAMS)
    for p in trees.leaves(params):
        p.flags.writeable = False
    value_and_grad(loss_of)(params)
    assert_trees_equal(params, PARAMS)


@pytest.mark.parametrize(
    "spoil",
    [
        np.asfortranarray,
        lambda x: np.repeat(x, 2, axis=1)[:, ::2],
        lambda x: x[::-1].copy()[::-1],
        lambda x: x.T.copy().T,
    ],
)
def test_the_order_of_memory_does_not_matter(spoil):
    def f(x):
        y = minigrad.einsum("ij,kj->ik", x, x) @ x + minigrad.cumsum(x, axis=0) * x.reshape(3, 2).T
        return (y[np.array([0, 0])] * minigrad.max(x, axis=0)).sum()

    assert not spoil(X).flags.c_contiguous
    np.testing.assert_allclose(slope(f)(spoil(X)), slope(f)(X), rtol=1e-13)
    assert slope(f)(spoil(X.astype(np.float32))).dtype == np.float32


# --- gradients of gradients -------------------------------------------------------------------------------------------


def test_derivatives_of_high_order():
    f = minigrad.sin
    for order in range(6):
        expected = math.sin(0.7 + order * math.pi / 2)
        value = f(Tensor(0.7)).value if order == 0 else f(0.7)
        assert value == pytest.approx(expected)
        f = slope(f)


def test_perturbations_are_not_confused():
    # d/dx x * (d/dy x + y) is 1, and 2 where the two derivatives are taken for one.
    assert slope(lambda x: x * slope(lambda y: x + y)(1.0))(1.0) == 1
    assert slope(lambda x: x * slope(lambda y: x + y)(x))(1.0) == 1
    assert slope(lambda x: x * slope(lambda y: x * y)(x))(3.0) == 6
    assert slope(lambda x: slope(lambda y: x * y * y)(x))(3.0) == 12  # 2 x^2
    assert jvp(lambda x: x * jvp(lambda y: x + y, [1.0], [1.0])[1], [1.0], [1.0])[1] == 1
    assert jvp(lambda x: x * jvp(lambda y: x * y, [x], [1.0])[1], [3.0], [1.0])[1] == 6
    assert jvp(lambda x: jvp(lambda y: x * y * y, [x], [x])[1], [3.0], [1.0])[1] == 54  # 2 x^3


def test_a_gradient_by_data_is_differentiated_by_the_parameters_it_closes_over():
    """A gradient penalty: the inner function's argument is a plain array, and the weights come from outside."""

    def penalty(W):
        value, by_x = value_and_grad(lambda x: tanh(x @ W).sum())(X)
        return (by_x * by_x).sum() + value

    W = PARAMS["W"]
    check_vjp(penalty, [W])
    assert np.abs(slope(penalty)(W)).max() > 0.01


def test_vjp_and_jvp_of_data_are_differentiated_by_what_they_close_over():
    W = PARAMS["W"]

    def by_vjp(W):
        value, pullback = vjp(lambda x: tanh(x @ W), X)
        return (pullback(np.ones((2, 4)))[0] ** 2).sum() + value.sum()

    def by_jvp(W):
        value, tangent = jvp(lambda x: tanh(x @ W), [X], [np.ones_like(X)])
        return (tangent**2).sum() + value.sum()

    for f in (by_vjp, by_jvp):
        check_vjp(f, [W], order=2)
        assert np.abs(slope(f)(W)).max() > 0.01


def test_aux_keeps_its_gradient_where_somebody_outside_may_want_it():
    def f(w):
        (_, aux), _ = value_and_grad(lambda x: (x.sum(), w * x), has_aux=True)(X)
        return (aux * aux).sum()

    np.testing.assert_allclose(slope(f)(np.array(2.0)), 4 * (X**2).sum())


def test_an_inner_gradient_that_concerns_nobody_outside_is_a_plain_array():
    def f(x):
        value, g = value_and_grad(lambda y: (y * y).sum())(X)
        assert type(value) is np.ndarray
        assert type(g) is np.ndarray
        return (x * g).sum()

    np.testing.assert_array_equal(slope(f)(X), 2 * X)


def test_hessian_vector_products_in_four_ways():
    def f(params):
        return loss_of(params) + (minigrad.exp(params["W"]) ** 0.5).sum()

    t = random_like(PARAMS, 5)

    def directional(params):
        return sum((g * d).sum() for g, d in trees.zip_leaves(slope(f)(params), t))

    reverse_over_reverse = slope(directional)(PARAMS)
    forward_over_reverse = jvp(slope(f), [PARAMS], [t])[1]
    reverse_over_forward = slope(lambda p: jvp(f, [p], [t])[1])(PARAMS)
    _, pullback = vjp(slope(f), PARAMS)
    (by_symmetry,) = pullback(t)
    numerical = numerical_jvp(slope(f), [PARAMS], [t])
    for product in (reverse_over_reverse, forward_over_reverse, reverse_over_forward, by_symmetry):
        assert_trees_equal(product, numerical, rtol=1e-7, atol=1e-9)


def test_second_derivative_in_a_direction_by_jvp_of_jvp():
    t = random_like(PARAMS, 6)
    _, second = jvp(lambda p: jvp(loss_of, [p], [t])[1], [PARAMS], [t])
    hessian_product = jvp(slope(loss_of), [PARAMS], [t])[1]
    assert second == pytest.approx(inner(hessian_product, t), rel=1e-10)


def test_pullbacks_of_tensors_are_differentiable_by_their_cotangent():
    def f(g):
        _, pullback = vjp(lambda x: x * x, X)
        (pulled,) = pullback(g)
        assert isinstance(pulled, Tensor)
        return (pulled * pulled).sum()

    np.testing.assert_allclose(slope(f)(np.ones_like(X)), 8 * X**2)

    def h(t):
        return (jvp(lambda x: x * x, [X], [t])[1] ** 2).sum()

    np.testing.assert_allclose(slope(h)(np.ones_like(X)), 8 * X**2)


def test_an_unused_parameter_of_an_inner_gradient():
    def f(x):
        g = slope(lambda p: (p["a"] * p["a"]).sum())({"a": x, "b": x})
        assert isinstance(g["b"], Tensor)
        return (g["a"] * g["b"] + g["a"]).sum()

    np.testing.assert_array_equal(slope(f)(X), np.full_like(X, 2))


def test_an_optimisation_step_can_be_differentiated():
    """The learning rate's gradient through two steps of descent, the parameters' gradients being tensors."""

    def after_two_steps(rate):
        w = X
        for _ in range(2):
            w = w - rate * slope(lambda w: (tanh(w) * w).sum())(w)
        return (w * w).sum()

    check_vjp(after_two_steps, [0.1])
