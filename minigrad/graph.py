"""A function's computation as data: traced once, printed, rewritten, differentiated, evaluated.

A graph is in static single assignment: a list of operations, each of which computes one value. Derivatives come from
the rules in ``primitives.py``.
"""

from __future__ import annotations

import functools
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import IntEnum
from types import EllipsisType, FrameType, TracebackType
from typing import Any, NamedTuple, NoReturn, TypeAlias

import numpy as np
from numpy.lib.array_utils import normalize_axis_index, normalize_axis_tuple

from minigrad import trees
from minigrad.tensor import (
    PIECEWISE_CONSTANT,
    PRIMITIVES,
    Array,
    Primitive,
    Scattered,
    Tensor,
    is_recording,
    unbroadcast,
)
from minigrad.trees import Tree


class Origin(NamedTuple):
    """The line of code that an operation comes from.

    Attributes:
        who: the class of the step, or the function, that contains it.
        file: the name of the file.
        line: the line number.
    """

    who: str
    file: str
    line: int


class TraceError(Exception):
    """The function does something that a graph cannot represent; the message names it.

    Attributes:
        origin: the line that does so; None if unknown.
    """

    def __init__(self, reason: str, origin: Origin | None = None) -> None:
        super().__init__(reason)
        self.origin = origin

    def located(self) -> str:
        """The message with the line."""
        return f"in line {self.origin.line} of {self.origin.file} {self}" if self.origin else str(self)


class Level(IntEnum):
    """What a value of a step depends on; the highest level counts."""

    FIXED = 0
    """On parameters and constants only: equal for all sequences at every step."""
    CONTEXT = 1
    """On the context of its sequence: equal at every step."""
    INPUT = 2
    """On the step's input, not on a carry: known for all steps before the loop."""
    STATE = 3
    """On the carry: known only in the loop."""


class Batch(int):
    """The batch size of a trace, or a multiple of it, as a symbol for any batch size, in shapes and options.

    It behaves like its number; the executor of an operation substitutes the actual size (``made_for``).

    Args:
        unit: the batch size of the trace.
        times: the factor.

    Attributes:
        times: the factor.
    """

    times: int

    def __new__(cls, unit: int, times: int = 1) -> Batch:
        """The symbol of ``unit * times``."""
        self = super().__new__(cls, unit * times)
        self.times = times
        return self

    @property
    def unit(self) -> int:
        """The batch size of the trace."""
        return int(self) // self.times

    def __repr__(self) -> str:
        return "B" if self.times == 1 else f"{self.times}*B"

    __str__ = __repr__


class Value:
    """One array of a graph: its shape and dtype, without elements. Values are compared by identity.

    Attributes:
        shape: the length of each axis; a ``Batch`` among them is any number.
        dtype: the dtype of the elements.
        origin: the line that computes it, if known.
    """

    __slots__ = ("dtype", "origin", "shape")

    def __init__(self, shape: tuple[int, ...], dtype: Any) -> None:
        self.shape = shape
        self.dtype = np.dtype(dtype)
        self.origin: Origin | None = None

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    def __repr__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"


def row_size(value: Value) -> int:
    """The number of elements of a row, of a value whose first axis is that of rows."""
    return math.prod(value.shape[1:])


Operand: TypeAlias = "Value | bool | int | float"
"""An operand of an operation: a value, or a Python number, which takes the dtype of the other operands."""


@dataclass(frozen=True, eq=False, slots=True)
class Op:
    """One operation.

    Attributes:
        name: the name of a primitive, or of a piecewise constant NumPy function (``greater``).
        inputs: its operands.
        options: the primitive's options.
        output: its result.
    """

    name: str
    inputs: tuple[Operand, ...]
    options: Mapping[str, Any]
    output: Value

    @property
    def values(self) -> tuple[Value, ...]:
        """The operands that are values."""
        return tuple(x for x in self.inputs if isinstance(x, Value))


@dataclass(eq=False)
class Graph:
    """Operations in an executable order.

    Attributes:
        inputs: the input values.
        outputs: the output values; an input may be among them, or a number.
        ops: the operations.
        constants: arrays that the function refers to.
        names: names of inputs, for printing.
    """

    inputs: list[Value]
    outputs: list[Operand]
    ops: list[Op] = field(default_factory=list)
    constants: dict[Value, Array] = field(default_factory=dict)
    names: dict[Value, str] = field(default_factory=dict)

    @functools.cached_property
    def is_symbolic(self) -> bool:
        """Whether values have the batch as an axis; for a complete graph."""
        return any(isinstance(n, Batch) for op in self.ops for x in (*op.values, op.output) for n in x.shape)

    def makers(self) -> dict[Value, Op]:
        """The operation that computes each value."""
        return {op.output: op for op in self.ops}

    def users(self) -> dict[Value, list[Op]]:
        """The operations that use each value."""
        found: dict[Value, list[Op]] = {}
        for op in self.ops:
            for value in dict.fromkeys(op.values):
                found.setdefault(value, []).append(op)
        return found

    def labels(self) -> dict[Value, str]:
        """A short name for every value: that of an input, ``constant0``, or ``%0`` and so on."""
        labels = {value: self.names.get(value, f"input{i}") for i, value in enumerate(self.inputs)}
        labels |= {value: f"constant{i}" for i, value in enumerate(self.constants)}
        return labels | {op.output: f"%{i}" for i, op in enumerate(self.ops)}

    def __str__(self) -> str:
        labels = self.labels()

        def text(x: Operand) -> str:
            return labels.get(x, "?") if isinstance(x, Value) else repr(x)

        lines = [f"{labels[v]}: {v!r}" for v in (*self.inputs, *self.constants)]
        for op in self.ops:
            options = "".join(f", {key}={spell(value)}" for key, value in op.options.items())
            lines.append(f"{labels[op.output]} = {op.name}({', '.join(map(text, op.inputs))}{options}): {op.output!r}")
        return "\n".join([*lines, f"return {', '.join(map(text, self.outputs))}"])


def spell(option: Any) -> str:
    """An option as it is printed: a slice as ``0:3``, an array in full."""
    if isinstance(option, tuple | list):
        return "(" + ", ".join(map(spell, option)) + ")"
    if isinstance(option, slice):
        return ":".join("" if part is None else str(part) for part in (option.start, option.stop, option.step))[
            : None if option.step is not None else -1
        ]
    if isinstance(option, np.ndarray):  # in full, since NumPy's repr omits the middle
        return f"{option.dtype}{option.tolist()}"
    return "..." if isinstance(option, EllipsisType) else repr(option)


def key_of(option: Any) -> Any:
    """A hashable key, equal for equal options; an array is equal only to itself."""
    if isinstance(option, slice):
        return ("slice", option.start, option.stop, option.step)
    if isinstance(option, tuple | list):
        return tuple(map(key_of, option))
    if isinstance(option, dict):
        return tuple((key, key_of(value)) for key, value in option.items())
    return id(option) if isinstance(option, np.ndarray) else (type(option), option)


def columns_of(op: Op) -> tuple[int, int] | None:
    """The columns that a ``getitem`` of a matrix takes of all rows, if they are adjacent; otherwise None."""
    taken = range_of(op)
    return taken[1:] if taken and taken[0] == 1 and op.output.ndim == 2 else None


def range_of(op: Op) -> tuple[int, int, int] | None:
    """The axis and range of adjacent elements that a ``getitem`` takes, with all of other axes; otherwise None."""
    (x,) = op.values
    index = op.options["index"]
    parts = list(index) if isinstance(index, tuple) else [index]
    if x.ndim != op.output.ndim or any(not isinstance(part, slice) and part is not ... for part in parts):
        return None
    at = next((i for i, part in enumerate(parts) if part is ...), len(parts))
    parts[at : at + 1] = [slice(None)] * (x.ndim - len(parts) + (at < len(parts)))
    found = None
    for axis, (part, n) in enumerate(zip(parts, x.shape, strict=True)):
        start, stop, step = part.indices(n)
        if (start, stop, step) == (0, n, 1):
            continue
        if found or stop <= start or (step != 1 and stop > start + 1):
            return None
        found = axis, start, stop
    return found or (x.ndim - 1, 0, x.shape[-1])


class Tracer(Tensor):
    """A tensor without elements, which records its operations in a graph."""

    __slots__ = ("builder", "symbol")

    def __init__(self, builder: Builder, symbol: Value) -> None:
        self.builder = builder
        self.symbol = symbol
        self.node = None

    @property
    def value(self) -> NoReturn:  # type: ignore[override]
        """A tracer has no value.

        Raises:
            TraceError: always.
        """
        raise TraceError("it reads the elements of a tensor (.value, or a function that needs them)")

    @property
    def shape(self) -> tuple[int, ...]:
        """The length of each axis."""
        return self.symbol.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the elements."""
        dtype: np.dtype[Any] = self.symbol.dtype
        return dtype

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.symbol.shape)

    @property
    def size(self) -> int:
        """The number of elements."""
        return int(np.prod(self.symbol.shape))

    def __repr__(self) -> str:
        return f"Tracer({self.symbol!r})"

    def __len__(self) -> int:
        return self.symbol.shape[0]

    def _decides(self, *_: Any) -> NoReturn:
        raise TraceError("it decides by the value of a tensor (if, while, bool, float, int or item)")

    __bool__ = __float__ = __int__ = __index__ = item = _decides

    def record(self, primitive: Primitive, args: Sequence[Any], options: Mapping[str, Any]) -> Tensor:
        """Record an operation instead of executing it."""
        return self.builder.record(primitive.name, args, options)

    def __gt__(self, other: Any) -> Any:
        return self.builder.record("greater", (self, other))

    def __ge__(self, other: Any) -> Any:
        return self.builder.record("greater_equal", (self, other))

    def __lt__(self, other: Any) -> Any:
        return self.builder.record("less", (self, other))

    def __le__(self, other: Any) -> Any:
        return self.builder.record("less_equal", (self, other))

    def __eq__(self, other: Any) -> Any:
        return self.builder.record("equal", (self, other))

    def __ne__(self, other: Any) -> Any:
        return self.builder.record("not_equal", (self, other))

    def __and__(self, other: Any) -> Any:
        return self.builder.record("logical_and", (self, other))

    def __or__(self, other: Any) -> Any:
        return self.builder.record("logical_or", (self, other))

    def __invert__(self) -> Any:
        return self.builder.record("logical_not", (self,))

    def astype(self, dtype: Any) -> Any:
        """The tensor in another dtype."""
        dtype = np.dtype(dtype)
        if self.dtype.kind == "b" and dtype.kind == "f":  # an operation that kernels support
            return self.builder.record("where", (self, dtype.type(1), dtype.type(0)))
        return self if self.dtype == dtype else self.builder.record("astype", (self,), {"dtype": dtype})

    __rand__, __ror__ = __and__, __or__
    __hash__ = None

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if method == "__call__" and ufunc in PIECEWISE_CONSTANT and not kwargs:
            return self.builder.record(ufunc.__name__, inputs)
        return super().__array_ufunc__(ufunc, method, *inputs, **kwargs)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if func in _OF_SHAPE_AND_TYPE:
            return func(*trees.map(_like, args), **trees.map(_like, kwargs))
        if func in PIECEWISE_CONSTANT:
            raise TraceError(f"it calls np.{func.__name__}, which a graph cannot represent")
        return super().__array_function__(func, types, args, kwargs)


_OF_SHAPE_AND_TYPE = (np.shape, np.ndim, np.size, np.zeros_like, np.ones_like, np.empty_like, np.result_type)


def _like(x: Any) -> Any:
    """An array with a tracer's shape and dtype; anything else unchanged."""
    return np.broadcast_to(np.zeros((), x.dtype), x.shape) if isinstance(x, Tracer) else x


class Builder:
    """Builds a graph, operation by operation.

    Attributes:
        graph: the graph.
        origin: the line of new operations; None to find it in the traced function.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.origin: Origin | None = None
        self._constants: dict[int, tuple[Value, Any]] = {}
        self._recording = is_recording()  # if nothing is recorded at all, no_grad loses nothing

    def input(self, shape: tuple[int, ...], dtype: Any, name: str = "") -> Tracer:
        """A new input."""
        value = Value(shape, dtype)
        self.graph.inputs.append(value)
        self.graph.names[value] = name or f"input{len(self.graph.inputs) - 1}"
        return Tracer(self, value)

    def operand(self, x: Any) -> Operand:
        """The operand for an argument."""
        if isinstance(x, Tracer):
            return x.symbol
        if isinstance(x, Tensor):
            if x.node is not None:
                raise TraceError("it uses a tensor from outside, whose gradient would be lost")
            x = x.value
        if type(x) in (bool, int, float):  # exactly these: NumPy's scalars have a dtype
            number: Operand = x
            return number
        array = np.asarray(x)
        if array.dtype == object:
            raise TraceError(f"it uses a {type(x).__name__} as an array")
        if id(x) not in self._constants:
            value = Value(array.shape, array.dtype)
            self._constants[id(x)] = value, x  # keeping x keeps its id unique
            self.graph.constants[value] = array.copy()  # since the original may change after the trace
        return self._constants[id(x)][0]

    def record(self, name: str, args: Sequence[Any], options: Mapping[str, Any] | None = None) -> Tracer:
        """Record an operation; return its value as a tracer."""
        inputs = tuple(map(self.operand, args))
        unit = _unit_of([x.shape for x in inputs if isinstance(x, Value)])
        if unit is not None:  # a rule computes with the numbers of shapes
            options = with_batch(options or {}, unit)
        output = Value(*infer(name, inputs, options or {}))
        if self._recording and not is_recording() and output.dtype.kind == "f":
            raise TraceError("it computes within no_grad, and a graph has a gradient for everything that it computes")
        output.origin = self.origin or _origin(sys._getframe(1))
        return Tracer(self, self.emit(name, inputs, options or {}, output))

    def emit(self, name: str, inputs: Sequence[Operand], options: Mapping[str, Any], output: Value) -> Value:
        """Append an operation whose output is known."""
        if output.origin is None:
            output.origin = self.origin
        self.graph.ops.append(Op(name, tuple(inputs), options, output))
        return output


def function_of(name: str) -> Callable[..., Any]:
    """The NumPy function of an operation."""
    return PRIMITIVES[name].forward if name in PRIMITIVES else getattr(np, name)


_BY_ELEMENT = frozenset(f.__name__ for f in PIECEWISE_CONSTANT if isinstance(f, np.ufunc))


def works_by_element(name: str) -> bool:
    """Whether an operation broadcasts its operands, and computes each element from theirs."""
    return PRIMITIVES[name].broadcasts if name in PRIMITIVES else name in _BY_ELEMENT


def infer(name: str, inputs: Sequence[Operand], options: Mapping[str, Any]) -> tuple[tuple[int, ...], Any]:
    """The shape and dtype of an operation's value, by NumPy's rules.

    Raises:
        TraceError: float dtypes are mixed, so the value would be wider than one of them.
        ValueError: the shapes do not match.
    """
    values = [x for x in inputs if isinstance(x, Value)]
    shapes = [x.shape if isinstance(x, Value) else () for x in inputs]
    shape: tuple[int, ...] | None = None
    with suppress(ValueError, IndexError):  # NumPy reports it in its own words
        shape = _shape_of(name, shapes, options)
    if shape is not None:
        shape = tuple(map(int, shape))
        dtype = _dtype_of(name, tuple(x.dtype if isinstance(x, Value) else (type(x), x) for x in inputs))
    else:
        # A non-float may be an index, and only index 0 always exists.
        examples = [np.full(x.shape, x.dtype.kind == "f", x.dtype) if isinstance(x, Value) else x for x in inputs]
        with np.errstate(all="ignore"):
            result = np.asarray(function_of(name)(*examples, **options))
        shape, dtype = result.shape, result.dtype
    floats = {x.dtype for x in values if x.dtype.kind == "f"}
    if len(floats) > 1 or (floats and dtype.kind == "f" and dtype not in floats):
        met = {str(x.dtype) for x in values}
        raise TraceError(f"its {name} mixes {' and '.join(sorted(met if len(met) > 1 else {*met, str(dtype)}))}")
    given = options.get("shape", ())
    unit = _unit_of([*shapes, given if isinstance(given, tuple | list) else (given,)])
    if unit is None:
        return shape, dtype
    longer: tuple[int, ...] | None = None
    with suppress(ValueError, IndexError):  # an option is a number that should be a Batch
        longer = _shape_of(name, bound(shapes, unit + 1), bound(options, unit + 1))
    if longer is None:
        return with_batch(shape, unit), dtype
    # Only an axis that is longer for a larger batch is a multiple of it.
    axes = zip(shape, longer, strict=True)
    return tuple(n if n == m or n % unit else Batch(unit, n // unit) for n, m in axes), dtype


@functools.lru_cache(maxsize=1024)
def _dtype_of(name: str, operands: tuple[Any, ...]) -> Any:
    """The dtype of an operation's value; an operand is a dtype, or a number after its type."""
    examples = [np.ones((1,), x) if isinstance(x, np.dtype) else x[1] for x in operands]
    if name in ("matmul", "concatenate"):
        return np.result_type(*examples)
    if name in _VIEWS:
        return examples[0].dtype
    with np.errstate(all="ignore"):  # all elements would cost more than the rest of a trace; one gives the dtype
        return np.asarray(function_of(name)(*examples)).dtype


def _unit_of(shapes: Iterable[Iterable[int]]) -> int | None:
    """The batch size of the trace that some of these shapes are from; None if none has a batch axis."""
    return next((n.unit for shape in shapes for n in shape if isinstance(n, Batch)), None)


_VIEWS = frozenset({"getitem", "reshape", "transpose", "broadcast_to"})


def _shape_of(name: str, shapes: Sequence[tuple[int, ...]], options: Mapping[str, Any]) -> tuple[int, ...] | None:
    """The shape of a common operation's value, without computing the value; None for another operation.

    Raises:
        ValueError: the shapes do not match; also an IndexError.
    """
    x, axis = shapes[0], options.get("axis")
    if name == "matmul":
        a, b = x if len(x) > 1 else (1, *x), shapes[1] if len(shapes[1]) > 1 else (*shapes[1], 1)
        if 0 in (len(a) - 1, len(b) - 1) or a[-1] != b[-2]:
            return None
        rows, columns = a[-2:-1] if len(x) > 1 else (), b[-1:] if len(shapes[1]) > 1 else ()
        return (*np.broadcast_shapes(a[:-2], b[:-2]), *rows, *columns)
    if works_by_element(name):
        return np.broadcast_shapes(*shapes) if all(np.ndim(option) == 0 for option in options.values()) else None
    if name in ("sum", "mean", "max", "min", "logsumexp"):
        axes = range(len(x)) if axis is None else normalize_axis_tuple(axis, len(x))
        kept = [1 if i in axes else n for i, n in enumerate(x) if options["keepdims"] or i not in axes]
        return tuple(kept)
    if name in ("cumsum", "log_softmax") and x and axis is not None:
        return x
    if name == "concatenate":
        at = normalize_axis_index(options["axis"], len(x))
        rest = {(*shape[:at], *shape[at + 1 :]) for shape in shapes}
        return (*x[:at], sum(shape[at] for shape in shapes), *x[at + 1 :]) if len(rest) == 1 else None
    if name in _VIEWS:  # without memory
        view = function_of(name)(np.broadcast_to(np.zeros(()), x), **options)
        return tuple(view.shape)
    return None


_INSIDE = ("minigrad", "numpy")


def _origin(frame: FrameType | None) -> Origin | None:
    """The innermost line of the traced function from this frame outwards, and the function or class it belongs to."""
    line = None
    while frame is not None and frame.f_code is not trace.__code__:
        if frame.f_globals.get("__name__", "").partition(".")[0] not in _INSIDE:
            code = frame.f_code
            line = line or Origin("", os.path.basename(code.co_filename), frame.f_lineno)
            line = line._replace(who=code.co_qualname)
            if code.co_name == "__call__" and code.co_varnames:
                # Prefer the class that inherits the step to the one that defines it.
                return line._replace(who=type(frame.f_locals.get(code.co_varnames[0])).__qualname__)
        frame = frame.f_back
    return line


def origin_of(traceback: TracebackType | None) -> Origin | None:
    """The innermost line of the traced function when an error was raised."""
    frame = None
    while traceback is not None:
        frame, traceback = traceback.tb_frame, traceback.tb_next
    return _origin(frame)


@contextmanager
def blaming(value: Value) -> Iterator[None]:
    """Within this block, a trace error without a line gets the line of a value."""
    try:
        yield
    except TraceError as error:
        error.origin = error.origin or value.origin
        raise


def trace(f: Callable[..., Tree], *examples: Tree, names: Sequence[str] = ()) -> tuple[Graph, Tree]:
    """Trace what ``f`` computes into a graph.

    Args:
        f: a function of trees of arrays that returns a tree of arrays.
        examples: one tree per argument: arrays, of which only shapes and dtypes matter.
        names: of the arguments.

    Returns:
        The graph, whose inputs are all leaves of the arguments in order, and the tree that ``f`` returned, with a
        tracer or number as each leaf; the graph's outputs are its leaves.

    Raises:
        TraceError: ``f`` does something that a graph cannot represent, for example decide by a value. Other errors of
            ``f`` are passed on.
    """
    builder = Builder(Graph([], []))
    arguments = []
    for i, example in enumerate(examples):
        name = names[i] if i < len(names) else f"input{i}"
        leaves = [
            builder.input(np.shape(leaf), leaf.dtype, ".".join(filter(None, (name, path))))
            for path, leaf in zip(trees.paths(example), trees.leaves(example), strict=True)
        ]
        arguments.append(trees.unflatten(example, leaves))
    try:
        result = f(*arguments)
    except TraceError as error:
        error.origin = error.origin or builder.origin or origin_of(error.__traceback__)
        raise
    builder.graph.outputs = [builder.operand(leaf) for leaf in trees.leaves(result)]
    return builder.graph, result


def apply(op: Op, args: Sequence[Any]) -> Any:
    """Execute an operation on these operands."""
    return np.asarray(function_of(op.name)(*args, **op.options))


def call(op: Op, args: Sequence[Any]) -> Any:
    """Call an operation's primitive on operands that may be tensors, or traced again."""
    function: Callable[..., Any] = PRIMITIVES[op.name] if op.name in PRIMITIVES else getattr(np, op.name)
    return function(*args, **op.options)


def made_for(op: Op, args: Sequence[Any], batch: int | None = None) -> Op:
    """An operation for these operands, with their batch size, or else ``batch``, in its options."""
    batch = batch_of(op.inputs, args, batch)
    return op if batch is None else Op(op.name, op.inputs, bound(op.options, batch), op.output)


def batch_of(values: Sequence[Operand], arrays: Sequence[Any], default: int | None = None) -> int | None:
    """The batch size of arrays that are these values; ``default`` if none of them has a batch axis."""
    for x, array in zip(values, arrays, strict=True):
        for n, length in zip(x.shape if isinstance(x, Value) else (), np.shape(array), strict=False):
            if isinstance(n, Batch):
                return int(length) // n.times
    return default


def bound(option: Any, batch: int) -> Any:
    """An option, or a dict of them, with a batch size in place of every ``Batch``."""
    if isinstance(option, Mapping):
        return {name: bound(part, batch) for name, part in option.items()}
    if isinstance(option, slice):
        return slice(*(bound(part, batch) for part in (option.start, option.stop, option.step)))
    if type(option) in (tuple, list):
        return type(option)(bound(part, batch) for part in option)
    return batch * option.times if isinstance(option, Batch) else option


def with_batch(option: Any, batch: int) -> Any:
    """An option, or a dict of them, with a ``Batch`` in place of this number and its multiples."""
    if isinstance(option, Mapping):
        return {name: with_batch(part, batch) for name, part in option.items()}
    if isinstance(option, slice):
        return slice(*(with_batch(part, batch) for part in (option.start, option.stop, option.step)))
    if type(option) in (tuple, list):
        if any(isinstance(part, Batch) for part in option):  # a shape in which it is known
            return option
        return type(option)(with_batch(part, batch) for part in option)
    whole = isinstance(option, int) and not isinstance(option, bool) and option > 0 and option % batch == 0
    return Batch(batch, option // batch) if whole else option


def evaluate(graph: Graph, arrays: Sequence[Any], apply: Callable[[Op, Sequence[Any]], Any] = apply) -> list[Any]:
    """Execute the graph, each operation by ``apply``; return the outputs for these inputs."""
    known: dict[Value, Any] = dict(zip(graph.inputs, arrays, strict=True)) | graph.constants
    batch = batch_of(graph.inputs, arrays) if graph.is_symbolic else None
    builder = next((x.builder for x in arrays if isinstance(x, Tracer)), None)
    caller = builder.origin if builder else None
    for op in graph.ops:
        if builder:  # when traced again, an operation keeps its line
            builder.origin = op.output.origin or caller
        args = [known[x] if isinstance(x, Value) else x for x in op.inputs]
        known[op.output] = apply(made_for(op, args, batch) if graph.is_symbolic else op, args)
    if builder:
        builder.origin = caller
    return [known[x] if isinstance(x, Value) else x for x in graph.outputs]


def differentiate(graph: Graph, wrt: Iterable[Value]) -> Graph:
    """The graph followed by its backward pass.

    Args:
        graph: the graph to differentiate.
        wrt: the inputs whose cotangents to compute.

    Returns:
        A graph that starts with the same operations. It has further inputs, the cotangents of those outputs that are
        distinct floating-point values (see ``seeds``), and further outputs: the cotangent of each of ``wrt``, in order;
        the number 0 if nothing depends on it.

    Raises:
        TraceError: a rule does something that a graph cannot represent.
    """
    wrt = list(wrt)
    builder = Builder(
        Graph(list(graph.inputs), list(graph.outputs), list(graph.ops), dict(graph.constants), dict(graph.names))
    )
    needed = set(wrt)
    for op in graph.ops:
        if op.output.dtype.kind == "f" and any(value in needed for value in op.values):
            needed.add(op.output)
    cotangents: dict[Value, list[Any]] = {}
    for i in seeds(graph):
        output = graph.outputs[i]
        assert isinstance(output, Value)
        cotangents.setdefault(output, []).append(builder.input(output.shape, output.dtype, f"d.output{i}"))

    def arrived(value: Value) -> Any:
        parts = cotangents.pop(value, [])
        scattered = [part for part in parts if isinstance(part, Scattered)]
        total = None
        if scattered:
            indices = tuple(part.index for part in scattered)
            if any(isinstance(part, Tracer) for index in indices for part in (index if type(index) is tuple else ())):
                raise TraceError("it chooses elements by computed indices")
            total = PRIMITIVES["scatter"](*(part.g for part in scattered), indices=indices, shape=value.shape)
        for part in parts:
            if not isinstance(part, Scattered):
                total = part if total is None else total + part
        return total

    def tensor(x: Operand) -> Any:
        if isinstance(x, Value) and x.dtype.kind in "iu" and x in graph.constants:
            return graph.constants[x]  # a rule may use them as an index
        return Tracer(builder, x) if isinstance(x, Value) else x

    def go_back(op: Op) -> None:
        g = arrived(op.output)
        if g is None:
            return
        primitive = PRIMITIVES[op.name]
        y, inputs = tensor(op.output), [tensor(x) for x in op.inputs]
        all_at_once = primitive.rules[0](g, y, *inputs, **op.options) if primitive.variadic else ()
        for i, x in enumerate(op.inputs):
            if not isinstance(x, Value) or x not in needed:
                continue
            rule = primitive.rules[0 if primitive.variadic else i]
            if rule is None:
                continue
            part = all_at_once[i] if primitive.variadic else rule(g, y, *inputs, **op.options)
            if primitive.broadcasts:
                part = unbroadcast(part, x.shape)
            cotangents.setdefault(x, []).append(part)

    for op in reversed(graph.ops):
        if op.output in needed and op.name in PRIMITIVES:  # operations without a rule are piecewise constant
            builder.origin = op.output.origin
            with blaming(op.output):
                go_back(op)
    for value in wrt:
        total = arrived(value)
        builder.graph.outputs.append(0.0 if total is None else builder.operand(total))
    return builder.graph


def seeds(graph: Graph) -> list[int]:
    """The indices of the outputs whose cotangents are inputs of ``differentiate``'s graph."""
    return [i for i, x in enumerate(graph.outputs) if isinstance(x, Value) and x.dtype.kind == "f"]


def classify(graph: Graph, levels: Mapping[Value, Level]) -> dict[Value, Level]:
    """The level of every value, given those of the inputs."""
    found = dict(levels) | dict.fromkeys(graph.constants, Level.FIXED)
    for op in graph.ops:
        level = max((found[value] for value in op.values), default=Level.FIXED)
        if level == Level.FIXED and any(isinstance(n, Batch) for n in op.output.shape):
            level = Level.CONTEXT  # the same for all sequences, but with a row for each
        found[op.output] = level
    return found


def prune(graph: Graph) -> Graph:
    """The graph without operations whose values are unused."""
    needed = {x for x in graph.outputs if isinstance(x, Value)}
    kept = []
    for op in reversed(graph.ops):
        if op.output in needed:
            needed.update(op.values)
            kept.append(op)
    constants = {value: array for value, array in graph.constants.items() if value in needed}
    return Graph(graph.inputs, graph.outputs, kept[::-1], constants, graph.names)


def share(graph: Graph) -> Graph:
    """The graph with common subexpressions merged: operations with the same name, inputs and options become one.

    All copies (``alias``) are kept.
    """
    replaced: dict[Value, Value] = {}
    seen: dict[Any, Value] = {}
    ops = []
    for op in graph.ops:
        inputs = tuple(replaced.get(x, x) if isinstance(x, Value) else x for x in op.inputs)
        key: Any = None
        with suppress(TypeError):
            # A copy exists to be a value distinct from its input and from other copies.
            if op.name != "alias":
                candidate = (op.name, tuple(map(_operand_key, inputs)), key_of(dict(op.options)))
                hash(candidate)
                key = candidate
        if key is not None and key in seen:
            replaced[op.output] = seen[key]
            continue
        if key is not None:
            seen[key] = op.output
        ops.append(Op(op.name, inputs, op.options, op.output))
    outputs = [replaced.get(x, x) if isinstance(x, Value) else x for x in graph.outputs]
    return Graph(graph.inputs, outputs, ops, graph.constants, graph.names)


def _operand_key(x: Operand) -> Any:
    return x if isinstance(x, Value) else (type(x), x)
