"""An epoch of batches that all have another size (T, B), against an epoch of equal batches: code, memory, time.

A step is a loss and its gradients, without an update. An epoch of equal batches has as many steps, and as many rows
(sequences times steps) in each as the others have on average. "code" is the number of compiled files after the first
batch, which is the largest, and after the first epoch; "MB" likewise, the peak of memory less what the process had
before. In the first epoch every size is new; the later ones take turns with the equal batches.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Callable
from itertools import cycle
from pathlib import Path

import numpy as np
from common import Contestant, Report, backends, enter_backend, parser, table, workers

from minigrad import trees, value_and_grad
from rnn_plugins.registry import make_cell

LENGTHS, BATCHES = (10, 90), (8, 32)
"""The shortest and the longest T, the smallest and the largest B."""


def many_sizes(number: int) -> list[tuple[int, int]]:
    """That many different pairs (T, B), the largest first."""
    every = [
        (length, batch) for length in range(LENGTHS[0], LENGTHS[1] + 1) for batch in range(BATCHES[0], BATCHES[1] + 1)
    ]
    chosen = np.random.default_rng(0).permutation(len(every) - 1)[: number - 1]
    return [every[-1], *(every[i] for i in chosen)]


def steps(name: str, hidden: int, backend: str, sizes: list[tuple[int, int]]) -> Callable[[], float]:
    """A step a call, on the sizes in turn."""
    enter_backend(backend)
    rng = np.random.default_rng(0)
    cell = make_cell(name, hidden, hidden, {})
    params, carry = cell.init_params(rng), cell.init_carry(max(batch for _, batch in sizes))
    inputs, weights = rng.standard_normal((2, LENGTHS[1], BATCHES[1], hidden), np.float32)
    turns = cycle(sizes)

    def step() -> float:
        length, batch = next(turns)
        start = trees.map(lambda leaf: leaf[:batch], carry)

        def loss(params):
            _, ys = cell.unroll(params, start, np.ascontiguousarray(inputs[:length, :batch]))
            return np.sum(ys * weights[:length, :batch])

        return float(value_and_grad(loss)(params)[0])

    return step


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--cells", nargs="+", default=["lstm", "gru"])
    options.add_argument("--hidden", type=int, default=128)
    options.add_argument("--sizes", type=int, default=500, help="batches of an epoch [500]")
    options.add_argument("--backends", nargs="+", default=backends()[1:], choices=backends())
    arguments = options.parse_args()
    if arguments.quick:
        arguments.cells, arguments.sizes, arguments.rounds = arguments.cells[:1], 50, 3
    report = Report(arguments)
    sizes = many_sizes(arguments.sizes)
    rows = statistics.mean(length * batch for length, batch in sizes)
    equal = [(round(rows / BATCHES[1]), BATCHES[1])]
    for cell in arguments.cells:
        shown = []
        for backend in arguments.backends:
            with tempfile.TemporaryDirectory() as folder:
                os.environ["MINIGRAD_CACHE"] = folder
                contestants = [
                    Contestant(name, steps, (cell, arguments.hidden, backend, each))
                    for name, each in (("many", sizes), ("equal", equal))
                ]
                with workers(contestants[:1], arguments.threads) as (many,):
                    before, code, peak = many.answer().peak, [], []
                    first = many.take(1)
                    code.append(len(list(Path(folder).glob("*.o"))))
                    epoch = many.take(len(sizes) - 1)
                    code.append(len(list(Path(folder).glob("*.o"))))
                    peak = [first.peak - before, epoch.peak - before]
                    with workers(contestants[1:], arguments.threads) as (alike,):
                        alike.answer()
                        alike.take(3)
                        turns = [(many.take(len(sizes)), alike.take(len(sizes))) for _ in range(arguments.rounds)]
            per_step = 1e3 / len(sizes)
            later, uniform = (
                per_step * statistics.median(turn.seconds for turn in one) for one in zip(*turns, strict=True)
            )
            ratio = statistics.median(one.seconds / other.seconds for one, other in turns)
            new = 1e3 * epoch.seconds / (len(sizes) - 1)
            row = {"cell": cell, "backend": backend, "code": code, "peak": peak, "first epoch": new}
            report.add([row | {"later epochs": later, "equal batches": uniform, "ratio": ratio}])
            printed = [*code, *(f"{size / 1e6:.0f}" for size in peak), *(f"{ms:.2f}" for ms in (new, later, uniform))]
            shown.append([backend, *printed, f"{ratio:.2f}"])
        columns = [
            "code, first batch",
            "an epoch",
            "MB, first batch",
            "an epoch",
            "first epoch, ms",
            "later epochs",
            "equal batches",
            "ratio",
        ]
        table(f"{cell}, H {arguments.hidden}, {arguments.sizes} sizes: ms per step", ["", *columns], shown)


if __name__ == "__main__":
    main()
