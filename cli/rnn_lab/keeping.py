"""Remove and rename runs, within the folder of runs and never while they are trained."""

from __future__ import annotations

import json
import os
import secrets
import shlex
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from minigrad import checkpoint
from rnn_lab.paths import MANIFEST, require_name, run_folders, runs_folder
from rnn_lab.runs import Run, find_runs
from rnn_plugins.errors import UserError, did_you_mean
from rnn_plugins.words import listing

LEAVING = ".removed-"
"""The beginning of the name of a folder whose files are being removed."""

REPLACED = "replaced"
"""The beginning of the name of a run that another one is about to replace: it is listed, should that be interrupted."""


def find(name: str) -> Run:
    """The run of a name in the folder of runs, also one that cannot be read.

    Raises:
        UserError: there is none, or the name is that of a folder elsewhere.
    """
    runs = {path.name: path for path in run_folders()}
    if name in runs:
        return Run(runs[name])
    if os.sep in name or name in (os.curdir, os.pardir):
        raise UserError(f"{name!r} is a path; expected the name of a run in {runs_folder()}, as rnn runs lists it")
    there = f" There {'is' if len(runs) == 1 else 'are'} {listing(runs)}" if runs else ""
    raise UserError(f"there is no run called {name!r} in {runs_folder()}.{did_you_mean(name, runs)}{there}")


def size_of(run: Run) -> int:
    """The bytes of a run's files, those of a folder that it links to included."""
    total = 0
    for folder, _, names in os.walk(run.path):
        for name in names:
            with suppress(OSError):
                total += os.lstat(os.path.join(folder, name)).st_size
    return total


def remove(run: Run) -> None:
    """Remove a run's folder; of one that is a link to a folder elsewhere, only the link.

    Raises:
        UserError: another process trains it.
        OSError: it cannot be removed.
    """
    with untrained(run):
        if run.path.is_symlink():
            run.path.unlink()
            return
        # First out of the list, so that an interruption leaves no damaged run.
        leaving = run.path.with_name(f"{LEAVING}{secrets.randbits(32):08x}")
        run.path.rename(leaving)
    shutil.rmtree(leaving)
    for rest in run.path.parent.glob(f"{LEAVING}*"):  # of removals that were interrupted
        shutil.rmtree(rest, ignore_errors=True)


def rename(run: Run, name: str) -> Run:
    """Give a run another name. Runs that began with its weights find it there.

    Raises:
        UserError: the name is taken or invalid, or another process trains the run.
        OSError: it cannot be renamed.
    """
    require_name(name, "the new name")
    after = runs_folder() / name
    if os.path.lexists(after):
        remedy = f"rnn runs rm {shlex.quote(name)}"
        raise UserError(f"{str(after)!r} exists already: choose another name, or remove that first: {remedy}")
    before = os.path.abspath(run.path)
    with untrained(run):
        run.path.rename(after)
    for other in find_runs():
        with suppress(UserError):  # those that cannot be read
            if other.manifest.get("init_from", {}).get("path") == before and not other.is_locked():
                _begin_from(other.file(MANIFEST), os.path.abspath(after))
    return Run(after)


@contextmanager
def replacing(name: str) -> Iterator[None]:
    """Within this block no run has a name. One that had it is removed after the block, or has it back if that fails.

    Raises:
        UserError: another process trains the run.
        OSError: the run cannot be moved.
    """
    run = next((Run(path) for path in run_folders() if path.name == name), None)
    if run is None:
        yield
        return
    aside = run.path.with_name(f"{REPLACED}-{secrets.randbits(32):08x}")
    with untrained(run):
        run.path.rename(aside)
    try:
        yield
    except BaseException:
        with suppress(OSError):  # another process has taken the name
            aside.rename(run.path)
        raise
    remove(Run(aside))


def _begin_from(manifest: Path, path: str) -> None:
    """Name another folder of the run that a run began from; the file stays as old as it was, so does the order."""
    written = manifest.stat()
    content = json.loads(manifest.read_text(encoding="utf-8", errors="surrogateescape"))
    content["init_from"]["path"] = path
    text = json.dumps(content, ensure_ascii=False, indent=1) + "\n"
    checkpoint.write_atomically(manifest, text.encode("utf-8", "surrogateescape"))
    os.utime(manifest, ns=(written.st_atime_ns, written.st_mtime_ns))


@contextmanager
def untrained(run: Run) -> Iterator[None]:
    """Within this block no other process trains a run.

    Raises:
        UserError: one does.
    """
    with ExitStack() as stack:
        try:
            run.lock()
            stack.callback(run.release)
        except UserError:
            if _is_locked(run):
                raise
        yield


def _is_locked(run: Run) -> bool:
    """Whether another process trains a run; none does if its lock is not a file, which training refuses."""
    try:
        return run.is_locked()
    except UserError:
        return False
