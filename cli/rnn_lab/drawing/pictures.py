"""Charts and images drawn by matplotlib, which is imported on first use.

No call opens a window, or leaves a figure or a changed setting behind.
"""

from __future__ import annotations

import html
import io
import logging
import re
import textwrap
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from rnn_lab.drawing import sheets
from rnn_lab.drawing.scales import FAINT, Axis, axes, coloured_values, drawable, image_axis, minor_ticks, ticks
from rnn_lab.drawing.words import logarithmic, number
from rnn_lab.printable import visible
from rnn_plugins.errors import UserError
from rnn_plugins.reports.report import Array, Chart, Curve, Image, Page, Picture

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

SERIES = ("#0072b2", "#d55e00", "#009e73", "#b8508d", "#8a6d00", "#5f5f5f", "#1d9bd1", "#a03c00")
"""Colours of curves on white, after Okabe and Ito (2008), the light ones made darker."""

DARK_SERIES = ("#56b4e9", "#e69f00", "#2dc79c", "#e08fc0", "#f0e442", "#b8b8b8", "#8ccbf0", "#ff9b5e")
"""The same on a dark page."""

MARKERS = "os^DvP<"
"""Fewer than there are colours, so that the first 56 curves of a chart differ in one or the other."""

DASHES: tuple[Any, ...] = ("solid", (0, (6, 1.5, 1.5, 1.5)), (0, (9, 2)), (0, (3, 1.5, 1, 1.5, 1, 1.5)))
"""Line styles of measured curves that share a colour."""

WIDTH, HEIGHT, TEXT = 400, 260, 12
"""Height of a figure in CSS pixels at its natural width, without the legend."""

SETTINGS: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "rnn-lab",
    "text.parse_math": False,
    "axes.unicode_minus": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.titlesize": TEXT,
    "axes.labelsize": TEXT,
    "xtick.labelsize": TEXT - 1,
    "ytick.labelsize": TEXT - 1,
    "legend.fontsize": TEXT - 1,
    "legend.frameon": False,
    "font.size": TEXT,
    "figure.dpi": 72,
    "figure.constrained_layout.h_pad": 6 / 72,
    "figure.constrained_layout.w_pad": 6 / 72,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
}


@dataclass(frozen=True)
class Palette:
    """The colours of a drawing, as matplotlib takes them."""

    ink: str
    quiet: str
    grid: str
    paper: str
    series: tuple[str, ...]


PRINT = Palette("#1b1f24", "#4d545c", "#dfe3e8", "#ffffff", SERIES)

PAGE = Palette("#010203", "#010204", "#010205", "#010206", tuple(f"#0102{16 + n}" for n in range(len(SERIES))))
"""Placeholder colours, which are replaced by the page's CSS variables."""

SENTINELS = {
    PAGE.ink: "var(--ink)",
    PAGE.quiet: "var(--quiet)",
    PAGE.grid: "var(--grid)",
    PAGE.paper: "var(--paper)",
} | {colour: f"var(--series-{index + 1})" for index, colour in enumerate(PAGE.series)}


def require(option: str) -> None:
    """Check that matplotlib is installed.

    Raises:
        UserError: it is not; ``option`` is the option that needs it.
    """
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it warns at length if its folder is not writable
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UserError(f"{option} needs the library matplotlib: pip install 'rnn-lab[plot]'") from None


def svg(figure: Chart | Image, identifier: str) -> str:
    """A figure as an ``<svg>`` element for a page.

    Its colours are the page's: ``--ink``, ``--quiet``, ``--grid``, ``--paper`` and ``--series-1`` to ``--series-8``. A
    curve's line and marks are in a group of the class ``curve``, whose attribute ``data-points`` is the number of its
    visible points; the axes' area has the class ``plot``, an image's pixels the class ``pixels``.

    Args:
        figure: the chart or image.
        identifier: the prefix of every id in it, unique within the page.

    Raises:
        UserError: matplotlib is not installed.
    """
    require("--html")
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with _own_settings():
        drawn = Figure(figsize=(WIDTH / 72, _height(figure) / 72), layout="constrained")
        FigureCanvasSVG(drawn)
        points = _draw(figure, drawn, PAGE)
        buffer = io.StringIO()
        drawn.savefig(
            buffer, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
        )
    return _inline(buffer.getvalue(), figure, identifier, points)


def picture(pages: Sequence[Page], format: Literal["png", "svg"]) -> bytes:
    """All charts, images and pictures of pages in one drawing on white, without coloured texts and tables.

    Args:
        pages: the pages to draw.
        format: of the file.

    Returns:
        The file's content.

    Raises:
        UserError: matplotlib is not installed, or there is nothing to draw.
    """
    require(f"--{format}")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    pictures = [
        (page, figure) for page in pages for figure in page.figures if isinstance(figure, Chart | Image | Picture)
    ]
    if not pictures:
        raise UserError(
            f"--{format} has nothing to draw: there is no chart, no image and no picture; use --html or --json"
        )
    columns = 1 if len(pictures) == 1 else 2 if len(pictures) <= 6 else 3
    grid = [pictures[start : start + columns] for start in range(0, len(pictures), columns)]
    heights = [max(_height(figure) for _, figure in row) + 30 for row in grid]
    with _own_settings():
        drawn = Figure(
            figsize=(columns * (WIDTH + 20) / 72, sum(heights) / 72), layout="constrained", facecolor=PRINT.paper
        )
        FigureCanvasAgg(drawn)
        parts = drawn.subfigures(len(grid), columns, squeeze=False, height_ratios=heights, wspace=0.03, hspace=0.03)
        for row, part_row in zip(grid, parts, strict=True):
            for (page, figure), part in zip(row, part_row, strict=False):
                title = f"{page.title}: {figure.title}" if len(pages) > 1 else figure.title
                part.suptitle(_wrapped(title, 52), fontsize=TEXT + 1, fontweight="bold", color=PRINT.ink)
                if isinstance(figure, Picture):
                    _draw_panels(figure, part)
                else:
                    _draw(figure, part, PRINT)
        buffer = io.BytesIO()
        # The same numbers give the same file, to the byte.
        metadata = {"Date": None} if format == "svg" else {"Software": None}
        drawn.savefig(buffer, format=format, dpi=144, metadata=metadata)
    return buffer.getvalue()


@contextmanager
def _own_settings() -> Iterator[None]:
    """Within this block, matplotlib's defaults and our settings, whatever the user's matplotlibrc says."""
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        settings: Any = matplotlib.rcParams  # its type lists the keys
        settings.update(SETTINGS)
        # A symbol missing from the font is a box in a PNG; an SVG contains it as text.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        yield


def _height(figure: Chart | Image | Picture) -> float:
    if isinstance(figure, Picture):
        rows, columns = _rows_and_columns(figure)
        shapes = [panel.pixels.shape for panel in figure.panels]
        highest = max(height / width for height, width, *_ in shapes)
        label = (TEXT + 6) * any(panel.label for panel in figure.panels)
        return float(np.clip(rows * (highest * WIDTH / max(columns, 2) + label), HEIGHT, 4 * HEIGHT))
    if isinstance(figure, Image):
        return float(np.clip(figure.values.shape[0] * 14 + 70, HEIGHT, 420))
    labels = [curve.label for curve in figure.curves if curve.label]
    return HEIGHT + 17 * sum(
        len(_wrapped(label, 50).split("\n")) for label in labels[:: _legend_columns(figure.curves)]
    )


def _legend_columns(curves: Sequence[Curve]) -> int:
    """As many as fit, so that related curves stay together: a legend is filled by columns."""
    named = [curve for curve in curves if curve.label]
    longest = max((len(curve.label) for curve in named), default=1)
    columns = int(np.clip(WIDTH // (longest * 6.6 + 40), 1, 4))
    together = 1
    if len({curve.style for curve in named} - {None}) > 1:
        together = sum(curve.style == named[0].style for curve in named)
    while together > 1 and columns > 1 and len(named) % (columns * together):
        columns -= 1
    return columns


def _wrapped(text: str, width: int) -> str:
    return "\n".join(textwrap.wrap(visible(text), width)) or " "


def _draw(figure: Chart | Image, part: Figure | SubFigure, palette: Palette) -> list[int]:
    """Draw a figure with its axes and legend; return the number of visible points of each curve."""
    ax = part.subplots()
    ax.patch.set_gid("plot")
    ax.set_facecolor("none")
    for spine in ax.spines.values():
        spine.set_color(palette.quiet)
    ax.tick_params(colors=palette.quiet, which="both", length=3)
    ax.set_xlabel(_wrapped(figure.x_label, 52), color=palette.ink)
    ax.set_ylabel(_wrapped(figure.y_label, 34), color=palette.ink)
    if isinstance(figure, Image):
        _draw_image(figure, part, ax, palette)
        return []
    return _draw_chart(figure, part, ax, palette)


def _draw_chart(figure: Chart, part: Figure | SubFigure, ax: Axes, palette: Palette) -> list[int]:
    curves = drawable(figure)
    x_axis, y_axis = axes(figure, curves)
    _scale(ax, "x", x_axis)
    _scale(ax, "y", y_axis)
    ax.grid(True, color=palette.grid, linewidth=0.8)
    ax.set_axisbelow(True)
    handles: list[Artist] = []
    points = []
    of_colour: dict[int, int] = {}
    single = sum(curve.role == "measured" for curve in curves) == 1
    for index, curve in enumerate(curves):
        number = colour_number(curve, index)
        colour = palette.series[number]
        turn = 0
        if curve.role == "measured":
            turn = of_colour.get(number, 0)
            of_colour[number] = turn + 1
        look = _look(curve, number + turn, turn)
        seen = (y_axis.low <= curve.y) & (curve.y <= y_axis.high)
        if curve.role not in ("points", "mark"):
            look["markevery"] = _marked(curve.x, curve.y, x_axis, index, not single and curve.role == "measured")
        # Marks are not clipped at the edge of the axes, so points beyond it are removed here.
        y = np.where(seen, curve.y, np.nan) if curve.role in ("points", "mark") else curve.y
        if curve.role == "mark":
            look["markerfacecolor"] = palette.paper
        (line,) = ax.plot(curve.x, y, color=colour, zorder=3 if curve.role in FAINT else 4, **look)
        line.set_gid(f"curve-{index}")
        points.append(int(seen.sum()))
        if curve.low is not None and curve.high is not None:
            low, high = (np.clip(edge, y_axis.low, y_axis.high) for edge in (curve.low, curve.high))
            known = np.isfinite(curve.y) & np.isfinite(low) & np.isfinite(high)
            band = ax.fill_between(curve.x, low, high, where=known, color=colour, alpha=0.17, linewidth=0, zorder=2)
            band.set_gid(f"band-{index}")
        if curve.label:
            line.set_label(_wrapped(curve.label, 50) + ("" if seen.any() else " (nothing to draw)"))
            handles.append(line)
    if not any(points):
        ax.text(0.5, 0.5, "nothing to draw", transform=ax.transAxes, ha="center", color=palette.quiet)
    if handles:
        part.legend(
            handles=handles,
            loc="outside lower left",
            ncols=_legend_columns(curves),
            labelcolor=palette.ink,
            handlelength=2.6,
            columnspacing=1.4,
            borderpad=0.1,
        )
    return points


def colour_number(curve: Curve, place: int) -> int:
    """The number of a curve's colour among those of a palette.

    Args:
        curve: the curve.
        place: its place in the chart.
    """
    return (place if curve.style is None else curve.style) % len(SERIES)


def _look(curve: Curve, marker: int, turn: int) -> dict[str, Any]:
    """A line's style without its colour."""
    if curve.role == "thin":
        return {"linestyle": "solid", "linewidth": 0.8}
    if curve.role == "bound":
        return {"linestyle": "dashed", "linewidth": 1.3}
    if curve.role == "reference":
        return {"linestyle": "dotted", "linewidth": 1.6}
    mark = MARKERS[marker % len(MARKERS)]
    if curve.role == "points":
        return {"linestyle": "none", "marker": mark, "markersize": 4, "markeredgewidth": 0, "clip_on": False}
    if curve.role == "mark":
        return {"linestyle": "none", "marker": "o", "markersize": 8, "markeredgewidth": 2, "clip_on": False}
    if curve.role == "steps":
        return {"drawstyle": "steps-post", "linestyle": DASHES[turn % len(DASHES)]}
    return {"linestyle": DASHES[turn % len(DASHES)], "marker": mark, "markeredgewidth": 0}


def _marked(x: Array, y: Array, axis: Axis, index: int, spread: bool) -> list[int]:
    """The points of a line that get a mark: those without a neighbour, and others at even distances.

    The marks of curves that coincide are offset against each other.
    """
    known = np.isfinite(y)
    beside = np.concatenate([[False], known, [False]])
    chosen = set(np.flatnonzero(known & ~beside[:-2] & ~beside[2:]).tolist())
    if spread and known.any():
        positions = axis.position(x[known])
        targets = (np.arange(7) + (0.2 + 0.23 * index) % 1) / 7
        nearest = np.abs(positions[:, None] - targets).argmin(0)
        chosen |= set(np.flatnonzero(known)[nearest].tolist())
    return sorted(chosen)


def _scale(ax: Axes, which: Literal["x", "y"], axis: Axis) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter

    side = ax.xaxis if which == "x" else ax.yaxis
    if axis.log:
        (ax.set_xscale if which == "x" else ax.set_yscale)("log")
        side.set_major_locator(FixedLocator(ticks(axis, 8)))
        side.set_minor_locator(FixedLocator(minor_ticks(axis)))
        side.set_minor_formatter(NullFormatter())
        side.set_major_formatter(FuncFormatter(lambda value, _: logarithmic(value)))
    else:
        side.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    (ax.set_xlim if which == "x" else ax.set_ylim)(axis.low, axis.high)


def _draw_image(figure: Image, part: Figure | SubFigure, ax: Axes, palette: Palette) -> None:
    from matplotlib.colors import LogNorm, Normalize

    axis = image_axis(figure)
    norm: Callable[..., Normalize] = LogNorm if figure.log else Normalize
    drawn = ax.imshow(
        np.ma.masked_invalid(coloured_values(figure, figure.values)),
        cmap="RdBu_r" if figure.signed else "viridis",
        norm=norm(axis.low, axis.high),
        aspect="auto",
        interpolation="none",
    )
    drawn.set_gid("pixels")
    _words(ax, "x", figure.x_ticks, WIDTH - 130)
    _words(ax, "y", figure.y_ticks, _height(figure) - 70)
    bar = part.colorbar(drawn, ax=ax, pad=0.02, fraction=0.05, aspect=26)
    assert bar.solids is not None
    bar.solids.set_rasterized(True)
    bar.outline.set_visible(False)
    bar.set_label(_wrapped(figure.value_label, 34), color=palette.ink)
    _scale(bar.ax, "y", axis)
    if figure.signed:
        bar.set_ticks([axis.low, 0.0, axis.high], labels=[number(axis.low), "0", number(axis.high)])
    bar.ax.tick_params(colors=palette.quiet, which="both", length=3)


def _draw_panels(figure: Picture, part: SubFigure) -> None:
    """Panels in a grid, with frames and labels."""
    from matplotlib.patches import Rectangle

    rows, columns = _rows_and_columns(figure)
    places = part.subplots(rows, columns, squeeze=False).ravel()
    for ax in places:
        ax.set_axis_off()
    for ax, panel in zip(places, figure.panels, strict=False):
        ax.imshow(sheets.rgb(panel.pixels), interpolation="none")
        ax.set_title(_wrapped(panel.label, 20) if panel.label else "", fontsize=TEXT - 2, color=PRINT.ink)
        for frame in panel.frames:
            colour = tuple(part / 255 for part in sheets.colour(frame))
            corner = frame.left - 0.5, frame.top - 0.5  # the middle of the first pixel is 0
            ax.add_patch(Rectangle(corner, frame.width, frame.height, fill=False, edgecolor=colour, linewidth=1.5))


def _rows_and_columns(figure: Picture) -> tuple[int, int]:
    columns = min(figure.columns or 6, len(figure.panels))
    return -(-len(figure.panels) // columns), columns


def _words(ax: Axes, which: Literal["x", "y"], words: Sequence[str], room: float) -> None:
    """One word per row or column, as many as fit."""
    from matplotlib.ticker import MaxNLocator

    side = ax.xaxis if which == "x" else ax.yaxis
    if not words:
        side.set_major_locator(MaxNLocator(8, integer=True))
        return
    shown = [visible(word)[:16] for word in words]
    longest = max(map(len, shown))
    across = which == "x" and longest > 3
    size = TEXT - 1 if len(words) * (TEXT + 1) <= room else TEXT - 2
    least = size + 2 if which == "y" or across else max(size * 0.75 * longest, size)
    every = int(np.ceil(len(words) * least / room))
    side.set_ticks(range(0, len(words), every), shown[::every], rotation=90 if across else 0, fontsize=size)


def _inline(document: str, figure: Chart | Image, identifier: str, points: Sequence[int]) -> str:
    """Matplotlib's SVG document as an element for a page, with unique ids and the page's colours."""
    body = document[document.index("<svg") :]
    body = re.sub(r"<style.*?</style>", "", body, flags=re.DOTALL)  # which would apply to the whole page
    for sentinel, variable in SENTINELS.items():
        body = body.replace(sentinel, variable)
    body = re.sub(r'\bid="([^"]+)"', rf'id="{identifier}-\1"', body)
    body = re.sub(r'(href="#|url\(#)', rf"\g<1>{identifier}-", body)
    body = re.sub(r"font: ([^;\"]*?)(\d+(?:\.\d+)?px) [^;\"]*", r"font: \1\2 system-ui, sans-serif", body)
    for index, count in enumerate(points):
        name, role = f"{identifier}-curve-{index}", figure.curves[index].role if isinstance(figure, Chart) else ""
        body = body.replace(f'id="{name}"', f'id="{name}" class="curve" data-role="{role}" data-points="{count}"')
    for part in ("plot", "pixels"):
        body = body.replace(f'id="{identifier}-{part}"', f'id="{identifier}-{part}" class="{part}"')
    box = re.search(r'viewBox="[^"]*"', body)
    assert box is not None
    title = html.escape(visible(figure.title))
    head = f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" {box.group()} role="img" aria-label="{title}" '
    head += 'stroke-linejoin="round">'
    return head + body[body.index(">") + 1 :].strip()
