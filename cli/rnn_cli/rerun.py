"""``rnn rerun``: a run once more, from what its manifest says, and whether it came out the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from rnn_cli import completion
from rnn_cli.console import say
from rnn_cli.display import emit
from rnn_cli.options import BACKENDS, QUIET, TRUST
from rnn_cli.training import carry_out

if TYPE_CHECKING:
    from rnn_lab.settings import Backend


@click.command()
@click.argument("run", required=False, shell_complete=completion.runs)
@click.option("--name", help="What the new run is called. [made from cell and text]")
@click.option("--backend", type=BACKENDS, help="What carries out the time loop. [as in RUN]")
@TRUST
@QUIET
@click.option("--json", "as_json", is_flag=True, help="A record a line on standard output.")
@click.pass_context
def rerun(
    ctx: click.Context, run: str | None, name: str | None, backend: Backend | None, quiet: bool, as_json: bool
) -> None:
    """Repeat a run from its manifest.

    RUN is the newest one, if none is named. The repetition is a run of its own. At the end it says whether its weights
    are those of RUN, bit for bit, as they are on the same machine with the same text and versions.
    """
    from rnn_lab import sessions
    from rnn_lab.runs import find_run

    first = find_run(run)
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
