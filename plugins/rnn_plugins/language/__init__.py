"""What a language model does beside its loss: write texts; and counting, which it is measured against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rnn_plugins.data.vocabulary import Vocabulary
    from rnn_plugins.language.model import Model


@dataclass(frozen=True, eq=False)
class Language:
    """What it takes to read and write texts with a network.

    Attributes:
        model: the network.
        vocabulary: what its symbols stand for.
        opening: the symbols that it reads, unseen, before a text without a prime.
    """

    model: Model
    vocabulary: Vocabulary
    opening: tuple[int, ...] = ()
