"""How far back the input matters, where it is known: cells that forget at once, and registers of a known length."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from known_cells import Copy, Deciding, Forgetful, Linear, Odd, Shift, on, subject_of
from numpy.typing import NDArray
from test_report_neurons import Stateless

from minigrad import log_softmax, tanh, trees
from rnn_cells import Stacked
from rnn_plugins import registry
from rnn_plugins.errors import UserError
from rnn_plugins.reports.memory import Memory, bands, measure_rise, reach
from rnn_plugins.reports.probe import Probe, Window
from rnn_plugins.reports.report import Look

V = 7

TOO_LARGE = "the network's states overflow: use a smaller recurrent matrix, or train with clipping (--grad-clip 1)"


def rise_of(subject, lags=12, count=20):
    return measure_rise(subject.probe, lags, count)


def numbers(findings):
    return {quantity.key: quantity.value for quantity in findings.quantities}


@pytest.mark.parametrize("cell", [Forgetful(V, 6), Copy(V, 6), Stateless(V, 6)])
def test_what_is_not_carried_on_is_not_missed(cell):
    found = rise_of(subject_of(cell))
    assert found.rise.shape == (12, 20)
    np.testing.assert_allclose(found.rise, 0, atol=1e-12)
    findings = Memory().measure(subject_of(cell), Look(lags=2, positions=80))
    assert numbers(findings)["reach"] == 1
    assert findings.verdict == (
        "Knows no more than the last character: all before it lowers the loss by less than 0.01 nats.",
    )


def register(length):
    """What comes out of a register of that length is taken for the next symbol, and mostly is."""
    subject = subject_of(Shift(V, V, length), V, length=2000)
    rng = np.random.default_rng(5)
    tokens = rng.integers(0, V, 2000)
    for t in range(length, 2000):
        if rng.random() < 0.9:
            tokens[t] = tokens[t - length]
    params = {"cell": {"U": np.eye(V)}, "head": {"W": 5 * np.eye(V), "b": np.zeros(V)}}
    return on(subject, tokens=tokens, params=params)


@pytest.mark.parametrize("length", [1, 2, 5])
def test_a_register_needs_as_many_symbols_as_it_holds(length):
    subject, lags = register(length), 9
    found = rise_of(subject, lags, 50)
    tokens, half = subject.examples, 1000 - lags
    first = lags + np.sort(np.random.default_rng(0).choice(half, 25, replace=False))
    starts, others = np.append(first, first + half), np.append(first + half, first)
    loss = -log_softmax(5 * np.eye(V))
    for k in range(1, lags + 1):
        # After k symbols of the text, the one that was read length - 1 steps before the last comes out.
        back, targets = k - length, tokens[starts + k]
        np.testing.assert_allclose(found.loss[k - 1], loss[tokens[starts + back], targets], rtol=1e-12)
        known = tokens[(starts if back >= 0 else others) + back]
        np.testing.assert_allclose(found.rise[k - 1] + found.loss[k - 1], loss[known, targets], rtol=1e-12)
    assert (found.rise[: length - 1].mean(axis=1) > 1).all()
    np.testing.assert_allclose(found.rise[length - 1 :], 0, atol=1e-12)


def test_the_report_tells_how_much_a_register_holds():
    findings = Memory().measure(register(6), Look(lags=2, positions=400))
    values = numbers(findings)
    assert 5 < values["reach"] <= 6
    assert values["rise_1"] > 1
    assert values["rise_10"] == pytest.approx(0, abs=1e-12)
    assert "rise_100" not in values
    (chart,) = findings.figures
    (curve,) = chart.curves
    assert curve.x.tolist()[:6] == [1, 2, 3, 4, 5, 6]
    assert (curve.y[:5] > 1).all()
    assert (curve.low <= curve.y).all()
    assert (curve.y <= curve.high).all()
    assert findings.verdict == ("The last 6 characters count: all before them lowers the loss by less than 0.01 nats.",)


def test_a_register_longer_than_the_lags_is_said_to_remember():
    findings = Memory().measure(register(11), Look(lags=1, positions=200))
    assert numbers(findings)["reach"] is None
    assert findings.quantities[0].missing == "not within 10"
    assert findings.verdict[0].startswith(
        "Remembers: what lies more than 10 characters back still lowers the loss, by "
    )


def test_losses_are_those_of_the_model_however_many_steps_are_read_at_once(monkeypatch):
    subject = subject_of(registry.make_cell("lstm", V, 5, {}))
    together = rise_of(subject)
    for steps in (1, 5):
        monkeypatch.setattr(Probe, "rows_at_once", lambda probe, batch, steps=steps: steps)
        in_blocks = rise_of(subject)
        np.testing.assert_allclose(in_blocks.rise, together.rise, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(in_blocks.loss, together.loss, rtol=1e-9)
    start = 12 + np.sort(np.random.default_rng(0).choice(188, 10, replace=False))[0]
    model, tokens = subject.language.model, subject.examples
    carry = model.init_carry(1)
    for t in range(start - 12, start + 12):
        carry, logits = model.step(subject.params, carry, tokens[t : t + 1])
    loss = -log_softmax(logits)[0, tokens[start + 12]]
    assert together.loss[-1, 0] == pytest.approx(loss, rel=1e-9)


CELLS = {
    **{entry.name: registry.make_cell(entry.name, V, 5, {}) for entry in registry.entries("cells")},
    "stack": Stacked([registry.make_cell("lstm", V, 4, {}), registry.make_cell("gru", 4, 3, {})]),
    "odd": Odd(V, 5),
    "deciding": Deciding(V, 5),
}


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_any_cell_can_be_looked_at(cell):
    subject = subject_of(cell)
    found = rise_of(on(subject, params=trees.map(lambda p: 3 * p, subject.params)), 10, 8)
    assert np.isfinite(found.rise).all()
    assert found.rise[0].any()


@given(st.integers(1, 3000))
def test_groups_of_lags_hold_each_lag_once_and_small_ones_alone(lags):
    edges = bands(lags)
    assert (edges[0], edges[-1]) == (1, lags + 1)
    widths = np.diff(edges)
    assert widths.min() >= 1
    assert (widths <= np.maximum(1, np.ceil(0.16 * edges[:-1]))).all()
    assert edges[:6].tolist() == list(range(1, 2 + min(lags, 5)))


def test_the_reach_is_interpolated():
    lags = np.array([1.0, 10.0, 100.0])
    assert reach(lags, np.array([1.0, 0.1, 0.001])) == pytest.approx(10 * 10 ** (0.09 / 0.099))
    assert reach(lags, np.array([1.0, 0.0, 1.0])) == pytest.approx(10**0.99)
    assert reach(lags, np.array([0.0, 1.0, 1.0])) == 1
    assert reach(lags, np.array([1.0, 0.1, 0.01])) is None


def test_a_short_text_reduces_the_lags():
    findings = Memory().measure(subject_of(Forgetful(V, 6), length=99), Look(lags=10, positions=20))
    assert findings.notices == (
        "the text is short (99 characters), which reduces the lags from 100 to 16, so that the other past "
        "contains nothing of what is predicted",
    )
    with pytest.raises(UserError) as error:
        Memory().measure(subject_of(Forgetful(V, 6), length=13), Look())
    assert str(error.value) == "the text has 13 characters, and a lag of two needs 14: give a longer one"


@given(st.integers(1, 30), st.integers(0, 40), st.integers(2, 60), st.integers(0, 2**32 - 1))
def test_the_other_past_has_nothing_of_what_is_read(lags, more, count, seed):
    """Each symbol of the text is its own place, so that what a model is given says where it is."""
    length = 6 * lags + 2 + more
    read: list[NDArray[np.intp]] = []

    class Watched(Probe):
        every_step, separate, dtype = True, False, "float32"
        cell, params = Forgetful(1, 1), {"U": np.ones((1, 1))}

        def longest(self, *, scored=True):
            return length - scored

        def ends(self, length_of_window, warm_up=0, *, scored=True):
            return range(length_of_window + warm_up, length)

        def window(self, ends, length, warm_up=0):
            read.append(ends + np.arange(-length - warm_up, -length)[:, None])
            read.append(ends + np.arange(-length, 1)[:, None])
            return Window(np.zeros((len(ends), 1)), np.zeros((length, len(ends), 1)))

        def targets(self, ends, length):
            return ends + np.arange(1 - length, 1)[:, None]

        def loss(self, outputs, targets):
            read.append(targets)
            return np.zeros(targets.shape)

        def astype(self, dtype):
            raise AssertionError

    found = measure_rise(Watched(), lags, count, seed)
    past, future, targets = read
    batch = past.shape[1]
    assert found.rise.shape == (lags, batch)
    assert 2 <= batch <= count
    np.testing.assert_array_equal(past[-1] + 1, future[0])
    np.testing.assert_array_equal(targets, np.tile(future[1:], 2))
    for place in range(batch):
        here, there = np.append(past[:, place], future[:, place]), past[:, (place + batch // 2) % batch]
        assert len(set(here)) == 2 * lags + 1
        assert not set(here) & set(there)


@dataclass(frozen=True)
class Squashed(Forgetful):
    """A network whose states grow without end, and whose outputs stay within -1 and 1 all the same."""

    def __call__(self, params, h, x):
        h = 1e6 * h + x @ params["U"]
        return h, tanh(h)


@pytest.mark.parametrize("cell", [Linear(V, 6, 1e6), Squashed(V, 6)])
def test_a_network_that_grows_beyond_all_numbers_gives_no_verdict(cell):
    with pytest.raises(UserError) as error:
        Memory().measure(subject_of(cell, dtype="float32"), Look(lags=4, positions=20))
    assert str(error.value) == TOO_LARGE


def test_scores_that_overflow_give_no_verdict():
    subject = subject_of(Copy(V, 6), dtype="float32")
    subject.params["head"]["W"][:] = np.float32(3e38)
    with pytest.raises(UserError) as error:
        rise_of(subject)
    assert str(error.value) == TOO_LARGE
