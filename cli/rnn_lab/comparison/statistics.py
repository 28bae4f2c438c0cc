"""Rank several samples by their means, with ties."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.05
"""The highest probability that samples with equal means are called different."""


def welch(a: Sequence[float], b: Sequence[float]) -> float:
    """The p-value of Welch's two-sided t-test: the probability of so large a difference between equal means.

    It assumes samples from normal distributions, whose variances may differ (Welch 1947).

    Args:
        a: two or more numbers.
        b: likewise.
    """
    gap = abs(statistics.fmean(a) - statistics.fmean(b))
    errors = [statistics.variance(sample) / len(sample) for sample in (a, b)]
    total = sum(errors)
    if not total:
        return 0.0 if gap else 1.0
    freedom = 1 / sum((error / total) ** 2 / (len(x) - 1) for error, x in zip(errors, (a, b), strict=True))
    return student(gap / math.sqrt(total), freedom)


def student(t: float, freedom: float) -> float:
    """The probability that the absolute value of Student's t exceeds ``t``, for one or more degrees of freedom.

    With t = sqrt(freedom) tan(x), its density becomes cos(x) ** (freedom - 1), which is smooth.
    """
    nodes, weights = _gauss()
    end = math.atan(t / math.sqrt(freedom))
    within = float(weights @ np.cos((nodes + 1) * end / 2) ** (freedom - 1)) * end / 2
    whole = math.exp(math.lgamma(freedom / 2) - math.lgamma((freedom + 1) / 2)) * math.sqrt(math.pi) / 2
    return max(0.0, 1 - within / whole)


@cache
def _gauss() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Nodes and weights for integrals from -1 to 1, exact for polynomials up to degree 199."""
    return np.polynomial.legendre.leggauss(100)


def level(samples: int) -> float:
    """The p-value below which two of so many samples differ: 0.05 divided by the number of pairs (Bonferroni)."""
    return LEVEL / max(1, math.comb(samples, 2))


class Tier(NamedTuple):
    """Samples that are tied, the one with the lowest mean first.

    Attributes:
        names: one or more names.
        chance: the p-value of its first against the best tier's first; None for the best tier.
    """

    names: tuple[str, ...]
    chance: float | None


def rank(samples: Mapping[str, Sequence[float]]) -> list[Tier]:
    """Samples by their means, the lowest first; those that are tied with the first of a tier belong to it.

    Two are tied unless Welch's t-test distinguishes them at ``level``: if all means are equal, the probability that any
    two are called different is at most 5 %.

    Args:
        samples: two or more numbers each, by name.
    """
    needed = level(len(samples))
    left = sorted(samples, key=lambda name: statistics.fmean(samples[name]))
    tiers: list[Tier] = []
    while left:
        best = left[0]
        names = tuple(name for name in left if name == best or welch(samples[best], samples[name]) >= needed)
        chance = welch(samples[tiers[0].names[0]], samples[best]) if tiers else None
        tiers.append(Tier(names, chance))
        left = [name for name in left if name not in names]
    return tiers
