"""The reference time loop: a dozen simple, slow lines that define the meaning of ``scan``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minigrad import trees
from minigrad.primitives import stack, where
from minigrad.scan.lookup import Lookup
from minigrad.tensor import Array, Node, Primitive, Tensor, is_recording, observer, unvarying, value_of
from minigrad.trees import Tree

FLUSHED = 16
"""Steps after which subnormal numbers in the cotangent of the carry are replaced by 0.

A vanishing gradient ends in such numbers: rounding prevents them from becoming 0, and many processors compute with
them a hundred times slower.
"""

Step = Callable[..., tuple[Tree, Tree]]


def scan(
    step: Step,
    params: Tree,
    carry: Tree,
    xs: Tree,
    *,
    context: Tree = None,
    lengths: Array | None = None,
    mask: Array | None = None,
    reverse: bool = False,
) -> tuple[Tree, Tree]:
    """Apply ``step`` along the first axis of ``xs``; arguments, results and errors are those of ``minigrad.scan``.

    Where a sequence has no input, the carry is unchanged and the output is zero.
    """
    xs = trees.map(lambda x: x.array() if isinstance(x, Lookup) else x, xs)
    length, batch_size = _sizes(xs)
    _check_context(context, batch_size)
    live = live_steps(length, batch_size, lengths, mask)
    outputs: list[Tree] = [None] * length
    watching = observer.get()
    for t in reversed(range(length)) if reverse else range(length):
        if watching is not None:
            watching.saw_time(t)
        x = trees.map(lambda x, t=t: x[t], xs)
        if live is not None and not live[t].all():
            # A NaN in the padding must not reach a gradient, as 0 * NaN would.
            x = trees.map(lambda leaf, t=t: where(_rows(live[t], leaf), leaf, np.zeros((), leaf.dtype)), x)
        new_carry, y = _step(step, params, carry, x, context)
        if live is not None:
            new_carry = trees.map(lambda new, old, t=t: where(_rows(live[t], new), new, old), new_carry, carry)
            y = trees.map(lambda out, t=t: where(_rows(live[t], out), out, False if out.dtype == bool else 0), y)
        carry, outputs[t] = new_carry, y
        if t % FLUSHED == 0 and watching is None:
            carry = trees.map(_flushed, carry)
    if watching is not None:
        watching.saw_time(None)
    if length:
        return carry, trees.map(lambda *ys: stack(ys), *outputs)
    # Without a step, one runs on zeros, to determine the shape of an output.
    _, y = _step(step, params, carry, trees.map(lambda x: np.zeros(x.shape[1:], x.dtype), xs), context)
    empty = trees.map(lambda out: np.zeros((0, *out.shape), out.dtype), y)
    given = [leaf.node for leaf in trees.leaves((params, carry, context, xs)) if isinstance(leaf, Tensor) and leaf.node]
    return carry, trees.map(lambda out: unvarying(out, given), empty) if given and is_recording() else empty


def _step(step: Step, params: Tree, carry: Tree, x: Tree, context: Tree) -> tuple[Tree, Tree]:
    """One step, with a check that the carry keeps its structure, shapes and dtypes."""
    result = step(params, carry, x) if context is None else step(params, carry, x, context)
    if not (isinstance(result, tuple) and len(result) == 2):
        raise TypeError(f"scan: the step gave a {type(result).__name__}; expected a pair (carry, y)")
    try:
        pairs = trees.zip_leaves(carry, result[0])
    except ValueError as error:
        raise ValueError(f"scan: the step gave a carry of another structure than it got: {error}") from None
    for place, pair in enumerate(pairs):
        old, new = (np.asarray(value_of(leaf)) for leaf in pair)
        if old.shape != new.shape or old.dtype != new.dtype:
            path = trees.paths(carry)[place]
            raise ValueError(
                f"scan: the step got the carry{f' {path!r}' if path else ''} with shape {old.shape} and dtype "
                f"{old.dtype}, and gave it back with {new.shape} and {new.dtype}: a carry keeps its shape and dtype"
            )
    return result


class _Flush(Primitive):
    """The identity forwards; backwards it replaces subnormal numbers by 0."""

    def __init__(self) -> None:  # not registered: users do not call it
        self.name = "flush"
        self.rules = (lambda g, y, x: g * (np.abs(value_of(g)) >= np.finfo(y.dtype).smallest_normal),)
        self.broadcasts = self.variadic = False


_FLUSH = _Flush()


def _flushed(x: Any) -> Any:
    if not isinstance(x, Tensor) or x.node is None or x.dtype.kind != "f":
        return x
    return Tensor(x.value, Node(_FLUSH, (x.value,), x.value, (x.node,), {}))


def live_steps(length: int, batch_size: int, lengths: Array | None, mask: Array | None) -> Array | None:
    """(T, B) booleans, true where a sequence has an input; None if all have.

    Raises:
        ValueError: both are given, or one has another shape or values than the sequence allows.
    """
    if lengths is not None and mask is not None:
        raise ValueError("scan: lengths and mask were both given; give one of them")
    if lengths is not None:
        lengths = np.asarray(value_of(lengths))
        if lengths.shape != (batch_size,) or lengths.dtype.kind not in "iu":
            raise ValueError(
                f"scan: lengths have shape {lengths.shape} and dtype {lengths.dtype}; "
                f"expected ({batch_size},) integers, one for each sequence"
            )
        if lengths.size and (lengths.min() < 0 or lengths.max() > length):
            raise ValueError(f"scan: lengths run from {lengths.min()} to {lengths.max()}; expected 0 to {length}")
        return np.asarray(np.arange(length)[:, None] < lengths)
    if mask is not None:
        mask = np.asarray(value_of(mask))
        if mask.shape != (length, batch_size):
            raise ValueError(f"scan: the mask has shape {mask.shape}; expected (T, B) = {(length, batch_size)}")
        return np.asarray(mask != 0)
    return None


def _sizes(xs: Tree) -> tuple[int, int]:
    """T and B, on which all arrays of ``xs`` must agree."""
    shapes = {leaf.shape[:2] for leaf in trees.leaves(xs)}
    if len(shapes) != 1 or len(next(iter(shapes))) != 2:
        raise ValueError(
            f"scan: the inputs start with the axes {sorted(shapes)}; expected one pair (T, B), the same for all: "
            "time first, then the batch"
        )
    length, batch_size = shapes.pop()
    return length, batch_size


def _check_context(context: Tree, batch_size: int) -> None:
    """Check that a context is a tree of arrays (B, ...)."""
    for path, leaf in zip(trees.paths(context), trees.leaves(context), strict=True):
        is_array = hasattr(leaf, "shape") and hasattr(leaf, "dtype") and not isinstance(leaf, Lookup)
        if not is_array or leaf.shape[:1] != (batch_size,):
            raise ValueError(
                f"scan: the context{f' {path!r}' if path else ''} "
                f"{f'has shape {leaf.shape}' if is_array else f'is a {type(leaf).__name__}'}; "
                f"expected an array that starts with the batch axis, {batch_size} long"
            )


def _rows(live: Array, like: Any) -> Array:
    """A mask over the batch, (B,), shaped to broadcast against (B, ...)."""
    shape = np.shape(value_of(like))
    if shape[:1] != live.shape:
        raise ValueError(
            f"scan: an array of the carry or the output has shape {shape}; with lengths or a mask each starts with "
            f"the batch axis, {len(live)} long"
        )
    return live.reshape(live.shape + (1,) * (len(shape) - 1))
