"""How commands show their progress: live on a terminal, as lines, or not at all."""

import io
import os
import pty
import re
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from click.testing import CliRunner
from command_line import PROGRAM, SMALL, refused, settle, train
from rich.console import Console

from rnn_cli import bars
from rnn_cli.main import rnn
from rnn_lab.evaluation import evaluate
from rnn_lab.language.scoring import score
from rnn_lab.runs import Run
from rnn_plugins import progress

TINY = ["--hidden-size", "5", "--seq-length", "7", "--batch-size", "3", "--seed", "1", "--steps", "20"]
COMMANDS = {
    "train": ["train", "fox.txt", *TINY],
    "compare": ["compare", "fox.txt", "--cell", "rnn", "--cell", "gru", "--seeds", "1", *TINY],
    "report": ["report", "fox.txt", "--cell", "rnn", "--kind", "flow", "--hidden-size", "5", "--positions", "9"],
}
MOVES = re.compile(rb"\x1b\[(\?25[lh]|\d*[AK])")
"""The sequences that hide the cursor, move it up and clear a line."""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settle(tmp_path, monkeypatch)
    monkeypatch.delenv("JPY_PARENT_PID", raising=False)


def on_terminal(*arguments: str, **environment: str) -> bytes:
    """All that a command writes to a terminal."""
    leader, follower = pty.openpty()
    written = bytearray()

    def read() -> None:
        with suppress(OSError):  # the other end is closed
            while chunk := os.read(leader, 65536):
                written.extend(chunk)

    reader = threading.Thread(target=read)
    reader.start()
    with pytest.MonkeyPatch.context() as patch, os.fdopen(follower, "w", encoding="utf-8") as terminal:
        for name, value in ({"COLUMNS": "80", "LINES": "30", "TERM": "xterm"} | environment).items():
            patch.setenv(name, value)
        patch.setattr(sys, "stdout", terminal)
        patch.setattr(sys, "stderr", terminal)
        code = rnn.main(arguments, standalone_mode=False)
    reader.join()
    os.close(leader)
    assert not code, written
    return bytes(written)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_terminal_is_redrawn(command: str) -> None:
    assert MOVES.search(on_terminal(*COMMANDS[command]))


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("lacking", [{"JPY_PARENT_PID": "7"}, {"TERM": "dumb"}, {"TERM": "unknown"}], ids=str)
def test_in_notebooks_and_where_the_cursor_cannot_move_there_are_lines(command: str, lacking: dict[str, str]) -> None:
    written = on_terminal(*COMMANDS[command], **lacking)
    assert not MOVES.search(written)
    said = {"train": rb"step \d+  epoch", "compare": rb"2 of 2, gru-fox-s1: ", "report": rb"flow of rnn \.\.\."}
    assert len(re.findall(said[command], written)) == 1


@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_told_wins(command: str) -> None:
    assert not MOVES.search(on_terminal(*COMMANDS[command], "--progress", "plain"))
    assert MOVES.search(on_terminal(*COMMANDS[command], "--progress", "live", JPY_PARENT_PID="7"))


@pytest.mark.parametrize("command", COMMANDS)
def test_without_progress_the_rest_is_said(command: str) -> None:
    plain = CliRunner().invoke(rnn, [*COMMANDS[command], "--progress", "plain"]).stderr.splitlines()
    silent = CliRunner().invoke(rnn, [*COMMANDS[command], "--progress", "none"]).stderr.splitlines()
    moving = re.compile(r"step \d+  epoch|\d of 2, |flow of rnn|inspecting ")
    assert [line for line in plain if moving.match(line)]
    assert not [line for line in silent if moving.match(line)]
    told = {"train": "20 steps (", "compare": "On fox.txt, seed ", "report": "rnn: 1 x 5"}
    assert any(line.startswith(told[command]) for line in silent)


def test_ctrl_c_is_shown_on_a_line_of_its_own() -> None:
    """Behind a full line it would move the cursor down, and the next drawing would leave a line above it."""
    written = on_terminal(*COMMANDS["train"], "--steps", "3000")  # long enough for several drawings
    redrawn = [found.start() for found in re.finditer(rb"\r\x1b\[2K\x1b\[1A", written)]
    assert redrawn
    assert all(written[:place].endswith(b"\n") for place in redrawn)


@pytest.mark.parametrize("width", [40, 80])
def test_a_bar_fits_the_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(width=width, height=24, file=io.StringIO(), force_terminal=True, color_system=None)
    monkeypatch.setattr(bars, "errors", lambda: console)
    for name in ("flow of gru", "структура сети, которая обучена на романе в стихах и на письмах"):
        with console.capture() as capture:
            console.print(bars.bar(name, 0.5, "3 of 6  0:12"))
        rows = capture.get().splitlines()
        assert max(map(len, rows)) <= width
        assert "".join(rows).replace("━", "").replace("╸", "").split() == [*name.split(), "3", "of", "6", "0:12"]
        assert len(rows) == 1 if len(name) < 20 else len(rows) > 1


def test_an_evaluation_says_what_it_is_at() -> None:
    train("fox.txt", *SMALL)
    said = CliRunner().invoke(rnn, ["eval", "gru-fox"]).stderr.splitlines()
    assert [line for line in said if line.endswith(" ...")] == [
        "evaluating gru-fox on the held-out last 10 % of fox.txt ...",
        "counting n-grams ...",
    ]  # and its 54 characters are too few for compressors
    assert "..." not in CliRunner().invoke(rnn, ["eval", "gru-fox", "--progress", "none"]).stderr
    assert CliRunner().invoke(rnn, ["eval", "gru-fox", "--quiet"]).stderr == ""
    written = on_terminal("eval", "gru-fox")
    assert MOVES.search(written)
    assert b"evaluating gru-fox on the held-out last 10 % of fox.txt " in written


def test_training_says_on_a_terminal_that_it_reads_and_measures() -> None:
    written = on_terminal(*COMMANDS["train"])
    places = [written.index(said) for said in (b"reading fox.txt ", b"measuring the first steps ", b"540 characters")]
    assert places == sorted(places)
    for more in (["--quiet"], ["--progress", "plain"]):
        said = CliRunner().invoke(rnn, [*COMMANDS["train"], *more]).stderr
        assert not re.search("reading|measuring", said)


def test_the_share_that_is_done_is_told_while_a_text_is_read() -> None:
    train("fox.txt", *SMALL)
    run, told = Run(Path("runs", "gru-fox")), list[tuple[str | None, float | None]]()
    with progress.following(lambda what, share: told.append((what, share))):
        evaluate(run, ["fox.txt"])
    names = [what for what, _ in told if what]
    assert names[0] == "evaluating gru-fox on fox.txt"
    shares = [share for what, share in told if what is None]
    assert len(shares) > 1
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    told.clear()
    evaluate(run, ["fox.txt"])
    assert not told


def test_the_share_that_is_done_is_told_while_a_text_is_scored() -> None:
    train("fox.txt", *SMALL)
    Path("long.txt").write_text(Path("fox.txt").read_text() * 60)
    told = list[tuple[str | None, float | None]]()
    with progress.following(lambda what, share: told.append((what, share))):
        score(Run(Path("runs", "gru-fox")), ["long.txt"])
    assert [what for what, _ in told if what] == ["scoring long.txt"]
    shares = [share for what, share in told if what is None]
    assert len(shares) > 1
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_a_pipe_is_drawn_into_if_told() -> None:
    command = [sys.executable, "-c", PROGRAM, *COMMANDS["train"], "--progress", "live"]
    done = subprocess.run(command, capture_output=True, env=os.environ | {"TERM": "xterm"}, check=True)
    assert MOVES.search(done.stderr)
    assert not MOVES.search(done.stdout)


def test_a_terminal_that_cannot_be_redrawn_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    assert refused("fox.txt", *SMALL, "--progress", "live") == (
        "--progress live needs a terminal that can move its cursor, and TERM is 'dumb': use --progress plain, or set "
        "TERM to the terminal's name"
    )


def test_a_configuration_file_says_it_too() -> None:
    Path("run.toml").write_text('progress = "none"\n')
    result = train("fox.txt", *SMALL, "--config", "run.toml")
    assert result.exit_code == 0
    assert "step " not in result.stderr
    assert "step " in train("fox.txt", *SMALL, "--config", "run.toml", "--progress", "plain").stderr
    Path("run.toml").write_text('progress = "loud"\n')
    assert refused("fox.txt", *SMALL, "--config", "run.toml") == (
        "--progress is 'loud'; it must be one of live, plain, none"
    )
