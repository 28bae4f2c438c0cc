"""What a run notes of itself beside its losses: norms by parameter, its units, and the flow of its gradient.

It trains nothing and writes nothing; all of it is as JSON takes it, with None for what is no finite number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from minigrad import trees
from minigrad.optimizers import global_norm
from minigrad.training import Details
from minigrad.trees import Tree
from rnn_cells.anatomy import anatomy
from rnn_plugins.reports.flow import REACHED, crossing, fate_of, measure_flow
from rnn_plugins.reports.saturation import habits
from rnn_plugins.tasks.language_model import LanguageModel
from rnn_plugins.tasks.task import Task

WARM_UP, POSITIONS = 50, 400
"""Symbols that are read before the units are watched, and steps for which they are."""

FLOW_LAGS, FLOW_POSITIONS = 50, 100
"""How far back the flow is measured while training, and at how many places: enough for a curve."""


def norms(details: Details) -> dict[str, dict[str, float | None]]:
    """The Euclidean norms of each parameter's gradient (before clipping), of its values, and of their update."""
    with np.errstate(all="ignore"):  # what has become infinite is said as None
        updates = trees.map(np.subtract, details.after, details.before)
        return {
            "gradient_norms": _norms(details.gradients),
            "weight_norms": _norms(details.before),
            "update_norms": _norms(updates),
        }


def units(task: Task, params: Tree) -> dict[str, dict[str, float]]:
    """For each activation the fraction of units that are saturated, and of those that never move, on training text."""
    if not isinstance(task, LanguageModel):
        return {}
    return {
        habit.activation.label: {
            "saturated": round(float(habit.saturated.mean()), 4),
            "dead": round(float(habit.still.mean()), 4),
        }
        for habit in habits(task.model, params, task.train_tokens, WARM_UP, POSITIONS)
    }


def flow(task: Task, params: Tree, seed: int) -> dict[str, Any] | None:
    """How far back the gradient reaches, on training text: see ``rnn_plugins.reports.flow``.

    Args:
        task: what is trained.
        params: its parameters.
        seed: of the places that are looked at; the same at every look, so that what changes is the network.

    Returns:
        ``lags``, ``norms`` for each state whose gradient is more than rounding noise, and ``half_life`` and
        ``one_percent_lag`` of the last layer's output; None where the text is too short for any lag, or the cell
        carries no state.
    """
    if not isinstance(task, LanguageModel):
        return None
    lags = min(FLOW_LAGS, (len(task.train_tokens) - 2) // 2)
    if lags < 1 or not anatomy(task.model.cell).states:
        return None
    found = measure_flow(task.model, params, task.train_tokens, lags, FLOW_POSITIONS, seed)
    main = found.mean[found.main].tolist()
    return {
        "lags": list(range(lags + 1)),
        "norms": {
            found.states[place].label: [_figure(norm) for norm in found.mean[place].tolist()] for place in found.real
        },
        "half_life": _rounded(crossing(main, 0.5)),
        "one_percent_lag": _rounded(crossing(main, REACHED)),
    }


def reach(norms: Sequence[float | None]) -> str:
    """What a curve of the flow says, in a few words; lags are in steps.

    Args:
        norms: for each lag from 0 on, as ``flow`` gives them.
    """
    known = [math.inf if norm is None else norm for norm in norms]
    fate, lags = fate_of(known), len(known) - 1
    start = next((norm for norm in known if norm > 0), 1.0)
    if fate == "nothing":
        return "no gradient"
    if fate == "explodes":
        size = f"{known[-1] / start:.1e} times" if known[-1] < math.inf else "beyond all numbers"
        return f"explodes: {size} after {lags}"
    if fate != "vanishes":
        return f"{fate}: {known[-1] / start:.1%} after {lags}"
    gone = crossing(known, REACHED) or 0.0
    return f"vanishes: half-life {crossing(known, 0.5) or gone:.2g}, 1 % after {gone:.2g}"


def _norms(tree: Tree) -> dict[str, float | None]:
    return {path: _figure(global_norm(leaf)) for path, leaf in trees.flatten(tree).items()}


def _figure(number: float) -> float | None:
    """Six digits, which keeps the records short."""
    return float(f"{number:.6g}") if math.isfinite(number) else None


def _rounded(lag: float | None) -> float | None:
    return None if lag is None else round(lag, 2)
