"""The commands ``rnn tasks``, ``rnn tasks show`` and ``rnn tasks check``, on a third-party task."""

import json
import re
import shutil
from importlib.metadata import version
from pathlib import Path

import names_task
import pytest
from click.testing import CliRunner

from rnn_cli.main import rnn
from rnn_plugins import registry

INSTALLED = ", ".join(entry.name for entry in registry.entries("tasks"))

WRONG = """
from names_task import Names

class Forgetful(Names):
    def evaluate(self, model, params, examples):
        return {"loss": 0.5 + len(examples), "accuracy": 0.0}
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copy(names_task.__file__, "names.py")
    Path("wrong.py").write_text(WRONG)
    Path("Italian.txt").write_text(
        "\n".join(["Rossi", "Russo", "Ferrari", "Esposito", "Bianchi", "Romano", "Colombo", "Ricci"])
    )
    Path("Russian.txt").write_text(
        "\n".join(["Ivanov", "Smirnov", "Kuznetsov", "Popov", "Vasiliev", "Petrov", "Sokolov", "Ge"])
    )
    return tmp_path


def call(*args: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(rnn, ["tasks", *args])
    return result.exit_code, result.stdout, result.stderr


def test_every_installed_task_has_a_line() -> None:
    code, output, said = call()
    assert (code, said) == (0, "")
    rows = [re.split(r" {2,}", line) for line in output.splitlines()]
    assert rows[0] == ["NAME", "DISTRIBUTION", "VERSION", "SUMMARY"]
    assert [row[0] for row in rows[1:]] == [entry.name for entry in registry.entries("tasks")]
    (row,) = (row for row in json.loads(call("--json")[1]) if row["name"] == "language-model")
    assert (row["distribution"], row["version"]) == ("rnn-lab", version("rnn-lab"))


SHOWN = """\
names.py:Names, from {folder}/names.py

Tell the language of a name: one file per language, named after it, a name per
line.

Options, as --task-option NAME=VALUE
  valid_fraction  a number       default 0.1
  lower           true or false  default false

What is counted
  names

Metrics
  loss      nats  lower is better
  accuracy        higher is better, chooses the weights to keep, compares runs

Default files
  none: name some
"""


def test_a_task_is_shown(home: Path) -> None:
    assert call("show", "names.py:Names") == (0, SHOWN.format(folder=home.resolve()), "")
    record = json.loads(call("show", "names.py", "--json")[1])
    assert record == {
        "name": "names.py",
        "origin": str(home.resolve() / "names.py"),
        "text": "Tell the language of a name: one file per language, named after it, a name per line.",
        "options": [
            {"name": "valid_fraction", "expected": "a number", "choices": [], "default": 0.1},
            {"name": "lower", "expected": "true or false", "choices": [], "default": False},
        ],
        "unit": "names",
        "metrics": {
            "loss": {"unit": "nats", "direction": "min"},
            "accuracy": {"unit": "", "direction": "max"},
        },
        "best": "accuracy",
        "compared": "accuracy",
        "default_files": [],
    }


def test_a_right_task_passes_and_a_wrong_one_fails() -> None:
    files = ["Italian.txt", "Russian.txt"]
    code, output, said = call("check", "names.py:lower=true", *files)
    assert (code, said) == (0, "")
    *lines, last = output.splitlines()
    assert all(line.startswith("  ok    ") for line in lines)
    assert re.fullmatch(rf"names\.py passes all {len(lines)} checks; the largest relative error is \S+\.", last)
    code, output, _ = call("check", "wrong.py:Forgetful", *files, "--task-option", "lower=true")
    assert code == 1
    assert "  FAIL  " in output
    assert output.splitlines()[-1].startswith("wrong.py:Forgetful fails 1 of ")
    record = json.loads(call("check", "wrong.py:Forgetful", *files, "--json")[1])
    assert (record["task"], record["passed"]) == ("wrong.py:Forgetful", False)


def test_a_task_is_shown_with_its_options_and_what_is_said_of_them() -> None:
    code, output, said = call("show", "language-model")
    assert (code, said) == (0, "")
    assert "Attributes" not in output
    assert "  level           char, byte or word      default char   the kind of symbols.\n" in output
    assert "What is counted\n  characters\n" in output
    assert "What is counted\n  words\n" in call("show", "language-model:level=word")[1]
    assert "What is counted\n  bytes\n" in call("show", "language-model", "--task-option", "level=byte")[1]
    assert "  bits_per_character  bits per character  lower is better, compares runs\n" in output
    assert output.endswith("Default files\n  builtin:latex\n")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["show", "nams"], f"no task called 'nams'. Installed: {INSTALLED}"),
        (["show", "./names"], "'./names' is neither the name of a task nor a Python file: use path/to/file.py:Class"),
        (["show", "names.py:Name"], "names.py has no class called 'Name'. Did you mean 'Names'? Its tasks: Names"),
        (["check", "names.py:Names:low=1"],
         "the task 'names.py:Names' has no option called 'low'. Did you mean 'lower'? "
         "Its options: valid_fraction, lower"),
        (["check", "names.py:lower=maybe"],
         "the option 'lower' of the task 'names.py' must be true or false, and it is 'maybe'"),
        (["check", "names.py:lower=true", "--task-option", "lower=false"],
         "the task names.py:lower=true and --task-option lower=false contradict each other: leave one out"),
        (["check", "names.py", "--task-option", "lower"],
         "--task-option is 'lower'; write it as NAME=VALUE, such as pool=mean"),
    ],
)  # fmt: skip
def test_mistakes_are_sentences(args: list[str], message: str) -> None:
    assert call(*args) == (2, "", f"Error: {message}\n")
