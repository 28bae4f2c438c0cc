"""``rnn sample``: generate text, or outputs for inputs, on standard output; notes go to standard error."""

from __future__ import annotations

import io
import re
import secrets
import shlex
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

from rnn_cli import completion, outputs, piped
from rnn_cli.arguments import find_run_and_inputs
from rnn_cli.console import is_stuck, remark, unless_stuck
from rnn_cli.options import BACKEND, MEANINGLESS, TRUST
from rnn_cli.output import check_sheet, is_special, require_pictures, try_file
from rnn_cli.tables import sentence, table
from rnn_lab.printable import printable
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
"""Names of options in other programs."""

TRANSLATED = ("sample", "checkpoint")
"""Those that have no such name here; they are translated with their values."""

SHOWN_EVERY = 0.02
"""Seconds between flushes of standard output: often enough that symbols seem to appear one by one."""


class SampleCommand(click.Command):
    """A command that also takes char-rnn's and torch-rnn's options: ``-primetext``, ``-sample 0``, ``-checkpoint``.

    Attributes:
        understood: those names, and those that it answers with advice.
    """

    understood = frozenset([*RENAMED, *TRANSLATED, *MEANINGLESS])

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Translate other programs' option names, then parse as Click does."""
        if ctx.resilient_parsing:
            return super().parse_args(ctx, args)
        flags = {p.opts[0][2:]: p.is_flag for p in self.get_params(ctx) if isinstance(p, click.Option)}
        return super().parse_args(ctx, list(_translate(args, flags)))


def _translate(arguments: Iterable[str], flags: Mapping[str, bool]) -> Iterator[str]:
    """Arguments with our option names; ``flags`` maps each of our options to whether it takes no value."""
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
        elif name in TRANSLATED:
            value = value if equals else next(rest, "")
            yield from [value] if name == "checkpoint" else ["--greedy"] if value == "0" else []
        elif name in flags:
            yield f"--{name}{equals}{value}"
            if not flags[name] and not equals:
                yield from [next(rest, "")]
        else:
            yield argument  # Click reports the error


@click.command(cls=SampleCommand)
@click.argument("run_and_inputs", metavar="[RUN] [INPUT]...", nargs=-1, shell_complete=completion.runs_or_files)
@click.option("--prime", metavar="TEXT", help="Beginning of the text; it is printed too.")
@click.option(
    "--prime-file", metavar="FILE", type=click.Path(allow_dash=True, readable=False), help="Read the prime from a file."
)
@click.option("--length", metavar="N", default=2000, show_default=True, help="Characters to generate; 0: until Ctrl-C.")
@click.option(
    "--temperature",
    metavar="X",
    default=1.0,
    show_default=True,
    help="Divisor of the log probabilities: below 1 safer, above 1 more random.",
)
@click.option("--top-k", metavar="K", default=0, help="Draw from the K likeliest symbols; 0: from all.")
@click.option("--top-p", metavar="P", default=1.0, help="Draw from the likeliest symbols of total probability P.")
@click.option("--greedy", is_flag=True, help="Always choose the likeliest symbol.")
@click.option("--beam", metavar="WIDTH", default=0, help="Search for the likeliest text instead of drawing one.")
@click.option("--seed", metavar="N", type=int, help="Random seed; drawn and printed if not given.")
@click.option(
    "--count",
    metavar="N",
    default=1,
    show_default=True,
    help="Number of texts or pictures; of a beam, the N likeliest.",
)
@click.option("--stop", metavar="TEXT", multiple=True, help="End the text after TEXT; may be repeated.")
@click.option(
    "--unknown",
    type=click.Choice(["error", "skip", "replace"]),
    default="error",
    show_default=True,
    help="What to do with characters of the prime that are not in the vocabulary.",
)
@click.option("--allow-unknown", is_flag=True, help="Allow a network of words to generate <unk>.")
@click.option("--raw", is_flag=True, help="Print only the text, byte for byte, on a terminal too.")
@click.option(
    "--clamp",
    metavar="UNIT=VALUE",
    multiple=True,
    help="Clamp a unit to a number: h.17=1, layer2.c.3=0, or 17=1 for an output; may be repeated.",
)
@click.option(
    "--save-state",
    metavar="FILE",
    type=click.Path(readable=False),
    help="Save the network's state at the end of the text.",
)
@click.option("--load-state", metavar="FILE", type=click.Path(readable=False), help="Continue from a saved state.")
@click.option("--png", metavar="FILE", type=click.Path(readable=False), help="Draw painted pictures as a PNG image.")
@click.option("--gif", metavar="FILE", type=click.Path(readable=False), help="Draw how they are painted, step by step.")
@click.option("--check", type=click.Choice(["latex"]), help="Count what the text opens and closes, by kind.")
@BACKEND
@TRUST
@click.pass_context
def sample(
    ctx: click.Context,
    /,
    run_and_inputs: tuple[str, ...],
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
    png: str | None,
    gif: str | None,
    backend: Backend,
    **choosing: Any,
) -> None:
    """Generate text or images with a trained network.

    RUN defaults to the newest run. Without a prime, the text begins as after a line feed.

    A run of a task that writes something for an input, such as captions or translations, takes INPUT as rnn predict
    does, and draws --count outputs for each; of the options, those of drawing apply: --temperature, --top-k, --top-p,
    --greedy and --seed. A run of a task that paints draws --count pictures, which --png and --gif write to files.

    A text saved with --save-state and continued with --load-state is the same as one generated in one call: the random
    draws continue too, unless --seed is given. A prime is then read from that state.
    """
    _check(ctx)
    try:
        import numpy as np

        from rnn_lab.backends import on_backend
        from rnn_lab.language import state
        from rnn_plugins.language.sampling import Choice

        Choice(**choosing)  # report values out of range before searching the run
        chosen, inputs, _ = find_run_and_inputs(run_and_inputs, lambda run: run.generates)
        require_pictures(chosen, {"png": png, "gif": gif})
        if chosen.generates:
            outputs.generate(ctx, chosen, inputs, Choice(**choosing), backend)
            return
        language = chosen.language
        if inputs:
            raise UserError(
                f"{chosen.name} is a run of the task {chosen.settings.task}, which takes no INPUT but the beginning of "
                f"a text: rnn sample {chosen.quoted} --prime {shlex.quote(inputs[0])}"
            )
        vocabulary, network = language.vocabulary, language.model
        choice = Choice(**choosing, never=() if allow_unknown else vocabulary.unwritten)
        if prime is None and prime_file is None:
            piped.ignored("rnn sample --prime-file - reads it as the prime")
        text = _prime(prime, prime_file, vocabulary)
        stop = tuple(_typed(mark, "--stop", vocabulary) for mark in stop)
        begin = vocabulary.encode(text, unknown, called="the prime").tolist()
        as_bytes = raw or (vocabulary.level == "byte" and not sys.stdout.isatty())
        errors: Errors = "surrogateescape" if as_bytes else "replace"
        model = state.clamped(network, clamp) if clamp else network
        params = chosen.params()
        kept = state.load(load_state, chosen) if load_state else None
        for notice in filter(None, (*chosen.code_changed(), kept.notice if kept else None)):
            remark(f"Note: {sentence(notice)}")
        start = Start(
            chosen, model, params, begin or ([] if kept else [*language.opening]), kept.position if kept else None
        )
        source = f"From the run {chosen.name}" + (f", from the state in {load_state}" if load_state else "")
        keeper = None
        if beam:
            remark(f"{source}.")
            texts = _beam(start, length, beam, choice.never, stop, errors)
        else:
            rng = kept.rng if kept and seed is None else None
            if choice.draws and rng is None:
                seed = secrets.randbelow(1_000_000) if seed is None else seed
            drawing = f", with --seed {seed}" if rng is None else "; the random draws continue"
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
    """The beginning of a text.

    Attributes:
        run: the run sampled from.
        model: the run's, with units clamped if requested.
        params: its weights.
        prime: symbols read first.
        after: the position from which they are read; None is the beginning.
    """

    run: Run
    model: Model
    params: Tree
    prime: list[int]
    after: Position | None


class Keeper:
    """Save the network's state at the end of a text, even if Ctrl-C ends it; the text then ends with a whole symbol.

    Args:
        file: the path to write.
        run: the network's run.
        rng: the generator that draws the text; None if nothing is drawn.

    Attributes:
        stopped: whether Ctrl-C was pressed. A second one exits at once without saving, as does the first if standard
            output is blocked.
    """

    def __init__(self, file: str, run: Run, rng: Generator | None) -> None:
        self.file, self.run, self.rng = file, run, rng
        self.stopped = False
        self._position: Position | None = None
        self._before: Any = None

    def __enter__(self) -> None:
        """Install the handler for Ctrl-C."""
        ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN  # as under nohup, or in the background of a script
        if threading.current_thread() is threading.main_thread() and not ignored:
            self._before = signal.signal(signal.SIGINT, self._stop)

    def _stop(self, *_: object) -> None:
        if self.stopped or is_stuck():
            raise KeyboardInterrupt
        self.stopped = True

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Save the state if nothing failed."""
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
        if kind is None and self._position:
            from rnn_lab.language import state

            state.save(self.file, self.run, self._position, self.rng)
            remark(f"The state after {self._position.read:,} symbols is in {self.file}.")
        elif kind is KeyboardInterrupt:
            remark(f"Interrupted at once: no state is saved in {self.file}.")

    def watched(self, symbols: Iterator[tuple[int, Position]]) -> Iterator[int]:
        """The symbols without positions, until Ctrl-C."""
        for symbol, self._position in symbols:
            yield symbol
            if self.stopped:
                return


Texts = Iterator[tuple[str, Iterator[str]]]
"""The label of each text, and its pieces."""


Errors = Literal["replace", "surrogateescape"]
"""How to decode bytes that are not UTF-8."""


def _draws(
    start: Start,
    length: int,
    choice: Choice,
    rng: Generator,
    keeper: Keeper | None,
    stop: tuple[str, ...],
    errors: Errors,
) -> Texts:
    """Endless texts, one after another."""
    from rnn_plugins.language.sampling import begin, follow, sample, write

    run, model, params, prime, after = start
    while True:
        if keeper:
            at = begin(model, params, prime, after)
            symbols = keeper.watched(follow(model, params, at, choice, rng))
        else:
            symbols = sample(model, params, prime, choice, rng, after)
        yield "", write(symbols, run.language.vocabulary, length, stop, errors)


def _beam(
    start: Start, length: int, width: int, never: tuple[int, ...], stop: tuple[str, ...], errors: Errors
) -> Texts:
    """The likeliest texts that a beam finds, the likeliest first."""
    from rnn_plugins.language.sampling import beam_search, write

    run, model, params, prime, after = start
    for found in beam_search(model, params, prime, length, width, after, never):
        text = write(iter(found.symbols), run.language.vocabulary, stop=stop, errors=errors)
        yield f"a log probability of {found.log_probability:.3f} nats", text


def _stream(pieces: Iterable[str], as_bytes: bool, end: str, keep: bool) -> str:
    """Write pieces as they arrive.

    Args:
        pieces: of the text, which may be endless.
        as_bytes: whether to write UTF-8, with surrogates as the bytes that they encode.
        end: written after a text that does not end with it.
        keep: whether to return the whole text.

    Returns:
        The whole text, or an empty one.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal may lack some characters

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


def _check(ctx: click.Context) -> None:
    """Check the options against each other.

    Raises:
        UserError: two options exclude each other, or one is out of range.
    """
    given = {name for name in ctx.params if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    values = ctx.params
    if {"prime", "prime_file"} <= given:
        raise UserError("--prime and --prime-file both set the beginning of the text: leave one of them out")
    for name, least in (("length", 0), ("count", 1), ("seed", 0), ("beam", 1 if "beam" in given else 0)):
        if values[name] is not None and values[name] < least:
            raise UserError(f"--{name} is {values[name]}; it must be at least {least}")
    if "" in values["stop"]:
        raise UserError("--stop is empty; give the text after which a sample ends")
    for name in ("png", "gif"):
        if values[name] is not None:
            check_sheet(name, values[name])
    if values["save_state"]:
        try_file("save-state", values["save_state"])
        if is_special(values["save_state"]):
            raise UserError(f"--save-state is {values['save_state']!r}, which is not a file: name one")
        if values["beam"] or values["count"] > 1:
            option = "beam" if values["beam"] else "count"
            raise UserError(f"--save-state saves the state at the end of one drawn text: leave out --{option}")
    if values["beam"]:
        drawing = sorted(given & {"temperature", "top_k", "top_p", "greedy", "seed"})
        if drawing:
            option = drawing[0].replace("_", "-")
            raise UserError(f"--beam searches for the likeliest text and draws nothing: leave out --{option}")
        if not values["length"]:
            raise UserError("--beam needs an end: give a --length above 0")
        if values["count"] > values["beam"]:
            raise UserError(f"--beam {values['beam']} finds that many texts at most, and --count is {values['count']}")
    elif not values["length"] and not values["stop"] and (values["check"] or values["count"] > 1):
        option = "check" if values["check"] else "count"
        raise UserError(f"--{option} needs texts with an end: give a --length above 0, or --stop")


def _prime(prime: str | None, file: str | None, vocabulary: Vocabulary) -> str:
    """The beginning of the text."""
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
    r"""Read ``\n`` and ``\t`` as a line feed and a tab, since a shell passes them on as typed.

    Only for a network without a backslash in its vocabulary: in LaTeX, for example, they may begin a command.
    """
    if "\\n" not in text and "\\t" not in text:
        return text
    if vocabulary.level != "byte" and "\\" not in vocabulary.symbols:
        remark(rf"Note: \n and \t in {option} are read as a line feed and a tab.")
        return text.replace("\\n", "\n").replace("\\t", "\t")
    if re.search(r"\\[nt](?![A-Za-z])", text):
        remark(rf"Note: \n and \t in {option} are read literally; in bash and zsh, $'\n' is a line feed.")
    return text


def _check_latex(text: str) -> None:
    """Print what a text opens and closes to standard error, so that standard output is only the text."""
    from rnn_plugins.data.latex_check import check

    report = check(text)
    total = report.total
    rows = [*report.rows(), ("all", total.opened, total.rightly, total.wrongly, total.never, total.unopened)]
    heads = ("KIND", "OPENED", "CLOSED RIGHTLY", "WRONGLY", "NEVER", "CLOSED UNOPENED")
    click.echo("\n" + table([[str(cell) for cell in row] for row in rows], heads, align="<>>>>>"), nl=False, err=True)
    remark(f"References: {report.defined} to labels defined earlier, {report.undefined} to others.")
