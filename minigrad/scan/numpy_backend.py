"""Run a planned step with NumPy only: every body of a program becomes one Python function of straight-line calls.

The functions run over steps, or over blocks of rows in stages without a carry, and write into memory that is reused;
nothing depends on the number of steps, so batches of many lengths share all of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import numpy as np

from minigrad import blas
from minigrad.graph import Op, Operand, Value, bound, evaluate, function_of, key_of
from minigrad.scan.lookup import Lookup, checked_indices
from minigrad.scan.program import Body, Program, Stage
from minigrad.scan.reference import FLUSHED
from minigrad.tensor import Array

T = TypeVar("T")

ROWS = 512
"""Up to this number of rows, a table's gradient is a product with one-hot rows; rows of larger ones are sorted."""

_BLOCK = 1 << 16
"""Elements per block of a value in a stage without a carry: so many stay in the cache."""

_SPACES = 3
"""Number of idle workspaces kept."""


class Space(dict[Any, Array]):
    """Memory that is reused over calls: bytes by purpose, as many as the largest call needed."""

    def array(self, key: Any, shape: tuple[int, ...], dtype: Any) -> Array:
        """An array with undefined elements; it shares memory with earlier ones of this key."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if key not in self or len(self[key]) < size:
            self[key] = np.empty(size, np.uint8)
        array: Array = self[key][:size].view(dtype).reshape(shape)
        return array


# --- a body as a function ---------------------------------------------------------------------------------------------


def _ufunc(name: str) -> np.ufunc | None:
    found = getattr(np, "absolute" if name == "abs" else name, None)
    return found if isinstance(found, np.ufunc) and name != "matmul" else None


def _is_view(op: Op, compact: set[Value]) -> bool:
    """Whether NumPy computes an operation on rows without copying."""
    x = op.inputs[0]
    if not isinstance(x, Value) or x.shape[:1] != op.output.shape[:1]:
        return False
    match op.name:
        case "getitem":
            index = op.options["index"]
            return all(isinstance(part, slice) for part in (index if isinstance(index, tuple) else (index,)))
        case "reshape":
            return x in compact or [n for n in x.shape if n != 1] == [n for n in op.output.shape if n != 1]
        case name:
            return name in ("alias", "transpose", "broadcast_to")


def _along(op: Op, start: int, part: Value) -> tuple[slice, ...]:
    """The index of a part of a concatenation."""
    axis = op.options["axis"] % part.ndim
    return (*[slice(None)] * axis, slice(start, start + part.shape[axis]))


class _Code:
    """A body as a Python function.

    Attributes:
        run: the function, called with a number of rows, a source of memory, and lists of arrays for the following.
        constants: values that are equal at every step, by name.
        iterated: values of which each step, or block, has its own rows, by name.
        matrices: constants that are factors of products.
        kept: values for which there must be memory for all rows.
    """

    def __init__(
        self,
        body: Body,
        pairs: Sequence[tuple[Value, Operand]],
        wanted: Sequence[Value],
        constant: Iterable[Value] = (),
        origin: Mapping[Value, Value] | None = None,
        totals: Mapping[Value, Value] | None = None,
        backward: bool = False,
    ) -> None:
        """Generate the function.

        Args:
            body: the operations.
            pairs: the carry before and after a step.
            wanted: values to store for all rows.
            constant: given values that are equal at every step.
            origin: for a given value whose rows are looked up, the input with the indices.
            totals: given values, and their cotangents, to be summed over the steps.
            backward: whether the carry is a cotangent, whose subnormal numbers become 0.
        """
        self.ops, self.wanted, self.origin, self.totals = body.ops, wanted, origin or {}, totals or {}
        fixed = {x for x in body.prologue.outputs if isinstance(x, Value)}
        self.constant = {*fixed, *constant}
        self.matrices = {op.inputs[1] for op in body.ops if op.name == "matmul"} & fixed
        self.widest = max((math.prod(op.output.shape[1:]) for op in body.ops), default=1)
        self.constants: dict[str, Any] = {}
        self.iterated: dict[str, Any] = {}
        self._names: dict[Any, str] = {}
        self._scope: dict[str, Any] = {"np": np, "bound": bound, "flush": _flush}
        self._before: list[str] = []
        self._lines: list[str] = []
        self._free: dict[Any, list[str]] = {}
        self._place(pairs, fixed)
        self._generate(pairs, backward)

    def _place(self, pairs: Sequence[tuple[Value, Operand]], fixed: set[Value]) -> None:
        """Find the values that are stored for all rows, and those that are a part of another one's memory."""
        made, wanted = {op.output for op in self.ops}, set(self.wanted)
        compact = {x for op in self.ops for x in op.values if x not in made}
        self.views: dict[Any, Op] = {}
        self.roots: dict[Value, Value] = {}  # of views
        for op in self.ops:
            if op.inputs and op.inputs[0] not in fixed and _is_view(op, compact):
                root = self.roots.get(op.values[0], op.values[0])
                if op.output not in wanted or not (root in self.origin or root in self.constant):
                    self.views[op.output], self.roots[op.output] = op, root
            if op.output not in self.views or (op.name in ("reshape", "alias") and op.inputs[0] in compact):
                compact.add(op.output)
        self.own = made - self.views.keys()
        self.after: dict[Any, Value] = {}  # of a carry whose new value is computed in its place, the old one
        for before, after in pairs:
            if after in self.own:
                self.after.setdefault(after, before)
        self.kept = {self.roots.get(x, x) for x in wanted} & self.own - self.after.keys()
        # Parts of a concatenation are computed in its memory.
        reshaped = {self.roots.get(op.values[0], op.values[0]) for op in self.ops if op.name == "reshape" and op.values}
        joined: dict[Value, Value] = {}
        for op in reversed(self.ops):
            whole, start = joined.get(op.output, op.output), 0
            for part in op.values if op.name == "concatenate" else ():
                index = _along(op, start, part)
                start = index[-1].stop
                lasting = part in self.kept and whole not in self.kept | self.after.keys()
                if part in self.own and not (lasting or part in self.after or part in joined or part in reshaped):
                    self.views[part] = Op("getitem", (op.output,), {"index": index}, part)
                    joined[part] = whole
        self.kept -= joined.keys()
        self.own -= joined.keys()
        self.roots = joined | {x: joined.get(root, root) for x, root in self.roots.items()}

    def full(self, x: Any, known: Mapping[Any, Array]) -> Array:
        """A value for all rows."""
        if x in known or x not in self.views:
            return known[x]
        op = self.views[x]
        whole = self.full(op.inputs[0], known)
        return function_of(op.name)(whole, **bound(op.options, len(whole)))  # type: ignore[no-any-return]

    def _call(self, function: Any, args: Sequence[str], op: Op, out: str = "") -> str:
        """A call of a NumPy function, with the options of an operation."""
        name = f"{op.name}_{'to' if out else ''}"
        self._scope[name] = function
        words = [*args, *([f"out={out}"] if out else [])]
        if op.options:
            options = f"o{len(self._scope)}"
            self._scope[options] = dict(op.options)
            if key_of(bound(op.options, -1)) != key_of(dict(op.options)):
                self._before.append(f"{options}_ = bound({options}, rows)")
                options += "_"
            words.append(f"**{options}")
        return f"{name}({', '.join(words)})"

    def _new(self, x: Any, kind: str = "v") -> str:
        self._names[x] = f"{kind}{len(self._names)}"
        return self._names[x]

    def _buffer(self, like: Value) -> str:
        """The name of memory for one step."""
        free = self._free.setdefault((like.shape[1:], like.dtype), [])
        if free and like not in self.origin:  # rows of a table are there from the start
            return free.pop()
        name = self._new(("buffer", len(self._names)), "b")
        self._scope[f"d{name}"] = like.dtype
        self._before.append(f"{name} = new({name!r}, {('rows', *like.shape[1:])}, d{name})".replace("'rows'", "rows"))
        return name

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
        passing = root in self.own and root not in self.kept and root not in self.after
        if not passing and root not in self.constant and root not in self.origin:
            self.iterated[self._new(x)] = x
            return self._names[x]
        if x is not root:
            op = self.views[x]
            view = self._call(function_of(op.name), [self._operand(op.values[0])], op)
            self._before.append(f"{self._new(x)} = {view}")
        elif root in self.constant:
            self.constants[self._new(x)] = x
        else:
            self._names[x] = self._buffer(x)
            if x in self.origin:
                index = "indices", self.origin[x]
                if index not in self._names:
                    self.iterated[self._new(index)] = index
                self.constants[f"table_{self._names[x]}"] = x
                self._gathers.append(
                    f"np.take(table_{self._names[x]}, {self._names[index]}, 0, {self._names[x]}, 'clip')"
                )
        return self._names[x]

    def _generate(self, pairs: Sequence[tuple[Value, Operand]], backward: bool) -> None:
        self._gathers: list[str] = []
        last = {self.roots.get(x, x): i for i, op in enumerate(self.ops) for x in op.values}
        last |= {self.roots.get(x, x): len(self.ops) for _, x in (*pairs, *self.totals.items()) if isinstance(x, Value)}
        ending: dict[int, list[Value]] = {}
        for x, i in last.items():
            if x in self.own and x not in self.kept and x not in self.after:
                ending.setdefault(i, []).append(x)

        def end(i: int) -> None:
            for x in ending.pop(i, ()):
                self._free.setdefault((x.shape[1:], x.dtype), []).append(self._names[x])

        for i, op in enumerate(self.ops):
            if self.views.get(op.output) is not op:
                self._emit(op, partial(end, i))
            end(i)
        slots = []
        for before, after in pairs:
            if self.after.get(after) is before:
                slots.append(self._operand(after))
            else:
                slots.append(self._new(("after", before)))
                self.iterated[slots[-1]] = "after", before
                self._lines.append(f"np.copyto({slots[-1]}, {self._operand(after)})")
        for x, d in self.totals.items():
            name = self._new(("total", x))
            self.constants[name] = "total", x
            self._lines.append(f"np.add({name}, {self._operand(d)}, out={name})")
        if backward and pairs:
            self._lines.append(f"if step % {FLUSHED} == 0: flush({', '.join(slots)})")
        head = ["def run(rows, new, constants, iterated):", f"    [{', '.join(self.constants)}] = constants"]
        head += [f"    {line}" for line in self._before]
        head += [f"    for step, [{', '.join(self.iterated)}] in enumerate(zip(*iterated), 1):"]
        self.text = "\n".join([*head, *(f"        {line}" for line in [*self._gathers, *self._lines, "pass"])])
        exec(self.text, self._scope)
        self.run = self._scope["run"]

    def _emit(self, op: Op, end: Callable[[], None]) -> None:
        """The calls for an operation; ``end`` frees the operands that it is the last to read."""
        dtypes = {x.dtype for x in op.values}
        like = next(iter(dtypes)) if len(dtypes) == 1 and op.output.dtype.kind == "f" else None
        args = [self._operand(x, like) for x in op.inputs]
        ufunc = _ufunc(op.name)
        if ufunc is not None or op.name in ("sigmoid", "relu"):
            end()  # the result may take the place of an operand
        out = self._operand(op.output)
        if ufunc is not None:
            self._lines.append(self._call(ufunc, args, op, out))
        elif op.name == "relu":
            self._lines.append(f"np.maximum({args[0]}, {self._operand(0, like)}, out={out})")
        elif op.name == "sigmoid":
            # As in the primitive. The bound is an array, because NumPy is three times slower with a number.
            e, one, bound = self._buffer(op.output), self._operand(1, like), ("bound", op.output.shape[1:], like)
            if bound not in self._names:
                self._before.append(f"{self._new(bound)} = np.full_like({e}, 40)")
            self._lines += [f"np.minimum({args[0]}, {self._names[bound]}, out={e})", f"np.exp({e}, out={e})"]
            self._lines += [f"np.add({e}, {one}, out={out})", f"np.divide({e}, {out}, out={out})"]
            self._free[op.output.shape[1:], op.output.dtype].append(e)
        elif op.name == "matmul":
            self._lines.append(self._call(_product if op.output.ndim > 2 else np.matmul, args, op, out))
        elif op.name == "where":
            self._lines += [f"np.copyto({out}, {args[2]})", f"np.copyto({out}, {args[1]}, where={args[0]} != 0)"]
        elif op.name in ("sum", "max"):
            self._lines.append(self._call(np.sum if op.name == "sum" else np.max, args, op, out))
        elif op.name == "concatenate":
            start = 0
            for x, arg in zip(op.values, args, strict=True):
                index, place = _along(op, start, x), self.views.get(x)
                start = index[-1].stop
                if place is None or place.values != (op.output,) or place.options["index"] != index:
                    self._lines.append(f"{out}[{':, ' * (len(index) - 1)}{index[-1].start}:{start}] = {arg}")
        else:
            self._lines.append(f"{out}[...] = {self._call(function_of(op.name), args, op)}")


def _product(a: Array, b: Array, out: Array) -> None:
    """A product of rows of any shape; with a fixed matrix it is one over all of them."""
    if b.ndim == 2 and out.flags.c_contiguous:
        np.matmul(a.reshape(-1, a.shape[-1]), b, out=out.reshape(-1, out.shape[-1]))
    else:
        np.matmul(a, b, out=out)


def _flush(*cotangents: Array) -> None:
    """Replace subnormal numbers by 0."""
    for d in cotangents:
        d *= np.abs(d) >= np.finfo(d.dtype).smallest_normal


def _matrix(x: Array) -> Array:
    """A copy with contiguous rows, and padding between them: a power of two apart, they would share few cache sets."""
    copy = np.empty((x.shape[0], x.shape[1] + 16), x.dtype)[:, : x.shape[1]]
    np.copyto(copy, x)
    return copy


# --- a program --------------------------------------------------------------------------------------------------------


class Saved:
    """One call of a program: its arrays, by value, and the memory that they use.

    An array has one axis for all rows, in the order of time. The memory belongs to the call until it is released or
    the call is deleted.
    """

    def __init__(self, pool: list[Space], args: tuple[Any, ...], steps: int, batch: int, reverse: bool) -> None:
        self.pool, self.args, self.steps, self.batch, self.reverse = pool, args, steps, batch, reverse
        self.space: Space | None = None
        with suppress(IndexError):  # another thread may have taken the last
            self.space = pool.pop()
        self.space = Space() if self.space is None else self.space
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

    def run(
        self, code: _Code, stage: Stage, body: Body, carry: Mapping[Value, Array | None], backward: bool = False
    ) -> list[Array]:
        """Run a stage in one direction, with its carry before the first step; return that after the last one."""
        assert self.space is not None
        known, new, batch, reverse = self.known, self.space.array, self.batch, self.reverse != backward
        known.update(zip(body.prologue.outputs, evaluate(body.prologue, [known[x] for x in stage.fixed]), strict=True))
        size = self.rows(stage)
        for x in code.kept:
            known[x] = new(x, (size, *x.shape[1:]), x.dtype)
        last = []
        for x, given in carry.items():
            state = new(x, (size + batch, *x.shape[1:]), x.dtype)
            parts = state[:-batch], state[batch:]
            known[x], known["after", x] = before, after = parts[::-1] if reverse else parts
            np.copyto(before[-batch:] if reverse else before[:batch], 0 if given is None else given)
            last.append(after[:batch] if reverse else after[-batch:])
        known.update((after, known["after", before]) for after, before in code.after.items())
        constants = [_matrix(known[x]) if x in code.matrices else known[x] for x in code.constants.values()]
        arrays = [code.full(x, known) for x in code.iterated.values()]
        if stage.by_step:
            order = slice(None, None, -1 if reverse else 1)
            code.run(batch, new, constants, [a.reshape(-1, batch, *a.shape[1:])[order] for a in arrays])
        else:
            block = max(1, min(size, _BLOCK // code.widest))
            whole = size - size % block
            code.run(block, new, constants, [a[:whole].reshape(-1, block, *a.shape[1:]) for a in arrays])
            code.run(size % block, new, constants, [a[None, whole:] for a in arrays if whole < size])
        known.update((x, code.full(x, known)) for x in code.wanted)
        return last


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
        shapes = [op.values[1].shape for stage in program.stages for op in stage.forward.ops if op.name == "matmul"]
        deepest = max((shape[-2] for shape in shapes), default=1)
        self.product = deepest, sum(map(math.prod, shapes)) // deepest
        self._codes = [*map(self._generate, program.stages)]
        self._pool: list[Space] = []
        self._itself = object()  # a unique key, which does not keep the program alive

    def release(self) -> None:
        """Free the memory of all idle workspaces."""
        self._pool.clear()

    def _generate(self, stage: Stage) -> tuple[_Code, _Code | None]:
        """The functions of a stage, forwards and backwards."""
        origin = {} if stage.name == "table" else self.origin
        constant: frozenset[Value] = frozenset() if stage.name == "context" else self.program.per_sequence
        back, pairs = stage.backward, [*zip(stage.carry, stage.carried, strict=True)]
        forward = _Code(stage.forward, pairs, [*stage.outputs, *(back.keeps if back else ())], constant, origin)
        if back is None:
            return forward, None
        d_pairs = [(x, d or 0) for x, d in zip(stage.d_carried, stage.d_carry, strict=True) if x is not None]
        rows = [(x, d) for x, d in zip(stage.rows, stage.d_rows, strict=True) if isinstance(d, Value)]
        wanted = [d for x, d in rows if x not in constant]
        wanted += [x for total in back.sums for x in (total.left, total.right) if x is not None]
        totals = {x: d for x, d in rows if x in constant}
        return forward, _Code(back, d_pairs, wanted, constant, origin, totals, backward=True)

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
        last: list[Array] = []
        for stage, (code, _) in zip(program.stages, self._codes, strict=True):
            last += saved.run(code, stage, stage.forward, dict(zip(stage.carry, carry, strict=False)))
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
        for y, g in zip(program.ys, d_ys, strict=True):
            if g is not None:
                _add(d, y, self._at_home(saved, y, g.reshape(-1, *g.shape[2:])))
        d_first = [np.zeros(x.shape, x.dtype) for x in carry]
        for stage, (_, code) in zip(program.stages[::-1], self._codes[::-1], strict=True):
            body = stage.backward
            assert body is not None
            assert code is not None
            for x, seed in zip(stage.outputs, stage.d_outputs, strict=True):
                if seed is not None:
                    known[seed] = d[x] if x in d else np.zeros((saved.rows(stage), *x.shape[1:]), x.dtype)
            known.update((("total", x), np.zeros(known[x].shape, x.dtype)) for x in code.totals)
            arriving = {i: x for i, x in enumerate(stage.d_carried) if x is not None}
            first = saved.run(code, stage, body, {x: d_carry[i] for i, x in arriving.items()}, backward=True)
            for i, last in zip(arriving, first, strict=True):
                d_first[i] = np.array(last)
            for x, dx in zip(stage.rows, stage.d_rows, strict=True):
                if x in code.totals:
                    _add(d, x, known["total", x])
                elif isinstance(dx, Value):
                    own = stage.name in ("table", "context")
                    _add(d, x, known[dx] if own else self._at_home(saved, x, known[dx]))
            self._add_sums(saved, stage, body, d)
        given = [d[x] if x in d else np.zeros(x.shape, x.dtype) for x in program.fixed if x.dtype.kind == "f"]
        assert program.d_prologue is not None
        d_params = [
            g if isinstance(g, np.ndarray) and g.shape == x.shape else np.full(x.shape, g, x.dtype)
            for x, g in zip(program.params, evaluate(program.d_prologue, [*params, *given]), strict=True)
        ]
        tables = [x.table if isinstance(x, Lookup) else x for x in xs]
        d_xs = [np.array(d[v]).reshape(x.shape) if v in d else None for v, x in zip(program.xs, tables, strict=True)]
        return d_params, d_first, d_xs, [np.array(d[x]) if x in d else None for x in program.context]

    def _at_home(self, saved: Saved, x: Value, g: Array) -> Array:
        """The cotangents of a value's rows at all steps as one array like the value: of a table, or per sequence."""
        if x in self.program.per_sequence:
            return g.reshape(saved.steps, saved.batch, *g.shape[1:]).sum(axis=0)  # type: ignore[no-any-return]
        if x not in self.origin:
            return g
        size, indices = len(saved.known[x]), saved.known["indices", self.origin[x]]
        if size <= ROWS:
            onehot = np.zeros((size, len(indices)), g.dtype)
            onehot[indices, np.arange(len(indices))] = 1
            return onehot @ g.reshape(len(g), -1)
        order = np.argsort(indices, kind="stable")
        rows = indices[order]
        starts = np.flatnonzero(np.r_[True, rows[1:] != rows[:-1]])
        total = np.zeros((size, *g.shape[1:]), g.dtype)
        total[rows[starts]] = np.add.reduceat(g[order], starts, axis=0)
        return total

    def _add_sums(self, saved: Saved, stage: Stage, body: Body, d: dict[Value, Array]) -> None:
        """A stage's sums over rows, and from them the cotangents of its fixed inputs."""
        sums: dict[Value, Array] = {}
        for total in body.sums:
            right, left = (
                saved.known[x] if stage.name in ("table", "context") else self._at_all_steps(saved, x)
                for x in (total.right, total.left or total.right)
            )
            if total.left is None:
                row = right.sum(axis=0)[None]
                sums[total.op.output] = np.asarray(function_of(total.op.name)(row, **total.op.options))
            else:
                sums[total.op.output] = left.reshape(-1, left.shape[-1]).T @ right.reshape(-1, right.shape[-1])
        assert body.epilogue is not None
        inputs = [sums[x] if x in sums else saved.known[x] for x in body.epilogue.inputs]
        wanted = [x for x, there in zip(stage.fixed, stage.d_fixed, strict=True) if there]
        for x, g in zip(wanted, evaluate(body.epilogue, inputs), strict=True):
            _add(d, x, g)


def _add(d: dict[Value, Array], x: Value, g: Array) -> None:
    d[x] = d[x] + g if x in d else g
