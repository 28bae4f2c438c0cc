"""The probes of separate sequences, against gradients that a loop computes step by step."""

import numpy as np
import pytest

from minigrad import affine, concat, grad, log_softmax, mean, one_hot, pick, square, sum
from minigrad.scan import Lookup
from rnn_cells import Stacked
from rnn_cells.bidirectional import Bidirectional
from rnn_cells.gru import GRU
from rnn_cells.rnn import RNN
from rnn_plugins.reports.gradients import bounded, measure_flow
from rnn_plugins.reports.memory import measure_rise
from rnn_plugins.reports.probe import Labels
from rnn_plugins.reports.probing import state_gradients
from rnn_plugins.tasks.probes import FORWARDS, AtEnd, EveryStep

SYMBOLS, CLASSES, H = 5, 3, 4
RNG = np.random.default_rng(7)
TEXTS = [RNG.integers(0, SYMBOLS, length) for length in (3, 6, 4, 7, 5)]
CLASS = [0, 2, 1, 2, 0]
TAGS = [RNG.integers(0, CLASSES, len(text)) for text in TEXTS]
NUMBERS = [RNG.normal(size=(length, 2)) for length in (4, 6, 5)]
NEXT = [RNG.normal(size=(length, 2)) for length in (4, 6, 5)]

TABLE = np.eye(SYMBOLS)


def cell_of(directions):
    return Bidirectional(RNN(SYMBOLS, H), RNN(SYMBOLS, H)) if directions == 2 else RNN(SYMBOLS, H)


def weights_of(cell, outputs=CLASSES):
    head = {"W": RNG.normal(size=(cell.output_size, outputs)), "b": RNG.normal(size=outputs)}
    params = cell.init_params(np.random.default_rng(1))

    def widened(tree):
        if isinstance(tree, dict):
            return {key: widened(value) for key, value in tree.items()}
        return tree.astype(float) + 0.3 * RNG.normal(size=tree.shape)

    return {"cell": widened(params), "head": head}


def surprise(weights, outputs, targets):
    return -pick(log_softmax(affine(weights["head"], outputs)), targets)


def pooled(how):
    """The loss of a class told from outputs (T, B, H): of the last step, or their mean."""

    def score(weights, outputs, lengths, goals):
        if how == "last":
            return surprise(weights, outputs[lengths - 1, np.arange(len(lengths))], goals)
        live = (np.arange(outputs.shape[0])[:, None] < lengths).astype(float)[:, :, None]
        return surprise(weights, sum(outputs * live, axis=0) / lengths[:, None], goals)

    return score


def along(cell, params, inputs, nudges=None, first=None):
    """The outputs of a cell along one sequence, (n, H), by a loop; ``nudges`` (n, H) are added to its states."""
    h, ys = np.zeros((1, H)) if first is None else first, []
    for t in range(len(inputs)):
        h, _ = cell(params, h, inputs[t : t + 1])
        h = h if nudges is None else h + nudges[t : t + 1]
        ys.append(h)
    return concat(*[y.T for y in ys]).T


def both(cell, params, inputs, nudges):
    """The outputs of one sequence; of two directions, only the states of the first are moved."""
    if not isinstance(cell, Bidirectional):
        return along(cell, params, inputs, nudges)
    back = along(cell.backward, params["backward"], inputs[::-1])[::-1]
    return concat(along(cell.forward, params["forward"], inputs, nudges), back)


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("how", ["last", "mean"])
def test_a_loss_at_the_end_depends_on_the_states_as_a_loop_says(directions, how):
    cell = cell_of(directions)
    weights, score = weights_of(cell), pooled(how)
    probe = AtEnd(
        recurrent=cell,
        weights=weights,
        inputs=TEXTS,
        goals=CLASS,
        see=lambda weights, ids: Lookup(TABLE, ids),
        score=score,
        whole=how == "mean",
        dtype="float64",
    )
    assert probe.longest() == 3
    ends = np.array(probe.ends(4))
    assert ends.tolist() == [1, 2, 3, 4]
    window = probe.window(ends, 4)
    (found,) = state_gradients(probe, window, probe.targets(ends, 4))
    for column, end in enumerate(ends):
        xs = one_hot(TEXTS[end], SYMBOLS, float)

        def loss(nudges, xs=xs, end=end):
            ys = both(cell, weights["cell"], xs, nudges)
            return sum(score(weights, ys.reshape(len(xs), 1, -1), np.array([len(xs)]), np.array([CLASS[end]])))

        expected = grad(loss)(np.zeros((len(xs), H)))
        np.testing.assert_allclose(found[:, column], expected[-4:], rtol=1e-9, atol=1e-12)
    assert probe.notices == ((FORWARDS,) if directions == 2 else ())


@pytest.mark.parametrize("directions", [1, 2])
def test_a_loss_after_a_step_depends_on_the_states_as_a_loop_says(directions):
    cell = cell_of(directions)
    weights = weights_of(cell)
    probe = EveryStep(
        recurrent=cell,
        weights=weights,
        inputs=TEXTS,
        goals=TAGS,
        see=lambda weights, ids: one_hot(ids, SYMBOLS, float),
        score=surprise,
        dtype="float64",
    )
    ends = np.array(probe.ends(3))
    steps = [(index, step) for index, text in enumerate(TEXTS) for step in range(2, len(text))]
    assert len(ends) == len(steps)
    (found,) = state_gradients(probe, probe.window(ends, 3), probe.targets(ends, 3))
    for column, (index, step) in enumerate(steps):
        xs = one_hot(TEXTS[index], SYMBOLS, float)

        def loss(nudges, xs=xs, index=index, step=step):
            ys = both(cell, weights["cell"], xs, nudges)
            return surprise(weights, ys[step : step + 1], TAGS[index][step : step + 1])[0]

        expected = grad(loss)(np.zeros((len(xs), H)))
        np.testing.assert_allclose(found[:, column], expected[step - 2 : step + 1], rtol=1e-9, atol=1e-12)


def test_numbers_may_be_predicted_from_a_carry_of_each_sequence():
    cell = RNN(2, H)
    weights = weights_of(cell, 2) | {"first": RNG.normal(size=(3, H))}
    probe = EveryStep(
        recurrent=cell,
        weights=weights,
        inputs=NUMBERS,
        goals=NEXT,
        see=lambda weights, numbers: numbers,
        score=lambda weights, outputs, goals: mean(square(affine(weights["head"], outputs) - goals), axis=-1),
        first=lambda weights, which: weights["first"][which],
        dtype="float64",
    )
    ends = np.array(probe.ends(2))
    window, targets = probe.window(ends, 2), probe.targets(ends, 2)
    _, ys = cell.unroll(probe.params, window.carry, window.xs)
    losses = probe.loss(ys, targets)
    assert losses.shape == targets.shape
    column = 0
    for index, (inputs, goals) in enumerate(zip(NUMBERS, NEXT, strict=True)):
        ys = along(cell, weights["cell"], inputs, first=weights["first"][index : index + 1])
        expected = np.mean((affine(weights["head"], ys) - goals) ** 2, axis=1)
        for step in range(1, len(inputs)):
            np.testing.assert_allclose(losses[:, column], expected[step - 1 : step + 1], rtol=1e-9)
            column += 1
    assert column == len(ends)


def some_goals(goals=None):
    """A probe of texts with a goal at some steps only."""
    cell = Stacked([GRU(SYMBOLS, H), GRU(H, H)])
    sparse = [np.where(np.arange(len(tags)) % 2, tags, -1) for tags in TAGS]
    return EveryStep(
        recurrent=cell,
        weights={"cell": cell.init_params(np.random.default_rng(0)), "head": weights_of(RNN(SYMBOLS, H))["head"]},
        inputs=TEXTS,
        goals=sparse,
        see=lambda weights, ids: Lookup(TABLE, ids),
        score=surprise,
        unit="letter",
        sequence="word",
        written=lambda index: Labels(tuple(map(str, TEXTS[index])), tuple(map(str, sparse[index]))),
        far=(7, "half of the words are longer than"),
    ).astype("float64")


def test_steps_without_a_goal_have_no_loss_and_are_no_positions():
    probe = some_goals()
    counts = [len(text) for text in TEXTS]
    starts = np.cumsum([0, *counts[:-1]])
    expected = [s + t for s, n in zip(starts, counts, strict=True) for t in range(1, n) if t % 2]
    assert probe.ends(2) == expected
    assert probe.ends(1, scored=False) == list(range(np.sum(counts)))
    assert (probe.longest(), probe.longest(scored=False)) == (2, 3)
    ends = np.array(probe.ends(2))
    window = probe.window(ends, 2)
    _, ys = probe.cell.unroll(probe.params, window.carry, window.xs)
    losses = np.asarray(probe.loss(ys, probe.targets(ends, 2)))
    assert (losses[0] == 0).all()
    assert (losses[1] > 0).all()
    assert losses.dtype == np.float64


def test_windows_are_labelled_by_what_was_read_and_what_was_to_be_predicted():
    probe = some_goals()
    (end,) = [end for end in probe.ends(1) if end == 3 + 3]  # the fourth step of the second sequence
    inputs, targets = probe.labels(end, 2)
    assert inputs == tuple(map(str, TEXTS[1][2:4]))
    assert targets == ("-1", str(TAGS[1][3]))
    assert probe.distance() == (7, "half of the words are longer than")


def test_reports_measure_them():
    probe = some_goals()
    flow = measure_flow(probe, 1, 5)
    assert flow.norms[0].shape == (2, 5)
    assert bounded(probe, 1, 0).growth > 0
    assert measure_rise(probe, 2, 6).rise.shape[0] == 2
    assert (flow.norms[0][0] > 0).all()
