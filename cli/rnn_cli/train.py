"""``rnn train``: a network learns a text. What is trained, and how, is put together in ``rnn_lab.sessions``."""

from __future__ import annotations

import os
import shlex
import signal
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from rnn_cli import piped
from rnn_cli.console import is_live, remark
from rnn_cli.display import Display, Lines, Live, Records, duration, emit, losses, memory, tell
from rnn_cli.options import OPTIONS, Setting, collect, translate
from rnn_lab.printable import printable
from rnn_plugins.errors import why

if TYPE_CHECKING:
    from rnn_lab.sessions import Session
    from rnn_lab.tracking import TensorBoard
    from rnn_lab.trainer import Trainer

FAILED, DIVERGED = 1, 3
"""The exit codes of a run that cannot be saved, and of one whose loss became no number.

An interrupted one has 128 + the signal."""


class Train(click.Command):
    """A command that knows other programs' names for its options, and shows them in groups."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As Click does, after the translation."""
        if ctx.resilient_parsing:
            return super().parse_args(ctx, args)
        notes: list[str] = []
        rest = super().parse_args(ctx, translate(args, notes.append))
        if not ctx.params.get("quiet"):
            for note in notes:
                remark(f"Note: {note}.")
        return rest

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """A section a group."""
        records: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record and isinstance(parameter, click.Option):
                group = parameter.group if isinstance(parameter, Setting) else "Other"
                records.setdefault(group, []).append(record)
        for group, rows in records.items():
            with formatter.section(group):
                formatter.write_dl(rows)


EXAMPLES = """\b
Examples:
  rnn train book.txt
  rnn train book.txt --cell lstm --hidden-size 512 --max-time 10m
  rnn train --resume lstm-book"""


@click.command(cls=Train, epilog=EXAMPLES)
@click.argument("files", nargs=-1, type=click.Path(allow_dash=True, readable=False), metavar="[FILES]...")
@click.pass_context
def train(ctx: click.Context, /, files: tuple[str, ...], **given: Any) -> None:
    """Train a network on a text.

    FILES are text files, folders, globs, .gz files or - for standard input, read one after the other; without any, the
    built-in corpus builtin:latex. There is also builtin:hello.

    The run becomes a folder in runs/, or in the folder that the environment variable RNN_RUNS names. Ctrl-C ends it
    after the step under way and a validation, and --resume goes on with it.
    """
    wanted = collect(files, given)
    name, resumed, source = (wanted.pop(key, None) for key in ("name", "resume", "init_from"))
    quiet, as_json = (wanted.pop(key, False) for key in ("quiet", "json"))
    from rnn_lab import sessions
    from rnn_lab.runs import find_run
    from rnn_lab.tracking import require_writer
    from rnn_plugins.errors import UserError

    if wanted.get("track"):
        require_writer()
    if resumed and (source or name not in (None, resumed)):
        raise UserError(f"--resume goes on with a run as it is: leave out {'--init-from' if source else '--name'}")
    before = find_run(resumed) if resumed else None
    if given["flow_every"] is not None and not wanted.get("flow") and not (before and before.settings.flow):
        raise UserError("--flow-every says how often --flow looks: give --flow too")
    if not quiet and not wanted.get("files") and not (before and "-" in before.settings.files):
        piped.ignored("rnn train - reads it as the text")
    if before:
        session = sessions.resume(before, wanted)
    else:
        session = sessions.start(wanted, name=name, init_from=find_run(source) if source else None)
    ctx.exit(carry_out(session, quiet=quiet, as_json=as_json))


train.params += OPTIONS


def carry_out(session: Session, *, quiet: bool, as_json: bool) -> int:
    """Train to the end, showing it.

    Returns:
        The exit code.
    """
    from minigrad.training import NotFinite
    from rnn_cli.engine_warnings import no_warnings

    trainer, at_once, failed = session.trainer, False, False
    diagnosis: list[str] = []
    display, tracker = _display(session, quiet, as_json), _tracker(session)
    with _stopping(trainer, display) as signals, no_warnings() if quiet else nullcontext():
        try:
            if not quiet:
                introduce(session)
            with closing(trainer.events()) as events, tracker or nullcontext(), display:
                for progress in events:
                    display.show(progress)
                    if tracker:
                        tracker.show(progress)
        except NotFinite as error:
            diagnosis = session.diagnosis(error)
        except OSError as error:
            failed = True
            remark(f"Error: {unsaved(session, error)}")
        except KeyboardInterrupt:
            at_once = True
        finally:
            session.run.release()
    for line in diagnosis:
        remark(f"Error: {line}" if line is diagnosis[0] else line)
    if not quiet and not failed:
        conclude(session, at_once)
    if as_json:
        emit({"outcome": session.outcome() | {"diagnosis": diagnosis}})
    elif not quiet and session.run.path.exists():
        tell(printable(result(session)))
    if failed:
        return FAILED
    if diagnosis:
        return DIVERGED
    return 128 + signals[0] if signals and trainer.outcome in (None, "interrupted") else 0


def introduce(session: Session) -> None:
    """Say what is going to be trained and what it takes, before it begins."""
    corpus, task, trainer, run = session.corpus, session.task, session.trainer, session.run
    settings, cost = trainer.settings, session.cost()
    sources = [*corpus.sources[:3], *([f"{len(corpus.sources) - 3:,} more"] if len(corpus.sources) > 3 else [])]
    for notice in session.notices:
        remark(f"Note: {notice}.")
    remark(
        f"{', '.join(sources)}: {corpus.characters:,} characters, a vocabulary of {len(corpus.vocabulary):,}; "
        f"{len(task.train_tokens):,} {session.unit} to train on, {len(task.valid_tokens):,} held out"
    )
    remark(
        f"{run.manifest['cell']['cell']}, {settings.num_layers} x {settings.hidden_size}: "
        f"{run.manifest['parameters']:,} parameters, about {memory(cost.bytes)} of memory"
    )
    epochs = trainer.last_step / task.steps_per_epoch
    limit = "" if settings.max_time is None else f", and --max-time ends it after {duration(settings.max_time)}"
    remark(
        f"{trainer.last_step:,} steps, {task.steps_per_epoch:,} an epoch; an epoch takes about "
        f"{duration(cost.seconds_per_epoch)}, the whole {duration(epochs * cost.seconds_per_epoch)} "
        f"(measured on the first steps){limit}"
    )
    remark(f"seed {settings.seed}, learning rate {settings.learning_rate:g}, {settings.optimizer}, {settings.schedule}")
    remark(f"in {run.path}")


def conclude(session: Session, at_once: bool) -> None:
    """Say why it ended, what the curves say and how to go on."""
    trainer, name = session.trainer, shlex.quote(session.run.name)
    go_on = f"go on with: rnn train --resume {name}"
    if not session.run.path.exists():
        remark("Left before the first step, and nothing of it is kept.")
        return
    if at_once:
        remark(f"Left at once, and saved after step {trainer.saved:,}; {go_on}")
    elif trainer.outcome == "interrupted":
        remark(f"Interrupted after step {trainer.saved:,} and saved; {go_on}")
    elif trainer.outcome == "time":
        remark(f"The time is up after step {trainer.saved:,}; {go_on}")
    elif trainer.outcome == "patience":
        remark(f"No better for {trainer.settings.patience:,} validations, so it ends here.")
    if words := session.verdict():
        remark(words)
    if trainer.outcome != "diverged":
        remark(f"Let it write: rnn sample {name}")


def unsaved(session: Session, error: OSError) -> str:
    """Why training stopped where a file of the run cannot be written, and how to go on."""
    from rnn_lab.paths import LAST

    trainer, name = session.trainer, shlex.quote(session.run.name)
    place = f"{os.fspath(error.filename)!r}" if error.filename else "the run"
    stopped = f"{place} cannot be written ({why(error)}), so training stopped after step {trainer.state.step:,}"
    if not (session.run.path / LAST).exists():
        return f"{stopped}, and nothing is saved"
    return (
        f"{stopped}. What is saved is step {trainer.saved:,}; when there is room again, go on with: "
        f"rnn train --resume {name}"
    )


def result(session: Session) -> str:
    """What came out, in a line."""
    best, path = session.trainer.best, session.run.path
    if best["loss"] is None:
        return f"{path}: not measured yet"
    text = "held out" if session.run.held_out else "on the training text"
    return f"{path}: {losses(session, best['loss'])} {text}, at step {best['step']:,}"


def _display(session: Session, quiet: bool, as_json: bool) -> Display:
    if as_json:
        return Records(session)
    if quiet:
        return Display(session)
    return Live(session) if is_live() else Lines(session)


def _tracker(session: Session) -> TensorBoard | None:
    """What writes files for TensorBoard, where that is wished for."""
    from rnn_lab.tracking import TensorBoard, require_writer
    from rnn_plugins.errors import UserError

    if not session.trainer.settings.track:
        return None
    try:
        require_writer()
    except UserError as error:  # a run that began with it goes on without
        session.notices.append(f"there are no event files: {error}")
        return None
    return TensorBoard(session, lambda sentence: remark(f"Note: {sentence}."))


@contextmanager
def _stopping(trainer: Trainer, display: Display) -> Iterator[list[int]]:
    """The first SIGINT, SIGTERM or SIGHUP ends training after the step under way and a validation.

    The second leaves the validation out, and the third leaves at once.

    Yields:
        The signals that came.
    """
    came: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        came.append(number)
        trainer.stop()
        display.note(
            "Stopping after this step and a validation. Ctrl-C again leaves the validation out."
            if len(came) == 1
            else "Stopping after this step. Ctrl-C again leaves at once."
        )

    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in filter(None, (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", None))):
            if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup, or in the background of a script
                before[number] = signal.signal(number, stop)
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
