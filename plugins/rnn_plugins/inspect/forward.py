"""A basic network that reads a text: its prediction after each symbol, its loss, and symbols drawn from it by hand."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minigrad import affine, cross_entropy, one_hot, value_and_grad
from rnn_cells.rnn import RNN
from rnn_plugins.errors import UserError
from rnn_plugins.inspect.small import small_network

Array = NDArray[Any]

RATE = 0.5
"""Learning rate of the gradient descent of ``train``."""

MOST_TRAINED, MOST_DRAWN = 1000, 50
"""Maximum numbers of steps of gradient descent, and of symbols drawn."""

TEMPERATURES = (0.5, 1.0, 2.0)
"""Temperatures whose probabilities are compared."""


@dataclass(frozen=True)
class Reading:
    """One step: the network reads a symbol and predicts the next one. Vectors are columns.

    Attributes:
        t: its number, from 1.
        symbol: the input.
        target: the symbol to predict.
        x: (N,), the input as a one-hot vector.
        from_input: (H,), U x_t.
        from_state: (H,), W s_{t-1}.
        s: (H,), the state tanh(U x_t + W s_{t-1}).
        logits: (N,), o_t = V s_t.
        exponentials: (N,), exp(o_t).
        predicted: (N,), softmax(o_t), the exponentials divided by their sum.
        loss: E_t, -log of the target's probability, in nats.
    """

    t: int
    symbol: str
    target: str
    x: Array
    from_input: Array
    from_state: Array
    s: Array
    logits: Array
    exponentials: Array
    predicted: Array
    loss: float


@dataclass(frozen=True)
class Draw:
    """One symbol drawn from a prediction.

    Attributes:
        text: what the network has read.
        predicted: (N,), the probability of each next symbol.
        cumulated: (N,), their cumulated sums; the last is 1.
        number: drawn uniformly between 0 and 1.
        symbol: the first symbol whose cumulated sum is above ``number``.
    """

    text: str
    predicted: Array
    cumulated: Array
    number: float
    symbol: str


@dataclass(frozen=True)
class Walk:
    """A network's way through a text. Matrices act on column vectors: U (H, N), W (H, H), V (N, H).

    Attributes:
        text: what is read and predicted.
        symbols: the N different symbols, in the order of their first appearance.
        U: from a symbol to the state.
        W: from the state before.
        V: from the state to a logit for each symbol.
        trained: the number of steps of gradient descent before it.
        before: the mean loss without them, in nats.
        steps: each symbol but the last, read; from 1 to T.
        draws: symbols drawn one after the other, each read before the next.
    """

    text: str
    symbols: tuple[str, ...]
    U: Array
    W: Array
    V: Array
    trained: int
    before: float
    steps: tuple[Reading, ...]
    draws: tuple[Draw, ...]

    @property
    def loss(self) -> float:
        """The mean loss over the steps, in nats."""
        return float(np.mean([step.loss for step in self.steps]))

    @property
    def guessing(self) -> float:
        """The loss of uniform guessing, ln N nats."""
        return math.log(len(self.symbols))

    def draw_at(self, probabilities: Array) -> str:
        """The symbol that the number of the first draw takes from other probabilities, (N,)."""
        return _drawn(self.symbols, probabilities, self.draws[0].number)[0]

    def at_temperatures(self) -> dict[float, Array]:
        """The prediction of the first draw at several temperatures: p^(1/T), divided by the sum; (N,) each."""
        powers = {T: self.draws[0].predicted ** (1 / T) for T in TEMPERATURES}
        return {T: power / power.sum() for T, power in powers.items()}


def forward(text: str = "hello", hidden_size: int = 3, seed: int = 1, train: int = 0, draws: int = 4) -> Walk:
    """Read a text with a basic network and draw symbols from it.

    The network is s_t = tanh(U x_t + W s_{t-1}), o_t = V s_t, y_t = softmax(o_t), E_t = -log y_t[target], with s_0 = 0,
    in float64; its random weights are those of ``bptt``.

    Args:
        text: each symbol but the last is read, and the next one predicted.
        hidden_size: H.
        seed: random seed for the weights, and for the numbers with which symbols are drawn.
        train: steps of gradient descent on the mean loss of this text before it, each on the whole of it.
        draws: the number of symbols drawn, after the first symbol of the text.

    Raises:
        UserError: the text has too few or too many different symbols, or a number is out of range.
    """
    for option, value, least, most in (("train", train, 0, MOST_TRAINED), ("draws", draws, 1, MOST_DRAWN)):
        if not least <= value <= most:
            raise UserError(f"--{option} is {value}; it must be from {least} to {most}")
    symbols, (U, W, V) = small_network(text, hidden_size, seed)
    ids = np.array([symbols.index(symbol) for symbol in text])
    before = float(np.mean([step.loss for step in _steps(U, W, V, symbols, ids)]))
    U, W, V = _trained(U, W, V, ids, train)
    rng = np.random.default_rng((seed, 4))  # other numbers than those of the weights
    return Walk(
        text,
        symbols,
        U,
        W,
        V,
        train,
        before,
        tuple(_steps(U, W, V, symbols, ids)),
        tuple(_draws(U, W, V, symbols, text[0], draws, rng)),
    )


def _steps(U: Array, W: Array, V: Array, symbols: tuple[str, ...], ids: Array) -> list[Reading]:
    s = np.zeros(len(W))
    steps = []
    for t, (i, j) in enumerate(pairwise(ids), start=1):
        x = one_hot(i, len(symbols), float)
        from_input, from_state = U @ x, W @ s
        s = np.tanh(from_input + from_state)
        logits = V @ s
        exponentials = np.exp(logits)
        predicted = exponentials / exponentials.sum()
        loss = -float(np.log(predicted[j]))
        steps.append(
            Reading(t, symbols[i], symbols[j], x, from_input, from_state, s, logits, exponentials, predicted, loss)
        )
    return steps


def _draws(
    U: Array, W: Array, V: Array, symbols: tuple[str, ...], first: str, count: int, rng: np.random.Generator
) -> list[Draw]:
    s, text = np.zeros(len(W)), first
    draws = []
    for _ in range(count):
        s = np.tanh(U[:, symbols.index(text[-1])] + W @ s)
        exponentials = np.exp(V @ s)
        predicted = exponentials / exponentials.sum()
        number = float(rng.random())
        symbol, cumulated = _drawn(symbols, predicted, number)
        draws.append(Draw(text, predicted, cumulated, number, symbol))
        text += symbol
    return draws


def _drawn(symbols: tuple[str, ...], probabilities: Array, number: float) -> tuple[str, Array]:
    """The symbol that a number between 0 and 1 draws, and the cumulated probabilities, (N,)."""
    cumulated = probabilities.cumsum()
    cumulated[-1] = 1.0  # rounding must not leave a gap at the end
    return symbols[int(cumulated.searchsorted(number, side="right"))], cumulated


def _trained(U: Array, W: Array, V: Array, ids: Array, steps: int) -> tuple[Array, Array, Array]:
    """The matrices after some steps of gradient descent, by the cell ``rnn``, the time loop and the engine."""
    cell = RNN(input_size=U.shape[1], hidden_size=len(W))
    xs = one_hot(ids[:-1], len(V), float)[:, None]  # (T, 1, N)

    def mean_loss(params: Any) -> Any:
        U, W, V = params
        inner = {"U": U.T, "W": W.T, "b": np.zeros(len(W))}  # the toolkit has states as rows, x U + s W
        _, states = cell.unroll(inner, np.zeros((1, len(W))), xs)
        return cross_entropy(affine({"W": V.T, "b": np.zeros(len(V))}, states[:, 0]), ids[1:])

    params = U, W, V
    for _ in range(steps):
        _, gradients = value_and_grad(mean_loss)(params)
        U, W, V = (matrix - RATE * gradient for matrix, gradient in zip(params, gradients, strict=True))
        params = U, W, V
    return params
