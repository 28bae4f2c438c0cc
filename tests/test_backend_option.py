"""``--backend``: the backend of the time loop, also of resumed runs, and messages if it is unavailable."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner, Result
from command_line import SMALL, refused, settle, train, trained

from minigrad import blas
from minigrad.compiled import flat, jit
from minigrad.scan import BACKENDS, available_backends, chosen_backend, planned, plans, use_backend
from rnn_cli.main import rnn
from rnn_cli.options import BACKENDS as CHOICES
from rnn_lab import blas_threads, sessions
from rnn_lab.paths import BEST, LAST
from rnn_lab.runs import Run

HERE = ("reference", *available_backends())

WITHOUT_JIT = "--backend compiled needs the library llvmlite: pip install 'rnn-lab[jit]', or leave the option out"

CELL = '''
from dataclasses import dataclass
import numpy as np
from minigrad import tanh
from rnn_cells import Cell

@dataclass(frozen=True)
class Decides(Cell):
    """A cell that cannot be planned."""

    def init_params(self, rng):
        return {"W": rng.normal(0, 0.1, (self.input_size, self.hidden_size)).astype(np.float32)}

    def __call__(self, params, h, x):
        h = tanh(x @ params["W"] + h)
        return (h if h.sum() < 1e9 else -h), h
'''

NOTE = (
    "Note: Decides runs on the reference loop, which is slow: in line 16 of cell.py it decides by the value of a "
    "tensor (if, while, bool, float, int or item)."
)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settle(tmp_path, monkeypatch)
    (tmp_path / "cell.py").write_text(CELL)
    monkeypatch.setattr(planned, "_refused", set())  # what other tests have been told


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jit, "available", lambda: False)


@pytest.fixture
def ran_on(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The backends that were asked to run something."""
    asked: list[str] = []
    make, loop = plans.Plan.executor, planned.reference.scan

    def executor(self: plans.Plan, backend: str) -> plans.Executor:
        asked.append(backend)
        return make(self, backend)

    def scan(*args: object, **kwargs: object) -> object:
        asked.append("reference")
        return loop(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(plans.Plan, "executor", executor)
    monkeypatch.setattr(planned.reference, "scan", scan)
    return asked


def call(*arguments: str) -> Result:
    return CliRunner().invoke(rnn, [*arguments])


def test_the_choices_are_the_engines_backends() -> None:
    assert CHOICES.choices == ("auto", *BACKENDS)


@pytest.mark.parametrize("backend", HERE)
def test_every_command_that_has_a_time_loop_runs_it_where_it_is_told(backend: str, ran_on: list[str]) -> None:
    run, _ = trained("fox.txt", *SMALL, "--backend", backend)
    assert set(ran_on) == {backend}
    assert run.settings.backend == backend
    for command in (["sample", "--length", "5", "--seed", "1"], ["eval"], ["rerun"]):
        ran_on.clear()
        assert call(*command, "--backend", backend).exit_code == 0
        assert set(ran_on) <= {backend}
        assert ran_on or command[0] == "sample"
    ran_on.clear()
    trained("--resume", run.name, "--steps", "15")
    assert set(ran_on) == {backend}


def test_a_sample_and_a_score_are_the_same_on_every_backend() -> None:
    trained("fox.txt", *SMALL)
    samples = {call("sample", "--length", "40", "--seed", "1", "--backend", backend).stdout for backend in HERE}
    assert len(samples) == 1
    scores = [json.loads(call("eval", "--json", "--backend", backend).stdout)["scores"][0]["loss"] for backend in HERE]
    assert scores == pytest.approx([scores[0]] * len(scores), rel=1e-5)


@pytest.mark.parametrize("backend", [*HERE, "auto"])
def test_a_run_goes_on_bit_for_bit_on_its_backend(backend: str) -> None:
    # With this much to do, threads take part, and what is chosen by itself is compiled.
    large = {"files": ("fox.txt",), "hidden_size": 48, "seq_length": 24, "batch_size": 20, "num_layers": 2}
    settings = large | {"dropout": 0.1, "steps": 6, "valid_every": 3, "seed": 1, "backend": backend, "cell": "lstm"}
    whole = sessions.start(settings, name="whole")
    for _ in whole.trainer.events():
        pass
    begun = sessions.start(settings, name="parts")
    for progress in begun.trainer.events():
        if progress.step.step == 1:
            begun.trainer.stop()  # after the next one
    session = sessions.resume(Run(begun.run.path), {})
    assert session.notices == ["it resumes after step 2"]
    for _ in session.trainer.events():
        pass
    for name in (LAST, BEST):
        assert (whole.run.path / name).read_bytes() == (session.run.path / name).read_bytes()


LARGE = ("fox.txt", "--hidden-size", "160", "--steps", "3", "--batch-size", "2", "--seq-length", "8", "--seed", "1")
"""A run whose arrays are long enough for machine code in clipping and update, whatever the time loop runs on."""


@pytest.mark.parametrize("backend", ["reference", "numpy"])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_no_machine_code_runs_in_a_step_on_numpy(backend: str, optimizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flat, "_run", lambda calls: pytest.fail("machine code") if calls else None)
    monkeypatch.setattr(flat, "_sum_kernel", lambda dtype: pytest.fail("machine code"))
    options = (*LARGE, "--grad-clip", "0.01", "--optimizer", optimizer, "--backend", backend)
    run, _ = trained(*options, "--name", "with")
    monkeypatch.setattr(jit, "available", lambda: False)
    other, _ = trained(*options, "--name", "without")
    assert (run.path / LAST).read_bytes() == (other.path / LAST).read_bytes()


def test_what_the_run_says_decides(ran_on: list[str]) -> None:
    with use_backend("reference"):
        trained("fox.txt", *SMALL)
    assert "reference" not in ran_on


# --- without the compiler --------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_compiler")
def test_what_was_not_chosen_is_recorded_as_what_it_was() -> None:
    run, _ = trained("fox.txt", *SMALL)
    assert run.settings.backend == "numpy"
    assert not {"llvmlite", "threads"} & run.manifest["environment"].keys()


@pytest.mark.usefixtures("no_compiler")
def test_compiled_code_without_the_compiler_is_a_mistake() -> None:
    trained("fox.txt", *SMALL)
    assert refused("fox.txt", *SMALL, "--backend", "compiled") == WITHOUT_JIT
    assert refused("--resume", "gru-fox", "--backend", "compiled") == WITHOUT_JIT
    for command in ("rerun", "sample", "eval"):
        result = call(command, "--backend", "compiled")
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr.endswith(f"Error: {WITHOUT_JIT}\n")
    assert os.listdir("runs") == ["gru-fox"]


@pytest.mark.parametrize("backend", ["auto", "compiled"])
def test_a_run_of_compiled_code_goes_on_without_the_compiler(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("llvmlite")
    run, _ = trained("fox.txt", *SMALL, "--backend", backend)
    monkeypatch.setattr(jit, "available", lambda: False)
    assert (
        "Note: gru-fox ran on the backend compiled, which needs llvmlite (pip install 'rnn-lab[jit]'), and its "
        "repetition runs on numpy: the weights may not be the same bit for bit.\n"
    ) in call("rerun").stderr
    _, result = trained("--resume", run.name, "--steps", "14")
    assert result.stderr.splitlines()[:2] == [
        "Note: it resumes after step 12.",
        "Note: it began on the backend compiled, which needs llvmlite (pip install 'rnn-lab[jit]'), and resumes on "
        "numpy: its weights may not be the same bit for bit.",
    ]
    assert Run(run.path).settings.backend == "numpy"  # from here on, whatever is installed later
    assert Run(run.path).manifest["resumed"] == [{"step": 12, "changed": {"steps": 14, "backend": "numpy"}}]


# --- what a result depends on ----------------------------------------------------------------------------------------


def test_another_backend_is_taken_and_told() -> None:
    run, _ = trained("fox.txt", *SMALL, "--backend", "numpy")
    _, result = trained("--resume", run.name, "--steps", "14", "--backend", "reference")
    assert (
        "Note: it began on the backend numpy, and resumes on reference: its weights may not be the same bit for bit.\n"
        in result.stderr
    )
    assert Run(run.path).settings.backend == "reference"
    assert (
        "Note: gru-fox ran on the backend reference, and its repetition runs on numpy: the weights may not be the "
        "same bit for bit.\n"
    ) in call("rerun", "--backend", "numpy").stderr


def test_another_number_of_threads_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("llvmlite")
    monkeypatch.setenv("MINIGRAD_THREADS", "2")
    run, _ = trained("fox.txt", *SMALL)
    monkeypatch.setenv("MINIGRAD_THREADS", "3")
    note = "Note: it began with threads 2 and resumes with 3: its weights may not be the same bit for bit.\n"
    assert note in trained("--resume", run.name, "--steps", "14")[1].stderr
    monkeypatch.setenv("MINIGRAD_THREADS", "many")
    message = "the environment variable MINIGRAD_THREADS is 'many'; it must be a whole number"
    assert refused("--resume", run.name) == refused("fox.txt", *SMALL) == message
    other, _ = trained("fox.txt", *SMALL, "--backend", "numpy")
    monkeypatch.setenv("MINIGRAD_THREADS", "3")
    assert "with threads" not in trained("--resume", other.name, "--steps", "14")[1].stderr


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of BLAS's threads that measurements will give, for products that count as large."""
    for variable in blas.VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    numbers: list[int] = []
    monkeypatch.setattr(blas, "_state", blas._State())
    monkeypatch.setattr(blas, "LARGE", 100)
    monkeypatch.setattr(blas, "FALLEN", float("inf"))
    monkeypatch.setattr(blas, "best_of", lambda shape, most: numbers.pop(0))
    return numbers


def threads_of(run: Run) -> list[list[int]]:
    changes: list[list[int]] = Run(run.path).manifest["environment"]["blas_threads"]
    return changes


def test_the_number_of_threads_is_recorded_and_repeated(measured: list[int]) -> None:
    measured[:] = [2]
    run, _ = trained("fox.txt", *SMALL, "--backend", "numpy", "--quiet")
    assert threads_of(run) == [[1, 1, 1], [2, 1, 2]]  # measured in the first step
    assert call("rerun", run.name, "--name", "again").exit_code == 0  # where nothing is measured
    assert threads_of(Run(Path("runs/again"))) == [[1, 1, 1], [2, 1, 2]]
    measured[:] = [1]
    _, result = trained("--resume", run.name, "--steps", "14", "--quiet")
    assert threads_of(run) == [[1, 1, 1], [2, 1, 2], [14, 1, 1]]  # two did not pay any more
    assert result.stderr == ""
    trained("--resume", run.name, "--steps", "16")
    assert threads_of(run) == [[1, 1, 1], [2, 1, 2], [14, 1, 1]]


def test_a_number_that_the_user_gives_is_recorded_and_told(
    measured: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    measured[:] = [2]
    run, _ = trained("fox.txt", *SMALL, "--backend", "numpy")
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "3")
    monkeypatch.setattr(blas, "_libraries", lambda: [SimpleNamespace(num_threads=3, internal_api="b", version="1")])
    were = "were 1 and 2 for large ones, and the environment says 3:"
    assert f"Note: its BLAS threads {were} its weights may not be the same bit for bit.\n" in (
        trained("--resume", run.name, "--steps", "14")[1].stderr
    )
    assert threads_of(run) == [[1, 1, 2], [13, 3, 3]]
    were = "were 3, and the environment says 4:"
    monkeypatch.setattr(blas, "_libraries", lambda: [SimpleNamespace(num_threads=4, internal_api="b", version="1")])
    assert (
        f"Note: the BLAS threads of {run.name} {were} the weights may not be the same bit for bit.\n"
        in call("rerun", run.name).stderr
    )


@pytest.mark.parametrize(
    "damage", [None, 1, [1], [[1, 1]], [[1, 1, 0]], [[1, 1, 10**400]], [["", 1, 1]], "x", {"a": 1}]
)
def test_what_is_damaged_is_not_repeated(damage: object) -> None:
    assert blas_threads.changes_of({"blas_threads": damage}) == []


@pytest.mark.parametrize("backend", ["numpy", *(["compiled"] if "compiled" in HERE else [])])
def test_another_processor_is_told(backend: str) -> None:
    run, _ = trained("fox.txt", *SMALL, "--backend", backend)
    run = Run(run.path)
    environment = run.manifest["environment"]
    others = {"processor": "an older one", "blas": "mkl 1.0"}
    if backend == "compiled":
        others["target"] = "i386"
    else:
        assert "target" not in environment
    run.update(environment=environment | others)
    told = trained("--resume", run.name, "--steps", "14")[1].stderr
    for key, before in others.items():
        now = environment[key]
        assert (
            f"Note: it began with {key} {before} and resumes with {now}: its weights may not be the same bit for bit.\n"
            in told
        )
    run.update(environment={key: value for key, value in environment.items() if key not in others})
    assert "it began" not in trained("--resume", run.name, "--steps", "16")[1].stderr  # an older run does not say


# --- a cell that cannot be planned -----------------------------------------------------------------------------------


def test_a_cell_that_cannot_be_planned_is_told_once_in_a_line() -> None:
    result = train("fox.txt", *SMALL, "--cell", "cell.py:Decides", "--valid-every", "4", "--dropout", "0.1")
    assert result.exit_code == 0
    assert result.stderr.splitlines()[0] == NOTE
    assert result.stderr.count("reference loop") == 1
    assert "Traceback" not in result.stderr


def test_a_sample_tells_it_too() -> None:
    train("fox.txt", *SMALL, "--cell", "cell.py:Decides")
    planned._refused.clear()
    result = call("sample", "--length", "300", "--seed", "1")
    assert result.exit_code == 0
    assert result.stderr == f"From the run Decides-fox, with --seed 1.\n{NOTE}\n"


def test_quiet_is_quiet_about_it() -> None:
    assert train("fox.txt", *SMALL, "--cell", "cell.py:Decides", "--quiet").output == ""


def test_json_on_standard_output_stays_json() -> None:
    result = train("fox.txt", *SMALL, "--cell", "cell.py:Decides", "--json")
    assert NOTE in result.stderr
    assert all(json.loads(line) for line in result.stdout.splitlines())


WITHIN = """
from rnn_cli import display

def show(self, progress, show=display.Live.show):
    if progress.step.step == 5:
        import logging
        self.live.refresh()
        logging.getLogger("minigrad.scan").warning("a word of the engine's")
    show(self, progress)

display.Live.show = show
from rnn_cli.main import rnn; rnn()
"""


def test_a_warning_stands_on_lines_of_its_own_above_the_live_picture() -> None:
    leader, follower = pty.openpty()
    command = [sys.executable, "-c", WITHIN, "train", "fox.txt", *SMALL, "--cell", "cell.py:Decides"]
    environment = os.environ | {"COLUMNS": "80", "LINES": "30", "TERM": "xterm"}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=follower, env=environment) as process:
        os.close(follower)
        drawn = b""
        try:
            while chunk := os.read(leader, 65536):
                drawn += chunk
        except OSError:  # the other end is closed
            pass
    os.close(leader)
    assert process.returncode == 0
    assert drawn.count(b"reference loop") == 1
    # What stood there was erased, and the picture is drawn anew below it.
    assert b"\x1b[2KNote: a word of the engine's.\r\n" in drawn


def test_a_check_says_it_too() -> None:
    result = call("cells", "check", "cell.py:Decides")
    assert "Traceback" not in result.output
    assert result.stderr in ("", f"{NOTE}\n")


def test_without_a_command_nothing_listens() -> None:
    import logging

    assert call("cells").exit_code == 0
    assert logging.getLogger("minigrad").handlers == []
    assert logging.getLogger("minigrad").level == logging.NOTSET
    assert chosen_backend() in available_backends()


@pytest.mark.parametrize(
    ("variables", "number", "backend", "told"),
    [
        ({"OPENBLAS_NUM_THREADS": "4", "MINIGRAD_THREADS": "2"}, 4, "compiled", "OPENBLAS_NUM_THREADS"),
        ({"OMP_NUM_THREADS": "4", "MINIGRAD_THREADS": "2"}, 4, "auto", "OMP_NUM_THREADS"),
        ({"OPENBLAS_NUM_THREADS": "1", "MINIGRAD_THREADS": "2"}, 1, "compiled", ""),
        ({"OPENBLAS_NUM_THREADS": "4", "MINIGRAD_THREADS": "1"}, 4, "compiled", ""),
        ({"OPENBLAS_NUM_THREADS": "4", "MINIGRAD_THREADS": "2"}, 4, "numpy", ""),
        ({"MINIGRAD_THREADS": "2"}, 4, "compiled", ""),
    ],
)
def test_threads_of_the_user_beside_those_of_the_time_loop_are_told(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], number: int, backend: str, told: str
) -> None:
    if "compiled" not in available_backends():
        pytest.skip("no compiler")
    for variable in blas.VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr(
        blas,
        "_libraries",
        lambda: [SimpleNamespace(num_threads=number, internal_api="", version="", set_num_threads=lambda n: None)],
    )
    result = train("fox.txt", *SMALL, "--backend", backend)
    expected = (
        f"Note: {told} gives matrix products 4 threads beside the 2 of the time loop, which usually makes training "
        f"slower: set {told}=1, or unset it, and rnn chooses the number.\n"
    )
    assert result.exit_code == 0, result.output
    assert ("gives matrix products" in result.stderr, result.stderr.count(expected)) == (bool(told), int(bool(told)))
