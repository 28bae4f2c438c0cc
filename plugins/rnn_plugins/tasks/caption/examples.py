"""Images with their captions as ids of symbols: what a captioner sees, and what it is to write."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rnn_plugins.data.captions import Captioned
from rnn_plugins.data.images import unit
from rnn_plugins.data.tokens import Tokens
from rnn_plugins.tasks.decoding import END

Array = NDArray[Any]


class Example(NamedTuple):
    """An image and a caption.

    Attributes:
        pixels: (H, W, C), as in ``Images.pixels``.
        ids: of the caption's symbols, and ``END``.
        caption: the text.
        image: the image's name.
        group: of the image, or empty.
    """

    pixels: Array
    ids: Array
    caption: str
    image: str
    group: str


def tokens_of(facts: Mapping[str, Any]) -> Tokens:
    """The symbols of the captions.

    Raises:
        ValueError: the facts are damaged.
    """
    return Tokens.from_json(facts["tokens"])


def example_of(tokens: Tokens, captioned: Captioned) -> Example:
    """A captioned image as an example."""
    ids = np.append(tokens.encode(captioned.caption), END)
    return Example(captioned.pixels, ids, captioned.caption, captioned.image, captioned.group)


def statistics(images: Mapping[str, Array]) -> dict[str, list[float]]:
    """The mean and the standard deviation of each channel of some images; 1 for one that is the same everywhere."""
    pixels = [unit(image, np.float64).reshape(-1, image.shape[2]) for image in images.values()]
    mean = np.mean([one.mean(0) for one in pixels], axis=0)
    deviation = np.sqrt(np.mean([np.square(one - mean).mean(0) for one in pixels], axis=0))
    return {"mean": mean.tolist(), "deviation": np.where(deviation > 1e-6, deviation, 1.0).tolist()}
