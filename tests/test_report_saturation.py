"""How much of the time units are at an end of their range, where it is known: units that a single symbol decides."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from known_cells import Copy, Deciding, Odd, on, subject_of

from minigrad import graph, relu, sigmoid, stepgraph, tanh, trees
from rnn_cells import Cell, Stacked
from rnn_cells.gru import GRU
from rnn_cells.lstm import LSTM
from rnn_plugins import registry
from rnn_plugins.errors import UserError
from rnn_plugins.reports.probing import observe
from rnn_plugins.reports.report import Chart, Look, Table
from rnn_plugins.reports.saturation import ENDS, Saturation, habits

WARM_UP, SEEN = 40, 100


@dataclass(frozen=True)
class Told(Cell):
    """A gate, a tanh and a relu that the symbol alone decides: a row of each matrix is what goes in at a symbol."""

    def init_params(self, rng):
        shape = (self.input_size, self.hidden_size)
        return {name: {"W": np.zeros(shape, np.float32)} for name in ("gate", "squashed", "rectified")}

    def __call__(self, params, h, x):
        y = sigmoid(x @ params["gate"]["W"]) * tanh(x @ params["squashed"]["W"]) + relu(x @ params["rectified"]["W"])
        return y, y


def told(gate=(), squashed=(), rectified=()):
    """A subject whose unit u gets, at symbol s, what stands at [u][s]; symbols that are not given get 0."""
    subject = subject_of(Told(7, 3), length=WARM_UP + SEEN)
    for name, units in (("gate", gate), ("squashed", squashed), ("rectified", rectified)):
        for unit, values in enumerate(units):
            subject.params["cell"][name]["W"][: len(values), unit] = values
    share = np.bincount(subject.examples[WARM_UP:], minlength=7) / SEEN
    assert (share > 0).all()
    return subject, share


def look(subject, lags=WARM_UP, positions=SEEN):
    return Saturation().measure(subject, Look(lags=lags, positions=positions))


def values(findings):
    return {quantity.key: quantity.value for quantity in findings.quantities}


def test_a_unit_is_saturated_as_often_as_the_symbols_come_that_drive_it_there():
    logit = np.log(9)  # where a sigmoid is 0.9
    units = [(-9, 9, -9), (logit - 0.01, logit + 0.01, -logit - 0.01, -logit + 0.01), ()]
    edge = np.arctanh(0.97)
    tanhs = [(9, 9), (-edge - 0.01, -edge + 0.01, edge - 0.01, edge + 0.01), ()]
    subject, share = told(units, tanhs, [(-1, 0, 1, 1, 1, 1, 1), (1,) * 7, (-1,) * 7])
    gate, squashed, rectified = habits(subject.probe, WARM_UP, SEEN)
    assert [h.activation.label for h in (gate, squashed, rectified)] == ["gate", "squashed", "rectified"]
    np.testing.assert_allclose(gate.low, [share[0] + share[2], share[2], 0], rtol=1e-12)
    np.testing.assert_allclose(gate.high, [share[1], share[1], 0], rtol=1e-12)
    np.testing.assert_allclose(squashed.low, [0, share[0], 0], rtol=1e-12)
    np.testing.assert_allclose(squashed.high, [share[0] + share[1], share[3], 0], rtol=1e-12)
    np.testing.assert_allclose(rectified.low, [share[0] + share[1], 0, 1], rtol=1e-12)
    assert not rectified.high.any()
    assert gate.still.tolist() == squashed.still.tolist() == [False, False, True]
    assert rectified.still.tolist() == [False, True, True]
    assert [h.saturated.tolist() for h in (gate, squashed, rectified)] == [
        [False] * 3,
        [False] * 3,
        [False, False, True],
    ]


def test_saturated_is_a_unit_that_is_at_either_end_for_more_than_nine_tenths_of_the_time():
    subject, _ = told([(-9, 9, 9, 9, 9, 9, 9), (0, 9, 9, 9, 9, 9, 9)])
    subject.examples[WARM_UP:] = np.repeat([1, 0], [90, 10])
    gate = habits(subject.probe, WARM_UP, SEEN)[0]
    assert gate.saturated.tolist() == [True, False, False]


def test_what_is_found_is_drawn_tabled_and_said():
    subject, share = told([(9,) * 7, (-9, 9, 9, 9, 9, 9, 9), ()], [(9,) * 7] * 3, [(-1, 1, 1, 1, 1, 1, 1)] * 3)
    findings = look(subject)
    assert values(findings) == pytest.approx(
        {
            "gate_low": share[0] / 3,
            "gate_high": (1 + 1 - share[0]) / 3,
            "tanh_saturated": 1.0,
            "relu_zero": share[0],
            "saturated_units": (2 + 3 + 0) / 9,
            "dead_units": (2 + 3 + 0) / 9,
        }
    )
    sigmoids, tanhs, relus, table = findings.figures
    assert [figure.key for figure in findings.figures] == [
        "saturation.sigmoid", "saturation.tanh", "saturation.relu", "units",
    ]  # fmt: skip
    points, line = sigmoids.curves
    assert (sigmoids.x_label, sigmoids.y_label, sigmoids.y_limits) == ("time above 0.9", "time below 0.1", (0, 1))
    assert not sigmoids.overlay
    np.testing.assert_allclose(points.x, [1, 1 - share[0], 0], rtol=1e-12)
    np.testing.assert_allclose(points.y, [0, share[0], 0], rtol=1e-12)
    assert (points.role, line.role, line.x.tolist(), line.y.tolist()) == ("points", "reference", [0, 1], [1, 0])
    assert tanhs.title == "The tanh units"
    (outline,) = relus.curves
    assert outline.role == "steps"
    assert outline.y.sum() == 3
    assert outline.x[outline.y.argmax()] <= share[0] < outline.x[outline.y.argmax() + 1]
    assert isinstance(table, Table)
    assert table.rows == (
        ("gate", "sigmoid", 3, pytest.approx(share[0] / 3), pytest.approx((2 - share[0]) / 3), 2, 2),
        ("squashed", "tanh", 3, 0.0, 1.0, 3, 3),
        ("rectified", "relu", 3, pytest.approx(share[0]), None, 0, 0),
    )
    assert findings.verdict == (
        "Dead units, whose value never changes: 2 of 3 in gate and 3 of 3 in squashed.",
        "Saturated units, which pass hardly any gradient on for more than 90 % of the time: 100 % of those in squashed "
        "and 67 % of those in gate.",
        "Saturates: beyond 0.97, where less than 6 % of a gradient passes, is squashed for 100 % of the time; smaller "
        "weights help.",
        f"Gates that are closed (below 0.1), and open (above 0.9), of the time: gate {100 * share[0] / 3:.0f} % and "
        f"{100 * (2 - share[0]) / 3:.0f} %.",
    )


def test_only_for_weights_that_were_trained_a_lower_learning_rate_is_advised():
    subject, _ = told([(9,) * 7] * 3, [(9,) * 7] * 3, [(1,) * 7] * 3)
    assert not any("--learning-rate" in sentence for sentence in look(subject).verdict)
    dead, saturated, flat, _ = look(replace(subject, steps=100)).verdict
    assert dead.endswith("; a lower --learning-rate avoids that.")
    assert flat.endswith("; smaller weights or a lower --learning-rate help.")
    assert "--learning-rate" not in saturated


def test_where_hardly_anything_saturates():
    # Every unit moves with the symbol, and one symbol alone drives one of 6 units to an end.
    small = [(1, -1, 1, -1, 1, -1, 1)] * 3
    subject, share = told([(9, -1, 1, -1, 1, -1, 1), *small[1:]], small, [(-1, 1, 1, 1, 1, 1, 1)] * 3)
    assert look(subject).verdict == (
        f"Hardly anything saturates: units are at an end of their range for {100 * share[0] / 6:.1f} % of the time.",
    )


@pytest.mark.parametrize("sizes", [(4,), (4, 3)])
def test_gates_that_are_held_open_by_their_bias(sizes):
    widths = zip((7, *sizes), sizes, strict=False)
    cells = [registry.make_cell("lstm", below, size, {"forget_bias": 30.0}) for below, size in widths]
    subject = subject_of(cells[0] if len(cells) == 1 else Stacked(cells))
    findings = look(subject, lags=5, positions=150)
    prefix = [""] if len(cells) == 1 else ["layer1.", "layer2."]
    rows = {row[0]: row for row in findings.figures[-1].rows}
    for layer, size in zip(prefix, sizes, strict=True):
        assert rows[f"{layer}forget"][2:6] == (size, 0.0, 1.0, size)
        assert set(rows) > {f"{layer}{name}" for name in ("input", "output", "candidate", "c.tanh")}
    charts = [figure for figure in findings.figures if isinstance(figure, Chart)]
    assert [chart.key for chart in charts] == [
        f"saturation.{function}{'.' * bool(layer)}{layer.strip('.')}"
        for layer in prefix
        for function in ("sigmoid", "tanh")
    ]
    assert [curve.label for curve in charts[0].curves] == ["forget", "input", "output", "always saturated"]
    assert charts[-1].title == ("The tanh units" if len(cells) == 1 else "The tanh units of layer 2")


@pytest.mark.parametrize("name", [entry.name for entry in registry.entries("cells")])
def test_every_installed_cell_can_be_looked_at(name):
    subject = subject_of(registry.make_cell(name, 7, 5, {}), name=name)
    findings = look(subject, lags=10, positions=200)
    assert findings.verdict
    rows = findings.figures[-1].rows
    assert [row[0] for row in rows] == [activation.label for activation in subject.probe.anatomy.activations]
    for habit in habits(subject.probe, 10, 200):
        assert (habit.low >= 0).all()
        assert (habit.low + habit.high <= 1).all()


def test_units_of_several_axes_count_one_by_one():
    findings = look(subject_of(Odd(7, 5)))
    assert [(row[1], row[2]) for row in findings.figures[-1].rows] == [("tanh", 10), ("sigmoid", 5)]


def test_stretches_cover_the_text_and_are_as_many_as_asked_for():
    # Symbol 0 opens the gate, and stands in the last of three stretches only.
    subject, _ = told([(9, 0, 0, 0, 0, 0, 0)])
    text = np.ones(3 * (WARM_UP + SEEN), int)
    text[-SEEN:] = 0
    for positions, share in ((300, 1 / 3), (201, 1 / 3), (200, 1 / 2), (1, 0)):
        gate = habits(on(subject, tokens=text).probe, WARM_UP, positions)[0]
        assert gate.high[0] == pytest.approx(share)


@dataclass(frozen=True)
class Opening(Cell):
    """A clock that runs from 0 to 1 by a tenth of what is left a step, and a gate that is open once it is past 0.9."""

    def init_params(self, rng):
        return {}

    def __call__(self, params, h, x):
        h = h + 0.1 * (1 - h)
        return h, sigmoid(100 * (h - 0.9))


@pytest.mark.parametrize("warm_up", [0, 10, 40])
def test_what_is_read_before_a_stretch_is_not_looked_at(warm_up):
    # 0.9^n falls below 0.1 with n = 22, and the gate is above 0.9 where the clock is above 0.9 + log(9) / 100.
    closed = np.count_nonzero(0.9 ** np.arange(1, 200) > 0.1 - np.log(9) / 100)
    subject = subject_of(Opening(7, 2), length=warm_up + SEEN)
    (gate,) = habits(subject.probe, warm_up, SEEN)
    np.testing.assert_allclose(gate.high, 1 - max(0, closed - warm_up) / SEEN)


def test_units_that_grow_beyond_all_numbers_give_no_verdict():
    with pytest.raises(UserError) as caught:
        look(subject_of(registry.make_cell("irnn", 7, 5, {"recurrent_scale": 1e6}), dtype="float32"))
    assert str(caught.value).startswith("the network's states overflow: ")


@pytest.mark.parametrize("length", [1, 2, 3, 50])
def test_a_short_text_is_looked_at_as_far_as_it_goes(length):
    subject, _ = told([(9,) * 7])
    assert values(look(on(subject, tokens=subject.examples[:length])))["gate_high"] == pytest.approx(1 / 3)


def test_cells_of_which_nothing_can_be_said():
    with pytest.raises(UserError) as caught:
        look(subject_of(Copy(7, 6), name="copy"))
    assert str(caught.value) == ("the saturation of the cell copy cannot be measured: it has no sigmoid, tanh or relu")
    subject = subject_of(Deciding(7, 5), name="deciding")
    with pytest.raises(UserError) as caught:
        look(subject)
    assert str(caught.value) == (
        "the saturation of the cell deciding cannot be measured: its step cannot be traced: "
        f"{subject.probe.anatomy.reason}"
    )
    assert subject.probe.anatomy.reason
    assert habits(subject.probe, 5, 10) == []


def test_looking_leaves_the_weights_as_they_are():
    subject = subject_of(registry.make_cell("gru", 7, 5, {}))
    before = [leaf.copy() for leaf in trees.leaves(subject.params)]
    look(subject)
    assert all(np.array_equal(a, b) for a, b in zip(before, trees.leaves(subject.params), strict=True))


def test_layers_are_watched_one_by_one_and_give_what_the_stack_as_a_whole_gives():
    subject = subject_of(Stacked([LSTM(7, 4), LSTM(4, 4), GRU(4, 3)]))
    parts = subject.probe.anatomy
    window = subject.probe.window(np.array([WARM_UP + SEEN]), SEEN, WARM_UP)
    whole = observe(subject.probe, window, [a.op for a in parts.activations])
    alone = habits(on(subject, tokens=subject.examples[: WARM_UP + SEEN]).probe, WARM_UP, SEEN)
    assert [habit.activation.label for habit in alone] == [activation.label for activation in parts.activations]
    for habit, seen in zip(alone, whole.activations, strict=True):
        low, high = ENDS[habit.activation.function]
        np.testing.assert_array_equal(habit.low, (seen < low).mean(axis=(0, 1)))
        np.testing.assert_array_equal(habit.high, (seen > high).mean(axis=(0, 1)))


def test_more_layers_of_one_kind_are_traced_and_planned_no_more_often(monkeypatch):
    def traced(count):
        """The operations of all steps that are traced for a stack of so many layers."""
        ops = []
        trace = graph.trace

        def counted(*arguments, **options):
            found = trace(*arguments, **options)
            ops.append(len(found[0].ops))
            return found

        class Own(GRU):
            """A cell that nothing remembers, as its class is another one in each call."""

        subject = subject_of(Stacked([Own(7, 9), *[Own(9, 9)] * count]))
        with monkeypatch.context() as patch:
            patch.setattr(stepgraph, "_known", {})  # which is emptied when it is full
            patch.setattr(stepgraph, "trace", counted)
            habits(subject.probe, WARM_UP, SEEN)
        return sum(ops)

    assert traced(2) == traced(9) > 0
