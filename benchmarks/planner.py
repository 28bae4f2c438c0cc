"""The effect of the planner: the reference loop, each pass left out in turn, a cell spelled both ways, time by phase.

The same training step as in ``train_step.py``, with our backends only. Variants take turns, each in its own process.
"""

from __future__ import annotations

import multiprocessing
import time
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import common
import numpy as np
from common import Contestant, Problem, Report, backends, comparison, console, our_step, parser, race

from minigrad import affine, concat, sigmoid, split, tanh, training
from minigrad.scan import compiled_backend
from minigrad.scan.compiled_code import Forward
from minigrad.scan.plans import leave_out
from minigrad.scan.program import PASSES
from rnn_cells.lstm import LSTM


@dataclass(frozen=True)
class PackedLSTM(LSTM):
    """The LSTM with its four matrices written as one, as libraries do by hand."""

    def init_params(self, rng: np.random.Generator) -> Any:
        gates = super().init_params(rng).values()
        return {name: np.concatenate([gate[name] for gate in gates], -1) for name in ("W", "b")}

    def __call__(self, params: Any, carry: Any, x: Any) -> Any:
        h, c = carry
        f, i, o, candidate = split(affine(params, concat(h, x)), 4)
        c = sigmoid(f) * c + sigmoid(i) * tanh(candidate)
        h = sigmoid(o) * tanh(c)
        return (h, c), h


PACKED = f"{Path(__file__)}:PackedLSTM"


_LEFT_OUT = ExitStack()
"""What a contestant's process leaves out until it ends."""


def planned_without(problem: Problem, backend: str, name: str) -> Any:
    """A training step, planned without a pass."""
    _LEFT_OUT.enter_context(leave_out(name))
    return our_step(problem, backend)


def phases(problem: Problem, backend: str, steps: int) -> dict[str, float]:
    """Milliseconds a step by phase, each without the phases that it calls."""
    spent: dict[str, float] = defaultdict(float)
    running: list[float] = []

    def timed(plain: Any, label: Any) -> Any:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            running.append(0.0)
            start = time.perf_counter()
            try:
                return plain(*args, **kwargs)
            finally:
                took = time.perf_counter() - start
                spent[label(args) if callable(label) else label] += took - running.pop()
                if running:
                    running[-1] += took

        return wrapper

    def body(args: Any) -> str:
        code = args[0].code
        stage = "the time loop" if code.stage.name == "loop" else "rows before and after it"
        return f"{stage}, {'forward' if isinstance(code, Forward) else 'backward'}"

    part, executor = compiled_backend.Part, compiled_backend.Executor
    for owner, name, label in (
        (part, "run", body),
        (part, "_pack", "packing matrices"),
        (part, "sums", "gradients of matrices, over all rows"),
        (executor, "forward", "fixed values, forward"),
        (executor, "backward", "fixed values, backward"),
    ):
        setattr(owner, name, timed(getattr(owner, name), label))
    training.clip_by_global_norm = timed(training.clip_by_global_norm, "the gradient's norm")
    plain_adam = common.adam
    common.adam = lambda: (found := plain_adam())._replace(update=timed(found.update, "Adam"))
    step = our_step(problem, backend)
    for _ in range(5):
        step()
    spent.clear()
    start = time.perf_counter()
    for _ in range(steps):
        step()
    whole = time.perf_counter() - start
    spent["the rest: engine, batches"] = whole - sum(spent.values())
    return {name: took / steps * 1e3 for name, took in sorted(spent.items(), key=lambda item: -item[1])}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--cells", nargs="+", default=["lstm", "gru"])
    options.add_argument("--hidden", nargs="+", type=int, default=[128, 256, 512])
    options.add_argument("--batch", type=int, default=64)
    options.add_argument("--length", type=int, default=64)
    arguments = options.parse_args()
    if arguments.quick:
        arguments.hidden, arguments.rounds = arguments.hidden[:1], 3
    report = Report(arguments)
    best = backends()[-1]
    for cell in arguments.cells:
        for hidden in arguments.hidden:
            problem = Problem(cell, hidden, arguments.batch, arguments.length)
            contestants = [Contestant(name, our_step, (problem, name)) for name in reversed(backends())]
            if best == "compiled":
                contestants += [
                    Contestant(f"without {name}", planned_without, (problem, best, name)) for name in PASSES
                ]
            if cell == "lstm":
                contestants.append(Contestant("packed spelling", our_step, (replace(problem, cell=PACKED), best)))
            rows = comparison(str(problem), race(contestants, arguments.rounds, arguments.threads), (best, "reference"))
            report.add([asdict(problem) | row for row in rows])
            if best != "compiled":
                continue
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                found = pool.apply(phases, (problem, best, 5 if arguments.quick else 30))
            for name, milliseconds in found.items():
                console.print(f"  {milliseconds:8.2f} ms  {name}", highlight=False)
            report.add([asdict(problem) | {"phases": found}])


if __name__ == "__main__":
    main()
