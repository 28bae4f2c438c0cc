"""Loop nests: the code of operations on one row that share their loops.

The elements of an operation are the points of its *space*. Operations over equally many points share a nest if their
axes can be divided into the same ones. One axis of the nest, the *lanes*, is divided into vectors; results are passed
on in registers, and stored only if something else reads them.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np

from minigrad.compiled.llvm import Function, Register, Variable, vector
from minigrad.compiled.slots import Slot, contiguous, reshaped
from minigrad.compiled.vector_math import FUNCTIONS, apply, as_number
from minigrad.graph import Op, Operand, TraceError, Value

REDUCTIONS = frozenset({"sum", "max", "dot"})
"""Functions that combine the points along some axes; ``dot`` adds up the products of two operands."""

ACCUMULATORS = 8
"""Registers, at most, that a nest accumulates in."""

UNROLLED = 4
"""Iterations, at most, of a loop without vectors that the compiler may write one after the other."""

Root = Value | Slot
"""What memory belongs to: a value, or a slot that exists without one."""


class Place(NamedTuple):
    """Where something lies in memory.

    Attributes:
        root: what the memory belongs to.
        offset: of the first element, in elements.
        strides: in elements, one for each axis.
    """

    root: Root
    offset: int
    strides: tuple[int, ...]


@dataclass(eq=False)
class Work:
    """An operation, with its operands and result as functions of a point of its space.

    Attributes:
        name: of its function; ``add_to`` adds to memory.
        op: the operation.
        space: the lengths of its axes, none of them 1.
        operands: values and numbers. A value is in a register if the nest computes it.
        places: of the operands in memory; None for a number.
        out: the place of the result.
        reduced: axes that are combined.
        along: 1 for one axis, else 0: where the operation depends on the position along this axis.
        table: the name of a constant table of indices by position.
        distance: between the elements that an index chooses from.
        bounds: the numbers of points after each boundary between its axes; axes that can be one are merged before.
    """

    name: str
    op: Op
    space: tuple[int, ...]
    operands: tuple[Operand, ...]
    places: tuple[Place | None, ...]
    out: Place
    reduced: frozenset[int] = frozenset()
    along: tuple[int, ...] = ()
    table: str | None = None
    distance: int = 0
    bounds: frozenset[int] = field(init=False)

    def __post_init__(self) -> None:
        kept = [i for i, n in enumerate(self.space) if n > 1]
        if len(kept) < len(self.space):
            self.reduced = frozenset(kept.index(i) for i in self.reduced if i in kept)
            self.places = tuple(p and p._replace(strides=tuple(p.strides[i] for i in kept)) for p in self.places)
            self.out = self.out._replace(strides=tuple(self.out.strides[i] for i in kept))
            self.along = tuple(self.along[i] for i in kept) if self.along else ()
            self.space = tuple(self.space[i] for i in kept)
        found, after = [], 1
        every = [place.strides for place in (*self.places, self.out) if place is not None]
        every += [self.along] if self.along else []
        for i in range(len(self.space) - 1, 0, -1):
            after *= self.space[i]
            even = all(strides[i - 1] == strides[i] * self.space[i] for strides in every)
            if not even or (i in self.reduced) != (i - 1 in self.reduced):
                found.append(after)
        self.bounds = frozenset(found)
        if (not self.reduced and self.name in REDUCTIONS) or (self.name == "cumsum" and not any(self.along)):
            self.name = "multiply" if self.name == "dot" else "alias"  # of a single point

    @property
    def size(self) -> int:
        """The number of points."""
        return math.prod(self.space)

    @property
    def alone(self) -> bool:
        """Whether it can share no nest, because its points must be visited in order."""
        return self.name == "cumsum" or (self.name == "add_to" and bool(self.along))

    @property
    def after(self) -> bool:
        """Whether its result is known only after the nest."""
        return bool(self.reduced) or self.name in ("fill", "add_to")


def axes_of(size: int, bounds: Iterable[int]) -> tuple[int, ...] | None:
    """The axes of a nest, from the numbers of points after each boundary between them; None if they do not nest."""
    axes, after = [], 1
    for bound in (*sorted(bounds), size):
        if bound % after:
            return None
        if bound > after:
            axes.append(bound // after)
        after = bound
    return tuple(reversed(axes))


def filling(axes: Sequence[int], width: int) -> float:
    """The share of a vector's lanes that the best axis of a nest fills."""
    return max(n / (-(-n // width) * width) for n in axes)


class Memory(Protocol):
    """What a nest must know of values."""

    dtype: str
    width: int
    in_memory: set[Root]

    def slot_of(self, root: Root) -> Slot:
        """The slot of a value's memory."""
        ...


class Row:
    """Writes the part of a function that computes one row.

    Args:
        f: the function.
        b: the row.
        memory: where values are.
    """

    def __init__(self, f: Function, b: Register, memory: Memory) -> None:
        self.f, self.b, self.memory = f, b, memory
        self.numbers: dict[Value, Register] = {}
        """One number per row, in registers."""
        self._bases: dict[tuple[Slot, int], Register] = {}
        self._outside: int | None = None  # where the outermost open loop begins

    def base(self, place: Place) -> Register:
        """The address of the first element of a place, found before the loops that are open."""
        key = self.memory.slot_of(place.root), place.offset
        if key not in self._bases:
            lines, self.f.lines = self.f.lines, []
            row = key[0].row(self.f, self.b)
            self._bases[key] = row + place.offset if place.offset else row
            at = len(lines) if self._outside is None else self._outside
            self._outside = None if self._outside is None else at + len(self.f.lines)
            lines[at:at] = self.f.lines
            self.f.lines = lines
        return self._bases[key]

    @contextmanager
    def loop(self, stop: int, step: int = 1, unroll: bool = True) -> Iterator[Register]:
        """A loop within the row; see ``Function.loop``."""
        outside, self._outside = self._outside, len(self.f.lines) if self._outside is None else self._outside
        with self.f.loop(0, stop, step, unroll) as i:
            yield i
        self._outside = None if outside is None else self._outside


@dataclass(frozen=True)
class _Vector:
    """One vector of the lanes: its first position, ``start + more``, and a mask if not all lanes exist."""

    start: Register | int = 0
    more: int = 0
    mask: Register | None = None


class _Part:
    """An operation over the axes of its nest.

    Attributes:
        work: the operation.
        places: of its operands; None for what is in a register, and for numbers.
        out: the place of its result.
        along: for each axis, the distance that a step along it is in the position.
        over: the axes that are accumulated over.
        first: the level of the loops from which on it accumulates in registers; None if it does so in memory.
        sums: these registers.
    """

    def __init__(self, work: Work, axes: Sequence[int], registers: Container[Value]) -> None:
        def over_axes(strides: Sequence[int]) -> tuple[int, ...]:
            found = reshaped(work.space, strides, axes)
            assert found is not None  # boundaries of the axes are boundaries of the space
            return found

        self.work = work
        if work.name in ("pick", "getitem"):  # they read memory at a computed distance
            registers = ()
        self.places = [
            None if place is None or x in registers else place._replace(strides=over_axes(place.strides))
            for x, place in zip(work.operands, work.places, strict=True)
        ]
        self.out = work.out._replace(strides=over_axes(work.out.strides))
        self.along = over_axes(work.along or [0] * len(work.space))
        if work.name == "cumsum":
            self.over = frozenset(a for a, step in enumerate(self.along) if step)
        else:
            every = enumerate(contiguous(work.space))
            steps = over_axes([0 if axis in work.reduced else step for axis, step in every])
            self.over = frozenset(a for a, step in enumerate(steps) if not step)
        self.first: int | None = None
        self.sums: list[Variable] = []

    @property
    def direct(self) -> list[tuple[Operand, Place]]:
        """Operands in memory that are read at the point itself."""
        count = {"pick": 0, "getitem": 0, "place": 1}.get(self.work.name, len(self.places))
        pairs = zip(self.work.operands[:count], self.places[:count], strict=True)
        return [(x, place) for x, place in pairs if place is not None]


Point = Mapping[int, Register]
"""The position along each axis whose loop is open, but for the lanes."""

Known = dict[tuple[object, int], Register]
"""Values by their place or, if the nest computes them, themselves; and by the number of the vector."""


class Nest:
    """Writes the loops of operations that share them.

    Args:
        row: the row that they belong to.
        works: the operations, each after those that it needs.
    """

    def __init__(self, row: Row, works: Sequence[Work]) -> None:
        self.row, self.f, self.memory = row, row.f, row.memory
        axes = axes_of(works[0].size, frozenset().union(*(work.bounds for work in works)))
        assert axes is not None
        self.axes = axes
        registers = {work.op.output for work in works if not work.after} | set(row.numbers)
        self.parts = [_Part(work, axes, registers) for work in works]
        self.lanes = self._choose_lanes()
        self.width = 1 if self.lanes is None else self.memory.width
        self.kind = vector(self.memory.dtype, self.width)
        self.order, self.block = self._choose_order()
        unrolled = self.lanes is not None and self.block * self.width >= axes[self.lanes]
        for part in self.parts:
            loops = part.over - {self.lanes} if unrolled else part.over
            level = len(self.order) - len(loops)
            part.first = level if loops == frozenset(self.order[level:]) else None

    def _choose_lanes(self) -> int | None:
        """The axis that costs the fewest instructions when it is divided into vectors."""
        width = self.memory.width
        in_order = {a for part in self.parts if part.work.alone for a, step in enumerate(part.along) if step}
        touched = [place for part in self.parts for place in part.places if place is not None]
        touched += [part.out for part in self.parts if part.work.op.output in self.memory.in_memory]

        def cost(a: int) -> float:
            uneven = sum(place.strides[a] not in (0, 1) for place in touched)
            vectors = -(-self.axes[a] // width) / self.axes[a]
            ends = sum(width / math.prod(self.axes[b] for b in part.over) for part in self.parts if a in part.over)
            return vectors * (len(self.parts) + width * uneven) + ends

        return min((a for a in range(len(self.axes)) if a not in in_order), key=lambda a: (cost(a), -a), default=None)

    def _choose_order(self) -> tuple[list[int], int]:
        """The axes from the outermost loop to the innermost, and the vectors per pass of the loop over the lanes."""
        over = [part.over for part in self.parts if part.over]
        others = sorted((a for a in range(len(self.axes)) if a != self.lanes), key=lambda a: sum(a in o for o in over))
        if self.lanes is None:
            return others, 1
        keeping = sum(self.lanes not in axes for axes in over)
        block = max(2, ACCUMULATORS // max(1, keeping))
        count = -(-self.axes[self.lanes] // self.width)
        if keeping and count <= block:
            return [self.lanes, *others], count
        if keeping and keeping == len(over):
            outer = [a for a in others if not any(a in axes for axes in over)]
            return [*outer, self.lanes, *(a for a in others if a not in outer)], block
        return [*others, self.lanes], 1

    # --- the loops ----------------------------------------------------------------------------------------------------

    def write(self) -> None:
        """Append the loops."""
        for part in self.parts:
            if part.first is None:
                self._fill(part)
        known: Known = {}
        for x in dict.fromkeys(x for part in self.parts for x in part.work.operands):
            if x in self.row.numbers:
                known[x, 0] = self.row.numbers[x].splat(self.width)
        self._level(0, {}, [_Vector()], known)

    def _fill(self, part: _Part) -> None:
        """Store the neutral element wherever a reduction accumulates in memory."""
        kept = [a for a in self.order if a not in part.over]
        start = self._neutral(part, self.memory.dtype if self.lanes in part.over else self.kind)

        def level(depth: int, point: Point, vectors: list[_Vector]) -> None:
            if depth == len(kept):
                self._store(part.out, start, point, vectors[0])
            else:
                for deeper, chosen in self._loop(kept[depth], point, 1):
                    level(depth + 1, deeper, chosen or vectors)

        level(0, {}, [_Vector()])

    def _neutral(self, part: _Part, kind: str) -> Register:
        return self.f.constant(kind, -math.inf if part.work.name == "max" else 0)

    def _loop(self, axis: int, point: Point, block: int) -> Iterator[tuple[Point, list[_Vector]]]:
        """The loop over an axis, in one part or two: the point in it, and the vectors if the axis is the lanes."""
        f, n, width = self.f, self.axes[axis], self.width
        if axis != self.lanes:
            with self.row.loop(n, unroll=n <= UNROLLED) as i:
                yield {**point, axis: i}, []
            return
        step = block * width
        full = n // step * step
        if full > step:
            with self.row.loop(full, step) as j:
                yield point, [_Vector(j, u * width) for u in range(block)]
        elif full:
            yield point, [_Vector(0, u * width) for u in range(block)]
        if n > full:
            masks = {at: f.first_lanes(width, n - at) for at in range(full, n, width) if n - at < width}
            yield point, [_Vector(0, at, masks.get(at)) for at in range(full, n, width)]

    def _level(self, level: int, point: Point, vectors: list[_Vector], known: Known) -> None:
        """The loops from a level on; values that do not change in them are loaded before."""
        known = dict(known)
        for part in self.parts:
            for x, place in part.direct:
                if self._depth(place) == level:
                    self._load(x, place, point, vectors, known)
        starting = [part for part in self.parts if part.over and part.first == level]
        for part in starting:
            count = 1 if self.lanes in part.over else len(vectors)
            part.sums = [self.f.variable(self._neutral(part, self.kind)) for _ in range(count)]
        if level == len(self.order):
            for part in self.parts:
                for u, at in enumerate(vectors):
                    self._compute(part, point, u, at, known)
        else:
            for deeper, chosen in self._loop(self.order[level], point, self.block):
                self._level(level + 1, deeper, chosen or vectors, known)
        for part in starting:
            if part.work.name != "cumsum":
                self._finish(part, point, vectors)

    def _depth(self, place: Place) -> int:
        """The number of loops that an element depends on, and those around them."""
        return max((level + 1 for level, axis in enumerate(self.order) if place.strides[axis]), default=0)

    def _finish(self, part: _Part, point: Point, vectors: list[_Vector]) -> None:
        """Pass on what was accumulated in registers."""
        output, totals = part.work.op.output, [total.get() for total in part.sums]
        if self.lanes is None or self.lanes in part.over:
            totals = [self._across(part, totals[0])]
            if len(part.over) == len(self.axes):
                self.row.numbers[output] = totals[0]
        if output in self.memory.in_memory:
            for total, at in zip(totals, vectors, strict=False):
                self._store(part.out, total, point, at)

    def _across(self, part: _Part, x: Register) -> Register:
        """One number from all lanes."""
        return x.largest() if part.work.name == "max" else x.total()

    # --- one point ----------------------------------------------------------------------------------------------------

    def _compute(self, part: _Part, point: Point, u: int, at: _Vector, known: Known) -> None:
        """An operation at a point, or at a vector of points."""
        work, output = part.work, part.work.op.output
        if work.name == "add_to":
            moved = (self._index(part, point, at), work.distance) if work.table is not None else ()
            old = self._read(self.row.base(part.out), part.out.strides, point, at, *moved)
            new = old + as_number(self._operand(part, 0, u, known), self.kind)
            self._store(part.out, new, point, at, *moved)
        elif part.over:
            self._accumulate(part, point, u, at, known)
        else:
            known[output, u] = result = self._result(part, point, u, at, known)
            if not self.axes:
                self.row.numbers[output] = result
        if output in self.memory.in_memory and (output, u) in known:
            self._store(part.out, as_number(known[output, u], self.kind), point, at)

    def _accumulate(self, part: _Part, point: Point, u: int, at: _Vector, known: Known) -> None:
        name, across = part.work.name, self.lanes in part.over
        given = [as_number(self._operand(part, i, u, known), self.kind) for i in range(len(part.places))]
        if at.mask is not None and across:
            given = [at.mask.select(x, self._neutral(part, self.kind)) for x in given]

        def combined(total: Register, x: Register, *other: Register) -> Register:
            return x.fma(other[0], total) if other else FUNCTIONS["maximum" if name == "max" else "add"](total, x)

        if part.first is None:
            if across:
                given = [self._across(part, given[0] * given[1] if name == "dot" else given[0])]
            old = self._read(self.row.base(part.out), part.out.strides, point, at)
            self._store(part.out, combined(old, *given), point, at)
            return
        variable = part.sums[0 if across else u]
        total = combined(variable.get(), *given)
        variable.set(total)
        if name == "cumsum":
            known[part.work.op.output, u] = total

    def _result(self, part: _Part, point: Point, u: int, at: _Vector, known: Known) -> Register:
        work = part.work
        if work.name in ("pick", "getitem"):
            place = part.places[0]
            assert place is not None
            index = self._index(part, point, at)
            read = self._read(self.row.base(place), place.strides, point, at, index, work.distance)
            return read.splat(self.width) if read.lanes == 1 else read
        given = [self._operand(part, i, u, known) for i in range(1 if work.name == "place" else len(part.places))]
        if work.name == "place":
            return self._is_here(part, point, at).select(as_number(given[0], self.kind), 0)
        if work.name in ("alias", "broadcast_to", "fill"):
            return given[0]
        if work.name == "clip" and any(np.ndim(bound) for bound in work.op.options.values() if bound is not None):
            raise TraceError("it clips to the elements of an array", work.op.output.origin)
        if work.name not in FUNCTIONS and work.name != "clip":
            raise TraceError(f"its {work.name} has no kernel", work.op.output.origin)
        return apply(work.name, self.kind, given, **(work.op.options if work.name == "clip" else {}))

    def _operand(self, part: _Part, number: int, u: int, known: Known) -> Register:
        x, place = part.work.operands[number], part.places[number]
        if not isinstance(x, Value):
            return self.f.constant(vector("i1", self.width) if isinstance(x, bool) else self.kind, x)
        key = x if place is None else place
        return known[key, u] if (key, u) in known else known[key, 0]

    def _index(self, part: _Part, point: Point, at: _Vector) -> Register:
        """The integer by which an element is chosen, or a vector of such."""
        work = part.work
        if work.table is not None:
            return self._read(self.f.address_of(work.table, "i64"), part.along, point, at)
        value, place = work.operands[1], part.places[1]
        assert isinstance(value, Value)
        assert place is not None
        if value.dtype.kind not in "iu":
            raise TraceError("it picks by indices that are not integers", value.origin)
        return self._read(self.row.base(place), place.strides, point, at)

    def _is_here(self, part: _Part, point: Point, at: _Vector) -> Register:
        """Whether the position of a point is the one that the index names."""
        index = self._index(part, point, at)
        position, step = self._distance(self.f.integer(0), part.along, point, at)
        index = index - position.splat(index.lanes)
        if not step:
            return index.equals(0)
        return (index if index.lanes > 1 else index.splat(self.width)).equals(self._ramp(step))

    # --- memory -------------------------------------------------------------------------------------------------------

    def _load(self, x: Operand, place: Place, point: Point, vectors: list[_Vector], known: Known) -> None:
        """Load a value for all vectors."""
        if (place, 0) in known:
            return
        assert isinstance(x, Value)
        if x.dtype.kind not in "fb":
            raise TraceError(f"it computes with {x.dtype} numbers", x.origin)
        even = self.lanes is None or not place.strides[self.lanes]
        for u, at in enumerate(vectors[:1] if even else vectors):
            read = self._read(self.row.base(place), place.strides, point, at)
            known[place, u] = read.splat(self.width) if read.lanes == 1 else read

    def _distance(self, start: Register, strides: Sequence[int], point: Point, at: _Vector) -> tuple[Register, int]:
        """An address, or a number, moved to a point or the first lane of a vector; and the distance between lanes."""
        for axis, i in point.items():
            if strides[axis]:
                start = start + (i if strides[axis] == 1 else i * strides[axis])
        step = 0 if self.lanes is None else strides[self.lanes]
        if step and isinstance(at.start, Register):
            start = start + (at.start if step == 1 else at.start * step)
        elif step and at.start:
            start = start + at.start * step
        return (start + at.more * step if step and at.more else start), step

    def _ramp(self, step: int) -> Register:
        return self.f.ramp(vector("i64", self.width)) * step

    def _read(
        self,
        base: Register,
        strides: Sequence[int],
        point: Point,
        at: _Vector,
        index: Register | None = None,
        distance: int = 0,
    ) -> Register:
        """What is at a point: one element if it is the same for all lanes; an index moves it by so many distances."""
        address, step = self._distance(base, strides, point, at)
        if index is not None and index.lanes > 1:
            return address.gather(index * distance + self._ramp(step), at.mask)
        if index is not None:
            address = address + index * distance
        if step in (0, 1):
            return address.load(self.width if step else 1, at.mask if step else None)
        return address.gather(self._ramp(step), at.mask)

    def _store(
        self, place: Place, x: Register, point: Point, at: _Vector, index: Register | None = None, distance: int = 0
    ) -> None:
        """Store a number, or the lanes of a vector."""
        address, step = self._distance(self.row.base(place), place.strides, point, at)
        if index is not None:
            address = address + index * distance
        if x.lanes == 1 or step == 1:
            address.store(x, at.mask if x.lanes > 1 else None)
        else:
            address.scatter(self._ramp(step), x, at.mask)
