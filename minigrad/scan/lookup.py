"""Inputs that are rows of a table: tokens with their embeddings, or one-hot. It computes nothing by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from minigrad.compiled.memory import readable
from minigrad.primitives import take
from minigrad.tensor import Array


@dataclass(frozen=True, eq=False)
class Lookup(NDArrayOperatorsMixin):
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

    def __array_ufunc__(self, ufunc: np.ufunc, *_: Any, **__: Any) -> NoReturn:
        """Refuse what arrays can do, operators included: the table is to be looked up once a step and sequence first.

        Raises:
            TypeError: always.
        """
        raise TypeError(
            f"{ufunc.__name__}: these inputs are a Lookup, a table with indices, and no array: compute with xs.array()"
        )


def checked_indices(given: Any, size: int) -> Array:
    """Indices as 64-bit integers counted from 0.

    Raises:
        IndexError: one is outside, as NumPy has it.
    """
    x = readable(given, np.int64)
    least, most = int(x.min()), int(x.max())
    if least < -size or most >= size:
        raise IndexError(f"index {most if most >= size else least} is out of bounds for axis 0 with size {size}")
    return np.where(x < 0, x + size, x) if least < 0 else x
