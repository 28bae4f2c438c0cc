"""Run a planned step once at a time with NumPy, as one Python function without tensors, for sampling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minigrad.graph import Operand, Value, apply, bound, evaluate, function_of, made_for
from minigrad.scan.program import Program
from minigrad.tensor import Array


class Stepper:
    """Runs a program one step at a time; what is the same at every step is computed once.

    Args:
        program: with one input, which is looked up in a table.
        params: arrays in the order of the program's parameters.
        carry: the initial carry, (B, ...) arrays.
        table: the inputs by symbol, (V, n).
        context: what is the same at every step, (B, ...) arrays.

    Attributes:
        carry: the carry after the last step.
    """

    def __init__(
        self,
        program: Program,
        params: Sequence[Array],
        carry: Sequence[Array],
        table: Array,
        context: Sequence[Array] = (),
    ) -> None:
        self.carry = [np.asarray(x) for x in carry]
        batch = len(self.carry[0])
        fixed = dict(zip(program.fixed, evaluate(program.prologue, params), strict=True))
        known: dict[Value, Any] = dict(zip(program.context, context, strict=True))  # values equal at every step
        looked_up = {program.xs[0]: table}
        ops = []
        for stage in program.stages:
            of_stage = evaluate(stage.forward.prologue, [fixed[x] for x in stage.fixed])
            known |= {
                x: y for x, y in zip(stage.forward.prologue.outputs, of_stage, strict=True) if isinstance(x, Value)
            }
            if stage.name not in ("table", "context"):
                ops += stage.forward.ops
                continue
            found = looked_up if stage.name == "table" else known
            for op in stage.forward.ops:
                args = [looked_up.get(x, known.get(x)) if isinstance(x, Value) else x for x in op.inputs]
                found[op.output] = apply(made_for(op, args, batch), args)
        names: dict[Value, str] = {}
        scope: dict[str, Any] = {}

        def spell(x: Operand) -> str:
            if not isinstance(x, Value):
                scope[f"number{len(scope)}"] = x
                return f"number{len(scope) - 1}"
            if x not in names:
                names[x] = f"v{len(names)}"
                if x in looked_up:
                    scope[f"table_{names[x]}"] = looked_up[x]
                    lines.append(f"{names[x]} = table_{names[x]}[symbols]")
                else:
                    scope[names[x]] = known[x]
            return names[x]

        lines: list[str] = []
        for i, x in enumerate(program.carry):
            names[x] = f"carry{i}"
        for i, op in enumerate(ops):
            if op.output in names:  # stages have views of the context each
                continue
            operands = ", ".join([*map(spell, op.inputs), *(f"{name}=o{i}_{name}" for name in op.options)])
            scope |= {f"o{i}_{name}": bound(option, batch) for name, option in op.options.items()}
            rows_by_matrix = op.name == "matmul" and op.values[1].ndim == 2  # not a product of rows
            scope[f"f{i}"] = np.dot if rows_by_matrix else function_of(op.name)
            names[op.output] = f"v{len(names)}"
            lines.append(f"{names[op.output]} = f{i}({operands})")
        given = ", ".join(f"carry{i}" for i in range(len(program.carry)))
        results = [f"[{', '.join(map(spell, values))}]" for values in (program.carried, program.ys)]
        text = "\n    ".join([f"def step(symbols, {given}):", *lines, f"return {', '.join(results)}"])
        exec(text, scope)
        self._step = scope["step"]

    def __call__(self, symbols: Any) -> list[Array]:
        """One step of every sequence: (B,) symbols -> the leaves of the output, (B, ...)."""
        ys: list[Array]
        self.carry, ys = self._step(symbols, *self.carry)
        return ys
