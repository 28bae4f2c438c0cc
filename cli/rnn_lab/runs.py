"""Runs as folders: the manifest, the weights and the metrics of each. It trains nothing; it reads and writes."""

from __future__ import annotations

import json
import math
import platform
import re
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from minigrad import checkpoint, trees
from minigrad.trees import Tree
from rnn_cells import Cell, Stacked
from rnn_lab import schema
from rnn_lab.ablation import ablated
from rnn_lab.paths import (
    BEST,
    EVENTS,
    LAST,
    LOCK,
    MANIFEST,
    METRICS,
    NAME_BYTES,
    folder_name,
    run_folder,
    run_folders,
    runs_folder,
)
from rnn_lab.settings import Settings
from rnn_plugins import registry
from rnn_plugins.data.vocabulary import Vocabulary
from rnn_plugins.errors import UserError, did_you_mean
from rnn_plugins.language.model import ONE_HOT_LIMIT, Model
from rnn_plugins.tasks.language_model import LanguageModel
from rnn_plugins.words import listing

if TYPE_CHECKING:
    from filelock import BaseFileLock

T = TypeVar("T")

PARTS_OF_LAST = ("params", "optimizer", "carry")
"""The trees that training takes up again, as ``last.safetensors`` names them."""

SET_ASIDE = "best"
"""The part that it may have beside them: weights that a stop has replaced in the file of the best."""


@dataclass(frozen=True)
class Summary:
    """A run in a line.

    Attributes:
        name: of the run.
        task: what it was trained to do.
        cell: what it is made of, with what was ablated.
        size: layers x units.
        parameters: their number.
        loss: the lowest, nats a symbol; None before the first.
        bits: the same in bits a character; None for a task that is no language model.
        held_out: whether that loss is of held-out text; of the training text otherwise.
        step: how many steps were taken.
        outcome: as in ``Trainer.outcome``, or "running" or "killed".
        age: seconds since it began.
        error: why it cannot be read, where it cannot; nothing else is known then.
    """

    name: str
    task: str = ""
    cell: str = ""
    size: str = ""
    parameters: int = 0
    loss: float | None = None
    bits: float | None = None
    held_out: bool = True
    step: int = 0
    outcome: str = "unreadable"
    age: float | None = None
    error: str | None = None


@dataclass(frozen=True)
class Run:
    """A run's folder and what its manifest says.

    Attributes:
        path: the folder.
    """

    path: Path

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.name

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """What ``run.json`` holds.

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
            raise self._unreadable(f"its {MANIFEST} is no JSON") from None
        wrong = schema.misfit(manifest, schema.MANIFEST)
        wrong = wrong or schema.misfit(manifest["cell"], schema.of_cell(manifest["cell"]), "cell")
        if wrong:
            raise self._unreadable(f"its {MANIFEST} {wrong}")
        if manifest["data"]["symbols"] - manifest["data"]["held_out"] < 2:
            raise self._unreadable(f"its {MANIFEST} says that there were no two symbols to train on")
        return manifest  # type: ignore[no-any-return]

    def file(self, name: str) -> Path:
        """The path of one of its files, which there need not be.

        Raises:
            UserError: what is there is a link, a pipe or a device, through which something else would be read or
                written.
        """
        path = self.path / name
        with suppress(FileNotFoundError):
            mode = path.lstat().st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                what = "a symbolic link" if stat.S_ISLNK(mode) else "no regular file"
                raise self._unreadable(f"its {name} is {what}; a run has files of its own: put a copy in its place")
        return path

    def _unreadable(self, why: str) -> UserError:
        return UserError(f"the run {self.name!r} cannot be read: {why}")

    @cached_property
    def settings(self) -> Settings:
        """The settings that it was trained with."""
        settings = self._read("settings", Settings.from_json)
        if settings.learning_rate is None or settings.seed is None:
            raise self._unreadable(f"its settings in {MANIFEST} leave the learning rate or the seed open")
        return settings

    @property
    def opening(self) -> list[int]:
        """The symbols that its model reads, unseen, before a text without a prime (see ``text.sampling.opening``)."""
        symbols: list[int] = self.manifest.get("opening", [])
        if max(symbols, default=0) >= len(self.vocabulary):
            raise self._unreadable(f"its opening in {MANIFEST} has symbols beyond its vocabulary")
        return list(symbols)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The symbols that its model knows."""
        return self._read("vocabulary", Vocabulary.from_json)

    def _read(self, key: str, reader: Callable[[Any], T]) -> T:
        value = self.manifest[key]
        try:
            return reader(value)
        except (UserError, ValueError, TypeError, AttributeError) as error:
            raise self._unreadable(f"its {key} in {MANIFEST}: {error}") from None

    @cached_property
    def model(self) -> Model:
        """Its model, without the weights.

        Raises:
            UserError: the cell's distribution is not installed; the message names it.
        """
        return build_model(self.settings, len(self.vocabulary), self.make_cell)

    @property
    def is_of_text(self) -> bool:
        """Whether its task is a language model, which writes texts and predicts them."""
        return _is_language_model(self.settings.task)

    def require_text(self) -> None:
        """See to it that its task is a language model.

        Raises:
            UserError: it is not.
        """
        if not self.is_of_text:
            registry.installed("tasks", self.settings.task)  # where it is not installed, that is said
            raise UserError(
                f"the run {self.name!r} was trained for the task {self.settings.task!r}, and only language models "
                "write and predict texts: name a run of the task language-model"
            )

    @property
    def text_model(self) -> Model:
        """Its model, for what is done with texts.

        Raises:
            UserError: its task is no language model; or as ``model``.
        """
        self.require_text()
        return self.model

    def make_cell(self, input_size: int) -> Cell:
        """A cell such as it was trained with."""
        settings = self.settings
        return registry.cell_for_run(
            self.name, self.manifest["cell"], input_size, settings.hidden_size, settings.cell_option
        )

    def cell_changed(self) -> str | None:
        """A sentence where the code of its cell is not what it was."""
        return registry.changed("cells", self.name, self.manifest["cell"])

    @property
    def held_out(self) -> bool:
        """Whether its losses are of text that was held out; those of the training text otherwise."""
        return bool(self.manifest["data"]["held_out"] > 1)  # of a single symbol nothing is predicted

    def bits(self, loss: float, *, training: bool = False) -> float:
        """A loss in nats per symbol as bits per character of the symbols that were predicted.

        Args:
            loss: of the held-out text, where something is held out.
            training: whether it is of the training text instead.
        """
        return loss / math.log(2) / self.characters_per_symbol(training=training)

    def characters_per_symbol(self, *, training: bool = False) -> float:
        """How many characters a symbol stands for on average, in the held-out text or in the training text."""
        data = self.manifest["data"]
        if ratios := data.get("characters_per_symbol"):
            return float(ratios["training" if training or not self.held_out else "held_out"])
        symbols, characters = data["symbols"], data["characters"]  # older runs know this of the whole text alone
        return float(max(characters, 1) / max(symbols, 1))

    @property
    def unknown(self) -> float:
        """The share of its text that its vocabulary does not have, as ``Corpus.unknown`` says."""
        return float(self.manifest["data"].get("unknown", 0))

    @cached_property
    def _lock(self) -> BaseFileLock:
        # The system drops it when the process dies, however it dies.
        from filelock import FileLock

        return FileLock(self.file(LOCK), thread_local=False)

    def hold(self) -> None:
        """Keep other processes from training it, until ``release``.

        Raises:
            UserError: another one trains it, or one of the files that training writes is not its own.
        """
        from filelock import Timeout

        for name in (MANIFEST, BEST, LAST, METRICS, EVENTS):
            self.file(name)
        try:
            self._lock.acquire(timeout=0.5)  # rnn runs takes it for a moment, to see whether it is free
        except Timeout:
            raise UserError(f"the run {self.name!r} is being trained by another process: stop that one first") from None
        except (OSError, NotImplementedError):
            pass  # a file system without locks trains all the same; one that cannot be written to will say so

    def release(self, *, failed: bool = False) -> None:
        """Let others train it again; of a start that saved nothing, nothing stays. It may be called more than once.

        Args:
            failed: whether what it has saved is of no use either, as no step could be taken.
        """
        self._lock.release()
        if self.__dict__.pop("_is_new", False) and (failed or self.is_left_over()):
            shutil.rmtree(self.path, ignore_errors=True)

    def is_left_over(self) -> bool:
        """Whether it is what a start leaves that ended before anything was saved: a manifest at most."""
        with suppress(OSError):
            names = {path.name for path in self.path.iterdir()}
            return not self.path.is_symlink() and all(n in (MANIFEST, LOCK) or n.endswith(".tmp") for n in names)
        return False

    def is_trained(self) -> bool:
        """Whether somebody trains it now."""
        if not self.file(LOCK).exists():
            return False
        from filelock import FileLock, Timeout

        try:
            with FileLock(self.file(LOCK), timeout=0):
                return False
        except Timeout:
            return True
        except (OSError, NotImplementedError):  # somebody else's folder: whoever may not write to it cannot tell
            return False

    def summary(self) -> Summary:
        """A line of the list of runs. What is wrong with a run stands in its own line and is never raised."""
        try:
            settings, (step, loss) = self.settings, self.reached()
            outcome = self.manifest.get("outcome") or ("running" if self.is_trained() else "killed")
            if outcome == "running":
                step = max((record["step"] for record in self.records()), default=step)
            created = self.manifest.get("environment", {}).get("created")
            return Summary(
                name=self.name,
                task=self.manifest["task"],
                cell=", ".join([self.manifest["cell"]["cell"], *(f"{k}={v}" for k, v in settings.ablate.items())]),
                size=f"{settings.num_layers}x{settings.hidden_size}",
                parameters=self.manifest["parameters"],
                loss=loss,
                bits=None if loss is None or not self.is_of_text else self.bits(loss),
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
        """Write values into the manifest."""
        self.manifest.update(values)
        # A file's name need not be UTF-8; its bytes come back as they were.
        text = json.dumps(self.manifest, ensure_ascii=False, indent=1) + "\n"
        checkpoint.write_atomically(self.path / MANIFEST, text.encode("utf-8", "surrogateescape"))

    def params(self) -> Tree:
        """The best weights on validation.

        Raises:
            UserError: there are none, or the file is damaged.
        """
        return self.load(BEST)[0]

    def last(self) -> tuple[Tree, dict[str, Any]]:
        """All that training needs to go on, and what is noted beside it."""
        return self.load(LAST)

    def reached(self) -> tuple[int, float | None]:
        """The step that was saved last, and the loss of the weights that are kept as the best, None where not known."""
        if self.manifest.get("outcome"):
            return self.manifest.get("step", 0), self.manifest.get("best", {}).get("loss")
        # The manifest has it only when a run ends.
        last, best = (self.notes(name) if (self.path / name).exists() else {} for name in (LAST, BEST))
        return last.get("step", 0), best.get("loss")

    def load(self, name: str) -> tuple[Tree, dict[str, Any]]:
        """One of its two files of weights, and what is noted in it; see ``params`` and ``last``.

        Raises:
            UserError: it is missing or damaged, or its weights are not those of the run's model.
        """
        tree, notes = self._of_file(name, checkpoint.load)
        self._require_notes(name, notes)
        if name == LAST and not (isinstance(tree, dict) and tree.keys() - {SET_ASIDE} == {*PARTS_OF_LAST}):
            raise self._unreadable(f"its {name} holds something else than {', '.join(PARTS_OF_LAST)}")
        if self.is_of_text:  # another task may add parameters of its own
            for weights in [tree[key] for key in ("params", SET_ASIDE) if key in tree] if name == LAST else [tree]:
                self._require_weights(name, weights)
        return tree, notes

    def notes(self, name: str) -> dict[str, Any]:
        """What is noted in one of its two files of weights: of ``model.safetensors`` their step and their loss.

        Raises:
            UserError: it is missing or damaged.
        """
        notes = self._of_file(name, checkpoint.load_metadata)
        self._require_notes(name, notes)
        return notes

    def _of_file(self, name: str, read: Callable[[Path], T]) -> T:
        path = self.file(name)
        if not path.exists():
            raise UserError(f"the run {self.name!r} has no {name}: it ended before anything was saved; train it again")
        try:
            return read(path)
        except checkpoint.CheckpointError as error:
            raise self._unreadable(str(error)) from None

    def _require_notes(self, name: str, notes: Any) -> None:
        if wrong := schema.misfit(notes, {BEST: schema.BEST, LAST: schema.LAST}[name]):
            raise self._unreadable(f"its {name} {wrong}")

    def _require_weights(self, name: str, weights: Tree) -> None:
        found = trees.flatten(weights)
        # First what is known at once: the cell of a damaged manifest can be too large to make.
        for path, shape in self.model.shapes_around_the_cell.items():
            if path in found and found[path].shape != shape:
                raise self._unreadable(f"in its {name} {path} is {found[path].shape}, expected {shape}")
        self.require(name, self.model.init_params(np.random.default_rng(0)), weights)

    def require(self, name: str, expected: Tree, found: Tree) -> None:
        """See to it that arrays out of one of its files have the names, shapes and types of those expected.

        Raises:
            UserError: they have not.
        """
        if wrong := _difference(expected, found):
            raise self._unreadable(f"in its {name} {wrong}")

    def records(self) -> Iterator[dict[str, Any]]:
        """The records of ``metrics.jsonl``, in order, one a step: that of a validation at a stop replaces the other."""
        before: dict[str, Any] = {}
        for record in self.lines():
            if before and before["step"] != record["step"]:
                yield before
            before = record
        if before:
            yield before

    def lines(self) -> Iterator[dict[str, Any]]:
        """The lines of ``metrics.jsonl``, in order; one cut off by a crash, or damaged otherwise, is left out."""
        try:
            lines = self.file(METRICS).read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return
        for line in lines:
            with suppress(ValueError, RecursionError):
                record = json.loads(line)
                if not schema.misfit(record, schema.RECORD):
                    yield record


@cache  # a list of runs asks for each, and to look through what is installed takes a while
def _is_language_model(task: str) -> bool:
    try:
        return issubclass(registry.installed("tasks", task), LanguageModel)
    except UserError:  # not installed any more
        return False


def _difference(expected: Tree, found: Tree) -> str:
    """The first way in which a tree of arrays is not like another, in words; the empty text where it is."""
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


def embedding_size(settings: Settings, symbols: int) -> int:
    """The width of the symbols' embedding, 0 for one-hot: as it was given, or what suits so many symbols."""
    if settings.embedding_size is not None:
        return settings.embedding_size
    return 0 if symbols <= ONE_HOT_LIMIT else min(settings.hidden_size, 128)


def build_model(settings: Settings, vocabulary_size: int, make_cell: Callable[[int], Cell]) -> Model:
    """The model that settings describe, its cells made by ``make_cell(input_size)`` and then ablated.

    Raises:
        UserError: the cells have no such activations as are to be ablated.
    """
    embedding = settings.embedding_size or 0
    layers = [make_cell(embedding or vocabulary_size)]
    for _ in range(settings.num_layers - 1):
        layers.append(make_cell(layers[-1].output_size))
    if settings.ablate:
        layers = ablated(layers, settings)
    single = settings.num_layers == 1
    cell = layers[0] if single else Stacked(layers, settings.dropout, settings.variational_dropout)
    return Model(cell, vocabulary_size, embedding, settings.dropout, settings.variational_dropout, dtype=settings.dtype)


def find_runs() -> list[Run]:
    """All runs, the one written last first; among them those that turn out not to be readable."""
    return [Run(path) for path in run_folders()]


def find_run(name: str | None = None) -> Run:
    """A run by its name or its folder; the newest that has weights where no name is given.

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


def require_texts(files: Sequence[str], purpose: str) -> None:
    """See to it that what is to be texts are no runs.

    Args:
        files: as they were named.
        purpose: what the texts are for, as in "a text to train on".

    Raises:
        UserError: one is a run.
    """
    for file in filter(run_folder, files):
        raise UserError(f"{file!r} is a run, and with --cell a text {purpose} is expected: leave one of them out")


def _is_usable(run: Run) -> bool:
    with suppress(UserError):
        return bool(run.manifest) and run.file(BEST).exists()
    return False


def create_run(name: str | None, fallback: str, manifest: Mapping[str, Any]) -> Run:
    """A new folder with a manifest, held for training.

    Args:
        name: the run's name; None takes ``fallback``, with a number where that is taken.
        fallback: a name made from cell and text.
        manifest: what the manifest says.

    Raises:
        UserError: the name is taken or is no folder name, or the folder cannot be made.
    """
    if name is not None and not re.fullmatch(r"\w[\w .+-]*", name):
        raise UserError(
            f"--name is {name!r}; it must begin with a letter or digit, and go on with letters, digits, "
            "spaces and the signs . _ + -"
        )
    if name is not None and (size := len(name.encode())) > NAME_BYTES:
        raise UserError(f"--name is {size} bytes long, and a run's name has {NAME_BYTES} at most: choose a shorter one")
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
                    if Run(path).is_left_over() and not Run(path).is_trained():
                        break
                    if not (path / MANIFEST).is_file():
                        raise UserError(f"{str(path)!r} is there and is no run: choose another --name") from None
                    raise UserError(
                        f"there is a run called {name!r} already: choose another --name, "
                        f"or go on with it: rnn train --resume {name}"
                    ) from None
                path = runs_folder() / f"{stem}-{number}"
    except OSError as error:
        raise UserError(f"the run's folder {path} cannot be made: {error.strerror}; set RNN_RUNS to another") from None
    run = Run(path)
    run.hold()
    run.__dict__["manifest"] = dict(manifest)  # the cached property's place: there is nothing on disk to read yet
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
