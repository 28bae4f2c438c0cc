"""The decoder of several tasks: its equations, masks, losses, and searches against exhaustive ones."""

from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from test_scan_planned import no_reference_loop

from minigrad import mean, softmax, trees, value_and_grad
from minigrad.scan import available_backends, plans, use_backend
from rnn_cells import Cell, Stacked
from rnn_cells.gru import GRU
from rnn_cells.lstm import LSTM
from rnn_plugins.errors import UserError
from rnn_plugins.language.sampling import Choice, muted
from rnn_plugins.tasks.decoding import END, PLACES, UNKNOWN, Attention, Decoder, shifted
from rnn_plugins.tasks.task import Network

B, S, T, H, M, F = 4, 5, 6, 8, 7, 3
LENGTHS = np.array([5, 1, 3, 4])
ATTENTIONS: tuple[Attention, ...] = ("none", "bahdanau", "luong")

every_attention = pytest.mark.parametrize("attention", ATTENTIONS)


def stack(width: int) -> Cell:
    return Stacked((LSTM(width, H), GRU(H, H)), 0.3)


def network(make: Any = lambda width: GRU(width, H), **options: Any) -> Network:
    return Network(make, H, **{"embedding_size": 5, "dtype": "float64"} | options)


def decoder(attention: Attention, symbols: int = 12, net: Network | None = None) -> Decoder:
    return Decoder.make(net or network(), symbols, attention=attention, memory_size=M, summary_size=F)


@dataclass
class Given:
    """A decoder with parameters, and what it starts from."""

    decoder: Decoder
    seed: int = 0

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        params = self.decoder.init_params(rng)
        self.params = trees.map(lambda x: x + 0.3 * rng.standard_normal(x.shape).astype(x.dtype), params)
        dtype = self.decoder.dtype
        self.memory, self.summary = (rng.standard_normal(s).astype(dtype) for s in ((S, B, M), (B, F)))
        self.live = np.arange(S)[:, None] < LENGTHS
        self.targets = rng.integers(2, self.decoder.symbols.size, (T, B))

    def begin(self, params: Any = None, rows: slice = slice(None), memory: Any = None, live: Any = None) -> Any:
        params = self.params if params is None else params
        memory, live = (self.memory, self.live) if memory is None else (memory, live)
        context = self.decoder.context(params, memory[:, rows], live[:, rows])
        return self.decoder.start(params, self.summary[rows]), context

    def losses(self, params: Any, **options: Any) -> Any:
        return self.decoder.losses(params, *self.begin(params), self.targets, **options)


@every_attention
@pytest.mark.parametrize("make", [lambda width: GRU(width, H), stack], ids=["gru", "stack"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_decoder_is_planned_and_equals_the_reference_loop(attention: Attention, make: Any, dropout: float):
    given = Given(decoder(attention, net=network(make, dropout=dropout)))

    def loss(params: Any) -> Any:
        return mean(given.losses(params, own=0.5, rng=np.random.default_rng(1)))

    with use_backend("reference"):
        expected, gradient = value_and_grad(loss)(given.params)
    for backend in available_backends():
        with use_backend(backend), no_reference_loop():
            found, other = value_and_grad(loss)(given.params)
        assert float(found) == pytest.approx(float(expected), rel=1e-12)
        for a, b in trees.zip_leaves(other, gradient):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_bahdanaus_attention_by_its_equations():
    given = Given(decoder("bahdanau"))
    d, p = given.decoder, given.params
    (state, before), context = given.begin()
    x = p["embedding"][np.full(B, END)]
    scores = np.array(
        [
            [p["attention"]["v"] @ np.tanh(before[b] @ p["attention"]["query"] + m @ w["W"] + w["b"]) for m in column]
            for w in [p["attention"]["memory"]]
            for b, column in enumerate(np.swapaxes(given.memory, 0, 1))
        ]
    )
    a = softmax(np.where(given.live.T, scores, -np.inf))
    read = np.einsum("bs,sbm->bm", a, given.memory)
    _, y = d.cell(p["cell"], state, np.concatenate([x, read], 1))
    o = np.tanh(np.concatenate([y, read], 1) @ p["output"]["W"] + p["output"]["b"])
    _, logits = d.step(p, (state, before), context, np.full(B, END))
    np.testing.assert_allclose(logits, o @ p["head"]["W"] + p["head"]["b"], rtol=1e-12)


def test_luongs_attention_by_its_equations():
    given = Given(decoder("luong"))
    d, p = given.decoder, given.params
    (state, before), context = given.begin()
    x = p["embedding"][np.full(B, END)]
    _, y = d.cell(p["cell"], state, np.concatenate([x, before], 1))
    scores = np.array([[y[b] @ p["attention"]["query"] @ given.memory[s, b] for s in range(S)] for b in range(B)])
    a = softmax(np.where(given.live.T, scores, -np.inf))
    read = np.einsum("bs,sbm->bm", a, given.memory)
    o = np.tanh(np.concatenate([y, read], 1) @ p["output"]["W"] + p["output"]["b"])
    _, logits = d.step(p, (state, before), context, np.full(B, END))
    np.testing.assert_allclose(logits, o @ p["head"]["W"] + p["head"]["b"], rtol=1e-12)


@pytest.mark.parametrize("attention", ATTENTIONS[1:])
def test_weights_of_the_attention_sum_to_1_and_padding_has_none(attention: Attention):
    given = Given(decoder(attention))
    weights = np.asarray(given.decoder.unroll(given.params, *given.begin(), shifted(given.targets), weights=True))
    assert weights.shape == (T, B, PLACES)
    np.testing.assert_allclose(weights.sum(2), 1)
    for b, length in enumerate(LENGTHS):
        assert (weights[:, b, :length] > 0).all()
        assert not weights[:, b, length:].any()


@pytest.mark.parametrize("attention", ATTENTIONS[1:])
def test_more_padding_changes_nothing(attention: Attention):
    given = Given(decoder(attention))
    carry, context = given.begin()
    junk = np.full((2 * PLACES, B, M), 7.0)
    longer = given.begin(None, slice(None), np.concatenate([given.memory, junk]), np.pad(given.live, ((0, 16), (0, 0))))
    expected = given.decoder.losses(given.params, carry, context, given.targets)
    np.testing.assert_allclose(given.decoder.losses(given.params, *longer, given.targets), expected, rtol=1e-12)


@dataclass(frozen=True)
class Odd(Cell):
    """A carry with a matrix that begins with ones, a count, and a number per sequence."""

    def init_params(self, rng: Any) -> Any:
        return self.dense(rng, self.input_size)

    def init_carry(self, batch_size: int) -> Any:
        matrix = np.ones((batch_size, 2, self.hidden_size), np.float32)
        return {"matrix": matrix, "count": np.zeros(batch_size, np.int64), "share": np.zeros(batch_size, np.float32)}

    def __call__(self, params: Any, carry: Any, x: Any) -> Any:
        matrix = carry["matrix"] * 0.5 + np.tanh(x @ params["W"] + params["b"]).reshape(-1, 1, self.hidden_size)
        y = np.sum(matrix, 1) * carry["share"].reshape(-1, 1)
        return {"matrix": matrix, "count": carry["count"] + 1, "share": carry["share"]}, y


@every_attention
def test_any_carry_begins_with_the_summary(attention: Attention):
    given = Given(decoder(attention, net=network(lambda width: Odd(width, H))))
    carry, context = given.begin()
    cell = carry if attention == "none" else carry[0]
    bridge = {path: np.tanh(given.summary @ p["W"] + p["b"]) for path, p in given.params["bridge"].items()}
    before = "" if attention == "none" else "0."
    outer = bridge[f"{before}matrix"]
    np.testing.assert_allclose(cell["matrix"], 1 + outer[:, :2, None] * outer[:, None, 2:])
    np.testing.assert_allclose(cell["share"], bridge[f"{before}share"][:, 0])
    assert cell["count"].dtype.kind == "i"
    assert not cell["count"].any()
    assert np.isfinite(given.decoder.losses(given.params, carry, context, given.targets)).all()


@every_attention
def test_losses_without_gradients_are_those_of_training(attention: Attention):
    given = Given(decoder(attention))
    losses, best = given.decoder.scored(given.params, *given.begin(), given.targets)
    np.testing.assert_allclose(losses, given.losses(given.params), rtol=1e-10)
    carry, context = given.begin()
    for t, read in enumerate(shifted(given.targets)):
        carry, logits = given.decoder.step(given.params, carry, context, read)
        np.testing.assert_array_equal(best[t], logits.argmax(1))


def test_scheduled_sampling_reads_predictions_of_a_first_pass():
    given = Given(decoder("luong"))
    rng = np.random.default_rng(3)
    found = np.asarray(given.losses(given.params, own=0.5, rng=np.random.default_rng(3)))
    replaced = rng.random((T, B), dtype=np.float32) < 0.5
    replaced[0] = False
    assert replaced.any()
    guessed = shifted(given.decoder.scored(given.params, *given.begin(), given.targets)[1])
    carry, context = given.begin()
    read = np.where(replaced, guessed, shifted(given.targets))
    for t in range(T):
        carry, logits = given.decoder.step(given.params, carry, context, read[t])
        expected = -np.log(softmax(logits)[np.arange(B), given.targets[t]])
        np.testing.assert_allclose(found[t], expected, rtol=1e-9)
    assert np.array_equal(given.losses(given.params, own=0.5), given.losses(given.params))  # none in evaluation


def every_text(given: Given, row: int, limit: int, penalty: float) -> list[tuple[float, float, list[int]]]:
    """Score, log probability and symbols of all texts of at most so many symbols, the best first."""
    params = muted(given.params, (UNKNOWN,))
    letters = range(2, given.decoder.symbols.size)
    found = []
    for length in range(limit + 1):
        for text in map(list, product(letters, repeat=length)):
            targets = np.array([*text, END] if length < limit else text)[:, None]
            begin = given.begin(None, slice(row, row + 1))
            total = -float(given.decoder.scored(params, *begin, targets)[0].sum())
            found.append((total / ((5 + length + 1) / 6) ** penalty, total, text))
    return sorted(found, reverse=True)


@every_attention
@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_a_beam_as_wide_as_all_texts_finds_the_best(attention: Attention, penalty: float):
    given = Given(decoder(attention, symbols=4), seed=1)
    limits = np.array([3, 3, 2, 3])
    found = given.decoder.search(given.params, *given.begin(), limits, width=20, penalty=penalty)
    for row, limit in enumerate(limits):
        expected = every_text(given, row, limit, penalty)
        assert [h.symbols.tolist() for h in found[row]] == [text for _, _, text in expected[: len(found[row])]]
        np.testing.assert_allclose([h.score for h in found[row]], [score for score, _, _ in expected])
        np.testing.assert_allclose([h.log_probability for h in found[row]], [total for _, total, _ in expected])


@every_attention
def test_a_beam_of_1_is_greedy_and_so_is_drawing_the_likeliest(attention: Attention):
    given = Given(decoder(attention), seed=2)
    limits = np.array([9, 4, 9, 6])
    found = given.decoder.search(given.params, *given.begin(), limits)
    drawn = given.decoder.drawn(given.params, *given.begin(), limits, Choice(greedy=True), np.random.default_rng(0))
    params = muted(given.params, (UNKNOWN,))
    for row in range(B):
        carry, context = given.begin(None, slice(row, row + 1))
        text, last = [], END
        while len(text) < limits[row]:
            carry, logits = given.decoder.step(params, carry, context, np.array([last]))
            last = int(logits.argmax())
            if last == END:
                break
            text.append(last)
        assert found[row][0].symbols.tolist() == drawn[row].symbols.tolist() == text
        assert found[row][0].log_probability == pytest.approx(drawn[row].log_probability)


@every_attention
@pytest.mark.parametrize("width", [1, 3])
def test_a_text_does_not_depend_on_the_others_of_its_batch(attention: Attention, width: int):
    given = Given(decoder(attention), seed=3)
    limits = np.array([9, 2, 7, 5])
    found = given.decoder.search(given.params, *given.begin(), limits, width=width, penalty=0.6)
    for row in range(B):
        begin = given.begin(None, slice(row, row + 1))
        (alone,) = given.decoder.search(given.params, *begin, limits[row : row + 1], width=width, penalty=0.6)
        assert [h.symbols.tolist() for h in alone] == [h.symbols.tolist() for h in found[row]]
        np.testing.assert_allclose([h.score for h in alone], [h.score for h in found[row]])


def test_memories_of_like_lengths_share_a_plan():
    given = Given(decoder("bahdanau"))

    def plans_for(length: int) -> set[Any]:
        memory, live = np.ones((length, B, M)), np.ones((length, B), bool)
        value_and_grad(
            lambda p: mean(given.decoder.losses(p, *given.begin(p, slice(None), memory, live), given.targets))
        )(given.params)
        return set(plans._plans)

    known = plans_for(1)
    for length in range(2, PLACES + 1):
        assert plans_for(length) <= known
    assert plans_for(PLACES + 1) - known


def test_a_search_goes_on_only_for_texts_that_have_no_end(monkeypatch: pytest.MonkeyPatch):
    given, rows, step = Given(decoder("luong"), seed=3), [], Decoder.step

    def counted(self: Any, params: Any, carry: Any, context: Any, symbols: Any) -> Any:
        assert len(context["memory"]) == len(symbols)
        rows.append(len(symbols))
        return step(self, params, carry, context, symbols)

    monkeypatch.setattr(Decoder, "step", counted)
    limits = np.array([9, 2, 7, 5])
    given.decoder.search(given.params, *given.begin(), limits, width=3)
    assert rows == sorted(rows, reverse=True)
    assert all(count <= 3 * (limits > t).sum() for t, count in enumerate(rows))


def test_an_unknown_symbol_is_never_written():
    given = Given(decoder("luong"))
    given.params["head"]["b"][UNKNOWN] = 50
    limits = np.full(B, 5)
    texts = [h.symbols for row in given.decoder.search(given.params, *given.begin(), limits, width=3) for h in row]
    texts += [
        h.symbols for h in given.decoder.drawn(given.params, *given.begin(), limits, Choice(), np.random.default_rng(0))
    ]
    assert UNKNOWN not in np.concatenate(texts)


def test_scores_that_are_no_numbers_are_refused():
    given = Given(decoder("none"))
    given.params["head"]["b"][3] = np.nan
    with pytest.raises(UserError, match=r"^the model's scores are NaN, so its training failed; use another run$"):
        given.decoder.search(given.params, *given.begin(), np.full(B, 5))


def test_float32_stays():
    given = Given(decoder("bahdanau", net=network(dtype="float32")))
    assert given.losses(given.params).dtype == np.float32
    assert replace(given.decoder).astype("float64").init_carry(2)[1].dtype == np.float64
