"""The graph of a step: traced once, for any batch size, with labelled inputs and what each of them depends on.

Whatever has to know what a step computes reads this graph: the planner, steppers, reports, the printed equations.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from minigrad import trees
from minigrad.graph import (
    Batch,
    Graph,
    Level,
    Op,
    Operand,
    TraceError,
    Value,
    blaming,
    origin_of,
    trace,
    works_by_element,
)
from minigrad.primitives import reshape, where
from minigrad.reads import form_of, identity_of
from minigrad.tensor import is_recording
from minigrad.trees import Tree

_UNLIKELY = (1009, 1013, 1019, 1021, 1031, 1033, 1039, 1049)
"""Batch sizes of trials: primes that are unlikely to equal another size of a step, or a sum or product of sizes."""

_KEPT = 256

_known: dict[Any, StepGraph | TraceError] = {}


class StepError(TraceError):
    """The step fails when it is traced; a real call reports the error, if there is one, more clearly."""


@dataclass(frozen=True, eq=False)
class StepGraph:
    """A step as a graph.

    Attributes:
        graph: its inputs are the leaves of the parameters, the carry, the context and ``x``, and with a mask ``live``;
            its outputs are the leaves of the new carry, in the order of the old one, and those of the output.
            ``graph.names`` labels the inputs (``params.forget.W``). The batch size is a ``graph.Batch``.
        params: the number of inputs that are parameters.
        carry: the number that are carries.
        context: the number that belong to the context.
        carried: the new carry; a leaf is its index among the leaves of the old one.
        ys: the output, with the number 0 as each leaf.
    """

    graph: Graph
    params: int
    carry: int
    context: int
    carried: Tree
    ys: Tree

    @cached_property
    def levels(self) -> dict[Value, Level]:
        """What each input depends on."""
        counts = {Level.FIXED: self.params, Level.STATE: self.carry, Level.CONTEXT: self.context}
        kinds = itertools.chain.from_iterable([level] * count for level, count in counts.items())
        return dict(zip(self.graph.inputs, itertools.chain(kinds, itertools.repeat(Level.INPUT)), strict=False))


def of(
    step: Any, params: Tree, carry: Tree, x: Tree, context: Tree = None, *, zeroed: Sequence[bool] | None = None
) -> StepGraph:
    """The graph of a step, traced on the first call for arrays of these shapes.

    It is kept for a step that has a safe identity (``reads.identity_of``); another one is traced at each call.

    Args:
        step: ``(params, carry, x) -> (carry, y)``; with a context ``(params, carry, x, context) -> (carry, y)``.
        params: a tree of arrays; of all arrays only shapes and dtypes matter.
        carry: a tree of arrays (B, ...), with any B, like the following ones.
        x: the input of one step.
        context: None if the step takes none.
        zeroed: if given, the graph has a mask as its last input: where a sequence has no input, the carry is unchanged,
            the output is zero, and so are those leaves of ``x`` for which this is true.

    Raises:
        TraceError: the step does something that a graph cannot represent, or fails.
    """
    given = (params, carry, context, x)
    shapes = tuple(shapes_of(trees.leaves(tree), i > 0) for i, tree in enumerate(given))
    form, mask = form_of(given), None if zeroed is None else tuple(zeroed)

    def key(recording: bool) -> Any:
        try:
            return identity_of(step), form, shapes, mask, recording
        except TypeError:
            return None

    # A step may refuse to be traced while gradients are recorded, since it computes within no_grad.
    found = _known.get(key(True))
    if not isinstance(found, StepGraph) and not is_recording():
        found = _known.get(key(False))
    if found is None:
        try:
            found = _traced(step, given, mask)
        except TraceError as error:
            found = remembered(error)
        kept = key(is_recording())  # after tracing, since a step may change what it reads
        if kept is not None:
            if len(_known) >= _KEPT:
                _known.clear()
            _known[kept] = found
    if isinstance(found, TraceError):
        raise remembered(found)
    return found


def size_of(value: Value) -> int:
    """The number of elements of a value per sequence."""
    return math.prod(n.times if isinstance(n, Batch) else n for n in value.shape)


def shapes_of(leaves: Sequence[Any], skipped: int) -> tuple[Any, ...]:
    """The shape without so many axes in front, and the dtype of every array."""
    return tuple((leaf.shape[skipped:], leaf.dtype.str) for leaf in leaves)


def remembered(error: TraceError) -> TraceError:
    """A copy of the error without its traceback, which would keep the frames alive."""
    return type(error)(str(error), error.origin)


def _traced(step: Any, given: tuple[Tree, ...], zeroed: tuple[bool, ...] | None) -> StepGraph:
    """Trace a step for two batch sizes that it has no other use for, and put the symbol where they differ."""
    params, carry, context, x = given
    leading = {leaf.shape[:1] for leaf in trees.leaves((carry, context, x))}
    if () in leading or len(leading) > 1:
        raise TraceError("its carry, context and input do not start with one batch axis")
    of_params, of_carry, of_context = (len(trees.leaves(tree)) for tree in (params, carry, context))
    sizes = {size for tree in given for leaf in trees.leaves(tree) for size in leaf.shape}
    while True:
        free = [n for n in _UNLIKELY if all(size % n or not size for size in sizes)]
        if len(free) < 2:
            raise TraceError("its sizes leave no other number of sequences for a trial")
        batch, other = free[:2]
        one, carried, ys = _trial(step, given, zeroed, batch)
        two, _, _ = _trial(step, given, zeroed, other)
        graph = symbolic(one, two, batch, other)
        # Rules must not take another size for the batch's.
        made = {n for op in graph.ops for n in _numbers((op.options, [x.shape for x in (*op.values, op.output)]))}
        if all(size % batch or not size for size in made):
            return StepGraph(graph, of_params, of_carry, of_context, carried, ys)
        sizes |= made


def _numbers(option: Any) -> Iterator[int]:
    """The integers in shapes and options, without multiples of the batch size."""
    if isinstance(option, slice):
        option = option.start, option.stop, option.step
    if isinstance(option, tuple | list | Mapping):
        for part in option.values() if isinstance(option, Mapping) else option:
            yield from _numbers(part)
    elif isinstance(option, int) and not isinstance(option, Batch):
        yield option


def _trial(step: Any, given: tuple[Tree, ...], zeroed: tuple[bool, ...] | None, batch: int) -> tuple[Graph, Tree, Tree]:
    """The graph for one batch size, with the trees of the new carry and the output as in ``StepGraph``."""
    params, *of_batch = (trees.map(lambda leaf: Value(leaf.shape, leaf.dtype), tree) for tree in given)
    carry, context, x = (trees.map(lambda leaf: Value((batch, *leaf.shape[1:]), leaf.dtype), tree) for tree in of_batch)
    arguments = {"params": params, "carry": carry, "context": context, "x": x}
    if zeroed is not None:
        arguments["live"] = Value((batch,), bool)
    try:
        graph, result = trace(lambda *some: _run(step, zeroed, *some), *arguments.values(), names=tuple(arguments))
    except TraceError:
        raise
    except Exception as error:
        # A function that needs elements often raises its own error without them.
        origin = origin_of(error.__traceback__)
        if "tracer" in str(error).lower() or "a Tensor was given where NumPy" in str(error):
            raise TraceError("it hands a tensor to something that needs its elements", origin) from None
        text = re.sub(rf"\b{batch}\b", "B", f"{type(error).__name__}: {error}")
        raise StepError(f"it fails in a trial with another number of sequences, B: {text}", origin) from None
    wrong = StepError(
        "in a trial with another number of sequences, it gives no pair of a carry like the one it got, and an output"
    )
    if not (isinstance(result, tuple) and len(result) == 2):
        raise wrong
    count = len(trees.leaves(carry))
    try:
        indices = trees.unflatten(result[0], range(len(trees.leaves(result[0]))))
        order = [index for _, index in trees.zip_leaves(carry, indices)]
        pairs = trees.zip_leaves(carry, result[0])
    except ValueError:
        raise wrong from None
    if any(np.shape(new) != old.shape or getattr(new, "dtype", None) != old.dtype for old, new in pairs):
        raise wrong
    if any(leaf.shape[:1] != (batch,) for leaf in trees.leaves(result[1]) if hasattr(leaf, "shape")):
        raise TraceError("its output has no batch axis")
    graph.outputs = [*(graph.outputs[index] for index in order), *graph.outputs[count:]]
    return graph, trees.map(order.index, indices), trees.map(lambda _: 0, result[1])


def _run(
    step: Any, zeroed: Sequence[bool] | None, params: Tree, carry: Tree, context: Tree, x: Tree, *live: Any
) -> Any:
    """The step; with a mask, the carry is unchanged and the output is zero where a sequence has no input."""
    more = () if context is None else (context,)
    if zeroed is None:
        return step(params, carry, x, *more)
    (mask,) = live

    def rows(like: Any) -> Any:
        return mask if like.ndim == 1 else reshape(mask, mask.shape + (1,) * (like.ndim - 1))

    flat = [
        where(rows(leaf), leaf, np.zeros((), leaf.dtype)) if zero else leaf
        for leaf, zero in zip(trees.leaves(x), zeroed, strict=True)
    ]
    new, y = step(params, carry, trees.unflatten(x, flat), *more)
    new = trees.map(lambda after, before: where(rows(before), after, before), new, carry)
    return new, trees.map(lambda out: where(rows(out), out, False if out.dtype == bool else 0), y)


def symbolic(one: Graph, two: Graph, batch: int, other: int) -> Graph:
    """The first of two traces, with a ``Batch`` for each number that differs as the batch sizes do.

    Args:
        one: the trace for ``batch`` sequences, which is changed.
        two: the trace for ``other`` sequences.
        batch: the batch size of ``one``.
        other: the batch size of ``two``.

    Raises:
        TraceError: they differ in something else.
    """
    different = TraceError("its operations depend on the size of the batch")

    def merged(a: Any, b: Any) -> Any:
        if isinstance(a, slice) and isinstance(b, slice):
            return slice(*merged((a.start, a.stop, a.step), (b.start, b.stop, b.step)))
        if isinstance(a, Mapping) and a.keys() == b.keys():
            return {name: merged(part, b[name]) for name, part in a.items()}
        if isinstance(a, tuple | list) and type(a) is type(b) and len(a) == len(b):
            return type(a)(map(merged, a, b))
        if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
            if (a.shape, a.dtype, a.tobytes()) == (b.shape, b.dtype, b.tobytes()):
                return a
        elif type(a) is type(b) and repr(a) == repr(b):
            return a
        elif isinstance(a, int | np.integer) and a % batch == 0 and a // batch * other == b:
            return Batch(batch, int(a // batch))
        raise different

    labels, theirs = one.labels(), two.labels()
    ops, constants = [], {}

    def compare(xs: Sequence[Operand], ys: Sequence[Operand]) -> None:
        for x, y in itertools.zip_longest(xs, ys):
            if (labels[x] if isinstance(x, Value) else repr(x)) != (theirs[y] if isinstance(y, Value) else repr(y)):
                raise different
            if isinstance(x, Value) and isinstance(y, Value) and x in one.constants and x not in constants:
                x.shape = merged(x.shape, y.shape)
                row = tuple(slice(0, 1) if isinstance(n, Batch) else slice(None) for n in x.shape)
                array = merged(one.constants[x][row], two.constants[y][row])
                if np.broadcast_to(array, one.constants[x].shape).tobytes() != one.constants[x].tobytes():
                    raise different
                constants[x] = np.array(array)

    for x, y in zip(one.inputs, two.inputs, strict=True):
        x.shape = merged(x.shape, y.shape)
    for a, b in itertools.zip_longest(one.ops, two.ops):
        with blaming((a or b).output):
            if a is None or b is None or a.name != b.name:
                raise different
            compare(a.inputs, b.inputs)
            a.output.shape = merged(a.output.shape, b.output.shape)
            ops.append(Op(a.name, a.inputs, merged(a.options, b.options), a.output))
    compare(one.outputs, two.outputs)
    return _spread(Graph(one.inputs, one.outputs, ops, constants, one.names))


def _spread(graph: Graph) -> Graph:
    """The graph with a broadcast, where needed, of constants that are one row of their value."""
    rows = {x: Value(row.shape, row.dtype) for x, row in graph.constants.items() if row.shape != x.shape}
    constants = {rows.get(x, x): array for x, array in graph.constants.items()}
    missing, ops = set(rows), []

    def spread(values: Iterable[Operand]) -> None:
        for x in values:
            if isinstance(x, Value) and x in missing:
                missing.remove(x)
                ops.append(Op("broadcast_to", (rows[x],), {"shape": x.shape}, x))

    for op in graph.ops:
        inputs = tuple(rows.get(x, x) if isinstance(x, Value) else x for x in op.inputs)
        shapes = [x.shape for x in inputs if isinstance(x, Value)]
        if works_by_element(op.name) and np.broadcast_shapes(*shapes) == op.output.shape:
            ops.append(Op(op.name, inputs, op.options, op.output))
        else:
            spread(op.inputs)
            ops.append(op)
    spread(graph.outputs)
    return Graph(graph.inputs, graph.outputs, ops, constants, graph.names)
