"""Densities against scipy, and both estimators of a gradient of an expectation against closed forms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from minigrad import exp, mean, stop_gradient, value_and_grad
from minigrad import sum as total
from minigrad.checking import check_vjp
from minigrad.densities import bernoulli, discretised_logistic, gaussian, gaussian_divergence, standard_normal
from minigrad.functions import Share

RNG = np.random.default_rng(0)
MEAN, LOG_DEVIATION = 0.7, -0.4


def test_densities_are_those_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    x, logits, m, s = RNG.standard_normal((4, 3, 5))
    np.testing.assert_allclose(gaussian(x, m, s), stats.norm.logpdf(x, m, np.exp(s)), rtol=1e-12)
    bits = x > 0
    np.testing.assert_allclose(bernoulli(logits, bits), stats.bernoulli.logpmf(bits, 1 / (1 + np.exp(-logits))))


def test_a_bernoulli_density_of_a_grey_pixel_is_its_expectation_and_never_overflows():
    p = 1 / (1 + np.exp(-1.3))
    np.testing.assert_allclose(bernoulli(1.3, 0.25), 0.25 * np.log(p) + 0.75 * np.log(1 - p))
    logits = np.array([-1e4, 1e4], np.float32)
    np.testing.assert_array_equal(bernoulli(logits, np.array([0, 1], np.float32)), [0, 0])
    np.testing.assert_array_equal(bernoulli(logits, np.array([1, 0], np.float32)), [-1e4, -1e4])


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_levels_have_what_a_logistic_distribution_has_nearest_to_them(levels):
    stats = pytest.importorskip("scipy.stats")
    x = np.arange(levels) / (levels - 1)
    for centre, scale in ((0.3, 0.1), (0.9, 0.02), (1.4, 0.5)):
        found = np.exp(discretised_logistic(x, centre, np.log(scale), levels))
        borders = np.concatenate([[-np.inf], (x[:-1] + x[1:]) / 2, [np.inf]])
        np.testing.assert_allclose(found, np.diff(stats.logistic.cdf(borders, centre, scale)), rtol=1e-6, atol=1e-12)
        assert found.sum() == pytest.approx(1)


def test_a_level_far_from_the_mean_has_a_finite_log_probability():
    found = discretised_logistic(np.float32([0, 0.5, 1]), np.float32(1), np.float32(np.log(1e-3)), 256)
    assert found.dtype == np.float32
    below, between = 500 / 255 - 1000, 500 / 255 - 500 + np.log1p(-np.exp(-1000 / 255))
    np.testing.assert_allclose(found, [below, between, -np.log1p(np.exp(-500 / 255))], rtol=1e-4)


def nodes() -> tuple[Any, Any]:
    """Points and weights with which a sum is the expectation under the standard normal, of a polynomial exactly."""
    points, weights = np.polynomial.hermite_e.hermegauss(20)
    return points, weights / weights.sum()


def test_the_divergence_is_the_expectation_of_the_difference_of_the_log_densities():
    points, weights = nodes()
    x = MEAN + np.exp(LOG_DEVIATION) * points
    expected = np.sum(weights * (gaussian(x, MEAN, LOG_DEVIATION) - gaussian(x, 0, 0)))
    np.testing.assert_allclose(gaussian_divergence(MEAN, LOG_DEVIATION), expected, rtol=1e-12)
    assert gaussian_divergence(0.0, 0.0) == 0


def test_gradients_of_densities_are_those_of_finite_differences():
    x, logits, m, s = RNG.standard_normal((4, 3, 5))
    check_vjp(gaussian, [x, m, s], order=2)
    check_vjp(bernoulli, [logits, x], order=2)
    check_vjp(gaussian_divergence, [m, s], order=2)
    levels = np.array([0, 1, 7, 8, 15]) / 15
    check_vjp(lambda mean, scale: discretised_logistic(levels, mean, scale, 16), [m, s - 1], order=2)


# --- estimators of the gradient of an expectation ---------------------------------------------------------------------


def reward(x: Any) -> Any:
    return x**4 - 3 * x


def expected_gradient(mean: float, log_deviation: float) -> tuple[float, float]:
    """Of the expectation of x^4 - 3 x, which is m^4 + 6 m^2 s^2 + 3 s^4 - 3 m, by m and log s."""
    m, s = mean, np.exp(log_deviation)
    return 4 * m**3 + 12 * m * s**2 - 3, 12 * m**2 * s**2 + 12 * s**4


def reparameterised(params: Any, noise: Any, weights: Any) -> Any:
    m, log_deviation = params
    return total(weights * reward(m + exp(log_deviation) * noise))


def score_function(baseline: Callable[[Any], Any]) -> Any:
    def surrogate(params: Any, noise: Any, weights: Any) -> Any:
        m, log_deviation = params
        x = stop_gradient(m + exp(log_deviation) * noise)
        return total(weights * (reward(x) - baseline(x)) * gaussian(x, m, log_deviation))

    return surrogate


ESTIMATORS = {
    "reparameterised": reparameterised,
    "score function": score_function(lambda x: 0),
    "with a baseline": score_function(lambda x: 2.5),
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_expectation_of_an_estimator_is_the_gradient(name):
    """Exactly: over all noise, by quadrature."""
    found = value_and_grad(ESTIMATORS[name])((MEAN, LOG_DEVIATION), *nodes())[1]
    np.testing.assert_allclose(found, expected_gradient(MEAN, LOG_DEVIATION), rtol=1e-11)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_mean_of_many_estimates_is_the_gradient_within_its_standard_error(name):
    rng, estimates = np.random.default_rng(1), []
    for _ in range(400):
        noise = standard_normal((500,), rng, np.float64)
        estimates.append(value_and_grad(ESTIMATORS[name])((MEAN, LOG_DEVIATION), noise, 1 / 500)[1])
    error = np.std(estimates, axis=0) / np.sqrt(len(estimates))
    expected = np.array(expected_gradient(MEAN, LOG_DEVIATION))
    assert np.all(np.abs(np.mean(estimates, axis=0) - expected) < 4 * error)
    assert np.all(error < 0.1 * np.abs(expected))


def test_what_is_biased_is_found_to_be_biased():
    """A baseline that knows the sample, and a score through which the sample itself is differentiated."""

    def through_the_sample(params: Any, noise: Any, weights: Any) -> Any:
        m, log_deviation = params
        x = m + exp(log_deviation) * noise
        return total(weights * stop_gradient(reward(x)) * gaussian(x, m, log_deviation))

    for wrong in (score_function(lambda x: x), through_the_sample):
        found = value_and_grad(wrong)((MEAN, LOG_DEVIATION), *nodes())[1]
        assert np.max(np.abs(found - np.array(expected_gradient(MEAN, LOG_DEVIATION)))) > 0.1


def test_the_score_function_over_all_outcomes_of_a_bit_is_the_gradient():
    """E[r] = p r(1) + (1 - p) r(0) has the derivative p (1 - p) (r(1) - r(0)) by the logit of p."""
    p, bits, rewards = 1 / (1 + np.exp(-0.8)), np.array([0.0, 1.0]), np.array([0.3, 2.0])
    for baseline in (0, 1.7):
        found = value_and_grad(lambda a, b=baseline: total([1 - p, p] * (rewards - b) * bernoulli(a, bits)))(0.8)[1]
        np.testing.assert_allclose(found, p * (1 - p) * 1.7, rtol=1e-12)


def test_a_baseline_near_the_expected_reward_lowers_the_variance():
    rng = np.random.default_rng(2)
    noise = rng.standard_normal((300, 200))
    expected = np.mean(reward(MEAN + np.exp(LOG_DEVIATION) * rng.standard_normal(100_000)))
    surrogates = score_function(lambda x: -20.0), score_function(lambda x: expected)
    far, near = (
        np.std([value_and_grad(f)((MEAN, LOG_DEVIATION), row, 1 / 200)[1][0] for row in noise]) for f in surrogates
    )
    assert near < 0.6 * far


# --- noise ------------------------------------------------------------------------------------------------------------


def test_noise_of_a_share_is_its_rows_of_the_whole_batch():
    whole = standard_normal((3, 8, 2), np.random.default_rng(5), axis=1)
    for rows in (slice(0, 5), slice(5, 8)):
        share = Share(np.random.PCG64(5), rows, 8)
        part = standard_normal((3, rows.stop - rows.start, 2), share, axis=1)
        np.testing.assert_array_equal(part, whole[:, rows])
    assert whole.dtype == np.float32
    assert standard_normal((4,), np.random.default_rng(5), np.float64).dtype == np.float64
    assert abs(mean(standard_normal((100_000,), np.random.default_rng(6)))) < 0.02
