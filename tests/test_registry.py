"""Names, options and files of cells; broken plugins are real distributions on the path, not mocks."""

import dataclasses
import hashlib
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import pytest

from rnn_cells import Cell
from rnn_cells.gru import GRU
from rnn_cells.lstm import LSTM, PeepholeLSTM
from rnn_cells.rnn import IRNN
from rnn_plugins import registry
from rnn_plugins.errors import UserError
from rnn_plugins.options import Option, split_spec
from rnn_plugins.registry import Entry
from rnn_plugins.tasks.language_model import LanguageModel
from rnn_plugins.trust import Untrusted, trusting

BUILT_IN = ["gru", "irnn", "lstm", "lstm-coupled", "lstm-peephole", "rnn"]

CELL = '''
from dataclasses import dataclass
from rnn_cells import Cell

@dataclass(frozen=True)
class {name}(Cell):
    """{summary}

    More text.
    """
'''


def error_of(function: Callable[..., object], *args: object) -> str:
    with pytest.raises(UserError) as caught:
        function(*args)
    return str(caught.value)


# --- names -----------------------------------------------------------------------------------------------------------


def test_the_built_in_cells_come_through_the_same_door():
    found = registry.entries("cells")
    assert [entry.name for entry in found if entry.distribution == "rnn-lab"] == BUILT_IN
    assert Entry("gru", "rnn-lab", found[0].version, "rnn_cells.gru:GRU") in found
    assert registry.load("cells", "gru") is registry.cell_class("gru") is GRU
    assert registry.load("tasks", "language-model") is LanguageModel


def test_listing_imports_neither_numpy_nor_a_plugin():
    code = """
        import sys
        from rnn_plugins import registry
        assert registry.entries("cells") and registry.entries("tasks")
        print([name for name in ("numpy", "minigrad", "rnn_cells", "rnn_plugins.tasks") if name in sys.modules])
    """
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


def test_asking_for_one_imports_one(install):
    install("one", "1", "one = plugin_one:One", plugin_one=CELL.format(name="One", summary="First."))
    install("two", "1", "two = plugin_two:Two", plugin_two="raise RuntimeError('nobody asked')")
    assert [entry.name for entry in registry.entries("cells") if entry.distribution in ("one", "two")] == ["one", "two"]
    assert registry.load("cells", "one").__name__ == "One"
    assert "plugin_two" not in sys.modules


def test_what_is_installed_is_read_again_when_something_was_installed(install, monkeypatch):
    entry_points, reads = metadata.entry_points, []
    monkeypatch.setattr(metadata, "entry_points", lambda **group: reads.append(group) or entry_points(**group))
    before = registry.entries("cells")
    before.clear()  # the caller's own
    before = registry.entries("cells")
    assert len(reads) == 1
    install("later", "1", "later = plugin_later:Later")
    assert [entry.name for entry in registry.entries("cells") if entry not in before] == ["later"]
    assert len(reads) == 2


def test_an_unknown_name_lists_the_known_and_suggests_the_nearest():
    installed = ", ".join(entry.name for entry in registry.entries("cells"))
    assert error_of(registry.cell_class, "gur") == f"no cell called 'gur'. Did you mean 'gru'? Installed: {installed}"
    assert (
        error_of(registry.cell_class, "LSTM") == f"no cell called 'LSTM'. Did you mean 'lstm'? Installed: {installed}"
    )
    assert error_of(registry.cell_class, "xyz") == f"no cell called 'xyz'. Installed: {installed}"
    installed = ", ".join(entry.name for entry in registry.entries("tasks"))
    assert error_of(registry.load, "tasks", "language-modle") == (
        f"no task called 'language-modle'. Did you mean 'language-model'? Installed: {installed}"
    )


def test_one_name_from_two_distributions_names_both(install):
    install("first", "1.0", "same = plugin_a:A", plugin_a=CELL.format(name="A", summary="A."))
    install("second", "2.0", "same = plugin_b:B", plugin_b=CELL.format(name="B", summary="B."))
    assert [entry.origin for entry in registry.entries("cells") if entry.name == "same"] == ["first 1.0", "second 2.0"]
    message = "first 1.0 and second 2.0 both offer a cell called 'same': uninstall one of them"
    assert error_of(registry.load, "cells", "same") == message
    assert rows(registry.entries("cells"))["same"] == ("", message)


def rows(entries: list[Entry]) -> dict[str, tuple[str, str | None]]:
    return {entry.name: tuple(registry.describe("cells", entry)) for entry in entries}


BROKEN = {
    "import jax_of_nobody": "broken:Thing raised ModuleNotFoundError: No module named 'jax_of_nobody'",
    "raise RuntimeError('first line\\nsecond')": "broken:Thing raised RuntimeError: first line",
    "raise ValueError": "broken:Thing raised ValueError",
    "import sys; sys.exit(3)": "broken:Thing raised SystemExit: 3",
    "raise KeyboardInterrupt": "broken:Thing raised KeyboardInterrupt",
    "raise BaseException('no')": "broken:Thing raised BaseException: no",
    "def": "broken:Thing raised SyntaxError: invalid syntax (broken.py, line 1)",
    "Other = 1": "broken:Thing raised AttributeError: module 'broken' has no attribute 'Thing'",
}


@pytest.mark.parametrize("source", BROKEN)
def test_a_plugin_that_cannot_be_imported_says_so(install, source):
    install("rnn-cell-broken", "0.3", "broken = broken:Thing", broken=source)
    message = f"the cell 'broken' of the distribution rnn-cell-broken 0.3 cannot be loaded: {BROKEN[source]}"
    assert error_of(registry.load, "cells", "broken") == message


WRONG_TYPE = {
    "def Thing(): ...": "broken:Thing is of type function",
    "class Thing: ...": "broken:Thing is the class Thing",
    "from rnn_cells.gru import GRU; Thing = GRU(3, 4)": "broken:Thing is of type GRU",
}


@pytest.mark.parametrize("source", WRONG_TYPE)
def test_a_plugin_of_the_wrong_type_says_so(install, source):
    install("rnn-cell-broken", "0.3", "broken = broken:Thing", broken=source)
    assert error_of(registry.load, "cells", "broken") == (
        "the cell 'broken' of the distribution rnn-cell-broken 0.3 is not a cell: "
        f"{WRONG_TYPE[source]}; it must be a subclass of rnn_cells.Cell"
    )


def test_a_task_of_the_wrong_type_says_so(install):
    install("rnn-task-broken", "0.3", "broken = rnn_cells.gru:GRU", group="tasks")
    assert error_of(registry.load, "tasks", "broken") == (
        "the task 'broken' of the distribution rnn-task-broken 0.3 is not a task: "
        "rnn_cells.gru:GRU is the class GRU; it must be a subclass of rnn_plugins.tasks.task.Task"
    )


def test_a_broken_plugin_hurts_no_other_row(install):
    install("works", "1", "works = works:Works", works=CELL.format(name="Works", summary="It works."))
    undocumented = CELL.partition('"""')[0].format(name="Silent") + "rate: float = 0.5"
    install("silent", "1", "silent = silent:Silent", silent=undocumented)
    install("broken", "1", "broken = broken:Thing", broken="1 / 0")
    found = rows(registry.entries("cells"))
    assert found["works"] == ("It works.", None)
    assert found["silent"] == ("", None)
    assert found["gru"] == ("The gated recurrent unit (Cho et al. 2014, arXiv:1406.1078).", None)
    assert found["broken"] == (
        "",
        "the cell 'broken' of the distribution broken 1 cannot be loaded: "
        "broken:Thing raised ZeroDivisionError: division by zero",
    )
    assert all(error is None for name, (_, error) in found.items() if name in BUILT_IN)


COMPUTED = {
    "class Doc:\n    def __get__(self, *_): raise KeyError('doc')\nThing.__doc__ = Doc()": "raised KeyError: 'doc'",
    "class Doc:\n    def __get__(self, *_): raise SystemExit\nThing.__doc__ = Doc()": "raised SystemExit",
    "Thing.__doc__ = 3": "raised AttributeError: 'int' object has no attribute 'startswith'",
}


@pytest.mark.parametrize("source", COMPUTED)
def test_a_docstring_that_fails_is_said_in_its_own_row(install, source):
    cell = CELL.format(name="Thing", summary="It works.")
    install("broken", "1", "broken = broken:Thing", broken=f"{cell}\n{source}")
    found = rows(registry.entries("cells"))
    assert found["broken"] == (
        "",
        f"the cell 'broken' of the distribution broken 1 cannot be described: broken:Thing {COMPUTED[source]}",
    )
    assert all(found[name][1] is None for name in BUILT_IN)


# --- cells from files ------------------------------------------------------------------------------------------------

TWO_CELLS = CELL.format(name="First", summary="One.") + CELL.format(name="Second", summary="Two.")


def write(path: Path, source: str) -> str:
    path.write_text(source)
    return str(path)


def test_a_cell_from_a_file(tmp_path):
    path = write(tmp_path / "my_cell.py", CELL.format(name="MyCell", summary="Mine.") + "class _Private(Cell): ...\n")
    cls = registry.cell_class(f"{path}:MyCell")
    assert issubclass(cls, Cell)
    assert cls.__name__ == "MyCell"
    assert registry.cell_class(path) is cls, "the one cell of a file needs no name"
    assert registry.make_cell(path, 3, 4, {}) == cls(3, 4)
    assert list(tmp_path.iterdir()) == [Path(path)], "nothing is written beside a user's file"


def test_a_changed_file_is_read_again(tmp_path):
    path = write(tmp_path / "my_cell.py", CELL.format(name="MyCell", summary="Before."))
    before = registry.cell_class(path)
    write(tmp_path / "my_cell.py", CELL.format(name="MyCell", summary="After."))
    assert (before.__doc__ or "").startswith("Before.")
    assert (registry.cell_class(path).__doc__ or "").startswith("After.")


def test_a_file_may_use_postponed_annotations_and_imported_cells(tmp_path):
    source = "from __future__ import annotations\nfrom rnn_cells.gru import GRU\n" + CELL.strip().format(
        name="MyCell", summary="Mine."
    )
    path = write(tmp_path / "my_cell.py", source + "\n    rate: float = 0.5\n")
    assert registry.cell_options(registry.cell_class(path)) == [Option("rate", float, 0.5, ())]
    assert registry.cell_class(f"{path}:GRU") is GRU


FILES = {
    (TWO_CELLS, ""): "{path} defines the cells First and Second: say which, as in {path}:First",
    (TWO_CELLS, ":Frist"): "{path} has no class called 'Frist'. Did you mean 'First'? Its cells: First, Second",
    ("x = 1", ""): "{path} defines no cell: write a subclass of rnn_cells.Cell in it",
    ("x = 1", ":X"): "{path} has no class called 'X'. Its cells: none",
    ("x = 1", ":x"): "x in {path} is of type int; a cell must be a subclass of rnn_cells.Cell",
    ("class Other: ...", ":Other"): "Other in {path} is the class Other; a cell must be a subclass of rnn_cells.Cell",
    ("\n1 / 0", ""): "{path} cannot be loaded: it raised at line 2 ZeroDivisionError: division by zero",
    ("def", ""): "{path} cannot be loaded: it raised SyntaxError: invalid syntax (my_cell.py, line 1)",
    ("import sys\nsys.exit()", ""): "{path} cannot be loaded: it raised at line 2 SystemExit",
}


@pytest.mark.parametrize(("source", "name"), FILES)
def test_what_can_be_wrong_with_a_file(tmp_path, source, name):
    path = write(tmp_path / "my_cell.py", source)
    assert error_of(registry.cell_class, path + name) == FILES[source, name].format(path=path)
    assert error_of(registry.cell_class, path + name) == FILES[source, name].format(path=path), (
        "the second time as well"
    )


def test_a_file_that_is_not_there(tmp_path):
    path = tmp_path / "my_cell.py"
    assert error_of(registry.cell_class, f"{path}:MyCell") == (
        f"there is no file {path}: give the Python file that defines the cell"
    )
    path.mkdir()
    assert error_of(registry.cell_class, f"{path}:MyCell") == f"{path} cannot be read: Is a directory"


@pytest.mark.parametrize("spec", ["./my_cell", "./my_cell:MyCell", "my_cell:MyCell", r"C:\my_cell"])
def test_what_is_neither_a_name_nor_a_file(spec):
    assert error_of(registry.cell_class, spec) == (
        f"{spec!r} is neither the name of a cell nor a Python file: use path/to/file.py:Class"
    )


# --- options ---------------------------------------------------------------------------------------------------------


def test_a_cell_or_a_task_with_options_behind_it():
    assert split_spec("gru", "cell") == ("gru", {})
    assert split_spec("lstm:forget-bias=2,second_bias=true", "cell") == (
        "lstm",
        {"forget_bias": "2", "second_bias": "true"},
    )
    assert split_spec("./a.py:Mine", "cell") == ("./a.py:Mine", {})
    assert split_spec("./a.py:Mine:leak=0.1", "cell") == ("./a.py:Mine", {"leak": "0.1"})
    assert split_spec("./a.py:leak=0.1", "cell") == ("./a.py", {"leak": "0.1"})
    assert error_of(split_spec, "lstm:a=1,b", "cell") == (
        "'lstm:a=1,b': 'b' is not an option; use NAME:KEY=VALUE, such as lstm:forget_bias=2"
    )
    assert error_of(split_spec, "./a.py:T:=1", "task") == (
        "'./a.py:T:=1': '=1' is not an option; use NAME:KEY=VALUE, such as language-model:level=word"
    )


@dataclass(frozen=True)
class Options(Cell):
    """A cell with an option of every type."""

    order: int
    rate: float = 0.5
    label: str = "x"
    fast: bool = False
    kind: Literal["diagonal", "full"] = "diagonal"
    power: Literal[1, 2] = 1
    anything: object = None


def test_the_options_of_a_cell():
    assert registry.cell_options(GRU) == [Option("reset", str, "before", ("before", "after"))]
    assert registry.cell_options(IRNN) == [
        Option("recurrent_scale", float, 1.0, ()),
        Option("input_scale", float, 1.0, ()),
    ]
    assert registry.cell_options(LSTM) == [
        Option("forget_bias", float, 1.0, ()),
        Option("chrono", int, 0, ()),
        Option("second_bias", bool, False, ()),
        Option("layer_norm", bool, False, ()),
    ]
    assert registry.cell_options(PeepholeLSTM)[2] == Option("peephole", str, "diagonal", ("diagonal", "full"))
    assert registry.cell_options(Options) == [
        Option("order", int, dataclasses.MISSING, ()),
        Option("rate", float, 0.5, ()),
        Option("label", str, "x", ()),
        Option("fast", bool, False, ()),
        Option("kind", str, "diagonal", ("diagonal", "full")),
        Option("power", int, 1, (1, 2)),
        Option("anything", object, None, ()),
    ]


def test_a_cell_with_options_given_as_text():
    assert registry.make_cell("gru", 3, 4, {"reset": "after"}) == GRU(3, 4, reset="after")
    assert registry.make_cell("lstm", 3, 4, {"forget_bias": "2", "second_bias": "yes"}) == LSTM(3, 4, 2.0, True)
    assert registry.make_cell("lstm", 3, 4, {"forget_bias": 2, "second_bias": False}) == LSTM(3, 4, 2.0, False)
    assert type(registry.make_cell("lstm", 3, 4, {"forget_bias": 2}).forget_bias) is float


@pytest.fixture
def options(install) -> str:
    install("rnn-cell-options", "1", f"options = {__name__}:Options")
    return "options"


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ({"order": "3"}, 3),
        ({"order": 3.0}, 3),
        ({"rate": "1e-3"}, 1e-3),
        ({"rate": -2}, -2.0),
        ({"label": ""}, ""),
        ({"label": 7}, "7"),
        ({"fast": "on"}, True),
        ({"fast": "FALSE"}, False),
        ({"fast": "0"}, False),
        ({"kind": "full"}, "full"),
        ({"power": "2"}, 2),
        ({"power": 2}, 2),
    ],
)
def test_values_are_read_by_the_type_of_the_field(options, given, value):
    (name,) = given
    made = getattr(registry.make_cell(options, 3, 4, {"order": 1} | given), name)
    assert made == value
    assert type(made) is type(value)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"order": "3.5"}, "a whole number, and it is '3.5'"),
        ({"order": 3.5}, "a whole number, and it is 3.5"),
        ({"order": True}, "a whole number, and it is True"),
        ({"order": ""}, "a whole number, and it is ''"),
        ({"rate": "fast"}, "a number, and it is 'fast'"),
        ({"rate": "nan"}, "a number, and it is 'nan'"),
        ({"rate": "inf"}, "a number, and it is 'inf'"),
        ({"rate": False}, "a number, and it is False"),
        ({"fast": "maybe"}, "true or false, and it is 'maybe'"),
        ({"fast": 2}, "true or false, and it is 2"),
        ({"kind": "ful"}, "diagonal or full, and it is 'ful'. Did you mean 'full'?"),
        ({"kind": "xyz"}, "diagonal or full, and it is 'xyz'"),
        ({"power": 3}, "1 or 2, and it is 3"),
        ({"anything": "x"}, "a value that only Python can give, and it is 'x'"),
    ],
)
def test_a_value_that_does_not_fit_says_what_would(options, given, expected):
    (name,) = given
    assert error_of(registry.make_cell, options, 3, 4, {"order": 1} | given) == (
        f"the option {name!r} of the cell 'options' must be {expected}"
    )


def test_options_that_are_unknown_or_missing(options):
    assert error_of(registry.make_cell, "gru", 3, 4, {"rest": "after"}) == (
        "the cell 'gru' has no option called 'rest'. Did you mean 'reset'? Its options: reset"
    )
    assert error_of(registry.make_cell, "lstm", 3, 4, {"hidden_size": 3}) == (
        "the cell 'lstm' has no option called 'hidden_size'. Its options: forget_bias, chrono, second_bias, layer_norm"
    )
    assert error_of(registry.make_cell, options, 3, 4, {}) == (
        "the cell 'options' needs its option 'order' to be given: a whole number"
    )


def test_what_the_cell_itself_refuses_is_a_sentence():
    assert error_of(registry.make_cell, "gru", 3, 0, {}) == (
        "GRU: hidden_size is 0; it must be a whole number of at least 1"
    )


def test_an_annotation_that_does_not_exist(tmp_path):
    source = "from __future__ import annotations\n" + CELL.format(name="MyCell", summary="Mine.")
    path = write(tmp_path / "my_cell.py", source + "    rate: Flaot = 0.5\n")
    assert error_of(registry.make_cell, path, 3, 4, {}) == (
        "the options of MyCell cannot be read: NameError: name 'Flaot' is not defined"
    )


# --- runs ------------------------------------------------------------------------------------------------------------


def test_a_run_remembers_where_its_cell_came_from(install):
    install("rnn-cell-mine", "0.1.0", "mine = mine:Mine", mine=CELL.format(name="Mine", summary="Mine."))
    recorded = registry.provenance("cells", "mine")
    assert recorded == {"cell": "mine", "distribution": "rnn-cell-mine", "version": "0.1.0"}
    cell = registry.cell_for_run("x", recorded, 3, 4, {})
    assert cell == registry.make_cell("mine", 3, 4, {})
    assert registry.changed("cells", "x", recorded) is None
    assert registry.changed("cells", "x", recorded | {"version": "0.0.9"}) == (
        "run 'x' used the cell 'mine' of rnn-cell-mine 0.0.9; now it is 0.1.0"
    )


def test_a_run_whose_plugin_is_missing_says_what_to_install():
    recorded = {"cell": "mgu", "distribution": "rnn-cell-mgu-of-nobody", "version": "0.1.0"}
    message = (
        "run 'x' uses the cell 'mgu' from the distribution rnn-cell-mgu-of-nobody 0.1.0, "
        "which is not installed: pip install rnn-cell-mgu-of-nobody"
    )
    assert error_of(registry.cell_for_run, "x", recorded, 3, 4, {}) == message
    assert error_of(registry.changed, "cells", "x", recorded) == message


def test_a_run_takes_its_own_distribution_where_two_offer_the_name(install):
    install("first", "1.0", "same = plugin_c:C", plugin_c=CELL.format(name="C", summary="C."))
    recorded = registry.provenance("cells", "same")
    install("second", "2.0", "same = plugin_d:D", plugin_d=CELL.format(name="D", summary="D."))
    assert type(registry.cell_for_run("x", recorded, 3, 4, {})).__name__ == "C"


def test_a_run_with_a_cell_from_a_file(tmp_path, monkeypatch):
    source = CELL.format(name="MyCell", summary="Mine.") + "    rate: float = 0.5\n"
    path = write(tmp_path / "my_cell.py", source)
    monkeypatch.chdir(tmp_path)
    recorded = registry.provenance("cells", "./my_cell.py")
    assert recorded == {
        "cell": "./my_cell.py", "file": path, "class": "MyCell", "sha256": hashlib.sha256(source.encode()).hexdigest(),
    }  # fmt: skip
    monkeypatch.chdir("/")
    assert registry.cell_for_run("x", recorded, 3, 4, {"rate": 2}).rate == 2.0
    assert registry.changed("cells", "x", recorded) is None
    Path(path).write_text(source + "\n")
    with trusting():
        assert registry.cell_for_run("x", recorded, 3, 4, {"rate": 2}).rate == 2.0
    assert registry.changed("cells", "x", recorded) == (
        f"{path} has changed since run 'x' began, so its cell may not be the one that was trained"
    )
    Path(path).unlink()
    message = f"run 'x' uses the cell 'MyCell' from {path}, which is not there: put the file back"
    assert error_of(registry.cell_for_run, "x", recorded, 3, 4, {}) == message
    assert error_of(registry.changed, "cells", "x", recorded) == message


# --- tasks and reports -----------------------------------------------------------------------------------------------

TASK = '''
from dataclasses import dataclass
from typing import Literal
from rnn_plugins.tasks.task import Task

@dataclass(frozen=True)
class Names(Task):
    """Names to languages.

    Attributes:
        pool: of which outputs the
            language is told.
        lowest: the least probability.
    """

    pool: Literal["last", "mean"] = "last"
    lowest: float = 0.5

    def __post_init__(self):
        if self.lowest < 0:
            raise ValueError(f"lowest is {self.lowest:g}; it must be at least 0")

    def read(self, files, facts=None, **purpose): ...

    def model(self, facts, network): ...
'''


@pytest.fixture
def names(tmp_path) -> str:
    return write(tmp_path / "names.py", TASK)


def test_a_task_from_a_file_with_its_options(names):
    task = registry.make_task(f"{names}:Names", {"pool": "mean", "lowest": "0.25"})
    assert (type(task).__name__, task.pool, task.lowest) == ("Names", "mean", 0.25)
    assert registry.make_task(names, {}) == type(task)()
    assert registry.options_of(type(task)) == [
        Option("pool", str, "last", ("last", "mean"), "of which outputs the language is told."),
        Option("lowest", float, 0.5, (), "the least probability."),
    ]


def test_what_a_task_refuses_is_a_sentence(names):
    assert error_of(registry.make_task, names, {"pol": "mean"}) == (
        f"the task {names!r} has no option called 'pol'. Did you mean 'pool'? Its options: pool, lowest"
    )
    assert error_of(registry.make_task, names, {"pool": "max"}) == (
        f"the option 'pool' of the task {names!r} must be last or mean, and it is 'max'"
    )
    assert error_of(registry.make_task, names, {"lowest": -1}) == (
        f"the task {names!r} cannot be made: lowest is -1; it must be at least 0"
    )
    Path(names).write_text(TASK.replace("def model", "def build"))
    assert error_of(registry.make_task, names, {}) == (f"the task {names!r} cannot be made: it does not define model")


def test_a_file_is_searched_for_what_is_asked_for(names, tmp_path):
    assert (
        error_of(registry.load, "cells", names) == f"{names} defines no cell: write a subclass of rnn_cells.Cell in it"
    )
    path = write(tmp_path / "my_cell.py", CELL.format(name="Mine", summary="Mine."))
    assert error_of(registry.load, "tasks", f"{path}:Mine") == (
        f"Mine in {path} is the class Mine; a task must be a subclass of rnn_plugins.tasks.task.Task"
    )
    assert error_of(registry.load, "tasks", "./names") == (
        "'./names' is neither the name of a task nor a Python file: use path/to/file.py:Class"
    )
    assert error_of(registry.load, "tasks", "nosuch.py") == (
        "there is no file nosuch.py: give the Python file that defines the task"
    )
    report = "from rnn_plugins.reports.report import Report\nclass Norms(Report):\n    def measure(self, *_): ...\n"
    path = write(tmp_path / "my_report.py", report)
    assert registry.load("reports", path).__name__ == "Norms"
    assert error_of(registry.load, "reports", f"{path}:Norm") == (
        f"{path} has no class called 'Norm'. Did you mean 'Norms'? Its reports: Norms"
    )


def test_a_run_finds_its_task_again(names, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recorded = registry.provenance("tasks", "names.py:Names")
    digest = hashlib.sha256(TASK.encode()).hexdigest()
    assert recorded == {"task": "names.py:Names", "file": names, "class": "Names", "sha256": digest}
    monkeypatch.chdir("/")
    assert registry.task_for_run("x", recorded, {"pool": "mean"}).pool == "mean"
    assert registry.changed("tasks", "x", recorded) is None
    Path(names).write_text(TASK + "\n")
    with pytest.raises(Untrusted) as caught:
        registry.task_for_run("x", recorded, {})
    assert str(caught.value) == (
        f"the task file {names} has changed since the run 'x' began, and is not executed: put the old one back, or use "
        "the run's weights with the changed task by repeating the command with --trust"
    )
    assert registry.changed("tasks", "x", recorded) == (
        f"{names} has changed since run 'x' began, so its task may not be the one that was trained"
    )
    with trusting():
        registry.task_for_run("x", recorded, {})
    Path(names).unlink()
    assert error_of(registry.task_for_run, "x", recorded, {}) == (
        f"run 'x' uses the task 'Names' from {names}, which is not there: put the file back"
    )


def test_a_task_file_that_was_never_given_is_not_executed(tmp_path):
    path = write(tmp_path / "theirs.py", f"{TASK}\nraise AssertionError\n")
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    recorded = {"task": "theirs.py", "file": path, "class": "Names", "sha256": digest}
    with pytest.raises(Untrusted) as caught:
        registry.task_for_run("x", recorded, {})
    assert str(caught.value) == (
        f"the run 'x' would execute the task file {path}, which you have never given with --task: read it, and if you "
        "trust it, repeat the command with --trust"
    )


def test_a_run_whose_task_is_missing_says_what_to_install(install):
    install("rnn-task-names", "0.1", "names = names_of_nobody:Names", group="tasks", names_of_nobody=TASK)
    recorded = registry.provenance("tasks", "names")
    assert recorded == {"task": "names", "distribution": "rnn-task-names", "version": "0.1"}
    assert type(registry.task_for_run("x", recorded, {})).__name__ == "Names"
    assert registry.changed("tasks", "x", recorded | {"version": "0.0"}) == (
        "run 'x' used the task 'names' of rnn-task-names 0.0; now it is 0.1"
    )
    recorded["distribution"] = "rnn-task-of-nobody"
    assert error_of(registry.task_for_run, "x", recorded, {}) == (
        "run 'x' uses the task 'names' from the distribution rnn-task-of-nobody 0.1, which is not installed: "
        "pip install rnn-task-of-nobody"
    )
