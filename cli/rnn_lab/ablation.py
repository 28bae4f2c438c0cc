"""``--ablate``: from names of activations and what takes their place to cells without them. It trains nothing."""

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
    """A sentence on what is ablated, where something is."""
    changes = [
        f"{name} is left out" if value == "identity" else f"{name} is {value} throughout"
        for name, value in settings.ablate.items()
    ]
    return [f"the cell is ablated: {', '.join(changes)}"] if changes else []


def ablated(layers: Sequence[Cell], settings: Settings) -> list[Cell]:
    """The layers with what ``settings.ablate`` puts in place of their activations.

    Raises:
        UserError: they have no such activations, or cannot be ablated.
    """
    parts = [anatomy(layer) for layer in layers]
    reason = parts[0].reason and f"its step cannot be written as a graph: {parts[0].reason}"
    if type(layers[0]).unroll is not Cell.unroll:
        reason = "it runs along a sequence in a way of its own"
    if reason:
        raise UserError(f"the cell {settings.cell!r} cannot be ablated, for {reason}")
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
                    f"--ablate is {label}={value}; {name} is a part of what one {activation.function} computes, which "
                    "cannot be left out in part: put a number in its place"
                )
            fixed[i][activation.op] = number
    return [Ablated(layer, tuple(ops.items())) if ops else layer for layer, ops in zip(layers, fixed, strict=True)]


def _number(label: str, value: Any) -> float | None:
    """What is put in place of an activation; None where it is left out."""
    if value == "identity":
        return None
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"--ablate is {label}={value}; write a number, or identity to leave the activation out")
    return number
