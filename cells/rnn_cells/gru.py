"""The gated recurrent unit, in both its published forms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from minigrad import affine, concat, sigmoid, tanh
from minigrad.trees import Tree
from rnn_cells.cell import Cell


@dataclass(frozen=True)
class GRU(Cell):
    """The gated recurrent unit (Cho et al. 2014, arXiv:1406.1078).

        z_t = sigmoid(W_z [h_{t-1}, x_t] + b_z)
        r_t = sigmoid(W_r [h_{t-1}, x_t] + b_r)
        h~_t = tanh(W_h [r_t * h_{t-1}, x_t] + b_h)             reset = "before"
        h~_t = tanh(W_x x_t + b_x + r_t * (W_h h_{t-1} + b_h))  reset = "after"
        h_t = (1 - z_t) * h_{t-1} + z_t * h~_t

    ``reset="before"`` resets the state before the product, as the paper does; ``"after"`` resets the product, as cuDNN
    and PyTorch do. z_t is the weight of the new state: PyTorch's z is our 1 - z.
    """

    reset: Literal["before", "after"] = "before"

    suggested_learning_rate: ClassVar[float | None] = 4e-3

    def init_params(self, rng: np.random.Generator) -> Tree:
        """``update``, ``reset``: W (H + I, H) and b (H,); ``candidate`` likewise, or with ``input`` and ``hidden``."""
        params = {"update": self.dense(rng), "reset": self.dense(rng)}
        if self.reset == "before":
            return params | {"candidate": self.dense(rng)}
        parts = {"input": self.dense(rng, self.input_size), "hidden": self.dense(rng, self.hidden_size)}
        return params | {"candidate": parts}

    def __call__(self, params: Tree, h: Any, x: Any) -> tuple[Any, Any]:
        """One step."""
        hx = concat(h, x)
        z = sigmoid(affine(params["update"], hx))
        r = sigmoid(affine(params["reset"], hx))
        candidate = params["candidate"]
        if self.reset == "before":
            new = tanh(affine(candidate, concat(r * h, x)))
        else:
            new = tanh(affine(candidate["input"], x) + r * affine(candidate["hidden"], h))
        h = (1 - z) * h + z * new
        return h, h
