"""How much each symbol of a text surprises a run's model, and which surprise it most."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from minigrad import log_softmax
from minigrad.trees import Tree
from rnn_lab.evaluation import remembered
from rnn_lab.runs import Run
from rnn_plugins.data.vocabulary import Unknown, Vocabulary
from rnn_plugins.errors import UserError
from rnn_plugins.language.assessment import UNITS
from rnn_plugins.language.model import BLOCK, Model

Array: TypeAlias = NDArray[Any]

READ_AT_ONCE = 1000
"""Symbols that are predicted in one go, so that a long text does not fill the memory."""

_IN_WORD = re.compile(r"\w|\\x|<unk>")


class Prediction(NamedTuple):
    """What a model thought of each symbol of a text, given all those before it.

    Attributes:
        bits: (N,), -log2 of its probability; NaN for the first, which is read and not predicted.
        expected: (N,), the likeliest symbol in its place; the first one itself for the first.
        confidence: (N,), the probability of that.
    """

    bits: Array
    expected: Array
    confidence: Array


class Surprise(NamedTuple):
    """A symbol or a word that was not expected.

    Attributes:
        text: the symbol or word.
        bits: -log2 of its probability; of a word, of all its symbols together.
        line: where it begins, from 1.
        column: in that line, in characters, from 1.
        expected: the symbol that was likeliest where its surprise was greatest.
        confidence: the probability of that.
        before: the end of the text before it.
    """

    text: str
    bits: float
    line: int
    column: int
    expected: str
    confidence: float
    before: str


@dataclass(frozen=True)
class Scoring:
    """A text with the surprise of each of its symbols.

    Attributes:
        run: the run's name.
        text: its name.
        vocabulary: what the symbols are.
        tokens: (N,).
        prediction: of each.
        notices: what is to be said of it, a sentence each.
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
        """What a symbol is called."""
        return UNITS[self.vocabulary.level]

    @property
    def mean_bits(self) -> float:
        """Bits per symbol, the first left out."""
        return float(self.prediction.bits[1:].mean())

    @property
    def bits_per_character(self) -> float:
        """The bits of the whole text, divided by the characters that they are for."""
        return float(self.prediction.bits[1:].sum() / max(self.vocabulary.measure(self.tokens[1:])[0], 1))

    def surprising_symbols(self, count: int) -> list[Surprise]:
        """The symbols that surprise most, the first of them first."""
        places = np.argsort(-self.prediction.bits[1:], kind="stable")[:count] + 1
        return [self._surprise(place, place + 1) for place in places.tolist()]

    def surprising_words(self, count: int) -> list[Surprise]:
        """The words that surprise most, all their symbols together, each where it does so most.

        A word is letters, digits and ``_`` in a row; one of a single symbol that begins the text is not predicted.
        """
        is_part = np.array([_IN_WORD.match(symbol) is not None for symbol in self.vocabulary.symbols])[self.tokens]
        if self.vocabulary.level == "word":
            starts = np.flatnonzero(is_part)
            ends = starts + 1
        else:
            steps = np.diff(np.concatenate([[0], is_part.astype(np.int8), [0]]))
            starts, ends = np.flatnonzero(steps == 1), np.flatnonzero(steps == -1)
        starts, ends = starts[ends > 1], ends[ends > 1]
        sums = np.concatenate([[0.0], np.cumsum(np.nan_to_num(self.prediction.bits))])
        found: dict[str, tuple[int, int]] = {}
        for i in np.argsort(sums[starts] - sums[ends], kind="stable").tolist():
            if len(found) == count:
                break
            start, end = int(starts[i]), int(ends[i])
            found.setdefault(self.vocabulary.decode(self.tokens[start:end]), (start, end))
        return [self._surprise(*pair) for pair in found.values()]

    def _surprise(self, start: int, end: int) -> Surprise:
        decode, bits = self.vocabulary.decode, self.prediction.bits[start:end]
        before = decode(self.tokens[:start])
        strongest = start + int(np.nanargmax(bits))
        return Surprise(
            self.vocabulary.symbols[self.tokens[start]] if end == start + 1 else decode(self.tokens[start:end]),
            float(np.nansum(bits)),
            before.count("\n") + 1,
            len(before) - before.rfind("\n"),
            self.vocabulary.symbols[self.prediction.expected[strongest]],
            float(self.prediction.confidence[strongest]),
            before[-12:],
        )


def predict(model: Model, params: Tree, tokens: Array) -> Prediction:
    """Read a text once from beginning to end, and predict each symbol but the first.

    Args:
        model: the model.
        params: its parameters.
        tokens: (N,).
    """
    bits, confidence = np.full(len(tokens), np.nan), np.full(len(tokens), np.nan)
    expected = np.array(tokens, np.intp)
    block = max(1, min(READ_AT_ONCE, BLOCK // model.vocabulary_size))
    carry = model.init_carry(1)
    for start in range(0, len(tokens) - 1, block):
        read = np.asarray(tokens[start : start + block + 1], np.intp)
        carry, logits = model.unroll(params, carry, read[:-1, None])
        scores = np.asarray(log_softmax(logits[:, 0]), np.float64)
        some = slice(start + 1, start + len(read))
        bits[some] = -scores[np.arange(len(scores)), read[1:]] / math.log(2)
        expected[some] = scores.argmax(axis=1)
        confidence[some] = np.exp(scores.max(axis=1))
    return Prediction(bits, expected, confidence)


def score(run: Run, sources: Sequence[str], unknown: Unknown = "replace") -> Scoring:
    """How much each symbol of a text surprises a run's best weights.

    Args:
        run: the run.
        sources: the text, as ``rnn train`` takes it.
        unknown: what becomes of characters that the model has never seen.

    Raises:
        UserError: the run's task makes it no language model; the text cannot be read, has fewer than two symbols, or
            has unknown characters and ``unknown`` is ``error``; or the weights are no numbers.
    """
    model, vocabulary = run.language.model, run.language.vocabulary
    data = run.read(sources, unknown=unknown)
    text, unit = ", ".join(sources), UNITS[vocabulary.level]
    if len(data.valid) < 2:
        raise UserError(f"{text} has only one {unit}; it takes two, since the first is read and not predicted")
    prediction = predict(model, run.params(), data.valid)
    if not np.isfinite(prediction.bits[1:]).all():
        raise UserError(f"the scores of the run {run.name!r} on {text} are no numbers: its training went wrong")
    notices = (*data.notices, *remembered(run, data, run.data()[0]), *run.code_changed())
    return Scoring(run.name, text, vocabulary, data.valid, prediction, notices)
