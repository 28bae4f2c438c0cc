"""``rnn eval``: a trained network's score on a text, in a table beside what counting and compressing reach on it."""

from __future__ import annotations

import glob
import os
import shlex
from typing import TYPE_CHECKING

import click

from rnn_cli import completion, console, piped
from rnn_cli.console import remark
from rnn_cli.options import BACKEND, TRUST, UNKNOWN
from rnn_cli.tables import prose, sentence, table
from rnn_lab.printable import printable
from rnn_plugins.errors import UserError

if TYPE_CHECKING:
    from rnn_lab.language.evaluation import Evaluation, Score
    from rnn_lab.runs import Run
    from rnn_lab.settings import Backend
    from rnn_plugins.data.vocabulary import Unknown


@click.command()
@click.argument("run_and_files", metavar="[RUN] [FILE]...", nargs=-1, shell_complete=completion.runs_or_files)
@UNKNOWN
@BACKEND
@TRUST
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def eval(run_and_files: tuple[str, ...], unknown: Unknown, backend: Backend, as_json: bool) -> None:
    """Measure a trained network on a text, beside what counting reaches.

    RUN is the newest one, unless the first argument names another. FILE is a text, a folder, a glob, - for standard
    input or builtin:latex; without any it is the held-out end of the text that the run was trained on.

    The network predicts each symbol but the first from those before it. So do the n-grams (Witten-Bell), counted on
    what the run was trained on. bz2 and xz compress the same symbols: alone, and primed, which is what they add to the
    compressed size of the training text.
    """
    from rnn_lab.backends import on_backend
    from rnn_lab.language.evaluation import evaluate

    run, files = find_run_and_files(run_and_files)
    if not files:
        piped.ignored(f"rnn eval {shlex.quote(run.name)} - reads it as the text")
    with on_backend(backend):
        evaluation = evaluate(run, files, unknown)
    for notice in evaluation.notices:
        remark(f"Note: {sentence(notice)}")
    if as_json:
        click.echo(console.as_json(evaluation.to_json(), indent=2))
    else:
        _draw(evaluation)


def find_run_and_files(arguments: tuple[str, ...]) -> tuple[Run, tuple[str, ...]]:
    """The run that is meant, and the texts: the first argument is a run where there is one of that name."""
    from rnn_lab.runs import find_run

    if not arguments:
        return find_run(), ()
    first = arguments[0]
    try:
        return find_run(first), arguments[1:]
    except UserError as no_run:
        if os.path.exists(first) or glob.has_magic(first) or first == "-" or first.startswith("builtin:"):
            return find_run(), arguments
        if len(arguments) > 1:
            raise
        raise UserError(f"{first!r} is neither a file nor a run: {no_run}") from None


def _draw(evaluation: Evaluation) -> None:
    name, sizes = click.style(printable(evaluation.run), bold=True), evaluation.sizes
    click.echo(f"{name} on {printable(evaluation.text)}: {sizes.symbols:,} {evaluation.unit}s predicted\n")
    symbol = {"char": "CHAR", "byte": "BYTE", "word": "TOKEN"}[evaluation.level]
    heads = ["", f"NATS/{symbol}", "PERPLEXITY", "BITS/CHAR", "BITS/BYTE"]
    if sizes.words:
        heads.insert(3, "PERPLEXITY/WORD")
    scores = sorted(evaluation.scores, key=lambda s: s.loss)
    click.echo(table(map(_row, scores), heads, align="<" + ">" * len(heads), bold=scores.index(evaluation.model)))
    click.echo(prose(" ".join(evaluation.verdict())), nl=False)


def _row(score: Score) -> list[str]:
    numbers = [f"{score.loss:.3f}", _perplexity(score.perplexity)]
    if score.perplexity_per_word is not None:
        numbers.append(_perplexity(score.perplexity_per_word))
    numbers += [f"{score.bits_per_character:.3f}", f"{score.bits_per_byte:.3f}"]
    name = "the model" if score.kind == "model" else score.name
    return [name, *numbers]


def _perplexity(x: float) -> str:
    return f"{x:,.2f}" if x < 1e6 else f"{x:.1e}"
