"""The distribution as a whole: its layers, what a wheel of it holds, and what may be imported for an answer at once."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from importlinter import api

ROOT = Path(__file__).parents[1]
PACKAGES = {"minigrad", "rnn_cells", "rnn_plugins", "rnn_cli"}


def test_imports_run_downward_only(monkeypatch):
    monkeypatch.chdir(ROOT)
    (contract,) = api.read_configuration("pyproject.toml")["contracts_options"]
    assert contract["layers"] == ["rnn_cli", "rnn_plugins", "rnn_cells", "minigrad"]
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]
    done = subprocess.run([*command, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_a_wheel_holds_the_four_packages_and_nothing_else(tmp_path):
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == PACKAGES
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(names)
    assert not [name for name in names if "test_" in name or name.endswith(".pyc")]


@pytest.mark.parametrize("args", [["--help"], ["--version"], ["trian"]], ids=" ".join)
def test_help_answers_without_numpy(args):
    code = f"""
import sys
from rnn_cli.main import rnn
try:
    rnn({args!r})
except SystemExit:
    pass
print(sorted({{"numpy", "rich", "safetensors", "minigrad", "rnn_cells"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
