"""Gradients, weights and updates per parameter: plain descent with known updates, and the records of runs."""

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from known_cells import Copy, Deciding, subject_of
from tiny_runs import TEXT, train

from minigrad import tanh, trees, value_and_grad
from rnn_cells import Cell, Stacked
from rnn_lab.paths import METRICS
from rnn_lab.runs import Run
from rnn_lab.settings import Settings
from rnn_lab.subject import of_run
from rnn_plugins import registry
from rnn_plugins.errors import UserError
from rnn_plugins.reports.parameters import KEYS, Parameters
from rnn_plugins.reports.report import Chart, Look
from rnn_plugins.tasks.language_model import LanguageModel
from rnn_plugins.tasks.task import Data

LOOK = Look(lags=10, positions=100)
DESCENT = Settings(optimizer="sgd", learning_rate=0.25, grad_clip="0", seq_length=20, batch_size=4)


def look(subject):
    return Parameters().measure(subject, LOOK)


def values(findings):
    return {quantity.key: quantity.value for quantity in findings.quantities}


def rows(findings):
    (table,) = [figure for figure in findings.figures if figure.key == "parameters"]
    return {row[0]: row[1:] for row in table.rows}


def stack():
    return Stacked([registry.make_cell("lstm", 7, 4, {}), registry.make_cell("gru", 4, 3, {})])


def test_the_update_of_plain_descent_is_the_rate_times_the_gradient():
    subject = subject_of(stack(), settings=DESCENT)
    model = subject.language.model
    batch = LanguageModel(seq_length=20).batch(Data(subject.learnt, (), {}), 0, 4)
    _, gradients = value_and_grad(lambda p: model.loss(p, model.init_carry(4), batch, None)[0])(subject.params)
    g, w = (
        {path: np.linalg.norm(leaf) for path, leaf in trees.flatten(tree).items()}
        for tree in (gradients, subject.params)
    )
    found = rows(look(subject))
    for path, leaf in trees.flatten(subject.params).items():
        ratio = pytest.approx(0.25 * g[path] / w[path], rel=1e-5) if w[path] else None
        assert found[path] == (leaf.size, pytest.approx(g[path], rel=1e-5), pytest.approx(w[path], rel=1e-5), ratio)
    for layer, prefix in (("layer1", "cell.0."), ("layer2", "cell.1."), ("head", "head.")):
        whole = [np.sqrt(sum(norms[path] ** 2 for path in norms if path.startswith(prefix))) for norms in (g, w)]
        size = sum(leaf.size for path, leaf in trees.flatten(subject.params).items() if path.startswith(prefix))
        assert found[f"{layer} (all)"] == (
            size, *(pytest.approx(x, rel=1e-5) for x in (*whole, 0.25 * whole[0] / whole[1]))
        )  # fmt: skip
    assert len(found) == 3 + len(g)
    G, W = (np.sqrt(sum(norm**2 for norm in norms.values())) for norms in (g, w))
    assert values(look(subject)) == {
        "gradient_norm": pytest.approx(G, rel=1e-5),
        "clipped": None,
        "update_ratio": pytest.approx(0.25 * G / W, rel=1e-5),
        "saturated_units": 0.0,
        "dead_units": 0.0,
    }


def test_gradients_are_those_before_clipping_and_updates_those_after():
    gru = registry.make_cell("gru", 7, 5, {})
    free, held = (look(subject_of(gru, settings=replace(DESCENT, grad_clip=clip))) for clip in ("0", "0.001"))
    norm = values(free)["gradient_norm"]
    assert values(held)["gradient_norm"] == norm > 0.001
    assert values(held)["clipped"] == 1.0
    assert values(held)["update_ratio"] == pytest.approx(values(free)["update_ratio"] * 0.001 / norm, rel=1e-4)


@pytest.mark.parametrize(
    ("rate", "words"),
    [
        (
            1.0,
            r"The first step is large: an update is \S+ of the weights, where 1e-3 is usual; a --learning-rate below 1 "
            r"may do better\.$",
        ),
        (
            0.05,
            r"The first step is of the usual size: an update is \S+ of the weights, where 1e-4 to 1e-2 is usual\.$",
        ),
        (
            1e-5,
            r"The first step is small: an update is \S+ of the weights, where 1e-3 is usual; a --learning-rate above "
            r"1e-05 would learn faster\.$",
        ),
    ],
)
def test_the_size_of_the_steps_is_put_into_words(rate, words):
    gru = registry.make_cell("gru", 7, 5, {})
    findings = look(subject_of(gru, settings=replace(DESCENT, learning_rate=rate)))
    assert re.match(words, findings.verdict[0])


@dataclass(frozen=True)
class Idle(Cell):
    """A cell with a parameter that does nothing, and a unit that does not move."""

    def init_params(self, rng):
        U = rng.normal(0, 1, (self.input_size, self.hidden_size)).astype(np.float32)
        U[:, 0] = 0
        return {"U": U, "idle": np.ones(3, np.float32)}

    def __call__(self, params, h, x):
        h = tanh(x @ params["U"])
        return h, h


def test_what_gets_no_gradient_and_what_is_dead_is_named():
    findings = look(subject_of(Idle(7, 4), settings=DESCENT))
    assert rows(findings)["cell.idle"] == (3, 0.0, pytest.approx(3**0.5, rel=1e-5), 0.0)
    assert findings.verdict[0] == "No gradient reaches cell.idle: nothing can be learnt there."
    assert findings.verdict[-1] == "Dead units: 1 of 4 in U."
    assert values(findings)["dead_units"] == 0.25


def test_a_lower_layer_that_gets_little_is_named():
    cells = [registry.make_cell("rnn", 7, 4, {}), registry.make_cell("rnn", 4, 4, {})]
    subject = subject_of(Stacked(cells), settings=DESCENT)
    for leaf in trees.leaves(subject.params["cell"]["1"]):
        if leaf.ndim == 2:
            leaf *= 1e-3
    found = rows(look(subject))
    times = found["layer2 (all)"][1] / found["layer1 (all)"][1]
    assert times > 100
    assert look(subject).verdict[-1] == f"The gradient of layer1 is {times:.0f} times smaller than that of layer2."


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("parameters")
    return train(folder, TEXT, "stack", cell="lstm", num_layers=2, steps=40, log_every=4, valid_every=10, seq_length=8)


def test_what_a_run_has_noted_is_drawn_over_its_steps(run: Run):
    findings = look(of_run(run))
    records = list(run.records())
    assert not findings.notices
    assert findings.verdict[0].startswith("The steps are ")
    charts = {figure.key: figure for figure in findings.figures if isinstance(figure, Chart)}
    assert list(charts)[:3] == ["gradient_norms", "weight_norms", "update_ratios"]
    assert set(charts) >= {"gradient_norms.layer1", "update_ratios.layer2", "gradient_norms.head"}
    assert all(not chart.overlay for chart in charts.values())
    assert [curve.label for curve in charts["gradient_norms"].curves] == ["embedding", "layer1", "layer2", "head"]
    assert charts["update_ratios"].curves[-1].role == "reference"
    curves = {curve.label: curve for curve in charts["gradient_norms.layer2"].curves}
    forget = curves["forget.W"]
    assert forget.x.tolist() == [record["step"] for record in records]
    assert forget.y.tolist() == [record["gradient_norms"]["cell.1.forget.W"] for record in records]
    ratios = {curve.label: curve for curve in charts["update_ratios.head"].curves}["W"]
    expected = [record["update_norms"]["head.W"] / record["weight_norms"]["head.W"] for record in records]
    np.testing.assert_allclose(ratios.y, expected, rtol=1e-12)
    whole = charts["gradient_norms"].curves
    together = np.sqrt(sum(curve.y**2 for curve in whole))
    np.testing.assert_allclose(together, [record["gradient_norm"] for record in records], rtol=1e-4)
    assert rows(findings)["head.W"][1] == np.median([record["gradient_norms"]["head.W"] for record in records])
    assert rows(findings)["head.W"][2] == records[-1]["weight_norms"]["head.W"]
    assert values(findings)["clipped"] == np.mean([record["gradient_norm"] > 5 for record in records])


def test_units_are_drawn_where_there_are_any_to_see(run: Run):
    records = list(run.records())
    looks = [record for record in records if "units" in record]
    assert [record["step"] for record in looks] == [10, 20, 30, 40]
    for record in looks:
        record["units"]["layer1.forget"] |= {"saturated": record["step"] / 100, "dead": 0.0}
    with Rewritten(run, records):
        charts = {figure.key: figure for figure in look(of_run(run)).figures}
    (forget,) = [curve for curve in charts["saturated_units"].curves if curve.label == "layer1.forget"]
    assert (forget.x.tolist(), forget.y.tolist()) == ([10, 20, 30, 40], [0.1, 0.2, 0.3, 0.4])
    assert "dead_units" not in charts


class Rewritten:
    """Other records in a run's file, for as long as the block takes."""

    def __init__(self, run, records):
        self.path: Path = run.path / METRICS
        self.before, self.now = self.path.read_text(), "".join(json.dumps(record) + "\n" for record in records)

    def __enter__(self):
        self.path.write_text(self.now)

    def __exit__(self, *_):
        self.path.write_text(self.before)


def test_a_run_that_has_noted_nothing_takes_one_step(run: Run):
    plain = [{key: value for key, value in record.items() if key not in (*KEYS, "units")} for record in run.records()]
    with Rewritten(run, plain):
        findings = look(of_run(run))
    assert findings.notices == ("the run has no records of its parameters, so one step is taken from its best weights",)
    assert [figure.key for figure in findings.figures] == ["parameters", "units"]
    weights = trees.flatten(run.params())
    for path, leaf in weights.items():
        # The first step of Adam moves every number that has a gradient by the learning rate, whatever its size.
        name = "embedding (all)" if path == "embedding" else path  # a layer of one parameter has one row
        assert rows(findings)[name][2] == pytest.approx(np.linalg.norm(leaf), rel=1e-4)
    assert rows(findings)["head.b"][3] == pytest.approx(
        run.settings.learning_rate * weights["head.b"].size ** 0.5 / np.linalg.norm(weights["head.b"]), rel=1e-2
    )


def test_numbers_that_are_not_finite_leave_gaps(run: Run):
    records = list(run.records())
    records[0]["gradient_norms"]["head.W"] = None
    records[1]["update_norms"] = dict.fromkeys(records[1]["update_norms"])
    with Rewritten(run, records):
        findings = look(of_run(run))
    charts = {figure.key: figure for figure in findings.figures}
    assert np.flatnonzero(np.isnan(charts["gradient_norms.head"].curves[0].y)).tolist() == [0]
    assert np.flatnonzero(np.isnan(charts["update_ratios"].curves[0].y)).tolist() == [1]
    assert all(np.isfinite(list(filter(None, values(findings).values()))))


def test_cells_without_units_or_parameters_are_looked_at_all_the_same():
    copy, deciding = (subject_of(cell, settings=DESCENT) for cell in (Copy(7, 6), Deciding(7, 5)))
    assert look(copy).notices == ("no units are measured: the cell has no sigmoid, tanh or relu",)
    assert list(rows(look(copy))) == ["head (all)", "head.W", "head.b"]
    assert look(deciding).notices == (f"no units are measured: {deciding.probe.anatomy.reason}",)
    assert values(look(deciding))["saturated_units"] is None


def test_weights_with_which_no_step_can_be_taken():
    subject = subject_of(registry.make_cell("gru", 7, 5, {}), settings=DESCENT)
    subject.params["head"]["W"][:] = np.inf
    with pytest.raises(UserError) as caught:
        look(subject)
    assert str(caught.value) == "no step can be taken with GRU: its loss is nan"
