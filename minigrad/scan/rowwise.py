"""Rewrite a step so that every value with a batch axis has the shape (B, *inner): one row per sequence.

A step may move the batch axis, merge it with others, or multiply stacks of matrices. Afterwards the batch is always the
first axis, and the operations are those that work on rows of any inner shape.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.lib.array_utils import normalize_axis_index, normalize_axis_tuple

from minigrad.graph import Batch, Builder, Graph, Op, Operand, TraceError, Value, works_by_element
from minigrad.scan.passes import emit
from minigrad.tensor import Tensor


class _Traced(NamedTuple):
    """A value of the traced step, and the value of the rewritten step that has its elements.

    Attributes:
        value: for rows, of the shape (B, *inner), where inner are the axes of ``shape`` in their order, with ``major``
            and ``minor`` instead of the batch axis if they are not 1.
        shape: the traced shape.
        at: the axis of the batch; None if the value has no batch axis.
        major: element (i * B + b) * minor + j of that axis belongs to sequence b.
        minor: see there.
    """

    value: Value
    shape: tuple[int, ...]
    at: int | None = None
    major: int = 1
    minor: int = 1

    @property
    def merged(self) -> tuple[int, ...]:
        """The axes that are merged with the batch."""
        return tuple(n for n in (self.major, self.minor) if n != 1)

    def inner(self) -> tuple[int, ...]:
        """The shape of a row."""
        assert self.at is not None
        return (*self.shape[: self.at], *self.merged, *self.shape[self.at + 1 :])

    def axis(self, axis: int) -> int:
        """The axis of ``value`` for another axis of ``shape`` than the batch."""
        assert self.at is not None
        return axis + 1 if axis < self.at else axis + len(self.merged)


def rowwise(graph: Graph) -> Graph:
    """The graph with the batch as the first axis of every value that has it.

    Raises:
        TraceError: an operation mixes the sequences of a batch, or none on rows can express it.
    """
    return _Rewriter(graph).rewritten()


class _Rewriter:
    """Rewrites a graph, operation by operation."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.builder = Builder(Graph(list(graph.inputs), [], [], dict(graph.constants), dict(graph.names)))
        self.known: dict[Value, _Traced] = {
            x: _Traced(x, x.shape, _batch_axis(x.shape)) for x in (*graph.inputs, *graph.constants)
        }
        self.op: Op

    def rewritten(self) -> Graph:
        """The whole graph."""
        for op in self.graph.ops:
            self.op = op
            self.builder.origin = op.output.origin
            self.known[op.output] = self._rewrite(op)
        outputs: list[Operand] = []
        for x in self.graph.outputs:
            if isinstance(x, Value):
                traced = self.known[x]
                if traced.at and traced.value.origin is None:
                    traced.value.origin = x.origin
                x = traced.value
            outputs.append(x)
        self.builder.graph.outputs = outputs
        return self.builder.graph

    def _refuse(self) -> NoReturn:
        operands = " and ".join(map(repr, self.op.values))
        raise TraceError(f"its {self.op.name} of {operands} does not work row by row", self.op.output.origin)

    def _emit(self, name: str, *inputs: Operand, **options: Any) -> Value:
        return emit(self.builder, name, *inputs, **options)

    def _rewrite(self, op: Op) -> _Traced:
        shape = op.output.shape
        if all(self.known[x].at is None for x in op.values):
            if _batch_axis(shape) is None:
                self.builder.graph.ops.append(
                    Op(op.name, tuple(self._fixed(x) for x in op.inputs), op.options, op.output)
                )
                return _Traced(op.output, shape)
            if op.name == "broadcast_to":
                return self._spread(self._operand(op.inputs[0]), shape)
            self._refuse()
        if op.name in ("broadcast_to", "alias", "astype") or works_by_element(op.name):
            return self._elementwise(op)
        rewrite: Callable[[Op], _Traced] | None = getattr(self, f"_{op.name}", None)
        return rewrite(op) if rewrite else self._refuse()

    def _fixed(self, x: Operand) -> Operand:
        return self.known[x].value if isinstance(x, Value) else x

    def _operand(self, x: Operand) -> _Traced:
        if not isinstance(x, Value):
            self._refuse()
        return self.known[x]

    def _rows(self, x: Operand) -> _Traced:
        traced = self._operand(x)
        return traced if traced.at is not None else self._refuse()

    # --- shapes -------------------------------------------------------------------------------------------------------

    def _spread(self, x: _Traced, shape: tuple[int, ...]) -> _Traced:
        """A fixed value as equal rows."""
        at = _batch_axis(shape)
        assert at is not None
        whole = _Traced(x.value, shape, at, 1, _times(shape[at]))
        fixed = self._without_batch(x, whole)
        rows = self._emit("broadcast_to", fixed, shape=(_unit(shape[at]), *whole.inner()))
        return whole._replace(value=rows)

    def _without_batch(self, x: _Traced, like: _Traced) -> Value:
        """A fixed value that broadcasts against ``like``, so that it broadcasts against its rows."""
        assert like.at is not None
        axis = like.at - (len(like.shape) - len(x.shape))
        if axis < 0:
            return x.value
        if x.shape[axis] != 1:
            self._refuse()
        shape = (*x.shape[:axis], *(1 for _ in like.merged), *x.shape[axis + 1 :])
        return self._shaped(x.value, shape)

    def _shaped(self, x: Value, shape: tuple[int, ...]) -> Value:
        return x if x.shape == shape else self._emit("reshape", x, shape=shape)

    def _to(self, x: _Traced, like: _Traced) -> _Traced:
        """``x`` with the shape and batch axis of ``like``, whose rows have as many elements in the same order."""
        assert like.at is not None
        value = self._shaped(x.value, (x.value.shape[0], *like.inner()))
        return like._replace(value=value)

    def _reshaped(self, x: _Traced, shape: tuple[int, ...]) -> _Traced:
        """``x`` in another traced shape."""
        if x.at is None:
            return _Traced(self._shaped(x.value, shape), shape)
        at = _batch_axis(shape)
        if at is None or 0 in shape:
            self._refuse()
        before = math.prod(x.shape[: x.at]) * x.major
        after = x.minor * math.prod(x.shape[x.at + 1 :])
        major, rest = divmod(before, math.prod(shape[:at]))
        minor, more = divmod(after, math.prod(shape[at + 1 :]))
        if rest or more or major * minor != _times(shape[at]):
            self._refuse()
        return self._to(x, _Traced(x.value, shape, at, major, minor))

    def _reshape(self, op: Op) -> _Traced:
        return self._reshaped(self._rows(op.inputs[0]), op.output.shape)

    def _transposed(self, x: _Traced, axes: Sequence[int]) -> _Traced:
        """``x`` with its traced axes in another order."""
        shape = tuple(x.shape[a] for a in axes)
        if x.at is None:
            return _Traced(self._emit("transpose", x.value, axes=tuple(axes)), shape)
        merged = range(1 + x.at, 1 + x.at + len(x.merged))
        order = [0, *itertools.chain.from_iterable(merged if a == x.at else [x.axis(a)] for a in axes)]
        value = x.value
        if order != sorted(order):
            value = self._emit("transpose", value, axes=tuple(order))
        return x._replace(value=value, shape=shape, at=list(axes).index(x.at))

    def _transpose(self, op: Op) -> _Traced:
        x = self._rows(op.inputs[0])
        axes = op.options["axes"]
        count = len(x.shape)
        return self._transposed(x, range(count)[::-1] if axes is None else [a % count for a in axes])

    def _swapped(self, x: _Traced) -> _Traced:
        count = len(x.shape)
        return self._transposed(x, [*range(count - 2), count - 1, count - 2])

    # --- element by element -------------------------------------------------------------------------------------------

    def _elementwise(self, op: Op) -> _Traced:
        shape = op.output.shape
        found = {
            (x.at + len(shape) - len(x.shape), x.major, x.minor)
            for x in map(self.known.__getitem__, op.values)
            if x.at is not None
        }
        if len(found) != 1:
            self._refuse()
        whole = _Traced(op.output, shape, *found.pop())
        assert whole.at is not None
        inputs: list[Operand] = []
        for x in op.inputs:
            if not isinstance(x, Value):
                inputs.append(x)
                continue
            operand = self.known[x]
            if operand.at is None:
                inputs.append(self._without_batch(operand, whole))
            else:
                full = (1,) * (len(shape) - len(operand.shape)) + operand.shape
                inputs.append(self._to(operand, whole._replace(shape=full)).value)
        options = dict(op.options)
        if op.name == "broadcast_to":
            options["shape"] = (_unit(shape[whole.at]), *whole.inner())
        elif op.name == "clip":
            options = {name: self._bound(bound, whole) for name, bound in options.items()}
        return whole._replace(value=self._emit(op.name, *inputs, **options))

    def _bound(self, bound: Any, like: _Traced) -> Any:
        """A bound of ``clip``, with the axes of a row."""
        assert like.at is not None
        axis = like.at - (len(like.shape) - np.ndim(bound))
        if np.ndim(bound) == 0 or axis < 0:
            return bound
        shape = np.shape(bound)
        if shape[axis] != 1:
            self._refuse()
        return np.reshape(bound, (*shape[:axis], *(1 for _ in like.merged), *shape[axis + 1 :]))

    # --- along an axis ------------------------------------------------------------------------------------------------

    def _reduction(self, op: Op) -> _Traced:
        x = self._rows(op.inputs[0])
        assert x.at is not None
        axis = op.options["axis"]
        axes = range(len(x.shape)) if axis is None else sorted(normalize_axis_tuple(axis, len(x.shape)))
        if x.at in axes:
            self._refuse()
        options = dict(op.options) | {"axis": tuple(x.axis(a) for a in axes)}
        value = self._emit(op.name, x.value, **options)
        at = x.at if options["keepdims"] else x.at - sum(a < x.at for a in axes)
        return x._replace(value=value, shape=op.output.shape, at=at)

    _sum = _mean = _max = _min = _logsumexp = _reduction

    def _along(self, op: Op) -> _Traced:
        x = self._rows(op.inputs[0])
        axis = op.options["axis"]
        if axis is None or axis % len(x.shape) == x.at:
            self._refuse()
        return x._replace(value=self._emit(op.name, x.value, axis=x.axis(axis % len(x.shape))))

    _cumsum = _log_softmax = _along

    def _concatenate(self, op: Op) -> _Traced:
        return self._joined([self._rows(x) for x in op.inputs], op.options["axis"])

    def _stack(self, op: Op) -> _Traced:
        axis = normalize_axis_index(op.options["axis"], len(op.output.shape))
        parts = [self._rows(x) for x in op.inputs]
        return self._joined([self._reshaped(x, (*x.shape[:axis], 1, *x.shape[axis:])) for x in parts], axis)

    def _joined(self, parts: Sequence[_Traced], axis: int) -> _Traced:
        first = parts[0]
        axis %= len(first.shape)
        if axis == first.at or len({(x.at, x.major, x.minor) for x in parts}) != 1:
            self._refuse()
        length = sum(x.shape[axis] for x in parts)
        values = [x.value for x in parts if x.shape[axis]] or [first.value]  # kernels have at least one element
        value = self._emit("concatenate", *values, axis=first.axis(axis))
        return first._replace(value=value, shape=(*first.shape[:axis], length, *first.shape[axis + 1 :]))

    def _pad(self, op: Op) -> _Traced:
        x = self._rows(op.inputs[0])
        widths = op.options["pad_width"]
        if isinstance(widths, dict):
            widths = [widths.get(axis, widths.get(axis - len(x.shape), 0)) for axis in range(len(x.shape))]
            widths = [np.broadcast_to(width, 2) for width in widths]
        widths = np.broadcast_to(np.asarray(widths), (len(x.shape), 2)).tolist()
        if widths[x.at] != [0, 0] or np.ndim(op.options["constant_values"]):
            self._refuse()
        value = np.asarray(op.options["constant_values"], x.value.dtype)
        for axis, (before, after) in enumerate(widths):
            if before or after:
                x = self._joined(
                    [*self._filling(x, axis, before, value), x, *self._filling(x, axis, after, value)], axis
                )
        return x

    def _filling(self, x: _Traced, axis: int, length: int, value: Any) -> list[_Traced]:
        """Equal rows of ``length`` elements along an axis, as a list; an empty one for length 0."""
        if not length:
            return []
        whole = x._replace(shape=(*x.shape[:axis], length, *x.shape[axis + 1 :]))
        constant = Value((), value.dtype)
        self.builder.graph.constants[constant] = value
        rows = self._emit("broadcast_to", constant, shape=(x.value.shape[0], *whole.inner()))
        return [whole._replace(value=rows)]

    # --- choosing -----------------------------------------------------------------------------------------------------

    def _getitem(self, op: Op) -> _Traced:
        return self._chosen(self._rows(op.inputs[0]), op.options["index"], op.output.shape)

    def _take(self, op: Op) -> _Traced:
        indices: Any = op.inputs[1]
        if isinstance(indices, Value):
            if indices not in self.graph.constants or self.known[indices].at is not None:
                raise TraceError("it chooses elements by computed indices", op.output.origin)
            indices = self.graph.constants[indices]
        x = self._rows(op.inputs[0])
        axis = op.options["axis"] % len(x.shape)
        return self._chosen(x, (*(slice(None),) * axis, np.asarray(indices)), op.output.shape)

    def _chosen(self, x: _Traced, index: Any, shape: tuple[int, ...]) -> _Traced:
        """The elements of ``x`` at an index, as a value of this traced shape."""
        assert x.at is not None
        parts = _expanded(index, len(x.shape), self._refuse)
        axis = 0
        axes: list[tuple[int | None, Any]] = []  # (axis of x, its part of the index), in the order of the index
        for part in parts:
            axes.append((None if part is None else axis, part))
            axis += part is not None
        by_axis = {axis: part for axis, part in axes if axis is not None}
        batch = by_axis[x.at]
        if not isinstance(batch, slice) or batch.indices(x.shape[x.at]) != (0, x.shape[x.at], 1):
            self._refuse()
        arrays = {axis: part for axis, part in by_axis.items() if isinstance(part, np.ndarray)}
        if arrays:  # then NumPy takes numbers as arrays too
            arrays |= {axis: np.asarray(part) for axis, part in by_axis.items() if isinstance(part, int)}
        sliced = x.value
        slices = [slice(None)] * len(sliced.shape)
        for axis, part in by_axis.items():
            if axis == x.at or axis in arrays:
                continue
            slices[x.axis(axis)] = slice(part, part + 1 or None) if isinstance(part, int) else part
        if any(part != slice(None) for part in slices):
            sliced = self._emit("getitem", sliced, index=tuple(slices))
        order = [axis for axis, part in axes if axis is not None and axis not in arrays and not isinstance(part, int)]
        if arrays:
            first = min(arrays)
            where = [i for i, (axis, _) in enumerate(axes) if axis in arrays]
            # NumPy puts the elements' axes where the arrays are, or before all others if those are not neighbours.
            front = where[-1] - where[0] + 1 != len(where)
            before = sum(len(x.merged) if axis == x.at else 1 for axis in order if axis < first and not front)
            sliced = self._gathered(sliced, {x.axis(axis): part for axis, part in arrays.items()}, 1 + before)
            front = front or first < x.at
            added = np.broadcast(*arrays.values()).ndim
        else:
            front, added = False, 0
        at = order.index(x.at) + (added if front else 0)
        position = next(i for i, (axis, _) in enumerate(axes) if axis == x.at)
        at += sum(part is None for _, part in axes[:position])  # new axes before the batch
        return self._to(x._replace(value=sliced), x._replace(shape=shape, at=at))

    def _gathered(self, x: Value, arrays: dict[int, Any], to: int) -> Value:
        """The elements at indices of several axes, as axis ``to`` of the result; the other axes keep their order."""
        lengths = [x.shape[axis] for axis in arrays]
        flat: Any = 0
        for indices, length in zip(np.broadcast_arrays(*arrays.values()), lengths, strict=True):
            flat = flat * length + np.where(indices < 0, indices + length, indices)
        rest = [axis for axis in range(len(x.shape)) if axis not in arrays]
        order = (*rest[:to], *arrays, *rest[to:])
        if order != tuple(sorted(order)):
            x = self._emit("transpose", x, axes=order)
        x = self._shaped(x, (*x.shape[:to], math.prod(lengths), *x.shape[to + len(arrays) :]))
        after = (slice(None),) * (len(x.shape) - to - 1)
        return self._emit("getitem", x, index=(*(slice(None),) * to, _slice_or_indices(flat.reshape(-1)), *after))

    def _pick(self, op: Op) -> _Traced:
        x, indices = map(self._rows, op.inputs)
        if (x.at, x.major, x.minor, x.shape[:-1]) != (indices.at, indices.major, indices.minor, indices.shape):
            self._refuse()
        return indices._replace(value=self._emit("pick", x.value, indices.value))

    def _place(self, op: Op) -> _Traced:
        x, indices = map(self._rows, op.inputs)
        if x[1:] != indices[1:]:
            self._refuse()
        value = self._emit("place", x.value, indices.value, size=op.options["size"])
        return x._replace(value=value, shape=op.output.shape)

    def _scatter(self, op: Op) -> _Traced:
        parts = [self._rows(x) for x in op.inputs]
        indices = [index if isinstance(index, tuple) else (index,) for index in op.options["indices"]]
        plain = all(x.at == 0 and not x.merged and len(x.shape) == len(op.output.shape) for x in parts)
        if not plain or _batch_axis(op.output.shape) != 0:
            self._refuse()
        whole = [_expanded(index, len(op.output.shape), self._refuse) for index in indices]
        if any(not isinstance(part, slice) for index in whole for part in index):
            self._refuse()
        value = self._emit(
            "scatter", *[x.value for x in parts], indices=[tuple(index) for index in whole], shape=op.output.shape
        )
        return parts[0]._replace(value=value, shape=op.output.shape)

    # --- products -----------------------------------------------------------------------------------------------------

    def _matmul(self, op: Op) -> _Traced:
        a, b = map(self._operand, op.inputs)
        if len(a.shape) == 1:
            a = self._reshaped(a, (1, *a.shape))
        if len(b.shape) == 1:
            b = self._reshaped(b, (*b.shape, 1))
        return self._reshaped(self._product(a, b), op.output.shape)

    def _product(self, a: _Traced, b: _Traced) -> _Traced:
        """The product of two values with at least two axes each."""
        if a.at is None:
            return self._swapped(self._product(self._swapped(b), self._swapped(a)))
        if a.at == len(a.shape) - 1:
            self._refuse()  # a sum over the batch
        lead = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        shape = (*lead, a.shape[-2], b.shape[-1])
        a = self._widened(a, len(shape))
        assert a.at is not None
        if b.at is not None:
            b = self._widened(b, len(shape))
            if a.at >= len(lead) or (a.at, a.major, a.minor) != (b.at, b.major, b.minor):
                self._refuse()
            return a._replace(value=self._emit("matmul", a.value, b.value), shape=shape)
        heads = (1,) * (len(lead) - len(b.shape[:-2])) + b.shape[:-2]
        if a.at < len(lead) and heads[a.at] != 1:
            self._refuse()
        parts = []
        for head in itertools.product(*map(range, heads)):
            index = [slice(None)] * len(a.value.shape)
            for axis, (n, i) in enumerate(zip(heads, head, strict=True)):
                if n > 1 and a.shape[axis] > 1:
                    index[a.axis(axis)] = slice(i, i + 1)
            one = (
                a.value
                if index.count(slice(None)) == len(index)
                else self._emit("getitem", a.value, index=tuple(index))
            )
            matrix = b.value
            if len(b.shape) > 2:
                matrix = self._emit("getitem", matrix, index=head[len(lead) - len(b.shape) + 2 :])
            parts.append(self._times_matrix(one, matrix))
        for axis in reversed(range(len(heads))):
            if heads[axis] > 1:
                group = heads[axis]
                parts = [
                    self._emit("concatenate", *parts[i : i + group], axis=a.axis(axis))
                    for i in range(0, len(parts), group)
                ]
        (value,) = parts
        return a._replace(value=value, shape=shape)

    def _widened(self, x: _Traced, ndim: int) -> _Traced:
        return self._reshaped(x, (1,) * (ndim - len(x.shape)) + x.shape)

    def _times_matrix(self, rows: Value, matrix: Value) -> Value:
        """(B, *rest, k) times (k, n), with two axes if ``rest`` has one element."""
        alone = math.prod(rows.shape[1:-1]) == 1
        product = self._emit("matmul", self._shaped(rows, (rows.shape[0], rows.shape[-1])) if alone else rows, matrix)
        return self._shaped(product, (*rows.shape[:-1], matrix.shape[-1]))


def _slice_or_indices(indices: Any) -> Any:
    """A slice that takes the same elements, which are then not copied; the indices themselves if there is none."""
    steps = set(np.diff(indices).tolist()) or {1}
    if len(indices) == 0 or len(steps) > 1 or 0 in steps:
        return indices
    (step,) = steps
    stop = int(indices[-1]) + step
    return slice(int(indices[0]), stop if stop >= 0 else None, step)


def _batch_axis(shape: tuple[int, ...]) -> int | None:
    return next((i for i, n in enumerate(shape) if isinstance(n, Batch)), None)


def _times(n: int) -> int:
    return n.times if isinstance(n, Batch) else 1


def _unit(n: int) -> Batch:
    assert isinstance(n, Batch)
    return Batch(n.unit)


def _expanded(index: Any, ndim: int, refuse: Callable[[], NoReturn]) -> list[Any]:
    """One part for each axis (a slice, a number or an array of integers), and None for each new axis."""
    parts: list[Any] = []
    for part in index if isinstance(index, tuple) else (index,):
        if isinstance(part, Tensor):
            raise TraceError("it chooses elements by computed indices")
        if isinstance(part, list | np.ndarray) and np.ndim(part):
            array = np.asarray(part)
            parts += array.nonzero() if array.dtype.kind == "b" else [array]
        elif isinstance(part, bool | np.bool_):
            refuse()
        else:
            parts.append(part if part is None or part is ... or isinstance(part, slice) else int(part))
    missing = ndim - sum(part is not None and part is not ... for part in parts)
    if ... not in [part for part in parts if not isinstance(part, np.ndarray)]:
        parts.append(...)
    at = next(i for i, part in enumerate(parts) if part is ...)
    parts[at : at + 1] = [slice(None)] * missing
    return parts
