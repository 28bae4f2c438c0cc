"""Long short-term memory: with forget gate, with peepholes, and with coupled gates."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np

from minigrad import affine, concat, layer_norm, sigmoid, tanh
from minigrad.initializers import uniform, zeros
from minigrad.trees import Tree
from rnn_cells.cell import Cell


@dataclass(frozen=True)
class _MemoryCell(Cell):
    """The base of the three: the carry is (h, c); the forget gate's bias starts at ``forget_bias``.

    ``chrono`` is a number T of steps to remember. If it is not 0, the biases of the forget gate start at log u instead,
    u uniform in [1, T - 1], so that the units forget at different speeds, up to one that takes T steps; those of an
    input gate start at -log u, so that little is written as long as little is forgotten (Tallec and Ollivier 2018,
    arXiv:1804.11188, "chrono initialisation").
    """

    forget_bias: float = 1.0
    chrono: int = field(default=0, kw_only=True)

    suggested_learning_rate: ClassVar[float | None] = 1e-2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.chrono != 0 and self.chrono < 3:
            raise ValueError(f"{type(self).__name__}: chrono is {self.chrono}; it must be 0, or at least 3 steps")

    def init_carry(self, batch_size: int) -> tuple[Any, Any]:
        """``(h, c)``, two arrays of zeros, (B, H)."""
        return super().init_carry(batch_size), super().init_carry(batch_size)

    def _first_biases(self, rng: np.random.Generator) -> tuple[Any, Any]:
        """The biases of forget and input gate at the start, numbers or (H,)."""
        if not self.chrono:
            return self.forget_bias, 0.0
        open_for = np.log(rng.uniform(1, self.chrono - 1, self.hidden_size))
        return open_for, -open_for


@dataclass(frozen=True)
class LSTM(_MemoryCell):
    """Long short-term memory (Hochreiter and Schmidhuber 1997) with a forget gate (Gers, Schmidhuber and Cummins 2000).

        f_t = sigmoid(W_f [h_{t-1}, x_t] + b_f)
        i_t = sigmoid(W_i [h_{t-1}, x_t] + b_i)
        o_t = sigmoid(W_o [h_{t-1}, x_t] + b_o)
        c~_t = tanh(W_c [h_{t-1}, x_t] + b_c)
        c_t = f_t * c_{t-1} + i_t * c~_t
        h_t = o_t * tanh(c_t)

    The forget gate's bias starts at ``forget_bias``, 1 after Jozefowicz, Zaremba and Sutskever (2015), so that the cell
    remembers from the first step. With ``chrono`` = T, for dependencies over up to T steps, it starts at log u, u
    uniform in [1, T - 1], and the input gate's at -log u (Tallec and Ollivier 2018, arXiv:1804.11188). ``second_bias``
    gives every gate a second bias, which is added to the first, as in cuDNN, PyTorch and char-rnn; it changes the
    number of parameters and how fast biases learn, and nothing else.

    ``layer_norm`` normalises what enters each gate and the candidate, and c_t before its tanh (Ba, Kiros and Hinton
    2016, arXiv:1607.06450; one normalisation per gate, as in TensorFlow's LayerNormBasicLSTMCell):

        f_t = sigmoid(g_f * normal(W_f [h_{t-1}, x_t]) + b_f)       likewise i_t, o_t and c~_t
        h_t = o_t * tanh(g_m * normal(c_t) + b_m)

    normal(z) is z minus its mean over the units, divided by their standard deviation. The gains g start at 1.
    """

    second_bias: bool = False
    layer_norm: bool = False

    def init_params(self, rng: np.random.Generator) -> Tree:
        """``forget``, ``input``, ``output``, ``candidate``: W (H + I, H) and b (H,) each, and b2 with a second bias.

        With ``layer_norm`` each has a ``gain`` (H,) too, and there is ``memory``, its own gain and b.
        """
        forget, write = self._first_biases(rng)
        params = {
            "forget": self.dense(rng, bias=forget),
            "input": self.dense(rng, bias=write),
            "output": self.dense(rng),
            "candidate": self.dense(rng),
        }
        if self.second_bias:
            for gate in params.values():
                gate["b2"] = zeros(rng, (self.hidden_size,))
        if self.layer_norm:
            params["memory"] = {"b": zeros(rng, (self.hidden_size,))}
            for part in params.values():
                part["gain"] = np.ones(self.hidden_size, np.float32)
        return params

    def _gate(self, params: Tree, hx: Any) -> Any:
        z = layer_norm(hx @ params["W"], params["gain"], params["b"]) if self.layer_norm else affine(params, hx)
        return z + params["b2"] if self.second_bias else z

    def __call__(self, params: Tree, carry: tuple[Any, Any], x: Any) -> tuple[tuple[Any, Any], Any]:
        """One step."""
        h, c = carry
        hx = concat(h, x)
        f = sigmoid(self._gate(params["forget"], hx))
        i = sigmoid(self._gate(params["input"], hx))
        o = sigmoid(self._gate(params["output"], hx))
        candidate = tanh(self._gate(params["candidate"], hx))
        c = f * c + i * candidate
        h = o * tanh(layer_norm(c, params["memory"]["gain"], params["memory"]["b"]) if self.layer_norm else c)
        return (h, c), h


@dataclass(frozen=True)
class PeepholeLSTM(_MemoryCell):
    """Long short-term memory whose gates see the cell state (Gers and Schmidhuber 2000).

        f_t = sigmoid(W_f [h_{t-1}, x_t] + p_f * c_{t-1} + b_f)
        i_t = sigmoid(W_i [h_{t-1}, x_t] + p_i * c_{t-1} + b_i)
        c~_t = tanh(W_c [h_{t-1}, x_t] + b_c)
        c_t = f_t * c_{t-1} + i_t * c~_t
        o_t = sigmoid(W_o [h_{t-1}, x_t] + p_o * c_t + b_o)
        h_t = o_t * tanh(c_t)

    ``peephole="diagonal"`` is the paper's: each unit's gates see that unit's own c, through a vector p.
    ``peephole="full"`` is the lecture's: the gates' matrices act on the concatenation [c, h, x]. The biases start as
    those of ``lstm``, by ``forget_bias`` or ``chrono``.
    """

    peephole: Literal["diagonal", "full"] = "diagonal"

    def init_params(self, rng: np.random.Generator) -> Tree:
        """``forget``, ``input``, ``output``: W, b, and p (H,) where diagonal; ``candidate``: W (H + I, H) and b."""
        inputs = self.hidden_size + self.input_size
        seen = inputs + self.hidden_size if self.peephole == "full" else inputs
        forget, write = self._first_biases(rng)
        params = {
            "forget": self.dense(rng, seen, bias=forget),
            "input": self.dense(rng, seen, bias=write),
            "output": self.dense(rng, seen),
            "candidate": self.dense(rng),
        }
        if self.peephole == "diagonal":
            for gate in ("forget", "input", "output"):
                params[gate]["p"] = uniform(rng, (self.hidden_size,), scale=self.hidden_size**-0.5)
        return params

    def _gate(self, params: Tree, c: Any, h: Any, x: Any) -> Any:
        if self.peephole == "full":
            return sigmoid(affine(params, concat(c, h, x)))
        return sigmoid(affine(params, concat(h, x)) + params["p"] * c)

    def __call__(self, params: Tree, carry: tuple[Any, Any], x: Any) -> tuple[tuple[Any, Any], Any]:
        """One step."""
        h, c = carry
        f = self._gate(params["forget"], c, h, x)
        i = self._gate(params["input"], c, h, x)
        candidate = tanh(affine(params["candidate"], concat(h, x)))
        c = f * c + i * candidate
        o = self._gate(params["output"], c, h, x)
        h = o * tanh(c)
        return (h, c), h


@dataclass(frozen=True)
class CoupledLSTM(_MemoryCell):
    """Long short-term memory that forgets exactly where it writes (coupled gates; Greff et al. 2017, arXiv:1503.04069).

        f_t = sigmoid(W_f [h_{t-1}, x_t] + b_f)
        o_t = sigmoid(W_o [h_{t-1}, x_t] + b_o)
        c~_t = tanh(W_c [h_{t-1}, x_t] + b_c)
        c_t = f_t * c_{t-1} + (1 - f_t) * c~_t
        h_t = o_t * tanh(c_t)

    There is no input gate: as much is written as is forgotten. The forget gate's bias starts at ``forget_bias``,
    or by ``chrono``, as that of ``lstm``.
    """

    def init_params(self, rng: np.random.Generator) -> Tree:
        """``forget``, ``output``, ``candidate``: W (H + I, H) and b (H,) each."""
        return {
            "forget": self.dense(rng, bias=self._first_biases(rng)[0]),
            "output": self.dense(rng),
            "candidate": self.dense(rng),
        }

    def __call__(self, params: Tree, carry: tuple[Any, Any], x: Any) -> tuple[tuple[Any, Any], Any]:
        """One step."""
        h, c = carry
        hx = concat(h, x)
        f = sigmoid(affine(params["forget"], hx))
        o = sigmoid(affine(params["output"], hx))
        candidate = tanh(affine(params["candidate"], hx))
        c = f * c + (1 - f) * candidate
        h = o * tanh(c)
        return (h, c), h
