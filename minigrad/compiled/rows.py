"""LLVM text for operations on rows: fused elementwise loops, reductions along a row, and matrix products."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from minigrad.compiled import jit
from minigrad.compiled.emitter import FUNCTIONS, RESULT_IS_MASK, Emitter, emit_clip, emit_number
from minigrad.compiled.slots import Indices, Location, LookedUp, Rows, Scratch, Slot, size_of
from minigrad.graph import Op, Operand, TraceError, Value, columns_of, width_of

ALIASES = frozenset({"getitem", "reshape", "concatenate"})
"""Operations without code: their results are parts of other results."""


@dataclass(eq=False)
class Code:
    """The generated code of a body.

    Attributes:
        text: functions in LLVM text; ``run`` is the entry point.
        slots: its arguments, in this order.
        locations: the locations of the requested values.
    """

    text: str
    slots: list[Slot]
    locations: dict[Value, Location]
    declarations: set[str] = field(default_factory=set)


_Slot = TypeVar("_Slot", bound=Slot)


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

    def slot(self, kind: type[_Slot], value: Value, size: int | None = None, **more: Any) -> _Slot:
        """A new slot of a class, by default as large as a row of the value."""
        slot = kind(
            size_of(value) if size is None else size,
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
        """Assign memory: copy values needed at two locations, and find the values that must be stored."""
        self.makers = {op.output: op for op in self.ops}
        self.member: dict[Value, tuple[Value, int]] = {}
        self.same_location: dict[Value, Location] = {}
        new_ops: list[Op] = []
        for op in self.ops:
            if op.name != "concatenate":
                new_ops.append(op)
                continue
            joined = self._adjacent(op)
            if joined is not None:
                self.same_location[op.output] = Location.of(joined.slot, op.output, joined.offset)
                continue
            inputs = []
            column = 0
            for x in op.values:
                if x not in self.makers or self.makers[x].name in ALIASES or x in self.member or x in self.exclusive:
                    copy = Value(x.shape, x.dtype)
                    new_ops.append(Op("alias", (x,), {}, copy))
                    self.makers[copy] = new_ops[-1]
                    x = copy
                self.member[x] = (op.output, column)
                column += width_of(x)
                inputs.append(x)
            joined_op = Op(op.name, tuple(inputs), op.options, op.output)
            self.makers[op.output] = joined_op
            new_ops.append(joined_op)
        self.ops = new_ops
        self._copy_aliases()
        self.own: dict[Value, Location] = {}
        stored_roots = {self.root(v) for v in self.stored if v not in self.given}
        self.stored_roots = stored_roots

    def _copy_aliases(self) -> None:
        """Copy values that need their own location, but are views of values elsewhere."""
        asked = {*self.stored, *self.exclusive}
        ops: list[Op] = []
        for op in self.ops:
            value = op.output
            if op.name == "matmul":
                location = self.given.get(self.root(op.values[0]))
                if location is not None and isinstance(location.slot, LookedUp):  # rows at irregular distances
                    rows = Value(op.values[0].shape, value.dtype)
                    ops.append(Op("alias", op.inputs[:1], {}, rows))
                    self.makers[rows] = ops[-1]
                    op = Op(op.name, (rows, op.inputs[1]), op.options, value)
            if op.name in ("getitem", "reshape") and value in asked:
                whole = self.root(op.values[0])
                location = self.given.get(whole)
                moving = location is not None and not isinstance(location.slot, Rows)
                if value in self.exclusive or whole in self.exclusive or moving:
                    part = Value(value.shape, value.dtype)
                    ops.append(Op(op.name, op.inputs, op.options, part))
                    op = Op("alias", (part,), {}, value)
                    self.makers[part] = ops[-1]
                    self.makers[value] = op
            ops.append(op)
        self.ops = ops

    def _adjacent(self, op: Op) -> Location | None:
        """The location of a concatenation whose parts are already adjacent."""
        locations = [self.given.get(x) for x in op.values]
        if any(p is None for p in locations):
            return None
        first = locations[0]
        column = first.offset  # type: ignore[union-attr]
        for x, location in zip(op.values, locations, strict=True):
            adjacent = location.slot is first.slot and location.offset == column  # type: ignore[union-attr]
            if not adjacent or not isinstance(location.slot, Rows):  # type: ignore[union-attr]
                return None
            column += width_of(x)
        return first

    def root(self, value: Value) -> Value:
        """The value that owns the memory of ``value``."""
        while True:
            if value in self.given or value in self.exclusive or value in self.same_location:
                return value
            if value in self.member:
                value = self.member[value][0]
            elif value in self.makers and self.makers[value].name in ("getitem", "reshape"):
                value = self.makers[value].values[0]
            else:
                return value

    def location(self, value: Value) -> Location:
        """The location of a value."""
        if value in self.given:
            return self.given[value]
        if value in self.exclusive:
            return self.exclusive[value]
        if value in self.same_location:
            return self.same_location[value]
        if value in self.member:
            whole, column = self.member[value]
            location = self.location(whole)
            return Location.of(location.slot, value, location.offset + column)
        op = self.makers[value]
        if op.name == "getitem":
            location = self.location(op.values[0])
            columns = columns_of(op)
            assert columns is not None
            return Location.of(location.slot, value, location.offset + columns[0])
        if op.name == "reshape":
            location = self.location(op.values[0])
            return Location.of(location.slot, value, location.offset)
        if value not in self.own:
            kind = Rows if value in self.stored_roots else Scratch
            self.own[value] = self.place(kind, value)
        return self.own[value]

    # --- the order ----------------------------------------------------------------------------------------------------

    def schedule(self) -> list[Op | list[tuple[int, list[Op]]]]:
        """Products, and between them segments: lists of groups, each a width and the operations that share a loop."""
        ready = _Ready(
            [op for op in self.ops if op.output not in self.same_location],
            self.added,
            {*self.given, *self.fixed, *self.packed, *self.same_location},
        )
        plan: list[Op | list[tuple[int, list[Op]]]] = []
        while ready.count:
            segment: list[tuple[int, list[Op]]] = []
            while True:
                ready.pass_aliases()
                width = ready.next_width()
                if width is None:
                    break
                segment.append((width, self._group(ready, width)))
            if segment:
                plan.append(segment)
            products = ready.take_products()
            if ready.count and not products and not segment:
                raise AssertionError("a body that cannot be ordered")  # a graph's operations always can
            for op in products:
                ready.made(op.output)
            plan += products
        return plan

    def _group(self, ready: _Ready, width: int) -> list[Op]:
        """All operations of one width that can share the next loop, those after those that they need."""
        group: list[Op] = []
        local: set[Value] = set()  # computed in this loop, so available in registers
        late: list[Value] = []  # available only after the loop
        put_off: list[int] = []
        while wave := ready.take(width):
            for at in wave:
                op = ready.ops[at]
                if (group and not self.fuse) or (op.name == "pick" and op.values[0] in local):
                    put_off.append(at)
                    continue
                ready.count -= 1
                group.append(op)
                if op.name not in REDUCTIONS or width == 1:
                    local.add(op.output)
                    if self.fuse:
                        ready.made(op.output)
                        continue
                late.append(op.output)
        for v, slot in ready.take_sums(width, local):
            group.append(Op("<add>", (v,), {"slot": slot}, Value((), v.dtype)))
        for value in late:
            ready.made(value)
        for at in put_off:
            ready.put(at)
        return group

    # --- the text -----------------------------------------------------------------------------------------------------

    def generate(self) -> Code:
        """Generate the functions."""
        self.assign_memory()
        order = self.schedule()
        self._find_memory(order)
        for v in self.stored:
            self.location(v)
        text: list[str] = []
        step = Emitter(self.dtype, 1)
        declarations: set[str] = set(jit.flushing()[2])
        for number, item in enumerate(order):
            if isinstance(item, Op):
                self._product(step, item)
            else:
                function = f"{self.name}_rows{number}"
                lines, declared = self._segment(function, item)
                text += lines
                declarations |= declared
                step.line(f"call void @{function}(ptr %args, i64 %t, i64 %b0, i64 %b1)")
        text.append(f"define internal void @{self.name}_step(ptr noalias readonly %args, i64 %t, i64 %b0, i64 %b1) {{")
        text += [*step.lines, "ret void", "}", self._driver()]
        locations = {v: self.location(v) for v in (*self.stored, *self.given)}
        return Code("\n".join(text), self.slots, locations, declarations)

    def _find_memory(self, order: Sequence[Op | list[tuple[int, list[Op]]]]) -> None:
        """Find the values that must be stored, and those that stay in a register between loops."""
        where: dict[Value, tuple[int, int]] = {}
        for i, item in enumerate(order):
            for j, (_, group) in enumerate(item if isinstance(item, list) else []):
                for op in group:
                    where[op.output] = (i, j)
        self.in_memory: set[Value] = set(self.member) | set(self.exclusive)
        stored_or_alias = set(self.stored)
        for op in self.ops:
            if op.name in ("getitem", "reshape"):
                self.in_memory.add(op.values[0])
        for i, item in enumerate(order):
            if isinstance(item, Op):
                self.in_memory.add(item.values[0])
                continue
            for j, (_, group) in enumerate(item):
                for op in group:
                    for x in op.values:
                        # One number per row stays in a register until the row is finished.
                        if where.get(x, (i, j)) != (i, j) and (width_of(x) > 1 or where[x][0] != i):
                            self.in_memory.add(x)
                        if op.name == "pick" and x is op.values[0]:
                            self.in_memory.add(x)
        self.in_memory |= {v for v in stored_or_alias if v in where}

    def _product(self, em: Emitter, op: Op) -> None:
        x, matrix = op.values
        k, n = matrix.shape
        pointers, strides = [], []
        for location in (self.location(x), self.location(op.output)):
            pointers.append(pointer_to(em, location, "%b0"))
            strides.append(location.slot.word(em, 2))
        packed = self.packed[matrix].row(em, "%b0", "%t", "%b0")
        product = em.assign("load ptr, ptr %args")
        count = em.assign("sub i64 %b1, %b0")
        em.line(
            f"call void {product}(i64 {count}, i64 {n}, i64 {k}, ptr {pointers[0]}, i64 {strides[0]}, "
            f"ptr {packed}, ptr {pointers[1]}, i64 {strides[1]}, i32 0)"
        )

    def _segment(self, function: str, groups: list[tuple[int, list[Op]]]) -> tuple[list[str], set[str]]:
        writer = _Segment(self, groups)
        return writer.function(function), writer.declarations

    def _driver(self) -> str:
        """The entry point: a loop over all steps, or over all rows in blocks."""
        enter, leave, _ = jit.flushing()
        if self.loop:
            return f"""define void @{self.name}_run(ptr %args, i64 %t0, i64 %steps, i64 %dt, i64 %b0, i64 %b1) {{
entry:{enter}
  %none = icmp sle i64 %steps, 0
  br i1 %none, label %end, label %loop
loop:
  %i = phi i64 [0, %entry], [%i1, %loop]
  %t = phi i64 [%t0, %entry], [%t1, %loop]
  call void @{self.name}_step(ptr %args, i64 %t, i64 %b0, i64 %b1)
  %i1 = add i64 %i, 1
  %t1 = add i64 %t, %dt
  %more = icmp slt i64 %i1, %steps
  br i1 %more, label %loop, label %end
end:{leave}
  ret void
}}"""
        return f"""define void @{self.name}_run(ptr %args, i64 %t0, i64 %block, i64 %dt, i64 %b0, i64 %b1) {{
entry:{enter}
  %none = icmp sge i64 %b0, %b1
  br i1 %none, label %end, label %loop
loop:
  %b = phi i64 [%b0, %entry], [%next, %loop]
  %next = add i64 %b, %block
  %past = icmp sgt i64 %next, %b1
  %stop = select i1 %past, i64 %b1, i64 %next
  call void @{self.name}_step(ptr %args, i64 0, i64 %b, i64 %stop)
  %more = icmp slt i64 %next, %b1
  br i1 %more, label %loop, label %end
end:{leave}
  ret void
}}"""


def pointer_to(em: Emitter, location: Location, b: str) -> str:
    """A pointer to a location in the row of sequence ``b``, in a function with the parameters of a step."""
    row = location.slot.row(em, b, "%t", "%b0")
    if not location.offset:
        return row
    return em.assign(f"getelementptr {location.slot.type}, ptr {row}, i64 {location.offset}")


class _Ready:
    """Tracks which operations and sums have all their operands.

    Attributes:
        ops: all operations, in order.
        count: the number of them, and of the sums, not yet taken.
    """

    def __init__(self, ops: list[Op], sums: Sequence[tuple[Value, Slot]], there: Iterable[Value]) -> None:
        self.ops = ops
        self.count = len(ops) + len(sums)
        there = set(there)
        self._users: dict[Value, list[int]] = {}
        self._missing: list[int] = []
        self._aliases: list[int] = []
        self._products: list[int] = []
        self._by_width: dict[int, list[int]] = {}  # heaps
        self._sums_of: dict[Value, list[tuple[int, Value, Slot]]] = {}
        self._sums: dict[int, list[tuple[int, Value, Slot]]] = {}
        for at, op in enumerate(ops):
            needed = {x for x in op.values if x not in there}
            self._missing.append(len(needed))
            for x in needed:
                self._users.setdefault(x, []).append(at)
            if not needed:
                self.put(at)
        for number, (v, slot) in enumerate(sums):
            if v in there:
                self._sums.setdefault(width_of(v), []).append((number, v, slot))
            else:
                self._sums_of.setdefault(v, []).append((number, v, slot))

    def put(self, at: int) -> None:
        """Mark an operation as ready."""
        op = self.ops[at]
        if op.name in ALIASES:
            self._aliases.append(at)
        elif op.name == "matmul":
            self._products.append(at)
        else:
            heapq.heappush(self._by_width.setdefault(_domain(op), []), at)

    def made(self, value: Value) -> None:
        """Mark a value as computed."""
        for at in self._users.pop(value, ()):
            self._missing[at] -= 1
            if not self._missing[at]:
                self.put(at)
        for total in self._sums_of.pop(value, ()):
            self._sums.setdefault(width_of(value), []).append(total)

    def pass_aliases(self) -> None:
        """Take ready operations that need no code."""
        while self._aliases:
            self.count -= 1
            self.made(self.ops[self._aliases.pop()].output)

    def next_width(self) -> int | None:
        """The width of the first ready operation, or else sum, with a loop; None if there is none."""
        firsts = [(heap[0], width) for width, heap in self._by_width.items() if heap]
        sums = [(min(number for number, _, _ in totals), width) for width, totals in self._sums.items() if totals]
        return min(firsts)[1] if firsts else min(sums)[1] if sums else None

    def take(self, width: int) -> list[int]:
        """The ready operations of a width, in order."""
        return sorted(self._by_width.pop(width, ()))

    def take_sums(self, width: int, local: Iterable[Value]) -> list[tuple[Value, Slot]]:
        """The ready sums of a width, including those of values in registers."""
        taken = self._sums.pop(width, [])
        for value in local:
            taken += self._sums_of.pop(value, ())
        self.count -= len(taken)
        return [(v, slot) for _, v, slot in sorted(taken, key=lambda total: total[0])]

    def take_products(self) -> list[Op]:
        """The ready products, in order."""
        taken, self._products = sorted(self._products), []
        self.count -= len(taken)
        return [self.ops[at] for at in taken]


REDUCTIONS = frozenset({"sum", "max"})


def _domain(op: Op) -> int:
    """The number of columns of an operation's loop."""
    return width_of(op.values[0]) if op.name in REDUCTIONS else width_of(op.output)


class _Segment:
    """One function: a loop over rows, with one loop over columns per group."""

    def __init__(self, body: Body, groups: list[tuple[int, list[Op]]]) -> None:
        self.body, self.groups = body, groups
        self.lines: list[str] = []
        self.declarations: set[str] = set()
        self.count = itertools.count()
        self.start = self.emitter(1)  # the beginning of a row: its addresses
        self.start.lines = []
        self.scalars: dict[Value, str] = {}  # numbers of this row, and their splats by name
        self.masks: set[str] = set()
        self.label = "row"

    def emitter(self, width: int) -> Emitter:
        em = Emitter(self.body.dtype, width)
        em.lines = self.lines
        em._count = self.count
        em.declarations = self.declarations
        return em

    def function(self, name: str) -> list[str]:
        head = [f"define internal void @{name}(ptr noalias readonly %args, i64 %t, i64 %b0, i64 %b1) {{", "entry:"]
        self.addresses: dict[tuple[Slot, int], str] = {}
        body_lines = self.lines
        for width, group in self.groups:
            self._group(width, group)
        foot = [
            "br label %latch",
            "latch:",
            "%b.next = add i64 %b, 1",
            "%b.more = icmp slt i64 %b.next, %b1",
            "br i1 %b.more, label %row, label %end",
            "end:",
            "ret void",
            "}",
        ]
        start = ["%none = icmp sge i64 %b0, %b1", "br i1 %none, label %end, label %row", "row:"]
        start.append("%b = phi i64 [%b0, %entry], [%b.next, %latch]")
        return head + start + self.start.lines + body_lines + foot

    def address(self, location: Location) -> str:
        """A pointer to a location in this row."""
        key = location.slot, location.offset
        if key not in self.addresses:
            self.addresses[key] = pointer_to(self.start, location, "%b")
        return self.addresses[key]

    def _group(self, width: int, group: list[Op]) -> None:
        if width == 1:
            self._chunk(self.emitter(1), group, None, None, {})
            return
        W = self.body.width
        reductions = [op for op in group if op.name in REDUCTIONS]
        sums: dict[Value, str] = {}
        full = width // W * W
        em = self.emitter(W)
        for op in reductions:
            sums[op.output] = em.constant(0 if op.name == "sum" else float("-inf"))
        if full:
            number = next(self.count)
            before, loop = self.label, f"g{number}"
            self.lines += [f"br label %{loop}", f"{loop}:"]
            self.lines.append(f"%j{number} = phi i64 [0, %{before}], [%j{number}.next, %{loop}]")
            phis = {op.output: f"%acc{number}.{i}" for i, op in enumerate(reductions)}
            for value, register in phis.items():
                self.lines.append(f"{register} = phi {em.type} [{sums[value]}, %{before}], [{register}.next, %{loop}]")
            self.label = loop
            new = self._chunk(em, group, f"%j{number}", None, phis)
            for value, register in phis.items():
                self.lines.append(f"{register}.next = fadd {em.type} {new[value]}, {em.constant(-0.0)}")
                sums[value] = f"{register}.next"
            self.lines += [
                f"%j{number}.next = add i64 %j{number}, {W}",
                f"%j{number}.more = icmp slt i64 %j{number}.next, {full}",
                f"br i1 %j{number}.more, label %{loop}, label %g{number}.end",
                f"g{number}.end:",
            ]
            self.label = f"g{number}.end"
        if width > full:
            live = ", ".join(f"i1 {'true' if i < width - full else 'false'}" for i in range(W))
            sums |= self._chunk(em, group, str(full), f"<{live}>", sums)
        for op in reductions:
            kind = f"v{W}f{em.format.bits}"
            if op.name == "sum":
                self.declarations.add(f"declare {em.dtype} @llvm.vector.reduce.fadd.{kind}({em.dtype}, {em.type})")
                operands = f"{em.dtype} -0.0, {em.type} {sums[op.output]}"
                call = f"call reassoc {em.dtype} @llvm.vector.reduce.fadd.{kind}({operands})"
            else:
                self.declarations.add(f"declare {em.dtype} @llvm.vector.reduce.fmaximum.{kind}({em.type})")
                call = f"call {em.dtype} @llvm.vector.reduce.fmaximum.{kind}({em.type} {sums[op.output]})"
            one = self.emitter(1)
            result = one.assign(call)
            self.scalars[op.output] = result
            if op.output in self.body.in_memory:
                self._store(one, op.output, result, None, None)

    def _chunk(
        self, em: Emitter, group: list[Op], j: str | None, live: str | None, sums: Mapping[Value, str]
    ) -> dict[Value, str]:
        """The operations of a group on one vector of columns (or one scalar); returns the new partial sums."""
        known: dict[Value, str] = {}
        new: dict[Value, str] = {}
        for op in group:
            if op.name == "<add>":
                self._accumulate(em, op, known, j, live)
                continue
            if op.name in REDUCTIONS and em.width > 1:
                x = self._number(em, op.values[0], known, j, live)
                if live is not None:
                    neutral = em.constant(0 if op.name == "sum" else float("-inf"))
                    x = em.assign(f"select {em.mask_type} {live}, {em.type} {x}, {em.type} {neutral}")
                name = "add" if op.name == "sum" else "maximum"
                new[op.output] = FUNCTIONS[name](em, [sums[op.output], x])
                continue
            known[op.output] = result = self._compute(em, op, known, j, live)
            if em.width == 1 and width_of(op.output) == 1:
                self.scalars[op.output] = result
            if op.output in self.body.in_memory:
                stored = emit_number(em, result) if result in self.masks else result
                self._store(em, op.output, stored, j, live)
        return new

    def _compute(self, em: Emitter, op: Op, known: Mapping[Value, str], j: str | None, live: str | None) -> str:
        name = op.name
        if name in ("alias", "broadcast_to") or name in REDUCTIONS:  # a reduction over one column
            return self._operand(em, op.inputs[0], known, j, live)
        if name == "pick":
            x, index = op.values
            pointer, index_register = self.address(self.body.location(x)), self._index(index)
            element = em.assign(f"getelementptr {em.dtype}, ptr {pointer}, i64 {index_register}")
            return em.assign(f"load {em.dtype}, ptr {element}")
        if name == "place":
            x, index = op.values
            return self._placed(em, self._operand(em, x, known, j, live), self._index(index), j)
        if name == "where":
            condition = self._mask(em, op.inputs[0], known, j, live)
            return em.select(condition, *(self._number(em, x, known, j, live) for x in op.inputs[1:]))
        if name == "clip":
            if any(np.ndim(bound) for bound in op.options.values() if bound is not None):
                raise TraceError("it clips to the elements of an array", op.output.origin)
            return emit_clip(em, [self._number(em, op.inputs[0], known, j, live)], **op.options)
        if name not in FUNCTIONS:
            raise TraceError(f"its {name} has no kernel", op.output.origin)
        take = self._mask if name.startswith("logical") else self._number
        result = FUNCTIONS[name](em, [take(em, x, known, j, live) for x in op.inputs])
        if name in RESULT_IS_MASK:
            self.masks.add(result)
        return result

    def _placed(self, em: Emitter, x: str, index: str, j: str | None) -> str:
        if em.width == 1:
            here = em.assign(f"icmp eq i64 {index}, 0")
        else:
            vector = f"<{em.width} x i64>"
            lanes = ", ".join(f"i64 {i}" for i in range(em.width))
            offset = em.assign(f"sub i64 {index}, {j}")
            one = em.assign(f"insertelement {vector} poison, i64 {offset}, i64 0")
            wide = em.assign(f"shufflevector {vector} {one}, {vector} poison, <{em.width} x i32> zeroinitializer")
            here = em.assign(f"icmp eq {vector} {wide}, <{lanes}>")
        return em.select(here, x, em.constant(0))

    def _index(self, value: Value) -> str:
        if value.dtype.kind not in "iu":
            raise TraceError("it picks by indices that are not integers", value.origin)
        if value not in self.scalars:
            self.scalars[value] = self.start.assign(f"load i64, ptr {self.address(self.body.location(value))}")
        return self.scalars[value]

    def _number(self, em: Emitter, x: Operand, known: Mapping[Value, str], j: str | None, live: str | None) -> str:
        register = self._operand(em, x, known, j, live)
        return emit_number(em, register) if register in self.masks else register

    def _mask(self, em: Emitter, x: Operand, known: Mapping[Value, str], j: str | None, live: str | None) -> str:
        if isinstance(x, bool):
            return em.mask(x)
        register = self._operand(em, x, known, j, live)
        return register if register in self.masks else em.compare("une", register, em.constant(0))

    def _operand(self, em: Emitter, x: Operand, known: Mapping[Value, str], j: str | None, live: str | None) -> str:
        """A register with this vector of a value."""
        if not isinstance(x, Value):
            return em.constant(float(x))
        if x in known:
            return known[x]
        if x.dtype.kind not in "fb":
            raise TraceError(f"it computes with {x.dtype} numbers", x.origin)
        register = self._loaded(em, x, j, live)
        if isinstance(known, dict):
            known[x] = register
        return register

    def _loaded(self, em: Emitter, x: Value, j: str | None, live: str | None) -> str:
        fixed = self.body.fixed.get(x)
        width = x.shape[-1] if fixed is not None and x.shape else 1 if fixed is not None else width_of(x)
        if x in self.scalars:
            scalar = self.scalars[x]
            if scalar not in self.masks:
                return em.splat(scalar)
            scalar = emit_number(self.emitter(1), scalar)
            return em.splat(scalar)
        pointer = self.address(self.body.location(x) if fixed is None else Location(fixed, 0, ()))
        if width == 1:
            one = self.emitter(1)
            return em.splat(one.assign(f"load {em.dtype}, ptr {pointer}"))
        return self._load(em, pointer, j, live)

    def _load(self, em: Emitter, pointer: str, j: str | None, live: str | None) -> str:
        if em.width == 1:
            return em.assign(f"load {em.dtype}, ptr {pointer}")
        at = em.assign(f"getelementptr {em.dtype}, ptr {pointer}, i64 {j}")
        align = em.format.bits // 8
        if live is None:
            return em.assign(f"load {em.type}, ptr {at}, align {align}")
        function = f"@llvm.masked.load.v{em.width}f{em.format.bits}.p0"
        self.declarations.add(f"declare {em.type} {function}(ptr, i32, {em.mask_type}, {em.type})")
        return em.assign(
            f"call {em.type} {function}(ptr {at}, i32 {align}, {em.mask_type} {live}, {em.type} zeroinitializer)"
        )

    def _store(self, em: Emitter, value: Value, register: str, j: str | None, live: str | None) -> None:
        self._store_at(em, self.address(self.body.location(value)), register, j, live)

    def _store_at(self, em: Emitter, pointer: str, register: str, j: str | None, live: str | None) -> None:
        if em.width == 1:
            em.line(f"store {em.dtype} {register}, ptr {pointer}")
            return
        at = em.assign(f"getelementptr {em.dtype}, ptr {pointer}, i64 {j}")
        align = em.format.bits // 8
        if live is None:
            em.line(f"store {em.type} {register}, ptr {at}, align {align}")
            return
        function = f"@llvm.masked.store.v{em.width}f{em.format.bits}.p0"
        self.declarations.add(f"declare void {function}({em.type}, ptr, i32, {em.mask_type})")
        em.line(f"call void {function}({em.type} {register}, ptr {at}, i32 {align}, {em.mask_type} {live})")

    def _accumulate(self, em: Emitter, op: Op, known: Mapping[Value, str], j: str | None, live: str | None) -> None:
        x = self._number(em, op.inputs[0], known, j, live)
        pointer = self.address(Location(op.options["slot"], 0, ()))
        old = self._load(em, pointer, j, live)
        self._store_at(em, pointer, em.binary("fadd", old, x), j, live)


def module(codes: Iterable[Code]) -> str:
    """One module of several bodies."""
    codes = list(codes)
    declarations = sorted(set().union(*(code.declarations for code in codes)))
    return "\n\n".join([*declarations, *(code.text for code in codes)])
