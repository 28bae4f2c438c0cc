"""Shared by ``rnn cells`` and ``rnn tasks``: the list of installed ones, their options, and the results of checks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import click

from rnn_cli import console
from rnn_cli.console import say
from rnn_cli.options import COMPLETED, SETTINGS, pairs
from rnn_cli.tables import filled, table
from rnn_lab.printable import printable

if TYPE_CHECKING:
    from rnn_plugins.inspect.description import TimeLoop
    from rnn_plugins.options import Option
    from rnn_plugins.testing import CheckReport

JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")

Decorator: TypeAlias = Callable[[Any], Any]


def named(word: str, example: str) -> tuple[Decorator, Decorator]:
    """The argument that names a cell or a task, and the option with its options.

    Args:
        word: "cell" or "task".
        example: of an option, NAME=VALUE.
    """
    name = f"{word}_option"
    return (
        click.argument(word, metavar=SETTINGS[word].metavar, shell_complete=COMPLETED[word]),
        click.option(
            f"--{word}-option",
            "options",
            metavar="NAME=VALUE",
            multiple=True,
            callback=lambda ctx, param, texts: pairs(name, texts, example),
            help=f"Option of the {word}; may be repeated.",
        ),
    )


def list_installed(group: str, as_json: bool) -> None:
    """Print a line per entry: name, distribution, version and a summary, or why it cannot be used."""
    from rnn_plugins.registry import describe, entries

    found = [(entry, describe(group, entry)) for entry in entries(group)]
    if as_json:
        rows = [
            {
                "name": entry.name,
                "distribution": entry.distribution,
                "version": entry.version,
                "summary": row.summary,
                "error": row.error,
            }
            for entry, row in found
        ]
        click.echo(console.as_json(rows, indent=2))
        return
    lines = [
        (entry.name, entry.distribution, entry.version, f"cannot be used: {row.error}" if row.error else row.summary)
        for entry, row in found
    ]
    click.echo(table(lines, ("NAME", "DISTRIBUTION", "VERSION", "SUMMARY")), nl=False)


def show_options(options: Sequence[Option], flag: str) -> None:
    """Print the options of a cell or a task, each with its values and default."""
    if options:
        head(f"Options, as {flag} NAME=VALUE")
        rows = [[option.name, option.expected, _default(option), option.help] for option in options]
        click.echo(table(rows if any(row[3] for row in rows) else [row[:3] for row in rows], indent=2))


def option_as_json(option: Option) -> dict[str, Any]:
    """An option as JSON; a required one has no default."""
    described: dict[str, Any] = {"name": option.name, "expected": option.expected, "choices": list(option.choices)}
    if option.default is not dataclasses.MISSING:
        described["default"] = option.default
    return described | ({"help": option.help} if option.help else {})


def show_check(report: CheckReport, word: str, spec: str, as_json: bool) -> int:
    """Print a line per check, and a summary.

    Returns:
        The exit code: 1 if a check fails.
    """
    if as_json:
        checks = [c._asdict() for c in report.checks]
        record = {word: spec, "passed": report.passed, "error": report.error, "checks": checks}
        click.echo(console.as_json(record, indent=2))
        return 0 if report.passed else 1
    for c in report.checks:
        error = "" if c.error is None else f"{c.error:.1e}"
        mark = click.style("ok  ", fg="green") if c.passed else click.style("FAIL", fg="red", bold=True)
        click.echo(f"  {mark}  {printable(c.name):<40}  {error:>7}".rstrip())
        if c.detail:
            say(f"        {c.detail}")
    if report.passed:
        say(f"{spec} passes all {len(report.checks)} checks; the largest relative error is {report.error:.1e}.")
        return 0
    say(f"{spec} fails {len(report.failures)} of {len(report.checks)} checks.")
    return 1


def show_time_loop(loop: TimeLoop) -> None:
    """Print how a time loop runs."""
    if loop.reason:
        say(f"  It runs step by step, which is slow: {loop.reason}.")
        return
    rows = []
    for stage in loop.stages:
        name, _, found = stage.partition(": ")
        rows += [("" if i else name, part) for i, part in enumerate(found.split("; "))]
    say(f"  It is planned, and runs on the backend {loop.backend} if it is large enough:")
    click.echo(table(rows, indent=2), nl=False)


def head(text: str) -> None:
    """The head of a section."""
    click.secho(filled(text), bold=True)


def _default(option: Option) -> str:
    if option.default is dataclasses.MISSING:
        return "must be given"
    default = str(option.default)
    return f"default {default.lower() if option.type is bool else default}"
