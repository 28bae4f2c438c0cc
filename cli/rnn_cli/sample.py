"""``rnn sample``: a trained network writes on standard output. What is said about it goes to standard error."""

from __future__ import annotations

import io
import re
import secrets
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import click
from click.core import ParameterSource

from rnn_cli import completion, piped
from rnn_cli.console import is_stuck, printable, remark, unless_stuck
from rnn_cli.options import BACKEND, MEANINGLESS, TRUST
from rnn_cli.output import is_special, try_file
from rnn_cli.tables import sentence, table
from rnn_plugins.errors import UserError

if TYPE_CHECKING:
    from numpy.random import Generator

    from minigrad.trees import Tree
    from rnn_lab.runs import Run
    from rnn_lab.settings import Backend
    from rnn_plugins.data.vocabulary import Unknown, Vocabulary
    from rnn_plugins.language.model import Model
    from rnn_plugins.language.sampling import Choice, Position

RENAMED = {
    "primetext": "prime",  # karpathy/char-rnn
    "start-text": "prime",  # jcjohnson/torch-rnn
    "words": "length",  # PyTorch's word_language_model
}
"""Other programs' names for the same option."""

SHOWN_EVERY = 0.02
"""Seconds between the times at which what has been written is pushed out: often enough to look like one by one."""


class SampleCommand(click.Command):
    """A command that knows char-rnn's and torch-rnn's options: ``-primetext``, ``-sample 0``, ``-checkpoint``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As Click does, after other programs' names have been put into ours."""
        if ctx.resilient_parsing:
            return super().parse_args(ctx, args)
        flags = {p.opts[0][2:]: p.is_flag for p in self.get_params(ctx) if isinstance(p, click.Option)}
        return super().parse_args(ctx, list(_translate(args, flags)))


def _translate(arguments: Iterable[str], flags: Mapping[str, bool]) -> Iterator[str]:
    """Arguments in our words; ``flags`` says of each of our options whether it stands without a value."""
    rest = iter(arguments)
    for argument in rest:
        written, equals, value = argument.lstrip("-").partition("=")
        name = written.replace("_", "-")
        name = RENAMED.get(name, name)
        if argument == "--":
            yield from (argument, *rest)
        elif not argument.startswith("-") or argument == "-":
            yield argument
        elif name in MEANINGLESS:
            raise UserError(f"there is no --{name} here: {MEANINGLESS[name]}")
        elif name in ("sample", "checkpoint"):
            value = value if equals else next(rest, "")
            yield from [value] if name == "checkpoint" else ["--greedy"] if value == "0" else []
        elif name in flags:
            yield f"--{name}{equals}{value}"
            if not flags[name] and not equals:
                yield from [next(rest, "")]
        else:
            yield argument  # Click knows what to say of it


@click.command(cls=SampleCommand)
@click.argument("run", required=False, shell_complete=completion.runs)
@click.option("--prime", metavar="TEXT", help="What the text begins with; it is printed too.")
@click.option(
    "--prime-file", metavar="FILE", type=click.Path(allow_dash=True, readable=False), help="The same from a file."
)
@click.option("--length", metavar="N", default=2000, show_default=True, help="New characters; 0: until Ctrl-C.")
@click.option("--temperature", metavar="X", default=1.0, show_default=True, help="Below 1 safer, above 1 wilder.")
@click.option("--top-k", metavar="K", default=0, help="Choose among the K likeliest symbols only; 0: all.")
@click.option("--top-p", metavar="P", default=1.0, help="Choose among the likeliest that together have probability P.")
@click.option("--greedy", is_flag=True, help="Always the likeliest symbol.")
@click.option("--beam", metavar="WIDTH", default=0, help="Search for the likeliest text instead of drawing one.")
@click.option("--seed", metavar="N", type=int, help="Of the draws; drawn and printed, if not given.")
@click.option("--count", metavar="N", default=1, show_default=True, help="How many texts; of a beam, the N likeliest.")
@click.option("--stop", metavar="TEXT", multiple=True, help="End a text that has come to TEXT; may be repeated.")
@click.option(
    "--unknown",
    type=click.Choice(["error", "skip", "replace"]),
    default="error",
    show_default=True,
    help="What becomes of characters of the prime that the model has never seen.",
)
@click.option("--allow-unknown", is_flag=True, help="Let a network of words write <unk>, which is left out otherwise.")
@click.option("--raw", is_flag=True, help="Write nothing but the text, byte for byte, to a terminal too.")
@click.option(
    "--clamp",
    metavar="UNIT=VALUE",
    multiple=True,
    help="Hold a unit at a number, such as h.17=1, layer2.c.3=0, or 17=1 for an output; may be repeated.",
)
@click.option(
    "--save-state",
    metavar="FILE",
    type=click.Path(readable=False),
    help="Keep the network's state at the end of the text.",
)
@click.option("--load-state", metavar="FILE", type=click.Path(readable=False), help="Go on from a state that was kept.")
@click.option("--check", type=click.Choice(["latex"]), help="Count what the text opens and how it closes it, by kind.")
@BACKEND
@TRUST
@click.pass_context
def sample(
    ctx: click.Context,
    /,
    run: str | None,
    prime: str | None,
    prime_file: str | None,
    length: int,
    beam: int,
    seed: int | None,
    count: int,
    stop: tuple[str, ...],
    unknown: Unknown,
    allow_unknown: bool,
    raw: bool,
    clamp: tuple[str, ...],
    save_state: str | None,
    load_state: str | None,
    check: str | None,
    backend: Backend,
    **choosing: Any,
) -> None:
    """Let a trained network write.

    RUN is the newest one, if none is named. Without a prime, the text begins as after the end of a line.

    A text that is kept with --save-state and goes on with --load-state is the text that would have been written in one
    go: its draws go on too, unless --seed says otherwise. A prime is then read from that state on.
    """
    _hold(ctx)
    try:
        import numpy as np

        from rnn_lab.backends import on_backend
        from rnn_lab.language import state
        from rnn_lab.runs import find_run
        from rnn_plugins.language.sampling import Choice

        Choice(**choosing)  # what is out of range is said before the run is looked for
        chosen = find_run(run)
        vocabulary = chosen.vocabulary
        choice = Choice(**choosing, never=() if allow_unknown else vocabulary.unwritten)
        if prime is None and prime_file is None:
            piped.ignored("rnn sample --prime-file - reads it as the prime")
        text = _prime(prime, prime_file, vocabulary)
        stop = tuple(_typed(mark, "--stop", vocabulary) for mark in stop)
        begin = vocabulary.encode(text, unknown, called="the prime").tolist()
        as_bytes = raw or (vocabulary.level == "byte" and not sys.stdout.isatty())
        errors: Errors = "surrogateescape" if as_bytes else "replace"
        model = state.clamped(chosen.text_model, clamp) if clamp else chosen.text_model
        params = chosen.params()
        kept = state.load(load_state, chosen) if load_state else None
        for notice in filter(None, (chosen.cell_changed(), kept.notice if kept else None)):
            remark(f"Note: {sentence(notice)}")
        start = Start(chosen, model, params, begin or ([] if kept else chosen.opening), kept.position if kept else None)
        source = f"From the run {chosen.name}" + (f", from the state in {load_state}" if load_state else "")
        keeper = None
        if beam:
            remark(f"{source}.")
            texts = _beam(start, length, beam, choice.never, stop, errors)
        else:
            rng = kept.rng if kept and seed is None else None
            if choice.draws and rng is None:
                seed = secrets.randbelow(1_000_000) if seed is None else seed
            drawing = f", with --seed {seed}" if rng is None else "; its draws go on"
            remark(f"{source}{drawing if choice.draws else ''}.")
            rng = rng or np.random.default_rng(seed)
            keeper = Keeper(save_state, chosen, rng if choice.draws else None) if save_state else None
            texts = _draws(start, length, choice, rng, keeper, stop, errors)
        with on_backend(backend):
            for number, (label, pieces) in enumerate(islice(texts, count), start=1):
                if count > 1:
                    click.secho(f"--- {number} of {count}{', ' if label else ''}{label} ---", dim=True)
                elif label:
                    remark(f"It has {label}.")
                with keeper or nullcontext():
                    whole = chain([vocabulary.decode(begin, errors)], pieces)
                    written = _stream(whole, as_bytes, end="" if raw else "\n", keep=check is not None)
                if check:
                    _check_latex(written)
        if keeper and keeper.stopped:
            ctx.exit(130)
    except KeyboardInterrupt:
        with unless_stuck():
            sys.stdout.flush()
        ctx.exit(130)


class Start(NamedTuple):
    """What a text begins with.

    Attributes:
        run: whose weights write it.
        model: the run's, or with units clamped.
        params: its weights.
        prime: symbols that are read first.
        after: where they are read; None is at the beginning.
    """

    run: Run
    model: Model
    params: Tree
    prime: list[int]
    after: Position | None


class Keeper:
    """Keeps the network's state at the end of a text, also of one that Ctrl-C ends: it then ends with a whole symbol.

    Args:
        file: where to.
        run: whose network it is.
        rng: what draws the text; None where nothing is drawn.

    Attributes:
        stopped: whether Ctrl-C came; the next one leaves at once, as does the first where nobody reads on, and nothing
            is kept.
    """

    def __init__(self, file: str, run: Run, rng: Generator | None) -> None:
        self.file, self.run, self.rng = file, run, rng
        self.stopped = False
        self._position: Position | None = None
        self._before: Any = None

    def __enter__(self) -> None:
        """Look out for Ctrl-C."""
        ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN  # as under nohup, or in the background of a script
        if threading.current_thread() is threading.main_thread() and not ignored:
            self._before = signal.signal(signal.SIGINT, self._stop)

    def _stop(self, *_: object) -> None:
        if self.stopped or is_stuck():
            raise KeyboardInterrupt
        self.stopped = True

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Write the state where nothing went wrong."""
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
        if kind is None and self._position:
            from rnn_lab.language import state

            state.save(self.file, self.run, self._position, self.rng)
            remark(f"The state after {self._position.read:,} symbols is in {self.file}.")
        elif kind is KeyboardInterrupt:
            remark(f"Left at once: no state is in {self.file}.")

    def watched(self, symbols: Iterator[tuple[int, Position]]) -> Iterator[int]:
        """The symbols alone, up to the one at which Ctrl-C comes."""
        for symbol, self._position in symbols:
            yield symbol
            if self.stopped:
                return


Texts = Iterator[tuple[str, Iterator[str]]]
"""What is to be said of each text, and its pieces."""


Errors = Literal["replace", "surrogateescape"]
"""What becomes of bytes that are no UTF-8."""


def _draws(
    start: Start,
    length: int,
    choice: Choice,
    rng: Generator,
    keeper: Keeper | None,
    stop: tuple[str, ...],
    errors: Errors,
) -> Texts:
    """Texts without end, one drawn after the other."""
    from rnn_plugins.language.sampling import begin, follow, sample, write

    run, model, params, prime, after = start
    while True:
        if keeper:
            at = begin(model, params, prime, after)
            symbols = keeper.watched(follow(model, params, at, choice, rng))
        else:
            symbols = sample(model, params, prime, choice, rng, after)
        yield "", write(symbols, run.vocabulary, length, stop, errors)


def _beam(
    start: Start, length: int, width: int, never: tuple[int, ...], stop: tuple[str, ...], errors: Errors
) -> Texts:
    """The likeliest texts that a beam finds, the likeliest first."""
    from rnn_plugins.language.sampling import beam_search, write

    run, model, params, prime, after = start
    for found in beam_search(model, params, prime, length, width, after, never):
        text = write(iter(found.symbols), run.vocabulary, stop=stop, errors=errors)
        yield f"a log probability of {found.log_probability:.3f} nats", text


def _stream(pieces: Iterable[str], as_bytes: bool, end: str, keep: bool) -> str:
    """Write pieces as they come.

    Args:
        pieces: of the text, which may be without end.
        as_bytes: whether it is written in UTF-8, surrogates as the bytes that they stand for.
        end: what is written after a text that does not end with it.
        keep: whether the whole is wanted.

    Returns:
        The whole, or the empty text.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal need not know every character

    watched = sys.stdout.isatty()

    def put(text: str) -> None:
        if as_bytes:
            sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape"))
        else:
            sys.stdout.write(printable(text, keep="\n\t") if watched else text)

    def finish() -> None:
        if not last.endswith(end):
            put(end)
        sys.stdout.flush()

    written: list[str] = []
    last, shown = "", 0.0
    try:
        for piece in pieces:
            put(piece)
            last = piece or last
            if keep:
                written.append(piece)
            now = time.monotonic()
            if now - shown > SHOWN_EVERY:
                sys.stdout.flush()
                shown = now
    except KeyboardInterrupt:
        with unless_stuck():
            finish()
        raise
    except Exception:
        finish()
        raise
    finish()
    return "".join(written)


def _hold(ctx: click.Context) -> None:
    """Hold the options against each other.

    Raises:
        UserError: two of them do not go together, or one is outside its range.
    """
    given = {name for name in ctx.params if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    values = ctx.params
    if {"prime", "prime_file"} <= given:
        raise UserError("--prime and --prime-file both say what the text begins with: leave one of them out")
    for name, least in (("length", 0), ("count", 1), ("seed", 0), ("beam", 1 if "beam" in given else 0)):
        if values[name] is not None and values[name] < least:
            raise UserError(f"--{name} is {values[name]}; it must be at least {least}")
    if "" in values["stop"]:
        raise UserError("--stop is empty; give the text that a sample is to end with")
    if values["save_state"]:
        try_file("save-state", values["save_state"])
        if is_special(values["save_state"]):
            raise UserError(f"--save-state is {values['save_state']!r}, which is no file: name one")
        if values["beam"] or values["count"] > 1:
            option = "beam" if values["beam"] else "count"
            raise UserError(f"--save-state keeps the state at the end of one text that is drawn: leave out --{option}")
    if values["beam"]:
        drawing = sorted(given & {"temperature", "top_k", "top_p", "greedy", "seed"})
        if drawing:
            option = drawing[0].replace("_", "-")
            raise UserError(f"--beam looks for the likeliest text and draws nothing: leave out --{option}")
        if not values["length"]:
            raise UserError("--beam needs an end: give a --length above 0")
        if values["count"] > values["beam"]:
            raise UserError(f"--beam {values['beam']} finds that many texts at most, and --count is {values['count']}")
    elif not values["length"] and not values["stop"] and (values["check"] or values["count"] > 1):
        option = "check" if values["check"] else "count"
        raise UserError(f"--{option} needs texts with an end: give a --length above 0, or --stop")


def _prime(prime: str | None, file: str | None, vocabulary: Vocabulary) -> str:
    """What the text begins with."""
    from rnn_plugins.data.decoding import decode
    from rnn_plugins.data.sources import read_bytes, read_text

    line_ends = "\r" not in vocabulary.symbols  # as in the corpus
    if file is None:
        text = _typed(prime or "", "--prime", vocabulary)
        if vocabulary.level == "byte":
            return text
        text, notices = decode(text.encode("utf-8", "surrogateescape"), "--prime", line_ends=line_ends)
    else:
        label = f"--prime-file {file!r}"
        if vocabulary.level == "byte":
            return read_bytes(file, label).decode("utf-8", "surrogateescape")
        text, notices = read_text(file, label, line_ends=line_ends)
    for notice in notices:
        remark(f"Note: {sentence(notice)}")
    return text


def _typed(text: str, option: str, vocabulary: Vocabulary) -> str:
    """What was meant by a backslash with an n or a t, which a shell gives as it was typed.

    A network that knows no backslash cannot read one; to another, such as one of LaTeX, it may begin a command.
    """
    if "\\n" not in text and "\\t" not in text:
        return text
    if vocabulary.level != "byte" and "\\" not in vocabulary.symbols:
        remark(rf"Note: \n and \t in {option} are read as a line feed and a tab.")
        return text.replace("\\n", "\n").replace("\\t", "\t")
    if re.search(r"\\[nt](?![A-Za-z])", text):
        remark(rf"Note: \n and \t in {option} are read as they stand; in bash and zsh, $'\n' is a line feed.")
    return text


def _check_latex(text: str) -> None:
    """What a text opens and how it closes that, on standard error, so that standard output is the text alone."""
    from rnn_plugins.data.latex_check import check

    report = check(text)
    total = report.total
    rows = [*report.rows(), ("all", total.opened, total.rightly, total.wrongly, total.never, total.unopened)]
    heads = ("KIND", "OPENED", "CLOSED RIGHTLY", "WRONGLY", "NEVER", "CLOSED UNOPENED")
    click.echo("\n" + table([[str(cell) for cell in row] for row in rows], heads, align="<>>>>>"), nl=False, err=True)
    remark(f"References: {report.defined} to labels defined earlier, {report.undefined} to others.")
