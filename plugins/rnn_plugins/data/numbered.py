"""Pictures with the number that each shows: stored ones, and house numbers that are drawn when they are asked for.

What is drawn depends on a seed, the picture's place and the epoch, so that any number of pictures takes no memory.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

from rnn_plugins.data.house_numbers import Glyphs, Layout, draw, random_layout

Array: TypeAlias = NDArray[Any]


class Example(NamedTuple):
    """A picture of a number.

    Attributes:
        source: what has it.
        place: its place there.
    """

    source: Pictures
    place: int

    @property
    def text(self) -> str:
        """The number; empty if unknown."""
        return self.source.text(self.place)

    @property
    def name(self) -> str:
        """A name for messages and records."""
        return self.source.name(self.place)

    def pixels(self, epoch: int = 0, seed: int = 0) -> Array:
        """The picture, (H, W, C), as in ``Images.pixels``; one that is generated is another one in each epoch."""
        return self.source.pixels(self.place, epoch, seed)


class Pictures(Sequence[Example]):
    """Pictures with their numbers."""

    @overload
    def __getitem__(self, place: int) -> Example: ...

    @overload
    def __getitem__(self, place: slice) -> list[Example]: ...

    def __getitem__(self, place: int | slice) -> Example | list[Example]:
        """One picture, or several."""
        if isinstance(place, slice):
            return [Example(self, i) for i in range(*place.indices(len(self)))]
        if not -len(self) <= place < len(self):
            raise IndexError(place)
        return Example(self, int(place) % len(self))

    @abstractmethod
    def text(self, place: int) -> str:
        """The number in a picture; empty if unknown."""

    @abstractmethod
    def name(self, place: int) -> str:
        """The name of a picture."""

    @abstractmethod
    def pixels(self, place: int, epoch: int, seed: int) -> Array:
        """A picture, (H, W, C)."""


@dataclass(frozen=True, eq=False)
class Stored(Pictures):
    """Pictures from files, the same in each epoch.

    Attributes:
        images: (N, H, W, C), as in ``Images.pixels``.
        texts: the numbers of all N; empty if unknown.
        names: likewise.
        places: which of the N these are.
    """

    images: Sequence[Array] | Array
    texts: Sequence[str]
    names: Sequence[str]
    places: Sequence[int] | Array

    def __len__(self) -> int:
        return len(self.places)

    def text(self, place: int) -> str:
        """The number in a picture."""
        return self.texts[self.places[place]] if self.texts else ""

    def name(self, place: int) -> str:
        """The name of a picture."""
        return self.names[self.places[place]]

    def pixels(self, place: int, epoch: int, seed: int) -> Array:
        """A picture, (H, W, C)."""
        pixels: Array = self.images[self.places[place]]
        return pixels


@dataclass(frozen=True, eq=False)
class Drawn(Pictures):
    """House numbers, drawn anew in each epoch.

    Attributes:
        layouts: of the numbers; None for random ones.
        glyphs: images of each digit.
        shape: height, width, channels.
        size: the number of pictures; more than there are layouts draw each several times.
        key: a seed, and a number of the part of the data.
        label: of their names.
    """

    layouts: Sequence[Layout] | None
    glyphs: Glyphs
    shape: Sequence[int]
    size: int
    key: tuple[int, int]
    label: str

    def __len__(self) -> int:
        return self.size

    def layout(self, place: int) -> Layout:
        """The layout of a picture."""
        if self.layouts is None:
            return random_layout(np.random.default_rng((*self.key, place)))
        return self.layouts[place % len(self.layouts)]

    def text(self, place: int) -> str:
        """The number in a picture."""
        return self.layout(place).text

    def name(self, place: int) -> str:
        """The name of a picture."""
        return f"{self.label}[{place}]"

    def pixels(self, place: int, epoch: int, seed: int) -> Array:
        """A picture, (H, W, C), uint8."""
        rng = np.random.default_rng((*self.key, place, epoch, seed))
        return draw(self.layout(place), self.glyphs, rng, self.shape)


def glyphs_again(training: Pictures, others: Pictures) -> tuple[int, int]:
    """How many glyphs of other drawn pictures those of training have too, and how many there are; 0 if not drawn."""
    if not (isinstance(training, Drawn) and isinstance(others, Drawn)):
        return 0, 0
    known = {image.tobytes() for images in training.glyphs.values() for image in images}
    found = [image.tobytes() in known for images in others.glyphs.values() for image in images]
    return sum(found), len(found)


@dataclass(frozen=True, eq=False)
class Numbers:
    """What was read.

    Attributes:
        train: to train on.
        valid: held out.
        shape: height, width and channels of all pictures.
        white: as in ``Images``.
        about: size and kind, in a phrase.
        notices: sentences for the user.
    """

    train: Pictures
    valid: Pictures
    shape: tuple[int, int, int]
    white: int = 255
    about: str = ""
    notices: tuple[str, ...] = ()
