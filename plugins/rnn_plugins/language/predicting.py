"""What a language model expects after texts: the likeliest next symbols with their probabilities."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from minigrad import affine, log_softmax, trees
from minigrad.trees import Tree
from rnn_plugins.data.vocabulary import NOUNS, Unknown, Vocabulary, show
from rnn_plugins.errors import UserError
from rnn_plugins.language import Language
from rnn_plugins.language.sampling import start_of_text
from rnn_plugins.reports.report import Colouring, Figure
from rnn_plugins.tasks.attribution import integrated_gradients, log_odds
from rnn_plugins.tasks.task import Prediction
from rnn_plugins.words import amount, legible, listing

EXPLAINED = 200
"""Symbols of a text whose contributions are shown: the last ones."""

SHOWN = 60
"""Characters of a text that stand beside its prediction: the last ones."""


def next_symbols(
    language: Language, params: Tree, texts: Iterable[str], top: int, unknown: Unknown, explain: bool = False
) -> Iterator[Prediction]:
    """The likeliest symbols after each text, read from the model's initial carry, as the prime of a sample is.

    Args:
        language: the network.
        params: its parameters, plain arrays.
        texts: an empty one is the beginning of a text.
        top: how many symbols a record has.
        unknown: how to treat symbols of a text that are not in the vocabulary.
        explain: whether to add what in the text speaks for the likeliest symbol, as a figure and ``contributions``.

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
        told = ", ".join(f"{_apart(symbols[i])} {math.exp(row[i]):.3f}" for i in likely)
        line = f"{told}  {legible(text if len(text) <= SHOWN else f'...{text[3 - SHOWN :]}')}"
        if missing:
            record["unknown"] = missing
            instead = "left out" if unknown == "skip" else f"read as {show(symbols[language.vocabulary.replacement])}"
            line += f" ({listing(map(show, missing))} {instead})"
        figures: tuple[Figure, ...] = ()
        if explain:
            figure = contributions(language, params, read, likely[0])
            figures, record["contributions"] = (figure,), np.asarray(figure.values).tolist()
        yield Prediction(line, record, figures)


def contributions(language: Language, params: Tree, read: Sequence[int], symbol: int) -> Colouring:
    """What each of the last symbols that a model has read contributes to the log odds of the next one.

    Args:
        language: the network.
        params: its parameters, plain arrays.
        read: the symbols; of more than ``EXPLAINED``, those before the last ones are read first.
        symbol: the next one.
    """
    model, symbols = language.model, language.vocabulary.symbols
    before, last = read[:-EXPLAINED], np.asarray(read[-EXPLAINED:], np.intp)
    carry = start_of_text(model, params, before)[0]

    def score(xs: Any) -> Any:
        repeated = trees.map(lambda leaf: np.repeat(leaf, xs.shape[1], axis=0), carry)
        _, ys = model.cell.unroll(params["cell"], repeated, xs)
        return log_odds(affine(model.head(params), ys[-1]), symbol)

    found = integrated_gradients(score, np.asarray(model.inputs(params, last), model.dtype))
    steps = found.values.sum(1)
    most = float(np.abs(steps).max())
    name, least = legible(symbols[symbol]), "" if found.exact else " The integral is not exact."
    told = (
        f"Contributions to the log odds of {name} (integrated gradients, Sundararajan et al. 2017), from inputs of "
        f"zeros on. They sum to {steps.sum():.2f} nats: the log odds are {found.score:.2f}, and {found.baseline:.2f} "
        f"for inputs of zeros.{least}"
    )
    shown = tuple(symbols[i] for i in last.tolist())
    return Colouring("contributions", f"What speaks for {name}", shown, steps, -most, most, "nats", told)


def _apart(symbol: str) -> str:
    """A symbol between commas."""
    return repr(symbol) if symbol.startswith(",") else legible(symbol)


def _unknown(vocabulary: Vocabulary, text: str, missing: list[str]) -> UserError:
    """The error for a text with unknown symbols."""
    return UserError(
        f"{legible(text)} has {amount(len(missing), NOUNS[vocabulary.level])} that the model has never seen: "
        f"{listing(map(show, missing))}; --task-option unknown=skip leaves them out"
    )
