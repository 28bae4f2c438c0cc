"""Classes of the running Python session, such as a notebook's: they belong to no distribution and to no file given.

A run records the name, the module and the source of such a class, and finds it again where it is defined again.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from rnn_plugins.errors import UserError

_given: dict[tuple[str, str], type] = {}
"""The last class that was given under each group and name."""


def remember(group: str, cls: type) -> str:
    """Find a class under its name from now on, and return the name."""
    _given[group, cls.__name__] = cls
    return cls.__name__


def given(group: str, name: str) -> type | None:
    """The class that was given under this name; None if there is none."""
    return _given.get((group, name))


def origin(cls: type) -> dict[str, str]:
    """What a run records of a class."""
    return {"module": cls.__module__, "class": cls.__name__, "sha256": _digest(cls)}


def of_run(group: str, word: str, run: str, recorded: Mapping[str, str]) -> Any:
    """The class that a run was trained with, if its module has it now, or else if it was given.

    No module is imported: a run's files must not decide which code is executed.

    Args:
        group: "cells" or "tasks".
        word: "cell" or "task".
        run: the run's name.
        recorded: as ``origin`` returned it.

    Raises:
        UserError: there is no such class.
    """
    name = recorded["class"]
    found = vars(sys.modules.get(recorded["module"], sys)).get(name) or given(group, name)
    if not isinstance(found, type):
        where = "" if recorded["module"] == "__main__" else f" of the module {recorded['module']}"
        raise UserError(
            f"run {run!r} uses the {word} {name}, a class{where} that was defined in Python and is not defined here: "
            f"run the lines that define it, then rnn_lab.load({run!r}) in the same session"
        )
    return found


def differ(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Whether two classes of one name, as ``origin`` describes them, are known to compute something different."""
    return bool(one["sha256"] and other["sha256"]) and one["sha256"] != other["sha256"]


def _digest(cls: type) -> str:
    """SHA-256 of the source of its functions, which say what it computes; empty if the source is unknown."""
    sources = []
    for function in vars(cls).values():
        if inspect.isfunction(function):
            with suppress(OSError):  # those that a dataclass writes, and lines typed at a prompt
                sources.append(inspect.getsource(function))
    return hashlib.sha256("".join(sources).encode()).hexdigest() if sources else ""
