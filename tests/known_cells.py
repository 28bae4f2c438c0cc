"""Cells whose gradients, spectra or memories are known in closed form."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from minigrad import affine, concat, exp, maximum, sigmoid, tanh
from minigrad.trees import Tree
from rnn_cells import Cell
from rnn_lab.problem import Problem
from rnn_lab.settings import Settings
from rnn_lab.subject import of_problem
from rnn_lab.trainer import LEARNING_RATE
from rnn_plugins import registry
from rnn_plugins.data.vocabulary import Vocabulary
from rnn_plugins.language.model import Model
from rnn_plugins.reports.subject import Subject
from rnn_plugins.tasks.task import Data


@dataclass(frozen=True)
class Linear(Cell):
    """h_t = h_{t-1} A + x_t U, with A = eigenvalue I at the start."""

    eigenvalue: float = 0.5

    def init_params(self, rng):
        A = (self.eigenvalue * np.eye(self.hidden_size)).astype(np.float32)
        return {"A": A, "U": rng.normal(0, 1, (self.input_size, self.hidden_size)).astype(np.float32)}

    def __call__(self, params, h, x):
        h = h @ params["A"] + x @ params["U"]
        return h, h


@dataclass(frozen=True)
class Gated(Linear):
    """h_t = (h_{t-1} A + x_t U) * sigmoid(x_t U), a linear network with a gate."""

    def __call__(self, params, h, x):
        written = x @ params["U"]
        h = (h @ params["A"] + written) * sigmoid(written)
        return h, h


@dataclass(frozen=True)
class Copy(Cell):
    """h_t = h_{t-1}: what is carried is carried for ever."""

    def init_params(self, rng):
        return {}

    def init_carry(self, batch_size):
        return np.ones((batch_size, self.hidden_size), np.float32)

    def __call__(self, params, h, x):
        return h, h


@dataclass(frozen=True)
class Forgetful(Cell):
    """h_t = tanh(x_t U): nothing is carried on."""

    def init_params(self, rng):
        return {"U": rng.normal(0, 1, (self.input_size, self.hidden_size)).astype(np.float32)}

    def __call__(self, params, h, x):
        h = tanh(x @ params["U"])
        return h, h


@dataclass(frozen=True)
class Unread(Forgetful):
    """y_t = tanh(x_t U) beside a state h_t = tanh(h_{t-1} + y_t) that no output reads."""

    def __call__(self, params, h, x):
        y = tanh(x @ params["U"])
        return tanh(h + y), y


@dataclass(frozen=True)
class Shift(Cell):
    """A register of ``length`` places: what was read comes out ``length - 1`` steps later, and is gone after that."""

    length: int = 3

    def init_params(self, rng):
        return {"U": rng.normal(0, 1, (self.input_size, self.hidden_size)).astype(np.float32)}

    def init_carry(self, batch_size):
        return np.zeros((batch_size, self.length * self.hidden_size), np.float32)

    def __call__(self, params, register, x):
        from minigrad import concat

        register = concat(x @ params["U"], register[:, : -self.hidden_size])
        return register, register[:, -self.hidden_size :]


@dataclass(frozen=True)
class Odd(Cell):
    """A carry of names, axes and types of its own: two rows of units, a trace of them, and a clock that counts."""

    def init_params(self, rng):
        rows = rng.normal(0, 0.4, (self.hidden_size, self.hidden_size)).astype(np.float32)
        return {"pair": {"W": rows}, "U": rng.normal(0, 1, (self.input_size, self.hidden_size)).astype(np.float32)}

    def init_carry(self, batch_size):
        return {
            "clock": np.zeros(batch_size, np.int64),
            "rows": np.zeros((batch_size, 2, self.hidden_size), np.float32),
            "trace": np.zeros((batch_size, self.hidden_size), np.float32),
        }

    def __call__(self, params, carry, x):
        rows = tanh(carry["rows"] @ params["pair"]["W"] + (x @ params["U"])[:, None, :])
        trace = 0.5 * carry["trace"] + rows[:, 0]
        return {"trace": trace, "rows": rows, "clock": carry["clock"] + 1}, trace * sigmoid(rows[:, 1])


@dataclass(frozen=True)
class Delayed(Cell):
    """A basic network whose output is the state before the step."""

    def init_params(self, rng):
        return {"W": self.dense(rng, self.hidden_size)["W"], "U": self.dense(rng, self.input_size)["W"]}

    def __call__(self, params, h, x):
        return tanh(h @ params["W"] + x @ params["U"]), h * 1.0


@dataclass(frozen=True)
class Stateless(Cell):
    """A layer that carries nothing."""

    def init_params(self, rng):
        return {"U": self.dense(rng, self.input_size)["W"]}

    def init_carry(self, batch_size):
        return ()

    def __call__(self, params, carry, x):
        return (), tanh(x @ params["U"])


@dataclass(frozen=True)
class Deciding(Cell):
    """A basic network that looks at its numbers, so that no graph can hold its step."""

    def init_params(self, rng):
        return {"W": self.dense(rng, self.hidden_size)["W"], "U": self.dense(rng, self.input_size)["W"]}

    def __call__(self, params, h, x):
        if float(np.max(np.asarray(getattr(h, "value", h)))) > 100:
            raise ArithmeticError("too large")
        h = tanh(h @ params["W"] + x @ params["U"])
        return h, h


def subject_of(
    cell: Cell,
    symbols: int = 7,
    length: int = 400,
    dtype: str = "float64",
    name: str = "gru",
    settings: Settings | None = None,
) -> Subject:
    """A model of the cell with fresh weights, on a random text of ``length`` symbols."""
    model = Model(cell, symbols, dtype=dtype)
    rng = np.random.default_rng(3)
    tokens = rng.integers(0, symbols, length)
    vocabulary = Vocabulary.build(["abcdefghijklmnopqrstuvwxyz"[:symbols]])
    params, training = model.init_params(rng), rng.integers(0, symbols, length)
    return _of_text(type(cell).__name__, name, settings or Settings(), model, params, tokens, training, vocabulary)


def on(subject: Subject, **changed: Any) -> Subject:
    """The same subject with another ``model``, ``params``, ``tokens``, ``training`` or ``vocabulary``."""
    language = subject.language
    assert language is not None
    now = {
        "model": language.model,
        "params": subject.params,
        "tokens": subject.examples,
        "training": subject.learnt,
        "vocabulary": language.vocabulary,
    }
    return _of_text(subject.label, subject.cell, Settings(), **now | changed)


def _of_text(
    label: str,
    name: str,
    settings: Settings,
    model: Model,
    params: Tree,
    tokens: Any,
    training: Any,
    vocabulary: Vocabulary,
) -> Subject:
    task, facts = registry.make_task("language-model", settings.task_option), {"vocabulary": vocabulary.to_json()}
    problem = Problem(task, model, Data(training, tokens, facts), settings.batch_size)
    return of_problem(label, name, problem, params, settings, settings.learning_rate or LEARNING_RATE)


@dataclass(frozen=True)
class Stabilised(Cell):
    """The sLSTM of Beck et al. (2024, arXiv:2405.04517): its output does not depend on the stabiliser m it is given.

    m_t = max(f + m_{t-1}, i)
    c_t = exp(f + m_{t-1} - m_t) c_{t-1} + exp(i - m_t) z
    n_t = exp(f + m_{t-1} - m_t) n_{t-1} + exp(i - m_t)
    h_t = o * c_t / n_t
    """

    def init_params(self, rng):
        return {"z": self.dense(rng), "i": self.dense(rng), "f": self.dense(rng, bias=3.0), "o": self.dense(rng)}

    def init_carry(self, batch_size):
        return tuple(np.zeros((batch_size, self.hidden_size), np.float32) for _ in range(4))

    def __call__(self, params, carry, x):
        h, c, n, m = carry
        z, i, f, o = (affine(params[name], concat(h, x)) for name in "zifo")
        before, m = f + m, maximum(f + m, i)
        c = exp(before - m) * c + exp(i - m) * tanh(z)
        n = exp(before - m) * n + exp(i - m)
        h = sigmoid(o) * (c / n)
        return (h, c, n, m), h
