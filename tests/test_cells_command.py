"""The commands ``rnn cells``, ``rnn cells show`` and ``rnn cells check``."""

import dataclasses
import json
import re
import sys
from importlib.metadata import version
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner

from minigrad import trees
from minigrad.scan import chosen_backend
from rnn_cells.lstm import PeepholeLSTM
from rnn_cli import cells, tables
from rnn_cli.main import rnn
from rnn_plugins.inspect.description import describe_cell
from rnn_plugins.registry import entries

CELL = '''
from dataclasses import dataclass
import numpy as np
from minigrad import tanh
from rnn_cells import Cell

@dataclass(frozen=True)
class Mine(Cell):
    """A cell of my own.

        h_t = tanh(W x_t + h_{t-1})
    """
    depth: int
    scale: float = 0.5

    def init_params(self, rng):
        return {"W": rng.normal(0, self.scale, (self.input_size, self.hidden_size)).astype(np.float32)}

    def __call__(self, params, h, x):
        h = tanh(x @ params["W"] + h)
        return h, h

@dataclass(frozen=True)
class Mixes(Mine):
    depth: int = 1

    def __call__(self, params, h, x):
        h = tanh(x @ params["W"] + h.mean(axis=0, keepdims=True))
        return h, h

@dataclass(frozen=True)
class Raises(Mine):
    depth: int = 1

    def init_params(self, rng):
        raise RuntimeError("not yet written")

@dataclass(frozen=True)
class Decides(Mine):
    depth: int = 1

    def __call__(self, params, h, x):
        h = tanh(x @ params["W"] + h)
        return (h if h.sum() > 0 else -h), h

@dataclass(frozen=True)
class Fails(Mine):
    depth: int = 1

    def __call__(self, params, h, x):
        return tanh(x @ params["V"] + h), h
'''


def call(*args):
    result = CliRunner().invoke(rnn, ["cells", *args])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def file(tmp_path, monkeypatch):
    tmp_path.joinpath("mine.py").write_text(CELL)
    monkeypatch.chdir(tmp_path)
    return "mine.py"


@pytest.fixture
def broken(tmp_path, monkeypatch):
    """Three distributions whose cells cannot be used: an import error, a wrong type, a name that is taken."""
    for distribution, entry_point, source in [
        ("bad-import", "bad = bad_import:Cell", "import a_module_that_is_not_there"),
        ("bad-type", "odd = bad_type:Cell", "Cell = 3"),
        ("bad-name", "gru = bad_name:Cell", "from rnn_cells.gru import GRU as Cell"),
    ]:
        module = distribution.replace("-", "_")
        info = tmp_path / f"{module}-2.0.dist-info"
        info.mkdir()
        info.joinpath("METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 2.0\n")
        info.joinpath("entry_points.txt").write_text(f"[rnn.cells]\n{entry_point}\n")
        tmp_path.joinpath(f"{module}.py").write_text(source)
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))


# --- the list --------------------------------------------------------------------------------------------------------


def test_every_installed_cell_has_a_line():
    code, output, said = call()
    assert (code, said) == (0, "")
    lines = output.splitlines()
    assert lines[0].split() == ["NAME", "DISTRIBUTION", "VERSION", "SUMMARY"]
    rows = {line.split()[0]: re.split(r" {2,}", line) for line in lines[1:]}
    assert list(rows) == [entry.name for entry in entries("cells")]
    assert rows["gru"] == [
        "gru", "rnn-lab", version("rnn-lab"), "The gated recurrent unit (Cho et al. 2014, arXiv:1406.1078)."
    ]  # fmt: skip


def test_a_broken_plugin_shows_its_error_in_its_own_row(broken):
    code, output, _ = call()
    assert code == 0
    rows = {tuple(re.split(r" {2,}", line)[:2]): re.split(r" {2,}", line)[3] for line in output.splitlines()}
    assert rows["bad", "bad-import"] == (
        "cannot be used: the cell 'bad' of the distribution bad-import 2.0 cannot be loaded: bad_import:Cell raised "
        "ModuleNotFoundError: No module named 'a_module_that_is_not_there'"
    )
    assert rows["odd", "bad-type"].startswith("cannot be used: the cell 'odd' of the distribution bad-type 2.0 is no")
    clash = f"bad-name 2.0 and rnn-lab {version('rnn-lab')} both offer a cell called 'gru': uninstall one of them"
    assert rows["gru", "bad-name"] == rows["gru", "rnn-lab"] == f"cannot be used: {clash}"
    assert rows["lstm", "rnn-lab"].startswith("Long short-term memory")
    assert call("show", "gru") == (2, "", f"Error: {clash}\n")


def test_the_list_as_json(broken):
    rows = json.loads(call("--json")[1])
    assert [(row["name"], row["distribution"]) for row in rows] == [(e.name, e.distribution) for e in entries("cells")]
    by_name = {row["name"]: row for row in rows}
    assert by_name["lstm"]["error"] is None
    assert by_name["bad"]["summary"] == ""
    assert "ModuleNotFoundError" in by_name["bad"]["error"]


@pytest.mark.parametrize(("group", "what"), [("cells", "cells"), ("tasks", "tasks"), ("explain", "explanations")])
def test_an_option_of_the_list_before_a_command_is_not_ignored(group, what):
    command = {"tasks": ["show", "classify"], "explain": ["forward"]}.get(group, ["show", "lstm"])
    refused = CliRunner().invoke(rnn, [group, "--json", *command])
    said = f"Error: --json before a command is for the list of {what}: give it after that\n"
    assert (refused.exit_code, refused.stdout, refused.stderr) == (2, "", said)
    assert CliRunner().invoke(rnn, [group, *command, "--json"]).exit_code == 0


def test_a_table_wraps_its_last_column_on_a_terminal_only(monkeypatch):
    rows = [["a", "1,000", "one two three four five six"], ["long", "2", "short"]]
    plain = "N     COUNT  WORDS\na     1,000  one two three four five six\nlong      2  short\n"
    assert click.unstyle(tables.table(rows, ["N", "COUNT", "WORDS"], align="<>")) == plain
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "33")
    assert tables.table(rows, align="<>") == (
        "a     1,000  one two three four\n             five six\nlong      2  short\n"
    )
    assert tables.table([]) == ""


# --- a cell ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [entry.name for entry in entries("cells") if entry.distribution == "rnn-lab"])
def test_a_cell_is_shown_with_its_equations_and_parameters(name):
    code, output, said = call("show", name)
    assert (code, said) == (0, "")
    s = describe_cell(name, 65, 256, {})
    for line in s.text.splitlines():
        if " = " in line and "_t" in line:  # an equation stands as it was written
            assert f"\n    {line.strip()}\n" in output
    assert f"Parameters at --input-size 65 --hidden-size 256: {s.count:,}\n" in output
    shown = output.split("Parameters at")[1].split("Carry")[0]
    sizes = [np.prod([int(n) for n in re.findall(r"\d+", shape)]) for shape in re.findall(r"\((.*?)\)", shown)]
    assert sum(sizes) == s.count
    for option in s.options:
        default = str(option.default).lower() if option.type is bool else option.default
        assert re.search(rf"^  {option.name} +{option.expected} +default {default}$", output, re.MULTILINE)


def test_sizes_and_options_are_followed():
    code, output, _ = call(
        "show", "lstm-peephole", "--input-size", "3", "--hidden-size", "4", "--cell-option", "peephole=full"
    )
    assert code == 0
    count = trees.count(PeepholeLSTM(3, 4, peephole="full").init_params(np.random.default_rng(0)))
    assert f"Parameters at --input-size 3 --hidden-size 4: {count}\n" in output
    assert "  forget.W     (11, 4)\n" in output
    assert "  peephole     diagonal or full  default diagonal\n" in output
    assert "Carry of a sequence\n  0  (4,)\n  1  (4,)\n" in output
    assert "Suggested learning rate\n  0.01\n\nTime loop\n" in output


def test_options_may_stand_behind_the_name(file):
    by_option = call("show", "lstm-peephole", "--hidden-size", "4", "--cell-option", "peephole=full")
    assert call("show", "lstm-peephole:peephole=full", "--hidden-size", "4") == by_option
    assert call("show", "gru:reset=after", "--cell-option", "reset=after")[0] == 0
    assert call("show", "mine.py:Mine:depth=2", "--graph")[0] == 0
    code, output, _ = call("check", "gru:reset=after")
    assert code == 0
    assert output.splitlines()[-1].startswith("gru passes all ")


def test_what_a_cell_suggests_may_depend_on_its_options(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(
        "from rnn_cells.gru import GRU\n\n\nclass Own(GRU):\n"
        "    suggested_learning_rate = property(lambda self: 0.5 / self.hidden_size)\n"
    )
    assert describe_cell("own.py:Own", 3, 5, {}).learning_rate == 0.1


def test_a_cell_in_a_file(file, tmp_path):
    code, output, _ = call("show", "mine.py:Mine", "--cell-option", "depth=2")
    assert code == 0
    assert output.startswith(f"mine.py:Mine, from {tmp_path / 'mine.py'}\n\nA cell of my own.\n\n    h_t = tanh(W x_t")
    assert "  depth  a whole number  must be given\n" in output
    assert "Carry of a sequence\n  one array  (256,)\n" in output
    assert "Suggested learning rate\n  none\n\nTime loop\n" in output
    # Its docstring would be the one that dataclasses make up.
    assert "It has no docstring, so there are no equations to show.\n" in call("show", "mine.py:Mixes")[1]


def test_a_description_as_json():
    record = json.loads(call("show", "gru", "--input-size", "2", "--hidden-size", "3", "--json")[1])
    assert record["name"] == "gru"
    assert record["origin"] == f"rnn-lab {version('rnn-lab')}"
    assert record["options"] == [
        {"name": "reset", "expected": "before or after", "choices": ["before", "after"], "default": "before"}
    ]
    assert record["parameters"]["update.W"] == [5, 3]
    assert record["count"] == 3 * (5 * 3 + 3)
    assert record["carry"] == {"": [3]}
    assert record["learning_rate"] == 0.004
    assert record["time_loop"] | {"stages": []} == {"backend": chosen_backend(), "stages": [], "reason": ""}
    assert len(record["time_loop"]["stages"]) == 2
    assert set(record) == {field.name for field in dataclasses.fields(describe_cell("gru", 2, 3, {}))}


# --- its time loop ---------------------------------------------------------------------------------------------------


def test_what_the_planner_did_is_shown():
    output = call("show", "lstm", "--input-size", "3", "--hidden-size", "4")[1].split("\nTime loop\n")[1]
    first, *stages = output.splitlines()
    assert first == f"  It is planned, and runs on the backend {chosen_backend()} if it is large enough:"
    assert [line[:9] for line in stages] == ["  input  ", " " * 9, "  loop   ", " " * 9]
    assert stages[0].startswith("  input  1 product (3x16), ")
    assert stages[2].startswith("  loop   1 product (4x16), ")
    assert stages[3].startswith("         backward 1 product (16x4), ")


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ("Decides", "in line 44 of mine.py it decides by the value of a tensor (if, while, bool, float, int or item)"),
        ("Fails", "it raises KeyError: 'V'"),
    ],
)
def test_why_a_cell_cannot_be_planned_is_shown(file, cell, reason):
    code, output, said = call("show", f"mine.py:{cell}")
    assert (code, said) == (0, "")
    assert output.endswith(f"\nTime loop\n  It runs step by step, which is slow: {reason}.\n")
    loop = json.loads(call("show", f"mine.py:{cell}", "--json")[1])["time_loop"]
    assert loop == {"backend": "reference", "stages": [], "reason": reason}
    message = f"Error: a step of the cell 'mine.py:{cell}' cannot be written as a graph: {reason}\n"
    assert call("show", f"mine.py:{cell}", "--graph") == (2, "", message)


GRAPH = """\
params.U: float32[13, 17]
params.W: float32[17, 17]
params.b: float32[17]
carry: float32[B, 17]
x: float32[B, 13]
%0 = matmul(x, params.U): float32[B, 17]
%1 = matmul(carry, params.W): float32[B, 17]
%2 = add(%0, %1): float32[B, 17]
%3 = add(%2, params.b): float32[B, 17]
%4 = tanh(%3): float32[B, 17]
return %4, %4
"""


def test_the_graph_of_a_step():
    args = ["show", "rnn", "--input-size", "13", "--hidden-size", "17", "--graph"]
    assert call(*args) == (0, GRAPH, "")
    assert json.loads(call(*args, "--json")[1]) == {"name": "rnn", "graph": GRAPH.splitlines()}


@pytest.mark.parametrize("name", [entry.name for entry in entries("cells") if entry.distribution == "rnn-lab"])
def test_a_graph_can_be_read_in_eighty_columns(name, monkeypatch):
    lines = call("show", name, "--graph")[1].splitlines()
    assert max(map(len, lines)) <= 80
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "40")
    wrapped = cells._graph(lines).splitlines()
    assert max(map(len, wrapped)) <= 40
    assert " ".join(" ".join(wrapped).split()) == " ".join(lines)


# --- the check -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "args", [["gru"], ["gru", "--cell-option", "reset=after"], ["mine.py:Mine", "--cell-option", "depth=1"]]
)
def test_a_good_cell_passes_line_by_line(file, args):
    code, output, said = call("check", *args)
    assert (code, said) == (0, "")
    *lines, last = output.splitlines()
    assert all(line.startswith("  ok    ") for line in lines)
    found = re.fullmatch(rf"{args[0]} passes all (\d+) checks; the largest relative error is (\S+)\.", last)
    assert int(found[1]) == len(lines) > 10
    errors = [float(line.split()[-1]) for line in lines if re.search(r"e[+-]\d\d$", line)]
    assert max(errors) == float(found[2]) < 1e-6


def test_a_bad_cell_fails_with_exit_code_1(file):
    code, output, _ = call("check", "mine.py:Mixes")
    assert code == 1
    lines = output.splitlines()
    failed = [i for i, line in enumerate(lines) if line.startswith("  FAIL  ")]
    assert "  FAIL  batch rows" in output
    assert all(lines[i + 1].startswith("        ") for i in failed)
    assert lines[-1] == f"mine.py:Mixes fails {len(failed)} of {len(lines) - len(failed) - 1} checks."


def test_the_check_as_json(file):
    code, output, _ = call("check", "mine.py:Mixes", "--json")
    record = json.loads(output)
    assert code == 1
    assert (record["cell"], record["passed"]) == ("mine.py:Mixes", False)
    by_name = {check["name"]: check for check in record["checks"]}
    assert not by_name["batch rows"]["passed"]
    assert by_name["batch rows"]["detail"]
    assert json.loads(call("check", "rnn", "--json")[1])["passed"] is True


def test_advice_quotes_a_path_with_a_blank(file):
    Path(file).rename("my cell.py")
    said = call("show", "my cell.py:Raises")[2]
    assert said.endswith("rnn cells check 'my cell.py:Raises' says more\n")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["show", "gruu"], "no cell called 'gruu'. Did you mean 'gru'? Installed: "),
        (["check", "gruu"], "no cell called 'gruu'. Did you mean 'gru'? Installed: "),
        (["show", "gru", "--cell-option", "reset"],
         "--cell-option is 'reset'; write it as NAME=VALUE, such as forget_bias=2"),
        (["show", "gru:reset=after", "--cell-option", "reset=before"],
         "the cell gru:reset=after and --cell-option reset=before contradict each other: leave one out"),
        (["check", "gru:reset=after,x"],
         "'gru:reset=after,x': 'x' is not an option; use NAME:KEY=VALUE, such as lstm:forget_bias=2"),
        (["check", "gru", "--cell-option", "resets=after"],
         "the cell 'gru' has no option called 'resets'. Did you mean 'reset'? Its options: reset"),
        (["show", "gru", "--hidden-size", "0"], "GRU: hidden_size is 0; it must be a whole number of at least 1"),
        (["show", "mine.py:Mine"], "the cell 'mine.py:Mine' needs its option 'depth' to be given: a whole number"),
        (["show", "mine.py:Raises"],
         "the cell 'mine.py:Raises' cannot make its parameters: RuntimeError: not yet written; "
         "rnn cells check mine.py:Raises says more"),
    ],
)  # fmt: skip
def test_mistakes_are_sentences(file, args, message):
    code, output, said = call(*args)
    assert (code, output) == (2, "")
    expected = f"Error: {message}"
    assert said.startswith(expected) if message.endswith(": ") else said == expected + "\n"


def test_a_cell_that_raises_fails_its_check_and_nothing_else(file):
    code, output, said = call("check", "mine.py:Raises")
    assert (code, said) == (1, "")
    assert "RuntimeError: not yet written" in output
