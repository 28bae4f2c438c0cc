"""Give a whole sequence one label: a text, a row of numbers, or an image that is read piece by piece."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from minigrad import log_softmax, pick
from minigrad.trees import Tree
from rnn_plugins.data.balance import weights_of
from rnn_plugins.data.images import each_image, is_images
from rnn_plugins.data.labelled import Found, Reader
from rnn_plugins.data.sources import is_pipe
from rnn_plugins.data.splits import split
from rnn_plugins.data.tokens import Tokens
from rnn_plugins.data.vocabulary import MAX_WORDS, NOUNS, Level
from rnn_plugins.errors import UserError
from rnn_plugins.tasks.blocks import (
    Symbols,
    Vectors,
    check_freeze,
    chunks,
    no_embedding,
    padded,
    recurrent,
    require_width,
    with_places,
    with_width,
)
from rnn_plugins.tasks.classify.model import Classifier, Pool
from rnn_plugins.tasks.classify.sequences import (
    SHOWN,
    Example,
    Input,
    Order,
    Sequences,
    described,
    facts_of_numbers,
    facts_of_texts,
    labels_of,
    numbers,
    short,
    unknown_symbols,
)
from rnn_plugins.tasks.metrics import NEEDS_METRICS, Gains, accuracy, confusion, macro_f1, per_class, verdict
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
from rnn_plugins.words import brief, listing

if TYPE_CHECKING:
    from rnn_plugins.reports.probe import Probe
    from rnn_plugins.reports.report import Figure

Array = NDArray[Any]


@dataclass(frozen=True)
class Classify(Task[Classifier]):
    """Give a sequence one label: a text, a row of numbers, or an image.

    FILES are tables of texts with a column for the class (TSV, CSV, JSONL), a text file per class with a text per line,
    a folder of such files or with a folder of texts per class, tables of numbers whose rows are sequences, or images
    (IDX, NPZ, a folder of pictures per class).

    Attributes:
        level: the kind of symbols of a text.
        max_words: the number of words in a vocabulary, the commonest; 0 for all.
        lower: whether to read texts in lower case.
        valid_fraction: the share of each class that is held out.
        text_column: the column of the text in a table.
        label_column: the column of the class in a table.
        order: how an image is read: a row per step, a pixel per step, or the pixels in a fixed random order.
        width: the numbers per step in a table of numbers, whose rows are then images of this width.
        image_size: the height and width that pictures are scaled to; 0 leaves them as they are.
        directions: 1 reads from the first step to the last; 2 also from the last to the first.
        pool: how the outputs of all steps become one: the last, their mean, maximum, or a mean with learned weights.
        word_dropout: the share of symbols that are replaced by the unknown one during training.
        embedding: a file of word vectors in the text format of GloVe or word2vec, to begin with.
        freeze: whether those vectors are not trained.
        weighted: whether each class's weight in the loss is inversely proportional to its frequency.
    """

    level: Level = "word"
    max_words: int = MAX_WORDS
    lower: bool = False
    valid_fraction: float = 0.1
    text_column: str = "text"
    label_column: str = "label"
    order: Order = "rows"
    width: int = 1
    image_size: int = 0
    directions: Literal[1, 2] = 1
    pool: Pool = "last"
    word_dropout: float = 0.0
    embedding: str = ""
    freeze: bool = False
    weighted: bool = False

    best: ClassVar[tuple[str, Literal["min", "max"]]] = ("accuracy", "max")
    metrics: ClassVar[Mapping[str, Metric]] = {
        "accuracy": Metric("", "max", "ACCURACY", SHARE),
        "macro_f1": Metric("", "max", "MACRO-F1", SHARE, "macro-F1"),
        "loss": Metric("nats", "min", "NATS"),
    }
    takes_text: ClassVar[bool] = True
    of_weights: ClassVar[tuple[str, ...]] = (
        "level", "max_words", "lower", "order", "width", "image_size", "directions", "pool",
    )  # fmt: skip

    def __post_init__(self) -> None:
        """Check the ranges of the options.

        Raises:
            ValueError: an option is out of range.
        """
        check_ranges(self, {"max_words": 0, "width": 1, "image_size": 0}, ["valid_fraction", "word_dropout"])
        check_freeze(self.freeze, self.embedding)

    @property
    def held_out_part(self) -> str:
        """The share that is held out."""
        return f"the held-out {100 * self.valid_fraction:g} %"

    @property
    def reader(self) -> Reader:
        """How files are read."""
        return Reader(self.text_column, self.label_column, self.width, self.image_size)

    # Reading

    def read(self, files: Sequence[str], facts: Mapping[str, Any] | None = None, *, purpose: Purpose = "train") -> Data:
        """Read labelled sequences, and hold a share of each class out.

        The facts are ``kind``, ``labels``, how many training examples each has (``counts``), for texts ``tokens``, the
        width of given ``vectors`` and whether they are ``whole`` files, and for numbers what ``facts_of_numbers``
        returns.

        Raises:
            UserError: a file cannot be read or is not of the kind; a class, a text or a size is unsuitable.
        """
        if not files:
            raise UserError(
                f"there is nothing to classify: name a table with the columns {self.text_column} and "
                f"{self.label_column}, a text file for each class, or images with classes"
            )
        if purpose == "again" and any(map(is_pipe, files)):
            raise UserError("they came through a pipe and were not saved")
        reader, digest, notices = self.reader, hashlib.sha256(), list[str]()
        kind = reader.kind(files)
        if facts and kind != facts["kind"]:
            raise UserError(f"{files[0]} has {kind}; expected {facts['kind']}, as the network was trained on")
        if kind == "images":
            known = {key: facts[key] for key in ("shape", "white", "label_column")} if facts else {}
            found, how = reader.images(files, known, digest, notices)
        else:
            found, how = [each for file in files for each in reader.labelled(file, kind, digest, notices)], {}
        training, held_out = np.arange(0), np.arange(len(found))
        if purpose != "evaluate":
            training, held_out = split([each.label for each in found], self.valid_fraction)
        if facts is None:
            labels = labels_of(found, bool(self.valid_fraction), notices)
            some = [found[i] for i in training]
            if kind == "texts":
                own = facts_of_texts(some, self.level, self.max_words, self.lower, self.embedding, notices)
            else:
                own = facts_of_numbers(kind, some, how, self.order)
            counts = Counter(each.label for each in some)
            facts = {"kind": kind, "labels": labels, "counts": [counts[label] for label in labels], **own}
            if self.embedding and kind != "texts":
                raise UserError(f"embedding is {self.embedding!r}, but these are {kind}, without words: leave it out")
        examples = self._examples(found, facts)
        train, valid = ([examples[i] for i in some] for some in (training, held_out))
        part = "held-out texts" if train and valid else brief(files)
        notices += unknown_symbols(Sequences.of(facts, self.order).tokens, valid or train, part)
        return Data(
            train, valid, facts, tuple(files), digest.hexdigest(), described(facts, train, valid), tuple(notices)
        )

    def _examples(self, found: Sequence[Found], facts: Mapping[str, Any]) -> list[Example]:
        """Encoded examples; the weights of ``weighted`` have the mean 1 in training."""
        encode, place = Sequences.of(facts, self.order), {label: i for i, label in enumerate(facts["labels"])}
        weights = weights_of(facts["counts"], balanced=self.weighted)
        examples = []
        for each in found:
            label = place.get(each.label)
            if label is None:
                raise UserError(
                    f"{each.where}: the class {each.label!r} is not among those that were trained on: "
                    f"{listing(facts['labels'])}"
                )
            examples.append(Example(encode(each), label, float(weights[label]), each.where))
        return examples

    def check_facts(self, facts: Mapping[str, Any]) -> Mapping[str, Any]:
        """Check labels, counts, tokens and shapes.

        Raises:
            ValueError: they are damaged.
        """
        labels, counts = facts["labels"], facts["counts"]
        if len(labels) < 2 or len(set(labels)) < len(labels) or not all(isinstance(label, str) for label in labels):
            raise ValueError("its labels are not two or more different texts")
        if len(counts) != len(labels) or not all(type(count) is int and count > 0 for count in counts):
            raise ValueError("its counts are not a whole number above 0 for each label")
        if Sequences.of(facts, self.order).tokens and not (type(facts["vectors"]) is int and facts["vectors"] >= 0):
            raise ValueError("its width of vectors is not a whole number")
        return facts

    # The network

    def resolve(self, facts: Mapping[str, Any], network: Network) -> Network:
        """The network with the width of its embedding: as given, that of vectors, or a default for the symbols."""
        if facts["kind"] == "texts":
            return with_width(network, len(Tokens.from_json(facts["tokens"])), facts["vectors"])
        return network if network.embedding_size is not None else dataclasses.replace(network, embedding_size=0)

    def model(self, facts: Mapping[str, Any], network: Network) -> Classifier:
        """Embedding or one-hot, the cell in one or two directions, pooling, a linear head.

        Raises:
            UserError: an embedding size does not suit the inputs.
        """
        network = self.resolve(facts, network)
        size, symbols, vectors = network.embedding_size or 0, None, None
        sequences = Sequences.of(facts, self.order)
        if tokens := sequences.tokens:
            noun = f"{NOUNS[self.level]}s"
            require_width(size, len(tokens), noun, facts["vectors"], self.embedding)
            symbols = Symbols(len(tokens), size, network.dtype)
            width = symbols.input_size
            if facts["vectors"]:
                vectors = Vectors(self.embedding, tokens.symbols, self.freeze)
        else:
            no_embedding(network, f"the inputs are {sequences.kind}")
            width = sequences.width
        return Classifier(
            recurrent(network, width, self.directions),
            symbols,
            len(facts["labels"]),
            self.pool,
            network.dropout,
            network.variational_dropout,
            self.word_dropout,
            network.dtype,
            vectors,
        )

    def length(self, example: Example) -> int:
        """The number of steps."""
        return len(example.xs)

    def pack(self, examples: Sequence[Example]) -> Batch:
        """Padded sequences and their lengths; classes and weights."""
        xs, lengths = padded([example.xs for example in examples])
        labels = np.array([example.label for example in examples])
        weights = np.array([example.weight for example in examples])
        return Batch((numbers(xs), lengths), (labels, weights), float(weights.sum()))

    # Metrics

    def evaluate(self, model: Classifier, params: Tree, examples: Sequence[Example]) -> dict[str, float]:
        """Accuracy, macro-F1, and the mean of -log p(class) with the weights of training."""
        return _measured(self._log_probabilities(model, params, examples), examples)

    def _log_probabilities(self, model: Classifier, params: Tree, examples: Sequence[Example]) -> Array:
        """(N, K), in the order of the examples, which are computed sorted by length."""
        found = np.zeros((len(examples), model.classes))
        order = sorted(range(len(examples)), key=lambda i: len(examples[i].xs))
        for some in chunks(order, AT_ONCE):
            found[some] = log_softmax(model.scores(params, self.pack([examples[i] for i in some]).inputs))
        return found

    def guessing(self, facts: Mapping[str, Any]) -> float:
        """The logarithm of the number of classes."""
        return math.log(len(facts["labels"]))

    def contains(self, training: Sequence[Example], examples: Sequence[Example]) -> bool:
        """Whether all the examples are among those of training."""
        known = {(example.label, example.xs.tobytes()) for example in training}
        return all((example.label, example.xs.tobytes()) in known for example in examples)

    def assess(self, model: Classifier, params: Tree, data: Data, *, name: str, training: Any = None) -> Assessment:
        """The model's metrics, those of the commonest class and of a linear model, by class, and what is confused."""
        from rnn_plugins.tasks import baselines

        labels = tuple(data.facts["labels"])
        found, notices = self._log_probabilities(model, params, data.valid), list[str]()
        scores = [Score(name, "model", _measured(found, data.valid))]
        rivals = {baselines.COMMONEST: baselines.frequencies(data.facts["counts"], len(data.valid))}
        if training:
            rival = baselines.called(data.facts["kind"], self.level)
            known, tried = ([numbers(example.xs) for example in some] for some in (training, data.valid))
            places, weights = zip(*((example.label, example.weight) for example in training), strict=True)
            try:
                words = self.level == "word"
                rivals[rival] = baselines.linear(known, places, weights, tried, len(labels), words=words)
            except ImportError:
                notices.append(f"the baseline {rival} {NEEDS_METRICS}")
        scores += [Score(rival, "baseline", _measured(guessed, data.valid)) for rival, guessed in rivals.items()]
        true, guesses = np.array([example.label for example in data.valid]), found.argmax(1)
        gains = {r: np.subtract(guesses == true, other.argmax(1) == true, dtype=int) for r, other in rivals.items()}
        return Assessment(
            tuple(scores),
            self.metrics,
            len(data.valid),
            self.unit,
            verdict(scores, "accuracy", self.metrics["accuracy"], Gains(gains, data.facts["kind"])),
            tuple(notices),
            figures=(per_class(true, guesses, labels), confusion(true, guesses, labels)),
        )

    def baselines(self, model: Classifier, data: Data) -> tuple[Score, ...]:
        """Those of the commonest class."""
        from rnn_plugins.tasks import baselines

        guessed = baselines.frequencies(data.facts["counts"], len(data.valid))
        return (Score(baselines.COMMONEST, "baseline", _measured(guessed, data.valid)),)

    # Use

    def inputs(self, file: str, facts: Mapping[str, Any]) -> Iterator[Input]:
        """The texts of a table, of the lines of a file or of a folder, the rows of a table of numbers, or images.

        Raises:
            UserError: the file cannot be read or has something else; a text is empty.
        """
        encode, reader = Sequences.of(facts, self.order), self.reader
        if encode.kind != "images" and is_images(file):
            raise UserError(f"{file} has images; expected {encode.kind}, as the network was trained on")
        if encode.kind == "texts":
            found = reader.texts(file, facts.get("whole", False))
        elif encode.kind == "rows":
            found = reader.rows(file, math.prod(encode.shape))
        else:
            found = self._images(file, facts)
        return map(encode.input, found)

    def _images(self, file: str, facts: Mapping[str, Any]) -> Iterator[Found]:
        how = {key: facts[key] for key in ("shape", "white", "label_column")}
        try:
            for name, pixels in each_image(file, size=self.image_size, **how):
                yield Found(name, pixels, "")
        except UserError as error:
            if is_images(file) or is_pipe(file):
                raise
            raise UserError(f"{file} is read as images, as the network was trained on: {error}") from None

    def predict(
        self,
        model: Classifier,
        params: Tree,
        facts: Mapping[str, Any],
        inputs: Iterable[Any],
        *,
        top: int = 1,
        explain: bool = False,
    ) -> Iterator[Prediction]:
        """The likeliest classes of each input with their probabilities.

        An input is what ``inputs`` gives, a text, or numbers: (H, W) or (H, W, C) of an image, or those of a row.
        ``explain`` adds what ``explanation`` returns.
        """
        encode, labels = Sequences.of(facts, self.order), facts["labels"]
        for some in chunks((encode.given(given, place + 1) for place, given in with_places(inputs)), AT_ONCE):
            found = self._log_probabilities(model, params, [Example(given.xs, 0) for given in some])
            for given, row in zip(some, found, strict=True):
                likely = np.argsort(-row, kind="stable")[: max(1, top)].tolist()
                shares = [{"label": labels[i], "probability": math.exp(row[i])} for i in likely]
                of_file = {"file": given.file} if given.file else {}
                record = {"input": given.shown, **of_file, **shares[0]} | ({"top": shares} if top > 1 else {})
                told = ", ".join(f"{share['label']} {share['probability']:.3f}" for share in shares)
                figures: tuple[Figure, ...] = ()
                if explain:
                    from rnn_plugins.tasks.classify.explaining import explanation

                    figures, more = explanation(model, params, encode, given, likely[0], labels[likely[0]])
                    record |= more
                yield Prediction("  ".join(filter(None, (told, given.file, short(given.shown)))), record, figures)

    def excerpt(self, model: Classifier, params: Tree, data: Data, size: int, rng: np.random.Generator) -> str | None:
        """Held-out examples with their classes, predicted and true."""
        if not data.valid:
            return None
        places = rng.permutation(len(data.valid))[: max(1, size // SHOWN)].tolist()
        some = [data.valid[i] for i in places]
        found, labels = self._log_probabilities(model, params, some), data.facts["labels"]
        sequences, lines = Sequences.of(data.facts, self.order), []
        for example, row in zip(some, found, strict=True):
            guess = int(row.argmax())
            truth = "right" if guess == example.label else f"true: {labels[example.label]}"
            shown = short(sequences.written(example.xs, example.where))
            lines.append(f"{labels[guess]} {math.exp(row[guess]):.2f} ({truth})  {shown}")
        return "\n".join(lines)

    def probe(self, model: Classifier, params: Tree, examples: Sequence[Example], facts: Mapping[str, Any]) -> Probe:
        """The model along each sequence, with a loss at its end."""
        from rnn_plugins.reports.probe import Labels
        from rnn_plugins.tasks.probes import AtEnd

        sequences = Sequences.of(facts, self.order)

        def score(weights: Tree, ys: Any, lengths: Array, labels: Array) -> Any:
            return -pick(log_softmax(model.judge(weights, ys, lengths)), labels)

        def written(index: int) -> Labels:
            xs, tokens = examples[index].xs, sequences.tokens
            shown = (tokens.symbols[i] for i in xs.tolist()) if tokens else map(str, range(1, len(xs) + 1))
            return Labels(tuple(shown), (facts["labels"][examples[index].label],))

        return AtEnd(
            recurrent=model.cell,
            weights=params,
            inputs=[numbers(example.xs) for example in examples],
            goals=[example.label for example in examples],
            see=model.see,
            score=score,
            dtype=model.dtype,
            unit=sequences.unit,
            sequence=sequences.noun,
            numbers_per_output=model.classes,
            written=written,
            whole=self.pool != "last",
        )


def _measured(found: Array, examples: Sequence[Example]) -> dict[str, float]:
    """The metrics of log probabilities (N, K)."""
    labels, weights = (np.array([getattr(example, name) for example in examples]) for name in ("label", "weight"))
    guesses = found.argmax(1)
    nats = -found[np.arange(len(labels)), labels]
    return {
        "accuracy": accuracy(labels, guesses),
        "macro_f1": macro_f1(labels, guesses),
        "loss": float(nats @ weights / weights.sum()),
    }
