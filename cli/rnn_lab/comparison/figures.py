"""The charts, the table and the quantities of a comparison."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from minigrad.graph import TraceError
from rnn_lab.comparison.trials import SAMPLED, Contestant, metric_of
from rnn_lab.runs import Run
from rnn_plugins.errors import UserError
from rnn_plugins.inspect.operations import operations
from rnn_plugins.reports.report import Chart, Curve, Quantity, Table
from rnn_plugins.tasks.task import Metric

Array: TypeAlias = NDArray[Any]


def over_seeds(curves: Sequence[Array]) -> tuple[Array, Array, Array, Array, Array]:
    """The mean and range of several curves, at every point of any of them, within the range common to all.

    Curves are interpolated linearly. Time is averaged like the metric: it is the mean time until so many units had been
    seen.

    Args:
        curves: as ``Trial.curve``.

    Returns:
        Units seen, mean seconds, mean, lowest and highest value, (M,) each; empty if the curves have no common range.
    """
    if not all(curve.size for curve in curves):
        return (np.zeros(0),) * 5
    start, end = max(curve[0, 0] for curve in curves), min(curve[0, -1] for curve in curves)
    seen = np.unique(np.concatenate([curve[0] for curve in curves]))
    seen = seen[(seen >= start) & (seen <= end)]
    seconds, values = (np.stack([np.interp(seen, curve[0], curve[row]) for curve in curves]) for row in (1, 2))
    return seen, seconds.mean(axis=0), values.mean(axis=0), values.min(axis=0), values.max(axis=0)


def charts(contestants: Sequence[Contestant]) -> tuple[Chart, Chart]:
    """The metric, and in training the loss, against what was seen and against time."""
    name, about = metric_of(contestants)
    # Where nothing is held out, the only metric is the training loss, which may be another one than the first has.
    shown = {place: one for place, one in enumerate(contestants) if one.trials[0].metric == name}
    trials = [trial for contestant in shown.values() for trial in contestant.trials]
    unit = trials[0].unit
    word = about.word or name
    what = f"held-out {word}" if all(trial.held_out for trial in trials) else word
    several = any(len(contestant.trials) > 1 for contestant in shown.values())
    band = "; the mean over runs with different seeds, and the band from the lowest to the highest" if several else ""
    definition = f"The {what} at each validation during training{band}."
    if any(trial.training.size for trial in trials):
        definition += (
            f" Thin: the training {word}, dropout included, as means over parts of the run, each longer than the one "
            "before by the same factor, drawn at the middle of their steps."
        )
        what = word
    label = f"{what}, {about.unit}" if about.unit else what

    def drawn(axis: int) -> tuple[Curve, ...]:
        return tuple(curve for place, contestant in shown.items() for curve in _curves(contestant, axis, place))

    return (
        Chart(
            f"{word}_by_{unit}",
            f"{word.capitalize()} against {unit} seen",
            f"{unit} seen in training",
            label,
            drawn(0),
            log_x=True,
            definition=definition,
        ),
        Chart(
            f"{word}_by_seconds",
            f"{word.capitalize()} against time",
            "seconds of training",
            label,
            drawn(1),
            definition=definition,
        ),
    )


def _curves(contestant: Contestant, axis: int, place: int) -> list[Curve]:
    """The contestant's metric over units (axis 0) or seconds (axis 1), and that in training if it is known."""
    *axes, mean, low, high = over_seeds([trial.curve for trial in contestant.trials])
    held_out = Curve(contestant.label, axes[axis], mean, style=place)
    if len(contestant.trials) > 1:
        held_out = replace(held_out, low=low, high=high)
    *beneath, training, _, _ = over_seeds([trial.training for trial in contestant.trials])
    if not training.size:
        return [held_out]
    return [
        replace(held_out, label=f"{contestant.label}, held-out"),
        Curve(f"{contestant.label}, training", beneath[axis], training, role="thin", style=place),
    ]


def table(contestants: Sequence[Contestant]) -> Table:
    """A row for each run."""
    about = _metrics_of(contestants)
    rows = tuple(
        (
            trial.run.name,
            trial.run.settings.seed,
            *(trial.metrics.get(name) for name in about),
            trial.steps,
            trial.seconds,
        )
        for contestant in contestants
        for trial in contestant.trials
    )
    of_unit = Counter(metric.unit for metric in about.values())
    heads = [
        metric.unit if of_unit[metric.unit] == 1 and metric.unit else metric.word or name
        for name, metric in about.items()
    ]
    in_units = {name.replace("_", " "): metric.unit for name, metric in about.items() if metric.unit}
    units = " and ".join(name if name == unit else f"{name} in {unit}" for name, unit in in_units.items())
    return Table(
        "runs",
        "The runs",
        ("run", "seed", *heads, "steps", "seconds"),
        rows,
        f"The metrics of the best weights{': ' if units else ''}{units}.",
        (None, None, *(metric.digits for metric in about.values()), None, None),
        names=(1,),
    )


def quantities(contestants: Sequence[Contestant]) -> dict[str, tuple[Quantity, ...]]:
    """The quantities of each contestant, without those that are trivial for all."""
    metrics = _metrics_of(contestants)
    found = {contestant.label: _quantities(contestant, metrics) for contestant in contestants}
    nothing = {"structure": None, "num_layers": 1, "operations": None}
    left_out = {
        key
        for key, value in nothing.items()
        if all(quantity.value == value for of_one in found.values() for quantity in of_one if quantity.key == key)
    }
    return {label: tuple(q for q in of_one if q.key not in left_out) for label, of_one in found.items()}


def _metrics_of(contestants: Sequence[Contestant]) -> dict[str, Metric]:
    """The metrics of all, without those that equal another one in every run."""
    firsts = [contestant.trials[0] for contestant in contestants]
    names = dict.fromkeys(name for trial in firsts for name in trial.metrics)
    declared = {name: [t.run.task.metrics[name] for t in firsts if name in t.metrics] for name in names}
    return {name: some[0] for name, some in declared.items() if not all(metric.equals for metric in some)}


def _quantities(contestant: Contestant, metrics: Mapping[str, Metric]) -> tuple[Quantity, ...]:
    trials = contestant.trials
    run, settings, unit = trials[0].run, trials[0].run.settings, trials[0].unit
    name, about = metric_of([contestant])
    _, short = _labelled(name, about)
    data = "held-out data" if all(trial.held_out for trial in trials) else "the training data"
    runs = f"the mean over {len(trials)} runs" if len(trials) > 1 else "of one run"
    speeds = [trial.speed for trial in trials if trial.speed is not None]
    reaches = [trial.reach for trial in trials if trial.reach is not None]
    scores = [trial.structure for trial in trials if trial.structure is not None]
    reach = statistics.median(reaches) if reaches else None
    low, high = min(contestant.values), max(contestant.values)
    spread = f"{low:.{about.digits}f} to {high:.{about.digits}f}" if len(trials) > 1 else None
    return (
        *(
            Quantity(
                name,
                _labelled(name, metric)[0],
                statistics.fmean(known) if (known := [t.metrics[name] for t in trials if name in t.metrics]) else None,
                _labelled(name, metric)[1],
                f"That of the best weights, on {data}, {runs}.",
                digits=metric.digits,
            )
            for name, metric in metrics.items()
        ),
        Quantity(
            "deviation",
            "standard deviation",
            contestant.deviation,
            short,
            f"The standard deviation of the {about.word or name} over runs with different seeds.",
            "one run",
            about.digits,
        ),
        Quantity("range", "range", spread, short, f"The lowest and the highest {about.word or name}.", "one run"),
        Quantity("seeds", "runs", len(trials), "", "Runs that differ in nothing but their seeds."),
        Quantity("parameters", "parameters", run.manifest["parameters"], "", "The number of trained scalars."),
        Quantity("hidden_size", "hidden size", settings.hidden_size, "", "Units per layer."),
        Quantity("num_layers", "layers", settings.num_layers, "", "The number of layers."),
        Quantity("learning_rate", "learning rate", settings.learning_rate, "", "The schedule's highest learning rate."),
        Quantity(
            "operations",
            "operations per step",
            _cost(run),
            "",
            "Additions, multiplications and functions of a number in one time step, output layer included.",
            "cannot be traced",
        ),
        Quantity(
            "speed",
            f"{unit} per second",
            round(statistics.median(speeds)) if speeds else None,
            "",
            "In training, without validations: the median over the records and over the runs.",
        ),
        Quantity(
            "seen",
            f"{unit} seen",
            round(statistics.fmean(trial.seen for trial in trials)),
            "",
            f"In training, repetitions included, {runs}.",
        ),
        Quantity(
            "seconds",
            "training time",
            statistics.fmean(trial.seconds for trial in trials),
            "s",
            f"Validations included, {runs}.",
        ),
        Quantity(
            "one_percent_lag",
            "1 %-lag",
            reach if reach is not None and math.isfinite(reach) else None,
            "steps",
            "The lag at which the mean norm of the derivative of the loss with respect to a carried state first falls "
            "to 1 % of its value at lag 0, so that little can be learnt from earlier inputs; for the state with the "
            "largest lag, the median over runs.",
            "-" if reach is None else f"not within {min(trial.lags for trial in trials)}",
        ),
        Quantity(
            "structure",
            "closed rightly",
            100 * statistics.fmean(scores) if scores else None,
            "%",
            f"The share of the brackets and environments opened in {SAMPLED:,} sampled characters that are closed "
            "rightly; those open at a sample's end are not counted; the mean over runs.",
            "too few",
        ),
    )


def _cost(run: Run) -> int | None:
    """The operations of one time step; None if they cannot be counted."""
    try:
        return operations(work) if (work := run.model.work()) else None
    except (TraceError, UserError):  # if a run has no model, ``inspected`` has reported why
        return None


def _labelled(name: str, about: Metric) -> tuple[str, str]:
    """A metric's label and unit in a table, where columns are narrow: ``loss per character`` and ``bits``."""
    unit, per, what = about.unit.partition(" per ")
    return f"{about.word or name}{per}{what}", unit
