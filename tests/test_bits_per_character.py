"""Nats and bits per character: the same wherever a run's loss is shown, those of the predicted symbols."""

import json
import math
import re

import pytest
from click.testing import CliRunner
from tiny_runs import TEXT, train

from rnn_cli.display import measured
from rnn_cli.main import rnn
from rnn_cli.training import result
from rnn_lab import sessions
from rnn_lab.comparison.comparison import compare
from rnn_lab.comparison.trials import read
from rnn_lab.paths import MANIFEST
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
    vocabulary = run.language.vocabulary
    corpus = load_corpus(run.settings.files, vocabulary=vocabulary, unknown=run.task.unknown)
    predicted = split(corpus)[1][1:]
    nats = run.manifest["best"]["metrics"]["loss"]
    expected = nats * len(predicted) / math.log(2) / vocabulary.measure(predicted)[0]
    score = json.loads(call("eval", name, "--json")[0])["scores"][0]
    assert score["loss"] == pytest.approx(nats, rel=1e-5)
    assert score["bits_per_character"] == pytest.approx(expected, rel=1e-5)
    session = sessions.resume(run, {})
    run.release()
    told = f"{expected:.3f} bits per character"
    if run.task.level != "char":
        told = f"{expected * math.log(2):.3f} nats per character, {told}"
    assert f": {nats:.3f} nats ({told}) held out, at step " in result(session)
    assert session.outcome()["bits_per_character"] == pytest.approx(expected)
    assert run.summary().metrics["bits_per_character"] == pytest.approx(expected)
    for metrics in (score, session.outcome(), run.summary().metrics):
        assert metrics["nats_per_character"] == pytest.approx(expected * math.log(2), rel=1e-5)
    assert read(run).metrics["bits_per_character"] == read(run).value == pytest.approx(expected)
    assert read(run).curve[2].min() == pytest.approx(expected)
    assert re.search(rf"^{name} .* {expected:.3f} ", call("runs")[0], re.MULTILINE)
    folder.joinpath("end.txt").write_text(vocabulary.decode(split(corpus)[1]))
    of_file = json.loads(call("eval", name, "end.txt", "--json")[0])["scores"][0]["bits_per_character"]
    scored = json.loads(call("score", name, "end.txt", "--json")[0])["bits_per_character"]
    assert scored == pytest.approx(of_file, rel=1e-4)


def test_a_loss_of_the_training_text_is_of_its_characters(folder, monkeypatch):
    words, everything = (Run(folder / "runs" / name) for name in ("words", "all"))
    vocabulary = words.language.vocabulary
    training = split(load_corpus(words.settings.files, vocabulary=vocabulary))[0][1:]
    share = len(vocabulary.decode(training)) / len(training)

    def bits(run, part=None):
        return run.metrics({"loss": 1.0}, part)["bits_per_character"]

    assert bits(words, "train") == pytest.approx(1 / math.log(2) / share) != bits(words)
    assert bits(everything) == bits(everything, "train") == pytest.approx(1 / math.log(2))
    session = sessions.resume(words, {})
    words.release()
    told = f"1.000 nats ({1 / share:.3f} nats per character, {1 / math.log(2) / share:.3f} bits per character)"
    assert measured(session.run, {"loss": 1.0}, "train") == told


def test_a_single_symbol_that_is_held_out_makes_no_held_out_loss(folder):
    single = Run(folder / "runs" / "single")
    assert (single.manifest["data"]["train"], single.manifest["data"]["valid"]) == (10, 0)
    assert not single.held_out
    assert not single.summary().held_out
    session = sessions.resume(single, {})
    single.release()
    assert " on the training data, at step 2" in result(session)


def older_manifest(manifest):
    """What the oldest versions wrote of a run."""
    settings, facts, data = (dict(manifest[key]) for key in ("settings", "facts", "data"))
    task, options = settings.pop("task"), settings.pop("task_option")
    new = ("task", "settings", "facts", "data", "metrics", "best")
    return {key: value for key, value in manifest.items() if key not in new} | {
        "task": task,
        "settings": settings | options,
        "vocabulary": facts["vocabulary"],
        "data": {
            "sources": data["sources"],
            **facts["text"],
            "symbols": data["train"] + data["valid"],
            "held_out": data["valid"],
        },
    }


def test_a_run_of_an_older_version_has_the_ratio_of_its_whole_text(folder, tmp_path):
    run = Run(folder / "runs" / "bytes")
    manifest = older_manifest(run.manifest)
    (tmp_path / "bytes").mkdir()
    (tmp_path / "bytes" / MANIFEST).write_text(json.dumps(manifest))
    ratio = manifest["data"]["symbols"] / manifest["data"]["characters"]
    found = Run(tmp_path / "bytes").metrics({"loss": 1.0})["bits_per_character"]
    assert found == pytest.approx(ratio / math.log(2))


def test_with_many_unknown_words_there_is_no_verdict_between_words_and_characters(call, folder):
    rare, spelt = (Run(folder / "runs" / name) for name in ("rare", "spelt"))
    share = rare.facts["unknown"]
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
    page = compare({"chars": [chars], "words": [words]})
    assert page.verdict[""][0].startswith("The lowest loss is that of words")
    for run in (chars, words):
        values = {quantity.key: quantity.value for quantity in page.quantities[run.name]}
        assert values["nats_per_character"] == pytest.approx(run.metrics()["nats_per_character"])
    assert page.figures[-1].heads[2:5] == ("nats", "nats per character", "bits per character")
    alone = compare({"chars": [chars], "spelt": [spelt]})
    assert "nats_per_character" not in {quantity.key for quantity in alone.quantities["chars"]}
