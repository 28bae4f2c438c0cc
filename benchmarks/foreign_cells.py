"""Cells that PyTorch does not have, against the same cells by hand in PyTorch, eager and under ``torch.compile``.

Written as a practised user would: the gates side by side in one matrix, the inputs' product taken for all steps at once
before the loop. "compile step" compiles the cell's step, "compile loop" the loop unrolled over all T. The seconds of
the first step include the compilation. Training as in ``train_step.py``, from the same parameters.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import peers
from common import Contestant, Problem, Report, available, backends, comparison, matrix_product, our_step, parser, race

CELLS = ("lstm-peephole", "lstm-coupled", "mgu")
MODES = ("eager", "compile step", "compile loop")


def torch_cell(problem: Problem, params: Any, mode: str) -> Any:
    """A layer ``(xs, carry) -> (ys, carry)`` with our parameters."""
    import torch

    (layer,) = peers.packed(problem, params)["layers"]
    has_memory = problem.cell != "mgu"

    def peephole_lstm(W: Any, p: Any, carry: Any, x: Any) -> Any:
        h, c = carry
        i, f, g, o = torch.addmm(x, h, W).chunk(4, 1)
        c = torch.sigmoid(f + p[1] * c) * c + torch.sigmoid(i + p[0] * c) * torch.tanh(g)
        h = torch.sigmoid(o + p[2] * c) * torch.tanh(c)
        return h, c

    def coupled_lstm(W: Any, p: Any, carry: Any, x: Any) -> Any:
        h, c = carry
        f, g, o = torch.addmm(x, h, W).chunk(3, 1)
        c = torch.lerp(torch.tanh(g), c, torch.sigmoid(f))
        h = torch.sigmoid(o) * torch.tanh(c)
        return h, c

    def mgu(W: Any, p: Any, carry: Any, x: Any) -> Any:
        (h,) = carry
        size = h.shape[1]
        f = torch.sigmoid(torch.addmm(x[:, :size], h, W[:, :size]))
        new = torch.tanh(torch.addmm(x[:, size:], f * h, W[:, size:]))
        return (torch.lerp(h, new, f),)

    step = {"lstm-peephole": peephole_lstm, "lstm-coupled": coupled_lstm, "mgu": mgu}[problem.cell]
    if mode == "compile step":
        step = torch.compile(step)

    def loop(W: Any, p: Any, carry: Any, xs: Any) -> Any:
        ys = []
        for x in xs.unbind():
            carry = step(W, p, carry, x)
            ys.append(carry[0])
        return torch.stack(ys), carry

    if mode == "compile loop":
        loop = torch.compile(loop)

    class Layer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.input = torch.nn.Linear(*layer["input"].shape)
            self.input.load_state_dict({"weight": torch.tensor(layer["input"].T), "bias": torch.tensor(layer["bias"])})
            self.recurrent = torch.nn.Parameter(torch.tensor(layer["recurrent"]))
            self.peepholes = torch.nn.Parameter(torch.tensor(layer["peepholes"])) if "peepholes" in layer else None

        def forward(self, xs: Any, carry: Any) -> Any:
            if carry is None:
                zeros = xs.new_zeros(xs.shape[1], problem.hidden)
                carry = (zeros, zeros) if has_memory else (zeros,)
            return loop(self.recurrent, self.peepholes, carry, self.input(xs))

    return Layer()


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--cells", nargs="+", default=CELLS, choices=CELLS)
    options.add_argument("--hidden", nargs="+", type=int, default=[128, 256, 512])
    options.add_argument("--batch", type=int, default=32)
    options.add_argument("--length", type=int, default=64)
    options.add_argument("--backends", nargs="+", default=backends(), choices=backends())
    options.add_argument("--modes", nargs="*", default=MODES, choices=MODES)
    arguments = options.parse_args()
    if arguments.quick:
        arguments.cells, arguments.hidden, arguments.length = arguments.cells[:1], arguments.hidden[:1], 16
        arguments.rounds = 3
    report = Report(arguments)
    modes = arguments.modes if available(["torch"]) else ()
    for cell in arguments.cells:
        for hidden in arguments.hidden:
            problem = Problem(cell, hidden, arguments.batch, arguments.length)
            contestants = [Contestant(f"ours {name}", our_step, (problem, name)) for name in arguments.backends]
            contestants += [Contestant(mode, peers.torch_step, (problem, torch_cell, mode)) for mode in modes]
            contestants.append(Contestant("np.dot", matrix_product))
            timings = race(contestants, arguments.rounds, arguments.threads)
            rows = comparison(str(problem), timings, (*MODES, "ours reference"), problem.flops())
            report.add([asdict(problem) | {"flops": problem.flops()} | row for row in rows])


if __name__ == "__main__":
    main()
