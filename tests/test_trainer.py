"""The trainer: what it saves, when it ends, and that an interrupted run resumes exactly."""

import errno
import json
import math
import os
import shutil
from collections.abc import Callable
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import settle
from fox_runs import Clock, files, start

from minigrad import checkpoint, trees
from minigrad.training import Details, NotFinite
from rnn_cells.anatomy import anatomy
from rnn_lab import sessions
from rnn_lab import trainer as trainer_module
from rnn_lab.paths import BEST, LAST, METRICS
from rnn_lab.runs import Run
from rnn_lab.session import Session
from rnn_lab.verdict import verdict
from rnn_plugins.reports.parameters import norms_of


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settle(tmp_path, monkeypatch)


def finish(session: Session) -> Session:
    for _ in session.trainer.events():
        pass
    return session


def stop_after(session: Session, step: int) -> Session:
    for progress in session.trainer.events():
        if progress.step.step == step - 1:
            session.trainer.stop()  # as a signal does, at any time: the step under way is finished
    assert session.trainer.outcome == "interrupted"
    return session


@pytest.mark.parametrize(
    ("settings", "outcome"),
    [
        ({}, "finished"),
        (
            {"cell": "lstm", "num_layers": 2, "dropout": 0.3, "optimizer": "adamw", "schedule": "linear:warmup=5"},
            "finished",
        ),
        ({"cell": "lstm-peephole", "dropout": 0.2, "variational_dropout": True, "num_layers": 2}, "finished"),
        ({"cell": "lstm", "weight_dropout": 0.5, "dropout": 0.2, "num_layers": 2}, "finished"),
        ({"cell": "lstm", "weight_dropout": 0.2, "zoneout": 0.2, "num_layers": 2}, "finished"),
        ({"average": "ema:decay=0.9"}, "finished"),
        ({"tie": True, "embedding_dropout": 0.3, "weight_dropout": 0.3}, "finished"),
        ({"average": "swa:start=0.5", "schedule": "constant"}, "finished"),
        ({"average": "asgd:after=1", "learning_rate": 2.0, "schedule": "constant"}, "finished"),
        ({"cell": "irnn", "optimizer": "sgd:momentum=0.9,nesterov=true", "grad_clip": "element:0.1"}, "finished"),
        ({"level": "word", "embedding_size": 4, "dtype": "float64", "optimizer": "rmsprop"}, "finished"),
        ({"level": "bpe:40", "embedding_size": 4}, "finished"),
        ({"cell": "lstm", "cell_option": {"layer_norm": "true"}, "num_layers": 2}, "finished"),
        ({"valid_fraction": 0, "schedule": "exponential:decay=0.5", "optimizer": "adagrad"}, "finished"),
        ({"valid_fraction": 0, "flow": True, "flow_every": 5}, "finished"),
        ({"valid_fraction": 0, "average": "swa:start=0.5", "schedule": "constant"}, "finished"),
        ({"learning_rate": 5.0, "schedule": "constant", "patience": 2, "embedding_size": 0}, "patience"),
    ],
    ids=str,
)
def test_an_interrupted_run_goes_on_bit_for_bit(settings: dict[str, Any], outcome: str) -> None:
    whole = finish(start("whole", steps=41, **settings))
    # In the middle of an epoch and at its end; beside a record, a validation, and neither.
    parts = stop_after(start("parts", steps=41, **settings), 3)
    for step in sorted({whole.problem.steps_per_epoch, 18, 20, 25}):
        if step > parts.trainer.state.step + 1:
            parts = stop_after(sessions.resume(Run(parts.run.path), {}), step)
    parts = finish(sessions.resume(Run(parts.run.path), {}))
    assert whole.trainer.outcome == parts.trainer.outcome == outcome
    assert files(parts.run) == files(whole.run)


UNSORTED = """
from dataclasses import dataclass
from rnn_cells.lstm import LSTM

@dataclass(frozen=True)
class Unsorted(LSTM):
    def init_carry(self, batch_size):
        h, c = super().init_carry(batch_size)
        return {"h": h, "c": c}

    def __call__(self, params, carry, x):
        (h, c), y = super().__call__(params, (carry["h"], carry["c"]), x)
        return {"c": c, "h": h}, y
"""
"""An LSTM whose step names its two states in another order than its first carry does."""


def test_the_state_is_taken_up_by_name(tmp_path: Path) -> None:
    (tmp_path / "unsorted.py").write_text(UNSORTED)
    cell = f"{tmp_path / 'unsorted.py'}:Unsorted"
    whole = finish(start("whole", steps=12, cell=cell))
    parts = stop_after(start("parts", steps=12, cell=cell), 5)
    assert list(parts.run.last()[0]["carry"]) == ["c", "h"]
    parts = finish(sessions.resume(Run(parts.run.path), {}))
    assert files(parts.run) == files(whole.run)


def end_by_time(session: Session, step: int, monkeypatch: pytest.MonkeyPatch) -> Session:
    ending = session.trainer._ending

    def time_is_up(seconds: float) -> str | None:
        return "time" if session.trainer.state.step == step else ending(seconds)

    monkeypatch.setattr(session.trainer, "_ending", time_is_up)
    finish(session)
    assert session.trainer.outcome == session.run.manifest["outcome"] == "time"
    return session


def notes(run: Run) -> dict[str, Any]:
    """What the file of the best weights says of them."""
    return checkpoint.load(run.path / BEST)[1]


@pytest.mark.parametrize("fraction", [0.1, 0.0])
@pytest.mark.parametrize("step", [1, 4, 7, 9, 13, 16, 18, 19, 29])
def test_a_run_whose_time_was_up_goes_on_bit_for_bit(
    monkeypatch: pytest.MonkeyPatch, step: int, fraction: float
) -> None:
    settings = {"steps": 30, "valid_fraction": fraction, "learning_rate": 0.5, "schedule": "constant"}
    whole = finish(start("whole", **settings))
    parts = end_by_time(start("parts", **settings), step, monkeypatch)
    best = parts.run.manifest["best"]
    assert best == notes(parts.run)
    *_, last = parts.run.records()
    assert last["step"] == step
    if fraction:  # it is looked at out of turn, and kept where it is the best of all
        measured = {record["step"]: record["valid_loss"] for record in parts.run.records() if "valid_loss" in record}
        assert list(measured) == [at for at in (9, 18, 27) if at < step] + [step]
        assert best == {"step": min(measured, key=measured.__getitem__), "metrics": {"loss": min(measured.values())}}
        assert parts.problem.validate(parts.run.params()) == best["metrics"]
    assert parts.run.last()[1]["step"] == parts.run.manifest["step"] == step
    parts = finish(sessions.resume(Run(parts.run.path), {}))
    assert files(parts.run) == files(whole.run)
    assert parts.run.manifest["best"] == whole.run.manifest["best"] == notes(parts.run)


STOPS = {
    # Losses of the validations that are due, at 10, 20 and 30, and of those at stops; the best step after each end.
    "a stop that is never beaten": ({10: 2.0, 13: 1.0, 20: 2.1, 30: 2.2}, [13], [13, 10]),
    "a stop that is beaten": ({10: 2.0, 13: 1.5, 20: 1.2, 30: 2.2}, [13], [13, 20]),
    "a stop that is worse": ({10: 2.0, 13: 2.5, 20: 2.1, 30: 2.2}, [13], [10, 10]),
    "two stops, the first the best": ({10: 2.0, 13: 1.0, 15: 1.5, 20: 2.1, 30: 2.2}, [13, 15], [13, 13, 10]),
    "two stops, the second the best": ({10: 2.0, 13: 1.5, 15: 1.0, 20: 2.1, 30: 2.2}, [13, 15], [13, 15, 10]),
    "stops before and after": ({10: 2.0, 13: 1.0, 20: 2.1, 24: 1.9, 30: 2.2}, [13, 24], [13, 24, 10]),
    "a stop before the first": ({7: 1.0, 10: 2.0, 20: 2.1, 30: 2.2}, [7], [7, 10]),
    "a stop where one is due": ({10: 2.0, 20: 1.0, 30: 2.2}, [20], [20, 20]),
    "ties": ({10: 2.0, 13: 2.0, 20: 2.0, 30: 2.0}, [13], [10, 10]),
}


@pytest.mark.parametrize("stops", STOPS)
def test_what_a_stop_finds_is_used_until_the_next_validation(monkeypatch: pytest.MonkeyPatch, stops: str) -> None:
    losses, ends, best = STOPS[stops]

    def told(session: Session) -> Session:
        vars(session.problem)["validate"] = lambda params: {"loss": losses[session.trainer.state.step]}
        return session

    whole = finish(told(start("whole", steps=30, valid_every=10)))
    session = start("parts", steps=30, valid_every=10)
    for end, step in zip([*ends, 30], best, strict=True):
        session = end_by_time(told(session), end, monkeypatch) if end < 30 else finish(told(session))
        run = Run(session.run.path)
        expected = {"metrics": {"loss": losses[step]}, "step": step}
        assert run.manifest["best"] == notes(run) == session.trainer.best == expected
        assert (session.outcome()["loss"], session.outcome()["best_step"]) == (losses[step], step)
        session = sessions.resume(run, {}) if end < 30 else session
    assert files(session.run) == files(whole.run)


@pytest.mark.parametrize("moment", range(6))
def test_a_kill_while_a_stop_is_saved_loses_nothing(monkeypatch: pytest.MonkeyPatch, moment: int) -> None:
    """Files are written one after another; after each of them, those on disk must go on to the same bytes."""
    losses = {10: 2.0, 13: 1.0, 20: 2.1}
    whole = start("whole", steps=20, valid_every=10)
    vars(whole.problem)["validate"] = lambda params: {"loss": losses[whole.trainer.state.step]}
    finish(whole)
    session = start("parts", steps=20, valid_every=10)
    vars(session.problem)["validate"] = lambda params: {"loss": losses[session.trainer.state.step]}
    write, count = checkpoint.write_atomically, iter(range(100))

    class Killed(BaseException):
        pass

    def killed(*arguments: Any) -> None:
        if session.trainer.state.step == 13 and next(count) >= moment:
            raise Killed
        write(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_atomically", killed)
        try:
            end_by_time(session, 13, monkeypatch)
        except Killed:
            assert moment < 4  # last, last with what is set aside, best, manifest
        else:
            assert moment >= 4
    session.run.release()
    run = Run(session.run.path)
    assert run.summary().step == run.last()[1]["step"] == (10 if moment == 0 else 13)
    assert run.summary().metrics["loss"] == notes(run)["metrics"]["loss"] == (2.0 if moment < 3 else 1.0)
    again = sessions.resume(run, {})
    vars(again.problem)["validate"] = lambda params: {"loss": losses[again.trainer.state.step]}
    assert files(finish(again).run) == files(whole.run)


def test_whoever_leaves_the_iterator_finds_the_files_up_to_date() -> None:
    whole = finish(start("whole", steps=30))
    session = start("parts", steps=30)
    events = session.trainer.events()
    for progress in events:
        if progress.step.step == 13:
            break
    events.close()
    run = Run(session.run.path)
    assert run.manifest["step"] == run.last()[1]["step"] == run.summary().step == 13
    assert files(finish(sessions.resume(run, {})).run) == files(whole.run)


def test_an_interruption_in_the_middle_of_a_step_saves_nothing_of_it() -> None:
    whole = finish(start("whole", steps=30, dropout=0.2))
    session = start("parts", steps=30, dropout=0.2)
    loss = session.problem.loss

    def interrupted(params: Any, carry: Any, batch: Any, rng: np.random.Generator) -> Any:
        found = loss(params, carry, batch, rng)  # which draws from the generator
        if session.trainer.state.step == 12:
            raise KeyboardInterrupt
        return found

    vars(session.problem)["loss"] = interrupted
    with pytest.raises(KeyboardInterrupt):
        finish(session)
    run = Run(session.run.path)
    assert run.manifest["step"] == run.last()[1]["step"] == run.summary().step == 9
    assert files(finish(sessions.resume(run, {})).run) == files(whole.run)


def test_asked_twice_the_validation_is_left_out() -> None:
    session = start("run", steps=30)
    validate, asked = session.problem.validate, list[int]()

    def validated(params: Any) -> dict[str, float] | None:
        asked.append(session.trainer.state.step)
        if session.trainer.state.step == 14:
            session.trainer.stop()
        return validate(params)

    vars(session.problem)["validate"] = validated
    stop_after(session, 14)
    assert asked == [9, 14]
    assert session.run.manifest["step"] == session.run.last()[1]["step"] == 14
    assert session.run.manifest["best"] == notes(session.run) == session.trainer.best
    assert session.trainer.best["step"] == 9
    again = sessions.resume(Run(session.run.path), {})
    for progress in again.trainer.events():
        if progress.step.step == 20:
            again.trainer.stop()
            again.trainer.stop()
            with pytest.raises(KeyboardInterrupt):
                again.trainer.stop()
    assert again.run.manifest["step"] == 21
    assert again.trainer.best["step"] in (9, 18)


def test_a_stop_that_is_asked_for_during_a_validation_takes_no_further_step() -> None:
    session = start("run", steps=30)
    validate = session.problem.validate

    def validated(params: Any) -> dict[str, float] | None:
        session.trainer.stop()
        return validate(params)

    vars(session.problem)["validate"] = validated
    finish(session)
    assert (session.trainer.outcome, session.trainer.saved, session.trainer.best["step"]) == ("interrupted", 9, 9)


@pytest.mark.parametrize("name", [METRICS, LAST, BEST])
def test_a_disk_that_is_full_leaves_what_was_saved(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    whole, session = finish(start("whole", steps=30)), start("parts", steps=30)
    write, append = checkpoint.write_atomically, trainer_module._append

    def full(path: Any, *rest: Any) -> None:
        if session.trainer.state.step > 14 and os.fspath(path).endswith(name):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        write(path, *rest)

    def no_line(metrics: Any, record: Any) -> None:
        if session.trainer.state.step > 14 and name == METRICS:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        append(metrics, record)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_atomically", full)
        patch.setattr(trainer_module, "_append", no_line)
        with pytest.raises(OSError, match="No space left") as caught:
            finish(session)
    assert os.fspath(caught.value.filename) == str(session.run.path / name)
    run = Run(session.run.path)
    assert run.manifest["outcome"] == "interrupted"
    assert run.manifest["step"] == run.summary().step == run.last()[1]["step"] == 9
    assert run.manifest["best"] == notes(run)
    assert files(finish(sessions.resume(run, {})).run) == files(whole.run)


def test_what_a_process_that_was_killed_was_writing_is_removed_on_resume() -> None:
    session = stop_after(start("run", steps=30), 14)
    left, kept = session.run.path / ".0123456789abcdef.tmp", session.run.path / ".notes.tmp"
    left.touch()
    kept.touch()
    sessions.resume(Run(session.run.path), {}).run.release()
    assert (left.exists(), kept.exists()) == (False, True)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "cosine:warmup=5,final=0.1"])
@pytest.mark.parametrize(
    "seconds",
    [lambda step: 1.0, lambda step: 60.0 if step == 0 else 1.0, lambda step: 1.0 if step < 100 else 3.0],
    ids=["steady", "a slow first step", "slower in the middle"],
)
def test_a_schedule_spans_the_time(
    monkeypatch: pytest.MonkeyPatch, schedule: str, seconds: Callable[[int], float]
) -> None:
    session = start("run", steps=1_000_000, max_time=200, schedule=schedule, learning_rate=0.01)
    rates = Clock(monkeypatch).train(session, seconds)
    assert session.trainer.outcome == "time"
    assert rates[-1] == pytest.approx(0.001 if "final" in schedule else 0.0, abs=2e-4)
    if "warmup" in schedule:
        assert rates[:5] == pytest.approx([0.002, 0.004, 0.006, 0.008, 0.01])
        return
    passed = np.cumsum([0, *(seconds(step) for step in range(len(rates) - 1))]) / 200
    expected = 0.01 * (1 - passed if schedule == "linear" else (1 + np.cos(np.pi * passed)) / 2)
    assert rates == pytest.approx(expected, abs=0.02 * 0.01 * np.pi / 2)  # a fiftieth of the time, where it is steepest


def test_a_repetition_takes_the_rates_that_the_clock_gave(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    one = start("one", steps=1_000_000, max_time=40, learning_rate=0.01)
    rates = clock.train(one, lambda step: 1.0 if step < 20 else 2.0)
    assert (one.trainer.outcome, len(rates)) == ("time", 30)
    again = sessions.resume(Run(one.run.path), {})
    # Thirty steps in forty seconds, and as many seconds are to come.
    assert (
        "the cosine schedule now extends to the end of the time; the learning rate continues at 0.005" in again.notices
    )
    rates += clock.train(again, lambda step: 3.0)
    other = sessions.repeat(Run(one.run.path), name="other")
    assert clock.train(other, lambda step: 0.1) == rates
    assert files(other.run) == files(Run(one.run.path))


def test_a_time_that_is_not_needed_leaves_the_schedule_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = [
        Clock(monkeypatch).train(start(name, steps=30, learning_rate=0.01, **given), lambda step: 1.0)
        for name, given in (("free", {}), ("timed", {"max_time": 100}))
    ]
    assert rates[0] == rates[1]


def test_a_time_limit_that_is_reached_at_once() -> None:
    session = finish(start("run", steps=30, max_time=0))
    assert (session.trainer.outcome, session.trainer.state.step) == ("time", 1)


def test_records_reach_the_disk_before_what_counts_them(monkeypatch: pytest.MonkeyPatch) -> None:
    session, wrote = start("run", steps=9), list[str]()
    fsync, save = os.fsync, checkpoint.save

    def synced(number: int) -> None:
        metrics = session.run.path / METRICS
        if metrics.exists() and os.path.samestat(os.fstat(number), metrics.stat()):
            wrote.append(f"{len(list(session.run.records()))} records")
        fsync(number)

    def saved(path: Path, *rest: Any) -> None:
        wrote.append(path.name)
        save(path, *rest)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(checkpoint, "save", saved)
    finish(session)
    assert wrote == [LAST, BEST, BEST, "3 records", LAST]


def test_records_of_later_steps_are_dropped_though_others_are_missing() -> None:
    parts = stop_after(start("parts", steps=30), 14)
    *lines, at_stop = (parts.run.path / METRICS).read_text().splitlines(keepends=True)
    assert [json.loads(line)["step"] for line in lines] == [4, 8, 9, 12]
    assert json.loads(at_stop)["step"] == 14
    (parts.run.path / METRICS).write_text("".join(lines[1:]) + lines[0].replace('"step": 4', '"step": 16'))
    parts = finish(sessions.resume(Run(parts.run.path), {}))
    steps = [r["step"] for r in parts.run.records()]
    assert steps == [8, 9, 12, 16, 18, 20, 24, 27, 28, 30]
    assert parts.run.last()[1]["tally"]["records"] == len(steps)


def test_records_of_steps_that_were_lost_are_dropped() -> None:
    whole = finish(start("whole", steps=30))
    crashed = start("crashed", steps=30)
    run = Run(crashed.run.path.with_name("killed"))
    for _ in islice(crashed.trainer.events(), 14):
        shutil.rmtree(run.path, ignore_errors=True)
        shutil.copytree(crashed.run.path, run.path)  # what is there where it is killed
    assert run.last()[1]["step"] == run.summary().step == 9  # and the records go further
    with open(run.path / METRICS, "a") as metrics:
        metrics.write('{"step": 16, "train_lo')
    assert [r["step"] for r in run.records()] == [4, 8, 9, 12]
    crashed = finish(sessions.resume(run, {}))
    assert files(crashed.run) == files(whole.run)


def test_time_goes_on_over_sessions() -> None:
    session = stop_after(start("parts", steps=30), 10)
    seconds = [r["seconds"] for r in finish(sessions.resume(Run(session.run.path), {})).run.records()]
    assert seconds == sorted(seconds)


def test_a_record_says_what_the_issue_asks_for() -> None:
    records = list(finish(start("run", steps=12)).run.records())
    keys = ["step", "epoch", "train_loss", "gradient_norm", "learning_rate", "units_per_second", "seconds"]
    norms = ["gradient_norms", "weight_norms", "update_norms"]
    looked = [*keys, "valid_loss", *norms, "units"]
    assert [list(r) for r in records] == [[*keys, *norms], [*keys, *norms], looked, looked]
    assert [r["step"] for r in records] == [4, 8, 9, 12]


def test_norms_of_a_record_are_those_of_its_step() -> None:
    # Plain descent, so that updates are known, and clipped, so that gradients before and after differ.
    session = start("run", steps=12, optimizer="sgd", learning_rate=0.5, schedule="constant", grad_clip="0.01")
    for progress in session.trainer.events():
        record, details = progress.record, progress.step.details
        assert (record is None) == (details is None) == (progress.step.step not in (4, 8, 9, 12))
        if record is None or details is None:
            continue
        for key, tree in (("gradient_norms", details.gradients), ("weight_norms", details.before)):
            expected = {path: np.linalg.norm(leaf) for path, leaf in trees.flatten(tree).items()}
            assert record[key] == pytest.approx(expected, rel=1e-5)
        together = np.sqrt(sum(norm**2 for norm in record["gradient_norms"].values()))
        assert together == pytest.approx(record["gradient_norm"], rel=1e-5)
        assert together > 0.01
        clipped = {path: 0.5 * 0.01 / together * norm for path, norm in record["gradient_norms"].items()}
        assert record["update_norms"] == pytest.approx(clipped, rel=1e-3)
        assert all(
            a is b for a, b in zip(trees.leaves(details.after), trees.leaves(session.trainer.state.params), strict=True)
        )
    assert all(step.details is None for step in session.trainer.recent)


def test_what_a_watched_step_did_stays_as_it_was() -> None:
    seen: list[tuple[Details, list[bytes]]] = []
    for progress in start("run", steps=9, log_every=1, grad_clip="element:0.001").trainer.events():
        assert progress.step.details
        seen.append((progress.step.details, [leaf.tobytes() for leaf in trees.leaves(progress.step.details)]))
    for (details, before), (later, _) in pairwise(seen):
        assert [leaf.tobytes() for leaf in trees.leaves(details)] == before
        assert all(a is b for a, b in zip(trees.leaves(details.after), trees.leaves(later.before), strict=True))


@pytest.mark.parametrize(
    ("cell", "biases", "expected"),
    [
        ("lstm", {"forget": 30.0, "input": -30.0}, {"forget": 1.0, "input": 1.0}),
        ("irnn", {"": -9.0}, {"relu": 1.0}),
    ],
)
def test_units_of_a_record_are_those_of_the_weights(
    cell: str, biases: dict[str, float], expected: dict[str, float]
) -> None:
    session = start("run", steps=9, cell=cell, learning_rate=1e-9)
    for gate, bias in biases.items():
        cell_params = session.trainer.state.params["cell"]
        (cell_params[gate] if gate else cell_params)["b"][:] = bias
    units = list(finish(session).run.records())[-1]["units"]
    assert set(units) == {activation.label for activation in anatomy(session.problem.model.cell).activations}
    assert {label: shares["saturated"] for label, shares in units.items() if shares["saturated"]} == expected
    # A sigmoid of 30 is 1 in float32, and a relu of what is below 0 always is 0: they never move.
    assert {label for label, shares in units.items() if shares["dead"]} >= {next(iter(expected))}


def test_norms_that_are_not_finite_are_none() -> None:
    big = {"W": np.full(3, 3e38, np.float32)}
    found = norms_of(Details({"W": np.zeros(3, np.float32)}, big, {"W": -big["W"]}))
    assert found["gradient_norms"] == {"W": 0.0}
    assert found["weight_norms"] == {"W": pytest.approx(3**0.5 * 3e38, rel=1e-5)}
    assert found["update_norms"] == {"W": None}


def test_the_training_loss_of_a_record_is_the_mean_since_the_last() -> None:
    session = start("run", steps=9)
    losses, records = [], []
    for progress in session.trainer.events():
        losses.append(progress.step.loss)
        records += [progress.record] if progress.record else []
    assert records[0]["train_loss"] == pytest.approx(np.mean(losses[:4]), rel=1e-12)
    assert records[1]["train_loss"] == pytest.approx(np.mean(losses[4:8]), rel=1e-12)
    assert records[2]["train_loss"] == losses[8]


@pytest.mark.parametrize("fraction", [0.1, 0.0])
def test_looking_at_the_flow_changes_nothing_else(fraction: float) -> None:
    # Where nothing is held out the mean training loss decides what is kept and when to stop.
    given = {"steps": 400, "valid_fraction": fraction, "patience": 3, "learning_rate": 0.1, "schedule": "constant"}
    plain = finish(start("plain", **given))
    looked = start("looked", flow=True, flow_every=5, **given)
    for step in (6, 16):  # after a look at the flow alone
        looked = sessions.resume(stop_after(looked, step).run, {})
    looked = finish(looked)
    assert plain.trainer.outcome == looked.trainer.outcome == "patience"
    assert plain.run.manifest["best"] == looked.run.manifest["best"]
    one, other = files(plain.run), files(looked.run)
    assert one[BEST] == other[BEST]
    (tree, notes), (again, remembered) = plain.run.last(), looked.run.last()
    assert [a.tobytes() for a in trees.leaves(tree)] == [b.tobytes() for b in trees.leaves(again)]
    assert {**notes, "tally": {**notes["tally"], "records": 0}} == {
        **remembered, "tally": {**remembered["tally"], "records": 0},
    }  # fmt: skip
    steps = {record["step"]: {k: v for k, v in record.items() if k != "flow"} for record in other["records"]}
    assert len(steps) > len(one["records"])
    assert [steps[record["step"]] for record in one["records"]] == one["records"]


def test_states_that_are_no_numbers_end_training_by_its_loss_alone() -> None:
    # The recurrent matrix doubles the states, which overflow along the whole text and not yet in the first batches.
    settings = {"cell": "irnn", "cell_option": {"recurrent_scale": "2"}, "learning_rate": 1e-9, "valid_fraction": 0}
    session = start("run", steps=60, flow=True, flow_every=2, valid_every=2, **settings)
    with pytest.raises(NotFinite):
        finish(session)
    records = list(session.run.records())
    assert session.trainer.outcome == "diverged"
    assert records
    assert not any("units" in record for record in records)


def test_the_best_weights_are_those_of_the_lowest_held_out_loss() -> None:
    session = start("run", steps=60, learning_rate=0.05, schedule="constant", valid_every=5)
    best = min((loss, i) for i, loss in enumerate(_held_out(finish(session))))
    assert session.run.manifest["best"] == {"metrics": {"loss": best[0]}, "step": 5 * (best[1] + 1)}
    assert session.problem.validate(session.run.params()) == {"loss": best[0]}


def _held_out(session: Session) -> list[float]:
    return [r["valid_loss"] for r in session.run.records() if "valid_loss" in r]


def test_the_state_is_passed_on_within_an_epoch_and_begins_anew_with_the_next() -> None:
    session = start("run", steps=60)
    began: list[bool] = []
    loss = session.problem.loss

    def watched(params: Any, carry: Any, batch: Any, rng: Any) -> Any:
        began.append(not np.any(carry))
        return loss(params, carry, batch, rng)

    vars(session.problem)["loss"] = watched
    finish(session)
    assert began == [step % session.problem.steps_per_epoch == 0 for step in range(60)]
    assert sum(began) == 3


def test_patience_ends_a_run_that_gets_no_better() -> None:
    session = finish(start("run", steps=500, learning_rate=2.0, schedule="constant", valid_every=2, patience=3))
    assert session.trainer.outcome == session.run.manifest["outcome"] == "patience"
    losses = _held_out(session)
    assert losses.index(min(losses)) == len(losses) - 4


def test_progress_tells_how_much_is_left() -> None:
    done = [progress.done for progress in start("run", steps=8).trainer.events()]
    assert done == [n / 8 for n in range(1, 9)]
    first = next(start("timed", steps=8, max_time=1e-6).trainer.events())
    assert (first.done, first.seconds_left) == (1.0, 0.0)


def test_no_steps_at_all() -> None:
    session = finish(start("run", steps=0))
    assert session.trainer.outcome == "finished"
    assert session.run.manifest["best"] == {"metrics": None, "step": 0}
    assert session.run.params()["head"]["b"].shape == (len(session.run.language.vocabulary),)


def test_a_run_that_diverges_says_so_and_keeps_its_best_weights() -> None:
    settings = {"cell": "irnn", "cell_option": {"recurrent_scale": "2"}, "learning_rate": 1e-9}
    session = start("run", steps=50, valid_every=1, **settings)
    with pytest.raises(NotFinite) as caught:
        finish(session)
    assert session.trainer.outcome == session.run.manifest["outcome"] == "diverged"
    best = session.run.manifest["best"]
    assert 0 < best["step"] < caught.value.step
    assert session.problem.validate(session.run.params()) == best["metrics"]


@pytest.mark.parametrize("fraction", [0.1, 0.0])
def test_weights_that_are_no_numbers_after_the_last_step_are_not_kept(fraction: float) -> None:
    # The loss of the only step is finite, and its update is not.
    session = start("run", steps=1, learning_rate=1e300, schedule="constant", optimizer="sgd", valid_fraction=fraction)
    with pytest.raises(NotFinite):
        finish(session)
    assert session.run.manifest["outcome"] == "diverged"
    assert all(np.isfinite(leaf).all() for leaf in session.run.params()["head"].values())
    measured = "held-out loss" if fraction else "loss"
    error = NotFinite(
        1, float("nan"), 1.0, session.problem.batch(1), session.trainer.state.carry, np.random.default_rng(0)
    )
    assert session.diagnosis(error)[0] == f"Diverged: after step 1 the {measured} is nan."


def looks(*losses: tuple[float, float], rates: tuple[float, ...] = ()) -> list[dict[str, Any]]:
    """Records of validations; their rates are 0.002 unless given."""
    return [
        {"step": 100 * i, "train_loss": t, "valid_loss": v, "learning_rate": dict(enumerate(rates, 1)).get(i, 2e-3)}
        for i, (t, v) in enumerate(losses, 1)
    ]


FALLING = [(2.0, 2.0), (1.8, 1.8), (1.6, 1.62)]
COSINE = (1.5e-3, 5e-4, 0.0)
GUESSING = math.log(58)

WORDS: dict[str, tuple[list[dict[str, Any]], float, str]] = {
    "two looks are not enough": (looks((2.0, 2.0), (1.9, 1.9)), 1.0, ""),
    "no look": ([], 1.0, ""),
    "falls": (
        looks(*FALLING),
        1.0,
        "It underfits: both losses are still falling. Train further, with more --epochs, or with a larger "
        "--hidden-size.",
    ),
    "falls, and is not at its end": (looks(*FALLING), 0.9, "Both losses are still falling."),
    "fell until the schedule ended": (
        looks(*FALLING, rates=COSINE),
        1.0,
        "It underfits: both losses fell until the schedule ended. Train further, with more --epochs, or with a "
        "larger --hidden-size.",
    ),
    "falls, and half of it is to come": (looks(*FALLING), 0.4, ""),
    "stands still": (
        looks((2.0, 2.0), (2.0, 2.0), (2.0, 2.001)),
        1.0,
        "It underfits: both losses are flat and close together. A larger --hidden-size or more layers may help.",
    ),
    "overfits": (
        looks((2.0, 2.0), (1.5, 1.7), (1.2, 1.8), (1.0, 1.9)),
        1.0,
        "It overfits: the held-out loss has risen by 0.200 nats since step 200, whose weights are kept, while the "
        "training loss kept falling. More data, --dropout or a smaller model help.",
    ),
    "overfits from the beginning": (
        looks((3.9, 4.2), (2.0, 4.3)),
        1.0,
        "It overfits: the held-out loss is 4.3 nats, and guessing costs 4.06, while the training loss is 2. More data "
        "or --dropout help.",
    ),
    "begins to overfit": (
        looks((2.0, 2.1), (1.5, 1.8), (1.2, 1.7)),
        1.0,
        "It begins to overfit: the held-out loss is 0.50 nats above the training loss. --dropout helps.",
    ),
    "fits": (
        looks((1.6, 1.8), (1.5, 1.7), (1.45, 1.65)),
        1.0,
        "It fits: the held-out loss follows the training loss.",
    ),
    "near zero": (
        looks((2.0, 2.0), (0.1, 0.1), (0.01, 0.01)),
        1.0,
        "It has learnt this kind of data: the held-out loss is near zero.",
    ),
    "far worse than guessing, and falling": (
        looks((140.0, 130.0), (100.0, 99.0), (89.0, 88.0)),
        1.0,
        "It has learnt nothing: the held-out loss is 88 nats, and guessing costs 4.06. Try a lower --learning-rate (it "
        "was 0.002); rnn report shows whether the gradient explodes.",
    ),
    "worse than guessing at the only look": (
        looks((4.3, 4.293)),
        1.0,
        "It has learnt nothing: the held-out loss is 4.293 nats, and guessing costs 4.06. Try a lower --learning-rate "
        "(it was 0.002); rnn report shows whether the gradient explodes.",
    ),
    "as good as guessing": (
        looks((4.06, 4.06), (4.06, 4.06), (4.05, 4.05)),
        1.0,
        "It has learnt nothing yet: the held-out loss is 4.05 nats, and guessing costs 4.06. Train longer, or with a "
        "higher --learning-rate.",
    ),
    "as good as guessing so far": (looks((4.06, 4.06), (4.06, 4.06)), 0.1, ""),
    "gets worse": (
        looks((2.0, 2.0), (2.4, 2.5), (5.0, 5.1)),
        1.0,
        "It has got worse: both losses have risen since step 100, whose weights are kept, the held-out one by 3.100 "
        "nats. Try a lower --learning-rate (it was 0.002).",
    ),
}
"""Curves, how much of the run they show, and what is right to say of them where 58 symbols are guessed among."""


@pytest.mark.parametrize("what", WORDS)
def test_the_curves_are_put_into_words(what: str) -> None:
    records, done, words = WORDS[what]
    ended = "until the schedule ended" in words
    assert verdict(records, done, GUESSING, 2e-3, ended=ended).words == words
    unvalidated = {"step": 1, "train_loss": 1.0}  # does not count
    assert verdict([unvalidated, *records], done, GUESSING, 2e-3, ended=ended).words == words
    if "whose weights are kept" in words:  # which is not so where another metric chooses them
        words = words.replace(", whose weights are kept, while", " while").replace(", whose weights are kept,", ",")
    assert verdict(records, done, GUESSING, 2e-3, by_loss=False, ended=ended).words == words


@pytest.mark.parametrize(
    ("losses", "words"),
    [
        (
            ((110.0, 112.0), (85.0, 100.0), (80.0, 98.0)),
            "It begins to overfit: the held-out loss is 18.00 nats above the training loss. --dropout helps.",
        ),
        (((31.0, 30.9), (24.5, 26.0), (23.4, 24.4)), "It fits: the held-out loss follows the training loss."),
        (
            ((24.5, 24.41), (24.4, 24.4), (24.38, 24.4)),
            "It underfits: both losses are flat and close together. A larger --hidden-size or more layers may help.",
        ),
        (
            ((25.0, 25.0), (24.0, 24.8), (23.9, 24.82), (23.8, 24.83)),
            "It fits: the held-out loss follows the training loss.",
        ),
    ],
)
def test_large_losses_are_compared_by_their_ratio(losses: tuple[tuple[float, float], ...], words: str) -> None:
    assert verdict(looks(*losses), 1.0, 44.0 if losses[0][0] < 44 else 200.0, 2e-3).words == words


@pytest.mark.parametrize(
    ("given", "outcome", "longer"),
    [
        ({"epochs": 3}, "finished", "more --epochs"),
        ({"steps": 60}, "finished", "more --steps"),
        ({"steps": 60, "max_time": 100}, "finished", "more --steps"),
        ({"steps": 1_000_000, "max_time": 100}, "time", "a longer --max-time"),
    ],
)
def test_longer_is_said_in_the_words_that_ended_the_run(given: dict[str, Any], outcome: str, longer: str) -> None:
    session = start("run", **given)
    session.trainer.outcome = outcome
    session.trainer.state.step = session.trainer.total_steps
    records = looks(*FALLING, rates=(4e-3, 1e-3, 0.0))
    assert session.verdict(records).words == (
        f"It underfits: both losses fell until the schedule ended. Train further, with {longer}, or with a "
        "larger --hidden-size."
    )


RATE = "What to try, in a new run: --learning-rate "
EXPLODES = "The recurrence explodes with the weights that training began with, so no learning rate helps: after "
HOLD = "a cell with gates (--cell gru or --cell lstm), and clipping (--grad-clip 1)."
SMALLER = "To prevent that, try --cell-option recurrent_scale=1 (at which no step stretches it) or "


@pytest.mark.parametrize(
    ("cell", "scale", "rate", "explodes"),
    [
        ("irnn", "1.5", 1e-4, True),
        ("irnn", "1.5", 1e-7, True),
        ("irnn", "3", 1e-5, True),
        ("irnn", "1.0", 1e6, False),
        ("rnn", "1.6", 1e30, False),  # whose gradient explodes, but whose states are held by tanh
        ("gru", None, 1e38, False),  # at which weights overflow, whatever the order of sums
    ],
)
def test_what_diverges_at_every_rate_is_not_put_down_to_the_rate(
    cell: str, scale: str | None, rate: float, explodes: bool
) -> None:
    options = {} if scale is None else {"recurrent_scale": scale}
    more = {"seq_length": 64, "batch_size": 1, "steps": 30, "schedule": "constant", "embedding_size": 0}
    session = start("run", cell=cell, cell_option=options, learning_rate=rate, hidden_size=8, **more)
    with pytest.raises(NotFinite) as caught:
        finish(session)
    said = session.diagnosis(caught.value)
    assert sum(line.startswith(RATE) for line in said) == (not explodes)
    assert sum(line.startswith(EXPLODES) for line in said) == explodes
    if explodes:
        assert said[said.index(next(line for line in said if line.startswith(EXPLODES))) + 1] == SMALLER + HOLD


def test_what_diverges_is_explained_without_the_weights_that_it_started_with_too() -> None:
    first = finish(start("first", embedding_size=0))
    given = {"files": first.problem.data.sources, "learning_rate": 1e30, "schedule": "constant", "steps": 9}
    session = sessions.start(given | {"valid_every": 9}, name="second", init_from=first.run)
    shutil.rmtree(first.run.path)
    with pytest.raises(NotFinite) as caught:
        finish(session)
    assert session.diagnosis(caught.value)[-1].startswith(RATE)
