"""Predict the next symbol of a text, by truncated backpropagation through time."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from minigrad.trees import Tree
from rnn_plugins.data.decoding import MARK
from rnn_plugins.data.vocabulary import NOUNS, Unknown, Vocabulary, level_of
from rnn_plugins.errors import UserError
from rnn_plugins.language import Language
from rnn_plugins.language.model import Model
from rnn_plugins.language.sampling import Choice, opening, sample, write
from rnn_plugins.tasks.blocks import WIDEST_EMBEDDING
from rnn_plugins.tasks.task import (
    Assessment,
    Batch,
    Data,
    Metric,
    Network,
    Part,
    Prediction,
    Purpose,
    Score,
    Task,
    check_ranges,
)

if TYPE_CHECKING:  # imported only where they are used, since rnn sample does not need them
    from rnn_plugins.data.corpus import Corpus
    from rnn_plugins.language.probe import TextProbe

Array = NDArray[Any]


@dataclass(frozen=True)
class LanguageModel(Task[Model]):
    """Predict the next symbol of a text.

    The training text is cut into B equal lanes; a batch is the next T symbols of each, and the carry passes from one
    batch to the next. Each epoch starts with a new carry.

    Attributes:
        seq_length: T, the steps of truncated backpropagation through time.
        level: the kind of symbols: char, byte, word, or bpe:N for N tokens of byte-pair encoding.
        valid_fraction: the share at the end of the text that is held out.
        unknown: how to treat symbols that are not in a given vocabulary.
        tie: whether the output matrix is the embedding; see ``Model``.
        embedding_dropout: the rate at which symbols are dropped from the inputs of a batch during training.
        dynamic: whether ``rnn eval`` also evaluates with weights that go on learning from the text.
    """

    seq_length: int = 64
    level: str = "char"
    valid_fraction: float = 0.1
    unknown: Unknown = "error"
    tie: bool = False
    embedding_dropout: float = 0.0
    dynamic: bool = False

    compared: ClassVar[str] = "bits_per_character"
    default_files: ClassVar[tuple[str, ...]] = ("builtin:latex",)
    of_weights: ClassVar[tuple[str, ...]] = ("level", "tie")
    of_assessment: ClassVar[tuple[str, ...]] = ("dynamic",)
    of_evaluation: ClassVar[Mapping[str, Any]] = {"unknown": "replace"}
    takes_text: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the ranges of the options.

        Raises:
            ValueError: an option is out of range.
        """
        level_of(self.level)
        check_ranges(self, {"seq_length": 1}, ["valid_fraction", "embedding_dropout"])

    @property
    def unit(self) -> str:  # type: ignore[override]
        """The noun for symbols, in the plural."""
        return f"{NOUNS[level_of(self.level)[0]]}s"

    @property
    def metrics(self) -> Mapping[str, Metric]:  # type: ignore[override]
        """The loss per symbol, and per character in nats and bits."""
        same = "loss" if self.level == "char" else ""
        return {
            "loss": Metric("nats", "min", "NATS"),
            "nats_per_character": Metric("nats per character", "min", "NATS/CHAR", word="loss", equals=same),
            "bits_per_character": Metric("bits per character", "min", "BITS/CHAR", word="loss"),
        }

    @property
    def held_out_part(self) -> str:
        """The end of the text."""
        return f"the held-out last {100 * self.valid_fraction:g} %"

    def read(self, files: Sequence[str], facts: Mapping[str, Any] | None = None, *, purpose: Purpose = "train") -> Data:
        """Read a text as the ids of its symbols: those to train on, and those held out at its end.

        The facts of a run provide its vocabulary. The facts of the result are ``vocabulary``, ``opening`` (read but not
        printed before a text without a prime), ``characters_per_symbol`` of both parts, the share ``unknown``, the
        text's digest and size (``text``), and whether its vocabulary was another run's (``lent``).

        Raises:
            UserError: as ``load_corpus``, or there are fewer than two symbols to train on.
        """
        from rnn_plugins.data.corpus import load_corpus, split

        if not files:
            raise UserError("there is no text: name a FILE, such as builtin:latex")
        known = vocabulary_of(facts) if facts else None
        if facts and known and purpose in ("again", "resume"):
            corpus = self._once_more(files, facts, known, purpose)
        else:
            corpus = load_corpus(
                files, level=self.level, valid_fraction=self.valid_fraction, vocabulary=known, unknown=self.unknown
            )
        if purpose == "evaluate":
            if len(corpus.tokens) < 2:
                raise UserError(
                    f"{', '.join(files)} has only one {NOUNS[corpus.vocabulary.level]}; expected at least two, since "
                    "the first is not predicted"
                )
            return self._data(corpus, corpus.tokens[:0], corpus.tokens)
        training, held_out = split(corpus, self.valid_fraction)
        if len(training) < 2:
            raise UserError(
                f"of {len(corpus.tokens):,} symbols, --valid-fraction {self.valid_fraction:g} leaves "
                f"{len(training)} to train on; expected at least 2: lower it, or use a longer text"
            )
        lent = (purpose == "train" and known is not None) or bool(facts and facts.get("lent"))
        return self._data(corpus, training, held_out, lent)

    def _once_more(self, files: Sequence[str], facts: Mapping[str, Any], known: Vocabulary, purpose: Purpose) -> Corpus:
        """The text of a run; if it was read from standard input, from the cache."""
        from rnn_plugins.data.corpus import load_corpus, recall_corpus

        text = facts["text"]
        if "-" in files:
            kept = recall_corpus(text["digest"], known, sources=files, unknown=self.unknown)
            if kept:
                return kept
            if purpose == "again":
                raise UserError("they came through a pipe and were not saved")
        # In older versions, carriage returns and byte order marks were symbols.
        older = not {"\r", MARK}.isdisjoint(known.symbols)
        corpus = load_corpus(
            files,
            level=self.level,
            valid_fraction=self.valid_fraction,
            vocabulary=known if facts.get("lent") or older or purpose == "again" else None,
            unknown=self.unknown,
            recorded=purpose == "again",
            most=text["bytes"] if purpose == "again" else None,
        )
        if corpus.digest == text["digest"] and corpus.vocabulary != known:
            return load_corpus(files, vocabulary=known, unknown=self.unknown)
        return corpus

    def _data(self, corpus: Corpus, training: Array, held_out: Array, lent: bool = False) -> Data:
        vocabulary, notices = corpus.vocabulary, list(corpus.notices)
        if len(training) and len(held_out) < 2:
            if self.valid_fraction:
                notices.append("the text is too short to hold some of it out")
            held_out = held_out[:0]  # a single symbol cannot be predicted
        facts = {
            "vocabulary": vocabulary.to_json(),
            "opening": opening(vocabulary, training),
            "characters_per_symbol": {
                "train": vocabulary.characters_per_symbol(training[1:]),
                "valid": vocabulary.characters_per_symbol(held_out[1:]),
            },
            "unknown": corpus.unknown,
            "text": {"digest": corpus.digest, "bytes": corpus.bytes, "characters": corpus.characters},
            "lent": lent,
        }
        about = f"{corpus.characters:,} characters, a vocabulary of {len(vocabulary):,}"
        return Data(training, held_out, facts, corpus.sources, corpus.digest, about, tuple(notices))

    def with_held_out(self, data: Data, held_out: Data) -> Data:
        """The data with another text held out."""
        ratio = "characters_per_symbol"
        facts = {**data.facts, ratio: {**data.facts[ratio], "valid": held_out.facts[ratio]["valid"]}}
        return replace(data, valid=held_out.valid, facts=facts)

    def check_facts(self, facts: Mapping[str, Any]) -> Mapping[str, Any]:
        """Check the vocabulary, the opening, the range of the ratios, and the digest and size of the text.

        Raises:
            ValueError: they are not valid.
        """
        opening_of(facts, vocabulary_of(facts))
        for part in ("train", "valid"):
            ratio = facts["characters_per_symbol"][part]
            if not (type(ratio) in (int, float) and 0 < ratio < 1e300):
                raise ValueError(f"characters_per_symbol has {reprlib.repr(ratio)}; expected a number above 0")
        unknown, text = facts["unknown"], facts["text"]
        if not (type(unknown) in (int, float) and 0 <= unknown <= 1):
            raise ValueError(f"unknown is {reprlib.repr(unknown)}; expected a share between 0 and 1")
        if not (isinstance(text["digest"], str) and type(text["bytes"]) is int):
            raise ValueError("the text has no digest or no size in bytes")
        return facts

    def resolve(self, facts: Mapping[str, Any], network: Network) -> Network:
        """The network with the width of its embedding: as given, or a default; never one-hot unless that is given.

        An embedding learns faster even where there are few symbols: docs/recipes.md has the comparison.

        Raises:
            UserError: the embedding is to be tied, and there is none.
        """
        if self.tie and network.embedding_size == 0:
            raise UserError(
                "--tie makes the embedding the output matrix, and with --embedding-size 0 there is none: leave one of "
                "them out"
            )
        default = network.hidden_size if self.tie else min(network.hidden_size, WIDEST_EMBEDDING)
        return network if network.embedding_size is not None else replace(network, embedding_size=default)

    def model(self, facts: Mapping[str, Any], network: Network) -> Model:
        """Embedding or one-hot, the cell, a linear head."""
        network, symbols = self.resolve(facts, network), len(vocabulary_of(facts))
        embedding = network.embedding_size or 0
        cell = network.make_cell(embedding or symbols)
        return Model(
            cell,
            symbols,
            embedding,
            network.dropout,
            network.variational_dropout,
            network.dtype,
            self.tie,
            self.embedding_dropout,
        )

    def fit(self, data: Data, size: int) -> tuple[LanguageModel, int, str]:
        """Reduce sequence length and batch size if the text is too short for them."""
        pairs = len(data.train) - 1
        length = min(self.seq_length, pairs)
        lanes = max(1, min(size, pairs // length))
        reduced = [
            f"the {name} from {asked} to {used}"
            for name, asked, used in (("sequence length", self.seq_length, length), ("batch size", size, lanes))
            if used < asked
        ]
        notice = ""
        if reduced:
            what = " and ".join(reduced)
            notice = f"the text is short ({pairs + 1:,} symbols to train on), which reduces {what}"
        return replace(self, seq_length=length), lanes, notice

    def steps_per_epoch(self, data: Data, size: int) -> int:
        """Batches along a lane, without the last, incomplete one."""
        return (len(data.train) - 1) // size // self.seq_length

    def units_per_step(self, data: Data, size: int) -> float:
        """T times B."""
        return self.seq_length * size

    def batch(self, data: Data, step: int, size: int, rows: slice = slice(None)) -> Batch:
        """The next T symbols of each lane and those after them, both (T, B)."""
        start = step % self.steps_per_epoch(data, size) * self.seq_length
        lanes = np.arange(size)[rows] * ((len(data.train) - 1) // size)
        tokens = np.asarray(data.train[lanes + np.arange(start, start + self.seq_length + 1)[:, None]], np.intp)
        return Batch(tokens[:-1], tokens[1:], tokens[1:].size)

    def evaluate(self, model: Model, params: Tree, examples: Array) -> dict[str, float]:
        """The mean of -log p(symbol) over a text, read in sequence."""
        return {"loss": model.evaluate(params, examples)}

    def derived(self, metrics: Mapping[str, float], facts: Mapping[str, Any], part: Part = "valid") -> dict[str, float]:
        """Nats and bits per character of the predicted symbols."""
        nats = metrics["loss"] / facts["characters_per_symbol"][part]
        return {"nats_per_character": nats, "bits_per_character": nats / math.log(2)}

    def seen(self, units: float, facts: Mapping[str, Any]) -> tuple[float, str]:
        """Characters of the training text."""
        return units * facts["characters_per_symbol"]["train"], "characters"

    def comparable(self, runs: Mapping[str, tuple[Task, Mapping[str, Any]]]) -> tuple[list[str], list[str]]:
        """Why runs on the same text cannot be compared: other held-out shares or vocabularies."""
        from rnn_plugins.language.assessment import comparable

        return comparable(runs)

    def contains(self, training: Array, examples: Array) -> bool:
        """Whether a text is part of another one."""
        return examples.tobytes() in training.tobytes()

    def guessing(self, facts: Mapping[str, Any]) -> float:
        """The loss of uniform guessing among all symbols, ln V nats."""
        return math.log(len(vocabulary_of(facts)))

    def assess(self, model: Model, params: Tree, data: Data, *, name: str, training: Any = None) -> Assessment:
        """The model's metrics, and those of n-grams counted on the training text and of compressors.

        Raises:
            UserError: the loss is not finite, or ``dynamic`` is set and there is no training text.
        """
        from rnn_plugins.language.assessment import assess

        vocabulary = vocabulary_of(data.facts)
        return assess(model, params, vocabulary, data, name=name, training=training, dynamic=self.dynamic)

    def baselines(self, model: Model, data: Data) -> tuple[Score, ...]:
        """Those of n-grams counted on the training text."""
        from rnn_plugins.language.assessment import ngrams

        return tuple(ngrams(vocabulary_of(data.facts), data.train, data.valid))

    def excerpt(self, model: Model, params: Tree, data: Data, size: int, rng: np.random.Generator) -> str:
        """A text of ``size`` characters.

        Raises:
            UserError: the model's scores are not finite.
        """
        language = self.language(model, data.facts)
        choice = Choice(never=language.vocabulary.unwritten)
        symbols = sample(language.model, params, language.opening, choice, rng)
        return "".join(write(symbols, language.vocabulary, size))

    def inputs(self, file: str, facts: Mapping[str, Any]) -> Iterator[str]:
        """The lines of a file, each a text of its own.

        Raises:
            UserError: the file cannot be read, or is not text.
        """
        from rnn_plugins.data.lines import lines

        return lines(file)

    def predict(
        self,
        model: Model,
        params: Tree,
        facts: Mapping[str, Any],
        inputs: Iterable[str],
        *,
        top: int = 1,
        explain: bool = False,
    ) -> Iterator[Prediction]:
        """The likeliest next symbols after each text, and what in it speaks for the likeliest."""
        from rnn_plugins.language.predicting import next_symbols

        return next_symbols(self.language(model, facts), params, inputs, top, self.unknown, explain)

    def probe(self, model: Model, params: Tree, examples: Array, facts: Mapping[str, Any]) -> TextProbe:
        """The model along a text."""
        from rnn_plugins.language.probe import TextProbe

        return TextProbe(model, params, examples, vocabulary_of(facts))

    def language(self, model: Model, facts: Mapping[str, Any]) -> Language:
        """The model with its vocabulary."""
        vocabulary = vocabulary_of(facts)
        return Language(model, vocabulary, tuple(opening_of(facts, vocabulary)))


def vocabulary_of(facts: Mapping[str, Any]) -> Vocabulary:
    """The vocabulary of a model with these facts.

    Raises:
        ValueError: they are damaged.
    """
    return Vocabulary.from_json(facts["vocabulary"])


def opening_of(facts: Mapping[str, Any], vocabulary: Vocabulary) -> list[int]:
    """The symbols that are read, but not printed, before a text without a prime (see ``language.sampling.opening``).

    Raises:
        ValueError: they are not in the vocabulary.
    """
    symbols = [int(symbol) for symbol in facts.get("opening", [])]
    if max(symbols, default=0) >= len(vocabulary):
        raise ValueError("its opening has symbols beyond its vocabulary")
    return symbols
