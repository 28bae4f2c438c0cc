"""The named parts of a cell's step: the states it carries and the activations it computes, read from its graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from minigrad import scan, stepgraph, trees, vjp, where
from minigrad.graph import Batch, Graph, Op, Operand, TraceError, Value, bound, call, columns_of, evaluate
from minigrad.scan.passes import depends_on
from minigrad.stepgraph import size_of
from minigrad.trees import Tree
from rnn_cells.cell import Cell
from rnn_cells.regularised import Regularised
from rnn_cells.stacked import Stacked

Array: TypeAlias = NDArray[Any]

ACTIVATIONS = ("sigmoid", "tanh", "relu")
"""Primitives whose results can be saturated or dead."""

_GUESSED = 20
"""Assumed numbers computed per carried number, if a step cannot be traced; an LSTM has 12."""


@dataclass(frozen=True)
class State:
    """A floating-point array that the cell carries from step to step.

    Attributes:
        name: its name in the carry if it has one; otherwise ``h`` if it is the cell's output or the only state, ``c``
            if the step uses it as an LSTM's memory cell, else ``s0``, ``s1`` and so on.
        layer: the layer in a stack, from 1; 0 without a stack.
        size: the number of elements per sequence.
        index: its index among the leaves of the carry.
    """

    name: str
    layer: int
    size: int
    index: int

    @property
    def label(self) -> str:
        """The name with its layer, such as ``layer2.h``."""
        return f"layer{self.layer}.{self.name}" if self.layer else self.name


@dataclass(frozen=True)
class Activation:
    """A squashed or rectified value of the step: a gate, a candidate, a new state.

    Attributes:
        name: the name of the parameters that it is computed from (``forget``), ``c.tanh`` if it depends on the state c
            only, otherwise its function (``tanh``).
        layer: the layer in a stack, from 1; 0 without a stack.
        function: one of ``ACTIVATIONS``.
        size: its width.
        op: its index among the operations of the step's graph.
        whole: whether it is the whole result of its function, not some of its columns.
    """

    name: str
    layer: int
    function: str
    size: int
    op: int
    whole: bool

    @property
    def label(self) -> str:
        """The name with its layer, such as ``layer2.forget``."""
        return f"layer{self.layer}.{self.name}" if self.layer else self.name


@dataclass(frozen=True)
class Anatomy:
    """The parts of a cell's step.

    Attributes:
        states: in the order of the carry's leaves.
        activations: in the order of computation; none if the step cannot be traced.
        reason: why the step cannot be traced; empty if it can.
        numbers: the number of elements that a step computes per sequence, intermediate values included; an estimate if
            it cannot be traced.
    """

    states: tuple[State, ...]
    activations: tuple[Activation, ...]
    reason: str = ""
    numbers: int = 0


def anatomy(cell: Cell) -> Anatomy:
    """The states and activations of a cell."""
    params, carry = cell.init_params(np.random.default_rng(0)), cell.init_carry(1)
    x = np.zeros((1, cell.input_size), np.float32)
    try:
        graph = stepgraph.of(cell, params, carry, x).graph
    except TraceError as error:
        states = _states(cell, carry, None)
        return Anatomy(states, (), str(error), _GUESSED * sum(state.size for state in states))
    states = _states(cell, carry, graph)
    numbers = sum(size_of(op.output) for op in graph.ops if any(isinstance(n, Batch) for n in op.output.shape))
    return Anatomy(states, tuple(_activations(cell, graph, states)), numbers=numbers)


Tapping: TypeAlias = tuple[Tree, tuple[Any, tuple[Any, ...], tuple[Any, ...]]]
"""The result of a tapped step: the carry and ``(y, states, shown)``."""


@dataclass(frozen=True)
class Tapped:
    """A cell's step that also returns its states and some activations, optionally changed.

    Attributes:
        cell: the cell.
        shown: indices of the operations in the step's graph whose values to return.
        nudged: whether x is a pair ``(x, nudges)``. A nudge is an array like a state, added to it where it is computed,
            so that everything computed from the state, in this step and later, depends on it. The gradient of a loss
            with respect to a nudge of zeros is therefore the total derivative with respect to the state.
        fixed: indices of operations, each with the number that replaces its result, or with None for its input.
        clamped: units of states set to a number where they are computed: the index of the state among the leaves of the
            carry, the unit, and the number.
    """

    cell: Cell
    shown: tuple[int, ...] = ()
    nudged: bool = False
    fixed: tuple[tuple[int, float | None], ...] = ()
    clamped: tuple[tuple[int, int, float], ...] = ()

    def __call__(self, params: Tree, carry: Tree, x: Any) -> Tapping:
        """One step: the carry and ``(y, states, shown)``.

        Raises:
            TraceError: the step cannot be traced, and ``shown`` or ``fixed`` need its graph.
        """
        x, nudges = x if self.nudged else (x, ())
        try:
            graph = stepgraph.of(self.cell, params, carry, x).graph
        except TraceError:
            if self.shown or self.fixed:
                raise
            return self._from_outside(params, carry, x, nudges)
        count = len(trees.leaves(carry))
        states, held = indices_of_states(carry), {index for index, _, _ in self.clamped}
        nudge_of = dict(zip(states, nudges, strict=False))
        taps: dict[Operand, list[int]] = {}
        for index in states:
            if nudges or index in held:
                taps.setdefault(graph.outputs[index], []).append(index)
        fixed, indices = dict(self.fixed), {op.output: index for index, op in enumerate(graph.ops)}
        shown: dict[int, Any] = {}

        def apply(op: Op, args: Sequence[Any]) -> Any:
            index = indices[op.output]
            if index in fixed:
                number, shape = fixed[index], bound(op.output.shape, len(args[0]))
                value = args[0] if number is None else np.full(shape, number, op.output.dtype)
            else:
                value = call(op, args)
            for state in taps.pop(op.output, ()):
                value = self._changed(value, state, nudge_of)
            if index in self.shown:
                shown[index] = value
            return value

        outputs = evaluate(graph, trees.leaves((params, carry, x)), apply)
        # A state without an operation, such as one carried on unchanged, is changed at the end of the step.
        for index, output in enumerate(graph.outputs):
            for state in taps.get(output, ()):
                outputs[index] = self._changed(outputs[index], state, nudge_of)
        (y,) = outputs[count:]
        kept = tuple(outputs[index] for index in states)
        return trees.unflatten(carry, outputs[:count]), (y, kept, tuple(shown[index] for index in self.shown))

    def _from_outside(self, params: Tree, carry: Tree, x: Any, nudges: Sequence[Any]) -> Tapping:
        """The step without its graph: a nudge changes the states and, if it is a state, the output."""
        result, y = self.cell(params, carry, x)
        new = [leaf for _, leaf in trees.zip_leaves(carry, result)]
        states = indices_of_states(carry)
        nudge_of = dict(zip(states, nudges, strict=False))
        for index in states:
            moved = self._changed(new[index], index, nudge_of)
            new[index], y = moved, moved if new[index] is y else y
        return trees.unflatten(carry, new), (y, tuple(new[index] for index in states), ())

    def _changed(self, state: Any, index: int, nudge_of: Mapping[int, Any]) -> Any:
        """A state with its nudge added and its clamped units set."""
        if index in nudge_of:
            state = state + nudge_of[index]
        numbers = {unit: number for held, unit, number in self.clamped if held == index}
        if not numbers:
            return state
        mask, values = np.zeros(state.shape[1:], bool), np.zeros(state.shape[1:], state.dtype)
        mask.flat[list(numbers)] = True
        values.flat[list(numbers)] = list(numbers.values())
        return where(mask, values, state)


def indices_of_states(carry: Tree) -> list[int]:
    """The indices of a carry's states among its leaves."""
    return [index for index, leaf in enumerate(trees.leaves(carry)) if leaf.dtype.kind == "f"]


def jacobians(cell: Cell, params: Tree, carry: Tree, x: Any) -> Array:
    """The Jacobian of a step: the derivative of the new carry with respect to the old one.

    Args:
        cell: the cell.
        params: its parameters.
        carry: states (B, ...).
        x: inputs (B, I).

    Returns:
        (B, D, D): element [b, i, j] is d new[i] / d old[j] for sequence b, where D is the number of elements in all
        states of a sequence, one state after another.
    """
    states = indices_of_states(carry)
    leaves = [np.asarray(trees.leaves(carry)[index]) for index in states]
    batch = len(leaves[0])
    sizes = [leaf[0].size for leaf in leaves]
    width = sum(sizes)
    # Row b * D + i has the cotangent of element i of sequence b, so that one backward pass gives all derivatives.
    repeated = [np.repeat(leaf, width, axis=0) for leaf in trees.leaves(carry)]
    xs = np.repeat(np.asarray(x), width, axis=0)[None]

    def after(before: list[Any]) -> list[Any]:
        given: list[Any] = list(repeated)
        for index, leaf in zip(states, before, strict=True):
            given[index] = leaf
        last, _ = scan(cell, params, trees.unflatten(carry, given), xs)
        new = [leaf for _, leaf in trees.zip_leaves(carry, last)]
        return [new[index] for index in states]

    _, pullback = vjp(after, [repeated[index] for index in states])
    asked = np.tile(np.eye(width, dtype=leaves[0].dtype), (batch, 1))
    parts = [
        part.reshape(batch * width, *leaf.shape[1:])
        for part, leaf in zip(np.split(asked, np.cumsum(sizes)[:-1], axis=1), leaves, strict=True)
    ]
    (rows,) = pullback(parts)
    return np.concatenate([row.reshape(batch, width, -1) for row in rows], axis=-1)


def _states(cell: Cell, carry: Tree, graph: Graph | None) -> tuple[State, ...]:
    if isinstance(cell, Stacked):
        found: list[State] = []
        before = 0
        for layer, (below, part) in enumerate(zip(cell.cells, carry, strict=True), start=1):
            found += [State(s.name, layer, s.size, before + s.index) for s in anatomy(below).states]
            before += len(trees.leaves(part))
        return tuple(found)
    if isinstance(cell, Regularised):
        return anatomy(cell.cell).states
    leaves, paths, indices = trees.leaves(carry), trees.paths(carry), indices_of_states(carry)
    outputs = [index for index in indices if graph and graph.outputs[index] is graph.outputs[-1]]

    def name(index: int) -> str:
        if paths[index] and not paths[index].replace(".", "").isdigit():
            return paths[index]
        if len(indices) == 1 or index in outputs[:1]:
            return "h"
        return "c" if graph and outputs and _is_memory(graph, index, outputs[0], leaves) else f"s{index}"

    return tuple(State(name(index), 0, int(leaves[index][0].size), index) for index in indices)


def _is_memory(graph: Graph, index: int, output: int, leaves: Sequence[Any]) -> bool:
    """Whether a state is used as an LSTM's c.

    The new state is a sum with the old one times something, and the output is a product of the new one, or a function
    of it, and something else.
    """
    makers = graph.makers()
    # The inputs are the parameters, the carry and x.
    before, after = graph.inputs[index - len(leaves) - 1], graph.outputs[index]

    def made_by(name: str, value: Operand) -> tuple[Operand, ...]:
        maker = makers.get(value) if isinstance(value, Value) else None
        return maker.inputs if maker and maker.name == name else ()

    kept = any(before in made_by("multiply", term) for term in made_by("add", after))
    factors = made_by("multiply", graph.outputs[output])
    squashed = {value for factor in factors for name in ACTIVATIONS for value in made_by(name, factor)}
    inside = depends_on(graph, [value for value in squashed if isinstance(value, Value)])  # it may be normalised first
    return kept and after in {*factors, *squashed, *inside}


def _activations(cell: Cell, graph: Graph, states: Sequence[State]) -> list[Activation]:
    makers, users = graph.makers(), graph.users()
    indices = {op.output: index for index, op in enumerate(graph.ops)}
    states_of, outputs = {graph.outputs[state.index]: state for state in states}, set(graph.outputs)
    found: list[Activation] = []
    named: Counter[tuple[int, str]] = Counter()
    for op in graph.ops:
        rows = op.output.shape[:1]  # values equal at every step do not count
        if op.name not in ACTIVATIONS or not (rows and isinstance(rows[0], Batch) and rows[0].times == 1):
            continue
        layer, name = _origin(op, graph, makers, states_of, isinstance(cell, Stacked))
        pieces = [user for user in users.get(op.output, []) if user.name == "getitem" and columns_of(user)]
        whole = not pieces or len(pieces) < len(users[op.output]) or op.output in outputs
        for piece in [op] if whole else pieces:
            named[layer, name] += 1
            unique = f"{name}#{named[layer, name]}" if named[layer, name] > 1 or not whole else name
            found.append(Activation(unique, layer, op.name, size_of(piece.output), indices[piece.output], whole))
    return found


def _origin(
    op: Op, graph: Graph, makers: dict[Value, Op], states_of: dict[Operand, State], stacked: bool
) -> tuple[int, str]:
    """The layer and name of an activation, from the parameters it is computed from without another one in between."""
    found: dict[int, set[tuple[str, ...]]] = {}
    todo = list(op.values)
    if todo and (state := states_of.get(todo[0])):
        return state.layer, f"{state.name}.{op.name}"
    seen: set[Operand] = set()
    while todo:
        value = todo.pop()
        if value in seen:
            continue
        seen.add(value)
        maker = makers.get(value)
        label = graph.names.get(value, "")
        if label.startswith("params."):
            path = tuple(label.split(".")[1:])
            layer, path = (int(path[0]) + 1, path[1:]) if stacked else (0, path)
            found.setdefault(layer, set()).add(path)
        elif maker and maker.name not in ACTIVATIONS:
            todo += maker.values
    layer = max(found, default=1 if stacked else 0)  # lower layers provide its input
    paths, common = found.get(layer, set()), list[str]()
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    if len(paths) == 1:
        common = common[:-1] or common
    return layer, ".".join(common) or op.name
