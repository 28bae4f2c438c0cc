"""What a task is: files into examples, the model and its loss, its metrics, and what it offers commands beside."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self

import numpy as np

from minigrad.trees import Tree
from rnn_cells import Cell

if TYPE_CHECKING:
    from rnn_plugins.language import Language
    from rnn_plugins.reports.probe import Probe

Part = Literal["train", "valid"]
"""Of which part of the data a number is."""

Purpose = Literal["train", "again", "resume", "evaluate"]
"""What files are read for.

``train``: a new run. ``again``: the data of a run once more, from the files that it recorded; nothing is waited for, as
standard input would be, and data that turn out to be others need not be read to the end. ``resume``: data for a run
that goes on or is repeated; the caller compares them with those of the run. ``evaluate``: other examples, all of which
are put into ``Data.valid``.
"""

AT_ONCE = 256
"""Examples that ``Task.evaluate`` takes together."""


class Batch(NamedTuple):
    """What one training step learns from.

    Attributes:
        inputs: as the model's loss takes them.
        targets: likewise.
        weight: how many terms its mean loss has (symbols, sequences, frames that are not padding): what a mean over
            several batches, or over the shares of one, is weighed by.
    """

    inputs: Any
    targets: Any
    weight: float


class Metric(NamedTuple):
    """What a number that ``Task.evaluate`` gives means.

    Attributes:
        unit: such as "nats"; empty for a pure number.
        direction: whether lower or higher is better.
        head: of its column in a table; empty for its name.
        digits: decimals that a table shows.
        word: what it is called in a sentence; empty for its name.
    """

    unit: str = ""
    direction: Literal["min", "max"] = "min"
    head: str = ""
    digits: int = 3
    word: str = ""


@dataclass(frozen=True, eq=False)
class Data:
    """What was read.

    Attributes:
        train: the examples to train on, in whatever form the task takes them.
        valid: the examples held out, possibly none.
        facts: all that a model needs in order to be built again without the data, as JSON takes it: vocabularies,
            labels, sizes.
        sources: the files as they were named.
        digest: SHA-256, in hexadecimal, of their content.
        about: what was read, in a phrase: how much, of what kind.
        notices: sentences that the user should see.
    """

    train: Any
    valid: Any
    facts: Mapping[str, Any]
    sources: Sequence[str] = ()
    digest: str = ""
    about: str = ""
    notices: Sequence[str] = ()


@dataclass(frozen=True)
class Network:
    """What the user wants of a network, whatever the task.

    Attributes:
        make_cell: from the width of an input to the recurrent part: one cell or a stack, ablated where that was asked.
        hidden_size: units per layer.
        embedding_size: width of an embedding of symbols; 0 for one-hot, None leaves it to the task.
        dropout: rate between layers and before the output, while training.
        variational_dropout: one mask for all steps of a sequence.
        dtype: of parameters and activations.
    """

    make_cell: Callable[[int], Cell]
    hidden_size: int = 256
    embedding_size: int | None = None
    dropout: float = 0.0
    variational_dropout: bool = False
    dtype: str = "float32"


class Score(NamedTuple):
    """How well something does on examples.

    Attributes:
        name: what: the run's name, or a baseline's.
        kind: ``model``, or what the baseline is.
        metrics: by name; None where one says nothing.
    """

    name: str
    kind: str
    metrics: Mapping[str, float | None]


@dataclass(frozen=True)
class Assessment:
    """A network's score on examples, beside what it is measured against.

    Attributes:
        scores: the network's first.
        metrics: the columns of the table.
        count: how many units were predicted.
        unit: what they are, in the plural.
        verdict: the comparison in words, a sentence each.
        notices: what is to be said of it, a sentence each.
        details: more numbers, for JSON.
    """

    scores: tuple[Score, ...]
    metrics: Mapping[str, Metric]
    count: int
    unit: str
    verdict: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)


class Work(NamedTuple):
    """One step of a model, of which operations are counted: ``step(params, carry, x)`` for one sequence.

    Attributes:
        step: the step function, from an input to the scores.
        params: its parameters.
        carry: of one sequence.
        x: an input of one sequence, (1, I).
        looked_up: whether the input is one-hot, so that its product with a matrix is a row of it.
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
        """Fresh parameters."""

    def init_carry(self, size: int) -> Tree:
        """What passes from batch to batch (truncated BPTT), for ``size`` sequences; () where nothing does."""
        return ()

    @abstractmethod
    def loss(self, params: Tree, carry: Tree, batch: Batch, rng: np.random.Generator | None) -> tuple[Any, Tree]:
        """The mean loss of a batch, over ``batch.weight`` terms, and the carry after it.

        Args:
            params: the parameters.
            carry: as ``init_carry`` or the batch before gives it.
            batch: what to learn from.
            rng: draws the masks of dropout; None leaves dropout out.
        """

    def shapes_known(self) -> dict[str, tuple[int, ...]]:
        """Shapes of parameters, by path, that are known without making any: a damaged file is found out by them."""
        return {}

    def work(self) -> Work | None:
        """One step, whose operations are counted; None where the model cannot say."""
        return None


@dataclass(frozen=True)
class Task(ABC):
    """What a network is trained to do; entry points of the group ``rnn.tasks`` name subclasses.

    Its fields are its options (``--task-option NAME=VALUE``), exactly as those of a cell are. A task knows no terminal
    and no run; nobody outside its file knows it by name.

    Attributes:
        unit: what is counted, in the plural: characters, sentences, frames. ``Batch.weight`` counts them.
        best: the metric that chooses the weights to keep, and its direction.
        metrics: what ``evaluate`` and ``derived`` give, by name.
        compared: the metric by which runs are compared; ``best`` where it is empty.
        default_files: what is trained on where the user names nothing.
        of_weights: the options that a run which starts with another's weights takes over; None for all.
        of_evaluation: options with which a run reads other examples than its own, in place of those of its training.
    """

    unit: ClassVar[str] = "examples"
    best: ClassVar[tuple[str, Literal["min", "max"]]] = ("loss", "min")
    metrics: ClassVar[Mapping[str, Metric]] = {"loss": Metric("nats", "min", "NATS")}
    compared: ClassVar[str] = ""
    default_files: ClassVar[tuple[str, ...]] = ()
    of_weights: ClassVar[tuple[str, ...] | None] = None
    of_evaluation: ClassVar[Mapping[str, Any]] = {}

    @property
    def held_out_part(self) -> str:
        """What is held out, in words."""
        return "the held-out part"

    @abstractmethod
    def read(self, files: Sequence[str], facts: Mapping[str, Any] | None = None, *, purpose: Purpose = "train") -> Data:
        """Files into examples.

        Args:
            files: as the user names them.
            facts: of a run that goes on, is evaluated, predicts, or lends its weights; None where there is none.
            purpose: what they are read for. Whether the data of a run are what they were, the caller tells by the
                digest.

        Raises:
            UserError: a file cannot be read or is not of the task's kind: file, line, what was expected.
        """

    @abstractmethod
    def model(self, facts: Mapping[str, Any], network: Network) -> Model:
        """The model for data of these facts.

        Raises:
            UserError: the network's settings do not suit the task.
        """

    def check_facts(self, facts: Mapping[str, Any]) -> Mapping[str, Any]:
        """Facts out of a file, seen to be whole as far as the task reads them.

        Raises:
            ValueError: they are damaged; a ``KeyError`` or ``TypeError`` says so too.
        """
        return facts

    def resolve(self, facts: Mapping[str, Any], network: Network) -> Network:
        """The network with nothing left open that the task decides, such as the width of an embedding."""
        return network

    def fit(self, data: Data, size: int) -> tuple[Self, int, str]:
        """The task, the batch size, and a sentence on what had to be reduced because the data are few, or nothing."""
        count = len(data.train)
        if not 0 < count < size:
            return self, size, ""
        return self, count, f"there are only {count:,} examples to train on, which reduces the batch size from {size}"

    def count(self, examples: Any) -> int:
        """How many units some examples have."""
        return 0 if examples is None else len(examples)

    def steps_per_epoch(self, data: Data, size: int) -> int:
        """Training steps in one pass over the data."""
        return max(1, len(data.train) // size)

    def units_per_step(self, data: Data, size: int) -> float:
        """How many units a step learns from, on average."""
        return self.count(data.train) / self.steps_per_epoch(data, size)

    def batch(self, data: Data, step: int, size: int, rows: slice = slice(None)) -> Batch:
        """The batch of a step, counted from 0: a function of the step alone, so that training can go on anywhere.

        Here: the examples in an order that each epoch shuffles anew.

        Args:
            data: as ``read`` gives it.
            step: which.
            size: sequences of a whole batch.
            rows: those wanted; the share of one of several processes that train together.
        """
        epoch, place = divmod(step, self.steps_per_epoch(data, size))
        order = np.random.default_rng(epoch).permutation(len(data.train))[place * size : (place + 1) * size]
        return self.pack([data.train[i] for i in order[rows]])

    def pack(self, examples: Sequence[Any]) -> Batch:
        """Some examples as a batch, padded to the longest; for tasks that use the ``batch`` and ``evaluate`` here."""
        raise NotImplementedError(f"{type(self).__name__} defines neither pack nor batch and evaluate")

    def evaluate(self, model: Model, params: Tree, examples: Any) -> dict[str, float]:
        """The metrics on some examples, the loss among them; they do not depend on how the examples are batched."""
        total = weight = 0.0
        for start in range(0, len(examples), AT_ONCE):
            some = examples[start : start + AT_ONCE]
            batch = self.pack(some)
            loss, _ = model.loss(params, model.init_carry(len(some)), batch, None)
            total, weight = total + float(loss) * batch.weight, weight + batch.weight
        return {"loss": total / weight}

    def derived(self, metrics: Mapping[str, float], facts: Mapping[str, Any], part: Part = "valid") -> dict[str, float]:
        """What follows from metrics, such as bits per character from nats per symbol.

        Args:
            metrics: as ``evaluate`` gives them.
            facts: of the data.
            part: of which part of them the metrics are.
        """
        return {}

    def seen(self, units: float, facts: Mapping[str, Any]) -> tuple[float, str]:
        """How much data some units of training are, in the unit in which runs are compared, and that unit."""
        return units, self.unit

    def comparable(self, runs: Mapping[str, tuple[Task, Mapping[str, Any]]]) -> tuple[list[str], list[str]]:
        """Why runs on the same data cannot be compared, and what else to know of them, a clause each.

        Args:
            runs: task and facts of each, by its name.
        """
        return [], []

    def contains(self, training: Any, examples: Any) -> bool:
        """Whether some examples are among those that a network was trained on, as far as one can tell."""
        return False

    def guessing(self, facts: Mapping[str, Any]) -> float | None:
        """The loss of one who takes everything possible for equally likely; None where there is no such thing."""
        return None

    def assess(self, model: Model, params: Tree, data: Data, *, name: str, training: Any = None) -> Assessment:
        """The network's metrics on ``data.valid``, beside baselines where the task has some.

        Args:
            model: the network.
            params: its parameters.
            data: the examples, and the facts of the run.
            name: of the run.
            training: the examples that it was trained on, for baselines; None where they cannot be had.
        """
        metrics = self.evaluate(model, params, data.valid)
        score = Score(name, "model", metrics | self.derived(metrics, data.facts))
        return Assessment((score,), self.metrics, self.count(data.valid), self.unit)

    # What a task may offer beside: commands and reports ask for it, and refuse a task that does not have it.

    def excerpt(
        self, model: Model, params: Tree, facts: Mapping[str, Any], size: int, rng: np.random.Generator
    ) -> str | None:
        """What the network makes as it is now, to be shown while it is trained: about ``size`` characters."""
        return None

    def predict(self, model: Model, params: Tree, facts: Mapping[str, Any], files: Sequence[str]) -> Any:
        """What the network says of inputs in files, an iterator of JSON-like records; None where it predicts none."""
        return None

    def probe(self, model: Model, params: Tree, examples: Any, facts: Mapping[str, Any]) -> Probe | None:
        """The model along sequences, as reports look at it; None where there is no such view."""
        return None

    def language(self, model: Model, facts: Mapping[str, Any]) -> Language | None:
        """The model as one that reads and writes texts; None where it is none."""
        return None
