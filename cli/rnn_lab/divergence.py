"""Whether training diverged because the recurrence explodes, which no learning rate prevents."""

from __future__ import annotations

import math
from contextlib import suppress

import numpy as np

from minigrad import trees, value_and_grad
from minigrad.optimizers import global_norm
from minigrad.trees import Tree
from rnn_lab.problem import Problem
from rnn_plugins.errors import UserError
from rnn_plugins.reports.flow import explosion
from rnn_plugins.reports.report import Look

HUGE = 1e4
"""The norm of the first gradient from which the recurrence is the cause."""

FOLLOWED, POSITIONS = 50, 50
"""The largest number of steps with untrained weights, and the number of positions of the gradient."""


def of_recurrence(problem: Problem, params: Tree, steps: int, seed: int) -> tuple[str, ...]:
    """Two sentences if training diverged because of its recurrence: why, and what to try; otherwise empty.

    Args:
        problem: what was trained.
        params: the initial weights.
        steps: the number of steps until it diverged.
        seed: for choosing the positions at which the gradient is measured.
    """
    with np.errstate(all="ignore"), suppress(UserError):
        probe = problem.probe(params)
        if not probe or not _diverges(problem, params, min(steps, FOLLOWED)):
            return ()
        # Gradients go back over the steps of a sequence; a batch of images has no axis of steps.
        lags = min(len(trees.leaves(problem.batch(0).inputs)[0]), probe.longest())
        if said := explosion(probe, Look(lags=lags, positions=POSITIONS, seed=seed)):
            why = "the recurrence explodes with the weights that training began with, so no learning rate helps: "
            return why + said[0].removeprefix("Explodes: "), said[1]
    return ()


def _diverges(problem: Problem, params: Tree, steps: int) -> bool:
    """Whether constant weights have a huge first gradient, or a loss that is not finite within some steps."""
    carry, rng = problem.init_carry(), np.random.default_rng(0)
    _, gradient = value_and_grad(problem.loss, has_aux=True)(params, carry, problem.batch(0), rng)
    if not global_norm(gradient) < HUGE:
        return True
    for step in range(steps):
        if step % problem.steps_per_epoch == 0:
            carry = problem.init_carry()
        loss, carry = problem.loss(params, carry, problem.batch(step), rng)
        if not math.isfinite(loss):
            return True
    return False
