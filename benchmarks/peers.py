"""The same language model in other libraries, which are imported on first use, from the same parameters.

PyTorch has its own recurrent layers. For JAX, HIPS autograd and MyGrad the cells are written by hand, as a practised
user would: gates side by side in one matrix, and the inputs' product taken for all steps at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Any

import numpy as np
from common import CLIP_NORM, LEARNING_RATE, VOCABULARY, Problem

from minigrad import one_hot, trees
from minigrad.optimizers import adam, clip_by_global_norm

GATES = {
    "lstm": ("input", "forget", "candidate", "output"),
    "lstm-peephole": ("input", "forget", "candidate", "output"),
    "lstm-coupled": ("forget", "candidate", "output"),
    "gru": ("reset", "update", "candidate"),
    "mgu": ("forget", "candidate"),
}
TORCH_LAYERS = {"lstm": "LSTM", "gru": "GRU", "rnn": "RNN", "irnn": "RNN"}


def packed(problem: Problem, params: Any) -> Any:
    """Our parameters, or their gradients, with a layer's G gates side by side.

    A layer has ``input`` (I, G H), ``recurrent`` (H, G H), ``bias`` (G H,), and what its cell has beside these.
    """
    layers = [params["cell"]] if problem.layers == 1 else [params["cell"][str(i)] for i in range(problem.layers)]
    return {
        "embedding": params["embedding"],
        "head": params["head"],
        "layers": [packed_layer(problem.cell, problem.hidden, layer) for layer in layers],
    }


def packed_layer(cell: str, hidden: int, params: Any) -> Any:
    """The parameters of one layer with its gates side by side; see ``packed``."""
    if cell in ("rnn", "irnn"):
        return {"input": params["U"], "recurrent": params["W"], "bias": params["b"]}
    gates = [params[name] for name in GATES[cell]]
    layer = {}
    if cell == "gru":  # its candidate keeps the state's part and the input's part apart
        of_state, of_input = gates[2]["hidden"], gates[2]["input"]
        gates[2] = {"W": np.concatenate([of_state["W"], of_input["W"]]), "b": of_input["b"]}
        layer["hidden_bias"] = of_state["b"]
    if cell == "lstm-peephole":
        layer["peepholes"] = np.stack([params[name]["p"] for name in ("input", "forget", "output")])
    matrix = np.concatenate([gate["W"] for gate in gates], axis=1)
    bias = np.concatenate([gate["b"] for gate in gates])
    return layer | {"recurrent": matrix[:hidden], "input": matrix[hidden:], "bias": bias}


# PyTorch


def torch_layer(problem: Problem, params: Any) -> Any:
    """``nn.LSTM``, ``nn.GRU`` or ``nn.RNN`` with our parameters."""
    import torch

    options = {"nonlinearity": "relu"} if problem.cell == "irnn" else {}
    cls = getattr(torch.nn, TORCH_LAYERS[problem.cell])
    layer = cls(problem.embedding, problem.hidden, problem.layers, **options)
    layer.load_state_dict({name: torch.tensor(value) for name, value in torch_state(problem, params).items()})
    one_bias(layer, problem.cell, problem.hidden)
    return layer


def one_bias(layer: Any, cell: str, hidden: int) -> None:
    """Let a layer learn one bias per gate, as we have: the second stays where it is, but GRU's candidate's."""
    import torch

    for name, parameter in layer.named_parameters():
        if name.startswith("bias_hh"):
            learns = torch.zeros_like(parameter)
            learns[2 * hidden :] = cell == "gru"
            parameter.register_hook(partial(torch.mul, learns))


def torch_state(problem: Problem, params: Any) -> dict[str, Any]:
    """Our parameters, or their gradients, under the names and in the order of PyTorch's layer."""
    state = {}
    for i, layer in enumerate(packed(problem, params)["layers"]):
        h = problem.hidden
        sign = np.ones_like(layer["bias"])
        second = np.zeros_like(layer["bias"])
        if problem.cell == "gru":
            sign[h : 2 * h] = -1  # our z is the share of the new, PyTorch's that of the old
            second[2 * h :] = layer["hidden_bias"]
        state[f"weight_ih_l{i}"] = (layer["input"] * sign).T
        state[f"weight_hh_l{i}"] = (layer["recurrent"] * sign).T
        state[f"bias_ih_l{i}"] = layer["bias"] * sign
        state[f"bias_hh_l{i}"] = second
    return state


def torch_model(recurrent: Any, params: Any) -> Any:
    """Embedding, ``recurrent(xs, carry) -> (ys, carry)`` and head as one module with our parameters."""
    import torch

    class LanguageModel(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = torch.nn.Embedding.from_pretrained(torch.tensor(params["embedding"]), freeze=False)
            self.recurrent = recurrent
            self.head = torch.nn.Linear(len(params["head"]["W"]), VOCABULARY)
            self.head.load_state_dict(
                {"weight": torch.tensor(params["head"]["W"].T), "bias": torch.tensor(params["head"]["b"])}
            )

        def forward(self, tokens: Any, targets: Any, carry: Any) -> tuple[Any, Any]:
            ys, carry = self.recurrent(self.embedding(tokens), carry)
            return torch.nn.functional.cross_entropy(self.head(ys).flatten(0, 1), targets.flatten()), carry

    return LanguageModel()


def torch_step(problem: Problem, layer: Callable[..., Any] = torch_layer, *arguments: Any) -> Callable[[], float]:
    """One training step a call, giving its loss; ``layer(problem, params, *arguments)`` is the recurrent part."""
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    ours, params = problem.ours(), problem.params()
    model = torch_model(layer(problem, params, *arguments), params)
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE, fused=True)
    batches = map(ours.batch, count())
    carry = None

    def step() -> float:
        nonlocal carry
        inputs, targets = map(torch.from_numpy, next(batches)[:2])
        optimizer.zero_grad()
        loss, carry = model(inputs, targets, carry)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        optimizer.step()
        carry = tuple(c.detach() for c in carry) if isinstance(carry, tuple) else carry.detach()
        return float(loss.item())

    return step


# By hand, for JAX, HIPS autograd and MyGrad alike

HALF, ONE = np.float32(0.5), np.float32(1)  # a Python number would make MyGrad's arrays float64


def _sigmoid(xp: Any, a: Any) -> Any:
    return HALF * xp.tanh(HALF * a) + HALF


def _cell(xp: Any, cell: str, params: Any, carry: Any, x: Any) -> tuple[Any, Any]:
    """One step; x (B, G H) is the input's product with its bias."""
    if cell == "rnn":
        h = xp.tanh(x + carry @ params["recurrent"])
        return h, h
    if cell == "irnn":
        h = xp.maximum(x + carry @ params["recurrent"], np.float32(0))
        return h, h
    if cell == "lstm":
        h, c = carry
        n = h.shape[1]
        a = x + h @ params["recurrent"]
        i, f, o = (_sigmoid(xp, a[:, k * n : (k + 1) * n]) for k in (0, 1, 3))
        c = f * c + i * xp.tanh(a[:, 2 * n : 3 * n])
        h = o * xp.tanh(c)
        return (h, c), h
    if cell == "gru":
        h, n = carry, carry.shape[1]
        a = h @ params["recurrent"]
        r = _sigmoid(xp, x[:, :n] + a[:, :n])
        z = _sigmoid(xp, x[:, n : 2 * n] + a[:, n : 2 * n])
        new = xp.tanh(x[:, 2 * n :] + r * (a[:, 2 * n :] + params["hidden_bias"]))
        h = (ONE - z) * h + z * new
        return h, h
    raise LookupError(f"{cell} is not written by hand")


def _loop(xp: Any, cell: str, params: Any, carry: Any, xs: Any) -> tuple[Any, Any]:
    ys = []
    for t in range(xs.shape[0]):
        carry, y = _cell(xp, cell, params, carry, xs[t])
        ys.append(y)
    return carry, xp.stack(ys)


def _loss(xp: Any, loop: Callable[..., Any], params: Any, carries: Any, inputs: Any, targets: Any) -> tuple[Any, Any]:
    """Mean cross-entropy; inputs and targets are one-hot, (T, B, V), whose products beat these libraries' look-ups."""
    xs = xp.matmul(inputs, params["embedding"])  # (T, B, E)
    new = []
    for layer, carry in zip(params["layers"], carries, strict=True):
        last, xs = loop(layer, carry, xp.matmul(xs, layer["input"]) + layer["bias"])
        new.append(last)
    logits = xp.matmul(xs, params["head"]["W"]) + params["head"]["b"]
    normaliser = xp.log(xp.sum(xp.exp(logits), -1))  # no maximum taken out: these logits are small
    chosen = xp.sum(logits * targets, -1)
    return xp.mean(normaliser - chosen), new


def _by_hand(problem: Problem) -> tuple[Any, Any, Any]:
    """Parameters, carries and batches for ``_loss``."""
    ours = problem.ours()
    params = packed(problem, problem.params())
    carries = ours.init_carry() if problem.layers > 1 else [ours.init_carry()]
    batches = ([one_hot(tokens, VOCABULARY) for tokens in ours.batch(i)[:2]] for i in count())
    return params, list(carries), batches


def jax_step(problem: Problem) -> Callable[[], float]:
    """``lax.scan``, gradient, clipping and Adam in one jitted function that takes its state's memory over."""
    import jax
    import jax.numpy as jnp

    params, carries, batches = _by_hand(problem)

    def loop(layer: Any, carry: Any, xs: Any) -> Any:
        return jax.lax.scan(partial(_cell, jnp, problem.cell, layer), carry, xs)

    @partial(jax.jit, donate_argnums=(0, 1, 2, 3))
    def update(params: Any, m: Any, v: Any, carries: Any, t: Any, inputs: Any, targets: Any) -> Any:
        gradient = jax.value_and_grad(partial(_loss, jnp, loop), has_aux=True)
        (loss, carries), g = gradient(params, carries, inputs, targets)
        norm = jnp.sqrt(sum(jnp.vdot(leaf, leaf) for leaf in jax.tree.leaves(g)))
        factor = jnp.minimum(1, CLIP_NORM / norm)
        g = jax.tree.map(lambda g: g * factor, g)
        m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, g)
        v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, g)
        rate, root = LEARNING_RATE / (1 - 0.9**t), jnp.sqrt(1 - 0.999**t)
        params = jax.tree.map(lambda p, m, v: p - rate * m / (jnp.sqrt(v) / root + 1e-8), params, m, v)
        return params, m, v, carries, loss

    params, carries = jax.tree.map(jnp.array, (params, carries))
    m, v = (jax.tree.map(jnp.zeros_like, params) for _ in range(2))
    numbers = count(1)

    def step() -> float:
        nonlocal params, m, v, carries
        t = np.float32(next(numbers))
        params, m, v, carries, loss = update(params, m, v, carries, t, *next(batches))
        return float(loss)

    return step


def autograd_step(problem: Problem) -> Callable[[], float]:
    """HIPS autograd; the update is ours, since it brings none."""
    import autograd.numpy as anp
    from autograd import value_and_grad
    from autograd.tracer import getval

    params, carries, batches = _by_hand(problem)
    optimizer = adam()
    state = optimizer.init(params)

    def loss(params: Any, inputs: Any, targets: Any) -> Any:
        nonlocal carries
        value, new = _loss(anp, partial(_loop, anp, problem.cell), params, carries, inputs, targets)
        carries = trees.map(getval, new)
        return value

    def step() -> float:
        nonlocal params, state
        value, gradient = value_and_grad(loss)(params, *next(batches))
        gradient, _ = clip_by_global_norm(gradient, CLIP_NORM)
        params, state = optimizer.update(gradient, state, params, LEARNING_RATE)
        return float(value)

    return step


def mygrad_step(problem: Problem) -> Callable[[], float]:
    """MyGrad; the update is ours, since it brings none."""
    import mygrad

    params, carries, batches = _by_hand(problem)
    optimizer = adam()
    state = optimizer.init(params)

    def step() -> float:
        nonlocal params, state, carries
        tensors = trees.map(mygrad.tensor, params)
        loss, new = _loss(mygrad, partial(_loop, mygrad, problem.cell), tensors, carries, *next(batches))
        loss.backward()
        carries = trees.map(lambda tensor: tensor.data, new)
        gradient, _ = clip_by_global_norm(trees.map(lambda tensor: tensor.grad, tensors), CLIP_NORM)
        params, state = optimizer.update(gradient, state, params, LEARNING_RATE)
        return float(loss)

    return step
