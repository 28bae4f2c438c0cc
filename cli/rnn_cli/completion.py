"""Shell completion of the names of runs, cells and tasks; it runs at each Tab, so imports must be small."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    from rnn_cells.anatomy import Anatomy


def runs(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The names of the runs, the newest first, without names that contain control characters."""
    from rnn_lab.paths import run_folders
    from rnn_lab.printable import printable

    names = [path.name for path in run_folders() if path.name.startswith(incomplete)]
    return [CompletionItem(name) for name in names if printable(name) == name]


def runs_or_files(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The names of the runs; if none matches, the shell's own completion of files."""
    return runs(ctx, param, incomplete) or [CompletionItem(incomplete, type="file")]


def cells(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The names of the installed cells; if none matches, files, since a cell may be in one."""
    return _installed("cells", incomplete)


def tasks(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The names of the installed tasks; if none matches, files, since a task may be in one."""
    return _installed("tasks", incomplete)


def _installed(group: str, incomplete: str) -> list[CompletionItem]:
    from rnn_plugins.registry import entries

    names = dict.fromkeys(entry.name for entry in entries(group) if entry.name.startswith(incomplete))
    return [CompletionItem(name) for name in names] or [CompletionItem(incomplete, type="file")]


def sources(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The built-in texts; otherwise the shell's own completion of files."""
    from rnn_plugins.data.builtin import NAMES

    built_in = _beginning([f"builtin:{name}" for name in NAMES], incomplete) if incomplete else []
    return built_in or [CompletionItem(incomplete, type="file")]


def kinds(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The names of the installed reports; if none matches, files, since a report may be in one."""
    return _installed("reports", incomplete)


def optimizers(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The optimisers; behind a name their parameters."""
    import inspect

    from minigrad.optimizers import OPTIMIZERS

    parameters = {name: list(inspect.signature(make).parameters) for name, make in OPTIMIZERS.items()}
    return _spec(parameters, incomplete)


def schedules(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The schedules of the learning rate; behind a name their parameters."""
    from rnn_lab.settings import SCHEDULES

    return _spec({name: list(values) for name, values in SCHEDULES.items()}, incomplete)


def levels(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The kinds of symbols of a text."""
    return _beginning([level.partition(":")[0] for level in (param.metavar or "").split("|")], incomplete)


def averages(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The averages of weights; behind a name its parameter."""
    from rnn_lab.settings import AVERAGES

    return _spec({name: list(values) for name, values in AVERAGES.items()}, incomplete)


def cell_options(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The options of the cell that is typed before, or of the default one."""
    return _options_of("cell", ctx, incomplete)


def task_options(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The options of the task that is typed before, or of the default one."""
    return _options_of("task", ctx, incomplete)


def _options_of(owner: str, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    """The options of an installed cell or task; of a file they are not completed, since that would execute it."""
    from dataclasses import fields

    from rnn_lab.settings import Settings
    from rnn_plugins import registry

    typed = ctx.params.get(owner) or ctx.params.get(f"{owner}s") or getattr(Settings, owner)
    name = (typed if isinstance(typed, str) else typed[-1]).partition(":")[0]
    group = f"{owner}s"
    if name not in {entry.name for entry in registry.entries(group)}:
        return []
    cls = registry.load(group, name)
    others = {"input_size", "hidden_size"} if owner == "cell" else cls.of_assessment
    return _beginning([f"{f.name}=" for f in fields(cls) if f.name not in others], incomplete)


def _spec(parameters: dict[str, list[str]], incomplete: str) -> list[CompletionItem]:
    """A name, or behind it and a colon its parameters."""
    name, colon, rest = incomplete.partition(":")
    if not colon:
        return _beginning(parameters, incomplete)
    before, comma, _ = rest.rpartition(",")
    return _beginning([f"{name}:{before}{comma}{key}=" for key in parameters.get(name, [])], incomplete)


def units(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The states and gates of the typed runs or cells; behind a name and a point the numbers of its units."""
    sizes: dict[str, int] = {}
    for anatomy in _anatomies(ctx):
        sizes |= {state.label: state.size for state in anatomy.states}
        sizes |= {gate.label: gate.size for gate in anatomy.activations}
    label = incomplete.rpartition(".")[0]
    numbers = [f"{label}.{number}" for number in range(sizes.get(label, 0))]
    return _beginning([*numbers, *(f"{label}." for label in sizes if f"{label}." != incomplete)], incomplete)


def gates(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The gates of the typed runs or cells."""
    return _beginning([part.label for anatomy in _anatomies(ctx) for part in anatomy.activations], incomplete)


def _anatomies(ctx: click.Context) -> Iterator[Anatomy]:
    """The parts of the typed cells, if they are installed, or of the typed runs or the newest one."""
    from rnn_cells.anatomy import anatomy
    from rnn_lab.runs import find_run
    from rnn_plugins import registry
    from rnn_plugins.errors import UserError

    cells, installed = ctx.params.get("cells", ()), {entry.name for entry in registry.entries("cells")}
    for name in (spec.partition(":")[0] for spec in cells):
        with suppress(UserError):
            if name in installed:
                yield anatomy(registry.make_cell(name, 1, ctx.params["hidden_size"], {}))
    named = ctx.params.get("runs_or_files") or ctx.args  # where the last option has no value yet
    for name in [] if cells else named or [None]:
        with suppress(UserError):  # there is no such run, it reads no text, or its cell may not be executed
            yield anatomy(find_run(name).language.model.cell)


def sort_keys(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """What runs can be ordered by: what all have, and the metrics of those that there are."""
    return _beginning([*_KEYS, *_metrics()], incomplete)


def filters(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The beginnings of conditions on runs; behind ``cell=`` and ``task=`` the installed ones."""
    key, equals, _ = incomplete.partition("=")
    if not equals:
        return _beginning([f"{key}=" for key in (*_KEYS, *_metrics()) if key != "age"], incomplete)
    if key in ("cell", "task"):
        from rnn_plugins.registry import entries

        return _beginning([f"{key}={entry.name}" for entry in entries(f"{key}s")], incomplete)
    return []


_KEYS = ("age", "name", "task", "cell", "parameters", "steps", "outcome")


def _metrics() -> list[str]:
    """The metrics of the newest runs."""
    import json

    from rnn_lab.paths import MANIFEST, run_folders

    names: dict[str, None] = {}
    for path in run_folders()[:10]:
        with suppress(OSError, ValueError, AttributeError):
            names |= dict.fromkeys(json.loads((path / MANIFEST).read_bytes())["metrics"])
    return list(names)


def _beginning(words: Iterable[str], incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(word) for word in dict.fromkeys(words) if word.startswith(incomplete)]
