"""A training step of paint (DRAW) and of read (the recurrent attention model) against PyTorch.

Random images of 28x28 pixels, as those of MNIST. The same model everywhere, from the same parameters, on the same
batches with the same noise: paint with 10 steps and codes of 100 numbers, with windows of 5x5 points and without
attention; read with seven glimpses of 8x8 points, whose places are sampled and trained with REINFORCE and a baseline.
Gradients clipped to norm 5, Adam, float32. PyTorch's side is in ``glimpses_torch.py``. A turn goes through the same
batches, from the examples to the update. The mean losses of the third turn show that all compute the same; those of
read agree less, since a rounding can decide which of two almost equal scores is the larger, and with it a reward.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from common import (
    CLIP_NORM,
    LEARNING_RATE,
    OPTIONS,
    Contestant,
    Report,
    available,
    backends,
    comparison,
    console,
    our_turns,
    parser,
    per_step,
    race,
)

from rnn_lab.problem import Problem
from rnn_plugins.registry import make_cell, make_task
from rnn_plugins.tasks.task import Network

BATCHES = 8
"""Batches of a turn."""

SIDE = 28
"""Height and width of an image, in pixels."""

OF_TASK: dict[str, dict[str, Any]] = {
    "paint": {"steps": 10, "latent": 100, "read_size": 5, "write_size": 5, "binarised": "anew"},
    "read": {"glimpses": 7, "size": 8, "scales": 1, "layers": 1, "attention": "hard"},
}
"""The options of each task."""


@dataclass(frozen=True)
class Case:
    """A task, for paint with attention or without, a network and a batch size."""

    task: str
    attention: bool
    cell: str
    hidden: int
    batch: int

    def __str__(self) -> str:
        without = "" if self.attention else " without attention"
        return f"{self.task}{without}, {self.cell}, H {self.hidden}, B {self.batch}"

    def ours(self) -> Problem:
        """It as our trainer takes it, on random images."""
        options = OF_TASK[self.task] | ({"attention": self.attention} if self.task == "paint" else {})
        task = make_task(self.task, {"valid_fraction": 0.0, **options})
        rng = np.random.default_rng(0)
        count = BATCHES * self.batch
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "images.npz"
            images = rng.integers(256, size=(count, SIDE, SIDE), dtype=np.uint8)
            np.savez(file, images=images, labels=np.arange(count) % 10)
            data = task.read([str(file)])
        options = OPTIONS.get(self.cell, {})
        network = Network(lambda width: make_cell(self.cell, width, self.hidden, options), self.hidden)
        return Problem(task, task.model(data.facts, task.resolve(data.facts, network)), data, self.batch)


def our_turn(case: Case, backend: str = "") -> Callable[[], float]:
    """A turn a call, giving its mean loss, on the backend of that name or the one that is set."""
    return our_turns(case.ours, BATCHES, backend)


def torch_turn(case: Case) -> Callable[[], float]:
    """The same in PyTorch."""
    import glimpses_torch

    ours = case.ours()
    params = ours.init_params(np.random.default_rng(0))
    step = glimpses_torch.training_step(case, ours.model, params, LEARNING_RATE, CLIP_NORM)
    batches = cycle([glimpses_torch.examples(case.task, ours.batch(i)) for i in range(BATCHES)])
    return lambda: float(np.mean([step(*next(batches)) for _ in range(BATCHES)]))


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--tasks", nargs="+", default=list(OF_TASK), choices=list(OF_TASK))
    options.add_argument("--cells", nargs="+", default=["lstm", "gru"], choices=["lstm", "gru"])
    options.add_argument("--backends", nargs="+", default=backends()[1:], choices=backends())
    arguments = options.parse_args()
    report = Report(arguments)
    kinds = [("paint", True), ("paint", False), ("read", True)]
    cases = [Case(*kind, cell, 256, 100) for kind in kinds for cell in arguments.cells if kind[0] in arguments.tasks]
    if arguments.quick:
        cases, arguments.rounds = cases[:1], 3
    for case in cases:
        contestants = [Contestant(f"ours {name}", our_turn, (case, name)) for name in arguments.backends]
        contestants += [Contestant(name, torch_turn, (case,)) for name in available(["torch"])]
        timings = [per_step(timing, BATCHES) for timing in race(contestants, arguments.rounds, arguments.threads)]
        values = {timing.name: timing.values[-1] for timing in timings if not timing.error}
        rows = comparison(str(case), timings, ("torch",))
        first = next(iter(values.values()), 0.0)
        console.print("loss 3 of a turn: " + ", ".join(f"{name} {value:.6f}" for name, value in values.items()))
        report.add([asdict(case) | {"difference": abs(values.get(row["name"], first) - first)} | row for row in rows])


if __name__ == "__main__":
    main()
