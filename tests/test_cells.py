"""The built-in cells: each keeps a cell's promises with every option, starts as its paper says, is its equations."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import rnn_cells
from minigrad import trees
from minigrad.checking import check_vjp
from rnn_cells import Bidirectional, Cell, Stacked, parameter_count
from rnn_cells.gru import GRU
from rnn_cells.lstm import LSTM, CoupledLSTM, PeepholeLSTM
from rnn_cells.rnn import IRNN, RNN
from rnn_cells.stacked import drop_steps
from rnn_plugins import registry
from rnn_plugins.testing import check_cell


def every_option(name: str) -> Iterator[dict[str, Any]]:
    """The defaults, and every other value of every option; of numbers one other."""
    yield {}
    for option in registry.cell_options(registry.cell_class(name)):
        values = (
            option.choices
            or {bool: (True, False), float: (option.default, 0.5), int: (option.default, 20)}[option.type]
        )
        yield from ({option.name: value} for value in values if value != option.default)


NAMES = [entry.name for entry in registry.entries("cells") if entry.distribution == "rnn-lab"]
CASES = [(name, options) for name in NAMES for options in every_option(name)]
IDS = [f"{name} {' '.join(f'{k}={v}' for k, v in options.items())}".strip() for name, options in CASES]


def make(name: str, options: dict[str, Any], input_size: int = 3, hidden_size: int = 4) -> Cell:
    return registry.make_cell(name, input_size, hidden_size, options)


def check(cell: Cell) -> None:
    report = check_cell(cell)
    report.raise_if_failed()
    assert report.error < 1e-6


def test_every_option_is_tried():
    assert IDS == [
        "gru", "gru reset=after", "irnn", "irnn recurrent_scale=0.5", "irnn input_scale=0.5", "lstm",
        "lstm forget_bias=0.5", "lstm chrono=20", "lstm second_bias=True", "lstm layer_norm=True", "lstm-coupled",
        "lstm-coupled forget_bias=0.5", "lstm-coupled chrono=20", "lstm-peephole", "lstm-peephole forget_bias=0.5",
        "lstm-peephole chrono=20", "lstm-peephole peephole=full", "rnn", "rnn recurrent_scale=0.5",
    ]  # fmt: skip


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_a_cell_keeps_its_promises(name, options):
    check(make(name, options))


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_a_stack_keeps_its_promises(name, options):
    check(Stacked([make(name, options), make(name, options, 4, 2)], dropout=0.5))


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_both_directions_keep_their_promises(name, options):
    check(Bidirectional(make(name, options), make(name, options, 3, 2)))


@pytest.mark.parametrize(
    "cell",
    [
        Stacked([RNN(3, 4)]),
        Stacked([RNN(3, 4), LSTM(4, 2), GRU(2, 3)]),
        Stacked([Stacked([GRU(3, 2), RNN(2, 4)]), IRNN(4, 3)]),
        Stacked([Bidirectional(GRU(3, 2), LSTM(3, 4)), RNN(6, 3)]),
        Bidirectional(Stacked([GRU(3, 2), RNN(2, 4)]), LSTM(3, 2)),
        Bidirectional(Bidirectional(RNN(3, 2), GRU(3, 2)), RNN(3, 4)),
    ],
    ids=str,
)
def test_compositions_keep_their_promises(cell):
    check(cell)


# --- equations, written a second time in plain NumPy -----------------------------------------------------------------


def sigma(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def rnn(p, s, x):
    s = np.tanh(x @ p["U"] + s @ p["W"] + p["b"])
    return s, s


def irnn(p, s, x):
    s = np.maximum(0, x @ p["U"] + s @ p["W"] + p["b"])
    return s, s


def gate(p, *parts):
    return np.hstack(parts) @ p["W"] + p["b"] + p.get("b2", 0)


def lstm(p, carry, x):
    h, c = carry
    f, i, o = (sigma(gate(p[name], h, x)) for name in ("forget", "input", "output"))
    c = f * c + i * np.tanh(gate(p["candidate"], h, x))
    return (o * np.tanh(c), c), o * np.tanh(c)


def normal(z):
    return (z - z.mean(1, keepdims=True)) / np.sqrt(z.var(1, keepdims=True) + 1e-5)


def lstm_normalised(p, carry, x):
    h, c = carry

    def inside(name):
        return p[name]["gain"] * normal(np.hstack([h, x]) @ p[name]["W"]) + p[name]["b"]

    f, i, o = (sigma(inside(name)) for name in ("forget", "input", "output"))
    c = f * c + i * np.tanh(inside("candidate"))
    h = o * np.tanh(p["memory"]["gain"] * normal(c) + p["memory"]["b"])
    return (h, c), h


def lstm_peephole_diagonal(p, carry, x):
    h, c = carry
    f = sigma(gate(p["forget"], h, x) + p["forget"]["p"] * c)
    i = sigma(gate(p["input"], h, x) + p["input"]["p"] * c)
    c = f * c + i * np.tanh(gate(p["candidate"], h, x))
    h = sigma(gate(p["output"], h, x) + p["output"]["p"] * c) * np.tanh(c)
    return (h, c), h


def lstm_peephole_full(p, carry, x):
    h, c = carry
    f, i = sigma(gate(p["forget"], c, h, x)), sigma(gate(p["input"], c, h, x))
    c = f * c + i * np.tanh(gate(p["candidate"], h, x))
    h = sigma(gate(p["output"], c, h, x)) * np.tanh(c)
    return (h, c), h


def lstm_coupled(p, carry, x):
    h, c = carry
    f = sigma(gate(p["forget"], h, x))
    c = f * c + (1 - f) * np.tanh(gate(p["candidate"], h, x))
    h = sigma(gate(p["output"], h, x)) * np.tanh(c)
    return (h, c), h


def gru_before(p, h, x):
    z, r = sigma(gate(p["update"], h, x)), sigma(gate(p["reset"], h, x))
    h = (1 - z) * h + z * np.tanh(gate(p["candidate"], r * h, x))
    return h, h


def gru_after(p, h, x):
    z, r = sigma(gate(p["update"], h, x)), sigma(gate(p["reset"], h, x))
    h = (1 - z) * h + z * np.tanh(gate(p["candidate"]["input"], x) + r * gate(p["candidate"]["hidden"], h))
    return h, h


@pytest.mark.parametrize(
    ("cell", "equations"),
    [
        (RNN(3, 4), rnn),
        (IRNN(3, 4), irnn),
        (LSTM(3, 4), lstm),
        (LSTM(3, 4, second_bias=True), lstm),
        (LSTM(3, 4, layer_norm=True), lstm_normalised),
        (PeepholeLSTM(3, 4), lstm_peephole_diagonal),
        (PeepholeLSTM(3, 4, peephole="full"), lstm_peephole_full),
        (CoupledLSTM(3, 4), lstm_coupled),
        (GRU(3, 4), gru_before),
        (GRU(3, 4, reset="after"), gru_after),
    ],
    ids=lambda each: getattr(each, "__name__", str(each)),
)
def test_a_cell_is_its_equations(cell, equations):
    rng = np.random.default_rng(0)
    params = trees.map(lambda p: rng.normal(0, 0.5, p.shape), cell.init_params(rng))
    carry = trees.map(lambda c: rng.normal(0, 0.5, c.shape), cell.init_carry(2))
    x = rng.normal(size=(2, 3))
    for actual, expected in trees.zip_leaves(cell(params, carry, x), equations(params, carry, x)):
        np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-14)


# --- how they start --------------------------------------------------------------------------------------------------


def test_biases_start_at_zero_but_for_the_forget_gate():
    for name, options in CASES:
        if "chrono" in options:
            continue
        params = trees.flatten(make(name, options).init_params(np.random.default_rng(0)))
        biases = {path: value for path, value in params.items() if path.split(".")[-1] in ("b", "b2")}
        assert biases
        for path, value in biases.items():
            assert (value == (options.get("forget_bias", 1) if path == "forget.b" else 0)).all(), (name, path)


@pytest.mark.parametrize("cell", [LSTM, PeepholeLSTM, CoupledLSTM])
def test_with_chrono_units_forget_at_speeds_up_to_that_of_the_longest_lag(cell):
    params = cell(3, 5000, chrono=100).init_params(np.random.default_rng(0))
    steps = 1 / (1 - sigma(params["forget"]["b"].astype(float)))  # in which 1/e is left of c
    assert 2 <= steps.min() < 2.1
    assert 99.9 < steps.max() <= 100.001
    assert abs(np.median(steps) - 51) < 2
    if "input" in params:
        assert np.array_equal(params["input"]["b"], -params["forget"]["b"])
    assert not params["output"]["b"].any()
    assert not params["candidate"]["b"].any()


def test_chrono_is_a_number_of_steps_or_none():
    for wrong in (-1, 1, 2):
        with pytest.raises(ValueError, match=f"^LSTM: chrono is {wrong}; it must be 0, or at least 3 steps$"):
            LSTM(3, 4, chrono=wrong)


def test_the_basic_networks_start_as_they_say():
    rng = np.random.default_rng(0)
    for scale in (1.0, 0.01):
        assert np.array_equal(IRNN(3, 4, scale).init_params(rng)["W"], np.eye(4, dtype=np.float32) * np.float32(scale))
        W = RNN(3, 4, scale).init_params(rng)["W"]
        np.testing.assert_allclose(W @ W.T, scale**2 * np.eye(4), atol=1e-6)
    for scale in (1.0, 1e-3):
        assert np.std(IRNN(100, 100, input_scale=scale).init_params(rng)["U"]) == pytest.approx(scale, rel=0.05)


def test_the_first_carry_is_zero():
    for name in NAMES:
        carry = make(name, {}).init_carry(2)
        assert [leaf.shape for leaf in trees.leaves(carry)] == [(2, 4)] * (2 if name.startswith("lstm") else 1)
        assert not any(leaf.any() for leaf in trees.leaves(carry))


@pytest.mark.parametrize(
    ("cell", "parameters"),
    [
        (RNN(65, 128), 128 * (65 + 128 + 1)),
        (IRNN(65, 128), 128 * (65 + 128 + 1)),
        (LSTM(65, 128), 4 * 128 * (65 + 128 + 1)),
        (LSTM(65, 128, second_bias=True), 4 * 128 * (65 + 128 + 2)),
        (LSTM(65, 128, layer_norm=True), 4 * 128 * (65 + 128 + 1) + 4 * 128 + 2 * 128),
        (PeepholeLSTM(65, 128), 4 * 128 * (65 + 128 + 1) + 3 * 128),
        (PeepholeLSTM(65, 128, peephole="full"), 4 * 128 * (65 + 128 + 1) + 3 * 128 * 128),
        (CoupledLSTM(65, 128), 3 * 128 * (65 + 128 + 1)),
        (GRU(65, 128), 3 * 128 * (65 + 128 + 1)),
        (GRU(65, 128, reset="after"), 3 * 128 * (65 + 128 + 1) + 128),
    ],
    ids=str,
)
def test_the_number_of_parameters(cell, parameters):
    assert parameter_count(cell) == parameters


def test_the_classic_char_rnn_has_240_321_parameters():
    stack = Stacked([LSTM(65, 128, second_bias=True), LSTM(128, 128, second_bias=True)])
    head = 128 * 65 + 65
    assert parameter_count(stack) + head == 240_321


def test_suggested_learning_rates():
    suggested = {name: registry.cell_class(name).suggested_learning_rate for name in NAMES}
    assert (suggested["rnn"], suggested["irnn"], suggested["gru"], suggested["lstm"]) == (2e-3, 5e-3, 4e-3, 1e-2)
    assert all(isinstance(rate, float) for rate in suggested.values())


def test_a_stack_suggests_the_longest_warm_up_of_its_layers():
    assert [RNN(3, 4).suggested_warmup, IRNN(3, 4).suggested_warmup] == [0, 100]
    assert Stacked([RNN(3, 4), IRNN(4, 4)]).suggested_warmup == 100


# --- stacks and dropout ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Echo(Cell):
    """Its output is its input, so that what stands between layers can be seen."""

    def init_params(self, rng: np.random.Generator) -> Any:
        return {}

    def __call__(self, params: Any, carry: Any, x: Any) -> tuple[Any, Any]:
        return carry, x


def run(cell: Cell, xs: Any, **kwargs: Any) -> Any:
    rng = np.random.default_rng(0)
    return cell.unroll(cell.init_params(rng), cell.init_carry(xs.shape[1]), xs, **kwargs)[1]


ONES = np.ones((6, 4, 50), np.float32)


def echo(layers: int, **kwargs: Any) -> Stacked:
    return Stacked([Echo(50, 50)] * layers, **kwargs)


def test_a_step_of_a_stack_is_its_unroll_without_dropout():
    cell = Stacked([GRU(3, 4), LSTM(4, 5)], dropout=0.5)
    rng = np.random.default_rng(0)
    # In float64, for the planned loop adds in another order than single steps do.
    params, carry = (trees.cast(tree, np.float64) for tree in (cell.init_params(rng), cell.init_carry(2)))
    xs = rng.normal(size=(5, 2, 3))
    last, ys = cell.unroll(params, carry, xs)
    for x, y in zip(xs, ys, strict=True):
        carry, out = cell(params, carry, x)
        np.testing.assert_allclose(out, y, rtol=1e-12)
    for a, b in trees.zip_leaves(carry, last):
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_dropout_draws_a_mask_for_every_step():
    ys = run(echo(2, dropout=0.25), ONES, rng=np.random.default_rng(1))
    assert set(np.unique(ys)) == {np.float32(0), np.float32(1 / 0.75)}
    assert np.mean(ys == 0) == pytest.approx(0.25, abs=0.05)
    assert not any(np.array_equal(ys[0], y) for y in ys[1:])


def test_variational_dropout_draws_one_mask_for_all_steps():
    ys = run(echo(2, dropout=0.25, variational=True), ONES, rng=np.random.default_rng(1))
    assert set(np.unique(ys)) == {np.float32(0), np.float32(1 / 0.75)}
    assert all(np.array_equal(ys[0], y) for y in ys)
    assert not np.array_equal(ys[0, 0], ys[0, 1]), "another mask for each sequence"


def test_dropout_stands_between_layers_only():
    assert np.array_equal(run(echo(1, dropout=0.5), ONES, rng=np.random.default_rng(1)), ONES)
    assert np.mean(run(echo(3, dropout=0.5), ONES, rng=np.random.default_rng(1)) > 0) == pytest.approx(0.25, abs=0.05)


def test_there_is_no_dropout_without_a_generator():
    assert np.array_equal(run(echo(3, dropout=0.5), ONES), ONES)


def test_the_same_generator_drops_the_same():
    cell = echo(3, dropout=0.5)
    first, second, other = (run(cell, ONES, rng=np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)


def test_dropout_reaches_stacks_within_both_directions_and_within_stacks():
    inner = echo(2, dropout=0.5)
    for cell in (Bidirectional(inner, Echo(50, 50)), Stacked([inner])):
        assert (run(cell, ONES, rng=np.random.default_rng(1))[..., :50] == 0).any()


def test_the_gradient_passes_through_dropout():
    cell = Stacked([RNN(3, 8), RNN(8, 4)], dropout=0.5)
    rng = np.random.default_rng(0)
    params = trees.cast(cell.init_params(rng), np.float64)
    carry = trees.cast(cell.init_carry(2), np.float64)
    xs = rng.normal(size=(4, 2, 3))
    check_vjp(lambda p, x: cell.unroll(p, carry, x, rng=np.random.default_rng(1)), (params, xs))


def test_dropout_keeps_float32():
    ys = drop_steps(ONES, 0.3, True, np.random.default_rng(0))
    assert ys.dtype == np.float32


# --- what a user can get wrong ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: GRU(0, 4), "GRU: input_size is 0; it must be a whole number of at least 1"),
        (lambda: LSTM(3, 4.0), "LSTM: hidden_size is 4.0; it must be a whole number of at least 1"),
        (lambda: GRU(3, 4, reset="befor"), "GRU: reset is 'befor'; it must be 'before' or 'after'"),
        (
            lambda: PeepholeLSTM(3, 4, peephole="none"),
            "PeepholeLSTM: peephole is 'none'; it must be 'diagonal' or 'full'",
        ),
        (lambda: Stacked([]), "Stacked: got no cells; give at least one"),
        (
            lambda: Stacked([GRU(3, 4), GRU(5, 4)]),
            "Stacked: layer 0 gives outputs of 4, and layer 1 takes inputs of 5: make them equal",
        ),
        (lambda: Stacked([GRU(3, 4)], dropout=1), "Stacked: dropout is 1; it must be at least 0 and below 1"),
        (
            lambda: Bidirectional(GRU(3, 4), GRU(4, 4)),
            "Bidirectional: the cells take inputs of 3 and 4; both read the same sequence, so make them equal",
        ),
    ],
)
def test_what_does_not_fit_is_refused(build, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        build()


def test_both_directions_have_no_single_step():
    cell = Bidirectional(GRU(3, 4), GRU(3, 4))
    with pytest.raises(TypeError) as caught:
        cell(None, None, None)
    assert str(caught.value) == (
        "Bidirectional has no single step, because it reads the sequence from both ends: use unroll"
    )


def test_a_cell_without_equations_says_what_to_write():
    cell = Cell(3, 4)
    with pytest.raises(NotImplementedError, match=r"^Cell must define init_params\(self, rng\)$"):
        cell.init_params(np.random.default_rng(0))
    with pytest.raises(NotImplementedError, match=r"^Cell must define __call__\(self, params, carry, x\)$"):
        cell({}, None, None)


# --- what does not fit ------------------------------------------------------------------------------------------------

XS = np.zeros((5, 2, 3), np.float32)
F64 = np.float64

UNFIT = {
    "features": (
        GRU(3, 4),
        lambda p, h: (p, h, np.zeros((5, 2, 4), np.float32)),
        "GRU: xs has 4 features and the cell takes 3",
    ),
    "axes": (
        GRU(3, 4),
        lambda p, h: (p, h, XS[0]),
        "GRU: xs has shape (2, 3); expected (T, B, 3): steps, sequences, features",
    ),
    "a list": (
        GRU(3, 4),
        lambda p, h: (p, h, XS.tolist()),
        "GRU: xs is a list of plain numbers; expected an array (T, B, 3): convert it, with np.asarray(xs, np.float32)",
    ),
    "dtype": (
        GRU(3, 4),
        lambda p, h: (p, h, XS.astype(F64)),
        "GRU: xs has dtype float64 and the parameters float32: convert it, with xs.astype(np.float32)",
    ),
    "integers": (
        RNN(3, 4),
        lambda p, h: (p, h, XS.astype(int)),
        "RNN: xs has dtype int64 and the parameters float32: convert it, with xs.astype(np.float32)",
    ),
    "sequences": (
        LSTM(3, 4),
        lambda p, carry: (p, LSTM(3, 4).init_carry(3), XS),
        "LSTM: the carry '0' has shape (3, 4); expected (2, 4), as init_carry(2) gives it",
    ),
    "hidden size": (
        GRU(3, 4),
        lambda p, h: (p, h[:, :2], XS),
        "GRU: the carry has shape (2, 2); expected (2, 4), as init_carry(2) gives it",
    ),
    "structure": (
        LSTM(3, 4),
        lambda p, carry: (p, carry[0], XS),
        "LSTM: the carry has another structure than init_carry gives it: ",
    ),
    "carry's dtype": (
        GRU(3, 4),
        lambda p, h: (p, h.astype(F64), XS),
        "GRU: the carry has dtype float64; expected float32: convert it, with minigrad.trees.cast(carry, np.float32)",
    ),
    "parameters' dtype": (
        LSTM(3, 4),
        lambda p, carry: (trees.cast(p, F64), carry, XS),
        "LSTM: the carry '0' has dtype float32; expected float64: convert it, with "
        "minigrad.trees.cast(carry, np.float64)",
    ),
    "a layer": (
        Stacked([RNN(3, 4), GRU(4, 2)]),
        lambda p, carry: (p, (carry[0], carry[1][:1]), XS),
        "GRU: the carry has shape (1, 2); expected (2, 2), as init_carry(2) gives it",
    ),
    "a direction": (
        Bidirectional(RNN(3, 4), GRU(3, 2)),
        lambda p, carry: (p, carry, XS[..., :2]),
        "RNN: xs has 2 features and the cell takes 3",
    ),
}


@pytest.mark.parametrize(("cell", "change", "sentence"), UNFIT.values(), ids=UNFIT)
def test_what_does_not_fit_a_cell_is_told_in_its_words(cell, change, sentence):
    params, carry = cell.init_params(np.random.default_rng(0)), cell.init_carry(2)
    with pytest.raises((ValueError, TypeError)) as caught:
        cell.unroll(*change(params, carry))
    assert str(caught.value).startswith(sentence)
    if not sentence.endswith(": "):
        assert str(caught.value) == sentence


def test_truths_float64_throughout_and_any_order_of_bytes_fit():
    cell = GRU(3, 4)
    params, carry = cell.init_params(np.random.default_rng(0)), cell.init_carry(2)
    cell.unroll(params, carry, XS > 0)
    cell.unroll(trees.cast(params, F64), trees.cast(carry, F64), XS)
    swapped = trees.map(lambda leaf: leaf.astype(">f4"), params)
    for given in ((swapped, carry, XS), (params, carry.astype(">f4"), XS), (params, carry, XS.astype(">f4"))):
        np.testing.assert_array_equal(cell.unroll(*given)[1], cell.unroll(params, carry, XS)[1])


def test_a_first_carry_of_numpys_own_type_fits_as_it_is_and_cast_to_the_parameters():
    class Zeros(GRU):
        def init_carry(self, batch_size):
            return np.zeros((batch_size, self.hidden_size))

    cell = Zeros(3, 4)
    params, carry = cell.init_params(np.random.default_rng(0)), trees.cast(cell.init_carry(2), np.float32)
    np.testing.assert_array_equal(cell.unroll(params, carry, XS)[1], GRU(3, 4).unroll(params, carry, XS)[1])
    cell.unroll(trees.cast(params, F64), cell.init_carry(2), XS)


def test_every_built_in_cell_can_be_imported_from_the_package():
    for name in NAMES:
        cell = registry.cell_class(name)
        assert getattr(rnn_cells, cell.__name__) is cell
        assert cell.__name__ in rnn_cells.__all__
