"""A text as a language model reads it: what it expected at each symbol, what moved it, and its gates."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from minigrad import trees
from minigrad.scan import Lookup
from rnn_cells.anatomy import Activation
from rnn_plugins.data.vocabulary import Vocabulary
from rnn_plugins.errors import UserError
from rnn_plugins.language.surprise import predict
from rnn_plugins.reports.probe import Probe, Window
from rnn_plugins.reports.probing import input_gradients, observe
from rnn_plugins.reports.report import Findings, Look, Quantity, Report
from rnn_plugins.reports.subject import Subject, language_of
from rnn_plugins.reports.transcript import Trace, Transcript
from rnn_plugins.words import amount

Array: TypeAlias = NDArray[Any]

SHOWN = 400
"""Symbols of the text that are shown: its first ones."""

TOP = 5
"""Symbols that are told of those that were expected."""

FARTHEST = 60
"""Inputs before a symbol whose influence is measured, or as many as ``Look.lags`` if that is fewer."""

AT_ONCE = 64
"""Symbols whose gradients are computed together at most."""


class Text(Report):
    """A text whose every character can be chosen on the page: what was expected there, and why.

    The surprise of each symbol (-log2 of its probability), the likeliest symbols at its position, the gradient of its
    log-probability with respect to each earlier input, and the mean of each gate.
    """

    title: ClassVar[str] = "A text, symbol by symbol"
    question: ClassVar[str] = "What did the network expect at each place, and which earlier symbols moved it?"

    def measure(self, subject: Subject, look: Look) -> Findings:
        """Measure one language model.

        Raises:
            UserError: it is none, the text has a single symbol, or the scores are not finite.
        """
        language, probe = language_of(subject, "text"), subject.probe
        vocabulary, tokens = language.vocabulary, np.asarray(subject.examples[:SHOWN], np.intp)
        if len(tokens) < 2:
            count = amount(len(tokens), probe.unit)
            raise UserError(f"the text has {count}; expected at least 2, since the first is not predicted")
        prediction = predict(language.model, subject.params, tokens, TOP)
        if not np.isfinite(prediction.bits[1:]).all():
            raise UserError("the scores of the network are not finite: its training went wrong")
        moved = influence(probe, len(tokens), min(look.lags, FARTHEST))
        half = half_of(moved)
        unit, blind = probe.unit, math.log2(len(vocabulary))
        figure = Transcript(
            key="text",
            title=f"The first {amount(len(tokens), unit)}",
            symbols=_written(vocabulary, tokens),
            values=prediction.bits,
            low=0.0,
            high=blind,
            value_label=f"bits per {unit}",
            definition=_definition(unit, blind),
            unit=unit,
            expected=((), *_expected(vocabulary, prediction.likely[1:], prediction.shares[1:])),
            influence=moved,
            traces=_gates(probe, len(tokens)),
        )
        quantities = (
            Quantity(
                "mean_bits",
                "mean surprise",
                float(prediction.bits[1:].mean()),
                f"bits per {unit}",
                f"Of the {amount(len(tokens) - 1, unit)} shown after the first.",
            ),
            Quantity(
                "half_influence",
                "half of the influence is within",
                half,
                unit if half == 1 else f"{unit}s",
                f"The smallest distance within which lies at least half of the sum of the influences of all inputs, in "
                f"the mean over the {unit}s shown. The influence of an input is the norm of the derivative of the "
                f"{unit}'s log-probability with respect to it; {moved.shape[1]} inputs back are measured.",
            ),
        )
        why = probe.anatomy.reason
        notices = (f"no gates are shown, because the step cannot be traced: {why}",) if why else ()
        return Findings(quantities, (figure,), notices=notices)


def _definition(unit: str, blind: float) -> str:
    return (
        f"Red is the surprise of each {unit}: -log2 of its probability given all before it; full at {blind:.3g} bits, "
        f"the surprise of uniform guessing. The first is not predicted. Blue is how much each earlier {unit} moved the "
        f"chosen one: the norm of the derivative of its log-probability (nats) with respect to that input, full at the "
        f"largest. Gates are means over units, in the step that reads the chosen {unit}."
    )


def influence(probe: Probe, count: int, lags: int) -> Array:
    """The norms of the derivatives of each symbol's log-probability with respect to the inputs before it.

    Args:
        probe: of a language model along a text.
        count: N, the first symbols of the text.
        lags: L, inputs before each symbol.

    Returns:
        (N, L): of the input k + 1 symbols before at k; NaN where there is none.
    """
    norms = np.full((count, lags), np.nan)
    at_once = min(AT_ONCE, probe.rows_at_once(lags + AT_ONCE))
    for start in range(1, count, at_once):
        # Each row of the batch is the same window, with the loss of another of its last symbols.
        places = np.arange(start, min(start + at_once, count))
        first, end = max(start - lags, 0), int(places[-1])
        ends, length = np.array([end]), end - first
        one = probe.window(ends, length, first)
        window = Window(
            trees.map(partial(np.repeat, repeats=len(places), axis=0), one.carry),
            np.repeat(one.xs.array() if isinstance(one.xs, Lookup) else one.xs, len(places), axis=1),
        )
        targets = np.repeat(probe.targets(ends, length), len(places), axis=1)
        gradients = input_gradients(probe, window, targets, places - 1 - first)
        found = np.linalg.norm(gradients.astype(np.float64), axis=-1)  # (T, B)
        for row, place in enumerate(places.tolist()):
            back = min(lags, place)
            norms[place, :back] = found[place - back - first : place - first, row][::-1]
    return norms


def half_of(influence: Array) -> int | None:
    """The smallest distance within which half of the influence lies, in the mean over symbols; None without any."""
    with np.errstate(invalid="ignore"):
        shares = np.where(np.isnan(influence), 0.0, influence) / np.nansum(influence, axis=1, keepdims=True)
    shares = shares[np.isfinite(shares).all(axis=1)]
    if not len(shares):
        return None
    return int(np.searchsorted(np.cumsum(shares.mean(axis=0)), 0.5 * (1 - 1e-9))) + 1


def _gates(probe: Probe, count: int) -> tuple[Trace, ...]:
    """The mean over units of each activation, along the first symbols."""
    parts = probe.anatomy.activations
    ends = np.array([count])
    seen = observe(probe, probe.window(ends, count), [part.op for part in parts])
    means = [np.asarray(values[:, 0], np.float64).mean(axis=1) for values in seen.activations]
    return tuple(Trace(part.label, mean, *_range(part, mean)) for part, mean in zip(parts, means, strict=True))


def _range(part: Activation, means: Array) -> tuple[float, float]:
    """What the values of an activation lie between; of one without an upper bound, its largest mean."""
    if part.function == "relu":
        return 0.0, float(means.max()) or 1.0
    return (-1.0, 1.0) if part.function == "tanh" else (0.0, 1.0)


def _written(vocabulary: Vocabulary, tokens: Array) -> tuple[str, ...]:
    return tuple(vocabulary.symbols[token] for token in tokens.tolist())


def _expected(vocabulary: Vocabulary, likely: Array, shares: Array) -> list[tuple[tuple[str, float], ...]]:
    symbols = vocabulary.symbols
    return [
        tuple((symbols[symbol], share) for symbol, share in zip(*pair, strict=True))
        for pair in zip(likely.tolist(), shares.tolist(), strict=True)
    ]
