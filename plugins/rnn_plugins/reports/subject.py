"""What a report is made of: a network with its weights, and the probes through which it is measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from minigrad.training import Details
from minigrad.trees import Tree
from rnn_plugins.errors import UserError
from rnn_plugins.language import Language
from rnn_plugins.reports.probe import Probe
from rnn_plugins.tasks.task import Metric, Score

NEUTRAL = (
    "loss", "flow", "heatmap", "spectrum", "lyapunov", "saturation", "parameters", "weights", "states", "memory",
)  # fmt: skip
"""The reports of this distribution on any network; ``loss`` on one of a run, ``memory`` on one that predicts always."""


@dataclass(frozen=True, eq=False)
class Subject:
    """A network, of a run or fresh.

    Attributes:
        label: what it is called in reports: the run's name, or the cell as it was asked for.
        cell: the cell's name as users write it.
        params: all of its parameters.
        probe: it along examples that were held out, where some were.
        training: it along those that it was or would be trained on; along the others where these are gone.
        learning_rate: of its training.
        take_step: one step of training from its weights on, with a fresh state of the optimiser and a seed of what is
            drawn; it raises ``UserError`` where none can be taken.
        steps: the training steps behind its weights; 0 for fresh ones.
        clip_norm: the norm to which gradients are clipped in training; None for none.
        records: reads those of its run's training; None where it is of no run.
        metrics: what the records' numbers of held-out data are, by their names without ``valid_``.
        deciding: the name of the one that chooses the weights that are kept.
        baselines: scores on the data that its run validates on, of what needs no network; none where that is not known.
        language: what it takes to read and write texts with it; None where it is no language model.
        examples: those of ``probe``, as its task holds it: the symbols of a text, (N,), where there is a language.
        learnt: those of ``training``, likewise.
        about: its cell, sizes and weights in words.
        notices: what is to be said of other examples than its own, a sentence each.
    """

    label: str
    cell: str
    params: Tree
    probe: Probe
    training: Probe
    learning_rate: float
    take_step: Callable[[int], Details]
    steps: int = 0
    clip_norm: float | None = None
    records: Callable[[], Iterable[Mapping[str, Any]]] | None = None
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    deciding: str = "loss"
    baselines: Callable[[], Sequence[Score]] = tuple
    language: Language | None = None
    examples: Any = None
    learnt: Any = None
    about: str = ""
    notices: tuple[str, ...] = field(default=())


def language_of(subject: Subject, kind: str) -> Language:
    """What it takes to read and write texts with a subject, for a report of this name.

    Raises:
        UserError: it reads and writes none.
    """
    if subject.language is None:
        lacks = {"loss": subject.records is None, "memory": not subject.probe.every_step}
        kinds = [name for name in NEUTRAL if not lacks.get(name)]
        raise UserError(
            f"{kind} is for language models, and {subject.label} is none: it can have {', '.join(kinds[:-1])} and "
            f"{kinds[-1]}"
        )
    return subject.language
