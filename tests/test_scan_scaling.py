"""Planning time is proportional to the operations of a step, measured by counting function calls."""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from minigrad import sigmoid, stepgraph, tanh
from minigrad.graph import Graph
from minigrad.scan import compiled_backend, numpy_backend
from minigrad.scan.program import Program, plan
from rnn_cells import Stacked
from rnn_cells.gru import GRU

PARAMS = {"W": np.ones((4, 4)), "a": np.ones(4)}


def chain(size: int) -> Any:
    def step(p: Any, h: Any, x: Any) -> Any:
        z = h @ p["W"] + x
        for _ in range(size):
            z = tanh(z * p["a"] + x) * 0.5
        return z, z

    return step


def kept_for_long(size: int) -> Any:
    def step(p: Any, h: Any, x: Any) -> Any:
        z = x
        for _ in range(size):
            z = z * h + x
        z = tanh(z * p["a"])
        return z, z

    return step


def many_gates(size: int) -> Any:
    def step(p: Any, h: Any, x: Any) -> Any:
        z = h
        for i in range(size):
            z = z + sigmoid(h @ p["W"] * (i + 2) + p["a"]) * tanh(x @ p["W"] * (i + 2))
        return tanh(z), z

    return step


def long_sum(size: int) -> Any:
    def step(p: Any, h: Any, x: Any) -> Any:
        z = x
        for i in range(size):
            z = z + h * (i + 2)
        z = tanh(z * p["a"])
        return z, z

    return step


STEPS = {"chain": chain, "kept for long": kept_for_long, "many gates": many_gates, "a long sum": long_sum}


def graph_and_counts(name: str, size: int) -> tuple[Graph, int, int]:
    if name == "layers":
        cell = Stacked([GRU(4, 4)] * size)
        params, carry = cell.init_params(np.random.default_rng(0)), cell.init_carry(1)
        step = stepgraph.of(cell, params, carry, np.zeros((1, 4), np.float32))
        return step.graph, step.params, step.carry
    return stepgraph.of(STEPS[name](size), PARAMS, np.ones((1, 4)), np.ones((1, 4))).graph, 2, 1


def planned(given: tuple[Graph, int, int]) -> Program:
    graph, params, carry = given
    return plan(graph, params, carry, wanted=[i < params for i in range(len(graph.inputs))])


def calls(run: Callable[[], Any]) -> int:
    """How many functions are called."""
    count = 0

    def saw(frame: Any, event: str, arg: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(saw)
    try:
        run()
    finally:
        sys.setprofile(before)
    return count


WAYS: dict[str, Callable[[Program], Any]] = {
    "plan": lambda program: None,
    "numpy": numpy_backend.Executor,
    "compiled": compiled_backend.Executor,
}


@pytest.mark.usefixtures("no_compiler")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", [*STEPS, "layers"])
def test_four_times_the_operations_take_four_times_the_calls(name, way):
    if way == "compiled":
        pytest.importorskip("llvmlite")
    sizes = (5, 20) if name == "layers" else (25, 100)
    given = [graph_and_counts(name, size) for size in sizes]
    programs = [planned(graph) for graph in given]
    small, large = (
        calls(lambda g=graph: planned(g)) if way == "plan" else calls(lambda p=program: WAYS[way](p))
        for graph, program in zip(given, programs, strict=True)
    )
    assert large < 5 * small


@pytest.mark.usefixtures("no_compiler")
@pytest.mark.parametrize("name", ["chain", "kept for long", "a long sum"])
def test_a_step_may_be_longer_than_python_recurses(name):
    program = planned(graph_and_counts(name, sys.getrecursionlimit() + 100))
    numpy_backend.Executor(program)
