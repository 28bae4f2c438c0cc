"""The minimal gated unit, as a plugin for rnn-lab: only its equations, without gradient or time loop."""

from dataclasses import dataclass

from minigrad import affine, concat, sigmoid, tanh
from rnn_cells import Cell


@dataclass(frozen=True)
class MGU(Cell):
    """The minimal gated unit (Zhou et al. 2016, arXiv:1603.09420).

        f_t = sigmoid(W_f [h_{t-1}, x_t] + b_f)
        c_t = tanh(W_c [f_t * h_{t-1}, x_t] + b_c)
        h_t = (1 - f_t) * h_{t-1} + f_t * c_t

    One gate replaces the two of the GRU: f_t resets the state and is the share of the new state.
    """

    def init_params(self, rng):
        """``forget``, ``candidate``: W (H + I, H) and b (H,) each."""
        return {"forget": self.dense(rng), "candidate": self.dense(rng)}

    def __call__(self, params, h, x):
        """One step."""
        f = sigmoid(affine(params["forget"], concat(h, x)))
        c = tanh(affine(params["candidate"], concat(f * h, x)))
        h = (1 - f) * h + f * c
        return h, h
