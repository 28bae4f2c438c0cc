"""Plan and train the runs of a comparison of cells on the same data."""

from __future__ import annotations

import hashlib
import json
import math
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from minigrad import trees
from minigrad.graph import TraceError
from minigrad.training import NotFinite
from rnn_cells import Cell
from rnn_lab.comparison import Watcher
from rnn_lab.paths import LAST, folder_name, runs_folder
from rnn_lab.problem import Problem, files_of, read, without_held_out
from rnn_lab.runs import Run, find_runs, network_of
from rnn_lab.session import Session
from rnn_lab.sessions import absolute, resume, start, stem
from rnn_lab.settings import Settings
from rnn_plugins import registry
from rnn_plugins.data.sources import is_pipe
from rnn_plugins.errors import UserError
from rnn_plugins.inspect.operations import operations
from rnn_plugins.tasks.task import Data, Model, Task

Match = Literal["params", "flops", "seconds", "none"]
"""What to keep equal between cells: parameters, operations per step, training time, or only the settings."""

SEEDS = 3
"""Runs per cell by default: the fewest that show a usable spread."""

VALIDATIONS = 10
"""Minimum number of validations of a run, so that there is a curve."""

TIMED_EVERY = 100
"""Steps between validations of a run whose length in steps is unknown."""

UNENDING = 1_000_000_000
"""Steps of a run that ends after a given time."""

UNFINISHED = (None, "interrupted")
"""Outcomes of runs that are resumed."""

LARGEST = 1_000_000
"""The largest hidden size that is tried."""

SPARE = 64
"""How many sizes to try beyond twice a refused one, for cells that accept few small sizes."""

T = TypeVar("T")


@dataclass(frozen=True)
class Plan:
    """The runs of a comparison.

    Attributes:
        settings: the settings of each cell's runs without the seed, by the cell as given.
        seeds: the seeds of each cell's runs.
        match: what to keep equal.
        about: what was decided, a line per cell.
        begun: the runs of it that there are, by cell and seed: finished ones are not trained again, others resumed.
    """

    settings: Mapping[str, Settings]
    seeds: tuple[int, ...]
    match: Match
    about: tuple[str, ...]
    begun: Mapping[tuple[str, int], Run] = field(default_factory=dict)

    @property
    def lines(self) -> tuple[str, ...]:
        """What was decided, a line per cell, and what all have in common."""
        settings = next(iter(self.settings.values()))
        equal = {
            "params": "as many parameters as the first",
            "flops": "as many operations per step as the first",
            "seconds": "the same training time",
            "none": "the same settings",
        }[self.match]
        seeds = f"seed {self.seeds[0]}"
        if len(self.seeds) > 1:
            seeds = f"seeds {self.seeds[0]} to {self.seeds[-1]}"
        return (*self.about, f"On {', '.join(settings.files)}, {seeds}, with {equal}")

    def sessions(self) -> Iterator[tuple[str, Session | Run]]:
        """Each run with its cell, a session where it is not finished; train it before taking the next.

        The cells take turns, one seed after another, so that a machine that becomes slower affects all of them.
        """
        seconds: float | None = None
        for seed in self.seeds:
            for label, settings in self.settings.items():
                if self.match == "seconds" and seconds is not None:
                    settings = replace(settings, max_time=seconds, steps=UNENDING, epochs=None)
                before = self.begun.get((label, seed))
                if before and before.manifest["outcome"] not in UNFINISHED:
                    yield label, before
                else:
                    session = self._resumed(before) if before else self._started(label, settings, seed)
                    yield label, session
                    before = session.run
                if seconds is None:
                    seconds = settings.max_time or seconds_of(before)

    def _started(self, label: str, settings: Settings, seed: int) -> Session:
        given = settings.to_json() | {"seed": seed}
        session = start(given, name=_free_name(f"{Path(label).name}-{stem(settings.files[0])}-s{seed}"))
        session.run.update(comparison={"plan": self.digest, "cell": label, "seed": self.seeds[0]})
        return session

    def _resumed(self, run: Run) -> Session:
        limit = run.settings.max_time
        # A limit is that of the whole run, of which a part has passed; what came after the last saved state is lost.
        left = {} if limit is None else {"max_time": max(limit - seconds_of(run, run.notes(LAST)["step"]), 0.0)}
        return resume(run, left)

    @property
    def digest(self) -> str:
        """What its runs are recognised by: all settings but the seeds, so that there may be more of these later."""
        files = {"files": [absolute(file) for file in next(iter(self.settings.values())).files]}
        told = [
            self.match,
            {label: settings.to_json() | files | {"seed": None} for label, settings in self.settings.items()},
        ]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    def resumed(self) -> Plan:
        """The same with the runs of it that there are: with the seeds of the most recent one.

        Raises:
            UserError: there are none.
        """
        digest, given = self.digest, next(iter(self.settings.values())).seed
        found = []
        for run in find_runs():
            with suppress(UserError):  # those that cannot be read
                begun = run.manifest.get("comparison", {})
                if begun.get("plan") == digest and given in (None, begun["seed"]) and (run.path / LAST).exists():
                    found.append(run)
        if not found:
            raise UserError(
                f"there is nothing to resume: no run in {runs_folder()} is of a comparison of these cells with these "
                "settings; leave out --resume"
            )
        first = found[0].manifest["comparison"]["seed"]
        runs = {
            (run.manifest["comparison"]["cell"], run.settings.seed or 0): run
            for run in reversed(found)
            if run.manifest["comparison"]["seed"] == first
        }
        return replace(self, seeds=tuple(range(first, first + len(self.seeds))), begun=runs)


def train(plan: Plan, watcher: Watcher) -> tuple[dict[str, list[Run]], bool]:
    """Train all runs.

    Returns:
        The runs by cell, diverged ones included, and whether it was interrupted; the interrupted run is left out.
    """
    groups: dict[str, list[Run]] = {}
    total = len(plan.settings) * len(plan.seeds)
    try:
        for number, (label, session) in enumerate(plan.sessions(), start=1):
            if isinstance(session, Run):
                watcher.passed(session, number, total)
                groups.setdefault(label, []).append(session)
                continue
            failure = None
            watcher.begin(session, number, total)
            try:
                with closing(session.events()) as events:
                    for progress in events:
                        watcher.show(progress)
            except NotFinite as error:
                failure = error
            finally:
                session.run.release()
            watcher.end(session, failure)
            if session.trainer.outcome == "interrupted":
                return groups, True
            groups.setdefault(label, []).append(session.run)
    except KeyboardInterrupt:
        return groups, True
    return groups, False


def plan(cells: Sequence[str], given: Mapping[str, Any], match: Match = "params", seeds: int = SEEDS) -> Plan:
    """Plan a comparison of cells.

    Args:
        cells: ``NAME[:KEY=VALUE,...]``; the hidden sizes of all but the first follow from ``match``.
        given: the settings that differ from the defaults; without a learning rate, each cell uses its own.
        match: what to keep equal.
        seeds: runs per cell.

    Raises:
        UserError: there are fewer than two cells, a setting or the data are invalid, or no size matches.
    """
    if len(cells) < 2:
        raise UserError(f"there is only one cell to compare, {cells[0]}: add another --cell")
    for one, other in combinations(cells, 2):
        if one == other:
            raise UserError(f"--cell {one} is given twice: leave one of them out")
    if seeds < 1:
        raise UserError(f"--seeds is {seeds}; it must be at least 1")
    common = Settings(**given)
    if any(map(is_pipe, common.files)):
        raise UserError("a pipe can be read only once, but each run reads the data: save them to a file first")
    if match == "seconds":
        common = _timed(common)
    task = registry.make_task(common.task, common.task_option)
    common = replace(common, files=files_of(task, common.task, common.files))
    if common.valid:
        task = without_held_out(task, common.task, common.task_option)
    data = read(task, common.files, valid=common.valid)
    first = common.seed if common.seed is not None else secrets.randbelow(1_000_000)
    # Resolved here, because its default would depend on the hidden size.
    width = task.resolve(data.facts, network_of(common, lambda size: Cell(size, common.hidden_size))).embedding_size
    common = replace(common, embedding_size=width)
    entered: dict[str, Settings] = {}
    for cell in cells:
        entered[cell] = replace(common, cell=cell, cell_option={})
    builder = _Builder(task, data)
    measures: dict[str, Callable[[Model], int]] = {"params": _parameters, "flops": _operations}
    if measure := measures.get(match):
        entered = _matched(entered, builder, measure)
    models = {label: builder(settings) for label, settings in entered.items()}
    if not common.valid_every:
        every = _validations(entered[cells[0]], models[cells[0]], task, data, match)
        entered = {label: replace(settings, valid_every=every) for label, settings in entered.items()}
    return Plan(entered, tuple(range(first, first + seeds)), match, tuple(_about(entered, models, match)))


class _Builder:
    """Makes models from settings; each cell's class is looked up only once, because that is slow."""

    def __init__(self, task: Task, data: Data) -> None:
        self._task, self._data = task, data
        self._class = cache(registry.cell_class)

    def __call__(self, settings: Settings) -> Model:
        """The model of these settings.

        Raises:
            UserError: the cell does not accept a size or an option.
        """

        def make(size: int) -> Cell:
            cls = self._class(settings.cell)
            return registry.build_cell(cls, settings.cell, size, settings.hidden_size, settings.cell_option)

        return self._task.model(self._data.facts, network_of(settings, make))


def _timed(settings: Settings) -> Settings:
    """The settings of runs that end after a given time.

    Raises:
        UserError: another setting would end them too.
    """
    if settings.max_time is None:
        return settings
    if settings.steps is not None or settings.epochs is not None:
        raise UserError(
            "--match seconds takes the time from --max-time, or from the first run, whose length is --steps or "
            "--epochs: leave one of them out"
        )
    return replace(settings, steps=UNENDING)


def match_size(measure: Callable[[int], float], goal: float) -> int:
    """The size whose measure is closest to a goal, for a measure that does not decrease with the size.

    Large models are slow to make, and most measures are quadratic in the size: a parabola through three small sizes
    predicts the size, and if its value there is correct, no other model is made. If the measure does not increase
    between these, as for a cell that refuses them, the search begins at the smallest size.

    Raises:
        UserError: no size reaches the goal.
    """
    measure = cache(measure)
    parabola = _parabola(measure)
    grows = parabola(24) > parabola(8)
    near = _search(parabola, goal, 1) if grows else 1
    return near if grows and parabola(near) == measure(near) else _search(measure, goal, near)


def _parabola(measure: Callable[[int], float]) -> Callable[[int], float]:
    """The parabola through a measure at three small sizes; a line if it would bend downwards."""
    first, second, third = (measure(size) for size in (8, 16, 24))
    slope, bend = (second - first) / 8, max(third - 2 * second + first, 0) / 128
    return lambda size: first + (size - 8) * (slope + (size - 16) * bend)


def _search(measure: Callable[[int], float], goal: float, near: int) -> int:
    """The size whose measure is closest to a goal; the search begins at ``near``."""
    low, high, step = 0, near, 1
    while measure(high) < goal:
        low, high, step = high, high + step, 2 * step
        if high > LARGEST:
            raise UserError(f"no hidden size up to {LARGEST:,} makes a cell as large as the first: use another --match")
    while not low and high > step and measure(high - step) >= goal:
        high, step = high - step, 2 * step
    low = max(low, high - step, 0)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if measure(middle) < goal else (low, middle)
    return min((size for size in (low, high) if size), key=lambda size: abs(measure(size) - goal))


def _accepted(make: Callable[[int], T], size: int) -> T:
    """The result for a size, or if it is refused, for the next accepted one.

    Raises:
        UserError: all sizes up to about twice this one are refused; the error is that of the first.
    """
    refusals = []
    for tried in range(size, 2 * size + SPARE):
        try:
            return make(tried)
        except UserError as error:
            refusals.append(error)
    raise refusals[0]


def _matched(
    entered: Mapping[str, Settings], build: Callable[[Settings], Model], measure: Callable[[Model], int]
) -> dict[str, Settings]:
    """The settings with the hidden sizes that make every model as large as the first.

    A size that a cell refuses counts as the next one that it accepts.
    """
    found: dict[str, Settings] = {}
    goal = 0
    for label, settings in entered.items():

        def model(size: int, settings: Settings = settings) -> tuple[int, Model]:
            return size, build(replace(settings, hidden_size=size))

        try:
            if not found:
                goal, size = measure(model(settings.hidden_size)[1]), settings.hidden_size
            else:
                _accepted(model, settings.hidden_size)  # so that an error names the given size
                size = match_size(lambda size: measure(_accepted(model, size)[1]), goal)
        except TraceError as error:
            raise UserError(f"the operations of {label} cannot be counted, because {error}: --match params") from None
        found[label] = replace(settings, hidden_size=_accepted(model, size)[0])
    return found


def _parameters(model: Model) -> int:
    return trees.count(model.init_params(np.random.default_rng(0)))


def _operations(model: Model) -> int:
    if work := model.work():
        return operations(work)
    raise UserError("the operations of a network of this task cannot be counted: --match params")


def _validations(settings: Settings, model: Model, task: Task, data: Data, match: Match) -> int:
    """Steps between validations."""
    if match == "seconds" and settings.max_time is not None:
        return TIMED_EVERY
    steps = Problem.of(task, model, data, settings).steps_per_epoch
    return max(1, min(settings.steps_between_validations(steps), settings.total_steps(steps) // VALIDATIONS))


def _about(entered: Mapping[str, Settings], models: Mapping[str, Model], match: Match) -> Iterator[str]:
    for label, settings in entered.items():
        model = models[label]
        line = f"{label}: {settings.num_layers} x {settings.hidden_size}, {_parameters(model):,} parameters"
        if match == "flops":
            line += f", {_operations(model):,} operations per step"
        yield line


def _free_name(wish: str) -> str:
    """An unused name for a run."""
    stem = folder_name(wish)
    taken = {path.name for path in runs_folder().glob("*")}
    names = (stem if number == 1 else f"{stem}-{number}" for number in range(1, len(taken) + 2))
    return next(name for name in names if name not in taken)


def seconds_of(run: Run, step: float = math.inf) -> float:
    """A run's training time, up to a step."""
    return max((record["seconds"] for record in run.records() if record["step"] <= step), default=0.0)
