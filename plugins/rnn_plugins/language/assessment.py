"""How well a language model predicts a text, compared with n-grams and compressors on the same symbols."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from minigrad.trees import Tree
from rnn_plugins.data.vocabulary import NOUNS, TextLevel, Vocabulary, level_of
from rnn_plugins.errors import UserError
from rnn_plugins.language.dynamic import evaluate_dynamically
from rnn_plugins.language.model import Model
from rnn_plugins.language.ngrams import XZ_WINDOW, baselines, compressors
from rnn_plugins.progress import begin
from rnn_plugins.tasks.task import Assessment, Data, Metric, Score
from rnn_plugins.words import percent

Array = NDArray[Any]

MOST_COUNTED = 10_000_000
"""Maximum number of symbols to count n-grams on, to limit memory."""

LEAST_COMPRESSED = 2_000
"""Minimum number of bytes for compressors; below it their headers dominate the size."""

UNITS: dict[TextLevel, str] = {"char": "character", "byte": "byte", "word": "token", "bpe": "token"}
"""The noun for a symbol: at level ``word``, spaces and punctuation are symbols too, so it is a token."""

LEVEL_WITH = 0.005
"""Difference in nats per symbol below which two losses count as equal."""

FEW_UNKNOWN = 0.01
"""The largest share of unknown symbols for which a loss still describes the original text."""


class Sizes(NamedTuple):
    """The amount of predicted text; the first symbol is not predicted.

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


def assess(
    model: Model,
    params: Tree,
    vocabulary: Vocabulary,
    data: Data,
    *,
    name: str,
    training: Array | None,
    dynamic: bool = False,
) -> Assessment:
    """Score a model on a text, and n-grams of orders 1 to 6 and compressors on exactly the same symbols.

    The columns are the loss in nats per symbol, and per character where these are not the symbols, its perplexity, at
    level ``word`` the perplexity per word (the whole text's nats divided by its words: spaces and punctuation are paid
    for by the words), and bits per character and per byte of the text in UTF-8.

    Args:
        model: the model.
        params: its parameters.
        vocabulary: its symbols.
        data: the text in ``valid``, and the share of symbols unknown to the model in its facts.
        name: the model's name.
        training: the training symbols, for the n-grams; None to leave the n-grams out.
        dynamic: whether to score the model also as it goes on learning from the text.

    Raises:
        UserError: the loss is not finite, or ``dynamic`` is set and there are no training symbols.
    """
    if dynamic and training is None:
        raise UserError(
            f"dynamic evaluation measures gradients on the training text of the run {name!r}, which is gone or has "
            "changed: put it back, or leave --dynamic out"
        )
    tokens = data.valid
    unit = UNITS[vocabulary.level]
    sizes = _sizes(vocabulary, tokens)
    loss = model.evaluate(params, tokens)
    if not math.isfinite(loss):
        text = ", ".join(data.sources)
        raise UserError(f"the loss of the run {name!r} on {text} is {loss:g}: its training went wrong")
    scores, notices = [_score(name, "model", loss * sizes.symbols, sizes)], []
    if dynamic:
        assert training is not None
        begin("evaluating dynamically")
        adapted = evaluate_dynamically(model, params, tokens, training)
        scores.append(_score("dynamic", "dynamic", adapted * sizes.symbols, sizes))
    content = _content(vocabulary, tokens[1:])
    if len(content) < LEAST_COMPRESSED:
        notices.append(
            f"{len(content):,} bytes are too few to compare with compressors, whose own headers weigh more than that"
        )
    rivals = _compressed(None, content)
    if training is not None:
        if len(training) > MOST_COUNTED:
            notices.append(f"the n-grams are counted on the last {MOST_COUNTED:,} symbols of the training text")
        begin("counting n-grams")
        scores += _ngrams(vocabulary, training, tokens, sizes)
        primed = _compressed(_content(vocabulary, training[-XZ_WINDOW:]), content)
        rivals |= {f"primed {name}": bits for name, bits in primed.items()}
    scores += [_score(name, "compressor", bits * len(content) * math.log(2), sizes) for name, bits in rivals.items()]
    metrics = {
        "loss": Metric("nats", "min", f"NATS/{'CHAR' if unit == 'character' else unit.upper()}"),
        "nats_per_character": Metric("nats per character", "min", "NATS/CHAR"),
        "perplexity": Metric("", "min", "PERPLEXITY", 2),
        "perplexity_per_word": Metric("", "min", "PPL/WORD", 2),
        "bits_per_character": Metric("bits per character", "min", "BITS/CHAR"),
        "bits_per_byte": Metric("bits per byte", "min", "BITS/BYTE"),
    }
    if not sizes.words:
        del metrics["perplexity_per_word"]
    if unit == "character":
        del metrics["nats_per_character"]
    unknown = float(data.facts["unknown"])
    return Assessment(
        tuple(scores),
        metrics,
        sizes.symbols,
        f"{unit}s",
        tuple(verdict(scores, unit, unknown, vocabulary.level)),
        tuple(notices),
        {"level": vocabulary.level, **sizes._asdict(), "unknown": unknown},
        asked=1 if dynamic else 0,
    )


def ngrams(vocabulary: Vocabulary, training: Array, tokens: Array) -> list[Score]:
    """The scores of n-grams of orders 1 to 6 on a text.

    Args:
        vocabulary: of both texts.
        training: the symbols on which they are counted, of which the last ``MOST_COUNTED`` count.
        tokens: the text; its first symbol is not predicted.
    """
    return _ngrams(vocabulary, training, tokens, _sizes(vocabulary, tokens))


def _ngrams(vocabulary: Vocabulary, training: Array, tokens: Array, sizes: Sizes) -> list[Score]:
    """As ``ngrams``, of a text of known size."""
    entropies = baselines(training[-MOST_COUNTED:], tokens[1:], len(vocabulary), context=tokens[:1])
    return [_score(f"{n}-gram", "ngram", nats * sizes.symbols, sizes) for n, nats in entropies.items()]


def verdict(scores: Sequence[Score], unit: str, unknown: float, level: TextLevel) -> list[str]:
    """The comparison in words: with the best n-gram, and with the best compressor."""

    def best_of(kind: str, metric: str) -> tuple[Score | None, float]:
        """The best baseline of a kind, and by how much the model is better."""
        rivals = [score for score in scores if score.kind == kind]
        best = min(rivals, key=lambda score: _number(score, metric), default=None)
        return best, _number(best, metric) - _number(scores[0], metric) if best else 0.0

    sentences = []
    adapted, gain = best_of("dynamic", "loss")
    if adapted:
        change = "raises" if gain > 0 else "lowers"
        changed = f"{change} the loss by {abs(gain):.3f} nats per {unit}" if abs(gain) >= 5e-4 else "changes nothing"
        sentences.append(f"Learning from the text while it is predicted (dynamic evaluation) {changed}.")
    best, gain = best_of("ngram", "loss")
    if best:
        if abs(gain) < LEVEL_WITH:
            sentences.append(f"The model is level with the {best.name}: it has learnt as much as counting does.")
        elif gain > 0:
            single = sum(score.kind == "ngram" for score in scores) == 1
            rank = "" if single else ", the best of the n-grams,"
            sentences.append(f"The model beats the {best.name}{rank} by {gain:.2f} nats per {unit}.")
        else:
            worse = f"The {best.name} beats the model by {-gain:.2f} nats per {unit}"
            sentences.append(f"{worse}: it has learnt less than counting does.")
    best, gain = best_of("compressor", "bits_per_byte")
    if best and unknown > FEW_UNKNOWN:
        sentences.append(
            f"No verdict on compressors: {unknown_share(unknown, level)} unknown to the model, so bits per character "
            "and byte are not those of the text as it is written."
        )
    elif best:
        winner, loser = ("the model", best.name) if gain > 0 else (best.name, "the model")
        sentences.append(f"{winner[0].upper()}{winner[1:]} beats {loser} by {abs(gain):.2f} bits per byte.")
    return sentences


def comparable(runs: Mapping[str, tuple[Any, Mapping[str, Any]]]) -> tuple[list[str], list[str]]:
    """Why language models trained on the same text cannot be compared, and what else to know of them.

    Args:
        runs: task and facts of each, by its name.
    """
    unfair, remarks = [], []
    if len(shares := {f"{task.valid_fraction:.3g}" for task, _ in runs.values()}) > 1:
        unfair.append(f"the runs do not hold out the same share of the text ({', '.join(sorted(shares))})")
    symbols = {(str(facts["vocabulary"]), task.unknown) for task, facts in runs.values()}
    if len(symbols) > 1:  # each leaves out, or reads as one, what it does not know
        unfair += [
            f"{unknown_share(facts['unknown'], level_of(task.level)[0])} unknown to the run {name!r}, so its bits per "
            "character are not those of the text as it is written"
            for name, (task, facts) in runs.items()
            if facts["unknown"] > FEW_UNKNOWN
        ]
    if len({task.level for task, _ in runs.values()}) > 1:
        remarks.append("the runs read symbols of different kinds, which only bits per character make comparable")
    return unfair, remarks


def unknown_share(share: float, level: TextLevel) -> str:
    """``12.3 % of the words are``: the beginning of a clause on symbols that a model does not know."""
    return f"{percent(share)} of the {NOUNS[level]}s are"


def _sizes(vocabulary: Vocabulary, tokens: Array) -> Sizes:
    """The amount of text that is predicted of a text."""
    return Sizes(len(tokens) - 1, *vocabulary.measure(tokens[1:]), vocabulary.words(tokens[1:]))


def _compressed(training: bytes | None, content: bytes) -> dict[str, float]:
    """As ``compressors``; nothing for a text that is too short."""
    if len(content) < LEAST_COMPRESSED:
        return {}
    begin("compressing the text" if training is None else "compressing the text after that of training")
    return compressors(training, content)


def _content(vocabulary: Vocabulary, tokens: Array) -> bytes:
    """The text of symbols as bytes."""
    if vocabulary.level == "byte":
        return np.asarray(tokens, np.uint8).tobytes()
    return vocabulary.decode(tokens).encode()


def _score(name: str, kind: Literal["model", "dynamic", "ngram", "compressor"], nats: float, sizes: Sizes) -> Score:
    bits = nats / math.log(2)
    return Score(
        name,
        kind,
        {
            "loss": nats / sizes.symbols,
            "nats_per_character": nats / max(sizes.characters, 1),
            "perplexity": _exp(nats / sizes.symbols),
            "bits_per_character": bits / max(sizes.characters, 1),
            "bits_per_byte": bits / max(sizes.bytes, 1),
            "perplexity_per_word": _exp(nats / sizes.words) if sizes.words else None,
        },
    )


def _number(score: Score, metric: str) -> float:
    value = score.metrics[metric]
    assert value is not None
    return value


def _exp(x: float) -> float:
    return math.exp(x) if x < 700 else math.inf
