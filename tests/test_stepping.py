"""A step taken once at a time, as sampling takes it: on every backend it is the model's own step, and draws alike."""

from itertools import islice

import numpy as np
import pytest

from minigrad import trees
from minigrad.scan import available_backends, stepper, use_backend
from minigrad.scan.planned import DrawingStepper
from rnn_cells import Stacked
from rnn_cells.gru import GRU
from rnn_cells.lstm import LSTM, PeepholeLSTM
from rnn_cells.rnn import RNN
from rnn_plugins.language.model import Model
from rnn_plugins.language.sampling import BEFORE_PLANNING, DRAWN_AHEAD, Choice, sample

V = 11
CELLS = [
    lambda inputs: RNN(inputs, 5),
    lambda inputs: LSTM(inputs, 17),
    lambda inputs: PeepholeLSTM(inputs, 8, peephole="full"),
    lambda inputs: GRU(inputs, 16, reset="after"),
    lambda inputs: Stacked([GRU(inputs, 6), LSTM(6, 9)]),
]


def model_of(cell, embedding, dtype="float64"):
    model = Model(cell(embedding or V), V, embedding, dtype=dtype)
    rng = np.random.default_rng(0)
    params = trees.map(lambda p: p + rng.normal(0, 0.3, p.shape).astype(p.dtype), model.init_params(rng))
    return model, params


@pytest.mark.parametrize("backend", available_backends())
@pytest.mark.parametrize("embedding", [0, 4])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("cell", CELLS)
def test_a_prepared_step_is_the_model_s_step(cell, batch, embedding, backend):
    model, params = model_of(cell, embedding)
    rng = np.random.default_rng(1)
    carry = trees.map(lambda c: rng.standard_normal(c.shape), model.init_carry(batch))
    with use_backend(backend):
        step = model.stepper(params, carry)
    assert step is not None
    for symbols in rng.integers(0, V, (6, batch)):
        carry, expected = model.step(params, carry, symbols)
        (scores,) = step(symbols)
        np.testing.assert_allclose(scores, expected, rtol=1e-11, atol=1e-12)
    for found, expected in zip(step.carry, trees.leaves(carry), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-12)


def test_the_reference_loop_prepares_nothing():
    model, params = model_of(CELLS[0], 0)
    with use_backend("reference"):
        assert model.stepper(params, model.init_carry(1)) is None


class Decides(RNN):
    """Not to be planned."""

    def __call__(self, params, s, x):
        return super().__call__(params, s, x) if s.sum() < 1e9 else (s, s)


@pytest.mark.parametrize("backend", available_backends())
def test_a_step_that_cannot_be_planned_is_not_prepared(backend):
    cell = Decides(3, 4)
    with use_backend(backend):
        params, carry = cell.init_params(np.random.default_rng(0)), cell.init_carry(1)
        assert stepper(cell, params, carry, np.eye(3, dtype=np.float32)) is None


@pytest.mark.parametrize("backend", available_backends())
@pytest.mark.parametrize(
    "choice", [Choice(), Choice(temperature=0.3), Choice(greedy=True), Choice(temperature=0), Choice(top_k=3)]
)
@pytest.mark.parametrize("cell", CELLS[1:3])
def test_every_backend_draws_the_same_text(cell, choice, backend):
    """Also where the text ends amid what was drawn ahead: the generator is then as if nothing had been."""
    model, params = model_of(cell, 0, "float32")
    for length in (1, BEFORE_PLANNING, BEFORE_PLANNING + 2, BEFORE_PLANNING + 3 * DRAWN_AHEAD + 5):
        drawn = []
        for name in ("reference", backend):
            with use_backend(name):
                rng = np.random.default_rng(5)
                symbols = sample(model, params, [1, 2, 3], choice, rng)
                drawn.append(([*islice(symbols, length)], symbols.close(), rng.random()))
        assert drawn[0] == drawn[1]


@pytest.mark.skipif("compiled" not in available_backends(), reason="needs the extra jit")
@pytest.mark.parametrize("threads", ["1", "2"])
def test_large_matrices_are_shared_by_two_threads(threads, monkeypatch):
    monkeypatch.setenv("MINIGRAD_THREADS", threads)
    model = Model(LSTM(V, 300), V, dtype="float64")
    params = model.init_params(np.random.default_rng(0))  # as small as fresh ones are, so that rounding does not grow
    carry = model.init_carry(1)
    with use_backend("compiled"):
        step = model.stepper(params, carry)
    assert isinstance(step, DrawingStepper)
    uniform = np.random.default_rng(0).random(200)
    symbols = step.sample(4, uniform, 1.0).tolist()
    symbol, expected = 4, []
    for u in uniform:
        carry, scores = model.step(params, carry, np.array([symbol]))
        p = np.exp(scores[0].astype(np.float64) - scores[0].max()).cumsum()
        symbol = int(p.searchsorted(u * p[-1], side="right"))
        expected.append(symbol)
    assert symbols == expected


@pytest.mark.skipif("compiled" not in available_backends(), reason="needs the extra jit")
def test_scores_that_are_no_numbers_end_the_drawing():
    model, params = model_of(CELLS[1], 0)
    params["head"]["b"][3] = np.nan
    with use_backend("compiled"):
        step = model.stepper(params, model.init_carry(1))
    assert step.sample(0, np.full(4, 0.5), 1.0)[0] == -1
