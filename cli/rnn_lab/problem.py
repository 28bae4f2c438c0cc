"""A task with its data, its model and the batch size, as the trainer takes it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np

from minigrad.trees import Tree
from rnn_lab.blame import blaming
from rnn_lab.settings import Settings
from rnn_plugins.data.download import downloaded, is_url
from rnn_plugins.errors import UserError, why
from rnn_plugins.reports.probe import Probe
from rnn_plugins.tasks.task import Batch, Data, Model, Part, Purpose, Task
from rnn_plugins.words import brief, listing


@dataclass(frozen=True, eq=False)
class Problem:
    """A task with everything that a training step needs except the parameters.

    Attributes:
        task: with its options reduced to what the data allow.
        model: what is trained.
        data: the data.
        batch_size: sequences per batch.
        notice: a sentence that says what was reduced because there are few data, or empty.
    """

    task: Task
    model: Model
    data: Data
    batch_size: int
    notice: str = ""

    @classmethod
    def of(cls, task: Task, model: Model, data: Data, settings: Settings) -> Problem:
        """A task on data; if they are too few for its options or the batch size, these are reduced."""
        fitted, size, notice = task.fit(data, settings.batch_size)
        return cls(fitted, model, replace(data, seed=settings.seed or 0), size, notice)

    @cached_property
    def steps_per_epoch(self) -> int:
        """Training steps in one pass over the data."""
        return self.task.steps_per_epoch(self.data, self.batch_size)

    @cached_property
    def units_per_step(self) -> float:
        """The mean number of the task's units per training step."""
        return self.task.units_per_step(self.data, self.batch_size)

    @cached_property
    def validates(self) -> bool:
        """Whether there are held-out data."""
        return self.task.count(self.data.valid) > 0

    def init_params(self, rng: np.random.Generator) -> Tree:
        """New parameters of the model."""
        return self.model.init_params(rng)

    def init_carry(self) -> Tree:
        """The carry before the first batch of an epoch."""
        return self.model.init_carry(self.batch_size)

    def batch(self, step: int) -> Batch:
        """The batch of a step, counted from 0."""
        return self.task.batch(self.data, step, self.batch_size)

    def loss(self, params: Tree, carry: Tree, batch: Batch, rng: np.random.Generator) -> tuple[Any, Tree]:
        """The mean loss of a batch and the carry after it, as ``minigrad.training.train`` requires."""
        return self.model.loss(params, carry, batch, rng)

    def validate(self, params: Tree) -> dict[str, float] | None:
        """The metrics on the held-out data; None if there are none.

        Raises:
            UserError: the task returns something else, or not all that it must.
        """
        if not self.validates:
            return None
        found, name = self.task.evaluate(self.model, params, self.data.valid), type(self.task).__name__
        try:
            metrics = {metric: float(value) for metric, value in found.items()}
        except (AttributeError, TypeError, ValueError):
            raise UserError(f"{name}.evaluate returns {found!r}; expected a number for each metric") from None
        for metric in ("loss", self.task.best[0]):
            if metric not in metrics:
                raise UserError(f"{name}.evaluate returns {listing(metrics)}; {metric} must be among them")
        for metric in metrics:
            if metric not in self.task.metrics:
                raise UserError(f"{name}.evaluate returns {metric}, which {name}.metrics does not declare")
        return metrics

    def probe(self, params: Tree, part: Part = "train") -> Probe | None:
        """The model along the examples of a part of the data; None if the task has no probe."""
        return self.task.probe(self.model, params, getattr(self.data, part), self.data.facts)


def files_of(task: Task, name: str, files: Sequence[str]) -> tuple[str, ...]:
    """The files to train on: those that the user names, or the task's default files.

    Args:
        task: the task.
        name: its name as the user gave it.
        files: the files that the user named.

    Raises:
        UserError: there are none.
    """
    found = tuple(files) or task.default_files
    if not found:
        raise UserError(f"there is nothing to train on: the task {name} has no default files, so name FILES")
    return found


@contextmanager
def reading(files: Sequence[str]) -> Iterator[None]:
    """Within this block, errors of files and exceptions in a plugin's code become a ``UserError``."""
    with blaming():
        try:
            yield
        except OSError as error:
            raise UserError(f"{error.filename or ', '.join(files)}: {why(error)}") from None


def read(
    task: Task,
    files: Sequence[str],
    facts: Mapping[str, Any] | None = None,
    *,
    purpose: Purpose = "train",
    valid: Sequence[str] = (),
) -> Data:
    """The data that ``task.read`` returns.

    Args:
        task: the task.
        files: as the user names them; addresses on the web are downloaded into the cache.
        facts: of a run.
        purpose: what they are read for.
        valid: files with the held-out examples; without them, the task holds out some of ``files``.

    Raises:
        UserError: the files cannot be read, or the task fails on them.
    """
    with reading(files):
        found = {file: downloaded(file) for file in files if is_url(file)}
        local = {str(path): url for url, (path, _) in found.items()}
        paths = [str(found[file][0]) if file in found else file for file in files]
        try:
            data = task.read(paths, facts, purpose=purpose)
        except UserError as error:
            if not (whose := [url for path, url in local.items() if path in str(error)]):
                raise
            raise UserError(f"{', '.join(whose)}: {error}") from None  # its advice may have commands with the path
    sources = tuple(local.get(source, source) for source in data.sources) or tuple(files)
    notices = [*(told for _, told in found.values()), *(_by_address(notice, local) for notice in data.notices)]
    data = replace(data, sources=sources, notices=tuple(notices))
    if purpose == "evaluate":
        return data
    if not valid:
        return replace(data, about=_with_split(task, data))
    held_out = read(to_evaluate(task), valid, data.facts, purpose="evaluate")
    whole = task.with_held_out(data, held_out)
    return replace(
        whole,
        digest=hashlib.sha256(f"{data.digest} {held_out.digest}".encode()).hexdigest(),
        about=_with_split(task, whole, valid),
        notices=(*data.notices, *held_out.notices),
    )


def _by_address(text: str, local: Mapping[str, str]) -> str:
    """A sentence with the addresses of downloaded files in place of their paths."""
    for path, url in local.items():
        text = text.replace(path, url)
    return text


def _with_split(task: Task, data: Data, valid: Sequence[str] = ()) -> str:
    """Size and kind of the data, and how many units of the task are trained on and held out."""
    own, held_out = task.count(data.train), task.count(data.valid)
    trained = f"{own:,} {task.unit}" if own else f"{task.unit} without end"
    other = (
        f"{held_out:,} {task.unit} of {brief(valid)} to validate on"
        if valid
        else f"{f'{held_out:,}' if held_out else 'none'} held out"
    )
    return "; ".join(filter(None, [data.about, f"{trained} to train on, {other}"]))


def to_evaluate(task: Task) -> Task:
    """A task with the options with which it reads other examples than those of training."""
    return replace(task, **task.of_evaluation)


def without_held_out(task: Task, name: str, given: Mapping[str, Any]) -> Task:
    """A task that holds out nothing of its files, because ``--valid`` names other ones.

    Args:
        task: the task.
        name: its name as the user gave it.
        given: its options that the user gave.

    Raises:
        UserError: it cannot, or the user asks for both.
    """
    if not any(f.name == "valid_fraction" for f in fields(task)):
        raise UserError(
            f"--valid needs a task with the option valid_fraction, which {name} does not have: leave it out"
        )
    if float(given.get("valid_fraction", 0)):
        raise UserError(
            f"--valid names the held-out data, and --valid-fraction {given['valid_fraction']} holds out some of FILES: "
            "leave one of them out"
        )
    return replace(task, valid_fraction=0.0)  # type: ignore[call-arg]
