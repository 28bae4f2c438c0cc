"""A planned step, executed with NumPy, compared with the reference scan."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minigrad import concat, log_softmax, relu, sigmoid, stepgraph, tanh, trees, value_and_grad
from minigrad.functions import affine
from minigrad.primitives import abs, exp, log, pick, softplus, sqrt, where
from minigrad.scan import numpy_backend, numpy_code
from minigrad.scan.lookup import Lookup
from minigrad.scan.numpy_backend import ROWS, Executor
from minigrad.scan.program import plan
from minigrad.scan.reference import scan
from rnn_cells import Cell
from rnn_cells.gru import GRU
from rnn_cells.lstm import LSTM, CoupledLSTM, PeepholeLSTM
from rnn_cells.rnn import IRNN, RNN

B, I, H = 3, 4, 5  # noqa: E741


class MGU(Cell):
    """The minimal gated unit, as the example of a plugin has it."""

    def init_params(self, rng):
        return {"forget": self.dense(rng), "candidate": self.dense(rng)}

    def __call__(self, params, h, x):
        f = sigmoid(affine(params["forget"], concat(h, x)))
        c = tanh(affine(params["candidate"], concat(f * h, x)))
        h = (1 - f) * h + f * c
        return h, h


CELLS = {
    "rnn": RNN(I, H),
    "irnn": IRNN(I, H),
    "lstm": LSTM(I, H),
    "lstm, second bias": LSTM(I, H, second_bias=True),
    "lstm, peepholes": PeepholeLSTM(I, H),
    "lstm, full peepholes": PeepholeLSTM(I, H, peephole="full"),
    "lstm, coupled": CoupledLSTM(I, H),
    "gru": GRU(I, H),
    "gru, reset after": GRU(I, H, reset="after"),
    "mgu": MGU(I, H),
}


def rounded(dtype: Any) -> dict[str, float]:
    return {"rtol": 1e-4, "atol": 1e-5} if dtype == np.float32 else {"rtol": 1e-10, "atol": 1e-12}


class Planned:
    """A step with an executor, called as the reference scan is."""

    def __init__(self, step: Any, params: Any, carry: Any, xs: Any, without: Any = (), wanted: Any = None) -> None:
        """``xs`` is a list of arrays and Lookups."""
        self.params, self.carry = params, carry
        x = [np.zeros(x.shape[1:], x.dtype) for x in xs]
        found = stepgraph.of(step, params, carry, x)
        is_float = [leaf.dtype.kind == "f" for tree in (params, carry, x) for leaf in trees.leaves(tree)]
        tables = [i for i, x in enumerate(xs) if isinstance(x, Lookup)]
        self.executor = Executor(plan(found, tables=tables, wanted=wanted or is_float, without=without))

    def forward(self, params: Any, carry: Any, xs: Any, **options: Any) -> Any:
        steps, batch = xs[0].shape[:2]
        return self.executor.forward(
            trees.leaves(params), trees.leaves(carry), xs, [], steps=steps, batch=batch, **options
        )


def floats(arrays: Any) -> list[Any]:
    return [x for x in arrays if np.asarray(x).dtype.kind == "f"]


def dot(weights: Any, arrays: Any) -> Any:
    return sum(((w * x).sum() for w, x in zip(weights, arrays, strict=True) if w is not None), start=0.0)


def check(step: Any, params: Any, carry: Any, xs: Any, *, reverse: bool = False, without: Any = ()) -> None:
    """Values and gradients of everything, by a random linear function of all outputs."""
    rng = np.random.default_rng(1)
    dense = [np.asarray(x.table[x.indices] if isinstance(x, Lookup) else x) for x in xs]
    dtype = next(x.dtype for x in trees.leaves(params) if x.dtype.kind == "f")
    planned = Planned(step, params, carry, xs, without)
    last, ys, saved = planned.forward(params, carry, xs, reverse=reverse, keep=True)
    expected_last, expected_ys = scan(step, params, carry, dense, reverse=reverse)
    for got, expected in zip([*last, *ys], trees.leaves((expected_last, expected_ys)), strict=True):
        assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
        np.testing.assert_allclose(got, expected, **rounded(dtype))
    last_again, ys_again, _ = planned.forward(params, carry, xs, reverse=reverse)
    for got, again in zip([*last, *ys], [*last_again, *ys_again], strict=True):
        np.testing.assert_allclose(again, got, **rounded(dtype))

    def draw(x: Any) -> Any:
        return rng.standard_normal(x.shape).astype(x.dtype) if x.dtype.kind == "f" else None

    d_last, d_ys = list(map(draw, last)), list(map(draw, ys))
    tables = [x.table if isinstance(x, Lookup) else x for x in xs]
    wrt = floats([*trees.leaves(params), *trees.leaves(carry), *tables])

    def loss(arrays: Any) -> Any:
        given = iter(arrays)
        p, c, x = (
            trees.map(lambda leaf: next(given) if leaf.dtype.kind == "f" else leaf, tree)
            for tree in (params, carry, tables)
        )
        x = [x[leaf.indices] if isinstance(leaf, Lookup) else x for leaf, x in zip(xs, x, strict=True)]
        end, outputs = scan(step, p, c, x, reverse=reverse)
        return dot(d_last, trees.leaves(end)) + dot(d_ys, trees.leaves(outputs))

    _, expected_d = value_and_grad(loss)(wrt)
    d_params, d_carry, d_xs, _ = planned.executor.backward(saved, d_last, d_ys)
    got_d = zip((*d_params, *d_carry, *d_xs), (*trees.leaves(params), *trees.leaves(carry), *tables), strict=True)
    for (got, like), expected in zip([pair for pair in got_d if pair[1].dtype.kind == "f"], expected_d, strict=True):
        got = np.zeros_like(like) if got is None else got  # of what the step does not read
        assert (got.shape, got.dtype) == (expected.shape, dtype)
        np.testing.assert_allclose(got, expected, **rounded(dtype))


def case(cell: Any, dtype: Any, length: int, batch: int = B) -> Any:
    rng = np.random.default_rng(0)
    params = trees.map(lambda x: (x + 0.1 * rng.standard_normal(x.shape)).astype(dtype), cell.init_params(rng))
    carry = trees.map(lambda x: rng.standard_normal(x.shape).astype(dtype), cell.init_carry(batch))
    return params, carry, rng.standard_normal((length, batch, I)).astype(dtype)


def looked_up(rng: Any, size: int, length: int, dtype: Any, batch: int = B) -> Lookup:
    return Lookup(rng.standard_normal((size, I)).astype(dtype), rng.integers(0, size, (length, batch)))


def on_first(cell: Any) -> Any:
    return lambda params, carry, x: cell(params, carry, x[0])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("length", [1, 2, 7])
@pytest.mark.parametrize("kind", ["dense", "few tokens", "more tokens", "many tokens"])
@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_every_cell(cell, kind, length, dtype):
    params, carry, x = case(cell, dtype, length)
    size = {"dense": 0, "few tokens": 6, "more tokens": 120, "many tokens": ROWS + 1}[kind]
    given = looked_up(np.random.default_rng(2), size, length, dtype) if size else x
    check(on_first(cell), params, carry, [given], reverse=length == 2)


@pytest.mark.parametrize("without", ["split", "hoist", "merge"])
@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_every_cell_without_a_pass(cell, without):
    params, carry, x = case(cell, np.float64, 3)
    check(on_first(cell), params, carry, [x], without=[without])
    check(on_first(cell), params, carry, [looked_up(np.random.default_rng(2), 6, 3, np.float64)], without=[without])


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_a_mask(cell, reverse):
    params, carry, x = case(cell, np.float64, 7)
    live = np.random.default_rng(5).random((7, B)) < 0.6

    def step(params, carry, x):
        x, live = x
        new, y = cell(params, carry, where(live.reshape(-1, 1), x, 0))
        return trees.map(lambda a, b: where(live.reshape(-1, 1), a, b), new, carry), where(live.reshape(-1, 1), y, 0)

    check(step, params, carry, [x, live], reverse=reverse)


@pytest.mark.parametrize("length", [1, 7])
def test_a_step_without_a_carry(length):
    rng = np.random.default_rng(0)
    params = {"W": rng.standard_normal((I, H)), "b": rng.standard_normal(H)}
    x, labels = rng.standard_normal((length, B, I)), rng.integers(0, H, (length, B))

    def head(params, carry, x):
        h, labels = x
        return (), pick(log_softmax(affine(params, h)), labels)

    check(head, params, (), [x, labels])


def test_outputs_that_do_not_depend_on_the_carry():
    cell = LSTM(I, H)
    params, carry, x = case(cell, np.float64, 7)

    def step(params, carry, x):
        new, y = cell(params["cell"], carry, x[0])
        return new, (y, tanh(x[0] @ params["W"]), y @ params["V"], (x[0] * y.sum(axis=1, keepdims=True)).sum(axis=1))

    rng = np.random.default_rng(3)
    params = {"cell": params, "W": rng.standard_normal((I, 2)), "V": rng.standard_normal((H, 2))}
    check(step, params, carry, [x])
    check(step, params, carry, [looked_up(rng, 6, 7, np.float64)])


def test_layers_on_one_another():
    cells = [LSTM(I, H), GRU(H, H), RNN(H, H)]
    rng = np.random.default_rng(0)
    params = [case(cell, np.float64, 1)[0] for cell in cells]
    carries = tuple(trees.map(lambda x: x.astype(np.float64), cell.init_carry(B)) for cell in cells)

    def step(params, carry, x):
        y, new = x[0], []
        for cell, p, c in zip(cells, params, carry, strict=True):
            c, y = cell(p, c, y)
            new.append(c)
        return tuple(new), y

    check(step, params, carries, [rng.standard_normal((7, B, I))])
    check(step, params, carries, [looked_up(rng, 6, 7, np.float64)], reverse=True)


def test_a_product_of_a_value_of_the_step_and_of_what_was_looked_up():
    rng = np.random.default_rng(0)
    params = {"W": rng.standard_normal((H, H)), "U": rng.standard_normal((I, H)), "a": rng.standard_normal(1)}

    def step(params, h, x):
        a = h * params["a"] + 1
        both = a @ params["W"] + x[0] @ params["U"]
        return relu(both), both * x[0].sum(axis=1, keepdims=True)

    check(step, params, rng.standard_normal((B, H)), [looked_up(rng, 6, 7, np.float64)])


def test_a_carry_that_counts():
    rng = np.random.default_rng(0)
    params = {"W": rng.standard_normal((H, H))}

    def step(params, carry, x):
        h, sums, count = carry
        h = tanh(h @ params["W"] + where(count.reshape(-1, 1) > 2, x[0], 0))
        return (h, sums + h + x[0], count + 1), (count * 2, h.sum(axis=1))

    carry = rng.standard_normal((B, H)), rng.standard_normal((B, H)), np.arange(B)
    check(step, params, carry, [rng.standard_normal((7, B, H))])


def test_a_parameter_that_is_a_matrix_and_a_summand():
    rng = np.random.default_rng(0)
    params = {"W": rng.standard_normal((1, 1)), "V": rng.standard_normal((H, H))}

    def step(params, h, x):
        return tanh(h @ params["V"] + params["W"] + x[0] @ params["W"]), h

    check(step, params, rng.standard_normal((B, H)), [rng.standard_normal((3, B, 1))])


def test_many_operations():
    rng = np.random.default_rng(0)
    params = {"W": rng.standard_normal((I, I)), "b": rng.standard_normal(I), "s": np.array(0.5)}

    def step(params, h, x):
        z = h @ params["W"]
        a = sigmoid(z + x[0])
        b = where(a > 0.5, z, params["b"]) * (z > 0) + abs(x[0]) ** 3 + (x[0] >= 0)
        c = np.maximum(a, params["s"]) - np.minimum(x[0], 0) / (1 + a)
        d = np.clip(c, -0.4, 1.2) + np.clip(x[0], np.linspace(-1, 0, I), None) + softplus(b)
        e = log(a) * sqrt(a) + exp(-a) + np.log1p(a) + np.expm1(x[0]) + np.sin(x[0]) * np.cos(b)
        f = (e.mean(axis=1, keepdims=True) - log(exp(d).sum(axis=1, keepdims=True))) * np.square(x[0])
        return tanh(d * e), (f, concat(x[0], z, a), x[0].sum(axis=1))

    with np.errstate(all="raise"):
        check(step, params, rng.standard_normal((B, I)), [rng.standard_normal((7, B, I))])
        check(step, params, rng.standard_normal((B, I)), [looked_up(rng, 6, 7, np.float64)])


def test_like_operations_that_need_one_another():
    rng = np.random.default_rng(0)
    params = {"W": rng.standard_normal((I, I))}

    def step(params, h, x):
        a = tanh(x[0] @ params["W"])
        b = sigmoid(sigmoid(tanh(a) * h))
        return tanh(b), (b, a)

    check(step, params, rng.standard_normal((B, I)), [rng.standard_normal((7, B, I))])
    check(step, params, rng.standard_normal((B, I)), [looked_up(rng, 6, 7, np.float64)])


def test_a_product_that_is_seen_outside_keeps_its_value():
    rng = np.random.default_rng(0)
    params = {"W": rng.standard_normal((I, I))}

    def step(params, h, x):
        z = h @ params["W"]
        return sigmoid(z) * x[0], z

    check(step, params, rng.standard_normal((B, I)), [rng.standard_normal((7, B, I))])


def test_a_batch_of_one():
    for cell in (LSTM(I, H), GRU(I, 1)):
        params, carry, x = case(cell, np.float64, 4, batch=1)
        check(on_first(cell), params, carry, [x])
        planned = Planned(on_first(cell), params, carry, [x])
        last, ys, _ = planned.forward(params, carry, [x])
        copies = [array.copy() for array in (*last, *ys)]
        planned.forward(params, carry, [x * 2])
        for a, b in zip((*last, *ys), copies, strict=True):
            np.testing.assert_array_equal(a, b)


def test_carries_that_are_copied():
    rng = np.random.default_rng(0)
    params = {"W": rng.standard_normal((I, I))}

    def step(params, carry, x):
        a, b, c, d = carry
        h = tanh(a @ params["W"] + b + x[0])
        return (h, a, h, d), (c, h, d)

    carry = tuple(rng.standard_normal((B, I)) for _ in range(4))
    check(step, params, carry, [rng.standard_normal((7, B, I))])
    check(lambda p, c, x: ((x[0], *c[:3]), c[3]), params, carry, [rng.standard_normal((7, B, I))], reverse=True)


def test_gradients_that_pass_a_step_unchanged():
    rng = np.random.default_rng(0)
    params = {"W": rng.standard_normal((I, I))}

    def step(params, carry, x):
        a, b, c = carry
        h = tanh(a @ params["W"] + x[0])
        return (h, b + x[0], a + c), (b * c, h)

    carry = tuple(rng.standard_normal((B, I)) for _ in range(3))
    check(step, params, carry, [rng.standard_normal((7, B, I))])
    check(step, params, carry, [looked_up(rng, 6, 7, np.float64)], reverse=True)


def test_only_wanted_gradients_are_given():
    cell = RNN(I, H)
    params, carry, x = case(cell, np.float64, 3)
    planned = Planned(on_first(cell), params, carry, [x], wanted=[True, False, True, True, False])
    _, ys, saved = planned.forward(params, carry, [x], keep=True)
    d_params, d_carry, d_xs, _ = planned.executor.backward(saved, [None], [np.ones_like(ys[0])])
    assert not d_params[1].any()
    assert d_params[0].any()
    assert d_carry[0].any()
    assert d_xs == [None]


def test_no_cotangent_is_a_zero_cotangent():
    cell = LSTM(I, H)
    params, carry, x = case(cell, np.float64, 3)
    planned = Planned(on_first(cell), params, carry, [x])
    d = np.ones((B, H))
    results = []
    for d_carry, d_ys in (([None, d], [None]), ([d * 0, d], [np.zeros((3, B, H))])):
        _, _, saved = planned.forward(params, carry, [x], keep=True)
        results.append(planned.executor.backward(saved, d_carry, d_ys))
    for a, b in zip(trees.leaves(results[0]), trees.leaves(results[1]), strict=True):
        np.testing.assert_array_equal(a, b)


def test_workspaces_are_used_again_and_never_shared():
    cell = LSTM(I, H)
    params, carry, x = case(cell, np.float64, 4)
    planned = Planned(on_first(cell), params, carry, [x])
    d = np.ones((4, B, H))

    def gradient(saved):
        return planned.executor.backward(saved, [None, None], [d])

    last, ys, first = planned.forward(params, carry, [x], keep=True)
    copies = [array.copy() for array in (*last, *ys)]
    expected = trees.map(np.copy, gradient(first))
    _, _, saved = planned.forward(params, carry, [x], keep=True)
    _, _, other = planned.forward(params, carry, [x * 2], keep=True)
    gradient(other)
    for a, b in zip(trees.leaves(gradient(saved)), trees.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip((*last, *ys), copies, strict=True):
        np.testing.assert_array_equal(a, b)
    pool = planned.executor._pool
    assert len(pool) == 2
    _, _, dropped = planned.forward(params, carry, [x], keep=True)
    assert len(pool) == 1
    del dropped
    assert len(pool) == 2
    assert other.space is None


def test_batches_of_many_sizes_share_functions_and_memory(monkeypatch):
    cell = LSTM(I, H)
    params, carry, x = case(cell, np.float32, 200, batch=8)
    planned = Planned(on_first(cell), params, carry, [x])

    def train(length, batch):
        some = trees.map(lambda c: c[:batch], carry)
        _, ys, saved = planned.forward(params, some, [x[:length, :batch]], keep=True)
        planned.executor.backward(saved, [None, None], ys)

    def kept():
        return [sum(map(len, space.values())) for space in planned.executor._pool]

    train(200, 8)
    (largest,) = kept()
    monkeypatch.setattr(numpy_code, "exec", lambda *_: pytest.fail("a function was made"), raising=False)
    for length in range(1, 200):
        train(length, 1 + length % 8)
    assert kept() == [largest]
    planned.executor.release()
    train(3, 2)
    assert kept()[0] < largest / 50


def functions_of(cell, stage="loop"):
    params, carry, x = case(cell, np.float32, 2)
    executor = Planned(on_first(cell), params, carry, [x]).executor
    codes = [*executor._forwards, *executor._backwards]
    return [[line.strip() for line in code.text.splitlines()] for code in codes if code.stage.name == stage]


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_every_call_of_a_loop_writes_into_memory_that_is_there(cell):
    for lines in functions_of(cell):
        loop = lines[next(i for i, line in enumerate(lines) if line.startswith("for step")) + 1 :]
        for line in loop:
            copies = re.fullmatch(r"\w+\[[:, \d]*\] = \w+|np\.copyto\(\w+, \w+\)", line)
            assert "out=" in line or copies or line.startswith(("if step % 16 == 0: flush", "pass"))


def test_the_functions_of_a_loop_have_few_calls_and_little_memory():
    forward, backward = functions_of(LSTM(I, H))
    assert sum("(" in line and "out=" in line for line in forward) == 14
    assert sum("(" in line and "out=" in line for line in backward) == 24
    assert sum(" = new(" in line for line in forward) == 3
    assert sum(" = new(" in line for line in backward) == 5
    # Gates and their cotangents are computed where the products read them.
    assert not [line for line in (*forward, *backward) if re.match(r"\w+\[.*\] = |np\.copyto", line)]


def test_numbers_are_arrays_for_numpy():
    """It converts a number at every call, which takes longer than an operation on small arrays."""
    params, carry, x = case(LSTM(I, H), np.float32, 2)
    executor = Planned(on_first(LSTM(I, H)), params, carry, [x]).executor
    scopes = [code._scope for code in (*executor._forwards, *executor._backwards)]
    numbers = [value for scope in scopes for name, value in scope.items() if re.fullmatch(r"n\d+", name)]
    assert numbers
    assert all(isinstance(x, np.ndarray) and x.dtype == np.float32 for x in numbers)


def test_matrices_of_products_are_copied_with_padding_once_per_call(monkeypatch):
    padded = []
    plain = numpy_backend._matrix
    monkeypatch.setattr(numpy_backend, "_matrix", lambda x: padded.append(x.shape) or plain(x))
    params, carry, x = case(LSTM(I, H), np.float32, 5)
    Planned(on_first(LSTM(I, H)), params, carry, [x]).forward(params, carry, [x])
    assert sorted(padded) == [(I, 4 * H), (H, 4 * H)]
    square = np.arange(512.0 * 512).reshape(512, 512)
    np.testing.assert_array_equal(plain(square), square)
    assert plain(square).strides[0] % 4096


def test_rows_of_rows_are_multiplied_by_a_matrix_in_one_product(monkeypatch):
    rng = np.random.default_rng(0)
    params, x = {"W": rng.standard_normal((H, H))}, rng.standard_normal((2, B, 4, H))
    planned = Planned(lambda p, h, x: (tanh(h @ p["W"] + x[0]),) * 2, params, x[0], [x])
    shapes = []
    monkeypatch.setattr(numpy_code.np, "matmul", lambda a, b, out: shapes.append(a.shape) or np.dot(a, b, out=out))
    planned.forward(params, x[0], [x])
    assert shapes == [(4 * B, H)] * 2


def test_a_stage_without_a_carry_runs_on_blocks_of_rows_that_stay_in_the_cache():
    x = np.ones((500, 10, 100))
    planned = Planned(lambda p, carry, x: ((), tanh(tanh(x[0] * 2) * 3) * 4), {}, (), [x], wanted=[False])
    planned.forward({}, (), [x])
    ((space,),) = [planned.executor._pool]
    buffers = [len(memory) for name, memory in space.items() if isinstance(name, str)]
    assert buffers
    assert max(buffers) <= 8 * numpy_backend._BLOCK < x.nbytes


def test_arrays_side_by_side_are_one_array():
    whole = np.arange(24.0).reshape(2, 12)
    parts = [whole[:, :3], whole[:, 3:4], whole[:, 4:9]]
    joined = numpy_backend._beside(parts, 1)
    np.testing.assert_array_equal(joined, whole[:, :9])
    assert np.shares_memory(joined, whole)
    for others in (
        parts[::-1],
        [parts[0], parts[2]],
        [parts[0], parts[1].copy()],
        [parts[0].copy(), parts[1]],
        [parts[0], whole[:, 9:3:-1]],
        [parts[0], whole.T[:2, :3]],
    ):
        joined = numpy_backend._beside(others, 1)
        assert not np.shares_memory(joined, whole)
        np.testing.assert_array_equal(joined, np.concatenate(others, 1))


def test_sums_over_many_rows_round_little():
    x = np.random.default_rng(0).random((4000, 50, 4)).astype(np.float32)
    params = {"b": np.ones(4, np.float32)}
    planned = Planned(lambda p, carry, x: ((), x[0] * p["b"]), params, (), [x], wanted=[True, False])
    _, _, saved = planned.forward(params, (), [x], keep=True)
    (d,), _, _, _ = planned.executor.backward(saved, [], [np.ones_like(x)])
    np.testing.assert_allclose(d, x.sum((0, 1), dtype=float), rtol=4e-6)


def test_the_function_in_the_documentation():
    params, carry, x = {"W": np.ones((128, 128), np.float32)}, np.ones((B, 128), np.float32), np.ones((2, B, 128))
    executor = Planned(lambda p, h, x: (tanh(h @ p["W"] + x[0]),) * 2, params, carry, [x.astype(np.float32)]).executor
    (text,) = [code.text for code in executor._forwards]
    assert text in (Path(__file__).parents[1] / "docs" / "engine.md").read_text()


def test_a_mask_beside_numbers_in_a_concatenation():
    rng = np.random.default_rng(0)

    def step(params, h, x):
        mask = x[0] > h
        both = concat(mask, x[0] * h)
        return tanh(both[:, 1 : I + 1] + params["b"]), (both, mask)

    check(step, {"b": rng.standard_normal(I)}, rng.standard_normal((B, I)), [rng.standard_normal((7, B, I))])


def test_parts_of_one_array_are_joined_without_a_copy():
    _, backward = functions_of(LSTM(I, H), "input")
    (product,) = [line for line in backward if "out=" in line or "] = v" in line]
    assert product.startswith("matmul")  # the gates' cotangents are columns of one array already
