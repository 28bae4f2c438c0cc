"""Sample a whole text from a network."""

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
        prime: the beginning of the text; if empty, the text begins as after a line feed.
        choice: how to choose a symbol; ``Vocabulary.unwritten`` symbols are never drawn.
        seed: random seed; None for another text at each call.
        unknown: how to treat unknown symbols in the prime.

    Raises:
        UserError: the prime has unknown symbols and ``unknown`` is ``error``, or the scores are not finite.
    """
    vocabulary = language.vocabulary
    begin = vocabulary.encode(prime, unknown, called="the prime").tolist() or language.opening
    choice = replace(choice, never=vocabulary.unwritten)
    symbols = sample(language.model, params, begin, choice, np.random.default_rng(seed))
    return prime + "".join(sampling.write(symbols, vocabulary, length))
