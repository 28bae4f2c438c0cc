"""A training step of classify and of translate, on sequences of many lengths, against PyTorch.

Batches of random words whose lengths are those of film reviews and of short sentences, examples of like length
together. The same model everywhere, from the same parameters, on the same batches: for classify an embedding, a cell in
one direction or two, its last outputs, a linear head; for translate an encoder in two directions and a decoder with
attention as in Luong et al. 2015, which reads what its head read. Padding is masked. Cross-entropy, gradients
clipped to norm 5, Adam, float32. PyTorch's side is in ``sequences_torch.py``. A turn goes through the same batches,
from the examples to the update. The mean losses of the third turn show that all compute the same.
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

BATCHES = 16
"""Batches of a turn."""


@dataclass(frozen=True)
class Case:
    """A task with its options, a network and a batch size."""

    task: str
    cell: str
    hidden: int
    embedding: int
    batch: int
    directions: int

    def __str__(self) -> str:
        arrows = "two directions" if self.directions == 2 else "one direction"
        return f"{self.task}, {self.cell} in {arrows}, H {self.hidden}, E {self.embedding}, B {self.batch}"

    def ours(self) -> Problem:
        """It as our trainer takes it, on random words."""
        texts, options = TASKS[self.task]
        task = make_task(self.task, {"valid_fraction": 0.0, "directions": self.directions, **options})
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "texts.tsv"
            file.write_text("\n".join(map("\t".join, texts(np.random.default_rng(0)))))
            data = task.read([str(file)])
        options = OPTIONS.get(self.cell, {})
        network = Network(lambda width: make_cell(self.cell, width, self.hidden, options), self.hidden, self.embedding)
        return Problem(task, task.model(data.facts, network), data, self.batch)


def words(rng: np.random.Generator, lengths: Any) -> list[str]:
    """A text of each length, of 20,000 words that are as frequent as in a language (Zipf)."""
    share = 1 / np.arange(3, 20_003)
    drawn = rng.choice(len(share), int(np.sum(lengths)), p=share / share.sum())
    parts = np.split(drawn, np.cumsum(lengths)[:-1])
    return [" ".join(f"w{i}" for i in part) for part in parts]


def reviews(rng: np.random.Generator) -> list[tuple[str, ...]]:
    """As many texts as there are film reviews to train on, with their lengths and two classes."""
    lengths = np.clip(np.rint(rng.normal(21, 9.4, 8558)), 1, 59).astype(int)
    return [("text", "label"), *zip(words(rng, lengths), cycle(["pos", "neg"]), strict=False)]


def sentences(rng: np.random.Generator) -> list[tuple[str, ...]]:
    """20,000 pairs with the lengths of short sentences in English and French."""
    lengths = np.clip(np.rint(rng.normal((7, 7.8), (1.9, 2.2), (20_000, 2))), 1, 19).astype(int)
    return list(zip(*(words(rng, side) for side in lengths.T), strict=True))


TASKS: dict[str, tuple[Callable[[np.random.Generator], list[tuple[str, ...]]], dict[str, Any]]] = {
    "classify": (reviews, {"max_words": 10_000}),
    "translate": (sentences, {"max_words": 8_000, "attention": "luong"}),
}
"""The texts and the options of each task."""


def our_turn(case: Case, backend: str = "") -> Callable[[], float]:
    """A turn a call, giving its mean loss, on the backend of that name or the one that is set."""
    return our_turns(case.ours, BATCHES, backend)


def torch_turn(case: Case) -> Callable[[], float]:
    """The same in PyTorch."""
    import sequences_torch

    ours = case.ours()
    params = ours.init_params(np.random.default_rng(0))
    step = sequences_torch.training_step(case, params, LEARNING_RATE, CLIP_NORM)
    batches = cycle([sequences_torch.examples(case.task, ours.batch(i)) for i in range(BATCHES)])
    return lambda: float(np.mean([step(*next(batches)) for _ in range(BATCHES)]))


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    options.add_argument("--cells", nargs="+", default=["lstm", "gru"], choices=["lstm", "gru"])
    options.add_argument("--backends", nargs="+", default=backends()[1:], choices=backends())
    arguments = options.parse_args()
    report = Report(arguments)
    cases = [Case("classify", cell, 128, 128, 32, directions) for cell in arguments.cells for directions in (1, 2)]
    cases += [Case("translate", cell, 256, 256, 64, 2) for cell in arguments.cells]
    cases = [case for case in cases if case.task in arguments.tasks]
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
