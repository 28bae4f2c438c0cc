"""``rnn runs``: list the runs with their metrics, show, remove and rename them."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from rnn_cli import completion, console
from rnn_cli.console import remark
from rnn_cli.display import amount, memory, number
from rnn_cli.options import of_list
from rnn_cli.tables import filled, table
from rnn_lab.printable import printable
from rnn_plugins.errors import UserError

if TYPE_CHECKING:
    from rnn_lab.runs import Run, Summary

EXAMPLES = """\b
Examples:
  rnn runs --filter cell=gru --sort loss
  rnn runs --filter "name=gru-*" --filter "loss<1.5"
  rnn runs show gru-book
  rnn runs mv gru-book first-try
  rnn runs rm first-try"""


@click.group(invoke_without_command=True, epilog=EXAMPLES, subcommand_metavar="[show|rm|mv]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.option(
    "--sort",
    metavar="KEY",
    default="",
    shell_complete=completion.sort_keys,
    help="Order by a metric (the best first), name, cell, parameters, steps, age or a setting.  "
    "[default: the most recently written first]",
)
@click.option(
    "--filter",
    "conditions",
    metavar="KEY=VALUE",
    multiple=True,
    shell_complete=completion.filters,
    help="Only runs such as cell=gru, name=gru-*, hidden_size>128 or loss<1.5; may be repeated.",
)
@click.pass_context
def runs(ctx: click.Context, as_json: bool, sort: str, conditions: tuple[str, ...]) -> None:
    """List the runs, the most recently written first, in a table per task.

    The metrics are those of the best weights on the held-out data; * marks metrics on the training data. If a run
    cannot be read, its row says why.
    """
    if ctx.invoked_subcommand:
        of_list(ctx, "runs")
        return
    from rnn_lab import selecting
    from rnn_lab.paths import runs_folder
    from rnn_lab.runs import find_runs

    every = selecting.listed(find_runs())
    chosen = selecting.matching(every, conditions)
    found = [each.row for each in (selecting.ordered(chosen, sort) if sort else chosen)]
    if as_json:
        click.echo(console.as_json([_plain(s) for s in found], indent=2))
        return
    if not found:
        none = f"There are no runs in {runs_folder()}: train one with rnn train"
        remark(f"No run in {runs_folder()} meets that, of {len(every):,}." if every else none)
        return
    # The runs of each task have a table of their own, with its metrics; those that cannot be read are in the first.
    first = next((s.task for s in found if not s.error), "")
    tasks = list(dict.fromkeys(first if s.error else s.task for s in found))
    tables = [(task, _table([s for s in found if (first if s.error else s.task) == task])) for task in tasks]
    parts = [f"{click.style(printable(task), bold=True)}\n{rows}" if len(tasks) > 1 else rows for task, rows in tables]
    click.echo("\n".join(parts), nl=False)


def _table(found: Sequence[Summary]) -> str:
    """Runs of one task. The same metric may have another head with other options of it."""
    heads = [{name: metric.head or name.upper() for name, metric in s.declared.items()} for s in found]
    differing = {name for s in found for name, metric in s.declared.items() if not metric.equals}
    columns = list(dict.fromkeys(column for some in heads for column in some.items() if column[0] in differing))
    rows = []
    for s, own in zip(found, heads, strict=True):
        if s.error:
            rows.append((s.name, *[""] * (4 + len(columns)), s.error))
            continue
        mark = "" if s.held_out else "*"
        metrics = [
            number(s.metrics[name], s.declared[name].digits) + mark
            if own.get(name) == head and name in s.metrics
            else ""
            for name, head in columns
        ]
        rows.append((s.name, s.cell, s.size, *metrics, f"{s.step:,}", _age(s.age or 0), s.outcome))
    names = ("NAME", "CELL", "SIZE", *(head for _, head in columns), "STEPS", "AGE", "OUTCOME")
    return table(rows, names, f"<<<{'>' * len(columns)}>><")


def _age(seconds: float) -> str:
    """A time in its largest unit."""
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} s"


def _plain(summary: Summary) -> dict[str, Any]:
    """A row as JSON, with the metrics by their names."""
    plain = {field.name: getattr(summary, field.name) for field in dataclasses.fields(summary)}
    del plain["declared"]
    return plain | {"metrics": dict(summary.metrics)}


@runs.command()
@click.argument("run", required=False, shell_complete=completion.runs)
@click.option("--json", "as_json", is_flag=True, help="Print the manifest as JSON.")
def show(run: str | None, as_json: bool) -> None:
    """Show a run: its network, data, metrics, and the command that makes such a run.

    RUN defaults to the newest run.
    """
    from rnn_lab import keeping
    from rnn_lab.retyping import command_of
    from rnn_lab.runs import find_run

    found = keeping.find(run) if run else find_run()
    manifest = {key: value for key, value in found.manifest.items() if key != "facts"}
    if as_json:
        click.echo(console.as_json(manifest, indent=2))
        return
    click.echo(click.style(printable(found.name), bold=True))
    click.echo(table(_described(found), indent=2), nl=False)
    click.echo("\nMade with:")
    click.echo(f"  {printable(command_of(found))}")


def _described(run: Run) -> list[tuple[str, str]]:
    """What there is to know of a run, in words."""
    from rnn_lab.keeping import size_of

    manifest, row = run.manifest, run.summary()
    data, settings = manifest["data"], run.settings
    metrics = ", ".join(
        amount(run, name, row.metrics)
        for name, metric in row.declared.items()
        if not metric.equals and name in row.metrics
    )
    where = "on held-out data" if run.held_out else "on the training data"
    best = manifest.get("best", {}).get("step")
    found = [
        ("folder", str(run.path)),
        ("task", row.task),
        ("network", f"{row.cell}, {settings.num_layers} x {settings.hidden_size}, {row.parameters:,} parameters"),
        ("data", f"{run.sources}: {data['train']:,} to train on, {data['valid']:,} held out"),
        ("metrics", f"{metrics} {where}{f', at step {best:,}' if best else ''}" if metrics else "not validated yet"),
        ("steps", f"{row.step:,}, {row.outcome}"),
        ("began", f"{manifest.get('environment', {}).get('created', 'unknown')}, seed {settings.seed}"),
        ("size", memory(size_of(run))),
    ]
    if begun := manifest.get("init_from"):
        found.append(("weights of", begun["path"]))
    found += [("resumed", f"after step {each['step']:,}") for each in manifest.get("resumed", [])]
    return found


@runs.command()
@click.argument("names", metavar="RUN...", nargs=-1, required=True, shell_complete=completion.runs)
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
def rm(names: tuple[str, ...], yes: bool) -> None:
    """Remove runs with all their files, after asking.

    Only folders in the folder of runs are removed; of a run that is a link, only the link. A run that is being trained
    is refused.
    """
    from rnn_lab import keeping

    found = [keeping.find(name) for name in dict.fromkeys(names)]
    for run in found:  # before any of them is removed
        with keeping.untrained(run):
            pass
    if not yes:
        if not _may_ask():
            raise UserError(f"there is nobody to ask whether to remove {', '.join(names)}: add --yes")
        for run in found:
            click.echo(filled(printable(f"{run.name}: {_of(run)}")))
        click.confirm("Remove it?" if len(found) == 1 else f"Remove these {len(found)} runs?", abort=True)
    for run in found:
        keeping.remove(run)
        remark(f"Removed: {run.name}")


def _may_ask() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def _of(run: Run) -> str:
    """What would be removed, in words."""
    from rnn_lab.keeping import size_of

    row = run.summary()
    what = "it cannot be read" if row.error else f"{row.cell} {row.size}, {row.step:,} steps, {row.outcome}"
    return f"{what}; {'only the link' if run.path.is_symlink() else memory(size_of(run))}"


@runs.command()
@click.argument("run", shell_complete=completion.runs)
@click.argument("name")
def mv(run: str, name: str) -> None:
    """Give a run another name."""
    from rnn_lab import keeping

    found = keeping.find(run)
    after = keeping.rename(found, name)
    remark(f"{found.name} is now {after.name}, in {after.path}")
