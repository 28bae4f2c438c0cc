"""``rnn explain``: print a derivation with its numbers."""

from __future__ import annotations

import shlex
from typing import Any

import click
from click.shell_completion import CompletionItem

from rnn_cli import completion, console
from rnn_cli.options import of_list, separated
from rnn_cli.plugins import JSON, named
from rnn_cli.tables import table
from rnn_plugins.errors import UserError


class Explanations(click.Group):
    """The group; the name of a cell in the place of a command explains that cell."""

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """As in Click; of any other name, such as a cell's, the command ``cell``."""
        return super().get_command(ctx, name) or self.commands["cell"]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As in Click; a cell's name is an argument of the command ``cell``."""
        first = args[0]
        if first.startswith("-"):
            return super().resolve_command(ctx, args)
        if first not in self.commands:
            _require_cell(first, list(self.commands))
        what = args[:2] if first == "cell" else args[:1]
        if (after := args[len(what) :][:1]) and not after[0].startswith("-"):
            raise UserError(
                f"{after[0]!r} is a word too many; if it is the text to read: "
                f"rnn explain {shlex.join(what)} --text {shlex.quote(after[0])}"
            )
        return super().resolve_command(ctx, args) if first in self.commands else ("cell", self.commands["cell"], args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The commands and the names of the cells."""
        found = super().shell_complete(ctx, incomplete)
        return found + [item for item in completion.cells(ctx, self.params[0], incomplete) if item.type == "plain"]


def _require_cell(spec: str, commands: list[str]) -> None:
    """Refuse what is neither a command nor a cell that is installed or in a file."""
    from rnn_plugins.errors import did_you_mean
    from rnn_plugins.registry import entries

    name, known = spec.partition(":")[0], [*commands, *dict.fromkeys(e.name for e in entries("cells"))]
    if name not in known and not name.endswith(".py"):
        raise UserError(
            f"there is nothing called {spec!r} to explain.{did_you_mean(name, known)} rnn explain lists all: "
            f"{', '.join(known)}"
        )


@click.group(cls=Explanations, invoke_without_command=True, subcommand_metavar="[WHAT] [ARGS]...")
@JSON
@click.pass_context
def explain(ctx: click.Context, as_json: bool) -> None:
    """Explain a cell or a derivation step by step, with its numbers.

    WHAT is one of the commands below or the name of a cell: rnn explain lstm. Without it, all that can be explained is
    listed.
    """
    of_list(ctx, "explanations")
    if ctx.invoked_subcommand is None:
        _list(as_json)


def _list(as_json: bool) -> None:
    """Print a line for each command and each cell."""
    from rnn_plugins.registry import describe, entries

    rows = [(name, command.get_short_help_str(100)) for name, command in explain.commands.items() if name != "cell"]
    for entry in entries("cells"):
        row = describe("cells", entry)
        rows.append((entry.name, f"cannot be used: {row.error}" if row.error else row.summary))
    if as_json:
        click.echo(console.as_json([{"name": name, "summary": summary} for name, summary in rows], indent=2))
        return
    click.echo(table(rows, ("WHAT", "SUMMARY")), nl=False)


def _small(command: Any) -> Any:
    """The options of a network that is small enough to print every number of."""
    for option in (
        click.option("--seed", metavar="N", default=1, show_default=True, help="Random seed for the weights."),
        click.option("--hidden-size", metavar="N", default=3, show_default=True, help="Hidden units."),
    ):
        command = option(command)
    return command


TEXT = click.option(
    "--text", default="hello", show_default=True, help="Text to read; the network predicts each next symbol."
)


@explain.command()
@TEXT
@_small
@click.option("--train", metavar="N", default=0, show_default=True, help="Steps of gradient descent on the text first.")
@click.option("--draws", metavar="N", default=4, show_default=True, help="Number of letters to draw.")
@JSON
def forward(text: str, hidden_size: int, seed: int, train: int, draws: int, as_json: bool) -> None:
    """Read a text with a basic network, letter by letter.

    Its state, its logits, their softmax and the loss after each letter, and letters drawn by hand from the predictions,
    with the random numbers.
    """
    from rnn_plugins.inspect.forward import forward as walk_through
    from rnn_plugins.reports.report import plain

    walk = walk_through(text, hidden_size, seed, train, draws)
    if as_json:
        click.echo(console.as_json(plain(walk) | {"loss": walk.loss, "guessing": walk.guessing}, indent=1))
        return
    from rnn_cli.explanations.forward import show

    show(walk)


CELL, CELL_OPTION = named("cell", "forget_bias=2")


@explain.command()
@CELL
@CELL_OPTION
@TEXT
@click.option("--steps", metavar="N", default=3, show_default=True, help="Number of steps.")
@_small
@JSON
def cell(cell: str, options: dict[str, str], text: str, steps: int, hidden_size: int, seed: int, as_json: bool) -> None:
    """Compute every gate and state of a cell, step by step.

    The word cell may be left out: rnn explain lstm. The numbers and the equations beside them are of the graph of the
    cell's step, and so of any cell whose step can be traced.
    """
    from rnn_plugins.inspect.gates import gates
    from rnn_plugins.reports.report import plain

    cell, options = separated("cell", cell, options)
    found = gates(cell, options, text, steps, hidden_size, seed)
    if as_json:
        click.echo(console.as_json(plain(found), indent=1))
        return
    from rnn_cli.explanations.gates import show

    show(found)


@explain.command()
@TEXT
@click.option("--steps", metavar="N", default=3, show_default=True, help="Number of time steps to go back.")
@_small
@JSON
def bptt(text: str, steps: int, hidden_size: int, seed: int, as_json: bool) -> None:
    """Derive backpropagation through time as the lecture does.

    Every Jacobian, product and contribution is printed. The sums are compared with the gradient that automatic
    differentiation computes for the same network.
    """
    from rnn_plugins.inspect.bptt import bptt as derive
    from rnn_plugins.reports.report import plain

    derivation = derive(text, steps, hidden_size, seed)
    if as_json:
        click.echo(console.as_json(plain(derivation), indent=1))
        return
    from rnn_cli.explanations.bptt import show

    show(derivation)
