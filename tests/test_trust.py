"""A run's code is executed only if the user has given it: every command that reads a run, and its messages."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import names_task
import pytest
from click.testing import CliRunner
from command_line import SMALL, settle, train, trained

from rnn_cli.main import rnn
from rnn_lab.paths import MANIFEST
from rnn_lab.runs import Run
from rnn_plugins import trust

CELL = """
from dataclasses import dataclass
from pathlib import Path
from minigrad import affine, concat, tanh
from rnn_cells import Cell

with Path("executed").open("a") as file:
    file.write("x")

@dataclass(frozen=True)
class Mine(Cell):
    def init_params(self, rng):
        return {"W": self.dense(rng)}

    def __call__(self, params, h, x):
        h = tanh(affine(params["W"], concat(h, x)))
        return h, h
"""

COMMANDS = {
    "sample": ["sample", "theirs", "--length", "5", "--seed", "1"],
    "eval": ["eval", "theirs"],
    "score": ["score", "theirs", "fox.txt"],
    "report": ["report", "theirs", "--kind", "flow", "--lags", "5", "--positions", "9"],
    "rerun": ["rerun", "theirs"],
    "resume": ["train", "--resume", "theirs", "--steps", "13"],
    "init-from": ["train", "fox.txt", "--init-from", "theirs", "--steps", "1"],
}
"""Every way in which a command opens one run."""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    settle(tmp_path, monkeypatch)
    monkeypatch.setenv("RNN_LAB_STATE", str(tmp_path / "state"))
    return tmp_path


def given() -> Path:
    """A run whose cell stands in a file, as its user leaves it."""
    file = Path("my_cell.py")
    file.write_text(CELL)
    trained("fox.txt", *SMALL, "--cell", "./my_cell.py:Mine", "--name", "mine")
    Path("executed").unlink()
    return file


def received(home: Path) -> Path:
    """The same run, as somebody gets it who has never given its file."""
    given()
    shutil.rmtree("state")
    file = (home / "runs" / "theirs" / "their_cell.py").resolve()
    shutil.move("runs/mine", "runs/theirs")
    shutil.move("my_cell.py", file)
    manifest = json.loads(Path("runs/theirs", MANIFEST).read_text())
    manifest["cell"]["file"] = os.path.relpath(file)  # an absolute path would have to be guessed
    manifest["cell"]["sha256"] = hashlib.sha256(file.read_bytes() + b"#").hexdigest()
    file.write_text(CELL + "#")
    Path("runs/theirs", MANIFEST).write_text(json.dumps(manifest))
    return file


@pytest.mark.parametrize("arguments", COMMANDS.values(), ids=COMMANDS)
def test_no_command_executes_what_a_run_names_before_its_user_says_so(arguments: list[str], home: Path) -> None:
    file = received(home)
    result = CliRunner().invoke(rnn, arguments)
    again = " ".join(["rnn", arguments[0], "--trust", *arguments[1:]])
    assert (result.exit_code, result.stdout, result.stderr) == (
        2,
        "",
        f"Error: the run 'theirs' would execute the cell file {file}, which you have never given with --cell: read "
        f"it, and if you trust it, repeat the command with --trust: {again}\n",
    )
    assert not Path("executed").exists()
    assert not Path("state").exists()
    result = CliRunner().invoke(rnn, again.split()[1:])
    assert result.exit_code == 0, result.output
    assert Path("executed").exists()
    result = CliRunner().invoke(rnn, arguments)  # what was trusted once needs no second word
    assert result.exit_code == 0, result.output


def test_a_comparison_executes_nothing_either(home: Path) -> None:
    trained("fox.txt", *SMALL, "--name", "plain")
    received(home)
    result = CliRunner().invoke(rnn, ["compare", "plain", "theirs"])
    assert result.exit_code == 0
    assert "which you have never given with --cell: read it, and if you trust it, repeat the command with --trust" in (
        " ".join(result.stdout.split())
    )
    assert not Path("executed").exists()
    assert CliRunner().invoke(rnn, ["runs"]).exit_code == 0
    assert not Path("executed").exists()
    result = CliRunner().invoke(rnn, ["compare", "--trust", "plain", "theirs"])
    assert "--trust" not in result.stdout
    assert Path("executed").exists()


def test_a_comparison_of_runs_that_all_execute_a_file_names_the_command_that_trusts_it() -> None:
    Path("names.py").write_text(Path(names_task.__file__).read_text())
    Path("Italian.txt").write_text("Rossi\nRusso\nFerrari\nEsposito\nBianchi\nRomano\nColombo\nRicci\nMarino\nGreco\n")
    Path("Czech.txt").write_text("Novak\nSvoboda\nNovotny\nDvorak\nCerny\nKucera\nVesely\nHorak\nNemec\nMarek\n")
    small = ["--hidden-size", "4", "--steps", "3", "--seed", "1"]
    for name in ("one", "two"):
        trained("--task", "./names.py:Names", "Italian.txt", "Czech.txt", *small, "--name", name)
    shutil.rmtree("state")
    for command in (["compare", "one", "two"], ["predict", "one", "Rossi"], ["sample", "one", "Rossi"]):
        result = CliRunner().invoke(rnn, command)
        again = " ".join(["rnn", command[0], "--trust", *command[1:]])
        assert (result.exit_code, result.stdout, result.stderr) == (
            2,
            "",
            f"Error: the run 'one' would execute the task file {Path('names.py').resolve()}, which you have never "
            f"given with --task: read it, and if you trust it, repeat the command with --trust: {again}\n",
        )
    result = CliRunner().invoke(rnn, ["compare", "--trust", "one", "two"])
    assert result.exit_code == 0, result.output
    assert "The highest accuracy is that of" in result.stdout


def test_ones_own_file_needs_no_flag_until_it_is_edited() -> None:
    file = given()
    command = ["sample", "mine", "--length", "5", "--seed", "1"]
    assert CliRunner().invoke(rnn, command).exit_code == 0
    file.write_text(CELL + "\n")
    Path("executed").unlink(missing_ok=True)
    result = CliRunner().invoke(rnn, command)
    assert (result.exit_code, result.stderr) == (
        2,
        f"Error: the cell file {file.resolve()} has changed since the run 'mine' began, and is not executed: put the "
        "old one back, or use the run's weights with the changed cell by repeating the command with --trust: "
        "rnn sample --trust mine --length 5 --seed 1\n",
    )
    trained("fox.txt", *SMALL, "--cell", "./my_cell.py:Mine", "--name", "second")  # the changed file is one's own too
    Path("executed").unlink()
    assert CliRunner().invoke(rnn, command).exit_code == 2
    assert CliRunner().invoke(rnn, ["sample", "second", "--length", "5"]).exit_code == 0
    result = CliRunner().invoke(rnn, ["sample", "--trust", *command[1:]])
    assert result.exit_code == 0
    assert "has changed since run 'mine' began, so its cell may not be the one that was trained" in result.stderr


@pytest.mark.parametrize("words", ["rerun mine", "train fox.txt --init-from mine"])
def test_a_run_that_begins_with_an_edited_file_belongs_to_that(words: str) -> None:
    given().write_text(CELL + "\n")
    assert CliRunner().invoke(rnn, [*words.split(), "--trust", "--name", "new"]).exit_code == 0
    result = CliRunner().invoke(rnn, ["sample", "new", "--length", "5"])
    assert (result.exit_code, "has changed" in result.stderr) == (0, False)


def test_a_file_that_is_given_for_a_run_that_has_it_is_trusted(home: Path) -> None:
    given()
    shutil.rmtree("state")
    assert train("--resume", "mine", "--cell", "./my_cell.py:Mine", "--steps", "13").exit_code == 0
    shutil.rmtree("state")
    assert train("fox.txt", "--init-from", "mine", "--cell", "./my_cell.py:Mine", "--steps", "1").exit_code == 0
    assert CliRunner().invoke(rnn, ["sample", "mine", "--length", "5"]).exit_code == 0


def test_path_and_content_are_kept_together(tmp_path: Path) -> None:
    trust.remember(tmp_path / "a.py", "11")
    trust.require("x", "cell", tmp_path / "a.py", "11", "11")
    for path, digest in (("a.py", "22"), ("b.py", "11")):
        with pytest.raises(trust.Untrusted):
            trust.require("x", "cell", tmp_path / path, digest, digest)
    (record,) = Path("state", "cells").iterdir()
    assert record.read_text() == f"11  {tmp_path / 'a.py'}\n"


def test_a_state_folder_that_cannot_be_written_costs_a_question(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("state").write_text("")  # a file stands where the folder would be
    given()
    assert CliRunner().invoke(rnn, ["sample", "mine", "--length", "5"]).exit_code == 2
    assert CliRunner().invoke(rnn, ["sample", "--trust", "mine", "--length", "5"]).exit_code == 0


def test_the_users_own_state_folder_is_the_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("RNN_LAB_STATE")
    monkeypatch.setattr("platformdirs.user_state_dir", lambda name, appauthor: str(tmp_path / name))
    trust.remember(tmp_path / "a.py", "11")
    assert len(list((tmp_path / "rnn-lab" / "cells").iterdir())) == 1


def test_a_configuration_file_cannot_say_it() -> None:
    Path("x.toml").write_text("trust = true\n")
    result = train("fox.txt", "--config", "x.toml")
    assert result.exit_code == 2
    assert "'x.toml': there is no option called 'trust'." in result.stderr


def test_a_cell_that_is_no_file_is_refused_before_it_is_opened(home: Path) -> None:
    received(home)
    run = Run(Path("runs/theirs"))
    os.mkfifo("pipe.py")
    run.manifest["cell"]["file"] = "pipe.py"
    run.update()
    result = CliRunner().invoke(rnn, COMMANDS["sample"])
    assert result.stderr == (
        "Error: run 'theirs' uses the cell 'Mine' from pipe.py, which is not there: put the file back\n"
    )


# --- tasks -----------------------------------------------------------------------------------------------------------

TASK = """
from pathlib import Path
from names_task import Names

with Path("executed").open("a") as file:
    file.write("x")

class Mine(Names):
    \"\"\"Names to languages.\"\"\"
"""

TASK_COMMANDS = {
    "eval": ["eval", "theirs", "Italian.txt", "Russian.txt"],
    "sample": ["sample", "theirs"],
    "report": ["report", "theirs", "--kind", "parameters"],
    "rerun": ["rerun", "theirs"],
    "resume": ["train", "--resume", "theirs", "--steps", "5"],
    "init-from": ["train", "Italian.txt", "Russian.txt", "--init-from", "theirs", "--steps", "1"],
}


@pytest.fixture
def names() -> Path:
    """A run whose task stands in a file, as somebody gets it who has never given that file."""
    Path("Italian.txt").write_text("Rossi\nRusso\nFerrari\nEsposito\nBianchi\nRomano\nColombo\nRicci\n")
    Path("Russian.txt").write_text("Ivanov\nSmirnov\nKuznetsov\nPopov\nVasiliev\nPetrov\nSokolov\nGe\n")
    file = Path("their_task.py")
    file.write_text(TASK)
    task = "./their_task.py:Mine:valid_fraction=0.25"
    arguments = ["--task", task, "--hidden-size", "4", "--steps", "3", "--seed", "1"]
    trained("Italian.txt", "Russian.txt", *arguments, "--name", "theirs")
    Path("executed").unlink()
    shutil.rmtree("state")
    path = file.resolve()
    file.write_text(TASK + "#")  # so that it is executed once more
    manifest = json.loads(Path("runs/theirs", MANIFEST).read_text())
    assert manifest["task"]["file"] == str(path)
    manifest["task"]["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    Path("runs/theirs", MANIFEST).write_text(json.dumps(manifest))
    return path


@pytest.mark.parametrize("arguments", TASK_COMMANDS.values(), ids=TASK_COMMANDS)
def test_no_command_executes_the_task_of_a_run_before_its_user_says_so(arguments: list[str], names: Path) -> None:
    result = CliRunner().invoke(rnn, arguments)
    again = " ".join(["rnn", arguments[0], "--trust", *arguments[1:]])
    assert (result.exit_code, result.stdout, result.stderr) == (
        2,
        "",
        f"Error: the run 'theirs' would execute the task file {names}, which you have never given with --task: read "
        f"it, and if you trust it, repeat the command with --trust: {again}\n",
    )
    assert not Path("executed").exists()
    assert not Path("state").exists()
    assert CliRunner().invoke(rnn, ["runs"]).exit_code == 0
    assert not Path("executed").exists()
    result = CliRunner().invoke(rnn, again.split()[1:])
    assert result.exit_code == (2 if arguments[0] == "sample" else 0), result.output  # it writes no texts
    assert Path("executed").exists()


def test_a_task_file_is_given_with_task_and_found_from_anywhere(names: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert train("--resume", "theirs", "--task", "./their_task.py:Mine", "--steps", "4").exit_code == 0
    (folder := Path("elsewhere")).mkdir()
    monkeypatch.setenv("RNN_RUNS", str(Path("runs").resolve()))
    monkeypatch.setenv("RNN_LAB_CACHE", str(Path("cache").resolve()))
    monkeypatch.chdir(folder)
    assert train("--resume", "theirs", "--steps", "5").exit_code == 0
    assert CliRunner().invoke(rnn, ["rerun", "theirs"]).exit_code == 0
    names.write_text(TASK + "##")
    result = CliRunner().invoke(rnn, ["rerun", "theirs"])
    assert result.stderr == (
        f"Error: the task file {names} has changed since the run 'theirs' began, and is not executed: put the old one "
        "back, or use the run's weights with the changed task by repeating the command with --trust: "
        "rnn rerun --trust theirs\n"
    )
