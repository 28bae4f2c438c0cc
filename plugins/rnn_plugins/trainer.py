"""A run from its first step to its last: when to look at the held-out text, what to keep, when to stop.

It draws nothing; what happens is yielded to whoever does.
"""

from __future__ import annotations

import copy
import json
import math
import os
import time
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from minigrad import blas, checkpoint, trees
from minigrad.training import NotFinite, StepRecord, TrainingState, start, train
from minigrad.trees import Tree
from rnn_plugins import measurements
from rnn_plugins.backends import compiled_for, on_backend
from rnn_plugins.blas_threads import Threads, changes_of
from rnn_plugins.errors import UserError
from rnn_plugins.places import BEST, LAST, METRICS
from rnn_plugins.runs import Run
from rnn_plugins.settings import Settings
from rnn_plugins.tasks.task import Task

SAVE_SECONDS = 60.0
"""How much work a crash may cost."""


@dataclass
class Progress:
    """What happened in one step.

    Attributes:
        step: the step's record, with details where it was logged.
        epoch: passes over the data so far, a fraction included.
        done: how much of the run is done, from 0 to 1.
        seconds_left: how long the rest should take.
        record: what was logged, where this step was; keys as in ``metrics.jsonl``.
        improved: whether the held-out loss is the lowest so far.
    """

    step: StepRecord
    epoch: float
    done: float
    seconds_left: float
    record: dict[str, Any] | None = None
    improved: bool = False


@dataclass
class Tally:
    """What training has to remember beside the state; it is saved with it.

    Attributes:
        loss_sum: of the steps since the last record; one that is made to show the flow alone does not count.
        loss_count: how many those are.
        best_loss: the lowest held-out loss (training loss, where nothing is held out), nats.
        best_step: where it was.
        stale: validations since.
        records: how many lines ``metrics.jsonl`` has.
    """

    loss_sum: float = 0.0
    loss_count: int = 0
    best_loss: float | None = None
    best_step: int = 0
    stale: int = 0
    records: int = 0


class Trainer:
    """Trains a run, writing its files, and yields what happens.

    Attributes:
        run: where it is written.
        task: what is trained.
        state: the current state.
        outcome: why training ended: "finished", "time", "patience", "interrupted" or "diverged"; None while it goes on.
        total_steps: the steps that the settings ask for.
        last_step: where to end, with the outcome ``last_outcome``; other than ``total_steps`` where a run that was
            ended early is repeated.
        recent: the last few steps.
        tally: what is remembered beside the state.
        blas_threads: of its matrix products.
    """

    def __init__(self, run: Run, task: Task, settings: Settings, learning_rate: float) -> None:
        self.run, self.task, self.settings = run, task, settings
        self.total_steps = self.last_step = settings.total_steps(task.steps_per_epoch)
        self.last_outcome = "finished"
        self.valid_every = settings.steps_between_validations(task.steps_per_epoch)
        self.schedule = settings.make_schedule(learning_rate, self.total_steps, task.steps_per_epoch)
        self.optimizer = settings.make_optimizer()
        self.tally = Tally()
        self.recent: deque[StepRecord] = deque(maxlen=8)
        self.outcome: str | None = None
        self._stopping = False
        self._seconds = 0.0  # of the sessions before this one
        self.blas_threads = Threads()
        self.state: TrainingState

    def begin(self, params: Tree | None = None) -> None:
        """Start anew, from ``params`` where given, from fresh ones otherwise."""
        init, dropout = (np.random.default_rng(s) for s in np.random.SeedSequence(self.settings.seed).spawn(2))
        params = self.task.init_params(init) if params is None else params
        self.state = start(params, self.optimizer, self.task.init_carry(), dropout)

    def resume(self) -> None:
        """Take up the run where it was saved last; records of steps after that are dropped."""
        tree, notes = self.run.last()
        params = self.task.init_params(np.random.default_rng(0))
        expected = {"params": params, "optimizer": self.optimizer.init(params), "carry": self.task.init_carry()}
        self.run.require(LAST, expected, tree)
        rng = np.random.default_rng()
        rng.bit_generator.state = notes["rng"]
        # A named tuple is a plain one in a checkpoint, and a step may return the keys of a dict in another order.
        carry = trees.map(lambda _, leaf: leaf, self.task.init_carry(), tree["carry"])
        self.state = TrainingState(notes["step"], tree["params"], tree["optimizer"], carry, rng)
        self.tally = Tally(**{name: notes["tally"][name] for name in vars(Tally())})
        self.blas_threads = Threads(changes_of(self.run.manifest.get("environment", {}), self.state.step))
        kept = [r for r in islice(self.run.records(), self.tally.records) if r["step"] <= self.state.step]
        self.tally.records = len(kept)
        self._seconds = kept[-1]["seconds"] if kept else 0.0
        checkpoint.write_atomically(self.run.path / METRICS, "".join(json.dumps(r) + "\n" for r in kept))

    def stop(self) -> None:
        """Ask training to end after the step under way. Safe to call from a signal handler."""
        self._stopping = True

    def validates(self, step: int) -> bool:
        """Whether the held-out text is looked at after a step."""
        return step % self.valid_every == 0 or step == self.total_steps

    def events(self) -> Generator[Progress, None, None]:
        """Train to the end, yielding the progress of each step. Files are up to date whenever the iterator stops.

        Raises:
            NotFinite: the loss, its gradient or the held-out loss is no number any more; the best weights stay, and so
                does the last state that was saved.
        """
        settings, task, state = self.settings, self.task, self.state
        first_step = logged_step = state.step
        if state.step == 0:
            self.save()
        self.run.update(outcome=None)
        started = saved = logged = time.monotonic()
        with open(self.run.path / METRICS, "a", encoding="utf-8") as metrics:
            try:
                for step in self._steps():
                    self.recent.append(step._replace(details=None))
                    self.tally.loss_sum += step.loss
                    self.tally.loss_count += 1
                    now = time.monotonic()
                    progress = self._progress(step, first_step, now - started)
                    ending = self._ending(now - started)
                    validating = self.validates(step.step)
                    if self._logs(step.step):
                        rate = (step.step - logged_step) * task.tokens_per_step / max(now - logged, 1e-9)
                        progress.record = self._record(progress, rate, self._seconds + now - started)
                        if validating:
                            progress.improved = self._look(progress.record)
                        self._measure(step, progress.record)
                        metrics.write(json.dumps(progress.record) + "\n")
                        metrics.flush()
                        self.tally.records += 1
                        logged, logged_step = time.monotonic(), step.step
                        if validating and settings.patience and self.tally.stale >= settings.patience:
                            ending = ending or "patience"
                    if progress.improved:
                        self._save_best()
                    if validating or ending or time.monotonic() - saved > SAVE_SECONDS:
                        os.fsync(metrics.fileno())  # what is saved counts these records
                        self.save()
                        saved = time.monotonic()
                    if ending == "time" and self.tally.best_loss is None:
                        # A run too short for a validation is measured all the same. It was saved before: one that goes
                        # on does not know of this, and its first validation in turn puts other weights in place.
                        record = progress.record or self._record(progress, 0.0, 0.0)
                        progress.improved = self._look(dict(record))
                        self._save_best()
                    yield progress
                    if ending:
                        self.outcome = ending
                        break
                else:
                    self.outcome = self.last_outcome
            except NotFinite:
                self.outcome = "diverged"
                raise
            finally:
                self._close()

    def _steps(self) -> Iterator[StepRecord]:
        """Training steps, each with its clipping and its update on the run's backend."""
        clip_norm, clip_value = self.settings.clipping()
        steps = train(
            self.task.loss,
            self.state,
            self._batches(),
            optimizer=self.optimizer,
            schedule=self.schedule,
            clip_norm=clip_norm,
            clip_value=clip_value,
            watch=self._logs,
        )
        with blas.steady():
            while True:
                with on_backend(self.settings.backend):
                    self._note(self.blas_threads.enter(self.state.step + 1))
                    step = next(steps, None)
                self._note(compiled_for(self.settings.backend))
                if step is None:
                    return
                yield step

    def _note(self, facts: dict[str, Any]) -> None:
        """Put what a result depends on into the manifest, where it does not stand there."""
        environment = self.run.manifest.get("environment", {})
        if not facts.items() <= environment.items():
            self.run.update(environment=environment | facts)

    def _batches(self) -> Iterator[Any]:
        while self.state.step < self.last_step:
            if self.state.step % self.task.steps_per_epoch == 0:
                self.state.carry = self.task.init_carry()
            yield self.task.batch(self.state.step)

    def _shows_flow(self, step: int) -> bool:
        return self.settings.flow and step % self.settings.flow_every == 0

    def _averages(self, step: int) -> bool:
        """Whether the mean training loss begins anew after a step: what decides of it must not hang on the flow."""
        return step % self.settings.log_every == 0 or self.validates(step)

    def _logs(self, step: int) -> bool:
        return self._averages(step) or self._shows_flow(step)

    def _ending(self, seconds: float) -> str | None:
        if self.state.step >= self.last_step:
            return self.last_outcome
        if self._stopping:
            return "interrupted"
        if self.settings.max_time is not None and seconds >= self.settings.max_time:
            return "time"
        return None

    def _progress(self, step: StepRecord, first_step: int, seconds: float) -> Progress:
        done, left = step.step / self.last_step, seconds / (step.step - first_step) * (self.last_step - step.step)
        if self.settings.max_time is not None and self.settings.max_time - seconds < left:
            left = max(0.0, self.settings.max_time - seconds)
            done = min(1.0, seconds / self.settings.max_time) if self.settings.max_time else 1.0
        return Progress(step, step.step / self.task.steps_per_epoch, done, left)

    def _record(self, progress: Progress, rate: float, seconds: float) -> dict[str, Any]:
        step, loss = progress.step, self.tally.loss_sum / self.tally.loss_count
        if self._averages(step.step):
            self.tally.loss_sum, self.tally.loss_count = 0.0, 0
        return {
            "step": step.step,
            "epoch": round(progress.epoch, 4),
            "train_loss": loss,
            "gradient_norm": step.gradient_norm,
            "learning_rate": step.learning_rate,
            "tokens_per_second": round(rate, 1),
            "seconds": round(seconds, 3),
        }

    def _measure(self, step: StepRecord, record: dict[str, Any]) -> None:
        """Put into a record what there is to know of the network beside its losses. No generator is drawn from."""
        if step.details:
            record |= measurements.norms(step.details)
        # States of weights on their way to diverge may be no numbers: the record then has no look at them.
        with on_backend(self.settings.backend), np.errstate(all="ignore"), suppress(UserError):
            if self.validates(step.step) and (units := measurements.units(self.task, self.state.params)):
                record["units"] = units
            if self._shows_flow(step.step):
                flow = measurements.flow(self.task, self.state.params, self.settings.seed or 0)
                record |= {"flow": flow} if flow else {}

    def _look(self, record: dict[str, Any]) -> bool:
        """Validate; whether the weights are the best so far, by the held-out loss, or without one the training loss."""
        with on_backend(self.settings.backend), np.errstate(all="ignore"):  # what is not finite is told below
            held_out = self.task.validate(self.state.params)
        if held_out is not None:
            record["valid_loss"] = loss = held_out
        else:  # the training loss is of the weights before the step
            finite = all(np.isfinite(leaf).all() for leaf in trees.leaves(self.state.params))
            loss = record["train_loss"] if finite else math.nan
        if not math.isfinite(loss):
            batch, rng = self.task.batch(self.state.step), copy.deepcopy(self.state.rng)
            raise NotFinite(self.state.step, loss, record["gradient_norm"], batch, self.state.carry, rng)
        if self.tally.best_loss is None or loss < self.tally.best_loss:
            self.tally.best_loss, self.tally.best_step, self.tally.stale = loss, self.state.step, 0
            return True
        self.tally.stale += 1
        return False

    def _save_best(self) -> None:
        notes = {"step": self.tally.best_step, "loss": self.tally.best_loss}
        checkpoint.save(self.run.path / BEST, self.state.params, notes)

    def save(self) -> None:
        """Write all that it takes to go on, and the weights too where none were better."""
        tree = {"params": self.state.params, "optimizer": self.state.optimizer, "carry": self.state.carry}
        rng = self.state.rng.bit_generator.state
        notes = {"step": self.state.step, "rng": rng, "tally": vars(self.tally)}
        checkpoint.save(self.run.path / LAST, tree, notes)
        if self.tally.best_loss is None:
            self._save_best()  # a run that ended before its first validation can be sampled all the same

    def _close(self) -> None:
        self.outcome = self.outcome or "interrupted"
        self.run.update(
            outcome=self.outcome,
            step=self.state.step,
            best={"loss": self.tally.best_loss, "step": self.tally.best_step},
        )
        self.run.release()


def verdict(records: list[dict[str, Any]], done: float = 1.0) -> str:
    """What the curves say, in words: whether the model over- or underfits.

    Args:
        records: as in ``metrics.jsonl``; those with ``valid_loss`` are looked at.
        done: how much of the run they show; of the first half, that it still underfits is no news.
    """
    looks = [r for r in records if r.get("valid_loss") is not None]
    if len(looks) < 3:
        return ""
    best = min(range(len(looks)), key=lambda i: looks[i]["valid_loss"])
    last = looks[-1]
    if last["valid_loss"] < 0.05:
        return "It has learnt this kind of text: the held-out loss is near zero."
    gap = last["valid_loss"] - last["train_loss"]
    since = len(looks) - 1 - best
    risen = last["valid_loss"] - looks[best]["valid_loss"]
    if since >= 2 and risen > 0.01 and last["train_loss"] < looks[best]["train_loss"]:
        return (
            f"It overfits: the held-out loss has risen by {risen:.3f} nats since step {looks[best]['step']}, whose "
            "weights are kept, while the training loss went on falling. More text, --dropout or a smaller model help."
        )
    if done < 0.5:
        return ""
    falling = looks[max(0, len(looks) - 4)]["valid_loss"] - last["valid_loss"]
    if falling > 0.02 and gap < 0.1:
        return "It underfits: both losses are still falling. Train longer, or with a larger --hidden-size."
    if gap < 0.03 and falling < 0.01:
        return "It underfits: both losses stand still, close together. A larger --hidden-size or more layers may help."
    if gap > 0.3:
        return f"It begins to overfit: the held-out loss is {gap:.2f} nats above the training loss. --dropout helps."
    return "It fits: the held-out loss follows the training loss."
