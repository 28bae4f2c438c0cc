"""How large gradients, weights and updates are, parameter by parameter, from a run's records or in one step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from minigrad import trees
from minigrad.optimizers import global_norm
from minigrad.training import Details
from minigrad.trees import Tree
from rnn_cells import Stacked
from rnn_plugins.reports.report import Chart, Curve, Figure, Findings, Look, Quantity, Report, Table
from rnn_plugins.reports.saturation import Habits, habits, unit_table
from rnn_plugins.reports.subject import Subject
from rnn_plugins.words import listing

Array: TypeAlias = NDArray[Any]

USUAL = 1e-3
"""The update-to-weight ratio that is a rule of thumb (Karpathy's lecture notes, cs231n.github.io/neural-networks-3)."""

KEYS = ("gradient_norms", "weight_norms", "update_norms")
"""Of a record that has norms by parameter."""


@dataclass(frozen=True)
class Norms:
    """Norms of gradients before clipping, of weights and of their updates, at some steps; NaN where not finite.

    Attributes:
        steps: (N,).
        gradients: of each parameter, or layer, (N,).
        weights: likewise, before the update.
        updates: likewise.
    """

    steps: Array
    gradients: Mapping[str, Array]
    weights: Mapping[str, Array]
    updates: Mapping[str, Array]

    @property
    def ratios(self) -> dict[str, Array]:
        """Update by weight; NaN where the weights are all 0."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return {
                name: np.where(weights > 0, self.updates[name] / weights, np.nan)
                for name, weights in self.weights.items()
            }

    def of(self, groups: Mapping[str, Iterable[str]]) -> Norms:
        """The norms of groups of parameters, each taken as one long vector."""

        def grouped(norms: Mapping[str, Array]) -> dict[str, Array]:
            return {name: np.sqrt(sum(norms[path] ** 2 for path in paths)) for name, paths in groups.items()}

        return Norms(self.steps, grouped(self.gradients), grouped(self.weights), grouped(self.updates))


class Parameters(Report):
    """How large gradients, weights and updates are for each parameter.

    The norm of the gradient, of the weights, and of the update by that of the weights (1e-3 is the usual rule of
    thumb), by parameter and layer, over the training of a run, or in one step of a fresh cell; and dead and saturated
    units.
    """

    title: ClassVar[str] = "Parameters"
    question: ClassVar[str] = "Does every parameter get a gradient, and are the steps neither too large nor too small?"

    def memory(self, subject: Subject, look: Look) -> int:
        """For a step of training: a batch, and parameters, gradients, updates and the optimizer's state."""
        weights: int = sum(leaf.nbytes for leaf in trees.leaves(subject.params))
        return super().memory(subject, look) + 6 * weights

    def measure(self, subject: Subject, look: Look) -> Findings:
        """Measure one network on what it learns from.

        Raises:
            UserError: there are no records, and a step cannot be taken.
        """
        records = [] if subject.records is None else list(subject.records())
        paths = trees.flatten(subject.params).keys()
        noted = [record for record in records if all(record.get(key, {}).keys() == paths for key in KEYS)]
        notices = []
        if noted:
            norms = _noted(noted)
        else:
            if subject.records is not None:
                notices.append("the run has no records of its parameters, so one step is taken from its best weights")
            norms = _noted([{"step": subject.steps} | norms_of(subject.take_step(look.seed))])
        layers = _layers(subject, norms.weights)
        found = habits(subject.training, look.lags, look.positions)
        figures: list[Figure] = [*_charts(norms, layers, records)] if len(noted) > 1 else []
        figures.append(_table(subject, norms, layers))
        if found:
            figures.append(unit_table(found, _learnt(subject)))
        else:
            reason = subject.probe.anatomy.reason or "the cell has no sigmoid, tanh or relu"
            notices.append(f"no units are measured: {reason}")
        quantities = _quantities(subject, norms, found)
        return Findings(quantities, tuple(figures), _verdict(subject, norms, layers, found), tuple(notices))


def norms_of(details: Details) -> dict[str, dict[str, float | None]]:
    """The Euclidean norms of each parameter's gradient (before clipping), of its values, and of their update."""
    with np.errstate(all="ignore"):  # what has become infinite is said as None
        updates = trees.map(np.subtract, details.after, details.before)
        return dict(zip(KEYS, map(_by_path, (details.gradients, details.before, updates)), strict=True))


def _by_path(tree: Tree) -> dict[str, float | None]:
    return {path: six_digits(global_norm(leaf)) for path, leaf in trees.flatten(tree).items()}


def six_digits(number: float) -> float | None:
    """A number as records have it, which keeps them short; None for what is not finite."""
    return float(f"{number:.6g}") if math.isfinite(number) else None


def _learnt(subject: Subject) -> str:
    return f"the training {subject.training.sequence}{'s' if subject.training.separate else ''}"


def _noted(records: list[Mapping[str, Any]]) -> Norms:
    """What a run's records have."""

    def series(key: str) -> dict[str, Array]:
        return {path: np.array([record[key].get(path) for record in records], float) for path in records[-1][key]}

    return Norms(np.array([record["step"] for record in records]), *map(series, KEYS))


def _layers(subject: Subject, paths: Iterable[str]) -> dict[str, list[str]]:
    """The paths of each layer's parameters: ``embedding``, ``cell`` or ``layer1`` and so on, ``head``."""
    stacked = isinstance(subject.probe.cell, Stacked)
    layers: dict[str, list[str]] = {}
    for path in paths:
        name, *rest = path.split(".")
        if name == "cell" and stacked:  # of two directions, each has a stack
            name = f"layer{int(next(filter(str.isdecimal, rest))) + 1}"
        layers.setdefault(name, []).append(path)
    return layers


def _within(layer: str, path: str) -> str:
    """The name of a parameter in its layer: without the layer's own."""
    _, *rest = path.split(".")
    if layer.startswith("layer"):
        rest.remove(str(int(layer.removeprefix("layer")) - 1))
    return ".".join(rest)


def _charts(norms: Norms, layers: Mapping[str, list[str]], records: list[Mapping[str, Any]]) -> list[Chart]:
    """Over the steps of training: by layer, and within each layer by parameter."""
    by_layer = norms.of(layers)
    charts = _three("", "by layer", by_layer, {name: name for name in layers})
    for layer, paths in layers.items():
        if len(paths) > 1:
            names = {path: _within(layer, path) for path in paths}
            gradients, _, ratios = _three(f".{layer}", f"of {layer}, by parameter", norms, names)
            charts += [gradients, ratios]
    looks = [record for record in records if record.get("units")]
    steps = np.array([look["step"] for look in looks])
    for key, words in (("saturated", "hardly ever leave the ends of their range"), ("dead", "never change")):
        curves = tuple(
            Curve(label, steps, np.array([look["units"][label][key] for look in looks]))
            for label in (looks[-1]["units"] if looks else ())
        )
        if len(looks) > 1 and any(curve.y.any() for curve in curves):
            charts.append(
                Chart(
                    f"{key}_units", f"{key.capitalize()} units", "step", "share of units", curves,
                    definition=f"The share of units that {words}, on some of the training data, at each validation.",
                    overlay=False,
                )
            )  # fmt: skip
    return charts


def _three(key: str, words: str, norms: Norms, names: Mapping[str, str]) -> list[Chart]:
    """Charts of gradients, weights and ratios."""
    steps = norms.steps
    usual = Curve("1e-3", steps[[0, -1]], np.array([USUAL, USUAL]), role="reference")

    def chart(kind: str, title: str, series: Mapping[str, Array], definition: str, *more: Curve) -> Chart:
        curves = (*(Curve(name, steps, series[path]) for path, name in names.items()), *more)
        return Chart(
            f"{kind}{key}", f"{title} {words}", "step", "norm" if not more else "ratio", curves,
            log_y=True, definition=definition, overlay=False,
        )  # fmt: skip

    return [
        chart(
            "gradient_norms", "Gradients", norms.gradients,
            "The Euclidean norm of the gradient of a step's loss, before clipping.",
        ),
        chart("weight_norms", "Weights", norms.weights, "The Euclidean norm of the weights before the step's update."),
        chart(
            "update_ratios", "Updates over weights", norms.ratios,
            "The Euclidean norm of a step's update over that of the weights; about 1e-3 is the usual rule of thumb.",
            usual,
        ),
    ]  # fmt: skip


def _table(subject: Subject, norms: Norms, layers: Mapping[str, list[str]]) -> Table:
    sizes = {path: int(np.size(leaf)) for path, leaf in trees.flatten(subject.params).items()}
    by_layer, rows = norms.of(layers), []
    for layer, paths in layers.items():
        rows.append(_row(f"{layer} (all)", sum(sizes[path] for path in paths), by_layer, layer))
        rows += [_row(path, sizes[path], norms, path) for path in paths if len(paths) > 1]
    when = "of one step" if len(norms.steps) == 1 else f"over {len(norms.steps):,} records of training"
    first = " In its first step Adam moves every number by the learning rate." if len(norms.steps) == 1 else ""
    return Table(
        "parameters",
        "Norms by layer and parameter",
        ("parameter", "size", "gradient norm", "weight norm", "update / weight"),
        tuple(rows),
        definition=f"Euclidean norms: of the gradient before clipping (the median {when}), of the weights (the last), "
        f"and of the update over that of the weights (the median {when}).{first}",
    )


def _row(name: str, size: int, norms: Norms, key: str) -> tuple[str | float | int | None, ...]:
    last = float(norms.weights[key][-1])
    return (
        name, size, _median(norms.gradients[key]), last if math.isfinite(last) else None, _median(norms.ratios[key])
    )  # fmt: skip


def _quantities(subject: Subject, norms: Norms, found: list[Habits]) -> tuple[Quantity, ...]:
    whole = norms.of({"all": list(norms.weights)})
    when = "in one step" if len(norms.steps) == 1 else f"the median of {len(norms.steps):,} records"
    clip_norm = subject.clip_norm
    total = whole.gradients["all"]
    clipped = float(np.mean(total[np.isfinite(total)] > clip_norm)) if clip_norm and np.isfinite(total).any() else None
    units = np.concatenate([habit.saturated for habit in found]) if found else None
    still = np.concatenate([habit.still for habit in found]) if found else None
    return (
        Quantity(
            "gradient_norm", "gradient norm", _median(total), "",
            f"The Euclidean norm of the gradient of all parameters before clipping, {when}.",
        ),
        Quantity(
            "clipped", "steps clipped", clipped, "share of those measured",
            f"The share of steps whose gradient is longer than {clip_norm or 0:g}, to which it is shortened.",
            "no clipping",
        ),
        Quantity(
            "update_ratio", "update / weight", _median(whole.ratios["all"]), "",
            f"The Euclidean norm of the update of all parameters over that of the parameters, {when}; 1e-3 is usual.",
        ),
        Quantity(
            "saturated_units", "saturated units", None if units is None else float(units.mean()), "share of all",
            f"The share of units at an end of their range for more than 90 % of the time, on {_learnt(subject)}.",
        ),
        Quantity(
            "dead_units", "dead units", None if still is None else float(still.mean()), "share of all",
            f"The share of units that have the same value at every step, on {_learnt(subject)}.",
        ),
    )  # fmt: skip


def _verdict(subject: Subject, norms: Norms, layers: Mapping[str, list[str]], found: list[Habits]) -> tuple[str, ...]:
    """What it means, and what to try."""
    words = []
    untouched = [path for path, gradients in norms.gradients.items() if not gradients.any()]
    if untouched:
        words.append(f"No gradient reaches {', '.join(untouched)}: nothing can be learnt there.")
    ratio = _median(norms.of({"all": list(norms.weights)}).ratios["all"])
    rate = subject.learning_rate
    steps = "The steps are" if len(norms.steps) > 1 else "The first step is"
    if ratio is None:
        words.append("The norms are not finite: the training diverges; lower --learning-rate.")
    elif ratio > 10 * USUAL:
        words.append(
            f"{steps} large: an update is {ratio:.1e} of the weights, where 1e-3 is usual; "
            f"a --learning-rate below {rate:.2g} may do better."
        )
    elif ratio < USUAL / 10:
        words.append(
            f"{steps} small: an update is {ratio:.1e} of the weights, where 1e-3 is usual; "
            f"a --learning-rate above {rate:.2g} would learn faster."
        )
    else:
        words.append(
            f"{steps} of the usual size: an update is {ratio:.1e} of the weights, where 1e-4 to 1e-2 is usual."
        )
    by_layer = {name: _median(gradients) or 0.0 for name, gradients in norms.of(layers).gradients.items()}
    recurrent = {name: norm for name, norm in by_layer.items() if name.startswith("layer")}
    if len(recurrent) > 1 and 0 < min(recurrent.values()) < max(recurrent.values()) / 10:
        low, high = min(recurrent, key=recurrent.__getitem__), max(recurrent, key=recurrent.__getitem__)
        times = recurrent[high] / recurrent[low]
        words.append(f"The gradient of {low} is {times:.0f} times smaller than that of {high}.")
    still = [
        f"{count} of {habit.activation.size} in {habit.activation.label}"
        for habit in found
        if (count := int(habit.still.sum()))
    ]
    if still:
        words.append(f"Dead units: {listing(still)}.")
    return tuple(words)


def _median(series: Array) -> float | None:
    """Of what is finite; None where nothing is."""
    known = series[np.isfinite(series)]
    return float(np.median(known)) if len(known) else None
