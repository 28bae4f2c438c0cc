"""Runs of a second on ``fox.txt``, for tests of the trainer and of the Python API."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from rnn_lab import sessions
from rnn_lab import trainer as trainer_module
from rnn_lab.paths import BEST, LAST, METRICS
from rnn_lab.runs import Run
from rnn_lab.session import Session

SMALL: dict[str, Any] = {
    "hidden_size": 5, "seq_length": 7, "batch_size": 3, "seed": 1, "log_every": 4, "valid_every": 9,
}  # fmt: skip
SHORT = SMALL | {"steps": 12, "valid_every": 6}

Start = Callable[..., Session]


def start(name: str, **settings: Any) -> Session:
    """A session of a small run, in a folder that ``settle`` made."""
    return sessions.start({"files": ("fox.txt",), **SMALL, **settings}, name=name)


def files(run: Run) -> dict[str, Any]:
    """What a run leaves, but for times."""
    records = [json.loads(line) for line in (run.path / METRICS).read_text().splitlines()]
    timeless = [{k: v for k, v in r.items() if k not in ("seconds", "units_per_second")} for r in records]
    return {"records": timeless, LAST: (run.path / LAST).read_bytes(), BEST: (run.path / BEST).read_bytes()}


class Clock:
    """Time as a trainer sees it: what its steps are said to take."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(trainer_module.time, "monotonic", lambda: self.now)

    def train(self, session: Session, seconds: Callable[[int], float]) -> list[float]:
        """Train to the end; the rate of each step."""
        loss, rates = session.problem.loss, list[float]()

        def slow(*arguments: Any) -> Any:
            self.now += seconds(session.trainer.state.step)
            return loss(*arguments)

        vars(session.problem)["loss"] = slow
        for progress in session.trainer.events():
            rates.append(progress.step.learning_rate)
        return rates
