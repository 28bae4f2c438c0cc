"""Former errors of the planned loop, each on a small step: differences from the reference loop, harm to the caller."""

import gc
import math
import threading
import tracemalloc
from dataclasses import InitVar, dataclass
from typing import Any

import numpy as np
import pytest

from minigrad import concat, no_grad, pick, sigmoid, tanh, value_and_grad, where
from minigrad import sum as total
from minigrad.scan import Lookup, available_backends, reference, scan, stepper, use_backend
from rnn_cells import Cell

every_backend = pytest.mark.parametrize("backend", available_backends())
RNG = np.random.default_rng(0)


def both(step, params, carry, xs, backend, **options):
    """Values and gradients on the reference loop and on a backend."""

    def loss(inputs):
        last, ys = scan(step, inputs[0], inputs[1], xs, **options)
        return total(last * last) + total(ys * ys), ys

    results = []
    for name in ("reference", backend):
        with use_backend(name), pytest.MonkeyPatch.context() as patch:
            if name != "reference":
                patch.delattr(reference, "scan")  # a step that fell back would show nothing
            (value, ys), gradient = value_and_grad(loss, has_aux=True)((params, carry))
            results.append([value, ys, *gradient[0].values(), gradient[1]])
    for expected, found in zip(*results, strict=True):
        assert found.dtype == expected.dtype
        scale = max(1.0, float(np.abs(expected).max()))
        np.testing.assert_allclose(found, expected, rtol=0, atol=scale * (1e-5 if found.dtype == np.float32 else 1e-10))


def normal(*shape, dtype=np.float64):
    return RNG.standard_normal(shape).astype(dtype)


@every_backend
@pytest.mark.parametrize("matrix", [np.arange(16).reshape(4, 4) - 7, np.eye(4) > 0])
def test_matrices_of_integers_and_of_truths(matrix, backend):
    both(
        lambda p, h, x: (tanh(h @ matrix * 0.1 + x * p["g"]),) * 2,
        {"g": normal(4)},
        normal(3, 4),
        normal(5, 3, 4),
        backend,
    )


@every_backend
def test_one_vector_beside_two_products(backend):
    def step(p, h, x):
        h = tanh(x @ p["W"] + p["b"]) * h + sigmoid(x @ p["V"] + p["b"])
        return h, h

    p = {"W": normal(4, 4), "V": normal(4, 4), "b": normal(4)}
    both(step, p, normal(3, 4), normal(5, 3, 4), backend)


@every_backend
def test_numbers_of_a_type_keep_it_where_nothing_else_has_it(backend):
    def step(p, h, x):
        return (tanh(h + x * where(p["g"] > 0, np.float32(1), np.float32(0.25))),) * 2

    args = {"g": normal(4, dtype=np.float32)}, normal(3, 4, dtype=np.float32), normal(5, 3, 4, dtype=np.float32)
    both(step, *args, backend)


@every_backend
def test_masks_in_a_sum_count_each(backend):
    both(
        lambda p, h, x: (tanh(h * 0.5 + (x > -9) + (x > -8) + p["b"]),) * 2,
        {"b": normal(4)},
        normal(3, 4),
        normal(5, 3, 4),
        backend,
    )


@every_backend
def test_two_numbers_in_a_sum(backend, caplog):
    def step(p, h, x):
        return (tanh(h * p["b"] + 1.0 + x + 0.5),) * 2

    args = {"b": normal(4, dtype=np.float32)}, normal(3, 4, dtype=np.float32), normal(5, 3, 4, dtype=np.float32)
    both(step, *args, backend)
    assert not caplog.messages


@dataclass(frozen=True)
class Scaled(Cell):
    scale: InitVar[float] = 1.0

    def __post_init__(self, scale):
        super().__post_init__()
        object.__setattr__(self, "factor", scale)

    def __call__(self, params, h, x):
        h = tanh(h * self.factor + x)
        return h, h


@every_backend
def test_what_is_beside_the_fields_counts_too(backend):
    h, xs = normal(2, 3), normal(4, 2, 3)
    for scale in (1.0, 2.0):
        with use_backend(backend):
            _, ys = scan(Scaled(3, 3, scale), {}, h, xs)
        with use_backend("reference"):
            np.testing.assert_allclose(ys, scan(Scaled(3, 3, scale), {}, h, xs)[1], rtol=1e-10)


@every_backend
def test_gradients_do_not_share_memory(backend):
    """A gradient is added to in place where its input is used elsewhere too; another's must not change by that."""
    h, a, b = normal(2, 3), normal(4, 2, 3), normal(4, 2, 3)
    A, B = normal(3, 3), normal(3, 3)

    def inputs_loss(xs):
        last, _ = scan(lambda p, h, x: (tanh(h + tanh(x[0] + x[1])), ()), {}, h, (xs[0], xs[1]))
        return total(last * last) + total(xs[0] * xs[0])

    def matrices_loss(ms):
        last, _ = scan(lambda p, h, x: (tanh(h @ (p["A"] + p["B"].T) + x), ()), ms, h, a)
        return total(last * last) + total(ms["A"] * ms["A"])

    for loss, at in ((inputs_loss, [a, b]), (matrices_loss, {"A": A, "B": B})):
        results = []
        for name in ("reference", backend):
            with use_backend(name):
                gradient = value_and_grad(loss)(at)[1]
                results.append(gradient if isinstance(gradient, list) else list(gradient.values()))
        for expected, found in zip(*results, strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-10)


@every_backend
def test_a_large_table_by_indices_from_the_end(backend):
    table, indices = normal(600, 3), RNG.integers(-600, 600, (40, 20))
    indices[0, :2] = -1, 599

    def loss(table):
        last, _ = scan(lambda p, h, x: (tanh(h * 0.5 + x), ()), {}, normal_start, Lookup(table, indices))
        return total(last * last)

    normal_start = np.zeros((20, 3))
    gradients = []
    for name in ("reference", backend):
        with use_backend(name):
            gradients.append(value_and_grad(loss)(table)[1])
    np.testing.assert_allclose(gradients[1], gradients[0], rtol=1e-9, atol=1e-12)


def refused(p, h, x):
    return (h + x, x) if float(h.sum()) > 0 else (h, x)


@every_backend
def test_a_refused_step_leaves_nothing_behind(backend):
    big = {"W": np.zeros(100_000)}
    with use_backend(backend):
        scan(refused, big, np.ones((2, 3)), np.ones((1, 2, 3)))
        tracemalloc.start()
        for _ in range(20):
            scan(refused, {"W": np.zeros(100_000)}, np.ones((2, 3)), np.ones((1, 2, 3)))
        gc.collect()
        used, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert used < 3_000_000  # twenty times 0.8 MB were given


@every_backend
def test_one_index_for_rows_of_two_widths(backend):
    def step(p, h, x):
        wide = concat(h, h)
        return tanh(h + x[0] + pick(wide, x[1])[:, None] + pick(h, x[1])[:, None]), h

    xs = normal(4, 2, 3), np.full((4, 2), 1)
    with use_backend("reference"):
        expected = scan(step, {}, np.ones((2, 3)), xs)[1]
    with use_backend(backend):
        np.testing.assert_allclose(scan(step, {}, np.ones((2, 3)), xs)[1], expected, rtol=1e-9)
        with pytest.raises(IndexError):
            scan(step, {}, np.ones((2, 3)), (xs[0], np.full((4, 2), 4)))


@dataclass(frozen=True)
class Held(Cell):
    def __call__(self, params, h, x):
        h = where(h > -5, tanh(h + x), -np.inf)
        return h, h


@every_backend
def test_steppers_check_their_symbols_and_spell_their_numbers(backend):
    table = np.eye(3)
    with use_backend(backend):
        step = stepper(Held(3, 3), {}, np.zeros((1, 3)), table)
        assert step is not None
        np.testing.assert_allclose(step([1])[0], np.tanh(table[1:2]))
        with pytest.raises(IndexError):
            step([3])
        assert stepper(Held(3, 3), {}, (), table) is None


@every_backend
def test_clipping_to_an_array(backend):
    bound = np.array([0.1, 0.2, 0.3])
    both(
        lambda p, h, x: (np.clip(h * p["g"] + x, -bound, bound),) * 2,
        {"g": normal(3)},
        normal(2, 3),
        normal(4, 2, 3),
        backend,
    )


@every_backend
def test_padding_of_integers_may_be_anything(backend):
    xs = normal(4, 2, 3), np.array([[0, 1], [2, -100], [1, -100], [-100, -100]])
    live = xs[1] >= 0

    def step(p, h, x):
        return tanh(h + x[0] + pick(x[0], x[1])[:, None]), h

    with use_backend("reference"):
        expected = scan(step, {}, np.ones((2, 3)), xs, mask=live)
    with use_backend(backend):
        found = scan(step, {}, np.ones((2, 3)), xs, mask=live)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10)


@every_backend
def test_a_reversed_column_is_no_column(backend):
    def step(p, h, x):
        return tanh(h + x.sum(axis=1)[::-1, None]), h

    with use_backend("reference"):
        expected = scan(step, {}, np.ones((2, 3)), XS)[1]
    with use_backend(backend):
        np.testing.assert_allclose(scan(step, {}, np.ones((2, 3)), XS)[1], expected, rtol=1e-10)


XS = normal(4, 2, 3)


@every_backend
def test_loops_on_several_threads_at_once(backend):
    """Workspaces are handed out to one call at a time."""
    params, h, xs = {"W": normal(8, 8)}, normal(4, 8), normal(6, 4, 8)

    def loss(params, scale):
        last, ys = scan(lambda p, h, x: (tanh(h @ p["W"] + x),) * 2, params, h, xs * scale)
        return total(last * ys[-1])

    scales = [0.5, 1.0, 1.5, 2.0]
    with use_backend("reference"):
        expected = [value_and_grad(loss)(params, scale)[1]["W"] for scale in scales]
    wrong: list[Any] = []

    def work(scale, gradient):
        with use_backend(backend):
            for _ in range(15):
                found = value_and_grad(loss)(params, scale)[1]["W"]
                if not np.allclose(found, gradient, rtol=1e-8, atol=1e-10):
                    wrong.append(scale)

    threads = [threading.Thread(target=work, args=pair) for pair in zip(scales, expected, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def _through_math(p, h, x):
    h = h + (x - h) * (1 - math.exp(-p["tau"]))
    return h, h


def _element_by_element(p, h, x):
    h = h + x * np.full(4, p["tau"])
    return h, h


@pytest.mark.parametrize("backend", ["reference", *available_backends()])
def test_a_parameter_that_becomes_a_plain_number_in_a_step_is_refused(backend):
    carry, xs = normal(3, 4), normal(5, 3, 4)
    for step in (_through_math, _element_by_element):
        with use_backend(backend), pytest.raises(TypeError, match="which would lose its gradient: use"):
            value_and_grad(lambda p, step=step: total(scan(step, p, carry, xs)[1]))({"tau": np.float64(0.5)})
    with use_backend(backend):  # where nothing is differentiated, nothing is lost
        _, ys = scan(_through_math, {"tau": np.float64(0.5)}, carry, xs)
    assert ys.shape == xs.shape


IN_NUMPYS_WORDS = {
    "einsum": lambda p, h, x: np.einsum("bi,ij->bj", h, p["W"]),
    "einsum of the transpose": lambda p, h, x: np.einsum("oi,bi->bo", p["W"], h),
    "einsum of rows": lambda p, h, x: np.expand_dims(np.einsum("bi,bi->b", h, x), 1),
    "einsum of a vector": lambda p, h, x: np.expand_dims(np.einsum("bi,i->b", h, p["g"]), -1),
    "squeeze": lambda p, h, x: np.expand_dims(np.squeeze(np.max(h, 1, keepdims=True), axis=1), 1),
    "dot": lambda p, h, x: np.dot(h, p["W"]),
    "outer": lambda p, h, x: h @ np.outer(p["g"], p["g"]),
    "min": lambda p, h, x: h.min(axis=1, keepdims=True),
    "std": lambda p, h, x: h.std(axis=1, keepdims=True),
    "norm": lambda p, h, x: np.linalg.norm(h, axis=1, keepdims=True),
    "prod": lambda p, h, x: np.prod(h, axis=1, keepdims=True),
    "roll": lambda p, h, x: np.roll(h, 1, axis=1),
    "hstack": lambda p, h, x: np.hstack([h[:, :2], x[:, 2:]]),
    "astype": lambda p, h, x: h * (h > 0).astype(h.dtype),
    "full_like": lambda p, h, x: np.full_like(h, 0.5) * h,
}


@every_backend
@pytest.mark.parametrize("f", IN_NUMPYS_WORDS.values(), ids=IN_NUMPYS_WORDS)
def test_a_step_in_numpys_words_is_planned(f, backend):
    def step(p, h, x):
        h = tanh(f(p, h, x) + x * p["g"])
        return h, h

    both(step, {"W": normal(4, 4), "g": normal(4)}, normal(3, 4), normal(5, 3, 4), backend)


@every_backend
def test_what_a_step_computes_within_no_grad_has_no_gradient_on_any_backend(backend):
    def step(p, h, x):
        with no_grad():
            past, up = h @ p["W"], h > 0
        h = tanh(past + x * p["g"] + where(up, h, 0))
        return h, h

    params, carry, xs = {"W": normal(4, 4), "g": normal(4)}, normal(3, 4), normal(5, 3, 4)
    found = []
    for name in ("reference", backend):
        with use_backend(name):
            found.append(value_and_grad(lambda p: total(scan(step, p, carry, xs)[1]))(params)[1])
    assert not found[0]["W"].any()
    for name in params:
        np.testing.assert_allclose(found[1][name], found[0][name], rtol=1e-12)
