"""Reports on separate sequences with one target each, at their end: names, of which the language is told."""

import json
from pathlib import Path

import names_task
import numpy as np
import pytest
from click.testing import CliRunner
from known_cells import Linear
from names_task import Classifier, Names

from minigrad import affine, grad, log_softmax, one_hot, pick, value_and_grad
from rnn_cells import Stacked
from rnn_cells.rnn import RNN
from rnn_cli.main import rnn
from rnn_lab.problem import Problem
from rnn_lab.reporting import load, make_pages
from rnn_lab.settings import Settings
from rnn_lab.subject import of_problem
from rnn_plugins import registry
from rnn_plugins.errors import UserError
from rnn_plugins.reports import probe
from rnn_plugins.reports.gradients import measure_flow
from rnn_plugins.reports.heatmap import Heatmap
from rnn_plugins.reports.jacobians import stretches
from rnn_plugins.reports.lyapunov import Lyapunov
from rnn_plugins.reports.parameters import Parameters
from rnn_plugins.reports.probing import draw_positions
from rnn_plugins.reports.report import Look
from rnn_plugins.reports.saturation import Saturation
from rnn_plugins.reports.spectrum import Spectrum
from rnn_plugins.tasks.task import Data, Network

LETTERS, LABELS = 6, ("even", "odd", "other")
FACTS = {"symbols": list("?abcde"), "labels": list(LABELS)}
LOOK = Look(lags=4, positions=12)


def subject_of(cell, count=60, shortest=3, longest=9):
    """A classifier with fresh weights, of random names that have from ``shortest`` to ``longest`` letters."""
    rng = np.random.default_rng(5)
    names = [
        (rng.integers(1, LETTERS, rng.integers(shortest, longest + 1)).tolist(), int(rng.integers(3)))
        for _ in range(count)
    ]
    model = Classifier(cell, LETTERS, 3, Network(lambda size: cell, dtype="float64"))
    problem = Problem(Names(), model, Data(names, names, FACTS), 5)
    return of_problem("names", "rnn", problem, model.init_params(rng), Settings(optimizer="sgd", batch_size=5), 0.1)


@pytest.fixture
def subject():
    return subject_of(RNN(LETTERS, 5))


def states(subject, name):
    """The states after each letter of a name, (T, 5), and the first."""
    cell, h, found = subject.probe.cell, np.zeros((1, 5)), []
    for letter in name:
        h, _ = cell(subject.params["cell"], h, one_hot(np.array([letter]), LETTERS, float))
        found.append(h[0])
    return np.array(found)


def gradients(subject, end, steps):
    """The derivatives of a name's loss by its last states, one after another, (steps, 5)."""
    name, label = subject.examples[end]
    before = states(subject, name)

    def loss(h, rest):
        for letter in rest:
            h, _ = subject.probe.cell(subject.params["cell"], h, one_hot(np.array([letter]), LETTERS, float))
        return -pick(log_softmax(affine(subject.params["head"], h)), np.array([label]))[0]

    last = range(len(name) - steps, len(name))
    return np.array([grad(lambda h, t=t: loss(h, name[t + 1 :]))(before[t : t + 1])[0] for t in last])


def numbers(findings):
    return {quantity.key: quantity.value for quantity in findings.quantities}


def test_the_flow_is_the_derivative_of_the_loss_at_the_end_by_the_states_before(subject):
    found = measure_flow(subject.probe, 4, 12, seed=3)
    ends = draw_positions(subject.probe, 5, 4, 12, np.random.default_rng(3))
    assert min(len(subject.examples[end][0]) for end in ends) == 5
    assert found.norms[0].shape == (5, 12)
    for column, end in enumerate(ends):
        expected = np.linalg.norm(gradients(subject, end, 5), axis=1)[::-1]
        np.testing.assert_allclose(found.norms[0][:, column], expected, rtol=1e-9)


def test_the_flow_is_told_in_words_of_the_probe(subject):
    (page,) = make_pages(load(("flow",)), [subject], LOOK)
    assert page.figures[0].x_label == "lag k, letters"
    assert "over 12 positions of the names" in page.figures[0].definition
    assert not page.notices
    (page,) = make_pages(load(("flow",)), [subject], Look(lags=100))
    assert page.notices == ("the names are short (few have more than 6 letters), which reduces the lags from 100 to 5",)
    with pytest.raises(UserError) as caught:
        make_pages(load(("flow",)), [subject_of(RNN(LETTERS, 5), shortest=1, longest=1)], LOOK)
    assert str(caught.value) == (
        "few of the names have more than 1 letter, and the gradient over one lag needs 2: give longer ones"
    )


def test_the_heat_map_has_a_row_for_each_name(subject):
    (image,) = Heatmap().measure(subject, LOOK).figures
    ends = draw_positions(subject.probe, 5, 0, 16, np.random.default_rng(0))
    assert image.values.shape == (16, 5)
    assert image.x_ticks == ("4", "3", "2", "1", "0")
    assert image.y_ticks == tuple(LABELS[subject.examples[end][1]] for end in ends)
    for row, end in enumerate(ends):
        np.testing.assert_allclose(image.values[row], np.linalg.norm(gradients(subject, end, 5), axis=1), rtol=1e-9)


def test_jacobians_are_taken_from_the_states_that_the_whole_name_before_leads_to(subject):
    along = stretches(subject.probe, LOOK, 4, 3)
    ends = draw_positions(subject.probe, 4, 0, 3, np.random.default_rng(0))
    W, values = subject.params["cell"]["W"], []
    for column, end in enumerate(ends):
        name = subject.examples[end][0]
        before = np.concatenate([np.zeros((1, 5)), states(subject, name)])[len(name) - 4 :]
        np.testing.assert_allclose(along.carry[column], before[0], rtol=1e-12)
        values += [np.linalg.norm((1 - h**2)[:, None] * W.T, 2) for h in before[1:]]
    found = Spectrum().measure(subject, LOOK)
    assert numbers(found)["largest_mean"] == pytest.approx(np.mean(values), rel=1e-9)
    assert found.quantities[0].definition == (
        "The mean of the largest singular value of the 12 Jacobians along 3 windows of the names, of 4 steps each, "
        "after all steps before them: how far a step stretches what it stretches most."
    )


def test_what_comes_before_a_window_is_read_in_pieces_that_fit_the_memory(subject, monkeypatch):
    ends = np.array(subject.probe.ends(3))
    whole = subject.probe.window(ends, 3).carry
    steps, unroll = [], RNN.unroll

    def counted(cell, params, carry, xs, **more):
        steps.append(xs.shape[0])
        return unroll(cell, params, carry, xs, **more)

    monkeypatch.setattr(RNN, "unroll", counted)
    monkeypatch.setattr(probe, "BYTES_AT_ONCE", 2 * probe.COMPUTED * whole.nbytes)
    np.testing.assert_array_equal(subject.probe.window(ends, 3).carry, whole)
    assert steps == [2, 2, 2]  # of 6, the most that a name of 9 letters has before its last 3


def test_a_linear_classifier_has_the_exponents_of_its_matrix():
    found = Lyapunov().measure(subject_of(Linear(LETTERS, 3, 0.5)), LOOK)
    assert numbers(found)["largest"] == pytest.approx(np.log(0.5), rel=1e-6)
    assert found.notices == (
        "the names are short (few have more than 6 letters), which reduces the steps measured from 500 to 6",
    )


def test_units_are_watched_along_names(subject):
    subject.params["cell"]["U"] *= 4
    found = Saturation().measure(subject, Look(lags=4, positions=10_000))
    longest = [name for name, _ in subject.examples if len(name) >= 6]
    values = np.concatenate([states(subject, name)[-6:] for name in longest])
    assert len(longest) >= 20
    assert 0.2 < numbers(found)["tanh_saturated"] < 0.9
    assert numbers(found)["tanh_saturated"] == pytest.approx(np.mean(np.abs(values) > 0.97))
    assert found.figures[-1].title == "Saturated and dead units on the names"


def test_a_step_of_training_is_one_of_its_task(subject):
    batch, model = Names().batch(Data(subject.learnt, [], FACTS), 0, 5), subject.probe.model
    _, gradient = value_and_grad(lambda params: model.loss(params, (), batch, None)[0])(subject.params)
    found = Parameters().measure(subject, LOOK)
    (table,) = [figure for figure in found.figures if figure.key == "parameters"]
    rows = {row[0]: row for row in table.rows}
    assert rows["cell.W"][2] == pytest.approx(np.linalg.norm(gradient["cell"]["W"]), rel=1e-5)
    assert rows["head.W"][4] == pytest.approx(
        0.1 * np.linalg.norm(gradient["head"]["W"]) / np.linalg.norm(subject.params["head"]["W"]), rel=1e-4
    )
    assert found.figures[-1].title == "Saturated and dead units on the training names"


@pytest.mark.parametrize("name", [entry.name for entry in registry.entries("cells")])
def test_every_cell_and_a_stack_can_be_measured(name):
    below = registry.make_cell(name, LETTERS, 4, {})
    for cell in (below, Stacked([below, registry.make_cell(name, below.output_size, 3, {})])):
        kinds = ("flow", "heatmap", "spectrum", "lyapunov", "saturation", "parameters", "weights", "states")
        pages = make_pages(load(kinds), [subject_of(cell)], LOOK)
        assert [page.kind for page in pages if page.quantities and not page.failed] == [*kinds]


def test_reports_that_need_more_than_the_end_of_a_sequence_say_so(subject):
    pages = {
        page.kind: page
        for page in make_pages(load(("flow", "memory", "text", "neurons", "structure")), [subject], LOOK)
    }
    assert pages["memory"].failed["names"] == (
        "memory measures losses at every step, and names predicts only at the end of a name: flow and heatmap show how "
        "far back that depends on what was read"
    )
    for kind in ("text", "neurons", "structure"):
        assert pages[kind].failed["names"] == (
            f"{kind} is for language models, and names is none: it can have flow, heatmap, spectrum, lyapunov, "
            "saturation, parameters, weights and states"
        )


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A run of names, and the names."""
    rng = np.random.default_rng(0)
    for label in ("Even", "Odd"):
        names = ("".join(rng.choice(list("abcde"), rng.integers(4, 9))) for _ in range(60))
        (tmp_path / f"{label}.txt").write_text("\n".join(names))
    (tmp_path / "names_task.py").write_text(Path(names_task.__file__).read_text())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RNN_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("RNN_LAB_CACHE", str(tmp_path / "cache"))
    sizes = ["--hidden-size", "5", "--steps", "4", "--batch-size", "8", "--seed", "1"]
    trained = ["train", *TASK, "Even.txt", "Odd.txt", "--cell", "lstm", *sizes, "--name", "told", "--quiet"]
    assert CliRunner().invoke(rnn, trained).exit_code == 0
    return tmp_path


TASK = ["--task", "names_task.py:Names"]


def test_a_run_of_another_task_has_reports(folder):
    result = CliRunner().invoke(rnn, ["report", "told", "--all", "--lags", "3", "--positions", "9", "--json", "-"])
    assert result.exit_code == 0
    assert result.stderr.startswith(
        "told: lstm, 1 x 5, 252 parameters, its best weights, of step 4; measured on the held-out part of Even.txt, "
        "Odd.txt (12 names)\n"
    )
    pages = json.loads(result.stdout)["reports"]
    assert [kind for kind, page in pages.items() if page["failed"]] == ["memory", "text", "neurons", "structure"]


def test_fresh_cells_are_measured_on_another_task(folder):
    given = ["report", "--cell", "rnn", *TASK, "Even.txt", "Odd.txt", "--hidden-size", "5", "--lags", "3"]
    result = CliRunner().invoke(rnn, [*given, "--steps", "2"])
    assert result.exit_code == 0
    assert "Data: Even.txt, Odd.txt; measured on 12 names held out; seed 1\n" in result.stderr
    assert "lag k, letters" in result.stdout
    result = CliRunner().invoke(rnn, [*given, "--kind", "memory"])
    assert result.exit_code == 2
    assert result.stderr.endswith(
        "Error: memory measures losses at every step, and rnn predicts only at the end of a name: flow and heatmap "
        "show how far back that depends on what was read\n"
    )
