"""Which Python files a run may execute for its cell or task: those that this user has given, with unchanged content.

One small file per path and content is kept in the user's state folder, or in the folder RNN_LAB_STATE.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

from rnn_plugins.errors import UserError

_now = ContextVar("_now", default=False)


class Untrusted(UserError):
    """A run's file is not executed without the user's consent; the message ends with how to give it."""


@contextmanager
def trusting() -> Iterator[None]:
    """Within this block every file of a run is executed, and trusted from then on."""
    before = _now.set(True)
    try:
        yield
    finally:
        _now.reset(before)


def remember(path: Path, digest: str) -> None:
    """Record that the user has given a file.

    Args:
        path: the file's path, absolute and without links.
        digest: SHA-256 of its content, in hexadecimal.
    """
    record = _record(path, digest)
    if record.is_file():
        return
    # If it cannot be recorded, the user must only consent again at the next run that needs the file.
    with suppress(OSError):
        record.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        record.write_text(f"{digest}  {path}\n", encoding="utf-8", errors="surrogateescape")


def require(run: str, word: str, path: Path, digest: str, trained_with: str) -> None:
    """Check that a run's file may be executed.

    Args:
        run: the run's name.
        word: what the run uses the file for: "cell" or "task".
        path: the file's path, absolute and without links.
        digest: SHA-256 of its content now.
        trained_with: SHA-256 of its content when the run began.

    Raises:
        Untrusted: the file has changed, or the user never gave it.
    """
    if _now.get():
        remember(path, digest)
    elif digest != trained_with:
        raise Untrusted(
            f"the {word} file {path} has changed since the run {run!r} began, and is not executed: put the old one "
            f"back, or use the run's weights with the changed {word} by repeating the command with --trust"
        )
    elif not _record(path, digest).is_file():
        raise Untrusted(
            f"the run {run!r} would execute the {word} file {path}, which you have never given with --{word}: read it, "
            "and if you trust it, repeat the command with --trust"
        )


def _record(path: Path, digest: str) -> Path:
    name = hashlib.sha256(f"{digest}  {path}".encode("utf-8", "surrogateescape")).hexdigest()
    return _folder() / name


def _folder() -> Path:
    if folder := os.environ.get("RNN_LAB_STATE"):
        return Path(folder) / "cells"
    import platformdirs

    return Path(platformdirs.user_state_dir("rnn-lab", appauthor=False)) / "cells"
