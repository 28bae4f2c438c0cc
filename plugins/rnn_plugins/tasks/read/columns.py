"""The network that reads an image column by column, to compare those that look around with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from minigrad import affine, log_softmax, pick, trees
from minigrad.trees import Tree
from rnn_cells import Cell
from rnn_cells.stacked import drop_steps
from rnn_plugins.tasks import task
from rnn_plugins.tasks.blocks import dense, mask, masked_mean
from rnn_plugins.tasks.read.sensor import standard
from rnn_plugins.tasks.task import Batch

Array: TypeAlias = NDArray[Any]


@dataclass(frozen=True)
class ColumnReader(task.Model):
    """One cell reads the columns of an image from left to right, and then names all symbols, one at each further step.

    Attributes:
        cell: the cell, whose inputs are a column and a 1 at the steps that name symbols.
        classes: the number of symbols, with the stop symbol.
        symbols: the length of the longest string, with the stop symbol.
        mean: of each channel of the training images, of pixels in [0, 1].
        deviation: the standard deviation of each channel.
        dropout: the rate between layers and before the head during training.
        variational: whether to use one dropout mask for all steps.
        dtype: of parameters and activations.
    """

    cell: Cell
    classes: int
    symbols: int
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    dropout: float = 0.0
    variational: bool = False
    dtype: str = "float32"

    def init_params(self, rng: np.random.Generator) -> Tree:
        """``cell`` and ``head``."""
        params = {"cell": self.cell.init_params(rng), "head": dense(rng, self.cell.output_size, self.classes)}
        return trees.cast(params, self.dtype)

    def shapes_known(self) -> dict[str, tuple[int, ...]]:
        """The shape of the head."""
        return {"head.W": (self.cell.output_size, self.classes)}

    def loss(self, params: Tree, carry: Tree, batch: Batch, rng: np.random.Generator | None) -> tuple[Any, Tree]:
        """The mean of -log p(symbol) of the strings, their stop symbols included, in nats."""
        (pixels, _, lengths), targets = batch.inputs, batch.targets
        logits = self.logits(params, self.columns(pixels, len(targets)), len(targets), rng)
        return masked_mean(-pick(log_softmax(logits), targets), mask(lengths, len(targets))), carry

    def read(self, params: Tree, pixels: Array, keys: Array, samples: int = 0) -> Array:
        """The log probabilities of all symbols in images (B, H, W, C), in nats, (B, S, K)."""
        found: Array = np.asarray(
            log_softmax(self.logits(params, self.columns(pixels, self.symbols), self.symbols)), np.float64
        )
        return found.transpose(1, 0, 2)

    def logits(self, params: Tree, xs: Array, symbols: int, rng: np.random.Generator | None = None) -> Any:
        """The logits of the first symbols, (S, B, K), from what ``columns`` gives."""
        carry = trees.cast(self.cell.init_carry(xs.shape[1]), self.dtype)
        _, ys = self.cell.unroll(params["cell"], carry, xs, rng=rng)
        ys = ys[len(xs) - symbols :]
        if self.dropout and rng is not None:
            ys = drop_steps(ys, self.dropout, self.variational, rng)
        return affine(params["head"], ys)

    def columns(self, pixels: Array, symbols: int) -> Array:
        """The inputs of the cell: (W + S, B, H * C + 1)."""
        images = standard(pixels, self.mean, self.deviation, self.dtype)
        size, _, width, _ = images.shape
        columns = images.transpose(2, 0, 1, 3).reshape(width, size, -1)
        xs = np.zeros((width + symbols, size, columns.shape[2] + 1), self.dtype)
        xs[:width, :, :-1] = columns
        xs[width:, :, -1] = 1
        return xs
