"""Inputs that are rows of a table: embeddings of tokens, or one-hot rows."""

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

    The time loop accepts it instead of an array of inputs, and then computes once per row of the table what it would
    compute once per step and sequence.

    Attributes:
        table: (V, n).
        indices: (T, B) integers in [0, V).
    """

    table: Any
    indices: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the sequence, (T, B, n)."""
        return (*self.indices.shape, *self.table.shape[1:])

    @property
    def dtype(self) -> Any:
        """The dtype of the table."""
        return self.table.dtype

    def array(self) -> Any:
        """The sequence as an array, (T, B, n)."""
        return take(self.table, self.indices)

    def __array_ufunc__(self, ufunc: np.ufunc, *_: Any, **__: Any) -> NoReturn:
        """Refuse array operations, operators included: they need the sequence as an array.

        Raises:
            TypeError: always.
        """
        raise TypeError(
            f"{ufunc.__name__}: these inputs are a Lookup, a table with indices, not an array: compute with xs.array()"
        )


def checked_indices(given: Any, size: int) -> Array:
    """Indices as non-negative 64-bit integers.

    Raises:
        IndexError: an index is out of bounds, as in NumPy.
    """
    x = readable(given, np.int64)
    least, most = int(x.min()), int(x.max())
    if least < -size or most >= size:
        raise IndexError(f"index {most if most >= size else least} is out of bounds for axis 0 with size {size}")
    return np.where(x < 0, x + size, x) if least < 0 else x
