"""Run a training session for a command: introduction, display, result, and how to resume."""

from __future__ import annotations

import os
import shlex
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from types import FrameType
from typing import TYPE_CHECKING

import click

from rnn_cli.console import remark, showing
from rnn_cli.display import Display, Lines, Live, Records, emit, measured, memory, tell
from rnn_cli.tables import filled, sentence
from rnn_lab.printable import printable
from rnn_plugins.errors import why
from rnn_plugins.words import amount, brief, duration

if TYPE_CHECKING:
    from rnn_lab.evaluation import Evaluation
    from rnn_lab.session import Session
    from rnn_lab.tracking import TensorBoard
    from rnn_lab.trainer import Trainer

FAILED, DIVERGED = 1, 3
"""The exit codes of a run that cannot be saved, and of one that diverged.

An interrupted run has 128 + the signal's number."""


def carry_out(session: Session, *, quiet: bool, as_json: bool) -> int:
    """Train to the end and show the progress.

    Returns:
        The exit code.
    """
    from minigrad.training import NotFinite
    from rnn_cli.engine_warnings import no_warnings

    trainer, at_once, failed = session.trainer, False, False
    diagnosis: list[str] = []
    display, tracker = _display(session, quiet, as_json), _tracker(session)
    with stopping(trainer, display.note) as signals, no_warnings() if quiet else nullcontext():
        try:
            if not quiet:
                introduce(session)
            with closing(session.events()) as events, tracker or nullcontext(), display:
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
        test = {"test": session.test.to_json()} if session.test else {}
        emit({"outcome": session.outcome() | test | {"diagnosis": diagnosis}})
    elif not quiet and session.run.path.exists():
        tell(filled(printable(result(session))))
        if session.test:
            show(session.test)
    if failed:
        return FAILED
    if diagnosis:
        return DIVERGED
    return 128 + signals[0] if signals and trainer.outcome in (None, "interrupted") else 0


def show(evaluation: Evaluation) -> None:
    """Print the evaluation on the test data."""
    from rnn_cli.eval import draw

    for notice in evaluation.notices:
        remark(f"Note: {sentence(notice)}")
    click.echo()
    draw(evaluation)


def introduce(session: Session) -> None:
    """Print what is trained, and the time and memory that it needs."""
    from rnn_cli.bars import waiting

    problem, trainer, run = session.problem, session.trainer, session.run
    settings = trainer.settings
    with waiting("measuring the first steps"):
        cost = session.cost()
    for notice in session.notices:
        remark(f"Note: {notice}.")
    remark(": ".join(filter(None, [brief(problem.data.sources), problem.data.about])))
    remark(
        f"{run.manifest['cell']['cell']}, {settings.num_layers} x {settings.hidden_size}: "
        f"{run.manifest['parameters']:,} parameters, about {memory(cost.bytes)} of memory"
    )
    epochs = trainer.last_step / problem.steps_per_epoch
    limit = "" if settings.max_time is None else f"; --max-time ends it after {duration(settings.max_time)}"
    passes = f"{epochs:,.0f}" if epochs >= 100 else f"{epochs:.3g}"
    remark(
        f"{amount(trainer.last_step, 'step')} ({passes} epoch{'' if passes == '1' else 's'} of "
        f"{problem.steps_per_epoch:,}), about "
        f"{duration(cost.seconds_per_epoch)} per epoch, {duration(epochs * cost.seconds_per_epoch)} in all "
        f"(measured on the first steps){limit}"
    )
    remark(f"seed {settings.seed}, learning rate {settings.learning_rate:g}, {settings.optimizer}, {settings.schedule}")
    remark(f"in {run.path}")


def conclude(session: Session, at_once: bool) -> None:
    """Print why it ended, the conclusion from the losses, and how to resume."""
    trainer, name = session.trainer, shlex.quote(session.run.name)
    resume = f"resume with: rnn train --resume {name}"
    if not session.run.path.exists():
        remark("Interrupted before the first step: nothing is saved.")
        return
    if at_once:
        remark(f"Interrupted at once, saved after step {trainer.saved:,}; {resume}")
    elif trainer.outcome == "interrupted":
        remark(f"Interrupted after step {trainer.saved:,} and saved; {resume}")
    elif trainer.outcome == "time":
        remark(f"The time is up after step {trainer.saved:,}; {resume}")
    elif trainer.outcome == "patience":
        remark(f"Stopped after {trainer.settings.patience:,} validations without improvement.")
    if words := session.verdict().words:
        remark(words)
    if command := session.next_command():
        remark(f"To go on: {command}")
    if trainer.outcome != "diverged":
        if session.writes or (session.run.generates and not session.run.task.needs_input):
            remark(f"Sample from it: rnn sample {name}{' --png new.png' if session.run.task.shows_pictures else ''}")
        else:
            remark(f"Evaluate it: rnn eval {name}{'' if session.run.held_out else ' FILE'}")
        if session.run.predicts and not session.writes:
            remark(f"Predict with it: rnn predict {name} {shlex.quote(session.input())}")


def unsaved(session: Session, error: OSError) -> str:
    """Why training stopped, if a file of the run cannot be written, and how to resume."""
    from rnn_lab.paths import LAST

    trainer, name = session.trainer, shlex.quote(session.run.name)
    file = f"{os.fspath(error.filename)!r}" if error.filename else "the run"
    stopped = f"{file} cannot be written ({why(error)}), so training stopped after step {trainer.state.step:,}"
    if not (session.run.path / LAST).exists():
        return f"{stopped}, and nothing is saved"
    return (
        f"{stopped}. Step {trainer.saved:,} is saved; when there is room again, resume with: rnn train --resume {name}"
    )


def result(session: Session) -> str:
    """The result, in a line."""
    best, path = session.trainer.best, session.run.path
    if best["metrics"] is None:
        return f"{path}: not validated yet"
    part = "held out" if session.run.held_out else "on the training data"
    return f"{path}: {measured(session.run, best['metrics'])} {part}, at step {best['step']:,}"


def _display(session: Session, quiet: bool, as_json: bool) -> Display:
    if as_json:
        return Records(session)
    how = "none" if quiet else showing()
    return {"live": Live, "plain": Lines, "none": Display}[how](session)


def _tracker(session: Session) -> TensorBoard | None:
    """Writes files for TensorBoard, if ``--track`` is set."""
    from rnn_lab.tracking import TensorBoard, require_writer
    from rnn_plugins.errors import UserError

    if not session.trainer.settings.track:
        return None
    try:
        require_writer()
    except UserError as error:  # a resumed run continues without it
        session.notices.append(f"there are no event files: {error}")
        return None
    return TensorBoard(session, lambda sentence: remark(f"Note: {sentence}."))


@contextmanager
def stopping(trainer: Trainer, note: Callable[[str], None]) -> Iterator[list[int]]:
    """Within this block the first SIGINT, SIGTERM or SIGHUP ends training after the current step and a validation.

    The second leaves the validation out, and the third exits at once.

    Args:
        trainer: trains.
        note: called with a sentence that says so, in a signal handler, which may not print.

    Yields:
        The received signals.
    """
    received: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        received.append(number)
        trainer.stop()
        note(
            "Stopping after this step and a validation. Ctrl-C again leaves the validation out."
            if len(received) == 1
            else "Stopping after this step. Ctrl-C again exits at once."
        )

    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in filter(None, (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", None))):
            if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup, or in the background of a script
                before[number] = signal.signal(number, stop)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
