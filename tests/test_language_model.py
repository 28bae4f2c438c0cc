import numpy as np
import pytest

from minigrad import log_softmax
from rnn_cells.gru import GRU
from rnn_cells.rnn import IRNN
from rnn_plugins.errors import UserError
from rnn_plugins.language.model import Model
from rnn_plugins.tasks.language_model import LanguageModel
from rnn_plugins.tasks.task import Data, Network

RNG = np.random.default_rng(0)
TOKENS = RNG.integers(0, 5, 3217).astype(np.uint8)


def model(cell=GRU):
    return Model(cell(5, 6), 5, dtype="float64")


def one_by_one(model, params, tokens, start, stop, carry=None):
    """The losses of tokens start+1 ... stop, one symbol at a time, and the carry after them."""
    carry = model.init_carry(1) if carry is None else carry
    losses = []
    for place in range(start, stop):
        carry, logits = model.step(params, carry, np.array([tokens[place]], np.intp))
        losses.append(-log_softmax(logits)[0, tokens[place + 1]])
    return losses, carry


def test_one_lane_is_one_pass():
    m = model()
    params = m.init_params(np.random.default_rng(1))
    losses, _ = one_by_one(m, params, TOKENS[:300], 0, 299)
    assert m.evaluate(params, TOKENS[:300], lanes=1) == pytest.approx(np.mean(losses), abs=1e-12)


@pytest.mark.parametrize("cell", [GRU, IRNN])
@pytest.mark.parametrize("lanes", [2, 3, 7])
def test_lanes_begin_with_the_carry_of_the_lane_before(cell, lanes):
    m = model(cell)
    params = m.init_params(np.random.default_rng(1))
    count = len(TOKENS) - 1
    share = -(-count // lanes)
    losses = []
    for lane in range(lanes):
        _, carry = one_by_one(m, params, TOKENS, max(0, (lane - 1) * share), lane * share)
        losses += one_by_one(m, params, TOKENS, lane * share, min(count, (lane + 1) * share), carry)[0]
    assert len(losses) == count
    assert m.evaluate(params, TOKENS, lanes=lanes) == pytest.approx(np.mean(losses), abs=1e-12)


def test_a_text_of_some_thousand_symbols_takes_lanes_and_says_nearly_the_same(monkeypatch):
    m = model()
    params = m.init_params(np.random.default_rng(1))
    assert m.evaluate(params, TOKENS) == m.evaluate(params, TOKENS, lanes=3)
    assert m.evaluate(params, TOKENS) == pytest.approx(m.evaluate(params, TOKENS, lanes=1), abs=1e-9)
    monkeypatch.setattr("rnn_plugins.language.model.BLOCK", 100)  # blocks of few steps change nothing
    assert m.evaluate(params, TOKENS) == pytest.approx(m.evaluate(params, TOKENS, lanes=3), abs=1e-12)


def test_batches_walk_along_lanes_of_their_own():
    task, data = LanguageModel(seq_length=4), Data(np.arange(100), np.arange(0), {})
    assert task.fit(data, 3) == (task, 3, "")
    assert (task.steps_per_epoch(data, 3), task.units_per_step(data, 3)) == (8, 12)
    for step in range(20):
        batch = task.batch(data, step, 3)
        assert batch.weight == 12
        for b in range(3):
            start = b * 33 + step % 8 * 4
            assert batch.inputs[:, b].tolist() == list(range(start, start + 4))
            assert batch.targets[:, b].tolist() == list(range(start + 1, start + 5))


def test_a_text_of_one_symbol_cannot_be_evaluated(tmp_path):
    (tmp_path / "one.txt").write_text("a")
    task, facts = LanguageModel(), LanguageModel().read(["builtin:hello"]).facts
    with pytest.raises(UserError) as caught:
        task.read([str(tmp_path / "one.txt")], facts | {"vocabulary": {"level": "byte"}}, purpose="evaluate")
    assert str(caught.value) == (
        f"{tmp_path}/one.txt has only one byte; expected at least two, since the first is not predicted"
    )


@pytest.mark.parametrize(
    ("task", "given", "hidden", "width"),
    [
        (LanguageModel(), None, 64, 64),
        (LanguageModel(), None, 512, 128),
        (LanguageModel(tie=True), None, 512, 512),
        (LanguageModel(), 0, 512, 0),
        (LanguageModel(tie=True), 512, 512, 512),
    ],
)
def test_the_width_of_the_embedding_is_as_given_or_follows_the_hidden_size(task, given, hidden, width):
    network = Network(lambda size: GRU(size, hidden), hidden, embedding_size=given)
    assert task.resolve({}, network).embedding_size == width
