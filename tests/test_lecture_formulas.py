"""The lecture's formulas of backpropagation through time, with every Jacobian written out, against the engine.

    s_t = tanh(U x_t + W s_{t-1}),  yhat_t = softmax(V s_t),  E_t = -sum_i y_t,i log yhat_t,i

    dE_t/dV = (yhat_t - y_t) (x) s_t
    dE_t/dW = sum_{k=0}^{t} dE_t/dyhat_t  dyhat_t/ds_t  (prod_{j=k+1}^{t} ds_j/ds_{j-1})  ds_k/dW
    dE_t/dU = the same with ds_k/dU

where ds_k/dW and ds_k/dU are taken with s_{k-1} held fixed. Matrices stand on the left of columns here, and on the
right of rows in the toolkit, so they are transposed in between.
"""

from typing import Any, NamedTuple

import numpy as np
import pytest

from minigrad import cross_entropy, value_and_grad
from rnn_cells.rnn import RNN

INPUTS, HIDDEN, STEPS = 4, 3, 5
TOLERANCE = 1e-12

Array = np.ndarray[Any, Any]


class Lecture(NamedTuple):
    """One sequence through the lecture's network: its matrices, x_t, y_t, and what follows from them."""

    U: Array
    W: Array
    V: Array
    x: Array  # (T, I), one-hot
    y: Array  # (T, I), one-hot
    s: Array  # (T + 1, H); s[-1] is the state before the first step
    yhat: Array  # (T, I)

    def after(self, t: int) -> Array:
        """dE_t/ds_t: the loss by the prediction, the prediction by V s_t (softmax's Jacobian), and that by s_t."""
        by_prediction = -self.y[t] / self.yhat[t]
        softmax_jacobian = np.diag(self.yhat[t]) - np.outer(self.yhat[t], self.yhat[t])
        return by_prediction @ softmax_jacobian @ self.V

    def between(self, k: int, t: int) -> Array:
        """ds_t/ds_k, the product of the Jacobians ds_j/ds_{j-1} = diag(1 - s_j^2) W."""
        product = np.eye(HIDDEN)
        for j in range(k + 1, t + 1):
            product = np.diag(1 - self.s[j] ** 2) @ self.W @ product
        return product

    def by_W(self, k: int) -> Array:
        """ds_k/dW with s_{k-1} held fixed, [a, i, j] = ds_k,a / dW_ij."""
        return np.einsum("ai,j->aij", np.diag(1 - self.s[k] ** 2), self.s[k - 1])

    def by_U(self, k: int) -> Array:
        """ds_k/dU, [a, i, j] = ds_k,a / dU_ij."""
        return np.einsum("ai,j->aij", np.diag(1 - self.s[k] ** 2), self.x[k])

    def dE_dV(self, t: int) -> Array:
        return np.outer(self.yhat[t] - self.y[t], self.s[t])

    def contributions_to_W(self, t: int) -> list[Array]:
        return [np.einsum("a,aij->ij", self.after(t) @ self.between(k, t), self.by_W(k)) for k in range(t + 1)]

    def contributions_to_U(self, t: int) -> list[Array]:
        return [np.einsum("a,aij->ij", self.after(t) @ self.between(k, t), self.by_U(k)) for k in range(t + 1)]


@pytest.fixture(params=range(3))
def lecture(request) -> Lecture:
    rng = np.random.default_rng(request.param)
    U, W, V = (rng.normal(size=shape) for shape in ((HIDDEN, INPUTS), (HIDDEN, HIDDEN), (INPUTS, HIDDEN)))
    x, y = (np.eye(INPUTS)[rng.integers(0, INPUTS, STEPS)] for _ in range(2))
    s = np.zeros((STEPS + 1, HIDDEN))
    s[-1] = rng.normal(size=HIDDEN)
    yhat = np.zeros((STEPS, INPUTS))
    for t in range(STEPS):
        s[t] = np.tanh(U @ x[t] + W @ s[t - 1])
        yhat[t] = np.exp(V @ s[t]) / np.exp(V @ s[t]).sum()
    return Lecture(U, W, V, x, y, s, yhat)


CELL = RNN(INPUTS, HIDDEN)


def parameters(lecture: Lecture) -> dict[str, Array]:
    return {"U": lecture.U.T, "W": lecture.W.T, "b": np.zeros(HIDDEN)}


def loss(params: Any, lecture: Lecture, t: int) -> Any:
    """E_t by the toolkit: its cell, its time loop, its cross-entropy."""
    _, states = CELL.unroll(params["cell"], params["s"], lecture.x[:, None])
    return cross_entropy(states[t] @ params["V"], lecture.y[t : t + 1].argmax(-1))


def gradient(lecture: Lecture, t: int) -> tuple[Any, Any]:
    params = {"cell": parameters(lecture), "V": lecture.V.T, "s": lecture.s[-1:]}
    return value_and_grad(loss)(params, lecture, t)


def close(actual: Array, expected: Array) -> None:
    np.testing.assert_allclose(actual, expected, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("t", range(STEPS))
def test_the_loss_of_a_step(lecture, t):
    value, _ = gradient(lecture, t)
    close(value, -np.sum(lecture.y[t] * np.log(lecture.yhat[t])))


@pytest.mark.parametrize("t", range(STEPS))
def test_by_V_it_is_an_outer_product(lecture, t):
    _, found = gradient(lecture, t)
    close(found["V"].T, lecture.dE_dV(t))


@pytest.mark.parametrize("t", range(STEPS))
def test_by_W_it_is_a_sum_of_products_of_jacobians(lecture, t):
    _, found = gradient(lecture, t)
    close(found["cell"]["W"].T, sum(lecture.contributions_to_W(t)))


@pytest.mark.parametrize("t", range(STEPS))
def test_by_U_it_is_a_sum_of_products_of_jacobians(lecture, t):
    _, found = gradient(lecture, t)
    close(found["cell"]["U"].T, sum(lecture.contributions_to_U(t)))


@pytest.mark.parametrize("t", range(STEPS))
def test_by_the_first_state_it_is_the_longest_product(lecture, t):
    _, found = gradient(lecture, t)
    close(found["s"][0], lecture.after(t) @ lecture.between(-1, t))


def test_over_the_whole_sequence_it_is_the_sum_over_steps(lecture):
    params = {"cell": parameters(lecture), "V": lecture.V.T, "s": lecture.s[-1:]}

    def total(params: Any) -> Any:
        _, states = CELL.unroll(params["cell"], params["s"], lecture.x[:, None])
        return STEPS * cross_entropy(states @ params["V"], lecture.y[:, None].argmax(-1))

    _, found = value_and_grad(total)(params)
    close(found["V"].T, sum(lecture.dE_dV(t) for t in range(STEPS)))
    close(found["cell"]["W"].T, sum(sum(lecture.contributions_to_W(t)) for t in range(STEPS)))
    close(found["cell"]["U"].T, sum(sum(lecture.contributions_to_U(t)) for t in range(STEPS)))


def test_each_contribution_on_its_own(lecture):
    # With a copy of the matrices for each step, the gradient by the copy of step k is what step k contributes.
    t = STEPS - 1

    def unshared(copies: Any) -> Any:
        s = lecture.s[-1:]
        for k, params in enumerate(copies):
            s, _ = CELL(params, s, lecture.x[k : k + 1])
        return cross_entropy(s @ lecture.V.T, lecture.y[t:].argmax(-1))

    _, found = value_and_grad(unshared)([parameters(lecture)] * STEPS)
    for k in range(STEPS):
        close(found[k]["W"].T, lecture.contributions_to_W(t)[k])
        close(found[k]["U"].T, lecture.contributions_to_U(t)[k])
