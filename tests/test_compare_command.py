"""``rnn compare``: existing runs and cells side by side, output, files and errors."""

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from command_line import timeless
from tiny_runs import TEXT
from tiny_runs import train as trained

import rnn_lab
from rnn_cli.main import rnn
from rnn_lab import sessions
from rnn_lab.comparison import trials
from rnn_lab.comparison.course import Course
from rnn_lab.comparison.plan import seconds_of
from rnn_lab.paths import METRICS
from rnn_lab.runs import find_runs
from rnn_lab.session import Session
from rnn_plugins.tasks.language_model import LanguageModel

SMALL = "--hidden-size 6 --seq-length 8 --batch-size 4 --steps 12 --seed 3 --learning-rate 0.01"


@pytest.fixture(autouse=True)
def settled(tmp_path, monkeypatch):
    """A folder with a text, fox.txt, and runs beside it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RNN_RUNS", "runs")
    monkeypatch.setenv("RNN_LAB_CACHE", "cache")
    monkeypatch.setattr(trials, "POSITIONS", 20)
    Path("fox.txt").write_text(TEXT)
    return tmp_path


def compare(line):
    result = CliRunner().invoke(rnn, ["compare", *shlex.split(line)])
    return result.exit_code, result.stdout, result.stderr


def refused(line):
    code, out, said = compare(line)
    assert (code, out) == (2, "")
    assert said.startswith("Error: ")
    return said.removeprefix("Error: ").removesuffix("\n")


def numbers(out, label):
    (page,) = json.loads(out)["reports"].values()
    return {quantity["key"]: quantity["value"] for quantity in page["quantities"][label]}


def test_cells_side_by_side_are_trained_said_and_compared():
    code, out, said = compare(f"--cell rnn --cell gru:reset=after fox.txt --seeds 2 {SMALL}")
    assert code == 0, said
    lines = said.splitlines()
    assert lines[0].startswith("rnn: 1 x 6, ")
    assert lines[1].startswith("gru:reset=after: 1 x ")
    assert lines[2] == "On fox.txt, seeds 3 to 4, with as many parameters as the first"
    finished = [line.partition(":")[0] for line in lines if " bits per character after 12 steps, " in line]
    assert finished == [
        "1 of 4, rnn-fox-s3",
        "2 of 4, gru-reset-after-fox-s3",
        "3 of 4, rnn-fox-s4",
        "4 of 4, gru-reset-after-fox-s4",
    ]
    for words in ("Comparison", "standard deviation", "operations per step", "Loss against time", "rnn-fox-s4"):
        assert words in out
    assert {run.name for run in find_runs()} == {line.partition(", ")[2] for line in finished}
    assert {run.settings.learning_rate for run in find_runs()} == {0.01}


def test_the_runs_can_be_compared_again_with_the_same_numbers():
    code, first, _ = compare(f"--cell rnn --cell gru fox.txt --seeds 2 --match none --json - {SMALL}")
    assert code == 0
    code, again, said = compare("rnn-fox-s3 runs/rnn-fox-s4 gru-fox-s3 gru-fox-s4 --json - -q")
    assert (code, said) == (0, "")
    for label in ("rnn", "gru"):
        assert numbers(first, label) == numbers(again, label)
    assert numbers(first, "gru")["hidden_size"] == 6
    about = json.loads(first)["about"]
    assert about[-1] == "On fox.txt, seeds 3 to 4, with the same settings"


def test_operations_and_seconds_can_be_kept_equal():
    code, out, said = compare(f"--cell rnn --cell lstm fox.txt --seeds 1 --match flops --json - {SMALL}")
    assert code == 0
    assert "with as many operations per step as the first" in said
    assert "seed 3, with" in said
    one, other = (numbers(out, label)["operations"] for label in ("rnn", "lstm"))
    assert abs(one - other) / one < 0.3
    timed = SMALL.replace("--steps 12", "--max-time 3s")
    code, out, said = compare(f"--cell rnn --cell lstm fox.txt --seeds 1 --match seconds --json - {timed}")
    assert code == 0
    assert "with the same training time" in said
    ended = [run for run in find_runs() if run.manifest["outcome"] == "time"]
    assert [(run.settings.max_time, run.settings.schedule) for run in ended] == [(3.0, "cosine")] * 2
    for run in ended:
        assert list(run.records())[-1]["learning_rate"] < 0.1 * run.settings.learning_rate


def test_runs_that_ended_with_their_time_are_shown_with_the_loss_that_is_recorded():
    compare(f"--cell rnn --cell gru fox.txt --seeds 1 --match seconds {SMALL.replace('--steps 12', '--max-time 0.1s')}")
    code, out, _ = compare("rnn-fox-s3 gru-fox-s3 --json -")
    assert code == 0
    for run in find_runs():
        assert numbers(out, run.name)["loss"] == run.manifest["best"]["metrics"]["loss"]


def test_pages_and_pictures_are_written():
    pytest.importorskip("matplotlib")
    compare(f"--cell rnn --cell gru fox.txt --seeds 1 {SMALL}")
    code, out, said = compare("rnn-fox-s3 gru-fox-s3 --html page.html --svg plots.svg --json numbers.json")
    assert code == 0
    assert "Loss against characters seen" in out
    assert "Written: page.html" in said
    assert "Loss against time" in Path("page.html").read_text()
    assert Path("plots.svg").read_text().count("<svg") == 1
    assert json.loads(Path("numbers.json").read_text())["heading"] == "rnn-fox-s3 and gru-fox-s3"


def test_runs_on_other_texts_are_shown_with_a_notice(tmp_path):
    trained(tmp_path, TEXT, "one")
    trained(tmp_path, TEXT.upper(), "other")
    code, out, _ = compare("one other")
    assert code == 0
    said = " ".join(out.split())
    assert said.count("the runs were not trained on the same data") == 1
    assert "No verdict, because the comparison is not fair: the runs were not trained on the same data" in said
    assert "No verdict, because the comparison is not fair" in out


def test_what_a_session_has_to_say_is_said_once():
    _, _, said = compare("--cell rnn --cell gru fox.txt --seeds 1 --hidden-size 4 --steps 2 --batch-size 500 --seed 1")
    assert said.count("Note: The text is short") == 1


def test_ctrl_c_compares_what_was_finished(monkeypatch):
    batch, calls = LanguageModel.batch, []

    def interrupting(self, data, step, size):
        calls.append(step)
        if len(calls) == 12 * 2 + 5:
            raise KeyboardInterrupt
        return batch(self, data, step, size)

    monkeypatch.setattr(LanguageModel, "batch", interrupting)
    code, out, said = compare(f"--cell rnn --cell gru fox.txt --seeds 2 --json - {SMALL}")
    assert code == 130
    assert said.splitlines()[-4:] == [
        f"Resume with: rnn compare --cell rnn --cell gru fox.txt --seeds 2 --json - {SMALL} --resume",
        "Interrupted: what follows compares the runs that were finished.",
        "inspecting rnn-fox-s3 ...",
        "inspecting gru-fox-s3 ...",
    ]
    assert [numbers(out, label)["seeds"] for label in ("rnn", "gru")] == [1, 1]
    (cut,) = (run for run in find_runs() if run.name == "rnn-fox-s4")
    assert cut.manifest["outcome"] == "interrupted"
    assert not cut.is_locked()


RESUMED = f"--cell rnn --cell gru fox.txt --seeds 2 --json - --valid-every 4 --dropout 0.2 {SMALL}".replace(
    "--seed 3 ", ""
)


@pytest.mark.parametrize("times", [1, 2])
def test_what_was_interrupted_is_resumed_bit_for_bit(times, monkeypatch):
    """In the third of four runs, by one Ctrl-C after a step or two: with a validation, or without."""
    batch, calls = LanguageModel.batch, []

    def interrupting(self, data, step, size):
        calls.append(step)
        if len(calls) == 12 * 2 + 6:
            for _ in range(times):
                os.kill(os.getpid(), signal.SIGINT)
        return batch(self, data, step, size)

    with monkeypatch.context() as patch:
        patch.setattr(LanguageModel, "batch", interrupting)
        code, _, said = compare(RESUMED)
    assert code == 130
    seed = min(run.settings.seed for run in find_runs())
    first, second = f"rnn-fox-s{seed}", f"rnn-fox-s{seed + 1}"
    assert f"3 of 4, {second}: interrupted after step 6 and saved" in said.splitlines()
    assert f"Resume with: rnn compare {RESUMED} --resume" in said.splitlines()
    before = {name: Path("runs", name, METRICS).stat().st_mtime_ns for name in (first, f"gru-fox-s{seed}")}
    code, out, said = compare(f"{RESUMED} --resume")
    assert code == 0, said
    lines = said.splitlines()
    assert f"1 of 4, {first}: finished before" in lines
    assert "Note: It resumes after step 6." in lines
    assert {name: Path("runs", name, METRICS).stat().st_mtime_ns for name in before} == before
    assert sorted(run.name for run in find_runs()) == sorted(
        f"{cell}-fox-s{s}" for cell in ("rnn", "gru") for s in (seed, seed + 1)
    )
    assert [numbers(out, label)["seeds"] for label in ("rnn", "gru")] == [2, 2]
    resumed = {run.name: run for run in find_runs()}
    monkeypatch.setenv("RNN_RUNS", "others")
    compare(f"{RESUMED} --seed {seed}")
    for run in find_runs():
        assert sessions.same_weights(resumed[run.name], run)
        assert resumed[run.name].params().keys() == run.params().keys()
        assert [timeless(r) for r in resumed[run.name].records()] == [timeless(r) for r in run.records()]


def test_a_killed_run_gets_the_time_back_that_was_not_saved(monkeypatch):
    """Otherwise it would be compared after less training than the others."""
    limited = "--cell rnn --cell gru fox.txt --seeds 1 --match seconds --max-time 1h --hidden-size 6 --seed 3"
    batch, limits = LanguageModel.batch, []

    def interrupting(self, data, step, size):
        if step == 6:
            os.kill(os.getpid(), signal.SIGINT)
        return batch(self, data, step, size)

    with monkeypatch.context() as patch:
        patch.setattr(LanguageModel, "batch", interrupting)
        assert compare(limited)[0] == 130
    (run,) = find_runs()
    saved = seconds_of(run)
    assert saved > 0
    with open(run.file(METRICS), "a") as records:  # as a killed process leaves them
        records.write(json.dumps([*run.records()][-1] | {"step": 50, "seconds": 600.0}) + "\n")
    monkeypatch.setattr(Session, "events", lambda self: limits.append(self.trainer.settings.max_time) or iter(()))
    compare(f"{limited} --resume")
    assert limits[0] == pytest.approx(3600 - saved)


def test_a_finished_comparison_is_extended_by_seeds():
    compare(f"--cell rnn --cell gru fox.txt --seeds 1 {SMALL}")
    code, _, said = compare(f"--cell rnn --cell gru fox.txt --seeds 2 {SMALL} --resume")
    assert code == 0
    assert [line for line in said.splitlines() if line.endswith("finished before")] == [
        "1 of 4, rnn-fox-s3: finished before",
        "2 of 4, gru-fox-s3: finished before",
    ]
    assert len(find_runs()) == 4


@pytest.mark.parametrize("change", ["--hidden-size 7", "--match none", "--seed 5", "--cell lstm"])
def test_another_comparison_is_not_resumed(change):
    compare(f"--cell rnn --cell gru fox.txt --seeds 1 {SMALL}")
    assert refused(f"--cell rnn --cell gru fox.txt --seeds 1 {SMALL} {change} --resume") == (
        "there is nothing to resume: no run in runs is of a comparison of these cells with these settings; leave out "
        "--resume"
    )
    assert len(find_runs()) == 2
    assert refused("one other --resume") == (
        "--resume applies only to cells that are trained: add --cell, or leave it out"
    )


def test_the_time_left_is_that_of_all_runs(monkeypatch):
    """Of each cell that has had a run, as long as that took; of the others, as long as the mean."""
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    shown = Course(2)
    session = SimpleNamespace(run=SimpleNamespace(name="run"))
    shown.begin(session, 1, 4)
    now[0] = 10.0
    shown.progress = SimpleNamespace(done=0.5, seconds_left=10.0)
    assert (shown.left(), shown.share) == (10 + 3 * 20, 0.125)
    now[0] = 20.0
    shown.end(session, None)
    assert shown.left() == 60
    shown.begin(session, 2, 4)
    now[0] = 25.0
    shown.progress = SimpleNamespace(done=0.1, seconds_left=35.0)
    assert shown.left() == 35 + 20 + 40
    now[0] = 60.0
    shown.end(session, None)
    assert shown.left() == 60
    shown.begin(session, 4, 4)
    now[0] = 70.0
    shown.progress = SimpleNamespace(done=0.1, seconds_left=5.0)
    assert shown.left() == 5
    shown.end(session, None)
    assert (shown.left(), shown.share) == (0, 1)


def test_ctrl_c_in_the_first_run_leaves_nothing_to_compare(monkeypatch):
    def interrupting(self, *_):
        raise KeyboardInterrupt

    monkeypatch.setattr(LanguageModel, "batch", interrupting)
    code, out, said = compare(f"--cell rnn --cell gru fox.txt {SMALL}")
    assert (code, out) == (130, "")
    assert said.splitlines()[-2].endswith("--resume")
    assert said.splitlines()[-1] == "Interrupted before two cells had a run, so there is nothing to compare."


def test_a_run_that_diverges_is_told_and_the_others_go_on():
    # Adam's steps are as long as its rate: rectified units grow beyond all numbers, and those of tanh do not.
    code, out, said = compare(
        "--cell rnn --cell irnn --cell lstm fox.txt --seeds 1 --hidden-size 6 --seq-length 30 --batch-size 4 "
        "--steps 12 --seed 3 --learning-rate 1e3"
    )
    assert code == 0
    (line,) = (line for line in said.splitlines() if "diverged" in line)
    assert line.startswith("2 of 3, irnn-fox-s3: diverged at step ")
    assert "irnn: the run 'irnn-fox-s3' diverged at step" in " ".join(out.split())
    assert "with the learning rate 1000: rnn rerun irnn-fox-s3 says why" in " ".join(out.split())
    assert "  What to try, in a new run: --learning-rate 1e+02 (it was 1e+03)." in said.splitlines()
    assert "3 of 3, lstm-fox-s3: " in said


REFUSED = [
    ("", "there is nothing to compare: name two runs, or give --cell twice and a FILE"),
    ("one", "there is only one run to compare, 'one': name another"),
    ("one one", "the run 'one' is named twice: leave one of them out"),
    ("one gone", "there is no run called 'gone' in runs. Did you mean 'one'? There is one"),
    ("one fox.txt", "'fox.txt' is a file: give --cell and --cell to train cells on it, or name runs"),
    ("--cell rnn fox.txt", "there is only one cell to compare, rnn: add another --cell"),
    ("--cell rnn --cell rnn fox.txt", "--cell rnn is given twice: leave one of them out"),
    (
        "--cell rnn --cell gru one",
        "'one' is a run; with --cell, expected a file to train on: leave one of them out",
    ),
    ("--cell rnn --cell gru fox.txt --seeds 0", "--seeds is 0; it must be at least 1"),
    ("--cell rnn --cell gru fox.txt --hidden-size 0", "--hidden-size is 0; it must be at least 1"),
    *(
        (
            f"one {option} {value}",
            f"{option} applies only to cells that are trained: add --cell, or leave it out",
        )
        for option, value in (("--match", "params"), ("--seeds", "2"), ("--hidden-size", "9"))
    ),
    (
        "--cell rnn --cell gru:reset fox.txt",
        "'gru:reset' is neither the name of a cell nor a Python file: use path/to/file.py:Class",
    ),
    (
        "--cell rnn --cell gru - --steps 1",
        "a pipe can be read only once, but each run reads the data: save them to a file first",
    ),
]


@pytest.mark.parametrize(("line", "said"), REFUSED, ids=[line for line, _ in REFUSED])
def test_what_is_refused_is_told_in_a_sentence(line, said, tmp_path):
    trained(tmp_path, TEXT, "one")
    before = {run.name for run in find_runs()}
    assert refused(line) == said
    assert {run.name for run in find_runs()} == before


def test_a_missing_text_is_told():
    assert "gone.txt" in refused("--cell rnn --cell gru gone.txt")


def test_an_unknown_match_is_told():
    code, _, said = compare("--cell rnn --cell gru --match time fox.txt")
    assert code == 2
    assert "'time' is not one of 'params', 'flops', 'seconds', 'none'" in said


def test_runs_without_a_loss_are_told(tmp_path):
    for name in ("one", "other"):
        run = trained(tmp_path, TEXT, name)
        del run.manifest["best"]
        run.update()
        (run.path / METRICS).unlink()
    assert refused("one other") == (
        "the run 'one' was not validated yet: train it longer; the run 'other' was not validated yet: train it longer"
    )


def test_as_a_process():
    line = f"compare --cell rnn --cell gru builtin:hello --seeds 1 {SMALL}"
    done = subprocess.run(
        [sys.executable, "-c", "from rnn_cli.main import rnn; rnn()", *line.split()],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONIOENCODING": "utf-8"},
    )
    assert done.returncode == 0, done.stderr
    assert "Loss against characters seen" in done.stdout
    assert "\x1b" not in done.stdout + done.stderr
    assert sorted(os.listdir("runs")) == ["gru-hello-s3", "rnn-hello-s3"]


def test_a_task_may_have_several_names():
    small = {"files": ("fox.txt",), "hidden_size": 4, "steps": 2, "seed": 1}
    for task in ("lm", "language-model"):
        rnn_lab.train(task=task, name=task, **small)
    code, out, _ = compare("lm language-model")
    assert code == 0
    assert "The runs" in out
