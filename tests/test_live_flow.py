"""The flow of the gradient during training: measured, recorded and drawn."""

import io
import json
import math
from typing import Any

import numpy as np
import pytest
from command_line import SMALL, settle, train, trained
from rich.console import Console

from rnn_cli import display
from rnn_lab import records, sessions
from rnn_lab.paths import BEST, LAST
from rnn_lab.runs import Run
from rnn_plugins.reports.gradients import crossing, measure_flow

FLOW = ["--flow", "--flow-every", "4"]


@pytest.fixture(autouse=True)
def home(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settle(tmp_path, monkeypatch)


def test_a_record_has_the_flow_of_its_weights() -> None:
    given = {"files": ("fox.txt",), "steps": 12, "hidden_size": 5, "seed": 3, "cell": "lstm", "num_layers": 2}
    session = sessions.start(given | {"flow": True, "flow_every": 4, "valid_every": 6})
    problem, trainer = session.problem, session.trainer
    steps = []
    for progress in trainer.events():
        if progress.record and (flow := progress.record.get("flow")):
            steps.append(progress.step.step)
            found = measure_flow(problem.probe(trainer.state.params), 50, 100, seed=3)
            assert flow["lags"] == list(range(51))
            assert list(flow["norms"]) == ["layer1.h", "layer1.c", "layer2.h", "layer2.c"]
            assert list(flow["above"].values()) == [1, 1, 0, 0]
            for norms, mean in zip(flow["norms"].values(), found.mean, strict=True):
                np.testing.assert_allclose(norms, mean, rtol=1e-5)
            last = found.mean[2].tolist()
            for key, share in (("half_life", 0.5), ("one_percent_lag", 0.01)):
                lag = crossing(last, share)
                assert flow[key] == (None if lag is None else pytest.approx(lag, abs=0.006))
    assert steps == [4, 8, 12]
    assert [record["step"] for record in session.run.records()] == [4, 6, 8, 10, 12]


def test_looking_at_the_flow_leaves_the_weights_as_they_are() -> None:
    dropout = ["--dropout", "0.3", "--num-layers", "2"]
    one, other = (trained("fox.txt", *SMALL, *dropout, *more)[0] for more in ((), FLOW))
    assert (one.path / BEST).read_bytes() == (other.path / BEST).read_bytes()
    (_, plain), (_, looked) = one.last(), other.last()
    assert plain["rng"] == looked["rng"]
    for run in (one, other):
        assert all("flow" in record for record in run.records() if run is other and record["step"] % 4 == 0)


def test_nothing_that_is_watched_changes_what_is_kept_and_when_a_run_ends() -> None:
    alone = ["--valid-fraction", "0", "--valid-every", "5", "--patience", "2", "--learning-rate", "0.1"]
    given = ["fox.txt", *SMALL, *alone, "--schedule", "constant", "--log-every", "4", "--steps", "300"]
    watched = ([], ["--flow", "--flow-every", "3", "--track", "tensorboard"])
    runs = [trained(*given, *more)[0] for more in watched]
    plain, looked = ((run.manifest["outcome"], run.manifest["best"], (run.path / BEST).read_bytes()) for run in runs)
    assert plain[0] == "patience"
    assert looked == plain


def test_a_run_with_flow_goes_on_bit_for_bit() -> None:
    whole, _ = trained("fox.txt", *SMALL, *FLOW, "--schedule", "constant", "--name", "whole")
    parts, _ = trained("fox.txt", *SMALL, *FLOW, "--schedule", "constant", "--name", "parts", "--steps", "6")
    trained("--resume", "parts", "--steps", "12")
    timeless = [
        {r["step"]: r.get("flow") for r in Run(run.path).records() if r["step"] % 4 == 0} for run in (whole, parts)
    ]
    assert timeless[0] == timeless[1]
    assert (whole.path / LAST).read_bytes() != b""
    assert whole.params()["head"]["W"].tobytes() == Run(parts.path).params()["head"]["W"].tobytes()


def test_json_has_the_flow() -> None:
    result = train("fox.txt", *SMALL, *FLOW, "--json")
    records = [json.loads(line) for line in result.stdout.splitlines()[1:-1]]
    assert [record["step"] for record in records if "flow" in record] == [4, 8, 12]


def test_without_the_option_there_is_none() -> None:
    run, _ = trained("fox.txt", *SMALL)
    assert not any("flow" in record for record in run.records())


def test_a_text_that_is_too_short_for_any_lag() -> None:
    with open("three.txt", "w") as file:
        file.write("aba")
    run, _ = trained("three.txt", "--hidden-size", "3", "--steps", "8", "--valid-every", "8", *FLOW)
    assert [record["step"] for record in run.records()] == [4, 8]
    assert not any("flow" in record for record in run.records())
    with open("short.txt", "w") as file:
        file.write("abcabcabcabc")
    run, _ = trained(
        "short.txt", "--hidden-size", "3", "--steps", "8", "--valid-fraction", "0", "--valid-every", "8", *FLOW
    )
    assert [record["flow"]["lags"] for record in run.records()] == [list(range(6))] * 2


def test_plain_lines_tell_of_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display, "LINE_SECONDS", 0.0)
    _, result = trained("fox.txt", *SMALL, "--flow", "--flow-every", "6")
    lines = result.stderr.splitlines()
    told = [i for i, line in enumerate(lines) if line.startswith("  flow, in steps: h ")]
    assert len(told) == 2
    assert [lines[i - 1].split()[:2] for i in told] == [["step", "6"], ["step", "12"]]


FALLING, HOLDING = [10.0 ** -(k / 5) for k in range(51)], [1.0] * 51


@pytest.mark.parametrize(
    ("norms", "words"),
    [
        (FALLING, "vanishes: half-life 1.5, 1 % after 10"),
        (HOLDING, "holds: 100.0 % after 50"),
        ([1.2**k for k in range(51)], "explodes: 9.1e+03 times after 50"),
        ([k + 1 for k in range(51)], "grows: 51 times after 50"),
        ([1.0, 0.0, 0.0], "vanishes: half-life 1, 1 % after 1"),
        ([0.0, 0.0], "no gradient"),
        ([1.0, None], "explodes: not finite after 1"),
    ],
)
def test_a_curve_in_words(norms: list[float | None], words: str) -> None:
    assert records.reaches({"norms": {"h": norms}}) == {"h": words}


def test_growth_by_paths_through_the_layers_above_is_no_explosion() -> None:
    norms = [(k + 1) * (k + 2) / 2 for k in range(51)]  # what a middle layer has of two above that pass all on
    flow = {"norms": {"layer1.h": norms, "layer3.h": norms}, "above": {"layer1.h": 2, "layer3.h": 0}}
    grown = "1.33e+03"
    assert records.reaches(flow)["layer1.h"] == f"grows: {grown} times after 50"


@pytest.mark.parametrize(
    ("values", "width", "curve"),
    [
        ([1.0, 0.1, 0.01, 0.001, 0.0001], 10, "█▆▄▂ "),
        ([1e-30, 1e-31, 0.0], 10, "█▆ "),
        ([1.0, 10.0, 100.0, 1e9], 10, "   █"),
        ([1.0] * 50, 3, "███"),
        ([1.0, 1.0, 0.0, 1e-2], 2, "█▄"),
        ([1.0, None], 5, "█ "),
        ([0.0, 0.0], 5, "  "),
    ],
)
def test_a_curve_as_bars(values: list[float | None], width: int, curve: str) -> None:
    assert display.logarithmic(values, width) == curve


def test_the_highest_bar_is_within_the_set_for_every_number() -> None:
    for value in (math.nextafter(1.0, 0.0), 1.0, 5e-324, 1e308):
        assert display.logarithmic([value, value / 3], 5, display.ASCII_BARS)[0] == "#"


@pytest.mark.parametrize(("width", "encoding"), [(80, "utf-8"), (70, "utf-8"), (80, "ascii")])
def test_a_line_a_state_on_a_terminal(width: int, encoding: str) -> None:
    given = {"files": ("fox.txt",), "steps": 8, "hidden_size": 5, "seed": 1, "cell": "lstm", "num_layers": 2}
    session = sessions.start(given | {"flow": True, "flow_every": 8})
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console = Console(width=width, height=24, file=stream, force_terminal=True, color_system=None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(display, "errors", lambda: console)
        live = display.Live(session)
        for progress in session.trainer.events():
            live.show(progress)
        with console.capture() as capture:
            console.print(live.picture())
    rows = capture.get().splitlines()
    assert len(rows) <= 24
    assert max(map(len, rows)) <= width
    lines = [row for row in rows if row.startswith("flow ")]
    bars = display.ASCII_BARS if encoding == "ascii" else display.BARS
    record = list(session.run.records())[-1]
    words = records.reaches(record["flow"])
    for line, (state, norms) in zip(lines, record["flow"]["norms"].items(), strict=True):
        name, said = f"flow {state}  ", words[state]
        assert line.startswith(name)
        assert line.rstrip().endswith(f"  {said}")
        curve = line.rstrip()[len(name) : -len(said) - 2]
        assert len(curve) >= 10
        assert set(curve) <= {*bars, " "}
        assert curve == display.logarithmic(norms, len(curve), bars)
