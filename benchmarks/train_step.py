"""A training step of our time loops against the recurrent layers of PyTorch, and JAX, HIPS autograd and MyGrad by hand.

The same model everywhere, from the same parameters, on the same batches: embedding, recurrent layers, linear head, mean
cross-entropy, gradients clipped to norm 5, Adam, float32, the carry passed on. Contestants take turns, each in a
process of its own. "loss 3, off by" compares the third loss with that of the first row.
"""

from __future__ import annotations

from dataclasses import asdict

import peers
from common import Contestant, Problem, Report, available, backends, comparison, matrix_product, our_step, parser, race

CELLS = ("lstm", "gru", "rnn", "irnn")
PEERS = {
    "torch": peers.torch_step,
    "jax": peers.jax_step,
    "autograd": peers.autograd_step,
    "mygrad": peers.mygrad_step,
}
SLOW = ("autograd", "mygrad")
"""These race at H 128 and one layer only."""


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--cells", nargs="+", default=CELLS, choices=CELLS)
    options.add_argument("--hidden", nargs="+", type=int, default=[128, 256, 512])
    options.add_argument("--sizes", nargs="+", default=["32x64", "50x50", "64x64"], metavar="BxT")
    options.add_argument("--layers", nargs="+", type=int, default=[1])
    options.add_argument("--embedding", type=int, default=64)
    options.add_argument("--backends", nargs="+", default=backends(), choices=backends())
    options.add_argument("--peers", nargs="*", default=list(PEERS), choices=list(PEERS))
    arguments = options.parse_args()
    if arguments.quick:
        arguments.hidden, arguments.sizes, arguments.rounds = arguments.hidden[:1], arguments.sizes[:1], 3
    report = Report(arguments)
    found = available(arguments.peers)
    sizes = [tuple(map(int, size.split("x"))) for size in arguments.sizes]
    problems = [
        Problem(cell, hidden, batch, length, layers, arguments.embedding)
        for layers in arguments.layers
        for cell in arguments.cells
        for hidden in arguments.hidden
        for batch, length in sizes
    ]
    for problem in problems:
        small = problem.hidden <= 128 and problem.layers == 1
        contestants = [Contestant(f"ours {name}", our_step, (problem, name)) for name in arguments.backends]
        contestants += [Contestant(name, PEERS[name], (problem,)) for name in found if small or name not in SLOW]
        contestants.append(Contestant("np.dot", matrix_product))
        timings = race(contestants, arguments.rounds, arguments.threads)
        rows = comparison(str(problem), timings, ("torch", "jax", "ours reference"), problem.flops())
        report.add([asdict(problem) | {"flops": problem.flops()} | row for row in rows])


if __name__ == "__main__":
    main()
