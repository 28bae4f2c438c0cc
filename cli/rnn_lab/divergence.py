"""Whether a training diverged because its recurrence explodes, which no learning rate changes."""

from __future__ import annotations

import math
from contextlib import suppress

import numpy as np

from minigrad import value_and_grad
from minigrad.optimizers import global_norm
from minigrad.trees import Tree
from rnn_plugins.errors import UserError
from rnn_plugins.reports.flow import explosion
from rnn_plugins.reports.probe import Probe
from rnn_plugins.reports.report import Look
from rnn_plugins.tasks.task import Task

HUGE = 1e4
"""The norm of a first gradient from which on the recurrence is at fault."""

FOLLOWED, POSITIONS = 50, 50
"""How many steps untrained weights are followed at most, and at how many positions their gradient is measured."""


def of_recurrence(task: Task, params: Tree, probe: Probe, steps: int, lags: int, seed: int) -> tuple[str, ...]:
    """Two sentences where a training diverged because of its recurrence: why, and what to try; otherwise nothing.

    Args:
        task: what was trained.
        params: the weights that training began with.
        probe: the network with these weights.
        steps: after how many it diverged.
        lags: how far back gradients went in training.
        seed: of the positions at which the gradient is measured.
    """
    with np.errstate(all="ignore"), suppress(UserError):
        look = Look(lags=lags, positions=POSITIONS, seed=seed)
        if _diverges(task, params, min(steps, FOLLOWED)) and (said := explosion(probe, look)):
            why = "the recurrence explodes with the weights that training began with, so no learning rate helps: "
            return why + said[0].removeprefix("Explodes: "), said[1]
    return ()


def _diverges(task: Task, params: Tree, steps: int) -> bool:
    """Whether weights that stay as they are have a huge first gradient, or within some steps no finite loss."""
    carry, rng = task.init_carry(), np.random.default_rng(0)
    _, gradient = value_and_grad(task.loss, has_aux=True)(params, carry, task.batch(0), rng)
    if not global_norm(gradient) < HUGE:
        return True
    for step in range(steps):
        if step % task.steps_per_epoch == 0:
            carry = task.init_carry()
        loss, carry = task.loss(params, carry, task.batch(step), rng)
        if not math.isfinite(loss):
            return True
    return False
