"""The scan, compared with loops written by hand."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigrad import Tensor, concat, no_grad, scan, tanh, trees, value_and_grad
from minigrad.checking import check_vjp
from minigrad.scan.reference import live_steps

RNG = np.random.default_rng(0)
T, B, I, H = 4, 3, 2, 5  # noqa: E741
PARAMS = {"W": RNG.standard_normal((H + I, H)), "b": RNG.standard_normal(H)}
XS = RNG.standard_normal((T, B, I))
START = RNG.standard_normal((B, H))
LENGTHS = np.array([4, 0, 2])


def step(params: Any, h: Any, x: Any) -> Any:
    h = tanh(concat(h, x) @ params["W"] + params["b"])
    return h, h * 2


def by_hand(carry: Any, xs: Any, live: Any, order: Any) -> Any:
    """The same step in plain NumPy, one sequence at a time."""
    carry, ys = carry.copy(), np.zeros((len(xs), xs.shape[1], H))
    for b in range(xs.shape[1]):
        for t in order:
            if live[t, b]:
                carry[b] = np.tanh(np.concatenate([carry[b], xs[t, b]]) @ PARAMS["W"] + PARAMS["b"])
                ys[t, b] = 2 * carry[b]
    return carry, ys


def shapes(tree: Any) -> Any:
    return trees.map(np.shape, tree)


# --- meaning ----------------------------------------------------------------------------------------------------------


@given(st.integers(0, 6), st.integers(0, 4), st.booleans(), st.sampled_from(["all", "lengths", "mask"]), st.data())
def test_a_scan_is_the_loop_by_hand(length, batch, reverse, kind, data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    xs, start = rng.standard_normal((length, batch, I)), rng.standard_normal((batch, H))
    given_as: dict[str, Any] = {}
    live = np.ones((length, batch), bool)
    if kind == "lengths":
        given_as["lengths"] = rng.integers(0, length + 1, batch)
        live = np.arange(length)[:, None] < given_as["lengths"]
    elif kind == "mask":
        live = rng.random((length, batch)) < 0.5
        given_as["mask"] = live.astype(data.draw(st.sampled_from([bool, int, np.float32])))
    order = range(length - 1, -1, -1) if reverse else range(length)
    carry, ys = scan(step, PARAMS, start, xs, reverse=reverse, **given_as)
    expected_carry, expected_ys = by_hand(start, xs, live, order)
    np.testing.assert_allclose(carry, expected_carry, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(ys, expected_ys, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("kwargs", [{}, {"lengths": LENGTHS}, {"mask": RNG.random((T, B)) < 0.5}])
def test_gradients_by_everything(reverse, kwargs):
    check_vjp(lambda *args: scan(step, *args, reverse=reverse, **kwargs), [PARAMS, START, XS], order=2, directions=1)


def test_inputs_beyond_a_sequences_end_reach_nothing():
    def f(xs):
        carry, ys = scan(step, PARAMS, START, xs, lengths=LENGTHS)
        return carry.sum() + ys.sum()

    _, gradient = value_and_grad(f)(XS)
    ended = np.arange(T)[:, None] >= LENGTHS
    np.testing.assert_array_equal(gradient[ended], 0)
    assert np.abs(gradient[~ended]).min() > 0


def test_a_sequence_of_its_own_length_is_the_sequence_alone():
    carry, ys = scan(step, PARAMS, START, XS, lengths=LENGTHS)
    for b, n in enumerate(LENGTHS):
        alone, outputs = scan(step, PARAMS, START[b : b + 1], XS[:n, b : b + 1])
        np.testing.assert_allclose(carry[b : b + 1], alone, rtol=1e-12)
        np.testing.assert_allclose(ys[:n, b : b + 1], outputs, rtol=1e-12)


def test_reverse_is_the_sequence_turned_round():
    carry, ys = scan(step, PARAMS, START, XS, reverse=True)
    other_carry, other_ys = scan(step, PARAMS, START, XS[::-1])
    np.testing.assert_array_equal(carry, other_carry)
    np.testing.assert_array_equal(ys, other_ys[::-1])


def test_chunks_with_the_carry_passed_on_are_the_whole():
    whole_carry, whole = scan(step, PARAMS, START, XS)
    carry, first = scan(step, PARAMS, START, XS[:3])
    carry, second = scan(step, PARAMS, carry, XS[3:])
    np.testing.assert_array_equal(carry, whole_carry)
    np.testing.assert_array_equal(np.concatenate([first, second]), whole)


def test_arrays_in_arrays_out():
    carry, ys = scan(step, PARAMS, START, XS, lengths=LENGTHS)
    assert type(carry) is np.ndarray
    assert type(ys) is np.ndarray
    with no_grad():
        carry, ys = scan(step, PARAMS, Tensor(START), XS)
    assert isinstance(ys, Tensor)
    assert ys.node is None


def test_nothing_is_written_to():
    inputs = trees.map(np.copy, (PARAMS, START, XS))
    for leaf in trees.leaves(inputs):
        leaf.flags.writeable = False
    scan(step, *inputs, lengths=LENGTHS)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("length", [0, 1, 3])
def test_the_dtype_stays(dtype, length):
    params, start, xs = trees.cast((PARAMS, START, XS[:length]), dtype)

    def f(params):
        carry, ys = scan(step, params, start, xs, lengths=np.minimum(LENGTHS, length))
        assert (carry.dtype, ys.dtype) == (dtype, dtype)
        return carry.sum() + ys.sum()

    value, gradient = value_and_grad(f)(params)
    assert value.dtype == dtype
    assert {leaf.dtype for leaf in trees.leaves(gradient)} == {np.dtype(dtype)}


# --- trees, and nothing -----------------------------------------------------------------------------------------------


class State(NamedTuple):
    h: Any
    more: Any


def tree_step(params: Any, carry: Any, x: Any) -> Any:
    token, feature = x["token"], x["rest"][0]
    h = tanh(carry.h + params[token] + feature)
    count = carry.more["count"] + 1
    return State(h, {"count": count, "none": None}), {"h": h, "pair": (count, [h.sum(axis=-1)]), "nothing": None}


@pytest.mark.parametrize("length", [0, 1, 3])
@pytest.mark.parametrize("kwargs", [{}, {"lengths": np.zeros(B, int)}])
def test_carries_inputs_and_outputs_are_any_trees(length, kwargs):
    params = RNG.standard_normal((7, H))
    xs = {"token": RNG.integers(0, 7, (length, B)), "rest": [RNG.standard_normal((length, B, H))]}
    start = State(START, {"count": np.zeros(B, int), "none": None})
    carry, ys = scan(tree_step, params, start, xs, **kwargs)
    assert type(carry) is State
    assert shapes(carry) == State((B, H), {"count": (B,), "none": None})
    assert shapes(ys) == {"h": (length, B, H), "pair": ((length, B), [(length, B)]), "nothing": None}
    steps = 0 if kwargs else length
    np.testing.assert_array_equal(carry.more["count"], np.full(B, steps))
    assert ys["pair"][0].dtype == np.dtype(int)
    check_vjp(lambda p, h: scan(tree_step, p, State(h, start.more), xs, **kwargs)[1]["h"], [params, START])


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("lengths", [None, np.zeros(B, int)])
def test_a_sequence_of_no_steps(reverse, lengths):
    carry, ys = scan(step, PARAMS, START, XS[:0], reverse=reverse, lengths=lengths)
    assert carry is START
    assert ys.shape == (0, B, H)
    _, gradient = value_and_grad(lambda h: scan(step, PARAMS, h, XS[:0])[0].sum())(START)
    np.testing.assert_array_equal(gradient, np.ones_like(START))


def test_a_batch_of_no_sequences():
    carry, ys = scan(step, PARAMS, START[:0], XS[:, :0], lengths=np.zeros(0, int))
    assert (carry.shape, ys.shape) == ((0, H), (T, 0, H))
    _, gradient = value_and_grad(lambda p: scan(step, p, START[:0], XS[:, :0])[1].sum())(PARAMS)
    assert not any(leaf.any() for leaf in trees.leaves(gradient))


def test_live_steps():
    assert live_steps(T, B, None, None) is None
    expected = [[1, 0, 1], [1, 0, 1], [1, 0, 0], [1, 0, 0]]
    np.testing.assert_array_equal(live_steps(T, B, LENGTHS, None), np.array(expected, bool), strict=True)
    np.testing.assert_array_equal(live_steps(T, B, None, np.array(expected)), np.array(expected, bool), strict=True)


# --- mistakes ---------------------------------------------------------------------------------------------------------


def giving(change: Any) -> Any:
    """A step that gives ``change(h)`` for its carry."""
    return lambda params, h, x: (change(h), h)


MISTAKES: list[tuple[Any, type[Exception], str]] = [
    (
        lambda: scan(step, PARAMS, START, XS, lengths=LENGTHS, mask=np.ones((T, B))),
        ValueError,
        "scan: lengths and mask were both given; give one of them",
    ),
    (
        lambda: scan(step, PARAMS, START, XS, lengths=np.array([1, 2])),
        ValueError,
        "scan: lengths have shape (2,) and dtype int64; expected (3,) integers, one for each sequence",
    ),
    (
        lambda: scan(step, PARAMS, START, XS, lengths=np.array([1.0, 2.0, 3.0])),
        ValueError,
        "scan: lengths have shape (3,) and dtype float64; expected (3,) integers, one for each sequence",
    ),
    (
        lambda: scan(step, PARAMS, START, XS, lengths=np.array([1, 5, 3])),
        ValueError,
        "scan: lengths run from 1 to 5; expected 0 to 4",
    ),
    (
        lambda: scan(step, PARAMS, START, XS, lengths=np.array([1, -1, 3])),
        ValueError,
        "scan: lengths run from -1 to 3; expected 0 to 4",
    ),
    (
        lambda: scan(step, PARAMS, START, XS, mask=np.ones((B, T))),
        ValueError,
        "scan: the mask has shape (3, 4); expected (T, B) = (4, 3)",
    ),
    (
        lambda: scan(step, PARAMS, START, {"a": XS, "b": XS[1:]}),
        ValueError,
        "scan: the inputs start with the axes [(3, 3), (4, 3)]; expected one pair (T, B), the same for all: "
        "time first, then the batch",
    ),
    (
        lambda: scan(step, PARAMS, START, np.ones(4)),
        ValueError,
        "scan: the inputs start with the axes [(4,)]; expected one pair (T, B), the same for all: "
        "time first, then the batch",
    ),
    (
        lambda: scan(step, PARAMS, START, None),
        ValueError,
        "scan: the inputs start with the axes []; expected one pair (T, B), the same for all: "
        "time first, then the batch",
    ),
    (
        lambda: scan(lambda params, h, x: h, PARAMS, START, XS),
        TypeError,
        "scan: the step gave a ndarray; expected a pair (carry, y)",
    ),
    (
        lambda: scan(lambda params, h, x: Tensor(h)[:2], PARAMS, START, XS),
        TypeError,
        "scan: the step gave a Tensor; expected a pair (carry, y)",
    ),
    (
        lambda: scan(giving(lambda h: (h, h)), PARAMS, START, XS),
        ValueError,
        "scan: the step gave a carry of another structure than it got: the trees differ at the root: "
        "a leaf in the first, a tuple of 2 in tree 2; give trees of one structure",
    ),
    (
        lambda: scan(giving(lambda c: {"h": None}), PARAMS, {"h": START}, XS, lengths=LENGTHS),
        ValueError,
        "scan: the step gave a carry of another structure than it got: the trees differ at 'h': "
        "a leaf in the first, None in tree 2; give trees of one structure",
    ),
    (
        lambda: scan(giving(lambda h: h[:, :2]), PARAMS, START, XS),
        ValueError,
        "scan: the step got the carry with shape (3, 5) and dtype float64, and gave it back with (3, 2) and float64: "
        "a carry keeps its shape and dtype",
    ),
    (
        lambda: scan(giving(lambda h: h[:1]), PARAMS, START, XS, lengths=LENGTHS),
        ValueError,
        "scan: the step got the carry with shape (3, 5) and dtype float64, and gave it back with (1, 5) and float64: "
        "a carry keeps its shape and dtype",
    ),
    (
        lambda: scan(lambda p, c, x: ((c[0] * 1.5, c[1]), x), PARAMS, (START.astype(int), START), XS),
        ValueError,
        "scan: the step got the carry '0' with shape (3, 5) and dtype int64, and gave it back with (3, 5) and float64: "
        "a carry keeps its shape and dtype",
    ),
    (
        lambda: scan(giving(lambda h: h[:, :2]), PARAMS, Tensor(START), XS[:0]),
        ValueError,
        "scan: the step got the carry with shape (3, 5) and dtype float64, and gave it back with (3, 2) and float64: "
        "a carry keeps its shape and dtype",
    ),
    (
        lambda: scan(lambda p, n, x: (n + 1, x), PARAMS, np.zeros(()), XS, lengths=LENGTHS),
        ValueError,
        "scan: an array of the carry or the output has shape (); "
        "with lengths or a mask each starts with the batch axis, 3 long",
    ),
]


@pytest.mark.parametrize(("mistake", "error", "sentence"), MISTAKES, ids=[m[2][:50] for m in MISTAKES])
def test_mistakes_are_told_in_a_sentence(mistake, error, sentence):
    with pytest.raises(error) as caught:
        mistake()
    assert str(caught.value) == sentence


def test_a_carry_without_a_batch_axis_is_fine_where_no_sequence_ends_early():
    carry, ys = scan(lambda p, n, x: (n + 1, n), PARAMS, np.zeros(()), XS)
    assert carry == T
    np.testing.assert_array_equal(ys, np.arange(T))


def test_what_stands_in_the_padding_reaches_no_gradient():
    def step(params, h, x):
        h = tanh(x @ params["U"] + h @ params["W"])
        return h, h

    rng = np.random.default_rng(0)
    params = {"U": rng.standard_normal((2, 3)), "W": rng.standard_normal((3, 3))}
    xs, lengths = rng.standard_normal((4, 2, 2)), np.array([4, 2])

    def loss(params, xs):
        return scan(step, params, np.zeros((2, 3)), xs, lengths=lengths)[1].sum()

    spoiled = xs.copy()
    spoiled[2:, 1] = np.nan
    value, gradient = value_and_grad(loss)(params, xs)
    spoiled_value, spoiled_gradient = value_and_grad(loss)(params, spoiled)
    assert spoiled_value == value
    for a, b in trees.zip_leaves(gradient, spoiled_gradient):
        np.testing.assert_array_equal(a, b)
