"""``--ablate``: cells whose activations are replaced by numbers or left out."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from rnn_cells import Cell
from rnn_cells.ablated import Ablated
from rnn_cells.anatomy import anatomy
from rnn_lab.settings import Settings
from rnn_plugins.errors import UserError, did_you_mean


def ablations(settings: Settings) -> list[str]:
    """A sentence that says what is ablated, if anything is."""
    changes = [
        f"{name} is left out" if value == "identity" else f"{name} is {value} throughout"
        for name, value in settings.ablate.items()
    ]
    return [f"the cell is ablated: {', '.join(changes)}"] if changes else []


def ablated(layers: Sequence[Cell], settings: Settings) -> list[Cell]:
    """The layers with their activations replaced as ``settings.ablate`` says.

    Raises:
        UserError: they have no such activation, or cannot be ablated.
    """
    parts = [anatomy(layer) for layer in layers]
    reason = parts[0].reason and f"its step cannot be written as a graph: {parts[0].reason}"
    if layers[0].unrolls_itself:
        reason = "it has its own method for running along a sequence"
    if reason:
        raise UserError(f"the cell {settings.cell!r} cannot be ablated, because {reason}")
    names = [activation.name for activation in parts[0].activations]
    fixed: list[dict[int, float | None]] = [{} for _ in layers]
    for label, value in settings.ablate.items():
        chosen, name, of_layer = range(len(layers)), label, re.fullmatch(r"layer(\d+)\.(.+)", label)
        if of_layer and label not in names:
            layer, name = int(of_layer[1]), of_layer[2]
            if not 1 <= layer <= len(layers):
                count = f"{len(layers)} layer{'s' if len(layers) > 1 else ''}"
                raise UserError(f"--ablate is {label}={value}; the network has {count}, counted from 1")
            chosen = range(layer - 1, layer)
        if name not in names:
            raise UserError(
                f"the cell {settings.cell!r} has no activation called {name!r}.{did_you_mean(name, names)} "
                f"Its activations: {', '.join(names) or 'none'}"
            )
        number = _number(label, value)
        for i in chosen:
            activation = parts[i].activations[names.index(name)]
            if number is None and not activation.whole:
                raise UserError(
                    f"--ablate is {label}={value}; {name} is only a part of the result of one {activation.function}, "
                    "so it cannot be left out: replace it by a number"
                )
            fixed[i][activation.op] = number
    return [Ablated(layer, tuple(ops.items())) if ops else layer for layer, ops in zip(layers, fixed, strict=True)]


def _number(label: str, value: Any) -> float | None:
    """The number that replaces an activation; None if it is left out."""
    if value == "identity":
        return None
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"--ablate is {label}={value}; write a number, or identity to leave the activation out")
    return number
