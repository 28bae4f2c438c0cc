"""A planned loop as one node of the tape: its backward rule runs all steps backwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from minigrad import trees
from minigrad.gradients import vjp
from minigrad.scan import reference
from minigrad.scan.lookup import Lookup
from minigrad.scan.plans import Executor, Plan
from minigrad.scan.reference import Step
from minigrad.tensor import Array, Node, Primitive, Tensor, value_of
from minigrad.trees import Tree


@dataclass(eq=False)
class Call:
    """One call of ``scan``.

    Attributes:
        step: the step.
        trees: params, carry, context and xs, as for ``scan``.
        leaves: those of each tree; an input may be looked up already, where that is faster.
        live: (T, B), false where a sequence has no input; None if all have.
        reverse: whether it runs from the last step to the first.
        nodes: those of all leaves in order (of the table, for a ``Lookup``); None if nothing is recorded.
    """

    step: Step
    trees: tuple[Tree, Tree, Tree, Tree]
    leaves: tuple[list[Any], list[Any], list[Any], list[Any]]
    live: Array | None
    reverse: bool
    nodes: list[Node | None] | None

    def run(self, plan: Plan, executor: Executor) -> tuple[Tree, Tree]:
        """The last carry and the outputs."""
        inputs = self.leaves[3]
        length, batch = inputs[0].shape[:2]
        given = [*self.leaves[:3], [table_of(x) for x in inputs]]
        params, carry, context, sources = ([np.asarray(value_of(x)) for x in some] for some in given)
        xs = [
            Lookup(source, x.indices) if isinstance(x, Lookup) else source
            for source, x in zip(sources, inputs, strict=True)
        ]
        if self.live is not None:
            # Integers in the padding need not be valid indices.
            xs = [_live_only(x, self.live) if isinstance(x, np.ndarray) and x.dtype.kind in "iu" else x for x in xs]
            xs.append(self.live)
        keep = self.nodes is not None
        last, ys, saved = executor.forward(
            params, carry, xs, context, steps=length, batch=batch, reverse=self.reverse, keep=keep
        )
        results: list[Any] = [*last, *ys]
        if self.nodes is not None:
            loop = Node(
                _Rule("scan", self._rule(executor, saved, len(results)), fresh=True),
                [*params, *carry, *context, *sources],
                np.zeros(()),
                self.nodes,
                {},
            )
            results = [Tensor(x, Node(_OUTPUT, (None,), x, (loop,), {"index": i})) for i, x in enumerate(results)]
        elif any(isinstance(x, Tensor) for some in given for x in some):
            results = [Tensor(x) for x in results]
        return trees.map(lambda index: results[index], plan.carried), trees.unflatten(plan.ys, results[len(carry) :])

    def _rule(self, executor: Executor, saved: Any, outputs: int) -> Callable[..., list[Any]]:
        """The backward rule of the loop."""
        step, live, reverse = self.step, self.live, self.reverse
        # The trees without their leaves: a node must not refer to tensors.
        forms = [trees.map(lambda _: 0, tree) for tree in self.trees]
        indices = [x.indices if isinstance(x, Lookup) else None for x in self.leaves[3]]
        carries = len(self.leaves[1])

        def rule(g: _Parts, y: Any, *inputs: Any) -> list[Any]:
            parts = [g.parts.get(i) for i in range(outputs)]
            if any(isinstance(part, Tensor) for part in parts):
                return _again(step, forms, indices, live, reverse, parts, inputs)
            d_params, d_carry, d_xs, d_context = executor.backward(saved, parts[:carries], parts[carries:])
            found = [*d_params, *d_carry, *d_context, *d_xs]
            # An input that the loop does not read has a gradient too; the mask, which is the last of xs, has none.
            return _each_its_own([np.zeros_like(x) if d is None else d for d, x in zip(found, inputs, strict=False)])

        return rule


def table_of(x: Any) -> Any:
    """What an input's gradient is with respect to: the table of a ``Lookup``, otherwise the input itself."""
    return x.table if isinstance(x, Lookup) else x


class _Rule(Primitive):
    """The backward rule of one call, which is not in the table of primitives."""

    def __init__(self, name: str, rule: Callable[..., Any], fresh: bool = False) -> None:
        self.name, self.fresh = name, fresh
        self.rules = (rule,)
        self.broadcasts = False
        self.variadic = True


class _Parts:
    """The cotangents received by a loop, by output."""

    def __init__(self, parts: dict[int, Any]) -> None:
        self.parts = parts

    def __add__(self, other: _Parts) -> _Parts:
        both = dict(self.parts)
        for i, g in other.parts.items():
            both[i] = both[i] + g if i in both else g
        return _Parts(both)


def _to_loop(g: Any, y: Any, loop: Any, *, index: int) -> list[Any]:
    return [_Parts({index: g})]


_OUTPUT = _Rule("scan output", _to_loop)


def _live_only(x: Array, live: Array) -> Array:
    """Integers (T, B, ...) with 0 where a sequence has no input."""
    return np.where(live.reshape(live.shape + (1,) * (x.ndim - 2)), x, 0)


def _each_its_own(arrays: list[Array]) -> list[Array]:
    """The arrays, copied if two share memory, since the caller may add to each."""
    seen: set[int] = set()
    result = []
    for array in arrays:
        owner = array
        while isinstance(owner.base, np.ndarray):
            owner = owner.base
        result.append(np.array(array) if id(owner) in seen else array)
        seen.add(id(owner))
    return result


def _again(
    step: Step,
    forms: Sequence[Tree],
    indices: Sequence[Any],
    live: Array | None,
    reverse: bool,
    parts: list[Any],
    inputs: Sequence[Any],
) -> list[Any]:
    """The cotangents as tensors, by the reference loop, for higher derivatives."""
    floats = [i for i, x in enumerate(inputs) if value_of(x).dtype.kind == "f"]

    def loop(*some: Any) -> list[Any]:
        whole = list(inputs)
        for i, x in zip(floats, some, strict=True):
            whole[i] = x
        rest = iter(whole)
        params, carry, context, xs = (trees.map(lambda _: next(rest), form) for form in forms)
        given = iter(indices)
        xs = trees.map(lambda x: x if (index := next(given)) is None else Lookup(x, index), xs)
        last, ys = reference.scan(step, params, carry, xs, context=context, mask=live, reverse=reverse)
        # In the order of the old carry, like the parts.
        return [*(leaf for _, leaf in trees.zip_leaves(carry, last)), *trees.leaves(ys)]

    outputs, pullback = vjp(loop, *(inputs[i] for i in floats))
    given = [np.zeros_like(value_of(y)) if part is None else part for part, y in zip(parts, outputs, strict=True)]
    cotangents: list[Any] = [None] * len(inputs)
    for i, d in zip(floats, pullback(given), strict=True):
        cotangents[i] = d
    return cotangents
