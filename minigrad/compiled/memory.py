"""Allocate arrays from reused memory, since fresh pages of the system take longer than the computation in them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minigrad.tensor import Array

WORTH_KEEPING = 1 << 16
"""Bytes from which an array's memory is kept for the next array of that size."""

MOST_KEPT = 1 << 28
"""Maximum bytes of spare memory."""


class _Pool:
    """Spare memory by size."""

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
        """Keep memory for reuse."""
        if memory.size > MOST_KEPT:
            return
        if self.kept + memory.size > MOST_KEPT:  # it was kept for an earlier workload
            self.spare.clear()
            self.kept = 0
        self.spare.setdefault(memory.size, []).append(memory)
        self.kept += memory.size


_pool = _Pool()


class _Lease:
    """Memory of one array and all its views, which becomes spare when the last of them is deleted."""

    def __init__(self, memory: Array, pool: _Pool) -> None:
        self._memory = memory
        self._pool = pool  # a global name may be unset at interpreter exit
        self.__array_interface__ = memory.__array_interface__

    def __del__(self) -> None:
        if MOST_KEPT is not None:  # it is None at interpreter exit
            self._pool.give(self._memory)


def address(array: Array) -> int:
    """The address of an array's memory; several times as fast as ``array.ctypes.data``."""
    return int(array.__array_interface__["data"][0])


def empty(shape: tuple[int, ...], dtype: Any) -> Array:
    """A new, uninitialised array; a large one is aligned to a cache line."""
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
    """An array that compiled code can read: of this dtype, aligned, in C order; ``x`` itself if it qualifies.

    Args:
        x: an array of any layout, alignment and byte order, or a number.
        dtype: of the elements.
        strided: allow any layout whose strides are whole numbers of elements.
    """
    array: Array = np.asarray(x, dtype, order=None if strided else "C")
    even = array.flags.aligned and (not strided or all(stride % array.itemsize == 0 for stride in array.strides))
    return array if even else array.copy()


def _aligned(size: int) -> Array:
    raw = np.empty(size + 64, np.uint8)
    start = -address(raw) % 64
    return raw[start : start + size]
