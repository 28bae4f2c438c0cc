"""A third-party task, names to languages, with every command."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import adding_task
import names_task
import numpy as np
import pytest
from click.testing import CliRunner, Result
from command_line import SMALL, refused, settle, timeless, train, trained
from test_documentation import blocks, commands

import rnn_lab
from minigrad import trees
from rnn_cli.main import rnn
from rnn_lab.comparison.comparison import compare, group
from rnn_lab.runs import Run
from rnn_plugins.testing import check_task

ITALIAN = """Rossi Russo Ferrari Esposito Bianchi Romano Colombo Ricci Marino Greco Bruno Gallo Conti De Costa Giordano
Mancini Rizzo Lombardi Moretti Barbieri Fontana Santoro Mariani Rinaldi Caruso Ferrara Galli Martini Leone Longo"""
CZECH = """Novak Svoboda Novotny Dvorak Cerny Prochazka Kucera Vesely Horak Nemec Marek Pospisil Pokorny Hajek Kral
Jelinek Ruzicka Benes Fiala Sedlacek Dolezal Zeman Kolar Krejci Navratil Cermak Urban Vanek Blazek Kriz"""

FILES = ("Italian.txt", "Czech.txt")
NETWORK = ("--hidden-size", "6", "--batch-size", "8", "--seed", "1", "--learning-rate", "0.02")
TRAINED = ("--task", "names", *FILES, *NETWORK, "--steps", "24", "--valid-every", "6", "--log-every", "4")

REFUSED = "Error: names is a run of the task names, which writes no text: rnn predict names FILE\n"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, install: Callable[..., None]) -> None:
    folder = tmp_path / "home"
    folder.mkdir()
    settle(folder, monkeypatch)
    monkeypatch.setenv("COLUMNS", "200")
    Path("Italian.txt").write_text("\n".join(ITALIAN.split()))
    Path("Czech.txt").write_text("\n".join(CZECH.split()))
    source = Path(names_task.__file__).read_text()
    install("rnn-task-names", "1.2", "names = rnn_task_names:Names", "tasks", rnn_task_names=source)


def invoke(*arguments: str) -> Result:
    result = CliRunner().invoke(rnn, arguments)
    assert result.exit_code == 0, result.output
    return result


def names(*more: str) -> Run:
    return trained(*TRAINED, "--name", "names", *more)[0]


def content(run: Run) -> dict[str, Any]:
    """What a run leaves, but for times."""
    weights = {file: (run.path / file).read_bytes() for file in ("last.safetensors", "model.safetensors")}
    return weights | {"records": [timeless(record) | {"units_per_second": 0} for record in run.records()]}


def test_it_keeps_what_a_task_promises():
    check_task(names_task.Names(), FILES).raise_if_failed()
    assert "names passes all 25 checks" in invoke("tasks", "check", "names", *FILES).stdout


def test_it_is_listed_and_shown():
    assert "names           rnn-task-names  1.2      Tell the language of a name" in invoke("tasks").stdout
    shown = invoke("tasks", "show", "names").stdout
    assert "lower           true or false  default false" in shown
    assert "accuracy        higher is better, chooses the weights to keep, compares runs" in shown


def test_it_is_trained_by_its_own_metric():
    run, result = trained(*TRAINED, "--name", "names", "--task-option", "valid_fraction=0.2")
    assert "Italian.txt, Czech.txt: 61 names of 2 languages; 49 names to train on, 12 held out\n" in result.stderr
    assert "names/s" in result.stderr
    advice = "Evaluate it: rnn eval names\nPredict with it: rnn predict names Italian.txt\n"
    assert result.stderr.endswith(advice)
    best = max(record["valid_accuracy"] for record in run.records() if "valid_accuracy" in record)
    assert best > 0.5
    assert result.stdout.startswith(f"runs/names: accuracy {best:.3f} (")
    assert "bits" not in result.output
    manifest = run.manifest
    assert manifest["task"] == {"task": "names", "distribution": "rnn-task-names", "version": "1.2"}
    assert manifest["facts"]["labels"] == ["Czech", "Italian"]
    assert run.settings.task_option == {"valid_fraction": 0.2, "lower": False}


def test_an_interrupted_run_goes_on_bit_for_bit_and_is_repeated():
    whole = names("--dropout", "0.3", "--num-layers", "2")
    for record in rnn_lab.training(name="parts", **whole.settings.to_json()):
        if record["step"] == 8:
            break
    assert Run(Path("runs/parts")).manifest["outcome"] == "interrupted"
    invoke("train", "--resume", "parts")
    assert content(Run(Path("runs/parts"))) == content(whole)
    assert "The weights are identical to those of names." in invoke("rerun", "names", "--name", "again").stdout


def test_its_options_and_names_behind_a_colon_reach_it():
    run = trained("--task", "names:lower=true", *FILES, *NETWORK, "--steps", "2")[0]
    assert not any(symbol.isupper() for symbol in run.facts["symbols"])
    assert run.settings.task_option["lower"] is True


def test_another_run_starts_with_its_weights():
    names()
    run, result = trained("--init-from", "names", *FILES, "--steps", "1", "--track", "tensorboard")
    assert "it starts with the best weights of names" in result.stderr
    assert run.settings.task == "names"
    assert list(run.path.glob("tensorboard/events.out.tfevents.*"))


def test_it_is_evaluated():
    run = names()
    record = json.loads(invoke("eval", "names", "--json").stdout)
    (score,) = record["scores"]
    assert score["accuracy"] == run.metrics()["accuracy"]
    assert "names on the held-out part of Italian.txt, Czech.txt: 6 names predicted" in invoke("eval", "names").stdout
    assert "names on Czech.txt: 30 names predicted" in invoke("eval", "names", "Czech.txt").stdout
    api = rnn_lab.load("names")
    assert api.evaluate() == {"loss": pytest.approx(score["loss"]), "accuracy": score["accuracy"]}
    assert api.evaluate("Czech.txt")["accuracy"] == pytest.approx(
        np.mean([record["language"] == "Czech" for record in api.predict("Czech.txt")])
    )


def test_it_predicts():
    run = rnn_lab.train(FILES, task="names", hidden_size=6, steps=60, seed=1, learning_rate=0.02)
    Path("some.txt").write_text("Rossi\nNovotny\n")
    records = list(run.predict("some.txt"))
    assert [(record["input"], record["language"]) for record in records] == [("Rossi", "Italian"), ("Novotny", "Czech")]
    assert all(0.5 <= record["probability"] <= 1 for record in records)
    assert "accuracy" in run._repr_html_()


def test_runs_of_two_tasks_are_listed_together():
    names()
    trained("fox.txt", *SMALL, "--name", "fox")
    rows = {row["name"]: row for row in json.loads(invoke("runs", "--json").stdout)}
    assert (rows["names"]["task"], rows["fox"]["task"]) == ("names", "language-model")
    texts, words = (table.split() for table in invoke("runs").stdout.split("\n\n"))
    assert (texts[4:6], texts[9]) == (["NATS", "BITS/CHAR"], "fox")
    assert (words[4:6], words[9]) == (["NATS", "ACCURACY"], "names")


def test_a_chart_has_the_curves_of_one_metric():
    held_out = names()
    alone, _ = trained(*TRAINED, "--name", "alone", "--task-option", "valid_fraction=0")
    for runs, drawn in (((held_out, alone), "held-out accuracy"), ((alone, held_out), "loss, nats")):
        charts = compare(group(runs)).figures[:2]
        assert [[curve.label for curve in chart.curves] for chart in charts] == [[runs[0].name]] * 2
        assert charts[0].y_label == drawn


def test_an_epoch_is_shuffled_once(monkeypatch: pytest.MonkeyPatch):
    task, shuffles, make = names_task.Names(), [], np.random.default_rng
    data = task.read(FILES)
    monkeypatch.setattr(np.random, "default_rng", lambda seed: shuffles.append(seed) or make(seed))
    steps = task.steps_per_epoch(data, 8)
    for step in range(2 * steps):
        task.batch(data, step, 8)
    assert shuffles == [(0, 0), (0, 1)]


def test_the_seed_of_a_run_orders_its_examples():
    orders = []
    for seed in (1, 2, 1):
        session = rnn_lab.training(FILES, task="names", hidden_size=4, steps=2, seed=seed)._session
        orders.append(session.problem.batch(0).targets.tolist())
        session.run.release()
    assert orders[0] == orders[2] != orders[1]
    run = rnn_lab.train(FILES, task="names", hidden_size=4, steps=2, seed=2, name="resumed")
    resumed = rnn_lab.training(resume="resumed", steps=3)._session
    assert resumed.problem.batch(0).targets.tolist() == orders[1]
    resumed.run.release()
    assert run.settings["seed"] == 2


def test_runs_of_it_are_compared_by_accuracy():
    names()
    trained(*TRAINED, "--name", "lstm", "--cell", "lstm")
    page = json.loads(invoke("compare", "names", "lstm", "--json", "-").stdout)
    text = json.dumps(page)
    assert "The highest accuracy is that of" in text
    assert "names seen" in text
    result = invoke("compare", "--cell", "gru", "--cell", "rnn", "--task", "names", *FILES, *NETWORK, "--steps", "6")
    assert "Accuracy against names seen" in result.stdout


def test_options_in_which_its_runs_differ_are_told_and_another_share_held_out_is_unfair():
    names()
    trained(*TRAINED, "--name", "lower", "--task-option", "lower=true")
    trained(*TRAINED, "--name", "more", "--valid-fraction", "0.2")
    page = json.loads(invoke("compare", "names", "lower", "--json", "-").stdout)["reports"]["compare"]
    assert "the runs differ in the option lower of their task (false, true)" in page["notices"]
    assert "The highest accuracy is that of" in page["verdict"][""][0]
    page = json.loads(invoke("compare", "names", "more", "--json", "-").stdout)["reports"]["compare"]
    assert page["verdict"][""] == [
        "No verdict, because the comparison is not fair: the runs do not hold out the same share of the data (0.1, "
        "0.2)."
    ]


def test_it_is_not_compared_with_language_models():
    names()
    trained("fox.txt", *SMALL, "--name", "fox")
    result = CliRunner().invoke(rnn, ["compare", "fox", "names"])
    assert result.exit_code == 2
    assert result.stderr.endswith(
        "Error: the runs are of several tasks ('fox' of the task language-model, 'names' of the task names), whose "
        "metrics cannot be compared: name runs of one\n"
    )


def test_reports_are_made_of_it():
    names()
    kinds = ("flow", "heatmap", "spectrum", "lyapunov", "saturation", "parameters")
    wanted = [argument for kind in kinds for argument in ("--kind", kind)]
    result = invoke("report", "names", *wanted, "--lags", "3", "--positions", "20")
    assert "lag k, letters" in result.stdout
    every = json.loads(invoke("report", "names", "--all", "--lags", "3", "--positions", "20", "--json", "-").stdout)
    assert "neurons is for language models, and names is none" in json.dumps(every)


@pytest.mark.parametrize("arguments", [["sample", "names"], ["score", "names", "fox.txt"]], ids=lambda a: a[0])
def test_it_is_refused_where_texts_are_meant(arguments: list[str]):
    names()
    result = CliRunner().invoke(rnn, arguments)
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", REFUSED)


MISTAKES = {
    "no files": (
        ["--task", "names"],
        "there is nothing to train on: the task names has no default files, so name FILES",
    ),
    "one language": (
        ["--task", "names", "Italian.txt"],
        "the task names takes two languages at least; got 'Italian' alone",
    ),
    "embedding": (
        ["--task", "names", *FILES, "--embedding-size", "4"],
        "--embedding-size is 4, and the task names reads one-hot letters: leave it out",
    ),
    "option": (
        ["--task", "names", *FILES, "--level", "word"],
        "the task 'names' has no option called 'level'. Its options: valid_fraction, lower",
    ),
    "value": (
        ["--task", "names:lower=maybe", *FILES],
        "the option 'lower' of the task 'names' must be true or false, and it is 'maybe'",
    ),
    "changed option": (
        ["--resume", "names", "--task-option", "lower=true"],
        "--task-option lower is true, and the run 'names' has false: leave it out, or start a new run without --resume",
    ),
    "other language": (
        ["--init-from", "names", "fox.txt"],
        "the run knows no language 'fox'; it knows Czech, Italian",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_sentences(mistake: str):
    names()
    arguments, sentence = MISTAKES[mistake]
    assert refused(*arguments) == sentence


def test_other_data_are_no_continuation():
    names()
    Path("Czech.txt").write_text(Path("Czech.txt").read_text() + "\nHavel")
    assert refused("--resume", "names").startswith("the data of the run 'names' have changed: ")
    assert "the data of the run 'names' are not what they were" in refused_by("eval", "names")
    assert train("--resume", "names").exit_code == 2


def refused_by(*arguments: str) -> str:
    result = CliRunner().invoke(rnn, arguments)
    assert result.exit_code == 2
    return result.stderr


GONE = (
    "Error: run 'names' uses the task 'names' from the distribution rnn-task-names 1.2, which is not installed: "
    "pip install rnn-task-names\n"
)


def test_a_run_whose_task_is_not_installed_any_more_names_its_distribution(tmp_path: Path):
    names()
    shutil.rmtree(tmp_path / "site-packages" / "rnn_task_names-1.2.dist-info")
    (tmp_path / "site-packages" / "rnn_task_names.py").unlink()
    for command in (["eval", "names"], ["sample", "names"], ["report", "names"], ["train", "--resume", "names"]):
        assert refused_by(*command) == GONE, command
    (row,) = json.loads(invoke("runs", "--json").stdout)
    assert (row["name"], row["task"], row["error"]) == ("names", "names", None)


def test_a_task_that_generates_its_data_needs_no_files():
    shutil.copy(adding_task.__file__, "adding.py")
    check_task(adding_task.Adding()).raise_if_failed()
    run, result = trained("--task", "./adding.py:Adding:lag=6", *NETWORK, "--steps", "30", "--name", "adding")
    assert "builtin:adding: generated; sequences without end to train on, 50 held out\n" in result.stderr
    best = run.metrics()["loss"]
    assert f"runs/adding: loss {best:.4f} held out" in result.stdout
    assert "adding on the held-out part of builtin:adding: 50 sequences predicted" in invoke("eval", "adding").stdout
    assert "The weights are identical to those of adding." in invoke("rerun", "adding", "--name", "again").stdout
    trained("--resume", "again", "--steps", "40")
    names()
    tables = [[line.split() for line in table.splitlines()] for table in invoke("runs").stdout.split("\n\n")]
    assert [table[0] for table in tables] == [["names"], ["./adding.py:Adding"]]
    assert [table[1][3:-3] for table in tables] == [["NATS", "ACCURACY"], ["MSE"]]
    assert ["adding", "gru", "1x6", f"{best:.4f}"] in [row[:4] for row in tables[1]]
    refusal = "Error: the task ./adding.py:Adding of adding offers no probe, which reports measure\n"
    assert refused_by("report", "adding") == refusal


def test_the_page_on_tasks_is_a_task(tmp_path: Path):
    page = Path(__file__).parents[1] / "docs" / "tasks.md"
    Path("my_task.py").write_text("\n\n".join(blocks(page, "python")))
    rows = [f"{a} plus {b}\t{(a + b) / 100}" for a in range(12) for b in range(5)]
    Path("sums.tsv").write_text("\n".join(["text\tnumber", *rows]))
    for words in commands(page):
        more = ["--steps", "3", "--hidden-size", "6", "--seeds", "1"] if words[0] == "compare" else []
        invoke(*words, *(["--steps", "3", "--hidden-size", "6"] if words[0] == "train" else more))


PRETRAINED = """
from names_task import *


@dataclass(frozen=True)
class Lent(Classifier):
    "A head that was trained elsewhere, and that training leaves as it is."

    def pretrained(self, params):
        return params | {"head": params["head"] | {"b": params["head"]["b"] + np.float32(0.5)}}

    def frozen(self):
        return ("head.b",)

    def scores(self, params, batch, rng=None):
        bias = np.asarray(value_of(params["head"]["b"]))
        return super().scores(params | {"head": params["head"] | {"b": bias}}, batch, rng)


class Frozen(Names):
    def model(self, facts, network):
        found = super().model(facts, network)
        return Lent(found.cell, found.symbols, found.labels, found.network)


from minigrad.tensor import value_of
"""


def test_parameters_that_were_trained_elsewhere_may_stay_as_they_are():
    Path("frozen.py").write_text(PRETRAINED)
    settings = {"task": "./frozen.py:Frozen", "hidden_size": 4, "seed": 1, "optimizer": "adamw:weight_decay=0.5"}
    run = rnn_lab.train(FILES, steps=6, name="lent", learning_rate=0.1, **settings)
    np.testing.assert_array_equal(run.params["head"]["b"], np.float32([0.5, 0.5]))
    assert not any("head.b" in path for path in trees.paths(run.folder.last()[0]["optimizer"]))
    run.resume(steps=12)
    once = rnn_lab.train(FILES, steps=12, name="once", learning_rate=0.1, schedule="constant", **settings)
    np.testing.assert_array_equal(once.params["head"]["b"], np.float32([0.5, 0.5]))
    assert np.any(once.params["head"]["W"] != run.params["head"]["W"])
    rnn_lab.check_task("./frozen.py:Frozen", FILES).raise_if_failed()
