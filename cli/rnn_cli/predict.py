"""``rnn predict``: what a trained network makes of inputs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from rnn_cli import completion
from rnn_cli.arguments import downloading, find_run_and_inputs
from rnn_cli.console import remark
from rnn_cli.options import BACKEND, TASK_OPTION, TRUST
from rnn_cli.output import check_page, check_sheet, require_pictures, write
from rnn_cli.tables import sentence
from rnn_plugins.errors import UserError
from rnn_plugins.words import amount, brief

if TYPE_CHECKING:
    from rnn_cli.printer import Printer
    from rnn_lab.settings import Backend


@click.command()
@click.argument("run_and_inputs", metavar="[RUN] [INPUT]...", nargs=-1, shell_complete=completion.runs_or_files)
@click.option("--prime", metavar="TEXT", multiple=True, help="A text as INPUT, never taken as a file; may be repeated.")
@click.option("--top", metavar="N", default=1, show_default=True, help="Number of alternatives, the likeliest first.")
@click.option("--explain", is_flag=True, help="Show what each prediction depends on.")
@TASK_OPTION
@BACKEND
@TRUST
@click.option("--html", metavar="FILE", type=click.Path(readable=False), help="Write a self-contained HTML page.")
@click.option(
    "--png", metavar="FILE", type=click.Path(readable=False), help="Draw what the predictions show as a PNG image."
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON record per line.")
def predict(
    run_and_inputs: tuple[str, ...],
    prime: tuple[str, ...],
    top: int,
    explain: bool,
    task_option: dict[str, str],
    backend: Backend,
    html: str | None,
    png: str | None,
    as_json: bool,
) -> None:
    """Predict labels, tags, translations, values or next characters with a network.

    RUN defaults to the newest run. INPUT is a file in the format of the training data, in which the answers may be
    missing, or - for standard input; for a run that reads texts, it may be a text in quotes. Without INPUT, standard
    input is read. Predictions are printed as they are made, one line each, in the order of the inputs; on a terminal,
    the alternatives that --top asks for are drawn as bars.
    """
    if html is not None:
        check_page("html", html, charts=explain)
    if png is not None:
        check_sheet("png", png)
    from rnn_cli.printer import Printer
    from rnn_lab import predicting
    from rnn_lab.backends import on_backend

    run, inputs, named = find_run_and_inputs(run_and_inputs, lambda run: run.predicts, texts_given=bool(prime))
    if not run.predicts:
        text = inputs[0] if inputs and not predicting.is_source(inputs[0]) else ""
        raise run.refusal("predicts nothing of an input", text)
    require_pictures(run, {"png": png})
    pictured = not explain and run.task.shows_pictures and (html is not None or png is not None)
    answer = predicting.predictor(run, top=top, explain=explain, pictured=pictured, **task_option)
    if not inputs and not prime and (sys.stdin is None or sys.stdin.isatty()):
        what = "a FILE, a text in quotes, or - for standard input" if run.task.takes_text else "a FILE"
        raise UserError(f"there is no input: rnn predict {run.quoted} takes {what}")
    inputs = inputs if inputs or prime else ("-",)
    for notice in run.code_changed():
        remark(f"Note: {sentence(notice)}")
    if not named:
        remark(f"From the run {run.name}.")
    _download(inputs)
    size = predicting.SLOWLY if explain or pictured else predicting.AT_ONCE
    given = predicting.inputs_of(run, inputs, texts=prime, **task_option)
    answers = predicting.Answers(given, answer, size)
    printer = Printer(as_json, predicting.IN_PAGE if html is not None or png is not None else 0, explain)
    with on_backend(backend):
        printer.follow(answers)
    if explain and printer.count and not printer.explained:
        remark(f"Note: The task {run.settings.task} explains none of these predictions.")
    if png is not None:
        _draw(png, printer)
    if html is not None:
        from rnn_lab.drawing import page

        names = [f"'{text}'" for text in prime] + [
            "standard input" if text == "-" else text if predicting.is_source(text) else f"'{text}'" for text in inputs
        ]
        source = brief(names)
        more = printer.count > len(printer.kept)
        pages = predicting.pages_of(run, source, printer.kept, more, pictured=pictured)
        write(html, page.html(pages, f"Predictions of {run.name}", [amount(printer.count, "input")]))


def _download(inputs: Sequence[str]) -> None:
    """Download what is not in the cache yet, before the first prediction is printed."""
    from rnn_plugins.data.download import downloaded, is_url

    with downloading(inputs):
        told = [downloaded(text)[1] for text in inputs if is_url(text)]
    for words in told:
        remark(f"Note: {sentence(words)}")


def _draw(path: str, printer: Printer) -> None:
    """Write the pictures of the first predictions."""
    from rnn_lab import predicting
    from rnn_lab.drawing import sheets

    pictures = predicting.pictures_of(printer.kept[: predicting.EXPLAINED])
    if not pictures:
        remark(f"Note: There is no picture to draw: {path} is not written.")
        return
    write(path, sheets.sheet(pictures))
    if printer.count > predicting.EXPLAINED:
        remark(f"Note: It shows the first {predicting.EXPLAINED} of {amount(printer.count, 'input')}.")
