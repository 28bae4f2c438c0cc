"""Run a planned step as machine code: fused kernels, own matrix products, shards of the batch on threads.

Arrays are batch-major: rows one after another. ``program.py`` decides the operations, ``compiled_code.py`` turns them
into code.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np

from minigrad.compiled import gemm, jit
from minigrad.compiled.memory import Growing, address, empty, readable
from minigrad.compiled.parallel import in_parallel, threads
from minigrad.compiled.rows import ALIASES
from minigrad.compiled.slots import WORDS, Extent, Slot
from minigrad.graph import Graph, Op, Value, apply, evaluate, row_size
from minigrad.scan.compiled_code import Backward, Code, Forward, Inputs, function
from minigrad.scan.lookup import Lookup, checked_indices
from minigrad.scan.program import Program, multiplications
from minigrad.tensor import Array

BLOCK = 64
"""Rows per block in a stage that does not run step by step, so that intermediate values stay in the cache."""

WORTH_SHARING = 2_000_000
"""Multiplications, or elements, of a stage above which threads share its rows."""

IDLE = 8
"""Maximum number of idle workspaces; there are several only if several calls have waited for their backward pass."""

PACKED_ALONE = 100_000
"""Numbers that one thread packs before a second would have started."""


class Products:
    """The library of matrix products for one float dtype."""

    def __init__(self, dtype: str) -> None:
        self.tile = gemm.host_tile(dtype)
        self.library = jit.compile_ir(gemm.ir(self.tile))
        suffix = self.tile.suffix
        self.gemm = self.library.address(f"gemm_{suffix}")
        self.pack = function(self.library, f"pack_{suffix}", "qqPqqPqqq")
        self.outer = function(self.library, f"outer_{suffix}", "qqqPqPqPqiP")


@functools.cache
def _products(dtype: str) -> Products:
    return Products(dtype)


class Sizes(NamedTuple):
    """The sizes of one call.

    Attributes:
        steps: T.
        batch: B.
        reverse: whether the loop runs from the last step to the first.
        tables: the length of each table that inputs are looked up in.
    """

    steps: int
    batch: int
    reverse: bool
    tables: tuple[int, ...]


class Workspace:
    """The memory and the arguments of all codes, for one call at a time; calls may have any sizes."""

    def __init__(self, products: Products) -> None:
        self.products, self.sizes = products, Sizes(0, 0, False, ())
        self._parts: dict[Code, Part] = {}

    def part(self, code: Code) -> Part:
        """A code with its memory."""
        if code not in self._parts:
            self._parts[code] = Part(code, self.products)
        part = self._parts[code]
        if part.sizes != self.sizes:
            part.lay_out(self.sizes)
        return part


class Saved:
    """What the backward pass needs from a forward pass.

    Attributes:
        workspace: the memory of the call.
        known: arrays by value, for all steps.
        arrays: the arrays of the forward codes' slots, by stage; a stepper, which calls the codes again, needs them.
        fixed: the values of ``Program.fixed``.
        params: as for ``Executor.forward``.
        home: the list that the workspace is added to when this is deleted; None for none.
    """

    def __init__(self, workspace: Workspace, home: list[Workspace] | None = None) -> None:
        self.workspace, self.home = workspace, home
        self.known: dict[Value, Any] = {}
        self.arrays: list[dict[Slot, Array]] = []
        self.fixed: list[Any] = []
        self.params: Sequence[Array] = ()

    def __del__(self) -> None:
        if self.home is not None:
            self.home.append(self.workspace)
            del self.home[:-IDLE]


class Part:
    """A code with its memory, which only grows, and its arguments, which are set anew for calls of other sizes.

    Attributes:
        code: the code.
        sizes: those of the last call.
        packed: the packed matrices, by value.
        arguments: the arguments of the code, for each thread.
        calls: the calls of the code, one for each thread.
        blocks: the memory of each cotangent of a carry, (2, B, ...): at step t that of the outgoing carry is in the
            block t % 2, and that of the incoming one in the other.
    """

    def __init__(self, code: Code, products: Products) -> None:
        self.code, self.products = code, products
        self.dtype = code.inputs.dtype
        self.sizes: Sizes | None = None
        # Memory from np.zeros begins within a cache line, so every vector of a panel would lie on two lines.
        self.packed = {x: empty((gemm.packed_size(products.tile, *x.shape),), self.dtype) for x in code.body.packed}
        for packed in self.packed.values():
            packed.fill(0)  # pieces of a matrix may leave gaps
        self.arguments: list[ctypes.Array[ctypes.c_int64]] = []
        self.calls: list[functools.partial[None]] = []
        self.blocks: list[Array] = []
        self._memory: dict[Any, Growing] = defaultdict(Growing)
        self._own: dict[Slot, Array] = {}

    def lay_out(self, sizes: Sizes) -> None:
        """Prepare for calls of these sizes."""
        self.sizes = None  # until all is done
        self._own, self.blocks = {}, []  # so that memory which is too small is freed
        code, stage = self.code, self.code.stage
        tables = dict(zip(code.inputs.indices, sizes.tables, strict=True))
        lead: tuple[int, ...] = (sizes.steps, sizes.batch)
        if stage.name == "table":
            lead = (tables[code.inputs.source[stage.rows[0]]],)
        elif stage.name == "context":
            lead = (sizes.batch,)
        shards = self._shards(sizes.batch if stage.by_step else math.prod(lead), sizes.steps)
        most = max(stop - start for start, stop in shards)
        lengths = {code.inputs.indices[x]: length for x, length in tables.items()}
        block = most if stage.by_step else min(most, BLOCK)
        self._extent = Extent(lead, sizes.batch, len(shards), block, lengths)
        self.arguments = [(ctypes.c_int64 * code.arguments)(self.products.gemm) for _ in shards]
        for x, slot in code.body.packed.items():
            self._point(slot, self.packed[x], 0)
        for slot in code.own:
            self._own[slot] = array = self._memory[slot].array(slot.shape(self._extent), self.dtype)
            self._point(slot, array, array.ndim - 1)
        for seed, coming, going in code.moving:
            self._own[going] = array = self._own[coming]
            self._point(going, array, array.ndim - 1)
            self.blocks.append(array.reshape(2, sizes.batch, *seed.shape[1:]))
        order = (0, BLOCK, 0)
        if stage.by_step:
            backwards = sizes.reverse == isinstance(code, Forward)
            order = (sizes.steps - 1, sizes.steps, -1) if backwards else (0, sizes.steps, 1)
        self.calls = [
            functools.partial(code.run, ctypes.addressof(arguments), *order, *rows)
            for rows, arguments in zip(shards, self.arguments, strict=True)
        ]
        self.sizes = sizes

    def _shards(self, count: int, steps: int) -> list[tuple[int, int]]:
        """Ranges of rows, one per thread; a single one if there is little work."""
        ops = self.code.stage.forward.ops
        products = sum(multiplications(op) for op in ops if op.name == "matmul")
        work = max(products, sum(row_size(op.output) for op in ops if op.name not in ALIASES))
        workers = threads() if work * count * (steps if self.code.stage.by_step else 1) > WORTH_SHARING else 1
        height = self.products.tile.rows
        share = max(1, round(count / workers / height)) * height if count >= height * workers else -(-count // workers)
        bounds = [min(i * share, count) for i in range(workers)] + [count]
        return [(a, b) for a, b in itertools.pairwise(bounds) if b > a]

    def _point(self, slot: Slot, array: Array, leading: int) -> None:
        """Set the address and the distances of a slot; before the axes of a row its array has ``leading`` axes."""
        start, size, strides = address(array), array.itemsize, array.strides
        between, step, row = 0, 0, 0
        if slot.per_shard:
            between, row = strides[0], slot.size
        elif leading == 1:
            row = strides[0] // size
        elif leading == 2 and self.code.stage.by_step:
            step, row = strides[0] // size, strides[1] // size
        elif leading == 2:  # all rows at one distance; the stride of an axis of one may be anything
            row = strides[0 if array.shape[1] == 1 else 1] // size
        at = 1 + WORDS * slot.number
        for shard, arguments in enumerate(self.arguments):
            arguments[at : at + WORDS] = [start + shard * between, step, row]

    def carry(self, value: Value) -> Array:
        """Memory for a carry before and after every step, (T + 1, B, ...)."""
        lead = self._extent.lead
        shape = (lead[0] + 1, *lead[1:], *value.shape[1:])
        away = self.code.locations[value].slot in self.code.away
        return empty(shape, self.dtype) if away else self._memory[value].array(shape, self.dtype)

    def run(self, env: Mapping[Value, Any], known: Mapping[Value, Array]) -> dict[Slot, Array]:
        """Run the code over all rows; the arrays of its slots.

        Args:
            env: values equal for all rows.
            known: other values that the code reads or writes.
        """
        code, arrays = self.code, dict(self._own)
        self._pack(env)
        for x, slot in code.body.fixed.items():
            arrays[slot] = array = readable(_array(env[x]), self.dtype)
            self._point(slot, array, 0)
        for slot, x in code.given.items():
            arrays[slot] = array = known[x]
            self._point(slot, array, array.ndim - x.ndim + 1)
        for slot in code.fresh:
            arrays[slot] = array = empty(slot.shape(self._extent), self.dtype)
            self._point(slot, array, array.ndim - 1)
        for slot in code.zeroed:
            arrays[slot].fill(0)
        in_parallel(self.calls)
        return arrays

    def _pack(self, env: Mapping[Value, Any]) -> None:
        tasks: list[Callable[[], Any]] = []
        alive: list[Array] = []  # until the tasks have run
        for value, packed in self.packed.items():
            matrix = env[value]
            for given, *at in matrix.pieces if isinstance(matrix, _Pieces) else [(matrix, 0, 0)]:
                piece = readable(given, self.dtype, strided=True)
                alive.append(piece)
                size, (down, right) = piece.itemsize, piece.strides
                whole = address(packed), matrix.shape[0], *at
                tasks.append(
                    functools.partial(
                        self.products.pack, *piece.shape, address(piece), down // size, right // size, *whole
                    )
                )
        workers = threads() if sum(piece.size for piece in alive) > PACKED_ALONE else 1
        in_parallel([functools.partial(_one_after_another, tasks[i::workers]) for i in range(workers)])

    def view(self, arrays: Mapping[Slot, Array], value: Value) -> Array:
        """The array of a value that ``run`` has stored, or was given."""
        location = self.code.locations[value]
        array, given = arrays[location.slot], self.code.given.get(location.slot)
        leading = array.ndim - 1 if given is None else array.ndim - given.ndim + 1
        return location.view(array, leading, value.shape[1:])

    def sums(self, arrays: Mapping[Slot, Array]) -> list[Array]:
        """The sums over all rows, once ``run`` has computed these."""
        sums: list[Array] = []
        tasks: list[list[Callable[[], Any]]] = [[] for _ in range(threads())]
        alive: list[Array] = []  # until the tasks have run
        for total, left, right in self.code.totals:
            if left is None:
                row = arrays[right].sum(0)
                if total.left is None:
                    row = np.sum(row.reshape(1, *total.right.shape[1:]), **total.op.options)
                sums.append(row.reshape(total.op.output.shape))
            else:
                alive += (of_left := self._rows(arrays, left), of_right := self._rows(arrays, right))
                sums.append(self._outer(of_left, of_right, tasks))
        in_parallel([functools.partial(_one_after_another, some) for some in tasks if some])
        return sums

    def _rows(self, arrays: Mapping[Slot, Array], value: Value) -> Array:
        """A value as a matrix, whose columns are its last axis."""
        array, lead = self.view(arrays, value), self._extent.lead
        if array.ndim < len(lead) + value.ndim - 1:  # it has one row per sequence
            array = np.broadcast_to(array, lead + array.shape[1:])
        matrix = array.reshape(-1, value.shape[-1])
        return matrix if matrix.strides[1] == matrix.itemsize else matrix.copy()

    def _outer(self, left: Array, right: Array, tasks: list[list[Callable[[], Any]]]) -> Array:
        """Left transposed times right, once ``tasks`` have run."""
        (count, m), n = left.shape, right.shape[1]
        out = empty((m, n), self.dtype)
        size, tile = out.itemsize, self.products.tile
        workers = len(tasks) if m * n * count > 1_000_000 else 1
        share = -(-n // workers // tile.columns) * tile.columns
        for some, start in zip(tasks, range(0, n, share), strict=False):
            width = min(n, start + share) - start
            key = (start // share, len(some))  # the thread's number, and the task's index
            work = self._memory[key].array((gemm.outer_work(tile, m),), self.dtype)
            some.append(
                functools.partial(
                    self.products.outer, m, width, count, address(left), left.strides[0] // size,
                    address(right) + start * size, right.strides[0] // size, address(out) + start * size, n, 0,
                    address(work),
                )
            )  # fmt: skip
        return out


class _Pieces(NamedTuple):
    """A matrix that is assembled only when it is packed.

    Attributes:
        shape: of the whole.
        dtype: of its elements.
        pieces: arrays, each with its first row and column.
    """

    shape: tuple[int, ...]
    dtype: Any
    pieces: list[tuple[Array, int, int]]


def _array(x: Any) -> Any:
    """An array; a matrix in pieces is assembled."""
    if not isinstance(x, _Pieces):
        return x
    out: Array = np.empty(x.shape, x.dtype)
    for piece, row, col in x.pieces:
        out[row : row + piece.shape[0], col : col + piece.shape[1]] = piece
    return out


def _apply(op: Op, args: Sequence[Any]) -> Any:
    """As ``graph.apply``, but matrices that are only concatenated and transposed stay in pieces."""
    pieces: list[tuple[Array, int, int]] = []
    if op.name == "concatenate" and op.options["axis"] == 1 and op.output.ndim == 2:
        column = 0
        for arg in args:
            inner = arg.pieces if isinstance(arg, _Pieces) else [(arg, 0, 0)]
            pieces += [(piece, row, col + column) for piece, row, col in inner]
            column += arg.shape[1]
    elif op.name == "transpose" and isinstance(args[0], _Pieces):
        pieces = [(piece.T, col, row) for piece, row, col in args[0].pieces]
    else:
        return apply(op, [_array(arg) for arg in args])
    return _Pieces(op.output.shape, op.output.dtype, pieces)


def _env(prologue: Graph, arrays: Sequence[Any]) -> dict[Value, Any]:
    """A prologue's outputs by value."""
    found = evaluate(prologue, arrays, _apply)
    return {value: array for value, array in zip(prologue.outputs, found, strict=True) if isinstance(value, Value)}


class Executor:
    """A program compiled to machine code.

    Args:
        program: the planner's result.

    Raises:
        TraceError: an operation has no kernel.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.inputs = Inputs(program)
        self.dtype = self.inputs.dtype
        self.products = _products(self.dtype.name)
        self.idle: list[Workspace] = []
        self.forwards = [
            Forward(self.inputs, stage, f"s{i}_forward", program.ys) for i, stage in enumerate(program.stages)
        ]
        self.backwards = [
            Backward(self.inputs, stage, stage.backward, f"s{i}_backward")
            for i, stage in enumerate(program.stages)
            if stage.backward is not None
        ]
        taken: set[Slot] = set()
        self._copied: list[bool] = []  # whether an output lies in memory that is not its own
        for y in program.ys:
            slots = {code.locations[y].slot for code in self.forwards if y in code.locations}
            slots = {slot for code in self.forwards for slot in slots & code.away} - taken
            taken |= slots
            self._copied.append(not slots)

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
        """Run all steps; see ``plans.Executor``."""
        program = self.program
        sizes = Sizes(steps, batch, reverse, tuple(len(x.table) for x in xs if isinstance(x, Lookup)))
        saved = Saved(self._workspace(sizes), None if "plan" in program.without else self.idle)
        saved.workspace.sizes, known = sizes, saved.known
        saved.params, saved.fixed = params, evaluate(program.prologue, params, _apply)
        fixed = dict(zip(program.fixed, saved.fixed, strict=True))
        for value, x in zip((*program.xs, *program.context), (*xs, *context), strict=True):
            if isinstance(x, Lookup):
                known[value] = self._rows(x.table)
                known[self.inputs.indices[value]] = checked_indices(x.indices, len(x.table))
            elif value in self.inputs.limits:
                known[value] = checked_indices(x, self.inputs.limits[value])
            else:
                known[value] = self._rows(x)
        last: list[Array] = []
        for code in self.forwards:
            stage, part = code.stage, saved.workspace.part(code)
            for before, after, first in zip(stage.carry, stage.carried, carry, strict=False):
                whole = part.carry(after)
                whole[steps if reverse else 0] = first
                known[before], known[after] = whole[:-1], whole[1:]
                if reverse:
                    known[before], known[after] = known[after], known[before]
            arrays = part.run(_env(stage.forward.prologue, [fixed[x] for x in stage.fixed]), known)
            for value in code.body.stored:
                known[value] = part.view(arrays, value)
            last += [np.array(known[value][0 if reverse else -1]) for value in stage.carried]
            saved.arrays.append(arrays)
        ys = [np.array(known[y]) if copy else known[y] for y, copy in zip(program.ys, self._copied, strict=True)]
        return last, ys, saved if keep else None

    def _workspace(self, sizes: Sizes) -> Workspace:
        """An idle workspace, if possible one whose last call had these sizes; or a new one."""
        for workspace in list(self.idle):
            if workspace.sizes == sizes:
                with suppress(ValueError):  # another thread may just have taken it
                    self.idle.remove(workspace)
                    return workspace
        with suppress(IndexError):
            return self.idle.pop()
        return Workspace(self.products)

    def release(self) -> None:
        """Free the memory of all idle workspaces."""
        self.idle.clear()

    def backward(
        self, saved: Saved, d_carry: Sequence[Array | None], d_ys: Sequence[Array | None]
    ) -> tuple[list[Array], list[Array], list[Array | None], list[Array | None]]:
        """Run all steps backwards; see ``plans.Executor``."""
        program, known, sizes = self.program, saved.known, saved.workspace.sizes
        fixed = dict(zip(program.fixed, saved.fixed, strict=True))
        cotangent: dict[Value, Array] = {}
        for value, d in zip(program.ys, d_ys, strict=True):
            if d is not None:
                _collect(cotangent, value, self._rows(d))
        d_fixed: dict[Value, Array] = {}
        d_first: list[Array] = []
        first, end = (0, sizes.steps - 1) if sizes.reverse else (sizes.steps - 1, 0)
        for code in reversed(self.backwards):
            stage, back, part = code.stage, code.back, saved.workspace.part(code)
            for value, seed in zip(stage.outputs, stage.d_outputs, strict=True):
                if seed is not None:
                    arrived = cotangent.pop(value, None)
                    if arrived is None:  # one row of zeros for all, since code reads whole rows
                        arrived = np.broadcast_to(np.zeros(value.shape[1:], self.dtype), known[value].shape)
                    known[seed] = arrived
            for block, d in zip(part.blocks, d_carry if stage.carry else (), strict=True):
                block[first & 1] = 0 if d is None else d
            env = _env(back.prologue, [fixed[x] for x in stage.fixed])
            arrays = part.run(env, known)
            d_first += [np.array(block[1 - (end & 1)]) for block in part.blocks]
            for x, where in code.results.items():
                if isinstance(where, Value):
                    d = part.view(arrays, where)
                    slot = code.locations[where].slot
                else:
                    d = arrays[where].sum(0) if where.per_shard else arrays[where]
                    d, slot = d.reshape(-1, *x.shape[1:]), where
                # What lies in memory that is reused is copied before the caller gets it.
                _collect(cotangent, x, d if slot in code.away or x not in self.inputs.given else np.array(d))
            assert back.epilogue is not None
            sums = part.sums(arrays)
            needed = [_array(env[x]) for x in back.epilogue.inputs[len(sums) :]]
            results = iter(evaluate(back.epilogue, [*sums, *needed]))
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
        return d_params, d_first, [cotangent.get(x) for x in program.xs], [cotangent.get(x) for x in program.context]

    def _rows(self, x: Any) -> Array:
        if x.dtype.kind in "iu":
            return readable(x, np.int64)
        if x.dtype.kind != "b" and x.dtype.newbyteorder("=") != self.dtype:
            raise TypeError(f"an input has dtype {x.dtype}; expected {self.dtype}")
        return readable(x, self.dtype)


def _collect(into: dict[Value, Array], value: Value, d: Array) -> None:
    into[value] = into[value] + d if value in into else d


def _one_after_another(tasks: Sequence[Callable[[], Any]]) -> None:
    for task in tasks:
        task()
