"""Predict the next symbol of a text: its batches and its loss. The network is ``rnn_plugins.language.model``."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from minigrad import mean
from minigrad.trees import Tree
from rnn_plugins.language.model import Model
from rnn_plugins.tasks.task import Task

Array = NDArray[Any]


class TextBatch(NamedTuple):
    """Inputs and targets, both (T, B): each target is the symbol after its input."""

    inputs: Array
    targets: Array


class LanguageModel(Task):
    """Predict the next symbol of a text, by truncated backpropagation through time.

    The training text is cut into B equal lanes; a batch is the next T symbols of each, and the carry passes from one
    batch to the next. At the end of an epoch the carry starts anew.

    Attributes:
        model: what is trained.
        seq_length: T, reduced where the text is too short.
        batch_size: B, reduced likewise.
        notice: a sentence on what was reduced, or the empty text.
    """

    def __init__(
        self, model: Model, train_tokens: Array, valid_tokens: Array, seq_length: int, batch_size: int
    ) -> None:
        pairs = len(train_tokens) - 1
        self.model, self.train_tokens, self.valid_tokens = model, train_tokens, valid_tokens
        self.seq_length = min(seq_length, pairs)
        self.batch_size = max(1, min(batch_size, pairs // self.seq_length))
        reduced = [
            f"the {name} from {asked} to {used}"
            for name, asked, used in (
                ("sequence length", seq_length, self.seq_length),
                ("batch size", batch_size, self.batch_size),
            )
            if used < asked
        ]
        self.notice = ""
        if reduced:
            what = " and ".join(reduced)
            self.notice = f"the text is short ({pairs + 1:,} symbols to train on), which reduces {what}"
        self.lane = pairs // self.batch_size  # steps along each lane, the last incomplete batch left out
        self.steps_per_epoch = self.lane // self.seq_length
        self.tokens_per_step = self.seq_length * self.batch_size

    def init_params(self, rng: np.random.Generator) -> Tree:
        """Fresh parameters of the model."""
        return self.model.init_params(rng)

    def init_carry(self) -> Tree:
        """The model's first carry for a batch."""
        return self.model.init_carry(self.batch_size)

    def batch(self, step: int) -> TextBatch:
        """The next T symbols of each lane, as (T, B)."""
        start = step % self.steps_per_epoch * self.seq_length
        places = np.arange(self.batch_size) * self.lane + np.arange(start, start + self.seq_length + 1)[:, None]
        tokens = np.asarray(self.train_tokens[places], np.intp)
        return TextBatch(tokens[:-1], tokens[1:])

    def loss(self, params: Tree, carry: Tree, batch: TextBatch, rng: np.random.Generator) -> tuple[Any, Tree]:
        """The mean of -log p(next symbol) over a batch, and the carry after it."""
        carry, losses = self.model.losses(params, carry, batch.inputs, batch.targets, rng=rng)
        return mean(losses), carry

    def validate(self, params: Tree) -> float | None:
        """The mean loss over the whole held-out text, the carry passed on."""
        return self.model.evaluate(params, self.valid_tokens) if len(self.valid_tokens) > 1 else None
