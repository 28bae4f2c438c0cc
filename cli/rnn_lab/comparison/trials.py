"""The results of single runs, from their own files and weights, and of runs that differ only in their seeds."""

from __future__ import annotations

import math
import shlex
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rnn_lab.blame import blaming
from rnn_lab.runs import Run
from rnn_lab.subject import of_run
from rnn_plugins.errors import UserError
from rnn_plugins.reports.gradients import REACHED, crossing, measure_flow, most_lags
from rnn_plugins.reports.loss import averaged
from rnn_plugins.reports.probe import Probe
from rnn_plugins.reports.structure import closed_rightly
from rnn_plugins.tasks.task import Metric

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


def metric_of(contestants: Sequence[Contestant]) -> tuple[str, Metric]:
    """The name of the compared metric, and its description."""
    trial = contestants[0].trials[0]
    return trial.metric, trial.run.task.metrics[trial.metric]
