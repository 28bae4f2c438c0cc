"""Print predictions one after the other, as lines or records."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from rnn_cli import console
from rnn_cli.prompt import before_reading
from rnn_lab.printable import NEWLINE, printable
from rnn_plugins.words import legible

if TYPE_CHECKING:
    from rnn_lab.predicting import Answers
    from rnn_plugins.reports.report import Figure, Table
    from rnn_plugins.tasks.task import Prediction

SHOWN_EVERY = 0.1
"""Maximum number of seconds that a prediction waits for others to be printed with it."""


class Printer:
    """Print predictions, and keep the first ones for a page.

    Args:
        as_json: whether to print records.
        keep: how many to keep.
        figures: whether to print figures too.

    Attributes:
        count: the number of predictions.
        explained: whether one had figures.
        kept: the first ones.
    """

    def __init__(self, as_json: bool = False, keep: int = 0, figures: bool = True) -> None:
        self.as_json, self._room, self._figures = as_json, keep, figures
        self.count, self.explained = 0, False
        self.kept: list[Prediction] = []
        self._shown = time.monotonic()
        self._watched = sys.stdout.isatty()
        if isinstance(sys.stdout, io.TextIOWrapper) and not as_json:
            sys.stdout.reconfigure(errors="replace")

    def follow(self, answers: Answers) -> None:
        """Print predictions as they are made; those for what has come before more of standard input is waited for."""
        with before_reading(lambda: self.all(answers.pending())):
            for prediction in answers:
                self.one(prediction)
        self.flush()

    def one(self, prediction: Prediction) -> None:
        """Print a prediction."""
        from rnn_lab.predicting import alternatives_of, record_of
        from rnn_plugins.reports.report import plain

        self.count += 1
        self.explained = self.explained or bool(prediction.figures)
        if len(self.kept) < self._room:
            self.kept.append(prediction)
        if self.as_json:
            record = record_of(prediction, figures=self._figures)
            sys.stdout.write(console.as_json(record, default=plain) + "\n")
        elif self._watched and (alternatives := alternatives_of(prediction)):
            self._bars(prediction, alternatives)
        else:
            text = prediction.text.replace("\n", NEWLINE)
            if text or not prediction.figures:  # a picture may need no words
                sys.stdout.write((printable(text) if self._watched else text) + "\n")
            self._draw(prediction.figures if self._figures else ())
        if time.monotonic() - self._shown > SHOWN_EVERY:
            self.flush()

    def _bars(self, prediction: Prediction, alternatives: Table) -> None:
        """Print the input, its alternatives as bars, and the figures."""
        given = prediction.record.get("input")
        sys.stdout.write(printable(legible(given) if isinstance(given, str) else prediction.text) + "\n")
        self._draw([replace(alternatives, heads=("", "")), *(prediction.figures if self._figures else ())])

    def _draw(self, figures: Sequence[Figure]) -> None:
        if figures:
            from rnn_cli.drawing import terminal

            terminal.draw_figures(figures)
            sys.stdout.write("\n")

    def all(self, predictions: Iterator[Prediction]) -> None:
        """Print some predictions at once."""
        for prediction in predictions:
            self.one(prediction)
        self.flush()

    def flush(self) -> None:
        """Let what is printed be read."""
        sys.stdout.flush()
        self._shown = time.monotonic()
