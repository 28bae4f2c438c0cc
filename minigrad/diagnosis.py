"""Find where a computation stopped being finite, by running the step again with an observer."""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from typing import Any

import numpy as np

from minigrad import trees
from minigrad.gradients import value_and_grad
from minigrad.tensor import Node, observer, value_of
from minigrad.training import Loss, NotFinite
from minigrad.trees import Tree


@dataclass(frozen=True)
class Finding:
    """The first value that was infinite or NaN.

    Attributes:
        phase: "parameters", "forward" or "backward".
        primitive: the primitive that computed it; empty if a parameter was not finite before the step.
        parameter: the path of the nearest parameter that it was computed from; empty if there is none.
        time_step: the step of the sequence, from 0; None outside the time loop.
    """

    phase: str
    primitive: str = ""
    parameter: str = ""
    time_step: int | None = None

    def sentence(self) -> str:
        """The finding as a sentence."""
        if self.phase == "parameters":
            return f"The parameter {self.parameter} was not finite before the step."
        what = self.primitive if self.phase == "forward" else f"the gradient of {self.primitive}"
        where = f" at time step {self.time_step}" if self.time_step is not None else ""
        near = f", computed from {self.parameter}" if self.parameter else ""
        return f"The first value that was not finite is a result of {what}{where}{near}."


class _Watch:
    """An observer that records the first node whose output or cotangent is not finite."""

    def __init__(self) -> None:
        self.found: tuple[str, Node] | None = None
        self.steps: list[tuple[int, int | None]] = []  # (index of the last node before a time step, the step)
        self.last = 0

    def saw_time(self, step: int | None) -> None:
        self.steps.append((self.last, step))

    def saw_output(self, node: Node) -> None:
        self.last = node.index
        if self.found is None and not np.isfinite(node.output).all():
            self.found = ("forward", node)

    def saw_cotangent(self, node: Node, cotangent: Any) -> None:
        if self.found is None and not np.isfinite(value_of(cotangent)).all():
            self.found = ("backward", node)

    def time_of(self, node: Node) -> int | None:
        """The time step during which a node was created; None before and after the loop."""
        index = bisect.bisect_left(self.steps, node.index, key=lambda mark: mark[0]) - 1
        return self.steps[index][1] if index >= 0 else None


def explain(loss: Loss, params: Tree, error: NotFinite) -> Finding:
    """Run the failed step again and find the first value that was not finite.

    Args:
        loss: the training loss.
        params: the parameters before the step.
        error: the error raised by ``minigrad.training.train``.
    """
    for path, leaf in trees.flatten(params).items():
        if not np.isfinite(leaf).all():
            return Finding("parameters", parameter=path)
    watch = _Watch()
    names: dict[int, str] = {}

    def watched(inputs: Tree) -> Any:
        names.update({leaf.node.index: path for path, leaf in trees.flatten(inputs).items()})
        value, _ = loss(inputs, error.carry, error.batch, error.rng)
        return value

    token = observer.set(watch)
    try:
        with np.errstate(all="ignore"):
            value_and_grad(watched)(params)
    finally:
        observer.reset(token)
    if watch.found is None:  # the gradient's norm overflowed, although its elements are finite
        return Finding("backward", primitive="the global norm")
    phase, node = watch.found
    name = node.primitive.name if node.primitive else names.get(node.index, "")
    return Finding(phase, name, _nearest_parameter(node, names), watch.time_of(node))


def _nearest_parameter(node: Node, names: dict[int, str]) -> str:
    """The first parameter found from a node backwards, breadth first."""
    level, seen = [node], {node.index}
    while level:
        for reached in level:
            if reached.index in names:
                return names[reached.index]
        parents = [p for reached in level for p in reached.parents if p is not None and p.index not in seen]
        seen.update(p.index for p in parents)
        level = parents
    return ""
