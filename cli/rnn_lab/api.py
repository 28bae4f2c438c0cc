"""The public Python API, ``import rnn_lab``."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from minigrad.training import NotFinite
from minigrad.trees import Tree
from rnn_cells import Cell
from rnn_lab import evaluation, following, predicting, results, runs, sessions
from rnn_lab.backends import on_backend
from rnn_lab.comparison import comparison
from rnn_lab.comparison.plan import SEEDS, Match, plan
from rnn_lab.comparison.plan import train as train_all
from rnn_lab.following import Follower, Shown
from rnn_lab.language import scoring, writing
from rnn_lab.problem import files_of, read
from rnn_lab.reporting import kinds as kinds_of
from rnn_lab.reporting import load as load_reports
from rnn_lab.reporting import make_pages
from rnn_lab.results import Report as Report
from rnn_lab.session import Session
from rnn_lab.settings import Settings
from rnn_lab.subject import fresh_cells, of_run
from rnn_lab.trainer import Progress
from rnn_plugins import registry, testing
from rnn_plugins.data.vocabulary import Unknown
from rnn_plugins.errors import UserError as UserError
from rnn_plugins.inspect.description import CellDescription
from rnn_plugins.inspect.description import describe_cell as describe
from rnn_plugins.language.sampling import Choice
from rnn_plugins.reports.report import Look
from rnn_plugins.tasks.task import Task

Source: TypeAlias = str | os.PathLike[str]
"""A file as the command line takes it: a text, a folder, a glob, ``builtin:latex``."""

POLL = 0.5
"""Seconds between two checks for Ctrl-C, on systems that cannot interrupt a waiting thread."""


def train(
    files: Source | Sequence[Source] = (),
    *,
    name: str | None = None,
    init_from: str | Run | None = None,
    resume: str | Run | None = None,
    overwrite: bool = False,
    progress: Shown = "auto",
    **settings: Any,
) -> Run:
    """Train a network.

    Ctrl-C (or a notebook's stop) ends training after the current step and a validation; the run is saved, and
    ``KeyboardInterrupt`` is raised again with its name. ``training`` takes the same arguments but ``progress``, and
    yields records.

    Args:
        files: the data; by default the task's built-in data.
        name: the run's name; by default made from cell and file, with a number if that is taken.
        init_from: a run whose best weights are the initial weights.
        resume: a run to resume; settings may then change what ``rnn train --resume`` may change.
        overwrite: whether a run that has this name already is removed, once the new one is ready to train.
        progress: "auto" for a bar and the losses in a notebook and nothing elsewhere, "plain" for lines on standard
            error, "none" for nothing.
        **settings: the options of ``rnn train``, with _ for -: ``cell="lstm:forget_bias=2"``, ``epochs=3``. ``cell``
            and ``task`` also take a class.

    Raises:
        UserError: a setting or a file is invalid, or training diverged; the message says what to try.
        KeyboardInterrupt: it was interrupted.
    """
    following.require(progress)
    found = training(files, name=name, init_from=init_from, resume=resume, overwrite=overwrite, **settings)
    found._follow(following.follower(found._session, progress))
    return found.run


def training(
    files: Source | Sequence[Source] = (),
    *,
    name: str | None = None,
    init_from: str | Run | None = None,
    resume: str | Run | None = None,
    overwrite: bool = False,
    **settings: Any,
) -> Training:
    """Train a network step by step: iterate over the result. The arguments are those of ``train``."""
    given = _plain(settings)
    if files:
        given["files"] = _names(files)
    Settings.require_names(given)
    if resume is not None:
        others = {"name": name is not None, "init_from": init_from is not None, "overwrite": overwrite}
        for left_out in (word for word, is_given in others.items() if is_given):
            raise UserError(f"resume keeps the run's name and weights: leave out {left_out}")
        return Training(sessions.resume(_found(resume), given))
    source = None if init_from is None else _found(init_from)
    if overwrite and name is None:
        raise UserError("overwrite is for the run of a name: give name, or leave overwrite out")
    if overwrite and source is not None and source.name == name:
        raise UserError(f"a run that begins with the weights of {name!r} cannot overwrite it: give another name")
    return Training(sessions.start(given, name=name, init_from=source, overwrite=overwrite))


class Training:
    """A network in training; iterating over it takes the steps.

    It yields the records of ``metrics.jsonl`` (step, epoch, losses, norms, rates), one every ``log_every`` steps. If
    the loop ends early, the run is saved, and ``train(resume=...)`` resumes it.

    Attributes:
        run: the run; its best weights can be used after the first validation.
        notices: sentences on what was decided or reduced.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self.run = Run(session.run)
        self.notices = tuple(session.notices)

    @property
    def outcome(self) -> str | None:
        """Why training ended: "finished", "time", "patience", "interrupted" or "diverged"; None before that."""
        return self._session.trainer.outcome

    def stop(self) -> None:
        """End training after the current step and a validation; it can be called from another thread."""
        self._session.trainer.stop()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The records, during training.

        Raises:
            UserError: training diverged.
            KeyboardInterrupt: it was interrupted, and the run is saved.
        """
        return self._records(Follower(self._session))

    def _follow(self, follower: Follower) -> None:
        """Train to the end; errors are those of ``__iter__``."""
        failure: BaseException | None = None
        try:
            with closing(self._records(follower)) as records:
                for _ in records:
                    pass
        except KeyboardInterrupt as interrupt:
            # One that came between two records has no words, and the run is saved without a validation.
            raise interrupt if interrupt.args else self._interruption() from None
        except BaseException as error:
            failure = error
            raise
        finally:
            follower.end(failure)
            self.run._drawn_in = follower.cell

    def _records(self, follower: Follower) -> Generator[dict[str, Any], None, None]:
        trainer = self._session.trainer
        events = self._session.events()
        interrupted = False
        step: Future[dict[str, Any] | None] | None = None
        # Steps run in another thread, so that Ctrl-C interrupts the waiting one and never a step.
        with ThreadPoolExecutor(1, "rnn_lab.training") as thread:
            try:
                while True:
                    try:
                        step = step or thread.submit(_next_record, events, follower)
                        while not step.done():
                            wait([step], POLL)
                            follower.tick()
                        record = step.result()
                    except KeyboardInterrupt:
                        interrupted = True
                        trainer.stop()
                        continue
                    if record is None:
                        break
                    step = None
                    yield record
            except NotFinite as error:
                raise UserError(" ".join(self._session.diagnosis(error))) from error
            finally:
                thread.submit(events.close).result()
                self._session.run.release()
        if interrupted:
            raise self._interruption()

    def _interruption(self) -> KeyboardInterrupt:
        name = self.run.name
        return KeyboardInterrupt(
            f"interrupted after step {self._session.trainer.saved:,}; the run {name!r} is saved: "
            f"rnn_lab.train(resume={name!r}) resumes it"
        )


def _next_record(events: Iterator[Progress], follower: Follower) -> dict[str, Any] | None:
    """Take steps up to the next record; None at the end."""
    for progress in events:
        follower.show(progress)
        if progress.record:
            return progress.record
    return None


def load(run: Source | None = None) -> Run:
    """A run by its name or folder; by default the newest that has weights.

    Raises:
        UserError: there is none.
    """
    return Run(runs.find_run(None if run is None else os.fspath(run)))


class Run:
    """A trained run and its best weights.

    Attributes:
        folder: its folder and files (see ``rnn_lab.runs``).
    """

    def __init__(self, folder: runs.Run) -> None:
        self.folder = folder
        self._drawn_in = 0  # the count of the notebook's cell that shows its losses already

    def __repr__(self) -> str:
        return f"<Run {self.name!r} in {self.path}>"

    @property
    def name(self) -> str:
        """The run's name."""
        return self.folder.name

    @property
    def path(self) -> Path:
        """The path of its folder."""
        return self.folder.path

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that it was trained with, by name."""
        return self.folder.settings.to_json()

    @property
    def outcome(self) -> str | None:
        """Why its training ended; None if it did not end."""
        outcome: str | None = self.folder.manifest.get("outcome")
        return outcome

    @property
    def params(self) -> Tree:
        """Its best weights: nested dicts of arrays.

        Raises:
            UserError: there are none yet, or the file is damaged.
        """
        return self.folder.params()

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The records of its training, in order: step, epoch, losses, norms, rates."""
        return list(self.folder.records())

    @property
    def symbols(self) -> tuple[str, ...]:
        """What a language model reads and predicts, in the order of its inputs and of its probabilities.

        Raises:
            UserError: it is not a language model.
        """
        return self.folder.language.symbols

    def resume(self, **settings: Any) -> Run:
        """Train it further; as ``train(resume=run, **settings)``."""
        return train(resume=self, **settings)

    def sample(
        self,
        length: int = 500,
        *,
        prime: str = "",
        seed: int | None = None,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        greedy: bool = False,
        unknown: Unknown = "error",
    ) -> str:
        """A text sampled from the network, with the prime at its beginning.

        Args:
            length: characters after the prime.
            prime: the beginning of the text; if empty, the text begins as after a line feed.
            seed: random seed; None for another text at each call.
            temperature: above 1 for more surprising texts, below for likelier ones.
            top_k: sample from the k likeliest symbols; 0 for all.
            top_p: sample from the likeliest symbols that together have this probability.
            greedy: always take the likeliest.
            unknown: how to treat unknown symbols in the prime: "error", "skip" or "replace".

        Raises:
            UserError: it is not a language model, or an argument is invalid.
        """
        if length < 1:
            raise UserError(f"length is {length}; it must be at least 1")
        choice = Choice(temperature, top_k, top_p, greedy)
        with on_backend("auto"):
            return writing.write(self.folder.language, self.params, length, prime, choice, seed, unknown)

    def evaluate(self, *files: Source, **options: Any) -> dict[str, float | None]:
        """The metrics of its best weights on files, or on its held-out data; see ``rnn eval``.

        Args:
            *files: the data.
            **options: options of its task that replace the run's, such as ``unknown="skip"``; if one asks for a variant
                of the network, the metrics are that variant's.

        Raises:
            UserError: the files are unsuitable, or nothing was held out.
        """
        with on_backend("auto"):
            found = evaluation.evaluate(self.folder, _names(files), **options)
        return dict(found.assessment.scores[found.assessment.asked].metrics)

    def predict(
        self, inputs: Source | Iterable[Any], *, top: int = 1, explain: bool = False, **options: Any
    ) -> Iterator[dict[str, Any]]:
        """The network's predictions, one record per input, as ``rnn predict --json`` prints them; arrays stay arrays.

        Inputs are taken as they are needed, so there may be any number of them.

        Args:
            inputs: texts, arrays, or files in the format of the training data; one text or file, or several.
            top: the number of alternatives in a record, the likeliest first.
            explain: whether to add what each prediction depends on, as ``figures``.
            **options: options of its task that replace the run's, such as ``beam=5``.

        Raises:
            UserError: its task has no predictions, or an input is unsuitable.
        """
        answer = predicting.predictor(self.folder, top=top, explain=explain, **options)
        given = predicting.inputs_of(self.folder, _several_inputs(inputs), **options)
        return _records(predicting.Answers(given, answer, predicting.SLOWLY if explain else predicting.AT_ONCE))

    def generate(
        self,
        inputs: Source | Iterable[Any] | None = None,
        *,
        count: int = 1,
        seed: int | None = None,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        greedy: bool = False,
        **options: Any,
    ) -> Iterator[dict[str, Any]]:
        """Outputs drawn from the network, such as captions of pictures, or pictures; see ``rnn sample``.

        Args:
            inputs: as for ``predict``; None for a task that draws without inputs.
            count: outputs per input.
            seed: random seed; None for other outputs at each call.
            temperature: as for ``sample``, as the next three.
            top_k: sample from the k likeliest symbols; 0 for all.
            top_p: sample from the likeliest symbols that together have this probability.
            greedy: always take the likeliest.
            **options: as for ``predict``.

        Raises:
            UserError: its task draws no outputs, or an argument is invalid.
        """
        if count < 1:
            raise UserError(f"count is {count}; it must be at least 1")
        choice = Choice(temperature, top_k, top_p, greedy)
        answer = predicting.generator(self.folder, choice, np.random.default_rng(seed), count, **options)
        if (inputs is None) is self.folder.task.needs_input:
            takes = "outputs for inputs: give some" if inputs is None else "its outputs without inputs: leave them out"
            raise UserError(f"{self.name} is a run of the task {self.folder.settings.task}, which draws {takes}")
        given: Iterable[Any] = [None]
        if inputs is not None:
            given = predicting.inputs_of(self.folder, _several_inputs(inputs), **options)
        return _records(predicting.Answers(given, answer, count=count), figures=False)

    def score(self, *files: Source, unknown: Unknown = "replace", top: int = 1) -> scoring.Scoring:
        """How much each symbol of a text surprises the network; see ``rnn score``.

        Args:
            *files: the text.
            unknown: how to treat unknown symbols: "replace", "skip" or "error".
            top: the number of likeliest symbols at each position, for ``Scoring.expected``.
        """
        with on_backend("auto"):
            return scoring.score(self.folder, _names(files), unknown, top)

    def report(self, *kinds: str, text: Source | None = None, **look: Any) -> Report:
        """Reports on what the network remembers and why it forgets; see ``rnn report``.

        Args:
            *kinds: the reports, such as "flow" and "memory"; "all" for all that are installed; by default flow.
            text: data to measure on instead of the held-out ones.
            **look: ``lags``, ``positions``, ``units``, ``gates``, ``characters``, ``seed``, with the defaults of ``rnn
                report``.

        Raises:
            UserError: there is no such report, or none can be made of this run.
        """
        return report([self], *kinds, text=text, **look)

    def _repr_html_(self) -> str:
        """Its facts and its losses, these unless the notebook's cell has just shown them."""
        return results.of_run(self.folder, not (self._drawn_in and self._drawn_in == following.cell_count()))


def report(
    of: str | Run | Sequence[str | Run] = (),
    *kinds: str,
    cells: Sequence[str | type[Cell]] = (),
    files: Source | Sequence[Source] = (),
    text: Source | None = None,
    steps: int = 0,
    **given: Any,
) -> Report:
    """Reports on one or several runs or cells side by side; see ``rnn report``.

    Args:
        of: runs, by default the newest. With ``cells`` it is left out: ``report("flow", cells=["rnn", "lstm"])``.
        *kinds: as for ``Run.report``.
        cells: cells to measure instead of runs, names or classes, with new weights.
        files: the data of the cells.
        text: data to measure runs on instead of the held-out ones.
        steps: with cells, the number of training steps before measuring.
        **given: as for ``Run.report``; with cells also settings, such as ``hidden_size``.

    Raises:
        UserError: there is no such report, or none can be made of any of the runs or cells.
    """
    if cells and isinstance(of, str):
        kinds, of = (of, *kinds), ()
    everything = "all" in kinds
    reports = load_reports(kinds_of(everything, kinds), everything)
    names = {field.name for field in fields(Look)}
    look = Look(**{"seed": 1} | {name: value for name, value in given.items() if name in names})  # as rnn report
    settings = {name: value for name, value in given.items() if name not in names}
    Settings.require_names(settings)
    with on_backend("auto"):
        if cells:
            if of or text is not None:
                raise UserError(f"cells are measured on files: leave out {'the runs' if of else 'text'}")
            asked = Settings(**_plain(settings), seed=look.seed)
            task = registry.make_task(asked.task, asked.task_option)
            data = read(task, files_of(task, asked.task, _names(files)))
            subjects, about = fresh_cells([_name("cells", cell) for cell in cells], task, data, asked, steps)
            about += data.notices
        else:
            if unfit := [*settings, *(["files"] if files else []), *(["steps"] if steps else [])]:
                raise UserError(f"{unfit[0]} is of the training of cells, and runs are trained: leave it out")
            subjects = [of_run(_found(run), () if text is None else _names(text)) for run in _several(of) or [load()]]
            about = [f"{subject.label}: {subject.about}" for subject in subjects]
        pages = make_pages(reports, subjects, look)
    about += dict.fromkeys(notice for subject in subjects for notice in subject.notices)
    return Report(pages, ", ".join(subject.label for subject in subjects), about)


def compare(
    of: Sequence[str | Run] = (),
    *,
    cells: Sequence[str | type[Cell]] = (),
    files: Source | Sequence[Source] = (),
    match: Match = "params",
    seeds: int = SEEDS,
    progress: Shown = "auto",
    **settings: Any,
) -> Report:
    """Compare runs, or train cells side by side and compare them; see ``rnn compare``.

    Args:
        of: two or more runs; those that differ only in their seeds are averaged.
        cells: cells to train instead, ``"lstm"``, ``"lstm:forget_bias=3"`` or a class.
        files: the training data of the cells.
        match: what to keep equal between the cells: "params", "flops", "seconds" or "none".
        seeds: runs per cell.
        progress: of the training of cells, as for ``train``: "auto" for a bar in a notebook, "plain" or "none".
        **settings: of all cells, as for ``train``.

    Raises:
        UserError: there are fewer than two, or they cannot be compared.
        KeyboardInterrupt: it was interrupted; finished runs are kept.
    """
    following.require(progress)
    if cells:
        given = _plain(settings) | ({"files": _names(files)} if files else {})
        Settings.require_names(given)
        planned = plan([_name("cells", cell) for cell in cells], given, match, seeds)
        watcher = following.watcher(len(planned.settings), progress)
        for line in planned.lines:
            watcher.told(line)
        try:
            groups, interrupted = train_all(planned, watcher)
        except BaseException as error:
            watcher.close(following.ending(None, error))
            raise
        watcher.close(following.ending("interrupted" if interrupted else "finished", None))
        if interrupted:
            names = [run.name for some in groups.values() for run in some]
            raise KeyboardInterrupt(f"interrupted; these runs were finished: {', '.join(names) or 'none'}")
        about = [*planned.lines, *watcher.diagnoses]
    elif len(_several(of)) < 2:
        raise UserError(f"compare takes two runs or more; got {len(_several(of))}")
    else:
        groups, about = comparison.group([_found(run) for run in of]), []
    with on_backend("auto"):
        page = comparison.compare(groups)
    return Report([page], " and ".join(page.subjects), about)


def cells() -> list[str]:
    """The names of the installed cells."""
    return [entry.name for entry in registry.entries("cells")]


def tasks() -> list[str]:
    """The names of the installed tasks."""
    return [entry.name for entry in registry.entries("tasks")]


def describe_cell(
    cell: str | type[Cell], *, input_size: int = 65, hidden_size: int = 256, **options: Any
) -> CellDescription:
    """Describe a cell: its equations, read from its step, and the shapes of its parameters; see ``rnn cells show``.

    Args:
        cell: a class, or a name as the command line takes it.
        input_size: the width of an input.
        hidden_size: the width of the hidden state.
        **options: of the cell.

    Raises:
        UserError: there is no such cell, or it cannot make its parameters.
    """
    return describe(_name("cells", cell), input_size, hidden_size, options)


def check_cell(cell: str | type[Cell] | Cell, **options: Any) -> testing.CheckReport:
    """Check a cell: its gradients and the requirements of the time loop; see ``rnn cells check``.

    Args:
        cell: a class, a cell, or a name as the command line takes it, such as "lstm" or "mgu.py:MGU".
        **options: of a cell given by name or class.

    Raises:
        UserError: there is no such cell.
    """
    if isinstance(cell, str | type):
        cell = registry.make_cell(_name("cells", cell), 3, 4, options)
    return testing.check_cell(cell)


def check_task(
    task: str | type[Task] | Task, files: Source | Sequence[Source] = (), **options: Any
) -> testing.CheckReport:
    """Check a task: its batches, its loss and its metrics; see ``rnn tasks check``.

    Args:
        task: a class, a task, or a name as the command line takes it, such as "names" or "names.py:Names".
        files: what it reads; small files are faster. By default the task's default files.
        **options: of a task given by name or class.

    Raises:
        UserError: there is no such task.
    """
    if isinstance(task, str | type):
        task = registry.make_task(_name("tasks", task), options)
    return testing.check_task(task, _names(files))


def _name(group: str, given: Any) -> str:
    """The name of a cell or task, which may be given as a class."""
    return given if isinstance(given, str) else registry.name_of(group, given)


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with the names of classes, and of files."""
    plain: dict[str, Any] = {name: _names(settings[name]) for name in ("valid", "test") if name in settings}
    plain |= {word: _name(f"{word}s", settings[word]) for word in ("cell", "task") if word in settings}
    return {**settings, **plain}


def _names(files: Source | Sequence[Source]) -> tuple[str, ...]:
    some = [files] if isinstance(files, str | os.PathLike) else files
    return tuple(os.fspath(file) for file in some)


def _several_inputs(inputs: Source | Iterable[Any]) -> Iterable[Any]:
    if not isinstance(inputs, Iterable | os.PathLike):
        raise UserError(f"inputs is of the type {type(inputs).__name__}; expected a text, a file, or several inputs")
    return [inputs] if isinstance(inputs, str | os.PathLike) else inputs


def _records(answers: predicting.Answers, figures: bool = True) -> Iterator[dict[str, Any]]:
    found = iter(answers)
    while True:
        with on_backend("auto"):  # and not while the caller does something else
            prediction = next(found, None)
        if prediction is None:
            return
        yield predicting.record_of(prediction, figures)


def _several(of: str | Run | Sequence[str | Run]) -> Sequence[str | Run]:
    return [of] if isinstance(of, str | Run) else of


def _found(run: str | Run) -> runs.Run:
    return run.folder if isinstance(run, Run) else runs.find_run(run)
