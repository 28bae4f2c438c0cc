"""Passes of the planner: each transforms a step's graph into an equivalent one that runs faster."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np

from minigrad.graph import (
    Builder,
    Graph,
    Level,
    Op,
    Operand,
    Value,
    classify,
    columns_of,
    infer,
    key_of,
    prune,
    share,
)
from minigrad.tensor import PRIMITIVES


def clean(graph: Graph) -> Graph:
    """The graph without repeated and unused operations, and with uniform constants as numbers."""
    return prune(share(_unalias(_fold_constants(graph))))


def spell_out(graph: Graph, levels: Mapping[Value, Level]) -> Graph:
    """Indices that add axes to rows, or drop one, become columns and reshapes.

    This pass precedes differentiation, so the derivative consists of such operations too.
    """
    level = classify(graph, levels)

    def rewrite(builder: Builder, op: Op) -> Operand | None:
        chooses = op.name == "getitem" and level[op.output] != Level.FIXED
        return _without_axes(builder, op) if chooses else None

    return _rewritten(graph, rewrite)


def _without_axes(builder: Builder, op: Op) -> Operand | None:
    """An index with new axes or a number, as slices followed by a reshape."""
    (x,) = op.values
    index = op.options["index"]
    parts = index if isinstance(index, tuple) else (index,)
    if any(part is not None and part is not ... and not isinstance(part, slice | int | np.integer) for part in parts):
        return None
    if all(part is ... or isinstance(part, slice) for part in parts):
        return None
    slices = tuple(
        part if part is ... or isinstance(part, slice) else slice(int(part), int(part) + 1 or None)
        for part in parts
        if part is not None
    )
    return builder.emit("reshape", (emit(builder, "getitem", x, index=slices),), {"shape": op.output.shape}, op.output)


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
        if not any(value in uniform for value in op.values) or not PRIMITIVES.get(op.name, _COMPARES).broadcasts:
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

    def rewrite(builder: Builder, op: Op) -> Operand | None:
        x = op.inputs[0] if op.inputs else None
        if not isinstance(x, Value) or x.shape != op.output.shape or x.dtype != op.output.dtype:
            return None
        if op.name == "alias" and op.output in outputs:
            return None
        same = op.name in ("alias", "reshape", "broadcast_to") or (op.name == "concatenate" and len(op.inputs) == 1)
        if op.name == "getitem":  # the shape is unchanged
            parts = op.options["index"] if isinstance(op.options["index"], tuple) else (op.options["index"],)
            same = all(part is ... or (isinstance(part, slice) and part.step in (None, 1)) for part in parts)
        if op.name in ("multiply", "divide") and op.inputs[1] == 1 and not isinstance(op.inputs[1], Value):
            same = True
        return x if same else None

    return _rewritten(graph, rewrite)


_COMPARES = PRIMITIVES["add"]  # comparisons broadcast as addition does


def split(graph: Graph, levels: Mapping[Value, Level]) -> Graph:
    """A product with a concatenation becomes a sum of products: ``[h, x] @ W = h @ W_h + x @ W_x``."""
    level = classify(graph, levels)
    makers: dict[Value, Op] = {}

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
        for part in maker.values:
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

    Products needed by the first ``carry`` outputs are merged separately from the rest, which can run after the loop.
    """
    level = classify(graph, levels)
    in_loop = depends_on(graph, [x for x in graph.outputs[:carry] if isinstance(x, Value)])
    groups: dict[tuple[Value, bool], list[Op]] = {}
    for op in graph.ops:
        if op.name == "matmul" and len(op.values) == 2:
            a, W = op.values
            if (a.ndim, W.ndim) == (2, 2) and level[W] == Level.FIXED and level[a] != Level.FIXED:
                groups.setdefault((a, op.output in in_loop), []).append(op)
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
            stop = start + member.output.shape[1]
            builder.emit("getitem", (product,), {"index": (slice(None), slice(start, stop))}, member.output)
            start = stop
    return builder.graph


def lower(graph: Graph) -> Graph:
    """Rewrite operations that kernels do not support in terms of ones that they do.

    ``log_softmax``, ``logsumexp``, ``mean`` and ``min`` become sums and maxima along the last axis; a scatter of
    columns becomes a concatenation of its parts and zeros; a slice of a concatenation that is one of its parts is that
    part.
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
    last = op.options.get("axis") in (-1, x.ndim - 1) and x.ndim == 2
    keepdims = bool(op.options.get("keepdims"))
    if op.name == "log_softmax" and last:
        shifted = emit(builder, "subtract", x, emit(builder, "max", x, axis=1, keepdims=True))
        total = emit(builder, "sum", emit(builder, "exp", shifted), axis=1, keepdims=True)
        return builder.emit("subtract", (shifted, emit(builder, "log", total)), {}, op.output)
    if op.name == "logsumexp" and last:
        top = emit(builder, "max", x, axis=1, keepdims=True)
        finite = emit(builder, "where", emit(builder, "isfinite", top), top, 0)  # a row of -inf gives -inf, not NaN
        total = emit(builder, "sum", emit(builder, "exp", emit(builder, "subtract", x, finite)), axis=1, keepdims=True)
        result = emit(builder, "add", emit(builder, "log", total), finite)
        return result if keepdims else builder.emit("reshape", (result,), {"shape": op.output.shape}, op.output)
    if op.name == "mean" and last:
        total = emit(builder, "sum", x, axis=1, keepdims=keepdims)
        return builder.emit("multiply", (total, 1 / x.shape[1]), {}, op.output)
    if op.name == "min":
        top = emit(builder, "max", emit(builder, "multiply", x, -1), **op.options)
        return builder.emit("multiply", (top, -1), {}, op.output)
    if op.name == "square":
        return builder.emit("multiply", (x, x), {}, op.output)
    if op.name == "negative":
        return builder.emit("multiply", (x, -1), {}, op.output)
    if op.name == "scatter" and len(op.output.shape) == 2:
        return _scattered(builder, op)
    if op.name == "getitem" and key_of(op.options["index"]) == key_of((slice(None), None)):
        return builder.emit("reshape", (x,), {"shape": op.output.shape}, op.output)
    if op.name == "getitem":
        maker = makers.get(x)
        columns = columns_of(op)
        if maker is not None and maker.name == "concatenate" and columns and maker.options["axis"] in (-1, 1):
            start = 0
            for part in maker.values:
                if (start, start + part.shape[-1]) == columns and part.shape == op.output.shape:
                    return part
                start += part.shape[-1]
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
    """A scatter of columns as a concatenation, or a sum of such; None where it is another scatter."""
    whole = Value(op.output.shape, op.output.dtype)
    placed = []
    for part, index in zip(op.values, op.options["indices"], strict=True):
        columns = columns_of(Op("getitem", (whole,), {"index": index}, part))
        if columns is None:
            return None
        placed.append((columns, part))
    placed.sort(key=lambda item: item[0])
    rows: list[list[tuple[tuple[int, int], Value]]] = []  # parts that do not overlap share a row
    for columns, part in placed:
        row = next((row for row in rows if row[-1][0][1] <= columns[0]), None)
        if row is None:
            rows.append([(columns, part)])
        else:
            row.append((columns, part))
    total: Value | None = None
    for row in rows:
        parts: list[Operand] = []
        end = 0
        for (start, stop), part in [*row, ((whole.shape[1],) * 2, row[-1][1])]:
            if start > end:
                column = (
                    part if part.shape[1] == 1 else emit(builder, "getitem", part, index=(slice(None), slice(0, 1)))
                )
                zero = emit(builder, "where", False, column, 0)
                parts.append(
                    zero
                    if start == end + 1
                    else emit(builder, "broadcast_to", zero, shape=(whole.shape[0], start - end))
                )
            if stop > start:
                parts.append(part)
            end = stop
        joined = emit(builder, "concatenate", *parts, axis=1)
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
