"""Show a training run: live on a terminal, in plain lines elsewhere, as JSON or not at all."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any

import click

from rnn_cli.console import as_json, errors, ignoring_hangups, mute, remark
from rnn_lab.printable import printable
from rnn_plugins.errors import UserError, why
from rnn_plugins.words import duration

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

    from rnn_lab.runs import Run
    from rnn_lab.session import Session
    from rnn_lab.trainer import Progress
    from rnn_plugins.tasks.task import Part

LINE_SECONDS = 10.0
"""Seconds between plain lines; a tenth of that for those with a validation."""

EXCERPT_SECONDS = 5.0
"""Minimum time between two samples of the model."""

EXCERPT_SIZE = 400
"""Characters of a sample."""

DECADES = 4
"""Powers of ten in a curve of the flow, from its highest value down."""

BARS, ASCII_BARS = "▁▂▃▄▅▆▇█", "_.-:=+*#"


class Display:
    """The base class, which shows nothing."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def __enter__(self) -> Display:
        """Begin."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End; restore the terminal."""

    def show(self, progress: Progress) -> None:
        """Show the progress after a step."""

    def note(self, text: str) -> None:
        """Show a sentence later; it is called in a signal handler, which may not print."""


class Lines(Display):
    """A plain line at intervals, for logs."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self.shown = float("-inf")
        self.flow: dict[str, Any] | None = None

    def show(self, progress: Progress) -> None:
        """Print a line if due, and the flow if it is new."""
        record, now = progress.record, time.monotonic()
        if record is not None:
            self.flow = record.get("flow", self.flow)
        found = validated(record) if record is not None else {}
        if record is None or now - self.shown < (LINE_SECONDS / 10 if found else LINE_SECONDS):
            return
        self.shown = now
        held_out = f"  held out {measured(self.session.run, found)}" if found else ""
        training = f"{number(record['train_loss'])} {self.session.problem.task.metrics['loss'].unit}".rstrip()
        remark(
            f"step {record['step']:,}  epoch {record['epoch']:.2f}"
            f"  training {training}{held_out}"
            f"  {record['units_per_second']:,.0f} {self.session.unit}/s  gradient {record['gradient_norm']:.2g}"
            f"  rate {record['learning_rate']:.2g}  {duration(progress.seconds_left)} left"
        )
        if self.flow:
            from rnn_lab.records import reaches

            words = "; ".join(f"{state} {said}" for state, said in reaches(self.flow).items())
            remark(f"  flow, in steps: {words}")
            self.flow = None


class Records(Display):
    """JSON: the run, and a record per line."""

    def __enter__(self) -> Records:
        """Print the run's description."""
        run = self.session.run
        left_out = ("facts", "outcome", "process", "step", "best")
        described = {key: value for key, value in run.manifest.items() if key not in left_out}
        emit({"run": {"name": run.name, "path": str(run.path), **described}})
        return self

    def show(self, progress: Progress) -> None:
        """Print the record, as in ``metrics.jsonl``."""
        if progress.record is not None:
            emit(progress.record)


class Live(Display):
    """A live display at the bottom of the terminal, redrawn a few times per second."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        from rnn_cli.bars import Drawing

        self.progress: Progress | None = None
        self.record: dict[str, Any] = {}
        self.flow: dict[str, Any] | None = None
        self.validations = [record for record in session.run.records() if validated(record)]
        self.excerpt, self.title, self.excerpt_time = "", "", float("-inf")
        self.word = ""
        self.over = False
        self.live = Drawing(self.picture)

    def __enter__(self) -> Live:
        """Start drawing."""
        with ignoring_hangups():
            self.live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Leave the last drawing, with a sample by the best weights, and without what will be printed after it."""
        if self.progress is not None and not isinstance(error, KeyboardInterrupt | OSError):
            self._sample_best()
        self.over = True
        with ignoring_hangups():
            self.live.stop()

    def note(self, text: str) -> None:
        """Show a sentence in the next drawing."""
        self.word = text

    def show(self, progress: Progress) -> None:
        """Store the progress for the next drawing."""
        self.progress = progress
        if progress.record is None:
            return
        self.record = progress.record
        if "flow" in progress.record:
            self.flow = progress.record["flow"]
        if validated(progress.record):
            self.validations.append(progress.record)
        if time.monotonic() - self.excerpt_time > EXCERPT_SECONDS:
            with suppress(UserError):  # a diverging model may have no finite scores
                self.excerpt = self.session.excerpt(EXCERPT_SIZE) or ""
                self.title = f"after step {progress.step.step:,}"
            self.excerpt_time = time.monotonic()

    def _sample_best(self) -> None:
        """Take a sample by the weights that are kept, which ``rnn sample`` uses."""
        best = self.session.trainer.best
        with suppress(UserError, OSError):
            self.excerpt = self.session.excerpt(EXCERPT_SIZE, best=True) or ""
            self.title = f"by the best weights, of step {best['step']:,}"

    def picture(self) -> RenderableType:
        """The bar, the numbers, the curves, the conclusion, and a sample."""
        from rich.console import Group
        from rich.panel import Panel
        from rich.text import Text

        if self.progress is None:
            return Text(self.word or "the first step ...")
        from rnn_cli.bars import bar

        console, progress = errors(), self.progress
        left = f"{progress.done:.0%}  {duration(progress.seconds_left)} left"
        lines: list[RenderableType] = [bar(self.session.run.name, progress.done, left, "bold")]
        lines += [*self._numbers(progress), *self._curves(), *self._flow_lines()]
        for words, style in (
            (self.session.verdict(self.validations).words, "italic"),
            (self.word, "bold"),
        ):
            if words and not self.over:
                lines.append(Text(words, style=style))
        used = sum(len(console.render_lines(line)) for line in lines)
        room = min(8, console.height - used - 5)
        if self.excerpt and room > 0:
            text = Text(printable(self.excerpt, keep="\n"), overflow="fold")
            lines.append(Panel(text, title=self.title, title_align="left", height=room + 2, border_style="dim"))
        return Group(*lines)

    def _curves(self) -> list[Text]:
        """The deciding metric on held-out data, and the loss where that is another; an arrow says which way is better.

        Validations without a number for a metric are left out of its curve.
        """
        from rich.text import Text

        console, task = errors(), self.session.problem.task
        plain = console.options.ascii_only
        arrows = {"min": "v", "max": "^"} if plain else {"min": "↓", "max": "↑"}
        names = list(dict.fromkeys((self.session.trainer.metric, "loss")))
        curves = {
            name: [record[f"valid_{name}"] for record in self.validations if f"valid_{name}" in record]
            for name in names
        }
        words = {name: task.metrics[name].word or name.replace("_", " ") for name in names}
        heads = {name: f"{words[name]} {arrows[task.metrics[name].direction]}" for name in names}
        heads = heads if len(heads) > 1 else dict.fromkeys(heads, "held out")
        width = max(9, *map(len, heads.values()))
        lines = []
        for name, values in curves.items():
            if len(values) > 1:
                first, last = (number(value, task.metrics[name].digits) for value in (values[0], values[-1]))
                room = console.width - len(first) - len(last) - 2
                beside = room - width - 2 >= 10  # otherwise the curve is below its name
                head = f"{heads[name]:<{width}}  " if beside else f"{heads[name]}\n"
                longest = min(room - width - 2, max(10, console.width - 40)) if beside else room
                curve = sparkline(values, longest, ASCII_BARS if plain else BARS)
                lines.append(Text(f"{head}{first} {curve} {last}", no_wrap=True))
        return lines

    def _flow_lines(self) -> list[Text]:
        """A line per state: the gradient by lag on a logarithmic scale, and its meaning."""
        from rich.text import Text

        from rnn_lab.records import reaches

        if not self.flow:
            return []
        console = errors()
        bars = ASCII_BARS if console.options.ascii_only else BARS
        rows = [(f"flow {state}", self.flow["norms"][state], said) for state, said in reaches(self.flow).items()]
        name, words = (max((len(row[column]) for row in rows), default=0) for column in (0, 2))
        room = console.width - name - 2
        beside = words + 12 <= room  # otherwise the words are below the curve
        width = max(10, room - words - 2 if beside else room)
        gap = "  " if beside else "\n"
        return [Text(f"{state:<{name}}  {logarithmic(norms, width, bars)}{gap}{said}") for state, norms, said in rows]

    def _numbers(self, progress: Progress) -> list[RenderableType]:
        """The numbers with their labels: in pairs of columns, in one, or below their labels where that is too wide."""
        from rich.table import Table
        from rich.text import Text

        room = errors().width
        for few in (False, True):
            rows = self._rows(progress, few)
            if sum(max(map(len, column)) + 3 for column in zip(*rows, strict=True)) - 3 <= room:
                numbers = Table.grid(padding=(0, 3, 0, 0))
                for style in ("dim", "", "dim", ""):
                    numbers.add_column(style=style)
                for row in rows:
                    numbers.add_row(*row)
                return [numbers]
        pairs = [pair for row in rows for pair in (row[:2], row[2:]) if pair[1]]
        width = max(len(label) for label, _ in pairs) + 3
        lines: list[RenderableType] = []
        for label, value in pairs:
            beside = width + len(value) <= room
            lines.append(Text.assemble((label.ljust(width) if beside else f"{label}\n", "dim"), value))
        return lines

    def _rows(self, progress: Progress, few: bool) -> list[tuple[str, str, str, str]]:
        """The numbers in two pairs of columns; with ``few``, of the metrics only those that matter most."""
        session, record, kept = self.session, self.record, self.session.trainer.best
        run = session.run
        held_out = "not validated yet"
        if self.validations:
            held_out = measured(run, validated(self.validations[-1]), few=few)
        if not run.held_out:
            held_out = "nothing"
        best = ""
        if kept["metrics"] is not None:
            best = f"{amount(run, session.trainer.metric, kept['metrics'])} at step {kept['step']:,}"
        rows = [
            ("step", f"{progress.step.step:,} of {session.trainer.last_step:,}", "training", ""),
            ("epoch", f"{progress.epoch:.2f}", "held out", held_out),
            ("gradient", f"{progress.step.gradient_norm:.3g}", "best", best),
            ("rate", f"{progress.step.learning_rate:.3g}", "speed", ""),
        ]
        if record:
            rows[0] = (*rows[0][:3], measured(run, {"loss": record["train_loss"]}, "train", few=few))
            rows[3] = (*rows[3][:3], f"{record['units_per_second']:,.0f} {session.unit}/s")
        return rows


def emit(record: dict[str, Any]) -> None:
    """Print a line of JSON on standard output with ``tell``."""
    tell(as_json(record))


def tell(text: str) -> None:
    """Print a line on standard output; if it is closed, print a note once and continue."""
    try:
        click.echo(text)
    except OSError as error:
        mute(sys.stdout)
        remark(f"Note: standard output cannot be written to ({why(error)}), and nothing more is shown there.")


def validated(record: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of a record on held-out data."""
    return {name.removeprefix("valid_"): value for name, value in record.items() if name.startswith("valid_")}


def measured(run: Run, metrics: Mapping[str, float], part: Part | None = None, *, few: bool = False) -> str:
    """Metrics and derived ones in words, the deciding one first.

    Args:
        run: their run.
        metrics: by name.
        part: the part of the data that they are of; None for the one that the run validates on.
        few: whether to leave out all but the deciding one, the loss, and the one that comparisons are by.
    """
    found = run.metrics(metrics, part)
    first = run.task.best[0] if run.task.best[0] in found else "loss"
    if few:
        found = {name: value for name, value in found.items() if name in (first, "loss", run.task.compared)}
    rest = ", ".join(amount(run, name, found) for name in found if name != first and not run.task.metrics[name].equals)
    return f"{amount(run, first, found)} ({rest})" if rest else amount(run, first, found)


def amount(run: Run, name: str, metrics: Mapping[str, float]) -> str:
    """One metric with its unit; with its name if it has no unit, or the unit of the loss."""
    metric = run.task.metrics[name]
    value = number(metrics[name], metric.digits)
    if metric.unit and (name == "loss" or metric.unit != run.task.metrics["loss"].unit):
        return f"{value} {metric.unit}"
    return f"{metric.word or name.replace('_', ' ')} {value}"


def number(value: float, digits: int = 3) -> str:
    """A metric to so many decimals; from 1,000 on to whole numbers, from 100,000 on to 3 significant digits."""
    if abs(value) < 1000:
        return f"{value:.{digits}f}"
    return f"{value:,.0f}" if abs(value) < 100_000 else f"{value:.3g}"


def memory(size: int) -> str:
    """Bytes in MB or GB, to one decimal below ten of them."""
    amount, unit = (size / 1e9, "GB") if size >= 1e9 else (max(size / 1e6, 0.1), "MB")
    return f"{amount:.{1 if amount < 10 else 0}f} {unit}"


def sparkline(values: Sequence[float], width: int, bars: str = BARS) -> str:
    """Values as bars between the lowest and the highest; a bar shows the last of the values that it covers."""
    count = min(width, len(values))
    chosen = [values[(i + 1) * len(values) // count - 1] for i in range(count)]
    low, high = min(chosen), max(chosen)
    scale = (len(bars) - 1) / (high - low) if high > low else 0.0
    return "".join(bars[round((value - low) * scale)] for value in chosen)


def logarithmic(values: Sequence[float | None], width: int, bars: str = BARS) -> str:
    """Values as bars on a logarithmic scale up to the highest; blank for values ``DECADES`` below it.

    A bar shows the last of the values that it covers; None counts as 0.
    """
    count = min(width, len(values))
    chosen = [values[(i + 1) * len(values) // count - 1] or 0.0 for i in range(count)]
    highest = max(chosen)

    def bar(value: float) -> str:
        height = 1 + math.log10(value / highest) / DECADES if value > 0 else 0.0
        return bars[math.ceil(height * len(bars)) - 1] if height > 0 else " "

    return "".join(map(bar, chosen))
