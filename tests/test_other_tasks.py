"""A run whose task is no language model: trained, listed and repeated, and refused where texts are meant."""

import json
import os
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from command_line import SMALL, settle, trained

from rnn_cli.main import rnn
from rnn_lab.runs import Run

TASK = """
import numpy as np
from minigrad import affine, mean, pick, log_softmax
from rnn_plugins.tasks.task import Task


class Parity(Task):
    \"\"\"Whether the last symbol of a piece of text has an odd number.\"\"\"

    def __init__(self, model, train_tokens, valid_tokens, seq_length, batch_size):
        self.model, self.train_tokens, self.valid_tokens, self.notice = model, train_tokens, valid_tokens, ""
        self.length, self.size = seq_length, batch_size
        self.steps_per_epoch, self.tokens_per_step = 10, seq_length * batch_size

    def init_params(self, rng):
        params = self.model.init_params(rng)
        return {"cell": params["cell"], "odd": {"W": params["head"]["W"][:, :2], "b": params["head"]["b"][:2]}}

    def init_carry(self):
        return self.model.init_carry(self.size)

    def batch(self, step):
        places = np.random.default_rng(step).integers(0, len(self.train_tokens) - self.length, self.size)
        return np.asarray(self.train_tokens[places + np.arange(self.length)[:, None]], np.intp)

    def loss(self, params, carry, batch, rng):
        xs = self.model.inputs(params, batch)
        _, ys = self.model.cell.unroll(params["cell"], self.init_carry(), xs)
        return mean(-pick(log_softmax(affine(params["odd"], ys[-1])), batch[-1] % 2)), carry

    def validate(self, params):
        return float(self.loss(params, (), self.batch(0), None)[0])
"""

REFUSED = (
    "Error: the run 'parity' was trained for the task 'parity', and only language models write and predict texts: name "
    "a run of the task language-model\n"
)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settle(tmp_path, monkeypatch)
    monkeypatch.setenv("COLUMNS", "200")
    info = Path("site", "rnn_task_parity-1.0.dist-info")
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: rnn-task-parity\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[rnn.tasks]\nparity = parity_task:Parity\n")
    Path("site", "parity_task.py").write_text(TASK)
    monkeypatch.delitem(sys.modules, "parity_task", raising=False)
    monkeypatch.syspath_prepend(os.path.abspath("site"))


def test_it_is_trained_listed_and_repeated_in_nats_alone() -> None:
    run, result = trained("fox.txt", *SMALL, "--task", "parity", "--name", "parity")
    assert "bits" not in result.output
    result = CliRunner().invoke(rnn, ["runs", "--json"])
    (row,) = json.loads(result.stdout)
    assert (row["task"], row["bits"], row["error"]) == ("parity", None, None)
    assert row["loss"] is not None
    assert trained("--resume", "parity", "--steps", "14", "--json")[1].exit_code == 0
    assert Run(run.path).manifest["step"] == 14
    result = CliRunner().invoke(rnn, ["rerun", "parity"])
    assert result.exit_code == 0, result.output
    assert trained("fox.txt", "--init-from", "parity", "--steps", "1", "--track", "tensorboard")[1].exit_code == 0


@pytest.mark.parametrize(
    "arguments",
    [["sample", "parity"], ["eval", "parity"], ["score", "parity", "fox.txt"], ["report", "parity"]],
    ids=lambda arguments: arguments[0],
)
def test_it_is_refused_where_texts_are_meant(arguments: list[str]) -> None:
    trained("fox.txt", *SMALL, "--task", "parity", "--name", "parity")
    result = CliRunner().invoke(rnn, arguments)
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", REFUSED)


def test_a_task_that_is_not_installed_any_more_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    trained("fox.txt", *SMALL, "--task", "parity", "--name", "parity")
    run = Run(Path("runs/parity"))
    run.manifest["settings"]["task"] = "parities"
    run.update()
    result = CliRunner().invoke(rnn, ["sample", "parity"])
    assert (result.exit_code, result.stderr) == (
        2,
        "Error: no task called 'parities'. Did you mean 'parity'? Installed: language-model, parity\n",
    )
    (row,) = json.loads(CliRunner().invoke(rnn, ["runs", "--json"]).stdout)
    assert (row["bits"], row["error"]) == (None, None)


def test_it_is_not_compared_with_language_models() -> None:
    trained("fox.txt", *SMALL, "--name", "plain")
    trained("fox.txt", *SMALL, "--task", "parity", "--name", "parity")
    result = CliRunner().invoke(rnn, ["compare", "plain", "parity"])
    assert result.exit_code == 0
    assert REFUSED.removeprefix("Error: ").strip() in " ".join(result.stdout.split())
    result = CliRunner().invoke(rnn, ["compare", "parity", "parity"])
    assert result.exit_code == 2
