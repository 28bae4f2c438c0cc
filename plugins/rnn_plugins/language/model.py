"""Embedding, cell and linear head: the network of a language model, from symbols to the scores of the next."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minigrad import affine, dropout_mask, log_softmax, mean, one_hot, pick, scan, take, trees
from minigrad.initializers import glorot_uniform, zeros
from minigrad.scan import Lookup, stepper
from minigrad.scan.planned import Stepper
from minigrad.trees import Tree
from rnn_cells import Cell
from rnn_cells.stacked import drop_steps
from rnn_plugins.progress import advance
from rnn_plugins.tasks import task
from rnn_plugins.tasks.task import Batch, Work

Array = NDArray[Any]

BLOCK = 1 << 22
"""Maximum number of logits at a time in ``evaluate``, so that it does not need more memory than training."""


@dataclass(frozen=True)
class Model(task.Model):
    """Embedding, cell and linear head of a language model, without the parameters.

    Attributes:
        cell: the recurrent part, one cell or a stack.
        vocabulary_size: the number V of symbols.
        embedding_size: the width of an embedding; 0 for one-hot inputs.
        dropout: the rate before the head during training.
        variational: whether to use one dropout mask for all steps.
        dtype: of parameters and activations.
        tied: whether the head's matrix is the embedding, turned, or if the cell's outputs have another width than that,
            a projection onto its width followed by it. The cell's inputs are then the embeddings times sqrt(E).
        embedding_dropout: the rate at which symbols are dropped from the inputs of a batch during training, wherever
            they occur in it.
    """

    cell: Cell
    vocabulary_size: int
    embedding_size: int = 0
    dropout: float = 0.0
    variational: bool = False
    dtype: str = "float32"
    tied: bool = False
    embedding_dropout: float = 0.0

    def shapes_known(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the parameters except the cell's."""
        size, classes = self.cell.output_size, self.vocabulary_size
        shapes: dict[str, tuple[int, ...]] = {"head.b": (classes,)}
        if not self.tied:
            shapes["head.W"] = (size, classes)
        elif self._projects:
            shapes["head.P"] = (size, self.embedding_size)
        if self.embedding_size:
            shapes["embedding"] = (self.vocabulary_size, self.embedding_size)
        return shapes

    def init_params(self, rng: np.random.Generator) -> Tree:
        """``cell``, ``head`` (W (H, V), b (V,)), and ``embedding`` (V, E) if there is one.

        If it is tied, the head has no W, and P (H, E) if there is a projection; the embedding starts like W.
        """
        size, classes = self.cell.output_size, self.vocabulary_size
        params: dict[str, Any] = {}
        if self.embedding_size:
            shape = (classes, self.embedding_size)
            normal = not self.tied
            params["embedding"] = rng.normal(0, 1, shape).astype(np.float32) if normal else glorot_uniform(rng, shape)
        params["cell"] = self.cell.init_params(rng)
        params["head"] = {"b": zeros(rng, (classes,))}
        if not self.tied:
            params["head"] = {"W": glorot_uniform(rng, (size, classes)), **params["head"]}
        elif self._projects:
            params["head"] = {"P": glorot_uniform(rng, (size, self.embedding_size)), **params["head"]}
        return trees.cast(params, self.dtype)

    def init_carry(self, size: int) -> Tree:
        """The cell's first carry, in the model's dtype."""
        return trees.cast(self.cell.init_carry(size), self.dtype)

    def loss(self, params: Tree, carry: Tree, batch: Batch, rng: np.random.Generator | None) -> tuple[Any, Tree]:
        """The mean of -log p(next symbol) over a batch of inputs and targets (T, B), and the carry after it."""
        carry, losses = self.losses(params, carry, batch.inputs, batch.targets, rng=rng)
        return mean(losses), carry

    def inputs(self, params: Tree, tokens: Array) -> Any:
        """The cell's inputs for symbols (...): their embeddings, or one-hot rows, (..., I)."""
        if self.embedding_size:
            return self._scaled(take(params["embedding"], tokens))
        return one_hot(tokens, self.vocabulary_size, self.dtype)

    def table(self, params: Tree) -> Any:
        """The cell's input for each symbol: embeddings, or one-hot rows, (V, I)."""
        if not self.embedding_size:
            return np.eye(self.vocabulary_size, dtype=self.dtype)
        return self._scaled(params["embedding"])

    def _scaled(self, rows: Any) -> Any:
        """Embeddings as inputs: tied ones, which start as small as an output matrix does, are enlarged."""
        return rows * math.sqrt(self.embedding_size) if self.tied else rows

    @property
    def _projects(self) -> bool:
        return self.cell.output_size != self.embedding_size

    def head(self, params: Tree) -> Tree:
        """The head as an affine map, ``W`` (H, V) and ``b`` (V,)."""
        head = params["head"]
        if not self.tied:
            return head
        turned = params["embedding"].T
        return {"W": head["P"] @ turned if "P" in head else turned, "b": head["b"]}

    def states(
        self, params: Tree, carry: Tree, tokens: Array, *, mask: Any = None, rng: np.random.Generator | None = None
    ) -> tuple[Tree, Any]:
        """Symbols (T, B) -> the carry after them and the head's inputs, (T, B, output_size)."""
        table = self.table(params)
        if self.embedding_dropout and rng is not None:
            table = table * dropout_mask((len(table), 1), self.embedding_dropout, rng, self.dtype, axis=None)
        carry, ys = self.cell.unroll(params["cell"], carry, Lookup(table, tokens), mask=mask, rng=rng)
        if self.dropout and rng is not None:
            ys = drop_steps(ys, self.dropout, self.variational, rng)
        return carry, ys

    def unroll(
        self, params: Tree, carry: Tree, tokens: Array, *, mask: Any = None, rng: np.random.Generator | None = None
    ) -> tuple[Tree, Any]:
        """Symbols (T, B) -> the carry after them and the logits of each next symbol, (T, B, V)."""
        carry, ys = self.states(params, carry, tokens, mask=mask, rng=rng)
        return carry, affine(self.head(params), ys)

    def losses(
        self,
        params: Tree,
        carry: Tree,
        tokens: Array,
        targets: Array,
        *,
        mask: Any = None,
        rng: np.random.Generator | None = None,
    ) -> tuple[Tree, Any]:
        """Symbols and those after them, both (T, B) -> the carry and -log p(target), (T, B), in nats."""
        carry, ys = self.states(params, carry, tokens, mask=mask, rng=rng)
        return carry, self.surprise(params, ys, targets)

    def surprise(self, params: Tree, ys: Any, targets: Array) -> Any:
        """The head's inputs and the next symbols, (T, B) or (B,) -> -log p(symbol) of each, in nats."""
        if np.ndim(targets) == 1:
            return _Head()(self.head(params), (), (ys, targets))[1]
        return scan(_Head(), self.head(params), (), (ys, targets))[1]

    def step(self, params: Tree, carry: Tree, tokens: Array) -> tuple[Tree, Array]:
        """One symbol each of B texts, (B,) -> the carry and the logits of the next, (B, V)."""
        carry, y = self.cell(params["cell"], carry, self.inputs(params, tokens))
        return carry, affine(self.head(params), y)

    def stepper(self, params: Tree, carry: Tree) -> Stepper | None:
        """``step`` prepared for many steps from ``carry`` on; None if no backend is faster."""
        return stepper(_Scores(self.cell), params | {"head": self.head(params)}, carry, self.table(params))

    def work(self) -> Work:
        """One step, from a symbol to the scores of the next, with the head but without the softmax."""
        params = self.init_params(np.random.default_rng(0))
        params["head"] = self.head(params)
        x = np.zeros((1, self.cell.input_size), self.dtype)
        return Work(_Scores(self.cell), params, self.init_carry(1), x, not self.embedding_size)

    def evaluate(self, params: Tree, tokens: Array, *, lanes: int | None = None) -> float:
        """The mean loss in nats of each symbol of ``tokens`` but the first, given those before it.

        A long text is cut into parallel lanes. Each lane but the first begins with the carry after reading the whole
        lane before it: a memory of at least a thousand symbols, not of the whole text as in one pass.

        Args:
            params: the parameters.
            tokens: (N,), N at least 2.
            lanes: their number; None to choose by the length, 1 for one pass over the text and the exact value.
        """
        count = len(tokens) - 1
        lanes = lanes or max(1, min(64, count // 1000))
        share = -(-count // lanes)
        warm_up = share if lanes > 1 else 0
        starts = np.arange(lanes) * share - warm_up
        block = max(1, min(128, BLOCK // (lanes * self.vocabulary_size)))
        carry, total = self.init_carry(lanes), 0.0
        for t in range(0, share + warm_up, block):
            steps = np.arange(t, min(t + block, share + warm_up))
            positions = starts + steps[:, None]  # (T, B)
            live = (positions >= 0) & (positions < count)
            scored = live & (steps[:, None] >= warm_up)
            places = np.where(live, positions, 0)
            inputs, targets = (np.asarray(tokens[i], np.intp) for i in (places, np.where(live, places + 1, 0)))
            carry, losses = self.losses(params, carry, inputs, targets, mask=None if live.all() else live)
            total += float(np.sum(losses[scored], dtype=np.float64))
            advance((t + len(steps)) / (share + warm_up))
        return total / count


@dataclass(frozen=True)
class _Head:
    """From outputs of the cell to losses, as a step without a carry, so that it is planned like the cell."""

    def __call__(self, params: Tree, carry: Tree, x: tuple[Any, Any]) -> tuple[Tree, Any]:
        """One step: y (B, H) and the target (B,) -> -log p(target), (B,)."""
        y, target = x
        return carry, -pick(log_softmax(affine(params, y)), target)


@dataclass(frozen=True)
class _Scores:
    """From the cell's input for a symbol to the scores of the next, as a step."""

    cell: Cell

    def __call__(self, params: Tree, carry: Tree, x: Any) -> tuple[Tree, Any]:
        """One step: x (B, I) -> the logits, (B, V)."""
        carry, y = self.cell(params["cell"], carry, x)
        return carry, affine(params["head"], y)
