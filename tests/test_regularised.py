"""Regularisation of recurrent networks in training: which weights are recurrent, how they are dropped, and resuming."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import SMALL, refused, settle, trained
from known_cells import Copy, Linear
from test_scan_planned import no_reference_loop

from minigrad import einsum, reshape, tanh, trees, value_and_grad, vjp
from minigrad import sum as total
from minigrad.functions import Share
from minigrad.scan import available_backends, use_backend
from minigrad.scan.planned import watched
from rnn_cells import Bidirectional, Cell, Stacked
from rnn_cells.anatomy import anatomy
from rnn_cells.gru import GRU
from rnn_cells.lstm import LSTM, CoupledLSTM, PeepholeLSTM
from rnn_cells.regularised import Regularised, drop_weights, recurrent_weights
from rnn_cells.rnn import RNN
from rnn_lab.runs import network_of
from rnn_lab.sessions import same_weights
from rnn_lab.settings import Settings
from rnn_plugins import registry
from rnn_plugins.language.model import Model
from rnn_plugins.tasks.decoding import Decoder, shifted
from rnn_plugins.tasks.task import Network
from rnn_plugins.testing import check_cell

BACKENDS = ("reference", *available_backends())
RATE = 0.5


class Deep(Linear):
    """A step of two layers, one of them turned, and an output that is not carried; products with three axes."""

    def init_params(self, rng):
        params = super().init_params(rng)
        H = self.hidden_size
        for name, shape in {"up": (H, H), "out": (H, H), "heads": (2, H // 2, H // 2), "flat": (H * H,)}.items():
            params[name] = rng.normal(0, 0.3, shape).astype(np.float32)
        return params | {"gain": np.zeros((H, 1), np.float32)}

    def __call__(self, params, h, x):
        H = self.hidden_size
        below = tanh(h @ (params["gain"] * params["A"]) + x @ params["U"])
        parts = einsum("bhd,hde->bhe", reshape(h, (-1, 2, H // 2)), params["heads"])
        h = tanh(below @ params["up"].T + reshape(parts, (-1, H)) + h @ reshape(params["flat"], (H, H)))
        return h, h @ params["out"]


BUILT_IN = [
    RNN(3, 4), GRU(3, 4), GRU(3, 4, reset="after"), LSTM(3, 4), LSTM(3, 4, second_bias=True),
    LSTM(3, 4, layer_norm=True), CoupledLSTM(3, 4), PeepholeLSTM(3, 4), PeepholeLSTM(3, 4, peephole="full"),
]  # fmt: skip
CELLS = [*BUILT_IN, Linear(3, 4), Deep(3, 4)]


def elements(cell: Cell) -> dict[str, Any]:
    """The recurrent elements of each parameter, as arrays of bools."""
    params = cell.init_params(np.random.default_rng(0))
    found = {}
    for (path, leaf), place in zip(trees.flatten(params).items(), recurrent_weights(cell), strict=True):
        found[path] = np.zeros(leaf.shape, bool)
        if place is not None:
            found[path][place] = True
    return found


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_a_recurrent_weight_is_one_that_moves_the_state_without_an_input(cell):
    rng = np.random.default_rng(1)
    params = trees.map(lambda leaf: rng.standard_normal(leaf.shape), cell.init_params(rng))
    carry = trees.map(lambda leaf: rng.standard_normal(leaf.shape), cell.init_carry(5))
    nothing = np.zeros((5, cell.input_size))
    new, pullback = vjp(lambda some: trees.leaves(cell(some, carry, nothing)[0]), params)
    (gradients,) = pullback([rng.standard_normal(leaf.shape) for leaf in new])
    for path, gradient in trees.flatten(gradients).items():
        expected = np.asarray(gradient) != 0
        if gradient.ndim == 1 and path != "flat":  # vectors are no matrices
            expected[:] = False
        np.testing.assert_array_equal(elements(cell)[path], expected, err_msg=path)


def test_every_installed_cell_has_recurrent_weights():
    names = [entry.name for entry in registry.entries("cells")]
    assert "lstm" in names
    for name in names:
        cell = registry.make_cell(name, 3, 4, {})
        assert any(place is not None for place in recurrent_weights(cell)), name


def test_the_rows_for_the_state_are_drawn_alone():
    rows = (slice(0, 4), slice(0, 4))
    assert recurrent_weights(GRU(3, 4)) == (rows, None) * 3


def loss_of(cell, params, carry, xs, rng, weight=1.0):
    last, ys = cell.unroll(params, carry, xs, rng=rng)
    return total(ys * ys) + total(sum(total(tanh(leaf)) for leaf in trees.leaves(last))) * weight


def sample(cell, batch=3, steps=5, dtype="float64"):
    rng = np.random.default_rng(2)
    params = trees.map(lambda p: (p + rng.normal(0, 0.4, p.shape)).astype(dtype), cell.init_params(rng))
    carry = trees.map(lambda c: rng.standard_normal(c.shape).astype(dtype), cell.init_carry(batch))
    return params, carry, rng.standard_normal((steps, batch, cell.input_size)).astype(dtype)


def masks(cell, params, seed):
    """The masks that a generator draws: the parameters with all weights 1, with some dropped."""
    ones = trees.map(lambda leaf: np.ones(leaf.shape), params)
    return drop_weights(cell, ones, np.random.default_rng(seed))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("cell", [GRU(3, 4), LSTM(3, 4), PeepholeLSTM(3, 4, peephole="full"), Deep(3, 4)], ids=str)
def test_a_cell_with_weights_dropped_is_the_cell_with_those_parameters(cell, backend):
    params, carry, xs = sample(cell)
    dropping = Regularised(cell, RATE)
    mask = masks(dropping, params, 7)
    for path, found in elements(cell).items():
        values = trees.flatten(mask)[path]
        assert set(np.unique(values[found])) <= {0.0, 2.0}
        assert (values[~found] == 1).all()

    def by_hand(params):
        return loss_of(cell, trees.map(lambda p, m: p * m, params, mask), carry, xs, None)

    with use_backend("reference"):
        expected, gradient = value_and_grad(by_hand)(params)
    with use_backend(backend), watched() as calls:
        value, found = value_and_grad(lambda p: loss_of(dropping, p, carry, xs, np.random.default_rng(7)))(params)
    assert backend == "reference" or [call.backend for call in calls] == [backend]
    np.testing.assert_allclose(value, expected, rtol=1e-11)
    for a, b in trees.zip_leaves(found, gradient):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)


def test_the_gradient_by_differences():
    cell = Regularised(LSTM(3, 4), RATE)
    params, carry, xs = sample(cell)
    direction = trees.map(lambda p: np.random.default_rng(3).standard_normal(p.shape), params)

    def along(step):
        moved = trees.map(lambda p, d: p + step * d, params, direction)
        return float(loss_of(cell, moved, carry, xs, np.random.default_rng(7)))

    _, gradient = value_and_grad(lambda p: loss_of(cell, p, carry, xs, np.random.default_rng(7)))(params)
    expected = sum(float((g * d).sum()) for g, d in trees.zip_leaves(gradient, direction))
    assert (along(1e-6) - along(-1e-6)) / 2e-6 == pytest.approx(expected, rel=1e-7)


def test_the_expectation_of_the_weights_is_the_weights():
    cell = Regularised(RNN(3, 60), 0.3)
    params = cell.init_params(np.random.default_rng(0))
    mean = np.mean([masks(cell, params, seed)["W"] for seed in range(200)], axis=0)
    assert abs(mean.mean() - 1) < 0.01
    assert np.abs(mean - 1).max() < 0.3  # six deviations, sqrt(0.3 / 0.7 / 200)


def test_there_are_no_masks_in_evaluation():
    cell = Regularised(Stacked([LSTM(3, 4), GRU(4, 4)]).cells[0], RATE)
    params, carry, xs = sample(cell)
    for a, b in trees.zip_leaves(cell.unroll(params, carry, xs), cell.cell.unroll(params, carry, xs)):
        np.testing.assert_array_equal(a, b)
    for a, b in trees.zip_leaves(cell(params, carry, xs[0]), cell.cell(params, carry, xs[0])):
        np.testing.assert_array_equal(a, b)


def test_all_shares_of_a_batch_have_the_same_weights():
    cell = Stacked([Regularised(LSTM(3, 4), RATE), Regularised(GRU(4, 4), RATE)], 0.3)
    params = cell.init_params(np.random.default_rng(0))
    whole = np.random.default_rng(5)
    expected = drop_weights(cell, params, whole)
    for rows in (slice(0, 2), slice(2, 6)):
        share = Share(np.random.default_rng(5).bit_generator, rows, 6)
        for a, b in trees.zip_leaves(drop_weights(cell, params, share), expected):
            np.testing.assert_array_equal(a, b)
        assert share.bit_generator.state == whole.bit_generator.state


def test_each_layer_and_direction_has_masks_of_its_own():
    cell = Bidirectional(*(Stacked([Regularised(RNN(3, 9), RATE), RNN(9, 9)]) for _ in range(2)))
    params = cell.init_params(np.random.default_rng(0))
    dropped = masks(cell, params, 1)
    first, second = (dropped[name]["0"]["W"] for name in ("forward", "backward"))
    assert (first == 0).any()
    assert (second == 0).any()
    assert (first != second).any()
    assert (dropped["forward"]["1"]["W"] == 1).all()


@pytest.mark.parametrize("backend", available_backends())
def test_a_language_model_is_planned_once_whatever_the_masks(backend):
    cell = Stacked([Regularised(LSTM(7, 8), RATE), Regularised(LSTM(8, 8), RATE)], 0.2)
    model, rng = Model(cell, 7), np.random.default_rng(0)
    params, tokens = model.init_params(rng), rng.integers(0, 7, (6, 3))
    loss = value_and_grad(lambda p, rng: total(model.losses(p, model.init_carry(3), tokens, tokens, rng=rng)[1]))
    programs = []
    for _ in range(3):
        with use_backend(backend), watched() as calls, no_reference_loop():
            loss(params, rng)
        assert [call.backend for call in calls] == [backend] * 3  # two layers and the head
        programs.append([id(call.program) for call in calls])
    assert programs[0] == programs[1] == programs[2]


def test_a_decoder_drops_weights_too():
    cell = Regularised(GRU(6, 5), RATE)
    network = Network(lambda width: Regularised(GRU(width, 5), RATE), 5, embedding_size=6, dtype="float64")
    decoder = Decoder.make(network, 9, attention="none", memory_size=0, summary_size=0)
    rng = np.random.default_rng(0)
    params, targets = decoder.init_params(rng), rng.integers(2, 9, (4, 3))
    carry = trees.cast(cell.init_carry(3), "float64")
    found = decoder.losses(params, carry, None, targets, rng=np.random.default_rng(4))
    dropped = params | {"cell": drop_weights(cell, params["cell"], np.random.default_rng(4))}
    assert (dropped["cell"]["update"]["W"] == 0).any()
    np.testing.assert_array_equal(found, decoder.losses(dropped, carry, None, targets))


# --- zoneout ---------------------------------------------------------------------------------------------------------


def zoned_by_hand(cell, params, carry, xs, kept):
    """The last carry and the outputs of a cell with zoneout, by a loop; ``kept`` is a number, or bools per state."""
    ys = []
    for t in range(len(xs)):
        new, y = cell(params, carry, xs[t])
        for index, (before, after) in enumerate(trees.zip_leaves(carry, new)):
            share = kept if isinstance(kept, float) else kept[index][t]
            mixed = share * before + (1 - share) * after
            y = mixed if y is after else y
            new = trees.unflatten(new, [mixed if leaf is after else leaf for leaf in trees.leaves(new)])
        carry = new
        ys.append(y)
    return carry, np.stack(ys)


ZONED = [RNN(3, 4), GRU(3, 4), LSTM(3, 4), Deep(3, 4)]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("cell", ZONED, ids=str)
def test_states_keep_their_values_or_a_share_of_them(cell, backend, training):
    zoning = Regularised(cell, zoneout=0.3)
    params, carry, xs = sample(cell)
    kept = [mask.astype(float) for mask in zoning.draw(*xs.shape[:2], np.random.default_rng(6))] if training else 0.3
    expected = zoned_by_hand(cell, params, carry, xs, kept)
    with use_backend(backend), watched() as calls:
        found = zoning.unroll(params, carry, xs, rng=np.random.default_rng(6) if training else None)
    assert backend == "reference" or [call.backend for call in calls] == [backend]
    for a, b in trees.zip_leaves(found, expected):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_gradient_of_zoneout_by_differences(backend):
    cell = Regularised(LSTM(3, 4), RATE, 0.3)
    params, carry, xs = sample(cell)
    direction = trees.map(lambda p: np.random.default_rng(3).standard_normal(p.shape), params)

    def along(step):
        moved = trees.map(lambda p, d: p + step * d, params, direction)
        return float(loss_of(cell, moved, carry, xs, np.random.default_rng(7)))

    with use_backend(backend):
        _, gradient = value_and_grad(lambda p: loss_of(cell, p, carry, xs, np.random.default_rng(7)))(params)
        expected = sum(float((g * d).sum()) for g, d in trees.zip_leaves(gradient, direction))
        assert (along(1e-6) - along(-1e-6)) / 2e-6 == pytest.approx(expected, rel=1e-6)


def test_an_lstms_hidden_state_is_computed_before_the_zoneout_of_its_memory():
    cell = Regularised(LSTM(3, 4), zoneout=0.5)
    params, (h, c), xs = sample(cell)
    (_, new), _ = cell.cell(params, (h, c), xs[0])
    nothing, all_of_it = np.zeros(c.shape, bool), np.ones(c.shape, bool)
    (found, kept), y = cell.step(params, (h, c), xs[0], (nothing, all_of_it))
    np.testing.assert_array_equal(kept, c)
    assert not np.allclose(c, new)
    np.testing.assert_array_equal(found, cell.cell(params, (h, c), xs[0])[1])
    assert y is found


def test_a_state_that_is_no_number_is_left_alone():
    class Counting(RNN):
        def init_carry(self, size):
            return {"h": super().init_carry(size), "n": np.zeros((size, 1), np.int64)}

        def __call__(self, params, carry, x):
            h, _ = super().__call__(params, carry["h"], x)
            return {"h": h, "n": carry["n"] + 1}, h

    cell = Regularised(Counting(3, 4), zoneout=0.5)
    params, _, xs = sample(cell.cell)
    carry = {"h": np.zeros((3, 4)), "n": np.zeros((3, 1), np.int64)}
    last, _ = cell.unroll(params, carry, xs, rng=np.random.default_rng(0))
    assert (last["n"] == len(xs)).all()
    assert len(cell.draw(5, 3, np.random.default_rng(0))) == 1


def test_a_share_of_a_batch_has_its_rows_of_zoneout():
    cell = Stacked([Regularised(LSTM(3, 4), RATE, 0.4), Regularised(GRU(4, 4), 0.0, 0.4)], 0.3)
    params, carry, xs = sample(cell, batch=6)
    _, whole = cell.unroll(params, carry, xs, rng=np.random.default_rng(5))
    for rows in (slice(0, 2), slice(2, 6)):
        share = Share(np.random.default_rng(5).bit_generator, rows, 6)
        part = trees.map(lambda leaf, rows=rows: leaf[rows], carry)
        _, ys = cell.unroll(params, part, xs[:, rows], rng=share)
        np.testing.assert_allclose(ys, whole[:, rows], rtol=1e-11, atol=1e-13)


def test_sequences_end_where_they_end():
    cell = Regularised(LSTM(3, 4), zoneout=0.4)
    params, carry, xs = sample(cell)
    lengths = np.array([5, 2, 3])
    last, ys = cell.unroll(params, carry, xs, lengths=lengths, rng=np.random.default_rng(5))
    _, whole = cell.unroll(params, carry, xs, rng=np.random.default_rng(5))
    for b, length in enumerate(lengths):
        np.testing.assert_array_equal(ys[:length, b], whole[:length, b])
        np.testing.assert_array_equal(last[0][b], whole[length - 1, b])


@pytest.mark.parametrize("stacked", [False, True])
def test_a_decoder_zones_out_too(stacked):
    def make(width):
        cells = [Regularised(LSTM(width, 5), zoneout=0.4), Regularised(LSTM(5, 5), zoneout=0.4)]
        return Stacked(cells) if stacked else cells[0]

    network = Network(make, 5, embedding_size=6, dtype="float64")
    decoder = Decoder.make(network, 9, attention="none", memory_size=0, summary_size=0)
    rng = np.random.default_rng(0)
    params, targets = decoder.init_params(rng), rng.integers(2, 9, (4, 3))
    carry = trees.cast(decoder.cell.init_carry(3), "float64")
    found = decoder.losses(params, carry, None, targets, rng=np.random.default_rng(4))
    xs = params["embedding"][shifted(targets)]
    _, ys = decoder.cell.unroll(params["cell"], carry, xs, rng=np.random.default_rng(4))
    logits = ys @ params["head"]["W"] + params["head"]["b"]
    expected = np.log(np.exp(logits).sum(-1)) - np.take_along_axis(logits, targets[..., None], -1)[..., 0]
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    plain = decoder.losses(params, carry, None, targets)
    assert not np.allclose(found, plain)


def test_a_memory_that_is_normalised_is_known():
    parts = anatomy(LSTM(3, 4, layer_norm=True))
    assert [state.name for state in parts.states] == ["h", "c"]
    assert [a.name for a in parts.activations] == ["forget", "input", "output", "candidate", "memory"]


def test_states_have_the_names_that_they_have_without():
    for cell in (Regularised(LSTM(3, 4), zoneout=0.4), Stacked([Regularised(LSTM(3, 4), zoneout=0.4), LSTM(4, 4)])):
        assert {state.name for state in anatomy(cell).states} == {"h", "c"}
        assert len(anatomy(cell).activations) == 5 * (1 + isinstance(cell, Stacked))


REGULARISED = [Regularised(LSTM(3, 4), RATE), Regularised(GRU(3, 4), 0.2, 0.3), Regularised(LSTM(3, 4), zoneout=0.3)]


@pytest.mark.parametrize("cell", REGULARISED, ids=str)
def test_it_passes_what_every_cell_must(cell):
    check_cell(cell).raise_if_failed()


def test_it_says_of_itself_what_the_cell_says():
    cell = Regularised(LSTM(3, 4), RATE)
    assert (cell.input_size, cell.hidden_size, cell.output_size, cell.causal) == (3, 4, 4, True)
    assert cell.suggested_learning_rate == LSTM.suggested_learning_rate
    assert cell.suggested_warmup == LSTM.suggested_warmup


def test_a_rate_out_of_range():
    with pytest.raises(ValueError, match=r"weight_dropout is 1; it must be at least 0 and below 1"):
        Regularised(LSTM(3, 4), 1)
    with pytest.raises(ValueError, match="no matrix of parameters multiplies a state"):
        Regularised(Copy(4, 4), 0.5)
    with pytest.raises(ValueError, match=r"zoneout is -0.1; it must be at least 0 and below 1"):
        Regularised(LSTM(3, 4), zoneout=-0.1)
    with pytest.raises(ValueError, match="it has its own method for running along a sequence"):
        Regularised(Stacked([LSTM(3, 4)]), zoneout=0.5)


# --- runs ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    settle(tmp_path, monkeypatch)
    return tmp_path


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("option", ["--weight-dropout", "--zoneout"])
def test_another_rate_is_another_run(option):
    runs = [trained("fox.txt", *SMALL, option, rate)[0] for rate in ("0", "0.5", "0.5")]
    assert same_weights(runs[1], runs[2])
    assert not same_weights(runs[0], runs[1])


def test_without_the_option_the_cell_is_the_plain_one():
    def make(size):
        return LSTM(size, 4)

    assert network_of(Settings(), make).make_cell(3) == LSTM(3, 4)
    assert network_of(Settings(weight_dropout=0.2), make).make_cell(3) == Regularised(LSTM(3, 4), 0.2)
    assert network_of(Settings(zoneout=0.1), make).make_cell(3) == Regularised(LSTM(3, 4), 0.0, 0.1)
    layers = network_of(Settings(weight_dropout=0.2, num_layers=2), make).make_cell(3).cells
    assert layers == (Regularised(LSTM(3, 4), 0.2), Regularised(LSTM(4, 4), 0.2))


FILE = """
import numpy as np
from minigrad import affine, concat, tanh
from rnn_cells import Cell

class Diagonal(Cell):
    def init_params(self, rng):
        return {"in": self.dense(rng, self.input_size), "decay": np.ones(self.hidden_size, np.float32)}

    def __call__(self, params, h, x):
        h = tanh(affine(params["in"], x) + params["decay"] * h)
        return h, h

class Decides(Cell):
    def init_params(self, rng):
        return {"both": self.dense(rng)}

    def __call__(self, params, h, x):
        h = tanh(affine(params["both"], concat(h, x))) if h.sum() < 1e9 else h
        return h, h

class Winding(Diagonal):
    def unroll(self, params, carry, xs, **options):
        return super().unroll(params, carry, xs, **options)
"""


@pytest.mark.usefixtures("home")
def test_what_has_no_recurrent_matrix_is_refused():
    Path("cells.py").write_text(FILE)
    assert refused("fox.txt", *SMALL, "--cell", "cells.py:Diagonal", "--weight-dropout", "0.5") == (
        "--weight-dropout is 0.5, but in the cell 'cells.py:Diagonal' no matrix of parameters multiplies a state; "
        "leave it out"
    )
    assert refused("fox.txt", *SMALL, "--cell", "cells.py:Decides", "--weight-dropout", "0.5") == (
        "--weight-dropout is 0.5, but the step of the cell 'cells.py:Decides' cannot be written as a graph: it decides "
        "by the value of a tensor (if, while, bool, float, int or item); leave it out"
    )
    assert refused("fox.txt", *SMALL, "--cell", "cells.py:Winding", "--zoneout", "0.5") == (
        "--zoneout is 0.5, but the cell 'cells.py:Winding' has its own method for running along a sequence; "
        "leave it out"
    )
    assert refused("fox.txt", "--weight-dropout", "1") == "--weight-dropout is 1; it must be at least 0 and below 1"
