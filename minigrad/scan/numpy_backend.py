"""Run a planned step with NumPy only: each body of the program becomes one Python function (``numpy_code.py``).

The functions run over steps, or over blocks of rows in stages without a carry. A batch of another size runs the same
functions in the same memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np

from minigrad import blas
from minigrad.graph import Value, evaluate, function_of
from minigrad.scan.lookup import Lookup, checked_indices
from minigrad.scan.numpy_code import Code
from minigrad.scan.program import Program, Stage, multiplications
from minigrad.tensor import Array

T = TypeVar("T")

ROWS = 128
"""Up to this number of rows, a table's gradient is a product with one-hot rows; for larger ones rows are sorted.

Measured with 64 to 1024 columns and 512 to 2048 rows looked up, both take the same time at 65 to 500 rows.
"""

_BLOCK = 1 << 16
"""Elements per block of a value in a stage without a carry: so many stay in the cache."""

_SPACES = 3
"""Number of idle workspaces kept."""


class Space(dict[Any, Array]):
    """Memory that is reused over calls: bytes by purpose, as many as the largest call needed."""

    def array(self, key: Any, shape: tuple[int, ...], dtype: Any) -> Array:
        """An array with undefined elements, in the same memory as earlier ones of this key."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if key not in self or len(self[key]) < size:
            self[key] = np.empty(size, np.uint8)
        array: Array = self[key][:size].view(dtype).reshape(shape)
        return array


def _matrix(x: Array) -> Array:
    """A copy with contiguous rows, and padding between them: a power of two apart, they would share few cache sets."""
    copy = np.empty((x.shape[0], x.shape[1] + 16), x.dtype)[:, : x.shape[1]]
    np.copyto(copy, x)
    return copy


def _beside(parts: Sequence[Array], axis: int) -> Array:
    """Arrays joined along an axis: without a copy if they are parts of one array, side by side."""
    first, end = parts[0], parts[0].ctypes.data
    for part in parts:
        same = part.base is not None and part.base is first.base and part.strides == first.strides
        if not same or part.ctypes.data != end:
            return np.concatenate(parts, axis)
        end += part.shape[axis] * part.strides[axis]
    shape = (*first.shape[:axis], sum(part.shape[axis] for part in parts), *first.shape[axis + 1 :])
    return np.lib.stride_tricks.as_strided(first, shape, first.strides)


class Saved:
    """One call of a program: its arrays by value, and the memory that they use.

    Arrays have one axis for all rows of all steps, in the order of time. The memory belongs to the call until it is
    released or the call is deleted.
    """

    def __init__(self, pool: list[Space], args: tuple[Any, ...], steps: int, batch: int, reverse: bool) -> None:
        self.pool, self.args, self.steps, self.batch, self.reverse = pool, args, steps, batch, reverse
        try:
            self.space: Space | None = pool.pop()
        except IndexError:
            self.space = Space()
        self.known: dict[Any, Array] = {}

    def release(self) -> None:
        """Return the memory."""
        if self.space is not None:
            self.pool.append(self.space)
            del self.pool[:-_SPACES]
            self.space = None
            self.known.clear()

    def __del__(self) -> None:
        self.release()

    def rows(self, stage: Stage) -> int:
        """The number of rows of a stage."""
        if stage.name == "table":
            return len(self.known[stage.rows[0]])
        return self.batch if stage.name == "context" else self.steps * self.batch

    def run(self, code: Code, carry: Sequence[Array | None]) -> list[Array]:
        """Run over all rows, with the carry before the first step; return the carry after the last one."""
        assert self.space is not None
        stage, known, new, batch = code.stage, self.known, self.space.array, self.batch
        reverse = self.reverse != code.backward
        prologue = code.body.prologue
        known.update(zip(prologue.outputs, evaluate(prologue, [known[x] for x in stage.fixed]), strict=True))
        size = self.rows(stage)
        for x in code.kept:
            known[x] = new(x, (size, *x.shape[1:]), x.dtype)
        last = []
        for (x, _), given in zip(code.carry, carry, strict=True):
            state = new(x, (size + batch, *x.shape[1:]), x.dtype)
            parts = state[:-batch], state[batch:]
            known[x], known["after", x] = before, after = parts[::-1] if reverse else parts
            np.copyto(before[-batch:] if reverse else before[:batch], 0 if given is None else given)
            last.append(after[:batch] if reverse else after[-batch:])
        known.update((after, known["after", before]) for after, before in code.after.items())
        for y, op in code.joined.items():
            known[y] = _beside([known[x] for x in op.values], op.options["axis"] % y.ndim)
        constants = [_matrix(known[x]) if x in code.matrices else known[x] for x in code.constants.values()]
        arrays = [code.full(x, known) for x in code.iterated.values()]
        if stage.by_step:
            order = slice(None, None, -1 if reverse else 1)
            code.run(batch, new, constants, [a.reshape(-1, batch, *a.shape[1:])[order] for a in arrays])
        else:
            block = max(1, min(size, _BLOCK // code.widest))
            whole = size - size % block
            code.run(block, new, constants, [a[:whole].reshape(-1, block, *a.shape[1:]) for a in arrays])
            if whole < size:
                code.run(size - whole, new, constants, [a[None, whole:] for a in arrays])
        known.update((x, code.full(x, known)) for x in code.wanted)
        return last


class Executor:
    """Runs a program with NumPy.

    Attributes:
        program: the planned step.
        source: as in ``Program.sources``.
        product: the shape (k, n) of a matrix with as much work as all products of one row of a step.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.source = program.sources()
        self._forwards = [Code(program, stage, self.source) for stage in program.stages]
        backwards = [stage for stage in reversed(program.stages) if stage.backward]
        self._backwards = [Code(program, stage, self.source, backward=True) for stage in backwards]
        products = [op for stage in program.stages for op in stage.forward.ops if op.name == "matmul"]
        deepest = max((op.values[0].shape[-1] for op in products), default=1)
        self.product = deepest, sum(map(multiplications, products)) // deepest
        self._pool: list[Space] = []
        self._itself = object()  # a unique key, which does not keep the program alive

    def release(self) -> None:
        """Free the memory of all idle workspaces."""
        self._pool.clear()

    def _run(self, call: Callable[[], T], name: str, steps: int, batch: int) -> T:
        """Run a call with the measured number of threads for large products."""
        with np.errstate(invalid="ignore"):  # small products of OpenBLAS also read memory beside their operands
            return blas.run(call, (self.product[1], self.product[0], batch), (self._itself, name, batch), steps)

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
        """Run all steps; see ``plans.Executor``."""
        saved = Saved(self._pool, (params, carry, xs, context), steps, batch, reverse)
        last, ys = self._run(partial(self._forward, saved), "forward", steps, batch)
        if keep:
            return last, ys, saved
        saved.release()
        return last, ys, None

    def _forward(self, saved: Saved) -> tuple[list[Array], list[Array]]:
        program, known = self.program, saved.known
        params, carry, xs, context = saved.args
        known.update(zip(program.fixed, evaluate(program.prologue, params), strict=True))
        known.update(zip(program.context, context, strict=True))
        for value, x in zip(program.xs, xs, strict=True):
            if isinstance(x, Lookup):
                known["indices", value] = checked_indices(x.indices, len(x.table)).reshape(-1)
            known[value] = x.table if isinstance(x, Lookup) else x.reshape(-1, *x.shape[2:])
        last = [end for code in self._forwards for end in saved.run(code, carry if code.carry else [])]
        ys = [self._at_all_steps(saved, y).reshape(saved.steps, saved.batch, *y.shape[1:]) for y in program.ys]
        return [np.array(x) for x in last], [np.array(y) for y in ys]

    def _at_all_steps(self, saved: Saved, x: Value) -> Array:
        """A value with its rows at all steps."""
        array = saved.known[x]
        if x in self.source:
            return array[saved.known["indices", self.source[x]]]
        if x in self.program.per_sequence:
            return np.broadcast_to(array, (saved.steps, *array.shape)).reshape(-1, *array.shape[1:])
        return array

    def backward(
        self, saved: Saved, d_carry: Sequence[Array | None], d_ys: Sequence[Array | None]
    ) -> tuple[list[Array], list[Array], list[Array | None], list[Array | None]]:
        """Run all steps backwards; see ``plans.Executor``."""
        steps, batch = saved.steps, saved.batch
        if saved.space is None:  # backward has run already, and has returned the memory
            _, _, again = self.forward(*saved.args, steps=steps, batch=batch, reverse=saved.reverse, keep=True)
            assert again is not None
            saved = again
        result = self._run(partial(self._backward, saved, d_carry, d_ys), "backward", steps, batch)
        saved.release()
        return result

    def _backward(
        self, saved: Saved, d_carry: Sequence[Array | None], d_ys: Sequence[Array | None]
    ) -> tuple[list[Array], list[Array], list[Array | None], list[Array | None]]:
        program, known = self.program, saved.known
        params, carry, xs, _ = saved.args
        d: dict[Value, Array] = {}

        def add(x: Value, g: Array) -> None:
            d[x] = d[x] + g if x in d else g

        for y, g in zip(program.ys, d_ys, strict=True):
            if g is not None:
                add(y, self._like(saved, y, g.reshape(-1, *g.shape[2:])))
        d_first = [np.zeros(x.shape, x.dtype) for x in carry]
        for code in self._backwards:
            stage, once = code.stage, code.stage.name in ("table", "context")
            for x, seed in zip(stage.outputs, stage.d_outputs, strict=True):
                if seed is not None:
                    known[seed] = d[x] if x in d else np.zeros((saved.rows(stage), *x.shape[1:]), x.dtype)
            known.update((("total", x), np.zeros(known[x].shape, x.dtype)) for x in code.totals)
            floats = [i for i, x in enumerate(stage.d_carried) if x is not None]
            for i, end in zip(floats, saved.run(code, [d_carry[i] for i in floats]), strict=True):
                d_first[i] = np.array(end)
            for x, dx in zip(stage.rows, stage.d_rows, strict=True):
                if x in code.totals:
                    add(x, known["total", x])
                elif isinstance(dx, Value):
                    add(x, known[dx] if once else self._like(saved, x, known[dx]))
            summed = [x for x, there in zip(stage.fixed, stage.d_fixed, strict=True) if there]
            for x, g in zip(summed, self._sums(saved, code), strict=True):
                add(x, g)
        given = [d[x] if x in d else np.zeros(x.shape, x.dtype) for x in program.fixed if x.dtype.kind == "f"]
        assert program.d_prologue is not None
        d_params = [
            g if isinstance(g, np.ndarray) and g.shape == x.shape else np.full(x.shape, g, x.dtype)
            for x, g in zip(program.params, evaluate(program.d_prologue, [*params, *given]), strict=True)
        ]
        shapes = [x.table.shape if isinstance(x, Lookup) else x.shape for x in xs]
        d_xs = [np.array(d[x]).reshape(shape) if x in d else None for x, shape in zip(program.xs, shapes, strict=True)]
        return d_params, d_first, d_xs, [np.array(d[x]) if x in d else None for x in program.context]

    def _like(self, saved: Saved, x: Value, g: Array) -> Array:
        """The cotangents of a value's rows at all steps, added up for each row of a table or each sequence."""
        if x in self.program.per_sequence:
            return g.reshape(saved.steps, saved.batch, *g.shape[1:]).sum(axis=0)  # type: ignore[no-any-return]
        if x not in self.source:
            return g
        size, indices = len(saved.known[x]), saved.known["indices", self.source[x]]
        if size > ROWS:
            return function_of("scatter")(g, indices=[indices], shape=(size, *g.shape[1:]))  # type: ignore[no-any-return]
        onehot = np.zeros((size, len(indices)), g.dtype)
        onehot[indices, np.arange(len(indices))] = 1
        return (onehot @ g.reshape(len(g), -1)).reshape(size, *g.shape[1:])

    def _sums(self, saved: Saved, code: Code) -> list[Any]:
        """The cotangents of those fixed inputs of a stage that have one, from sums over rows."""
        known, body, once = saved.known, code.body, code.stage.name in ("table", "context")
        assert body.epilogue is not None
        sums: dict[Value, Array] = {}
        for total in body.sums:
            right, left = (
                known[x] if once else self._at_all_steps(saved, x) for x in (total.right, total.left or total.right)
            )
            if total.left is None:
                if not once:  # sums of sums, which round less
                    right = right.reshape(saved.steps, saved.batch, *right.shape[1:]).sum(axis=1)
                row = right.sum(axis=0)[None]
                sums[total.op.output] = np.asarray(function_of(total.op.name)(row, **total.op.options))
            else:
                sums[total.op.output] = left.reshape(-1, left.shape[-1]).T @ right.reshape(-1, right.shape[-1])
        return evaluate(body.epilogue, [sums[x] if x in sums else known[x] for x in body.epilogue.inputs])
