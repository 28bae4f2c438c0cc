"""A small convolutional encoder of images, written as patches times matrices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minigrad import affine, concat, concatenate, relu, trees
from minigrad.initializers import he_normal, zeros
from minigrad.trees import Tree

Array = NDArray[Any]

REACH = 3
"""Height and width of a patch."""


@dataclass(frozen=True)
class Convolutions:
    """Convolutions of 3x3 pixels, each with a stride of 2 and relu, so that each halves height and width.

    Attributes:
        shape: height, width and channels of an image.
        filters: the channels of each layer.
        dtype: of parameters and activations.
    """

    shape: tuple[int, int, int]
    filters: Sequence[int]
    dtype: str = "float32"

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width of the last layer's output."""
        height, width = self.shape[:2]
        scale = 2 ** len(self.filters)
        return math.ceil(height / scale), math.ceil(width / scale)

    @property
    def width(self) -> int:
        """The channels of the last layer's output."""
        return self.filters[-1]

    def init_params(self, rng: np.random.Generator) -> Tree:
        """``{"0": {"W" (9 C, F), "b" (F,)}, ...}``, by layer; W as He et al. 2015 (arXiv:1502.01852) propose."""
        params, channels = {}, self.shape[2]
        for i, filters in enumerate(self.filters):
            inputs = REACH * REACH * channels
            params[str(i)] = {"W": he_normal(rng, (inputs, filters)), "b": zeros(rng, (filters,))}
            channels = filters
        return trees.cast(params, self.dtype)

    def __call__(self, params: Tree, images: Array) -> Any:
        """Images (B, H, W, C) -> what the last layer makes of each patch, (B, *grid, width)."""
        x: Any = images
        for i in range(len(self.filters)):
            seen = patches(x)
            rows = seen.reshape(-1, seen.shape[-1])  # one product, many times faster than one for each row of patches
            x = relu(affine(params[str(i)], rows)).reshape(*seen.shape[:3], -1)
        return x


def patches(x: Any) -> Any:
    """The 3x3 patches around every second pixel of (B, H, W, C), 0 beyond the edges: (B, H/2, W/2, 9 C), rounded up."""
    batch, height, width, channels = x.shape
    rows, columns = -(-height // 2), -(-width // 2)
    # A patch begins one pixel before its own, and the last ones may end one after the last.
    side = np.zeros((batch, height, 1, channels), x.dtype)
    x = concatenate([side, x, side], axis=2)
    edge = np.zeros((batch, 1, width + 2, channels), x.dtype)
    x = concatenate([edge, x, edge], axis=1)
    return concat(
        *(x[:, i : i + 2 * rows - 1 : 2, j : j + 2 * columns - 1 : 2] for i in range(REACH) for j in range(REACH))
    )


def shifted(images: Array, offsets: Array, most: int) -> Array:
    """Images (B, H, W, C), each shifted down and across by ``most`` minus its offsets (B, 2); edges are repeated."""
    height, width = images.shape[1:3]
    wide = np.pad(images, ((0, 0), (most, most), (most, most), (0, 0)), mode="edge")
    return np.stack([image[i : i + height, j : j + width] for image, (i, j) in zip(wide, offsets, strict=True)])
