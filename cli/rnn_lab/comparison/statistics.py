"""Which of several samples have different means, and which are tied."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.05
"""How often, at most, samples whose means are the same are called different."""


def welch(a: Sequence[float], b: Sequence[float]) -> float:
    """How probable a difference of means at least this large is where there is none: Welch's t-test, two-sided.

    It holds for samples from normal distributions whose variances may differ (Welch 1947).

    Args:
        a: two numbers or more.
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
    """The probability that Student's t is beyond ``t`` on either side, for one degree of freedom or more.

    With t = sqrt(freedom) tan(x), its density becomes cos(x) ** (freedom - 1), which is smooth.
    """
    nodes, weights = _gauss()
    end = math.atan(t / math.sqrt(freedom))
    within = float(weights @ np.cos((nodes + 1) * end / 2) ** (freedom - 1)) * end / 2
    whole = math.exp(math.lgamma(freedom / 2) - math.lgamma((freedom + 1) / 2)) * math.sqrt(math.pi) / 2
    return max(0.0, 1 - within / whole)


@cache
def _gauss() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Nodes and weights of an integral from -1 to 1, exact for polynomials up to the degree 199."""
    return np.polynomial.legendre.leggauss(100)


def level(samples: int) -> float:
    """Below what two of so many samples are called different: 0.05 divided by the number of pairs (Bonferroni)."""
    return LEVEL / max(1, math.comb(samples, 2))


class Tier(NamedTuple):
    """Samples that cannot be told apart, the one with the lowest mean first.

    Attributes:
        names: of one or more.
        chance: how probable a gap as that to the best tier's first would be if there were none; None for the best tier.
    """

    names: tuple[str, ...]
    chance: float | None


def rank(samples: Mapping[str, Sequence[float]]) -> list[Tier]:
    """Samples by their means, the lowest first; those that are tied with the first of a tier stand in it.

    Two are tied unless Welch's t-test tells them apart at ``level``: where all have the same mean, any two are called
    different in one case of twenty at most.

    Args:
        samples: two numbers or more each, by name.
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
