"""Peak memory of training steps by the length T of a sequence, ours against PyTorch's recurrent layers.

Each contestant runs in its own process. "before" is its peak memory before the first step, libraries included; the
difference is what three training steps need.
"""

from __future__ import annotations

from dataclasses import asdict

import peers
from common import Contestant, Problem, Report, available, backends, console, our_step, parser, table, workers

CELLS = ("lstm", "gru", "rnn")
STEPS = 3


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--cells", nargs="+", default=["lstm", "gru"], choices=CELLS)
    options.add_argument("--hidden", type=int, default=256)
    options.add_argument("--batch", type=int, default=32)
    options.add_argument("--lengths", nargs="+", type=int, default=[64, 128, 256, 512, 1024])
    options.add_argument("--backends", nargs="+", default=backends(), choices=backends())
    arguments = options.parse_args()
    if arguments.quick:
        arguments.cells, arguments.hidden, arguments.lengths = arguments.cells[:1], 128, [64, 128]
    report = Report(arguments)
    peer = available(["torch"])
    for cell in arguments.cells:
        shown = []
        for length in arguments.lengths:
            problem = Problem(cell, arguments.hidden, arguments.batch, length)
            contestants = [Contestant(f"ours {name}", our_step, (problem, name)) for name in arguments.backends]
            contestants += [Contestant(name, peers.torch_step, (problem,)) for name in peer]
            for contestant in contestants:
                with workers([contestant], arguments.threads) as (worker,):
                    try:
                        before = worker.answer().peak
                        peak = worker.take(STEPS).peak
                    except RuntimeError as error:
                        console.print(f"[red]{contestant.name}: {error}[/red]", highlight=False)
                        continue
                report.add([asdict(problem) | {"name": contestant.name, "before": before, "peak": peak}])
                shown.append(
                    [contestant.name, length, *(f"{size / 1e6:.0f}" for size in (before, peak, peak - before))]
                )
        title = f"{cell}, H {arguments.hidden}, B {arguments.batch}: MB"
        table(title, ["", "T", "before", "peak", "difference"], sorted(shown))


if __name__ == "__main__":
    main()
