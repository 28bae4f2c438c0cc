"""Compare networks: their metrics with the spread, cost and memory, and which of them is better."""

from __future__ import annotations

import math
import shlex
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from minigrad.graph import TraceError
from minigrad.scan import release
from rnn_lab.blame import blaming
from rnn_lab.comparison.statistics import level, rank, welch
from rnn_lab.runs import Run
from rnn_lab.subject import of_run
from rnn_plugins import registry
from rnn_plugins.errors import UserError
from rnn_plugins.inspect.operations import operations
from rnn_plugins.options import listed
from rnn_plugins.reports.flow import REACHED, crossing, measure_flow, most_lags
from rnn_plugins.reports.loss import averaged
from rnn_plugins.reports.probe import Probe
from rnn_plugins.reports.report import Chart, Curve, Page, Quantity, Table
from rnn_plugins.reports.structure import closed_rightly
from rnn_plugins.tasks.task import Metric
from rnn_plugins.trust import Untrusted
from rnn_plugins.words import listing

Array: TypeAlias = NDArray[Any]

LAGS, POSITIONS = 100, 300
"""Largest lag and number of positions of the gradients that are measured."""

BEGINS = 10
"""Curves of the training loss begin at the first validation divided by this, since axes are logarithmic."""

SAMPLED = 20_000
"""Characters of the sample whose brackets and environments are counted."""


@dataclass(frozen=True, eq=False)
class Trial:
    """The results of one run.

    Attributes:
        run: the run.
        metrics: of the best weights, derived ones included; on the held-out data if there are any.
        metric: the name of the metric by which it is compared.
        steps: number of training steps.
        seen: units seen in training, repetitions included.
        unit: the name of the units, in the plural.
        seconds: training time, validations included.
        speed: units per second, the median over training; None without records.
        curve: (3, N), the metric over units seen and over seconds: ``seen, seconds, values``.
        training: (3, M), the mean of the training loss between records as the metric, likewise, at the middle of the
            steps that it is the mean of; empty where the metric is another one, or nothing is held out.
        reach: the lag at which 1 % of the gradient is left; infinite if not reached, None if unknown.
        lags: the largest lag measured for it.
        structure: the share of brackets and environments in a sample that are closed rightly; None if too few.
        lack: why its weights were not inspected; empty if they were.
    """

    run: Run
    metrics: Mapping[str, float]
    metric: str
    steps: int
    seen: float
    unit: str
    seconds: float
    speed: float | None
    curve: Array
    training: Array
    reach: float | None = None
    lags: int = LAGS
    structure: float | None = None
    lack: str = ""

    @property
    def value(self) -> float:
        """The value of the metric by which it is compared."""
        return self.metrics[self.metric]

    @property
    def guessing(self) -> float | None:
        """The metric's value for uniform guessing; None if unknown."""
        loss = self.run.task.guessing(self.run.facts)
        return None if loss is None else self.run.metrics({"loss": loss}).get(self.metric)

    @property
    def held_out(self) -> bool:
        """Whether the metrics are of held-out examples."""
        return self.run.held_out


def read(run: Run) -> Trial:
    """The results in a run's own files.

    Raises:
        UserError: it cannot be read, diverged, or was not validated yet.
    """
    settings, data, outcome, task = run.settings, run.manifest["data"], run.manifest.get("outcome"), run.task
    if outcome == "diverged":
        raise UserError(
            f"the run {run.name!r} diverged at step {run.manifest['step']:,}, with the learning rate "
            f"{settings.learning_rate:g}: rnn rerun {shlex.quote(run.name)} says why"
        )
    records = list(run.records())
    steps, best = run.reached()
    if best is None:
        raise UserError(f"the run {run.name!r} was not validated yet: train it longer")
    metrics = run.metrics(best)
    metric = task.compared or task.best[0]
    if metric not in metrics:
        if run.held_out:
            raise UserError(
                f"the run {run.name!r} has no {metric}: it was not finite where its best weights were validated"
            )
        metric = "loss"  # without held-out data it is the only metric

    def validated(record: Mapping[str, Any]) -> dict[str, float]:
        if not run.held_out:
            return run.metrics({"loss": record["train_loss"]})
        found = {name: record[f"valid_{name}"] for name in best if f"valid_{name}" in record}
        return run.metrics(found) if found else {}

    points = [
        (record["step"], record["seconds"], found[metric])
        for record in records
        if metric in (found := validated(record))
    ]
    per_step, unit = task.seen(data["units_per_step"], run.facts)
    speeds = [
        task.seen(record["units_per_second"], run.facts)[0] for record in records if record["units_per_second"] > 0
    ]
    curve = np.array([(step * per_step, seconds, value) for step, seconds, value in points], float)
    return Trial(
        run,
        metrics,
        metric,
        steps,
        steps * per_step,
        unit,
        max((record["seconds"] for record in records), default=0.0),
        statistics.median(speeds) if speeds else None,
        curve.reshape(-1, 3).T,
        _training(run, records, metric, per_step, points[0][0] / BEGINS if points else 0.0),
    )


def _training(run: Run, records: Sequence[Mapping[str, Any]], metric: str, per_step: float, first: float) -> Array:
    """``Trial.training`` from step ``first`` on, over parts that are each longer than the last by the same factor."""
    if not records or not run.held_out or metric not in run.metrics({"loss": 1.0}, "train"):
        return np.zeros((3, 0))
    steps, losses, seconds = (
        np.array([record[key] for record in records], float) for key in ("step", "train_loss", "seconds")
    )
    places = np.log(steps / steps[0]) / max(np.log(steps[-1] / steps[0]), 1e-9)
    x, y, _, _ = averaged(steps, losses, places)
    x, y = x[x >= first], y[x >= first]
    values = [run.metrics({"loss": loss}, "train")[metric] for loss in y.tolist()]
    return np.stack([x * per_step, np.interp(x, [0.0, *steps], [0.0, *seconds]), values])


def inspected(trial: Trial) -> Trial:
    """The same with measurements on its weights: how far gradients reach, how it closes brackets."""
    try:
        with blaming():
            subject = of_run(trial.run)
            lags, structure = min(LAGS, most_lags(subject.probe)), closed_rightly(subject, SAMPLED)
            return replace(trial, reach=_reach(subject.probe, lags), lags=lags, structure=structure)
    except UserError as error:
        return replace(trial, lack=str(error))


def _reach(probe: Probe, lags: int) -> float | None:
    """The lag at which 1 % of the gradient is left, the largest over the cell's states."""
    if lags < 1:
        return None
    flow = measure_flow(probe, lags, POSITIONS)
    means = [flow.mean[place].tolist() for place in flow.real]
    found = [crossing(norms, REACHED) for norms in means if norms[0] > 0]
    return max((math.inf if lag is None else lag for lag in found), default=None)


@dataclass(frozen=True, eq=False)
class Contestant:
    """Runs that differ only in their seeds.

    Attributes:
        label: their common label.
        trials: one or more.
    """

    label: str
    trials: tuple[Trial, ...]

    @cached_property
    def values(self) -> list[float]:
        """The value of the compared metric for each run."""
        return [trial.value for trial in self.trials]

    @property
    def mean(self) -> float:
        """The mean value."""
        return statistics.fmean(self.values)

    @property
    def deviation(self) -> float | None:
        """The standard deviation; None for one run."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


def group(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs by label; those that differ only in their seeds have one label.

    Raises:
        UserError: a run is named twice, or cannot be read.
    """
    groups: list[list[Run]] = []
    for run in runs:
        if any(run.path.resolve() == other.path.resolve() for members in groups for other in members):
            raise UserError(f"the run {run.name!r} is named twice: leave one of them out")
        for members in groups:
            if all(_differ_in_seed(run, member) for member in members):
                members.append(run)
                break
        else:
            groups.append([run])
    found: dict[str, list[Run]] = {}
    for members in groups:
        label = members[0].name if len(members) == 1 else _cell(members[0])
        found[f"{label} ({members[0].name})" if label in found else label] = members
    return found


def _differ_in_seed(one: Run, other: Run) -> bool:
    a, b = (run.settings for run in (one, other))
    same_data = one.manifest["data"]["digest"] == other.manifest["data"]["digest"]
    same_cell = one.manifest["cell"] == other.manifest["cell"]
    same_task = one.manifest["task"] == other.manifest["task"]
    alike = same_data and same_cell and same_task
    return alike and a.seed != b.seed and replace(a, seed=None) == replace(b, seed=None)


def _cell(run: Run) -> str:
    """A run's cell with its options, as the command line takes it."""
    options = ",".join(f"{key}={value}" for key, value in run.settings.cell_option.items())
    return f"{run.manifest['cell']['cell']}{':' if options else ''}{options}"


def compare(groups: Mapping[str, Sequence[Run]], told: Callable[[str], None] = lambda run: None) -> Page:
    """Compare runs.

    Args:
        groups: the runs of each contestant by its label.
        told: called with the name of a run before its weights are inspected.

    Raises:
        UserError: none of them has results.
    """
    meant = {entry.name: entry.value for entry in registry.entries("tasks")}  # a task may have several names
    tasks: dict[str, Run] = {}
    for run in (run for runs in groups.values() for run in runs):
        tasks.setdefault(meant.get(run.settings.task, run.settings.task), run)
    if len(tasks) > 1:
        named = ", ".join(f"{run.name!r} of the task {run.settings.task}" for run in tasks.values())
        raise UserError(f"the runs are of several tasks ({named}), whose metrics cannot be compared: name runs of one")
    contestants, failed, notices = [], {}, list[str]()
    errors: list[UserError] = []
    for label, runs in groups.items():
        trials, reasons = [], []
        for run in runs:
            try:
                trial = read(run)
            except UserError as error:
                errors.append(error)
                reasons.append(str(error))
                continue
            told(run.name)
            trials.append(inspected(trial))
            release()  # each run has its own plans
        if trials:
            contestants.append(Contestant(label, tuple(trials)))
            notices += reasons
        else:
            failed[label] = "; ".join(dict.fromkeys(reasons))
    if not contestants:
        if all(isinstance(error, Untrusted) for error in errors):
            raise errors[0]  # whoever catches it adds the command that trusts all files
        raise UserError("; ".join(dict.fromkeys(failed.values())))
    trials = [trial for contestant in contestants for trial in contestant.trials]
    unfair, notes = _fairness(trials)
    said = verdict(contestants, unfair)
    if not said:  # otherwise it names these reasons
        notes = [*unfair, *notes]
        if not any(trial.held_out for trial in trials):
            notes.append("nothing is held out: the losses are those of the training data")
    return Page(
        kind="compare",
        title="Comparison",
        question="Which network learns the data best, and at what cost?",
        subjects=(*(contestant.label for contestant in contestants), *failed),
        quantities=_told(contestants),
        figures=(*_charts(contestants), _runs(contestants)),
        verdict={"": said},
        notices=(*notes, *_not_inspected(trials), *dict.fromkeys(notices)),
        failed=failed,
    )


def _metric(contestants: Sequence[Contestant]) -> tuple[str, Metric]:
    """The name of the compared metric, and its description."""
    trial = contestants[0].trials[0]
    return trial.metric, trial.run.task.metrics[trial.metric]


def _labelled(name: str, about: Metric) -> tuple[str, str]:
    """A metric's label and unit in a table, where columns are narrow: ``loss per character`` and ``bits``."""
    unit, per, what = about.unit.partition(" per ")
    return f"{about.word or name}{per}{what}", unit


def _amount(value: float, metric: tuple[str, Metric]) -> str:
    """A value with its unit, or with the metric's word if it has none."""
    name, about = metric
    return f"{value:.{about.digits}f} {about.unit or about.word or name}"


def _data_of(run: Run) -> str:
    """The files of a run, and those that it was validated on if they are others."""
    validated = f" with {listing(run.settings.valid)} to validate" if run.settings.valid else ""
    return f"{run.sources}{validated}"


def _fairness(trials: Sequence[Trial]) -> tuple[list[str], list[str]]:
    """Why metrics cannot be compared, and other notes on them."""
    unfair, notes = list[str](), list[str]()
    data = {trial.run.manifest["data"]["digest"]: trial.run for trial in trials}
    if len(data) > 1:
        named = "; ".join(_data_of(run) for run in data.values())
        unfair.append(f"the runs were not trained on the same data ({named})")
    in_training = [trial.run.name for trial in trials if not trial.held_out]
    if 0 < len(in_training) < len(trials):
        unfair.append(f"not all runs were measured on held-out data: {', '.join(in_training)}")
    of_task = trials[0].run.task.comparable({trial.run.name: (trial.run.task, trial.run.facts) for trial in trials})
    unfair, notes = [*unfair, *of_task[0]], [*notes, *of_task[1]]
    for trial in trials:
        outcome = trial.run.manifest.get("outcome")
        if outcome in (None, "interrupted"):
            end = "was interrupted" if outcome else "has not ended"
            notes.append(f"the run {trial.run.name!r} {end}: its numbers are those after step {trial.steps:,}")
    return unfair, notes


def _not_inspected(trials: Sequence[Trial]) -> list[str]:
    """Sentences on the runs whose weights were not inspected, one for all that have the same reason."""
    names: dict[str, list[str]] = {}
    for trial in filter(lambda trial: trial.lack, trials):
        names.setdefault(trial.lack, []).append(trial.run.name)
    return [
        f"{listing(some)}: {'its' if len(some) == 1 else 'their'} weights were not inspected, because {lack}"
        for lack, some in names.items()
    ]


def verdict(contestants: Sequence[Contestant], unfair: Sequence[str] = ()) -> tuple[str, ...]:
    """Who is best, who is tied, a sentence each.

    Args:
        contestants: one or more.
        unfair: why their metrics cannot be compared.
    """
    if len(contestants) < 2:
        return ()
    trials = [trial for contestant in contestants for trial in contestant.trials]
    metric = name, about = _metric(contestants)
    sign = 1 if about.direction == "min" else -1
    if unfair:
        return ("No verdict, because the comparison is not fair: " + "; ".join(unfair) + ".",)
    if not all(trial.held_out for trial in trials):
        return (
            "No verdict, because nothing was held out, and a low loss on the training data may be overfitting. Use "
            "more data, or a larger --valid-fraction.",
        )
    guesses = [guess for trial in trials if (guess := trial.guessing) is not None]
    if len(guesses) == len(trials) and all(
        sign * trial.value >= sign * guess for trial, guess in zip(trials, guesses, strict=True)
    ):
        costs = min(guesses) if sign > 0 else max(guesses)
        verb, far = ("costs", "above") if sign > 0 else ("reaches", "below")
        return (
            f"No verdict, because none has learnt anything: guessing {verb} {_amount(costs, metric)}. Train "
            f"longer, or with a lower --learning-rate if the {about.word or name} is far {far} that.",
        )
    single = [contestant.label for contestant in contestants if len(contestant.values) < 2]
    if single:
        best = min(contestants, key=lambda contestant: sign * contestant.mean)
        what = "lowest" if sign > 0 else "highest"
        value = f"{best.mean:.{about.digits}f} {about.unit}".rstrip()
        have = "has" if len(single) == 1 else "have"
        return (
            f"The {what} {about.word or name} is that of {best.label}, {value}.",
            f"That is not a verdict: {listed(single, 'and')} {have} only one run, so the "
            "difference may be chance. Train runs with other seeds.",
        )
    by_label = {contestant.label: contestant for contestant in contestants}
    tiers = rank({label: [sign * value for value in contestant.values] for label, contestant in by_label.items()})
    best = by_label[tiers[0].names[0]]
    sentences = []
    for names, chance in tiers:
        first, last = by_label[names[0]].mean, by_label[names[-1]].mean
        behind = ""
        if chance is not None:
            probable = f"p = {chance:.2g}" if chance >= 1e-4 else "p < 0.0001"
            behind = f"{sign * (first - best.mean):.{about.digits}f} behind {best.label} ({probable})"
        if len(names) == 1:
            sentences.append(f"{names[0]} is {behind or f'the best, with {_amount(best.mean, metric)}'}.")
        else:
            words = f"{listed(list(names), 'and')} are tied{', ' if behind else ''}{behind}"
            why = _undecided(
                [[sign * value for value in by_label[name].values] for name in names], level(len(contestants))
            )
            sentences.append(f"{words}: {first:.{about.digits}f} to {_amount(last, metric)}, which {why}.")
    if any(len(names) > 1 for names, _ in tiers):
        sentences.append("More seeds would show smaller differences.")
    return tuple(sentences)


def _undecided(samples: Sequence[Sequence[float]], needed: float) -> str:
    """Why losses are tied with the first one, whose mean is the lowest."""
    first, *others = samples
    if all(min(other) <= max(first) for other in others):
        return "is within the spread"
    seeds = listed([str(count) for count in sorted({len(sample) for sample in samples})], "and")
    chance = min(welch(first, other) for other in others)
    return f"{seeds} seeds cannot distinguish (p = {chance:.2g}, not below {needed:.2g})"


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


def _charts(contestants: Sequence[Contestant]) -> tuple[Chart, Chart]:
    name, about = _metric(contestants)
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


def _runs(contestants: Sequence[Contestant]) -> Table:
    metrics = list(contestants[0].trials[0].metrics)
    about = contestants[0].trials[0].run.task.metrics
    rows = tuple(
        (
            trial.run.name,
            trial.run.settings.seed,
            *(trial.metrics.get(name) for name in metrics),
            trial.steps,
            trial.seconds,
        )
        for contestant in contestants
        for trial in contestant.trials
    )
    of_unit = Counter(about[name].unit for name in metrics)
    heads = [
        about[name].unit if of_unit[about[name].unit] == 1 and about[name].unit else about[name].word or name
        for name in metrics
    ]
    units = " and ".join(f"{name.replace('_', ' ')} in {about[name].unit}" for name in metrics if about[name].unit)
    return Table(
        "runs",
        "The runs",
        ("run", "seed", *heads, "steps", "seconds"),
        rows,
        f"The metrics of the best weights{': ' if units else ''}{units}.",
        (None, None, *(about[name].digits for name in metrics), None, None),
    )


def _told(contestants: Sequence[Contestant]) -> dict[str, tuple[Quantity, ...]]:
    """The quantities of each contestant, without those that are trivial for all."""
    found = {contestant.label: _quantities(contestant) for contestant in contestants}
    nothing = {"structure": None, "num_layers": 1, "operations": None}
    left_out = {
        key
        for key, value in nothing.items()
        if all(quantity.value == value for of_one in found.values() for quantity in of_one if quantity.key == key)
    }
    return {label: tuple(q for q in of_one if q.key not in left_out) for label, of_one in found.items()}


def _quantities(contestant: Contestant) -> tuple[Quantity, ...]:
    trials = contestant.trials
    run, settings, unit = trials[0].run, trials[0].run.settings, trials[0].unit
    name, about = _metric([contestant])
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
                metric,
                _labelled(metric, run.task.metrics[metric])[0],
                statistics.fmean(trial.metrics[metric] for trial in trials if metric in trial.metrics),
                _labelled(metric, run.task.metrics[metric])[1],
                f"That of the best weights, on {data}, {runs}.",
                digits=run.task.metrics[metric].digits,
            )
            for metric in trials[0].metrics
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
