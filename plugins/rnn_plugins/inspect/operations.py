"""What a step of a model costs in operations, read from its graph."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from minigrad.graph import Op, Value, trace
from minigrad.scan.passes import Level, classify, split

if TYPE_CHECKING:
    from rnn_plugins.tasks.task import Work

MOVES = frozenset(
    {"alias", "reshape", "transpose", "broadcast_to", "pad", "concatenate", "stack", "getitem"}
    | {"take", "scatter", "pick", "place"}
)
"""Primitives that only bring numbers to other places."""


def operations(work: Work) -> int:
    """Additions, multiplications and functions of a number that one step takes, for one sequence.

    A product of a row of K numbers with a matrix (K, N) counts 2 K N; every other operation counts 1 for each number
    that it makes, or reads where those are more (a sum). Three things count nothing: moving numbers, what depends on
    parameters alone, and the product of a one-hot input with a matrix, which is a row looked up; ``[h, x] @ W`` is
    taken as ``h @ W_h + x @ W_x``. Training takes about three times as many: those of the forward pass, and in the
    backward pass one product by the inputs and one by the parameters for each.

    Raises:
        TraceError: the step does what a graph cannot hold.
    """
    graph, _ = trace(work.step, work.params, work.carry, work.x, names=("params", "carry", "x"))
    levels = {value: _level(graph.names[value]) for value in graph.inputs}
    graph = split(graph, levels)
    varying = classify(graph, levels)
    looked_up = graph.inputs[-1] if work.looked_up else None
    return sum(_count(op, looked_up) for op in graph.ops if varying[op.output] != Level.FIXED)


def _level(name: str) -> Level:
    return {"params": Level.FIXED, "carry": Level.STATE}.get(name.partition(".")[0], Level.INPUT)


def _count(op: Op, looked_up: Value | None) -> int:
    """The operations of one line of the graph."""
    if op.name in MOVES or (op.name == "matmul" and op.inputs[0] is looked_up):
        return 0
    if op.name == "matmul":
        return 2 * _size(op.output) * op.values[0].shape[-1]
    return max(map(_size, (op.output, *op.values)))


def _size(value: Value) -> int:
    return math.prod(value.shape)
