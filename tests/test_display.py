"""The display of ``rnn train`` on a terminal."""

import io
import os
import pty
import re
import subprocess
import sys
from collections import deque
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import names_task
import numpy as np
import pytest
from command_line import SMALL, settle
from rich.console import Console

from minigrad.training import NotFinite
from rnn_cli import display
from rnn_lab import sessions
from rnn_lab.paths import LAST
from rnn_lab.records import reaches
from rnn_lab.session import Session
from rnn_plugins import registry


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settle(tmp_path, monkeypatch)


def picture(session: Session, width: int, height: int, **options: Any) -> tuple[display.Live, str]:
    options = {"file": io.StringIO(), "force_terminal": True, "color_system": None} | options
    console = Console(width=width, height=height, **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(display, "errors", lambda: console)
        patch.setattr("rnn_cli.bars.errors", lambda: console)
        live = display.Live(session)
        first = _drawn(live, console)
        assert first.strip() == "the first step ..."
        with patch.context() as unseen:
            unseen.setattr(live, "live", SimpleNamespace(start=lambda: None, stop=lambda: None))
            with live:
                for progress in session.trainer.events():
                    live.show(progress)
        live.over = False
        return live, _drawn(live, console)


def _drawn(live: display.Live, console: Console) -> str:
    with console.capture() as capture:
        console.print(live.picture())
    return capture.get()


def test_the_picture_on_a_terminal() -> None:
    settings = {"files": ("fox.txt",), "steps": 40, "hidden_size": 5, "seed": 1, "valid_every": 8, "seq_length": 7}
    session = sessions.start(settings)
    live, drawn = picture(session, 80, 30)
    rows = drawn.splitlines()
    assert max(map(len, rows)) <= 80
    assert len(rows) <= 30
    best = session.run.manifest["best"]
    assert re.fullmatch(r"gru-fox ━+ 100%  0 s left", rows[0])
    assert re.fullmatch(r"step +40 of 40 +training +\d\.\d{3} nats \(\d\.\d{3} bits per character\) *", rows[1])
    assert re.fullmatch(r"epoch +\S+ +held out +\d\.\d{3} nats \(\d\.\d{3} bits per character\) *", rows[2])
    assert re.fullmatch(rf"gradient +\S+ +best +{best['metrics']['loss']:.3f} nats at step {best['step']} *", rows[3])
    assert re.fullmatch(r"rate +\S+ +speed +[\d,]+ characters/s *", rows[4])
    assert re.fullmatch(r"held out +\d\.\d{3} [▁▂▃▄▅▆▇█]{5} \d\.\d{3}", rows[5])
    assert session.verdict().words in " ".join(drawn.split())
    assert f"─ by the best weights, of step {best['step']} " in drawn
    with live:
        pass
    assert session.verdict().words not in _drawn(
        live, Console(width=80, file=io.StringIO())
    )  # for it is said after the picture


@pytest.mark.parametrize(
    ("encoding", "up", "down", "bars"), [("utf-8", "↑", "↓", "▁▂▃▄▅▆▇█"), ("ascii", "^", "v", "_.:=+*#-")]
)
def test_another_metric_has_its_curve_beside_that_of_the_loss(encoding: str, up: str, down: str, bars: str) -> None:
    Path("names.py").write_text(Path(names_task.__file__).read_text())
    Path("Italian.txt").write_text("Rossi\nRusso\nFerrari\nEsposito\nBianchi\nRomano\nColombo\nRicci\nMarino\nGreco\n")
    Path("Russian.txt").write_text(
        "Ivanov\nSmirnov\nPopov\nPetrov\nSokolov\nLebedev\nKozlov\nNovikov\nMorozov\nVolkov\n"
    )
    settings = {"task": "./names.py:Names", "files": ("Italian.txt", "Russian.txt"), "steps": 20, "valid_every": 4}
    session = sessions.start({**settings, "hidden_size": 5, "seed": 1, "learning_rate": 0.03})
    session.excerpt = lambda size, best=False: "Italian 0.71 (right)  Rossi"  # type: ignore[method-assign]
    file = io.TextIOWrapper(io.BytesIO(), encoding)
    live, drawn = picture(session, 80, 30, file=file)
    rows = drawn.splitlines()
    first, last = live.validations[0], live.validations[-1]
    for row, name, arrow in ((rows[5], "accuracy", up), (rows[6], "loss", down)):
        shown = re.fullmatch(rf"{name} {re.escape(arrow)} +(\S+) (\S+) (\S+)", row)
        assert shown, row
        assert shown.groups()[::2] == (f"{first[f'valid_{name}']:.3f}", f"{last[f'valid_{name}']:.3f}")
        assert len(shown[2]) == len(live.validations)
        assert set(shown[2]) <= set(bars)
    assert "Italian 0.71 (right)  Rossi" in drawn
    task = session.problem.task
    renamed = {**task.metrics, "accuracy": task.metrics["accuracy"]._replace(word="share of names told right")}
    object.__setattr__(task, "metrics", renamed)
    console = Console(width=44, height=30, file=io.StringIO(), force_terminal=True, color_system=None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(display, "errors", lambda: console)
        patch.setattr("rnn_cli.bars.errors", lambda: console)
        rows = _drawn(live, console).splitlines()
    assert max(map(len, rows)) <= 44
    place = rows.index("share of names told right ↑")
    assert re.fullmatch(rf"\S+ [{display.BARS}]+ {last['valid_accuracy']:.3f}", rows[place + 1])
    assert rows[place + 2] == "loss ↓"


@pytest.mark.parametrize("width", [40, 60, 80, 120])
@pytest.mark.parametrize("height", [24, 40])
def test_the_picture_fits_and_cuts_no_number_off(width: int, height: int) -> None:
    settings = {"files": ("fox.txt",), "steps": 40, "hidden_size": 5, "seed": 1, "valid_every": 8, "seq_length": 7}
    session = sessions.start(settings | {"flow": True, "flow_every": 8})
    live, drawn = picture(session, width, height)
    rows = drawn.splitlines()
    assert max(map(len, rows)) <= width
    assert len(rows) <= height
    assert "…" not in drawn
    words = " ".join(drawn.split())
    for said in (
        f"held out {display.measured(session.run, display.validated(live.validations[-1]))}",
        f"training {display.measured(session.run, {'loss': live.record['train_loss']}, 'train')}",
        "step 40 of 40",
        next(iter(reaches(live.flow).values())),
        session.verdict().words,
    ):
        assert said in words


def test_where_only_one_number_per_character_fits_it_is_the_compared_one() -> None:
    settings = {"files": ("fox.txt",), "steps": 40, "hidden_size": 5, "seed": 1, "valid_every": 8, "seq_length": 7}
    for width, told in ((80, ""), (120, r"\d\.\d{3} nats per character, ")):
        _, drawn = picture(sessions.start(settings | {"level": "byte"}), width, 30)
        pattern = rf"step +40 of 40 +training +\d\.\d{{3}} nats \({told}\d\.\d{{3}} bits per character\) *"
        assert re.fullmatch(pattern, drawn.splitlines()[1])


def test_a_long_name_stands_above_the_bar_and_wide_values_below_their_labels() -> None:
    settings = {"files": ("fox.txt",), "steps": 8, "hidden_size": 5, "seed": 1, "valid_every": 8, "seq_length": 7}
    name = "a-long-name-of-a-run-with-everything-in-it"
    live, drawn = picture(sessions.start(settings, name=name), 40, 40)
    rows = drawn.splitlines()
    assert [rows[0] + rows[1], rows[2]] == [name, f"{rows[2].split()[0]} 100%  0 s left"]
    assert set(rows[2].split()[0]) == {"━"}
    place = rows.index("held out")
    assert rows[place + 1] == display.measured(live.session.run, display.validated(live.validations[-1]))
    assert re.fullmatch(r"gradient   \S+", rows[place + 2])


def test_the_last_sample_is_by_the_weights_that_are_kept() -> None:
    """They are not the last ones: the held-out text is the other reversed, so what is learnt soon misleads."""
    Path("reversed.txt").write_text(Path("fox.txt").read_text()[::-1])
    settings = {"files": ("fox.txt",), "steps": 60, "hidden_size": 5, "seed": 1, "valid_every": 10, "seq_length": 7}
    session = sessions.start(settings | {"valid": ("reversed.txt",), "learning_rate": 0.1})
    live, drawn = picture(session, 80, 40)
    best = session.trainer.best["step"]
    assert best < 60
    assert f"─ by the best weights, of step {best} ─" in drawn
    assert live.excerpt == session.excerpt(display.EXCERPT_SIZE, best=True) != session.excerpt(display.EXCERPT_SIZE)
    problem, rng = session.problem, np.random.default_rng(60)
    params = session.run.params()
    assert live.excerpt == problem.task.excerpt(problem.model, params, problem.data, display.EXCERPT_SIZE, rng)


def test_a_model_that_diverges_while_it_is_watched_says_why_itself() -> None:
    wild = {"cell": "irnn", "cell_option": {"recurrent_scale": 2.0}, "valid_fraction": 0, "seed": 1}
    small = {"files": ("fox.txt",), "steps": 50, "hidden_size": 5, "seq_length": 7, "batch_size": 3}
    session = sessions.start(small | wild)
    live = display.Live(session)
    events = session.trainer.events()
    with pytest.raises(NotFinite):  # and no UserError, for want of an excerpt
        deque(map(live.show, events))
    assert live.progress is not None


def test_looking_does_not_change_the_training() -> None:
    settings = {"files": ("fox.txt",), "steps": 12, "hidden_size": 5, "seed": 1, "dropout": 0.3}
    watched, alone = sessions.start(settings), sessions.start(settings)
    watched.cost()
    for _ in watched.trainer.events():
        watched.excerpt(20)
    for _ in alone.trainer.events():
        pass
    assert (watched.run.path / LAST).read_bytes() == (alone.run.path / LAST).read_bytes()


def test_what_the_model_writes_cannot_move_the_cursor() -> None:
    session = sessions.start({"files": ("fox.txt",), "steps": 12, "hidden_size": 5, "seed": 1})
    session.excerpt = lambda size, best=False: "a\x1b[2J\tb\r\nc\u202e\x9b"  # type: ignore[method-assign]
    _, drawn = picture(session, 80, 30)
    assert "│ a·[2J⇥b·" in drawn
    assert "│ c··" in drawn


@pytest.mark.parametrize(
    ("values", "width", "bars"),
    [
        ([1.0, 2.0], 10, "▁█"), ([3.0, 3.0, 3.0], 10, "▁▁▁"), ([1.0], 10, "▁"),
        ([0, 1, 2, 3, 4, 5, 6, 7], 8, "▁▂▃▄▅▆▇█"), ([0, 1, 2, 3, 4, 5, 6, 7], 4, "▁▃▆█"),
    ],
)  # fmt: skip
def test_curves(values: list[float], width: int, bars: str) -> None:
    assert display.sparkline(values, width) == bars


def test_memory_for_people() -> None:
    assert [display.memory(size) for size in (1, 2_340_000, 123_400_000, 5_600_000_000)] == [
        "0.1 MB", "2.3 MB", "123 MB", "5.6 GB",
    ]  # fmt: skip


def test_a_process_on_a_terminal_draws_and_leaves_it_clean() -> None:
    leader, follower = pty.openpty()
    command = [sys.executable, "-c", "from rnn_cli.main import rnn; rnn()", "train", "fox.txt", *SMALL, "--steps", "60"]
    environment = os.environ | {"COLUMNS": "80", "LINES": "30", "TERM": "xterm"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=follower, env=environment) as process:
        os.close(follower)
        drawn = b""
        try:
            while chunk := os.read(leader, 65536):
                drawn += chunk
        except OSError:  # the other end is closed
            pass
        out, _ = process.communicate()
    os.close(leader)
    assert process.returncode == 0
    assert out.startswith(b"runs/gru-fox: ")
    assert b"by the best weights, of step " in drawn
    assert drawn.rindex(b"\x1b[?25h") > drawn.rindex(b"\x1b[?25l")  # the cursor is shown again
    assert b"Sample from it: rnn sample gru-fox" in drawn


def test_metrics_with_the_unit_of_the_loss_are_named() -> None:
    run: Any = SimpleNamespace(task=registry.make_task("paint", {}), metrics=lambda found, part: found)
    found = {"loss": 24.4, "reconstruction": 22.22, "divergence": 2.18}
    assert display.measured(run, found) == "24.40 nats (reconstruction 22.22, divergence 2.18)"
    run.task = registry.make_task("read", {})
    assert display.measured(run, {"loss": 1.5, "accuracy": 0.5}) == "accuracy 0.5000 (1.500 nats)"
    assert display.measured(run, {"loss": 3015.7, "accuracy": 0.5}) == "accuracy 0.5000 (3,016 nats)"


@pytest.mark.parametrize(
    ("value", "shown"),
    [(2.5, "2.50"), (999.94, "999.94"), (-1234.5, "-1,234"), (3015.7, "3,016"), (99_999.0, "99,999"), (2e6, "2e+06")],
)
def test_large_metrics_are_whole_numbers(value: float, shown: str) -> None:
    assert display.number(value, 2) == shown
