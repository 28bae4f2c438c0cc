"""What was expected at each symbol of a text, which earlier inputs moved it, and the gates."""

import math

import numpy as np
import pytest
from known_cells import Copy, Deciding, Forgetful, Linear, Odd, Stateless, on, subject_of

from minigrad import log_softmax, trees
from rnn_cells import Stacked
from rnn_plugins import registry
from rnn_plugins.data.vocabulary import Vocabulary
from rnn_plugins.errors import UserError
from rnn_plugins.reports.report import Colouring, Look
from rnn_plugins.reports.text import AT_ONCE, FARTHEST, SHOWN, TOP, Text, half_of, influence


def transcript(subject, **look):
    (figure,) = Text().measure(subject, Look(**look)).figures
    return figure


def log_probability(subject, xs, symbol):
    """That of a symbol after inputs (T, I)."""
    model = subject.language.model
    _, ys = model.cell.unroll(subject.params["cell"], model.init_carry(1), xs[:, None])
    scores = ys[-1, 0] @ subject.params["head"]["W"] + subject.params["head"]["b"]
    return float(log_softmax(scores)[symbol])


@pytest.mark.parametrize("place", [1, 2, 37, 64, 65, 130])
def test_the_influence_is_the_gradient_by_the_input_as_differences_give_it(place):
    """Central differences of the whole text, at symbols on both sides of the ends of what is computed together."""
    subject = subject_of(registry.make_cell("lstm", 7, 5, {}), length=150)
    found = influence(subject.probe, 150, 40)
    xs, size = np.eye(7)[subject.examples[:place]], 1e-5
    for lag in {1, 2, 7, 33, min(place, 40)}:
        if lag > place:
            continue
        moved = []
        for symbol in range(7):
            ends = []
            for step in (size, -size):
                changed = xs.copy()
                changed[place - lag, symbol] += step
                ends.append(log_probability(subject, changed, subject.examples[place]))
            moved.append((ends[0] - ends[1]) / (2 * size))
        assert found[place, lag - 1] == pytest.approx(np.linalg.norm(moved), rel=1e-5, abs=1e-10)


def test_the_influence_on_a_linear_cell_falls_by_its_eigenvalue():
    found = influence(subject_of(Linear(7, 5, 0.5), length=3 * AT_ONCE).probe, 3 * AT_ONCE, 30)
    np.testing.assert_allclose(found[40:, 1:] / found[40:, :-1], 0.5)


def test_only_the_last_input_moves_a_cell_that_carries_nothing():
    found = influence(subject_of(Forgetful(7, 5), length=100).probe, 100, 10)
    assert (found[1:, 0] > 0).all()
    np.testing.assert_array_equal(found[20:, 1:], 0)
    assert half_of(found) == 1


def test_there_is_no_influence_before_the_beginning():
    found = influence(subject_of(Linear(7, 5), length=30).probe, 30, 20)
    for place in range(30):
        assert np.isfinite(found[place]).sum() == min(place, 20)
        assert np.isfinite(found[place, : min(place, 20)]).all()


def test_half_of_the_influence_is_within_the_distance_of_its_mean_share():
    nan = math.nan
    assert half_of(np.array([[nan, nan, nan], [4.0, nan, nan], [1.0, 3.0, nan]])) == 1  # 1 and 0.25 within one step
    assert half_of(np.array([[1.0, 3.0, 0.0], [0.0, 0.0, 5.0]])) == 2
    assert half_of(np.array([[0.0, 0.0], [nan, nan], [math.inf, 1.0]])) is None


def test_alternatives_are_the_likeliest_symbols_with_their_probabilities():
    subject = subject_of(registry.make_cell("gru", 7, 5, {}), length=50)
    figure = transcript(subject)
    assert figure.expected[0] == ()
    assert math.isnan(figure.values[0])
    for place in (1, 2, 49):
        xs = np.eye(7)[subject.examples[:place]]
        scores = [log_probability(subject, xs, symbol) for symbol in range(7)]
        order = np.argsort(scores)[::-1][:TOP]
        assert [name for name, _ in figure.expected[place]] == ["abcdefg"[symbol] for symbol in order]
        assert [share for _, share in figure.expected[place]] == pytest.approx(np.exp(np.array(scores)[order]))
        assert figure.values[place] == pytest.approx(-scores[subject.examples[place]] / math.log(2))


def test_gates_are_means_over_units_in_the_step_that_reads_the_symbol():
    subject = subject_of(registry.make_cell("lstm", 7, 5, {}), length=40)
    traces = {trace.label: trace for trace in transcript(subject).traces}
    assert list(traces) == [part.label for part in subject.probe.anatomy.activations]
    assert (traces["forget"].low, traces["forget"].high) == (0, 1)
    assert (traces["candidate"].low, traces["candidate"].high) == (-1, 1)
    params, (h, c) = subject.params["cell"], (np.zeros((1, 5)), np.zeros((1, 5)))
    for place, symbol in enumerate(subject.examples[:40]):
        row = np.concatenate([h[0], np.eye(7)[symbol]])
        gates = {name: row @ params[name]["W"] + params[name]["b"] for name in ("forget", "input", "output")}
        for name, value in gates.items():
            assert traces[name].values[place] == pytest.approx((1 / (1 + np.exp(-value))).mean())
        (h, c), _ = subject.probe.cell(params, (h, c), np.eye(7)[[symbol]])


def test_the_text_begins_at_its_beginning_and_ends_in_time():
    subject = subject_of(registry.make_cell("gru", 7, 5, {}), length=SHOWN + 100)
    figure = transcript(subject)
    assert figure.title == "The first 400 characters"
    assert isinstance(figure, Colouring)
    assert "".join(figure.symbols) == "".join("abcdefg"[symbol] for symbol in subject.examples[:SHOWN])
    assert figure.influence.shape == (SHOWN, FARTHEST)
    assert transcript(subject, lags=5).influence.shape == (SHOWN, 5)


@pytest.mark.parametrize("level", ["char", "byte", "word"])
def test_every_level_has_its_symbols(level):
    text = "The café, the bar.\nThe café, the inn.\n" * 3
    vocabulary = Vocabulary.build([text], level)
    model = subject_of(registry.make_cell("gru", len(vocabulary), 4, {}), symbols=7).language.model
    model = type(model)(model.cell, len(vocabulary), dtype="float64")
    params = model.init_params(np.random.default_rng(0))
    subject = on(
        subject_of(model.cell), model=model, params=params, tokens=vocabulary.encode(text), vocabulary=vocabulary
    )
    figure = transcript(subject)
    assert figure.symbols == tuple(vocabulary.symbols[token] for token in vocabulary.encode(text))
    assert figure.unit == {"char": "character", "byte": "byte", "word": "word"}[level]


@pytest.mark.parametrize(
    "cell",
    [
        *(registry.make_cell(entry.name, 7, 5, {}) for entry in registry.entries("cells")),
        Stacked([registry.make_cell("lstm", 7, 4, {}), registry.make_cell("gru", 4, 3, {})]),
        Odd(7, 5),
        Deciding(7, 5),
        Stateless(7, 5),
        Copy(7, 5),
    ],
    ids=lambda cell: type(cell).__name__,
)
def test_any_cell_can_be_shown(cell):
    findings = Text().measure(subject_of(cell, length=90), Look(lags=10))
    (figure,) = findings.figures
    assert np.isfinite(figure.values[1:]).all()
    assert np.isfinite(figure.influence[10:]).all()
    assert all(trace.values.shape == (90,) for trace in figure.traces)
    assert bool(findings.notices) == isinstance(cell, Deciding)
    if isinstance(cell, Deciding):
        assert findings.notices[0].startswith("no gates are shown, because the step cannot be traced: ")
    if isinstance(cell, Copy):  # nothing that was read comes out of it
        assert not figure.influence[10:].any()
        assert findings.quantities[1].value is None


def test_what_cannot_be_shown_is_said():
    with pytest.raises(UserError, match=r"^the text has 1 character; expected at least 2, since the first is not pred"):
        Text().measure(subject_of(Linear(7, 5), length=1), Look())
    subject = subject_of(Linear(7, 5), length=90)
    broken = trees.map(lambda leaf: leaf * np.nan, subject.params)
    with pytest.raises(UserError, match=r"^the scores of the network are not finite: its training went wrong$"):
        Text().measure(on(subject, params=broken), Look())
