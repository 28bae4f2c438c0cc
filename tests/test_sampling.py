"""Sampling: choosing symbols, writing them as text, and beam search, each compared with its definition."""

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from minigrad import log_softmax
from rnn_cells.gru import GRU
from rnn_cells.lstm import LSTM
from rnn_cells.stacked import Stacked
from rnn_plugins.data.vocabulary import Vocabulary
from rnn_plugins.errors import UserError
from rnn_plugins.language import sampling
from rnn_plugins.language.model import Model
from rnn_plugins.language.sampling import Choice, beam_search, opening, sample, start_of_text, write

SCORES = st.lists(st.floats(-8, 8, width=32), min_size=1, max_size=12).map(lambda x: np.array(x, np.float32))
BYTES = Vocabulary.build([], "byte")


def make(vocabulary_size=5, hidden=7, seed=0, layers=1, embedding=0):
    inputs = embedding or vocabulary_size
    cell = GRU(inputs, hidden) if layers == 1 else Stacked([LSTM(inputs, hidden), LSTM(hidden, hidden)])
    model = Model(cell, vocabulary_size, embedding)
    params = model.init_params(np.random.default_rng(seed))
    params["head"]["W"] = params["head"]["W"] * 4  # decided opinions
    return model, params


def shares(choice, scores, draws=2000):
    """How often each symbol is picked when the draws are spread evenly over [0, 1)."""
    draw = itertools.count()
    rng = SimpleNamespace(random=lambda: (next(draw) + 0.5) / draws)
    return np.bincount([choice.pick(scores, rng) for _ in range(draws)], minlength=len(scores)) / draws


# --- choosing --------------------------------------------------------------------------------------------------------


@given(SCORES, st.floats(0.1, 10))
def test_symbols_come_as_often_as_the_tempered_softmax_says(scores, temperature):
    p = np.exp(np.float64(scores) / temperature - np.max(np.float64(scores) / temperature))
    assert np.allclose(shares(Choice(temperature), scores, 500), p / p.sum(), atol=2 / 500)


@given(SCORES, st.integers(1, 14))
def test_top_k_leaves_the_k_likeliest_in_their_proportions(scores, k):
    p = np.exp(np.float64(scores))
    assume(len(set(p.tolist())) == len(p))  # of two that are equally likely, either may stay
    p[np.argsort(-p)[k:]] = 0
    assert np.allclose(shares(Choice(top_k=k), scores, 500), p / p.sum(), atol=2 / 500)


@given(SCORES, st.floats(0.01, 1))
def test_top_p_leaves_the_smallest_set_that_reaches_p(scores, top_p):
    p = np.exp(np.float64(scores))
    p /= p.sum()
    picked = shares(Choice(top_p=top_p), scores, 500)
    nucleus = np.flatnonzero(picked)
    assert p[nucleus].sum() >= top_p - 0.01 * len(p)  # what is too rare for 500 draws is missing
    left_out = np.setdiff1d(np.arange(len(p)), nucleus)
    if top_p < 1 and left_out.size:
        assert p[left_out].max() <= p[nucleus].min() + 0.01
    if len(nucleus) > 1:
        assert np.sort(p[nucleus])[1:].sum() <= top_p + 1e-9  # without its least likely symbol it falls short


def test_the_nucleus_by_hand():
    scores = np.log(np.array([0.1, 0.5, 0.15, 0.25]))
    assert np.flatnonzero(shares(Choice(top_p=0.7), scores)).tolist() == [1, 3]
    assert np.flatnonzero(shares(Choice(top_p=0.76), scores)).tolist() == [1, 2, 3]
    assert np.flatnonzero(shares(Choice(top_p=0.01), scores)).tolist() == [1]
    assert np.flatnonzero(shares(Choice(top_k=3, top_p=0.6), scores)).tolist() == [1, 3]


@given(SCORES)
def test_no_temperature_is_greedy(scores):
    rng = np.random.default_rng(0)
    best = int(np.argmax(scores))
    assert Choice(temperature=0).pick(scores, rng) == best
    assert Choice(temperature=1e-300).pick(scores, rng) == best
    assert Choice(greedy=True, temperature=5).pick(scores, rng) == best
    assert scores[Choice(temperature=1e-90).pick(scores, rng)] == scores[best]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": -1.0}, "--temperature is -1; it must be a finite number, at least 0"),
        ({"temperature": math.nan}, "--temperature is nan; it must be a finite number, at least 0"),
        ({"temperature": math.inf}, "--temperature is inf; it must be a finite number, at least 0"),
        ({"top_k": -3}, "--top-k is -3; it must be at least 1, or 0 for no limit"),
        ({"top_p": 0.0}, "--top-p is 0; it must be above 0 and at most 1"),
        ({"top_p": 1.5}, "--top-p is 1.5; it must be above 0 and at most 1"),
    ],
)
def test_what_a_choice_cannot_be(values, message):
    with pytest.raises(UserError) as caught:
        Choice(**values)
    assert str(caught.value) == message


@pytest.mark.parametrize("choice", [Choice(), Choice(greedy=True), Choice(top_k=2), Choice(top_p=0.5)])
def test_scores_that_are_no_numbers_are_said(choice):
    with pytest.raises(UserError) as caught:
        choice.pick(np.array([1.0, math.nan, 0.0], np.float32), np.random.default_rng(0))
    assert str(caught.value) == ("the model's scores are NaN, so its training failed; sample another run")


# --- reading and writing ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("embedding", [0, 3])
@pytest.mark.parametrize("length", [1, 2, 7, 8, 15])
def test_a_prime_is_read_step_by_step_however_it_is_cut(monkeypatch, layers, embedding, length):
    monkeypatch.setattr(sampling, "READ_AT_ONCE", 7)
    model, params = make(layers=layers, embedding=embedding)
    prime = np.random.default_rng(1).integers(0, 5, length)
    carry = model.init_carry(1)
    for symbol in prime:
        carry, logits = model.step(params, carry, np.array([symbol]))
    _, read = start_of_text(model, params, prime.tolist())
    assert np.allclose(read, logits[0], atol=1e-5)


def test_without_a_prime_every_symbol_is_as_likely():
    model, params = make()
    assert np.array_equal(start_of_text(model, params, [])[1], np.zeros(5))


def test_a_greedy_sample_is_what_the_model_thinks_likeliest_of_it():
    model, params = make(layers=2)
    text = list(itertools.islice(sample(model, params, [2], Choice(greedy=True), np.random.default_rng(0)), 20))
    _, logits = model.unroll(params, model.init_carry(1), np.array([2, *text[:-1]])[:, None])
    assert text == np.argmax(logits[:, 0], axis=-1).tolist()


def test_one_generator_one_text():
    model, params = make()

    def text(seed):
        return list(itertools.islice(sample(model, params, [0], Choice(), np.random.default_rng(seed)), 50))

    assert text(3) == text(3) != text(4)


@pytest.mark.parametrize(
    ("text", "level", "expected"),
    [
        ("a b\nc d", "char", "a b\n"),
        ("a b c", "char", "a b "),
        ("abc", "char", "abc"),
        ("one two\nthree", "byte", "one two\n"),
        ("one\n\ntwo\n\nthree\nfour", "word", "one\n\ntwo\n\nthree\n"),
        ("one two", "word", "one "),
        ("x" * 500 + "\n" + "y" * 20, "char", "x" * 99 + "\n"),
        ("\n" + "y" * 500, "char", "y" * 100),
    ],
)
def test_a_text_opens_after_a_line_or_a_space_of_what_was_trained_on(text, level, expected):
    vocabulary = Vocabulary.build([text], level)
    assert vocabulary.decode(opening(vocabulary, vocabulary.encode(text))) == expected


@given(st.text(), st.integers(0, 12))
def test_what_is_written_is_the_text_up_to_its_length(text, length):
    for vocabulary in (Vocabulary.build([text]), BYTES):
        ids = vocabulary.encode(text).tolist()
        assert "".join(write(iter(ids), vocabulary, length)) == (text[:length] if length else text)


@given(st.binary(max_size=30), st.integers(0, 12))
def test_bytes_that_are_no_text_are_written_as_whole_characters(content, length):
    pieces = list(write(iter(content), BYTES, length))
    whole = content.decode("utf-8", "replace")
    assert "".join(pieces) == (whole[:length] if length else whole)


@given(st.text("ab\n", max_size=40), st.lists(st.text("ab\n", min_size=1, max_size=4), min_size=1, max_size=3))
def test_a_text_ends_with_the_first_stop_that_it_comes_to(text, stop):
    vocabulary = Vocabulary.build(["ab\n"])
    ends = [text.find(mark) + len(mark) for mark in stop if mark in text]
    ids = iter(vocabulary.encode(text).tolist())
    assert "".join(write(ids, vocabulary, stop=stop)) == (text[: min(ends)] if ends else text)


def test_no_more_symbols_are_taken_than_needed():
    vocabulary = Vocabulary.build(["abc"])
    ids = iter([0, 1, 2, 0, 1, 2])
    assert "".join(write(ids, vocabulary, length=2)) == "ab"
    assert "".join(write(ids, vocabulary, stop=["ca"])) == "ca"
    assert list(ids) == [1, 2]


def test_a_word_is_not_cut_by_the_length_but_by_a_stop():
    vocabulary = Vocabulary.build(["alpha beta\n\n"], "word")
    ids = vocabulary.encode("alpha beta\n\nalpha").tolist()
    assert "".join(write(iter(ids), vocabulary, length=7)) == "alpha beta"
    assert "".join(write(iter(ids), vocabulary, stop=["\n"])) == "alpha beta\n"


# --- searching -------------------------------------------------------------------------------------------------------


def log_probability(model, params, prime, text):
    _, logits = model.unroll(params, model.init_carry(1), np.array([*prime, *text[:-1]])[:, None])
    logp = log_softmax(logits.astype(np.float64))[len(prime) - 1 :, 0]
    return float(logp[np.arange(len(text)), list(text)].sum())


@pytest.mark.parametrize("layers", [1, 2])
def test_a_beam_as_wide_as_all_texts_finds_the_likeliest(layers):
    model, params = make(3, layers=layers, seed=4)
    every = [(log_probability(model, params, [1], text), list(text)) for text in itertools.product(range(3), repeat=4)]
    every.sort(key=lambda found: -found[0])
    found = beam_search(model, params, [1], length=4, width=81)
    assert [text for text, _ in found[:10]] == [text for _, text in every[:10]]
    assert np.allclose([p for _, p in found], [p for p, _ in every], atol=1e-5)


def test_a_beam_of_one_is_greedy_and_a_wider_one_no_worse():
    model, params = make(seed=2)
    greedy = list(itertools.islice(sample(model, params, [0], Choice(greedy=True), np.random.default_rng(0)), 12))
    one = beam_search(model, params, [0], 12, 1)
    assert [found.symbols for found in one] == [greedy]
    assert one[0].log_probability == pytest.approx(log_probability(model, params, [0], greedy), abs=1e-5)
    wide = beam_search(model, params, [0], 12, 6)
    assert len(wide) == 6
    assert wide[0].log_probability >= one[0].log_probability
    assert [f.log_probability for f in wide] == sorted((f.log_probability for f in wide), reverse=True)


def test_a_beam_without_a_prime_and_of_no_length():
    model, params = make(3)
    assert beam_search(model, params, [], 0, 4) == [([], 0.0)]
    first = beam_search(model, params, [], 1, 4)
    assert [f.log_probability for f in first] == pytest.approx([-math.log(3)] * 3)


def test_a_beam_through_weights_that_are_no_numbers():
    model, params = make(3)
    params["head"]["b"] = params["head"]["b"] * math.nan
    with pytest.raises(UserError, match="scores are NaN"):
        beam_search(model, params, [1], 2, 2)
