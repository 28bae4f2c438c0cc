"""``rnn cells``: list, show and check cells."""

from __future__ import annotations

import dataclasses
import sys
import textwrap

import click

from rnn_cli import console
from rnn_cli.options import of_list, separated
from rnn_cli.plugins import (
    JSON,
    head,
    list_installed,
    named,
    option_as_json,
    show_check,
    show_options,
    show_time_loop,
)
from rnn_cli.tables import prose, table
from rnn_lab.printable import printable

CELL, CELL_OPTION = named("cell", "forget_bias=2")


@click.group(invoke_without_command=True)
@JSON
@click.pass_context
def cells(ctx: click.Context, as_json: bool) -> None:
    """List the installed cells, show one, or check one.

    Without a command, it lists them with distribution, version and a summary, or the reason why one cannot be used.
    """
    of_list(ctx, "cells")
    if ctx.invoked_subcommand is None:
        list_installed("cells", as_json)


@cells.command()
@CELL
@click.option(
    "--input-size",
    metavar="N",
    default=65,
    show_default=True,
    help="Width of the input; with one-hot symbols, their number.",
)
@click.option("--hidden-size", metavar="N", default=256, show_default=True, help="Units per layer.")
@CELL_OPTION
@click.option("--graph", is_flag=True, help="Show what a step computes instead, one operation per line.")
@JSON
def show(cell: str, input_size: int, hidden_size: int, options: dict[str, str], graph: bool, as_json: bool) -> None:
    """Show a cell.

    Its equations and paper, its options, its parameters, and how its time loop runs.
    """
    from rnn_plugins.inspect.description import describe_cell, step_graph

    cell, options = separated("cell", cell, options)
    if graph:
        lines = step_graph(cell, input_size, hidden_size, options).splitlines()
        click.echo(console.as_json({"name": cell, "graph": lines}, indent=2) if as_json else _graph(lines))
        return
    s = describe_cell(cell, input_size, hidden_size, options)
    if as_json:
        described = dataclasses.asdict(s) | {"options": [option_as_json(option) for option in s.options]}
        click.echo(console.as_json(described, indent=2, default=str))
        return
    click.echo(f"{click.style(printable(s.name), bold=True)}, from {printable(s.origin)}\n")
    click.echo(prose(s.text.replace("``", "") or "It has no docstring, so there are no equations to show."))
    show_options(s.options, "--cell-option")
    head(f"Parameters at --input-size {s.input_size} --hidden-size {s.hidden_size}: {s.count:,}")
    click.echo(table([(path, _shape(shape)) for path, shape in s.parameters.items()], indent=2))
    head("Carry of a sequence")
    click.echo(table([(path or "one array", _shape(shape)) for path, shape in s.carry.items()], indent=2))
    head("Suggested learning rate")
    warm_up = f", after a warm-up of {s.warmup} steps" if s.warmup else ""
    click.echo("  none\n" if s.learning_rate is None else f"  {s.learning_rate:g}{warm_up}\n")
    head("Time loop")
    show_time_loop(s.time_loop)


def _graph(lines: list[str]) -> str:
    """One line per operation; on a terminal long lines are wrapped, with indentation."""
    lines = [printable(line) for line in lines]
    if sys.stdout.isatty():
        width = console.columns(sys.stdout)
        lines = [textwrap.fill(line, width, subsequent_indent="    ", break_on_hyphens=False) for line in lines]
    return "\n".join(lines)


@cells.command()
@CELL
@CELL_OPTION
@JSON
@click.pass_context
def check(ctx: click.Context, cell: str, options: dict[str, str], as_json: bool) -> None:
    """Check a cell.

    Its gradients are compared with finite differences; further checks are those that the time loop relies on.

    Exit code 1 if a check fails.
    """
    from minigrad import blas
    from rnn_plugins.registry import make_cell
    from rnn_plugins.testing import check_cell

    cell, options = separated("cell", cell, options)
    with blas.managed():
        report = check_cell(make_cell(cell, 3, 4, options))
    ctx.exit(show_check(report, "cell", cell, as_json))


def _shape(shape: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"
