"""Where runs lie and what they are called. It opens none of them and imports nothing large."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from rnn_plugins.data import RUN

MANIFEST, BEST, LAST, METRICS = RUN, "model.safetensors", "last.safetensors", "metrics.jsonl"
"""A run's files: what it is, the best weights, all that it takes to go on, a record a line."""

EVENTS = "tensorboard"
"""The folder of a run in which event files for TensorBoard lie."""

NAME_BYTES = 240
"""How long the name of a new run may be; file systems take 255 bytes, and something may be added to a name."""

LOCK = ".lock"
"""The file that the process that trains a run holds locked; it says nothing itself."""


def runs_folder() -> Path:
    """Where runs are kept: the environment variable RNN_RUNS, or ``runs`` in the working directory."""
    return Path(os.environ.get("RNN_RUNS") or "runs")


def folder_name(wish: str) -> str:
    """A name for a run's folder, made of a text from anywhere; it has room for a number behind it."""
    name = re.sub(r"[^\w.-]+", "-", wish).strip("-.") or "run"
    return name.encode()[: NAME_BYTES - len("-999999")].decode(errors="ignore")


def run_folders() -> list[Path]:
    """The folders that hold a run, or what is left of one; the one written last comes first."""
    try:
        folders = list(runs_folder().iterdir())
    except OSError:  # there is none, or it is closed to us: either way there is nothing to show
        return []
    written = {path: max(_written(path / name) for name in (MANIFEST, BEST, LAST)) for path in folders}
    return sorted(filter(written.get, folders), key=lambda path: (written[path], path.name), reverse=True)


def run_folder(name: str) -> Path | None:
    """The folder of the run that is meant by a name or a path; None where there is none."""
    # Of os.path, since a path's own is_file raises an error where a name is too long.
    return next((path for path in (runs_folder() / name, Path(name)) if os.path.isfile(path / MANIFEST)), None)


def _written(file: Path) -> int:
    """When a file was written, in nanoseconds; 0 where there is none."""
    with suppress(OSError):
        return file.stat().st_mtime_ns
    return 0
