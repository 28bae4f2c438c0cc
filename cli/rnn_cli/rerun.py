"""``rnn rerun``: repeat a run from its manifest, and compare the weights."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

import click

from rnn_cli import completion
from rnn_cli.arguments import reading
from rnn_cli.console import say
from rnn_cli.display import emit
from rnn_cli.options import BACKENDS, PROGRESS, TRUST
from rnn_cli.training import carry_out

if TYPE_CHECKING:
    from rnn_lab.settings import Backend


@click.command()
@click.argument("run", required=False, shell_complete=completion.runs)
@click.option("--name", help="Name of the new run.  [default: made from cell and data]")
@click.option("--backend", type=BACKENDS, help="How to run the time loop.  [default: as in RUN]")
@TRUST
@PROGRESS
@click.option("--quiet", "-q", is_flag=True, help="Print nothing but errors.")
@click.option("--json", "as_json", is_flag=True, help="Print a record per line on standard output.")
@click.pass_context
def rerun(
    ctx: click.Context, run: str | None, name: str | None, backend: Backend | None, quiet: bool, as_json: bool
) -> None:
    """Repeat a run from its manifest.

    RUN defaults to the newest run. The repetition is a new run. At the end, a line says whether its weights are
    identical to those of RUN, bit for bit; on the same machine, with the same data and versions, they are.
    """
    from rnn_lab import sessions
    from rnn_lab.runs import find_run

    first = find_run(run)
    with nullcontext() if quiet else reading((*first.settings.files, *first.settings.valid)):
        session = sessions.repeat(first, name=name, backend=backend)
    code = carry_out(session, quiet=quiet, as_json=as_json)
    if not code:
        same = sessions.same_weights(first, session.run)
        if as_json:
            emit({"identical": same})
        elif not quiet:
            words = {True: "are identical to", False: "differ from", None: "are of another step than"}[same]
            say(f"The weights {words} those of {first.name}.")
    ctx.exit(code)
