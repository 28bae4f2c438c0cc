"""A run that is ready to train: what it costs, what it has learnt, and why it diverged."""

from __future__ import annotations

import hashlib
import shlex
import statistics
import time
import tracemalloc
from collections.abc import Generator, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minigrad import trees, value_and_grad
from minigrad.diagnosis import explain
from minigrad.training import NotFinite
from minigrad.trees import Tree
from rnn_lab.backends import on_backend
from rnn_lab.divergence import of_recurrence
from rnn_lab.evaluation import Evaluation, evaluate
from rnn_lab.paths import BEST
from rnn_lab.problem import Problem, reading
from rnn_lab.process import resident
from rnn_lab.retyping import command_of, typed
from rnn_lab.runs import Run
from rnn_lab.trainer import Progress, Trainer
from rnn_lab.verdict import Verdict, verdict
from rnn_plugins.data.sources import is_pipe
from rnn_plugins.errors import UserError
from rnn_plugins.tasks.task import Task

WARM_UP = 200
"""Steps of warm-up in the advice for a diverged run."""

MOST_DROPOUT = 0.5
"""The highest dropout in an advice; beyond it, a smaller network is advised."""


class Cost(NamedTuple):
    """The memory and time that a run needs.

    Attributes:
        bytes: of the process: Python and its libraries, data, weights, optimiser, and one training step.
        seconds_per_epoch: training time, without validation.
    """

    bytes: int
    seconds_per_epoch: float


@dataclass
class Session:
    """A run that is ready to train.

    Attributes:
        run: its folder.
        problem: what is trained.
        trainer: trains it.
        notices: sentences for the user.
        test: the evaluation on the test data, after training.
    """

    run: Run
    problem: Problem
    trainer: Trainer
    notices: list[str] = field(default_factory=list)
    test: Evaluation | None = None

    def cost(self) -> Cost:
        """Measure memory and time of the next step, by computing it a few times and discarding the result."""
        problem, state = self.problem, self.trainer.state
        step = value_and_grad(problem.loss, has_aux=True)
        times: list[float] = []
        with on_backend(self.trainer.settings.backend), np.errstate(all="ignore"):
            if few := problem.batch_size // 8:
                # Plan and compile now, also for the whole batch: with memory tracing it would take three times as long.
                some = problem.task.batch(problem.data, state.step, problem.batch_size, slice(few))
                step(state.params, problem.model.init_carry(few), some, np.random.default_rng(0))
            batch = problem.batch(state.step)
            before = resident()
            tracemalloc.start()
            step(state.params, state.carry, batch, np.random.default_rng(0))
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            while len(times) < 5 and sum(times) < 0.1:
                started = time.perf_counter()
                step(state.params, state.carry, batch, np.random.default_rng(0))
                times.append(time.perf_counter() - started)
        average = state.params if self.trainer.settings.average else ()
        kept = sum(array.nbytes for array in trees.leaves(average))
        return Cost(before + kept + peak, statistics.median(times) * problem.steps_per_epoch)

    def excerpt(self, size: int, *, best: bool = False) -> str | None:
        """A sample of the model's output, about ``size`` characters; None if its task has none.

        It does not draw from the training's generators.

        Args:
            size: characters.
            best: whether by the best weights, from their file, instead of the current ones.

        Raises:
            UserError: the model's scores are not finite, or the best weights cannot be read.
        """
        problem, state = self.problem, self.trainer.state
        params = self.run.params() if best else self.trainer.weights
        # Warnings are not needed: the loss shows whether the model diverges.
        with on_backend(self.trainer.settings.backend), np.errstate(all="ignore"):
            return problem.task.excerpt(problem.model, params, problem.data, size, np.random.default_rng(state.step))

    def events(self) -> Generator[Progress, None, None]:
        """Train to the end, as ``Trainer.events``, then evaluate the best weights on the test data if there are any."""
        yield from self.trainer.events()
        if self.trainer.settings.test and self.trainer.outcome in ("finished", "time", "patience"):
            self.test = self._tested()

    def _tested(self) -> Evaluation:
        run, settings = self.run, self.trainer.settings
        with on_backend(settings.backend):
            found = evaluate(run, settings.test)
        if before := run.manifest.get("test"):
            seen = f"the test data were evaluated on before, after step {before['step']:,}"
            found = replace(found, notices=(*found.notices, f"{seen}: what is chosen by that figure needs other data"))
        record = {"step": self.trainer.state.step, "best_step": self.trainer.best["step"], **found.to_json()}
        run.update(test=record)
        return found

    @property
    def writes(self) -> bool:
        """Whether it trains a language model, which can be sampled from."""
        return self.problem.task.language(self.problem.model, self.run.facts) is not None

    def input(self) -> str:
        """A file of its own with inputs to predict from; FILE if there is none, TEXT if its task reads no files."""
        settings = self.trainer.settings
        if type(self.problem.task).inputs is Task.inputs:
            return "TEXT"
        for file in (*settings.valid, *settings.files):
            if not is_pipe(file):
                with suppress(UserError), reading([file]):  # a file may have something else, such as captions
                    for _ in self.problem.task.inputs(file, self.run.facts):
                        return file
        return "FILE"

    @property
    def unit(self) -> str:
        """The name of the task's units, in the plural."""
        return self.problem.task.unit

    def verdict(self, records: Iterable[dict[str, Any]] | None = None) -> Verdict:
        """The conclusion from the losses; empty if they are not in nats.

        Args:
            records: those of the run so far; None to read them.
        """
        if self.problem.task.metrics["loss"].unit != "nats":
            return Verdict()
        stopped = self.trainer.outcome in ("time", "patience")
        done = 1.0 if stopped else self.trainer.state.step / max(self.trainer.total_steps, 1)
        guessing = self.problem.task.guessing(self.run.facts)
        settings = self.trainer.settings
        longer = "more --epochs" if settings.steps is None else "more --steps"
        if self.trainer.outcome == "time":
            longer = "a longer --max-time"
        known = list(self.run.records() if records is None else records)
        by_loss = self.trainer.metric == "loss"
        ended = settings.has_end and done >= 1 and self.trainer.outcome != "patience"
        return verdict(known, done, guessing, self.trainer.learning_rate, longer, by_loss, ended)

    def next_command(self) -> str:
        """A command that does what the verdict advises: it trains the run further, or a new one with another setting.

        It is empty if there is no such advice, if the run did not come to its end, or if its data cannot be read again.
        """
        change, trainer, settings = self.verdict().change, self.trainer, self.trainer.settings
        if not change or trainer.outcome not in ("finished", "time", "patience") or any(map(is_pipe, settings.files)):
            return ""
        if change == "longer":
            more = ["--steps", f"{2 * (settings.steps or 1)}"]
            if trainer.outcome == "time":
                more = ["--max-time", typed(settings.max_time)]
            elif settings.steps is None:
                more = ["--epochs", typed(2 * (settings.epochs or 1))]
            return shlex.join(["rnn", "train", "--resume", self.run.name, *more])
        if change == "slower":
            return command_of(self.run, seed=None, learning_rate=float(f"{trainer.learning_rate / 3:.1g}"))
        if change == "regularised" and settings.dropout < MOST_DROPOUT:
            return command_of(self.run, seed=None, dropout=min(round(settings.dropout + 0.2, 2), MOST_DROPOUT))
        size = settings.hidden_size * 2 if change == "larger" else settings.hidden_size // 2
        return command_of(self.run, seed=None, hidden_size=max(size, 1))

    def outcome(self) -> dict[str, Any]:
        """How the run ended, as JSON."""
        best = self.trainer.best
        unknown = dict.fromkeys(self.problem.task.metrics)
        return {
            "outcome": self.trainer.outcome,
            "step": self.trainer.saved,
            **(unknown if best["metrics"] is None else self.run.metrics(best["metrics"])),
            "best_step": best["step"],
        }

    def diagnosis(self, error: NotFinite) -> list[str]:
        """Why the run diverged, in sentences: what was not finite, the gradients before it, what to try."""
        trainer = self.trainer
        validated = error.step == trainer.state.step  # the step succeeded, and the validation after it failed
        if validated:
            measured = f"held-out {trainer.broken}" if self.problem.validates else "loss"
            lines = [f"Diverged: after step {error.step:,} the {measured} is {error.loss:g}."]
        else:
            norm = f"the norm of its gradient {error.gradient_norm:g}"
            lines = [f"Diverged at step {error.step:,}: the loss is {error.loss:g}, {norm}."]
        finding = explain(self.problem.loss, trainer.state.params, error)
        if finding.phase == "parameters":
            lines.append(f"The parameter {finding.parameter} is not finite.")
        elif not (validated and finding.phase == "backward"):  # that would describe a step which is never taken
            lines.append(finding.sentence())
        if trainer.recent:
            norms = ", ".join(f"{step.gradient_norm:.3g}" for step in trainer.recent)
            lines.append(f"The norms of the gradients before it: {norms}.")
        why: tuple[str, ...] = ()
        with suppress(UserError):  # the initial weights may be gone
            why = of_recurrence(self.problem, self._beginning(), error.step, trainer.settings.seed or 0)
        if why:
            lines += [why[0][0].upper() + why[0][1:], why[1]]
        else:
            lines.append(self._advice())
        if trainer.best["metrics"] is not None:
            use = "sample" if self.writes else "eval"
            lines.append(f"The best weights, of step {trainer.best['step']:,}, are kept: rnn {use} {self.run.name}")
        return lines

    def _beginning(self) -> Tree:
        """The initial weights.

        Raises:
            UserError: they are gone.
        """
        source = source_of(self.run)
        return trees.cast(source.params(), self.trainer.settings.dtype) if source else self.trainer.fresh_params()

    def _advice(self) -> str:
        """What to try if the learning rate is the cause."""
        trainer = self.trainer
        rate = trainer.learning_rate
        advice = [f"--learning-rate {rate / 10:.1g} (it was {rate:.2g})"]
        if not any(trainer.settings.clipping()):
            advice.append("--grad-clip 5")
        if "warmup" not in trainer.settings.schedule and trainer.total_steps > 2 * WARM_UP:
            advice.append(f"a warm-up: --schedule cosine:warmup={WARM_UP}")
        return f"What to try, in a new run: {', or '.join(advice)}."


def source_of(run: Run) -> Run | None:
    """The run whose weights another one started with; None if it started with new ones.

    Raises:
        UserError: the weights are gone or have changed.
    """
    recorded = run.manifest.get("init_from")
    if not recorded:
        return None
    source = Run(Path(recorded["path"]))
    if not (source.path / BEST).is_file() or digest_of(source.path / BEST) != recorded["sha256"]:
        raise UserError(
            f"the run {run.name!r} started with the weights in {source.path}, which are gone or have changed: "
            "it cannot be repeated"
        )
    return source


def digest_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
