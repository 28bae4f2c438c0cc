"""How much each symbol of a text surprises a run's model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rnn_lab.evaluation import remembered
from rnn_lab.runs import Run
from rnn_plugins.data.vocabulary import Unknown, Vocabulary
from rnn_plugins.errors import UserError
from rnn_plugins.language.assessment import UNITS
from rnn_plugins.language.surprise import Prediction, predict
from rnn_plugins.progress import advance, begin

Array: TypeAlias = NDArray[Any]

_IN_WORD = re.compile(r" ?\w|\\x|<unk>")


class Surprise(NamedTuple):
    """A surprising symbol or word.

    Attributes:
        text: the symbol or word.
        bits: -log2 of its probability; for a word, the sum over its symbols.
        line: the line where it begins, from 1.
        column: the column in that line, in characters, from 1.
        expected: the likeliest symbol at its most surprising position.
        confidence: the probability of ``expected``.
        before: the end of the text before it.
        top: the likeliest symbols there with their probabilities, as many as were asked for; the first is ``expected``.
    """

    text: str
    bits: float
    line: int
    column: int
    expected: str
    confidence: float
    before: str
    top: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Scoring:
    """A text with the surprise of each of its symbols.

    Attributes:
        run: the run's name.
        text: the text's name.
        vocabulary: the symbols.
        tokens: (N,).
        prediction: of each token.
        notices: sentences for the user.
    """

    run: str
    text: str
    vocabulary: Vocabulary
    tokens: Array
    prediction: Prediction
    notices: tuple[str, ...]

    @property
    def symbols(self) -> tuple[str, ...]:
        """The text's symbols, as they are written."""
        return tuple(self.vocabulary.symbols[token] for token in self.tokens.tolist())

    @property
    def unit(self) -> str:
        """The noun for a symbol: character, word or byte."""
        return UNITS[self.vocabulary.level]

    @property
    def mean_bits(self) -> float:
        """Bits per symbol, without the first."""
        return float(self.prediction.bits[1:].mean())

    @property
    def bits_per_character(self) -> float:
        """The bits of the whole text divided by its characters, without the first symbol."""
        return float(self.prediction.bits[1:].sum() / max(self.vocabulary.measure(self.tokens[1:])[0], 1))

    def expected(self, place: int) -> tuple[tuple[str, float], ...]:
        """The likeliest symbols at a position with their probabilities, the likeliest first."""
        likely, shares = self.prediction.likely[place].tolist(), self.prediction.shares[place].tolist()
        return tuple((self.vocabulary.symbols[symbol], share) for symbol, share in zip(likely, shares, strict=True))

    def surprising_symbols(self, count: int) -> list[Surprise]:
        """The most surprising symbols, in descending order."""
        places = np.argsort(-self.prediction.bits[1:], kind="stable")[:count] + 1
        return [self._surprise(place, place + 1) for place in places.tolist()]

    def surprising_words(self, count: int) -> list[Surprise]:
        """The most surprising words by the sum over their symbols, each at its most surprising occurrence.

        A word is letters, digits and ``_`` in a row; a single symbol at the beginning of the text is not predicted.
        """
        is_part = np.array([_IN_WORD.match(symbol) is not None for symbol in self.vocabulary.symbols])[self.tokens]
        if self.vocabulary.level == "word":
            starts = np.flatnonzero(is_part)
            ends = starts + 1
        else:  # a token with a space in front begins a word, also after another one
            spaced = np.array([symbol.startswith(" ") for symbol in self.vocabulary.symbols])[self.tokens]
            begins = is_part & (spaced | ~np.concatenate([[False], is_part[:-1]]))
            starts, borders = np.flatnonzero(begins), np.append(np.flatnonzero(begins | ~is_part), len(is_part))
            ends = borders[np.searchsorted(borders, starts, side="right")]
        starts, ends = starts[ends > 1], ends[ends > 1]
        sums = np.concatenate([[0.0], np.cumsum(np.nan_to_num(self.prediction.bits))])
        found: dict[str, tuple[int, int]] = {}
        for i in np.argsort(sums[starts] - sums[ends], kind="stable").tolist():
            if len(found) == count:
                break
            start, end = int(starts[i]), int(ends[i])
            found.setdefault(self.vocabulary.decode(self.tokens[start:end]).lstrip(" "), (start, end))
        return [self._surprise(*pair, word=True) for pair in found.values()]

    def _surprise(self, start: int, end: int, *, word: bool = False) -> Surprise:
        decode, bits = self.vocabulary.decode, self.prediction.bits[start:end]
        before, single = decode(self.tokens[:start]), end == start + 1
        text = self.vocabulary.symbols[self.tokens[start]] if single else decode(self.tokens[start:end])
        if word:  # a token may have a space in front
            before, text = before + text[: -len(text.lstrip(" "))], text.lstrip(" ")
        top = self.expected(start + int(np.nanargmax(bits)))
        return Surprise(
            text,
            float(np.nansum(bits)),
            before.count("\n") + 1,
            len(before) - before.rfind("\n"),
            *top[0],
            before[-12:],
            top,
        )


def score(run: Run, sources: Sequence[str], unknown: Unknown = "replace", top: int = 1) -> Scoring:
    """How much each symbol of a text surprises a run's best weights.

    Args:
        run: the run.
        sources: the text, as ``rnn train`` takes it.
        unknown: how to treat unknown characters.
        top: the number of likeliest symbols at each position.

    Raises:
        UserError: ``top`` is less than 1; the run is not a language model; the text cannot be read, has fewer than two
            symbols, or has unknown characters and ``unknown`` is ``error``; or the weights are not finite.
    """
    if top < 1:
        raise UserError(f"--top is {top}; it must be at least 1")
    model, vocabulary = run.language.model, run.language.vocabulary
    data = run.read(sources, unknown=unknown)
    text, unit = ", ".join(sources), UNITS[vocabulary.level]
    if len(data.valid) < 2:
        raise UserError(f"{text} has only one {unit}; expected at least two, since the first is not predicted")
    begin(f"scoring {text}")
    prediction = predict(model, run.params(), data.valid, top, told=advance)
    if not np.isfinite(prediction.bits[1:]).all():
        raise UserError(f"the scores of the run {run.name!r} on {text} are not finite: its training went wrong")
    notices = (*data.notices, *remembered(run, data, run.data()[0]), *run.code_changed())
    return Scoring(run.name, text, vocabulary, data.valid, prediction, notices)
