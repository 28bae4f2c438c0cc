"""Reports by name on subjects by label: each measured, and laid beside the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from minigrad.scan import release
from rnn_lab.blame import blaming
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


def load(kinds: Sequence[str], all_of_them: bool = False) -> dict[str, Report]:
    """The reports of these names.

    Args:
        kinds: as ``kinds`` gives them.
        all_of_them: whether nobody named them: then one that cannot be loaded stands among the others, and says why.

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
    """A report that cannot be loaded."""

    question = ""

    def __init__(self, kind: str, reason: str) -> None:
        self.title = kind  # type: ignore[misc]
        self.reason = reason

    def measure(self, subject: Subject, look: Look) -> Findings:
        """Say why not.

        Raises:
            UserError: always.
        """
        raise UserError(self.reason)


def gather(
    reports: Mapping[str, Report],
    subjects: Sequence[Subject],
    look: Look,
    told: Callable[[str, str], None] = lambda kind, label: None,
) -> list[Page]:
    """Make reports.

    Args:
        reports: which, by their names.
        subjects: what to measure; labels must differ.
        look: how closely.
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
            release()  # each network and each report has plans of its own
        pages.append(compose(kind, report, found, failed))
    if errors and not any(page.quantities or page.figures for page in pages):
        raise UserError("; ".join(dict.fromkeys(map(str, errors)))) from errors[0]
    return pages
