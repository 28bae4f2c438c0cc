"""Run a planned step as machine code: fused kernels, own matrix products, shards of the batch on threads.

Arrays are batch-major: rows one after another. ``program.py`` decides the operations, ``minigrad.compiled`` turns them
into code.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from minigrad.compiled import gemm, jit, rows, slots
from minigrad.compiled.memory import address, empty, readable
from minigrad.compiled.parallel import in_parallel, threads
from minigrad.graph import Graph, Op, Operand, TraceError, Value, apply, evaluate
from minigrad.scan.lookup import Lookup, checked_indices
from minigrad.scan.program import Program, Stage, Sum, require_columns
from minigrad.tensor import Array

BLOCK = 64
"""Rows per block in a stage without a carry, so that intermediate values stay in the cache."""

IDLE = 3
"""Number of idle workspaces kept: for training, its last batch, and validation."""

PACKED_ALONE = 100_000
"""Numbers that one thread packs before a second would have started."""

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


class Products:
    """The library of matrix products for one float dtype."""

    def __init__(self, dtype: str) -> None:
        self.tile = gemm.host_tile(dtype)
        self.library = jit.compile_ir(gemm.ir(self.tile))
        suffix = self.tile.suffix
        self.gemm = self.library.address(f"gemm_{suffix}")
        self.pack = _PACK(self.library.address(f"pack_{suffix}"))
        self.outer = _OUTER(self.library.address(f"outer_{suffix}"))


@functools.cache
def _products(dtype: str) -> Products:
    return Products(dtype)


class Saved:
    """What the backward pass needs from a forward pass. It owns a workspace, which it returns when it is deleted."""

    def __init__(self, executor: Executor, workspace: Workspace) -> None:
        self.executor, self.workspace = executor, workspace
        self.known: dict[Value, Any] = {}
        self.fixed: list[Any] = []
        self.params: Sequence[Array] = ()

    def __del__(self) -> None:
        if "plan" not in self.executor.program.without:
            self.executor.give_back(self.workspace)


class Workspace:
    """All memory that a call needs, with every address passed to code, allocated once per T and B.

    Attributes:
        key: (T, B, whether reversed, the lengths of tables).
        wholes: carries at all steps that are not part of a result.
        parts: bodies with their memory.
    """

    def __init__(self, key: tuple[int, int, bool, tuple[int, ...]], sources: Sequence[Value]) -> None:
        self.key = key
        self.steps, self.batch, self.reverse = key[:3]
        self.tables = dict(zip(sources, key[3], strict=True))
        self.wholes: dict[Value, Array] = {}
        self.parts: dict[tuple[int, str], _Part] = {}


@dataclass(eq=False)
class _Part:
    """A body with its memory.

    Attributes:
        compiled: the code.
        lead: the leading axes of its rows: (T, B), or (V,) for a table.
        arrays: the array of each slot.
        shards: ranges of rows, one per thread.
        arguments: the arguments of the code, per shard.
        calls: the call of each thread.
        later: slots whose arrays come with every call.
        fresh: slots, with shapes, that are allocated per call, because results are stored in them.
        zeroed: arrays that must be zero before the code runs.
        matrices: values to pack, and where.
        vectors: fixed values that are read unpacked, and their slots.
        work: memory for the sums over rows.
        given_away: carries whose memory contains results.
        made_anew: slots that are allocated per call.
    """

    compiled: _Compiled
    lead: tuple[int, ...]
    shards: list[tuple[int, int]]
    arrays: dict[slots.Slot, Array] = field(default_factory=dict)
    arguments: list[Any] = field(default_factory=list)
    calls: list[functools.partial[None]] = field(default_factory=list)
    later: list[slots.Slot] = field(default_factory=list)
    fresh: list[tuple[slots.Slot, tuple[int, ...]]] = field(default_factory=list)
    zeroed: list[Array] = field(default_factory=list)
    matrices: list[tuple[Value, Array]] = field(default_factory=list)
    vectors: list[tuple[Value, slots.Slot]] = field(default_factory=list)
    work: dict[Any, Array] = field(default_factory=dict)
    given_away: set[Value] = field(default_factory=set)
    made_anew: set[slots.Slot] = field(default_factory=set)


class _Pieces:
    """A matrix that is assembled only when it is packed.

    Attributes:
        shape: of the whole.
        pieces: arrays with their first row and column.
    """

    def __init__(self, shape: tuple[int, int], dtype: Any, pieces: list[tuple[Array, int, int]]) -> None:
        self.shape, self.dtype = shape, dtype
        self.pieces = pieces

    def transposed(self) -> _Pieces:
        """The transposed matrix."""
        return _Pieces(self.shape[::-1], self.dtype, [(piece.T, col, row) for piece, row, col in self.pieces])

    def array(self) -> Array:
        """The assembled matrix."""
        out: Array = np.empty(self.shape, self.dtype)
        for piece, row, col in self.pieces:
            out[row : row + piece.shape[0], col : col + piece.shape[1]] = piece
        return out


def _apply(op: Op, args: Sequence[Any]) -> Any:
    """As ``graph.apply``, but matrices that are only concatenated and transposed stay in pieces."""
    if op.name == "concatenate" and op.options["axis"] == 1 and len(op.output.shape) == 2:
        pieces, column = [], 0
        for arg in args:
            inner = arg.pieces if isinstance(arg, _Pieces) else [(arg, 0, 0)]
            pieces += [(piece, row, col + column) for piece, row, col in inner]
            column += arg.shape[1]
        return _Pieces(op.output.shape, op.output.dtype, pieces)
    if op.name == "transpose" and isinstance(args[0], _Pieces):
        return args[0].transposed()
    return apply(op, [_array(arg) for arg in args])


def _env(prologue: Graph, arrays: Sequence[Any]) -> dict[Value, Any]:
    """A prologue's outputs by value."""
    found = evaluate(prologue, arrays, _apply)
    return {value: array for value, array in zip(prologue.outputs, found, strict=True) if isinstance(value, Value)}


def _row_stride(array: Array, leading: int) -> int:
    """The distance in elements between rows, which is constant along the first ``leading`` axes."""
    for axis in reversed(range(leading)):
        if array.shape[axis] > 1:  # the stride of an axis of one may be anything
            return int(array.strides[axis] // array.itemsize)
    return int(array.shape[-1])


class _Compiled:
    """A compiled body: its code, and what each slot contains."""

    def __init__(self, body: rows.Body, dtype: str) -> None:
        self.body = body
        code = body.generate()
        self.code = code
        self.locations = code.locations
        self.library = jit.compile_ir(rows.module([code]))
        self.run = _RUN(self.library.address(f"{body.name}_run"))
        # Only for backward bodies: the slots of results, the sums, and the blocks of the carry's cotangents.
        self.results: dict[Value, slots.Slot | Value] = {}
        self.totals: list[tuple[Sum, Value | None, Any]] = []
        self.going: list[slots.Slot] = []
        self.coming: list[slots.Slot] = []


class Executor:
    """A program compiled to machine code.

    Args:
        program: the planner's result.

    Raises:
        TraceError: an operation has no kernel.
    """

    def __init__(self, program: Program) -> None:
        require_columns(program)
        self.program = program
        floats = {x.dtype for x in (*program.params, *program.carry, *program.xs) if x.dtype.kind == "f"}
        floats |= {op.output.dtype for op in program.graph.ops if op.output.dtype.kind == "f"}
        if len(floats) != 1 or not floats <= {np.dtype(np.float32), np.dtype(np.float64)}:
            raise TraceError(f"it computes in {' and '.join(sorted(map(str, floats))) or 'no float type'}")
        (self.dtype,) = floats
        for x in (*program.carried, *program.ys):
            if x.dtype != self.dtype:
                raise TraceError(f"its carry or output has {x.dtype} numbers", x.origin)
        self.type = "float" if self.dtype == np.float32 else "double"
        self.products = _products(self.dtype.name)
        self.width = jit.vector_width(self.dtype.name)
        self.source = self._sources()
        self.indices = {x: Value((0,), np.int64) for x in program.xs if x in self.source}
        self.of_indices = {index: x for x, index in self.indices.items()}
        self.limits: dict[Value, int] = {}
        for op in program.graph.ops:
            if op.name in ("pick", "place"):
                width = slots.size_of(op.values[0] if op.name == "pick" else op.output)
                if self.limits.setdefault(op.values[1], width) != width:
                    raise TraceError("it picks from rows of several widths by one index", op.output.origin)
        self.escaping, self.given = set(program.ys), set(program.xs)
        self.idle: list[Workspace] = []
        self.bodies: dict[tuple[int, str], _Compiled] = {}
        # Missing kernels are reported before the first run.
        for i, stage in enumerate(program.stages):
            if stage.backward is not None:
                self._body(i, "keep")
                self._body(i, "backward")
            else:
                self._body(i, "forward")

    def _sources(self) -> dict[Value, Value]:
        """For each value with one row per row of a table: the input that is looked up."""
        found = {x: x for x in self.program.tables}
        for stage in self.program.stages:
            if stage.name == "table":
                (source,) = {found[x] for x in stage.rows}
                found |= dict.fromkeys(stage.outputs, source)
        return found

    # --- compiling ----------------------------------------------------------------------------------------------------

    def _body(self, number: int, kind: str) -> _Compiled:
        if (number, kind) not in self.bodies:
            stage = self.program.stages[number]
            name = f"s{number}_{kind}"
            if kind == "backward":
                self.bodies[number, kind] = self._backward_body(stage, name)
            else:
                self.bodies[number, kind] = self._forward_body(stage, name, kind == "keep")
        return self.bodies[number, kind]

    def _new(self, stage: Stage, name: str, ops: Sequence[Op], prologue: Any) -> rows.Body:
        fuse = "fuse" not in self.program.without
        body = rows.Body(name, ops, self.type, self.width, stage.name == "loop", fuse)
        matrices = {op.values[1] for op in ops if op.name == "matmul"}
        others = {x for op in ops for i, x in enumerate(op.values) if not (op.name == "matmul" and i == 1)}
        for x in prologue.outputs:
            if x in matrices:
                body.packed[x] = body.slot(slots.Packed, x)
            if x in others:
                body.fixed[x] = body.slot(slots.Fixed, x, math.prod(x.shape))
        indices: dict[Value, slots.Indices] = {}
        for x in stage.rows:
            source = self.source.get(x)
            if source is None or stage.name == "table":
                body.given[x] = body.place(slots.Rows, x)
                continue
            if source not in indices:
                indices[source] = body.slot(slots.Indices, self.indices[source])
            body.given[x] = body.place(slots.LookedUp, x, indices=indices[source])
        for x in stage.carry:
            body.given[x] = body.place(slots.Rows, x)
        body.indices = indices
        return body

    def _forward_body(self, stage: Stage, name: str, keep: bool) -> _Compiled:
        body = self._new(stage, name, stage.forward.ops, stage.forward.prologue)
        for x in stage.carried:
            body.exclusive[x] = body.place(slots.Rows, x)
        wanted = list(stage.outputs)
        if keep and stage.backward is not None:
            wanted += [x for x in stage.backward.keeps if x not in wanted]
        body.stored = [x for x in wanted if x not in body.exclusive]
        compiled = _Compiled(body, self.type)
        compiled.locations |= body.exclusive
        return compiled

    def _backward_body(self, stage: Stage, name: str) -> _Compiled:
        back = stage.backward
        assert back is not None
        body = self._new(stage, name, back.ops, back.prologue)
        for x in (*back.keeps, *(seed for seed in stage.d_outputs if seed is not None)):
            if x not in body.given:
                body.given[x] = body.place(slots.Rows, x)
        moving = {}
        for seed in stage.d_carried:
            if seed is not None:
                moving[seed] = body.slot(slots.Coming, seed)
                body.given[seed] = slots.Location.of(moving[seed], seed)
        made = {op.output for op in body.ops if op.name not in rows.ALIASES}

        def copied(x: Operand, like: Value) -> Value:
            """A distinct value equal to ``x``."""
            copy = Value(like.shape, like.dtype)
            body.ops.append(
                Op("alias", (x,), {}, copy) if isinstance(x, Value) else Op("where", (False, like, x), {}, copy)
            )
            return copy

        going: list[slots.Slot] = []
        for d, coming in zip(stage.d_carry, stage.d_carried, strict=True):
            if coming is None:
                raise TraceError("its carry is no float")
            if not isinstance(d, Value) or d not in made or d in body.exclusive:
                d = copied(0.0 if d is None else d, coming)
            going.append(body.slot(slots.Going, d))
            body.exclusive[d] = slots.Location.of(going[-1], d)
        stored: list[Value] = []

        def in_memory(x: Value) -> Value:
            """A value equal to ``x`` that is stored for all rows."""
            location = body.given.get(x)
            if x in body.exclusive or (location is not None and not isinstance(location.slot, slots.Rows)):
                x = copied(x, x)
            if x not in body.given:
                stored.append(x)
            return x

        results: dict[Value, Any] = {}
        for x, d in zip(stage.rows, stage.d_rows, strict=True):
            if not isinstance(d, Value):
                continue
            source = self.source.get(x)
            if source is not None and stage.name != "table":
                slot = body.slot(slots.Scattered, x, indices=body.indices[source])
                body.added.append((d, slot))
                results[x] = slot
            else:
                results[x] = in_memory(d)
        totals: list[tuple[Sum, Any, Any]] = []
        for total in back.sums:
            if total.left is None:
                row = body.slot(slots.Total, total.right)
                body.added.append((total.right, row))
                totals.append((total, None, row))
            else:
                totals.append((total, in_memory(total.left), in_memory(total.right)))
        body.stored = list(dict.fromkeys(stored))
        compiled = _Compiled(body, self.type)
        compiled.results, compiled.totals, compiled.going = results, totals, going
        compiled.coming = [moving[d] for d in stage.d_carried if d is not None]
        return compiled

    # --- running ------------------------------------------------------------------------------------------------------

    def forward(
        self,
        params: Sequence[Array],
        carry: Sequence[Array],
        xs: Sequence[Any],
        context: Sequence[Array],
        *,
        steps: int,
        batch: int,
        reverse: bool,
        keep: bool,
    ) -> tuple[list[Array], list[Array], Saved | None]:
        """Run the program along a sequence; see ``minigrad.scan``."""
        sources = [x for x in self.program.xs if x in self.source]
        lengths = tuple(len(x.table) for x in xs if isinstance(x, Lookup))
        key = (steps, batch, reverse, lengths)
        saved = Saved(self, self._idle(key) or Workspace(key, sources))
        last, ys = self.start(saved, params, carry, xs, keep=keep)
        return last, ys, saved if keep else None

    def _idle(self, key: Any) -> Workspace | None:
        """An idle workspace."""
        for workspace in list(self.idle):
            if workspace.key == key:
                with suppress(ValueError):  # another thread may just have taken it
                    self.idle.remove(workspace)
                    return workspace
        return None

    def give_back(self, workspace: Workspace) -> None:
        """Return a workspace for later calls; only a few are kept, since lengths vary."""
        self.idle.append(workspace)
        del self.idle[:-IDLE]

    def release(self) -> None:
        """Free the memory of all idle workspaces."""
        self.idle.clear()

    def start(
        self, saved: Saved, params: Sequence[Array], carry: Sequence[Array], xs: Sequence[Any], *, keep: bool
    ) -> tuple[list[Array], list[Array]]:
        """Run the program in a given workspace: the last carry and the outputs."""
        program, workspace = self.program, saved.workspace
        steps, batch, reverse = workspace.steps, workspace.batch, workspace.reverse
        known = saved.known
        given = dict(zip(program.xs, xs, strict=True))
        saved.params, saved.fixed = params, evaluate(program.prologue, params, _apply)
        fixed = dict(zip(program.fixed, saved.fixed, strict=True))
        for value, x in given.items():
            if isinstance(x, Lookup):
                known[value] = self._rows(x.table)
                known[self.indices[value]] = checked_indices(x.indices, len(x.table))
            elif value in self.limits:
                known[value] = checked_indices(x, self.limits[value])
            else:
                known[value] = self._rows(x)
        last: list[Array] = []
        for number, stage in enumerate(program.stages):
            part = self._part(workspace, number, "keep" if keep and stage.backward is not None else "forward")
            if stage.name == "loop":
                for before, after, first in zip(stage.carry, stage.carried, carry, strict=True):
                    shape = (steps + 1, batch, *before.shape[1:])
                    whole = None if after in part.given_away else workspace.wholes.get(after)
                    if whole is None:
                        whole = empty(shape, self.dtype)
                        if after not in part.given_away:
                            workspace.wholes[after] = whole
                    whole[steps if reverse else 0] = first
                    known[before], known[after] = (whole[1:], whole[:-1]) if reverse else (whole[:-1], whole[1:])
            self._run(part, _env(stage.forward.prologue, [fixed[x] for x in stage.fixed]), known)
            for value in part.compiled.body.stored:
                known[value] = part_view(part, value)
            if stage.name == "loop":
                last = [np.array(known[value][0 if reverse else -1]) for value in stage.carried]
        return last, self._ys(saved)

    def _ys(self, saved: Saved) -> list[Array]:
        """The outputs, each in its own memory, which later calls do not overwrite."""
        taken: set[slots.Slot] = set()
        ys = []
        for value in self.program.ys:
            array = saved.known[value]
            for part in saved.workspace.parts.values():
                location = part.compiled.locations.get(value)
                if location is not None and location.slot in part.made_anew and location.slot not in taken:
                    taken.add(location.slot)
                    break
            else:
                array = np.array(array)
            ys.append(array)
        return ys

    def backward(
        self, saved: Saved, d_carry: Sequence[Array | None], d_ys: Sequence[Array | None]
    ) -> tuple[list[Array], list[Array], list[Array | None], list[Array | None]]:
        """The cotangents of the parameters, the first carry, the inputs and the context."""
        program, workspace = self.program, saved.workspace
        steps, batch, reverse = workspace.steps, workspace.batch, workspace.reverse
        fixed = dict(zip(program.fixed, saved.fixed, strict=True))
        known = saved.known
        cotangent: dict[Value, Array] = {}
        for value, d in zip(program.ys, d_ys, strict=True):
            if d is not None:
                _collect(cotangent, value, self._rows(d))
        d_fixed: dict[Value, Array] = {}
        d_first: list[Array] = [np.zeros((batch, *x.shape[1:]), self.dtype) for x in program.carry]
        for number in reversed(range(len(program.stages))):
            stage = program.stages[number]
            back = stage.backward
            assert back is not None
            part = self._part(workspace, number, "backward")
            for value, seed in zip(stage.outputs, stage.d_outputs, strict=True):
                if seed is not None:
                    arrived = cotangent.pop(value, None)
                    if arrived is None:
                        # One row of zeros for all: code reads whole rows.
                        row = np.zeros(value.shape[1:], self.dtype)
                        arrived = np.broadcast_to(row, (*part.lead, *row.shape))
                    known[seed] = arrived
            first, end = (0, steps - 1) if reverse else (steps - 1, 0)
            if stage.name == "loop":
                for going, given in zip(part.compiled.going, d_carry, strict=True):
                    part.arrays[going][first & 1] = 0 if given is None else given
            env = _env(back.prologue, [fixed[x] for x in stage.fixed])
            self._run(part, env, known)
            if stage.name == "loop":
                d_first = [np.array(part.arrays[going][1 - (end & 1)]) for going in part.compiled.going]
            for x, where in part.compiled.results.items():
                if isinstance(where, slots.Slot):
                    total = part.arrays[where].sum(0)
                    _collect(cotangent, x, total if x.ndim == 2 else total[:, 0])
                elif part.compiled.locations[where].slot in part.made_anew or x not in self.given:
                    _collect(cotangent, x, part_view(part, where))
                else:  # copied, so that the next call does not overwrite the caller's array
                    _collect(cotangent, x, np.array(part_view(part, where)))
            epilogue = back.epilogue
            assert epilogue is not None
            sums = self._sums(part)
            needed = [_array(env[x]) for x in epilogue.inputs[len(sums) :]]
            results = iter(evaluate(epilogue, [*sums, *needed]))
            for x, there in zip(stage.fixed, stage.d_fixed, strict=True):
                if there:
                    _collect(d_fixed, x, next(results))
        given_fixed = [
            d_fixed[x] if x in d_fixed else np.zeros(x.shape, x.dtype) for x in program.fixed if x.dtype.kind == "f"
        ]
        assert program.d_prologue is not None
        found = evaluate(program.d_prologue, [*saved.params, *given_fixed])
        d_params = [
            np.zeros(p.shape, p.dtype) if isinstance(d, float) and p.shape else np.asarray(d, p.dtype)
            for d, p in zip(found, saved.params, strict=True)
        ]
        d_xs = [cotangent.get(x) for x in program.xs]
        return d_params, d_first, d_xs, []

    def _rows(self, x: Any) -> Array:
        if x.dtype.kind in "iu":
            return readable(x, np.int64)
        if x.dtype.kind != "b" and x.dtype.newbyteorder("=") != self.dtype:
            raise TypeError(f"an input has dtype {x.dtype}; expected {self.dtype}")
        return readable(x, self.dtype)

    def _part(self, workspace: Workspace, number: int, kind: str) -> _Part:
        """A body with its memory, allocated on first use."""
        part = workspace.parts.get((number, kind))
        if part is None:
            part = workspace.parts[number, kind] = self._lay_out(workspace, number, kind)
        return part

    def _lay_out(self, workspace: Workspace, number: int, kind: str) -> _Part:
        stage = self.program.stages[number]
        compiled = self._body(number, kind)
        loop = stage.name == "loop"
        if stage.name == "table":
            lead: tuple[int, ...] = (workspace.tables[self.source[stage.rows[0]]],)
        else:
            lead = (workspace.steps, workspace.batch)
        count = workspace.batch if loop else math.prod(lead)
        shards = self._shards(stage, count, workspace.steps)
        most = max(stop - start for start, stop in shards)
        most = most if loop else min(most, BLOCK)
        part = _Part(compiled, lead, shards)
        size = 1 + 3 * len(compiled.code.slots)
        part.arguments = [(ctypes.c_int64 * size)(self.products.gemm) for _ in shards]
        if kind == "backward":
            asked = [where for x, where in compiled.results.items() if x in self.given and isinstance(where, Value)]
        else:
            asked = [x for x in self.escaping if x in compiled.locations]
        escaping = {compiled.locations[x].slot for x in asked}
        part.given_away = {x for x in stage.carried if kind != "backward" and compiled.locations[x].slot in escaping}
        for slot in compiled.code.slots:
            value = slot.value
            array: Array | None = None
            if isinstance(slot, slots.Packed):
                assert value is not None
                array = empty((gemm.packed_size(self.products.tile, *value.shape),), self.dtype)
                array.fill(0)
                part.matrices.append((value, array))
            elif isinstance(slot, slots.Fixed):
                assert value is not None
                part.vectors.append((value, slot))
            elif isinstance(slot, slots.Scratch):
                array = empty((len(shards), most, slot.size), self.dtype)
            elif isinstance(slot, slots.Total):
                array = empty((len(shards), slot.size), self.dtype)
                part.zeroed.append(array)
            elif isinstance(slot, slots.Scattered):
                assert slot.indices is not None
                assert slot.indices.value is not None
                length = workspace.tables[self.of_indices[slot.indices.value]]
                array = empty((len(shards), length, slot.size), self.dtype)
                part.zeroed.append(array)
            elif isinstance(slot, slots.Going):
                continue
            elif isinstance(slot, slots.Coming):
                array = empty((2, workspace.batch, slot.size), self.dtype)
                array = array if value is not None and value.ndim == 2 else array[..., 0]
            elif (
                value in compiled.body.given
                or value in compiled.body.exclusive
                or isinstance(slot, slots.LookedUp | slots.Indices)
            ):
                part.later.append(slot)
            elif slot in escaping:
                part.fresh.append((slot, (*lead, slot.size)))
            else:
                array = empty((*lead, slot.size), self.dtype)
            if array is not None:
                self._point(part, slot, array)
        for going, coming in zip(compiled.going, compiled.coming, strict=True):
            self._point(part, going, part.arrays[coming])
        part.made_anew = {slot for slot, _ in part.fresh} | {compiled.locations[x].slot for x in part.given_away}
        backwards = workspace.reverse == (kind != "backward")
        for (start, stop), arguments in zip(shards, part.arguments, strict=True):
            if loop:
                numbers = (
                    workspace.steps - 1 if backwards else 0,
                    workspace.steps,
                    -1 if backwards else 1,
                    start,
                    stop,
                )
            else:
                numbers = (0, BLOCK, 0, start, stop)
            part.calls.append(functools.partial(compiled.run, ctypes.addressof(arguments), *numbers))
        return part

    def _point(self, part: _Part, slot: slots.Slot, array: Array) -> None:
        """Set the address and strides of a slot in the arguments of a part's code."""
        part.arrays[slot] = array
        start_of, size, strides = address(array), array.itemsize, array.strides
        at = 1 + 3 * slot.number
        if isinstance(slot, slots.Scratch | slots.Total | slots.Scattered):
            for shard, arguments in enumerate(part.arguments):
                arguments[at : at + 3] = (start_of + shard * strides[0], 0, slot.size)
            return
        if isinstance(slot, slots.Packed | slots.Fixed):
            words = (start_of, 0, 0)
        elif isinstance(slot, slots.LookedUp) or len(part.lead) == 1:
            words = (start_of, 0, strides[0] // size)
        elif part.compiled.body.loop:
            words = (start_of, strides[0] // size, strides[1] // size)
        else:
            words = (start_of, 0, _row_stride(array, 2))
        for arguments in part.arguments:
            arguments[at : at + 3] = words

    def _run(self, part: _Part, env: dict[Value, Any], known: dict[Value, Array]) -> None:
        """Set the arguments that change with every call, and run the code over all rows."""
        self._pack(part, env)
        for value, slot in part.vectors:
            self._point(part, slot, readable(_array(env[value]), self.dtype))
        for slot in part.later:
            self._point(part, slot, known[slot.value])  # type: ignore[index]
        for slot, shape in part.fresh:
            self._point(part, slot, empty(shape, self.dtype))
        for array in part.zeroed:
            array.fill(0)
        in_parallel(part.calls)

    def _pack(self, part: _Part, env: dict[Value, Any]) -> None:
        pack = self.products.pack
        tasks: list[Callable[[], Any]] = []
        alive: list[Array] = []  # until the tasks have run
        work = 0
        for value, packed in part.matrices:
            matrix = env[value]
            pieces = matrix.pieces if isinstance(matrix, _Pieces) else [(matrix, 0, 0)]
            for piece, row, col in pieces:
                piece = readable(piece, self.dtype, strided=True)
                alive.append(piece)
                k, n = piece.shape
                work += k * n
                row_stride, col_stride = piece.strides
                size = piece.itemsize
                tasks.append(
                    functools.partial(
                        pack, k, n, address(piece), row_stride // size, col_stride // size,
                        address(packed), matrix.shape[0], row, col,
                    )
                )  # fmt: skip
        workers = threads() if work > PACKED_ALONE else 1
        in_parallel([functools.partial(_one_after_another, tasks[i::workers]) for i in range(workers)])

    def _sums(self, part: _Part) -> list[Array]:
        """The sums over all rows, after the rows are computed."""
        sums: list[Array] = []
        tasks: list[list[Callable[[], Any]]] = [[] for _ in range(threads())]
        for total, left, right in part.compiled.totals:
            if left is None:
                whole = part.arrays[right].sum(0)
                whole = whole[None] if total.right.ndim == 2 else whole
                sums.append(np.sum(whole, **total.op.options))
            else:
                sums.append(self._outer(part, part_view(part, left), part_view(part, right), tasks))
        in_parallel([functools.partial(_one_after_another, some) for some in tasks if some])
        return sums

    def _outer(self, part: _Part, left: Array, right: Array, tasks: list[list[Callable[[], Any]]]) -> Array:
        """The sum over all rows of left transposed times right, once ``tasks`` have run."""
        m, n = left.shape[-1], right.shape[-1]
        count = math.prod(left.shape[:-1])
        out = empty((m, n), self.dtype)
        size = out.itemsize
        left_row, right_row = _row_stride(left, left.ndim - 1), _row_stride(right, right.ndim - 1)
        tile = self.products.tile
        workers = len(tasks) if m * n * count > 1_000_000 else 1
        share = -(-n // workers // tile.columns) * tile.columns
        addresses = [address(array) for array in (left, right, out)]
        for some, start in zip(tasks, range(0, n, share), strict=False):
            width = min(n, start + share) - start
            key = (start // share, len(some))  # the thread's number, and the task's index
            work = part.work.get(key)
            if work is None:
                work = part.work[key] = empty((gemm.outer_work(tile, m, width),), self.dtype)
            some.append(
                functools.partial(
                    self.products.outer, m, width, count, addresses[0], left_row,
                    addresses[1] + start * size, right_row, addresses[2] + start * size, n, 0, address(work),
                )
            )  # fmt: skip
        return out

    def _shards(self, stage: Stage, count: int, steps: int) -> list[tuple[int, int]]:
        """Ranges of rows, one per thread; a single one if there is little work."""
        work = sum(math.prod(op.values[1].shape) for op in stage.forward.ops if op.name == "matmul") or 1000
        workers = threads() if work * count * (steps if stage.name == "loop" else 1) > 2_000_000 else 1
        height = self.products.tile.rows
        share = max(1, round(count / workers / height)) * height if count >= height * workers else -(-count // workers)
        bounds = [min(i * share, count) for i in range(workers)] + [count]
        return [(a, b) for a, b in itertools.pairwise(bounds) if b > a]


def part_view(part: _Part, value: Value) -> Array:
    """The array of a value in a part's memory."""
    location = part.compiled.locations[value]
    return location.view(part.arrays[location.slot], len(part.lead), value.shape[1:])


def _collect(into: dict[Value, Array], value: Value, d: Array) -> None:
    into[value] = into[value] + d if value in into else d


def _array(x: Any) -> Any:
    return x.array() if isinstance(x, _Pieces) else x


def _one_after_another(tasks: Sequence[Callable[[], Any]]) -> None:
    for task in tasks:
        task()
