"""Elementwise functions of whole arrays in one pass over memory, and sums of squares.

A function is an ordinary expression, executed by NumPy block by block or by machine code element by element. It has no
derivative.
"""

from __future__ import annotations

import ctypes
import functools
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from minigrad.compiled import jit
from minigrad.compiled.llvm import Function, Register, module, vector
from minigrad.compiled.memory import address, empty, readable
from minigrad.compiled.parallel import in_parallel, threads
from minigrad.compiled.vector_math import FUNCTIONS, apply, as_number
from minigrad.graph import Graph, Operand, TraceError, Value, trace
from minigrad.tensor import Array

BLOCK = 12 * 1024
"""Elements per block for NumPy, so that intermediate values stay in the cache. Shorter arrays never run as machine
code."""

WORTH_SHARING = 1 << 17
"""Numbers below which waking a second thread costs more than it saves."""

WORTH_WIDENING = 1 << 16
"""Numbers below which a sum of squares is as fast in NumPy as in machine code."""

_DOT_BLOCK = 1 << 13  # a longer product would start BLAS threads, which then spin beside ours
_TYPES: dict[str, tuple[str, Any]] = {
    "float32": ("float", ctypes.c_float),
    "float64": ("double", ctypes.c_double),
}


class Fused:
    """An elementwise function that passes over its arrays once; created by ``fused``.

    Attributes:
        function: the expression.
    """

    def __init__(self, f: Callable[..., tuple[Any, ...]], arrays: int, scalars: int, outputs: int) -> None:
        self.function = f
        self._counts = arrays, scalars, outputs
        self._kernels: dict[np.dtype[Any], _Kernel] = {}

    def __call__(
        self,
        arrays: Sequence[Array],
        scalars: Sequence[float],
        outs: Sequence[Array] | None = None,
        *,
        compiled: bool = True,
    ) -> list[Array]:
        """Apply the function. NumPy and machine code give the same bits if every operation is correctly rounded.

        Args:
            arrays: of one shape. If their dtypes differ, or are not float32 or float64, NumPy computes.
            scalars: numbers, which are rounded to the dtype of the first array.
            outs: arrays for the results: contiguous, of the first array's shape and dtype, each new or one of
                ``arrays``. By default all are new.
            compiled: whether a long array may run as machine code.

        Returns:
            The results, contiguous in C order.

        Raises:
            ValueError: the shapes differ, or an array of ``outs`` is unsuitable.
        """
        (results,) = self._run([arrays], scalars, outs, compiled)
        return results

    def over(
        self, rows: Iterable[Sequence[Array]], scalars: Sequence[float], *, compiled: bool = True
    ) -> list[list[Array]]:
        """Apply the function to many groups of arrays, each alone; the threads are woken only once."""
        return self._run(rows, scalars, None, compiled)

    def _run(
        self,
        rows: Iterable[Sequence[Array]],
        scalars: Sequence[float],
        outs: Sequence[Array] | None,
        compiled: bool,
    ) -> list[list[Array]]:
        rounded: dict[np.dtype[Any], list[Any]] = {}
        calls: list[_Call] = []
        results = []
        for arrays in rows:
            shape, dtype = arrays[0].shape, arrays[0].dtype
            for x in arrays:
                if x.shape != shape:
                    raise ValueError(f"arrays have the shapes {shape} and {x.shape}; give arrays of one shape")
            if dtype not in rounded:
                rounded[dtype] = [dtype.type(x) for x in scalars]
            if outs is None and arrays[0].size <= BLOCK:
                # The fastest way for the many small arrays of a network.
                results.append([np.array(y, dtype, order="C") for y in self.function(*arrays, *rounded[dtype])])
                continue
            into = [empty(shape, dtype) for _ in range(self._counts[2])] if outs is None else list(outs)
            if outs is not None:
                _check_outs(outs, arrays[0])
            kernel = self._kernel(dtype) if compiled and arrays[0].size > BLOCK and _compilable(arrays) else None
            if kernel is None:
                self._in_blocks([np.ravel(x) for x in arrays], rounded[dtype], [x.reshape(-1) for x in into])
            else:
                calls.append(kernel.call(arrays, scalars, into))
            results.append(into)
        _run(calls)
        return results

    def _in_blocks(self, arrays: Sequence[Array], scalars: Sequence[Any], outs: Sequence[Array]) -> None:
        for start in range(0, arrays[0].size, BLOCK):
            here = slice(start, start + BLOCK)
            for out, y in zip(outs, self.function(*(x[here] for x in arrays), *scalars), strict=True):
                out[here] = y

    def _kernel(self, dtype: np.dtype[Any]) -> _Kernel | None:
        """The machine code for a dtype; None without a compiler."""
        # Checking for a compiler takes longer than a short array.
        if dtype not in self._kernels and jit.available():
            self._kernels[dtype] = _Kernel(self.function, *self._counts, dtype)
        return self._kernels.get(dtype)


def fused(f: Callable[..., tuple[Any, ...]], *, arrays: int, scalars: int = 0, outputs: int = 1) -> Fused:
    """An elementwise function that passes over its arrays once.

    Args:
        f: ``(*arrays, *scalars) -> results``, a pure expression of operators and NumPy's functions that returns a
            tuple. Numbers that change between calls must be scalars: a number that ``f`` closes over is compiled in.
        arrays: the number of arrays it takes.
        scalars: the number of scalars.
        outputs: the number of arrays it returns.
    """
    return Fused(f, arrays, scalars, outputs)


def sum_of_squares(array: Array, *, compiled: bool = True) -> float:
    """The sum of the squares of all elements.

    Args:
        array: of floats, of any shape.
        compiled: whether a long array may run as machine code, which squares and adds in double precision. NumPy
            does so block by block in the array's type, and adds the blocks in double precision.
    """
    flat = np.ravel(array, order="K")
    kernel = _sum_kernel(flat.dtype.name) if compiled and flat.size > WORTH_WIDENING and _compilable([flat]) else None
    if kernel is not None:
        return float(kernel.run(flat.size, address(flat)))
    if flat.size <= _DOT_BLOCK:
        return float(np.dot(flat, flat))
    blocks = (flat[start : start + _DOT_BLOCK] for start in range(0, flat.size, _DOT_BLOCK))
    return sum(float(np.dot(block, block)) for block in blocks)


def _check_outs(outs: Sequence[Array], like: Array) -> None:
    for out in outs:
        usable = out.flags.c_contiguous and out.flags.aligned and out.flags.writeable
        if out.shape != like.shape or out.dtype != like.dtype or not usable:
            raise ValueError(
                f"results cannot go to an array of shape {out.shape} and type {out.dtype}; give a writable one of "
                f"shape {like.shape} and type {like.dtype}, contiguous in C order"
            )


def _compilable(arrays: Sequence[Array]) -> bool:
    dtype = arrays[0].dtype
    # Dtypes of different byte orders are unequal.
    return dtype in (np.float32, np.float64) and all(x.dtype == dtype and x.flags.aligned for x in arrays)


class _Call(NamedTuple):
    """A pending call of machine code: its numbers and addresses, and the arrays that must stay alive."""

    run: Callable[..., None]
    size: int
    arguments: tuple[float, ...]
    arrays: Sequence[Array]


def _run(calls: Sequence[_Call]) -> None:
    """Run all calls, on several threads if there is enough work; each processes its share of every array."""
    if calls:
        workers = threads() if sum(call.size for call in calls) >= WORTH_SHARING else 1
        in_parallel([functools.partial(_run_share, calls, worker, workers) for worker in range(workers)])


def _run_share(calls: Sequence[_Call], worker: int, workers: int) -> None:
    for run, size, arguments, _ in calls:
        start, stop = (size * i // workers // 64 * 64 if i < workers else size for i in (worker, worker + 1))
        run(start, stop, *arguments)


class _Kernel:
    """The machine code of an elementwise function for one dtype."""

    def __init__(
        self, f: Callable[..., tuple[Any, ...]], arrays: int, scalars: int, outputs: int, dtype: np.dtype[Any]
    ) -> None:
        # An arbitrary length other than 1.
        examples = [np.broadcast_to(dtype.type(0), shape) for shape in [(13,)] * arrays + [()] * scalars]
        graph, _ = trace(f, *examples)
        if len(graph.outputs) != outputs:
            raise ValueError(f"a fused function gives {len(graph.outputs)} results; expected {outputs}")
        name, number = _TYPES[dtype.name]
        self.library = jit.compile_ir(_elementwise_ir(graph, arrays, name, jit.vector_width(dtype.name)))
        kinds = [ctypes.c_int64] * 2 + [number] * scalars + [ctypes.c_void_p] * (arrays + outputs)
        self.run = ctypes.CFUNCTYPE(None, *kinds)(self.library.address("fused"))

    def call(self, arrays: Sequence[Array], scalars: Sequence[float], outs: Sequence[Array]) -> _Call:
        """The call that fills ``outs``."""
        both = [*(readable(x, x.dtype) for x in arrays), *outs]
        return _Call(self.run, arrays[0].size, (*scalars, *map(address, both)), both)


class _SumKernel:
    """The machine code of the sum of squares for one dtype."""

    def __init__(self, dtype: str) -> None:
        self.library = jit.compile_ir(_sum_ir(_TYPES[dtype][0], jit.vector_width("float64")))
        kind = ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_int64, ctypes.c_void_p)
        self.run = kind(self.library.address("sum_of_squares"))


@functools.cache
def _sum_kernel(dtype: str) -> _SumKernel | None:
    return _SumKernel(dtype) if jit.available() else None


# --- code -------------------------------------------------------------------------------------------------------------


def _elementwise_ir(graph: Graph, arrays: int, dtype: str, width: int) -> str:
    """A function ``fused(start, stop, *scalars, *arrays, *outs)``: whole vectors, then the rest one by one."""
    scalars = len(graph.inputs) - arrays
    numbers = [f"{dtype} s{i}" for i in range(scalars)]
    pointers = [f"{dtype}* p{i}" for i in range(arrays + len(graph.outputs))]
    f = Function("fused", ", ".join(["i64 start", "i64 stop", *numbers, *pointers]))
    start, stop, *others = f.parameters
    middle = stop - (stop - start) % width
    for first, last, lanes in ((start, middle, width), (middle, stop, 1)):
        spread = [number.splat(lanes) for number in others[:scalars]]
        with f.loop(first, last, lanes) as i:
            at = [pointer + i for pointer in others[scalars:]]
            results = _evaluate(graph, [pointer.load(lanes) for pointer in at[:arrays]] + spread)
            for pointer, result in zip(at[arrays:], results, strict=True):
                pointer.store(result)
    return module(f)


def _evaluate(graph: Graph, inputs: Sequence[Register]) -> list[Register]:
    """The results for these elements."""
    known = dict(zip(graph.inputs, inputs, strict=True))
    kind = inputs[0].type

    def register(x: Operand) -> Register:
        if not isinstance(x, Value):
            return inputs[0].like(float(x))
        if x not in known:
            raise TraceError("it uses an array that is not an argument")
        return known[x]

    for op in graph.ops:
        if op.name not in FUNCTIONS and op.name != "clip":
            raise TraceError(f"its {op.name} works on more than one element, or has no machine code")
        known[op.output] = apply(op.name, kind, [register(x) for x in op.inputs], **op.options)
    return [as_number(register(output), kind) for output in graph.outputs]


def _sum_ir(dtype: str, width: int) -> str:
    """A function ``sum_of_squares(size, array)``."""
    f = Function("sum_of_squares", f"i64 size, {dtype}* array", returns="double")
    size, array = f.parameters

    def element(i: Register, lanes: int) -> Register:
        x = (array + i).load(lanes)
        return x.cast("fpext", "double") if dtype == "float" else x

    zero = f.constant(vector("double", width), 0)
    sums = [f.variable(zero) for _ in range(8)]  # additions that need not wait for each other
    many = width * len(sums)
    middle = size - size % many
    with f.loop(0, middle, many) as i:
        for number, chain in enumerate(sums):
            x = element(i + number * width, width)
            chain.set(x.fma(x, chain.get()))
    lanes = functools.reduce(operator.add, [chain.get() for chain in sums])
    total = f.variable(functools.reduce(operator.add, [lanes.lane(i) for i in range(width)]))
    with f.loop(middle, size) as i:
        x = element(i, 1)
        total.set(total.get() + x * x)
    f.give(total.get())
    return module(f)
