"""Baselines of classes: guessing by frequency, and a linear model on counts or numbers."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnn_plugins.data.vocabulary import NOUNS, Level
from rnn_plugins.progress import begin

Array = NDArray[Any]

COMMONEST = "the commonest class"
"""The name of the baseline that guesses by ``frequencies``."""

LONGEST_GRAM = 3
"""The length of the longest n-grams of characters that are counted."""

ITERATIONS = 200
"""The most iterations of logistic regression."""


def frequencies(counts: ArrayLike, size: int) -> Array:
    """Log probabilities (size, K) of the classes by their frequency, with one example of each added."""
    smoothed = np.asarray(counts, np.float64) + 1
    return np.tile(np.log(smoothed / smoothed.sum()), (size, 1))


def called(kind: str, level: Level) -> str:
    """The name of the linear model on texts of a level, on images or on rows of numbers."""
    if kind == "texts":
        return "bag of words" if level == "word" else f"bag of {NOUNS[level]} n-grams"
    return f"a linear model of the {'pixels' if kind == 'images' else 'numbers'}"


def linear(
    known: Sequence[Array],
    labels: Sequence[int],
    weights: Sequence[float],
    tried: Sequence[Array],
    classes: int,
    *,
    words: bool = False,
    name: str = "the baseline",
) -> Array:
    """Log probabilities (M, K) of a logistic regression on counts of symbols, or on numbers.

    Args:
        known: N sequences: ids of any lengths, of which n-grams are counted, or numbers of one shape.
        labels: their classes; one that does not occur has the probability 0.
        weights: of each.
        tried: M sequences.
        classes: K.
        words: whether only single symbols are counted.
        name: what the progress says is trained.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    begin(f"training {name}")
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    if known[0].ndim == 1:
        features, others = _grams(known, tried, 1 if words else LONGEST_GRAM)
    else:
        features, others = (np.stack(some).reshape(len(some), -1) for some in (known, tried))
    with warnings.catch_warnings():  # the last digits are not needed
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = LogisticRegression(max_iter=ITERATIONS).fit(features, labels, sample_weight=weights)
        found = np.full((len(tried), classes), -np.inf)
        found[:, model.classes_] = model.predict_log_proba(others)
    return found


def _grams(known: Sequence[Array], tried: Sequence[Array], longest: int) -> tuple[Any, Any]:
    """Counts of the n-grams of ids that occur in the known sequences, (N, F) and (M, F), sparse."""
    from sklearn.feature_extraction.text import CountVectorizer

    def pieces(ids: Array) -> list[bytes]:
        return [ids[i : i + n].tobytes() for n in range(1, longest + 1) for i in range(len(ids) - n + 1)]

    counter = CountVectorizer(analyzer=pieces, dtype=np.float64)
    return counter.fit_transform(known), counter.transform(tried)
