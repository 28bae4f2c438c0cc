"""The benchmark of lags: which runs it does, and what it makes of them."""

import argparse
import json

import lags
import pytest


def one(cell, seed, lag, solved, reach=None, loss=0.1, problem="adding", rate=0.01):
    found = {"fate": "vanishes", "lag": reach, "left": 0.5, "within": 99}
    return {
        "problem": problem,
        "lag": lag,
        "cell": cell,
        "seed": seed,
        "rate": rate,
        "before": found,
        "after": found,
        "steps": 100 * lag,
        "loss": loss,
        "right": 0.25,
        "solved": solved,
    }


RUNS = [
    one("rnn", 1, 5, False, 7, loss=0.3),
    one("rnn", 1, 5, True, 9, loss=0.009, rate=0.1),
    one("rnn", 1, 10, False, 4, loss=None),
    one("rnn", 2, 5, False, 3),
    one("gru", 1, 5, True),
    one("gru", 1, 10, True, 20),
    one("gru", 2, 5, True),
    one("gru", 2, 10, False, 5),
    one("gru", 1, 20, False, 12, loss=0.26, problem="copy"),
]


def test_the_best_run_of_each_lag_counts():
    found = lags.chosen(RUNS, "adding")
    assert [(run["lag"], run["rate"]) for run in found["rnn", 1]] == [(5, 0.1), (10, 0.01)]
    assert lags.cells_of(found) == ["rnn", "gru"]
    assert [lags.longest(some) for some in found.values()] == [5, 0, 10, 5]


def test_tables_have_a_row_per_cell():
    heads, rows = lags.adding_table(RUNS)
    assert len(heads) == len(rows[0]) == 8
    assert rows[0] == ["rnn", "2.5 (0 to 5)", "500", "9 (0.5)", "9 (0.5)", "7.5 (5 to 10)", "4 (0.5)", "4 (0.5)"]
    assert rows[1][:4] == ["gru", "7.5 (5 to 10)", "750 (500 to 1000)", "60 (0.5)"]
    _, (row,) = lags.copy_table(RUNS)
    assert row == ["gru", "20", "0.2600", "0.5199", "0.50", "0.25", "12 (0.5)", "12 (0.5)"]


def test_runs_are_counted_by_where_their_gradient_reaches():
    assert [row[1:] for row in lags.odds(RUNS)[:2]] == [["4", "4"], ["3", "0"]]


def test_ranks_of_equal_values_are_means():
    assert lags._ranks([3, 1, 3, 7]) == [1.5, 0, 1.5, 3]
    assert lags.correlation(RUNS) == pytest.approx(4.5 / (4.5 * 5) ** 0.5)


def test_a_page_has_the_tables_and_a_chart_of_all_runs():
    content = {
        "runs": RUNS,
        "options": {"hidden": 8, "batch": 4, "steps": 2000, "seconds": 60},
        "machine": {"processor": "a processor"},
    }
    text = lags.section(content | {"command": "--seeds 2"})
    assert "These are of `python benchmarks/lags.py --seeds 2`: 8 units, batches of 4, Adam at 0.1, 0.01 (the " in text
    assert "medians (and ranges) over 2 seeds. a processor." in text
    assert "| rnn | 2.5 (0 to 5) | 500 |" in text
    (before, _) = lags.chart(RUNS).figures
    assert [len(curve.x) for curve in before.curves] == [2, 4, 3]


def test_what_is_done_is_not_done_again(tmp_path, monkeypatch):
    path, done = tmp_path / "runs.json", []

    def run(problem, lag, cell, seed, rate, arguments):
        done.append((problem, lag, cell, rate))
        return one(cell, seed, lag, lag < 10 and rate < 0.01, problem=problem, rate=rate)

    monkeypatch.setattr(lags, "run", run)
    given = argparse.Namespace(
        json=path, hidden=8, batch=4, steps=10, seconds=1, page=False, seeds=1, cells=["gru"], lags=[5, 10, 20],
        copy_lags=[3], rates=[0.02, 0.005],
    )  # fmt: skip
    lags.measured(given)
    expected = [("adding", 5, 0.02), ("adding", 5, 0.005), ("adding", 10, 0.02), ("adding", 10, 0.005)]
    assert [(p, lag, rate) for p, lag, _, rate in done] == [*expected, ("copy", 3, 0.02), ("copy", 3, 0.005)]
    assert len(json.loads(path.read_text())["runs"]) == 6
    done.clear()
    lags.measured(given)
    assert done == []
    given.hidden = 9
    with pytest.raises(SystemExit, match=r"has runs with .*asked for"):
        lags.measured(given)


def test_a_network_is_trained_until_it_solves_the_problem():
    given = argparse.Namespace(hidden=12, batch=32, steps=300, seconds=60, lags=[2, 6], copy_lags=[2])
    found = lags.run("adding", 2, "gru", 1, 0.02, given)
    assert found["solved"]
    assert found["steps"] in (100, 200, 300)
    assert found["loss"] < 0.01
    assert found["before"]["within"] == 5
    assert found["after"]["left"] > 0
