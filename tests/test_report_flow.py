"""How far gradients reach, where it is known: linear cells, cells that copy or forget, products of Jacobians."""

import math
import os
import re
import subprocess
import sys
import textwrap
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from known_cells import (
    Copy,
    Deciding,
    Delayed,
    Forgetful,
    Gated,
    Linear,
    Odd,
    Stabilised,
    Stateless,
    Unread,
    subject_of,
)

from minigrad import affine, concat, sigmoid, tanh, trees
from minigrad.scan import use_backend
from rnn_cells import Cell, Stacked
from rnn_cells.anatomy import anatomy, jacobians
from rnn_cells.regularised import Regularised
from rnn_plugins import registry
from rnn_plugins.errors import UserError
from rnn_plugins.reports import gradients, probe, probing
from rnn_plugins.reports.flow import Flow
from rnn_plugins.reports.gradients import Norms, bounded, crossing, fate_of, growth, measure_flow
from rnn_plugins.reports.heatmap import Heatmap
from rnn_plugins.reports.jacobians import jacobians_along, norm, stretches
from rnn_plugins.reports.probing import draw_positions, state_gradients
from rnn_plugins.reports.report import Look


def flow_of(subject, lags=12, positions=20):
    return measure_flow(subject.probe, lags, positions)


def numbers(findings):
    return {quantity.key: quantity.value for quantity in findings.quantities}


@pytest.mark.parametrize("eigenvalue", [0.5, 0.9, -0.8, 1.0, 1.2])
def test_through_a_linear_cell_it_falls_by_the_eigenvalue_at_every_lag(eigenvalue):
    norms = flow_of(subject_of(Linear(7, 6, eigenvalue))).norms[0]
    np.testing.assert_allclose(norms / norms[0], np.tile(np.abs(eigenvalue) ** np.arange(13)[:, None], 20), rtol=1e-6)


def test_through_a_cell_that_copies_it_stays_as_it_is():
    norms = flow_of(subject_of(Copy(7, 6))).norms[0]
    np.testing.assert_allclose(norms, np.tile(norms[0], (13, 1)), rtol=1e-12)
    assert norms.min() > 0


def test_without_recurrent_weights_nothing_is_left_beyond_lag_0():
    norms = flow_of(subject_of(Forgetful(7, 6))).norms[0]
    assert norms[0].min() > 0
    assert not norms[1:].any()


@pytest.mark.parametrize("backend", ["reference", "numpy"])
def test_a_state_that_no_output_reads_has_no_gradient(backend):
    with use_backend(backend):
        assert not flow_of(subject_of(Unread(7, 6))).norms[0].any()


CELLS = {
    **{entry.name: registry.make_cell(entry.name, 7, 5, {}) for entry in registry.entries("cells")},
    "stack": Stacked([registry.make_cell("lstm", 7, 4, {}), registry.make_cell("gru", 4, 3, {})]),
    "odd": Odd(7, 5),
}


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_it_is_the_derivative_of_the_loss_by_a_moved_state(cell):
    """Finite differences: a unit of a state is moved after one step, and the rest is read from there."""
    subject = subject_of(cell)
    model, params = subject.language.model, subject.params
    window, targets = subject.probe.window(np.array([50]), 6, 3), subject.probe.targets(np.array([50]), 6)
    text, first = window.xs.indices, window.carry
    gradients = state_gradients(subject.probe, window, targets)
    states = anatomy(cell).states
    for t in range(5):  # of 6 steps; after the last, only the output is left to be moved
        carry = trees.map(lambda _, leaf: leaf, first, model.states(params, first, text[: 1 + t])[0])

        def loss(carry, t=t):
            return float(np.asarray(model.losses(params, carry, text[1 + t :], targets[1 + t :])[1])[-1, 0])

        for place, state in enumerate(states):
            # Of what a step makes, a state that others are made of in the same step cannot be moved by itself here.
            if state.label not in _last_made(cell, states):
                continue
            leaf = trees.leaves(carry)[state.index]
            for unit in range(0, state.size, 2):
                numerical = 0.0
                for sign in (1, -1):
                    moved = leaf.copy()
                    moved.reshape(1, -1)[0, unit] += sign * 1e-5
                    leaves = [*trees.leaves(carry)]
                    leaves[state.index] = moved
                    numerical += sign * loss(trees.unflatten(carry, leaves)) / 2e-5
                assert gradients[place][t, 0, unit] == pytest.approx(numerical, rel=1e-5, abs=1e-9)


def _last_made(cell, states):
    if isinstance(cell, Odd):
        return ["trace"]
    layer = max(state.layer for state in states)
    return [state.label for state in states if state.name == "h" and state.layer == layer]


@pytest.mark.parametrize("name", ["rnn", "irnn", "gru", "lstm", "lstm-peephole"])
def test_it_is_the_product_of_the_jacobians(name):
    subject = subject_of(registry.make_cell(name, 7, 5, {}))
    model, params = subject.language.model, subject.params
    window = subject.probe.window(np.array([60]), 6, 2)
    carry = window.carry
    gradients = state_gradients(subject.probe, window, subject.probe.targets(np.array([60]), 6))
    steps = []
    for token in window.xs.indices:
        steps.append(jacobians(model.cell, params["cell"], carry, model.table(params)[token])[0])
        carry = model.step(params, carry, token)[0]
    row = np.concatenate([gradients[0][-1, 0], *[np.zeros(5) for _ in gradients[1:]]])  # y is h alone
    for t in range(5, 0, -1):
        row = row @ steps[t]
        np.testing.assert_allclose(gradients[0][t - 1, 0], row[:5], rtol=1e-9, atol=1e-13)


def test_positions_are_served_together_as_one_by_one():
    subject = subject_of(registry.make_cell("lstm", 7, 5, {}))
    together = flow_of(subject, lags=6, positions=10)
    ends = draw_positions(subject.probe, 7, 6, 10, np.random.default_rng(0))
    for column in range(10):
        end = ends[column : column + 1]
        alone = state_gradients(subject.probe, subject.probe.window(end, 7, 6), subject.probe.targets(end, 7))
        for state in range(2):
            expected = np.linalg.norm(alone[state][:, 0], axis=-1)[::-1]
            np.testing.assert_allclose(together.norms[state][:, column], expected, rtol=1e-9)


@given(st.floats(0.1, 0.97))
def test_half_life_and_one_percent_lag_of_a_steady_fall(factor):
    norms = (3 * factor ** np.arange(200)).tolist()
    assert crossing(norms, 0.5) == pytest.approx(np.log(0.5) / np.log(factor), rel=1e-6)
    assert crossing(norms, 0.01) == pytest.approx(np.log(0.01) / np.log(factor), rel=1e-6)
    assert growth(norms) == pytest.approx(factor, rel=1e-6)


def test_what_is_not_reached_is_not_invented():
    assert crossing([1.0, 0.9, 0.8], 0.5) is None
    assert crossing([1.0, 0.0, 0.0], 0.5) == 1
    assert growth([1.0, 0.0, 0.0]) == 0
    assert growth([1.0, 0.5]) is None


def test_the_report_has_the_numbers_of_the_linear_cell():
    found = Flow().measure(subject_of(Linear(7, 6, 0.5)), Look(lags=20, positions=30))
    values = numbers(found)
    assert values["half_life"] == pytest.approx(1, rel=1e-6)
    assert values["one_percent_lag"] == pytest.approx(np.log(0.01) / np.log(0.5), rel=1e-6)
    assert values["growth"] == pytest.approx(0.5, rel=1e-6)
    assert values["bound_growth"] == pytest.approx(0.5, rel=1e-6)
    chart, beside = found.figures
    np.testing.assert_allclose(chart.curves[0].y[1:] / chart.curves[0].y[:-1], 0.5, rtol=1e-6)
    np.testing.assert_allclose(beside.curves[0].y, beside.curves[1].y, rtol=1e-6)  # a multiple of the identity
    np.testing.assert_array_equal(beside.curves[0].x, np.arange(1, 21))
    assert found.verdict[0].startswith("Vanishes: half-life 1 steps, and 1 % is left after 6.64")


def two_layers(eigenvalue):
    return Stacked([Linear(7, 6, eigenvalue), Linear(6, 6, eigenvalue)])


@given(st.floats(0.5, 1.6), st.integers(0, 4), st.integers(1, 200))
def test_what_explodes_is_what_grows_by_a_factor_per_step(factor, above, lags):
    """The derivative through the lowest of n + 1 linear layers, by the number of paths of k steps and n rises."""
    norms = [math.comb(k + above, above) * factor**k for k in range(lags + 1)]
    assume(abs(factor**lags - 10) > 1e-6)
    assert (fate_of(norms, above) == "explodes") == (factor**lags > 10)


def test_a_gradient_with_an_end_that_is_not_finite_or_a_beginning_that_is_nothing():
    assert fate_of([1.0, 2.0, math.inf]) == fate_of([0.0, 1.0, 0.0, 20.0]) == fate_of([1.0, 11.0]) == "explodes"
    assert fate_of([0.0, 0.0, 5.0]) == fate_of([1.0, 9.0, 9.0]) == "holds"
    assert fate_of([1.0, 40.0, 41.0]) == "grows"


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        (
            Linear(7, 6, 1.2),
            "Explodes: after 20 steps the gradient is 38.3 times what it was, a factor of 1.200 per step.",
        ),
        (Linear(7, 6, 1.05), "Holds: after 20 steps the gradient is 2.65 times what it was."),
        (Copy(7, 6), "Holds: after 20 steps the gradient has 100.0 % of its size left."),
        (Linear(7, 6, 0.9), "Holds: after 20 steps the gradient has 12.2 % of its size left."),
        (Linear(7, 6, 0.85), "Fades: after 20 steps the gradient has 3.9 % of its size left."),
        (Forgetful(7, 6), "Forgets at once: nothing is left of the gradient after one step."),
        # Through the lower of two layers there are k + 1 paths back to lag k: the derivative is k + 1 times a ** k.
        (
            two_layers(1.0),
            "Grows: after 20 steps the gradient is 21 times what it was, through layer1.h; not by a factor per step, "
            "so it does not explode.",
        ),
        (
            two_layers(1.2),
            "Explodes: after 20 steps the gradient is 805 times what it was, through layer1.h, a factor of 1.358 per "
            "step.",
        ),
    ],
)
def test_the_verdict_is_in_words(cell, words):
    assert Flow().measure(subject_of(cell), Look(lags=20, positions=5)).verdict[0] == words


REACH, GATES = "For a longer reach (which alone does not lower the loss), try", "(--cell gru or --cell lstm)"
ADVICE = {
    "no option, no gate": (
        Linear(7, 6, 0.5),
        f"{REACH} a cell with gates, which training can open {GATES}.",
    ),
    "a scale": (
        registry.make_cell("rnn", 7, 6, {"recurrent_scale": 0.5}),
        f"{REACH} --cell-option recurrent_scale=1.2 or a cell with gates, which training can open {GATES}.",
    ),
    "a scale of units that nothing bounds": (
        registry.make_cell("irnn", 7, 6, {"recurrent_scale": 0.5}),
        f"{REACH} --cell-option recurrent_scale=1 or a cell with gates, which training can open {GATES}.",
    ),
    "a forget bias": (
        registry.make_cell("lstm", 7, 6, {"forget_bias": 0.0}),
        f"{REACH} --cell-option forget_bias=3.7.",
    ),
    "gates without a bias": (
        registry.make_cell("gru", 7, 6, {}),
        f"{REACH} a cell whose forget gate starts open (--cell lstm --cell-option forget_bias=3).",
    ),
    "explodes, with a scale": (
        registry.make_cell("irnn", 7, 6, {"recurrent_scale": 1.5}),
        "To prevent that, try --cell-option recurrent_scale=1 (at which no step stretches it) or a cell with gates "
        f"{GATES}, and clipping (--grad-clip 1).",
    ),
    "explodes, without": (
        Linear(7, 6, 1.5),
        f"To prevent that, try a cell with gates {GATES}, and clipping (--grad-clip 1).",
    ),
    "explodes, with gates": (Gated(7, 6, 5.0), "To prevent that, try clipping (--grad-clip 1)."),
    "gates that start open": (registry.make_cell("lstm", 7, 6, {"chrono": 5}), ""),
    "holds": (Copy(7, 6), ""),
}


@pytest.mark.parametrize("what", ADVICE)
def test_the_advice_is_right_for_the_cell(what):
    cell, words = ADVICE[what]
    findings = Flow().measure(subject_of(cell), Look(lags=28, positions=20))
    assert "".join(findings.verdict[1:]) == words


@pytest.mark.parametrize("cell", [*CELLS.values(), Deciding(7, 5)], ids=[*CELLS, "deciding"])
def test_every_cell_can_be_looked_at(cell):
    look = Look(lags=8, positions=5)
    found = Flow().measure(subject_of(cell, dtype="float32"), look)
    assert numbers(found)["norm"] > 0
    assert len(found.figures[0].curves) == len(anatomy(cell).states)
    (image,) = Heatmap().measure(subject_of(cell, dtype="float32"), look).figures
    assert np.isfinite(image.values[np.tril_indices(len(image.values))]).all()


BOUNDED = [*CELLS.values(), Delayed(7, 4), registry.make_cell("rnn", 7, 1, {})]


@pytest.mark.parametrize("cell", BOUNDED, ids=[*CELLS, "delayed", "a single unit"])
def test_the_gradient_of_the_carry_stays_below_its_bound(cell):
    found = bounded(subject_of(cell).probe, 12, 0)
    assert (found.measured <= found.bound * (1 + 1e-9)).all()
    assert found.measured[0] == found.bound[0] > 0
    assert len(found.measured) == 12


def test_the_bound_is_made_of_the_jacobians_between():
    """Steps of different size, so that their order counts: the product from the last step but one backwards."""
    subject = subject_of(registry.make_cell("rnn", 7, 3, {"recurrent_scale": 1.3}))
    found = bounded(subject.probe, 6, 0)
    along = stretches(subject.probe, Look(lags=7), 6, 2)
    cell, params = along.probe.cell, along.probe.params
    norms = np.array([norm(J) for J in jacobians_along(cell, params, along.carry, along.xs)])
    first = []
    for end in draw_positions(subject.probe, 6, 7, 2, np.random.default_rng(0))[:, None]:
        gradients = state_gradients(subject.probe, subject.probe.window(end, 6, 7), subject.probe.targets(end, 6))
        first.append(np.linalg.norm(gradients[0][-2, 0]))  # h is all that is carried: after the last step but one
        assert found.growth == pytest.approx(np.exp(np.log(norms).mean()), rel=1e-9)
    for k in range(1, 7):
        expected = np.mean([first[b] * np.prod(norms[6 - k : 5, b]) for b in range(2)])
        assert found.bound[k - 1] == pytest.approx(expected, rel=1e-9)


def test_a_wide_carry_is_bounded_over_fewer_steps(monkeypatch):
    monkeypatch.setattr("rnn_plugins.reports.gradients.BOUND_WORK", 9 * 6**3)
    assert len(bounded(subject_of(Linear(7, 6)).probe, 12, 0).bound) == 9
    monkeypatch.setattr("rnn_plugins.reports.gradients.BOUND_WORK", 0)
    assert len(bounded(subject_of(Linear(7, 6)).probe, 12, 0).bound) == 8


def test_an_output_that_sees_the_state_a_step_late():
    found = Flow().measure(subject_of(Delayed(7, 5)), Look(lags=8, positions=5))
    curve = found.figures[0].curves[0].y
    assert curve[0] == 0
    assert curve[1] > 0
    assert "does not depend" not in found.verdict[0]
    assert crossing([0.0, 1.0, 0.25], 0.5) == 1.5


def test_the_verdict_is_that_of_the_state_that_reaches_farthest():
    states = anatomy(registry.make_cell("lstm", 7, 5, {})).states
    flow = Norms(states, (np.array([[1.0], [0.0], [0.0]]), np.array([[0.1], [0.01], [0.0005]])))
    assert flow.farthest == 1
    flow = Norms(states, (np.array([[9.0], [3.0], [2.0]]), np.array([[1.0], [0.9], [0.8]])))
    assert flow.farthest == 1  # by what is left, and not by size


def test_a_state_whose_gradient_is_rounding_noise_decides_nothing():
    """The stabiliser of an sLSTM shifts what all else is scaled by: its gradient is exactly 0, and 1e-8 as computed."""
    subject = subject_of(Stabilised(7, 16), dtype="float32")
    found = flow_of(subject, lags=30)
    assert [state.name for state in found.states] == ["h", "s1", "s2", "s3"]
    assert found.real == [0, 1, 2]
    assert 0 < found.norms[3].max() < 1e-6
    findings = Flow().measure(subject, Look(lags=30, positions=20))
    assert "s3" not in findings.verdict[0]
    assert findings.notices == ("the gradient with respect to s3 is rounding noise, and the verdict ignores it",)
    quantities = {quantity.key: quantity for quantity in findings.quantities}
    for key in ("half_life.s3", "one_percent_lag.s3", "growth.s3"):
        assert (quantities[key].value, quantities[key].missing) == (None, "rounding noise")
    assert quantities["growth.s1"].value > 0.9


def test_a_small_gradient_is_no_noise_where_it_is_the_largest_at_its_lag():
    states = anatomy(registry.make_cell("lstm", 3, 4, {})).states
    fast, slow = np.array([[1.0], [1e-9], [0.0]]), np.array([[1e-7], [1e-7], [1e-7]])
    assert Norms(states, (fast, slow), 1e-5).real == [0, 1]
    assert Norms(states, (fast, np.full((3, 1), 1e-16)), 1e-5).real == [0, 1]
    assert Norms(states, (np.ones((3, 1)), slow), 1e-5).real == [0]
    assert Norms(states, (np.full((3, 1), np.inf), np.ones((3, 1))), 1e-5).real == [0]
    assert Norms(states, (np.zeros((3, 1)),) * 2, 1e-5).real == [0, 1]


def test_a_gradient_beyond_all_numbers_explodes():
    cell = registry.make_cell("irnn", 7, 16, {"recurrent_scale": 1.9})
    found = Flow().measure(subject_of(cell, dtype="float32"), Look(lags=90, positions=9))
    assert found.verdict[0].startswith("Explodes: after 90 steps the gradient is ")
    assert found.verdict[1].startswith(
        "To prevent that, try --cell-option recurrent_scale=1 (at which no step stretches it) or a cell with gates"
    )
    found = Flow().measure(subject_of(Linear(7, 6, 9.0), dtype="float32"), Look(lags=39, positions=9))
    assert found.verdict[0].startswith("Explodes: after 39 steps the gradient is too large for a number")
    with pytest.raises(UserError, match=r"^the network's states overflow: use"):
        Flow().measure(subject_of(Linear(7, 6, 30.0), dtype="float32"), Look(lags=90, positions=9))


def test_the_advice_follows_from_the_numbers():
    subject = subject_of(registry.make_cell("rnn", 7, 9, {"recurrent_scale": 0.5}))
    found = Flow().measure(subject, Look(lags=20, positions=30))
    wanted = 0.5 / numbers(found)["growth"]
    assert wanted > 0.9
    assert f"try --cell-option recurrent_scale={wanted:.2g} or a cell with gates" in found.verdict[1]
    subject = subject_of(registry.make_cell("lstm", 7, 9, {"forget_bias": 0.0}))
    found = Flow().measure(subject, Look(lags=20, positions=30))
    kept = 0.5 ** (1 / 20)
    assert found.verdict[1].endswith(f"try --cell-option forget_bias={np.log(kept / (1 - kept)):.2g}.")


@dataclass(frozen=True)
class Minimal(Cell):
    """A minimal gated unit, h_t = k h_{t-1} + (1 - k) c_t, whose gate k keeps."""

    forget_bias: float = 0.0

    def init_params(self, rng):
        params = {"gate": self.dense(rng), "candidate": self.dense(rng)}
        params["gate"]["b"] = params["gate"]["b"] + np.float32(self.forget_bias)
        return params

    def __call__(self, params, h, x):
        gate = sigmoid(affine(params["gate"], concat(h, x)))
        return self.mixed(gate, h, tanh(affine(params["candidate"], concat(h, x))))

    def mixed(self, gate, h, c):
        h = gate * h + (1 - gate) * c
        return h, h


class Reversed(Minimal):
    """The same with a gate that forgets, as the paper writes it: an open one forgets all."""

    def mixed(self, gate, h, c):
        return super().mixed(1 - gate, h, c)


class Narrow(Minimal):
    """The same with a bias that must be small."""

    def __post_init__(self):
        if self.forget_bias > 1:
            raise ValueError("forget_bias is too large")


class Failing(Minimal):
    """The same with a start that fails if the bias is large."""

    def init_params(self, rng):
        if self.forget_bias > 1:
            raise RuntimeError("no start")
        return super().init_params(rng)


@dataclass(frozen=True, kw_only=True)
class Demanding(Minimal):
    """The same with an option that has no default."""

    kind: int


@dataclass(frozen=True)
class Starting(Reversed):
    """The same with an option that says whether there is a bias."""

    forget_bias: bool = False


OWN_OPTION = rf"{re.escape(REACH)} --cell-option forget_bias=4(\.\d)?\."
OTHER_CELL = re.escape(f"{REACH} a cell whose forget gate starts open (--cell lstm --cell-option forget_bias=3).")


@pytest.mark.parametrize(
    ("cell", "advice"),
    [
        (Minimal(7, 9), OWN_OPTION),
        (Regularised(Minimal(7, 9), zoneout=0.1), OWN_OPTION),
        (Stacked([Minimal(7, 9), Minimal(9, 9)]), OWN_OPTION),
        (Reversed(7, 9), OTHER_CELL),
        (Narrow(7, 9), OTHER_CELL),
        (Failing(7, 9), OTHER_CELL),
        (Demanding(7, 9, kind=1), OWN_OPTION),
        (Starting(7, 9), OTHER_CELL),
    ],
    ids=["keeps", "regularised", "stack", "forgets", "refuses", "fails", "demands", "other type"],
)
def test_an_option_is_advised_for_what_it_does_and_not_for_its_name(cell, advice):
    found = Flow().measure(subject_of(cell), Look(lags=60, positions=30))
    assert found.verdict[0].startswith("Vanishes: ")
    assert re.fullmatch(advice, found.verdict[1])


@dataclass(frozen=True)
class Divided(Linear):
    """A linear cell of a matrix I / scale, whose option is called as that of cells which multiply by it."""

    recurrent_scale: float = 2.0

    def init_params(self, rng):
        return {**super().init_params(rng), "A": np.eye(self.hidden_size, dtype=np.float32) / self.recurrent_scale}


def test_a_scale_is_advised_for_what_it_does():
    gates = "a cell with gates"
    found = Flow().measure(subject_of(Divided(7, 6)), Look(lags=20, positions=5))
    assert found.verdict[1] == f"{REACH} {gates}, which training can open {GATES}."
    found = Flow().measure(subject_of(Divided(7, 6, recurrent_scale=0.5)), Look(lags=9, positions=5))
    assert found.verdict[0].startswith("Explodes: ")
    assert found.verdict[1] == f"To prevent that, try {gates} {GATES}, and clipping (--grad-clip 1)."


def test_without_a_state_there_is_nothing_to_look_at():
    for report in (Flow(), Heatmap()):
        with pytest.raises(UserError, match=r"^the cell carries no state from step to step"):
            report.measure(subject_of(Stateless(7, 5)), Look(lags=8, positions=5))


def test_a_step_that_cannot_be_traced_is_said_to_be_seen_in_part():
    found = Flow().measure(subject_of(Deciding(7, 5)), Look(lags=8, positions=5))
    assert found.notices[0].startswith("the step cannot be traced (")


def test_the_heat_map_has_the_flow_on_its_diagonals():
    found = Heatmap().measure(subject_of(Linear(7, 6, 0.5)), Look(lags=20))
    values = found.figures[0].values
    assert values.shape == (21, 21)
    assert np.isnan(values[np.triu_indices(21, 1)]).all()
    for t in range(21):
        np.testing.assert_allclose(values[t, : t + 1] / values[t, t], 0.5 ** np.arange(t, -1, -1), rtol=1e-6)
    assert numbers(found)["mean_lag"] == pytest.approx(1, rel=2e-2)


def test_a_short_text_is_looked_at_as_far_as_it_goes():
    found = Flow().measure(subject_of(Linear(7, 6), length=22), Look())
    assert found.notices == ("the text is short (22 characters), which reduces the lags from 100 to 10",)
    with pytest.raises(UserError, match="the text has 3 characters, and the gradient over one lag needs 4"):
        Flow().measure(subject_of(Linear(7, 6), length=3), Look())
    with pytest.raises(UserError, match="the text has 4 characters, and a heat map needs 5"):
        Heatmap().measure(subject_of(Linear(7, 6), length=4), Look())


@pytest.mark.parametrize("name", ["rnn", "lstm"])
def test_positions_are_taken_together_as_far_as_the_memory_allows(name, monkeypatch):
    """The parts are all of one size, so that there is one plan with its buffers, and give what one part gives."""
    subject = subject_of(registry.make_cell(name, 7, 4, {}), dtype="float32")
    whole = flow_of(subject, lags=9, positions=50)
    numbers = subject.probe.anatomy.numbers
    monkeypatch.setattr(probe, "BYTES_AT_ONCE", 20 * probe.COPIES * numbers * 4 * 10)
    assert subject.probe.rows_at_once(10) == 20
    assert subject.probe.rows_at_once(10**9) == 1
    sizes = []

    def counted(probe, window, targets):
        sizes.append(window.xs.shape[1])
        return probing.state_gradients(probe, window, targets)

    monkeypatch.setattr(gradients, "state_gradients", counted)
    for one, other in zip(flow_of(subject, lags=9, positions=50).norms, whole.norms, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)
    assert sizes == [17, 17, 17]


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="tells the peak of this program's memory alone")
def test_a_flow_over_a_hundred_lags_stays_within_600_megabytes():
    code = r"""
        import re
        import numpy as np
        from rnn_cells.lstm import LSTM
        from rnn_plugins.data.vocabulary import Vocabulary
        from rnn_plugins.language.model import Model
        from rnn_plugins.language.probe import TextProbe
        from rnn_plugins.reports.gradients import measure_flow
        model, rng = Model(LSTM(65, 256), 65), np.random.default_rng(0)
        params, tokens = model.init_params(rng), rng.integers(0, 65, 3000)
        measure_flow(TextProbe(model, params, tokens, Vocabulary.build("a")), 100, 400)
        print(int(re.search(r"VmHWM:\s+(\d+) kB", open("/proc/self/status").read())[1]) // 1024)
    """
    ran = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert int(ran.stdout) < 600
