"""Every command on a small run of every installed task: what it offers works, and the rest is refused in a sentence."""

import itertools
import json
import math
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from command_line import settle

import rnn_lab
from rnn_cli.main import rnn
from rnn_lab.runs import Run
from rnn_lab.subject import of_run

WORDS = ("the", "a", "small", "large", "red", "blue", "fox", "dog", "runs", "sleeps")


def sentences(count):
    """Sentences of three words, all of them different."""
    return [" ".join(some) for some in itertools.islice(itertools.permutations(WORDS, 3), 0, 37 * count, 37)]


FILES = {
    "classify": "label\ttext\n" + "".join(f"{'odd' if i % 2 else 'even'}\t{s}\n" for i, s in enumerate(sentences(20))),
    "tag": "".join("".join(f"{word}\t{word[0]}\n" for word in s.split()) + "\n" for s in sentences(20)),
    "translate": "".join(f"{s}\t{s.upper()}\n" for some in sentences(20) for s in (some, some[::-1])),
    "caption": "caption\n" + "".join(f"{s}\n" for s in sentences(20)),
    "forecast": "x,y\n" + "".join(f"{math.sin(i / 2):.3f},{math.cos(i / 3):.3f}\n" for i in range(150)),
    "memory": "builtin:memory",
    "paint": "builtin:numbers:40",
    "read": "builtin:numbers:40",
}
"""What each task learns: the content of a table, or the name of what is generated."""

OPTIONS = {
    "forecast": ("horizon=4", "window=8", "season=12"),
    "memory": ("lag=6",),
    "caption": ("beam=1", "convolutions=1"),
    "paint": ("steps=2", "latent=2", "image_size=12"),
    "read": ("glimpses=2", "size=3", "image_size=12"),
}

GENERATE = ("translate", "caption")
"""The tasks that draw outputs for inputs."""

KINDS = ("loss", "flow", "heatmap", "spectrum", "saturation", "parameters", "weights", "states")


@pytest.fixture
def home(tmp_path, monkeypatch):
    settle(tmp_path, monkeypatch)
    monkeypatch.setenv("COLUMNS", "100")


def invoke(*arguments, stdin=None):
    result = CliRunner().invoke(rnn, arguments, input=stdin)
    assert result.exit_code == 0, (arguments, result.output)
    return result


def refused(*arguments):
    result = CliRunner().invoke(rnn, arguments)
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    return result.stderr


def test_every_task_is_tried():
    installed = {entry.name for entry in entry_points(group="rnn.tasks") if entry.dist.name == "rnn-lab"}
    assert installed - {"language-model", "lm"} == FILES.keys()


@pytest.mark.parametrize("task", FILES)
def test_every_command_works_on_its_runs(home, task):
    file, more = FILES[task], []
    if "\n" in file:
        Path("data.csv" if "," in file else "data.tsv").write_text(file)
        file = "data.csv" if "," in file else "data.tsv"
    if task == "caption":
        np.savez("images.npz", images=np.random.default_rng(0).random((20, 8, 8, 3), np.float32))
        file, more = "images.npz", ["data.tsv"]
    small = ["--hidden-size", "6", "--batch-size", "5", "--steps", "4", "--valid-every", "2", "--seed", "1"]
    options = [word for option in OPTIONS.get(task, ()) for word in ("--task-option", option)]
    for cell in ("gru", "rnn"):
        said = invoke("train", "--task", task, *more, file, *small, *options, "--cell", cell, "--name", cell).stderr
        split = Run(Path("runs", cell)).manifest["data"]
        unit, own = Run(Path("runs", cell)).task.unit, f"{split['train']:,} " if split["train"] else ""
        trained = f"{own}{unit}{'' if own else ' without end'} to train on"
        assert f"; {trained}, {split['valid']:,} held out\n" in said
        first = "Evaluate it: rnn eval" if Run(Path("runs", cell)).task.needs_input else "Sample from it: rnn sample"
        sheet = " --png new.png" if "Sample" in first and Run(Path("runs", cell)).task.shows_pictures else ""
        assert f"{first} {cell}{sheet}\nPredict with it: rnn predict {cell} {file}\n" in said
    run = Run(Path("runs/gru"))
    best = run.task.compared or run.task.best[0]

    score, *rivals = json.loads(invoke("eval", "gru", "--json").stdout)["scores"]
    evaluated = {rival["name"]: {key: rival[key] for key in rival.keys() - {"name", "kind"}} for rival in rivals}
    for name, _, metrics in of_run(run).baselines():
        assert name == "uniform guessing" or evaluated[name] == pytest.approx(metrics), name
    assert score[best] == pytest.approx(run.metrics()[best], rel=1e-4)
    assert invoke("eval", "gru", "--html", "eval.html").stdout.startswith("gru on ")
    assert "<h1>Evaluation of gru</h1>" in Path("eval.html").read_text()

    records = [
        json.loads(line) for line in itertools.islice(invoke("predict", "gru", file, "--json").stdout.splitlines(), 20)
    ]
    lines = invoke("predict", "gru", file).stdout.splitlines()
    assert len(lines) >= len(records) > 0
    assert records[0].keys() >= {"input"}
    assert list(itertools.islice(rnn_lab.load("gru").predict(file), len(records))) == records
    if run.task.takes_text and task != "memory":
        (one,) = invoke("predict", "gru", "the small fox").stdout.splitlines()
        assert one == invoke("predict", "gru", stdin="the small fox\n").stdout.splitlines()[0]
        page = invoke("predict", "gru", "the small fox", "--explain", "--html", "page.html")
        assert "explains none" not in page.stderr
        assert "Explanations" in Path("page.html").read_text()

    if task in GENERATE:
        drawn = invoke("sample", "gru", file, "--seed", "1").stdout
        assert drawn == invoke("sample", "gru", file, "--seed", "1").stdout
        assert "there is no input: rnn sample gru takes a FILE" in refused("sample", "gru")
        lack = "continues no text"
    elif not run.task.needs_input:
        drawn = invoke("sample", "gru", "--count", "2", "--seed", "1").stdout
        assert drawn == invoke("sample", "gru", "--count", "2", "--seed", "1").stdout
        lack = "continues no text"
    else:
        lack = "writes no text"
        sentence = f"Error: gru is a run of the task {task}, which {lack}: rnn predict gru FILE\n"
        assert refused("sample", "gru") == sentence
    assert refused("score", "gru", "fox.txt").endswith(f"which {lack}: rnn predict gru FILE\n")

    kinds = [word for kind in KINDS for word in ("--kind", kind)]
    reports = json.loads(invoke("report", "gru", *kinds, "--lags", "2", "--positions", "8", "--json", "-").stdout)[
        "reports"
    ]
    assert [page["failed"] for page in reports.values() if page["failed"] or not page["quantities"]["gru"]] == []
    page = json.loads(invoke("compare", "gru", "rnn", "--json", "-").stdout)["reports"]["compare"]
    word = run.task.metrics[best].word or best
    way = "highest" if run.task.metrics[best].direction == "max" else "lowest"
    assert f"The {way} {word} is that of " in page["verdict"][""][0] or "none has learnt" in page["verdict"][""][0]
    assert "The weights are identical to those of gru." in invoke("rerun", "gru", "--name", "again").stdout
