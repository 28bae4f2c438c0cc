"""Numbers from the probabilities of their symbols, and how right they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from rnn_plugins.tasks.read.task import Example

Array: TypeAlias = NDArray[Any]

DIGITS = "0123456789"
"""The symbols of numbers."""

STOP = len(DIGITS)
"""The symbol after the last digit, where numbers have several lengths."""


def likeliest(symbols: Array, count: int) -> list[tuple[str, float]]:
    """The numbers with the largest log probabilities, in nats, of the symbols that are read, (S, K).

    Where there is a stop symbol, a number ends before the first one, or with the last but one symbol.
    """
    ends = symbols.shape[1] > STOP
    found, going = [], [("", 0.0)]
    for place, row in enumerate(symbols.tolist()):
        if ends and place:
            last = place == len(symbols) - 1
            found += [(text, nats + (0.0 if last else row[STOP])) for text, nats in going]
            if last:
                going = []
        longer = [(text + digit, nats + row[DIGITS.index(digit)]) for text, nats in going for digit in DIGITS]
        going = sorted(longer, key=lambda one: -one[1])[:count]
    return sorted(found + going, key=lambda one: -one[1])[:count]


def measured(symbols: Array, examples: Sequence[Example]) -> dict[str, float]:
    """The metrics of log probabilities (N, S, K) of the symbols of examples."""
    right = digits = total = count = 0
    nats = 0.0
    for rows, example in zip(symbols, examples, strict=True):
        ids, text = example.ids, example.text
        right += likeliest(rows, 1)[0][0] == text
        digits += int((rows[: len(text), :STOP].argmax(1) == ids[: len(text)]).sum())
        nats -= float(rows[np.arange(len(ids)), ids].sum())
        total, count = total + len(text), count + len(ids)
    return {"accuracy": right / len(examples), "digits": digits / total, "loss": nats / count}
