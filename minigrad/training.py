"""The training loop: gradient steps on a loss and batches."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from minigrad import trees
from minigrad.gradients import value_and_grad
from minigrad.optimizers import Optimizer, clip_by_global_norm, clip_by_value
from minigrad.schedules import Schedule
from minigrad.trees import Tree

Loss = Callable[[Tree, Tree, Any, np.random.Generator], tuple[Any, Tree]]
"""``(params, carry, batch, rng) -> (mean loss, carry)``."""

Reduce = Callable[[Tree, float, float], tuple[Tree, float]]
"""``(gradients, loss, weight) -> (gradients, loss)``: what one process has found, into what all together have."""


@dataclass
class TrainingState:
    """Everything the next step depends on: from a saved state, training resumes bit for bit.

    Attributes:
        step: the number of steps taken.
        params: the parameters.
        optimizer: the optimiser's state.
        carry: the network's state at the end of the last batch (truncated BPTT).
        rng: draws dropout masks.
    """

    step: int
    params: Tree
    optimizer: Tree
    carry: Tree
    rng: np.random.Generator


class Details(NamedTuple):
    """What a step did to each parameter; all three are trees of the parameters' structure.

    Attributes:
        gradients: before clipping, reduced where there is a ``reduce``.
        before: the parameters that the gradients are of.
        after: those after the update.
    """

    gradients: Tree
    before: Tree
    after: Tree


class StepRecord(NamedTuple):
    """One training step.

    Attributes:
        step: its number, from 1.
        loss: before the update, mean over the batch, nats.
        gradient_norm: the global norm before clipping.
        learning_rate: the schedule's learning rate for this step.
        weight: of the batch, that is, how many terms its mean loss has; 1 where the batch does not say.
        details: of a step that is watched.
    """

    step: int
    loss: float
    gradient_norm: float
    learning_rate: float
    weight: float
    details: Details | None = None


class NotFinite(ArithmeticError):
    """A loss or a gradient is infinite or NaN. The state is that before the step.

    Attributes:
        step: the number of the step that failed, from 1.
        loss: its value.
        gradient_norm: its gradient's norm.
        batch: its batch.
        carry: the carry before the step.
        rng: the generator before the step.
    """

    def __init__(
        self, step: int, loss: float, gradient_norm: float, batch: Any, carry: Tree, rng: np.random.Generator
    ) -> None:
        super().__init__(f"step {step}: the loss is {loss} and the gradient's norm {gradient_norm}")
        self.step, self.loss, self.gradient_norm = step, loss, gradient_norm
        self.batch, self.carry, self.rng = batch, carry, rng


def train(
    loss: Loss,
    state: TrainingState,
    batches: Iterable[Any],
    *,
    optimizer: Optimizer,
    schedule: Schedule,
    clip_norm: float = 0.0,
    clip_value: float = 0.0,
    watch: Callable[[int], bool] = lambda step: False,
    reduce: Reduce | None = None,
) -> Iterator[StepRecord]:
    """Take one step per batch, update ``state`` in place, and yield a record of each step.

    Args:
        loss: the loss to minimise.
        state: the initial state; it is updated before each record is yielded. The caller may change its carry between
            records, to start a new sequence.
        batches: one batch per step.
        optimizer: computes the updates.
        schedule: the learning rate of each step, counted from 0.
        clip_norm: the largest global norm of a gradient; 0 for no limit.
        clip_value: the largest absolute value of an element; 0 for no limit.
        watch: whether the record of a step, counted from 1, has details. They keep gradients and old parameters alive.
        reduce: replaces the gradients and the loss of a batch before they are clipped and used. Where several processes
            train together, each on its share of a batch (and with a ``minigrad.functions.Share`` for its dropout), it
            is the mean over all of them, weighed by ``weight``: the attribute of that name of the batch, or 1 where the
            batch has none. All processes must get the same bits.

    Raises:
        NotFinite: the loss or its gradient became infinite or NaN; ``state`` is the last good one.
    """
    gradient = value_and_grad(loss, has_aux=True)
    for batch in batches:
        before = state.rng.bit_generator.state
        # Overflow is detected and explained below; NumPy's warnings would only precede the explanation.
        with np.errstate(all="ignore"):
            (value, carry), gradients = gradient(state.params, state.carry, batch, state.rng)
            weight = float(getattr(batch, "weight", 1.0))
            if reduce is not None:
                gradients, value = reduce(gradients, float(value), weight)
            watched = gradients if watch(state.step + 1) else None
            gradients, norm = clip_by_global_norm(gradients, clip_norm or np.inf)
            if not (np.isfinite(value) and np.isfinite(norm)):
                state.rng.bit_generator.state = before
                raise NotFinite(state.step + 1, float(value), float(norm), batch, state.carry, copy.deepcopy(state.rng))
            if clip_value:
                gradients = clip_by_value(gradients, clip_value)
            learning_rate = schedule(state.step)
            params, state.optimizer = optimizer.update(gradients, state.optimizer, state.params, learning_rate)
        details = None if watched is None else Details(watched, state.params, params)
        state.params, state.carry = params, carry
        state.step += 1
        yield StepRecord(state.step, float(value), float(norm), learning_rate, weight, details)


def start(params: Tree, optimizer: Optimizer, carry: Tree, rng: np.random.Generator) -> TrainingState:
    """The state before the first step."""
    return TrainingState(0, params, optimizer.init(params), trees.map(np.asarray, carry), rng)
