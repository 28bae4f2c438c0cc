"""Read the number in an image by looking here and there: the recurrent attention model and its deep form."""

from __future__ import annotations

import hashlib
import math
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from minigrad.trees import Tree
from rnn_plugins.data import numbered
from rnn_plugins.data.images import Named, as_image, unit
from rnn_plugins.data.number_files import Reading, is_table, pictures, read_numbers
from rnn_plugins.data.numbered import Numbers, Pictures
from rnn_plugins.data.pixels import size_of
from rnn_plugins.errors import UserError
from rnn_plugins.tasks.blocks import chunks, no_embedding, padded, with_places
from rnn_plugins.tasks.read.canvas import OnCanvas, placed
from rnn_plugins.tasks.read.columns import ColumnReader
from rnn_plugins.tasks.read.model import Glimpser
from rnn_plugins.tasks.read.results import DIGITS, STOP, likeliest, measured
from rnn_plugins.tasks.read.sensor import Sensor
from rnn_plugins.tasks.task import (
    AT_ONCE,
    SHARE,
    Assessment,
    Batch,
    Data,
    Metric,
    Network,
    Prediction,
    Purpose,
    Task,
    check_ranges,
)
from rnn_plugins.words import amount, beside_truth

if TYPE_CHECKING:  # imported only where it is used
    from rnn_plugins.reports.report import Figure
    from rnn_plugins.tasks.probes import EveryStep

Array: TypeAlias = NDArray[Any]

Either: TypeAlias = Glimpser | ColumnReader
"""The networks of this task."""

MEASURED = 1000
"""Training images from which the mean and the deviation of pixels are computed."""

COMPARED = 20
"""Images whose pixels are compared, to tell whether they were trained on."""

PROBED = 1000
"""Images that reports measure: drawing more would take longer than measuring."""

SHOWN = 40
"""Characters of a line in an excerpt, about."""


class Example(NamedTuple):
    """A picture of a number with what is to be read.

    Attributes:
        picture: the picture.
        text: its number.
        ends: whether the stop symbol comes after the digits.
    """

    picture: numbered.Example
    text: str
    ends: bool

    @property
    def ids(self) -> Array:
        """The symbols of the number, (n,)."""
        return np.array([*map(DIGITS.index, self.text), *[STOP] * self.ends], np.intp)


class Examples(Sequence[Example]):
    """Pictures as examples, made when they are asked for."""

    def __init__(self, pictures: Sequence[numbered.Example], texts: Sequence[str], ends: bool) -> None:
        """Examples of pictures and their numbers, which end with the stop symbol or not."""
        self.pictures, self.texts, self.ends = pictures, texts, ends

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, place: Any) -> Any:
        """One example, or several."""
        if isinstance(place, slice):
            return Examples(self.pictures[place], self.texts[place], self.ends)
        return Example(self.pictures[place], self.texts[place], self.ends)


@dataclass(frozen=True)
class Read(Task[Either]):
    """Read the number in an image: look here and there, and name one digit after another.

    FILES are images of single digits with their classes (IDX, NPZ, a folder of pictures per class), a table of layouts
    of house numbers and images of digits, from which house numbers are drawn (of 54x54 pixels, or image_size), or a
    folder of pictures and a table with the columns image and text. builtin:numbers draws house numbers in seven
    segments, builtin:digits are small scanned digits.

    Attributes:
        glimpses: the number of glimpses for each digit.
        size: the points of a glimpse's patch, down and across.
        scales: the patches of a glimpse; each covers twice the height and width of the one before.
        attention: how locations are found: learned through the sensor (soft), sampled and learned from rewards (hard),
            or drawn by chance and not learned (random); with none, the cell reads the columns of the image instead.
        spread: the standard deviation of a location in training; the image goes from -1 to 1.
        layers: one cell that reads and moves, or one that reads and a second one that moves.
        context: the height and width of a picture of the whole image, which says where to look first; 0 for none.
        canvas: the height and width of black canvases on which images are placed at random; 0 for none.
        clutter: the number of pieces of other images on each canvas.
        samples: in evaluation, the passes with sampled locations whose probabilities are averaged; 0 for one pass
            without chance.
        valid_fraction: the share of the images, or of the layouts, that is held out.
        text_column: the column of the number in a table of pictures.
        image_column: the column of the picture's name.
        split_column: the column that says train, valid or test; empty for none.
        image_size: the height and width that pictures are scaled to; 0 leaves them as they are.
        colour: whether house numbers are drawn in colour.
    """

    glimpses: int = 3
    size: int = 8
    scales: int = 3
    attention: Literal["soft", "hard", "random", "none"] = "soft"
    spread: float = 0.1
    layers: Literal[1, 2] = 2
    context: int = 0
    canvas: int = 0
    clutter: int = 0
    samples: int = 0
    valid_fraction: float = 0.1
    text_column: str = "text"
    image_column: str = "image"
    split_column: str = ""
    image_size: int = 0
    colour: bool = False

    unit: ClassVar[str] = "symbols"
    best: ClassVar[tuple[str, Literal["min", "max"]]] = ("accuracy", "max")
    metrics: ClassVar[Mapping[str, Metric]] = {
        "accuracy": Metric("", "max", "ACCURACY", SHARE),
        "digits": Metric("", "max", "DIGITS", SHARE, "accuracy of digits"),
        "loss": Metric("nats", "min", "NATS"),
    }
    default_files: ClassVar[tuple[str, ...]] = ("builtin:numbers:60000",)
    shows_pictures: ClassVar[bool] = True
    of_weights: ClassVar[tuple[str, ...]] = (
        "glimpses", "size", "scales", "attention", "layers", "context", "canvas", "colour",
    )  # fmt: skip

    def __post_init__(self) -> None:
        """Check the ranges of the options.

        Raises:
            ValueError: an option is out of range.
        """
        least = dict.fromkeys(("context", "canvas", "clutter", "samples", "image_size"), 0)
        check_ranges(self, least | dict.fromkeys(("glimpses", "size", "scales"), 1), ["valid_fraction"])
        if not 0 < self.spread <= 1:
            raise ValueError(f"spread is {self.spread:g}; it must be above 0 and at most 1")
        if self.clutter and not self.canvas:
            raise ValueError(f"clutter is {self.clutter}, and there is no canvas for it: set canvas, such as canvas=60")

    @property
    def held_out_part(self) -> str:
        """The share that is held out."""
        return f"the held-out {100 * self.valid_fraction:g} %"

    # Reading

    def read(self, files: Sequence[str], facts: Mapping[str, Any] | None = None, *, purpose: Purpose = "train") -> Data:
        """Read pictures of numbers.

        The facts are the ``shape`` of what the network sees, that of the pictures on a canvas (``placed``), the value
        of ``white`` in their files, ``mean`` and ``deviation`` of each channel, the digits of the ``longest`` number,
        and ``ends``: whether numbers have several lengths, so that there is a stop symbol.

        Raises:
            UserError: as ``read_numbers``; a picture does not fit on the canvas; a number has too many digits.
        """
        digest = hashlib.sha256()
        how = Reading(
            self.valid_fraction, self.image_size, self.colour, self.text_column, self.image_column, self.split_column
        )
        known = {"shape": facts["placed"], "white": facts["white"]} if facts else {}
        found = read_numbers(files, how, digest=digest, purpose=purpose, **known)
        if purpose != "evaluate" and not len(found.train):
            raise UserError("no pictures are left to train on; hold out a smaller share, or give more pictures")
        about = found.about
        train, valid = found.train, found.valid
        if self.canvas:
            if max(found.shape[:2]) > self.canvas:
                raise UserError(
                    f"pictures of {size_of(found.shape)} do not fit on a canvas of {self.canvas}x{self.canvas}"
                )
            train, valid = (OnCanvas(part, self.canvas, self.clutter) for part in (train, valid))
            about += f", on canvases of {self.canvas}x{self.canvas}"
            digest.update(repr((self.canvas, self.clutter)).encode())
        texts = [[picture.text for picture in part] for part in (train, valid)]  # once: drawn layouts take time
        if facts is None:
            facts = _facts(found, train, {len(text) for part in texts for text in part})
        parts = [Examples(*both, facts["ends"]) for both in zip((train, valid), texts, strict=True)]
        for example in (*parts[0], *parts[1]):
            _require_length(example, facts)
        return Data(parts[0], parts[1], facts, tuple(files), digest.hexdigest(), about, found.notices)

    def check_facts(self, facts: Mapping[str, Any]) -> Mapping[str, Any]:
        """Check shapes, white, mean and deviation, and the lengths of numbers.

        Raises:
            ValueError: they are not valid.
        """
        numbers = [*facts["shape"], *facts["placed"], facts["white"], facts["longest"]]
        if len(numbers) != 8 or not all(type(number) is int and number >= 1 for number in numbers):
            raise ValueError(
                f"shape, placed, white and longest are {numbers}; expected eight whole numbers of at least 1"
            )
        channels = [*facts["mean"], *facts["deviation"]]
        if len(channels) != 2 * facts["shape"][2] or not all(map(math.isfinite, channels)) or min(channels) < 0:
            raise ValueError(f"mean and deviation are {channels}; expected one number of each per channel, 0 or more")
        if type(facts["ends"]) is not bool:
            raise ValueError(f"ends is {facts['ends']!r}; expected true or false")
        return facts

    # The network

    def model(self, facts: Mapping[str, Any], network: Network) -> Either:
        """Sensor, glimpse network and one or two cells; or a cell that reads columns.

        Raises:
            UserError: a width of an embedding is given; the low-resolution picture is larger than the image.
        """
        no_embedding(network, "the inputs are images")
        height, width, channels = facts["shape"]
        if self.context > min(height, width):
            raise UserError(
                f"context is {self.context}, and the images are {size_of(facts['shape'])}: it can be at most "
                f"{min(height, width)}"
            )
        common: dict[str, Any] = {
            "classes": len(DIGITS) + facts["ends"],
            "symbols": facts["longest"] + facts["ends"],
            "mean": tuple(facts["mean"]),
            "deviation": tuple(facts["deviation"]),
            "dropout": network.dropout,
            "variational": network.variational_dropout,
            "dtype": network.dtype,
        }
        if self.attention == "none":
            return ColumnReader(network.make_cell(height * channels + 1), **common)
        reader, mover = network.make_cell(network.hidden_size), None
        context = 0 if self.attention == "random" else self.context
        if self.layers == 2 and self.attention != "random":
            mover = network.make_cell(reader.output_size + (network.hidden_size if context else 0))
        return Glimpser(
            sensor=Sensor((height, width, channels), self.size, self.scales),
            reader=reader,
            mover=mover,
            per_symbol=self.glimpses,
            attention=self.attention,
            spread=self.spread,
            context=context,
            **common,
        )

    def count(self, examples: Sequence[Example] | None) -> int:
        """The symbols of the numbers, with stop symbols."""
        return sum(len(example.text) + example.ends for example in examples or ())

    def length(self, example: Example) -> int:
        """The number of digits."""
        return len(example.text)

    def batch(self, data: Data, step: int, size: int, rows: slice = slice(None)) -> Batch:
        """Pictures of numbers of like lengths, drawn anew in each epoch where they are generated."""
        epoch, place = divmod(step, self.steps_per_epoch(data, size))
        order = self._order(data, epoch, size)[place * size : (place + 1) * size]
        return self.pack([data.train[i] for i in order[rows]], epoch, data.seed)

    def pack(self, examples: Sequence[Example], epoch: int = 0, seed: int = 0) -> Batch:
        """Images (B, H, W, C), a number for the chance of each, (B,), and their lengths; symbols (S, B), padded."""
        targets, lengths = padded([example.ids for example in examples])
        pixels = np.stack([example.picture.pixels(epoch, seed) for example in examples])
        return Batch((pixels, _keys(pixels), lengths), targets, float(lengths.sum()))

    # Metrics

    def evaluate(self, model: Either, params: Tree, examples: Sequence[Example]) -> dict[str, float]:
        """The share of numbers and of digits that are right, and the mean of -log p(symbol)."""
        return measured(self.read_all(model, params, examples), examples)

    def read_all(self, model: Either, params: Tree, examples: Iterable[Example | Named]) -> Array:
        """The log probabilities of the symbols that are read in each image, (N, S, K)."""
        found = [np.empty((0, model.symbols, model.classes))]
        for some in chunks(examples, AT_ONCE):
            pixels = np.stack([each.pixels if isinstance(each, Named) else each.picture.pixels() for each in some])
            found.append(model.read(params, pixels, _keys(pixels), self.samples))
        return np.concatenate(found)

    def guessing(self, facts: Mapping[str, Any]) -> float:
        """The loss of uniform guessing among all symbols."""
        return math.log(len(DIGITS) + facts["ends"])

    def contains(self, training: Sequence[Example], examples: Sequence[Example]) -> bool:
        """Whether all the images are among those of training, by their names, numbers and some of their pixels."""
        known = {(e.picture.name, e.text): e for e in training}
        pairs = [(e, known.get((e.picture.name, e.text))) for e in examples]
        return all(there for _, there in pairs) and all(
            np.array_equal(e.picture.pixels(), there.picture.pixels()) for e, there in pairs[:COMPARED] if there
        )

    def assess(
        self,
        model: Either,
        params: Tree,
        data: Data,
        *,
        name: str,
        training: Sequence[Example] | None = None,
    ) -> Assessment:
        """The metrics, those of baselines and by length, and what each glimpse is for."""
        from rnn_plugins.tasks.read.scores import assess_numbers

        return assess_numbers(self, model, params, data.valid, training, name=name)

    # Use

    def inputs(self, file: str, facts: Mapping[str, Any]) -> Iterator[Named]:
        """The images of a file or folder, of the size that the network sees, or of the pictures on its canvas."""
        how = {"shape": facts["placed"], "whole": facts["shape"], "white": facts["white"], "size": self.image_size}
        for name, pixels in pictures(file, **how):
            yield self._given(name, pixels)

    def inputs_together(self, files: Sequence[str], facts: Mapping[str, Any]) -> Iterator[Named] | None:
        """The pictures of a table, or house numbers drawn from layouts and digits, as for an evaluation."""
        if not any(is_table(file, self.text_column, self.image_column) for file in files):
            return None
        found = self.read(files, facts, purpose="evaluate").valid
        return (Named(example.picture.name, example.picture.pixels()) for example in found)

    def predict(
        self,
        model: Either,
        params: Tree,
        facts: Mapping[str, Any],
        inputs: Iterable[Named | Array],
        *,
        top: int = 1,
        explain: bool = False,
    ) -> Iterator[Prediction]:
        """The likeliest number in each image, with its probability; images may also be arrays, (H, W) or (H, W, C).

        With ``explain`` the path of the glimpses, and how much each counts, or how much each column does.
        """
        for some in chunks(self._givens(inputs, facts), AT_ONCE):
            for given, symbols in zip(some, self.read_all(model, params, some), strict=True):
                best = likeliest(symbols, max(1, top))
                shares = [{"number": text, "probability": math.exp(nats)} for text, nats in best]
                digits = [
                    {"digit": digit, "probability": math.exp(row[DIGITS.index(digit)])}
                    for digit, row in zip(best[0][0], symbols, strict=False)
                ]
                record = {"input": given.name, **shares[0], "digits": digits} | ({"top": shares} if top > 1 else {})
                told = ", ".join(f"{share['number']} {share['probability']:.3f}" for share in shares)
                if len(digits) > 1:
                    each = ", ".join(f"{one['digit']} {one['probability']:.2f}" for one in digits)
                    told += f" ({each})"
                figures: tuple[Figure, ...] = ()
                if explain:
                    from rnn_plugins.tasks.read.explaining import explanation

                    figures = explanation(model, params, given, best[0][0], _keys([given.pixels]))
                yield Prediction(f"{given.name}\t{told}", record, figures)

    def excerpt(self, model: Either, params: Tree, data: Data, size: int, rng: np.random.Generator) -> str:
        """Numbers that are read in a few images beside the true ones, about ``size`` characters."""
        examples = data.valid or data.train
        some = [examples[i] for i in rng.permutation(len(examples))[: max(1, size // SHOWN)].tolist()]
        found = self.read_all(model, params, some)
        lines = []
        for example, symbols in zip(some, found, strict=True):
            (text, nats), *_ = likeliest(symbols, 1)
            lines.append(f"{beside_truth(text, example.text)} {math.exp(nats):.2f}  {example.picture.name}")
        return "\n".join(lines)

    def probe(self, model: Either, params: Tree, examples: Sequence[Example], facts: Mapping[str, Any]) -> EveryStep:
        """The cell that names symbols along the glimpses, or along the columns, of some images."""
        from rnn_plugins.tasks.read.probe import along_columns, along_glimpses

        some = examples[:PROBED]
        if isinstance(model, ColumnReader):
            return along_columns(model, params, some, self.pack, (*DIGITS, "stop"))
        return along_glimpses(model, params, some, self.pack, (*DIGITS, "stop"))

    def _givens(self, inputs: Iterable[Named | Array], facts: Mapping[str, Any]) -> Iterator[Named]:
        """Inputs with names; an array is named by its place."""
        for i, given in with_places(inputs):
            if isinstance(given, Named):
                yield given
            else:
                label, whole = f"image {i}", list(getattr(given, "shape", ())[:2]) == facts["shape"][:2]
                shape = facts["shape" if whole else "placed"]
                yield self._given(label, as_image(given, shape=shape, white=facts["white"], label=label))

    def _given(self, name: str, pixels: Array) -> Named:
        """A picture as the network sees it, on the canvas if there is one that it does not fill."""
        if self.canvas and pixels.shape[:2] != (self.canvas, self.canvas):
            pixels = placed(pixels, self.canvas, np.random.default_rng(_keys([pixels])[0]))
        return Named(name, pixels)


def _facts(found: Numbers, train: Pictures, lengths: set[int]) -> dict[str, Any]:
    places = np.unique(np.linspace(0, len(train) - 1, MEASURED).astype(np.intp)).tolist()
    pixels = np.stack([unit(train[i].pixels()) for i in places])
    deviation = pixels.std((0, 1, 2), dtype=np.float64)
    return {
        "shape": list(pixels.shape[1:]),
        "placed": list(found.shape),
        "white": found.white,
        "mean": pixels.mean((0, 1, 2), dtype=np.float64).tolist(),
        "deviation": np.where(deviation > 1e-6, deviation, 1.0).tolist(),
        "longest": max(lengths),
        "ends": len(lengths) > 1,
    }


def _require_length(example: Example, facts: Mapping[str, Any]) -> None:
    """See to it that the network can read a number.

    Raises:
        UserError: it has too many digits, or where there is no stop symbol too few.
    """
    count, longest = len(example.text), facts["longest"]
    if count > longest or (count < longest and not facts["ends"]):
        raise UserError(
            f"{example.picture.name!r} shows {example.text}, {amount(count, 'digit')}; the network reads numbers of "
            f"{'at most ' if facts['ends'] else ''}{amount(longest, 'digit')}, as those that it was trained on"
        )


def _keys(pixels: Iterable[Array]) -> Array:
    """A number for the chance of each image, from its pixels, (B,)."""
    return np.fromiter((zlib.crc32(image.tobytes()) for image in pixels), np.int64)
