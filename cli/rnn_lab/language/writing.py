"""A text that a network writes in one go."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from minigrad.trees import Tree
from rnn_plugins.data.vocabulary import Unknown
from rnn_plugins.language import Language, sampling
from rnn_plugins.language.sampling import Choice, sample


def write(
    language: Language,
    params: Tree,
    length: int,
    prime: str,
    choice: Choice,
    seed: int | None,
    unknown: Unknown,
) -> str:
    """A text, the prime at its beginning.

    Args:
        language: the network.
        params: its parameters.
        length: characters after the prime.
        prime: what the text begins with; nothing begins as after a line feed.
        choice: how a symbol is chosen; what no text should have is never drawn.
        seed: of what is drawn; None draws another text at each call.
        unknown: what becomes of symbols of the prime that the network has never seen.

    Raises:
        UserError: the prime has such symbols and ``unknown`` is ``error``, or the network's scores are no numbers.
    """
    vocabulary = language.vocabulary
    begin = vocabulary.encode(prime, unknown, called="the prime").tolist() or language.opening
    choice = replace(choice, never=vocabulary.unwritten)
    symbols = sample(language.model, params, begin, choice, np.random.default_rng(seed))
    return prime + "".join(sampling.write(symbols, vocabulary, length))
