"""Prepare runs for training: a new one, one with another's weights, a resumed or a repeated one."""

from __future__ import annotations

import hashlib
import os
import secrets
import shlex
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minigrad import trees, value_and_grad
from minigrad.compiled import jit
from minigrad.diagnosis import explain
from minigrad.training import NotFinite
from minigrad.trees import Tree
from rnn_cells import Cell
from rnn_lab import backends
from rnn_lab.ablation import ablations
from rnn_lab.backends import is_compiled, on_backend, resolved
from rnn_lab.blas_threads import Threads, changes_of, contradiction
from rnn_lab.divergence import of_recurrence
from rnn_lab.evaluation import Evaluation, evaluate
from rnn_lab.paths import BEST, LAST
from rnn_lab.problem import Problem, files_of, read, reading, to_evaluate, without_held_out
from rnn_lab.process import resident
from rnn_lab.retyping import command_of, typed
from rnn_lab.runs import Run, create_run, environment, network_of
from rnn_lab.settings import COMMON, EPOCHS, MIN_STEPS, Backend, Settings, merge, named, option, warmed_up
from rnn_lab.trainer import LEARNING_RATE, Progress, Trainer
from rnn_lab.verdict import Verdict, verdict
from rnn_plugins import registry
from rnn_plugins.data.corpus import cache_folder
from rnn_plugins.data.download import is_url, place
from rnn_plugins.data.sources import is_pipe, label_of
from rnn_plugins.errors import UserError
from rnn_plugins.tasks.task import Data, Purpose, Task

WARM_UP = 200
"""Steps of warm-up in the advice for a diverged run."""

MOST_DROPOUT = 0.5
"""The highest dropout in an advice; beyond it, a smaller network is advised."""

CHANGEABLE = named("changeable")
"""Settings that may change when a run is resumed; the files, if they contain the same data."""

INHERITED = tuple(name for name in named("inherited") if name not in (*COMMON, "task_option"))
"""Settings that a run takes over with another run's weights, besides options of its task."""


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
        source = _source(self.run)
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


def start(given: Mapping[str, Any], *, name: str | None = None, init_from: Run | None = None) -> Session:
    """Prepare a new run.

    Args:
        given: the settings that differ from the defaults.
        name: the run's name.
        init_from: a run whose best weights, facts and sizes it starts with.

    Raises:
        UserError: a setting or the data are invalid, or ``given`` contradicts ``init_from``.
    """
    if init_from is None:
        return _prepare(Settings(**given), name)
    _trust_given(given)
    inherited = {key: getattr(init_from.settings, key) for key in INHERITED}
    options = {key: getattr(init_from.task, key) for key in _of_weights(init_from.task)}
    settings = Settings(**merge(inherited | {"task_option": options}, given))
    advice = "leave it out, or start without --init-from"
    _require_same(settings, init_from, INHERITED, advice)
    _require_same_task(_task(settings, init_from), init_from, _of_weights(init_from.task), advice)
    session = _prepare(settings, name, weights_of=init_from)
    session.notices.append(f"it starts with the best weights of {init_from.name}")
    return session


def resume(run: Run, given: Mapping[str, Any]) -> Session:
    """Prepare a run to be resumed from its last saved state.

    Args:
        run: the run.
        given: settings; those that are not in ``CHANGEABLE`` must be unchanged.

    Raises:
        UserError: the data have changed, a setting differs, or another process trains the run.
    """
    run.lock()
    try:
        return _resume(run, given)
    except BaseException:
        run.release()
        raise


def _resume(run: Run, given: Mapping[str, Any]) -> Session:
    before = run.settings
    settings = Settings(**merge(before.to_json(), given))
    backend, other = _backend(run, given.get("backend"))
    settings = replace(settings, backend=backend)
    _require_same(settings, run, INHERITED, "leave it out, or start a new run without --resume")
    _trust_given(given)
    task, of_weights = _task(settings, run), _of_weights(run.task)
    _require_same_task(task, run, of_weights, "leave it out, or start a new run without --resume")
    fixed = [f.name for f in fields(Settings) if f.name not in (*CHANGEABLE, *COMMON, "task_option")]
    advice = f"leave it out, or start a new run with its weights: --init-from {run.name}"
    _require_same(settings, run, fixed, advice)
    _require_same_task(task, run, [f.name for f in fields(task) if f.name not in of_weights], advice)
    data = _read(task, settings.files, run, settings.valid)
    recorded = run.manifest["data"]["digest"]
    if data.digest != recorded:
        named = ", ".join(settings.files + settings.valid)
        raise UserError(
            f"the data of the run {run.name!r} have changed: {named} has the SHA-256 {data.digest[:12]}, and it was "
            f"{recorded[:12]}; a run can be resumed only with the data that it began with: --init-from {run.name} "
            "starts a new one with its weights"
        )
    problem = Problem.of(task, run.model, data, settings)
    trainer = Trainer(run, problem, settings)
    step = run.notes(LAST)["step"]
    if trainer.total_steps < step:
        name = "epochs" if settings.steps is None else "steps"
        raise UserError(
            f"--{name} is {getattr(settings, name):g}, and the run {run.name!r} has been trained for {step:,} steps: "
            f"give more to train it further, or start a new run with its weights: --init-from {run.name}"
        )
    trainer.resume()
    last = ", which is its last; --epochs or --steps trains it further" if step >= trainer.total_steps else ""
    session = Session(run, problem, trainer, [f"it resumes after step {step:,}{last}", *ablations(settings)])
    session.notices += [*run.code_changed(), *backends.crowded(backend)]
    if other:
        session.notices.append(
            f"it began on the backend {other}, and resumes on {backend}: its weights may not be the same bit for bit"
        )
    began, now = run.manifest.get("environment", {}), environment()
    watched = ["rnn-lab", "numpy", "machine"]
    if is_compiled(before.backend) == is_compiled(backend):
        now |= (ran := backends.environment(backend))
        watched += [key for key in ran if key != "backend"]
        if "target" in began and is_compiled(backend):
            now["target"] = jit.processor()
            watched.append("target")
    session.notices += [
        f"it began with {key} {began[key]} and resumes with {now[key]}: its weights may not be the same bit for bit"
        for key in watched
        if key in began and began[key] != now[key]
    ]
    if threads := contradiction(changes_of(began)):
        session.notices.append(f"its BLAS threads were {threads}: its weights may not be the same bit for bit")
    anew = [key for key in CHANGEABLE if key != "files"]
    changed = {key: getattr(settings, key) for key in anew if getattr(settings, key) != getattr(before, key)}
    timed = settings.max_time is not None
    if settings.has_end and (timed or changed.keys() & {"epochs", "steps"}):
        end = "the end of the time" if timed else f"step {trainer.total_steps:,}"
        session.notices.append(
            f"the {settings.schedule.partition(':')[0]} schedule now extends to {end}; the learning rate continues at "
            f"{trainer.schedule(step):.2g}"
        )
    history = [*run.manifest.get("resumed", []), {"step": step, "changed": changed}]
    if other:
        began = {key: value for key, value in began.items() if key not in backends.BACKEND_KEYS}
        began |= backends.environment(backend)
    run.update(settings=_recorded(settings), resumed=history, environment=began)
    return session


def repeat(run: Run, *, name: str | None = None, backend: Backend | None = None) -> Session:
    """Prepare a new run with the settings of another, up to the step that it reached.

    Args:
        run: the other run.
        name: the new run's name; None to make one.
        backend: another backend than that of ``run``.

    Raises:
        UserError: the data or the initial weights are gone, or the backend is unavailable.
    """
    source = _source(run)
    backend, other = _backend(run, backend)
    outcome = run.manifest.get("outcome")
    reached = run.notes(LAST) if outcome else {}
    session = _prepare(replace(run.settings, backend=backend), name, weights_of=source, known=run)
    if other:
        session.notices.append(
            f"{run.name} ran on the backend {other}, and its repetition runs on {backend}: the weights may not be "
            "the same bit for bit"
        )
    session.trainer.blas_threads = Threads(follows=(threads := changes_of(run.manifest.get("environment", {}))))
    if differ := contradiction(threads):
        session.notices.append(
            f"the BLAS threads of {run.name} were {differ}: the weights may not be the same bit for bit"
        )
    before, data = run.manifest["data"]["digest"], session.problem.data
    if data.digest != before:
        session.notices.append(
            f"the data have changed since {run.name}: {', '.join(data.sources)} has the SHA-256 "
            f"{data.digest[:12]}, and it was {before[:12]}"
        )
    for earlier in run.manifest.get("resumed", []):
        if lasting := [option(key) for key in earlier["changed"] if key not in ("max_time", "log_every")]:
            session.notices.append(
                f"{run.name} was given another {' and '.join(lasting)} at step {earlier['step']:,}; "
                "its repetition uses it from the beginning"
            )
    trainer = session.trainer
    if outcome:
        trainer.settings = replace(trainer.settings, max_time=None)
        trainer.repeats = reached["tally"].get("spans", [])
    if outcome in ("time", "interrupted"):
        trainer.last_step, trainer.last_outcome = reached["step"], outcome
        session.notices.append(
            f"{run.name} was ended early: its repetition ends after as many steps, {trainer.last_step:,}"
        )
    return session


def same_weights(one: Run, other: Run) -> bool | None:
    """Whether two runs have the same weights bit for bit, the last or else the best; None if the steps differ."""
    for file in (LAST, BEST):
        (a, a_notes), (b, b_notes) = one.load(file), other.load(file)
        if a_notes["step"] == b_notes["step"]:
            a, b = (trees.flatten(tree["params"] if file == LAST else tree) for tree in (a, b))
            return a.keys() == b.keys() and all(
                (x.dtype, x.shape, x.tobytes()) == (b[path].dtype, b[path].shape, b[path].tobytes())
                for path, x in a.items()
            )
    return None


def _source(run: Run) -> Run | None:
    """The run whose weights another one started with; None if it started with new ones.

    Raises:
        UserError: the weights are gone or have changed.
    """
    recorded = run.manifest.get("init_from")
    if not recorded:
        return None
    source = Run(Path(recorded["path"]))
    if not (source.path / BEST).is_file() or _digest(source.path / BEST) != recorded["sha256"]:
        raise UserError(
            f"the run {run.name!r} started with the weights in {source.path}, which are gone or have changed: "
            "it cannot be repeated"
        )
    return source


def _prepare(
    settings: Settings, name: str | None, *, weights_of: Run | None = None, known: Run | None = None
) -> Session:
    """Prepare a run for its first step, with all defaults resolved.

    Args:
        settings: the run's settings.
        name: the run's name; None to make one.
        weights_of: the run whose weights, facts and cell it starts with.
        known: the run that it repeats.
    """
    model_of = known or weights_of
    if model_of:
        origin = registry.provenance_now("cells", model_of.name, model_of.manifest["cell"])
        task_origin = registry.provenance_now("tasks", model_of.name, model_of.manifest["task"])
    else:
        origin = registry.provenance("cells", settings.cell)
        task_origin = registry.provenance("tasks", settings.task)

    made: list[Cell] = []

    def make_cell(input_size: int) -> Cell:
        if model_of:
            made.append(model_of.make_cell(input_size))
        else:
            made.append(registry.make_cell(settings.cell, input_size, settings.hidden_size, settings.cell_option))
        return made[-1]

    notices = model_of.code_changed() if model_of else []
    task = _task(settings, model_of)
    if settings.valid:
        task = without_held_out(task, settings.task, settings.task_option)
    files = files_of(task, settings.task, settings.files)
    settings = replace(settings, files=files, backend=resolved(settings.backend))
    if known:
        data = _read(task, files, known, settings.valid)
    else:
        data = read(task, files, weights_of.facts if weights_of else None, valid=settings.valid)
    if settings.test:  # so that a mistake in them is found before training
        read(to_evaluate(task), settings.test, data.facts, purpose="evaluate")
    decided, problem = _resolve(settings, task, data, make_cell, made)
    params = trees.cast(weights_of.params(), decided.dtype) if weights_of else None
    manifest = {
        "task": task_origin,
        "cell": origin,
        "settings": _recorded(decided),
        "parameters": trees.count(problem.init_params(np.random.default_rng(0))),
        "data": {
            "sources": list(data.sources),
            "digest": data.digest,
            "train": task.count(data.train),
            "valid": task.count(data.valid),
            "units_per_step": problem.units_per_step,
        },
        "metrics": {name: metric._asdict() for name, metric in task.metrics.items()},
        "environment": environment() | backends.environment(decided.backend),
        "outcome": None,
    }
    if weights_of:
        path = os.path.abspath(weights_of.path)
        manifest["init_from"] = {"path": path, "sha256": _digest(weights_of.path / BEST)}
    manifest["facts"] = data.facts
    run = create_run(name, f"{origin.get('class', settings.cell)}-{stem(files[0])}", manifest)
    try:
        trainer = Trainer(run, problem, decided)
        trainer.begin(params)
    except BaseException:
        run.release()
        raise
    notices += [*ablations(decided), *backends.crowded(decided.backend)]
    if not problem.validates:
        other = "; --valid FILE names held-out data" if any(f.name == "valid_fraction" for f in fields(task)) else ""
        kept = "the latest average is kept" if decided.average else "the training loss chooses the best weights"
        notices.append(f"nothing is held out, so {kept}{other}")
    if pipes := list(filter(is_pipe, files)):
        notices.append(
            f"{label_of(pipes)} cannot be read again: the data are kept in {str(cache_folder())!r}; if they are gone, "
            f"resume with the same data in a FILE: rnn train --resume {shlex.quote(run.name)} FILE"
        )
    return Session(run, problem, trainer, list(filter(None, [*data.notices, problem.notice, *notices])))


def _backend(run: Run, wish: Backend | None) -> tuple[Backend, str]:
    """The backend for resuming or repeating a run, and if it differs, the run's own in words.

    Raises:
        UserError: the wanted backend is unavailable.
    """
    before = run.settings.backend
    if wish is not None:
        backend = resolved(wish)
        return backend, "" if backend == before else before
    if is_compiled(before) and resolved("auto") == "numpy":
        return "numpy", "compiled, which needs llvmlite (pip install 'rnn-lab[jit]')"
    return before, ""


def _resolve(
    settings: Settings, task: Task, data: Data, make_cell: Callable[[int], Cell], made: Sequence[Cell]
) -> tuple[Settings, Problem]:
    """The settings with all defaults resolved, and the problem.

    Args:
        settings: as the user gives them.
        task: the task.
        data: its data.
        make_cell: makes a layer.
        made: the layers that it has made.
    """
    network = task.resolve(data.facts, network_of(settings, make_cell))
    settings = replace(settings, embedding_size=network.embedding_size, task_option=asdict(task))
    if settings.seed is None:
        settings = replace(settings, seed=secrets.randbelow(1_000_000))
    problem = Problem.of(task, task.model(data.facts, network), data, settings)
    if settings.learning_rate is None:
        suggested = next((cell.suggested_learning_rate for cell in made), None)
        settings = replace(settings, learning_rate=suggested or LEARNING_RATE)
    if settings.epochs is None and settings.steps is None:
        short = problem.steps_per_epoch * EPOCHS < MIN_STEPS
        settings = replace(settings, steps=MIN_STEPS) if short else replace(settings, epochs=EPOCHS)
    # A cell's warm-up could take up most of a short run.
    suggestion = max((cell.suggested_warmup for cell in made), default=0)
    warmup = min(suggestion, settings.total_steps(problem.steps_per_epoch) // 10)
    settings = replace(settings, schedule=warmed_up(settings.schedule, warmup))
    return settings, problem


def _trust_given(given: Mapping[str, Any]) -> None:
    """Trust the files that the user names again as the cell and the task of a run."""
    for group, word in (("cells", "cell"), ("tasks", "task")):
        registry.given(group, given.get(word, ""))


def _task(settings: Settings, run: Run | None) -> Task:
    """The task of the settings; if they resume, repeat or begin from a run, that run's."""
    if run:
        return registry.task_for_run(run.name, run.manifest["task"], settings.task_option)
    return registry.make_task(settings.task, settings.task_option)


def _of_weights(task: Task) -> tuple[str, ...]:
    """The options of a task that its weights depend on."""
    return tuple(f.name for f in fields(task)) if task.of_weights is None else task.of_weights


def _read(task: Task, files: Sequence[str], known: Run, valid: Sequence[str]) -> Data:
    """Read the data of a run again; those of standard input from the cache, or from standard input."""
    facts, remedy = known.facts, "put them back"
    purpose: Purpose = "resume"
    if "-" in files:
        remedy = f"give the same data in a FILE: rnn train --resume {shlex.quote(known.name)} FILE"
        purpose = "again" if _no_input() else purpose
    try:
        if tuple(files) == known.settings.files and (pipes := [f for f in files if f != "-" and is_pipe(f)]):
            raise UserError(f"{pipes[0]!r} is a pipe")  # reading would wait for a writer
        return read(task, files, facts, purpose=purpose, valid=valid)
    except UserError as error:
        problem = str(error).partition(";")[0]  # the rest is advice on other files to train on
        raise UserError(f"the data of the run {known.name!r} cannot be read: {problem}; {remedy}") from None


def _no_input() -> bool:
    return sys.stdin is None or sys.stdin.isatty()


def _require_same(settings: Settings, run: Run, names: Iterable[str], advice: str) -> None:
    """Check that settings equal those of a run.

    Raises:
        UserError: one does not.
    """
    for name in names:
        here, there = getattr(settings, name), getattr(run.settings, name)
        if isinstance(here, dict):  # values from the command line are text
            here, there = ({key: str(value).lower() for key, value in options.items()} for options in (here, there))
        if here != there:
            shown = [_pairs(value) if isinstance(value, dict) else value for value in (here, there)]
            raise UserError(f"{option(name)} is {shown[0]}, and the run {run.name!r} has {shown[1]}: {advice}")


def _require_same_task(task: Task, run: Run, names: Iterable[str], advice: str) -> None:
    """Check that options of a task equal those of a run.

    Raises:
        UserError: one does not.
    """
    for name in names:
        here, there = getattr(task, name), getattr(run.task, name)
        if here != there:
            spelled = f"{option(name)} is" if name in COMMON else f"--task-option {name} is"
            shown = [str(value).lower() if isinstance(value, bool) else value for value in (here, there)]
            raise UserError(f"{spelled} {shown[0]}, and the run {run.name!r} has {shown[1]}: {advice}")


def _pairs(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in options.items()) or "none"


def _recorded(settings: Settings) -> dict[str, Any]:
    """Settings for the manifest, with absolute paths of files, and ``-`` for pipes."""
    files = [absolute(file) for file in settings.files]
    if files.count("-") > 1:
        files = ["-"]  # standard input can be read only once, so it must contain all data
    valid, test = (tuple(map(absolute, some)) for some in (settings.valid, settings.test))
    return replace(settings, files=tuple(files), valid=valid, test=test).to_json()


def absolute(file: str) -> str:
    """The absolute path of a file; ``-`` for a pipe, and what is built in or on the web as it is."""
    return file if file.startswith("builtin:") or is_url(file) else "-" if is_pipe(file) else os.path.abspath(file)


def stem(source: str) -> str:
    """A short name for a text."""
    if source == "-":
        return "stdin"
    if is_url(source):
        return place(source, Path()).name.partition(".")[0]
    return Path(source.removeprefix("builtin:")).name.partition(".")[0]


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
