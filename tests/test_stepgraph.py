"""The graph of a step: traced once, for any batch size, labelled, and free of the numbers of its trials."""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from test_scan_planned import no_reference_loop

import minigrad
from minigrad import concat, no_grad, reads, stepgraph, tanh, trees
from minigrad.graph import Batch, Level, TraceError, evaluate
from minigrad.scan import Lookup, available_backends, planned, scan, use_backend
from minigrad.stepgraph import StepError, size_of
from minigrad.tensor import Tensor
from rnn_cells import Cell
from rnn_cells.anatomy import Tapped, anatomy
from rnn_cells.lstm import LSTM
from rnn_plugins.inspect.description import describe_cell
from rnn_plugins.inspect.operations import operations
from rnn_plugins.reports.matrices import recurrent_matrices
from rnn_plugins.tasks.task import Work

RNG = np.random.default_rng(0)
TRIAL = re.compile(r"(?<!\d)10\d\d(?!\d)")
"""The batch size of a trial."""

SCALE: Any = 0.5


def normal(*shape: int) -> Any:
    return RNG.standard_normal(shape)


def agrees_with_the_reference_loop(loss: Any, given: Any, backend: str, atol: float) -> None:
    """A loss and its gradients on a backend, without the reference loop, are those of the reference loop."""
    with use_backend("reference"):
        expected = minigrad.value_and_grad(loss)(given)
    with use_backend(backend), no_reference_loop():
        found = minigrad.value_and_grad(loss)(given)
    for got, right in zip(trees.leaves(found), trees.leaves(expected), strict=True):
        np.testing.assert_allclose(np.asarray(got), np.asarray(right), rtol=1e-9, atol=atol)


@dataclass(frozen=True)
class Scaled(Cell):
    """A cell that reads a global variable."""

    def init_params(self, rng: Any) -> Any:
        return self.dense(rng)

    def __call__(self, params: Any, h: Any, x: Any) -> Any:
        h = tanh(concat(h, x) @ params["W"] * SCALE + params["b"])
        return h, h


@pytest.fixture(autouse=True)
def _numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The numbers of a test do not depend on the tests before it."""
    monkeypatch.setitem(globals(), "RNG", np.random.default_rng(0))


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The batch sizes of all trials; nothing is known before."""
    sizes: list[int] = []
    trial = stepgraph._trial

    def spy(step: Any, given: Any, zeroed: Any, batch: int) -> Any:
        sizes.append(batch)
        return trial(step, given, zeroed, batch)

    monkeypatch.setattr(stepgraph, "_trial", spy)
    monkeypatch.setattr(stepgraph, "_known", {})
    reads._known.clear()
    return sizes


def of(step: Any, params: Any, carry: Any, x: Any, *more: Any) -> stepgraph.StepGraph:
    return stepgraph.of(step, params, carry, x, *more)


# --- traced once ------------------------------------------------------------------------------------------------------


def test_a_step_is_traced_once_for_all_that_read_its_graph(trials):
    cell = Scaled(3, 4)
    params, carry = cell.init_params(np.random.default_rng(0)), cell.init_carry(2)
    graph = of(cell, params, carry, np.ones((2, 3), np.float32))
    assert len(trials) == 2
    assert of(Scaled(3, 4), params, cell.init_carry(7), np.ones((7, 3), np.float32)) is graph
    anatomy(cell)
    operations(Work(cell, params, cell.init_carry(1), np.ones((1, 3), np.float32)))
    Tapped(cell, shown=(1,))(params, carry, np.ones((2, 3), np.float32))
    xs = np.ones((5, 2, 3), np.float32)
    for backend in available_backends():
        with use_backend(backend):
            scan(cell, params, carry, xs)
            minigrad.grad(lambda p: scan(cell, p, carry, xs)[1].sum())(params)
            planned.stepper(cell, params, carry, np.ones((6, 3), np.float32))
    assert len(trials) == 2
    assert recurrent_matrices(cell, params)[0].name == "W[0:4]"  # in float64
    assert len(trials) == 4


def test_a_step_without_an_identity_is_not_kept_at_any_time(monkeypatch):
    """Not even for a moment, at which another thread, or a call after an interruption, would take it for its own."""

    class Known(dict[Any, Any]):
        def __setitem__(self, key: Any, graph: Any) -> None:
            raise AssertionError(key)

    monkeypatch.setattr(stepgraph, "_known", Known())
    of(lambda p, h, x: (tanh(h + x), h), {}, np.ones((2, 3)), np.ones((2, 3)))


def test_a_description_traces_a_cell_once(trials):
    describe_cell("lstm", 3, 5, {})
    assert len(trials) == 2


def test_other_shapes_dtypes_trees_and_masks_are_other_graphs(trials):
    cell = Scaled(3, 4)
    params, carry, x = cell.init_params(np.random.default_rng(0)), cell.init_carry(2), np.ones((2, 3), np.float32)
    given = [(params, carry, x), trees.cast((params, carry, x), np.float64), (dict(reversed(params.items())), carry, x)]
    graphs = [of(cell, *some) for some in given] + [of(Scaled(3, 4), *given[0])]
    masked = stepgraph.of(cell, params, carry, x, zeroed=[True])
    assert len({id(graph) for graph in (*graphs, masked)}) == 4
    assert len(trials) == 8
    assert [str(graph.graph.inputs[0]) for graph in graphs[:3]] == ["float32[7, 4]", "float64[7, 4]", "float32[4]"]
    assert graphs[3] is graphs[0]


def test_a_changed_global_is_traced_anew(trials, monkeypatch):
    cell = Scaled(3, 4)
    params, carry, x = cell.init_params(np.random.default_rng(0)), cell.init_carry(2), np.ones((2, 3), np.float32)
    before = of(cell, params, carry, x)
    monkeypatch.setitem(globals(), "SCALE", 2.0)
    after = of(cell, params, carry, x)
    assert len(trials) == 4
    assert str(after.graph) == str(before.graph).replace("multiply(%1, 0.5)", "multiply(%1, 2.0)") != str(before.graph)


def test_a_step_without_a_safe_identity_is_traced_at_every_call(trials):
    for _ in range(3):
        of(lambda p, h, x: (tanh(h + x), h), {}, normal(2, 4), normal(2, 4))
    assert len(trials) == 6


def test_an_error_is_remembered_with_its_line_and_without_its_frames(trials):
    @dataclass(frozen=True)
    class Deciding(Cell):
        def __call__(self, params, h, x):
            h = tanh(h + x)
            return (h, h) if h[0, 0] > 0 else (x, x)

    for _ in range(2):
        with pytest.raises(TraceError) as caught:
            of(Deciding(4, 4), {}, normal(2, 4), normal(2, 4))
        line = Deciding.__call__.__code__.co_firstlineno + 2
        assert caught.value.located() == (
            f"in line {line} of test_stepgraph.py it decides by the value of a tensor "
            "(if, while, bool, float, int or item)"
        )
    assert len(trials) == 1


def test_a_graph_without_gradients_does_not_stand_for_one_with_them(trials):
    @dataclass(frozen=True)
    class Detached(Cell):
        def __call__(self, params, h, x):
            with no_grad():
                h = tanh(h)
            return h + x, h

    given = Detached(4, 4), {}, normal(2, 4), normal(2, 4)
    with no_grad():
        graph = of(*given)
        assert of(*given) is graph
    with pytest.raises(TraceError, match="it computes within no_grad"):
        of(*given)
    with no_grad():
        assert of(*given) is graph
    assert len(trials) == 3
    plain = Scaled(4, 4)
    params, carry = plain.init_params(np.random.default_rng(0)), plain.init_carry(1)
    graph = of(plain, params, carry, carry)
    with no_grad():
        assert of(plain, params, carry, carry) is graph


# --- the symbol for the batch -----------------------------------------------------------------------------------------


def heads(params: Any, h: Any, x: Any) -> Any:
    """Heads, merged with the batch and taken apart again."""
    batch = h.shape[0]
    parts = h.reshape(batch * 2, 2) @ params["V"]
    h = tanh(parts.reshape(batch, 4) + x)
    return h, h


SIZES: dict[str, Any] = {
    "heads": heads,
    "from the front": lambda p, h, x: (tanh(h[: len(h)] + x[-len(x) :]), h),
    "rows of zeros": lambda p, h, x: (tanh(concat(h[:, :2], np.zeros((len(h), 2))) + x), h),
    "a row for all": lambda p, h, x: (tanh(h + x + np.tile(np.arange(4.0), (h.shape[0], 1))), h),
    "a row for all, below": lambda p, h, x: (h + x, concat(np.tile([1.0, 2.0], (x.shape[0], 1)), x)),
    "ones carried on": lambda p, h, x: (np.ones(h.shape), h + x),
    "broadcast": lambda p, h, x: (tanh(minigrad.broadcast_to(p["b"], h.shape) + h + x), h),
    "a size from NumPy": lambda p, h, x: (tanh(h.reshape(np.prod(h.shape[:1]), 4) + x), h),
    "a mean": lambda p, h, x: (tanh(h - h.mean(axis=1, keepdims=True) + x), h),
    "einsum": lambda p, h, x: (tanh(minigrad.einsum("bi,bj->bij", h, x).sum(axis=2)), h),
}


@pytest.mark.parametrize("name", SIZES)
def test_a_graph_computes_what_the_step_does_for_any_batch(name):
    step, params = SIZES[name], {"V": normal(2, 2), "b": normal(4)}
    found = of(step, params, normal(3, 4), normal(3, 4))
    assert not TRIAL.search(str(found.graph))
    for batch in (1, 2, 5):
        carry, x = normal(batch, 4), normal(batch, 4)
        outputs = evaluate(found.graph, trees.leaves((params, carry, x)))
        for got, expected in zip(outputs, trees.leaves(step(params, carry, x)), strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-12, strict=True)


@pytest.mark.parametrize("backend", available_backends())
@pytest.mark.parametrize("name", SIZES)
def test_a_step_that_names_the_size_of_the_batch_is_planned(name, backend):
    given = {"V": normal(2, 2), "b": normal(4)}, normal(3, 4), normal(5, 3, 4)

    def loss(given: Any) -> Any:
        last, ys = scan(SIZES[name], *given)
        return (ys * ys).sum() + (last * 0.3).sum()

    agrees_with_the_reference_loop(loss, given, backend, 1e-12)


@pytest.mark.parametrize("width", [1009, 1013, 2018])
def test_a_size_of_the_step_is_not_taken_for_the_batch(width):
    """Neither one of its arrays nor one that it makes."""
    for step in (lambda p, h, x: (tanh(h + x), x), lambda p, h, x: (h, (h + x) @ np.ones((3, width)))):
        size = width if step(None, np.ones((1, 3)), np.ones((1, 3)))[1].shape == (1, 3) else 3
        found = of(step, {}, normal(2, size), normal(2, size))
        assert str(found.graph.ops[-1].output) == f"float64[B, {width}]"
        assert str(found.graph.ops[0].output) == f"float64[B, {size}]"


@pytest.mark.parametrize("backend", available_backends())
@pytest.mark.parametrize("width", [500, 1009, 2018])
def test_a_size_that_the_planner_makes_is_not_taken_for_the_batch(width, backend):
    """Two products are merged into one of 1009 columns, or multiplied by a constant that has so many."""
    params = {"W": normal(3, 500), "V": normal(3, 509), "U": normal(3, 3)}
    constant = normal(3, width)

    def step(p: Any, h: Any, x: Any) -> Any:
        a, b, c = tanh(h @ p["W"]), tanh(h @ p["V"]), tanh((h + x) @ constant)
        return tanh(a[:, :3] + b[:, :3] * c[:, -3:] + x @ p["U"]), (a, b, c.reshape(-1, width, 1).sum(axis=2))

    def loss(given: Any) -> Any:
        return sum((y * y).sum() for y in scan(step, *given)[1])

    given = params, normal(2, 3), normal(4, 2, 3)
    agrees_with_the_reference_loop(loss, given, backend, 1e-9)


def test_numbers_in_an_array_of_indices_are_no_sizes():
    indices = np.arange(1000, 1100)
    found = of(lambda p, h, x: (h + x, np.take(h, indices, axis=1)), {}, normal(2, 1200), normal(2, 1200))
    assert str(found.graph.outputs[1]) == "float64[B, 100]"


def test_a_step_with_every_size_of_a_trial_is_refused():
    x = [normal(2, size) for size in stepgraph._UNLIKELY[1:]]
    with pytest.raises(TraceError) as caught:
        of(lambda p, h, x: (h, x), {}, normal(2, 4), x)
    assert str(caught.value) == "its sizes leave no other number of sequences for a trial"


ARRAYS = normal(4), normal(4)

DEPENDS: dict[str, Any] = {
    "one of two arrays": lambda p, h, x: ((h + ARRAYS[0] + x) * ARRAYS[len(h) > 1010], h),
    "divided by it": lambda p, h, x: (h / len(h) + x, h),
    "a number for each": lambda p, h, x: (h + np.arange(len(h))[:, None] + x, h),
    "another one each": lambda p, h, x: (h + np.eye(len(h), 4) + x, h),
    "more operations": lambda p, h, x: (sum(h[i % 2 : i % 2 + 1] for i in range(len(h))) + x, h),
    "plus one": lambda p, h, x: (h, minigrad.reshape(x, (-1, 2))[: len(x) + 1][:-1]),
}


@pytest.mark.parametrize("name", DEPENDS)
def test_what_depends_on_the_size_of_the_batch_is_refused(name):
    with pytest.raises(TraceError) as caught:
        of(DEPENDS[name], {}, normal(2, 4), normal(2, 4))
    assert str(caught.value) == "its operations depend on the size of the batch"
    assert caught.value.origin is not None


def test_no_message_has_the_size_of_a_trial():
    def fails(params: Any, h: Any, x: Any) -> Any:
        if len(h) > 100:
            raise ValueError(f"too many: {h.shape}, not {len(h)}.")
        return h, x

    with pytest.raises(StepError) as caught:
        of(fails, {}, normal(2, 4), normal(2, 4))
    assert str(caught.value) == (
        "it fails in a trial with another number of sequences, B: ValueError: too many: (B, 4), not B."
    )
    with pytest.raises(StepError) as caught:
        of(lambda p, h, x: (h[:2], x), {}, normal(2, 4), normal(2, 4))
    assert str(caught.value) == (
        "in a trial with another number of sequences, it gives no pair of a carry like the one it got, and an output"
    )
    with pytest.raises(TraceError) as caught:
        of(lambda p, h, x: (h, x), {}, normal(2, 4), np.ones(()))
    assert str(caught.value) == "its carry, context and input do not start with one batch axis"


@pytest.mark.parametrize("backend", available_backends())
def test_the_size_of_a_trial_is_in_no_code(backend, monkeypatch):
    from minigrad.compiled import jit
    from minigrad.scan import plans

    texts: list[str] = []
    compile_ir = jit.compile_ir
    monkeypatch.setattr(jit, "compile_ir", lambda text: texts.append(text) or compile_ir(text))
    monkeypatch.setattr(plans, "_plans", type(plans._plans)())
    cell = LSTM(3, 5)
    params = cell.init_params(np.random.default_rng(0))
    xs = Lookup(np.ones((6, 3), np.float32), np.zeros((4, 2), int))
    with use_backend(backend):
        minigrad.grad(lambda p: scan(cell, p, cell.init_carry(2), xs)[1].sum())(params)
        planned.stepper(cell, params, cell.init_carry(2), xs.table)
    programs = [found.program for found in plans._plans.values() if not isinstance(found, TraceError)]
    assert programs
    assert bool(texts) == (backend == "compiled")
    for program in programs:
        for stage in program.stages:
            for body in (stage.forward, stage.backward):
                for op in [] if body is None else [*body.ops, *body.prologue.ops]:
                    options = repr(dict(op.options))
                    assert not TRIAL.search(options), options
    numbers = {int(n) for text in texts for n in re.findall(r"\bi64 (\d+)\b", text)}
    assert not numbers & set(stepgraph._UNLIKELY)


# --- labels and levels ------------------------------------------------------------------------------------------------


def attention(params: Any, carry: Any, x: Any, context: Any) -> Any:
    query = carry["h"] @ params["query"]
    weights = minigrad.einsum("bh,bsh->bs", query, context["outputs"])
    h = tanh(minigrad.einsum("bs,bsh->bh", weights, context["outputs"]) + x[0] + carry["h"])
    return {"n": carry["n"] + 1, "h": h}, (h, weights)


def test_inputs_are_labelled_and_have_levels():
    params = {"query": normal(4, 4)}
    carry, x = {"h": normal(2, 4), "n": np.zeros(2, int)}, [normal(2, 4)]
    found = stepgraph.of(attention, params, carry, x, {"outputs": normal(2, 7, 4)}, zeroed=[True])
    assert [found.graph.names[value] for value in found.graph.inputs] == [
        "params.query", "carry.h", "carry.n", "context.outputs", "x.0", "live",
    ]  # fmt: skip
    assert (found.params, found.carry, found.context) == (1, 2, 1)
    assert list(found.levels) == found.graph.inputs
    assert list(found.levels.values()) == [
        Level.FIXED, Level.STATE, Level.STATE, Level.CONTEXT, Level.INPUT, Level.INPUT,
    ]  # fmt: skip
    assert found.carried == {"n": 1, "h": 0}
    assert found.ys == (0, 0)
    assert [str(value) for value in found.graph.outputs] == [
        "float64[B, 4]",
        "int64[B]",
        "float64[B, 4]",
        "float64[B, 7]",
    ]
    assert [size_of(value) for value in found.graph.outputs] == [4, 1, 4, 7]


def test_no_array_and_no_tensor_is_kept():
    found = of(lambda p, h, x: (h + x * p["b"], h), {"b": Tensor(normal(4))}, normal(2, 4), normal(2, 4))
    assert all(not isinstance(leaf, np.ndarray | Tensor) for leaf in trees.leaves((found.carried, found.ys)))
    assert found.graph.constants == {}
    assert isinstance(found.graph.inputs[1].shape[0], Batch)
