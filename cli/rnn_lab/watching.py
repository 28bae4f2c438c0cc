"""What is told of a run while it trains: its records as they are written, its state, and samples by its weights."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np

from rnn_lab.backends import on_backend
from rnn_lab.blame import blaming
from rnn_lab.paths import BEST, MANIFEST, METRICS, run_folder
from rnn_lab.runs import Run, record_of
from rnn_plugins.errors import UserError
from rnn_plugins.reports.report import plain
from rnn_plugins.tasks.task import Data

MOST = 4000
"""Records that are kept; of more, every second one without a validation is left out."""

SAMPLES, EXCERPT = 12, 400
"""Samples that are kept, and the characters of each."""

PAUSE = 10.0
"""Seconds after the last question during which samples are made."""

PARTS = ("step", "epoch", "train_loss", "learning_rate", "gradient_norm", "units_per_second", "seconds")
"""What is told of a record, beside its metrics of the held-out data."""

STATES = {
    "running": "It is training.",
    "finished": "It has ended: all its steps were taken.",
    "time": "It has ended, because its time (--max-time) was over.",
    "patience": "It has ended, because it no longer improved (--patience).",
    "interrupted": "It was interrupted; rnn train --resume {name} resumes it.",
    "killed": "It was killed; rnn train --resume {name} resumes it.",
    "diverged": "It has ended, because its loss diverged.",
}
"""A sentence for each state of a run."""


class Watched:
    """A run that is followed by its name, from before it begins until after it has ended; it is only read.

    ``refresh`` and ``sample`` read it, in one thread; ``told`` answers others.

    Attributes:
        name: of the run, or its folder.
        state: ``absent``, ``unreadable``, or as the outcome in ``rnn runs``.
        sentence: the state in words.
    """

    def __init__(self, name: str) -> None:
        self.name, self.state, self.sentence = name, "absent", ""
        self._lock = threading.Lock()
        self._asked = -PAUSE
        self._run: Run | None = None
        self._manifest: tuple[int, int] | None = None
        self._unit = "units"
        self._forget()
        self.refresh()

    def _forget(self) -> None:
        """Begin anew with another file of records."""
        self._version = time.monotonic_ns()
        self._records: list[dict[str, Any]] = []
        self._flow: dict[str, Any] | None = None
        self._file, self._offset = 0, 0
        self._samples: deque[dict[str, Any]] = deque(maxlen=SAMPLES)
        self._weights: tuple[int, int] | None = None
        self._data: Data | None = None
        self._no_sample = ""

    def refresh(self) -> None:
        """Read what has been written since the last time."""
        with self._lock:
            try:
                self._refresh()
            except UserError as error:
                self.state, self.sentence = "unreadable", f"{str(error)[0].upper()}{str(error)[1:]}."
            except OSError:
                pass  # a file is just being replaced, or its folder removed

    def _refresh(self) -> None:
        folder = run_folder(self.name)
        if folder is None:
            if self._run is not None:
                self._forget()
            self._run, self._manifest, self.state = None, None, "absent"
            self.sentence = f"There is no run called {self.name!r} yet: what it records will be shown here."
            return
        written = _identity(folder / MANIFEST)
        if self._run is None or written != self._manifest:
            self._run, self._manifest, self._unit = Run(folder), written, "units"
            with suppress(UserError):  # the task may not be installed here, and the records can be read all the same
                self._unit = self._run.task.unit
        outcome = self._run.manifest.get("outcome") or ("running" if self._run.is_locked() else "killed")
        self.state = outcome
        self.sentence = STATES.get(outcome, "It has ended.").format(name=self._run.quoted)
        self._read(self._run)

    def _read(self, run: Run) -> None:
        """Read the new lines of the records; of another file or a shorter one, all of them."""
        path = run.file(METRICS)
        try:
            with open(path, "rb") as file:
                status = os.fstat(file.fileno())
                if (self._file and status.st_ino != self._file) or status.st_size < self._offset:
                    self._forget()
                self._file = status.st_ino
                file.seek(self._offset)
                new = file.read()
        except FileNotFoundError:
            return
        whole = new[: new.rfind(b"\n") + 1]
        self._offset += len(whole)
        for record in filter(None, map(record_of, whole.decode("utf-8", "replace").splitlines())):
            self._records.append(_told_of(record))
            if record.get("flow"):
                self._flow = plain({"step": record["step"], **record["flow"]})
        while len(self._records) > MOST and len(fewer := _thinned(self._records)) < len(self._records):
            self._records = fewer
            self._version += 1  # what was told of them before no longer counts

    def sample(self) -> None:
        """Make a sample, if a page is open and there are other best weights than at the last time."""
        run = self._run
        if run is None or time.monotonic() - self._asked > PAUSE:
            return
        try:
            with suppress(FileNotFoundError):
                written = _identity(run.file(BEST))
                if written != self._weights:
                    self._weights = written
                    self._add_sample(run)
        except UserError as error:
            self._no_sample = str(error)
        except OSError:
            pass

    def _add_sample(self, run: Run) -> None:
        params, notes = run.load(BEST)
        if self._data is None:
            found, reason = run.data()
            if found is None:
                raise UserError(reason)
            self._data = found
        with blaming(), on_backend("auto"), np.errstate(all="ignore"):
            text = run.task.excerpt(run.model, params, self._data, EXCERPT, np.random.default_rng(notes["step"]))
        with self._lock:
            self._no_sample = ""
            if text is not None:
                self._samples.append({"step": notes["step"], "text": text})

    def told(self, question: Mapping[str, str]) -> dict[str, Any]:
        """What a page shows, as JSON takes it.

        Args:
            question: ``version`` and ``next`` of the last answer, in which case only later records are told.
        """
        with self._lock:
            self._asked = time.monotonic()
            known = question.get("version") == str(self._version)
            following = question.get("next", "")
            start = int(following) if known and following.isascii() and following.isdecimal() else 0
            manifest = self._run.manifest if self._run and self.state != "unreadable" else {}
            return {
                "name": self.name,
                "state": self.state,
                "sentence": self.sentence,
                "about": _about(manifest),
                "unit": self._unit,
                "metrics": {name: metric["unit"] for name, metric in manifest.get("metrics", {}).items()},
                "version": str(self._version),
                "next": len(self._records),
                "records": self._records[start:],
                "flow": self._flow,
                "samples": list(self._samples),
                "no_sample": self._no_sample,
            }


def _identity(path: os.PathLike[str]) -> tuple[int, int]:
    """What changes when a file is replaced or written."""
    status = os.stat(path)
    return status.st_ino, status.st_mtime_ns


def _told_of(record: Mapping[str, Any]) -> dict[str, Any]:
    told = {name: record[name] for name in PARTS}
    told |= {name: value for name, value in record.items() if name.startswith("valid_")}
    if record.get("flow"):
        told["half_life"] = record["flow"].get("half_life")
    return plain(told)  # type: ignore[no-any-return]


def _thinned(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without every second record that has no validation; the last one stays."""
    last = len(records) - 1
    return [
        record
        for place, record in enumerate(records)
        if place % 2 == 0 or place == last or any(name.startswith("valid_") for name in record)
    ]


def _about(manifest: Mapping[str, Any]) -> str:
    """A run's cell, size and data in a phrase."""
    if not manifest:
        return ""
    settings = manifest["settings"]
    size = f"{settings.get('num_layers')} x {settings.get('hidden_size')}"
    sources = ", ".join(os.path.basename(source) or source for source in manifest["data"]["sources"][:3])
    return f"{manifest['cell']['cell']}, {size}, {manifest['parameters']:,} parameters, on {sources}"
