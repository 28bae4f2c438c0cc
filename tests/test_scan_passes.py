"""Passes of the planner, one by one on small graphs: which operations come and go, and that no value changes.

What the stages of a plan compute on a backend is tested with the backends.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import minigrad
from minigrad import concat, log_softmax, relu, sigmoid, tanh, trees, where
from minigrad.functions import affine
from minigrad.graph import Graph, Op, TraceError, Value, columns_of, differentiate, evaluate, trace
from minigrad.primitives import pick, place
from minigrad.scan.passes import (
    Level,
    classify,
    clean,
    depends_on,
    emit,
    lower,
    merge,
    regroup,
    split,
)
from minigrad.scan.program import CHEAP, MAPS, PASSES, Program, describe, plan
from minigrad.stepgraph import StepGraph, symbolic
from minigrad.tensor import PRIMITIVES
from rnn_cells.gru import GRU
from rnn_cells.lstm import LSTM
from rnn_cells.rnn import RNN

B = 13
RNG = np.random.default_rng(0)


def normal(*shape: int) -> Any:
    return RNG.standard_normal(shape)


W, V, b = normal(4, 4), normal(4, 4), normal(4)
H, X = normal(B, 4), normal(B, 4)


def names(graph: Graph) -> list[str]:
    return [op.name for op in graph.ops]


def step_graph(step: Any, params: Any, carry: Any = H, x: Any = X) -> tuple[Graph, dict[Value, Level], list[Any]]:
    """A step's graph, the levels of its inputs, and arrays for them."""
    found = traced(step, params, carry, x)
    return found.graph, found.levels, trees.leaves((params, carry, x))


def traced(step: Any, params: Any, carry: Any = H, x: Any = X) -> StepGraph:
    """The graph of a function of a step's arguments, whatever it returns."""

    def trial(size: int) -> Graph:
        rows = (trees.map(lambda leaf: Value((size, *leaf.shape[1:]), leaf.dtype), tree) for tree in (carry, x))
        return trace(step, params, *rows, names=("params", "carry", "x"))[0]

    sizes = 1009, 1013
    return StepGraph(
        symbolic(*map(trial, sizes), *sizes), len(trees.leaves(params)), len(trees.leaves(carry)), 0, (), ()
    )


def same_values(before: Graph, after: Graph, arrays: list[Any]) -> None:
    assert after.inputs == before.inputs
    for x, y in zip(evaluate(before, arrays), evaluate(after, arrays), strict=True):
        np.testing.assert_allclose(y, x, rtol=1e-12, atol=1e-12, strict=isinstance(x, np.ndarray))


def text(graph: Graph) -> str:
    """The graph as it is printed, which does not tell equal graphs apart."""
    return str(graph)


# --- levels -----------------------------------------------------------------------------------------------------------


def test_a_value_depends_on_the_most_that_its_operands_do():
    graph, levels, _ = step_graph(lambda p, h, x: (tanh(p["W"]) * 2, h * p["b"], x * p["b"], np.ones(4) * p["b"]), P)
    found = classify(graph, levels)
    assert [found[op.output].name for op in graph.ops] == ["FIXED", "FIXED", "STATE", "INPUT", "FIXED"]
    assert all(found[value] == Level.FIXED for value in graph.constants)
    assert levels.keys() == set(graph.inputs), "what was given stays as it was"


P = {"W": W, "V": V, "b": b}


def test_what_a_value_depends_on():
    graph, _, _ = step_graph(lambda p, h, x: (tanh(h @ p["W"]) + x, x * 2), P)
    product, act, total, twice = (op.output for op in graph.ops)
    params, h, x = graph.inputs[:3], graph.inputs[3], graph.inputs[4]
    assert depends_on(graph, [total]) == {
        total,
        act,
        product,
        h,
        x,
        next(v for v in params if graph.names[v] == "params.W"),
    }
    assert depends_on(graph, [twice]) == {twice, x}
    assert depends_on(graph, []) == set()


# --- clean ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (lambda p, h, x: (h * np.full(4, 0.5) + x, h), ["multiply", "add"]),
        (lambda p, h, x: (tanh(h) + tanh(h), h), ["tanh", "add"]),
        (lambda p, h, x: (h, (tanh(x), x)[1]), []),
        (lambda p, h, x: (h.reshape(h.shape) + x * 1, h / 1.0), ["add"]),
        (lambda p, h, x: (concat(h) + minigrad.broadcast_to(x, x.shape), h), ["add"]),
        (lambda p, h, x: (where(np.ones(4, bool), h, x) * 2, h), ["where", "multiply"]),
        (lambda p, h, x: (h + np.zeros((1, 4)) * p["b"], h), ["multiply", "add"]),
        (lambda p, h, x: (h + np.arange(4.0), h), ["add"]),
        (lambda p, h, x: (h.reshape(-1, 2, 2).reshape(-1, 4, 1), h), ["reshape"]),
        (lambda p, h, x: (h.reshape(-1, 2, 2).reshape(-1, 4), h), []),
        (lambda p, h, x: (h.reshape(-1, 2, 2).transpose(0, 2, 1).transpose(2, 0, 1), h), ["reshape", "transpose"]),
        (lambda p, h, x: (h.T.T, h), []),
    ],
)
def test_clean(step, expected):
    graph, _, arrays = step_graph(step, P)
    cleaned = clean(graph)
    assert names(cleaned) == expected
    same_values(graph, cleaned, arrays)
    assert text(clean(cleaned)) == text(cleaned)


def test_uniform_constants_become_numbers_where_the_shape_allows_it():
    graph, _, arrays = step_graph(
        lambda p, h, x: (h * np.full(4, 0.5), x[:, :1] * np.full(4, 3.0), h > np.zeros(1), h + np.arange(4.0)), P
    )
    cleaned = clean(graph)
    assert [op.inputs[1] for op in cleaned.ops if op.name in ("multiply", "greater")][::2] == [0.5, 0.0]
    assert [array.tolist() for array in cleaned.constants.values()] == [[3.0] * 4, [0.0, 1.0, 2.0, 3.0]]
    same_values(graph, cleaned, arrays)


def test_a_copy_that_is_an_output_stays():
    alias = PRIMITIVES["alias"]
    graph, _, arrays = step_graph(lambda p, h, x: (alias(h), alias(alias(x) * 2)), P)
    cleaned = clean(graph)
    assert names(cleaned) == ["alias", "multiply", "alias"]
    same_values(graph, cleaned, arrays)


def test_constants_that_nobody_uses_go():
    graph, _, _ = step_graph(lambda p, h, x: (h, h * np.arange(4.0))[:1], P)
    assert clean(graph).constants == {}


# --- split ------------------------------------------------------------------------------------------------------------


def test_a_product_with_a_concatenation_is_split():
    params = {"W": normal(8, 4), "b": b}
    graph, levels, arrays = step_graph(lambda p, h, x: (affine(p, concat(h, x)), h), params)
    after = split(graph, levels)
    assert names(after) == ["getitem", "matmul", "getitem", "matmul", "add", "add"]
    same_values(graph, after, arrays)
    assert text(split(after, levels)) == text(after)


def test_a_product_with_three_parts():
    graph, levels, arrays = step_graph(lambda p, h, x: (concat(x, h, x[:, :1]) @ p["W"], h), {"W": normal(9, 3)})
    after = split(graph, levels)
    assert names(after).count("matmul") == 3
    same_values(graph, after, arrays)


def test_a_concatenation_within_one_is_split_where_a_part_of_it_is_known_earlier():
    """As the input of a cell is, where it is joined of a symbol and of what was attended to."""

    def step(p, h, x):
        return (concat(concat(tanh(h), h), concat(x, h)) @ p["W"])[:, :4], h

    graph, levels, arrays = step_graph(step, {"W": normal(16, 5)})
    after = split(graph, levels)
    level = classify(after, levels)
    products = [op.values[0] for op in after.ops if op.name == "matmul"]
    assert [(x.shape[1], level[x]) for x in products] == [(8, Level.STATE), (4, Level.INPUT), (4, Level.STATE)]
    assert names(after).count("concatenate") == 1  # of the two states, whose product stays one
    same_values(graph, after, arrays)
    program = planned(step, {"W": normal(16, 5)})
    assert stages(program)["input"] == ["matmul"]


@pytest.mark.parametrize(
    "step",
    [
        lambda p, h, x: (minigrad.concatenate([h, x], axis=0)[: len(h)] @ p["W"], h),
        lambda p, h, x: (p["W"] @ concat(p["W"], p["V"]), h),
        lambda p, h, x: (h @ p["W"], h),
    ],
)
def test_other_products_are_not_split(step):
    graph, levels, arrays = step_graph(step, P)
    after = split(graph, levels)
    assert names(after).count("matmul") == names(graph).count("matmul")
    same_values(graph, after, arrays)


def test_a_concatenation_that_others_use_stays_for_them():
    def step(p, h, x):
        both = concat(h, x)
        return both @ p["W"], both

    graph, levels, arrays = step_graph(step, {"W": normal(8, 4)})
    after = split(graph, levels)
    assert names(after).count("concatenate") == 1
    assert names(after).count("matmul") == 2
    same_values(graph, after, arrays)


# --- regroup ----------------------------------------------------------------------------------------------------------


def test_terms_of_a_sum_are_added_in_the_order_they_are_known():
    graph, levels, arrays = step_graph(lambda p, h, x: (h @ p["W"] + x @ p["V"] + p["b"] + h, h), P)
    after = regroup(graph, levels)
    level = classify(after, levels)
    sums = [op for op in after.ops if op.name == "add"]
    assert sorted(level[op.output].name for op in sums) == ["INPUT", "STATE", "STATE"]
    same_values(graph, after, arrays)
    assert text(regroup(after, levels)) == text(after)


def test_a_partial_sum_that_others_use_is_a_term():
    def step(p, h, x):
        part = h + x
        return part + p["b"], tanh(part)

    graph, levels, arrays = step_graph(step, P)
    after = regroup(graph, levels)
    same_values(graph, after, arrays)
    assert names(after).count("add") == 2


def test_a_sum_twice_and_a_sum_of_sums():
    def step(p, h, x):
        part = h + x
        both = (h * p["b"] + 0.1) + (x + p["b"])
        return (part + part) + p["b"], tanh(both) + (both + h) + (both + p["b"])

    graph, levels, arrays = step_graph(step, P)
    after = regroup(graph, levels)
    same_values(graph, after, arrays)
    assert text(regroup(after, levels)) == text(after)


def test_sums_that_broadcast():
    graph, levels, arrays = step_graph(lambda p, h, x: (h[:, :1] + (x[:, 1:2] + p["b"]), h), P)
    after = regroup(graph, levels)
    same_values(graph, after, arrays)
    assert after.outputs[0].shape == graph.outputs[0].shape


def test_a_sum_in_order_stays():
    graph, levels, _ = step_graph(lambda p, h, x: (p["b"] + x + h, x + h), P)
    assert text(regroup(graph, levels)) == text(graph)


# --- merge ------------------------------------------------------------------------------------------------------------


def test_products_of_one_value_become_one():
    graph, levels, arrays = step_graph(lambda p, h, x: (h @ p["W"] + tanh(h @ p["V"]), x @ p["W"]), P)
    after = merge(graph, levels)
    assert names(after) == ["concatenate", "matmul", "getitem", "getitem", "tanh", "add", "matmul"]
    same_values(graph, after, arrays)
    assert names(merge(after, levels)) == names(after)


def test_matrices_of_several_widths():
    params = {"A": normal(4, 1), "B": normal(4, 5), "C": normal(4, 2)}
    graph, levels, arrays = step_graph(lambda p, h, x: (h @ p["C"], h @ p["A"], h @ p["B"]), params)
    after = merge(graph, levels)
    assert [op.options["index"][1] for op in after.ops if op.name == "getitem"] == [
        slice(0, 2),
        slice(2, 3),
        slice(3, 8),
    ]
    same_values(graph, after, arrays)


def test_products_of_rows_of_any_shape_become_one():
    params = {"A": normal(2, 1), "B": normal(2, 3)}
    graph, levels, arrays = step_graph(
        lambda p, h, x: (h.reshape(-1, 2, 2) @ p["A"], h.reshape(-1, 2, 2) @ p["B"]), params
    )
    after = merge(clean(graph), levels)
    assert names(after) == ["concatenate", "reshape", "matmul", "getitem", "getitem"]
    same_values(graph, after, arrays)


@pytest.mark.parametrize(
    "step",
    [
        lambda p, h, x: (h @ p["W"], x @ p["W"]),
        lambda p, h, x: (p["W"] @ p["V"], p["W"] @ p["W"]),
        lambda p, h, x: (h @ p["W"], h @ p["b"]),
        lambda p, h, x: (h @ x.T, h @ h.T),
    ],
)
def test_other_products_are_not_merged(step):
    graph, levels, arrays = step_graph(step, P)
    after = merge(graph, levels)
    assert sorted(names(after)) == sorted(names(graph))
    same_values(graph, after, arrays)


def test_a_matrix_that_is_computed_late_is_there_when_it_is_due():
    graph, levels, arrays = step_graph(lambda p, h, x: (h @ p["W"], h @ tanh(p["V"] * 2)), P)
    after = merge(graph, levels)
    assert names(after).count("matmul") == 1
    same_values(graph, after, arrays)


# --- lower ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (lambda p, h, x: (log_softmax(h), x), ["max", "subtract", "exp", "sum", "log", "subtract"]),
        (lambda p, h, x: (log_softmax(h, axis=0), x), ["log_softmax"]),
        (lambda p, h, x: (h.mean(axis=-1, keepdims=True), h.mean(axis=1)), ["sum", "multiply"] * 2),
        (lambda p, h, x: (h.mean(axis=0), h.mean()), ["mean", "mean"]),
        (lambda p, h, x: (h.reshape(-1, 2, 2).mean(axis=1), h), ["reshape", "sum", "multiply"]),
        (lambda p, h, x: (h.reshape(-1, 2, 2)[:, 1:], h), ["reshape", "getitem"]),
        (lambda p, h, x: (minigrad.square(h), -x), ["multiply", "multiply"]),
        (lambda p, h, x: (concat(h, x)[:, 4:] + concat(h, x)[:, :4], x), ["add"]),
        (lambda p, h, x: (concat(h, x)[:, 3:5], x), ["concatenate", "getitem"]),
        (lambda p, h, x: (minigrad.concatenate([h, x])[len(h) :], x), []),
    ],
)
def test_lower(step, expected):
    graph, _, arrays = step_graph(step, P)
    after = lower(graph)
    assert names(after) == expected
    same_values(graph, after, arrays)
    assert text(lower(after)) == text(after)


def test_logsumexp_becomes_sums_and_maxima():
    for keepdims in (False, True):
        graph, _, arrays = step_graph(lambda p, h, x, k=keepdims: (minigrad.logsumexp(h, axis=1, keepdims=k), x), P)
        after = lower(graph)
        assert "logsumexp" not in names(after)
        same_values(graph, after, arrays)
        for rows in (np.full((B, 4), -np.inf), np.full((B, 4), 1000.0), np.where(np.arange(4) > 1, 0.0, -np.inf)):
            with np.errstate(divide="ignore"):
                same_values(graph, after, [*arrays[:-2], np.broadcast_to(rows, (B, 4)), X])


def test_a_scatter_that_tiles_is_a_concatenation():
    graph, _ = trace(lambda x: (x[:, 2:] * 2, x[:, :1], tanh(x[:, 1:2])), X)
    joint = clean(differentiate(graph, graph.inputs))
    assert "scatter" in names(joint)
    after = lower(joint)
    assert "scatter" not in names(after)
    assert names(after).count("concatenate") == 1
    same_values(joint, after, [X, normal(B, 2), normal(B, 1), normal(B, 1)])


@pytest.mark.parametrize(
    "step",
    [
        lambda x: x[:, 1:3],
        lambda x: x[:, :1],
        lambda x: (x[:, 2:], x[:, :1]),
        lambda x: (x[:, :3], x[:, 2:]),
        lambda x: (x[:, :2], x[:, :2], x[:, 1:], x[:, 3:]),
    ],
)
def test_any_scatter_of_columns_is_a_sum_of_concatenations(step):
    graph, _ = trace(step, X)
    joint = differentiate(graph, graph.inputs)
    after = lower(joint)
    assert "scatter" in names(joint)
    assert "scatter" not in names(after)
    same_values(joint, after, [X, *(normal(*x.shape) for x in joint.inputs[1:])])


@pytest.mark.parametrize("step", [lambda x: (x[:5], x[5:]), lambda x: x[:, ::2], lambda x: x[:, [0, 0]]])
def test_other_scatters_stay(step):
    graph, _ = trace(step, X)
    joint = differentiate(graph, graph.inputs)
    assert "scatter" in names(lower(joint))
    arrays = [X, *(np.ones(x.shape) for x in joint.inputs[1:])]
    same_values(joint, lower(joint), arrays)


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        ((slice(None), slice(1, 3)), (1, 3)),
        ((slice(None), slice(2, None)), (2, 4)),
        ((slice(None), slice(-1, None)), (3, 4)),
        ((..., slice(0, 2)), (0, 2)),
        ((...,), (0, 4)),
        (..., (0, 4)),
        (slice(None), (0, 4)),
        ((slice(0, 99), slice(0, 99)), (0, 4)),
        ((slice(None), slice(1, 2, 5)), (1, 2)),
        ((slice(None), slice(None, None, -1)), None),
        ((slice(None), slice(None, None, 2)), None),
        ((slice(None, None, -1), slice(0, 2)), None),
        (slice(0, 5), None),
        ((slice(None), 1), None),
        ((slice(None), slice(2, 2)), None),
        (0, None),
        ((slice(None), np.array([0, 1])), None),
        ((slice(None), None, slice(None)), None),
        (None, None),
    ],
)
def test_which_columns_a_choice_takes(index, expected):
    value = Value((B, 4), float)
    output = Value(X[index].shape, float)
    assert columns_of(Op("getitem", (value,), {"index": index}, output)) == expected


# --- the plan ---------------------------------------------------------------------------------------------------------


def planned(step: Any, params: Any, carry: Any = H, x: Any = X, **options: Any) -> Program:
    found = traced(step, params, carry, x)
    program = plan(found, **options)
    same_values(found.graph, program.graph, trees.leaves((params, carry, x)))
    return program


def all_wanted(params: Any, carry: Any = H, x: Any = X) -> list[bool]:
    return [leaf.dtype.kind == "f" for leaf in trees.leaves((params, carry, x))]


def stages(program: Program) -> dict[str, list[str]]:
    return {stage.name: [op.name for op in stage.forward.ops] for stage in program.stages}


def elman(p, h, x):
    h = tanh(concat(h, x) @ p["W"] + p["b"])
    return h, affine({"W": p["V"], "b": p["b"]}, h)


ELMAN = {"W": normal(8, 4), "V": V, "b": b}


def test_stages_of_a_simple_network():
    program = planned(elman, ELMAN)
    assert stages(program) == {
        "input": ["matmul", "add"],
        "loop": ["matmul", "add", "tanh"],
        "output": ["matmul", "add"],
    }
    assert [op.name for op in program.prologue.ops] == ["getitem", "getitem"]
    assert all(stage.backward is None for stage in program.stages)
    assert program.d_prologue is None
    assert [str(x) for x in program.carried] == ["float64[B, 4]"]


def test_inputs_of_a_table_are_worked_on_once_a_row():
    program = planned(elman, ELMAN, tables=[0])
    assert [stage.name for stage in program.stages] == ["table", "loop", "output"]
    assert stages(program)["table"] == ["matmul", "add"]


@pytest.mark.parametrize(
    ("without", "expected"),
    [
        ("split", {"loop": ["concatenate", "matmul", "add", "tanh"], "output": ["matmul", "add"]}),
        ("hoist", {"loop": ["matmul", "matmul", "add", "add", "tanh"], "output": ["matmul", "add"]}),
        (
            "merge",
            {"input": ["matmul", "add"], "loop": ["matmul", "add", "tanh"], "output": ["matmul", "add"]},
        ),
    ],
)
def test_each_pass_can_be_left_out(without, expected):
    assert without in PASSES
    assert stages(planned(elman, ELMAN, without=[without])) == expected


def test_products_of_a_gated_cell_are_merged():
    cell = LSTM(4, 4)
    params = trees.cast(cell.init_params(RNG), np.float64)
    carry = trees.cast(cell.init_carry(B), np.float64)
    merged = planned(cell, params, carry)
    apart = planned(cell, params, carry, without=["merge"])
    assert [stages(merged)[name].count("matmul") for name in ("input", "loop")] == [1, 1]
    assert [stages(apart)[name].count("matmul") for name in ("input", "loop")] == [4, 4]


def test_a_tanh_is_kept_and_what_is_cheap_is_computed_again():
    def step(p, h, x):
        gate = sigmoid(h @ p["W"] + x)
        h = gate * tanh(h * p["b"]) + (1 - gate) * h
        return h, h

    params = {"W": W, "b": b}
    program = planned(step, params, wanted=all_wanted(params))
    (loop,) = [stage for stage in program.stages if stage.name == "loop"]
    makers = {op.output: op.name for op in loop.forward.ops}
    kept = [makers[value] for value in loop.backward.keeps]
    assert sorted(kept) == ["sigmoid", "tanh"]
    again = [op.name for op in loop.backward.ops if op.output in makers]
    assert set(again) <= CHEAP
    assert "subtract" in again, "1 - gate"


def test_a_gradient_that_nobody_wants_is_not_computed():
    params = {"W": W, "b": b}

    def step(p, h, x):
        h = tanh(h @ p["W"] + x * p["b"])
        return h, h

    everything = planned(step, params, wanted=all_wanted(params))
    (input_stage, loop) = everything.stages
    assert (input_stage.d_fixed, [d is not None for d in input_stage.d_rows]) == ([True], [True])
    assert loop.d_fixed == [True]
    without_x = planned(step, params, wanted=[True, True, True, False])
    assert [d for stage in without_x.stages if stage.name == "input" for d in stage.d_rows] == [None]
    by_carry = planned(step, params, wanted=[False, False, True, False])
    (loop,) = [stage for stage in by_carry.stages if stage.name == "loop"]
    assert loop.backward.sums == []
    assert loop.d_fixed == [False]
    assert not any(any(stage.d_fixed) for stage in by_carry.stages)


def test_what_is_added_up_over_time_is_added_up_after_the_loop():
    program = planned(elman, ELMAN, wanted=all_wanted(ELMAN))
    sums = {stage.name: [total.op.name for total in stage.backward.sums] for stage in program.stages}
    assert sums == {"input": ["sum", "matmul"], "loop": ["matmul"], "output": ["sum", "matmul"]}


def test_a_step_without_a_carry_has_no_loop():
    def head(p, carry, x):
        return (), pick(log_softmax(x["h"] @ p["W"] + p["b"]), x["label"])

    x = {"h": X, "label": np.zeros(B, int)}
    program = planned(head, {"W": W, "b": b}, (), x, wanted=all_wanted({"W": W, "b": b}, (), x))
    assert [stage.name for stage in program.stages] == ["input"]
    assert program.carried == []


def test_outputs_that_are_inputs_get_places_of_their_own():
    program = planned(lambda p, h, x: (h, (x, x, h, h)), {})
    values = [*program.carried, *program.ys]
    assert len(set(values)) == 5
    assert not set(values) & set(program.graph.inputs)
    same = planned(lambda p, h, x: ([tanh(h[0] + x)] * 3, ()), {}, [H, H, H])
    assert len(set(same.carried)) == 3


def test_what_leaves_the_loop_and_what_stays():
    def step(p, h, x):
        new = tanh(h * p["b"] + x)
        return new, (h * x, sigmoid(x), new)

    assert stages(planned(step, {"b": b})) == {
        "input": ["sigmoid"],
        "loop": ["multiply", "add", "tanh"],
        "output": ["multiply"],
    }


def test_what_is_read_of_a_matrix_memory_is_read_in_the_loop():
    def memory(p: Any, C: Any, x: Any) -> Any:
        C = tanh(C + x[:, :, None] * x[:, None, :])
        return C, minigrad.softmax(minigrad.einsum("bij,bj->bi", C, x)) @ p["W"]

    found = stages(planned(memory, P, normal(B, 4, 4)))
    assert found["loop"].count("matmul") == 1
    assert "matmul" in found["output"], "what is small is computed for all steps at once"

    def recalled(p: Any, C: Any, x: Any) -> Any:
        C = tanh(C + (x @ p["W"])[:, :, None])
        return C, minigrad.einsum("bij,bj->bi", C, x @ p["V"])

    found = stages(planned(recalled, P, normal(B, 4, 4)))
    assert list(found) == ["input", "loop"], "a view of what is read is no stage of its own"
    assert found["input"].count("matmul") == 1, "products of an input are merged wherever they are needed"


def test_a_product_that_only_outputs_need_is_made_after_the_loop():
    params = {"W": W, "V": V}
    program = planned(lambda p, h, x: (tanh(h @ p["W"] + x), h @ p["V"]), params, wanted=all_wanted(params))
    assert stages(program) == {"loop": ["matmul", "add", "tanh"], "output": ["matmul"]}


def test_gradients_of_parts_of_a_matrix_are_joined_without_zeros():
    backward = planned(elman, ELMAN, wanted=all_wanted(ELMAN)).d_prologue
    assert backward is not None
    assert [op.name for op in backward.ops if op.name in ("scatter", "concatenate")] == ["concatenate"]


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "sentence"),
    [
        (lambda p, h, x: (tanh(h + x), p["b"] * 2), "its output depends on no input"),
        (lambda p, h, x: (p["W"] * 2, x), "its carry depends on no input"),
        (lambda p, h, x: (tanh(h + x), 1.0), "its output depends on no input"),
        (lambda p, h, x: (h - h.mean(axis=0), x), "its mean of float64[B, 4] does not work row by row"),
        (lambda p, h, x: (h[::-1], x), "its getitem of float64[B, 4] does not work row by row"),
        (lambda p, h, x: (h + h.sum(), x), "its sum of float64[B, 4] does not work row by row"),
        (lambda p, h, x: (h + h.sum(axis=0), x), "its sum of float64[B, 4] does not work row by row"),
        (
            lambda p, h, x: ((h.T @ x)[:1] + h, x),
            "its matmul of float64[4, B] and float64[B, 4] does not work row by row",
        ),
        (lambda p, h, x: (h + x[0], x), "its getitem of float64[B, 4] does not work row by row"),
        (lambda p, h, x: (h, np.roll(x, 1, 0)), "its operations depend on the size of the batch"),
        (lambda p, h, x: (h, x.reshape(2, -1)), "its reshape of float64[B, 4] does not work row by row"),
        (lambda p, h, x: (h, minigrad.cumsum(x, axis=0)), "its cumsum of float64[B, 4] does not work row by row"),
        (lambda p, h, x: (minigrad.max(h, axis=0) + h, x), "its max of float64[B, 4] does not work row by row"),
        (lambda p, h, x: (tanh(h), x[:, :0]), "it computes with float64[B, 0], which has no elements"),
    ],
)
def test_what_does_not_work_row_by_row_is_refused(step, sentence):
    with pytest.raises(TraceError) as caught:
        planned(step, P)
    assert str(caught.value) == sentence


def test_elements_of_a_parameter_at_fixed_places_are_planned_backwards_too():
    def step(p: Any, h: Any, x: Any) -> Any:
        return tanh(h + x), x * minigrad.take(p["b"], np.array([0, 0, 1, 2]))

    backward = planned(step, P, wanted=[True] * 5).d_prologue
    assert backward is not None
    assert "scatter" in [op.name for op in backward.ops]


# --- what is told to people -------------------------------------------------------------------------------------------


def test_describe():
    assert describe(planned(elman, ELMAN)) == [
        "input: 1 product (4x4), 1 elementwise",
        "loop: 1 product (4x4), 2 elementwise",
        "output: 1 product (4x4), 1 elementwise",
    ]
    cell = GRU(4, 4)
    params = trees.cast(cell.init_params(RNG), np.float64)
    lines = describe(planned(cell, params, wanted=all_wanted(params), without=["merge"]))
    assert lines[0].startswith("input: 3 products (4x4, 4x4, 4x4), 3 elementwise; backward ")
    assert "sums deferred" in lines[1]
    assert lines[1].endswith("values kept")


def test_describe_counts_one_of_a_thing_and_shows_both_factors_of_a_product_within_rows():
    def heads(params, h, x):
        memory = (h @ params).reshape(-1, 2, 3, 4)
        h = (memory @ x.reshape(-1, 2, 4, 1)).reshape(-1, 6)
        return h, h

    W = normal(6, 24)
    lines = describe(planned(heads, W, normal(B, 6), normal(B, 8), wanted=[True, False, False]))
    assert lines[1:] == [
        "loop: 2 products (6x24, 2x3x4 @ 2x4x1), 0 elementwise; "
        "backward 2 products (2x3x1 @ 2x1x4, 24x6), 1 elementwise, 1 sum deferred, 0 values kept"
    ]


@pytest.mark.parametrize("cell", [RNN(4, 4), LSTM(4, 4), GRU(4, 4), GRU(4, 4, reset="after")], ids=str)
@pytest.mark.parametrize("without", [(), *((name,) for name in PASSES), PASSES])
def test_no_pass_changes_what_a_cell_computes(cell, without):
    params = trees.cast(cell.init_params(RNG), np.float64)
    carry = trees.cast(cell.init_carry(B), np.float64)
    program = planned(cell, params, carry, without=without)
    backwards = planned(cell, params, carry, without=without, wanted=all_wanted(params, carry))
    assert stages(program).keys() == stages(backwards).keys()
    assert len(describe(backwards)) == len(backwards.stages)


def test_the_tables_of_operations_name_what_there_is():
    known = {*PRIMITIVES, *(name for name in MAPS | CHEAP if hasattr(np, name))}
    assert known >= MAPS | CHEAP


def test_emit_takes_its_shape_from_numpy():
    from minigrad.graph import Builder

    builder = Builder(Graph([], []))
    x = Value((B, 4), np.float32)
    assert repr(emit(builder, "sum", x, axis=1, keepdims=True)) == "float32[13, 1]"
    assert names(builder.graph) == ["sum"]


def test_place_and_relu_are_elementwise():
    def step(p, h, x):
        return relu(h + place(h.sum(axis=1), x["label"], size=4)), ()

    x = {"label": np.zeros(B, int)}
    assert stages(planned(step, {}, H, x)) == {"loop": ["sum", "place", "add", "relu"]}
