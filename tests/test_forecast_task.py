"""The task forecast: season, baselines and metrics against plain loops, its messages, and a series that it learns."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from command_line import settle

from minigrad.gradients import grad
from rnn_cells import Stacked
from rnn_cells.gru import GRU
from rnn_cells.rnn import RNN
from rnn_cli.main import rnn
from rnn_lab.problem import Problem
from rnn_lab.reporting import load, make_pages
from rnn_lab.settings import Settings
from rnn_lab.subject import of_problem
from rnn_plugins.data import series
from rnn_plugins.data.series import Series
from rnn_plugins.errors import UserError
from rnn_plugins.reports.report import Look
from rnn_plugins.tasks.forecast.task import Forecast
from rnn_plugins.tasks.task import Data, Network
from rnn_plugins.testing import check_task


@pytest.fixture
def folder(tmp_path, monkeypatch):
    settle(tmp_path, monkeypatch)
    return tmp_path


def wave(count, season=12, noise=0.1, seed=0):
    rng = np.random.default_rng(seed)
    return np.sin(2 * np.pi * np.arange(count) / season) + noise * rng.normal(size=count)


def table(name, *columns, header="heat,light", times=None):
    rows = [",".join(f"{value:.6f}" for value in row) for row in zip(*columns, strict=True)]
    if times is not None:
        rows = [f"{time},{row}" for time, row in zip(times, rows, strict=True)]
    Path(name).write_text("\n".join([header, *rows]))
    return name


def network(size=5, **more):
    return Network(lambda width: GRU(width, size), size, **more)


def fresh(task, data, size=5, dtype="float64"):
    model = task.model(data.facts, network(size, dtype=dtype))
    return model, model.init_params(np.random.default_rng(0))


# --- the series ------------------------------------------------------------------------------------------------------


def test_the_generated_series_has_a_daily_and_a_weekly_season():
    values = series.generated("builtin:seasons:3360")[:, 0]
    assert len(values) == 3360
    assert series.season_of(values)[0] == 168
    assert series.season_of(values.reshape(-1, 168)[:, :120].ravel())[0] == 24  # working days alone
    assert not np.array_equal(values, series.generated("builtin:seasons:3360:1")[:, 0])


@pytest.mark.parametrize(
    "name",
    ["builtin:season", "builtin:seasons:", "builtin:seasons:x", "builtin:seasons:9:9:9", "builtin:seasons:10000000"],
)
def test_other_generated_series_are_refused(name):
    with pytest.raises(UserError) as refused:
        series.generated(name)
    assert str(refused.value) == (
        f"{name!r} is not understood; expected builtin:seasons, builtin:seasons:LENGTH or builtin:seasons:LENGTH:SEED, "
        "such as builtin:seasons:5000"
    )


@pytest.mark.parametrize("season", [3, 7, 30])
def test_a_season_is_found_below_a_trend(season):
    assert series.season_of(wave(200, season) + np.linspace(0, 50, 200))[0] == season


@pytest.mark.parametrize("values", [np.arange(90.0), np.ones(50), np.random.default_rng(0).normal(size=400), [1.0, 2]])
def test_what_does_not_repeat_has_no_season(values):
    assert series.season_of(np.array(values)) == (1, 0.0)


def test_the_naive_forecasts_are_those_of_a_loop():
    history = np.random.default_rng(0).normal(size=(10, 2))
    for season, horizon in ((4, 6), (1, 3), (20, 25)):
        length = min(season, 10)
        expected = [history[10 - length + step % length] for step in range(horizon)]
        np.testing.assert_array_equal(series.seasonal_naive(history, horizon, season), expected)
    errors = [abs(history[t] - history[t - 3]) for t in range(3, 10)]
    np.testing.assert_allclose(series.naive_error(history, 3), np.mean(errors, axis=0))


def test_mase_is_that_of_hyndman_and_koehler():
    rng = np.random.default_rng(1)
    errors, scale = rng.normal(size=(4, 5, 2)), np.array([0.5, 2.0])
    expected = np.mean([[[abs(e) / q for e, q in zip(row, scale, strict=True)] for row in some] for some in errors])
    found = series.measures(errors, scale)
    assert found["mase"] == pytest.approx(expected)
    assert found["mae"] == pytest.approx(np.abs(errors).mean())
    assert "mase" not in series.measures(errors, [0.0, 1.0])


# --- the task --------------------------------------------------------------------------------------------------------


def test_it_keeps_what_a_task_promises(folder):
    files = [table("a.csv", wave(120), wave(120, 5)), table("b.csv", wave(100, seed=1), wave(100, 5, seed=1))]
    check_task(Forecast(window=14, horizon=4), files).raise_if_failed()
    check_task(Forecast(window=14, horizon=4, target="light", ahead=0), files).raise_if_failed()
    check_task(Forecast(window=12, horizon=3), ["builtin:seasons:300"]).raise_if_failed()


def test_columns_are_scaled_by_the_training_part_and_windows_never_reach_beyond_it(folder):
    heat, light = 3 + 2 * wave(100), wave(100, 5)
    table("a.csv", heat, light, header="date,heat,light", times=[f"2024-{i}" for i in range(100)])
    data = Forecast(horizon=4, window=10).read(["a.csv"])
    heat = np.round(heat, 6)
    assert data.facts["columns"] == ["heat", "light"]
    assert data.facts["mean"][0] == pytest.approx(heat[:80].mean())
    assert data.facts["deviation"][0] == pytest.approx(heat[:80].std())
    assert data.facts["scale"][0] == pytest.approx(np.abs(heat[12:80] - heat[:68]).mean())
    assert data.facts["season"] == 12
    assert data.notices[0].startswith("the season of heat is 12, where its autocorrelation has the highest peak, 0.")
    assert data.about == "100 rows of heat and light; window 10, horizon 4, season 12"
    assert len(data.train) == 80 - 10 - 4 + 1
    assert {start for _, start in data.train.places.tolist()} == set(range(67))
    assert data.valid.places[:, 1].tolist() == list(range(70, 87))  # whose forecasts begin at 80
    expected = (np.stack([heat, np.round(light, 6)], 1) - data.facts["mean"]) / data.facts["deviation"]
    np.testing.assert_allclose(data.valid[0], expected[70:84], rtol=1e-5)


def test_many_origins_are_thinned_out():
    data = Forecast(horizon=4, window=10).read(["builtin:seasons:5000"])
    assert len(data.valid) == series.ORIGINS
    assert (data.valid.places[0, 1], data.valid.places[-1, 1]) == (4000 - 10, 5000 - 14)


def test_columns_may_be_chosen(folder):
    table("a.csv", wave(100), wave(100, 5), header="light,heat")
    data = Forecast(columns="heat, light", target="light", horizon=4).read(["a.csv"])
    assert data.facts["columns"] == ["heat", "light"]
    assert data.facts["targets"] == [1]
    assert Forecast(columns="light", horizon=4).read(["a.csv"]).facts["columns"] == ["light"]


REFUSED = [
    ({}, [], "there is no series: name a FILE with numbers in CSV, or builtin:seasons"),
    ({"target": "heatt"}, ["a.csv"], "the target 'heatt' is none of the columns that are read: heat and light"),
    ({"columns": "hot"}, ["a.csv"], "a.csv, line 1: there is no column 'hot'. The columns are 'heat' and 'light'"),
    ({}, ["flat.csv"], "flat.csv: the column 'light' has the same value in all 80 rows to train on: leave it out, with "
     "the option columns"),
    ({"horizon": 30}, ["a.csv"], "a.csv: 20 rows at the end are held out, fewer than the horizon of 30: raise "
     "valid_fraction, which is 0.2, or lower the horizon"),
    ({"window": 90}, ["a.csv"], "a.csv: 80 rows are too few for a window of 90 and a horizon of 4; expected at least "
     "94: give a longer series, or set window or horizon lower"),
    ({}, ["two.csv"], "two.csv: 2 rows are too few for training; expected at least 3: give a longer series, or set "
     "window or horizon lower"),
    ({}, ["a.csv", "other.csv"], "other.csv, line 1: there is no column 'heat'. Did you mean 'heated'? The columns are "
     "'heated' and 'light'"),
    ({"columns": "heat"}, ["builtin:seasons"], "builtin:seasons has the column load; expected heat"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "files", "message"), REFUSED)
def test_unsuitable_series_are_refused(folder, options, files, message):
    table("a.csv", wave(100), wave(100, 5))
    table("other.csv", wave(100), wave(100, 5), header="heated,light")
    table("flat.csv", wave(100), np.ones(100))
    table("two.csv", wave(2), wave(2, 5))
    with pytest.raises(UserError) as refused:
        Forecast(**{"horizon": 4} | options).read(files)
    assert str(refused.value) == message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 1}, "window is 1; it must be at least 2, or 0 for one and a half seasons"),
        ({"horizon": 0}, "horizon is 0; it must be at least 1"),
        ({"season": -1}, "season is -1; it must be at least 0"),
        ({"ahead": 1.5}, "ahead is 1.5; it must be from 0 to 1"),
        ({"valid_fraction": 1}, "valid_fraction is 1; it must be at least 0 and below 1"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        Forecast(**options)


def test_damaged_facts_are_refused(folder):
    task = Forecast(horizon=4)
    facts = task.read([table("a.csv", wave(100), wave(100, 5))]).facts
    for name, value in (("mean", [1.0]), ("deviation", [1.0, 0.0]), ("targets", [2]), ("window", 0), ("scale", "x")):
        with pytest.raises(ValueError, match=f"^{name} is |could not convert"):
            task.check_facts({**facts, name: value})
    assert task.check_facts(facts) is facts


def test_an_embedding_of_a_series_is_refused():
    task = Forecast(horizon=4)
    data = task.read(["builtin:seasons:400"])
    with pytest.raises(UserError) as refused:
        task.model(data.facts, network(embedding_size=3))
    assert str(refused.value) == "--embedding-size is 3, but a series has numbers: leave it out"


# --- the network -----------------------------------------------------------------------------------------------------


def by_hand(model, params, window, horizon):
    """The next values along a window (T, F), and those after its end, by a loop."""
    carry, nexts = model._first(1), []
    for x in window:
        carry, y = model.cell(params["cell"], carry, x[None])
        nexts.append(x + (y @ params["head"]["W"] + params["head"]["b"])[0])
    further = [nexts[-1]]
    while len(further) < horizon:
        carry, y = model.cell(params["cell"], carry, further[-1][None])
        further.append(further[-1] + (y @ params["head"]["W"] + params["head"]["b"])[0])
    return np.array(nexts), np.array(further)


def test_predictions_are_read_back_up_to_the_horizon(folder):
    task = Forecast(horizon=5, window=9, ahead=0.25)
    data = task.read([table("a.csv", wave(100), wave(100, 5))])
    model, params = fresh(task, data)
    windows = [data.valid[i].astype(float) for i in range(3)]
    losses = []
    for some in windows:
        nexts, further = by_hand(model, params, some[:9], 5)
        losses.append(0.75 * np.mean((nexts[:-1] - some[1:9]) ** 2) + 0.25 * np.mean((further - some[9:]) ** 2))
        found = model.forecast(params, some[:9, None], np.array([9]), 5)
        np.testing.assert_allclose(found[0][:, 0], nexts, rtol=1e-9)
        np.testing.assert_allclose(found[1][:, 0], further, rtol=1e-9)
    loss, _ = model.loss(params, (), task.pack(windows), None)
    assert float(loss) == pytest.approx(np.mean(losses), rel=1e-6)
    found = task.evaluate(model, params, data.valid)
    errors = np.stack([by_hand(model, params, w[:9].astype(float), 5)[1] - w[9:] for w in data.valid], axis=1)
    assert found["mse"] == pytest.approx(np.mean(errors**2), rel=1e-5)
    scale = np.array(data.facts["scale"]) / data.facts["deviation"]
    assert found["mase"] == pytest.approx(np.mean(np.abs(errors) / scale), rel=1e-5)


def test_a_horizon_of_one_is_the_next_value():
    task = Forecast(horizon=1, window=8)
    data = task.read(["builtin:seasons:200"])
    model, params = fresh(task, data)
    nexts, further = model.forecast(params, np.ones((8, 2, 1)), np.array([8, 5]), 1)
    np.testing.assert_array_equal(further[0], [nexts[7, 0], nexts[4, 1]])


def test_the_gradient_goes_through_the_predictions_that_are_read_back(folder):
    task = Forecast(horizon=4, window=5, ahead=1)
    data = task.read([table("a.csv", wave(100), wave(100, 5))])
    model, params = fresh(task, data)
    batch = task.pack([data.train[0]])

    def loss(bias):
        return model.loss({**params, "head": {**params["head"], "b": bias}}, (), batch, None)[0]

    step, bias = 1e-6, params["head"]["b"]
    expected = [(loss(bias + step * e) - loss(bias - step * e)) / (2 * step) for e in np.eye(2)]
    np.testing.assert_allclose(grad(loss)(bias), expected, rtol=1e-5)


def test_stacks_with_dropout_learn_it():
    task = Forecast(horizon=3, window=8)
    data = task.read(["builtin:seasons:300"])
    cell = Stacked([RNN(1, 4), RNN(4, 4)], dropout=0.3)
    model = task.model(data.facts, Network(lambda width: cell, 4, None, 0.3))
    params = model.init_params(np.random.default_rng(0))
    batch = task.batch(data, 0, 4)
    assert model.loss(params, (), batch, np.random.default_rng(1))[0] != model.loss(params, (), batch, None)[0]


# --- results ---------------------------------------------------------------------------------------------------------


def test_baselines_forecast_the_same_windows(folder):
    task = Forecast(horizon=4, window=9)
    data = task.read([table("a.csv", wave(150), wave(150, 5))])
    model, params = fresh(task, data)
    found = task.assess(model, params, data, name="net")
    assert [score.name for score in found.scores] == ["net", "seasonal naive", "last value", "mean"]
    heat = data.valid.series[0]
    errors = {"seasonal naive": [], "last value": [], "mean": []}
    for origin in range(120, 147):
        truth = heat[origin : origin + 4]
        errors["seasonal naive"].append(heat[origin - 12 : origin - 8] - truth)
        errors["last value"].append(heat[origin - 1] - truth)
        errors["mean"].append(-truth)
    for score in found.scores[1:]:
        assert score.metrics["mse"] == pytest.approx(np.mean(np.square(errors[score.name])), rel=1e-5), score.name
    assert found.scores[0].metrics == pytest.approx(task.evaluate(model, params, data.valid))
    mase = found.scores[0].metrics["mase"]
    assert found.verdict[-1] == (
        f"MASE is {mase:.3f}: errors are not smaller than those of the seasonal naive forecast in the training part."
    )
    table_, chart = found.figures
    assert table_.heads == ("COLUMN", "NETWORK", "SEASONAL NAIVE", "LAST VALUE", "MEAN")
    naive = np.abs(np.array(errors["seasonal naive"])[..., 0]).mean() * data.facts["deviation"][0]
    assert table_.rows[0][2] == pytest.approx(naive, rel=1e-5)
    assert len(chart.curves) == 4
    assert len(chart.curves[0].x) == 4
    assert task.assess(model, params, data, name="mean").scores[0].metrics == found.scores[0].metrics


def test_without_a_season_there_is_no_seasonal_baseline(folder):
    rng = np.random.default_rng(0)
    data = (task := Forecast(horizon=4)).read([table("a.csv", rng.normal(size=200), rng.normal(size=200))])
    assert data.notices == ["the season of heat is not found: no peak is clear"]
    model, params = fresh(task, data)
    found = task.assess(model, params, data, name="net")
    assert [score.name for score in found.scores] == ["net", "last value", "mean"]
    assert "those of the naive forecast in the training part" in found.verdict[-1]


def test_the_next_values_are_predicted_in_the_units_of_the_file(folder):
    task = Forecast(horizon=3, window=6)
    table("a.csv", 50 + 9 * wave(80), wave(80, 5))
    data = task.read(["a.csv"])
    model, params = fresh(task, data)
    (one,) = task.inputs("a.csv", data.facts)
    assert one.values.shape == (9, 2)
    (prediction,) = task.predict(model, params, data.facts, [one])
    scaled = (one.values[-6:] - data.facts["mean"]) / data.facts["deviation"]
    _, further = by_hand(model, params, scaled.astype(np.float32).astype(float), 3)
    expected = further * data.facts["deviation"] + data.facts["mean"]
    assert prediction.record["forecast"]["heat"] == pytest.approx(expected[:, 0], rel=1e-6)
    assert prediction.text.split("\t")[:2] == ["a.csv", "heat " + " ".join(f"{v:.2f}" for v in expected[:, 0])]
    assert prediction.figures == ()
    heat, light = next(iter(task.predict(model, params, data.facts, [one], explain=True))).figures
    assert (heat.title, light.title) == ("a.csv: heat", "a.csv: light")
    series_, forecast, before = heat.curves
    np.testing.assert_allclose(series_.y, one.values[:, 0])
    np.testing.assert_allclose(forecast.y, expected[:, 0], rtol=1e-6)
    assert (forecast.x.tolist(), before.x.tolist()) == ([1, 2, 3], [-2, -1, 0])
    (again,) = task.predict(model, params, data.facts, [one.values[:-3]])
    np.testing.assert_allclose(before.y, again.record["forecast"]["heat"], rtol=1e-6)


def test_short_and_long_series_are_predicted_together():
    task = Forecast(horizon=3, window=6)
    data = task.read(["builtin:seasons:200"])
    model, params = fresh(task, data)
    given = [series.generated(f"builtin:seasons:{n}")[:, 0] for n in (40, 1, 4)]
    together = list(task.predict(model, params, data.facts, given, explain=True))
    for values, prediction in zip(given, together, strict=True):
        (alone,) = task.predict(model, params, data.facts, [values])
        assert alone.text.split("\t")[1:] == prediction.text.split("\t")[1:]
        assert alone.record["forecast"]["load"] == pytest.approx(prediction.record["forecast"]["load"])
    assert [prediction.record["input"] for prediction in together] == ["series 0", "series 1", "series 2"]
    assert [len(prediction.figures[0].curves) for prediction in together] == [3, 2, 3]


def test_a_series_of_another_width_is_not_predicted(folder):
    task = Forecast(horizon=3, window=6)
    data = task.read([table("a.csv", wave(80), wave(80, 5))])
    model, params = fresh(task, data)
    for item, shape in ((np.ones((4, 3)), "(4, 3)"), (Series("b.csv", np.ones((0, 2))), "(0, 2)")):
        with pytest.raises(UserError) as refused:
            list(task.predict(model, params, data.facts, [item]))
        name = "b.csv" if isinstance(item, Series) else "series 0"
        assert str(refused.value) == (
            f"{name} has numbers of shape {shape}; expected finite ones, (N, 2), with the columns heat and light"
        )


def test_an_excerpt_is_the_beginning_of_a_forecast_beside_the_truth(folder):
    task = Forecast(horizon=8, window=6)
    data = task.read([table("a.csv", wave(80), wave(80, 5))])
    model, params = fresh(task, data)
    lines = task.excerpt(model, params, data, 80, np.random.default_rng(0)).splitlines()
    assert [line.split()[0] for line in lines] == ["heat", "light"]
    guessed, true = lines[0].removeprefix("heat ").removesuffix(")").split(" (true: ")
    assert len(guessed.split()) == len(true.split()) == 6


@pytest.mark.parametrize("part", ["train", "valid"])
def test_reports_measure_it(part):
    task = Forecast(horizon=3, window=20)
    data = task.read(["builtin:seasons:300"])
    model, params = fresh(task, data)
    examples = getattr(data, part)
    problem = Problem(task, model, Data(examples, examples, data.facts), 5)
    subject = of_problem("net", "gru", problem, params, Settings(batch_size=5), 0.1)
    pages = make_pages(load(("flow", "heatmap", "memory", "saturation")), [subject], Look(lags=6, positions=40))
    assert not [page.failed for page in pages if page.failed]
    words = " ".join(str(page) for page in pages)
    assert "nats" not in words
    assert "by less than 0.01." in words or "still lowers the loss, by 0." in words


def test_runs_with_other_horizons_are_not_compared():
    runs = {str(h): (Forecast(horizon=h), {"horizon": h, "targets": [0], "season": 1}) for h in (3, 4)}
    assert Forecast().comparable(runs)[0] == ["the runs have other horizons"]


def test_it_is_trained_evaluated_and_predicts(folder):
    table("a.csv", 100 + 20 * wave(400), wave(400, 5), times=range(400), header="day,heat,light")
    given = [
        "a.csv",
        "--task",
        "forecast:time_column=day,target=heat,horizon=6",
        "--cell",
        "gru",
        "--hidden-size",
        "12",
    ]
    more = ["--steps", "300", "--batch-size", "16", "--learning-rate", "0.02", "--seed", "1", "--name", "heat"]
    result = CliRunner().invoke(rnn, ["train", *given, *more])
    assert result.exit_code == 0, result.output
    assert "a.csv: 400 rows of heat and light; window 32, horizon 6, season 12" in result.stderr
    scores = {
        score["name"]: score for score in json.loads(CliRunner().invoke(rnn, ["eval", "--json"]).stdout)["scores"]
    }
    assert scores["heat"]["mase"] < 1
    assert scores["heat"]["mse"] < scores["seasonal naive"]["mse"]
    predicted = CliRunner().invoke(rnn, ["predict", "heat", "a.csv", "--json"])
    forecast = json.loads(predicted.stdout)["forecast"]
    assert list(forecast) == ["heat"]
    truth = 100 + 20 * np.sin(2 * np.pi * np.arange(400, 406) / 12)
    assert np.abs(np.array(forecast["heat"]) - truth).max() < 8


def test_held_out_series_may_be_in_a_file_of_their_own(folder):
    table("a.csv", wave(100), wave(100, 5))
    table("b.csv", wave(60, seed=3), wave(60, 5, seed=3))
    given = ["a.csv", "--valid", "b.csv", "--task", "forecast:horizon=6,window=10", "--hidden-size", "4"]
    result = CliRunner().invoke(rnn, ["train", *given, "--steps", "2", "--seed", "1"])
    assert result.exit_code == 0, result.output
    assert "; 85 windows to train on, 45 windows of b.csv to validate on\n" in result.stderr
