"""Whether an exception is the mistake of a plugin (a cell, report or task) or of the toolkit itself."""

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
"""The toolkit's own packages."""


@contextmanager
def blaming() -> Iterator[None]:
    """Within this block an exception caused by a plugin's code becomes a ``UserError`` that says so."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if whose := plugin_mistake(error):
            raise UserError(whose) from error
        raise


def plugin_mistake(error: Exception) -> str | None:
    """A sentence that names the plugin's line or cell that caused an exception; None if no plugin did.

    The line is that of the innermost frame that belongs neither to the toolkit nor to a library. If the exception was
    raised after the plugin's code had returned, there is no such frame, and the cells made in this process are checked
    against the requirements of a cell.

    Args:
        error: as caught, at or above the call into the plugin.
    """
    plugins = {entry.value.partition(".")[0].partition(":")[0] for entry in registry.plugin_entries()}
    frames = [pair for pair in traceback.walk_tb(error.__traceback__) if _is_of_plugin(pair[0], plugins)]
    if frames:
        frame, line = frames[-1]
        cause = error.__cause__  # NumPy raises its own error if a tensor refuses to become a number
        reason = cause if cause is not None and _is_ours(cause) else error
        return f"{frame.f_code.co_filename}, line {line}: {frame.f_code.co_qualname} fails with {said(reason)}"
    from rnn_plugins.testing import broken_promise

    for spec, cell in registry.plugin_cells.items():
        if broken := broken_promise(cell):
            return f"the cell {spec!r} does not keep what a cell promises: {broken}"
    return None


def _is_ours(error: BaseException) -> bool:
    """Whether the toolkit raised it."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return bool(frames) and str(frames[-1].f_globals.get("__name__")).partition(".")[0] in TOOLKIT


def _is_of_plugin(frame: FrameType, plugins: set[str]) -> bool:
    package, file = str(frame.f_globals.get("__name__")).partition(".")[0], frame.f_code.co_filename
    if package in plugins:
        return True
    if package in TOOLKIT or file.startswith("<"):
        return False
    installed = {"site-packages", "dist-packages"} & set(Path(file).parts)
    return not installed and not Path(file).is_relative_to(sysconfig.get_path("stdlib"))
