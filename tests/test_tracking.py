"""``rnn train --track tensorboard``: the event files contain what the run has recorded."""

import importlib.util
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from command_line import SMALL, refused, settle, train, trained

from minigrad import trees
from rnn_cli.main import rnn
from rnn_lab import sessions, tracking
from rnn_lab.paths import LAST
from rnn_lab.runs import Run

TRACK = ["--track", "tensorboard", "--log-every", "2", "--valid-every", "6"]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settle(tmp_path, monkeypatch)


def events(file: Path) -> list[Any]:
    """What a file holds: each event stands after its length (8 bytes) and a checksum (4), and before another (4)."""
    from tensorboardX.proto.event_pb2 import Event

    data, found = file.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        assert len(data) >= length + 16  # nothing is cut off
        event = Event()
        event.ParseFromString(data[12 : 12 + length])
        found.append(event)
        data = data[16 + length :]
    return found


def read(run: Run) -> dict[str, dict[int, Any]]:
    """Values by tag and step, as TensorBoard shows them: what a new start takes back is gone."""
    from tensorboardX.proto.event_pb2 import SessionLog

    shown: dict[str, dict[int, Any]] = defaultdict(dict)
    for file in sorted((run.path / "tensorboard").iterdir()):
        for event in events(file):
            if event.session_log.status == SessionLog.START:
                for values in shown.values():
                    for step in [step for step in values if step >= event.step]:
                        del values[step]
            for value in event.summary.value:
                assert event.step not in shown[value.tag]
                shown[value.tag][event.step] = value
    return shown


def numbers(shown: dict[str, dict[int, Any]], tag: str) -> dict[int, float]:
    return {step: value.simple_value for step, value in shown[tag].items()}


def assert_has_the_records(run: Run) -> dict[str, dict[int, Any]]:
    shown, records = read(run), list(run.records())
    for tag, key in (
        ("loss/train", "train_loss"), ("loss/valid", "valid_loss"), ("learning_rate", "learning_rate"),
        ("gradient_norm", "gradient_norm"), ("speed/units_per_second", "units_per_second"),
    ):  # fmt: skip
        expected = {record["step"]: record[key] for record in records if key in record}
        assert expected
        assert numbers(shown, tag) == pytest.approx(expected, rel=1e-6)
    for key in ("gradient_norms", "weight_norms", "update_norms"):
        for path in records[0][key]:
            expected = {record["step"]: record[key][path] for record in records if key in record}
            assert numbers(shown, f"{key}/{path}") == pytest.approx(expected, rel=1e-6)
    return shown


def test_numbers_are_those_of_the_records() -> None:
    run, _ = trained("fox.txt", *SMALL, *TRACK, "--flow", "--flow-every", "6")
    shown = assert_has_the_records(run)
    records = {record["step"]: record for record in run.records()}
    assert list(records) == [2, 4, 6, 8, 10, 12]
    for key in ("saturated", "dead"):
        assert numbers(shown, f"{key}_units/reset") == pytest.approx(
            {step: records[step]["units"]["reset"][key] for step in (6, 12)}
        )
    for lag in (1, 10, 50):
        expected = {step: records[step]["flow"]["norms"]["h"][lag] for step in (6, 12)}
        assert numbers(shown, f"flow/h/lag_{lag}") == pytest.approx(expected)
    lags = {step: records[step]["flow"]["half_life"] for step in (6, 12)}
    assert numbers(shown, "flow/half_life") == pytest.approx({step: lag for step, lag in lags.items() if lag})


def test_histograms_hold_every_weight_and_every_gradient() -> None:
    run, _ = trained("fox.txt", *SMALL, *TRACK)
    shown, records = read(run), {record["step"]: record for record in run.records()}
    weights = trees.flatten(run.last()[0]["params"])
    for path, leaf in weights.items():
        drawn, gradients = shown[f"weights/{path}"], shown[f"gradients/{path}"]
        assert list(drawn) == list(gradients) == [6, 12]
        assert (drawn[12].histo.num, sum(drawn[12].histo.bucket)) == (leaf.size, leaf.size)
        assert (drawn[12].histo.min, drawn[12].histo.max) == (pytest.approx(leaf.min()), pytest.approx(leaf.max()))
        for step, value in gradients.items():
            norm = records[step]["gradient_norms"][path]
            assert np.sqrt(value.histo.sum_squares) == pytest.approx(norm, rel=1e-4)


def test_what_the_model_writes_is_shown_as_it_stands() -> None:
    session = sessions.start(
        {"files": ("fox.txt",), "steps": 6, "valid_every": 6, "hidden_size": 5, "seed": 1, "track": "tensorboard"}
    )
    with tracking.TensorBoard(session) as board:
        for progress in session.trainer.events():
            board.show(progress)
    written = session.excerpt(tracking.EXCERPT_SIZE)
    (step, value), *more = read(session.run)["sample/text_summary"].items()
    assert (step, more) == (6, [])
    lines = value.tensor.string_val[0].decode().split("\n")
    assert [line[4:] for line in lines] == written.split("\n")
    assert {line[:4] for line in lines} == {"    "}


def test_tracking_leaves_the_run_as_it_is() -> None:
    one, other = (trained("fox.txt", *SMALL, *options)[0] for options in (TRACK[2:], TRACK))
    assert (one.path / LAST).read_bytes() == (other.path / LAST).read_bytes()
    assert not (one.path / "tensorboard").exists()


def test_a_run_that_goes_on_doubles_no_step() -> None:
    run, _ = trained("fox.txt", *SMALL, *TRACK)
    trained("--resume", run.name, "--steps", "18")
    shown = assert_has_the_records(Run(run.path))
    assert list(shown["loss/train"]) == [2, 4, 6, 8, 10, 12, 14, 16, 18]
    assert len(list((run.path / "tensorboard").iterdir())) == 2


def test_steps_that_were_lost_are_taken_back() -> None:
    session = sessions.start({"files": ("fox.txt",), **_small(), "steps": 20, "track": "tensorboard"}, name="lost")
    run = Run(Path("runs/killed"))
    with tracking.TensorBoard(session) as board:
        for progress in session.trainer.events():
            board.show(progress)
            if progress.step.step == 10:
                board._writer.flush()
                shutil.copytree(session.run.path, run.path)  # what is there where it is killed
                break
    assert run.last()[1]["step"] == 6
    assert list(read(run)["loss/train"]) == [2, 4, 6, 8, 10]
    trained("--resume", "killed", "--max-time", "0")
    assert list(read(run)["loss/train"]) == [2, 4, 6, 7]
    assert list(read(run)["loss/valid"]) == [6, 7]  # at its stop
    trained("--resume", "killed", "--max-time", "1h")
    shown = assert_has_the_records(Run(run.path))
    assert list(shown["loss/train"]) == list(range(2, 21, 2))


def _small() -> dict[str, Any]:
    return {"hidden_size": 5, "seq_length": 7, "batch_size": 3, "seed": 1, "log_every": 2, "valid_every": 6}


def test_what_was_written_before_a_divergence_is_there() -> None:
    result = train(
        "fox.txt", *SMALL, *TRACK, "--cell", "irnn", "--cell-option", "recurrent_scale=2", "--learning-rate", "1e-9",
        "--steps", "50", "--log-every", "1", "--valid-every", "1", "--name", "wild",
    )  # fmt: skip
    assert result.exit_code == 3, result.output
    records = list(Run(Path("runs/wild")).records())
    assert len(records) >= 1
    assert list(read(Run(Path("runs/wild")))["loss/train"]) == [record["step"] for record in records]


def test_an_interrupted_process_closes_its_file() -> None:
    command = [sys.executable, "-c", "from rnn_cli.main import rnn; rnn()", "train", "fox.txt", *SMALL, *TRACK]
    with subprocess.Popen([*command, "--steps", "1000000", "--name", "run"], stderr=subprocess.PIPE) as process:
        metrics = Path("runs/run/metrics.jsonl")
        while not (metrics.exists() and metrics.read_text().count("\n") > 3):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        process.communicate()
    assert process.returncode == 128 + signal.SIGINT
    assert_has_the_records(Run(Path("runs/run")))


def test_without_the_library_it_is_said_before_anything_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    without_writer(monkeypatch)
    assert refused("fox.txt", *SMALL, *TRACK) == (
        "--track tensorboard needs the library tensorboardX: pip install 'rnn-lab[tensorboard]'"
    )
    assert not os.path.exists("runs")
    Path("run.toml").write_text('track = "tensorboard"\n')
    assert refused("fox.txt", *SMALL, "--config", "run.toml").startswith("--track tensorboard needs the library")
    assert not os.path.exists("runs")


def test_a_run_goes_on_and_is_repeated_where_the_library_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    run, _ = trained("fox.txt", *SMALL, *TRACK)
    without_writer(monkeypatch)
    assert refused("--resume", run.name, "--track", "tensorboard").startswith("--track tensorboard needs the library")
    note = (
        "Note: there are no event files: --track tensorboard needs the library tensorboardX: pip install "
        "'rnn-lab[tensorboard]'.\n"
    )
    _, result = trained("--resume", run.name, "--steps", "14")
    assert note in result.stderr
    assert list(read(run)["loss/train"]) == [2, 4, 6, 8, 10, 12]
    repeated = CliRunner().invoke(rnn, ["rerun", run.name])
    assert repeated.exit_code == 0
    assert note in repeated.stderr


def without_writer(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(tracking, "find_spec", lambda name: None if name == "tensorboardX" else find(name))


def test_what_is_no_number_is_left_out() -> None:
    record = {
        "step": 1, "train_loss": 1.0, "gradient_norm": 2.0, "learning_rate": 0.1, "units_per_second": 3.0,
        "gradient_norms": {"W": None},
        "flow": {"half_life": None, "one_percent_lag": None, "norms": {"h": [1.0, None]}},
    }  # fmt: skip
    assert tracking.scalars(record) == {
        "loss/train": 1.0, "gradient_norm": 2.0, "learning_rate": 0.1, "speed/units_per_second": 3.0,
    }  # fmt: skip
