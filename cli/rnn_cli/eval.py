"""``rnn eval``: a trained network's metrics on data, beside the baselines of its task."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import click

from rnn_cli import completion, console, piped
from rnn_cli.arguments import find_run_and_files
from rnn_cli.console import remark, suppress_notes
from rnn_cli.options import BACKEND, PROGRESS, QUIET, TASK_OPTION, TRUST, UNKNOWN
from rnn_cli.output import check_page, write
from rnn_cli.tables import filled, prose, sentence, table
from rnn_lab.printable import printable
from rnn_plugins.words import amount

if TYPE_CHECKING:
    from rnn_lab.evaluation import Evaluation
    from rnn_lab.settings import Backend
    from rnn_plugins.tasks.task import Metric


@click.command()
@click.argument("run_and_files", metavar="[RUN] [FILE]...", nargs=-1, shell_complete=completion.runs_or_files)
@UNKNOWN
@TASK_OPTION
@click.option(
    "--dynamic",
    is_flag=True,
    help="Of a text: evaluate also with weights that learn from what they have predicted (Krause et al. 2018).",
)
@BACKEND
@TRUST
@PROGRESS
@QUIET
@click.option("--html", metavar="FILE", type=click.Path(readable=False), help="Write a self-contained HTML page.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.pass_context
def eval(
    ctx: click.Context,
    run_and_files: tuple[str, ...],
    unknown: str,
    task_option: dict[str, str],
    dynamic: bool,
    backend: Backend,
    quiet: bool,
    html: str | None,
    as_json: bool,
) -> None:
    """Measure a trained network on data, beside baselines.

    RUN defaults to the newest run. FILE is data of its task: for a language model a text, a folder, a glob, - (standard
    input) or builtin:latex. The default is the data that the run held out.

    A language model predicts each symbol but the first from those before it. So do the n-grams (Witten-Bell), counted
    on the run's training text. bz2 and xz compress the same symbols: alone, and primed, which is what the symbols add
    to the compressed size of the training text.
    """
    if quiet:
        suppress_notes()
    if html is not None:
        check_page("html", html)
    from rnn_cli.bars import announcing
    from rnn_lab.backends import on_backend
    from rnn_lab.evaluation import evaluate

    run, files = find_run_and_files(run_and_files)
    if not files:
        piped.ignored(f"rnn eval {shlex.quote(run.name)} - reads it as data")
    given = ctx.get_parameter_source("unknown") is click.core.ParameterSource.COMMANDLINE
    options = task_option | ({"unknown": unknown} if given else {}) | ({"dynamic": True} if dynamic else {})
    with on_backend(backend), announcing():
        evaluation = evaluate(run, files, **options)
    for notice in evaluation.notices:
        remark(f"Note: {sentence(notice)}")
    if html is not None:  # first, since the reader of standard output may exit early
        from rnn_lab.drawing import page

        found = evaluation.assessment
        about = [f"{found.count:,} {found.unit} of {evaluation.source}"]
        write(html, page.html([evaluation.page()], f"Evaluation of {run.name}", about))
    if as_json:
        click.echo(console.as_json(evaluation.to_json(), indent=2))
    else:
        draw(evaluation)


def draw(evaluation: Evaluation) -> None:
    """Print the scores as a table, the task's tables and pictures, and the verdict."""
    found = evaluation.assessment
    name = printable(evaluation.run)
    predicted = amount(found.count, found.unit.removesuffix("s"))
    head = filled(f"{name} on {printable(evaluation.source)}: {predicted} predicted")
    click.echo((click.style(name, bold=True) + head.removeprefix(name) if head.startswith(name) else head) + "\n")
    scores = evaluation.ranked()
    rows = [
        ["the model" if score.kind == "model" else score.name]
        + [_shown(score.metrics.get(name), metric) for name, metric in found.metrics.items()]
        for score in scores
    ]
    heads = ["", *evaluation.heads()]
    bold = scores.index(found.scores[0])
    click.echo(table(rows, heads, align="<" + ">" * len(heads), bold=bold), nl=not found.figures)
    if found.figures:
        from rnn_cli.drawing import terminal

        terminal.draw_figures(found.figures)
        click.echo()
    if found.verdict:
        click.echo(prose(" ".join(found.verdict)), nl=False)


def _shown(value: float | None, metric: Metric) -> str:
    """A number in a table, in scientific notation if it is huge."""
    if value is None:
        return ""
    return f"{value:,.{metric.digits}f}" if value < 1e6 else f"{value:.1e}"
