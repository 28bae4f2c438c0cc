"""What is the same at every step of a sequence: a scan with a context, on every backend against the equations."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import pytest
from test_scan_planned import no_reference_loop

import minigrad
from minigrad import Tensor, concat, jvp, no_grad, softmax, tanh, trees, value_and_grad, where
from minigrad.scan import Lookup, available_backends, planned, scan, use_backend

every_backend = pytest.mark.parametrize("backend", ["reference", *available_backends()])

B, S, H = 3, 5, 4
WIDTH = 2


def attention(params: Any, carry: Any, x: Any, context: Any) -> Any:
    """Attention over an encoder's outputs; it also shows its weights."""
    keys = context["outputs"] @ params["key"]  # (B, S, H), equal at every step
    scores = minigrad.einsum("bh,bsh->bs", carry["h"], keys)
    weights = softmax(where(context["mask"], scores, -1e9))
    read = minigrad.einsum("bs,bsh->bh", weights, context["outputs"])
    h = tanh(concat(read, x) @ params["W"] + carry["h"] * 0.5)
    return {"h": h, "n": carry["n"] + 1}, (h, weights)


def gated(params: Any, h: Any, x: Any, context: Any) -> Any:
    """A vector for each sequence."""
    h = tanh(x @ params["U"] + h * context + context @ params["V"])
    return h, h


def unread(params: Any, h: Any, x: Any, context: Any) -> Any:
    """Only one of two arrays is read, and only before the loop."""
    h = tanh(h + x @ params["U"] * context[0])
    return h, h


def stateless(params: Any, carry: Any, x: Any, context: Any) -> Any:
    """No carry."""
    return (), tanh(x @ params["U"] + context)


def samples(dtype: Any, length: int = 6, batch: int = B) -> dict[str, Any]:
    """A step with its parameters, carry, inputs and context."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> Any:
        return rng.standard_normal(shape).astype(dtype)

    h, xs = normal(batch, H), normal(length, batch, WIDTH)
    vectors = {"U": normal(WIDTH, H), "V": normal(H, H)}
    mask = rng.random((batch, S)) < 0.6
    mask[:, :1] = True
    return {
        "attention": (
            attention,
            {"key": normal(H, H), "W": normal(H + WIDTH, H)},
            {"h": h, "n": np.zeros(batch, int)},
            xs,
            {"outputs": normal(batch, S, H), "mask": mask},
        ),
        "a vector": (gated, vectors, h, xs, normal(batch, H)),
        "looked up": (
            gated,
            vectors,
            h,
            Lookup(normal(3, WIDTH), rng.integers(0, 3, (length, batch))),
            normal(batch, H),
        ),
        "half of it": (unread, vectors, h, xs, [normal(batch, H), normal(batch, 7)]),
        "no carry": (stateless, vectors, (), xs, normal(batch, H)),
    }


NAMES = list(samples(np.float64))
OPTIONS: dict[str, Any] = {
    "plain": {},
    "reverse": {"reverse": True},
    "lengths": {"lengths": np.array([6, 0, 3])},
    "a mask": {"mask": np.array([[1, 0, 1]] * 3 + [[0, 0, 1]] * 3), "reverse": True},
}


def by_hand(step: Any, params: Any, carry: Any, xs: Any, context: Any, lengths: Any = None, mask: Any = None,
            reverse: bool = False) -> Any:  # fmt: skip
    """The equations of a scan, with a step for one sequence at a time."""
    xs = xs.array() if isinstance(xs, Lookup) else xs
    length, batch = xs.shape[:2]
    live = np.ones((length, batch), bool) if mask is None else np.asarray(mask, bool)
    if lengths is not None:
        live = np.arange(length)[:, None] < lengths
    lasts, outputs = [], []
    for b in range(batch):
        one, of_one = (trees.map(lambda leaf, b=b: leaf[b : b + 1], tree) for tree in (carry, context))
        ys: list[Any] = [None] * length
        for t in reversed(range(length)) if reverse else range(length):
            new, y = step(params, one, xs[t, b : b + 1], of_one)
            one = new if live[t, b] else one
            ys[t] = y if live[t, b] else trees.map(lambda leaf: leaf * 0, y)
        lasts.append(one)
        outputs.append(trees.map(lambda *leaves: minigrad.stack(leaves), *ys))
    return (
        trees.map(lambda *leaves: minigrad.concatenate(leaves), *lasts) if trees.leaves(carry) else (),
        trees.map(lambda *leaves: minigrad.concatenate(leaves, axis=1), *outputs),
    )


def loss_of(scanned: Any) -> Any:
    """A number that depends on all results."""
    rng = np.random.default_rng(1)
    parts = [leaf for leaf in trees.leaves(scanned) if leaf.dtype.kind == "f"]
    return sum((leaf * rng.standard_normal(leaf.shape).astype(leaf.dtype)).sum() for leaf in parts)


def split(tree: Any) -> tuple[list[Any], Any]:
    """The arrays of floats in a tree, and a function that puts others in their places."""

    def array(leaf: Any) -> Any:
        return leaf.table if isinstance(leaf, Lookup) else leaf

    def whole(arrays: Any) -> Any:
        rest = iter(arrays)

        def put(leaf: Any) -> Any:
            if isinstance(leaf, Lookup):
                return Lookup(next(rest), leaf.indices)
            return next(rest) if leaf.dtype.kind == "f" else leaf

        return trees.map(put, tree)

    return [array(leaf) for leaf in trees.leaves(tree) if array(leaf).dtype.kind == "f"], whole


def close(found: Any, expected: Any, rtol: float = 1e-9) -> None:
    for x, y in zip(trees.leaves(found), trees.leaves(expected), strict=True):
        x, y = (np.asarray(leaf.value if isinstance(leaf, Tensor) else leaf) for leaf in (x, y))
        assert (x.shape, x.dtype) == (y.shape, y.dtype)
        np.testing.assert_allclose(x, y, rtol=rtol, atol=rtol)


@contextmanager
def only(backend: str) -> Iterator[None]:
    """A backend, without falling back to the reference loop."""
    with use_backend(backend), nullcontext() if backend == "reference" else no_reference_loop():
        yield


@every_backend
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", NAMES)
def test_values_and_all_gradients(name, options, backend):
    step, *given = samples(np.float64)[name]
    arrays, whole = split(given)

    def loss(loop: Any) -> Any:
        def f(arrays: Any) -> Any:
            params, carry, xs, context = whole(arrays)
            return loss_of(loop(step, params, carry, xs, context=context, **OPTIONS[options]))

        return f

    params, carry, xs, context = given
    expected = value_and_grad(loss(by_hand))(arrays)
    with only(backend):
        found = value_and_grad(loss(scan))(arrays)
        results = scan(step, params, carry, xs, context=context, **OPTIONS[options])
    close(results, by_hand(step, params, carry, xs, context, **OPTIONS[options]))
    close(found, expected)


@every_backend
def test_in_single_precision(backend):
    step, *given = samples(np.float32)["attention"]
    params, carry, xs, context = given
    with only(backend):
        found = scan(step, params, carry, xs, context=context)
    close(found, by_hand(step, params, carry, xs, context), rtol=1e-4)


@every_backend
@pytest.mark.parametrize("wanted", ["params", "carry", "xs", "context"])
def test_the_gradient_with_respect_to_one_of_them(wanted, backend):
    step, params, carry, xs, context = samples(np.float64)["a vector"]
    given = {"params": params, "carry": carry, "xs": xs, "context": context}

    def loss(x: Any) -> Any:
        return loss_of(scan(step, **(given | {wanted: x})))

    with use_backend("reference"):
        expected = value_and_grad(loss)(given[wanted])
    with only(backend):
        close(value_and_grad(loss)(given[wanted]), expected)


@every_backend
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", ["attention", "a vector", "looked up"])
def test_higher_derivatives(name, options, backend):
    """The product of the second derivative and a vector."""
    step, *given = samples(np.float64)[name]
    arrays, whole = split(given)
    rng = np.random.default_rng(2)
    vector = [rng.standard_normal(x.shape) for x in arrays]

    def gradient(arrays: Any) -> Any:
        def loss(arrays: Any) -> Any:
            params, carry, xs, context = whole(arrays)
            last, ys = scan(step, params, carry, xs, context=context, **OPTIONS[options])
            return loss_of((last, ys)) ** 2

        return value_and_grad(loss)(arrays)[1]

    with use_backend("reference"):
        expected = jvp(gradient, [arrays], [vector])[1]
    with use_backend(backend):
        close(jvp(gradient, [arrays], [vector])[1], expected)


@every_backend
def test_one_array_may_be_the_context_the_carry_and_a_part_of_the_loss(backend):
    """Its gradient is the sum of all."""
    step, params, h, xs, _ = samples(np.float64)["a vector"]

    def loss(h: Any, loop: Any) -> Any:
        return loss_of(loop(step, params, h, xs, context=h)) + (h * h).sum()

    expected = value_and_grad(lambda h: loss(h, by_hand))(h)
    with only(backend):
        close(value_and_grad(lambda h: loss(h, scan))(h), expected)


@every_backend
def test_a_context_of_an_encoder(backend):
    """Gradients reach the encoder through the context."""
    rng = np.random.default_rng(3)
    step, params, carry, xs, context = samples(np.float64)["attention"]
    source, encoder = rng.standard_normal((S, B, H)), {"E": rng.standard_normal((H, H))}

    def encode(p: Any, h: Any, x: Any) -> Any:
        h = tanh(h @ p["E"] + x)
        return h, h

    def loss(p: Any) -> Any:
        h, ys = scan(encode, p["encoder"], np.zeros((B, H)), source)
        given = context | {"outputs": ys.transpose(1, 0, 2)}
        return loss_of(scan(step, p["decoder"], carry | {"h": h}, xs, context=given))

    both = {"encoder": encoder, "decoder": params}
    with use_backend("reference"):
        expected = value_and_grad(loss)(both)
    with only(backend):
        close(value_and_grad(loss)(both), expected)


@every_backend
@pytest.mark.parametrize(("length", "batch"), [(0, 3), (4, 0), (0, 0), (1, 1)])
def test_no_step_and_no_sequence(length, batch, backend):
    for name in NAMES:
        step, *given = samples(np.float64, length, batch)[name]
        arrays, whole = split(given)

        def loss(arrays: Any, step: Any = step, whole: Any = whole) -> Any:
            params, carry, xs, context = whole(arrays)
            last, ys = scan(step, params, carry, xs, context=context)
            return loss_of((last, ys)) + sum((x * 0).sum() for x in arrays)

        with use_backend("reference"):
            expected = value_and_grad(loss)(arrays)
        with use_backend(backend):
            found = value_and_grad(loss)(arrays)
            _, ys = scan(step, *given[:3], context=given[3])
        close(found, expected)
        assert {leaf.shape[:2] for leaf in trees.leaves(ys)} == {(length, batch)}


@every_backend
def test_an_empty_context_is_one(backend):
    """Only None is no context."""
    with use_backend(backend):
        for empty in ((), [], {}):

            def step(params: Any, h: Any, x: Any, context: Any, empty: Any = empty) -> Any:
                assert context == empty
                return tanh(h + x), h

            scan(step, {}, np.ones((2, 3)), np.ones((4, 2, 3)), context=empty)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", ["attention", "a vector", "half of it"])
@pytest.mark.parametrize("backend", available_backends())
def test_single_steps(backend, name, batch):
    step, params, carry, _, context = samples(np.float64, batch=batch)[name]
    rng = np.random.default_rng(4)
    table = rng.standard_normal((7, WIDTH))
    with use_backend(backend):
        prepared = planned.stepper(step, params, carry, table, context)
    assert prepared is not None
    for _ in range(4):
        symbols = rng.integers(0, 7, batch)
        carry, y = step(params, carry, table[symbols], context)
        close(prepared(symbols), trees.leaves(y))
        close(prepared.carry, trees.leaves(carry))


@every_backend
def test_without_gradients(backend):
    step, params, carry, xs, context = samples(np.float64)["attention"]
    expected = by_hand(step, params, carry, xs, context)
    with only(backend), no_grad():
        found = scan(step, params, carry, xs, context=trees.map(Tensor, context))
    assert all(getattr(leaf, "node", None) is None for leaf in trees.leaves(found))
    close(found, expected)


@every_backend
def test_arrays_of_the_context_are_not_written_to_and_may_lie_anywhere(backend):
    step, params, carry, xs, context = samples(np.float64)["attention"]
    expected = by_hand(step, params, carry, xs, context)
    strange = np.empty((H, B, 2 * S)).transpose(1, 2, 0)[:, ::2]
    strange[...] = context["outputs"]
    swapped = context["outputs"].astype(">f8")
    for outputs in (strange, swapped):
        outputs.flags.writeable = False
        with only(backend):
            close(scan(step, params, carry, xs, context=context | {"outputs": outputs}), expected)


@every_backend
@pytest.mark.parametrize(
    ("context", "sentence"),
    [
        (np.ones((4, 5)), "scan: the context has shape (4, 5)"),
        (
            {"a": np.ones(3), "b": [np.ones((1, 3))]},
            "scan: the context 'b.0' has shape (1, 3)",
        ),
        ((np.ones(()),), "scan: the context '0' has shape ()"),
        ({"a": 2.0}, "scan: the context 'a' is a float"),
        ("text", "scan: the context is a str"),
        (
            Lookup(np.ones((3, 2)), np.zeros((3, 3), int)),
            "scan: the context is a Lookup",
        ),
        (
            Lookup(np.ones((3, 2)), np.zeros(3, int)),
            "scan: the context is a Lookup",
        ),
    ],
)  # fmt: skip
def test_what_is_no_context_is_refused(context, sentence, backend):
    with use_backend(backend), pytest.raises(ValueError, match="scan") as caught:
        scan(gated, {}, np.ones((3, 4)), np.ones((2, 3, 4)), context=context)
    assert str(caught.value) == f"{sentence}; expected an array that starts with the batch axis, 3 long"
