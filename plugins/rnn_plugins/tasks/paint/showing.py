"""What a painter paints, as pictures: the last canvas, and the canvas after each stroke with the windows' frames."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnn_plugins.reports.report import Frame, Panel, Picture
from rnn_plugins.tasks.paint.model import Painted, Window

Array = NDArray[Any]

RAMP = " .:-=+*#%@"
"""Characters from black to white."""

WRITTEN, READ = 0, 1
"""The colours of frames."""

FRAMES = (
    " A frame is around the points of the window, and as wide beyond them as the deviation of their Gaussians: in one "
    "colour where it writes"
)
"""What a frame is, for a definition."""


def probabilities(logits: Array) -> Array:
    """The means of pixels whose logits are on a canvas."""
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * logits))  # does not overflow


def bright(pixels: Array) -> Array:
    """Pixels (H, W, C) in [0, 1] as a picture: uint8, (H, W) or (H, W, 3)."""
    values: Array = np.rint(255 * np.clip(pixels, 0, 1)).astype(np.uint8)
    return values if values.shape[2] == 3 else values[..., 0]


def frame(place: Array, points: int, colour: int) -> Frame:
    """The frame of a window, from the numbers that ``Window.place`` gives."""
    x, y, variance, spacing, _ = place.tolist()
    half = spacing * (points - 1) / 2 + math.sqrt(variance)
    return Frame(y + 0.5 - half, x + 0.5 - half, 2 * half, 2 * half, colour)  # from the picture's edge, at -0.5


def picture(
    painted: Painted,
    index: int,
    *,
    title: str,
    before: Sequence[Panel] = (),
    reading: Window | None = None,
    writing: Window | None = None,
) -> Picture:
    """One of the painted images, and the canvas after each stroke.

    Args:
        painted: what was painted.
        index: which of the images.
        title: of the picture.
        before: panels before the last canvas.
        reading: the window from which the painter reads.
        writing: the window into which it writes.
    """
    canvases = [bright(probabilities(canvas)) for canvas in painted.canvases[:, index]]
    steps = []
    for t, canvas in enumerate(canvases):
        frames = [
            frame(places[t, index], window.points, colour)
            for places, window, colour in ((painted.reads, reading, READ), (painted.writes, writing, WRITTEN))
            if places is not None and window is not None
        ]
        steps.append(Panel(canvas, f"stroke {t + 1}", tuple(frames)))
    reads = painted.reads is not None and reading is not None
    definition = "The canvas after each stroke: the brightness of a pixel is the probability of white."
    if writing is not None:
        definition += f"{FRAMES}{', in another where it has read' if reads else ''}."
    last = Panel(canvases[-1], "painted again" if before else "")
    return Picture("painted", title, (*before, last), steps=tuple(steps), definition=definition)


def characters(images: Array) -> list[str]:
    """Images in [0, 1] (N, H, W), side by side, as lines of characters; a character is one pixel wide and two high."""
    height = images.shape[1] // 2 * 2
    pairs = images[:, :height].reshape(len(images), -1, 2, images.shape[2]).mean(axis=2)
    places = np.minimum((pairs * len(RAMP)).astype(int), len(RAMP) - 1)
    return ["  ".join("".join(RAMP[i] for i in row) for row in rows) for rows in places.transpose(1, 0, 2).tolist()]
