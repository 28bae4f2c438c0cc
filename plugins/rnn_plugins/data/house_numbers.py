"""Draw pictures of house numbers from layouts (where each digit is) and glyphs (images of single digits).

A picture shows the box around all digits and a margin, as crops of photographed house numbers do (Goodfellow et al.
2014, arXiv:1312.6082). A digit keeps its place and size in the layout; the glyph, the wall, a plate, light, contrast,
sharpness, noise and pieces of other digits at the edges are drawn at random.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rnn_plugins.data.pixels import LUMA
from rnn_plugins.data.tables import Record, records

Array: TypeAlias = NDArray[Any]

Glyphs: TypeAlias = Mapping[str, Array]
"""Images of each digit, uint8 (N, h, w) or a list of such images (h, w): 255 is ink."""

LONGEST = 5
"""The largest number of digits in a house number."""

MARGIN = (0.15, 0.45)
"""The range of the part of a picture's height and width that is not the box around the digits, as a share of it."""

CONTRAST = (45, 190)
"""The range of the difference in brightness, of 255, between digits and what is behind them."""

GREY = np.array(LUMA, np.float32)[:, None]
"""The product of colours with it is their brightness."""


def _palette(*colours: tuple[int, int, int]) -> dict[int, Array]:
    """Colours by the number of channels, (N, 3), and their brightness, (N, 1)."""
    values = np.array(colours, np.float32)
    return {3: values, 1: values @ GREY}


WALLS = _palette(
    (236, 232, 222), (205, 200, 190), (150, 148, 145), (92, 92, 95), (40, 42, 46), (142, 66, 48), (176, 104, 74),
    (112, 74, 46), (84, 52, 34), (196, 170, 126), (60, 76, 104), (66, 92, 72), (214, 204, 160), (178, 190, 200),
)  # fmt: skip
"""Colours of walls, doors and plates: paint, stone, brick, wood."""

PAINTS = _palette(
    (15, 15, 18), (60, 58, 56), (245, 245, 240), (205, 205, 205), (214, 170, 84), (150, 112, 58), (40, 70, 140),
    (150, 34, 36), (42, 98, 62),
)  # fmt: skip
"""Colours of digits: black, white, steel, brass, enamel."""

FREQUENCIES = (0.25, 0.35, 0.25, 0.1, 0.05)
"""How often ``random_layout`` has one digit, two, and so on."""

SEGMENTS = ("abcdef", "bc", "abged", "abgcd", "fgbc", "afgcd", "afgedc", "abc", "abcdefg", "abcdfg")
"""The segments of each digit: a at the top, then clockwise b to f, g in the middle."""


class Layout(NamedTuple):
    """A house number and the box of each of its digits, (n, 4): left, top, width, height, in pixels."""

    text: str
    boxes: Array


def read_layouts(file: str, digest: Any = None) -> list[Layout]:
    """The layouts in a table with the columns ``number`` and ``boxes_left_top_width_height``.

    The boxes are separated by semicolons, their four numbers by commas: ``44,7,9,21;51,6,11,21``. Further columns are
    ignored.

    Raises:
        UserError: the table cannot be read, or a row is no layout: file, line, what was expected.
    """
    found = records(file, COLUMNS, digest=digest)
    return [_layout(record) for record in found]


COLUMNS = ("number", "boxes_left_top_width_height")
"""The columns of a table of layouts."""


def _layout(record: Record) -> Layout:
    text, given = (record.values[column].strip() for column in COLUMNS)
    if flaw := flaw_of(text):
        raise record.mistake(f"the number {flaw}")
    try:
        boxes = np.array([[float(part) for part in box.split(",")] for box in given.split(";")])
    except ValueError:
        boxes = np.empty(0)
    if boxes.shape != (len(text), 4) or not np.isfinite(boxes).all() or (boxes[:, 2:] <= 0).any():
        raise record.mistake(
            f"the boxes of {text!r} are {given[:60]!r}; expected left, top, width and height of each digit, such as "
            "44,7,9,21;51,6,11,21"
        )
    return Layout(text, boxes)


def flaw_of(text: str) -> str:
    """What is wrong with a house number, for the end of a sentence; empty if nothing is."""
    if text.isascii() and text.isdigit() and len(text) <= LONGEST:
        return ""
    given = repr(text) if len(text) <= 20 else f"{text[:20]!r}..."
    return f"is {given}; expected 1 to {LONGEST} digits"


def random_layout(rng: np.random.Generator) -> Layout:
    """A house number with digits of one size, side by side."""
    count = 1 + int(rng.choice(len(FREQUENCIES), p=FREQUENCIES))
    text = "".join(map(str, rng.integers(0, 10, count)))
    width, gap = rng.uniform(0.5, 0.75), rng.uniform(0.12, 0.3)
    boxes = np.empty((count, 4))
    boxes[:, 0] = np.arange(count) * (width + gap)
    boxes[:, 1] = rng.uniform(-0.15, 0.15) * boxes[:, 0] + rng.uniform(-0.03, 0.03, count)
    boxes[:, 2:] = width, 1
    return Layout(text, boxes)


def seven_segments(count: int, rng: np.random.Generator, height: int = 40) -> Glyphs:
    """Glyphs of all digits made of seven segments, as displays show them.

    Args:
        count: glyphs of each digit.
        rng: draws thickness, width, gaps and slant.
        height: of a glyph.
    """
    return {str(digit): [_segments(digit, rng, height) for _ in range(count)] for digit in range(10)}  # type: ignore[misc]


def _segments(digit: int, rng: np.random.Generator, height: int) -> Array:
    """One glyph, (height, 0.7 height), with smooth edges."""
    shape = height, round(0.7 * height)
    half, slant, gap = rng.uniform(0.045, 0.09), rng.uniform(-0.02, 0.15), rng.uniform(-0.02, 0.02)
    right, top, middle, bottom = rng.uniform(0.42, 0.5), half, 0.5, 1 - half
    ends = {
        "a": (half, top, right, top), "b": (right, top, right, middle), "c": (right, middle, right, bottom),
        "d": (half, bottom, right, bottom), "e": (half, middle, half, bottom), "f": (half, top, half, middle),
        "g": (half, middle, right, middle),
    }  # fmt: skip
    y, x = ((np.arange(side) + 0.5) / height for side in shape)
    across = x[None, :] - slant * (1 - y[:, None])  # a slanted display
    cover = np.zeros(shape)
    for segment in SEGMENTS[digit]:
        left, start, end, stop = ends[segment]
        lengthwise = (start + gap, stop - gap) if left == end else (start, stop)
        sideways = (left, end) if left == end else (left + gap, end - gap)
        outside = np.maximum(
            np.maximum(sideways[0] - across, across - sideways[1]),
            np.maximum(lengthwise[0] - y, y - lengthwise[1])[:, None],
        )
        cover = np.maximum(cover, np.clip((half - outside) * height + 0.5, 0, 1))
    return np.rint(255 * cover).astype(np.uint8)


def as_glyphs(pixels: Array, labels: Sequence[str]) -> Glyphs:
    """Images of single digits as glyphs, by their classes.

    Args:
        pixels: (N, H, W, C): uint8, or float in [0, 1]. They are turned into ink on nothing: if the edges of most are
            brighter than the middle of the range, dark is ink.
        labels: the class of each, "0" to "9".
    """
    grey = pixels[..., 0] if pixels.shape[3] == 1 else pixels @ np.asarray(LUMA, np.float32)
    ink = grey if grey.dtype == np.uint8 else np.rint(grey * (1 if pixels.dtype == np.uint8 else 255)).astype(np.uint8)
    edges = np.concatenate([ink[:, 0], ink[:, -1], ink[:, :, 0], ink[:, :, -1]], axis=1)
    if np.median(edges) > 127:
        ink = 255 - ink
    classes = np.asarray(labels)
    return {str(digit): ink[classes == str(digit)] for digit in range(10) if (classes == str(digit)).any()}


def draw(layout: Layout, glyphs: Glyphs, rng: np.random.Generator, shape: Sequence[int] = (54, 54, 1)) -> Array:
    """A picture of a house number, uint8 (H, W, C).

    Height and width of the crop are scaled to the picture's separately.

    Args:
        layout: the number and its boxes.
        glyphs: of each of its digits at least one.
        rng: draws.
        shape: H, W, and C: 1 for grey, 3 for colour.
    """
    height, width, channels = shape
    boxes = _placed(layout.boxes, rng, height, width)
    weight, sharpness, lean = rng.uniform(0.3, 0.55), rng.uniform(1.5, 4), rng.uniform(0.9, 1.1)
    digits = [
        _glyph(glyphs[digit], (left, top, lean * wide, high), rng, height, width)
        for digit, (left, top, wide, high) in zip(layout.text, boxes.tolist(), strict=True)
    ]
    cover = _sharpened(digits, weight, sharpness)
    picture, behind = _ground(boxes, rng, height, width, channels)
    ink, contrast = _ink(behind, rng)
    light = _light(rng, height, width, 0.35 * contrast)
    picture += light
    if rng.random() < 0.3:
        piece = _sharpened(_pieces(boxes, glyphs, rng, height, width), weight, sharpness)
        picture += piece * (ink * rng.uniform(0.6, 1) - 0.8 * picture)
    if rng.random() < 0.3:  # a shadow
        picture *= 1 - rng.uniform(0.2, 0.5) * _moved(cover, *rng.integers(-2, 3, 2).tolist())
    picture += cover * (ink + 0.7 * light - picture)
    picture = _blurred(picture, rng)
    picture += rng.uniform(1, 9) * rng.standard_normal(picture.shape, np.float32)
    np.clip(np.rint(picture, out=picture), 0, 255, out=picture)
    return picture.astype(np.uint8)


def _placed(boxes: Array, rng: np.random.Generator, height: int, width: int) -> Array:
    """Boxes in pixels of the picture: a crop around them with a margin, somewhere in it."""
    first, last = boxes[:, :2].min(0), (boxes[:, :2] + boxes[:, 2:]).max(0)
    extent = last - first
    whole = extent * (1 + rng.uniform(*MARGIN, 2))
    corner = first - (whole - extent) * rng.uniform(0.25, 0.75, 2)
    placed: Array = boxes + rng.uniform(-0.03, 0.03, boxes.shape) * np.tile(boxes[:, 2:], 2)
    placed[:, :2] -= corner
    placed *= np.tile(np.array((width, height)) / whole, 2)
    return placed


def _glyph(images: Array, box: Sequence[float], rng: np.random.Generator, height: int, width: int) -> Array:
    """The ink of a glyph in its box, (height, width), from 0 to 1; a narrow glyph does not fill a wide box."""
    image = images[rng.integers(len(images))]
    rows, columns = (np.flatnonzero(image.max(axis) > 64) for axis in (1, 0))
    if not len(rows):
        return np.zeros((height, width), np.float32)
    image = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.float32)
    left, top, wide, high = box
    narrow = min(wide, 1.6 * high * image.shape[1] / image.shape[0])
    down = _sampling(height, top, high, image.shape[0])
    across = _sampling(width, left + (wide - narrow) / 2, narrow, image.shape[1])
    ink: Array = down @ (image / 255) @ across.T
    return ink


def _sampling(side: int, start: float, length: float, count: int) -> Array:
    """What each of ``side`` pixels takes of each of ``count`` values that cover a length: bilinear, or their mean."""
    scale = count / length
    reach = max(scale, 1.0)
    ends = np.arange(side, dtype=np.float32)[:, None] * (scale / reach) + ((0.5 - start) * scale - 0.5) / reach
    weights = np.abs(ends - np.arange(count, dtype=np.float32) / reach)
    np.maximum(np.subtract(1, weights, out=weights), 0, out=weights)
    return weights if reach == 1 else weights / reach


def _sharpened(digits: Sequence[Array], weight: float, sharpness: float) -> Array:
    """The ink of digits together, (H, W, 1), with edges less soft; a smaller ``weight`` makes strokes wider."""
    cover = np.maximum.reduce(digits)
    sharp: Array = np.clip((cover - weight) * sharpness + 0.5, 0, 1) * (cover > 0)
    return sharp[..., None]


def _pieces(boxes: Array, glyphs: Glyphs, rng: np.random.Generator, height: int, width: int) -> list[Array]:
    """Digits that are mostly outside of the picture, left, right, or both; what is seen does not touch the number."""
    found = [np.zeros((height, width), np.float32)]
    left, right = boxes[:, 0].min(), (boxes[:, 0] + boxes[:, 2]).max()
    digits = sorted(set(glyphs) - {"1"}) or ["1"]  # a piece of a 1 is a 1
    for side in rng.permutation(2)[: 1 + (rng.random() < 0.3)].tolist():
        _, top, wide, high = boxes[-side].tolist()
        room = min(float((left, width - right)[side]) - 2, 0.4 * wide)
        if room > 1:
            box = (room - wide if side == 0 else width - room, top, wide, high)
            found.append(_glyph(glyphs[digits[rng.integers(len(digits))]], box, rng, height, width))
    return found


def _ground(boxes: Array, rng: np.random.Generator, height: int, width: int, channels: int) -> tuple[Array, Array]:
    """What is behind the digits, (H, W, C), and its mean colour there: a wall, perhaps boards or a plate."""
    y, x = np.arange(height, dtype=np.float32)[:, None, None], np.arange(width, dtype=np.float32)[:, None]
    colour = behind = _varied(WALLS[channels], rng)
    ground = np.empty((height, width, channels), np.float32)
    ground[:] = colour
    kind = rng.random()
    if kind < 0.2:  # boards or rows of bricks
        period, start = rng.uniform(0.15, 0.5) * height, rng.uniform(0, height)
        joint = np.abs((y - start) % period - period / 2) < rng.uniform(0.5, 1.2)
        ground += joint * np.float32(rng.uniform(-45, 15))
    elif kind < 0.3:  # the edge of a door or a frame
        edge = rng.uniform(0, 0.5) * float(boxes[:, 0].min())
        ground += (x < edge if rng.random() < 0.5 else x > width - edge) * (_varied(WALLS[channels], rng) - colour)
    if rng.random() < 0.35:  # a plate with a rim
        behind = _varied(WALLS[channels], rng)
        (left, top), (right, bottom) = boxes[:, :2].min(0).tolist(), (boxes[:, :2] + boxes[:, 2:]).max(0).tolist()
        rim, inner = rng.uniform(-40, 40), rng.uniform(1, 2.2)
        beside, above, after, below = rng.uniform(1, max(1, 0.12 * width), 4).tolist()
        inside = np.minimum(
            np.minimum(x + (1 + beside - left), right + after - x),
            np.minimum(y + (1 + above - top), bottom + below - y),
        )
        ground += np.clip(inside, 0, 1) * (behind + rim - ground)
        ground += np.clip(inside - inner, 0, 1) * (behind - ground)
    return ground, behind


def _varied(colours: Array, rng: np.random.Generator) -> Array:
    """One of some colours, a little changed, (C,)."""
    changed = 5 * rng.standard_normal(colours.shape[1], np.float32) + rng.normal(0, 10)
    found: Array = colours[rng.integers(len(colours))] + changed
    return found


def _brightness(colour: Array) -> Any:
    return colour[0] if len(colour) == 1 else colour @ GREY[:, 0]


def _ink(behind: Array, rng: np.random.Generator) -> tuple[Array, float]:
    """The colour of the digits and its contrast: one of the paints, made brighter or darker until it has that."""
    low, high = CONTRAST
    bright = float(_brightness(behind))
    sign = -1 if rng.random() < bright / 255 else 1  # darker digits on a bright wall, mostly
    contrast = low + (high - low) * rng.beta(1.5, 1.5)
    contrast = min(contrast, max(bright if sign < 0 else 255 - bright, low))
    paint = _varied(PAINTS[len(behind)], rng)
    return paint + (bright + sign * contrast - _brightness(paint)), contrast


def _light(rng: np.random.Generator, height: int, width: int, most: float) -> Array:
    """Uneven light, (H, W, 1): a slope and blotches, at most ``most`` brighter or darker."""
    angle, slope = rng.uniform(0, 2 * math.pi), rng.uniform(0, 0.6 * most)
    down, across = (np.arange(side, dtype=np.float32) * (2 / side) - 1 for side in (height, width))
    rough = int(rng.integers(2, 9))
    blotches = rng.standard_normal((rough, rough), np.float32) * (rng.uniform(0, 0.25) * most)
    light: Array = _stretch(height, rough) @ blotches @ _stretch(width, rough).T
    light += (slope * math.sin(angle)) * down[:, None]
    light += (slope * math.cos(angle)) * across
    np.clip(light, -most, most, out=light)
    uneven: Array = light[..., None]
    return uneven


def _moved(cover: Array, down: int, across: int) -> Array:
    """Ink moved by some pixels."""
    moved = np.zeros_like(cover)
    height, width = cover.shape[:2]
    target, source = (
        tuple(slice(max(sign * by, 0), side + min(sign * by, 0)) for by, side in ((down, height), (across, width)))
        for sign in (1, -1)
    )
    moved[target] = cover[source]
    return moved


def _blurred(picture: Array, rng: np.random.Generator) -> Array:
    """A picture blurred more or less, and not quite the same down and across."""
    height, width = picture.shape[:2]
    down, across = (rng.uniform(0, 1.1) + rng.uniform(-0.3, 0.3, 2)).round(1).tolist()
    if down >= 0.3:
        picture = (_blur(height, down) @ picture.reshape(height, -1)).reshape(picture.shape)
    if across >= 0.3:
        picture = _blur(width, across) @ picture
    return picture


@lru_cache(maxsize=256)
def _blur(side: int, deviation: float) -> Array:
    """A Gaussian blur of ``side`` pixels as a matrix; beyond the edge is what is at the edge."""
    places = np.arange(-3 * side, 4 * side)
    weights = np.exp(-0.5 * np.square((np.arange(side)[:, None] - places) / deviation))
    folded = np.zeros((side, side))
    np.add.at(folded.T, np.clip(places, 0, side - 1), weights.T)
    return _fixed(folded / folded.sum(1, keepdims=True))


@lru_cache(maxsize=256)
def _stretch(side: int, count: int) -> Array:
    """The matrix that stretches ``count`` values over ``side`` pixels, bilinearly."""
    matrix = _sampling(side, 0, side, count)
    return _fixed(matrix / matrix.sum(1, keepdims=True))


def _fixed(matrix: Array) -> Array:
    """A matrix that is kept for further pictures."""
    kept: Array = matrix.astype(np.float32)
    kept.flags.writeable = False
    return kept
