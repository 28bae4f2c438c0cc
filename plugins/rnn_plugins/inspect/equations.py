"""The equations of a cell's step, written from its graph: a line for each gate, shared value and state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from minigrad.graph import Op, Operand, Value, columns_of, spell
from minigrad.stepgraph import StepGraph
from rnn_cells.anatomy import Anatomy

SIGNS = {
    "add": ("+", 1),
    "subtract": ("-", 1),
    "multiply": ("*", 2),
    "divide": ("/", 2),
    "matmul": ("@", 3),
    "power": ("**", 4),
    "greater": (">", 0),
    "greater_equal": (">=", 0),
    "less": ("<", 0),
    "less_equal": ("<=", 0),
    "equal": ("==", 0),
    "not_equal": ("!=", 0),
    "logical_and": ("&", 0),
    "logical_or": ("|", 0),
}
"""Operations with a sign between their operands, and how closely it binds."""

CLOSEST = 9
"""How closely a name or a function's call binds."""

UNNAMED = ("alias", "astype", "broadcast_to", "stop_gradient")
"""Operations that leave the numbers as they are, and are not written."""

STRUCTURE = (*UNNAMED, "concatenate", "stack", "getitem", "reshape", "transpose")
"""Operations that only arrange numbers: they have no line of their own."""

ARGUMENT = "a"
"""The name of what a gate's function is applied to."""


class Equation(NamedTuple):
    """One line.

    Attributes:
        name: of the value, such as ``forget`` or ``c_1``.
        text: what it is computed from.
        value: the value in the graph; a number where a cell returns one.
    """

    name: str
    text: str
    value: Operand


def equations(step: StepGraph, anatomy: Anatomy, before: str = "{t-1}", now: str = "t") -> list[Equation]:
    """The lines of a step, in the order of computation.

    Activations have their names from the anatomy, and what they are applied to is called ``a`` in the line before;
    values that are used more than once are called ``v1``, ``v2`` and so on. All other values are written where they
    are used. The last line is the output ``y``, unless that is a state.

    Args:
        step: the graph of a cell's step.
        anatomy: of the same cell.
        before: the index of the states before the step.
        now: the index of the states after it, and of the input.
    """
    graph, names = step.graph, _inputs(step, anatomy, before, now)
    makers, users = graph.makers(), graph.users()
    carried = carried_names(step, anatomy)
    results = [(value, f"{name}_{now}") for value, name in zip(graph.outputs, carried, strict=False)]
    if graph.outputs[-1] not in graph.outputs[: step.carry]:
        results.append((graph.outputs[-1], f"y_{now}"))
    states = dict(reversed(results))  # of two that are one value, the first name
    named = {
        graph.ops[activation.op].output: _unlike(names, activation.name, activation.function)
        for activation in anatomy.activations
    }
    arguments = {
        value
        for activation in anatomy.activations
        if graph.ops[activation.op].name == activation.function
        for value in graph.ops[activation.op].values
        if value in makers and makers[value].name not in STRUCTURE
    }
    shared = 0
    lines: list[Equation] = []
    pending: dict[Value, Equation] = {}  # what gates are applied to, until the gate's own line
    for op in graph.ops:
        value = op.output
        name = states.get(value) or named.get(value)
        if name is None and len(users.get(value, [])) > 1 and op.name not in STRUCTURE:
            shared += 1
            name = f"v{shared}"
        if name is None and value in arguments:
            pending[value] = Equation(ARGUMENT, _text(value, makers, names)[0], value)
            continue
        if name is None:
            continue
        argument = next((pending.pop(given) for given in op.values if given in pending), None)
        if argument:
            lines.append(argument)
        inner = names | ({argument.value: ARGUMENT} if argument else {})
        lines.append(Equation(name, _text(value, makers, inner)[0], value))
        names[value] = name
    made = {line.name for line in lines}
    lines += [Equation(name, _text(value, makers, names)[0], value) for value, name in results if name not in made]
    return lines


def carried_names(step: StepGraph, anatomy: Anatomy) -> list[str]:
    """A name for each leaf of the carry: that of a state, or its path."""
    carried = step.graph.inputs[step.params : step.params + step.carry]
    states = {state.index: state.name for state in anatomy.states}
    return [states.get(index) or step.graph.names[value].removeprefix("carry.") for index, value in enumerate(carried)]


def _unlike(names: Mapping[Operand, str], name: str, function: str) -> str:
    """The name of an activation, with its function if a parameter has the same name."""
    return f"{name}.{function}" if name in names.values() else name


def _inputs(step: StepGraph, anatomy: Anatomy, before: str, now: str) -> dict[Operand, str]:
    """Names of parameters, states, inputs and constants."""
    graph = step.graph
    names: dict[Operand, str] = {
        value: graph.names[value].removeprefix("params.") for value in graph.inputs[: step.params]
    }
    carried = graph.inputs[step.params : step.params + step.carry]
    names |= {value: f"{name}_{before}" for value, name in zip(carried, carried_names(step, anatomy), strict=True)}
    rest = graph.inputs[step.params + step.carry :]
    names |= {value: graph.names[value].replace("x", f"x_{now}", 1) for value in rest}
    for number, (value, array) in enumerate(graph.constants.items(), start=1):
        names[value] = f"{array.item():g}" if array.size == 1 else f"constant{number}"
    return names


def _text(value: Operand, makers: Mapping[Value, Op], names: Mapping[Operand, str]) -> tuple[str, int]:
    """A value's expression, and how closely its outermost operation binds."""
    if not isinstance(value, Value):
        return str(value) if isinstance(value, bool) else f"{value:g}", CLOSEST
    if value not in makers:
        return names[value], CLOSEST
    op = makers[value]
    parts = [(names[x], CLOSEST) if isinstance(x, Value) and x in names else _text(x, makers, names) for x in op.inputs]
    texts = [text for text, _ in parts]
    if op.name in UNNAMED:
        return parts[0]
    if op.name in SIGNS:
        sign, closely = SIGNS[op.name]
        (left, of_left), (right, of_right) = parts
        # A product of matrices is read more easily with parentheses around its operands than by its precedence.
        least = CLOSEST if op.name in ("matmul", "power") else closely
        left = left if of_left >= least else f"({left})"
        right = right if of_right > closely and of_right >= least else f"({right})"
        return f"{left} {sign} {right}", closely
    if op.name == "negative":
        return f"-{texts[0] if parts[0][1] > 2 else f'({texts[0]})'}", 2
    if op.name == "concatenate" and op.options.get("axis") in (-1, op.output.ndim - 1):
        return f"[{', '.join(texts)}]", CLOSEST
    if op.name == "getitem":
        inner = texts[0] if parts[0][1] == CLOSEST else f"({texts[0]})"
        columns = columns_of(op)
        index = (
            f"{columns[0]}:{columns[1]}" if columns else spell(op.options["index"]).removeprefix("(").removesuffix(")")
        )
        return f"{inner}[{index}]", CLOSEST
    options = "".join(f", {key}={spell(option)}" for key, option in op.options.items() if option is not None)
    return f"{op.name}({', '.join(texts)}{options})", CLOSEST
