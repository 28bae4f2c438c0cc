"""What a task is: files into examples, the model and its loss, its metrics, and what it offers commands beside."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import numpy as np

from minigrad.trees import Tree
from rnn_cells import Cell

if TYPE_CHECKING:
    from rnn_plugins.language import Language
    from rnn_plugins.reports.probe import Probe

Part = Literal["train", "valid"]
"""Of which part of the data a number is."""

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
    """

    unit: str = ""
    direction: Literal["min", "max"] = "min"
    head: str = ""


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
    """

    unit: ClassVar[str] = "examples"
    best: ClassVar[tuple[str, Literal["min", "max"]]] = ("loss", "min")
    metrics: ClassVar[Mapping[str, Metric]] = {"loss": Metric("nats", "min", "NATS")}
    compared: ClassVar[str] = ""
    default_files: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def read(self, files: Sequence[str], facts: Mapping[str, Any] | None = None, *, again: bool = False) -> Data:
        """Files into examples.

        Args:
            files: as the user names them.
            facts: of a run that is evaluated, predicts, or lends its weights; None where a run begins with nothing.
            again: whether these are the files that the run of these facts was trained on, read once more; the caller
                compares the digests.

        Raises:
            UserError: a file cannot be read or is not of the task's kind: file, line, what was expected.
        """

    @abstractmethod
    def model(self, facts: Mapping[str, Any], network: Network) -> Model:
        """The model for data of these facts.

        Raises:
            UserError: the network's settings do not suit the task.
        """

    def resolve(self, facts: Mapping[str, Any], network: Network) -> Network:
        """The network with nothing left open that the task decides, such as the width of an embedding."""
        return network

    def fit(self, data: Data, size: int) -> tuple[Task, int, str]:
        """The task, the batch size, and a sentence on what had to be reduced because the data are few, or nothing."""
        count = self.count(data.train)
        notice = f"there are {count:,} {self.unit} to train on, which reduces the batch size from {size} to {count}"
        return (self, count, notice) if 0 < count < size else (self, size, "")

    def count(self, examples: Any) -> int:
        """How many units some examples have."""
        return len(examples)

    def steps_per_epoch(self, data: Data, size: int) -> int:
        """Training steps in one pass over the data."""
        return max(1, len(data.train) // size)

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

    def guessing(self, facts: Mapping[str, Any]) -> float | None:
        """The loss of one who takes everything possible for equally likely; None where there is no such thing."""
        return None

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
