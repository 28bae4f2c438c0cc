"""The commands ``rnn tasks``, ``rnn tasks show`` and ``rnn tasks check``, on a third-party task."""

import json
import re
import shutil
from importlib.metadata import version
from pathlib import Path

import names_task
import pytest
from click.testing import CliRunner

from minigrad.scan import chosen_backend
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
        "loops": [],
        "why_no_loops": "",
    }


LABELLED = "text\tlabel\n" + "a good film\tpos\na bad film\tneg\n" * 10
TAGGED = "the\tDET\ncat\tNOUN\nsleeps\tVERB\n\na\tDET\ndog\tNOUN\n\n" * 10
FILES = {"classify": ("texts.tsv", LABELLED), "tag": ("tags.conll", TAGGED)}
"""Of tasks without default files."""

UNPLANNED = """
import numpy as np
from names_task import Classifier, Names
from minigrad import mean, scan

def stubborn(params, h, x):
    h = h + x * params
    return (h if h.sum() > 0 else -h), h

class Stubborn(Classifier):
    def loss(self, params, carry, batch, rng):
        loss, carry = super().loss(params, carry, batch, rng)
        scale = params["head"]["b"][:1]
        ones = np.ones((4, 2, 3), np.float32)
        return loss + mean(scan(stubborn, scale, ones[0], ones)[1]), carry

class Unplanned(Names):
    def model(self, facts, network):
        known = super().model(facts, network)
        return Stubborn(**vars(known))
"""

LOST = """
from names_task import Names
from rnn_plugins.errors import UserError

class Lost(Names):
    default_files = ("lost.txt",)

    def read(self, files, facts=None, *, purpose="train"):
        raise UserError("lost.txt is lost: find it")
"""


@pytest.mark.parametrize("task", [entry.name for entry in registry.entries("tasks")])
def test_every_loop_of_every_installed_task_is_planned(task: str) -> None:
    if task in FILES:
        name, content = FILES[task]
        Path(name).write_text(content)
    files = (FILES[task][0],) if task in FILES else ()
    code, output, said = call("show", task, *files, "--hidden-size", "8", "--json")
    assert (code, said) == (0, "")
    record = json.loads(output)
    assert record["why_no_loops"] == ""
    assert record["loops"]
    for loop in record["loops"]:
        assert loop["time_loop"]["reason"] == ""
        assert loop["time_loop"]["backend"] == chosen_backend()
        assert any(
            re.match(r"(loop|input): \d+ products? .*backward .* values? kept$", s) for s in loop["time_loop"]["stages"]
        )


def test_the_loops_of_a_task_are_shown_on_given_files_and_cells() -> None:
    files = ("Italian.txt", "Russian.txt")
    code, output, said = call("show", "names.py:Names", *files, "--cell", "lstm:forget_bias=2", "--hidden-size", "4")
    assert (code, said) == (0, "")
    head, _, loop = output.partition("Time loop of ")
    assert head.endswith("none: name some\n\n")
    assert loop.startswith("LSTM\n  It is planned, and runs on the backend ")
    assert "\n  loop    1 product (4x16), " in loop


def test_a_loop_that_cannot_be_planned_is_shown_with_the_reason(home: Path) -> None:
    Path("unplanned.py").write_text(UNPLANNED)
    code, output, _ = call("show", "unplanned.py:Unplanned", "Italian.txt", "Russian.txt", "--hidden-size", "4")
    assert code == 0
    assert output.endswith(
        "Time loop of stubborn\n"
        "  It runs step by step, which is slow: in line 8 of unplanned.py it decides by the value of a tensor "
        "(if, while, bool, float, int or item).\n"
    )


def test_a_cell_that_does_not_exist_is_an_error_without_files_too() -> None:
    code, output, said = call("show", "names.py:Names", "--cell", "lstn")
    assert (code, output) == (2, "")
    assert said.startswith("Error: no cell called 'lstn'. Did you mean 'lstm'?")


def test_files_that_cannot_be_read_are_an_error_only_if_they_are_given() -> None:
    code, output, said = call("show", "names.py:Names", "missing.txt")
    assert (code, output) == (2, "")
    assert "missing.txt" in said
    Path("lost.py").write_text(LOST)
    code, output, _ = call("show", "lost.py:Lost")
    assert code == 0
    assert output.endswith(
        "Default files\n  lost.txt\n\n"
        "Time loop\n  It is unknown, since the default files cannot be read: lost.txt is lost: find it\n"
    )


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
    assert re.search(
        r"  level +text +default char +the kind of symbols: char, byte, word, or bpe:N for N tokens", output
    )
    assert "What is counted\n  characters\n" in output
    assert "What is counted\n  words\n" in call("show", "language-model:level=word")[1]
    assert "What is counted\n  bytes\n" in call("show", "language-model", "--task-option", "level=byte")[1]
    assert "  bits_per_character  bits per character  lower is better, compares runs\n" in output
    assert "Default files\n  builtin:latex\n\nTime loop of GRU\n" in output


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
