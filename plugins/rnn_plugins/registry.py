"""List and load cells, tasks and reports, of installed distributions, a user's file or the running Python session.

``entries`` reads only metadata; a plugin is imported when it is loaded or described.
"""

from __future__ import annotations

import functools
import importlib
import os
import re
import sys
from collections.abc import Collection, Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rnn_plugins import defined, python_files, trust
from rnn_plugins.errors import UserError, did_you_mean, said
from rnn_plugins.options import Option, OptionValue, listed, options_of, values_of

if TYPE_CHECKING:
    from rnn_cells import Cell
    from rnn_plugins.tasks.task import Task


class Entry(NamedTuple):
    """One name that an installed distribution offers.

    Attributes:
        name: the name that the user gives.
        distribution: the distribution's name.
        version: its version.
        value: the class, ``module:Class``.
    """

    name: str
    distribution: str
    version: str
    value: str

    @property
    def origin(self) -> str:
        """The distribution and its version, as messages name them."""
        return f"{self.distribution} {self.version}"


class Row(NamedTuple):
    """An entry's row in a listing: the first line of its docstring, or why it cannot be loaded."""

    summary: str
    error: str | None


class _Group(NamedTuple):
    word: str
    base: str

    def base_class(self) -> type:
        module, _, attribute = self.base.partition(":")
        found: type = getattr(importlib.import_module(module), attribute)
        return found

    @property
    def base_name(self) -> str:
        return self.base.replace(":", ".")


# The base classes are not imported here, so that ``entries`` does not import NumPy.
_GROUPS = {
    "cells": _Group("cell", "rnn_cells:Cell"),
    "tasks": _Group("task", "rnn_plugins.tasks.task:Task"),
    "reports": _Group("report", "rnn_plugins.reports.report:Report"),
}

_FILE = re.compile(r"(?P<path>.+\.py)(?::(?P<name>.*))?")


plugin_cells: dict[str, Cell] = {}
"""The cells of plugins made in this process, the last one for each spec."""


def entries(group: str) -> list[Entry]:
    """The installed entries of a group (``"cells"``, ``"tasks"``, ``"reports"``), sorted; a name may occur twice."""
    return list(_entries(group, _path()))


def full_name(group: str, name: str) -> str:
    """The name for which another one is short.

    If a distribution gives one class several names, the longest is its name, and the others are short for it.
    """
    values = {(entry.distribution, entry.value) for entry in entries(group) if entry.name == name}
    return max(
        (entry.name for entry in entries(group) if (entry.distribution, entry.value) in values), key=len, default=name
    )


def plugin_entries() -> list[Entry]:
    """The entries of other distributions, in all groups."""
    return [entry for group in _GROUPS for entry in entries(group) if entry.distribution != "rnn-lab"]


def load(group: str, spec: str) -> Any:
    """The class registered under a name, or defined in a file, which is trusted from then on.

    No other plugin is imported.

    Args:
        group: "cells", "tasks" or "reports".
        spec: a name, ``path/to/file.py:Class``, or ``path/to/file.py`` if the file defines only one class of this kind;
            or what ``name_of`` returned for a class.

    Raises:
        UserError: there is no such class, two distributions offer the name, or the class cannot be imported or is not
            of the group's kind.
    """
    if file := _FILE.fullmatch(spec):
        path = Path(file["path"])
        source = python_files.read(_GROUPS[group].word, path)
        trust.remember(path.resolve(), python_files.digest(source))
        return _class_in_file(group, path, source, file["name"])
    if re.search(r"[/\\:]", spec):
        word = _GROUPS[group].word
        raise UserError(f"{spec!r} is neither the name of a {word} nor a Python file: use path/to/file.py:Class")
    return defined.given(group, spec) or installed(group, spec)


def name_of(group: str, cls: Any) -> str:
    """The name by which ``load`` finds a class: that of an installed one, or of one that Python code defines.

    Raises:
        UserError: it is not a class of this kind, or an installed one has its name.
    """
    kind = _GROUPS[group]
    if isinstance(cls, kind.base_class()):
        raise UserError(f"the {kind.word} is an object; expected its class, {type(cls).__name__}, or a name")
    if not (isinstance(cls, type) and issubclass(cls, kind.base_class())):
        raise UserError(f"the {kind.word} is {_what(cls)}; expected a name, or a subclass of {kind.base_name}")
    known = entries(group)
    if own := [entry.name for entry in known if entry.value == f"{cls.__module__}:{cls.__qualname__}"]:
        return own[0]
    if cls.__name__ in {entry.name for entry in known}:
        raise UserError(f"there is an installed {kind.word} called {cls.__name__}: give the class another name")
    return defined.remember(group, cls)


def installed(group: str, name: str) -> Any:
    """The class registered under a name, never one in a file; otherwise as ``load``."""
    word = _GROUPS[group].word
    known = entries(group)
    found = [entry for entry in known if entry.name == name]
    if not found:
        raise _unknown(f"no {word} called {name!r}", name, sorted({entry.name for entry in known}), "Installed")
    if len(found) > 1:
        offers = " and ".join(entry.origin for entry in found)
        raise UserError(f"{offers} both offer a {word} called {name!r}: uninstall one of them")
    return _import(group, found[0])


def given(group: str, spec: str) -> None:
    """Trust the file that a spec names, if it names one: the user gives it again for a run that uses it.

    Raises:
        UserError: it cannot be read.
    """
    if file := _FILE.fullmatch(spec):
        path = Path(file["path"])
        trust.remember(path.resolve(), python_files.digest(python_files.read(_GROUPS[group].word, path)))


def describe(group: str, entry: Entry) -> Row:
    """An entry's row in a listing; errors are in the row and never raised."""
    if (full := full_name(group, entry.name)) != entry.name:
        return Row(f"Short for {full}.", None)
    try:
        found = load(group, entry.name)
        doc = found.__doc__ or ""
        # The docstring of a dataclass defaults to its signature.
        written = "" if doc.startswith(f"{found.__name__}(") else doc.strip()
        return Row(written.partition("\n")[0], None)
    except UserError as error:
        return Row("", str(error))
    except BaseException as error:  # a class may compute its docstring and its name
        return Row("", f"{_offered(group, entry)} cannot be described: {entry.value} raised {said(error)}")


def cell_class(spec: str) -> type[Cell]:
    """The class of a cell; see ``load``."""
    found: type[Cell] = load("cells", spec)
    return found


def cell_options(cls: type[Cell]) -> list[Option]:
    """The options of a cell: its fields except ``input_size`` and ``hidden_size``.

    Raises:
        UserError: an annotation names something that does not exist.
    """
    return options_of(cls, ("input_size", "hidden_size"))


def make_cell(spec: str, input_size: int, hidden_size: int, options: Mapping[str, OptionValue]) -> Cell:
    """A cell of the given sizes.

    Args:
        spec: as for ``cell_class``.
        input_size: the width of an input.
        hidden_size: the width of the hidden state.
        options: values by name; text is parsed as the option's type.

    Raises:
        UserError: the cell is unknown, has no such option, or a value is invalid.
    """
    return build_cell(cell_class(spec), spec, input_size, hidden_size, options)


def build_cell(
    cls: type[Cell], spec: str, input_size: int, hidden_size: int, options: Mapping[str, OptionValue]
) -> Cell:
    """A cell of the given sizes, of the class that ``cell_class`` returned for ``spec``; otherwise as ``make_cell``.

    Raises:
        UserError: the cell has no such option, or a value or size is invalid.
    """
    values = values_of(f"the cell {spec!r}", cell_options(cls), options)
    try:
        cell = cls(input_size, hidden_size, **values)
    except ValueError as error:
        raise UserError(str(error)) from error
    if not cls.__module__.startswith("rnn_cells."):
        plugin_cells[spec] = cell
    return cell


def make_task(spec: str, options: Mapping[str, OptionValue]) -> Task:
    """A task with its options, to be trained.

    Args:
        spec: as for ``load``.
        options: values by name; text is parsed as the option's type.

    Raises:
        UserError: the task is unknown, has no such option or only to be evaluated, or a value is invalid.
    """
    cls = load("tasks", spec)
    require_of_training(cls, spec, options)
    return build_task(cls, spec, options, cls.of_assessment)


def require_of_training(cls: type[Task], spec: str, names: Collection[str]) -> None:
    """Check that no option is only of an evaluation.

    Raises:
        UserError: one is.
    """
    for name in names:
        if name in cls.of_assessment:
            raise UserError(f"the option {name!r} of the task {spec!r} is for rnn eval alone: leave it out")


def build_task(cls: type[Task], spec: str, options: Mapping[str, OptionValue], without: Collection[str] = ()) -> Task:
    """A task of the class that ``load`` returned for ``spec``, also with options of its evaluation.

    Args:
        cls: the class.
        spec: as for ``load``.
        options: values by name.
        without: options that it must not be given.

    Raises:
        UserError: the task has no such option, or a value is invalid.
    """
    values = values_of(f"the task {spec!r}", options_of(cls, without), options)
    if missing := sorted(cls.__abstractmethods__):
        raise UserError(f"the task {spec!r} cannot be made: it does not define {listed(missing, 'and')}")
    try:
        return cls(**values)
    except ValueError as error:
        raise UserError(f"the task {spec!r} cannot be made: {error}") from error


def provenance(group: str, spec: str) -> dict[str, str]:
    """The origin of a cell or a task, for a run's manifest.

    Returns:
        The spec under the group's word (``cell``, ``task``), and ``distribution`` and ``version``, or for a file
        ``file`` (its absolute path), ``class`` and ``sha256``, or for a class of the session ``module`` and the same.

    Raises:
        UserError: there is no such class.
    """
    word = _GROUPS[group].word
    cls = load(group, spec)
    if file := _FILE.fullmatch(spec):
        path = Path(file["path"])
        digest = python_files.digest(python_files.read(_GROUPS[group].word, path))
        return {word: spec, "file": str(path.resolve()), "class": cls.__name__, "sha256": digest}
    if defined.given(group, spec):
        return {word: spec, **defined.origin(cls)}
    entry = next(entry for entry in entries(group) if entry.name == spec)
    return {word: spec, "distribution": entry.distribution, "version": entry.version}


def cell_for_run(
    run: str, recorded: Mapping[str, str], input_size: int, hidden_size: int, options: Mapping[str, OptionValue]
) -> Cell:
    """The cell that a run was trained with, from what ``provenance`` recorded.

    Raises:
        Untrusted: the file must not be executed (see ``trust.require``).
        UserError: the distribution is not installed, the file is gone, or the cell cannot be made.
    """
    return build_cell(class_of_run("cells", run, recorded), recorded["cell"], input_size, hidden_size, options)


def task_for_run(run: str, recorded: Mapping[str, str], options: Mapping[str, OptionValue]) -> Task:
    """The task of a run, from what ``provenance`` recorded; otherwise as ``cell_for_run``."""
    return rebuild_task(class_of_run("tasks", run, recorded), recorded["task"], options)


def rebuild_task(cls: type[Task], spec: str, options: Mapping[str, OptionValue]) -> Task:
    """As ``build_task``, without the options of an evaluation, which older runs have recorded."""
    own = {name: value for name, value in options.items() if name not in cls.of_assessment}
    return build_task(cls, spec, own)


def class_of_run(group: str, run: str, recorded: Mapping[str, str]) -> Any:
    """The class of the cell or the task of a run; otherwise as ``cell_for_run``."""
    if "module" in recorded:
        return defined.of_run(group, _GROUPS[group].word, run, recorded)
    if "file" not in recorded:
        return _import(group, _entry_of_run(group, run, recorded))
    path = _file_of_run(group, run, recorded)
    source = python_files.read(_GROUPS[group].word, path)
    trust.require(run, _GROUPS[group].word, path.resolve(), python_files.digest(source), recorded["sha256"])
    return _class_in_file(group, path, source, recorded["class"])


def provenance_now(group: str, run: str, recorded: Mapping[str, str]) -> dict[str, str]:
    """The origin of a run's cell or task, as ``provenance`` would record it now.

    Raises:
        UserError: the distribution is not installed, the file is gone, or the class is not defined.
    """
    if "module" in recorded:
        return {**recorded, **defined.origin(class_of_run(group, run, recorded))}
    if "file" in recorded:
        return {
            **recorded,
            "sha256": python_files.digest(python_files.read(_GROUPS[group].word, _file_of_run(group, run, recorded))),
        }
    return {**recorded, "version": _entry_of_run(group, run, recorded).version}


def changed(group: str, run: str, recorded: Mapping[str, str]) -> str | None:
    """A sentence that says so, if a run's cell or task has another version or another file content than before.

    Raises:
        UserError: the distribution is not installed or the file is gone.
    """
    word, now = _GROUPS[group].word, provenance_now(group, run, recorded)
    if now == recorded or ("module" in recorded and not defined.differ(now, recorded)):
        return None
    if "sha256" in recorded:
        what = now.get("file") or f"the class {now['class']}"
        return f"{what} has changed since run {run!r} began, so its {word} may not be the one that was trained"
    used = f"the {word} {recorded[word]!r} of {recorded['distribution']} {recorded['version']}"
    return f"run {run!r} used {used}; now it is {now['version']}"


def _file_of_run(group: str, run: str, recorded: Mapping[str, str]) -> Path:
    path = Path(recorded["file"])
    if not path.is_file():
        what = f"the {_GROUPS[group].word} {recorded['class']!r}"
        raise UserError(f"run {run!r} uses {what} from {path}, which is not there: put the file back")
    return path


@functools.lru_cache(maxsize=8)
def _entries(group: str, path: tuple[tuple[str, int], ...]) -> tuple[Entry, ...]:
    """``entries``, cached by the import path, because reading the installed metadata is slow."""
    found, told = [], {}
    for point in metadata.entry_points(group=f"rnn.{group}"):
        if point.dist and point.dist not in told:
            told[point.dist] = point.dist.metadata
        name, version = (told[point.dist]["Name"], told[point.dist]["Version"]) if point.dist else ("unknown", "")
        found.append(Entry(point.name, name, version, point.value))
    return tuple(sorted(found))


def _path() -> tuple[tuple[str, int], ...]:
    """The folders of the import path, and when each changed: installing creates or removes a folder there."""
    times = []
    for folder in map(os.path.abspath, sys.path):
        with suppress(OSError):
            times.append((folder, os.stat(folder).st_mtime_ns))
    return tuple(times)


def _entry_of_run(group: str, run: str, recorded: Mapping[str, str]) -> Entry:
    # If two distributions offer the name, the run's own is recorded.
    word = _GROUPS[group].word
    for entry in entries(group):
        if (entry.name, entry.distribution) == (recorded[word], recorded["distribution"]):
            return entry
    raise UserError(
        f"run {run!r} uses the {word} {recorded[word]!r} from the distribution {recorded['distribution']} "
        f"{recorded['version']}, which is not installed: pip install {recorded['distribution']}"
    )


def _unknown(problem: str, word: str, known: list[str], label: str) -> UserError:
    return UserError(f"{problem}.{did_you_mean(word, known)} {label}: {', '.join(known) or 'none'}")


def _offered(group: str, entry: Entry) -> str:
    return f"the {_GROUPS[group].word} {entry.name!r} of the distribution {entry.origin}"


def _import(group: str, entry: Entry) -> Any:
    kind = _GROUPS[group]
    who = _offered(group, entry)
    try:
        found = metadata.EntryPoint(entry.name, entry.value, f"rnn.{group}").load()
    except BaseException as error:  # a plugin's module may also raise SystemExit or KeyboardInterrupt
        raise UserError(f"{who} cannot be loaded: {entry.value} raised {said(error)}") from error
    if not (isinstance(found, type) and issubclass(found, kind.base_class())):
        raise UserError(
            f"{who} is not a {kind.word}: {entry.value} is {_what(found)}; it must be a subclass of {kind.base_name}"
        )
    return found


def _class_in_file(group: str, path: Path, source: bytes, name: str | None) -> Any:
    word, base, base_name = _GROUPS[group].word, _GROUPS[group].base_class(), _GROUPS[group].base_name
    module = python_files.module_of(path, source)
    own = {
        key: value
        for key, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, base) and value.__module__ == module.__name__ and key[0] != "_"
    }
    if not name:
        if len(own) == 1:
            return next(iter(own.values()))
        if not own:
            raise UserError(f"{path} defines no {word}: write a subclass of {base_name} in it")
        raise UserError(
            f"{path} defines the {group} {listed(list(own), 'and')}: say which, as in {path}:{next(iter(own))}"
        )
    if name not in vars(module):
        raise _unknown(f"{path} has no class called {name!r}", name, list(own), f"Its {group}")
    found = vars(module)[name]
    if not (isinstance(found, type) and issubclass(found, base)):
        raise UserError(f"{name} in {path} is {_what(found)}; a {word} must be a subclass of {base_name}")
    return found


def _what(thing: Any) -> str:
    return f"the class {thing.__name__}" if isinstance(thing, type) else f"of type {type(thing).__name__}"
