"""Byte-pair encoding as a level of a text: its vocabulary, encoding, the held-out part, and runs with it."""

import math
import os
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from command_line import SMALL, refused, settle, trained
from hypothesis import given
from hypothesis import strategies as st

from rnn_cli.main import rnn
from rnn_lab.language.scoring import score
from rnn_lab.runs import Run
from rnn_plugins.data.bpe import learn, splitter
from rnn_plugins.data.corpus import load_corpus, split
from rnn_plugins.data.vocabulary import Vocabulary, level_of, split_words
from rnn_plugins.errors import UserError

pytest.importorskip("tokenizers")

TEXT = "the quick brown fox jumps over the lazy dog; the foxes' dogs jump.\n\n\tHe said:  é! " * 9
CHARACTERS = sorted(set(TEXT))
LEVEL = ["--level", "bpe:60"]


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary.tokens([TEXT], CHARACTERS, 60)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    settle(tmp_path, monkeypatch)
    return tmp_path


def by_hand(piece: str, merges: Any) -> list[str]:
    """Merge the pair that was learnt first, wherever it is, until none is left."""
    tokens, rank = list(piece), {pair: i for i, pair in enumerate(merges)}
    while pairs := [pair for pair in pairwise(tokens) if pair in rank]:
        first, second = min(pairs, key=rank.__getitem__)
        merged: list[str] = []
        for token in tokens:
            if merged and (merged[-1], token) == (first, second):
                merged[-1] += token
            else:
                merged.append(token)
        tokens = merged
    return tokens


def test_it_merges_the_commonest_pair_again_and_again() -> None:
    pieces = [piece for some in split_words([TEXT], spaced=True) for piece in some]
    symbols, merges = learn([pieces], CHARACTERS, len(CHARACTERS) + 12)
    assert symbols == (*CHARACTERS, *(first + second for first, second in merges))
    for count, merge in enumerate(merges):
        found: Counter[tuple[str, str]] = Counter()
        for piece in pieces:
            found.update(pairwise(by_hand(piece, merges[:count])))
        assert found[merge] == max(found.values())


def test_a_pair_that_occurs_once_is_not_merged() -> None:
    assert learn([["abc", "xyz"]], list("abcxyz"), 100) == (tuple("abcxyz"), ())


@given(st.text(st.sampled_from([*CHARACTERS, "ж", "́"]), max_size=60), st.integers(1, 7))
def test_a_text_may_be_cut_anywhere(vocabulary: Vocabulary, text: str, size: int) -> None:
    whole = [token for some in vocabulary.units([text]) for token in some]
    chunks = [text[i : i + size] for i in range(0, len(text), size)]
    assert [token for some in vocabulary.units(chunks) for token in some] == whole
    assert "".join(whole) == text
    ids, missing = vocabulary.encode_known(text)
    assert set(missing) == set(text) & {"ж", "́"}
    assert vocabulary.decode(ids[ids >= 0]) == "".join(c for c in text if c not in missing)
    split = splitter(vocabulary.symbols, vocabulary.merges)
    for pieces in split_words([text], spaced=True):
        for piece in pieces:
            assert list(split(piece)) == by_hand(piece, vocabulary.merges)


def test_no_token_crosses_a_word() -> None:
    text = 'a  b c.d "e" 12 x_y\n\n  \tz...é'
    (pieces, rest) = [*split_words([text], spaced=True)]
    assert [*pieces, *rest] == ["a", "  ", "b", " c", ".", "d", ' "', "e", '"', " 12", " x_y", "\n\n", "  ", "\t", "z",
                                "...", "é"]  # fmt: skip


def test_it_survives_json(vocabulary: Vocabulary) -> None:
    assert Vocabulary.from_json(vocabulary.to_json()) == vocabulary
    for damage in ({"merges": [["q", "zz"]]}, {"merges": [["a"]]}, {"symbols": ["", "a"]}, {"merges": 1}):
        with pytest.raises(ValueError, match=r"."):
            Vocabulary.from_json(vocabulary.to_json() | damage)


def test_what_training_never_sees_is_told_in_characters(home: Path) -> None:
    home.joinpath("late.txt").write_text("the cat ate " * 15 + "hat z zé tea he")
    corpus = load_corpus(["late.txt"], level="bpe:40")
    training, held_out = (set(part.tolist()) for part in split(corpus))
    late = {corpus.vocabulary.symbols[token] for token in held_out - training}
    assert late > {"h", "z", "é"}, "training sees an h only in other tokens"
    assert corpus.notices == (
        "the held-out last 10 % of 'late.txt' has 2 characters that training never sees: 'z' and 'é' (U+00E9)",
    )
    home.joinpath("known.txt").write_text("the cat ate " * 15 + "hat tea he")
    assert load_corpus(["known.txt"], level="bpe:40").notices == ()


def test_characters_are_counted(vocabulary: Vocabulary) -> None:
    ids = vocabulary.encode(TEXT)
    assert len(ids) < len(TEXT) / 1.5
    assert vocabulary.measure(ids) == (len(TEXT), len(TEXT.encode()))
    assert vocabulary.characters_per_symbol(ids) == len(TEXT) / len(ids)
    assert vocabulary.ends(ids)[-1] == len(TEXT)


@pytest.mark.usefixtures("home")
def test_merges_are_learnt_before_the_held_out_part_and_characters_everywhere() -> None:
    learnt, held_out = "abab cdcd " * 30, "xyxy" * 25
    Path("a.txt").write_text(learnt + held_out)
    corpus = load_corpus(["a.txt"], level="bpe:40", valid_fraction=0.25)
    assert {"ab", " cd"} <= set(corpus.vocabulary.symbols)
    assert not {"xy", "yx"} & set(corpus.vocabulary.symbols)
    assert corpus.vocabulary == Vocabulary.tokens([learnt], set(learnt + held_out), 40)
    first, second = split(corpus, 0.25)
    assert (corpus.vocabulary.decode(first), corpus.vocabulary.decode(second)) == (learnt, held_out)
    assert "xy" in load_corpus(["a.txt"], level="bpe:40", valid_fraction=0).vocabulary.symbols
    assert len(split(corpus, 0)[1]) == 0


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.3])
def test_the_held_out_text_is_that_of_characters(fraction: float) -> None:
    Path("a.txt").write_text(TEXT)
    tokens, characters = (load_corpus(["a.txt"], level=f, valid_fraction=fraction) for f in ("bpe:60", "char"))
    ours, other = (corpus.vocabulary.decode(split(corpus, fraction)[1]) for corpus in (tokens, characters))
    assert other.endswith(ours)
    assert len(other) - len(ours) < max(map(len, tokens.vocabulary.symbols))


@pytest.mark.usefixtures("home")
def test_a_large_text_is_kept_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rnn_plugins.data.corpus.SMALL", 1)
    Path("a.txt").write_text(TEXT)
    first = load_corpus(["a.txt"], level="bpe:60")
    monkeypatch.setitem(sys.modules, "tokenizers", None)  # it is not needed again
    again = load_corpus(["a.txt"], level="bpe:60")
    np.testing.assert_array_equal(first.tokens, again.tokens)
    assert first.vocabulary == again.vocabulary


@pytest.mark.usefixtures("home")
def test_a_run_from_training_to_sampling_without_its_text() -> None:
    Path("a.txt").write_text(TEXT)
    run, result = trained("a.txt", *SMALL, *LEVEL, "--name", "bpe")
    assert "a vocabulary of 60" in result.stderr
    facts = run.facts
    assert (run.task.unit, len(facts["vocabulary"]["symbols"])) == ("tokens", 60)
    metrics = run.metrics()
    ratio = facts["characters_per_symbol"]["valid"]
    assert ratio > 1.5
    assert metrics["bits_per_character"] == pytest.approx(metrics["loss"] / math.log(2) / ratio)
    Path("b.txt").write_text("the fox jumps")
    assert {row.text for row in score(run, ["b.txt"]).surprising_words(9)} == {"fox", "jumps"}
    scored = score(run, ["b.txt"])
    assert "".join(scored.symbols) == "the fox jumps"
    assert scored.bits_per_character == pytest.approx(np.nansum(scored.prediction.bits) / (13 - len(scored.symbols[0])))
    again = CliRunner().invoke(rnn, ["rerun", run.name])
    assert "The weights are identical to those of bpe." in again.stdout
    trained("--resume", run.name, "--steps", "14")
    other, _ = trained("a.txt", "--init-from", run.name, *SMALL, "--name", "other")
    assert Run(other.path).facts["vocabulary"] == facts["vocabulary"]
    table = CliRunner().invoke(rnn, ["eval", run.name]).stdout
    assert "NATS/TOKEN" in table
    assert "2-gram" in table
    os.remove("a.txt")
    for command in (["sample", run.name, "--length", "9", "--prime", "the fo"], ["predict", run.name, "the"],
                    ["score", run.name, "b.txt"], ["eval", run.name, "b.txt"]):  # fmt: skip
        result = CliRunner().invoke(rnn, command)
        assert result.exit_code == 0, result.output
    written = CliRunner().invoke(rnn, ["sample", run.name, "--length", "33", "--seed", "1"]).stdout
    assert len(written.rstrip("\n")) <= 33


@pytest.mark.usefixtures("home")
def test_characters_that_a_network_does_not_know() -> None:
    run, _ = trained("fox.txt", *SMALL, "--level", "bpe:40")
    vocabulary = run.language.vocabulary
    assert vocabulary.decode(vocabulary.encode("the ж fox", "skip")) == "the  fox"
    assert vocabulary.decode(vocabulary.encode("the ж fox", "replace")) == "the   fox"
    with pytest.raises(UserError) as caught:
        vocabulary.encode("the ж fox")
    assert str(caught.value).startswith("the text has 1 character that the model has never seen: 'ж' (U+0436); ")


@pytest.mark.usefixtures("home")
def test_what_it_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = "it must be char, byte, word, or bpe:N with a number of symbols from 2 to 65,536, such as bpe:1000"
    for level in ("bpe", "bpe:", "bpe:1", "bpe:x", "bpe:65537", "bit", "char:3", ""):
        with pytest.raises(ValueError, match=r"level is '.*'; it must be"):
            level_of(level)
    assert refused("fox.txt", "--level", "bit") == f"--level is 'bit'; {expected}"
    assert refused("fox.txt", "--level", "bpe:9") == (
        "--level bpe:9 is a vocabulary of 9, and 'fox.txt' has 28 different characters: give more, such as bpe:1000"
    )
    Path("reviews.tsv").write_text("label\ttext\n" + "a\tgood\nb\tbad\n" * 9)
    assert refused("--task", "classify", "reviews.tsv", "--level", "bpe:99") == (
        "the option 'level' of the task 'classify' must be char, byte or word, and it is 'bpe:99'"
    )
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    assert refused("fox.txt", "--level", "bpe:60") == (
        "--level bpe needs the library tokenizers: pip install 'rnn-lab[bpe]'"
    )
    trained("fox.txt", *SMALL)
