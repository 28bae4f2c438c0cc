"""Graphs: what is traced is what the function computes, what is printed can be read, what cannot be traced is told.

The table of samples of every primitive drives the tests of tracing and of differentiating.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_primitives import SAMPLES, as_function, every_row
from test_tensor import METHODS, PROTOCOLS

import minigrad
from minigrad import Tensor, concat, tanh, trees, value_and_grad, vjp, where
from minigrad.graph import (
    Graph,
    Op,
    TraceError,
    Tracer,
    Value,
    differentiate,
    evaluate,
    infer,
    prune,
    seeds,
    share,
    trace,
)
from minigrad.tensor import PIECEWISE_CONSTANT, PRIMITIVES

DECIDES = "it decides by the value of a tensor (if, while, bool, float, int or item)"
READS = "it reads the elements of a tensor (.value, or a function that needs them)"
X = np.array([[1.0, -2.0, 3.0], [0.5, 0.25, -4.0]])
W = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])


def names(graph: Graph) -> list[str]:
    return [op.name for op in graph.ops]


def traced(f: Any, *examples: Any) -> Graph:
    return trace(f, *examples)[0]


# --- what is written down ---------------------------------------------------------------------------------------------


def test_the_text_of_a_step():
    def step(params, h, x):
        h = tanh(concat(h, x) @ params["W"] + params["b"])
        return h, h[:, :1] * np.array([2.0])

    params = {"W": np.ones((5, 2)), "b": np.ones(2)}
    graph, result = trace(step, params, np.ones((3, 2)), np.ones((3, 3)), names=("params", "carry", "x"))
    assert str(graph) == (
        "params.W: float64[5, 2]\n"
        "params.b: float64[2]\n"
        "carry: float64[3, 2]\n"
        "x: float64[3, 3]\n"
        "constant0: float64[1]\n"
        "%0 = concatenate(carry, x, axis=-1): float64[3, 5]\n"
        "%1 = matmul(%0, params.W): float64[3, 2]\n"
        "%2 = add(%1, params.b): float64[3, 2]\n"
        "%3 = tanh(%2): float64[3, 2]\n"
        "%4 = getitem(%3, index=(:, :1)): float64[3, 1]\n"
        "%5 = multiply(%4, constant0): float64[3, 1]\n"
        "return %3, %5"
    )
    assert [repr(x) for x in trees.leaves(result)] == ["Tracer(float64[3, 2])", "Tracer(float64[3, 1])"]


def test_the_text_of_numbers_slices_and_arrays():
    index = np.arange(2000)[::-1] % 2

    def f(x, y):
        return x[..., ::-2] + 1, y[1:2], x[index], True, 2.5, x

    text = str(traced(f, X, X)).splitlines()
    assert text[:2] == ["input0: float64[2, 3]", "input1: float64[2, 3]"]
    assert text[2] == "%0 = getitem(input0, index=(..., ::-2)): float64[2, 2]"
    assert text[3] == "%1 = add(%0, 1): float64[2, 2]"
    assert text[4] == "%2 = getitem(input1, index=1:2): float64[1, 3]"
    assert text[5] == f"%3 = getitem(input0, index=int64{index.tolist()}): float64[2000, 3]"
    assert text[6] == "return %1, %2, %3, True, 2.5, input0"


def test_names_of_inputs_are_their_paths():
    graph = traced(lambda a, b: a["p"]["W"] + b[1], {"p": {"W": X}}, [X, X])
    assert list(graph.names.values()) == ["input0.p.W", "input1.0", "input1.1"]
    graph = trace(lambda a, b: a, X, X, names=["here"])[0]
    assert list(graph.names.values()) == ["here", "input1"]


def test_two_values_are_equal_only_where_they_are_the_same():
    assert Value((2,), "float32") != Value((2,), "float32")
    value = Value((2, 3), np.float32)
    assert (value.ndim, value.shape, repr(value)) == (2, (2, 3), "float32[2, 3]")


def test_makers_users_and_values():
    graph = traced(lambda x: (x + 1) * (x + 1) - x, X)
    (x,) = graph.inputs
    add, again, product, difference = graph.ops
    assert graph.makers() == {op.output: op for op in graph.ops}
    assert graph.users()[x] == [add, again, difference]
    assert graph.users()[add.output] == [product]
    assert add.values == (x,)
    assert difference.output not in graph.users()
    square = traced(lambda x: x * x, X)
    assert square.users()[square.inputs[0]] == square.ops


def test_a_tensor_without_history_is_a_constant_like_an_array():
    constant = Tensor(np.array([1.0, 2.0, 3.0]))
    graph = traced(lambda x: x * constant + np.ones(3) * x, X)
    assert [array.tolist() for array in graph.constants.values()] == [[1.0, 2.0, 3.0], [1.0, 1.0, 1.0]]
    np.testing.assert_array_equal(evaluate(graph, [X])[0], X * constant.value + X)


def test_one_array_is_one_constant_and_two_that_are_gone_are_two():
    c = np.array([1.0, 2.0, 3.0])
    assert len(traced(lambda x: x * c + c, X).constants) == 1

    def f(x):
        # Each of these is gone before the next is made, and may leave it its address.
        x = x * np.float64(0.5) + x * np.float64(0.25) + np.float64(8) * x
        return x * [1.0, 2.0, 3.0] + [0.0, 1.0, 2.0] + np.array([5.0, 5.0, 6.0])

    for _ in range(10):
        graph = traced(f, X)
        np.testing.assert_array_equal(evaluate(graph, [X])[0], f(X))


def test_a_graph_does_not_change_with_the_arrays_of_its_function():
    c = np.ones(3)
    graph = traced(lambda x: x * c, X)
    c += 1
    np.testing.assert_array_equal(evaluate(graph, [X])[0], X)


def test_numbers_stay_numbers_and_keep_their_type():
    graph = traced(lambda x: x + 2 - 0.5, X.astype(np.float32))
    assert [op.inputs[1] for op in graph.ops] == [2, 0.5]
    assert graph.ops[-1].output.dtype == np.float32
    assert graph.constants == {}
    graph = traced(lambda x: x * np.float32(2), X.astype(np.float32))
    assert [v.dtype for v in graph.constants] == [np.float32]


def test_what_a_tracer_says_of_itself():
    def f(x):
        assert isinstance(x, Tracer)
        assert isinstance(x, Tensor)
        assert (x.shape, x.ndim, x.size, len(x), x.dtype) == ((2, 3), 2, 6, 2, np.float64)
        assert (np.shape(x), np.ndim(x), np.size(x)) == ((2, 3), 2, 6)
        assert repr(x) == "Tracer(float64[2, 3])"
        assert np.zeros_like(x).shape == np.ones_like(x).shape == np.full_like(x, 7).shape == (2, 3)
        return x.T, [row * 2 for row in x]

    graph = traced(f, X)
    assert names(graph) == ["transpose", "getitem", "multiply", "getitem", "multiply"]
    for actual, expected in zip(evaluate(graph, [X]), [X.T, X[0] * 2, X[1] * 2], strict=True):
        np.testing.assert_array_equal(actual, expected)


# --- operators --------------------------------------------------------------------------------------------------------

OPERATORS: dict[str, Any] = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "divide": lambda a, b: a / b,
    "power": lambda a, b: abs(a) ** b,
    "greater": lambda a, b: a > b,
    "greater_equal": lambda a, b: a >= b,
    "less": lambda a, b: a < b,
    "less_equal": lambda a, b: a <= b,
    "equal": lambda a, b: a == b,
    "not_equal": lambda a, b: a != b,
}


@pytest.mark.parametrize(
    "other", [2, 0.5, np.float64(0.5), np.array([0.5, 1.0, 2.0]), Tensor(np.array([[0.5], [3.0]]))]
)
@pytest.mark.parametrize("name", OPERATORS)
def test_operators_with_tracers_numbers_arrays_and_tensors(name, other):
    f = OPERATORS[name]
    plain = other.value if isinstance(other, Tensor) else other
    for traced_f, expected in (
        (lambda x: f(x, other), f(X, plain)),
        (lambda x: f(other, x), f(plain, X)),
        (lambda x: f(x, x), f(X, X)),
    ):
        graph = traced(traced_f, X)
        (result,) = evaluate(graph, [X])
        np.testing.assert_array_equal(result, expected, strict=True)
        mirrored = {"greater": "less", "less": "greater", "greater_equal": "less_equal", "less_equal": "greater_equal"}
        assert graph.ops[-1].name in (name, mirrored.get(name))


def test_operators_of_one_and_of_matrices():
    def f(x, w):
        positive = x > 0
        return x @ w, X @ w, -x, abs(x), x[0], ~positive, positive & (x < 2), positive | (x < -3), (x == x).sum(axis=1)

    graph = traced(f, X, W)
    positive = X > 0
    expected = [X @ W, X @ W, -X, np.abs(X), X[0], ~positive, positive & (X < 2), positive | (X < -3), [3, 3]]
    for actual, right in zip(evaluate(graph, [X, W]), expected, strict=True):
        np.testing.assert_array_equal(actual, right)


COMPARISONS = sorted(f.__name__ for f in PIECEWISE_CONSTANT if isinstance(f, np.ufunc))


@pytest.mark.parametrize("name", COMPARISONS)
def test_numpy_functions_that_are_piecewise_constant_are_operations(name):
    function = getattr(np, name)

    def f(x):
        return function(*[x, x * 0.5 + 1][: function.nin])

    graph = traced(f, X)
    assert graph.ops[-1].name == name
    np.testing.assert_array_equal(evaluate(graph, [X])[0], f(X), strict=True)


# --- all primitives ---------------------------------------------------------------------------------------------------


@every_row
def test_a_graph_computes_what_its_function_does(name, row):
    f, xs = as_function(name, row)
    graph = traced(f, *xs)
    expected = f(*xs)
    (actual,) = evaluate(graph, xs)
    np.testing.assert_array_equal(actual, expected)
    assert (graph.outputs[0].shape, graph.outputs[0].dtype) == (expected.shape, expected.dtype)
    for simpler in (share(graph), prune(graph), prune(share(graph))):
        np.testing.assert_array_equal(evaluate(simpler, xs)[0], expected)


def why_no_gradient(name: str, row: Any) -> str:
    """What is said where a gradient cannot be traced; else empty."""
    if name == "take" and np.asarray(row.args[1]).dtype == bool:  # which is no index
        return "it chooses elements by computed indices"
    if name == "clip" and isinstance(row.options["a_min"], np.ndarray) and row.options["a_min"].dtype == np.float32:
        return "its greater_equal mixes float32 and float64"
    return ""


@every_row
def test_the_gradient_of_a_graph_is_that_of_its_function(name, row):
    f, xs = as_function(name, row)
    value, pullback = vjp(f, *xs)
    g = np.random.default_rng(0).standard_normal(value.shape)
    graph = traced(f, *xs)
    if why := why_no_gradient(name, row):
        with pytest.raises(TraceError) as caught:
            differentiate(graph, graph.inputs)
        assert str(caught.value) == why
        return
    joint = differentiate(graph, graph.inputs)
    assert joint.ops[: len(graph.ops)] == graph.ops
    assert joint.inputs[: len(xs)] == graph.inputs
    assert [joint.names[v] for v in joint.inputs[len(xs) :]] == ["d.output0"]
    for simpler in (joint, prune(share(joint))):
        results = evaluate(simpler, [*xs, g])
        np.testing.assert_allclose(results[0], value, rtol=1e-13, atol=1e-13)
        for actual, expected in zip(results[1:], pullback(g), strict=True):
            np.testing.assert_allclose(np.broadcast_to(actual, expected.shape), expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("call", [*(call for calls in PROTOCOLS.values() for call in calls), *METHODS])
def test_numpys_functions_and_methods_can_be_traced(call):
    """None of them asks a tensor for elements where its shape would do."""
    x = np.arange(6.0).reshape(2, 3) + 1
    graph, _ = trace(call, x)
    np.testing.assert_allclose(evaluate(graph, [x])[0], call(x), rtol=1e-14)
    value, pullback = vjp(call, x)
    g = np.random.default_rng(0).standard_normal(value.shape)
    gradient = evaluate(differentiate(graph, graph.inputs), [x, g])[1]
    np.testing.assert_allclose(np.broadcast_to(gradient, x.shape), pullback(g)[0], rtol=1e-12, atol=1e-14)


def test_rows_that_an_input_chooses_are_traced_but_not_their_gradient():
    table, tokens = X, np.array([1, 0, 1])
    graph, _ = trace(lambda table, tokens: minigrad.take(table, tokens), table, tokens)
    np.testing.assert_array_equal(evaluate(graph, [table, tokens])[0], table[tokens])
    with pytest.raises(TraceError, match=r"^it chooses elements by computed indices$"):
        differentiate(graph, graph.inputs[:1])


def test_what_only_shape_and_type_are_needed_for():
    x, h = np.zeros((4, 2), np.float32), np.ones((4, 3), np.float32)

    def f(x, h):
        assert np.result_type(x, h) == np.float32
        assert (np.shape(x), np.ndim(a=x), np.size(x, 1)) == ((4, 2), 2, 2)
        mask = (x > 0).astype(np.float32)
        assert mask.dtype == np.float32
        chosen = (h * 2).astype(np.int64)
        assert chosen.dtype == np.int64
        return (
            np.zeros_like(a=x), np.ones_like(h), np.full_like(h, 0.5), np.empty_like(x, shape=(1,)), mask,
            np.full_like(h, x[0, 0]), x.astype(np.float32), chosen,
        )  # fmt: skip

    graph, _ = trace(f, x + 1, h)
    assert [op.name for op in graph.ops] == ["greater", "where", "multiply", "astype", "getitem", "broadcast_to"]
    found = evaluate(graph, [x + 1, h])
    np.testing.assert_array_equal(found[4], np.ones((4, 2), np.float32), strict=True)
    np.testing.assert_array_equal(found[7], np.full((4, 3), 2), strict=True)


def test_the_table_has_what_the_primitives_have():
    assert SAMPLES.keys() == PRIMITIVES.keys()


# --- differentiating --------------------------------------------------------------------------------------------------


def test_the_gradient_of_a_loss_is_that_of_value_and_grad():
    def loss(w, x):
        h = tanh(x @ w)
        return where(h > 0.1, h * h, minigrad.exp(h)).mean() + (w[:2] ** 2).sum() + w[2:, :1].sum() * 3

    expected, gradient = value_and_grad(lambda p: loss(*p))((W, X))
    graph = traced(loss, W, X)
    joint = differentiate(graph, graph.inputs)
    assert joint.outputs[0] is graph.outputs[0]
    value, *gradients = evaluate(joint, [W, X, np.array(1.0)])
    np.testing.assert_allclose(value, expected, rtol=1e-14)
    for actual, right in zip(gradients, gradient, strict=True):
        np.testing.assert_allclose(actual, right, rtol=1e-12)


def test_only_float_outputs_have_seeds_and_each_its_own():
    graph = traced(lambda x: (x * 2, x > 0, 3.0, x, x * 2), X)
    assert seeds(graph) == [0, 3, 4]
    joint = differentiate(graph, graph.inputs)
    assert [joint.names[v] for v in joint.inputs[1:]] == ["d.output0", "d.output3", "d.output4"]
    g = [np.full_like(X, n) for n in (1.0, 10.0, 100.0)]
    np.testing.assert_array_equal(evaluate(joint, [X, *g])[-1], np.full_like(X, 2 + 10 + 200))


def test_one_value_that_is_two_outputs_gets_both_cotangents():
    def f(x):
        y = x * 2
        return y, y

    graph = traced(f, X)
    joint = differentiate(graph, graph.inputs)
    np.testing.assert_array_equal(evaluate(joint, [X, X * 0 + 1, X * 0 + 5])[-1], np.full_like(X, 12))


def test_what_nothing_depends_on_has_the_cotangent_zero():
    graph = traced(lambda x, y, n: x * where(n > 0, 1.0, 2.0), X, X, np.arange(3))
    joint = differentiate(graph, graph.inputs)
    assert joint.outputs[2:] == [0.0, 0.0]
    assert differentiate(graph, []).outputs == graph.outputs
    assert names(differentiate(graph, [])) == names(graph)


def test_differentiating_does_not_change_the_graph():
    graph = traced(lambda x: tanh(x) * 2, X)
    text = str(graph)
    differentiate(graph, graph.inputs)
    assert str(graph) == text


def test_parts_of_a_gradient_are_scattered_at_once():
    graph = traced(lambda x: (x[:, :1] * 2, x[:, 1:] * 3), X)
    assert names(differentiate(graph, graph.inputs)).count("scatter") == 1


# --- simpler graphs ---------------------------------------------------------------------------------------------------


def test_share_keeps_the_first_of_equal_operations():
    def f(x):
        return tanh(x + 1) * tanh(x + 1), x[:, 1:] + x[:, 1:], x + 1.0, x.sum(axis=0), x.sum(axis=1)

    graph = traced(f, X)
    shared = share(graph)
    assert names(graph).count("tanh") == 2
    assert names(shared) == ["add", "tanh", "multiply", "getitem", "add", "add", "sum", "sum"], "1 and 1.0 are two"
    assert names(share(shared)) == names(shared)
    for a, b in zip(evaluate(graph, [X]), evaluate(shared, [X]), strict=True):
        np.testing.assert_array_equal(a, b)


def test_share_leaves_copies_alone():
    graph = Graph([x := Value((2,), float)], [], [])
    copies = [Value((2,), float), Value((2,), float)]
    graph.ops += [Op("alias", (x,), {}, copy) for copy in copies]
    graph.outputs += copies
    assert share(graph).outputs == copies


def test_prune_takes_away_what_nobody_asks_for():
    constant = np.array([1.0, 2.0, 3.0])

    def f(x):
        tanh(x * constant)
        kept = x + 1
        kept * 2
        return kept

    graph = traced(f, X)
    pruned = prune(graph)
    assert names(pruned) == ["add"]
    assert pruned.constants == {}
    assert pruned.inputs == graph.inputs
    assert names(prune(pruned)) == ["add"]
    np.testing.assert_array_equal(evaluate(pruned, [X])[0], X + 1)


@given(st.lists(st.tuples(st.sampled_from(["add", "multiply", "tanh", "sin"]), st.integers(0, 9), st.integers(0, 9))))
def test_share_and_prune_change_no_value(instructions):
    def f(x):
        values = [x, x * 0.5]
        for name, i, j in instructions:
            a, b = values[i % len(values)], values[j % len(values)]
            values.append(
                tanh(a) if name == "tanh" else minigrad.sin(a) if name == "sin" else OPERATORS[name](a, b) * 0.1
            )
        return values[-1], values[len(values) // 2]

    graph = traced(f, X)
    simpler = prune(share(graph))
    assert len(simpler.ops) <= len(graph.ops)
    for a, b, c in zip(evaluate(graph, [X]), evaluate(simpler, [X]), f(X), strict=True):
        np.testing.assert_array_equal(a, c)
        np.testing.assert_array_equal(b, c)


# --- what is refused --------------------------------------------------------------------------------------------------

OUTSIDE: list[Any] = []

REFUSED: list[tuple[str, Any, str]] = [
    ("if", lambda x: x if x.sum() > 0 else -x, DECIDES),
    ("bool", lambda x: bool(x[0, 0]), DECIDES),
    ("and", lambda x: x if x[0, 0] > 0 and x[0, 1] > 0 else -x, DECIDES),
    ("float", lambda x: float(x.sum()), DECIDES),
    ("int", lambda x: int(x.sum()), DECIDES),
    ("index", lambda x: [1, 2, 3][x.sum()], DECIDES),
    ("item", lambda x: x.sum().item(), DECIDES),
    ("value", lambda x: x.value + 1, READS),
    ("argmax", lambda x: np.argmax(x), "it calls np.argmax, which a graph cannot represent"),
    ("argsort", lambda x: np.argsort(x, axis=1), "it calls np.argsort, which a graph cannot represent"),
    ("any", lambda x: np.any(x > 0), "it calls np.any, which a graph cannot represent"),
    ("allclose", lambda x: np.allclose(x, 0), "it calls np.allclose, which a graph cannot represent"),
    ("nonzero", lambda x: np.nonzero(x), "it calls np.nonzero, which a graph cannot represent"),
    ("outside", lambda x: x * OUTSIDE[0], "it uses a tensor from outside, whose gradient would be lost"),
    ("an object", lambda x: x * {"a": 1}, "it uses a dict as an array"),
    ("none", lambda x: minigrad.add(x, None), "it uses a NoneType as an array"),
    ("mixed", lambda x: x * np.ones(3, np.float32), "its multiply mixes float32 and float64"),
    ("another type", lambda x: x.astype(np.float32), "its astype mixes float32 and float64"),
    ("mixed in a list", lambda x: concat(x, np.ones((2, 1), np.float32)), "its concatenate mixes float32 and float64"),
]


@pytest.mark.parametrize(("f", "sentence"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_what_a_graph_cannot_hold_is_told(f, sentence):
    def outer(w):
        OUTSIDE[:] = [w]
        with pytest.raises(TraceError) as caught:
            trace(f, X)
        assert str(caught.value) == sentence
        return w.sum()

    value_and_grad(outer)(np.ones(3))
    OUTSIDE.clear()


def test_what_is_computed_without_a_gradient_is_told_and_what_decides_is_not():
    def f(x, constant):
        with minigrad.no_grad():
            mask = x > 0
            return mask if constant else x * 2

    with pytest.raises(
        TraceError, match=r"^it computes within no_grad, and a graph has a gradient for everything that it"
    ):
        trace(lambda x: f(x, False), X)
    assert [op.name for op in trace(lambda x: where(f(x, True), x, 0), X)[0].ops] == ["greater", "where"]
    with minigrad.no_grad():
        assert [op.name for op in trace(lambda x: f(x, False), X)[0].ops] == ["greater", "multiply"]


def test_float32_that_meets_float64_is_refused():
    for other in (np.ones(3), np.float64(2), np.ones(3, int)):
        with pytest.raises(TraceError, match=r"^its multiply mixes (float32 and float64|float32 and int64)$"):
            trace(lambda x, other=other: x * other, X.astype(np.float32))
    for other in (2, 0.5, True, np.float32(2), np.ones(3, np.int8), np.ones(3, bool)):
        graph = traced(lambda x, other=other: x * other, X.astype(np.float32))
        assert graph.ops[0].output.dtype == np.float32


def test_whatever_the_function_raises_comes_through():
    with pytest.raises(KeyError, match="gate"):
        trace(lambda p: p["gate"], {"W": X})
    with pytest.raises(ValueError, match="could not be broadcast"):
        trace(lambda x: x + np.ones(4), X)


def test_infer_takes_shapes_and_types_from_numpy():
    x = Value((2, 3), "float32")
    assert infer("tanh", (x,), {}) == ((2, 3), np.float32)
    assert infer("matmul", (x, Value((3, 4), "float32")), {}) == ((2, 4), np.float32)
    assert infer("greater", (x, 0), {}) == ((2, 3), bool)
    assert infer("add", (x, 1), {}) == ((2, 3), np.float32)
    assert infer("sum", (x,), {"axis": 0, "keepdims": True}) == ((1, 3), np.float32)
    with pytest.raises(ValueError, match="matmul"):
        infer("matmul", (x, Value((4, 3), "float32")), {})
