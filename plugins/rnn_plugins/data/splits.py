"""Splits of examples into a training part and a held-out part."""

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from rnn_plugins.data.corpus import check_fraction

Indices = NDArray[np.intp]


def split(labels: int | Sequence[Hashable], fraction: float, seed: int = 0) -> tuple[Indices, Indices]:
    """The indices of the training part and of the held-out part, each sorted.

    With labels, each label has its share of the held-out part, rounded up or down so that the whole is right (largest
    remainders), and at least one example in the training part; the whole is smaller where that leaves too few.

    Args:
        labels: the labels of N examples, or N.
        fraction: the share that is held out, in [0, 1).
        seed: of the choice.

    Raises:
        UserError: ``fraction`` is not in [0, 1).
    """
    check_fraction(fraction)
    groups: dict[Hashable, list[int]] = {}
    if isinstance(labels, int):
        count, groups = labels, {None: list(range(labels))}
    else:
        count = len(labels)
        for i, label in enumerate(labels):
            groups.setdefault(label, []).append(i)
    rng = np.random.default_rng(seed)
    shares = np.array([len(group) for group in groups.values()]) * fraction
    most = np.array([len(group) - 1 for group in groups.values()])
    sizes = np.minimum(shares.astype(np.intp), most)
    wanting = round(count * fraction) - int(sizes.sum())
    for i in np.argsort(sizes - shares, kind="stable"):
        if wanting > 0 and sizes[i] < min(most[i], shares[i]):
            sizes[i] += 1
            wanting -= 1
    held_out = np.zeros(count, bool)
    for group, size in zip(groups.values(), sizes, strict=True):
        held_out[rng.permutation(group)[:size]] = True
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)
