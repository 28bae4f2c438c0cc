"""Pairs of texts as ids of symbols: what an encoder reads, and what a decoder is to write."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rnn_plugins.data.dates import dates
from rnn_plugins.data.tables import pairs
from rnn_plugins.data.tokens import Tokens
from rnn_plugins.errors import UserError
from rnn_plugins.tasks.decoding import END

Array = NDArray[Any]


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


def texts_of(files: Sequence[str], digest: Any, *, targets: bool = True) -> Iterator[tuple[str, str]]:
    """The pairs in files; without ``targets``, those may be empty."""
    generated = [file for file in files if file.startswith("builtin:")]
    for file in generated:
        for pair in dates(file.removeprefix("builtin:")):
            if digest is not None:
                digest.update("\t".join(pair).encode())
            yield pair
    read = [file for file in files if file not in generated]
    for record in pairs(read, targets=targets, digest=digest):
        values = record.values
        for name in ("source", "target")[: 1 + targets]:
            if not values[name].strip():
                raise record.mistake(f"the {name} is empty; expected a text")
        yield values["source"].strip(), values.get("target", "").strip()


def given(texts: Iterable[str]) -> Iterator[str]:
    """Sources to translate, as they are needed.

    Raises:
        UserError: one is empty.
    """
    for number, text in enumerate(texts, 1):
        if not text.strip():
            raise UserError(f"text {number}: the source is empty; expected a text")
        yield text


def encoded(tokens: Tokens, text: str) -> Array:
    """The ids of a text, and ``END``."""
    return np.append(tokens.encode(text), END)
