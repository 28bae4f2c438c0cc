"""Reports by name on subjects by label: each measured, and laid beside the others. It draws nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from rnn_plugins import registry
from rnn_plugins.errors import UserError
from rnn_plugins.reports.report import Findings, Look, Page, Report, compose
from rnn_plugins.reports.subject import Subject

DEFAULT = "flow"
"""The report that is made where none is named."""


def kinds(all_of_them: bool, named: Sequence[str] = ()) -> tuple[str, ...]:
    """The reports that are asked for, each once; all that are installed, in the order in which one asks."""
    if not all_of_them:
        return tuple(dict.fromkeys(named)) or (DEFAULT,)
    order = ("flow", "heatmap", "spectrum", "lyapunov", "saturation", "parameters", "memory", "neurons", "structure")
    installed = [entry.name for entry in registry.entries("reports")]
    return tuple(dict.fromkeys([*(name for name in order if name in installed), *installed]))


def load(kinds: Sequence[str]) -> dict[str, Report]:
    """The reports of these names.

    Raises:
        UserError: there is no such report.
    """
    return {kind: registry.load("reports", kind)() for kind in kinds}


def gather(
    reports: Mapping[str, Report],
    subjects: Sequence[Subject],
    look: Look,
    told: Callable[[str, str], None] = lambda kind, label: None,
) -> list[Page]:
    """Make reports.

    Args:
        reports: which, by their names.
        subjects: what to look at; labels must differ.
        look: how closely.
        told: called before each measurement, with the report's name and the subject's label.

    Raises:
        UserError: none of the reports can be made of any of the subjects.
    """
    pages: list[Page] = []
    reasons: list[str] = []
    for kind, report in reports.items():
        found: dict[str, Findings] = {}
        failed: dict[str, str] = {}
        for subject in subjects:
            told(kind, subject.label)
            try:
                found[subject.label] = report.measure(subject, look)
            except UserError as error:
                failed[subject.label] = str(error)
        reasons += failed.values()
        pages.append(compose(kind, report, found, failed))
    if not any(page.quantities or page.figures for page in pages):
        raise UserError("; ".join(dict.fromkeys(reasons)))
    return pages
