"""``rnn report``: runs and new cells, on the terminal and in files, and error messages."""

import errno
import json
import sys

import pytest
from click.testing import CliRunner
from tiny_runs import TEXT, train

from rnn_cli.drawing import terminal
from rnn_cli.main import rnn
from rnn_lab import reporting


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
    assert "its best weights, of step 30; measured on the held-out last 10 % of /" in err


def test_runs_are_compared(call):
    code, out, _ = call("first", "hamlet", "--json", "-")
    assert code == 0
    page = told(out)["flow"]
    assert page["subjects"] == ["first", "hamlet"]
    assert [curve["label"] for curve in page["figures"][0]["curves"]] == ["first, h", "first, c", "hamlet"]


def test_another_text(call):
    code, _, err = call("--text", "other.txt")
    assert code == 0
    assert "measured on other.txt (630 characters)" in err
    assert "Note: 'other.txt' has 1 character that the model has never seen, read as ' ' at 30 positions: '?'.\n" in err


def test_what_is_changed_in_a_text_and_that_nothing_is_held_out_is_said(call, folder, tmp_path):
    folder.joinpath("dos.txt").write_bytes(b"\xef\xbb\xbf" + TEXT.replace("\n", "\r\n").encode())
    note = "Note: In 'dos.txt', a byte order mark was left out and the line ends CR LF were read as LF.\n"
    assert note in call("hamlet", "--text", "dos.txt")[2]
    assert note in call("--cell", "gru", "dos.txt", "--hidden-size", "4")[2]
    run = train(tmp_path, TEXT, "everything", steps=1, valid_fraction=0.0)
    assert f"measured on the training data of {tmp_path}" in call(str(run.path))[2]


def test_fresh_cells_are_compared_on_a_text(call):
    args = ["--cell", "rnn:recurrent_scale=0.5", "--cell", "rnn", "other.txt", "--hidden-size", "9", "--json", "-"]
    code, out, err = call(*args)
    assert code == 0
    assert "Data: other.txt; measured on 63 characters held out; seed 1" in err
    page = told(out)["flow"]
    growth = {label: next(q["value"] for q in qs if q["key"] == "growth") for label, qs in page["quantities"].items()}
    assert growth["rnn:recurrent_scale=0.5"] < 0.6 < growth["rnn"]


def test_cells_read_embeddings_or_one_hot_symbols(call):
    args = ["--cell", "rnn", "other.txt", "--hidden-size", "9", "--json", "-"]
    inputs = {"0": 10 * 9, "3": 10 * 3 + 3 * 9}  # the text has ten characters
    for width, parameters in inputs.items():
        rest = 9 * 9 + 9 + 9 * 10 + 10
        assert f"rnn: 1 x 9, {parameters + rest} parameters" in call(*args, "--embedding-size", width)[2]
    assert call("--embedding-size", "0")[2].startswith("Error: --embedding-size applies only with --cell")


def test_cells_are_trained_for_some_steps_if_one_wishes(call):
    args = ["--cell", "gru", "other.txt", "--hidden-size", "9", "--json", "-"]
    _, before, _ = call(*args)
    code, after, err = call(*args, "--steps", "5")
    assert code == 0
    assert "gru: 1 x 9, 703 parameters, trained for 5 steps" in err
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
    assert err == "Error: --html needs the library matplotlib: pip install 'rnn-lab[plot]'\n"
    assert not out
    assert not folder.joinpath("b.html").exists()
    assert call()[0] == 0


def test_files_are_written_though_nobody_reads_on(call, folder, monkeypatch):
    def closed(pages):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr(terminal, "draw", closed)
    call("--html", "piped.html", "--svg", "piped.svg")
    assert folder.joinpath("piped.html").exists()
    assert folder.joinpath("piped.svg").exists()


def test_pictures_have_the_plots_alone(call):
    _, _, err = call("--kind", "parameters", "--png", "p.png", "--svg", "p.svg")
    remarks = [line for line in err.splitlines() if line.startswith("p.png and")]
    assert remarks == ["p.png and p.svg contain only the charts; --html shows 2 tables too"]
    _, _, err = call("--kind", "parameters", "--png", "p.png", "--html", "p.html")
    assert "p.png contains only the charts; p.html shows 2 tables too\n" in err
    assert "alone" not in call("--png", "p.png")[2]


def test_without_a_plot_the_terminal_still_says_what_was_found(call, folder):
    args = ["--cell", "gru", "other.txt", "--hidden-size", "9", "--kind", "parameters"]
    code, out, err = call(*args, "--png", "none.png")
    assert code == 2
    assert out.startswith("Parameters\n")
    assert err.splitlines()[-1].startswith("Error: --png has nothing to draw")
    assert not folder.joinpath("none.png").exists()


def test_the_two_tables_of_units_say_their_texts(call):
    _, out, _ = call("--kind", "saturation", "--kind", "parameters", "--json", "-")
    pages = told(out)
    titles = [figure["title"] for page in pages.values() for figure in page["figures"] if figure["key"] == "units"]
    assert titles == [
        "Saturated and dead units on the text",
        "Saturated and dead units on the training text",
    ]


def test_a_report_in_a_file(call, folder):
    folder.joinpath("mine.py").write_text(
        "from rnn_plugins.reports.report import Findings, Quantity, Report\n\n\n"
        "class Longest(Report):\n"
        '    title, question = "Longest", "How many steps are there before a loss?"\n\n'
        "    def measure(self, subject, look):\n"
        '        return Findings((Quantity("longest", "steps", subject.probe.longest()),))\n'
    )
    code, out, _ = call("--kind", "mine.py:Longest", "--kind", "flow", "--json", "-")
    assert code == 0
    pages = told(out)
    assert list(pages) == ["mine.py:Longest", "flow"]
    assert pages["mine.py:Longest"]["quantities"]["hamlet"][0]["value"] == len(TEXT) // 10 - 1


def test_the_options_of_a_run_are_told(call, tmp_path, monkeypatch):
    given = {"cell_option": {"forget_bias": "3"}, "ablate": {"output": "1"}, "steps": 1}
    train(tmp_path, TEXT, "odd", cell="lstm", **given)
    monkeypatch.setenv("RNN_RUNS", str(tmp_path / "runs"))
    _, _, err = call("odd")
    assert err.startswith("odd: lstm forget_bias=3, ablated output=1, 1 x 12, ")
    assert "its best weights, of step 1; " in err


def test_after_an_interrupt_it_says_that_nothing_was_written(call, folder, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(reporting, "make_pages", interrupted)
    code, out, err = call("--html", "never.html")
    assert (code, out) == (130, "")
    assert err.endswith("\nInterrupted before everything was measured: nothing was written.\n")
    assert not folder.joinpath("never.html").exists()


def test_units_are_taken_where_neurons_are_shown(call):
    assert call("--kind", "neurons", "--unit", "h.9")[0] == 0


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
        (["--steps", "5"], "--steps applies only with --cell: add --cell, or leave it out"),
        (["--task", "names"], "--task applies only with --cell: add --cell, or leave it out"),
        (["--level", "word"], "--level applies only with --cell: add --cell, or leave it out"),
        (["--kind", "flwo"], "no report called 'flwo'. Did you mean 'flow'? Installed: "),
        (["--all", "--kind", "flow"], "--all shows all kinds: leave out --kind"),
        (["--lags", "0"], "--lags is 0; it must be at least 1"),
        (["--html", "-"], "--html is '-'; name a file"),
        (["--json", "--quiet"], "--json is '--quiet', which is an option; name a file after --json"),
        (["--png", "-"], "--png is '-'; name a file"),
        (["--png", "x.jpg"], "--png is 'x.jpg'; its name must end in .png"),
        (["--svg", "x"], "--svg is 'x'; its name must end in .svg"),
        (["--unit", "h.9"], "--unit applies only to the kind neurons: add --kind neurons, or leave it out"),
        (
            ["--characters", "9"],
            "--characters applies only to the kind structure: add --kind structure, or leave it out",
        ),
        (
            ["hamlet", "--cell", "gru"],
            "'hamlet' is a run; with --cell, expected a file to inspect cells on: leave one of them out",
        ),
        (
            ["hamlet", "other.txt"],
            "'other.txt' is a file; expected a run: use --text other.txt to measure runs on it, or add --cell",
        ),
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


@pytest.mark.parametrize(
    ("cell", "rate", "advice"),
    [
        (
            "irnn:recurrent_scale=1.5",
            "1e-6",
            "a factor of 1.500 per step. To prevent that, try --cell-option recurrent_scale=1 (at which no step "
            "stretches it) or a cell with gates (--cell gru or --cell lstm), and clipping (--grad-clip 1)",
        ),
        ("gru", "1e38", ": lower --learning-rate (it is 1e+38) or --steps"),
    ],
)
def test_a_training_that_diverges_says_what_to_do(call, folder, cell, rate, advice):
    folder.joinpath("long.txt").write_text("not to be, or to be?\n" * 900)
    code, _, err = call("long.txt", "--cell", cell, "--hidden-size", "8", "--steps", "30", "--learning-rate", rate)
    assert code == 2
    assert "diverges at step" in err
    assert err.endswith(f"{advice}\n")
