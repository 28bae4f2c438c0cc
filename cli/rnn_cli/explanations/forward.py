"""Print a basic network's way through a text: states, predictions, losses, and symbols drawn by hand."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING

import click

from rnn_cli.drawing.bars import bar
from rnn_cli.explanations.layout import formulas, grid, heading, number, paragraph, width
from rnn_cli.explanations.network import network

if TYPE_CHECKING:
    from rnn_plugins.inspect.forward import Draw, Reading, Walk

BAR = 20
"""Maximum columns of a bar."""


def show(walk: Walk) -> None:
    """Print all of it."""
    _network(walk)
    heading("1. Step by step: the state, and the prediction as its softmax")
    for step in walk.steps:
        _step(walk, step)
    _loss(walk)
    _sampling(walk)
    _temperature(walk)
    _what_it_shows(walk)


def _network(walk: Walk) -> None:
    equations = (
        "s_t    = tanh(U x_t + W s_{t-1})",
        "         the state, s_0 = 0",
        "o_t    = V s_t",
        "         the logits",
        "yhat_t = softmax(o_t)",
        "       = exp(o_t) / sum of exp(o_t)",
        "         the prediction",
        "E_t    = -log yhat_t[target]",
        "         the loss, in nats",
    )
    network(walk, f"A small network reads {walk.text!r}", equations, _weights(walk))


def _weights(walk: Walk) -> str:
    if not walk.trained:
        return "The weights are random, and those of rnn explain bptt."
    return (
        f"The weights are those after {walk.trained} steps of gradient descent on the mean loss of this text, which "
        f"was {walk.before:.4f} before."
    )


def _step(walk: Walk, step: Reading) -> None:
    t, before = step.t, step.t - 1
    click.echo(f"  t = {t}   reads {step.symbol!r}, should predict {step.target!r}\n")
    click.echo(f"    x_{t} = ({' '.join(str(round(x)) for x in step.x.tolist())})\n")
    sums = step.from_input + step.from_state
    grid(
        ["unit", f"U x_{t}", f"W s_{before}", "sum", f"s_{t}"],
        [
            [str(unit), *map(number, row)]
            for unit, row in enumerate(zip(step.from_input, step.from_state, sums, step.s, strict=True), start=1)
        ],
    )
    columns = zip(walk.symbols, step.logits, step.exponentials, step.predicted, strict=True)
    grid(
        ["", f"o_{t}", f"exp(o_{t})", f"yhat_{t}"],
        [
            *(
                [repr(symbol), number(o), number(e), number(p), _bar(p, symbol == step.target)]
                for symbol, o, e, p in columns
            ),
            ["sum", "", number(step.exponentials.sum()), number(step.predicted.sum())],
        ],
    )
    p = step.predicted[walk.symbols.index(step.target)]
    click.echo(f"    E_{t} = -log yhat_{t}[{step.target!r}]\n        = -log {_share(p)} = {step.loss:.4f}\n")


def _share(p: float) -> str:
    return f"{p:.4f}" if p >= 0.001 else f"{p:.1e}"


def _bar(share: float, is_target: bool) -> str:
    """A probability as a bar; the target's is marked."""
    room = min(width() - 4 - 6 - 3 * 9 - 12, BAR)
    if room < 4:
        return "<-" if is_target else ""
    drawn = bar(share, room, sys.stdout.encoding)
    return f"{drawn} <- target".lstrip() if is_target else drawn


def _loss(walk: Walk) -> None:
    heading("2. The loss of the text")
    losses = " + ".join(f"{step.loss:.4f}" for step in walk.steps)
    paragraph(
        f"The mean over the steps: ({losses}) / {len(walk.steps)} = {walk.loss:.4f} nats per letter, "
        f"{walk.loss / math.log(2):.4f} bits. Uniform guessing among {len(walk.symbols)} letters would have "
        f"ln {len(walk.symbols)} = {walk.guessing:.4f} nats. Training lowers this number; rnn explain bptt derives its "
        "gradient."
    )


def _sampling(walk: Walk) -> None:
    heading("3. Sampling by hand: a letter drawn from each prediction")
    paragraph(
        f"Draw a number between 0 and 1, uniformly. The first letter whose cumulated probability is above it is the "
        f"next one, and the network reads it. The text begins with {walk.text[0]!r}."
    )
    for draw in walk.draws:
        _draw(walk, draw)
    last = walk.draws[-1]
    paragraph(f"The text is {last.text + last.symbol!r}.")


def _draw(walk: Walk, draw: Draw) -> None:
    click.echo(f"  after {draw.text!r}   drawn number {draw.number:.4f}\n")
    grid(
        ["", "yhat", "cumulated"],
        [
            [repr(symbol), number(p), number(c), "<- drawn" if symbol == draw.symbol else ""]
            for symbol, p, c in zip(walk.symbols, draw.predicted, draw.cumulated, strict=True)
        ],
    )


def _temperature(walk: Walk) -> None:
    first = walk.draws[0]
    found = walk.at_temperatures()
    heading(f"4. Temperature: the prediction after {first.text!r}, sharper or flatter")
    formulas("softmax(o_t / T)", "  = yhat_t^(1/T), divided by the sum")
    grid(
        ["", *(f"T = {T:g}" for T in found)],
        [[repr(symbol), *(number(p[i]) for p in found.values())] for i, symbol in enumerate(walk.symbols)],
    )
    drawn = ", ".join(f"{walk.draw_at(p)!r} at T = {T:g}" for T, p in found.items())
    paragraph(
        f"The number {first.number:.4f} draws {drawn}. T near 0 always takes the likeliest letter (rnn sample "
        "--greedy). With a trained network, rnn sample --temperature T does this for each letter."
    )


def _what_it_shows(walk: Walk) -> None:
    heading("5. What it shows")
    right = sum(walk.symbols[int(step.predicted.argmax())] == step.target for step in walk.steps)
    said = f"The likeliest letter is the right one at {right} of {len(walk.steps)} steps. "
    if walk.trained:
        said += (
            f"{walk.trained} steps of gradient descent took the mean loss from {walk.before:.4f} to {walk.loss:.4f}."
        )
    else:
        said += "These weights are random. With --train 50 the same network learns the text first."
    repeated = _told_apart(walk)
    paragraph(said + repeated)


def _told_apart(walk: Walk) -> str:
    """A sentence on a symbol that is read twice and followed by different ones."""
    for first in walk.steps:
        for second in walk.steps[first.t :]:
            if first.symbol == second.symbol and first.target != second.target:
                return (
                    f" The network reads {first.symbol!r} at t = {first.t} and at t = {second.t}, and should predict "
                    f"{first.target!r}, then {second.target!r}: only the state tells the two apart, through W."
                )
    return ""
