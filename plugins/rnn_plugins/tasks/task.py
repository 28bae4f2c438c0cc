"""What a task is: a model, its data and its loss, as the trainer needs them. It says nothing of any one task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from minigrad.trees import Tree


class Task(ABC):
    """The base of what a network can be trained to do; entry points of the group ``rnn.tasks`` name subclasses.

    What ``rnn train --task NAME`` trains on a text is constructed as ``(model, train_tokens, valid_tokens, seq_length,
    batch_size)`` and keeps the first three as attributes, and in ``notice`` a sentence on what it had to change of the
    others, or the empty text. ``rnn_plugins.tasks.language_model.LanguageModel`` is one, to be subclassed.

    Attributes:
        steps_per_epoch: training steps in one pass over the data.
        tokens_per_step: tokens that one step learns from.
    """

    steps_per_epoch: int
    tokens_per_step: int

    @abstractmethod
    def init_params(self, rng: np.random.Generator) -> Tree:
        """Fresh parameters, of the task's dtype."""

    @abstractmethod
    def init_carry(self) -> Tree:
        """The carry before the first batch of an epoch, of the task's dtype."""

    @abstractmethod
    def batch(self, step: int) -> Any:
        """The batch of a step, counted from 0: a function of the step alone, so that training can go on anywhere."""

    @abstractmethod
    def loss(self, params: Tree, carry: Tree, batch: Any, rng: np.random.Generator) -> tuple[Any, Tree]:
        """The mean loss of a batch in nats, and the carry after it, as ``minigrad.training.train`` takes them."""

    @abstractmethod
    def validate(self, params: Tree) -> float | None:
        """The mean loss on what was held out, in nats; None where nothing was."""
