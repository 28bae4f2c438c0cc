"""Log densities and divergences of probability distributions, and the noise that samples are made of.

All work element by element on arrays or tensors that broadcast; the density of independent elements is their sum.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minigrad.functions import Share
from minigrad.primitives import exp, log, softplus, square, where
from minigrad.tensor import Array


def bernoulli(logits: Any, x: Any) -> Any:
    """The log probability of x, in nats, for x in [0, 1], where sigmoid(logits) is the probability of 1.

    It is ``x log p + (1 - x) log(1 - p)``, without overflow; for x between 0 and 1, the expectation of the log
    probability of a bit that is 1 with probability x.
    """
    return x * logits - softplus(logits)


def discretised_logistic(x: Any, mean: Any, log_scale: Any, levels: int) -> Any:
    """The log probability, in nats, of numbers that have one of some levels, equally far apart from 0 to 1.

    Each level has what a logistic distribution, with the density ``sigmoid'((x - mean) / scale) / scale``, has nearest
    to it; the first and the last level have all that is beyond them (Salimans et al. 2017, arXiv:1701.05517, equation
    2). With u and l the distances of the borders of a level in scales, it is log(sigmoid(u) - sigmoid(l)), computed as
    ``log sigmoid(u) + log sigmoid(-l) + log(1 - exp(l - u))``, without cancellation.

    Args:
        x: numbers; each is k / (levels - 1) for a whole k.
        mean: of the distribution.
        log_scale: the logarithm of its scale.
        levels: how many there are, at least 2.
    """
    half, steepness = 0.5 / (levels - 1), exp(-log_scale)
    below = -softplus((mean - x - half) * steepness)  # log of the share below the upper border
    above = -softplus((x - half - mean) * steepness)  # and above the lower one
    between = below + above + log(1 - exp(-2 * half * steepness))
    return where(x < half, below, where(x > 1 - half, above, between))


def gaussian(x: Any, mean: Any, log_deviation: Any) -> Any:
    """The log density at x, in nats, of a normal distribution with this mean and standard deviation, given as a log."""
    return -square((x - mean) * exp(-log_deviation)) / 2 - log_deviation - math.log(2 * math.pi) / 2


def gaussian_divergence(mean: Any, log_deviation: Any) -> Any:
    """The Kullback-Leibler divergence, in nats, of a normal distribution from the standard normal one.

    It is the expectation of log p - log q under p, for p with this mean and deviation: ``(m^2 + s^2 - 1) / 2 - log s``
    (Kingma and Welling 2014, arXiv:1312.6114, appendix B).
    """
    return (square(mean) + exp(2 * log_deviation) - 1) / 2 - log_deviation


def standard_normal(
    shape: tuple[int, ...], rng: np.random.Generator, dtype: Any = np.float32, *, axis: int = 0
) -> Array:
    """Numbers from the standard normal distribution; mean plus deviation times these is a sample that has a gradient.

    Args:
        shape: of the numbers.
        rng: draws them; a ``Share`` draws those of the whole batch.
        dtype: of the numbers.
        axis: that of the batch.
    """
    if isinstance(rng, Share):
        return rng.draw(shape, axis, "standard_normal").astype(dtype, copy=False)
    return rng.standard_normal(shape, np.float32).astype(dtype, copy=False)
