"""Elementwise functions of whole arrays in one pass over memory, and the sum of an array's squares.

The function is an ordinary expression, which NumPy carries out block by block, or machine code number by number; what
it computes, and whether that is machine code, is its caller's affair. It has no derivative.
"""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from minigrad.compiled import jit
from minigrad.compiled.parallel import in_parallel, threads
from minigrad.compiled.vector_math import FUNCTIONS, RESULT_IS_MASK, Emitter, FloatType, emit_clip, emit_number
from minigrad.graph import Graph, Operand, TraceError, Value, trace
from minigrad.tensor import Array

BLOCK = 1 << 14
"""Numbers that NumPy takes at once, so that what passes between its loops stays in the cache. A shorter array is never
worth machine code."""

WORTH_SHARING = 1 << 17
"""Numbers below which waking a second thread costs more than it saves."""

_DOT_BLOCK = 1 << 13  # a longer product would start threads of BLAS, which then spin beside ours
_SUM_BLOCK = 1 << 16
_TYPES: dict[str, tuple[FloatType, Any]] = {"float32": ("float", ctypes.c_float), "float64": ("double", ctypes.c_double)}


class Fused:
    """An elementwise function that passes over its arrays once; ``fused`` makes it.

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
        """Apply the function. Both ways give the same bits as long as every operation is rounded correctly.

        Args:
            arrays: of one shape. Where their types differ, or are no float32 or float64, NumPy computes.
            scalars: numbers, which are rounded to the type of the first array.
            outs: where the results go: contiguous, of the first array's shape and type, each a new array or one of
                ``arrays``. Without them all are new.
            compiled: whether a long array may run as machine code.

        Returns:
            The results, contiguous in C order.
        """
        first = arrays[0]
        short = first.size <= BLOCK
        if short and outs is None:
            # The shortest way, for a network has many small arrays.
            cast = first.dtype.type
            return [np.asarray(y, first.dtype, "C") for y in self.function(*arrays, *map(cast, scalars))]
        if outs is None:
            outs = [np.empty(first.shape, first.dtype) for _ in range(self._counts[2])]
        ins = [np.ravel(x) for x in arrays]
        flat = [_flat_view(out) for out in outs]
        if compiled and not short and _compilable(ins) and jit.available():
            self._kernel(first.dtype)(ins, scalars, flat)
        else:
            self._in_blocks(ins, scalars, flat)
        return list(outs)

    def _in_blocks(self, arrays: Sequence[Array], scalars: Sequence[float], outs: Sequence[Array]) -> None:
        numbers = [arrays[0].dtype.type(x) for x in scalars]
        for start in range(0, arrays[0].size, BLOCK):
            here = slice(start, start + BLOCK)
            for out, y in zip(outs, self.function(*(x[here] for x in arrays), *numbers), strict=True):
                out[here] = y

    def _kernel(self, dtype: np.dtype[Any]) -> _Kernel:
        if dtype not in self._kernels:
            self._kernels[dtype] = _Kernel(self.function, *self._counts, dtype)
        return self._kernels[dtype]


def fused(f: Callable[..., tuple[Any, ...]], *, arrays: int, scalars: int = 0, outputs: int = 1) -> Fused:
    """An elementwise function that passes over its arrays once.

    Args:
        f: ``(*arrays, *scalars) -> results``, a pure expression of operators and NumPy's functions that gives a tuple.
            What changes between calls belongs into the scalars: a number that ``f`` closes over is compiled into it.
        arrays: how many arrays it takes.
        scalars: how many numbers.
        outputs: how many arrays it gives.
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
    if compiled and flat.size > BLOCK and _compilable([flat]) and jit.available():
        # Cut alike whatever the number of threads, so that it does not change a bit of the sum.
        count = -(-flat.size // _SUM_BLOCK)
        sums = np.empty(count)
        run = functools.partial(_sum_kernel(flat.dtype.name), flat.size, flat.ctypes.data, sums.ctypes.data)
        in_parallel([functools.partial(run, *part) for part in _shares(count, flat.size, 1)])
        return float(sums.sum())
    blocks = (flat[start : start + _DOT_BLOCK] for start in range(0, flat.size, _DOT_BLOCK))
    return sum(float(np.dot(block, block)) for block in blocks)


def _flat_view(out: Array) -> Array:
    if not out.flags.c_contiguous:
        raise ValueError("an array for results is not contiguous in C order")
    return out.reshape(-1)


def _compilable(arrays: Sequence[Array]) -> bool:
    dtype = arrays[0].dtype
    # A type equals only its own byte order.
    return dtype in (np.float32, np.float64) and all(x.dtype == dtype and x.flags.aligned for x in arrays)


def _shares(count: int, size: int, unit: int) -> list[tuple[int, int]]:
    """Ranges of ``count`` items, one a thread, cut at multiples of ``unit``; one for all in a short array."""
    workers = threads() if size >= WORTH_SHARING else 1
    share = -(-count // workers // unit) * unit
    return [(start, min(start + share, count)) for start in range(0, count, share)]


class _Kernel:
    """The machine code of an elementwise function for one type."""

    def __init__(
        self, f: Callable[..., tuple[Any, ...]], arrays: int, scalars: int, outputs: int, dtype: np.dtype[Any]
    ) -> None:
        # The length stands for any; the one thing that matters is that it is no 1.
        examples = [np.broadcast_to(dtype.type(0), shape) for shape in [(13,)] * arrays + [()] * scalars]
        graph, _ = trace(f, *examples)
        if len(graph.outputs) != outputs:
            raise ValueError(f"a fused function gives {len(graph.outputs)} results; expected {outputs}")
        name, number = _TYPES[dtype.name]
        self.library = jit.compile_ir(_elementwise_ir(graph, arrays, name, jit.vector_width(dtype.name)))
        kinds = [ctypes.c_int64] * 2 + [number] * scalars + [ctypes.c_void_p] * (arrays + outputs)
        self.run = ctypes.CFUNCTYPE(None, *kinds)(self.library.address("fused"))

    def __call__(self, arrays: Sequence[Array], scalars: Sequence[float], outs: Sequence[Array]) -> None:
        pointers = [x.ctypes.data for x in (*arrays, *outs)]
        size = arrays[0].size
        in_parallel([functools.partial(self.run, *part, *scalars, *pointers) for part in _shares(size, size, 64)])


@functools.cache
def _sum_kernel(dtype: str) -> Callable[..., None]:
    text = _sum_ir(_TYPES[dtype][0], jit.vector_width("float64"))
    library = jit.compile_ir(text)
    kinds = [ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64]
    function = ctypes.CFUNCTYPE(None, *kinds)(library.address("sum_of_squares"))
    function.library = library  # type: ignore[attr-defined]  # the code lives as long as it does
    return function


# --- code -------------------------------------------------------------------------------------------------------------


def _elementwise_ir(graph: Graph, arrays: int, dtype: FloatType, width: int) -> str:
    """A function ``fused(start, stop, *scalars, *arrays, *outs)``: whole vectors, and then what is left one by one."""
    vector, single = Emitter(dtype, width), Emitter(dtype, 1)
    scalars = len(graph.inputs) - arrays
    arguments = ["i64 %start", "i64 %stop", *(f"{dtype} %s{i}" for i in range(scalars))]
    arguments += [f"ptr %p{i}" for i in range(arrays + len(graph.outputs))]
    splats = [vector.splat(f"%s{i}") for i in range(scalars)]
    before, vector.lines = vector.lines, []
    _emit_body(vector, graph, arrays, "%i", splats)
    _emit_body(single, graph, arrays, "%k", [f"%s{i}" for i in range(scalars)])
    return "\n".join(
        [
            *sorted(vector.declarations | single.declarations),
            f"define void @fused({', '.join(arguments)}) {{",
            "entry:",
            *before,
            "%length = sub i64 %stop, %start",
            f"%whole = sdiv i64 %length, {width}",
            f"%covered = mul i64 %whole, {width}",
            "%middle = add i64 %start, %covered",
            "br label %vectors",
            "vectors:",
            "%i = phi i64 [%start, %entry], [%i.next, %vector]",
            "%i.more = icmp slt i64 %i, %middle",
            "br i1 %i.more, label %vector, label %singles",
            "vector:",
            *vector.lines,
            f"%i.next = add i64 %i, {width}",
            "br label %vectors",
            "singles:",
            "%k = phi i64 [%middle, %vectors], [%k.next, %single]",
            "%k.more = icmp slt i64 %k, %stop",
            "br i1 %k.more, label %single, label %end",
            "single:",
            *(line.replace("%v", "%w") for line in single.lines),
            "%k.next = add i64 %k, 1",
            "br label %singles",
            "end:",
            "ret void",
            "}",
        ]
    )


def _emit_body(em: Emitter, graph: Graph, arrays: int, index: str, scalars: Sequence[str]) -> None:
    """Load what stands at an index, compute, and store."""
    size = em.format.bits // 8

    def place(number: int) -> str:
        return em.assign(f"getelementptr {em.dtype}, ptr %p{number}, i64 {index}")

    known = {
        value: em.assign(f"load {em.type}, ptr {place(i)}, align {size}") for i, value in enumerate(graph.inputs[:arrays])
    }
    known |= dict(zip(graph.inputs[arrays:], scalars, strict=True))
    known |= {value: em.constant(float(x)) for value, x in graph.constants.items()}
    masks: set[str] = set()

    def number(x: Operand) -> str:
        register = _register(em, known, x)
        return emit_number(em, register) if register in masks else register

    def mask(x: Operand) -> str:
        register = _register(em, known, x)
        return register if register in masks else em.compare("une", register, em.constant(0))

    for op in graph.ops:
        if op.name == "where":
            result = em.select(mask(op.inputs[0]), *map(number, op.inputs[1:]))
        elif op.name == "clip":
            result = emit_clip(em, [number(op.inputs[0])], **op.options)
        elif op.name in FUNCTIONS:
            take = mask if op.name.startswith("logical") else number
            result = FUNCTIONS[op.name](em, list(map(take, op.inputs)))
        else:
            raise TraceError(f"its {op.name} is no elementwise operation")
        if op.name in RESULT_IS_MASK:
            masks.add(result)
        known[op.output] = result
    for i, output in enumerate(graph.outputs, start=arrays):
        em.line(f"store {em.type} {number(output)}, ptr {place(i)}, align {size}")


def _register(em: Emitter, known: Mapping[Value, str], x: Operand) -> str:
    return known[x] if isinstance(x, Value) else em.constant(float(x))


def _sum_ir(dtype: FloatType, width: int) -> str:
    """A function ``sum_of_squares(size, array, sums, first, last)``: the sums of the blocks from first to last."""
    size = _TYPES_SIZE[dtype]
    chains = 8  # of additions, none of which waits for another
    vector, narrow = f"<{width} x double>", f"<{width} x {dtype}>"

    def widened(register: str, kind: str, wide: str) -> str:
        same = dtype == "double"
        return f"{register}.d = " + (f"select i1 true, {wide} {register}, {wide} {register}" if same else f"fpext {kind} {register} to {wide}")
    raise NotImplementedError
