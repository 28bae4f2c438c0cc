"""The command line that makes a run like another, with some settings changed."""

from __future__ import annotations

import dataclasses
import os
import shlex
from typing import Any

from rnn_lab.runs import Run, network_of
from rnn_lab.settings import Settings, option
from rnn_lab.trainer import LEARNING_RATE

OF_THE_MACHINE = ("files", "backend")
"""Settings that are no options of such a command: it names the files first, and chooses its own backend."""


def command_of(run: Run, **changes: Any) -> str:
    """A command that makes such a run: its files, and as options the settings that are not the defaults.

    Args:
        run: the run.
        changes: settings that replace its own; None for their default.
    """
    settings = run.settings.to_json()
    usual = {f.name: f.default for f in dataclasses.fields(run.task)}
    settings["task_option"] = {
        key: value
        for key, value in settings["task_option"].items()
        if value not in (None, usual.get(key)) and key not in run.task.of_assessment
    }
    # What a default was resolved to is left out again.
    unset = dataclasses.replace(run.settings, embedding_size=None)
    if run.task.resolve(run.facts, network_of(unset, run.make_cell)).embedding_size == settings["embedding_size"]:
        settings["embedding_size"] = None
    if settings["learning_rate"] == (run.make_cell(1).suggested_learning_rate or LEARNING_RATE):
        settings["learning_rate"] = None
    words = ["rnn", "train", *map(_file, run.settings.files)]
    plain = Settings().to_json()
    for name, value in (settings | changes).items():
        if value is None or value == plain[name] or name in OF_THE_MACHINE:
            continue
        if isinstance(value, dict):
            words += [word for key, part in value.items() for word in (option(name), f"{key}={typed(part)}")]
        elif isinstance(value, list):
            words += [word for file in value for word in (option(name), _file(file))]
        else:
            words += [option(name)] if value is True else [option(name), typed(value)]
    if begun := run.manifest.get("init_from"):
        words += ["--init-from", begun["path"]]
    return shlex.join(words)


def typed(value: Any) -> str:
    """A value as it is typed: numbers in their shortest form."""
    if isinstance(value, float) and float(short := f"{value:g}") == value:
        return short
    return str(value).lower() if isinstance(value, bool) else str(value)


def _file(path: str) -> str:
    """A path, from the working directory if it is in there."""
    near = os.path.relpath(path) if os.path.isabs(path) else path
    return path if near.startswith(os.pardir) else near
