"""A body of a program as a Python function: a list of NumPy calls that write into memory that is reused.

Nothing depends on the number of steps or the size of the batch. ``docs/engine.md`` shows such a function.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from minigrad.graph import Op, Operand, Value, bound, function_of, row_size
from minigrad.scan.program import Program, Stage
from minigrad.scan.reference import FLUSHED
from minigrad.tensor import Array

# --- operations that write into an array ------------------------------------------------------------------------------


def _sigmoid(x: Array, out: Array) -> None:
    e = np.minimum(x, 40)  # as in the primitive
    np.exp(e, out=e)
    np.divide(e, np.add(e, 1, out=out), out=out)


def _where(test: Any, a: Any, b: Any, out: Array) -> None:
    np.copyto(out, b)
    np.copyto(out, a, where=np.not_equal(test, 0))


def _matmul(a: Array, b: Array, out: Array) -> None:
    if b.ndim == 2 < out.ndim and out.flags.c_contiguous:  # one product instead of one per row
        a, out = a.reshape(-1, a.shape[-1]), out.reshape(-1, out.shape[-1])
    np.matmul(a, b, out=out)


_INTO: dict[str, Callable[..., Any]] = {
    "sigmoid": _sigmoid,
    "where": _where,
    "matmul": _matmul,
    "relu": lambda x, out: np.maximum(x, 0, out=out),
    "abs": np.absolute,
    "sum": np.add.reduce,
    "max": np.maximum.reduce,
    "cumsum": np.add.accumulate,
}


def _into(op: Op) -> Callable[..., Any] | None:
    """The function that writes the result of an operation into ``out``; None if there is none."""
    found = _INTO.get(op.name, getattr(np, op.name, None))
    return found if op.name in _INTO or isinstance(found, np.ufunc) else None


def _flush(*cotangents: Array) -> None:
    """Replace subnormal numbers by 0."""
    for d in cotangents:
        d *= np.abs(d) >= np.finfo(d.dtype).smallest_normal


# --- a body as a function ---------------------------------------------------------------------------------------------


class Code:
    """A body of a stage as a Python function.

    Attributes:
        stage: the stage.
        body: the body.
        backward: whether it is the backward one.
        carry: the carry before a step and after it; backwards, its cotangents after and before it.
        wanted: values whose rows at all steps are needed later.
        totals: given values with one row per sequence, and their cotangents, to be added up over the steps.
        kept: values with memory for all rows.
        after: values computed in the memory of the carry after a step, with the carry before it.
        joined: concatenations of values that are complete before the first step, by their results.
        views: values that are a part of another value's memory, with the operation that finds it.
        constants: what is equal at every step, by name.
        iterated: what is different at every step, or in every block, by name.
        widest: the largest number of elements of a result per row.
        matrices: constants that products are taken with.
        text: the function.
        run: the function, called with the number of rows of a step, a source of memory, and what the names stand for.
    """

    def __init__(self, program: Program, stage: Stage, source: Mapping[Value, Value], backward: bool = False) -> None:
        """Generate the function; ``source`` is what ``Program.sources`` returns."""
        self.stage, self.backward, self.source = stage, backward, {} if stage.name == "table" else source
        alike = frozenset() if stage.name == "context" else program.per_sequence
        back, self.totals = stage.backward, dict[Value, Value]()
        self.wanted = [*stage.outputs, *(back.keeps if back else ())]
        self.carry: list[tuple[Value, Operand]] = [*zip(stage.carry, stage.carried, strict=True)]
        if backward:
            assert back is not None
            d_rows = {x: d for x, d in zip(stage.rows, stage.d_rows, strict=True) if isinstance(d, Value)}
            self.totals = {x: d for x, d in d_rows.items() if x in alike}
            self.wanted = [d for x, d in d_rows.items() if x not in alike]
            self.wanted += [x for total in back.sums for x in (total.left, total.right) if x is not None]
            self.carry = [(x, d or 0) for x, d in zip(stage.d_carried, stage.d_carry, strict=True) if x is not None]
        self.body = back if backward and back else stage.forward
        fixed = {x for x in self.body.prologue.outputs if isinstance(x, Value)}
        self.constant = {*fixed, *alike}
        self.matrices = {op.inputs[1] for op in self.body.ops if op.name == "matmul"} & fixed
        self.widest = max((row_size(op.output) for op in self.body.ops), default=1)
        self.constants: dict[str, Any] = {}
        self.iterated: dict[str, Any] = {}
        self._names: dict[Any, str] = {}
        self._numbers = itertools.count()
        self._scope: dict[str, Any] = {"np": np, "flush": _flush}
        self._before: list[str] = []
        self._lookups: list[str] = []
        self._lines: list[str] = []
        self._free: dict[Any, list[str]] = {}
        self._share(fixed)
        self._write()

    def _share(self, fixed: set[Value]) -> None:
        """Find the values that have memory for all rows, and those that are a part of another value's memory."""
        ops, wanted = self.body.ops, set(self.wanted)
        self.views: dict[Any, Op] = {}
        self.roots: dict[Value, Value] = {}  # of values that may share memory with another one: that one
        self.own = {op.output for op in ops}
        inline: set[Operand] = set()  # computed at every step, as only then it is known whether they share memory
        passing = {*self.own, *self.constant, *self.source, *(before for before, _ in self.carry)}
        self.joined = {op.output: op for op in ops if op.name == "concatenate" and not passing & {*op.values}}
        self.own -= self.joined.keys()
        for op in ops:
            x, y = op.inputs[0], op.output
            index = op.options.get("index", ())
            basic = all(isinstance(part, slice) for part in (index if isinstance(index, tuple) else (index,)))
            if not (op.name in ("alias", "getitem", "reshape", "transpose", "broadcast_to") and basic):
                continue
            if not isinstance(x, Value) or x in fixed or x.shape[:1] != y.shape[:1]:
                continue
            root = self.roots.get(x, x)
            if op.name == "reshape" or x in inline or root in self.source or root in self.constant:
                if y in wanted:
                    continue
                inline.add(y)
            else:
                self.views[y] = op
            self.own.discard(y)
            self.roots[y] = root
        self.after: dict[Any, Value] = {}
        for before, after in self.carry:
            if after in self.own:
                self.after.setdefault(after, before)
        self.kept = {self.roots.get(x, x) for x in wanted} & self.own - self.after.keys()
        parts: dict[Value, Value] = {}  # of concatenations: they are computed in its memory
        for op in reversed(ops):
            whole = parts.get(op.output, op.output)
            for part, index in _parts(op) if op.output in self.own else ():
                free = part in self.own and part not in self.after and part not in parts
                lasts = part not in self.kept or whole in self.kept or whole in self.after
                if free and lasts and part.dtype == op.output.dtype:
                    self.views[part] = Op("getitem", (op.output,), {"index": index}, part)
                    parts[part] = whole
        self.kept -= parts.keys()
        self.own -= parts.keys()
        self.roots = parts | {x: parts.get(root, root) for x, root in self.roots.items()}

    def full(self, x: Any, known: Mapping[Any, Array]) -> Array:
        """A value with all rows."""
        chain: list[Op] = []
        while x not in known:
            chain.append(self.views[x])
            x = chain[-1].inputs[0]
        array = known[x]
        for op in reversed(chain):
            options = bound(op.options, len(array)) if op.name == "broadcast_to" else op.options
            array = function_of(op.name)(array, **options)
        return array

    def _passes(self, x: Value) -> bool:
        """Whether a value has memory for one step only."""
        return x in self.own and x not in self.kept and x not in self.after

    def _new(self, x: Any, kind: str = "v") -> str:
        self._names[x] = f"{kind}{next(self._numbers)}"
        return self._names[x]

    def _buffer(self, like: Value) -> str:
        """The name of memory for one step."""
        free = self._free.setdefault((like.shape[1:], like.dtype), [])
        if free and like not in self.source:  # looked-up rows are there before all others
            return free.pop()
        name = f"b{next(self._numbers)}"
        self._before.append(f"{name} = new({name!r}, {like.shape!r}, {like.dtype.name!r})")
        return name

    def _call(self, function: Any, op: Op, args: Sequence[str], out: str = "") -> str:
        """A call with the options of an operation."""
        self._scope[op.name] = function
        words = list(args)
        for key, option in op.options.items():
            words.append(f"{key}={option!r}")
            if not _is_literal(option):
                words[-1] = f"{key}={key}{len(self._scope)}"
                self._scope[f"{key}{len(self._scope)}"] = option
        return f"{op.name}({', '.join([*words, f'out={out}'] if out else words)})"

    def _operand(self, x: Operand, like: np.dtype[Any] | None = None) -> str:
        """The name of an operand in the function; a number becomes an array ``like`` others, which is faster."""
        if not isinstance(x, Value):
            key = type(x), float(x).hex(), like
            if key not in self._names:
                self._scope[self._new(key, "n")] = x if like is None else np.asarray(x, like)
            return self._names[key]
        if x in self._names:
            return self._names[x]
        root = self.roots.get(x, x)
        if root in self.constant:
            self.constants[self._new(x)] = x
        elif root in self.source:
            self._names[x] = self._buffer(x)
            index, table = ("indices", self.source[x]), f"{self._names[x]}_table"
            if index not in self._names:
                self.iterated[self._new(index, "i")] = index
            self.constants[table] = x
            self._lookups.append(f"np.take({table}, {self._names[index]}, 0, {self._names[x]}, 'clip')")
        elif not self._passes(root):
            self.iterated[self._new(x)] = x
        elif x in self.views:
            op = self.views[x]
            view = self._call(function_of(op.name), op, [self._operand(op.values[0])])
            self._before.append(f"{self._new(x)} = {view}")
        else:
            self._names[x] = self._buffer(x)
        return self._names[x]

    def _write(self) -> None:
        ops, end = self.body.ops, len(self.body.ops)
        last = {self.roots.get(x, x): i for i, op in enumerate(ops) for x in op.values}
        last |= {self.roots.get(x, x): end for _, x in (*self.carry, *self.totals.items()) if isinstance(x, Value)}
        ending: list[list[Value]] = [[] for _ in range(end + 1)]
        for x, i in last.items():
            if self._passes(x):
                ending[i].append(x)
        for op, ends in zip(ops, ending, strict=False):
            if op.output in self.joined:
                continue
            if self.views.get(op.output) is not op:
                self._operation(op, ends)
            elif self._passes(self.roots[op.output]):
                self._operand(op.output)
            self._release(ends)
        slots = []
        for before, after in self.carry:
            if self.after.get(after) is before:
                slots.append(self._operand(after))
            else:
                slots.append(self._new(("after", before)))
                self.iterated[slots[-1]] = "after", before
                self._lines.append(f"np.copyto({slots[-1]}, {self._operand(after)})")
        for x, d in self.totals.items():
            total = self._new(("total", x), "t")
            self.constants[total] = "total", x
            self._lines.append(f"np.add({total}, {self._operand(d)}, out={total})")
        if self.backward and slots:
            self._lines.append(f"if step % {FLUSHED} == 0: flush({', '.join(slots)})")
        head = ["def run(B, new, constants, iterated):", f"    [{', '.join(self.constants)}] = constants"]
        head += [f"    {line}" for line in self._before]
        head += [f"    for step, [{', '.join(self.iterated)}] in enumerate(zip(*iterated), 1):"]
        self.text = "\n".join([*head, *(f"        {line}" for line in [*self._lookups, *self._lines, "pass"])])
        exec(self.text, self._scope)
        self.run: Callable[..., None] = self._scope["run"]

    def _release(self, values: list[Value]) -> None:
        """Free the memory of values that are not read any more."""
        while values:
            x = values.pop()
            self._free.setdefault((x.shape[1:], x.dtype), []).append(self._names[x])

    def _operation(self, op: Op, ends: list[Value]) -> None:
        """The call of an operation, the last one to read the values in ``ends``."""
        if op.name == "concatenate":
            out = self._operand(op.output)
            for part, index in _parts(op):
                view = self.views.get(part)
                if view is None or view.values != (op.output,) or view.options["index"] != index:
                    columns = f"{':, ' * (len(index) - 1)}{index[-1].start}:{index[-1].stop}"
                    self._lines.append(f"{out}[{columns}] = {self._operand(part)}")
            return
        dtypes = {x.dtype for x in op.values}
        like = op.output.dtype if dtypes == {op.output.dtype} and op.output.dtype.kind == "f" else None
        args = [self._operand(x, like) for x in op.inputs]
        if op.output in self.roots and op.output not in self.views:
            self._lines.append(f"{self._new(op.output)} = {self._call(function_of(op.name), op, args)}")
            return
        function = _into(op)
        if isinstance(function, np.ufunc) or op.name in ("sigmoid", "relu"):
            self._release(ends)  # the result may overwrite an operand
        out = self._operand(op.output)
        if function is None:
            self._lines.append(f"{out}[...] = {self._call(function_of(op.name), op, args)}")
        else:
            self._lines.append(self._call(function, op, args, out))


def _is_literal(option: Any) -> bool:
    """Whether an option is printed as in Python; a batch size is ``B``."""
    if isinstance(option, tuple | list):
        return all(map(_is_literal, option))
    return option is None or isinstance(option, int | str | slice)


def _parts(op: Op) -> list[tuple[Value, tuple[slice, ...]]]:
    """The parts of a concatenation, and their indices."""
    found, start = [], 0
    for part in op.values if op.name == "concatenate" else ():
        axis = op.options["axis"] % part.ndim
        found.append((part, (*[slice(None)] * axis, slice(start, start + part.shape[axis]))))
        start += part.shape[axis]
    return found
