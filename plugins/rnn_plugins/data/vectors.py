"""Pretrained vectors of words, in the text formats of GloVe and of word2vec."""

import os
import re
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from rnn_plugins.data.lines import lines, name_of
from rnn_plugins.errors import UserError
from rnn_plugins.words import amount

LARGEST = 1e6
"""A number beyond this is damage: vectors have numbers of the order of one."""


def vectors_of(file: str, words: tuple[str, ...]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """As ``read_vectors``; the vectors that were read last are kept, as long as their file does not change.

    A file of a gigabyte is read with the data, for the width of its vectors, and needed again for the parameters.
    """
    try:
        found = os.stat(file)
    except (OSError, ValueError):  # whoever reads it says why
        return read_vectors(file, words)
    return _kept(file, words, (found.st_mtime_ns, found.st_size, found.st_ino))


def width_of(file: str, symbols: tuple[str, ...], specials: int, noun: str = "words") -> tuple[int, str]:
    """The width of the vectors in a file, and a sentence on how many symbols have one.

    Args:
        file: its path.
        symbols: those of a vocabulary.
        specials: how many of them, the first ones, have no text of their own.
        noun: for symbols, in the plural.

    Raises:
        UserError: as for ``read_vectors``.
    """
    matrix, known = vectors_of(file, symbols)
    count = known[specials:].sum()
    return matrix.shape[1], f"{file} has vectors of {count:,} of the {len(symbols) - specials:,} {noun}"


def read_vectors(file: str, words: Sequence[str]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The vectors of some words; a word that has none gets that of its lower-case form.

    A line is a word and its E numbers, separated by blanks. The first line may be the number of words and E
    (word2vec). The file is read as a stream.

    Args:
        file: its path, packed with gzip or not; ``-`` for standard input.
        words: the words; blanks around them are ignored.

    Returns:
        The vectors, shape (len(words), E), zero where there is none; and whether there is one, shape (len(words),).

    Raises:
        UserError: the file cannot be read, is of another format, has vectors of unlike widths, or none of the words.
    """
    places: dict[str, list[int]] = {}
    for i, word in enumerate(words):
        for form in {word.strip(), word.strip().lower()}:
            places.setdefault(form, []).append(i)
    name, width = name_of(file), 0
    matrix = np.zeros((len(words), 0), np.float32)
    rank = np.zeros(len(words), np.int8)  # 2 for the word itself, 1 for its lower-case form
    for number, line in enumerate(lines(file), 1):
        line = line.rstrip(" ")
        if not line or (number == 1 and _HEADER.fullmatch(line)):
            continue
        first = not width
        if first:
            width = line.count(" ")
            matrix = np.zeros((len(words), width), np.float32)
        word, *fields = line.rsplit(" ", width)
        if not width or len(fields) != width:
            expected = f"{width}, as before" if width else "a word and its numbers, separated by blanks"
            raise UserError(
                f"{name}, line {number}: {amount(len(fields), 'number')} after the word; expected {expected}"
            )
        wanted = places.get(word, [])
        if wanted or first:  # the first shows whether these are vectors at all
            vector = _vector(fields)
            if vector is None:
                raise UserError(
                    f"{name}, line {number}: what follows {word[:40]!r} are not {width} finite numbers; expected a "
                    "word and its numbers, separated by blanks (the text format of GloVe or word2vec)"
                )
            for i in wanted:
                exact = 1 + (words[i].strip() == word)
                if rank[i] < exact:
                    matrix[i], rank[i] = vector, exact
    if not width:
        raise UserError(f"{name} has no vectors; expected a word and its numbers per line")
    if words and not rank.any():
        count = amount(len(words), "word")
        raise UserError(f"{name} has a vector for none of the {count}; is it of another language?")
    return matrix, rank > 0


@lru_cache(maxsize=1)
def _kept(file: str, words: tuple[str, ...], version: tuple[int, ...]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    return read_vectors(file, words)


def _vector(fields: list[str]) -> NDArray[np.float32] | None:
    try:
        numbers = np.array([float(field) for field in fields])
    except ValueError:
        return None
    return numbers.astype(np.float32) if np.all(np.abs(numbers) < LARGEST) else None  # NaN is not less either


_HEADER = re.compile(r"\d{1,12} \d{1,6}")
"""word2vec's first line: the number of words and the width of a vector."""
