"""Cells that are trained side by side on one text: what is held equal between them, and the order of their runs.

Training itself is the trainer's, and what comes out is compared elsewhere.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from minigrad import trees
from minigrad.graph import TraceError
from rnn_cells import Cell
from rnn_lab.paths import folder_name, runs_folder
from rnn_lab.runs import Run, build_model, embedding_size
from rnn_lab.sessions import Session, start, stem
from rnn_lab.settings import Settings
from rnn_plugins import registry
from rnn_plugins.data.corpus import Corpus, load_corpus, split
from rnn_plugins.data.sources import is_pipe
from rnn_plugins.errors import UserError
from rnn_plugins.inspect.operations import operations
from rnn_plugins.language.model import Model
from rnn_plugins.options import split_spec
from rnn_plugins.tasks.task import Task

Match = Literal["params", "flops", "seconds", "none"]
"""What is held equal between cells: parameters, operations a symbol, time of training, or nothing but the settings."""

SEEDS = 3
"""Runs of each cell where nobody says: the fewest that show a spread of which something can be said."""

LOOKS = 10
"""Validations that a run has at least, so that it becomes a curve."""

TIMED_LOOKS = 100
"""Steps between validations of a run whose length in steps nobody knows."""

UNENDING = 1_000_000_000
"""Steps of a run that ends with its time."""

LARGEST = 1_000_000
"""The largest hidden size that is tried."""

SPARE = 64
"""How many sizes beyond the double of a refused one are tried, for cells that take few of the small ones."""

T = TypeVar("T")


@dataclass(frozen=True)
class Contest:
    """Cells that are trained side by side.

    Attributes:
        settings: of each cell's runs but for the seed, by the cell as it was asked for.
        seeds: of the runs of each.
        match: what is held equal.
        about: what was chosen, a sentence each.
    """

    settings: Mapping[str, Settings]
    seeds: tuple[int, ...]
    match: Match
    about: tuple[str, ...]

    def sessions(self) -> Iterator[tuple[str, Session]]:
        """Each run, ready to be trained before the next is asked for, with the cell that it is of.

        The cells take turns, one seed after another, so that a machine that grows slower does so for all of them.
        """
        seconds: float | None = None
        for seed in self.seeds:
            for label, settings in self.settings.items():
                if self.match == "seconds" and seconds is not None:
                    settings = replace(settings, max_time=seconds, steps=UNENDING, epochs=None)
                given = settings.to_json() | {"seed": seed}
                session = start(given, name=_free_name(f"{Path(label).name}-{stem(settings.files[0])}-s{seed}"))
                yield label, session
                if seconds is None:
                    seconds = settings.max_time or seconds_of(session.run)


def contest(cells: Sequence[str], given: Mapping[str, Any], match: Match = "params", seeds: int = SEEDS) -> Contest:
    """Decide how cells are compared on a text.

    Args:
        cells: as ``split_spec`` takes them; the hidden sizes of all but the first follow from ``match``.
        given: the settings that are not to be the defaults; a learning rate that is not given is each cell's own.
        match: what is held equal.
        seeds: runs of each cell.

    Raises:
        UserError: there are fewer than two cells, a setting or the text will not do, or no size matches.
    """
    if len(cells) < 2:
        raise UserError(f"there is one cell to compare, {cells[0]}: give another --cell beside it")
    for one, other in combinations(cells, 2):
        if one == other:
            raise UserError(f"--cell {one} is given twice: leave one of them out")
    if seeds < 1:
        raise UserError(f"--seeds is {seeds}; it must be at least 1")
    common = Settings(**given)
    if any(map(is_pipe, common.files)):
        raise UserError("a pipe can be read only once, and each run reads the text: save it to a file first")
    if match == "seconds":
        common = _timed(common)
    common = replace(common, files=common.files or ("builtin:latex",))
    corpus = load_corpus(common.files, level=common.level, valid_fraction=common.valid_fraction)
    symbols = len(corpus.vocabulary)
    # Settled here, because by itself it would follow the hidden size.
    common = replace(common, embedding_size=embedding_size(common, symbols))
    first = common.seed if common.seed is not None else secrets.randbelow(1_000_000)
    entered: dict[str, Settings] = {}
    made: dict[str, Cell] = {}  # once each, as finding one among all that is installed takes its time
    measure = {"params": _parameters, "flops": _operations}.get(match)
    for cell in cells:
        name, options = split_spec(cell, "cell")
        entered[cell] = replace(common, cell=name, cell_option=options)
        make = partial(registry.build_cell, registry.cell_class(name), name, symbols, options=options)
        made[cell] = _accepted(make, common.hidden_size) if measure and made else make(common.hidden_size)
    if measure:
        entered = _matched(entered, made, symbols, measure)
    models = {label: _model(settings, made[label], symbols) for label, settings in entered.items()}
    if not common.valid_every:
        every = _validations(entered[cells[0]], models[cells[0]], corpus, match)
        entered = {label: replace(settings, valid_every=every) for label, settings in entered.items()}
    return Contest(entered, tuple(range(first, first + seeds)), match, tuple(_about(entered, models, match)))


def _timed(settings: Settings) -> Settings:
    """The settings of runs that end with the time.

    Raises:
        UserError: something else is to end them too.
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
    """The size whose measure comes closest to a goal, for a measure that does not fall where the size grows.

    Large models take long to make, and the numbers of most grow as a parabola: it is taken through three small sizes,
    and where it holds at the size that it gives, no other is made. Where the measure does not grow among these, as of
    a cell that refuses them, there is no parabola, and the search begins at the smallest size.

    Raises:
        UserError: no size reaches the goal.
    """
    measure = cache(measure)
    parabola = _parabola(measure)
    grows = parabola(24) > parabola(8)
    near = _search(parabola, goal, 1) if grows else 1
    return near if grows and parabola(near) == measure(near) else _search(measure, goal, near)


def _parabola(measure: Callable[[int], float]) -> Callable[[int], float]:
    """What goes through a measure at three small sizes; a line where it would bend downwards."""
    first, second, third = (measure(size) for size in (8, 16, 24))
    slope, bend = (second - first) / 8, max(third - 2 * second + first, 0) / 128
    return lambda size: first + (size - 8) * (slope + (size - 16) * bend)


def _search(measure: Callable[[int], float], goal: float, near: int) -> int:
    """The size whose measure comes closest to a goal, from a size on that may be near."""
    low, high, step = 0, near, 1
    while measure(high) < goal:
        low, high, step = high, high + step, 2 * step
        if high > LARGEST:
            raise UserError(
                f"no hidden size up to {LARGEST:,} makes a cell as large as the first: give another --match"
            )
    while not low and high > step and measure(high - step) >= goal:
        high, step = high - step, 2 * step
    low = max(low, high - step, 0)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if measure(middle) < goal else (low, middle)
    return min((size for size in (low, high) if size), key=lambda size: abs(measure(size) - goal))


def _accepted(make: Callable[[int], T], size: int) -> T:
    """What is made with a size, or where that is refused, with the next that is not.

    Raises:
        UserError: this size and all up to its double are refused; what is said is of the first.
    """
    refusals = []
    for tried in range(size, 2 * size + SPARE):
        try:
            return make(tried)
        except UserError as error:
            refusals.append(error)
    raise refusals[0]


def _matched(
    entered: Mapping[str, Settings], cells: Mapping[str, Cell], symbols: int, measure: Callable[[Model], int]
) -> dict[str, Settings]:
    """The settings with the hidden sizes, of those that each cell takes, that make every model as large as the first.

    A size that a cell refuses counts as the next one that it takes.
    """
    found: dict[str, Settings] = {}
    goal = 0
    for label, settings in entered.items():

        def model(size: int, settings: Settings = settings, cell: Cell = cells[label]) -> tuple[int, Model]:
            return size, _model(replace(settings, hidden_size=size), cell, symbols)

        try:
            if not found:
                goal, size = measure(model(settings.hidden_size)[1]), settings.hidden_size
            else:
                size = match_size(lambda size: measure(_accepted(model, size)[1]), goal)
        except TraceError as error:
            raise UserError(f"the operations of {label} cannot be counted, because {error}: --match params") from None
        found[label] = replace(settings, hidden_size=_accepted(model, size)[0])
    return found


def _model(settings: Settings, cell: Cell, symbols: int) -> Model:
    """The model of these settings, made of cells as ``cell``, whatever its sizes.

    Raises:
        UserError: the cell does not take a size.
    """
    hidden = settings.hidden_size
    try:
        return build_model(settings, symbols, lambda size: replace(cell, input_size=size, hidden_size=hidden))
    except ValueError as error:
        raise UserError(str(error)) from error


def _parameters(model: Model) -> int:
    return trees.count(model.init_params(np.random.default_rng(0)))


def _operations(model: Model) -> int:
    return operations(model.work())


def _validations(settings: Settings, model: Model, corpus: Corpus, match: Match) -> int:
    """Steps between validations; 0 leaves it open."""
    if match == "seconds" and settings.max_time is not None:
        return TIMED_LOOKS
    training, _ = split(corpus, settings.valid_fraction)
    if len(training) < 2:
        return 0  # there will be no run
    task = task_of(model, settings, len(training))
    usual = settings.steps_between_validations(task.steps_per_epoch)
    return max(1, min(usual, settings.total_steps(task.steps_per_epoch) // LOOKS))


def task_of(model: Model, settings: Settings, symbols: int) -> Task:
    """What a run trains, without its text: it knows what a step and an epoch are.

    Args:
        model: what is trained.
        settings: of the run.
        symbols: how many are trained on, two or more.
    """
    nothing = np.zeros(0, np.intp)
    make = registry.load("tasks", settings.task)
    task: Task = make(model, np.broadcast_to(np.intp(0), symbols), nothing, settings.seq_length, settings.batch_size)
    return task


def _about(entered: Mapping[str, Settings], models: Mapping[str, Model], match: Match) -> Iterator[str]:
    for label, settings in entered.items():
        model = models[label]
        line = f"{label}: {settings.num_layers} x {settings.hidden_size}, {_parameters(model):,} parameters"
        if match == "flops":
            line += f", {_operations(model):,} operations a symbol"
        yield line


def _free_name(wish: str) -> str:
    """A name for a run that is not taken."""
    stem = folder_name(wish)
    taken = {path.name for path in runs_folder().glob("*")}
    names = (stem if number == 1 else f"{stem}-{number}" for number in range(1, len(taken) + 2))
    return next(name for name in names if name not in taken)


def seconds_of(run: Run) -> float:
    """How long a run was trained."""
    return max((record["seconds"] for record in run.records()), default=0.0)
