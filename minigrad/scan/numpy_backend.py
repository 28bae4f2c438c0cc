"""Carries a planned step out with NumPy alone: buffers made once, every call with a place for its result.

It decides where values lie and which calls are one; what runs before, in and after the loop, ``program.py`` decided.

Inside, values lie feature-major: a row value (B, n) of the step is (n, B), all steps of it (T, n, B), because NumPy's
products of a step's size are up to twice as fast that way. At the boundary they are (T, B, n).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from minigrad.graph import Op, Operand, Value, evaluate, function_of, key_of
from minigrad.scan.lookup import Lookup, checked_indices
from minigrad.scan.passes import columns_of
from minigrad.scan.program import Body, Program, Stage
from minigrad.tensor import Array

COLUMNS = 112
"""A table of up to so many rows enters the step's product as one-hot columns; of a larger one, rows are gathered.

The columns cost 2 V operations an element, at the speed of a product; a gathered row costs a copy across layouts and
an addition. Measured with H 128 and 256 and B 32 and 64, the two take as long at some 110 to 130 rows.
"""

ROWS = 512
"""The gradient of a table of up to so many rows is a product with one-hot rows; of a larger one, rows are sorted."""

_BLOCK = 1 << 16
"""The number of elements in a value of a stage without a carry that is worked on at once: so many stay in the cache."""

_SPACES = 3
"""The number of workspaces that wait for the next call."""

Call: TypeAlias = Callable[[], Any]


# --- operations -------------------------------------------------------------------------------------------------------

_INNER = ("sigmoid", "relu", "softplus", "clip")
"""Elementwise operations that are no ufunc, and may still overwrite an operand."""


def _ufunc(name: str) -> np.ufunc | None:
    found = getattr(np, "absolute" if name == "abs" else name, None)
    return found if isinstance(found, np.ufunc) and name != "matmul" else None


def _is_map(name: str) -> bool:
    """Whether an operation works element by element, and may overwrite an operand."""
    return name in _INNER or _ufunc(name) is not None


def _calls(name: str, args: Sequence[Any], out: Array, options: Mapping[str, Any]) -> list[Call]:
    """The NumPy calls that are one operation on feature-major arrays."""
    ufunc = _ufunc(name)
    if ufunc is not None:
        return [partial(ufunc, *args, out=out)]
    x = args[0]
    match name:
        case "matmul":
            return [partial(np.matmul, args[1], x, out=out)]
        case "sigmoid":
            half, tanh = partial(np.multiply, out, 0.5, out=out), partial(np.tanh, out, out=out)
            return [partial(np.multiply, x, 0.5, out=out), tanh, half, partial(np.add, out, 0.5, out=out)]
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


class _Buffer(NamedTuple):
    """An array to be made once T and B are known.

    Attributes:
        kind: ``history`` (T, rows, B); ``carry`` (T + 1, rows, B); ``turns`` (2, rows, B), of which one is read while
            the other is written; ``scratch`` (block, rows, B); ``matrix`` (rows, columns); ``column`` (rows, B),
            which repeats itself, as NumPy is slow with few elements a row; ``scalar`` ().
        rows: see there.
        dtype: of the elements.
        table: the number of the input whose table's V rows take the place of B, with T = 1; None for a sequence.
        columns: of a matrix.
        onehot: the number of the input whose V one-hot rows (of a matrix: columns) follow; None where none do.
    """

    kind: Literal["history", "carry", "turns", "scratch", "matrix", "column", "scalar"]
    rows: int
    dtype: Any
    table: int | None = None
    columns: int = 0
    onehot: int | None = None


class _Place(NamedTuple):
    """Some rows of a buffer; ``after`` of a carry or turns: what a step leaves, not what it finds."""

    buffer: int
    row: int
    rows: int
    after: bool = False

    def part(self, start: int, rows: int) -> _Place:
        return self._replace(row=self.row + start, rows=rows)

    def next_to(self, other: _Place) -> bool:
        """Whether the other one follows at once."""
        return other == self._replace(row=self.row + self.rows, rows=other.rows)

    def grown(self, other: _Place) -> _Place:
        """With the rows of one that follows."""
        return self._replace(rows=self.rows + other.rows)

    def holds(self, other: _Place) -> bool:
        """Whether all rows of the other one are rows of this one."""
        return self.meets(other) and self.row <= other.row and other.row + other.rows <= self.row + self.rows

    def meets(self, other: _Place) -> bool:
        """Whether a row belongs to both."""
        same = (self.buffer, self.after) == (other.buffer, other.after)
        return same and self.row < other.row + other.rows and other.row < self.row + self.rows


class _Arg(NamedTuple):
    """An operand of an instruction: a place and its kind, or a number.

    ``rows`` comes with ``ndim``, that of the value in the step: one axis there is one here, (B,). ``whole`` is all
    rows of the place's buffer, with the one-hot ones.
    """

    kind: Literal["rows", "row", "whole", "fixed", "number"]
    place: _Place | None = None
    number: Any = None
    ndim: int = 2


class _Instruction(NamedTuple):
    """An operation on places."""

    name: str
    args: tuple[_Arg, ...]
    out: _Arg
    options: Mapping[str, Any]

    def joined(self, other: _Instruction) -> _Instruction | None:
        """One instruction that does both, where what they work on is adjacent; otherwise None."""
        if (
            self.name != other.name
            or self.out.ndim != 2
            or not _is_map(self.name)
            or key_of(dict(self.options)) != key_of(dict(other.options))
        ):
            return None
        for first, second in ((self, other), (other, self)):
            pairs = list(zip((*first.args, first.out), (*second.args, second.out), strict=True))
            if all(a.kind == b.kind and (_follows(a, b) or (a == b and a.kind != "rows")) for a, b in pairs):
                args = [_grown(a, b) for a, b in pairs]
                return self._replace(args=tuple(args[:-1]), out=args[-1])
        return None

    def hinders(self, other: _Instruction) -> bool:
        """Whether a later instruction must not run before this one."""
        mine, theirs = self.out.place, other.out.place
        assert mine is not None
        assert theirs is not None
        read = any(arg.place is not None and arg.place.meets(mine) for arg in other.args)
        overwritten = any(arg.place is not None and arg.place.meets(theirs) for arg in self.args)
        return read or overwritten or mine.meets(theirs)


def _follows(a: _Arg, b: _Arg) -> bool:
    # A fixed scalar has a buffer of its own, so that only columns can be adjacent.
    return a.place is not None and b.place is not None and a.kind in ("rows", "fixed") and a.place.next_to(b.place)


def _grown(a: _Arg, b: _Arg) -> _Arg:
    if a == b or a.place is None or b.place is None:
        return a
    return a._replace(place=a.place.grown(b.place))


def _halve(instructions: list[_Instruction], buffers: Sequence[_Buffer]) -> tuple[list[_Instruction], list[_Place]]:
    """A sigmoid of columns of a product takes the half out of the product: ``sigmoid(2 x) = tanh(x) / 2 + 1 / 2``.

    Returns:
        The instructions, and the places in matrices whose rows are to be halved; this is exact.
    """
    halved: list[_Place] = []
    done: list[_Instruction] = []
    for sigmoid in instructions:
        rows = _behind(sigmoid, instructions, buffers) if sigmoid.name == "sigmoid" else None
        if rows is None:
            done.append(sigmoid)
            continue
        halved.append(rows)
        out, half = sigmoid.out, _Arg("number", number=0.5)
        done.append(_Instruction("tanh", sigmoid.args, out, {}))
        done += [_Instruction(name, (out, half), out, {}) for name in ("multiply", "add")]
    return done, halved


def _behind(reader: _Instruction, instructions: list[_Instruction], buffers: Sequence[_Buffer]) -> _Place | None:
    """The rows of a matrix that make what an instruction, and nothing else, reads; None where something else does."""
    x = reader.args[0].place
    if x is None or x == reader.out.place or buffers[x.buffer].kind != "scratch":
        return None
    readers = [op for op in instructions if any(arg.place is not None and arg.place.meets(x) for arg in op.args)]
    writers = [op for op in instructions if op.out.place is not None and op.out.place.meets(x)]
    if readers != [reader] or len(writers) != 1 or writers[0].name != "matmul":
        return None
    matrix, whole = writers[0].args[1].place, writers[0].out.place
    sharing = [op for op in instructions if op.name == "matmul" and op.args[1].place == matrix]
    if matrix is None or whole is None or len(sharing) > 1 or not whole.holds(x):
        return None
    return matrix.part(x.row - whole.row, x.rows)


def _merge(instructions: list[_Instruction]) -> list[_Instruction]:
    """Instructions of one name on adjacent places become one, where no instruction between them minds."""
    merged: list[_Instruction] = []
    for late in instructions:
        for i, early in reversed(list(enumerate(merged))):
            both, between = None if early.hinders(late) else early.joined(late), merged[i + 1 :]
            if both is not None and not any(other.hinders(late) for other in between):
                merged[i] = both
                break
            if both is not None and not any(early.hinders(other) for other in between):
                merged[i:] = [*between, both]
                break
        else:
            merged.append(late)
    return merged


class _Fold(NamedTuple):
    """A product that takes the step's token as one-hot columns, in place of additions of what was looked up.

    Attributes:
        product: the product.
        lookup: the number of the input.
        parts: what was to be added to its columns, in order: places in the table's buffers.
        sums: the additions, and the value that each is now the same as.
    """

    product: Op
    lookup: int
    parts: list[Value]
    sums: dict[Value, Value]


class _Code(NamedTuple):
    """A body, ready to be bound to arrays.

    Attributes:
        instructions: in order.
        fixed: where fixed values go.
        folds: products that take a token, each with its matrix and its operand.
        halved: rows of matrices to be halved.
    """

    instructions: list[_Instruction]
    fixed: list[tuple[Value, _Place]]
    folds: list[tuple[_Fold, _Place, _Place]]
    halved: list[_Place]


class _Compiler:
    """Finds places for the values of one body, and writes its instructions."""

    def __init__(
        self,
        buffers: list[_Buffer],
        body: Body,
        seen: Callable[[Value], _Place | None],
        table: int | None,
        folds: Sequence[_Fold] = (),
    ) -> None:
        self.buffers, self.ops, self.seen, self.table, self.folds = buffers, body.ops, seen, table, folds
        self.is_fixed = {x for x in body.prologue.outputs if isinstance(x, Value)}
        self.makers = {op.output: op for op in self.ops}
        self.users: dict[Value, list[Op]] = {}
        for op in self.ops:
            for x in op.values:
                self.users.setdefault(x, []).append(op)
        self.views = self._find_views()
        self.places: dict[Value, _Place] = {}
        self.fixed: dict[Any, _Place] = {}  # by value, and for a matrix by the fold as well
        self.columns: dict[Any, int] = {}
        self.folded: list[tuple[_Fold, _Place, _Place]] = []
        self.instructions: list[_Instruction] = []

    def _find_views(self) -> dict[Value, tuple[Value, int]]:
        """Values that are rows of another one, and where these start."""
        views = {value: (part, 0) for fold in self.folds for value, part in fold.sums.items()}
        for op in self.ops:
            columns = columns_of(op) if op.name == "getitem" else None
            if columns is not None:
                views[op.output] = op.values[0], columns[0]
            elif op.name in ("alias", "reshape"):
                views[op.output] = op.values[0], 0
        return views

    def root(self, value: Value) -> Value:
        """What a value is a view of."""
        while value in self.views:
            value = self.views[value][0]
        return value

    def buffer(self, kind: Any, rows: int, dtype: Any, **options: Any) -> int:
        """A new buffer."""
        self.buffers.append(_Buffer(kind, rows, dtype, self.table, **options))
        return len(self.buffers) - 1

    def claim(self, value: Value, place: _Place) -> bool:
        """Let a value be made at a place; false where it must be copied there, having a place of its own."""
        if value not in self.makers or value in self.views or value in self.places:
            return False
        self.places[value] = place
        return True

    def keep(self, values: Iterable[Value], onehot: Mapping[Value, int]) -> None:
        """Give values a place of their own at every step."""
        roots = dict.fromkeys(r for r in map(self.root, values) if r in self.makers and r not in self.places)
        self._join(op for op in self.ops if op.name == "concatenate" and op.output in roots)
        grouped: dict[Any, list[Value]] = {}
        for op in self.ops:
            value = op.output
            if value in roots and value not in self.places:
                if value in onehot:
                    buffer = self.buffer("history", _width(value), value.dtype, onehot=onehot[value])
                    self.places[value] = _Place(buffer, 0, _width(value))
                else:
                    grouped.setdefault(value.dtype, []).append(value)
        for dtype, group in grouped.items():
            buffer, row = self.buffer("history", sum(map(_width, group)), dtype), 0
            for value in group:
                self.places[value] = _Place(buffer, row, _width(value))
                row += _width(value)

    def _join(self, joining: Iterable[Op], kind: str = "history") -> None:
        """Give concatenations a place, and make their parts there."""
        for op in reversed(list(joining)):
            if op.output not in self.places:
                whole = self._adjacent(op)
                if whole is not None:
                    self.places[op.output] = whole
                    continue
                buffer = self.buffer(kind, _width(op.output), op.output.dtype)
                self.places[op.output] = _Place(buffer, 0, _width(op.output))
            start = 0
            for part in op.values:
                self.claim(part, self.places[op.output].part(start, _width(part)))
                start += _width(part)

    def _adjacent(self, op: Op) -> _Place | None:
        """Where a concatenation's parts lie already, if that is side by side."""
        places = [self.seen(self.root(x)) if x not in self.views else None for x in op.values]
        whole = places[0]
        for place in places[1:]:
            if whole is None or place is None or not whole.next_to(place):
                return None
            whole = whole.grown(place)
        return whole

    def _chain(self) -> None:
        """Let what leads to a placed value, and nowhere else, be made at the same place.

        A second such operand gets a place in a twin of the buffer, so that calls that can be merged stay so.
        """
        twins: dict[int, int] = {}
        taken: list[_Place] = []
        for op in reversed(self.ops):
            place = self.places.get(op.output)
            if place is None or op.output in self.views or not _is_map(op.name):
                continue
            free = [x for x in dict.fromkeys(op.values) if self._is_step_to(x, op)]
            if free:
                self.places[free[0]] = place
            for x in free[1:]:
                if place.buffer not in twins:
                    old = self.buffers[place.buffer]
                    twins[place.buffer] = self.buffer("scratch", old.rows, old.dtype)
                twin = _Place(twins[place.buffer], place.row, place.rows)
                if not any(twin.meets(other) for other in taken):
                    taken.append(twin)
                    self.places[x] = twin

    def _is_step_to(self, x: Value, op: Op) -> bool:
        made = x in self.makers and x not in self.views and x not in self.places
        return made and self.users[x] == [op] and (x.shape, x.dtype) == (op.output.shape, op.output.dtype)

    def compile(self, finish: Sequence[tuple[Operand, _Place]] = ()) -> _Code:
        """Find the remaining places and write the instructions; at the end copy what ``finish`` names."""
        self._join((op for op in self.ops if op.name == "concatenate"), "scratch")
        self._chain()
        last: dict[Value, int] = {}
        for i, op in enumerate(self.ops):
            last |= dict.fromkeys(op.values, i)
        last |= {x: len(self.ops) for x, _ in finish if isinstance(x, Value)}
        spare: dict[Any, list[int]] = {}
        living: dict[int, list[tuple[_Place, int]]] = {}  # of scratch buffers: what lies there, and until when
        products = {fold.product: fold for fold in self.folds}
        for i, op in enumerate(self.ops):
            value = op.output
            if value in self.views and value not in self.places:
                parent, start = self.views[value]
                place = self.place(parent).part(start, _width(value))
                self.places[value] = place
                if place.buffer in living:
                    living[place.buffer].append((place, last.get(value, i)))
            elif op.name == "concatenate":
                self._concatenate(op)
            else:
                if value not in self.places:
                    self.places[value] = place = self._scratch(op, i, spare, living)
                    living.setdefault(place.buffer, []).append((place, last.get(value, i)))
                self._write(op, products.get(op))
            for buffer, members in list(living.items()):
                if all(end <= i for _, end in members):
                    spare.setdefault((self.buffers[buffer].rows, self.buffers[buffer].dtype), []).append(buffer)
                    del living[buffer]
        for x, place in finish:
            source = _Arg("number", number=x) if not isinstance(x, Value) else _Arg("rows", self.place(x))
            self.instructions.append(_Instruction("alias", (source,), _Arg("rows", place), {}))
        instructions, halved = _halve(_merge(self.instructions), self.buffers)
        fixed = [(x, place) for (x, _), place in self.fixed.items()]
        return _Code(_merge(instructions), fixed, self.folded, halved)

    def _scratch(self, op: Op, i: int, spare: dict[Any, list[int]], living: dict[int, Any]) -> _Place:
        """A place for what one step needs once: over an operand that nobody reads later, or anew."""
        value = op.output
        for x in op.values if _is_map(op.name) else ():
            place = self.places.get(x)
            if place is None or place.buffer not in living or (x.shape, x.dtype) != (value.shape, value.dtype):
                continue
            if all(end <= i for other, end in living[place.buffer] if other.meets(place)):
                return place
        rows = _width(value)
        free = spare.get((rows, value.dtype))
        return _Place(free.pop() if free else self.buffer("scratch", rows, value.dtype), 0, rows)

    def place(self, value: Value) -> _Place:
        """Where a row value lies."""
        found = self.places.get(value) or self.seen(value)
        assert found is not None, f"{value} has no place"
        return found

    def _concatenate(self, op: Op) -> None:
        start = 0
        for part in op.values:
            place = self.places[op.output].part(start, _width(part))
            if self.place(part) != place:
                source = _Arg("rows", self.place(part))
                self.instructions.append(_Instruction("alias", (source,), _Arg("rows", place), {}))
            start += _width(part)

    def _write(self, op: Op, fold: _Fold | None) -> None:
        out = _Arg("rows", self.places[op.output], ndim=op.output.ndim)
        if op.output in self.views:  # a view that was given a place of its own
            source = self.views[op.output]
            place = self.place(source[0]).part(source[1], _width(op.output))
            self.instructions.append(_Instruction("alias", (_Arg("rows", place, ndim=out.ndim),), out, {}))
            return
        if op.name == "matmul":
            x, matrix = op.values
            key = matrix, fold and fold.product.output
            if key not in self.fixed:
                columns, rows = matrix.shape
                onehot = fold.lookup if fold else None
                buffer = self.buffer("matrix", rows, matrix.dtype, columns=columns, onehot=onehot)
                self.fixed[key] = _Place(buffer, 0, rows)
            kind: Any = "whole" if fold else "rows"
            args = [_Arg(kind, self.place(x)), _Arg("fixed", self.fixed[key])]
            if fold:
                self.folded.append((fold, self.fixed[key], self.place(x)))
        else:
            args = [self._argument(x, op.output) for x in op.inputs]
        self.instructions.append(_Instruction(op.name, tuple(args), out, op.options))

    def _argument(self, x: Operand, out: Value) -> _Arg:
        if not isinstance(x, Value):
            return _Arg("number", number=x)
        if x not in self.is_fixed:
            return _Arg("row" if _width(x) < _width(out) else "rows", self.place(x), ndim=x.ndim)
        if (x, None) not in self.fixed:
            if math.prod(x.shape) == 1:
                self.fixed[x, None] = _Place(self.buffer("scalar", 1, x.dtype), 0, 1)
            else:
                rows = math.prod(x.shape)
                if x.dtype not in self.columns:
                    self.columns[x.dtype] = self.buffer("column", 0, x.dtype)
                buffer = self.columns[x.dtype]
                row = self.buffers[buffer].rows
                self.buffers[buffer] = self.buffers[buffer]._replace(rows=row + rows)
                self.fixed[x, None] = _Place(buffer, row, rows)
        return _Arg("fixed", self.fixed[x, None])


def _width(value: Value) -> int:
    return value.shape[1] if value.ndim == 2 else 1


# --- a program's places and instructions ------------------------------------------------------------------------------


class _Gather(NamedTuple):
    """What makes the cotangent of a value out of others.

    Attributes:
        to: where it lies.
        ys: the step's outputs that it is.
        places: its cotangents in stages that read it; the sole one may be ``to`` itself.
        looked_up: the cotangents, step by step, of what was looked up in it.
    """

    to: _Place
    ys: list[int]
    places: list[_Place]
    looked_up: list[_Place]

    def joined(self, other: _Gather) -> _Gather | None:
        """One that does both, where both are looked up side by side; otherwise None."""
        (a, b), alone = (self.looked_up, other.looked_up), not (self.ys or self.places or other.ys or other.places)
        if alone and len(a) == len(b) == 1 and a[0].next_to(b[0]) and self.to.next_to(other.to):
            return _Gather(self.to.grown(other.to), [], [], [a[0].grown(b[0])])
        return None


class _Layout:
    """Places and instructions for a whole program."""

    def __init__(self, program: Program, keep: bool, looked_up: Sequence[bool], as_columns: Sequence[bool]) -> None:
        self.program = program
        self.buffers: list[_Buffer] = []
        self.places: dict[Value, _Place] = {}
        self.spread: dict[Value, _Place] = {}  # rows of a table, each at the steps that look it up
        self.tables: list[int | None] = []
        self.origin: dict[Value, int] = {}  # of values with a row for each of a table's: the input
        self.forward: list[_Code] = []
        for i, x in enumerate(program.xs):
            place = _Place(self._buffer("history", x, i if looked_up[i] else None), 0, _width(x))
            self.places[x] = place
            if looked_up[i]:
                self.origin[x] = i
        for stage in program.stages:
            table = next((self.origin[x] for x in stage.rows if x in self.origin), None)
            self.tables.append(table if stage.name == "table" else None)
            folds = self._find_folds(stage, keep, as_columns)
            self.forward.append(self._forward(stage, self.tables[-1], folds, keep))
            if stage.name == "table":
                self.origin |= dict.fromkeys(stage.outputs, self.tables[-1])  # type: ignore[arg-type]
        self.backward: dict[int, _Code] = {}
        self.gathered: dict[int, list[_Gather]] = {}
        self.turns: list[_Place | None] = []
        self.d_rows: list[tuple[Value, int | None, _Place]] = []  # what it is the cotangent of; with whose rows; where
        self.summed: dict[int, list[tuple[_Place | None, _Place, int]]] = {}
        if keep:
            for i in reversed(range(len(program.stages))):
                self._backward(i)
        self.d_xs = [self._gather(x, self.origin.get(x), {}) if self._is_wanted(x) else None for x in program.xs]

    def _buffer(self, kind: Any, like: Value, table: int | None, onehot: int | None = None) -> int:
        self.buffers.append(_Buffer(kind, _width(like), like.dtype, table, onehot=onehot))
        return len(self.buffers) - 1

    def _seen(self, table: int | None) -> Callable[[Value], _Place | None]:
        """Where a stage finds what earlier ones, or the caller, gave."""

        def seen(value: Value) -> _Place | None:
            if value in self.origin and self.origin[value] != table:
                if value not in self.spread:
                    self.spread[value] = _Place(self._buffer("history", value, None), 0, _width(value))
                return self.spread[value]
            return self.places.get(value)

        return seen

    def _find_folds(self, stage: Stage, keep: bool, as_columns: Sequence[bool]) -> list[_Fold]:
        """Products of the loop whose every column only meets what is looked up in one table."""
        folds: list[_Fold] = []
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
                columns, pieces = {op.output: (0, _width(op.output))}, [op.output]
            ends = [columns[x] or (-1, -1) for x in pieces]
            tiled = [0, *(stop for _, stop in ends)] == [*(start for start, _ in ends), _width(op.output)]
            found = [self._looked_up(x, users) for x in pieces]
            if not tiled or any(f is None for f in found) or any(x in kept for x in pieces):
                continue
            sums, parts = zip(*[f for f in found if f is not None], strict=True)
            origins = {self.origin[x] for x in parts}
            a, lookup = op.values[0], origins.pop()
            # The one-hot rows follow the operand, which must not have to lie elsewhere.
            maker = made.get(a)
            free = a in stage.carry or (
                maker is not None and maker.name not in ("getitem", "alias", "reshape", "concatenate")
            )
            free &= a not in stage.carried and a not in joined and taken.get(a, lookup) == lookup
            if origins or not free or not as_columns[lookup]:
                continue
            taken[a] = lookup
            folds.append(_Fold(op, lookup, list(parts), dict(zip(sums, pieces, strict=True))))
        return folds

    def _looked_up(self, piece: Value, users: Mapping[Value, list[Op]]) -> tuple[Value, Value] | None:
        """For some columns of a product: the sum that alone uses them, and what was looked up and is added there."""
        using = users.get(piece, [])
        if len(using) != 1 or using[0].name != "add" or len(using[0].values) != 2:
            return None
        others = [x for x in using[0].values if x is not piece]
        if len(others) != 1 or others[0] not in self.origin or others[0].shape != piece.shape:
            return None
        return using[0].output, others[0]

    def _forward(self, stage: Stage, table: int | None, folds: list[_Fold], keep: bool) -> _Code:
        onehot = {fold.product.values[0]: fold.lookup for fold in folds}
        for x in stage.carry:
            self.places[x] = _Place(self._buffer("carry", x, None, onehot.get(x)), 0, _width(x))
        left = {y: self.places[x]._replace(after=True) for x, y in zip(stage.carry, stage.carried, strict=True)}
        compiler = _Compiler(self.buffers, stage.forward, self._seen(table), table, folds)
        finish: list[tuple[Operand, _Place]] = [(x, place) for x, place in left.items() if not compiler.claim(x, place)]
        kept = [x for x in stage.outputs if x not in stage.carry and x not in stage.carried]
        if keep and stage.backward is not None:
            kept += [x for x in stage.backward.keeps if x not in stage.carried]
        compiler.keep([*kept, *(x for x in onehot if x not in stage.carry)], onehot)
        code = compiler.compile(finish)
        self.places |= left | {x: compiler.place(x) for x in kept}
        return code

    def _is_wanted(self, x: Value) -> bool:
        """Whether some stage gives a cotangent of an input."""
        stages = self.program.stages
        return any(x is y and d is not None for s in stages for y, d in zip(s.rows, s.d_rows, strict=bool(s.d_rows)))

    def _gather(self, value: Value, table: int | None, into: dict[Any, int]) -> _Gather:
        """Find a value's cotangents, and a place for their sum; ``into`` has the buffers that may grow for that."""
        ys = [i for i, y in enumerate(self.program.ys) if y is value]
        places = [place for of, its, place in self.d_rows if of is value and its == table]
        looked_up = [place for of, its, place in self.d_rows if of is value and its != table]
        if len(places) == 1 and not ys and not looked_up:
            return _Gather(places[0], ys, places, looked_up)
        if value.dtype not in into:
            self.buffers.append(_Buffer("history", 0, value.dtype, table))
            into[value.dtype] = len(self.buffers) - 1
        buffer = into[value.dtype]
        row = self.buffers[buffer].rows
        self.buffers[buffer] = self.buffers[buffer]._replace(rows=row + _width(value))
        return _Gather(_Place(buffer, row, _width(value)), ys, places, looked_up)

    def _backward(self, number: int) -> None:
        stage, table = self.program.stages[number], self.tables[number]
        body = stage.backward
        assert body is not None
        places = {x: self.places[x] for x in (*body.keeps, *stage.carry)}
        # Cotangents of outputs lie side by side, as these are often the parts of one value.
        into: dict[Any, int] = {}
        self.gathered[number] = []
        for value, seed in zip(stage.outputs, stage.d_outputs, strict=True):
            if seed is not None:
                gather = self._gather(value, table, into)
                places[seed] = gather.to
                joined = self.gathered[number][-1].joined(gather) if self.gathered[number] else None
                self.gathered[number][-1:] = [joined] if joined else [*self.gathered[number][-1:], gather]
        carried: list[_Place | None] = []
        for seed, before in zip(stage.d_carried, stage.carry, strict=True):
            carried.append(None if seed is None else _Place(self._buffer("turns", before, None), 0, _width(before)))
            if seed is not None:
                places[seed] = carried[-1]  # type: ignore[assignment]
        if stage.name == "loop":
            self.turns = carried
        seen = self._seen(table)
        compiler = _Compiler(self.buffers, body, lambda x: places.get(x) or seen(x), table)
        finish: list[tuple[Operand, _Place]] = []
        rows = [(x, d) for x, d in zip(stage.rows, stage.d_rows, strict=True) if isinstance(d, Value)]
        summed = [x for total in body.sums for x in (total.left, total.right) if x is not None]
        lasting = [d for _, d in rows] + summed
        # What only a step knows must be copied, to outlast it.
        passing = {seed for seed in stage.d_carried if seed is not None}
        copies: dict[Value, _Place] = {}
        for x in dict.fromkeys(lasting):
            if compiler.root(x) in passing:
                copies[x] = _Place(self._buffer("history", x, table), 0, _width(x))
        finish += copies.items()
        compiler.keep([x for x in lasting if x not in copies], {})
        for d, turn in zip(stage.d_carry, carried, strict=True):
            if d is not None and turn is not None:
                after = turn._replace(after=True)
                if not isinstance(d, Value) or not compiler.claim(d, after):
                    finish.append((d, after))
        self.backward[number] = compiler.compile(finish)

        def lies(x: Value) -> _Place:
            return copies.get(x) or compiler.place(x)

        self.d_rows += [(x, table, lies(d)) for x, d in rows]
        self.summed[number] = [
            (None if total.left is None else lies(total.left), lies(total.right), total.right.ndim)
            for total in body.sums
        ]


# --- arrays -----------------------------------------------------------------------------------------------------------


class _Space:
    """The arrays of a layout for one T and B, with each instruction bound to its part of them at every step."""

    def __init__(self, layout: _Layout, steps: int, batch: int, sizes: Sequence[int], reverse: bool) -> None:
        self.layout, self.steps, self.batch, self.sizes, self.reverse = layout, steps, batch, sizes, reverse
        self.arrays = [self._array(buffer) for buffer in layout.buffers]
        self.forward = [self._bind(i, code, False) for i, code in enumerate(layout.forward)]
        self.backward = {i: self._bind(i, code, True) for i, code in layout.backward.items()}
        self._scratch: dict[Any, Array] = {}

    def _array(self, buffer: _Buffer) -> Array:
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
        """How many steps a stage without a carry takes at once."""
        widest = max((buffer.rows for buffer in self.layout.buffers if buffer.kind == "scratch"), default=1)
        return max(1, _BLOCK // (widest * self.batch))

    def _bind(self, number: int, code: _Code, backward: bool) -> list[Call]:
        calls: list[Call] = []
        blocks: list[tuple[Any, int]]
        if self.layout.program.stages[number].name == "loop":
            order = range(self.steps)[:: -1 if self.reverse != backward else 1]
            blocks = [(t, turn) for turn, t in enumerate(order)]
        else:
            steps = self.steps if self.layout.tables[number] is None else 1
            blocks = [(slice(t, min(t + self._block(), steps)), 0) for t in range(0, steps, self._block())]
        for when, turn in blocks:
            for name, args, out, options in code.instructions:
                arrays = [self._view(arg, when, turn) for arg in args]
                calls += _calls(name, arrays, self._view(out, when, turn), options)
        return calls

    def _view(self, arg: _Arg, when: Any, turn: int) -> Any:
        if arg.place is None:
            return arg.number
        buffer, row, rows, after = arg.place
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

    def all(self, place: _Place, ndim: int = 2) -> Array:
        """A value at all steps, (T, n, B)."""
        steps = self.steps if self.layout.buffers[place.buffer].table is None else 1
        return self._view(_Arg("rows", place, ndim=ndim), slice(0, steps), 0)  # type: ignore[no-any-return]

    def edge(self, place: _Place, end: bool) -> Array:
        """The carry before the first step or after the last one, (n, B)."""
        at = -1 if end != self.reverse else 0
        return self.arrays[place.buffer][at, place.row : place.row + place.rows]

    def scratch(self, key: _Place, shape: tuple[int, ...], dtype: Any) -> Array:
        """An array for an intermediate result outside the loop."""
        if key not in self._scratch:
            # Rows a power of two apart would all meet in a few sets of the cache.
            rows, columns = shape
            self._scratch[key] = np.empty((rows, columns + 16), dtype)[:, :columns]
        return self._scratch[key]


class _Deferred:
    """Products over all steps, each with its operands copied to matrices (n, T * B) once."""

    def __init__(self, space: _Space, indices: Sequence[Any]) -> None:
        self.space, self.indices = space, indices
        self._flat: dict[_Place, Array] = {}
        self._onehot: dict[int, Array] = {}
        self._by_row: list[tuple[int, _Place, Array]] = []  # onehot @ value.T, by the table's number and the value

    def _matrix(self, place: _Place) -> Array:
        for other, array in self._flat.items():
            if other.holds(place):
                return array[place.row - other.row :][: place.rows]
        array = self.space.all(place)
        steps, rows, batch = array.shape
        if steps == 1:
            return array[0]  # type: ignore[no-any-return]
        self._flat[place] = flat = self.space.scratch(place, (rows, steps * batch), array.dtype)
        np.copyto(flat.reshape(rows, steps, batch), array.transpose(1, 0, 2))
        return flat

    def product(self, left: _Place, right: _Place) -> Array:
        """One value times another one transposed: what the former meets one-hot rows for, these do as well."""
        buffer = self.space.layout.buffers[left.buffer]
        if buffer.onehot is None or left.rows != buffer.rows or left.after:
            return self._matrix(left) @ self._matrix(right).T
        whole = left._replace(rows=left.rows + self.space.sizes[buffer.onehot])
        product = self._matrix(whole) @ self._matrix(right).T
        self._by_row.append((buffer.onehot, right, product[left.rows :]))
        return product[: left.rows]

    def added_up(self, place: _Place, number: int) -> Array:
        """A value at all steps, each row added to that of the table which was looked up: (n, V)."""
        for table, other, found in self._by_row:
            if table == number and other.holds(place):
                return found[:, place.row - other.row :][:, : place.rows].T
        size, indices = self.space.sizes[number], self.indices[number].reshape(-1)
        if size > ROWS:
            array = self.space.all(place)
            order = np.argsort(indices, kind="stable")
            rows = indices[order]
            starts = np.flatnonzero(np.r_[True, rows[1:] != rows[:-1]])
            total = np.zeros((size, array.shape[1]), array.dtype)
            by_row = np.ascontiguousarray(array.swapaxes(1, 2)).reshape(len(order), -1)
            total[rows[starts]] = np.add.reduceat(by_row[order], starts, axis=0)
            return total.T
        flat = self._matrix(place)
        if number not in self._onehot:
            self._onehot[number] = onehot = np.zeros((size, indices.size), flat.dtype)
            onehot[indices, np.arange(indices.size)] = 1
        return flat @ self._onehot[number].T


def _fill(space: _Space, code: _Code, known: Mapping[Value, Array]) -> None:
    """Put the fixed values of a body where its instructions read them."""
    for value, place in code.fixed:
        array, given = space.arrays[place.buffer], known[value]
        match space.layout.buffers[place.buffer].kind:
            case "matrix":
                np.copyto(array[:, : given.shape[0]], given.T)
            case "column":
                np.copyto(array[place.row : place.row + place.rows], given.reshape(-1, 1))
            case _:
                array[...] = given.reshape(())


def _put(place: Array, given: Array) -> None:
    """A batch-major sequence, (T, B, n) or (T, B), to a feature-major place."""
    np.copyto(place, given[:, None] if given.ndim == 2 else given.swapaxes(1, 2))


def _row_major(array: Array, like: Value) -> Array:
    """A feature-major carry as a new batch-major array."""
    return np.array(array[0] if like.ndim == 1 else array.T, order="C")


def _taken(place: Array, like: Value) -> Array:
    """A feature-major sequence as a new batch-major array."""
    return np.array(place[:, 0] if like.ndim == 1 else place.swapaxes(1, 2), order="C")


class Saved:
    """What a forward pass keeps for the backward one. It holds a workspace, until that is given back or nobody asks."""

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
        """Give the workspace back."""
        if self.space is not None:
            self.pool.append(self.space)
            del self.pool[:-_SPACES]
            self.space = None

    def __del__(self) -> None:
        self.release()


class Executor:
    """Runs a program with NumPy."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._layouts: dict[Any, _Layout] = {}
        self._pool: list[_Space] = []

    def _space(self, xs: Sequence[Any], steps: int, batch: int, reverse: bool, keep: bool) -> _Space:
        looked_up = tuple(isinstance(x, Lookup) for x in xs)
        sizes = [len(x.table) if isinstance(x, Lookup) else 0 for x in xs]
        columns = tuple(0 < size <= COLUMNS for size in sizes)
        key = keep, looked_up, columns
        if key not in self._layouts:
            self._layouts[key] = _Layout(self.program, keep, looked_up, columns)
        layout = self._layouts[key]
        wanted = layout, steps, batch, sizes, reverse
        for space in list(self._pool):
            if (space.layout, space.steps, space.batch, space.sizes, space.reverse) == wanted:
                with suppress(ValueError):  # another thread may just have taken it
                    self._pool.remove(space)
                    return space
        return _Space(layout, steps, batch, sizes, reverse)

    def forward(
        self,
        params: Sequence[Array],
        carry: Sequence[Array],
        xs: Sequence[Any],
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
        saved.inputs, saved.options = (params, carry, xs), {"steps": steps, "batch": batch, "reverse": reverse}
        for value, x in zip(program.xs, xs, strict=True):
            _put(space.all(layout.places[value]), x.table[None] if isinstance(x, Lookup) else x)
        for value, x in zip(program.carry, carry, strict=True):
            if value in layout.places:
                np.copyto(space.edge(layout.places[value], end=False), x.T)
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
            for buffer, row, rows, _ in layout.forward[i].halved:
                space.arrays[buffer][row : row + rows] *= 0.5
            for call in space.forward[i]:
                call()
        last = [_row_major(space.edge(layout.places[x], end=True), x) for x in program.carry]
        ys = [_taken(space.all(layout.places[y]), y) for y in program.ys]
        if keep:
            return last, ys, saved
        saved.release()
        return last, ys, None

    def _spread(self, space: _Space, value: Value, to: _Place, indices: Sequence[Any]) -> None:
        """Look a value up at all steps."""
        table = space.all(space.layout.places[value])[0]
        _put(space.all(to), np.ascontiguousarray(table.T)[indices[space.layout.origin[value]]])

    def _set_columns(self, space: _Space, fold: _Fold, matrix: _Place, operand: _Place, indices: Array) -> None:
        """Write a table beside the matrix of a product, and the one-hot rows beneath the product's operand."""
        layout, start = space.layout, 0
        columns = space.arrays[matrix.buffer][:, layout.buffers[matrix.buffer].columns :]
        for part in fold.parts:
            np.copyto(columns[start : start + _width(part)], space.all(layout.places[part])[0])
            start += _width(part)
        array = space.arrays[operand.buffer]
        if layout.buffers[operand.buffer].kind == "carry":
            array = array[1:] if space.reverse else array[:-1]
        onehot = array[:, operand.rows :]
        onehot.fill(0)
        np.put_along_axis(onehot, indices[:, None], 1, 1)

    def backward(
        self, saved: Saved, d_carry: Sequence[Array | None], d_ys: Sequence[Array | None]
    ) -> tuple[list[Array], list[Array], list[Array | None]]:
        """Run all steps backwards.

        Args:
            saved: what ``forward`` gave.
            d_carry: the cotangents of the carry after the last step; None is zero.
            d_ys: those of the outputs.

        Returns:
            The cotangents of the parameters, of the carry before the first step (zeros where it is no float), and of
            the inputs, for a ``Lookup`` of its table; None where none was wanted or there is none.
        """
        program, space = self.program, saved.space
        if space is None:  # backward ran already, and has written over what it needs
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
        )

    def _gathered(
        self,
        space: _Space,
        gather: _Gather,
        d_ys: Sequence[Array | None],
        table: int | None,
        deferred: _Deferred,
    ) -> None:
        """Add up the cotangent of a value."""
        if gather.places == [gather.to]:
            return
        to, first = space.all(gather.to), True
        for i in gather.ys:
            d = d_ys[i]
            if d is not None:
                d = d[:, None] if d.ndim == 2 else d.swapaxes(1, 2)
                np.copyto(to, d) if first else np.add(to, d, to)
                first = False
        for place in gather.places:
            np.copyto(to, space.all(place)) if first else np.add(to, space.all(place), to)
            first = False
        for place in gather.looked_up:
            assert table is not None
            d = deferred.added_up(place, table)
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
