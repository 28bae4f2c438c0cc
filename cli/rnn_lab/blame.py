"""Whose mistake an exception is: that of a cell, report or task which somebody else wrote, or the toolkit's own."""

from __future__ import annotations

import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from rnn_plugins import registry
from rnn_plugins.errors import UserError, said

TOOLKIT = ("minigrad", "rnn_cells", "rnn_plugins", "rnn_lab", "rnn_cli")
"""The packages whose lines are never to blame for what code beyond them did."""


@contextmanager
def blaming() -> Iterator[None]:
    """Within this block an exception that goes back to code of others is a ``UserError``, which says so."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if whose := mistake_of_others(error):
            raise UserError(whose) from error
        raise


def mistake_of_others(error: Exception) -> str | None:
    """A sentence on the line, or the cell, of somebody else's to which an exception goes back; None where none does.

    The innermost frame is named that is neither the toolkit's nor a library's. An exception that was raised after such
    code had returned has no frame of it: then the cells that were made in this process are held against what every
    cell promises.

    Args:
        error: as it was caught, at or above the call into that code.
    """
    plugins = {entry.value.partition(".")[0].partition(":")[0] for entry in registry.entries_of_others()}
    frames = [pair for pair in traceback.walk_tb(error.__traceback__) if _is_of_others(pair[0], plugins)]
    if frames:
        frame, line = frames[-1]
        cause = error.__cause__  # NumPy has words of its own where a tensor refuses to become a number
        reason = cause if cause is not None and _is_ours(cause) else error
        return f"{frame.f_code.co_filename}, line {line}: {frame.f_code.co_qualname} fails with {said(reason)}"
    from rnn_plugins.testing import broken_promise

    for spec, cell in registry.made_of_others.items():
        if broken := broken_promise(cell):
            return f"the cell {spec!r} does not keep what a cell promises: {broken}"
    return None


def _is_ours(error: BaseException) -> bool:
    """Whether the toolkit raised it."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return bool(frames) and str(frames[-1].f_globals.get("__name__")).partition(".")[0] in TOOLKIT


def _is_of_others(frame: FrameType, plugins: set[str]) -> bool:
    package, file = str(frame.f_globals.get("__name__")).partition(".")[0], frame.f_code.co_filename
    if package in plugins:
        return True
    if package in TOOLKIT or file.startswith("<"):
        return False
    installed = {"site-packages", "dist-packages"} & set(Path(file).parts)
    return not installed and not Path(file).is_relative_to(sysconfig.get_path("stdlib"))
