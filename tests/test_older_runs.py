"""Runs of a version that knew no tasks: every command serves them as that version did.

``older_runs`` has two of them, on the text of ``command_line``: ``char`` was interrupted after step 8, whose weights
were the best so far, so that those of step 6 are set aside; ``word`` is finished.
"""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from command_line import settle

from minigrad import checkpoint, trees
from rnn_cli.main import rnn
from rnn_lab import sessions
from rnn_lab.paths import BEST, MANIFEST
from rnn_lab.runs import Run
from rnn_plugins.tasks.language_model import LanguageModel

NAMES = ("char", "word")

SETTINGS: dict[str, Any] = {
    "files": ("fox.txt",), "hidden_size": 3, "seq_length": 7, "batch_size": 3, "seed": 1, "valid_every": 6,
    "log_every": 4, "backend": "numpy", "steps": 16, "learning_rate": 0.02, "schedule": "constant", "dropout": 0.2,
    "embedding_size": 0,
}  # fmt: skip
"""What ``char`` was trained with."""

LOSS = {"char": 3.2316107210123315, "word": 2.0960963151671668}
BITS = {"char": 4.662228761288098, "word": 1.317398231694666}
"""The losses of the best weights, and the bits per character that ``rnn eval`` told of them."""

METRICS = {
    name: {"loss": LOSS[name], "nats_per_character": BITS[name] * math.log(2), "bits_per_character": BITS[name]}
    for name in NAMES
}

SAMPLE = {"char": "mybygjujn tn", "word": "dogquick quick"}
"""What ``rnn sample --length 12 --seed 1`` wrote."""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settle(tmp_path, monkeypatch)
    monkeypatch.setenv("COLUMNS", "200")
    shutil.copytree(Path(__file__).parent / "older_runs", "runs")


def call(*arguments: str) -> Result:
    result = CliRunner().invoke(rnn, arguments)
    assert result.exit_code == 0, result.output
    return result


def test_what_such_a_run_knows() -> None:
    char, word = (Run(Path("runs", name)) for name in NAMES)
    assert char.task == LanguageModel(seq_length=7)
    assert word.task == LanguageModel(seq_length=7, level="word", valid_fraction=0.2)
    assert char.manifest["task"] == {"task": "language-model", "distribution": "rnn-lab", "version": "0.1.0"}
    assert char.settings.files == ("fox.txt",)
    for run, train, valid in ((char, 486, 54), (word, 183, 45)):
        fresh = run.task.read(("fox.txt",))
        assert run.facts == {**fresh.facts, "opening": run.facts["opening"]}
        assert run.language.opening == tuple(run.facts["opening"])
        data, why = run.data()
        assert data is not None, why
        assert (len(data.train), len(data.valid)) == (train, valid)
        recorded = run.manifest["data"]
        assert (recorded["train"], recorded["valid"], recorded["units_per_step"]) == (train, valid, 21)
        assert run.metrics() == pytest.approx(METRICS[run.name], rel=1e-12)
        assert all(record["units_per_second"] > 0 for record in run.records())
    assert char.last()[1]["tally"]["best"] == {"loss": 3.2603776679848724}


@pytest.mark.parametrize("name", NAMES)
def test_it_is_evaluated_and_sampled_from_as_before(name: str) -> None:
    score, *baselines = json.loads(call("eval", name, "--json").stdout)["scores"]
    assert score["loss"] == pytest.approx(LOSS[name], rel=1e-5)
    assert score["bits_per_character"] == pytest.approx(BITS[name], rel=1e-5)
    assert {"1-gram", "2-gram"} <= {baseline["name"] for baseline in baselines}
    assert call("sample", name, "--length", "12", "--seed", "1").stdout == f"{SAMPLE[name]}\n"
    assert "fox.txt" in call("score", name, "fox.txt").output


def test_it_is_listed_compared_and_reported_on() -> None:
    rows = {row["name"]: row for row in json.loads(call("runs", "--json").stdout)}
    assert {name: row["metrics"] for name, row in rows.items()} == {
        name: pytest.approx(METRICS[name]) for name in NAMES
    }
    assert {name: (row["step"], row["outcome"], row["error"]) for name, row in rows.items()} == {
        "char": (8, "interrupted", None),
        "word": (16, "finished", None),
    }
    assert {row["task"] for row in rows.values()} == {"language-model"}
    assert all(f"{name} " in call("runs").stdout for name in NAMES)
    call("rerun", "char", "--name", "again", "--quiet")
    compared = json.loads(call("compare", "char", "word", "--json", "-").stdout)["reports"]["compare"]
    assert set(compared["quantities"]) == {"char", "word"}
    assert not compared["failed"]
    for name in NAMES:
        call("report", name, "--kind", "parameters", "--kind", "flow", "--lags", "4", "--positions", "5")


def test_it_goes_on_as_one_that_never_stopped() -> None:
    whole = sessions.start(SETTINGS, name="whole")
    for _ in whole.trainer.events():
        pass
    result = call("train", "--resume", "char")
    assert result.stderr.startswith("Note: it resumes after step 8.\n")
    run = Run(Path("runs/char"))
    assert "vocabulary" not in json.loads((run.path / MANIFEST).read_text())
    (one, notes), (other, expected) = run.last(), whole.run.last()
    assert notes["step"] == expected["step"] == 16
    assert notes["rng"] == expected["rng"]
    assert notes["tally"]["best"] == pytest.approx(expected["tally"]["best"], rel=1e-4)
    for leaf, like in zip(trees.leaves(one), trees.leaves(other), strict=True):  # it began on another machine
        np.testing.assert_allclose(leaf, like, rtol=1e-3, atol=1e-5)
    assert [record["step"] for record in run.records()] == [4, 6, 8, 12, 16]
    assert not {"loss", "best_loss"} & {*checkpoint.load_metadata(run.path / BEST), *notes["tally"]}
    call("train", "--resume", "word", "--steps", "18", "--quiet")
    assert Run(Path("runs/word")).manifest["step"] == 18


@pytest.mark.parametrize("name", NAMES)
def test_it_is_repeated(name: str) -> None:
    call("rerun", name, "--name", "again", "--quiet")
    again, run = Run(Path("runs/again")), Run(Path("runs", name))
    assert again.reached() == (run.reached()[0], {"loss": pytest.approx(LOSS[name], rel=1e-4)})
    recorded = json.loads((again.path / MANIFEST).read_text())["settings"]["task_option"]
    assert recorded | {"dynamic": False} == vars(run.task)  # which is an option of the evaluation alone


def test_its_weights_are_lent() -> None:
    call("train", "fox.txt", "--init-from", "word", "--steps", "1", "--name", "started", "--quiet")
    started, word = Run(Path("runs/started")), Run(Path("runs/word"))
    assert started.language.vocabulary == word.language.vocabulary
    assert started.task == LanguageModel(level="word")  # the level alone comes with the weights
    assert started.facts["lent"] is True


def test_one_that_noted_less_opens_everywhere() -> None:
    path = Path("runs/char", MANIFEST)
    manifest = json.loads(path.read_text())
    for key in ("opening", "environment", "best", "step"):
        manifest.pop(key)
    for key in ("characters_per_symbol", "unknown"):
        manifest["data"].pop(key)
    path.write_text(json.dumps(manifest))
    for arguments in (
        ["runs"], ["sample", "char", "--length", "3"], ["eval", "char"], ["score", "char", "fox.txt"],
        ["report", "char", "--kind", "parameters"], ["rerun", "char", "--quiet", "--name", "again"],
        ["train", "--resume", "char", "--quiet"],
    ):  # fmt: skip
        call(*arguments)
    assert Run(Path("runs/char")).facts["characters_per_symbol"] == {"train": 1.0, "valid": 1.0}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"vocabulary": 3}, "has 3 for 'vocabulary', which must be a table"),
        ({"data": {}}, "has no 'data.sources'"),
        ({"task": None}, "has None for 'task', which must be text"),
    ],
)
def test_what_is_damaged_is_told(changes: dict[str, Any], sentence: str) -> None:
    path = Path("runs/char", MANIFEST)
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    result = CliRunner().invoke(rnn, ["sample", "char"])
    assert (result.exit_code, result.stderr) == (
        2,
        f"Error: the run 'char' cannot be read: its run.json {sentence}\n",
    )
