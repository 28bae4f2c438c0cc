"""What a prediction depends on: the path of the glimpses over the image, and what is lost without each."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from minigrad import log_softmax, pick
from minigrad.trees import Tree
from rnn_plugins.data.images import Named, unit
from rnn_plugins.reports.report import Chart, Curve, Figure, Frame, Panel, Picture
from rnn_plugins.tasks.blocks import mask
from rnn_plugins.tasks.read.columns import ColumnReader
from rnn_plugins.tasks.read.model import Glimpser
from rnn_plugins.tasks.read.results import DIGITS, STOP

Array: TypeAlias = NDArray[Any]


def left_out(model: Glimpser, params: Tree, pixels: Array, keys: Array, wanted: Array, lengths: Array) -> Array:
    """How much log p of the symbols of each image falls without each glimpse, in nats, (T, B).

    The patches of the glimpse become blank; the locations of all glimpses are kept.

    Args:
        model: the network.
        params: its parameters.
        pixels: the images, (B, H, W, C).
        keys: a number for the chance of each, (B,).
        wanted: symbols, (S, B), padded.
        lengths: how many each image has, (B,).
    """
    steps = model.per_symbol * len(wanted)
    seen = model.look(params, pixels, model.drawn(keys, steps))
    given, places = model.at_given(), np.asarray(seen.places)
    live = mask(lengths, len(wanted))

    def nats(shown: Array | None) -> Array:
        found = log_softmax(given.logits(params, given.look(params, pixels, places, shown=shown)))
        total: Array = np.where(live, np.asarray(pick(found, wanted), np.float64), 0).sum(0)
        return total

    every, falls = nats(None), np.empty((steps, len(pixels)))
    for step in range(steps):
        shown = np.ones((steps, len(pixels), 1), model.dtype)
        shown[step] = 0
        falls[step] = every - nats(shown)
    return falls


def explanation(
    model: Glimpser | ColumnReader, params: Tree, given: Named, number: str, keys: Array
) -> tuple[Figure, ...]:
    """The path of the glimpses, and how much each counts for the number that is read; or how much each column does.

    Args:
        model: the network.
        params: its parameters.
        given: the image.
        number: what is read.
        keys: a number for the chance of the image, (1,).
    """
    ids = [*map(DIGITS.index, number)]
    ids += [STOP] * (model.classes > STOP and len(ids) < model.symbols)
    wanted, lengths = np.array(ids)[:, None], np.array([len(ids)])
    if isinstance(model, ColumnReader):
        return _of_columns(model, params, given, number, wanted)
    falls = left_out(model, params, given.pixels[None], keys, wanted, lengths)[:, 0]
    seen = model.look(params, given.pixels[None], model.drawn(keys, len(falls)))
    places = np.asarray(seen.places)[:, 0]
    each = model.per_symbol if model.symbols > 1 else 1
    labels = [f"{step // each + 1}" + f".{step % each + 1}" * (each > 1) for step in range(len(places))]
    every = [
        tuple(Frame(*model.sensor.frame(place, scale), colour=step // each) for scale in range(model.sensor.scales))
        for step, place in enumerate(places)
    ]
    picture = _as_uint8(unit(given.pixels))
    patches = [Panel(pixels, label) for pixels, label in zip(_seen(model, given, places), labels, strict=True)]
    path = Picture(
        "path",
        f"Where the network looks: {given.name}",
        panels=(Panel(picture, number, tuple(frames[0] for frames in every)), *patches),
        steps=tuple(Panel(picture, label, frames) for label, frames in zip(labels, every, strict=True)),
        definition=f"The image with the finest patch of each glimpse, in a colour for each "
        f"{'glimpse' if each == 1 else 'digit'}, and what the glimpses see, from the finest patch to the coarsest."
        + " 2.1 is the first glimpse for the second symbol, a digit or the end."
        * (each > 1),
    )
    counts = Chart(
        "left_out",
        f"What is lost without each glimpse: {given.name}",
        "glimpse",
        "nats",
        (Curve("", np.arange(1.0, len(falls) + 1), falls, role="points"),),
        definition=f"How much log p of {number} falls if the patches of this glimpse are blank, and all others and the "
        "path are as they are.",
    )
    return path, counts


def _of_columns(model: ColumnReader, params: Tree, given: Named, number: str, wanted: Array) -> tuple[Figure, ...]:
    """The image, and how much each of its columns counts."""
    width = given.pixels.shape[1]
    xs = np.repeat(model.columns(given.pixels[None], len(wanted)), width + 1, axis=1)  # (W + S, W + 1, I)
    xs[np.arange(width), np.arange(width)] = 0
    found = np.asarray(log_softmax(model.logits(params, xs, len(wanted))), np.float64)
    nats = np.take_along_axis(found, wanted[:, :, None], 2).sum((0, 2))
    counts = Chart(
        "left_out",
        f"What is lost without each column: {given.name}",
        "column",
        "nats",
        (Curve("", np.arange(1.0, width + 1), nats[-1] - nats[:-1]),),
        definition=f"How much log p of {number} falls if this column of the image is blank.",
    )
    picture = Picture("image", given.name, (Panel(_as_uint8(unit(given.pixels)), number),))
    return picture, counts


def _as_uint8(pixels: Array) -> Array:
    """Pixels (H, W, C) in [0, 1] as a panel takes them."""
    values: Array = np.rint(255 * np.clip(pixels, 0, 1)).astype(np.uint8)
    return values[..., 0] if values.shape[2] == 1 else values


def _seen(model: Glimpser, given: Named, places: Array) -> list[Array]:
    """What each glimpse (T, 2) sees of an image: its patches beside each other."""
    sensor, mean, deviation = model.sensor, np.array(model.mean), np.array(model.deviation)
    image = (unit(given.pixels, np.float64) - mean) / deviation  # so that what is outside looks like the mean
    copies = np.repeat(image[None], len(places), axis=0)
    scales = [patches * deviation + mean for patches in sensor.patches(copies, places.astype(np.float64))]
    seen = []
    for each in zip(*scales, strict=True):
        between = np.ones((sensor.size, 1, sensor.shape[2]))
        seen.append(_as_uint8(np.concatenate([part for patch in each for part in (between, patch)][1:], axis=1)))
    return seen
