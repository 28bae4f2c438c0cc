"""What reports are made of: a run with its weights and its text, or a cell made afresh."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from minigrad import trees
from minigrad.training import Details, NotFinite, start, train
from minigrad.trees import Tree
from rnn_lab.divergence import of_recurrence
from rnn_lab.language.evaluation import trained_on
from rnn_lab.paths import BEST
from rnn_lab.runs import Run, build_model, embedding_size
from rnn_lab.settings import Settings
from rnn_plugins import registry
from rnn_plugins.data.corpus import Corpus, load_corpus, split
from rnn_plugins.data.vocabulary import Vocabulary
from rnn_plugins.errors import UserError
from rnn_plugins.language import Language
from rnn_plugins.language.model import Model
from rnn_plugins.language.probe import TextProbe
from rnn_plugins.options import split_spec
from rnn_plugins.reports.subject import Subject
from rnn_plugins.tasks.language_model import LanguageModel
from rnn_plugins.words import amount

Array: TypeAlias = NDArray[Any]


def of_run(run: Run, files: Sequence[str] = ()) -> Subject:
    """A trained run, on the text that it held out (on its training text, where it held nothing out), or on another.

    Args:
        run: which.
        files: the other text; its symbols must be those that the run knows, others are read as unknown.

    Raises:
        UserError: its text or its weights cannot be had.
    """
    settings, model = run.settings, run.text_model
    own, reason = trained_on(run)
    notices: tuple[str, ...] = ()
    if files:
        corpus = load_corpus(files, level=settings.level, vocabulary=run.vocabulary, unknown="replace")
        tokens, notices = _plain(corpus.tokens), corpus.notices
        training = _plain(own[0]) if own else tokens
        where = f"the text {', '.join(files)}"
    elif own is None:
        raise UserError(f"{reason}; --text FILE looks at the run on another text")
    else:
        training, held_out = map(_plain, own)
        tokens = held_out if len(held_out) > 1 else training
        where = "the held-out end of" if run.held_out else "the training text"
        where = f"{where} {', '.join(run.manifest['data']['sources'])}"
    params, notes = run.load(BEST)
    cell = run.manifest["cell"]["cell"]
    words = [" ".join([cell, *(f"{key}={value}" for key, value in settings.cell_option.items())])]
    words += [f"ablated {key}={value}" for key, value in settings.ablate.items()]
    subject = of_model(run.name, cell, model, params, tokens, training, run.vocabulary, settings)
    return replace(
        subject,
        steps=int(notes["step"]),
        records=run.records,
        language=Language(model, run.vocabulary, tuple(run.opening)),
        about=f"{', '.join([*words, subject.about])}, its best weights, of step {notes['step']:,}; "
        f"looked at on {where} ({amount(len(tokens), 'symbol')})",
        notices=notices,
    )


def fresh(text: str, corpus: Corpus, settings: Settings, steps: int = 0) -> Subject:
    """A cell with fresh weights, or trained for a few steps, on the end of a text.

    Args:
        text: the cell, with options behind it or not, as ``split_spec`` takes it.
        corpus: the text; its end is looked at, and what comes before is trained on.
        settings: sizes, batches, seed, learning rate (None takes the cell's own) and optimiser; cell, options and
            length of training are those given here.
        steps: of training, with a constant learning rate.

    Raises:
        UserError: there is no such cell, it cannot be made so, or its training diverges.
    """
    name, options = split_spec(text, "cell")
    training, held_out = split(corpus, settings.valid_fraction)
    if len(training) < 2:
        raise UserError(
            f"the text has {len(corpus.tokens):,} symbols, too few to look at a cell on it: give a longer one"
        )
    symbols = len(corpus.vocabulary)
    settings = replace(settings, embedding_size=embedding_size(settings, symbols))
    model = build_model(settings, symbols, lambda size: registry.make_cell(name, size, settings.hidden_size, options))
    init, dropout = (np.random.default_rng(s) for s in np.random.SeedSequence(settings.seed or 0).spawn(2))
    params, tokens = model.init_params(init), _plain(held_out if len(held_out) > 1 else training)
    trained = "with fresh weights"
    if steps:
        task = LanguageModel(model, training, held_out, settings.seq_length, settings.batch_size)
        rate, seed = _rate(settings, model), settings.seed or 0
        try:
            params = trees.map(np.asarray, _train(task, params, settings, rate, steps, dropout).after)
        except NotFinite as error:
            probe = TextProbe(model, params, tokens, corpus.vocabulary)
            why = " ".join(of_recurrence(task, params, probe, error.step, task.seq_length, seed)).removesuffix(".")
            advice = why or f"lower --learning-rate (it is {rate:g}) or --steps"
            raise UserError(f"the training of {text} diverges at step {error.step}: {advice}") from None
        trained = f"trained for {amount(steps, 'step')}"
    subject = of_model(text, name, model, params, tokens, _plain(training), corpus.vocabulary, settings)
    return replace(subject, steps=steps, about=f"{subject.about}, {trained}")


def of_model(
    label: str,
    cell: str,
    model: Model,
    params: Tree,
    tokens: Array,
    training: Array,
    vocabulary: Vocabulary,
    settings: Settings,
) -> Subject:
    """A language model on a text.

    Args:
        label: what it is called.
        cell: the cell's name.
        model: the network.
        params: its parameters.
        tokens: (N,), the text on which it is measured.
        training: (M,), the text that it learns from.
        vocabulary: what the symbols of both stand for.
        settings: of its training.
    """
    rate = _rate(settings, model)

    def take_step(seed: int) -> Details:
        task = LanguageModel(model, training, training[:0], settings.seq_length, settings.batch_size)
        try:
            return _train(task, params, settings, rate, 1, np.random.default_rng(seed))
        except NotFinite as error:
            raise UserError(f"no step can be taken with {label}: its loss is {error.loss:g}") from None

    return Subject(
        label=label,
        cell=cell,
        params=params,
        probe=TextProbe(model, params, tokens, vocabulary),
        training=TextProbe(model, params, training, vocabulary),
        learning_rate=rate,
        take_step=take_step,
        clip_norm=settings.clipping()[0] or None,
        language=Language(model, vocabulary),
        examples=tokens,
        learnt=training,
        about=f"{settings.num_layers} x {settings.hidden_size}, {trees.count(params):,} parameters",
    )


def _rate(settings: Settings, model: Model) -> float:
    """The learning rate that was given, or what suits the cell."""
    return settings.learning_rate or model.suggested_learning_rate


def _train(
    task: LanguageModel, params: Tree, settings: Settings, rate: float, steps: int, rng: np.random.Generator
) -> Details:
    """Train at a constant learning rate; what the last step did.

    Raises:
        NotFinite: a loss or a gradient is no number.
    """
    optimizer = settings.make_optimizer()
    clip_norm, clip_value = settings.clipping()
    state = start(params, optimizer, task.init_carry(), rng)

    def batches() -> Iterator[Any]:
        for step in range(steps):
            if step % task.steps_per_epoch == 0:
                state.carry = task.init_carry()
            yield task.batch(step)

    records = train(
        task.loss,
        state,
        batches(),
        optimizer=optimizer,
        schedule=lambda step: rate,
        clip_norm=clip_norm,
        clip_value=clip_value,
        watch=lambda step: step == steps,
    )
    last = deque(records, maxlen=1).pop()
    assert last.details is not None
    return last.details


def _plain(tokens: Array) -> Array:
    return np.asarray(tokens, np.intp)
