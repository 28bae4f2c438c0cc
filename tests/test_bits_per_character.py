"""Bits per character: the same figure wherever a run's loss is told, that of the symbols that were predicted."""

import json
import math
import re

import pytest
from click.testing import CliRunner
from tiny_runs import TEXT, train

from rnn_cli.display import losses
from rnn_cli.main import rnn
from rnn_cli.train import result
from rnn_lab import sessions
from rnn_lab.comparison.comparison import compare, read
from rnn_lab.runs import Run
from rnn_plugins.data.corpus import load_corpus, split

MANY_WORDS = " ".join(f"w{n}" for n in range(12_000))  # 2,000 more than a word vocabulary has
RUSSIAN = "В начале было слово. In the beginning was the word\n" * 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bits")
    train(folder, TEXT, "chars")
    train(folder, RUSSIAN, "bytes", level="byte")
    train(folder, TEXT, "words", level="word")
    train(folder, MANY_WORDS, "rare", level="word", hidden_size=2, steps=2)
    train(folder, MANY_WORDS, "spelt", steps=2)
    folder.joinpath("spelt.txt").unlink()
    train(folder, TEXT, "all", valid_fraction=0)
    train(folder, TEXT[:11], "single", steps=2)  # of which one symbol is held out, and none predicted
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RNN_RUNS", str(folder / "runs"))
        patch.setenv("RNN_LAB_CACHE", str(folder / "cache"))
        given = {"files": (str(folder / "bytes.txt"),), "unknown": "skip", "steps": 5, "seed": 1}
        for _ in sessions.start(given, name="foreign", init_from=Run(folder / "runs" / "chars")).trainer.events():
            pass
    return folder


@pytest.fixture
def call(folder, monkeypatch):
    """Runs ``rnn`` and gives standard output and standard error."""
    monkeypatch.setenv("RNN_RUNS", str(folder / "runs"))
    monkeypatch.setenv("RNN_LAB_CACHE", str(folder / "cache"))
    monkeypatch.chdir(folder)

    def call(*args):
        result = CliRunner().invoke(rnn, args)
        assert result.exit_code == 0, result.output
        return result.stdout, result.stderr

    return call


@pytest.mark.parametrize("name", ["chars", "bytes", "words", "rare", "foreign"])
def test_training_lists_comparisons_and_evaluation_say_the_same(call, folder, name):
    run = Run(folder / "runs" / name)
    corpus = load_corpus(run.settings.files, vocabulary=run.vocabulary, unknown=run.settings.unknown)
    predicted = split(corpus)[1][1:]
    nats = run.manifest["best"]["loss"]
    expected = nats * len(predicted) / math.log(2) / run.vocabulary.measure(predicted)[0]
    score = json.loads(call("eval", name, "--json")[0])["scores"][0]
    assert score["loss"] == pytest.approx(nats, rel=1e-5)
    assert score["bits_per_character"] == pytest.approx(expected, rel=1e-5)
    session = sessions.resume(run, {})
    run.release()
    assert f" nats ({expected:.3f} bits a character) held out, at step " in result(session)
    assert session.outcome()["bits_per_character"] == pytest.approx(expected)
    assert run.summary().bits == pytest.approx(expected)
    assert read(run).bits == pytest.approx(expected)
    assert read(run).curve[2].min() == pytest.approx(expected)
    assert re.search(rf"^{name} .* {expected:.3f} ", call("runs")[0], re.MULTILINE)
    folder.joinpath("end.txt").write_text(run.vocabulary.decode(split(corpus)[1]))
    of_file = json.loads(call("eval", name, "end.txt", "--json")[0])["scores"][0]["bits_per_character"]
    scored = json.loads(call("score", name, "end.txt", "--json")[0])["bits_per_character"]
    assert scored == pytest.approx(of_file, rel=1e-4)


def test_a_loss_of_the_training_text_is_of_its_characters(folder, monkeypatch):
    words, everything = (Run(folder / "runs" / name) for name in ("words", "all"))
    corpus = load_corpus(words.settings.files, vocabulary=words.vocabulary)
    training = split(corpus)[0][1:]
    share = len(words.vocabulary.decode(training)) / len(training)
    assert words.bits(1.0, training=True) == pytest.approx(1 / math.log(2) / share) != words.bits(1.0)
    assert everything.bits(1.0) == everything.bits(1.0, training=True) == pytest.approx(1 / math.log(2))
    session = sessions.resume(words, {})
    words.release()
    assert losses(session, 1.0, training=True) == f"1.000 nats ({1 / math.log(2) / share:.3f} bits a character)"


def test_a_single_symbol_that_is_held_out_makes_no_held_out_loss(folder):
    single = Run(folder / "runs" / "single")
    assert single.manifest["data"]["held_out"] == 1
    assert not single.held_out
    assert not single.summary().held_out
    session = sessions.resume(single, {})
    single.release()
    assert " on the training text, at step 2" in result(session)


def test_a_run_of_an_older_version_has_the_ratio_of_its_whole_text(folder):
    run = Run(folder / "runs" / "bytes")
    data = run.manifest["data"]
    del data["characters_per_symbol"]
    assert run.bits(1.0) == pytest.approx(data["symbols"] / data["characters"] / math.log(2))


def test_with_many_unknown_words_there_is_no_verdict_between_words_and_characters(call, folder):
    rare, spelt = (Run(folder / "runs" / name) for name in ("rare", "spelt"))
    share = rare.unknown
    assert 0.1 < share < 0.2
    assert compare({"rare": [rare], "spelt": [spelt]}).verdict[""] == (
        f"No verdict, because the comparison is not fair: {100 * share:.1f} % of the words are unknown to the run "
        "'rare', so its bits per character are not those of the text as it is written.",
    )
    assert compare({"one": [rare], "other": [rare]}).verdict[""][0].startswith("The lowest loss is that of one")
    words = (
        f"No verdict on compressors: {100 * share:.1f} % of the words are unknown to the model, so bits per character "
        "and byte are not those of the text as it is written."
    )
    assert words in " ".join(call("eval", "rare")[0].split())
    words, chars = (Run(folder / "runs" / name) for name in ("words", "chars"))
    assert compare({"words": [words], "chars": [chars]}).verdict[""][0].startswith("The lowest loss is that of words")
