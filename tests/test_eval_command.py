"""``rnn eval``: the model and the baselines predict exactly the same symbols, and every number is of those."""

import bz2
import itertools
import json
import lzma
import math
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from tiny_runs import TEXT, train

import rnn_lab
from minigrad import checkpoint, log_softmax
from rnn_cli.main import rnn
from rnn_lab.evaluation import Evaluation, evaluate
from rnn_lab.paths import BEST
from rnn_lab.retyping import command_of
from rnn_lab.runs import Run, find_run
from rnn_lab.sessions import repeat, resume, start
from rnn_lab.subject import of_run
from rnn_plugins.errors import UserError
from rnn_plugins.language import assessment
from rnn_plugins.language.dynamic import evaluate_dynamically
from rnn_plugins.language.ngrams import NGram
from rnn_plugins.tasks.task import Assessment, Metric, Score


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("eval")
    train(folder, TEXT, "words", level="word")
    train(folder, TEXT.replace("o", "ö"), "bytes", level="byte")
    train(folder, TEXT, "hamlet", newest=True)
    folder.joinpath("other.txt").write_text("not to be, or to be?\n" * 10)
    return folder


@pytest.fixture
def call(folder, monkeypatch):
    """Runs ``rnn eval`` and gives exit code, standard output and standard error."""
    monkeypatch.setenv("RNN_RUNS", str(folder / "runs"))
    monkeypatch.setenv("RNN_LAB_CACHE", str(folder / "cache"))
    monkeypatch.setattr(assessment, "LEAST_COMPRESSED", 1)  # the texts here are short
    monkeypatch.chdir(folder)

    def call(*args, stdin=None):
        result = CliRunner().invoke(rnn, ["eval", "--progress", "none", *args], input=stdin)
        return result.exit_code, result.stdout, result.stderr

    return call


def scores_of(output):
    record = json.loads(output)
    return record, {score["name"]: score for score in record["scores"]}


def model_loss(run, text):
    """Nats of each symbol but the first, one step after another."""
    tokens = run.language.vocabulary.encode(text)
    carry, losses = run.model.init_carry(1), []
    for token, following in itertools.pairwise(tokens):
        carry, logits = run.model.step(run.params(), carry, np.array([token]))
        losses.append(-log_softmax(logits)[0, following])
    return float(np.mean(losses))


def test_without_a_file_the_held_out_end_is_scored(call, folder):
    code, output, said = call("--json")
    assert (code, said) == (0, "")
    record, scores = scores_of(output)
    run = Run(folder / "runs" / "hamlet")
    border = len(TEXT) - len(TEXT) // 10
    held_out, trained_on = TEXT[border:], TEXT[:border]
    assert record["text"] == f"the held-out last 10 % of {folder / 'hamlet.txt'}"
    assert record["symbols"] == record["characters"] == record["bytes"] == len(held_out) - 1
    assert record["words"] == 0
    assert scores["hamlet"]["loss"] == pytest.approx(model_loss(run, held_out), abs=1e-5)
    encode = run.language.vocabulary.encode
    for order in range(1, 7):
        model = NGram(order, len(run.language.vocabulary)).fit(encode(trained_on))
        same = model.cross_entropies(encode(held_out)[1:], context=encode(held_out)[:1])[-1]
        assert scores[f"{order}-gram"]["loss"] == pytest.approx(same)
    new = held_out[1:].encode()
    assert scores["bz2"]["bits_per_byte"] == pytest.approx(8 * len(bz2.compress(new)) / len(new))
    assert scores["xz"]["bits_per_byte"] == pytest.approx(8 * len(lzma.compress(new)) / len(new))
    added = len(lzma.compress(trained_on.encode() + new)) - len(lzma.compress(trained_on.encode()))
    assert scores["primed xz"]["bits_per_byte"] == pytest.approx(8 * added / len(new))
    assert [score["kind"] for score in record["scores"]] == ["model"] + 6 * ["ngram"] + 4 * ["compressor"]
    for score in scores.values():
        assert score["perplexity"] == pytest.approx(math.exp(score["loss"]))
        assert score["bits_per_character"] == pytest.approx(score["loss"] / math.log(2))
        assert score["perplexity_per_word"] is None


def test_the_table_has_the_best_first_and_says_it_in_words(call):
    code, output, said = call()
    assert (code, said) == (0, "")
    lines = output.splitlines()
    assert re.fullmatch(r"hamlet on the held-out last 10 % of .*hamlet\.txt: 101 characters predicted", lines[0])
    assert lines[2].split() == ["NATS/CHAR", "PERPLEXITY", "BITS/CHAR", "BITS/BYTE"]
    rows = [line.split() for line in lines[3:14]]
    losses = [float(row[-4]) for row in rows]
    assert losses == sorted(losses)
    assert {" ".join(row[:-4]) for row in rows} == {
        "the model", "bz2", "xz", "primed bz2", "primed xz", *(f"{n}-gram" for n in range(1, 7))
    }  # fmt: skip
    assert re.fullmatch(
        r"The \d-gram beats the model by \d\.\d\d nats per character: it has learnt less than counting does\. "
        r"Primed (xz|bz2) beats the model by \d\.\d\d bits per byte\.",
        " ".join(lines[15:]),
    )


def test_a_file_is_scored_by_the_newest_run_or_the_one_named(call, folder):
    newest, named, other = (
        call(*args, "--json")[1] for args in (["other.txt"], ["hamlet", "other.txt"], ["bytes", "other.txt"])
    )
    assert newest == named
    assert json.loads(named)["text"] == "other.txt"
    assert json.loads(other)["run"] == "bytes"
    text = folder.joinpath("other.txt").read_text().replace("?", " ")
    run = Run(folder / "runs" / "hamlet")
    assert scores_of(named)[1]["hamlet"]["loss"] == pytest.approx(model_loss(run, text), abs=1e-5)


def test_standard_input_a_run_by_its_folder_and_several_files(call, folder):
    text = folder.joinpath("other.txt").read_text()
    piped = json.loads(call("-", "--json", stdin=text)[1])
    assert piped["text"] == "-"
    assert piped["scores"] == json.loads(call("runs/hamlet", "other.txt", "--json")[1])["scores"]
    twice = json.loads(call("other.txt", "other.txt", "--json")[1])
    assert twice["symbols"] == 2 * len(text) - 1


def test_unseen_characters_are_said(call):
    code, _, said = call("other.txt")
    assert code == 0
    assert (
        said == "Note: 'other.txt' has 1 character that the model has never seen, read as ' ' at 10 positions: '?'.\n"
    )
    assert "left out at 10 positions" in call("other.txt", "--unknown", "skip")[2]
    assert call("other.txt", "--unknown", "error") == (
        2,
        "",
        "Error: 'other.txt' has 1 character that the model has never seen: '?'; --unknown skip leaves them out, "
        "--unknown replace puts ' ' in their place\n",
    )


def test_the_training_text_itself_is_noted(call):
    code, _, said = call("hamlet", "hamlet.txt")
    assert code == 0
    assert said == (
        "Note: These are all the data that the run was trained on, so the numbers say how well they are remembered; "
        "rnn eval hamlet scores the held-out ones alone.\n"
    )


def test_a_part_of_the_training_text_is_noted_and_nothing_held_out_is_promised(call, folder):
    folder.joinpath("part.txt").write_text(TEXT[10:300])
    stands = (
        "Note: These examples are among those that the run was trained on, so the numbers say how well they are "
        "remembered"
    )
    assert call("hamlet", "part.txt")[2] == f"{stands}; rnn eval hamlet scores the held-out ones alone.\n"
    assert "remembered" not in call("hamlet", "other.txt")[2]
    train(folder, TEXT[:-1], "whole", steps=1, valid_fraction=0.0)
    assert call("whole", "part.txt")[2] == f"{stands}.\n"
    assert call("whole", "whole.txt")[2].endswith("trained on, so the numbers say how well they are remembered.\n")
    assert call("whole")[2] == "Error: the run 'whole' has no held-out data; name a FILE to evaluate on\n"


def test_words_have_a_perplexity_of_their_own(call):
    record, scores = scores_of(call("words", "other.txt", "--json")[1])
    pieces = re.findall(r"\w+|\n|[^\w\n]", ("not to be, or to be?\n" * 10).replace("?", "\0"))[1:]
    assert record["symbols"] == len(pieces)
    assert record["words"] == sum(piece[0].isalpha() or piece == "\0" for piece in pieces)  # <unk> counts as a word
    assert record["characters"] == sum(len(piece) if piece != "\0" else len("<unk>") for piece in pieces)
    model = scores["words"]
    nats = model["loss"] * record["symbols"]
    assert model["perplexity_per_word"] == pytest.approx(math.exp(nats / record["words"]))
    assert model["nats_per_character"] == pytest.approx(nats / record["characters"])
    assert model["bits_per_character"] == pytest.approx(nats / math.log(2) / record["characters"])
    table = call("words", "other.txt")[1]
    assert "NATS/TOKEN  NATS/CHAR  PERPLEXITY  PPL/WORD  BITS/CHAR  BITS/BYTE" in table
    assert "tokens predicted" in table


def test_bytes_are_fewer_than_characters(call):
    record, scores = scores_of(call("bytes", "--json")[1])
    assert record["characters"] < record["bytes"] == record["symbols"]
    model = scores["bytes"]
    assert model["bits_per_byte"] == pytest.approx(model["loss"] / math.log(2))
    assert model["bits_per_character"] == pytest.approx(model["bits_per_byte"] * record["bytes"] / record["characters"])
    assert "NATS/BYTE" in call("bytes")[1]


def test_a_training_text_that_is_gone_or_has_changed(call, folder):
    train(folder, TEXT, "moved", steps=1)
    folder.joinpath("moved.txt").write_text(TEXT[::-1])
    why = f"the data of the run 'moved' are not what they were: {folder / 'moved.txt'} has changed since"
    code, output, said = call("moved", "other.txt", "--unknown", "skip", "--json")
    assert code == 0
    assert said.splitlines()[-1] == f"Note: {why[0].upper()}{why[1:]}; so there are no baselines of it to compare with."
    record, scores = scores_of(output)
    assert list(scores) == ["moved", "bz2", "xz"]
    assert len(record["verdict"]) == 1
    assert call("moved") == (2, "", f"Error: {why}; give a FILE to evaluate on\n")
    folder.joinpath("moved.txt").unlink()
    assert call("moved")[2].startswith(
        "Error: the data of the run 'moved' are not what they were: there is no file or folder "
        f"'{folder / 'moved.txt'}'"
    )


def test_a_text_that_came_through_standard_input(call, folder, monkeypatch):
    run = train(folder, TEXT, "piped", steps=1)
    manifest = run.manifest
    manifest["settings"]["files"] = manifest["data"]["sources"] = ["-"]
    run.update()
    assert call("piped") == (
        2,
        "",
        "Error: the data of the run 'piped' are not what they were: they came through a pipe and were not saved; "
        "give a FILE to evaluate on\n",
    )


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nothing"], "'nothing' is neither a file nor a run: there is no run called 'nothing' in {runs}. There are "),
        (["hamlett"], "'hamlett' is neither a file nor a run: there is no run called 'hamlett' in {runs}. Did you"),
        (["hamlett", "other.txt"], "there is no run called 'hamlett' in {runs}. Did you mean 'hamlet'?"),
        (["hamlet", "gone.txt"], "there is no file or folder 'gone.txt'; "),
        (["one.txt"], "one.txt has only one character; expected at least two, since the first is not predicted"),
        (["all"], "the run 'all' has no held-out data; name a FILE to evaluate on"),
    ],
)
def test_mistakes_are_sentences(call, folder, args, message):
    folder.joinpath("one.txt").write_text("t")
    if args == ["all"]:
        train(folder, TEXT, "all", steps=1, valid_fraction=0.0)
    code, output, said = call(*args)
    assert (code, output) == (2, "")
    assert said.startswith("Error: " + message.format(runs=folder / "runs"))
    assert said.count("\n") == 1


def test_weights_that_are_no_numbers(call, folder):
    run = train(folder, TEXT, "broken", steps=1)
    params, notes = checkpoint.load(run.path / BEST)
    params["head"]["b"] = np.full_like(params["head"]["b"], np.nan)
    checkpoint.save(run.path / BEST, params, notes)
    assert call("broken", "other.txt", "--unknown", "skip")[2] == (
        "Error: the loss of the run 'broken' on other.txt is nan: its training went wrong\n"
    )


def test_a_short_text_is_not_compared_with_compressors(monkeypatch, call):
    monkeypatch.setattr(assessment, "LEAST_COMPRESSED", 210)
    _, output, said = call("other.txt", "--unknown", "skip")
    assert "Note: 199 bytes are too few to compare with compressors, whose own headers weigh more than that.\n" in said
    assert "5-gram" in output
    assert "bz2" not in output


def test_a_long_training_text_is_counted_in_part(folder, monkeypatch, call):
    monkeypatch.setattr(assessment, "MOST_COUNTED", 200)
    _, output, said = call("--json")
    assert said == "Note: The n-grams are counted on the last 200 symbols of the training text.\n"
    border = len(TEXT) - len(TEXT) // 10
    encode = Run(folder / "runs" / "hamlet").language.vocabulary.encode
    counted = NGram(2, int(encode(TEXT).max()) + 1).fit(encode(TEXT[border - 200 : border]))
    held_out = encode(TEXT[border:])
    expected = counted.cross_entropies(held_out[1:], held_out[:1])[-1]
    assert scores_of(output)[1]["2-gram"]["loss"] == pytest.approx(expected)


def score(name, kind, loss):
    return Score(name, kind, {"loss": loss, "bits_per_byte": loss / math.log(2)})


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (1.5, ["The model beats the 5-gram, the best of the n-grams, by 0.17 nats per character.",
               "The model beats primed bz2 by 0.72 bits per byte."]),
        (1.672, ["The model is level with the 5-gram: it has learnt as much as counting does.",
                 "The model beats primed bz2 by 0.47 bits per byte."]),
        (2.1, ["The 5-gram beats the model by 0.43 nats per character: it has learnt less than counting does.",
               "Primed bz2 beats the model by 0.14 bits per byte."]),
    ],
)  # fmt: skip
def test_the_comparison_in_words(loss, expected):
    scores = (
        score("run", "model", loss),
        score("4-gram", "ngram", 1.774),
        score("5-gram", "ngram", 1.669),
        score("6-gram", "ngram", 1.698),
        score("bz2", "compressor", 2.5),
        score("primed bz2", "compressor", 2.0),
    )
    assert assessment.verdict(scores, "character", 0.0, "char") == expected


def test_a_perplexity_beyond_all_numbers_is_null_in_json():
    huge = Score("run", "model", {"loss": 800.0, "perplexity": math.inf})
    record = Evaluation("run", "a text", Assessment((huge,), {}, 1, "characters"), "loss", ()).to_json()
    assert record["scores"][0]["perplexity"] is None
    assert record["verdict"] == []


def test_the_five_gram_on_tinyshakespeare(data, tmp_path, call, monkeypatch):
    text = data.joinpath("tinyshakespeare.txt").read_bytes()
    train(tmp_path, text, "shakespeare", hidden_size=2, steps=1, batch_size=1, seq_length=2)
    monkeypatch.setenv("RNN_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("RNN_LAB_CACHE", str(tmp_path / "cache"))
    _, scores = scores_of(call("--json")[1])
    assert round(scores["5-gram"]["loss"], 3) == 1.669
    assert min(scores[f"{n}-gram"]["loss"] for n in range(1, 7)) == scores["5-gram"]["loss"]


@pytest.mark.parametrize("change", ["longer", "a pipe", "a device"])
def test_a_recorded_text_is_read_to_its_recorded_end_and_no_pipe_is_waited_for(tmp_path, monkeypatch, change):
    monkeypatch.setenv("RNN_LAB_CACHE", str(tmp_path / "cache"))
    run = train(tmp_path, TEXT, "endless")
    source = tmp_path / "endless.txt"
    source.unlink()
    if change == "longer":
        with source.open("wb") as file:
            file.truncate(2**40)  # of which nothing is on disk, and all would be read
    elif change == "a pipe":
        os.mkfifo(source)
    else:
        source.symlink_to("/dev/zero")
    what = f"has more than the {len(TEXT):,} bytes that it had" if change == "longer" else f"is {change}"
    with pytest.raises(UserError) as caught:
        evaluate(run)
    assert str(caught.value).startswith(f"the data of the run 'endless' are not what they were: {str(source)!r} {what}")


@pytest.fixture
def names(tmp_path, call, monkeypatch):
    """A run of another task."""
    monkeypatch.setenv("RNN_RUNS", str(tmp_path / "runs"))
    for language, syllables in (("Italian", ["ri", "no", "la"]), ("Russian", ["vsk", "iy", "ov"])):
        some = ("".join(syllables[i // 3**place % 3] for place in range(4)) for i in range(60))
        tmp_path.joinpath(f"{language}.txt").write_text("\n".join(some))
    files = tuple(str(tmp_path / f"{language}.txt") for language in ("Italian", "Russian"))
    task = f"{Path(__file__).parent / 'names_task.py'}:Names"
    session = start({"task": task, "files": files, "hidden_size": 4, "steps": 20, "seed": 1}, name="names")
    for _ in session.trainer.events():
        pass
    session.run.release()
    return session.run


def test_a_run_of_another_task_is_measured_in_its_metrics(call, names):
    code, output, said = call("names")
    assert (code, said) == (0, "")
    files = ", ".join(names.settings.files)
    best = names.manifest["best"]["metrics"]
    lines = output.splitlines()
    assert lines[0] == f"names on the held-out part of {files}: 12 names predicted"
    assert lines[2].split() == ["NATS", "ACCURACY"]
    assert lines[3].split() == ["the", "model", f"{best['loss']:.3f}", f"{best['accuracy']:.3f}"]
    record, scores = scores_of(call("names", names.settings.files[0], "--json")[1])
    assert scores.keys() == {"names"}
    Path("Italian.txt").write_text("rinola")
    assert call("names", "Italian.txt")[1].startswith("names on Italian.txt: 1 name predicted\n")
    assert scores["names"].keys() == {"name", "kind", "loss", "accuracy"}
    assert record["verdict"] == []


@pytest.mark.parametrize("files", [False, True])
def test_what_becomes_of_the_unknown_is_no_question_of_a_task_without_it(call, names, files):
    assert call("names", *(names.settings.files[:1] if files else ()), "--unknown", "skip") == (
        2,
        "",
        f"Error: the task {names.settings.task!r} has no option called 'unknown'. Its options: valid_fraction, lower\n",
    )


def test_dynamic_evaluation_has_a_row_of_its_own(call, folder):
    record, scores = scores_of(call("hamlet", "--dynamic", "--json")[1])
    run = find_run("hamlet")
    own, _ = run.data()
    loss = evaluate_dynamically(run.model, run.params(), own.valid, own.train)
    found = scores["dynamic"]
    assert found["kind"] == "dynamic"
    assert (found["loss"], found["bits_per_character"]) == pytest.approx((loss, loss / math.log(2)), rel=1e-6)
    assert scores["hamlet"]["loss"] == scores_of(call("hamlet", "--json")[1])[1]["hamlet"]["loss"]
    gain = scores["hamlet"]["loss"] - loss
    said = f"{'lowers' if gain > 0 else 'raises'} the loss by {abs(gain):.3f} nats per character"
    assert rnn_lab.load("hamlet").evaluate(dynamic=True)["loss"] == pytest.approx(loss, rel=1e-6)
    assert record["verdict"][0] == f"Learning from the text while it is predicted (dynamic evaluation) {said}."


def test_options_of_the_evaluation_are_not_of_the_run(call, folder):
    run = find_run("hamlet")
    assert "dynamic" not in run.manifest["settings"]["task_option"]
    assert call("hamlet", "--task-option", "dynamic=true", "--json") == call("hamlet", "--dynamic", "--json")


@pytest.mark.parametrize("value", [False, True])
def test_a_run_that_recorded_an_option_of_the_evaluation_goes_on(call, folder, value):
    """As runs did for a while."""
    run, name = find_run("hamlet"), f"recorded {value}"
    recorded = json.loads((run.path / "run.json").read_text())
    recorded["settings"]["task_option"]["dynamic"] = value
    shutil.copytree(run.path, run.path.parent / name)
    (run.path.parent / name / "run.json").write_text(json.dumps(recorded))
    older = find_run(name)
    assert older.task == run.task
    assert "dynamic" not in command_of(older)
    source = {"files": older.settings.files, "task_option": {"seq_length": older.task.seq_length}}
    prepare = (
        lambda given: resume(older, {"steps": older.manifest["step"] + 1} | given),
        lambda given: start(source | given, init_from=older),
        lambda given: start(source | given),
        lambda _: repeat(older),
    )
    for one in prepare:
        session = one({})
        session.run.release()
        assert session.problem.task == run.task
    for one, given in itertools.product(prepare[:-1], ("true", "false")):
        with pytest.raises(
            UserError, match=r"^the option 'dynamic' of the task 'language-model' is for rnn eval alone"
        ):
            one({"task_option": {"dynamic": given}})


def test_dynamic_evaluation_of_a_run_whose_text_is_gone(call, folder):
    train(folder, TEXT, "lost", steps=1)
    folder.joinpath("lost.txt").unlink()
    assert call("lost", "other.txt", "--unknown", "skip", "--dynamic") == (
        2,
        "",
        "Error: dynamic evaluation measures gradients on the training text of the run 'lost', which is gone or has "
        "changed: put it back, or leave --dynamic out\n",
    )


def test_dynamic_evaluation_is_of_texts(call, names):
    assert call("names", "--dynamic")[2].startswith(
        f"Error: the task {names.settings.task!r} has no option called 'dynamic'"
    )


def test_the_best_score_is_the_first_row_in_the_direction_of_its_metric():
    metrics = {"loss": Metric("nats", "min"), "accuracy": Metric("", "max")}
    scores = (
        Score("a", "model", {"loss": 0.9, "accuracy": 0.1}),
        Score("b", "baseline", {"loss": None, "accuracy": 0.9}),
        Score("c", "baseline", {"loss": 0.1}),
    )
    found = Assessment(scores, metrics, 1, "names")
    for metric, order in (("loss", "cab"), ("accuracy", "bac")):
        assert "".join(score.name for score in Evaluation("a", "", found, metric, ()).ranked()) == order


PICTURED = """
from names_task import Names
from rnn_plugins.tasks import metrics
from rnn_plugins.tasks.task import Metric, Score
from dataclasses import dataclass, replace
import numpy as np


@dataclass(frozen=True)
class Pictured(Names):
    kept: int = 0  # classes of which there are pictures

    of_weights = ("lower",)

    def assess(self, model, params, data, *, name, training=None):
        found = super().assess(model, params, data, name=name, training=training)
        true = np.array([label for _, label in data.valid])
        labels = data.facts["labels"]
        scores = (*found.scores, Score("the commonest class", "baseline", {"accuracy": 0.25}))
        figures = (metrics.per_class(true, true, labels), metrics.confusion(true, true, labels))
        verdict = metrics.verdict(scores, "accuracy", Metric("", "max"))
        return replace(found, scores=scores, figures=figures[self.kept :], verdict=verdict)
"""


@pytest.fixture
def pictured(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RNN_RUNS", "runs")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.syspath_prepend(Path(__file__).parent)
    Path("pictured.py").write_text(PICTURED)
    Path("Italian.txt").write_text("Rossi\nRusso\nFerrari\nEsposito\nBianchi\nRomano\nColombo\nRicci\nMarino\nGreco\n")
    Path("Russian.txt").write_text(
        "Ivanov\nSmirnov\nPopov\nPetrov\nSokolov\nLebedev\nKozlov\nNovikov\nMorozov\nVolkov\n"
    )
    small = {"hidden_size": 6, "steps": 60, "seed": 1, "learning_rate": 0.03}
    return rnn_lab.train(["Italian.txt", "Russian.txt"], task="./pictured.py:Pictured", name="names", **small)


def test_a_tasks_pictures_are_drawn_and_written(pictured):
    result = CliRunner().invoke(rnn, ["eval", "names", "--html", "page.html", "--progress", "none"])
    assert (result.exit_code, result.stderr) == (0, "Written: page.html\n")
    accuracy = pictured.evaluate()["accuracy"]
    assert (
        result.stdout.split("\n\n", 1)[1]
        == f"""                      NATS  ACCURACY
the model            {pictured.evaluate()["loss"]:.3f}     {accuracy:.3f}
the commonest class            0.250

Metrics by class
CLASS    COUNT  PREDICTED  PRECISION  RECALL      F1
────────────────────────────────────────────────────
Italian      1          1     1.0000  1.0000  1.0000
Russian      1          1     1.0000  1.0000  1.0000

Confusion matrix
true class
Italian │@@@@@@@@........
Russian │........@@@@@@@@
        └────────────────
         Italian Russian
         predicted class
         0 ..::--==++**##%%@@ 1  share of the true class

The network's accuracy, {accuracy:.3f}, is better than that of the commonest class
(0.250).
"""
    )
    page = Path("page.html").read_text()
    assert "<h1>Evaluation of names</h1>" in page
    assert "How well does names predict the held-out part of" in page
    assert [page.index(title) for title in ("Scores", "Metrics by class", "Confusion matrix")] == sorted(
        page.index(title) for title in ("Scores", "Metrics by class", "Confusion matrix")
    )
    assert "is better than that of the commonest class" in page
    scores = re.search(r">Scores</h3>.*?</table>", page, re.DOTALL)[0]
    own = [f"{pictured.evaluate()['loss']:.3f}", f"{accuracy:.3f}"]
    assert re.findall(r"<td>([^<]+)</td>", scores)[:2] == own
    record = json.loads(CliRunner().invoke(rnn, ["eval", "names", "--json"]).stdout)
    assert [figure["key"] for figure in record["figures"]] == ["classes", "confusion"]
    assert record["figures"][1]["values"] == [[1.0, 0.0], [0.0, 1.0]]


def test_an_option_of_the_task_changes_the_evaluation(pictured):
    result = CliRunner().invoke(rnn, ["eval", "names", "--task-option", "kept=2"])
    assert result.exit_code == 0
    assert "Confusion" not in result.stdout
    result = CliRunner().invoke(rnn, ["eval", "names", "--task-option", "lower=true"])
    assert (result.exit_code, result.stderr) == (
        2,
        "Error: --task-option lower is true, and the weights of the run 'names' are for false: leave it out\n",
    )


def test_what_was_measured_is_named_as_it_was_given(pictured):
    small = {"hidden_size": 4, "steps": 4, "seed": 1}
    files = [f"{name}.txt" for name in ("a", "b", "c", "d", "e")]
    for file in files:
        Path(file).write_text(Path("Italian.txt").read_text())
    rnn_lab.train(files, task="./pictured.py:Pictured", name="many", **small)
    Path("other").mkdir()
    Path("other/a.txt").write_text("Bianchi\n")
    rnn_lab.train(files, task="./pictured.py:Pictured", name="given", valid=("other/a.txt",), **small)
    assert evaluate(Run(Path("runs/many"))).source == "the held-out part of a.txt, b.txt, c.txt, 2 more"
    assert evaluate(Run(Path("runs/given"))).source == str(Path("other/a.txt").resolve())
    for name, where in (("many", "the held-out part of a.txt, b.txt, c.txt, 2 more"), ("given", "other/a.txt")):
        assert f"{where} (" in of_run(Run(Path("runs", name))).about
