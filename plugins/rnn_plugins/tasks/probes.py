"""Probes for separate sequences, with a prediction at the end of each or after every step, for any task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from minigrad import concat, concatenate, trees, where
from minigrad.scan import Lookup
from minigrad.trees import Tree
from rnn_cells import Cell
from rnn_cells.bidirectional import Bidirectional
from rnn_plugins.reports.probe import Labels, Probe, Window, part_of

Array: TypeAlias = NDArray[Any]

ENOUGH = 20
"""Sequences that are enough for a report."""

FORWARDS = (
    "the network reads in both directions; the states that are measured are those of the direction from the first step "
    "to the last, and what the other one has read is constant"
)
"""The notice on a network of two directions."""


@dataclass(eq=False, kw_only=True)
class _Sequences(Probe):
    """What both kinds have in common.

    Of a ``Bidirectional``, the cell that reads forwards is measured. The outputs of the other one do not depend on its
    states; they are computed from the whole sequences, and ``score`` gets them beside the others.

    Attributes:
        recurrent: the recurrent part: a cell, a stack, or a ``Bidirectional`` of them.
        weights: all parameters of the model.
        inputs: of each sequence, (n,) symbols or (n, ...) numbers.
        goals: what is to be predicted.
        see: ``see(weights, inputs)``: what the cell sees of inputs (T, B, ...), padded: an array or a ``Lookup``.
        score: the loss of each prediction.
        dtype: of parameters and activations.
        unit: the noun for a step, in the singular.
        sequence: the noun for a sequence, in the singular.
        key: where the recurrent part's parameters are in ``weights``.
        first: ``first(weights, which)``: the carry before the first step of the sequences ``which`` (B,); None for the
            cell's own.
        loss_unit: as in ``Probe``.
        numbers_per_output: likewise.
        written: ``written(index)``: a text for each input and each target of a sequence; None if they have none.
        far: as ``Probe.distance`` returns it.
    """

    recurrent: Cell
    weights: Mapping[str, Any]
    inputs: Sequence[Array]
    goals: Sequence[Any] | Array
    see: Callable[[Any, Array], Any]
    score: Callable[..., Any]
    dtype: str = "float32"
    unit: str = "step"
    sequence: str = "sequence"
    key: str = "cell"
    first: Callable[[Any, Array], Tree] | None = None
    loss_unit: str = "nats"
    numbers_per_output: int = 1
    written: Callable[[int], Labels] | None = None
    far: tuple[float | None, str] = (None, "")

    def __post_init__(self) -> None:
        both = isinstance(self.recurrent, Bidirectional)
        self.cell = self.recurrent.forward if isinstance(self.recurrent, Bidirectional) else self.recurrent
        self.params = self.weights[self.key]["forward"] if both else self.weights[self.key]
        self.notices = (FORWARDS,) if both else ()

    @cached_property
    def lengths(self) -> Array:
        """The number of steps of each sequence."""
        return np.array([len(inputs) for inputs in self.inputs], np.intp)

    def astype(self, dtype: str) -> Any:
        """The same probe with another dtype of parameters and activations."""
        return replace(self, weights=trees.cast(self.weights, dtype), dtype=dtype)

    def distance(self) -> tuple[float | None, str]:
        """As the task gives it."""
        return self.far

    def _cut(self, which: Array, ends: Array, length: int) -> tuple[Window, Any, Array]:
        """The ``length`` steps before some steps of sequences, and what comes before those.

        Args:
            which: the sequences, (B,).
            ends: in each, the number of steps up to the end of its window, (B,).
            length: T.

        Returns:
            The window, the inputs before it, padded at the start, and the mask of these.
        """
        total = int(ends.max(initial=length))
        xs = self._seen([self.inputs[index][:end] for index, end in zip(which, ends, strict=True)], total, last=True)
        there = np.arange(total - length)[:, None] >= total - ends
        before = part_of(xs, slice(0, total - length))
        carry = self.read(before, mask=there, carry=self._first(which))
        return Window(carry, part_of(xs, slice(total - length, None))), before, there

    def _seen(self, sequences: Sequence[Array], total: int, *, last: bool) -> Any:
        """What the cell sees of some sequences, padded to ``total`` steps, at the start if ``last``: (T, B, ...)."""
        inputs = np.asarray(sequences[0])
        padded = np.zeros((total, len(sequences), *inputs.shape[1:]), inputs.dtype)
        for column, inputs in enumerate(sequences):
            start = total - len(inputs) if last else 0
            padded[start : start + len(inputs), column] = inputs
        xs = self.see(self.weights, padded)
        if isinstance(xs, Lookup):
            return Lookup(np.asarray(xs.table, self.dtype), xs.indices)
        return np.asarray(xs, self.dtype)

    def _first(self, which: Array) -> Tree:
        if self.first is None:
            return self.init_carry(len(which))
        return trees.cast(trees.map(np.asarray, self.first(self.weights, which)), self.dtype)

    def _backwards(self, which: Array) -> Array:
        """The outputs of the second direction along whole sequences, (T, B, output_size), padded at the end."""
        assert isinstance(self.recurrent, Bidirectional)
        cell, lengths = self.recurrent.backward, self.lengths[which]
        xs = self._seen([self.inputs[index] for index in which], int(lengths.max()), last=False)
        carry = trees.cast(cell.init_carry(len(which)), self.dtype)
        _, ys = cell.unroll(self.weights[self.key]["backward"], carry, xs, lengths=lengths, reverse=True)
        return np.asarray(ys)


@dataclass(eq=False, kw_only=True)
class AtEnd(_Sequences):
    """A network that predicts at the end of each sequence; a position is the index of a sequence.

    ``goals`` has one entry for each sequence. ``score(weights, outputs, lengths, goals)`` takes outputs (T, B, H),
    padded at the end, and lengths (B,), and returns the losses (B,).

    Attributes:
        whole: whether ``score`` needs the outputs of all steps, as a mean over them does; otherwise it gets those of
            the window.
    """

    whole: bool = False

    def longest(self, *, scored: bool = True) -> int:
        """The number of steps that at least ``ENOUGH`` sequences have, or if there are fewer, all of them."""
        return _enough(self.lengths)

    def ends(self, length: int, warm_up: int = 0, *, scored: bool = True) -> Sequence[int]:
        """The sequences that have so many steps."""
        return [int(index) for index in np.flatnonzero(self.lengths >= length)]

    def window(self, ends: Array, length: int, warm_up: int = 0) -> Window:
        """The last steps of some sequences."""
        return self._cut(ends, self.lengths[ends], length)[0]

    def targets(self, ends: Array, length: int) -> Array:
        """The sequences themselves, (B,): ``loss`` looks up what is to be predicted of them."""
        return np.asarray(ends, np.intp)

    def loss(self, outputs: Any, targets: Array) -> Any:
        """The loss of each sequence, (B,), from the outputs (T, B, H) along its last steps."""
        length, lengths = outputs.shape[0], np.full(len(targets), outputs.shape[0])
        both = isinstance(self.recurrent, Bidirectional)
        if self.whole or both:
            lengths = self.lengths[targets]
            _, before, there = self._cut(targets, lengths, length)
            if total := len(there):
                _, ys = self.cell.unroll(self.params, self._first(targets), before, mask=there)
                outputs = concatenate([np.asarray(ys), outputs], 0)
            steps = np.arange(total + length)[:, None] + total + length - lengths
            outputs = outputs[np.minimum(steps, total + length - 1), np.arange(len(targets))]
            if both:
                outputs = concat(outputs, self._backwards(targets))
        return self.score(self.weights, outputs, lengths, _some(self.goals, targets))

    def labels(self, end: int, length: int) -> Labels | None:
        """The inputs of a sequence's last steps, and what is to be predicted at its end."""
        if self.written is None:
            return None
        inputs, targets = self.written(end)
        return Labels(inputs[len(inputs) - length :], targets[-1:])


@dataclass(eq=False, kw_only=True)
class EveryStep(_Sequences):
    """A network that predicts after every step; a position is the number of a step, counted through all sequences.

    ``goals`` has an array (n, ...) for each sequence; where they are integers, a negative one stands for no prediction:
    that step has no loss. ``score(weights, outputs, goals)`` takes outputs (..., H) with any leading axes, and returns
    a loss for each.
    """

    every_step: ClassVar[bool] = True

    @cached_property
    def _starts(self) -> Array:
        """The steps of all sequences before each one."""
        return np.concatenate([[0], np.cumsum(self.lengths)[:-1]]).astype(np.intp)

    @cached_property
    def _whose(self) -> Array:
        """The sequence of each step."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    @cached_property
    def _goals(self) -> Array:
        return np.concatenate([np.asarray(goals) for goals in self.goals])

    @cached_property
    def _scored(self) -> Array:
        """Whether each step has a loss."""
        if self._goals.dtype.kind != "i" or self._goals.ndim > 1:
            return np.ones(len(self._goals), bool)
        return self._goals >= 0

    def _read_until(self, scored: bool) -> Array:
        """At each step, the steps of its sequence that are read there; 0 where it has no loss, if it must have one."""
        read = np.arange(len(self._whose)) - self._starts[self._whose] + 1
        return np.where(self._scored, read, 0) if scored else read

    def longest(self, *, scored: bool = True) -> int:
        """The number of steps up to the last loss of at least ``ENOUGH`` sequences, or if there are fewer, of all."""
        if not len(self.lengths):
            return 0
        return _enough(np.maximum.reduceat(self._read_until(scored), self._starts))

    def ends(self, length: int, warm_up: int = 0, *, scored: bool = True) -> Sequence[int]:
        """The steps that, with those before, are so many."""
        return [int(step) for step in np.flatnonzero(self._read_until(scored) >= length)]

    def window(self, ends: Array, length: int, warm_up: int = 0) -> Window:
        """The steps up to each of some."""
        which = self._whose[ends]
        return self._cut(which, ends - self._starts[which] + 1, length)[0]

    def targets(self, ends: Array, length: int) -> Array:
        """The steps themselves, (T, B): ``loss`` looks up what is to be predicted after them."""
        return np.asarray(ends + np.arange(1 - length, 1)[:, None], np.intp)

    def loss(self, outputs: Any, targets: Array) -> Any:
        """The loss of each step, from its output."""
        if isinstance(self.recurrent, Bidirectional):
            some, columns = np.unique(self._whose[targets], return_inverse=True)
            ys = self._backwards(some)
            rows = targets - self._starts[self._whose[targets]]
            outputs = concat(outputs, ys[rows, columns.reshape(targets.shape)])
        scored = self._scored[targets]
        if scored.all():
            return self.score(self.weights, outputs, self._goals[targets])
        goals = np.where(scored, self._goals[targets], 0)
        return where(scored, self.score(self.weights, outputs, goals), np.zeros((), self.dtype))

    def labels(self, end: int, length: int) -> Labels | None:
        """The inputs of a window's steps, and what is to be predicted after each."""
        if self.written is None:
            return None
        whose = int(self._whose[end])
        stop = end - int(self._starts[whose]) + 1
        inputs, targets = self.written(whose)
        return Labels(inputs[stop - length : stop], targets[stop - length : stop])


def _enough(steps: Array) -> int:
    return int(np.sort(steps)[-min(ENOUGH, len(steps))]) if len(steps) else 0


def _some(goals: Sequence[Any] | Array, which: Array) -> Any:
    return goals[which] if isinstance(goals, np.ndarray) else np.array([goals[index] for index in which])
