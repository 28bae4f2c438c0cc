"""Describe a cell or a task: options, parameters, time loop, metrics."""

from __future__ import annotations

import functools
import html
import inspect
import shlex
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from minigrad import stepgraph, trees, value_and_grad
from minigrad.graph import TraceError
from minigrad.scan import chosen_backend, reference, use_backend
from minigrad.scan.planned import watched
from minigrad.scan.plans import plan_of
from minigrad.scan.program import describe
from minigrad.stepgraph import StepError, StepGraph
from minigrad.trees import Tree
from rnn_cells import Cell
from rnn_cells.anatomy import anatomy
from rnn_plugins import registry
from rnn_plugins.errors import UserError
from rnn_plugins.inspect.equations import equations
from rnn_plugins.options import ATTRIBUTES, Option, OptionValue, options_of
from rnn_plugins.tasks.task import Metric, Network, Task

Shape = tuple[int, ...]


@dataclass(frozen=True)
class TimeLoop:
    """How a cell's time loop runs.

    Attributes:
        backend: the backend if it is large enough, one of ``minigrad.scan.BACKENDS``.
        stages: the planned stages of a step, one line per stage; empty if it cannot be planned.
        reason: why it cannot be planned; empty if it can.
    """

    backend: str
    stages: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class CellDescription:
    """The description of a cell.

    Attributes:
        name: its name, as given.
        origin: the distribution and its version, or the file.
        text: the docstring: equations, paper, conventions; empty if there is none.
        equations: read from the graph of its step, a line each; none if it cannot be traced.
        options: the cell's own.
        input_size: I, for which the parameters are counted.
        hidden_size: H, likewise.
        parameters: the shape of each parameter by its path.
        count: the total number of scalars.
        carry: the shape of each part of the carry by its path, without the batch.
        learning_rate: the cell's suggestion; None if it has none.
        warmup: the suggested number of warm-up steps.
        time_loop: how its time loop runs.
    """

    name: str
    origin: str
    text: str
    equations: tuple[str, ...]
    options: tuple[Option, ...]
    input_size: int
    hidden_size: int
    parameters: dict[str, Shape]
    count: int
    carry: dict[str, Shape]
    learning_rate: float | None
    warmup: int
    time_loop: TimeLoop

    def __str__(self) -> str:
        """The equations, and the shapes of parameters and carry, for people."""
        lines = [f"{self.name}, from {self.origin}", "", *(f"    {line}" for line in self.equations), ""]
        lines += [f"{self.count:,} parameters with I = {self.input_size} and H = {self.hidden_size}:"]
        lines += [f"    {path} {shape}" for path, shape in self.parameters.items()]
        states = ", ".join(f"{path} {shape}".strip() for path, shape in self.carry.items())
        return "\n".join([*lines, f"carry of a sequence: {states or 'none'}"])

    def _repr_html_(self) -> str:
        """The same for a notebook."""
        return f'<pre style="font-family:monospace">{html.escape(str(self))}</pre>'


def describe_cell(spec: str, input_size: int, hidden_size: int, options: Mapping[str, OptionValue]) -> CellDescription:
    """Find a cell and describe it.

    Args:
        spec: a name or ``FILE.py:CLASS``, as ``registry.cell_class`` takes it.
        input_size: the width of an input.
        hidden_size: the width of the hidden state.
        options: the cell's own.

    Raises:
        UserError: there is no such cell, an option is invalid, or it cannot make its parameters.
    """
    cell = registry.make_cell(spec, input_size, hidden_size, options)
    cls = type(cell)
    params, carry = beginning(spec, cell)
    return CellDescription(
        name=spec,
        origin=_origin("cells", spec),
        text=docstring_of(cls),
        equations=_equations(cell, params, carry),
        options=tuple(registry.cell_options(cls)),
        input_size=input_size,
        hidden_size=hidden_size,
        parameters=_shapes(params),
        count=trees.count(params),
        carry={path: shape[1:] for path, shape in _shapes(carry).items()},
        learning_rate=cell.suggested_learning_rate,
        warmup=cell.suggested_warmup,
        time_loop=_time_loop(cell, params, carry),
    )


@dataclass(frozen=True)
class Loop:
    """A time loop of a task's network.

    Attributes:
        step: the name of the step's class or function, a cell's class where that is the whole step.
        time_loop: how it runs.
    """

    step: str
    time_loop: TimeLoop


@dataclass(frozen=True)
class TaskDescription:
    """The description of a task.

    Attributes:
        name: its name, as given.
        origin: the distribution and its version, or the file.
        text: its docstring.
        options: its fields.
        unit: the name of its units.
        metrics: its metrics, by name.
        best: the metric that chooses the best weights.
        compared: the metric by which runs are compared.
        default_files: the training data if the user names none.
        loops: the time loops of a training step, in order; empty if there are none, or no data.
        why_no_loops: why they are unknown; empty if they are known, or no data are given.
    """

    name: str
    origin: str
    text: str
    options: tuple[Option, ...]
    unit: str
    metrics: Mapping[str, Metric]
    best: str
    compared: str
    default_files: tuple[str, ...]
    loops: tuple[Loop, ...] = ()
    why_no_loops: str = ""


BATCH = 4
"""Sequences of the batch that shows how a task's loops run."""


def describe_task(
    spec: str,
    options: Mapping[str, OptionValue],
    files: Sequence[str] = (),
    cell: str = "gru",
    cell_options: Mapping[str, OptionValue] | None = None,
    hidden_size: int = 256,
) -> TaskDescription:
    """Find a task and describe it.

    Args:
        spec: a name or ``FILE.py:CLASS``.
        options: the task's own.
        files: data for a training step, whose time loops are described; by default the task's default files.
        cell: the recurrent part of its network, a name or ``FILE.py:CLASS``.
        cell_options: the cell's own.
        hidden_size: the units of its network.

    Raises:
        UserError: there is no such task or cell, an option is invalid, or ``files`` cannot be read.
    """
    task = registry.make_task(spec, options)
    make_cell = functools.partial(registry.make_cell, cell, hidden_size=hidden_size, options=cell_options or {})
    make_cell(1)  # an error in its name is the user's, whatever the files are
    loops: tuple[Loop, ...] = ()
    why = ""
    try:
        if data := files or task.default_files:
            loops = _loops(task, data, Network(make_cell, hidden_size))
    except UserError as error:
        if files:
            raise
        why = str(error)
    return TaskDescription(
        name=spec,
        origin=_origin("tasks", spec),
        text=docstring_of(type(task)),
        options=tuple(options_of(type(task))),
        unit=task.unit,
        metrics=task.metrics,
        best=task.best[0],
        compared=task.compared or task.best[0],
        default_files=task.default_files,
        loops=loops,
        why_no_loops=why,
    )


def _loops(task: Task[Any], files: Sequence[str], network: Network) -> tuple[Loop, ...]:
    """The time loops of a training step on files, equal ones once."""
    data = task.read(files)
    task, size, _ = task.fit(data, BATCH)
    model = task.model(data.facts, task.resolve(data.facts, network))
    rng = np.random.default_rng(0)
    with use_backend(chosen_backend()), watched() as calls:
        value_and_grad(model.loss, has_aux=True)(
            model.init_params(rng), model.init_carry(size), task.batch(data, 0, size), rng
        )
    stages = [() if call.program is None else tuple(describe(call.program)) for call in calls]
    found = [
        Loop(call.step, TimeLoop(call.backend, each, call.reason)) for call, each in zip(calls, stages, strict=True)
    ]
    return tuple(dict.fromkeys(found))


def _origin(group: str, spec: str) -> str:
    recorded = registry.provenance(group, spec)
    if "module" in recorded:
        return "this Python session" if recorded["module"] == "__main__" else f"the module {recorded['module']}"
    return recorded.get("file") or f"{recorded['distribution']} {recorded['version']}"


def step_graph(spec: str, input_size: int, hidden_size: int, options: Mapping[str, OptionValue]) -> str:
    """The operations of a cell's step, one per line; B is the number of sequences.

    Args:
        spec: as for ``describe_cell``, like the other arguments.
        input_size: the width of an input.
        hidden_size: the width of the hidden state.
        options: the cell's own.

    Raises:
        UserError: as in ``describe_cell``, or the step cannot be traced.
    """
    cell = registry.make_cell(spec, input_size, hidden_size, options)
    params, carry = beginning(spec, cell)
    try:
        return str(_graph(cell, params, carry).graph)
    except Exception as error:
        raise UserError(f"a step of the cell {spec!r} cannot be written as a graph: {reason_of(error)}") from error


def beginning(spec: str, cell: Cell, seed: int = 0) -> tuple[Tree, Tree]:
    """New parameters, and the first carry of one sequence."""
    try:
        return cell.init_params(np.random.default_rng(seed)), cell.init_carry(1)
    except Exception as error:
        raise UserError(
            f"the cell {spec!r} cannot make its parameters: {type(error).__name__}: {error}; "
            f"rnn cells check {shlex.quote(spec)} says more"
        ) from error


def _graph(cell: Cell, params: Tree, carry: Tree) -> StepGraph:
    x = np.zeros((1, cell.input_size), np.float32)
    try:
        return stepgraph.of(cell, params, carry, x)
    except StepError:
        reference.scan(cell, params, carry, x[None])  # raises the cell's own error, if there is one
        raise


def _equations(cell: Cell, params: Tree, carry: Tree) -> tuple[str, ...]:
    try:
        step = _graph(cell, params, carry)
    except Exception:  # a step that cannot be traced has its own checks
        return ()
    return tuple(f"{line.name} = {line.text}" for line in equations(step, anatomy(cell)))


def _time_loop(cell: Cell, params: Tree, carry: Tree) -> TimeLoop:
    backend = chosen_backend()
    try:
        program = plan_of(_graph(cell, params, carry), backend=backend)
    except Exception as error:
        return TimeLoop("reference", reason=reason_of(error))
    return TimeLoop(backend, tuple(describe(program)))


def reason_of(error: Exception) -> str:
    """Why a step cannot be traced or planned, with the line where that is known."""
    return error.located() if isinstance(error, TraceError) else f"it raises {type(error).__name__}: {error}"


def docstring_of(cls: type) -> str:
    """The docstring of a cell or task without its attributes; paragraphs of equations are indented."""
    written = (inspect.getdoc(cls) or "").partition(ATTRIBUTES)[0].strip()
    if written.startswith(f"{cls.__name__}("):  # the docstring of a dataclass defaults to its signature
        return ""
    # If only equations follow the first line, getdoc removes their indentation.
    blocks = written.split("\n\n")
    return "\n\n".join(
        textwrap.indent(block, "    ")
        if not block.startswith(" ") and all(" = " in line for line in block.splitlines())
        else block
        for block in blocks
    )


def _shapes(tree: Tree) -> dict[str, Shape]:
    return {path: np.shape(leaf) for path, leaf in trees.flatten(tree).items()}
