"""A task with pictures that learns in no time: the mean of images of one bright spot, which it paints step by step."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from minigrad import trees
from rnn_plugins.data.images import read_images, unit
from rnn_plugins.reports.report import Frame, Panel, Picture
from rnn_plugins.tasks.task import Batch, Data, Model, Prediction, Task

SIDE = 8


@dataclass(frozen=True)
class Mean(Model):
    """An image that is the same for all inputs; the cell only stands beside it."""

    cell: Any
    dtype: str
    channels: int

    def init_params(self, rng):
        return trees.cast(
            {"cell": self.cell.init_params(rng), "mean": np.zeros((SIDE, SIDE, self.channels))}, self.dtype
        )

    def loss(self, params, carry, batch, rng):
        _, ys = self.cell.unroll(
            params["cell"], self.cell.init_carry(len(batch.inputs)), np.zeros((1, len(batch.inputs), 1), self.dtype)
        )
        error = params["mean"] - batch.inputs.astype(self.dtype)
        return (error * error).mean() + 0 * (ys * ys).mean(), carry


@dataclass(frozen=True)
class Spots(Task):
    """Paint spots.

    Attributes:
        steps: of a painting.
        colour: whether pictures are coloured.
    """

    steps: int = 4
    colour: bool = False

    metrics: ClassVar[Mapping[str, Any]] = Task.metrics
    default_files: ClassVar[tuple[str, ...]] = ("builtin:spots",)
    needs_input: ClassVar[bool] = False
    shows_pictures: ClassVar[bool] = True

    @property
    def shape(self):
        return SIDE, SIDE, 3 if self.colour else 1

    def read(self, files, facts=None, *, purpose="train"):
        images = np.zeros((20, *self.shape), np.float32)
        for i, image in enumerate(images):
            image[2 + i % 4 : 4 + i % 4, 3:6] = 1
        return Data(list(images), list(images[:4]), {}, tuple(files), hashlib.sha256(images.tobytes()).hexdigest())

    def model(self, facts, network):
        return Mean(network.make_cell(1), network.dtype, self.shape[2])

    def pack(self, examples):
        return Batch(np.stack(examples), None, len(examples))

    def inputs(self, file, facts):
        if file == "builtin:spots":
            yield from ((f"{file}[{i}]", image) for i, image in enumerate(self.read([file]).valid))
            return
        images = read_images(file, shape=self.shape)
        yield from zip(images.names, images.pixels, strict=True)

    def predict(self, model, params, facts, inputs, *, top=1, explain=False):
        for name, image in inputs:
            values = unit(image)
            again = (values + np.asarray(params["mean"])) / 2
            panels = Panel(_pixels(values), "given"), Panel(_pixels(again), "again", (Frame(1, 2, 4, 3),))
            figures = (Picture("again", f"Painted again: {name}", panels),) if explain else ()
            yield Prediction(f"{name}\t{again.mean():.3f}", {"input": name, "pixels": _pixels(again)}, figures)

    def generate(self, model, params, facts, inputs, choice, rng):
        for number, _ in enumerate(inputs, start=1):
            final = np.clip(np.asarray(params["mean"]) + rng.normal(0, 0.1, self.shape), 0, 1)
            canvases = [_pixels(final * (step + 1) / self.steps) for step in range(self.steps)]
            steps = tuple(
                Panel(canvas, f"step {step + 1}", (Frame(step, step + 0.4, 3, 3),))
                for step, canvas in enumerate(canvases)
            )
            picture = Picture("painted", f"Picture {number}", (Panel(canvases[-1]),), steps=steps)
            yield Prediction("", {"pixels": canvases[-1], "canvases": np.stack(canvases)}, (picture,))


class Still(Spots):
    """Paint spots in one step."""

    def generate(self, model, params, facts, inputs, choice, rng):
        for found in super().generate(model, params, facts, inputs, choice, rng):
            (picture,) = found.figures
            yield found._replace(figures=(Picture("painted", picture.title, picture.panels),))


def _pixels(values):
    pixels = np.rint(255 * np.clip(values, 0, 1)).astype(np.uint8)
    return pixels if pixels.shape[2] == 3 else pixels[..., 0]
