"""Files that commands write: tried before the work, written whole or not at all, with errors that name them."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_runs
from click.testing import CliRunner

from minigrad import checkpoint
from rnn_cli import output
from rnn_cli.main import rnn
from rnn_plugins.errors import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("output")
    tiny_runs.train(home, tiny_runs.TEXT, "hamlet")
    return home


@pytest.fixture(autouse=True)
def settled(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RNN_RUNS", str(folder / "runs"))
    monkeypatch.setenv("RNN_LAB_CACHE", str(folder / "cache"))


LOOK = ["report", "hamlet", "--lags", "8", "--positions", "9"]

WRITING = {
    "--html": [*LOOK, "--html"],
    "--png": [*LOOK, "--png"],
    "--svg": [*LOOK, "--svg"],
    "--json": [*LOOK, "--json"],
    "compare": ["compare", "hamlet", "hamlet", "--html"],
    "score": ["score", "hamlet", "hamlet.txt", "--html"],
    "--save-state": ["sample", "hamlet", "--length", "5", "--save-state"],
}
"""Every option that names a file to be written, to which its value is to be added."""

SUFFIXES = {"--png": ".png", "--svg": ".svg"}


def refused(words: list[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """The sentence with which a file is refused, before a run is looked for."""

    def found(name: str | None) -> Any:
        raise AssertionError("the work has begun")

    monkeypatch.setattr("rnn_lab.runs.find_run", found)
    monkeypatch.setattr("rnn_cli.score.find_run_and_files", found)
    result = CliRunner().invoke(rnn, words)
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    return result.stderr.removeprefix("Error: ").removesuffix("\n")


@pytest.mark.parametrize("which", WRITING)
def test_a_file_is_tried_before_the_work(which: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    option, suffix = WRITING[which][-1], SUFFIXES.get(which, "")
    where = f"no/where{suffix}"
    said = refused([*WRITING[which], where], monkeypatch)
    assert said == f"{option} is {where!r}, and there is no folder 'no': make it first"

    (tmp_path / f"folder{suffix}").mkdir()
    said = refused([*WRITING[which], f"folder{suffix}"], monkeypatch)
    assert said == f"{option} is 'folder{suffix}', which is a folder: name a file in it"

    long = "x" * 300 + suffix
    said = refused([*WRITING[which], long], monkeypatch)
    assert said == f"{option} is {long!r}, which cannot be written: file name too long; name another file"

    def closed(*_: Any, **__: Any) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied", ".x.tmp")

    with monkeypatch.context() as patch:
        patch.setattr("tempfile.TemporaryFile", closed)
        said = refused([*WRITING[which], f"file{suffix}"], monkeypatch)
    assert said == f"{option} is 'file{suffix}', which cannot be written: permission denied; name another file"
    assert os.listdir(tmp_path) == [f"folder{suffix}"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_what_is_closed_is_refused(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o555)
    (tmp_path / "kept").write_text("mine")
    (tmp_path / "kept").chmod(0o444)
    for path in ("closed/file", "kept"):
        with pytest.raises(UserError) as error:
            output.try_file("html", path)
        assert str(error.value) == f"--html is {path!r}, which cannot be written: permission denied; name another file"


def test_trying_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("old")
    (tmp_path / "link").symlink_to("old")
    (tmp_path / "dangling").symlink_to("new")
    for path in ("old", "link", "dangling", "none", os.devnull):
        output.try_file("json", path)
    assert sorted(os.listdir(tmp_path)) == ["dangling", "link", "old"]
    assert (tmp_path / "old").read_text() == "old"


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "page.html").write_text("old")

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        result = CliRunner().invoke(rnn, [*LOOK, "--html", "page.html", "--json", "page.json"])
    assert result.exit_code == 1
    assert result.stderr.endswith(
        "Error: 'page.json': no space left on device; make room on it, and run the same command again\n"
    )
    assert "Gradient flow" in result.stdout  # what was measured is shown all the same
    assert (tmp_path / "page.html").read_text() == "old"
    assert os.listdir(tmp_path) == ["page.html"]


def test_an_error_names_the_file_that_the_user_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", ".secret.tmp", None, "page.html")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(PermissionError) as error:
        checkpoint.write_atomically("page.html", "new")
    assert (error.value.filename, error.value.filename2) == ("page.html", None)
    assert os.listdir(tmp_path) == []


def test_devices_and_pipes_are_written_to_and_not_replaced(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from rnn_cli.main import rnn; rnn()", *LOOK, "--json", "/dev/stderr"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert '"heading": "hamlet"' in run.stderr
    result = CliRunner().invoke(rnn, ["sample", "hamlet", "--length", "5", "--save-state", os.devnull])
    assert (result.exit_code, result.stderr) == (
        2,
        f"Error: --save-state is {os.devnull!r}, which is not a file: name one\n",
    )


def test_json_is_the_same_in_a_file_and_on_standard_output(tmp_path: Path) -> None:
    shown = CliRunner().invoke(rnn, [*LOOK, "--json", "-"]).stdout
    CliRunner().invoke(rnn, [*LOOK, "--json", "page.json"])
    assert json.loads((tmp_path / "page.json").read_text()) == json.loads(shown)


def test_matplotlib_keeps_its_complaints_to_itself(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    folders = ("MPLCONFIGDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME")
    environment = {key: value for key, value in os.environ.items() if key not in folders}
    environment |= {"HOME": str(tmp_path / "file" / "none")}
    command = [sys.executable, "-c", "from rnn_cli.main import rnn; rnn()", *LOOK, "--png", "page.png"]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "atplotlib" not in run.stderr
    assert (tmp_path / "page.png").exists()
