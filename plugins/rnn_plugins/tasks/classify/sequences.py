"""Sequences of a classifier: texts as ids, rows of numbers and images as steps, and the facts to make them again."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rnn_plugins.data.images import as_image, unit
from rnn_plugins.data.labelled import Found, Kind
from rnn_plugins.data.tables import standardised
from rnn_plugins.data.tokens import Tokens
from rnn_plugins.data.vectors import width_of
from rnn_plugins.data.vocabulary import NOUNS, Level
from rnn_plugins.errors import UserError
from rnn_plugins.words import amount, listing, percent

Array = NDArray[Any]

Order = Literal["rows", "pixels", "permuted"]
"""How the numbers of an image become steps: its rows, its pixels, or its pixels in a fixed random order."""

SHOWN = 60
"""Characters of a text in a line."""


class Example(NamedTuple):
    """A sequence with its class.

    Attributes:
        xs: ids (T,), or numbers (T, n).
        label: the index of its class.
        weight: in the mean loss.
        where: file and line, or the name of an image.
    """

    xs: Array
    label: int
    weight: float = 1.0
    where: str = ""


class Input(NamedTuple):
    """A sequence without a class.

    Attributes:
        shown: the text, or the place of numbers.
        xs: ids (T,), or numbers (T, n).
        file: the file that has this text alone; empty if there is none.
    """

    shown: str
    xs: Array
    file: str = ""


@dataclass(frozen=True)
class Sequences:
    """How texts or numbers become sequences.

    Attributes:
        kind: what they are made of.
        order: how numbers become steps.
        tokens: the symbols of texts.
        shape: height, width, channels of images; of rows, steps, their width, 1.
        scaling: the mean and the scale of rows, which are subtracted and divided by.
        permutation: the places of the pixels in a fixed random order.
        white: the largest value of a pixel in the files.
    """

    kind: Kind
    order: Order = "rows"
    tokens: Tokens | None = None
    shape: tuple[int, ...] = ()
    scaling: tuple[float, float] = (0.0, 1.0)
    permutation: tuple[int, ...] = ()
    white: int = 255

    @classmethod
    def of(cls, facts: Mapping[str, Any], order: Order) -> Sequences:
        """As the facts of a run say.

        Raises:
            ValueError: they are damaged; a ``KeyError`` or ``TypeError`` means the same.
        """
        kind = facts["kind"]
        if kind == "texts":
            return cls(kind, order, Tokens.from_json(facts["tokens"]))
        shape, scaling, permutation = (tuple(facts[name]) for name in ("shape", "scaling", "permutation"))
        if kind not in ("rows", "images") or len(shape) != 3 or not all(type(n) is int and n > 0 for n in shape):
            raise ValueError("its kind or its shape is unknown")
        mean, scale = map(float, scaling)
        if not (math.isfinite(mean) and 0 < scale < math.inf):
            raise ValueError("its scaling is not a mean and a number above 0")
        if (order == "permuted" or permutation) and sorted(permutation) != list(range(shape[0] * shape[1])):
            raise ValueError("its order of pixels is not a permutation")
        return cls(kind, order, None, shape, (mean, scale), permutation, int(facts["white"]))

    @property
    def unit(self) -> str:
        """The noun for a step, in the singular."""
        if self.tokens:
            return NOUNS[self.tokens.level]
        return "row" if self.kind == "images" and self.order == "rows" else "pixel" if self.kind == "images" else "step"

    @cached_property
    def places(self) -> Array | slice:
        """The pixel of each step, where a step is a pixel."""
        return np.array(self.permutation) if self.order == "permuted" else slice(None)

    @property
    def noun(self) -> str:
        """The noun for a sequence, in the singular."""
        return self.kind[:-1]

    @property
    def width(self) -> int:
        """The numbers of a step."""
        return self.shape[1] * self.shape[2] if self.order == "rows" else self.shape[2]

    def __call__(self, found: Found) -> Array:
        """The sequence of an example: ids (T,), or numbers (T, n), those of pixels as in ``Images.pixels``.

        Raises:
            UserError: a text is empty, or a row has another number of values or one that is too far from the mean.
        """
        if self.tokens:
            ids = self.tokens.encode(found.value)
            if not len(ids) or not found.value.strip():
                raise UserError(f"{found.where}: the text is empty; expected at least one {self.unit}")
            return ids
        values = found.value
        if values.size != math.prod(self.shape):
            wanted = math.prod(self.shape)
            raise UserError(f"{found.where}: it has {amount(values.size, 'number')}; expected {wanted:,}")
        if self.kind == "rows":
            values = standardised(values, *self.scaling, found.where).astype(np.float32)
        if self.order == "rows":
            return np.asarray(values.reshape(self.shape[0], -1))
        steps = values.reshape(-1, self.shape[2])
        return np.asarray(steps[self.places])

    def input(self, found: Found) -> Input:
        """An example as an input of predictions.

        Raises:
            UserError: as for a sequence.
        """
        return Input(found.value if self.tokens else found.where, self(found), found.file)

    def given(self, value: Any, number: int) -> Input:
        """An input of predictions that may have been given from Python, as a text or as an array.

        Raises:
            UserError: it is something else.
        """
        if isinstance(value, Input):
            return value
        where = f"{self.noun} {number}"
        if isinstance(value, str) != (self.kind == "texts"):
            came = f"the text {short(value)!r}" if isinstance(value, str) else f"a {type(value).__name__}"
            wanted = "a text" if self.tokens else f"a file with {self.kind}, or an array of numbers"
            raise UserError(f"the network was trained on {self.kind}; expected {wanted}, and got {came}")
        if self.kind == "images":
            value = as_image(value, shape=self.shape, white=self.white, label=where)
        return self.input(Found(where, value if self.tokens else np.asarray(value), ""))

    def written(self, xs: Array, where: str) -> str:
        """A sequence as a text, or where it comes from."""
        return self.tokens.decode(xs) if self.tokens else where

    def picture(self, values: Array) -> Array:
        """Numbers (T, n), one for each number of a sequence, where they are in the image: (H, W), channels summed."""
        height, width, channels = self.shape
        pixels = np.asarray(values, np.float64).reshape(-1, channels).sum(1)
        picture = np.empty(height * width)
        picture[self.places] = pixels
        return picture.reshape(height, width)


def labels_of(found: Sequence[Found], held_out: bool, notices: list[str]) -> list[str]:
    """The classes of all examples, in order.

    Args:
        found: the examples.
        held_out: whether some of each class are held out, so that it must have two.
        notices: takes sentences.

    Raises:
        UserError: there is only one class, or a class has only one example.
    """
    counts = Counter(each.label for each in found)
    if len(counts) < 2:
        raise UserError(
            f"all {len(found):,} examples have the class {found[0].label!r}; expected two classes at least: give a "
            "file for each, or a table with several classes"
        )
    for each in found:
        if counts[each.label] == 1:
            single = f"{each.where}: this is the only example of the class {each.label!r}"
            if held_out:
                raise UserError(f"{single}; expected two at least, one of them to hold out: add some, or remove it")
            notices.append(single)
    return sorted(counts, key=lambda label: label.zfill(9) if label.isdecimal() else label)


def facts_of_texts(
    examples: Sequence[Found], level: Level, limit: int, lower: bool, embedding: str, notices: list[str]
) -> dict[str, Any]:
    """The facts that ``Sequences.of`` takes of texts to train on, the width of vectors, and whether files are texts.

    Args:
        examples: to train on.
        level: the kind of symbols.
        limit: the number of words that are kept; 0 for all.
        lower: whether they are in lower case.
        embedding: a file of vectors; empty for none.
        notices: takes sentences.

    Raises:
        UserError: the vectors cannot be read.
    """
    texts = [each.value for each in examples]
    tokens = Tokens.build(texts, level, limit=limit, lower=lower)
    if level == "word" and np.median([len(text.split()) for text in texts]) < 2:
        notices.append("most texts are a single word; --level char reads their letters")
    whole = any(example.file for example in examples)
    facts = {"tokens": tokens.to_json(), "vectors": 0, "whole": whole}
    if embedding:
        facts["vectors"], told = width_of(embedding, tokens.symbols, tokens.specials, f"{NOUNS[level]}s")
        notices.append(told)
    return facts


def facts_of_numbers(kind: Kind, examples: Sequence[Found], how: Mapping[str, Any], order: Order) -> dict[str, Any]:
    """The facts that ``Sequences.of`` takes of rows or images to train on.

    Args:
        kind: of the examples.
        examples: to train on.
        how: of images, as ``Reader.images`` gives it.
        order: how they become steps.

    Raises:
        UserError: a row has another number of values than the first.
    """
    shape, scaling = examples[0].value.shape, (0.0, 1.0)
    if kind == "rows":
        for example in examples:
            if example.value.shape != shape:
                sizes = amount(example.value.size, "number"), math.prod(shape)
                raise UserError(
                    f"{example.where}: it has {sizes[0]}; expected {sizes[1]:,}, as {examples[0].where} has"
                )
        values = np.stack([example.value for example in examples])
        scaling = float(values.mean()), float(values.std()) or 1.0
    places = np.random.default_rng(0).permutation(shape[0] * shape[1]).tolist() if order == "permuted" else []
    facts = {"shape": list(shape), "white": 0, "label_column": "", "scaling": list(scaling), "permutation": places}
    return facts | {name: value for name, value in how.items() if name != "shape"}


def described(facts: Mapping[str, Any], train: Sequence[Example], valid: Sequence[Example]) -> str:
    """The number and the kind of examples in a phrase."""
    counts = Counter(example.label for example in (*train, *valid))
    classes = listing(f"{facts['labels'][label]}: {counts[label]:,}" for label in sorted(counts))
    told = f"{amount(counts.total(), facts['kind'][:-1])} in {len(counts)} classes ({classes})"
    if facts["kind"] != "texts":
        steps, width = (train or valid)[0].xs.shape
        return f"{told}; {amount(steps, 'step')} of {amount(width, 'number')}"
    return f"{told}; a vocabulary of {len(Tokens.from_json(facts['tokens'])):,}"


def unknown_symbols(tokens: Tokens | None, examples: Sequence[Example], where: str) -> list[str]:
    """A notice on the symbols of texts that the vocabulary does not have, if there are some.

    Args:
        tokens: the vocabulary; None for numbers, which have none.
        examples: the texts.
        where: these, in words.
    """
    if not tokens or not examples:
        return []
    unknown = np.mean(np.concatenate([example.xs for example in examples]) == 0)
    noun = f"{NOUNS[tokens.level]}s"
    return [f"{percent(unknown)} of the {noun} in {where} are not in the vocabulary"] if unknown else []


def numbers(xs: Array) -> Array:
    """Sequences as the network takes them: ids as they are, pixels in [0, 1]."""
    return xs if xs.dtype.kind == "i" else unit(xs)


def short(text: str) -> str:
    """A text in a line."""
    line = " ".join(text.split())
    return line if len(line) <= SHOWN else f"{line[: SHOWN - 3]}..."
