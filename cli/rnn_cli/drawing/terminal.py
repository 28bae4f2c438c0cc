"""Print pages of reports: tables, charts in characters, and sentences."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from rich.cells import cell_len

from rnn_cli.console import results
from rnn_cli.drawing import blocks, characters
from rnn_cli.drawing.bars import bar
from rnn_cli.drawing.characters import Screen, filled
from rnn_lab.drawing.words import bars_of, rows_of, shown
from rnn_plugins.reports.report import Chart, Figure, Image, Page, Picture, Quantity, Table

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

NARROWEST = 40
"""Minimum width of a page; a narrower terminal wraps its lines."""

BAR = 40
"""Maximum width of a bar."""

GLUE = "\1"
"""Stands for a blank at which a line is not broken."""

LABEL_COLUMNS, SUBJECT_COLUMNS = 30, 14
"""Maximum width of the names of quantities and of subjects if they do not fit; longer names are broken."""


def draw(pages: Sequence[Page]) -> None:
    """Print pages to standard output.

    If it is not a terminal, they are at most 80 columns wide, or COLUMNS if that is less, and contain no control
    sequences; nor do they if the environment variable NO_COLOR is set.
    """
    console, screen = _screen()
    for index, page in enumerate(pages):
        if index:
            _print(console, screen)
        _page(page, console, screen)


def draw_figures(figures: Sequence[Figure]) -> None:
    """Print figures as ``draw`` does those of a page, each after an empty line."""
    console, screen = _screen()
    _figures(figures, console, screen)


def _screen() -> tuple[Console, Screen]:
    """Standard output, and its width and abilities."""
    console = results()
    console.width = max(console.width, NARROWEST)
    coloured = console.is_terminal and console.color_system is not None and not console.no_color
    width = console.width if console.is_terminal else min(console.width, 80)
    few = console.color_system not in ("256", "truecolor")
    return console, Screen(width, console.encoding, coloured, few)


def _page(page: Page, console: Console, screen: Screen) -> None:
    _say(console, screen, page.title, style="bold")
    _say(console, screen, page.question, style="italic")
    several = len(page.subjects) > 1
    for table in _quantities(page, screen):
        _print(console, screen)
        _print(console, screen, table)
    _figures(page.figures, console, screen)
    if any(page.verdict.values()) or page.notices or page.failed:
        _print(console, screen)
    for label, sentences in page.verdict.items():
        if sentences:
            _say(console, screen, " ".join(sentences), label if several else "")
    if page.averaged:
        _say(console, screen, page.averaged)
    for notice in page.notices:
        _say(console, screen, notice, "Note")
    for label, why in page.failed.items():
        _say(console, screen, why, label)


def _figures(figures: Sequence[Figure], console: Console, screen: Screen) -> None:
    for figure in figures:
        _print(console, screen)
        if figure.title:
            _say(console, screen, figure.title, style="bold")
        if isinstance(figure, Table):
            _print(console, screen, _table(figure, screen))
            continue
        if isinstance(figure, Chart):
            lines = characters.chart(figure, screen)
        elif isinstance(figure, Image):
            lines = characters.image(figure, screen)
        elif isinstance(figure, Picture):
            lines = blocks.picture(figure, screen)
        else:
            lines = characters.colouring(figure, screen)
        for line in lines:
            if not screen.coloured:  # a coloured blank can be a mark
                line.rstrip()
            _print(console, screen, line)


def _print(console: Console, screen: Screen, what: object = "") -> None:
    console.print(
        what,
        width=screen.width,
        markup=False,
        emoji=False,
        highlight=False,
        no_wrap=True,
        overflow="ignore",
        crop=False,
    )


def _say(console: Console, screen: Screen, words: str, label: str = "", style: str = "") -> None:
    """A paragraph, after its label if it has one."""
    from rich.text import Text

    head = screen.styled(f"{label}: ", "bold") if label else Text()
    words = head.plain + screen.text(words)
    indent = "  " if label else ""
    text = Text("\n".join(filled(words, screen.width, indent)))
    if screen.coloured:
        text.stylize(style or "none")
        text.stylize("bold", 0, len(head.plain))
    _print(console, screen, text)


def _quantities(page: Page, screen: Screen) -> list[RichTable]:
    """Quantities as rows and subjects as columns; several tables if the subjects do not fit into one."""
    rows: dict[str, str] = {}
    cells: dict[tuple[str, str], Quantity] = {}
    for subject, quantities in page.quantities.items():
        for quantity in quantities:
            rows.setdefault(quantity.key, screen.text(quantity.label))
            cells[quantity.key, subject] = quantity
    if not rows:
        return []
    columns = {
        subject: [screen.text(shown(cells[key, subject])) if (key, subject) in cells else "-" for key in rows]
        for subject in page.quantities
    }
    several = len(page.subjects) > 1

    def taken(most: int) -> dict[str, int]:
        heads = {subject: min(len(subject), most) if several else 0 for subject in columns}
        return {subject: max(heads[subject], *map(len, values)) + 2 for subject, values in columns.items()}

    widths = taken(screen.width)
    if sum(widths.values()) + min(max(map(len, rows.values())), LABEL_COLUMNS) > screen.width:
        widths = taken(SUBJECT_COLUMNS)
    first = min(max(map(len, rows.values())), max(LABEL_COLUMNS, screen.width - sum(widths.values())))
    groups: list[list[str]] = []
    room = 0
    for subject, width in widths.items():
        if not groups or room < width:
            groups.append([])
            room = screen.width - first
        groups[-1].append(subject)
        room -= width
    return [
        _quantity_table(
            rows,
            {subject: columns[subject] for subject in group},
            {subject: _broken(screen.text(subject), widths[subject] - 2) if several else [] for subject in group},
            first,
            screen,
        )
        for group in groups
    ]


def _broken(name: str, width: int) -> list[str]:
    """A name in lines of at most ``width``, broken after a :, a comma, a _ or a - if possible."""
    lines = [""]
    for part in re.split(r"(?<=[:,_-])", name):
        if len(lines[-1]) + len(part) > width:
            lines.append("")
        lines[-1] += part
    return [line for line in lines if line]


def _quantity_table(
    rows: dict[str, str], columns: dict[str, list[str]], heads: dict[str, list[str]], first: int, screen: Screen
) -> RichTable:
    from rich.text import Text

    table = _empty_table(screen, heads=any(heads.values()))
    table.add_column("", max_width=first, overflow="fold")
    for subject in columns:
        head = Text("\n").join(screen.styled(line, "bold") for line in heads[subject])
        table.add_column(head, justify="right", overflow="fold")
    for index, label in enumerate(rows.values()):
        table.add_row(screen.styled(label, ""), *(screen.styled(values[index], "") for values in columns.values()))
    return table


def _table(figure: Table, screen: Screen) -> RichTable | Text:
    """Columns, whose words are whole; where these have no room side by side, a paragraph per row."""
    from rich.text import Text

    heads = [screen.text(head) for head in figure.heads]
    rows = [[screen.text(cell) for cell in row] for row in rows_of(figure)]
    widths = _widths([heads, *rows], screen.width)
    if not widths:
        return Text("\n").join(_paragraph(heads, row, screen) for row in rows)
    table = _empty_table(screen, heads=any(heads))
    for index, (head, width) in enumerate(zip(heads, widths, strict=True)):
        is_words = any(isinstance(row[index], str) for row in figure.rows)
        justify: Literal["left", "right"] = "left" if is_words else "right"
        table.add_column(screen.styled(head, "bold"), justify=justify, overflow="fold", width=width)
    room = screen.width - sum(2 + width for width in widths)
    if (bars := bars_of(figure)) and room > 0:
        table.add_column("", overflow="fold")
        for written, share in zip(rows, bars, strict=True):
            written.append(bar(share, min(room, BAR), screen.encoding))
    for written in rows:
        narrowed = (_narrowed(cell, width) for cell, width in zip(written, widths, strict=False))
        table.add_row(*map(Text, narrowed), *map(Text, written[len(widths) :]))
    return table


def _longest(cell: str) -> int:
    """The width of the longest word of a cell."""
    return max((cell_len(word.replace(GLUE, " ")) for word in _glued(cell).split()), default=0)


def _glued(cell: str) -> str:
    """A cell in which each part is one word: what stands between several blanks, or a number and its per cent sign."""
    return re.sub(r"(?<! ) (?! )" if "  " in cell else r"(?<=\d) (?=%)", GLUE, cell)


def _narrowed(cell: str, width: int) -> str:
    """A cell in lines of at most ``width``, if it is wider."""
    if cell_len(cell) <= width:
        return cell
    return "\n".join(filled(_glued(cell), width + 1)).replace(GLUE, " ")


def _widths(rows: Sequence[Sequence[str]], room: int) -> list[int]:
    """The widths of columns, the widest narrowed until all fit; none if a word would have to be broken for that."""
    columns = list(zip(*rows, strict=True))
    least = [max(map(_longest, column)) for column in columns]
    widths = [max(map(cell_len, column)) for column in columns]
    room -= 2 * (len(columns) - 1)
    while sum(widths) > room:
        wide = [index for index in range(len(widths)) if widths[index] > least[index]]
        if not wide:
            return []
        widths[max(wide, key=widths.__getitem__)] -= 1
    return widths


def _paragraph(heads: Sequence[str], row: Sequence[str], screen: Screen) -> Text:
    """A row: its first cell, and below it the others behind their heads."""
    from rich.text import Text

    joined = [" ".join(filter(None, pair)) for pair in zip(heads[1:], row[1:], strict=True)]
    room = screen.width - 3  # of an indented line
    # What does not fit into a line by itself is broken between its words.
    parts = [part if cell_len(part) > room else part.replace(" ", GLUE) for part in joined]
    lines = filled("  ".join(parts), room + 1)
    first = Text("\n").join(screen.styled(line, "bold") for line in filled(row[0], screen.width))
    return Text("\n").join([first, *(Text(f"  {line.replace(GLUE, ' ')}") for line in lines)])


def _empty_table(screen: Screen, heads: bool) -> RichTable:
    from rich import box
    from rich.table import Table as RichTable

    rule = "─" if screen.encoding.startswith("utf") else "-"
    lines = box.Box(f"    \n    \n {rule}{rule} \n    \n    \n    \n    \n    \n", ascii=rule == "-")
    return RichTable(
        box=lines, show_header=heads, header_style="", show_edge=False, pad_edge=False, padding=(0, 1, 0, 0)
    )
