"""Count the operations of a model's step in its graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

from minigrad import stepgraph
from minigrad.graph import Level, Op, Value, classify
from minigrad.scan.passes import split
from minigrad.stepgraph import size_of

if TYPE_CHECKING:
    from rnn_plugins.tasks.task import Work

MOVES = frozenset(
    {"alias", "reshape", "transpose", "broadcast_to", "pad", "concatenate", "stack", "getitem"}
    | {"take", "scatter", "pick", "place"}
)
"""Primitives that only move numbers."""


def operations(work: Work) -> int:
    """The number of additions, multiplications and functions of a number in one step, for one sequence.

    A product of a row of K numbers with a matrix (K, N) counts as 2 K N; any other operation counts 1 per number of its
    result, or of its input if that is larger (a sum). Three kinds count as 0: moving numbers, operations on parameters
    only, and the product of a one-hot input with a matrix, which is a lookup of a row; ``[h, x] @ W`` counts as
    ``h @ W_h + x @ W_x``. Training takes about three times as many: the forward pass, and for each product two in the
    backward pass, for the gradients with respect to inputs and parameters.

    Raises:
        TraceError: the step cannot be traced.
    """
    step = stepgraph.of(work.step, work.params, work.carry, work.x)
    graph = split(step.graph, step.levels)
    varying = classify(graph, step.levels)
    looked_up = graph.inputs[-1] if work.looked_up else None
    return sum(_count(op, looked_up) for op in graph.ops if varying[op.output] != Level.FIXED)


def _count(op: Op, looked_up: Value | None) -> int:
    """The operations of one line of the graph."""
    if op.name in MOVES or (op.name == "matmul" and op.inputs[0] is looked_up):
        return 0
    if op.name == "matmul":
        return 2 * size_of(op.output) * op.values[0].shape[-1]
    return max(map(size_of, (op.output, *op.values)))
