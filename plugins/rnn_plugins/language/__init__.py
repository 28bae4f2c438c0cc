"""Language models: the network, sampling, and n-grams as baselines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rnn_plugins.data.vocabulary import Vocabulary
    from rnn_plugins.language.model import Model


@dataclass(frozen=True, eq=False)
class Language:
    """A network with what is needed to read and sample texts.

    Attributes:
        model: the network.
        vocabulary: its symbols.
        opening: the symbols that are read, but not printed, before a text without a prime.
    """

    model: Model
    vocabulary: Vocabulary
    opening: tuple[int, ...] = ()

    @property
    def symbols(self) -> tuple[str, ...]:
        """What the network reads and predicts, as written."""
        return self.vocabulary.symbols
