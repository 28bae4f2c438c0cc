"""The matrices that carried states go through in a cell's step, found in its graph."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from minigrad import stepgraph, trees
from minigrad.graph import Graph, Level, Op, Value, classify, columns_of, evaluate, prune
from minigrad.scan.passes import depends_on, split
from minigrad.tensor import PRIMITIVES
from minigrad.trees import Tree
from rnn_cells import Cell, Stacked
from rnn_cells.anatomy import State, anatomy

Array: TypeAlias = NDArray[Any]

SLOPES = {"tanh": 1.0, "sigmoid": 0.25, "relu": 1.0, "": 1.0}
"""The steepest slope of each activation, and of none."""


@dataclass(frozen=True)
class Recurrent:
    """A matrix in a cell's step that multiplies what is made of the carried states.

    Attributes:
        name: of the parameter, with rows and columns where it is not the whole of it.
        operand: what it multiplies.
        matrix: (rows, columns); the operand comes from the left.
    """

    name: str
    operand: str
    matrix: Array


@dataclass(frozen=True)
class Basic:
    """A basic network, s_t = activation(s_{t-1} W + what is made of the input).

    Attributes:
        activation: ``tanh``, ``sigmoid``, ``relu``, or empty for none.
        matrix: W, (D, D).
    """

    activation: str
    matrix: Array

    @property
    def bound(self) -> float:
        """The steepest slope of the activation times the largest singular value of W.

        No Jacobian's norm is above it (Pascanu, Mikolov and Bengio 2013, arXiv:1211.5063, section 2.1).
        """
        return SLOPES[self.activation] * float(np.linalg.norm(self.matrix, 2))


class _Step:
    """The graph of a cell's step with its parameters, in float64: products with a concatenation taken apart."""

    def __init__(self, cell: Cell, params: Tree) -> None:
        """Trace it.

        Raises:
            TraceError: the step cannot be traced.
        """
        params, carry = trees.cast((params, cell.init_carry(1)), np.float64)
        x = np.zeros((1, cell.input_size))
        step = stepgraph.of(cell, params, carry, x)
        self.graph = split(step.graph, step.levels)
        self.level = classify(self.graph, step.levels)
        self.makers = self.graph.makers()
        states = anatomy(cell).states
        self.states: dict[Value, State] = {self.graph.inputs[step.params + state.index]: state for state in states}
        self.new_states = [self.graph.outputs[state.index] for state in states]
        self._arrays = trees.leaves((params, carry, x))

    def products(self) -> list[Op]:
        """Products of something that is made of a state with a matrix that is not."""
        return [
            op
            for op in self.graph.ops
            if op.name == "matmul"
            and [self.level[x] for x in op.values] == [Level.STATE, Level.FIXED]
            and op.values[1].ndim == 2
        ]

    def value(self, x: Value) -> Array:
        """The value of what depends on parameters alone."""
        graph = self.graph
        alone = prune(Graph(graph.inputs, [x], graph.ops, graph.constants, graph.names))
        return np.asarray(evaluate(alone, self._arrays)[0])

    def name(self, matrix: Value, columns: tuple[int, int]) -> str:
        """The parameters that some columns of a matrix are made of, with their rows and columns where not all are."""
        made_of = depends_on(self.graph, [matrix])
        names = [name.removeprefix("params.") for x, name in self.graph.names.items() if x in made_of]
        whole, taken = matrix, []
        while (maker := self.makers.get(whole)) and maker.name == "getitem":
            taken.append(maker.options["index"])
            (whole,) = maker.values
        where = ""
        if whole.ndim == 2:
            numbers = np.arange(whole.shape[0] * whole.shape[1]).reshape(whole.shape)
            part = numbers
            for index in reversed(taken):
                part = part[index]
            part = part[:, slice(*columns)]
            top, left = divmod(int(part[0, 0]), whole.shape[1])
            bottom, right = top + part.shape[0], left + part.shape[1]
            if np.array_equal(part, numbers[top:bottom, left:right]):
                rows, across = _span(top, bottom, whole.shape[0]), _span(left, right, whole.shape[1])
                where = f"[{rows}, {across}]" if across != ":" else f"[{rows}]" if rows != ":" else ""
        return (" ".join(names) or "constant") + where

    def operand(self, x: Value) -> str:
        """What a value is, by the states that it is made of."""
        if x in self.states:
            return self.states[x].name
        made_of = depends_on(self.graph, [x])
        for state, new in zip(self.states.values(), self.new_states, strict=False):
            if x is new:
                return f"new {state.name}"
        maker = self.makers[x]
        names = [state.name for value, state in self.states.items() if value in made_of]
        gated = [self.states[value].name for value in maker.values if value in self.states]
        return f"gated {gated[0]}" if maker.name == "multiply" and gated else f"made of {', '.join(names)}"

    def parts(self, product: Op) -> list[tuple[int, int]]:
        """The columns that a product is taken apart into, such as those of several gates; all where it is not."""
        users = self.graph.users()
        found: set[tuple[int, int]] = set()
        todo = [product.output]
        while todo:
            x = todo.pop()
            for op in users.get(x, []):
                columns = columns_of(op) if op.name == "getitem" else None
                if columns:
                    found.add(columns)
                elif op.output.shape == x.shape and op.name in PRIMITIVES and PRIMITIVES[op.name].broadcasts:
                    todo.append(op.output)
        return sorted(found) or [(0, product.output.shape[-1])]


def _span(start: int, stop: int, size: int) -> str:
    """Places along an axis, as a slice; ``:`` for all of them."""
    return ":" if (start, stop) == (0, size) else f"{start}:{stop}"


def recurrent_matrices(cell: Cell, params: Tree) -> list[Recurrent]:
    """The matrices that multiply carried states in a cell's step, or what is made of them in it, found from its graph.

    Where a state enters a product together with an input, as in ``concat(h, x) @ W``, it is the rows of W that the
    state meets; where the product is taken apart into gates, there is a matrix for each.

    Raises:
        TraceError: the step cannot be traced.
    """
    if isinstance(cell, Stacked):
        return [
            replace(found, name=f"layer{i + 1}.{found.name}")
            for i, below in enumerate(cell.cells)
            for found in recurrent_matrices(below, params[str(i)])
        ]
    step = _Step(cell, params)
    found = []
    for op in step.products():
        operand, W = op.values
        matrix = step.value(W)
        for start, stop in step.parts(op):
            found.append(Recurrent(step.name(W, (start, stop)), step.operand(operand), matrix[:, start:stop]))
    return found


def basic_form(cell: Cell, params: Tree) -> Basic | str:
    """The step as that of a basic network; where it is none, why, as the end of a sentence.

    Raises:
        TraceError: the step cannot be traced.
    """
    if isinstance(cell, Stacked):
        return "it has several layers"
    step = _Step(cell, params)
    if len(step.states) != 1:
        return f"it carries {len(step.states)} states"
    (state,), (new,) = step.states, step.new_states
    if not isinstance(new, Value) or step.level[new] != Level.STATE:
        return "the new state does not depend on the old one"
    maker = step.makers.get(new)
    activation, total = (maker.name, maker.values[0]) if maker and maker.name in SLOPES else ("", new)
    terms = [x for x in _terms(total, step.makers) if step.level[x] == Level.STATE]
    products = [op for op in step.products() if op.output in terms]
    if len(terms) != 1 or len(products) != 1 or products[0].values[0] is not state:
        return "its new state is not an activation of a sum in which one product contains the old state"
    matrix = step.value(products[0].values[1])
    if matrix.shape[1] != state.shape[-1]:
        return "its recurrent matrix is not square"
    return Basic(activation, matrix)


def _terms(x: Value, makers: dict[Value, Op]) -> list[Value]:
    """What is added up to a value; a sign does not count."""
    maker = makers.get(x)
    if maker is None or maker.name not in ("add", "subtract", "negative"):
        return [x]
    return [term for value in maker.values for term in _terms(value, makers)]


def spectral_radius(matrix: Array) -> float:
    """The largest modulus of an eigenvalue of a square matrix."""
    return float(np.abs(np.linalg.eigvals(matrix)).max())
