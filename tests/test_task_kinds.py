"""Tasks of other kinds than a text or files of examples, and tasks that give something odd, from the command line."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from command_line import refused, settle, train, trained

import rnn_lab
from rnn_cli.main import rnn
from rnn_plugins.errors import UserError

SOURCE = """
from dataclasses import dataclass
from math import nan
from pathlib import Path

import numpy as np

from minigrad import affine, mean, square, trees
from minigrad.initializers import glorot_uniform
from rnn_plugins.tasks.task import Batch, Data, Metric, Model, Prediction, Task


@dataclass(frozen=True)
class Network(Model):
    cell: object
    dtype: str

    def init_params(self, rng):
        head = {"W": glorot_uniform(rng, (self.cell.output_size, 1))}
        return trees.cast({"cell": self.cell.init_params(rng), "head": head}, self.dtype)

    def loss(self, params, carry, batch, rng):
        xs = batch.inputs.astype(self.dtype)
        first = trees.cast(self.cell.init_carry(xs.shape[1]), self.dtype)
        _, ys = self.cell.unroll(params["cell"], first, xs, rng=rng)
        return mean(square((ys[-1] @ params["head"]["W"])[:, 0] - batch.targets.astype(self.dtype))), carry


@dataclass(frozen=True)
class Sums(Task):
    "Add up numbers, which are made without end."

    gives: str = ""  # instead of its metrics, from the second validation on

    unit = "sums"
    default_files = ("builtin:sums",)
    best = ("close", "max")
    metrics = {
        "loss": Metric("units", "min", "MSE"),
        "close": Metric("", "max"),
        "root": Metric("", "min"),
    }
    asked = []

    def read(self, files, facts=None, *, purpose="train"):
        return Data(None, range(50), {"width": 1}, tuple(files), "sums", "numbers without end")

    def model(self, facts, network):
        return Network(network.make_cell(facts["width"]), network.dtype)

    def fit(self, data, size):
        return self, size, ""

    def steps_per_epoch(self, data, size):
        return 10

    def batch(self, data, step, size, rows=slice(None)):
        xs = np.random.default_rng(step).random((4, size, 1))[:, rows]
        return Batch(xs, xs.sum((0, 2)), float(xs.shape[1]))

    def evaluate(self, model, params, examples):
        loss, _ = model.loss(params, (), self.batch(None, 10**6, len(examples)), None)
        found = {"loss": float(loss), "close": 1 / (1 + float(loss)), "root": float(loss) ** 0.5}
        self.asked.append(self.gives)
        return eval(self.gives, {"found": found, "nan": nan}) if self.gives and len(self.asked) > 1 else found


class Lines(Sums):
    "Sums that read a file, and know nothing of files that are missing."

    default_files = ()

    def read(self, files, facts=None, *, purpose="train"):
        return Data(None, [Path(file).read_text() for file in files], {"width": 1}, tuple(files))

    def inputs(self, file, facts):
        yield float(Path(file).read_text())

    def predict(self, model, params, facts, inputs, *, top=1, explain=False):
        return (Prediction(str(number), {"number": number}) for number in inputs)
"""

TASK = ("--task", "./my_task.py:Sums")
SMALL = ("--hidden-size", "4", "--batch-size", "4", "--seed", "1", "--steps", "6", "--valid-every", "2")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settle(tmp_path, monkeypatch)
    monkeypatch.setenv("COLUMNS", "200")
    Path("my_task.py").write_text(SOURCE)


def invoke(*arguments: str) -> Result:
    result = CliRunner().invoke(rnn, arguments)
    assert result.exit_code == 0, result.output
    return result


def test_generated_data_take_no_files():
    run, result = trained(*TASK, *SMALL)
    assert run.name == "gru-sums"
    split = "sums without end to train on, 50 held out"
    assert result.stderr.startswith(f"builtin:sums: numbers without end; {split}\ngru, 1 x 4: ")
    assert run.manifest["data"]["units_per_step"] == 4
    assert "gru-sums on the held-out part of builtin:sums: 50 sums predicted" in invoke("eval", "gru-sums").stdout
    assert "The weights are identical to those of gru-sums." in invoke("rerun", "gru-sums").stdout
    compared = invoke("compare", *TASK, *SMALL, "--cell", "gru", "--cell", "rnn", "--seeds", "1", "--match", "none")
    assert "On builtin:sums, seed 1, with the same settings\n" in compared.stderr
    assert (
        "Note: gru-sums-s1: its weights were not inspected, because the task ./my_task.py:Sums of gru-sums-s1 offers "
        "no probe, which reports measure Note: "
    ) in " ".join(compared.stdout.split())


NOTHING = "there is nothing to train on: the task ./my_task.py:Lines has no default files, so name FILES"


@pytest.mark.parametrize(
    "arguments",
    [["train"], ["compare", "--cell", "gru", "--cell", "rnn"], ["report", "--cell", "gru"]],
    ids=lambda arguments: arguments[0],
)
def test_a_task_without_data_of_its_own_takes_files(arguments: list[str]):
    result = CliRunner().invoke(rnn, [*arguments, "--task", "./my_task.py:Lines"])
    assert (result.exit_code, result.stderr) == (2, f"Error: {NOTHING}\n")


def test_a_file_that_is_missing_is_a_mistake_whatever_a_task_makes_of_it():
    assert refused("--task", "./my_task.py:Lines", "none.txt") == "none.txt: no such file or directory"
    Path("some.txt").write_text("1")
    trained("--task", "./my_task.py:Lines", "some.txt", *SMALL, "--name", "lines")
    Path("some.txt").unlink()
    with pytest.raises(UserError, match=r"^none.txt: no such file or directory$"):
        list(rnn_lab.load("lines").predict(Path("none.txt")))
    result = CliRunner().invoke(rnn, ["eval", "lines"])
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: the data of the run 'lines' are not what they were: ")


def test_a_run_whose_task_has_other_options_now_is_named():
    run, _ = trained(*TASK, *SMALL, "--name", "odd", "--task-option", "gives=found")
    run.update(settings=run.manifest["settings"] | {"task_option": {"given": ""}})
    result = CliRunner().invoke(rnn, ["eval", "odd"])
    assert (result.exit_code, result.stderr) == (
        2,
        "Error: the run 'odd' cannot be read: its settings in run.json: the task './my_task.py:Sums' has no option "
        "called 'given'. Did you mean 'gives'? Its options: gives\n",
    )
    run.update(settings=run.manifest["settings"] | {"task_option": {}}, metrics={})
    assert "odd" in invoke("runs").stdout


def test_data_without_a_digest_are_not_taken_for_those_of_the_training():
    Path("some.txt").write_text("1")
    Path("other.txt").write_text("2")
    trained("--task", "./my_task.py:Lines", "some.txt", *SMALL, "--name", "lines")
    assert "all the data that the run was trained on" not in invoke("eval", "lines", "other.txt").stderr


MISTAKES = {
    "no table": ("[1]", "Sums.evaluate returns [1]; expected a number for each metric"),
    "text": ("dict(loss='low')", "Sums.evaluate returns {'loss': 'low'}; expected a number for each metric"),
    "without the loss": ("dict(close=1)", "Sums.evaluate returns close; loss must be among them"),
    "without the best": ("dict(loss=1)", "Sums.evaluate returns loss; close must be among them"),
    "unknown": ("found|dict(f1=1)", "Sums.evaluate returns f1, which Sums.metrics does not declare"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_metrics_that_a_task_does_not_return_are_its_mistake(mistake: str):
    gives, sentence = MISTAKES[mistake]
    result = train(*TASK, *SMALL, "--task-option", f"gives={gives}")
    assert result.exit_code == 2
    assert result.stderr.endswith(f"Error: {sentence}\n")


def test_a_metric_that_is_no_number_is_left_out():
    run, _ = trained(*TASK, *SMALL, "--task-option", "gives=found|dict(root=nan)")
    validations = [record for record in run.records() if "valid_loss" in record]
    assert ["valid_root" in record for record in validations] == [True, False, False]
    assert run.metrics().keys() == {"loss", "close"}


@pytest.mark.parametrize("metric", ["loss", "close"])
def test_a_loss_or_a_deciding_metric_that_is_no_number_ends_training(metric: str):
    result = train(*TASK, *SMALL, "--name", "odd", "--task-option", f"gives=found|dict({metric}=nan)")
    assert result.exit_code == 3
    assert f"Error: Diverged: after step 4 the held-out {metric} is nan.\n" in result.stderr
    assert "The best weights, of step 2, are kept: rnn eval odd\n" in result.stderr


def test_runs_of_two_tasks_have_a_table_each_with_their_own_heads():
    trained(*TASK, *SMALL, "--name", "sums")
    Path("fox.txt").write_text("the quick brown fox jumps over the lazy dog. " * 20)
    trained("fox.txt", "--hidden-size", "4", "--steps", "3", "--name", "fox")
    rows = {row["name"]: row["metrics"] for row in json.loads(invoke("runs", "--json").stdout)}
    tables = [table.splitlines() for table in invoke("runs").stdout.split("\n\n")]
    assert [table.pop(0) for table in tables] == ["language-model", "./my_task.py:Sums"]
    for (heads, line), head, loss in zip(
        tables, ("NATS", "MSE"), (rows["fox"]["loss"], rows["sums"]["loss"]), strict=True
    ):
        end = heads.index(f" {head} ") + len(f" {head}")
        assert line[:end].endswith(f" {loss:.3f}")
