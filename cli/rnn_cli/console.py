"""The one terminal that all commands write to: results on standard output, progress and remarks on standard error.

Whatever a stream's encoding is, it takes every character; and no text from outside can command a terminal.
"""

from __future__ import annotations

import codecs
import io
import itertools
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import IO, TYPE_CHECKING, Any, TextIO

import click

if TYPE_CHECKING:
    from rich.console import Console

NEWLINE, TAB, OTHER = "↵", "⇥", "·"
"""What stands for a line feed, a tab and every other character that is not written as itself."""

PLAINER = {NEWLINE: "$", TAB: ">", OTHER: "."}
"""What stands for them in an encoding that lacks them."""

QUIET = "rnn_cli.quiet"
"""The key in a context's meta that says that a command makes no remarks."""

_COMMANDS = r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
"""What a terminal obeys or reorders a line by: C0, DEL, C1, separators, bidirectional overrides and isolates; and half
characters."""


def prepare() -> None:
    r"""Make standard output and error take whatever is written.

    A closed one leads nowhere, and what the encoding of an open one lacks is written as ``\u041e``, as JSON has it.
    """
    for number in range(3):  # else the next file to be opened would be taken for a standard stream
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, os.fdopen(number, "w", encoding="utf-8", closefd=False))
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="rnn-escape")


def _escape(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(PLAINER.get(character) or _escaped(character) for character in lacking), error.end


codecs.register_error("rnn-escape", _escape)


def _escaped(character: str) -> str:
    """A character as JSON escapes it."""
    units = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4))


def printable(text: str, keep: str = "") -> str:
    """Text that a terminal shows and does not obey.

    Args:
        text: from anywhere.
        keep: characters that stay as they are, such as a line feed where there may be several lines.

    Returns:
        The text, in which a mark stands for each character that could move the cursor, reach the terminal as a command
        or turn the direction of writing.
    """
    marks = {"\n": NEWLINE, "\t": TAB}
    return re.sub(_COMMANDS, lambda found: found[0] if found[0] in keep else marks.get(found[0], OTHER), text)


def errors() -> Console:
    """Rich on standard error, for progress and remarks: one for both, so that remarks stand above the progress."""
    return _errors_on(sys.stderr)


@lru_cache(maxsize=1)
def _errors_on(stream: TextIO) -> Console:
    """Rich finds out once what a stream can show, and another stream may show more."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def results() -> Console:
    """Rich on standard output, for tables."""
    from rich.console import Console

    return Console(highlight=False, width=columns(sys.stdout))


def is_stuck() -> bool:
    """Whether standard output takes nothing more until somebody reads on."""
    import select

    try:
        return not select.select([], [sys.stdout.fileno()], [], 0)[1]
    except (OSError, ValueError):  # it is no file, or Windows, which cannot say
        return False


@contextmanager
def unless_stuck() -> Iterator[None]:
    """Within this block standard output waits for no reader: what it does not take now is dropped, also afterwards."""
    try:
        number = sys.stdout.fileno()
        os.set_blocking(number, False)
    except (OSError, AttributeError):  # it is no file, or Windows, which cannot
        yield
        return
    try:
        yield
    except BlockingIOError:
        mute(sys.stdout)
    finally:
        os.set_blocking(number, True)


def columns(stream: IO[str]) -> int:
    """How wide lines may be: as COLUMNS says, or as wide as the terminal is; 80 at most where there is no terminal."""
    given = os.environ.get("COLUMNS", "")
    wide = int(given) if given.isascii() and given.isdigit() else 0
    if not stream.isatty():
        return max(min(wide or 80, 80), 20)
    with suppress(OSError):
        wide = wide or os.get_terminal_size(stream.fileno()).columns
    return max(wide or 80, 20)


def remark(text: str) -> None:
    """A line for the person, on standard error; on a terminal as many as it takes, broken between words.

    Where standard error takes nothing more, that is no reason to stop what is remarked upon.
    """
    import textwrap

    if is_hushed():
        return
    text = printable(text)
    with unheard():
        if sys.stderr.isatty():
            width = columns(sys.stderr) - 1
            text = textwrap.fill(text, width, break_long_words=False, break_on_hyphens=False)
            print(text, file=sys.stderr)  # where Rich draws it puts itself in between, and Click would write past it
        else:
            click.echo(text, err=True)


@contextmanager
def unheard() -> Iterator[None]:
    """Lose what cannot be written to standard error in here, as when the terminal was hung up, and all that follows."""
    try:
        yield
    except OSError:
        mute(sys.stderr)


def mute(stream: IO[str]) -> None:
    """Let what is still written to a stream that failed or is stuck go nowhere, and what is in its buffer."""
    with suppress(OSError, ValueError):  # one that is no file of the system's has no buffer that is flushed at the end
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def hush() -> None:
    """Let the command under way make no remarks; its errors are told as ever."""
    click.get_current_context().meta[QUIET] = True


def is_hushed() -> bool:
    """Whether the command under way makes no remarks."""
    context = click.get_current_context(silent=True)
    return context is not None and QUIET in context.meta


@contextmanager
def telling(total: int) -> Iterator[Callable[[str], None]]:
    """Tell what is being done, one thing after the other.

    On a terminal that is a line that shows how long it takes, and is gone in the end; elsewhere a line for each.

    Args:
        total: how many things there are to do.

    Yields:
        What is called with the name of each before it is begun.
    """
    if not is_live() or is_hushed():
        yield lambda what: remark(f"{what} ...")
        return
    from rich.progress import Progress, TextColumn, TimeElapsedColumn

    numbers = itertools.count(1)
    with Progress(
        TextColumn("{task.description} ...", markup=False),
        TimeElapsedColumn(),
        console=errors(),
        transient=True,
        refresh_per_second=2,
    ) as progress:

        def tell(what: str) -> None:
            for task in progress.task_ids:
                progress.remove_task(task)
            progress.add_task(printable(f"{what} ({next(numbers)} of {total})"))
            progress.refresh()

        yield tell


def say(text: str) -> None:
    """A line on standard output."""
    click.echo(printable(text))


def as_json(value: Any, indent: int | None = None, default: Callable[[Any], Any] | None = None) -> str:
    """JSON for standard output: in ASCII where that is not UTF-8, and without what a terminal obeys."""
    import json

    plain = not (sys.stdout.encoding or "").lower().startswith("utf")
    text = json.dumps(value, ensure_ascii=plain, indent=indent, default=default)
    return re.sub(_COMMANDS, lambda found: "\n" if found[0] == "\n" else _escaped(found[0]), text)


def is_live() -> bool:
    """Whether somebody is watching a terminal that can redraw."""
    return sys.stderr.isatty() and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")
