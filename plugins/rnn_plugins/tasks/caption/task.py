"""Caption images: convolutions see the image, a decoder writes the caption, with attention or without."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from minigrad.trees import Tree
from rnn_plugins.data.captions import Captioned, Columns, pictures, read_captions
from rnn_plugins.data.images import Named
from rnn_plugins.data.splits import split
from rnn_plugins.data.tokens import Tokens
from rnn_plugins.data.vocabulary import NOUNS, Level
from rnn_plugins.errors import UserError
from rnn_plugins.progress import begin
from rnn_plugins.tasks import task
from rnn_plugins.tasks.blocks import chunks, mask, named_images, padded, require_width, with_width
from rnn_plugins.tasks.caption.examples import (
    Example,
    example_of,
    statistics,
    tokens_of,
)
from rnn_plugins.tasks.caption.model import Captioner, strip
from rnn_plugins.tasks.caption.vision import Convolutions, shifted
from rnn_plugins.tasks.decoding import END, SPECIALS, UNKNOWN, Attention, Decoder, Hypothesis, share_unknown
from rnn_plugins.tasks.task import Assessment, Batch, Data, Metric, Network, Prediction, Purpose, Task, check_ranges
from rnn_plugins.words import beside_truth, percent

if TYPE_CHECKING:  # imported only where they are used
    from rnn_plugins.language.sampling import Choice
    from rnn_plugins.reports.report import Image
    from rnn_plugins.tasks.probes import EveryStep

Array = NDArray[Any]

TOGETHER = 128
"""Images whose captions are searched for together."""


@dataclass(frozen=True)
class Caption(Task[Captioner]):
    """Write captions of images, word by word.

    Convolutions see the image; what they give becomes the first state of a decoder, which writes the caption symbol by
    symbol. With attention it also looks at the patches of the image at each step. Files are a file of images (NPZ or
    IDX) and a table of captions, row n for image n or by a column of names; or a folder of pictures and a table of
    names and captions. All captions of an image are in one part.

    Attributes:
        level: the kind of symbols.
        max_words: the number of words in a vocabulary, the commonest; 0 for all.
        lower: whether to lower-case captions.
        valid_fraction: the share of the images that is held out, where no column says so.
        caption_column: the column of captions in the table.
        image_column: the column of the images' names; if the table has none, its rows are in the order of the images.
        split_column: the column that says train, valid or test; empty for none.
        group_column: the column of a group, such as a topic, whose accuracy is measured; if the table has it.
        image_size: the height and width that pictures are scaled to; 0 leaves them as they are.
        shift: the largest number of pixels by which images are shifted at random in training, down and across.
        convolutions: the number of layers, each of which halves height and width.
        filters: the channels of the first layer; each further one has twice as many as the one before.
        attention: how the decoder looks at the patches: none, bahdanau or luong.
        beam: the hypotheses of a search; 1 for greedy.
        length_penalty: the exponent by which a search prefers long captions (Wu et al. 2016); 0 for none.
    """

    level: Level = "word"
    max_words: int = 0
    lower: bool = False
    valid_fraction: float = 0.1
    caption_column: str = "caption"
    image_column: str = "image"
    split_column: str = ""
    group_column: str = "group"
    image_size: int = 0
    shift: int = 0
    convolutions: int = 3
    filters: int = 32
    attention: Attention = "bahdanau"
    beam: int = 3
    length_penalty: float = 0.0

    best: ClassVar[tuple[str, Literal["min", "max"]]] = ("loss", "min")
    metrics: ClassVar[Mapping[str, Metric]] = {
        "loss": Metric("nats", "min", "NATS"),
        "token_accuracy": Metric("", "max", "TOKENS", task.SHARE, "token accuracy"),
    }
    default_files: ClassVar[tuple[str, ...]] = ("builtin:scenes",)
    of_weights: ClassVar[tuple[str, ...]] = (
        "level", "max_words", "lower", "image_size", "convolutions", "filters", "attention",
    )  # fmt: skip

    def __post_init__(self) -> None:
        """Check the ranges of the options.

        Raises:
            ValueError: an option is out of range.
        """
        least = dict.fromkeys(("max_words", "image_size", "shift", "length_penalty"), 0)
        check_ranges(self, least | dict.fromkeys(("convolutions", "filters", "beam"), 1), ["valid_fraction"])

    @property
    def unit(self) -> str:  # type: ignore[override]
        """The noun for symbols, in the plural."""
        return f"{NOUNS[self.level]}s"

    # Reading

    def read(self, files: Sequence[str], facts: Mapping[str, Any] | None = None, *, purpose: Purpose = "train") -> Data:
        """Read images and captions.

        The facts are the ``Tokens``, the ``shape`` of the images and the value of ``white`` in their files, ``mean``
        and ``deviation`` of each channel, and the ``longest`` caption's number of symbols.

        Raises:
            UserError: as ``read_captions``, or there are no images to train on.
        """
        if not files:
            raise UserError("there are no images: name FILES of images and of captions, or builtin:scenes")
        columns = Columns(self.caption_column, self.image_column, self.split_column, self.group_column)
        digest = hashlib.sha256()
        shape, white = (facts["shape"], facts["white"]) if facts else (None, None)
        found = read_captions(files, columns, digest=digest, shape=shape, white=white, size=self.image_size)
        notices = list(found.notices)
        train, valid = self._parts(found.examples, purpose, notices)
        if purpose == "evaluate" and len(valid) < len(found.examples):
            digest.update(b"a part")  # these are not the data of a run that was trained on the same files
        if purpose != "evaluate" and not train:
            raise UserError("no images are left to train on; hold out a smaller share, or give more images")
        if facts is None:
            texts = [example.caption for example in train]
            made = Tokens.build(
                texts, self.level, limit=self.max_words, lower=self.lower, specials=SPECIALS, spaces=True
            )
            facts = {
                "tokens": made.to_json(),
                "shape": list(train[0].pixels.shape),
                "white": found.white,
                **statistics({example.image: example.pixels for example in train}),
                "longest": max(len(made.pieces(text)) for text in texts) + 1,
            }
        tokens = tokens_of(facts)
        parts = tuple([example_of(tokens, captioned) for captioned in part] for part in (train, valid))
        for part, name in zip(parts, ("training", "held-out"), strict=True):
            if unknown := share_unknown([example.ids for example in part]):
                notices.append(f"{percent(unknown)} of the {self.unit} in {name} captions are not in the vocabulary")
        images = len({example.image for example in found.examples})
        height, width = facts["shape"][:2]
        about = (
            f"{images:,} images of {height}x{width}, {len(found.examples):,} captions; a vocabulary of {len(tokens):,} "
            f"{self.unit}"
        )
        return Data(parts[0], parts[1], facts, tuple(files), digest.hexdigest(), about, tuple(notices))

    def _parts(
        self, examples: Sequence[Captioned], purpose: Purpose, notices: list[str]
    ) -> tuple[list[Captioned], list[Captioned]]:
        """The training part and the held-out part: as a column says, else by chance, without dividing an image's."""
        by_part = {part: [e for e in examples if e.part == part] for part in ("train", "valid", "test", "")}
        if purpose == "evaluate":
            if by_part[""] or not (chosen := next((p for p in ("test", "valid") if by_part[p]), None)):
                return [], list(examples)
            if len(by_part[chosen]) < len(examples):
                notices.append(
                    f"of {len(examples):,} captions, the {len(by_part[chosen]):,} of the part {chosen!r} are evaluated"
                )
            return [], by_part[chosen]
        if not by_part[""]:
            if by_part["test"]:
                notices.append(f"the {len(by_part['test']):,} captions of the part 'test' are left out")
            return by_part["train"], by_part["valid"] if self.valid_fraction else []
        if self.split_column:
            raise UserError(f"a table of captions has no column {self.split_column!r}; leave out split_column")
        names = list(dict.fromkeys(e.image for e in examples))
        held_out = {names[i] for i in split(len(names), self.valid_fraction)[1]}
        return [e for e in examples if e.image not in held_out], [e for e in examples if e.image in held_out]

    def check_facts(self, facts: Mapping[str, Any]) -> Mapping[str, Any]:
        """Check vocabulary, shape, white, mean and deviation, and the longest caption.

        Raises:
            ValueError: they are not valid.
        """
        if tokens_of(facts).symbols[: len(SPECIALS)] != SPECIALS:
            raise ValueError(f"the vocabulary does not begin with {' '.join(SPECIALS)}")
        numbers = [*facts["shape"], facts["white"], facts["longest"]]
        if len(numbers) != 5 or not all(type(number) is int and number >= 1 for number in numbers):
            raise ValueError(f"shape, white and longest are {numbers}; expected five whole numbers of at least 1")
        channels = [*facts["mean"], *facts["deviation"]]
        if len(channels) != 2 * facts["shape"][2] or not all(map(math.isfinite, channels)) or min(channels) < 0:
            raise ValueError(f"mean and deviation are {channels}; expected one number of each per channel, 0 or more")
        return facts

    # Training

    def resolve(self, facts: Mapping[str, Any], network: Network) -> Network:
        """The network with the width of its embedding: as given, or a default for the vocabulary."""
        return with_width(network, len(tokens_of(facts)))

    def model(self, facts: Mapping[str, Any], network: Network) -> Captioner:
        """Convolutions and decoder.

        Raises:
            UserError: the width of the embedding is 0 for many symbols.
        """
        network, symbols = self.resolve(facts, network), len(tokens_of(facts))
        require_width(network.embedding_size or 0, symbols, self.unit)
        height, width, channels = facts["shape"]
        filters = tuple(self.filters << layer for layer in range(self.convolutions))
        vision = Convolutions((height, width, channels), filters, network.dtype)
        decoder = Decoder.make(
            network,
            symbols,
            attention=self.attention,
            memory_size=vision.width,
            summary_size=math.prod(vision.grid) * vision.width,
        )
        return Captioner(vision, decoder, tuple(facts["mean"]), tuple(facts["deviation"]))

    def count(self, examples: Sequence[Example] | None) -> int:
        """The known symbols of the captions, their ends included."""
        return sum(int((example.ids != UNKNOWN).sum()) for example in examples or ())

    def length(self, example: Example) -> int:
        """The number of symbols of its caption."""
        return len(example.ids)

    def batch(self, data: Data, step: int, size: int, rows: slice = slice(None)) -> Batch:
        """Captions of like lengths; their images are shifted."""
        found = super().batch(data, step, size, rows)
        if not self.shift:
            return found
        offsets = np.random.default_rng((data.seed, step)).integers(0, 2 * self.shift + 1, (size, 2))[rows]
        pixels, lengths = found.inputs
        return found._replace(inputs=(shifted(pixels, offsets, self.shift), lengths))

    def pack(self, examples: Sequence[Example]) -> Batch:
        """Images (B, H, W, C) with the lengths of their captions, (B,); targets (T, B), padded with ends."""
        targets, lengths = padded([example.ids for example in examples], END)
        known = mask(lengths, len(targets)) & (targets != UNKNOWN)
        return Batch((np.stack([example.pixels for example in examples]), lengths), targets, float(known.sum()))

    def evaluate(self, model: Captioner, params: Tree, examples: Sequence[Example]) -> dict[str, float]:
        """Loss of known symbols and accuracy of all, where the decoder reads the captions (teacher forcing)."""
        nats, right, known, total = 0.0, 0, 0, 0
        for some in chunks(sorted(examples, key=self.length), task.AT_ONCE):
            (pixels, lengths), targets, _ = self.pack(some)
            first, context = model.begin(params, pixels)
            losses, best = model.decoder.scored(params["decoder"], first, context, targets)
            live = mask(lengths, len(targets))
            scored = live & (targets != UNKNOWN)
            nats, known = nats + float(losses[scored].sum(dtype=np.float64)), known + int(scored.sum())
            right, total = right + int((best == targets)[scored].sum()), total + int(live.sum())
        return {"loss": nats / known, "token_accuracy": right / total}

    def guessing(self, facts: Mapping[str, Any]) -> float:
        """The loss of uniform guessing among all symbols."""
        return math.log(len(tokens_of(facts)))

    # Captioning

    def captions(
        self, model: Captioner, params: Tree, facts: Mapping[str, Any], pixels: Sequence[Array], width: int = 0
    ) -> list[list[Hypothesis]]:
        """The best captions of each image, found by a search of ``width`` hypotheses, by default ``beam``."""
        found: list[list[Hypothesis]] = []
        for some in chunks(pixels, TOGETHER):
            first, context = model.begin(params, np.stack(some))
            limits = np.full(len(some), facts["longest"])
            found += model.decoder.search(
                params["decoder"], first, context, limits, width=width or self.beam, penalty=self.length_penalty
            )
        return found

    def inputs(self, file: str, facts: Mapping[str, Any]) -> Iterator[Named]:
        """The images of a file or folder, or of ``builtin:scenes``."""
        for name, pixels in pictures(file, shape=facts["shape"], white=facts["white"], size=self.image_size):
            yield Named(name, pixels)

    def predict(
        self,
        model: Captioner,
        params: Tree,
        facts: Mapping[str, Any],
        inputs: Iterable[Named | Array],
        *,
        top: int = 1,
        explain: bool = False,
    ) -> Iterator[Prediction]:
        """The best caption of each image; images may also be arrays, (H, W) or (H, W, C).

        With ``explain`` the attention at each symbol as a picture, or without attention what happens to the symbol's
        probability without each patch.
        """
        tokens = tokens_of(facts)
        for some in chunks(named_images(inputs, facts["shape"], facts["white"]), TOGETHER):
            every = self.captions(model, params, facts, [picture.pixels for picture in some], max(top, self.beam))
            for picture, hypotheses in zip(some, every, strict=True):
                best = [
                    {"caption": tokens.decode(h.symbols), "log_probability": h.log_probability}
                    for h in hypotheses[:top]
                ]
                record = {"input": picture.name, **best[0]} | ({"alternatives": best} if top > 1 else {})
                line = str(best[0]["caption"])
                if top > 1:
                    line = " | ".join(f"{b['caption']} ({b['log_probability']:.2f})" for b in best)
                figures = (self._seen(model, params, tokens, picture, hypotheses[0].symbols),) if explain else ()
                yield Prediction(f"{picture.name}\t{line}", record, figures)

    def generate(
        self,
        model: Captioner,
        params: Tree,
        facts: Mapping[str, Any],
        inputs: Iterable[Named | Array],
        choice: Choice,
        rng: np.random.Generator,
    ) -> Iterator[Prediction]:
        """A caption drawn for each image."""
        tokens = tokens_of(facts)
        for some in chunks(named_images(inputs, facts["shape"], facts["white"]), TOGETHER):
            first, context = model.begin(params, np.stack([picture.pixels for picture in some]))
            limits = np.full(len(some), facts["longest"])
            drawn = model.decoder.drawn(params["decoder"], first, context, limits, choice, rng)
            for picture, h in zip(some, drawn, strict=True):
                caption = tokens.decode(h.symbols)
                record = {"input": picture.name, "caption": caption, "log_probability": h.log_probability}
                yield Prediction(caption, record)

    def _seen(self, model: Captioner, params: Tree, tokens: Tokens, picture: Named, symbols: Array) -> Image:
        """Which patches count at each symbol of a caption."""
        ids = np.append(symbols, END)
        words = [tokens.symbols[i].strip() or tokens.symbols[i] for i in ids]
        if self.attention != "none":
            return strip(
                "attention",
                f"Attention: {picture.name}",
                model.attention(params, picture.pixels, ids),
                words,
                value_label="weight",
                definition="The share of the attention that goes to each patch of the image while a symbol is written: "
                "a small picture for each symbol, from left to right. Each adds up to 1.",
            )
        return strip(
            "occlusion",
            f"Occlusion: {picture.name}",
            model.occlusion(params, picture.pixels, ids),
            words,
            value_label="nats",
            definition="How much the log probability of each symbol of the caption falls if a patch of the image is "
            "covered with grey (Zeiler and Fergus 2014): a small picture for each symbol, from left to right.",
        )

    def excerpt(self, model: Captioner, params: Tree, data: Data, size: int, rng: np.random.Generator) -> str:
        """Greedy captions of a few images beside the true ones, about ``size`` characters."""
        examples, lines, length = data.valid or data.train, [], 0
        tokens = tokens_of(data.facts)
        some = [examples[i] for i in rng.permutation(len(examples))[:20]]
        found = self.captions(model, params, data.facts, [example.pixels for example in some], 1)
        for example, (best,) in zip(some, found, strict=True):
            lines.append(beside_truth(tokens.decode(best.symbols), example.caption))
            length += len(lines[-1])
            if length >= size:
                break
        return "\n".join(lines)

    # Reports

    def contains(self, training: Sequence[Example], examples: Sequence[Example]) -> bool:
        """Whether all the images are among those of training, with their captions."""
        known = {(example.caption, example.pixels.tobytes()) for example in training}
        return all((example.caption, example.pixels.tobytes()) in known for example in examples)

    def assess(
        self, model: Captioner, params: Tree, data: Data, *, name: str, training: Sequence[Example] | None = None
    ) -> Assessment:
        """Loss and token accuracy; the share of exact captions, BLEU, chrF and the accuracy of the group; baselines."""
        from rnn_plugins.tasks.caption.scores import assess_captions

        tokens = tokens_of(data.facts)
        images = {example.image: example.pixels for example in data.valid}
        begin("captioning")
        found = self.captions(model, params, data.facts, list(images.values()))
        return assess_captions(
            self.metrics,
            self.evaluate(model, params, data.valid),
            {image: tokens.decode(some[0].symbols) for image, some in zip(images, found, strict=True)},
            data.valid,
            training,
            lower=self.lower,
            name=name,
            unit=self.unit,
            count=self.count(data.valid),
        )

    def probe(self, model: Captioner, params: Tree, examples: Sequence[Example], facts: Mapping[str, Any]) -> EveryStep:
        """The decoder along captions."""
        from rnn_plugins.tasks.caption.probe import along_captions

        return along_captions(model, params, examples, tokens_of(facts), NOUNS[self.level])
