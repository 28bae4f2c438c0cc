"""Runs a planned step as machine code: kernels from the program's operations, own products, shards on threads.

Rows lie one after another, features side by side. What the operations are is decided in ``program.py``; how they become
code, in ``minigrad.compiled``.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from minigrad.compiled import gemm, jit, rows
from minigrad.graph import Op, Operand, TraceError, Value, evaluate
from minigrad.scan.lookup import Lookup
from minigrad.scan.program import Program, Stage, Sum
from minigrad.tensor import Array

BLOCK = 64
"""Rows that a stage without a carry takes at once, so that what passes between its loops stays in the cache."""

_RUN = ctypes.CFUNCTYPE(None, ctypes.c_void_p, *[ctypes.c_int64] * 5)
_PACK = ctypes.CFUNCTYPE(
    None, *[ctypes.c_int64] * 2, ctypes.c_void_p, *[ctypes.c_int64] * 2, ctypes.c_void_p, *[ctypes.c_int64] * 3
)
_OUTER = ctypes.CFUNCTYPE(
    None,
    *[ctypes.c_int64] * 3,
    ctypes.c_void_p,
    ctypes.c_int64,
    ctypes.c_void_p,
    ctypes.c_int64,
    ctypes.c_void_p,
    ctypes.c_int64,
    ctypes.c_int32,
    ctypes.c_void_p,
)


def threads() -> int:
    """How many threads share the work: as many as this process may use processors, or ``MINIGRAD_THREADS``."""
    if given := os.environ.get("MINIGRAD_THREADS"):
        return max(1, int(given))
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.cache
def _workers(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, thread_name_prefix="minigrad")


def _in_parallel(tasks: Sequence[Callable[[], Any]]) -> None:
    """Run all tasks, the first on this thread; machine code holds no lock, so the others run beside it."""
    if len(tasks) == 1:
        tasks[0]()
        return
    futures = [_workers(len(tasks) - 1).submit(task) for task in tasks[1:]]
    tasks[0]()
    for future in futures:
        future.result()


class _Products:
    """The library of matrix products for one float type."""

    def __init__(self, dtype: str) -> None:
        self.tile = gemm.host_tile(dtype)
        self.library = jit.compile_ir(gemm.ir(self.tile))
        suffix = self.tile.suffix
        self.gemm = self.library.address(f"gemm_{suffix}")
        self.pack = _PACK(self.library.address(f"pack_{suffix}"))
        self.outer = _OUTER(self.library.address(f"outer_{suffix}"))


@functools.cache
def _products(dtype: str) -> _Products:
    return _Products(dtype)


def empty(shape: tuple[int, ...], dtype: Any) -> Array:
    """A new array that begins at the start of a cache line."""
    dtype = np.dtype(dtype)
    size = int(np.prod(shape))
    raw = np.empty(size * dtype.itemsize + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size * dtype.itemsize].view(dtype).reshape(shape)


class _Pool:
    """Memory that is used again: what a call needs only until its backward pass."""

    def __init__(self) -> None:
        self.free: dict[tuple[int, Any], list[Array]] = {}

    def take(self, shape: tuple[int, ...], dtype: Any, held: list[Array]) -> Array:
        """An array, which ``held`` keeps."""
        size = int(np.prod(shape))
        waiting = self.free.get((size, dtype))
        flat = waiting.pop() if waiting else empty((size,), dtype)
        held.append(flat)
        return flat.reshape(shape)

    def give_back(self, held: list[Array]) -> None:
        """Whatever was taken may be used again."""
        for flat in held:
            self.free.setdefault((flat.size, flat.dtype), []).append(flat)
        held.clear()


def _row_stride(array: Array, leading: int) -> int:
    """The distance in elements between rows, which lie evenly along the first ``leading`` axes."""
    for axis in reversed(range(leading)):
        if array.shape[axis] > 1:  # the stride of an axis of one may be anything
            return array.strides[axis] // array.itemsize
    return array.shape[-1]


class Saved:
    """What the backward pass needs of a forward pass. It holds memory of a pool, and gives it back when it goes."""

    def __init__(self, pool: _Pool) -> None:
        self.pool = pool
        self.held: list[Array] = []
        self.known: dict[Value, Any] = {}
        self.fixed: list[Array] = []
        self.params: list[Array] = []
        self.lookups: dict[Value, Lookup] = {}
        self.steps = self.batch = 0
        self.reverse = False

    def __del__(self) -> None:
        self.pool.give_back(self.held)


class _Compiled:
    """One body, compiled: its code, and what each slot must hold."""

    def __init__(self, body: rows.Body, dtype: str) -> None:
        self.body = body
        code = body.generate()
        self.code = code
        self.places = code.places
        self.library = jit.compile_ir(rows.module([code]))
        self.run = _RUN(self.library.address(f"{body.name}_run"))
        self.carry_in: list[rows.Slot] = []


class Executor:
    """A program, ready to run.

    Args:
        program: what the planner made.

    Raises:
        TraceError: an operation has no kernel.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        floats = {x.dtype for x in (*program.params, *program.carry, *program.xs) if x.dtype.kind == "f"}
        floats |= {op.output.dtype for op in program.graph.ops if op.output.dtype.kind == "f"}
        if len(floats) != 1 or not floats <= {np.dtype(np.float32), np.dtype(np.float64)}:
            raise TraceError(f"it computes in {' and '.join(sorted(map(str, floats))) or 'no float type'}")
        (self.dtype,) = floats
        self.type = "float" if self.dtype == np.float32 else "double"
        self.products = _products(self.dtype.name)
        self.width = jit.vector_width(self.dtype.name)
        self.pool = _Pool()
        self.source = self._sources()
        self.bodies: dict[tuple[int, str], _Compiled] = {}
        # Whatever has no kernel should be known before the first run.
        for i, stage in enumerate(program.stages):
            if stage.backward is not None:
                self._body(i, "keep")
                self._body(i, "backward")
            else:
                self._body(i, "forward")

    def _sources(self) -> dict[Value, Value]:
        """For each value that lies once a row of a table: the input that is looked up."""
        found: dict[Value, Value] = {}
        for stage in self.program.stages:
            if stage.name == "table":
                (source,) = {found.get(x, x) for x in stage.rows}
                found[source] = source
                found |= dict.fromkeys(stage.outputs, source)
        return found

    # --- compiling ----------------------------------------------------------------------------------------------------

    def _body(self, number: int, kind: str) -> _Compiled:
        if (number, kind) not in self.bodies:
            stage = self.program.stages[number]
            make = self._backward_body if kind == "backward" else self._forward_body
            self.bodies[number, kind] = make(stage, f"s{number}_{kind}", kind == "keep")
        return self.bodies[number, kind]

    def _new(self, stage: Stage, name: str, ops: Sequence[Op], prologue: Any) -> rows.Body:
        body = rows.Body(name, ops, self.type, self.width, stage.name == "loop")
        matrices = {op.values[1] for op in ops if op.name == "matmul"}
        others = {x for op in ops for i, x in enumerate(op.values) if not (op.name == "matmul" and i == 1)}
        for x in prologue.outputs:
            if x in matrices:
                body.packed[x] = body.slot("packed", x.shape[1], x)
            if x in others:
                body.fixed[x] = body.slot("fixed", x.shape[-1] if x.shape else 1, x)
        indices: dict[Value, rows.Slot] = {}
        for x in stage.rows:
            source = self.source.get(x)
            if source is None or stage.name == "table":
                body.given[x] = rows.Place(body.slot("rows", rows.width_of(x), x), 0)
                continue
            if source not in indices:
                indices[source] = body.slot("indices", 1, source)
            body.given[x] = rows.Place(body.slot("looked_up", rows.width_of(x), x, indices[source]), 0)
        for x in stage.carry:
            body.given[x] = rows.Place(body.slot("rows", rows.width_of(x), x), 0)
        body.indices = indices
        return body

    def _forward_body(self, stage: Stage, name: str, keep: bool) -> _Compiled:
        body = self._new(stage, name, stage.forward.ops, stage.forward.prologue)
        for x in stage.carried:
            body.exclusive[x] = rows.Place(body.slot("rows", rows.width_of(x), x), 0)
        wanted = list(stage.outputs)
        if keep and stage.backward is not None:
            wanted += [x for x in stage.backward.keeps if x not in wanted]
        body.stored = [x for x in wanted if x not in body.exclusive]
        compiled = _Compiled(body, self.type)
        compiled.places |= body.exclusive
        return compiled

    def _backward_body(self, stage: Stage, name: str, keep: bool) -> _Compiled:
        back = stage.backward
        assert back is not None
        body = self._new(stage, name, back.ops, back.prologue)
        for x in (*back.keeps, *(d for d in stage.d_outputs if d is not None)):
            if x not in body.given:
                body.given[x] = rows.Place(body.slot("rows", rows.width_of(x), x), 0)
        moving = {}
        for x in stage.d_carried:
            if x is not None:
                moving[x] = body.slot("coming", rows.width_of(x), x)
                body.given[x] = rows.Place(moving[x], 0)
        made = {op.output for op in body.ops if op.name not in rows.ALIASES}

        def copied(x: Operand, like: Value) -> Value:
            """A value of its own that equals ``x``."""
            copy = Value(like.shape, like.dtype)
            body.ops.append(Op("alias", (x,), {}, copy) if isinstance(x, Value) else Op("where", (False, like, x), {}, copy))
            return copy

        going: list[rows.Slot] = []
        for x, d, coming in zip(stage.carry, stage.d_carry, stage.d_carried, strict=True):
            if coming is None:
                raise TraceError("its carry is no float")
            if not isinstance(d, Value) or d not in made or d in body.exclusive:
                d = copied(0.0 if d is None else d, coming)
            going.append(body.slot("going", rows.width_of(x), d))
            body.exclusive[d] = rows.Place(going[-1], 0)
        stored: list[Value] = []

        def in_memory(x: Value) -> Value:
            """A value that lies in memory for all rows and equals ``x``."""
            place = body.given.get(x)
            if x in body.exclusive or (place is not None and place.slot.kind != "rows"):
                x = copied(x, x)
            if x not in body.given:
                stored.append(x)
            return x

        self_results: dict[Value, Any] = {}
        for x, d in zip(stage.rows, stage.d_rows, strict=True):
            if not isinstance(d, Value):
                continue
            source = self.source.get(x)
            if source is not None and stage.name != "table":
                slot = body.slot("scattered", rows.width_of(x), x, body.indices[source])
                body.added.append((d, slot))
                self_results[x] = slot
            else:
                self_results[x] = in_memory(d)
        totals: list[tuple[Sum, Any, Any]] = []
        for total in back.sums:
            if total.left is None:
                slot = body.slot("total", rows.width_of(total.right), total.right)
                body.added.append((total.right, slot))
                totals.append((total, None, slot))
            else:
                totals.append((total, in_memory(total.left), in_memory(total.right)))
        body.stored = list(dict.fromkeys(stored))
        compiled = _Compiled(body, self.type)
        compiled.results, compiled.totals, compiled.going = self_results, totals, going
        compiled.coming = moving
        return compiled

    # --- running ------------------------------------------------------------------------------------------------------

    def forward(
        self,
        params: Sequence[Array],
        carry: Sequence[Array],
        xs: Sequence[Any],
        *,
        steps: int,
        batch: int,
        reverse: bool,
        keep: bool,
    ) -> tuple[list[Array], list[Array], Saved | None]:
        """Run the program along a sequence; see ``minigrad.scan``."""
        program = self.program
        saved = Saved(self.pool)
        saved.steps, saved.batch, saved.reverse, saved.params = steps, batch, reverse, list(params)
        saved.fixed = evaluate(program.prologue, params)
        fixed = dict(zip(program.fixed, saved.fixed, strict=True))
        known = saved.known
        for value, x in zip(program.xs, xs, strict=True):
            if isinstance(x, Lookup):
                saved.lookups[value] = Lookup(self._rows(x.table), np.ascontiguousarray(x.indices, np.int64))
            else:
                known[value] = self._rows(x)
        escaping = set(program.ys)
        firsts = dict(zip(program.carry, carry, strict=True))
        last: list[Array] = []
        for number, stage in enumerate(program.stages):
            compiled = self._body(number, "keep" if keep and stage.backward is not None else "forward")
            arrays: dict[rows.Slot, Array] = {}
            if stage.name == "loop":
                for before, after in zip(stage.carry, stage.carried, strict=True):
                    shape = (steps + 1, batch, *before.shape[1:])
                    whole = empty(shape, self.dtype) if after in escaping else self.pool.take(shape, self.dtype, saved.held)
                    whole[steps if reverse else 0] = firsts[before]
                    known[before], known[after] = (whole[1:], whole[:-1]) if reverse else (whole[:-1], whole[1:])
                    arrays[compiled.places[after].slot] = known[after]
            self._run(stage, compiled, stage.forward.prologue, fixed, arrays, saved, escaping, forward=True)
            if stage.name == "loop":
                last = [np.array(known[value][0 if reverse else -1]) for value in stage.carried]
        return last, [known[value] for value in program.ys], saved if keep else None

    def backward(
        self, saved: Saved, d_carry: Sequence[Array | None], d_ys: Sequence[Array | None]
    ) -> tuple[list[Array], list[Array], list[Array | None]]:
        """The cotangents of the parameters, the first carry and the inputs."""
        program = self.program
        steps, batch, reverse = saved.steps, saved.batch, saved.reverse
        fixed = dict(zip(program.fixed, saved.fixed, strict=True))
        known = saved.known
        cotangent: dict[Value, Array] = {}
        for value, d in zip(program.ys, d_ys, strict=True):
            if d is not None:
                self._collect(cotangent, value, self._rows(d))
        last = dict(zip(program.carried, d_carry, strict=True))
        d_fixed: dict[Value, Array] = {}
        d_first: list[Array] = [np.zeros((batch, *x.shape[1:]), self.dtype) for x in program.carry]
        for number in reversed(range(len(program.stages))):
            stage = program.stages[number]
            compiled = self._body(number, "backward")
            arrays: dict[rows.Slot, Array] = {}
            for value, d in zip(stage.outputs, stage.d_outputs, strict=True):
                if d is not None:
                    known[d] = cotangent.pop(value, None)
                    if known[d] is None:
                        shape = (len(saved.lookups[self.source[value]].table),) if stage.name == "table" else (steps, batch)
                        known[d] = np.broadcast_to(np.zeros((), self.dtype), (*shape, *value.shape[1:]))
            moving: list[Array] = []
            if stage.name == "loop":
                for after, d, going in zip(stage.carried, stage.d_carried, compiled.going, strict=True):
                    both = self.pool.take((2, batch, *after.shape[1:]), self.dtype, saved.held)
                    first = 0 if reverse else steps - 1
                    given = last[after]
                    both[first & 1] = 0 if given is None else given
                    arrays[compiled.coming[d]] = arrays[going] = both
                    moving.append(both)
            sums, by_row, env = self._run(
                stage, compiled, stage.backward.prologue, fixed, arrays, saved, set(), forward=False
            )
            if stage.name == "loop":
                end = steps - 1 if reverse else 0
                d_first = [np.array(both[1 - (end & 1)]) for both in moving]
            for x, d in by_row.items():
                self._collect(cotangent, x, d)
            graph = stage.backward.epilogue
            given_fixed = [env[x] for x in graph.inputs[len(sums) :]]
            results = iter(evaluate(graph, [*sums, *given_fixed]))
            for x, there in zip(stage.fixed, stage.d_fixed, strict=True):
                if there:
                    self._collect(d_fixed, x, next(results))
        zeros = [d_fixed[x] if x in d_fixed else np.zeros(x.shape, x.dtype) for x in program.fixed if x.dtype.kind == "f"]
        d_params = evaluate(program.d_prologue, [*saved.params, *zeros])
        d_params = [
            np.zeros(p.shape, p.dtype) if isinstance(d, float) and p.shape else np.asarray(d, p.dtype)
            for d, p in zip(d_params, saved.params, strict=True)
        ]
        d_xs = [np.array(cotangent[x]) if x in cotangent else None for x in program.xs]
        return d_params, d_first, d_xs

    def _collect(self, into: dict[Value, Array], value: Value, d: Array) -> None:
        into[value] = into[value] + d if value in into else d

    def _rows(self, x: Any) -> Array:
        x = np.asarray(x)
        if x.dtype.kind == "b":
            return x.astype(self.dtype)
        if x.dtype.kind in "iu":
            return np.ascontiguousarray(x, np.int64)
        if x.dtype != self.dtype:
            raise TypeError(f"an input has dtype {x.dtype}; expected {self.dtype}")
        return np.ascontiguousarray(x)

    def _run(
        self,
        stage: Stage,
        compiled: _Compiled,
        prologue: Any,
        fixed: dict[Value, Array],
        arrays: dict[rows.Slot, Array],
        saved: Saved,
        escaping: set[Value],
        *,
        forward: bool,
    ) -> Any:
        """Give every slot its memory, run the code over all rows, and collect what came out."""
        steps, batch, known = saved.steps, saved.batch, saved.known
        loop = stage.name == "loop"
        table = stage.name == "table"
        if table:
            source = self.source[stage.rows[0]]
            known[source] = saved.lookups[source].table
            lead: tuple[int, ...] = (len(known[source]),)
        else:
            lead = (steps, batch)
        total_rows = batch if loop else int(np.prod(lead))
        env = dict(zip(prologue.outputs, evaluate(prologue, [fixed[x] for x in stage.fixed]), strict=True))
        temporary: list[Array] = []
        shards = self._shards(stage, total_rows, steps)
        most = max(stop - start for start, stop in shards)
        most = most if loop else min(most, BLOCK)

        for slot in compiled.code.slots:
            if slot in arrays:
                continue
            value = slot.value
            if slot.kind == "packed":
                arrays[slot] = self._pack(env[value], temporary)
            elif slot.kind == "fixed":
                arrays[slot] = np.ascontiguousarray(env[value])
            elif slot.kind == "indices":
                arrays[slot] = saved.lookups[value].indices
            elif slot.kind == "looked_up":
                arrays[slot] = known[value] if value in known else saved.lookups[value].table
            elif slot.kind == "rows":
                if value in known and value in compiled.body.given:
                    arrays[slot] = known[value]
                else:
                    shape = (*lead, slot.width)
                    own = value in escaping
                    arrays[slot] = empty(shape, self.dtype) if own else self.pool.take(shape, self.dtype, saved.held)
            elif slot.kind == "scratch":
                arrays[slot] = self.pool.take((len(shards), most, slot.width), self.dtype, temporary)
            elif slot.kind == "total":
                arrays[slot] = self.pool.take((len(shards), slot.width), self.dtype, temporary)
                arrays[slot].fill(0)
            elif slot.kind == "scattered":
                source = slot.indices.value
                count = len(saved.lookups[source].table)
                arrays[slot] = self.pool.take((len(shards), count, slot.width), self.dtype, temporary)
                arrays[slot].fill(0)
            else:
                raise AssertionError(slot.kind)

        backwards = saved.reverse == forward
        tasks = []
        for shard, (start, stop) in enumerate(shards):
            words = [self.products.gemm]
            for slot in compiled.code.slots:
                words += self._words(slot, arrays[slot], shard, start, loop, table)
            args = np.array(words, np.int64)
            if loop:
                numbers = (steps - 1 if backwards else 0, steps, -1 if backwards else 1, start, stop)
            else:
                numbers = (0, BLOCK, 0, start, stop)
            tasks.append(functools.partial(compiled.run, args.ctypes.data, *numbers))
            temporary_args = args  # kept alive until the tasks have run
            arrays[rows.Slot("arguments", 0)] = temporary_args
        _in_parallel(tasks)

        def view(value: Value) -> Array:
            place = compiled.places[value]
            array = arrays[place.slot]
            array = array[..., None] if array.ndim == len(lead) else array  # one number a row
            if value.ndim == 1:
                return array[..., place.column]
            return array[..., place.column : place.column + value.shape[1]]

        if forward:
            for value in compiled.body.stored:
                known[value] = view(value)
            self.pool.give_back(temporary)
            return None
        by_row = {}
        for x, where in compiled.results.items():
            if isinstance(where, rows.Slot):
                total = arrays[where].sum(0)
                by_row[x] = total if x.ndim == 2 else total[:, 0]
            else:
                by_row[x] = view(where)
        sums = []
        for total, left, right in compiled.totals:
            if total.left is None:
                whole = arrays[right].sum(0)
                whole = whole[None] if total.right.ndim == 2 else whole
                sums.append(np.sum(whole, **total.op.options))
            else:
                sums.append(self._outer(view(left), view(right)))
        self.pool.give_back(temporary)
        return sums, by_row, env

    def _shards(self, stage: Stage, count: int, steps: int) -> list[tuple[int, int]]:
        """Ranges of rows, one a thread; one for all where there is too little to do."""
        work = sum(int(np.prod(op.values[1].shape)) for op in stage.forward.ops if op.name == "matmul") or 1000
        workers = threads() if work * count * (steps if stage.name == "loop" else 1) > 2_000_000 else 1
        height = self.products.tile.rows
        share = max(1, round(count / workers / height)) * height if count >= height * workers else -(-count // workers)
        bounds = [min(i * share, count) for i in range(workers)] + [count]
        return [(a, b) for a, b in zip(bounds, bounds[1:], strict=False) if b > a]

    def _words(self, slot: rows.Slot, array: Array, shard: int, start: int, loop: bool, table: bool) -> list[int]:
        size = array.itemsize
        if slot.kind in ("packed", "fixed"):
            return [array.ctypes.data, 0, 0]
        if slot.kind in ("scratch", "total", "scattered"):
            block = array[shard]
            return [block.ctypes.data, 0, slot.width]
        if slot.kind in ("coming", "going"):
            # Rows are counted from the shard's first.
            return [array[:, start:].ctypes.data, array.strides[0] // size, array.strides[1] // size]
        if slot.kind == "looked_up":
            return [array.ctypes.data, 0, array.strides[0] // size]
        if table:
            return [array.ctypes.data, 0, array.strides[0] // size]
        if loop:
            return [array.ctypes.data, array.strides[0] // size, array.strides[1] // size]
        return [array.ctypes.data, 0, _row_stride(array, 2)]

    def _pack(self, matrix: Array, held: list[Array]) -> Array:
        k, n = matrix.shape
        packed = self.pool.take((gemm.packed_size(self.products.tile, k, n),), self.dtype, held)
        columns = self.products.tile.columns
        if n % columns:
            packed[-k * columns :] = 0
        row, col = (s // matrix.itemsize for s in matrix.strides)
        self.products.pack(k, n, matrix.ctypes.data, row, col, packed.ctypes.data, k, 0, 0)
        return packed

    def _outer(self, left: Array, right: Array) -> Array:
        """The sum over all rows of left transposed times right."""
        m, n = left.shape[-1], right.shape[-1]
        count = int(np.prod(left.shape[:-1]))
        out = empty((m, n), self.dtype)
        size = out.itemsize
        left_row, right_row = _row_stride(left, left.ndim - 1), _row_stride(right, right.ndim - 1)
        workers = threads() if m * n * count > 1_000_000 else 1
        tile = self.products.tile
        share = -(-n // workers // tile.columns) * tile.columns
        held: list[Array] = []
        tasks = []
        for start in range(0, n, share):
            stop = min(n, start + share)
            work = self.pool.take((gemm.outer_work(tile, m, stop - start),), self.dtype, held)
            tasks.append(
                functools.partial(
                    self.products.outer, m, stop - start, count, left.ctypes.data, left_row,
                    right.ctypes.data + start * size, right_row, out.ctypes.data + start * size, n, 0, work.ctypes.data,
                )
            )  # fmt: skip
        _in_parallel(tasks)
        self.pool.give_back(held)
        return out
