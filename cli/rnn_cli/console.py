"""The one terminal that all commands write to: results to standard output, progress and notes to standard error.

Every character can be written, whatever the stream's encoding, and no text can send a control sequence to the terminal.
"""

from __future__ import annotations

import codecs
import io
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import IO, TYPE_CHECKING, Any, Literal, TextIO, get_args

import click

from rnn_lab.printable import CONTROLS, NEWLINE, OTHER, TAB, printable

if TYPE_CHECKING:
    from rich.console import Console

PLAINER = {NEWLINE: "$", TAB: ">", OTHER: "."}
"""The same for encodings without those characters."""

QUIET = "rnn_cli.quiet"
"""Key in a Click context's meta: the command prints no notes."""

Showing = Literal["live", "plain", "none"]

SHOWING = "rnn_cli.showing"
"""Key in a Click context's meta: how the command was told to show its progress."""


def prepare() -> None:
    r"""Make standard output and standard error accept any text.

    A closed stream becomes the null device; characters that an encoding lacks are written as in JSON, ``\u041e``.
    """
    for number in range(3):  # otherwise the next file opened would become a standard stream
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


def errors() -> Console:
    """Rich on standard error, for progress and notes: one console for both, so that notes appear above the progress."""
    return _errors_on(sys.stderr, showing() == "live")


@lru_cache(maxsize=1)
def _errors_on(stream: TextIO, live: bool) -> Console:
    """One console per stream, because Rich inspects a stream's abilities once."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, force_terminal=live or None)


def results() -> Console:
    """Rich on standard output, for tables."""
    from rich.console import Console

    return Console(highlight=False, width=columns(sys.stdout))


def is_stuck() -> bool:
    """Whether standard output would block until its reader continues."""
    import select

    try:
        return not select.select([], [sys.stdout.fileno()], [], 0)[1]
    except (OSError, ValueError):  # it is not a file, or Windows, which cannot tell
        return False


@contextmanager
def unless_stuck() -> Iterator[None]:
    """Within this block standard output never blocks: what its reader does not accept is dropped, then and later."""
    try:
        number = sys.stdout.fileno()
        os.set_blocking(number, False)
    except (OSError, AttributeError):  # it is not a file, or Windows, which cannot
        yield
        return
    try:
        yield
    except BlockingIOError:
        mute(sys.stdout)
    finally:
        os.set_blocking(number, True)


def columns(stream: IO[str]) -> int:
    """The width of a line: COLUMNS if set, else the width of the terminal; at most 80 without a terminal."""
    given = os.environ.get("COLUMNS", "")
    wide = int(given) if given.isascii() and given.isdigit() else 0
    if not stream.isatty():
        return max(min(wide or 80, 80), 20)
    with suppress(OSError):
        wide = wide or os.get_terminal_size(stream.fileno()).columns
    return max(wide or 80, 20)


def remark(text: str) -> None:
    """Print a note to standard error; on a terminal it is wrapped between words, but not within a command to paste.

    A note that cannot be written is dropped and raises nothing.
    """
    if notes_suppressed():
        return
    text = printable(text)
    with ignoring_hangups():
        if sys.stderr.isatty() or showing() == "live":
            print(wrapped(text), file=sys.stderr)  # while Rich redraws, it intercepts print, but not click.echo
        else:
            click.echo(text, err=True)


def wrapped(text: str, after: str = "") -> str:
    """A note or an error, wrapped to the terminal between words, but not within a command to paste.

    Args:
        text: the note or error.
        after: what is written before it in its first line.
    """
    import textwrap

    text = re.sub(r"(?<=: )rnn ((?!\. )[^;])+", lambda command: command[0].replace(" ", "\0"), text)
    width = columns(sys.stderr) - 1
    lines = textwrap.fill(text, width, initial_indent=after, break_long_words=False, break_on_hyphens=False)
    return lines.removeprefix(after).replace("\0", " ")


@contextmanager
def ignoring_hangups() -> Iterator[None]:
    """Ignore failed writes to standard error within this block, as after a hang-up, and mute the stream afterwards."""
    try:
        yield
    except OSError:
        mute(sys.stderr)


def mute(stream: IO[str]) -> None:
    """Discard the buffer of a stream that failed or is blocked, and everything that is written to it from now on."""
    with suppress(OSError, ValueError):  # a stream without a file descriptor has no buffer that is flushed at exit
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def suppress_notes() -> None:
    """Suppress the current command's notes; errors are still printed."""
    click.get_current_context().meta[QUIET] = True


def notes_suppressed() -> bool:
    """Whether the current command's notes are suppressed."""
    context = click.get_current_context(silent=True)
    return context is not None and QUIET in context.meta


def say(text: str) -> None:
    """Print a line to standard output."""
    click.echo(printable(text))


def as_json(value: Any, indent: int | None = None, default: Callable[[Any], Any] | None = None) -> str:
    """JSON for standard output: ASCII unless the stream is UTF-8, without characters that control a terminal."""
    import json

    plain = not (sys.stdout.encoding or "").lower().startswith("utf")
    text = json.dumps(value, ensure_ascii=plain, indent=indent, default=default)
    return re.sub(CONTROLS, lambda found: "\n" if found[0] == "\n" else _escaped(found[0]), text)


def showing() -> Showing:
    """How the current command shows its progress: as it was told, or live wherever that can be drawn."""
    if notes_suppressed():
        return "none"
    context = click.get_current_context(silent=True)
    told: Showing | None = context.meta.get(SHOWING) if context else None
    return told or ("live" if sys.stderr.isatty() and _can_redraw() and not _in_notebook() else "plain")


def show_progress(how: Showing) -> None:
    """Tell the current command how to show its progress; ``live`` also draws into a pipe, whoever reads it.

    Raises:
        UserError: there is no such way, or the terminal cannot be redrawn.
    """
    from rnn_plugins.errors import UserError

    if how not in get_args(Showing):
        raise UserError(f"--progress is {how!r}; it must be one of {', '.join(get_args(Showing))}")
    if how == "live" and not _can_redraw():
        raise UserError(
            f"--progress live needs a terminal that can move its cursor, and TERM is {os.environ['TERM']!r}: use "
            "--progress plain, or set TERM to the terminal's name"
        )
    click.get_current_context().meta[SHOWING] = how


def _can_redraw() -> bool:
    """Whether the terminal can move its cursor."""
    return os.environ.get("TERM", "").lower() not in ("dumb", "unknown")


def _in_notebook() -> bool:
    """Whether the command was started by a Jupyter kernel, whose cells do not move the cursor of their terminal."""
    return "JPY_PARENT_PID" in os.environ
