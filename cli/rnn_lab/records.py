"""What a run records besides its losses: its units and the flow of its gradient, as JSON; null if not finite."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rnn_plugins.reports.gradients import REACHED, crossing, fate_of, measure_flow, most_lags
from rnn_plugins.reports.parameters import six_digits
from rnn_plugins.reports.probe import Probe
from rnn_plugins.reports.saturation import habits

WARM_UP, POSITIONS = 50, 400
"""Steps before the units are measured, and steps for which they are."""

FLOW_LAGS, FLOW_POSITIONS = 50, 100
"""Largest lag and number of positions of the flow that is measured during training."""


def units(probe: Probe) -> dict[str, dict[str, float]]:
    """The fractions of saturated units and of units that never change, per activation."""
    return {
        habit.activation.label: {
            "saturated": round(float(habit.saturated.mean()), 4),
            "dead": round(float(habit.still.mean()), 4),
        }
        for habit in habits(probe, WARM_UP, POSITIONS)
    }


def flow(probe: Probe, seed: int) -> dict[str, Any] | None:
    """How far back the gradient reaches; see ``rnn_plugins.reports.gradients``.

    Args:
        probe: the network on its training data.
        seed: for choosing the positions; constant during a run, so that only the network changes.

    Returns:
        ``lags``, ``norms`` for each state whose gradient exceeds rounding noise, ``above``, the layers above it, and
        ``half_life`` and ``one_percent_lag`` of the last layer's output; None if the sequences are too short for any
        lag, or the cell carries no state.
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
        "above": {found.states[place].label: found.above(place) for place in found.real},
        "half_life": _rounded(crossing(main, 0.5)),
        "one_percent_lag": _rounded(crossing(main, REACHED)),
    }


def reaches(flow: Mapping[str, Any]) -> dict[str, str]:
    """Each state's curve of a record of the flow in a few words; lags are in steps."""
    above = flow.get("above", {})  # records of older versions have none
    return {state: _reach(norms, above.get(state, 0)) for state, norms in flow["norms"].items()}


def _reach(norms: Sequence[float | None], above: int) -> str:
    known = [math.inf if norm is None else norm for norm in norms]
    fate, lags = fate_of(known, above), len(known) - 1
    start = next((norm for norm in known if norm > 0), 1.0)
    if fate == "nothing":
        return "no gradient"
    if fate == "explodes":
        size = f"{known[-1] / start:.1e} times" if known[-1] < math.inf else "not finite"
        return f"explodes: {size} after {lags}"
    if fate != "vanishes":
        left = known[-1] / start
        return f"{fate}: {f'{left:.3g} times' if left > 1 else f'{100 * left:.1f} %'} after {lags}"
    gone = crossing(known, REACHED) or 0.0
    return f"vanishes: half-life {crossing(known, 0.5) or gone:.2g}, 1 % after {gone:.2g}"


def _rounded(lag: float | None) -> float | None:
    return None if lag is None else round(lag, 2)
