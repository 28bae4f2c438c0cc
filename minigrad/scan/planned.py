"""The planned time loop: the step is traced once, planned once, and then runs on a backend, forwards and backwards.

What cannot be planned runs on the reference loop, and so does what somebody watches value by value.
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
from minigrad.graph import Graph, Op, Origin, TraceError, Value, key_of, origin_of, trace, with_batch
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
"""Multiplications in the products of one call below which compiling would take longer than it could ever save."""

_backend: ContextVar[str | None] = ContextVar("backend", default=None)
_without: ContextVar[frozenset[str]] = ContextVar("without", default=frozenset())
_log = logging.getLogger("minigrad.scan")


class Executor(Protocol):
    """What a backend makes of a program."""

    def forward(
        self,
        params: Sequence[Array],
        carry: Sequence[Array],
        xs: Sequence[Any],
        *,
        steps: int,
        batch: int,
        reverse: bool,
        keep: bool,
    ) -> tuple[list[Array], list[Array], Any]:
        """The last carry, the outputs (T, B, ...), and with ``keep`` what ``backward`` needs."""

    def backward(
        self, saved: Any, d_carry: Sequence[Array | None], d_ys: Sequence[Array | None]
    ) -> tuple[list[Array], list[Array], list[Array | None]]:
        """The cotangents of the parameters, of the first carry and of the inputs (of its table, for a ``Lookup``)."""

    def release(self) -> None:
        """Give back the memory that is kept for further calls."""


@contextmanager
def use_backend(name: str | None) -> Iterator[None]:
    """Within this block ``scan`` runs on one backend: ``reference``, ``numpy`` or ``compiled``; None chooses.

    Chosen is ``compiled`` where the extra ``jit`` is installed and a call has enough to do, otherwise ``numpy``.

    Raises:
        ValueError: there is no such backend.
        ModuleNotFoundError: ``compiled`` without the extra ``jit``.
    """
    if name is not None and name not in BACKENDS:
        raise ValueError(f"there is no backend {name!r}; there are {', '.join(BACKENDS)}")
    if name == "compiled" and not jit.available():
        raise ModuleNotFoundError(
            "the compiled backend needs the library llvmlite: install rnn-lab[jit], or choose the backend numpy"
        )
    token = _backend.set(name)
    try:
        yield
    finally:
        _backend.reset(token)


@contextmanager
def leave_out(*passes: str) -> Iterator[None]:
    """Within this block steps are planned without these passes, to see what each is worth.

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
    """The backends that planned steps can run on here, the fastest last."""
    return ("numpy", "compiled") if jit.available() else ("numpy",)


def chosen_backend() -> str:
    """The backend that a call with much to do would run on."""
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

    The step is called only to be traced, with tensors that have no elements, unless it has to run on the reference
    loop (``minigrad.scan.reference``), which defines what the result is.

    Args:
        step: ``(params, carry, x) -> (carry, y)``, a pure function.
        params: what every step shares.
        carry: the state before the first step, a tree of arrays (B, ...).
        xs: a tree of arrays (T, B, ...), or of ``Lookup`` in place of arrays.
        lengths: (B,) integers: sequence b ends after ``lengths[b]`` steps.
        mask: (T, B): false where a sequence has no input. There the carry stands still and the output is zero.
            Give ``lengths`` or ``mask``, not both.
        reverse: run from the last step to the first; outputs stay in the order of ``xs``.

    Returns:
        The carry after the last step, and the outputs, a tree of arrays (T, B, ...).

    Raises:
        TypeError: a step gives no pair.
        ValueError: the arrays of ``xs`` disagree on T or B, ``lengths`` or ``mask`` do not fit them, or a step gives a
            carry of another structure, shape or dtype.
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
    if isinstance(call, _Fails):  # and not the step itself, whose mistake the reference loop would have told
        _refuse(step, call)
    return result


class _Fails(TraceError):
    """The step raises something when it is traced: what is wrong with it, if anything, a real call tells better."""


def _native(tree: Tree) -> Tree:
    """The tree with all arrays in this machine's byte order: NumPy takes another one for another type."""
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
    """A step's program with the executors made of it, and what is needed to call them."""

    program: Program
    carried: Tree  # with the place of each leaf in the order of the carry that came in
    ys: Tree
    executors: dict[str, Executor]

    def executor(self, backend: str) -> Executor:
        """The program on a backend; where that has no kernel for it, on NumPy's."""
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
"""Keys, two for each plan, whose plans keep their memory when there is a new one: more than a training has loops."""


def release(but: int = 0) -> None:
    """Give back the memory that plans keep from call to call; they stay, and take it anew when they are called.

    Args:
        but: so many keys of plans that were used last keep it.
    """
    plans = list(_plans.values())
    old, recent = plans[: max(len(plans) - but, 0)], plans[len(plans) - but :] if but else []
    for found in old:
        for executor in [] if isinstance(found, TraceError) or found in recent else list(found.executors.values()):
            executor.release()


def _prepare(
    step: Step, params: Tree, carry: Tree, xs: Tree, lengths: Array | None, mask: Array | None
) -> _Call | TraceError | None:
    """What is needed to run this call on a backend; None or the reason where it must run on the reference loop."""
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
    # Rows of a table that is larger than the sequence are fewer than the table has: they are looked up first.
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
    """Say, once, why a step runs on the reference loop."""
    if error.origin is not None:
        name = error.origin.who
    else:
        step = getattr(step, "cell", step)  # a cell is better known than what it is wrapped in
        name = getattr(step, "__qualname__", type(step).__qualname__)
    text = f"{name} runs on the plain time loop, which is slow: {error.located()}"
    if text not in _refused:
        _refused.add(text)
        _log.warning(text)


def _remembered(error: TraceError) -> TraceError:
    """The error without what was there when it was raised, which it would hold on to."""
    return type(error)(str(error), error.origin)


def _find_plan(call: _Call, tables: tuple[int, ...], wanted: tuple[bool, ...] | None) -> _Planned | TraceError:
    """The plan for a step on inputs of these shapes, made where there is none yet; or why there is none."""
    form = form_of((call.params, call.carry, call.xs))
    shapes = tuple(
        (leaf.shape[skipped:], leaf.dtype.str)
        for leaves, skipped in ((call.fixed, 0), (call.states, 1), (call.inputs, 2))
        for leaf in leaves
    )

    def key() -> Any:
        try:
            return identity_of(call.step), form, shapes, call.live is not None, tables, wanted, _without.get()
        except TypeError:  # it cannot be told from another step but by its graph
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
    _keep(key(), found)  # as it is now, for a step may write to what it reads: count its calls, or keep something
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
    """What was kept under a key; None, which nothing is kept under, is a key as well."""
    with suppress(KeyError):  # as another thread may have emptied it
        _plans.move_to_end(key)
        return _plans[key]
    return None


def _keep(key: Any, found: _Planned | TraceError) -> None:
    if key is None:
        return
    _plans[key] = found
    release(but=LIVELY)  # a step that is changed again and again, as in a notebook, has many
    if len(_plans) > _KEPT:
        with suppress(KeyError):
            _plans.popitem(last=False)


def identity_of(step: Any) -> Any:
    """Something hashable that is equal only where two steps compute the same.

    It changes with all that the step's code reads, too: globals, closures, class attributes.

    Raises:
        TypeError: there is none, for the step refers to something that may change unseen.
    """
    classes: dict[type, None] = {}
    fields = _fields_of(step, classes)
    return fields, read_by(tuple(classes))


def _fields_of(step: Any, classes: dict[type, None]) -> Any:
    """All that a step holds, as something hashable; ``classes`` collects those of the steps in it."""
    if is_dataclass(step) and not isinstance(step, type):
        names = {part.name for part in fields(step)}
        if not step.__dataclass_params__.frozen or set(vars(step)) != names:  # type: ignore[attr-defined]
            raise TypeError  # there is more to it than its fields
        classes[type(step)] = None
        # Not the step itself, for a field may be left out of its comparison.
        return (type(step), *(_fields_of(getattr(step, part.name), classes) for part in fields(step)))
    if isinstance(step, tuple):
        return tuple(_fields_of(part, classes) for part in step)
    if isinstance(step, float):
        return type(step), step.hex()  # for 0.0 and -0.0 are equal
    if step is None or isinstance(step, str | bool | int):
        return type(step), step
    raise TypeError


def _skeleton(tree: Tree) -> Tree:
    """The tree with numbers in place of its leaves, so that it holds nothing."""
    return trees.map(lambda _: 0, tree)


def form_of(tree: Tree) -> Any:
    """Something hashable that is equal where two trees are built alike, of the same types, with the same numbers."""
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
"""Numbers of sequences that are no other size of a step, nor a sum or product of its sizes."""


def _trace(call: _Call) -> tuple[Graph, Tree, Tree]:
    """The graph of a step, for any number of sequences, and its results as trees.

    A leaf of the new carry is its place among the leaves of the old one, which the graph's outputs follow.

    Raises:
        TraceError: the step does what a graph cannot hold, or fails of itself.
    """
    taken = {n for leaf in (*call.fixed, *call.states, *call.inputs) for n in leaf.shape}
    batch, other = [n for n in _UNLIKELY if n not in taken][:2]
    graph, carried, ys = _trace_batch(call, batch)
    again, _, _ = _trace_batch(call, other)
    _require_same(graph, again, batch, other)
    for value in (*graph.inputs, *graph.constants, *(op.output for op in graph.ops)):
        value.shape = with_batch(value.shape, batch)
    graph.ops = [Op(op.name, op.inputs, with_batch(op.options, batch), op.output) for op in graph.ops]
    return graph, carried, ys


def _require_same(one: Graph, two: Graph, batch: int, other: int) -> None:
    """Hold two graphs against each other, which may differ in nothing but the size of the batch.

    Raises:
        TraceError: they differ.
    """

    def shape(value: Any, size: int) -> Any:
        return tuple(None if n == size else n for n in value.shape) if hasattr(value, "shape") else ("number", value)

    def option(value: Any, size: int) -> Any:
        if isinstance(value, tuple | list):
            return tuple(option(part, size) for part in value)
        if isinstance(value, slice):
            return "slice", option((value.start, value.stop, value.step), size)
        if isinstance(value, np.ndarray):
            return value.dtype, value.shape, value.tobytes()
        return None if type(value) is int and value == size else key_of(value)

    def lines(graph: Graph, size: int) -> Iterator[tuple[Any, Origin | None]]:
        places = {
            value: i for i, value in enumerate((*graph.inputs, *graph.constants, *(op.output for op in graph.ops)))
        }
        for op in graph.ops:
            inputs = []
            for x in op.inputs:
                array = graph.constants.get(x) if isinstance(x, Value) else None
                # A constant that has a batch axis is looked at when it is planned.
                elements = None if array is None or size in array.shape else (array.dtype, array.tobytes())
                inputs.append((places.get(x) if isinstance(x, Value) else None, shape(x, size), elements))
            options = {name: option(value, size) for name, value in op.options.items()}
            yield (op.name, inputs, options, shape(op.output, size)), op.output.origin
        yield [places.get(x) if isinstance(x, Value) else ("number", x) for x in graph.outputs], None

    for (mine, origin), theirs in itertools.zip_longest(lines(one, batch), lines(two, other), fillvalue=(None, None)):
        if mine != theirs[0]:
            raise TraceError("its operations depend on the size of the batch", origin)


def _trace_batch(call: _Call, batch: int) -> tuple[Graph, Tree, Tree]:
    """As ``_trace``, for one number of sequences, which is none of the step's other sizes."""

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
        # A function that needs elements often fails in a way of its own when it gets none.
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
        places = trees.unflatten(result[0], range(len(trees.leaves(result[0]))))
        order = [place for _, place in trees.zip_leaves(examples[1], places)]
        pairs = trees.zip_leaves(examples[1], result[0])
    except ValueError:
        raise wrong from None
    if any(np.shape(new) != old.shape or getattr(new, "dtype", None) != old.dtype for old, new in pairs):
        raise wrong
    if any(leaf.shape[:1] != (batch,) for leaf in trees.leaves(result[1]) if hasattr(leaf, "shape")):
        raise TraceError("its output has no batch axis")
    graph.outputs = [*(outputs[place] for place in order), *outputs[count:]]
    return graph, trees.map(order.index, places), _skeleton(result[1])


def _masked(step: Step, lookups: Sequence[bool], params: Tree, carry: Tree, x: Tree, live: Any) -> tuple[Tree, Tree]:
    """The step where some sequences have no input: there the carry stands still, and the output is zero."""

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
    """A step back that no table lists: it belongs to one call."""

    def __init__(self, name: str, rule: Callable[..., Any], fresh: bool = False) -> None:
        self.name, self.fresh = name, fresh
        self.rules = (rule,)
        self.broadcasts = False
        self.variadic = True


class _Parts:
    """The cotangents that have arrived at a loop, by output."""

    def __init__(self, parts: dict[int, Any]) -> None:
        self.parts = parts

    def __add__(self, other: _Parts) -> _Parts:
        both = dict(self.parts)
        for i, g in other.parts.items():
            both[i] = both[i] + g if i in both else g
        return _Parts(both)


def _to_loop(g: Any, y: Any, loop: Any, *, place: int) -> list[Any]:
    return [_Parts({place: g})]


_OUTPUT = _Rule("scan output", _to_loop)


@dataclass(eq=False)
class _Call:
    """One call of ``scan``.

    Attributes:
        step: the step.
        params: what every step shares, and so on: the trees as they came.
        carry: see there.
        xs: see there.
        fixed: the leaves of ``params``.
        states: those of ``carry``.
        inputs: those of ``xs``.
        sources: the same, with the table in place of a ``Lookup``: what gradients are taken by.
        live: (T, B), false where a sequence has no input; None where all have.
        nodes: of all leaves; None where nothing is recorded.
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
            # Whatever stands in the padding of integers is no index.
            inputs = [
                _live_only(x, self.live) if isinstance(x, np.ndarray) and x.dtype.kind in "iu" else x for x in inputs
            ]
            inputs.append(self.live)
        carry, ys, saved = self.executor.forward(
            fixed, states, inputs, steps=self.length, batch=self.batch, reverse=reverse, keep=self.nodes is not None
        )
        results: list[Any] = [*carry, *ys]
        if self.nodes is not None:
            results = self._tensors([*fixed, *states, *sources], results, saved, reverse)
        elif any(isinstance(x, Tensor) for x in (*self.fixed, *self.states, *self.sources)):
            results = [Tensor(x) for x in results]
        count = len(carry)
        return (
            trees.map(lambda place: results[place], self.planned.carried),
            trees.unflatten(self.planned.ys, results[count:]),
        )

    def _tensors(self, values: list[Array], results: list[Array], saved: Any, reverse: bool) -> list[Any]:
        """The results, remembering how they were made: all come from one node, the loop."""
        assert self.nodes is not None
        count, outputs = len(self.states), len(results)
        executor, step, live = self.executor, self.step, self.live
        # The trees without their leaves: a node must not hold tensors.
        forms = _skeleton(self.params), _skeleton(self.carry), _skeleton(self.xs)
        indices = [x.indices if isinstance(x, Lookup) else None for x in self.inputs]

        def rule(g: _Parts, y: Any, *inputs: Any) -> list[Any]:
            parts = [g.parts.get(i) for i in range(outputs)]
            if any(isinstance(part, Tensor) for part in parts):
                return _again(step, forms, indices, live, reverse, parts, inputs)
            d_params, d_carry, d_xs = executor.backward(saved, parts[:count], parts[count:])
            # An input that the loop does not read at all has a gradient too, for whoever asks.
            sources = inputs[len(d_params) + count :]
            some = [np.zeros_like(x) if d is None else d for d, x in zip(d_xs, sources, strict=False)]
            return _each_its_own([*d_params, *d_carry, *some])

        loop = Node(_Rule("scan", rule, fresh=True), values, np.zeros(()), self.nodes, {})
        return [
            Tensor(result, Node(_OUTPUT, (None,), result, (loop,), {"place": i})) for i, result in enumerate(results)
        ]


class Stepper(Protocol):
    """A step that is taken once at a time, for symbols that are looked up in a table."""

    @property
    def carry(self) -> list[Array]:
        """The carry after the last step, its leaves in order."""

    def __call__(self, symbols: Any) -> list[Array]:
        """One step: (B,) symbols -> the leaves of the output, (B, ...); the next step may write over them."""


@runtime_checkable
class DrawingStepper(Stepper, Protocol):
    """A stepper that can also draw symbols by itself, many in one go."""

    def sample(self, symbol: int, uniform: Array, temperature: float) -> Array:
        """Symbols drawn from the output, each the next step's input; see ``compiled_stepping.Stepper``."""


def stepper(step: Step, params: Tree, carry: Tree, table: Array) -> Stepper | None:
    """A step prepared to be taken many times without gradients, as in sampling; None where it cannot be planned.

    Args:
        step: as ``scan`` takes it; a frozen dataclass.
        params: what every step shares, plain arrays.
        carry: the state to start from, (B, ...) arrays.
        table: (V, n), of which each step's input is a row for each sequence.
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
    """The arrays, copied where two lie in one memory: whoever gets one may add to it."""
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
    """The cotangents as tensors, through the reference loop: for derivatives of derivatives."""
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
        # In the order of the carry that came in, as the parts are.
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
    """What a step computes, as a graph for some number of sequences: one that is no other size of the step.

    Args:
        step: as ``scan`` takes it, and so the rest; of the arrays only shapes and types count.
        params: what every step shares.
        carry: the state before the first step.
        xs: the inputs.

    Raises:
        TraceError: the step does what a graph cannot hold. Whatever else it raises when it is run.
    """
    leaves = trees.leaves(params), trees.leaves(carry), trees.leaves(xs)
    try:
        return _trace(_Call(step, params, carry, xs, *leaves, leaves[2], None, None, 0, 0))[0]
    except _Fails:
        reference.scan(step, params, carry, xs)  # says what is wrong with it
        raise


def plan_of(graph: Graph, params: int, carry: int, *, backend: str) -> Program:
    """The plan for a step's graph where the gradients of its parameters are wanted, as in training.

    Args:
        graph: as ``graph_of`` gives it.
        params: how many of its inputs are parameters.
        carry: how many are carries.
        backend: on which it must be able to run.

    Raises:
        TraceError: it cannot be planned, or the backend lacks a kernel.
    """
    wanted = [i < params for i in range(len(graph.inputs))]
    program = plan(graph, params, carry, wanted=wanted)
    _executor(program, backend)
    return program
