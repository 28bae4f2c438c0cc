"""Pictures as pixels: panels with their frames, PNG files for pages, and sheets and animations by Pillow."""

from __future__ import annotations

import io
import math
import struct
import zlib
from collections.abc import Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np

from rnn_lab.printable import visible
from rnn_plugins.errors import UserError
from rnn_plugins.reports.report import Array, Frame, Panel, Picture

if TYPE_CHECKING:
    from PIL.Image import Image

FRAMES = ((255, 69, 58), (10, 190, 255), (255, 204, 0), (60, 210, 90), (255, 90, 200), (255, 255, 255))
"""Colours of frames: bright ones, since they lie over pictures of any colour."""

MOST = 300_000
"""Bytes of a PNG file in a page; a larger picture is reduced."""

SIDE, WIDTH, ANIMATED = 240, 1200, 400
"""The side to which a panel is enlarged, and the largest width of a sheet and of an animation, in pixels."""

FEW = 4
"""The largest number of panels that are ``SIDE`` wide; more are smaller."""

LARGEST = 30
"""The largest factor by which a picture is enlarged."""

GAP, TEXT = 4, 14
"""Pixels between panels, and the size of letters."""

STEP, LAST = 150, 2000
"""Milliseconds that a step of an animation is shown, and its last one."""

PAPER, INK = (255, 255, 255), (27, 31, 36)


def require(option: str) -> None:
    """Check that Pillow is installed.

    Raises:
        UserError: it is not; ``option`` is the option that needs it.
    """
    try:
        import PIL.Image  # noqa: F401
    except ImportError:
        raise UserError(f"{option} needs the library Pillow: pip install 'rnn-lab[images]'") from None


def rgb(pixels: Array) -> Array:
    """Pixels (H, W) or (H, W, 3) as (H, W, 3), uint8."""
    pixels = np.asarray(pixels)
    return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)


def colour(frame: Frame) -> tuple[int, int, int]:
    """The colour of a frame."""
    return FRAMES[frame.colour % len(FRAMES)]


def as_hex(colour: Sequence[int]) -> str:
    """A colour as CSS writes it."""
    return "#" + "".join(f"{part:02x}" for part in colour)


def outline(frame: Frame, scale: float, height: int, width: int) -> Array:
    """Where the outline of a frame is, (height, width) of bool, over a picture enlarged or reduced by ``scale``."""
    ends = [round(edge * scale) for edge in (frame.top, frame.top + frame.height, frame.left, frame.left + frame.width)]
    top, bottom, left, right = ends[0], max(ends[1] - 1, ends[0]), ends[2], max(ends[3] - 1, ends[2])
    y, x = np.arange(height)[:, None], np.arange(width)
    inside = (top <= y) & (y <= bottom) & (left <= x) & (x <= right)
    on: Array = inside & ((y == top) | (y == bottom) | (x == left) | (x == right))
    return on


def reduced(pixels: Array, height: int, width: int) -> Array:
    """Pixels (H, W, 3) as a smaller picture: means of blocks."""
    means = pixels.astype(np.float64)
    for axis, most in enumerate((height, width)):
        edges = np.linspace(0, means.shape[axis], most + 1).round().astype(int)
        sums = np.add.reduceat(means, edges[:-1], axis=axis)
        means = sums / np.diff(edges).reshape([-1 if i == axis else 1 for i in range(3)])
    return np.rint(means).astype(np.uint8)


def enlarged(panel: Panel, scale: int) -> Array:
    """A panel with its frames, each pixel a square of ``scale`` pixels, uint8 (scale H, scale W, 3)."""
    pixels = rgb(panel.pixels).repeat(scale, axis=0).repeat(scale, axis=1)
    thick = max(round(scale / 4), min(scale, 2))
    for frame in panel.frames:
        for inner in range(thick):
            less = inner / scale
            smaller = Frame(frame.top + less, frame.left + less, frame.height - 2 * less, frame.width - 2 * less)
            pixels[outline(smaller, scale, *pixels.shape[:2])] = colour(frame)
    return pixels


def png(pixels: Array) -> bytes:
    """Pixels (H, W) or (H, W, 3) as a PNG file; reduced until it has no more than ``MOST`` bytes."""
    pixels = np.asarray(pixels)
    while len(file := _png(pixels)) > MOST:
        half = [max(side // 2, 1) for side in pixels.shape[:2]]
        pixels = reduced(pixels.reshape(*pixels.shape[:2], -1), *half).reshape(*half, *pixels.shape[2:])
    return file


def _png(pixels: Array) -> bytes:
    """A PNG file (ISO/IEC 15948): 8 bits per channel, each row as the difference from the one above."""
    height, width = pixels.shape[:2]
    rows = pixels.reshape(height, -1)
    above = np.concatenate([np.zeros_like(rows[:1]), rows[:-1]])
    filtered = np.concatenate([np.full((height, 1), 2, np.uint8), rows - above], axis=1)  # differences modulo 256
    header = struct.pack(">IIBBBBB", width, height, 8, 2 if pixels.ndim == 3 else 0, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(filtered.tobytes(), 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )


def together(pictures: Sequence[Picture]) -> list[Picture]:
    """Several pictures of one panel each as one sheet; others as they are."""
    if len(pictures) < 2 or any(len(picture.panels) > 1 for picture in pictures):
        return list(pictures)
    panels = tuple(picture.panels[0] for picture in pictures)
    return [Picture("sheet", "", panels, _square([panel.pixels.shape for panel in panels]))]


def _square(shapes: Sequence[tuple[int, ...]]) -> int:
    """How many panels beside each other make a sheet that is about as wide as high, or wider."""
    height, width = (max(shape[axis] for shape in shapes) for axis in (0, 1))
    return min(math.ceil(math.sqrt(len(shapes) * height / width)), len(shapes))


def sheet(pictures: Sequence[Picture]) -> bytes:
    """Pictures below each other, with their titles and labels, as a PNG file by Pillow."""
    images = [_drawn(picture) for picture in together(pictures)]
    image = _stacked(images)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def animation(pictures: Sequence[Picture]) -> bytes:
    """The steps of pictures beside each other, each with its frames, as a GIF file by Pillow that begins anew."""
    from PIL import Image

    columns = _square([picture.steps[0].pixels.shape for picture in pictures])
    shots = []
    for panels in zip_longest(*(picture.steps for picture in pictures)):
        still = [panel or picture.steps[-1] for panel, picture in zip(panels, pictures, strict=True)]
        shots.append(_grid([Panel(panel.pixels, "", panel.frames) for panel in still], columns))
    grey = all(panel.pixels.ndim == 2 for picture in pictures for panel in picture.steps)
    images = [Image.fromarray(shot).convert("RGB") for shot in shots]
    few = [image.quantize(256, Image.Quantize.MEDIANCUT if grey else Image.Quantize.FASTOCTREE) for image in images]
    buffer = io.BytesIO()
    durations = [STEP] * (len(few) - 1) + [LAST]
    few[0].save(buffer, "GIF", save_all=True, append_images=few[1:], duration=durations, loop=0, optimize=False)
    return buffer.getvalue()


def _cells(panels: Sequence[Panel], columns: int, most: int) -> list[Array]:
    """Panels with their frames, enlarged to about the same size: ``SIDE``, or less so that ``columns`` fit."""
    side = min(_side(panels), most // columns - GAP)
    return [enlarged(panel, min(max(side // max(panel.pixels.shape[:2]), 1), LARGEST)) for panel in panels]


def _side(panels: Sequence[Panel]) -> int:
    """The side of a panel, smaller where there are many."""
    return SIDE if len(panels) <= FEW else 2 * SIDE // 3


def _grid(panels: Sequence[Panel], columns: int) -> Array:
    """Panels in rows, with gaps and without labels, uint8 (H, W, 3)."""
    drawn = _cells(panels, columns, ANIMATED)
    height, width = (max(pixels.shape[axis] for pixels in drawn) for axis in (0, 1))
    rows = -(-len(drawn) // columns)
    whole = np.empty((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3), np.uint8)
    whole[:] = PAPER
    for i, pixels in enumerate(drawn):
        top, left = (i // columns) * (height + GAP), (i % columns) * (width + GAP)
        whole[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    return whole


def _drawn(picture: Picture) -> Image:
    """A picture's panels with their labels, below its title."""
    from PIL import Image, ImageDraw, ImageFont

    panels, columns = picture.panels, picture.columns or _fitting(picture.panels)
    columns = min(columns, len(panels))
    drawn = _cells(panels, columns, WIDTH)
    font: Any = ImageFont.load_default(TEXT)
    labels = [visible(panel.label) for panel in panels]
    line = TEXT + 4 if any(labels) else 0
    height = max(pixels.shape[0] for pixels in drawn) + line + GAP
    width = max(max(pixels.shape[1] for pixels in drawn), *(int(font.getlength(label)) + 2 for label in labels)) + GAP
    title, top = visible(picture.title), TEXT + 10 if picture.title else 0
    rows = -(-len(panels) // columns)
    size = max(columns * width - GAP, int(font.getlength(title)) + 2), top + rows * height - GAP
    image = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(image)
    draw.text((0, 2), title, INK, font)
    for i, (pixels, label) in enumerate(zip(drawn, labels, strict=True)):
        x, y = (i % columns) * width, top + (i // columns) * height
        image.paste(Image.fromarray(pixels), (x, y))
        draw.text((x, y + pixels.shape[0] + 1), label, INK, font)
    return image


def _fitting(panels: Sequence[Panel]) -> int:
    """How many panels are beside each other: all of them if they have room at half their side, or else equal rows."""
    widest: int = max(panel.pixels.shape[1] for panel in panels)
    if len(panels) <= WIDTH // (max(SIDE // 2, widest) + GAP):
        return len(panels)
    most = max(WIDTH // (max(_side(panels), widest) + GAP), 1)
    return math.ceil(len(panels) / math.ceil(len(panels) / most))


def _stacked(images: Sequence[Image]) -> Image:
    from PIL import Image

    if len(images) == 1:
        return images[0]
    gap = 4 * GAP
    size = max(image.width for image in images), sum(image.height + gap for image in images) - gap
    whole, top = Image.new("RGB", size, PAPER), 0
    for image in images:
        whole.paste(image, (0, top))
        top += image.height + gap
    return whole
