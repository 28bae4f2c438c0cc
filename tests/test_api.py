"""The Python API, ``import rnn_lab``."""

import importlib
import json
import re
import subprocess
import sys
import threading
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from command_line import TEXT, settle
from fox_runs import SHORT

import rnn_lab
from minigrad import affine, concat, tanh
from rnn_cells import Cell
from rnn_cells.lstm import LSTM
from rnn_lab import api, sessions
from rnn_lab.paths import run_folders
from rnn_lab.trainer import Trainer
from rnn_plugins import defined, registry
from rnn_plugins.errors import UserError


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settle(tmp_path, monkeypatch)


def test_a_network_is_trained_to_the_end_and_loaded_again(capfd):
    run = rnn_lab.train("fox.txt", cell="lstm:forget_bias=2", name="fox", **SHORT)
    assert (run.name, run.path, run.outcome) == ("fox", Path("runs/fox"), "finished")
    assert run.settings["cell"] == "lstm"
    assert run.settings["cell_option"] == {"forget_bias": "2"}
    again = rnn_lab.load("fox")
    assert again.metrics == run.metrics == rnn_lab.load(Path("runs/fox")).metrics == rnn_lab.load().metrics
    assert [record["step"] for record in run.metrics] == [4, 6, 8, 12]
    assert run.params["head"]["W"].shape[0] == 5
    assert repr(run) == "<Run 'fox' in runs/fox>"
    assert capfd.readouterr() == ("", ""), "nothing is printed"


def test_a_run_is_replaced_by_one_of_its_name():
    first = rnn_lab.train("fox.txt", name="fox", **SHORT)
    with pytest.raises(UserError, match=r"^there is a run called 'fox' already: "):
        rnn_lab.train("fox.txt", name="fox", **SHORT)
    second = rnn_lab.train("fox.txt", name="fox", overwrite=True, **SHORT | {"seed": 2})
    assert (first.path, rnn_lab.load("fox").settings["seed"]) == (second.path, 2)
    new = rnn_lab.train("fox.txt", name="new", overwrite=True, **SHORT)
    assert {path.name for path in Path("runs").iterdir()} == {"fox", new.name}
    with pytest.raises(UserError) as caught:
        rnn_lab.train("fox.txt", name="fox", init_from="fox", overwrite=True)
    assert str(caught.value) == "a run that begins with the weights of 'fox' cannot overwrite it: give another name"


@pytest.mark.parametrize("given", [{"files": "missing.txt"}, {"files": "fox.txt", "hidden_size": 0}])
def test_a_run_is_not_lost_to_one_that_cannot_begin(given):
    rnn_lab.train("fox.txt", name="fox", **SHORT)
    with pytest.raises(UserError):
        rnn_lab.train(name="fox", overwrite=True, **SHORT | given)
    assert [path.name for path in Path("runs").iterdir()] == ["fox"]
    assert rnn_lab.load("fox").outcome == "finished"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_a_run_is_not_lost_to_one_that_fails_once_it_has_written(error, monkeypatch):
    before = rnn_lab.train("fox.txt", name="fox", **SHORT).params

    def begin(self, params):
        (self.run.path / "model.safetensors").write_bytes(b"part of it")
        raise error

    monkeypatch.setattr(Trainer, "begin", begin)
    with pytest.raises(type(error)) as caught:
        rnn_lab.train("fox.txt", name="fox", overwrite=True, **SHORT | {"seed": 2})
    assert caught.value is error
    assert [path.name for path in Path("runs").iterdir()] == ["fox"]
    np.testing.assert_array_equal(rnn_lab.load("fox").params["head"]["W"], before["head"]["W"])


def test_a_run_whose_name_another_process_takes_is_not_lost(monkeypatch):
    before = rnn_lab.train("fox.txt", name="fox", **SHORT).params
    create = sessions.create_run

    def create_late(*given):
        (create(*given).path / "model.safetensors").touch()
        return create(*given)

    monkeypatch.setattr(sessions, "create_run", create_late)
    with pytest.raises(UserError, match=r"^there is a run called 'fox' already: "):
        rnn_lab.train("fox.txt", name="fox", overwrite=True, **SHORT)
    (kept,) = [path.name for path in run_folders() if path.name != "fox"]
    assert re.fullmatch("replaced-[0-9a-f]{8}", kept)
    np.testing.assert_array_equal(rnn_lab.load(kept).params["head"]["W"], before["head"]["W"])


def test_a_run_has_its_name_until_the_new_one_is_ready(monkeypatch):
    rnn_lab.train("fox.txt", name="fox", **SHORT)
    read, outcomes = sessions.read, []

    def reading(*given, **options):
        outcomes.append(rnn_lab.load("fox").outcome)
        return read(*given, **options)

    monkeypatch.setattr(sessions, "read", reading)
    rnn_lab.train("fox.txt", name="fox", overwrite=True, **SHORT)
    assert outcomes == ["finished"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("notes", "'runs/notes' exists and is not a run: choose another --name"),
        ("broken", "'runs/broken' exists and is not a run: choose another --name"),
        ("..", "--name is '..'; it must begin with a letter or digit"),
        ("", "--name is ''; it must begin with a letter or digit"),
    ],
)
def test_what_is_no_run_is_not_replaced(name, said):
    Path("runs/notes").mkdir(parents=True)
    Path("runs/notes/today.txt").touch()
    Path("runs/broken").symlink_to("nowhere")
    with pytest.raises(UserError) as caught:
        rnn_lab.train("fox.txt", name=name, overwrite=True, **SHORT)
    assert str(caught.value).startswith(said)
    assert {path.name for path in Path("runs").iterdir()} == {"notes", "broken"}


def test_a_run_in_training_is_not_replaced():
    training = rnn_lab.training("fox.txt", name="fox", **SHORT)
    records = iter(training)
    next(records)
    with pytest.raises(UserError, match=r"^the run 'fox' is being trained by another process"):
        rnn_lab.training("fox.txt", name="fox", overwrite=True, **SHORT)
    assert len(list(records)) == 3


def test_it_trains_as_the_command_line_does(tmp_path):
    from command_line import trained

    options = [f"--{key.replace('_', '-')}={value}" for key, value in SHORT.items()]
    expected, _ = trained("fox.txt", *options, "--name", "commanded")
    run = rnn_lab.train(Path("fox.txt"), **SHORT)
    assert (run.path / "last.safetensors").read_bytes() == (expected.path / "last.safetensors").read_bytes()


def test_training_is_iterated_over_and_goes_on_where_it_was_left():
    whole = rnn_lab.train("fox.txt", **SHORT)
    training = rnn_lab.training(["fox.txt"], name="parts", **SHORT)
    records = list(islice(training, 2))
    assert [record["step"] for record in records] == [4, 6]
    assert training.outcome == "interrupted"
    run = training.run.resume()
    assert (run.name, run.outcome) == ("parts", "finished")
    for file in ("last.safetensors", "model.safetensors"):
        assert (run.path / file).read_bytes() == (whole.path / file).read_bytes()
    assert rnn_lab.train(resume="parts", steps=16).metrics[-1]["step"] == 16


def test_training_is_stopped_from_another_thread():
    training = rnn_lab.training("fox.txt", **SHORT | {"steps": 100_000})
    threading.Timer(0.2, training.stop).start()
    steps = [record["step"] for record in training]
    assert steps
    assert training.outcome == training.run.outcome == "interrupted"


INTERRUPTED = """
import os, signal, threading, time
import rnn_lab
from pathlib import Path

def interrupt():
    while not (Path("runs/fox/metrics.jsonl").is_file() and Path("runs/fox/metrics.jsonl").stat().st_size):
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)

threading.Thread(target=interrupt).start()
try:
    rnn_lab.train("fox.txt", name="fox", hidden_size=5, seq_length=7, batch_size=3, seed=1, steps=10**9)
except KeyboardInterrupt as interrupt:
    print(interrupt)
run = rnn_lab.load("fox")
assert run.outcome == "interrupted", run.outcome
assert run.metrics[-1]["valid_loss"] and run.folder.notes("last.safetensors")["step"] == run.metrics[-1]["step"]
"""


def test_ctrl_c_ends_training_after_a_step_and_the_run_is_saved():
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    step = rnn_lab.load("fox").metrics[-1]["step"]
    assert done.stdout == (
        f"interrupted after step {step:,}; the run 'fox' is saved: rnn_lab.train(resume='fox') resumes it\n"
    )


def test_a_run_that_diverges_is_explained():
    with pytest.raises(UserError, match=r"^Diverged at step \d+: the loss is .* What to try, in a new run: "):
        rnn_lab.train("fox.txt", cell="irnn", learning_rate=1e20, grad_clip="0", schedule="constant", **SHORT)


def test_a_network_writes():
    run = rnn_lab.train("fox.txt", **SHORT)
    text = run.sample(40, prime="the ", seed=3)
    assert text.startswith("the ")
    assert len(text) == 44
    assert run.sample(40, prime="the ", seed=3) == text
    assert len(run.sample(10)) == 10
    assert run.sample(20, greedy=True) == run.sample(20, greedy=True)
    assert run.symbols == tuple(sorted(set(TEXT)))


def test_a_network_is_reported_on():
    run = rnn_lab.train("fox.txt", name="fox", **SHORT)
    report = run.report("flow", "parameters", lags=5, positions=20)
    assert [page.kind for page in report.pages] == ["flow", "parameters"]
    assert repr(report) == "<Report on fox: flow, parameters>"
    assert report.html().startswith("<!DOCTYPE html>")
    json.dumps(report.to_json())
    assert report.about[0].startswith("fox: gru, 1 x 5, ")
    other = rnn_lab.train("fox.txt", name="other", **SHORT | {"seed": 2})
    both = rnn_lab.report(["fox", other], "saturation", positions=20, lags=5)
    assert both.pages[0].subjects == ("fox", "other")
    assert rnn_lab.report("fox", "saturation", positions=20, lags=5).heading == "fox"


def test_cells_are_reported_on_as_on_the_command_line(tmp_path):
    from rnn_cli.main import rnn

    given = {"hidden_size": 5, "lags": 5, "positions": 20, "steps": 3}
    report = rnn_lab.report("flow", "saturation", cells=["rnn", LSTM], files="fox.txt", **given)
    assert [page.kind for page in report.pages] == ["flow", "saturation"]
    assert report.heading == "rnn, lstm"
    options = [word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    kinds = ["--kind", "flow", "--kind", "saturation"]
    arguments = ["report", "--cell", "rnn", "--cell", "lstm", "fox.txt", *kinds, *options, "--json", "r.json", "-q"]
    assert CliRunner().invoke(rnn, arguments).exit_code == 0
    told = json.loads(Path("r.json").read_text())["reports"]
    assert told == json.loads(json.dumps(report.to_json()["reports"]))
    rnn_lab.train("fox.txt", **SHORT)
    assert rnn_lab.report(cells=["gru"], files="fox.txt", **given).pages[0].kind == "flow"
    assert rnn_lab.report(lags=5, positions=20).heading == rnn_lab.load().name


def test_runs_are_compared():
    runs = [rnn_lab.train("fox.txt", name=cell, cell=cell, **SHORT) for cell in ("gru", "lstm")]
    page = rnn_lab.compare(runs)
    assert page.heading == "gru and lstm"
    assert rnn_lab.compare(["gru", "lstm"]).to_json() == page.to_json()
    for one in (["gru"], "gru"):
        with pytest.raises(UserError, match=r"^compare takes two runs or more; got 1$"):
            rnn_lab.compare(one)


def test_a_report_has_the_default_seed_of_the_command():
    run = rnn_lab.train("fox.txt", **SHORT)
    look = {"lags": 5, "positions": 20}
    assert run.report("flow", **look).to_json() == run.report("flow", seed=1, **look).to_json()
    assert run.report("flow", **look).to_json() != run.report("flow", seed=0, **look).to_json()


def test_cells_and_tasks_are_listed_and_checked():
    assert {"gru", "lstm", "rnn", "irnn"} <= set(rnn_lab.cells())
    assert "language-model" in rnn_lab.tasks()
    assert rnn_lab.check_cell("lstm", forget_bias=2).passed
    assert rnn_lab.check_cell(LSTM(2, 3)).subject == LSTM(2, 3)


def test_a_cell_is_described_by_its_step():
    described = rnn_lab.describe_cell(Averaging, input_size=2, hidden_size=3, w=0.25)
    assert described.equations == (
        "a = [h_{t-1}, x_t] @ candidate.W + candidate.b",
        "candidate = tanh(a)",
        "h_t = 0.75 * h_{t-1} + 0.25 * candidate",
    )
    assert str(described).splitlines() == [
        f"Averaging, from the module {__name__}",
        "",
        *(f"    {line}" for line in described.equations),
        "",
        "18 parameters with I = 2 and H = 3:",
        "    candidate.W (5, 3)",
        "    candidate.b (3,)",
        "carry of a sequence: (3,)",
    ]
    assert ">Averaging, from the module " in described._repr_html_()
    assert rnn_lab.describe_cell("lstm").count == 329728

    class Branching(Averaging):
        def __call__(self, params, h, x):
            return super().__call__(params, h if x.sum() > 0 else -h, x)

    assert rnn_lab.describe_cell(Branching).equations == ()


def test_the_documentation_names_all_that_is_offered():
    words = (Path(__file__).parents[1] / "docs" / "python.md").read_text()
    for name in rnn_lab.__all__:
        assert re.search(rf"\b{name}\b", words), name
    for name, member in vars(rnn_lab.Run).items():
        if not name.startswith("_") and name != "folder":
            assert re.search(rf"run\.{name}\b", words), name
            assert member.__doc__


def test_a_text_is_measured():
    run = rnn_lab.train("fox.txt", **SHORT | {"steps": 60})
    assert run.evaluate()["loss"] == pytest.approx(min(r["valid_loss"] for r in run.metrics if "valid_loss" in r))
    Path("other.txt").write_text(TEXT[::-1])
    assert run.evaluate("other.txt")["loss"] > run.evaluate(Path("fox.txt"))["loss"]
    assert run.score("fox.txt").surprising_words(1)


# --- classes of the session ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Averaging(Cell):
    """h_t = (1 - w) * h_{t-1} + w * tanh(W [h_{t-1}, x_t] + b)."""

    w: float = 0.5

    def init_params(self, rng):
        return {"candidate": self.dense(rng)}

    def __call__(self, params, h, x):
        h = (1 - self.w) * h + self.w * tanh(affine(params["candidate"], concat(h, x)))
        return h, h


def test_a_class_is_a_cell():
    run = rnn_lab.train("fox.txt", cell=Averaging, cell_option={"w": 0.25}, **SHORT)
    assert (run.name, run.settings["cell"], run.settings["cell_option"]) == ("Averaging-fox", "Averaging", {"w": 0.25})
    recorded = run.folder.manifest["cell"]
    assert recorded == {"cell": "Averaging", "module": __name__, "class": "Averaging", "sha256": recorded["sha256"]}
    again = rnn_lab.load(run.name)
    assert again.folder.make_cell(3) == Averaging(3, 5, 0.25)
    assert again.sample(9, seed=1) == run.sample(9, seed=1)
    assert again.resume(steps=20).metrics[-1]["step"] == 20
    assert again.report("flow", lags=5, positions=20).pages[0].subjects == ("Averaging-fox",)
    assert rnn_lab.check_cell(Averaging, w=0.3).subject == Averaging(3, 4, 0.3)
    fresh = rnn_lab.report("flow", cells=["rnn", Averaging], files="fox.txt", hidden_size=5, lags=5, positions=20)
    assert fresh.pages[0].subjects == ("rnn", "Averaging")
    both = rnn_lab.compare(cells=[Averaging, "gru"], files="fox.txt", seeds=1, **SHORT)
    assert both.pages[0].subjects == ("Averaging", "gru")
    assert (
        rnn_lab.train("fox.txt", init_from=run, steps=1, seed=2, seq_length=7, batch_size=3).name == "Averaging-fox-2"
    )


def test_an_installed_class_is_its_name():
    run = rnn_lab.train("fox.txt", cell=LSTM, **SHORT)
    assert run.folder.manifest["cell"]["distribution"] == "rnn-lab"
    assert (run.name, run.settings["cell"]) == ("lstm-fox", "lstm")


def test_a_class_is_a_task(monkeypatch):
    (task,) = (entry for entry in registry.entries("tasks") if entry.name == "memory")
    module, _, name = task.value.partition(":")
    found = getattr(importlib.import_module(module), name)
    own = type("Recall", (found,), {"__module__": __name__})
    monkeypatch.setitem(globals(), "Recall", own)
    run = rnn_lab.train(task=own, hidden_size=5, steps=2, batch_size=3, seed=1)
    assert run.folder.manifest["task"]["class"] == "Recall"
    assert type(rnn_lab.load(run.name).folder.task) is own


def test_a_run_whose_class_is_not_there_says_so(monkeypatch):
    monkeypatch.setattr(defined, "_given", {})
    run = rnn_lab.train("fox.txt", cell=Averaging, name="own", **SHORT)
    edited = type("Averaging", (Cell,), {"__module__": __name__, **vars(LSTM), "__dict__": {}})
    monkeypatch.setitem(globals(), "Averaging", edited)
    assert rnn_lab.load("own").folder.code_changed() == [
        "the class Averaging has changed since run 'own' began, so its cell may not be the one that was trained"
    ]
    monkeypatch.delitem(globals(), "Averaging")
    defined._given.clear()
    for use in (run.sample, run.resume, run.report, run.evaluate):
        with pytest.raises(UserError) as caught:
            use()
        assert str(caught.value) == (
            f"run 'own' uses the cell Averaging, a class of the module {__name__} that was defined in Python and is "
            "not defined here: run the lines that define it, then rnn_lab.load('own') in the same session"
        )
    from rnn_cli.main import rnn

    answer = CliRunner().invoke(rnn, ["sample", "own"])
    assert answer.exit_code == 2
    assert answer.stderr.startswith("Error: run 'own' uses the cell Averaging, a class of the module ")


MISTAKES: dict[str, tuple[Any, str]] = {
    "class": (lambda: rnn_lab.train(cell=int), "the cell is the class int; expected a name, or a subclass of rnn_cell"),
    "object": (lambda: rnn_lab.train(cell=LSTM(2, 3)), "the cell is an object; expected its class, LSTM, or a name"),
    "name": (
        lambda: rnn_lab.check_cell(type("gru", (Cell,), {})),
        "there is an installed cell called gru: give the class another name",
    ),
    "progress": (lambda: rnn_lab.train(progress="bar"), "progress is 'bar'; it must be one of auto, plain, none"),
    "report": (lambda: rnn_lab.report("flow", lag=3), "there is no setting called 'lag'"),
    "report of a run": (
        lambda: rnn_lab.report(steps=3),
        "steps is of the training of cells, and runs are trained: leave it out",
    ),
    "report of cells": (
        lambda: rnn_lab.report("flow", cells=["gru"], text="fox.txt"),
        "cells are measured on files: leave out text",
    ),
    "setting": (
        lambda: rnn_lab.train("fox.txt", epoch=3),
        "there is no setting called 'epoch'. Did you mean 'epochs'?",
    ),
    "value": (lambda: rnn_lab.train("fox.txt", hidden_size=0), "--hidden-size is 0; it must be at least 1"),
    "file": (lambda: rnn_lab.train("none.txt"), "none.txt"),
    "run": (lambda: rnn_lab.load("none"), "there is no run called 'none' in runs."),
    "resume": (lambda: rnn_lab.train(resume="a", name="b"), "resume keeps the run's name and weights: leave out name"),
    "resume and overwrite": (
        lambda: rnn_lab.train(resume="a", overwrite=True),
        "resume keeps the run's name and weights: leave out overwrite",
    ),
    "overwrite": (
        lambda: rnn_lab.train("fox.txt", overwrite=True),
        "overwrite is for the run of a name: give name, or leave overwrite out",
    ),
    "init_from": (
        lambda: rnn_lab.train(resume="a", init_from="b"),
        "resume keeps the run's name and weights: leave out init_from",
    ),
    "cell": (lambda: rnn_lab.check_cell("gur"), "no cell called 'gur'. Did you mean 'gru'?"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_sentences(mistake):
    call, said = MISTAKES[mistake]
    with pytest.raises(UserError) as caught:
        call()
    assert said in str(caught.value)


def test_what_is_offered_is_documented_and_nothing_else_is():
    assert sorted(rnn_lab.__all__) == sorted(set(rnn_lab.__all__))
    for name in rnn_lab.__all__:
        assert getattr(rnn_lab, name) is getattr(api, name)
        assert getattr(rnn_lab, name).__doc__
    assert set(rnn_lab.__all__) <= set(dir(rnn_lab))
    with pytest.raises(AttributeError, match=r"^module 'rnn_lab' has no attribute 'trian'$"):
        getattr(rnn_lab, "trian")  # noqa: B009


def test_the_library_is_imported_when_it_is_used():
    program = "import sys, rnn_lab; assert 'numpy' not in sys.modules; rnn_lab.cells; assert 'numpy' in sys.modules"
    program += "; assert not {'click', 'rich', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("package", ["rnn_cli", "rnn_lab"])
def test_the_packages_are_the_command_line(package):
    command = [sys.executable, "-m", package]
    done = subprocess.run([*command, "--help"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Usage: rnn [OPTIONS] COMMAND [ARGS]...")
    done = subprocess.run([*command, "trian"], capture_output=True, text=True, check=False)
    assert done.returncode == 2


def test_arguments_reach_what_they_are_for():
    run = rnn_lab.train("fox.txt", name="fox", **SHORT)
    began = rnn_lab.train("fox.txt", init_from="fox", name="began", steps=1, seed=2, seq_length=7, batch_size=3)
    assert began.settings["hidden_size"] == run.settings["hidden_size"] == 5
    Path("odd.txt").write_text(TEXT + "\N{GREEK CAPITAL LETTER OMEGA}" + TEXT)
    for call in (run.score, run.evaluate):
        call("odd.txt")
        with pytest.raises(UserError, match=r"never seen|does not know"):
            call("odd.txt", unknown="error")
    Path("other.txt").write_text(TEXT[::-1])
    look = {"lags": 5, "positions": 20}
    assert run.report("flow", text="other.txt", **look).to_json() != run.report("flow", **look).to_json()
