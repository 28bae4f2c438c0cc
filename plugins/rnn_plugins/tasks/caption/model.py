"""The model that captions images: convolutions, whose output becomes a decoder's first state and what it attends to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minigrad import dropout
from minigrad.trees import Tree
from rnn_plugins.data.images import unit
from rnn_plugins.reports.report import Image
from rnn_plugins.tasks import task
from rnn_plugins.tasks.blocks import mask, masked_mean
from rnn_plugins.tasks.caption.vision import Convolutions
from rnn_plugins.tasks.decoding import END, UNKNOWN, Decoder
from rnn_plugins.tasks.task import Batch

Array = NDArray[Any]

GREY = 0.5
"""What a patch is covered with, to see what depends on it."""


@dataclass(frozen=True)
class Captioner(task.Model):
    """Convolutions and a decoder, without the parameters.

    All outputs of the convolutions together, divided by the root of the number of patches, are the summary from which
    the decoder's first carry is made (Vinyals et al. 2015, arXiv:1411.4555, where it is the first input); with
    attention, each of their patches is a row of its memory (Xu et al. 2015, arXiv:1502.03044, "soft" attention).

    Attributes:
        vision: the convolutions.
        decoder: the decoder.
        mean: of each channel of the training images, of pixels in [0, 1].
        deviation: the standard deviation of each channel.
    """

    vision: Convolutions
    decoder: Decoder
    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    def init_params(self, rng: np.random.Generator) -> Tree:
        """``vision`` and ``decoder``."""
        return {"vision": self.vision.init_params(rng), "decoder": self.decoder.init_params(rng)}

    def shapes_known(self) -> dict[str, tuple[int, ...]]:
        """The shape of the head."""
        return {"decoder.head.W": (self.decoder.cell.output_size, self.decoder.symbols.size)}

    def begin(self, params: Tree, pixels: Array, rng: np.random.Generator | None = None) -> tuple[Tree, Tree]:
        """The decoder's first carry and its context for images (B, H, W, C), as ``Images.pixels`` has them."""
        mean, deviation = (np.array(numbers, self.decoder.dtype) for numbers in (self.mean, self.deviation))
        standard = (unit(pixels, self.decoder.dtype) - mean) / deviation
        seen = self.vision(params["vision"], standard)  # (B, *grid, width)
        if self.decoder.dropout and rng is not None:
            seen = dropout(seen, self.decoder.dropout, rng)
        memory = seen.reshape(len(pixels), -1, self.vision.width).transpose(1, 0, 2)  # (S, B, width)
        # So many numbers are added up that a step of Adam would saturate the first carry, were they not scaled.
        summary = seen.reshape(len(pixels), -1) / math.sqrt(memory.shape[0])
        carry = self.decoder.start(params["decoder"], summary)
        return carry, self.decoder.context(params["decoder"], memory, np.ones(memory.shape[:2], bool))

    def loss(self, params: Tree, carry: Tree, batch: Batch, rng: np.random.Generator | None) -> tuple[Any, Tree]:
        """The mean of -log p(symbol) of the captions, their ends included and unknown symbols left out, in nats."""
        pixels, lengths = batch.inputs
        first, context = self.begin(params, pixels, rng)
        losses = self.decoder.losses(params["decoder"], first, context, batch.targets, rng=rng)
        return masked_mean(losses, mask(lengths, len(batch.targets)) & (batch.targets != UNKNOWN)), carry

    def attention(self, params: Tree, pixels: Array, ids: Array) -> Array:
        """How much of the attention each patch has while a caption's symbols (T,) are written: (T, *grid)."""
        first, context = self.begin(params, pixels[None])
        before = np.concatenate([[END], ids])[:-1, None]
        weights = np.asarray(self.decoder.unroll(params["decoder"], first, context, before, weights=True))
        height, width = self.vision.grid
        return weights[:, 0, : height * width].reshape(-1, height, width)

    def occlusion(self, params: Tree, pixels: Array, ids: Array) -> Array:
        """How much less likely each symbol of a caption (T,) becomes without a patch, in nats: (T, *grid).

        The patch is covered with grey (Zeiler and Fergus 2014, arXiv:1311.2901).
        """
        height, width = self.vision.grid
        image = unit(pixels, self.decoder.dtype)
        covered = np.repeat(image[None], height * width + 1, axis=0)
        rows, columns = (-(-length // count) for length, count in zip(image.shape, (height, width), strict=False))
        for i in range(height):
            for j in range(width):
                covered[i * width + j, i * rows : (i + 1) * rows, j * columns : (j + 1) * columns] = GREY
        first, context = self.begin(params, covered)
        targets = np.repeat(ids[:, None], len(covered), axis=1)
        losses, _ = self.decoder.scored(params["decoder"], first, context, targets)
        return (losses[:, :-1] - losses[:, -1:]).reshape(-1, height, width)


def strip(key: str, title: str, maps: Array, words: Sequence[str], **about: Any) -> Image:
    """Maps (T, h, w), one for each word, as a picture with all of them beside each other."""
    height, width = maps.shape[1:]
    values = np.full((height, len(maps) * (width + 1) - 1), np.nan)
    ticks = [""] * values.shape[1]
    for i, (word, one) in enumerate(zip(words, maps, strict=True)):
        start = i * (width + 1)
        values[:, start : start + width] = one
        ticks[start] = word
    return Image(key, title, "columns of patches, for each symbol", "rows", values, x_ticks=tuple(ticks), **about)
