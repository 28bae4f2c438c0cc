"""NumPy's functions on tensors, as primitives or compositions of primitives.

Compositions can be traced and planned as far as their primitives can.
"""

from __future__ import annotations

import builtins
import functools
import math
import string
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_index, normalize_axis_tuple

from minigrad import primitives
from minigrad.primitives import (
    abs,
    alias,
    broadcast_to,
    concatenate,
    cumsum,
    matmul,
    max,
    mean,
    min,
    pad,
    sqrt,
    stack,
    sum,
    take,
    transpose,
    where,
)
from minigrad.tensor import ARRAY_FUNCTIONS, Tensor

# --- shapes -----------------------------------------------------------------------------------------------------------


def _shaped(x: Any, shape: tuple[int, ...]) -> Any:
    return x if x.shape == shape else primitives.reshape(x, shape)


def _ordered(x: Any, axes: Sequence[int]) -> Any:
    return x if list(axes) == list(range(x.ndim)) else transpose(x, tuple(axes))


def _shape_after(function: Any, x: Any, *args: Any) -> tuple[int, ...]:
    """The shape of a NumPy function's result for an array of the shape of ``x``."""
    return function(np.broadcast_to(0, x.shape), *args).shape  # type: ignore[no-any-return]


def _swapaxes(a: Any, axis1: int, axis2: int) -> Any:
    return _moved(np.swapaxes, a, axis1, axis2)


def _moveaxis(a: Any, source: Any, destination: Any) -> Any:
    return _moved(np.moveaxis, a, source, destination)


def _moved(function: Any, x: Any, *args: Any) -> Any:
    # Axis i of this empty array has length i, so the result's shape is the order of the axes.
    return _ordered(x, function(np.empty(tuple(range(x.ndim))), *args).shape)


def _full_like(a: Any, fill_value: Any, **options: Any) -> Any:
    if isinstance(fill_value, Tensor) and not options:
        return broadcast_to(fill_value, a.shape)
    return np.full_like(np.broadcast_to(np.zeros((), a.dtype), a.shape), fill_value, **options)


def _flip(m: Any, axis: Any = None) -> Any:
    axes = range(m.ndim) if axis is None else normalize_axis_tuple(axis, m.ndim)
    return m[tuple(slice(None, None, -1 if i in axes else None) for i in range(m.ndim))]


def _roll(a: Any, shift: Any, axis: Any = None) -> Any:
    if axis is None:
        return _shaped(_roll(primitives.reshape(a, -1), shift, 0), a.shape)
    for by, along in np.broadcast(shift, axis):
        dim = normalize_axis_index(int(along), a.ndim)
        cut = -int(by) % builtins.max(a.shape[dim], 1)
        before = (slice(None),) * dim
        if cut:
            a = concatenate([a[(*before, slice(cut, None))], a[(*before, slice(0, cut))]], axis=dim)
    return a


def _repeat(a: Any, repeats: Any, axis: int | None = None) -> Any:
    if axis is None:
        a, axis = primitives.reshape(a, -1), 0
    axis = normalize_axis_index(axis, a.ndim)
    return a[(*(slice(None),) * axis, np.repeat(np.arange(a.shape[axis]), repeats))]


def _tile(A: Any, reps: Any) -> Any:
    reps = tuple(np.atleast_1d(reps).tolist())
    reps = (1,) * (A.ndim - len(reps)) + reps
    shape = (1,) * (len(reps) - A.ndim) + A.shape
    beside = broadcast_to(
        primitives.reshape(A, tuple(n for length in shape for n in (1, length))),
        tuple(n for pair in zip(reps, shape, strict=True) for n in pair),
    )
    return primitives.reshape(beside, tuple(times * length for times, length in zip(reps, shape, strict=True)))


def _hstack(tup: Iterable[Any]) -> Any:
    xs = [primitives.reshape(x, (1,)) if np.ndim(x) == 0 else x for x in tup]
    return concatenate(xs, axis=0 if np.ndim(xs[0]) == 1 else 1)


def _vstack(tup: Iterable[Any]) -> Any:
    return concatenate([primitives.reshape(x, (1, -1)) if np.ndim(x) < 2 else x for x in tup], axis=0)


# --- reductions -------------------------------------------------------------------------------------------------------


def _root(x: Any) -> Any:
    """The square root with derivative 0 at 0, a subgradient of a vector's norm there."""
    zero = x == 0
    return where(zero, 0, sqrt(where(zero, 1, x)))


def _var(a: Any, axis: Any = None, *, ddof: float = 0, keepdims: bool = False) -> Any:
    centre = mean(a, axis=axis, keepdims=True)
    axes = range(a.ndim) if axis is None else normalize_axis_tuple(axis, a.ndim)
    count = math.prod(a.shape[i] for i in axes) - ddof
    if count <= 0:
        raise ValueError(f"var: ddof is {ddof}, and there are only {count + ddof} elements: it must be smaller")
    return sum((a - centre) * (a - centre), axis=axis, keepdims=keepdims) / count


def _std(a: Any, axis: Any = None, *, ddof: float = 0, keepdims: bool = False) -> Any:
    return _root(_var(a, axis, ddof=ddof, keepdims=keepdims))


def _prod(a: Any, axis: Any = None, *, keepdims: bool = False) -> Any:
    # Multiply in pairs, so that a factor of 0 needs no division.
    axes = tuple(range(a.ndim)) if axis is None else normalize_axis_tuple(axis, a.ndim)
    kept = [i for i in range(a.ndim) if i not in axes]
    shape = tuple(a.shape[i] for i in kept)
    count = math.prod(a.shape[i] for i in axes)
    x = _shaped(_ordered(a, [*kept, *axes]), (*shape, count))
    while count > 1:
        half = count // 2
        pairs = x[..., :half] * x[..., half : 2 * half]
        x = concatenate([pairs, x[..., 2 * half :]], axis=-1) if count % 2 else pairs
        count -= half
    if count == 0:
        x = concatenate([x, np.ones((*shape, 1), x.dtype)], axis=-1)
    return _shaped(x, tuple(1 if i in axes else n for i, n in enumerate(a.shape)) if keepdims else shape)


def _norm(x: Any, ord: Any = None, axis: Any = None, keepdims: bool = False) -> Any:
    width = x.ndim if axis is None else np.size(axis)
    what = {1: "vector", 2: "matrix"}.get(width, f"array of {width} axes")
    if ord is None or (ord, what) in (("fro", "matrix"), (2, "vector")):
        return _root(sum(x * x, axis=axis, keepdims=keepdims))
    if (ord, what) == (1, "vector"):
        return sum(abs(x), axis=axis, keepdims=keepdims)
    if what == "vector" and ord in (np.inf, -np.inf):
        return (max if ord > 0 else min)(abs(x), axis=axis, keepdims=keepdims)
    raise TypeError(
        f"np.linalg.norm with ord={ord!r} of a{'n' if width not in (1, 2) else ''} {what} has no derivative rule here: "
        "it has the Frobenius norm of a matrix, and ord 1, 2, inf and -inf of a vector"
    )


# --- products ---------------------------------------------------------------------------------------------------------


def _outer(a: Any, b: Any) -> Any:
    return primitives.reshape(a, (-1, 1)) * primitives.reshape(b, (1, -1))


def _dot(a: Any, b: Any) -> Any:
    if np.ndim(a) == 0 or np.ndim(b) == 0:
        return a * b
    return matmul(a, b) if np.ndim(b) <= 2 else _tensordot(a, b, (-1, -2))


def _inner(a: Any, b: Any) -> Any:
    return a * b if np.ndim(a) == 0 or np.ndim(b) == 0 else _tensordot(a, b, (-1, -1))


def _tensordot(a: Any, b: Any, axes: Any = 2) -> Any:
    if isinstance(axes, int | np.integer):
        axes = range(-axes, 0), range(axes)
    of_a, of_b = (normalize_axis_tuple(some, np.ndim(x)) for some, x in zip(axes, (a, b), strict=True))
    labels = iter(string.ascii_letters)
    left, right = ([next(labels) for _ in range(np.ndim(x))] for x in (a, b))
    for i, j in zip(of_a, of_b, strict=True):
        right[j] = left[i]
    out = [label for label in (*left, *right) if not (label in left and label in right)]
    return einsum(f"{''.join(left)},{''.join(right)}->{''.join(out)}", a, b)


def einsum(subscripts: Any, *operands: Any, optimize: Any = False) -> Any:
    """A product of operands in Einstein's notation, as ``np.einsum``: ``einsum("ij,jk->ik", a, b)``.

    It is composed of products, sums and transpositions, two operands at a time from left to right.

    Args:
        subscripts: the labels of each operand, and after "->" of the result; or the first operand, if labels are
            given as lists: ``einsum(a, [0, 1], b, [1, 2], [0, 2])``.
        operands: arrays or tensors.
        optimize: accepted for compatibility with NumPy; the order stays the same.

    Raises:
        ValueError: a label occurs twice in one operand (its diagonal has no rule here), or labels and operands do not
            match.
    """
    if not isinstance(subscripts, str):
        subscripts, operands = _spelled(subscripts, *operands)
    xs = [x if isinstance(x, Tensor) else np.asarray(x) for x in operands]
    terms, out = _explicit(subscripts, tuple(x.shape for x in xs))
    x, mine = xs[0], terms[0]
    for i in range(1, len(xs)):
        x, mine = _contracted(x, mine, xs[i], terms[i], out + "".join(terms[i + 1 :]))
    x, mine = _summed(x, mine, out)
    return _ordered(x, [mine.index(label) for label in out])


def _spelled(*given: Any) -> tuple[str, tuple[Any, ...]]:
    """Convert the form with lists of labels to subscripts and operands."""
    letters = string.ascii_uppercase + string.ascii_lowercase  # in the order of the numbers
    texts = ["".join("..." if n is ... else letters[n] for n in labels) for labels in given[1::2]]
    operands = given[: len(given) // 2 * 2 : 2]
    out = f"->{''.join('...' if n is ... else letters[n] for n in given[-1])}" if len(given) % 2 else ""
    return ",".join(texts) + out, operands


@functools.lru_cache(maxsize=256)
def _explicit(subscripts: str, shapes: tuple[tuple[int, ...], ...]) -> tuple[list[str], str]:
    """The labels of each operand and of the result, with letters in place of "..."."""
    given, arrow, out = subscripts.replace(" ", "").partition("->")
    terms = given.split(",")
    if len(terms) != len(shapes):
        raise ValueError(
            f"einsum: {subscripts!r} names {len(terms)} operands and {len(shapes)} came: give one for each"
        )
    spare = [letter for letter in string.ascii_letters if letter not in subscripts]
    width = 0
    lengths: dict[str, int] = {}
    for i, shape in enumerate(shapes):
        labels = terms[i].replace("...", "")
        if len(set(labels)) != len(labels):
            raise ValueError(
                f"einsum: {subscripts!r} has a label twice in one operand, and a diagonal has no rule here: "
                "multiply by a mask and sum instead"
            )
        if "..." in terms[i] and len(shape) >= len(labels):
            rest = len(shape) - len(labels)
            width = builtins.max(width, rest)
            terms[i] = terms[i].replace("...", "".join(spare[len(spare) - rest :]) if rest else "")
        if len(terms[i]) != len(shape):
            raise ValueError(f"einsum: {subscripts!r} has {len(labels)} labels for an operand of shape {shape}")
        for label, length in zip(terms[i], shape, strict=True):
            known = lengths.get(label, 1)
            if 1 != length != known != 1:
                raise ValueError(
                    f"einsum: {label!r} in {subscripts!r} is {known} long and {length}: make it one length"
                )
            lengths[label] = length if known == 1 else known
    ellipsis = "".join(spare[len(spare) - width :])
    if arrow and width and "..." not in out:
        raise ValueError(f"einsum: the output of {subscripts!r} has no '...', which its operands have: add it")
    if not arrow:
        joined = "".join(terms)
        out = ellipsis + "".join(sorted(c for c in set(joined) if joined.count(c) == 1 and c not in ellipsis))
    out = out.replace("...", ellipsis)
    if len(set(out)) != len(out) or not set(out) <= lengths.keys():
        raise ValueError(f"einsum: the output of {subscripts!r} has a label twice, or one that no operand has")
    return terms, out


def _summed(x: Any, mine: str, wanted: str) -> tuple[Any, str]:
    """The operand summed over the labels that are not wanted."""
    axes = tuple(i for i, label in enumerate(mine) if label not in wanted)
    return (sum(x, axis=axes), "".join(label for label in mine if label in wanted)) if axes else (x, mine)


def _contracted(a: Any, mine: str, b: Any, others: str, wanted: str) -> tuple[Any, str]:
    """The product of two operands, summed over common labels that are not wanted; and its labels."""
    a, mine = _summed(a, mine, others + wanted)
    b, others = _summed(b, others, mine + wanted)
    batch = [label for label in mine if label in others and label in wanted]
    inner = [label for label in mine if label in others and label not in wanted]
    left, right = ([label for label in one if label not in other] for one, other in ((mine, others), (others, mine)))
    if right and (not left or wanted.index(right[0]) < wanted.index(left[0])):
        a, mine, left, b, others, right = b, others, right, a, mine, left  # rows come first
    length: dict[str, int] = {}
    for label, n in (*zip(mine, a.shape, strict=True), *zip(others, b.shape, strict=True)):
        length[label] = n if length.get(label, 1) == 1 else length[label]

    def shape(*groups: list[str]) -> tuple[int, ...]:
        return tuple(length[label] for group in groups for label in group)

    def placed(x: Any, labels: str, *order: str) -> Any:
        """An operand with its axes in this order of labels; a missing label is an axis of length 1."""
        own = [label for label in order if label in labels]
        x = _ordered(x, [labels.index(label) for label in own])
        lengths = dict(zip(own, x.shape, strict=True))
        return _shaped(x, tuple(lengths.get(label, 1) for label in order))

    def spread(x: Any, full: tuple[int, ...]) -> Any:
        return x if x.shape == full else broadcast_to(x, full)

    if inner and left:
        a, b = placed(a, mine, *batch, *left, *inner), placed(b, others, *batch, *inner, *right)
        a, b = spread(a, shape(batch, left, inner)), spread(b, shape(batch, inner, right))
        lead, middle, columns = shape(batch), math.prod(shape(inner)), math.prod(shape(right))
        rows = (math.prod(shape(left)),) if batch else shape(left)
        product = matmul(_shaped(a, (*lead, *rows, middle)), _shaped(b, (*lead, middle, columns)))
        return _shaped(product, shape(batch, left, right)), "".join([*batch, *left, *right])
    order = [*sorted([*batch, *left, *right], key=wanted.index), *inner]  # so that rows come first
    product = placed(a, mine, *order) * placed(b, others, *order)
    return _summed(product, "".join(order), wanted)


# --- the table --------------------------------------------------------------------------------------------------------


def _clip(a: Any, a_min: Any = None, a_max: Any = None, *, min: Any = None, max: Any = None) -> Any:
    return primitives.clip(a, a_min if min is None else min, a_max if max is None else max)


ARRAY_FUNCTIONS.update(
    {
        np.sum: sum, np.mean: mean, np.max: max, np.amax: max, np.min: min, np.amin: min, np.cumsum: cumsum,
        np.var: _var, np.std: _std, np.prod: _prod, np.linalg.norm: _norm, np.clip: _clip, np.where: where,
        np.einsum: einsum, np.dot: _dot, np.inner: _inner, np.outer: _outer, np.tensordot: _tensordot,
        np.reshape: primitives.reshape, np.transpose: transpose, np.broadcast_to: broadcast_to, np.pad: pad,
        np.concatenate: concatenate, np.stack: stack, np.hstack: _hstack, np.vstack: _vstack,
        np.take: lambda a, indices, axis=None: take(a, indices, axis),
        np.swapaxes: _swapaxes, np.moveaxis: _moveaxis, np.flip: _flip, np.roll: _roll, np.repeat: _repeat,
        np.tile: _tile, np.full_like: _full_like, np.copy: alias, np.ravel: lambda a: primitives.reshape(a, -1),
        np.expand_dims: lambda a, axis: primitives.reshape(a, _shape_after(np.expand_dims, a, axis)),
        np.squeeze: lambda a, axis=None: primitives.reshape(a, _shape_after(np.squeeze, a, axis)),
    }
)  # fmt: skip
for function, ours in ARRAY_FUNCTIONS.items():
    if getattr(ours, "__name__", "").startswith(("_", "<")):
        ours.__qualname__ = f"np.{function.__name__}"  # Python names it in errors about arguments
