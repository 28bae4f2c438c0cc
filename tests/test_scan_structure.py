"""What compiled code does for speed or in order to save memory, seen from outside: each test fails without it."""

import ctypes
import functools
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import numpy as np
import pytest

from minigrad import trees, value_and_grad
from minigrad.compiled import jit, memory
from minigrad.scan import available_backends, release, scan, use_backend
from minigrad.scan.planned import DrawingStepper
from rnn_cells.cell import Cell
from rnn_cells.lstm import LSTM
from rnn_cells.rnn import RNN
from rnn_plugins.language.model import Model
from rnn_plugins.language.sampling import BEFORE_PLANNING, DRAWN_AHEAD, Choice, sample

pytestmark = pytest.mark.skipif("compiled" not in available_backends(), reason="needs the extra jit")


@pytest.fixture(autouse=True)
def compiled(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Everything runs compiled, on two threads."""
    monkeypatch.setenv("MINIGRAD_THREADS", "2")
    with use_backend("compiled"):
        yield


def training(cell: Cell, dtype: Any = np.float32) -> Callable[[int, int], Any]:
    """A training step on T steps of B sequences: the loss and the gradients of parameters and inputs."""
    rng = np.random.default_rng(0)
    params = trees.map(lambda p: p.astype(dtype), cell.init_params(rng))

    def loss(given: Any) -> Any:
        params, xs = given
        carry = trees.map(lambda c: c.astype(dtype), cell.init_carry(xs.shape[1]))
        return (scan(cell, params, carry, xs)[1] ** 2).sum()

    def step(length: int, batch: int) -> Any:
        xs = rng.standard_normal((length, batch, cell.input_size)).astype(dtype)
        return value_and_grad(loss)((params, xs))

    return step


def recorded(monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> list[tuple[Any, ...]]:
    """The arguments of all calls of a function from now on."""
    calls: list[tuple[Any, ...]] = []
    plain = getattr(module, name)

    @functools.wraps(plain)
    def wrapper(*args: Any) -> Any:
        calls.append(args)
        return plain(*args)

    monkeypatch.setattr(module, name, wrapper)
    return calls


# --- memory -----------------------------------------------------------------------------------------------------------


class Allocated:
    """Counts the bytes of the memory that compiled code allocates."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = self.most = 0
        plain = memory._aligned

        def allocate(size: int) -> Any:
            array = plain(size)
            self.now += size
            self.most = max(self.most, self.now)
            weakref.finalize(array.base, self.free, size)
            return array

        monkeypatch.setattr(memory, "_aligned", allocate)
        monkeypatch.setattr(memory, "_pool", memory._Pool())

    def free(self, size: int) -> None:
        self.now -= size


def test_batches_of_any_sizes_run_the_same_code_in_the_memory_of_the_largest(monkeypatch):
    rng = np.random.default_rng(0)
    pairs = [(t, b) for t in range(1, 61) for b in range(1, 17)]
    sizes = [pairs[i] for i in rng.permutation(len(pairs))[:499]]
    step = training(LSTM(3, 37))
    texts = recorded(monkeypatch, jit, "compile_ir")
    step(60, 16)
    assert texts
    texts.clear()
    most = []
    for some in ([(60, 16)] * 3, [*sizes[:250], (60, 16), *sizes[250:]]):
        release()
        allocated = Allocated(monkeypatch)
        for size in some:
            step(*size)
        most.append(allocated.most)
    alone, among_others = most
    assert 1_000_000 < among_others < 1.2 * alone
    assert not texts


def test_a_training_step_of_the_same_size_allocates_no_memory(monkeypatch):
    monkeypatch.setattr(memory, "WORTH_KEEPING", 0)
    step = training(LSTM(3, 20))
    results = [step(9, 5) for _ in range(2)]
    allocated = recorded(monkeypatch, memory, "_aligned")
    for _ in range(3):
        del results[0]  # as in training, where gradients are used and forgotten
        results.append(step(9, 5))
    assert not allocated


def test_a_batch_of_a_size_that_has_been_needs_no_memory_beside_its_results(monkeypatch):
    monkeypatch.setattr(memory, "WORTH_KEEPING", 0)
    step = training(LSTM(3, 20))
    step(20, 9)
    monkeypatch.setattr(memory._pool, "take", memory._aligned)  # that of results
    allocated = recorded(monkeypatch, memory, "_aligned")
    for size in ((9, 5), (20, 1), (1, 9), (20, 9)):
        step(*size)
    assert not allocated


def test_calls_of_many_sizes_at_once_do_not_share_memory():
    cell = LSTM(3, 20)
    params = cell.init_params(np.random.default_rng(0))

    def gradient(seed: int) -> Any:
        rng = np.random.default_rng(seed)
        length, batch = rng.integers(1, 12, 2)
        some = [rng.standard_normal((length, batch, 3)).astype(np.float32) for _ in range(2)]

        def loss(params: Any) -> Any:
            runs = [
                scan(cell, params, cell.init_carry(batch), xs)[1] for xs in some
            ]  # two wait for their backward pass
            return sum((ys**2).sum() for ys in runs)

        with use_backend("compiled"):  # in this thread
            return value_and_grad(loss)(params)[1]

    alone = [gradient(seed) for seed in range(60)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(gradient, range(60)))
    for found, expected in zip(trees.leaves(together), trees.leaves(alone), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_outputs_that_are_carries_are_not_copied():
    cell = RNN(3, 5)
    params = cell.init_params(np.random.default_rng(0))
    carry = np.full((2, 5), 7.0, np.float32)
    _, ys = scan(cell, params, carry, np.ones((4, 2, 3), np.float32))
    whole = ys
    while isinstance(whole.base, np.ndarray):
        whole = whole.base
    assert whole.nbytes >= 5 * carry.nbytes  # the carry before the first step is in it


# --- threads ----------------------------------------------------------------------------------------------------------


def runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """How many tasks run in parallel from now on: of stages, of packing, and of sums over rows."""
    from minigrad.scan import compiled_backend

    found: list[tuple[str, int]] = []
    kind = ["run"]
    plain = compiled_backend.in_parallel

    def in_parallel(tasks: Any) -> None:
        found.append((kind[-1], len(tasks)))
        plain(tasks)

    def within(name: str) -> None:
        method = getattr(compiled_backend.Part, name)

        def wrapper(*args: Any) -> Any:
            kind.append(name)
            try:
                return method(*args)
            finally:
                kind.pop()

        monkeypatch.setattr(compiled_backend.Part, name, wrapper)

    monkeypatch.setattr(compiled_backend, "in_parallel", in_parallel)
    within("_pack")
    within("sums")
    return found


def test_threads_share_the_batch_the_packing_and_the_sums_if_there_is_work(monkeypatch):
    step = training(LSTM(256, 256))
    step(2, 2)
    found = runs(monkeypatch)
    step(32, 16)
    assert {name for name, tasks in found if tasks == 2} == {"run", "_pack", "sums"}
    assert sum(name == "run" and tasks == 2 for name, tasks in found) == 4  # inputs and loop, both ways
    found.clear()
    step(1, 2)
    assert not [name for name, tasks in found if name != "_pack" and tasks > 1]


def test_threads_share_the_steps_of_a_stage_without_a_carry(monkeypatch):
    found = runs(monkeypatch)
    rng = np.random.default_rng(0)
    context, xs = rng.standard_normal((16, 5, 64)), rng.standard_normal((40, 16, 64))

    def loss(given: Any) -> Any:
        def read(params: Any, carry: Any, x: Any, context: Any) -> Any:
            return (), np.einsum("bsh,bh->bs", context, x @ params)

        params, context = given
        return (scan(read, params, (), xs, context=context)[1] ** 2).sum()

    value_and_grad(loss)((np.eye(64), context))
    assert sum(name == "run" and tasks == 2 for name, tasks in found) == 2


def test_a_gradient_of_a_vector_is_added_up_where_its_terms_are_computed(monkeypatch):
    """And not from all its terms, which would take more memory than all the rest."""
    from minigrad.scan import compiled_backend

    rng = np.random.default_rng(0)
    params = {"W": rng.standard_normal((4, 4)), "v": rng.standard_normal((4, 1))}
    h, xs = rng.standard_normal((3, 4)), rng.standard_normal((6, 3, 7, 4))

    def step(params: Any, h: Any, x: Any) -> Any:
        h = np.tanh(h @ params["W"] + ((np.tanh(x + h[:, None]) @ params["v"]) * x).sum(axis=1))
        return h, h

    def loss(params: Any) -> Any:
        return (scan(step, params, h, xs)[1] ** 2).sum()

    products = recorded(monkeypatch, compiled_backend.Part, "_outer")
    found = value_and_grad(loss)(params)[1]
    assert [(left.shape, right.shape) for _, left, right, _ in products] == [((18, 4), (18, 4))]
    with use_backend("reference"):
        expected = value_and_grad(loss)(params)[1]
    for name in params:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-10)


# --- numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_code_flushes_denormal_numbers_and_the_process_does_not(dtype):
    smallest = np.finfo(dtype).smallest_normal
    half = np.full((3, 2, 5), 0.5, dtype)

    def loss(h: Any) -> Any:
        return scan(lambda p, h, x: (h * x, h * x), {}, h, half)[1].sum()

    value, gradient = value_and_grad(loss)(np.full((2, 5), smallest))
    assert value == 0
    np.testing.assert_array_equal(gradient, 0.5 + 0.25 + 0.125)
    (gradient,) = trees.leaves(value_and_grad(lambda h: loss(h) * smallest)(np.ones((2, 5), dtype))[1])
    np.testing.assert_array_equal(gradient, 0)
    assert smallest / dtype(2) > 0


# --- sampling ---------------------------------------------------------------------------------------------------------


def stepper(hidden: int) -> DrawingStepper:
    model = Model(LSTM(11, hidden), 11, dtype="float64")
    step = model.stepper(model.init_params(np.random.default_rng(0)), model.init_carry(1))
    assert isinstance(step, DrawingStepper)
    return step


def test_the_products_of_one_row_are_shared_if_its_matrices_are_large(monkeypatch):
    from minigrad.scan import compiled_stepping

    calls = recorded(monkeypatch, compiled_stepping, "in_parallel")
    products = []
    for hidden in (300, 20):
        step = stepper(hidden)
        products.append({ctypes.c_int64.from_address(call.args[0]).value for call in step._calls})
        step.sample(4, np.full(3, 0.5), 1.0)
    assert [len(tasks) for (tasks,) in calls] == [2]
    ((shared,), (alone,)) = products
    assert shared == stepper(300)._shared.address != alone


def test_many_symbols_are_drawn_by_one_call_of_code(monkeypatch):
    from minigrad.scan import compiled_stepping

    step = stepper(20)
    drawing = compiled_stepping._sampler("double")
    calls = []
    monkeypatch.setattr(compiled_stepping, "_sampler", lambda dtype: lambda *args: (calls.append(args), drawing(*args)))
    assert len(step.sample(4, np.full(200, 0.5), 1.0)) == 200
    assert len(calls) == 1


def test_a_text_is_drawn_ahead(monkeypatch):
    from minigrad.scan import compiled_stepping

    model = Model(RNN(11, 5), 11)
    params = model.init_params(np.random.default_rng(0))
    drawn = recorded(monkeypatch, compiled_stepping.Stepper, "sample")
    steps = recorded(monkeypatch, compiled_stepping.Stepper, "__call__")
    symbols = sample(model, params, [1, 2], Choice(), np.random.default_rng(5))
    list(islice(symbols, BEFORE_PLANNING + 3 * DRAWN_AHEAD))
    assert max(len(uniform) for _, _, uniform, _ in drawn) > 8
    assert not steps
