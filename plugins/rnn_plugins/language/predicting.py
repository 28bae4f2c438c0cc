"""What a language model expects after texts: the likeliest next symbols with their probabilities."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from minigrad import log_softmax
from minigrad.trees import Tree
from rnn_plugins.data.vocabulary import NOUNS, Unknown, Vocabulary, show
from rnn_plugins.errors import UserError
from rnn_plugins.language import Language
from rnn_plugins.language.sampling import start_of_text
from rnn_plugins.tasks.task import Prediction
from rnn_plugins.words import amount, legible, listing

SHOWN = 60
"""Characters of a text that stand beside its prediction: the last ones."""


def next_symbols(
    language: Language, params: Tree, texts: Iterable[str], top: int, unknown: Unknown
) -> Iterator[Prediction]:
    """The likeliest symbols after each text, read from the model's initial carry, as the prime of a sample is.

    Args:
        language: the network.
        params: its parameters, plain arrays.
        texts: an empty one is the beginning of a text.
        top: how many symbols a record has.
        unknown: how to treat symbols of a text that are not in the vocabulary.

    Raises:
        UserError: a text has unknown symbols and ``unknown`` is ``error``, or the scores are not finite.
    """
    symbols = language.vocabulary.symbols
    for text in texts:
        ids, missing = language.vocabulary.encode_known(text)
        if missing and unknown == "error":
            raise _unknown(language.vocabulary, text, missing)
        read = language.vocabulary.replace_unknown(ids, unknown).tolist() or language.opening
        _, scores = start_of_text(language.model, params, read)
        row = np.asarray(log_softmax(np.asarray(scores, np.float64)))
        if not np.isfinite(row).all():
            raise UserError("the scores of the network are not finite: its training went wrong")
        likely = np.argsort(-row, kind="stable")[:top].tolist()
        shares = [{"next": symbols[i], "probability": math.exp(row[i])} for i in likely]
        record: dict[str, Any] = {"input": text, **shares[0]} | ({"top": shares} if top > 1 else {})
        told = ", ".join(f"{legible(symbols[i])} {math.exp(row[i]):.3f}" for i in likely)
        line = f"{told}  {legible(text if len(text) <= SHOWN else f'...{text[3 - SHOWN :]}')}"
        if missing:
            record["unknown"] = missing
            instead = "left out" if unknown == "skip" else f"read as {show(symbols[language.vocabulary.replacement])}"
            line += f" ({listing(map(show, missing))} {instead})"
        yield Prediction(line, record)


def _unknown(vocabulary: Vocabulary, text: str, missing: list[str]) -> UserError:
    """The error for a text with unknown symbols."""
    return UserError(
        f"{legible(text)} has {amount(len(missing), NOUNS[vocabulary.level])} that the model has never seen: "
        f"{listing(map(show, missing))}; --task-option unknown=skip leaves them out"
    )
