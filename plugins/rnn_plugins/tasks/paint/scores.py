"""The bound of a painter beside baselines whose pixels are independent, and its terms stroke by stroke."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minigrad.trees import Tree
from rnn_plugins.reports.report import Chart, Curve
from rnn_plugins.tasks.paint.model import LEVELS, Inputs, Painter

Array = NDArray[Any]


def mean_image(images: Iterable[Array]) -> tuple[Array, int]:
    """The mean of each pixel over images (H, W, C) in [0, 1], and the number of images.

    It is between 0 and 1, as after one more black image and one more white one (Laplace's rule), so that no pixel that
    is always black makes a white one impossible.
    """
    total, count = np.ones(()), 0
    for image in images:
        total, count = total + image, count + 1
    return total / (count + 2), count


def independent(images: Array, means: Array) -> float:
    """The mean of -log p, in nats, of images whose pixels are independent.

    Args:
        images: their mean, (H, W, C).
        means: of each pixel, (H, W, C), or of each channel, (C,).
    """
    return float(-(images * np.log(means) + (1 - images) * np.log1p(-means)).sum())


def counted(images: Iterable[Array], shape: tuple[int, ...]) -> Array:
    """How often each pixel of images (H, W, C) in [0, 1] has each level, (H * W * C, LEVELS)."""
    counts = np.zeros((math.prod(shape), LEVELS))
    pixels = np.arange(len(counts))
    for image in images:
        counts[pixels, np.rint(image.reshape(-1) * (LEVELS - 1)).astype(int)] += 1
    return counts


def of_levels(counts: Array, seen: Array) -> float:
    """-log p, in nats, of levels with a probability of their own, each as often as in training and once more.

    Args:
        counts: how often each occurred in training, (N, levels): of each pixel, or of many together.
        seen: likewise, in the images that are predicted.
    """
    logs = np.log((counts + 1) / (counts.sum(axis=1, keepdims=True) + counts.shape[1]))
    return float(-(seen * logs).sum())


def entropy(images: Array) -> float:
    """The entropy, in nats, of images (N, H, W, C), all together, whose pixels are the means of Bernoulli variables."""
    inside = images[(images > 0) & (images < 1)].astype(np.float64)
    return float(-(inside * np.log(inside) + (1 - inside) * np.log1p(-inside)).sum())


def by_strokes(model: Painter, params: Tree, inputs: Inputs) -> Chart:
    """The two terms of the bound after each stroke."""
    painted, images = model.again(params, inputs), model.seen(inputs)
    assert painted.divergence is not None
    canvases = painted.canvases.astype(np.float64)
    reconstruction = np.array([-model.log_likelihood(params, c, images).sum() for c in canvases]) / len(images)
    divergence = np.cumsum(painted.divergence.mean(axis=1, dtype=np.float64))
    strokes = np.arange(1, len(canvases) + 1)
    return Chart(
        "strokes",
        "The bound after each stroke",
        "strokes",
        "nats",
        (
            Curve("reconstruction", strokes, reconstruction),
            Curve("divergence", strokes, divergence),
            Curve("bound", strokes, reconstruction + divergence),
        ),
        definition=f"Means over {len(images):,} images, if painting ended after so many strokes: -log p(image) given "
        "the canvas, the divergence of the codes so far, and their sum.",
    )
