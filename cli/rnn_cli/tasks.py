"""``rnn tasks``: list, show and check tasks."""

from __future__ import annotations

import dataclasses

import click

from rnn_cli import console
from rnn_cli.console import say
from rnn_cli.options import like, of_list, separated
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

TASK, TASK_OPTION = named("task", "pool=mean")


@click.group(invoke_without_command=True)
@JSON
@click.pass_context
def tasks(ctx: click.Context, as_json: bool) -> None:
    """List the installed tasks, show one, or check one.

    Without a command, it lists them with distribution, version and a summary, or the reason why one cannot be used.
    """
    of_list(ctx, "tasks")
    if ctx.invoked_subcommand is None:
        list_installed("tasks", as_json)


@tasks.command()
@TASK
@click.argument("files", nargs=-1, type=click.Path(readable=False), metavar="[FILE]...")
@like("cell", "Cell of the network.", "gru")
@like("hidden_size", "Units per layer.", 256)
@TASK_OPTION
@JSON
def show(
    task: str, files: tuple[str, ...], cell: str, hidden_size: int, options: dict[str, str], as_json: bool
) -> None:
    """Show a task.

    What the network learns, its options, what it counts, its metrics, its default files, and how the time loops of its
    network run on FILES, by default on its default files.
    """
    from rnn_plugins.inspect.description import describe_task

    s = describe_task(*separated("task", task, options), files, *separated("cell", cell, {}), hidden_size)
    if as_json:
        described = dataclasses.asdict(s) | {"options": [option_as_json(option) for option in s.options]}
        described["metrics"] = {
            name: {"unit": metric.unit, "direction": metric.direction} for name, metric in s.metrics.items()
        }
        click.echo(console.as_json(described, indent=2, default=str))
        return
    click.echo(f"{click.style(printable(s.name), bold=True)}, from {printable(s.origin)}\n")
    click.echo(prose(s.text.replace("``", "") or "It has no docstring."))
    show_options(s.options, "--task-option")
    head("What is counted")
    click.echo(f"  {printable(s.unit)}\n")
    head("Metrics")
    rows = []
    for name, metric in s.metrics.items():
        better = "lower is better" if metric.direction == "min" else "higher is better"
        uses = ["chooses the weights to keep"] if name == s.best else []
        uses += ["compares runs"] if name == s.compared else []
        rows.append((name, metric.unit, ", ".join([better, *uses])))
    click.echo(table(rows, indent=2))
    head("Default files")
    click.echo(f"  {printable(', '.join(s.default_files) or 'none: name some')}")
    for loop in s.loops:
        click.echo()
        head(f"Time loop of {printable(loop.step.lstrip('_'))}")
        show_time_loop(loop.time_loop)
    if s.why_no_loops:
        click.echo()
        head("Time loop")
        say(f"  It is unknown, since the default files cannot be read: {s.why_no_loops}")


@tasks.command()
@TASK
@click.argument("files", nargs=-1, type=click.Path(readable=False), metavar="[FILE]...")
@TASK_OPTION
@JSON
@click.pass_context
def check(ctx: click.Context, task: str, files: tuple[str, ...], options: dict[str, str], as_json: bool) -> None:
    """Check a task on FILES.

    The smaller the files, the faster; the default is the task's default files. The checks: a batch is a function of
    the step, padding and the size of a batch change no number, the model can be built again from what a run records,
    gradients and metrics are correct, and the loss falls. Exit code 1 if a check fails.
    """
    from minigrad import blas
    from rnn_plugins.registry import make_task
    from rnn_plugins.testing import check_task

    name, options = separated("task", task, options)
    with blas.managed():
        report = check_task(make_task(name, options), files)
    ctx.exit(show_check(report, "task", name, as_json))
