"""The NumPy backend's instructions for a program, on slots of buffers that are allocated later.

A slot is a range of rows of a buffer, since values are feature-major. ``numpy_backend.py`` allocates the
arrays.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from minigrad.graph import Op, Operand, Value, columns_of, key_of, width_of
from minigrad.scan.program import Body, Program, Stage
from minigrad.tensor import Array

Call: TypeAlias = Callable[[], Any]


# --- operations -------------------------------------------------------------------------------------------------------

_INNER = ("sigmoid", "relu", "softplus", "clip")
"""Elementwise operations that are not ufuncs, and may overwrite an operand."""


def _ufunc(name: str) -> np.ufunc | None:
    found = getattr(np, "absolute" if name == "abs" else name, None)
    return found if isinstance(found, np.ufunc) and name != "matmul" else None


def _is_map(name: str) -> bool:
    """Whether an operation is elementwise, and may overwrite an operand."""
    return name in _INNER or _ufunc(name) is not None


def calls_of(
    name: str, args: Sequence[Any], out: Array, options: Mapping[str, Any], spare: Callable[..., Array]
) -> list[Call]:
    """The NumPy calls for one operation on feature-major arrays.

    ``spare(out)`` returns memory of the shape and dtype of ``out`` for the duration of the operation, ``spare(out,
    40)`` a shared array filled with this number.
    """
    ufunc = _ufunc(name)
    if ufunc is not None:
        return [partial(ufunc, *args, out=out)]
    x = args[0]
    match name:
        case "matmul":
            return [partial(np.matmul, args[1], x, out=out)]
        case "sigmoid":
            # As in the primitive. The bound is an array, because NumPy is three times slower with a number.
            e, bound = spare(out), spare(out, 40)
            power = [partial(np.minimum, x, bound, out=e), partial(np.exp, e, out=e)]
            return [*power, partial(np.add, e, 1, out=out), partial(np.divide, e, out, out=out)]
        case "relu":
            return [partial(np.maximum, x, 0, out=out)]
        case "softplus":
            return [partial(np.logaddexp, x, 0, out=out)]
        case "clip" if options["a_min"] is not None or options["a_max"] is not None:
            bounds = [x if x is None or np.ndim(x) == 0 else np.reshape(x, (-1, 1)) for x in options.values()]
            return [partial(np.clip, x, *bounds, out=out)]
        case "where":
            chosen, a, b = args
            return [partial(np.copyto, out, b), partial(_copy_where, out, a, chosen)]
        case "sum" | "max":
            reduce = np.add.reduce if name == "sum" else np.maximum.reduce
            return [partial(reduce, x, axis=-2, out=out, keepdims=options["keepdims"])]
        case "pick":
            return [partial(_pick, x, args[1], out)]
        case "place":
            return [partial(_place, x, args[1], out)]
    return [partial(np.copyto, out, x)]


def _copy_where(out: Array, a: Any, chosen: Any) -> None:
    np.copyto(out, a, where=np.not_equal(chosen, 0))


def _pick(x: Array, indices: Array, out: Array) -> None:
    np.copyto(out, np.take_along_axis(x, indices.astype(np.intp)[..., None, :], -2)[..., 0, :])


def _place(x: Array, indices: Array, out: Array) -> None:
    out.fill(0)
    np.put_along_axis(out, indices.astype(np.intp)[..., None, :], x[..., None, :], -2)


# --- where values lie -------------------------------------------------------------------------------------------------


class Buffer(NamedTuple):
    """An array to be allocated when T and B are known.

    Attributes:
        kind: ``history`` (T, rows, B); ``carry`` (T + 1, rows, B); ``turns`` (2, rows, B), of which one is read while
            the other is written; ``scratch`` (block, rows, B); ``matrix`` (rows, columns); ``column`` (rows, B),
            a repeated column, as NumPy is slow with few elements per row; ``scalar`` ().
        rows: see ``kind``.
        dtype: of the elements.
        table: the number of the input whose table's V rows replace B, with T = 1; None for a sequence.
        columns: of a matrix.
        onehot: the number of the input whose V one-hot rows (of a matrix: columns) follow; None where none do.
    """

    kind: Literal["history", "carry", "turns", "scratch", "matrix", "column", "scalar"]
    rows: int
    dtype: Any
    table: int | None = None
    columns: int = 0
    onehot: int | None = None


class Slot(NamedTuple):
    """A range of rows of a buffer; of a carry or turns, ``after`` selects the value after a step, not before it."""

    buffer: int
    row: int
    rows: int
    after: bool = False

    def part(self, start: int, rows: int) -> Slot:
        """A part of its rows."""
        return self._replace(row=self.row + start, rows=rows)

    def next_to(self, other: Slot) -> bool:
        """Whether the other one follows directly."""
        return other == self._replace(row=self.row + self.rows, rows=other.rows)

    def grown(self, other: Slot) -> Slot:
        """Extended by the rows of the following one."""
        return self._replace(rows=self.rows + other.rows)

    def contains(self, other: Slot) -> bool:
        """Whether all rows of the other one are rows of this one."""
        return self.meets(other) and self.row <= other.row and other.row + other.rows <= self.row + self.rows

    def meets(self, other: Slot) -> bool:
        """Whether a row belongs to both."""
        same = (self.buffer, self.after) == (other.buffer, other.after)
        return same and self.row < other.row + other.rows and other.row < self.row + self.rows


class Arg(NamedTuple):
    """An operand of an instruction: a slot and its kind, or a number.

    ``rows`` comes with ``ndim``, that of the value in the step: one axis there is one here, (B,). ``whole`` is all
    rows of the slot's buffer, including the one-hot ones.
    """

    kind: Literal["rows", "row", "whole", "fixed", "number"]
    slot: Slot | None = None
    number: Any = None
    ndim: int = 2


class _Instruction(NamedTuple):
    """An operation on slots."""

    name: str
    args: tuple[Arg, ...]
    out: Arg
    options: Mapping[str, Any]

    def joined(self, other: _Instruction) -> _Instruction | None:
        """One instruction for both, if their operands are adjacent; otherwise None."""
        if (
            self.name != other.name
            or self.out.ndim != 2
            or not _is_map(self.name)
            or key_of(dict(self.options)) != key_of(dict(other.options))
        ):
            return None
        for first, second in ((self, other), (other, self)):
            pairs = list(zip((*first.args, first.out), (*second.args, second.out), strict=True))
            if all(a.kind == b.kind and (_follows(a, b) or (a == b and _spreads(a))) for a, b in pairs):
                args = [_grown(a, b) for a, b in pairs]
                return self._replace(args=tuple(args[:-1]), out=args[-1])
        return None

    def hinders(self, other: _Instruction) -> bool:
        """Whether a later instruction must stay after this one."""
        mine, theirs = self.out.slot, other.out.slot
        assert mine is not None
        assert theirs is not None
        read = any(arg.slot is not None and arg.slot.meets(mine) for arg in other.args)
        overwritten = any(arg.slot is not None and arg.slot.meets(theirs) for arg in self.args)
        return read or overwritten or mine.meets(theirs)


def _follows(a: Arg, b: Arg) -> bool:
    # A fixed scalar has its own buffer, so only columns can be adjacent.
    return a.slot is not None and b.slot is not None and a.kind in ("rows", "fixed") and a.slot.next_to(b.slot)


def _spreads(a: Arg) -> bool:
    """Whether an operand broadcasts to any number of rows."""
    return a.slot is None or (a.kind != "rows" and a.slot.rows == 1)


def _grown(a: Arg, b: Arg) -> Arg:
    if a == b or a.slot is None or b.slot is None:
        return a
    return a._replace(slot=a.slot.grown(b.slot))


def _merge(instructions: list[_Instruction]) -> list[_Instruction]:
    """Merge instructions of one name on adjacent slots, if no instruction between them depends on the order."""
    merged: list[_Instruction | None] = []  # None: moved to the end
    beside: dict[Any, list[int]] = {}  # by name and slot: those whose result ends or begins there

    def add(op: _Instruction, at: int) -> None:
        slot = op.out.slot
        if slot is not None and op.out.ndim == 2 and _is_map(op.name):
            for edge in (("end", slot.row + slot.rows), ("start", slot.row)):
                beside.setdefault((op.name, slot.buffer, slot.after, edge), []).append(at)

    for late in instructions:
        slot = late.out.slot
        assert slot is not None
        edges = ("end", slot.row), ("start", slot.row + slot.rows)
        found = {at for edge in edges for at in beside.get((late.name, slot.buffer, slot.after, edge), ())}
        clear = len(merged)  # from here on the later one can move freely
        for at in sorted(found, reverse=True):
            early = merged[at]
            both = early.joined(late) if early is not None else None
            if early is None or both is None or early.hinders(late):
                continue
            while clear > at + 1 and not _hinder(merged[clear - 1], late):
                clear -= 1
            if clear == at + 1:
                merged[at] = both
                add(both, at)
                break
            if not any(_hinder(early, other) for other in itertools.islice(merged, at + 1, None)):
                merged[at] = None
                add(both, len(merged))
                merged.append(both)
                break
        else:
            add(late, len(merged))
            merged.append(late)
    return [op for op in merged if op is not None]


def _hinder(one: _Instruction | None, other: _Instruction | None) -> bool:
    return one is not None and other is not None and one.hinders(other)


class Fold(NamedTuple):
    """A product that takes the step's token as one-hot columns, instead of adding what was looked up.

    Attributes:
        product: the product.
        lookup: the number of the input.
        parts: what would be added to its columns, in order: slots in the table's buffers.
        sums: the additions, and the value that each now equals.
    """

    product: Op
    lookup: int
    parts: list[Value]
    sums: dict[Value, Value]


class Code(NamedTuple):
    """A body's instructions, to be bound to arrays.

    Attributes:
        instructions: in order.
        fixed: the slots of fixed values.
        folds: products that take a token, each with its matrix and its operand.
    """

    instructions: list[_Instruction]
    fixed: list[tuple[Value, Slot]]
    folds: list[tuple[Fold, Slot, Slot]]


class _Compiler:
    """Assigns slots to the values of one body, and generates its instructions."""

    def __init__(
        self,
        buffers: list[Buffer],
        body: Body,
        seen: Callable[[Value], Slot | None],
        table: int | None,
        folds: Sequence[Fold] = (),
    ) -> None:
        self.buffers, self.ops, self.seen, self.table, self.folds = buffers, body.ops, seen, table, folds
        self.is_fixed = {x for x in body.prologue.outputs if isinstance(x, Value)}
        self.makers = {op.output: op for op in self.ops}
        self.users: dict[Value, list[Op]] = {}
        for op in self.ops:
            for x in op.values:
                self.users.setdefault(x, []).append(op)
        self.views = self._find_views()
        self.slots: dict[Value, Slot] = {}
        self.fixed: dict[Any, Slot] = {}  # by value and use: elementwise, as a matrix, or folded
        self.columns: dict[Any, int] = {}
        self.folded: list[tuple[Fold, Slot, Slot]] = []
        self.instructions: list[_Instruction] = []

    def _find_views(self) -> dict[Value, tuple[Value, int]]:
        """Values that are rows of another one, and their first rows."""
        views = {value: (part, 0) for fold in self.folds for value, part in fold.sums.items()}
        for op in self.ops:
            columns = columns_of(op) if op.name == "getitem" else None
            if columns is not None:
                views[op.output] = op.values[0], columns[0]
            elif op.name in ("alias", "reshape"):
                views[op.output] = op.values[0], 0
        return views

    def root(self, value: Value) -> Value:
        """The value that a value is a view of."""
        while value in self.views:
            value = self.views[value][0]
        return value

    def buffer(self, kind: Any, rows: int, dtype: Any, **options: Any) -> int:
        """A new buffer."""
        self.buffers.append(Buffer(kind, rows, dtype, self.table, **options))
        return len(self.buffers) - 1

    def claim(self, value: Value, slot: Slot) -> bool:
        """Assign a slot to a value; false if it has one already, so that it must be copied."""
        if value not in self.makers or value in self.views or value in self.slots:
            return False
        self.slots[value] = slot
        return True

    def keep(self, values: Iterable[Value], onehot: Mapping[Value, int]) -> None:
        """Assign slots that are stored for every step."""
        roots = dict.fromkeys(r for r in map(self.root, values) if r in self.makers and r not in self.slots)
        self._join(op for op in self.ops if op.name == "concatenate" and op.output in roots)
        grouped: dict[Any, list[Value]] = {}
        for op in self.ops:
            value = op.output
            if value in roots and value not in self.slots:
                if value in onehot:
                    buffer = self.buffer("history", width_of(value), value.dtype, onehot=onehot[value])
                    self.slots[value] = Slot(buffer, 0, width_of(value))
                else:
                    grouped.setdefault(value.dtype, []).append(value)
        for dtype, group in grouped.items():
            buffer, row = self.buffer("history", sum(map(width_of, group)), dtype), 0
            for value in group:
                self.slots[value] = Slot(buffer, row, width_of(value))
                row += width_of(value)

    def _join(self, joining: Iterable[Op], kind: str = "history") -> None:
        """Assign slots to concatenations, and compute their parts there."""
        for op in reversed(list(joining)):
            if op.output not in self.slots:
                whole = self._adjacent(op)
                if whole is not None:
                    self.slots[op.output] = whole
                    continue
                buffer = self.buffer(kind, width_of(op.output), op.output.dtype)
                self.slots[op.output] = Slot(buffer, 0, width_of(op.output))
            start = 0
            for part in op.values:
                self.claim(part, self.slots[op.output].part(start, width_of(part)))
                start += width_of(part)

    def _adjacent(self, op: Op) -> Slot | None:
        """The slot of a concatenation whose parts are already adjacent."""
        slots = [self.seen(self.root(x)) if x not in self.views else None for x in op.values]
        whole = slots[0]
        for slot in slots[1:]:
            if whole is None or slot is None or not whole.next_to(slot):
                return None
            whole = whole.grown(slot)
        return whole

    def _chain(self) -> None:
        """Assign the slot of a value to operands that only it uses.

        A second such operand gets a slot in a twin of the buffer, so that mergeable calls stay mergeable.
        """
        twins: dict[int, int] = {}
        taken: list[Slot] = []
        for op in reversed(self.ops):
            slot = self.slots.get(op.output)
            if slot is None or op.output in self.views or not _is_map(op.name):
                continue
            free = [x for x in dict.fromkeys(op.values) if self._is_step_to(x, op)]
            if free:
                self.slots[free[0]] = slot
            for x in free[1:]:
                if slot.buffer not in twins:
                    old = self.buffers[slot.buffer]
                    twins[slot.buffer] = self.buffer("scratch", old.rows, old.dtype)
                twin = Slot(twins[slot.buffer], slot.row, slot.rows)
                if not any(twin.meets(other) for other in taken):
                    taken.append(twin)
                    self.slots[x] = twin

    def _is_step_to(self, x: Value, op: Op) -> bool:
        made = x in self.makers and x not in self.views and x not in self.slots
        return made and self.users[x] == [op] and (x.shape, x.dtype) == (op.output.shape, op.output.dtype)

    def compile(self, finish: Sequence[tuple[Operand, Slot]] = ()) -> Code:
        """Assign the remaining slots and generate the instructions; at the end copy the values in ``finish``."""
        self._join((op for op in self.ops if op.name == "concatenate"), "scratch")
        self._chain()
        last: dict[Value, int] = {}
        for i, op in enumerate(self.ops):
            last |= dict.fromkeys(op.values, i)
        last |= {x: len(self.ops) for x, _ in finish if isinstance(x, Value)}
        spare: dict[Any, list[int]] = {}
        living: dict[int, list[tuple[Slot, int]]] = {}  # of scratch buffers: the slots in use, and until when
        ending: dict[int, set[int]] = {}  # by operation: buffers with a last read there
        products = {fold.product: fold for fold in self.folds}

        def occupy(slot: Slot, value: Value, i: int) -> None:
            end = last.get(value, i)
            still = [(other, until) for other, until in living.get(slot.buffer, ()) if until > i]
            living[slot.buffer] = [*still, (slot, end)]
            ending.setdefault(end, set()).add(slot.buffer)

        for i, op in enumerate(self.ops):
            value = op.output
            if value in self.views and value not in self.slots:
                parent, start = self.views[value]
                slot = self.slot(parent).part(start, width_of(value))
                self.slots[value] = slot
                if slot.buffer in living:
                    occupy(slot, value, i)
            elif op.name == "concatenate":
                self._concatenate(op)
            else:
                if value not in self.slots:
                    self.slots[value] = slot = self._scratch(op, i, spare, living)
                    occupy(slot, value, i)
                self._write(op, products.get(op))
            for buffer in sorted(ending.pop(i, ())):
                if all(end <= i for _, end in living[buffer]):
                    spare.setdefault((self.buffers[buffer].rows, self.buffers[buffer].dtype), []).append(buffer)
                    del living[buffer]
        for x, slot in finish:
            source = Arg("number", number=x) if not isinstance(x, Value) else Arg("rows", self.slot(x))
            self.instructions.append(_Instruction("alias", (source,), Arg("rows", slot), {}))
        fixed = [(x, slot) for (x, _), slot in self.fixed.items()]
        return Code(_merge(self.instructions), fixed, self.folded)

    def _scratch(self, op: Op, i: int, spare: dict[Any, list[int]], living: dict[int, Any]) -> Slot:
        """A slot for a temporary value: over an operand that is not read later, or new."""
        value = op.output
        for x in op.values if _is_map(op.name) else ():
            slot = self.slots.get(x)
            if slot is None or slot.buffer not in living or (x.shape, x.dtype) != (value.shape, value.dtype):
                continue
            if all(end <= i for other, end in living[slot.buffer] if other.meets(slot)):
                return slot
        rows = width_of(value)
        free = spare.get((rows, value.dtype))
        return Slot(free.pop() if free else self.buffer("scratch", rows, value.dtype), 0, rows)

    def slot(self, value: Value) -> Slot:
        """The slot of a row value."""
        found = self.slots.get(value) or self.seen(value)
        assert found is not None, f"{value} has no slot"
        return found

    def _concatenate(self, op: Op) -> None:
        start = 0
        for part in op.values:
            slot = self.slots[op.output].part(start, width_of(part))
            if self.slot(part) != slot:
                source = Arg("rows", self.slot(part))
                self.instructions.append(_Instruction("alias", (source,), Arg("rows", slot), {}))
            start += width_of(part)

    def _write(self, op: Op, fold: Fold | None) -> None:
        out = Arg("rows", self.slots[op.output], ndim=op.output.ndim)
        if op.output in self.views:  # a view with its own slot
            source = self.views[op.output]
            slot = self.slot(source[0]).part(source[1], width_of(op.output))
            self.instructions.append(_Instruction("alias", (Arg("rows", slot, ndim=out.ndim),), out, {}))
            return
        if op.name == "matmul":
            x, matrix = op.values
            key = matrix, fold.product.output if fold else "matrix"
            if key not in self.fixed:
                columns, rows = matrix.shape
                onehot = fold.lookup if fold else None
                buffer = self.buffer("matrix", rows, matrix.dtype, columns=columns, onehot=onehot)
                self.fixed[key] = Slot(buffer, 0, rows)
            kind: Any = "whole" if fold else "rows"
            args = [Arg(kind, self.slot(x)), Arg("fixed", self.fixed[key])]
            if fold:
                self.folded.append((fold, self.fixed[key], self.slot(x)))
        else:
            args = [self._argument(x, op.output) for x in op.inputs]
        self.instructions.append(_Instruction(op.name, tuple(args), out, op.options))

    def _argument(self, x: Operand, out: Value) -> Arg:
        if not isinstance(x, Value):
            return Arg("number", number=x)
        if x not in self.is_fixed:
            return Arg("row" if width_of(x) < width_of(out) else "rows", self.slot(x), ndim=x.ndim)
        if (x, None) not in self.fixed:
            if math.prod(x.shape) == 1:
                self.fixed[x, None] = Slot(self.buffer("scalar", 1, x.dtype), 0, 1)
            else:
                rows = math.prod(x.shape)
                if x.dtype not in self.columns:
                    self.columns[x.dtype] = self.buffer("column", 0, x.dtype)
                buffer = self.columns[x.dtype]
                row = self.buffers[buffer].rows
                self.buffers[buffer] = self.buffers[buffer]._replace(rows=row + rows)
                self.fixed[x, None] = Slot(buffer, row, rows)
        return Arg("fixed", self.fixed[x, None])


# --- a program's slots and instructions ------------------------------------------------------------------------------


class Gather(NamedTuple):
    """How the cotangent of a value is computed from others.

    Attributes:
        to: its slot.
        ys: the step's outputs that are this value.
        slots: its cotangents in stages that read it; the only one may be ``to`` itself.
        looked_up: the cotangents, step by step, of the rows looked up in it.
    """

    to: Slot
    ys: list[int]
    slots: list[Slot]
    looked_up: list[Slot]

    def joined(self, other: Gather) -> Gather | None:
        """One for both, if both are looked up in adjacent slots; otherwise None."""
        (a, b), alone = (self.looked_up, other.looked_up), not (self.ys or self.slots or other.ys or other.slots)
        if alone and len(a) == len(b) == 1 and a[0].next_to(b[0]) and self.to.next_to(other.to):
            return Gather(self.to.grown(other.to), [], [], [a[0].grown(b[0])])
        return None


class Layout:
    """Slots and instructions for a whole program."""

    def __init__(self, program: Program, keep: bool, looked_up: Sequence[bool], as_columns: Sequence[bool]) -> None:
        self.program = program
        self.buffers: list[Buffer] = []
        self.slots: dict[Value, Slot] = {}
        self.spread: dict[Value, Slot] = {}  # rows of a table, gathered at every step
        self.tables: list[int | None] = []
        self.origin: dict[Value, int] = {}  # of values with a row per table row: the input
        self.forward: list[Code] = []
        for i, x in enumerate(program.xs):
            slot = Slot(self._buffer("history", x, i if looked_up[i] else None), 0, width_of(x))
            self.slots[x] = slot
            if looked_up[i]:
                self.origin[x] = i
        for stage in program.stages:
            table = next((self.origin[x] for x in stage.rows if x in self.origin), None)
            self.tables.append(table if stage.name == "table" else None)
            folds = self._find_folds(stage, keep, as_columns)
            self.forward.append(self._forward(stage, self.tables[-1], folds, keep))
            if stage.name == "table":
                self.origin |= dict.fromkeys(stage.outputs, self.tables[-1])  # type: ignore[arg-type]
        self.backward: dict[int, Code] = {}
        self.gathered: dict[int, list[Gather]] = {}
        self.turns: list[Slot | None] = []
        self.d_rows: list[tuple[Value, int | None, Slot]] = []  # (value, table of its rows, slot of its cotangent)
        self.summed: dict[int, list[tuple[Slot | None, Slot, int]]] = {}
        if keep:
            for i in reversed(range(len(program.stages))):
                self._backward(i)
        self.d_xs = [self._gather(x, self.origin.get(x), {}) if self._is_wanted(x) else None for x in program.xs]

    def _buffer(self, kind: Any, like: Value, table: int | None, onehot: int | None = None) -> int:
        self.buffers.append(Buffer(kind, width_of(like), like.dtype, table, onehot=onehot))
        return len(self.buffers) - 1

    def _seen(self, table: int | None) -> Callable[[Value], Slot | None]:
        """The slots of values from earlier stages or from the caller."""

        def seen(value: Value) -> Slot | None:
            if value in self.origin and self.origin[value] != table:
                if value not in self.spread:
                    self.spread[value] = Slot(self._buffer("history", value, None), 0, width_of(value))
                return self.spread[value]
            return self.slots.get(value)

        return seen

    def _find_folds(self, stage: Stage, keep: bool, as_columns: Sequence[bool]) -> list[Fold]:
        """Products of the loop whose columns are only added to rows looked up in one table."""
        folds: list[Fold] = []
        kept = {*stage.outputs, *stage.carried, *(stage.forward.keeps if keep else ())}
        kept |= set(stage.backward.keeps) if keep and stage.backward else set()
        users: dict[Value, list[Op]] = {}
        for op in stage.forward.ops:
            for x in op.values:
                users.setdefault(x, []).append(op)
        joined = {x for op in stage.forward.ops if op.name == "concatenate" for x in op.values}
        made = {op.output: op for op in stage.forward.ops}
        taken: dict[Value, int] = {}
        for op in stage.forward.ops if stage.name == "loop" else ():
            if op.name != "matmul" or op.output in kept:
                continue
            using = users.get(op.output, [])
            columns = {use.output: columns_of(use) for use in using if use.name == "getitem"}
            pieces = [x for x, at in sorted(columns.items(), key=lambda item: item[1] or (0, 0))]
            if len(columns) != len(using):
                columns, pieces = {op.output: (0, width_of(op.output))}, [op.output]
            ends = [columns[x] or (-1, -1) for x in pieces]
            tiled = [0, *(stop for _, stop in ends)] == [*(start for start, _ in ends), width_of(op.output)]
            found = [self._looked_up(x, users) for x in pieces]
            if not tiled or any(f is None for f in found) or any(x in kept for x in pieces):
                continue
            sums, parts = zip(*[f for f in found if f is not None], strict=True)
            origins = {self.origin[x] for x in parts}
            a, lookup = op.values[0], origins.pop()
            # The one-hot rows follow the operand, whose slot must not be assigned elsewhere.
            maker = made.get(a)
            free = a in stage.carry or (
                maker is not None and maker.name not in ("getitem", "alias", "reshape", "concatenate")
            )
            free &= a not in stage.carried and a not in joined and taken.get(a, lookup) == lookup
            if origins or not free or not as_columns[lookup]:
                continue
            taken[a] = lookup
            folds.append(Fold(op, lookup, list(parts), dict(zip(sums, pieces, strict=True))))
        return folds

    def _looked_up(self, piece: Value, users: Mapping[Value, list[Op]]) -> tuple[Value, Value] | None:
        """For columns of a product: the sum that is their only use, and the looked-up value added there."""
        using = users.get(piece, [])
        if len(using) != 1 or using[0].name != "add" or len(using[0].values) != 2:
            return None
        others = [x for x in using[0].values if x is not piece]
        if len(others) != 1 or others[0] not in self.origin or others[0].shape != piece.shape:
            return None
        return using[0].output, others[0]

    def _forward(self, stage: Stage, table: int | None, folds: list[Fold], keep: bool) -> Code:
        onehot = {fold.product.values[0]: fold.lookup for fold in folds}
        for x in stage.carry:
            self.slots[x] = Slot(self._buffer("carry", x, None, onehot.get(x)), 0, width_of(x))
        left = {y: self.slots[x]._replace(after=True) for x, y in zip(stage.carry, stage.carried, strict=True)}
        compiler = _Compiler(self.buffers, stage.forward, self._seen(table), table, folds)
        finish: list[tuple[Operand, Slot]] = [(x, slot) for x, slot in left.items() if not compiler.claim(x, slot)]
        kept = [x for x in stage.outputs if x not in stage.carry and x not in stage.carried]
        if keep and stage.backward is not None:
            kept += [x for x in stage.backward.keeps if x not in stage.carried]
        compiler.keep([*kept, *(x for x in onehot if x not in stage.carry)], onehot)
        code = compiler.compile(finish)
        self.slots |= left | {x: compiler.slot(x) for x in kept}
        return code

    def _is_wanted(self, x: Value) -> bool:
        """Whether a stage computes a cotangent of an input."""
        stages = self.program.stages
        return any(x is y and d is not None for s in stages for y, d in zip(s.rows, s.d_rows, strict=bool(s.d_rows)))

    def _gather(self, value: Value, table: int | None, into: dict[Any, int]) -> Gather:
        """Find a value's cotangents, and assign a slot to their sum; the buffers in ``into`` may grow for that."""
        ys = [i for i, y in enumerate(self.program.ys) if y is value]
        slots = [slot for of, its, slot in self.d_rows if of is value and its == table]
        looked_up = [slot for of, its, slot in self.d_rows if of is value and its != table]
        if len(slots) == 1 and not ys and not looked_up:
            return Gather(slots[0], ys, slots, looked_up)
        if value.dtype not in into:
            self.buffers.append(Buffer("history", 0, value.dtype, table))
            into[value.dtype] = len(self.buffers) - 1
        buffer = into[value.dtype]
        row = self.buffers[buffer].rows
        self.buffers[buffer] = self.buffers[buffer]._replace(rows=row + width_of(value))
        return Gather(Slot(buffer, row, width_of(value)), ys, slots, looked_up)

    def _backward(self, number: int) -> None:
        stage, table = self.program.stages[number], self.tables[number]
        body = stage.backward
        assert body is not None
        slots = {x: self.slots[x] for x in (*body.keeps, *stage.carry)}
        # Cotangents of outputs are adjacent, as outputs are often parts of one value.
        into: dict[Any, int] = {}
        self.gathered[number] = []
        for value, seed in zip(stage.outputs, stage.d_outputs, strict=True):
            if seed is not None:
                gather = self._gather(value, table, into)
                slots[seed] = gather.to
                joined = self.gathered[number][-1].joined(gather) if self.gathered[number] else None
                self.gathered[number][-1:] = [joined] if joined else [*self.gathered[number][-1:], gather]
        carried: list[Slot | None] = []
        for seed, before in zip(stage.d_carried, stage.carry, strict=True):
            carried.append(None if seed is None else Slot(self._buffer("turns", before, None), 0, width_of(before)))
            if seed is not None:
                slots[seed] = carried[-1]  # type: ignore[assignment]
        if stage.name == "loop":
            self.turns = carried
        seen = self._seen(table)
        compiler = _Compiler(self.buffers, body, lambda x: slots.get(x) or seen(x), table)
        finish: list[tuple[Operand, Slot]] = []
        rows = [(x, d) for x, d in zip(stage.rows, stage.d_rows, strict=True) if isinstance(d, Value)]
        summed = [x for total in body.sums for x in (total.left, total.right) if x is not None]
        lasting = [d for _, d in rows] + summed
        # Temporary values of a step must be copied to be kept.
        passing = {seed for seed in stage.d_carried if seed is not None}
        copies: dict[Value, Slot] = {}
        for x in dict.fromkeys(lasting):
            if compiler.root(x) in passing:
                copies[x] = Slot(self._buffer("history", x, table), 0, width_of(x))
        finish += copies.items()
        compiler.keep([x for x in lasting if x not in copies], {})
        for d, turn in zip(stage.d_carry, carried, strict=True):
            if d is not None and turn is not None:
                after = turn._replace(after=True)
                if not isinstance(d, Value) or not compiler.claim(d, after):
                    finish.append((d, after))
        self.backward[number] = compiler.compile(finish)

        def lies(x: Value) -> Slot:
            return copies.get(x) or compiler.slot(x)

        self.d_rows += [(x, table, lies(d)) for x, d in rows]
        self.summed[number] = [
            (None if total.left is None else lies(total.left), lies(total.right), total.right.ndim)
            for total in body.sums
        ]
