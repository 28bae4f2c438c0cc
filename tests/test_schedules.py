"""Every schedule equals a table of values that was written by hand from its definition."""

import itertools
import math
import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigrad.schedules import Schedule, constant, cosine, exponential_decay, linear


def exactly(message: str) -> str:
    return f"^{re.escape(message)}$"


ROOT_HALF = math.sqrt(0.5)


@pytest.mark.parametrize(
    ("schedule", "table"),
    [
        (constant(0.5), {0: 0.5, 1: 0.5, 1_000_000: 0.5}),
        (
            exponential_decay(0.8, 0.5, every=10),
            {0: 0.8, 9: 0.8, 10: 0.4, 19: 0.4, 20: 0.2, 29: 0.2, 30: 0.1, 100: 0.00078125},
        ),
        (
            exponential_decay(0.8, 0.5, every=10, after=25),
            {0: 0.8, 10: 0.8, 24: 0.8, 25: 0.8, 34: 0.8, 35: 0.4, 44: 0.4, 45: 0.2},
        ),
        (exponential_decay(2e-3, 0.97, every=1, after=0), {0: 2e-3, 1: 1.94e-3, 2: 1.8818e-3, 3: 1.825346e-3}),
        (
            cosine(1.0, 8),
            {0: 1.0, 2: (1 + ROOT_HALF) / 2, 4: 0.5, 6: (1 - ROOT_HALF) / 2, 8: 0.0, 9: 0.0, 100: 0.0},
        ),
        (cosine(0.4, 12, warmup_steps=4), {0: 0.1, 1: 0.2, 2: 0.3, 3: 0.4, 4: 0.4, 8: 0.2, 12: 0.0, 13: 0.0}),
        (cosine(0.4, 12, warmup_steps=4, final=0.5), {0: 0.1, 3: 0.4, 4: 0.4, 8: 0.3, 12: 0.2, 13: 0.2}),
        (linear(1.0, 4), {0: 1.0, 1: 0.75, 2: 0.5, 3: 0.25, 4: 0.0, 5: 0.0}),
        (linear(0.6, 6, warmup_steps=2, final=0.1), {0: 0.3, 1: 0.6, 2: 0.6, 4: 0.33, 6: 0.06, 7: 0.06}),
        (linear(0.6, 3, warmup_steps=3), {0: 0.2, 1: 0.4, 2: 0.6, 3: 0.0}),
        (linear(0.6, 0, final=0.5), {0: 0.3, 1: 0.3}),
    ],
)
def test_table(schedule: Schedule, table: dict[int, float]) -> None:
    assert {step: schedule(step) for step in table} == pytest.approx(table, rel=1e-14, abs=1e-16)


@given(
    make=st.sampled_from([cosine, linear]),
    rate=st.floats(0, 10),
    total=st.integers(0, 50),
    data=st.data(),
    final=st.floats(0, 1),
)
def test_up_then_down_and_always_within_bounds(
    make: Callable[..., Schedule], rate: float, total: int, data: st.DataObject, final: float
) -> None:
    warmup = data.draw(st.integers(0, total))
    schedule = make(rate, total, warmup_steps=warmup, final=final)
    values = [schedule(step) for step in range(total + 3)]
    climb, fall = values[:warmup], values[warmup:]
    assert climb == sorted(climb)
    assert all(later <= earlier * (1 + 1e-12) for earlier, later in itertools.pairwise(fall))
    assert values[-1] == rate * final
    assert min(values) >= 0
    assert max(values) <= rate * (1 + 1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: constant(math.nan), "the learning rate is nan; give a finite number of at least 0"),
        (lambda: constant(-0.1), "the learning rate is -0.1; give a finite number of at least 0"),
        (lambda: linear(math.inf, 5), "the learning rate is inf; give a finite number of at least 0"),
        (
            lambda: exponential_decay(1, 0, 5),
            "the decay of the learning rate is 0; it must be above 0 and at most 1",
        ),
        (
            lambda: exponential_decay(1, 1.5, 5),
            "the decay of the learning rate is 1.5; it must be above 0 and at most 1",
        ),
        (lambda: exponential_decay(1, 0.5, 0), "the learning rate decays every 0 steps; give at least 1"),
        (lambda: exponential_decay(1, 0.5, 1, -1), "the learning rate decays after -1 steps; give at least 0"),
        (
            lambda: cosine(1, 10, 11),
            "the warm-up takes 11 of 10 steps; give at least 0 and at most all of them",
        ),
        (
            lambda: linear(1, 10, -1),
            "the warm-up takes -1 of 10 steps; give at least 0 and at most all of them",
        ),
        (
            lambda: cosine(1, 10, final=1.5),
            "the final fraction of the learning rate is 1.5; it must be at least 0 and at most 1",
        ),
    ],
)
def test_what_no_schedule_can_be(make: Callable[[], Schedule], message: str) -> None:
    with pytest.raises(ValueError, match=exactly(message)):
        make()
