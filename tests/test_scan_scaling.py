"""Planning time is proportional to the operations of a step, measured by counting function calls."""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from minigrad import sigmoid, stepgraph, tanh
from minigrad.scan import compiled_backend, numpy_backend
from minigrad.scan.program import Program, plan
from minigrad.stepgraph import StepGraph
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


def step_of(name: str, size: int) -> StepGraph:
    if name == "layers":
        cell = Stacked([GRU(4, 4)] * size)
        params, carry = cell.init_params(np.random.default_rng(0)), cell.init_carry(1)
        return stepgraph.of(cell, params, carry, np.zeros((1, 4), np.float32))
    return stepgraph.of(STEPS[name](size), PARAMS, np.ones((1, 4)), np.ones((1, 4)))


def planned(step: StepGraph) -> Program:
    return plan(step, wanted=[i < step.params for i in range(len(step.graph.inputs))])


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
    given = [step_of(name, size) for size in sizes]
    programs = [planned(step) for step in given]
    small, large = (
        calls(lambda s=step: planned(s)) if way == "plan" else calls(lambda p=program: WAYS[way](p))
        for step, program in zip(given, programs, strict=True)
    )
    assert large < 5 * small


@pytest.mark.usefixtures("no_compiler")
@pytest.mark.parametrize("name", ["chain", "kept for long", "a long sum"])
def test_a_step_may_be_longer_than_python_recurses(name):
    program = planned(step_of(name, sys.getrecursionlimit() + 100))
    numpy_backend.Executor(program)
