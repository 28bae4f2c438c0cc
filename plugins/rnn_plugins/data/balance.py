"""Weights of labels in a loss, for labels that are not equally common."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


def weights_of(counts: ArrayLike, *, balanced: bool) -> NDArray[Any]:
    """The weight of each label, (K,): inversely proportional to its count if ``balanced``, 1 otherwise.

    The mean weight of the examples that were counted is 1. A label without an example is weighed as if it had one.

    Args:
        counts: the number of examples of each label, (K,).
        balanced: whether all labels have the same weight together.
    """
    counts = np.asarray(counts)
    if not balanced:
        return np.ones(len(counts))
    return np.asarray(counts.sum() / (np.count_nonzero(counts) * np.maximum(counts, 1)))
