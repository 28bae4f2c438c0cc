"""Lyapunov exponents where they are known: linear cells, the logistic map, the Henon map, cells that copy or forget."""

import json
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from known_cells import Copy, Forgetful, Linear, Shift, subject_of
from test_report_spectrum import CELLS

from minigrad import concat, trees
from rnn_cells import Cell
from rnn_plugins import registry
from rnn_plugins.errors import UserError
from rnn_plugins.reports import lyapunov
from rnn_plugins.reports.jacobians import jacobians_along
from rnn_plugins.reports.lyapunov import Lyapunov, effort, exponents, growth_rates, kaplan_yorke, standard_error
from rnn_plugins.reports.report import Look, compose, to_json


@dataclass(frozen=True)
class Logistic(Cell):
    """h_t = 4 h_{t-1} (1 - h_{t-1}): its exponent is ln 2 (von Neumann and Ulam 1947)."""

    def __call__(self, params, h, x):
        h = 4 * h * (1 - h)
        return h, h


@dataclass(frozen=True)
class Henon(Cell):
    """(u, v) -> (1 - 1.4 u^2 + v, 0.3 u), after Henon (1976); its Jacobian has the determinant -0.3 everywhere."""

    def __call__(self, params, h, x):
        u, v = h[:, :1], h[:, 1:]
        h = concat(1 - 1.4 * u * u + v, 0.3 * u)
        return h, h


@dataclass(frozen=True)
class Gated(Cell):
    """Three units that are multiplied by 1.5, 1 and 0.5 a step, the last of them by the input too."""

    def __call__(self, params, h, x):
        h = concat(1.5 * h[:, :1], h[:, 1:2], 0.5 * h[:, 2:] * x)
        return h, h


def nothing(steps, batch):
    return np.zeros((steps, batch, 1))


def linear_rates(A, steps, warm_up, batch=1):
    cell = Linear(1, len(A))
    params = {"A": A, "U": np.zeros((1, len(A)))}
    return growth_rates(cell, params, np.zeros((batch, len(A))), nothing(steps + warm_up, batch), warm_up=warm_up)


def numbers(findings):
    return {quantity.key: quantity.value for quantity in findings.quantities}


def shown(findings):
    """What a table shows of quantities that have no value."""
    return {quantity.key: quantity.missing for quantity in findings.quantities if quantity.value is None}


def linear(matrix, **more):
    subject = subject_of(Linear(7, len(matrix)), **more)
    subject.params["cell"]["A"] = matrix
    return subject


LOOK = Look(lags=20)


@given(st.lists(st.integers(-6, 3), min_size=1, max_size=5, unique=True), st.integers(0, 2**32 - 1))
def test_a_linear_cell_has_the_log_moduli_of_its_eigenvalues(powers, seed):
    """Moduli lie a factor of 1.5 apart, so that after 120 steps the directions are found to 1.5^-120."""
    rng = np.random.default_rng(seed)
    moduli = 1.5 ** np.array(powers, float)
    basis = np.linalg.qr(rng.normal(size=(len(powers),) * 2))[0] @ np.diag(rng.uniform(1, 3, len(powers)))
    A = basis @ np.diag(moduli * rng.choice([-1, 1], len(powers))) @ np.linalg.inv(basis)
    found = exponents(linear_rates(A, 10, 120))
    expected = np.sort(np.log(moduli))[::-1]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@given(st.floats(0.05, 3.0), st.floats(0.3, 2.0), st.integers(0, 2**32 - 1))
def test_a_pair_of_complex_eigenvalues_has_its_modulus_twice(angle, modulus, seed):
    """Their sum is exact at every step; each by itself wavers by no more than the basis is oblique, over the time."""
    rng = np.random.default_rng(seed)
    turn = modulus * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    oblique = np.linalg.qr(rng.normal(size=(2, 2)))[0] @ np.diag([1.0, 2.0])
    rates = linear_rates(oblique @ turn @ np.linalg.inv(oblique), 400, 0)
    np.testing.assert_allclose(rates.sum(axis=2), 2 * np.log(modulus), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(exponents(rates), np.log(modulus), atol=np.log(2) / 400 + 1e-9)
    np.testing.assert_allclose(exponents(linear_rates(turn, 20, 0)), np.log(modulus), rtol=1e-6, atol=1e-9)


def test_exponents_that_lie_very_far_apart_are_exact():
    A = np.triu(np.ones((3, 3)))
    A[np.diag_indices(3)] = 1e3, 1e-3, 1e-9
    np.testing.assert_allclose(exponents(linear_rates(A, 20, 20)), np.log([1e3, 1e-3, 1e-9]), rtol=1e-6)


def test_the_first_of_many_exponents_are_the_largest():
    A = np.diag([0.3, 1.2, 0.8, 0.1])
    cell, params = Linear(1, 4), {"A": A, "U": np.zeros((1, 4))}
    found = exponents(growth_rates(cell, params, np.zeros((2, 4)), nothing(210, 2), count=2, warm_up=200))
    np.testing.assert_allclose(found, np.log([1.2, 0.8]), rtol=1e-9)


def test_the_logistic_map():
    start = np.random.default_rng(0).uniform(0.01, 0.99, (200, 1))
    found = exponents(growth_rates(Logistic(1, 1), {}, start, nothing(1050, 200), warm_up=50))
    assert found == pytest.approx([np.log(2)], abs=1e-3)


def test_the_henon_map():
    start = np.random.default_rng(0).uniform(-0.1, 0.1, (50, 2))
    rates = growth_rates(Henon(1, 2), {}, start, nothing(4100, 50), warm_up=100)
    found = exponents(rates)
    assert found[0] == pytest.approx(0.4192, abs=1e-3)
    assert found.sum() == pytest.approx(np.log(0.3), rel=1e-12)
    assert kaplan_yorke(found, 2) == pytest.approx(1.2583, abs=1e-3)
    assert standard_error(rates) < 1e-3


def test_the_standard_error_is_that_of_a_mean_over_sequences():
    rates = np.zeros((10, 4, 2))
    rates[:, :, 0] = np.array([1.0, 2.0, 3.0, 6.0]) + np.tile([-0.5, 0.5], 5)[:, None]
    # Means of 1, 2, 3 and 6 have a variance of (4 + 1 + 0 + 9) / 3, and their mean a fourth of it.
    assert standard_error(rates) == pytest.approx(np.sqrt(14 / 3 / 4))
    assert standard_error(rates[:, :1]) is None


def test_they_are_the_volumes_of_the_long_product():
    """Over any time, the first k together are the logarithm of the volume that the product makes of k directions."""
    cell = registry.make_cell("gru", 3, 4, {})
    rng = np.random.default_rng(2)
    params, carry = trees.cast((cell.init_params(rng), cell.init_carry(1)), np.float64)
    xs = rng.normal(0, 1, (8, 1, 3))
    start = np.linalg.qr(np.random.default_rng(5).normal(size=(1, 4, 4)))[0][0]
    product = np.eye(4)
    for J in jacobians_along(cell, params, carry, xs):
        product = J[0] @ product
    found = growth_rates(cell, params, carry, xs, seed=5).sum(axis=0)[0]
    for k in range(1, 5):
        moved = product @ start[:, :k]
        assert found[:k].sum() == pytest.approx(np.linalg.slogdet(moved.T @ moved)[1] / 2, rel=1e-6)


def test_a_direction_that_is_lost_on_the_way_is_lost():
    xs = np.ones((60, 1, 1))
    kept = exponents(growth_rates(Gated(1, 3), {}, np.zeros((1, 3)), xs, warm_up=50))
    np.testing.assert_allclose(kept, np.log([1.5, 1.0, 0.5]), atol=1e-6)
    xs[55] = 0
    lost = exponents(growth_rates(Gated(1, 3), {}, np.zeros((1, 3)), xs, warm_up=50))
    np.testing.assert_allclose(lost[:2], np.log([1.5, 1.0]), atol=1e-6)
    assert lost[2] == -np.inf


@pytest.mark.parametrize(
    ("found", "width", "expected"),
    [
        ([-0.1, -0.2], 2, 0.0),
        ([0.3, -0.6], 2, 1.5),
        ([0.4, 0.1, -1.0], 3, 2.5),
        ([0.0, -1.0], 2, 1.0),
        ([0.0, 0.0], 2, 2.0),
        ([0.3, -0.1], 2, 2.0),
        ([0.3, -0.1], 5, None),
        ([0.3, -0.6], 5, 1.5),
        ([0.3, -np.inf], 2, 1.0),
        ([-np.inf, -np.inf], 2, 0.0),
    ],
)
def test_the_kaplan_yorke_dimension(found, width, expected):
    assert kaplan_yorke(np.array(found), width) == (None if expected is None else pytest.approx(expected))


def test_the_report_of_a_linear_cell():
    found = Lyapunov().measure(linear(np.diag([0.5, 0.8, 0.2]), length=1000), LOOK)
    got = numbers(found)
    assert got["largest"] == pytest.approx(np.log(0.8), rel=1e-6)
    assert got["largest_error"] == pytest.approx(0, abs=1e-6)
    assert got["sum"] == pytest.approx(np.log(0.08), rel=1e-6)
    assert got["positive"] == got["kaplan_yorke"] == 0
    by_index, convergence = found.figures
    np.testing.assert_allclose(by_index.curves[0].x, [1 / 3, 2 / 3, 1])
    np.testing.assert_allclose(by_index.curves[0].y, np.log([0.8, 0.5, 0.2]), rtol=1e-6)
    np.testing.assert_allclose(convergence.curves[0].y, np.log(0.8), rtol=1e-6)
    assert found.verdict == (
        "Forgets: the largest exponent is -0.223 nats per step, plus or minus 0.0025, so that a difference between two "
        "states is halved every 3.11 steps, and the gradient vanishes at that rate.",
    )
    assert found.quantities[0].definition == (
        "The mean logarithmic growth of the direction that grows most, over 400 steps of each of 3 windows of the "
        "text, after 20 steps of warm-up and 100 more for the directions to converge."
    )


def test_the_report_of_a_cell_that_expands():
    found = Lyapunov().measure(linear(np.diag([1.1, 0.9, 0.2]), length=1000), LOOK)
    got = numbers(found)
    assert got["largest"] == pytest.approx(np.log(1.1), rel=1e-6)
    assert got["positive"] == 1
    assert got["kaplan_yorke"] == pytest.approx(1 + np.log(1.1) / -np.log(0.9), rel=1e-5)
    assert found.verdict == (
        "Chaotic: the largest exponent is +0.095 nats per step, plus or minus 0.0025, so that a difference between two "
        "states doubles every 7.27 steps, and the gradient explodes at that rate.",
        "To prevent that, try a smaller recurrent matrix, clipping (--grad-clip 1) or a gated cell (--cell gru).",
    )


def test_a_cell_that_copies_is_at_the_edge():
    found = Lyapunov().measure(subject_of(Copy(7, 6), length=1000), LOOK)
    got = numbers(found)
    assert got["largest"] == got["sum"] == got["positive"] == 0
    assert got["kaplan_yorke"] == 6
    assert found.verdict == (
        "At the edge: the largest exponent is +0.000 nats per step, plus or minus 0.0025, so that differences between "
        "states neither shrink nor grow as far as can be told.",
    )


@pytest.mark.parametrize(
    "forgets",
    [subject_of(Forgetful(7, 4)), linear(np.zeros((4, 4))), subject_of(Shift(7, 2))],
    ids=["no W", "W = 0", "a register"],
)
def test_what_forgets_all_has_no_exponents(forgets):
    found = Lyapunov().measure(forgets, LOOK)
    got = numbers(found)
    assert got["largest"] is got["largest_error"] is got["sum"] is None
    assert got["positive"] == got["kaplan_yorke"] == 0
    assert shown(found) == {"largest": "minus infinity", "largest_error": "-", "sum": "minus infinity"}
    assert found.verdict == ("Forgets completely: after some steps nothing of the state is left.",)
    assert np.isnan(found.figures[0].curves[0].y).all()
    json.dumps(to_json([compose("lyapunov", Lyapunov(), {"a": found})]), allow_nan=False)


def test_of_a_wide_carry_the_largest_exponents_are_computed(monkeypatch):
    assert effort(1) == (500, 1)
    assert effort(256) == (104, 256)
    assert effort(512) == (52, 128)
    assert effort(2048) == (13, 32)
    monkeypatch.setattr(lyapunov, "DIRECTIONS", 12)
    found = Lyapunov().measure(linear(np.diag([1.25, 1.0, 0.5, 0.25, 0.2]), length=1000), LOOK)
    assert found.notices == ("the carry is 5 wide, so that only the largest 2 exponents are computed",)
    assert numbers(found)["positive"] == 1
    assert shown(found) == {"kaplan_yorke": "at least 2", "sum": "only 2 of 5 computed"}
    np.testing.assert_allclose(found.figures[0].curves[0].x, [0.2, 0.4])
    found = Lyapunov().measure(linear(np.diag([1.25, 0.5, 0.3, 0.25, 0.2]), length=1000), LOOK)
    assert numbers(found)["kaplan_yorke"] == pytest.approx(1 + np.log(1.25) / np.log(2), rel=1e-5)
    found = Lyapunov().measure(linear(np.diag([1.25, 1.1, 0.5, 0.25, 0.2]), length=1000), LOOK)
    assert shown(found)["positive"] == "at least 2"


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_every_cell_can_be_looked_at(cell):
    found = Lyapunov().measure(subject_of(cell, length=90, dtype="float32"), LOOK)
    got = numbers(found)
    assert np.isfinite(got["largest"])
    assert len(found.figures[0].curves[0].x) == len(found.figures[0].curves[0].y) > 4
    json.dumps(to_json([compose("lyapunov", Lyapunov(), {"a": found})]), allow_nan=False)


def test_a_short_text_is_looked_at_as_far_as_it_goes():
    found = Lyapunov().measure(subject_of(Linear(7, 4), length=22), Look())
    assert found.notices == (
        "the text is short (22 characters), which reduces the steps measured from 500 to 10 and the steps read before "
        "them from 100 to 11",
    )
    with pytest.raises(UserError) as error:
        Lyapunov().measure(subject_of(Linear(7, 4), length=2), Look())
    assert str(error.value) == "the text has 2 characters, and a Jacobian needs 3: give a longer one"
