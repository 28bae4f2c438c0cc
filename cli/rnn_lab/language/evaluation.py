"""How well a run's model predicts a text, and what counting and compressing reach on the very same symbols of it.

It measures and puts the comparison into words; it prints nothing.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rnn_lab.runs import Run
from rnn_plugins.data.corpus import Corpus, load_corpus, recall_corpus, split
from rnn_plugins.data.vocabulary import NOUNS, Level, Unknown, Vocabulary
from rnn_plugins.errors import UserError
from rnn_plugins.language.ngrams import XZ_WINDOW, baselines, compressors

Array = NDArray[Any]

MOST_COUNTED = 10_000_000
"""Symbols that n-grams are counted on at most, so that a large training text does not fill the memory."""

LEAST_COMPRESSED = 2_000
"""Bytes that compressors are tried on at least; on less, what they say is about their headers."""

UNITS: dict[Level, str] = {"char": "character", "byte": "byte", "word": "token"}
"""What a symbol is called: at level ``word``, spaces and punctuation are symbols too, so it is no word."""

LEVEL_WITH = 0.005
"""Nats a symbol below which two losses are called the same."""

FEW_UNKNOWN = 0.01
"""The largest share of unknown symbols with which a loss still tells of the text as it is written."""


class Sizes(NamedTuple):
    """How much text was predicted; the first symbol, which nothing comes before, is read and not predicted.

    Attributes:
        symbols: characters, bytes or pieces, by the vocabulary's level.
        characters: of the text.
        bytes: of the text in UTF-8.
        words: the symbols that are words; 0 unless the level is ``word``.
    """

    symbols: int
    characters: int
    bytes: int
    words: int


class Score(NamedTuple):
    """How well something predicts a text.

    Attributes:
        name: what.
        kind: ``model``, ``ngram`` or ``compressor``.
        loss: nats a symbol.
        perplexity: exp of the loss.
        bits_per_character: bits of the whole text, divided by its characters.
        bits_per_byte: the same, divided by its bytes in UTF-8.
        perplexity_per_word: exp of the whole text's nats, divided by its words: spaces and punctuation are paid for by
            the words. None unless the level is ``word``.
    """

    name: str
    kind: Literal["model", "ngram", "compressor"]
    loss: float
    perplexity: float
    bits_per_character: float
    bits_per_byte: float
    perplexity_per_word: float | None


@dataclass(frozen=True)
class Evaluation:
    """A model's score on a text, beside the baselines'.

    Attributes:
        run: the run's name.
        text: what was predicted, in words.
        level: of the vocabulary.
        sizes: how much that is.
        scores: the model's first, then n-grams by order, then compressors.
        notices: what is to be said of it, a sentence each.
        unknown: the share of the text's symbols that the model does not know, as ``Corpus.unknown`` says.
    """

    run: str
    text: str
    level: Level
    sizes: Sizes
    scores: tuple[Score, ...]
    notices: tuple[str, ...]
    unknown: float = 0.0

    @property
    def unit(self) -> str:
        """What a symbol is called."""
        return UNITS[self.level]

    @property
    def model(self) -> Score:
        """The model's score."""
        return self.scores[0]

    def verdict(self) -> list[str]:
        """The comparison in words: with the best n-gram, and with the best compressor."""
        sentences = []
        ngrams = [score for score in self.scores if score.kind == "ngram"]
        if ngrams:
            best = min(ngrams, key=lambda score: score.loss)
            gain = best.loss - self.model.loss
            if abs(gain) < LEVEL_WITH:
                sentences.append(f"The model is level with the {best.name}: it has learnt as much as counting does.")
            elif gain > 0:
                rank = "" if len(ngrams) == 1 else ", the best of the n-grams,"
                sentences.append(f"The model beats the {best.name}{rank} by {gain:.2f} nats a {self.unit}.")
            else:
                worse = f"The {best.name} beats the model by {-gain:.2f} nats a {self.unit}"
                sentences.append(f"{worse}: it has learnt less than counting does.")
        rivals = [score for score in self.scores if score.kind == "compressor"]
        if rivals and self.unknown > FEW_UNKNOWN:
            strange = unknown_share(self.unknown, self.level)
            sentences.append(
                f"No verdict on compressors: {strange} unknown to the model, so bits per character and byte are not "
                "those of the text as it is written."
            )
        elif rivals:
            best = min(rivals, key=lambda score: score.bits_per_byte)
            gain = best.bits_per_byte - self.model.bits_per_byte
            winner, loser = ("the model", best.name) if gain > 0 else (best.name, "the model")
            sentences.append(f"{winner[0].upper()}{winner[1:]} beats {loser} by {abs(gain):.2f} bits a byte.")
        return sentences

    def to_json(self) -> dict[str, Any]:
        """All of it in JSON's types."""
        return {
            "run": self.run,
            "text": self.text,
            "level": self.level,
            **self.sizes._asdict(),
            "unknown": self.unknown,
            "scores": [_finite(score._asdict()) for score in self.scores],
            "verdict": self.verdict(),
            "notices": list(self.notices),
        }


def evaluate(run: Run, sources: Sequence[str] = (), unknown: Unknown = "replace") -> Evaluation:
    """Score a run's best weights on a text, or without one on the held-out end of the text that it was trained on.

    N-grams of orders 1 to 6 are counted on the part of its text that the run was trained on, and predict exactly the
    symbols that the model does. If that text is gone or has changed, they are left out, and a notice says why.

    Args:
        run: the run.
        sources: the text, as ``load_corpus`` takes it.
        unknown: what becomes of characters that the model has never seen.

    Raises:
        UserError: there is nothing to score, or the text has unknown characters and ``unknown`` is ``error``.
    """
    model, vocabulary = run.text_model, run.vocabulary
    parts, why = trained_on(run)
    notices = [f"{why}; so there are no n-grams to compare with"] if why else []
    if sources:
        corpus = load_corpus(sources, vocabulary=vocabulary, unknown=unknown)
        tokens, text, share = corpus.tokens, ", ".join(sources), corpus.unknown
        notices = [*corpus.notices, *notices]
        notices += remembered(run, corpus, parts)
    elif parts is None:
        raise UserError(f"{why}; give a FILE to evaluate on")
    else:
        tokens, share = parts[1], run.unknown
        text = f"the held-out last {100 * run.settings.valid_fraction:g} % of {_named(run)}"
        if not len(tokens):
            raise UserError(f"the run {run.name!r} held nothing of its text out; give a FILE to evaluate on")
    if len(tokens) < 2:
        raise UserError(
            f"{text} has only one {UNITS[vocabulary.level]}; it takes two, since the first is read and not predicted"
        )
    sizes = _sizes(vocabulary, tokens[1:])
    loss = model.evaluate(run.params(), tokens)
    if not math.isfinite(loss):
        raise UserError(f"the loss of the run {run.name!r} on {text} is {loss:g}: its training went wrong")
    if notice := run.cell_changed():
        notices.append(notice)
    scores = [_score(run.name, "model", loss * sizes.symbols, sizes)]
    content = _content(vocabulary, tokens[1:])
    compressible = len(content) >= LEAST_COMPRESSED
    if not compressible:
        notices.append(
            f"{len(content):,} bytes are too few to compare with compressors, whose own headers weigh more than that"
        )
    rivals = compressors(None, content) if compressible else {}
    if parts is not None:
        counted = parts[0]
        if len(counted) > MOST_COUNTED:
            notices.append(f"the n-grams are counted on the last {MOST_COUNTED:,} symbols of the training text")
            counted = counted[-MOST_COUNTED:]
        entropies = baselines(counted, tokens[1:], len(vocabulary), context=tokens[:1])
        scores += [_score(f"{n}-gram", "ngram", nats * sizes.symbols, sizes) for n, nats in entropies.items()]
        primed = compressors(_content(vocabulary, counted[-XZ_WINDOW:]), content) if compressible else {}
        rivals |= {f"primed {name}": bits for name, bits in primed.items()}
    scores += [_score(name, "compressor", bits * len(content) * math.log(2), sizes) for name, bits in rivals.items()]
    return Evaluation(run.name, text, vocabulary.level, sizes, tuple(scores), tuple(notices), share)


def trained_on(run: Run) -> tuple[tuple[Array, Array] | None, str]:
    """The symbols that a run was trained on and those it held out; if its text is not there any more, why."""
    settings, recorded = run.settings, run.manifest["data"]
    try:
        if "-" in settings.files:
            corpus = recall_corpus(recorded["digest"], run.vocabulary, sources=("-",), unknown=settings.unknown)
            if corpus is None:
                return None, f"the text of the run {run.name!r} came through a pipe and is kept nowhere"
        else:
            corpus = load_corpus(
                settings.files,
                vocabulary=run.vocabulary,
                unknown=settings.unknown,
                recorded=True,
                most=recorded["bytes"],
            )
    except UserError as error:
        return None, f"the text of the run {run.name!r} is not what it was: {error}"
    if corpus.digest != recorded["digest"]:
        return None, f"the text of the run {run.name!r} is not what it was: {_named(run)} has changed since"
    return split(corpus, settings.valid_fraction), ""


def unknown_share(share: float, level: Level) -> str:
    """``12.3 % of the words are``: the beginning of a clause on symbols that a model does not know."""
    return f"{100 * share:.1f} % of the {NOUNS[level]}s are"


def remembered(run: Run, corpus: Corpus, parts: tuple[Array, Array] | None) -> list[str]:
    """The sentence where a text is one that a run was trained on.

    Args:
        run: the run.
        corpus: the text.
        parts: as ``trained_on`` gives them.
    """
    if corpus.digest == run.manifest["data"]["digest"]:
        seen = "this is the whole text that the run was trained on"
    elif parts is not None and corpus.tokens.tobytes() in parts[0].tobytes():
        seen = "this text stands in the one that the run was trained on"
    else:
        return []
    told = f"{seen}, so the figures say how well it is remembered"
    return [f"{told}; rnn eval {shlex.quote(run.name)} scores the held-out end of it alone" if run.held_out else told]


def _named(run: Run) -> str:
    return ", ".join(run.manifest["data"]["sources"])


def _sizes(vocabulary: Vocabulary, tokens: Array) -> Sizes:
    return Sizes(len(tokens), *vocabulary.measure(tokens), vocabulary.words(tokens))


def _content(vocabulary: Vocabulary, tokens: Array) -> bytes:
    """The text of symbols as bytes."""
    if vocabulary.level == "byte":
        return np.asarray(tokens, np.uint8).tobytes()
    return vocabulary.decode(tokens).encode()


def _score(name: str, kind: Literal["model", "ngram", "compressor"], nats: float, sizes: Sizes) -> Score:
    bits = nats / math.log(2)
    return Score(
        name,
        kind,
        loss=nats / sizes.symbols,
        perplexity=_exp(nats / sizes.symbols),
        bits_per_character=bits / max(sizes.characters, 1),
        bits_per_byte=bits / max(sizes.bytes, 1),
        perplexity_per_word=_exp(nats / sizes.words) if sizes.words else None,
    )


def _finite(record: dict[str, Any]) -> dict[str, Any]:
    """JSON has no infinity: a perplexity too large for a number is null."""
    return {key: None if value == math.inf else value for key, value in record.items()}


def _exp(x: float) -> float:
    return math.exp(x) if x < 700 else math.inf
