"""Planning time is proportional to the operations of a step, measured by counting lines that are executed."""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from minigrad import concat, sigmoid, softmax, stepgraph, tanh
from minigrad.scan import compiled_backend, numpy_backend, stepping
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


def rows_of_matrices(size: int) -> Any:
    def step(p: Any, M: Any, x: Any) -> Any:
        z = M
        for _ in range(size):
            z = tanh(z @ p["W"] + x[:, None])
        return z, z

    return step


def attention(size: int) -> Any:
    def step(p: Any, M: Any, x: Any) -> Any:
        z = M
        for _ in range(size // 4):
            z = z + softmax(z @ np.swapaxes(z * p["a"], 1, 2)) @ z
        return tanh(z), x

    return step


def pushes(size: int) -> Any:
    def step(p: Any, M: Any, x: Any) -> Any:
        for i in range(size):
            M = np.concatenate([(x * p["a"] * (i + 2))[:, None], M[:, :-1]], axis=1)
        return tanh(M), x

    return step


def parts_of_one(size: int) -> Any:
    def step(p: Any, M: Any, x: Any) -> Any:
        rows = np.stack([tanh(M[:, i % 3] * (i + 2)) for i in range(size)], axis=1)
        total = x
        for i in range(size):
            total = total * rows[:, i]
        return tanh(M + total[:, None]), x

    return step


def deep_concatenation(size: int) -> Any:
    def step(p: Any, h: Any, x: Any) -> Any:
        z = h
        for _ in range(size):
            z = concat(tanh(z[:, 2:]), z[:, :2] * p["a"][:2])
        return z, x

    return step


STEPS = {
    "chain": chain,
    "kept for long": kept_for_long,
    "many gates": many_gates,
    "a long sum": long_sum,
    "deep concatenation": deep_concatenation,
}
OF_MATRICES = {
    "rows of matrices": rows_of_matrices,
    "attention": attention,
    "pushes": pushes,
    "parts of one": parts_of_one,
}
"""Steps whose carry is (B, 3, 4)."""


def step_of(name: str, size: int) -> StepGraph:
    if name == "layers":
        cell = Stacked([GRU(4, 4)] * size)
        params, carry = cell.init_params(np.random.default_rng(0)), cell.init_carry(1)
        return stepgraph.of(cell, params, carry, np.zeros((1, 4), np.float32))
    if name in OF_MATRICES:
        return stepgraph.of(OF_MATRICES[name](size), PARAMS, np.ones((1, 3, 4)), np.ones((1, 4)))
    return stepgraph.of(STEPS[name](size), PARAMS, np.ones((1, 4)), np.ones((1, 4)))


def planned(step: StepGraph) -> Program:
    return plan(step, wanted=[i < step.params for i in range(len(step.graph.inputs))])


def lines(run: Callable[[], Any]) -> int:
    """How many lines of Python are executed, each round of a loop counted."""
    count = 0

    def saw(frame: Any, event: str, arg: Any) -> Any:
        nonlocal count
        count += event == "line"
        return saw

    before = sys.gettrace()
    sys.settrace(saw)
    try:
        run()
    finally:
        sys.settrace(before)
    return count


def prepared(program: Program) -> None:
    """Prepare the program for single steps, with a table of two symbols."""
    params, (h,) = [np.ones(x.shape) for x in program.params], program.carry
    stepping.Stepper(program, params, [np.ones((1, *h.shape[1:]))], np.ones((2, *program.xs[0].shape[1:])))


WAYS: dict[str, Callable[[Program], Any]] = {
    "numpy": numpy_backend.Executor,
    "compiled": compiled_backend.Executor,
    "prepared": prepared,
}


@pytest.mark.usefixtures("no_compiler")
@pytest.mark.parametrize("way", ["trace", "plan", *WAYS])
@pytest.mark.parametrize("name", [*STEPS, *OF_MATRICES, "layers"])
def test_four_times_the_operations_take_four_times_the_lines(name, way):
    if way == "compiled":
        pytest.importorskip("llvmlite")
    if way == "prepared" and name == "layers":
        pytest.skip("the stepper is made for one carry here")
    counts = []
    for size in (5, 20) if name == "layers" else (16, 64):
        step = step_of(name, size)
        program = planned(step)
        counts.append(
            lines(
                {
                    "trace": lambda n=size: step_of(name, n),
                    "plan": lambda s=step: planned(s),
                }.get(way, lambda p=program: WAYS[way](p))
            )
        )
    assert counts[1] < 4.2 * counts[0]


@pytest.mark.usefixtures("no_compiler")
@pytest.mark.parametrize("name", ["chain", "kept for long", "a long sum"])
def test_a_step_may_be_longer_than_python_recurses(name):
    program = planned(step_of(name, sys.getrecursionlimit() + 100))
    numpy_backend.Executor(program)
