"""What a trained network makes of inputs: texts, files, standard input or arrays, in the order in which they come."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from numbers import Number
from typing import Any

import numpy as np

from rnn_lab.problem import reading
from rnn_lab.runs import Run
from rnn_plugins.data.download import downloaded, is_url
from rnn_plugins.data.lines import name_of
from rnn_plugins.errors import UserError
from rnn_plugins.language.sampling import Choice
from rnn_plugins.reports.report import Page, Picture, Table, plain
from rnn_plugins.tasks.task import Inputs, Prediction, Task
from rnn_plugins.words import legible

AT_ONCE, SLOWLY = 256, 16
"""Maximum number of inputs that a task gets in one call; where predictions are explained, which takes longer."""

HELD = 1 << 24
"""Bytes of inputs, about, with which a task is called before there are so many: of long recordings, for example."""

IN_PAGE, EXPLAINED = 500, 50
"""Maximum numbers of predictions, and of those with explanations, on a page."""

OF_DATA = re.compile(
    r"\.(txt|md|tex|tsv|csv|jsonl?|conllu?|npz|npy|png|jpe?g|gif|bmp|idx|ubyte)(\.gz)?$|-ubyte(\.gz)?$", re.IGNORECASE
)
"""Endings of files of data: a text with one of them is meant as a file."""

IN_TITLE = 60
"""Maximum number of characters of an input in a title."""

ON_SHEET = 1000
"""Maximum number of outputs on a sheet of pictures."""

Answer = Callable[[Inputs], Iterator[Prediction]]
"""What gives the predictions for some inputs, one each."""


def is_source(text: str) -> bool:
    """Whether an argument is data rather than a text: a file, a folder, an address, ``-`` or a built-in source."""
    return text == "-" or text.startswith("builtin:") or is_url(text) or os.path.exists(text)


def inputs_of(run: Run, given: Iterable[Any], *, texts: Iterable[str] = (), **options: Any) -> Iterator[Any]:
    """The inputs for a run, one after the other.

    Args:
        run: the run.
        given: texts, files as the run's task reads them, ``-``, or anything else that its task takes, such as arrays;
            None for each output of a task that needs no input.
        texts: inputs before those, never taken as files.
        options: of the task, which replace the run's.

    Raises:
        UserError: a file cannot be read or does not exist, the task takes no texts, or an input can be none.
    """
    task = run.reader(**options)
    for text in texts:
        if not task.takes_text:
            raise UserError(f"the task {run.settings.task} takes files as inputs, not texts such as {text!r}")
        yield text
    if files := _files(given):
        with reading(files):
            together = task.inputs_together(list(map(_local, files)), run.facts)
            if together is not None:
                yield from together
                return
    for item in given:
        if _is_file(item):
            yield from _of_file(run, task, os.fspath(item))
        elif isinstance(item, str):
            yield _text(run, item)
        elif (item is None and task.needs_input) or isinstance(item, Iterator | Mapping | Number):
            raise UserError(f"an input is of the type {type(item).__name__}; expected a text, a file or an array")
        else:
            yield item


def _files(given: Iterable[Any]) -> list[str]:
    """The files, if all inputs are some and they are given at once; otherwise none."""
    at_once = isinstance(given, list | tuple) and all(map(_is_file, given))
    return list(map(os.fspath, given)) if at_once else []


def _is_file(item: Any) -> bool:
    return isinstance(item, os.PathLike) or (isinstance(item, str) and is_source(item))


def _local(file: str) -> str:
    """The path of a file that may be on the web."""
    return str(downloaded(file)[0]) if is_url(file) else file


def _of_file(run: Run, task: Task, file: str) -> Iterator[Any]:
    if type(task).inputs is Task.inputs:
        use = f"rnn predict {run.quoted} TEXT" if task.takes_text else f"rnn eval {run.quoted}"
        raise UserError(f"{run.name} is a run of the task {run.settings.task}, which reads no inputs from files: {use}")
    empty = True
    with reading([file]):
        for one in task.inputs(_local(file), run.facts):
            empty = False
            yield one
        if empty:
            raise UserError(f"{name_of(file)} has no inputs; expected one at least")


def _text(run: Run, text: str) -> str:
    """A text, unless it is meant as a file or the task takes none."""
    if not run.task.takes_text:
        raise UserError(f"there is no file {text!r}; the task {run.settings.task} takes files as inputs, not texts")
    folder = text.partition("/")[0] if "/" in text else None
    if OF_DATA.search(text) or (folder is not None and (not folder or text.endswith("/") or os.path.isdir(folder))):
        raise UserError(f"there is no file {text!r}; if that is a text, give it on standard input, with - as INPUT")
    return text


def predictor(run: Run, *, top: int = 1, explain: bool = False, pictured: bool = False, **options: Any) -> Answer:
    """What predicts with a run's best weights.

    Args:
        run: the run.
        top: the number of alternatives in a record.
        explain: whether to add figures that explain each prediction.
        pictured: whether to add the pictures among them to the first ``EXPLAINED`` predictions.
        options: of the task, which replace the run's; none on which its weights depend.

    Raises:
        UserError: the run's task predicts nothing, or an option is invalid.
    """
    if top < 1:
        raise UserError(f"--top is {top}; it must be at least 1")
    if not run.predicts:
        raise run.refusal("predicts nothing of an input")
    task, facts = run.reader(**options), run.facts
    model, params = run.model_of(task), run.params()
    answer = _checked(run, lambda some: task.predict(model, params, facts, some, top=top, explain=explain))
    if explain or not pictured:
        return answer
    explained = _checked(run, lambda some: task.predict(model, params, facts, some, top=top, explain=True))

    def first_explained(some: Inputs) -> Iterator[Prediction]:
        count = sum(place < EXPLAINED for place in some.places)
        if count:
            for found in explained(Inputs(some[:count], some.places[:count])):
                yield found._replace(figures=tuple(pictures_of([found])))
        if count < len(some):
            yield from answer(Inputs(some[count:], some.places[count:]))

    return first_explained


def generator(run: Run, choice: Choice, rng: np.random.Generator, count: int = 1, **options: Any) -> Answer:
    """What draws outputs from a run's best weights.

    Args:
        run: the run.
        choice: how to draw a symbol.
        rng: draws.
        count: outputs per input.
        options: as for ``predictor``.

    Raises:
        UserError: the run's task draws no outputs, or an option is invalid.
    """
    if not run.generates:
        raise run.refusal("draws no output for an input")
    task, facts = run.reader(**options), run.facts
    model, params = run.model_of(task), run.params()

    def draw(some: Inputs) -> Iterator[Prediction] | None:
        repeated = Inputs(
            (one for one in some for _ in range(count)), [place for place in some.places for _ in range(count)]
        )
        return task.generate(model, params, facts, repeated, choice, rng)

    return _checked(run, draw)


def _checked(run: Run, answer: Callable[[Inputs], Iterator[Prediction] | None]) -> Answer:
    """The same, with errors in sentences."""

    def checked(some: Inputs) -> Iterator[Prediction]:
        with reading(["an input"]):
            found = answer(some)
            if found is None:
                raise run.refusal("has no predictions with these options")
            yield from found

    return checked


class Answers:
    """The predictions for inputs, which are taken as they are needed and never kept: an iterator.

    ``pending`` gives those for the inputs that have been taken so far, so that whoever provides inputs slowly can have
    them before the next.
    """

    def __init__(self, inputs: Iterable[Any], answer: Answer, size: int = AT_ONCE, count: int = 1) -> None:
        """Answer inputs.

        Args:
            inputs: the inputs.
            answer: gives the predictions for some of them.
            size: how many at a time.
            count: predictions per input.
        """
        self._inputs, self._answer, self._size, self._count = inputs, answer, size, count
        self._taken: list[Any] = []
        self._before = self._held = 0

    def pending(self) -> Iterator[Prediction]:
        """The predictions for the inputs that have none yet; an unsuitable input raises ``UserError``."""
        some = Inputs(self._taken, range(self._before, self._before + len(self._taken)))
        self._taken, self._before, self._held = [], self._before + len(some), 0
        if not some:
            return
        given = 0
        try:
            for prediction in self._answer(some):
                given += 1
                yield prediction
        except UserError as error:
            done = given // self._count
            for one, place in zip(some[done:], some.places[done:], strict=True):  # those before the unsuitable one
                try:
                    yield from self._answer(Inputs([one], [place]))
                except UserError:
                    break
            raise error from None  # it may say which of them it was

    def __iter__(self) -> Iterator[Prediction]:
        """The predictions; an unsuitable input raises ``UserError`` after those for the inputs before it."""
        try:
            for one in self._inputs:
                self._taken.append(one)
                self._held += _bytes(one)
                if len(self._taken) == self._size or self._held >= HELD:
                    yield from self.pending()
        except UserError:
            yield from self.pending()
            raise
        yield from self.pending()


def _bytes(given: Any) -> int:
    """About the memory that an input takes: that of its texts and arrays."""
    if isinstance(given, str):
        return len(given)
    if isinstance(given, np.ndarray):
        return given.nbytes
    if is_dataclass(given):
        return sum(_bytes(getattr(given, part.name)) for part in fields(given))
    return sum(map(_bytes, given)) if isinstance(given, list | tuple) else 0


def record_of(prediction: Prediction, figures: bool = True) -> dict[str, Any]:
    """A prediction as JSON but for its arrays, with the figures that explain it if it has some and they are wanted."""
    record = {
        name: value if isinstance(value, np.ndarray) else plain(value) for name, value in prediction.record.items()
    }
    return record | ({"figures": plain(prediction.figures)} if figures and prediction.figures else {})


def alternatives_of(prediction: Prediction) -> Table | None:
    """The alternatives in a record as a table of words and probabilities; None if it has no such ones."""
    rows = []
    top = prediction.record.get("top")
    for entry in top if isinstance(top, list) else []:
        words = {key: value for key, value in entry.items() if key != "probability"} if isinstance(entry, dict) else {}
        if len(words) != 1 or not all(isinstance(word, str) for word in words.values()) or "probability" not in entry:
            return None
        rows.append((legible(*words.values()), float(entry["probability"])))
        heads = (next(iter(words)).upper(), "PROBABILITY")
    return Table("alternatives", "", heads, tuple(rows), digits=(None, 3), bars=1) if rows else None


def pictures_of(predictions: Iterable[Prediction]) -> list[Picture]:
    """The pictures among the figures of predictions."""
    return [figure for found in predictions for figure in found.figures if isinstance(figure, Picture)]


def pages_of(
    run: Run, source: str, predictions: Sequence[Prediction], more: bool = False, *, pictured: bool = False
) -> list[Page]:
    """Predictions as pages: a table of all, and what explains them, if they are explained.

    Args:
        run: the run.
        source: the inputs in words.
        predictions: those to show.
        more: whether there are more, which are left out.
        pictured: as for ``predictor``.
    """
    columns = [column for column in _columns(predictions) if column != "input"]
    rows = tuple(
        (
            number,
            _shown(found.record.get("input")),
            *([_shown(found.record.get(column)) for column in columns] or [_alone(found)]),
        )
        for number, found in enumerate(predictions, start=1)
    )
    heads = ("#", "INPUT", *([column.replace("_", " ").upper() for column in columns] or ["PREDICTION"]))
    question = f"What does {run.name} make of {source}?"
    table = Table("predictions", "Predictions", heads, rows)
    notices = (f"The first {len(rows):,} are shown; --json has all.",) if more else ()
    pages = [Page("predictions", "Predictions", question, (run.name,), figures=(table,), notices=notices)]
    others = [
        replace(alternatives, title=f"{number}. {_titled(found.record.get('input'))}")
        for number, found in enumerate(predictions, start=1)
        if (alternatives := alternatives_of(found))
    ]
    if others:
        question = "What else is likely, and how likely?"
        notices = (f"The first {EXPLAINED} are shown; --json has all.",) if len(others) > EXPLAINED else ()
        shown = tuple(others[:EXPLAINED])
        pages.append(Page("alternatives", "Alternatives", question, (run.name,), figures=shown, notices=notices))
    explained = [(number, found.figures) for number, found in enumerate(predictions, start=1) if found.figures]
    if explained:
        figures = tuple(
            replace(figure, title=f"{number}. {figure.title}")
            for number, some in explained[:EXPLAINED]
            for figure in some
        )
        question = "What does each prediction depend on?"
        notices = ()
        if pictured and len(predictions) > EXPLAINED:
            notices = (f"The first {EXPLAINED} are shown.",)
        elif len(explained) > EXPLAINED:
            notices = (f"The first {EXPLAINED} are explained; --json has all.",)
        pages.append(Page("explanations", "Explanations", question, (run.name,), figures=figures, notices=notices))
    return pages


def _titled(given: Any) -> str:
    """An input in a title: the end of a long text, since what comes after it is predicted."""
    text = given if isinstance(given, str) else ""
    return legible(text if len(text) <= IN_TITLE else f"...{text[3 - IN_TITLE :]}")


def _alone(found: Prediction) -> str:
    """The line of a prediction without its input, which stands beside it."""
    return found.text.removeprefix(f"{found.record.get('input')}\t").replace("\t", "; ")


def _columns(predictions: Sequence[Prediction]) -> list[str]:
    """The parts of records that a table has room for: words and numbers, but no lists of numbers or tables."""
    found = (
        name for prediction in predictions for name, value in prediction.record.items() if _shown(value) is not None
    )
    return list(dict.fromkeys(found))


def _shown(value: Any) -> str | float | int | None:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple) and all(isinstance(part, str) for part in value):
        return " ".join(value)
    if isinstance(value, str):
        return value if value.strip() else repr(value)
    return value if isinstance(value, float | int) else None
