"""Metrics of labels against scikit-learn, and the verdict on baselines word for word."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnn_plugins.tasks.metrics import Gains, accuracy, confusion, counts, is_clear, macro_f1, per_class, verdict
from rnn_plugins.tasks.task import Metric, Score

LABELS = ("cat", "dog", "cow", "hen")

pairs = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30)


def test_three_classes_by_hand():
    true, guessed = [0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 2, 0]
    assert accuracy(true, guessed) == pytest.approx(3 / 6)
    assert macro_f1(true, guessed) == pytest.approx((2 * 2 / 6 + 2 * 1 / 4 + 0) / 3)
    assert counts(true, guessed, 3).tolist() == [[2, 1, 0], [0, 1, 1], [1, 0, 0]]


def test_the_table_of_classes():
    table = per_class([0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 1, 0], LABELS)
    assert table.heads == ("CLASS", "COUNT", "PREDICTED", "PRECISION", "RECALL", "F1")
    cat, dog, cow, hen = table.rows
    assert cat == ("cat", 3, 3, pytest.approx(2 / 3), pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert dog == ("dog", 2, 3, pytest.approx(2 / 3), 1.0, pytest.approx(0.8))
    assert cow == ("cow", 1, 0, None, 0.0, 0.0)
    assert hen == ("hen", 0, 0, None, None, None)


def test_the_picture_has_the_shares_of_each_true_class():
    picture = confusion([0, 0, 0, 0, 1, 3], [0, 0, 0, 1, 1, 1], LABELS)
    np.testing.assert_array_equal(picture.values, [[0.75, 0.25, 0, 0], [0, 1, 0, 0], [np.nan] * 4, [0, 1, 0, 0]])
    assert picture.x_ticks == picture.y_ticks == LABELS
    assert (picture.x_label, picture.y_label, picture.limits) == ("predicted class", "true class", (0, 1))


@given(pairs)
def test_they_are_those_of_scikit_learn(found):
    outside = pytest.importorskip("sklearn.metrics")
    true, guessed = zip(*found, strict=True)
    assert accuracy(true, guessed) == pytest.approx(outside.accuracy_score(true, guessed))
    assert macro_f1(true, guessed) == pytest.approx(outside.f1_score(true, guessed, average="macro", zero_division=0))
    np.testing.assert_array_equal(counts(true, guessed, 4), outside.confusion_matrix(true, guessed, labels=range(4)))
    rates = outside.precision_recall_fscore_support(true, guessed, labels=range(4), zero_division=0)
    shown = [(row[3] or 0, row[4] or 0, row[5] or 0, row[1]) for row in per_class(true, guessed, LABELS).rows]
    np.testing.assert_allclose(shown, np.transpose(rates))


ACCURACY = Metric("", "max")
COMMON, WORDS = Score("the commonest class", "baseline", {"accuracy": 0.5}), "bag of words"


@pytest.mark.parametrize(
    ("own", "bag", "expected"),
    [
        (
            0.77,
            0.75,
            [
                "The network's accuracy, 0.770, is better than that of the commonest class (0.500) and bag of words "
                "(0.750)."
            ],
        ),
        (
            0.7501,
            0.7499,
            [
                "The network's accuracy, 0.750, is better than that of the commonest class (0.500).",
                "The network's accuracy is level with that of bag of words (0.750).",
            ],
        ),
        (
            0.6,
            0.75,
            [
                "The network's accuracy, 0.600, is better than that of the commonest class (0.500).",
                "Bag of words (0.750) has a better accuracy than the network, 0.600: it has learnt less than this "
                "baseline.",
            ],
        ),
        (
            0.4,
            0.75,
            [
                "The commonest class (0.500) and bag of words (0.750) have a better accuracy than the network, 0.400: "
                "it has learnt less than these baselines.",
            ],
        ),
    ],
)
def test_the_verdict(own, bag, expected):
    scores = [Score("run", "model", {"accuracy": own}), COMMON, Score(WORDS, "baseline", {"accuracy": bag})]
    assert list(verdict(scores, "accuracy", ACCURACY)) == expected


def test_a_lower_error_is_better():
    scores = [Score("run", "model", {"mse": 2.0}), Score("the last value", "baseline", {"mse": 3.0})]
    assert verdict(scores, "mse", Metric("", "min", word="mean squared error")) == (
        "The network's mean squared error, 2.000, is better than that of the last value (3.000).",
    )


def test_a_baseline_without_the_metric_is_left_out():
    scores = [Score("run", "model", {"accuracy": 0.5, "loss": 1.0}), COMMON]
    assert verdict(scores, "loss", Metric("nats", "min")) == ()
    assert verdict(scores, "macro_f1", Metric("", "max")) == ()


def gains(better, worse, same=0):
    """The gains on examples of one label."""
    return np.repeat([1, -1, 0], [better, worse, same])


@pytest.mark.parametrize(
    ("better", "worse", "clear"),
    [
        (0, 0, False),
        (5, 0, False),  # the exact binomial test has p = 0.0625
        (6, 0, True),  # p = 0.031
        (0, 6, True),
        (25, 15, False),  # (10 - 1)^2 / 40 = 2.0
        (59, 121, True),  # (62 - 1)^2 / 180 = 20.7
        (510, 490, False),
        (5100, 4900, True),  # (200 - 1)^2 / 10000 = 3.96
        (5097, 4903, False),  # (194 - 1)^2 / 10000 = 3.72
    ],
)
@pytest.mark.parametrize("same", [0, 1000])
def test_a_difference_of_accuracies_is_clear_by_mcnemars_test(better, worse, clear, same):
    assert is_clear(gains(better, worse, same)) == clear


def test_that_is_the_exact_binomial_test_of_a_fair_coin():
    for total in range(1, 80):
        for better in range(total + 1):
            tail = sum(math.comb(total, i) for i in range(min(better, total - better) + 1)) / 2**total
            if not 0.035 < 2 * tail < 0.07:  # the correction is an approximation
                assert is_clear(gains(better, total - better)) == (2 * tail < 0.05), (better, total)


def test_the_labels_of_one_example_are_no_independent_evidence():
    assert is_clear(np.ones(50, int))
    assert not is_clear(np.array([50, *[0] * 49]))
    assert not is_clear(np.array([10] * 5))
    assert is_clear(np.array([10] * 6))


def test_a_difference_that_may_be_chance_is_called_so():
    scores = [Score("run", "model", {"accuracy": 0.56}), COMMON, Score(WORDS, "baseline", {"accuracy": 0.58})]
    found = Gains({COMMON.name: gains(60, 30, 410), WORDS: gains(20, 30, 450)}, "texts")
    assert verdict(scores, "accuracy", ACCURACY, found) == (
        "The network's accuracy, 0.560, is better than that of the commonest class (0.500).",
        "The network's accuracy, 0.560, is not clearly different from that of bag of words (0.580) on 500 texts: it "
        "may be chance (McNemar's test).",
    )
    found = Gains({COMMON.name: gains(33, 3, 464), WORDS: gains(10, 60, 430)}, "texts")
    assert verdict(scores, "accuracy", ACCURACY, found) == verdict(scores, "accuracy", ACCURACY)
