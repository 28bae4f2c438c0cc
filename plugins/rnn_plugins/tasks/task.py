"""The base class of tasks: reading files, the model and its loss, metrics, and optional parts for some commands."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from minigrad.trees import Tree
from rnn_cells import Cell

if TYPE_CHECKING:
    from rnn_plugins.language import Language
    from rnn_plugins.language.sampling import Choice
    from rnn_plugins.reports.probe import Probe
    from rnn_plugins.reports.report import Figure

Part = Literal["train", "valid"]
"""A part of the data."""

Purpose = Literal["train", "again", "resume", "evaluate"]
"""What files are read for.

``train``: a new run. ``again``: the data of a run again, from the files that it recorded; standard input is not read,
and data that differ need not be read to the end. ``resume``: data for a run that is resumed or repeated; the caller
compares them with those of the run. ``evaluate``: other examples, all of which go into ``Data.valid``.
"""

SHARE = 4
"""The number of decimals of a metric that is a share, such as an accuracy or an F1."""

AT_ONCE = 256
"""Examples per batch of ``Task.evaluate``."""

POOL = 50
"""Batches whose examples are sorted by length together: few enough that each epoch has other batches."""


class Batch(NamedTuple):
    """The data of one training step.

    Attributes:
        inputs: as the model's loss takes them.
        targets: likewise.
        weight: the number of terms in its mean loss (symbols, sequences, frames without padding), the weight of the
            batch in a mean over several batches, or over the shares of one.
    """

    inputs: Any
    targets: Any
    weight: float


class Metric(NamedTuple):
    """Describes a number that ``Task.evaluate`` returns.

    Attributes:
        unit: such as "nats"; empty for a pure number.
        direction: "min" if lower is better, "max" if higher is.
        head: the head of its column in a table; empty for its name.
        digits: the number of decimals wherever it is shown; ``SHARE`` for a share.
        word: its name in a sentence; empty for its name.
        equals: another metric that it always equals, so that it is shown only beside runs where it does not.
    """

    unit: str = ""
    direction: Literal["min", "max"] = "min"
    head: str = ""
    digits: int = 3
    word: str = ""
    equals: str = ""


@dataclass(frozen=True, eq=False)
class Data:
    """The data read from files.

    Attributes:
        train: the training examples, in the task's own form.
        valid: the held-out examples, possibly none.
        facts: everything needed to build the model again without the data, as JSON: vocabularies, labels, sizes.
        sources: the files as named by the user.
        digest: SHA-256 of their content, in hexadecimal.
        about: size and kind of the data, in a phrase; how much is held out is added to it.
        notices: sentences for the user.
        seed: the seed of a run that trains on them: of the order of the examples, and of what a task draws per batch.
        memo: what was computed from the data, to be used again.
    """

    train: Any
    valid: Any
    facts: Mapping[str, Any]
    sources: Sequence[str] = ()
    digest: str = ""
    about: str = ""
    notices: Sequence[str] = ()
    seed: int = 0
    memo: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)


@dataclass(frozen=True)
class Network:
    """The user's settings of a network, for any task.

    Attributes:
        make_cell: makes the recurrent part from the width of an input: one cell or a stack, possibly ablated.
        hidden_size: units per layer.
        embedding_size: width of an embedding of symbols; 0 for one-hot, None for the task's default.
        dropout: rate between layers and before the output during training.
        variational_dropout: whether to use one mask for all steps of a sequence.
        dtype: of parameters and activations.
    """

    make_cell: Callable[[int], Cell]
    hidden_size: int = 256
    embedding_size: int | None = None
    dropout: float = 0.0
    variational_dropout: bool = False
    dtype: str = "float32"


class Score(NamedTuple):
    """The metrics of a network or a baseline on examples.

    Attributes:
        name: the name of the run or baseline.
        kind: ``model``, or the kind of baseline.
        metrics: by name; None if a metric does not apply.
    """

    name: str
    kind: str
    metrics: Mapping[str, float | None]


@dataclass(frozen=True)
class Assessment:
    """A network's score on examples, compared with baselines.

    Attributes:
        scores: the network's first.
        metrics: the columns of the table.
        count: the number of predicted units.
        unit: the name of the units, in the plural.
        verdict: sentences that compare the scores.
        notices: sentences for the user.
        details: more numbers, for JSON.
        figures: tables and pictures, such as a confusion matrix.
        asked: the index of the score that the task's options ask for: the network's own, or that of a variant of it.
    """

    scores: tuple[Score, ...]
    metrics: Mapping[str, Metric]
    count: int
    unit: str
    verdict: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    figures: tuple[Figure, ...] = ()
    asked: int = 0


def check_ranges(task: Task[Any], least: Mapping[str, int], shares: Sequence[str] = ()) -> None:
    """Check options of a task.

    Args:
        task: the task.
        least: the smallest value of options, by name.
        shares: options that must be at least 0 and below 1.

    Raises:
        ValueError: an option is out of range.
    """
    for name, smallest in least.items():
        if not getattr(task, name) >= smallest:  # NaN is not
            raise ValueError(f"{name} is {getattr(task, name)}; it must be at least {smallest}")
    for name in shares:
        if not 0 <= getattr(task, name) < 1:
            raise ValueError(f"{name} is {getattr(task, name):g}; it must be at least 0 and below 1")


class Prediction(NamedTuple):
    """What a network makes of one input.

    Attributes:
        text: a line for the terminal.
        record: the same as JSON, with the input where that is a text, and arrays. The entry ``top`` has alternatives,
            the likeliest first; if each is ``{"label": "pos", "probability": 0.9}``, a word (under any name) with its
            probability, they are drawn as bars too.
        figures: what explains it, where that was asked for.
    """

    text: str
    record: Mapping[str, Any]
    figures: tuple[Figure, ...] = ()


class Inputs(list[Any]):
    """Some of the inputs that a user gives, for one call of ``predict`` or ``generate``.

    Attributes:
        places: that of each among all of them, from 0.
    """

    def __init__(self, inputs: Iterable[Any], places: Sequence[int]) -> None:
        super().__init__(inputs)
        self.places = places


class Work(NamedTuple):
    """One step of a model, whose operations are counted: ``step(params, carry, x)`` for one sequence.

    Attributes:
        step: the step function, from an input to the scores.
        params: its parameters.
        carry: of one sequence.
        x: an input of one sequence, (1, I).
        looked_up: whether the input is one-hot, so that its product with a matrix is a lookup of a row.
    """

    step: Callable[[Tree, Tree, Any], tuple[Tree, Any]]
    params: Tree
    carry: Tree
    x: Any
    looked_up: bool = False


class Model(ABC):
    """A network with its loss, without its parameters."""

    @abstractmethod
    def init_params(self, rng: np.random.Generator) -> Tree:
        """New parameters."""

    def pretrained(self, params: Tree) -> Tree:
        """New parameters with those that were trained elsewhere in their places, such as word vectors from a file.

        Called once, when a run begins with new parameters.

        Raises:
            UserError: the file cannot be read.
        """
        return params

    def frozen(self) -> Collection[str]:
        """The paths of parameters that training leaves as they are; the loss must not differentiate by them."""
        return ()

    def init_carry(self, size: int) -> Tree:
        """The carry between batches (truncated BPTT) for ``size`` sequences; () if there is none."""
        return ()

    @abstractmethod
    def loss(self, params: Tree, carry: Tree, batch: Batch, rng: np.random.Generator | None) -> tuple[Any, Tree]:
        """The mean loss of a batch, over ``batch.weight`` terms, and the carry after it.

        Args:
            params: the parameters.
            carry: from ``init_carry`` or the batch before.
            batch: the batch.
            rng: draws the dropout masks; None for no dropout.
        """

    def shapes_known(self) -> dict[str, tuple[int, ...]]:
        """Shapes of parameters by path that are known in advance, to detect damaged files."""
        return {}

    def work(self) -> Work | None:
        """One step whose operations can be counted; None if there is no such step."""
        return None


if TYPE_CHECKING:  # with a default, so that tasks need not name their model; in typing only from Python 3.13 on
    from typing_extensions import TypeVar

    M = TypeVar("M", bound=Model, default=Model)
else:
    from typing import TypeVar

    M = TypeVar("M")


@dataclass(frozen=True)
class Task(ABC, Generic[M]):
    """What a network is trained to do; entry points of the group ``rnn.tasks`` name subclasses.

    Its fields are its options (``--task-option NAME=VALUE``), like those of a cell. A task is independent of terminal
    and runs, and no other module refers to it by name. M is the class of its models, for type checkers.

    Attributes:
        unit: the name of the units, in the plural: characters, sentences, frames. ``Batch.weight`` counts them.
        best: the metric that chooses the best weights, and its direction.
        metrics: the metrics of ``evaluate`` and ``derived``, by name.
        compared: the metric by which runs are compared; if empty, ``best``.
        default_files: the training data if the user names none.
        of_weights: the options that a run takes over with another run's weights; None for all.
        of_assessment: the options that only ``assess`` uses: ``rnn eval`` takes them, and no run records them.
        of_evaluation: options that replace a run's own when it reads other examples.
        takes_text: whether ``predict`` and ``generate`` take a text as an input.
        needs_input: whether ``generate`` needs inputs; if not, it gets None for each output.
        shows_pictures: whether ``predict`` with ``explain``, and ``generate``, give figures that are a ``Picture``.
    """

    unit: ClassVar[str] = "examples"
    best: ClassVar[tuple[str, Literal["min", "max"]]] = ("loss", "min")
    metrics: ClassVar[Mapping[str, Metric]] = {"loss": Metric("nats", "min", "NATS")}
    compared: ClassVar[str] = ""
    default_files: ClassVar[tuple[str, ...]] = ()
    of_weights: ClassVar[tuple[str, ...] | None] = None
    of_assessment: ClassVar[tuple[str, ...]] = ()
    of_evaluation: ClassVar[Mapping[str, Any]] = {}
    takes_text: ClassVar[bool] = False
    needs_input: ClassVar[bool] = True
    shows_pictures: ClassVar[bool] = False

    @property
    def held_out_part(self) -> str:
        """The held-out part, in words."""
        return "the held-out part"

    @abstractmethod
    def read(self, files: Sequence[str], facts: Mapping[str, Any] | None = None, *, purpose: Purpose = "train") -> Data:
        """Read examples from files.

        Args:
            files: as the user names them.
            facts: of a run that is resumed, evaluated, predicts, or lends its weights; None if there is none.
            purpose: what they are read for. The caller compares digests to check whether a run's data have changed.

        Raises:
            UserError: a file cannot be read or is not of the task's kind: file, line, what was expected.
        """

    @abstractmethod
    def model(self, facts: Mapping[str, Any], network: Network) -> M:
        """The model for data with these facts.

        Raises:
            UserError: the network's settings do not suit the task.
        """

    def with_held_out(self, data: Data, held_out: Data) -> Data:
        """The data with held-out examples that were read from files of their own, for ``purpose`` "evaluate"."""
        return replace(data, valid=held_out.valid)

    def check_facts(self, facts: Mapping[str, Any]) -> Mapping[str, Any]:
        """Check facts from a file, as far as the task reads them, and return them.

        Raises:
            ValueError: they are damaged; a ``KeyError`` or ``TypeError`` means the same.
        """
        return facts

    def resolve(self, facts: Mapping[str, Any], network: Network) -> Network:
        """The network with the task's defaults filled in, such as the width of an embedding."""
        return network

    def fit(self, data: Data, size: int) -> tuple[Self, int, str]:
        """The task and the batch size, reduced if there are few data, and a sentence that says so, or empty."""
        count = len(data.train)
        if not 0 < count < size:
            return self, size, ""
        return self, count, f"there are only {count:,} examples to train on, which reduces the batch size from {size}"

    def count(self, examples: Any) -> int:
        """The number of units in some examples."""
        return 0 if examples is None else len(examples)

    def length(self, example: Any) -> int:
        """The number of steps of an example; the default ``batch`` puts examples of like length into one batch."""
        return 0

    def steps_per_epoch(self, data: Data, size: int) -> int:
        """Training steps in one pass over the data."""
        return max(1, len(data.train) // size)

    def units_per_step(self, data: Data, size: int) -> float:
        """The mean number of units per training step; the weight of the first batch if the data have no count."""
        return self.count(data.train) / self.steps_per_epoch(data, size) or self.batch(data, 0, size).weight

    def batch(self, data: Data, step: int, size: int, rows: slice = slice(None)) -> Batch:
        """The batch of a step, counted from 0: a function of data and step alone, so that training can resume anywhere.

        By default, the examples in an order that is shuffled in each epoch, those of like length together.

        Args:
            data: as ``read`` returns it.
            step: the step.
            size: sequences in a whole batch.
            rows: the rows to return; the share of one of several processes that train together.
        """
        epoch, place = divmod(step, self.steps_per_epoch(data, size))
        order = self._order(data, epoch, size)[place * size : (place + 1) * size]
        return self.pack([data.train[i] for i in order[rows]])

    def _order(self, data: Data, epoch: int, size: int) -> NDArray[np.intp]:
        """The order of the training examples in an epoch, as their indices.

        They are shuffled. Then pools of ``POOL`` batches are sorted by length, and the batches are shuffled, so that a
        batch has little padding, and no epoch begins with its short examples. What does not fill a batch comes last.
        """
        if data.memo.get("epoch") == (epoch, size):  # a training step must not take the time of a whole epoch's shuffle
            found: NDArray[np.intp] = data.memo["order"]
            return found
        rng = np.random.default_rng((data.seed, epoch))
        order = rng.permutation(len(data.train))
        if type(self).length is not Task.length:
            if "lengths" not in data.memo:
                data.memo["lengths"] = np.fromiter(map(self.length, data.train), np.intp, len(data.train))
            lengths, whole = data.memo["lengths"], len(order) // size * size
            pools = [order[start : min(start + POOL * size, whole)] for start in range(0, whole, POOL * size)]
            alike = [pool[np.argsort(lengths[pool], kind="stable")].reshape(-1, size) for pool in pools]
            batches = rng.permutation(np.concatenate(alike)) if alike else order[:0]
            order = np.concatenate([batches.reshape(-1), order[whole:]])
        data.memo.update(epoch=(epoch, size), order=order)
        return order

    def pack(self, examples: Sequence[Any]) -> Batch:
        """Some examples as a batch, padded to the longest; required by the default ``batch`` and ``evaluate``."""
        raise NotImplementedError(f"{type(self).__name__} defines neither pack nor batch and evaluate")

    def evaluate(self, model: M, params: Tree, examples: Any) -> dict[str, float]:
        """The metrics on some examples, including the loss; they do not depend on how the examples are batched."""
        if type(self).length is not Task.length:
            examples = sorted(examples, key=self.length)  # for less padding
        total = weight = 0.0
        for start in range(0, len(examples), AT_ONCE):
            some = examples[start : start + AT_ONCE]
            batch = self.pack(some)
            loss, _ = model.loss(params, model.init_carry(len(some)), batch, None)
            total, weight = total + float(loss) * batch.weight, weight + batch.weight
        return {"loss": total / weight}

    def derived(self, metrics: Mapping[str, float], facts: Mapping[str, Any], part: Part = "valid") -> dict[str, float]:
        """Metrics derived from others, such as bits per character from nats per symbol.

        Args:
            metrics: as ``evaluate`` returns them.
            facts: of the data.
            part: the part of the data that the metrics are of.
        """
        return {}

    def seen(self, units: float, facts: Mapping[str, Any]) -> tuple[float, str]:
        """A number of training units converted to the unit in which runs are compared, and that unit."""
        return units, self.unit

    def comparable(self, runs: Mapping[str, tuple[Task, Mapping[str, Any]]]) -> tuple[list[str], list[str]]:
        """Why runs with the same data cannot be compared, and other differences between them, a clause each.

        By default, another share that is held out is a reason, and any other option that differs a difference.

        Args:
            runs: task and facts of each, by its name.
        """
        unfair, remarks = [], []
        for option in fields(self):
            found = [getattr(task, option.name, None) for task, _ in runs.values()]
            values = sorted({str(value).lower() if isinstance(value, bool) else str(value) for value in found})
            if len(values) > 1 and option.name == "valid_fraction":
                unfair.append(f"the runs do not hold out the same share of the data ({', '.join(values)})")
            elif len(values) > 1:
                remarks.append(f"the runs differ in the option {option.name} of their task ({', '.join(values)})")
        return unfair, remarks

    def contains(self, training: Any, examples: Any) -> bool:
        """Whether some examples are known to be among the training examples."""
        return False

    def guessing(self, facts: Mapping[str, Any]) -> float | None:
        """The loss of uniform guessing; None if that is undefined."""
        return None

    def assess(self, model: M, params: Tree, data: Data, *, name: str, training: Any = None) -> Assessment:
        """The network's metrics on ``data.valid``, and those of the task's baselines if it has any.

        Args:
            model: the network.
            params: its parameters.
            data: the examples, and the facts of the run.
            name: the run's name.
            training: the training examples, for baselines; None if unavailable.
        """
        metrics = self.evaluate(model, params, data.valid)
        score = Score(name, "model", metrics | self.derived(metrics, data.facts))
        return Assessment((score,), self.metrics, self.count(data.valid), self.unit)

    def baselines(self, model: M, data: Data) -> tuple[Score, ...]:
        """Scores on ``data.valid`` that take no network and little time, to be drawn beside a run's training.

        Args:
            model: the network, without its parameters.
            data: the data that the run is trained and validated on.
        """
        return ()

    # Optional parts: commands and reports that need one refuse a task without it.

    def excerpt(self, model: M, params: Tree, data: Data, size: int, rng: np.random.Generator) -> str | None:
        """Some of the network's output to show during training, about ``size`` characters long.

        Such as a sample of its text, or its predictions for a few held-out examples beside the truth.
        """
        return None

    def inputs(self, file: str, facts: Mapping[str, Any]) -> Iterator[Any]:
        """The inputs in a file, or in ``-``, standard input, one after the other, as ``predict`` takes them.

        Raises:
            UserError: the file cannot be read or is not of the task's kind: file, line, what was expected.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no inputs")

    def inputs_together(self, files: Sequence[str], facts: Mapping[str, Any]) -> Iterator[Any] | None:
        """The inputs in files that belong together, such as a table and the images that it is of; otherwise None.

        Raises:
            UserError: as for ``inputs``.
        """
        return None

    def predict(
        self,
        model: M,
        params: Tree,
        facts: Mapping[str, Any],
        inputs: Iterable[Any],
        *,
        top: int = 1,
        explain: bool = False,
    ) -> Iterator[Prediction] | None:
        """The network's predictions, one per input, in order; None if the task has none.

        Args:
            model: the network.
            params: its parameters.
            facts: of the run.
            inputs: as ``inputs`` gives them, or texts if ``takes_text``; they are taken as they are needed. ``Inputs``
                know their places among all that the user gives.
            top: the number of alternatives in a record, the likeliest first.
            explain: whether to add figures that explain the prediction.

        Raises:
            UserError: an input is unsuitable.
        """
        return None

    def generate(
        self,
        model: M,
        params: Tree,
        facts: Mapping[str, Any],
        inputs: Iterable[Any],
        choice: Choice,
        rng: np.random.Generator,
    ) -> Iterator[Prediction] | None:
        """An output drawn from the network for each input, in order; None if the task draws none.

        A picture is a ``Picture`` in the figures of its prediction, and its arrays are in the record.

        Args:
            model: the network.
            params: its parameters.
            facts: of the run.
            inputs: as for ``predict``; without ``needs_input``, a None per output.
            choice: how to draw a symbol.
            rng: draws.

        Raises:
            UserError: an input is unsuitable.
        """
        return None

    def probe(self, model: M, params: Tree, examples: Any, facts: Mapping[str, Any]) -> Probe | None:
        """The model along sequences, for reports; None if there is no such view."""
        return None

    def language(self, model: M, facts: Mapping[str, Any]) -> Language | None:
        """The model as a language model; None if it is not one."""
        return None
