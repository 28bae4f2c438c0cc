"""A probe: a network along sequences, as reports measure it, whatever the task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from minigrad import trees
from minigrad.scan import Lookup
from minigrad.trees import Tree
from rnn_cells import Cell
from rnn_cells.anatomy import Anatomy, anatomy
from rnn_plugins.errors import UserError

Array: TypeAlias = NDArray[Any]

BYTES_AT_ONCE = 120_000_000
"""Memory that many positions may take together."""

COPIES = 3
"""How often the numbers of a step are in memory at most, while a gradient by states is taken: as they are computed, as
they are kept for the way back, and what is computed there."""

COMPUTED = 20
"""How many numbers a step computes, about, for each that it carries."""


class Window(NamedTuple):
    """Some steps of B sequences, side by side.

    Attributes:
        carry: before the first step.
        xs: what the cell sees: (T, B, ...), or a ``minigrad.scan.Lookup`` of that shape.
    """

    carry: Tree
    xs: Any


class Labels(NamedTuple):
    """What stands at the steps of a window, a short text each.

    Attributes:
        inputs: T, what the cell sees.
        targets: T, what each loss is about; a single one where the only loss is at the end.
    """

    inputs: tuple[str, ...]
    targets: tuple[str, ...]


class Probe(ABC):
    """A network along sequences: what its cell sees, and the losses that come of its outputs.

    A *position* is an integer that identifies a point in the sequences at which something is predicted. Each probe
    defines its positions: for one long text, the index of the predicted symbol; for separate sequences with one target
    each, the index of the sequence.

    Attributes:
        cell: the recurrent part, one cell or a stack.
        params: its parameters, and no others.
        dtype: of parameters and activations.
        unit: what a step is, in the singular: character, byte, word, frame.
        sequence: what a sequence is, in the singular: text, name, recording.
        separate: whether there are many sequences, each with a beginning of its own, and not one long one.
        every_step: whether something is predicted after every step, and not only at the end of a sequence.
        loss_unit: of the losses; empty for squares of numbers.
        numbers_per_output: how many numbers a loss makes of the output of one step, which bounds the steps that fit
            the memory.
        notices: what is to be said of what is measured, a sentence each.
    """

    cell: Cell
    params: Tree
    dtype: str
    unit: str = "step"
    sequence: str = "sequence"
    separate: ClassVar[bool] = True
    every_step: ClassVar[bool] = False
    loss_unit: str = "nats"
    numbers_per_output: int = 1
    notices: Sequence[str] = ()

    @abstractmethod
    def longest(self, *, scored: bool = True) -> int:
        """The number of steps that there are at most before a position; of separate sequences, before enough of them.

        Args:
            scored: before a position whose target is known, so that there is a loss.
        """

    @abstractmethod
    def ends(self, length: int, warm_up: int = 0, *, scored: bool = True) -> Sequence[int]:
        """The positions, in order, that have so many steps before them.

        Args:
            length: steps that are measured.
            warm_up: steps before these, as ``window`` reads them; separate sequences need not have them.
            scored: only those whose target is known.
        """

    @abstractmethod
    def window(self, ends: Array, length: int, warm_up: int = 0) -> Window:
        """The ``length`` steps before each of some positions (B,), and the carry before those.

        Args:
            ends: positions, as ``ends`` gives them.
            length: T.
            warm_up: how many steps before are read from the first carry on, in one long sequence; of a separate one,
                all are that it has.

        Raises:
            UserError: the states overflow.
        """

    @abstractmethod
    def targets(self, ends: Array, length: int) -> Array:
        """What is to be predicted after each step of a window, (T, B); where not ``every_step``, at its end, (B,)."""

    @abstractmethod
    def loss(self, outputs: Any, targets: Array) -> Any:
        """Losses in ``loss_unit``, differentiable.

        Args:
            outputs: of the cell, (..., B, output_size).
            targets: (..., B), one for each output. Where not ``every_step``: (B,), for outputs (T, B, output_size).

        Returns:
            One for each target.
        """

    @abstractmethod
    def astype(self, dtype: str) -> Probe:
        """The same with parameters and activations of another dtype."""

    def labels(self, end: int, length: int) -> Labels | None:
        """What stands at the steps before a position; None where that is nothing to be written."""
        return None

    def distance(self) -> tuple[float | None, str]:
        """How many steps lie between things that belong together, and the beginning of a clause that says so.

        Such as 31 and "half of this text's brackets close later than". None where nothing is known.
        """
        return None, ""

    @cached_property
    def anatomy(self) -> Anatomy:
        """The parts of the cell's step."""
        return anatomy(self.cell)

    def in_loss(self, what: str) -> str:
        """The label of an axis with the unit of the losses: "norm, nats"."""
        return f"{what}, {self.loss_unit}" if self.loss_unit else what

    @property
    def sequences(self) -> str:
        """All of them in words: "the text", "the names"."""
        return f"the {self.sequence}{'s' if self.separate else ''}"

    def init_carry(self, size: int) -> Tree:
        """The first carry of so many sequences."""
        return trees.cast(self.cell.init_carry(size), self.dtype)

    def read(self, xs: Any, *, mask: Array | None = None, carry: Tree | None = None) -> Tree:
        """The carry after inputs (T, B, ...), from the first carry on.

        Args:
            xs: what the cell sees.
            mask: (T, B), false at steps that are not there.
            carry: the first carry; None for the cell's own.

        Raises:
            UserError: the states overflow.
        """
        length, batch = xs.shape[:2]
        carry = self.init_carry(batch) if carry is None else carry
        # Not rows_at_once, for which the step of a whole stack would be traced.
        carried = sum(leaf.nbytes for leaf in trees.leaves(carry))
        at_once = max(1, BYTES_AT_ONCE // (COMPUTED * max(carried, 1)))
        for start in range(0, length, at_once):
            some = slice(start, start + at_once)
            with np.errstate(over="ignore", invalid="ignore"):
                after, _ = self.cell.unroll(
                    self.params, carry, part_of(xs, some), mask=None if mask is None else mask[some]
                )
            # A step may give the parts of its carry in another order; states are told by that of the first.
            carry = trees.map(lambda _, leaf: leaf, carry, after)
            require_finite(carry)
        return carry

    @property
    def bytes_per_step(self) -> int:
        """The size of all that one step of one sequence computes."""
        return max(self.anatomy.numbers, 1) * np.dtype(self.dtype).itemsize

    def rows_at_once(self, length: int) -> int:
        """How many sequences of some length to take together, so that all that is computed fits ``BYTES_AT_ONCE``."""
        return max(1, BYTES_AT_ONCE // (COPIES * self.bytes_per_step * length))


def part_of(xs: Any, some: Any) -> Any:
    """Some of inputs (T, B, ...), by an index of their first axes."""
    return Lookup(xs.table, xs.indices[some]) if isinstance(xs, Lookup) else xs[some]


def require_finite(numbers: Tree) -> None:
    """See to it that states, or what is made of them, are numbers.

    Raises:
        UserError: one is infinite or no number.
    """
    if not all(np.isfinite(leaf).all() for leaf in trees.leaves(numbers)):
        raise UserError(
            "the network's states overflow: use a smaller recurrent matrix, or train with clipping (--grad-clip 1)"
        )
