"""The basic recurrent network of the lecture, and the same with rectified units and an identity start."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from minigrad import relu, tanh
from minigrad.initializers import glorot_uniform, identity, orthogonal, zeros
from minigrad.trees import Tree
from rnn_cells.cell import Cell


@dataclass(frozen=True)
class RNN(Cell):
    """The basic recurrent network (Elman 1990).

        s_t = tanh(U x_t + W s_{t-1} + b)

    The output is the state s_t. W starts orthogonal, scaled by ``recurrent_scale``.
    """

    recurrent_scale: float = 1.0

    suggested_learning_rate: ClassVar[float | None] = 2e-3

    def init_params(self, rng: np.random.Generator) -> Tree:
        """``U`` (I, H), ``W`` (H, H), ``b`` (H,)."""
        return {
            "U": glorot_uniform(rng, (self.input_size, self.hidden_size)),
            "W": orthogonal(rng, (self.hidden_size, self.hidden_size), gain=self.recurrent_scale),
            "b": zeros(rng, (self.hidden_size,)),
        }

    def __call__(self, params: Tree, s: Any, x: Any) -> tuple[Any, Any]:
        """One step."""
        s = tanh(x @ params["U"] + s @ params["W"] + params["b"])
        return s, s


@dataclass(frozen=True)
class IRNN(Cell):
    """The basic network with rectified units, its recurrent matrix started as the identity.

        s_t = relu(U x_t + W s_{t-1} + b),  W = recurrent_scale * I at the start

    After Le, Jaitly and Hinton (2015, arXiv:1504.00941); there, 0.01 * I served tasks with short dependencies. b starts
    at zero as in the paper, and U normal with standard deviation ``input_scale``. The paper has 0.001, for plain
    gradient descent from states of zero. Adam changes W by its learning rate whatever the gradient's size, and a whole
    column in one direction, since states are not negative; states carried along a text then explode, and so small a U
    is negligible beside them. Hence the larger U, and the warm-up.
    """

    recurrent_scale: float = 1.0
    input_scale: float = 1.0

    suggested_learning_rate: ClassVar[float | None] = 5e-3
    suggested_warmup: ClassVar[int] = 100

    def init_params(self, rng: np.random.Generator) -> Tree:
        """``U`` (I, H), ``W`` (H, H), ``b`` (H,)."""
        return {
            "U": rng.normal(0, self.input_scale, (self.input_size, self.hidden_size)).astype(np.float32),
            "W": identity(rng, (self.hidden_size, self.hidden_size), scale=self.recurrent_scale),
            "b": zeros(rng, (self.hidden_size,)),
        }

    def __call__(self, params: Tree, s: Any, x: Any) -> tuple[Any, Any]:
        """One step."""
        s = relu(x @ params["U"] + s @ params["W"] + params["b"])
        return s, s
