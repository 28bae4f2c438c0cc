"""Principal components of states: known clouds, their shares, and what they are coloured by."""

from dataclasses import replace

import numpy as np
import pytest
from known_cells import Copy, Deciding, Linear, Odd, Stateless, on, subject_of

from rnn_cells import Stacked
from rnn_plugins import registry
from rnn_plugins.data.vocabulary import Vocabulary
from rnn_plugins.errors import UserError
from rnn_plugins.reports.heatmap import Heatmap
from rnn_plugins.reports.probing import observe
from rnn_plugins.reports.report import Look
from rnn_plugins.reports.states import DISTINCT, GROUPS, MOST, REST, States, between, observed, principal

LOOK = Look(lags=10, positions=300)


def values(findings):
    return {quantity.key: quantity.value for quantity in findings.quantities}


def test_the_components_of_a_known_cloud():
    """An ellipse in a plane of five dimensions: its axes and their shares are known."""
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    angles = np.arange(360) * np.pi / 180
    ellipse = np.stack([3 * np.cos(angles), np.sin(angles)], 1)
    points, shares = principal(ellipse @ basis[:2] + 7)
    assert shares == pytest.approx([0.9, 0.1])
    assert points.shape == (360, 2)
    np.testing.assert_allclose(np.abs(points), np.abs(ellipse), atol=1e-9)
    # The same cloud turned is drawn in the same way, whatever signs the decomposition gives.
    np.testing.assert_allclose(principal(ellipse @ basis[:2])[0], points, atol=1e-9)
    assert principal(np.ones((4, 3)))[1].size == 0


def test_the_share_between_groups_is_that_of_their_means():
    rng = np.random.default_rng(0)
    groups = ["a"] * 30 + ["b"] * 10
    points = rng.normal(size=(40, 2))
    centred = points - points.mean(axis=0)
    means = np.stack([centred[:30].mean(0)] * 30 + [centred[30:].mean(0)] * 10)
    assert between(points, groups) == pytest.approx((means**2).sum() / (centred**2).sum())
    assert between(means, groups) == pytest.approx(1)
    assert between(points, ["a"] * 40) == pytest.approx(0)


def test_states_are_those_after_each_symbol_and_have_its_colour():
    """A cell that keeps nothing but its last input: the states of one symbol are one point."""
    subject = subject_of(Linear(7, 5, 0.0), length=2000)
    cloud = observed(subject.probe, LOOK, reads=True)
    assert len(cloud.states) == len(cloud.labels) == 300
    for label in set(cloud.labels):
        same = cloud.states[np.array(cloud.labels) == label]
        np.testing.assert_allclose(same, np.broadcast_to(same[0], same.shape))
    assert len(np.unique(cloud.states.round(6), axis=0)) == len(set(cloud.labels)) == 7
    assert values(States().measure(subject, LOOK))["explained"] == pytest.approx(1)


def test_they_are_the_outputs_of_the_network_along_the_text():
    subject = subject_of(registry.make_cell("lstm", 7, 5, {}), length=500)
    cloud = observed(subject.probe, Look(lags=10, positions=100), reads=True)
    end = subject.probe.ends(100, 10)[0]  # one window, and of two or more ends the first
    outputs = observe(subject.probe, subject.probe.window(np.array([end]), 100, 10)).outputs
    np.testing.assert_allclose(cloud.states, outputs[:, 0], atol=1e-9)
    assert cloud.labels == subject.probe.labels(end, 100).inputs


def test_symbols_stand_for_themselves_beside_states_and_maps():
    """A code point after each letter of another alphabet would leave no room for the picture."""
    subject = subject_of(registry.make_cell("gru", 7, 5, {}), length=2000)
    subject = on(subject, vocabulary=Vocabulary.build(["ая \u0301\n.'"]))
    expected = {"а", "я", "' '", "U+0301", r"'\n'", ".", "'"}
    assert {curve.label for curve in States().measure(subject, LOOK).figures[0].curves} == expected
    image = Heatmap().measure(subject, Look(lags=50)).figures[0]
    assert set(image.x_ticks) | set(image.y_ticks) == expected


def test_the_rare_labels_share_a_colour_and_lie_beneath():
    subject = subject_of(registry.make_cell("gru", 12, 5, {}), symbols=12, length=3000)
    chart = States().measure(subject, Look(lags=10, positions=1000)).figures[0]
    rest, *groups = chart.curves
    assert (rest.label, len(groups)) == (REST, GROUPS)
    counts = [len(curve.x) for curve in groups]
    assert counts == sorted(counts, reverse=True)
    assert sum(counts) + len(rest.x) == 1000
    assert len({curve.style for curve in chart.curves}) == len(chart.curves)
    # With one label more than groups, none shares its colour.
    chart = States().measure(subject_of(registry.make_cell("gru", 8, 5, {}), symbols=8, length=3000), LOOK).figures[0]
    assert REST not in {curve.label for curve in chart.curves}
    assert len(chart.curves) == GROUPS + 1


def test_labels_that_are_nearly_all_different_colour_nothing(monkeypatch):
    subject = subject_of(registry.make_cell("gru", 7, 5, {}), length=2000)
    alone = replace(subject, language=None)  # then it is coloured by what is to be predicted
    assert (
        values(States().measure(alone, LOOK))["explained"] < 0.5 < values(States().measure(subject, LOOK))["explained"]
    )
    labels = type(subject.probe).labels

    def distinct(self, end, length):
        found = labels(self, end, length)
        return found._replace(inputs=tuple(f"{symbol}{end}{i}" for i, symbol in enumerate(found.inputs)))

    monkeypatch.setattr(type(subject.probe), "labels", distinct)
    findings = States().measure(subject, LOOK)
    assert findings.notices == (
        "300 states have 300 different labels, too many for colours, so all states have one colour",
    )
    assert [curve.label for curve in findings.figures[0].curves] == [""]
    assert values(findings)["explained"] is None
    assert 0 < DISTINCT < 1


def test_the_shares_are_said_and_the_number_of_states_is_bounded():
    findings = States().measure(subject_of(registry.make_cell("gru", 7, 5, {}), length=4000), Look(lags=10))
    chart, found = findings.figures[0], values(findings)
    assert sum(len(curve.x) for curve in chart.curves) == MOST
    assert chart.x_label == f"first component, {100 * found['first']:.1f} % of the variance"
    assert 0 < found["second"] <= found["first"] < 1
    assert findings.verdict[0].startswith(f"Two directions have {100 * (found['first'] + found['second']):.1f} % of ")


@pytest.mark.parametrize(
    "cell",
    [
        *(registry.make_cell(entry.name, 7, 5, {}) for entry in registry.entries("cells")),
        Stacked([registry.make_cell("lstm", 7, 4, {}), registry.make_cell("gru", 4, 3, {})]),
        Odd(7, 5),
        Deciding(7, 5),
        Stateless(7, 5),
        registry.make_cell("gru", 7, 1, {}),
    ],
    ids=lambda cell: type(cell).__name__,
)
def test_any_cell_can_be_shown(cell):
    findings = States().measure(subject_of(cell, length=60), LOOK)
    assert all(np.isfinite(curve.x).all() and np.isfinite(curve.y).all() for curve in findings.figures[0].curves)


def test_what_cannot_be_shown_is_said():
    with pytest.raises(UserError, match=r"^the text has 1 character, and a state needs 2: give a longer one$"):
        States().measure(subject_of(Copy(7, 5), length=1), LOOK)
    with pytest.raises(
        UserError, match=r"^only one state is measured, and two or more can differ: raise --positions, "
    ):
        States().measure(subject_of(Copy(7, 5), length=60), Look(lags=10, positions=1))
    with pytest.raises(UserError, match=r"^all states are the same, so there are no directions in which they differ$"):
        States().measure(subject_of(Copy(7, 5), length=60), LOOK)
    with pytest.raises(UserError, match=r"^the network's states overflow: "):
        States().measure(subject_of(Linear(7, 5, 1e6), length=600), LOOK)
