"""A run from its first step to its last: when to validate, what to keep, when to stop."""

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
from minigrad.training import NotFinite, StepRecord, TrainingState, start, train
from minigrad.trees import Tree
from rnn_lab import records
from rnn_lab.backends import compiled_for, on_backend
from rnn_lab.blas_threads import Threads, changes_of
from rnn_lab.paths import BEST, LAST, METRICS
from rnn_lab.problem import Problem
from rnn_lab.runs import SET_ASIDE, Run
from rnn_lab.settings import Settings
from rnn_plugins.errors import UserError
from rnn_plugins.reports.parameters import norms_of

SAVE_SECONDS = 60.0
"""How much work a crash may cost."""

LEARNING_RATE = 2e-3
"""The schedule's highest, where neither the user nor the cell says."""

SPANS = 100
"""Into how many parts a time limit is divided, after each of which a schedule is spread anew over that time."""


@dataclass
class Progress:
    """What happened in one step.

    Attributes:
        step: the step's record, with details where it was logged.
        epoch: passes over the data so far, a fraction included.
        done: how much of the run is done, from 0 to 1.
        seconds_left: how long the rest should take.
        record: what was logged, where this step was; keys as in ``metrics.jsonl``.
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
    """What training has to remember beside the state; it is saved with it.

    Attributes:
        loss_sum: of the steps since the last record; one that is made to show the flow alone does not count.
        loss_count: how many those are.
        best: the metrics of the best weights of a validation that was due: on what is held out, or where nothing is,
            the training loss.
        best_step: where it was.
        stale: validations since.
        records: how many lines ``metrics.jsonl`` has, but for that of a validation at a stop.
        spans: ``[step, total]`` each: from that step on, the schedule was spread over so many steps, as the time
            allowed. Empty where no time limits it.
    """

    loss_sum: float = 0.0
    loss_count: int = 0
    best: dict[str, float] | None = None
    best_step: int = 0
    stale: int = 0
    records: int = 0
    spans: list[list[float]] = field(default_factory=list)


class Trainer:
    """Trains a run, writing its files, and yields what happens.

    **A stop and what comes after it.** Where training is stopped, by its time or by somebody, its last weights are
    validated out of turn, and are put into ``model.safetensors`` if they are the best; otherwise all that was learnt
    since the last validation would be lost to whoever uses the run. But a run that goes on has to end in the same bytes
    as one that never stopped, and that one had no such validation. So the state is saved first: neither ``tally`` nor
    the count of records in it knows of the stop. If the weights that are replaced were the best of a validation that
    was due, they are set aside in ``last.safetensors``, and are put back at the next such validation, unless that finds
    better ones.

    **What the manifest claims** is what was written last, ``saved`` and ``best``, and not what training has come to:
    the two differ where a disk is full or somebody leaves at once.

    **A schedule and a time limit.** A schedule that falls to an end falls over the time: whenever it or the time has
    gone on by one ``SPANS``-th, it is spread anew over as many steps as the whole time would have at the mean speed of
    the session. So it is as far as the time is, however the speed changes. The clock decides that, so it is noted in
    ``tally.spans``; with those notes a repetition takes the same rates at the same steps, and needs no clock.

    Attributes:
        run: where it is written.
        problem: what is trained.
        state: the current state.
        outcome: why training ended: "finished", "time", "patience", "interrupted" or "diverged"; None while it goes on.
        total_steps: the steps that the settings ask for.
        last_step: where to end, with the outcome ``last_outcome``; other than ``total_steps`` where a run that was
            ended early is repeated.
        repeats: the ``spans`` of the run that is repeated.
        recent: the last few steps.
        tally: what is remembered beside the state.
        blas_threads: of its matrix products.
        saved: the step whose state was saved last.
        best: step and metrics of the weights in ``model.safetensors``; metrics of None where they were not validated.
        metric: the one that decides which weights are the best: the task's, or where nothing is held out, the training
            loss.
    """

    def __init__(self, run: Run, problem: Problem, settings: Settings, learning_rate: float) -> None:
        self.run, self.problem, self.settings = run, problem, settings
        steps_per_epoch = problem.steps_per_epoch
        self.total_steps = self.last_step = settings.total_steps(steps_per_epoch)
        self.last_outcome = "finished"
        self.valid_every = settings.steps_between_validations(steps_per_epoch)
        self.metric, self._direction = problem.task.best if problem.validates else ("loss", "min")
        self.learning_rate = learning_rate
        self.schedule = settings.make_schedule(learning_rate, self.total_steps, steps_per_epoch)
        self.optimizer = settings.make_optimizer()
        self.tally = Tally()
        self.repeats: list[list[float]] = []
        self.saved = 0
        self.best: dict[str, Any] = {"step": 0, "metrics": None}
        self.recent: deque[StepRecord] = deque(maxlen=8)
        self.outcome: str | None = None
        self._set_aside: Tree | None = None  # the best weights of a validation that was due, if others are in use
        self._asked = 0  # how often it was asked to stop
        self._abandonable = True  # nothing is under way that has to be finished
        self._seconds = 0.0  # of the sessions before this one
        self.blas_threads = Threads()
        self._spread = 0.0  # seconds of this session when the schedule was last spread
        self.state: TrainingState

    def begin(self, params: Tree | None = None) -> None:
        """Start anew, from ``params`` where given, from fresh ones otherwise."""
        _, dropout = _generators(self.settings)
        params = self.fresh_params() if params is None else params
        self.state = start(params, self.optimizer, self.problem.init_carry(), dropout)

    def fresh_params(self) -> Tree:
        """The parameters with which a run of this seed begins."""
        init, _ = _generators(self.settings)
        return self.problem.init_params(init)

    def resume(self) -> None:
        """Take up the run where it was saved last; records of steps after that are dropped.

        The run must be held: what a process that was killed was writing is removed.
        """
        checkpoint.clear_temporary(self.run.path)
        tree, notes = self.run.last()
        params = self.problem.init_params(np.random.default_rng(0))
        expected = {"params": params, "optimizer": self.optimizer.init(params), "carry": self.problem.init_carry()}
        self.run.require(LAST, expected | ({SET_ASIDE: params} if SET_ASIDE in tree else {}), tree)
        rng = np.random.default_rng()
        rng.bit_generator.state = notes["rng"]
        # A named tuple is a plain one in a checkpoint, and a step may return the keys of a dict in another order.
        carry = trees.map(lambda _, leaf: leaf, self.problem.init_carry(), tree["carry"])
        self.state = TrainingState(notes["step"], tree["params"], tree["optimizer"], carry, rng)
        tally = notes["tally"]
        self.tally = Tally(**{name: tally[name] for name in vars(Tally()) if name in tally})
        self.blas_threads = Threads(changes_of(self.run.manifest.get("environment", {}), self.state.step))
        self.saved, self._set_aside = self.state.step, tree.get(SET_ASIDE)
        with suppress(UserError):  # without them the weights of today are put there
            self.best = self.run.notes(BEST)
        lines = [*self.run.lines()]
        kept = [line for line in lines[: self.tally.records] if line["step"] <= self.state.step]
        self.tally.records = len(kept)
        self._seconds = max((line["seconds"] for line in lines if line["step"] <= self.state.step), default=0.0)
        checkpoint.write_atomically(self.run.path / METRICS, "".join(json.dumps(r) + "\n" for r in kept))
        limit = self.settings.max_time
        if self.settings.has_end and (limit is not None or self.tally.spans):
            whole = self.state.step * (1 + limit / self._seconds) if limit is not None and self._seconds else math.inf
            self._span(whole)

    def stop(self) -> None:
        """Ask training to end after the step under way and a validation; asked twice, it leaves the validation out.

        Safe to call from a signal handler.

        Raises:
            KeyboardInterrupt: it was asked for the third time, or again where no step is under way.
        """
        self._asked += 1
        if self._asked > (1 if self._abandonable else 2):
            raise KeyboardInterrupt

    def validates(self, step: int) -> bool:
        """Whether a step is followed by a validation."""
        return step % self.valid_every == 0 or step == self.total_steps

    def events(self) -> Generator[Progress, None, None]:
        """Train to the end, yielding the progress of each step. Files are up to date whenever the iterator stops.

        Raises:
            NotFinite: the loss, its gradient or the deciding metric is no number any more; the best weights stay, and
                so does the last state that was saved.
            OSError: a file cannot be written; the files are as they were saved last.
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
                        self._save_best(state.params, state.step, self.tally.best)
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
                if error.step > state.step:  # the step failed, and the state before it is a good one
                    self._save_with(metrics)
                raise
            except GeneratorExit:  # whoever watches has left, between two steps
                self._save_with(metrics)
                raise
            finally:
                self._abandonable = True
                self._close()

    def _steps(self) -> Iterator[StepRecord]:
        """Training steps, each with its clipping and its update on the run's backend."""
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
        """Put what a result depends on into the manifest, where it does not stand there."""
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
        """Whether the mean training loss begins anew after a step: what decides of it must not hang on the flow."""
        return step % self.settings.log_every == 0 or self.validates(step)

    def _logs(self, step: int) -> bool:
        return self._averages(step) or self._shows_flow(step)

    def _ending(self, seconds: float) -> str | None:
        if self.state.step >= self.last_step:
            return self.last_outcome
        if self._asked:
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
        """Put into a record what there is to know of the network beside its losses. No generator is drawn from."""
        if step.details:
            record |= norms_of(step.details)
        if not (self.validates(step.step) or self._shows_flow(step.step)):
            return
        # States of weights on their way to diverge may be no numbers: the record then has nothing of them.
        with on_backend(self.settings.backend), np.errstate(all="ignore"), suppress(UserError):
            probe = self.problem.probe(self.state.params)
            if probe and self.validates(step.step) and (units := records.units(probe)):
                record["units"] = units
            if probe and self._shows_flow(step.step):
                flow = records.flow(probe, self.settings.seed or 0)
                record |= {"flow": flow} if flow else {}

    def _follow(self, first_step: int, seconds: float) -> None:
        """Spread the schedule anew where that is due, by the clock or as the run did that is repeated."""
        step, limit = self.state.step, self.settings.max_time
        for at, total in self.repeats:
            if at == step:
                self._span(total)
        if not limit or not self.settings.has_end or step < self.settings.warmup:  # a warm-up is counted in steps
            return
        (at, total), then = self.tally.spans[-1] if self.tally.spans else (0, self.total_steps), self._spread
        if (step - at) * SPANS >= total or (seconds - then) * SPANS >= limit:
            self._spread = seconds
            self._span(first_step + (step - first_step) * limit / max(seconds, 1e-9))

    def _span(self, steps: float) -> None:
        """Spread the schedule over so many steps from the first of the run, but no more than the settings ask for."""
        total = min(self.total_steps, steps)
        self.tally.spans.append([self.state.step, total])
        self.schedule = self.settings.make_schedule(self.learning_rate, total, self.problem.steps_per_epoch)

    def _validate(self, record: dict[str, Any]) -> bool:
        """Validate; whether the weights are the best of all validations that were due."""
        metrics = self._measured(record)
        if self._are_better(metrics, self.tally.best):
            self.tally.best, self.tally.best_step, self.tally.stale = metrics, self.state.step, 0
            return True
        self.tally.stale += 1
        return False

    def _are_better(self, metrics: dict[str, float], before: dict[str, float] | None) -> bool:
        if before is None:
            return True
        gain = metrics[self.metric] - before[self.metric]
        return gain < 0 if self._direction == "min" else gain > 0

    def _validate_at_stop(self, progress: Progress, metrics: TextIO) -> None:
        """Validate where training is stopped, unless it was asked for twice; the class says what becomes of it."""
        record = dict(progress.record or {})
        try:
            self._abandonable = True
            if self._asked > 1:
                return
            measured = self._measured(record)
        except KeyboardInterrupt:
            return
        finally:
            self._abandonable = False
        if self._are_better(measured, self.best["metrics"]):
            if self.tally.best is not None and self._set_aside is None:
                self._set_aside = self.run.params()
                self.save()
            self._save_best(self.state.params, self.state.step, measured)
            progress.improved = True
        _append(metrics, record)
        progress.record = record

    def _measured(self, record: dict[str, Any]) -> dict[str, float]:
        """The metrics of the weights on what is held out, which are put into the record, or else the training loss.

        Raises:
            NotFinite: the deciding one is no number, or the weights are none.
        """
        with on_backend(self.settings.backend), np.errstate(all="ignore"):  # what is not finite is told below
            found = self.problem.validate(self.state.params)
        if found is not None:
            metrics = {name: float(value) for name, value in found.items()}
            record |= {f"valid_{name}": value for name, value in metrics.items()}
        else:  # the training loss is of the weights before the step
            finite = all(np.isfinite(leaf).all() for leaf in trees.leaves(self.state.params))
            metrics = {"loss": record["train_loss"] if finite else math.nan}
        value = metrics[self.metric]
        if not math.isfinite(value):
            batch, rng = self.problem.batch(self.state.step), copy.deepcopy(self.state.rng)
            raise NotFinite(self.state.step, value, record["gradient_norm"], batch, self.state.carry, rng)
        return metrics

    def _save_best(self, params: Tree, step: int, metrics: dict[str, float] | None) -> None:
        notes = {"step": step, "metrics": metrics}
        checkpoint.save(self.run.path / BEST, params, notes)
        self.best = notes

    def _save_with(self, metrics: TextIO) -> None:
        """Save, unless that was done after this step, with the records that are counted in what is saved."""
        if self.saved != self.state.step:
            checkpoint.sync(metrics.fileno())
            self.save()

    def save(self) -> None:
        """Write all that it takes to go on, and the weights too where none were validated."""
        tree = {"params": self.state.params, "optimizer": self.state.optimizer, "carry": self.state.carry}
        if self._set_aside is not None:
            tree[SET_ASIDE] = self._set_aside
        rng = self.state.rng.bit_generator.state
        notes = {"step": self.state.step, "rng": rng, "tally": vars(self.tally)}
        checkpoint.save(self.run.path / LAST, tree, notes)
        self.saved = self.state.step
        if self.best["metrics"] is None:  # a run that ended before its first validation can be sampled all the same
            self._save_best(self.state.params, self.state.step, None)

    def _close(self) -> None:
        failed = self.outcome is None and self.state.step == 0
        self.outcome = self.outcome or "interrupted"
        try:
            self.run.update(outcome=self.outcome, step=self.saved, best=self.best)
        finally:
            self.run.release(failed=failed)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Say which file an error is of, where the system does not, as in writing to one that is open."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def _append(metrics: TextIO, record: dict[str, Any]) -> None:
    metrics.write(json.dumps(record) + "\n")
    metrics.flush()


def _generators(settings: Settings) -> list[np.random.Generator]:
    """What draws initial weights, and what draws the masks of dropout."""
    return [np.random.default_rng(part) for part in np.random.SeedSequence(settings.seed).spawn(2)]


def verdict(
    records: list[dict[str, Any]],
    done: float,
    guessing: float | None,
    rate: float,
    longer: str = "more --epochs",
) -> str:
    """What the curves say, in words: whether the model has learnt anything, and whether it over- or underfits.

    Args:
        records: as in ``metrics.jsonl``; those with ``valid_loss`` are considered.
        done: how much of the run they show; of the first half, that it still underfits is no news.
        guessing: the loss of one who knows nothing; None where there is no such thing.
        rate: the highest learning rate of the schedule.
        longer: what makes such a run longer.
    """
    known = [r for r in records if r.get("valid_loss") is not None]
    if not known:
        return ""
    best = min(range(len(known)), key=lambda i: known[i]["valid_loss"])
    last = known[-1]
    held_out, training = last["valid_loss"], last["train_loss"]
    since = len(known) - 1 - best
    risen, regained = held_out - known[best]["valid_loss"], training - known[best]["train_loss"]
    lower = f"a lower --learning-rate (it was {rate:.2g})"
    if since >= 2 and risen > 0.01 and regained < 0:
        return (
            f"It overfits: the held-out loss has risen by {risen:.3f} nats since step {known[best]['step']}, whose "
            "weights are kept, while the training loss went on falling. More data, --dropout or a smaller model help."
        )
    if since and min(risen, regained) > 0.05:
        return (
            f"It has got worse: both losses have risen since step {known[best]['step']}, whose weights are kept, the "
            f"held-out one by {risen:.3f} nats. Try {lower}."
        )
    if guessing is not None and held_out > 0.98 * guessing and done >= 0.5:
        beside = f"the held-out loss is {held_out:.4g} nats, and guessing costs {guessing:.4g}"
        if training < 0.98 * guessing:
            return f"It overfits: {beside}, while the training loss is {training:.4g}. More data or --dropout help."
        if held_out > 1.02 * guessing:
            return f"It has learnt nothing: {beside}. Try {lower}; rnn report tells whether the gradient explodes."
        return f"It has learnt nothing yet: {beside}. Train longer, or with a higher --learning-rate."
    if len(known) < 3:
        return ""
    if held_out < 0.05:
        return "It has learnt this kind of data: the held-out loss is near zero."
    if done < 0.5:
        return ""
    gap = held_out - training
    falling = known[max(0, len(known) - 4)]["valid_loss"] - held_out
    if falling > 0.02 and gap < 0.1:
        if last.get("learning_rate", rate) < 0.05 * rate:
            return (
                f"It underfits: both losses fell until the schedule ended. Train longer in a new run, with {longer}, "
                "or with a larger --hidden-size."
            )
        return "It underfits: both losses are still falling. Train longer, or with a larger --hidden-size."
    if gap < 0.03 and falling < 0.01:
        return "It underfits: both losses stand still, close together. A larger --hidden-size or more layers may help."
    if gap > 0.3:
        return f"It begins to overfit: the held-out loss is {gap:.2f} nats above the training loss. --dropout helps."
    return "It fits: the held-out loss follows the training loss."
