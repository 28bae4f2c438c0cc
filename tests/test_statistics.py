"""Ties: Student's distribution as in the tables, Welch's test on numbers worked out by hand, and ranks."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnn_lab.comparison.statistics import Tier, level, rank, student, welch


@pytest.mark.parametrize(
    ("freedom", "t"),
    [(1, 12.7062), (2, 4.30265), (3, 3.18245), (4, 2.77645), (10, 2.22814), (30, 2.04227), (120, 1.97993)],
)
def test_the_tables_of_student_at_five_per_cent(freedom, t):
    assert student(t, freedom) == pytest.approx(0.05, abs=1e-6)


@given(st.floats(0, 50))
def test_one_and_two_degrees_of_freedom_have_closed_forms(t):
    assert student(t, 1) == pytest.approx(1 - 2 / math.pi * math.atan(t), abs=1e-12)
    assert student(t, 2) == pytest.approx(1 - t / math.sqrt(2 + t * t), abs=1e-12)


def test_welch_on_numbers_worked_out_by_hand():
    # Means 2 and 5, variances 1 and 4 of three each: t = 3 / sqrt(1/3 + 4/3), freedom = (5/3)^2 / (1/18 + 16/18).
    assert welch([1, 2, 3], [3, 5, 7]) == pytest.approx(student(3 / math.sqrt(5 / 3), 50 / 17), abs=1e-12)


def test_welch_without_any_spread():
    assert welch([1, 1], [1, 1]) == 1
    assert welch([1, 1], [2, 2]) == 0


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=6), st.lists(st.floats(-5, 5), min_size=2, max_size=6))
def test_welch_is_a_probability_and_knows_no_order(a, b):
    assert 0 <= welch(a, b) <= 1
    assert welch(a, b) == pytest.approx(welch(b, a), abs=1e-9)


def test_what_overlaps_is_tied_and_what_does_not_is_ranked():
    samples = {"slow": [3.0, 3.01, 2.99], "good": [2.0, 2.02, 1.98], "also": [2.01, 2.03, 1.99]}
    tiers = rank(samples)
    assert [tier.names for tier in tiers] == [("good", "also"), ("slow",)]
    assert tiers[0].chance is None
    assert tiers[1].chance == welch(samples["good"], samples["slow"]) < 0.001


def test_a_large_gap_with_a_larger_spread_is_a_tie():
    assert rank({"a": [1.0, 3.0], "b": [2.0, 6.0]}) == [Tier(("a", "b"), None)]


def test_with_more_pairs_a_gap_must_be_clearer():
    two = {"a": [1.0, 1.1, 1.2], "b": [1.3, 1.4, 1.5]}
    assert (level(2), level(3)) == (0.05, 0.05 / 3)
    assert 0.05 / 3 < welch(two["a"], two["b"]) < 0.05
    assert len(rank(two)) == 2
    assert rank(two | {"c": [9.0, 9.1, 9.2]})[0].names == ("a", "b")


def test_of_equals_at_most_one_comparison_in_twenty_finds_a_winner():
    rng = np.random.default_rng(0)
    found = sum(len(rank(dict(zip("abc", rng.normal(size=(3, 3)), strict=True)))) > 1 for _ in range(400))
    assert found <= 0.05 * 400
