"""The command ``rnn``: lists its subcommands, imports the one that is called, and turns errors into sentences."""

from __future__ import annotations

import errno
import importlib
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from rnn_cli.console import prepare, unless_stuck, wrapped
from rnn_lab.printable import printable

COMMANDS = {
    "train": ("rnn_cli.train", "Train a network on a text, or for another task."),
    "predict": (
        "rnn_cli.predict",
        "Predict labels, tags, translations, values or next characters with a network.",
    ),
    "sample": ("rnn_cli.sample", "Generate text or images with a trained network."),
    "eval": ("rnn_cli.eval", "Measure a trained network on data, beside baselines."),
    "score": ("rnn_cli.score", "Colour a text by how much each character surprises a network."),
    "report": ("rnn_cli.report", "Show what a network remembers and why it forgets."),
    "watch": ("rnn_cli.watch", "Show a run while it trains, in the browser."),
    "compare": ("rnn_cli.compare", "Compare runs, or train cells side by side."),
    "rerun": ("rnn_cli.rerun", "Repeat a run from its manifest."),
    "runs": ("rnn_cli.runs", "List the runs."),
    "cells": ("rnn_cli.cells", "List, show and check the installed cells."),
    "tasks": ("rnn_cli.tasks", "List, show and check the installed tasks."),
    "explain": ("rnn_cli.explain", "Explain a cell or a derivation step by step, with its numbers."),
}
"""Each command's module, in which it has its own name, and its line in ``rnn --help``."""

DRAWS = "rnn report --kind loss draws the losses of a run, and rnn report --list lists what else can be drawn"

INSTEAD = {
    **dict.fromkeys(("plot", "draw", "chart", "graph", "curve", "curves", "visualize", "visualise"), DRAWS),
    **dict.fromkeys(("generate", "write", "complete"), "rnn sample generates text"),
    **dict.fromkeys(("test", "evaluate", "validate"), "rnn eval measures a run on data"),
    **dict.fromkeys(("resume", "continue"), "rnn train --resume RUN resumes a run"),
    **dict.fromkeys(("list", "ls"), "rnn runs lists the runs, and rnn cells the cells"),
    **dict.fromkeys(
        ("serve", "dashboard", "monitor", "follow", "tensorboard"), "rnn watch shows a run while it trains"
    ),
    "models": "rnn runs lists the runs",
}
"""What to use in place of commands that people know from elsewhere."""

TYPED = "rnn_cli.typed"
"""The key of the typed arguments in a context."""


SAYS = "Error: "
"""What Click writes before a message."""


@contextmanager
def _printable_messages() -> Iterator[None]:
    """Within this block the messages of Click's exceptions lose control characters, and are wrapped on a terminal."""
    try:
        yield
    except click.exceptions.NoArgsIsHelpError:  # its message is our own help
        raise
    except click.ClickException as error:
        message = printable(error.message)
        if sys.stderr.isatty() and type(error).format_message is click.ClickException.format_message:
            message = wrapped(message, after=SAYS)
        vars(error)["message"] = message  # declared as final
        raise


class LazyGroup(click.Group):
    """A group that imports a command's module only when the command is used, so that ``--help`` is fast."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """As in Click, with streams that accept any text."""
        prepare()
        if os.environ.get("_RNN_COMPLETE", "").startswith("bash"):
            importlib.import_module("rnn_cli.bash")  # it adds itself to the shells of Click
        return super().main(*args, **extra)

    @_printable_messages()
    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """As in Click."""
        return super().make_context(*args, **extra)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands in the order of ``COMMANDS``."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import a command."""
        if name not in COMMANDS:
            return None
        module = importlib.import_module(COMMANDS[name][0])
        command: click.Command = getattr(module, name)
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As in Click; the typed arguments are kept for messages that suggest a corrected command.

        ``help COMMAND`` is ``COMMAND --help``.
        """
        ctx.meta[TYPED] = list(args)
        if args[:1] == ["help"]:
            args = [*(word for word in args if word != "help"), "--help"]
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As in Click, with a suggestion for an unknown command."""
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            from rnn_plugins.errors import most_similar

            if instead := INSTEAD.get(args[0].lower()):
                ctx.fail(f"There is no command called {args[0]!r}: {instead}.")
            similar = most_similar(args[0], [*COMMANDS, *INSTEAD])
            hint = f". Did you mean {similar!r}?" if similar else "."
            if similar in INSTEAD:
                hint = f", nor {similar!r}: {INSTEAD[similar]}."
            ctx.fail(f"There is no command called {args[0]!r}{hint} Commands: {', '.join(COMMANDS)}.")
        name, command, rest = super().resolve_command(ctx, args)
        if command is None or not any(word.startswith("--") for word in rest):
            return name, command, rest
        from rnn_cli.spelling import spelled

        return name, command, spelled(command, rest, getattr(command, "understood", ()))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table of commands, without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    @_printable_messages()
    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; an error is reported in one sentence, with ``--debug`` as a traceback."""
        from rnn_cli.engine_warnings import warnings_as_notes
        from rnn_plugins.errors import UserError

        debug = ctx.params.get("debug") or bool(os.environ.get("RNN_DEBUG"))
        try:
            with warnings_as_notes():
                return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt:
            with unless_stuck():
                sys.stdout.flush()
            click.echo(err=True)  # end the line on which the terminal shows ^C
            raise click.exceptions.Exit(130) from None
        except UserError as error:
            if debug:
                raise
            from rnn_plugins.trust import Untrusted

            again = f": {_with_trust(ctx.meta[TYPED])}" if isinstance(error, Untrusted) else ""
            raise Mistake(f"{error}{again}") from None
        except MemoryError:
            raise click.ClickException(
                "there is not enough memory: a smaller --hidden-size, --batch-size or --seq-length needs less"
            ) from None
        except OSError as error:
            if debug or error.errno == errno.EPIPE:  # Click exits silently if the reader is gone
                raise
            file = f"{os.fspath(error.filename)!r}: " if error.filename is not None else ""
            full = errno.errorcode.get(error.errno or 0) in ("ENOSPC", "EDQUOT")
            if full and not file:  # errors of files have their names
                file = "standard output: "
            advice = "; make room on it, and run the same command again" if full else ""
            raise click.ClickException(f"{file}{(error.strerror or str(error)).lower()}{advice}") from None
        except Exception as error:
            if debug:
                raise
            from rnn_lab.blame import plugin_mistake

            if whose := plugin_mistake(error):
                raise Mistake(f"{whose} (rnn --debug ... shows the traceback)") from None
            raise click.ClickException(
                f"this is a bug in rnn-lab: {type(error).__name__}: {error}. "
                "Run it again as rnn --debug ... for the traceback that a bug report needs."
            ) from None


def _with_trust(typed: list[str]) -> str:
    """The typed command, with --trust after the command's name."""
    after = 1 + next(i for i, word in enumerate(typed) if word in COMMANDS)
    return shlex.join(["rnn", *typed[:after], "--trust", *typed[after:]])


class Mistake(click.ClickException):
    """A user's mistake."""

    exit_code = 2


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@click.version_option(package_name="rnn-lab", prog_name="rnn")
def rnn(debug: bool) -> None:
    """A laboratory for recurrent neural networks.

    rnn train FILE trains one on a text, and rnn sample generates text with it. rnn tasks lists what else a network can
    learn, and rnn predict applies it; rnn cells lists the kinds of cell. rnn help COMMAND shows a command's options.
    """
