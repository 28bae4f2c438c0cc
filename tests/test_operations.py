"""Operations per step: equal to formulas by hand, for any notation of a cell's products."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigrad import affine, concat, tanh
from minigrad.graph import TraceError
from rnn_cells import Cell, Stacked
from rnn_plugins import registry
from rnn_plugins.inspect.operations import operations
from rnn_plugins.language.model import Model

SIZES = st.integers(1, 20)


def cost(name, hidden_size, vocabulary, **options):
    return operations(Model(registry.make_cell(name, vocabulary, hidden_size, options), vocabulary).work())


def head(hidden_size, vocabulary):
    return 2 * hidden_size * vocabulary + vocabulary


@given(SIZES, SIZES)
def test_a_plain_cell_costs_its_recurrent_product_the_row_looked_up_the_bias_and_tanh(H, V):
    assert cost("rnn", H, V) == 2 * H * H + H + H + H + head(H, V)


@given(SIZES, SIZES)
def test_an_lstm_costs_four_of_these_and_its_state(H, V):
    gates = 4 * (2 * H * H + H + H + H)
    state = 3 * H  # two products and their sum
    output = 2 * H  # tanh and a product
    assert cost("lstm", H, V) == gates + state + output + head(H, V)


@given(SIZES, SIZES, SIZES)
def test_an_embedding_is_multiplied_as_any_row_of_numbers(H, V, E):
    model = Model(registry.make_cell("rnn", E, H, {}), V, E)
    assert operations(model.work()) == 2 * (H + E) * H + H + H + H + head(H, V)


@given(SIZES, SIZES, SIZES)
def test_a_layer_above_reads_rows_of_numbers_too(lower, upper, V):
    cells = [registry.make_cell("rnn", V, lower, {}), registry.make_cell("rnn", lower, upper, {})]
    above = 2 * (upper + lower) * upper + 3 * upper
    assert operations(Model(Stacked(cells), V).work()) == cost("rnn", lower, V) - head(lower, V) + above + head(
        upper, V
    )


@dataclass(frozen=True)
class Joined(Cell):
    def init_params(self, rng):
        return self.dense(rng)

    def __call__(self, params, h, x):
        h = tanh(affine(params, concat(h, x)))
        return h, h


class Apart(Joined):
    def __call__(self, params, h, x):
        U, W = params["W"][: self.hidden_size], params["W"][self.hidden_size :]
        h = tanh(h @ U + x @ W + params["b"])
        return h, h


class Normed(Joined):
    def __call__(self, params, h, x):
        W = params["W"] / np.sqrt(np.sum(params["W"] ** 2))
        h = tanh(affine({"W": W, "b": params["b"]}, concat(h, x)))
        return h, h


class Mean(Joined):
    def __call__(self, params, h, x):
        h = tanh(affine(params, concat(h, x)))
        return h, h - np.mean(h, axis=-1, keepdims=True)


@pytest.mark.parametrize("cell", [Apart, Normed])
def test_a_cell_costs_the_same_however_it_writes_its_product_and_whatever_it_does_to_parameters_alone(cell):
    assert operations(Model(cell(7, 5), 7).work()) == operations(Model(Joined(7, 5), 7).work())


def test_a_mean_counts_the_numbers_that_it_reads():
    assert operations(Model(Mean(7, 5), 7).work()) == operations(Model(Joined(7, 5), 7).work()) + 5 + 5


class Deciding(Joined):
    def __call__(self, params, h, x):
        return super().__call__(params, h if h.sum() > 0 else -h, x)


def test_a_step_that_is_no_graph_has_no_count():
    with pytest.raises(TraceError):
        operations(Model(Deciding(7, 5), 7).work())


@pytest.mark.parametrize("name", [entry.name for entry in registry.entries("cells")])
def test_every_installed_cell_has_a_count_that_grows_with_its_size(name):
    counts = [cost(name, size, 11) for size in (4, 5, 8)]
    assert head(4, 11) < counts[0] < counts[1] < counts[2]
