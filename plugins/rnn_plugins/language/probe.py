"""A language model along a text, for reports."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from minigrad import trees
from minigrad.scan import Lookup
from minigrad.trees import Tree
from rnn_plugins.data.latex_check import check
from rnn_plugins.data.vocabulary import NOUNS, Vocabulary
from rnn_plugins.language.model import Model
from rnn_plugins.reports.probe import Labels, Probe, Window
from rnn_plugins.words import legible

Array: TypeAlias = NDArray[Any]

SEARCHED = 200_000
"""Symbols of a text that are searched for brackets and lines."""

FEW = 20
"""Minimum number of brackets, or lines, for a statement on their distances."""


class TextProbe(Probe):
    """A language model along one text; a position is the index of the predicted symbol.

    Attributes:
        model: the network.
        weights: all its parameters.
        tokens: (N,), the text.
        vocabulary: the symbols.
    """

    sequence = "text"
    separate: ClassVar[bool] = False
    every_step: ClassVar[bool] = True

    def __init__(self, model: Model, weights: Tree, tokens: Array, vocabulary: Vocabulary) -> None:
        self.model, self.weights, self.tokens, self.vocabulary = model, weights, tokens, vocabulary
        self.cell, self.params, self.dtype = model.cell, weights["cell"], model.dtype
        self.unit = NOUNS[vocabulary.level]
        self.numbers_per_output = model.vocabulary_size

    @cached_property
    def table(self) -> Any:
        """The cell's input for each symbol, (V, I)."""
        return self.model.table(self.weights)

    def longest(self, *, scored: bool = True) -> int:
        """The number of symbols, without the last one if it must be scored."""
        return len(self.tokens) - scored

    def ends(self, length: int, warm_up: int = 0, *, scored: bool = True) -> Sequence[int]:
        """All positions with so many symbols before them, and the end of the text if it need not be scored."""
        return range(length + warm_up, len(self.tokens) + (not scored))

    def window(self, ends: Array, length: int, warm_up: int = 0) -> Window:
        """The symbols before each position."""
        return Window(self.read(self._before(ends - length, warm_up)), self._before(ends, length))

    def _before(self, ends: Array, length: int) -> Lookup:
        return Lookup(self.table, np.asarray(self.tokens[ends + np.arange(-length, 0)[:, None]], np.intp))

    def targets(self, ends: Array, length: int) -> Array:
        """The next symbol after each one in the window, (T, B)."""
        return np.asarray(self.tokens[ends + np.arange(1 - length, 1)[:, None]], np.intp)

    def loss(self, outputs: Any, targets: Array) -> Any:
        """-log p(symbol) of each symbol."""
        return self.model.surprise(self.weights, outputs, targets)

    def astype(self, dtype: str) -> TextProbe:
        """The same probe with another dtype of parameters and activations."""
        model = replace(self.model, dtype=dtype)
        return TextProbe(model, trees.cast(self.weights, dtype), self.tokens, self.vocabulary)

    def labels(self, end: int, length: int) -> Labels:
        """The symbols, as shown."""
        some = self.tokens[end - length : end + 1].tolist()
        shown = tuple(legible(self.vocabulary.symbols[symbol]) for symbol in some)
        return Labels(shown[:-1], shown[1:])

    def distance(self) -> tuple[float | None, str]:
        """The median distance of brackets if the text has enough, otherwise the median length of its lines."""
        if self.vocabulary.level == "word":
            return None, ""
        text = self.vocabulary.decode(self.tokens[:SEARCHED])
        closings = [closing.distance for closing in check(text).closings if closing.right]
        if len(closings) >= FEW:
            return statistics.median(closings), "half of this text's brackets close later than"
        lines = [len(line) for line in text.splitlines() if line]
        if len(lines) >= FEW:
            return statistics.median(lines), "half of this text's lines are longer than"
        return None, ""
