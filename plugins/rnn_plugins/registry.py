"""Which cells, tasks and reports are installed, under which names, and any one of them as an object.

Listing reads metadata only: no plugin is imported before its name is asked for. Nothing here trains, checks or prints.
"""

from __future__ import annotations

import hashlib
import importlib
import re
import sys
import traceback
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from rnn_plugins import trust
from rnn_plugins.errors import UserError, did_you_mean, said
from rnn_plugins.options import Option, OptionValue, listed, options_of, values_of

if TYPE_CHECKING:
    from rnn_cells import Cell


class Entry(NamedTuple):
    """One name that an installed distribution offers.

    Attributes:
        name: what the user types.
        distribution: who offers it.
        version: of the distribution.
        value: where it is, ``module:Class``.
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
    """What a listing says of an entry: the first line of its docstring, or why it cannot be loaded."""

    summary: str
    error: str | None


class _Group(NamedTuple):
    word: str
    base: str


# The base classes are named and not imported, because a listing must not import NumPy.
_GROUPS = {
    "cells": _Group("cell", "rnn_cells.cell:Cell"),
    "tasks": _Group("task", "rnn_plugins.tasks.task:Task"),
    "reports": _Group("report", "rnn_plugins.reports.report:Report"),
}

_FILE = re.compile(r"(?P<path>.+\.py)(?::(?P<name>.*))?")


made_of_others: dict[str, Cell] = {}
"""The cells of others that were made in this process, the last of each by what it was asked for as."""


def entries(group: str) -> list[Entry]:
    """What is installed in a group (``"cells"``, ``"reports"``), sorted; a name that two offer is there twice."""
    found = []
    for point in metadata.entry_points(group=f"rnn.{group}"):
        name, version = (point.dist.name, point.dist.version) if point.dist else ("unknown", "")
        found.append(Entry(point.name, name, version, point.value))
    return sorted(found)


def entries_of_others() -> list[Entry]:
    """What other distributions than this one offer, in all groups."""
    return [entry for group in _GROUPS for entry in entries(group) if entry.distribution != "rnn-lab"]


def load(group: str, name: str) -> Any:
    """The class that is registered under a name. No other plugin is imported.

    Raises:
        UserError: there is none of that name, two distributions offer it, or it cannot be imported or is no class of
            the group's kind.
    """
    word = _GROUPS[group].word
    installed = entries(group)
    found = [entry for entry in installed if entry.name == name]
    if not found:
        raise _unknown(f"no {word} called {name!r}", name, sorted({entry.name for entry in installed}), "Installed")
    if len(found) > 1:
        offers = " and ".join(entry.origin for entry in found)
        raise UserError(f"{offers} both offer a {word} called {name!r}: uninstall one of them")
    return _import(group, found[0])


def describe(group: str, entry: Entry) -> Row:
    """A line for a listing. What is wrong with an entry stands in its own row and is never raised."""
    try:
        found = load(group, entry.name)
        doc = found.__doc__ or ""
        # A dataclass without a docstring gets its signature for one.
        written = "" if doc.startswith(f"{found.__name__}(") else doc.strip()
        return Row(written.partition("\n")[0], None)
    except UserError as error:
        return Row("", str(error))
    except BaseException as error:  # a class may compute its docstring and its name
        return Row("", f"{_offered(group, entry)} cannot be described: {entry.value} raised {said(error)}")


def cell_class(spec: str) -> type[Cell]:
    """The cell that is registered under a name, or that a file defines, which is trusted from then on.

    Args:
        spec: as the user gives it: a name, ``path/to/file.py:Class``, or ``path/to/file.py`` where the file defines one
            cell.

    Raises:
        UserError: there is no such cell; see ``load``.
    """
    file = _FILE.fullmatch(spec)
    if file:
        path = Path(file["path"])
        source = _read(path)
        trust.remember(path.resolve(), _digest(source))
        return _class_in_file(path, source, file["name"])
    if re.search(r"[/\\:]", spec):
        raise UserError(f"{spec!r} is neither the name of a cell nor a Python file: write path/to/file.py:Class")
    found: type[Cell] = load("cells", spec)
    return found


def given(spec: str) -> None:
    """Trust the file that a cell's spec names, where it names one: the user gives it for a run that has it already.

    Raises:
        UserError: it cannot be read.
    """
    if file := _FILE.fullmatch(spec):
        path = Path(file["path"])
        trust.remember(path.resolve(), _digest(_read(path)))


def cell_options(cls: type[Cell]) -> list[Option]:
    """The options of a cell: the fields that it has beside ``input_size`` and ``hidden_size``.

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
        options: values by name; text is read as the option's type.

    Raises:
        UserError: the cell is unknown, has no such option, or does not take its value.
    """
    return build_cell(cell_class(spec), spec, input_size, hidden_size, options)


def build_cell(
    cls: type[Cell], spec: str, input_size: int, hidden_size: int, options: Mapping[str, OptionValue]
) -> Cell:
    """A cell of the given sizes, of a class that ``cell_class`` gave for ``spec``; otherwise as ``make_cell``.

    Raises:
        UserError: the cell has no such option, or does not take its value or a size.
    """
    values = values_of(f"the cell {spec!r}", cell_options(cls), options)
    try:
        cell = cls(input_size, hidden_size, **values)
    except ValueError as error:
        raise UserError(str(error)) from error
    if not cls.__module__.startswith("rnn_cells."):
        made_of_others[spec] = cell
    return cell


def provenance(spec: str) -> dict[str, str]:
    """Where a cell comes from, for a run's manifest.

    Returns:
        ``cell`` (the spec), and ``distribution`` and ``version``, or for a file its absolute path as ``file``, the
        ``class`` and the file's ``sha256``.

    Raises:
        UserError: there is no such cell.
    """
    cls = cell_class(spec)
    file = _FILE.fullmatch(spec)
    if file:
        path = Path(file["path"])
        return {"cell": spec, "file": str(path.resolve()), "class": cls.__name__, "sha256": _digest(_read(path))}
    entry = next(entry for entry in entries("cells") if entry.name == spec)
    return {"cell": spec, "distribution": entry.distribution, "version": entry.version}


def cell_for_run(
    run: str, recorded: Mapping[str, str], input_size: int, hidden_size: int, options: Mapping[str, OptionValue]
) -> Cell:
    """The cell that a run was trained with, from what ``provenance`` recorded.

    Raises:
        Untrusted: the file is not to be executed (see ``trust.require``).
        UserError: the distribution is not installed or the file is gone, or the cell cannot be made of it.
    """
    cls: type[Cell]
    if "file" in recorded:
        path = _file_of_run(run, recorded)
        source = _read(path)
        trust.require(run, path.resolve(), _digest(source), recorded["sha256"])
        cls = _class_in_file(path, source, recorded["class"])
    else:
        cls = _import("cells", _entry_of_run(run, recorded))
    return build_cell(cls, recorded["cell"], input_size, hidden_size, options)


def provenance_now(run: str, recorded: Mapping[str, str]) -> dict[str, str]:
    """Where the cell of a run comes from, as ``provenance`` would record it for one that begins with it now.

    Raises:
        UserError: the distribution is not installed or the file is gone.
    """
    if "file" in recorded:
        return {**recorded, "sha256": _digest(_read(_file_of_run(run, recorded)))}
    return {**recorded, "version": _entry_of_run(run, recorded).version}


def cell_changed(run: str, recorded: Mapping[str, str]) -> str | None:
    """A sentence where the code of a run's cell is not what it was: another version, or a file with other content.

    Raises:
        UserError: the distribution is not installed or the file is gone.
    """
    now = provenance_now(run, recorded)
    if now == recorded:
        return None
    if "file" in recorded:
        return f"{now['file']} has changed since run {run!r} began, so its cell may not be the one that was trained"
    used = f"the cell {recorded['cell']!r} of {recorded['distribution']} {recorded['version']}"
    return f"run {run!r} used {used}; now it is {now['version']}"


def _file_of_run(run: str, recorded: Mapping[str, str]) -> Path:
    path = Path(recorded["file"])
    if not path.is_file():
        raise UserError(
            f"run {run!r} uses the cell {recorded['class']!r} from {path}, which is not there: put the file back"
        )
    return path


def _entry_of_run(run: str, recorded: Mapping[str, str]) -> Entry:
    # Of two distributions that offer the name, the recorded one is taken: a run is clear where a name is not.
    for entry in entries("cells"):
        if (entry.name, entry.distribution) == (recorded["cell"], recorded["distribution"]):
            return entry
    raise UserError(
        f"run {run!r} uses the cell {recorded['cell']!r} from the distribution {recorded['distribution']} "
        f"{recorded['version']}, which is not installed: pip install {recorded['distribution']}"
    )


def _unknown(problem: str, word: str, known: list[str], label: str) -> UserError:
    return UserError(f"{problem}.{did_you_mean(word, known)} {label}: {', '.join(known) or 'none'}")


def _offered(group: str, entry: Entry) -> str:
    return f"the {_GROUPS[group].word} {entry.name!r} of the distribution {entry.origin}"


def _import(group: str, entry: Entry) -> Any:
    word, base = _GROUPS[group]
    who = _offered(group, entry)
    try:
        found = metadata.EntryPoint(entry.name, entry.value, f"rnn.{group}").load()
    except BaseException as error:  # somebody's module may raise SystemExit or KeyboardInterrupt, too
        raise UserError(f"{who} cannot be loaded: {entry.value} raised {said(error)}") from error
    module, _, attribute = base.partition(":")
    kind = getattr(importlib.import_module(module), attribute)
    if not (isinstance(found, type) and issubclass(found, kind)):
        raise UserError(
            f"{who} is no {word}: {entry.value} is {_what(found)}; it must be a subclass of {module}.{attribute}"
        )
    return found


def _class_in_file(path: Path, source: bytes, name: str | None) -> type[Cell]:
    from rnn_cells import Cell

    module = _module_of_file(path, source)
    own = {
        key: value
        for key, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, Cell) and value.__module__ == module.__name__ and key[0] != "_"
    }
    if not name:
        if len(own) == 1:
            return next(iter(own.values()))
        if not own:
            raise UserError(f"{path} defines no cell: write a subclass of rnn_cells.Cell in it")
        raise UserError(
            f"{path} defines the cells {listed(list(own), 'and')}: say which, as in {path}:{next(iter(own))}"
        )
    if name not in vars(module):
        raise _unknown(f"{path} has no class called {name!r}", name, list(own), "Its cells")
    found = vars(module)[name]
    if not (isinstance(found, type) and issubclass(found, Cell)):
        raise UserError(f"{name} in {path} is {_what(found)}; a cell must be a subclass of rnn_cells.Cell")
    return found


def _module_of_file(path: Path, source: bytes) -> ModuleType:
    """A file of this content as a module, run once for each content it has.

    It is compiled here and not by the import system, which would write its cache beside the user's file. The file
    must stand alone, since its folder is not on the search path: so its digest tells all about its cell.
    """
    name = f"rnn_cell_file_{_digest(str(path.resolve()).encode() + source)[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    module = ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module  # dataclasses look their module up there
    try:
        exec(compile(source, str(path), "exec"), module.__dict__)
    except BaseException as error:
        del sys.modules[name]
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        place = f" at line {lines[-1]}" if lines else ""
        raise UserError(f"{path} cannot be loaded: it raised{place} {said(error)}") from error
    return module


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"there is no file {path}: give the Python file that defines the cell") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _what(thing: Any) -> str:
    return f"the class {thing.__name__}" if isinstance(thing, type) else f"of type {type(thing).__name__}"
