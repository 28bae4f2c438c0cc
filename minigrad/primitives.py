"""The table of derivatives: each primitive's NumPy function and its rules, one rule per argument.

In every rule ``g`` is the cotangent of the output and ``y`` the output.
"""

from __future__ import annotations

import builtins
import itertools
import math
from collections.abc import Sequence
from types import EllipsisType
from typing import Any

import numpy as np

from minigrad.tensor import (
    UFUNCS,
    Array,
    Primitive,
    Scattered,
    Tensor,
    elementwise,
    unbroadcast,
)

# --- element by element -----------------------------------------------------------------------------------------------

add = elementwise(np.add, lambda g, y, a, b: g,
                          lambda g, y, a, b: g)  # fmt: skip
subtract = elementwise(np.subtract, lambda g, y, a, b: g,
                                    lambda g, y, a, b: -g)  # fmt: skip
multiply = elementwise(np.multiply, lambda g, y, a, b: g * b,
                                    lambda g, y, a, b: g * a)  # fmt: skip
divide = elementwise(np.divide, lambda g, y, a, b: g / b,
                                lambda g, y, a, b: -g * y / b)  # fmt: skip


def _less_one(b: Any) -> Any:
    # b * a ** (b - 1) is 0 * inf where a and b are both 0; use its limit, 0.
    if isinstance(b, int | float):
        return b - 1 if b else 1
    return where(b == 0, 1, b - 1)


def _log_base(a: Any) -> Any:
    # Likewise y * log(a) where the base is 0; a negative base has no real logarithm.
    if isinstance(a, int | float):
        return math.log(a) if a > 0 else math.nan if a < 0 else 0.0
    return log(where(a == 0, 1, a))


power = elementwise(np.power, lambda g, y, a, b: g * b * a ** _less_one(b),
                              lambda g, y, a, b: g * y * _log_base(a))  # fmt: skip

negative = elementwise(np.negative, lambda g, y, x: -g)
exp = elementwise(np.exp, lambda g, y, x: g * y)
expm1 = elementwise(np.expm1, lambda g, y, x: g * (y + 1))
log = elementwise(np.log, lambda g, y, x: g / x)
log1p = elementwise(np.log1p, lambda g, y, x: g / (x + 1))
sqrt = elementwise(np.sqrt, lambda g, y, x: g * 0.5 / y)
square = elementwise(np.square, lambda g, y, x: g * x * 2)
abs = elementwise(np.absolute, lambda g, y, x: g * np.sign(x), name="abs",
                  doc="As ``np.abs``; its derivative at 0 is 0.")  # fmt: skip
sin = elementwise(np.sin, lambda g, y, x: g * cos(x))
cos: Primitive = elementwise(np.cos, lambda g, y, x: -g * sin(x))
tanh = elementwise(np.tanh, lambda g, y, x: g * (1 - y * y))


def _sigmoid(x: Array) -> Any:
    # This is accurate for small results. Above 40 it rounds to 1, and exp would overflow.
    e = np.exp(np.minimum(x, 40))
    return e / (e + 1)


sigmoid = elementwise(_sigmoid, lambda g, y, x: g * y * (1 - y), name="sigmoid", doc="1 / (1 + exp(-x)).")
softplus = elementwise(lambda x: np.logaddexp(x, 0), lambda g, y, x: g * sigmoid(x), name="softplus",
                       doc="log(1 + exp(x)), without overflow.")  # fmt: skip

relu = elementwise(lambda x: np.maximum(x, 0), lambda g, y, x: g * (x > 0), name="relu",
                   doc="max(x, 0); its derivative at 0 is 0.")  # fmt: skip
maximum = elementwise(np.maximum, lambda g, y, a, b: g * (a > b) + g * 0.5 * (a == b),
                                  lambda g, y, a, b: g * (b > a) + g * 0.5 * (b == a),
                      doc="As ``np.maximum``; equal arguments share the gradient, a half each.")  # fmt: skip
minimum = elementwise(np.minimum, lambda g, y, a, b: g * (a < b) + g * 0.5 * (a == b),
                                  lambda g, y, a, b: g * (b < a) + g * 0.5 * (b == a),
                      doc="As ``np.minimum``; equal arguments share the gradient, a half each.")  # fmt: skip
where: Primitive = elementwise(lambda c, a, b: np.where(c, a, b),
                               None,
                               lambda g, y, c, a, b: where(c, g, 0),
                               lambda g, y, c, a, b: where(c, 0, g), name="where")  # fmt: skip


def _clip(x: Array, *, a_min: Any = None, a_max: Any = None) -> Any:
    return np.clip(x, a_min, a_max)


def _inside(x: Any, a_min: Any, a_max: Any) -> Any:
    return (True if a_min is None else x >= a_min) & (True if a_max is None else x <= a_max)


clip = elementwise(_clip, lambda g, y, x, *, a_min, a_max: g * _inside(x, a_min, a_max), name="clip")
alias = elementwise(lambda x: x, lambda g, y, x: g, name="alias", doc="x itself, as a value with a node of its own.")
stop_gradient = elementwise(lambda x: x, None, name="stop_gradient",
                            doc="x itself as a constant: the derivative by x is 0, of every order.")  # fmt: skip


def _astype(x: Array, *, dtype: Any) -> Any:
    return np.asarray(x).astype(dtype)


astype: Primitive = Primitive("astype", _astype, lambda g, y, x, *, dtype: astype(g, x.dtype),
                              doc="x in another float type; its gradient has the type of x.")  # fmt: skip

# --- products ---------------------------------------------------------------------------------------------------------


def _matmul(a: Array, b: Array) -> Any:
    if np.ndim(a) > 2 and np.ndim(b) == 2:
        # One product over all rows; np.matmul would compute a small one per leading index.
        return (_rows(a) @ b).reshape(*a.shape[:-1], b.shape[-1])
    return np.matmul(a, b)


def _matmul_rule_a(g: Any, y: Any, a: Any, b: Any) -> Any:
    if b.ndim == 1:
        g = g[..., None]  # (..., m, 1), or (1,) where a is a vector too
        return unbroadcast(g * b, a.shape)
    if a.ndim == 1:
        return unbroadcast(matmul(b, g[..., None])[..., 0], a.shape)
    return unbroadcast(matmul(g, _swap(b)), a.shape)


def _matmul_rule_b(g: Any, y: Any, a: Any, b: Any) -> Any:
    if a.ndim == 1:
        return unbroadcast(a * g if b.ndim == 1 else a[:, None] * g[..., None, :], b.shape)
    if b.ndim == 1:
        return unbroadcast(matmul(_swap(a), g[..., None])[..., 0], b.shape)
    if a.ndim > 2 and b.ndim == 2:
        return matmul(_swap(_rows(a)), _rows(g))
    return unbroadcast(matmul(_swap(a), g), b.shape)


def _rows(x: Any) -> Any:
    """All axes but the last as one."""
    return reshape(x, (math.prod(x.shape[:-1]), x.shape[-1]))


def _swap(x: Any) -> Any:
    """The last two axes exchanged."""
    return transpose(x, (*range(x.ndim - 2), x.ndim - 1, x.ndim - 2))


matmul = Primitive("matmul", _matmul, _matmul_rule_a, _matmul_rule_b)
UFUNCS[np.matmul] = matmul

# --- reductions -------------------------------------------------------------------------------------------------------


def _restore(g: Any, x: Any, axis: Any) -> Any:
    """A reduced array with the reduced axes restored, with length 1."""
    if g.ndim == x.ndim:
        return g
    axes = range(x.ndim) if axis is None else {a % x.ndim for a in (axis if isinstance(axis, tuple) else (axis,))}
    return reshape(g, tuple(1 if i in axes else n for i, n in enumerate(x.shape)))


def _logsumexp(x: Array, *, axis: Any = None, keepdims: bool = False) -> Any:
    top = np.max(x, axis=axis, keepdims=True) if np.size(x) else np.sum(x, axis=axis, keepdims=True)
    top = np.where(np.isfinite(top), top, 0)  # so that a row of -inf gives -inf, and not nan
    with np.errstate(divide="ignore", over="ignore"):
        y = np.log(np.sum(np.exp(x - top), axis=axis, keepdims=True)) + top
    return y if keepdims else np.squeeze(y, axis)


def _log_softmax(x: Array, *, axis: int = -1) -> Any:
    if not np.size(x):
        return np.zeros_like(x)
    shifted = x - np.max(x, axis=axis, keepdims=True)
    return shifted - np.log(np.sum(np.exp(shifted), axis=axis, keepdims=True))


def _extremum_rule(g: Any, y: Any, x: Any, *, axis: Any, keepdims: bool) -> Any:
    chosen = where(x == _restore(y, x, axis), x.dtype.type(1), 0)
    return _restore(g, x, axis) * (chosen / sum(chosen, axis=axis, keepdims=True))  # equal elements share the gradient


def _sum_rule(g: Any, y: Any, x: Any, *, axis: Any, keepdims: bool) -> Any:
    return broadcast_to(_restore(g, x, axis), x.shape)


def _mean_rule(g: Any, y: Any, x: Any, *, axis: Any, keepdims: bool) -> Any:
    return broadcast_to(_restore(g * (y.size / builtins.max(x.size, 1)), x, axis), x.shape)


def _logsumexp_rule(g: Any, y: Any, x: Any, *, axis: Any, keepdims: bool) -> Any:
    y = _restore(y, x, axis)
    high, low = y == np.inf, y == -np.inf
    # exp(x - y) where y is finite. A row of -inf has derivative 0; elements of +inf share it, as equal maxima do.
    x = where(high, where(x == np.inf, x.dtype.type(0), -np.inf), x)
    share = exp(x - where(high | low, 0, y))
    return _restore(g, x, axis) * (share / where(high, sum(share, axis=axis, keepdims=True), 1))


def _reduction(function: Any) -> Any:
    def forward(x: Array, *, axis: Any = None, keepdims: bool = False) -> Any:
        return function(x, axis=axis, keepdims=keepdims)

    return forward


sum = Primitive("sum", _reduction(np.sum), _sum_rule)
mean = Primitive("mean", _reduction(np.mean), _mean_rule)
max = Primitive("max", _reduction(np.max), _extremum_rule, doc="As ``np.max``; equal maxima share the gradient.")
min = Primitive("min", _reduction(np.min), _extremum_rule, doc="As ``np.min``; equal minima share the gradient.")
logsumexp = Primitive("logsumexp", _logsumexp, _logsumexp_rule, doc="log(sum(exp(x))) over axes, without overflow.")
log_softmax = Primitive(
    "log_softmax",
    _log_softmax,
    lambda g, y, x, *, axis: g - exp(y) * sum(g, axis=axis, keepdims=True),
    doc="log(softmax(x)) along an axis, by default the last, without overflow.",
)


def _cumsum(x: Array, *, axis: int | None = None) -> Any:
    return np.cumsum(x, axis=axis)


def _cumsum_rule(g: Any, y: Any, x: Any, *, axis: int | None) -> Any:
    backwards = (slice(None),) * (0 if axis is None else axis % g.ndim) + (slice(None, None, -1),)
    return reshape(cumsum(g[backwards], axis=axis)[backwards], x.shape)


cumsum = Primitive("cumsum", _cumsum, _cumsum_rule)

# --- shapes -----------------------------------------------------------------------------------------------------------


def _reshape(x: Array, *, shape: Any) -> Any:
    return np.reshape(x, shape)


def _transpose(x: Array, *, axes: Any = None) -> Any:
    return np.transpose(x, axes)


def _transpose_rule(g: Any, y: Any, x: Any, *, axes: Any) -> Any:
    return transpose(g, None if axes is None else tuple(np.argsort([a % x.ndim for a in axes]).tolist()))


def _broadcast_to(x: Array, *, shape: Any) -> Any:
    return np.broadcast_to(x, shape)


def _pad(x: Array, *, pad_width: Any, mode: str = "constant", constant_values: Any = 0) -> Any:
    if mode != "constant":
        raise ValueError(f"mode {mode!r} has no rule here, only 'constant': build the border with concatenate")
    return np.pad(x, pad_width, mode="constant", constant_values=constant_values)


def _pad_rule(g: Any, y: Any, x: Any, *, pad_width: Any, mode: str, constant_values: Any) -> Any:
    if isinstance(pad_width, dict):  # by axis; the other axes are not padded
        widths: list[Any] = [pad_width.get(axis, pad_width.get(axis - x.ndim, 0)) for axis in range(x.ndim)]
        pad_width = [np.broadcast_to(width, 2) for width in widths]
    before = np.broadcast_to(np.asarray(pad_width), (x.ndim, 2))[:, 0].tolist()
    return g[tuple(slice(b, b + n) for b, n in zip(before, x.shape, strict=True))]


reshape: Primitive = Primitive("reshape", _reshape, lambda g, y, x, *, shape: reshape(g, x.shape))
transpose = Primitive("transpose", _transpose, _transpose_rule)
broadcast_to = Primitive("broadcast_to", _broadcast_to, lambda g, y, x, *, shape: unbroadcast(g, x.shape))
pad = Primitive("pad", _pad, _pad_rule)


def _concatenate(*xs: Array, axis: int = 0) -> Any:
    return np.concatenate(xs, axis=axis)


def _concatenate_rule(g: Any, y: Any, *xs: Any, axis: int) -> list[Any]:
    before = (slice(None),) * (axis % y.ndim)
    stops = itertools.accumulate(x.shape[axis] for x in xs)
    return [g[(*before, slice(stop - x.shape[axis], stop))] for x, stop in zip(xs, stops, strict=True)]


def _stack(*xs: Array, axis: int = 0) -> Any:
    return np.stack(xs, axis=axis)


def _stack_rule(g: Any, y: Any, *xs: Any, axis: int) -> list[Any]:
    before = (slice(None),) * (axis % y.ndim)
    return [g[(*before, i)] for i in range(len(xs))]


_concatenate_primitive = Primitive("concatenate", _concatenate, _concatenate_rule, variadic=True)
_stack_primitive = Primitive("stack", _stack, _stack_rule, variadic=True)


def concatenate(xs: Sequence[Any], axis: int | None = 0) -> Any:
    """Arrays joined along an axis that they have, or with ``axis=None`` flattened and joined, as ``np.concatenate``.

    (A, ...) and (B, ...) give (A + B, ...): only the lengths of that axis may differ.

    Raises:
        ValueError: there are no arrays, or their shapes do not match.
        TypeError: a tensor and an array have different float dtypes.
    """
    if axis is None:
        xs, axis = [reshape(x, -1) for x in xs], 0
    return _concatenate_primitive(*xs, axis=axis)


def stack(xs: Sequence[Any], axis: int = 0) -> Any:
    """Arrays joined along a new axis, as ``np.stack``: N arrays of shape (...) give (N, ...).

    Raises:
        ValueError: there are no arrays, or their shapes differ.
        TypeError: a tensor and an array have different float dtypes.
    """
    return _stack_primitive(*xs, axis=axis)


# --- choosing ---------------------------------------------------------------------------------------------------------


def _getitem(x: Array, *, index: Any) -> Any:
    return x[index]


def _take(x: Array, indices: Array, *, axis: int = 0) -> Any:
    return np.take(x, indices, axis=axis)


def _scatter(*gs: Array, indices: Sequence[Any], shape: tuple[int, ...]) -> Any:
    """Zeros with each g added at its index; elements indexed twice receive both."""
    out = np.zeros(shape, gs[0].dtype)
    for index, g in zip(indices, gs, strict=True):
        parts = index if isinstance(index, tuple) else (index,)
        if all(part is None or isinstance(part, int | np.integer | slice | EllipsisType) for part in parts):
            out[index] += g
        elif len(parts) == 1 and isinstance(parts[0], np.ndarray) and parts[0].dtype.kind in "iu":
            _add_rows(out, parts[0], g)
        else:
            np.add.at(out, index, g)
    return out


def _add_rows(out: Array, rows: Array, g: Array) -> None:
    """``np.add.at(out, rows, g)``, ten times faster: sort by row, then one sum per distinct row."""
    rows = rows.reshape(-1).astype(np.intp)  # a narrow dtype cannot represent len(out)
    if rows.size == 0:
        return
    rows = np.where(rows < 0, rows + len(out), rows)
    order = np.argsort(rows, kind="stable")
    rows = rows[order]
    starts = np.flatnonzero(np.r_[True, rows[1:] != rows[:-1]])
    out[rows[starts]] += np.add.reduceat(g.reshape(len(order), *out.shape[1:])[order], starts, axis=0)


def _take_rule(g: Any, y: Any, x: Any, indices: Any, *, axis: int) -> Any:
    chosen = indices if isinstance(indices, Tensor) else np.asarray(indices, np.intp)
    return Scattered((slice(None),) * (axis % x.ndim) + (chosen,), g)


getitem = Primitive("getitem", _getitem, lambda g, y, x, *, index: Scattered(index, g), doc="x[index].")
_take_primitive = Primitive("take", _take, _take_rule, None)
scatter = Primitive(
    "scatter",
    _scatter,
    lambda g, y, *gs, indices, shape: [g[i] for i in indices],
    variadic=True,
    doc="Zeros of a shape, to which each array is added at its index.",
)


def take(x: Any, indices: Any, axis: int | None = 0) -> Any:
    """The entries of ``x`` at ``indices`` along ``axis``, as ``np.take``, whose default flattens ``x`` (None).

    The rows of an embedding are ``take(table, tokens)``, (V, E) at (T, B) giving (T, B, E): the shape of ``indices``
    replaces the axis. The gradients of a row that is taken twice are added.

    Raises:
        IndexError: an index is outside the axis.
        TypeError: the indices are not integers.
    """
    if axis is None:
        x, axis = reshape(x, -1), 0
    return _take_primitive(x, indices, axis=axis)


def _pick(x: Array, indices: Array) -> Any:
    return np.take_along_axis(x, np.asarray(indices, np.intp)[..., None], -1)[..., 0]


def _place(x: Array, indices: Array, *, size: int) -> Any:
    indices = np.asarray(indices)
    here = np.arange(size) == np.where(indices < 0, indices + size, indices)[..., None]
    return np.where(here, x[..., None], x.dtype.type(0))


pick = Primitive(
    "pick",
    _pick,
    lambda g, y, x, indices: place(g, indices, size=x.shape[-1]),
    None,
    doc="``x[..., indices]``, one element of each row: x (..., N) and indices (...) give (...).",
)
place: Primitive = Primitive(
    "place",
    _place,
    lambda g, y, x, indices, *, size: pick(g, indices),
    None,
    doc="Rows of zeros but for one element each: x (...) at ``indices`` (...) of ``size`` columns, (..., size).",
)
