"""The network that gives a whole sequence one label: embedding, cell, pooling over the steps, linear head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from minigrad import affine, dropout, dropout_mask, log_softmax, pick, softmax, sum, tanh, trees, where
from minigrad.initializers import glorot_uniform, zeros
from minigrad.trees import Tree
from rnn_cells import Cell
from rnn_cells.stacked import drop_steps
from rnn_plugins.tasks.blocks import Embedded, Symbols, Vectors, mask, pool, unroll
from rnn_plugins.tasks.task import Batch, Work

Array = NDArray[Any]

Pool = Literal["last", "mean", "max", "attention"]
"""How the outputs along a sequence become one vector."""


EMBEDDED = np.float32(0.1)
"""The standard deviation of a new embedding. With 1, rare words are learnt by heart before anything else changes."""


@dataclass(frozen=True)
class Classifier(Embedded):
    """Embedding, cell, pooling over the steps, linear head.

    Attributes:
        cell: the recurrent part, of one direction or two.
        symbols: the inputs of a text; None for numbers.
        classes: K.
        pool: how the outputs along a sequence become one vector; ``attention`` weighs them by
            softmax(v tanh(W y + b)) over the steps (Yang et al. 2016).
        dropout: the rate on embeddings and before the head during training.
        variational: whether embeddings have one dropout mask for all steps.
        word_dropout: the rate at which symbols are replaced by the unknown one during training.
        dtype: of parameters and activations.
        vectors: pretrained vectors of words; None if there are none.
    """

    cell: Cell
    symbols: Symbols | None
    classes: int
    pool: Pool
    dropout: float = 0.0
    variational: bool = False
    word_dropout: float = 0.0
    dtype: str = "float32"
    vectors: Vectors | None = None

    def init_params(self, rng: np.random.Generator) -> Tree:
        """``cell``, ``head`` (W (O, K), b (K,)), where there are such ``embedding`` (V, E) and ``attention``."""
        size = self.cell.output_size
        params: dict[str, Any] = {}
        if self.symbols and self.symbols.width:
            params["embedding"] = EMBEDDED * self.symbols.init_params(rng)
        params["cell"] = self.cell.init_params(rng)
        if self.pool == "attention":
            square = {"W": glorot_uniform(rng, (size, size)), "b": zeros(rng, (size,))}
            params["attention"] = square | {"v": glorot_uniform(rng, (size, 1))}
        params["head"] = {"W": glorot_uniform(rng, (size, self.classes)), "b": zeros(rng, (self.classes,))}
        return trees.cast(params, self.dtype)

    def loss(self, params: Tree, carry: Tree, batch: Batch, rng: np.random.Generator | None) -> tuple[Any, Tree]:
        """The mean of -log p(class), weighed by the weights of the examples."""
        labels, weights = batch.targets
        nats = -pick(log_softmax(self.scores(params, batch.inputs, rng)), labels)
        return sum(nats * weights.astype(self.dtype)) / float(batch.weight), carry

    def scores(self, params: Tree, inputs: tuple[Array, Array], rng: np.random.Generator | None = None) -> Any:
        """Padded sequences (T, B) or (T, B, n) and their lengths (B,) -> logits (B, K)."""
        xs, lengths = inputs
        return self.read(params, self.see(params, xs, rng), lengths, rng)

    def see(self, params: Tree, xs: Array, rng: np.random.Generator | None = None) -> Any:
        """What the cell sees of ids (T, B) or numbers (T, B, n): a lookup or an array, (T, B, I)."""
        if self.symbols is None:
            return np.asarray(xs, self.dtype)
        if rng is not None and self.word_dropout:
            xs = np.where(dropout_mask(xs.shape, self.word_dropout, rng, axis=1) > 0, xs, 0)
        seen = self.symbols(self.embedding(params), xs)
        if rng is not None and self.dropout and self.symbols.width:
            return drop_steps(seen.array(), self.dropout, self.variational, rng)
        return seen

    def read(self, params: Tree, seen: Any, lengths: Array, rng: np.random.Generator | None = None) -> Any:
        """What the cell sees, (T, B, I), padded -> logits (B, K)."""
        ys = unroll(self.cell, params["cell"], seen, lengths, self.dtype, rng)  # (T, B, O)
        return self.judge(params, ys, lengths, rng)

    def judge(self, params: Tree, ys: Any, lengths: Array, rng: np.random.Generator | None = None) -> Any:
        """The cell's outputs along padded sequences, (T, B, O) -> logits (B, K)."""
        if self.pool == "attention":
            weights = params["attention"]
            found = (tanh(affine(weights, ys)) @ weights["v"])[:, :, 0]  # (T, B)
            shares = softmax(where(mask(lengths, ys.shape[0]), found, -np.inf), axis=0)
            pooled = sum(shares[:, :, None] * ys, axis=0)  # (B, O)
        else:
            pooled = pool(ys, lengths, self.pool, self.cell)
        if rng is not None and self.dropout:
            pooled = dropout(pooled, self.dropout, rng)
        return affine(params["head"], pooled)

    def work(self) -> Work | None:
        """One step with the head; of two directions there is none."""
        if not self.cell.causal:
            return None
        x = np.zeros((1, self.cell.input_size), self.dtype)
        carry = trees.cast(self.cell.init_carry(1), self.dtype)
        one_hot = self.symbols is not None and not self.symbols.width
        return Work(self._step, self.init_params(np.random.default_rng(0)), carry, x, one_hot)

    def _step(self, params: Tree, carry: Tree, x: Any) -> tuple[Tree, Any]:
        carry, y = self.cell(params["cell"], carry, x)
        return carry, affine(params["head"], y)
