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

_spare: dict[int, list[Array]] = {}
_kept = 0


class _Lease:
    """Memory for one array and all views of it, which becomes spare again when the last of them is gone."""

    def __init__(self, memory: Array) -> None:
        self._memory = memory
        self.__array_interface__ = memory.__array_interface__

    def __del__(self) -> None:
        global _kept
        size = self._memory.size
        if _kept + size > MOST_KEPT:  # whatever it was kept for, it was for another work
            _spare.clear()
            _kept = 0
        _spare.setdefault(size, []).append(self._memory)
        _kept += size


def empty(shape: tuple[int, ...], dtype: Any) -> Array:
    """A new array, uninitialised; a large one begins at the start of a cache line."""
    global _kept
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    if size < WORTH_KEEPING:
        return _aligned(size).view(dtype).reshape(shape)
    try:
        memory = _spare[size].pop()
        _kept -= size
    except (KeyError, IndexError):
        memory = _aligned(size)
    return np.asarray(_Lease(memory)).view(dtype).reshape(shape)


def _aligned(size: int) -> Array:
    raw = np.empty(size + 64, np.uint8)
    start = -int(raw.__array_interface__["data"][0]) % 64
    return raw[start : start + size]
