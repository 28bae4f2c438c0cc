"""What the engine makes of one small step, stage by stage: the blocks of ``docs/one-step.md``.

Run ``python docs/one_step.py`` to print them.
"""

from collections.abc import Sequence
from typing import Any
from unittest.mock import patch

import numpy as np

from minigrad import relu, stepgraph
from minigrad.compiled import jit, rows
from minigrad.graph import Op
from minigrad.scan.compiled_code import Forward, Inputs
from minigrad.scan.numpy_code import Code
from minigrad.scan.program import Program, plan

PARAMS = {"U": np.zeros((3, 4), np.float32), "W": np.zeros((4, 4), np.float32)}


def step(params: Any, h: Any, x: Any) -> tuple[Any, Any]:
    """The simple recurrent network with ReLU."""
    h = relu(h @ params["W"] + x @ params["U"])
    return h, h


NAMES = {"input": ["a"], "loop": ["p", "z", "h_new"]}
"""Names of the results of each stage's forward operations."""

BACKWARD = {"input": [], "loop": ["d_both", "positive", "d_a", "d_h"]}
"""Likewise backward."""


def listing(program: Program) -> str:
    """A program's stages, forward in their order and backward in the opposite one."""
    names: dict[Any, str] = {x: name.removeprefix("params.") for x, name in program.graph.names.items()}
    names |= dict.fromkeys(program.carry, "h")
    forward: list[str] = []
    backward: list[str] = []
    for stage in program.stages:
        back = stage.backward
        assert back is not None
        names |= {op.output: name for op, name in zip(stage.forward.ops, NAMES[stage.name], strict=True)}
        names |= {op.output: name for op, name in zip(back.ops, BACKWARD[stage.name], strict=True)}
        names |= dict.fromkeys(back.prologue.outputs, "W_transposed")
        seeds = [*stage.d_carried, *stage.d_outputs]
        names |= dict(zip(seeds, ["d_next", "d_y"] if stage.carry else ["d_a"], strict=True))
        forward.append("\n".join([f"{stage.name}, forward", *_lines(stage.forward.ops, names)]))
        sums = [
            f"    sum over all rows of all steps: {names[total.left]} transposed @ {names[total.right]}"
            for total in back.sums
        ]
        backward.insert(0, "\n".join([f"{stage.name}, backward", *_lines(back.ops, names), *sums]))
    return "\n".join((*forward, *backward))


def _lines(ops: Sequence[Op], names: dict[Any, str]) -> list[str]:
    return [f"    {names[op.output]} = {op.name}({', '.join(names.get(x, repr(x)) for x in op.inputs)})" for op in ops]


def blocks() -> dict[str, str]:
    """The text of each stage."""
    traced = stepgraph.of(step, PARAMS, np.zeros((1, 4), np.float32), np.zeros((1, 3), np.float32))
    program = plan(traced, wanted=[True, True, True, False])
    loop = next(stage for stage in program.stages if stage.name == "loop")
    with patch.object(jit, "vector_width", lambda dtype: 4):
        code = Forward(Inputs(program), loop, "loop", program.ys)
        llvm = rows.module(code.body.generate())
    return {
        "graph": str(traced.graph),
        "program": listing(program),
        "numpy": Code(program, loop, {}).text,
        "llvm": llvm[llvm.index("define internal void @loop_rows") : llvm.index("define internal void @loop_step")],
    }


if __name__ == "__main__":
    for name, text in blocks().items():
        print(f"--- {name}\n{text}")
