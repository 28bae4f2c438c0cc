import numpy as np
import pytest

from minigrad import affine, exp, log, mean, scan, sqrt, sum, tanh
from minigrad.diagnosis import Finding, explain
from minigrad.training import NotFinite


def find(loss, params, carry=None, batch=None):
    error = NotFinite(1, float("nan"), float("nan"), batch, carry, np.random.default_rng(0))
    return explain(loss, params, error)


def test_a_parameter_that_is_not_finite_is_named():
    finding = find(lambda p, c, b, r: (sum(p["a"]["W"]), c), {"a": {"W": np.array([1.0, np.nan])}})
    assert finding == Finding("parameters", parameter="a.W")
    assert finding.sentence() == "The parameter a.W was not finite before the step."


def test_the_first_primitive_is_named_and_not_the_ones_it_spoils():
    params = {"a": np.array([800.0]), "b": np.array([2.0])}
    finding = find(lambda p, c, b, r: (sum(tanh(p["b"]) * exp(p["a"])), c), params)
    assert finding == Finding("forward", "exp", "a")
    assert finding.sentence() == "The first value that was not finite is a result of exp, computed from a."


@pytest.mark.parametrize("blow_up_at", [0, 3, 6])
def test_the_time_step_is_counted_from_zero(blow_up_at):
    def step(params, h, x):
        h = exp(affine(params["gate"], h) + x)
        return h, h

    def loss(params, carry, xs, rng):
        carry, ys = scan(step, params, carry, xs)
        return mean(ys), carry

    xs = np.zeros((7, 2, 3))
    xs[blow_up_at] = 1000.0
    params = {"gate": {"W": np.zeros((3, 3)), "b": np.zeros(3)}}
    finding = find(loss, params, np.zeros((2, 3)), xs)
    assert finding == Finding("forward", "exp", "gate.b", blow_up_at)


def test_after_the_loop_there_is_no_time_step():
    def loss(params, carry, xs, rng):
        carry, ys = scan(lambda p, h, x: (tanh(p["w"] * x), tanh(p["w"] * x)), params, carry, xs)
        return log(sum(ys) * 0.0 - params["head"]), carry

    finding = find(loss, {"w": np.ones(3), "head": np.array(1.0)}, np.zeros((1, 3)), np.zeros((4, 1, 3)))
    assert finding == Finding("forward", "log", "head")


def test_a_gradient_that_is_not_finite_is_found_where_the_loss_is_finite():
    finding = find(lambda p, c, b, r: (sum(sqrt(p["w"])), c), {"w": np.array([0.0, 1.0])})
    assert finding == Finding("backward", "w", "w")


def test_a_norm_that_overflows_though_no_element_does():
    finding = find(lambda p, c, b, r: (sum(p["w"] * np.float32(3e38)), c), {"w": np.zeros(9, np.float32)})
    assert finding == Finding("backward", "the global norm")
