"""Tensors that record how they were computed, and the primitives that compute them."""

from __future__ import annotations

import inspect
import itertools
import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NoReturn, Protocol

import numpy as np
from numpy.typing import NDArray

from minigrad import trees

Array = NDArray[Any]
Rule = Callable[..., Any]

PRIMITIVES: dict[str, Primitive] = {}
"""Every primitive by its name."""

UFUNCS: dict[np.ufunc, Callable[..., Any]] = {}
"""The primitive for a NumPy ufunc applied to a tensor."""

ARRAY_FUNCTIONS: dict[Callable[..., Any], Callable[..., Any]] = {}
"""The implementation of a NumPy function that is not a ufunc, applied to a tensor."""

PIECEWISE_CONSTANT: frozenset[Any] = frozenset(
    {
        np.greater, np.greater_equal, np.less, np.less_equal, np.equal, np.not_equal, np.isclose, np.allclose,
        np.array_equal, np.sign, np.floor, np.ceil, np.rint, np.isfinite, np.isnan, np.isinf, np.logical_not,
        np.logical_and, np.logical_or, np.any, np.all, np.nonzero, np.argmax, np.argmin, np.argsort, np.shape, np.ndim,
        np.size, np.zeros_like, np.ones_like, np.empty_like, np.result_type,
    }
)  # fmt: skip
"""NumPy functions whose derivative is zero wherever it exists; they return plain arrays."""


class Observer(Protocol):
    """Receives every value as it is computed (see ``minigrad.diagnosis``)."""

    def saw_output(self, node: Node) -> None:
        """A primitive computed a value."""

    def saw_cotangent(self, node: Node, cotangent: Any) -> None:
        """The backward pass reached a node, with the sum of its users' cotangents."""

    def saw_time(self, step: int | None) -> None:
        """A time loop starts this step, or, with None, has ended."""


_recording: ContextVar[bool] = ContextVar("recording", default=True)
observer: ContextVar[Observer | None] = ContextVar("observer", default=None)
_count = itertools.count()


class Node:
    """How one value was computed: the primitive, its inputs and its output.

    A node refers to arrays and the nodes before it, never to a tensor, so there are no reference cycles, and memory is
    freed as soon as the last tensor of a computation is.
    """

    __slots__ = ("index", "inputs", "options", "output", "parents", "primitive")

    def __init__(
        self,
        primitive: Primitive | None,
        inputs: Sequence[Any],
        output: Array,
        parents: Sequence[Node | None],
        options: dict[str, Any],
    ) -> None:
        self.index = next_index()  # increases along every edge, so sorting by it is topological
        self.primitive = primitive
        self.inputs = inputs
        self.output = output
        self.parents = parents
        self.options = options


def _method(function: Callable[..., Any]) -> Any:
    """A method that calls a NumPy function on the tensor."""

    def method(self: Tensor, *args: Any, **kwargs: Any) -> Any:
        return function(self, *args, **kwargs)

    method.__name__, method.__doc__ = function.__name__, f"As ``np.{function.__name__}``."
    return method


class Tensor:
    """An array whose computation is recorded, so that it can be differentiated.

    Args:
        value: anything that ``np.asarray`` accepts.
        node: how the value was computed; without one, the tensor is a constant.
    """

    __slots__ = ("node", "value")

    def __init__(self, value: Any, node: Node | None = None) -> None:
        self.value: Array = value if type(value) is np.ndarray else np.asarray(value)
        self.node = node
        if node is None and not self.value.dtype.isnative:
            self.value = native(self.value)

    def record(self, primitive: Primitive, args: Sequence[Any], options: dict[str, Any]) -> Tensor:
        """Record an operation instead of executing it; only for subclasses."""
        raise NotImplementedError

    # An array's attributes.

    @property
    def shape(self) -> tuple[int, ...]:
        """The length of each axis."""
        return self.value.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the elements."""
        return self.value.dtype

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return self.value.ndim

    @property
    def size(self) -> int:
        """The number of elements."""
        return self.value.size

    @property
    def T(self) -> Tensor:
        """The tensor with its axes reversed."""
        return _apply("transpose", self)

    def __repr__(self) -> str:
        return f"Tensor({np.array2string(self.value, separator=', ', prefix='Tensor(')}, dtype={self.dtype})"

    def __format__(self, spec: str) -> str:
        return format(self.value, spec) if spec else repr(self)

    def __len__(self) -> int:
        return len(self.value)

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))

    def __bool__(self) -> bool:
        return bool(self.value)

    # A plain number is a constant; a decision by the value (bool, a comparison) is not, and is allowed.

    def _plain(self) -> Array:
        """The array, for a conversion without gradient."""
        if self.node is not None and _recording.get():
            raise TypeError(
                "a Tensor that is being differentiated was given where Python needs a plain number, which would lose "
                "its gradient: use NumPy's function instead of math's (np.exp for math.exp), stack for elements "
                "assigned one by one, or .value where no gradient is wanted, as in a log"
            )
        return self.value

    def __float__(self) -> float:
        return float(self._plain())

    def __int__(self) -> int:
        return int(self._plain())

    def __complex__(self) -> complex:
        return complex(self._plain())

    def __index__(self) -> int:
        return operator.index(self._plain())

    def item(self) -> Any:
        """The only element as a Python number.

        Raises:
            TypeError: the tensor is being differentiated.
        """
        return self._plain().item()

    def __deepcopy__(self, memo: Any) -> Tensor:
        return _apply("alias", self)  # a copied node would not be part of the graph

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NoReturn:
        # Without this NumPy would build an object array, element by element, and silently lose the gradient.
        raise TypeError(
            "a Tensor was given where NumPy needs a plain array, which would lose its gradient: "
            "use its .value, or a function that minigrad has a rule for"
        )

    # Arithmetic.

    def __add__(self, other: Any) -> Tensor:
        return _apply("add", self, other)

    def __radd__(self, other: Any) -> Tensor:
        return _apply("add", other, self)

    def __sub__(self, other: Any) -> Tensor:
        return _apply("subtract", self, other)

    def __rsub__(self, other: Any) -> Tensor:
        return _apply("subtract", other, self)

    def __mul__(self, other: Any) -> Tensor:
        return _apply("multiply", self, other)

    def __rmul__(self, other: Any) -> Tensor:
        return _apply("multiply", other, self)

    def __truediv__(self, other: Any) -> Tensor:
        return _apply("divide", self, other)

    def __rtruediv__(self, other: Any) -> Tensor:
        return _apply("divide", other, self)

    def __pow__(self, other: Any) -> Tensor:
        return _apply("power", self, other)

    def __rpow__(self, other: Any) -> Tensor:
        return _apply("power", other, self)

    def __matmul__(self, other: Any) -> Tensor:
        return _apply("matmul", self, other)

    def __rmatmul__(self, other: Any) -> Tensor:
        return _apply("matmul", other, self)

    def __neg__(self) -> Tensor:
        return _apply("negative", self)

    def __abs__(self) -> Tensor:
        return _apply("abs", self)

    def __getitem__(self, index: Any) -> Tensor:
        plain = tuple(map(value_of, index)) if isinstance(index, tuple) else value_of(index)
        return _apply("getitem", self, index=plain)

    # Comparisons have no gradient: they return plain arrays of booleans.

    def __gt__(self, other: Any) -> Any:
        return self.value > value_of(other)

    def __ge__(self, other: Any) -> Any:
        return self.value >= value_of(other)

    def __lt__(self, other: Any) -> Any:
        return self.value < value_of(other)

    def __le__(self, other: Any) -> Any:
        return self.value <= value_of(other)

    def __eq__(self, other: Any) -> Any:
        return self.value == value_of(other)

    def __ne__(self, other: Any) -> Any:
        return self.value != value_of(other)

    __hash__ = None  # type: ignore[assignment]

    # The methods of an array that a cell or a loss is likely to call.

    def sum(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        """The sum over ``axis`` (all axes where None)."""
        return _apply("sum", self, axis=axis, keepdims=keepdims)

    def mean(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        """The mean over ``axis`` (all axes where None)."""
        return _apply("mean", self, axis=axis, keepdims=keepdims)

    def max(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        """The maximum over ``axis`` (all axes where None)."""
        return _apply("max", self, axis=axis, keepdims=keepdims)

    def min(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        """The minimum over ``axis`` (all axes where None)."""
        return _apply("min", self, axis=axis, keepdims=keepdims)

    def reshape(self, *shape: Any) -> Tensor:
        """The same elements in another shape."""
        return _apply("reshape", self, shape=shape[0] if len(shape) == 1 else shape)

    def transpose(self, *axes: Any) -> Tensor:
        """The axes in another order, by default reversed."""
        return _apply("transpose", self, axes=(axes[0] if len(axes) == 1 else axes) or None)

    argmax = _method(np.argmax)
    argmin = _method(np.argmin)
    clip = _method(np.clip)
    copy = _method(np.copy)
    cumsum = _method(np.cumsum)
    dot = _method(np.dot)
    prod = _method(np.prod)
    ravel = _method(np.ravel)
    repeat = _method(np.repeat)
    squeeze = _method(np.squeeze)
    std = _method(np.std)
    swapaxes = _method(np.swapaxes)
    take = _method(np.take)
    var = _method(np.var)
    flatten = ravel

    def astype(self, dtype: Any) -> Any:
        """The tensor in another float dtype; as integers or booleans a plain array, whose derivative is zero.

        Raises:
            TypeError: the dtype is neither, and the tensor is being differentiated.
        """
        dtype = np.dtype(dtype)
        if dtype.kind == "f":
            return self if self.dtype == dtype else _apply("astype", self, dtype=dtype)
        return (self.value if dtype.kind in "biu" else self._plain()).astype(dtype)

    # What a tensor cannot do.

    def __setitem__(self, index: Any, value: Any) -> NoReturn:
        raise TypeError(
            "a Tensor cannot be assigned to, because its gradient uses the old value: "
            "build the new one with where, concatenate or stack"
        )

    def _in_place(self, other: Any) -> NoReturn:
        raise TypeError("a Tensor cannot be changed in place: write x = x + y instead of x += y")

    __iadd__ = __isub__ = __imul__ = __itruediv__ = __ipow__ = __imatmul__ = _in_place

    # NumPy's protocols: np.tanh(tensor), np.concatenate([tensor, array]).

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if kwargs.get("out") is not None:
            raise TypeError(
                f"np.{ufunc.__name__} with out= would write into an array in place, which loses the gradient: "
                "write x = x + y instead of x += y"
            )
        if method == "__call__" and ufunc in PIECEWISE_CONSTANT:
            return ufunc(*map(value_of, inputs), **kwargs)
        if method != "__call__" or ufunc not in UFUNCS or kwargs:
            name = ufunc.__name__ if method == "__call__" else f"{ufunc.__name__}.{method}"
            extra = f" with {', '.join(f'{option}=' for option in kwargs)}" if kwargs and ufunc in UFUNCS else ""
            raise _no_rule(f"np.{name}{extra}")
        return UFUNCS[ufunc](*inputs)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if func in PIECEWISE_CONSTANT:
            return func(*trees.map(value_of, args), **trees.map(value_of, kwargs))
        if func not in ARRAY_FUNCTIONS:
            raise _no_rule(f"{func.__module__}.{func.__name__}".replace("numpy.", "np.", 1))
        return ARRAY_FUNCTIONS[func](*args, **kwargs)


def native(x: Array) -> Array:
    """The array in this machine's byte order, since NumPy treats another order as another dtype."""
    return x if x.dtype.isnative else x.astype(x.dtype.newbyteorder("="))


def next_index() -> int:
    """A number above those of all nodes so far, and below those of all later ones."""
    return next(_count)


def is_recording() -> bool:
    """Whether results are recorded; false within ``no_grad``."""
    return _recording.get()


def _no_rule(name: str) -> TypeError:
    public = sorted(PRIMITIVES.keys() - {"alias", "scatter"})  # only rules and gradients use these two
    return TypeError(
        f"{name} has no derivative rule here: compose it from {', '.join(public)}, "
        "or apply it to tensor.value where no gradient is wanted"
    )


def _apply(name: str, *args: Any, **options: Any) -> Tensor:
    return PRIMITIVES[name](*args, **options)  # type: ignore[no-any-return]


def value_of(x: Any) -> Any:
    """The array of a tensor, without gradient; anything else unchanged."""
    return x.value if isinstance(x, Tensor) else x


class Primitive:
    """An operation with a derivative, on arrays or tensors; it returns a tensor if an input is one.

    Args:
        name: its name in the registry and in messages.
        forward: the NumPy function; its keyword-only parameters are the primitive's options.
        rules: one per argument, ``rule(g, y, *inputs, **options) -> cotangent of that argument``, where ``g`` is the
            cotangent of the output and ``y`` the output. They consist of primitives and operators, so they accept
            arrays and tensors. None means that the argument has no gradient.
        broadcasts: whether inputs are broadcast, so that cotangents must be summed back to the inputs' shapes.
        variadic: the primitive takes any number of arrays; its only rule returns a list of all cotangents.
        doc: its docstring's first line, if it is not NumPy's function of that name.

    Attributes:
        fresh: whether its rules return new arrays, which nothing else refers to.
    """

    fresh = False

    def __init__(
        self,
        name: str,
        forward: Callable[..., Any],
        *rules: Rule | None,
        broadcasts: bool = False,
        variadic: bool = False,
        doc: str = "",
    ) -> None:
        self.name = name
        self.forward = forward
        self.rules: tuple[Any, ...] = rules
        self.broadcasts = broadcasts
        self.variadic = variadic
        self.__name__ = name
        says = doc or f"As ``np.{name}``, with a derivative."
        shapes = "of shapes that broadcast" if broadcasts else "of the shapes that NumPy takes"
        self.__doc__ = (
            f"{says}\n\nTakes arrays or tensors {shapes}, all of one float dtype; returns a tensor if one is given.\n\n"
            "Raises:\n    ValueError: the shapes do not match.\n    TypeError: float dtypes are mixed."
        )
        # NumPy's ufuncs have no readable signature, and no options that a primitive passes on.
        parameters = [] if isinstance(forward, np.ufunc) else list(inspect.signature(forward).parameters.values())
        options = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
        self.option_names = tuple(p.name for p in options)
        self.defaults = {p.name: p.default for p in options if p.default is not p.empty}
        if name in PRIMITIVES:
            raise ValueError(f"there is a primitive called {name!r} already: give this one another name")
        PRIMITIVES[name] = self

    def __repr__(self) -> str:
        return f"<primitive {self.name}>"

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Apply the primitive; options may follow the arrays by position, as in NumPy."""
        if options or self.option_names or not (self.variadic or len(args) == len(self.rules)):
            args, options = self._bind(args, options)
        values, parents = list(args), [None] * len(args)  # type: list[Any], list[Node | None]
        dtype = None
        any_tensor = linked = False
        for i, x in enumerate(args):
            if type(x) is Tensor:
                any_tensor = True
                values[i] = array = x.value
                if x.node is not None:
                    parents[i] = x.node
                    linked = True
                if array.dtype.kind == "f" and (dtype is None or array.dtype.itemsize < dtype.itemsize):
                    dtype = array.dtype  # the narrowest, so that no tensor is widened silently
            elif type(x) is list or type(x) is tuple:
                values[i] = np.asarray(x)
            elif isinstance(x, Tensor):
                return x.record(self, args, options)
        try:
            output = self.forward(*values, **options)
        except (ValueError, IndexError) as error:
            raise self._does_not_fit(error, values, options) from None
        if not any_tensor:
            return output
        if type(output) is not np.ndarray:
            output = np.asarray(output)
        if dtype is not None and output.dtype != dtype and "dtype" not in options:
            raise self._upcast(dtype, values)
        if not (linked and _recording.get()):
            return Tensor(output)
        node = Node(self, values, output, parents, options)
        watching = observer.get()
        if watching is not None:
            watching.saw_output(node)
        return Tensor(output, node)

    def _bind(self, args: tuple[Any, ...], options: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Separate the arrays from options given by position, and fill in the defaults."""
        arity = len(args) if self.variadic else len(self.rules)
        extra = args[arity:]
        by_position = dict(zip(self.option_names, extra, strict=False))
        bound = {**self.defaults, **by_position, **options}
        wrong = [name for name in options if name not in self.option_names or name in by_position]
        if len(args) < arity or len(extra) > len(by_position) or wrong or len(bound) < len(self.option_names):
            got = [f"{len(args)} by position", *(f"{name}=" for name in options)]
            takes = [f"{arity} array{'s' if arity != 1 else ''}", *(f"{name}=" for name in self.option_names)]
            raise TypeError(f"{self.name} takes {', '.join(takes)}; it got {', '.join(got)}")
        for name, value in bound.items():
            if isinstance(value, Tensor):
                raise TypeError(
                    f"{self.name}: {name}= is a Tensor, and its gradient would be lost: give its .value, "
                    "or compose the function from primitives that take two arrays"
                )
        return args[:arity], bound

    def _does_not_fit(self, error: Exception, values: Sequence[Any], options: dict[str, Any]) -> Exception:
        shapes = " and ".join(str(np.shape(v)) for v in values)
        hint = _HINTS.get(self.name, _BROADCASTING if self.broadcasts and "broadcast" in str(error) else None)
        if hint is None or not values or isinstance(error, np.exceptions.AxisError):
            return type(error)(f"{self.name}: {error}{f' (given {shapes})' if values else ''}")
        if "shape" in options:
            return type(error)(f"{self.name}: shape {shapes} does not fit into {options['shape']}: {hint}")
        return type(error)(f"{self.name}: shapes {shapes} do not fit: {hint}")

    def _upcast(self, dtype: np.dtype[Any], values: Sequence[Any]) -> TypeError:
        other = next((v.dtype for v in values if hasattr(v, "dtype") and np.result_type(v.dtype, dtype) != dtype), None)
        return TypeError(
            f"{self.name}: a {dtype} tensor met {other or 'a wider'} values, and nothing is widened silently: "
            f"convert them first, with .astype(np.{dtype})"
        )


_BROADCASTING = "axes must be equal or 1, counted from the last"
_HINTS = {
    "broadcast_to": _BROADCASTING,
    "matmul": "the last axis of the first must equal the last but one of the second",
    "concatenate": "all axes but the one they are joined on must be equal",
    "stack": "they must all be equal",
    "reshape": "the number of elements must stay the same",
}


def elementwise(
    forward: np.ufunc | Callable[..., Any], *rules: Rule | None, name: str | None = None, doc: str = ""
) -> Primitive:
    """An elementwise primitive, which broadcasts its inputs; it is registered for its ufunc."""
    primitive = Primitive(name or forward.__name__, forward, *rules, broadcasts=True, doc=doc)
    if isinstance(forward, np.ufunc):
        UFUNCS[forward] = primitive
    return primitive


class _Unvarying(Primitive):
    """A primitive without rules, for values that do not depend on their inputs."""

    def __init__(self, arguments: int) -> None:
        self.name = "unvarying"
        self.rules = (None,) * arguments
        self.broadcasts = self.variadic = False


def unvarying(value: Array, sources: Sequence[Node]) -> Tensor:
    """A tensor that depends on ``sources`` formally, with derivative 0 with respect to each."""
    return Tensor(value, Node(_Unvarying(len(sources)), (None,) * len(sources), value, sources, {}))


class Scattered:
    """A cotangent that is ``g`` at ``index`` and zero elsewhere.

    A loop over T slices of one array would need T cotangents of the full size; scattered ones are added into one.
    """

    __slots__ = ("g", "index")

    def __init__(self, index: Any, g: Any) -> None:
        self.index = index
        self.g = g


def unbroadcast(g: Any, shape: tuple[int, ...]) -> Any:
    """Sum a cotangent over the axes along which its input of ``shape`` was repeated."""
    if g.shape == shape:
        return g
    lead = g.ndim - len(shape)
    axes = tuple(range(lead)) + tuple(lead + i for i, n in enumerate(shape) if n == 1 and g.shape[lead + i] != 1)
    g = _apply("sum", g, axis=axes) if axes else g
    return g if g.shape == shape else _apply("reshape", g, shape=shape)


@contextmanager
def no_grad() -> Iterator[None]:
    """Within this block nothing is recorded: results are constants, and memory is freed at once."""
    token = _recording.set(False)
    try:
        yield
    finally:
        _recording.reset(token)
