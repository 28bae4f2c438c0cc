"""The planned time loop: the step is traced and planned once, then runs on a backend, forwards and backwards.

Steps that cannot be planned run on the reference loop, and so does every step under an observer.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import logging
import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from minigrad import trees
from minigrad.compiled import jit
from minigrad.gradients import vjp
from minigrad.graph import Graph, Origin, TraceError, Value, key_of, origin_of, symbolic, trace
from minigrad.primitives import reshape, where
from minigrad.scan import reference, stepping
from minigrad.scan.lookup import Lookup
from minigrad.scan.program import PASSES, Program, plan
from minigrad.scan.reads import read_by
from minigrad.scan.reference import Step, live_steps
from minigrad.tensor import Array, Node, Primitive, Tensor, is_recording, observer, value_of
from minigrad.trees import Tree

BACKENDS = ("reference", "numpy", "compiled")

WORTH_COMPILING = 1_000_000
"""Multiplications in the products of one call below which compiling would take longer than it saves."""

_backend: ContextVar[str | None] = ContextVar("backend", default=None)
_without: ContextVar[frozenset[str]] = ContextVar("without", default=frozenset())
_log = logging.getLogger("minigrad.scan")


class Executor(Protocol):
    """A program prepared by a backend."""

    def forward(
        self,
        params: Sequence[Array],
        carry: Sequence[Array],
        xs: Sequence[Any],
        context: Sequence[Array],
        *,
        steps: int,
        batch: int,
        reverse: bool,
        keep: bool,
    ) -> tuple[list[Array], list[Array], Any]:
        """The last carry, the outputs (T, B, ...), and with ``keep`` what ``backward`` needs."""

    def backward(
        self, saved: Any, d_carry: Sequence[Array | None], d_ys: Sequence[Array | None]
    ) -> tuple[list[Array], list[Array], list[Array | None], list[Array | None]]:
        """The cotangents of params, the first carry, xs (for a ``Lookup``, of its table) and context."""

    def release(self) -> None:
        """Free the memory kept for further calls."""


@contextmanager
def use_backend(name: str | None) -> Iterator[None]:
    """Within this block ``scan`` runs on one backend: ``reference``, ``numpy`` or ``compiled``; None is the default.

    The default is ``compiled`` if the extra ``jit`` is installed and a call has enough work, otherwise ``numpy``.

    Raises:
        ValueError: there is no such backend.
        ModuleNotFoundError: ``compiled`` without the extra ``jit``.
    """
    if name is not None and name not in BACKENDS:
        raise ValueError(f"there is no backend {name!r}; there are {', '.join(BACKENDS)}")
    if name == "compiled" and not jit.available():
        raise ModuleNotFoundError(
            "the compiled backend needs the library llvmlite: pip install 'rnn-lab[jit]', or choose the backend numpy"
        )
    token = _backend.set(name)
    try:
        yield
    finally:
        _backend.reset(token)


@contextmanager
def leave_out(*passes: str) -> Iterator[None]:
    """Within this block steps are planned without these passes, to measure their effect.

    Raises:
        ValueError: there is no such pass.
    """
    for name in passes:
        if name not in PASSES:
            raise ValueError(f"there is no pass {name!r} to leave out; there are {', '.join(PASSES)}")
    token = _without.set(frozenset(passes))
    try:
        yield
    finally:
        _without.reset(token)


def available_backends() -> tuple[str, ...]:
    """The available backends for planned steps, the fastest last."""
    return ("numpy", "compiled") if jit.available() else ("numpy",)


def chosen_backend() -> str:
    """The backend of a call with much work."""
    return _backend.get() or ("compiled" if jit.available() else "numpy")


def scan(
    step: Step,
    params: Tree,
    carry: Tree,
    xs: Tree,
    *,
    lengths: Array | None = None,
    mask: Array | None = None,
    reverse: bool = False,
) -> tuple[Tree, Tree]:
    """Apply ``step`` along the first axis of ``xs``.

    The step is called only for tracing, with tensors that have no elements, unless it has to run on the reference loop
    (``minigrad.scan.reference``), which defines the result.

    Args:
        step: ``(params, carry, x) -> (carry, y)``, a pure function.
        params: shared by all steps.
        carry: the state before the first step, a tree of arrays (B, ...).
        xs: a tree of arrays (T, B, ...), or of ``Lookup`` instead of arrays.
        lengths: (B,) integers: sequence b ends after ``lengths[b]`` steps.
        mask: (T, B): false where a sequence has no input. There the carry is unchanged and the output is zero.
            Give ``lengths`` or ``mask``, not both.
        reverse: run from the last step to the first; outputs stay in the order of ``xs``.

    Returns:
        The carry after the last step, and the outputs, a tree of arrays (T, B, ...).

    Raises:
        TypeError: a step does not return a pair.
        ValueError: the arrays of ``xs`` disagree on T or B, ``lengths`` or ``mask`` do not match them, or a step
            returns a carry of another structure, shape or dtype.
    """
    params, carry, xs = map(_native, (params, carry, xs))
    call = None
    if _backend.get() != "reference" and observer.get() is None:
        call = _prepare(step, params, carry, xs, lengths, mask)
    if isinstance(call, _Call):
        return call.run(reverse)
    if call is not None and not isinstance(call, _Fails):
        _refuse(step, call)
    result = reference.scan(step, params, carry, xs, lengths=lengths, mask=mask, reverse=reverse)
    if isinstance(call, _Fails):  # only tracing failed; a wrong step raises in the reference loop
        _refuse(step, call)
    return result


class _Fails(TraceError):
    """The step fails when it is traced; a real call reports the error, if there is one, more clearly."""


def _native(tree: Tree) -> Tree:
    """The tree with all arrays in this machine's byte order, since NumPy treats another order as another dtype."""
    if all(leaf.dtype.isnative for leaf in trees.leaves(tree) if hasattr(leaf, "dtype")):
        return tree

    def swapped(x: Any) -> Any:
        if isinstance(x, Lookup):
            return Lookup(swapped(x.table), x.indices)
        if isinstance(x, Tensor):
            return Tensor(swapped(x.value), x.node)
        return np.asarray(x, x.dtype.newbyteorder("=")) if hasattr(x, "dtype") else x

    return trees.map(swapped, tree)


@dataclass(eq=False)
class _Planned:
    """A step's program, its executors, and what is needed to call them."""

    program: Program
    carried: Tree  # leaves are indices into the leaves of the old carry
    ys: Tree
    executors: dict[str, Executor]

    def executor(self, backend: str) -> Executor:
        """The program on a backend; on NumPy's if that lacks a kernel."""
        if backend not in self.executors:
            try:
                self.executors[backend] = _executor(self.program, backend)
            except TraceError:
                if backend == "numpy":
                    raise
                self.executors[backend] = self.executor("numpy")
        return self.executors[backend]

    @functools.cached_property
    def work(self) -> int:
        """Multiplications in the products of one row."""
        return sum(
            math.prod(op.values[1].shape)
            for stage in self.program.stages
            for op in stage.forward.ops
            if op.name == "matmul"
        )


def _executor(program: Program, backend: str) -> Executor:
    if backend == "compiled":
        from minigrad.scan import compiled_backend

        return compiled_backend.Executor(program)
    from minigrad.scan import numpy_threads

    return numpy_threads.Executor(program)


_plans: OrderedDict[Any, _Planned | TraceError] = OrderedDict()
_refused: set[str] = set()
_KEPT = 256

LIVELY = 32
"""Number of recently used keys, two per plan, whose plans keep their memory: more than the loops of a training."""


def release(but: int = 0) -> None:
    """Free the memory that plans keep between calls; they allocate it again when they are called.

    Args:
        but: the number of most recently used keys that keep it.
    """
    plans = list(_plans.values())
    old, recent = plans[: max(len(plans) - but, 0)], plans[len(plans) - but :] if but else []
    for found in old:
        for executor in [] if isinstance(found, TraceError) or found in recent else list(found.executors.values()):
            executor.release()


def _prepare(
    step: Step, params: Tree, carry: Tree, xs: Tree, lengths: Array | None, mask: Array | None
) -> _Call | TraceError | None:
    """What is needed to run this call on a backend; None or the reason if it must run on the reference loop."""
    fixed, states, inputs = trees.leaves(params), trees.leaves(carry), trees.leaves(xs)
    if not inputs or not all(hasattr(leaf, "shape") and hasattr(leaf, "dtype") for leaf in (*fixed, *states, *inputs)):
        return None
    leading = inputs[0].shape[:2]
    if len(leading) != 2 or 0 in leading or any(leaf.shape[:2] != leading for leaf in inputs):
        return None
    length, batch = leading
    if any(leaf.shape[:1] != (batch,) for leaf in states):
        return None
    live = live_steps(length, batch, lengths, mask)
    if live is not None and live.all():
        live = None
    # A table with more rows than the sequence has inputs is not worth a stage: the inputs are looked up first.
    inputs = [
        leaf.array() if isinstance(leaf, Lookup) and len(leaf.table) > length * batch else leaf for leaf in inputs
    ]
    tables = tuple(i for i, leaf in enumerate(inputs) if isinstance(leaf, Lookup))
    sources = [leaf.table if isinstance(leaf, Lookup) else leaf for leaf in inputs]
    nodes = [x.node if isinstance(x, Tensor) else None for x in (*fixed, *states, *sources)]
    keep = is_recording() and any(node is not None for node in nodes)
    wanted = tuple(node is not None for node in nodes) if keep else None
    call = _Call(step, params, carry, xs, fixed, states, inputs, sources, live, nodes if keep else None, length, batch)
    planned = _find_plan(call, tables, wanted)
    if isinstance(planned, TraceError):
        return planned
    backend = _backend.get()
    if backend is None:
        enough = planned.work * length * batch >= WORTH_COMPILING
        backend = "compiled" if enough and jit.available() else "numpy"
    try:
        call.planned, call.executor = planned, planned.executor(backend)
    except TraceError as error:
        return _remembered(error)
    return call


def _refuse(step: Step, error: TraceError) -> None:
    """Log, once, why a step runs on the reference loop."""
    if error.origin is not None:
        name = error.origin.who
    else:
        step = getattr(step, "cell", step)  # name the cell, not its wrapper
        name = getattr(step, "__qualname__", type(step).__qualname__)
    text = f"{name} runs on the reference loop, which is slow: {error.located()}"
    if text not in _refused:
        _refused.add(text)
        _log.warning(text)


def _remembered(error: TraceError) -> TraceError:
    """A copy of the error without its traceback, which would keep the frames alive."""
    return type(error)(str(error), error.origin)


def _find_plan(call: _Call, tables: tuple[int, ...], wanted: tuple[bool, ...] | None) -> _Planned | TraceError:
    """The plan for a step on inputs of these shapes, created on first use; or why there is none."""
    form = form_of((call.params, call.carry, call.xs))
    shapes = tuple(
        (leaf.shape[skipped:], leaf.dtype.str)
        for leaves, skipped in ((call.fixed, 0), (call.states, 1), (call.inputs, 2))
        for leaf in leaves
    )

    def key() -> Any:
        try:
            return identity_of(call.step), form, shapes, call.live is not None, tables, wanted, _without.get()
        except TypeError:  # only its graph distinguishes it from other steps
            return None

    found = _kept(key())
    if found is not None:
        return found
    try:
        traced = _trace(call)
        by_graph = _digest(traced[0]), form, form_of(traced[1:]), tables, wanted, _without.get()
        found = _kept(by_graph)
        if found is None:
            found = _make_plan(call, traced, tables, wanted)
            _keep(by_graph, found)
    except TraceError as error:
        found = _remembered(error)
    _keep(key(), found)  # the key after tracing, since a step may change what it reads
    return found


def _make_plan(
    call: _Call, traced: tuple[Graph, Tree, Tree], tables: tuple[int, ...], wanted: tuple[bool, ...] | None
) -> _Planned | TraceError:
    graph, carried, ys = traced
    of_all = None if wanted is None else [*wanted, *[False] * (call.live is not None)]
    try:
        program = plan(graph, len(call.fixed), len(call.states), tables=tables, wanted=of_all, without=_without.get())
    except TraceError as error:
        return _remembered(error)
    return _Planned(program, carried, ys, {})


def _kept(key: Any) -> _Planned | TraceError | None:
    """The plan stored under a key; None if there is none."""
    with suppress(KeyError):  # another thread may have removed it
        _plans.move_to_end(key)
        return _plans[key]
    return None


def _keep(key: Any, found: _Planned | TraceError) -> None:
    if key is None:
        return
    _plans[key] = found
    release(but=LIVELY)  # a step redefined repeatedly, as in a notebook, has many
    if len(_plans) > _KEPT:
        with suppress(KeyError):
            _plans.popitem(last=False)


def identity_of(step: Any) -> Any:
    """A hashable key that is equal only if two steps compute the same.

    It also depends on everything that the step's code reads: globals, closures, class attributes.

    Raises:
        TypeError: there is none, because the step refers to something that may change unnoticed.
    """
    classes: dict[type, None] = {}
    fields = _fields_of(step, classes)
    return fields, read_by(tuple(classes))


def _fields_of(step: Any, classes: dict[type, None]) -> Any:
    """A hashable key of a step's fields; ``classes`` collects the classes of the steps in it."""
    if is_dataclass(step) and not isinstance(step, type):
        names = {part.name for part in fields(step)}
        if not step.__dataclass_params__.frozen or set(vars(step)) != names:  # type: ignore[attr-defined]
            raise TypeError  # it has more than its fields
        classes[type(step)] = None
        # Not the step itself, since its comparison may ignore a field.
        return (type(step), *(_fields_of(getattr(step, part.name), classes) for part in fields(step)))
    if isinstance(step, tuple):
        return tuple(_fields_of(part, classes) for part in step)
    if isinstance(step, float):
        return type(step), step.hex()  # since 0.0 == -0.0
    if step is None or isinstance(step, str | bool | int):
        return type(step), step
    raise TypeError


def _skeleton(tree: Tree) -> Tree:
    """The tree with numbers as leaves, so that it refers to no arrays."""
    return trees.map(lambda _: 0, tree)


def form_of(tree: Tree) -> Any:
    """A hashable key of a tree's structure, types and numbers."""
    if isinstance(tree, dict):
        return (dict, *((key, form_of(child)) for key, child in tree.items()))
    if isinstance(tree, tuple | list):
        return (type(tree), *map(form_of, tree))
    return tree if tree is None or isinstance(tree, int) else "leaf"


def _digest(graph: Graph) -> str:
    digest = hashlib.sha256(str(graph).encode())
    for array in graph.constants.values():
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


_UNLIKELY = (1009, 1013, 1019, 1021, 1031)
"""Batch sizes that are unlikely to equal another size of a step, or a sum or product of its sizes."""


def _trace(call: _Call) -> tuple[Graph, Tree, Tree]:
    """The graph of a step, for any batch size, and its results as trees.

    A leaf of the new carry is its index among the leaves of the old one, in whose order the graph's outputs are.

    Raises:
        TraceError: the step does something that a graph cannot represent, or fails itself.
    """
    taken = {n for leaf in (*call.fixed, *call.states, *call.inputs) for n in leaf.shape}
    batch, other = [n for n in _UNLIKELY if not any(size and size % n == 0 for size in taken)][:2]
    graph, carried, ys = _trace_batch(call, batch)
    again, _, _ = _trace_batch(call, other)
    _require_same(graph, again, batch, other)
    return symbolic(graph, batch), carried, ys


def _require_same(one: Graph, two: Graph, batch: int, other: int) -> None:
    """Check that two graphs differ only in the batch size.

    Raises:
        TraceError: they differ.
    """

    def shape(value: Any, size: int) -> Any:
        return (
            tuple(("B", n // size) if n and n % size == 0 else n for n in value.shape)
            if hasattr(value, "shape")
            else ("number", value)
        )

    def option(value: Any, size: int) -> Any:
        if isinstance(value, tuple | list):
            return tuple(option(part, size) for part in value)
        if isinstance(value, slice):
            return "slice", option((value.start, value.stop, value.step), size)
        if isinstance(value, np.ndarray):
            return value.dtype, value.shape, value.tobytes()
        whole = type(value) is int and value > 0 and value % size == 0
        return ("B", value // size) if whole else key_of(value)

    def lines(graph: Graph, size: int) -> Iterator[tuple[Any, Origin | None]]:
        labels = {
            value: i for i, value in enumerate((*graph.inputs, *graph.constants, *(op.output for op in graph.ops)))
        }
        for op in graph.ops:
            inputs = []
            for x in op.inputs:
                array = graph.constants.get(x) if isinstance(x, Value) else None
                # A constant with a batch axis is checked in planning.
                elements = None if array is None or size in array.shape else (array.dtype, array.tobytes())
                inputs.append((labels.get(x) if isinstance(x, Value) else None, shape(x, size), elements))
            options = {name: option(value, size) for name, value in op.options.items()}
            yield (op.name, inputs, options, shape(op.output, size)), op.output.origin
        yield [labels.get(x) if isinstance(x, Value) else ("number", x) for x in graph.outputs], None

    for (mine, origin), theirs in itertools.zip_longest(lines(one, batch), lines(two, other), fillvalue=(None, None)):
        if mine != theirs[0]:
            raise TraceError("its operations depend on the size of the batch", origin)


def _trace_batch(call: _Call, batch: int) -> tuple[Graph, Tree, Tree]:
    """As ``_trace``, for one batch size, which differs from the step's other sizes."""

    def examples_of(tree: Tree, leaves: Sequence[Any], skipped: int) -> Tree:
        lead = (batch,) if skipped else ()
        zeros = [np.broadcast_to(np.zeros((), leaf.dtype), (*lead, *leaf.shape[skipped:])) for leaf in leaves]
        return trees.unflatten(tree, zeros)

    step = call.step
    examples = (
        examples_of(call.params, call.fixed, 0),
        examples_of(call.carry, call.states, 1),
        examples_of(call.xs, call.inputs, 2),
    )
    try:
        if call.live is not None:
            lookups = [isinstance(leaf, Lookup) for leaf in call.inputs]
            graph, result = trace(
                functools.partial(_masked, step, lookups),
                *examples,
                np.zeros(batch, bool),
                names=("params", "carry", "x", "live"),
            )
        else:
            graph, result = trace(step, *examples, names=("params", "carry", "x"))
    except TraceError:
        raise
    except Exception as error:
        # A function that needs elements often raises its own error without them.
        origin = origin_of(error.__traceback__)
        if "tracer" in str(error).lower() or "a Tensor was given where NumPy" in str(error):
            raise TraceError("it hands a tensor to something that needs its elements", origin) from None
        reason = f"it fails when it is traced with {batch} sequences: {type(error).__name__}: {error}"
        raise _Fails(reason, origin) from None
    wrong = _Fails(
        f"traced with {batch} sequences, it gives no pair of a carry like the one that it got, and an output"
    )
    if not (isinstance(result, tuple) and len(result) == 2):
        raise wrong
    outputs = graph.outputs
    count = len(trees.leaves(examples[1]))
    try:
        indices = trees.unflatten(result[0], range(len(trees.leaves(result[0]))))
        order = [index for _, index in trees.zip_leaves(examples[1], indices)]
        pairs = trees.zip_leaves(examples[1], result[0])
    except ValueError:
        raise wrong from None
    if any(np.shape(new) != old.shape or getattr(new, "dtype", None) != old.dtype for old, new in pairs):
        raise wrong
    if any(leaf.shape[:1] != (batch,) for leaf in trees.leaves(result[1]) if hasattr(leaf, "shape")):
        raise TraceError("its output has no batch axis")
    graph.outputs = [*(outputs[index] for index in order), *outputs[count:]]
    return graph, trees.map(order.index, indices), _skeleton(result[1])


def _masked(step: Step, lookups: Sequence[bool], params: Tree, carry: Tree, x: Tree, live: Any) -> tuple[Tree, Tree]:
    """The step with a mask: where a sequence has no input, the carry is unchanged and the output is zero."""

    def rows(like: Any) -> Any:
        return live if like.ndim == 1 else reshape(live, live.shape + (1,) * (like.ndim - 1))

    flat = [
        leaf if looked_up or leaf.dtype.kind != "f" else where(rows(leaf), leaf, np.zeros((), leaf.dtype))
        for leaf, looked_up in zip(trees.leaves(x), lookups, strict=True)
    ]
    new, y = step(params, carry, trees.unflatten(x, flat))
    new = trees.map(lambda after, before: where(rows(before), after, before), new, carry)
    return new, trees.map(lambda out: where(rows(out), out, 0), y)


class _Rule(Primitive):
    """The backward rule of one call, which is not in the table of primitives."""

    def __init__(self, name: str, rule: Callable[..., Any], fresh: bool = False) -> None:
        self.name, self.fresh = name, fresh
        self.rules = (rule,)
        self.broadcasts = False
        self.variadic = True


class _Parts:
    """The cotangents received by a loop, by output."""

    def __init__(self, parts: dict[int, Any]) -> None:
        self.parts = parts

    def __add__(self, other: _Parts) -> _Parts:
        both = dict(self.parts)
        for i, g in other.parts.items():
            both[i] = both[i] + g if i in both else g
        return _Parts(both)


def _to_loop(g: Any, y: Any, loop: Any, *, index: int) -> list[Any]:
    return [_Parts({index: g})]


_OUTPUT = _Rule("scan output", _to_loop)


@dataclass(eq=False)
class _Call:
    """One call of ``scan``.

    Attributes:
        step: the step.
        params: as for ``scan``, as are ``carry`` and ``xs``.
        carry: see there.
        xs: see there.
        fixed: the leaves of ``params``.
        states: the leaves of ``carry``.
        inputs: the leaves of ``xs``.
        sources: the same, with the table instead of a ``Lookup``: gradients are with respect to these.
        live: (T, B), false where a sequence has no input; None if all have.
        nodes: of all leaves; None if nothing is recorded.
        length: T.
        batch: B.
    """

    step: Step
    params: Tree
    carry: Tree
    xs: Tree
    fixed: list[Any]
    states: list[Any]
    inputs: list[Any]
    sources: list[Any]
    live: Array | None
    nodes: list[Node | None] | None
    length: int
    batch: int
    planned: _Planned = field(init=False)
    executor: Executor = field(init=False)

    def run(self, reverse: bool) -> tuple[Tree, Tree]:
        """The last carry and the outputs."""
        fixed, states, sources = (
            [np.asarray(value_of(x)) for x in some] for some in (self.fixed, self.states, self.sources)
        )
        inputs = [
            Lookup(source, x.indices) if isinstance(x, Lookup) else source
            for source, x in zip(sources, self.inputs, strict=True)
        ]
        if self.live is not None:
            # Integers in the padding need not be valid indices.
            inputs = [
                _live_only(x, self.live) if isinstance(x, np.ndarray) and x.dtype.kind in "iu" else x for x in inputs
            ]
            inputs.append(self.live)
        carry, ys, saved = self.executor.forward(
            fixed, states, inputs, [], steps=self.length, batch=self.batch, reverse=reverse, keep=self.nodes is not None
        )
        results: list[Any] = [*carry, *ys]
        if self.nodes is not None:
            results = self._tensors([*fixed, *states, *sources], results, saved, reverse)
        elif any(isinstance(x, Tensor) for x in (*self.fixed, *self.states, *self.sources)):
            results = [Tensor(x) for x in results]
        count = len(carry)
        return (
            trees.map(lambda index: results[index], self.planned.carried),
            trees.unflatten(self.planned.ys, results[count:]),
        )

    def _tensors(self, values: list[Array], results: list[Array], saved: Any, reverse: bool) -> list[Any]:
        """The results as tensors, all from one node, the loop."""
        assert self.nodes is not None
        count, outputs = len(self.states), len(results)
        executor, step, live = self.executor, self.step, self.live
        # The trees without their leaves: a node must not refer to tensors.
        forms = _skeleton(self.params), _skeleton(self.carry), _skeleton(self.xs)
        indices = [x.indices if isinstance(x, Lookup) else None for x in self.inputs]

        def rule(g: _Parts, y: Any, *inputs: Any) -> list[Any]:
            parts = [g.parts.get(i) for i in range(outputs)]
            if any(isinstance(part, Tensor) for part in parts):
                return _again(step, forms, indices, live, reverse, parts, inputs)
            d_params, d_carry, d_xs, _ = executor.backward(saved, parts[:count], parts[count:])
            # An input that the loop does not read has a gradient too.
            sources = inputs[len(d_params) + count :]
            some = [np.zeros_like(x) if d is None else d for d, x in zip(d_xs, sources, strict=False)]
            return _each_its_own([*d_params, *d_carry, *some])

        loop = Node(_Rule("scan", rule, fresh=True), values, np.zeros(()), self.nodes, {})
        return [
            Tensor(result, Node(_OUTPUT, (None,), result, (loop,), {"index": i})) for i, result in enumerate(results)
        ]


class Stepper(Protocol):
    """Runs a step once at a time, for symbols that are looked up in a table."""

    @property
    def carry(self) -> list[Array]:
        """The carry after the last step, its leaves in order."""

    def __call__(self, symbols: Any) -> list[Array]:
        """One step: (B,) symbols -> the leaves of the output, (B, ...); the next step may overwrite them."""


@runtime_checkable
class DrawingStepper(Stepper, Protocol):
    """A stepper that can also draw symbols, many per call."""

    def sample(self, symbol: int, uniform: Array, temperature: float) -> Array:
        """Draw symbols from the output, each the next step's input; see ``compiled_stepping.Stepper``."""


def stepper(step: Step, params: Tree, carry: Tree, table: Array) -> Stepper | None:
    """Prepare a step to run many times without gradients, as in sampling; None if it cannot be planned.

    Args:
        step: as for ``scan``; a frozen dataclass.
        params: shared by all steps, plain arrays.
        carry: the initial state, (B, ...) arrays.
        table: (V, n); each step's input is one of its rows per sequence.
    """
    params, carry, table = map(_native, (params, carry, table))
    backend, states = chosen_backend(), trees.leaves(carry)
    if backend == "reference" or observer.get() is not None or not states:
        return None
    xs = Lookup(table, np.zeros((1, len(states[0])), np.intp))
    call = _Call(step, params, carry, xs, trees.leaves(params), states, [xs], [table], None, None, 1, len(states[0]))
    planned = _find_plan(call, (0,), None)
    if isinstance(planned, TraceError):
        _refuse(step, planned)
        return None
    try:
        if backend == "compiled":
            from minigrad.scan import compiled_backend, compiled_stepping

            executor = planned.executor(backend)
            if isinstance(executor, compiled_backend.Executor):
                return compiled_stepping.Stepper(executor, call.fixed, states, table)
        return stepping.Stepper(planned.program, call.fixed, states, table)
    except TraceError as error:
        _refuse(step, error)
        return None


def _live_only(x: Array, live: Array) -> Array:
    """Integers (T, B, ...) with 0 where a sequence has no input."""
    return np.where(live.reshape(live.shape + (1,) * (x.ndim - 2)), x, 0)


def _each_its_own(arrays: list[Array]) -> list[Array]:
    """The arrays, copied if two share memory, since the caller may add to each."""
    seen: set[int] = set()
    result = []
    for array in arrays:
        owner = array
        while isinstance(owner.base, np.ndarray):
            owner = owner.base
        result.append(np.array(array) if id(owner) in seen else array)
        seen.add(id(owner))
    return result


def _again(
    step: Step,
    forms: tuple[Tree, Tree, Tree],
    indices: Sequence[Any],
    live: Array | None,
    reverse: bool,
    parts: list[Any],
    inputs: Sequence[Any],
) -> list[Any]:
    """The cotangents as tensors, by the reference loop, for higher derivatives."""
    params, carry, xs = forms
    n, m = len(trees.leaves(params)), len(trees.leaves(carry))

    def loop(*inputs: Any) -> list[Any]:
        flat = [
            new if index is None else Lookup(new, index) for new, index in zip(inputs[n + m :], indices, strict=True)
        ]
        last, ys = reference.scan(
            step,
            trees.unflatten(params, inputs[:n]),
            trees.unflatten(carry, inputs[n : n + m]),
            trees.unflatten(xs, flat),
            mask=live,
            reverse=reverse,
        )
        # In the order of the old carry, like the parts.
        order = [leaf for _, leaf in trees.zip_leaves(carry, last)]
        return [*order, *trees.leaves(ys)]

    floats = [i for i, x in enumerate(inputs) if value_of(x).dtype.kind == "f"]

    def of_floats(*some: Any) -> list[Any]:
        whole = list(inputs)
        for i, x in zip(floats, some, strict=True):
            whole[i] = x
        return loop(*whole)

    outputs, pullback = vjp(of_floats, *(inputs[i] for i in floats))
    given = [np.zeros_like(value_of(y)) if part is None else part for part, y in zip(parts, outputs, strict=True)]
    cotangents: list[Any] = [None] * len(inputs)
    for i, d in zip(floats, pullback(given), strict=True):
        cotangents[i] = d
    return cotangents


def graph_of(step: Step, params: Tree, carry: Tree, xs: Tree) -> Graph:
    """A step's graph, for a batch size that differs from the step's other sizes.

    Args:
        step: as for ``scan``, as are the rest; of the arrays only shapes and dtypes matter.
        params: shared by all steps.
        carry: the state before the first step.
        xs: the inputs.

    Raises:
        TraceError: the step does something that a graph cannot represent. Other errors of the step are passed on.
    """
    leaves = trees.leaves(params), trees.leaves(carry), trees.leaves(xs)
    try:
        return _trace(_Call(step, params, carry, xs, *leaves, leaves[2], None, None, 0, 0))[0]
    except _Fails:
        reference.scan(step, params, carry, xs)  # raises the step's own error
        raise


def plan_of(graph: Graph, params: int, carry: int, *, backend: str) -> Program:
    """The plan for a step's graph with gradients of its parameters, as in training.

    Args:
        graph: from ``graph_of``.
        params: the number of its inputs that are parameters.
        carry: the number that are carries.
        backend: the backend that must be able to run it.

    Raises:
        TraceError: it cannot be planned, or the backend lacks a kernel.
    """
    wanted = [i < params for i in range(len(graph.inputs))]
    program = plan(graph, params, carry, wanted=wanted)
    _executor(program, backend)
    return program
