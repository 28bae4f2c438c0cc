"""Standard output and error: any encoding, any width, and no control characters from texts."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import names_task
import pytest
import tiny_runs
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import rnn_lab
from rnn_cli import completion
from rnn_cli.console import columns
from rnn_cli.main import COMMANDS, rnn
from rnn_lab.printable import printable

CYRILLIC = "Мой дядя самых честных правил, когда не в шутку занемог. " * 20

CLIPBOARD = "\x1b]52;c;cm0gLXJmIH4=\x07"
"""What writes the clipboard of a terminal that obeys it."""

HOSTILE = f"a{CLIPBOARD}\x1b[2J\x1b[45m\x9b2Jb\r\n\x7f\u202ec\u2066"

OWN = re.compile(r"\x1b\[([0-9;]*[34]8;[0-9;]+|1;\d+|2;\d+|[39][0-7]|0|1A|1|2K|2|3|\?25[lh])m?")
"""What Click and Rich themselves send."""

COMMANDS_OF_TERMINALS = re.compile(r"[\x00-\x09\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
"""All but line feeds and carriage returns, which Rich sends too."""

CELL = f"""
from dataclasses import dataclass
from rnn_cells import Cell


@dataclass(frozen=True)
class Odd(Cell):
    {HOSTILE + " Мой."!r}

    wild: str = {HOSTILE!r}

    def init_params(self, rng):
        return {{"W": self.dense(rng)["W"]}}

    def __call__(self, params, h, x):
        raise ValueError({HOSTILE!r})
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("streams")
    tiny_runs.train(home, CYRILLIC, "Онегин")
    tiny_runs.train(home, CYRILLIC, "дядя", hidden_size=8)
    (home / "cell.py").write_text(CELL, encoding="utf-8")
    (home / "names.py").write_text(Path(names_task.__file__).read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setenv("RNN_RUNS", "runs")
        patch.setenv("RNN_LAB_CACHE", "cache")
        small = {"hidden_size": 4, "steps": 2, "seed": 1}
        rnn_lab.train(["Онегин.txt", "дядя.txt"], task="./names.py:Names", name="имена", **small)
    return home


@pytest.fixture(autouse=True)
def settled(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("RNN_RUNS", str(folder / "runs"))
    monkeypatch.setenv("RNN_LAB_CACHE", str(folder / "cache"))
    monkeypatch.setenv("COLUMNS", "80")


ALL = [
    ["train", "Онегин.txt", "--steps", "4", "--hidden-size", "4", "--seed", "1"],
    ["train", "Онегин.txt", "--steps", "4", "--hidden-size", "4", "--seed", "1", "--json"],
    ["sample", "Онегин", "--length", "20", "--prime", "дядя", "--seed", "1"],
    ["predict", "имена", "дядя"],
    ["predict", "имена", "дядя", "--json"],
    ["eval", "Онегин"],
    ["eval", "Онегин", "--json"],
    ["score", "Онегин", "дядя.txt"],
    ["score", "Онегин", "дядя.txt", "--json"],
    ["report", "Онегин", "дядя", "--kind", "flow", "--kind", "heatmap", "--lags", "8", "--positions", "9"],
    ["report", "Онегин", "--kind", "parameters", "--json", "-"],
    ["report", "--list"],
    ["compare", "Онегин", "дядя"],
    ["rerun", "Онегин"],
    ["runs"],
    ["runs", "--json"],
    ["cells"],
    ["cells", "--json"],
    ["cells", "show", "gru"],
    ["cells", "show", "cell.py"],
    ["cells", "show", "cell.py", "--json"],
    ["cells", "show", "gru", "--graph"],
    ["cells", "check", "rnn"],
    ["tasks"],
    ["tasks", "--json"],
    ["tasks", "show", "language-model"],
    ["tasks", "check", "language-model", "дядя.txt"],
    ["explain", "forward", "--text", "привет"],
    ["explain"],
    ["explain", "gru", "--text", "привет"],
    ["explain", "bptt", "--text", "привет"],
]
"""Every command, with Cyrillic letters wherever there can be some."""

MISTAKEN = [
    ["sample", "нет"],
    ["train", "нет.txt"],
    ["runs", "--нет"],
    ["--нет"],
    ["нет"],
    ["cells", "show", "нет"],
    ["tasks", "show", "нет"],
    ["watch", "--нет"],  # without a mistake it does not end
]


def test_every_command_is_tried() -> None:
    assert {words[0] for words in ALL} == set(COMMANDS) - {"watch"}


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-16"])
@pytest.mark.parametrize("words", ALL + MISTAKEN, ids=" ".join)
def test_every_encoding_will_do(words: list[str], encoding: str) -> None:
    result = CliRunner(charset=encoding).invoke(rnn, words)
    assert result.exit_code == (2 if words in MISTAKEN else 0), result.output
    assert "bug in rnn-lab" not in result.stderr
    if "--json" in words and "train" not in words:
        assert "Мой" in result.stdout or json.loads(result.stdout)


def test_what_an_encoding_lacks_is_written_as_json_has_it() -> None:
    result = CliRunner(charset="cp1252").invoke(rnn, ["runs"])
    assert "\\u041e\\u043d\\u0435\\u0433\\u0438\\u043d" in result.stdout
    names = {run["name"] for run in json.loads(CliRunner(charset="cp1252").invoke(rnn, ["runs", "--json"]).stdout)}
    assert {"Онегин", "дядя"} <= names


def test_a_process_on_a_pipe_of_windows() -> None:
    environment = os.environ | {"PYTHONIOENCODING": "cp1252"}
    command = [sys.executable, "-c", "from rnn_cli.main import rnn; rnn()", "runs"]
    run = subprocess.run(command, env=environment, capture_output=True, check=True)
    assert b"\\u0434\\u044f\\u0434\\u044f" in run.stdout


# --- closed streams ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
@pytest.mark.parametrize(
    "words",
    [
        "train Онегин.txt --steps 4 --hidden-size 4 --seed 1",
        "sample Онегин --length 9",
        "eval Онегин",
        "report Онегин --lags 8 --positions 9",
        "runs",
        "cells show gru",
    ],
)
def test_a_closed_stream_leads_nowhere(words: str, closed: str) -> None:
    command = f"'{sys.executable}' -c 'from rnn_cli.main import rnn; rnn()' {words} {closed}"
    run = subprocess.run(["sh", "-c", command], capture_output=True, check=False)
    assert run.returncode == 0, run.stderr
    assert b"Error" not in run.stderr
    if closed[:3] == ">&-":
        assert run.stdout == b""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
@pytest.mark.parametrize("words", ["eval Онегин", "sample Онегин --length 9", "report Онегин --lags 8 --positions 9"])
def test_a_full_standard_error_stops_nothing(words: str) -> None:
    command = f"'{sys.executable}' -c 'from rnn_cli.main import rnn; rnn()' {words} 2>/dev/full"
    run = subprocess.run(["sh", "-c", command], capture_output=True, check=True)
    assert run.stdout


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_a_full_standard_output_is_told() -> None:
    command = f"'{sys.executable}' -c 'from rnn_cli.main import rnn; rnn()' runs >/dev/full"
    run = subprocess.run(["sh", "-c", command], capture_output=True, check=False)
    assert run.returncode == 1
    said = "standard output: no space left on device; make room on it, and run the same command again"
    assert run.stderr.decode() == f"Error: {said}\n"


# --- what a command tells of itself -----------------------------------------------------------------------------------


def every_command() -> Iterator[tuple[str, click.Command]]:
    context = click.Context(rnn)
    for name in COMMANDS:
        command = rnn.get_command(context, name)
        assert command is not None
        yield name, command
        if isinstance(command, click.Group):
            yield from ((f"{name} {part}", inner) for part, inner in command.commands.items())


def test_help_that_nobody_asked_for_has_its_lines() -> None:
    result = CliRunner().invoke(rnn, [])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == CliRunner().invoke(rnn, ["--help"]).stdout


def test_no_option_has_a_default_of_nothing() -> None:
    for name, _ in every_command():
        shown = " ".join(CliRunner().invoke(rnn, [*name.split(), "--help"]).stdout.split())
        assert "[default: ]" not in shown, name
        assert "[default: None]" not in shown, name


def test_commands_that_tell_what_they_are_at_can_be_told_not_to() -> None:
    quiet = {name for name, command in every_command() for option in command.params if "-q" in option.opts}
    assert quiet == {"train", "rerun", "report", "compare", "eval", "score"}


TELLING = {
    "report": ["report", "Онегин", "дядя", "--kind", "flow", "--kind", "parameters", "--lags", "8", "--positions", "9"],
    "fresh": ["report", "--cell", "rnn", "--steps", "2", "--hidden-size", "4", "--lags", "8", "--positions", "9"],
    "compare": ["compare", "Онегин", "дядя"],
    "eval": ["eval", "Онегин"],
    "score": ["score", "Онегин", "Онегин.txt"],
    "contest": [
        *("compare", "--cell", "rnn", "--cell", "gru", "Онегин.txt"),
        *("--hidden-size", "4", "--steps", "4", "--seeds", "1", "--match", "none"),
    ],
}

TOLD = {
    "report": ["flow of Онегин ...", "flow of дядя ...", "parameters of Онегин ...", "parameters of дядя ..."],
    "fresh": ["rnn: training for 2 steps ...", "flow of rnn ..."],
    "eval": ["evaluating Онегин on the held-out last 10 % of ", "counting n-grams ..."],
    "score": ["scoring Онегин.txt ..."],
    "compare": ["inspecting Онегин ...", "inspecting дядя ..."],
    "contest": ["1 of 2, rnn-", "2 of 2, gru-", "inspecting rnn-", "inspecting gru-"],
}


@pytest.mark.parametrize("which", TELLING)
def test_it_says_what_it_is_at_on_standard_error(which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    result = CliRunner().invoke(rnn, TELLING[which])
    lines = result.stderr.splitlines()
    for said in TOLD[which]:
        assert any(line.startswith(said) for line in lines), (said, lines)
    shown = on_terminal(TELLING[which], monkeypatch)
    for number, said in enumerate(TOLD[which], start=1):
        assert said.removesuffix(" ...") in shown
        if which == "report":
            assert re.search(rf"{said.removesuffix(' ...')} [━╸╺]+ {number} of 4  0:\d\d", shown)


@pytest.mark.parametrize("which", TELLING)
def test_quiet_leaves_the_result_alone(which: str) -> None:
    result = CliRunner().invoke(rnn, [*TELLING[which], "-q"])
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout


def test_quiet_tells_errors_all_the_same() -> None:
    result = CliRunner().invoke(rnn, ["report", "none", "-q"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("Error: there is no run called 'none'")


# --- terminals --------------------------------------------------------------------------------------------------------


class Terminal(io.TextIOWrapper):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def on_terminal(words: list[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """What a command sends to a terminal, both streams together, without the sequences of its own styles."""
    sent = io.BytesIO()
    terminal = Terminal(sent, encoding="utf-8", newline="\n", write_through=True)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", terminal)
        patch.setattr(sys, "stderr", terminal)
        patch.setenv("TERM", "xterm-256color")
        with pytest.raises(SystemExit):
            rnn.main(words)
    return OWN.sub("", sent.getvalue().decode())


@pytest.mark.parametrize("words", [["report", "--kind", "flo"], ["trian"], ["train", "--cell", "gur"]], ids=" ".join)
def test_an_error_is_wrapped_between_words(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    piped = CliRunner().invoke(rnn, words).stderr.splitlines()[-1]
    monkeypatch.setenv("COLUMNS", "40")
    shown = on_terminal(words, monkeypatch).partition("Error: ")[2]
    assert max(map(len, shown.splitlines())) < 40 < len(piped)
    assert ["Error:", *shown.split()] == piped.split()


def test_an_error_that_begins_with_a_long_word_is_an_error_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setenv("RNN_RUNS", str(folder / "runs"))
    shown = on_terminal(["runs", "mv", "Онегин", "дядя"], monkeypatch)
    assert shown.count("Error") == 1
    assert shown.splitlines()[0] == f"Error: '{folder / 'runs' / 'дядя'}'"


def test_no_error_is_wrapped_within_a_command_to_paste(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    shown = on_terminal(["train", "Онегин.txt", "--name", "Онегин"], monkeypatch)
    assert shown.splitlines()[-1].endswith("rnn train --resume 'Онегин'")
    shown = on_terminal(["plto"], monkeypatch)
    assert shown.splitlines()[-1] == "runs, cells, tasks, explain."  # the sentence after the command is wrapped again


@pytest.fixture
def hostile(folder: Path) -> Iterator[str]:
    """A run of whose folder and manifest nothing is harmless; its name."""
    path = folder / "runs" / HOSTILE
    shutil.copytree(folder / "runs" / "Онегин", path)
    manifest = json.loads((path / "run.json").read_text(encoding="utf-8"))
    manifest["task"] = manifest["outcome"] = HOSTILE
    manifest["cell"]["version"] = HOSTILE
    manifest["data"]["sources"] = [HOSTILE]
    (path / "run.json").write_text(json.dumps(manifest), encoding="utf-8")
    (folder / f"{HOSTILE}.txt").write_text(CYRILLIC, encoding="utf-8")
    yield HOSTILE
    shutil.rmtree(path)
    (folder / f"{HOSTILE}.txt").unlink()


@pytest.mark.parametrize(
    "words",
    [
        ["train", "NAME.txt", "--steps", "4", "--hidden-size", "4", "--seed", "1"],
        ["train", "NAME.none"],
        ["train", "Онегин.txt", "--name", "NAME"],
        ["train", "--resume", "NAME", "--steps", "40"],
        ["train", "--config", "NAME"],
        ["train", "Онегин.txt", "--cell", "NAME"],
        ["runs", "--sort", "loss", "--filter", "name=NAME"],
        ["runs", "--filter", "NAME"],
        ["runs", "show", "NAME"],
        ["runs", "rm", "NAME"],
        ["runs", "mv", "Онегин", "NAME"],
        ["sample", "NAME", "--length", "9"],
        ["sample", "NAME", "--prime", "NAME"],
        ["sample", "NAME", "--load-state", "NAME"],
        ["sample", "none"],
        ["eval", "NAME"],
        ["eval", "Онегин", "NAME.txt"],
        ["eval", "NAME", "--json"],
        ["score", "NAME", "NAME.txt"],
        ["report", "NAME", "--lags", "8", "--positions", "9"],
        ["report", "NAME", "--lags", "8", "--positions", "9", "--json", "-"],
        ["report", "NAME", "--lags", "8", "--positions", "9", "--html", "NAME.html"],
        ["report", "--kind", "NAME"],
        ["report", "--cell", "NAME"],
        ["compare", "NAME", "дядя"],
        ["compare", "--cell", "NAME", "--cell", "rnn"],
        ["rerun", "NAME"],
        ["runs"],
        ["runs", "--json"],
        ["runs", "NAME"],
        ["cells", "NAME"],
        ["cells", "show", "cell.py"],
        ["cells", "show", "cell.py", "--json"],
        ["cells", "check", "cell.py"],
        ["cells", "check", "cell.py", "--json"],
        ["cells", "show", "NAME"],
        ["explain", "bptt", "--text", "NAME"],
        ["explain", "forward", "--text", "NAME"],
        ["explain", "cell.py"],
        ["explain", "cell.py", "--json"],
        ["explain", "NAME"],
        ["explain", "bptt", "--seed", "NAME"],
        ["NAME"],
        ["--NAME"],
    ],
    ids=" ".join,
)
def test_nothing_of_others_commands_a_terminal(words: list[str], hostile: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = on_terminal([word.replace("NAME", hostile) for word in words], monkeypatch)
    assert sent
    assert not COMMANDS_OF_TERMINALS.findall(sent)
    assert "b\r" not in sent


def test_the_shell_completes_no_name_that_commands_it(hostile: str) -> None:
    names = [item.value for item in completion.runs(None, None, "")]  # type: ignore[arg-type]
    assert "Онегин" in names
    assert hostile not in names


def test_a_line_feed_in_a_name_makes_no_row(hostile: str, folder: Path) -> None:
    tables = CliRunner().invoke(rnn, ["runs"]).stdout.split("\n\n")
    named = 1 if len(tables) > 1 else 0  # each table is headed by its task
    assert sum(len(table.splitlines()) - 1 - named for table in tables) == len(os.listdir(folder / "runs"))


def test_sampled_text_commands_no_terminal_and_is_itself_in_a_pipe(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_runs.train(folder, (HOSTILE + "\t\n") * 60, "wild", steps=4)
    words = ["sample", "wild", "--prime", f"{HOSTILE}\t\n", "--length", "200", "--seed", "1"]
    raw = CliRunner().invoke(rnn, words).stdout_bytes.decode()
    assert raw.startswith(HOSTILE.replace("\r\n", "\n"))
    sent = on_terminal(words, monkeypatch)
    assert printable(raw, keep="\t\n") in sent
    assert CLIPBOARD not in sent


@given(st.text())
def test_printable_changes_no_length_and_nothing_twice(text: str) -> None:
    once = printable(text)
    assert len(once) == len(text)
    assert printable(once) == once
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", once)
    assert printable(text, keep="\n").count("\n") == text.count("\n")


def test_what_is_printable_stays() -> None:
    text = "naïve Онегин 漢字 \u200d\u200c👩\u200d🔬 \u00a0 e\u0301"
    assert printable(text) == text
    assert printable("a\tb\nc\x07") == "a⇥b↵c·"


@pytest.mark.parametrize(
    ("given", "terminal", "wide"),
    [("", False, 80), ("200", False, 80), ("50", False, 50), ("3", False, 20), ("200", True, 200), ("x", True, 80)],
)
def test_widths(given: str, terminal: bool, wide: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", given)
    assert columns((Terminal if terminal else io.TextIOWrapper)(io.BytesIO())) == wide
