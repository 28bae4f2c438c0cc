"""Measuring along a probe: what a network's states are, and how losses depend on them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from minigrad import scan, sum, trees, vjp
from minigrad.trees import Tree
from rnn_cells.anatomy import Tapped, indices_of_states
from rnn_cells.cell import Cell
from rnn_cells.stacked import Stacked
from rnn_plugins.errors import UserError
from rnn_plugins.reports.probe import Probe, Window, require_finite
from rnn_plugins.words import amount

Array: TypeAlias = NDArray[Any]

ROWS_AT_ONCE = 8_000_000
"""Numbers that one array may have, so that many positions do not fill the memory."""


class Observation(NamedTuple):
    """What a cell computed along sequences.

    Attributes:
        carry: after the last step.
        outputs: (T, B, output_size).
        states: (T, B, size) each, after every step, in the order of ``Anatomy.states``.
        activations: (T, B, size) each, in the order asked for.
    """

    carry: Tree
    outputs: Array
    states: tuple[Array, ...]
    activations: tuple[Array, ...]


def observe(probe: Probe, window: Window, shown: Sequence[int] = ()) -> Observation:
    """Run a probe's cell along a window and keep the states and some activations of every step.

    Args:
        probe: whose cell.
        window: of the probe.
        shown: indices of activations in the step's graph (``Activation.op``).

    Raises:
        UserError: the states overflow.
    """
    return watch(probe.cell, probe.params, window.carry, window.xs, shown)


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


def draw_positions(probe: Probe, length: int, warm_up: int, count: int, rng: np.random.Generator) -> Array:
    """Draw at most ``count`` of a probe's positions at random, in order, (B,).

    Args:
        probe: whose.
        length: steps that each must have before it.
        warm_up: steps before those, as ``Probe.ends`` takes it.
        count: how many at most.
        rng: draws them.

    Raises:
        UserError: there is none.
    """
    ends = probe.ends(length, warm_up)
    if not ends:
        steps = length + (0 if probe.separate else warm_up)
        raise too_short(probe, f"a window of {steps:,} steps", steps)
    return chosen(ends, np.sort(rng.choice(len(ends), size=min(count, len(ends)), replace=False)))


def parts_of(count: int, at_once: int) -> Iterator[tuple[slice, int]]:
    """Divide rows into parts of one size, since each size has a plan with buffers of its own.

    Args:
        count: of rows.
        at_once: rows of a part at most.

    Yields:
        The rows of each part, and how many of its first ones the part before has had.
    """
    parts = -(-count // at_once)
    together = -(-count // parts)
    for part in range(parts):
        start = min(part * together, count - together)
        yield slice(start, start + together), part * together - start


def chosen(ends: Sequence[int], which: Array) -> Array:
    """Some of a probe's positions, by their indices."""
    return np.array([ends[index] for index in which.tolist()], np.intp)


def too_short(probe: Probe, what: str, steps: int) -> UserError:
    """The error where a probe's sequences have fewer steps before a loss than are needed.

    Args:
        probe: whose.
        what: what needs them.
        steps: how many it needs.
    """
    needed = steps + probe.longest(scored=False) - probe.longest()
    length = amount(probe.longest(scored=False), probe.unit)
    if probe.separate:
        return UserError(
            f"few of {probe.sequences} have more than {length}, and {what} needs {needed:,}: give longer ones"
        )
    return UserError(f"{probe.sequences} has {length}, and {what} needs {needed:,}: give a longer one")


def is_short(probe: Probe, reduced: str) -> str:
    """The notice where a probe's sequences have fewer steps than were asked for.

    Args:
        probe: whose.
        reduced: what was reduced: "the lags from 100 to 20".
    """
    length = amount(probe.longest(scored=False), probe.unit)
    is_so = f"are short (few have more than {length})" if probe.separate else f"is short ({length})"
    return f"{probe.sequences} {is_so}, which reduces {reduced}"


def losses_at_end(probe: Probe, outputs: Any, targets: Array) -> Any:
    """The loss at the last step of each sequence, (B,), from outputs (T, B, ...) and ``Probe.targets``."""
    return probe.loss(outputs[-1], targets[-1]) if probe.every_step else probe.loss(outputs, targets)


def state_gradients(probe: Probe, window: Window, targets: Array, at: Array | None = None) -> list[Array]:
    """How the loss at one step of each sequence depends on every state before it.

    A loss belongs to one sequence of the batch and sequences do not see each other, so the gradient of the sum of B
    losses has the B gradients side by side: one backward pass serves B positions at all their lags.

    Args:
        probe: the network.
        window: what is read, (T, B, ...), and the carry before it.
        targets: as ``Probe.targets`` gives them.
        at: (B,), where ``every_step``: the step whose loss is taken; None is the last, T - 1.

    Returns:
        For each state (T, B, size): the derivative of the loss by the state after each step, all its ways included
        (``Tapped``). Zero after the step of the loss; not finite where it is too large for a number.
    """
    length, batch = window.xs.shape[:2]
    leaves = trees.leaves(window.carry)
    nudges = tuple(np.zeros((length, *leaves[index].shape), probe.dtype) for index in indices_of_states(window.carry))

    def loss(nudges: tuple[Any, ...]) -> Any:
        step = Tapped(probe.cell, nudged=True)
        _, (outputs, _, _) = scan(step, probe.params, window.carry, (window.xs, nudges))
        if at is None:
            return sum(losses_at_end(probe, outputs, targets))
        rows = np.arange(batch)
        return sum(probe.loss(outputs[at, rows], targets[at, rows]))

    with np.errstate(over="ignore", invalid="ignore"):
        # Not value_and_grad, which refuses a loss that depends on nothing: here zeros are what is measured.
        (gradients,) = vjp(loss, nudges)[1](np.ones(()))
    return [_flat(gradient) for gradient in gradients]


def input_gradients(probe: Probe, window: Window, targets: Array, at: Array) -> Array:
    """How the loss at one step of each sequence depends on every input before it, as ``state_gradients``.

    Args:
        probe: the network, which predicts something after every step.
        window: its inputs are an array, (T, B, ...).
        targets: as ``Probe.targets`` gives them.
        at: (B,), the step whose loss is taken.

    Returns:
        (T, B, n): the derivative of the loss with respect to the n numbers of each input; zero after the step of the
        loss; not finite where it is too large for a number.
    """
    rows = np.arange(window.xs.shape[1])

    def loss(xs: Any) -> Any:
        _, outputs = scan(probe.cell, probe.params, window.carry, xs)
        return sum(probe.loss(outputs[at, rows], targets[at, rows]))

    with np.errstate(over="ignore", invalid="ignore"):
        (gradient,) = vjp(loss, window.xs)[1](np.ones(()))
    return _flat(gradient)


def _flat(array: Any) -> Array:
    """A state along sequences, (T, B, ...), as (T, B, size)."""
    return np.asarray(array).reshape(*array.shape[:2], -1)
