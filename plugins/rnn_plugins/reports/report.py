"""What a report is, and the data that it gives: quantities, figures and sentences.

A figure says what is to be seen and not how: the same data become a terminal's characters, a picture and a page.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rnn_plugins.reports.probe import BYTES_AT_ONCE

if TYPE_CHECKING:
    from rnn_plugins.reports.subject import Subject

Array: TypeAlias = NDArray[Any]


@dataclass(frozen=True)
class Quantity:
    """A number with its meaning, or a word in its place.

    Attributes:
        key: its name in JSON, in ``snake_case``; the same for all subjects of a report.
        label: a few words, as the head of its row in a table.
        value: None where it was not reached or does not exist.
        unit: such as "steps"; empty for a pure number. A "share of the time" is shown as a percentage.
        definition: what exactly was computed, in a sentence.
        missing: what a table shows in place of None, such as "not within 100".
        digits: the number of decimals; None for significant digits.
    """

    key: str
    label: str
    value: float | int | str | None
    unit: str = ""
    definition: str = ""
    missing: str = "-"
    digits: int | None = None


@dataclass(frozen=True)
class Curve:
    """One line, or one cloud of points, of a chart.

    Attributes:
        label: in the legend; empty where the chart has only this curve.
        x: (N,).
        y: (N,); NaN leaves a gap.
        low: (N,), the lower edge of a band around it; None for no band.
        high: (N,), the upper edge.
        role: ``measured``; ``thin``, ``bound`` and ``reference`` are drawn less prominently (thin, dashed, dotted);
            ``points`` are not joined, and a ``mark`` is one that stands out; ``steps`` is the outline of a histogram, y
            between x and the next x.
        style: curves of one chart with the same number get the same colour; None counts on by itself. The runner sets
            it to the subject's place when it lays subjects over each other.
    """

    label: str
    x: Array
    y: Array
    low: Array | None = None
    high: Array | None = None
    role: Literal["measured", "thin", "bound", "reference", "points", "mark", "steps"] = "measured"
    style: int | None = None


@dataclass(frozen=True)
class Chart:
    """Curves over a common axis.

    Attributes:
        key: its name in JSON and in the page; charts of several subjects with the same key are laid over each other.
        title: a line.
        x_label: with the unit.
        y_label: with the unit.
        curves: one or more.
        log_x: a logarithmic axis; values that are not above 0 are left out.
        log_y: likewise.
        definition: what is drawn, in a sentence.
        overlay: whether curves of several subjects go into one chart; otherwise each subject has its own.
        y_limits: the range of the axis; None takes it from the data.
    """

    key: str
    title: str
    x_label: str
    y_label: str
    curves: tuple[Curve, ...]
    log_x: bool = False
    log_y: bool = False
    definition: str = ""
    overlay: bool = True
    y_limits: tuple[float, float] | None = None


@dataclass(frozen=True)
class Image:
    """A matrix as colours.

    Attributes:
        key: its name in JSON and in the page.
        title: a line.
        x_label: of columns.
        y_label: of rows.
        values: (rows, columns), the first row at the top; NaN is left blank.
        value_label: what a colour means.
        x_ticks: a word a column (such as the symbol that stands there), or empty for numbers.
        y_ticks: a word a row.
        log: colours by the logarithm.
        definition: what is drawn, in a sentence.
        floor: where a logarithmic scale begins, as a share of the largest value; what is smaller, 0 included, has its
            first colour. With 0 it begins at the smallest value, and what is not above 0 is left blank. See
            ``colour_limits``.
        limits: the range of the colours; None takes it from the values. The runner sets it where it lays subjects
            beside each other, so that a colour means the same for all.
        signed: whether 0 has a colour of its own in the middle of the range, between those of negative and positive
            values.
    """

    key: str
    title: str
    x_label: str
    y_label: str
    values: Array
    value_label: str
    x_ticks: tuple[str, ...] = ()
    y_ticks: tuple[str, ...] = ()
    log: bool = False
    definition: str = ""
    floor: float = 0.0
    limits: tuple[float, float] | None = None
    signed: bool = False


def colour_limits(images: Sequence[Image]) -> tuple[float, float] | None:
    """The range of colours in which all of some images can be drawn; None where they have no value.

    That is from the smallest value to the largest; of signed images, as far to either side of 0. With a floor it goes
    by the smallest of the images' largest values: it begins at that share of it, and ends at the largest value of all,
    but no farther above than it begins below. So an image that explodes does not darken the others.
    """
    ranges = []
    for image in images:
        values = np.asarray(image.values, np.float64)
        values = values[np.isfinite(values) & (values > 0 if image.log else True)]
        if values.size:
            ranges.append((float(values.min()), float(values.max())))
    if not ranges:
        return None
    low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
    if any(image.signed for image in images):
        high = max(-low, high)
        low = -high
    if floor := max(image.floor for image in images):
        least = min(high for _, high in ranges)
        low, high = floor * least, min(high, least / floor)
    return low, high


@dataclass(frozen=True)
class Colouring:
    """A text whose symbols are coloured by a number each.

    Attributes:
        key: its name in JSON and in the page.
        title: a line.
        symbols: the text's symbols, as they are written.
        values: (N,), one for each symbol; NaN is not coloured.
        low: what is coloured wholly in the first colour (blue).
        high: what is coloured wholly in the last (red); halfway between the two nothing is coloured.
            With ``low == 0`` there is one colour, from none to full.
        value_label: what a colour means.
        definition: what is shown, in a sentence.
    """

    key: str
    title: str
    symbols: tuple[str, ...]
    values: Array
    low: float
    high: float
    value_label: str
    definition: str = ""


@dataclass(frozen=True)
class Table:
    """Rows under heads, for what is no single quantity.

    Attributes:
        key: its name in JSON and in the page.
        title: a line.
        heads: of the columns.
        rows: of numbers and words; None is shown as "-".
        definition: what the columns mean, in a sentence or two.
        digits: the number of decimals of each column, None for significant digits; empty if that is so for all.
        bars: the column of numbers between 0 and 1 that are drawn as bars too; None for none.
        names: the columns whose integers name something, such as a seed, and are written as they are typed.
    """

    key: str
    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str | float | int | None, ...], ...]
    definition: str = ""
    digits: tuple[int | None, ...] = ()
    bars: int | None = None
    names: tuple[int, ...] = ()

    def digits_of(self, column: int) -> int | None:
        """The number of decimals of a column; None for significant digits."""
        return self.digits[column] if self.digits else None


@dataclass(frozen=True)
class Frame:
    """A rectangle over a picture, such as the place where a network looks.

    Attributes:
        top: of its upper edge, in pixels from that of the picture; it may lie partly outside.
        left: of its left edge.
        height: in pixels.
        width: likewise.
        colour: frames with the same number have the same colour.
    """

    top: float
    left: float
    height: float
    width: float
    colour: int = 0


@dataclass(frozen=True)
class Panel:
    """One picture.

    Attributes:
        pixels: (H, W) or (H, W, 3), uint8.
        label: a few words below it, or empty.
        frames: drawn over it.
    """

    pixels: Array
    label: str = ""
    frames: tuple[Frame, ...] = ()

    def __post_init__(self) -> None:
        """Check the pixels.

        Raises:
            ValueError: they are no picture.
        """
        shape = np.shape(self.pixels)
        if np.asarray(self.pixels).dtype != np.uint8 or len(shape) not in (2, 3) or shape[2:] not in ((), (3,)):
            raise ValueError(f"pixels have shape {shape}; expected (H, W) or (H, W, 3) of uint8")
        if 0 in shape:
            raise ValueError(f"pixels have shape {shape}; expected at least one pixel")


@dataclass(frozen=True)
class Picture:
    """Pictures as they are, beside each other, and how the last of them came about.

    Attributes:
        key: its name in JSON and in the page.
        title: a line.
        panels: one or more, from left to right and in rows.
        columns: panels in a row; 0 for as many as there is room for.
        steps: the states of one picture in order, all of the same size, for an animation; empty for none.
        definition: what is shown, in a sentence.
    """

    key: str
    title: str
    panels: tuple[Panel, ...]
    columns: int = 0
    steps: tuple[Panel, ...] = ()
    definition: str = ""


Figure: TypeAlias = Chart | Image | Colouring | Table | Picture


@dataclass(frozen=True)
class Findings:
    """What a report has measured of one subject.

    Attributes:
        quantities: in the order in which they are to be read.
        figures: likewise.
        verdict: what it means and what to try, a sentence each; the first is the one to read if only one is read.
        notices: what had to be done otherwise than asked, a sentence each.
    """

    quantities: tuple[Quantity, ...] = ()
    figures: tuple[Figure, ...] = ()
    verdict: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Look:
    """How closely to look. Whatever a report does not need, it does not read.

    Attributes:
        lags: how many steps back.
        positions: how many positions are averaged over.
        units: names of units to show, such as ``h.17``, ``layer2.c.3`` or ``forget.3``; empty leaves the choice to the
            report.
        gates: names of activations to show the mean of, such as ``forget`` or ``layer2.candidate``.
        characters: how much a language model writes.
        seed: of everything random.
    """

    lags: int = 100
    positions: int = 2000
    units: tuple[str, ...] = ()
    characters: int = 100_000
    seed: int = 0
    gates: tuple[str, ...] = ()


class Report(ABC):
    """The base of what can be shown; entry points of the group ``rnn.reports`` name subclasses, made without arguments.

    The first line of a subclass's docstring is what a listing says of it; the rest says what is measured, after whom.

    Attributes:
        title: the heading, a few words.
        question: what it answers, in a sentence.
        averaged: what its verdict is a mean or the best of, in a sentence, if another report on the same network could
            seem to contradict it.
    """

    title: ClassVar[str]
    question: ClassVar[str]
    averaged: ClassVar[str] = ""

    @abstractmethod
    def measure(self, subject: Subject, look: Look) -> Findings:
        """Measure one network.

        Raises:
            UserError: it cannot be measured of this subject, and why.
        """

    def memory(self, subject: Subject, look: Look) -> int:
        """An estimate of the bytes that measuring one network takes, beside what the process has before.

        By default as many as are taken together where there are many positions.

        Raises:
            UserError: it cannot be measured of this subject, and why.
        """
        return BYTES_AT_ONCE


@dataclass(frozen=True)
class Page:
    """One report on one or more subjects, ready to be drawn.

    Attributes:
        kind: the report's name.
        title: its heading.
        question: what it answers.
        subjects: their labels, in the order in which they were asked for.
        quantities: of each subject by its label.
        figures: charts of all subjects laid over each other, the other figures once a subject.
        verdict: the sentences of each subject by its label.
        notices: what had to be done otherwise, with the subject's label before it where there are several.
        failed: why there are no findings of a subject, by its label.
        averaged: what the verdicts are a mean or the best of; empty if that needs no saying.
    """

    kind: str
    title: str
    question: str
    subjects: tuple[str, ...]
    quantities: Mapping[str, tuple[Quantity, ...]] = field(default_factory=dict)
    figures: tuple[Figure, ...] = ()
    verdict: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    notices: tuple[str, ...] = ()
    failed: Mapping[str, str] = field(default_factory=dict)
    averaged: str = ""


def compose(kind: str, report: Report, found: Mapping[str, Findings], failed: Mapping[str, str] | None = None) -> Page:
    """Lay the findings of several subjects over and beside each other.

    Args:
        kind: the report's name.
        report: what measured.
        found: by the subjects' labels, in order.
        failed: why others have none.
    """
    several = len(found) + len(failed or {}) > 1
    laid_over: dict[str, Chart] = {}
    figures: list[Figure] = []
    images: dict[str, list[Image]] = {}
    for figure in (figure for findings in found.values() for figure in findings.figures):
        if isinstance(figure, Image):
            images.setdefault(figure.key, []).append(figure)
    for place, (label, findings) in enumerate(found.items()):
        for figure in findings.figures:
            if not several:
                figures.append(figure)
            elif isinstance(figure, Chart) and figure.overlay:
                before = laid_over.get(figure.key, replace(figure, curves=()))
                curves = _laid_over(before.curves, figure, label, place)
                log_x, log_y = before.log_x and figure.log_x, before.log_y and figure.log_y
                laid_over[figure.key] = replace(before, curves=curves, log_x=log_x, log_y=log_y)
            else:
                if isinstance(figure, Image):
                    figure = replace(figure, limits=colour_limits(images[figure.key]))
                figures.append(replace(figure, key=f"{figure.key}.{label}", title=f"{label}: {figure.title}"))
    return Page(
        kind,
        report.title,
        report.question,
        (*found, *(failed or {})),
        {label: findings.quantities for label, findings in found.items()},
        (*laid_over.values(), *figures),
        {label: findings.verdict for label, findings in found.items()},
        tuple(
            f"{label}: {notice}" if several else notice
            for label, findings in found.items()
            for notice in findings.notices
        ),
        dict(failed or {}),
        report.averaged if any(findings.verdict for findings in found.values()) else "",
    )


def _laid_over(before: Sequence[Curve], chart: Chart, subject: str, place: int) -> tuple[Curve, ...]:
    """Curves with a further subject's, named so that they can be told apart; what all refer to is drawn once."""
    curves = list(before)
    for curve in chart.curves:
        shared = [i for i, other in enumerate(curves) if curve.role == "reference" and _alike(curve, other)]
        if shared:
            longest = max(curve, curves[shared[0]], key=lambda alike: np.ptp(alike.x))
            curves[shared[0]] = replace(longest, style=None)
            continue
        label = f"{subject}, {curve.label}" if curve.label and len(chart.curves) > 1 else subject
        curves.append(replace(curve, label=label, style=place))
    return tuple(sorted(curves, key=lambda curve: curve.role == "reference" and curve.style is None))


def _alike(curve: Curve, other: Curve) -> bool:
    """Whether two reference curves are the same, horizontal lines of any length included."""
    if curve.role != other.role or not np.array_equal(curve.y, other.y, equal_nan=True):
        return False
    return np.array_equal(curve.x, other.x, equal_nan=True) or len(set(curve.y.tolist())) == 1


def to_json(pages: Iterable[Page]) -> dict[str, Any]:
    """Every number of the pages with its definition, as JSON takes them: NaN and infinities are None."""
    return {page.kind: plain(page) for page in pages}


def plain(value: Any) -> Any:
    """Figures, mappings, sequences and numbers as JSON takes them: NaN and infinities are None."""
    if is_dataclass(value) and not isinstance(value, type):
        kind = {"type": type(value).__name__.lower()} if isinstance(value, Figure) else {}
        return kind | {part.name: plain(getattr(value, part.name)) for part in fields(value)}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, str):
        return value
    if isinstance(value, Sequence):
        return [plain(part) for part in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
