"""Standard input that is piped in and not read: every command that takes a text says so, and how to have it read."""

import os
import subprocess
import sys

import pytest
from tiny_runs import TEXT, train


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("piped")
    train(folder, TEXT, "hamlet", newest=True)
    folder.joinpath("empty.txt").write_text("")
    return folder


def said(folder, *args, **streams):
    """What ``rnn`` says on standard error."""
    command = [sys.executable, "-c", "from rnn_cli.main import rnn; rnn()", *args]
    environment = os.environ | {"RNN_RUNS": str(folder / "runs"), "RNN_LAB_CACHE": str(folder / "cache")}
    run = subprocess.run(command, env=environment, cwd=folder, capture_output=True, check=True, text=True, **streams)
    return run.stderr


SMALL = ["--hidden-size", "3", "--steps", "1"]


@pytest.mark.parametrize(
    ("args", "advice"),
    [
        (["train", *SMALL], "rnn train - reads it as data"),
        (["train", "--resume", "hamlet"], "rnn train - reads it as data"),
        (["sample", "--length", "5"], "rnn sample --prime-file - reads it as the prime"),
        (["eval"], "rnn eval hamlet - reads it as data"),
        (["report", "--kind", "parameters"], "rnn report --text - reads it as the text"),
    ],
)
def test_what_is_piped_in_and_not_read_is_said_to_be_ignored(folder, args, advice):
    note = f"Note: Standard input is ignored: {advice}."
    assert said(folder, *args, input="to be").splitlines().count(note) == 1
    with open(folder / "hamlet.txt") as file:
        assert note in said(folder, *args, stdin=file)


@pytest.mark.parametrize("args", [["train", "-", *SMALL], ["train", "hamlet.txt", *SMALL], ["eval", "-"]])
def test_nothing_is_said_where_it_is_read_or_a_text_is_named(folder, args):
    assert "ignored" not in said(folder, *args, input=TEXT)


def test_nothing_is_said_where_there_is_nothing(folder):
    assert "ignored" not in said(folder, "eval", stdin=subprocess.DEVNULL)
    assert "ignored" not in said(folder, "eval", input="")
    with open(folder / "empty.txt") as file:
        assert "ignored" not in said(folder, "eval", stdin=file)
    assert said(folder, "train", "--quiet", *SMALL, input="to be") == ""
