"""``rnn train`` and ``rnn predict`` in a folder of their own, for tests of their output and files."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from rnn_cli.main import rnn
from rnn_lab.runs import Run

TEXT = "the quick brown fox jumps over the lazy dog. " * 12
SMALL = ["--hidden-size", "5", "--seq-length", "7", "--batch-size", "3", "--seed", "1", "--steps", "12"]


def settle(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder that has a text, fox.txt; runs and cache are put beside it."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("RNN_RUNS", "runs")
    monkeypatch.setenv("RNN_LAB_CACHE", "cache")
    (folder / "fox.txt").write_text(TEXT)


def within(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder that has runs, on a terminal of 80 columns."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("RNN_RUNS", "runs")
    monkeypatch.setenv("COLUMNS", "80")


def predict(*arguments: str, stdin: str | None = None) -> tuple[int, str, str]:
    """The exit code of ``rnn predict``, and what it writes to standard output and standard error."""
    result = CliRunner().invoke(rnn, ["predict", *arguments], input=stdin)
    return result.exit_code, result.stdout, result.stderr


def train(*arguments: str, input: str | None = None) -> Result:
    return CliRunner().invoke(rnn, ["train", *arguments], input=input)


def trained(*arguments: str, input: str | None = None) -> tuple[Run, Result]:
    before = set(os.listdir("runs")) if os.path.isdir("runs") else set()
    result = train(*arguments, input=input)
    assert result.exit_code == 0, result.output
    (name,) = set(os.listdir("runs")) - before or {result.stdout.split(":")[0].removeprefix("runs/")}
    return Run(Path("runs", name)), result


def refused(*arguments: str, input: str | None = None) -> str:
    """The sentence with which a command line is refused."""
    result = train(*arguments, input=input)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("Error: "), result.stderr
    return result.stderr.removeprefix("Error: ").removesuffix("\n")


LONG = [*SMALL, "--steps", "400", "--dropout", "0.1", "--valid-every", "50"]


PROGRAM = "from rnn_cli.main import rnn; rnn()"

SIGNALLED = (
    """
import os
from rnn_cli import display

def show(self, progress, show=display.Lines.show):
    if progress.step.step == {step}:
        for _ in range({times}):
            os.kill(os.getpid(), {number})
    show(self, progress)

display.Lines.show = show
"""
    + PROGRAM
)
"""The program that gets signals after a certain step, however fast the machine is."""


def start(*arguments: str, program: str = PROGRAM, **options: Any) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-c", program, "train", *arguments]
    return subprocess.Popen(command, **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options)


def timeless(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key not in ("seconds", "units_per_second")}
