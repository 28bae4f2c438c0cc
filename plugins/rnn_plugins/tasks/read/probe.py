"""The reading cell along the glimpses, as reports measure it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from minigrad import affine, log_softmax, pick
from minigrad.trees import Tree
from rnn_cells import Cell
from rnn_plugins.reports.probe import Labels
from rnn_plugins.tasks.blocks import chunks
from rnn_plugins.tasks.probes import EveryStep
from rnn_plugins.tasks.read.columns import ColumnReader
from rnn_plugins.tasks.read.model import Glimpser
from rnn_plugins.tasks.task import Batch

Array: TypeAlias = NDArray[Any]

AT_ONCE = 128
"""Images that are looked at together."""

PATH = (
    "the network chooses its glimpses; the measurements take them as given, so that they show what passes through the "
    "states of the cell that names the digits"
)
"""The notice on every network of this task."""


def along_glimpses(
    model: Glimpser, params: Tree, examples: Sequence[Any], pack: Callable[[Sequence[Any]], Batch], names: Sequence[str]
) -> EveryStep:
    """The cell along the glimpses of each image, with a loss after the last one for each symbol.

    Args:
        model: the model.
        params: its parameters.
        examples: the images.
        pack: makes a batch of some.
        names: of the symbols.
    """
    seen: list[Array] = []
    goals: list[Array] = []
    for some in chunks(examples, AT_ONCE):
        (pixels, keys, lengths), targets, _ = pack(some)
        steps = model.per_symbol * len(targets)
        glimpses = np.asarray(model.look(params, pixels, model.drawn(keys, steps)).glimpses)
        for i, length in enumerate(lengths.tolist()):
            goal = np.full(model.per_symbol * length, -1)
            goal[model.per_symbol - 1 :: model.per_symbol] = targets[:length, i]
            seen.append(glimpses[: len(goal), i])
            goals.append(goal)

    def written(index: int) -> Labels:
        steps = range(len(goals[index]))
        places = tuple(f"{step // model.per_symbol + 1}.{step % model.per_symbol + 1}" for step in steps)
        return Labels(places, tuple(names[goal] if goal >= 0 else "" for goal in goals[index].tolist()))

    probe = _probe(model, model.reader, {**params, "cell": params["reader"]}, seen, goals, "glimpse", written)
    probe.notices = (PATH,)
    return probe


def along_columns(
    model: ColumnReader,
    params: Tree,
    examples: Sequence[Any],
    pack: Callable[[Sequence[Any]], Batch],
    names: Sequence[str],
) -> EveryStep:
    """The cell along the columns of each image and the symbols after them, each of which has a loss.

    Args:
        model: the model.
        params: its parameters.
        examples: the images.
        pack: makes a batch of some.
        names: of the symbols.
    """
    seen: list[Array] = []
    goals: list[Array] = []
    for some in chunks(examples, AT_ONCE):
        (pixels, _, lengths), targets, _ = pack(some)
        width = pixels.shape[2]
        xs = model.columns(pixels, len(targets))
        for i, length in enumerate(lengths.tolist()):
            seen.append(xs[: width + length, i])
            goals.append(np.append(np.full(width, -1), targets[:length, i]))

    def written(index: int) -> Labels:
        wanted = tuple(names[goal] if goal >= 0 else "" for goal in goals[index].tolist())
        places = tuple("" if name else str(step + 1) for step, name in enumerate(wanted))
        return Labels(places, wanted)

    return _probe(model, model.cell, params, seen, goals, "column", written)


def _probe(
    model: Glimpser | ColumnReader,
    cell: Cell,
    weights: Tree,
    seen: list[Array],
    goals: list[Array],
    unit: str,
    written: Callable[[int], Labels],
) -> EveryStep:
    """A cell along what it reads of each image, with a loss where a goal is no negative number."""
    return EveryStep(
        recurrent=cell,
        weights=weights,
        inputs=seen,
        goals=goals,
        see=lambda weights, some: some,
        score=_score,
        dtype=model.dtype,
        unit=unit,
        sequence="image",
        numbers_per_output=model.classes,
        written=written,
    )


def _score(weights: Tree, outputs: Any, wanted: Array) -> Any:
    return -pick(log_softmax(affine(weights["head"], outputs)), wanted)
