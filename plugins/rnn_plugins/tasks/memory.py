"""Learn the classic problems on which the memory of recurrent networks is tried, from generated sequences."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from minigrad import affine, log_softmax, pick, softmax, square, trees
from minigrad.initializers import glorot_uniform, zeros
from minigrad.trees import Tree
from rnn_cells import Cell
from rnn_cells.stacked import drop_steps
from rnn_plugins.data import sequences
from rnn_plugins.data.sequences import BUILTIN, NOTHING, PROBLEMS, Drawn, Memoryless, Problem, Stream
from rnn_plugins.errors import UserError
from rnn_plugins.tasks import metrics
from rnn_plugins.tasks.blocks import Symbols, chunks, masked_mean, no_embedding, padded, pool, unroll
from rnn_plugins.tasks.task import (
    AT_ONCE,
    SHARE,
    Assessment,
    Batch,
    Data,
    Metric,
    Model,
    Network,
    Prediction,
    Purpose,
    Score,
    Task,
    Work,
)

if TYPE_CHECKING:
    from rnn_plugins.reports.probe import Probe
    from rnn_plugins.reports.report import Figure

Array: TypeAlias = NDArray[Any]

HELD_OUT, PROBED = 1000, 50
"""Sequences that are held out, and that reports measure at least."""

NUMBERS = 1 << 25
"""Outputs of a cell that are held at a time."""

SHOWN, WIDE, PREDICTED = 6, 60, 64
"""Sequences of an excerpt, characters of a long one that are shown, and how many are predicted at a time."""

STEPS = 100
"""Training steps that are called an epoch, since the sequences have no end."""

SOLVED_ERROR, SOLVED_SHARE, RIGHT_WITHIN = 0.01, 0.99, 0.04
"""When a problem is solved: below this mean squared error, or with this share of sequences right. A sum is right within
the last (Hochreiter and Schmidhuber 1997, section 5.4)."""


@dataclass(frozen=True)
class Reader(Model):
    """The cell reads a sequence; a linear head reads its last output, or every output.

    Attributes:
        cell: the recurrent part.
        problem: what is learnt.
        symbols: how the cell sees symbols; None for numbers.
        network: the user's settings.
    """

    cell: Cell
    problem: Problem
    symbols: Symbols | None
    network: Network

    def init_params(self, rng: np.random.Generator) -> Tree:
        """``cell``, ``head`` (W (H, classes), b), and ``symbols`` if there is an embedding."""
        shape = (self.cell.output_size, max(1, len(self.problem.classes)))
        params: dict[str, Any] = {"cell": self.cell.init_params(rng)}
        params["head"] = {"W": glorot_uniform(rng, shape), "b": zeros(rng, shape[1:])}
        if self.symbols and self.symbols.width:
            params["symbols"] = self.symbols.init_params(rng)
        return trees.cast(params, self.network.dtype)

    def see(self, params: Tree, inputs: Array) -> Any:
        """What the cell sees of inputs (T, B) or (T, B, 2)."""
        if self.symbols is None:
            return inputs.astype(self.network.dtype)
        return self.symbols(params.get("symbols", ()), inputs)

    def outputs(self, params: Tree, drawn: Drawn, rng: np.random.Generator | None = None) -> Any:
        """The cell's outputs, (T, B, H)."""
        network = self.network
        ys = unroll(self.cell, params["cell"], self.see(params, drawn.inputs), drawn.lengths, network.dtype, rng)
        if rng is not None and network.dropout:
            ys = drop_steps(ys, network.dropout, network.variational_dropout, rng)
        return ys

    def answers(self, params: Tree, drawn: Drawn, rng: np.random.Generator | None = None) -> Any:
        """The head's outputs: (B, classes) at the end, or (T, B, classes)."""
        ys = self.outputs(params, drawn, rng)
        return affine(params["head"], pool(ys, drawn.lengths, "last", self.cell) if self.problem.at_end else ys)

    def loss(self, params: Tree, carry: Tree, batch: Batch, rng: np.random.Generator | None) -> tuple[Any, Tree]:
        """The mean squared error, or the mean of -log p(target)."""
        answers, targets = self.answers(params, batch.inputs, rng), batch.targets
        live = targets != NOTHING
        return masked_mean(_errors(self.problem, answers, np.where(live, targets, 0)), live), carry

    def work(self) -> Work:
        """One step, from an input to the head's outputs."""
        params = self.init_params(np.random.default_rng(0))
        x = np.zeros((1, self.cell.input_size), self.network.dtype)
        carry = trees.cast(self.cell.init_carry(1), self.network.dtype)
        return Work(self._step, params, carry, x, self.symbols is not None and not self.symbols.width)

    def _step(self, params: Tree, carry: Tree, x: Any) -> tuple[Tree, Any]:
        carry, y = self.cell(params["cell"], carry, x)
        return carry, affine(params["head"], y)


@dataclass(frozen=True)
class Memory(Task[Reader]):
    """Learn a problem that needs memory, from generated sequences: adding, copying, brackets, sums and others.

    ``adding``: the sum of the two marked numbers of a sequence (Hochreiter and Schmidhuber 1997). ``copy``: ten symbols
    are written after a lag (Arjovsky et al. 2016). ``order``: in which order two symbols came (Hochreiter and
    Schmidhuber 1997). ``parity``: whether the number of ones is odd. ``brackets``: which bracket closes next.
    ``sorting``: digits are written in order. ``sums``: "12+57=" is followed by "69" (Zaremba and Sutskever 2014).

    Attributes:
        problem: what is learnt.
        lag: its length: numbers (adding), steps between (copy), symbols (order), bits at most (parity), brackets,
            digits (sorting), digits of a number at most (sums); 0 for the problem's model.
    """

    problem: Literal["adding", "copy", "order", "parity", "brackets", "sorting", "sums"] = "adding"
    lag: int = 0

    best: ClassVar[tuple[str, Literal["min", "max"]]] = ("loss", "min")
    default_files: ClassVar[tuple[str, ...]] = (BUILTIN,)
    of_weights: ClassVar[tuple[str, ...]] = ("problem",)
    takes_text: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the range of the lag.

        Raises:
            ValueError: it is out of range.
        """
        kind = PROBLEMS[self.problem]
        if self.lag and not kind.shortest <= self.lag <= kind.longest:
            raise ValueError(
                f"lag is {self.lag}; for {self.problem} it must be from {kind.shortest} to {kind.longest:,}, or 0 for "
                f"{kind.lag}"
            )

    @property
    def kind(self) -> Problem:
        """The problem."""
        return PROBLEMS[self.problem]

    @property
    def unit(self) -> str:  # type: ignore[override]
        """What is predicted: sequences, or symbols of them."""
        return "sequences" if self.kind.at_end else "symbols"

    @property
    def metrics(self) -> Mapping[str, Metric]:  # type: ignore[override]
        """The loss, the share of sequences that are right, and whether that solves the problem."""
        # "nats" would have a loss near 0 called learnt, and copying costs that little without any memory.
        unit = {"adding": "", "copy": "nats per step"}.get(self.problem, "nats")
        return {
            "loss": Metric(unit, "min", "NATS" if self.kind.classes else "MSE", 4, "loss" if unit else "squared error"),
            "right": Metric("", "max", "RIGHT", SHARE, "share of sequences right"),
            "solved": Metric("", "max", "SOLVED", 0),
        }

    @property
    def held_out_part(self) -> str:
        """The sequences that are drawn for validation."""
        return "the held-out sequences"

    def read(self, files: Sequence[str], facts: Mapping[str, Any] | None = None, *, purpose: Purpose = "train") -> Data:
        """Take the names of generated sequences: ``builtin:memory``, or ``builtin:memory:SEED`` for others.

        Raises:
            UserError: it is another name, or there are several.
        """
        if len(files) != 1 or not files[0].startswith(BUILTIN):
            raise UserError(
                f"the task generates its data: expected {BUILTIN} or {BUILTIN}:SEED, such as {BUILTIN}:1; got "
                f"{', '.join(files) or 'nothing'}"
            )
        lag = self.lag or self.kind.lag
        train = Stream(self.problem, lag, sequences.seed_of(files[0]))
        if facts is None or purpose == "train":  # the weights may be those of a run with another lag
            facts = {"problem": self.problem, "lag": lag}
        digest = hashlib.sha256(repr(train).encode()).hexdigest()
        about = f"{self.problem} with {self.kind.meaning.format(lag=lag)}, {self.kind.steps(lag):,} steps"
        return Data(train, replace(train, count=HELD_OUT), facts, tuple(files), digest, about)

    def check_facts(self, facts: Mapping[str, Any]) -> Mapping[str, Any]:
        """Check the problem and the lag.

        Raises:
            ValueError: they are not those of this task.
        """
        if facts["problem"] != self.problem or type(facts["lag"]) is not int:
            raise ValueError(f"its problem is {facts['problem']!r} with lag {facts['lag']!r}; expected {self.problem}")
        return facts

    def resolve(self, facts: Mapping[str, Any], network: Network) -> Network:
        """The network with one-hot symbols by default."""
        return network if network.embedding_size is not None else replace(network, embedding_size=0)

    def model(self, facts: Mapping[str, Any], network: Network) -> Reader:
        """The cell, with a linear head on its last output or on all.

        Raises:
            UserError: an embedding of numbers is asked for.
        """
        symbols = None
        if self.kind.symbols:
            symbols = Symbols(len(self.kind.symbols), network.embedding_size or 0, network.dtype)
        else:
            no_embedding(network, f"the problem {self.problem} reads numbers")
        return Reader(network.make_cell(symbols.input_size if symbols else 2), self.kind, symbols, network)

    def count(self, examples: Stream | None) -> int:
        """The number of sequences, or of symbols to write in them."""
        if not examples:
            return 0
        return len(examples) if self.kind.at_end else int((examples.draw().targets != NOTHING).sum())

    def steps_per_epoch(self, data: Data, size: int) -> int:
        """A fixed number."""
        return STEPS

    def batch(self, data: Data, step: int, size: int, rows: slice = slice(None)) -> Batch:
        """New sequences for each step."""
        return _batch(data.train.draw((data.seed, step), size), rows)

    def evaluate(self, model: Reader, params: Tree, examples: Stream) -> dict[str, float]:
        """The mean loss, the share of sequences that are right, and whether the problem is solved (1 or 0)."""
        return self._evaluate(lambda drawn: model.answers(params, drawn), examples, model.cell.output_size)

    def _evaluate(self, answers_of: Callable[[Drawn], Any], examples: Stream, width: int = 1) -> dict[str, float]:
        """The metrics of answers; for each, ``width`` numbers are held at a time."""
        drawn, total, weight, right = examples.draw(), 0.0, 0.0, 0
        at_once = max(1, min(AT_ONCE, NUMBERS // (len(drawn.inputs) * width)))
        for start in range(0, len(examples), at_once):
            batch = _batch(drawn, slice(start, start + at_once))
            answers, live = np.asarray(answers_of(batch.inputs)), batch.targets != NOTHING
            losses = np.asarray(_errors(self.kind, answers, np.where(live, batch.targets, 0)), np.float64)
            total, weight = total + float(losses[live].sum()), weight + batch.weight
            right += int(self._right(answers, batch.targets).sum())
        loss, share = total / weight, right / len(examples)
        solved = share >= SOLVED_SHARE if self.kind.classes else loss < SOLVED_ERROR
        return {"loss": loss, "right": share, "solved": float(solved)}

    def _right(self, answers: Array, targets: Array) -> Array:
        """Which sequences are right in all that is to be predicted, (B,)."""
        if not self.kind.classes:
            return np.asarray(abs(answers[:, 0] - targets) < RIGHT_WITHIN)
        right = (np.argmax(answers, axis=-1) == targets) | (targets == NOTHING)
        return right if self.kind.at_end else np.asarray(right.all(axis=0))

    def comparable(self, runs: Mapping[str, tuple[Task, Mapping[str, Any]]]) -> tuple[list[str], list[str]]:
        """Runs on other problems or with other lags cannot be compared."""
        found = sorted({f"{facts['problem']} with lag {facts['lag']}" for _, facts in runs.values()})
        return ([f"the runs learn different problems ({', '.join(found)})"] if len(found) > 1 else []), []

    def guessing(self, facts: Mapping[str, Any]) -> float:
        """The loss without memory, where that is known, or of uniform guessing."""
        return sequences.chance(self.problem, facts["lag"])

    def assess(self, model: Reader, params: Tree, data: Data, *, name: str, training: Any = None) -> Assessment:
        """The network's metrics, and those of a prediction that remembers nothing.

        That is the mean of all sums, or the frequencies of what follows each symbol at each step, counted on sequences
        with another seed.
        """
        examples: Stream = data.valid
        scores = [Score(name, "model", self.evaluate(model, params, examples)), *self.baselines(model, data)]
        verdict = [*metrics.verdict(scores, "loss", self.metrics["loss"])]
        if self.problem == "copy":
            formula = sequences.chance("copy", examples.lag)
            verdict.append(f"The loss without memory, 10 ln 8 / (T + 20), is {formula:.4f}.")
        takes = f"{100 * SOLVED_SHARE:g} % of the sequences right"
        if not self.kind.classes:
            takes = f"a mean squared error below {SOLVED_ERROR:g}"
        verdict.append(f"The problem is {'' if scores[0].metrics['solved'] else 'not '}solved: that takes {takes}.")
        return Assessment(tuple(scores), self.metrics, self.count(examples), self.unit, tuple(verdict))

    def baselines(self, model: Reader, data: Data) -> tuple[Score, ...]:
        """Those of a prediction that remembers nothing."""
        return (Score("no memory", "baseline", self._evaluate(Memoryless(data.valid).answers, data.valid)),)

    def excerpt(self, model: Reader, params: Tree, data: Data, size: int, rng: np.random.Generator) -> str:
        """Some held-out sequences, with what the network answers, and the truth where it is wrong."""
        drawn, targets, _ = _batch(data.valid.draw(), slice(0, SHOWN))
        answers = np.asarray(model.answers(params, drawn))
        right, lines = self._right(answers, targets), []
        for i, length in enumerate(drawn.lengths):
            inputs = drawn.inputs[:length, i]
            answer = sequences.write_answer(self.problem, inputs, answers[..., i, :])
            truth = "" if right[i] else f" (true: {sequences.write_target(self.problem, inputs, targets[..., i])})"
            lines.append(f"{sequences.write_text(self.problem, inputs, WIDE)} {answer}{truth}")
        return "\n".join(lines)

    def inputs(self, file: str, facts: Mapping[str, Any]) -> Iterator[Array]:
        """The sequences in a file, one on a line, as ``read_text`` takes them; or generated ones.

        Raises:
            UserError: the file cannot be read, or a line is no such sequence.
        """
        from rnn_plugins.data.lines import lines, name_of

        if file.startswith(BUILTIN):
            drawn = Stream(self.problem, facts["lag"], sequences.seed_of(file), HELD_OUT).draw()
            yield from (drawn.inputs[:length, i] for i, length in enumerate(drawn.lengths))
            return
        for number, line in enumerate(lines(file), 1):
            try:
                yield sequences.read_text(self.problem, line, facts["lag"])
            except UserError as error:
                raise UserError(f"{name_of(file)}, line {number}: {error}") from None

    def predict(
        self,
        model: Reader,
        params: Tree,
        facts: Mapping[str, Any],
        inputs: Iterable[Any],
        *,
        top: int = 1,
        explain: bool = False,
    ) -> Iterator[Prediction]:
        """The network's answers to sequences, given as texts or as arrays of ``read_text``.

        Raises:
            UserError: an input is no sequence of the problem.
        """
        for some in chunks(inputs, PREDICTED):
            arrays = [
                (sequences.read_text if isinstance(item, str) else sequences.read_array)(
                    self.problem, item, facts["lag"]
                )
                for item in some
            ]
            together, lengths = padded(arrays)
            ys = np.asarray(model.outputs(params, Drawn(together, lengths, lengths)))
            scores = np.asarray(affine(params["head"], ys))
            for i, array in enumerate(arrays):
                yield self._prediction(array, scores[: len(array), i], top, explain)

    def _prediction(self, inputs: Array, scores: Array, top: int, explain: bool) -> Prediction:
        """The answer to one sequence, from the head's outputs along it, (n, classes)."""
        answer = sequences.write_answer(self.problem, inputs, scores[-1] if self.kind.at_end else scores)
        text, line = (
            sequences.write_text(self.problem, inputs),
            f"{sequences.write_text(self.problem, inputs, WIDE)}\t{answer}",
        )
        record: dict[str, Any] = {"input": text, "output": answer if self.kind.classes else float(scores[-1, 0])}
        figures = (self._answers(inputs, scores),) if explain else ()
        if not (self.kind.classes and self.kind.at_end):
            return Prediction(line, record, figures)
        likely = np.asarray(softmax(scores[-1].astype(np.float64)))
        ranked = [
            {"output": self.kind.classes[index], "probability": float(likely[index])}
            for index in np.argsort(-likely, kind="stable")[: max(1, top)]
        ]
        if top > 1:
            record["alternatives"] = ranked
        line = "\t".join([line.partition("\t")[0], *(f"{each['output']} {each['probability']:.3f}" for each in ranked)])
        return Prediction(line, record | ranked[0], figures)

    def _answers(self, inputs: Array, scores: Array) -> Figure:
        """What the network would answer after each step."""
        from rnn_plugins.reports.report import Chart, Curve, Image

        title, steps = "The answer after each step", np.arange(1, len(inputs) + 1)
        if not self.kind.classes:
            curves = (
                Curve("answer", steps, scores[:, 0]),
                Curve("sum so far", steps, np.cumsum(inputs.prod(axis=1)), role="reference"),
            )
            definition = "The answer if the sequence ended after each step, and the sum of the marked numbers."
            return Chart("answers", title, "step", "answer", curves, definition=definition)
        return Image(
            "answers",
            title,
            "symbol that was read",
            "answer",
            np.asarray(softmax(scores), np.float64).T,
            "probability",
            self.kind.inputs_shown(inputs),
            self.kind.classes,
            definition="The probability that the network gives to each answer (a row) after each step (a column).",
            limits=(0.0, 1.0),
        )

    def probe(self, model: Reader, params: Tree, examples: Stream, facts: Mapping[str, Any]) -> Probe:
        """The network along the sequences; where these have no end, along as many as are held out."""
        from rnn_plugins.reports.probe import Labels
        from rnn_plugins.tasks.probes import AtEnd, EveryStep

        kind, (far, words) = self.kind, self.kind.far
        count = min(HELD_OUT, max(PROBED, NUMBERS // 16 // kind.steps(examples.lag)))
        drawn = replace(examples, count=count).draw()
        inputs = [drawn.inputs[:length, i] for i, length in enumerate(drawn.lengths)]
        shared: dict[str, Any] = {
            "recurrent": model.cell,
            "weights": params,
            "inputs": inputs,
            "see": model.see,
            "dtype": model.network.dtype,
            "loss_unit": "nats" if kind.classes else "",
            "numbers_per_output": max(1, len(kind.classes)),
            "written": lambda i: Labels(kind.inputs_shown(inputs[i]), kind.targets_shown(drawn.targets[..., i])),
            "far": (far * examples.lag if far else None, words),
        }
        if kind.at_end:
            return AtEnd(
                goals=drawn.targets,
                score=lambda weights, ys, n, goals: _errors(
                    kind, affine(weights["head"], pool(ys, n, "last", model.cell)), goals
                ),
                **shared,
            )
        return EveryStep(
            goals=list(drawn.targets.T),
            score=lambda weights, ys, goals: _errors(kind, affine(weights["head"], ys), goals),
            **shared,
        )


def _errors(problem: Problem, answers: Any, targets: Array) -> Any:
    """The loss of each answer: its squared error, or -log p(target)."""
    if problem.classes:
        return -pick(log_softmax(answers), targets)
    return square(answers[..., 0] - targets.astype(answers.dtype))


def _batch(drawn: Drawn, rows: slice) -> Batch:
    """Some rows of drawn sequences as a batch."""
    some = Drawn(drawn.inputs[:, rows], drawn.targets[..., rows], drawn.lengths[rows])
    return Batch(some, some.targets, float((some.targets != NOTHING).sum()))
