"""Arrays of any layout, alignment and byte order at every entrance of the time loop: only their elements count."""

from typing import Any

import numpy as np
import pytest

from minigrad import concat, pick, tanh, trees, vjp, where
from minigrad.compiled.memory import readable
from minigrad.optimizers import clip_by_global_norm, clip_by_value
from minigrad.scan import BACKENDS, Lookup, available_backends, scan, stepper, use_backend
from minigrad.scan.planned import DrawingStepper
from minigrad.tensor import value_of
from rnn_cells.gru import GRU

T, B, N, H = 5, 4, 3, 6


def fields_of_records(x: Any) -> Any:
    """The array as a field of packed records: its strides are no multiple of the size of an element."""
    records = np.zeros(x.shape, np.dtype([("name", "S3"), ("x", x.dtype)]))
    records["x"] = x
    return records["x"]


def frozen(x: Any) -> Any:
    x = x.copy()
    x.flags.writeable = False
    return x


LAYOUTS = {
    "Fortran order": np.asfortranarray,
    "axes exchanged": lambda x: np.ascontiguousarray(x.swapaxes(0, -1)).swapaxes(0, -1) if x.ndim else x,
    "reversed": lambda x: np.flip(np.flip(x).copy()),
    "every second": lambda x: np.repeat(x, 2, axis=-1)[..., ::2],
    "fields of records": fields_of_records,
    "unaligned": lambda x: np.frombuffer(b"x" + x.tobytes(), x.dtype, offset=1).reshape(x.shape),
    "another byte order": lambda x: x.astype(x.dtype.newbyteorder()),
    "read only": frozen,
}
every_layout = pytest.mark.parametrize("layout", LAYOUTS)
every_backend = pytest.mark.parametrize(
    "backend", [name for name in BACKENDS if name in (*available_backends(), "reference")]
)


def step(p: Any, carry: Any, x: Any) -> Any:
    h, s = carry["h"], carry["s"]
    z = tanh(concat(h, x["x"], x["word"]) @ p["W"] * p["scale"] + p["b"])
    h = where(x["flag"], z, h * p["gain"] + pick(x["x"], x["label"])[:, None] * 0.1)
    return {"h": h, "s": s * 0.5 + h.sum(axis=1)}, (h, s)


def inputs(dtype: Any) -> dict[str, Any]:
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> Any:
        return rng.standard_normal(shape).astype(dtype)

    params = {"W": normal(H + N + 2, H), "b": normal(H), "gain": normal(1, H), "scale": normal()}
    return {
        "params": params,
        "carry": {"h": normal(B, H), "s": normal(B)},
        "x": normal(T, B, N),
        "flag": rng.random((T, B, H)) < 0.5,
        "label": rng.integers(0, N, (T, B)),
        "table": normal(7, 2),
        "indices": rng.integers(0, 7, (T, B)),
        "mask": rng.random((T, B)) < 0.7,
        "cotangents": [normal(B, H), normal(B), normal(T, B, H), normal(T, B)],
    }


def results(given: dict[str, Any], backend: str, **options: Any) -> list[Any]:
    """All that a loop gives, and all its gradients."""

    def run(params: Any, carry: Any, x: Any, table: Any) -> Any:
        word = Lookup(table, given["indices"])
        xs = {"x": x, "flag": given["flag"], "label": given["label"], "word": word}
        last, ys = scan(step, params, carry, xs, **options)
        return [last["h"], last["s"], *ys]

    with use_backend(backend):
        values, pullback = vjp(run, given["params"], given["carry"], given["x"], given["table"])
        return [value_of(x) for x in [*values, *trees.leaves(pullback(given["cotangents"]))]]


ENTRANCES = ["params", "carry", "x", "flag", "label", "table", "indices", "mask", "cotangents"]


@every_backend
@every_layout
@pytest.mark.parametrize("entrance", ENTRANCES)
def test_only_the_elements_count(entrance, layout, backend):
    for dtype, tolerance in ((np.float64, 1e-12), (np.float32, 1e-5)):
        plain = inputs(dtype)
        given = plain | {entrance: trees.map(LAYOUTS[layout], plain[entrance])}
        expected = results(plain, "reference", mask=plain["mask"])
        for found, right in zip(results(given, backend, mask=given["mask"]), expected, strict=True):
            assert (found.dtype, found.dtype.isnative) == (right.dtype, True)
            np.testing.assert_allclose(found, right, rtol=tolerance, atol=tolerance * 10)


@every_backend
@every_layout
def test_lengths(layout, backend):
    given, lengths = inputs(np.float64), np.array([5, 0, 3, 1])
    expected = results(given, "reference", lengths=lengths)
    for found, right in zip(results(given, backend, lengths=LAYOUTS[layout](lengths)), expected, strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-12, atol=1e-11)


@every_backend
def test_a_mask_of_a_batch_major_text(backend):
    """``mask.T`` of a mask (B, T), as a data loader gives it."""
    cell, rng = GRU(N, H), np.random.default_rng(0)
    params, mask = cell.init_params(rng), rng.random((B, T)) < 0.5
    xs, carry = rng.standard_normal((T, B, N)).astype(np.float32), cell.init_carry(B)
    with use_backend("reference"):
        expected = cell.unroll(params, carry, xs, mask=np.ascontiguousarray(mask.T))
    with use_backend(backend):
        found = cell.unroll(params, carry, xs, mask=mask.T)
    for x, y in trees.zip_leaves(found, expected):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


@every_backend
@pytest.mark.parametrize(("length", "batch"), [(0, B), (T, 0), (0, 0), (1, 1)])
def test_nothing_and_next_to_nothing(length, batch, backend):
    cell = GRU(N, H)
    params = cell.init_params(np.random.default_rng(0))
    xs, carry = np.asfortranarray(np.ones((length, batch, N), ">f4")), np.asfortranarray(cell.init_carry(batch))
    with use_backend("reference"):
        expected = cell.unroll(params, carry, np.ones((length, batch, N), np.float32))
    with use_backend(backend):
        found = cell.unroll(params, carry, xs)
    for x, y in trees.zip_leaves(found, expected):
        assert x.shape == y.shape
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backend", available_backends())
@every_layout
@pytest.mark.parametrize("entrance", ["params", "carry", "table", "symbols", "uniform"])
def test_a_prepared_step(entrance, layout, backend):
    cell = GRU(N, N)

    def drawn(change: Any) -> list[Any]:
        given = {
            "params": cell.init_params(np.random.default_rng(1)),
            "carry": np.random.default_rng(2).standard_normal((1, N)).astype(np.float32),
            "table": np.random.default_rng(3).standard_normal((N, N)).astype(np.float32),
            "symbols": np.array([2]),
            "uniform": np.random.default_rng(4).random(50),
        }
        given |= {name: trees.map(change, given[name]) for name in [entrance]}
        with use_backend(backend):
            prepared = stepper(cell, given["params"], given["carry"], given["table"])
        assert prepared is not None
        found = [np.array(y) for y in prepared(given["symbols"])] + prepared.carry
        if isinstance(prepared, DrawingStepper):
            found.append(prepared.sample(1, given["uniform"], 0.7))
        return found

    for found, right in zip(drawn(LAYOUTS[layout]), drawn(lambda x: x), strict=True):
        np.testing.assert_array_equal(found, right)


@every_backend
@every_layout
def test_what_clips_gradients(layout, backend):
    rng = np.random.default_rng(0)
    gradients = {"W": rng.standard_normal((300, 60)), "b": rng.standard_normal(5), "s": np.array(0.3)}
    changed = trees.map(LAYOUTS[layout], gradients)
    with use_backend(backend):
        for clip in (lambda g: clip_by_global_norm(g, 1.5), lambda g: clip_by_value(g, 0.2)):
            for found, right in trees.zip_leaves(clip(changed), clip(gradients)):
                np.testing.assert_allclose(found, right, rtol=1e-13)


@every_layout
def test_what_compiled_code_reads(layout):
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    for dtype in (np.float32, np.float64, np.int64):
        found = readable(LAYOUTS[layout](x), dtype)
        assert found.dtype == dtype
        assert found.flags.c_contiguous
        assert found.flags.aligned
        np.testing.assert_array_equal(found, x)
    found = readable(LAYOUTS[layout](x), np.float32, strided=True)
    assert all(stride % found.itemsize == 0 for stride in found.strides)
    np.testing.assert_array_equal(found, x)
    assert readable(x, np.float32) is x
    assert np.shares_memory(readable(x.T, np.float32, strided=True), x)
    assert readable(3, np.int64).shape == ()
