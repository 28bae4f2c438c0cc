"""The planned time loop on every backend that is installed, held against the reference loop.

Values and all gradients are compared, and nothing that should be planned may run on the reference loop unseen.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from test_cells import CASES, IDS, make

import minigrad
from minigrad import (
    Tensor,
    clip,
    concat,
    einsum,
    layer_norm,
    log_softmax,
    maximum,
    no_grad,
    relu,
    scan,
    sigmoid,
    softplus,
    sqrt,
    stepgraph,
    tanh,
    trees,
    value_and_grad,
    vjp,
    where,
)
from minigrad.checking import check_vjp
from minigrad.compiled import jit, memory
from minigrad.scan import BACKENDS, Lookup, available_backends, chosen_backend, planned, plans, reference, use_backend
from minigrad.tensor import observer, value_of
from rnn_cells import Bidirectional, Cell, Stacked
from rnn_cells.ablated import Ablated
from rnn_cells.anatomy import Tapped
from rnn_cells.gru import GRU
from rnn_cells.lstm import LSTM
from rnn_cells.rnn import RNN

every_backend = pytest.mark.parametrize("backend", available_backends())
TOLERANCE = {"float64": 1e-9, "float32": 2e-4}
"""Relative to the largest element of its array, and to 1 where all are small: what was added up was of that size."""


@dataclass
class Sample:
    """One call of a scan."""

    step: Any
    params: Any
    carry: Any
    xs: Any
    options: dict[str, Any] = field(default_factory=dict)
    context: Any = None


def normal(rng: np.random.Generator, tree: Any, dtype: Any) -> Any:
    """Normal numbers in the shapes of a tree of shapes (lists), or of arrays."""
    return trees.map(lambda x: np.asarray(rng.standard_normal(np.shape(x)), dtype) if is_float(x) else x, tree)


def is_float(x: Any) -> bool:
    return np.asarray(value_of(x)).dtype.kind == "f"


def array_of(x: Any) -> Any:
    return x.table if isinstance(x, Lookup) else x


@contextmanager
def no_reference_loop() -> Iterator[None]:
    """Whatever runs on the reference loop within this block fails."""

    def fail(step: Any, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError(f"{step} ran on the reference loop")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "scan", fail)
        yield


def outcome(sample: Sample, backend: str, seed: int = 0) -> tuple[list[Any], list[Any], list[Any]]:
    """All results without gradients, with them, and the gradients by everything that is a float."""
    rng = np.random.default_rng(seed)
    inputs = (sample.params, sample.carry, sample.xs, () if sample.context is None else sample.context)
    arrays = [array_of(x) for x in trees.leaves(inputs)]
    places = [i for i, x in enumerate(arrays) if is_float(x)]

    def run(*floats: Any) -> list[Any]:
        leaves = trees.leaves(inputs)
        for i, x in zip(places, floats, strict=True):
            leaves[i] = Lookup(x, leaves[i].indices) if isinstance(leaves[i], Lookup) else x
        *others, context = trees.unflatten(inputs, leaves)
        options = sample.options if sample.context is None else {**sample.options, "context": context}
        return trees.leaves(scan(sample.step, *others, **options))

    with use_backend(backend):
        floats = [arrays[i] for i in places]
        plain = run(*floats)
        others = [i for i, x in enumerate(plain) if not is_float(x)]
        values, pullback = vjp(lambda *xs: [x for i, x in enumerate(run(*xs)) if i not in others], *floats)
        gradients = pullback([rng.standard_normal(x.shape).astype(x.dtype) for x in values])
    for i in others:
        values.insert(i, plain[i])
    return plain, values, list(gradients)


def assert_close(actual: Any, expected: Any, dtype: Any) -> None:
    for i, (x, y) in enumerate(zip(actual, expected, strict=True)):
        assert (np.shape(x), x.dtype) == (np.shape(y), y.dtype), i
        bound = TOLERANCE[np.dtype(dtype).name] * max(1.0, float(np.max(np.abs(y), initial=0)))
        np.testing.assert_allclose(x, y, rtol=0, atol=bound, err_msg=str(i))


def compare(sample: Sample, backend: str, dtype: Any = np.float64) -> None:
    """Values and gradients on a backend are those of the reference loop."""
    plain, values, gradients = outcome(sample, "reference")
    with no_reference_loop():
        found = outcome(sample, backend)
    for actual, expected in zip(found, (plain, values, gradients), strict=True):
        assert_close(actual, expected, dtype)


# --- cells ------------------------------------------------------------------------------------------------------------


def of_cell(cell: Cell, length: int, batch: int, dtype: Any, seed: int = 0, **options: Any) -> Sample:
    rng = np.random.default_rng(seed)
    params = trees.map(lambda x: (x + 0.2 * rng.standard_normal(x.shape)).astype(dtype), cell.init_params(rng))
    carry = normal(rng, cell.init_carry(batch), dtype)
    return Sample(cell, params, carry, rng.standard_normal((length, batch, cell.input_size)).astype(dtype), options)


def unrolled(cell: Cell, length: int, batch: int, backend: str, **options: Any) -> Any:
    """Results and gradients of a cell's own ``unroll``, with a fresh generator where it draws masks."""
    sample = of_cell(cell, length, batch, np.float64)
    seeded = options.pop("seed", None)

    def run(*inputs: Any) -> list[Any]:
        rng = {} if seeded is None else {"rng": np.random.default_rng(seeded)}
        return trees.leaves(cell.unroll(*inputs, **rng, **options))

    with use_backend(backend):
        values, pullback = vjp(run, sample.params, sample.carry, sample.xs)
        rng = np.random.default_rng(1)
        return values + trees.leaves(pullback([rng.standard_normal(x.shape) for x in values]))


@every_backend
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_every_cell_with_every_option(name, options, dtype, backend):
    cell = make(name, options, 3, 5)
    for length, batch in ((1, 1), (2, 9), (7, 3)):
        compare(of_cell(cell, length, batch, dtype, reverse=batch == 9), backend, dtype)


@every_backend
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_every_cell_with_lengths_and_with_a_mask(name, options, reverse, backend):
    cell = make(name, options, 3, 5)
    compare(of_cell(cell, 7, 3, np.float64, lengths=np.array([7, 0, 3]), reverse=reverse), backend)
    mask = np.random.default_rng(3).random((2, 9)) < 0.6
    compare(of_cell(cell, 2, 9, np.float64, mask=mask, reverse=reverse), backend)


@every_backend
@pytest.mark.parametrize(
    "cell",
    [
        Stacked([LSTM(3, 5), GRU(5, 4), RNN(4, 2)]),
        Stacked([Stacked([GRU(3, 2)]), RNN(2, 4)]),
        Bidirectional(LSTM(3, 5), GRU(3, 2)),
        Stacked([Bidirectional(GRU(3, 2), RNN(3, 4)), LSTM(6, 3)]),
        Stacked([LSTM(3, 5), GRU(5, 4)], dropout=0.5),
        Stacked([LSTM(3, 5), GRU(5, 4)], dropout=0.5, variational=True),
    ],
    ids=lambda cell: type(cell).__name__,
)
@pytest.mark.parametrize("options", [{}, {"lengths": np.array([7, 0, 3])}, {"reverse": True}, {"seed": 1}])
def test_compositions(cell, options, backend):
    expected = unrolled(cell, 7, 3, "reference", **options)
    with no_reference_loop():
        found = unrolled(cell, 7, 3, backend, **options)
    assert_close(found, expected, np.float64)


@every_backend
def test_a_stack_is_a_step_as_well(backend):
    compare(of_cell(Stacked([LSTM(3, 5), GRU(5, 4)]), 7, 3, np.float64), backend)


@every_backend
@pytest.mark.parametrize(("length", "batch"), [(0, 3), (7, 0), (0, 0)])
def test_nothing_to_do(length, batch, backend):
    sample = of_cell(LSTM(3, 5), length, batch, np.float32)
    for actual, expected in zip(outcome(sample, backend), outcome(sample, "reference"), strict=True):
        assert_close(actual, expected, np.float32)


# --- inputs that are looked up ----------------------------------------------------------------------------------------


@every_backend
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1, 5, 21, 22, 40])
@pytest.mark.parametrize("cell", [LSTM(3, 5), GRU(3, 5), GRU(3, 5, reset="after"), RNN(3, 5)], ids=str)
def test_a_lookup(cell, size, dtype, backend):
    # 21 = T * B: a larger table is looked up before the loop.
    rng = np.random.default_rng(4)
    for options in ({}, {"reverse": True}, {"lengths": np.array([7, 0, 3])}):
        sample = of_cell(cell, 7, 3, dtype, **options)
        sample.xs = Lookup(rng.standard_normal((size, 3)).astype(dtype), rng.integers(0, size, (7, 3)))
        compare(sample, backend, dtype)


@every_backend
def test_lookups_beside_arrays_and_beside_each_other(backend):
    def step(params, h, x):
        h = tanh(h @ params["W"] + x["a"] @ params["A"] + x["b"] * x["a"] + x["c"])
        return h, (h * x["b"], x["a"] * 2, x["a"].sum(axis=1))

    rng = np.random.default_rng(0)
    params = normal(rng, {"W": np.zeros((4, 4)), "A": np.zeros((4, 4))}, np.float64)
    xs = {
        "a": Lookup(rng.standard_normal((3, 4)), rng.integers(0, 3, (7, 3))),
        "b": Lookup(rng.standard_normal((5, 4)), rng.integers(0, 5, (7, 3))),
        "c": rng.standard_normal((7, 3, 4)),
    }
    compare(Sample(step, params, rng.standard_normal((3, 4)), xs), backend)


@every_backend
@pytest.mark.parametrize("shape", [(), (2, 3), (1, 3, 2)])
def test_a_lookup_of_rows_of_any_shape(shape, backend):
    rng = np.random.default_rng(0)
    xs = Lookup(rng.standard_normal((2, *shape)), rng.integers(0, 2, (7, 3)))
    compare(Sample(lambda p, h, x: (tanh(h + x * x), h - x), {}, rng.standard_normal((3, *shape)), xs), backend)


@every_backend
def test_a_lookup_that_is_only_added(backend):
    rng = np.random.default_rng(0)
    xs = Lookup(rng.standard_normal((2, 4)), rng.integers(0, 2, (7, 3)))
    compare(Sample(lambda p, h, x: (tanh(h + x), h), {}, rng.standard_normal((3, 4)), xs), backend)


@every_backend
def test_an_output_that_is_computed_from_a_lookup_alone(backend):
    rng = np.random.default_rng(0)
    params = {"W": rng.standard_normal((4, 4)), "U": rng.standard_normal((3, 2))}
    xs = Lookup(rng.standard_normal((2, 3)), rng.integers(0, 2, (7, 3)))
    for y in (
        lambda p, h, x: x @ p["U"],
        lambda p, h, x: (x, x[:, :2], x[:, 2:], concat(x, h), x.sum(axis=1)),
        lambda p, h, x: (tanh(x), tanh(x)[:, 1:], tanh(x @ p["U"])),
    ):
        sample = Sample(lambda p, h, x, y=y: (tanh(h @ p["W"]), y(p, h, x)), params, rng.standard_normal((3, 4)), xs)
        compare(sample, backend)


@every_backend
@pytest.mark.parametrize("indices", [[[0, 1], [2, 0]], [[0, 1], [-3, 0]]])
def test_a_lookup_beyond_its_table_is_refused(indices, backend):
    """As NumPy refuses it; machine code would read, and in the backward pass write, whatever lies there."""
    cell = RNN(3, 4)
    sample = of_cell(cell, 2, 2, np.float64)
    with use_backend(backend), pytest.raises(IndexError):
        scan(cell, sample.params, sample.carry, Lookup(np.ones((2, 3)), np.array(indices)))


@every_backend
def test_a_lookup_counts_from_the_end_as_indexing_does(backend):
    sample = of_cell(RNN(3, 4), 7, 3, np.float64)
    rng = np.random.default_rng(0)
    sample.xs = Lookup(rng.standard_normal((5, 3)), rng.integers(-5, 5, (7, 3)))
    compare(sample, backend)


@every_backend
@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
def test_a_lookup_by_any_integers(dtype, backend):
    sample = of_cell(GRU(3, 5), 7, 3, np.float64)
    rng = np.random.default_rng(0)
    sample.xs = Lookup(rng.standard_normal((5, 3)), rng.integers(0, 5, (3, 7)).astype(dtype).T)
    compare(sample, backend)


# --- steps that are unusual -------------------------------------------------------------------------------------------

W = np.zeros((4, 4))
ROW = np.zeros((1, 4))


def _two_inputs(p, h, x):
    h = tanh(h @ p["W"] + x["a"] * x["b"].sum(axis=1, keepdims=True))
    return h, h


def _nested_carry(p, carry, x):
    a, b = carry["a"], carry["b"]
    new = tanh(a @ p["W"] + x)
    return {"b": [new * 2, b[0] + a], "a": 0.5 * b[1]}, new


class Pair(NamedTuple):
    h: Any
    c: Any


def _named_carry(p, carry, x):
    return Pair(h=tanh(carry.c @ p["W"] + x), c=carry.h * 0.5), carry


def _one_number_a_row(p, s, x):
    s = 0.5 * s + (x * p["v"]).sum(axis=-1)
    return s, (s, s * 2)


def _no_carry(p, carry, x):
    return carry, tanh(x @ p["W"])


def _twice(p, h, x):
    new = tanh(h @ p["W"] + x)
    return new, (new, new)


def _sums(p, h, x):
    early = h * p["b"] + 0.1
    return tanh(early), (early + h + x, (x + early) + (early + p["b"]))


def _swap(p, carry, x):
    a, b = carry
    return (b, a), a + x


def _rotate(p, carry, x):
    a, b, c = carry
    return (b, c, a * x), tanh(a @ p["W"])


def _two_halves(p, h, x):
    z = concat(h, x) @ concat(p["W"].T, p["V"].T).T
    h = tanh(z[:, :2])
    return concat(h, sigmoid(z[:, 2:])), h


def _broadcasts(p, h, x):
    h = tanh(h * p["scalar"] + x * p["row"] + p["one"] * p["v"] - h.sum(axis=1, keepdims=True) / 4)
    return h, h * p["row"] + p["scalar"]


def _elementwise(p, h, x):
    z = h @ p["W"] + x
    h = where(z > 0.1, sigmoid(z), softplus(z) - 0.2) + maximum(z, 0.3 * z) * clip(x, -0.5, 0.5) / (1 + x**2)
    return tanh(h), (sqrt(1 + z**2), relu(z), abs(z), minigrad.exp(-z) * minigrad.log(2 + z * z))


def _normalised(p, h, x):
    h = layer_norm(h @ p["W"] + x, p["v"], p["v"])
    return tanh(h), (log_softmax(h), h.mean(axis=-1), h.max(axis=-1, keepdims=True))


def _flagged(p, h, x):
    h = where(x["flag"], tanh(h @ p["W"] + x["x"]), h)
    return h, h


def _picked(p, h, x):
    h = tanh(h @ p["W"] + x["x"])
    return h, minigrad.tensor.PRIMITIVES["pick"](log_softmax(h), x["label"])


UNUSUAL: dict[str, tuple[Any, Any, Any, Any]] = {
    "two inputs": (_two_inputs, {"W": W}, np.zeros(4), {"a": np.zeros(4), "b": np.zeros(3)}),
    "a nested carry": (_nested_carry, {"W": W}, {"a": np.zeros(4), "b": [np.zeros(4), np.zeros(4)]}, np.zeros(4)),
    "a named carry": (_named_carry, {"W": W}, Pair(np.zeros(4), np.zeros(4)), np.zeros(4)),
    "one number a row": (_one_number_a_row, {"v": np.zeros(4)}, np.zeros(()), np.zeros(4)),
    "no carry": (_no_carry, {"W": W}, (), np.zeros(4)),
    "no parameters": (lambda p, h, x: (tanh(h + x), h), {}, np.zeros(4), np.zeros(4)),
    "a parameter nobody uses": (lambda p, h, x: (tanh(h + x), h), {"W": W}, np.zeros(4), np.zeros(4)),
    "y is x": (lambda p, h, x: (tanh(h + x), x), {}, np.zeros(4), np.zeros(4)),
    "y is the carry that came": (lambda p, h, x: (tanh(h @ p["W"] + x), h), {"W": W}, np.zeros(4), np.zeros(4)),
    "y is the new carry twice": (_twice, {"W": W}, np.zeros(4), np.zeros(4)),
    "y is part of the carry that came": (
        lambda p, h, x: (tanh(h @ p["W"] + x), h[:, 1:3]), {"W": W}, np.zeros(4), np.zeros(4),
    ),
    "some columns": (
        lambda p, h, x: (tanh(h @ p["W"] + x[:, :1]), x[:, 1:3]), {"W": W}, np.zeros(4), np.zeros(4),
    ),
    "a column beside all of them reversed": (
        lambda p, h, x: (x[:, :1] * 2, tanh(h + x[:, ::-1]))[::-1], {}, np.zeros(17), np.zeros(17),
    ),
    "columns that overlap": (
        lambda p, h, x: ((lambda n: (n, (n[:, :3], n[:, 2:])))(tanh(h + x))), {}, np.zeros(4), np.zeros(4),
    ),
    "logsumexp": (
        lambda p, h, x: (tanh(h + minigrad.logsumexp(x, axis=-1, keepdims=True)), h), {}, np.zeros(4), np.zeros(4),
    ),
    "an output that is a product of the carry that came": (
        lambda p, h, x: (tanh(h @ p["W"] + x), h @ p["V"]), {"W": W, "V": W}, np.zeros(4), np.zeros(4),
    ),
    "scalars of NumPy": (
        lambda p, h, x: (tanh(h * h.dtype.type(0.5) + x * h.dtype.type(0.25)), h * h.dtype.type(2)),
        {}, np.zeros(4), np.zeros(4),
    ),
    "lists": (
        lambda p, h, x: (tanh(h + x), where([True, False, True, True], h, x) * where([False, True, True, True], h, 1)),
        {}, np.zeros(4), np.zeros(4),
    ),
    "an input nobody uses": (
        lambda p, h, x: (tanh(h @ p["W"] + x["a"]), h), {"W": W}, np.zeros(4), {"a": np.zeros(4), "b": np.zeros(2)},
    ),
    "no input at all": (lambda p, h, x: (tanh(h @ p["W"]), (h, h)), {"W": W}, np.zeros(4), np.zeros(4)),
    "three carries that are one": (
        lambda p, h, x: ([tanh(h[0] @ p["W"] + x)] * 3, h[1] + h[2]),
        {"W": W}, [np.zeros(4), np.zeros(4), np.zeros(4)], np.zeros(4),
    ),
    "sums of sums": (_sums, {"b": np.zeros(4)}, np.zeros(4), np.zeros(4)),
    "a maximum": (
        lambda p, h, x: (tanh(h - (h * x).max(axis=-1, keepdims=True)), x.max(axis=1)), {}, np.zeros(4), np.zeros(4),
    ),
    "no output": (lambda p, h, x: (tanh(h @ p["W"] + x), ()), {"W": W}, np.zeros(4), np.zeros(4)),
    "the carry stands still": (lambda p, h, x: (h, h * x), {}, np.zeros(4), np.zeros(4)),
    "the carry is x": (lambda p, h, x: (x, tanh((h - x) @ p["W"])), {"W": W}, np.zeros(4), np.zeros(4)),
    "the carry is known before": (lambda p, h, x: (tanh(x @ p["W"]), h * x), {"W": W}, np.zeros(4), np.zeros(4)),
    "carries change places": (_swap, {}, (np.zeros(4), np.zeros(4)), np.zeros(4)),
    "carries go round": (_rotate, {"W": W}, (np.zeros(4), np.zeros(4), np.zeros(4)), np.zeros(4)),
    "two halves": (_two_halves, {"W": W, "V": W}, np.zeros(4), np.zeros(4)),
    "broadcasting": (
        _broadcasts,
        {"scalar": np.zeros(()), "row": ROW, "one": np.zeros(1), "v": np.zeros(4)},
        np.zeros(4), np.zeros(4),
    ),
    "elementwise": (_elementwise, {"W": W}, np.zeros(4), np.zeros(4)),
    "normalised": (_normalised, {"W": W, "v": np.zeros(4)}, np.zeros(4), np.zeros(4)),
    "the last carry alone": (lambda p, h, x: (h * p["v"] + x, 0 * x), {"v": np.zeros(4)}, np.zeros(4), np.zeros(4)),
    "a deep tree of outputs": (
        lambda p, h, x: (tanh(h + x), {"b": [h, (x, h * x)], "a": x * 2}), {}, np.zeros(4), np.zeros(4),
    ),
    "a product of a product": (
        lambda p, h, x: (tanh((h @ p["W"]) @ p["W"] + x @ p["W"]), h), {"W": W}, np.zeros(4), np.zeros(4),
    ),
    "what is computed from parameters": (
        lambda p, h, x: (tanh(h @ (p["W"] * sigmoid(p["v"])) + x @ p["W"].T + p["W"][1]), x @ tanh(p["W"])[:, 1:]),
        {"W": W, "v": np.zeros(4)}, np.zeros(4), np.zeros(4),
    ),
}  # fmt: skip


def every_unusual_step(*broken: tuple[str, str, str]) -> Any:
    """All names with all backends; (name, backend, reason) of what is wrong as yet."""
    why = {(name, backend): reason for name, backend, reason in broken}
    return pytest.mark.parametrize(
        ("name", "backend"),
        [
            pytest.param(
                name, backend,
                marks=[pytest.mark.xfail(reason=why[name, backend])] if (name, backend) in why else [],
            )
            for name in UNUSUAL
            for backend in available_backends()
        ],
    )  # fmt: skip


def unusual(name: str, length: int, batch: int, dtype: Any = np.float64, **options: Any) -> Sample:
    step, params, carry, xs = UNUSUAL[name]
    rng = np.random.default_rng(5)
    carry = trees.map(lambda x: rng.standard_normal((batch, *x.shape)).astype(dtype), carry)
    xs = trees.map(lambda x: rng.standard_normal((length, batch, *x.shape)).astype(dtype), xs)
    return Sample(step, normal(rng, params, dtype), carry, xs, options)


@every_unusual_step()
def test_an_unusual_step(name, backend):
    for length, batch in ((1, 1), (2, 3), (7, 2)):
        compare(unusual(name, length, batch), backend)
    compare(unusual(name, 7, 3, reverse=True), backend)
    compare(unusual(name, 7, 3, np.float32), backend, np.float32)


@every_unusual_step()
def test_an_unusual_step_with_lengths(name, backend):
    compare(unusual(name, 7, 3, lengths=np.array([7, 0, 3])), backend)


@every_backend
def test_boolean_inputs(backend):
    rng = np.random.default_rng(0)
    xs = {"x": rng.standard_normal((7, 3, 4)), "flag": rng.random((7, 3, 1)) < 0.5}
    compare(Sample(_flagged, {"W": rng.standard_normal((4, 4))}, rng.standard_normal((3, 4)), xs), backend)


@every_backend
def test_integers_that_choose(backend):
    rng = np.random.default_rng(0)
    xs = {"x": rng.standard_normal((7, 3, 4)), "label": rng.integers(0, 4, (7, 3))}
    compare(Sample(_picked, {"W": rng.standard_normal((4, 4))}, rng.standard_normal((3, 4)), xs), backend)


@every_backend
@pytest.mark.parametrize("width", [4, 16, 17, 33])
def test_an_input_that_is_chosen_by_and_has_no_gradient_there(width, backend):
    """No cotangent arrives at a value that is only compared: it counts as zeros, as many as the value has."""
    rng = np.random.default_rng(0)

    def step(params, h, x):
        return tanh(where(h <= x, tanh(x), h)), ()

    for options in ({}, {"lengths": np.array([1, 0, 1, 1, 1])}):
        for _ in range(3):
            carry, xs = rng.standard_normal((5, width)), rng.standard_normal((1, 5, width))
            compare(Sample(step, {}, carry, xs, options), backend)


@every_backend
@pytest.mark.parametrize("label", [4, -5])
def test_an_index_beyond_the_columns_is_refused(label, backend):
    xs = {"x": np.ones((2, 1, 4)), "label": np.array([[0], [label]])}
    with use_backend(backend), pytest.raises(IndexError):
        scan(_picked, {"W": np.ones((4, 4))}, np.ones((1, 4)), xs)


@every_backend
@pytest.mark.parametrize("columns", [(0, 4), (4, 0)], ids=str)
def test_rows_without_elements_run_on_the_reference_loop(columns, backend):
    rng = np.random.default_rng(0)
    carry = tuple(rng.standard_normal((2, n)) for n in columns)
    sample = Sample(lambda p, h, x: ((tanh(h[0]), h[1] * x), (h, x)), {}, carry, rng.standard_normal((3, 2, 1)))
    for actual, expected in zip(outcome(sample, backend), outcome(sample, "reference"), strict=True):
        assert_close(actual, expected, np.float64)


@every_backend
def test_integers_that_become_floats(backend):
    rng = np.random.default_rng(0)

    def step(params, carry, x):
        count, h = carry
        h = tanh(h + x["x"] * params / (1 + (count + x["n"])[:, None].astype(h.dtype)))
        return (count + 1, h), (h, (h > 0).astype(np.int64))

    xs = {"x": rng.standard_normal((7, 3, 4)), "n": rng.integers(0, 4, (7, 3))}
    sample = Sample(step, rng.standard_normal(4), (np.arange(3), rng.standard_normal((3, 4))), xs)
    compare(sample, backend)
    compare(replace(sample, options={"lengths": np.array([7, 0, 3]), "reverse": True}), backend)


@every_backend
def test_outputs_that_are_no_floats(backend):
    """They have the type that the reference loop gives them, wherever they run, with padding or without."""
    rng = np.random.default_rng(0)

    def step(params, h, x):
        h = tanh(h + x)
        return h, (h > x, (h > 0) & (x > 0))

    for lengths in ([7, 7, 7], [7, 0, 3]):
        options = {"lengths": np.array(lengths)}
        sample = Sample(step, {}, rng.standard_normal((3, 4)), rng.standard_normal((7, 3, 4)), options)
        for actual, expected in zip(outcome(sample, backend), outcome(sample, "reference"), strict=True):
            assert_close([x * 1.0 for x in actual], [x * 1.0 for x in expected], np.float64)
            assert [x.dtype for x in actual] == [x.dtype for x in expected]
        assert [x.dtype for x in outcome(sample, backend)[0]] == [np.float64, bool, bool]


@every_backend
@pytest.mark.parametrize("dtype", [bool, np.int64])
def test_carries_that_are_no_floats(dtype, backend):
    rng = np.random.default_rng(0)

    def step(params, carry, x):
        h, seen = carry
        return (tanh(h + where(seen, x, 0)), seen), h

    carry = rng.standard_normal((3, 4)), np.array([[1], [0], [1]]).astype(dtype)
    sample = Sample(step, {}, carry, rng.standard_normal((7, 3, 4)))
    for actual, expected in zip(outcome(sample, backend), outcome(sample, "reference"), strict=True):
        assert_close(actual, expected, np.float64)


# --- gradients --------------------------------------------------------------------------------------------------------


@every_backend
def test_gradients_and_their_gradients_are_those_of_finite_differences(backend):
    sample = of_cell(GRU(3, 4), 3, 2, np.float64)
    for options in ({}, {"lengths": np.array([3, 1])}, {"reverse": True}):
        with use_backend(backend):
            check_vjp(
                lambda *args, options=options: scan(sample.step, *args, **options),
                [sample.params, sample.carry, sample.xs],
                order=2,
                directions=1,
            )


@every_backend
def test_gradients_of_gradients_through_a_lookup(backend):
    sample = of_cell(RNN(3, 4), 3, 2, np.float64)
    indices = np.array([[0, 1], [1, 1], [0, 0]])
    table = np.random.default_rng(0).standard_normal((2, 3))
    with use_backend(backend):
        check_vjp(
            lambda p, t: scan(sample.step, p, sample.carry, Lookup(t, indices)), [sample.params, table],
            order=2, directions=1,
        )  # fmt: skip


@every_backend
def test_two_forwards_before_a_backward_and_a_backward_twice(backend):
    one, two = of_cell(LSTM(3, 5), 7, 3, np.float64), of_cell(LSTM(3, 5), 7, 3, np.float64, seed=1)
    g = np.random.default_rng(0).standard_normal((7, 3, 5))

    def outputs(*args: Any) -> Any:
        return scan(LSTM(3, 5), *args)[1]

    with use_backend("reference"):
        expected = [vjp(outputs, s.params, s.carry, s.xs)[1](g) for s in (one, two)]
    with use_backend(backend), no_reference_loop():
        pullbacks = [vjp(outputs, s.params, s.carry, s.xs)[1] for s in (one, two)]
        for i in (0, 1, 1, 0):
            assert_close(trees.leaves(pullbacks[i](g)), trees.leaves(expected[i]), np.float64)
            again = pullbacks[i](2 * g)
            assert_close([x / 2 for x in trees.leaves(again)], trees.leaves(expected[i]), np.float64)


@every_backend
@pytest.mark.parametrize("wanted", [[True, False, False], [False, True, False], [False, False, True]])
def test_gradients_by_one_thing_alone(wanted, backend):
    s = of_cell(GRU(3, 5), 7, 3, np.float64)
    inputs = [s.params, s.carry, s.xs]
    (place,) = [i for i, want in enumerate(wanted) if want]

    def loss(x):
        given = list(inputs)
        given[place] = x
        carry, ys = scan(GRU(3, 5), *given)
        return (ys * ys).sum() + (carry * 3).sum()

    with use_backend("reference"):
        expected = value_and_grad(loss)(inputs[place])
    with use_backend(backend), no_reference_loop():
        found = value_and_grad(loss)(inputs[place])
    assert_close(trees.leaves(found[1]), trees.leaves(expected[1]), np.float64)


@every_backend
def test_only_the_last_carry_or_only_some_outputs_count(backend):
    s = unusual("a deep tree of outputs", 7, 3)

    def last(c, x):
        return (scan(s.step, {}, c, x)[0] ** 2).sum()

    def some(c, x):
        return (scan(s.step, {}, c, x)[1]["b"][1][1] ** 2)[2:4].sum()

    for f in (last, some):
        with use_backend("reference"):
            expected = vjp(f, s.carry, s.xs)[1](np.ones(()))
        with use_backend(backend), no_reference_loop():
            found = vjp(f, s.carry, s.xs)[1](np.ones(()))
        assert_close(found, expected, np.float64)


@every_unusual_step()
def test_results_are_the_callers_own(name, backend):
    """Later calls do not write into earlier results or gradients, and results do not share memory with inputs."""
    s = unusual(name, 7, 3)
    with use_backend(backend), no_reference_loop():

        def results() -> list[Any]:
            plain = trees.leaves(scan(s.step, s.params, s.carry, s.xs))
            values, pullback = vjp(lambda *args: trees.leaves(scan(s.step, *args)), s.params, s.carry, s.xs)
            return [*plain, *values, *trees.leaves(pullback([np.ones_like(x) for x in values]))]

        first = results()
        copies = [x.copy() for x in first]
        other = unusual(name, 7, 3)
        other.xs, other.carry = trees.map(lambda x: x * 3 + 1, (other.xs, other.carry))
        for _ in range(2):
            for x in trees.leaves(scan(s.step, other.params, other.carry, other.xs)):
                x += 1000
            values, pullback = vjp(lambda *a: trees.leaves(scan(s.step, *a)), other.params, other.carry, other.xs)
            pullback([np.ones_like(x) for x in values])
        for x, copy in zip(first, copies, strict=True):
            np.testing.assert_array_equal(x, copy)
        assert_close(results(), copies, np.float64)
        for x in first:
            for given_array in trees.leaves((s.params, s.carry, s.xs)):
                assert not np.may_share_memory(x, given_array)


@every_backend
@pytest.mark.parametrize("other", ["u", "v", "h", "a", "b"])
def test_equal_gradients_of_two_inputs_are_two_arrays(other, backend):
    """What else depends on one of the inputs is added to its gradient, not to that of another one."""

    def step(params, h, x):
        return tanh(h + params["u"] + params["v"] + x["a"] + x["b"]), ()

    rng = np.random.default_rng(0)
    shapes = {"u": (4,), "v": (4,), "h": (2, 4), "a": (3, 2, 4), "b": (3, 2, 4)}
    inputs = {name: rng.standard_normal(shape) for name, shape in shapes.items()}

    def loss(inputs):
        more = (inputs[other] * 3).sum()  # made before the loop, and so added to what the loop's gradient gave
        u, v, h, a, b = inputs.values()
        last, _ = scan(step, {"u": u, "v": v}, h, {"a": a, "b": b})
        return (last**2).sum() + more

    with use_backend("reference"):
        expected = minigrad.grad(loss)(inputs)
    with use_backend(backend), no_reference_loop():
        found = minigrad.grad(loss)(inputs)
    assert_close(trees.leaves(found), trees.leaves(expected), np.float64)


# --- what is promised beside numbers ----------------------------------------------------------------------------------


@every_backend
def test_arrays_in_arrays_out_and_tensors_in_tensors_out(backend):
    s = of_cell(LSTM(3, 5), 7, 3, np.float64)
    with use_backend(backend), no_reference_loop():
        assert all(type(x) is np.ndarray for x in trees.leaves(scan(s.step, s.params, s.carry, s.xs)))
        tensors = trees.map(Tensor, s.params)
        for params, carry, xs in (
            (tensors, s.carry, s.xs),
            (s.params, trees.map(Tensor, s.carry), s.xs),
            (s.params, s.carry, Tensor(s.xs)),
        ):
            results = trees.leaves(scan(s.step, params, carry, xs))
            assert all(isinstance(x, Tensor) and x.node is None for x in results)


@every_backend
def test_no_grad_remembers_nothing(backend):
    s = of_cell(LSTM(3, 5), 7, 3, np.float64)

    def f(params):
        with no_grad():
            carry, ys = scan(s.step, params, s.carry, s.xs)
        assert all(isinstance(x, Tensor) and x.node is None for x in trees.leaves((carry, ys)))
        return (ys * sum((p * 0).sum() for p in trees.leaves(params))).sum()

    with use_backend(backend), no_reference_loop():
        _, gradient = value_and_grad(f)(s.params)
    assert not any(np.isnan(x).any() for x in trees.leaves(gradient))


@every_backend
def test_inputs_are_not_written_to(backend):
    for name in UNUSUAL:
        s = unusual(name, 3, 2)
        for leaf in trees.leaves((s.params, s.carry, s.xs)):
            leaf.flags.writeable = False
        copies = trees.map(np.copy, (s.params, s.carry, s.xs))
        outcome(s, backend)
        for x, copy in trees.zip_leaves((s.params, s.carry, s.xs), copies):
            np.testing.assert_array_equal(x, copy)


@every_backend
def test_arrays_in_any_layout(backend):
    s = of_cell(LSTM(3, 5), 7, 4, np.float64)
    s.params = trees.map(np.asfortranarray, s.params)
    s.carry = trees.map(lambda x: np.asfortranarray(np.concatenate([x, x])[::2]), s.carry)
    s.xs = np.ascontiguousarray(s.xs.T).T[::-1, :, ::-1]
    compare(s, backend)
    s.xs = np.broadcast_to(s.xs[:1, :1], s.xs.shape)
    compare(s, backend)


@every_backend
def test_an_observer_sees_the_reference_loop(backend):
    class Watch:
        times: list[Any] = []  # noqa: RUF012

        def saw_output(self, node):
            pass

        def saw_cotangent(self, node, cotangent):
            pass

        def saw_time(self, step):
            self.times.append(step)

    s = of_cell(RNN(3, 5), 3, 2, np.float64)
    watch = Watch()
    token = observer.set(watch)
    try:
        with use_backend(backend):
            scan(s.step, s.params, s.carry, s.xs)
    finally:
        observer.reset(token)
    assert watch.times == [0, 1, 2, None]


# --- what cannot be planned -------------------------------------------------------------------------------------------


def _decides(p, h, x):
    return (tanh(h + x) if value_of(x).max() > 0 or True else h), h


def _if(p, h, x):
    h = h + x
    return (tanh(h), h) if h[0, 0] > 0 else (h * 2, h)


def _reads_values(p, h, x):
    h = tanh(h + x)
    return h, h * h.value if isinstance(h, Tensor) else h * h


def _over_the_batch(p, h, x):
    h = tanh(h - h.mean(axis=0, keepdims=True) + x)
    return h, h


def _size_of_batch(p, h, x):
    h = tanh(h / len(x) + x)
    return h, h


def _reads_elements(p, h, x):
    h = tanh(h + x)
    return h, h * bool((h * 0).sum())


def _constant_output(p, h, x):
    return tanh(h + x), p["W"][:2] * 1.0


def _reversed_batch(p, h, x):
    h = tanh(h[::-1] + x)
    return h, h


def _merged_sequences(p, h, x):
    h = tanh(h + x)
    return h, h.reshape(4, -1).T


REFUSED: dict[Any, tuple[int, str]] = {
    _if: (2, "it decides by the value of a tensor (if, while, bool, float, int or item)"),
    _reads_elements: (2, "it decides by the value of a tensor (if, while, bool, float, int or item)"),
    _reads_values: (2, "it reads the elements of a tensor (.value, or a function that needs them)"),
    _decides: (1, "it reads the elements of a tensor (.value, or a function that needs them)"),
    _over_the_batch: (1, "its mean of float64[B, 4] does not work row by row"),
    _size_of_batch: (1, "its operations depend on the size of the batch"),
    _constant_output: (0, "its output has no batch axis"),
    _reversed_batch: (1, "its getitem of float64[B, 4] does not work row by row"),
    _merged_sequences: (2, "its reshape of float64[B, 4] does not work row by row"),
}


@pytest.fixture
def forgotten(monkeypatch):
    """Nothing has been refused yet."""
    monkeypatch.setattr(planned, "_refused", set())


@every_backend
@pytest.mark.parametrize("step", REFUSED, ids=lambda step: step.__name__)
def test_what_cannot_be_planned_runs_on_the_reference_loop_and_is_told_once(step, backend, forgotten, caplog):
    rng = np.random.default_rng(0)
    params = {"W": rng.standard_normal((4, 4))}
    sample = Sample(step, params, rng.standard_normal((2, 4)), rng.standard_normal((3, 2, 4)))
    expected = outcome(sample, "reference")
    assert not caplog.records
    for _ in range(2):
        for actual, right in zip(outcome(sample, backend), expected, strict=True):
            assert_close(actual, right, np.float64)
    said = [record.getMessage() for record in caplog.records]
    assert len(set(said)) == len(said) >= 1
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
    line, reason = REFUSED[step]
    where = f"in line {step.__code__.co_firstlineno + line} of test_scan_planned.py " if line else ""
    assert said[0] == f"{step.__qualname__} runs on the reference loop, which is slow: {where}{reason}"
    assert all(text.startswith(f"{step.__qualname__} runs on the reference loop, which is slow: ") for text in said)


@every_backend
def test_a_step_that_fails_only_in_the_trial_is_told_once_and_traced_once(backend, forgotten, caplog, monkeypatch):
    @dataclass(frozen=True)
    class Small(Cell):
        def __call__(self, params, h, x):
            weights = np.ones((100, 1))[: len(x)]
            h = tanh(h + x * minigrad.reshape(weights, (len(x), 1)))
            return h, h

    @dataclass(frozen=True)
    class Wrapper(Cell):
        cell: Any = None

        def __call__(self, params, h, x):
            return self.cell(params, h * 0.5, x)

    traced = []
    trace = stepgraph.trace
    monkeypatch.setattr(stepgraph, "_known", {})  # which is emptied when it is full
    monkeypatch.setattr(stepgraph, "trace", lambda *args, **kwargs: traced.append(1) or trace(*args, **kwargs))
    sample = Sample(Wrapper(4, 4, Small(4, 4)), {}, np.ones((2, 4)), np.ones((3, 2, 4)))
    expected = outcome(sample, "reference")
    for _ in range(3):
        for actual, right in zip(outcome(sample, backend), expected, strict=True):
            assert_close(actual, right, np.float64)
    assert len(traced) == 1
    (said,) = {record.getMessage() for record in caplog.records}
    line = Small.__call__.__code__.co_firstlineno + 2
    assert said == (
        f"{Small.__qualname__} runs on the reference loop, which is slow: in line {line} of test_scan_planned.py it "
        "fails in a trial with another number of sequences, B: ValueError: reshape: shape "
        "(100, 1) does not fit into (B, 1): the number of elements must stay the same"
    )
    assert len(caplog.records) == 1


@every_backend
def test_a_note_names_what_is_at_fault(backend, forgotten, caplog):
    @dataclass(frozen=True)
    class Wrapper(Cell):
        cell: Any = None

        def __call__(self, params, h, x):
            h, y = self.cell(params, h, x)
            return h[::-1] * 1.0, y

    cell = Wrapper(3, 4, GRU(3, 4))
    params = GRU(3, 4).init_params(np.random.default_rng(0))
    with use_backend(backend):
        scan(cell, params, np.ones((2, 4), np.float32), np.ones((3, 2, 3), np.float32))
    line = Wrapper.__call__.__code__.co_firstlineno + 2
    assert [record.getMessage() for record in caplog.records] == [
        f"{Wrapper.__qualname__} runs on the reference loop, which is slow: in line {line} of test_scan_planned.py "
        "its getitem of float32[B, 4] does not work row by row"
    ]


@every_backend
def test_a_note_on_a_step_that_is_looked_into_names_the_line_of_the_cell(backend, forgotten, caplog):
    @dataclass(frozen=True)
    class Turned(Cell):
        def __call__(self, params, h, x):
            h = tanh(h + x)[::-1] * 1.0
            return h, h

    with use_backend(backend):
        for step in (Turned(4, 4), Tapped(Turned(4, 4)), Ablated(Turned(4, 4))):
            scan(step, {}, np.ones((2, 4), np.float32), np.ones((3, 2, 4), np.float32))
    line = Turned.__call__.__code__.co_firstlineno + 1
    assert [record.getMessage() for record in caplog.records] == [
        f"{Turned.__qualname__} runs on the reference loop, which is slow: in line {line} of test_scan_planned.py "
        "its getitem of float32[B, 4] does not work row by row"
    ]


PER_ROW: dict[str, Any] = {
    "the issue's": lambda p, a: a / (1 + np.mean(a * a, axis=1)[:, None]),
    "a sum": lambda p, a: a * np.sum(a, 1)[:, None],
    "spread": lambda p, a: minigrad.broadcast_to(a.mean(axis=1, keepdims=True), a.shape) + a,
    "a reshape": lambda p, a: a + a.sum(axis=1).reshape(a.shape[0], 1),
    "a column": lambda p, a: a * a[:, 1][:, None] + a[..., -1][:, np.newaxis],
    "logsumexp": lambda p, a: a - minigrad.logsumexp(a, axis=1)[:, None],
    "one index in an array": lambda p, a: a * np.take(a, [1], axis=1) + a[:, [-1]],
    "expand_dims": lambda p, a: a * np.expand_dims(a.sum(axis=1), 1),
    "squeeze": lambda p, a: a * np.squeeze(a.sum(axis=1, keepdims=True), 1)[:, None],
    "einsum with a matrix": lambda p, a: a + einsum("bi,ij->bj", a, p["W"]) * einsum("ji,bi->bj", p["W"], a),
    "einsum of rows": lambda p, a: a * einsum("bi,bi->b", a, tanh(a))[:, None] + einsum("...i,...i->...i", a, a),
    "einsum of a number a row": lambda p, a: (
        einsum("bi,b->bi", a, a.sum(axis=1)) + einsum("b,bi->b", a[:, 0], a)[:, None]
    ),
    "einsum of two numbers a row": lambda p, a: a + einsum("b,b->b", a[:, 0], a[:, 1])[:, None],
    "einsum with a vector": lambda p, a: einsum("bi,i->bi", a, p["W"][0]) + einsum("i,bi->b", p["W"][1], a)[:, None],
}


@every_backend
@pytest.mark.parametrize("name", PER_ROW)
def test_the_batch_of_a_trace_stays_in_it(name, backend):
    """Numbers of the trial's batch reach no loop, no prepared step and no printed graph, in either direction."""

    @dataclass(frozen=True)
    class Normed(Cell):
        def __call__(self, params, h, x):
            h = tanh(PER_ROW[name](params, x @ params["U"] + h @ params["W"]))
            return h, h

    rng = np.random.default_rng(0)
    cell, table = Normed(3, 4), rng.standard_normal((5, 3))
    params = {"U": rng.standard_normal((3, 4)), "W": rng.standard_normal((4, 4))}
    compare(Sample(cell, params, rng.standard_normal((2, 4)), rng.standard_normal((5, 2, 3))), backend)
    for xs in (Lookup(table, rng.integers(0, 5, (5, 2))), rng.standard_normal((5, 2, 3))):
        compare(Sample(lambda p, h, x: (tanh(PER_ROW[name](p, x @ p["U"])) + h, h),
                       params, rng.standard_normal((2, 4)), xs), backend)  # fmt: skip
    assert re.findall(r"\b10\d\d\b", str(stepgraph.of(cell, params, np.ones((1, 4)), np.ones((1, 3))).graph)) == []
    for batch in (1, 3):
        carry: Any = rng.standard_normal((batch, 4))
        with use_backend(backend):
            prepared = planned.stepper(cell, params, carry, table)
        assert prepared is not None
        for _ in range(3):
            symbols = rng.integers(0, 5, batch)
            carry, y = cell(params, carry, table[symbols])
            np.testing.assert_allclose(prepared(symbols)[0], y, rtol=1e-9)
            np.testing.assert_allclose(prepared.carry[0], carry, rtol=1e-9)
            assert prepared.carry[0].shape == (batch, 4)


def test_a_step_that_is_wrong_is_told_as_the_reference_loop_tells_it(caplog):
    x = np.ones((3, 2, 4))
    for step, error, sentence in (
        (lambda p, h, x: h, TypeError, "scan: the step gave a ndarray; expected a pair (carry, y)"),
        (
            lambda p, h, x: (h[:, :2], x), ValueError,
            "scan: the step got the carry with shape (2, 4) and dtype float64, and gave it back with (2, 2) and "
            "float64: a carry keeps its shape and dtype",
        ),
    ):  # fmt: skip
        for backend in BACKENDS[: 1 + len(available_backends())]:
            with use_backend(backend), pytest.raises(error) as caught:
                scan(step, {}, np.ones((2, 4)), x)
            assert str(caught.value) == sentence
    assert not caplog.records


@pytest.mark.parametrize(
    ("kwargs", "sentence"),
    [
        ({"lengths": np.array([4, 1])}, "scan: lengths run from 1 to 4; expected 0 to 3"),
        ({"mask": np.ones((2, 3))}, "scan: the mask has shape (2, 3); expected (T, B) = (3, 2)"),
        (
            {"mask": np.ones((3, 2)), "lengths": np.ones(2, int)},
            "scan: lengths and mask were both given; give one of them",
        ),
    ],
)
@every_backend
def test_mistakes_are_told_on_every_backend(kwargs, sentence, backend):
    s = of_cell(RNN(3, 4), 3, 2, np.float64)
    with use_backend(backend), pytest.raises(ValueError, match="scan") as caught:
        scan(s.step, s.params, s.carry, s.xs, **kwargs)
    assert str(caught.value) == sentence


# --- choosing a backend -----------------------------------------------------------------------------------------------


def test_an_unknown_backend():
    with pytest.raises(ValueError, match="backend") as caught, use_backend("torch"):
        pass
    assert str(caught.value) == "there is no backend 'torch'; there are reference, numpy, compiled"


def test_the_compiled_backend_without_a_compiler(monkeypatch):
    monkeypatch.setattr(jit, "available", lambda: False)
    with pytest.raises(ModuleNotFoundError) as caught, use_backend("compiled"):
        pass
    assert str(caught.value) == (
        "the compiled backend needs the library llvmlite: pip install 'rnn-lab[jit]', or choose the backend numpy"
    )
    assert available_backends() == ("numpy",)
    assert chosen_backend() == "numpy"
    s = of_cell(RNN(3, 4), 3, 2, np.float64)
    monkeypatch.setattr(planned, "WORTH_COMPILING", 0)
    with no_reference_loop():
        scan(s.step, s.params, s.carry, s.xs)


def test_a_choice_ends_with_its_block():
    before = chosen_backend()
    with use_backend("reference"):
        assert chosen_backend() == "reference"
        with use_backend("numpy"):
            assert chosen_backend() == "numpy"
        with use_backend(None):
            assert chosen_backend() == before
        assert chosen_backend() == "reference"
    assert chosen_backend() == before == available_backends()[-1]


@pytest.mark.skipif(not jit.available(), reason="needs the extra jit")
def test_little_work_is_not_compiled(monkeypatch):
    made: list[str] = []
    whole = plans.make_executor

    def spy(program, backend):
        made.append(backend)
        return whole(program, backend)

    monkeypatch.setattr(planned, "WORTH_COMPILING", 1_000_000)
    monkeypatch.setattr(plans, "make_executor", spy)
    monkeypatch.setattr(plans, "_plans", type(plans._plans)())
    s = of_cell(RNN(3, 4), 3, 2, np.float64)
    scan(s.step, s.params, s.carry, s.xs)
    assert made == ["numpy"]
    monkeypatch.setattr(planned, "WORTH_COMPILING", 3 * 2 * 4 * (3 + 4))
    scan(s.step, s.params, s.carry, s.xs)
    assert made == ["numpy", "compiled"]
    monkeypatch.setattr(planned, "WORTH_COMPILING", 3 * 2 * 4 * (3 + 4) + 1)
    scan(s.step, s.params, s.carry, s.xs)
    assert made == ["numpy", "compiled"]


@every_backend
def test_the_number_of_threads_changes_nothing(backend, monkeypatch):
    # As much as it takes for the work to be shared at all, and a batch that is a multiple of nothing.
    results = []
    s = of_cell(LSTM(33, 65), 3, 101, np.float64)
    table = of_cell(GRU(33, 65), 7, 101, np.float32)
    rng = np.random.default_rng(0)
    table.xs = Lookup(rng.standard_normal((50, 33)).astype(np.float32), rng.integers(0, 50, (7, 101)))
    for sample, dtype in ((s, np.float64), (table, np.float32)):
        results = []
        for count in ("1", "2", "3"):
            monkeypatch.setenv("MINIGRAD_THREADS", count)
            results.append(outcome(sample, backend))
        for result in results[1:]:
            for actual, expected in zip(result, results[0], strict=True):
                assert_close(actual, expected, dtype)
        compare(sample, backend, dtype)


# --- plans are kept, and hold no state --------------------------------------------------------------------------------


@every_backend
def test_a_closure_over_what_changes_is_seen(backend):
    given_array = np.arange(8.0).reshape(2, 4)[:1]
    number, flag = 1.0, True
    weights = np.eye(4)

    def step(params, h, x):
        h = tanh(h @ weights + x * number + given_array)
        return h, h * 2 if flag else h * 3

    rng = np.random.default_rng(0)
    carry, xs = rng.standard_normal((2, 4)), rng.standard_normal((3, 2, 4))

    def check() -> None:
        compare(Sample(step, {}, carry, xs), backend)

    check()
    given_array = given_array + 1
    check()
    given_array += 1
    check()
    number = 2.0
    check()
    flag = False
    check()
    weights[0, 1] = 5
    check()


@every_backend
def test_a_long_array_that_chooses_is_part_of_the_plan(backend):
    # NumPy prints long arrays with their middle left out.
    order = np.arange(1200)

    def step(params, h, x):
        h = tanh(h + x * params["w"][order].reshape(300, 4)[100])
        return h, h

    rng = np.random.default_rng(0)
    sample = Sample(step, {"w": rng.standard_normal(1200)}, rng.standard_normal((2, 4)), rng.standard_normal((3, 2, 4)))
    compare(sample, backend)
    order = order.copy()
    order[400:404] = [403, 402, 401, 400]
    compare(sample, backend)


@every_backend
def test_a_cell_that_holds_an_array_is_planned_for_what_it_holds(backend):
    @dataclass(frozen=True, eq=False)
    class Holder(Cell):
        held: Any = None

        def __call__(self, params, h, x):
            h = tanh(h + x * self.held)
            return h, h

    cell = Holder(4, 4, np.ones(4))
    rng = np.random.default_rng(0)
    sample = Sample(cell, {}, rng.standard_normal((2, 4)), rng.standard_normal((3, 2, 4)))
    compare(sample, backend)
    cell.held[...] = 3
    compare(sample, backend)


@every_backend
def test_a_field_that_does_not_count_for_equality_counts_for_the_plan(backend):
    @dataclass(frozen=True)
    class Scaled(Cell):
        scale: float = field(default=1.0, compare=False)

        def __call__(self, params, h, x):
            h = tanh(h + x * self.scale)
            return h, h

    rng = np.random.default_rng(0)
    carry, xs = rng.standard_normal((2, 4)), rng.standard_normal((3, 2, 4))
    for scale in (1.0, 2.0):
        compare(Sample(Scaled(4, 4, scale), {}, carry, xs), backend)


def test_a_plan_is_made_once(monkeypatch):
    made: list[Any] = []
    whole = plans.plan
    monkeypatch.setattr(plans, "plan", lambda *args, **kwargs: made.append(1) or whole(*args, **kwargs))
    monkeypatch.setattr(plans, "_plans", type(plans._plans)())
    with use_backend("numpy"):
        for length, batch in ((3, 2), (5, 4), (3, 2)):
            s = of_cell(GRU(3, 4), length, batch, np.float64)
            scan(GRU(3, 4), s.params, s.carry, s.xs)
            scan(lambda p, h, x: GRU(3, 4)(p, h, x), s.params, s.carry, s.xs, reverse=True)
        assert len(made) == 1  # the same graph, whoever has it
        scan(GRU(3, 4), s.params, s.carry, s.xs, lengths=np.array([3, 1]))
        scan(GRU(3, 4), s.params, s.carry, s.xs, lengths=np.array([3, 3]))
        assert len(made) == 2
    monkeypatch.setattr(plans, "_KEPT", 1)
    with use_backend("numpy"):
        scan(RNN(3, 4), {k: np.ones(v) for k, v in (("U", (3, 4)), ("W", (4, 4)), ("b", 4))}, s.carry, s.xs)
    assert len(made) == 3


@every_backend
@pytest.mark.parametrize("width", [5, 6, 9, 12])
def test_sizes_that_a_step_makes_are_not_taken_for_the_batch(width, backend):
    """Traces stand for any batch by a size that no input has; a concatenation may have it all the same."""

    def step(params, h, x):
        both = tanh(concat(h, x))
        return both[:, :width] * both.mean(axis=1, keepdims=True), both

    rng = np.random.default_rng(0)
    for other in (13 - width, 17 - width, 19 - width):
        if other > 0:
            xs = rng.standard_normal((3, 2, other))
            compare(Sample(step, {}, rng.standard_normal((2, width)), xs), backend)


# --- steps at random --------------------------------------------------------------------------------------------------

SMOOTH: dict[str, Any] = {
    "tanh": tanh,
    "sigmoid": sigmoid,
    "softplus": softplus,
    "sin": minigrad.sin,
    "cos": minigrad.cos,
    "exp": lambda z: minigrad.exp(tanh(z)),
    "expm1": lambda z: minigrad.expm1(tanh(z)),
    "log": lambda z: minigrad.log(1.5 + z * z),
    "log1p": lambda z: minigrad.log1p(z * z),
    "sqrt": lambda z: sqrt(1 + minigrad.square(z)),
    "negative": lambda z: -z,
    "power": lambda z: z**2 / 4,
    "root": lambda z: (1 + z * z) ** 0.5,
    "log_softmax": log_softmax,
    "layer_norm": lambda z: layer_norm(z, 1.5, 0.5, epsilon=0.1),
    "sum": lambda z: z.sum(axis=-1, keepdims=True) / z.shape[1],
    "mean": lambda z: z.mean(axis=1, keepdims=True),
    "alias": lambda z: 1.0 * z,
    "stop_gradient": lambda z: minigrad.stop_gradient(z) * tanh(z),
    "sum, then an axis": lambda z: tanh(np.sum(z, 1)[:, None]),
    "mean, then an axis": lambda z: z.mean(axis=-1)[..., None],
    "a number a row": lambda z: minigrad.exp(tanh(z.sum(axis=1))).reshape(len(z), 1),
    "a column": lambda z: z[:, -1][:, None],
    "spread": lambda z: minigrad.broadcast_to(z.mean(axis=1, keepdims=True), (z.shape[0], z.shape[1])),
    "all rows": lambda z: z[: len(z), ...],
    "expand_dims": lambda z: np.expand_dims(tanh(z.sum(axis=1)), -1),
    "squeeze": lambda z: np.squeeze(z.mean(axis=1, keepdims=True), 1)[:, None],
    "einsum": lambda z: tanh(einsum("bi,bi->b", z, tanh(z)))[:, None],
    "einsum by element": lambda z: einsum("bi,bi->bi", tanh(z), z),
}
TO_ONE = (
    "sum",
    "mean",
    "sum, then an axis",
    "mean, then an axis",
    "a number a row",
    "a column",
    "expand_dims",
    "squeeze",
    "einsum",
)
KINKED: dict[str, Any] = {"relu": relu, "abs": abs, "clip": lambda z: clip(z, 0.0, None)}
PAIRED: dict[str, Any] = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: tanh(a) * b,
    "divide": lambda a, b: a / (1.5 + b * b),
    "power": lambda a, b: (1.5 + sigmoid(a)) ** tanh(b),
}
KINKED_PAIRS: dict[str, Any] = {
    "maximum": maximum,
    "minimum": minigrad.minimum,
    "where": lambda a, b: where(a > b, a * 0.5, b * b),
    "where not": lambda a, b: where((a <= b) & (b != a), tanh(b), a),
}
WIDTHS = (1, 2, 3, 16, 17, 33)


@dataclass
class Recipe:
    """A step as a list of instructions; each makes new values out of earlier ones, which it names by their places."""

    carry: list[int]
    x: int
    shapes: dict[str, tuple[int, ...]]
    instructions: list[tuple[Any, ...]]
    carried: list[int]
    ys: list[int]

    def __repr__(self) -> str:
        lines = [f"carry {self.carry}, x {self.x}, parameters {self.shapes}", *map(repr, self.instructions)]
        return "\n".join([*lines, f"carried {self.carried}, ys {self.ys}"])

    def run(self, params: Any, carry: Any, x: Any, near: list[float] | None = None) -> Any:
        """The step. ``near`` collects how close anything comes to a kink."""
        values = [*carry, x]
        for kind, what, *places in self.instructions:
            a = values[places[0]]
            b = values[places[1]] if len(places) > 1 and kind != "halves" else 0.0
            if kind == "matmul":
                values.append(a @ params[what])
            elif kind == "einsum":
                values.append(einsum("bi,ij->bj", a, params[what]))
            elif kind == "affine":
                values.append(a @ params[what[0]] + params[what[1]])
            elif kind == "parameter":
                values.append(a * params[what] + 0.1)
            elif kind == "concat":
                values.append(concat(a, b))
            elif kind == "halves":
                values += [a[:, : places[1]], a[:, places[1] :]]
            elif kind in ("smooth", "kinked"):
                values.append((SMOOTH if kind == "smooth" else KINKED)[what](a))
            else:
                values.append((PAIRED if kind == "paired" else KINKED_PAIRS)[what](a, b))
            if kind.startswith("kinked") and near is not None:
                # What is zero exactly is zero on all backends.
                distances = np.abs(a - b)
                near.append(float(np.min(distances[distances > 0], initial=1)))
        return [tanh(values[i]) for i in self.carried], [values[i] for i in self.ys]

    def __call__(self, params: Any, carry: Any, x: Any) -> Any:
        return self.run(params, carry, x)


@st.composite
def recipes(draw: Any) -> Recipe:
    carry = draw(st.lists(st.sampled_from(WIDTHS), min_size=1, max_size=3))
    x = draw(st.sampled_from(WIDTHS))
    widths = [*carry, x]
    used: set[int] = set()
    shapes: dict[str, tuple[int, ...]] = {}
    instructions: list[tuple[Any, ...]] = []

    def place() -> int:
        i = draw(st.integers(0, len(widths) - 1))
        used.add(i)
        return i

    def parameter(*choices: tuple[int, ...]) -> str:
        """A new parameter of one of these shapes, or one that was used before."""
        fitting = [name for name, shape in shapes.items() if shape in choices]
        if fitting and draw(st.booleans()):
            return str(draw(st.sampled_from(fitting)))
        shapes[name := f"W{len(shapes)}"] = draw(st.sampled_from(choices))
        return name

    def vector(n: int) -> str:
        return parameter((n,), (1, n), (), (1,), (1, 1))

    def product(i: int, columns: int, kind: str = "matmul") -> int:
        instructions.append((kind, parameter((widths[i], columns)), i))
        widths.append(columns)
        return len(widths) - 1

    for _ in range(draw(st.integers(1, 7))):
        kind = draw(
            st.sampled_from(
                [
                    "matmul",
                    "einsum",
                    "affine",
                    "parameter",
                    "concat",
                    "halves",
                    "smooth",
                    "kinked",
                    "paired",
                    "kinked pair",
                ]
            )
        )
        i = place()
        if kind in ("matmul", "einsum"):
            product(i, draw(st.sampled_from(WIDTHS)), kind)
        elif kind == "affine":
            n = draw(st.sampled_from(WIDTHS))
            instructions.append((kind, (parameter((widths[i], n)), vector(n)), i))
            widths.append(n)
        elif kind == "parameter":
            instructions.append((kind, vector(widths[i]), i))
            widths.append(widths[i])
        elif kind == "concat":
            j = place()
            instructions.append((kind, "", i, j))
            widths.append(widths[i] + widths[j])
        elif kind == "halves" and widths[i] > 1:
            cut = draw(st.integers(1, widths[i] - 1))
            instructions.append((kind, "", i, cut))
            widths += [cut, widths[i] - cut]
        elif kind in ("smooth", "kinked"):
            what = draw(st.sampled_from(sorted(SMOOTH if kind == "smooth" else KINKED)))
            instructions.append((kind, what, i))
            widths.append(1 if what in TO_ONE else widths[i])
        elif kind in ("paired", "kinked pair"):
            fitting = [j for j, n in enumerate(widths) if n == widths[i] or n == 1]
            j = draw(st.sampled_from(fitting)) if fitting else i
            used.add(j)
            what = draw(st.sampled_from(sorted(PAIRED if kind == "paired" else KINKED_PAIRS)))
            instructions.append((kind, what, i, j))
            widths.append(widths[i])
    count = len(carry) + 1
    carried = []
    for n in carry:
        fitting = [i for i in range(count, len(widths)) if widths[i] == n]
        carried.append(draw(st.sampled_from(fitting)) if fitting else product(place(), n))
    # All that nobody used is an output, and so nothing is without a gradient.
    ys = [i for i in range(count, len(widths)) if i not in used and i not in carried]
    ys += draw(st.lists(st.integers(0, len(widths) - 1), max_size=2))
    return Recipe(carry, x, shapes, instructions, carried, ys)


def check_recipe(
    recipe: Recipe, length: int, batch: int, backend: str, dtype: Any, looked_up: bool, options: Any
) -> None:
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> Any:
        # A product is about as large as what went in, so that nothing grows beyond what float32 resolves.
        return (rng.standard_normal(shape) / np.sqrt(shape[0] if len(shape) > 1 else 1)).astype(dtype)

    params = {name: draw(*shape) for name, shape in recipe.shapes.items()}
    carry = [rng.standard_normal((batch, n)).astype(dtype) for n in recipe.carry]
    xs = rng.standard_normal((length, batch, recipe.x)).astype(dtype)
    if looked_up:
        xs = Lookup(rng.standard_normal((2, recipe.x)).astype(dtype), rng.integers(0, 2, (length, batch)))
    near: list[float] = []
    reference.scan(lambda *args: recipe.run(*args, near=near), params, carry, xs, **options)
    # At a kink the gradient jumps: rounding may land on either side, and both are right.
    assume(min(near, default=1) > (1e-3 if dtype == np.float32 else 1e-8))
    sample = Sample(recipe, params, carry, xs, options)
    expected = outcome(sample, "reference")
    with poisoned_memory() if backend == "compiled" else nullcontext():
        found = outcome(sample, backend)
    for actual, right in zip(found, expected, strict=True):
        assert_close(actual, right, dtype)


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """Memory that is read before anything is written there is NaN, and nothing is written beside it."""
    fresh, made = memory._aligned, []

    def poisoned(size: int) -> Any:
        array = fresh(size + 128)
        array.fill(255)  # the bytes of a NaN
        made.append(array)
        return array[64:-64]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "_aligned", poisoned)
        patch.setattr(memory, "WORTH_KEEPING", 1 << 62)  # none is used again
        yield
    assert all((array[:64] == 255).all() and (array[-64:] == 255).all() for array in made)


@every_backend
@pytest.mark.parametrize("looked_up", [False, True])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@settings(max_examples=max(1, settings().max_examples // 6))  # compiling takes its time
@given(data=st.data())
def test_any_step(dtype, looked_up, backend, data):
    length, batch = data.draw(st.sampled_from([1, 2, 5])), data.draw(st.sampled_from([1, 2, 3, 9]))
    options: dict[str, Any] = {"reverse": data.draw(st.booleans())}
    rng = np.random.default_rng(1)
    kind = data.draw(st.sampled_from(["all", "lengths", "mask"]))
    if kind == "lengths":
        options["lengths"] = rng.integers(0, length + 1, batch)
    elif kind == "mask":
        options["mask"] = rng.random((length, batch)) < 0.6
    check_recipe(data.draw(recipes()), length, batch, backend, dtype, looked_up, options)


# --- gradients that vanish --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["reference", *available_backends()])
@pytest.mark.parametrize("cell", [RNN(3, 5), LSTM(3, 5)], ids=repr)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_gradient_that_vanishes_ends_in_zeros(dtype, reverse, cell, backend):
    """And not in subnormal numbers, which stay for ever, as half of the smallest one is rounded to it again."""
    length = 400 if dtype == np.float32 else 2200
    sample = of_cell(cell, length, 2, dtype)
    params = trees.map(lambda p: p * dtype(0.4), sample.params)

    def last(xs, carry):
        _, ys = scan(cell, params, carry, xs, reverse=reverse)
        return (ys[0 if reverse else -1] ** 2).sum()

    with use_backend(backend):
        d_xs, d_carry = minigrad.grad(lambda inputs: last(*inputs))((sample.xs, sample.carry))
    smallest = np.finfo(dtype).smallest_normal
    steps = [np.abs(d).max() for d in (d_xs[::-1] if not reverse else d_xs)]
    subnormal = [t for t, d in enumerate(d_xs) if ((d != 0) & (np.abs(d) < smallest)).any()]
    assert steps[0] > 1e-3
    assert len(subnormal) <= 3 * reference.FLUSHED
    assert not any(steps[-50:])
    assert not any(np.any(d) for d in trees.leaves(d_carry))


@pytest.mark.parametrize("backend", ["reference", *available_backends()])
def test_what_is_no_number_is_not_flushed(backend):
    def loss(h):
        _, ys = scan(lambda p, h, x: (h * x, h * x), {}, h, np.full((20, 1, 3), 2.0))
        return (ys[-1] * np.array([np.nan, np.inf, 1e-305])).sum()

    with use_backend(backend), np.errstate(all="ignore"):
        gradient = minigrad.grad(loss)(np.ones((1, 3)))
    np.testing.assert_array_equal(gradient, [[np.nan, np.inf, 1e-305 * 2**20]])
