"""What is redrawn at the bottom of the terminal: bars, and any picture that changes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rnn_cli.console import errors, ignoring_hangups, remark, showing
from rnn_lab.printable import printable
from rnn_plugins import progress

SHORTEST = 10
"""Columns of the shortest bar beside its name."""


class Drawing(Live):
    """A picture that is redrawn, also in a thread of its own; it survives a closed terminal.

    An empty line below it is where the terminal shows ^C: behind a full line it would move the cursor to the next one,
    and the picture would be drawn a line too low from then on.

    Args:
        picture: makes it.
        transient: whether to remove it at the end.
    """

    def __init__(self, picture: Callable[[], RenderableType], *, transient: bool = False) -> None:
        self._picture = picture
        super().__init__(console=errors(), refresh_per_second=4, transient=transient)

    def get_renderable(self) -> RenderableType:
        """The picture, and while it is redrawn the line below."""
        picture = self._picture()
        return Group(picture, Text()) if self.is_started else picture

    def refresh(self) -> None:
        """Draw."""
        with ignoring_hangups():
            super().refresh()


def bar(name: str, done: float | None, left: str, style: str = "") -> RenderableType:
    """A bar between its name and what is left; in a narrow terminal below its name.

    Args:
        name: of what is under way.
        done: its finished share, None if unknown.
        left: such as the time left.
        style: of the name.
    """
    words, width = Text(printable(name), style=style, overflow="fold"), errors().width
    beside = cell_len(words.plain) + cell_len(left) + SHORTEST + 2 <= width
    line = Table.grid(padding=(0, 1), expand=True)
    if beside:
        line.add_column(no_wrap=True)
    line.add_column(ratio=1)
    line.add_column(justify="right", no_wrap=True)
    moving = ProgressBar(1, done or 0.0, pulse=done is None)
    line.add_row(*([words] if beside else []), moving, left)
    return line if beside else Group(words, line)


@contextmanager
def announcing(total: int | None = None) -> Iterator[Callable[[str], None]]:
    """Show which of several parts is under way, and how far it is: a bar on a terminal, elsewhere a line per part.

    Within this block the parts that ``rnn_plugins.progress`` is told of are shown too, unless their number is given.

    Args:
        total: the number of parts; None if it is unknown.

    Yields:
        A function to call with each part's name before it begins.
    """
    part, number, share, began = "", 0, None, time.monotonic()

    def begin(what: str) -> None:
        nonlocal part, number, share
        part, number, share = what, number + 1, None
        if showing() == "plain":
            remark(f"{what} ...")
        elif showing() == "live":
            drawing.start()
            drawing.refresh()

    def told(what: str | None, finished: float | None) -> None:
        nonlocal share
        if what is not None and total is None:
            begin(what)
        elif what is None:
            share = finished

    def picture() -> RenderableType:
        minutes, seconds = divmod(int(time.monotonic() - began), 60)
        taken = f"{minutes}:{seconds:02d}"
        if total is None or total == 1:
            return bar(part, share, taken)
        return bar(part, (number - 1 + (share or 0.0)) / total, f"{number} of {total}  {taken}")

    drawing = Drawing(picture, transient=True)
    with progress.following(told):
        try:
            yield begin
        finally:
            drawing.stop()


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Say on a terminal what is under way, for work that takes a moment or, with large data, long."""
    if showing() != "live":
        yield
        return
    with announcing() as begin:
        begin(what)
        yield
