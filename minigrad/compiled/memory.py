"""Allocate arrays from reused memory, since fresh pages of the system take longer than the computation in them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minigrad.tensor import Array

WORTH_KEEPING = 1 << 16
"""Bytes from which an array's memory is kept for later arrays."""

MOST_KEPT = 1 << 28
"""Maximum bytes of spare memory."""


class _Pool:
    """Spare memory by size: never more than was in use at once, so that arrays of many sizes do not fill it.

    Attributes:
        used: bytes in use.
        most: the largest number of bytes that were in use at once.
        spare: memory to use again, by its size.
        kept: bytes of spare memory.
    """

    def __init__(self) -> None:
        self.used = self.most = self.kept = 0
        self.spare: dict[int, list[Array]] = {}

    def take(self, size: int) -> Array:
        """Memory of this size: spare if there is any, otherwise new."""
        try:
            memory = self.spare[size].pop()
            self.kept -= size
        except (KeyError, IndexError):
            memory = _aligned(size)
        self.used += size
        self.most = max(self.most, self.used)
        return memory

    def give(self, memory: Array) -> None:
        """Keep memory for reuse."""
        size = memory.size
        self.used -= size
        limit = min(self.most, MOST_KEPT)
        if size > limit:
            return
        if self.kept + size > limit:  # it was kept for an earlier workload
            self.spare.clear()
            self.kept = 0
        self.spare.setdefault(size, []).append(memory)
        self.kept += size


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


class Growing:
    """Memory for one array at a time; only a larger array than all before needs new memory."""

    def __init__(self) -> None:
        self._memory = _aligned(0)

    def array(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """The array, whose content is undefined; earlier arrays become invalid."""
        dtype = np.dtype(dtype)
        size = math.prod(shape) * dtype.itemsize
        if size > self._memory.size:
            self._memory = _aligned(0)  # freed before more is allocated
            self._memory = _aligned(_rounded(size))
        array: Array = self._memory[:size].view(dtype).reshape(shape)
        return array


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
    lease = _Lease(_pool.take(_rounded(size)), _pool)
    array: Array = np.asarray(lease)[:size].view(dtype).reshape(shape)
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


def _rounded(size: int) -> int:
    """The least of eight sizes per power of two that holds so many bytes."""
    step = max(64, 1 << size.bit_length() >> 4)
    return -(-size // step) * step


def _aligned(size: int) -> Array:
    raw = np.empty(size + 64, np.uint8)
    start = -address(raw) % 64
    return raw[start : start + size]
