"""Vocabularies: text to ids and back at every level, whatever the text and however it is cut."""

import json
from itertools import chain, pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rnn_plugins.data.vocabulary import (
    BYTES,
    UNK,
    StreamDecoder,
    Vocabulary,
    count_characters,
    show,
    split_words,
)
from rnn_plugins.errors import UserError
from rnn_plugins.words import amount, listing, percent

LEVELS = ("char", "byte", "word")
# Words, white space, line ends, a byte order mark, combining marks, emoji of several code points, all of Unicode.
TEXTS = st.lists(
    st.one_of(
        st.text(max_size=8), st.sampled_from(["ab", "  ", "\n\n", "\r\n", "\ufeff", "e\u0301", "👩\u200d👧", "за́мок"])
    )
).map("".join)


def words(*chunks: str) -> list[str]:
    return list(chain.from_iterable(split_words(chunks)))


def cut(text: str, places: list[int]) -> list[str]:
    edges = sorted({0, len(text), *(place % (len(text) + 1) for place in places)})
    return [text[a:b] for a, b in pairwise(edges)]


@pytest.mark.parametrize("level", LEVELS)
@given(text=TEXTS)
@example(text="\ufeffone\r\ntwo\n\n\ttabs\t\n e\u0301 👩🏽\u200d🚀 Привет\x00")
@example(text="a" * 200 + " " * 40 + "\n" * 17)
def test_every_text_comes_back_as_it_went_in(level, text):
    vocabulary = Vocabulary.build([text], level)
    assert vocabulary.decode(vocabulary.encode(text)) == text


@pytest.mark.parametrize("level", LEVELS)
@given(text=TEXTS, places=st.lists(st.integers(0, 1000), max_size=6))
def test_where_a_text_is_cut_changes_no_vocabulary(level, text, places):
    assert Vocabulary.build(cut(text, places), level) == Vocabulary.build([text], level)


@given(text=TEXTS, places=st.lists(st.integers(0, 1000), max_size=6))
@example(text="one\n\ntwo", places=[1, 4])
@example(text="e\u0301\u0302", places=[1, 2])
def test_where_a_text_is_cut_changes_no_word(text, places):
    pieces = words(*cut(text, places))
    assert pieces == words(text)
    assert "".join(pieces) == text


def test_words_white_space_and_punctuation_are_pieces():
    assert words("Don't stop,  \n\n\tза́мок_1!?\r\nहिन्दी") == [
        *("Don", "'", "t", " ", "stop", ",", "  ", "\n\n", "\t", "за́мок_1", "!", "?", "\r", "\n", "हिन्दी")
    ]


def test_long_words_and_runs_are_cut_so_that_no_piece_is_endless():
    assert [len(piece) for piece in words("a" * 130, " " * 20)] == [64, 64, 2, 16, 4]


@pytest.mark.parametrize("level", LEVELS)
@given(data=st.data())
def test_a_stream_decoder_gives_what_decode_gives_and_no_half_character(level, data):
    vocabulary = Vocabulary.build(["aé€😀 b\n"], level)
    ids = data.draw(st.lists(st.integers(0, len(vocabulary) - 1)))
    decoder = StreamDecoder(vocabulary)
    fed = [decoder.feed(i) for i in ids]
    assert "".join([*fed, decoder.flush()]) == vocabulary.decode(ids)


@given(text=st.text())
def test_a_stream_decoder_emits_a_character_with_its_last_byte_only(text):
    vocabulary = Vocabulary.build([], "byte")
    decoder = StreamDecoder(vocabulary)
    for character in text:
        fed = [decoder.feed(i) for i in vocabulary.encode(character)]
        assert fed == [""] * (len(fed) - 1) + [character]
    assert decoder.flush() == ""


def test_half_a_character_at_the_end_is_flushed_once_as_a_replacement():
    decoder = StreamDecoder(Vocabulary.build([], "byte"))
    assert decoder.feed(0xE2) == ""
    assert decoder.flush() == "\ufffd"
    assert decoder.flush() == ""
    assert decoder.feed(ord("a")) == "a"


def test_characters_stand_in_the_order_of_code_points():
    vocabulary = Vocabulary.build(["hello ", "wörld"])
    assert vocabulary.symbols == (" ", "d", "e", "h", "l", "o", "r", "w", "ö")
    assert vocabulary.encode("hello").tolist() == [3, 2, 4, 4, 5]
    assert vocabulary.encode("hello").dtype == np.intp


def test_words_stand_by_frequency_and_then_by_code_points():
    assert Vocabulary.build(["b a b c c, d"], "word").symbols == (UNK, " ", "b", "c", ",", "a", "d")
    assert Vocabulary.build(["b a b c c, d"], "word", max_words=3).symbols == (UNK, " ", "b", "c")


def test_the_byte_vocabulary_is_every_byte_whatever_the_text():
    vocabulary = Vocabulary.build(["a"], "byte")
    assert len(vocabulary) == 256
    assert vocabulary.encode("aé").tolist() == [0x61, 0xC3, 0xA9]
    assert vocabulary.symbols[0x61] == "a"
    assert vocabulary.symbols[0xC3] == "\\xc3"


def test_bytes_that_the_shell_passed_through_come_out_as_those_bytes():
    assert Vocabulary.build([], "byte").encode("a\udcff").tolist() == [0x61, 0xFF]


def test_a_lone_surrogate_is_no_bytes():
    with pytest.raises(UserError) as caught:
        Vocabulary.build([], "byte").encode("ab\ud800", called="the prime")
    assert str(caught.value) == "the prime has a lone surrogate at position 2, which is not a character; leave it out"


def test_unknown_characters_are_named():
    vocabulary = Vocabulary.build(["hello world"])
    with pytest.raises(UserError) as caught:
        vocabulary.encode("hé!é", called="the prime")
    assert str(caught.value) == (
        "the prime has 2 characters that the model has never seen: 'é' (U+00E9) and '!'; "
        "--unknown skip leaves them out, --unknown replace puts ' ' in their place"
    )
    assert vocabulary.decode(vocabulary.encode("hé!o", "skip")) == "ho"
    assert vocabulary.decode(vocabulary.encode("hé!o", "replace")) == "h  o"


def test_a_vocabulary_without_a_space_replaces_by_its_first_symbol():
    vocabulary = Vocabulary.build(["xyz"])
    assert vocabulary.decode(vocabulary.encode("z y", "replace")) == "zxy"


def test_unknown_words_are_named():
    vocabulary = Vocabulary.build(["the cat sat"], "word")
    with pytest.raises(UserError) as caught:
        vocabulary.encode("the dog sat")
    assert str(caught.value) == (
        "the text has 1 word that the model has never seen: 'dog'; "
        "--unknown skip leaves them out, --unknown replace puts '<unk>' in their place"
    )
    assert vocabulary.decode(vocabulary.encode("the dog sat", "replace")) == "the <unk> sat"
    assert vocabulary.decode(vocabulary.encode("the dog sat", "skip")) == "the  sat"


def test_code_points_above_the_highest_known_one_are_unknown():
    vocabulary = Vocabulary.build(["ab"])
    assert vocabulary.lookup("ac\U0010ffff").tolist() == [0, -1, -1]


@pytest.mark.parametrize("level", LEVELS)
def test_an_empty_text_has_no_ids(level):
    vocabulary = Vocabulary.build(["some text"], level)
    assert vocabulary.encode("").shape == (0,)
    assert vocabulary.decode([]) == ""


@pytest.mark.parametrize("wrong", [-1, 3])
def test_an_id_out_of_range_is_refused(wrong):
    vocabulary = Vocabulary.build(["abc"])
    expected = rf"^the id {wrong} is outside a vocabulary of 3 symbols; ids go from 0 to 2$"
    with pytest.raises(ValueError, match=expected):
        vocabulary.decode([0, wrong])
    with pytest.raises(ValueError, match=expected):
        StreamDecoder(vocabulary).feed(wrong)


@pytest.mark.parametrize(
    ("symbols", "name"), [(1, "uint8"), (256, "uint8"), (257, "uint16"), (65536, "uint16"), (65537, "uint32")]
)
def test_ids_take_the_narrowest_type(symbols, name):
    assert Vocabulary("word", (UNK, *map(str, range(symbols - 1)))).dtype == name


@pytest.mark.parametrize("level", LEVELS)
@given(text=TEXTS)
def test_a_vocabulary_survives_json(level, text):
    vocabulary = Vocabulary.build([text], level)
    assert Vocabulary.from_json(json.loads(json.dumps(vocabulary.to_json()))) == vocabulary


@pytest.mark.parametrize(
    "value", [{}, [], None, {"level": "char"}, {"level": ["char"], "symbols": []}, {"level": "char", "symbols": 3}]
)
def test_what_is_no_vocabulary_is_refused(value):
    with pytest.raises(
        ValueError, match=r"^this is not a vocabulary; expected its level and its symbols, as to_json writes them$"
    ):
        Vocabulary.from_json(value)


@pytest.mark.parametrize(
    ("level", "symbols", "message"),
    [
        ("line", ("a",), "the level 'line' is unknown; use one of char, byte, word, bpe"),
        ("char", ("a", "a"), "a symbol occurs twice in the vocabulary; give each symbol once"),
        ("char", ("a", "bc"), "a symbol of a char vocabulary is not one code point; use level 'word' for longer ones"),
        (
            "byte",
            BYTES[1:],
            "a byte vocabulary always has the same 256 symbols; use Vocabulary.build([], 'byte')",
        ),
        ("word", ("a", UNK), "a word vocabulary begins with <unk>; put it before the other symbols"),
    ],
)
def test_a_wrong_vocabulary_is_refused(level, symbols, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 -- the whole text is compared below
        Vocabulary(level, symbols)
    assert str(caught.value) == message


@pytest.mark.parametrize("level", LEVELS)
@given(text=TEXTS)
def test_measure_counts_characters_and_bytes(level, text):
    vocabulary = Vocabulary.build([text], level)
    ids = vocabulary.encode(text).astype(vocabulary.dtype)
    assert vocabulary.measure(ids) == (len(text), len(text.encode()))


def test_measure_counts_in_blocks(monkeypatch):
    monkeypatch.setattr("rnn_plugins.data.vocabulary._BLOCK", 3)
    vocabulary = Vocabulary.build(["aé€😀"])
    assert vocabulary.measure(vocabulary.encode("aé€😀aé€")) == (7, 16)


@given(text=st.text())
def test_the_bytes_that_begin_a_character_are_counted(text):
    assert count_characters(np.frombuffer(text.encode(), np.uint8)) == len(text)


def test_symbols_are_shown_so_that_they_can_be_told_apart():
    assert [show(s) for s in ["a", "\n", "а", "\u0301", "\u200b", "don", "<unk>", "\udcff", "\\xc3"]] == [
        *("'a'", r"'\n'", "'а' (U+0430)", "U+0301", "U+200B", "'don'", "'<unk>'", "U+DCFF", "'\\\\xc3'")
    ]


def test_lists_and_amounts_read_as_prose():
    assert listing(["a"]) == "a"
    assert listing("abc") == "a, b and c"
    assert listing("abcdefgh") == "a, b, c, d, e, f, g and h"
    assert listing("abcdefghij") == "a, b, c, d, e, f, g, h and 2 more"
    assert listing("ab", total=1002) == "a, b and 1,000 more"
    assert [amount(n, "word") for n in (0, 1, 2000)] == ["0 words", "1 word", "2,000 words"]


@pytest.mark.parametrize(
    ("share", "decimals", "written"),
    [
        (0.0, 1, "0.0 %"),
        (0.0004, 1, "under 0.1 %"),
        (0.0005001, 1, "0.1 %"),
        (0.1234, 1, "12.3 %"),
        (0.9994, 1, "99.9 %"),
        (0.9996, 1, "over 99.9 %"),
        (1.0, 1, "100.0 %"),
        (0.004, 0, "under 1 %"),
        (0.5, 0, "50 %"),
        (0.996, 0, "over 99 %"),
        (1.0, 0, "100 %"),
        (0.00004, 2, "under 0.01 %"),
    ],
)
def test_a_small_share_is_never_written_as_none_nor_a_large_one_as_all(share, decimals, written):
    assert percent(share, decimals) == written
