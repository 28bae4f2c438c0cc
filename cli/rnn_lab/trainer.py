"""Train a run: steps, validations, saving and stopping."""

from __future__ import annotations

import copy
import json
import math
import time
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from minigrad import blas, checkpoint, trees
from minigrad.optimizers import freezing, towards
from minigrad.training import NotFinite, StepRecord, TrainingState, start, train
from minigrad.trees import Tree
from rnn_lab import records
from rnn_lab.backends import compiled_for, on_backend
from rnn_lab.blas_threads import Threads, changes_of
from rnn_lab.paths import BEST, LAST, METRICS
from rnn_lab.problem import Problem
from rnn_lab.runs import AVERAGE, SET_ASIDE, Run
from rnn_lab.settings import Settings
from rnn_plugins.errors import UserError
from rnn_plugins.reports.parameters import norms_of

SAVE_SECONDS = 60.0
"""Maximum time between two saves."""

LEARNING_RATE = 2e-3
"""The default highest learning rate, unless the user or the cell sets one."""

SPANS = 100
"""Number of parts of a time limit; after each of them the schedule is adapted to the remaining time."""


@dataclass
class Progress:
    """The progress after one step.

    Attributes:
        step: the step's record, with details if it was logged.
        epoch: passes over the data so far, including a fraction.
        done: the finished share of the run, from 0 to 1.
        seconds_left: estimated time until the end.
        record: the logged record, or None; keys as in ``metrics.jsonl``.
        improved: whether the weights are the best so far.
    """

    step: StepRecord
    epoch: float
    done: float
    seconds_left: float
    record: dict[str, Any] | None = None
    improved: bool = False


@dataclass
class Tally:
    """Counters of training, saved with its state.

    Attributes:
        loss_sum: the sum of the losses since the last record; records made only for the flow do not count.
        loss_count: the number of those losses.
        best: the metrics of the best weights of a regular validation: on the held-out data, or if there are none, the
            training loss.
        best_step: the step of that validation.
        stale: the number of validations that have not improved on the best metric of all.
        to_beat: the metric that they have to improve on, if ``best`` is of the latest average instead.
        records: the number of lines in ``metrics.jsonl``, without that of a validation at a stop.
        spans: ``[step, total]`` each: from that step on, the schedule spans so many steps, according to the time
            limit. Empty without a time limit.
        averaged: the number of steps whose weights are in the average.
    """

    loss_sum: float = 0.0
    loss_count: int = 0
    best: dict[str, float] | None = None
    best_step: int = 0
    stale: int = 0
    records: int = 0
    spans: list[list[float]] = field(default_factory=list)
    averaged: int = 0
    to_beat: float | None = None


class Trainer:
    """Trains a run, writes its files, and yields the progress.

    **Stopping and resuming.** If training is stopped, by its time limit or the user, its last weights are validated
    and, if they are the best, written to ``model.safetensors``; otherwise what was learnt since the last validation
    would not be usable. But a resumed run must end with the same bytes as an uninterrupted one, which had no such
    validation. So the state is saved before it: neither ``tally`` nor its number of records depends on the stop. If the
    replaced weights were the best of a regular validation, they are set aside in ``last.safetensors``, and restored at
    the next regular validation, unless that finds better ones.

    **The manifest** contains what was written last, ``saved`` and ``best``, and not the current state: the two differ
    if the disk is full or the user leaves at once.

    **Schedule and time limit.** A falling schedule follows the time limit: whenever it or the time has advanced by one
    ``SPANS``-th, it is adapted to the number of steps in the whole time at the mean speed of the session. Its progress
    is therefore that of the time, for any change of speed. This depends on the clock, so it is recorded in
    ``tally.spans``; a repetition uses these records instead of the clock, and has the same rates at the same steps.

    **Average.** With ``--average``, the weights that are validated, sampled from and written to ``model.safetensors``
    are an average over steps, as soon as there is one; training continues from its own. With nothing held out, the
    latest average is kept.

    Attributes:
        run: the run's folder.
        problem: what is trained.
        state: the current state.
        average: the average of the weights; None if there is none, or not yet.
        outcome: why training ended: "finished", "time", "patience", "interrupted" or "diverged"; None before that.
        total_steps: the number of steps in the settings.
        last_step: the step to end at, with the outcome ``last_outcome``; differs from ``total_steps`` if a run that was
            ended early is repeated.
        repeats: the ``spans`` of the run that is repeated.
        recent: the last few steps.
        tally: counters saved with the state.
        blas_threads: of its matrix products.
        saved: the last saved step.
        best: step and metrics of the weights in ``model.safetensors``; metrics are None if they were not validated.
        metric: the metric that decides which weights are the best: the task's, or without held-out data the training
            loss.
        broken: the one that was not finite, where a validation found that.
    """

    def __init__(self, run: Run, problem: Problem, settings: Settings) -> None:
        self.run, self.problem, self.settings = run, problem, settings
        steps_per_epoch = problem.steps_per_epoch
        self.total_steps = self.last_step = settings.total_steps(steps_per_epoch)
        self.last_outcome = "finished"
        self.valid_every = settings.steps_between_validations(steps_per_epoch)
        self.metric, self._direction = problem.task.best if problem.validates else ("loss", "min")
        self._decisive = (self.metric, "loss")  # an accuracy is finite where the weights are not
        self.broken = ""
        self.learning_rate = settings.learning_rate or LEARNING_RATE
        self.schedule = settings.make_schedule(self.learning_rate, self.total_steps, steps_per_epoch)
        self.optimizer = freezing(settings.make_optimizer(), problem.model.frozen())
        self.tally = Tally()
        self.repeats: list[list[float]] = []
        self.saved = 0
        self.best: dict[str, Any] = {"step": 0, "metrics": None}
        self.recent: deque[StepRecord] = deque(maxlen=8)
        self.outcome: str | None = None
        self.average: Tree | None = None
        self._averaging, self._average_key = settings.averaging()
        self._set_aside: Tree | None = None  # the best weights of a regular validation, if replaced at a stop
        self._stops = 0  # the number of requests to stop
        self._abandonable = True  # whether no step is running
        self._seconds = 0.0  # of earlier sessions
        self.blas_threads = Threads()
        self._spread = 0.0  # seconds of this session when the schedule was last adapted
        self.state: TrainingState

    def begin(self, params: Tree | None = None) -> None:
        """Start training, from ``params`` or by default from new parameters."""
        _, dropout = _generators(self.settings)
        params = self.fresh_params() if params is None else params
        self.state = start(params, self.optimizer, self.problem.init_carry(), dropout)

    @property
    def weights(self) -> Tree:
        """The weights to validate and keep: the average, or if there is none the current ones."""
        return self.state.params if self.average is None else self.average

    def fresh_params(self) -> Tree:
        """The initial parameters of a run with this seed."""
        init, _ = _generators(self.settings)
        return self.problem.model.pretrained(self.problem.init_params(init))

    def resume(self) -> None:
        """Resume the run from its last saved state; records of later steps are dropped.

        The run must be locked, because temporary files of killed processes are removed.
        """
        checkpoint.clear_temporary(self.run.path)
        tree, notes = self.run.last()
        params = self.problem.init_params(np.random.default_rng(0))
        expected = {"params": params, "optimizer": self.optimizer.init(params), "carry": self.problem.init_carry()}
        self.run.require(LAST, expected | {key: params for key in (SET_ASIDE, AVERAGE) if key in tree}, tree)
        rng = np.random.default_rng()
        rng.bit_generator.state = notes["rng"]
        # A checkpoint has plain tuples for named ones, and a step may return the keys of a dict in another order.
        carry = trees.map(lambda _, leaf: leaf, self.problem.init_carry(), tree["carry"])
        self.state = TrainingState(notes["step"], tree["params"], tree["optimizer"], carry, rng)
        tally = notes["tally"]
        self.tally = Tally(**{name: tally[name] for name in vars(Tally()) if name in tally})
        self.blas_threads = Threads(changes_of(self.run.manifest.get("environment", {}), self.state.step))
        self.saved, self._set_aside, self.average = self.state.step, tree.get(SET_ASIDE), tree.get(AVERAGE)
        with suppress(UserError):  # if they are gone, the current weights replace them
            self.best = self.run.notes(BEST)
        lines = [*self.run.lines()]
        kept = [line for line in lines[: self.tally.records] if line["step"] <= self.state.step]
        self.tally.records = len(kept)
        self._seconds = max((line["seconds"] for line in lines if line["step"] <= self.state.step), default=0.0)
        checkpoint.write_atomically(self.run.path / METRICS, "".join(json.dumps(r) + "\n" for r in kept))
        limit = self.settings.max_time
        if self.settings.follows_time and (limit is not None or self.tally.spans):
            whole = self.state.step * (1 + limit / self._seconds) if limit is not None and self._seconds else math.inf
            self._span(whole)

    def stop(self) -> None:
        """End training after the current step and a validation; the second call leaves the validation out.

        Safe to call from a signal handler.

        Raises:
            KeyboardInterrupt: it is the third call, or the second while no step is running.
        """
        self._stops += 1
        if self._stops > (1 if self._abandonable else 2):
            raise KeyboardInterrupt

    def validates(self, step: int) -> bool:
        """Whether a step is followed by a validation."""
        return step % self.valid_every == 0 or step == self.total_steps

    def events(self) -> Generator[Progress, None, None]:
        """Train to the end and yield the progress of each step. Files are up to date whenever the iterator stops.

        Raises:
            NotFinite: the loss, its gradient or the deciding metric is not finite; the best weights and the last saved
                state are kept.
            UserError: the task does not return its metrics.
            OSError: a file cannot be written; the files are as last saved.
        """
        settings, state = self.settings, self.state
        first_step, units = state.step, 0.0
        if state.step == 0:
            self.save()
        self.run.update(outcome=None)
        started = saved = logged = time.monotonic()
        with _named(self.run.path / METRICS), open(self.run.path / METRICS, "a", encoding="utf-8") as metrics:
            self._abandonable = False
            try:
                for step in self._steps():
                    self.recent.append(step._replace(details=None))
                    self.tally.loss_sum += step.loss
                    self.tally.loss_count += 1
                    units += step.weight
                    now = time.monotonic()
                    self._follow(first_step, now - started)
                    self._take_average()
                    progress = self._progress(step, first_step, now - started)
                    validating = self.validates(step.step)
                    rate = units / max(now - logged, 1e-9)
                    seconds = self._seconds + now - started
                    if self._logs(step.step):
                        progress.record = self._record(progress, rate, seconds)
                        if validating:
                            progress.improved = self._validate(progress.record)
                        self._measure(step, progress.record)
                        _append(metrics, progress.record)
                        self.tally.records += 1
                        logged, units = time.monotonic(), 0.0
                    if progress.improved:
                        self._save_best(self.weights, state.step, self.tally.best)
                    elif validating and self._set_aside is not None:
                        self._save_best(self._set_aside, self.tally.best_step, self.tally.best)
                    if validating:
                        self._set_aside = None
                    ending = self._ending(time.monotonic() - started)
                    if validating and settings.patience and self.tally.stale >= settings.patience:
                        ending = ending or "patience"
                    if validating or ending or time.monotonic() - saved > SAVE_SECONDS:
                        self._save_with(metrics)
                        saved = time.monotonic()
                    if ending and not validating:
                        progress.record = progress.record or self._record(progress, rate, seconds)
                        self._validate_at_stop(progress, metrics)
                    yield progress
                    if ending:
                        self.outcome = ending
                        break
                else:
                    self.outcome = self.last_outcome
            except NotFinite as error:
                self.outcome = "diverged"
                if error.step > state.step:  # the step failed, and the state before it is valid
                    self._save_with(metrics)
                raise
            except GeneratorExit:  # the caller stopped iterating, between two steps
                self._save_with(metrics)
                raise
            finally:
                self._abandonable = True
                self._close()

    def _steps(self) -> Iterator[StepRecord]:
        """Training steps with clipping and updates, on the run's backend."""
        clip_norm, clip_value = self.settings.clipping()
        steps = train(
            self.problem.loss,
            self.state,
            self._batches(),
            optimizer=self.optimizer,
            schedule=lambda step: self.schedule(step),
            clip_norm=clip_norm,
            clip_value=clip_value,
            watch=self._logs,
        )
        with blas.steady():
            while self.state.step < self.last_step:
                with on_backend(self.settings.backend):
                    threads = self.blas_threads.enter(self.state.step + 1)
                    step = next(steps)
                self._note(threads | compiled_for(self.settings.backend))
                yield step

    def _note(self, facts: dict[str, Any]) -> None:
        """Write facts that the result depends on to the manifest, if they are new."""
        environment = self.run.manifest.get("environment", {})
        if not facts.items() <= environment.items():
            self.run.update(environment=environment | facts)

    def _batches(self) -> Iterator[Any]:
        while True:
            if self.state.step % self.problem.steps_per_epoch == 0:
                self.state.carry = self.problem.init_carry()
            yield self.problem.batch(self.state.step)

    def _shows_flow(self, step: int) -> bool:
        return self.settings.flow and step % self.settings.flow_every == 0

    def _averages(self, step: int) -> bool:
        """Whether a new mean of the training loss begins after a step; independent of the settings of the flow."""
        return step % self.settings.log_every == 0 or self.validates(step)

    def _logs(self, step: int) -> bool:
        return self._averages(step) or self._shows_flow(step)

    def _ending(self, seconds: float) -> str | None:
        if self.state.step >= self.last_step:
            return self.last_outcome
        if self._stops:
            return "interrupted"
        if self.settings.max_time is not None and seconds >= self.settings.max_time:
            return "time"
        return None

    def _progress(self, step: StepRecord, first_step: int, seconds: float) -> Progress:
        done, left = step.step / self.last_step, seconds / (step.step - first_step) * (self.last_step - step.step)
        if self.settings.max_time is not None and self.settings.max_time - seconds < left:
            left = max(0.0, self.settings.max_time - seconds)
            done = min(1.0, seconds / self.settings.max_time) if self.settings.max_time else 1.0
        return Progress(step, step.step / self.problem.steps_per_epoch, done, left)

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
            "units_per_second": round(rate, 1),
            "seconds": round(seconds, 3),
        }

    def _measure(self, step: StepRecord, record: dict[str, Any]) -> None:
        """Add measurements of the network to a record, without drawing from the run's generators."""
        if step.details:
            record |= norms_of(step.details)
        if not (self.validates(step.step) or self._shows_flow(step.step)):
            return
        # The states of diverging weights may not be finite; the record then has no measurements.
        with on_backend(self.settings.backend), np.errstate(all="ignore"), suppress(UserError):
            probe = self.problem.probe(self.weights)
            if probe and self.validates(step.step) and (units := records.units(probe)):
                record["units"] = units
            if probe and self._shows_flow(step.step):
                flow = records.flow(probe, self.settings.seed or 0)
                record |= {"flow": flow} if flow else {}

    def _follow(self, first_step: int, seconds: float) -> None:
        """Adapt the schedule to the time limit if due, by the clock or as in the run that is repeated."""
        step, limit = self.state.step, self.settings.max_time
        for at, total in self.repeats:
            if at == step:
                self._span(total)
        if not limit or not self.settings.follows_time or step < self.settings.warmup:  # a warm-up is counted in steps
            return
        (at, total), then = self.tally.spans[-1] if self.tally.spans else (0, self.total_steps), self._spread
        if (step - at) * SPANS >= total or (seconds - then) * SPANS >= limit:
            self._spread = seconds
            self._span(first_step + (step - first_step) * limit / max(seconds, 1e-9))

    def _span(self, steps: float) -> None:
        """Adapt the schedule to so many steps from the run's first, at most the number in the settings."""
        total = min(self.total_steps, steps)
        self.tally.spans.append([self.state.step, total])
        self.schedule = self.settings.make_schedule(self.learning_rate, total, self.problem.steps_per_epoch)

    def _take_average(self) -> None:
        """Take the weights of the step into the average, if it has begun or begins now."""
        count, value = self.tally.averaged, self._average_key
        total = self.tally.spans[-1][1] if self.tally.spans else self.total_steps
        begins = {
            "": False,
            "ema": True,
            "swa": self.state.step >= value * total,
            "asgd": self.tally.stale >= value,
        }
        if not (count or begins[self._averaging]):
            return
        # The first weights are far from the later ones, so that an average begins with few of them.
        share = 1 - min(value, (1 + count) / (10 + count)) if self._averaging == "ema" else 1 / (1 + count)
        self.average = towards(self.weights, self.state.params, share)
        self.tally.averaged += 1

    def _validate(self, record: dict[str, Any]) -> bool:
        """Validate, and return whether the weights are the best of all regular validations."""
        metrics, to_beat = self._measured(record), self.tally.to_beat
        if to_beat is None and self.tally.best is not None:
            to_beat = self.tally.best[self.metric]
        better = self._is_better(metrics[self.metric], to_beat)
        self.tally.stale = 0 if better else self.tally.stale + 1
        if self._keeps_latest:
            self.tally.to_beat = metrics[self.metric] if better else to_beat
        if better or self._keeps_latest:
            self.tally.best, self.tally.best_step = metrics, self.state.step
            return True
        return False

    @property
    def _keeps_latest(self) -> bool:
        """Whether the best weights are the latest: an average that nothing is held out to validate.

        The training loss is that of the weights that are averaged, so it does not tell which average is best.
        """
        return self.average is not None and not self.problem.validates

    def _is_better(self, value: float, before: float | None) -> bool:
        if before is None:
            return True
        return value < before if self._direction == "min" else value > before

    def _validate_at_stop(self, progress: Progress, metrics: TextIO) -> None:
        """Validate at a stop, unless it was requested twice; see the class."""
        record = dict(progress.record or {})
        try:
            self._abandonable = True
            if self._stops > 1:
                return
            measured = self._measured(record)
        except KeyboardInterrupt:
            return
        finally:
            self._abandonable = False
        before = self.best["metrics"] and self.best["metrics"][self.metric]
        if self._is_better(measured[self.metric], before) or self._keeps_latest:
            if self.tally.best is not None and self._set_aside is None:
                self._set_aside = self.run.params()
                self.save()
            self._save_best(self.weights, self.state.step, measured)
            progress.improved = True
        _append(metrics, record)
        progress.record = record

    def _measured(self, record: dict[str, Any]) -> dict[str, float]:
        """The metrics on the held-out data, which are added to the record, or without such data the training loss.

        Metrics that are no numbers are left out, as an average over examples of which there are none.

        Raises:
            NotFinite: the deciding metric, the loss or the weights are not finite.
        """
        with on_backend(self.settings.backend), np.errstate(all="ignore"):  # what is not finite is reported below
            found = self.problem.validate(self.weights)
        if found is not None:
            metrics = {name: value for name, value in found.items() if math.isfinite(value) or name in self._decisive}
            record |= {f"valid_{name}": value for name, value in metrics.items()}
        else:  # the training loss is that of the weights before the step
            finite = all(np.isfinite(leaf).all() for leaf in trees.leaves(self.weights))
            metrics = {"loss": record["train_loss"] if finite else math.nan}
        if broken := [name for name in self._decisive if not math.isfinite(metrics[name])]:
            self.broken, value = broken[0], metrics[broken[0]]
            batch, rng = self.problem.batch(self.state.step), copy.deepcopy(self.state.rng)
            raise NotFinite(self.state.step, value, record["gradient_norm"], batch, self.state.carry, rng)
        return metrics

    def _save_best(self, params: Tree, step: int, metrics: dict[str, float] | None) -> None:
        notes = {"step": step, "metrics": metrics}
        checkpoint.save(self.run.path / BEST, params, notes)
        self.best = notes

    def _save_with(self, metrics: TextIO) -> None:
        """Save the state and the records counted in it, unless this step is already saved."""
        if self.saved != self.state.step:
            checkpoint.sync(metrics.fileno())
            self.save()

    def save(self) -> None:
        """Write the state to resume from, and if no weights were validated, the weights too."""
        tree = {"params": self.state.params, "optimizer": self.state.optimizer, "carry": self.state.carry}
        if self._set_aside is not None:
            tree[SET_ASIDE] = self._set_aside
        if self.average is not None:
            tree[AVERAGE] = self.average
        rng = self.state.rng.bit_generator.state
        notes = {"step": self.state.step, "rng": rng, "tally": vars(self.tally)}
        checkpoint.save(self.run.path / LAST, tree, notes)
        self.saved = self.state.step
        if self.best["metrics"] is None:  # so that a run that ends before its first validation can be used
            self._save_best(self.weights, self.state.step, None)

    def _close(self) -> None:
        failed = self.outcome is None and self.state.step == 0
        self.outcome = self.outcome or "interrupted"
        try:
            self.run.update(outcome=self.outcome, step=self.saved, best=self.best)
        finally:
            self.run.release(failed=failed)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Add the file's name to errors that have none, such as those of writing to an open file."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def _append(metrics: TextIO, record: dict[str, Any]) -> None:
    metrics.write(json.dumps(record) + "\n")
    metrics.flush()


def _generators(settings: Settings) -> list[np.random.Generator]:
    """The generators of the initial weights and of the dropout masks."""
    return [np.random.default_rng(part) for part in np.random.SeedSequence(settings.seed).spawn(2)]
