"""Turn the stages of a program into machine code: what each slot of the code contains, and whose memory that is."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence, Set
from typing import Any

import numpy as np

from minigrad.compiled import jit, rows, slots
from minigrad.compiled.slots import Slot
from minigrad.graph import Graph, Op, Operand, TraceError, Value
from minigrad.scan.program import Body, Program, Stage, Sum


def function(library: jit.Library, name: str, kinds: str) -> Any:
    """A function of a library, with a letter per argument: q and i for integers, d for doubles, P for addresses."""
    types: dict[str, Any] = {"q": ctypes.c_int64, "i": ctypes.c_int32, "d": ctypes.c_double, "P": ctypes.c_void_p}
    return ctypes.CFUNCTYPE(None, *[types[kind] for kind in kinds])(library.address(name))


class Inputs:
    """A program's inputs.

    Attributes:
        given: those of each step and of the context; their memory and that of their cotangents belongs to the caller.
        source: as in ``Program.sources``.
        indices: for each input that is looked up, the value of its indices.
        limits: for each index that picks an element, the number of elements.
        per_sequence: as in ``Program``.
        fuse: whether neighbouring operations share one pass over the rows.
        dtype: of all floats.

    Raises:
        TraceError: there are inputs or results that machine code cannot compute with.
    """

    def __init__(self, program: Program) -> None:
        floats = {x.dtype for x in (*program.params, *program.carry, *program.xs, *program.context)}
        floats |= {op.output.dtype for op in program.graph.ops}
        floats = {dtype for dtype in floats if dtype.kind == "f"}
        if len(floats) != 1 or not floats <= {np.dtype(np.float32), np.dtype(np.float64)}:
            raise TraceError(f"it computes in {' and '.join(sorted(map(str, floats))) or 'no float type'}")
        (self.dtype,) = floats
        for x in (*program.carried, *program.ys):
            if x.dtype != self.dtype:
                raise TraceError(f"its carry or output has {x.dtype} numbers", x.origin)
        self.given = {*program.xs, *program.context}
        self.per_sequence = program.per_sequence
        self.fuse = "fuse" not in program.without
        self.source = program.sources()
        self.indices = {x: Value((0,), np.int64) for x in program.tables}
        self.limits: dict[Value, int] = {}
        for op in program.graph.ops:
            if op.name in ("pick", "place"):
                width = (op.values[0] if op.name == "pick" else op.output).shape[-1]
                if self.limits.setdefault(op.values[1], width) != width:
                    raise TraceError("it picks from rows of several widths by one index", op.output.origin)


class Code:
    """The machine code of a stage in one direction.

    Attributes:
        inputs: the program's inputs.
        stage: the stage.
        body: what the code was generated from.
        locations: where the values lie that are given or asked for.
        arguments: how many arguments the code has.
        run: the code.
        given: slots of values that the caller or other codes give.
        own: slots whose memory is kept for the next call.
        fresh: slots whose memory is allocated at every call.
        away: slots whose memory the caller gets, since it contains results: those of ``fresh``, and of carries.
        zeroed: slots that must be zero before the code runs.
        moving: backwards, for each carry the cotangent of the outgoing one, its slot, and that of the incoming one.
        totals: backwards, the sums over rows: of a product with its operands, which are stored, or else with its slot.
    """

    def __init__(self, inputs: Inputs, stage: Stage, name: str, ops: Sequence[Op], prologue: Graph) -> None:
        self.inputs, self.stage = inputs, stage
        kind, width = "float" if inputs.dtype == np.float32 else "double", jit.vector_width(inputs.dtype.name)
        self.body = rows.Body(name, ops, kind, width, stage.by_step, inputs.fuse)
        self.given: dict[Slot, Value] = {}
        self.moving: list[tuple[Value, Slot, Slot]] = []
        self.totals: list[tuple[Sum, Value | None, Any]] = []
        matrices = {op.values[1] for op in ops if rows.packs(op)}
        others = {x for op in ops for i, x in enumerate(op.values) if not (rows.packs(op) and i == 1)}
        for x in prologue.outputs:
            if isinstance(x, Value) and x in matrices:
                self.body.packed[x] = self.body.slot(slots.Packed, x)
            if isinstance(x, Value) and x in others:
                self.body.fixed[x] = self.body.slot(slots.Fixed, x, math.prod(x.shape))
        for x in (*stage.carry, *stage.rows):
            source = None if stage.name == "table" else inputs.source.get(x)
            if source is None:
                self._give(x)
                continue
            if source not in self.body.indices:
                self.body.indices[source] = self.body.slot(slots.Indices, inputs.indices[source])
                self.given[self.body.indices[source]] = inputs.indices[source]
            self._give(x, slots.LookedUp, indices=self.body.indices[source])

    def _give(self, value: Value, kind: type[Slot] = slots.Rows, **more: Any) -> None:
        """Add a slot for a value that every call gives."""
        self.body.given[value] = location = self.body.place(kind, value, **more)
        self.given[location.slot] = value

    def _compile(self) -> None:
        code = self.body.generate()
        self.locations = code.locations | self.body.exclusive
        self.arguments = 1 + slots.WORDS * len(code.slots)
        self.library = jit.compile_ir(rows.module(code))
        self.run = function(self.library, f"{self.body.name}_run", "Pqqqqq")
        taken = {*self.given, *self.body.packed.values(), *self.body.fixed.values()}
        taken |= {going for _, _, going in self.moving}
        self.own = [slot for slot in code.slots if slot not in taken]
        self.zeroed = [slot for slot in self.own if slot.zeroed]

    def _give_away(self, away: Set[Slot]) -> None:
        """The caller gets the memory of these slots."""
        self.away = away
        self.fresh = [slot for slot in self.own if slot in away]
        self.own = [slot for slot in self.own if slot not in away]


class Forward(Code):
    """The forward code of a stage."""

    def __init__(self, inputs: Inputs, stage: Stage, name: str, ys: Sequence[Value]) -> None:
        super().__init__(inputs, stage, name, stage.forward.ops, stage.forward.prologue)
        body = self.body
        for x in stage.carried:
            body.exclusive[x] = location = body.place(slots.Rows, x)
            self.given[location.slot] = x
        keeps = stage.backward.keeps if stage.backward is not None else []
        body.stored = [x for x in dict.fromkeys((*stage.outputs, *keeps)) if x not in body.exclusive]
        self._compile()
        asked = {self.locations[x].slot for x in ys if x in self.locations}
        self._give_away(asked & {*self.own, *(body.exclusive[x].slot for x in stage.carried)})


class Backward(Code):
    """The backward code of a stage.

    Attributes:
        back: the stage's backward body.
        results: the cotangents of ``stage.rows``: stored values, or slots in which they are added up.
    """

    def __init__(self, inputs: Inputs, stage: Stage, back: Body, name: str) -> None:
        super().__init__(inputs, stage, name, back.ops, back.prologue)
        self.back = back
        body = self.body
        for x in (*back.keeps, *(seed for seed in stage.d_outputs if seed is not None)):
            if x not in body.given:
                self._give(x)
        for seed in stage.d_carried:
            if seed is None:
                raise TraceError("its carry is no float")
            body.given[seed] = body.place(slots.Coming, seed)
        made = {op.output for op in body.ops if op.name not in rows.ALIASES}
        for seed, d in zip(stage.d_carried, stage.d_carry, strict=True):
            assert seed is not None
            if not isinstance(d, Value) or d not in made or d in body.exclusive:
                d = self._copied(0.0 if d is None else d, seed)
            body.exclusive[d] = body.place(slots.Going, d)
            self.moving.append((seed, body.given[seed].slot, body.exclusive[d].slot))
        pairs = zip(stage.rows, stage.d_rows, strict=True)
        self.results = {x: self._result(x, d) for x, d in pairs if isinstance(d, Value)}
        for total in back.sums:
            if total.left is not None and 1 not in total.op.output.shape:
                self.totals.append((total, self._in_memory(total.left), self._in_memory(total.right)))
            else:
                row = total.right if total.left is None else self._product(total.left, total.right)
                self.totals.append((total, None, self._added(slots.Total, row, row)))
        self._compile()
        of = {x: self.locations[d].slot if isinstance(d, Value) else d for x, d in self.results.items()}
        self._give_away({slot for x, slot in of.items() if x in inputs.given and not slot.per_shard} & {*self.own})

    def _copied(self, x: Operand, like: Value) -> Value:
        """A distinct value equal to ``x``."""
        copy = Value(like.shape, like.dtype)
        self.body.ops.append(Op("alias", (x,), {}, copy))
        return copy

    def _product(self, left: Value, right: Value) -> Value:
        """Left transposed times right, of one row; one of the two has a single column."""
        inner = np.broadcast_shapes(left.shape[1:], right.shape[1:])
        product = Value((left.shape[0], *inner), left.dtype)
        self.body.ops.append(Op("multiply", (left, right), {}, product))
        if len(inner) == 1:
            return product
        row = Value((left.shape[0], inner[-1]), left.dtype)
        self.body.ops.append(Op("sum", (product,), {"axis": tuple(range(1, len(inner))), "keepdims": False}, row))
        return row

    def _in_memory(self, x: Value) -> Value:
        """A value equal to ``x`` that is stored for every row."""
        location = self.body.given.get(x)
        elsewhere = location is not None and not isinstance(location.slot, slots.Rows)
        if elsewhere or x in self.body.exclusive or (self.stage.by_step and x in self.inputs.per_sequence):
            x = self._copied(x, x)
        if x not in self.body.given and x not in self.body.stored:
            self.body.stored.append(x)
        return x

    def _added(self, kind: type[Slot], x: Value, d: Value, **more: Any) -> Slot:
        """A slot like ``x``, in which ``d`` is added up."""
        slot = self.body.slot(kind, x, **more)
        self.body.added.append((d, slot))
        return slot

    def _result(self, x: Value, d: Value) -> Value | Slot:
        """Where the cotangent of an input of the stage will be."""
        source = self.inputs.source.get(x)
        if source is not None and self.stage.name != "table":
            return self._added(slots.Scattered, x, d, indices=self.body.indices[source])
        if x in self.inputs.per_sequence and self.stage.by_step:
            return self._added(slots.Summed, x, d)
        return self._in_memory(d)
