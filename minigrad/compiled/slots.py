"""The memory of generated code: slots, which are arguments of the code, and the locations of values in their rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from minigrad.compiled.emitter import Emitter
from minigrad.graph import Value
from minigrad.tensor import Array

WORDS = 3
"""Arguments per slot: the address, and the distances in elements from step to step and from row to row.

The first argument of all is the address of the function for products; slot i has the words from 1 + 3 i on.
"""


@dataclass(eq=False)
class Slot:
    """Memory whose address is an argument of the code; this one has a single row, the same for all rows of the code.

    Attributes:
        size: elements of a row.
        type: of an element: ``float``, ``double`` or ``i64``.
        number: its position among the slots of the code.
        value: its content; None if it is not a single value.
    """

    size: int
    type: str
    number: int
    value: Value | None = None

    def word(self, em: Emitter, index: int, kind: str = "i64") -> str:
        """A register with one of the slot's arguments."""
        at = em.assign(f"getelementptr i64, ptr %args, i64 {1 + WORDS * self.number + index}")
        return em.assign(f"load {kind}, ptr {at}")

    def row(self, em: Emitter, b: str, t: str, first: str) -> str:
        """A pointer to the row of sequence ``b`` at step ``t``; ``first`` is the first row of the shard or block."""
        return self.word(em, 0, "ptr")

    def _moved(self, em: Emitter, pointer: str, count: str, word: int) -> str:
        """A pointer moved by this number of steps or rows."""
        distance = em.assign(f"mul i64 {count}, {self.word(em, word)}")
        return em.assign(f"getelementptr {self.type}, ptr {pointer}, i64 {distance}")


class Fixed(Slot):
    """A value that is the same for all rows."""


class Packed(Slot):
    """A matrix, packed for products."""


class Total(Slot):
    """The sum of a value over the rows of a shard; zero before the code runs."""


class Rows(Slot):
    """A row per step and sequence."""

    def row(self, em: Emitter, b: str, t: str, first: str) -> str:
        """As in ``Slot``."""
        return self._moved(em, self._moved(em, self.word(em, 0, "ptr"), t, 1), b, 2)


class Indices(Rows):
    """An integer per step and sequence: the row of a table."""


class Scratch(Slot):
    """Rows of intermediate values, counted from the first of the shard or block."""

    def row(self, em: Emitter, b: str, t: str, first: str) -> str:
        """As in ``Slot``."""
        return self._moved(em, self.word(em, 0, "ptr"), em.assign(f"sub i64 {b}, {first}"), 2)


class Coming(Slot):
    """The cotangent of the outgoing carry: one of two blocks of rows, which swap roles at every step."""

    def row(self, em: Emitter, b: str, t: str, first: str) -> str:
        """As in ``Slot``."""
        return self._moved(em, self._moved(em, self.word(em, 0, "ptr"), self._block(em, t), 1), b, 2)

    def _block(self, em: Emitter, t: str) -> str:
        return em.assign(f"and i64 {t}, 1")


class Going(Coming):
    """The cotangent of the incoming carry: the other one of these blocks."""

    def _block(self, em: Emitter, t: str) -> str:
        return em.assign(f"xor i64 {super()._block(em, t)}, 1")


@dataclass(eq=False)
class LookedUp(Slot):
    """The rows of a table that the indices name.

    Attributes:
        indices: the slot of the indices.
    """

    indices: Slot | None = None

    def row(self, em: Emitter, b: str, t: str, first: str) -> str:
        """As in ``Slot``."""
        assert self.indices is not None
        index = em.assign(f"load i64, ptr {self.indices.row(em, b, t, first)}")
        return self._moved(em, self.word(em, 0, "ptr"), index, 2)


class Scattered(LookedUp):
    """The rows of a table, one table per shard, that values are added to; zero before the code runs."""


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
        lead = array.shape[:leading]
        row = array.reshape(*lead, math.prod(array.shape[leading:]))
        return row[..., self.offset : self.offset + math.prod(inner)].reshape(*lead, *inner)


def size_of(value: Value) -> int:
    """The number of elements of a row of a value."""
    return math.prod(value.shape[1:])


def contiguous(shape: Sequence[int]) -> tuple[int, ...]:
    """The strides in elements of an array in C order; 0 for an axis of one."""
    strides, step = [], 1
    for n in reversed(shape):
        strides.append(0 if n == 1 else step)
        step *= n
    return tuple(reversed(strides))
