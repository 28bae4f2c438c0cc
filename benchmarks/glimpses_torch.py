"""The networks of ``glimpses.py`` in PyTorch, with the same parameters, as a practised user writes them.

An eager loop over the steps with ``LSTMCell`` or ``GRUCell``; image and error are read in one product for each axis, a
stroke is added by ``baddbmm``, a glimpse is taken by ``grid_sample``. What no later step needs is computed after the
loop, for all steps at once.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import peers
import torch
from common import Problem
from sequences_torch import linear
from torch import nn
from torch.nn import functional as F

from rnn_plugins.tasks.paint.model import LARGEST

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


def cell(case: Any, inputs: int, params: Any) -> nn.Module:
    """``nn.LSTMCell`` or ``nn.GRUCell`` with our parameters."""
    layer = {"lstm": nn.LSTMCell, "gru": nn.GRUCell}[case.cell](inputs, case.hidden)
    problem = Problem(case.cell, case.hidden, case.batch, 1, embedding=inputs)
    ours = peers.torch_state(problem, {"cell": params, "embedding": None, "head": None})
    layer.load_state_dict({name.removesuffix("_l0"): torch.tensor(value) for name, value in ours.items()})
    peers.one_bias(layer, case.cell, case.hidden)
    return layer


def moved(layer: nn.Module, x: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
    """The output of a cell after a step, and its state."""
    state = layer(x, state)
    return (state[0] if isinstance(state, tuple) else state), state


class Window(nn.Module):
    """DRAW's window: where it is, and its Gaussian filters."""

    def __init__(self, window: Any, params: Any) -> None:
        super().__init__()
        self.place = linear(params)
        self.points, self.spacing = window.points, window._spacing
        self.register_buffer("sides", torch.tensor([window.height, window.width]).float()[:, None, None])
        self.register_buffer("grid", torch.arange(max(window.height, window.width)).float())
        self.register_buffer("offsets", torch.arange(window.points).float() - (window.points - 1) / 2)

    def forward(self, g: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The filters of the rows and of the columns of square images, (B, N, side), and the intensity, (B, 1)."""
        a = self.place(g)
        centres = torch.stack([a[:, 1:2], a[:, 0:1]])  # (2, B, 1), row and column
        variance, spacing, intensity = a[:, 2:].clamp(-LARGEST, LARGEST).exp().chunk(3, 1)
        means = (centres + 1) * ((self.sides + 1) / 2) - 1 + spacing * self.spacing * self.offsets  # (2, B, N)
        weights = torch.exp(-((means[..., None] - self.grid) ** 2) / (2 * variance[:, :, None]))
        rows, columns = weights / weights.sum(-1, keepdim=True).clamp(min=1e-8)
        return rows, columns, intensity


class Painter(nn.Module):
    """DRAW with attention or without."""

    def __init__(self, case: Any, model: Any, params: Any) -> None:
        super().__init__()
        self.hidden, self.lstm = case.hidden, case.cell == "lstm"
        parts = model.parts
        self.encoder = cell(case, parts.encoder.input_size, params["encoder"])
        self.decoder = cell(case, parts.latent, params["decoder"])
        self.code, self.stroke = linear(params["code"]), linear(params["stroke"])
        self.canvas = nn.Parameter(torch.tensor(params["canvas"][..., 0]))
        self.reading = Window(parts.reading, params["read"]) if parts.reading else None
        self.writing = Window(parts.writing, params["write"]) if parts.writing else None

    def forward(self, pixels: torch.Tensor, draws: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        x = (draws < pixels).float()
        size = len(x)
        canvas = self.canvas.expand(size, -1, -1)
        g = x.new_zeros(size, self.hidden)
        encoder = decoder = (g, g) if self.lstm else g
        codes = []
        for eps in noise.unbind():
            both = torch.stack([x, x - torch.sigmoid(canvas)], 1)  # (B, 2, H, W)
            if self.reading is not None:
                rows, columns, intensity = self.reading(g)
                both = (rows[:, None] @ both @ columns[:, None].transpose(2, 3)) * intensity[:, :, None, None]
            h, encoder = moved(self.encoder, torch.cat([both.flatten(1), g], 1), encoder)
            mean, log_deviation = self.code(h).chunk(2, 1)
            log_deviation = log_deviation.clamp(-LARGEST, LARGEST)
            codes.append((mean, log_deviation))
            g, decoder = moved(self.decoder, torch.addcmul(mean, log_deviation.exp(), eps), decoder)
            stroke = self.stroke(g)
            if self.writing is None:
                canvas = canvas + stroke.view_as(canvas)
            else:
                rows, columns, intensity = self.writing(g)
                patch = (stroke / intensity).view(size, self.writing.points, -1)
                canvas = torch.baddbmm(canvas, rows.transpose(1, 2) @ patch, columns)
        mean, log_deviation = map(torch.stack, zip(*codes, strict=True))
        divergence = (mean**2 + (2 * log_deviation).exp() - 1).sum() / 2 - log_deviation.sum()
        return (F.binary_cross_entropy_with_logits(canvas, x, reduction="sum") + divergence) / size


class Reader(nn.Module):
    """The recurrent attention model, with places sampled and trained by REINFORCE."""

    def __init__(self, case: Any, model: Any, params: Any) -> None:
        super().__init__()
        self.hidden, self.lstm, self.spread = case.hidden, case.cell == "lstm", model.spread
        p = params["glimpse"]
        self.what, self.where, self.both = linear(p["what"]), linear(p["where"]), linear(p["both"])
        self.reader = cell(case, model.reader.input_size, params["reader"])
        self.move, self.expected, self.head = (linear(params[name]) for name in ("where", "expected", "head"))
        self.mean, self.deviation = model.mean[0], model.deviation[0]
        height, width, _ = model.sensor.shape
        rows, columns = (
            2 * (torch.arange(model.sensor.size) - (model.sensor.size - 1) / 2) / (n - 1) for n in (height, width)
        )
        self.register_buffer("grid", torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1))  # (n, n, 2)

    def forward(self, pixels: torch.Tensor, targets: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        images = ((pixels.permute(0, 3, 1, 2).float() / 255) - self.mean) / self.deviation
        h = images.new_zeros(len(images), self.hidden)
        state = (h, h) if self.lstm else h
        before, means, places = [], [], []
        for eps in noise.unbind():
            before.append(h.detach())
            mean = torch.tanh(self.move(before[-1]))
            place = (mean + self.spread * eps).detach()  # row and column
            means.append(mean)
            places.append(place)
            grid = self.grid + place.flip(1)[:, None, None]
            patch = F.grid_sample(images, grid, padding_mode="zeros", align_corners=True).flatten(1)
            g = torch.relu(self.both(torch.relu(torch.cat([self.what(patch), self.where(place)], 1))))
            h, state = moved(self.reader, g, state)
        logits = self.head(h)
        rewards = (logits.argmax(1) == targets).float()
        expected = self.expected(torch.stack(before)).squeeze(2)  # (T, B)
        distance = (torch.stack(places) - torch.stack(means)) / self.spread
        density = (-(distance**2) / 2 - math.log(self.spread * math.sqrt(2 * math.pi))).sum(2)
        estimate = ((rewards - expected) ** 2 - (rewards - expected.detach()) * density).sum() / len(images)
        return F.cross_entropy(logits, targets) + estimate - estimate.detach()


MODELS = {"paint": Painter, "read": Reader}


def training_step(case: Any, ours: Any, params: Any, rate: float, clip_norm: float) -> Callable[..., float]:
    """One step a call, on the examples of a batch, giving its loss."""
    model = MODELS[case.task](case, ours, params)
    optimizer = torch.optim.Adam(model.parameters(), rate, fused=True)
    rng = np.random.default_rng(0)

    def step(*examples: torch.Tensor) -> float:
        if case.task == "read":  # its noise is drawn with each step
            shape = (ours.per_symbol, case.batch, 2)
            examples = (*examples, torch.from_numpy(rng.standard_normal(shape, np.float32)))
        optimizer.zero_grad()
        loss = model(*examples)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
        optimizer.step()
        return float(loss.item())

    return step


def examples(task: str, batch: Any) -> tuple[torch.Tensor, ...]:
    """The examples of one of our batches: for paint images, draws and noise, for read images and classes."""
    if task == "read":
        return torch.from_numpy(batch.inputs[0]), torch.from_numpy(batch.targets[0].astype(np.int64))
    pixels, draws, noise = (torch.from_numpy(np.ascontiguousarray(part, np.float32)) for part in batch.inputs)
    return pixels[..., 0], draws[..., 0], noise
