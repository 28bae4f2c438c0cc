"""What a report looks at: a model with its weights and a text, of a run or made afresh. It measures nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from minigrad import trees
from minigrad.training import NotFinite, start, train
from minigrad.trees import Tree
from rnn_cells.anatomy import Anatomy, anatomy
from rnn_lab.divergence import of_recurrence
from rnn_lab.language.evaluation import trained_on
from rnn_lab.paths import BEST
from rnn_lab.runs import Run, build_model, embedding_size
from rnn_lab.settings import Settings
from rnn_plugins import registry
from rnn_plugins.data.corpus import Corpus, load_corpus, split
from rnn_plugins.data.vocabulary import Vocabulary
from rnn_plugins.errors import UserError
from rnn_plugins.language.model import Model
from rnn_plugins.options import split_spec
from rnn_plugins.tasks.language_model import LanguageModel

Array: TypeAlias = NDArray[Any]


@dataclass(frozen=True)
class Subject:
    """A model and the text that it is looked at on.

    Attributes:
        label: what it is called in reports: the run's name, or the cell as it was asked for.
        model: the model.
        params: its parameters.
        tokens: (N,), the symbols of a text, held out where something was.
        vocabulary: what they stand for.
        training: (M,), the symbols that it was or would be trained on; those of the other text that it is looked at on,
            where its own is gone.
        cell: the cell's name as users write it.
        options: the cell's options that were given.
        steps: the training steps behind its weights; 0 for a fresh one.
        settings: the settings of its run; the defaults for a fresh one.
        run: where it comes from; None for a fresh one.
        opening: the symbols that it reads, unseen, before a text of its own.
        notices: what is to be said of another text than its own, a sentence each.
    """

    label: str
    model: Model
    params: Tree
    tokens: Array
    vocabulary: Vocabulary
    training: Array
    cell: str
    options: Mapping[str, Any] = field(default_factory=dict)
    steps: int = 0
    settings: Settings = field(default_factory=Settings)
    run: Run | None = None
    opening: tuple[int, ...] = ()
    notices: tuple[str, ...] = ()

    @property
    def anatomy(self) -> Anatomy:
        """The parts of its cell's step."""
        return anatomy(self.model.cell)

    @property
    def learning_rate(self) -> float:
        """The rate that was given, or what suits its cell."""
        return self.settings.learning_rate or self.model.suggested_learning_rate


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
    elif own is None:
        raise UserError(f"{reason}; --text FILE looks at the run on another text")
    else:
        training, held_out = map(_plain, own)
        tokens = held_out if len(held_out) > 1 else training
    weights, notes = run.load(BEST)
    return Subject(
        label=run.name,
        model=model,
        params=weights,
        tokens=tokens,
        vocabulary=run.vocabulary,
        training=training,
        cell=run.manifest["cell"]["cell"],
        options=settings.cell_option,
        steps=int(notes["step"]),
        settings=settings,
        run=run,
        opening=tuple(run.opening),
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
    task = LanguageModel(model, training, held_out, settings.seq_length, settings.batch_size)
    init, dropout = (np.random.default_rng(s) for s in np.random.SeedSequence(settings.seed or 0).spawn(2))
    subject = Subject(
        label=text,
        model=model,
        params=model.init_params(init),
        tokens=_plain(held_out if len(held_out) > 1 else training),
        vocabulary=corpus.vocabulary,
        training=_plain(training),
        cell=name,
        options=options,
        settings=settings,
    )
    return replace(subject, params=_trained(task, subject, steps, dropout), steps=steps) if steps else subject


def _trained(task: LanguageModel, subject: Subject, steps: int, rng: np.random.Generator) -> Tree:
    settings, rate = subject.settings, subject.learning_rate
    optimizer = settings.make_optimizer()
    clip_norm, clip_value = settings.clipping()
    state = start(subject.params, optimizer, task.init_carry(), rng)

    def batches() -> Any:
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
    )
    try:
        for _ in records:
            pass
    except NotFinite as error:
        why = " ".join(of_recurrence(task, subject, error.step)).removesuffix(".")
        advice = why or f"lower --learning-rate (it is {rate:g}) or --steps"
        raise UserError(f"the training of {subject.label} diverges at step {error.step}: {advice}") from None
    return trees.map(np.asarray, state.params)


def _plain(tokens: Array) -> Array:
    return np.asarray(tokens, np.intp)
