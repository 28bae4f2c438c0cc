"""Files for validation and for the final test: ``--valid`` and ``--test``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from command_line import settle

import rnn_lab
from rnn_cli.main import rnn
from rnn_lab.settings import Settings
from rnn_plugins import registry
from rnn_plugins.errors import UserError

SMALL = (
    "--hidden-size",
    "6",
    "--batch-size",
    "4",
    "--seed",
    "1",
    "--steps",
    "8",
    "--valid-every",
    "4",
    "--seq-length",
    "8",
)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settle(tmp_path, monkeypatch)
    monkeypatch.setenv("COLUMNS", "200")
    Path("train.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 12)
    Path("valid.txt").write_text("the lazy fox jumps over the quick dog\n" * 4)
    Path("test.txt").write_text("a brown dog jumps over the quick brown fox\n" * 4)


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(rnn, arguments)


def trained(*arguments: str) -> Result:
    result = invoke("train", "train.txt", *SMALL, *arguments)
    assert result.exit_code == 0, result.stderr
    return result


def refused(*arguments: str) -> str:
    result = invoke(*arguments)
    assert result.exit_code == 2, result.output
    return result.stderr.strip()


def test_held_out_data_come_from_their_file():
    result = trained("--name", "one", "--valid", "valid.txt")
    run = rnn_lab.load("one")
    data = run.folder.manifest["data"]
    assert (data["train"], data["valid"]) == (len(Path("train.txt").read_text()), 152)
    assert f"; {data['train']:,} characters to train on, 152 characters of valid.txt to validate on\n" in result.stderr
    assert "nothing is held out" not in result.stderr
    assert run.evaluate() == run.evaluate("valid.txt")
    assert run.metrics[-1]["valid_loss"] == pytest.approx(run.evaluate()["loss"], rel=1e-5)
    assert f"one on {Path('valid.txt').absolute()}: " in invoke("eval", "one").stdout


def test_where_nothing_is_held_out_that_is_said():
    said = trained("--name", "all", "--valid-fraction", "0").stderr
    told = "nothing is held out, so the training loss chooses the best weights; --valid FILE names held-out data"
    assert f"Note: {told}.\n" in said
    assert " characters to train on, none held out\n" in said
    assert "nothing is held out" not in trained("--name", "some").stderr


def test_resuming_reads_the_same_held_out_data():
    constant = ("--valid", "valid.txt", "--schedule", "constant")
    trained("--name", "one", *constant)
    assert invoke("train", "--resume", "one", "--steps", "12").exit_code == 0
    trained("--name", "once", *constant, "--steps", "12")
    resumed, once = (rnn_lab.load(name) for name in ("one", "once"))
    losses = [[record["valid_loss"] for record in run.metrics if "valid_loss" in record] for run in (resumed, once)]
    assert losses[0] == losses[1]
    Path("valid.txt").write_text("other text\n" * 9)
    message = refused("train", "--resume", "one", "--steps", "20")
    assert message.startswith("Error: the data of the run 'one' have changed: ")
    assert str(Path("valid.txt").absolute()) in message
    Path("valid.txt").unlink()
    assert "cannot be read" in refused("train", "--resume", "one", "--steps", "20")


def test_a_repetition_validates_on_the_same_file():
    trained("--name", "one", "--valid", "valid.txt")
    assert invoke("rerun", "one", "--name", "again").exit_code == 0
    one, again = (rnn_lab.load(name) for name in ("one", "again"))
    assert [record["valid_loss"] for record in one.metrics] == [record["valid_loss"] for record in again.metrics]


def test_several_files_and_the_api():
    run = rnn_lab.train("train.txt", hidden_size=6, steps=4, seq_length=8, valid=["valid.txt", "test.txt"], seed=1)
    assert run.folder.manifest["data"]["valid"] == len(Path("valid.txt").read_text() + Path("test.txt").read_text())
    one = rnn_lab.train("train.txt", hidden_size=6, steps=4, seq_length=8, valid="valid.txt", seed=1)
    assert one.settings["valid"] == [str(Path("valid.txt").absolute())]


def test_they_may_stand_in_a_configuration_file():
    Path("run.toml").write_text('valid = ["valid.txt"]\nname = "one"\n')
    trained("--config", "run.toml")
    assert rnn_lab.load("one").folder.manifest["data"]["valid"] == 152


def test_both_ways_of_holding_out_contradict_each_other():
    message = refused("train", "train.txt", "--valid", "valid.txt", "--valid-fraction", "0.2")
    assert message == (
        "Error: --valid names the held-out data, and --valid-fraction 0.2 holds out some of FILES: "
        "leave one of them out"
    )
    trained("--valid", "valid.txt", "--valid-fraction", "0", "--name", "one")


def test_a_task_that_cannot_hold_out_nothing_refuses_other_held_out_data():
    Path("my_task.py").write_text(
        "from rnn_plugins.tasks.task import Data, Task\n"
        "class Mine(Task):\n"
        "    def read(self, files, facts=None, *, purpose='train'):\n"
        "        return Data([1], [1], {})\n"
        "    def model(self, facts, network):\n"
        "        raise NotImplementedError\n"
    )
    assert refused("train", "train.txt", "--task", "./my_task.py:Mine", "--valid", "valid.txt") == (
        "Error: --valid needs a task with the option valid_fraction, which ./my_task.py:Mine does not have: "
        "leave it out"
    )


@pytest.mark.parametrize("option", ["--valid", "--test"])
def test_a_missing_file_is_found_before_training(option: str):
    assert "there is no file or folder 'none.txt'" in refused("train", "train.txt", *SMALL, option, "none.txt")
    assert not list(Path("runs").glob("*"))


def test_the_test_data_are_evaluated_on_once_from_the_best_weights():
    result = trained("--name", "one", "--test", "test.txt")
    run = rnn_lab.load("one")
    found = run.folder.manifest["test"]
    assert (found["step"], found["best_step"]) == (8, run.folder.manifest["best"]["step"])
    assert found["scores"][0]["loss"] == pytest.approx(run.evaluate("test.txt")["loss"], rel=1e-6)
    assert "one on test.txt: 171 characters predicted" in result.stdout
    again = invoke("train", "--resume", "one", "--steps", "12")
    assert (
        "Note: The test data were evaluated on before, after step 8: what is chosen by that figure needs other data."
        in again.stderr
    )
    assert rnn_lab.load("one").folder.manifest["test"]["step"] == 12


def test_the_test_data_do_not_change_the_weights():
    trained("--name", "with", "--test", "test.txt")
    trained("--name", "without")
    with_test, without = (Path("runs", name, "last.safetensors").read_bytes() for name in ("with", "without"))
    assert with_test == without


def test_a_run_that_is_stopped_is_not_tested():
    training = rnn_lab.training("train.txt", hidden_size=6, steps=100, seq_length=8, log_every=1, test="test.txt")
    for record in training:
        if record["step"] == 3:
            training.stop()
    assert training.outcome == "interrupted"
    assert "test" not in training.run.folder.manifest


def test_as_json_the_test_stands_in_the_last_record():
    result = trained("--json", "--quiet", "--test", "test.txt")
    outcome = json.loads(result.stdout.splitlines()[-1])["outcome"]
    assert outcome["test"]["scores"][0]["kind"] == "model"
    assert outcome["test"]["text"] == "test.txt"


def test_cells_are_compared_on_the_given_data():
    common = ("--hidden-size", "4", "--steps", "4", "--seeds", "1", "--seq-length", "8")
    result = invoke("compare", "--cell", "gru", "--cell", "rnn", "train.txt", "--valid", "valid.txt", *common)
    assert result.exit_code == 0, result.stderr
    assert all(
        run["valid"] == 152 for run in (json.loads(p.read_text())["data"] for p in Path("runs").glob("*/run.json"))
    )


def test_a_short_name_stands_for_the_full_one():
    assert Settings(task="lm").task == Settings(task="lm:level=word").task == "language-model"
    assert Settings(task="lm:level=word").task_option == {"level": "word"}
    assert registry.full_name("tasks", "names.py:Names") == "names.py:Names"
    trained("--task", "lm", "--name", "one")
    assert rnn_lab.load("one").folder.manifest["task"]["task"] == "language-model"
    assert invoke("train", "--resume", "one", "--task", "lm", "--steps", "9").exit_code == 0
    assert "Short for language-model." in invoke("tasks").stdout
    with pytest.raises(UserError, match=r"^no task called .l.\. Did you mean .lm.\?"):
        registry.load("tasks", "l")
