"""A cell with recurrent regularisation in training: recurrent weights dropped, states kept as they were.

What multiplies a state is read from the step's graph, so it works for every cell whose step can be traced.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from minigrad import dropout_mask, scan, stepgraph, trees, vjp, where
from minigrad.graph import Graph, Level, Operand, Value, call, classify, evaluate, prune
from minigrad.scan.passes import clean, depends_on, split
from minigrad.trees import Tree
from rnn_cells.bidirectional import Bidirectional
from rnn_cells.cell import Cell
from rnn_cells.stacked import Stacked
from rnn_cells.wrapped import Wrapped

Array: TypeAlias = NDArray[Any]

PRODUCTS = ("matmul", "einsum")
"""Primitives that multiply by a matrix."""


@dataclass(frozen=True)
class Regularised(Wrapped):
    """A cell with regularisation in training. Its parameters, carry and sizes stay the same.

    **Weight dropout** is DropConnect on the recurrent matrices (Merity, Keskar and Socher 2018, arXiv:1708.02182): each
    of their weights is 0 with probability p, and w / (1 - p) otherwise, in one mask for all sequences of a batch and
    all steps.

    **Zoneout** (Krueger et al. 2017, arXiv:1606.01305): at each step, each number of each state keeps its value with
    probability z, and otherwise becomes the cell's new one. Outside training, it becomes the expectation,
    z * old + (1 - z) * new. The cell computes its new states from the old ones as without it; an output that is one of
    the states is the resulting one.

    Attributes:
        cell: the cell.
        weight_dropout: p; 0 for none.
        zoneout: z; 0 for none.

    Raises:
        ValueError: a rate is outside [0, 1), there is no recurrent matrix to drop weights of, or the cell runs along a
            sequence by a method of its own, so that its states are not accessible.
        TraceError: the step cannot be traced, so that its recurrent matrices are unknown.
    """

    weight_dropout: float = 0.0
    zoneout: float = 0.0

    def __init__(self, cell: Cell, weight_dropout: float = 0.0, zoneout: float = 0.0) -> None:
        for name, rate in (("weight_dropout", weight_dropout), ("zoneout", zoneout)):
            if not 0 <= rate < 1:
                raise ValueError(f"Regularised: {name} is {rate}; it must be at least 0 and below 1")
        if zoneout and cell.unrolls_itself:
            raise ValueError("it has its own method for running along a sequence")
        if weight_dropout and all(place is None for place in recurrent_weights(cell)):
            raise ValueError("no matrix of parameters multiplies a state on its way to the next one")
        self._wrap(cell, weight_dropout=weight_dropout, zoneout=zoneout)

    def __call__(self, params: Tree, carry: Tree, x: Any) -> tuple[Tree, Any]:
        """One step, as outside training."""
        return self.step(params, carry, x, ())

    def step(self, params: Tree, carry: Tree, x: Any, kept: Sequence[Any]) -> tuple[Tree, Any]:
        """One step with masks of zoneout, as ``draw`` draws them for all steps; without them, with the expectation."""
        new, y = self.cell(params, carry, x)
        if not self.zoneout:
            return new, y
        masks = iter(kept)

        def mixed(before: Any, after: Any) -> Any:
            nonlocal y
            if after.dtype.kind != "f":
                return after
            result = where(next(masks), before, after) if kept else self.zoneout * before + (1 - self.zoneout) * after
            y = result if y is after else y
            return result

        return trees.map(mixed, carry, new), y

    def draw(self, steps: int, size: int, rng: np.random.Generator) -> tuple[Array, ...]:
        """Where states keep their values: bools for each state, (T, B, ...); none without zoneout."""
        if not self.zoneout:
            return ()
        states = [leaf.shape[1:] for leaf in trees.leaves(self.init_carry(1)) if leaf.dtype.kind == "f"]
        return tuple(dropout_mask((steps, size, *shape), self.zoneout, rng, axis=1) == 0 for shape in states)

    def unroll(
        self,
        params: Tree,
        carry: Tree,
        xs: Any,
        *,
        lengths: Any = None,
        mask: Any = None,
        reverse: bool = False,
        rng: np.random.Generator | None = None,
    ) -> tuple[Tree, Any]:
        """The cell along a sequence, with masks if there is ``rng``; see ``Cell.unroll``."""
        params = drop_weights(self, params, rng)
        if not self.zoneout:
            return self.cell.unroll(params, carry, xs, lengths=lengths, mask=mask, reverse=reverse, rng=rng)
        if rng is None:
            return super().unroll(params, carry, xs, lengths=lengths, mask=mask, reverse=reverse)
        self._check(params, carry, xs)
        steps, size = xs.shape[:2]
        kept = self.draw(steps, size, rng)
        return scan(_Zoned(self), params, carry, (xs, kept), lengths=lengths, mask=mask, reverse=reverse)


@dataclass(frozen=True)
class _Zoned:
    """A step in training, whose input has masks of zoneout."""

    cell: Regularised

    def __call__(self, params: Tree, carry: Tree, x: tuple[Any, Sequence[Any]]) -> tuple[Tree, Any]:
        """One step."""
        return self.cell.step(params, carry, *x)


def drop_weights(cell: Cell, params: Tree, rng: np.random.Generator | None) -> Tree:
    """The parameters of a cell, stack or pair of directions with some recurrent weights dropped, for one batch.

    For steps that call a cell themselves; ``unroll`` does it by itself.

    Args:
        cell: the cell; without ``Regularised`` in it, all parameters stay as they are.
        params: its parameters.
        rng: draws the masks, the same for any share of a batch; None for none, as in evaluation.
    """
    if rng is None:
        return params
    if isinstance(cell, Stacked):
        return {str(i): drop_weights(layer, params[str(i)], rng) for i, layer in enumerate(cell.cells)}
    if isinstance(cell, Bidirectional):
        pair = {"forward": cell.forward, "backward": cell.backward}
        return {name: drop_weights(part, params[name], rng) for name, part in pair.items()}
    if not isinstance(cell, Regularised) or not cell.weight_dropout:
        return params
    leaves = trees.leaves(params)
    for number, place in enumerate(recurrent_weights(cell.cell)):
        if place is not None:
            leaves[number] = leaves[number] * _mask(leaves[number], place, cell.weight_dropout, rng)
    return trees.unflatten(params, leaves)


def _mask(leaf: Any, place: Any, rate: float, rng: np.random.Generator) -> Array:
    """A dropout mask for a part of a parameter, and 1 elsewhere."""
    mask: Array = np.ones(leaf.shape, leaf.dtype)
    mask[place] = dropout_mask(mask[place].shape, rate, rng, leaf.dtype, axis=None)
    return mask


@lru_cache(maxsize=64)
def recurrent_weights(cell: Cell) -> tuple[Any, ...]:
    """Which weights of a cell are recurrent: they multiply a state, or what is computed from it, towards the next one.

    A product with a concatenation is one product per part, so that of ``concat(h, x) @ W`` the rows for h are
    recurrent. Vectors, as in peepholes and in cells with a diagonal recurrence, are not matrices.

    Returns:
        One index per leaf of the parameters, of its recurrent elements: slices if they are a block, else an array of
        bools; None if it has none.

    Raises:
        TraceError: the step cannot be traced.
    """
    params, carry = cell.init_params(np.random.default_rng(0)), cell.init_carry(1)
    found = stepgraph.of(cell, params, carry, np.zeros((1, cell.input_size), np.float32))
    graph = split(clean(found.graph), found.levels)
    level = classify(graph, found.levels)
    states = [x for x in graph.outputs[: found.carry] if isinstance(x, Value)]
    towards = depends_on(graph, states)
    matrices: list[Operand] = []
    for op in graph.ops:
        if op.name in PRODUCTS and op.output in towards and any(level[x] == Level.STATE for x in op.values):
            matrices += [x for x in op.values if level[x] == Level.FIXED and x.ndim > 1]
    return tuple(map(_place, _elements(graph, matrices, trees.leaves(params))))


def _elements(graph: Graph, matrices: Sequence[Operand], params: Sequence[Array]) -> list[Array]:
    """The elements of each parameter that matrices computed from the parameters depend on, as arrays of bools.

    They are those with a derivative, at random numbers, in a random direction.
    """
    count = len(params)
    matrices = list(dict.fromkeys(matrices))
    known = Graph(graph.inputs[:count], list(matrices), graph.ops, graph.constants)
    rng = np.random.default_rng(0)
    values = [rng.standard_normal(leaf.shape) for leaf in params]
    made, pullback = vjp(lambda leaves: evaluate(prune(known), leaves, call), values)
    (gradients,) = pullback([rng.standard_normal(np.shape(matrix)) for matrix in made])
    return [np.asarray(gradient) != 0 for gradient in gradients]


def _place(elements: Array) -> Any:
    """The index of the true elements."""
    if not elements.any():
        return None
    ranges = [(places.min(), places.max() + 1) for places in np.nonzero(elements)]
    block = tuple(slice(int(start), int(stop)) for start, stop in ranges)
    return block if elements[block].all() else elements
