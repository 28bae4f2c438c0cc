"""Sentences in columns and pretrained vectors: formats, messages, streams."""

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest

from rnn_plugins.data.conll import sentences
from rnn_plugins.data.vectors import read_vectors, vectors_of
from rnn_plugins.errors import UserError


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(name, content):
    Path(name).write_bytes(content.encode() if isinstance(content, str) else content)
    return name


def read(content, **options):
    return [(s.tokens, s.tags, s.lines) for s in sentences(write("a.tsv", content), **options)]


def refused(content, **options):
    with pytest.raises(UserError) as caught:
        list(sentences(write("a.tsv", content), **options))
    return str(caught.value)


CONLL_U = """# sent_id = 1
# text = I don't 1 000.
1\tI\ti\tPRON\tPRP\t_\t2\tnsubj\t_\t_
2-3\tdon't\t_\t_\t_\t_\t_\t_\t_\t_
2\tdo\tdo\tAUX\tVBP\t_\t0\troot\t_\t_
3\tn't\tnot\tPART\tRB\t_\t2\tadvmod\t_\t_
3.1\tsee\tsee\tVERB\tVB\t_\t_\t_\t_\t_
4\t1 000\t1000\tNUM\tCD\t_\t2\tobj\t_\t_

"""
CONLL_2003 = """-DOCSTART- -X- -X- O

EU NNP B-NP B-ORG
rejects VBZ B-VP O
# NN I-NP O

# a comment
Peter NNP B-NP B-PER
"""


def test_words_and_tags():
    expected = [(["Go", "."], ["VERB", "PUNCT"], [2, 3]), (["#", "Oh"], ["SYM", "INTJ"], [6, 7])]
    content = "\nGo\tVERB\n.\tPUNCT\n\n\n#\tSYM\nOh\tINTJ"
    assert read(content) == expected
    assert read(content.replace("\n", "\r\n")) == expected
    assert read(gzip.compress(content.encode(), mtime=0)) == expected
    assert read(content.replace("\t", "   "))[0] == expected[0]


def test_conll_u():
    assert read(CONLL_U) == [(["I", "do", "n't", "1 000"], ["PRON", "AUX", "PART", "NUM"], [3, 5, 6, 8])]
    assert read(CONLL_U, tag_column=5)[0][1] == ["PRP", "VBP", "RB", "CD"]


def test_conll_2003():
    assert read(CONLL_2003) == [
        (["EU", "rejects", "#"], ["B-ORG", "O", "O"], [3, 4, 5]),
        (["Peter"], ["B-PER"], [8]),
    ]
    assert read(CONLL_2003, token_column=2, tag_column=-2)[1][:2] == (["NNP"], ["B-NP"])


def test_tokens_alone():
    assert read("Go\n.\n", tags=False) == [(["Go", "."], None, [1, 2])]
    assert read("Go\tVERB\n", tags=False) == [(["Go"], ["VERB"], [1])]


def test_a_mistake_names_the_line_of_a_token():
    sentence = next(sentences(write("a.tsv", CONLL_U)))
    assert str(sentence.mistake("the tag is unknown", 1)) == "a.tsv, line 5: the tag is unknown"


def test_the_digest():
    digest = hashlib.sha256()
    list(sentences(write("a.tsv", CONLL_U), digest=digest))
    assert digest.hexdigest() == hashlib.sha256(CONLL_U.encode()).hexdigest()


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("Go\tVERB\nwent\tV\tX\n", {}, "a.tsv, line 2: it has 3 columns where 2 are expected"),
        ("Go\n.\tPUNCT\n", {"tags": False}, "a.tsv, line 2: it has 2 columns where 1 is expected"),
        ("Go\n", {}, "a.tsv, line 1: there is a token and no tag; expected a token, a tab and its tag"),
        (
            "Go\tVERB\n.\t\n",
            {},
            "a.tsv, line 2: the tag (column 2) is empty; expected a token and its tag in each line",
        ),
        (
            "Go\t" + "V" * 1_000,
            {},
            "a.tsv, line 1: the tag (column 2) has 1,000 characters; expected a token and its tag in each line",
        ),
        ("Go\tVERB\n\t\n", {}, "a.tsv, line 2: the token (column 1) is empty"),
        ("Go\tVERB\n", {"tag_column": 3}, "a.tsv, line 1: there is no column 3: the line has 2 columns"),
        ("Go\tVERB\n", {"token_column": -3}, "a.tsv, line 1: there is no column -3: the line has 2 columns"),
        (
            "\n# nothing\n",
            {},
            "a.tsv has no tokens; expected a token and its tag per line, and a blank line after sentences",
        ),
    ],
)
def test_messages(content, options, message):
    assert refused(content, **options) == message


def test_the_treebank(data):
    found = list(sentences(str(data / "pos-valid.tsv")))
    assert len(found) == 2001
    assert len({tag for sentence in found for tag in sentence.tags}) == 17


# Vectors ------------------------------------------------------------------------------------------------------

GLOVE = "the 0.5 -1 2e-3\n. . 1 2 3\nfilm 1 1 1\n"
WORDS = ["film", "The", "the", " dull", ". ."]


@pytest.mark.parametrize(
    "content",
    [GLOVE, "3 3\n" + GLOVE.replace("\n", " \n"), gzip.compress(GLOVE.encode(), mtime=0), "3 3\n" + GLOVE + "\n"],
)
def test_vectors(content):
    matrix, found = read_vectors(write("a.txt", content), WORDS)
    assert found.tolist() == [True, True, True, False, True]
    np.testing.assert_array_equal(
        matrix, np.array([[1, 1, 1], [0.5, -1, 2e-3], [0.5, -1, 2e-3], [0, 0, 0], [1, 2, 3]], np.float32)
    )
    assert matrix.dtype == np.float32


def test_a_word_is_preferred_to_its_lower_case_form():
    for content in ("polish 1\nPolish 2\n", "Polish 2\npolish 1\n"):
        matrix, found = read_vectors(write("a.txt", content), ["Polish", "polish", "POLISH"])
        assert matrix[:, 0].tolist() == [2, 1, 1]
        assert found.all()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "a.txt has no vectors; expected a word and its numbers per line"),
        ("3 3\n", "a.txt has no vectors; expected a word and its numbers per line"),
        (
            "film\n",
            "a.txt, line 1: 0 numbers after the word; expected a word and its numbers, separated by blanks",
        ),
        (GLOVE + "dull 1 2\n", "a.txt, line 4: 2 numbers after the word; expected 3, as before"),
        *[
            (
                GLOVE + f"dull 1 2 {number}\n",
                "a.txt, line 4: what follows 'dull' are not 3 finite numbers; expected a word and its numbers, "
                "separated by blanks (the text format of GloVe or word2vec)",
            )
            for number in ("nan", "1e999", "x")
        ],
        (
            "It is a dull film.\n",
            "a.txt, line 1: what follows 'It' are not 4 finite numbers; expected a word and its numbers, separated by "
            "blanks (the text format of GloVe or word2vec)",
        ),
        ("le 1 2\n", "a.txt has a vector for none of the 5 words; is it of another language?"),
    ],
)
def test_messages_on_vectors(content, message):
    with pytest.raises(UserError) as caught:
        read_vectors(write("a.txt", content), [*WORDS[:3], "dull", "."])
    assert str(caught.value) == message


def test_vectors_are_read_once_as_long_as_their_file_is_the_same():
    write("a.txt", GLOVE)
    first, _ = vectors_of("a.txt", ("the",))
    assert vectors_of("a.txt", ("the",))[0] is first
    write("a.txt", "the 1 2\n")
    assert vectors_of("a.txt", ("the",))[0].tolist() == [[1, 2]]
    with pytest.raises(UserError, match="there is no file"):
        vectors_of("gone.txt", ("the",))
