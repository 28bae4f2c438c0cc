"""Paint images: DRAW, a network that adds to a canvas step by step, with selective attention or without."""

from __future__ import annotations

import hashlib
import math
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from minigrad.trees import Tree
from rnn_plugins.data.images import Named, unit
from rnn_plugins.data.number_files import Reading, is_table, pictures, read_numbers
from rnn_plugins.data.numbered import Example
from rnn_plugins.errors import UserError
from rnn_plugins.reports.report import Panel, Picture
from rnn_plugins.tasks import task
from rnn_plugins.tasks.blocks import chunks, named_images, no_embedding
from rnn_plugins.tasks.metrics import verdict as compared
from rnn_plugins.tasks.paint import scores
from rnn_plugins.tasks.paint.model import FAINT, LEVELS, THRESHOLD, Inputs, Painted, Painter
from rnn_plugins.tasks.paint.showing import bright, characters, picture, probabilities
from rnn_plugins.tasks.task import (
    Assessment,
    Batch,
    Data,
    Metric,
    Network,
    Prediction,
    Purpose,
    Score,
    Task,
    check_ranges,
)

if TYPE_CHECKING:
    from rnn_plugins.language.sampling import Choice
    from rnn_plugins.tasks.probes import AtEnd

Array = NDArray[Any]

Binarised = Literal["auto", "anew", "once", "threshold", "levels", "no"]
"""How pixels become 0 or 1; see ``Paint``."""

SHARP, MOSTLY, HALF = 0.1, 0.75, 0.5
"""Pixels so near to black or white are ink or paper; ``auto`` goes by the share of them."""

MEASURED = 2000
"""Training images whose pixels are looked at for the facts."""


DESCRIBED = {
    "anew": "pixels are drawn as 0 or 1 anew in each epoch",
    "once": "pixels are drawn as 0 or 1 once",
    "threshold": "pixels are 0 or 1, by a threshold",
    "levels": "pixels keep their levels",
    "no": "pixels are means of Bernoulli variables",
}
"""How pixels become 0 or 1, in words."""

EVALUATED = dict.fromkeys(DESCRIBED, "drawn") | {how: how for how in ("threshold", "levels", "no")}
"""How pixels become 0 or 1 in evaluation: the draws for evaluation are the same anew and once."""

PROBED = 200
"""Images that reports measure."""

AVERAGED = 20_000
"""Training images whose pixels are averaged for a baseline."""

TOGETHER = 128
"""Images that are painted together."""

SHOWN, COLUMNS = 5, 76
"""Images in an excerpt at most, and the columns that they may take together."""


@dataclass(frozen=True)
class Paint(Task[Painter]):
    """Paint images, stroke by stroke, on a canvas.

    DRAW (Gregor et al. 2015): an encoder looks at an image and at what the canvas lacks, and says in a code what to
    change; a decoder makes a stroke of it. The loss is a bound of -log p(image). New images are painted from noise.
    Files are images, as rnn train --task read takes them; digits and numbers are not needed. Without files, they are
    the 8x8 digits of scikit-learn, or if that is not installed, house numbers in seven segments.

    Attributes:
        steps: the number of strokes, T.
        latent: the numbers of the code at each step.
        attention: whether to read from and write to windows that the decoder places; otherwise the whole image.
        read_size: the points along each side of the window for reading.
        write_size: the same for writing.
        binarised: how pixels become 0 or 1: anew in each epoch, with their brightness as the probability; once, with
            the same draw in all epochs; threshold, at one half; levels leaves them as they are, each one of 256;
            no takes them for the means of Bernoulli variables. With auto, anew if three quarters of the pixels
            are nearly black or white, threshold if half are, else levels.
        valid_fraction: the share of the images that is held out.
        image_size: the height and width that pictures are scaled to; 0 leaves them as they are.
        colour: whether generated pictures are coloured.
    """

    steps: int = 10
    latent: int = 32
    attention: bool = True
    read_size: int = 8
    write_size: int = 8
    binarised: Binarised = "auto"
    valid_fraction: float = 0.1
    image_size: int = 0
    colour: bool = False

    unit: ClassVar[str] = "images"
    best: ClassVar[tuple[str, Literal["min", "max"]]] = ("loss", "min")
    metrics: ClassVar[Mapping[str, Metric]] = {
        "loss": Metric("nats", "min", "BOUND", 2, "bound"),
        "reconstruction": Metric("nats", "min", "RECONSTRUCTION", 2),
        "divergence": Metric("nats", "min", "DIVERGENCE", 2),
    }
    needs_input: ClassVar[bool] = False
    shows_pictures: ClassVar[bool] = True
    of_weights: ClassVar[tuple[str, ...]] = (
        "steps", "latent", "attention", "read_size", "write_size", "binarised", "colour",
    )  # fmt: skip

    def __post_init__(self) -> None:
        """Check the ranges of the options.

        Raises:
            ValueError: an option is out of range.
        """
        least = dict.fromkeys(("steps", "latent", "read_size", "write_size"), 1) | {"image_size": 0}
        check_ranges(self, least, ["valid_fraction"])

    # Reading

    @property
    def default_files(self) -> tuple[str, ...]:  # type: ignore[override]
        """The scanned digits that scikit-learn ships; without that library, generated house numbers."""
        return ("builtin:digits",) if find_spec("sklearn") else ("builtin:numbers:5000",)

    def read(self, files: Sequence[str], facts: Mapping[str, Any] | None = None, *, purpose: Purpose = "train") -> Data:
        """Read images.

        The facts are the ``shape`` of the images and the value of ``white`` in their files, how they are ``binarised``,
        and the ``mean`` of each channel.

        Raises:
            UserError: as ``read_numbers``, or there are no images to train on.
        """
        digest = hashlib.sha256()
        shape, white = (facts["shape"], facts["white"]) if facts else (None, None)
        how = Reading(self.valid_fraction, self.image_size, self.colour, labelled=False)
        found = read_numbers(files, how, digest=digest, purpose=purpose, shape=shape, white=white)
        if purpose != "evaluate" and not len(found.train):
            raise UserError("no images are left to train on; hold out a smaller share, or give more images")
        if facts is None:
            some = np.linspace(0, len(found.train) - 1, min(len(found.train), MEASURED)).astype(int)
            pixels = np.stack([unit(found.train[int(i)].pixels()) for i in some])
            facts = {
                "shape": list(found.shape),
                "white": found.white,
                "mean": pixels.mean(axis=(0, 1, 2), dtype=np.float64).tolist(),
                "binarised": self._binarised(pixels),
            }
        about = f"{found.about}; {DESCRIBED[facts['binarised']]}"
        return Data(found.train, found.valid, facts, tuple(files), digest.hexdigest(), about, tuple(found.notices))

    def _binarised(self, pixels: Array) -> str:
        """How pixels in [0, 1] become 0 or 1, where ``auto`` leaves that to them."""
        if self.binarised != "auto":
            return self.binarised
        sharp = np.mean((pixels < SHARP) | (pixels > 1 - SHARP))
        return "anew" if sharp >= MOSTLY else "threshold" if sharp >= HALF else "levels"

    def check_facts(self, facts: Mapping[str, Any]) -> Mapping[str, Any]:
        """Check shape, white, mean, and how pixels are binarised.

        Raises:
            ValueError: they are not valid.
        """
        numbers = [*facts["shape"], facts["white"]]
        if len(numbers) != 4 or not all(type(number) is int and number >= 1 for number in numbers):
            raise ValueError(f"shape and white are {numbers}; expected four whole numbers of at least 1")
        mean = facts["mean"]
        if len(mean) != numbers[2] or not all(0 <= value <= 1 for value in mean):
            raise ValueError(f"mean is {mean}; expected a number from 0 to 1 per channel")
        if facts["binarised"] not in DESCRIBED:
            raise ValueError(f"binarised is {facts['binarised']!r}; expected {', '.join(DESCRIBED)}")
        return facts

    # Training

    def model(self, facts: Mapping[str, Any], network: Network) -> Painter:
        """Encoder, decoder and canvas.

        Raises:
            UserError: an embedding is asked for.
        """
        no_embedding(network, "the inputs are images")
        return Painter.make(
            network,
            facts["shape"],
            latent=self.latent,
            read_size=self.read_size if self.attention else 0,
            write_size=self.write_size if self.attention else 0,
            mean=facts["mean"],
            binarised=facts["binarised"],
        )

    def batch(self, data: Data, step: int, size: int, rows: slice = slice(None)) -> Batch:
        """Shuffled images, with what is random about them."""
        epoch, place = divmod(step, self.steps_per_epoch(data, size))
        order = self._order(data, epoch, size)[place * size : (place + 1) * size]
        places = order[rows].tolist()
        pixels = np.stack([unit(data.train[i].pixels(epoch, data.seed)) for i in places])
        rng = np.random.default_rng((data.seed, step))
        # Drawn for the whole batch, of which a process may have only some rows.
        noise = rng.standard_normal((self.steps, size, self.latent), np.float32)[:, rows]
        if data.facts["binarised"] == "once":
            each = zip(pixels, places, strict=True)
            draws = np.stack([_generator(image, i).random(image.shape, np.float32) for image, i in each])
        else:
            draws = rng.random((size, *pixels.shape[1:]), np.float32)[rows]
        return Batch(Inputs(pixels, draws, noise), (), float(len(pixels)))

    def pack(self, examples: Sequence[Example]) -> Batch:
        """Images with random numbers that depend on their pixels and places alone."""
        return self._packed([(unit(example.pixels()), example.place) for example in examples])

    def _packed(self, images: Sequence[tuple[Array, int]]) -> Batch:
        draws, noise = [], []
        for image, place in images:
            rng = _generator(image, place)
            draws.append(rng.random(image.shape, np.float32))
            noise.append(rng.standard_normal((self.steps, self.latent), np.float32))
        pixels = np.stack([image for image, _ in images])
        return Batch(Inputs(pixels, np.stack(draws), np.stack(noise, axis=1)), (), float(len(images)))

    def evaluate(self, model: Painter, params: Tree, examples: Sequence[Example]) -> dict[str, float]:
        """The bound and its two terms, means over images."""
        some = chunks(examples, task.AT_ONCE)
        terms = [np.stack(model.terms(params, self.pack(part).inputs)) for part in some]
        reconstruction, divergence = np.concatenate(terms, axis=1).mean(axis=1, dtype=np.float64).tolist()
        return {
            "loss": reconstruction + divergence, "reconstruction": reconstruction, "divergence": divergence,
        }  # fmt: skip

    def guessing(self, facts: Mapping[str, Any]) -> float:
        """The loss where all that a pixel can be has the same probability."""
        levels = LEVELS if facts["binarised"] == "levels" else 2
        return float(math.prod(facts["shape"]) * math.log(levels))

    # Painting

    def inputs(self, file: str, facts: Mapping[str, Any]) -> Iterator[Named]:
        """The images of a file or folder, or generated ones."""
        for name, pixels in pictures(file, shape=facts["shape"], white=facts["white"], size=self.image_size):
            yield Named(name, pixels)

    def inputs_together(self, files: Sequence[str], facts: Mapping[str, Any]) -> Iterator[Named] | None:
        """The house numbers that are drawn from a table of layouts with images of digits, as for an evaluation."""
        if not any(is_table(file) for file in files):
            return None
        found = self.read(files, facts, purpose="evaluate").valid
        return (Named(example.name, example.pixels()) for example in found)

    def predict(
        self,
        model: Painter,
        params: Tree,
        facts: Mapping[str, Any],
        inputs: Iterable[Named | Array],
        *,
        top: int = 1,
        explain: bool = False,
    ) -> Iterator[Prediction]:
        """Images painted again from the means of their codes, and the bound of each; arrays are (H, W) or (H, W, C).

        With ``explain`` the image beside what is painted, and the canvas after each stroke.
        """
        for some in chunks(named_images(inputs, facts["shape"], facts["white"]), TOGETHER):
            batch = self._packed([(unit(given.pixels), 0) for given in some]).inputs
            terms = np.stack(model.terms(params, batch)).astype(np.float64)
            painted = model.again(params, batch._replace(noise=np.zeros_like(batch.noise))) if explain else None
            for i, (given, reconstruction, divergence) in enumerate(zip(some, *terms.tolist(), strict=True)):
                found = {
                    "bound": reconstruction + divergence,
                    "reconstruction": reconstruction,
                    "divergence": divergence,
                }
                line = f"{found['bound']:.2f} nats ({reconstruction:.2f} + {divergence:.2f})"
                figures: tuple[Picture, ...] = ()
                if painted:
                    image = Panel(bright(model.seen(batch)[i]), given.name)
                    figures = (self._shown(model, painted, i, f"{given.name}, painted again", image),)
                yield Prediction(f"{given.name}\t{line}", {"input": given.name, **found}, figures)

    def generate(
        self,
        model: Painter,
        params: Tree,
        facts: Mapping[str, Any],
        inputs: Iterable[None],
        choice: Choice,
        rng: np.random.Generator,
    ) -> Iterator[Prediction]:
        """New images, painted from codes that are drawn from the prior, one for each None.

        The logarithm of the prior's density is divided by the temperature; greedily, all codes are its mean.

        Raises:
            UserError: there is an input, or symbols are to be chosen.
        """
        if choice.top_k or choice.top_p < 1:
            raise UserError("--top-k and --top-p choose among symbols, and a code has none: use --temperature")
        deviation = np.float32(math.sqrt(choice.temperature) if choice.draws else 0)
        count = 0
        for some in chunks(inputs, TOGETHER):
            if any(given is not None for given in some):
                raise UserError(
                    "new images are painted from noise alone, without an INPUT; rnn predict paints one again"
                )
            shape = (self.steps, self.latent)  # drawn one by one, so that the first ones do not depend on the others
            codes = np.stack([deviation * rng.standard_normal(shape, np.float32) for _ in some], axis=1)
            painted = model.paint(params, codes)
            for i in range(len(some)):
                count += 1
                record = {"image": count, "pixels": probabilities(painted.canvases[-1, i])}
                yield Prediction("", record, (self._shown(model, painted, i, f"image {count}"),))

    def _shown(self, model: Painter, painted: Painted, index: int, title: str, *before: Panel) -> Picture:
        return picture(
            painted, index, title=title, before=before, reading=model.parts.reading, writing=model.parts.writing
        )

    def excerpt(self, model: Painter, params: Tree, data: Data, size: int, rng: np.random.Generator) -> str:
        """Some new images as characters, side by side where a terminal has room for them."""
        count = max(1, min(SHOWN, COLUMNS // model.parts.shape[1]))
        codes = rng.standard_normal((self.steps, count, self.latent), np.float32)
        canvases = model.paint(params, codes).canvases[-1]
        return "\n".join(characters(probabilities(canvases).mean(axis=-1)))

    # Reports

    def contains(self, training: Sequence[Example], examples: Sequence[Example]) -> bool:
        """Whether all the images are among those of training."""
        known = {example.pixels().tobytes() for example in training}
        return all(example.pixels().tobytes() in known for example in examples)

    def comparable(self, runs: Mapping[str, tuple[Task, Mapping[str, Any]]]) -> tuple[list[str], list[str]]:
        """Why runs on the same images cannot be compared: their pixels are not binarised in the same way."""
        unfair, remarks = super().comparable(runs)
        if len({EVALUATED[facts["binarised"]] for _, facts in runs.values()}) > 1:
            unfair.append("the pixels of the runs are not binarised in the same way")
        return unfair, remarks

    def assess(
        self, model: Painter, params: Tree, data: Data, *, name: str, training: Sequence[Example] | None = None
    ) -> Assessment:
        """The bound and its terms, beside images whose pixels are independent; both terms after each stroke."""
        metrics, nothing = self.evaluate(model, params, data.valid), dict.fromkeys(self.metrics)
        rivals, notices = (self._of_levels if model.binarised == "levels" else self._of_bits)(model, data, training)
        found = [Score(name, "model", metrics)]
        found += [Score(rival, "baseline", nothing | {"loss": loss}) for rival, loss in rivals.items()]
        figure = scores.by_strokes(model, params, self.pack(data.valid[: task.AT_ONCE]).inputs)
        verdict = compared(found, "loss", self.metrics["loss"])
        return Assessment(
            tuple(found), self.metrics, len(data.valid), self.unit, verdict, tuple(notices), figures=(figure,)
        )

    def _of_bits(
        self, model: Painter, data: Data, training: Sequence[Example] | None
    ) -> tuple[dict[str, float], list[str]]:
        """Losses of images whose pixels are 0 or 1 and independent, and what is to be said of them."""
        images, own = np.zeros(model.parts.shape), 0.0
        for part in chunks(data.valid, task.AT_ONCE):
            seen = model.seen(self.pack(part).inputs)
            images, own = images + seen.sum(axis=0, dtype=np.float64), own + scores.entropy(seen)
        images, own = images / len(data.valid), own / len(data.valid)
        first = np.clip(np.array(data.facts["mean"]), FAINT, 1 - FAINT)
        rivals: dict[str, float] = {}
        sources = ["one mean for all pixels is that of the training images, by channel"]
        if training:
            greys = _some(training)
            sharp = model.binarised == "threshold"  # otherwise the means of what is drawn are those of the brightness
            means, count = scores.mean_image((grey >= THRESHOLD) if sharp else grey for grey in greys)
            first = means.mean(axis=(0, 1)) if sharp else first
            rivals["a mean for each pixel"] = scores.independent(images, means)
            sources.append(f"a mean for each pixel is that of {count:,} training images")
        rivals["one mean for all pixels"] = scores.independent(images, first)
        notices = [f"the baselines take all pixels to be independent: {'; '.join(sources)}"]
        if model.binarised == "no":
            notices.append(
                f"the pixels are means of Bernoulli variables, whose own entropy, {own:.2f} nats "
                "per image, is part of each bound"
            )
        return rivals, notices

    def _of_levels(
        self, model: Painter, data: Data, training: Sequence[Example] | None
    ) -> tuple[dict[str, float], list[str]]:
        """Losses of images whose pixels have levels and are independent, and what is to be said of them."""
        if not training:
            return {}, []
        shape = model.parts.shape
        known = scores.counted(_some(training), shape)
        seen = scores.counted((unit(example.pixels()) for example in data.valid), shape) / len(data.valid)
        together = [counts.reshape(-1, shape[2], LEVELS).sum(axis=0) for counts in (known, seen)]
        rivals = {
            "frequencies for each pixel": scores.of_levels(known, seen),
            "frequencies for all pixels": scores.of_levels(*together),
        }
        return rivals, [
            "the baselines take all pixels to be independent, and their levels as frequent as in "
            f"{int(known[0].sum()):,} training images, by channel"
        ]

    def probe(
        self, model: Painter, params: Tree, examples: Sequence[Example], facts: Mapping[str, Any]
    ) -> AtEnd | None:
        """The whole step along the strokes of some images."""
        from rnn_plugins.tasks.paint.probe import along_strokes

        return along_strokes(model, params, self.pack(examples[:PROBED]).inputs)


def _some(training: Sequence[Example]) -> Iterator[Array]:
    """Images of the training part, ``AVERAGED`` at most, in [0, 1]."""
    for i in np.linspace(0, len(training) - 1, min(len(training), AVERAGED)).astype(int).tolist():
        yield unit(training[i].pixels())


def _generator(image: Array, place: int) -> np.random.Generator:
    """A generator for an image, so that metrics do not depend on batches or on the order of the images."""
    return np.random.default_rng((zlib.crc32(image.tobytes()), place))
