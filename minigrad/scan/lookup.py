"""Inputs that are rows of a table: tokens with their embeddings, or one-hot. It computes nothing by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from minigrad.primitives import take


@dataclass(frozen=True, eq=False)
class Lookup:
    """A sequence of inputs that are looked up: step t of sequence b is ``table[indices[t, b]]``.

    The time loop takes it in place of an array of inputs, and then works once a row of the table, where it would work
    once a step and sequence.

    Attributes:
        table: (V, n).
        indices: (T, B) integers in [0, V).
    """

    table: Any
    indices: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the sequence, (T, B, n)."""
        return (*self.indices.shape, *self.table.shape[1:])

    @property
    def dtype(self) -> Any:
        """That of the table."""
        return self.table.dtype

    def array(self) -> Any:
        """The sequence itself, (T, B, n)."""
        return take(self.table, self.indices)
