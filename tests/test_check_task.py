"""``check_task`` on tasks with one mistake each: it must report that mistake and no other."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import names_task
import numpy as np
import pytest

from minigrad import affine, cross_entropy, dropout, log_softmax, mean, one_hot, pick, stop_gradient, trees
from minigrad.densities import gaussian, standard_normal
from minigrad.initializers import glorot_uniform, zeros
from minigrad.tensor import value_of
from rnn_cells import Cell
from rnn_cells.lstm import LSTM
from rnn_cells.rnn import RNN
from rnn_cells.stacked import drop_steps
from rnn_plugins.errors import UserError
from rnn_plugins.reports.report import Panel, Picture
from rnn_plugins.tasks.task import Batch, Data, Metric, Model, Network, Prediction, Task
from rnn_plugins.testing import CheckError, check_task

ITALIAN = "Rossi Russo Ferrari Esposito Bianchi Romano Colombo Ricci Marino Greco Bruno Gallo Conti De Costa Giordano"
RUSSIAN = "Ivanov Smirnov Kuznetsov Popov Vasiliev Petrov Sokolov Mikhailov Novikov Fedorov Ge Morozov Volkov Lebedev"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("Italian.txt").write_text("\n".join(ITALIAN.split()))
    Path("Russian.txt").write_text("\n".join(RUSSIAN.split()))
    Path("fox.txt").write_text("the quick brown fox jumps over the lazy dog. " * 20 + "!")


# --- a right task of each kind ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Classifier(Model):
    """The label of a sequence of symbols, of what the cell gives at its end."""

    cell: Cell
    labels: int
    network: Network

    def init_params(self, rng):
        shape = (self.cell.output_size, self.labels)
        head = {"W": glorot_uniform(rng, shape), "b": zeros(rng, shape[1:])}
        return trees.cast({"cell": self.cell.init_params(rng), "head": head}, self.network.dtype)

    def scores(self, params, batch, rng=None):
        symbols, lengths = batch.inputs
        xs = one_hot(symbols, self.cell.input_size, self.network.dtype)
        carry = trees.cast(self.cell.init_carry(len(lengths)), self.network.dtype)
        _, ys = self.cell.unroll(params["cell"], carry, xs, lengths=lengths)
        if rng is not None and self.network.dropout:
            ys = drop_steps(ys, self.network.dropout, False, rng)
        return self.read_out(params, ys, lengths)

    def read_out(self, params, ys, lengths):
        return affine(params["head"], ys[lengths - 1, np.arange(len(lengths))])

    def loss(self, params, carry, batch, rng):
        return cross_entropy(self.scores(params, batch, rng), batch.targets), carry


@dataclass(frozen=True)
class Names(Task):
    """From a name to the file it stands in."""

    unit: ClassVar[str] = "names"
    best: ClassVar[Any] = ("accuracy", "max")
    metrics: ClassVar[Mapping[str, Metric]] = {"loss": Metric("nats"), "accuracy": Metric("", "max")}

    model_class: ClassVar[Any] = Classifier

    def read(self, files, facts=None, *, purpose="train"):
        words = {Path(file).stem: Path(file).read_text().split() for file in files}
        if facts is None:
            symbols = sorted({symbol for some in words.values() for word in some for symbol in word})
            facts = {"symbols": symbols, "labels": sorted(words)}
        numbers = {symbol: i for i, symbol in enumerate(facts["symbols"])}
        rows = [
            ([numbers[symbol] for symbol in word], facts["labels"].index(label))
            for label, some in words.items()
            for word in some
        ]
        np.random.default_rng(0).shuffle(rows)
        apart = len(rows) if purpose == "evaluate" else 6
        return Data(rows[apart:], rows[:apart], facts, tuple(files), "digest")

    def model(self, facts, network):
        return self.model_class(network.make_cell(len(facts["symbols"])), len(facts["labels"]), network)

    def pack(self, examples):
        lengths = np.array([len(word) for word, _ in examples])
        symbols = np.zeros((max(lengths), len(examples)), np.intp)
        for i, (word, _) in enumerate(examples):
            symbols[: len(word), i] = word
        return Batch((symbols, lengths), np.array([label for _, label in examples]), float(len(examples)))

    def evaluate(self, model, params, examples):
        right = 0.0
        for i in range(0, len(examples), 10):
            batch = self.pack(examples[i : i + 10])
            right += float((np.argmax(model.scores(params, batch), 1) == batch.targets).sum())
        return super().evaluate(model, params, examples) | {"accuracy": right / len(examples)}


@dataclass(frozen=True)
class NextSymbol(Classifier):
    """The symbol after each, the carry passed on from batch to batch."""

    def init_carry(self, size):
        return self.cell.init_carry(size)

    def loss(self, params, carry, batch, rng):
        xs = one_hot(batch.inputs, self.cell.input_size, self.network.dtype)
        carry, ys = self.cell.unroll(params["cell"], carry, xs)
        return mean(-pick(log_softmax(affine(params["head"], ys)), batch.targets)), carry


@dataclass(frozen=True)
class Text(Task):
    """A language model in miniature."""

    unit: ClassVar[str] = "symbols"
    seq_length: int = 7

    def read(self, files, facts=None, *, purpose="train"):
        text = "".join(Path(file).read_text() for file in files)
        facts = {"symbols": sorted(set(text))} if facts is None else facts
        tokens = np.array([facts["symbols"].index(symbol) for symbol in text])
        apart = 0 if purpose == "evaluate" else -90
        return Data(tokens[:apart], tokens[apart:], facts, tuple(files), "digest")

    def model(self, facts, network):
        return NextSymbol(network.make_cell(len(facts["symbols"])), len(facts["symbols"]), network)

    def steps_per_epoch(self, data, size):
        return (len(data.train) - 1) // (size * self.seq_length)

    def batch(self, data, step, size, rows=slice(None)):
        steps = self.steps_per_epoch(data, size)
        start, lane = step % steps * self.seq_length, steps * self.seq_length
        places = np.arange(size)[rows] * lane + np.arange(start, start + self.seq_length + 1)[:, None]
        tokens = data.train[places]
        return Batch(tokens[:-1], tokens[1:], float(tokens[1:].size))

    def evaluate(self, model, params, examples):
        batch = Batch(examples[:-1, None], examples[1:, None], len(examples) - 1)
        carry = trees.cast(model.init_carry(1), model.network.dtype)
        return {"loss": float(model.loss(params, carry, batch, None)[0])}


@dataclass(frozen=True)
class Sum(Classifier):
    """One number at the end of a sequence of two features, by the squared error."""

    def loss(self, params, carry, batch, rng):
        first = trees.cast(self.cell.init_carry(batch.inputs.shape[1]), self.network.dtype)
        _, ys = self.cell.unroll(params["cell"], first, batch.inputs.astype(self.network.dtype))
        return mean((affine(params["head"], ys[-1])[:, 0] - batch.targets.astype(self.network.dtype)) ** 2), ()


@dataclass(frozen=True)
class Adding(Task):
    """Data that are generated; there are no files."""

    lag: int = 8
    unit: ClassVar[str] = "sequences"
    default_files: ClassVar[tuple[str, ...]] = ("builtin:adding",)
    metrics: ClassVar[Mapping[str, Metric]] = {"loss": Metric()}

    def read(self, files, facts=None, *, purpose="train"):
        return Data(None, None, {"lag": self.lag}, tuple(files), "adding")

    def model(self, facts, network):
        return Sum(network.make_cell(2), 1, network)

    def fit(self, data, size):
        return self, size, ""

    def steps_per_epoch(self, data, size):
        return 10

    def batch(self, data, step, size, rows=slice(None)):
        rng = np.random.default_rng(step)
        values, marked = rng.random((self.lag, size)), np.zeros((self.lag, size))
        marked[rng.integers(0, self.lag // 2, size), np.arange(size)] = 1
        marked[rng.integers(self.lag // 2, self.lag, size), np.arange(size)] = 1
        xs = np.stack([values, marked], 2).astype(np.float32)[:, rows]
        return Batch(xs, xs.prod(2).sum(0), float(xs.shape[1]))

    def evaluate(self, model, params, examples):
        return {"loss": float(model.loss(params, (), self.batch(None, 10**6, 100), None)[0])}


NAMES, TEXT = ("Italian.txt", "Russian.txt"), ("fox.txt",)


def files_of(task: Task) -> tuple[str, ...]:
    return NAMES if isinstance(task, (Names, names_task.Names)) else TEXT if isinstance(task, Text) else ()


class Sampler(Classifier):
    """Beside its loss, the estimate of a gradient by samples (REINFORCE), which leaves the loss's value as it is."""

    constant = staticmethod(stop_gradient)

    def loss(self, params, carry, batch, rng):
        loss, carry = super().loss(params, carry, batch, rng)
        if rng is not None:
            logits = self.scores(params, batch, rng)
            sample = stop_gradient(logits + standard_normal(logits.shape, rng, logits.dtype))
            reward = (np.asarray(value_of(sample)).argmax(1) == batch.targets).astype(logits.dtype)
            density = gaussian(sample, logits, np.zeros((), logits.dtype)).sum(axis=1)
            estimate = -mean(reward * density)
            loss = loss + (estimate - self.constant(estimate))
        return loss, carry


class Samples(Names):
    model_class: ClassVar[Any] = Sampler


@pytest.mark.parametrize("task", [Names(), Text(), Adding(), Samples()], ids=lambda task: type(task).__name__)
def test_a_right_task_passes_every_check(task):
    report = check_task(task, files_of(task))
    report.raise_if_failed()
    assert [check.name for check in report.checks] == [
        "options", "read", "model", "batch", "weight", "loss", "facts",
        "batches", "units", "read with facts", "rows", "padding", "dropout", "purity", "carry", "float32", "learning",
        "metrics", "evaluate", "held out", "offers", "predictions", "outputs", "probe",
        "gradient",
    ]  # fmt: skip
    assert 0 < report.error < 1e-6


def test_a_task_of_somebody_else_passes_every_check():
    check_task(names_task.Names(valid_fraction=0.2), NAMES).raise_if_failed()
    check_task(names_task.Names(lower=True), NAMES).raise_if_failed()


def test_it_takes_another_cell_and_another_generator():
    made, rng = [], np.random.default_rng(3)
    before = rng.bit_generator.state

    def cell(width):
        made.append(width)
        return LSTM(width, 5)

    check_task(Names(), NAMES, cell=cell, rng=rng).raise_if_failed()
    assert made
    assert rng.bit_generator.state != before


# --- wrong tasks: the checks that fail, and what each says ------------------------------------------------------------


def failures(task: Task) -> dict[str, str]:
    """What a check finds, with # for the numbers that are computed, which differ from machine to machine."""
    found = check_task(task, files_of(task), cell=lambda width: RNN(width, 4)).failures
    return {check.name: re.sub(r"-?\d+\.\d+(e[+-]\d\d)?|\d+e[+-]\d\d", "#", check.detail) for check in found}


@dataclass(frozen=True)
class HidesTheCount(Names):
    count: int = 3


class WithoutDigest(Names):
    def read(self, files, facts=None, *, purpose="train"):
        return replace(super().read(files, facts, purpose=purpose), digest="")


class DecidesWhatIsGiven(Names):
    def resolve(self, facts, network):
        return replace(network, embedding_size=0)


class GivesADict(Names):
    def read(self, files, facts=None, *, purpose="train"):
        return vars(super().read(files, facts))


class TooFew(Names):
    def fit(self, data, size):
        return self, 1, ""


class MissingFile(Names):
    def read(self, files, facts=None, *, purpose="train"):
        raise UserError("the file 'Italian.txt' has no names")


class NoModel(Names):
    def model(self, facts, network):
        return super().model(facts, network).cell


class Float64Parameters(Names):
    class model_class(Classifier):
        def init_params(self, rng):
            params = super().init_params(rng)
            return params | {"head": trees.cast(params["head"], np.float64)}


class IgnoresTheSeed(Names):
    class model_class(Classifier):
        def init_params(self, rng):
            return super().init_params(np.random.default_rng())


class CarryWithoutBatch(Names):
    class model_class(Classifier):
        def init_carry(self, size):
            return {"count": np.zeros(1, np.float32)}


class NoSteps(Names):
    def steps_per_epoch(self, data, size):
        return len(data.train) / size


class NoBatch(Names):
    def pack(self, examples):
        return tuple(super().pack(examples))


class NoPair(Names):
    class model_class(Classifier):
        def loss(self, params, carry, batch, rng):
            return super().loss(params, carry, batch, rng)[0]


class LossOfEach(Names):
    class model_class(Classifier):
        def loss(self, params, carry, batch, rng):
            return -pick(log_softmax(self.scores(params, batch)), batch.targets), carry


class LossNotFinite(Names):
    class model_class(Classifier):
        def loss(self, params, carry, batch, rng):
            return super().loss(params, carry, batch, rng)[0] * np.nan, carry


class NumPyFacts(Names):
    def read(self, files, facts=None, *, purpose="train"):
        data = super().read(files, facts, purpose=purpose)
        return Data(data.train, data.valid, {**data.facts, "count": np.int64(3)}, data.sources, data.digest)


class FactsByNumber(Names):
    def read(self, files, facts=None, *, purpose="train"):
        data = super().read(files, facts, purpose=purpose)
        labels = dict(enumerate(data.facts["labels"]))
        return Data(data.train, data.valid, {**data.facts, "labels": labels}, data.sources, data.digest)

    def model(self, facts, network):
        return super().model({**facts, "labels": facts["labels"][0] + facts["labels"][1]}, network)


class FactsThatShrink(Names):
    def read(self, files, facts=None, *, purpose="train"):
        data = super().read(files, facts, purpose=purpose)
        labels = dict.fromkeys((0, "0"))
        return Data(data.train, data.valid, {**data.facts, "labels": labels}, data.sources, data.digest)


@dataclass(frozen=True)
class GoesOn(Names):
    """Its batches come from a generator that goes on: each depends on how many were asked for."""

    generators: dict[int, Iterator[int]] = field(default_factory=dict)

    def batch(self, data, step, size, rows=slice(None)):
        if rows == slice(None):
            step = next(self.generators.setdefault(id(data), iter(range(1000))))
        return super().batch(data, step, size, rows)


class AlwaysTheFirst(Names):
    def batch(self, data, step, size, rows=slice(None)):
        return super().batch(data, 0, size, rows)


class ReadsAtRandom(Names):
    def read(self, files, facts=None, *, purpose="train"):
        data = super().read(files, facts, purpose=purpose)
        order = np.random.default_rng().permutation(len(data.train))
        return Data([data.train[i] for i in order], data.valid, data.facts, data.sources, data.digest)


@dataclass(frozen=True)
class DigestOfTheTime(Names):
    readings: list[int] = field(default_factory=list)

    def read(self, files, facts=None, *, purpose="train"):
        data = super().read(files, facts, purpose=purpose)
        self.readings.append(1)
        return Data(data.train, data.valid, data.facts, data.sources, f"reading {len(self.readings)}")


class ForgetsFacts(Names):
    def read(self, files, facts=None, *, purpose="train"):
        return super().read(files, purpose=purpose)


class ForgetsFactsOfItsFile(Text):
    def read(self, files, facts=None, *, purpose="train"):
        return super().read(files, purpose=purpose)


class HoldsOutOfWhatIsEvaluated(Names):
    def read(self, files, facts=None, *, purpose="train"):
        data = super().read(files, facts, purpose=purpose)
        return Data(data.valid, [], facts, data.sources, data.digest) if purpose == "evaluate" else data


class ReadsAnotherSplit(Names):
    def read(self, files, facts=None, *, purpose="train"):
        data = super().read(files, facts, purpose=purpose)
        return data if facts is None else Data(data.train[::-1], data.valid, facts, data.sources, data.digest)


class ReadsAnotherDigest(Names):
    def read(self, files, facts=None, *, purpose="train"):
        data = super().read(files, facts, purpose=purpose)
        return data if facts is None else Data(data.train, data.valid, facts, data.sources, "another")


class IgnoresRows(Names):
    def batch(self, data, step, size, rows=slice(None)):
        return super().batch(data, step, size)


class WeighsNothing(Names):
    def pack(self, examples):
        return super().pack(examples)._replace(weight=0.0)


class WeighsOne(Names):
    def pack(self, examples):
        return super().pack(examples)._replace(weight=1.0)


class WeighsLetters(Names):
    """Its loss is a mean over names, and its weight counts letters."""

    def pack(self, examples):
        return super().pack(examples)._replace(weight=float(sum(len(word) for word, _ in examples)))


class AlwaysTheFirstRows(Names):
    def batch(self, data, step, size, rows=slice(None)):
        first = slice(0, len(range(size)[rows]))
        return super().batch(data, step, size, first)


class DrawsByRows(Adding):
    """Each rank draws its own data, which are the same on all of them."""

    def batch(self, data, step, size, rows=slice(None)):
        return super().batch(data, step, len(range(size)[rows]))


class LosesItsRowsCarry(Text):
    """The rows of a batch are others than those of the carry."""

    def batch(self, data, step, size, rows=slice(None)):
        if step % 2 and rows != slice(None):
            rows = slice(size - rows.stop, size - rows.start)
        return super().batch(data, step, size, rows)


class ReadsThePadding(Names):
    class model_class(Classifier):
        def read_out(self, params, ys, lengths):
            return affine(params["head"], ys[-1])


class AveragesThePadding(Names):
    """The mean over all steps, padding included."""

    class model_class(Classifier):
        def read_out(self, params, ys, lengths):
            return affine(params["head"], mean(ys, 0))


class BatchesOfOneLength(ReadsThePadding):
    """Its own batches are of one length, so that only examples packed otherwise show what is not masked."""

    def batch(self, data, step, size, rows=slice(None)):
        word = data.train[step % 3][0]
        some = [(word[::-1] if i % 2 else word, i % 2) for i in range(size)]
        return self.pack(some[rows])

    def steps_per_epoch(self, data, size):
        return 3


class PadsItsOwnBatches(Adding):
    """It reads past the end of the short ones among its own batches; it has no pack."""

    def batch(self, data, step, size, rows=slice(None)):
        batch = super().batch(data, step, size, rows)
        longest = max(range(size)[rows])
        return batch._replace(inputs=np.concatenate([batch.inputs, batch.inputs[:longest]]))


class DropsAlongTheSteps(Names):
    """Its masks are of steps in place of sequences."""

    class model_class(Classifier):
        def scores(self, params, batch, rng=None):
            if rng is None or not self.network.dropout:
                return super().scores(params, batch)
            symbols, lengths = batch.inputs
            xs = one_hot(symbols, self.cell.input_size, self.network.dtype)
            carry = trees.cast(self.cell.init_carry(len(lengths)), self.network.dtype)
            _, ys = self.cell.unroll(params["cell"], carry, xs, lengths=lengths)
            return self.read_out(params, dropout(ys[-1:], 0.3, rng), np.ones_like(lengths))


class ChangesTheBatch(Names):
    class model_class(Classifier):
        def loss(self, params, carry, batch, rng):
            result = super().loss(params, carry, batch, rng)
            batch.targets[...] = 0
            return result


class ChangesAParameter(Names):
    class model_class(Classifier):
        def loss(self, params, carry, batch, rng):
            result = super().loss(params, carry, batch, rng)
            if isinstance(params["head"]["b"], np.ndarray) and self.network.dropout:
                params["head"]["b"] += 1
            return result


class DrawsItsOwnDropout(Names):
    class model_class(Classifier):
        def loss(self, params, carry, batch, rng):
            return super().loss(params, carry, batch, None if rng is None else np.random.default_rng())


class DropsAlways(Names):
    class model_class(Classifier):
        def loss(self, params, carry, batch, rng):
            if self.network.dropout:
                rng = np.random.default_rng()
            return super().loss(params, carry, batch, rng)


class LosesTheCarry(Text):
    def model(self, facts, network):
        class Loses(NextSymbol):
            def loss(self, params, carry, batch, rng):
                loss, carry = super().loss(params, carry, batch, rng)
                return loss, ()

        return Loses(network.make_cell(len(facts["symbols"])), len(facts["symbols"]), network)


class WidensTheCarry(Text):
    def model(self, facts, network):
        class Widens(NextSymbol):
            def loss(self, params, carry, batch, rng):
                loss, carry = super().loss(params, carry, batch, rng)
                return loss, np.asarray(value_of(carry), np.float64)

        return Widens(network.make_cell(len(facts["symbols"])), len(facts["symbols"]), network)


class Widens(Adding):
    def model(self, facts, network):
        class Wide(Sum):
            def loss(self, params, carry, batch, rng):
                loss, carry = super().loss(params, carry, batch, rng)
                return loss * np.ones((), np.float64), carry

        return Wide(network.make_cell(2), 1, network)


class DetachesTheHead(Names):
    class model_class(Classifier):
        def read_out(self, params, ys, lengths):
            return super().read_out(params | {"head": trees.map(value_of, params["head"])}, ys, lengths)


class LearnsNothing(Names):
    class model_class(Classifier):
        def loss(self, params, carry, batch, rng):
            loss, carry = super().loss(params, carry, batch, rng)
            return loss * 0 + 3, carry


class ClimbsUp(Names):
    """What it gives is not what it has the gradient of."""

    class model_class(Classifier):
        def loss(self, params, carry, batch, rng):
            loss, carry = super().loss(params, carry, batch, rng)
            return 2 * value_of(loss) - loss, carry


class HidesAConstant(Names):
    """A gradient that the loss has only with a generator, with a constant that nobody can tell from other values."""

    class model_class(Sampler):
        constant = staticmethod(lambda x: np.array(value_of(x)))


class Undeclared(Names):
    metrics: ClassVar[Any] = {"loss": Metric("nats"), "f1": Metric("", "max"), "accuracy": Metric("", "max")}


class WithoutLoss(Names):
    metrics: ClassVar[Any] = {"accuracy": Metric("", "max")}

    def evaluate(self, model, params, examples):
        return {"accuracy": super().evaluate(model, params, examples)["accuracy"]}


class BestIsUnknown(Names):
    best: ClassVar[Any] = ("f1", "max")


class BestIsTheLowestAccuracy(Names):
    best: ClassVar[Any] = ("accuracy", "min")


class ComparesTheUnknown(Names):
    compared: ClassVar[str] = "f1"


class NarrowMetrics(Names):
    def evaluate(self, model, params, examples):
        found = super().evaluate(model, params, examples)
        return found | {"accuracy": np.float32(found["accuracy"])}


class MetricNotFinite(Names):
    def evaluate(self, model, params, examples):
        return super().evaluate(model, params, examples) | {"accuracy": np.inf}


class DerivesTwice(Names):
    def derived(self, metrics, facts, part="valid"):
        return {"accuracy": 1.0}


class MeanOfMeans(Names):
    def evaluate(self, model, params, examples):
        parts = [examples[i : i + 4] for i in range(0, len(examples), 4)]
        found = [super(MeanOfMeans, self).evaluate(model, params, part) for part in parts]
        return {name: float(np.mean([one[name] for one in found])) for name in found[0]}


class EvaluatesAtRandom(Names):
    def evaluate(self, model, params, examples):
        found = super().evaluate(model, params, examples)
        return found | {"loss": found["loss"] + np.random.default_rng().random()}


class EvaluatesTheFirst(Names):
    def evaluate(self, model, params, examples):
        return super().evaluate(model, params, examples[:3])


class HoldsOutAlways(names_task.Names):
    def read(self, files, facts=None, *, purpose="train"):
        data = super().read(files, facts, purpose=purpose)
        return replace(data, valid=data.valid or data.train[:3])


class PredictsTwice(names_task.Names):
    def predict(self, model, params, facts, inputs, **options):
        return (found for found in super().predict(model, params, facts, inputs, **options) for _ in range(2))


class PredictsRecords(names_task.Names):
    def predict(self, model, params, facts, inputs, **options):
        return (found.record for found in super().predict(model, params, facts, inputs, **options))


class PredictsLines(names_task.Names):
    def predict(self, model, params, facts, inputs, **options):
        return (found._replace(text="a\nb") for found in super().predict(model, params, facts, inputs, **options))


class PredictsSets(names_task.Names):
    def predict(self, model, params, facts, inputs, **options):
        found = super().predict(model, params, facts, inputs, **options)
        return (prediction._replace(record={"scores": np.zeros(2), "labels": {1}}) for prediction in found)


class PredictsPictures(names_task.Names):
    def predict(self, model, params, facts, inputs, *, explain=False, **options):
        picture = Picture("p", "Picture", (Panel(np.zeros((2, 2), np.uint8)),))
        found = super().predict(model, params, facts, inputs, **options)
        return (prediction._replace(figures=(picture,) * explain) for prediction in found)


class PredictsNoPictures(names_task.Names):
    shows_pictures: ClassVar[bool] = True


class DrawsTwice(names_task.Names):
    def generate(self, model, params, facts, inputs, choice, rng):
        assert None not in inputs
        return (Prediction("a", {}) for _ in range(2 * len(inputs)))


class DrawsLines(names_task.Names):
    def generate(self, model, params, facts, inputs, choice, rng):
        return (Prediction("a\nb", {}) for _ in inputs)


class DrawsByItself(names_task.Names):
    needs_input: ClassVar[bool] = False

    def generate(self, model, params, facts, inputs, choice, rng):
        assert inputs == [None] * len(inputs)
        return (Prediction("a", {"pixels": np.random.default_rng().random(3)}) for _ in inputs)


class DrawsNoPictures(PredictsPictures):
    shows_pictures: ClassVar[bool] = True

    def generate(self, model, params, facts, inputs, choice, rng):
        return (Prediction("a", {"pixels": rng.random(3)}) for _ in inputs)


class PredictsByPlace(names_task.Names):
    def predict(self, model, params, facts, inputs, **options):
        found = super().predict(model, params, facts, inputs, **options)
        return (prediction._replace(text=str(place)) for place, prediction in enumerate(found))


class PredictsAllAtOnce(names_task.Names):
    def predict(self, model, params, facts, inputs, **options):
        yield from list(super().predict(model, params, facts, list(islice(inputs, 5000)), **options))


class ExplainsSomethingElse(names_task.Names):
    def predict(self, model, params, facts, inputs, *, top=1, explain=False):
        found = super().predict(model, params, facts, inputs, top=top)
        return (prediction._replace(text="why") if explain else prediction for prediction in found)


class HasNoInputs(names_task.Names):
    def inputs(self, file, facts):
        return iter([])


class SaysItIsFrozen(names_task.Names):
    def model(self, facts, network):
        found = super().model(facts, network)
        object.__setattr__(found, "frozen", lambda: ("head.b",))
        return found


class WritesAList(Names):
    def excerpt(self, model, params, data, size, rng):
        return ["a"]


class GuessesNothing(Names):
    def guessing(self, facts):
        return float("inf")


class ProbesNothing(Names):
    def probe(self, model, params, examples, facts):
        return model


class NamesProbe(names_task.Names):
    probe_class: ClassVar[Any] = names_task.NamesProbe

    def probe(self, model, params, examples, facts):
        return self.probe_class(model, params, examples, facts)


class ReadsBeforeTheName(NamesProbe):
    """Its window reads the padding before the shorter names as if it were letters."""

    class probe_class(names_task.NamesProbe):
        def read(self, xs, *, mask=None):
            return super().read(xs)


class StartsAnew(NamesProbe):
    """Its window forgets what was read before it."""

    class probe_class(names_task.NamesProbe):
        def window(self, ends, length, warm_up=0):
            return super().window(ends, length, warm_up)._replace(carry=self.init_carry(len(ends)))


class OneLossForAll(NamesProbe):
    class probe_class(names_task.NamesProbe):
        def loss(self, outputs, targets):
            return mean(super().loss(outputs, targets))


class TargetOfEachLetter(NamesProbe):
    class probe_class(names_task.NamesProbe):
        def targets(self, ends, length):
            return np.tile(super().targets(ends, length), (length, 1))


class NoPositions(NamesProbe):
    class probe_class(names_task.NamesProbe):
        def ends(self, length, warm_up=0, *, scored=True):
            return []


HALVES = "the halves of the batch of step {}, weighed, have the mean loss #; all together have #"
UNLIKE = "examples of unlike lengths, each alone and weighed, have the mean loss #; all together have #"
ONE_BY_ONE = "the rows of a batch, each alone and weighed, have the mean loss #; all together have #"
DROPOUT = (
    "the halves of a batch, weighed, have the mean loss # with dropout where the whole has #; dropout and dropout_mask "
    "take the axis of the batch"
)
ANOTHER = "read for 'again' gives another batch of step 0; it must be the same"
EXPLAINED = (
    "the predictions for some inputs are ['Russian #', 'Italian #', 'Russian #', 'Italian #', 'Russian #'], and "
    "['why', 'why', 'why', 'why', 'why'] with explain=True"
)
REVERSED = "loss is # in reverse order; expected #, as on the same examples before"
FUNCTION = "it must be a function of its arguments"
WIDE = (
    "TypeError: multiply: a float32 tensor met float64 values, and nothing is widened silently: convert them first, "
    "with .astype(np.float32)"
)

WRONG: dict[type[Task], dict[str, str]] = {
    HidesTheCount: {"options": "the option 'count' hides an attribute of the base class; rename it"},
    DecidesWhatIsGiven: {
        "model": (
            "resolve changes a given embedding size of 5 to 0; it may only replace None, and model refuses an "
            "unsuitable size"
        ),
    },
    WithoutDigest: {"read": "read returns no digest, by which a run detects that its data have changed"},
    GivesADict: {"read": "read returns a dict; expected Data"},
    TooFew: {"read": "the files are enough only for a batch of 1; use files with more training data"},
    MissingFile: {"read": "UserError: the file 'Italian.txt' has no names"},
    NoModel: {"model": "model returns a RNN; expected a Model"},
    Float64Parameters: {
        "model": (
            "parameter 'head.W' is of type float64; each parameter must be an array of float32, the network's "
            "dtype; put a constant into the loss"
        ),
    },
    IgnoresTheSeed: {
        "model": "parameter 'cell.U' has other initial values at a second call with an equal generator",
    },
    CarryWithoutBatch: {"model": "carry 'count' is of shape (1,); its first axis must be the batch"},
    NoSteps: {"batch": "steps_per_epoch returns #; expected a whole number of at least 1"},
    NoBatch: {"batch": "batch returns a tuple; expected a Batch"},
    NoPair: {"loss": "loss returns a float32; expected the pair (mean loss, carry)"},
    LossOfEach: {"loss": "the loss is of shape (6,); it must be one number, a mean"},
    LossNotFinite: {"loss": "the loss of new parameters is nan; it must be finite"},
    NumPyFacts: {
        "facts": "the facts cannot be saved as JSON: Object of type int64 is not JSON serializable",
    },
    FactsByNumber: {"facts": "the model made from saved facts fails: KeyError: 0"},
    FactsThatShrink: {
        "facts": ("in the model made from saved facts, parameter 'head.W' is (4, 1); expected (4, 2)"),
    },
    GoesOn: {
        "batches": "the batch of step 9 differs at a second call; it must be the same",
        "read with facts": ANOTHER,
        "rows": HALVES.format(0),
    },
    AlwaysTheFirst: {"batches": "the batches of the steps 0 and 1 are the same; they must contain different data"},
    ReadsAtRandom: {
        "batches": "the batch of step 0 differs after files are read again; it must be the same",
        "read with facts": ANOTHER,
    },
    DigestOfTheTime: {
        "batches": "files read again have the digest 'reading 2'; expected 'reading 1', as before",
        "read with facts": "read for 'again' gives the digest 'reading 3'; expected 'reading 1'",
    },
    ForgetsFacts: {
        "read with facts": ("in the model of data read with facts, parameter 'cell.U' is (24, 4); expected (34, 4)"),
    },
    ForgetsFactsOfItsFile: {
        "read with facts": ("in the model of data read with facts, parameter 'cell.U' is (28, 4); expected (29, 4)"),
    },
    HoldsOutOfWhatIsEvaluated: {
        "read with facts": "read for 'evaluate' returns no examples in valid, which must contain all of them",
    },
    ReadsAnotherSplit: {"read with facts": ANOTHER},
    ReadsAnotherDigest: {
        "read with facts": "read for 'again' gives the digest 'another'; expected 'digest'",
    },
    IgnoresRows: {"weight": "the halves of a batch weigh 6 and 6, and the whole weighs 6; they must add up to it"},
    WeighsNothing: {"weight": "the weight of a batch is 0; it must be above 0"},
    WeighsOne: {"weight": "the halves of a batch weigh 1 and 1, and the whole weighs 1; they must add up to it"},
    WeighsLetters: {
        "units": "units_per_step returns 6 names, and batches weigh 38 on average; count must count what the weight of "
        "a batch counts",
        "rows": HALVES.format(0),
        "padding": UNLIKE,
        "evaluate": "loss is # 86 times over; expected #, as on the same examples before",
    },
    AlwaysTheFirstRows: {"rows": HALVES.format(0)},
    DrawsByRows: {"rows": HALVES.format(0), "padding": ONE_BY_ONE, "dropout": DROPOUT},
    LosesItsRowsCarry: {
        "rows": "the carry after the rows 0 to 2 of step 1 differs from the whole's: the relative difference is #",
    },
    ReadsThePadding: {"rows": HALVES.format(1), "padding": UNLIKE},
    AveragesThePadding: {"rows": HALVES.format(1), "padding": UNLIKE},
    BatchesOfOneLength: {"padding": UNLIKE},
    PadsItsOwnBatches: {"rows": HALVES.format(0), "padding": ONE_BY_ONE, "dropout": DROPOUT},
    DropsAlongTheSteps: {"dropout": DROPOUT},
    ChangesTheBatch: {"purity": "the loss changes the batch in place; it must compute a new array instead"},
    ChangesAParameter: {"purity": "the loss changes a parameter in place; it must compute a new array instead"},
    DrawsItsOwnDropout: {
        "dropout": DROPOUT,
        "purity": (
            "the loss of a batch is #, and # at a second call with an equal generator; it must be a function of "
            "its arguments"
        ),
    },
    DropsAlways: {
        "dropout": DROPOUT,
        "purity": (
            "the loss of a batch is #, and # at a second call without a generator; it must be a function of its "
            "arguments"
        ),
    },
    LosesTheCarry: {
        "rows": (
            "ValueError: RNN: the carry has another structure than init_carry gives it: the trees differ at the "
            "root: a leaf in the first, a tuple of 0 in tree 2; give trees of one structure"
        ),
        "carry": 'a batch turns the carry "leaf" into {"tuple": []}; it must keep its structure',
    },
    WidensTheCarry: {
        "carry": (
            "the carry is (6, 4) of float64 after a batch and (6, 4) of float32 before it; it must keep its "
            "shape and dtype"
        ),
    },
    Widens: {"float32": WIDE, "learning": WIDE},
    DetachesTheHead: {"gradient": "with respect to 'head.W', the relative error is #; it must be at most #"},
    LearnsNothing: {"learning": "40 steps on one batch change its loss from 3 to 3; it must decrease"},
    ClimbsUp: {
        "learning": "40 steps on one batch change its loss from # to #; it must decrease",
        "gradient": "with respect to 'cell.U', the relative error is #; it must be at most #",
    },
    HidesAConstant: {"gradient": "with respect to 'cell.U', the relative error is #; it must be at most #"},
    Undeclared: {"metrics": "evaluate and derived return accuracy, loss; metrics declares accuracy, f1, loss"},
    WithoutLoss: {"metrics": "evaluate returns accuracy; the loss must be among them"},
    BestIsUnknown: {"metrics": "best is 'f1', which evaluate does not return; it returns accuracy, loss"},
    BestIsTheLowestAccuracy: {"metrics": "best is 'accuracy' with the direction 'min'; metrics declares 'max'"},
    ComparesTheUnknown: {"metrics": "compared is 'f1'; metrics declares accuracy, loss"},
    NarrowMetrics: {"metrics": "accuracy is a float32; metrics are written as JSON, so it must be a float"},
    MetricNotFinite: {
        "metrics": "accuracy is inf; it must be finite",
        "evaluate": "accuracy is inf a second time; expected inf, as on the same examples before",
    },
    DerivesTwice: {"metrics": "evaluate and derived both return accuracy; only one of them may"},
    MeanOfMeans: {"evaluate": REVERSED},
    EvaluatesAtRandom: {"evaluate": "loss is # a second time; expected #, as on the same examples before"},
    EvaluatesTheFirst: {"evaluate": REVERSED},
    HoldsOutAlways: {"held out": "with valid_fraction=0, 3 names are held out; expected none"},
    PredictsTwice: {"predictions": "predict yields 10 predictions for 5 inputs; expected one for each"},
    PredictsRecords: {"predictions": "predict yields a dict; expected a Prediction"},
    PredictsLines: {"predictions": "the text of a prediction is 'a\\nb'; expected one line"},
    PredictsSets: {"predictions": "TypeError: a set is no value of a record; expected JSON or arrays"},
    PredictsPictures: {
        "predictions": "predict with explain=True gives pictures; shows_pictures is False and must be True"
    },
    PredictsNoPictures: {
        "predictions": "shows_pictures is True, and predict with explain=True gives an output without a Picture among "
        "its figures"
    },
    DrawsTwice: {"outputs": "generate yields 10 outputs for 5 inputs; expected one for each"},
    DrawsLines: {"outputs": "the text of a prediction is 'a\\nb'; expected one line"},
    DrawsByItself: {"outputs": "generate yields other outputs at a second call with the same random numbers"},
    DrawsNoPictures: {
        "outputs": "shows_pictures is True, and generate gives an output without a Picture among its figures"
    },
    PredictsByPlace: {
        "predictions": (
            "the predictions for some inputs are ['0', '1', '2', '3', '4'], and ['0', '0', '0', '0', '0'] one by one"
        ),
    },
    PredictsAllAtOnce: {
        "predictions": "predict takes 5,000 inputs before its first prediction; expected at most 1,024",
    },
    ExplainsSomethingElse: {"predictions": EXPLAINED},
    HasNoInputs: {"predictions": "inputs yields nothing of the files that were read"},
    SaysItIsFrozen: {"gradient": "'head.b' is frozen, and the loss has a gradient with respect to it"},
    WritesAList: {"offers": "excerpt returns a list; expected a text or None"},
    ProbesNothing: {"probe": "probe returns a Classifier; expected a Probe or None"},
    ReadsBeforeTheName: {
        "probe": (
            "the window of a position has other outputs than in the window of several: the relative difference is #"
        ),
    },
    StartsAnew: {
        "probe": "a window that begins a step later ends in other outputs: the relative difference is #",
    },
    OneLossForAll: {"probe": "the result of loss is of shape (); expected (2,)"},
    TargetOfEachLetter: {"probe": "the result of targets is of shape (3, 2); expected (2,)"},
    NoPositions: {"probe": "longest returns 5 and ends(3, 1) no positions; expected at least one"},
    GuessesNothing: {"offers": "guessing returns inf; expected a finite loss or None"},
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_task_is_found(wrong):
    assert failures(wrong()) == WRONG[wrong]


def test_a_failing_report_raises_and_names_every_failure():
    with pytest.raises(CheckError) as caught:
        check_task(WithoutLoss(), NAMES).raise_if_failed()
    assert str(caught.value) == (
        "WithoutLoss() fails 1 of 25 checks:\n  metrics: evaluate returns accuracy; the loss must be among them"
    )


def test_it_takes_a_task_and_no_class():
    with pytest.raises(TypeError, match=r"^check_task: got <class '.*Names'>; expected a task, such as Names\(\)$"):
        check_task(Names)
    with pytest.raises(TypeError, match=r"^check_task: got 'names'; expected a task, such as LanguageModel\(\)$"):
        check_task("names")


class FailsInFloat64(Names):
    """A model that cannot be had in float64 is compared in float32, and has no finite differences."""

    def model(self, facts, network):
        if network.dtype != "float32":
            raise UserError("the network is of float32 alone")
        return super().model(facts, network)


def test_a_model_of_float32_alone_is_compared_in_float32():
    report = check_task(FailsInFloat64(), NAMES)
    report.raise_if_failed()
    assert "gradient" not in {check.name for check in report.checks}
