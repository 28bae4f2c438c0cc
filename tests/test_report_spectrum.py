"""Singular values where they are known, the recurrent matrices of any cell, and the bound of basic networks."""

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from known_cells import Copy, Deciding, Forgetful, Linear, Odd, Stateless, subject_of

from minigrad import concat, relu, sigmoid, split, tanh, trees
from rnn_cells import Cell, Stacked
from rnn_cells.anatomy import jacobians
from rnn_plugins import registry
from rnn_plugins.errors import UserError
from rnn_plugins.reports import jacobians as along
from rnn_plugins.reports.flow import Flow
from rnn_plugins.reports.jacobians import jacobians_along, stretches
from rnn_plugins.reports.lyapunov import Lyapunov
from rnn_plugins.reports.matrices import Basic, basic_form, recurrent_matrices
from rnn_plugins.reports.report import Look, compose, to_json
from rnn_plugins.reports.spectrum import Spectrum, effort, histogram, measure_spectrum

EXAMPLE = Path(__file__).parents[1] / "plugins" / "examples" / "rnn-cell-mgu" / "rnn_cell_mgu.py"


def example_cell():
    """The cell of the example plugin, which need not be installed."""
    spec = importlib.util.spec_from_file_location("rnn_cell_mgu_beside", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.MGU(7, 5)


@dataclass(frozen=True)
class Basics(Cell):
    """s_t = activation(x_t U + b + sign s_{t-1} W), or the same with both in one product."""

    activation: str = "tanh"
    sign: int = 1
    joined: bool = False

    def init_params(self, rng):
        size = self.hidden_size
        return {
            "U": rng.normal(0, 1, (self.input_size, size)).astype(np.float32),
            "W": rng.normal(0, size**-0.5, (size, size)).astype(np.float32),
            "b": rng.normal(0, 1, size).astype(np.float32),
        }

    def __call__(self, params, s, x):
        function = {"tanh": tanh, "sigmoid": sigmoid, "relu": relu, "": lambda total: total}[self.activation]
        if self.joined:
            total = concat(s, x) @ concat(params["W"].T, params["U"].T).T + params["b"]
        elif self.sign < 0:
            total = x @ params["U"] - (s @ params["W"] - params["b"])
        else:
            total = x @ params["U"] + s @ params["W"] + params["b"]
        s = function(total)
        return s, s


@dataclass(frozen=True)
class Packed(Cell):
    """A gated cell with the matrices of its gates side by side, the states' and the inputs' apart."""

    def init_params(self, rng):
        size = self.hidden_size
        return {
            "W": rng.normal(0, 1, (size, 2 * size)).astype(np.float32),
            "U": rng.normal(0, 1, (self.input_size, 2 * size)).astype(np.float32),
        }

    def __call__(self, params, h, x):
        gate, new = split(h @ params["W"] + x @ params["U"], 2)
        h = h + sigmoid(gate) * tanh(new)
        return h, h


CELLS = {
    **{entry.name: registry.make_cell(entry.name, 7, 5, {}) for entry in registry.entries("cells")},
    "stack": Stacked([registry.make_cell("lstm", 7, 4, {}), registry.make_cell("gru", 4, 3, {})]),
    "plugin": example_cell(),
    "odd": Odd(7, 5),
    "deciding": Deciding(7, 5),
    "packed": Packed(7, 5),
}
LOOK = Look(lags=9, positions=5)


def numbers(findings):
    return {quantity.key: quantity.value for quantity in findings.quantities}


def chart(findings, key):
    return next(figure for figure in findings.figures if figure.key == key)


def linear(matrix, length=30):
    """A linear cell with a matrix of its own, and a text."""
    subject = subject_of(Linear(7, len(matrix)), length=length)
    subject.params["cell"]["A"] = matrix
    return subject


def measured(cell, params, carry, xs):
    return measure_spectrum(jacobians_along(cell, params, carry, xs), len(xs))


@given(st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_a_linear_cell_has_the_singular_values_of_its_matrix_and_of_its_powers(size, seed):
    rng = np.random.default_rng(seed)
    A = rng.normal(0, 1, (size, size))
    cell = Linear(2, size)
    params = {"A": A, "U": rng.normal(0, 1, (2, size))}
    found = measured(cell, params, rng.normal(0, 1, (3, size)), rng.normal(0, 1, (20, 3, 2)))
    values = np.linalg.svd(A, compute_uv=False)
    np.testing.assert_allclose(found.values, np.tile(values, (len(found.values), 1)), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.norms, values[0], rtol=1e-9)
    powers = [np.linalg.norm(np.linalg.matrix_power(A, k), 2) for k in found.lags]
    np.testing.assert_allclose(np.exp(found.products), np.tile(powers, (3, 1)).T, rtol=1e-9)


def test_the_product_of_thousands_of_steps_is_still_a_number():
    for factor in (0.1, 10.0):
        found = measured(
            Linear(1, 2), {"A": factor * np.eye(2), "U": np.zeros((1, 2))}, np.zeros((1, 2)), np.zeros((2000, 1, 1))
        )
        np.testing.assert_allclose(found.products[:, 0], found.lags * np.log(factor), rtol=1e-9)


@pytest.mark.parametrize(("rows", "parts"), [(0, [1] * 15), (2, [2, 1] * 5), (3, [3] * 5), (7, [6, 6, 3])])
def test_jacobians_are_computed_in_parts_that_fit_the_memory(monkeypatch, rows, parts):
    cell = registry.make_cell("lstm", 2, 3, {})
    rng = np.random.default_rng(0)
    params, carry = trees.cast((cell.init_params(rng), cell.init_carry(3)), np.float64)
    xs, sizes = rng.normal(0, 1, (5, 3, 2)), []
    whole = np.array(list(jacobians_along(cell, params, carry, xs)))

    def counted(cell, params, carry, x):
        sizes.append(len(x))
        return jacobians(cell, params, carry, x)

    monkeypatch.setattr(along, "NUMBERS_AT_ONCE", rows * 6 * 6)
    monkeypatch.setattr(along, "jacobians", counted)
    np.testing.assert_allclose(list(jacobians_along(cell, params, carry, xs)), whole, rtol=1e-12)
    assert sizes == parts


def test_jacobians_are_those_at_the_states_that_the_network_comes_to():
    cell = registry.make_cell("lstm", 3, 4, {})
    rng = np.random.default_rng(1)
    params, carry = trees.cast((cell.init_params(rng), cell.init_carry(2)), np.float64)
    xs = rng.normal(0, 1, (6, 2, 3))
    for J, x in zip(jacobians_along(cell, params, carry, xs), xs, strict=True):
        np.testing.assert_allclose(J, jacobians(cell, params, carry, x), rtol=1e-12, atol=1e-15)
        for j in range(8):
            moved = [np.concatenate(carry, axis=1) for _ in range(2)]
            moved[0][:, j] += 1e-6
            moved[1][:, j] -= 1e-6
            up, down = (
                np.concatenate([np.asarray(part) for part in cell(params, (m[:, :4], m[:, 4:]), x)[0]], axis=1)
                for m in moved
            )
            np.testing.assert_allclose(J[:, :, j], (up - down) / 2e-6, rtol=1e-6, atol=1e-9)
        carry = tuple(np.asarray(part) for part in cell(params, carry, x)[0])


def test_the_report_of_a_linear_cell():
    A = np.array([[0.6, 0.4, 0.0], [0.0, 0.5, 0.0], [0.0, 0.0, 1.5]])
    values = np.linalg.svd(A, compute_uv=False)
    found = Spectrum().measure(linear(A), LOOK)
    got = numbers(found)
    for key in ("largest_mean", "largest_max", "bound", "spectral_radius"):
        assert got[key] == pytest.approx(1.5, rel=1e-9)
    assert got["share_above_one"] == pytest.approx(1 / 3)
    assert [got["growth"], got["bound_growth"]] == pytest.approx([np.log(1.5)] * 2, rel=1e-9)
    product, limit, by_matrix = chart(found, "products").curves
    for curve in (product, limit, by_matrix):
        np.testing.assert_allclose(curve.y, 1.5**curve.x, rtol=1e-9)
    np.testing.assert_allclose(product.low, product.high, rtol=1e-9)
    (ordered,) = chart(found, "singular_values").curves
    np.testing.assert_allclose(ordered.x, [1 / 3, 2 / 3, 1])
    np.testing.assert_allclose(ordered.y, values, rtol=1e-9)
    assert chart(found, "recurrent").rows == (
        ("A", "h", "3 x 3", pytest.approx(1.5, rel=1e-9), pytest.approx(1.5, rel=1e-9)),
    )
    assert found.verdict == (
        "Stretches: the largest singular value over 9 steps is 38.4, a factor of 1.500 per step, while that of one "
        "step is 1.500.",
        "Its matrix does not decide: 1 x sigma_max(W) = 1.500 is not below 1, so that gradients need not vanish, and "
        "may explode if it is above. Here no step stretches by more than 1.500.",
    )


def test_a_matrix_that_is_not_normal_stretches_less_than_its_norms_say():
    found = Spectrum().measure(linear(np.array([[0.0, 2.0], [0.125, 0.0]])), Look(lags=10))
    product, limit, by_matrix = chart(found, "products").curves
    even = product.x % 2 == 0
    np.testing.assert_allclose(product.y[even], 0.5 ** product.x[even], rtol=1e-9)
    np.testing.assert_allclose(limit.y, 2.0**limit.x, rtol=1e-9)
    np.testing.assert_allclose(by_matrix.y, 2.0**limit.x, rtol=1e-9)
    got = numbers(found)
    assert got["growth"] == pytest.approx(np.log(0.5), rel=1e-9)
    assert got["bound_growth"] == pytest.approx(np.log(2), rel=1e-9)
    assert got["spectral_radius"] == pytest.approx(0.5, rel=1e-9)


def test_a_cell_that_copies_neither_stretches_nor_shrinks():
    found = Spectrum().measure(subject_of(Copy(7, 6)), LOOK)
    got = numbers(found)
    assert got["largest_mean"] == got["largest_max"] == pytest.approx(1, abs=1e-12)
    assert got["share_above_one"] == 0
    assert got["growth"] == pytest.approx(0, abs=1e-12)
    (ordered,) = chart(found, "singular_values").curves
    np.testing.assert_allclose(ordered.y, 1, rtol=1e-12)
    (bars,) = chart(found, "histogram").curves
    np.testing.assert_allclose(bars.x, [10**-0.05, 10**0.05], rtol=1e-12)
    assert bars.y.tolist() == [1, 0]
    assert found.verdict == (
        "Holds: the largest singular value over 9 steps is 1, a factor of 1.000 per step, while that of one step is "
        "1.000.",
        "The bound of Pascanu, Mikolov and Bengio (2013) is for a basic network, and this is not one: its new state "
        "is not an activation of a sum in which one product contains the old state.",
    )


@pytest.mark.parametrize("forgets", [subject_of(Forgetful(7, 4)), linear(np.zeros((4, 4)))], ids=["no W", "W = 0"])
def test_without_recurrent_weights_all_is_zero(forgets):
    found = Spectrum().measure(forgets, LOOK)
    got = numbers(found)
    assert got["largest_mean"] == got["largest_max"] == got["share_above_one"] == 0
    assert got["growth"] is got["bound_growth"] is None
    assert found.verdict[0] == "Forgets: nothing of what is carried is left after 9 steps."
    assert not chart(found, "histogram").curves[0].y.any()
    json.dumps(to_json([compose("spectrum", Spectrum(), {"a": found})]), allow_nan=False)


@given(st.lists(st.floats(1e-9, 1e3), min_size=1, max_size=40))
def test_the_histogram_has_every_value_that_is_not_too_small(values):
    values = np.array(values)
    x, shares = histogram(values)
    assert len(x) == len(shares)
    assert shares[-1] == 0
    assert shares.sum() == pytest.approx((values >= 1e-6).mean())
    np.testing.assert_allclose(x[1:] / x[:-1], 10**0.1)
    if (values >= 1e-6).any():
        assert x[0] * (1 - 1e-9) <= values[values >= 1e-6].min()
        assert values.max() <= x[-1] * (1 + 1e-9)


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_every_cell_can_be_looked_at(cell):
    found = Spectrum().measure(subject_of(cell, dtype="float32"), LOOK)
    got = numbers(found)
    assert 0 < got["largest_mean"] <= got["largest_max"]
    assert got["growth"] <= got["bound_growth"] + 1e-9
    product, limit, *_ = chart(found, "products").curves
    assert not (product.y > limit.y * (1 + 1e-9)).any()
    assert (product.low <= product.y).all()
    assert (product.y <= product.high).all()
    json.dumps(to_json([compose("spectrum", Spectrum(), {"a": found})]), allow_nan=False)


def rows_of(name, **options):
    cell = registry.make_cell(name, 7, 5, options)
    return [(found.name, found.operand, found.matrix.shape) for found in recurrent_matrices(cell, params_of(cell))]


def params_of(cell):
    return cell.init_params(np.random.default_rng(0))


def test_the_rows_that_the_state_meets_are_found_in_the_graph():
    gates = [(f"{gate}.W[0:5]", "h", (5, 5)) for gate in ("forget", "input", "output", "candidate")]
    assert rows_of("rnn") == rows_of("irnn") == [("W", "h", (5, 5))]
    assert rows_of("lstm") == gates
    assert rows_of("gru") == [
        ("update.W[0:5]", "h", (5, 5)),
        ("reset.W[0:5]", "h", (5, 5)),
        ("candidate.W[0:5]", "gated h", (5, 5)),
    ]
    assert rows_of("gru", reset="after")[2] == ("candidate.hidden.W", "h", (5, 5))
    assert rows_of("lstm-peephole", peephole="full")[-2:] == [
        ("output.W[0:5]", "new c", (5, 5)),
        ("output.W[5:10]", "h", (5, 5)),
    ]


def test_matrices_have_the_numbers_of_the_parameters():
    cell = registry.make_cell("lstm", 7, 5, {})
    params = params_of(cell)
    for found, gate in zip(recurrent_matrices(cell, params), ("forget", "input", "output", "candidate"), strict=True):
        np.testing.assert_array_equal(found.matrix, params[gate]["W"][:5])


def test_gates_side_by_side_are_taken_apart():
    cell = CELLS["packed"]
    params = params_of(cell)
    gate, new = recurrent_matrices(cell, params)
    assert (gate.name, new.name) == ("W[:, 0:5]", "W[:, 5:10]")
    np.testing.assert_array_equal(gate.matrix, params["W"][:, :5])
    np.testing.assert_array_equal(new.matrix, params["W"][:, 5:])


@dataclass(frozen=True)
class Sliced(Cell):
    """A linear cell that takes its matrices from one parameter, in the ways in which one may write that."""

    def init_params(self, rng):
        return {"W": rng.normal(0, 1, (2 * self.hidden_size, 3 * self.hidden_size)).astype(np.float32)}

    def __call__(self, params, h, x):
        W, n = params["W"], self.hidden_size
        h = h @ W[:n, :n] + h @ W[n:][:, n : 2 * n] + h @ W[-n:, ..., -n:].T + h @ W[::2, :n]
        return h, h


def test_parts_of_a_parameter_are_named_however_they_are_taken():
    cell = Sliced(7, 5)
    params = params_of(cell)
    first, second, third, fourth = recurrent_matrices(cell, params)
    assert [found.name for found in (first, second, third, fourth)] == ["W[0:5, 0:5]", "W[5:10, 5:10]", "W", "W"]
    np.testing.assert_array_equal(first.matrix, params["W"][:5, :5])
    np.testing.assert_array_equal(second.matrix, params["W"][5:, 5:10])
    np.testing.assert_array_equal(third.matrix, params["W"][5:, 10:].T)
    np.testing.assert_array_equal(fourth.matrix, params["W"][::2, :5])


def test_bounds_are_drawn_as_far_as_they_are_of_use():
    found = Spectrum().measure(linear(np.array([[0.0, 8.0], [0.125, 0.0]])), Look(lags=10))
    product, limit, by_matrix = chart(found, "products").curves
    np.testing.assert_allclose(product.y, np.where(product.x % 2, 8.0, 1.0), rtol=1e-9)
    drawn = np.where(8.0**product.x <= 8e4, 8.0**product.x, np.nan)
    assert np.isnan(drawn).any()
    np.testing.assert_allclose(limit.y, drawn, rtol=1e-9)
    np.testing.assert_allclose(by_matrix.y, drawn, rtol=1e-9)


def test_layers_have_matrices_of_their_own():
    cell = CELLS["stack"]
    found = recurrent_matrices(cell, params_of(cell))
    assert [matrix.name.split(".")[0] for matrix in found] == ["layer1"] * 4 + ["layer2"] * 3
    assert {matrix.matrix.shape for matrix in found} == {(4, 4), (3, 3)}


def test_matrices_of_odd_cells():
    cell = CELLS["odd"]
    (found,) = recurrent_matrices(cell, params_of(cell))
    assert (found.name, found.operand, found.matrix.shape) == ("pair.W", "rows", (5, 5))
    (again,) = recurrent_matrices(CELLS["plugin"], params_of(CELLS["plugin"]))[1:]
    assert (again.name, again.operand) == ("candidate.W[0:5]", "gated h")


@given(
    st.sampled_from(["tanh", "sigmoid", "relu", ""]),
    st.sampled_from([1, -1]),
    st.booleans(),
    st.floats(0.1, 3),
    st.integers(0, 2**32 - 1),
)
def test_the_bound_holds_on_basic_networks(activation, sign, joined, scale, seed):
    cell = Basics(3, 4, activation=activation, sign=sign, joined=joined)
    rng = np.random.default_rng(seed)
    params = trees.cast(cell.init_params(rng), np.float64)
    params["W"] *= scale
    form = basic_form(cell, params)
    assert isinstance(form, Basic)
    assert form.activation == activation
    assert form.bound == pytest.approx({"sigmoid": 0.25}.get(activation, 1.0) * np.linalg.norm(params["W"], 2))
    found = measured(cell, params, rng.normal(0, 1, (2, 4)), rng.normal(0, 1, (8, 2, 3)))
    assert found.norms.max() <= form.bound * (1 + 1e-9)
    assert (found.products.max(axis=1) <= found.lags * np.log(form.bound) + 1e-9).all()


def test_the_bound_is_reached_where_nothing_saturates():
    cell = Basics(3, 4)
    params = trees.cast(params_of(cell), np.float64) | {"U": np.zeros((3, 4)), "b": np.zeros(4)}
    found = measured(cell, params, np.zeros((1, 4)), np.zeros((3, 1, 3)))
    assert found.norms.max() == pytest.approx(basic_form(cell, params).bound, rel=1e-12)


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        (CELLS["gru"], "its new state is not an activation of a sum in which one product contains the old state"),
        (CELLS["plugin"], "its new state is not an activation of a sum in which one product contains the old state"),
        (CELLS["packed"], "its new state is not an activation of a sum in which one product contains the old state"),
        (CELLS["lstm"], "it carries 2 states"),
        (CELLS["stack"], "it has several layers"),
        (Forgetful(7, 5), "the new state does not depend on the old one"),
    ],
)
def test_the_bound_is_refused_where_the_step_is_of_another_form(cell, reason):
    assert basic_form(cell, params_of(cell)) == reason


def test_what_the_bound_says_is_said():
    small = Spectrum().measure(subject_of(registry.make_cell("rnn", 7, 5, {"recurrent_scale": 0.5})), LOOK)
    assert small.verdict[1] == (
        "Its matrix decides: 1 x sigma_max(W) = 0.500 is below 1, so that gradients vanish on any input."
    )
    gated = Spectrum().measure(subject_of(CELLS["gru"]), LOOK)
    (bound,) = (quantity for quantity in gated.quantities if quantity.key == "bound")
    assert (bound.value, bound.missing) == (None, "not a basic network")
    assert len(chart(gated, "products").curves) == 2


def test_a_step_that_cannot_be_read_has_singular_values_and_no_matrices():
    found = Spectrum().measure(subject_of(CELLS["deciding"]), LOOK)
    assert [figure.key for figure in found.figures] == ["products", "histogram", "singular_values"]
    (notice,) = found.notices
    assert notice.startswith("the recurrent matrices are left out, because the step cannot be read: it ")
    assert found.verdict[1].startswith(
        "The bound of Pascanu, Mikolov and Bengio (2013) is for a basic network, and this is not one: it cannot be "
        "read: it "
    )


def test_wide_cells_are_looked_at_at_fewer_places():
    assert effort(1, 100) == effort(256, 100) == (100, 3)
    assert effort(256, 20) == (20, 3)
    assert effort(512, 100) == (25, 3)
    assert effort(1024, 100) == effort(4096, 100) == (8, 1)
    found = Spectrum().measure(subject_of(Linear(7, 4)), Look(lags=6))
    assert found.quantities[0].definition == (
        "The mean of the largest singular value of the 18 Jacobians along 3 windows of the text, of 6 steps each, "
        "after 6 steps of warm-up: how far a step stretches what it stretches most."
    )


def test_a_short_text_is_looked_at_as_far_as_it_goes():
    found = Spectrum().measure(subject_of(Linear(7, 4), length=22), Look())
    assert found.notices == (
        "the text is short (22 characters), which reduces the steps measured from 100 to 10 and the steps read before "
        "them from 100 to 11",
    )
    found = Spectrum().measure(subject_of(Linear(7, 4), length=8), Look(lags=4))
    assert found.notices == ("the text is short (8 characters), which reduces the steps measured from 4 to 3",)
    with pytest.raises(UserError) as error:
        Spectrum().measure(subject_of(Linear(7, 4), length=2), Look())
    assert str(error.value) == "the text has 2 characters, and a Jacobian needs 3: give a longer one"


def test_a_cell_that_carries_nothing():
    with pytest.raises(UserError) as error:
        Spectrum().measure(subject_of(Stateless(7, 4)), Look())
    assert str(error.value) == "the cell carries no state from step to step, so there is no Jacobian to measure"


@dataclass(frozen=True)
class Memory(Cell):
    """A matrix as wide as the cell, which forgets half of itself at every step, and is read by a vector of ones."""

    def init_params(self, rng):
        return {"U": rng.normal(0, 1, (self.input_size, self.hidden_size)).astype(np.float32)}

    def init_carry(self, batch_size):
        return np.zeros((batch_size, self.hidden_size, self.hidden_size), np.float32)

    def __call__(self, params, memory, x):
        memory = memory / 2 + (x @ params["U"])[:, None]
        return memory, memory.sum(axis=1)


def test_a_cell_that_carries_so_much_that_its_jacobians_exceed_memory():
    subject = subject_of(Memory(7, 180))
    reason = (
        "the cell carries 32,400 numbers, too many to measure Jacobians (32,400 x 32,400), which would take about {} "
        "GB of memory: measure a smaller network (--hidden-size, or the cell's options)"
    )
    with pytest.raises(UserError) as error:
        Spectrum().measure(subject, Look())
    assert str(error.value) == reason.format(59)
    with pytest.raises(UserError, match="too many to measure Jacobians"):
        Lyapunov().measure(subject, Look())
    found = Flow().measure(subject, Look(lags=8, positions=5))
    assert found.notices[-1] == "the bound of the gradient is left out: " + reason.format(68)
    assert found.verdict[0].startswith("Vanishes: half-life 1 steps")
    assert [figure.key for figure in found.figures] == ["flow"]


def test_states_that_grow_beyond_all_numbers():
    with pytest.raises(UserError) as error:
        Spectrum().measure(linear(1e30 * np.eye(3)), LOOK)
    assert str(error.value) == (
        "the network's states overflow: use a smaller recurrent matrix, or train with clipping (--grad-clip 1)"
    )


def test_stretches_begin_where_reading_leads():
    subject = subject_of(registry.make_cell("rnn", 7, 5, {}), dtype="float32")
    along = stretches(subject.probe, Look(lags=6), 4, 2)
    assert along.xs.shape == (4, 2, 7)
    assert along.carry.dtype == along.xs.dtype == np.float64
    text = np.argmax(along.xs, axis=2)
    for row in range(2):
        starts = [
            start
            for start in range(6, len(subject.examples) - 4)
            if (subject.examples[start : start + 4] == text[:, row]).all()
        ]
        states = []
        for start in starts:
            s = np.zeros(5)
            for token in subject.examples[start - 6 : start]:
                cell = {name: np.asarray(leaf, np.float64) for name, leaf in along.probe.params.items()}
                s = np.tanh(cell["U"][token] + s @ cell["W"] + cell["b"])
            states.append(s)
        assert min(np.abs(s - along.carry[row]).max() for s in states) < 1e-12
