"""``rnn report``: runs and fresh cells, on the terminal and in files, and what is said of mistakes."""

import json
import sys

import pytest
from click.testing import CliRunner
from tiny_runs import TEXT, train

from rnn_cli.main import rnn


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    train(folder, TEXT, "first", cell="lstm")
    train(folder, TEXT, "hamlet", newest=True)
    folder.joinpath("other.txt").write_text("not to be, or to be?\n" * 30)
    return folder


@pytest.fixture
def call(folder, monkeypatch):
    """Runs ``rnn report`` and gives exit code, standard output and standard error."""
    monkeypatch.setenv("RNN_RUNS", str(folder / "runs"))
    monkeypatch.setenv("RNN_LAB_CACHE", str(folder / "cache"))
    monkeypatch.chdir(folder)

    def call(*args):
        result = CliRunner().invoke(rnn, ["report", "--lags", "8", "--positions", "20", *args])
        return result.exit_code, result.stdout, result.stderr

    return call


def told(output):
    return json.loads(output)["reports"]


def test_the_newest_run_is_looked_at_on_what_it_held_out(call):
    code, out, err = call()
    assert code == 0
    assert out.startswith("Gradient flow\n")
    assert "half-life of dL/dh" in out
    assert "hamlet: gru, 1 x 12, " in err
    assert "trained for 30 steps; looked at on the held-out end of /" in err


def test_runs_are_compared(call):
    code, out, _ = call("first", "hamlet", "--json", "-")
    assert code == 0
    page = told(out)["flow"]
    assert page["subjects"] == ["first", "hamlet"]
    assert [curve["label"] for curve in page["figures"][0]["curves"]] == ["first, h", "first, c", "hamlet"]


def test_another_text(call):
    code, _, err = call("--text", "other.txt")
    assert code == 0
    assert "looked at on the text other.txt (630 symbols)" in err


def test_fresh_cells_are_compared_on_a_text(call):
    args = ["--cell", "rnn:recurrent_scale=0.5", "--cell", "rnn", "other.txt", "--hidden-size", "9", "--json", "-"]
    code, out, err = call(*args)
    assert code == 0
    assert "Text: other.txt, its last 63 symbols; seed 1" in err
    page = told(out)["flow"]
    growth = {label: next(q["value"] for q in qs if q["key"] == "growth") for label, qs in page["quantities"].items()}
    assert growth["rnn:recurrent_scale=0.5"] < 0.6 < growth["rnn"]


def test_cells_are_trained_for_some_steps_if_one_wishes(call):
    args = ["--cell", "gru", "other.txt", "--hidden-size", "9", "--json", "-"]
    _, before, _ = call(*args)
    code, after, err = call(*args, "--steps", "5")
    assert code == 0
    assert "gru: 1 x 9, 640 parameters, trained for 5 steps" in err
    assert told(before)["flow"]["quantities"] != told(after)["flow"]["quantities"]
    assert told(call(*args, "--steps", "5")[1]) == told(after)


def test_files_are_written(call, folder):
    code, out, err = call("--html", "a.html", "--png", "a.png", "--svg", "a.svg", "--json", "a.json")
    assert code == 0
    assert out.startswith("Gradient flow")
    for name in ("a.html", "a.png", "a.svg", "a.json"):
        assert f"Written: {name}" in err
    assert folder.joinpath("a.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in folder.joinpath("a.svg").read_text()
    assert folder.joinpath("a.html").read_text().startswith("<!DOCTYPE html>")
    assert json.loads(folder.joinpath("a.json").read_text())["reports"]["flow"]["subjects"] == ["hamlet"]


def test_without_the_library_that_draws_it_says_so_before_it_measures(call, monkeypatch, folder):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, out, err = call("--html", "b.html")
    assert code == 2
    assert err == "Error: --html needs the library matplotlib: install rnn-lab[plot]\n"
    assert not out
    assert not folder.joinpath("b.html").exists()
    assert call()[0] == 0


def test_the_kinds_are_listed(call):
    code, out, _ = call("--list")
    assert code == 0
    assert "flow        How far back in time the gradient of the loss reaches." in out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nobody"], "there is no run called 'nobody' in {runs}. There are hamlet and first"),
        (["hamlet", "hamlet"], "the run 'hamlet' is named twice: leave one of them out"),
        (["--cell", "gur"], "no cell called 'gur'. Did you mean 'gru'? Installed: "),
        (["--cell", "gru", "--cell", "gru"], "--cell gru is given twice: leave one of them out"),
        (["--cell", "gru", "nothing.txt"], "there is no file or folder 'nothing.txt'; give a text file"),
        (
            ["--cell", "gru", "--text", "other.txt"],
            "--text is for runs; with --cell the text is FILE: leave --text out",
        ),
        (["--steps", "5"], "--steps is for cells that are made for the report: give --cell too, or leave it out"),
        (["--kind", "flwo"], "no report called 'flwo'. Did you mean 'flow'? Installed: "),
        (["--all", "--kind", "flow"], "--all shows all kinds: leave out --kind"),
        (["--lags", "0"], "--lags is 0; it must be at least 1"),
        (["--html", "no/where.html"], "--html is 'no/where.html', and there is no folder 'no': make it first"),
        (
            ["--cell", "lstm:forget_bais=1"],
            "the cell 'lstm' has no option called 'forget_bais'. Did you mean 'forget_bias'?",
        ),
    ],
)
def test_a_mistake_is_a_sentence(call, folder, args, message):
    code, out, err = call(*args)
    assert (code, out) == (2, "")
    assert err.removeprefix("Error: ").startswith(message.format(runs=folder / "runs"))
    assert err.count("\n") == 1
