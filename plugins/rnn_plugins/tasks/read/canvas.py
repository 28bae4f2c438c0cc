"""Pictures at random places of a larger canvas, with pieces of others around them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rnn_plugins.data.numbered import Pictures

Array: TypeAlias = NDArray[Any]

PIECE = 8
"""The height and width of a piece of clutter."""


@dataclass(frozen=True, eq=False)
class OnCanvas(Pictures):
    """Pictures on black canvases, at another place in each epoch (Mnih et al. 2014, arXiv:1406.6247).

    Place and clutter depend on seed, place in the sequence, and epoch. Pieces are cut out of pictures of the same part
    of the data; where things overlap, the lighter pixel is seen.

    Attributes:
        pictures: no larger than the canvas.
        side: the height and width of a canvas.
        clutter: the number of pieces on each.
    """

    pictures: Pictures
    side: int
    clutter: int

    def __len__(self) -> int:
        return len(self.pictures)

    def text(self, place: int) -> str:
        """The number in a picture."""
        return self.pictures.text(place)

    def name(self, place: int) -> str:
        """The name of a picture."""
        return self.pictures.name(place)

    def pixels(self, place: int, epoch: int, seed: int) -> Array:
        """A canvas, (side, side, C)."""
        rng = np.random.default_rng((place, epoch, seed))
        others = rng.integers(len(self), size=self.clutter).tolist()
        pieces = [self.pictures.pixels(i, epoch, seed) for i in others]
        return placed(self.pictures.pixels(place, epoch, seed), self.side, rng, pieces)


def placed(pixels: Array, side: int, rng: np.random.Generator, others: Sequence[Array] = ()) -> Array:
    """A picture (H, W, C) at a random place of a black canvas (side, side, C), with a piece of each of some others."""
    canvas = np.zeros((side, side, pixels.shape[2]), pixels.dtype)
    for other in others:
        height, width = (min(PIECE, length) for length in other.shape[:2])
        i, j = _corner(other.shape, (height, width), rng)
        _put(canvas, other[i : i + height, j : j + width], rng)
    _put(canvas, pixels, rng)
    return canvas


def _put(canvas: Array, piece: Array, rng: np.random.Generator) -> None:
    i, j = _corner(canvas.shape, piece.shape, rng)
    below = canvas[i : i + piece.shape[0], j : j + piece.shape[1]]
    np.maximum(below, piece, out=below)


def _corner(outer: Sequence[int], inner: Sequence[int], rng: np.random.Generator) -> tuple[int, int]:
    """Where a rectangle is put into another one, which is not smaller."""
    i, j = (int(rng.integers(large - small + 1)) for large, small in zip(outer[:2], inner[:2], strict=True))
    return i, j
