"""``rnn explain``: print a derivation with its numbers."""

from __future__ import annotations

from typing import Any

import click

from rnn_cli import console
from rnn_cli.plugins import JSON


@click.group()
def explain() -> None:
    """Explain a computation step by step, with its numbers."""


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


@explain.command()
@TEXT
@click.option("--steps", metavar="N", default=3, show_default=True, help="Number of time steps to go back.")
@_small
def bptt(text: str, steps: int, hidden_size: int, seed: int) -> None:
    """Derive backpropagation through time as the lecture does.

    Every Jacobian, product and contribution is printed. The sums are compared with the gradient that automatic
    differentiation computes for the same network.
    """
    from rnn_cli.explanations.bptt import show
    from rnn_plugins.inspect.bptt import bptt as derive

    show(derive(text, steps, hidden_size, seed))
