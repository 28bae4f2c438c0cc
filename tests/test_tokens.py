"""Tokens of short texts: how they are divided, that they give texts back, and splits of examples."""

import json

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rnn_plugins.data.splits import split
from rnn_plugins.data.tokens import Tokens
from rnn_plugins.errors import UserError

TEXTS = ["Ça alors !", "it's a dull film", "a dull, dull film"]
SPECIALS = ("<unk>", "<s>", "</s>")

texts = st.lists(st.text(st.characters(exclude_categories=("Cs",)), max_size=20), max_size=5)


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("That's a dull film, doesn't it?", "That 's a dull film , does n't it ?"),
        ("can't won't I’d n't", "ca n't wo n't I ’d n't"),
        ("l'homme qu’il j'ai", "l' homme qu’ il j' ai"),
        ("'some' 90's 3.14 _x_", "' some ' 90 's 3 . 14 _x_"),
        ("за́мок, नमस्ते", "за́мок , नमस्ते"),
        ("  \n\t ", ""),
    ],
)
def test_words(text, pieces):
    assert Tokens.build([], "word").pieces(text) == pieces.split()


def test_words_that_carry_the_space_before_them():
    tokens = Tokens.build([], "word", spaces=True)
    assert tokens.pieces("Go  on, don't.\n") == [" Go", " ", " on", ",", " do", "n't", ".", "\n"]
    assert tokens.pieces("") == []


@given(texts, st.sampled_from(["char", "byte", "word"]), st.booleans())
def test_a_text_of_known_pieces_is_given_back(some, level, lower):
    tokens = Tokens.build(some, level, lower=lower, specials=SPECIALS, spaces=True)
    for text in some:
        assert tokens.decode(tokens.encode(text)) == (text.lower() if lower else text)
    again = Tokens.from_json(json.loads(json.dumps(tokens.to_json())))
    assert again == tokens


def test_symbols_are_specials_then_pieces_by_falling_frequency():
    tokens = Tokens.build(TEXTS, "word", specials=SPECIALS, limit=4)
    assert tokens.symbols == (*SPECIALS, "dull", "a", "film", "!")  # ties by code points
    assert len(tokens) == 7
    assert tokens.encode("a dull thing").tolist() == [4, 3, 0]
    assert tokens.encode("a dull thing").dtype == np.intp
    assert tokens.encode("").shape == (0,)
    assert Tokens.build(["bab"], "char").symbols == ("<unk>", "b", "a")
    assert Tokens.build(["bab"], "char", limit=1).symbols == ("<unk>", "b", "a")  # the limit is one of words
    assert len(Tokens.build([], "byte", specials=SPECIALS)) == 259


def test_specials_have_no_text_and_no_text_is_special():
    tokens = Tokens.build([["<s>", "a", "<unk>"]], "word", specials=SPECIALS)
    assert tokens.symbols == (*SPECIALS, "a")
    assert tokens.encode(["<s>", "a", "<unk>"]).tolist() == [0, 3, 0]
    assert tokens.decode([1, 0, 3, 2]) == "<unk> a"
    assert Tokens.build(["a b"], "word", spaces=True).decode([0, 1, 0]) == "<unk> a <unk>"
    assert Tokens.build([], "byte", specials=SPECIALS).decode([1, 3 + 0xE9, 0]) == "�<unk>"


def test_a_text_that_is_divided_already():
    tokens = Tokens.build([["New York", "'s"]], "word", lower=True)
    assert tokens.symbols == ("<unk>", "'s", "new york")
    assert tokens.encode(("NEW YORK",)).tolist() == [2]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"level": "word"}, "these are not tokens; expected what to_json writes: level, symbols, specials"),
        ([], "these are not tokens; expected what to_json writes: level, symbols, specials"),
        ({"specials": "1"}, "these are not tokens; expected what to_json writes: level, symbols, specials"),
        ({"level": "line"}, "these are not tokens; expected what to_json writes: level, symbols, specials"),
        ({"specials": 0}, "the first symbol must be a special, for unknown pieces"),
        ({"symbols": []}, "the first symbol must be a special, for unknown pieces"),
        ({"symbols": ["<unk>", "a", "a"]}, "a symbol occurs twice; give each symbol once"),
    ],
)
def test_damaged_json(value, message):
    if (value and "level" not in value) or value == {"level": "line"}:
        value = Tokens.build(["a"], "word").to_json() | value
    with pytest.raises(ValueError, match=f"^{message}$"):
        Tokens.from_json(value)


# Splits -------------------------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from("abc"), max_size=60), st.floats(0, 0.99), st.integers(0, 3))
@example(list("aaaaaab"), 0.5, 0)  # the one b cannot be held out, and an a in its place would be beyond their share
def test_a_split_is_a_partition_with_each_label_in_its_share(labels, fraction, seed):
    train, valid = split(labels, fraction, seed)
    assert sorted([*train, *valid]) == list(range(len(labels)))
    assert train.tolist() == sorted(train)
    assert valid.tolist() == sorted(valid)
    for label in set(labels):
        count = labels.count(label)
        held_out = sum(labels[i] == label for i in valid)
        assert held_out < count  # a label is learned before it is asked for
        assert held_out == count - 1 or abs(held_out - fraction * count) < 1
    again = split(labels, fraction, seed)
    assert again[1].tolist() == valid.tolist()


def test_sizes_of_a_split():
    assert [len(part) for part in split(1000, 0.1)] == [900, 100]
    assert [len(part) for part in split(["a"] * 15 + ["b"] * 15, 0.1)] == [27, 3]
    assert [len(part) for part in split(5, 0)] == [5, 0]
    assert split(100, 0.5, 0)[0].tolist() != split(100, 0.5, 1)[0].tolist()


def test_a_share_that_is_none():
    with pytest.raises(UserError, match=r"^--valid-fraction is 1; it must be at least 0 and below 1$"):
        split(10, 1.0)
