"""Generated pictures of one or two coloured shapes, with captions: "a small red square left of a blue circle".

A tenth of the pairs of coloured shapes are never beside each other in a training picture, so that their captions cannot
be known by heart.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations_with_replacement, product
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rnn_plugins.errors import UserError
from rnn_plugins.words import is_whole

Array: TypeAlias = NDArray[Any]

Kind: TypeAlias = tuple[str, str]
"""A colour and a shape."""

SIDE = 32
"""Height and width of a picture."""

COUNT = 20_000
"""The number of training pictures of ``builtin:scenes``."""

MOST = 200_000
"""The largest number that may be asked for; they take 600 MB."""

COLOURS = {
    "red": (220, 40, 40),
    "orange": (245, 150, 30),
    "yellow": (245, 225, 50),
    "green": (50, 160, 60),
    "blue": (45, 80, 215),
    "purple": (140, 60, 170),
    "brown": (120, 75, 40),
    "black": (25, 25, 25),
}

SHAPES = ("circle", "square", "triangle", "diamond", "cross", "ring")

RADII = {"small": (2.8, 3.3), "": (4.8, 5.3), "large": (7.0, 7.5)}
"""The range of half the height of a shape, by the word for its size, in pixels."""

RELATIONS = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}
"""Where the first shape is from the second: across, and down."""

ALONE = 0.2
"""The share of training pictures with one shape."""

UNSEEN = 0.1
"""The share of the pairs of coloured shapes that are held out."""

BLOCK = 1000
"""Pictures that are drawn together."""


class Scene(NamedTuple):
    """A picture: (SIDE, SIDE, 3) uint8, and its caption."""

    pixels: Array
    caption: str


class _Shape(NamedTuple):
    size: str
    colour: str
    shape: str

    def __str__(self) -> str:
        words = " ".join(filter(None, self))
        return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def held_out(seed: int = 0) -> set[frozenset[Kind]]:
    """The pairs of coloured shapes that no training picture has beside each other: a tenth of all pairs."""
    kinds = list(product(COLOURS, SHAPES))
    pairs = [frozenset(pair) for pair in combinations_with_replacement(kinds, 2)]
    chosen = np.random.default_rng([seed, 0]).permutation(len(pairs))[: round(UNSEEN * len(pairs))]
    return {pairs[i] for i in chosen}


def scenes(count: int, seed: int = 0, *, unseen: bool = False) -> Iterator[Scene]:
    """Pictures in a random order that depends on the seed.

    Of two shapes, the smaller comes first in the caption. One that is neither small nor large has no word for its size.

    Args:
        count: their number.
        seed: of everything that is random.
        unseen: whether all pictures have a pair of ``held_out``, so that no caption is one of a training picture;
            without, no picture has one.
    """
    rng = np.random.default_rng([seed, 1 + unseen])
    never = held_out(seed)
    for start in range(0, count, BLOCK):
        plans = [_plan(rng, never, unseen) for _ in range(min(BLOCK, count - start))]
        for pixels, (_, caption) in zip(_drawn([shapes for shapes, _ in plans], rng), plans, strict=True):
            yield Scene(pixels, caption)


def parse(name: str) -> tuple[int, int] | None:
    """Count and seed of ``builtin:scenes``, ``builtin:scenes:COUNT`` or ``builtin:scenes:COUNT:SEED``; else None.

    Raises:
        UserError: a number is none, or out of range.
    """
    kind, *numbers = name.removeprefix("builtin:").split(":")
    if not name.startswith("builtin:") or kind != "scenes":
        return None
    if len(numbers) > 2 or not all(map(is_whole, numbers)):
        raise UserError(
            f"{name!r} is not understood; it takes builtin:scenes, builtin:scenes:COUNT or builtin:scenes:COUNT:SEED, "
            "such as builtin:scenes:20000"
        )
    count, seed = [*map(int, numbers), *(COUNT, 0)[len(numbers) :]]
    if not 1 <= count <= MOST:
        raise UserError(f"{name!r} asks for {count:,} pictures; expected 1 to {MOST:,}")
    return count, seed


def _plan(rng: np.random.Generator, never: set[frozenset[Kind]], unseen: bool) -> tuple[list[Any], str]:
    """The shapes of a picture, the centre and radius of each, and its caption."""
    words, kinds = list(RADII), list(product(COLOURS, SHAPES))
    count = 2 if unseen or rng.random() >= ALONE else 1
    sizes = [words[i] for i in np.sort(rng.permutation(len(words))[:count])]
    while True:
        chosen = [kinds[i] for i in rng.integers(len(kinds), size=count)]
        if (count == 2 and frozenset(chosen) in never) == unseen:
            break
    shapes = [_Shape(size, *kind) for size, kind in zip(sizes, chosen, strict=True)]
    radii = [rng.uniform(*RADII[shape.size]) for shape in shapes]
    caption = str(shapes[0])
    if len(shapes) == 1:
        centres = [rng.uniform(radii[0] + 1, SIDE - radii[0] - 1, 2)]
    else:
        relation = list(RELATIONS)[rng.integers(len(RELATIONS))]
        caption += f" {relation} {shapes[1]}"
        centres = _placed(rng, radii, np.array(RELATIONS[relation]))
    return [(shape, centre, radius) for shape, centre, radius in zip(shapes, centres, radii, strict=True)], caption


def _placed(rng: np.random.Generator, radii: list[float], direction: Array) -> list[Array]:
    """Centres (x, y) of two shapes, the first in a direction from the second, beside each other and not touching."""
    apart = radii[0] + radii[1] + 1
    while True:
        centres = [rng.uniform(radius + 1, SIDE - radius - 1, 2) for radius in radii]
        across = centres[0] - centres[1]
        if across @ direction >= apart and np.abs(across @ direction[::-1]) < 0.6 * (across @ direction):
            return centres


def _drawn(plans: list[Any], rng: np.random.Generator) -> Array:
    """Pictures (N, SIDE, SIDE, 3), uint8; edges are smooth, and colours, background and pixels vary a little."""
    shape = (len(plans), SIDE, SIDE)
    pixels = np.empty((*shape, 3), np.float32)
    pixels[:] = rng.uniform(205, 255, (len(plans), 1, 1, 1)) + rng.normal(0, 4, (len(plans), 1, 1, 3))
    grid = np.arange(SIDE, dtype=np.float32) + 0.5
    for i, shapes in enumerate(plans):
        for kind, (x, y), radius in shapes:
            cover = np.clip(0.5 - _distance(kind.shape, grid - x, grid[:, None] - y, radius), 0, 1)[..., None]
            colour = np.array(COLOURS[kind.colour]) + rng.normal(0, 8, 3)
            pixels[i] += cover * (colour - pixels[i])
    pixels += rng.normal(0, 3, pixels.shape).astype(np.float32)
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def _distance(shape: str, x: Array, y: Array, radius: float) -> Array:
    """How far pixels are outside a shape's edge, about, negative inside; the shape is about 2 radii high."""
    across, down = np.abs(x), np.abs(y)
    distance: Array
    if shape == "circle":
        distance = np.hypot(x, y) - radius
    elif shape == "ring":
        distance = np.abs(np.hypot(x, y) - 0.75 * radius) - 0.25 * radius
    elif shape == "square":
        distance = np.maximum(across, down) - 0.9 * radius
    elif shape == "diamond":
        distance = (across + down - 1.1 * radius) / np.sqrt(2)
    elif shape == "cross":
        arm = radius / 3
        distance = np.minimum(np.maximum(across - arm, down - radius), np.maximum(down - arm, across - radius))
    else:  # a triangle with its apex at the top
        distance = np.maximum((2 * across - (y + radius)) / np.sqrt(5), y - 0.9 * radius)
    return distance
