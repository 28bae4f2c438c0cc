"""Names to languages: a third-party task, the whole distribution in one file."""

import hashlib
import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from minigrad import affine, cross_entropy, log_softmax, one_hot, pick, softmax, trees
from minigrad.initializers import glorot_uniform, zeros
from minigrad.scan import Lookup
from rnn_cells import Cell
from rnn_cells.stacked import drop_steps
from rnn_plugins.errors import UserError
from rnn_plugins.reports.probe import Labels, Probe, Window
from rnn_plugins.tasks.task import AT_ONCE, Batch, Data, Metric, Model, Network, Prediction, Task, Work

UNKNOWN = "?"
"""Stands for every letter that the training names do not have; the first of the symbols."""

ENOUGH = 20
"""Names that are enough for a report."""


@dataclass(frozen=True)
class Classifier(Model):
    """The cell reads a name, and a linear head reads the cell's last output."""

    cell: Cell
    symbols: int
    labels: int
    network: Network

    def init_params(self, rng):
        shape = (self.cell.output_size, self.labels)
        head = {"W": glorot_uniform(rng, shape), "b": zeros(rng, shape[1:])}
        return trees.cast({"cell": self.cell.init_params(rng), "head": head}, self.network.dtype)

    def scores(self, params, batch, rng=None):
        """(B, labels)."""
        symbols, lengths = batch.inputs
        xs = one_hot(symbols, self.symbols, self.network.dtype)
        carry = trees.cast(self.cell.init_carry(len(lengths)), self.network.dtype)
        _, ys = self.cell.unroll(params["cell"], carry, xs, lengths=lengths, rng=rng)
        if rng is not None and self.network.dropout:
            ys = drop_steps(ys, self.network.dropout, self.network.variational_dropout, rng)
        return affine(params["head"], ys[lengths - 1, np.arange(len(lengths))])

    def loss(self, params, carry, batch, rng):
        return cross_entropy(self.scores(params, batch, rng), batch.targets), carry

    def work(self):
        carry = trees.cast(self.cell.init_carry(1), self.network.dtype)
        xs = one_hot(np.zeros(1, np.intp), self.symbols, self.network.dtype)
        return Work(self._step, self.init_params(np.random.default_rng(0)), carry, xs, looked_up=True)

    def _step(self, params, carry, x):
        carry, y = self.cell(params["cell"], carry, x)
        return carry, affine(params["head"], y)


@dataclass(frozen=True)
class Names(Task):
    """Tell the language of a name: one file per language, named after it, a name per line."""

    valid_fraction: float = 0.1
    lower: bool = False

    unit: ClassVar[str] = "names"
    best: ClassVar[Any] = ("accuracy", "max")
    metrics: ClassVar[Mapping[str, Metric]] = {
        "loss": Metric("nats", "min", "NATS"),
        "accuracy": Metric("", "max", "ACCURACY"),
    }

    def read(self, files, facts=None, *, purpose="train"):
        if not files:
            raise UserError("the task names takes one file per language, such as Italian.txt and Russian.txt; got none")
        digest, names = hashlib.sha256(), {}
        for file in sorted(files, key=lambda file: Path(file).stem):
            names[Path(file).stem] = self._names(file, digest)
        if facts is None:
            if len(names) < 2:
                raise UserError(f"the task names takes two languages at least; got {next(iter(names))!r} alone")
            letters = {letter for some in names.values() for name in some for letter in name}
            facts = {"symbols": [UNKNOWN, *sorted(letters - {UNKNOWN})], "labels": list(names)}
        train, valid = [], []
        for label, some in names.items():
            if label not in facts["labels"]:
                raise UserError(f"the run knows no language {label!r}; it knows {', '.join(facts['labels'])}")
            examples = [(self._encoded(name, facts), facts["labels"].index(label)) for name in some]
            if purpose == "evaluate":
                valid += examples
                continue
            apart = round(1 / self.valid_fraction) if self.valid_fraction else len(examples) + 1
            valid += examples[apart - 1 :: apart]
            train += [example for i, example in enumerate(examples) if i % apart != apart - 1]
        count = len(train) + len(valid)
        about = f"{count:,} names of {len(names)} languages"
        return Data(train, valid, facts, tuple(files), digest.hexdigest(), about)

    def _names(self, file, digest):
        try:
            content = Path(file).read_bytes()
            text = content.decode()
        except OSError as error:
            raise UserError(f"{file}: {error.strerror}") from None
        except UnicodeDecodeError as error:
            line = content.count(b"\n", 0, error.start) + 1
            raise UserError(f"{file}, line {line}: it is not UTF-8; a name per line is expected") from None
        digest.update(json_line(Path(file).stem, text))
        names = [line.strip() for line in text.splitlines() if line.strip()]
        if not names:
            raise UserError(f"{file} is empty; a name per line is expected")
        return [name.lower() for name in names] if self.lower else names

    def _encoded(self, name, facts):
        numbers = {symbol: i for i, symbol in enumerate(facts["symbols"])}
        return [numbers.get(letter, 0) for letter in name]

    def resolve(self, facts, network):
        return network if network.embedding_size is not None else replace(network, embedding_size=0)

    def model(self, facts, network):
        if network.embedding_size:
            raise UserError(
                f"--embedding-size is {network.embedding_size}, and the task names reads one-hot letters: leave it out"
            )
        symbols = len(facts["symbols"])
        return Classifier(network.make_cell(symbols), symbols, len(facts["labels"]), network)

    def pack(self, examples):
        lengths = np.array([len(name) for name, _ in examples])
        symbols = np.zeros((max(lengths), len(examples)), np.intp)
        for i, (name, _) in enumerate(examples):
            symbols[: len(name), i] = name
        return Batch((symbols, lengths), np.array([label for _, label in examples]), float(len(examples)))

    def evaluate(self, model, params, examples):
        nats, right = 0.0, 0
        for start in range(0, len(examples), AT_ONCE):
            batch = self.pack(examples[start : start + AT_ONCE])
            scores = model.scores(params, batch)
            nats += float(cross_entropy(scores, batch.targets)) * batch.weight
            right += int((np.argmax(scores, 1) == batch.targets).sum())
        return {"loss": nats / len(examples), "accuracy": right / len(examples)}

    def guessing(self, facts):
        return math.log(len(facts["labels"]))

    takes_text = True

    def inputs(self, file, facts):
        with nullcontext(sys.stdin.buffer) if file == "-" else open(file, "rb") as lines:
            yield from filter(None, (line.decode().strip() for line in lines))

    def predict(self, model, params, facts, inputs, *, top=1, explain=False) -> Iterator[Prediction]:
        for name in inputs:
            scores = model.scores(params, self.pack([(self._encoded(name, facts), 0)]))
            likely = np.asarray(softmax(scores))[0]
            best = int(np.argmax(likely))
            record = {"input": name, "language": facts["labels"][best], "probability": float(likely[best])}
            yield Prediction(f"{record['language']} {likely[best]:.2f}", record)

    def probe(self, model, params, examples, facts):
        return NamesProbe(model, params, examples, facts)


def json_line(label, text):
    """What a file adds to the digest: its language and its content, apart from those of the next."""
    return f"{label}\0{text}\0".encode()


class NamesProbe(Probe):
    """A classifier along names; a position is the number of the name at whose end the language is told."""

    unit = "letter"
    sequence = "name"

    def __init__(self, model, weights, examples, facts):
        self.model, self.weights, self.examples, self.facts = model, weights, examples, facts
        self.cell, self.params, self.dtype = model.cell, weights["cell"], model.network.dtype
        self.numbers_per_output = model.labels
        self.lengths = np.array([len(name) for name, _ in examples], np.intp)

    def longest(self, *, scored=True):
        return int(np.sort(self.lengths)[-min(ENOUGH, len(self.lengths))]) if len(self.lengths) else 0

    def ends(self, length, warm_up=0, *, scored=True):
        return np.flatnonzero(self.lengths >= length).tolist()

    def window(self, ends, length, warm_up=0):
        before = int((self.lengths[ends] - length).max(initial=0))
        symbols = np.zeros((before + length, len(ends)), np.intp)
        for column, end in enumerate(ends):
            name = self.examples[end][0]
            symbols[len(symbols) - len(name) :, column] = name
        there = np.arange(len(symbols))[:, None] >= len(symbols) - self.lengths[ends]
        table = np.eye(self.model.symbols, dtype=self.dtype)
        carry = self.read(Lookup(table, symbols[:before]), mask=there[:before])
        return Window(carry, Lookup(table, symbols[before:]))

    def targets(self, ends, length):
        return np.array([self.examples[end][1] for end in ends], np.intp)

    def loss(self, outputs, targets):
        return -pick(log_softmax(affine(self.weights["head"], outputs[-1])), targets)

    def astype(self, dtype):
        model = replace(self.model, network=replace(self.model.network, dtype=dtype))
        return NamesProbe(model, trees.cast(self.weights, dtype), self.examples, self.facts)

    def labels(self, end, length):
        name, label = self.examples[end]
        letters = tuple(self.facts["symbols"][symbol] for symbol in name[-length:])
        return Labels(letters, (self.facts["labels"][label],))
