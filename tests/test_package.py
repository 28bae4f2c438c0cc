"""The whole distribution: its layers, the content of its wheel, and which imports fast commands may make."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path
from pkgutil import walk_packages

import numpy as np
import pytest
from importlinter import api

import minigrad
from rnn_cli.main import COMMANDS

ROOT = Path(__file__).parents[1]
PACKAGES = {"minigrad", "rnn_cells", "rnn_plugins", "rnn_lab", "rnn_cli"}
REQUIRED = {"numpy", "click", "rich", "safetensors", "platformdirs", "filelock", "threadpoolctl"}


def test_imports_run_downward_only(monkeypatch):
    monkeypatch.chdir(ROOT)
    layers, inside = api.read_configuration("pyproject.toml")["contracts_options"]
    assert layers["layers"] == ["rnn_cli", "rnn_lab", "rnn_plugins", "rnn_cells", "minigrad"]
    assert (inside["source_modules"], inside["forbidden_modules"]) == (["minigrad.compiled"], ["minigrad.scan"])
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]
    done = subprocess.run([*command, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_a_wheel_holds_the_five_packages_and_nothing_else(tmp_path):
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == PACKAGES
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(names)
    assert {"rnn_lab/drawing/page.js", "rnn_lab/drawing/watch.js"} <= set(names)
    assert not [name for name in names if "test_" in name or name.endswith(".pyc")]


def modules() -> list[str]:
    """All modules of the distribution."""
    paths = {name: __import__(name).__path__ for name in PACKAGES}
    return sorted({*PACKAGES, *(each.name for name in PACKAGES for each in walk_packages(paths[name], f"{name}."))})


@pytest.mark.parametrize("name", modules())
def test_an_import_finds_the_module_of_its_name(name):
    """No function of a package hides a module of it."""
    scope: dict[str, object] = {}
    exec(f"import {name} as found", scope)
    assert scope["found"] is sys.modules[name]


def test_the_time_loop_is_called_by_the_name_of_its_package():
    carry, ys = minigrad.scan(lambda p, h, x: (h + x, h), {}, np.zeros((1, 2)), xs=np.ones((3, 1, 2)))
    assert (carry.tolist(), ys.shape) == ([[3, 3]], (3, 1, 2))
    assert minigrad.scan.scan is minigrad.scan.planned.scan


def imported(program: str, **environment: str) -> set[str]:
    """What a program imports from outside the standard library, by its top-level names, and ``logging``."""
    listing = f"""
import atexit, sys
before = set(sys.modules)
atexit.register(lambda: print(*{{name.split(".")[0] for name in sys.modules.keys() - before}}, file=sys.__stderr__))
{program}
"""
    command = [sys.executable, "-c", listing]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | environment)
    assert "Traceback" not in done.stderr
    # NumPy's own modules in Cython leave names beside its own.
    names = {name for name in done.stderr.splitlines()[-1].split() if "cython" not in name}
    return {name for name in names if name not in sys.stdlib_module_names or name == "logging"}


def of_command(*args: str) -> str:
    return f"from rnn_cli.main import rnn; rnn({list(args)!r})"


def test_the_list_of_what_is_imported_is_one():
    assert imported("import click, json, logging") == {"click", "logging"}


@pytest.mark.parametrize(
    ("program", "allowed"),
    [
        ("import rnn_cli.main", {"rnn_cli", "rnn_lab", "click"}),
        ("import minigrad", {"minigrad", "numpy", "platformdirs", "logging"}),
        ("import minigrad.scan", {"minigrad", "numpy", "platformdirs", "logging"}),
        ("import rnn_cells", {"rnn_cells", "minigrad", "numpy", "platformdirs", "logging"}),
        ("import rnn_lab.sessions", {*PACKAGES, *REQUIRED, "logging"} - {"rnn_cli", "click", "rich"}),
    ],
)
def test_what_an_import_imports(program, allowed):
    assert imported(program) <= allowed


@pytest.mark.parametrize(
    "args", [["--help"], ["--version"], ["trian"], *([command, "--help"] for command in COMMANDS)], ids=" ".join
)
def test_help_answers_without_numpy(args):
    extra = set() if args[0].startswith("-") else {"logging"}
    assert imported(of_command(*args)) <= {"rnn_cli", "rnn_lab", "rnn_plugins", "click"} | extra


def test_help_does_not_load_what_digests_files():
    look = "import atexit, sys; atexit.register(lambda: print('rnn_plugins.trust' in sys.modules))"
    program = f"{look}; {of_command('train', '--help')}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


@pytest.mark.parametrize(
    "words", ["rnn tr", "rnn train --he", "rnn train --cell l", "rnn train --resume x", "rnn eval x"]
)
def test_completion_answers_without_numpy(words, tmp_path):
    environment = {"_RNN_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    program = "from rnn_cli.main import rnn; rnn(prog_name='rnn')"
    assert imported(program, RNN_RUNS=str(tmp_path), **environment) <= {"rnn_cli", "rnn_lab", "rnn_plugins", "click"}


TRAIN = ["train", "fox.txt", "--steps", "2", "--hidden-size", "4", "--seq-length", "4", "--seed", "1", "--quiet"]


@pytest.mark.parametrize("more", [[], ["--backend", "numpy"], ["--backend", "reference"], ["--backend", "compiled"]])
def test_the_compiler_is_imported_where_it_is_used_and_nothing_else_ever(more, tmp_path):
    if "compiled" in more:
        pytest.importorskip("llvmlite")
    (tmp_path / "fox.txt").write_text("the quick brown fox jumps over the lazy dog. " * 12)
    program = f"import os; os.chdir({str(tmp_path)!r}); {of_command(*TRAIN, *more)}"
    names = imported(program, RNN_RUNS="runs", RNN_LAB_CACHE="cache")
    # Too little is done here for compiled code to be chosen by itself.
    assert names - {"logging", "llvmlite"} <= {*PACKAGES, *REQUIRED}
    assert ("llvmlite" in names) == ("compiled" in more)
    assert "rich" not in names
