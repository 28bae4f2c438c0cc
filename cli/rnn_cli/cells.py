"""``rnn cells``: what is installed, what a cell is made of, and whether it keeps what a cell promises."""

from __future__ import annotations

import dataclasses
import sys
import textwrap
from typing import TYPE_CHECKING, Any

import click

from rnn_cli import completion, console
from rnn_cli.console import say
from rnn_cli.options import pairs
from rnn_cli.tables import prose, table
from rnn_lab.printable import printable

if TYPE_CHECKING:
    from rnn_plugins.inspect.description import TimeLoop
    from rnn_plugins.options import Option

JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")


CELL = click.argument("cell", metavar="NAME|FILE:CLASS", shell_complete=completion.cells)
CELL_OPTION = click.option(
    "--cell-option",
    "options",
    metavar="NAME=VALUE",
    multiple=True,
    callback=lambda ctx, param, texts: pairs("cell_option", texts, "forget_bias=2"),
    help="An option of the cell's own.",
)


@click.group(invoke_without_command=True)
@JSON
@click.pass_context
def cells(ctx: click.Context, as_json: bool) -> None:
    """List the installed cells, show one, or check one.

    Without a command, it lists them: name, distribution, version and a line on each, or why one cannot be used.
    """
    if ctx.invoked_subcommand is None:
        _list(as_json)


def _list(as_json: bool) -> None:
    from rnn_plugins.registry import describe, entries

    found = [(entry, describe("cells", entry)) for entry in entries("cells")]
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


@cells.command()
@CELL
@click.option("--input-size", default=65, show_default=True, help="Width of an input: with one-hot, the symbols.")
@click.option("--hidden-size", default=256, show_default=True, help="Units.")
@CELL_OPTION
@click.option("--graph", is_flag=True, help="Show what a step computes instead, an operation a line.")
@JSON
def show(cell: str, input_size: int, hidden_size: int, options: dict[str, str], graph: bool, as_json: bool) -> None:
    """Show a cell: its equations and paper, its options, its parameters, and how its time loop runs."""
    from rnn_plugins.inspect.description import sheet, step_graph

    if graph:
        lines = step_graph(cell, input_size, hidden_size, options).splitlines()
        click.echo(console.as_json({"name": cell, "graph": lines}, indent=2) if as_json else _graph(lines))
        return
    s = sheet(cell, input_size, hidden_size, options)
    if as_json:
        described = dataclasses.asdict(s) | {"options": [_option(option) for option in s.options]}
        click.echo(console.as_json(described, indent=2, default=str))
        return
    click.echo(f"{click.style(printable(s.name), bold=True)}, from {printable(s.origin)}\n")
    click.echo(prose(s.text.replace("``", "") or "It has no docstring, and so no equations to show."))
    if s.options:
        _head("Options, as --cell-option NAME=VALUE")
        rows = [(option.name, option.expected, _default(option)) for option in s.options]
        click.echo(table(rows, indent=2))
    _head(f"Parameters at --input-size {s.input_size} --hidden-size {s.hidden_size}: {s.count:,}")
    click.echo(table([(path, _shape(shape)) for path, shape in s.parameters.items()], indent=2))
    _head("Carry of a sequence")
    click.echo(table([(path or "one array", _shape(shape)) for path, shape in s.carry.items()], indent=2))
    _head("Suggested learning rate")
    warm_up = f", after a warm-up of {s.warmup} steps" if s.warmup else ""
    click.echo("  none\n" if s.learning_rate is None else f"  {s.learning_rate:g}{warm_up}\n")
    _head("Time loop")
    _show_time_loop(s.time_loop)


def _graph(lines: list[str]) -> str:
    """A line an operation; on a terminal as many as it takes, those that go on one indented."""
    lines = [printable(line) for line in lines]
    if sys.stdout.isatty():
        width = console.columns(sys.stdout)
        lines = [textwrap.fill(line, width, subsequent_indent="    ", break_on_hyphens=False) for line in lines]
    return "\n".join(lines)


def _show_time_loop(loop: TimeLoop) -> None:
    if loop.reason:
        say(f"  It runs step by step, which is slow: {loop.reason}.")
        return
    rows = []
    for stage in loop.stages:
        name, _, found = stage.partition(": ")
        rows += [("" if i else name, part) for i, part in enumerate(found.split("; "))]
    say(f"  It is planned, and runs on the backend {loop.backend} where there is much to do:")
    click.echo(table(rows, indent=2), nl=False)


@cells.command()
@CELL
@CELL_OPTION
@JSON
@click.pass_context
def check(ctx: click.Context, cell: str, options: dict[str, str], as_json: bool) -> None:
    """Check a cell: its gradients against finite differences, and all that the time loop relies on.

    Exit code 1 if something does not hold.
    """
    from minigrad import blas
    from rnn_plugins.registry import make_cell
    from rnn_plugins.testing import check_cell

    with blas.managed():
        report = check_cell(make_cell(cell, 3, 4, options))
    if as_json:
        checks = [c._asdict() for c in report.checks]
        record = {"cell": cell, "passed": report.passed, "error": report.error, "checks": checks}
        click.echo(console.as_json(record, indent=2))
    else:
        for c in report.checks:
            error = "" if c.error is None else f"{c.error:.1e}"
            mark = click.style("ok  ", fg="green") if c.passed else click.style("FAIL", fg="red", bold=True)
            click.echo(f"  {mark}  {printable(c.name):<40}  {error:>7}".rstrip())
            if c.detail:
                say(f"        {c.detail}")
        say(_conclusion(cell, len(report.checks), len(report.failures), report.error))
    ctx.exit(0 if report.passed else 1)


def _conclusion(cell: str, checks: int, failures: int, error: float) -> str:
    if failures:
        return f"{cell} fails {failures} of {checks} checks."
    return f"{cell} passes all {checks} checks; the largest relative error is {error:.1e}."


def _option(option: Option) -> dict[str, Any]:
    described: dict[str, Any] = {"name": option.name, "expected": option.expected, "choices": list(option.choices)}
    return described | ({} if option.default is dataclasses.MISSING else {"default": option.default})


def _default(option: Option) -> str:
    if option.default is dataclasses.MISSING:
        return "must be given"
    default = str(option.default)
    return f"default {default.lower() if option.type is bool else default}"


def _shape(shape: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"


def _head(text: str) -> None:
    click.secho(text, bold=True)
