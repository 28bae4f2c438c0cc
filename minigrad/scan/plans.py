"""Plans of steps, each made once per step and shapes, and their executors."""

from __future__ import annotations

import functools
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from minigrad.graph import Graph, TraceError
from minigrad.reads import form_of, identity_of
from minigrad.scan.program import PASSES, Program, multiplications, plan
from minigrad.stepgraph import StepGraph, remembered
from minigrad.tensor import Array
from minigrad.trees import Tree


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
            The carry after the last step, the outputs, (T, B, ...) each, and with ``keep`` what ``backward`` needs.
        """

    def backward(
        self, saved: Any, d_carry: Sequence[Array | None], d_ys: Sequence[Array | None]
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

    def release(self) -> None:
        """Free the memory kept for further calls."""


@dataclass(eq=False)
class Plan:
    """A step's program and its executors.

    Attributes:
        program: the planned step.
        carried: as in ``StepGraph``.
        ys: as in ``StepGraph``.
        executors: by backend.
    """

    program: Program
    carried: Tree
    ys: Tree
    executors: dict[str, Executor] = field(default_factory=dict)

    def executor(self, backend: str) -> Executor:
        """The program on a backend; on NumPy's if that lacks a kernel."""
        if backend not in self.executors:
            try:
                self.executors[backend] = make_executor(self.program, backend)
            except TraceError:
                if backend == "numpy":
                    raise
                self.executors[backend] = self.executor("numpy")
        return self.executors[backend]

    @functools.cached_property
    def work(self) -> int:
        """Multiplications in the products of one row."""
        return sum(
            multiplications(op) for stage in self.program.stages for op in stage.forward.ops if op.name == "matmul"
        )


def make_executor(program: Program, backend: str) -> Executor:
    """Prepare a program on a backend.

    Raises:
        TraceError: the backend lacks a kernel.
    """
    if backend == "compiled":
        from minigrad.scan import compiled_backend

        return compiled_backend.Executor(program)
    from minigrad.scan import numpy_backend

    return numpy_backend.Executor(program)


_without: ContextVar[frozenset[str]] = ContextVar("without", default=frozenset())


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


_plans: OrderedDict[Any, Plan | TraceError] = OrderedDict()
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


def find_plan(
    step: Any, arguments: Any, trace: Callable[[], StepGraph], tables: tuple[int, ...], wanted: tuple[bool, ...] | None
) -> Plan | TraceError:
    """The plan of a step, made on first use; or why there is none.

    Args:
        step: as for ``scan``.
        arguments: a hashable key of what its graph depends on beside the step.
        trace: gives the graph.
        tables: as for ``program.plan``.
        wanted: as for ``program.plan``.
    """
    how = tables, wanted, _without.get()

    def key() -> Any:
        try:
            return identity_of(step), arguments, how
        except TypeError:  # only its graph distinguishes it from other steps
            return None

    found = _kept(key())
    if found is not None:
        return found
    try:
        graph = trace()
        by_graph = _digest(graph.graph), form_of((graph.carried, graph.ys)), arguments, how
        found = _kept(by_graph)
        if found is None:
            found = _made(graph, tables, wanted)
            _keep(by_graph, found)
    except TraceError as error:
        found = remembered(error)
    _keep(key(), found)  # the key after tracing, since a step may change what it reads
    return found


def plan_of(step: StepGraph, *, backend: str) -> Program:
    """The plan of a step with gradients of its parameters, as in training.

    Args:
        step: its graph.
        backend: the backend that must be able to run it.

    Raises:
        TraceError: it cannot be planned, or the backend lacks a kernel.
    """
    wanted = [i < step.params for i in range(len(step.graph.inputs))]
    program = plan(step, wanted=wanted)
    make_executor(program, backend)
    return program


def _made(step: StepGraph, tables: tuple[int, ...], wanted: tuple[bool, ...] | None) -> Plan | TraceError:
    try:
        program = plan(step, tables=tables, wanted=wanted, without=_without.get())
    except TraceError as error:
        return remembered(error)
    return Plan(program, step.carried, step.ys)


def _kept(key: Any) -> Plan | TraceError | None:
    """The plan stored under a key; None if there is none."""
    with suppress(KeyError):  # another thread may have removed it
        _plans.move_to_end(key)
        return _plans[key]
    return None


def _keep(key: Any, found: Plan | TraceError) -> None:
    if key is None:
        return
    _plans[key] = found
    release(but=LIVELY)  # a step redefined repeatedly, as in a notebook, has many
    if len(_plans) > _KEPT:
        with suppress(KeyError):
            _plans.popitem(last=False)


def _digest(graph: Graph) -> str:
    digest = hashlib.sha256(str(graph).encode())
    for array in graph.constants.values():
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
