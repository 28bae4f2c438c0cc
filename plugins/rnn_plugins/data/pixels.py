"""Images as arrays: their pixels, classes and names, and conversions to what a network takes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rnn_plugins.errors import UserError

Array = NDArray[Any]

WHITES = (1, 16, 255, 65535)
"""The largest value that a pixel may have: the smallest of these that no value of a file exceeds."""

LUMA = (0.299, 0.587, 0.114)
"""The weights of red, green and blue in grey (ITU-R BT.601)."""


@dataclass(frozen=True, eq=False)
class Images:
    """Images of one size.

    Attributes:
        pixels: (N, H, W, C), C is 1 or 3: uint8, or float32 in [0, 1]; see ``unit``.
        labels: the class of each; None if the file has none.
        names: of each image, for messages and records.
        white: the number in the file that became the largest value. Give it with other files for the same network.
        label_column: of a CSV file without a header, ``first`` or ``last``; else the column's name, or empty.
        unlabelled: why there are no labels, such as "there is no file 'train-labels-idx1-ubyte' beside it".
        notices: sentences about what was left out.
    """

    pixels: Array
    labels: tuple[str, ...] | None
    names: tuple[str, ...]
    white: int = 255
    label_column: str = ""
    unlabelled: str = ""
    notices: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def scale(self) -> int | None:
        """``white``, which other files for the same network must have too; None for fractions of white, and for black.

        Fractions, from 0 to 1, are known as such in any file.
        """
        fractions = self.white == 1 and not np.array_equal(self.pixels, np.rint(self.pixels))
        return None if fractions or not self.pixels.any() else self.white

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        height, width, channels = self.pixels.shape[1:]
        return height, width, channels

    @cached_property
    def digest(self) -> str:
        """SHA-256 of pixels and labels, in hexadecimal."""
        digest = hashlib.sha256(f"{self.pixels.shape} {self.pixels.dtype} {self.labels}".encode())
        digest.update(np.ascontiguousarray(self.pixels).data)
        return digest.hexdigest()


def common_white(scales: Mapping[str, int | None]) -> int:
    """The number that became the largest value in several files, from the ``Images.scale`` of each.

    Raises:
        UserError: they have different ones.
    """
    known = {file: scale for file, scale in scales.items() if scale is not None}
    first, white = next(iter(known.items()), ("", 1))
    for file, scale in known.items():
        if scale != white:
            raise UserError(
                f"{file!r} has pixels from 0 to {scale}, and {first!r} from 0 to {white}: give files with one range"
            )
    return white


def as_image(values: Any, *, shape: Sequence[int], white: int = 255, label: str = "the array") -> Array:
    """An image given as an array (H, W) or (H, W, C), as a network takes it: (H, W, C), as in ``Images.pixels``.

    Raises:
        UserError: it is no image, or one of another size.
    """
    try:
        values = np.asarray(values)
    except ValueError:  # rows of several lengths
        raise UserError(f"{label} has rows of several lengths; expected (height, width)") from None
    if values.dtype.kind not in "buif" or values.ndim not in (2, 3) or not values.size:
        raise UserError(
            f"{label} has shape {values.shape} and dtype {values.dtype}; expected numbers, (height, width) or "
            "(height, width, channels)"
        )
    scale = white if values.dtype.kind in "ui" else 1 if values.max() <= 1 else white
    pixels, _ = scaled(channels(values[None], label), scale, label)
    image: Array = fitted(pixels, shape, label)[0]
    return image


def unit(pixels: Array, dtype: Any = np.float32) -> Array:
    """Pixels, as in ``Images.pixels``, as numbers in [0, 1]."""
    values: Array = np.array(pixels, dtype)
    if pixels.dtype == np.uint8:
        np.divide(values, 255, out=values)
    return values


class Named(NamedTuple):
    """An image for a network, (H, W, C), as in ``Images.pixels``, and its name."""

    name: str
    pixels: Array


def fitted(pixels: Array, shape: Sequence[int], label: str, *, scalable: bool = False) -> Array:
    """Images (N, H, W, C) with the channels of a shape (H, W, C), coloured or grey.

    Args:
        pixels: the images.
        shape: height, width and channels.
        label: what they are called in messages.
        scalable: whether they are pictures, which the option ``image_size`` scales.

    Raises:
        UserError: their height or width is another one.
    """
    if tuple(pixels.shape[1:3]) != tuple(shape[:2]):
        option = f", or set --task-option image_size={shape[0]}" if scalable and shape[0] == shape[1] else ""
        raise UserError(
            f"{label} has images of {size_of(pixels.shape[1:])}; expected {size_of(shape)} (height x width), as the "
            f"network was trained on: scale them{option}"
        )
    if pixels.shape[3] == shape[2]:
        return pixels
    if shape[2] == 3:
        return np.repeat(pixels, 3, axis=3)
    grey: Array = pixels @ np.asarray(LUMA, np.float32)
    return (np.rint(grey) if pixels.dtype == np.uint8 else grey).astype(pixels.dtype)[..., None]


def channels(values: Array, label: str) -> Array:
    """Images (N, H, W), (N, H, W, C) or (N, C, H, W) as (N, H, W, 1), (N, H, W, 3) or, transparent, (N, H, W, 4).

    Raises:
        UserError: they have another number of channels.
    """
    if values.ndim == 3:
        return values[..., None]
    if values.shape[3] not in (1, 3) and values.shape[1] in (1, 3):
        return np.moveaxis(values, 1, 3)
    if values.shape[3] not in (1, 3, 4):
        raise UserError(
            f"{label} has images of shape {values.shape[1:]}; expected 1 channel (grey), 3 (red, green, blue) or 4 "
            "(and opacity)"
        )
    return values


def scaled(values: Array, white: int | None, label: str) -> tuple[Array, int]:
    """Values of any range as pixels, uint8 or float32 in [0, 1], and the value that is the largest possible one.

    Args:
        values: (N, H, W, C), C is 1, 3, or with opacity 4, which becomes 3, over white.
        white: the largest possible value; None for the smallest of ``WHITES`` that no value exceeds.
        label: the file's name in messages.

    Raises:
        UserError: a value is out of range.
    """
    least, most = values.min(), values.max()
    if not (np.isfinite(least) and np.isfinite(most)):
        raise UserError(f"{label} has a pixel that is not a finite number; expected 0 to {white or WHITES[2]}")
    highest = white or next((w for w in WHITES if most <= w), WHITES[-1])
    if least < 0 or most > highest:
        raise UserError(f"{label} has pixels from {least:g} to {most:g}; expected 0 to {highest}")
    if values.shape[-1] == 4:  # over white
        colours, opacity = values[..., :3].astype(np.float32), values[..., 3:].astype(np.float32) / np.float32(highest)
        over = highest + (colours - highest) * opacity
        values = np.rint(over).astype(values.dtype) if values.dtype.kind in "ui" else over
    if highest == 255 and (values.dtype == np.uint8 or np.array_equal(values, np.rint(values))):
        return np.ascontiguousarray(values, np.uint8), highest
    return np.asarray(values, np.float32) / np.float32(highest), highest


def size_of(shape: Sequence[int]) -> str:
    """Height and width in words, such as 28x28."""
    return f"{shape[0]}x{shape[1]}"
