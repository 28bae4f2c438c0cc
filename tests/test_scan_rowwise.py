"""Steps that move, merge or index the batch axis, rewritten to rows (B, *inner): same values, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import minigrad
from minigrad import stepgraph, tanh, trees
from minigrad.graph import Batch, Graph, TraceError, evaluate, trace
from minigrad.scan.passes import clean
from minigrad.scan.program import plan
from minigrad.scan.rowwise import rowwise
from minigrad.stepgraph import StepGraph, symbolic

RNG = np.random.default_rng(0)
TRIALS = (1009, 1013)
P: dict[str, Any] = {name: RNG.standard_normal(shape) for name, shape in
                     {"W": (12, 12), "K": (3, 4, 4), "b": (12,), "M": (5, 3)}.items()}  # fmt: skip
INDICES = np.array([2, 0, -1, 1])


def cube(h: Any) -> Any:
    return h.reshape(-1, 3, 4)


def by_head(h: Any) -> Any:
    return np.swapaxes(cube(h), 0, 1)


STEPS: dict[str, Any] = {
    "heads and back": lambda p, h: (cube(h) * 2).reshape(-1, 12),
    "a matrix for each head, by einsum": lambda p, h: np.einsum("bhd,hde->bhe", cube(h), p["K"]),
    "a matrix for each head, by matmul": lambda p, h: h.reshape(-1, 3, 1, 4) @ p["K"],
    "a matrix for each head, heads first": lambda p, h: np.swapaxes(by_head(h) @ p["K"], 0, 1),
    "an outer product": lambda p, h: h[:, :, None] * h[:, None, :],
    "an outer product, by einsum": lambda p, h: np.einsum("bi,bj->bij", h, h * 2),
    "a matrix times a vector, both rows": lambda p, h: np.einsum("bij,bj->bi", cube(h), h[:, :4]),
    "rows times rows": lambda p, h: cube(h) @ np.swapaxes(cube(h), 1, 2),
    "columns": lambda p, h: (p["W"] @ h.T).T,
    "a fixed matrix from the left": lambda p, h: p["M"] @ cube(h),
    "a fixed vector from the left": lambda p, h: p["b"] @ h[:, :, None],
    "a fixed vector from the right": lambda p, h: h @ p["b"],
    "all rows of all heads as one matrix": lambda p, h: (h.reshape(-1, 4) @ p["K"][0]).reshape(-1, 3, 4),
    "a sum with a merged axis": lambda p, h: (h.reshape(-1, 4) + p["K"][0, 0]).reshape(-1, 12),
    "a batch merged into heads": lambda p, h: np.swapaxes((by_head(h).reshape(-1, 4) * 2).reshape(3, -1, 4), 0, 1),
    "three operands": lambda p, h: np.einsum("bi,hij,bj->bh", h[:, :4], p["K"], h[:, 4:8]),
    "reversed": lambda p, h: h[:, ::-1],
    "every third": lambda p, h: h[:, 1::3],
    "indices": lambda p, h: h[:, INDICES],
    "a matrix of indices": lambda p, h: h[:, np.array([[0, 1], [-1, 2]])],
    "indices of two axes": lambda p, h: cube(h)[:, INDICES[:3] % 3, [0, 1, 3]],
    "indices of axes apart": lambda p, h: h.reshape(-1, 3, 2, 2)[:, INDICES % 3, :, [0, 1, 1, 0]],
    "indices of the last axis": lambda p, h: cube(h)[:, :, INDICES],
    "indices before the batch": lambda p, h: by_head(h)[INDICES % 3],
    "indices, a number and new axes": lambda p, h: cube(h)[:, None, [0, 1], None, 2],
    "a mask of columns": lambda p, h: h[:, np.arange(12) % 2 == 0],
    "a number": lambda p, h: cube(h)[:, 1],
    "a number at the end": lambda p, h: cube(h)[..., -1],
    "new axes around a moved batch": lambda p, h: h.T[None, :, None, :, None],
    "take": lambda p, h: np.take(h, INDICES, 1),
    "a stack, in front": lambda p, h: np.stack([h, h * 2], 0)[1],
    "a stack": lambda p, h: np.stack([h, h * 2], 1),
    "a stack, at the end": lambda p, h: np.stack([h, h * 2], -1),
    "cumsum": lambda p, h: np.cumsum(cube(h), 1),
    "roll": lambda p, h: np.roll(cube(h), 1, 2),
    "pad": lambda p, h: np.pad(cube(h), ((0, 0), (1, 2), (0, 1)), constant_values=3.0),
    "tile": lambda p, h: np.tile(h[:, :2], (1, 3)),
    "one index in an array": lambda p, h: np.take(h, [7], 1) * cube(h)[:, [1], 2],
    "repeat": lambda p, h: np.repeat(h, 3, 1),
    "norm": lambda p, h: np.linalg.norm(cube(h), axis=2),
    "prod": lambda p, h: np.prod(cube(h), axis=2),
    "var": lambda p, h: np.var(cube(h), axis=(1, 2), keepdims=True),
    "logsumexp": lambda p, h: minigrad.logsumexp(cube(h), axis=1),
    "log_softmax": lambda p, h: minigrad.log_softmax(cube(h), axis=1),
    "zeros of the batch's size": lambda p, h: np.concatenate([h, np.zeros((h.shape[0], 2))], 1),
    "a parameter for every sequence": lambda p, h: minigrad.broadcast_to(p["b"], h.shape) + h,
    "clip": lambda p, h: np.clip(by_head(h), np.full((3, 1, 1), -0.5), 0.5),
}  # fmt: skip


def traced(step: Any) -> Graph:
    trials = [trace(step, P, np.zeros((size, 12)), names=("params", "h"))[0] for size in TRIALS]
    return clean(symbolic(*trials, *TRIALS))


@pytest.mark.parametrize("name", STEPS)
def test_a_step_keeps_its_values_with_the_batch_in_front(name):
    def step(p: Any, h: Any) -> Any:
        return STEPS[name](p, tanh(h))

    graph = traced(step)
    rewritten = rowwise(graph)
    for op in rewritten.ops:
        assert not any(isinstance(n, Batch) for n in op.output.shape[1:]), f"{op.name}: {op.output}"
        assert not isinstance(next(iter(op.output.shape), 0), Batch) or op.output.shape[0].times == 1  # type: ignore[attr-defined]
    (output,) = graph.outputs
    at = next(i for i, n in enumerate(output.shape) if isinstance(n, Batch))  # type: ignore[union-attr]
    for batch in (1, 5):
        h = np.random.default_rng(batch).standard_normal((batch, 12))
        expected = np.moveaxis(np.asarray(step(P, h)), at, 0)
        (found,) = evaluate(rewritten, [*trees.leaves(P), h])
        np.testing.assert_allclose(found, expected.reshape(found.shape), rtol=1e-12)
    assert str(rowwise(rewritten)) == str(rewritten), "a second time it changes nothing"


def test_parts_of_a_concatenation_without_elements_are_left_out():
    graph = clean(rowwise(traced(lambda p, h: np.concatenate([h[:, 12:], h, h[:, :0]], 1) + h)))
    assert [op.name for op in graph.ops] == ["add"]


@pytest.mark.parametrize(
    ("indices", "expected"),
    [
        ([7], slice(7, 8, 1)),
        ([0, 1, 2], slice(0, 3, 1)),
        ([1, 4, 7], slice(1, 10, 3)),
        ([-1, -3, -5], slice(11, 5, -2)),
        ([2, 1, 0], slice(2, None, -1)),
        ([3, 3], np.array([3, 3])),
        ([0, 1, 3], np.array([0, 1, 3])),
    ],
)
def test_evenly_spaced_indices_are_a_slice(indices, expected):
    (op,) = rowwise(traced(lambda p, h: h[:, indices])).ops
    np.testing.assert_equal(op.options["index"], (slice(None), expected))


OUTPUTS = [name for name, step in STEPS.items() if isinstance(traced(step).outputs[0].shape[0], Batch)]  # type: ignore[union-attr]


@pytest.mark.parametrize("name", OUTPUTS)
def test_the_derivative_of_a_rewritten_step_is_planned_too(name):
    graph = traced(lambda p, h: (tanh(h), STEPS[name](p, tanh(h))))
    program = plan(StepGraph(graph, len(P), 1, 0, (), ()), wanted=[True] * len(graph.inputs))
    assert any(stage.backward is not None and stage.backward.ops for stage in program.stages)


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (lambda p, h: h.reshape(3, -1), "its reshape of float64[B, 12] does not work row by row"),
        (lambda p, h: h.sum(0), "its sum of float64[B, 12] does not work row by row"),
        (lambda p, h: h.T @ h, "its matmul of float64[12, B] and float64[B, 12] does not work row by row"),
        (lambda p, h: h[:2], "its getitem of float64[B, 12] does not work row by row"),
        (lambda p, h: h[INDICES], "its getitem of float64[B, 12] does not work row by row"),
        (lambda p, h: np.roll(h, 1, 0), "its operations depend on the size of the batch"),
        (lambda p, h: h[:, None] + h, "its add of float64[B, 1, 12] and float64[B, 12] does not work row by row"),
        (lambda p, h: h * np.arange(len(h))[:, None], "its operations depend on the size of the batch"),
        (lambda p, h: np.cumsum(h, 0), "its cumsum of float64[B, 12] does not work row by row"),
        (lambda p, h: np.take(p["W"], np.zeros(len(h), int), 0), "it chooses elements by computed indices"),
    ],
)  # fmt: skip
def test_what_mixes_sequences_is_refused(step, reason):
    with pytest.raises(TraceError) as caught:
        rowwise(traced(step))
    assert str(caught.value) == reason


# --- a context --------------------------------------------------------------------------------------------------------


def attention(p: Any, h: Any, x: Any, memory: Any) -> tuple[Any, Any]:
    keys = memory @ p["W"]
    scores = np.einsum("bsd,bd->bs", keys, h)
    seen = np.einsum("bs,bsd->bd", minigrad.softmax(scores), memory)
    h = tanh(x @ p["W"] + seen)
    return h, np.einsum("bd,bsd->bs", h, keys)


def test_what_is_the_same_at_every_step_is_computed_once_for_each_sequence():
    found = stepgraph.of(attention, P, np.zeros((2, 12)), np.zeros((2, 12)), np.zeros((2, 7, 12)))
    program = plan(found, wanted=[True] * len(found.graph.inputs))
    stages = {stage.name: stage for stage in program.stages}
    assert list(stages) == ["context", "input", "loop", "output"]
    assert [op.name for op in stages["context"].forward.ops] == ["matmul"]  # the keys
    assert {name: stage.by_step for name, stage in stages.items()} == {
        "context": False, "input": False, "loop": True, "output": True
    }  # fmt: skip
    (memory,), (keys,) = program.context, stages["context"].outputs
    assert program.per_sequence == {memory, keys}
    assert {memory, keys} <= set(stages["loop"].rows)
    assert keys in stages["output"].rows
