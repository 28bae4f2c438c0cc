"""Dynamic evaluation: every symbol is predicted before the weights have seen it, and the rule is the one documented."""

import numpy as np
import pytest

from minigrad import grad, trees
from rnn_cells.gru import GRU
from rnn_plugins.language import dynamic
from rnn_plugins.language.dynamic import evaluate_dynamically
from rnn_plugins.language.model import Model
from rnn_plugins.tasks.task import Batch

RNG = np.random.default_rng(0)
TRAINING = RNG.integers(0, 5, 333).astype(np.uint8)
TEXT = np.tile(RNG.integers(0, 5, 13), 12).astype(np.uint8)  # it repeats itself, so that there is something to learn
MODEL = Model(GRU(3, 6), 5, embedding_size=3, dtype="float64")
PARAMS = MODEL.init_params(np.random.default_rng(1))


def pieces(tokens):
    """Segments of a text as batches."""
    for first in range(0, len(tokens) - 1, dynamic.SEGMENT):
        part = np.asarray(tokens[first : first + dynamic.SEGMENT + 1], np.intp)[:, None]
        yield Batch(part[:-1], part[1:], len(part) - 1)


def by_the_book(tokens, training):
    """The rule of the docstring, one parameter after another, with trees of arrays by path."""
    carry, squares, count = MODEL.init_carry(1), {}, 0
    for batch in pieces(training):
        g = trees.flatten(grad(lambda p, c, b: MODEL.loss(p, c, b, None)[0])(PARAMS, carry, batch))
        carry = trees.map(np.asarray, MODEL.loss(PARAMS, carry, batch, None)[1])
        squares = {path: squares.get(path, 0) + g[path] ** 2 for path in g}
        count += 1
    root = {path: np.sqrt(square / count) for path, square in squares.items()}
    mean = np.concatenate([r.ravel() for r in root.values()]).mean()
    trained, now = trees.flatten(PARAMS), trees.flatten(PARAMS)
    carry, total = MODEL.init_carry(1), 0.0
    for batch in pieces(tokens):
        params = trees.unflatten(PARAMS, now.values())
        loss, after = MODEL.loss(params, carry, batch, None)
        g = trees.flatten(grad(lambda p, c, b: MODEL.loss(p, c, b, None)[0])(params, carry, batch))
        carry, total = trees.map(np.asarray, after), total + float(np.asarray(loss)) * batch.weight
        now = {
            path: now[path]
            - dynamic.RATE * g[path] / (root[path] + dynamic.FLOOR)
            + dynamic.DECAY * np.minimum(root[path] / mean, 1 / dynamic.DECAY) * (trained[path] - now[path])
            for path in now
        }
    return total / (len(tokens) - 1)


@pytest.mark.parametrize("decay", [1e-3, 0.7])
def test_the_rule_is_the_one_of_its_docstring(monkeypatch, decay):
    monkeypatch.setattr(dynamic, "RATE", 0.02)
    monkeypatch.setattr(dynamic, "DECAY", decay)  # at 0.7 some weights are back at their beginning after one step
    assert evaluate_dynamically(MODEL, PARAMS, TEXT, TRAINING) == pytest.approx(by_the_book(TEXT, TRAINING), rel=1e-12)


def test_without_a_rate_it_is_one_pass_over_the_text(monkeypatch):
    monkeypatch.setattr(dynamic, "RATE", 0.0)
    static = MODEL.evaluate(PARAMS, TEXT, lanes=1)
    assert evaluate_dynamically(MODEL, PARAMS, TEXT, TRAINING) == pytest.approx(static, rel=1e-12)


def test_a_segment_is_predicted_before_it_is_learnt(monkeypatch):
    monkeypatch.setattr(dynamic, "RATE", 0.1)
    first = TEXT[: dynamic.SEGMENT + 1]
    assert evaluate_dynamically(MODEL, PARAMS, first, TRAINING) == pytest.approx(MODEL.evaluate(PARAMS, first, lanes=1))


def test_it_learns_a_text_that_repeats_itself_and_leaves_the_parameters_alone(monkeypatch):
    monkeypatch.setattr(dynamic, "RATE", 0.02)
    before = trees.map(np.copy, PARAMS)
    assert evaluate_dynamically(MODEL, PARAMS, TEXT, TRAINING) < MODEL.evaluate(PARAMS, TEXT, lanes=1) - 0.05
    for one, other in zip(trees.leaves(PARAMS), trees.leaves(before), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_squares_are_of_the_end_of_a_long_training_text(monkeypatch):
    monkeypatch.setattr(dynamic, "MEASURED", 3)
    end = TRAINING[-3 * dynamic.SEGMENT - 1 :]
    dynamically = [evaluate_dynamically(MODEL, PARAMS, TEXT, text) for text in (TRAINING, end)]
    assert dynamically[0] == dynamically[1]
