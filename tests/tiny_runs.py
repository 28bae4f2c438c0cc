"""Tiny trained runs, for tests of commands on runs."""

import os
from pathlib import Path
from typing import Any

import pytest

from rnn_lab.paths import MANIFEST
from rnn_lab.runs import Run
from rnn_lab.sessions import start

TEXT = "to be, or not to be: that is the question.\nwhether 'tis nobler in the mind to suffer\n" * 12


def train(folder: Path, text: str | bytes, name: str, *, newest: bool = False, **settings: Any) -> Run:
    """A run in ``folder``/runs on a text that is written to ``folder``/``name``.txt.

    Args:
        folder: where both lie.
        text: what it learns.
        name: of both.
        newest: whether the run counts as written after all others, whenever those are.
        settings: as ``sessions.start`` takes them.
    """
    source = folder / f"{name}.txt"
    source.write_bytes(text if isinstance(text, bytes) else text.encode())
    given = {"hidden_size": 12, "steps": 30, "seq_length": 16, "batch_size": 4, "seed": 1, "files": (str(source),)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RNN_RUNS", str(folder / "runs"))
        patch.setenv("RNN_LAB_CACHE", str(folder / "cache"))
        session = start(given | settings, name=name)
        for _ in session.trainer.events():
            pass
    if newest:
        os.utime(session.run.path / MANIFEST, (2**32, 2**32))
    return Run(session.run.path)
