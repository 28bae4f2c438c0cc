"""Checks of a cell: its gradients, and the requirements of the time loop."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minigrad import checkpoint, trees, value_and_grad
from minigrad.scan import available_backends, use_backend
from minigrad.trees import Tree
from rnn_cells import Cell
from rnn_plugins.testing.checks import (
    Array,
    CheckReport,
    Failed,
    attempt,
    compare,
    gradient_error,
    is_float,
    normal,
    pairs,
    require_shape,
    same,
)

LENGTH, BATCH = 4, 3
"""Number of steps and of sequences in a sample."""

LENGTHS = np.array([LENGTH, 2, 0])
"""One sequence that fills the batch, one that ends earlier, one that is empty."""


def check_cell(cell: Cell, *, rng: np.random.Generator | None = None) -> CheckReport:
    """Check all requirements of a cell, at its own sizes; small ones, such as 3 and 4, are fastest.

    The gradients with respect to each parameter, the carry and the input are compared with finite differences in
    float64, over several steps and away from kinks; each separately, so that a small one is not hidden by a large one.
    A cell that depends on later inputs (``causal`` is false) has no single step, so the checks of steps, chunks and
    later inputs are left out.

    Args:
        cell: the cell.
        rng: draws parameters, inputs and directions; by default seeded with 0.

    Raises:
        TypeError: ``cell`` is not a cell; pass ``MyCell(3, 4)`` and not the class.
    """
    if not isinstance(cell, Cell):
        example = f"{cell.__name__}(3, 4)" if isinstance(cell, type) else "GRU(3, 4)"
        raise TypeError(f"check_cell: got {cell!r}; expected a cell, such as {example}")
    rng = rng or np.random.default_rng(0)
    checks = []
    for name, check in _FIRST.items():
        checks.append(attempt(name, partial(check, cell, rng)))
        if not checks[-1].passed:
            return CheckReport(cell, tuple(checks))
    like = _Sample(cell.init_params(rng), cell.init_carry(BATCH), np.zeros(1))
    places = [i for i, leaf in enumerate(trees.leaves(like)) if is_float(leaf)]
    for i in places:
        name = f"gradient of {_label(trees.paths(like)[i])}"
        checks.append(attempt(name, partial(_gradient, cell, rng, [i], None)))
    checks.append(attempt("gradient with lengths", partial(_gradient, cell, rng, places, LENGTHS)))
    for name, check in (_CAUSAL if cell.causal else {}).items():
        checks.append(attempt(name, partial(check, cell, rng)))
    for name, check in _EVERY.items():
        checks.append(attempt(name, partial(check, cell, rng)))
    return CheckReport(cell, tuple(checks))


def broken_promise(cell: Cell) -> str | None:
    """The first requirement for making a network that a cell does not meet; None if it meets all."""
    rng = np.random.default_rng(0)
    checks = (attempt(name, partial(check, cell, rng)) for name, check in _FIRST.items())
    return next((check.detail for check in checks if not check.passed), None)


class _Sample(NamedTuple):
    """A point at which a cell is checked: parameters, a carry and inputs (T, B, I)."""

    params: Tree
    carry: Tree
    xs: Array


def _draw(cell: Cell, rng: np.random.Generator) -> _Sample:
    """A sample in float64, with a carry after some steps.

    Parameters are initial ones plus noise, because zero biases or tiny weights hide many errors.
    """
    fresh = trees.cast(cell.init_params(rng), np.float64)
    params = trees.map(lambda x: x + 0.2 * normal(x, rng) if is_float(x) else x, fresh)
    xs = rng.standard_normal((3 + LENGTH, BATCH, cell.input_size))
    carry, _ = cell.unroll(params, trees.cast(cell.init_carry(BATCH), np.float64), xs[:3])
    return _Sample(params, _like_first(cell, carry), xs[3:])


def _like_first(cell: Cell, carry: Tree) -> Tree:
    """A carry with the first one's order of keys and named tuples, as the trainer restores it."""
    return trees.map(lambda _, leaf: leaf, cell.init_carry(BATCH), carry)


# --- required by all other checks ------------------------------------------------------------------------------------


def _parameters(cell: Cell, rng: np.random.Generator) -> None:
    params = cell.init_params(np.random.default_rng(0))
    for path, leaf in zip(trees.paths(params), trees.leaves(params), strict=True):
        if not isinstance(leaf, np.ndarray) or leaf.dtype.kind != "f":
            given = getattr(leaf, "dtype", type(leaf).__name__)
            raise Failed(
                f"{_label('0', path)} is of type {given}; each parameter must be an array of floating-point numbers, "
                "since it is trained; put a constant into the step"
            )


def _step(cell: Cell, rng: np.random.Generator) -> None:
    x = np.ones((BATCH, cell.input_size), np.float32)
    _, y = _one_step(cell, cell.init_params(rng), cell.init_carry(BATCH), x)
    require_shape("the output", y, (BATCH, cell.output_size))


def _carry_structure(cell: Cell, rng: np.random.Generator) -> None:
    carry = cell.init_carry(BATCH)
    after, _ = _one_step(cell, cell.init_params(rng), carry, np.ones((BATCH, cell.input_size), np.float32))
    if trees.structure(after) != trees.structure(carry):
        before, now = (json.dumps(trees.structure(tree)) for tree in (carry, after))
        raise Failed(f"a step turns the carry {before} into {now}; it must keep its structure")
    for path, (old, new) in pairs(carry, after):
        if np.shape(old)[:1] != (BATCH,):
            raise Failed(f"{_label('1', path)} is of shape {np.shape(old)}; its first axis must be the batch")
        require_shape(f"{_label('1', path)} after a step", new, np.shape(old))


def _sequence(cell: Cell, rng: np.random.Generator) -> None:
    after, ys = cell.unroll(*_draw(cell, rng), rng=rng)  # with the cell's dropout, as in training
    require_shape("the sequence of outputs", ys, (LENGTH, BATCH, cell.output_size))
    if not np.isfinite(ys).all():
        raise Failed("an output is not finite")
    for path, leaf in zip(trees.paths(after), trees.leaves(after), strict=True):
        if not np.isfinite(leaf).all():
            raise Failed(f"{_label('1', path)} is not finite after {LENGTH} steps")


def _purity(cell: Cell, rng: np.random.Generator) -> None:
    one, two = ((cell.init_params(np.random.default_rng(1)), cell.init_carry(BATCH)) for _ in range(2))
    for path, pair in pairs(one, two):
        if not same(*pair):
            raise Failed(f"{_label(path)} has other initial values at a second call with the same arguments")
        if np.may_share_memory(*pair):
            raise Failed(f"{_label(path)} is initially the same array at every call; make a new one")
    sample, other = _draw(cell, rng), _draw(cell, rng)
    kept = dict(vars(cell))
    for run, inputs, others in (
        (cell.unroll, sample, other),
        (partial(_one_step, cell), sample._replace(xs=sample.xs[0]), other._replace(xs=other.xs[0])),
    ):
        given = deepcopy(inputs)
        first = run(*inputs)
        values = deepcopy(first)
        for path, pair in pairs(given, inputs):
            if not same(*pair):
                raise Failed(f"{_label(path)} was changed in place; compute a new array instead")
        run(*others)
        if not same(first, values):
            raise Failed("a later call changed an earlier result: return a new array each time")
        if not same(run(*inputs), values):
            raise Failed("the same inputs gave other outputs at another call: put all state into the carry")
    changed = [name for name, value in vars(cell).items() if name not in kept or kept[name] is not value]
    if changed:
        raise Failed(f"the cell sets its attribute {changed[0]!r} while it runs: put all state into the carry")


def _one_step(cell: Cell, params: Tree, carry: Tree, x: Array) -> tuple[Tree, Any]:
    if cell.causal:
        result = cell(params, carry, x)
        if not isinstance(result, tuple) or len(result) != 2:
            raise Failed(f"a step returns a {type(result).__name__}; expected the pair (carry, y)")
        return result
    carry, ys = cell.unroll(params, carry, x[None])
    return carry, ys[0]


# --- gradients -------------------------------------------------------------------------------------------------------


def _gradient(cell: Cell, rng: np.random.Generator, places: list[int], lengths: Array | None) -> float:
    """The relative error of the gradient with respect to some leaves of a sample, in two random directions."""
    return max(_error_in_a_direction(cell, rng, places, lengths) for _ in range(2))


def _error_in_a_direction(cell: Cell, rng: np.random.Generator, places: list[int], lengths: Array | None) -> float:
    def draw() -> tuple[Callable[..., Tree], list[Array]]:
        sample = _draw(cell, rng)

        def f(*moved: Any) -> Tree:
            return cell.unroll(*_replace(sample, places, moved), lengths=lengths)

        return f, [trees.leaves(sample)[i] for i in places]

    return gradient_error(draw, rng)


# --- required by the time loop ---------------------------------------------------------------------------------------


def _steps(cell: Cell, rng: np.random.Generator) -> float:
    params, carry, xs = _draw(cell, rng)
    whole = cell.unroll(params, carry, xs)
    ys = []
    for x in xs:
        carry, y = cell(params, carry, x)
        ys.append(y)
    return compare("unroll differs from single steps", (carry, np.stack(ys)), whole)


def _chunks(cell: Cell, rng: np.random.Generator) -> float:
    params, carry, xs = _draw(cell, rng)
    whole = cell.unroll(params, carry, xs)
    worst = 0.0
    for cut in range(1, LENGTH):
        between, first = cell.unroll(params, carry, xs[:cut])
        last, second = cell.unroll(params, between, xs[cut:])
        what = f"a sequence of {LENGTH} steps, cut after step {cut}, differs from the whole"
        worst = max(worst, compare(what, (last, np.concatenate([first, second])), whole))
    return worst


def _later_inputs(cell: Cell, rng: np.random.Generator) -> float:
    params, carry, xs = _draw(cell, rng)
    _, ys = cell.unroll(params, carry, xs)
    worst = 0.0
    for cut in range(1, LENGTH):
        changed = np.concatenate([xs[:cut], rng.standard_normal(xs[cut:].shape)])
        _, others = cell.unroll(params, carry, changed)
        worst = max(worst, compare(f"inputs from step {cut} on reach the outputs before it", others[:cut], ys[:cut]))
    return worst


def _batch_rows(cell: Cell, rng: np.random.Generator) -> float:
    params, carry, xs = _draw(cell, rng)
    after, ys = cell.unroll(params, carry, xs)
    worst = 0.0
    for b in range(BATCH):
        alone = cell.unroll(params, _row(carry, b), xs[:, b : b + 1])
        what = "a sequence in a batch differs from it alone"
        worst = max(worst, compare(what, (_row(after, b), ys[:, b : b + 1]), alone))
    return worst


def _lengths(cell: Cell, rng: np.random.Generator) -> float:
    params, carry, xs = _draw(cell, rng)
    after, ys = cell.unroll(params, carry, xs, lengths=LENGTHS)
    worst = 0.0
    for b, n in enumerate(LENGTHS.tolist()):
        alone = cell.unroll(params, _row(carry, b), xs[:n, b : b + 1])
        what = f"a sequence of length {n} in a batch of length {LENGTH} differs from it alone"
        worst = max(worst, compare(what, (_row(after, b), ys[:n, b : b + 1]), alone))
        if np.any(ys[n:, b]):
            raise Failed(f"a sequence of length {n} has outputs after its end; they must be zero")
    masked = cell.unroll(params, carry, xs, mask=np.arange(LENGTH)[:, None] < LENGTHS)
    return max(worst, compare("a mask differs from the same lengths", masked, (after, ys)))


def _reverse(cell: Cell, rng: np.random.Generator) -> float:
    params, carry, xs = _draw(cell, rng)
    after, ys = cell.unroll(params, carry, xs[::-1])
    what = "reverse=True differs from the reversed sequence"
    return compare(what, cell.unroll(params, carry, xs, reverse=True), (after, ys[::-1]))


def _float32(cell: Cell, rng: np.random.Generator) -> None:
    _require_float32((cell.init_params(rng), cell.init_carry(BATCH)), "")
    params, carry, xs = trees.cast(_draw(cell, rng), np.float32)
    for run, x in ((cell.unroll, xs), (partial(_one_step, cell), xs[0])):
        after, y = run(params, carry, x)
        _require_float32((None, after), " after a step")
        if y.dtype != np.float32:
            raise Failed(f"the output is {y.dtype}; expected float32, like parameters, carry and input")
    _loss_gradient(cell, params, carry, xs)


def _small_sizes(cell: Cell, rng: np.random.Generator) -> None:
    params = cell.init_params(rng)
    for length, batch in ((1, 1), (1, BATCH), (LENGTH, 1), (0, BATCH), (LENGTH, 0), (0, 0)):
        carry = cell.init_carry(batch)
        xs = rng.standard_normal((length, batch, cell.input_size)).astype(np.float32)
        try:
            after, ys = cell.unroll(params, carry, xs)
            require_shape("the sequence of outputs", ys, (length, batch, cell.output_size))
            for path, (old, new) in pairs(carry, after):
                require_shape(f"{_label('1', path)} afterwards", new, np.shape(old))
            if not length and not same(carry, after):
                raise Failed("the carry has changed")
            if not all(np.isfinite(g).all() for g in _loss_gradient(cell, params, carry, xs)):
                raise Failed("a gradient is not finite")
        except Exception as error:
            said = str(error) if isinstance(error, Failed) else f"{type(error).__name__}: {error}"
            if batch == 0 and "reshape" in said:
                said += " (without elements, no size can be computed for a -1 in a reshape: write the number)"
            raise Failed(f"with T = {length} and B = {batch}: {said}") from error


def _checkpoint(cell: Cell, rng: np.random.Generator) -> None:
    params = cell.init_params(rng)
    for path, leaf in zip(trees.paths((params,)), trees.leaves((params,)), strict=True):
        if not isinstance(leaf, np.ndarray):
            raise Failed(f"{_label(path)} is a {type(leaf).__name__}; only arrays can be saved")
    xs = rng.standard_normal((1 + LENGTH, BATCH, cell.input_size)).astype(np.float32)
    # Not the first carry, because a step may return its keys in another order.
    carry, _ = cell.unroll(params, cell.init_carry(BATCH), xs[:1])
    with tempfile.TemporaryDirectory() as folder:
        checkpoint.save(Path(folder, "cell.safetensors"), (params, carry), {})
        (loaded, carried), _ = checkpoint.load(Path(folder, "cell.safetensors"))
    expected = cell.unroll(params, carry, xs[1:])
    try:
        again = cell.unroll(loaded, _like_first(cell, carried), xs[1:])
    except Exception as error:
        raise Failed(
            f"a loaded cell does not run: {error}; a named tuple of parameters is loaded as a plain one"
        ) from error
    if not same(again, expected):
        raise Failed("the outputs after loading are not those before saving")


_Checker = Callable[[Cell, np.random.Generator], float | None]

_FIRST: dict[str, _Checker] = {
    "parameters": _parameters,
    "step": _step,
    "carry structure": _carry_structure,
    "sequence": _sequence,
    "purity": _purity,
}
_CAUSAL: dict[str, _Checker] = {"steps": _steps, "chunks": _chunks, "later inputs": _later_inputs}


def _planned(cell: Cell, rng: np.random.Generator) -> float:
    sample = _draw(cell, rng)
    expected = cell.unroll(*sample, lengths=LENGTHS), _loss_gradient(cell, *sample)
    worst = 0.0
    for backend in available_backends():
        with use_backend(backend):
            found = cell.unroll(*sample, lengths=LENGTHS), _loss_gradient(cell, *sample)
        worst = max(worst, compare(f"the backend {backend} differs from the reference loop", found, expected))
    return worst


_EVERY: dict[str, _Checker] = {
    "batch rows": _batch_rows,
    "lengths": _lengths,
    "reverse": _reverse,
    "float32": _float32,
    "small sizes": _small_sizes,
    "checkpoint": _checkpoint,
    "planned loop": _planned,
}

# --- shared by the checks --------------------------------------------------------------------------------------------


def _label(*path: str) -> str:
    """A leaf of a sample in messages: ``0.forget.W`` is parameter 'forget.W'."""
    part, _, rest = ".".join(filter(None, path)).partition(".")
    name = ("parameter", "carry", "input")[int(part)]
    return f"{name} {rest!r}" if rest else f"the {name}"


def _replace(tree: Tree, places: list[int], new: Sequence[Any]) -> Tree:
    """The tree with other leaves at some indices, in the order of ``trees.leaves``."""
    leaves = trees.leaves(tree)
    for i, leaf in zip(places, new, strict=True):
        leaves[i] = leaf
    return trees.unflatten(tree, leaves)


def _row(tree: Tree, b: int) -> Tree:
    return trees.map(lambda x: x[b : b + 1], tree)


def _require_float32(params_and_carry: Tree, when: str) -> None:
    for path, leaf in zip(trees.paths(params_and_carry), trees.leaves(params_and_carry), strict=True):
        if is_float(leaf) and np.asarray(leaf).dtype != np.float32:
            raise Failed(f"{_label(path)}{when} is {np.asarray(leaf).dtype}; expected float32")


def _loss_gradient(cell: Cell, params: Tree, carry: Tree, xs: Array) -> list[Any]:
    """The gradient of a loss with respect to every floating-point parameter."""
    places = [i for i, leaf in enumerate(trees.leaves(params)) if is_float(leaf)]

    def loss(chosen: list[Any]) -> Any:
        _, ys = cell.unroll(_replace(params, places, chosen), carry, xs)
        return (ys * ys).sum()

    gradient: list[Any] = value_and_grad(loss)([trees.leaves(params)[i] for i in places])[1]
    return gradient
