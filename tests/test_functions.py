"""Compositions of primitives, compared with their formulas in NumPy."""

from __future__ import annotations

from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigrad import (
    Tensor,
    affine,
    concat,
    cross_entropy,
    dropout,
    dropout_mask,
    layer_norm,
    one_hot,
    softmax,
    split,
    value_and_grad,
)
from minigrad.checking import check_vjp

RNG = np.random.default_rng(0)
LOGITS = RNG.standard_normal((2, 3, 5))
TARGETS = np.array([[0, 4, 2], [1, 1, 3]])
MASK = np.array([[True, False, True], [False, False, True]])


def negative_log_probabilities() -> Any:
    p = np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True)
    return -np.log(np.take_along_axis(p, TARGETS[..., None], -1)[..., 0])


# --- affine, concat, split --------------------------------------------------------------------------------------------


def test_affine_is_a_product_and_a_bias():
    params = {"W": RNG.standard_normal((5, 2)), "b": RNG.standard_normal(2)}
    for x in (LOGITS, LOGITS[0], LOGITS[0, 0]):
        np.testing.assert_allclose(affine(params, x), x @ params["W"] + params["b"])
        check_vjp(affine, [params, x], order=2)


def test_concat_joins_along_the_last_axis():
    h, x = np.ones((2, 3)), np.zeros((2, 1))
    np.testing.assert_array_equal(concat(h, x), [[1, 1, 1, 0]] * 2)
    np.testing.assert_array_equal(concat(Tensor(h), x).value, concat(h, x))


@given(
    hnp.array_shapes(max_dims=3, min_side=0, max_side=6),
    st.data(),
)
def test_split_is_numpys_and_concatenate_undoes_it(shape, data):
    x = RNG.standard_normal(shape)
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    divisors = [n for n in range(1, 7) if shape[axis] % n == 0]
    places = st.lists(st.integers(-7, 7), max_size=4)
    sections = data.draw(st.one_of(st.sampled_from(divisors), st.sampled_from(divisors).map(np.int64), places))
    parts = split(x, sections, axis)
    for part, expected in zip(parts, np.split(x, sections, axis), strict=True):
        np.testing.assert_array_equal(part, expected, strict=True)
    if not isinstance(sections, list):
        np.testing.assert_array_equal(np.concatenate(parts, axis), x)


def test_splits_gradient():
    check_vjp(lambda x: [part * (i + 1) for i, part in enumerate(split(x, 5))], [LOGITS], order=2)
    check_vjp(lambda x: split(x, [1, 2], axis=1), [LOGITS])


# --- softmax, cross entropy -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_softmax(axis):
    expected = np.exp(LOGITS) / np.exp(LOGITS).sum(axis, keepdims=True)
    np.testing.assert_allclose(softmax(LOGITS, axis), expected, rtol=1e-12)
    np.testing.assert_allclose(softmax(LOGITS + 1000, axis), expected, rtol=1e-10)
    check_vjp(lambda x: softmax(x, axis), [LOGITS], order=2)


def test_cross_entropy_is_the_mean_of_negative_log_probabilities():
    expected = negative_log_probabilities()
    assert cross_entropy(LOGITS, TARGETS) == pytest.approx(expected.mean(), rel=1e-12)
    assert cross_entropy(LOGITS, TARGETS, MASK) == pytest.approx(expected[MASK].mean(), rel=1e-12)
    assert cross_entropy(LOGITS, TARGETS, MASK.astype(np.float32)) == pytest.approx(expected[MASK].mean(), rel=1e-12)
    assert cross_entropy(LOGITS[0, 0], TARGETS[0, 0]) == pytest.approx(expected[0, 0], rel=1e-12)
    assert cross_entropy(LOGITS, TARGETS.astype(np.uint8)) == pytest.approx(expected.mean(), rel=1e-12)
    assert cross_entropy(LOGITS, Tensor(TARGETS), Tensor(MASK)) == pytest.approx(expected[MASK].mean(), rel=1e-12)


def test_cross_entropys_gradient_is_probability_minus_target():
    p = np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True)
    _, gradient = value_and_grad(cross_entropy)(LOGITS, TARGETS)
    np.testing.assert_allclose(gradient, (p - np.eye(5)[TARGETS]) / TARGETS.size, rtol=1e-10)
    _, gradient = value_and_grad(cross_entropy)(LOGITS, TARGETS, MASK)
    np.testing.assert_allclose(gradient, (p - np.eye(5)[TARGETS]) * MASK[..., None] / MASK.sum(), rtol=1e-10)
    check_vjp(lambda x: cross_entropy(x, TARGETS, MASK), [LOGITS], order=2)


def test_cross_entropy_of_a_certain_wrong_answer_is_finite():
    value, gradient = value_and_grad(cross_entropy)(np.array([[1e4, 0.0]]), np.array([1]))
    assert value == 1e4
    np.testing.assert_array_equal(gradient, [[1, -1]])


def test_cross_entropy_of_nothing_is_zero():
    for logits, targets, mask in [
        (np.zeros((0, 5)), np.zeros(0, int), None),
        (np.zeros((2, 0, 5)), np.zeros((2, 0), int), None),
        (LOGITS, TARGETS, np.zeros_like(MASK)),
    ]:
        value, gradient = value_and_grad(cross_entropy)(logits, targets, mask)
        assert value == 0
        np.testing.assert_array_equal(gradient, np.zeros_like(logits))


def test_what_a_mask_hides_may_be_anything_finite():
    logits = np.where(MASK[..., None], LOGITS, 1e30)
    value, gradient = value_and_grad(cross_entropy)(logits, TARGETS, MASK)
    assert value == pytest.approx(negative_log_probabilities()[MASK].mean())
    np.testing.assert_array_equal(gradient[~MASK], 0)


# --- layer norm, dropout, one hot -------------------------------------------------------------------------------------


def test_layer_norm():
    gain, bias = RNG.standard_normal(5), RNG.standard_normal(5)
    centred = LOGITS - LOGITS.mean(-1, keepdims=True)
    expected = gain * centred / np.sqrt(LOGITS.var(-1, keepdims=True) + 1e-5) + bias
    np.testing.assert_allclose(layer_norm(LOGITS, gain, bias), expected, rtol=1e-12)
    check_vjp(layer_norm, [LOGITS, gain, bias], order=2)
    normal = layer_norm(LOGITS, 1, 0, axis=0, epsilon=0)
    np.testing.assert_allclose(normal.mean(0), np.zeros((3, 5)), atol=1e-12)
    np.testing.assert_allclose(normal.var(0), np.ones((3, 5)))


def test_layer_norm_of_equal_values_has_a_gradient():
    _, gradient = value_and_grad(lambda x: (layer_norm(x, 1.0, 0.0) * np.arange(4.0)).sum())(np.ones((2, 4)))
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dropout_keeps_the_expectation(dtype):
    mask = dropout_mask((200, 500), 0.2, np.random.default_rng(0), dtype)
    assert mask.dtype == dtype
    np.testing.assert_array_equal(np.unique(mask), np.array([0, 1 / 0.8], dtype))
    assert mask.mean() == pytest.approx(1, abs=0.01)


def test_dropouts_gradient_goes_where_the_values_went():
    x = np.ones((4, 5), np.float32)
    value, gradient = value_and_grad(lambda x: dropout(x, 0.5, np.random.default_rng(1)).sum())(x)
    np.testing.assert_array_equal(gradient, dropout(x, 0.5, np.random.default_rng(1)))
    assert set(np.unique(gradient)) == {0, 2}
    assert value == gradient.sum()
    assert gradient.dtype == np.float32


def test_dropout_at_rate_zero_draws_nothing():
    rng = np.random.default_rng(0)
    x = Tensor(np.ones(3))
    assert dropout(x, 0.0, rng) is x
    assert rng.random() == np.random.default_rng(0).random()


def test_one_hot():
    np.testing.assert_array_equal(one_hot(TARGETS, 5), np.eye(5)[TARGETS])
    assert one_hot(TARGETS, 5).dtype == np.float32
    assert one_hot(np.zeros((0, 2), int), 3, np.float64).shape == (0, 2, 3)
    np.testing.assert_array_equal(one_hot(np.array(1), 3), [0, 1, 0])


# --- mistakes ---------------------------------------------------------------------------------------------------------

MISTAKES: list[tuple[Any, type[Exception], str]] = [
    (lambda: split(LOGITS, 2), ValueError, "split: an axis of length 5 cannot be cut into 2 equal parts"),
    (lambda: split(LOGITS, 0), ValueError, "split: an axis of length 5 cannot be cut into 0 equal parts"),
    (lambda: split(LOGITS, 1, axis=3), ValueError, "split: axis 3 is out of bounds for array of dimension 3"),
    (
        lambda: cross_entropy(LOGITS, TARGETS * 1.0),
        TypeError,
        "cross_entropy: targets have dtype float64; it takes integers, the index of each class",
    ),
    (
        lambda: cross_entropy(LOGITS, TARGETS[0]),
        ValueError,
        "cross_entropy: targets have shape (3,) and logits (2, 3, 5); "
        "targets must be (2, 3), one class index for each row of logits",
    ),
    (
        lambda: cross_entropy(LOGITS, TARGETS + 1),
        ValueError,
        "cross_entropy: targets run from 1 to 5; 5 logits allow 0 to 4",
    ),
    (
        lambda: cross_entropy(LOGITS, TARGETS - 1),
        ValueError,
        "cross_entropy: targets run from -1 to 3; 5 logits allow 0 to 4",
    ),
    (
        lambda: cross_entropy(LOGITS, TARGETS, MASK[0]),
        ValueError,
        "cross_entropy: the mask has shape (3,) and the targets (2, 3); give equal ones",
    ),
    (
        lambda: dropout(np.ones(3), 1.0, np.random.default_rng(0)),
        ValueError,
        "dropout: the rate is 1.0; it must be at least 0 and below 1",
    ),
    (
        lambda: dropout_mask((3,), -0.1, np.random.default_rng(0)),
        ValueError,
        "dropout: the rate is -0.1; it must be at least 0 and below 1",
    ),
    (
        lambda: one_hot(np.array([0, 3]), 3),
        ValueError,
        "one_hot: indices run from 0 to 3; 3 classes allow 0 to 2",
    ),
    (
        lambda: one_hot(np.array([-1]), 3),
        ValueError,
        "one_hot: indices run from -1 to -1; 3 classes allow 0 to 2",
    ),
]


@pytest.mark.parametrize(("mistake", "error", "sentence"), MISTAKES, ids=[m[2][:50] for m in MISTAKES])
def test_mistakes_are_told_in_a_sentence(mistake, error, sentence):
    with pytest.raises(error) as caught:
        mistake()
    assert str(caught.value) == sentence
