"""What is said of a run's losses, and the command that it is told to go on with."""

import math
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from command_line import settle
from hypothesis import given
from hypothesis import strategies as st

from rnn_cli.main import rnn
from rnn_lab import sessions
from rnn_lab.paths import LAST
from rnn_lab.session import Session
from rnn_lab.verdict import Verdict, verdict

Start = Callable[..., Session]

GUESSING = math.log(58)
FALLING = [(2.0, 2.0), (1.8, 1.8), (1.6, 1.62)]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    settle(tmp_path, monkeypatch)
    return lambda name, **settings: sessions.start({"files": ("fox.txt",), "seed": 1, **settings}, name=name)


def looks(*losses: tuple[float, float]) -> list[dict[str, Any]]:
    """Records of validations at a high rate."""
    return [
        {"step": 100 * i, "train_loss": t, "valid_loss": v, "learning_rate": 2e-3} for i, (t, v) in enumerate(losses, 1)
    ]


@given(
    losses=st.lists(st.tuples(st.floats(0.1, 9.0), st.floats(GUESSING, 9.0)), min_size=1, max_size=6),
    done=st.floats(0.0, 1.0),
    ended=st.booleans(),
)
def test_a_loss_above_that_of_guessing_is_no_underfitting(
    losses: list[tuple[float, float]], done: float, ended: bool
) -> None:
    words = verdict(looks(*losses), done, GUESSING, 2e-3, ended=ended).words
    assert "underfits" not in words
    assert "still falling" not in words or done < 0.5


@pytest.mark.parametrize("schedule", ["cosine:final=0.3", "linear:final=0.2", "cosine", "constant"])
def test_losses_are_still_falling_only_where_the_rate_is_not(start: Start, schedule: str) -> None:
    session = start("run", steps=60, schedule=schedule)
    records = looks(*FALLING)  # whose rate is high at the end, as with a high final share
    session.trainer.state.step = 50
    assert session.verdict(records).words == "Both losses are still falling."
    session.trainer.state.step = 60
    session.trainer.outcome = "finished"
    assert ("still falling" in session.verdict(records).words) == (schedule == "constant")


@pytest.mark.parametrize("fall", [0.0, 0.003, 0.006])
def test_losses_that_hardly_fall_and_are_close_together_underfit(fall: float) -> None:
    losses = [(3.0 - fall * i, 3.0 - fall * i) for i in range(4)]  # up to 0.018 over the last validations
    assert verdict(looks(*losses), 1.0, 4.0, 2e-3).change == "larger"
    apart = [(training - 0.15, held_out) for training, held_out in losses]
    assert verdict(looks(*apart), 1.0, 4.0, 2e-3).words == "It fits: the held-out loss follows the training loss."


CHANGES = {
    "longer": (looks(*FALLING), ["--resume", "run", "--steps", "24"]),
    "larger": (looks((2.0, 2.0), (2.0, 2.0), (2.0, 2.001)), ["--hidden-size", "8"]),
    "slower": (looks((2.0, 2.0), (2.4, 2.5), (5.0, 5.1)), ["--learning-rate", "0.003"]),
    "regularised": (looks((2.0, 2.0), (1.5, 1.7), (1.2, 1.8), (1.0, 1.9)), ["--dropout", "0.2"]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_advice_is_a_command_that_works(start: Start, change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    records, words = CHANGES[change]
    session = start("run", steps=12, hidden_size=4, learning_rate=0.01, seq_length=7, batch_size=3)
    for _ in session.trainer.events():
        pass
    monkeypatch.setattr(session, "verdict", lambda: Verdict("It is so.", change))
    command = shlex.split(session.next_command())
    assert command[:2] == ["rnn", "train"]
    assert words == command[2:] if change == "longer" else set(words) <= set(command)
    result = CliRunner().invoke(rnn, command[1:])
    assert result.exit_code == 0, result.output
    assert verdict(records, 1.0, GUESSING, 2e-3).change == change
    assert session.run.notes(LAST)["step"] == (24 if change == "longer" else 12)


def test_no_command_is_advised_where_none_would_work(start: Start) -> None:
    session = start("run", steps=12)
    assert session.next_command() == ""
    session.trainer.outcome = "interrupted"
    assert session.next_command() == ""
