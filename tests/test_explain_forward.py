"""``rnn explain forward``: every number that it prints, against the engine, and how letters are drawn."""

import json
import math
import re

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from minigrad import affine, cross_entropy, log_softmax, one_hot
from rnn_cells import RNN
from rnn_cli.drawing.bars import bar
from rnn_cli.main import rnn
from rnn_plugins.inspect.bptt import bptt
from rnn_plugins.inspect.forward import forward

WALKS = st.builds(
    forward,
    st.text("helo w", min_size=2, max_size=9).filter(lambda text: len(set(text)) > 1),
    st.integers(1, 7),
    st.integers(0, 99),
    st.integers(0, 2),
    st.integers(1, 6),
)


def call(*args, **extra):
    result = CliRunner().invoke(rnn, ["explain", "forward", *args], **extra)
    return result.exit_code, result.stdout, result.stderr


def by_engine(walk, text):
    """The logits after each symbol of a text, (T, N), from the cell ``rnn`` and the time loop."""
    cell = RNN(len(walk.symbols), len(walk.W))
    xs = one_hot(np.array([walk.symbols.index(symbol) for symbol in text]), len(walk.symbols), float)[:, None]
    params = {"U": walk.U.T, "W": walk.W.T, "b": np.zeros(len(walk.W))}
    _, states = cell.unroll(params, np.zeros((1, len(walk.W))), xs)
    return affine({"W": walk.V.T, "b": np.zeros(len(walk.V))}, states[:, 0])


@given(WALKS)
def test_every_number_is_the_engine_s(walk):
    logits = by_engine(walk, walk.text[:-1])
    assert np.allclose([step.logits for step in walk.steps], logits)
    assert np.allclose([step.predicted for step in walk.steps], np.exp(log_softmax(logits)))
    assert walk.loss == pytest.approx(
        float(cross_entropy(logits, np.array([walk.symbols.index(symbol) for symbol in walk.text[1:]])))
    )
    before = np.zeros(len(walk.W))
    for step, symbol, target in zip(walk.steps, walk.text[:-1], walk.text[1:], strict=True):
        assert (step.symbol, step.target) == (symbol, target)
        assert walk.symbols[step.x.argmax()] == symbol
        assert np.allclose(step.from_state, walk.W @ before)
        assert np.allclose(np.tanh(step.from_input + step.from_state), step.s)
        assert np.allclose(step.exponentials / step.exponentials.sum(), step.predicted)
        assert step.loss == pytest.approx(-math.log(step.predicted[walk.symbols.index(target)]))
        before = step.s


@given(WALKS)
def test_a_drawn_letter_is_where_the_number_falls_and_is_read_next(walk):
    text = walk.text[0]
    for draw in walk.draws:
        assert draw.text == text
        assert np.allclose(draw.predicted, np.exp(log_softmax(by_engine(walk, text)[-1])))
        index = walk.symbols.index(draw.symbol)
        assert draw.cumulated[index] > draw.number
        assert index == 0 or draw.cumulated[index - 1] <= draw.number
        text += draw.symbol
    assert walk.at_temperatures()[1.0] == pytest.approx(walk.draws[0].predicted)
    squares = walk.draws[0].predicted ** 2
    assert np.allclose(walk.at_temperatures()[0.5], squares / squares.sum())


def test_training_is_gradient_descent_on_the_mean_loss():
    """One step changes each matrix by the rate times the difference quotient of the mean loss."""
    fresh, trained = forward(), forward(train=1)
    assert trained.before == pytest.approx(fresh.loss)
    assert trained.loss < fresh.loss
    ids = np.array([fresh.symbols.index(symbol) for symbol in "ello"])

    def mean_loss(V):
        states = np.array([step.s for step in fresh.steps])
        return float(cross_entropy(states @ V.T, ids))

    for place in [(0, 0), (3, 2)]:
        nudge = np.zeros_like(fresh.V)
        nudge[place] = 1e-5
        slope = (mean_loss(fresh.V + nudge) - mean_loss(fresh.V - nudge)) / 2e-5
        assert (fresh.V - trained.V)[place] == pytest.approx(0.5 * slope, rel=1e-6)
    assert forward(train=50).draws[-1].text + forward(train=50).draws[-1].symbol == "hello"


def test_it_is_the_network_of_bptt():
    walk, derivation = forward(), bptt()
    for name in ("U", "W", "V"):
        assert np.array_equal(getattr(walk, name), getattr(derivation, name))
    assert np.allclose([step.s for step in walk.steps[:3]], [step.s for step in derivation.steps])


def test_all_of_it_stands_there_with_its_numbers():
    code, output, said = call()
    assert (code, said) == (0, "")
    walk = forward()
    rows = {tuple(re.findall(r"-?\d+\.\d{4}", line)) for line in output.splitlines()}
    for step in walk.steps:
        assert f"t = {step.t}   reads {step.symbol!r}, should predict {step.target!r}" in output
        assert f"x_{step.t} = ({' '.join(str(int(x)) for x in step.x)})" in output
        sums = step.from_input + step.from_state
        for row in [
            *zip(step.from_input, step.from_state, sums, step.s, strict=True),
            *zip(step.logits, step.exponentials, step.predicted, strict=True),
            (step.exponentials.sum(), 1.0),
        ]:
            assert tuple(f"{x:.4f}" for x in row) in rows
        assert f"= -log {step.predicted[walk.symbols.index(step.target)]:.4f} = {step.loss:.4f}" in output
    for draw in walk.draws:
        assert f"after {draw.text!r}   drawn number {draw.number:.4f}" in output
        index = walk.symbols.index(draw.symbol)
        assert re.search(rf"{draw.predicted[index]:.4f} +{draw.cumulated[index]:.4f}  <- drawn", output)
    words = " ".join(output.split())
    assert f"/ 4 = {walk.loss:.4f} nats per letter" in words
    assert "= 1.3863 nats" in words
    assert "The network reads 'l' at t = 3 and at t = 4, and should predict 'l', then 'o'" in words
    assert output.count("<- target") == 4
    assert "-0.0000" not in output


def test_bars_are_as_long_as_the_probabilities_and_plain_without_unicode():
    assert [bar(share, 10, "utf-8") for share in (0, 0.04, 0.26, 0.5, 1)] == ["", "▌", "██▌", "█████", "█" * 10]
    assert [bar(share, 10, "ascii") for share in (0, 0.04, 0.26, 0.5, 1)] == ["", "", "###", "#####", "#" * 10]


@pytest.mark.parametrize("args", [[], ["--hidden-size", "7", "--text", "abcdefga"], ["--train", "3"]])
def test_its_width_is_that_of_the_terminal(args, monkeypatch):
    lines = call(*args)[1].splitlines()
    assert 60 < max(map(len, lines)) <= 80
    monkeypatch.setenv("COLUMNS", "40")
    narrow = call("--text", "hello", *args)[1] if not args else ""
    assert max(map(len, narrow.splitlines()), default=0) <= 40


def test_after_training_it_says_what_training_did():
    words = " ".join(call("--train", "50")[1].split())
    assert "The weights are those after 50 steps of gradient descent on the mean loss of this text" in words
    assert "The text is 'hello'." in words
    assert "The likeliest letter is the right one at 4 of 4 steps." in words


def test_json_has_all_of_it():
    record, walk = json.loads(call("--json", "--draws", "2")[1]), forward(draws=2)
    assert record["loss"] == walk.loss
    assert record["guessing"] == math.log(4)
    assert record["symbols"] == list("helo")
    assert record["steps"][1]["predicted"] == walk.steps[1].predicted.tolist()
    assert [draw["symbol"] for draw in record["draws"]] == [draw.symbol for draw in walk.draws]
    assert len(record["draws"]) == 2


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--hidden-size", "8"], "--hidden-size is 8; it must be from 1 to 7, to be read as numbers"),
        (["--text", "aaaa"], "--text is 'aaaa', with 1 different characters; it must have from 2 to 7"),
        (["--text", ""], "--text is '', with 0 different characters; it must have from 2 to 7"),
        (["--seed", "-1"], "--seed is -1; it must be at least 0"),
        (["--train", "1001"], "--train is 1001; it must be from 0 to 1000"),
        (["--draws", "0"], "--draws is 0; it must be from 1 to 50"),
    ],
)
def test_mistakes_are_sentences(args, message):
    assert call(*args) == (2, "", f"Error: {message}\n")
