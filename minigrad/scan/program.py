"""The planner: divide a step into stages, each with its operations forwards and backwards.

A stage works row by row, a row being one sequence at one step, so that a backend may divide rows into any blocks and
shards. The planner decides what runs before, in and after the loop; the backends decide how.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.lib.array_utils import normalize_axis_tuple

from minigrad.graph import (
    Batch,
    Graph,
    Level,
    Op,
    Operand,
    TraceError,
    Value,
    classify,
    differentiate,
    prune,
    row_size,
)
from minigrad.scan.passes import clean, depends_on, join_rows, lower, merge, regroup, split
from minigrad.scan.rowwise import rowwise
from minigrad.stepgraph import StepGraph

MAPS = frozenset(
    {
        "add", "subtract", "multiply", "divide", "negative", "sqrt", "abs", "exp", "expm1", "log", "log1p",
        "sin", "cos", "tanh", "sigmoid", "softplus", "relu", "maximum", "minimum", "power", "where", "clip",
        "alias", "greater", "greater_equal", "less", "less_equal", "equal", "not_equal", "sign", "logical_and",
        "logical_or", "logical_not", "floor", "ceil", "rint", "isnan", "isfinite", "broadcast_to", "place", "astype",
    }
)  # fmt: skip
"""Operations that backends execute element by element."""

CHEAP = frozenset(
    {
        "add", "subtract", "multiply", "where", "clip", "alias", "greater", "greater_equal", "less",
        "less_equal", "equal", "not_equal", "sign", "abs", "relu", "maximum", "minimum", "logical_and",
        "logical_or", "logical_not", "getitem", "reshape", "transpose", "broadcast_to", "concatenate",
    }
)  # fmt: skip
"""Operations that the backward pass repeats instead of reading their results from memory."""

VIEWS = frozenset({"getitem", "reshape", "transpose"})
"""Operations whose results are, as a rule, parts of their operands' memory, and are not kept beside those."""


@dataclass(frozen=True, eq=False)
class Sum:
    """A sum over all rows of all steps: a parameter's gradient, or a part of one.

    Attributes:
        left: for a product, the value (rows, ..., m); None for a plain sum.
        right: for a product, the value (rows, ..., n): the result (m, n) is the sum over all axes but the last of the
            product of an element of ``left`` and one of ``right``. For a plain sum, the value that is summed.
        op: the operation; the result of a plain sum is this operation's options applied to an array with one row, the
            sum over all rows.
    """

    left: Value | None
    right: Value
    op: Op


@dataclass(eq=False)
class Body:
    """The operations on a row in one direction.

    Attributes:
        prologue: from the stage's fixed inputs to the fixed values that ``ops`` use; runs once.
        ops: on rows, in order.
        sums: the sums over rows.
        epilogue: from the sums, and fixed values that it needs, to the cotangents of the stage's fixed inputs that
            exist (see ``Stage.d_fixed``); runs once. The fixed values are the last outputs of ``prologue``.
        keeps: values of the forward body that the backward one reads.
    """

    prologue: Graph
    ops: list[Op]
    sums: list[Sum] = field(default_factory=list)
    epilogue: Graph | None = None
    keeps: list[Value] = field(default_factory=list)


@dataclass(eq=False)
class Stage:
    """A part of the step that runs over all rows (or, with a carry, step by step) before the next part starts.

    Attributes:
        name: ``table`` (once for each row of a table that inputs are looked up in), ``context`` (once for each
            sequence), ``input`` (before the loop), ``loop`` or ``output`` (after it).
        fixed: values equal for all rows.
        rows: values with a row per row.
        carry: the incoming carry.
        carried: the outgoing carry.
        outputs: values that later stages or the caller read.
        forward: the forward body.
        backward: the backward body; None if no gradient is wanted.
        d_outputs: the cotangents of ``outputs``, which the backward body reads; None for a non-float.
        d_carried: likewise of ``carried``.
        d_rows: the cotangents of ``rows``, which the backward body computes; None if not wanted.
        d_carry: likewise of ``carry``.
        d_fixed: whether the epilogue computes a cotangent, for each of ``fixed``.
        by_step: whether it runs step by step over the rows of the batch: the loop, and a stage that reads a value with
            one row per sequence.
    """

    name: str
    fixed: list[Value]
    rows: list[Value]
    carry: list[Value]
    carried: list[Value]
    outputs: list[Value]
    forward: Body
    backward: Body | None = None
    d_outputs: list[Value | None] = field(default_factory=list)
    d_carried: list[Value | None] = field(default_factory=list)
    d_rows: list[Operand | None] = field(default_factory=list)
    d_carry: list[Operand | None] = field(default_factory=list)
    d_fixed: list[bool] = field(default_factory=list)
    by_step: bool = False


@dataclass(eq=False)
class Program:
    """A planned step.

    Attributes:
        graph: the whole step after all passes.
        params: its fixed inputs.
        fixed: values computed from them that stages read.
        prologue: from ``params`` to ``fixed``.
        d_prologue: from ``params`` and the cotangents of ``fixed`` to those of ``params``.
        carry: the incoming carry.
        xs: the step's inputs.
        stages: in order.
        carried: the outgoing carry.
        ys: the step's outputs.
        without: passes that were left out.
        tables: those of ``xs`` that are looked up in a table.
        context: the inputs that are the same at every step of a sequence.
        per_sequence: values with one row per sequence, not per sequence and step: these inputs, and results of the
            stage ``context``. In other stages, the cotangent of such a value is one per step, to be added up.
    """

    graph: Graph
    params: list[Value]
    fixed: list[Value]
    prologue: Graph
    d_prologue: Graph | None
    carry: list[Value]
    xs: list[Value]
    stages: list[Stage]
    carried: list[Value]
    ys: list[Value]
    without: frozenset[str] = frozenset()
    tables: Sequence[Value] = ()
    context: Sequence[Value] = ()
    per_sequence: frozenset[Value] = frozenset()

    def sources(self) -> dict[Value, Value]:
        """For each value with a row per row of a table, the input that is looked up there."""
        found = {x: x for x in self.tables}
        for stage in self.stages:
            if stage.name == "table":
                (source,) = {found[x] for x in stage.rows}
                found |= dict.fromkeys(stage.outputs, source)
        return found


PASSES = ("split", "hoist", "merge", "fuse", "plan")
"""Passes that can be left out to measure their effect; the last two belong to the compiled backend."""


def plan(
    step: StepGraph,
    *,
    tables: Iterable[int] = (),
    wanted: Sequence[bool] | None = None,
    without: Iterable[str] = (),
) -> Program:
    """Plan a step.

    Args:
        step: its graph.
        tables: the indices, among the step's inputs (the leaves of x), of those that are rows of a table.
        wanted: for each input of the graph, whether its gradient is wanted; None if no gradient is.
        without: passes to leave out.

    Raises:
        TraceError: an operation cannot be planned; the message names it.
    """
    without = frozenset(without)
    params, carry, levels = step.params, step.carry, step.levels
    graph = clean(rowwise(clean(step.graph)))
    _refuse_empty_rows(graph)
    if "split" not in without:
        graph = split(graph, levels)
    if "hoist" not in without:
        graph = regroup(graph, levels)
    if "merge" not in without:
        graph = clean(merge(graph, levels, carry))
    graph = _own_outputs(graph, carry, levels)
    inputs = graph.inputs
    carries, contexts, xs = (
        [x for x in inputs if levels[x] == level] for level in (Level.STATE, Level.CONTEXT, Level.INPUT)
    )
    level = classify(graph, levels)
    carried = [_rows(x, "carry", level) for x in graph.outputs[:carry]]
    ys = [_rows(x, "output", level) for x in graph.outputs[carry:]]

    table_values = [xs[i] for i in tables]
    stage_of = _stage_names(graph, level, table_values, carried, ys, hoist="hoist" not in without)
    fixed_ops = [op for op in graph.ops if level[op.output] == Level.FIXED]
    row_ops = [op for op in graph.ops if level[op.output] != Level.FIXED]
    fixed = list(dict.fromkeys(x for op in row_ops for x in op.values if level[x] == Level.FIXED))
    prologue = prune(Graph(inputs[:params], list(fixed), fixed_ops, graph.constants, graph.names))
    active: set[Value] | None = None
    if wanted is not None:
        active = {value for value, want in zip(inputs, wanted, strict=True) if want}
        # A recurrent value depends on everything that the carry depends on.
        active.update(value for value in carries if value.dtype.kind == "f")
        for op in graph.ops:
            if op.output.dtype.kind == "f" and any(x in active for x in op.values):
                active.add(op.output)

    stages = []
    order = [*(f"table{i}" for i in range(len(table_values))), "context", "input", "loop", "output"]
    per_sequence = set(contexts)
    by_stage = {name: _ops_of(name, row_ops, stage_of) for name in order}
    read = {name: {x for op in ops for x in op.values} - {op.output for op in ops} for name, ops in by_stage.items()}
    for name, ops in by_stage.items():
        loop = name == "loop" and carry > 0
        if not ops and not loop:
            continue
        asked = set(ys).union(*(read[other] for other in order if other != name))
        own = [*(carries if loop else []), *(op.output for op in ops)]
        outputs = [value for value in own if value in asked]
        stage = _stage(
            name.rstrip("0123456789"),
            ops,
            fixed,
            carries if loop else [],
            carried if loop else [],
            outputs,
            active,
            graph,
        )
        if name == "context":
            per_sequence.update(outputs)
        else:
            stage.by_step = loop or any(x in per_sequence for x in stage.rows)
        stages.append(stage)
    d_prologue = None
    if wanted is not None:
        whole = Graph(prologue.inputs, list(fixed), prologue.ops, prologue.constants, prologue.names)
        d_prologue = join_rows(clean(_backward_only(differentiate(whole, inputs[:params]), len(fixed))))
    return Program(
        graph,
        inputs[:params],
        fixed,
        prologue,
        d_prologue,
        carries,
        xs,
        stages,
        carried,
        ys,
        without,
        table_values,
        contexts,
        frozenset(per_sequence),
    )


def _stage_names(
    graph: Graph,
    level: Mapping[Value, Level],
    tables: Sequence[Value],
    carried: Sequence[Value],
    ys: Sequence[Value],
    *,
    hoist: bool,
) -> dict[Value, str]:
    """The stage of each operation on rows, by its result; ``table0`` and so on for the tables."""
    in_loop = depends_on(graph, [*carried, *_readings(graph, level)]) if carried else set()
    names = dict.fromkeys(graph.inputs, "given") | {x: f"table{i}" for i, x in enumerate(tables)}
    for op in graph.ops:
        value = op.output
        if level[value] == Level.FIXED:
            continue
        if value in carried:
            names[value] = "loop"
        elif level[value] == Level.STATE:
            names[value] = "loop" if value in in_loop else "output"
        elif not hoist and carried:
            names[value] = "loop"
        elif level[value] == Level.CONTEXT:
            names[value] = "input" if value in ys else "context"
        else:
            name, *others = {names[x] for x in op.values if level[x] != Level.FIXED}
            alone = name.startswith("table") and not others and value not in ys
            names[value] = name if alone else "input"
    return names


def _readings(graph: Graph, level: Mapping[Value, Level]) -> list[Value]:
    """Results that are much smaller than a state of several axes that they read, as what is recalled from a memory.

    In the loop the state is in the cache; after the loop the states of all steps would be read again.
    """
    found: dict[Value, None] = {}  # in order
    for op in graph.ops:
        states = [x for x in op.values if x.ndim > 2 and level[x] == Level.STATE]
        is_view = op.name in VIEWS and op.values[0] in found
        if is_view or any(row_size(x) >= 4 * row_size(op.output) for x in states):
            found[op.output] = None
    return list(found)


def _ops_of(stage: str, ops: Sequence[Op], stage_of: Mapping[Value, str]) -> list[Op]:
    """The operations of a stage. Each stage has its own views of the context, which are cheaper than copies."""
    views = {op.output: op for op in ops if op.name in VIEWS and stage_of[op.output] == "context"}
    own = [op for op in ops if stage_of[op.output] == stage and op.output not in views]
    members = {op.output for op in own}
    todo = [x for op in own for x in op.values if x in views]
    while todo:
        x = todo.pop()
        if x not in members:
            members.add(x)
            todo += [y for y in views[x].values if y in views]
    return [op for op in ops if op.output in members]


def _refuse_empty_rows(graph: Graph) -> None:
    """Raise a ``TraceError`` if rows have no elements, since kernels have at least one."""
    for x in itertools.chain(graph.outputs, *((*op.values, op.output) for op in graph.ops)):
        if isinstance(x, Value) and 0 in x.shape and isinstance(x.shape[0], Batch):
            raise TraceError(f"it computes with {x!r}, which has no elements", x.origin)


def _own_outputs(graph: Graph, carry: int, levels: Mapping[Value, Level]) -> Graph:
    """The graph with copies of outputs that are inputs or of the context, and of carries known before the loop."""
    seen: set[Value] = set(graph.inputs)
    level = classify(graph, levels)
    ops, outputs = list(graph.ops), list(graph.outputs)
    for i, x in enumerate(outputs):
        early = isinstance(x, Value) and (level[x] == Level.CONTEXT or (i < carry and level[x] == Level.INPUT))
        if isinstance(x, Value) and ((x in seen and (i < carry or x in graph.inputs)) or early):
            outputs[i] = copy = Value(x.shape, x.dtype)
            ops.append(Op("alias", (x,), {}, copy))
        elif isinstance(x, Value) and i < carry:
            seen.add(x)
    return Graph(graph.inputs, outputs, ops, graph.constants, graph.names)


def _rows(x: Operand, what: str, level: Mapping[Value, Level]) -> Value:
    if not isinstance(x, Value) or level[x] == Level.FIXED:
        raise TraceError(f"its {what} depends on no input", x.origin if isinstance(x, Value) else None)
    return x


def _backward_only(joint: Graph, outputs: int) -> Graph:
    return Graph(joint.inputs, joint.outputs[outputs:], joint.ops, joint.constants, joint.names)


def _stage(
    name: str,
    ops: list[Op],
    all_fixed: list[Value],
    carry: list[Value],
    carried: list[Value],
    outputs: list[Value],
    active: set[Value] | None,
    whole: Graph,
) -> Stage:
    made = {op.output for op in ops}
    read = list(dict.fromkeys(x for op in ops for x in op.values if x not in made))
    fixed = [x for x in all_fixed if x in read]
    rows = [x for x in read if x not in fixed and x not in carry]
    constants = {x: whole.constants[x] for x in rows if x in whole.constants}
    graph = Graph([*fixed, *carry, *rows], [*carried, *outputs], ops, constants, whole.names)
    stage = Stage(name, fixed, rows, carry, carried, outputs, Body(Graph([], []), []))
    results = [*carried, *outputs]
    level = dict.fromkeys(fixed, "fixed") | dict.fromkeys((*carry, *rows), "rows")
    if active is None:
        joint = lower(graph)
        gradient: list[Operand] = []
        wrt: list[Value] = []
    else:
        wrt = [x for x in (*fixed, *carry, *rows) if x in active]
        raw = differentiate(graph, wrt)
        cotangents = iter(raw.inputs[len(graph.inputs) :])
        seeds = [next(cotangents) if x.dtype.kind == "f" else None for x in results]
        stage.d_carried, stage.d_outputs = seeds[: len(carried)], seeds[len(carried) :]
        level |= {x: "rows" for x in seeds if x is not None}
        joint = lower(raw)
        gradient = joint.outputs[len(results) :]
    for i, (known, found) in enumerate(zip(results, joint.outputs, strict=False)):
        if found is not known:  # other stages refer to the original value
            joint.ops.append(Op("alias", (found,), {}, known))
            joint.outputs[i] = known
    kinds, needed_forward = _kinds(joint, level), depends_on(joint, results)
    forward = [op for op in joint.ops if op.output in needed_forward and kinds[op.output] == "rows"]
    stage.forward = Body(_prologue(joint, kinds, forward, fixed), forward)
    if active is None:
        return stage

    by_input = dict(zip(wrt, gradient, strict=True))
    d_fixed = [by_input.get(x) for x in fixed]
    stage.d_fixed = [isinstance(d, Value) for d in d_fixed]
    stage.d_carry = [by_input.get(x) for x in carry]
    stage.d_rows = [by_input.get(x) for x in rows]
    asked = [d for d in (*stage.d_carry, *stage.d_rows, *d_fixed) if isinstance(d, Value)]
    in_backward = depends_on(joint, asked) - needed_forward
    backward = [op for op in joint.ops if op.output in in_backward and kinds[op.output] == "rows"]
    sums = [op for op in joint.ops if op.output in in_backward and kinds[op.output] == "sum"]
    after = [op for op in joint.ops if op.output in in_backward and kinds[op.output] == "summed"]
    epilogue_inputs = [op.output for op in sums] + [
        x for x in dict.fromkeys(v for op in after for v in op.values) if kinds[x] == "fixed"
    ]
    fixed_in_epilogue = [x for x in epilogue_inputs if kinds[x] == "fixed"]
    epilogue = Graph(epilogue_inputs, [d for d in d_fixed if isinstance(d, Value)], after, {}, {})

    # What is only reshaped or transposed in order to be a matrix over all rows.
    behind = {op.output: op.values[0] for op in joint.ops if kinds[op.output] in ("turned", "merged")}

    def rows_behind(x: Value) -> Value:
        while x in behind:
            x = behind[x]
        return x

    totals = [
        Sum(rows_behind(op.values[0]) if op.name == "matmul" else None, rows_behind(op.values[-1]), op) for op in sums
    ]
    operands = {x for total in totals for x in (total.left, total.right) if x is not None}
    reads = {x for op in backward for x in op.values} | operands
    kept, again = _kept_and_repeated(joint, kinds, {op.output for op in forward}, reads, operands, set(results))
    body = [op for op in joint.ops if op.output in again or (op.output in in_backward and kinds[op.output] == "rows")]
    stage.backward = Body(
        _prologue(joint, kinds, body, fixed, fixed_in_epilogue),
        body,
        totals,
        epilogue,
        [op.output for op in forward if op.output in kept],
    )
    return stage


def _kept_and_repeated(
    joint: Graph,
    kinds: Mapping[Value, str],
    forward: set[Value],
    reads: set[Value],
    operands: set[Value],
    results: set[Value],
) -> tuple[set[Value], set[Value]]:
    """The forward values that the backward pass reads, divided into those to keep and those to recompute.

    Cheap values with available operands are recomputed; operands of sums and results are in memory anyway.
    """
    makers = joint.makers()
    kept = {
        x
        for x in reads & forward
        if makers[x].name not in CHEAP or (x in operands and makers[x].name not in ("reshape", "transpose"))
    }
    again: set[Value] = set()

    def inputs(value: Value) -> list[Value]:
        return [x for x in makers[value].values if kinds[x] == "rows"]

    sure = set(results)  # available without keeping more

    def repeatable(value: Value) -> bool:
        todo, seen = [value], set()
        while todo:
            x = todo.pop()
            if x in seen or x in sure or x in kept or x not in forward:
                continue
            if makers[x].name not in CHEAP:
                return False
            seen.add(x)
            todo += inputs(x)
        sure.update(seen)
        return True

    def decide(value: Value) -> None:
        todo = [value]
        while todo:
            x = todo.pop()
            if x in kept or x in again or x not in forward:
                continue
            if x in results or not (makers[x].name in VIEWS or repeatable(x)):
                kept.add(x)
            else:
                again.add(x)
                todo += inputs(x)

    for op in joint.ops:
        if op.output in reads:
            decide(op.output)
    return kept, again


def _prologue(
    joint: Graph, kinds: Mapping[Value, str], ops: Iterable[Op], fixed: list[Value], more: Iterable[Value] = ()
) -> Graph:
    read = dict.fromkeys(x for op in ops for x in op.values if kinds[x] == "fixed")
    outputs: list[Operand] = [*read, *(x for x in more if x not in read)]
    before = [op for op in joint.ops if kinds[op.output] == "fixed"]
    return prune(Graph(fixed, outputs, before, joint.constants, joint.names))


def _kinds(joint: Graph, given: Mapping[Value, str]) -> dict[Value, str]:
    """Each value's kind.

    ``fixed``, ``rows``, ``merged`` (rows whose axes are merged with the batch), ``turned`` (one of those, transposed),
    ``sum`` (over rows) or ``summed`` (computed from sums).

    Raises:
        TraceError: an operation on rows cannot be executed row by row.
    """
    kinds = dict(given) | dict.fromkeys(joint.constants, "fixed")
    for op in joint.ops:
        of = {kinds[x] for x in op.values}
        if of <= {"fixed"}:
            kind = "rows" if any(isinstance(n, Batch) for n in op.output.shape) else "fixed"
        elif of & {"sum", "summed"}:
            kind = "summed"
            if of - {"sum", "summed", "fixed"}:
                raise TraceError(f"its {op.name} mixes rows with sums over the batch", op.output.origin)
        else:
            kind = _row_kind(op, kinds)
        kinds[op.output] = kind
    return kinds


def _row_kind(op: Op, kinds: Mapping[Value, str]) -> str:
    name, out, options = op.name, op.output.shape, op.options
    of = [kinds[x] for x in op.values]
    if name == "matmul":
        a, b = op.values
        if of[0] == "turned" and of[1] in ("rows", "merged") and a.ndim == b.ndim == 2:
            return "sum"
        if of == ["rows", "fixed"] and b.ndim == 2:
            return "rows"
        if of == ["rows", "rows"] and a.ndim == b.ndim > 2:
            return "rows"
    elif name == "transpose" and of[0] in ("rows", "merged"):
        axes = tuple(a % len(out) for a in options["axes"] or range(len(out))[::-1])
        if axes[0] == 0 and of[0] == "rows":
            return "rows"
        if axes == (1, 0):
            return "turned"
    elif "turned" in of or "merged" in of:
        pass
    elif name in ("sum", "max"):
        x = op.values[0]
        axis = options["axis"]
        if axis is not None and 0 not in normalize_axis_tuple(axis, x.ndim):
            return "rows"
        if name == "sum":
            return "sum"
    elif name == "reshape":
        if isinstance(out[0], Batch):
            return "rows" if out[0].times == 1 else "merged"
    elif name in ("getitem", "scatter", "cumsum", "pick", "concatenate"):
        if out[:1] == op.values[0].shape[:1] and set(of) == {"rows"}:
            return "rows"
    elif name in MAPS and all(_aligned(x, kinds[x], out, name) for x in op.values):
        return "rows"
    raise TraceError(f"its {name} of {' and '.join(map(repr, op.values))} does not work row by row", op.output.origin)


def _aligned(x: Value, kind: str, out: tuple[int, ...], name: str) -> bool:
    """Whether an operand of an elementwise operation has, for each row, that row's elements or fixed ones."""
    if name == "place":
        return kind == "rows" and x.ndim == len(out) - 1
    inner = out[1:]
    if kind == "rows":
        return x.ndim == len(out) and all(n in (1, m) for n, m in zip(x.shape[1:], inner, strict=True))
    return x.ndim <= len(inner) and all(n in (1, m) for n, m in zip(x.shape[::-1], inner[::-1], strict=False))


def multiplications(op: Op) -> int:
    """The number of multiplications of a product for one row."""
    return row_size(op.output) * op.values[0].shape[-1]


def describe(program: Program) -> list[str]:
    """The plan in words, one line per stage."""
    lines: list[str] = []
    for stage in program.stages:
        counts = _counts(stage.forward.ops)
        line = f"{stage.name}: {counts}"
        if stage.backward is not None:
            line += f"; backward {_counts(stage.backward.ops)}, {_count(stage.backward.sums, 'sum')} deferred"
            line += f", {_count(stage.backward.keeps, 'value')} kept"
        lines.append(line)
    return lines


def _counts(ops: Sequence[Op]) -> str:
    products = [op for op in ops if op.name == "matmul"]
    shapes = ", ".join(_factors(*op.values) for op in products)
    maps = sum(op.name in MAPS for op in ops)
    return f"{_count(products, 'product')}{f' ({shapes})' if shapes else ''}, {maps} elementwise"


def _factors(a: Value, b: Value) -> str:
    """The fixed matrix of a product; both parts of a row if neither is fixed."""
    inner = [x.shape[1:] for x in (a, b)] if isinstance(b.shape[0], Batch) else [b.shape]
    return " @ ".join("x".join(map(str, shape)) for shape in inner)


def _count(things: Collection[Any], name: str) -> str:
    return f"{len(things)} {name}{'s' * (len(things) != 1)}"
