"""Make the named reports on one or more subjects."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from minigrad.compiled import jit
from minigrad.scan import release
from rnn_lab.backends import is_compiled, resolved
from rnn_lab.blame import blaming
from rnn_lab.process import resident
from rnn_lab.settings import Backend
from rnn_plugins import registry
from rnn_plugins.errors import UserError
from rnn_plugins.reports.report import Findings, Look, Page, Report, compose
from rnn_plugins.reports.subject import Subject

COMPILER = 50_000_000
"""The memory that the compiler of time loops takes once it is loaded, about, in bytes."""

DEFAULT = "flow"
"""The report that is made by default."""

ORDER = (
    "loss", "flow", "heatmap", "spectrum", "lyapunov", "saturation", "parameters", "weights", "states", "memory",
    "text", "neurons", "structure",
)  # fmt: skip
"""The reports of this distribution, from the first to read to the last."""


def kinds(all_of_them: bool, named: Sequence[str] = ()) -> tuple[str, ...]:
    """The names of the reports to make, each once; if all, in the order of ``installed``."""
    return installed() if all_of_them else tuple(dict.fromkeys(named)) or (DEFAULT,)


def installed() -> tuple[str, ...]:
    """The names of the installed reports, those of this distribution first, in the order of ``ORDER``."""
    names = [entry.name for entry in registry.entries("reports")]
    return tuple(dict.fromkeys([*(name for name in ORDER if name in names), *names]))


def load(kinds: Sequence[str], all_of_them: bool = False) -> dict[str, Report]:
    """The reports of these names.

    Args:
        kinds: as ``kinds`` gives them.
        all_of_them: whether they were not named: then one that cannot be loaded is a page that says why.

    Raises:
        UserError: there is no such report, or it cannot be loaded.
    """
    found: dict[str, Report] = {}
    for kind in kinds:
        try:
            with blaming():
                found[kind] = registry.load("reports", kind)()
        except UserError as error:
            if not all_of_them:
                raise
            found[kind] = Unusable(kind, str(error))
    return found


class Unusable(Report):
    """Stands in for a report that cannot be loaded."""

    question = ""

    def __init__(self, kind: str, reason: str) -> None:
        self.title = kind  # type: ignore[misc]
        self.reason = reason

    def measure(self, subject: Subject, look: Look) -> Findings:
        """Say why the report cannot be loaded.

        Raises:
            UserError: always.
        """
        raise UserError(self.reason)


class Needed(NamedTuple):
    """An estimate of the memory that reports take.

    Attributes:
        bytes: of the process: Python and its libraries, data, weights, and the largest measurement.
        kind: the report with that measurement.
        label: its subject.
    """

    bytes: int
    kind: str
    label: str


def memory_of(reports: Mapping[str, Report], subjects: Sequence[Subject], look: Look, backend: Backend) -> Needed:
    """The memory that ``make_pages`` will take on a backend, without what drawing takes."""
    before = resident() + (COMPILER if is_compiled(resolved(backend)) and not jit.is_loaded() else 0)
    found = [Needed(before, "", "")]
    for kind, report in reports.items():
        for subject in subjects:
            # Without an estimate a report is made all the same, or make_pages says why it cannot be measured.
            with suppress(Exception):
                found.append(Needed(before + int(report.memory(subject, look)), kind, subject.label))
    return max(found, key=lambda needed: needed.bytes)


def make_pages(
    reports: Mapping[str, Report],
    subjects: Sequence[Subject],
    look: Look,
    told: Callable[[str, str], None] = lambda kind, label: None,
) -> list[Page]:
    """Make reports.

    Args:
        reports: the reports by name.
        subjects: what to measure; labels must differ.
        look: how closely to measure.
        told: called before each measurement, with the report's name and the subject's label.

    Raises:
        UserError: none of the reports can be made of any of the subjects.
    """
    pages: list[Page] = []
    errors: list[UserError] = []
    for kind, report in reports.items():
        found: dict[str, Findings] = {}
        failed: dict[str, str] = {}
        for subject in subjects:
            told(kind, subject.label)
            try:
                with blaming():
                    findings = report.measure(subject, look)
                if not isinstance(findings, Findings):
                    raise UserError(f"the report {kind!r} gives a {type(findings).__name__}; it must give Findings")
                found[subject.label] = findings
            except UserError as error:
                failed[subject.label] = str(error)
                errors.append(error)
            release()  # each network and each report has its own plans
        pages.append(compose(kind, report, found, failed))
    if errors and not any(page.quantities or page.figures for page in pages):
        raise UserError("; ".join(dict.fromkeys(map(str, errors)))) from errors[0]
    return pages
