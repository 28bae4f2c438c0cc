"""Windows of images at any place and scale, differentiable by both: products of an image with two matrices.

A row of such a matrix says with which weights the pixels of a side of the image make one number of the window. A pixel
is a square of side 1 around its coordinate, 0 for the first; outside the image everything is 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minigrad import abs, clip, exp, maximum, square, sum

LEAST = 1e-8
"""The least sum of a Gaussian's weights that is made 1: what looks at nothing of the image sees 0."""


def triangles(centres: Any, size: int, side: int, scale: float = 1) -> Any:
    """Weights of points in a row around a centre, each the mean of the image over a stretch of ``scale`` pixels.

    For a scale of 1 or less, that is linear interpolation, whose weights are triangles; with both matrices, bilinear
    interpolation. For a larger one, neighbouring points average adjacent stretches, and none of the image is left out.

    Args:
        centres: (B,), the coordinate of the middle of the window, in pixels.
        size: the number of points.
        side: the number of pixels along this side of the image.
        scale: the distance of two points, in pixels; above 0.

    Returns:
        (B, size, side).
    """
    dtype = centres.dtype
    width = max(scale, 1)
    offsets = ((np.arange(size) - (size - 1) / 2) * scale).astype(dtype)
    points = centres[:, None] + offsets  # (B, size)
    distances = abs(points[:, :, None] - np.arange(side, dtype=dtype))  # (B, size, side)
    return clip((width + 1) / 2 - distances, 0, 1) / width  # how much of the pixel is in the stretch


def gaussians(centre: Any, spacing: Any, variance: Any, size: int, side: int) -> Any:
    """Gaussian filters in a row around a centre (Gregor et al. 2015, arXiv:1502.04623, section 3.2).

    ``F[i, a] = exp(-(a - mu_i)^2 / (2 variance)) / Z_i``, with ``mu_i = centre + (i - (size - 1) / 2) spacing`` and Z_i
    such that a row adds up to 1, unless it is so far outside the image that nothing of it is left.

    Args:
        centre: (B, 1), the coordinate of the middle, in pixels.
        spacing: (B, 1), the distance of two filters, in pixels.
        variance: (B, 1), of a filter, in pixels squared.
        size: the number of filters.
        side: the number of pixels along this side of the image.

    Returns:
        (B, size, side).
    """
    dtype = centre.dtype
    means = centre + spacing * (np.arange(size) - (size - 1) / 2).astype(dtype)  # (B, size)
    distances = means[:, :, None] - np.arange(side, dtype=dtype)  # (B, size, side)
    # Divisions are of one number for each image or filter, not of one for each pixel.
    weights = exp(square(distances) * (-0.5 / variance)[:, :, None])
    return weights * (1 / maximum(sum(weights, axis=2, keepdims=True), LEAST))


def window(image: Any, rows: Any, columns: Any) -> Any:
    """What is seen of an image: each number of the window is a weighted sum of pixels.

    Args:
        image: (B, H, W) or (B, H, W, C).
        rows: (B, n, H).
        columns: (B, m, W).

    Returns:
        (B, n, m) or (B, n, m, C).
    """
    if image.ndim == 3:
        return rows @ image @ columns.transpose(0, 2, 1)
    return _across(_down(image, rows), columns)


def spread(patch: Any, rows: Any, columns: Any) -> Any:
    """A patch laid over an image with the weights of a window: the transpose of ``window``.

    Args:
        patch: (B, n, m) or (B, n, m, C).
        rows: (B, n, H).
        columns: (B, m, W).

    Returns:
        (B, H, W) or (B, H, W, C).
    """
    rows, columns = rows.transpose(0, 2, 1), columns.transpose(0, 2, 1)
    if patch.ndim == 3:
        return rows @ patch @ columns.transpose(0, 2, 1)
    return _down(_across(patch, columns), rows)  # in this order what is rearranged is small, and the result is not


def _down(image: Any, rows: Any) -> Any:
    """Each column and channel of an image (B, H, W, C) times ``rows`` (B, n, H): (B, n, W, C)."""
    batch, height, width, channels = image.shape
    return (rows @ image.reshape(batch, height, width * channels)).reshape(batch, -1, width, channels)


def _across(image: Any, columns: Any) -> Any:
    """Each row and channel of an image (B, H, W, C) times ``columns`` (B, m, W): (B, H, m, C)."""
    return _down(image.transpose(0, 2, 1, 3), columns).transpose(0, 2, 1, 3)
