"""New arrays in memory that is used again: the system's fresh pages take longer than what is computed in them.

Who asks for an array gets one that is his alone, as from NumPy; only where it lies is decided here.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minigrad.tensor import Array

WORTH_KEEPING = 1 << 16
"""Bytes of an array from which its memory is kept for the next of that size."""

MOST_KEPT = 1 << 28
"""Bytes of spare memory beyond which it goes back to the system."""


class _Pool:
    """Spare memory by its size."""

    def __init__(self) -> None:
        self.spare: dict[int, list[Array]] = {}
        self.kept = 0

    def take(self, size: int) -> Array | None:
        """Spare memory of this size, if there is any."""
        try:
            memory = self.spare[size].pop()
        except (KeyError, IndexError):
            return None
        self.kept -= size
        return memory

    def give(self, memory: Array) -> None:
        """Keep memory for another time."""
        if memory.size > MOST_KEPT:
            return
        if self.kept + memory.size > MOST_KEPT:  # whatever it was kept for, it was for another work
            self.spare.clear()
            self.kept = 0
        self.spare.setdefault(memory.size, []).append(memory)
        self.kept += memory.size


_pool = _Pool()


class _Lease:
    """Memory for one array and all views of it, which becomes spare again when the last of them is gone."""

    def __init__(self, memory: Array, pool: _Pool) -> None:
        self._memory = memory
        self._pool = pool  # a global name may be gone when the interpreter ends
        self.__array_interface__ = memory.__array_interface__

    def __del__(self) -> None:
        if MOST_KEPT is not None:  # as it is then
            self._pool.give(self._memory)


def address(array: Array) -> int:
    """Where an array's memory begins; several times as fast as ``array.ctypes.data``."""
    return int(array.__array_interface__["data"][0])


def empty(shape: tuple[int, ...], dtype: Any) -> Array:
    """A new array, uninitialised; a large one begins at the start of a cache line."""
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    if size < WORTH_KEEPING:
        small: Array = _aligned(size).view(dtype).reshape(shape)
        return small
    memory = _pool.take(size)
    lease = _Lease(_aligned(size) if memory is None else memory, _pool)
    array: Array = np.asarray(lease).view(dtype).reshape(shape)
    return array


def readable(x: Any, dtype: Any, *, strided: bool = False) -> Array:
    """An array as compiled code reads it: of this type, aligned, in C order; ``x`` itself where it is so already.

    Args:
        x: an array of any layout, alignment and byte order, or a number.
        dtype: of the elements.
        strided: any layout will do whose strides are whole numbers of elements.
    """
    array: Array = np.asarray(x, dtype, order=None if strided else "C")
    even = array.flags.aligned and (not strided or all(stride % array.itemsize == 0 for stride in array.strides))
    return array if even else array.copy()


def _aligned(size: int) -> Array:
    raw = np.empty(size + 64, np.uint8)
    start = -address(raw) % 64
    return raw[start : start + size]
