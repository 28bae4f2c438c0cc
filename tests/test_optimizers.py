"""Every optimiser equals PyTorch's own, writes into nothing that it was given, and keeps every dtype."""

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from minigrad import checkpoint, trees
from minigrad.compiled.flat import BLOCK, WORTH_WIDENING
from minigrad.optimizers import (
    OPTIMIZERS,
    Optimizer,
    adagrad,
    adam,
    adamw,
    clip_by_global_norm,
    clip_by_value,
    freezing,
    global_norm,
    rmsprop,
    sgd,
)
from minigrad.scan import available_backends, use_backend

VARIANTS: dict[str, Callable[[], Optimizer]] = {
    "sgd": sgd,
    "sgd momentum": lambda: sgd(momentum=0.9),
    "sgd nesterov": lambda: sgd(momentum=0.9, nesterov=True),
    "rmsprop": rmsprop,
    "rmsprop momentum": lambda: rmsprop(decay=0.95, epsilon=1e-6, momentum=0.5),
    "adagrad": adagrad,
    "adam": adam,
    "adam slow": lambda: adam(beta1=0.5, beta2=0.99, epsilon=1e-4),
    "adamw": adamw,
    "adamw strong": lambda: adamw(weight_decay=0.3),
}

variants = pytest.mark.parametrize("variant", VARIANTS)


def exactly(message: str) -> str:
    return f"^{re.escape(message)}$"


def example(seed: int, dtype: Any = np.float64) -> Any:
    rng = np.random.default_rng(seed)
    return trees.cast(
        {"cell": {"W": rng.standard_normal((4, 3)), "b": rng.standard_normal(3)}, "scale": (np.array(rng.normal()),)},
        dtype,
    )


def copied(tree: Any) -> Any:
    return trees.map(np.copy, tree)


def assert_equal(a: Any, b: Any) -> None:
    trees.map(np.testing.assert_array_equal, a, b)


def run(optimizer: Optimizer, steps: int, dtype: Any = np.float64) -> tuple[Any, Any]:
    params = example(0, dtype)
    state = optimizer.init(params)
    for step in range(steps):
        params, state = optimizer.update(example(step + 1, dtype), state, params, 0.01)
    return params, state


@variants
def test_equals_pytorch_over_20_steps(variant: str) -> None:
    torch = pytest.importorskip("torch")
    peers = {
        "sgd": lambda p: torch.optim.SGD(p),
        "sgd momentum": lambda p: torch.optim.SGD(p, momentum=0.9),
        "sgd nesterov": lambda p: torch.optim.SGD(p, momentum=0.9, nesterov=True),
        "rmsprop": lambda p: torch.optim.RMSprop(p),
        "rmsprop momentum": lambda p: torch.optim.RMSprop(p, alpha=0.95, eps=1e-6, momentum=0.5),
        "adagrad": lambda p: torch.optim.Adagrad(p),
        "adam": lambda p: torch.optim.Adam(p),
        "adam slow": lambda p: torch.optim.Adam(p, betas=(0.5, 0.99), eps=1e-4),
        "adamw": lambda p: torch.optim.AdamW(p),
        "adamw strong": lambda p: torch.optim.AdamW(p, weight_decay=0.3),
    }
    optimizer = VARIANTS[variant]()
    params = example(0)
    state = optimizer.init(params)
    theirs = [torch.tensor(leaf, requires_grad=True) for leaf in trees.leaves(params)]
    peer = peers[variant](theirs)
    for step in range(20):
        rate = 0.1 / (1 + step)
        # Gradients over eight orders of magnitude, so that epsilon counts in some of them.
        grads = trees.map(lambda g, scale=10.0 ** (-step % 9 - 4): scale * g, example(step + 1))
        for tensor, g in zip(theirs, trees.leaves(grads), strict=True):
            tensor.grad = torch.tensor(g)
        peer.param_groups[0]["lr"] = rate
        peer.step()
        params, state = optimizer.update(grads, state, params, rate)
        for ours, tensor in zip(trees.leaves(params), theirs, strict=True):
            np.testing.assert_allclose(ours, tensor.detach().numpy(), rtol=1e-12, atol=1e-14)


FIRST_STEPS = [
    (sgd(), [0.8, 0.75]),
    (sgd(momentum=0.5), [0.8, 0.65]),
    (sgd(momentum=0.5, nesterov=True), [0.7, 0.575]),
    (rmsprop(decay=0.75), [1 - 0.2, 0.8 - 0.1 * 0.5 / math.sqrt(0.8125)]),
    (adagrad(), [1 - 0.1, 0.9 - 0.1 * 0.5 / math.sqrt(4.25)]),
    (adam(beta1=0.5, beta2=0.75), [1 - 0.1, 0.9 - 0.1 * (0.75 / 0.75) / math.sqrt(0.8125 / 0.4375)]),
    (adamw(beta1=0.5, beta2=0.75, weight_decay=1.0), [0.8, 0.72 - 0.1 / math.sqrt(0.8125 / 0.4375)]),
]


@pytest.mark.parametrize(("optimizer", "expected"), FIRST_STEPS)
def test_two_steps_by_hand(optimizer: Optimizer, expected: list[float]) -> None:
    params = np.array([1.0])
    state = optimizer.init(params)
    seen = []
    for g in (2.0, 0.5):
        params, state = optimizer.update(np.array([g]), state, params, 0.1)
        seen.append(params.item())
    assert seen == pytest.approx(expected, abs=1e-7)


@variants
def test_writes_into_nothing_that_it_was_given_and_gives_nothing_of_it_back(variant: str) -> None:
    optimizer = VARIANTS[variant]()
    params, state = run(optimizer, 2)
    given = (example(9), state, params)
    before = copied(given)
    after = optimizer.update(*given, 0.01)
    assert_equal(given, before)
    assert not any(np.shares_memory(a, b) for a in trees.leaves(after) for b in trees.leaves(given))


@variants
def test_a_state_from_a_checkpoint_goes_on_bit_for_bit(variant: str, tmp_path: Any) -> None:
    optimizer = VARIANTS[variant]()
    params, state = run(optimizer, 3, np.float32)
    checkpoint.save(tmp_path / "half", (params, state), {})
    (saved_params, saved_state), _ = checkpoint.load(tmp_path / "half")
    grads = example(9, np.float32)
    assert_equal(optimizer.update(grads, state, params, 0.01), optimizer.update(grads, saved_state, saved_params, 0.01))


@variants
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rate", [0.1, np.float64(0.1), np.array(0.1)])
def test_arrays_keep_their_dtype_and_shape(variant: str, dtype: Any, rate: Any) -> None:
    optimizer = VARIANTS[variant]()
    params, grads = example(0, dtype), example(1, dtype)
    made, state = optimizer.update(grads, optimizer.init(params), params, rate)
    assert_equal((made, state), optimizer.update(grads, optimizer.init(params), params, 0.1))
    for leaf in trees.leaves((made, state)):
        assert isinstance(leaf, np.ndarray)
        assert leaf.dtype == (np.int64 if leaf is state.get("step") else dtype)
    assert trees.map(np.shape, made) == trees.map(np.shape, params)


@variants
def test_layout_of_the_arrays_does_not_matter(variant: str) -> None:
    optimizer = VARIANTS[variant]()
    params, grads = np.arange(12.0).reshape(3, 4), np.cos(np.arange(12.0)).reshape(3, 4)
    expected, _ = optimizer.update(grads, optimizer.init(params), params, 0.1)
    wide = np.zeros((3, 8))
    wide[:, ::2] = grads
    made, _ = optimizer.update(wide[:, ::2], optimizer.init(params), np.asfortranarray(params), 0.1)
    np.testing.assert_array_equal(made, expected)


@variants
def test_a_network_without_parameters(variant: str) -> None:
    optimizer = VARIANTS[variant]()
    params, state = optimizer.update({"a": ()}, optimizer.init({"a": ()}), {"a": ()}, 0.1)
    assert params == {"a": ()}
    assert trees.structure(state) == trees.structure(optimizer.init({"a": ()}))


@variants
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("backend", available_backends())
def test_a_large_array_moves_as_its_parts_do(
    variant: str, dtype: Any, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No rule has an operation that IEEE 754 leaves open, so that not even the last bit may depend on the way, nor on
    # the number of threads: a run can be resumed on another machine.
    size = 8 * (BLOCK + 17)
    rng = np.random.default_rng(size)
    whole, *steps = (rng.standard_normal((8, BLOCK + 17)).astype(dtype) for _ in range(4))
    parts = np.array_split(whole.ravel(), 9)
    optimizer = VARIANTS[variant]()
    state, parts_state = optimizer.init(whole), optimizer.init(parts)
    with use_backend(backend):
        for count, grads in enumerate(steps, start=1):
            monkeypatch.setenv("MINIGRAD_THREADS", str(count))
            given = (np.asfortranarray(grads), state, whole)
            before = copied(given)
            parts, parts_state = optimizer.update(np.array_split(grads.ravel(), 9), parts_state, parts, 0.01)
            whole, state = optimizer.update(*given, 0.01)
            assert_equal(given, before)
            assert not any(np.shares_memory(a, b) for a in trees.leaves((whole, state)) for b in trees.leaves(given))
            np.testing.assert_array_equal(whole.ravel(), np.concatenate(parts))
            for slot in state.keys() - {"step"}:
                np.testing.assert_array_equal(state[slot].ravel(), np.concatenate(parts_state[slot]))
    assert trees.leaves((whole, state))[0].dtype == dtype


def test_no_movement_at_a_rate_of_zero() -> None:
    for make in VARIANTS.values():
        params = example(0)
        made, _ = make().update(example(1), make().init(params), params, 0.0)
        assert_equal(made, params)


@pytest.mark.parametrize("matrices", [{"W": np.ones((3, 2)), "U": {"V": np.full((2, 2), 2.0)}}, {}])
@pytest.mark.parametrize("others", [{"b": np.ones(3), "gain": np.full((), 2.0)}, {}])
def test_vectors_need_not_decay(matrices, others):
    params = {"b": others, "a": matrices} if others or matrices else {"W": np.ones((2, 2))}
    rng = np.random.default_rng(0)
    grads = [trees.map(lambda p: rng.standard_normal(p.shape), params) for _ in range(3)]

    def after(optimizer):
        now, state = params, optimizer.init(params)
        for g in grads:
            now, state = optimizer.update(g, state, now, 0.1)
        return now, state

    (found, state), (decayed, _), (plain, other) = map(
        after, (adamw(weight_decay=0.5, vectors=False), adamw(weight_decay=0.5), adam())
    )
    for one, with_decay, without in trees.zip_leaves(found, decayed, plain):
        np.testing.assert_array_equal(one, with_decay if one.ndim > 1 else without)
        assert (with_decay != without).all()
    for a, b in trees.zip_leaves(state, other):
        np.testing.assert_array_equal(a, b)
    assert trees.paths(found) == trees.paths(params)


def test_the_table_names_every_constructor() -> None:
    assert {"sgd": sgd, "rmsprop": rmsprop, "adagrad": adagrad, "adam": adam, "adamw": adamw} == OPTIMIZERS


@variants
@pytest.mark.parametrize("rate", [math.nan, math.inf, -0.1])
def test_rates_that_are_none(variant: str, rate: float) -> None:
    optimizer = VARIANTS[variant]()
    params = example(0)
    with pytest.raises(ValueError, match=exactly(f"the learning rate is {rate}; give a finite number of at least 0")):
        optimizer.update(params, optimizer.init(params), params, rate)


@variants
def test_gradients_that_are_no_float_arrays(variant: str) -> None:
    optimizer = VARIANTS[variant]()
    params = example(0)
    state = optimizer.init(params)
    whole = {"cell": {"W": np.ones((4, 3), int), "b": np.ones(3)}, "scale": (np.array(1.0),)}
    message = "the gradient 'cell.W' is of type int64; give an array of floating-point numbers"
    with pytest.raises(TypeError, match=exactly(message)):
        optimizer.update(whole, state, params, 0.1)
    bare = {"cell": {"W": np.ones((4, 3)), "b": np.ones(3)}, "scale": (1.0,)}
    message = "the gradient 'scale.0' is of type float; give an array of floating-point numbers"
    with pytest.raises(TypeError, match=exactly(message)):
        optimizer.update(bare, state, params, 0.1)


@variants
def test_parameters_that_are_no_float_arrays(variant: str) -> None:
    message = "the parameter 'ids' is of type int64; give an array of floating-point numbers"
    with pytest.raises(TypeError, match=exactly(message)):
        VARIANTS[variant]().init({"ids": np.arange(3)})
    message = "the parameter is of type float; give an array of floating-point numbers"
    with pytest.raises(TypeError, match=exactly(message)):
        VARIANTS[variant]().init(0.5)


@variants
def test_gradients_of_another_shape_are_not_broadcast(variant: str) -> None:
    optimizer = VARIANTS[variant]()
    params = {"W": np.ones((2, 3))}
    message = "the gradient 'W' has the shape (3,), its parameter (2, 3); give one of its shape"
    with pytest.raises(ValueError, match=exactly(message)):
        optimizer.update({"W": np.ones(3)}, optimizer.init(params), params, 0.1)


@variants
def test_gradients_of_another_structure(variant: str) -> None:
    optimizer = VARIANTS[variant]()
    params = {"W": np.ones(3)}
    with pytest.raises(ValueError, match="the trees differ at the root: a dict with the keys 'W' in the first"):
        optimizer.update({"V": np.ones(3)}, optimizer.init(params), params, 0.1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sgd(momentum=1.0), "momentum is 1.0; give a number of at least 0 and below 1"),
        (
            lambda: sgd(nesterov=True),
            "Nesterov's step looks ahead along the momentum, which is 0; give a momentum, such as 0.9",
        ),
        (lambda: rmsprop(decay=-0.1), "decay is -0.1; give a number of at least 0 and below 1"),
        (lambda: rmsprop(momentum=math.nan), "momentum is nan; give a number of at least 0 and below 1"),
        (lambda: adagrad(epsilon=0), "epsilon is 0; give a small positive number, which prevents 0 / 0"),
        (lambda: adam(beta1=1), "beta1 is 1; give a number of at least 0 and below 1"),
        (lambda: adam(beta2=1.5), "beta2 is 1.5; give a number of at least 0 and below 1"),
        (lambda: adam(epsilon=math.inf), "epsilon is inf; give a small positive number, which prevents 0 / 0"),
        (lambda: adamw(weight_decay=-1), "weight_decay is -1; give a finite number of at least 0"),
    ],
)
def test_options_that_make_no_optimizer(make: Callable[[], Optimizer], message: str) -> None:
    with pytest.raises(ValueError, match=exactly(message)):
        make()


ARRAYS = hnp.arrays(
    np.float64, hnp.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=4), elements=st.floats(-9, 9)
)
GRADS = st.dictionaries(st.sampled_from("abc"), st.tuples(ARRAYS, ARRAYS))


@given(GRADS)
def test_global_norm_is_the_norm_of_all_numbers_in_a_row(grads: Any) -> None:
    flat = np.concatenate([np.zeros(0), *[leaf.ravel() for leaf in trees.leaves(grads)]])
    assert global_norm(grads) == pytest.approx(np.linalg.norm(flat), rel=1e-12, abs=1e-150)


@pytest.mark.parametrize(
    ("dtype", "scales"),
    [(np.float32, [1e-44, 1e-25, 1e-19, 1.0, 1e19, 1e37]), (np.float64, [1e-300, 1e-160, 1.0, 1e160, 1e300])],
)
def test_global_norm_where_a_square_leaves_the_range(dtype: Any, scales: list[float]) -> None:
    for scale in map(dtype, scales):
        grads = [np.array([3], dtype) * scale, np.array([[4]], dtype) * scale, np.zeros(0, dtype)]
        assert global_norm(grads) == pytest.approx(5 * float(scale), rel=1e-6, abs=0)


@pytest.mark.parametrize("backend", available_backends())
@pytest.mark.parametrize(("dtype", "rel"), [(np.float32, 1e-6), (np.float64, 1e-14)])
def test_global_norm_of_large_arrays(backend: str, dtype: Any, rel: float) -> None:
    rng = np.random.default_rng(0)
    grads = [
        rng.standard_normal((5, BLOCK)).astype(dtype).T,
        rng.standard_normal(100_001).astype(dtype),
        np.ones(3, dtype),
    ]
    exact = math.sqrt(math.fsum(x * x for leaf in grads for x in leaf.ravel().tolist()))
    largest, count = float(np.finfo(dtype).max) / 1e3, WORTH_WIDENING + 1
    with use_backend(backend):
        assert global_norm(grads) == pytest.approx(exact, rel=rel)
        for scale in (1 / largest, largest / 1e3):
            scaled = [np.full(count, 3 * scale, dtype), np.full(count, 4 * scale, dtype)]
            assert global_norm(scaled) == pytest.approx(5 * scale * math.sqrt(count), rel=1e-4)
        grads[1][5] = math.nan
        assert math.isnan(global_norm(grads))


@pytest.mark.parametrize("backend", available_backends())
def test_large_gradients_are_clipped_alike(backend: str) -> None:
    grads = {"W": np.linspace(-1, 1, 6 * BLOCK, dtype=np.float32).reshape(3, -1).T, "b": np.ones(3, np.float32)}
    before = copied(grads)
    with use_backend(backend):
        clipped, norm = clip_by_global_norm(grads, 1.0)
    assert_equal(grads, before)
    assert_equal(clipped, trees.map(lambda g: g * np.float32(1.0 / norm), grads))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_norm_that_is_not_finite_is_returned_and_the_gradients_stay(bad: float) -> None:
    grads = {"W": np.array([1.0, bad, 2.0], np.float32), "b": np.ones(2, np.float32)}
    clipped, norm = clip_by_global_norm(grads, 1.0)
    assert math.isnan(norm) if math.isnan(bad) else norm == math.inf
    assert_equal(clipped, grads)
    assert math.isnan(global_norm([np.array([math.inf, math.nan])]))


@given(grads=GRADS, max_norm=st.floats(0.01, 30))
def test_clip_by_global_norm(grads: Any, max_norm: float) -> None:
    before = copied(grads)
    clipped, norm = clip_by_global_norm(grads, max_norm)
    assert_equal(grads, before)
    assert norm == global_norm(grads)
    assert global_norm(clipped) == pytest.approx(min(norm, max_norm), rel=1e-12)
    assume(norm > max_norm)
    trees.map(lambda a, b: np.testing.assert_allclose(a, b * (max_norm / norm), rtol=1e-12), clipped, grads)


@given(grads=GRADS, limit=st.floats(0.01, 10))
def test_clip_by_value(grads: Any, limit: float) -> None:
    before = copied(grads)
    clipped = clip_by_value(grads, limit)
    assert_equal(grads, before)
    trees.map(lambda a, b: np.testing.assert_array_equal(a, np.sign(b) * np.minimum(np.abs(b), limit)), clipped, grads)


def test_clip_by_value_keeps_nan_and_bounds_infinity() -> None:
    np.testing.assert_array_equal(clip_by_value(np.array([math.nan, -math.inf, 3]), 2), [math.nan, -2, 2])


@pytest.mark.parametrize(
    "clip", [lambda g: clip_by_global_norm(g, np.float64(0.5))[0], lambda g: clip_by_value(g, np.float64(0.5))]
)
def test_clipping_keeps_dtypes_and_0d_arrays(clip: Callable[[Any], Any]) -> None:
    clipped = clip([np.full(3, 9, np.float32), np.array(9, np.float32)])
    assert all(isinstance(leaf, np.ndarray) and leaf.dtype == np.float32 for leaf in clipped)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_frozen_parameters_stay_as_they_are(name: str) -> None:
    rng = np.random.default_rng(0)
    params = {"table": rng.normal(size=(4, 3)), "cell": {"W": rng.normal(size=(3, 3)), "b": rng.normal(size=3)}}
    plain, some = OPTIMIZERS[name](), freezing(OPTIMIZERS[name](), {"table", "cell.b"})
    state, whole_state, trained, whole = some.init(params), plain.init(params), params, params
    assert trees.count(state) < trees.count(whole_state) or name == "sgd"
    for _ in range(3):
        grads = trees.map(lambda leaf: rng.normal(size=leaf.shape), params)
        trained, state = some.update(grads, state, trained, 0.1)
        whole, whole_state = plain.update(grads, whole_state, whole, 0.1)
    assert trees.structure(trained) == trees.structure(params)
    assert trained["table"] is params["table"]
    assert trained["cell"]["b"] is params["cell"]["b"]
    np.testing.assert_array_equal(trained["cell"]["W"], whole["cell"]["W"])


@pytest.mark.parametrize("bound", [0, -1.0, math.nan])
def test_bounds_that_are_none(bound: float) -> None:
    message = f"gradients are to be clipped to a norm of {bound}; give a positive number"
    with pytest.raises(ValueError, match=exactly(message)):
        clip_by_global_norm({}, bound)
    with pytest.raises(ValueError, match=exactly(f"gradients are to be clipped to +-{bound}; give a positive number")):
        clip_by_value({}, bound)


def test_integer_gradients_are_not_clipped() -> None:
    message = "the gradient 'n' is of type int64; give an array of floating-point numbers"
    for clip in (lambda g: clip_by_global_norm(g, 1.0), lambda g: clip_by_value(g, 1.0), global_norm):
        with pytest.raises(TypeError, match=exactly(message)):
            clip({"n": np.arange(3)})
