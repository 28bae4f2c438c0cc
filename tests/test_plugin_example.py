"""Plugins as their user meets them: wheels, a fresh environment, and the command line there.

It takes a while: wheels are built and an environment is made, once for the whole module. The network is not needed,
since the dependencies come from the environment that runs the tests.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "plugins" / "examples" / "rnn-cell-mgu"
TASK = ROOT / "plugins" / "examples" / "rnn-task-parity"


class Environment:
    """A fresh environment with folders of its own for runs and caches."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # Without what this process was told: paths to the checkout above all.
        self.variables = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "RNN_", "COV"))}
        self.variables |= {"RNN_LAB_CACHE": str(folder / "cache"), "PYTHONDONTWRITEBYTECODE": "1"}
        self.scripts = folder / "env" / ("Scripts" if os.name == "nt" else "bin")

    def run(self, program: str | Path, *args: str | Path) -> subprocess.CompletedProcess[str]:
        command = [str(self.scripts / program), *map(str, args)]
        return subprocess.run(
            command, cwd=self.folder, env=self.variables, capture_output=True, text=True, encoding="utf-8", timeout=300
        )

    def succeed(self, program: str | Path, *args: str | Path) -> str:
        done = self.run(program, *args)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def pip(self, *args: str | Path) -> None:
        """Run the pip of this process for the environment, which would take seconds to get one of its own."""
        self.succeed(Path(sys.executable), "-m", "pip", "--python", self.scripts / "python", *args)


def build_wheel(source: Path, wheels: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(wheels)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    folder = tmp_path_factory.mktemp("plugin")
    build_wheel(ROOT, folder / "wheels")
    build_wheel(EXAMPLE, folder / "wheels")
    build_wheel(TASK, folder / "wheels")
    venv.create(folder / "env")
    made = Environment(folder)
    made.pip("install", "--no-index", "--no-deps", *sorted((folder / "wheels").glob("*.whl")))
    # The dependencies stand after the environment's own packages, so the wheels hide whatever is installed there.
    purelib = made.succeed("python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    Path(purelib, "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return made


def test_all_come_from_their_wheels(environment):
    code = "import rnn_cli, rnn_cell_mgu as m, rnn_task_parity as p; print(m.__file__, p.__file__, rnn_cli.__file__)"
    for file in environment.succeed("python", "-c", code).split():
        assert Path(file).is_relative_to(environment.folder / "env")


def test_the_registry_sees_it(environment):
    code = """if True:
        import json
        from rnn_plugins import registry
        entry = next(e for e in registry.entries("cells") if e.name == "mgu")
        print(json.dumps([entry, registry.describe("cells", entry), registry.provenance("cells", "mgu")]))
    """
    entry, row, provenance = json.loads(environment.succeed("python", "-c", code))
    assert entry == ["mgu", "rnn-cell-mgu", "0.1.0", "rnn_cell_mgu:MGU"]
    assert row == ["The minimal gated unit (Zhou et al. 2016, arXiv:1603.09420).", None]
    assert provenance == {"cell": "mgu", "distribution": "rnn-cell-mgu", "version": "0.1.0"}


def test_its_own_test_passes(environment):
    shutil.copytree(EXAMPLE, environment.folder / "example")
    out = environment.succeed("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", environment.folder / "example")
    assert "1 passed" in out


def test_it_is_listed_with_its_distribution(environment):
    (line,) = [line for line in environment.succeed("rnn", "cells").splitlines() if line.split()[:1] == ["mgu"]]
    assert "rnn-cell-mgu" in line
    assert "0.1.0" in line


def test_it_is_checked(environment):
    out = environment.succeed("rnn", "cells", "check", "mgu")
    assert "gradient of parameter 'forget.W'" in out


def test_it_trains_and_samples_and_says_what_a_run_needs(environment):
    train = ("train", "--cell", "mgu", "builtin:hello", "--steps", "20", "--name", "mgu-run")
    environment.succeed("rnn", *train)
    assert set(environment.succeed("rnn", "sample", "mgu-run", "--length", "20")) <= set("hello\n")
    assert "mgu" in environment.succeed("rnn", "runs")

    environment.pip("uninstall", "-y", "rnn-cell-mgu")
    try:
        missing = environment.run("rnn", "sample", "mgu-run", "--length", "20")
        assert missing.returncode == 2
        assert " ".join(missing.stderr.split()) == (
            "Error: run 'mgu-run' uses the cell 'mgu' from the distribution rnn-cell-mgu 0.1.0, "
            "which is not installed: pip install rnn-cell-mgu"
        )
        unknown = environment.run("rnn", *train)
        assert unknown.returncode == 2
        assert "no cell called 'mgu'" in " ".join(unknown.stderr.split())
    finally:
        environment.pip(
            "install", "--no-index", "--no-deps", *(environment.folder / "wheels").glob("rnn_cell_mgu*.whl")
        )


def test_the_same_cell_without_packaging(environment):
    spec = f"{EXAMPLE / 'rnn_cell_mgu.py'}:MGU"
    environment.succeed("rnn", "cells", "check", spec)
    environment.succeed("rnn", "train", "--cell", spec, "builtin:hello", "--steps", "2", "--name", "file-run")
    environment.succeed("rnn", "sample", "file-run", "--length", "5")


def test_a_task_is_listed_and_checked_and_its_own_test_passes(environment):
    (line,) = [line for line in environment.succeed("rnn", "tasks").splitlines() if line.split()[:1] == ["parity"]]
    assert line.split()[1:3] == ["rnn-task-parity", "0.1.0"]
    out = environment.succeed("rnn", "tasks", "check", "parity:longest=5,examples=40")
    assert "parity passes all " in out
    shutil.copytree(TASK, environment.folder / "task")
    out = environment.succeed("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", environment.folder / "task")
    assert "1 passed" in out


def test_a_task_trains_predicts_and_says_what_a_run_needs(environment):
    (environment.folder / "bits.txt").write_text(
        "\n".join(f"{n:0{size}b}" for size in range(1, 6) for n in range(2**size))
    )
    (environment.folder / "more.txt").write_text("0110\n\n1\n")
    small = ("--cell", "rnn", "--hidden-size", "12", "--seed", "1", "--learning-rate", "0.03", "--steps", "600")
    environment.succeed("rnn", "train", "--task", "parity:valid_fraction=0", "bits.txt", "--name", "bits", *small)
    environment.succeed("rnn", "train", "--task", "parity:examples=300,longest=4", "--name", "generated", *small)
    for run in ("bits", "generated"):
        out = environment.succeed("rnn", "predict", run, "more.txt", "111")
        assert [line.split()[0] for line in out.splitlines()] == ["even", "odd", "odd"], run
        (score,) = json.loads(environment.succeed("rnn", "eval", run, "bits.txt", "--json"))["scores"]
        assert score["accuracy"] > 0.9
    record = json.loads(environment.succeed("rnn", "predict", "bits", "0110", "--json", "--top", "2"))
    assert (record["input"], record["parity"], len(record["top"])) == ("0110", "even", 2)
    wrong = environment.run("rnn", "predict", "bits", "0120")
    assert (wrong.returncode, wrong.stderr) == (
        2,
        "Error: '0120' is not a string of bits; expected 0 and 1, such as 0110\n",
    )

    environment.pip("uninstall", "-y", "rnn-task-parity")
    missing = environment.run("rnn", "predict", "bits", "0110")
    assert (missing.returncode, " ".join(missing.stderr.split())) == (
        2,
        "Error: run 'bits' uses the task 'parity' from the distribution rnn-task-parity 0.1.0, which is not installed: "
        "pip install rnn-task-parity",
    )
