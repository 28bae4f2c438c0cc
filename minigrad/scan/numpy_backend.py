"""Run a planned step with NumPy only: each body of the program becomes one Python function, a list of NumPy calls.

The functions run over steps, or over blocks of rows in stages without a carry, and write into memory that is reused.
Nothing depends on the number of steps or the size of the batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np

from minigrad import blas
from minigrad.graph import Op, Operand, Value, bound, evaluate, function_of, key_of
from minigrad.scan.lookup import Lookup, checked_indices
from minigrad.scan.program import Program, Stage
from minigrad.scan.reference import FLUSHED
from minigrad.tensor import Array

T = TypeVar("T")

ROWS = 128
"""Up to this number of rows, a table's gradient is a product with one-hot rows; for larger ones rows are sorted.

Measured with 64 to 1024 columns and 512 to 2048 rows looked up, both take the same time at 65 to 500 rows.
"""

_BLOCK = 1 << 16
"""Elements per block of a value in a stage without a carry: so many stay in the cache."""

_SPACES = 3
"""Number of idle workspaces kept."""


class Space(dict[Any, Array]):
    """Memory that is reused over calls: bytes by purpose, as many as the largest call needed."""

    def array(self, key: Any, shape: tuple[int, ...], dtype: Any) -> Array:
        """An array with undefined elements, in the same memory as earlier ones of this key."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if key not in self or len(self[key]) < size:
            self[key] = np.empty(size, np.uint8)
        array: Array = self[key][:size].view(dtype).reshape(shape)
        return array


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


def _matrix(x: Array) -> Array:
    """A copy with contiguous rows, and padding between them: a power of two apart, they would share few cache sets."""
    copy = np.empty((x.shape[0], x.shape[1] + 16), x.dtype)[:, : x.shape[1]]
    np.copyto(copy, x)
    return copy


# --- a body as a function ---------------------------------------------------------------------------------------------


class _Code:
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
        views: values that are a part of another value's memory, with the operation that finds it.
        constants: what is equal at every step, by name.
        iterated: what is different at every step, or in every block, by name.
        text: the function.
    """

    def __init__(self, program: Program, stage: Stage, origin: Mapping[Value, Value], backward: bool = False) -> None:
        """Generate the function; ``origin`` has the values that are looked up, with the input that says where."""
        self.stage, self.backward, self.origin = stage, backward, {} if stage.name == "table" else origin
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
        self.widest = max((math.prod(op.output.shape[1:]) for op in self.body.ops), default=1)
        self.constants: dict[str, Any] = {}
        self.iterated: dict[str, Any] = {}
        self._names: dict[Any, str] = {}
        self._scope: dict[str, Any] = {"np": np, "bound": bound, "flush": _flush}
        self._before: list[str] = []
        self._lines: list[str] = []
        self._free: dict[Any, list[str]] = {}
        self._place(fixed)
        self._write()

    def _place(self, fixed: set[Value]) -> None:
        """Find the values that have memory for all rows, and those that are a part of another value's memory."""
        ops, wanted = self.body.ops, set(self.wanted)
        self.views: dict[Any, Op] = {}
        self.roots: dict[Value, Value] = {}  # of values that may share memory with another one: that one
        self.own = {op.output for op in ops}
        inline: set[Operand] = set()  # computed at every step, as only then it is known whether they share memory
        for op in ops:
            x, y = op.inputs[0], op.output
            index = op.options.get("index", ())
            basic = all(isinstance(part, slice) for part in (index if isinstance(index, tuple) else (index,)))
            if not (op.name in ("alias", "getitem", "reshape", "transpose", "broadcast_to") and basic):
                continue
            if not isinstance(x, Value) or x in fixed or x.shape[:1] != y.shape[:1]:
                continue
            root = self.roots.get(x, x)
            if op.name == "reshape" or x in inline or root in self.origin or root in self.constant:
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
                lasts = part not in self.kept or whole in self.kept or whole in self.after
                if part in self.own and part not in self.after and part not in parts and lasts:
                    self.views[part] = Op("getitem", (op.output,), {"index": index}, part)
                    parts[part] = whole
        self.kept -= parts.keys()
        self.own -= parts.keys()
        self.roots = parts | {x: parts.get(root, root) for x, root in self.roots.items()}

    def full(self, x: Any, known: Mapping[Any, Array]) -> Array:
        """A value with all rows."""
        if x in known:
            return known[x]
        op = self.views[x]
        whole = self.full(op.inputs[0], known)
        return function_of(op.name)(whole, **bound(op.options, len(whole)))  # type: ignore[no-any-return]

    def _new(self, x: Any, kind: str = "v") -> str:
        self._names[x] = f"{kind}{len(self._names)}"
        return self._names[x]

    def _buffer(self, like: Value) -> str:
        """The name of memory for one step."""
        shape, free = like.shape[1:], self._free.setdefault((like.shape[1:], like.dtype), [])
        if free and like not in self.origin:  # looked-up rows are there before all others
            return free.pop()
        name = self._new(("memory", len(self._names)), "b")
        self._scope[f"{name}_dtype"] = like.dtype
        self._before.append(f"{name} = new({name!r}, (rows, {''.join(f'{n}, ' for n in shape)}), {name}_dtype)")
        return name

    def _call(self, function: Any, op: Op, args: Sequence[str], out: str = "") -> str:
        """A call with the options of an operation."""
        name = f"{op.name}{len(self._scope)}"
        self._scope[name] = function
        words = [*args, *(f"{key}={name}_{key}" for key in op.options), *([f"out={out}"] if out else [])]
        for key, option in op.options.items():
            self._scope[f"{name}_{key}"] = option
            if key_of(bound(option, -1)) != key_of(option):
                self._before.append(f"{name}_{key} = bound({name}_{key}_, rows)")
                self._scope[f"{name}_{key}_"] = self._scope.pop(f"{name}_{key}")
        return f"{name}({', '.join(words)})"

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
        elif root in self.origin:
            self._names[x] = self._buffer(x)
            index, table = ("indices", self.origin[x]), f"{self._names[x]}_table"
            if index not in self._names:
                self.iterated[self._new(index, "i")] = index
            self.constants[table] = x
            self._lookups.append(f"np.take({table}, {self._names[index]}, 0, {self._names[x]}, 'clip')")
        elif root not in self.own or root in self.kept or root in self.after:
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
        self._lookups: list[str] = []
        last = {self.roots.get(x, x): i for i, op in enumerate(ops) for x in op.values}
        last |= {self.roots.get(x, x): end for _, x in (*self.carry, *self.totals.items()) if isinstance(x, Value)}
        ending: list[list[Value]] = [[] for _ in range(end + 1)]
        for x in self.own & last.keys() - self.kept - self.after.keys():
            ending[last[x]].append(x)
        for op, ends in zip(ops, ending, strict=False):
            if self.views.get(op.output) is not op:
                self._operation(op, ends)
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
        head = ["def run(rows, new, constants, iterated):", f"    [{', '.join(self.constants)}] = constants"]
        head += [f"    {line}" for line in self._before]
        head += [f"    for step, [{', '.join(self.iterated)}] in enumerate(zip(*iterated), 1):"]
        self.text = "\n".join([*head, *(f"        {line}" for line in [*self._lookups, *self._lines, "pass"])])
        exec(self.text, self._scope)
        self._run: Callable[..., None] = self._scope["run"]

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
                place = self.views.get(part)
                if place is None or place.values != (op.output,) or place.options["index"] != index:
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
            self._release(ends)  # the result may take the place of an operand
        out = self._operand(op.output)
        if function is None:
            self._lines.append(f"{out}[...] = {self._call(function_of(op.name), op, args)}")
        else:
            self._lines.append(self._call(function, op, args, out))

    def run(self, saved: Saved, carry: Sequence[Array | None]) -> list[Array]:
        """Run over all rows, with the carry before the first step; return the carry after the last one."""
        assert saved.space is not None
        stage, known, new, batch = self.stage, saved.known, saved.space.array, saved.batch
        reverse = saved.reverse != self.backward
        prologue = self.body.prologue
        known.update(zip(prologue.outputs, evaluate(prologue, [known[x] for x in stage.fixed]), strict=True))
        size = saved.rows(stage)
        for x in self.kept:
            known[x] = new(x, (size, *x.shape[1:]), x.dtype)
        last = []
        for (x, _), given in zip(self.carry, carry, strict=True):
            state = new(x, (size + batch, *x.shape[1:]), x.dtype)
            parts = state[:-batch], state[batch:]
            known[x], known["after", x] = before, after = parts[::-1] if reverse else parts
            np.copyto(before[-batch:] if reverse else before[:batch], 0 if given is None else given)
            last.append(after[:batch] if reverse else after[-batch:])
        known.update((after, known["after", before]) for after, before in self.after.items())
        constants = [_matrix(known[x]) if x in self.matrices else known[x] for x in self.constants.values()]
        arrays = [self.full(x, known) for x in self.iterated.values()]
        if stage.by_step:
            order = slice(None, None, -1 if reverse else 1)
            self._run(batch, new, constants, [a.reshape(-1, batch, *a.shape[1:])[order] for a in arrays])
        else:
            block = max(1, min(size, _BLOCK // self.widest))
            whole = size - size % block
            self._run(block, new, constants, [a[:whole].reshape(-1, block, *a.shape[1:]) for a in arrays])
            if whole < size:
                self._run(size - whole, new, constants, [a[None, whole:] for a in arrays])
        known.update((x, self.full(x, known)) for x in self.wanted)
        return last


def _parts(op: Op) -> list[tuple[Value, tuple[slice, ...]]]:
    """The parts of a concatenation, and their indices."""
    found, start = [], 0
    for part in op.values if op.name == "concatenate" else ():
        axis = op.options["axis"] % part.ndim
        found.append((part, (*[slice(None)] * axis, slice(start, start + part.shape[axis]))))
        start += part.shape[axis]
    return found


# --- a program --------------------------------------------------------------------------------------------------------


class Saved:
    """One call of a program: its arrays by value, and the memory that they use.

    Arrays have one axis for all rows of all steps, in the order of time. The memory belongs to the call until it is
    released or the call is deleted.
    """

    def __init__(self, pool: list[Space], args: tuple[Any, ...], steps: int, batch: int, reverse: bool) -> None:
        self.pool, self.args, self.steps, self.batch, self.reverse = pool, args, steps, batch, reverse
        try:
            self.space: Space | None = pool.pop()
        except IndexError:
            self.space = Space()
        self.known: dict[Any, Array] = {}

    def release(self) -> None:
        """Return the memory."""
        if self.space is not None:
            self.pool.append(self.space)
            del self.pool[:-_SPACES]
            self.space = None
            self.known.clear()

    def __del__(self) -> None:
        self.release()

    def rows(self, stage: Stage) -> int:
        """The number of rows of a stage."""
        if stage.name == "table":
            return len(self.known[stage.rows[0]])
        return self.batch if stage.name == "context" else self.steps * self.batch


class Executor:
    """Runs a program with NumPy.

    Attributes:
        product: the shape (k, n) of a matrix with as much work as all products of one row of a step.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.origin: dict[Value, Value] = {x: x for x in program.tables}
        for stage in program.stages:
            if stage.name == "table":
                self.origin |= dict.fromkeys(stage.outputs, self.origin[stage.rows[0]])
        self._forwards = [_Code(program, stage, self.origin) for stage in program.stages]
        backwards = [stage for stage in reversed(program.stages) if stage.backward]
        self._backwards = [_Code(program, stage, self.origin, backward=True) for stage in backwards]
        shapes = [op.values[1].shape for stage in program.stages for op in stage.forward.ops if op.name == "matmul"]
        deepest = max((shape[-2] for shape in shapes), default=1)
        self.product = deepest, sum(map(math.prod, shapes)) // deepest
        self._pool: list[Space] = []
        self._itself = object()  # a unique key, which does not keep the program alive

    def release(self) -> None:
        """Free the memory of all idle workspaces."""
        self._pool.clear()

    def _run(self, call: Callable[[], T], name: str, steps: int, batch: int) -> T:
        """Run a call with the measured number of threads for large products."""
        with np.errstate(invalid="ignore"):  # small products of OpenBLAS also read memory beside their operands
            return blas.run(call, (self.product[1], self.product[0], batch), (self._itself, name, batch), steps)

    def forward(
        self,
        params: Sequence[Array],
        carry: Sequence[Array],
        xs: Sequence[Any],
        context: Sequence[Array],
        *,
        steps: int,
        batch: int,
        reverse: bool = False,
        keep: bool = False,
    ) -> tuple[list[Array], list[Array], Saved | None]:
        """Run all steps.

        Args:
            params: the program's fixed inputs.
            carry: the carry before the first step, (B, ...) each.
            xs: for each of the step's inputs an array (T, B, ...), or a ``Lookup``.
            context: the same at every step, (B, ...) each.
            steps: T.
            batch: B.
            reverse: run from the last step to the first.
            keep: whether a backward pass may follow.

        Returns:
            The carry after the last step, the outputs, (T, B, ...) each, and what ``backward`` needs.
        """
        saved = Saved(self._pool, (params, carry, xs, context), steps, batch, reverse)
        last, ys = self._run(partial(self._forward, saved), "forward", steps, batch)
        if keep:
            return last, ys, saved
        saved.release()
        return last, ys, None

    def _forward(self, saved: Saved) -> tuple[list[Array], list[Array]]:
        program, known = self.program, saved.known
        params, carry, xs, context = saved.args
        known.update(zip(program.fixed, evaluate(program.prologue, params), strict=True))
        known.update(zip(program.context, context, strict=True))
        for value, x in zip(program.xs, xs, strict=True):
            if isinstance(x, Lookup):
                known["indices", value] = checked_indices(x.indices, len(x.table)).reshape(-1)
            known[value] = x.table if isinstance(x, Lookup) else x.reshape(-1, *x.shape[2:])
        last = [end for code in self._forwards for end in code.run(saved, carry if code.carry else [])]
        ys = [self._at_all_steps(saved, y).reshape(saved.steps, saved.batch, *y.shape[1:]) for y in program.ys]
        return [np.array(x) for x in last], [np.array(y) for y in ys]

    def _at_all_steps(self, saved: Saved, x: Value) -> Array:
        """A value with its rows at all steps."""
        array = saved.known[x]
        if x in self.origin:
            return array[saved.known["indices", self.origin[x]]]
        if x in self.program.per_sequence:
            return np.broadcast_to(array, (saved.steps, *array.shape)).reshape(-1, *array.shape[1:])
        return array

    def backward(
        self, saved: Saved, d_carry: Sequence[Array | None], d_ys: Sequence[Array | None]
    ) -> tuple[list[Array], list[Array], list[Array | None], list[Array | None]]:
        """Run all steps backwards.

        Args:
            saved: from ``forward``.
            d_carry: the cotangents of the carry after the last step; None is zero.
            d_ys: the cotangents of the outputs.

        Returns:
            The cotangents of the parameters, of the carry before the first step (zeros if it is not a float), of the
            inputs, for a ``Lookup`` of its table, and of the context; None if not wanted or absent.
        """
        steps, batch = saved.steps, saved.batch
        if saved.space is None:  # backward has run already, and has returned the memory
            _, _, again = self.forward(*saved.args, steps=steps, batch=batch, reverse=saved.reverse, keep=True)
            assert again is not None
            saved = again
        result = self._run(partial(self._backward, saved, d_carry, d_ys), "backward", steps, batch)
        saved.release()
        return result

    def _backward(
        self, saved: Saved, d_carry: Sequence[Array | None], d_ys: Sequence[Array | None]
    ) -> tuple[list[Array], list[Array], list[Array | None], list[Array | None]]:
        program, known = self.program, saved.known
        params, carry, xs, _ = saved.args
        d: dict[Value, Array] = {}

        def add(x: Value, g: Array) -> None:
            d[x] = d[x] + g if x in d else g

        for y, g in zip(program.ys, d_ys, strict=True):
            if g is not None:
                add(y, self._like(saved, y, g.reshape(-1, *g.shape[2:])))
        d_first = [np.zeros(x.shape, x.dtype) for x in carry]
        for code in self._backwards:
            stage, once = code.stage, code.stage.name in ("table", "context")
            for x, seed in zip(stage.outputs, stage.d_outputs, strict=True):
                if seed is not None:
                    known[seed] = d[x] if x in d else np.zeros((saved.rows(stage), *x.shape[1:]), x.dtype)
            known.update((("total", x), np.zeros(known[x].shape, x.dtype)) for x in code.totals)
            floats = [i for i, x in enumerate(stage.d_carried) if x is not None]
            for i, end in zip(floats, code.run(saved, [d_carry[i] for i in floats]), strict=True):
                d_first[i] = np.array(end)
            for x, dx in zip(stage.rows, stage.d_rows, strict=True):
                if x in code.totals:
                    add(x, known["total", x])
                elif isinstance(dx, Value):
                    add(x, known[dx] if once else self._like(saved, x, known[dx]))
            for x, g in self._sums(saved, code, (lambda x: known[x]) if once else partial(self._at_all_steps, saved)):
                add(x, g)
        given = [d[x] if x in d else np.zeros(x.shape, x.dtype) for x in program.fixed if x.dtype.kind == "f"]
        assert program.d_prologue is not None
        d_params = [
            g if isinstance(g, np.ndarray) and g.shape == x.shape else np.full(x.shape, g, x.dtype)
            for x, g in zip(program.params, evaluate(program.d_prologue, [*params, *given]), strict=True)
        ]
        shapes = [x.table.shape if isinstance(x, Lookup) else x.shape for x in xs]
        d_xs = [np.array(d[x]).reshape(shape) if x in d else None for x, shape in zip(program.xs, shapes, strict=True)]
        return d_params, d_first, d_xs, [np.array(d[x]) if x in d else None for x in program.context]

    def _like(self, saved: Saved, x: Value, g: Array) -> Array:
        """The cotangents of a value's rows at all steps, added up for each row of a table or each sequence."""
        if x in self.program.per_sequence:
            return g.reshape(saved.steps, saved.batch, *g.shape[1:]).sum(axis=0)  # type: ignore[no-any-return]
        if x not in self.origin:
            return g
        size, indices = len(saved.known[x]), saved.known["indices", self.origin[x]]
        if size > ROWS:
            return function_of("scatter")(g, indices=[indices], shape=(size, *g.shape[1:]))  # type: ignore[no-any-return]
        onehot = np.zeros((size, len(indices)), g.dtype)
        onehot[indices, np.arange(len(indices))] = 1
        return (onehot @ g.reshape(len(g), -1)).reshape(size, *g.shape[1:])

    def _sums(self, saved: Saved, code: _Code, rows: Callable[[Value], Array]) -> list[tuple[Value, Array]]:
        """The cotangents of a stage's fixed inputs, from sums over rows."""
        sums: dict[Value, Array] = {}
        body = code.body
        assert body.epilogue is not None
        for total in body.sums:
            right = rows(total.right)
            if total.left is None:
                row = right.sum(axis=0)[None]
                sums[total.op.output] = np.asarray(function_of(total.op.name)(row, **total.op.options))
            else:
                left = rows(total.left)
                sums[total.op.output] = left.reshape(-1, left.shape[-1]).T @ right.reshape(-1, right.shape[-1])
        results = evaluate(body.epilogue, [sums[x] if x in sums else saved.known[x] for x in body.epilogue.inputs])
        wanted = [x for x, there in zip(code.stage.fixed, code.stage.d_fixed, strict=True) if there]
        return [*zip(wanted, results, strict=True)]
