"""The networks of ``sequences.py`` in PyTorch, with the same parameters, as a practised user writes them.

Layers of PyTorch over packed sequences where there are such; the loop of a decoder with attention is eager, with what
does not depend on its state computed before it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import peers
import torch
from common import Problem
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


def linear(p: Any) -> nn.Linear:
    """``nn.Linear`` with our parameters."""
    layer = nn.Linear(*p["W"].shape)
    layer.load_state_dict({"weight": torch.tensor(p["W"].T), "bias": torch.tensor(p["b"])})
    return layer


def recurrent(case: Any, params: Any) -> nn.Module:
    """``nn.LSTM`` or ``nn.GRU`` in one direction or two with our parameters."""
    both = case.directions == 2
    layer = getattr(nn, peers.TORCH_LAYERS[case.cell])(case.embedding, case.hidden, bidirectional=both)
    problem = Problem(case.cell, case.hidden, case.batch, 1, embedding=case.embedding)
    parts = {"": params["forward"], "_reverse": params["backward"]} if both else {"": params}
    state = {}
    for end, part in parts.items():
        ours = peers.torch_state(problem, {"cell": part, "embedding": None, "head": None})
        state |= {name + end: torch.tensor(value) for name, value in ours.items()}
    layer.load_state_dict(state)
    peers.one_bias(layer, case.cell, case.hidden)
    return layer


class Classifier(nn.Module):
    """Embedding, recurrent layer, the last outputs, linear head."""

    def __init__(self, case: Any, params: Any) -> None:
        super().__init__()
        self.embedding = nn.Embedding.from_pretrained(torch.tensor(params["embedding"]), freeze=False)
        self.recurrent = recurrent(case, params["cell"])
        self.head = linear(params["head"])

    def forward(self, texts: list[torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
        lengths = torch.tensor([len(text) for text in texts])
        xs = self.embedding(pad_sequence(texts))
        _, last = self.recurrent(pack_padded_sequence(xs, lengths, enforce_sorted=False))
        h = last[0] if isinstance(last, tuple) else last  # (directions, B, H)
        return F.cross_entropy(self.head(torch.cat(h.unbind(), 1)), labels)


class Translator(nn.Module):
    """Encoder, decoder with Luong's attention, linear head over the symbols."""

    def __init__(self, case: Any, params: Any) -> None:
        super().__init__()
        p = params["decoder"]
        self.case = case
        self.source = nn.Embedding.from_pretrained(torch.tensor(params["source"]), freeze=False)
        self.encoder = recurrent(case, params["encoder"])
        self.embedding = nn.Embedding.from_pretrained(torch.tensor(p["embedding"]), freeze=False)
        self.bridge = nn.ModuleList(linear(bridge) for _, bridge in sorted(p["bridge"].items()))
        packed = peers.packed_layer(case.cell, case.hidden, p["cell"])
        self.of_state = nn.Parameter(torch.tensor(packed["recurrent"]))  # (H, G H)
        self.of_input = nn.Parameter(torch.tensor(packed["input"][: case.embedding]))
        self.of_read = nn.Parameter(torch.tensor(packed["input"][case.embedding :]))
        self.bias = nn.Parameter(torch.tensor(packed["bias"]))
        if case.cell == "gru":
            self.hidden_bias = nn.Parameter(torch.tensor(packed["hidden_bias"]))
        self.query = nn.Parameter(torch.tensor(p["attention"]["query"]))
        self.output = linear(p["output"])
        self.head = linear(p["head"])

    def forward(self, sources: list[torch.Tensor], targets: list[torch.Tensor]) -> torch.Tensor:
        lengths = torch.tensor([len(source) for source in sources])
        packed = pack_padded_sequence(self.source(pad_sequence(sources)), lengths, enforce_sorted=False)
        outputs, last = self.encoder(packed)
        h = last[0] if isinstance(last, tuple) else last
        memory = pad_packed_sequence(outputs, batch_first=True)[0]  # (B, S, M)
        padding = torch.arange(memory.shape[1]) >= lengths[:, None]
        summary = torch.cat(h.unbind(), 1)
        carry = [torch.tanh(bridge(summary)) for bridge in self.bridge]
        wanted = pad_sequence(targets, padding_value=-1)  # (T, B)
        read = torch.cat([torch.full_like(wanted[:1], END), wanted[:-1].clamp(min=0)])
        ys = self.decode(carry, self.embedding(read), memory, padding)
        return F.cross_entropy(self.head(ys).flatten(0, 1), wanted.flatten(), ignore_index=-1)

    def decode(self, carry: Any, xs: torch.Tensor, memory: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
        """What the head reads, (T, B, H); the carry is the cell's and what the head read last."""
        keys = (memory @ self.query.T).transpose(1, 2)  # (B, H, S)
        *carry, o = carry
        ys = []
        step = self.lstm if self.case.cell == "lstm" else self.gru
        for x in (xs @ self.of_input + self.bias).unbind():
            carry = step(carry, torch.addmm(x, o, self.of_read))
            scores = torch.bmm(carry[0][:, None], keys).squeeze(1).masked_fill(padding, -1e9)
            weights = torch.softmax(scores, -1)
            read = torch.bmm(weights[:, None], memory).squeeze(1)
            o = torch.tanh(self.output(torch.cat([carry[0], read], 1)))
            ys.append(o)
        return torch.stack(ys)

    def lstm(self, carry: Any, x: torch.Tensor) -> Any:
        h, c = carry
        i, f, new, o = torch.addmm(x, h, self.of_state).chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(new)
        return torch.sigmoid(o) * torch.tanh(c), c

    def gru(self, carry: Any, x: torch.Tensor) -> Any:
        (h,) = carry
        n = h.shape[1]
        a = h @ self.of_state
        r, z = torch.sigmoid(x[:, : 2 * n] + a[:, : 2 * n]).chunk(2, 1)
        new = torch.tanh(x[:, 2 * n :] + r * (a[:, 2 * n :] + self.hidden_bias))
        return (torch.lerp(h, new, z),)


END = 1
MODELS = {"classify": Classifier, "translate": Translator}


def training_step(case: Any, params: Any, rate: float, clip_norm: float) -> Callable[..., float]:
    """One step a call, on the examples of a batch, giving its loss."""
    model = MODELS[case.task](case, params)
    optimizer = torch.optim.Adam(model.parameters(), rate, fused=True)

    def step(*examples: Any) -> float:
        optimizer.zero_grad()
        loss = model(*examples)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
        optimizer.step()
        return float(loss.item())

    return step


def examples(task: str, batch: Any) -> tuple[Any, Any]:
    """The examples of one of our batches: ids without padding, and the labels, or the ids of the targets."""

    def parts(padded: np.ndarray, lengths: np.ndarray) -> list[torch.Tensor]:
        return [torch.from_numpy(np.ascontiguousarray(padded[:n, i])) for i, n in enumerate(lengths)]

    if task == "classify":
        return parts(*batch.inputs), torch.from_numpy(batch.targets[0])
    ids, lengths, many, _ = batch.inputs
    return parts(ids, lengths), parts(batch.targets, many)
