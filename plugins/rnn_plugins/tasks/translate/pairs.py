"""Pairs of texts as ids of symbols: what an encoder reads, and what a decoder is to write."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rnn_plugins.data.dates import dates
from rnn_plugins.data.tables import PAIR, pairs
from rnn_plugins.data.tokens import Tokens
from rnn_plugins.errors import UserError
from rnn_plugins.tasks.blocks import with_places
from rnn_plugins.tasks.decoding import END

Array = NDArray[Any]


COLUMN = re.compile(
    r"(.*(\b|_))?(source|target|src|tgt|input|output|original|translation|english|french|german|spanish|italian|dutch"
    r"|portuguese|polish|czech|russian|ukrainian|turkish|arabic|hindi|chinese|japanese|korean|latin)s?((\b|_).*)?"
    r"|en|eng|fr|fra|de|deu|es|spa|it|ita|nl|nld|pt|por|pl|pol|cs|ces|ru|rus|uk|ukr|tr|tur|ar|ara|hi|hin|zh|zho|ja|jpn"
    r"|ko|kor",
    re.IGNORECASE,
)
"""A name of a column of texts, such as their language: if a file begins with two of them, they may be its header."""

WORDS_OF_NAME = 3
"""The most words in such a name."""


class Pair(NamedTuple):
    """A source and its translation.

    Attributes:
        source: ids, and ``END``.
        target: likewise.
        text: the source.
        translation: the target.
    """

    source: Array
    target: Array
    text: str
    translation: str


def tokens_of(facts: Mapping[str, Any]) -> tuple[Tokens, Tokens]:
    """The symbols of the sources and of the targets.

    Raises:
        ValueError: the facts are damaged.
    """
    return Tokens.from_json(facts["source"]), Tokens.from_json(facts["target"])


def texts_of(
    files: Sequence[str], columns: tuple[str, str], digest: Any, notices: list[str], *, targets: bool = True
) -> Iterator[tuple[str, str]]:
    """The pairs in files; without ``targets``, those may be empty.

    Args:
        files: as the user names them.
        columns: of the sources and of the targets.
        digest: takes the content; None for no digest.
        notices: a first pair that may be a header is told in one.
        targets: whether they are needed.

    Raises:
        UserError: as ``tables.pairs``, or a text is empty.
    """
    generated = [file for file in files if file.startswith("builtin:")]
    for file in generated:
        for pair in dates(file.removeprefix("builtin:")):
            if digest is not None:
                digest.update("\t".join(pair).encode())
            yield pair
    read = [file for file in files if file not in generated]
    options = dict(zip(columns, ("source_column", "target_column"), strict=True))
    seen = ""
    for record in pairs(read, columns, targets=targets, named_by=options, digest=digest):
        values = record.values
        if record.file != seen and columns == PAIR and all(map(_is_name, values.values())):
            named = [f"--task-option {shlex.quote(f'{options[name]}={text.strip()}')}" for name, text in values.items()]
            notices.append(
                f"{record.file}, line {record.line} is read as a pair of texts; if it names the columns: "
                f"{' '.join(named)}"
            )
        seen = record.file
        for name in ("source", "target")[: 1 + targets]:
            if not values[name].strip():
                raise record.mistake(f"the {name} is empty; expected a text")
        yield values["source"].strip(), values.get("target", "").strip()


def given(texts: Iterable[Any]) -> Iterator[str]:
    """Sources to translate, as they are needed.

    Raises:
        UserError: one is empty, or no text.
    """
    for place, text in with_places(texts):
        number = place + 1
        if not isinstance(text, str):
            raise UserError(f"text {number} is of the type {type(text).__name__}; expected a text")
        if not text.strip():
            raise UserError(f"text {number}: the source is empty; expected a text")
        yield text


def _is_name(text: str) -> bool:
    return len(text.split()) <= WORDS_OF_NAME and COLUMN.fullmatch(text.strip()) is not None


def encoded(tokens: Tokens, text: str) -> Array:
    """The ids of a text, and ``END``."""
    return np.append(tokens.encode(text), END)
