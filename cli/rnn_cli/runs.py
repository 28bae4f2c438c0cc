"""``rnn runs``: list the runs with their metrics."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from rnn_cli import console
from rnn_cli.console import remark
from rnn_cli.display import duration, number
from rnn_cli.tables import table

if TYPE_CHECKING:
    from rnn_lab.runs import Summary


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def runs(as_json: bool) -> None:
    """List the runs, the most recently written first, in a table per task.

    The metrics are those of the best weights on the held-out data; * marks metrics on the training data. If a run
    cannot be read, its row says why.
    """
    from rnn_lab.paths import runs_folder
    from rnn_lab.runs import find_runs

    found = [run.summary() for run in find_runs()]
    if as_json:
        click.echo(console.as_json([_plain(s) for s in found], indent=2))
        return
    if not found:
        remark(f"There are no runs in {runs_folder()}: train one with rnn train")
        return
    # The runs of each task have a table of their own, with its metrics; those that cannot be read are in the first.
    first = next((s.task for s in found if not s.error), "")
    tasks = list(dict.fromkeys(first if s.error else s.task for s in found))
    tables = [_table([s for s in found if (first if s.error else s.task) == task]) for task in tasks]
    click.echo("\n".join(tables), nl=False)


def _table(found: Sequence[Summary]) -> str:
    """Runs of one task. The same metric may have another head with other options of it."""
    columns = list(dict.fromkeys((name, head) for s in found for name, (head, _) in s.heads.items()))
    rows = []
    for s in found:
        if s.error:
            rows.append((s.name, *[""] * (5 + len(columns)), s.error))
            continue
        mark, known = "" if s.held_out else "*", s.metrics.keys() & s.heads.keys()
        metrics = [
            number(s.metrics[name], s.heads[name][1]) + mark if name in known and s.heads[name][0] == head else ""
            for name, head in columns
        ]
        rows.append((s.name, s.task, s.cell, s.size, *metrics, f"{s.step:,}", duration(s.age or 0), s.outcome))
    heads = ("NAME", "TASK", "CELL", "SIZE", *(head for _, head in columns), "STEPS", "AGE", "OUTCOME")
    return table(rows, heads, f"<<<<{'>' * len(columns)}>><")


def _plain(summary: Summary) -> dict[str, Any]:
    """A row as JSON, with the metrics by their names."""
    plain = dataclasses.asdict(summary)
    del plain["heads"]
    return plain | {"metrics": dict(summary.metrics)}
