"""The memory that reports say they take, against what they take."""

import math
import re
import tracemalloc

import numpy as np
import pytest
from click.testing import CliRunner

from minigrad.scan import release, use_backend
from rnn_cli.main import rnn
from rnn_lab import reporting
from rnn_lab.process import resident
from rnn_lab.settings import Settings
from rnn_lab.subject import fresh
from rnn_plugins import registry
from rnn_plugins.errors import UserError
from rnn_plugins.reports import heatmap, jacobians, probe, probing
from rnn_plugins.reports.report import Look, Report

LOOK = Look(characters=20_000)

SLACK = 3_000_000
"""Bytes of figures, words and small arrays, which no report counts."""


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    words = np.random.default_rng(0).choice(["(a) ", "to be ", "or not\n", "[that] ", "is "], 20_000)
    path = tmp_path_factory.mktemp("bytes") / "text.txt"
    path.write_text("".join(words))
    return str(path)


@pytest.fixture(scope="module")
def subject(text):
    task = registry.make_task("lm", {})
    return fresh("lstm", task, task.read((text,)), Settings(hidden_size=48))


def measured(report, subject, look=LOOK):
    """The largest memory of a measurement, in bytes, once all that it needs is loaded."""
    with use_backend("numpy"):
        release()
        tracemalloc.start()
        try:
            report.measure(subject, look)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize("kind", [kind for kind in reporting.ORDER if kind != "loss"])
def test_a_report_takes_no_more_memory_than_it_says(kind, subject):
    report = reporting.load([kind])[kind]
    assert measured(report, subject) <= report.memory(subject, LOOK) + SLACK


@pytest.mark.parametrize("kind", ["flow", "spectrum", "lyapunov", "neurons"])
def test_the_largest_take_a_good_part_of_what_they_say(kind, subject):
    report = reporting.load([kind])[kind]
    assert measured(report, subject) >= report.memory(subject, LOOK) / 3


@pytest.mark.parametrize("kind", ["flow", "spectrum", "lyapunov", "heatmap"])
@pytest.mark.parametrize("size", [1, 8])
def test_a_small_network_is_said_to_take_little(kind, size, text):
    task = registry.make_task("lm", {})
    subject = fresh("gru", task, task.read((text,)), Settings(hidden_size=size))
    report, look = reporting.load([kind])[kind], Look(lags=50, positions=100)
    assert measured(report, subject, look) - SLACK <= report.memory(subject, look) <= 50_000_000


def test_a_heat_map_takes_its_rows_in_parts(subject, monkeypatch):
    whole = heatmap.Heatmap().measure(subject, LOOK)
    monkeypatch.setattr(probe, "BYTES_AT_ONCE", 10_000_000)
    together, taken = subject.probe.rows_at_once(heatmap.WIDEST), []
    gradients = heatmap.state_gradients
    monkeypatch.setattr(
        heatmap, "state_gradients", lambda *given: taken.append(given[1].xs.shape[1]) or gradients(*given)
    )
    parts = heatmap.Heatmap().measure(subject, LOOK)
    assert 1 < max(taken) <= together < heatmap.WIDEST
    assert len(set(taken)) == 1  # of one size, so that they have one plan
    np.testing.assert_allclose(parts.figures[0].values, whole.figures[0].values, rtol=1e-4)


@pytest.mark.parametrize(("count", "at_once"), [(1, 5), (7, 3), (6, 3), (100, 9), (5, 5)])
def test_parts_have_one_size_and_every_row_once(count, at_once):
    parts = list(probing.parts_of(count, at_once))
    assert len({rows.stop - rows.start for rows, _ in parts}) == 1
    assert all(rows.stop - rows.start <= at_once for rows, _ in parts)
    assert [row for rows, repeated in parts for row in range(rows.start + repeated, rows.stop)] == [*range(count)]


def test_jacobians_that_are_refused_take_no_memory(subject, monkeypatch):
    spectrum = reporting.load(["spectrum"])["spectrum"]
    assert spectrum.memory(subject, LOOK) > 0
    monkeypatch.setattr(jacobians, "MOST_BYTES", 1e6)
    with pytest.raises(jacobians.TooWide):
        spectrum.measure(subject, LOOK)
    assert spectrum.memory(subject, LOOK) == 0


class Small(Report):
    title = question = "small"

    def measure(self, subject, look):
        raise NotImplementedError

    def memory(self, subject, look):
        return 1_000_000_000


class Refused(Small):
    def memory(self, subject, look):
        raise UserError("this is not measured")


def test_the_largest_report_is_told_and_a_refused_one_counts_nothing(subject):
    before = resident()
    needed = reporting.memory_of({"refused": Refused(), "small": Small()}, [subject], LOOK, "numpy")
    assert needed[1:] == ("small", "lstm")
    assert 1_000_000_000 <= needed.bytes - before <= 1_100_000_000
    assert reporting.memory_of({"refused": Refused()}, [subject], LOOK, "numpy")[1:] == ("", "")


class Odd(Small):
    given = None

    def memory(self, subject, look):
        return self.given


class Failing(Small):
    def memory(self, subject, look):
        raise ZeroDivisionError


class Another(Small):
    memory = 5  # what the author calls so is something else


@pytest.mark.parametrize("given", [None, "much", -1e12, math.nan, math.inf, np.array([1, 2])])
def test_an_odd_estimate_counts_nothing(subject, given, monkeypatch):
    monkeypatch.setattr(Odd, "given", given)
    reports = {"odd": Odd(), "failing": Failing(), "another": Another()}
    assert reporting.memory_of(reports, [subject], LOOK, "numpy")[1:] == ("", "")
    assert reporting.memory_of(reports | {"small": Small()}, [subject], LOOK, "numpy")[1:] == ("small", "lstm")


def test_nothing_is_said_where_nothing_is_known(text, monkeypatch):
    """Where the system does not tell the memory of a process, and no Jacobians can be measured."""
    monkeypatch.setattr(reporting, "resident", lambda: 0)
    monkeypatch.setattr(jacobians, "MOST_BYTES", 0)
    result = CliRunner().invoke(rnn, ["report", "--cell", "gru", text, "--kind", "lyapunov", "--backend", "numpy"])
    assert "too many to measure Jacobians" in result.stderr
    assert "Measuring" not in result.stderr


def test_the_command_says_the_memory_before_it_measures(text, tmp_path, monkeypatch):
    monkeypatch.setenv("RNN_LAB_CACHE", str(tmp_path))
    told = ["--cell", "gru", text, "--hidden-size", "8", "--positions", "20", "--kind", "flow", "--kind", "saturation"]
    result = CliRunner().invoke(rnn, ["report", *told])
    assert result.exit_code == 0
    said = re.search(
        r"^Measuring takes about (\d+0 M|\d\.\d G)B of memory, most of it for flow of gru\.\n(?=flow of gru)",
        result.stderr,
        re.MULTILINE,
    )
    assert said, result.stderr
    assert "Measuring" not in CliRunner().invoke(rnn, ["report", *told, "--quiet"]).stderr
