"""Machine code for operations on rows: the order of operations, where their values lie, and matrix products.

Operations whose elements are the same points share loops (``nests``). A slice, a transposed or a reshaped value is a
view of the memory of another one; the parts of a concatenation are computed in their place.
"""

from __future__ import annotations

import contextlib
import heapq
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from minigrad.compiled import batched, jit, llvm
from minigrad.compiled.llvm import Function, Register
from minigrad.compiled.nests import Nest, Place, Root, Row, Work, axes_of, filling
from minigrad.compiled.slots import (
    PARAMETERS,
    Indices,
    Location,
    LookedUp,
    Rows,
    Scratch,
    Slot,
    contiguous,
    is_contiguous,
    reshaped,
)
from minigrad.graph import Op, Operand, Value, row_size

ALIASES = frozenset({"getitem", "reshape", "transpose", "concatenate"})
"""Operations without code: their results are parts of other results."""

LARGE = 500
"""Multiplications of a product of two matrices, for each row, from which it is faster in a kernel of its own."""

LONGEST = 120
"""Operations, about, per function, since compiling takes longer than linearly in them."""

WORTH_SHARING = 0.6
"""Operations share loops if vectors stay at least so full, relative to before."""

_Slot = TypeVar("_Slot", bound=Slot)
Item = Op | list[list[Work]]
"""A product, or a segment: nests for which one function goes once over the rows."""


@dataclass(eq=False)
class Code:
    """The generated code of a body.

    Attributes:
        parts: the functions, of which ``run`` is the entry point, and further text.
        slots: its arguments, in this order.
        locations: the locations of the requested values.
    """

    parts: list[Function | str]
    slots: list[Slot]
    locations: dict[Value, Location]


class Body:
    """Generates the code of a body: fill the attributes, then call ``generate``.

    Args:
        name: a prefix of the functions' names.
        ops: operations on rows.
        dtype: ``float`` or ``double``.
        width: lanes of a vector register.
        loop: whether rows are sequences, computed step by step, or independent, computed in blocks.
        fuse: whether operations share loops; otherwise each has its own, and its result is stored in memory.
    """

    def __init__(self, name: str, ops: Sequence[Op], dtype: Any, width: int, loop: bool, fuse: bool = True) -> None:
        self.name, self.dtype, self.width, self.loop, self.fuse = name, dtype, width, loop, fuse
        self.ops = list(ops)
        self.slots: list[Slot] = []
        self.given: dict[Value, Location] = {}
        self.exclusive: dict[Value, Location] = {}  # values that must be computed into a given location
        self.stored: list[Value] = []  # values that must be stored for all rows
        self.added: list[tuple[Value, Slot]] = []  # values to sum, and their slots
        self.fixed: dict[Value, Slot] = {}
        self.packed: dict[Value, Slot] = {}
        self.indices: dict[Value, Indices] = {}  # by input
        self.in_memory: set[Root] = set()
        """Computed values that are stored."""
        self._tables: list[str] = []
        self._kernels: dict[tuple[Any, Any], Function] = {}

    def slot(self, kind: type[_Slot], value: Value, size: int | None = None, **more: Any) -> _Slot:
        """A new slot of a class, by default as large as a row of the value."""
        slot = kind(
            row_size(value) if size is None else size,
            "i64" if value.dtype.kind in "iu" else self.dtype,
            len(self.slots),
            value,
            **more,
        )
        self.slots.append(slot)
        return slot

    def place(self, kind: type[Slot], value: Value, **more: Any) -> Location:
        """The location of a value in a new slot of its own."""
        return Location.of(self.slot(kind, value, **more), value)

    # --- where everything lies ----------------------------------------------------------------------------------------

    def assign_memory(self) -> None:
        """Decide which values are parts or views of others, and copy those that cannot be."""
        self.makers = {op.output: op for op in self.ops}
        self.member: dict[Value, tuple[Value, Index]] = {}  # computed in their place in another value
        self.same: dict[Value, Value] = {}  # by reshaped value: the one with the same elements
        self.unfinished: dict[Value, Value] = {}  # states of a value before all its parts are added
        self.own: dict[Value, Slot] = {}
        self._layouts: dict[Value, Place] = {}
        self._turn_products()
        self._viewed = {op.values[0] for op in self.ops if is_view(op)}
        self.ops = [new for op in self.ops for new in self._joined(op)]
        self.ops = [new for op in self.ops for new in self._viewed_or_copied(op)]
        self.stored_roots = {self.layout(v).root for v in self.stored if v not in self.given}

    def _new(self, name: str, inputs: tuple[Operand, ...], like: Value, **options: Any) -> Op:
        """An operation whose result is like another value."""
        return self._made(Op(name, inputs, options, Value(like.shape, like.dtype)))

    def _made(self, op: Op) -> Op:
        self.makers[op.output] = op
        return op

    def _turn_products(self) -> None:
        """Compute the transpose of a product as one, where only that is used: (A B)^T = B^T A^T."""
        uses = Counter(x for op in self.ops for x in op.values) + Counter((*self.stored, *self.exclusive))
        uses += Counter(v for v, _ in self.added)
        turned: dict[Value, list[Op]] = {}
        for op in self.ops:
            x = op.inputs[0]
            maker = self.makers.get(x) if op.name == "transpose" and isinstance(x, Value) else None
            if maker is None or maker.name != "matmul" or uses[maker.output] > 1:
                continue
            fixed = maker.values[1] in self.packed or maker.values[1] in self.fixed
            if not fixed and (*op.options["axes"],) == _swapped(op.output.ndim):
                sides = [
                    self._made(Op("transpose", (y,), {"axes": _swapped(y.ndim)}, Value(_swap(y.shape), y.dtype)))
                    for y in reversed(maker.values)
                ]
                new = self._made(Op("matmul", (sides[0].output, sides[1].output), {}, op.output))
                turned |= {maker.output: [], op.output: [*sides, new]}
        self.ops = [new for op in self.ops for new in turned.get(op.output, [op])]

    def _joined(self, op: Op) -> list[Op]:
        """The parts of a concatenation, or of a scatter that covers all elements once, are computed in their place."""
        if op.name not in ("concatenate", "scatter"):
            return [op]
        shape = op.output.shape[1:]
        if op.name == "concatenate":
            indices = _ranges(op)
        else:
            indices = [_inner_index(index, len(shape)) for index in op.options["indices"]]
            if not _covers(shape, indices):
                return self._added(op, indices)
        ops, parts = [], []
        for x, index in zip(op.values, indices, strict=True):
            strides = _chosen(shape, contiguous(shape), index)[1]
            maker = self.makers.get(x)
            movable = maker is not None and not is_view(maker) and maker.name not in ("concatenate", "scatter")
            if maker is not None and not is_contiguous(x.shape[1:], strides):
                movable &= x not in self.stored and x not in self._viewed and maker.name != "matmul"
            if not movable or x in self.member or x in self.exclusive:
                ops.append(self._new("alias", (x,), x))
                x = ops[-1].output
            self.member[x] = op.output, index
            parts.append(x)
        return [*ops, self._made(Op("concatenate", tuple(parts), {}, op.output))]

    def _added(self, op: Op, indices: Sequence[Index]) -> list[Op]:
        """Any other scatter: zeros, to which each part is added."""
        ops = [self._new("fill", (0.0,), op.output)]
        for x, index in zip(op.values, indices, strict=True):
            self.unfinished[ops[-1].output] = op.output
            ops.append(self._new("add_to", (x, ops[-1].output), op.output, index=index))
        last = ops.pop()
        return [*ops, self._made(Op(last.name, last.inputs, last.options, op.output))]

    def _viewed_or_copied(self, op: Op) -> list[Op]:
        """Copy views that need memory of their own, and rows that a product cannot read where they are."""
        value, x = op.output, op.inputs[0]
        if packs(op):
            place = self.layout(op.values[0])
            location = self.given.get(place.root) if isinstance(place.root, Value) else None
            scattered = location is not None and isinstance(location.slot, LookedUp)
            if scattered or _even_rows(op.values[0], place) is None:
                copy = self._new("alias", (x,), op.values[0])
                return [copy, self._made(Op(op.name, (copy.output, op.inputs[1]), op.options, value))]
        if not is_view(op):
            return [op]
        assert isinstance(x, Value)
        place_or_none = self._view(op)
        if place_or_none is None:
            return [self._made(Op("alias", (x,), {}, value))]
        if op.name == "reshape" and value in self.exclusive and self._is_free(x):
            self.exclusive[x] = Location.of(self.exclusive[value].slot, x, self.exclusive[value].offset)
        elif value in self.exclusive or (value in self.stored and not self._can_be_kept(value, place_or_none)):
            part = self._new(op.name, (x,), value, **op.options)
            return [part, self._made(Op("alias", (part.output,), {}, value))]
        if op.name == "reshape":
            self.same[value] = x
            return []
        return [op]

    def _is_free(self, x: Value) -> bool:
        """Whether a value's memory can be chosen."""
        moved = x in self.exclusive or x in self.member or x in self.stored or x in self.given
        return not moved and x in self.makers and not is_view(self.makers[x])

    def _can_be_kept(self, value: Value, place: Place) -> bool:
        """Whether a view can be read where it is after the code has run."""
        root = place.root
        assert isinstance(root, Value)
        moving = root in self.given and not isinstance(self.given[root].slot, Rows)
        return not moving and root not in self.exclusive and is_contiguous(value.shape[1:], place.strides)

    def _view(self, op: Op) -> Place | None:
        """The place of a view; None if its elements are not evenly spaced."""
        x = op.values[0]
        place, shape = self.layout(x), x.shape[1:]
        if op.name == "getitem":
            offset, strides = _chosen(shape, place.strides, _inner_index(op.options["index"], len(shape)))
            return Place(place.root, place.offset + offset, strides)
        if op.name == "transpose":
            return place._replace(strides=tuple(place.strides[axis - 1] for axis in op.options["axes"][1:]))
        found = reshaped(shape, place.strides, op.output.shape[1:])
        return None if found is None else place._replace(strides=found)

    def layout(self, value: Value) -> Place:
        """Where a value lies."""
        if value not in self._layouts:
            self._layouts[value] = self._find(value)
        return self._layouts[value]

    def _find(self, value: Value) -> Place:
        location = self.given.get(value) or self.exclusive.get(value)
        if location is not None:
            return Place(value, location.offset, location.strides)
        if value in self.unfinished:
            return self.layout(self.unfinished[value])
        if value in self.member:
            whole, index = self.member[value]
            place = self.layout(whole)
            offset, strides = _chosen(whole.shape[1:], place.strides, index)
            return Place(place.root, place.offset + offset, strides)
        if is_view(self.makers[value]) or value in self.same:
            found = self._view(self.makers[value])
            assert found is not None
            return found
        return Place(value, 0, contiguous(value.shape[1:]))

    def slot_of(self, root: Root) -> Slot:
        """The slot of what a place belongs to; created for a computed value when it is first asked for."""
        if isinstance(root, Slot):
            return root
        location = self.given.get(root) or self.exclusive.get(root)
        if location is not None:
            return location.slot
        if root not in self.own:
            self.own[root] = self.slot(Rows if root in self.stored_roots else Scratch, root)
        return self.own[root]

    def location(self, value: Value) -> Location:
        """The location of a value."""
        root, offset, strides = self.layout(value)
        return Location(self.slot_of(root), offset, strides)

    # --- operations as functions of a point ---------------------------------------------------------------------------

    def work(self, op: Op) -> Work:
        """An operation with its space, and where its operands and its result are at each point of it."""
        name, space = op.name, op.output.shape[1:]
        inputs = op.inputs[:1] if name == "add_to" else op.inputs
        values = tuple(self._source(x) if isinstance(x, Value) else x for x in inputs)
        if name == "add_to" and "slot" in op.options:
            space = op.values[0].shape[1:]
            return Work(
                name, op, space, values, self._places(inputs, space), Place(op.options["slot"], 0, contiguous(space))
            )
        out = self.layout(op.output)
        if name == "add_to":
            out, more = self._indexed(out, space, op.options["index"])
            space = op.values[0].shape[1:]
            return Work(name, op, space, values, self._places(inputs, space), out, **more)
        if name == "getitem":
            x = op.values[0]
            place, more = self._indexed(self.layout(x), x.shape[1:], _inner_index(op.options["index"], x.ndim - 1))
            return Work(name, op, space, values, (place,), out, **more)
        if name in ("sum", "max"):
            axes = _reduced(op)
            space = op.values[0].shape[1:]
            kept = iter(out.strides)
            if not op.options.get("keepdims"):
                out = out._replace(strides=tuple(0 if a in axes else next(kept) for a in range(len(space))))
            return self._reduction(name, op, space, values, self._places(inputs, space), out, axes)
        if name == "matmul":
            return self._dot(op, values)
        if name == "pick":
            chosen, index = map(self.layout, op.values)
            first = chosen._replace(strides=chosen.strides[:-1])
            return Work(name, op, space, values, (first, index), out, distance=chosen.strides[-1])
        if name == "place":
            places = tuple(place._replace(strides=(*place.strides, 0)) for place in map(self.layout, op.values))
            return Work(name, op, space, values, places, out, along=(*[0] * (len(space) - 1), 1))
        if name == "cumsum":
            axis = op.options["axis"] % op.output.ndim - 1
            along = tuple(int(a == axis) for a in range(len(space)))
            return Work(name, op, space, values, self._places(inputs, space), out, along=along)
        if name == "alias" and op.values and op.values[0].shape != op.output.shape:
            space = op.values[0].shape[1:]
            strides = reshaped(op.output.shape[1:], out.strides, space)
            assert strides is not None
            out = out._replace(strides=strides)
        return Work(name, op, space, values, self._places(inputs, space), out)

    def _dot(self, op: Op, values: tuple[Operand, ...]) -> Work:
        """A product of rows with rows, (..., m, k) and (..., k, n), over the space (..., m, k, n)."""
        a, b = op.values
        *lead, m, n = op.output.shape[1:]
        space = (*lead, m, a.shape[-1], n)
        left, right, out = self._place_of(a), self._place_of(b), self.layout(op.output)
        places = (
            left._replace(strides=_aligned((*left.strides, 0), len(space))),
            right._replace(strides=_aligned((*right.strides[:-2], 0, *right.strides[-2:]), len(space))),
        )
        out = out._replace(strides=(*out.strides[:-1], 0, out.strides[-1]))
        return self._reduction("dot", op, space, values, places, out, frozenset({len(space) - 2}))

    def _reduction(
        self,
        name: str,
        op: Op,
        space: Sequence[int],
        values: tuple[Operand, ...],
        places: tuple[Place | None, ...],
        out: Place,
        reduced: frozenset[int],
    ) -> Work:
        """A reduction, with the axes in the order in which the memory of an operand that has all of them has them."""
        whole = next((p for p in places if p and all(s for n, s in zip(space, p.strides, strict=True) if n > 1)), None)
        if whole is not None:
            order = sorted(range(len(space)), key=lambda axis: -abs(whole.strides[axis]))
            turned = {p: p._replace(strides=tuple(p.strides[axis] for axis in order)) for p in (*places, out) if p}
            space, reduced = [space[axis] for axis in order], frozenset(map(order.index, reduced))
            values = tuple(self._root_or(x, p and turned[p], space) for x, p in zip(values, places, strict=True))
            places, out = tuple(p and turned[p] for p in places), turned[out]
        return Work(name, op, tuple(space), values, places, out, reduced)

    def _root_or(self, x: Operand, place: Place | None, space: Sequence[int]) -> Operand:
        """What owns the memory of an operand, if the space has its elements in its order; otherwise the operand."""
        if place is None or not isinstance(place.root, Value) or place.root in self.fixed:
            return x
        root = self.layout(place.root)
        ordered = is_contiguous(space, place.strides) and is_contiguous(place.root.shape[1:], root.strides)
        same = ordered and place.offset == root.offset and math.prod(space) == row_size(place.root)
        return place.root if same else x

    def _places(self, inputs: Sequence[Operand], space: Sequence[int]) -> tuple[Place | None, ...]:
        """The places of operands that broadcast to a space."""
        places = (self._place_of(x) if isinstance(x, Value) else None for x in inputs)
        return tuple(p and p._replace(strides=_aligned(p.strides, len(space))) for p in places)

    def _place_of(self, x: Value) -> Place:
        """The place of rows, or of a value that is the same for all of them."""
        return Place(self.fixed[x], 0, contiguous(x.shape)) if x in self.fixed else self.layout(x)

    def _indexed(self, place: Place, shape: Sequence[int], index: Index) -> tuple[Place, dict[str, Any]]:
        """A part of a place, and what ``Work`` must know if a table chooses elements along one axis."""
        chosen = next((i for i, part in enumerate(index) if not isinstance(part, slice)), None)
        if chosen is None:
            offset, strides = _chosen(shape, place.strides, index)
            return Place(place.root, place.offset + offset, strides), {}
        slices = tuple(slice(None) if i == chosen else part for i, part in enumerate(index))
        offset, strides = _chosen(shape, place.strides, slices)
        numbers = np.asarray(index[chosen]) % shape[chosen]
        table = f"{self.name}_table{len(self._tables)}"
        self._tables.append(llvm.table(table, numbers))
        one_hot = tuple(int(i == chosen) for i in range(len(shape)))
        flat = tuple(0 if i == chosen else stride for i, stride in enumerate(strides))
        return Place(place.root, place.offset + offset, flat), {
            "along": one_hot, "table": table, "distance": place.strides[chosen],
        }  # fmt: skip

    def _source(self, value: Value) -> Value:
        """The value with the same elements that an operation computes."""
        while value in self.same:
            value = self.same[value]
        return value

    # --- the order ----------------------------------------------------------------------------------------------------

    def schedule(self) -> list[Item]:
        """Products, and between them segments: nests, each the operations that share loops."""
        works: list[Work | Op] = []
        for op in self._ordered():
            apart = self._is_large(op) or is_view(op) or op.name == "concatenate"
            works.append(op if apart else self.work(op))
        ready = _Ready(works, self._source, {*self.given, *self.fixed, *self.packed})
        plan: list[Item] = []
        while ready.count:
            segment: list[list[Work]] = []
            while sum(map(len, segment)) < LONGEST:
                ready.pass_aliases()
                size = ready.next_size()
                if size is None:
                    break
                segment.append(self._nest(ready, size))
            if segment:
                plan.append(segment)
            products = [] if ready.next_size() is not None else ready.take_products()
            if ready.count and not products and not segment:
                raise AssertionError("a body that cannot be ordered")  # a graph's operations always can
            for op in products:
                ready.made(op.output)
            plan += products
        return plan

    def _ordered(self) -> list[Op]:
        """All operations; in a long body each just before the first that needs it, so that few values must be kept."""
        added = [Op("add_to", (v,), {"slot": slot}, Value(v.shape, v.dtype)) for v, slot in self.added]
        ops = [*self.ops, *added]
        if len(ops) < LONGEST:
            return ops
        made = {op.output: at for at, op in enumerate(self.ops)}
        first: dict[Value, int] = {op.output: made.get(self._source(op.values[0]), 0) for op in added}
        for at in range(len(ops) - 1, -1, -1):
            needed = first.setdefault(ops[at].output, at)
            if at < len(self.ops):
                first |= {x: min(needed, first.get(x, needed)) for x in map(self._source, ops[at].values)}
        return [op for _, op in sorted(enumerate(ops), key=lambda item: (first[item[1].output], item[0]))]

    def _nest(self, ready: _Ready, size: int) -> list[Work]:
        """All operations of one size that can share the next loops, those after those that they need."""
        nest: list[Work] = []
        local: set[Value] = set()  # computed in these loops, so available in registers
        late: list[Value] = []  # available only after the loops
        put_off: list[int] = []
        bounds: frozenset[int] = frozenset()
        while len(nest) < LONGEST and (at := ready.take(size)) is not None:
            work = ready.works[at]
            assert isinstance(work, Work)
            moves = work.name in ("pick", "getitem") and work.operands[0] in local
            if moves or (nest and not self._fits(work, nest, bounds)):
                put_off.append(at)
                continue
            ready.count -= 1
            nest.append(work)
            bounds |= work.bounds
            if work.after or not self.fuse:
                late.append(work.op.output)
            else:
                local.add(work.op.output)
                ready.made(work.op.output)
        for value in late:
            ready.made(value)
        for at in put_off:
            ready.put(at)
        return nest

    def _fits(self, work: Work, nest: Sequence[Work], bounds: frozenset[int]) -> bool:
        """Whether an operation can share a nest, and its vectors stay as full."""
        if not self.fuse or work.alone or nest[0].alone:
            return False
        if work.bounds <= bounds:
            return True
        if not work.bounds >= bounds:
            return False
        before, after = axes_of(work.size, bounds), axes_of(work.size, bounds | work.bounds)
        assert before is not None
        assert after is not None
        return filling(after, self.width) >= WORTH_SHARING * filling(before, self.width)

    def _find_memory(self, order: Sequence[Item]) -> None:
        """Find the values that must be stored, and those that stay in a register between loops."""
        where: dict[Value, tuple[int, int]] = {}
        for i, item in enumerate(order):
            for j, nest in enumerate(item if isinstance(item, list) else []):
                where |= {work.op.output: (i, j) for work in nest}
        self.in_memory = {*self.member, *self.exclusive, *self.unfinished}
        roots = {self.layout(v).root for v in self.stored}
        self.in_memory |= roots
        for i, item in enumerate(order):
            if isinstance(item, Op):
                self.in_memory |= {self.layout(x).root for x in item.values if x not in self.packed}
                continue
            for j, nest in enumerate(item):
                for work in nest:
                    values = [x for x in work.operands if isinstance(x, Value) and x not in self.fixed]
                    self.in_memory |= {self.layout(x).root for x in values if x not in where}
                    elsewhere = [x for x in values if where.get(x, (i, j)) != (i, j)]
                    # One number per row stays in a register until the row is finished.
                    self.in_memory |= {x for x in elsewhere if row_size(x) > 1 or where[x][0] != i}
                    if work.name in ("pick", "getitem"):
                        self.in_memory.add(self.layout(values[0]).root)

    # --- the text -----------------------------------------------------------------------------------------------------

    def generate(self) -> Code:
        """Generate the functions."""
        self.assign_memory()
        order = self.schedule()
        self._find_memory(order)
        for v in self.stored:
            self.location(v)
        step = Function(f"{self.name}_step", PARAMETERS, linkage="internal")
        functions: list[Function | str] = [*self._tables]
        for number, item in enumerate(order):
            if isinstance(item, Op) and packs(item):
                self._product(step, item)
            elif isinstance(item, Op):
                self._row_product(step, item)
            else:
                functions += self._segment(f"{self.name}_rows{number}", item)
                step.call("void", f"{self.name}_rows{number}", *step.parameters)
        locations = {v: self.location(v) for v in (*self.stored, *self.given)}
        return Code([*functions, *self._kernels.values(), step, self._driver()], self.slots, locations)

    def _segment(self, name: str, nests: Sequence[Sequence[Work]]) -> list[Function]:
        """A function that goes once over the rows, and others that it calls."""
        f = Function(name, PARAMETERS, linkage="internal")
        functions = [f]
        _, _, start, stop = f.parameters
        with f.loop(start, stop) as b:
            row = Row(f, b, self)
            if sum(map(len, nests)) >= LONGEST:  # apart, where the compiler moves no addresses out of the loop
                apart = Function(f"{name}_row", f"{PARAMETERS}, i64 b", linkage="internal", attributes="noinline")
                f.call("void", apart.name, *f.parameters, b)
                functions.append(apart)
                row = Row(apart, apart.parameters[-1], self)
            for works in nests:
                Nest(row, works).write()
        return functions

    def _product(self, f: Function, op: Op) -> None:
        """A product of rows with a packed matrix, for all rows at once if they are equally far apart."""
        x, matrix = op.values
        k, n = matrix.shape
        _, _, first, end = f.parameters
        count = end - first
        code = f.parameters[0].pointing_to("ptr").load()
        packed = self.packed[matrix].row(f, first)
        sides: list[tuple[Register, Register, int]] = []
        for value in (x, op.output):
            place, slot = self.layout(value), self.location(value).slot
            distance = _even_rows(value, place)
            assert distance is not None
            row = slot.row(f, first)
            sides.append((row + place.offset if place.offset else row, slot.word(f, 2), distance))
        (a, a_row, a_distance), (c, c_row, c_distance) = sides
        per_row = row_size(x) // k
        zero = f.constant("i32", 0)
        if per_row == 1:
            f.call("void", code, count, n, k, a, a_row, packed, c, c_row, zero)
            return
        even = a_row.equals(per_row * a_distance) & c_row.equals(per_row * c_distance)
        with f.loop(0, even.select(1, count)) as i:
            rows = even.select(count * per_row, per_row)
            f.call("void", code, rows, n, k, a + i * a_row, a_distance, packed, c + i * c_row, c_distance, zero)

    def _is_large(self, op: Op) -> bool:
        """Whether an operation is a product with a packed matrix, or one of rows with rows that needs no loops here."""
        if op.name != "matmul" or packs(op):
            return op.name == "matmul"
        m, n, k = *op.output.shape[-2:], op.values[0].shape[-1]
        return min(m, n, k) > 1 and m * n * k >= LARGE

    def _row_product(self, f: Function, op: Op) -> None:
        """A product of rows with rows, for every row, by a kernel for such sizes and strides."""
        *lead, m, n = op.output.shape[1:]
        places = [self.layout(x) for x in (*op.values, op.output)]
        shape, strides = (m, n, op.values[0].shape[-1]), tuple(place.strides[-2:] for place in places)
        if (shape, strides) not in self._kernels:
            name = f"{self.name}_product{len(self._kernels)}"
            kernel = batched.product(name, shape=shape, strides=strides, dtype=self.dtype, lanes=self.width)
            self._kernels[shape, strides] = kernel
        _, _, first, end = f.parameters
        with contextlib.ExitStack() as loops:
            row = loops.enter_context(f.loop(first, end))
            addresses = [self.slot_of(place.root).row(f, row) + place.offset for place in places]
            for axis, length in enumerate(lead):
                i = loops.enter_context(f.loop(0, length))
                steps = [_aligned(place.strides[:-2], len(lead))[axis] for place in places]
                addresses = [address + i * step for address, step in zip(addresses, steps, strict=True)]
            f.call("void", self._kernels[shape, strides].name, *addresses)

    def _driver(self) -> Function:
        """The entry point: a loop over all steps, or over all rows in blocks."""
        parameters = "i64* args, i64 t0, i64 steps, i64 dt, i64 b0, i64 b1"
        f = Function(f"{self.name}_run", parameters)
        args, start, steps, dt, first, end = f.parameters
        with jit.without_denormals(f):
            if self.loop:
                with f.loop(0, steps) as i:
                    f.call("void", f"{self.name}_step", args, start + i * dt, first, end)
            else:  # "steps" is the number of rows per block
                row = f.variable(first)
                with f.forever():
                    b = row.get()
                    with f.when(b >= end):
                        f.leave()
                    after = (b + steps).intrinsic("smin", end)
                    f.call("void", f"{self.name}_step", args, 0, b, after)
                    row.set(after)
        return f


class _Ready:
    """Tracks which operations have all their operands.

    Args:
        works: all operations in order, those without loops as they are.
        source: the computed value with the same elements as a value.
        there: values that exist before.

    Attributes:
        count: the number of operations not yet taken.
    """

    def __init__(self, works: Sequence[Work | Op], source: Callable[[Value], Value], there: set[Value]) -> None:
        self.works, self.count = works, len(works)
        self._users: dict[Value, list[int]] = {}
        self._missing: list[int] = []
        self._aliases: list[int] = []
        self._products: list[int] = []
        self._by_size: dict[int, list[int]] = {}  # heaps
        for at, work in enumerate(works):
            if isinstance(work, Op):
                needed = {source(x) for x in work.values} - there
            else:  # the state of memory before it is the second input of an addition to it
                before = work.op.values[1:] if work.name == "add_to" else ()
                needed = {x for x in (*work.operands, *before) if isinstance(x, Value)} - there
            self._missing.append(len(needed))
            for x in needed:
                self._users.setdefault(x, []).append(at)
            if not needed:
                self.put(at)

    def put(self, at: int) -> None:
        """Mark an operation as ready."""
        work = self.works[at]
        if isinstance(work, Work):
            heapq.heappush(self._by_size.setdefault(work.size, []), at)
        elif work.name == "matmul":
            self._products.append(at)
        else:
            self._aliases.append(at)

    def made(self, value: Value) -> None:
        """Mark a value as computed."""
        for at in self._users.pop(value, ()):
            self._missing[at] -= 1
            if not self._missing[at]:
                self.put(at)

    def pass_aliases(self) -> None:
        """Take ready operations that need no code."""
        while self._aliases:
            self.count -= 1
            work = self.works[self._aliases.pop()]
            assert isinstance(work, Op)
            self.made(work.output)

    def next_size(self) -> int | None:
        """The smallest size of a ready operation with loops, so that more large ones can share; None without one."""
        return min((size for size, ready in self._by_size.items() if ready), default=None)

    def take(self, size: int) -> int | None:
        """The first ready operation of a size; None if there is none."""
        ready = self._by_size.get(size)
        return heapq.heappop(ready) if ready else None

    def take_products(self) -> list[Op]:
        """The ready products, in order."""
        taken, self._products = sorted(self._products), []
        self.count -= len(taken)
        return [work for work in map(self.works.__getitem__, taken) if isinstance(work, Op)]


# --- indices and strides ----------------------------------------------------------------------------------------------

Index = tuple[Any, ...]
"""For each axis of a row a slice or, for one of them, an array of integers."""


def packs(op: Op) -> bool:
    """Whether an operation is a product with a fixed matrix that is packed; products with vectors share loops."""
    if op.name != "matmul":
        return False
    x, matrix = op.values
    return matrix.ndim == 2 and (x.ndim == 2 or 1 not in matrix.shape)


def is_view(op: Op) -> bool:
    """Whether the result of an operation is elements of its operand, evenly spaced."""
    if op.name == "getitem":
        index = op.options["index"]
        return all(part is ... or isinstance(part, slice) for part in (index if isinstance(index, tuple) else (index,)))
    return op.name in ("reshape", "transpose")


def _inner_index(index: Any, ndim: int) -> Index:
    """An index of rows, without its first part, with one part for each axis of a row."""
    parts = list(index) if isinstance(index, tuple) else [index]
    at = next((i for i, part in enumerate(parts) if part is ...), len(parts))
    parts[at : at + 1] = [slice(None)] * (ndim + 1 - len(parts) + (at < len(parts)))
    return tuple(parts[1:])


def _swapped(ndim: int) -> tuple[int, ...]:
    """The axes with the last two exchanged."""
    return (*range(ndim - 2), ndim - 1, ndim - 2)


def _swap(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(shape[axis] for axis in _swapped(len(shape)))


def _ranges(op: Op) -> list[Index]:
    """The indices of the parts of a concatenation."""
    axis, end, indices = op.options["axis"] % op.output.ndim, 0, []
    for x in op.values:
        start, end = end, end + x.shape[axis]
        indices.append(_inner_index((*[slice(None)] * axis, slice(start, end)), op.output.ndim - 1))
    return indices


def _chosen(shape: Sequence[int], strides: Sequence[int], index: Index) -> tuple[int, tuple[int, ...]]:
    """The offset and strides of slices of an array."""
    offset, found = 0, []
    for n, stride, part in zip(shape, strides, index, strict=True):
        start, stop, step = part.indices(n)
        offset += start * stride
        found.append(step * stride if len(range(start, stop, step)) > 1 else 0)
    return offset, tuple(found)


def _covers(shape: Sequence[int], indices: Sequence[Index]) -> bool:
    """Whether slices choose every element exactly once."""
    if not all(isinstance(part, slice) for index in indices for part in index):
        return False
    count = np.zeros(shape, np.int8)
    for index in indices:
        count[index] += 1
    return bool((count == 1).all())


def _reduced(op: Op) -> frozenset[int]:
    """The axes of a row that a reduction combines."""
    axis, ndim = op.options["axis"], op.values[0].ndim
    return frozenset(a % ndim - 1 for a in (axis if isinstance(axis, tuple) else (axis,)))


def _aligned(strides: Sequence[int], ndim: int) -> tuple[int, ...]:
    """The strides of an array that is broadcast to so many axes; where its length is 1 they are 0."""
    return tuple([*[0] * ndim, *strides][len(strides) :])


def _even_rows(value: Value, place: Place) -> int | None:
    """The distance between the vectors along the last axis; None if it varies, or they are not adjacent numbers."""
    *shape, n = value.shape[1:]
    *strides, last = place.strides
    found = reshaped(shape, strides, (math.prod(shape),)) if last == 1 or n == 1 else None
    return None if found is None else found[0]


def module(code: Code) -> str:
    """The module of a body."""
    return llvm.module(*code.parts)
