"""How far back the input matters to a model: what it loses without symbols further back. It draws nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from minigrad import trees
from minigrad.trees import Tree
from rnn_lab.subject import Subject
from rnn_plugins.data.vocabulary import NOUNS
from rnn_plugins.errors import UserError
from rnn_plugins.language.model import Model
from rnn_plugins.reports.probing import ROWS_AT_ONCE, places, require_finite, rows_at_once, windows
from rnn_plugins.reports.report import Chart, Curve, Findings, Look, Quantity, Report

Array: TypeAlias = NDArray[Any]

FURTHER = 10
"""How many times ``Look.lags`` this report looks back: it takes no gradients, and a text's environments are long."""

FEWER = 4
"""By how much it divides ``Look.positions``: each of its places gives a loss at every lag."""

FORGOTTEN = 0.01
"""The rise of the loss in nats below which what lies further back is called forgotten."""

DRAWN = (1e-3, 20.0)
"""The range of rises in nats that is drawn: what is smaller does not matter, and much of it is rounding."""

WIDTH = 1.15
"""The ratio of the lags between which losses are averaged; small lags stand alone."""


@dataclass(frozen=True)
class Rise:
    """How much a loss rises when only the last symbols are those of the text.

    Attributes:
        rise: (K, P), in nats: row k - 1 is what it rises by with the last k symbols alone, at each of P places.
        loss: (K, P), in nats: what it is with all symbols.
    """

    rise: Array
    loss: Array


def measure_rise(model: Model, params: Tree, tokens: Array, lags: int, count: int, seed: int = 0) -> Rise:
    """Compare what a model predicts after the true past with what it predicts after another one.

    At each place of the text it reads the ``lags`` symbols before it; then it reads the symbols that follow, once from
    the carry that it has, and once from the carry that it has half the text away (less ``lags``). After k symbols the
    second knows the last k alone, so one reading gives all lags.

    Args:
        model: the model.
        params: its parameters.
        tokens: (N,), the text, N at least 6 ``lags`` + 2, so that the other past overlaps nothing of what is read.
        lags: how far back, K.
        count: of places at most; there are at least two.
        seed: of their choice.

    Raises:
        UserError: the states grow beyond all numbers.
    """
    half = (len(tokens) - 2 * lags) // 2
    first = places(lags + half, lags, max(1, count // 2), np.random.default_rng(seed))
    starts = np.concatenate([first, first + half])
    text = windows(tokens, starts + lags + 1, 2 * lags + 1)
    carry, _ = _losses(model, params, model.init_carry(len(starts)), text[: lags + 1])
    both = trees.map(lambda leaf: np.concatenate([leaf, np.roll(leaf, len(first), axis=0)]), carry)
    _, losses = _losses(model, params, both, np.tile(text[lags:], 2))
    full, cut = np.split(losses, 2, axis=1)
    return Rise(cut - full, full)


def _losses(model: Model, params: Tree, carry: Tree, text: Array) -> tuple[Tree, Array]:
    """Symbols (T + 1, B) -> the carry after the first T and the losses of the last T, (T, B).

    Sequences are read side by side, which is fastest, and so few steps at a time that the memory holds what they give.

    Raises:
        UserError: the states grow beyond all numbers.
    """
    batch = text.shape[1]
    steps = min(rows_at_once(model, batch), max(1, ROWS_AT_ONCE // (batch * model.vocabulary_size)))
    parts = []
    for start in range(0, len(text) - 1, steps):
        piece = text[start : start + steps + 1]
        with np.errstate(over="ignore", invalid="ignore"):
            carry, losses = model.losses(params, carry, piece[:-1], piece[1:])
        require_finite((carry, losses))
        parts.append(np.asarray(losses, np.float64))
    return carry, np.concatenate(parts)


def bands(lags: int) -> Array:
    """The first lag of each group of lags that are averaged over, and the end of the last, (G + 1,)."""
    powers = int(math.log(lags) / math.log(WIDTH)) + 1
    firsts = np.unique(np.ceil(WIDTH ** np.arange(powers) - 1e-9).astype(int))
    return np.append(firsts[firsts <= lags], lags + 1)


def reach(lags: Array, rise: Array, threshold: float = FORGOTTEN) -> float | None:
    """The lag at which a curve first falls below a threshold, interpolated over log lags; None if it does not."""
    below = np.flatnonzero(rise < threshold)
    if not len(below):
        return None
    after = int(below[0])
    if after == 0:
        return float(lags[0])
    share = (rise[after - 1] - threshold) / (rise[after - 1] - rise[after])
    return float(lags[after - 1] * (lags[after] / lags[after - 1]) ** share)


class Memory(Report):
    """How far back the input matters.

    The rise of the loss, in nats, when all symbols before the last k are replaced by those of another place of the
    text, against k (in the manner of Khandelwal, He, Qi and Jurafsky 2018, arXiv:1805.04623).
    """

    title: ClassVar[str] = "Memory"
    question: ClassVar[str] = "How much does the loss rise when only the last k symbols are those of the text?"

    def measure(self, subject: Subject, look: Look) -> Findings:
        """Look at one model on one text.

        Raises:
            UserError: the text is too short for any lag, or the states grow beyond all numbers.
        """
        length, asked = len(subject.tokens), FURTHER * look.lags
        lags = min(asked, (length - 2) // 6)  # what measure_rise takes at least
        if lags < 2:
            raise UserError(f"the text has {length} symbols, and looking two of them back takes 14: give a longer one")
        notices = []
        if lags < asked:
            notices.append(
                f"the text is short ({length:,} symbols), which reduces the lags from {asked:,} to {lags:,}, so that "
                "the other past has nothing of what is predicted"
            )
        found = measure_rise(subject.model, subject.params, subject.tokens, lags, look.positions // FEWER, look.seed)
        count = found.rise.shape[1]
        edges = bands(lags)
        widths = np.diff(edges)
        by_group = np.add.reduceat(found.rise, edges[:-1] - 1, axis=0) / widths[:, None]  # (G, P)
        rise = by_group.mean(axis=1)
        error = by_group.std(axis=1, ddof=1) / math.sqrt(count)
        centres = np.sqrt(edges[:-1] * (edges[1:] - 1.0))
        last = reach(centres, rise)
        unit = NOUNS[subject.vocabulary.level]
        what = (
            f"the mean over {count:,} places of the text of how much the loss rises when the last k symbols are those "
            f"of the text and the {lags:,} before them are those of another place of it"
        )
        chart = Chart(
            "memory",
            "The rise of the loss when only the last symbols are known",
            f"known {unit}s k",
            "rise of the loss, nats",
            (Curve("", centres, rise, rise - 2 * error, rise + 2 * error),),
            log_x=True,
            log_y=True,
            y_limits=DRAWN,
            definition=f"{what[0].upper()}{what[1:]}; lags that differ by less than {WIDTH - 1:.0%} are averaged over. "
            "The band is two standard errors of that mean to either side.",
        )
        quantities = [
            Quantity(
                "reach",
                f"lag at which the rise falls below {FORGOTTEN:g} nats",
                last,
                f"{unit}s",
                f"The number k at which it first comes below {FORGOTTEN:g} nats, interpolated: {what}.",
                f"not within {lags:,}",
            ),
            *(_rise_at(k, edges, rise, error, what) for k in (1, 10, 100, 1000) if k <= lags),
            Quantity(
                "full_loss",
                "loss with all symbols",
                float(found.loss.mean()),
                "nats",
                f"The mean loss a symbol at the same places, {lags:,} symbols and more of the text being known.",
            ),
        ]
        return Findings(tuple(quantities), (chart,), _verdict(last, lags, rise, unit), tuple(notices))


def _rise_at(lag: int, edges: Array, rise: Array, error: Array, what: str) -> Quantity:
    place = int(np.searchsorted(edges, lag, side="right")) - 1
    first, last = int(edges[place]), int(edges[place + 1]) - 1
    over = f"k from {first} to {last}" if last > first else f"k = {lag}"
    return Quantity(
        f"rise_{lag}",
        f"rise at lag {lag}",
        float(rise[place]),
        "nats",
        f"For {over}, {what}; its standard error is {error[place]:.2g}.",
    )


def _verdict(last: float | None, lags: int, rise: Array, unit: str) -> tuple[str, ...]:
    if last is None:
        return (f"Remembers: what lies more than {lags:,} {unit}s back still lowers the loss, by {rise[-1]:.2g} nats.",)
    if last <= 1:
        return (f"Knows no more than the last {unit}: all before it lowers the loss by less than {FORGOTTEN:g} nats.",)
    return (f"The last {last:.3g} {unit}s count: all before them lowers the loss by less than {FORGOTTEN:g} nats.",)
