"""Elementwise functions of whole arrays in one pass over memory, and the sum of an array's squares.

The function is an ordinary expression, which NumPy carries out block by block, or machine code number by number; what
it computes, and whether that is machine code, is its caller's affair. It has no derivative.
"""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

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
            outs = [_new(first.shape, first.dtype) for _ in range(self._counts[2])]
        ins = [np.ravel(x) for x in arrays]
        flat = [_flat_view(out) for out in outs]
        kernel = self._kernel(first.dtype) if compiled and not short and _compilable(ins) else None
        (kernel or self._in_blocks)(ins, scalars, flat)
        return list(outs)

    def _in_blocks(self, arrays: Sequence[Array], scalars: Sequence[float], outs: Sequence[Array]) -> None:
        numbers = [arrays[0].dtype.type(x) for x in scalars]
        for start in range(0, arrays[0].size, BLOCK):
            here = slice(start, start + BLOCK)
            for out, y in zip(outs, self.function(*(x[here] for x in arrays), *numbers), strict=True):
                out[here] = y

    def _kernel(self, dtype: np.dtype[Any]) -> _Kernel | None:
        """The machine code for a type; None where there is no compiler."""
        # Whether there is one takes longer to find out than a short array takes.
        if dtype not in self._kernels and jit.available():
            self._kernels[dtype] = _Kernel(self.function, *self._counts, dtype)
        return self._kernels.get(dtype)


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
    kernel = _sum_kernel(flat.dtype.name) if compiled and flat.size > BLOCK and _compilable([flat]) else None
    if kernel is not None:
        # Cut alike whatever the number of threads, so that it does not change a bit of the sum.
        count = -(-flat.size // _SUM_BLOCK)
        sums = np.empty(count)
        run = functools.partial(kernel.run, flat.size, flat.ctypes.data, sums.ctypes.data)
        in_parallel([functools.partial(run, *part) for part in _shares(count, flat.size, 1)])
        return float(sums.sum())
    if flat.size <= _DOT_BLOCK:
        return float(np.dot(flat, flat))
    blocks = (flat[start : start + _DOT_BLOCK] for start in range(0, flat.size, _DOT_BLOCK))
    return sum(float(np.dot(block, block)) for block in blocks)


class _Lease:
    """Memory for one array and all views of it, which falls back to the spare memory when the last of them is gone.

    A step makes as many new arrays as it lets go of old ones, and fresh pages from the system would take longer than
    all that is computed.
    """

    _spare: ClassVar[dict[int, list[Array]]] = {}

    def __init__(self, size: int) -> None:
        try:
            self._block = self._spare[size].pop()
        except (KeyError, IndexError):
            # A new size means other work, to which what is spare now may be of no use.
            self._spare.clear()
            raw = np.empty(size + 64, np.uint8)
            start = -raw.ctypes.data % 64
            self._block = raw[start : start + size]
        self.__array_interface__ = self._block.__array_interface__

    def __del__(self) -> None:
        self._spare.setdefault(self._block.size, []).append(self._block)


def _new(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """A new array, which begins at the start of a cache line."""
    lease = _Lease(math.prod(shape) * dtype.itemsize)
    return np.asarray(lease).view(dtype).reshape(shape)


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


class _SumKernel:
    """The machine code of the sum of squares for one type."""

    def __init__(self, dtype: str) -> None:
        self.library = jit.compile_ir(_sum_ir(_TYPES[dtype][0], jit.vector_width("float64")))
        kinds = [ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64]
        self.run = ctypes.CFUNCTYPE(None, *kinds)(self.library.address("sum_of_squares"))


@functools.cache
def _sum_kernel(dtype: str) -> _SumKernel | None:
    return _SumKernel(dtype) if jit.available() else None


# --- code -------------------------------------------------------------------------------------------------------------


def _elementwise_ir(graph: Graph, arrays: int, dtype: FloatType, width: int) -> str:
    """A function ``fused(start, stop, *scalars, *arrays, *outs)``: whole vectors, and then what is left one by one."""
    numbers = [f"{dtype} %s{i}" for i in range(len(graph.inputs) - arrays)]
    others = "".join(f", {x}" for x in (*numbers, *(f"ptr %p{i}" for i in range(arrays + len(graph.outputs)))))
    vector, single = Emitter(dtype, width), Emitter(dtype, 1)
    loops = [*_loop("vectors", vector, graph, arrays, others), *_loop("singles", single, graph, arrays, others)]
    return "\n".join(
        [
            *sorted(vector.declarations | single.declarations),
            *loops,
            f"define void @fused(i64 %start, i64 %stop{others}) {{",
            "%length = sub i64 %stop, %start",
            f"%rest = srem i64 %length, {width}",
            "%middle = sub i64 %stop, %rest",
            f"call void @vectors(i64 %start, i64 %middle{others})",
            f"call void @singles(i64 %middle, i64 %stop{others})",
            "ret void",
            "}",
        ]
    )


def _loop(name: str, em: Emitter, graph: Graph, arrays: int, others: str) -> list[str]:
    """A function that computes as many numbers at once as the emitter's vectors have lanes."""
    scalars = [em.splat(f"%s{i}") for i in range(len(graph.inputs) - arrays)]
    before, em.lines = em.lines, []
    _emit_body(em, graph, arrays, scalars)
    return [
        f"define internal void @{name}(i64 %start, i64 %stop{others}) {{",
        "entry:",
        *before,
        "br label %head",
        "head:",
        "%i = phi i64 [%start, %entry], [%next, %body]",
        "%more = icmp slt i64 %i, %stop",
        "br i1 %more, label %body, label %end",
        "body:",
        *em.lines,
        f"%next = add i64 %i, {em.width}",
        "br label %head",
        "end:",
        "ret void",
        "}",
    ]


def _emit_body(em: Emitter, graph: Graph, arrays: int, scalars: Sequence[str]) -> None:
    """Load what stands at the index, compute, and store."""
    size = em.format.bits // 8

    def place(number: int) -> str:
        return em.assign(f"getelementptr {em.dtype}, ptr %p{number}, i64 %i")

    known: dict[Value, str] = {}
    for i, value in enumerate(graph.inputs[:arrays]):
        known[value] = em.assign(f"load {em.type}, ptr {place(i)}, align {size}")
    known |= dict(zip(graph.inputs[arrays:], scalars, strict=True))
    masks: set[str] = set()

    def register(x: Operand) -> str:
        if not isinstance(x, Value):
            return em.constant(float(x))
        if x not in known:
            raise TraceError("it uses an array that is none of its arguments")
        return known[x]

    def number(x: Operand) -> str:
        found = register(x)
        return emit_number(em, found) if found in masks else found

    def mask(x: Operand) -> str:
        found = register(x)
        return found if found in masks else em.compare("une", found, em.constant(0))

    for op in graph.ops:
        if op.name == "where":
            result = em.select(mask(op.inputs[0]), *map(number, op.inputs[1:]))
        elif op.name == "clip":
            result = emit_clip(em, [number(op.inputs[0])], **op.options)
        elif op.name in FUNCTIONS:
            take = mask if op.name.startswith("logical") else number
            result = FUNCTIONS[op.name](em, list(map(take, op.inputs)))
        else:
            raise TraceError(f"its {op.name} works on more than one element, or has no machine code")
        if op.name in RESULT_IS_MASK:
            masks.add(result)
        known[op.output] = result
    for i, output in enumerate(graph.outputs, start=arrays):
        em.line(f"store {em.type} {number(output)}, ptr {place(i)}, align {size}")


def _sum_ir(dtype: FloatType, width: int) -> str:
    """A function ``sum_of_squares(size, array, sums, first, last)``: the sums of the blocks from first up to last."""
    chains = range(8)  # of additions; none waits for another
    many = width * len(chains)
    loaded, vector = f"<{width} x {dtype}>", f"<{width} x double>"
    fma, add = f"{vector} @llvm.fma.v{width}f64", f"double @llvm.vector.reduce.fadd.v{width}f64"

    def widened(register: str, kind: str, wide: str) -> str:
        return f"{register}.d = {'fpext' if dtype == 'float' else 'bitcast'} {kind} {register} to {wide}"

    def chain(i: int) -> list[str]:
        return [
            f"%at{i} = add i64 %j, {i * width}",
            f"%p{i} = getelementptr {dtype}, ptr %array, i64 %at{i}",
            f"%x{i} = load {loaded}, ptr %p{i}, align {4 if dtype == 'float' else 8}",
            widened(f"%x{i}", loaded, vector),
            f"%new{i} = call {fma}({vector} %x{i}.d, {vector} %x{i}.d, {vector} %sum{i})",
        ]

    return "\n".join(
        [
            f"declare {fma}({vector}, {vector}, {vector})",
            f"declare {add}(double, {vector})",
            "declare i64 @llvm.smin.i64(i64, i64)",
            "define void @sum_of_squares(i64 %size, ptr %array, ptr %sums, i64 %first, i64 %last) {",
            "entry:",
            "br label %block",
            "block:",
            "%b = phi i64 [%first, %entry], [%b.next, %done]",
            "%b.more = icmp slt i64 %b, %last",
            "br i1 %b.more, label %begin, label %end",
            "begin:",
            f"%start = mul i64 %b, {_SUM_BLOCK}",
            f"%full = add i64 %start, {_SUM_BLOCK}",
            "%stop = call i64 @llvm.smin.i64(i64 %full, i64 %size)",
            "%length = sub i64 %stop, %start",
            f"%rest = srem i64 %length, {many}",
            "%middle = sub i64 %stop, %rest",
            "br label %vectors",
            "vectors:",
            "%j = phi i64 [%start, %begin], [%j.next, %vector]",
            *(f"%sum{i} = phi {vector} [zeroinitializer, %begin], [%new{i}, %vector]" for i in chains),
            "%j.more = icmp slt i64 %j, %middle",
            "br i1 %j.more, label %vector, label %collect",
            "vector:",
            *(line for i in chains for line in chain(i)),
            f"%j.next = add i64 %j, {many}",
            "br label %vectors",
            "collect:",
            f"%all0 = fadd {vector} %sum0, zeroinitializer",
            *(f"%all{i} = fadd {vector} %all{i - 1}, %sum{i}" for i in chains[1:]),
            f"%lanes = call {add}(double 0.0, {vector} %all{chains[-1]})",
            "br label %singles",
            "singles:",
            "%k = phi i64 [%middle, %collect], [%k.next, %single]",
            "%total = phi double [%lanes, %collect], [%total.next, %single]",
            "%k.more = icmp slt i64 %k, %stop",
            "br i1 %k.more, label %single, label %done",
            "single:",
            f"%q = getelementptr {dtype}, ptr %array, i64 %k",
            f"%y = load {dtype}, ptr %q",
            widened("%y", dtype, "double"),
            "%square = fmul double %y.d, %y.d",
            "%total.next = fadd double %total, %square",
            "%k.next = add i64 %k, 1",
            "br label %singles",
            "done:",
            "%place = getelementptr double, ptr %sums, i64 %b",
            "store double %total, ptr %place",
            "%b.next = add i64 %b, 1",
            "br label %block",
            "end:",
            "ret void",
            "}",
        ]
    )
