"""Integrated gradients: how much each input of a sequence contributes to a score."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from minigrad import log_softmax, sum, value_and_grad

Array = NDArray[Any]

TOLERANCE = 0.01
"""How far the sum of contributions may be from the difference of the scores, relative to it or to 1."""

FEWEST, MOST = 16, 512
"""Points on the path from the baseline to the inputs: at first, and at most."""

AT_ONCE = 1 << 16
"""Steps of sequences that are computed together."""


class Contributions(NamedTuple):
    """What the inputs of one sequence contribute.

    Attributes:
        values: (T, n), one for each number of an input.
        score: of the sequence.
        baseline: the score of the baseline.
        exact: whether their sum is within ``TOLERANCE`` of the difference of the two scores.
    """

    values: Array
    score: float
    baseline: float
    exact: bool


def log_odds(logits: Any, label: int) -> Any:
    """The log odds, log p / (1 - p), of a class from logits (B, K), in nats, (B,); not saturated where p is near 1."""
    others = logits[:, [i for i in range(logits.shape[1]) if i != label]]
    return logits[:, label] - (others[:, 0] - log_softmax(others)[:, 0])  # minus log sum exp of the others


def integrated_gradients(score: Callable[[Any], Any], xs: Array) -> Contributions:
    """The contribution of each input to a score, from a baseline of zeros on (Sundararajan, Taly and Yan 2017).

        c = x * integral of dscore(a x)/dx over a from 0 to 1           (arXiv:1703.01365)

    The integral is taken with Gauss's points, whose number is doubled until the sum of c is the difference of scores.

    Args:
        score: from inputs (T, B, n) to scores (B,), differentiable, each sequence for itself.
        xs: the inputs of one sequence, (T, n).
    """

    def total(batch: Any) -> tuple[Any, Any]:
        scores = score(batch)
        return sum(scores), scores

    gradient = value_and_grad(total, has_aux=True)
    ends = np.asarray(score(np.stack([np.zeros_like(xs), xs], 1)), np.float64)
    baseline, found = ends.tolist()
    points = FEWEST
    while True:
        places, weights = np.polynomial.legendre.leggauss(points)
        places, weights = ((places + 1) / 2).astype(xs.dtype), weights / 2
        mean = np.zeros(xs.shape)
        at_once = max(1, AT_ONCE // max(len(xs), 1))
        for start in range(0, points, at_once):
            some = slice(start, start + at_once)
            _, slopes = gradient(xs[:, None] * places[some, None])  # (T, B, n)
            mean += np.einsum("tbn,b->tn", slopes, weights[some])
        values = xs * mean
        error = abs(values.sum() - (found - baseline))
        exact = bool(error <= TOLERANCE * max(1.0, abs(found - baseline)))
        if exact or points >= MOST:
            return Contributions(values, found, baseline, exact)
        points *= 2
