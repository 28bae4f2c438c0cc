"""The whole of a painter's step along its strokes, as reports measure it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minigrad import sum
from minigrad.trees import Tree
from rnn_cells import Cell
from rnn_plugins.tasks.paint.model import Inputs, Painter, Parts, Step
from rnn_plugins.tasks.probes import AtEnd

Array = NDArray[Any]

BESIDE = (
    "the loss is that of the reconstruction after the last stroke; the divergence of the codes, which each step adds, "
    "is not in it"
)
"""The notice on the loss."""


@dataclass(frozen=True)
class Painting(Cell):
    """A painter's step as one cell, so that gradients go through encoder, code, decoder, windows and canvas.

    An input is an image and the noise of its code, side by side; the output is the canvas. The states are the decoder's
    output ``h``, the ``canvas``, and those of both cells.

    Attributes:
        parts: of the painter.
    """

    parts: Parts

    @classmethod
    def of(cls, parts: Parts) -> Painting:
        """The cell of a painter with these parts."""
        return cls(math.prod(parts.shape) + parts.latent, parts.decoder.output_size, parts)

    @property
    def output_size(self) -> int:
        """The pixels of the canvas, of all channels."""
        return math.prod(self.parts.shape)

    def init_params(self, rng: np.random.Generator) -> Tree:
        """Those of the parts, and a first canvas, as the painter has them."""
        return {**self.parts.init_params(rng), "canvas": np.zeros(self.parts.shape, np.float32)}

    def init_carry(self, batch_size: int) -> Tree:
        """An empty canvas, not the model's own, which is a parameter."""
        encoder, decoder = (cell.init_carry(batch_size) for cell in (self.parts.encoder, self.parts.decoder))
        h = np.zeros((batch_size, self.hidden_size), np.float32)
        canvas = np.zeros((batch_size, *self.parts.flat), np.float32)
        return {"h": h, "canvas": canvas, "decoder": decoder, "encoder": encoder}

    def __call__(self, params: Tree, carry: Tree, x: Any) -> tuple[Tree, Any]:
        """One step: x (B, pixels + latent) -> the canvas, (B, pixels)."""
        image, noise = x[:, : self.output_size].reshape(-1, *self.parts.flat), x[:, self.output_size :]
        before = carry["canvas"], carry["encoder"], carry["decoder"], carry["h"]
        (canvas, encoder, decoder, h), _ = Step(self.parts)(params, before, (noise, (), ()), image)
        after = {"h": h, "canvas": canvas, "decoder": decoder, "encoder": encoder}
        return after, canvas.reshape(-1, self.output_size)


def along_strokes(model: Painter, params: Tree, inputs: Inputs) -> AtEnd:
    """The painter along the strokes of some images.

    Args:
        model: the painter.
        params: its parameters.
        inputs: the images.
    """
    cell, images = Painting.of(model.parts), model.seen(inputs).reshape(len(inputs.pixels), -1)
    steps = len(inputs.noise)

    def first(weights: Tree, which: Array) -> Tree:
        carry = cell.init_carry(len(which))
        canvas = np.asarray(weights["cell"]["canvas"]).reshape(model.parts.flat)
        return carry | {"canvas": np.broadcast_to(canvas, carry["canvas"].shape)}

    def score(weights: Tree, outputs: Any, lengths: Array, goals: Array) -> Any:
        last, images = (array.reshape(-1, *model.parts.flat) for array in (outputs[-1], goals.astype(outputs.dtype)))
        losses = -model.log_likelihood(weights["cell"], last, images)
        return sum(losses.reshape(len(goals), -1), axis=-1)

    along: Sequence[Array] = [
        np.concatenate([np.tile(image, (steps, 1)), inputs.noise[:, i]], axis=1) for i, image in enumerate(images)
    ]
    probe = AtEnd(
        recurrent=cell,
        weights={"cell": params},
        inputs=along,
        goals=images,
        see=lambda weights, some: some,
        score=score,
        dtype=model.network.dtype,
        unit="stroke",
        sequence="image",
        first=first,
        numbers_per_output=cell.output_size,
    )
    probe.notices = (BESIDE,)
    return probe
