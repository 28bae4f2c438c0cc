"""Run a planned step with NumPy only: buffers are allocated once, and every call writes its result into one.

``numpy_layout.py`` assigns buffers and merges calls; ``program.py`` decides what runs before, in and after the loop.

Internally, values are feature-major: a row value (B, n) of the step is (n, B), all its steps (T, n, B), because NumPy's
products of that size are up to twice as fast. Arguments and results are (T, B, n).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np

from minigrad.graph import Value, evaluate, function_of, width_of
from minigrad.scan.lookup import Lookup, checked_indices
from minigrad.scan.numpy_layout import Arg, Buffer, Call, Code, Fold, Gather, Layout, Slot, calls_of
from minigrad.scan.program import Program, require_columns
from minigrad.scan.reference import FLUSHED
from minigrad.tensor import Array

COLUMNS = 112
"""Up to this number of rows, a table enters the step's product as one-hot columns; rows of larger ones are gathered.

The columns cost 2 V operations per element, at the speed of a product; a gathered row costs a copy across layouts and
an addition. Measured with H 128 and 256 and B 32 and 64, both take the same time at about 110 to 130 rows.
"""

ROWS = 512
"""Up to this number of rows, a table's gradient is a product with one-hot rows; rows of larger ones are sorted."""

_BLOCK = 1 << 16
"""Elements per block of a value in a stage without a carry: so many stay in the cache."""

_SPACES = 3
"""Number of idle workspaces kept."""


class _Space:
    """The arrays of a layout for one T and B, with each instruction bound to its views at every step."""

    def __init__(self, layout: Layout, steps: int, batch: int, sizes: Sequence[int], reverse: bool) -> None:
        self.layout, self.steps, self.batch, self.sizes, self.reverse = layout, steps, batch, sizes, reverse
        self.arrays = [self._array(buffer) for buffer in layout.buffers]
        self._spares: dict[Any, Array] = {}
        self.forward = [self._bind(i, code, False) for i, code in enumerate(layout.forward)]
        self.backward = {i: self._bind(i, code, True) for i, code in layout.backward.items()}
        self._scratch: dict[Any, Array] = {}

    def _array(self, buffer: Buffer) -> Array:
        extra = 0 if buffer.onehot is None else self.sizes[buffer.onehot]
        steps, batch = (self.steps, self.batch) if buffer.table is None else (1, self.sizes[buffer.table])
        match buffer.kind:
            case "matrix":
                return np.empty((buffer.rows, buffer.columns + extra), buffer.dtype)
            case "column":
                return np.empty((buffer.rows, batch), buffer.dtype)
            case "scalar":
                return np.empty((), buffer.dtype)
            case "scratch":
                lengths = min(steps, self._block())
            case "turns":
                lengths = 2
            case kind:
                lengths = steps + 1 if kind == "carry" else steps
        return np.zeros((lengths, buffer.rows + extra, batch), buffer.dtype)

    def _block(self) -> int:
        """Steps per block in a stage without a carry."""
        widest = max((buffer.rows for buffer in self.layout.buffers if buffer.kind == "scratch"), default=1)
        return max(1, _BLOCK // (widest * self.batch))

    def _bind(self, number: int, code: Code, backward: bool) -> list[Call]:
        calls: list[Call] = []
        blocks: list[tuple[Any, int]]
        loop = self.layout.program.stages[number].name == "loop"
        if loop:
            order = range(self.steps)[:: -1 if self.reverse != backward else 1]
            blocks = [(t, turn) for turn, t in enumerate(order)]
        else:
            steps = self.steps if self.layout.tables[number] is None else 1
            blocks = [(slice(t, min(t + self._block(), steps)), 0) for t in range(0, steps, self._block())]
        for when, turn in blocks:
            for name, args, out, options in code.instructions:
                arrays = [self._view(arg, when, turn) for arg in args]
                calls += calls_of(name, arrays, self._view(out, when, turn), options, self._spare)
            if backward and loop and (turn + 1) % FLUSHED == 0:
                calls += self._flushing(turn)
        return calls

    def _spare(self, like: Array, number: float | None = None) -> Array:
        """Temporary memory for the calls of one operation, or an array filled with a number."""
        key = like.shape, like.dtype, number
        if key not in self._spares:
            self._spares[key] = np.empty(*key[:2]) if number is None else np.full(like.shape, number, like.dtype)
        return self._spares[key]

    def _flushing(self, turn: int) -> list[Call]:
        """Replace subnormal numbers by 0 in the carry's cotangent after a backward step."""
        calls: list[Call] = []
        for slot in self.layout.turns:
            if slot is not None:
                d = self._view(Arg("rows", slot._replace(after=True)), 0, turn)
                size, normal = self._spare(d), np.empty(d.shape, bool)
                smallest = np.finfo(d.dtype).smallest_normal
                calls += [partial(np.abs, d, out=size), partial(np.greater_equal, size, smallest, out=normal)]
                calls.append(partial(np.multiply, d, normal, out=d))
        return calls

    def _view(self, arg: Arg, when: Any, turn: int) -> Any:
        if arg.slot is None:
            return arg.number
        buffer, row, rows, after = arg.slot
        array, kind = self.arrays[buffer], self.layout.buffers[buffer].kind
        if kind in ("matrix", "scalar"):
            return array
        if kind == "column":
            return array[row : row + rows]
        if kind == "carry":
            shift = int(after != self.reverse)
            when = slice(when.start + shift, when.stop + shift) if isinstance(when, slice) else when + shift
        elif kind == "turns":
            when = (turn + after) % 2
        elif kind == "scratch":
            when = slice(0, when.stop - when.start) if isinstance(when, slice) else 0
        array = array[when]
        if arg.kind == "whole":
            return array
        return array[..., row, :] if arg.ndim == 1 else array[..., row : row + rows, :]

    def all(self, slot: Slot, ndim: int = 2) -> Array:
        """A value at all steps, (T, n, B)."""
        steps = self.steps if self.layout.buffers[slot.buffer].table is None else 1
        return self._view(Arg("rows", slot, ndim=ndim), slice(0, steps), 0)  # type: ignore[no-any-return]

    def edge(self, slot: Slot, end: bool) -> Array:
        """The carry before the first step or after the last one, (n, B)."""
        at = -1 if end != self.reverse else 0
        return self.arrays[slot.buffer][at, slot.row : slot.row + slot.rows]

    def scratch(self, key: Slot, shape: tuple[int, ...], dtype: Any) -> Array:
        """An array for an intermediate result outside the loop."""
        if key not in self._scratch:
            # Rows with a power of two between them would share few sets of the cache.
            rows, columns = shape
            self._scratch[key] = np.empty((rows, columns + 16), dtype)[:, :columns]
        return self._scratch[key]


class _Deferred:
    """Products over all steps, with operands copied to matrices (n, T * B) once."""

    def __init__(self, space: _Space, indices: Sequence[Any]) -> None:
        self.space, self.indices = space, indices
        self._flat: dict[Slot, Array] = {}
        self._onehot: dict[int, Array] = {}
        self._by_row: list[tuple[int, Slot, Array]] = []  # onehot @ value.T, by the table's number and the value

    def _matrix(self, slot: Slot) -> Array:
        for other, array in self._flat.items():
            if other.contains(slot):
                return array[slot.row - other.row :][: slot.rows]
        array = self.space.all(slot)
        steps, rows, batch = array.shape
        if steps == 1:
            return array[0]  # type: ignore[no-any-return]
        self._flat[slot] = flat = self.space.scratch(slot, (rows, steps * batch), array.dtype)
        np.copyto(flat.reshape(rows, steps, batch), array.transpose(1, 0, 2))
        return flat

    def product(self, left: Slot, right: Slot) -> Array:
        """One value times another one transposed, including the one-hot rows that follow the first."""
        buffer = self.space.layout.buffers[left.buffer]
        if buffer.onehot is None or left.rows != buffer.rows or left.after:
            return self._matrix(left) @ self._matrix(right).T
        whole = left._replace(rows=left.rows + self.space.sizes[buffer.onehot])
        product = self._matrix(whole) @ self._matrix(right).T
        self._by_row.append((buffer.onehot, right, product[left.rows :]))
        return product[: left.rows]

    def added_up(self, slot: Slot, number: int) -> Array:
        """A value at all steps, each row added to the table's row that was looked up: (n, V)."""
        for table, other, found in self._by_row:
            if table == number and other.contains(slot):
                return found[:, slot.row - other.row :][:, : slot.rows].T
        size, indices = self.space.sizes[number], self.indices[number].reshape(-1)
        if size > ROWS:
            array = self.space.all(slot)
            order = np.argsort(indices, kind="stable")
            rows = indices[order]
            starts = np.flatnonzero(np.r_[True, rows[1:] != rows[:-1]])
            total = np.zeros((size, array.shape[1]), array.dtype)
            by_row = np.ascontiguousarray(array.swapaxes(1, 2)).reshape(len(order), -1)
            total[rows[starts]] = np.add.reduceat(by_row[order], starts, axis=0)
            return total.T
        flat = self._matrix(slot)
        if number not in self._onehot:
            self._onehot[number] = onehot = np.zeros((size, indices.size), flat.dtype)
            onehot[indices, np.arange(indices.size)] = 1
        return flat @ self._onehot[number].T


def _fill(space: _Space, code: Code, known: Mapping[Value, Array]) -> None:
    """Copy the fixed values of a body to the buffers that its instructions read."""
    for value, slot in code.fixed:
        array, given = space.arrays[slot.buffer], known[value]
        match space.layout.buffers[slot.buffer].kind:
            case "matrix":
                np.copyto(array[:, : given.shape[0]], given.T)
            case "column":
                np.copyto(array[slot.row : slot.row + slot.rows], given.reshape(-1, 1))
            case _:
                array[...] = given.reshape(())


def _put(target: Array, given: Array) -> None:
    """Copy a batch-major sequence, (T, B, n) or (T, B), to a feature-major buffer."""
    np.copyto(target, given[:, None] if given.ndim == 2 else given.swapaxes(1, 2))


def _row_major(array: Array, like: Value) -> Array:
    """A feature-major carry as a new batch-major array."""
    return np.array(array[0] if like.ndim == 1 else array.T, order="C")


def _taken(source: Array, like: Value) -> Array:
    """A feature-major sequence as a new batch-major array."""
    return np.array(source[:, 0] if like.ndim == 1 else source.swapaxes(1, 2), order="C")


class Saved:
    """What a forward pass keeps for the backward one. It owns a workspace until that is released or it is deleted."""

    def __init__(
        self,
        space: _Space,
        pool: list[_Space],
        params: Sequence[Array],
        fixed: Mapping[Value, Array],
        indices: list[Any],
    ) -> None:
        self.space: _Space | None = space
        self.pool, self.params, self.fixed, self.indices = pool, params, fixed, indices
        self.inputs: tuple[Any, ...] = ()
        self.options: dict[str, Any] = {}

    def release(self) -> None:
        """Return the workspace."""
        if self.space is not None:
            self.pool.append(self.space)
            del self.pool[:-_SPACES]
            self.space = None

    def __del__(self) -> None:
        self.release()


class Executor:
    """Runs a program with NumPy."""

    def __init__(self, program: Program) -> None:
        require_columns(program)
        self.program = program
        self._layouts: dict[Any, Layout] = {}
        self._pool: list[_Space] = []

    def _space(self, xs: Sequence[Any], steps: int, batch: int, reverse: bool, keep: bool) -> _Space:
        looked_up = tuple(isinstance(x, Lookup) for x in xs)
        sizes = [len(x.table) if isinstance(x, Lookup) else 0 for x in xs]
        columns = tuple(0 < size <= COLUMNS for size in sizes)
        key = keep, looked_up, columns
        if key not in self._layouts:
            self._layouts[key] = Layout(self.program, keep, looked_up, columns)
        layout = self._layouts[key]
        wanted = layout, steps, batch, sizes, reverse
        for space in list(self._pool):
            if (space.layout, space.steps, space.batch, space.sizes, space.reverse) == wanted:
                with suppress(ValueError):  # another thread may just have taken it
                    self._pool.remove(space)
                    return space
        return _Space(layout, steps, batch, sizes, reverse)

    def release(self) -> None:
        """Free the memory of all idle workspaces."""
        self._pool.clear()

    @np.errstate(invalid="ignore")  # small products of OpenBLAS also read memory beside their operands
    def forward(
        self,
        params: Sequence[Array],
        carry: Sequence[Array],
        xs: Sequence[Any],
        context: Sequence[Array],
        *,
        steps: int,
        batch: int,
        reverse: bool = False,
        keep: bool = False,
    ) -> tuple[list[Array], list[Array], Saved | None]:
        """Run all steps.

        Args:
            params: the program's fixed inputs.
            carry: the carry before the first step, (B, n) each.
            xs: for each of the step's inputs an array (T, B, ...), or a ``Lookup``.
            context: the same at every step, (B, ...) each.
            steps: T.
            batch: B.
            reverse: run from the last step to the first.
            keep: whether a backward pass may follow.

        Returns:
            The carry after the last step, the outputs, (T, B, ...) each, and what ``backward`` needs.
        """
        program = self.program
        space = self._space(xs, steps, batch, reverse, keep)
        layout = space.layout
        fixed = dict(zip(program.fixed, evaluate(program.prologue, params), strict=True))
        indices: list[Any] = [checked_indices(x.indices, len(x.table)) if isinstance(x, Lookup) else None for x in xs]
        saved = Saved(space, self._pool, params, fixed, indices)
        saved.inputs, saved.options = (params, carry, xs, context), {"steps": steps, "batch": batch, "reverse": reverse}
        for value, x in zip(program.xs, xs, strict=True):
            _put(space.all(layout.slots[value]), x.table[None] if isinstance(x, Lookup) else x)
        for value, x in zip(program.carry, carry, strict=True):
            if value in layout.slots:
                np.copyto(space.edge(layout.slots[value], end=False), x.T)
        spread = dict(layout.spread)
        for i, stage in enumerate(program.stages):
            for x in stage.rows:
                if x in spread:
                    self._spread(space, x, spread.pop(x), indices)
            body = stage.forward
            values = evaluate(body.prologue, [fixed[x] for x in stage.fixed])
            known = {x: y for x, y in zip(body.prologue.outputs, values, strict=True) if isinstance(x, Value)}
            _fill(space, layout.forward[i], known)
            for fold, matrix, operand in layout.forward[i].folds:
                self._set_columns(space, fold, matrix, operand, indices[fold.lookup])
            for call in space.forward[i]:
                call()
        last = [_row_major(space.edge(layout.slots[x], end=True), x) for x in program.carry]
        ys = [_taken(space.all(layout.slots[y]), y) for y in program.ys]
        if keep:
            return last, ys, saved
        saved.release()
        return last, ys, None

    def _spread(self, space: _Space, value: Value, to: Slot, indices: Sequence[Any]) -> None:
        """Gather a value's rows at all steps."""
        table = space.all(space.layout.slots[value])[0]
        _put(space.all(to), np.ascontiguousarray(table.T)[indices[space.layout.origin[value]]])

    def _set_columns(self, space: _Space, fold: Fold, matrix: Slot, operand: Slot, indices: Array) -> None:
        """Write a table beside the matrix of a product, and one-hot rows below the product's operand."""
        layout, start = space.layout, 0
        columns = space.arrays[matrix.buffer][:, layout.buffers[matrix.buffer].columns :]
        for part in fold.parts:
            np.copyto(columns[start : start + width_of(part)], space.all(layout.slots[part])[0])
            start += width_of(part)
        array = space.arrays[operand.buffer]
        if layout.buffers[operand.buffer].kind == "carry":
            array = array[1:] if space.reverse else array[:-1]
        onehot = array[:, operand.rows :]
        onehot.fill(0)
        np.put_along_axis(onehot, indices[:, None], 1, 1)

    @np.errstate(invalid="ignore")
    def backward(
        self, saved: Saved, d_carry: Sequence[Array | None], d_ys: Sequence[Array | None]
    ) -> tuple[list[Array], list[Array], list[Array | None], list[Array | None]]:
        """Run all steps backwards.

        Args:
            saved: from ``forward``.
            d_carry: the cotangents of the carry after the last step; None is zero.
            d_ys: the cotangents of the outputs.

        Returns:
            The cotangents of the parameters, of the carry before the first step (zeros if it is not a float), of the
            inputs, for a ``Lookup`` of its table, and of the context; None if not wanted or absent.
        """
        program, space = self.program, saved.space
        if space is None:  # backward has run already, and has overwritten what it needs
            _, _, again = self.forward(*saved.inputs, **saved.options, keep=True)
            assert again is not None
            return self.backward(again, d_carry, d_ys)
        layout = space.layout
        totals: dict[Value, Array] = {}
        deferred = _Deferred(space, saved.indices)
        for turn, given in zip(layout.turns, d_carry, strict=True):
            if turn is not None:
                array = space.arrays[turn.buffer][0]
                array.fill(0) if given is None else np.copyto(array, given.T)
        for i in reversed(range(len(program.stages))):
            stage, body = program.stages[i], program.stages[i].backward
            assert body is not None
            for gather in layout.gathered[i]:
                self._gathered(space, gather, d_ys, layout.tables[i], deferred)
            values = evaluate(body.prologue, [saved.fixed[x] for x in stage.fixed])
            known = {x: y for x, y in zip(body.prologue.outputs, values, strict=True) if isinstance(x, Value)}
            _fill(space, layout.backward[i], known)
            for call in space.backward[i]:
                call()
            self._add_sums(deferred, i, known, totals)
        first: list[Array] = []
        for x, turn in zip(program.carry, layout.turns, strict=True):
            if turn is None:
                first.append(np.zeros((space.batch, *x.shape[1:]), x.dtype))
            else:
                first.append(_row_major(space.arrays[turn.buffer][space.steps % 2], x))
        d_xs: list[Array | None] = []
        for x, wanted in zip(program.xs, layout.d_xs, strict=True):
            if wanted is None:
                d_xs.append(None)
                continue
            self._gathered(space, wanted, d_ys, layout.origin.get(x), deferred)
            array = _taken(space.all(wanted.to), x)
            d_xs.append(array[0] if x in layout.origin else array)
        assert program.d_prologue is not None
        cotangents = [
            totals[x] if x in totals else np.zeros(x.shape, x.dtype) for x in program.fixed if x.dtype.kind == "f"
        ]
        d_params = evaluate(program.d_prologue, [*saved.params, *cotangents])
        saved.release()
        return (
            [
                d if isinstance(d, np.ndarray) and d.shape == x.shape else np.full(x.shape, d, x.dtype)
                for x, d in zip(program.params, d_params, strict=True)
            ],
            first,
            d_xs,
            [],
        )

    def _gathered(
        self,
        space: _Space,
        gather: Gather,
        d_ys: Sequence[Array | None],
        table: int | None,
        deferred: _Deferred,
    ) -> None:
        """Sum the cotangents of a value."""
        if gather.slots == [gather.to]:
            return
        to, first = space.all(gather.to), True
        for i in gather.ys:
            d = d_ys[i]
            if d is not None:
                d = d[:, None] if d.ndim == 2 else d.swapaxes(1, 2)
                np.copyto(to, d) if first else np.add(to, d, to)
                first = False
        for slot in gather.slots:
            np.copyto(to, space.all(slot)) if first else np.add(to, space.all(slot), to)
            first = False
        for slot in gather.looked_up:
            assert table is not None
            d = deferred.added_up(slot, table)
            np.copyto(to[0], d) if first else np.add(to[0], d, to[0])
            first = False
        if first:
            to.fill(0)

    def _add_sums(
        self, deferred: _Deferred, number: int, known: Mapping[Value, Array], totals: dict[Value, Array]
    ) -> None:
        """A stage's deferred sums, and from them the cotangents of its fixed inputs."""
        stage, body, space = self.program.stages[number], self.program.stages[number].backward, deferred.space
        assert body is not None
        assert body.epilogue is not None
        sums: dict[Value, Array] = {}
        for total, (left, right, ndim) in zip(body.sums, space.layout.summed[number], strict=True):
            if left is None:
                row = np.add.reduce(space.all(right), axis=(0, 2))[None if ndim == 2 else slice(None)]
                sums[total.op.output] = np.asarray(function_of(total.op.name)(row, **total.op.options))
            else:
                sums[total.op.output] = deferred.product(left, right)
        results = evaluate(body.epilogue, [sums[x] if x in sums else known[x] for x in body.epilogue.inputs])
        wanted = [x for x, d in zip(stage.fixed, stage.d_fixed, strict=True) if d]
        for x, d in zip(wanted, results, strict=True):
            totals[x] = totals[x] + d if x in totals else np.asarray(d)
