"""Prepare runs for training: a new one, one with another's weights, a resumed or a repeated one."""

from __future__ import annotations

import os
import secrets
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from minigrad import trees
from minigrad.compiled import jit
from rnn_cells import Cell
from rnn_lab import backends
from rnn_lab.ablation import ablations
from rnn_lab.backends import is_compiled, resolved
from rnn_lab.blas_threads import Threads, changes_of, contradiction
from rnn_lab.keeping import replacing
from rnn_lab.paths import BEST, LAST
from rnn_lab.problem import Problem, files_of, read, to_evaluate, without_held_out
from rnn_lab.runs import Run, create_run, environment, network_of
from rnn_lab.session import Session, digest_of, source_of
from rnn_lab.settings import COMMON, EPOCHS, MIN_STEPS, Backend, Settings, merge, named, option, warmed_up
from rnn_lab.trainer import LEARNING_RATE, Trainer
from rnn_plugins import registry
from rnn_plugins.data.corpus import cache_folder
from rnn_plugins.data.download import is_url, place
from rnn_plugins.data.sources import is_pipe, label_of
from rnn_plugins.errors import UserError
from rnn_plugins.tasks.task import Data, Purpose, Task

CHANGEABLE = named("changeable")
"""Settings that may change when a run is resumed; the files, if they contain the same data."""

INHERITED = tuple(name for name in named("inherited") if name not in (*COMMON, "task_option"))
"""Settings that a run takes over with another run's weights, besides options of its task."""


def start(
    given: Mapping[str, Any], *, name: str | None = None, init_from: Run | None = None, overwrite: bool = False
) -> Session:
    """Prepare a new run.

    Args:
        given: the settings that differ from the defaults.
        name: the run's name.
        init_from: a run whose best weights, facts and sizes it starts with.
        overwrite: whether a run that has this name already is removed, once the new one is ready to train.

    Raises:
        UserError: a setting or the data are invalid, or ``given`` contradicts ``init_from``.
    """
    if init_from is None:
        return _prepare(Settings(**given), name, overwrite=overwrite)
    _trust_given(given)
    inherited = {key: getattr(init_from.settings, key) for key in INHERITED}
    options = {key: getattr(init_from.task, key) for key in _of_weights(init_from.task)}
    settings = Settings(**merge(inherited | {"task_option": options}, given))
    _require_of_training(init_from, given)
    advice = "leave it out, or start without --init-from"
    _require_same(settings, init_from, INHERITED, advice)
    _require_same_task(_task(settings, init_from), init_from, _of_weights(init_from.task), advice)
    session = _prepare(settings, name, weights_of=init_from, overwrite=overwrite)
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
    _require_of_training(run, given)
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
    source = source_of(run)
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


def _prepare(
    settings: Settings,
    name: str | None,
    *,
    weights_of: Run | None = None,
    known: Run | None = None,
    overwrite: bool = False,
) -> Session:
    """Prepare a run for its first step, with all defaults resolved.

    Args:
        settings: the run's settings.
        name: the run's name; None to make one.
        weights_of: the run whose weights, facts and cell it starts with.
        known: the run that it repeats.
        overwrite: as for ``start``.
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
        manifest["init_from"] = {"path": path, "sha256": digest_of(weights_of.path / BEST)}
    manifest["facts"] = data.facts
    # Everything else is done by now: a run that is replaced has no other name for longer than it must.
    with replacing(name) if name is not None and overwrite else nullcontext():
        run = create_run(name, f"{origin.get('class', settings.cell)}-{stem(files[0])}", manifest)
        try:
            trainer = Trainer(run, problem, decided)
            trainer.begin(params)
        except BaseException:
            run.release(failed=True)
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
    settings = replace(settings, embedding_size=network.embedding_size, task_option=_options(task))
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


def _require_of_training(run: Run, given: Mapping[str, Any]) -> None:
    """Check that the user gives no option that is only of an evaluation of a run."""
    registry.require_of_training(type(run.task), run.settings.task, given.get("task_option", ()))


def _task(settings: Settings, run: Run | None) -> Task:
    """The task of the settings; if they resume, repeat or begin from a run, that run's."""
    if run:
        return registry.task_for_run(run.name, run.manifest["task"], settings.task_option)
    return registry.make_task(settings.task, settings.task_option)


def _options(task: Task) -> dict[str, Any]:
    """The options of a task that a run records."""
    return {name: value for name, value in asdict(task).items() if name not in task.of_assessment}


def _of_weights(task: Task) -> tuple[str, ...]:
    """The options of a task that its weights depend on."""
    return tuple(_options(task)) if task.of_weights is None else task.of_weights


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
