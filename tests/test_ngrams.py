"""N-grams compared with counts in dictionaries, compressors with the output of bzip2 and xz."""

import bz2
import lzma
import math
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnn_plugins.language import ngrams
from rnn_plugins.language.ngrams import BZ2_BLOCK, NGram, baselines, compressors

# Few symbols make contexts recur; many make codes large.
texts = st.lists(st.integers(0, 3), max_size=60)
sizes = st.sampled_from([4, 5, 70_000])
orders = st.integers(1, 6)


def witten_bell(train: list[int], vocabulary_size: int, order: int, context: list[int], token: int) -> float:
    """p(token | context), straight from the formula: one dictionary an order, one recursion."""
    after: defaultdict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
    for end in range(order - 1, len(train)):
        after[tuple(train[end - order + 1 : end])][train[end]] += 1
    lower = 1 / vocabulary_size if order == 1 else witten_bell(train, vocabulary_size, order - 1, context, token)
    if len(context) < order - 1:
        return lower
    seen = after[tuple(context[len(context) - order + 1 :])]
    if not seen:
        return lower
    return (seen[token] + len(seen) * lower) / (sum(seen.values()) + len(seen))


@given(train=texts, text=texts.filter(len), context=texts, vocabulary_size=sizes, order=orders)
def test_equal_to_counting_with_dictionaries(
    train: list[int], text: list[int], context: list[int], vocabulary_size: int, order: int
) -> None:
    whole = context + text
    expected = [
        -math.log(witten_bell(train, vocabulary_size, order, whole[:at], whole[at]))
        for at in range(len(context), len(whole))
    ]
    model = NGram(order, vocabulary_size).fit(train)
    assert model.cross_entropies(text, context)[-1] == pytest.approx(sum(expected) / len(expected), rel=1e-12)


@given(train=texts, context=texts, vocabulary_size=st.integers(4, 9), order=orders)
def test_probabilities_sum_to_one(train: list[int], context: list[int], vocabulary_size: int, order: int) -> None:
    model = NGram(order, vocabulary_size).fit(train)
    probabilities = [math.exp(-model.cross_entropies([token], context)[-1]) for token in range(vocabulary_size)]
    assert sum(probabilities) == pytest.approx(1, rel=1e-12)


@given(train=texts, text=texts.filter(len), order=orders)
def test_one_count_serves_all_lower_orders(train: list[int], text: list[int], order: int) -> None:
    entropies = NGram(order, 4).fit(train).cross_entropies(text)
    assert entropies == [NGram(lower, 4).fit(train).cross_entropies(text)[-1] for lower in range(1, order + 1)]
    assert baselines(train, text, 4, range(1, order + 1)) == dict(enumerate(entropies, 1))


def test_baselines_give_only_the_orders_asked_for() -> None:
    assert list(baselines([0, 1, 0, 1], [0, 1], 2)) == [1, 2, 3, 4, 5, 6]
    assert list(baselines([0, 1, 0, 1], [0, 1], 2, orders=[5, 2])) == [2, 5]
    assert baselines([0, 1], [0], 2, orders=[]) == {}


def test_context_is_what_stood_before() -> None:
    train = [0, 1] * 20 + [0, 2] * 2
    assert baselines(train, [1], 3, [2], context=[0])[2] < baselines(train, [1], 3, [2])[2]


def test_nothing_counted_leaves_the_uniform_distribution() -> None:
    assert NGram(3, 8).fit([]).cross_entropies([1, 2, 3]) == pytest.approx([math.log(8)] * 3)


def test_a_vocabulary_as_large_as_integers_go_does_not_overflow() -> None:
    size = 2**40
    train = [size - 1, size - 2] * 50
    entropies = NGram(6, size).fit(train).cross_entropies(train[:20])
    assert entropies[0] > entropies[1] > 0
    assert entropies[5] < 0.2


def test_narrow_integers_do_not_wrap() -> None:
    train, text = np.tile(np.arange(250, dtype=np.uint8), 3), np.arange(100, 140, dtype=np.uint8)
    assert NGram(3, 250).fit(train).cross_entropies(text) == NGram(3, 250).fit(train.tolist()).cross_entropies(text)


def test_fitting_again_starts_anew() -> None:
    model = NGram(2, 2).fit([0, 0, 0, 0])
    anew = NGram(2, 2).fit([1, 0, 1, 0])
    assert model.fit([1, 0, 1, 0]).cross_entropies([0, 1, 0]) == anew.cross_entropies([0, 1, 0])


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (lambda: NGram(0, 5), ValueError, "the order of an n-gram is 0; expected 1 or more"),
        (lambda: NGram(1, 0), ValueError, "the vocabulary has 0 symbols; expected 1 or more"),
        (lambda: NGram(1, 5).fit([[1]]), ValueError, "tokens of shape (1, 1); expected one dimension"),
        (lambda: NGram(1, 5).fit([0.5]), TypeError, "tokens of type float64; expected integers"),
        (
            lambda: NGram(1, 5).fit([1, 5]),
            ValueError,
            "tokens from 1 to 5; expected 0 to 4, the vocabulary has 5 symbols",
        ),
        (
            lambda: NGram(1, 5).fit([]).cross_entropies([]),
            ValueError,
            "the text to score is empty; expected one token or more",
        ),
        (lambda: compressors(None, b""), ValueError, "the text to compress is empty; expected one byte or more"),
    ],
)
def test_mistakes_get_a_sentence(wrong, error, message) -> None:
    with pytest.raises(error) as raised:
        wrong()
    assert str(raised.value) == message


def test_compressed_alone_is_the_size_of_the_file() -> None:
    text = b"to be or not to be, that is the question\n" * 30
    assert compressors(None, text) == {
        "bz2": 8 * len(bz2.compress(text)) / len(text),
        "xz": 8 * len(lzma.compress(text)) / len(text),
    }
    assert compressors(b"", text) == compressors(None, text)


def test_training_text_helps_the_compressors() -> None:
    noise = np.random.default_rng(0).integers(0, 256, 4000, np.uint8).tobytes()
    alone, primed = compressors(None, noise[:1000]), compressors(noise, noise[:1000])
    for name in ("bz2", "xz"):
        assert alone[name] > 8  # noise cannot be compressed
        assert primed[name] < alone[name]
    assert primed["xz"] < 1  # but repeating it is one reference back


def test_training_text_beyond_the_block_is_no_help_to_bz2() -> None:
    train, text = b"the same sentence again. " * 40, bytes(BZ2_BLOCK)
    assert compressors(train, text)["bz2"] == compressors(None, text)["bz2"]


def test_only_what_compressors_can_look_back_on_is_used(monkeypatch) -> None:
    monkeypatch.setattr(ngrams, "BZ2_BLOCK", 1100)
    monkeypatch.setattr(ngrams, "XZ_WINDOW", 1000)
    noise = np.random.default_rng(0).integers(0, 256, 1000, np.uint8).tobytes()
    text = noise[200:300]
    assert compressors(text + noise, text) == compressors(noise, text)
    assert compressors(text + noise, text) != compressors(noise[1:], text)


def test_five_grams_on_tinyshakespeare(data) -> None:
    text = np.frombuffer((data / "tinyshakespeare.txt").read_bytes(), np.uint8)
    symbols, tokens = np.unique(text, return_inverse=True)
    cut = int(len(tokens) * 0.9)
    entropies = baselines(tokens[:cut], tokens[cut:], len(symbols))
    expected = {1: 3.347, 2: 2.486, 3: 2.049, 4: 1.774, 5: 1.669, 6: 1.698}
    assert entropies == pytest.approx(expected, abs=5e-4)
