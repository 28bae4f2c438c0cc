"""Looking into a model: what its states are along a text, and how a loss depends on them. It judges nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from minigrad import affine, log_softmax, pick, scan, sum, trees, vjp
from minigrad.scan import Lookup
from minigrad.trees import Tree
from rnn_cells.anatomy import Tapped, anatomy, places_of_states
from rnn_cells.cell import Cell
from rnn_cells.stacked import Stacked
from rnn_plugins.errors import UserError
from rnn_plugins.language.model import Model

Array: TypeAlias = NDArray[Any]

ROWS_AT_ONCE = 8_000_000
"""Numbers that one array may have, so that looking at many places does not fill the memory."""

BYTES_AT_ONCE = 200_000_000
"""Memory that looking at many places may take."""

COPIES = 3
"""How often the numbers of a step are in memory at most, while a gradient by states is taken: as they are computed, as
they are kept for the way back, and what is computed there."""


class Observation(NamedTuple):
    """What a model computed along a text.

    Attributes:
        carry: after the last step.
        outputs: (T, B, output_size), what the head sees.
        states: (T, B, size) each, after every step, in the order of ``Anatomy.states``.
        activations: (T, B, size) each, in the order asked for.
    """

    carry: Tree
    outputs: Array
    states: tuple[Array, ...]
    activations: tuple[Array, ...]


def observe(model: Model, params: Tree, carry: Tree, tokens: Array, shown: Sequence[int] = ()) -> Observation:
    """Read symbols (T, B) and keep the states and some activations of every step.

    Args:
        model: the model.
        params: its parameters.
        carry: where to start.
        tokens: (T, B).
        shown: places of activations in the step's graph (``Activation.op``).

    Raises:
        UserError: the states grow beyond all numbers.
    """
    return watch(model.cell, params["cell"], carry, Lookup(model.table(params), tokens), shown)


def watch(cell: Cell, params: Tree, carry: Tree, xs: Any, shown: Sequence[int] = ()) -> Observation:
    """As ``observe``, for a cell and inputs (T, B, ...).

    Raises:
        UserError: as there.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        carry, (outputs, states, activations) = scan(Tapped(cell, tuple(shown)), params, carry, xs)
    require_finite(states)
    return Observation(carry, outputs, tuple(map(_flat, states)), tuple(map(_flat, activations)))


def layers(cell: Cell, params: Tree, carry: Tree) -> Iterator[tuple[int, Cell, Tree, Tree]]:
    """The layers of a stack from the lowest on, each as ``(number, cell, params, carry)``; 0 for what is no stack."""
    if not isinstance(cell, Stacked):
        yield 0, cell, params, carry
        return
    for number, (layer, part) in enumerate(zip(cell.cells, carry, strict=True)):
        yield number + 1, layer, params[str(number)], part


def places(length: int, before: int, count: int, rng: np.random.Generator) -> Array:
    """Places of a text of ``length`` symbols, at most ``count`` and in order, with ``before`` symbols before each.

    The symbol at a place is predicted from those before it, so it is itself the target.

    Raises:
        UserError: there is none.
    """
    if length <= before:
        raise UserError(
            f"the text has {length:,} symbols, and looking {before:,} steps back takes {before + 1:,}: "
            "give a longer text or fewer --lags"
        )
    return np.sort(before + rng.choice(length - before, size=min(count, length - before), replace=False))


def windows(tokens: Array, ends: Array, length: int) -> Array:
    """The ``length`` symbols before each of some places, (length, B)."""
    return np.asarray(tokens[ends + np.arange(-length, 0)[:, None]], np.intp)


def read(model: Model, params: Tree, tokens: Array) -> Tree:
    """The carry after symbols (T, B), from the first carry on.

    Raises:
        UserError: the states grow beyond all numbers.
    """
    carry = model.init_carry(tokens.shape[1])
    if not len(tokens):
        return carry
    # A step may give the parts of its carry in another order; that of the first is the one that states are told by.
    with np.errstate(over="ignore", invalid="ignore"):
        last: Tree = trees.map(lambda _, leaf: leaf, carry, model.states(params, carry, tokens)[0])
    require_finite(last)
    return last


def require_finite(numbers: Tree) -> None:
    """See to it that states, or what is made of them, are numbers.

    Raises:
        UserError: one is infinite or no number.
    """
    if not all(np.isfinite(leaf).all() for leaf in trees.leaves(numbers)):
        raise UserError(
            "the network's states grow beyond all numbers along the text: take a smaller recurrent matrix, or train "
            "with clipping (--grad-clip 1)"
        )


def state_gradients(
    model: Model, params: Tree, carry: Tree, tokens: Array, targets: Array, at: Array | None = None
) -> list[Array]:
    """How the loss at one step of each sequence depends on every state before it.

    A loss belongs to one sequence of the batch and sequences do not see each other, so the gradient of the sum of B
    losses has the B gradients side by side: one backward pass serves B positions at all their lags.

    Args:
        model: the model.
        params: its parameters.
        carry: of B sequences, before the first symbol.
        tokens: (T, B), what is read.
        targets: (B,), the symbol whose loss is taken.
        at: (B,), the step after which it is predicted; None is the last, T - 1.

    Returns:
        For each state (T, B, size): the derivative of the loss by the state after each step, all its ways included
        (``Tapped``). Zero after the step of the loss; not finite where it is too large for a number.
    """
    length, batch = tokens.shape
    table = model.table(params)
    leaves = trees.leaves(carry)
    nudges = tuple(np.zeros((length, *leaves[place].shape), table.dtype) for place in places_of_states(carry))

    def loss(nudges: tuple[Any, ...]) -> Any:
        step = Tapped(model.cell, nudged=True)
        _, (outputs, _, _) = scan(step, params["cell"], carry, (Lookup(table, tokens), nudges))
        last = outputs[-1] if at is None else outputs[at, np.arange(batch)]
        return -sum(pick(log_softmax(affine(params["head"], last)), targets))

    with np.errstate(over="ignore", invalid="ignore"):
        # Not value_and_grad, which refuses a loss that depends on nothing: here zeros are what is measured.
        (gradients,) = vjp(loss, nudges)[1](np.ones(()))
    return [_flat(gradient) for gradient in gradients]


def _flat(array: Any) -> Array:
    """A state along a text, (T, B, ...), as (T, B, size)."""
    return np.asarray(array).reshape(*array.shape[:2], -1)


def rows_at_once(model: Model, length: int) -> int:
    """How many sequences of some length to look at together, so that all that is computed fits ``BYTES_AT_ONCE``."""
    a_step = COPIES * max(anatomy(model.cell).numbers, 1) * np.dtype(model.dtype).itemsize
    return max(1, BYTES_AT_ONCE // (a_step * length))
