"""The memory of generated code: slots, which are arguments of the code, and the locations of values in their rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from minigrad.compiled.llvm import Function, Register
from minigrad.graph import Value
from minigrad.tensor import Array

WORDS = 3
"""Arguments per slot: the address, and the distances in elements from step to step and from row to row.

The first argument of all is the address of the function for products; slot i has the words from 1 + 3 i on.
"""

PARAMETERS = "i64* noalias readonly args, i64 t, i64 b0, i64 b1"
"""Of a function that computes the rows b0 to b1 of one step."""


@dataclass(frozen=True)
class Extent:
    """The rows of one call.

    Attributes:
        lead: the leading axes of rows: (T, B), (B,) for the context, or (V,) for a table.
        batch: B.
        shards: the number of ranges of rows, each computed by one thread.
        block: the most rows of a shard that are computed at once.
        tables: the lengths of tables, by the value of their indices.
    """

    lead: tuple[int, ...]
    batch: int
    shards: int
    block: int
    tables: Mapping[Value, int]


@dataclass(eq=False)
class Slot:
    """Memory whose address is an argument of the code; this one has a single row, the same for all rows of the code.

    Attributes:
        size: elements of a row.
        type: of an element: ``float``, ``double`` or ``i64``.
        number: its position among the slots of the code.
        value: its content, or the value that the content is like.
        zeroed: whether the memory must be zero before the code runs.
        per_shard: whether each shard has its own memory, along the first axis.
    """

    size: int
    type: str
    number: int
    value: Value
    zeroed: ClassVar[bool] = False
    per_shard: ClassVar[bool] = False

    def shape(self, extent: Extent) -> tuple[int, ...]:
        """The shape of the memory for a call."""
        return (self.size,)

    def word(self, f: Function, index: int, kind: str = "i64") -> Register:
        """One of the slot's arguments, in a function with ``PARAMETERS``."""
        return (f.parameters[0] + (1 + WORDS * self.number + index)).pointing_to(kind).load()

    def row(self, f: Function, b: Register) -> Register:
        """The address of the row of sequence ``b``, in a function with ``PARAMETERS``."""
        return self.word(f, 0, "ptr").pointing_to(self.type)

    def _at(self, f: Function, step: Register, row: Register) -> Register:
        """The address of a row among rows of several steps."""
        return Slot.row(self, f, row) + step * self.word(f, 1) + row * self.word(f, 2)


class Fixed(Slot):
    """A value that is the same for all rows."""


class Packed(Slot):
    """A matrix, packed for products."""


class Total(Slot):
    """The sum of a value over the rows of a shard."""

    zeroed = per_shard = True

    def shape(self, extent: Extent) -> tuple[int, ...]:
        """As in ``Slot``."""
        return extent.shards, self.size


class Rows(Slot):
    """A row per step and sequence; per sequence, if the distance between steps is 0."""

    def shape(self, extent: Extent) -> tuple[int, ...]:
        """As in ``Slot``."""
        return *extent.lead, self.size

    def row(self, f: Function, b: Register) -> Register:
        """As in ``Slot``."""
        return self._at(f, f.parameters[1], b)


class Indices(Rows):
    """An integer per step and sequence: the row of a table."""


class Summed(Rows):
    """A row per sequence, that the values of all its steps are added to."""

    zeroed = True

    def shape(self, extent: Extent) -> tuple[int, ...]:
        """As in ``Slot``."""
        return extent.batch, self.size


class Scratch(Slot):
    """Rows of intermediate values, counted from the first of the shard or block."""

    per_shard = True

    def shape(self, extent: Extent) -> tuple[int, ...]:
        """As in ``Slot``."""
        return extent.shards, extent.block, self.size

    def row(self, f: Function, b: Register) -> Register:
        """As in ``Slot``."""
        return Slot.row(self, f, b) + (b - f.parameters[2]) * self.word(f, 2)


class Coming(Slot):
    """The cotangent of the outgoing carry: one of two blocks of rows, which swap roles at every step."""

    def shape(self, extent: Extent) -> tuple[int, ...]:
        """As in ``Slot``."""
        return 2, extent.batch, self.size

    def row(self, f: Function, b: Register) -> Register:
        """As in ``Slot``."""
        return self._at(f, f.parameters[1] & 1, b)


class Going(Slot):
    """The cotangent of the incoming carry: the other one of these blocks."""

    def row(self, f: Function, b: Register) -> Register:
        """As in ``Slot``."""
        return self._at(f, (f.parameters[1] & 1).binary("xor", 1), b)


@dataclass(eq=False)
class LookedUp(Slot):
    """The rows of a table that the indices name.

    Attributes:
        indices: the slot of the indices.
    """

    indices: Slot

    def row(self, f: Function, b: Register) -> Register:
        """As in ``Slot``."""
        index = self.indices.row(f, b).load()
        return Slot.row(self, f, b) + index * self.word(f, 2)


class Scattered(LookedUp):
    """The rows of a table, one table per shard, that values are added to."""

    zeroed = per_shard = True

    def shape(self, extent: Extent) -> tuple[int, ...]:
        """As in ``Slot``."""
        return extent.shards, extent.tables[self.indices.value], self.size


@dataclass(frozen=True)
class Location:
    """Where in each row of a slot a value lies.

    Attributes:
        slot: the slot.
        offset: of the first element, in elements.
        strides: in elements, one for each axis of the value but the first.
    """

    slot: Slot
    offset: int
    strides: tuple[int, ...]

    @classmethod
    def of(cls, slot: Slot, value: Value, offset: int = 0) -> Location:
        """The location of a value whose elements are adjacent."""
        return cls(slot, offset, contiguous(value.shape[1:]))

    def view(self, array: Array, leading: int, inner: tuple[int, ...]) -> Array:
        """The array of a value whose elements are adjacent.

        Args:
            array: the slot's memory; after its leading axes comes a row, of any shape.
            leading: the number of leading axes.
            inner: the value's shape without its first axis.

        Returns:
            The same leading axes, then ``inner``; no copy.
        """
        if array.shape[leading:] == inner:  # the whole row
            return array
        lead = array.shape[:leading]
        row = array.reshape(*lead, math.prod(array.shape[leading:]))
        return row[..., self.offset : self.offset + math.prod(inner)].reshape(*lead, *inner)


def contiguous(shape: Sequence[int]) -> tuple[int, ...]:
    """The strides in elements of an array in C order; 0 for an axis of one."""
    strides, step = [], 1
    for n in reversed(shape):
        strides.append(0 if n == 1 else step)
        step *= n
    return tuple(reversed(strides))


def reshaped(shape: Sequence[int], strides: Sequence[int], new: Sequence[int]) -> tuple[int, ...] | None:
    """The strides of the same elements, in C order, in another shape; None if no strides describe them."""
    runs: list[tuple[int, int]] = []  # axes that are evenly spaced together, the last first
    for n, stride in zip(reversed(shape), reversed(strides), strict=True):
        if n == 1:
            continue
        if runs and stride == runs[-1][0] * runs[-1][1]:
            runs[-1] = (runs[-1][0] * n, runs[-1][1])
        else:
            runs.append((n, stride))
    found, rest, step = [], 1, 0
    following = iter(runs)
    for n in reversed(new):
        if n > 1 and rest == 1:
            rest, step = next(following)
        if rest % n:
            return None
        found.append(0 if n == 1 else step)
        rest, step = rest // n, step * n
    return tuple(reversed(found))


def is_contiguous(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether elements are adjacent in C order."""
    return all(n == 1 or a == b for n, a, b in zip(shape, strides, contiguous(shape), strict=True))
