"""Whether a training diverged because its recurrence explodes, which no learning rate changes."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np

from minigrad import value_and_grad
from minigrad.optimizers import global_norm
from minigrad.trees import Tree
from rnn_plugins.errors import UserError
from rnn_plugins.reports.flow import explosion
from rnn_plugins.reports.report import Look
from rnn_plugins.tasks.language_model import LanguageModel

if TYPE_CHECKING:
    from rnn_lab.subject import Subject

HUGE = 1e4
"""The norm of a first gradient from which on the recurrence is at fault."""

FOLLOWED, POSITIONS = 50, 50
"""How many steps untrained weights are followed at most, and at how many places their gradient is looked at."""


def of_recurrence(task: LanguageModel, subject: Subject, steps: int) -> tuple[str, ...]:
    """Two sentences where a training diverged because of its recurrence: why, and what to try; otherwise nothing.

    Args:
        task: what was trained.
        subject: the model with the weights that training began with.
        steps: after how many it diverged.
    """
    with np.errstate(all="ignore"), suppress(UserError):
        look = Look(lags=task.seq_length, positions=POSITIONS, seed=subject.settings.seed or 0)
        if _diverges(task, subject.params, min(steps, FOLLOWED)) and (said := explosion(subject, look)):
            why = "the recurrence explodes with the weights that training began with, so no learning rate helps: "
            return why + said[0].removeprefix("Explodes: "), said[1]
    return ()


def _diverges(task: LanguageModel, params: Tree, steps: int) -> bool:
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
