"""Runs as folders: the manifest, the weights and the metrics of each. It trains nothing; it reads and writes."""

from __future__ import annotations

import json
import math
import platform
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from minigrad import checkpoint
from minigrad.trees import Tree
from rnn_cells import Cell, Stacked
from rnn_plugins import registry
from rnn_plugins.ablation import ablated
from rnn_plugins.errors import UserError, did_you_mean
from rnn_plugins.places import BEST, LAST, LOCK, MANIFEST, METRICS, run_folder, run_folders, runs_folder
from rnn_plugins.settings import Settings
from rnn_plugins.tasks.language_model import ONE_HOT_LIMIT, Model
from rnn_plugins.text.vocabulary import Vocabulary, listing

if TYPE_CHECKING:
    from filelock import BaseFileLock

T = TypeVar("T")

MANIFEST_KEYS = ("task", "cell", "settings", "vocabulary", "data")
"""What a manifest must have, whatever else it says."""


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
        bits: the same in bits a character.
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
            manifest = json.loads((self.path / MANIFEST).read_text(encoding="utf-8", errors="surrogateescape"))
        except FileNotFoundError:
            raise UserError(f"the run {self.name!r} cannot be read: it has no {MANIFEST}") from None
        except OSError as error:
            raise UserError(f"the run {self.name!r} cannot be read: {MANIFEST}: {error.strerror}") from None
        except ValueError:
            raise UserError(f"the run {self.name!r} cannot be read: its {MANIFEST} is no JSON") from None
        missing = [key for key in MANIFEST_KEYS if not isinstance(manifest, dict) or key not in manifest]
        if missing:
            raise UserError(f"the run {self.name!r} cannot be read: its {MANIFEST} has no {missing[0]!r}")
        return manifest  # type: ignore[no-any-return]

    @cached_property
    def settings(self) -> Settings:
        """The settings that it was trained with."""
        return self._read("settings", Settings.from_json)

    @property
    def opening(self) -> list[int]:
        """The symbols that its model reads, unseen, before a text without a prime (see ``text.sampling.opening``)."""
        return list(self.manifest.get("opening", []))

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The symbols that its model knows."""
        return self._read("vocabulary", Vocabulary.from_json)

    def _read(self, key: str, reader: Callable[[Any], T]) -> T:
        value = self.manifest[key]
        try:
            return reader(value)
        except (UserError, ValueError, TypeError, AttributeError) as error:
            raise UserError(f"the run {self.name!r} cannot be read: its {key} in {MANIFEST}: {error}") from None

    @cached_property
    def model(self) -> Model:
        """Its model, without the weights.

        Raises:
            UserError: the cell's distribution is not installed; the message names it.
        """
        return build_model(self.settings, len(self.vocabulary), self.make_cell)

    def make_cell(self, input_size: int) -> Cell:
        """A cell such as it was trained with."""
        settings = self.settings
        return registry.cell_for_run(
            self.name, self.manifest["cell"], input_size, settings.hidden_size, settings.cell_option
        )

    def cell_changed(self) -> str | None:
        """A sentence where the code of its cell is not what it was."""
        return registry.cell_changed(self.name, self.manifest["cell"])

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

        return FileLock(self.path / LOCK, thread_local=False)

    def hold(self) -> None:
        """Keep other processes from training it, until ``release``.

        Raises:
            UserError: another one trains it.
        """
        from filelock import Timeout

        try:
            self._lock.acquire(timeout=0.5)  # rnn runs takes it for a moment, to see whether it is free
        except Timeout:
            raise UserError(f"the run {self.name!r} is being trained by another process: stop that one first") from None
        except (OSError, NotImplementedError):
            pass  # a file system without locks trains all the same; one that cannot be written to will say so

    def release(self) -> None:
        """Let others train it again; nothing happens where it is not held."""
        self._lock.release()

    def is_trained(self) -> bool:
        """Whether somebody trains it now."""
        if not (self.path / LOCK).exists():
            return False
        from filelock import FileLock, Timeout

        try:
            with FileLock(self.path / LOCK, timeout=0):
                return False
        except Timeout:
            return True
        except (OSError, NotImplementedError):  # somebody else's folder: whoever may not write to it cannot tell
            return False

    def summary(self) -> Summary:
        """A line of the list of runs. What is wrong with a run stands in its own line and is never raised."""
        try:
            settings, outcome = self.settings, self.manifest.get("outcome")
            if outcome:
                step, loss = self.manifest["step"], self.manifest["best"]["loss"]
            else:  # what the manifest has only when a run ends, its records have so far
                outcome, records = "running" if self.is_trained() else "killed", list(self.records())
                step = records[-1]["step"] if records else 0
                loss = min((r["valid_loss"] for r in records if "valid_loss" in r), default=None)
            created = datetime.fromisoformat(self.manifest["environment"]["created"]).timestamp()
            return Summary(
                name=self.name,
                task=self.manifest["task"],
                cell=", ".join([self.manifest["cell"]["cell"], *(f"{k}={v}" for k, v in settings.ablate.items())]),
                size=f"{settings.num_layers}x{settings.hidden_size}",
                parameters=self.manifest["parameters"],
                loss=loss,
                bits=None if loss is None else self.bits(loss),
                held_out=self.held_out,
                step=step,
                outcome=outcome,
                age=max(0.0, time.time() - created),
            )
        except UserError as error:
            return Summary(self.name, error=str(error))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            return Summary(self.name, error=f"its {MANIFEST} is damaged: {type(error).__name__}: {error}")

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

    def load(self, name: str) -> tuple[Tree, dict[str, Any]]:
        """One of its two files of weights, and what is noted in it; see ``params`` and ``last``."""
        path = self.path / name
        if not path.exists():
            raise UserError(f"the run {self.name!r} has no {name}: it ended before anything was saved; train it again")
        try:
            return checkpoint.load(path)
        except checkpoint.CheckpointError as error:
            raise UserError(f"the run {self.name!r} cannot be read: {error}") from None

    def records(self) -> Iterator[dict[str, Any]]:
        """The records of ``metrics.jsonl``, in order; a line cut off by a crash is left out."""
        try:
            lines = (self.path / METRICS).read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return
        for line in lines:
            with suppress(ValueError):
                record = json.loads(line)
                if isinstance(record, dict):
                    yield record


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
    """A run by its name or its folder; the newest where no name is given.

    Raises:
        UserError: there is none.
    """
    runs = [run for run in find_runs() if (run.path / MANIFEST).is_file()]
    if name is None:
        if not runs:
            raise UserError(f"there are no runs in {runs_folder()}: train one first, with rnn train")
        return next(filter(_is_readable, runs), runs[0])
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


def _is_readable(run: Run) -> bool:
    try:
        return bool(run.manifest)
    except UserError:
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
    stem = re.sub(r"[^\w.-]+", "-", fallback).strip("-.") or "run"
    path = runs_folder() / (name or stem)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for number in range(2, 1_000_000):
            try:
                path.mkdir()
                break
            except FileExistsError:
                if name is not None:
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
    run.update()
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
