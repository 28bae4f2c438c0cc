"""What a network sees of an image: patches around a location at several scales, and the whole at a low resolution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from minigrad import concat
from rnn_plugins.data.images import unit
from rnn_plugins.tasks.windows import triangles, window

Array: TypeAlias = NDArray[Any]


@dataclass(frozen=True)
class Sensor:
    """The image around a location at several scales (Mnih et al. 2014, arXiv:1406.6247).

    A location is a row and a column, from -1 at the centre of the first pixel to 1 at that of the last. A patch has
    ``size`` points in each direction, which are 2^k pixels apart at the scale k. At the scale 0 each is between pixels,
    by bilinear interpolation; at the others it is the mean of a square of 2^k pixels in each direction. What is outside
    the image is 0.

    Attributes:
        shape: height, width and channels of an image.
        size: the points of a patch in each direction.
        scales: the number of patches.
    """

    shape: tuple[int, int, int]
    size: int
    scales: int

    @property
    def width(self) -> int:
        """The numbers of a glimpse."""
        return self.scales * self.size**2 * self.shape[2]

    def patches(self, images: Any, places: Any) -> list[Any]:
        """The patches of images (B, H, W, C) or (B, H, W) at locations (B, 2), of each scale (B, size, size[, C])."""
        row, column = (
            (1 + places[:, axis]) * ((length - 1) / 2) for axis, length in enumerate(self.shape[:2])
        )  # in pixels
        return [
            window(
                images,
                triangles(row, self.size, self.shape[0], 2**k),
                triangles(column, self.size, self.shape[1], 2**k),
            )
            for k in range(self.scales)
        ]

    def __call__(self, images: Any, places: Any) -> Any:
        """A glimpse of each image as a row, (B, width)."""
        return concat(*(patch.reshape(-1, self.width // self.scales) for patch in self.patches(images, places)))

    def frame(self, place: Array, scale: int) -> tuple[float, float, float, float]:
        """Top, left, height and width of what a patch covers at a location (2,), in pixels from the image's corner."""
        side = float(self.size * 2**scale)
        row, column = ((1 + place) * (np.array(self.shape[:2]) - 1) / 2).tolist()
        return row + 0.5 - side / 2, column + 0.5 - side / 2, side, side


def standard(pixels: Array, mean: Sequence[float], deviation: Sequence[float], dtype: str) -> Array:
    """Pixels (..., C), as in ``Images.pixels``, with the mean 0 and the deviation 1 in each channel."""
    images: Array = (unit(pixels, dtype) - np.array(mean, dtype)) / np.array(deviation, dtype)
    return images


def coarse(images: Array, side: int) -> Array:
    """Images (B, H, W, C) at a low resolution, (B, side, side, C): the means of equal rectangles."""
    rows, columns = (_shares(length, side).astype(images.dtype) for length in images.shape[1:3])
    means: Array = np.einsum("nh,bhwc,mw->bnmc", rows, images, columns, optimize=True)
    return means


def _shares(length: int, parts: int) -> Array:
    """How much of each of ``length`` pixels is in each of equal parts of a line, (parts, length); rows sum to 1."""
    edges = np.linspace(0, length, parts + 1)
    start, end = np.maximum(edges[:-1, None], np.arange(length)), np.minimum(edges[1:, None], np.arange(1, length + 1))
    covered = np.maximum(end - start, 0)
    shares: Array = covered / covered.sum(1, keepdims=True)
    return shares
