"""The subjects of reports: a run with its weights and data, or a cell with new weights."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NoReturn

import numpy as np

from minigrad import trees
from minigrad.optimizers import freezing
from minigrad.training import Details, NotFinite, start, train
from minigrad.trees import Tree
from rnn_cells import Cell
from rnn_lab.divergence import of_recurrence
from rnn_lab.paths import BEST
from rnn_lab.problem import Problem
from rnn_lab.runs import Run, network_of
from rnn_lab.settings import Settings
from rnn_lab.trainer import LEARNING_RATE
from rnn_plugins import registry
from rnn_plugins.errors import UserError
from rnn_plugins.progress import advance
from rnn_plugins.reports.subject import Subject
from rnn_plugins.tasks.task import Data, Score, Task
from rnn_plugins.words import amount, brief


class Gone:
    """Stands in for a probe or for examples that are gone, so that reports which need none can be made.

    Whoever uses it gets a ``UserError`` with the reason.
    """

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def _refuse(self, *given: Any) -> NoReturn:
        raise UserError(self._reason)

    __getattr__ = __getitem__ = __len__ = __iter__ = __array__ = __call__ = _refuse


def of_run(run: Run, files: Sequence[str] = ()) -> Subject:
    """A trained run on its held-out examples (its training data if it held none out), or on other files.

    If its data are gone, its probes and examples are ``Gone``.

    Args:
        run: the run.
        files: other examples.

    Raises:
        UserError: the files or its weights cannot be read.
    """
    settings, task, model = run.settings, run.task, run.model
    own, reason = run.data()
    notices: tuple[str, ...] = ()
    examples: Any = None
    where = ""
    if files:
        data = run.read(files)
        examples, notices = data.valid, tuple(data.notices)
        where = brief(files)
    elif own is not None:
        examples = own.valid if run.held_out else own.train
        where = run.measured_on
    params, notes = run.load(BEST)
    cell = run.manifest["cell"]["cell"]
    words = [" ".join([cell, *(f"{key}={value}" for key, value in settings.cell_option.items())])]
    words += [f"ablated {key}={value}" for key, value in settings.ablate.items()]
    rate = settings.learning_rate or LEARNING_RATE
    if where:
        trained_on = examples if own is None else own.train
        problem = Problem(task, model, Data(trained_on, examples, run.facts), settings.batch_size)
        subject = of_problem(run.name, cell, problem, params, settings, rate)
        measured = f"; measured on {where} ({task.count(examples):,} {task.unit})"
    else:
        subject = _without_data(run, params, f"{reason}; --text FILE measures it on other data")
        measured = ""
    return replace(
        subject,
        steps=int(notes["step"]),
        records=run.records,
        metrics=task.metrics,
        deciding=task.best[0],
        baselines=lambda: _baselines(run, own),
        about=f"{', '.join([*words, subject.about])}, its best weights, of step {notes['step']:,}{measured}",
        notices=(*subject.notices, *notices),
    )


def _without_data(run: Run, params: Tree, reason: str) -> Subject:
    """A run as a subject of which only what needs no data can be measured."""
    settings = run.settings
    gone: Any = Gone(reason)
    return Subject(
        label=run.name,
        cell=run.manifest["cell"]["cell"],
        params=params,
        probe=gone,
        training=gone,
        learning_rate=settings.learning_rate or LEARNING_RATE,
        take_step=gone,
        language=run.task.language(run.model, run.facts),
        examples=gone,
        learnt=gone,
        about=_size(settings, params),
    )


def _baselines(run: Run, data: Data | None) -> tuple[Score, ...]:
    """The scores of a run's baselines on what it holds out, or of uniform guessing if none of them has a loss."""
    found: tuple[Score, ...] = ()
    if data is not None and run.held_out:
        found = run.task.baselines(run.model, data)
    loss = run.task.guessing(run.facts)
    if loss is None or any(score.metrics.get("loss") is not None for score in found):
        return found
    return (*found, Score("uniform guessing", "baseline", {"loss": loss}))


def fresh(cell: str, task: Task, data: Data, settings: Settings, steps: int = 0) -> Subject:
    """A cell with new weights, or trained for a few steps.

    Args:
        cell: ``NAME[:KEY=VALUE,...]``.
        task: the task.
        data: its data; the network is measured on the held-out part if there is one.
        settings: sizes, batches, seed, learning rate (None for the cell's own) and optimiser; the other arguments
            replace cell, options and length of training.
        steps: number of training steps, with a constant learning rate.

    Raises:
        UserError: there is no such cell, it does not take these settings, or its training diverges.
    """
    settings = replace(settings, cell=cell, cell_option={})
    cls, made = registry.cell_class(settings.cell), list[Cell]()

    def make(size: int) -> Cell:
        made.append(registry.build_cell(cls, settings.cell, size, settings.hidden_size, settings.cell_option))
        return made[-1]

    held_out = data.valid if task.count(data.valid) else data.train
    problem = Problem.of(task, task.model(data.facts, network_of(settings, make)), data, settings)
    init, dropout = (np.random.default_rng(s) for s in np.random.SeedSequence(settings.seed or 0).spawn(2))
    params = problem.init_params(init)
    rate = settings.learning_rate or next((cell.suggested_learning_rate for cell in made), None) or LEARNING_RATE
    trained = "with fresh weights"
    if steps:
        try:
            params = trees.map(np.asarray, _train(problem, params, settings, rate, steps, dropout).after)
        except NotFinite as error:
            why = " ".join(of_recurrence(problem, params, error.step, settings.seed or 0)).removesuffix(".")
            advice = why or f"lower --learning-rate (it is {rate:g}) or --steps"
            raise UserError(f"the training of {cell} diverges at step {error.step}: {advice}") from None
        trained = f"trained for {amount(steps, 'step')}"
    measured = replace(problem, data=Data(data.train, held_out, data.facts))
    subject = of_problem(cell, settings.cell, measured, params, settings, rate)
    return replace(subject, steps=steps, about=f"{subject.about}, {trained}")


def fresh_cells(
    cells: Sequence[str],
    task: Task,
    data: Data,
    settings: Settings,
    steps: int = 0,
    begin: Callable[[str], None] = lambda cell: None,
) -> tuple[list[Subject], list[str]]:
    """Cells on the same data, as ``fresh``, and lines that say what they are and what they are measured on.

    Args:
        cells: the cells.
        task: as for ``fresh``, like the next three.
        data: its data.
        settings: sizes, batches and the rest.
        steps: number of training steps.
        begin: called before each cell.
    """
    subjects = []
    for cell in cells:
        begin(cell)
        subjects.append(fresh(cell, task, data, settings, steps))
    about = [f"{subject.label}: {subject.about}" for subject in subjects]
    held_out = task.count(data.valid)
    count = f"{held_out or task.count(data.train):,} {task.unit}{' held out' if held_out else ''}"
    about.append(f"Data: {', '.join(data.sources)}; measured on {count}; seed {settings.seed}")
    return subjects, about


def of_problem(label: str, cell: str, problem: Problem, params: Tree, settings: Settings, rate: float) -> Subject:
    """A network on the held-out examples of its problem.

    Args:
        label: its label.
        cell: the cell's name.
        problem: the network, its training data, and the data that it is measured on.
        params: its parameters.
        settings: of its training.
        rate: the learning rate.

    Raises:
        UserError: its task offers no probe.
    """
    probe, training = problem.probe(params, "valid"), problem.probe(params)
    if probe is None or training is None:
        raise UserError(f"the task {settings.task} of {label} offers no probe, which reports measure")

    def take_step(seed: int) -> Details:
        fitted = Problem.of(problem.task, problem.model, problem.data, settings)
        try:
            return _train(fitted, params, settings, rate, 1, np.random.default_rng(seed))
        except NotFinite as error:
            raise UserError(f"no step can be taken with {label}: its loss is {error.loss:g}") from None

    return Subject(
        label=label,
        cell=cell,
        params=params,
        probe=probe,
        training=training,
        learning_rate=rate,
        take_step=take_step,
        clip_norm=settings.clipping()[0] or None,
        language=problem.task.language(problem.model, problem.data.facts),
        examples=problem.data.valid,
        learnt=problem.data.train,
        about=_size(settings, params),
        notices=tuple(probe.notices),
    )


def _size(settings: Settings, params: Tree) -> str:
    return f"{settings.num_layers} x {settings.hidden_size}, {trees.count(params):,} parameters"


def _train(
    problem: Problem, params: Tree, settings: Settings, rate: float, steps: int, rng: np.random.Generator
) -> Details:
    """Train at a constant learning rate, and return the last step.

    Raises:
        NotFinite: a loss or a gradient is not finite.
    """
    optimizer = freezing(settings.make_optimizer(), problem.model.frozen())
    clip_norm, clip_value = settings.clipping()
    state = start(params, optimizer, problem.init_carry(), rng)

    def batches() -> Iterator[Any]:
        for step in range(steps):
            if step % problem.steps_per_epoch == 0:
                state.carry = problem.init_carry()
            yield problem.batch(step)
            advance((step + 1) / steps)

    records = train(
        problem.loss,
        state,
        batches(),
        optimizer=optimizer,
        schedule=lambda step: rate,
        clip_norm=clip_norm,
        clip_value=clip_value,
        watch=lambda step: step == steps,
    )
    last = deque(records, maxlen=1).pop()
    assert last.details is not None
    return last.details
