"""Runs that are resumed, start with another's weights, or are repeated."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from command_line import SMALL, TEXT, refused, settle, start, train, trained

from rnn_cli.main import rnn
from rnn_lab import sessions
from rnn_lab.paths import LAST
from rnn_lab.runs import Run
from rnn_plugins.data import sources
from rnn_plugins.errors import UserError


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settle(tmp_path, monkeypatch)


def test_more_epochs_are_trained_on_resume() -> None:
    run, _ = trained("fox.txt", *SMALL)
    _, result = trained("--resume", run.name, "--steps", "20")
    assert result.stderr.splitlines()[:2] == [
        "Note: it resumes after step 12.",
        "Note: the cosine schedule now extends to step 20; the learning rate continues at 0.0014.",
    ]
    run = Run(run.path)
    assert (run.manifest["step"], run.settings.steps) == (20, 20)
    assert run.manifest["resumed"] == [{"step": 12, "changed": {"steps": 20}}]
    _, result = trained("--resume", run.name, "--epochs", "1")
    assert [r["step"] for r in run.records()] == [10, 12, 20, 23]
    assert Run(run.path).settings.total_steps(23) == 23


def test_a_run_that_is_finished_has_nothing_to_go_on_with() -> None:
    run, _ = trained("fox.txt", *SMALL)
    before = (run.path / LAST).read_bytes()
    _, result = trained("--resume", run.name)
    assert (
        "Note: it resumes after step 12, which is its last; --epochs or --steps trains it further.\n" in result.stderr
    )
    assert (run.path / LAST).read_bytes() == before


def test_fewer_steps_than_a_run_has_had_are_refused() -> None:
    run, _ = trained("fox.txt", *SMALL)
    before = {path.name: path.read_bytes() for path in run.path.iterdir()}
    for option, value in (("--steps", "5"), ("--epochs", "0.25")):
        assert refused("--resume", run.name, option, value) == (
            f"{option} is {value}, and the run 'gru-fox' has been trained for 12 steps: give more to train it further, "
            "or start a new run with its weights: --init-from gru-fox"
        )
    assert {path.name: path.read_bytes() for path in run.path.iterdir()} == before
    trained("fox.txt", "--init-from", run.name, "--steps", "5")
    trained("--resume", run.name, "--steps", "12")


ANEW: list[str] = []
WITH_WEIGHTS = ["--init-from", "gru-fox"]


@pytest.mark.parametrize(
    ("arguments", "sentence", "new"),
    [
        (["--cell", "lstm"], "--cell is lstm, and the run 'gru-fox' has gru", ANEW),
        (["--hidden-size", "7"], "--hidden-size is 7, and the run 'gru-fox' has 5", ANEW),
        (["--seed", "2"], "--seed is 2, and the run 'gru-fox' has 1", WITH_WEIGHTS),
        (["--learning-rate", "1"], "--learning-rate is 1.0, and the run 'gru-fox' has 0.004", WITH_WEIGHTS),
        (["--cell-option", "reset=after"], "--cell-option is reset=after, and the run 'gru-fox' has none", ANEW),
    ],
)
def test_what_contradicts_a_run_that_goes_on(arguments: list[str], sentence: str, new: list[str]) -> None:
    trained("fox.txt", *SMALL)
    how = f"with its weights: {' '.join(WITH_WEIGHTS)}" if new else "without --resume"
    assert refused("--resume", "gru-fox", *arguments) == f"{sentence}: leave it out, or start a new run {how}"
    trained("fox.txt", *new, *arguments, "--steps", "2")


def test_what_a_run_has_anyway_may_be_said_again() -> None:
    trained("fox.txt", *SMALL, "--cell-option", "reset=before")
    trained("fox.txt", "--resume", "gru-fox", *SMALL, "--cell-option", "reset=before", "--steps", "14")
    assert Run(Path("runs/gru-fox")).manifest["step"] == 14


def test_a_text_that_has_changed_or_moved() -> None:
    run, _ = trained("fox.txt", *SMALL)
    os.rename("fox.txt", "moved.txt")
    assert refused("--resume", run.name) == (
        f"the data of the run {run.name!r} cannot be read: there is no file or folder '{os.path.abspath('fox.txt')}'; "
        "put them back"
    )
    trained("--resume", run.name, "moved.txt", "--steps", "15")
    assert Run(run.path).settings.files == (os.path.abspath("moved.txt"),)
    Path("moved.txt").write_text(TEXT + "!")
    before = run.manifest["data"]["digest"]
    sentence = refused("--resume", run.name)
    digest = sentence.split("SHA-256 ")[1][:12]
    assert sentence == (
        f"the data of the run 'gru-fox' have changed: {os.path.abspath('moved.txt')} has the SHA-256 {digest}, and it "
        f"was {before[:12]}; a run can be resumed only with the data that it began with: --init-from gru-fox starts a "
        "new one with its weights"
    )


def test_what_came_through_a_pipe_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    run, result = trained("-", *SMALL, input=TEXT)
    assert run.name == "gru-stdin"
    assert (
        "Note: standard input cannot be read again: the data are kept in 'cache'; if they are gone, resume with "
        "the same data in a FILE: rnn train --resume gru-stdin FILE.\n"
    ) in result.stderr
    monkeypatch.setattr(sessions, "_no_input", lambda: True)
    trained("--resume", run.name, "--steps", "14")
    assert Run(run.path).manifest["step"] == 14
    result = CliRunner().invoke(rnn, ["rerun", run.name])
    assert result.stdout.endswith("The weights differ from those of gru-stdin.\n")  # for that one went on, see below


def test_what_came_through_a_pipe_and_is_kept_no_more_has_to_be_given_again(monkeypatch: pytest.MonkeyPatch) -> None:
    run, _ = trained("-", *SMALL, input=TEXT)
    shutil.rmtree("cache")
    trained("--resume", run.name, "--steps", "14", input=TEXT)
    shutil.rmtree("cache")
    assert "have changed: - has the SHA-256" in refused("--resume", run.name, input=TEXT + "!")
    shutil.rmtree("cache")
    remedy = "; give the same data in a FILE: rnn train --resume gru-stdin FILE"
    assert refused("--resume", run.name, input="") == (
        f"the data of the run 'gru-stdin' cannot be read: standard input is empty{remedy}"
    )
    monkeypatch.setattr(sessions, "_no_input", lambda: True)
    kept_nowhere = (
        "the data of the run 'gru-stdin' cannot be read: they came through a pipe and were not saved" + remedy
    )
    assert refused("--resume", run.name) == kept_nowhere
    assert CliRunner().invoke(rnn, ["rerun", run.name]).stderr == f"Error: {kept_nowhere}\n"
    trained("--resume", run.name, "fox.txt", "--steps", "16")
    trained("--resume", run.name, "--steps", "17")
    assert Run(run.path).settings.files == (os.path.abspath("fox.txt"),)


@pytest.mark.parametrize("text", ["\ufeff" + TEXT, TEXT.replace(". ", ".\r\n"), "\ufeff" + TEXT.replace(". ", ".\r\n")])
def test_a_run_that_learnt_marks_and_carriage_returns_goes_on(text: str) -> None:
    Path("dos.txt").write_bytes(text.encode())
    with pytest.MonkeyPatch.context() as patch:  # as older versions read a text
        patch.setattr(sources, "cleaned", lambda texts, changes, line_ends: texts)
        run, _ = trained("dos.txt", *SMALL)
    assert set("\ufeff\r") & set(text) == set("\ufeff\r") & set(run.language.vocabulary.symbols)
    again = CliRunner().invoke(rnn, ["rerun", run.name, "--name", "again"])
    assert Run(Path("runs/again")).language.vocabulary == run.language.vocabulary
    assert ("identical" in again.stdout) == ("\ufeff" not in text)
    trained("--resume", run.name, "--steps", "15")
    assert Run(run.path).manifest["step"] == 15


def test_process_substitution_is_a_pipe() -> None:
    command = 'rnn() { "$0" -c "from rnn_cli.main import rnn; rnn()" "$@"; }; '
    command += "rnn train <(head -c 200 fox.txt) <(tail -c +201 fox.txt) --quiet --name two " + " ".join(SMALL)
    subprocess.run(["bash", "-c", command, sys.executable], check=True)
    run = Run(Path("runs", "two"))
    assert run.settings.files == ("-",)
    trained("--resume", "two", "--steps", "14")
    shutil.rmtree("cache")
    trained("--resume", "two", "--steps", "15", input=TEXT)
    assert run.manifest["data"]["digest"] == hashlib.sha256(TEXT.encode()).hexdigest()


def test_a_run_that_is_being_trained_is_left_alone() -> None:
    run, _ = trained("fox.txt", *SMALL)
    program = """
from rnn_lab import sessions
from rnn_lab.runs import find_run
for progress in sessions.resume(find_run("gru-fox"), {"steps": 20}).trainer.events():
    print(flush=True)
    input()
"""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", program], **pipes) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"\n"
        assert refused("--resume", run.name, "--steps", "20") == (
            "the run 'gru-fox' is being trained by another process: stop that one first"
        )
        assert Run(run.path).summary().outcome == "running"
        other.kill()
    assert Run(run.path).summary().outcome == "killed"
    trained("--resume", run.name, "--steps", "20")
    assert (Run(run.path).manifest["step"], Run(run.path).summary().outcome) == (20, "finished")


def test_a_run_that_is_refused_is_not_held() -> None:
    run, _ = trained("fox.txt", *SMALL)
    with pytest.raises(UserError) as caught:
        sessions.resume(run, {"cell": "lstm"})
    assert caught.tb is not None  # keeps what it was refused with alive
    trained("--resume", run.name, "--steps", "20")


def test_another_version_is_told_on_resume() -> None:
    run, _ = trained("fox.txt", *SMALL)
    run.update(environment=run.manifest["environment"] | {"numpy": "1.0"})
    _, result = trained("--resume", run.name, "--steps", "13")
    assert re.search(
        r"Note: it began with numpy 1\.0 and resumes with \S+: its weights may not be the same bit for bit\.",
        result.stderr,
    )


def test_a_run_starts_with_the_weights_of_another() -> None:
    run, _ = trained("fox.txt", *SMALL, "--cell", "lstm", "--num-layers", "2", "--cell-option", "forget_bias=2")
    Path("other.txt").write_text("over the lazy dog, the quick fox. " * 20)
    assert refused("other.txt", "--init-from", run.name, "--cell", "gru") == (
        "--cell is gru, and the run 'lstm-fox' has lstm: leave it out, or start without --init-from"
    )
    assert refused("other.txt", "--init-from", run.name) == (
        "'other.txt' has 1 character that the model has never seen: ','; --unknown skip leaves them out, "
        "--unknown replace puts ' ' in their place"
    )
    started, result = trained(
        "other.txt", "--init-from", run.name, "--unknown", "skip", "--steps", "0", "--dtype", "float64"
    )
    assert "Note: it starts with the best weights of lstm-fox.\n" in result.stderr
    assert (started.settings.cell, started.settings.num_layers, started.settings.hidden_size) == ("lstm", 2, 5)
    assert started.language.vocabulary == run.language.vocabulary
    assert (started.params()["head"]["W"] == run.params()["head"]["W"]).all()
    assert started.params()["head"]["W"].dtype == "float64"
    resumed, _ = trained("--resume", started.name, "--steps", "2")
    assert resumed.manifest["step"] == 2
    repeated = CliRunner().invoke(rnn, ["rerun", started.name])
    assert repeated.exit_code == 0, repeated.output
    shutil.rmtree(run.path)
    assert CliRunner().invoke(rnn, ["rerun", started.name]).stderr == (
        f"Error: the run {started.name!r} started with the weights in {os.path.abspath(run.path)}, which are gone or "
        "have changed: it cannot be repeated\n"
    )


def test_a_task_of_another_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    info = Path("site", "rnn_task_backwards-1.0.dist-info")
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: rnn-task-backwards\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[rnn.tasks]\nbackwards = backwards_task:Backwards\n")
    Path("site", "backwards_task.py").write_text(
        "import dataclasses\n"
        "from rnn_plugins.tasks.language_model import LanguageModel\n\n"
        "class Backwards(LanguageModel):\n"
        "    def read(self, *given, **more):\n"
        "        data = super().read(*given, **more)\n"
        "        return dataclasses.replace(data, train=data.train[::-1])\n"
    )
    monkeypatch.delitem(sys.modules, "backwards_task", raising=False)
    with monkeypatch.context() as patch:
        patch.syspath_prepend(os.path.abspath("site"))
        plain, _ = trained("fox.txt", *SMALL)
        run, _ = trained("fox.txt", *SMALL, "--task", "backwards")
        assert (run.manifest["task"], run.settings.task) == (
            {"task": "backwards", "distribution": "rnn-task-backwards", "version": "1.0"},
            "backwards",
        )
        assert sessions.same_weights(plain, run) is False
        trained("--resume", run.name, "--steps", "20")
        assert rerun(run.name).stdout.endswith("The weights differ from those of gru-fox-2.\n")
        started, _ = trained("fox.txt", "--init-from", run.name, "--steps", "1")
        assert started.manifest["task"] == run.manifest["task"]
        assert refused("fox.txt", "--init-from", run.name, "--task", "language-model") == (
            "--task is language-model, and the run 'gru-fox-2' has backwards: leave it out, or start without "
            "--init-from"
        )
    for arguments in (["--resume", run.name], ["fox.txt", "--init-from", run.name]):
        assert refused(*arguments) == (
            "run 'gru-fox-2' uses the task 'backwards' from the distribution rnn-task-backwards 1.0, which is not "
            "installed: pip install rnn-task-backwards"
        )


def rerun(*arguments: str) -> Result:
    result = CliRunner().invoke(rnn, ["rerun", *arguments])
    assert result.exit_code == 0, result.output
    return result


def test_a_run_is_repeated() -> None:
    run, _ = trained("fox.txt", *SMALL, "--dropout", "0.2", "--num-layers", "2")
    result = rerun()
    assert result.stdout.splitlines()[-1] == "The weights are identical to those of gru-fox."
    assert (Path("runs/gru-fox-2", LAST)).read_bytes() == (run.path / LAST).read_bytes()
    assert json.loads(rerun("gru-fox", "--json", "--name", "third").stdout.splitlines()[-1]) == {"identical": True}
    assert rerun("gru-fox", "--quiet").output == ""


def test_a_run_that_was_ended_early_is_repeated_to_the_same_step() -> None:
    run, _ = trained("fox.txt", *SMALL, "--steps", "100000", "--max-time", "0.2s")
    step = run.manifest["step"]
    result = rerun(run.name)
    assert f"Note: gru-fox was ended early: its repetition ends after as many steps, {step:,}.\n" in result.stderr
    assert "The weights are identical to those of gru-fox.\n" in result.stdout


def test_a_repetition_says_what_is_not_the_same() -> None:
    run, _ = trained("fox.txt", *SMALL)
    trained("--resume", run.name, "--steps", "20")
    Path("fox.txt").write_text(TEXT + "!")
    result = rerun(run.name)
    digests = [
        json.loads(Path("runs", name, "run.json").read_text())["data"]["digest"] for name in ("gru-fox", "gru-fox-2")
    ]
    assert result.stderr.splitlines()[1:3] == [
        f"Note: the data have changed since gru-fox: {os.path.abspath('fox.txt')} has the SHA-256 {digests[1][:12]}, "
        f"and it was {digests[0][:12]}.",
        "Note: gru-fox was given another --steps at step 12; its repetition uses it from the beginning.",
    ]
    assert result.stdout.splitlines()[-1] == "The weights differ from those of gru-fox."
    run.update(settings=run.settings.to_json() | {"steps": 5})
    assert rerun("gru-fox").stdout.splitlines()[-1] == "The weights are of another step than those of gru-fox."


def test_a_mistake_as_a_process() -> None:
    with start("fox.txt", "--hidden-size", "0") as process:
        assert process.communicate() == (b"", b"Error: --hidden-size is 0; it must be at least 1\n")
        assert process.returncode == 2


def test_an_interruption_before_training_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sessions, "start", start)
    result = train("fox.txt")
    assert (result.exit_code, result.output) == (130, "\n")
