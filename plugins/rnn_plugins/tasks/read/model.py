"""The network that reads an image in glimpses, and its loss: cross-entropy, and REINFORCE for sampled locations."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from minigrad import (
    abs,
    affine,
    concat,
    log_softmax,
    pick,
    relu,
    scan,
    square,
    stop_gradient,
    sum,
    tanh,
    trees,
    where,
)
from minigrad.densities import gaussian, standard_normal
from minigrad.functions import Share
from minigrad.initializers import glorot_uniform, zeros
from minigrad.tensor import value_of
from minigrad.trees import Tree
from rnn_cells import Cell
from rnn_cells.regularised import drop_weights
from rnn_cells.stacked import drop_steps
from rnn_plugins.tasks import task
from rnn_plugins.tasks.blocks import dense, mask, masked_mean, masked_step, step_masks
from rnn_plugins.tasks.read.sensor import Sensor, coarse, standard
from rnn_plugins.tasks.task import Batch

Array: TypeAlias = NDArray[Any]

Attention = Literal["hard", "soft", "random"]
"""How locations are chosen: sampled and trained with REINFORCE, trained through the sensor, or drawn by chance."""


START = np.float32(0.3)
"""The scale of W_m at the start: all first glimpses are near the centre, where something can be learned from them."""


class Seen(NamedTuple):
    """What a network has seen in T glimpses of B images.

    Attributes:
        outputs: of the cell that names symbols, (T, B, H).
        places: the locations, (T, B, 2), as ``Sensor`` has them.
        glimpses: what that cell has read, (T, B, G).
        means: of the distributions of the locations, (T, B, 2); None if locations are random.
        expected: the rewards that were expected before each glimpse, (T, B); None unless attention is hard.
    """

    outputs: Any
    places: Any
    glimpses: Any
    means: Any = None
    expected: Any = None


@dataclass(frozen=True)
class Glimpser(task.Model):
    """A sensor, a glimpse network, and one or two cells, without the parameters.

    With x the image, l a location and c the low-resolution picture of the whole:

        m_t = W_m s_{t-1} + b_m,  l_t = m_t + spread * noise_t
        g_t = relu(W_g [relu(W_x sensor(x, l_t) + b_x), relu(W_l l_t + b_l)] + b_g)
        y_t = reader(g_t),  s_t = mover([y_t, d]) or, of one cell, y_t
        d = tanh(W_d relu(W_c c + b_c) + b_d),  s_0 = tanh(W_s d + b_s) or, without context, 0

    After every ``per_symbol`` glimpses, softmax(W_h y_t + b_h) is the distribution of the next symbol. One cell is the
    recurrent attention model (Mnih et al. 2014, arXiv:1406.6247, where W_g is a sum of two products), two are the deep
    one (Ba, Mnih and Kavukcuoglu 2015, arXiv:1412.7755): the first does not see the context, so that it names what is
    in the glimpses. There the context is the second cell's first state, a product joins the two parts of a glimpse,
    and convolutions read image and context.

    The gradient of the loss is that of the cross-entropy, where the locations are constants if attention is hard, and
    then also the estimate

        -(r - b_t) dlog p(l_t) + d(r - b_t)^2,  b_t = w s_{t-1} + b

    for each glimpse, where the reward r is 1 if its symbol is named rightly and else 0 (REINFORCE, Williams 1992). That
    of the baseline b_t does not reach the cells. That of the locations, by either way, reaches W_m and the mover, but
    not what names symbols: there it would drown the rest in noise. And means outside the image are drawn back to it by
    the gradient of their distance squared; with tanh, as in the papers, they can stay in a corner, where its slope is
    0. The value of the loss is the cross-entropy.

    Attributes:
        sensor: the sensor.
        reader: the cell that reads glimpses and names symbols.
        mover: the cell that says where to look; None if the first one does, or none is needed.
        classes: the number of symbols, with the stop symbol.
        symbols: the length of the longest string, with the stop symbol.
        per_symbol: glimpses for each symbol.
        attention: how locations are chosen.
        spread: the standard deviation of a location in training.
        context: the side of the low-resolution picture; 0 for none.
        mean: of each channel of the training images, of pixels in [0, 1].
        deviation: the standard deviation of each channel.
        dropout: the rate on glimpses, between layers and before the head during training.
        variational: whether to use one dropout mask for all glimpses.
        dtype: of parameters and activations.
    """

    sensor: Sensor
    reader: Cell
    mover: Cell | None
    classes: int
    symbols: int
    per_symbol: int
    attention: Attention
    spread: float
    context: int
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    dropout: float = 0.0
    variational: bool = False
    dtype: str = "float32"

    def init_params(self, rng: np.random.Generator) -> Tree:
        """``glimpse``, ``reader`` and ``head``; what is used of ``where``, ``expected``, ``mover`` and ``context``."""
        width, size = self.reader.input_size, (self.mover or self.reader).output_size
        half = -(-width // 2)
        params: dict[str, Any] = {
            "glimpse": {
                "what": dense(rng, self.sensor.width, half),
                "where": dense(rng, 2, half),
                "both": dense(rng, 2 * half, width),
            },
            "reader": self.reader.init_params(rng),
        }
        if self.attention != "random":
            params["where"] = {"W": START * glorot_uniform(rng, (size, 2)), "b": zeros(rng, (2,))}
        if self.attention == "hard":
            params["expected"] = {"W": zeros(rng, (size, 1)), "b": zeros(rng, (1,))}
        params["head"] = dense(rng, self.reader.output_size, self.classes)
        if self.mover is not None:
            params["mover"] = self.mover.init_params(rng)
        if self.context:
            pixels = self.context**2 * self.sensor.shape[2]
            shapes = {"coarse": (pixels, width), "hint": (width, width), "first": (width, size)}
            params["context"] = {name: dense(rng, *shape) for name, shape in shapes.items()}
        return trees.cast(params, self.dtype)

    def shapes_known(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the head and of what reads the patches."""
        return {
            "head.W": (self.reader.output_size, self.classes),
            "glimpse.what.W": (self.sensor.width, -(-self.reader.input_size // 2)),
        }

    def loss(self, params: Tree, carry: Tree, batch: Batch, rng: np.random.Generator | None) -> tuple[Any, Tree]:
        """The mean of -log p(symbol) of the strings, their stop symbols included, in nats."""
        (pixels, keys, lengths), targets = batch.inputs, batch.targets  # (B, H, W, C), (B,), (B,), (S, B)
        steps = self.per_symbol * len(targets)
        noise = self.drawn(keys, steps) if rng is None else self.noise(len(pixels), steps, rng)
        seen = self.look(params, pixels, noise, rng=rng)
        logits = self.logits(params, seen, rng)
        live = mask(lengths, len(targets))
        loss = masked_mean(-pick(log_softmax(logits), targets), live)
        if rng is not None and self.attention != "random":
            right = value_of(logits).argmax(axis=-1) == targets
            rewards, there = (np.repeat(each, self.per_symbol, axis=0) for each in (right, live))
            terms = sum(square(relu(abs(seen.means) - 1)), axis=-1)
            if self.attention == "hard":
                terms = terms + self._reinforce(seen, rewards.astype(self.dtype))
            extra = sum(where(there, terms, 0)) / max(int(live.sum()), 1)
            loss = loss + (extra - stop_gradient(extra))
        return loss, carry

    def _reinforce(self, seen: Seen, r: Array) -> Any:
        """Numbers (T, B) whose gradient is the estimate that the class describes, for rewards (T, B)."""
        # Locations are constants, as samples are, so that the density's gradient is by the mean alone.
        density = sum(gaussian(stop_gradient(seen.places), seen.means, np.log(self.spread, dtype=self.dtype)), axis=-1)
        surprise = r - stop_gradient(seen.expected)
        return square(r - seen.expected) - surprise * density

    def look(
        self,
        params: Tree,
        pixels: Array,
        noise: Array,
        *,
        shown: Array | None = None,
        rng: np.random.Generator | None = None,
    ) -> Seen:
        """Look at images.

        Args:
            params: the parameters.
            pixels: the images, (B, H, W, C), as in ``Images.pixels``.
            noise: of the locations, (T, B, 2); if they are random, themselves.
            shown: (T, B, 1), 0 for a glimpse whose patches are blank and else 1; None for 1.
            rng: draws the dropout masks; None for no dropout.
        """
        size = len(pixels)
        images = standard(pixels, self.mean, self.deviation, self.dtype)
        states = [cell.init_carry(size) for cell in (self.reader, self.mover) if cell is not None]
        context = {"image": images[..., 0] if images.shape[3] == 1 else images}
        where_next: Any = np.zeros((size, (self.mover or self.reader).output_size), self.dtype)
        if self.context:
            p = params["context"]
            hidden = relu(affine(p["coarse"], coarse(images, self.context).reshape(size, -1)))
            context["hint"] = tanh(affine(p["hint"], hidden))
            where_next = tanh(affine(p["first"], context["hint"]))
        xs: dict[str, Any] = {"noise": noise}
        if shown is not None:
            xs["shown"] = shown
        if rng is not None:
            if self.dropout:
                ones = np.ones((len(noise), size, self.reader.input_size), self.dtype)
                xs["kept"] = drop_steps(ones, self.dropout, self.variational, rng)
            for name, cell in (("reader", self.reader), ("mover", self.mover)):
                if cell is not None:
                    rate = self.dropout
                    xs[name] = step_masks(cell, len(noise), size, rate, self.variational, rng, self.dtype)
        step = _Step(self.sensor, self.reader, self.mover, self.attention, self.spread)
        of_step = {name: part for name, part in params.items() if name not in ("context", "head")}
        for name, cell in (("reader", self.reader), ("mover", self.mover)):
            if cell is not None:
                of_step[name] = drop_weights(cell, of_step[name], rng)
        _, seen = scan(step, of_step, (trees.cast(tuple(states), self.dtype), where_next), xs, context=context)
        return Seen(**seen)

    def logits(self, params: Tree, seen: Seen, rng: np.random.Generator | None = None) -> Any:
        """The logits of each symbol, (S, B, K)."""
        ys = seen.outputs[self.per_symbol - 1 :: self.per_symbol]
        if self.dropout and rng is not None:
            ys = drop_steps(ys, self.dropout, self.variational, rng)
        return affine(params["head"], ys)

    def read(self, params: Tree, pixels: Array, keys: Array, samples: int = 0) -> Array:
        """The log probabilities of all symbols in images (B, H, W, C), in nats, (B, S, K).

        Args:
            params: the parameters, plain arrays.
            pixels: the images.
            keys: a number for the chance of each, (B,).
            samples: passes with sampled locations, whose probabilities are averaged; 0 for one at their means.
        """
        steps, found = self.symbols * self.per_symbol, []
        for sample in range(samples) or (None,):
            seen = self.look(params, pixels, self.drawn(keys, steps, sample))
            found.append(np.asarray(log_softmax(self.logits(params, seen)), np.float64))
        mean: Array = np.logaddexp.reduce(found, axis=0) - math.log(len(found))
        return mean.transpose(1, 0, 2)

    def noise(self, size: int, steps: int, rng: np.random.Generator) -> Array:
        """Noise for training, (T, B, 2): standard normal, or for random locations uniform from -1 to 1."""
        shape = (steps, size, 2)
        if self.attention != "random":
            return standard_normal(shape, rng, self.dtype, axis=1)
        drawn = rng.draw(shape, 1) if isinstance(rng, Share) else rng.random(shape, np.float32)
        return np.asarray(2 * drawn - 1, self.dtype)

    def drawn(self, keys: Array, steps: int, sample: int | None = None) -> Array:
        """Noise for evaluation, (T, B, 2), the same for an image in any batch.

        It is 0, unless locations are random or ``sample`` is the number of a pass with sampled ones.

        Args:
            keys: a number for each image, (B,).
            steps: T.
            sample: the number; None for means.
        """
        noise = np.zeros((steps, len(keys), 2), self.dtype)
        if sample is not None or self.attention == "random":
            for i, key in enumerate(keys.tolist()):
                noise[:, i] = self.noise(1, steps, np.random.default_rng((key, sample or 0)))[:, 0]
        return noise

    def at_given(self) -> Glimpser:
        """The same network where noise is the locations themselves."""
        return replace(self, attention="random")


@dataclass(frozen=True)
class _Step:
    """A glimpse; see ``Glimpser`` for its equations."""

    sensor: Sensor
    reader: Cell
    mover: Cell | None
    attention: Attention
    spread: float

    def __call__(self, params: Tree, carry: Tree, x: Tree, context: Tree) -> tuple[Tree, Tree]:
        """One step: x has ``noise`` (B, 2), and may have ``shown`` and dropout masks; the output is a ``Seen``."""
        (reading, *moving), before = carry
        output: dict[str, Any] = {}
        place = x["noise"]
        if self.attention != "random":
            output["means"] = affine(params["where"], before)  # (B, 2)
            place = output["means"] + self.spread * place
        if self.attention == "hard":
            place = stop_gradient(place)
            output["expected"] = affine(params["expected"], stop_gradient(before))[:, 0]
        p, patches = params["glimpse"], self.sensor(context["image"], place)
        if "shown" in x:
            patches = patches * x["shown"]
        g = relu(affine(p["both"], relu(concat(affine(p["what"], patches), affine(p["where"], place)))))
        if "kept" in x:
            g = g * x["kept"]
        reading, y = masked_step(self.reader, params["reader"], reading, g, x.get("reader", ()))
        states: tuple[Tree, ...] = (reading,)
        seen = after = stop_gradient(y)
        if self.mover is not None:
            seen = concat(seen, context["hint"]) if "hint" in context else seen
            moving, after = masked_step(self.mover, params["mover"], moving[0], seen, x.get("mover", ()))
            states = (*states, moving)
        return (states, after), {"outputs": y, "places": place, "glimpses": g, **output}
