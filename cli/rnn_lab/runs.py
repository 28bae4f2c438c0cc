"""Runs as folders: the manifest, the weights and the metrics of each."""

from __future__ import annotations

import json
import platform
import shlex
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from datetime import datetime
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from minigrad import checkpoint, trees
from minigrad.trees import Tree
from rnn_cells import Cell, Stacked
from rnn_lab import schema
from rnn_lab.ablation import ablated
from rnn_lab.blame import blaming
from rnn_lab.language import older
from rnn_lab.paths import (
    BEST,
    EVENTS,
    LAST,
    LOCK,
    MANIFEST,
    METRICS,
    folder_name,
    require_name,
    run_folder,
    run_folders,
    runs_folder,
)
from rnn_lab.problem import read
from rnn_lab.regularisation import regularised
from rnn_lab.settings import Settings
from rnn_plugins import registry
from rnn_plugins.errors import UserError, did_you_mean
from rnn_plugins.language import Language
from rnn_plugins.tasks.task import Data, Metric, Model, Network, Part, Task
from rnn_plugins.words import brief, listing

if TYPE_CHECKING:
    from filelock import BaseFileLock

T = TypeVar("T")

PARTS_OF_LAST = ("params", "optimizer", "carry")
"""The trees that training resumes from, by their names in ``last.safetensors``."""

SET_ASIDE = "best"
"""An optional part: the best weights, if a stop has replaced them in their own file."""

AVERAGE = "average"
"""An optional part: the average of the weights over steps."""


@dataclass(frozen=True)
class Summary:
    """A run's row in a list.

    Attributes:
        name: the run's name.
        task: its task.
        cell: its cell, with its ablations.
        size: layers x units.
        parameters: their number.
        metrics: of the best weights, derived ones included; empty before the first validation.
        declared: what these metrics are.
        held_out: whether they are of held-out data; otherwise of the training data.
        step: the number of steps taken.
        outcome: as in ``Trainer.outcome``, or "running" or "killed".
        age: seconds since it began.
        error: why it cannot be read, or None; the other fields are then unknown.
    """

    name: str
    task: str = ""
    cell: str = ""
    size: str = ""
    parameters: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    declared: Mapping[str, Metric] = field(default_factory=dict)
    held_out: bool = True
    step: int = 0
    outcome: str = "unreadable"
    age: float | None = None
    error: str | None = None


@dataclass(frozen=True)
class Run:
    """A run's folder and manifest.

    Attributes:
        path: the folder.
    """

    path: Path

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.name

    @property
    def quoted(self) -> str:
        """Its name, as a shell takes it."""
        return shlex.quote(self.name)

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """The content of ``run.json``.

        Raises:
            UserError: it is missing or damaged.
        """
        try:
            text = self.file(MANIFEST).read_text(encoding="utf-8", errors="surrogateescape")
            manifest = json.loads(text)
        except FileNotFoundError:
            raise self._unreadable(f"it has no {MANIFEST}") from None
        except OSError as error:
            raise self._unreadable(f"{MANIFEST}: {error.strerror}") from None
        except (ValueError, RecursionError):
            raise self._unreadable(f"its {MANIFEST} is not valid JSON") from None
        try:
            manifest = older.manifest(manifest) if older.is_older(manifest) else manifest
        except ValueError as error:
            raise self._unreadable(f"its {MANIFEST} {error}") from None
        wrong = schema.misfit(manifest, schema.MANIFEST)
        for word in ("cell", "task"):
            wrong = wrong or schema.misfit(manifest[word], schema.of_plugin(word, manifest[word]), word)
        if wrong:
            raise self._unreadable(f"its {MANIFEST} {wrong}")
        return manifest

    def file(self, name: str) -> Path:
        """The path of one of its files, which need not exist.

        Raises:
            UserError: it is a link, a pipe or a device, through which another file would be read or written.
        """
        path = self.path / name
        with suppress(FileNotFoundError):
            mode = path.lstat().st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                what = "a symbolic link" if stat.S_ISLNK(mode) else "not a regular file"
                raise self._unreadable(f"its {name} is {what}; a run has regular files: replace it with a copy")
        return path

    def _unreadable(self, why: str) -> UserError:
        return UserError(f"the run {self.name!r} cannot be read: {why}")

    @cached_property
    def settings(self) -> Settings:
        """The settings that it was trained with."""
        settings = self._read("settings", Settings.from_json)
        if settings.learning_rate is None or settings.seed is None:
            raise self._unreadable(f"its settings in {MANIFEST} have no learning rate or no seed")
        return settings

    def _read(self, key: str, reader: Callable[[Any], T]) -> T:
        value = self.manifest[key]
        try:
            return reader(value)
        except (UserError, ValueError, TypeError, AttributeError, KeyError) as error:
            reason = f"it has no {error}" if isinstance(error, KeyError) else error
            raise self._unreadable(f"its {key} in {MANIFEST}: {reason}") from None

    @cached_property
    def task(self) -> Task:
        """Its task.

        Raises:
            UserError: the task's distribution is not installed, which the message names, or it has other options now.
        """
        recorded = self.manifest["task"]
        cls = registry.class_of_run("tasks", self.name, recorded)
        return self._read("settings", lambda _: registry.rebuild_task(cls, recorded["task"], self.settings.task_option))

    @cached_property
    def facts(self) -> Mapping[str, Any]:
        """Its task's facts of its data.

        Raises:
            UserError: they are damaged, or the task's distribution is not installed.
        """
        return self._read("facts", self.task.check_facts)

    @cached_property
    def model(self) -> Model:
        """Its model, without the weights; as ``model_of``."""
        return self.model_of(self.task)

    def model_of(self, task: Task) -> Model:
        """The model, without the weights, of its task with other options, as ``reader`` returns it.

        Raises:
            UserError: the distribution of its cell or task is not installed; the message names it.
        """
        network = network_of(self.settings, self.make_cell)
        registry.class_of_run("cells", self.name, self.manifest["cell"])  # its errors are not errors in the facts
        return self._read("facts", lambda facts: task.model(facts, network))

    @cached_property
    def language(self) -> Language:
        """Its model as a language model.

        Raises:
            UserError: it is not one.
        """
        model, task = self.model, self.task
        if found := self._read("facts", lambda facts: task.language(model, facts)):
            return found
        raise self.refusal("continues no text" if self.generates else "writes no text")

    @property
    def predicts(self) -> bool:
        """Whether its task predicts something of an input."""
        return type(self.task).predict is not Task.predict

    @property
    def generates(self) -> bool:
        """Whether its task draws outputs for an input."""
        return type(self.task).generate is not Task.generate

    def refusal(self, lack: str, text: str = "") -> UserError:
        """The error for a command that needs what its task does not offer; it names a command to use.

        Args:
            lack: such as "writes no text".
            text: the user's input, with which a language model can begin.
        """
        use = f"predict {self.quoted} FILE" if self.predicts else f"eval {self.quoted}"
        if self.task.language(self.model, self.facts):
            use = f"sample {self.quoted}{f' --prime {shlex.quote(text)}' if text else ''}"
        return UserError(f"{self.name} is a run of the task {self.settings.task}, which {lack}: rnn {use}")

    def reader(self, **options: Any) -> Task:
        """Its task with the options for reading and using other examples.

        Args:
            options: options of the task that replace its own and those of ``of_evaluation``.

        Raises:
            UserError: the task has no such option, a value is invalid, or the weights depend on it.
        """
        own = {f.name: getattr(self.task, f.name) for f in fields(self.task)}
        values = {**own, **self.task.of_evaluation, **options}
        task = registry.build_task(type(self.task), self.settings.task, values)
        for name in options:
            here, there = getattr(task, name), own[name]
            of_weights = name not in task.of_assessment if task.of_weights is None else name in task.of_weights
            if here != there and of_weights:
                shown = [str(value).lower() if isinstance(value, bool) else value for value in (here, there)]
                raise UserError(
                    f"--task-option {name} is {shown[0]}, and the weights of the run {self.name!r} are for {shown[1]}: "
                    "leave it out"
                )
        return task

    def read(self, files: Sequence[str], **options: Any) -> Data:
        """Read examples from files to evaluate its model on; all of them are in ``valid``.

        Args:
            files: as its task takes them.
            options: as ``reader`` takes them.

        Raises:
            UserError: as ``reader``, or the files are unsuitable.
        """
        return read(self.reader(**options), files, self.facts, purpose="evaluate")

    @property
    def sources(self) -> str:
        """The files of its data, in a phrase."""
        return brief(self.manifest["data"]["sources"])

    @property
    def measured_on(self) -> str:
        """The data that its metrics are of, in words."""
        if self.held_out and self.settings.valid:
            return brief(self.settings.valid)
        return f"{self.task.held_out_part if self.held_out else 'the training data'} of {self.sources}"

    def data(self) -> tuple[Data | None, str]:
        """Its training and held-out data; None if they are gone or have changed, and a sentence that says why."""
        facts = self.facts
        try:
            data = read(self.task, self.settings.files, facts, purpose="again", valid=self.settings.valid)
        except UserError as error:
            return None, f"the data of the run {self.name!r} are not what they were: {error}"
        if data.digest != self.manifest["data"]["digest"]:
            return None, f"the data of the run {self.name!r} are not what they were: {self.sources} has changed since"
        return data, ""

    def make_cell(self, input_size: int) -> Cell:
        """A new cell like its own."""
        settings = self.settings
        return registry.cell_for_run(
            self.name, self.manifest["cell"], input_size, settings.hidden_size, settings.cell_option
        )

    def code_changed(self) -> list[str]:
        """Sentences that say so, if the code of its cell or task has changed."""
        groups = (("cells", "cell"), ("tasks", "task"))
        return [said for group, word in groups if (said := registry.changed(group, self.name, self.manifest[word]))]

    @property
    def held_out(self) -> bool:
        """Whether its metrics are of held-out data; otherwise they are of the training data."""
        return bool(self.manifest["data"]["valid"])

    @property
    def part(self) -> Part:
        """The part of the data that its metrics are of."""
        return "valid" if self.held_out else "train"

    def metrics(self, found: Mapping[str, float] | None = None, part: Part | None = None) -> dict[str, float]:
        """Metrics with the derived ones.

        Args:
            found: the metrics; None for those of the best weights, which are empty before the first validation.
            part: the part of the data that they are of; None for the one that it validates on.
        """
        found = self.reached()[1] if found is None else found
        return {**found, **self.task.derived(found, self.facts, part or self.part)} if found else {}

    def _declared(self) -> Mapping[str, Metric]:
        """What its metrics are; those that were recorded if the task is not installed or fails."""
        try:
            with blaming():
                return self.task.metrics
        except UserError:
            return {
                name: Metric(**{key: recorded[key] for key in Metric._fields if key in recorded})
                for name, recorded in self.manifest["metrics"].items()
            }

    def _known_metrics(self, found: Mapping[str, float]) -> dict[str, float]:
        """As ``metrics``; without the derived ones if the task is not installed or fails."""
        try:
            with blaming():
                return self.metrics(found)
        except UserError:
            return dict(found)

    @cached_property
    def _file_lock(self) -> BaseFileLock:
        # The system releases it when the process ends in any way.
        from filelock import FileLock

        return FileLock(self.file(LOCK), thread_local=False)

    def lock(self) -> None:
        """Keep other processes from training it, until ``release``.

        Raises:
            UserError: another process trains it, or a file that training writes is not a regular one.
        """
        from filelock import Timeout

        for name in (MANIFEST, BEST, LAST, METRICS, EVENTS):
            self.file(name)
        try:
            self._file_lock.acquire(timeout=0.5)  # rnn runs locks it for a moment, to check whether it is free
        except Timeout:
            raise UserError(f"the run {self.name!r} is being trained by another process: stop that one first") from None
        except (OSError, NotImplementedError):
            pass  # a file system without locks can be trained on; one that is read-only fails at the first write

    def release(self, *, failed: bool = False) -> None:
        """Unlock it, and remove a new run that saved nothing. It may be called more than once.

        Args:
            failed: whether to remove a new run in any case, because no step could be taken.
        """
        self._file_lock.release()
        if self.__dict__.pop("_is_new", False) and (failed or self.is_left_over()):
            shutil.rmtree(self.path, ignore_errors=True)

    def is_left_over(self) -> bool:
        """Whether it is the rest of a start that saved nothing: at most a manifest."""
        with suppress(OSError):
            names = {path.name for path in self.path.iterdir()}
            return not self.path.is_symlink() and all(n in (MANIFEST, LOCK) or n.endswith(".tmp") for n in names)
        return False

    def is_locked(self) -> bool:
        """Whether a process trains it now."""
        if not self.file(LOCK).exists():
            return False
        from filelock import FileLock, Timeout

        try:
            with FileLock(self.file(LOCK), timeout=0):
                return False
        except Timeout:
            return True
        except (OSError, NotImplementedError):  # unknown, such as in another user's folder
            return False

    def summary(self) -> Summary:
        """Its row in the list of runs; errors are in the row and never raised."""
        try:
            settings, (step, metrics) = self.settings, self.reached()
            outcome = self.manifest.get("outcome") or ("running" if self.is_locked() else "killed")
            if outcome == "running":
                step = max((record["step"] for record in self.records()), default=step)
            created = self.manifest.get("environment", {}).get("created")
            return Summary(
                name=self.name,
                task=self.manifest["task"]["task"],
                cell=", ".join([self.manifest["cell"]["cell"], *(f"{k}={v}" for k, v in settings.ablate.items())]),
                size=f"{settings.num_layers}x{settings.hidden_size}",
                parameters=self.manifest["parameters"],
                metrics=self._known_metrics(metrics or {}),
                declared=self._declared(),
                held_out=self.held_out,
                step=step,
                outcome=outcome,
                age=created and max(0.0, time.time() - datetime.fromisoformat(created).timestamp()),
            )
        except UserError as error:
            return Summary(self.name, error=str(error))
        except OSError as error:
            return Summary(self.name, error=str(self._unreadable(f"{error.filename}: {error.strerror}")))

    def update(self, **values: Any) -> None:
        """Write values to the manifest."""
        self.manifest.update(values)
        # File names need not be UTF-8; their bytes are preserved.
        text = json.dumps(self.manifest, ensure_ascii=False, indent=1) + "\n"
        checkpoint.write_atomically(self.path / MANIFEST, text.encode("utf-8", "surrogateescape"))

    def params(self) -> Tree:
        """The best weights on validation.

        Raises:
            UserError: there are none, or the file is damaged.
        """
        return self.load(BEST)[0]

    def last(self) -> tuple[Tree, dict[str, Any]]:
        """The state that training resumes from, and its metadata."""
        return self.load(LAST)

    def reached(self) -> tuple[int, dict[str, float] | None]:
        """The last saved step, and the metrics of the best weights, None if they were not validated."""
        if self.manifest.get("outcome"):
            return self.manifest.get("step", 0), self.manifest.get("best", {}).get("metrics")
        # The manifest has them only after a run has ended.
        last, best = (self.notes(name) if (self.path / name).exists() else {} for name in (LAST, BEST))
        return last.get("step", 0), best.get("metrics")

    def load(self, name: str) -> tuple[Tree, dict[str, Any]]:
        """Load one of its two files of weights and its metadata; see ``params`` and ``last``.

        Raises:
            UserError: it is missing or damaged, or its weights are not those of the run's model.
        """
        tree, notes = self._of_file(name, checkpoint.load)
        notes = self._checked(name, notes)
        if name == LAST and not (isinstance(tree, dict) and tree.keys() - {SET_ASIDE, AVERAGE} == {*PARTS_OF_LAST}):
            raise self._unreadable(f"its {name} contains other parts than {', '.join(PARTS_OF_LAST)}")
        for weights in [tree[key] for key in ("params", SET_ASIDE, AVERAGE) if key in tree] if name == LAST else [tree]:
            self._require_weights(name, weights)
        return tree, notes

    def notes(self, name: str) -> dict[str, Any]:
        """The metadata of one of its two files of weights: in ``model.safetensors`` their step and metrics.

        Raises:
            UserError: it is missing or damaged.
        """
        return self._checked(name, self._of_file(name, checkpoint.load_metadata))

    def _of_file(self, name: str, read: Callable[[Path], T]) -> T:
        path = self.file(name)
        if not path.exists():
            raise UserError(f"the run {self.name!r} has no {name}: it ended before anything was saved; train it again")
        try:
            return read(path)
        except checkpoint.CheckpointError as error:
            raise self._unreadable(str(error)) from None

    def _checked(self, name: str, notes: Any) -> dict[str, Any]:
        notes = older.notes(notes) if isinstance(notes, dict) else notes
        if wrong := schema.misfit(notes, {BEST: schema.BEST, LAST: schema.LAST}[name]):
            raise self._unreadable(f"its {name} {wrong}")
        return notes  # type: ignore[no-any-return]

    def _require_weights(self, name: str, weights: Tree) -> None:
        found = trees.flatten(weights)
        # First the shapes known in advance, because the cell of a damaged manifest can be too large to make.
        for path, shape in self.model.shapes_known().items():
            if path in found and found[path].shape != shape:
                raise self._unreadable(f"in its {name} {path} is {found[path].shape}, expected {shape}")
        self.require(name, self.model.init_params(np.random.default_rng(0)), weights)

    def require(self, name: str, expected: Tree, found: Tree) -> None:
        """Check that arrays from one of its files have the expected names, shapes and dtypes.

        Raises:
            UserError: they do not.
        """
        if wrong := _difference(expected, found):
            raise self._unreadable(f"in its {name} {wrong}")

    def records(self) -> Iterator[dict[str, Any]]:
        """The records of ``metrics.jsonl``, in order, one per step: a validation at a stop replaces the other."""
        before: dict[str, Any] = {}
        for record in self.lines():
            if before and before["step"] != record["step"]:
                yield before
            before = record
        if before:
            yield before

    def lines(self) -> Iterator[dict[str, Any]]:
        """The lines of ``metrics.jsonl``, in order, without damaged ones."""
        try:
            lines = self.file(METRICS).read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return
        yield from filter(None, map(record_of, lines))


def record_of(line: str) -> dict[str, Any] | None:
    """The record in a line of ``metrics.jsonl``; None if it is damaged."""
    with suppress(ValueError, RecursionError):
        record = json.loads(line)
        record = older.record(record) if isinstance(record, dict) else record
        if not schema.misfit(record, schema.RECORD):
            return record
    return None


def _difference(expected: Tree, found: Tree) -> str:
    """The first difference between two trees of arrays, in words; empty if there is none."""
    here, there = trees.flatten(found), trees.flatten(expected)
    for path, array in there.items():
        if path not in here:
            return f"there is no {path}"
        for what in ("shape", "dtype"):
            if getattr(here[path], what) != getattr(array, what):
                return f"{path} is {getattr(here[path], what)}, expected {getattr(array, what)}"
    for path in here.keys() - there.keys():
        return f"there is {path}, which the model does not have"
    try:
        trees.zip_leaves(expected, found)
    except ValueError as error:
        return str(error).partition(";")[0]
    return ""


def network_of(settings: Settings, make_cell: Callable[[int], Cell]) -> Network:
    """The network of some settings, with layers made by ``make_cell(input_size)`` and then ablated and regularised.

    Its ``make_cell`` raises ``UserError`` if the layers do not have the activations to ablate, or the weights to drop.
    """

    def stack(input_size: int) -> Cell:
        layers = [make_cell(input_size)]
        for _ in range(settings.num_layers - 1):
            layers.append(make_cell(layers[-1].output_size))
        if settings.ablate:
            layers = ablated(layers, settings)
        layers = regularised(layers, settings)
        return layers[0] if len(layers) == 1 else Stacked(layers, settings.dropout, settings.variational_dropout)

    return Network(
        stack,
        settings.hidden_size,
        settings.embedding_size,
        settings.dropout,
        settings.variational_dropout,
        settings.dtype,
    )


def find_runs() -> list[Run]:
    """All runs, most recently written first, unreadable ones included."""
    return [Run(path) for path in run_folders()]


def find_run(name: str | None = None) -> Run:
    """A run by its name or folder; by default the newest that has weights.

    Raises:
        UserError: there is none.
    """
    runs = [run for run in find_runs() if (run.path / MANIFEST).is_file()]
    if name is None:
        if not runs:
            raise UserError(f"there are no runs in {runs_folder()}: train one first, with rnn train")
        return next(filter(_is_usable, runs), runs[0])
    if path := run_folder(name):
        return Run(path)
    names = [run.name for run in runs]
    there = f" There {'is' if len(names) == 1 else 'are'} {listing(names)}" if names else ""
    raise UserError(f"there is no run called {name!r} in {runs_folder()}.{did_you_mean(name, names)}{there}")


def require_files(files: Sequence[str], purpose: str) -> None:
    """Check that no file is a run.

    Args:
        files: as they were named.
        purpose: what they are for, as in "a file to train on".

    Raises:
        UserError: one is a run.
    """
    for file in filter(run_folder, files):
        raise UserError(f"{file!r} is a run; with --cell, expected a file {purpose}: leave one of them out")


def _is_usable(run: Run) -> bool:
    with suppress(UserError):
        return bool(run.manifest) and run.file(BEST).exists()
    return False


def create_run(name: str | None, fallback: str, manifest: Mapping[str, Any]) -> Run:
    """Create a run's folder with its manifest, locked for training.

    Args:
        name: the run's name; None for ``fallback``, with a number if that is taken.
        fallback: a name made from cell and data.
        manifest: the manifest.

    Raises:
        UserError: the name is taken or invalid, or the folder cannot be created.
    """
    if name is not None:
        require_name(name, "--name")
    stem = folder_name(fallback)
    path = runs_folder() / (name or stem)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for number in range(2, 1_000_000):
            try:
                path.mkdir()
                break
            except FileExistsError:
                if name is not None:
                    if Run(path).is_left_over() and not Run(path).is_locked():
                        break
                    if not (path / MANIFEST).is_file():
                        raise UserError(f"{str(path)!r} exists and is not a run: choose another --name") from None
                    raise UserError(
                        f"there is a run called {name!r} already: choose another --name, remove it with "
                        f"rnn runs rm {shlex.quote(name)}, or resume it: rnn train --resume {shlex.quote(name)}"
                    ) from None
                path = runs_folder() / f"{stem}-{number}"
    except OSError as error:
        raise UserError(f"the run's folder {path} cannot be made: {error.strerror}; set RNN_RUNS to another") from None
    run = Run(path)
    run.lock()
    run.__dict__["manifest"] = dict(manifest)  # sets the cached property, since nothing is on disk yet
    run.__dict__["_is_new"] = True
    try:
        run.update()
    except BaseException:
        run.release()
        raise
    return run


def environment() -> dict[str, str]:
    """The versions that a result depends on."""
    return {
        "rnn-lab": version("rnn-lab"),
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
