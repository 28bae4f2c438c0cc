"""``rnn watch``: a page on this machine that follows a run while it trains."""

from __future__ import annotations

import os
import sys
import threading
import time

import click

from rnn_cli import completion
from rnn_cli.console import remark, say
from rnn_cli.options import TRUST
from rnn_plugins.errors import UserError

SECONDS = 1.0
"""Time between two looks at the run's files."""

LARGEST = 65535
"""The largest number of a port."""

EXAMPLES = """\b
Examples:
  rnn watch
  rnn watch gru-book --no-browser --port 8000"""


@click.command(epilog=EXAMPLES)
@click.argument("run", metavar="[RUN]", default=None, required=False, shell_complete=completion.runs)
@click.option("--port", metavar="N", type=int, default=0, help="Port.  [default: any free one]")
@click.option("--no-browser", is_flag=True, help="Print the address only, without opening a browser.")
@TRUST
def watch(run: str | None, port: int, no_browser: bool) -> None:
    """Show a run while it trains, in the browser.

    RUN need not exist yet; the default is the newest. The page follows what the run records: its losses, learning
    rate, gradient norm and flow, and samples by its best weights. It is served on 127.0.0.1 until Ctrl-C, to those who
    know its address, which holds a random token. The run is only read.
    """
    from rnn_lab.drawing import watching as drawing
    from rnn_lab.serving import Server
    from rnn_lab.watching import Watched

    if not 0 <= port <= LARGEST:
        raise UserError(f"--port is {port}; it must be from 0 (any free one) to {LARGEST}")
    name = run if run is not None else _newest()
    watched = Watched(name)
    with Server(drawing.html(name), watched.told, port) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        say(server.address)
        remark(f"{name}: {watched.sentence} Ctrl-C ends the page.")
        sys.stdout.flush()
        if not no_browser and _has_display():
            import webbrowser

            webbrowser.open(server.address)
        try:
            while True:
                time.sleep(SECONDS)
                watched.refresh()
                watched.sample()
        except KeyboardInterrupt:
            click.echo(err=True)  # end the line on which the terminal shows ^C
            remark("The page is no longer served.")
        finally:
            server.shutdown()


def _newest() -> str:
    """The run that was written last, even if it has no weights yet.

    Raises:
        UserError: there are no runs.
    """
    from rnn_lab.paths import MANIFEST
    from rnn_lab.runs import find_run, find_runs

    return next((run.name for run in find_runs() if (run.path / MANIFEST).is_file()), "") or find_run().name


def _has_display() -> bool:
    """Whether a browser has a screen to open on; a text browser would take this terminal."""
    if sys.platform in ("darwin", "win32"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
