"""Reports as objects of the Python API, and what a notebook shows of a run and of reports."""

from __future__ import annotations

import html
import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rnn_lab import following
from rnn_lab.drawing import inline
from rnn_lab.drawing import page as drawing
from rnn_lab.runs import Run
from rnn_plugins.errors import UserError
from rnn_plugins.reports.report import Chart, Image, Page, Quantity, to_json

HEIGHT = 900
"""The height in CSS pixels of a page in a notebook, where it is shown in a frame."""


class Report:
    """The results of reports, as pages; a notebook shows them.

    Attributes:
        pages: each with its numbers, charts and sentences.
        heading: the title of all pages.
        about: lines on what was measured.
    """

    def __init__(self, pages: Sequence[Page], heading: str, about: Sequence[str] = ()) -> None:
        self.pages, self.heading, self.about = tuple(pages), heading, tuple(about)

    def __repr__(self) -> str:
        return f"<Report on {self.heading}: {', '.join(page.kind for page in self.pages)}>"

    def html(self) -> str:
        """One self-contained HTML page.

        Raises:
            UserError: it has charts, and matplotlib is not installed.
        """
        return drawing.html(self.pages, self.heading, self.about)

    def to_json(self) -> dict[str, Any]:
        """All numbers, as ``rnn report --json`` writes them."""
        return {"heading": self.heading, "about": list(self.about), "reports": to_json(self.pages)}

    def _repr_html_(self) -> str:
        """Charts and numbers inline; what has texts, pictures or tables as its page, in a frame."""
        try:
            return _shown(self.pages, self.heading, self.about)
        except UserError as error:  # matplotlib is not installed
            plain = [
                replace(page, figures=tuple(f for f in page.figures if not isinstance(f, Chart | Image)))
                for page in self.pages
            ]
            return _shown(plain, self.heading, [*self.about, f"The charts are left out: {error}"])


def _shown(pages: Sequence[Page], heading: str, about: Sequence[str]) -> str:
    if inline.fits(pages):
        parts = [inline.page(page, f"r{uuid.uuid4().hex[:8]}") for page in pages]
        return inline.block(*parts, inline.remarks(about), wide=True)
    # A frame, so that the page's style and the notebook's do not mix.
    document = html.escape(drawing.html(pages, heading, about))
    return f'<iframe srcdoc="{document}" style="width:100%;height:{HEIGHT}px;border:0"></iframe>'


def of_run(run: Run, with_losses: bool) -> str:
    """A run's facts and its metrics, and below them its losses by step."""
    summary = run.summary()
    if summary.error:
        return html.escape(summary.error)
    measured = "held out" if summary.held_out else "on the training data"
    rows = (
        Quantity("task", "task", summary.task),
        Quantity("cell", "cell", summary.cell),
        Quantity("size", "layers x units", summary.size),
        Quantity("parameters", "parameters", summary.parameters),
        Quantity("step", "steps", summary.step),
        Quantity("outcome", "outcome", summary.outcome),
        *(
            Quantity(
                name,
                f"{metric.word or name}, {measured}",
                summary.metrics[name],
                metric.unit,
                digits=metric.digits,
            )
            for name, metric in summary.declared.items()
            if name in summary.metrics and not metric.equals
        ),
    )
    parts = [inline.facts(summary.name, rows)]
    if with_losses:
        parts.append(inline.losses(following.loss_curves(list(run.records())), following.loss_label(run)))
    return inline.block(*parts)
