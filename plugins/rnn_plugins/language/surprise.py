"""What a language model expects at each symbol of a text, and how much each surprises it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from minigrad import log_softmax
from minigrad.trees import Tree
from rnn_plugins.language.model import BLOCK, Model

Array: TypeAlias = NDArray[Any]

READ_AT_ONCE = 1000
"""Symbols predicted in one call, to limit memory."""


class Prediction(NamedTuple):
    """A model's prediction of each symbol of a text, given all those before it.

    Attributes:
        bits: (N,), -log2 of its probability; NaN for the first, which is not predicted.
        likely: (N, K), the likeliest symbols at its position, the likeliest first; for the first symbol, itself.
        shares: (N, K), their probabilities; NaN for the first symbol.
    """

    bits: Array
    likely: Array
    shares: Array


def predict(
    model: Model, params: Tree, tokens: Array, top: int = 1, told: Callable[[float], None] | None = None
) -> Prediction:
    """Predict each symbol of a text but the first, in one pass.

    Args:
        model: the model.
        params: its parameters.
        tokens: (N,).
        top: K, the number of likeliest symbols at each position; at most those of the vocabulary.
        told: is told the share of the text that has been read.
    """
    count = min(top, model.vocabulary_size)
    bits, shares = np.full(len(tokens), np.nan), np.full((len(tokens), count), np.nan)
    likely = np.repeat(np.array(tokens, np.intp)[:, None], count, axis=1)
    block = max(1, min(READ_AT_ONCE, BLOCK // model.vocabulary_size))
    carry = model.init_carry(1)
    for start in range(0, len(tokens) - 1, block):
        read = np.asarray(tokens[start : start + block + 1], np.intp)
        carry, logits = model.unroll(params, carry, read[:-1, None])
        scores = np.asarray(log_softmax(logits[:, 0]), np.float64)
        some = slice(start + 1, start + len(read))
        bits[some] = -scores[np.arange(len(scores)), read[1:]] / math.log(2)
        likely[some] = np.argsort(-scores, axis=1, kind="stable")[:, :count] if count > 1 else scores.argmax(1)[:, None]
        shares[some] = np.exp(np.take_along_axis(scores, likely[some], axis=1))
        if told:
            told(some.stop / len(tokens))
    return Prediction(bits, likely, shares)
