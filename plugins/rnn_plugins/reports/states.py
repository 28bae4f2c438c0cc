"""Where the hidden states of a network lie: the two directions in which they differ most."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rnn_plugins.errors import UserError
from rnn_plugins.reports.probe import Probe
from rnn_plugins.reports.probing import chosen, observe, too_short
from rnn_plugins.reports.report import Chart, Curve, Findings, Look, Quantity, Report
from rnn_plugins.reports.subject import Subject
from rnn_plugins.words import percent

Array: TypeAlias = NDArray[Any]

STEPS = 100
"""Steps of each of the windows of one long sequence that are read side by side."""

MOST = 1000
"""The largest number of states that are drawn."""

GROUPS = 7
"""The number of labels with a colour of their own; the rest share one."""

REST, GREY = "all others", 5
"""The label of the rest, and its number among the colours of curves."""

DISTINCT = 0.25
"""With more different labels than this share of the states, as of sums or of sentences, none is coloured."""

ENOUGH = 0.9
"""The share of the variance for which the number of directions is given."""


@dataclass(frozen=True)
class Cloud:
    """States along sequences.

    Attributes:
        states: (N, H), outputs of the cell.
        labels: N, what each is coloured by; None where there are no words.
    """

    states: Array
    labels: tuple[str, ...] | None


class States(Report):
    """The states of a network in the two directions in which they differ most.

    The principal components of the cell's output along held-out data (Pearson 1901), coloured by what was read just
    before, or by the label that the network was to give.
    """

    title: ClassVar[str] = "States"
    question: ClassVar[str] = "Do states lie together after the same input, or before the same answer?"

    def memory(self, subject: Subject, look: Look) -> int:
        """For what each step computes, at all positions."""
        return min(look.positions, MOST) * subject.probe.bytes_per_step

    def measure(self, subject: Subject, look: Look) -> Findings:
        """Measure one network.

        Raises:
            UserError: the sequences are too short or too few, the states overflow, or they are all the same.
        """
        reads = subject.language is not None
        cloud = observed(subject.probe, look, reads)
        if len(cloud.states) < 2:
            raise UserError(
                "only one state is measured, and two or more can differ: raise --positions, or give more data"
            )
        components, shares = principal(cloud.states)
        if not shares.size:
            raise UserError("all states are the same, so there are no directions in which they differ")
        first, second = shares[0], shares[1] if len(shares) > 1 else 0.0
        what = f"the cell's output after {len(cloud.states):,} steps of {subject.probe.sequences}"
        coloured = "what was read last" if reads else "the label"
        groups = _groups(cloud.labels)
        explained = between(components[:, :2], groups) if groups else None
        why = "the steps of the data have no words"
        if cloud.labels:
            why = f"{len(cloud.states):,} states have {len(set(cloud.labels)):,} different labels, too many for colours"
        notices = () if groups else (f"{why}, so all states have one colour",)
        quantities = (
            Quantity("first", "variance along the first", float(first), "share of all", f"Of {what}."),
            Quantity("second", "variance along the second", float(second), "share of all", f"Of {what}."),
            Quantity(
                "dimensions", "directions for 90 % of it", int(np.searchsorted(np.cumsum(shares), ENOUGH) + 1),
                f"of {cloud.states.shape[1]}", "How many principal components have 90 % of the variance together.",
            ),
            Quantity(
                "explained", "variance between colours", explained, "share of the two",
                f"The share of the variance along the two that lies between the means of the groups by {coloured}, of "
                f"which the {GROUPS} most frequent are told apart.", "one colour",
            ),
        )  # fmt: skip
        chart = Chart(
            "states",
            "States in two dimensions",
            f"first component, {percent(float(first))} of the variance",
            f"second component, {percent(float(second))} of the variance",
            tuple(_clouds(components, groups)),
            definition=f"A point for {what}, along the two orthogonal directions in which these vary most (principal "
            f"components){f'; coloured by {coloured}' if groups else ''}.",
            overlay=False,
        )
        return Findings(quantities, (chart,), _verdict(first + second, explained, coloured), notices)


def observed(probe: Probe, look: Look, reads: bool) -> Cloud:
    """The cell's outputs along a probe's sequences, spread evenly over them.

    Args:
        probe: the network.
        look: how closely to look.
        reads: whether a state is labelled by its input; otherwise by what is to be predicted after it.

    Raises:
        UserError: the sequences are too short, or the states overflow.
    """
    count, longest = min(look.positions, MOST), probe.longest()
    length, warm_up = 1, 0
    if not probe.separate:
        warm_up = min(look.lags, longest // 2)
        length = min(STEPS, longest - warm_up)
    if length < 1 or longest < 1 or not (ends := probe.ends(length, warm_up)):
        raise too_short(probe, "a state", 1)
    where = np.linspace(0, len(ends) - 1, min(-(-count // length), len(ends))).astype(np.intp)
    some = chosen(ends, np.unique(where))
    outputs = np.asarray(observe(probe, probe.window(some, length, warm_up)).outputs, np.float64)  # (T, B, H)
    states = outputs.swapaxes(0, 1).reshape(len(some) * length, -1)[:count]
    words: list[str] = []
    for end in some.tolist():
        found = probe.labels(end, length)
        if found is None:
            return Cloud(states, None)
        words += found.inputs if reads else found.targets
    return Cloud(states, tuple(words[:count]) if len(words) >= len(states) else None)


def principal(states: Array) -> tuple[Array, Array]:
    """The principal components of states (N, H), the largest first.

    Returns:
        Coordinates (N, K) and shares of the variance (K,); the largest coordinate of each direction's vector is
        positive. Directions in which nothing varies beyond rounding are left out.
    """
    centred = states - states.mean(axis=0)
    _, sizes, directions = np.linalg.svd(centred, full_matrices=False)
    some = sizes > 1e-6 * np.linalg.norm(states)
    directions, variances = directions[some], sizes[some] ** 2
    signs = np.sign(directions[np.arange(len(directions)), np.abs(directions).argmax(axis=1)])
    return centred @ (directions * signs[:, None]).T, variances / max(float(variances.sum()), 1e-300)


def between(points: Array, groups: Sequence[str]) -> float:
    """The share of the variance of points (N, K) that lies between the means of their groups."""
    _, which = np.unique(np.array(groups), return_inverse=True)
    sizes = np.bincount(which)
    centred = points - points.mean(axis=0)
    sums = np.stack([np.bincount(which, column) for column in centred.T], axis=1)
    return float((sums**2 / sizes[:, None]).sum() / (centred**2).sum())


def _groups(labels: Sequence[str] | None) -> tuple[str, ...]:
    """The label of each state, if it is one of the most frequent; none where there are too many."""
    if labels is None or len(set(labels)) > DISTINCT * len(labels):
        return ()
    ranked = Counter(labels).most_common()
    most = {label for label, _ in (ranked if len(ranked) <= GROUPS + 1 else ranked[:GROUPS])}
    return tuple(label if label in most else REST for label in labels)


def _clouds(components: Array, groups: Sequence[str]) -> list[Curve]:
    """The points of each group, the most frequent first; the rest lies under them, in grey."""
    x = components[:, 0]
    y = components[:, 1] if components.shape[1] > 1 else np.zeros(len(x))
    if not groups:
        return [Curve("", x, y, role="points")]
    names = np.array(groups)
    order = [label for label, _ in Counter(groups).most_common() if label != REST]
    styles = [style for style in range(len(order) + 1) if style != GREY]
    under = [(REST, GREY)] if REST in groups else []
    return [
        Curve(label, x[names == label], y[names == label], role="points", style=style)
        for label, style in [*under, *zip(order, styles, strict=False)]
    ]


def _verdict(share: float, explained: float | None, coloured: str) -> tuple[str, ...]:
    words = f"Two directions have {percent(float(share))} of the variance of the states"
    if explained is None:
        return (f"{words}.",)
    return (f"{words}; of that, {percent(explained)} lies between the groups by {coloured}.",)
