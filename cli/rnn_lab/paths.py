"""The paths and names of runs."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from rnn_plugins.data import RUN
from rnn_plugins.errors import UserError

MANIFEST, BEST, LAST, METRICS = RUN, "model.safetensors", "last.safetensors", "metrics.jsonl"
"""A run's files: its description, the best weights, the state to resume from, and the records, one per line."""

EVENTS = "tensorboard"
"""The folder of a run that contains event files for TensorBoard."""

NAME_BYTES = 240
"""The longest name of a new run in bytes; file systems allow 255, and a suffix may be added to a name."""

LOCK = ".lock"
"""The file that the process that trains a run locks; it is empty."""


def runs_folder() -> Path:
    """The folder of all runs: the environment variable RNN_RUNS, or ``runs`` in the working directory."""
    return Path(os.environ.get("RNN_RUNS") or "runs")


def folder_name(wish: str) -> str:
    """A valid name for a run's folder, made from any text; short enough that a number can be appended."""
    name = re.sub(r"[^\w.-]+", "-", wish).strip("-.") or "run"
    return name.encode()[: NAME_BYTES - len("-999999")].decode(errors="ignore")


def require_name(name: str, what: str) -> None:
    """Check that a run may have a name.

    Args:
        name: the name.
        what: what it is called in messages.

    Raises:
        UserError: it may not.
    """
    if not re.fullmatch(r"\w[\w .+-]*", name):
        raise UserError(
            f"{what} is {name!r}; it must begin with a letter or digit and contain only letters, digits, spaces and "
            "the characters . _ + -"
        )
    if (size := len(name.encode())) > NAME_BYTES:
        raise UserError(f"{what} is {size} bytes long; it must have at most {NAME_BYTES}: choose a shorter one")


def run_folders() -> list[Path]:
    """The folders that contain a run or the rest of one, most recently written first; none that is hidden."""
    try:
        folders = [path for path in runs_folder().iterdir() if not path.name.startswith(".")]
    except OSError:  # there is no folder, or it is not readable
        return []
    written = {path: max(_written(path / name) for name in (MANIFEST, BEST, LAST)) for path in folders}
    return sorted(filter(written.get, folders), key=lambda path: (written[path], path.name), reverse=True)


def run_folder(name: str) -> Path | None:
    """The folder of the run with this name or path; None if there is none."""
    # os.path.isfile, because Path.is_file raises an error if a name is too long.
    return next((path for path in (runs_folder() / name, Path(name)) if os.path.isfile(path / MANIFEST)), None)


def _written(file: Path) -> int:
    """When a file was written, in nanoseconds; 0 if it does not exist."""
    with suppress(OSError):
        return file.stat().st_mtime_ns
    return 0
