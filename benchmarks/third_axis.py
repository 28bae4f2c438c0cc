"""Cells with a third axis, and steps that read a context: our time loops against eager PyTorch, and planning time.

The cells of ``third_axis_cells.py`` and their peers in ``third_axis_torch.py``, with the same parameters and inputs. A
step is a loss and its gradients with respect to parameters, carry, inputs and context, without an update. "off by" is
the largest difference of a gradient's elements from those of the first column, relative to the gradient's largest.
Planning is the first call in a fresh process less a later call; "cold" has no cached code, "cached" finds it.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import third_axis_cells as cells
from common import (
    Contestant,
    Report,
    Timing,
    available,
    backends,
    console,
    enter_backend,
    parser,
    race,
    table,
    workers,
)

from minigrad import scan, sigmoid, trees, value_and_grad
from minigrad.scan import plans
from rnn_cells import Cell


@dataclass(frozen=True)
class Case:
    """A step, the name of its peer in ``third_axis_torch.py``, and the sizes of its batch."""

    cell: Cell
    peer: str = ""
    length: int = 64
    batch: int = 32


CASES = {
    "mLSTM": Case(cells.MLSTM(64, 128), "mlstm"),
    "fast weights": Case(cells.FastWeights(64, 128), "fast_weights"),
    "NTM": Case(cells.NTM(64, 128), "ntm"),
    "stack RNN": Case(cells.StackRNN(64, 128), "stack_rnn"),
    "LSTMN": Case(cells.LSTMN(64, 128), "lstmn"),
    "ConvLSTM": Case(cells.ConvLSTM(64, 512), "conv_lstm"),
    "DeltaNet": Case(cells.DeltaNet(64, 128), "delta_net"),
    "S6": Case(cells.S6(64, 128), "s6"),
    "second-order": Case(cells.SecondOrder(32, 128), "second_order"),
    "Bahdanau": Case(cells.Bahdanau(64, 128), "bahdanau", length=40),
    "Luong": Case(cells.Luong(64, 128), "luong", length=40),
    "DRAW read": Case(cells.DrawRead(16, 128), "draw_read"),
}


# Steps of 1,000 operations, for the time of planning


class Chain(Cell):
    """h_t = tanh(w_i h) for i = 1..333, one after the other, beginning with h_{t-1} + x_t."""

    def init_params(self, rng):
        return {"w": rng.uniform(0.9, 1.1, (333, self.hidden_size)).astype(np.float32)}

    def __call__(self, params, h, x):
        h = h + x
        for i in range(333):
            h = np.tanh(params["w"][i] * h)
        return h, h


class Wide(Cell):
    """h_t = sum_i tanh(w_i h_{t-1} + x_t) / 200, i = 1..200."""

    def init_params(self, rng):
        return {"w": rng.uniform(0.9, 1.1, (200, self.hidden_size)).astype(np.float32)}

    def __call__(self, params, h, x):
        h = sum(np.tanh(params["w"][i] * h + x) for i in range(200)) / 200
        return h, h


class Gates(Cell):
    """h_t = prod_i sigmoid(W_i h_{t-1} + U_i x_t), i = 1..200: 400 products that could be two."""

    def init_params(self, rng):
        return {
            f"{i}": {"W": self.dense(rng, self.hidden_size)["W"], "U": self.dense(rng, self.input_size)["W"]}
            for i in range(200)
        }

    def __call__(self, params, h, x):
        y = 1.0
        for p in params.values():
            y = y * sigmoid(h @ p["W"] + x @ p["U"])
        return y, y


LARGE = {
    "1,000 in a chain": Case(Chain(16, 16), length=8, batch=4),
    "1,000 side by side": Case(Wide(16, 16), length=8, batch=4),
    "1,000 of 200 gates": Case(Gates(16, 16), length=8, batch=4),
}


# A step of ours and of PyTorch


def draw(case: Case, dtype: str = "float32") -> tuple[Any, Any, Any]:
    """What a case is differentiated by, the rest of its context, and the weights of its outputs in the loss."""
    rng = np.random.default_rng(0)
    cell, leading = case.cell, (case.length, case.batch)
    context = cell.init_context(rng, case.batch) if hasattr(cell, "init_context") else {}
    given = {
        "params": cell.init_params(rng),
        "carry": trees.map(lambda x: x + 0.1 * rng.random(x.shape), cell.init_carry(case.batch)),  # so that all count
        "xs": rng.standard_normal((*leading, cell.input_size)),
        "context": {name: array for name, array in context.items() if array.dtype.kind == "f"},
    }
    rest = {name: array for name, array in context.items() if array.dtype.kind != "f"}
    weights = rng.standard_normal((*leading, cell.hidden_size)) / case.batch
    return trees.cast(given, dtype), rest, weights.astype(dtype)


def our_gradient(case: Case, dtype: str = "float32") -> Callable[[], tuple[float, list[Any]]]:
    """A call gives the loss and its gradients, on the backend that is set."""
    given, rest, weights = draw(case, dtype)

    def loss(given: Any) -> Any:
        context = given["context"] | rest
        options = {"context": context} if context else {}
        _, ys = scan(case.cell, given["params"], given["carry"], given["xs"], **options)
        return np.sum(ys * weights)

    def step() -> tuple[float, list[Any]]:
        value, gradient = value_and_grad(loss)(given)
        return float(value), trees.leaves(gradient)

    return step


def torch_gradient(case: Case, dtype: str = "float32") -> Callable[[], tuple[float, list[Any]]]:
    """The same in PyTorch."""
    import third_axis_torch
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    given, rest, weights = draw(case, dtype)
    given = trees.map(lambda array: torch.tensor(array, requires_grad=True), given)
    weights, rest = torch.from_numpy(weights), {name: torch.from_numpy(array) for name, array in rest.items()}
    function = getattr(third_axis_torch, case.peer)
    leaves = trees.leaves(given)

    def step() -> tuple[float, list[Any]]:
        context = given["context"] | rest
        arguments = (context,) if context else ()
        ys = function(case.cell, given["params"], given["carry"], given["xs"], *arguments)
        loss = (ys * weights).sum()
        gradient = torch.autograd.grad(loss, leaves)
        return loss.item(), [g.numpy() for g in gradient]

    return step


def difference(ours: list[Any], others: list[Any]) -> float:
    """The largest difference of an element, relative to the largest element of its array."""
    pairs = zip(ours, others, strict=True)
    return max(float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-30)) for a, b in pairs)


class Reasons(logging.Handler):
    """What the time loop says about steps that it does not plan."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []
        logging.getLogger("minigrad.scan").addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


def where_it_runs(backend: str) -> str:
    """The backend whose executor runs the step that was planned last, which may lack a kernel and be another one."""
    found = [plan for plan in plans._plans.values() if isinstance(plan, plans.Plan)]
    if backend == "reference" or not found:
        return "reference"
    return "compiled" if "compiled" in type(found[-1].executors[backend]).__module__ else "numpy"


def our_contestant(case: Case, backend: str) -> Callable[[], Any]:
    """A step; the first call also gives the gradients, where it ran, and why not elsewhere."""
    enter_backend(backend)
    reasons, step, first = Reasons(), our_gradient(case), True

    def call() -> Any:
        nonlocal first
        loss, gradient = step()
        told = (loss, gradient, where_it_runs(backend), reasons.said) if first else None
        first = False
        return told

    return call


def torch_contestant(case: Case) -> Callable[[], Any]:
    """A step of PyTorch; the first call also gives the gradients."""
    step, first = torch_gradient(case), True

    def call() -> Any:
        nonlocal first
        loss, gradient = step()
        told = (loss, gradient, "torch", []) if first else None
        first = False
        return told

    return call


# The tables


def speed(report: Report, names: list[str], arguments: Any) -> None:
    """Milliseconds per step on each backend and in PyTorch."""
    shown = []
    peer = available(["torch"])
    for name in names:
        case = CASES[name]
        contestants = [Contestant(backend, our_contestant, (case, backend)) for backend in arguments.backends]
        contestants += [Contestant("torch", torch_contestant, (case,)) for _ in peer]
        timings = {timing.name: timing for timing in race(contestants, arguments.rounds, arguments.threads, 0.2)}
        row, printed = _compared(name, timings)
        report.add([row])
        shown.append(printed)
    others = ["compiled / torch", "compiled / reference", "numpy / reference", "off by"]
    table("ms per training step; speed as ratios", ["", *arguments.backends, *peer, *others], shown)


def _compared(name: str, timings: dict[str, Timing]) -> tuple[dict[str, Any], list[str]]:
    row: dict[str, Any] = {"table": "speed", "name": name, "ms": {}, "speed": {}, "runs on": {}, "reasons": []}
    printed, told = [name], {}
    for timing in timings.values():
        if timing.error:
            console.print(f"[red]{name}, {timing.name}: {timing.error}[/red]", highlight=False)
            row["reasons"].append(timing.error)
            printed.append("-")
            continue
        _, _, ran, reasons = told[timing.name] = timing.values[0]
        row["ms"][timing.name], row["runs on"][timing.name] = timing.median, ran
        row["reasons"] += reasons
        for reason in dict.fromkeys(reasons):
            console.print(f"[yellow]{name}, {timing.name}: {reason}[/yellow]", highlight=False)
        printed.append(f"{timing.median:.4g}" + (f" ({ran})" if ran != timing.name else ""))
    for fast, slow in (("compiled", "torch"), ("compiled", "reference"), ("numpy", "reference")):
        if row["ms"].keys() >= {fast, slow}:
            row["speed"][f"{fast} / {slow}"] = timings[fast].speed(timings[slow])
        printed.append(f"{row['speed'].get(f'{fast} / {slow}', float('nan')):.2f}")
    first = next(iter(told.values()), None)
    others = next(iter(timings.values())).others
    if others is not None and others > 0.05:
        console.print(f"[yellow]{name} disturbed: other programs kept {others:.0%} of the cores busy[/yellow]")
    row["off by"] = {other: difference(found[1], first[1]) for other, found in told.items()} if first else {}
    printed.append(f"{max(row['off by'].values(), default=float('nan')):.1g}")
    return row, printed


def planning(report: Report, names: list[str], arguments: Any) -> None:
    """Seconds of a first call beyond those of a later one, in fresh processes."""
    shown = []
    for name in names:
        case = CASES.get(name) or LARGE[name]
        row: dict[str, Any] = {"table": "planning", "name": name, "seconds": {}}
        with tempfile.TemporaryDirectory() as folder:
            os.environ["MINIGRAD_CACHE"] = folder
            for backend, kind in (("numpy", "numpy"), ("compiled", "compiled, cold"), ("compiled", "compiled, cached")):
                if backend not in arguments.backends:
                    continue
                with workers([Contestant(kind, our_contestant, (case, backend))], arguments.threads) as (worker,):
                    try:
                        worker.answer()
                        seconds = [worker.take(1).seconds for _ in range(3)]
                        row["seconds"][kind] = seconds[0] - min(seconds[1:])
                    except RuntimeError as error:
                        console.print(f"[red]{name}, {kind}: {error}[/red]", highlight=False)
        report.add([row])
        shown.append([name, *(f"{seconds:.2f}" for seconds in row["seconds"].values())])
    del os.environ["MINIGRAD_CACHE"]
    table("planning, s", ["", *row["seconds"]], shown)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--only", nargs="+", default=[*CASES, *LARGE], choices=[*CASES, *LARGE], metavar="NAME")
    options.add_argument("--tables", nargs="+", default=["speed", "planning"], choices=["speed", "planning"])
    options.add_argument("--backends", nargs="+", default=backends(), choices=backends())
    arguments = options.parse_args()
    if arguments.quick:
        arguments.only, arguments.rounds = [name for name in arguments.only if name in CASES][:1], 3
    report = Report(arguments)
    if "speed" in arguments.tables:
        speed(report, [name for name in arguments.only if name in CASES], arguments)
    if "planning" in arguments.tables:
        planning(report, arguments.only, arguments)


if __name__ == "__main__":
    main()
