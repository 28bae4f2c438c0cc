"""A cell on the first steps of a text: every gate and state with its numbers, by the graph of its step."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minigrad import one_hot, stepgraph, trees
from minigrad.graph import Batch, Op, TraceError, Value, apply, evaluate
from minigrad.scan import use_backend
from minigrad.stepgraph import StepGraph
from minigrad.trees import Tree
from rnn_cells import Cell
from rnn_cells.anatomy import Anatomy, anatomy, jacobians
from rnn_plugins import registry
from rnn_plugins.errors import UserError
from rnn_plugins.inspect.description import beginning, docstring_of, reason_of
from rnn_plugins.inspect.equations import carried_names, equations
from rnn_plugins.inspect.small import check_sizes
from rnn_plugins.options import OptionValue
from rnn_plugins.words import listing

Array = NDArray[Any]

MOST_STEPS = 50
"""Most steps that are explained."""


@dataclass(frozen=True)
class Line:
    """One value of a step.

    Attributes:
        name: such as ``forget`` or ``c_1``.
        text: what it is computed from; empty if the step cannot be traced.
        numbers: the value, without the batch axis.
    """

    name: str
    text: str
    numbers: Array


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        t: its number, from 1.
        symbol: the input.
        x: (N,), the input as a one-hot vector.
        before: the states before it, by their names.
        lines: what it computes, in order; its last ones are the new states and the output.
    """

    t: int
    symbol: str
    x: Array
    before: Mapping[str, Array]
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Gates:
    """A cell on the first steps of a text. Values are rows, as in the cell's code: x (N,), x @ W.

    Attributes:
        cell: its name with its options, as ``--cell`` takes it.
        text: what is read.
        symbols: the N different symbols, in the order of their first appearance.
        written: the equations in the cell's docstring that apply with its options, a line each; none if it has none.
        parameters: by their paths.
        steps: from 1.
        activations: the names of its gates and other activations.
        reason: why the step cannot be traced, so that only states are shown; empty if it can.
        norms: the norm (largest singular value) of the derivative of the last states with respect to those before each
            step, from the last step back to the first; none of a cell without states.
        difference: the largest absolute difference between the last states and those that the time loop computes; None
            if the step cannot be traced.
    """

    cell: str
    text: str
    symbols: tuple[str, ...]
    written: tuple[str, ...]
    parameters: Mapping[str, Array]
    steps: tuple[Step, ...]
    activations: tuple[str, ...]
    reason: str
    norms: tuple[float, ...]
    difference: float | None


def gates(
    spec: str,
    options: Mapping[str, OptionValue],
    text: str = "hello",
    steps: int = 3,
    hidden_size: int = 3,
    seed: int = 1,
) -> Gates:
    """Run a cell on the first symbols of a text and keep every value of each step.

    Args:
        spec: a name or ``FILE.py:CLASS``, as ``registry.cell_class`` takes it.
        options: the cell's own.
        text: step t reads its t-th symbol, one-hot.
        steps: how many.
        hidden_size: H.
        seed: random seed for the parameters.

    Raises:
        UserError: there is no such cell, an option is invalid, the cell's step fails, the text is too short or has too
            many different symbols, or a number is out of range.
    """
    if not 1 <= steps <= MOST_STEPS:
        raise UserError(f"--steps is {steps}; it must be from 1 to {MOST_STEPS}")
    if len(text) < steps:
        raise UserError(f"--text is {text!r}, {len(text)} characters; {steps} steps need {steps}")
    symbols = check_sizes(text, hidden_size, seed)
    cell = registry.make_cell(spec, len(symbols), hidden_size, options)
    params, carry = beginning(spec, cell, seed)
    ids = np.array([symbols.index(symbol) for symbol in text[:steps]])
    xs = one_hot(ids, len(symbols), np.float32)[:, None]  # (T, 1, N)
    try:
        return _gates(spec + _spelled(options), cell, text, symbols, params, carry, xs)
    except Exception as error:
        raise UserError(
            f"a step of the cell {spec!r} fails: {type(error).__name__}: {error}; "
            f"rnn cells check {shlex.quote(spec)} says more"
        ) from error


def _spelled(options: Mapping[str, OptionValue]) -> str:
    """Options as they follow a cell's name."""
    return f":{','.join(f'{name}={value}' for name, value in options.items())}" if options else ""


def _gates(name: str, cell: Cell, text: str, symbols: tuple[str, ...], params: Tree, carry: Tree, xs: Array) -> Gates:
    parts, first = anatomy(cell), carry
    graph, reason = None, ""
    try:
        graph = stepgraph.of(cell, params, carry, xs[0])
    except TraceError as error:
        reason = reason_of(error)
    steps: list[Step] = []
    products: list[Array] = []
    for t, x in enumerate(xs, start=1):
        before = _states(parts, carry) if graph is None else _carried(graph, parts, carry)
        if parts.states:
            with use_backend("reference"):
                derivative = jacobians(cell, params, carry, x)[0]
            products = [*(derivative @ product for product in products), derivative]
        if graph is None:
            carry, _ = cell(params, carry, x)
            lines = [Line(f"{name}_{t}", "", values) for name, values in _states(parts, carry).items()]
        else:
            carry, lines = _lines(graph, parts, params, carry, x, t)
        steps.append(Step(t, symbols[int(x[0].argmax())], x[0], before, tuple(lines)))
    difference = None
    if graph is not None:
        last, _ = cell.unroll(params, first, xs)
        pairs = trees.zip_leaves(last, carry)
        difference = max((float(np.abs(np.asarray(a) - np.asarray(b)).max()) for a, b in pairs), default=0.0)
    return Gates(
        name,
        text,
        symbols,
        written_equations(cell),
        {path: np.asarray(leaf) for path, leaf in trees.flatten(params).items()},
        tuple(steps),
        tuple(activation.name for activation in parts.activations),
        reason,
        tuple(float(np.linalg.norm(product, 2)) for product in reversed(products)),
        difference,
    )


def written_equations(cell: Cell) -> tuple[str, ...]:
    """The equations in a cell's docstring: its indented lines.

    After the first of them, those that a paragraph introduces with the name of an option are left out while that has
    its default, and otherwise follow a line with its name.
    """
    defaults = {option.name: option.default for option in registry.cell_options(type(cell))}
    lines: list[str] = []
    introduced: list[str] = []
    head: list[str] = []
    for block in re.split(r"\n\s*\n", docstring_of(type(cell))):
        for indented, part in itertools.groupby(block.splitlines(), lambda line: line.startswith("    ")):
            if not indented:
                introduced = [name for name in re.findall(r"``(\w+)``", "\n".join(part)) if name in defaults]
                head = [f"with {listing(introduced)}:"] if introduced else []
            elif not lines or all(getattr(cell, name) != defaults[name] for name in introduced):
                if lines:
                    lines, head = lines + head, []
                lines += map(str.strip, part)
    return tuple(lines)


def _states(parts: Anatomy, carry: Tree) -> dict[str, Array]:
    """The states of the one sequence, by their names."""
    leaves = trees.leaves(carry)
    return {state.name: np.asarray(leaves[state.index])[0] for state in parts.states}


def _carried(step: StepGraph, parts: Anatomy, carry: Tree) -> dict[str, Array]:
    """All that is carried of the one sequence, by its names."""
    leaves = [np.asarray(leaf)[0] for leaf in trees.leaves(carry)]
    return dict(zip(carried_names(step, parts), leaves, strict=True))


def _lines(step: StepGraph, parts: Anatomy, params: Tree, carry: Tree, x: Array, t: int) -> tuple[Tree, list[Line]]:
    """One step: the new carry, and its lines with their numbers."""
    graph, leaves = step.graph, trees.leaves((params, carry, x))
    known: dict[Any, Any] = dict(zip(graph.inputs, leaves, strict=True)) | graph.constants

    def record(op: Op, args: Sequence[Any]) -> Any:
        known[op.output] = apply(op, args)
        return known[op.output]

    outputs = evaluate(graph, leaves, record)

    def numbers(value: Any) -> Array:
        found = np.asarray(known[value] if isinstance(value, Value) else value)
        of_rows = isinstance(value, Value) and value.ndim and isinstance(value.shape[0], Batch)
        return found[0] if of_rows else found

    lines = [Line(name, text, numbers(value)) for name, text, value in equations(step, parts, str(t - 1), str(t))]
    return trees.unflatten(carry, outputs[: step.carry]), lines
