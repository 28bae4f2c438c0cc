"""How the losses of a run went during its training, beside what needs no network."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rnn_plugins.errors import UserError
from rnn_plugins.reports.report import Chart, Curve, Findings, Look, Quantity, Report
from rnn_plugins.reports.subject import Subject
from rnn_plugins.tasks.task import Metric, Score

Array: TypeAlias = NDArray[Any]

POINTS = 200
"""The largest number of points of the curve of the training loss; of more records it shows means."""

WIDE = 30.0
"""From this ratio of the largest value to the smallest on, the axis of a loss is logarithmic."""

CLEAR = 0.01
"""The least rise of the held-out loss, in nats, that the verdict names."""

HUGE = 1e5
"""Values from it on, as of a run that diverges, have three significant digits in sentences."""

LARGE = 4.0
"""Losses above it are compared by their ratio, as those of whole images; lower ones by their difference."""


@dataclass(frozen=True)
class Course:
    """The records of a run as arrays, of N records and of M validations.

    Attributes:
        steps: (N,), the step of each record.
        training: (N,), the mean training loss since the record before.
        rates: (N,), the learning rate.
        validated: (M,), the step of each validation.
        held_out: the metrics of each validation, (M,), by name; NaN where one was not finite.
        kept: the step whose weights are kept.
        metrics: what the metrics are, by name; ``loss`` is among them.
        deciding: the name of the one by which the kept weights are the best.
    """

    steps: Array
    training: Array
    rates: Array
    validated: Array
    held_out: Mapping[str, Array]
    kept: int
    metrics: Mapping[str, Metric]
    deciding: str

    @staticmethod
    def of(records: Sequence[Mapping[str, Any]], subject: Subject) -> Course:
        """The course that a subject's records tell of."""
        metrics = {"loss": Metric("nats"), **subject.metrics}
        names = [name for name in metrics if any(f"valid_{name}" in record for record in records)]
        looks = [record for record in records if any(f"valid_{name}" in record for name in names)]

        def column(some: Sequence[Mapping[str, Any]], key: str) -> Array:
            return np.array([record.get(key, math.nan) for record in some], float)

        return Course(
            column(records, "step"),
            column(records, "train_loss"),
            column(records, "learning_rate"),
            column(looks, "step"),
            {name: column(looks, f"valid_{name}") for name in names},
            subject.steps,
            metrics,
            subject.deciding if subject.deciding in names else "loss",
        )

    @property
    def about(self) -> Metric:
        """What the loss is."""
        return self.metrics["loss"]

    def validation(self, name: str = "loss") -> float | None:
        """A metric of the kept weights; None if they were not validated."""
        values = self.held_out.get(name, np.empty(0))[self.validated == self.kept]
        return float(values[0]) if values.size and np.isfinite(values[0]) else None

    def training_before(self, step: float) -> float | None:
        """The mean training loss over the steps from the validation before one on; None if nothing is recorded."""
        before = self.validated[self.validated < step]
        some = (self.steps > (before[-1] if before.size else 0)) & (self.steps <= step)
        return float(np.average(self.training[some], weights=self._lengths()[some])) if some.any() else None

    def _lengths(self) -> Array:
        """The number of steps that each record is the mean of."""
        return np.diff(self.steps, prepend=0)

    def blocks(self) -> tuple[Array, Array, Array | None, Array | None]:
        """The training loss in at most ``POINTS`` parts of equal length, as the middle of its steps and its mean.

        Where a part has several records, their lowest and highest value come with it; otherwise None.
        """
        middles = self.steps - self._lengths() / 2
        if len(self.steps) <= POINTS:
            return middles, self.training, None, None
        return averaged(self.steps, self.training, middles / self.steps[-1])


def averaged(steps: Array, losses: Array, places: Array) -> tuple[Array, Array, Array, Array]:
    """Mean losses between records, averaged over parts of a run.

    Args:
        steps: (N,), those of the records.
        losses: (N,), each the mean over the steps since the record before.
        places: (N,), ascending from 0 to 1; [0, 1] is divided into ``POINTS`` parts of equal length.

    Returns:
        For each part that has records: the middle of its steps, the mean over its steps, and the lowest and the highest
        record.
    """
    lengths = np.diff(steps, prepend=0)
    part = np.minimum((places * POINTS).astype(int), POINTS - 1)
    starts = np.flatnonzero(np.diff(part, prepend=-1))
    total = np.add.reduceat(lengths, starts)
    x, y = (np.add.reduceat(values * lengths, starts) / total for values in (steps - lengths / 2, losses))
    return x, y, np.minimum.reduceat(losses, starts), np.maximum.reduceat(losses, starts)


class Loss(Report):
    """The training loss and the held-out loss against steps, beside baselines.

    The curves of a run's training from its own records, the learning rate, the task's other metrics, and as horizontal
    lines what needs no network: of a language model, n-grams counted on the training text.
    """

    title: ClassVar[str] = "Loss"
    question: ClassVar[str] = "Has it learnt all that it can, does it overfit, and what do baselines reach?"

    def measure(self, subject: Subject, look: Look) -> Findings:
        """Show the training of one run.

        Raises:
            UserError: the subject is of no run, or the run has no records.
        """
        if subject.records is None:
            raise UserError(
                f"loss shows the training of a run, and {subject.label} is a cell without one: "
                f"train it with rnn train FILE --cell {shlex.quote(subject.label)}, and report on that run"
            )
        records = list(subject.records())
        if not records:
            raise UserError(f"the run {subject.label!r} has no records of its training: train it longer")
        course, baselines = Course.of(records, subject), subject.baselines()
        charts = [_losses(course, baselines), _rates(course)]
        charts += [_metric(course, name, baselines) for name in course.held_out if name != "loss"]
        notices = () if course.held_out else ("the run holds nothing out, so this is the loss on what it learns",)
        best = _best(course, baselines)
        return Findings(_quantities(course, best), tuple(charts), _verdict(course, best), notices)


def _losses(course: Course, baselines: Sequence[Score]) -> Chart:
    about = course.about
    x, y, low, high = course.blocks()
    held_out = course.held_out.get("loss")
    parts = "since the record before" if low is None else f"of each of {POINTS} equal parts of the run"
    definition = f"Training: the mean over the steps {parts}, dropout included, drawn at their middle"
    if low is not None:
        definition += "; the band is from the lowest record in a part to the highest"
    curves = [Curve("training", x, y, low, high, role="measured" if held_out is None else "thin", style=0)]
    if held_out is not None:
        curves.append(Curve("held-out", course.validated, held_out, style=0))
        definition += ". Held-out: the loss on the held-out data at each validation, without dropout"
    curves += [*_kept(course, "loss"), *_levels(course, "loss", baselines)]
    if any(curve.role == "reference" for curve in curves):
        definition += ". Dotted: what baselines reach on the held-out data"
    values = np.concatenate([curve.y[np.isfinite(curve.y)] for curve in curves] or [np.empty(0)])
    wide = bool(values.size) and 0 < values.min() < values.max() / WIDE
    return Chart(
        f"loss_in_{about.unit or 'numbers'}",
        "Loss during training",
        "step",
        _with_unit(about.word or "loss", about),
        tuple(curves),
        log_y=wide,
        definition=f"{definition}.",
    )


def _rates(course: Course) -> Chart:
    some = np.unique(np.linspace(0, len(course.steps) - 1, min(POINTS, len(course.steps))).round().astype(int))
    return Chart(
        "learning_rate",
        "Learning rate",
        "step",
        "learning rate",
        (Curve("", course.steps[some], course.rates[some]),),
        definition="The learning rate of the steps that were recorded.",
    )


def _metric(course: Course, name: str, baselines: Sequence[Score]) -> Chart:
    about = course.metrics[name]
    word = about.word or name
    curves = (
        Curve("held-out", course.validated, course.held_out[name], style=0),
        *_kept(course, name),
        *_levels(course, name, baselines),
    )
    return Chart(
        f"valid_{name}",
        f"{word[:1].upper()}{word[1:]} during training",
        "step",
        _with_unit(word, about),
        curves,
        definition=f"The {word} on the held-out data at each validation; "
        f"{'lower' if about.direction == 'min' else 'higher'} is better.",
    )


def _kept(course: Course, name: str) -> list[Curve]:
    """The point of the weights that are kept."""
    value = course.validation(name)
    if value is None:
        return []
    return [Curve(f"kept, step {course.kept:,}", np.array([course.kept]), np.array([value]), role="mark", style=0)]


def _levels(course: Course, name: str, baselines: Sequence[Score]) -> list[Curve]:
    """A horizontal line for each baseline with a value of a metric, the highest first."""
    ends, about = np.array([0.0, course.steps[-1]]), course.metrics[name]
    values = _values(baselines, name)
    return [
        Curve(f"{label} {_number(value, about)}", ends, np.array([value, value]), role="reference")
        for label, value in sorted(values.items(), key=lambda pair: -pair[1])
    ]


def _values(baselines: Sequence[Score], name: str) -> dict[str, float]:
    """The baselines that have a metric, with their values."""
    found = {score.name: score.metrics.get(name) for score in baselines}
    return {label: value for label, value in found.items() if value is not None and math.isfinite(value)}


def _with_unit(word: str, about: Metric) -> str:
    return f"{word}, {about.unit}" if about.unit else word


def _number(value: float, about: Metric) -> str:
    return f"{value:.{about.digits}f}" if abs(value) < HUGE else f"{value:.3g}"


def _amount(value: float, about: Metric) -> str:
    return f"{_number(value, about)} {about.unit}".rstrip()


@dataclass(frozen=True)
class Best:
    """The best of the baselines, by the deciding metric if one has it, otherwise by the loss.

    Attributes:
        name: of the baseline.
        metric: the name of the metric.
        value: the baseline's.
    """

    name: str
    metric: str
    value: float


def _best(course: Course, baselines: Sequence[Score]) -> Best | None:
    for metric in dict.fromkeys((course.deciding, "loss")):
        if values := _values(baselines, metric):
            choose = min if course.metrics[metric].direction == "min" else max
            name, value = choose(values.items(), key=lambda pair: pair[1])
            return Best(name, metric, value)
    return None


def _quantities(course: Course, best: Best | None) -> tuple[Quantity, ...]:
    about = course.about
    kept, end = course.validation(), course.held_out.get("loss")
    training = course.training_before(course.kept)
    since = "over the steps since the validation before, dropout included"
    of_metrics = [
        Quantity(
            name, _word(course, name), course.validation(name), course.metrics[name].unit,
            "On the held-out data, with the weights that are kept.", "not validated", course.metrics[name].digits,
        )
        for name in course.held_out if name != "loss"
    ]  # fmt: skip
    compared = course.metrics[best.metric] if best else about
    return (
        Quantity("steps", "steps", int(course.steps[-1]), "", "The steps of training that are recorded."),
        Quantity(
            "kept", "step of the kept weights", course.kept, "",
            f"The best by the {_word(course, course.deciding)}, on the held-out data if there is any.",
        ),
        Quantity(
            "held_out", "held-out loss", kept, about.unit,
            "That of the weights that are kept.", "not validated", about.digits,
        ),
        Quantity(
            "training", "training loss", training, about.unit,
            f"The mean {since}, up to the step of the kept weights.", "-", about.digits,
        ),
        Quantity(
            "gap", "held-out less training", None if kept is None or training is None else kept - training,
            about.unit, "The difference of these two.", "-", about.digits,
        ),
        Quantity(
            "last", "last held-out loss", None if end is None else float(end[-1]), about.unit,
            "That of the last validation.", "not validated", about.digits,
        ),
        *of_metrics,
        Quantity(
            "baseline", f"best baseline{f', {best.name}' if best else ''}", best.value if best else None, compared.unit,
            f"The best {_word(course, best.metric if best else 'loss')} on the held-out data of what needs no network.",
            "none known", compared.digits,
        ),
    )  # fmt: skip


def _verdict(course: Course, best: Best | None) -> tuple[str, ...]:
    """Which weights are kept, how the losses went on, and how the best baseline compares."""
    about, losses, kept = course.about, course.held_out.get("loss"), course.validation()
    before = course.training_before(course.kept)
    if losses is None or kept is None:
        first, last = float(course.training[0]), float(course.training[-1])
        return (f"The training loss goes from {_amount(first, about)} to {_amount(last, about)}.",)
    words = [f"The weights of step {course.kept:,} are kept, with a held-out loss of {_amount(kept, about)}."]
    decided = course.validation(course.deciding)
    if course.deciding != "loss" and decided is not None:
        values = f"{_amount(decided, course.metrics[course.deciding])}; their held-out loss is {_amount(kept, about)}"
        words = [f"The weights of step {course.kept:,} are kept, for their {_word(course, course.deciding)}, {values}."]
    scale, end = max(1.0, abs(kept) / LARGE), float(course.validated[-1])
    risen, after = float(losses[-1]) - kept, course.training_before(end)
    if before is not None and after is not None and risen > CLEAR * scale and end > course.kept:
        verb, change = ("falls", before - after) if after < before else ("rises too,", after - before)
        says = "It overfits after that" if after < before else "It gets worse after that"
        words.append(
            f"{says}: up to step {end:,.0f} the held-out loss rises by {_amount(risen, about)}, and the training loss "
            f"{verb} by {_number(change, about)}."
        )
    elif before is not None:
        side = "below" if before <= kept else "above"
        words.append(f"The training loss up to there is {_amount(abs(kept - before), about)} {side} that.")
    value = course.validation(best.metric) if best else None
    if best and value is not None:
        compared = course.metrics[best.metric]
        named, difference = f"the best baseline, {best.name} ({_number(best.value, compared)})", abs(best.value - value)
        if difference < 0.5 * 10.0**-compared.digits:
            words.append(f"It is level with {named}.")
        elif (value < best.value) == (compared.direction == "min"):
            words.append(f"It beats {named}, by {_amount(difference, compared)}.")
        else:
            words.append(f"T{named[1:]}, is better by {_amount(difference, compared)}.")
    return tuple(words)


def _word(course: Course, name: str) -> str:
    """The name of a metric in a sentence."""
    return course.metrics[name].word or name
