"""``rnn runs``: what has been trained, and how well it went."""

from __future__ import annotations

import dataclasses

import click

from rnn_cli import console
from rnn_cli.console import remark
from rnn_cli.display import duration, figure
from rnn_cli.tables import table


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def runs(as_json: bool) -> None:
    """List the runs, the one written last first.

    The loss is the lowest that was measured, on the held-out text, or marked with * on the training text. A run that
    cannot be read says why in its row.
    """
    from rnn_lab.paths import runs_folder
    from rnn_lab.runs import find_runs

    found = [run.summary() for run in find_runs()]
    if as_json:
        click.echo(console.as_json([dataclasses.asdict(s) for s in found], indent=2))
        return
    if not found:
        remark(f"There are no runs in {runs_folder()}: train one with rnn train")
        return
    rows = []
    for s in found:
        if s.error:
            rows.append((s.name, "", "", "", "", "", "", "", s.error))
            continue
        mark = "" if s.held_out else "*"
        nats, bits = ("" if x is None else figure(x) + mark for x in (s.loss, s.bits))
        rows.append((s.name, s.task, s.cell, s.size, nats, bits, f"{s.step:,}", duration(s.age or 0), s.outcome))
    heads = ("NAME", "TASK", "CELL", "SIZE", "NATS", "BITS/CHAR", "STEPS", "AGE", "OUTCOME")
    click.echo(table(rows, heads, "<<<<>>>><"), nl=False)
