"""``rnn score``: a text coloured by how much each of its symbols surprises a trained network."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any

import click

from rnn_cli import completion, console
from rnn_cli.arguments import find_run_and_files
from rnn_cli.console import remark, suppress_notes
from rnn_cli.options import BACKEND, PROGRESS, QUIET, TRUST, UNKNOWN
from rnn_cli.output import check_page, write
from rnn_cli.tables import sentence
from rnn_plugins.errors import UserError
from rnn_plugins.words import percent

if TYPE_CHECKING:
    from rnn_lab.language.scoring import Scoring, Surprise
    from rnn_lab.settings import Backend
    from rnn_plugins.data.vocabulary import Unknown
    from rnn_plugins.reports.report import Page, Table

DRAWN, IN_PAGE = 2_000, 50_000
"""Symbols shown on the terminal and on a page; all are measured."""

NARROW = 60
"""Below this width of the terminal, tables have fewer columns."""

MOST_SURPRISING = 10
"""Number of symbols, and of words, in the lists."""


@click.command()
@click.argument("run_and_files", metavar="[RUN] FILE...", nargs=-1, shell_complete=completion.runs_or_files)
@click.option(
    "--top",
    metavar="N",
    default=1,
    show_default=True,
    help="Number of symbols to show that were expected instead.",
)
@UNKNOWN
@BACKEND
@TRUST
@PROGRESS
@QUIET
@click.option("--html", metavar="FILE", type=click.Path(readable=False), help="Write a self-contained HTML page.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with the bits of every symbol.")
def score(
    run_and_files: tuple[str, ...],
    top: int,
    unknown: Unknown,
    backend: Backend,
    quiet: bool,
    html: str | None,
    as_json: bool,
) -> None:
    """Colour a text by how much each character surprises a network.

    RUN defaults to the newest run. FILE is a text, a folder, a glob, - (standard input) or builtin:latex.

    The surprise of a symbol is -log2 of its probability given everything before it: 0 bits if the network was certain
    of it, 1 bit at a probability of a half.
    """
    if quiet:
        suppress_notes()
    from rnn_cli.bars import announcing
    from rnn_lab import backends
    from rnn_lab.language import scoring
    from rnn_plugins.words import amount

    if html is not None:
        check_page("html", html)
    run, files = find_run_and_files(run_and_files)
    if not files:
        raise UserError("there is no text to score: name a FILE, or - for standard input")
    with backends.on_backend(backend), announcing():
        result = scoring.score(run, files, unknown, top)
    if html is not None:  # first, since the reader of standard output may exit early
        from rnn_lab.drawing import page

        whole = _page(result, IN_PAGE, "rnn score --json has all")
        heading = f"{result.text} as {result.run} reads it"
        write(html, page.html([whole], heading, [amount(len(result.tokens), result.unit)]))
    if as_json:
        for notice in result.notices:
            remark(f"Note: {sentence(notice)}")
        click.echo(console.as_json(_to_json(result), indent=1))
    else:
        from rnn_cli.drawing import terminal

        narrow = console.columns(sys.stdout) < NARROW
        terminal.draw([_page(result, DRAWN, "--html FILE shows more of it, --json all", narrow)])


def _page(result: Scoring, limit: int, elsewhere: str, narrow: bool = False) -> Page:
    """The beginning of the text in colours, and the numbers of the whole text; if narrow, in tables of few columns."""
    from rnn_plugins.reports.report import Colouring, Page, Quantity

    unit, blind = result.unit, math.log2(len(result.vocabulary))
    notices = [sentence(notice) for notice in result.notices]
    if len(result.tokens) > limit:
        notices.append(
            f"The first {limit:,} of {len(result.tokens):,} {unit}s are shown; {elsewhere}. All are measured."
        )
    colouring = Colouring(
        "text",
        result.text,
        result.symbols[:limit],
        result.prediction.bits[:limit],
        0.0,
        blind,
        f"bits per {unit}",
        f"The surprise of each {unit}: -log2 of its probability given all before it. The colour is full at "
        f"{blind:.3g} bits, the surprise of uniform guessing among all {len(result.vocabulary)} {unit}s. The first is "
        "not predicted.",
    )
    quantities = [
        Quantity("mean_bits", "mean surprise", result.mean_bits, f"bits per {unit}", f"Of all {unit}s but the first."),
        Quantity("symbols", f"{unit}s predicted", len(result.tokens) - 1, "", "All but the first."),
    ]
    if result.vocabulary.level != "char":
        quantities.insert(
            1,
            Quantity(
                "bits_per_character",
                "surprise",
                result.bits_per_character,
                "bits per character",
                "The bits of the whole text, divided by its characters.",
            ),
        )
    words = result.surprising_words(MOST_SURPRISING) if result.vocabulary.level != "word" else []
    tables = [
        _table(f"{unit}s", result.surprising_symbols(MOST_SURPRISING), narrow),
        *([_table("words", words, narrow)] if words else []),
    ]
    return Page(
        "score",
        "Surprise",
        f"Which {unit}s of {result.text} does {result.run} not expect?",
        (result.run,),
        {result.run: tuple(quantities)},
        (colouring, *tables),
        notices=tuple(notices),
    )


def _table(what: str, rows: list[Surprise], narrow: bool) -> Table:
    from rnn_plugins.reports.report import Table

    heads: tuple[str, ...] = ("EXPECTED", "P")
    meaning = "EXPECTED the likeliest symbol at its position, P the probability of EXPECTED"
    if any(len(row.top) > 1 for row in rows):
        heads = ("EXPECTED INSTEAD",)
        meaning = "EXPECTED INSTEAD the likeliest symbols at its position, with their probabilities"
    of_words = (
        " A word's bits are those of all its symbols; each word is listed once, at its most surprising occurrence, "
        f"with {' and '.join(heads)} for its most surprising symbol."
    )
    wheres: tuple[str, ...] = ("AT",) if narrow else ("LINE", "COLUMN", "AFTER")
    return Table(
        what,
        f"The most surprising {what}",
        ("BITS", what.removesuffix("s").upper(), *wheres, *heads),
        tuple((row.bits, _shown(row.text), *_where(row, narrow), *_expected(row)) for row in rows),
        f"AFTER is the text before it, {meaning}.{of_words if what == 'words' else ''}",
    )


def _where(row: Surprise, narrow: bool) -> tuple[str | int, ...]:
    """Line, column and the text before it; if narrow, line and column in a cell."""
    return (f"{row.line}:{row.column}",) if narrow else (row.line, row.column, row.before)


def _expected(row: Surprise) -> tuple[str, ...]:
    """What was expected instead: one symbol and its probability, or several in a cell."""
    pairs = [(_shown(symbol), percent(share, 0)) for symbol, share in row.top]
    return pairs[0] if len(pairs) == 1 else ("   ".join(map(" ".join, pairs)),)


def _shown(text: str) -> str:
    """A symbol or word; blanks are shown in quotes."""
    return text if text.strip() or "\n" in text or "\t" in text else repr(text)


def _to_json(result: Scoring) -> dict[str, Any]:
    bits = [None, *result.prediction.bits[1:].tolist()]
    return {
        "run": result.run,
        "text": result.text,
        "level": result.vocabulary.level,
        "mean_bits": result.mean_bits,
        "bits_per_character": result.bits_per_character,
        "symbols": [
            {"symbol": symbol, "bits": number} | _top(result.expected(place) if place else ())
            for place, (symbol, number) in enumerate(zip(result.symbols, bits, strict=True))
        ],
        "surprising_symbols": [_row(row) for row in result.surprising_symbols(MOST_SURPRISING)],
        "surprising_words": [_row(row) for row in result.surprising_words(MOST_SURPRISING)],
        "notices": list(result.notices),
    }


def _row(row: Surprise) -> dict[str, Any]:
    found = row._asdict()
    return found | _top(found.pop("top"))


def _top(expected: tuple[tuple[str, float], ...]) -> dict[str, Any]:
    """What was expected, if more than the likeliest symbol was asked for."""
    if len(expected) < 2:
        return {}
    return {"top": [{"symbol": symbol, "probability": share} for symbol, share in expected]}
