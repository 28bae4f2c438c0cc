"""``scan``: the choice of a backend for each call, and the reference loop for what cannot be planned.

A step is traced and planned once. Steps that cannot be planned run on the reference loop, and so does every step under
an observer.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from minigrad import stepgraph, trees
from minigrad.compiled import jit
from minigrad.graph import TraceError, Value
from minigrad.reads import form_of
from minigrad.scan import reference, stepping
from minigrad.scan.lookup import Lookup
from minigrad.scan.plans import Executor, Plan, find_plan
from minigrad.scan.program import Program
from minigrad.scan.reference import Step, live_steps
from minigrad.scan.tape import Call, table_of
from minigrad.stepgraph import StepError, StepGraph, remembered, shapes_of
from minigrad.tensor import Array, Tensor, is_recording, observer
from minigrad.trees import Tree

BACKENDS = ("reference", "numpy", "compiled")

WORTH_COMPILING = 1_000_000
"""Multiplications in the products of one call below which compiling would take longer than it saves."""

_backend: ContextVar[str | None] = ContextVar("backend", default=None)


class Watched(NamedTuple):
    """How a call of ``scan`` ran.

    Attributes:
        step: the name of the step's class or function.
        program: the plan; None on the reference loop.
        backend: what ran it.
        reason: why there is no plan; empty if there is one.
    """

    step: str
    program: Program | None
    backend: str
    reason: str = ""


_watching: ContextVar[list[Watched] | None] = ContextVar("watching", default=None)
_log = logging.getLogger("minigrad.scan")


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
def watched() -> Iterator[list[Watched]]:
    """Within this block, how each call of ``scan`` ran is added to a list."""
    calls: list[Watched] = []
    token = _watching.set(calls)
    try:
        yield calls
    finally:
        _watching.reset(token)


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
    context: Tree = None,
    lengths: Array | None = None,
    mask: Array | None = None,
    reverse: bool = False,
) -> tuple[Tree, Tree]:
    """Apply ``step`` along the first axis of ``xs``.

    The step is called only for tracing, with tensors that have no elements, unless it has to run on the reference loop
    (``minigrad.scan.reference``), which defines the result.

    Args:
        step: ``(params, carry, x) -> (carry, y)``, a pure function; with a context
            ``(params, carry, x, context) -> (carry, y)``.
        params: shared by all steps.
        carry: the state before the first step, a tree of arrays (B, ...).
        xs: a tree of arrays (T, B, ...), or of ``Lookup`` instead of arrays.
        context: what is the same at every step of one sequence, such as the outputs of an encoder: a tree of arrays
            (B, ...), which the step gets whole; None if there is none.
        lengths: (B,) integers: sequence b ends after ``lengths[b]`` steps.
        mask: (T, B): false where a sequence has no input. There the carry is unchanged and the output is zero.
            Give ``lengths`` or ``mask``, not both.
        reverse: run from the last step to the first; outputs stay in the order of ``xs``.

    Returns:
        The carry after the last step, and the outputs, a tree of arrays (T, B, ...).

    Raises:
        TypeError: a step does not return a pair.
        ValueError: the arrays of ``xs`` disagree on T or B, those of ``context`` have another B, ``lengths`` or
            ``mask`` do not match them, or a step returns a carry of another structure, shape or dtype.
    """
    params, carry, xs, context = map(_native, (params, carry, xs, context))
    error = None
    if _backend.get() != "reference" and observer.get() is None:
        found = _prepared(step, params, carry, xs, context, lengths, mask, reverse)
        if (calls := _watching.get()) is not None:
            calls.append(_seen(step, found))
        if isinstance(found, tuple):
            call, plan, executor = found
            return call.run(plan, executor)
        error = found
    if error is not None and not isinstance(error, StepError):
        _refuse(step, error)
    result = reference.scan(step, params, carry, xs, context=context, lengths=lengths, mask=mask, reverse=reverse)
    if isinstance(error, StepError):  # only tracing failed; a wrong step raises in the reference loop
        _refuse(step, error)
    return result


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


def _prepared(
    step: Step,
    params: Tree,
    carry: Tree,
    xs: Tree,
    context: Tree,
    lengths: Array | None,
    mask: Array | None,
    reverse: bool,
) -> tuple[Call, Plan, Executor] | TraceError | None:
    """What is needed to run this call on a backend; None or the reason if it must run on the reference loop."""
    given = params, carry, context, xs
    fixed, states, contexts, inputs = map(trees.leaves, given)
    leaves = (*fixed, *states, *contexts, *inputs)
    if not inputs or not all(hasattr(leaf, "shape") and hasattr(leaf, "dtype") for leaf in leaves):
        return None
    leading = inputs[0].shape[:2]
    if len(leading) != 2 or 0 in leading or any(leaf.shape[:2] != leading for leaf in inputs):
        return None
    length, batch = leading
    if any(leaf.shape[:1] != (batch,) for leaf in (*states, *contexts)):
        return None
    if any(isinstance(leaf, Lookup) for leaf in (*fixed, *states, *contexts)):
        return None
    live = live_steps(length, batch, lengths, mask)
    if live is not None and live.all():
        live = None
    # A table with more rows than the sequence has inputs is not worth a stage: the inputs are looked up first.
    inputs = [x.array() if isinstance(x, Lookup) and len(x.table) > length * batch else x for x in inputs]
    sources = [table_of(x) for x in inputs]
    nodes = [x.node if isinstance(x, Tensor) else None for x in (*fixed, *states, *contexts, *sources)]
    keep = is_recording() and any(node is not None for node in nodes)
    call = Call(step, given, (fixed, states, contexts, inputs), live, reverse, nodes if keep else None)
    plan = _plan(call)
    if isinstance(plan, TraceError):
        return plan
    backend = _backend.get()
    if backend is None:
        enough = plan.work * length * batch >= WORTH_COMPILING
        backend = "compiled" if enough and jit.available() else "numpy"
    try:
        return call, plan, plan.executor(backend)
    except TraceError as error:
        return remembered(error)


def _plan(call: Call) -> Plan | TraceError:
    """The plan of a call; or why there is none."""
    (params, carry, context, xs), inputs, masked = call.trees, call.leaves[3], call.live is not None
    tables = tuple(i for i, x in enumerate(inputs) if isinstance(x, Lookup))
    wanted = None if call.nodes is None else (*(node is not None for node in call.nodes), *[False] * masked)
    zeroed = tuple(x.dtype.kind == "f" and not isinstance(x, Lookup) for x in inputs) if masked else None
    shapes = tuple(shapes_of(leaves, skipped) for leaves, skipped in zip(call.leaves, (0, 1, 1, 2), strict=True))

    def trace() -> StepGraph:
        x = trees.map(lambda leaf: Value(leaf.shape[1:], leaf.dtype), xs)
        return stepgraph.of(call.step, params, carry, x, context, zeroed=zeroed)

    return find_plan(call.step, (form_of(call.trees), shapes, zeroed), trace, tables, wanted)


_refused: set[str] = set()


def _refuse(step: Step, error: TraceError) -> None:
    """Log, once, why a step runs on the reference loop."""
    name = _name(step) if error.origin is None else error.origin.who
    text = f"{name} runs on the reference loop, which is slow: {error.located()}"
    if text not in _refused:
        _refused.add(text)
        _log.warning(text)


def _name(step: Step) -> str:
    """The name of a step's class or function; of a cell, not of its wrapper."""
    step = getattr(step, "cell", step)
    return getattr(step, "__qualname__", type(step).__qualname__)


def _seen(step: Step, found: tuple[Call, Plan, Executor] | TraceError | None) -> Watched:
    """What to tell of a call, from what was prepared for it."""
    if isinstance(found, tuple):
        _, plan, executor = found
        (backend,) = {name for name, known in plan.executors.items() if known is executor} - {"compiled"} or {
            "compiled"
        }
        return Watched(_name(step), plan.program, backend)
    reason = found.located() if found else "its inputs are not arrays (T, B, ...) with at least one step and sequence"
    return Watched(_name(step), None, "reference", reason)


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


def stepper(step: Step, params: Tree, carry: Tree, table: Array, context: Tree = None) -> Stepper | None:
    """Prepare a step to run many times without gradients, as in sampling; None if it cannot be planned.

    Args:
        step: as for ``scan``; a frozen dataclass.
        params: shared by all steps, plain arrays.
        carry: the initial state, (B, ...) arrays.
        table: (V, n); each step's input is one of its rows per sequence.
        context: as for ``scan``.
    """
    params, carry, table, context = map(_native, (params, carry, table, context))
    backend, states = chosen_backend(), trees.leaves(carry)
    if backend == "reference" or observer.get() is not None or not states:
        return None
    fixed, contexts = trees.leaves(params), trees.leaves(context)
    xs = Lookup(table, np.zeros((1, len(states[0])), np.intp))
    call = Call(step, (params, carry, context, xs), (fixed, states, contexts, [xs]), None, False, None)
    plan = _plan(call)
    if isinstance(plan, TraceError):
        _refuse(step, plan)
        return None
    try:
        if backend == "compiled":
            from minigrad.scan import compiled_backend, compiled_stepping

            executor = plan.executor(backend)
            if isinstance(executor, compiled_backend.Executor):
                return compiled_stepping.Stepper(executor, fixed, states, table, contexts)
        return stepping.Stepper(plan.program, fixed, states, table, contexts)
    except TraceError as error:
        _refuse(step, error)
        return None
