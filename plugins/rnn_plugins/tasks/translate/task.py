"""Translate texts: an encoder reads the source, a decoder writes the target, with attention or without."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from minigrad.trees import Tree
from rnn_plugins.data.splits import split
from rnn_plugins.data.tables import PAIR
from rnn_plugins.data.tokens import Tokens
from rnn_plugins.data.vectors import width_of
from rnn_plugins.data.vocabulary import NOUNS, Level
from rnn_plugins.errors import UserError
from rnn_plugins.progress import advance, begin
from rnn_plugins.tasks import task
from rnn_plugins.tasks.blocks import (
    Symbols,
    Vectors,
    check_freeze,
    chunks,
    mask,
    padded,
    recurrent,
    require_width,
    with_width,
)
from rnn_plugins.tasks.decoding import AT_ONCE, END, SPECIALS, UNKNOWN, Attention, Decoder, Hypothesis, share_unknown
from rnn_plugins.tasks.task import Assessment, Batch, Data, Metric, Network, Prediction, Purpose, Task, check_ranges
from rnn_plugins.tasks.translate.model import Translator
from rnn_plugins.tasks.translate.pairs import Pair, encoded, given, texts_of, tokens_of
from rnn_plugins.words import beside_truth, percent

if TYPE_CHECKING:  # imported only where they are used
    from rnn_plugins.language.sampling import Choice
    from rnn_plugins.reports.report import Image
    from rnn_plugins.tasks.probes import AtEnd

Array = NDArray[Any]

WIDEST_EMBEDDING = 256
"""The default width of embeddings, unless the hidden size is smaller."""

TOGETHER = 256
"""Sources whose translations are searched for together, those of like length in one batch."""

MARGIN = 20
"""A translation has at most this number of symbols and three times those of its source."""


@dataclass(frozen=True)
class Translate(Task[Translator]):
    """Translate texts, with an encoder and a decoder.

    The encoder reads the source; its last outputs become the decoder's first state, and the decoder writes the target
    symbol by symbol. With attention it also reads the encoder's outputs at each step. Files have a source, a tab and a
    target in each line; or there are two files of parallel texts. A source has all its translations in one part.

    Attributes:
        level: the kind of symbols, on both sides.
        source_column: the column of sources in a table or in JSON lines.
        target_column: the column of targets.
        max_words: the number of words in a vocabulary, the commonest; 0 for all.
        lower: whether to lower-case all texts.
        valid_fraction: the share of the sources that is held out.
        embedding: a file of word vectors in the text format of GloVe or word2vec, to begin with for the sources.
        freeze: whether those vectors are not trained.
        directions: 1 reads from the first step to the last; 2 also from the last to the first.
        attention: how the decoder reads the encoder's outputs: none, bahdanau or luong.
        sampling: the share of the decoder's inputs in training that are its own predictions instead of the target's.
        sampling_epochs: the epochs in which that share grows from 0.
        beam: the hypotheses of a search; 1 for greedy.
        length_penalty: the exponent by which a search prefers long translations (Wu et al. 2016); 0 for none.
    """

    level: Level = "word"
    source_column: str = PAIR[0]
    target_column: str = PAIR[1]
    max_words: int = 8000
    lower: bool = False
    valid_fraction: float = 0.05
    embedding: str = ""
    freeze: bool = False
    directions: Literal[1, 2] = 2
    attention: Attention = "luong"
    sampling: float = 0.0
    sampling_epochs: int = 5
    beam: int = 5
    length_penalty: float = 0.6

    best: ClassVar[tuple[str, Literal["min", "max"]]] = ("loss", "min")
    metrics: ClassVar[Mapping[str, Metric]] = {
        "loss": Metric("nats", "min", "NATS"),
        "token_accuracy": Metric("", "max", "TOKENS", task.SHARE, "token accuracy"),
    }
    default_files: ClassVar[tuple[str, ...]] = ("builtin:dates",)
    of_weights: ClassVar[tuple[str, ...]] = ("level", "max_words", "lower", "directions", "attention")
    takes_text: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the ranges of the options.

        Raises:
            ValueError: an option is out of range.
        """
        least = {"max_words": 0, "sampling_epochs": 1, "beam": 1, "length_penalty": 0}
        check_ranges(self, least, ["valid_fraction", "sampling"])
        check_freeze(self.freeze, self.embedding)
        if self.source_column == self.target_column:
            raise ValueError(f"source_column and target_column are both {self.source_column!r}; expected two columns")

    @property
    def unit(self) -> str:  # type: ignore[override]
        """The noun for symbols, in the plural."""
        return f"{NOUNS[self.level]}s"

    # Reading

    def read(self, files: Sequence[str], facts: Mapping[str, Any] | None = None, *, purpose: Purpose = "train") -> Data:
        """Read pairs of texts.

        The facts are both ``Tokens``, the ``longest`` target's number of symbols, and the width of given ``vectors``,
        or 0.

        Raises:
            UserError: as ``tables.pairs``, or a text is empty, or there are no pairs to train on.
        """
        if not files:
            raise UserError("there are no texts: name a FILE of pairs, or builtin:dates")
        digest = hashlib.sha256()
        notices = list[str]()
        texts = list(texts_of(files, (self.source_column, self.target_column), digest, notices))
        sources = {self._cased(source): None for source, _ in texts}
        held_out: set[str] = set()
        if purpose != "evaluate":
            order = list(sources)
            held_out = {order[i] for i in split(len(order), self.valid_fraction)[1]}
        training = [pair for pair in texts if self._cased(pair[0]) not in held_out]
        if facts is None:
            made = [self._tokens(side) for side in zip(*training, strict=True)]
            facts = {
                "source": made[0].to_json(),
                "target": made[1].to_json(),
                "longest": max(len(made[1].pieces(target)) for _, target in training) + 1,
                "vectors": 0,
            }
            if self.embedding:
                noun = f"{self.unit} of sources"
                facts["vectors"], told = width_of(self.embedding, _words(made[0]), len(SPECIALS), noun)
                notices.append(told)
        source, target = tokens_of(facts)
        coded = [Pair(encoded(source, a), encoded(target, b), a, b) for a, b in texts]
        train = [pair for pair in coded if purpose != "evaluate" and self._cased(pair.text) not in held_out]
        valid = [pair for pair in coded if purpose == "evaluate" or self._cased(pair.text) in held_out]
        for name, sides in (("sources", [p.source for p in coded]), ("targets", [p.target for p in coded])):
            if unknown := share_unknown(sides):
                notices.append(f"{percent(unknown)} of the {self.unit} in the {name} are not in the vocabulary")
        about = (
            f"{len(texts):,} pairs of {len(sources):,} sources; vocabularies of {len(source):,} and {len(target):,} "
            f"{self.unit}"
        )
        return Data(train, valid, facts, tuple(files), digest.hexdigest(), about, tuple(notices))

    def _cased(self, text: str) -> str:
        """A text as the network takes it."""
        return text.lower() if self.lower else text

    def _tokens(self, texts: Iterable[str]) -> Tokens:
        return Tokens.build(texts, self.level, limit=self.max_words, lower=self.lower, specials=SPECIALS, spaces=True)

    def check_facts(self, facts: Mapping[str, Any]) -> Mapping[str, Any]:
        """Check both vocabularies and the longest target.

        Raises:
            ValueError: they are not valid.
        """
        if any(tokens.symbols[: len(SPECIALS)] != SPECIALS for tokens in tokens_of(facts)):
            raise ValueError(f"a vocabulary does not begin with {' '.join(SPECIALS)}")
        if type(facts["longest"]) is not int or facts["longest"] < 1:
            raise ValueError(f"longest is {facts['longest']!r}; expected a whole number of at least 1")
        if type(facts["vectors"]) is not int or facts["vectors"] < 0:
            raise ValueError(f"vectors is {facts['vectors']!r}; expected a width, or 0 for none")
        return facts

    # Training

    def resolve(self, facts: Mapping[str, Any], network: Network) -> Network:
        """The network with the width of its embeddings: as given, or a default for the larger vocabulary."""
        return with_width(network, max(map(len, tokens_of(facts))), facts["vectors"], WIDEST_EMBEDDING)

    def model(self, facts: Mapping[str, Any], network: Network) -> Translator:
        """The encoder and the decoder.

        Raises:
            UserError: the width of embeddings is not that of pretrained vectors, or 0 for many symbols.
        """
        network = self.resolve(facts, network)
        (source, target), width = tokens_of(facts), network.embedding_size or 0
        most = max(len(source), len(target))
        require_width(width, most, self.unit, facts["vectors"], self.embedding, WIDEST_EMBEDDING)
        symbols = Symbols(len(source), width, network.dtype)
        encoder = recurrent(network, symbols.input_size, self.directions)
        size = encoder.output_size
        decoder = Decoder.make(network, len(target), attention=self.attention, memory_size=size, summary_size=size)
        vectors = Vectors(self.embedding, _words(source), self.freeze) if facts["vectors"] else None
        return Translator(symbols, encoder, decoder, vectors)

    def count(self, examples: Sequence[Pair] | None) -> int:
        """The symbols of the targets, their ends included."""
        return sum(len(pair.target) for pair in examples or ())

    def length(self, example: Pair) -> int:
        """The target's length, and at equal ones the source's."""
        return (len(example.target) << 20) + len(example.source)

    def batch(self, data: Data, step: int, size: int, rows: slice = slice(None)) -> Batch:
        """Pairs of like lengths, with the share of own predictions at this step."""
        found = super().batch(data, step, size, rows)
        *inputs, _ = found.inputs
        own = self.sampling * min(1.0, step / (self.sampling_epochs * self.steps_per_epoch(data, size)))
        return found._replace(inputs=(*inputs, np.array(own)))

    def pack(self, examples: Sequence[Pair]) -> Batch:
        """Sources (S, B) with their lengths and those of the targets, (B,); targets (T, B), padded with ends."""
        ids, lengths = padded([pair.source for pair in examples])
        targets, many = padded([pair.target for pair in examples], END)
        return Batch((ids, lengths, many, np.zeros(())), targets, float(many.sum()))

    def evaluate(self, model: Translator, params: Tree, examples: Sequence[Pair]) -> dict[str, float]:
        """Loss and token accuracy, where the decoder reads the targets (teacher forcing)."""
        nats, right, total = 0.0, 0, 0
        for some in chunks(sorted(examples, key=self.length), task.AT_ONCE):
            batch = self.pack(some)
            ids, lengths, many, _ = batch.inputs
            first, context = model.begin(params, model.encode(params, ids, lengths), lengths)
            losses, best = model.decoder.scored(params["decoder"], first, context, batch.targets)
            live = mask(many, len(batch.targets))
            nats += float(losses[live].sum(dtype=np.float64))
            known = live & (batch.targets != UNKNOWN)  # an unknown word is never written, so never right
            right, total = right + int((best == batch.targets)[known].sum()), total + int(live.sum())
        return {"loss": nats / total, "token_accuracy": right / total}

    def guessing(self, facts: Mapping[str, Any]) -> float:
        """The loss of uniform guessing among all symbols of the targets."""
        return math.log(len(tokens_of(facts)[1]))

    # Translating

    def translations(
        self, model: Translator, params: Tree, facts: Mapping[str, Any], texts: Sequence[str], width: int | None = None
    ) -> list[list[Hypothesis]]:
        """The best translations of each text, found by a search of ``width`` hypotheses, by default ``beam``."""
        width = width or self.beam

        def search(carry: Tree, context: Tree, limits: Array) -> list[list[Hypothesis]]:
            return model.decoder.search(
                params["decoder"], carry, context, limits, width=width, penalty=self.length_penalty
            )

        return self._decoded(model, params, facts, texts, search, width)

    def _decoded(
        self, model: Translator, params: Tree, facts: Mapping[str, Any], texts: Sequence[str], decode: Any, width: int
    ) -> list[Any]:
        """What ``decode(carry, context, limits)`` gives for each text, those of like length in one batch."""
        source, target = tokens_of(facts)
        sources = [encoded(source, text) for text in texts]
        found: list[Any] = [None] * len(texts)
        order, start = sorted(range(len(texts)), key=lambda i: -len(sources[i])), 0
        while start < len(texts):
            size = max(len(target), len(sources[order[start]]) * model.encoder.output_size)
            some = order[start : start + max(1, min(TOGETHER, AT_ONCE // (width * size)))]
            ids, lengths = padded([sources[i] for i in some])
            first, context = model.begin(params, model.encode(params, ids, lengths), lengths)
            limits = np.minimum(facts["longest"], 3 * lengths + MARGIN)
            for i, result in zip(some, decode(first, context, limits), strict=True):
                found[i] = result
            start += len(some)
            advance(start / len(texts))
        return found

    def inputs(self, file: str, facts: Mapping[str, Any]) -> Iterator[str]:
        """The sources in a file of pairs, or of one text per line."""
        for source, _ in texts_of([file], (self.source_column, self.target_column), None, [], targets=False):
            yield source

    def predict(
        self,
        model: Translator,
        params: Tree,
        facts: Mapping[str, Any],
        inputs: Iterable[str],
        *,
        top: int = 1,
        explain: bool = False,
    ) -> Iterator[Prediction]:
        """The best translations, with their log probabilities; with ``explain`` the attention, if any, as a picture."""
        explain = explain and self.attention != "none"
        target = tokens_of(facts)[1]
        for texts in chunks(given(inputs), TOGETHER):
            every = self.translations(model, params, facts, texts, max(top, self.beam))
            for text, hypotheses in zip(texts, every, strict=True):
                lines = [target.decode(h.symbols) for h in hypotheses[:top]]
                best = [_record(line, h) for line, h in zip(lines, hypotheses, strict=False)]
                record = {"input": text, **best[0]} | ({"alternatives": best} if top > 1 else {})
                if top > 1:
                    lines = [f"{line} ({h.log_probability:.2f})" for line, h in zip(lines, hypotheses, strict=False)]
                figures = (self._alignment(model, params, facts, text, hypotheses[0].symbols),) if explain else ()
                yield Prediction(_on_one_line(" | ".join(lines)), record, figures)

    def generate(
        self,
        model: Translator,
        params: Tree,
        facts: Mapping[str, Any],
        inputs: Iterable[str],
        choice: Choice,
        rng: np.random.Generator,
    ) -> Iterator[Prediction]:
        """A translation drawn for each source."""
        target = tokens_of(facts)[1]

        def draw(carry: Tree, context: Tree, limits: Array) -> list[Hypothesis]:
            return model.decoder.drawn(params["decoder"], carry, context, limits, choice, rng)

        for texts in chunks(given(inputs), TOGETHER):
            for text, h in zip(texts, self._decoded(model, params, facts, texts, draw, 1), strict=True):
                written = target.decode(h.symbols)
                yield Prediction(_on_one_line(written), {"input": text, **_record(written, h)})

    def _alignment(self, model: Translator, params: Tree, facts: Mapping[str, Any], text: str, ids: Array) -> Image:
        """The weights of the attention at each symbol of a translation and its end."""
        from rnn_plugins.reports.report import Image

        source, target = tokens_of(facts)
        read = encoded(source, text)
        lengths = np.array([len(read)])
        first, context = model.begin(params, model.encode(params, read[:, None], lengths), lengths)
        before = np.concatenate([[END], ids])[:, None]
        weights = model.decoder.unroll(params["decoder"], first, context, before, weights=True)
        return Image(
            "alignment",
            f"Attention: {text}",
            "source",
            "translation",
            np.asarray(weights)[:, 0, : len(read)],
            "weight",
            (*(piece.strip() or piece for piece in source.pieces(text)), SPECIALS[END]),
            (*(target.symbols[i].strip() or target.symbols[i] for i in ids), SPECIALS[END]),
            definition="The share of the attention that goes to each symbol of the source (a column) while a symbol of "
            "the translation (a row) is written. Each row adds up to 1.",
            limits=(0.0, 1.0),
        )

    def excerpt(self, model: Translator, params: Tree, data: Data, size: int, rng: np.random.Generator) -> str:
        """Greedy translations of a few sources beside the truth, about ``size`` characters."""
        examples, lines, length = data.valid or data.train, [], 0
        target = tokens_of(data.facts)[1]
        some = [examples[i] for i in rng.permutation(len(examples))[:20]]
        found = self.translations(model, params, data.facts, [pair.text for pair in some], 1)
        for pair, (best,) in zip(some, found, strict=True):
            lines.append(f"{pair.text} -> {beside_truth(target.decode(best.symbols), pair.translation)}")
            length += len(lines[-1])
            if length >= size:
                break
        return "\n".join(lines)

    # Reports

    def contains(self, training: Sequence[Pair], examples: Sequence[Pair]) -> bool:
        """Whether all the pairs are among those of training."""
        known = {(pair.text, pair.translation) for pair in training}
        return all((pair.text, pair.translation) in known for pair in examples)

    def assess(
        self, model: Translator, params: Tree, data: Data, *, name: str, training: Sequence[Pair] | None = None
    ) -> Assessment:
        """Loss and token accuracy; BLEU, chrF and the share of exact translations, beside baselines."""
        from rnn_plugins.tasks.text_scores import assess_translations, grouped

        source, target = tokens_of(data.facts)
        references = grouped([(self._cased(pair.text), self._cased(pair.translation)) for pair in data.valid])
        begin("translating")
        found = self.translations(model, params, data.facts, list(references))
        return assess_translations(
            self.metrics,
            self.evaluate(model, params, data.valid),
            {text: target.decode(some[0].symbols) for text, some in zip(references, found, strict=True)},
            references,
            source,
            target,
            name=name,
            unit=self.unit,
            count=self.count(data.valid),
            training=None if training is None else [(pair.text, pair.translation) for pair in training],
        )

    def probe(self, model: Translator, params: Tree, examples: Sequence[Pair], facts: Mapping[str, Any]) -> AtEnd:
        """The encoder along sources; the loss at the end of a source is the mean one of its target's symbols."""
        from rnn_plugins.reports.probe import Labels
        from rnn_plugins.tasks.probes import AtEnd

        tokens = tokens_of(facts)[0]
        targets = [pair.target for pair in examples]

        def score(weights: Tree, outputs: Any, lengths: Array, which: Array) -> Any:
            wanted, many = padded([targets[i] for i in which], END)
            dtype = str(outputs.dtype)
            seen = replace(model, decoder=model.decoder.astype(dtype))
            first, context = seen.begin(weights, outputs, lengths)
            losses = seen.decoder.losses(weights["decoder"], first, context, wanted)
            return (losses * mask(many, len(wanted)).astype(dtype)).sum(0) / many.astype(dtype)

        def written(index: int) -> Labels:
            shown = (*tokens.pieces(examples[index].text), SPECIALS[END])
            return Labels(shown, (examples[index].translation,))

        return AtEnd(
            recurrent=model.encoder,
            weights=params,
            inputs=[pair.source for pair in examples],
            goals=range(len(examples)),
            see=model.see,
            score=score,
            dtype=model.decoder.dtype,
            unit=NOUNS[self.level],
            sequence="source",
            key="encoder",
            numbers_per_output=model.decoder.symbols.size,
            written=written,
            whole=True,
        )


def _words(tokens: Tokens) -> tuple[str, ...]:
    """The symbols as a file of vectors has them, without the space before a word."""
    return tuple(symbol.strip() or symbol for symbol in tokens.symbols)


def _on_one_line(text: str) -> str:
    return " ".join(text.splitlines())


def _record(text: str, hypothesis: Hypothesis) -> dict[str, Any]:
    return {"translation": text, "log_probability": hypothesis.log_probability, "score": hypothesis.score}
