"""Rounding errors of float32: loss and gradient of our time loops and of PyTorch's layers, on the same numbers.

They are compared with our reference loop in float64. Errors of gradients are relative: the norm of the difference over
the norm of the reference, for all parameters together and for the worst parameter.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import peers
from common import Problem, Report, available, backends, parser, table

from minigrad import trees, value_and_grad
from minigrad.scan import use_backend

CELLS = ("lstm", "gru", "rnn", "irnn", "lstm-peephole", "lstm-coupled", "mgu")
Result = tuple[float, dict[str, Any]]


def ours(problem: Problem, params: Any, dtype: str, backend: str) -> Result:
    """The loss and the gradients, by the paths of ``peers.packed``."""
    trained = problem.ours(dtype)
    gradient = value_and_grad(trained.loss, has_aux=True)
    with use_backend(backend):
        (loss, _), gradients = gradient(
            trees.cast(params, dtype), trained.init_carry(), trained.batch(0), np.random.default_rng(0)
        )
    return float(loss), trees.flatten(peers.packed(problem, gradients))


def theirs(problem: Problem, params: Any) -> Result:
    """The same from PyTorch, converted to our names and layout."""
    import torch

    model = peers.torch_model(peers.torch_layer(problem, params), params)
    loss, _ = model(*map(torch.from_numpy, problem.ours().batch(0)[:2]), None)
    loss.backward()
    found = {name: parameter.grad.numpy() for name, parameter in model.named_parameters()}
    gradients = {"embedding": found["embedding.weight"], "head.W": found["head.weight"].T, "head.b": found["head.bias"]}
    sign = np.ones(len(found["recurrent.bias_ih_l0"]), np.float32)
    h = problem.hidden
    if problem.cell == "gru":
        sign[h : 2 * h] = -1
        gradients["layers.0.hidden_bias"] = found["recurrent.bias_hh_l0"][2 * h :]
    gradients["layers.0.input"] = found["recurrent.weight_ih_l0"].T * sign
    gradients["layers.0.recurrent"] = found["recurrent.weight_hh_l0"].T * sign
    gradients["layers.0.bias"] = found["recurrent.bias_ih_l0"] * sign
    return float(loss.item()), gradients


def errors(standard: Result, result: Result) -> dict[str, Any]:
    """Of the loss, of all gradients together, and of the worst, with its name."""
    off = {path: np.linalg.norm(result[1][path] - exact) for path, exact in standard[1].items()}
    norms = {path: np.linalg.norm(exact) for path, exact in standard[1].items()}
    worst = max(off, key=lambda path: off[path] / norms[path])
    return {
        "loss": abs(result[0] - standard[0]) / standard[0],
        "gradient": float(np.linalg.norm([*off.values()]) / np.linalg.norm([*norms.values()])),
        "worst": float(off[worst] / norms[worst]),
        "where": worst,
    }


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--cells", nargs="+", default=CELLS, choices=CELLS)
    options.add_argument("--hidden", nargs="+", type=int, default=[128, 512])
    options.add_argument("--batch", type=int, default=32)
    options.add_argument("--length", type=int, default=64)
    options.add_argument("--backends", nargs="+", default=backends(), choices=backends())
    arguments = options.parse_args()
    if arguments.quick:
        arguments.hidden, arguments.length = [64], 16
    report = Report(arguments)
    has_torch = bool(available(["torch"]))
    for hidden in arguments.hidden:
        shown = []
        for cell in arguments.cells:
            problem = Problem(cell, hidden, arguments.batch, arguments.length)
            params = problem.params()
            standard = ours(problem, params, "float64", "reference")
            results = {f"ours {name}": ours(problem, params, "float32", name) for name in arguments.backends}
            if has_torch and cell in peers.TORCH_LAYERS:
                results["torch"] = theirs(problem, params)
            for name, result in results.items():
                found = errors(standard, result)
                report.add([asdict(problem) | {"name": name} | found])
                figures = [f"{found[key]:.1e}" for key in ("loss", "gradient", "worst")]
                shown.append([f"{cell}, {name}", *figures, found["where"]])
        title = f"H {hidden}, B {arguments.batch}, T {arguments.length}: float32 against float64, relative errors"
        table(title, ["", "loss", "gradient", "worst parameter", "which"], shown)


if __name__ == "__main__":
    main()
