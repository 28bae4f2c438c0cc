"""Functions composed of primitives: softmax, losses, normalisation, affine maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.lib.array_utils import normalize_axis_index

from minigrad.primitives import concatenate, log_softmax, mean, where
from minigrad.primitives import exp as _exp
from minigrad.primitives import square as _square
from minigrad.primitives import sum as _sum
from minigrad.tensor import ARRAY_FUNCTIONS, Array, value_of
from minigrad.trees import Tree


def concat(*xs: Any) -> Any:
    """Arrays joined along their last axis: ``concat(h, x)``, (..., H) and (..., I) giving (..., H + I), is ``[h, x]``.

    Raises:
        ValueError: there are no arrays, or they differ in another axis.
    """
    return concatenate(xs, axis=-1)


def affine(params: Tree, x: Any) -> Any:
    """``x @ W + b`` for ``params = {"W": (I, O), "b": (O,)}`` and x of shape (..., I)."""
    return x @ params["W"] + params["b"]


def split(x: Any, sections: int | Sequence[int], axis: int = -1) -> list[Any]:
    """``x`` cut along ``axis`` into ``sections`` equal parts, or at those indices, as ``np.split``.

    Raises:
        ValueError: there is no such axis, or its length is not a multiple of ``sections``.
    """
    axis = normalize_axis_index(axis, x.ndim, "split")
    length = x.shape[axis]
    if isinstance(sections, int | np.integer):
        if sections < 1 or length % sections:
            raise ValueError(f"split: an axis of length {length} cannot be cut into {sections} equal parts")
        sections = [length * i // sections for i in range(1, sections)]
    before = (slice(None),) * axis
    bounds = zip([0, *sections], [*sections, length], strict=True)
    return [x[(*before, slice(start, stop))] for start, stop in bounds]


def softmax(x: Any, axis: int = -1) -> Any:
    """exp(x) divided by its sum along ``axis``, computed without overflow; x of any shape, which it keeps."""
    return _exp(log_softmax(x, axis=axis))


def cross_entropy(logits: Any, targets: Any, mask: Any = None) -> Any:
    """The mean of -log softmax(logits)[target], in nats.

    Args:
        logits: (..., V).
        targets: (...), integers in [0, V).
        mask: (...), true (or 1) where a position counts; the mean is over those, and 0 if there are none.
            None counts all.

    Raises:
        TypeError: the targets are not integers.
        ValueError: their shape, or the mask's, is not that of the logits without the last axis, or a target is
            outside [0, V).
    """
    targets = np.asarray(value_of(targets))
    classes = logits.shape[-1]
    if targets.dtype.kind not in "iu":
        raise TypeError(
            f"cross_entropy: targets have dtype {targets.dtype}; it takes integers, the index of each class"
        )
    if targets.shape != logits.shape[:-1]:
        raise ValueError(
            f"cross_entropy: targets have shape {targets.shape} and logits {logits.shape}; "
            f"targets must be {logits.shape[:-1]}, one class index for each row of logits"
        )
    if targets.size and (targets.min() < 0 or targets.max() >= classes):
        raise ValueError(
            f"cross_entropy: targets run from {targets.min()} to {targets.max()}; "
            f"{classes} logits allow 0 to {classes - 1}"
        )
    rows = log_softmax(logits, axis=-1).reshape(-1, classes)
    chosen = rows[np.arange(targets.size), targets.reshape(-1)]
    if mask is None:
        return -_sum(chosen) / max(targets.size, 1)
    live = np.asarray(value_of(mask)) != 0
    if live.shape != targets.shape:
        raise ValueError(
            f"cross_entropy: the mask has shape {live.shape} and the targets {targets.shape}; give equal ones"
        )
    return -_sum(where(live.reshape(-1), chosen, 0)) / max(int(live.sum()), 1)


def layer_norm(x: Any, gain: Any, bias: Any, axis: int = -1, epsilon: float = 1e-5) -> Any:
    """``gain * (x - mean) / sqrt(variance + epsilon) + bias`` along ``axis`` (Ba, Kiros and Hinton 2016).

    The variance divides by the number of elements, not one less.

    Args:
        x: (..., N), or any shape with N along ``axis``; the result has the same.
        gain: (N,), or any shape that broadcasts with x.
        bias: likewise.
        axis: the axis to normalise.
        epsilon: keeps the square root away from 0.
    """
    centred = x - mean(x, axis=axis, keepdims=True)
    variance = mean(_square(centred), axis=axis, keepdims=True)
    return gain * centred / (variance + epsilon) ** 0.5 + bias


class Share(np.random.Generator):
    """A generator for some rows of a batch: what it draws by ``draw`` are those rows of a draw for the whole batch.

    Processes that train together, each on its rows of one batch, begin with the same bit generator. Their dropout masks
    are then the rows of the masks that one process would draw, and their generators stay in the same state, as long as
    their sequences are padded to the length of the whole batch.

    Attributes:
        rows: which sequences of the batch.
        size: how many sequences the whole batch has.
    """

    def __init__(self, bit_generator: np.random.BitGenerator, rows: slice, size: int) -> None:
        super().__init__(bit_generator)
        self.rows, self.size = rows, size

    def __reduce__(self) -> Any:
        return Share, (self.bit_generator, self.rows, self.size)

    def draw(self, shape: tuple[int, ...], axis: int, method: Literal["random", "standard_normal"] = "random") -> Array:
        """Float32 numbers of a shape, by a generator's method: the rows of those of the whole batch.

        Args:
            shape: of the numbers.
            axis: that of the batch.
            method: ``random`` (uniform in [0, 1)) or ``standard_normal``.
        """
        whole: Array = getattr(self, method)((*shape[:axis], self.size, *shape[axis + 1 :]), dtype=np.float32)
        return whole[(slice(None),) * axis + (self.rows,)]


def dropout_mask(
    shape: tuple[int, ...], rate: float, rng: np.random.Generator, dtype: Any = np.float32, *, axis: int | None = 0
) -> Array:
    """Zeros with probability ``rate``, and 1 / (1 - rate) elsewhere, so that a product keeps its expectation.

    Args:
        shape: of the mask.
        rate: the probability of a zero.
        rng: draws the mask; a ``Share`` draws that of the whole batch.
        dtype: of the mask.
        axis: that of the batch; None if the mask is the same for all sequences, as one of parameters.

    Raises:
        ValueError: ``rate`` is outside [0, 1).
    """
    if not 0 <= rate < 1:
        raise ValueError(f"dropout: the rate is {rate}; it must be at least 0 and below 1")
    if axis is not None and isinstance(rng, Share):
        draws = rng.draw(shape, axis)
    else:
        draws = rng.random(shape, dtype=np.float32)
    mask: Array = np.asarray(draws >= rate, dtype) / np.asarray(1 - rate, dtype)
    return mask


def dropout(x: Any, rate: float, rng: np.random.Generator, *, axis: int = 0) -> Any:
    """``x``, of any shape, with elements dropped at random, the others scaled by 1 / (1 - rate).

    Srivastava, Hinton, Krizhevsky, Sutskever and Salakhutdinov 2014, "Dropout", JMLR 15; scaled here, not afterwards.

    Args:
        x: the input.
        rate: the probability that an element is dropped.
        rng: draws the mask, as in ``dropout_mask``.
        axis: that of the batch.

    Raises:
        ValueError: ``rate`` is outside [0, 1).
    """
    return x * dropout_mask(x.shape, rate, rng, x.dtype, axis=axis) if rate else x


def one_hot(indices: Array, classes: int, dtype: Any = np.float32) -> Array:
    """(..., classes): 1 at each index, 0 elsewhere. A plain array.

    Raises:
        ValueError: an index is outside [0, classes).
    """
    indices = np.asarray(indices)
    if indices.size and (indices.min() < 0 or indices.max() >= classes):
        raise ValueError(
            f"one_hot: indices run from {indices.min()} to {indices.max()}; {classes} classes allow 0 to {classes - 1}"
        )
    out: Array = np.zeros((indices.size, classes), dtype)
    out[np.arange(indices.size), indices.reshape(-1)] = 1
    return out.reshape(*indices.shape, classes)


ARRAY_FUNCTIONS[np.split] = lambda x, sections, axis=0: split(x, sections, axis)
