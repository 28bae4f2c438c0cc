"""Passes of the planner: each transforms a step's graph into an equivalent one that runs faster."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import numpy as np
from numpy.lib.array_utils import normalize_axis_tuple

from minigrad.graph import (
    Batch,
    Builder,
    Graph,
    Level,
    Op,
    Operand,
    Value,
    classify,
    infer,
    prune,
    range_of,
    share,
    works_by_element,
)


def clean(graph: Graph) -> Graph:
    """The graph without repeated and unused operations, and with uniform constants as numbers."""
    return prune(share(_unalias(_fold_constants(graph))))


def _rewritten(graph: Graph, rewrite: Callable[[Builder, Op], Operand | None]) -> Graph:
    """The graph with each operation replaced by the result of ``rewrite``; None keeps it."""
    replaced: dict[Value, Operand] = {}
    builder = Builder(Graph(list(graph.inputs), [], [], dict(graph.constants), dict(graph.names)))
    for op in graph.ops:
        inputs = tuple(replaced.get(x, x) if isinstance(x, Value) else x for x in op.inputs)
        op = Op(op.name, inputs, op.options, op.output) if inputs != op.inputs else op
        builder.origin = op.output.origin
        new = rewrite(builder, op)
        if new is None:
            builder.graph.ops.append(op)
        elif new is not op.output:
            replaced[op.output] = new
    builder.graph.outputs = [replaced.get(x, x) if isinstance(x, Value) else x for x in graph.outputs]
    return builder.graph


def emit(builder: Builder, name: str, *inputs: Operand, **options: object) -> Value:
    """Append an operation; its shape follows NumPy's rules."""
    return builder.emit(name, inputs, options, Value(*infer(name, inputs, options)))


def _fold_constants(graph: Graph) -> Graph:
    """A constant array with equal elements becomes a number where broadcasting restores its shape."""
    uniform = {
        value: array.reshape(-1)[0].item()
        for value, array in graph.constants.items()
        if array.size and array.dtype.kind in "fb" and (array == array.reshape(-1)[0]).all()
    }

    def rewrite(builder: Builder, op: Op) -> Operand | None:
        if not any(value in uniform for value in op.values) or not works_by_element(op.name):
            return None
        others = [x for x in op.values if x not in uniform]
        if not others or np.broadcast_shapes(*(x.shape for x in others)) != op.output.shape:
            return None
        # A number takes the dtype of the other operands, so one of the constant's dtype must remain.
        if {x.dtype for x in op.values if x in uniform} - {x.dtype for x in others}:
            return None
        inputs = [uniform.get(x, x) if isinstance(x, Value) else x for x in op.inputs]
        return builder.emit(op.name, inputs, op.options, op.output)

    return _rewritten(graph, rewrite)


def _unalias(graph: Graph) -> Graph:
    """Remove operations that change nothing, except copies that are outputs."""
    outputs = {x for x in graph.outputs if isinstance(x, Value)}
    makers: dict[Value, Op] = {}

    def rewrite(builder: Builder, op: Op) -> Operand | None:
        x = op.inputs[0] if op.inputs else None
        makers[op.output] = op
        inner = makers.get(x) if isinstance(x, Value) and op.name in ("reshape", "transpose") else None
        merging = any(isinstance(n, Batch) and n.times > 1 for n in op.output.shape)  # its operand has the rows' axes
        if inner is not None and inner.name == op.name and not merging:  # two in a row are one
            x, options = inner.inputs[0], dict(op.options)
            assert isinstance(x, Value)
            if op.name == "transpose":
                first, second = _axes(inner), _axes(op)
                options = {"axes": tuple(first[axis] for axis in second)}
            makers[op.output] = op = Op(op.name, (x,), options, op.output)
            if (op.name == "reshape" and x.shape == op.output.shape) or _is_identity(op):
                return x
            return builder.emit(op.name, op.inputs, options, op.output)
        if not isinstance(x, Value) or x.shape != op.output.shape or x.dtype != op.output.dtype:
            return None
        if op.name == "alias" and op.output in outputs:
            return None
        same = op.name in ("alias", "reshape", "broadcast_to") or (op.name == "concatenate" and len(op.inputs) == 1)
        if op.name == "getitem":  # the shape is unchanged
            parts = op.options["index"] if isinstance(op.options["index"], tuple) else (op.options["index"],)
            same = all(part is ... or (isinstance(part, slice) and part.step in (None, 1)) for part in parts)
        if op.name == "transpose":
            same = _is_identity(op)
        if op.name in ("multiply", "divide") and op.inputs[1] == 1 and not isinstance(op.inputs[1], Value):
            same = True
        return x if same else None

    return _rewritten(graph, rewrite)


def _axes(op: Op) -> tuple[int, ...]:
    count = op.output.ndim
    axes = op.options["axes"]
    return tuple(range(count)[::-1]) if axes is None else tuple(axis % count for axis in axes)


def _is_identity(op: Op) -> bool:
    return op.name == "transpose" and _axes(op) == tuple(range(op.output.ndim))


def split(graph: Graph, levels: Mapping[Value, Level]) -> Graph:
    """A product with a concatenation becomes a sum of products: ``[h, x] @ W = h @ W_h + x @ W_x``.

    A part that is a concatenation is split too if some of its parts are known earlier than others.
    """
    level = classify(graph, levels)
    makers: dict[Value, Op] = {}

    def parts(op: Op) -> list[Value]:
        found = []
        for x in op.values:
            maker = makers.get(x)
            nested = maker is not None and maker.name == "concatenate" and maker.options["axis"] in (-1, 1)
            mixed = nested and len({level[y] for y in maker.values}) > 1  # type: ignore[union-attr]
            found += parts(maker) if mixed else [x]  # type: ignore[arg-type]
        return found

    def rewrite(builder: Builder, op: Op) -> Operand | None:
        makers[op.output] = op  # with its rewritten inputs
        if op.name != "matmul":
            return None
        joined, W = op.inputs
        maker = makers.get(joined) if isinstance(joined, Value) else None
        if (
            maker is None
            or maker.name != "concatenate"
            or not isinstance(W, Value)
            or (joined.ndim, W.ndim) != (2, 2)  # type: ignore[union-attr]
            or maker.options["axis"] not in (-1, 1)
            or level.get(W, Level.STATE) != Level.FIXED
        ):
            return None
        total: Operand | None = None
        start = 0
        for part in parts(maker):
            stop = start + part.shape[1]
            rows = emit(builder, "getitem", W, index=(slice(start, stop),))
            level[rows] = Level.FIXED
            product = emit(builder, "matmul", part, rows)
            total = product if total is None else emit(builder, "add", total, product)
            start = stop
        return total

    return clean(_rewritten(graph, rewrite))


def regroup(graph: Graph, levels: Mapping[Value, Level]) -> Graph:
    """Reorder sums by the level of their terms, so that what is known early is added early."""
    level = classify(graph, levels)
    makers, users = graph.makers(), graph.users()
    outputs = {x for x in graph.outputs if isinstance(x, Value)}

    def inner(x: Operand) -> bool:
        """Whether a value is a partial sum used only by one other sum."""
        if not isinstance(x, Value) or x in outputs or x not in makers or makers[x].name != "add":
            return False
        using = users.get(x, [])
        return len(using) == 1 and using[0].name == "add" and list(using[0].inputs).count(x) == 1

    def terms(op: Op) -> list[Operand]:
        found, todo = [], [*reversed(op.inputs)]
        while todo:
            x = todo.pop()
            if inner(x):
                todo += reversed(makers[x].inputs)  # type: ignore[index]
            else:
                found.append(x)
        return found

    def rewrite(builder: Builder, op: Op) -> Operand | None:
        makers[op.output] = op  # with its rewritten inputs
        if op.name != "add" or inner(op.output):
            return None
        leaves = terms(op)
        if any(isinstance(x, Value) and x.dtype != op.output.dtype for x in leaves):
            return None  # a sum of masks is a mask
        # Numbers come last, since they have no dtype.
        ordered = sorted(leaves, key=lambda x: (0, level[x]) if isinstance(x, Value) else (1, 0))
        if ordered == leaves:
            return None
        total = ordered[0]
        for term in ordered[1:]:
            total = emit(builder, "add", total, term)
        assert isinstance(total, Value)
        level[total] = level[op.output]  # needed if it is a term of another sum
        return total

    return clean(_rewritten(graph, rewrite))


def merge(graph: Graph, levels: Mapping[Value, Level], carry: int = 0) -> Graph:
    """Products of one value with several fixed matrices become one: ``h @ [W_f, W_i, W_o, W_c]``, then its columns.

    Products of a state that the first ``carry`` outputs need are merged separately from the rest, which can run after
    the loop.
    """
    level = classify(graph, levels)
    in_loop = depends_on(graph, [x for x in graph.outputs[:carry] if isinstance(x, Value)])
    groups: dict[tuple[Value, bool], list[Op]] = {}
    for op in graph.ops:
        if op.name == "matmul" and len(op.values) == 2:
            a, W = op.values
            if W.ndim == 2 and level[W] == Level.FIXED and level[a] != Level.FIXED:
                groups.setdefault((a, level[a] == Level.STATE and op.output not in in_loop), []).append(op)
    groups = {key: ops for key, ops in groups.items() if len(ops) > 1}
    # Fixed values come first, so that each group's matrices precede its product.
    fixed = [op for op in graph.ops if level[op.output] == Level.FIXED]
    rest = [op for op in graph.ops if level[op.output] != Level.FIXED]
    builder = Builder(Graph(list(graph.inputs), list(graph.outputs), fixed, dict(graph.constants), dict(graph.names)))
    joined = {key: emit(builder, "concatenate", *[op.inputs[1] for op in ops], axis=1) for key, ops in groups.items()}
    merged = {op.output: key for key, ops in groups.items() for op in ops}
    done: set[tuple[Value, bool]] = set()
    for op in rest:
        if op.output not in merged:
            builder.graph.ops.append(op)
            continue
        key = merged[op.output]
        if key in done:
            continue
        done.add(key)
        product = emit(builder, "matmul", key[0], joined[key])
        start = 0
        for member in groups[key]:
            stop = start + member.output.shape[-1]
            index = (*[slice(None)] * (product.ndim - 1), slice(start, stop))
            builder.emit("getitem", (product,), {"index": index}, member.output)
            start = stop
    return builder.graph


def lower(graph: Graph) -> Graph:
    """Rewrite operations that kernels do not support in terms of ones that they do.

    ``log_softmax``, ``logsumexp``, ``mean`` and ``min`` become sums and maxima; a scatter along one axis becomes a
    concatenation of its parts and zeros; a slice of a concatenation that is one of its parts is that part; an index
    has a part for every axis; ``stop_gradient``, whose derivative is known by now, becomes its operand.
    """
    makers: dict[Value, Op] = {}

    def rewrite(builder: Builder, op: Op) -> Operand | None:
        new = _lowered(builder, op, makers)
        for made in builder.graph.ops[len(makers) :]:
            makers[made.output] = made
        if new is None:
            makers[op.output] = op
        return new

    return clean(_rewritten(graph, rewrite))


def _lowered(builder: Builder, op: Op, makers: Mapping[Value, Op]) -> Operand | None:
    x = op.inputs[0]
    if not isinstance(x, Value):
        return None
    if op.name == "stop_gradient":
        return x
    axis, keepdims = op.options.get("axis"), bool(op.options.get("keepdims"))
    axes = range(x.ndim) if axis is None else normalize_axis_tuple(axis, x.ndim)
    if op.name in ("log_softmax", "logsumexp", "mean") and any(isinstance(x.shape[a], Batch) for a in axes):
        return None
    if op.name == "log_softmax":
        shifted = emit(builder, "subtract", x, emit(builder, "max", x, axis=axis, keepdims=True))
        total = emit(builder, "sum", emit(builder, "exp", shifted), axis=axis, keepdims=True)
        return builder.emit("subtract", (shifted, emit(builder, "log", total)), {}, op.output)
    if op.name == "logsumexp":
        top = emit(builder, "max", x, axis=axis, keepdims=True)
        finite = emit(builder, "where", emit(builder, "isfinite", top), top, 0)  # a row of -inf gives -inf, not NaN
        powers = emit(builder, "exp", emit(builder, "subtract", x, finite))
        total = emit(builder, "sum", powers, axis=axis, keepdims=True)
        result = emit(builder, "add", emit(builder, "log", total), finite)
        return result if keepdims else builder.emit("reshape", (result,), {"shape": op.output.shape}, op.output)
    if op.name == "mean":
        total = emit(builder, "sum", x, axis=axis, keepdims=keepdims)
        return builder.emit("multiply", (total, 1 / math.prod(x.shape[a] for a in axes)), {}, op.output)
    if op.name == "min":
        top = emit(builder, "max", emit(builder, "multiply", x, -1), **op.options)
        return builder.emit("multiply", (top, -1), {}, op.output)
    if op.name == "square":
        return builder.emit("multiply", (x, x), {}, op.output)
    if op.name == "negative":
        return builder.emit("multiply", (x, -1), {}, op.output)
    if op.name == "scatter":
        return _scattered(builder, op)
    if op.name == "getitem":
        maker = makers.get(x)
        taken = range_of(op)
        if maker is not None and maker.name == "concatenate" and taken and maker.options["axis"] % x.ndim == taken[0]:
            axis, start = taken[0], 0
            for part in maker.values:
                if (start, start + part.shape[axis]) == taken[1:] and part.shape == op.output.shape:
                    return part
                start += part.shape[axis]
        index = op.options["index"]
        parts = index if isinstance(index, tuple) else (index,)
        if taken and (len(parts) < x.ndim or ... in parts):
            axis, start, stop = taken
            whole = (*(slice(None),) * axis, slice(start, stop), *(slice(None),) * (x.ndim - axis - 1))
            return builder.emit("getitem", (x,), {"index": whole}, op.output)
        if len(parts) < x.ndim and not any(part is None or part is ... for part in parts):
            return builder.emit(
                "getitem", (x,), {"index": (*parts, *(slice(None),) * (x.ndim - len(parts)))}, op.output
            )
    return None


def join_rows(graph: Graph) -> Graph:
    """A scatter whose parts cover all rows becomes a concatenation: one pass over memory instead of three."""

    def rewrite(builder: Builder, op: Op) -> Operand | None:
        if op.name != "scatter":
            return None
        placed = []
        for part, index in zip(op.values, op.options["indices"], strict=True):
            index = index[0] if isinstance(index, tuple) and len(index) == 1 else index
            if not isinstance(index, slice) or index.step not in (None, 1):
                return None
            placed.append((index.indices(op.output.shape[0])[:2], part))
        placed.sort(key=lambda item: item[0])
        ends = [0, *(rows[1] for rows, _ in placed)]
        if [rows[0] for rows, _ in placed] != ends[:-1] or ends[-1] != op.output.shape[0]:
            return None
        return builder.emit("concatenate", [part for _, part in placed], {"axis": 0}, op.output)

    return _rewritten(graph, rewrite)


def _scattered(builder: Builder, op: Op) -> Value | None:
    """A scatter along one axis as a concatenation, or a sum of such; None where it is another scatter."""
    whole = Value(op.output.shape, op.output.dtype)
    placed = []
    for part, index in zip(op.values, op.options["indices"], strict=True):
        taken = range_of(Op("getitem", (whole,), {"index": index}, part))
        if taken is None or part.shape != (*whole.shape[: taken[0]], taken[2] - taken[1], *whole.shape[taken[0] + 1 :]):
            return None
        placed.append((taken, part))
    # A part that is the whole lies along any axis.
    axes = {axis for (axis, start, stop), _ in placed if (start, stop) != (0, whole.shape[axis])}
    if len(axes) > 1 or 0 in axes:
        return None
    axis = axes.pop() if axes else whole.ndim - 1
    length = whole.shape[axis]
    ranges = [((start, stop) if at == axis else (0, length), part) for (at, start, stop), part in placed]
    ranges.sort(key=lambda item: item[0])
    layers: list[list[tuple[tuple[int, int], Value]]] = []  # parts that do not overlap share a layer
    for taken_range, part in ranges:
        layer = next((layer for layer in layers if layer[-1][0][1] <= taken_range[0]), None)
        if layer is None:
            layers.append([(taken_range, part)])
        else:
            layer.append((taken_range, part))
    total: Value | None = None
    first = tuple(slice(0, 1) if i == axis else slice(None) for i in range(whole.ndim))
    for layer in layers:
        parts: list[Operand] = []
        end = 0
        for (start, stop), part in [*layer, ((length, length), layer[-1][1])]:
            if start > end:
                one = part if part.shape[axis] == 1 else emit(builder, "getitem", part, index=first)
                zero = emit(builder, "where", False, one, 0)
                shape = (*whole.shape[:axis], start - end, *whole.shape[axis + 1 :])
                parts.append(zero if zero.shape == shape else emit(builder, "broadcast_to", zero, shape=shape))
            if stop > start:
                parts.append(part)
            end = stop
        joined = emit(builder, "concatenate", *parts, axis=axis)
        total = joined if total is None else emit(builder, "add", total, joined)
    return total


def depends_on(graph: Graph, roots: Iterable[Value]) -> set[Value]:
    """All values that a value of ``roots`` is computed from, themselves included."""
    makers = graph.makers()
    found: set[Value] = set()
    todo = list(roots)
    while todo:
        value = todo.pop()
        if value not in found:
            found.add(value)
            if value in makers:
                todo += makers[value].values
    return found
