"""Averages of weights over training steps: what they are, when they begin, and that they are what is kept."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import settle
from fox_runs import Clock, files, start

from minigrad import trees
from minigrad.optimizers import towards
from minigrad.scan import available_backends, use_backend
from rnn_lab import sessions
from rnn_lab.runs import Run
from rnn_lab.session import Session
from rnn_lab.settings import Settings
from rnn_plugins.errors import UserError


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settle(tmp_path, monkeypatch)


def weights(session: Session) -> list[Any]:
    """The weights after each step, and those that are validated then."""
    trainer = session.trainer
    return [(progress, trainer.state.params, trainer.weights) for progress in trainer.events()]


def assert_close(found: Any, expected: Any) -> None:
    for a, b in trees.zip_leaves(found, expected):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)
        assert a.dtype == b.dtype


@pytest.mark.parametrize("backend", available_backends())
def test_a_tree_moves_towards_another(backend: str) -> None:
    rng = np.random.default_rng(0)
    a, b = ({"W": rng.normal(size=(300, 40)).astype(np.float32), "b": rng.normal(size=40)} for _ in range(2))
    with use_backend(backend):
        moved = towards(a, b, 0.25)
    for name in a:
        assert moved[name].dtype == a[name].dtype
        np.testing.assert_array_equal(moved[name], a[name] + a[name].dtype.type(0.25) * (b[name] - a[name]))
    with pytest.raises(ValueError, match="shape"):
        towards(a, {**b, "b": b["b"][1:]}, 0.25)


def test_an_exponential_average_begins_with_few_steps() -> None:
    found = weights(start("ema", steps=30, average="ema:decay=0.8"))
    average = trees.map(np.float64, found[0][1])
    for n, (_, params, kept) in enumerate(found):
        decay = min(0.8, (1 + n) / (10 + n))
        average = trees.map(lambda a, p, d=decay: d * a + (1 - d) * p, average, params)
        assert_close(kept, trees.map(np.float32, average))


def test_the_mean_of_the_last_part() -> None:
    found = weights(start("swa", steps=32, average="swa:start=0.75", schedule="constant"))
    for n, (_, params, kept) in enumerate(found[:23]):
        assert kept is params, n
    last = [params for _, params, _ in found[23:]]  # the weights after step 24, the first of the last quarter, and on
    assert len(last) == 9
    mean = trees.map(lambda *leaves: np.mean(leaves, axis=0, dtype=np.float64).astype(np.float32), *last)
    assert_close(found[-1][2], mean)


def test_a_mean_that_begins_where_validations_do_not_improve() -> None:
    settings = {"learning_rate": 2.0, "schedule": "constant", "valid_every": 3}
    session = start("asgd", steps=40, average="asgd:after=2", **settings)
    best, stale, begun = np.inf, 0, 0
    for progress, params, kept in weights(session):
        assert (kept is params) == (not begun)
        if progress.record and "valid_loss" in progress.record:
            loss = progress.record["valid_loss"]
            best, stale = (loss, 0) if loss < best else (best, stale + 1)
            begun = begun or (progress.step.step if stale >= 2 else 0)
    assert 0 < begun < 40
    assert session.trainer.tally.averaged == 40 - begun


def test_what_is_validated_and_kept_is_the_average() -> None:
    session = start("ema", steps=30, average="ema:decay=0.9", schedule="constant")
    kept = {}
    for progress in session.trainer.events():
        if progress.record and "valid_loss" in progress.record:
            kept[progress.step.step] = session.trainer.weights
            measured = session.problem.validate(session.trainer.weights)
            assert measured is not None
            assert progress.record["valid_loss"] == measured["loss"]
            assert measured != session.problem.validate(session.trainer.state.params)
    run = Run(session.run.path)
    expected = kept[run.manifest["best"]["step"]]
    for a, b in trees.zip_leaves(run.params(), expected):
        np.testing.assert_array_equal(a, b)
    tree, _ = run.last()
    for name, weights in (("params", session.trainer.state.params), ("average", session.trainer.weights)):
        for a, b in trees.zip_leaves(tree[name], weights):
            np.testing.assert_array_equal(a, b)
    assert session.excerpt(40) == session.excerpt(40, best=True) or run.manifest["best"]["step"] < 30


def test_with_nothing_held_out_the_latest_average_is_kept() -> None:
    """The loss of the weights that are averaged rises, so that theirs would be the lowest long before the end."""
    settings = {"learning_rate": 0.5, "schedule": "constant", "valid_fraction": 0, "valid_every": 5}
    session = start("swa", steps=32, average="swa:start=0.5", **settings)
    losses, found = {}, weights(session)
    for progress, _, _ in found:
        if progress.record and progress.step.step % 5 == 0:
            losses[progress.step.step] = progress.record["train_loss"]
    assert min(losses, key=losses.__getitem__) < 30
    run = Run(session.run.path)
    assert run.manifest["best"]["step"] == 32
    for a, b in trees.zip_leaves(run.params(), found[-1][2]):
        np.testing.assert_array_equal(a, b)
    early = start("early", steps=14, average="swa:start=0.99", **settings)
    found = weights(early)
    assert found[-2][2] is found[-2][1], "the average begins with the last step"
    assert Run(early.run.path).manifest["best"]["step"] == 14


def test_the_latest_average_is_kept_and_patience_counts_from_the_lowest_loss() -> None:
    """After its lowest the training loss goes up and down again, which is no improvement."""
    settings = {"learning_rate": 3.0, "schedule": "constant", "valid_fraction": 0, "valid_every": 5, "steps": 60}
    plain, averaged = (start(f"run{i}", average=name, patience=2, **settings) for i, name in enumerate(("", "ema")))
    stops = [len(weights(session)) for session in (plain, averaged)]
    assert stops[0] == stops[1] < 60
    assert plain.trainer.outcome == averaged.trainer.outcome == "patience"
    assert Run(averaged.run.path).manifest["best"]["step"] > Run(plain.run.path).manifest["best"]["step"]


def test_training_is_the_same_with_an_average() -> None:
    plain, averaged = (weights(start(f"run{i}", steps=20, average=name)) for i, name in enumerate(("", "ema")))
    for (one, a, _), (other, b, _) in zip(plain, averaged, strict=True):
        assert one.step.loss == other.step.loss
        for x, y in trees.zip_leaves(a, b):
            np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_a_share_of_the_time(monkeypatch: pytest.MonkeyPatch, schedule: str) -> None:
    clock = Clock(monkeypatch)
    session = start("swa", steps=1_000_000, max_time=200, average="swa:start=0.5", schedule=schedule)
    steps = len(clock.train(session, lambda step: 3.0 if step < 40 else 1.0))
    assert session.trainer.outcome == "time"
    assert session.trainer.tally.averaged == pytest.approx(steps - 40, abs=25)  # the number of steps was unknown
    again = sessions.repeat(Run(session.run.path), name="again")
    clock.train(again, lambda step: 0.1)
    assert again.trainer.tally.averaged == session.trainer.tally.averaged
    assert files(again.run) == files(Run(session.run.path))


def test_an_average_that_is_none() -> None:
    for average, sentence in {
        "mean": "there is no average called 'mean'. It takes ema, swa, asgd",
        "ema:decay=1": "--average is 'ema:decay=1': decay is 1; it must be above 0 and below 1",
        "swa:start=1": "--average is 'swa:start=1': start is 1; it must be at least 0 and below 1",
        "asgd:after=0.5": "--average is 'asgd:after=0.5': after is 0.5; it must be a whole number of at least 1",
        "ema:start=1": "--average is 'ema:start=1': 'start=1' is not understood; ema takes decay=0.999",
    }.items():
        with pytest.raises(UserError) as caught:
            Settings(average=average)
        assert str(caught.value) == sentence
