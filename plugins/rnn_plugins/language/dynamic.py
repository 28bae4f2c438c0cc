"""Dynamic evaluation: a language model that goes on learning from the text that it has just predicted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minigrad import trees, value_and_grad
from minigrad.trees import Tree
from rnn_plugins.language.model import Model
from rnn_plugins.progress import advance, begin
from rnn_plugins.tasks.task import Batch

Array = NDArray[Any]

SEGMENT = 20
"""Symbols between two updates."""

RATE, DECAY = 2e-4, 3e-3
"""The rate of an update, and that of the way back to the trained weights; both were chosen on Eugene Onegin."""

FLOOR = 1e-3
"""Added to the root mean square of a gradient, so that a weight that training leaves alone is not moved far."""

MEASURED = 1000
"""Segments of the training text on which the mean squares are measured."""


def evaluate_dynamically(model: Model, params: Tree, tokens: Array, training: Array) -> float:
    """The mean loss of each symbol but the first, in nats; after each segment the weights take a step on its loss.

    The rule is that of Krause, Kahembwe, Murray and Renals (2018, arXiv:1709.07432), with g the gradient of a
    segment's mean loss, m its mean square over the end of the training text, and w_0 the trained weights:

        w <- w - RATE g / (sqrt(m) + FLOOR) + DECAY s (w_0 - w),      s = sqrt(m) / mean of sqrt(m), at most 1 / DECAY

    Every symbol is predicted before the weights have seen it.

    Args:
        model: the model.
        params: its trained parameters; they are not changed.
        tokens: (N,), the text, N at least 2.
        training: (M,), the training text, M at least 2.
    """
    step = value_and_grad(model.loss, has_aux=True)
    start = trees.leaves(params)
    spread = [np.sqrt(square) for square in _mean_squares(model, params, training)]
    overall = sum(float(np.sum(root)) for root in spread) / sum(root.size for root in spread)
    scale = [RATE / (root + FLOOR) for root in spread]
    back = [np.minimum(DECAY * root / max(overall, 1e-30), 1) for root in spread]
    weights = [array.copy() for array in start]
    carry, total = model.init_carry(1), 0.0
    begin("dynamic evaluation")
    for batch in _segments(tokens):
        (loss, carry), gradient = step(trees.unflatten(params, weights), carry, batch, None)
        total += float(loss) * batch.weight
        for w, g, w0, a, b in zip(weights, trees.leaves(gradient), start, scale, back, strict=True):
            w += b * (w0 - w) - a * np.asarray(g)
    return total / (len(tokens) - 1)


def _mean_squares(model: Model, params: Tree, training: Array) -> list[Array]:
    """The mean squares of the gradients of segments at the end of the training text, one array per parameter."""
    step = value_and_grad(model.loss, has_aux=True)
    squares = [np.zeros_like(leaf) for leaf in trees.leaves(params)]
    carry, count = model.init_carry(1), 0
    begin("measuring gradients on the training text")
    for batch in _segments(training[-MEASURED * SEGMENT - 1 :]):
        (_, carry), gradient = step(params, carry, batch, None)
        for square, g in zip(squares, trees.leaves(gradient), strict=True):
            square += np.square(g)
        count += 1
    return [square / count for square in squares]


def _segments(tokens: Array) -> Iterator[Batch]:
    """A text in order: SEGMENT symbols and those after them, both (SEGMENT, 1), fewer at its end."""
    last = len(tokens) - 1
    for first in range(0, last, SEGMENT):
        part = np.asarray(tokens[first : first + SEGMENT + 1], np.intp)[:, None]
        yield Batch(part[:-1], part[1:], len(part) - 1)
        advance(min(first + SEGMENT, last) / last)
