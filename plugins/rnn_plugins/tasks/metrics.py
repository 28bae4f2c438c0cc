"""Metrics of labels, their table and picture by class, and the comparison of a network with its baselines in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnn_plugins.reports.report import Image, Table
from rnn_plugins.tasks.task import SHARE, Metric, Score

Array: TypeAlias = NDArray[Any]

CLEAR = 1.96
"""A normal variable is farther from its mean than so many standard deviations in 5 % of the cases."""

NEEDS_METRICS = "needs the extra metrics: pip install 'rnn-lab[metrics]'"
"""The end of a sentence on what is left out without the optional libraries."""


def accuracy(true: ArrayLike, guessed: ArrayLike) -> float:
    """The share of labels (N,) that are right, N at least 1."""
    return float(np.mean(np.asarray(true) == np.asarray(guessed)))


def macro_f1(true: ArrayLike, guessed: ArrayLike) -> float:
    """The mean F1 of the classes that occur among the labels (N,) or the guesses (N,), each with the same weight.

    F1 is the harmonic mean of precision and recall, 0 for a class that is never guessed right (van Rijsbergen 1979).
    """
    _, places = np.unique(np.concatenate([np.ravel(true), np.ravel(guessed)]), return_inverse=True)
    true, guessed = np.split(places, 2)
    return float(np.mean(_rates(counts(true, guessed, int(places.max()) + 1))[2]))


def counts(true: ArrayLike, guessed: ArrayLike, classes: int) -> Array:
    """The confusion matrix (classes, classes): how many examples of each class (row) are guessed as each (column).

    Args:
        true: (N,), indices of classes.
        guessed: (N,), likewise.
        classes: how many there are.
    """
    cells = np.ravel(true) * classes + np.ravel(guessed)
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes)


def per_class(true: ArrayLike, guessed: ArrayLike, labels: Sequence[str]) -> Table:
    """Precision, recall and F1 of each class, and the number of its examples.

    Args:
        true: (N,), indices of labels.
        guessed: (N,), likewise.
        labels: the classes.
    """
    matrix = counts(true, guessed, len(labels))
    precision, recall, f1 = (rates.tolist() for rates in _rates(matrix))
    seen, predicted = matrix.sum(1).tolist(), matrix.sum(0).tolist()
    rows = [
        (
            label,
            seen[i],
            predicted[i],
            precision[i] if predicted[i] else None,
            recall[i] if seen[i] else None,
            f1[i] if seen[i] or predicted[i] else None,
        )
        for i, label in enumerate(labels)
    ]
    return Table(
        "classes",
        "Metrics by class",
        ("CLASS", "COUNT", "PREDICTED", "PRECISION", "RECALL", "F1"),
        tuple(rows),
        "COUNT is the number of examples of the class, PREDICTED how often it was predicted. PRECISION is the share "
        "of these predictions that are right, RECALL the share of the examples that are found, F1 their harmonic mean.",
        (None, None, None, SHARE, SHARE, SHARE),
    )


def confusion(true: ArrayLike, guessed: ArrayLike, labels: Sequence[str]) -> Image:
    """The confusion matrix as a picture; a row without examples is blank.

    Args:
        true: (N,), indices of labels.
        guessed: (N,), likewise.
        labels: the classes.
    """
    matrix = counts(true, guessed, len(labels))
    total = matrix.sum(1, keepdims=True)
    shares = np.where(total > 0, matrix / np.maximum(total, 1), np.nan)
    return Image(
        "confusion",
        "Confusion matrix",
        "predicted class",
        "true class",
        shares,
        "share of the true class",
        tuple(labels),
        tuple(labels),
        definition="For each true class (a row), the share of its examples that was predicted as each class (a "
        "column). The diagonal is what is right.",
        limits=(0.0, 1.0),
    )


class Gains(NamedTuple):
    """How many more labels a network has right than its baselines, for the verdict on the accuracy.

    Attributes:
        by: for each baseline, by its name, the difference on each example, (N,).
        unit: what an example is, in the plural.
    """

    by: Mapping[str, Array]
    unit: str


def is_clear(gains: Array) -> bool:
    """Whether a difference between two accuracies on the same examples is more than chance, with 95 % confidence.

        |sum d| / sqrt(sum d^2) - 1 / sqrt(n) > 1.96            with n the number of d that are not 0

    For examples of one label, where d is 1, 0 or -1, that is McNemar's test (1947) with Edwards's correction for
    continuity (1948), (|b - c| - 1)^2 / (b + c) > 3.84. An example of several labels, such as a sentence, counts once,
    with the sum over its labels, since these are not independent.

    Args:
        gains: d, how many more labels of each example the one has right, (N,).
    """
    gains = gains[gains != 0]
    if not len(gains):
        return False
    return bool(abs(gains.sum()) / math.sqrt(np.square(gains).sum()) - 1 / math.sqrt(len(gains)) > CLEAR)


def verdict(scores: Sequence[Score], name: str, metric: Metric, gains: Gains | None = None) -> tuple[str, ...]:
    """Which baselines the network beats, and which beat it, in sentences.

    Two values that a table shows as the same number are level.

    Args:
        scores: the network's first, then those of the baselines; those without the metric are left out.
        name: the metric's name.
        metric: its description.
        gains: for an accuracy; a difference that is not clear is then called so.
    """
    called, own = metric.word or name.replace("_", " "), scores[0].metrics.get(name)
    if own is None:
        return ()
    beaten: list[Score] = []
    level: list[Score] = []
    better: list[Score] = []
    unclear: list[Score] = []
    for score in scores[1:]:
        value = score.metrics.get(name)
        if value is not None:
            gain = round(own, metric.digits) - round(value, metric.digits)
            gain = gain if metric.direction == "max" else -gain
            if gain and gains and not is_clear(gains.by[score.name]):
                unclear.append(score)
            else:
                (beaten if gain > 0 else better if gain < 0 else level).append(score)
    own_value = f"{own:.{metric.digits}f}"
    sentences = []
    if beaten:
        sentences.append(
            f"The network's {called}, {own_value}, is better than that of {_listed(beaten, name, metric)}."
        )
    if level:
        sentences.append(f"The network's {called} is level with that of {_listed(level, name, metric)}.")
    if unclear and gains:
        count = len(next(iter(gains.by.values())))
        sentences.append(
            f"The network's {called}, {own_value}, is not clearly different from that of "
            f"{_listed(unclear, name, metric)} on {count:,} {gains.unit}: it may be chance (McNemar's test)."
        )
    if better:
        one = len(better) == 1
        listed = _listed(better, name, metric)
        sentences.append(
            f"{listed[0].upper()}{listed[1:]} {'has' if one else 'have'} a better {called} than the network, "
            f"{own_value}: it has learnt less than {'this baseline' if one else 'these baselines'}."
        )
    return tuple(sentences)


def _rates(matrix: Array) -> tuple[Array, Array, Array]:
    """Precision, recall and F1 of each class, 0 where undefined."""
    right, seen, predicted = np.diag(matrix), matrix.sum(1), matrix.sum(0)

    def share(part: Array, whole: Array) -> Array:
        return np.asarray(part / np.maximum(whole, 1))

    return share(right, predicted), share(right, seen), share(2 * right, seen + predicted)


def _listed(scores: Sequence[Score], name: str, metric: Metric) -> str:
    """``bag of words (0.750) and the commonest class (0.501)``."""
    words = [f"{score.name} ({score.metrics[name]:.{metric.digits}f})" for score in scores]
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
