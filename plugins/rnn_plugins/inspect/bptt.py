"""Backpropagation through time by hand, as in the lectures, compared with the engine's gradient."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minigrad import affine, cross_entropy, one_hot, trees, value_and_grad
from rnn_cells.rnn import RNN
from rnn_plugins.errors import UserError
from rnn_plugins.inspect.small import small_network

Array = NDArray[Any]


@dataclass(frozen=True)
class Step:
    """One forward step, in column vectors, and the derivative of its loss with respect to V.

    Attributes:
        t: its number, from 1.
        symbol: the input.
        target: the symbol to predict.
        s: (H,), the state tanh(U x_t + W s_{t-1}).
        predicted: (N,), softmax(V s_t) over the N symbols.
        wanted: (N,), the target as a one-hot vector.
        loss: E_t, -log of the target's probability, in nats.
        dV: (N, H), dE_t/dV = (predicted - wanted) s_t^T.
    """

    t: int
    symbol: str
    target: str
    s: Array
    predicted: Array
    wanted: Array
    loss: float
    dV: Array

    @property
    def error(self) -> Array:
        """(N,), ``predicted - wanted``: the derivative of the loss with respect to V s_t."""
        return self.predicted - self.wanted


@dataclass(frozen=True)
class Contribution:
    """The contribution of step k to the gradient of the last loss, E_T.

    Attributes:
        k: the step.
        jacobian: (H, H), ds_{k+1}/ds_k = diag(1 - s_{k+1}^2) W; None for the last step.
        product: (H, H), ds_T/ds_k, the product of the Jacobians from T down to k + 1; the identity for the last step.
        norm: the product's largest singular value: the largest factor from a change of s_k to that of s_T.
        ds: (H,), dE_T/ds_k = (ds_T/ds_k)^T V^T (predicted - wanted).
        dW: (H, H), ((1 - s_k^2) * ds) s_{k-1}^T.
        dU: (H, N), ((1 - s_k^2) * ds) x_k^T.
    """

    k: int
    jacobian: Array | None
    product: Array
    norm: float
    ds: Array
    dW: Array
    dU: Array


@dataclass(frozen=True)
class Derivation:
    """The whole derivation. Matrices act on column vectors: U (H, N), W (H, H), V (N, H).

    Attributes:
        symbols: the N different symbols, in the order of their first appearance.
        U: from a symbol to the state.
        W: from the state before.
        V: from the state to a score for each symbol.
        steps: forwards, from 1 to T.
        contributions: to dE_T/dW and dE_T/dU, from the last step back to the first.
        sums: ``{"W", "U"}`` of all contributions, and ``"V"``, the last step's dV.
        engine: the gradient of E_T with respect to each matrix, from reverse-mode automatic differentiation.
        difference: the largest absolute difference between ``sums`` and ``engine``.
        factor: the factor of the norm of ds_T/ds_k per step back, the geometric mean; None for a single step.
    """

    symbols: tuple[str, ...]
    U: Array
    W: Array
    V: Array
    steps: tuple[Step, ...]
    contributions: tuple[Contribution, ...]
    sums: dict[str, Array]
    engine: dict[str, Array]
    difference: float
    factor: float | None

    @property
    def outlook(self) -> dict[int, float]:
        """The factor of a gradient over more steps, by their number; empty if ``factor`` is None."""
        return {} if self.factor is None else {steps: self.factor**steps for steps in (10, 50)}


def bptt(text: str = "hello", steps: int = 3, hidden_size: int = 3, seed: int = 1) -> Derivation:
    """Derive the gradient of the loss of the last of ``steps`` steps of a basic network on a text.

    The network is s_t = tanh(U x_t + W s_{t-1}), y_t = softmax(V s_t), E_t = -log y_t[target], with s_0 = 0 and random
    weights, in float64.

    Args:
        text: step t reads its t-th symbol and predicts the next one.
        steps: T.
        hidden_size: H.
        seed: random seed for the weights.

    Raises:
        UserError: the text is too short or has too many different symbols, or a size is out of range.
    """
    if steps < 1:
        raise UserError(f"--steps is {steps}; it must be at least 1")
    if len(text) < steps + 1:
        raise UserError(
            f"--text is {text!r}, {len(text)} characters; {steps} steps need {steps + 1}, since each predicts the next"
        )
    symbols, (U, W, V) = small_network(text, hidden_size, seed)
    ids = np.array([symbols.index(symbol) for symbol in text[: steps + 1]])
    forward = _forward(U, W, V, symbols, ids)
    contributions = _contributions(W, V, forward, ids)
    sums = {
        "W": np.sum([c.dW for c in contributions], axis=0),
        "U": np.sum([c.dU for c in contributions], axis=0),
        "V": forward[-1].dV,
    }
    engine = engine_gradient(U, W, V, ids)
    difference = max(float(np.abs(a - b).max()) for a, b in trees.zip_leaves(sums, engine))
    factor = contributions[-1].norm ** (1 / (steps - 1)) if steps > 1 else None
    return Derivation(symbols, U, W, V, forward, contributions, sums, engine, difference, factor)


def _forward(U: Array, W: Array, V: Array, symbols: tuple[str, ...], ids: Array) -> tuple[Step, ...]:
    s = np.zeros(len(W))
    steps = []
    for t, (i, j) in enumerate(pairwise(ids), start=1):
        s = np.tanh(U @ one_hot(i, len(symbols), float) + W @ s)
        scores = V @ s
        predicted = np.exp(scores - scores.max())
        predicted /= predicted.sum()
        wanted = one_hot(j, len(symbols), float)
        loss = -float(np.log(predicted[j]))
        steps.append(Step(t, symbols[i], symbols[j], s, predicted, wanted, loss, np.outer(predicted - wanted, s)))
    return tuple(steps)


def _contributions(W: Array, V: Array, steps: tuple[Step, ...], ids: Array) -> tuple[Contribution, ...]:
    last = steps[-1]
    product = np.eye(len(W))
    jacobian = None
    found = []
    for k in range(len(steps), 0, -1):
        s = steps[k - 1].s
        before = steps[k - 2].s if k > 1 else np.zeros_like(s)
        ds = product.T @ V.T @ last.error
        local = (1 - s**2) * ds
        x = one_hot(ids[k - 1], len(V), float)
        norm = float(np.linalg.norm(product, 2))
        found.append(Contribution(k, jacobian, product, norm, ds, np.outer(local, before), np.outer(local, x)))
        jacobian = (1 - s**2)[:, None] * W  # ds_k/ds_{k-1}
        product = product @ jacobian
    return tuple(found)


def engine_gradient(U: Array, W: Array, V: Array, ids: Array) -> dict[str, Array]:
    """The gradient of the last loss with respect to W, U and V, from the cell ``rnn``, the time loop and the engine.

    The toolkit has states as rows, x U + s W, so the matrices and their gradients are transposed.

    Args:
        U: (H, N).
        W: (H, H).
        V: (N, H).
        ids: (T + 1,), the symbols.
    """
    cell = RNN(input_size=U.shape[1], hidden_size=len(W))
    params = {"cell": {"U": U.T, "W": W.T, "b": np.zeros(len(W))}, "head": {"W": V.T, "b": np.zeros(len(V))}}

    def last_loss(params: Any) -> Any:
        xs = one_hot(ids[:-1], len(V), float)[:, None]  # (T, 1, N)
        _, states = cell.unroll(params["cell"], np.zeros((1, len(W))), xs)
        return cross_entropy(affine(params["head"], states[-1]), ids[-1:])

    _, gradient = value_and_grad(last_loss)(params)
    return {"W": gradient["cell"]["W"].T, "U": gradient["cell"]["U"].T, "V": gradient["head"]["W"].T}
