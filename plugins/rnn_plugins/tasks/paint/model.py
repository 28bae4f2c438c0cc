"""The model that paints: recurrent encoder and decoder of a variational autoencoder, and a canvas that is added to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from minigrad import affine, clip, concat, dropout_mask, exp, mean, scan, sigmoid, sum, trees
from minigrad.densities import bernoulli, discretised_logistic, gaussian_divergence
from minigrad.initializers import glorot_uniform, zeros
from minigrad.trees import Tree
from rnn_cells import Cell
from rnn_cells.regularised import drop_weights
from rnn_plugins.tasks import task
from rnn_plugins.tasks.blocks import dense, masked_step, step_masks
from rnn_plugins.tasks.task import Batch, Network, Work
from rnn_plugins.tasks.windows import gaussians, spread, window

Array = NDArray[Any]

Rng = np.random.Generator | None

FRAME = 5
"""The numbers that place a window: column, row, variance, spacing and intensity."""

OVERLAP = 0.5
"""The first deviation of a window's Gaussians, in distances of its points: so wide that nothing lies between them."""

CLEAR = 3
"""How many times larger than usual the first weights of the codes' means are, so that noise hides less of them."""

THRESHOLD = 0.5
"""Of pixels that are binarised by a threshold."""

LARGEST = 10.0
"""The largest logarithm of a deviation or of a window's numbers: a cell with unbounded outputs must not overflow."""

LEVELS = 256
"""Of a pixel, which is a byte."""

SCALE = 0.1
"""The first scale of the distribution of levels around the canvas; black is 0 and white 1."""

FAINT = 0.01
"""The smallest mean of a channel that the first canvas has, or what is missing to 1."""


class Inputs(NamedTuple):
    """Images, and the random numbers that their painting takes.

    Attributes:
        pixels: (B, H, W, C), in [0, 1].
        draws: uniform numbers of the same shape, from which pixels are drawn as 0 or 1.
        noise: standard normal numbers, (T, B, latent), from which codes are made; zeros for the means of the codes.
    """

    pixels: Array
    draws: Array
    noise: Array


class Painted(NamedTuple):
    """What a network painted.

    Attributes:
        canvases: the logits of the pixels after each step, (T, B, H, W, C).
        reads: where it read from at each step, (T, B, FRAME), as ``Window.place`` gives them; None without attention,
            or where nothing is read.
        writes: where it wrote; None without attention.
        divergence: of the code at each step, (T, B), in nats; None where the code is drawn from the prior.
    """

    canvases: Array
    reads: Array | None
    writes: Array | None
    divergence: Array | None


@dataclass(frozen=True)
class Window:
    """A window of NxN points on an image, placed by five numbers (Gregor et al. 2015, equations 19 to 26).

    Each point is the sum of the pixels around it, weighed by a Gaussian.

    Attributes:
        points: N, along each side.
        height: of the image.
        width: of the image.
    """

    points: int
    height: int
    width: int

    @property
    def _spacing(self) -> float:
        """The distance of the points of a window that is as wide as the image, or as two pixels if it has one."""
        return (max(self.height, self.width, 2) - 1) / max(self.points - 1, 1)

    def init_params(self, rng: np.random.Generator, inputs: int) -> Tree:
        """``W`` and ``b`` of the five numbers; the first window is the whole image."""
        bias = zeros(rng, (FRAME,))
        bias[2] = 2 * math.log(OVERLAP * self._spacing)
        return {"W": glorot_uniform(rng, (inputs, FRAME)), "b": bias}

    def place(self, params: Tree, h: Any) -> Any:
        """Where the window is, from outputs (B, H): (B, FRAME).

        The column and the row of its centre, counted from 0 in pixels; the variance of the Gaussians, and the distance
        of the points, in pixels; the intensity.
        """
        a = affine(params, h)
        x = (a[:, 0:1] + 1) * ((self.width + 1) / 2) - 1
        y = (a[:, 1:2] + 1) * ((self.height + 1) / 2) - 1
        variance, spacing, intensity = (exp(clip(a[:, i : i + 1], -LARGEST, LARGEST)) for i in range(2, FRAME))
        return concat(x, y, variance, spacing * self._spacing, intensity)

    def filters(self, place: Any) -> tuple[Any, Any]:
        """The weights of the pixels in the rows, (B, N, H), and in the columns, (B, N, W), of windows (B, FRAME)."""
        x, y, variance, spacing = (place[:, i : i + 1] for i in range(FRAME - 1))
        rows = gaussians(y, spacing, variance, self.points, self.height)
        return rows, gaussians(x, spacing, variance, self.points, self.width)


@dataclass(frozen=True)
class Parts:
    """What a step of a ``Painter`` consists of; apart from the settings, so that it is traced once.

    Attributes:
        encoder: reads.
        decoder: writes.
        shape: height, width and channels of an image.
        latent: the width of z.
        reading: the window from which it reads; None to read the whole image.
        writing: the window into which it writes; None to write on the whole canvas.
    """

    encoder: Cell
    decoder: Cell
    shape: tuple[int, int, int]
    latent: int
    reading: Window | None
    writing: Window | None

    @property
    def flat(self) -> tuple[int, ...]:
        """The shape of an image inside the time loop: without an axis for a single channel."""
        return self.shape if self.shape[2] > 1 else self.shape[:2]

    def init_params(self, rng: np.random.Generator) -> dict[str, Any]:
        """``encoder``, ``decoder``, ``code`` and ``stroke``; with attention, ``read`` and ``write``."""
        written = self.shape[2] * self.writing.points**2 if self.writing else math.prod(self.shape)
        code = dense(rng, self.encoder.output_size, 2 * self.latent)
        code["W"][:, : self.latent] *= CLEAR
        params = {
            "encoder": self.encoder.init_params(rng),
            "decoder": self.decoder.init_params(rng),
            "code": code,
            "stroke": dense(rng, self.decoder.output_size, written),
        }
        for name, place in (("read", self.reading), ("write", self.writing)):
            if place:
                params[name] = place.init_params(rng, self.decoder.output_size)
        return params


@dataclass(frozen=True)
class Painter(task.Model):
    """DRAW (Gregor et al. 2015, arXiv:1502.04623), without the parameters.

    With x the image, c the canvas, h and g the outputs of encoder and decoder, at each step

        e_t = x - sigmoid(c_{t-1}),  r_t = read(x, e_t, g_{t-1})
        h_t = encoder([r_t, g_{t-1}]),  q_t = N(mean(h_t), exp(log_deviation(h_t))),  z_t ~ q_t
        g_t = decoder(z_t),  c_t = c_{t-1} + write(g_t)

    The loss is the sum of -log p(x | c_T), where each pixel is Bernoulli with the mean sigmoid(c_T), and of the
    divergence of each q_t from the standard normal prior: a bound of -log p(x), in nats. Pixels that keep their levels
    are instead distributed around sigmoid(c_T) with a scale that is learnt (``discretised_logistic``).

    Without attention, read gives all pixels of both, and write is affine. With it, both go through a ``Window`` that
    the decoder places: what is read is multiplied by its intensity, what is written divided by it. The first canvas is
    a parameter; it begins as the mean of the training images. New images are painted by the decoder alone, from
    z_t ~ N(0, 1).

    Attributes:
        parts: cells, windows and sizes.
        mean: of each channel of the training images.
        binarised: how pixels become 0 or 1: by a ``threshold``, not at all (``no`` and ``levels``), or else by draws.
        network: the user's settings.
    """

    parts: Parts
    mean: tuple[float, ...]
    binarised: str
    network: Network

    @classmethod
    def make(
        cls,
        network: Network,
        shape: Sequence[int],
        *,
        latent: int,
        read_size: int,
        write_size: int,
        mean: Sequence[float],
        binarised: str,
    ) -> Painter:
        """A model with the user's settings; windows of size 0 for no attention."""
        height, width, channels = shape
        reading = Window(read_size, height, width) if read_size else None
        writing = Window(write_size, height, width) if write_size else None
        decoder = network.make_cell(latent)
        seen = channels * (read_size**2 if read_size else height * width)
        encoder = network.make_cell(2 * seen + decoder.output_size)
        parts = Parts(encoder, decoder, (height, width, channels), latent, reading, writing)
        return cls(parts, tuple(mean), binarised, network)

    def init_params(self, rng: np.random.Generator) -> Tree:
        """Those of the parts, and the first ``canvas``, (H, W, C); where pixels have levels, a log ``scale``, (C,)."""
        first = np.clip(np.array(self.mean), FAINT, 1 - FAINT)
        canvas = np.broadcast_to(np.log(first / (1 - first)), self.parts.shape).copy()
        params = {**self.parts.init_params(rng), "canvas": canvas}
        if self.binarised == "levels":
            params["scale"] = np.full(self.parts.shape[2], math.log(SCALE))
        return trees.cast(params, self.network.dtype)

    def shapes_known(self) -> dict[str, tuple[int, ...]]:
        """The shape of the first canvas."""
        return {"canvas": self.parts.shape}

    def seen(self, inputs: Inputs) -> Array:
        """What is to be painted: images (B, H, W, C) whose pixels are binarised."""
        pixels, draws, _ = inputs
        if self.binarised in ("no", "levels"):
            return pixels
        return (pixels >= THRESHOLD if self.binarised == "threshold" else draws < pixels).astype(pixels.dtype)

    def log_likelihood(self, params: Tree, canvas: Any, x: Any) -> Any:
        """The log probability of each pixel given a canvas of logits, in nats.

        Args:
            params: the parameters.
            canvas: (..., H, W, C), or (..., H, W) of a single channel.
            x: images of that shape, as ``seen`` gives them.
        """
        if self.binarised != "levels":
            return bernoulli(canvas, x)
        return discretised_logistic(x, sigmoid(canvas), params["scale"], LEVELS)

    def terms(self, params: Tree, inputs: Inputs, rng: np.random.Generator | None = None) -> tuple[Any, Any]:
        """The two terms of the bound for each image, in nats.

        Args:
            params: the parameters.
            inputs: the images.
            rng: draws the dropout masks; None for no dropout.

        Returns:
            -log p(x | c_T), (B,), and the divergence, (B,).
        """
        for name in ("encoder", "decoder"):
            params = params | {name: drop_weights(getattr(self.parts, name), params[name], rng)}
        x, carry, xs = self._start(params, inputs, rng)
        (canvas, *_), divergence = scan(Step(self.parts), params, carry, xs, context=x)
        axes = tuple(range(1, canvas.ndim))
        return -sum(self.log_likelihood(params, canvas, x), axis=axes), sum(divergence, axis=0)

    def loss(self, params: Tree, carry: Tree, batch: Batch, rng: np.random.Generator | None) -> tuple[Any, Tree]:
        """The mean bound of -log p(image), in nats."""
        reconstruction, divergence = self.terms(params, batch.inputs, rng)
        return mean(reconstruction + divergence), carry

    def again(self, params: Tree, inputs: Inputs) -> Painted:
        """Images painted from their codes."""
        x, carry, xs = self._start(params, inputs, None)
        _, shown = scan(Step(self.parts, show=True), params, carry, xs, context=x)
        return self._painted(shown)

    def paint(self, params: Tree, codes: Array) -> Painted:
        """New images from codes (T, B, latent), drawn from the prior."""
        canvas, _, decoder, g = self._first(params, codes.shape[1])
        codes = codes.astype(self.network.dtype)
        _, shown = scan(Strokes(self.parts), params, (canvas, decoder, g), codes)
        return self._painted(shown)

    def _painted(self, shown: dict[str, Any]) -> Painted:
        found = {name: np.asarray(value) for name, value in shown.items()}
        canvases = found["canvas"].reshape(*found["canvas"].shape[:2], *self.parts.shape)
        return Painted(canvases, found.get("read"), found.get("write"), found.get("divergence"))

    def _first(self, params: Tree, size: int) -> tuple[Any, Tree, Tree, Array]:
        """The first carry: the canvas, the carries of the cells, the decoder's last output."""
        dtype = self.network.dtype
        canvas = params["canvas"].reshape(*self.parts.flat) + np.zeros((size, *self.parts.flat), dtype)
        cells = (trees.cast(cell.init_carry(size), dtype) for cell in (self.parts.encoder, self.parts.decoder))
        return canvas, *cells, np.zeros((size, self.parts.decoder.output_size), dtype)

    def _start(self, params: Tree, inputs: Inputs, rng: Rng) -> tuple[Array, Tree, Tree]:
        """Images without an axis for a single channel; the first carry; the noise of each step, with dropout masks."""
        dtype = self.network.dtype
        x = self.seen(inputs).reshape(-1, *self.parts.flat).astype(dtype)
        noise = inputs.noise.astype(dtype)
        masks: tuple[tuple[Any, ...], ...] = ((), ())
        if rng is not None:
            masks = tuple(
                self._masks(cell, len(noise), len(x), rng) for cell in (self.parts.encoder, self.parts.decoder)
            )
        return x, self._first(params, len(x)), (noise, *masks)

    def _masks(self, cell: Cell, steps: int, size: int, rng: np.random.Generator) -> tuple[Any, ...]:
        """The masks of a cell's layers, and the dropout mask of its output, (T, B, size), 1 where there is none."""
        rate, variational, dtype = self.network.dropout, self.network.variational_dropout, self.network.dtype
        between = step_masks(cell, steps, size, rate, variational, rng, dtype)
        if not rate:
            return (*between, np.ones((steps, size, 1), dtype)) if between else ()
        last = dropout_mask((1 if variational else steps, size, cell.output_size), rate, rng, dtype, axis=1)
        return *between, np.ascontiguousarray(np.broadcast_to(last, (steps, *last.shape[1:])))

    def work(self) -> Work:
        """One step, of one image."""
        from rnn_plugins.tasks.paint.probe import Painting

        cell, dtype = Painting.of(self.parts), self.network.dtype
        x = np.zeros((1, cell.input_size), dtype)
        return Work(cell, self.init_params(np.random.default_rng(0)), trees.cast(cell.init_carry(1), dtype), x)


@dataclass(frozen=True)
class Strokes:
    """The decoder's part of a step: from a code to a stroke on the canvas. Its output is what ``Painted`` shows."""

    parts: Parts

    def __call__(self, params: Tree, carry: Tree, z: Any) -> tuple[Tree, Any]:
        """One step: z (B, latent)."""
        canvas, decoder, _ = carry
        canvas, decoder, g, place = self.stroke(params, canvas, decoder, z)
        return (canvas, decoder, g), {"canvas": canvas} | ({} if place is None else {"write": place})

    def stroke(
        self, params: Tree, canvas: Any, decoder: Tree, z: Any, masks: Sequence[Any] = ()
    ) -> tuple[Any, Tree, Any, Any]:
        """The canvas with one more stroke, the decoder's carry and output, and where the stroke is."""
        parts = self.parts
        decoder, g = _dropped(parts.decoder, params["decoder"], decoder, z, masks)
        stroke = affine(params["stroke"], g)
        if parts.writing is None:
            return canvas + stroke.reshape(-1, *parts.flat), decoder, g, None
        points, place = parts.writing.points, parts.writing.place(params["write"], g)
        patch = (stroke / place[:, FRAME - 1 :]).reshape(-1, points, points, *parts.flat[2:])
        return canvas + spread(patch, *parts.writing.filters(place)), decoder, g, place


@dataclass(frozen=True)
class Step:
    """A step of the whole model; see ``Painter`` for its equations.

    Attributes:
        parts: of the model.
        show: whether the output is all that ``Painted`` shows; otherwise it is the divergence.
    """

    parts: Parts
    show: bool = False

    def __call__(self, params: Tree, carry: Tree, x: Any, image: Any) -> tuple[Tree, Any]:
        """One step: noise (B, latent) and the dropout masks of both cells, for images (B, H, W[, C])."""
        parts, (noise, masks, more) = self.parts, x
        canvas, encoder, decoder, g = carry
        seen, place = self._read(params, image, image - sigmoid(canvas), g)
        encoder, h = _dropped(parts.encoder, params["encoder"], encoder, concat(*seen, g), masks)
        code = affine(params["code"], h)
        centre, log_deviation = code[:, : parts.latent], clip(code[:, parts.latent :], -LARGEST, LARGEST)
        z = centre + exp(log_deviation) * noise
        divergence = sum(gaussian_divergence(centre, log_deviation), axis=-1)
        canvas, decoder, g, written = Strokes(parts).stroke(params, canvas, decoder, z, more)
        carry = (canvas, encoder, decoder, g)
        if not self.show:
            return carry, divergence
        places = {} if written is None else {"write": written}
        return carry, {"canvas": canvas, "divergence": divergence} | places | ({} if place is None else {"read": place})

    def _read(self, params: Tree, image: Any, error: Any, g: Any) -> tuple[list[Any], Any]:
        """What is read of the image and of its difference to the canvas, (B, n) each, and where."""
        reading = self.parts.reading
        if reading is None:
            return [part.reshape(-1, math.prod(self.parts.shape)) for part in (image, error)], None
        place = reading.place(params["read"], g)
        filters, numbers = reading.filters(place), reading.points**2 * self.parts.shape[2]
        intensity = place[:, FRAME - 1 :]
        return [window(part, *filters).reshape(-1, numbers) * intensity for part in (image, error)], place


def _dropped(cell: Cell, params: Tree, carry: Tree, x: Any, masks: Sequence[Any]) -> tuple[Tree, Any]:
    """A step of a cell with masks between its layers and a last one for its output; none for no dropout."""
    carry, y = masked_step(cell, params, carry, x, masks[:-1])
    return carry, y * masks[-1] if masks else y
