"""The state of a network while sampling: saved to a checkpoint, loaded, or with units clamped."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from minigrad import checkpoint, trees
from rnn_cells import Stacked
from rnn_cells.ablated import Ablated
from rnn_cells.anatomy import State, anatomy, indices_of_states
from rnn_lab import schema
from rnn_lab.paths import BEST
from rnn_lab.runs import Run
from rnn_plugins.errors import UserError
from rnn_plugins.language.model import Model
from rnn_plugins.language.sampling import Position

KIND = "state of a text"
"""The kind of file, in its metadata."""


@dataclass(frozen=True)
class Saved:
    """A state from a file.

    Attributes:
        position: the position in the text.
        rng: the generator that the text was sampled with; None if nothing was drawn.
        notice: a sentence that says so, if the state is of other weights; otherwise empty.
    """

    position: Position
    rng: np.random.Generator | None
    notice: str


def save(path: str, run: Run, position: Position, rng: np.random.Generator | None) -> None:
    """Save a state to a file.

    Args:
        path: the file's path.
        run: the run that generated the text.
        position: the position in the text.
        rng: the generator; None if nothing is drawn.

    Raises:
        UserError: it cannot be written.
    """
    notes = {
        "kind": KIND,
        "run": run.name,
        "weights": _weights(run),
        "cell": run.manifest["cell"]["cell"],
        "carries": _carries(run),
        "symbols": position.read,
        "drawn": position.drawn,
        "rng": rng and rng.bit_generator.state,
    }
    try:
        checkpoint.save(path, {"carry": position.carry, "scores": position.scores}, notes)
    except OSError as error:
        raise UserError(f"--save-state {path!r} cannot be written: {(error.strerror or str(error)).lower()}") from None


def load(path: str, run: Run) -> Saved:
    """Load a state that ``save`` wrote, for the model of a run.

    Raises:
        UserError: the file has no state, or the state does not fit the run.
    """
    try:
        tree, notes = checkpoint.load(path)
    except checkpoint.CheckpointError as error:
        raise UserError(f"--load-state: {error}") from None
    if not isinstance(notes, dict) or notes.get("kind") != KIND:
        raise UserError(f"--load-state {path!r} contains no state: expected a file from rnn sample --save-state")
    wrong = schema.misfit(notes, schema.STATE) or (notes.get("rng") and schema.misfit(notes["rng"], schema.RNG, "rng"))
    if not wrong and not _has_scores(tree):
        wrong = "contains other arrays than those of a state"
    if wrong:
        raise UserError(f"--load-state {path!r} {wrong}: it is damaged, so save the state again with --save-state")
    model = run.language.model
    first, source = model.init_carry(1), notes["run"]
    here, there = _carries(run), notes["carries"]
    try:
        pairs = trees.zip_leaves(first, tree["carry"])
        fits = all((mine.shape, mine.dtype.kind) == (kept.shape, kept.dtype.kind) for mine, kept in pairs)
    except ValueError:
        fits = False
    if not fits:
        raise UserError(
            f"--load-state {path!r} is of the run {source!r}, which carries {there}, and the run {run.name!r} carries "
            f"{here}: a state needs a network of the same sizes"
        )
    known, symbols = len(tree["scores"]), model.vocabulary_size
    if known != symbols:
        raise UserError(
            f"--load-state {path!r} is of the run {source!r}, which knows {known:,} symbols, and the run {run.name!r} "
            f"knows {symbols:,}: a state needs a network of the same sizes"
        )
    carry = trees.cast(trees.unflatten(first, [kept for _, kept in pairs]), model.dtype)
    rng = None
    if notes.get("rng"):
        rng = np.random.default_rng(0)
        rng.bit_generator.state = notes["rng"]
    notice = ""
    if notes["weights"] != _weights(run):
        notice = f"the state is from other weights, those of the run {source!r}: its units may mean something else here"
    return Saved(Position(carry, tree["scores"], notes["symbols"], notes["drawn"]), rng, notice)


def _has_scores(tree: Any) -> bool:
    if not (isinstance(tree, dict) and tree.keys() == {"carry", "scores"}):
        return False
    scores = tree["scores"]
    return isinstance(scores, np.ndarray) and (scores.ndim, scores.dtype.kind) == (1, "f")


def clamped(model: Model, texts: Sequence[str]) -> Model:
    """The model with units of its states clamped to numbers where they are computed.

    Args:
        model: the model.
        texts: ``UNIT=VALUE``. A unit is a state (``State.label``) and a number from 0, such as ``h.17`` or
            ``layer2.c.3``; a number alone is a unit of the last layer's h.

    Raises:
        UserError: a text cannot be read, or names no unit.
    """
    states = anatomy(model.cell).states
    values: dict[tuple[State, int], float] = {}
    for text in texts:
        unit, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"--clamp is {text!r}; write it as UNIT=VALUE, such as h.17=1")
        values[_unit(unit, text, states)] = _value(value, text)
    layers: list[Any] = list(model.cell.cells) if isinstance(model.cell, Stacked) else [model.cell]
    for i, layer in enumerate(layers):
        own = [state for state in states if state.layer in (0, i + 1)]
        index_of = dict(zip(own, indices_of_states(layer.init_carry(1)), strict=True))
        of_layer = tuple((index_of[state], unit, value) for (state, unit), value in values.items() if state in index_of)
        if of_layer:
            layers[i] = Ablated(layer, clamped=of_layer)
    if isinstance(model.cell, Stacked):
        return replace(model, cell=Stacked(layers, model.cell.dropout, model.cell.variational))
    return replace(model, cell=layers[0])


def _unit(text: str, given: str, states: Sequence[State]) -> tuple[State, int]:
    label, _, number = text.rpartition(".")
    found = [state for state in states if (state.label == label if label else state.name == "h")]
    if found and number.isdecimal() and int(number) < found[-1].size:
        return found[-1], int(number)
    units = ", ".join(f"{state.label}.0 to {state.label}.{state.size - 1}" for state in states) or "none"
    raise UserError(f"--clamp is {given!r}; the units of this network are {units}")


def _value(text: str, given: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"--clamp is {given!r}; a unit must be clamped to a number")
    return value


def _carries(run: Run) -> str:
    """The states of a run's model with their sizes, in words."""
    return ", ".join(f"{state.label} ({state.size})" for state in anatomy(run.language.model.cell).states) or "nothing"


def _weights(run: Run) -> str:
    """The SHA-256 of the run's best weights."""
    return hashlib.sha256((run.path / BEST).read_bytes()).hexdigest()
