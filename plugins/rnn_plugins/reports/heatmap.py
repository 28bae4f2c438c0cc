"""Which step's loss depends on which step's state, as a picture of one stretch of a sequence, or of several."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rnn_plugins.reports.gradients import main_state
from rnn_plugins.reports.probe import COPIES, Probe
from rnn_plugins.reports.probing import draw_positions, parts_of, state_gradients, too_short
from rnn_plugins.reports.report import Findings, Image, Look, Quantity, Report
from rnn_plugins.reports.subject import Subject

Array: TypeAlias = NDArray[Any]

WIDEST = 64
"""Steps of the picture at most, so that each has room for its label."""

ROWS = 16
"""Sequences of the picture where each has one loss, at its end."""

FLOOR = 1e-3
"""The share of the largest gradient below which all have one colour: what is so small is not learnt from."""

COLOURS = (
    "A colour means the same for all networks shown together. The scale begins at a thousandth of the smallest of "
    "their largest norms and ends at most at a thousand times that; what is beyond has the colour of its end."
)


class Map(NamedTuple):
    """The norms of derivatives of losses by states.

    Attributes:
        norms: (losses, states); NaN where the state comes after the loss.
        lags: how many steps lie between the two, of the same shape.
        whose: over which losses the mean lag is taken, and in words.
        image: with its labels.
    """

    norms: Array
    lags: Array
    whose: tuple[slice, str]
    image: Image


class Heatmap(Report):
    """Which losses depend on which states, step by step.

    The norm of the derivative of the loss at step t by the state after step k, for all pairs of steps of one stretch;
    where a sequence has one loss, at its end, for all steps of several sequences.
    """

    title: ClassVar[str] = "Heat map of the gradient"
    question: ClassVar[str] = "Which earlier steps does each loss depend on?"

    def memory(self, subject: Subject, look: Look) -> int:
        """For the steps of all rows, or for as many of them as are taken together."""
        return min(super().memory(subject, look), WIDEST**2 * COPIES * subject.probe.bytes_per_step)

    def measure(self, subject: Subject, look: Look) -> Findings:
        """Measure one network.

        Raises:
            UserError: the sequences are too short.
        """
        probe = subject.probe
        steps = min(WIDEST, look.lags + 1, probe.longest() // (1 if probe.separate else 2))
        if steps < 2:
            raise too_short(probe, "a heat map", 2 if probe.separate else 4)
        state = main_state(probe.anatomy.states)
        found = (_of_steps if probe.every_step else _of_sequences)(probe, state, steps, look.seed)
        some, words = found.whose
        total = np.nansum(found.norms, axis=1)[some]
        reach = np.nansum(found.norms * found.lags, axis=1)[some] / np.maximum(total, np.finfo(float).tiny)
        name = probe.anatomy.states[state].label
        return Findings(
            quantities=(
                Quantity(
                    "mean_lag",
                    "mean lag of the gradient",
                    float(reach.mean()),
                    "steps",
                    f"The lags of the norms for {name}, weighted by the norms, over {words}.",
                ),
            ),
            figures=(found.image,),
        )


def _of_steps(probe: Probe, state: int, steps: int, seed: int) -> Map:
    """The losses of all steps of one window, by the states of all steps before."""
    (end,) = draw_positions(probe, steps, steps, 1, np.random.default_rng(seed))
    # Row b is the same window as all others, with the loss at its step b.
    norms = _norms(probe, state, np.repeat(end, steps), steps, at=np.arange(steps))
    norms[np.triu_indices(steps, 1)] = np.nan
    labels, name = probe.labels(int(end), steps), probe.anatomy.states[state].label
    image = Image(
        "heatmap",
        f"|dL(t) / d{name}(k)|",
        "source: the state after reading, step k",
        "loss: at predicting, step t",
        norms,
        probe.in_loss("norm"),
        labels.inputs if labels else (),
        labels.targets if labels else (),
        log=True,
        definition="The Euclidean norm of the derivative of the loss at each step t (a row, with the "
        f"{probe.unit} that is predicted) with respect to {name} after each step k (a column, with the {probe.unit} "
        f"that was read). A column that stays bright is a {probe.unit} that later losses depend on. {COLOURS}",
        floor=FLOOR,
    )
    lags = np.arange(steps)[:, None] - np.arange(steps)
    return Map(norms, lags, (slice(steps // 2, None), "the second half of the losses"), image)


def _of_sequences(probe: Probe, state: int, steps: int, seed: int) -> Map:
    """The losses at the ends of some sequences, by the states of all steps before."""
    ends = draw_positions(probe, steps, steps, ROWS, np.random.default_rng(seed))
    norms = _norms(probe, state, ends, steps)
    lags = np.arange(steps)[::-1]
    labels, name = [probe.labels(int(end), steps) for end in ends], probe.anatomy.states[state].label
    image = Image(
        "heatmap",
        f"|dL / d{name}(k)|",
        f"source: the state so many {probe.unit}s before the end",
        "loss: of each sequence",
        norms,
        probe.in_loss("norm"),
        tuple(map(str, lags.tolist())),
        tuple(label.targets[-1] for label in labels if label),
        log=True,
        definition=f"The Euclidean norm of the derivative of the loss at the end of {len(ends)} of {probe.sequences} "
        f"(a row, with what is predicted) with respect to {name} after each {probe.unit} before it (a column). "
        f"{COLOURS}",
        floor=FLOOR,
    )
    return Map(norms, np.broadcast_to(lags, norms.shape), (slice(None), f"{len(ends)} of {probe.sequences}"), image)


def _norms(probe: Probe, state: int, ends: Array, steps: int, at: Array | None = None) -> Array:
    """The norms of the derivatives by one state after each of the steps before some positions (B,), (B, T).

    Args:
        probe: the network.
        state: which.
        ends: the positions.
        steps: T.
        at: as for ``state_gradients``.
    """
    found = []
    for rows, repeated in parts_of(len(ends), probe.rows_at_once(steps)):
        window, targets = probe.window(ends[rows], steps, steps), probe.targets(ends[rows], steps)
        gradients = state_gradients(probe, window, targets, None if at is None else at[rows])[state]
        found.append(np.linalg.norm(gradients.astype(np.float64), axis=-1).T[repeated:])
    return np.concatenate(found)
