"""Microseconds per character at batch 1: our sampling against a loop over PyTorch's cells, drawing from the softmax.

Each contestant carries its state from one character to the next and returns every character as a Python number.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict

import numpy as np
import peers
from common import VOCABULARY, Contestant, Problem, Report, available, backends, comparison, enter_backend, parser, race

from rnn_plugins.language.sampling import Choice, sample

CELLS = ("lstm", "gru", "rnn")


def our_character(problem: Problem, backend: str) -> Callable[[], int]:
    """The next character a call."""
    enter_backend(backend)
    return sample(problem.model(), problem.params(), [0], Choice(), np.random.default_rng(0)).__next__


def torch_character(problem: Problem) -> Callable[[], int]:
    """``nn.LSTMCell`` and its like, without gradients, with our parameters."""
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    params = problem.params()
    cls = getattr(torch.nn, peers.TORCH_LAYERS[problem.cell] + "Cell")
    cell = cls(problem.embedding, problem.hidden)
    state = peers.torch_state(problem, params)
    cell.load_state_dict({name.removesuffix("_l0"): torch.tensor(value) for name, value in state.items()})
    head = torch.nn.Linear(problem.hidden, VOCABULARY)
    head.load_state_dict({name: torch.tensor(params["head"][key].T) for name, key in (("weight", "W"), ("bias", "b"))})
    embedding = torch.tensor(params["embedding"])
    symbol, carry = 0, None

    @torch.inference_mode()
    def step() -> int:
        nonlocal symbol, carry
        carry = cell(embedding[symbol : symbol + 1], carry)
        h = carry[0] if problem.cell == "lstm" else carry
        symbol = int(torch.multinomial(torch.softmax(head(h), 1), 1))
        return symbol

    return step


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--cells", nargs="+", default=CELLS, choices=CELLS)
    options.add_argument("--hidden", nargs="+", type=int, default=[128, 256, 512])
    options.add_argument("--backends", nargs="+", default=backends(), choices=backends())
    arguments = options.parse_args()
    if arguments.quick:
        arguments.hidden, arguments.rounds = arguments.hidden[:1], 3
    report = Report(arguments)
    peer = available(["torch"])
    for cell in arguments.cells:
        for hidden in arguments.hidden:
            problem = Problem(cell, hidden, 1, 1)
            contestants = [Contestant(f"ours {name}", our_character, (problem, name)) for name in arguments.backends]
            contestants += [Contestant(name, torch_character, (problem,)) for name in peer]
            timings = race(contestants, arguments.rounds, arguments.threads)
            rows = comparison(f"{cell}, H {hidden}, per character", timings, ("torch", "ours reference"), unit="µs")
            report.add([asdict(problem) | row for row in rows])


if __name__ == "__main__":
    main()
