"""``rnn train``: train a network, start from another's weights, or resume a run."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import click

from rnn_cli import completion, piped
from rnn_cli.arguments import reading
from rnn_cli.console import show_progress
from rnn_cli.options import OPTIONS, TrainingCommand, collect, naming_preset
from rnn_cli.training import carry_out

EXAMPLES = """\b
Examples:
  rnn train book.txt
  rnn train book.txt --cell lstm --hidden-size 512 --max-time 10m
  rnn train --resume lstm-book"""


@click.command(cls=TrainingCommand, epilog=EXAMPLES)
@click.argument(
    "files",
    nargs=-1,
    type=click.Path(allow_dash=True, readable=False),
    metavar="[FILES]...",
    shell_complete=completion.sources,
)
@click.pass_context
def train(ctx: click.Context, /, files: tuple[str, ...], **given: Any) -> None:
    """Train a network on a text, or for another task.

    FILES are the data of the task. A language model reads text files, folders, globs, .gz files or - (standard input),
    one after the other. The default is the built-in corpus builtin:latex; builtin:hello is a small one.

    The run becomes a folder in runs/, or in the folder that the environment variable RNN_RUNS names. Ctrl-C ends it
    after the current step and a validation, and --resume continues it.
    """
    wanted = collect(files, given)
    name, resumed, source = (wanted.pop(key, None) for key in ("name", "resume", "init_from"))
    preset = wanted.pop("preset", ("", {}))
    quiet, as_json = (wanted.pop(key, False) for key in ("quiet", "json"))
    if how := wanted.pop("progress", None):  # of a configuration file
        show_progress(how)
    from rnn_lab import sessions
    from rnn_lab.runs import find_run
    from rnn_lab.tracking import require_writer
    from rnn_plugins.errors import UserError

    if wanted.get("track"):
        require_writer()
    if resumed and (source or name not in (None, resumed)):
        raise UserError(f"--resume keeps the run's name and weights: leave out {'--init-from' if source else '--name'}")
    before = find_run(resumed) if resumed else None
    if given["flow_every"] is not None and not wanted.get("flow") and not (before and before.settings.flow):
        raise UserError("--flow-every applies only with --flow: add --flow, or leave it out")
    if not quiet and not wanted.get("files") and not (before and "-" in before.settings.files):
        piped.ignored("rnn train - reads it as data")
    everything = before.settings.to_json() | wanted if before else wanted
    named = (everything.get(key) for key in ("files", "valid", "test"))
    lists = ([some] if isinstance(some, str) else some for some in named)
    sources = [file for some in lists if isinstance(some, list | tuple) for file in some]  # settings refuse others
    with nullcontext() if quiet else reading(sources), naming_preset(*preset):
        if before:
            session = sessions.resume(before, wanted)
        else:
            session = sessions.start(wanted, name=name, init_from=find_run(source) if source else None)
    ctx.exit(carry_out(session, quiet=quiet, as_json=as_json))


train.params += OPTIONS
