"""From settings to a run that is ready to train: new, with the weights of another, taken up again, or repeated.

It reads the text, makes the model and lays out the run's folder; the training itself is the trainer's.
"""

from __future__ import annotations

import hashlib
import math
import os
import secrets
import shlex
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minigrad import trees, value_and_grad
from minigrad.compiled import jit
from minigrad.diagnosis import explain
from minigrad.training import NotFinite
from minigrad.trees import Tree
from rnn_cells import Cell
from rnn_lab import backends
from rnn_lab.ablation import ablations
from rnn_lab.backends import is_compiled, on_backend, settled
from rnn_lab.blas_threads import Threads, changes_of, contradiction
from rnn_lab.divergence import of_recurrence
from rnn_lab.paths import BEST, LAST
from rnn_lab.runs import Run, build_model, create_run, embedding_size, environment
from rnn_lab.settings import EPOCHS, MIN_STEPS, Backend, Settings, merge, named, option, warmed_up
from rnn_lab.trainer import Trainer, verdict
from rnn_plugins import registry
from rnn_plugins.data.corpus import Corpus, cache_folder, load_corpus, recall_corpus, split
from rnn_plugins.data.decoding import MARK
from rnn_plugins.data.sources import is_pipe, label_of
from rnn_plugins.data.vocabulary import NOUNS, Vocabulary
from rnn_plugins.errors import UserError
from rnn_plugins.language.model import LEARNING_RATE, Model
from rnn_plugins.language.probe import TextProbe
from rnn_plugins.language.sampling import Choice, opening, sample, write
from rnn_plugins.tasks.language_model import LanguageModel, TextBatch

WARM_UP = 200
"""Steps of warm-up that a diverged run is advised to try."""

CHANGEABLE = named("changeable")
"""Settings that may be given anew when a run goes on; the files, as long as they hold the same text."""

INHERITED = named("inherited")
"""Settings that a run which starts with another's weights takes over from it."""


class Cost(NamedTuple):
    """What a run needs.

    Attributes:
        bytes: of weights, optimiser and one training step.
        seconds_per_epoch: of training, validation not counted.
    """

    bytes: int
    seconds_per_epoch: float


@dataclass
class Session:
    """A run that is ready to train.

    Attributes:
        run: its folder.
        corpus: its text.
        task: what is trained.
        trainer: trains it.
        notices: sentences that the user should see.
    """

    run: Run
    corpus: Corpus
    task: LanguageModel
    trainer: Trainer
    notices: list[str] = field(default_factory=list)

    def cost(self) -> Cost:
        """Take the next step a few times and throw it away, to see what memory and what time it needs."""
        state, batch = self.trainer.state, self.task.batch(self.trainer.state.step)
        step = value_and_grad(self.task.loss, has_aux=True)
        times: list[float] = []
        with on_backend(self.trainer.settings.backend), np.errstate(all="ignore"):
            if isinstance(batch, TextBatch) and (piece := len(batch.inputs) // 8):
                # What is planned and compiled for it serves the whole, and would take three times as long while traced.
                short = TextBatch(batch.inputs[:piece], batch.targets[:piece])
                step(state.params, state.carry, short, np.random.default_rng(0))
            tracemalloc.start()
            step(state.params, state.carry, batch, np.random.default_rng(0))
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            while len(times) < 5 and sum(times) < 0.1:
                started = time.perf_counter()
                step(state.params, state.carry, batch, np.random.default_rng(0))
                times.append(time.perf_counter() - started)
        kept = sum(array.nbytes for array in trees.leaves((state.params, state.optimizer)))
        return Cost(kept + peak, statistics.median(times) * self.task.steps_per_epoch)

    def excerpt(self, characters: int) -> str:
        """What the model writes as it is now. The training's generators are not drawn from.

        Raises:
            UserError: the task is no language model, or the model has no scores to write by.
        """
        self.run.require_text()
        vocabulary, state = self.corpus.vocabulary, self.trainer.state
        rng = np.random.default_rng(state.step)
        choice = Choice(never=vocabulary.unwritten)
        symbols = sample(self.task.model, state.params, self.run.opening, choice, rng)
        # A model on its way to diverge is told of by its loss.
        with on_backend(self.trainer.settings.backend), np.errstate(all="ignore"):
            return "".join(write(symbols, vocabulary, characters))

    @property
    def unit(self) -> str:
        """What a symbol is called, in the plural."""
        return f"{NOUNS[self.corpus.vocabulary.level]}s"

    def verdict(self, records: Iterable[dict[str, Any]] | None = None) -> str:
        """What the curves say, in words.

        Args:
            records: those of the run so far; None reads them.
        """
        ended = self.trainer.outcome in ("time", "patience")
        done = 1.0 if ended else self.trainer.state.step / max(self.trainer.total_steps, 1)
        guessing = math.log(len(self.corpus.vocabulary))
        settings = self.trainer.settings
        longer = "more --epochs" if settings.steps is None else "more --steps"
        if self.trainer.outcome == "time":
            longer = "a longer --max-time"
        looks = list(self.run.records() if records is None else records)
        return verdict(looks, done, guessing, settings.learning_rate or LEARNING_RATE, longer)

    def outcome(self) -> dict[str, Any]:
        """How the run ended, as JSON takes it."""
        best = self.trainer.best
        loss = best["loss"]
        return {
            "outcome": self.trainer.outcome,
            "step": self.trainer.saved,
            "loss": loss,
            "bits_per_character": None if loss is None or not self.run.is_of_text else self.run.bits(loss),
            "best_step": best["step"],
        }

    def diagnosis(self, error: NotFinite) -> list[str]:
        """Why the run diverged, in sentences: what was not finite, where, what came before, what to try."""
        trainer = self.trainer
        looked = error.step == trainer.state.step  # the step itself went well, and what it led to was looked at
        if looked:
            measured = "held-out loss" if len(self.task.valid_tokens) > 1 else "loss"
            lines = [f"Diverged: after step {error.step:,} the {measured} is {error.loss:g}."]
        else:
            norm = f"the norm of its gradient {error.gradient_norm:g}"
            lines = [f"Diverged at step {error.step:,}: the loss is {error.loss:g}, {norm}."]
        finding = explain(self.task.loss, trainer.state.params, error)
        if finding.phase == "parameters":
            lines.append(f"The parameter {finding.parameter} is not finite.")
        elif not (looked and finding.phase == "backward"):  # then it tells of the next training step, which will not be
            lines.append(finding.sentence())
        if trainer.recent:
            norms = ", ".join(f"{step.gradient_norm:.3g}" for step in trainer.recent)
            lines.append(f"The norms of the gradients before it: {norms}.")
        why: tuple[str, ...] = ()
        with suppress(UserError):  # nobody can tell where the weights that it started with are gone
            params, tokens = self._beginning(), np.asarray(self.task.train_tokens, np.intp)
            probe = TextProbe(self.task.model, params, tokens, self.corpus.vocabulary)
            seed = trainer.settings.seed or 0
            why = of_recurrence(self.task, params, probe, error.step, self.task.seq_length, seed)
        if why:
            lines += [why[0][0].upper() + why[0][1:], why[1]]
        else:
            lines.append(self._advice())
        if trainer.best["loss"] is not None:
            lines.append(f"The best weights, of step {trainer.best['step']:,}, stay: rnn sample {self.run.name}")
        return lines

    def _beginning(self) -> Tree:
        """The weights that training began with.

        Raises:
            UserError: they are gone.
        """
        source, settings = _source(self.run), self.trainer.settings
        return trees.cast(source.params(), settings.dtype) if source else self.trainer.fresh_params()

    def _advice(self) -> str:
        """What to try where the learning rate is at fault."""
        trainer = self.trainer
        rate = trainer.settings.learning_rate or LEARNING_RATE
        advice = [f"--learning-rate {rate / 10:.1g} (it was {rate:.2g})"]
        if not any(trainer.settings.clipping()):
            advice.append("--grad-clip 5")
        if "warmup" not in trainer.settings.schedule and trainer.total_steps > 2 * WARM_UP:
            advice.append(f"a warm-up: --schedule cosine:warmup={WARM_UP}")
        return f"What to try, in a new run: {', or '.join(advice)}."


def start(given: Mapping[str, Any], *, name: str | None = None, init_from: Run | None = None) -> Session:
    """A new run.

    Args:
        given: the settings that are not to be the defaults.
        name: what the run is to be called.
        init_from: a run whose best weights, symbols and sizes it starts with.

    Raises:
        UserError: a setting or the text will not do, or ``given`` contradicts ``init_from``.
    """
    if init_from is None:
        return _lay_out(Settings(**given), name)
    settings = Settings(**merge({key: getattr(init_from.settings, key) for key in INHERITED}, given))
    _hold(settings, init_from, INHERITED, "leave it out, or start without --init-from")
    registry.given("cells", given.get("cell", ""))
    session = _lay_out(settings, name, weights_of=init_from)
    session.notices.append(f"it starts with the best weights of {init_from.name}")
    return session


def resume(run: Run, given: Mapping[str, Any]) -> Session:
    """A run as it was when it was saved last.

    Args:
        run: which.
        given: settings; those that are not among ``CHANGEABLE`` must be as they were.

    Raises:
        UserError: the text is not what it was, a setting contradicts, or another process trains the run.
    """
    run.hold()
    try:
        return _take_up(run, given)
    except BaseException:
        run.release()
        raise


def _take_up(run: Run, given: Mapping[str, Any]) -> Session:
    before = run.settings
    settings = Settings(**merge(before.to_json(), given))
    backend, other = _backend(run, given.get("backend"))
    settings = replace(settings, backend=backend)
    _hold(settings, run, INHERITED, "leave it out, or start a new run without --resume")
    fixed = [f.name for f in fields(Settings) if f.name not in CHANGEABLE]
    _hold(settings, run, fixed, f"leave it out, or start a new run with its weights: --init-from {run.name}")
    registry.given("cells", given.get("cell", ""))
    corpus = _load(settings, _symbols(run), known=run)
    recorded = run.manifest["data"]["digest"]
    if corpus.digest != recorded or corpus.vocabulary != run.vocabulary:
        raise UserError(
            f"the text of the run {run.name!r} has changed: {', '.join(settings.files)} has the SHA-256 "
            f"{corpus.digest[:12]}, and it was {recorded[:12]}; a run goes on only with the text that it began "
            f"with, and --init-from {run.name} starts a new one with its weights"
        )
    task = _task(run.model, corpus, settings)
    trainer = Trainer(run, task, settings, settings.learning_rate or LEARNING_RATE)
    step = run.notes(LAST)["step"]
    if trainer.total_steps < step:
        name = "epochs" if settings.steps is None else "steps"
        raise UserError(
            f"--{name} is {getattr(settings, name):g}, and the run {run.name!r} has been trained for {step:,} steps: "
            f"give more to train it further, or start a new run with its weights: --init-from {run.name}"
        )
    trainer.resume()
    last = ", which is its last; --epochs or --steps trains it further" if step >= trainer.total_steps else ""
    session = Session(run, corpus, task, trainer, [f"it goes on after step {step:,}{last}", *ablations(settings)])
    session.notices += filter(None, [run.cell_changed()])
    if other:
        session.notices.append(
            f"it began on the backend {other}, and goes on with {backend}: it need not go on bit for bit"
        )
    began, now = run.manifest.get("environment", {}), environment()
    watched = ["rnn-lab", "numpy", "machine"]
    if is_compiled(before.backend) == is_compiled(backend):
        now |= (ran := backends.environment(backend))
        watched += [key for key in ran if key != "backend"]
        if "target" in began and is_compiled(backend):
            now["target"] = jit.processor()
            watched.append("target")
    session.notices += [
        f"it began with {key} {began[key]} and goes on with {now[key]}: it need not go on bit for bit"
        for key in watched
        if key in began and began[key] != now[key]
    ]
    if threads := contradiction(changes_of(began)):
        session.notices.append(f"its matrix products had threads {threads}: it need not go on bit for bit")
    anew = [key for key in CHANGEABLE if key != "files"]
    changed = {key: getattr(settings, key) for key in anew if getattr(settings, key) != getattr(before, key)}
    timed = settings.max_time is not None
    if settings.has_end and (timed or changed.keys() & {"epochs", "steps"}):
        end = "to the end of the time" if timed else f"{trainer.total_steps:,} steps"
        session.notices.append(
            f"the {settings.schedule.partition(':')[0]} schedule now spans {end}; the learning rate goes on at "
            f"{trainer.schedule(step):.2g}"
        )
    history = [*run.manifest.get("resumed", []), {"step": step, "changed": changed}]
    if other:
        began = {key: value for key, value in began.items() if key not in backends.OF_A_BACKEND}
        began |= backends.environment(backend)
    run.update(settings=_recorded(settings), resumed=history, environment=began)
    return session


def repeat(run: Run, *, name: str | None = None, backend: Backend | None = None) -> Session:
    """A new run with the settings of another, up to the step that that one reached.

    Args:
        run: which.
        name: of the new run; None makes one.
        backend: another than that of ``run``.

    Raises:
        UserError: the text is gone, or the weights that it started with are, or the backend is not there.
    """
    source = _source(run)
    backend, other = _backend(run, backend)
    outcome = run.manifest.get("outcome")
    reached = run.notes(LAST) if outcome else {}
    session = _lay_out(replace(run.settings, backend=backend), name, weights_of=source, known=run)
    if other:
        session.notices.append(
            f"{run.name} ran on the backend {other}, and its repetition runs on {backend}: the weights need not be "
            "the same bit for bit"
        )
    session.trainer.blas_threads = Threads(follows=(threads := changes_of(run.manifest.get("environment", {}))))
    if differ := contradiction(threads):
        session.notices.append(
            f"the matrix products of {run.name} had threads {differ}: the weights need not be the same bit for bit"
        )
    before = run.manifest["data"]["digest"]
    if session.corpus.digest != before:
        session.notices.append(
            f"the text has changed since {run.name}: {', '.join(session.corpus.sources)} has the SHA-256 "
            f"{session.corpus.digest[:12]}, and it was {before[:12]}"
        )
    for earlier in run.manifest.get("resumed", []):
        if lasting := [option(key) for key in earlier["changed"] if key not in ("max_time", "log_every")]:
            session.notices.append(
                f"{run.name} was given another {' and '.join(lasting)} at step {earlier['step']:,}; "
                "its repetition has that from the beginning"
            )
    trainer = session.trainer
    if outcome:
        trainer.settings = replace(trainer.settings, max_time=None)
        trainer.repeats = reached["tally"].get("spans", [])
    if outcome in ("time", "interrupted"):
        trainer.last_step, trainer.last_outcome = reached["step"], outcome
        session.notices.append(
            f"{run.name} was ended early: its repetition ends after as many steps, {trainer.last_step:,}"
        )
    return session


def same_weights(one: Run, other: Run) -> bool | None:
    """Whether two runs have the same weights bit for bit, the last or else the best; None where the steps differ."""
    for file in (LAST, BEST):
        (a, a_notes), (b, b_notes) = one.load(file), other.load(file)
        if a_notes["step"] == b_notes["step"]:
            a, b = (trees.flatten(tree["params"] if file == LAST else tree) for tree in (a, b))
            return a.keys() == b.keys() and all(
                (x.dtype, x.shape, x.tobytes()) == (b[path].dtype, b[path].shape, b[path].tobytes())
                for path, x in a.items()
            )
    return None


def _source(run: Run) -> Run | None:
    """The run with whose weights another one started; None where that started with fresh ones.

    Raises:
        UserError: the weights are gone or have changed.
    """
    recorded = run.manifest.get("init_from")
    if not recorded:
        return None
    source = Run(Path(recorded["path"]))
    if not (source.path / BEST).is_file() or _digest(source.path / BEST) != recorded["sha256"]:
        raise UserError(
            f"the run {run.name!r} started with the weights in {source.path}, which are gone or have changed: "
            "it cannot be repeated"
        )
    return source


def _symbols(run: Run) -> Vocabulary | None:
    """The symbols with which the text of a run is encoded again; None where they are all those that it has."""
    # Older versions took carriage returns and byte order marks for symbols; today they make none.
    older = not {"\r", MARK}.isdisjoint(run.vocabulary.symbols)
    return run.vocabulary if "init_from" in run.manifest or older else None


def _lay_out(
    settings: Settings, name: str | None, *, weights_of: Run | None = None, known: Run | None = None
) -> Session:
    """A run that is ready for its first step; what the settings leave open is decided here.

    Args:
        settings: of the run.
        name: of the run; None makes one.
        weights_of: the run whose weights, symbols and cell it starts with.
        known: the run that it repeats.
    """
    model_of = known or weights_of
    if model_of:
        origin = registry.provenance_now("cells", model_of.name, model_of.manifest["cell"])
    else:
        origin = registry.provenance("cells", settings.cell)

    def make_cell(input_size: int) -> Cell:
        if model_of:
            return model_of.make_cell(input_size)
        return registry.make_cell(settings.cell, input_size, settings.hidden_size, settings.cell_option)

    notices = [model_of.cell_changed()] if model_of else []
    files = settings.files or ("builtin:latex",)
    settings = replace(settings, files=files, backend=settled(settings.backend))
    symbols = _symbols(known) if known else weights_of.vocabulary if weights_of else None
    corpus = _load(settings, symbols, known)
    decided, task = _decide(settings, corpus, make_cell)
    params = trees.cast(weights_of.params(), decided.dtype) if weights_of else None
    manifest = {
        "task": decided.task,
        "cell": origin,
        "settings": _recorded(decided),
        "parameters": trees.count(task.init_params(np.random.default_rng(0))),
        "data": {
            "sources": list(corpus.sources),
            "digest": corpus.digest,
            "bytes": corpus.bytes,
            "characters": corpus.characters,
            "symbols": len(corpus.tokens),
            "held_out": len(task.valid_tokens),
            "characters_per_symbol": {
                "training": corpus.vocabulary.characters_per_symbol(task.train_tokens[1:]),
                "held_out": corpus.vocabulary.characters_per_symbol(task.valid_tokens[1:]),
            },
            "unknown": corpus.unknown,
        },
        "environment": environment() | backends.environment(decided.backend),
        "outcome": None,
    }
    if weights_of:
        path = os.path.abspath(weights_of.path)
        manifest["init_from"] = {"path": path, "sha256": _digest(weights_of.path / BEST)}
    manifest["opening"] = opening(corpus.vocabulary, task.train_tokens)
    manifest["vocabulary"] = corpus.vocabulary.to_json()
    run = create_run(name, f"{origin.get('class', settings.cell)}-{stem(files[0])}", manifest)
    try:
        trainer = Trainer(run, task, decided, decided.learning_rate or LEARNING_RATE)
        trainer.begin(params)
    except BaseException:
        run.release()
        raise
    if decided.valid_fraction and len(task.valid_tokens) < 2:
        notices.append("the text is too short to hold some of it out, so the training loss chooses the best weights")
    notices += ablations(decided)
    if pipes := list(filter(is_pipe, files)):
        notices.append(
            f"{label_of(pipes)} cannot be read again: its symbols are kept in {str(cache_folder())!r}; where they are "
            f"gone, give the same text in a FILE to go on: rnn train --resume {shlex.quote(run.name)} FILE"
        )
    return Session(run, corpus, task, trainer, list(filter(None, [*corpus.notices, task.notice, *notices])))


def _backend(run: Run, wish: Backend | None) -> tuple[Backend, str]:
    """The backend on which a run goes on or is repeated, and where that is another one, words for the one it had.

    Raises:
        UserError: what is wished for is not there.
    """
    before = run.settings.backend
    if wish is not None:
        backend = settled(wish)
        return backend, "" if backend == before else before
    if is_compiled(before) and settled("auto") == "numpy":
        return "numpy", "compiled, which needs llvmlite (install rnn-lab[jit])"
    return before, ""


def _decide(settings: Settings, corpus: Corpus, make_cell: Callable[[int], Cell]) -> tuple[Settings, LanguageModel]:
    """The settings with nothing left open, and their task."""
    symbols = len(corpus.vocabulary)
    settings = replace(settings, embedding_size=embedding_size(settings, symbols))
    if settings.seed is None:
        settings = replace(settings, seed=secrets.randbelow(1_000_000))
    model = build_model(settings, symbols, make_cell)
    task = _task(model, corpus, settings)
    if settings.learning_rate is None:
        settings = replace(settings, learning_rate=model.suggested_learning_rate)
    if settings.epochs is None and settings.steps is None:
        short = task.steps_per_epoch * EPOCHS < MIN_STEPS
        settings = replace(settings, steps=MIN_STEPS) if short else replace(settings, epochs=EPOCHS)
    # Of a short run a cell's warm-up would leave little.
    warmup = min(model.cell.suggested_warmup, settings.total_steps(task.steps_per_epoch) // 10)
    settings = replace(settings, schedule=warmed_up(settings.schedule, warmup))
    return settings, task


def _task(model: Model, corpus: Corpus, settings: Settings) -> LanguageModel:
    training, held_out = split(corpus, settings.valid_fraction)
    if len(training) < 2:
        raise UserError(
            f"of {len(corpus.tokens):,} symbols, --valid-fraction {settings.valid_fraction:g} leaves "
            f"{len(training)} to train on, and it takes 2: lower it, or give a longer text"
        )
    make: type[LanguageModel] = registry.load("tasks", settings.task)
    return make(model, training, held_out, settings.seq_length, settings.batch_size)


def _load(settings: Settings, vocabulary: Vocabulary | None, known: Run | None) -> Corpus:
    """The text; where it came through standard input, from the cache if a run that knows it says what to look for."""
    remedy = "put it back where it was"
    if known and "-" in settings.files:
        remedy = f"give the same text in a FILE: rnn train --resume {shlex.quote(known.name)} FILE"
        digest = known.manifest["data"]["digest"]
        kept = recall_corpus(digest, known.vocabulary, sources=settings.files, unknown=settings.unknown)
        if kept:
            return kept
        if _no_input():
            raise UserError(f"the text of the run {known.name!r} came through a pipe and is kept nowhere; {remedy}")
    try:
        return load_corpus(
            settings.files,
            level=settings.level,
            valid_fraction=settings.valid_fraction,
            vocabulary=vocabulary,
            unknown=settings.unknown,
            recorded=known is not None and settings.files == known.settings.files,
        )
    except UserError as error:
        if known is None:
            raise
        problem = str(error).partition(";")[0]  # what follows is advice on what else to train on
        raise UserError(f"the text of the run {known.name!r} cannot be had: {problem}; {remedy}") from None


def _no_input() -> bool:
    return sys.stdin is None or sys.stdin.isatty()


def _hold(settings: Settings, run: Run, names: Iterable[str], advice: str) -> None:
    """See to it that settings are those of a run.

    Raises:
        UserError: one is not.
    """
    for name in names:
        here, there = getattr(settings, name), getattr(run.settings, name)
        if isinstance(here, dict):  # the command line gives text
            here, there = ({key: str(value).lower() for key, value in options.items()} for options in (here, there))
        if here != there:
            shown = [_pairs(value) if isinstance(value, dict) else value for value in (here, there)]
            raise UserError(f"{option(name)} is {shown[0]}, and the run {run.name!r} has {shown[1]}: {advice}")


def _pairs(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in options.items()) or "none"


def _recorded(settings: Settings) -> dict[str, Any]:
    """Settings for the manifest: files are named so that they are found from anywhere, and pipes as standard input."""
    files = [f if f.startswith("builtin:") else "-" if is_pipe(f) else os.path.abspath(f) for f in settings.files]
    if files.count("-") > 1:
        files = ["-"]  # which is read once only: the whole text would have to come through it
    return replace(settings, files=tuple(files)).to_json()


def stem(source: str) -> str:
    """A short name for a text."""
    if source == "-":
        return "stdin"
    return Path(source.removeprefix("builtin:")).name.partition(".")[0]


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
