"""Scores of numbers that were read, beside baselines: by length or by digit, and what each glimpse is for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from minigrad.trees import Tree
from rnn_plugins.data.images import unit
from rnn_plugins.data.numbered import glyphs_again
from rnn_plugins.reports.report import Figure, Table
from rnn_plugins.tasks import baselines
from rnn_plugins.tasks.metrics import NEEDS_METRICS, confusion, per_class, verdict
from rnn_plugins.tasks.read.columns import ColumnReader
from rnn_plugins.tasks.read.explaining import left_out
from rnn_plugins.tasks.read.model import Glimpser
from rnn_plugins.tasks.read.results import DIGITS, measured
from rnn_plugins.tasks.task import Assessment, Score

if TYPE_CHECKING:
    from rnn_plugins.tasks.read.task import Example, Read

Array: TypeAlias = NDArray[Any]

FITTED = 3000
"""The most training images of the linear model: house numbers are drawn one by one."""

EXAMINED = 256
"""The most images whose glimpses are left out."""


def assess_numbers(
    task: Read,
    model: Glimpser | ColumnReader,
    params: Tree,
    examples: Sequence[Example],
    training: Sequence[Example] | None,
    *,
    name: str,
) -> Assessment:
    """The network's metrics and those of baselines, tables, and what is confused.

    Args:
        task: the task.
        model: the network.
        params: its parameters.
        examples: what is read.
        training: what it was trained on; None leaves out the baselines.
        name: the run's.
    """
    symbols, notices = task.read_all(model, params, examples), list[str]()
    scores = [Score(name, "model", measured(symbols, examples))]
    if training:
        guessed = _commonest(model, training, len(examples))
        scores.append(Score("the commonest digits", "baseline", measured(guessed, examples)))
        known = [training[i] for i in np.random.default_rng(0).permutation(len(training))[:FITTED].tolist()]
        called = f"a linear model of {len(known):,} images"
        try:
            scores.append(Score(called, "baseline", measured(_linear(model, known, examples), examples)))
        except ImportError:
            notices.append(f"the baseline {called} {NEEDS_METRICS}")
        again, glyphs = glyphs_again(training[0].picture.source, examples[0].picture.source)
        if again:
            notices.append(
                f"{again:,} of the {glyphs:,} images of digits with which these house numbers are drawn are among "
                "those of training, so they are easier to read than with others: name other images of digits"
            )
    figures: list[Figure] = []
    if model.symbols > 1:
        figures.append(_by_length(symbols, examples))
    else:
        true, read = [int(e.ids[0]) for e in examples], symbols[:, 0].argmax(1)
        figures += per_class(true, read, tuple(DIGITS)), confusion(true, read, tuple(DIGITS))
    if isinstance(model, Glimpser):
        figures.append(_by_glimpse(task, model, params, examples))
    return Assessment(
        tuple(scores),
        task.metrics,
        len(examples),
        "numbers",
        verdict(scores, "accuracy", task.metrics["accuracy"]),
        tuple(notices),
        figures=tuple(figures),
    )


def _by_length(symbols: Array, examples: Sequence[Example]) -> Table:
    """The metrics of numbers of each length."""
    lengths = np.array([len(example.text) for example in examples])
    rows = []
    for length in np.unique(lengths).tolist():
        places = np.flatnonzero(lengths == length).tolist()
        found = measured(symbols[places], [examples[i] for i in places])
        rows.append((length, len(places), found["accuracy"], found["digits"], found["loss"]))
    return Table(
        "lengths",
        "By number of digits",
        ("DIGITS", "COUNT", "ACCURACY", "OF DIGITS", "NATS"),
        tuple(rows),
        "ACCURACY is the share of numbers of which all digits and the end are right, OF DIGITS the share of digits "
        "that are right at their place, NATS the mean of -log p of a symbol.",
    )


def _by_glimpse(task: Read, model: Glimpser, params: Tree, examples: Sequence[Example]) -> Table:
    """What is lost without each glimpse, and how often it is the one that counts most."""
    each = model.per_symbol
    some = [examples[i] for i in np.random.default_rng(0).permutation(len(examples))[:EXAMINED].tolist()]
    (pixels, keys, lengths), targets, _ = task.pack(some)
    falls = left_out(model, params, pixels, keys, targets, lengths)  # (T, B)
    lost = [falls[: each * length, b].reshape(length, each) for b, length in enumerate(lengths.tolist())]
    fall = np.concatenate(lost)  # (symbols, per_symbol)
    decides = np.bincount(fall.argmax(1), minlength=each) / len(fall)
    rows = tuple((j + 1, float(fall[:, j].mean()), float(decides[j])) for j in range(each))
    of = "symbol" if model.symbols > 1 else "digit"
    return Table(
        "glimpses",
        "What is lost without each glimpse",
        ("GLIMPSE", "NATS", "DECIDES"),
        rows,
        f"The glimpses of a {of}, in order. NATS is the mean fall of log p of the true number if the patches of this "
        f"glimpse are blank, and all others and the path are as they are; DECIDES is the share of {of}s for which that "
        f"fall is the largest. Of {len(some):,} images.",
    )


def _commonest(model: Glimpser | ColumnReader, training: Sequence[Example], count: int) -> Array:
    """Log probabilities of the symbols by their frequencies at each place, (count, S, K)."""
    seen = np.ones((model.symbols, model.classes))
    for example in training:
        seen[np.arange(len(example.ids)), example.ids] += 1
    return np.broadcast_to(np.log(seen / seen.sum(1, keepdims=True)), (count, *seen.shape))


def _linear(model: Glimpser | ColumnReader, training: Sequence[Example], examples: Sequence[Example]) -> Array:
    """Log probabilities of a logistic regression on all pixels for each place, (N, S, K)."""
    known, tried = ([unit(example.picture.pixels()) for example in some] for some in (training, examples))
    found = np.full((len(tried), model.symbols, model.classes), -np.inf)
    for place in range(model.symbols):
        there = [i for i, example in enumerate(training) if len(example.ids) > place]
        labels = [int(training[i].ids[place]) for i in there]
        if len(set(labels)) > 1:
            seen, name = [known[i] for i in there], f"the baseline for symbol {place + 1} of {model.symbols}"
            found[:, place] = baselines.linear(seen, labels, [1.0] * len(there), tried, model.classes, name=name)
        elif labels:
            found[:, place, labels[0]] = 0
    return found
