"""What a run notes of itself beside its losses: norms by parameter, its units, and the flow of its gradient.

All of it is as JSON takes it, with None for what is no finite number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rnn_plugins.reports.flow import REACHED, crossing, fate_of, measure_flow, most_lags
from rnn_plugins.reports.parameters import six_digits
from rnn_plugins.reports.probe import Probe
from rnn_plugins.reports.saturation import habits

WARM_UP, POSITIONS = 50, 400
"""Steps that are read before the units are watched, and steps for which they are."""

FLOW_LAGS, FLOW_POSITIONS = 50, 100
"""How far back the flow is measured while training, and at how many positions: enough for a curve."""


def units(probe: Probe) -> dict[str, dict[str, float]]:
    """For each activation the fraction of units that are saturated, and of those that never move."""
    return {
        habit.activation.label: {
            "saturated": round(float(habit.saturated.mean()), 4),
            "dead": round(float(habit.still.mean()), 4),
        }
        for habit in habits(probe, WARM_UP, POSITIONS)
    }


def flow(probe: Probe, seed: int) -> dict[str, Any] | None:
    """How far back the gradient reaches: see ``rnn_plugins.reports.flow``.

    Args:
        probe: the network on what it learns from.
        seed: of the positions; always the same, so that what changes is the network.

    Returns:
        ``lags``, ``norms`` for each state whose gradient is more than rounding noise, and ``half_life`` and
        ``one_percent_lag`` of the last layer's output; None where the sequences are too short for any lag, or the cell
        carries no state.
    """
    lags = min(FLOW_LAGS, most_lags(probe))
    if lags < 1 or not probe.anatomy.states:
        return None
    found = measure_flow(probe, lags, FLOW_POSITIONS, seed)
    main = found.mean[found.main].tolist()
    return {
        "lags": list(range(lags + 1)),
        "norms": {
            found.states[place].label: [six_digits(norm) for norm in found.mean[place].tolist()] for place in found.real
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


def _rounded(lag: float | None) -> float | None:
    return None if lag is None else round(lag, 2)
