"""Predict a label at every step: tags of words, phases of frames."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from minigrad import softmax
from minigrad.trees import Tree
from rnn_cells import Bidirectional, Cell, Stacked
from rnn_cells.ablated import Ablated
from rnn_plugins.data import tagged
from rnn_plugins.data.lines import Hash, lines
from rnn_plugins.data.splits import split
from rnn_plugins.data.tagged import NOUNS, Encoder, Example, Scale, Tagged
from rnn_plugins.data.tokens import Tokens
from rnn_plugins.data.vectors import width_of
from rnn_plugins.errors import UserError
from rnn_plugins.tasks import blocks
from rnn_plugins.tasks.blocks import Symbols
from rnn_plugins.tasks.metrics import accuracy, macro_f1
from rnn_plugins.tasks.tag.model import Attention, Speller, Tagger, pack, surprise
from rnn_plugins.tasks.task import (
    AT_ONCE,
    SHARE,
    Assessment,
    Batch,
    Data,
    Metric,
    Network,
    Prediction,
    Purpose,
    Score,
    Task,
    check_ranges,
)
from rnn_plugins.words import amount

if TYPE_CHECKING:
    from rnn_plugins.reports.probe import Probe

Array: TypeAlias = NDArray[Any]

LETTER_WIDTH = 32
"""The width of an embedding of letters."""

TOGETHER = 1 << 14
"""Steps of a batch of ``evaluate`` and ``predict``, with padding."""


@dataclass(frozen=True)
class Tag(Task[Tagger]):
    """A label at every step: part-of-speech tags, entities, phases of a movement.

    Files have a token per line, in columns after CoNLL, and a blank line after each sentence; or they are CSV
    (``.csv``, ``.csv.gz``) with a frame of numbers per row and a column of labels, one file per sequence. The network
    reads words by an embedding, and if asked by their characters, or frames that are standardised by the mean and the
    deviation of the training part.

    Attributes:
        directions: 1 reads from the first step to the last; 2 also from the last to the first.
        characters: units of a recurrent encoder of each word's characters, per direction; 0 for none.
        attention: luong also attends to the other steps of the same sequence, each with the network's outputs.
        word_dropout: the rate at which words that occur once become the unknown word in training, so that it is learnt.
        max_words: the number of words in a vocabulary, the commonest; 0 for all.
        lower: whether embeddings of words ignore case; characters never do.
        embedding: a file of word vectors in the text format of GloVe or word2vec, to begin with.
        freeze: whether those vectors are not trained.
        weighted: whether each label's weight in the loss is inversely proportional to its frequency.
        seq_length: cuts training sequences into pieces of at most so many steps; 0 leaves them whole.
        text_column: the number of the column of tokens, from 1; by default the first.
        label_column: the number of the column of tags, by default the last; of frames the name, by default label.
        differences: whether the change of each number since the frame before is read too.
        scale: what frames are standardised by, the training part alone, or first each recording by itself.
        time_column: the name of a column of times in frames, which is left out; by default one that is called so.
        valid_fraction: the share of the sequences that is held out.
    """

    directions: Literal[1, 2] = 2
    characters: int = 0
    attention: Attention = "none"
    word_dropout: float = 0.5
    max_words: int = 0
    lower: bool = False
    embedding: str = ""
    freeze: bool = False
    weighted: bool = False
    seq_length: int = 0
    text_column: str = ""
    label_column: str = ""
    differences: bool = False
    scale: Scale = "training"
    time_column: str = ""
    valid_fraction: float = 0.1

    unit: ClassVar[str] = "labels"
    best: ClassVar[tuple[str, Literal["min", "max"]]] = ("accuracy", "max")
    metrics: ClassVar[Mapping[str, Metric]] = {
        "accuracy": Metric("", "max", "ACCURACY", SHARE),
        "macro_f1": Metric("", "max", "MACRO-F1", SHARE, "macro-F1"),
        "loss": Metric("nats", "min", "NATS"),
    }
    of_weights: ClassVar[tuple[str, ...]] = (
        "directions",
        "characters",
        "attention",
        "max_words",
        "lower",
        "embedding",
        "differences",
        "scale",
    )
    takes_text: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the ranges of the options.

        Raises:
            ValueError: an option is out of range.
        """
        check_ranges(self, {"characters": 0, "max_words": 0, "seq_length": 0}, ["word_dropout", "valid_fraction"])
        blocks.check_freeze(self.freeze, self.embedding)

    # Data

    def read(self, files: Sequence[str], facts: Mapping[str, Any] | None = None, *, purpose: Purpose = "train") -> Data:
        """Read sequences with their labels.

        The facts are those of ``Encoder``; of tokens also ``seen_once``, the first id of the words that occur once in
        training, and ``vectors``, the width of pretrained vectors or 0.

        Raises:
            UserError: a file cannot be read, its labels or columns are not those of the training data, or there is
                nothing to learn.
        """
        if not files:
            raise UserError("there is nothing to read: name files with a token and its tag per line, or CSV of frames")
        digest = hashlib.sha256()
        found = [sequence for file in files for sequence in self._sequences(file, facts, digest=digest)]
        for sequence in found:
            if sequence.kind != found[0].kind:
                raise UserError(
                    f"{found[0].file} has {found[0].kind}, and {sequence.file} has {sequence.kind}: give files of one "
                    "kind"
                )
        fraction = 0.0 if purpose == "evaluate" else self.valid_fraction
        train, valid = ([found[i] for i in part] for part in split(len(found), fraction))
        notices: list[str] = []
        if facts is None:
            facts = self._facts(found, train, notices)
        encoder, (step, noun) = Encoder(facts, weighted=self.weighted), NOUNS[found[0].kind]
        if purpose == "evaluate":
            train, valid = [], found
        elif fraction and not valid:
            notices.append(f"{amount(len(found), noun)} cannot be divided")
        if found[0].timed and purpose != "evaluate":
            notices.append("the column of times is left out")
        steps = amount(sum(map(len, found)), step)
        about = f"{amount(len(found), noun)} with {steps} and {len(encoder.labels)} labels"
        return Data(
            [piece for sequence in train for piece in encoder.labelled(sequence).pieces(self.seq_length)],
            [encoder.labelled(sequence) for sequence in valid],
            facts,
            tuple(files),
            digest.hexdigest(),
            about,
            tuple(notices),
        )

    def _sequences(
        self,
        file: str,
        facts: Mapping[str, Any] | None,
        *,
        labelled: bool = True,
        digest: Hash | None = None,
        content: Iterator[str] | None = None,
    ) -> Iterator[Tagged]:
        """The sequences of a file, of the kind of the facts; without facts by the file's name."""
        kind = tagged.is_frames(file) if facts is None else facts["kind"] == "frames"
        columns = {name: getattr(self, name) for name in ("text_column", "label_column", "time_column")}
        return tagged.read(file, frames=kind, **columns, labelled=labelled, digest=digest, content=content)

    def _facts(self, found: Sequence[Tagged], train: Sequence[Tagged], notices: list[str]) -> dict[str, Any]:
        """The facts of new data: the labels, and the vocabulary or the scale, of the training part."""
        counts = Counter(label for sequence in train for label in sequence.labels)
        labels = sorted(counts)
        for sequence in found:
            for step, label in enumerate(sequence.labels):
                if not counts[label]:
                    raise sequence.mistake(
                        step,
                        f"only the held-out part has the label {label!r}; expected it in the training part too: hold "
                        "out another share, with --valid-fraction, or give --valid FILE",
                    )
        if len(labels) < 2:
            raise UserError(f"{found[0].file}: every label is {labels[0]!r}; expected two labels at least")
        facts = {"kind": found[0].kind, "labels": labels, "counts": [counts[label] for label in labels]}
        if found[0].frames is not None:
            columns = found[0].columns
            for sequence in found:
                tagged.require_columns(sequence, columns)
            how = {"differences": self.differences, "scale": self.scale}
            read = (tagged.features(s.frames, self.differences, self.scale) for s in train if s.frames is not None)
            values = np.concatenate([*read])
            mean, deviation = values.mean(0).tolist(), tagged.deviation(values).tolist()
            return facts | how | {"columns": list(columns), "mean": mean, "deviation": deviation}
        texts = [sequence.tokens for sequence in train]
        words = Tokens.build(texts, "word", limit=self.max_words, lower=self.lower)
        occurring = Counter(word for text in texts for word in words.pieces(text))
        once = sum(occurring[word] == 1 for word in words.symbols[1:])
        letters = Tokens.build((token for text in texts for token in text), "char") if self.characters else None
        width = 0
        if self.embedding:
            width, told = width_of(self.embedding, words.symbols, words.specials)
            notices.append(told)
        return facts | {
            "words": words.to_json(),
            "letters": letters and letters.to_json(),
            "seen_once": len(words) - once,
            "vectors": width,
        }

    def check_facts(self, facts: Mapping[str, Any]) -> Mapping[str, Any]:
        """Check labels, vocabularies and scale.

        Raises:
            ValueError: they are not valid.
        """
        labels = facts["labels"]
        if not all(isinstance(label, str) for label in labels) or len(set(labels)) < max(len(labels), 2):
            raise ValueError("its labels are not two different texts or more")
        encoder = Encoder(facts)
        if encoder.words is not None and not all(
            type(facts[name]) is int and facts[name] >= 0 for name in ("seen_once", "vectors")
        ):
            raise ValueError("seen_once or vectors is not a whole number")
        return facts

    # The network

    def resolve(self, facts: Mapping[str, Any], network: Network) -> Network:
        """The network with the width of its embedding: as given, that of vectors, a default for words, 0 for frames."""
        if network.embedding_size is not None:
            return network
        width = 0
        if facts["kind"] == "tokens":
            width = facts["vectors"] or min(network.hidden_size, blocks.WIDEST_EMBEDDING)
        return replace(network, embedding_size=width)

    def model(self, facts: Mapping[str, Any], network: Network) -> Tagger:
        """Embedding or frames, an encoder of letters, the cell in one or two directions, attention, a linear head.

        Raises:
            UserError: an embedding size does not suit the inputs.
        """
        network, encoder = self.resolve(facts, network), Encoder(facts)
        size, words, speller, vectors = network.embedding_size or 0, None, None, None
        if encoder.words is None:
            blocks.no_embedding(network, "the inputs are frames of numbers")
            width = len(encoder.features)
        else:
            count = len(encoder.words)
            blocks.require_width(size, count, "words", facts["vectors"], self.embedding)
            words = Symbols(len(encoder.words), size, network.dtype)
            width = words.input_size
            if facts["vectors"]:
                vectors = blocks.Vectors(self.embedding, encoder.words.symbols, self.freeze)
            if encoder.letters is not None:
                letters = Symbols(len(encoder.letters), LETTER_WIDTH, network.dtype)
                one = _narrow(network.make_cell(LETTER_WIDTH), self.characters)
                speller = Speller(letters, Bidirectional(one, one))
                width += speller.cell.output_size
        return Tagger(
            blocks.recurrent(network, width, self.directions),
            len(encoder.labels),
            words,
            speller,
            self.attention,
            facts.get("seen_once", 0),
            self.word_dropout,
            vectors,
            network.dropout,
            network.variational_dropout,
            network.dtype,
        )

    def count(self, examples: Any) -> int:
        """The number of labels."""
        return sum(len(example.tags) for example in examples)

    def length(self, example: Example) -> int:
        """The number of steps."""
        return len(example.tags)

    def pack(self, examples: Sequence[Example]) -> Batch:
        """Sequences side by side."""
        return pack(examples)

    # Metrics

    def evaluate(self, model: Tagger, params: Tree, examples: Sequence[Example]) -> dict[str, float]:
        """Accuracy and macro-F1 of all labels, and the mean of -log p(label) with the weights of training."""
        found = np.concatenate([*self.scores(model, params, examples)])
        tags, weights = (np.concatenate([getattr(e, name) for e in examples]) for name in ("tags", "weights"))
        nats, guessed = np.asarray(surprise(found, tags), np.float64), found.argmax(-1)
        return {
            "loss": float(nats @ weights / weights.sum(dtype=np.float64)),
            "accuracy": accuracy(tags, guessed),
            "macro_f1": macro_f1(tags, guessed),
        }

    def scores(self, model: Tagger, params: Tree, examples: Sequence[Example]) -> list[Array]:
        """The scores (T, K) of each example, in order; those of like length are computed together."""
        found = [np.zeros((0, 0))] * len(examples)
        order = sorted(range(len(examples)), key=lambda i: len(examples[i].tags))
        while order:
            some = order[-max(1, TOGETHER // max(1, len(examples[order[-1]].tags))) :]
            del order[-len(some) :]
            inputs = pack([examples[i] for i in some]).inputs
            scores = np.asarray(model.scores(params, inputs))
            for column, i in enumerate(some):
                found[i] = scores[: inputs.lengths[column], column]
        return found

    def guessing(self, facts: Mapping[str, Any]) -> float:
        """The loss of uniform guessing, ln K nats."""
        return math.log(len(facts["labels"]))

    def contains(self, training: Sequence[Example], examples: Sequence[Example]) -> bool:
        """Whether all the examples are among those of training."""
        known = {(example.tokens, example.xs.tobytes(), example.tags.tobytes()) for example in training}
        pieces = (piece for example in examples for piece in example.pieces(self.seq_length))
        return all((piece.tokens, piece.xs.tobytes(), piece.tags.tobytes()) in known for piece in pieces)

    def assess(self, model: Tagger, params: Tree, data: Data, *, name: str, training: Any = None) -> Assessment:
        """The model's metrics, those of the commonest labels, F1 of entities, and figures by label."""
        from rnn_plugins.tasks.tag.results import assess

        guessed = [scores.argmax(-1) for scores in self.scores(model, params, data.valid)]
        return assess(self, self.evaluate(model, params, data.valid), guessed, data, name, training)

    def baselines(self, model: Tagger, data: Data) -> tuple[Score, ...]:
        """Those of the commonest label."""
        from rnn_plugins.tasks.tag.results import commonest, score

        return (score(*commonest(data), data),)

    # Use

    def inputs(self, file: str, facts: Mapping[str, Any]) -> Iterator[Tagged | str]:
        """The sequences of a file, whose labels are not needed; standard input may also have a sentence per line.

        Raises:
            UserError: the file cannot be read or has something else.
        """
        content: Iterator[str] | None = None
        if file == "-" and facts["kind"] == "tokens":
            columns, content = tagged.columns_or_texts(lines(file))
            if not columns:
                return content
        return self._sequences(file, facts, labelled=False, content=content)

    def predict(
        self,
        model: Tagger,
        params: Tree,
        facts: Mapping[str, Any],
        inputs: Iterable[Any],
        *,
        top: int = 1,
        explain: bool = False,
    ) -> Iterator[Prediction]:
        """The labels of each sequence: a text, a list of tokens, or an array of frames (T, F)."""
        from rnn_plugins.tasks.tag.results import example_of, explanation, prediction

        encoder = Encoder(facts)
        for some in blocks.chunks(inputs, AT_ONCE):
            examples = [example_of(given, encoder) for given in some]
            for given, example, scores in zip(some, examples, self.scores(model, params, examples), strict=True):
                found = prediction(given, example, np.asarray(softmax(scores)), encoder, top)
                if explain and len(scores):
                    figure = explanation(model, params, example, scores.argmax(-1), encoder)
                    found = found._replace(figures=(figure,))
                yield found

    def excerpt(self, model: Tagger, params: Tree, data: Data, size: int, rng: np.random.Generator) -> str | None:
        """Held-out sequences with their predicted labels, and the true ones where they differ."""
        from rnn_plugins.tasks.tag.results import compared

        if not data.valid:
            return None
        text, encoder = "", Encoder(data.facts)
        for i in rng.permutation(len(data.valid)).tolist():
            example = data.valid[i]
            guessed = self.scores(model, params, [example])[0].argmax(-1)
            text += compared(example, guessed, encoder) + "\n"
            if len(text) >= size:
                break
        return text.rstrip()

    def probe(self, model: Tagger, params: Tree, examples: Sequence[Example], facts: Mapping[str, Any]) -> Probe:
        """The model along each sequence, with a loss after every step."""
        from rnn_plugins.tasks.tag.results import probe

        return probe(model, params, examples, Encoder(facts))


def _narrow(cell: Cell, size: int) -> Cell:
    """A cell of the same kind with another number of units: of a stack, like its first layer.

    Raises:
        UserError: there is no such cell.
    """
    if isinstance(cell, Stacked):
        return _narrow(cell.cells[0], size)
    if isinstance(cell, Ablated):
        return Ablated(_narrow(cell.cell, size), cell.fixed)
    try:
        return replace(cell, hidden_size=size)
    except ValueError as error:
        raise UserError(f"characters is {size}, the units of the encoder of characters: {error}") from None
