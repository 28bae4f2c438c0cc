"""Kernels for rows, each generated for one body and run on memory with guards: nothing is written beyond a row.

What lies beyond a row of an operand is NaN, so that whatever is read there by mistake shows.
"""

from __future__ import annotations

import ctypes
import time
from typing import Any

import numpy as np
import pytest

from minigrad import concat, log_softmax, sigmoid, tanh, where
from minigrad.compiled import jit
from minigrad.compiled.rows import LONGEST, Body, module
from minigrad.compiled.slots import Fixed, Rows, Scratch, Slot, Total
from minigrad.graph import Graph, Op, TraceError, Value, evaluate, trace
from minigrad.primitives import pick, place, scatter
from minigrad.scan.passes import lower

pytestmark = pytest.mark.skipif(not jit.available(), reason="needs the extra jit")

WIDTHS = (1, 15, 16, 17, 31, 32, 33, 65)
ROWS = 5
GUARD = 19
"""Elements after each row that must stay as they are; odd, so that rows begin anywhere in a cache line."""

_RUN = ctypes.CFUNCTYPE(None, ctypes.c_void_p, *[ctypes.c_int64] * 5)
every_width = pytest.mark.parametrize("width", WIDTHS)
every_type = pytest.mark.parametrize("dtype", [np.float32, np.float64])


class Memory:
    """Rows of a slot, with guards between them."""

    def __init__(self, width: int, dtype: Any, rows: int = ROWS, values: Any = None) -> None:
        self.whole = np.full((rows, width + GUARD), np.nan, dtype)
        self.rows = self.whole[:, :width]
        self.rows[...] = np.nan if values is None else np.reshape(values, (rows, width))

    def untouched(self) -> bool:
        return bool(np.isnan(self.whole[:, self.rows.shape[1] :]).all())


def run(
    graph: Graph,
    arrays: list[Any],
    *,
    fixed: int = 0,
    sums: bool = False,
    block: int = 2,
    exclusive: bool = False,
) -> list[Any]:
    """Outputs of a graph, whose first ``fixed`` inputs are the same for all rows; with ``sums`` added up over rows."""
    floats = [np.asarray(x) for x in arrays if np.asarray(x).dtype.kind == "f"]
    dtype = floats[0].dtype
    body = Body("body", graph.ops, "float" if dtype == np.float32 else "double", jit.vector_width(dtype.name), False)
    memory: dict[Slot, Any] = {}
    for i, (value, array) in enumerate(zip(graph.inputs, arrays, strict=True)):
        if i < fixed:
            slot = body.fixed[value] = body.slot(Fixed, value, int(np.prod(value.shape)))
            memory[slot] = Memory(slot.size, dtype, 1, array)
        else:
            body.given[value] = body.place(Rows, value)
            slot = body.given[value].slot
            kind = np.int64 if value.dtype.kind in "iu" else dtype
            if kind == np.int64:
                memory[slot] = np.ascontiguousarray(array, np.int64).reshape(ROWS, -1)
            else:
                memory[slot] = Memory(slot.size, dtype, ROWS, array)
    outputs = [x for x in graph.outputs if isinstance(x, Value)]
    totals = []
    for x in outputs:
        if sums:
            totals.append(body.slot(Total, x))
            body.added.append((x, totals[-1]))
        elif exclusive:
            body.exclusive[x] = body.place(Rows, x)
        else:
            body.stored.append(x)
    code = body.generate()
    library = jit.compile_ir(module(code))
    words = [0]
    for slot in code.slots:
        if slot not in memory:
            count = {Total: 1, Scratch: block}.get(type(slot), ROWS)
            memory[slot] = Memory(slot.size, dtype, count)
            if isinstance(slot, Total):
                memory[slot].rows[...] = 0
        held = memory[slot]
        whole = held.whole if isinstance(held, Memory) else held
        words += [whole.ctypes.data, 0, whole.strides[0] // whole.itemsize]
    args = np.array(words, np.int64)
    _RUN(library.address("body_run"))(args.ctypes.data, 0, block, 0, 0, ROWS)
    for slot, held in memory.items():
        assert not isinstance(held, Memory) or held.untouched(), type(slot)
    if sums:
        return [memory[slot].rows[0] for slot in totals]
    found = []
    for x in outputs:
        where_it_is = body.exclusive[x] if exclusive else code.locations[x]
        found.append(where_it_is.view(memory[where_it_is.slot].rows, 1, x.shape[1:]))
    return found


def check(f: Any, *arrays: Any, fixed: int = 0, **options: Any) -> None:
    """The kernel of a function computes what NumPy does."""
    graph = lower(trace(f, *arrays)[0])
    expected = evaluate(graph, arrays)
    if options.get("sums"):
        expected = [np.reshape(x, (ROWS, -1)).sum(axis=0) for x in expected]
    single = any(np.asarray(x).dtype == np.float32 for x in arrays)
    bound = 1e-5 if single else 1e-12
    for actual, right in zip(run(graph, list(arrays), fixed=fixed, **options), expected, strict=True):
        np.testing.assert_allclose(actual, right, rtol=bound, atol=bound)


def normal(*shape: int, dtype: Any, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


# --- elementwise ------------------------------------------------------------------------------------------------------


@every_type
@every_width
def test_elementwise(width, dtype):
    x, y = normal(ROWS, width, dtype=dtype), normal(ROWS, width, dtype=dtype, seed=1)
    check(lambda x, y: (tanh(x) * y + 1, where(x > y, x, -y), (x > 0) & (y <= 0.5)), x, y)
    check(lambda x, y: tanh(x) * y + 1, x, y, exclusive=True)


@every_type
@every_width
@pytest.mark.parametrize("block", [1, 2, 5, 64])
def test_any_block_of_rows(block, width, dtype):
    x = normal(ROWS, width, dtype=dtype)
    check(lambda x: sigmoid(x) - x.sum(axis=1, keepdims=True), x, block=block)


@every_type
@every_width
def test_vectors_rows_and_numbers_that_are_the_same_for_all(width, dtype):
    x = normal(ROWS, width, dtype=dtype)
    for shape in ((width,), (1, width), (1,), (1, 1), ()):
        b = normal(*shape, dtype=dtype, seed=2)
        check(lambda b, x: (x * b, b - x), b, x, fixed=1)


@every_type
@every_width
def test_a_column_is_broadcast(width, dtype):
    x, column = normal(ROWS, width, dtype=dtype), normal(ROWS, 1, dtype=dtype, seed=1)
    check(lambda x, c: (x * c, where(c > 0, x, c), c - x), x, column)
    check(lambda x, c: x - c.reshape(-1, 1), x, column[:, 0])
    check(lambda x: x * (x[:, :1] > 0), x)


# --- reductions -------------------------------------------------------------------------------------------------------


@every_type
@every_width
@pytest.mark.parametrize("keepdims", [False, True])
def test_sums_and_maxima_along_a_row(keepdims, width, dtype):
    x = normal(ROWS, width, dtype=dtype) - 3  # all maxima below zero, which a masked tail must not replace
    check(lambda x: (x.sum(axis=1, keepdims=keepdims), x.max(axis=-1, keepdims=keepdims)), x)
    check(lambda x: x - (x * x).sum(axis=1, keepdims=True) + tanh(x).max(axis=1, keepdims=True), x)


@every_type
@every_width
def test_log_softmax(width, dtype):
    check(log_softmax, 30 * normal(ROWS, width, dtype=dtype))


@every_type
@every_width
def test_a_maximum_of_what_is_not_a_number(width, dtype):
    x = normal(ROWS, width, dtype=dtype)
    x[1, width // 2] = np.nan
    x[2, -1] = np.nan
    x[3] = -np.inf
    check(lambda x: (x.max(axis=1), x.sum(axis=1)), x)


@every_type
@every_width
def test_sums_over_rows(width, dtype):
    x, y = normal(ROWS, width, dtype=dtype), normal(ROWS, width, dtype=dtype, seed=1)
    check(lambda x, y: (x * y, x, tanh(y)), x, y, sums=True)
    check(lambda x, y: ((x * y).sum(axis=1), (x > y) * 1.0), x, y, sums=True)


# --- choosing ---------------------------------------------------------------------------------------------------------


@every_type
@every_width
@pytest.mark.parametrize("kind", [np.int64, np.int8, np.uint8])
def test_pick(kind, width, dtype):
    x = normal(ROWS, width, dtype=dtype)
    indices = np.array([0, width - 1, width // 2, width - 1, 0], kind)
    check(lambda x, i: pick(x, i), x, indices)
    check(lambda x, i: (pick(tanh(x), i), pick(log_softmax(x), i) * 2), x, indices)


@every_type
@every_width
def test_place(width, dtype):
    x = normal(ROWS, dtype=dtype)
    indices = np.array([0, width - 1, width // 2, width - 1, 0])
    check(lambda x, i: place(x, i, size=width), x, indices)
    check(lambda x, i: place(x * 2, i, size=width) + x.reshape(-1, 1), x, indices)


def test_an_index_that_is_no_integer_is_refused():
    x = Value((ROWS, 3), np.float64)
    index = Value((ROWS,), np.float64)
    op = Op("pick", (x, index), {}, Value((ROWS,), np.float64))
    with pytest.raises(TraceError, match="it picks by indices that are not integers"):
        run(Graph([x, index], [op.output], [op]), [np.ones((ROWS, 3)), np.zeros(ROWS)])


def test_what_has_no_kernel_is_refused():
    x = Value((ROWS, 3), np.float64)
    op = Op("arctan", (x,), {}, Value((ROWS, 3), np.float64))
    with pytest.raises(TraceError, match="its arctan has no kernel"):
        run(Graph([x], [op.output], [op]), [np.ones((ROWS, 3))])


def test_numbers_of_another_kind_are_refused():
    x, n = Value((ROWS, 3), np.float64), Value((ROWS, 3), np.int64)
    op = Op("add", (x, n), {}, Value((ROWS, 3), np.float64))
    with pytest.raises(TraceError, match="it computes with int64 numbers"):
        run(Graph([x, n], [op.output], [op]), [np.ones((ROWS, 3)), np.ones((ROWS, 3), int)])


# --- places within places ---------------------------------------------------------------------------------------------


@every_type
@every_width
def test_columns_are_places(width, dtype):
    x = normal(ROWS, width + 3, dtype=dtype)
    check(lambda x: (tanh(x[:, 1 : width + 1]), x[:, 2:] * 2, x[:, :1] + x[:, -1:]), x)
    check(lambda x: (tanh(x)[:, 1 : width + 1], tanh(x)[:, :1].reshape(-1)), x)


@every_type
@every_width
def test_a_concatenation_is_written_in_its_place(width, dtype):
    x, y = normal(ROWS, width, dtype=dtype), normal(ROWS, 7, dtype=dtype, seed=1)
    check(lambda x, y: concat(tanh(x), y * 2), x, y)
    check(lambda x, y: concat(x, y), x, y)
    check(lambda x, y: concat(y, x, tanh(y), x[:, :1]), x, y)
    check(lambda x, y: concat(concat(tanh(x), y), tanh(y)), x, y)
    check(lambda x, y: tanh(concat(x, x.sum(axis=1, keepdims=True), y)), x, y)


@every_type
@every_width
def test_a_value_in_two_concatenations(width, dtype):
    x, y = normal(ROWS, width, dtype=dtype), normal(ROWS, 7, dtype=dtype, seed=1)

    def f(x, y):
        a, b = tanh(x), tanh(y)
        return concat(a, b), concat(b, a), concat(a, a), a

    check(f, x, y)


@every_type
@every_width
def test_parts_that_lie_side_by_side_already(width, dtype):
    x = normal(ROWS, width + 3, dtype=dtype)
    check(lambda x: tanh(concat(x[:, :3], x[:, 3:])), x)
    check(lambda x: tanh(concat(x[:, 3:], x[:, :3])), x)


@every_type
def test_groups_of_several_widths_in_one_pass(dtype):
    x, y = normal(ROWS, 33, dtype=dtype), normal(ROWS, 5, dtype=dtype, seed=1)

    def f(x, y):
        s = (x * x).sum(axis=1, keepdims=True)
        m = (y + s).max(axis=1, keepdims=True)
        return tanh(x) / (1 + s) - m, y * m, s + m, (x - m).sum(axis=1)

    check(f, x, y)
    check(f, x, y, sums=True)


@every_type
@pytest.mark.parametrize(("m", "k", "n"), [(1, 40, 40), (2, 3, 4), (9, 17, 5), (12, 28, 28)])
def test_products_of_rows_with_rows(m, k, n, dtype):
    a, b = normal(ROWS, 3, m, k, dtype=dtype), normal(ROWS, k, n, dtype=dtype, seed=1)
    x, y = normal(ROWS, 1, k, m, dtype=dtype), normal(ROWS, 2, 3, n, k, dtype=dtype, seed=2)

    def turned(x):
        return x.transpose(*range(x.ndim - 2), x.ndim - 1, x.ndim - 2)

    def both(a, b, x, y):
        first = tanh(a)[:, :, ::-1] @ b.reshape(ROWS, 1, k, n)
        second = turned(x).reshape(ROWS, 1, 1, m, k) @ turned(y)
        return tanh(first), np.concatenate([second * 2, turned(y)], axis=3), turned(first)

    check(both, a, b, x, y)
    check(lambda a, b: a[:, 1:] @ b.reshape(ROWS, 1, k, n), a, b, exclusive=True)
    check(lambda a, b: a @ b.reshape(ROWS, 1, k, n), a, b, sums=True)
    check(lambda a, b: (tanh(a) @ b.reshape(ROWS, 1, k, n), (a * a) @ b.reshape(ROWS, 1, k, n)), a, b)  # of one kernel


# --- rows of any shape ------------------------------------------------------------------------------------------------

SHAPES = ((1, 1), (2, 3), (3, 16), (5, 17), (40, 33), (2, 3, 5), (3, 1, 7), (2, 16, 17), (2, 2, 3, 2))
"""Last axes below a vector, of one, and beyond it."""

every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def along(axis: int, part: Any) -> Any:
    """An index of rows along one axis."""
    return (*[slice(None)] * axis, part)


@every_type
@every_shape
def test_operands_are_broadcast_along_any_axis(shape, dtype):
    x = normal(ROWS, *shape, dtype=dtype)
    ones = [tuple(1 if i == axis else n for i, n in enumerate(shape)) for axis in range(len(shape))]
    rows = [normal(ROWS, *one, dtype=dtype, seed=i) for i, one in enumerate(ones)]
    fixed = [normal(*one, dtype=dtype, seed=i + 9) for i, one in enumerate(ones)]
    check(lambda x, *rows: (x * sum(rows[1:], rows[0]), [where(x > y, tanh(x), y) for y in rows]), x, *rows)
    check(lambda x, *rows: [tanh(x) * y for y in rows], x, *rows, exclusive=True)
    check(lambda *given: [y * given[-1] + given[-1] for y in given[:-1]], *fixed, x, fixed=len(fixed))
    check(lambda b, x: x - b, normal(shape[-1], dtype=dtype), x, fixed=1)


@every_type
@every_shape
def test_sums_and_maxima_over_any_axes(shape, dtype):
    x, y = normal(ROWS, *shape, dtype=dtype) - 3, normal(ROWS, *shape, dtype=dtype, seed=1)
    every = range(1, len(shape) + 1)
    check(lambda x: [(x.sum(axis=a), tanh(x).max(axis=a, keepdims=True)) for a in every], x)
    check(lambda x: [x - (x * x).sum(axis=a, keepdims=True) + x.max(axis=a, keepdims=True) for a in every], x)
    check(lambda x: (x.sum(axis=(1, 2)), x.max(axis=(1, len(shape)), keepdims=True), x.sum(axis=tuple(every))), x)
    check(lambda x, y: [(x * y).sum(axis=a) for a in every], x, y)  # in one nest, over several axes
    check(lambda x, y: (x * y, y.sum(axis=1), tanh(x).max(axis=-1)), x, y, sums=True)


@every_type
@every_shape
@pytest.mark.parametrize(
    "part", [slice(None, None, -1), slice(None, None, 2), slice(None, None, -2), slice(-1, None)], ids=str
)
def test_slices_are_views_along_any_axis(part, shape, dtype):
    x = normal(ROWS, *shape, dtype=dtype)
    every = range(1, len(shape) + 1)
    check(lambda x: [(tanh(x)[along(a, part)], x[along(a, part)] * 2, x[along(a, part)].sum(axis=a)) for a in every], x)
    check(lambda x: [scatter(tanh(x[along(a, part)]), indices=(along(a, part),), shape=x.shape) for a in every], x)


@every_type
@every_shape
def test_scatters_add_what_overlaps_and_join_what_does_not(shape, dtype):
    x = normal(ROWS, *shape, dtype=dtype)
    even, odd, reverse = slice(None, None, 2), slice(1, None, 2), slice(None, None, -1)

    def scattered(x, axis, *parts):
        indices = tuple(along(axis, part) for part in parts)
        return scatter(*(tanh(x[index]) for index in indices), indices=indices, shape=x.shape)

    for axis in range(1, len(shape) + 1):
        check(lambda x: scattered(x, axis, reverse, even), x)  # noqa: B023
        check(lambda x: scattered(x, axis, reverse, even) * 2, x, exclusive=True)  # noqa: B023
        if x.shape[axis] > 1:
            check(lambda x: scattered(x, axis, odd, even), x)  # noqa: B023


@every_type
@every_shape
def test_elements_are_chosen_by_constant_indices_along_any_axis(shape, dtype):
    x = normal(ROWS, *shape, dtype=dtype)
    for axis in range(1, len(shape) + 1):
        index = along(axis, np.random.default_rng(0).integers(-x.shape[axis], x.shape[axis], 7))  # some several times
        check(lambda x: (tanh(x)[index] * 2, x[index].sum(axis=1)), x)  # noqa: B023
        check(lambda x: scatter(tanh(x[index]), indices=(index,), shape=x.shape), x)  # noqa: B023


@every_type
@every_shape
def test_reshapes_and_transposes_are_views(shape, dtype):
    x, y = normal(ROWS, *shape, dtype=dtype), normal(ROWS, *shape, dtype=dtype, seed=1)
    backwards, count = (0, *range(len(shape), 0, -1)), int(np.prod(shape))

    def f(x, y):
        turned = tanh(x).transpose(backwards)
        flat = (x * y).reshape(ROWS, count)
        return (
            turned * 2,
            turned.reshape(ROWS, count),
            turned + y.transpose(backwards),
            flat,
            tanh(flat),
            turned.sum(axis=1),
        )

    check(f, x, y)
    check(lambda x, y: (tanh(x).reshape(ROWS, count), (y * 2).transpose(backwards)), x, y, exclusive=True)
    check(lambda x, y: (x.transpose(backwards), tanh(y).reshape(ROWS, *shape[::-1])), x, y, sums=True)


@every_type
@every_shape
def test_concatenations_along_any_axis(shape, dtype):
    x, y = normal(ROWS, *shape, dtype=dtype), normal(ROWS, *shape, dtype=dtype, seed=1)
    for axis in range(1, len(shape) + 1):
        check(lambda x, y: np.concatenate([tanh(x), y * 2, x, tanh(x)], axis=axis), x, y)  # noqa: B023
        check(lambda x, y: tanh(np.concatenate([x.sum(axis=axis, keepdims=True), y], axis=axis)), x, y)  # noqa: B023


@every_type
@every_shape
def test_cumulative_sums(shape, dtype):
    x = normal(ROWS, *shape, dtype=dtype)
    every = range(1, len(shape) + 1)
    check(lambda x: [(tanh(x).cumsum(axis=a) * 2, x[along(a, slice(None, None, -1))].cumsum(axis=a)) for a in every], x)


@every_type
@every_shape
def test_pick_and_place_in_rows_of_any_shape(shape, dtype):
    x = normal(ROWS, *shape, dtype=dtype)
    indices = np.random.default_rng(0).integers(0, shape[-1], (ROWS, *shape[:-1]))
    check(lambda x, i: (pick(x, i), pick(tanh(x), i) * 2), x, indices)
    check(lambda x, i: place(x.sum(axis=-1), i, size=shape[-1]) + x, x, indices)


# --- what is shared ---------------------------------------------------------------------------------------------------


def generated(f: Any, *arrays: Any, exclusive: tuple[int, ...] = ()) -> tuple[list[list[str]], list[int]]:
    """The names of the operations of each nest of a function, and the sizes of scratch memory, for float32."""

    def body() -> Body:
        graph = lower(trace(f, *arrays)[0])
        body = Body("body", graph.ops, "float", 16, False)
        body.given = {value: body.place(Rows, value) for value in graph.inputs}
        outputs = [x for x in graph.outputs if isinstance(x, Value)]
        body.exclusive = {outputs[i]: body.place(Rows, outputs[i]) for i in exclusive}
        body.stored = [x for x in outputs if x not in body.exclusive]
        return body

    ordered = body()
    ordered.assign_memory()
    nests = [[work.name for work in nest] for item in ordered.schedule() if isinstance(item, list) for nest in item]
    return nests, [slot.size for slot in body().generate().slots if isinstance(slot, Scratch)]


def test_a_matrix_memory_is_updated_and_read_in_one_pass():
    heads, n = 4, 32
    C, q, v, k = (normal(ROWS, heads, *s, dtype=np.float32) for s in ((n, n), (n, 1), (n, 1), (1, n)))
    f, i = normal(ROWS, heads, 1, 1, dtype=np.float32), normal(ROWS, heads, 1, 1, dtype=np.float32)

    def update(C, q, v, k, f, i):
        C = f * C + i * (v @ k)
        return C, (C @ q).reshape(ROWS, heads * n)

    nests, scratch = generated(update, C, q, v, k, f, i, exclusive=(0,))
    assert nests == [["multiply", "multiply", "multiply", "add", "dot"]]
    assert scratch == []
    check(update, C, q, v, k, f, i)

    def turned(C, q, v, k, f, i):  # the product with the transposed matrix reads it in the same order
        C = f * C + i * (v @ k)
        return C, C.transpose(0, 1, 3, 2) @ q

    assert generated(turned, C, q, v, k, f, i, exclusive=(0,)) == (nests, [])
    check(turned, C, q, v, k, f, i)


def test_attention_stores_scores_but_no_products():
    memory, query = normal(ROWS, 40, 128, dtype=np.float32), normal(ROWS, 128, dtype=np.float32)

    def attend(memory, query):
        scores = (memory @ query.reshape(ROWS, 128, 1)).reshape(ROWS, 40)
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        weights = weights / weights.sum(axis=1, keepdims=True)
        return (weights.reshape(ROWS, 40, 1) * memory).sum(axis=1)

    nests, scratch = generated(attend, memory, query)
    assert (nests[0], nests[-1]) == (["dot"], ["multiply", "sum"])
    assert max(scratch) == 40
    check(attend, memory, query)


def test_gradients_along_both_axes_of_a_matrix_share_its_pass():
    C, d, v, k = (normal(ROWS, *s, dtype=np.float32) for s in ((32, 32), (32, 32), (32, 1), (1, 32)))

    def backward(C, d, v, k):
        return (d * C).sum(axis=(1, 2)), (d * k).sum(axis=2), (d * v).sum(axis=1), C.transpose(0, 2, 1) @ v

    nests, scratch = generated(backward, C, d, v, k)
    assert [sorted(nest) for nest in nests] == [["dot", *["multiply"] * 3, *["sum"] * 3]]
    assert scratch == []
    check(backward, C, d, v, k)


def test_operations_of_one_size_whose_axes_cross_have_loops_of_their_own():
    x, y = normal(ROWS, 6, 10, dtype=np.float32), normal(ROWS, 10, 6, dtype=np.float32)

    def f(x, y):
        return x + x.sum(axis=2, keepdims=True), y + y.sum(axis=2, keepdims=True), (x * 2).reshape(ROWS, 60)

    nests, _ = generated(f, x, y)
    assert [len(nest) for nest in nests] == [2, 1, 1, 1]
    check(f, x, y)


def test_parts_of_a_concatenation_are_computed_in_their_place():
    x, y = normal(ROWS, 20, dtype=np.float32), normal(ROWS, 20, dtype=np.float32, seed=1)
    assert generated(lambda x, y: np.concatenate([tanh(x), x * y], 1), x, y) == ([["tanh", "multiply"]], [])


@pytest.mark.parametrize(("n", "nests"), [(32, []), (5, [["dot"]])])
def test_large_products_of_rows_have_kernels_and_transposed_ones_are_not_copied(n, nests):
    a, b = normal(ROWS, n, n, dtype=np.float32), normal(ROWS, n, n, dtype=np.float32, seed=1)
    for f in (lambda a, b: a @ b, lambda a, b: (a @ b).transpose(0, 2, 1)):
        assert generated(f, a, b) == (nests, [])


def test_loops_are_not_shared_with_vectors_that_are_mostly_empty():
    x = normal(ROWS, 15, dtype=np.float32)
    nests, _ = generated(lambda x: (x * 2, x.reshape(ROWS, 5, 3).sum(axis=2)), x)
    assert nests == [["multiply"], ["sum"]]


def test_a_long_body_is_several_functions():
    x, y = normal(ROWS, 17, dtype=np.float64), normal(ROWS, 1, dtype=np.float64, seed=1)

    def f(x, y):
        steps = [x]
        for _ in range(80):
            steps.append(tanh(steps[-1] * y) - x)
        return steps[-1], sum(steps) * steps[40].sum(axis=1, keepdims=True)

    nests, _ = generated(f, x, y)
    assert max(map(len, nests)) == LONGEST
    check(f, x, y)
    check(f, x, y, sums=True)


def test_a_thousand_operations_are_generated_in_well_under_a_second():
    def f(x):
        for _ in range(250):
            y = x.reshape(ROWS, 4, 1) * x.reshape(ROWS, 1, 4)
            x = tanh(y.sum(axis=1) - x)
        return x

    start = time.process_time()
    generated(f, normal(ROWS, 4, dtype=np.float32))  # twice in part
    assert time.process_time() - start < 3


def test_no_row_is_no_work():
    graph = trace(lambda x: tanh(x), np.ones((ROWS, 3)))[0]
    body = Body("body", graph.ops, "double", jit.vector_width("float64"), False)
    body.given[graph.inputs[0]] = body.place(Rows, graph.inputs[0])
    body.stored = [x for x in graph.outputs if isinstance(x, Value)]
    library = jit.compile_ir(module(body.generate()))
    # With no address at all: whatever touched memory would not live to tell.
    args = np.zeros(7, np.int64)
    _RUN(library.address("body_run"))(args.ctypes.data, 0, 64, 0, 0, 0)
