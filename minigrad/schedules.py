"""Schedules: functions from the number of a training step, counted from 0, to its learning rate."""

import math
from collections.abc import Callable
from typing import TypeAlias

Schedule: TypeAlias = Callable[[int], float]


def constant(learning_rate: float) -> Schedule:
    """The same rate at every step.

    Raises:
        ValueError: where the rate is negative or not finite.
    """
    rate = _rate(learning_rate)
    return lambda step: rate


def exponential_decay(learning_rate: float, decay: float, every: int, after: int = 0) -> Schedule:
    """A step schedule: the rate up to step `after`, then multiplied by `decay` every `every` steps.

        learning_rate * decay ** ((step - after) // every)        from step >= after on

    Raises:
        ValueError: where the rate is negative or not finite, the decay not in (0, 1], `every` below 1, or `after`
            below 0.
    """
    rate = _rate(learning_rate)
    if not 0 < decay <= 1:
        raise ValueError(f"the decay of the learning rate is {decay}; it must be above 0 and at most 1")
    if every < 1:
        raise ValueError(f"the learning rate decays every {every} steps; give at least 1")
    if after < 0:
        raise ValueError(f"the learning rate decays after {after} steps; give at least 0")
    return lambda step: rate * decay ** (max(0, step - after) // every)


def cosine(learning_rate: float, total_steps: float, warmup_steps: int = 0, final: float = 0.0) -> Schedule:
    """Half a cosine from the rate, at step `warmup_steps`, to `final * learning_rate`, at step `total_steps` and after.

    Loshchilov and Hutter 2016, "SGDR", arXiv:1608.03983, equation 5, without restarts. The warm-up before it is linear,
    from learning_rate / warmup_steps at step 0 to learning_rate at step warmup_steps - 1. The end may lie between two
    steps.

    Raises:
        ValueError: where the rate is negative or not finite, `final` not in [0, 1], or not
            0 <= warmup_steps <= total_steps.
    """
    return _warm_up_and_fall(learning_rate, total_steps, warmup_steps, final, lambda x: (1 + math.cos(math.pi * x)) / 2)


def linear(learning_rate: float, total_steps: float, warmup_steps: int = 0, final: float = 0.0) -> Schedule:
    """A straight line from the rate, at step `warmup_steps`, to `final * learning_rate`, at `total_steps` and after.

    The warm-up is the same as for `cosine`.

    Raises:
        ValueError: as in `cosine`.
    """
    return _warm_up_and_fall(learning_rate, total_steps, warmup_steps, final, lambda x: 1 - x)


def _warm_up_and_fall(
    learning_rate: float, total_steps: float, warmup_steps: int, final: float, fall: Callable[[float], float]
) -> Schedule:
    rate = _rate(learning_rate)
    if not 0 <= final <= 1:
        raise ValueError(f"the final fraction of the learning rate is {final}; it must be at least 0 and at most 1")
    if not 0 <= warmup_steps <= total_steps:
        raise ValueError(
            f"the warm-up takes {warmup_steps} of {total_steps} steps; give at least 0 and at most all of them"
        )

    def schedule(step: int) -> float:
        if step < warmup_steps:
            return rate * (step + 1) / warmup_steps
        if step >= total_steps:
            return rate * final
        return rate * (final + (1 - final) * fall((step - warmup_steps) / (total_steps - warmup_steps)))

    return schedule


def _rate(learning_rate: float) -> float:
    rate = float(learning_rate)
    if not 0 <= rate < math.inf:
        raise ValueError(f"the learning rate is {rate}; give a finite number of at least 0")
    return rate
