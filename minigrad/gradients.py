"""Gradients: the backward pass over recorded nodes, and the functions that start it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minigrad import trees
from minigrad.tensor import (
    PRIMITIVES,
    Array,
    Node,
    Scattered,
    Tensor,
    is_recording,
    native,
    next_index,
    observer,
    unbroadcast,
    unvarying,
    value_of,
)
from minigrad.trees import Tree


class _Cotangent:
    """The sum of the cotangents that a node's users have sent so far."""

    __slots__ = ("owned", "parts", "total")

    def __init__(self) -> None:
        self.total: Any = None
        self.owned = False  # whether `total` is ours alone, so that it can be added to in place
        self.parts: list[Scattered] = []

    def add(self, g: Any, fresh: bool = False) -> None:
        if type(g) is Scattered:
            self.parts.append(g)
        elif self.total is None:
            self.total = g
            self.owned = fresh and type(g) is np.ndarray
        elif self.owned:
            np.add(self.total, g, out=self.total)
        else:
            self.total = self.total + g
            self.owned = type(self.total) is np.ndarray

    def sum(self, like: Array) -> Any:
        if self.parts:
            indices = tuple(part.index for part in self.parts)
            g = PRIMITIVES["scatter"](*(part.g for part in self.parts), indices=indices, shape=like.shape)
            self.total = g if self.total is None else self.total + g
            self.owned = type(self.total) is np.ndarray
        return self.total


def _history(roots: Sequence[Node], since: int) -> tuple[list[Node], bool]:
    """The nodes that ``roots`` were computed from, themselves included, earliest first, but none before ``since``.

    Also whether there were older ones.
    """
    seen: set[Node] = set()
    todo = list(roots)
    goes_beyond = False
    while todo:
        node = todo.pop()
        if node.index < since:
            goes_beyond = True
        elif node not in seen:
            seen.add(node)
            todo += [parent for parent in node.parents if parent is not None]
    return sorted(seen, key=lambda node: node.index), goes_beyond


def _backward(
    history: list[Node], seeds: list[tuple[Node, Any]], wrt: Sequence[Node], create_graph: bool, refusal: str = ""
) -> list[Any]:
    """Propagate the cotangents ``seeds`` back through ``history`` to the nodes ``wrt``.

    Both lists are emptied on the way, so that what only they refer to is freed as soon as it has been used.

    Returns:
        A cotangent for each of ``wrt``: a tensor with ``create_graph``, otherwise an array that nothing else refers to.

    Raises:
        ValueError: with the text ``refusal``, if given, because no seed depends on any of ``wrt``.
    """
    wanted = {node.index for node in wrt}  # indices, because a set of nodes would keep their arrays alive
    needed = set(wanted)
    for node in history:
        if any(parent is not None and parent.index in needed for parent in node.parents):
            needed.add(node.index)
    if refusal and wanted and not any(node.index in needed for node, _ in seeds):
        raise ValueError(refusal)
    cotangents: dict[int, _Cotangent] = {}
    while seeds:
        node, g = seeds.pop()
        cotangents.setdefault(node.index, _Cotangent()).add(g)
    found: dict[int, Any] = {}
    watching = observer.get()
    while history:
        node = history.pop()
        arrived = cotangents.pop(node.index, None)
        if arrived is None or node.index not in needed:
            continue
        g = arrived.sum(node.output)
        if watching is not None:
            watching.saw_cotangent(node, g)
        if node.index in wanted:
            found[node.index] = g if create_graph or arrived.owned else np.array(g)
        primitive = node.primitive
        if primitive is None:
            continue
        y: Any = node.output
        inputs = node.inputs
        if create_graph:
            y = Tensor(y, node)
            inputs = [x if p is None else Tensor(x, p) for x, p in zip(inputs, node.parents, strict=True)]
        all_at_once = primitive.rules[0](g, y, *inputs, **node.options) if primitive.variadic else ()
        for i, parent in enumerate(node.parents):
            if parent is None or parent.index not in needed:
                continue
            if primitive.variadic:
                contribution = all_at_once[i]
            elif rule := primitive.rules[i]:
                contribution = rule(g, y, *inputs, **node.options)
            else:
                continue
            if primitive.broadcasts:
                contribution = unbroadcast(contribution, parent.output.shape)
            cotangents.setdefault(parent.index, _Cotangent()).add(contribution, primitive.fresh)
    for node in wrt:
        if node.index not in found:
            zeros = np.zeros_like(node.output)
            found[node.index] = Tensor(zeros) if create_graph else zeros
        if create_graph and found[node.index].node is None:
            found[node.index] = unvarying(found[node.index].value, [node])
    return [found[node.index] for node in wrt]


def _require_float(tree: Tree, who: str) -> None:
    for index, leaf in enumerate(trees.leaves(tree)):
        dtype = leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype
        if dtype.kind != "f":
            path = trees.paths(tree)[index]
            where = f"parameter {path!r}" if path else "the argument"
            raise TypeError(
                f"{who}: {where} has dtype {dtype}, and only float32 or float64 has a gradient: "
                "convert it, for example with .astype(np.float32)"
            )


def _require_scalar(loss: Any, who: str) -> None:
    if loss is None or isinstance(loss, tuple | list | dict):
        raise TypeError(
            f"{who}: the loss is a {type(loss).__name__}, and a gradient needs a scalar: "
            "let the function return one number, or with has_aux=True a pair (loss, aux)"
        )
    shape = np.shape(value_of(loss))
    if shape != ():
        raise ValueError(f"{who}: the loss has shape {shape}, and a gradient needs a scalar: take its mean() or sum()")


def _leaf(x: Any) -> Tensor:
    """A tensor to differentiate with respect to; for a tensor, a copy with its own node, to distinguish its uses."""
    if isinstance(x, Tensor):
        if x.node is not None:
            return PRIMITIVES["alias"](x)  # type: ignore[no-any-return]
        x = x.value
    x = native(np.asarray(x))
    return Tensor(x, Node(None, (), x, (), {}))


_LOST = "compute it from the tensors that the function is given, without .value, float() or no_grad on the way"


def grad(
    loss: Tensor | Callable[..., Any],
    wrt: Any = None,
    *,
    argnums: int | Sequence[int] | None = None,
    create_graph: bool = False,
    has_aux: bool = False,
) -> Any:
    """The gradient of a scalar tensor with respect to tensors that it was computed from, hidden states included.

    Given a function instead, it returns the function that computes the gradient, as in JAX and HIPS autograd:
    ``grad(f)(x, *args)``, or with respect to other arguments, ``grad(f, 1)`` or ``grad(f, argnums=(0, 2))``.

    Args:
        loss: a tensor of shape (); or a function that returns one, as for ``value_and_grad``.
        wrt: a tree of tensors; for a function the position of an argument, or several, by default the first.
        argnums: for a function, the same by its name in JAX.
        create_graph: return tensors that can be differentiated again, instead of plain arrays. A function's gradient
            returns tensors where ``value_and_grad`` does.
        has_aux: whether the function returns a pair (loss, aux); then its gradient returns (gradient, aux).

    Returns:
        A tree like ``wrt``; zeros where ``loss`` does not depend on a tensor. For a function, a function that returns
        the gradient with respect to one argument, or for several positions a tuple.

    Raises:
        ValueError: ``loss`` is not a scalar, or a constant.
        TypeError: ``loss`` is neither a tensor nor a function, or ``wrt`` contains something other than float tensors,
            or constants.
    """
    if argnums is not None:
        if wrt is not None or not callable(loss):
            raise TypeError("grad: argnums are positions of a function's arguments: use grad(f, argnums=1)(x, y)")
        wrt = argnums
    if callable(loss):
        return _gradient_of(loss, 0 if wrt is None else wrt, has_aux)
    _require_scalar(loss, "grad")
    _require_float(wrt, "grad")
    tensors = trees.leaves(wrt)
    for path, t in zip(trees.paths(wrt), tensors, strict=True):
        if not isinstance(t, Tensor) or t.node is None:
            what = "a constant Tensor" if isinstance(t, Tensor) else f"a {type(t).__name__}"
            raise TypeError(
                f"grad: wrt{f' {path!r}' if path else ''} is {what}, and a gradient needs a Tensor that the loss was "
                "computed from: use value_and_grad(f)(params), or a Tensor computed from its parameters"
            )
    if not isinstance(loss, Tensor):
        raise TypeError(
            f"grad: the loss is a {type(loss).__name__}, and a gradient needs a Tensor: compute it from tensors"
        )
    if loss.node is None:
        raise ValueError(f"grad: the loss is a constant Tensor, and so has no gradient: {_LOST}")
    nodes = [t.node for t in tensors]
    history, _ = _history([loss.node], since=min((node.index for node in nodes), default=0))
    return trees.unflatten(
        wrt, _backward(history, _seeds([loss], [np.ones_like(loss.value)], create_graph), nodes, create_graph)
    )


def _gradient_of(f: Callable[..., Any], argnums: int | Sequence[int], has_aux: bool) -> Callable[..., Any]:
    """The function that computes the gradient of ``f`` with respect to the arguments at these positions."""
    both = _at("grad: for a function wrt", f, argnums, has_aux)

    @functools.wraps(f)
    def gradient(*args: Any, **kwargs: Any) -> Any:
        value, found = both(*args, **kwargs)
        return (found, value[1]) if has_aux else found

    return gradient


def _at(what: str, f: Callable[..., Any], argnums: Any, has_aux: bool) -> Callable[..., Any]:
    """``value_and_grad`` of ``f`` with respect to the arguments at some positions.

    Args:
        what: the name of the argument ``argnums`` in messages.
        f: the function.
        argnums: a position, or several.
        has_aux: whether ``f`` returns a pair.

    Raises:
        TypeError: ``argnums`` are no positions.
    """
    several = isinstance(argnums, tuple | list)
    chosen = tuple(argnums) if several else (argnums,)
    if not all(isinstance(position, int) for position in chosen):
        raise TypeError(
            f"{what} is a {type(argnums).__name__}, and must be the position of an argument, or a tuple of "
            "positions: grad(f)(x), or grad(f, 1)(x, y)"
        )

    def value_and_gradient(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
        for position in chosen:
            if not -len(args) <= position < len(args):
                raise TypeError(
                    f"{what} is argument {position}, and {len(args)} came by position: give it without its name"
                )

        def of_chosen(given: Any) -> Any:
            whole = list(args)
            for position, x in zip(chosen, given if several else (given,), strict=True):
                whole[position] = x
            return f(*whole, **kwargs)

        given = tuple(args[position] for position in chosen)
        return value_and_grad(of_chosen, has_aux=has_aux)(given if several else given[0])

    return value_and_gradient


def _nodes(tree: Tree) -> list[Node]:
    """The nodes of a tree's leaves that are tensors with a node."""
    return [leaf.node for leaf in trees.leaves(tree) if isinstance(leaf, Tensor) and leaf.node is not None]


def _seeds(outputs: Sequence[Tensor], cotangents: Sequence[Any], create_graph: bool) -> list[tuple[Node, Any]]:
    """The nodes where a backward pass starts, with their cotangents."""
    seeds = []
    for y, g in zip(outputs, cotangents, strict=True):
        g = g if isinstance(g, Tensor) else np.asarray(g, y.dtype)
        if y.node is not None:
            seeds.append((y.node, Tensor(g) if create_graph and not isinstance(g, Tensor) else g))
    return seeds


def _inputs(tree: Tree, who: str) -> tuple[Tree, list[Node], int]:
    """Tensors to differentiate with respect to, their nodes, and the first index of later nodes.

    A result that depends on older nodes depends on tensors of an enclosing gradient call, so its graph must be kept.
    """
    _require_float(tree, who)
    if not is_recording():
        raise RuntimeError(
            f"{who}: within no_grad nothing is recorded, so there is no gradient: leave that block first"
        )
    since = next_index()
    inputs = trees.map(_leaf, tree)
    return inputs, _nodes(inputs), since


def value_and_grad(
    f: Callable[..., Any], argnums: int | Sequence[int] = 0, *, has_aux: bool = False
) -> Callable[..., tuple[Any, Tree]]:
    """A function that returns ``f``'s value and its gradient with respect to its first argument, or to others.

    Args:
        f: ``f(params, *args) -> scalar``, or ``(scalar, aux)`` with ``has_aux``; ``params`` is a tree of float arrays.
        argnums: the position of the argument; or several, and the gradient is a tuple.
        has_aux: whether ``f`` also returns a tree of further results, which is passed on without gradients.

    Returns:
        ``g(params, *args) -> (value, gradient)``, or ``((value, aux), gradient)``. Plain arrays; if ``f`` uses tensors
        from outside, in ``params`` or as a closure, tensors, which can be differentiated again.

    Raises:
        TypeError: a parameter has no float dtype, or ``f`` does not return a scalar (with ``has_aux``, a pair).
        ValueError: the value has axes, or depends on no parameter.
        RuntimeError: called within ``no_grad``.
    """
    if argnums != 0:
        return _at("value_and_grad: argnums", f, argnums, has_aux)

    def value_and_gradient(params: Tree, *args: Any, **kwargs: Any) -> tuple[Any, Tree]:
        inputs, wrt, since = _inputs(params, "value_and_grad")
        result = f(inputs, *args, **kwargs)
        if has_aux and not (isinstance(result, tuple) and len(result) == 2):
            raise TypeError(
                f"value_and_grad: the function gave a {type(result).__name__}; has_aux=True needs a pair (loss, aux)"
            )
        loss, aux = result if has_aux else (result, None)
        _require_scalar(loss, "value_and_grad")
        value: Any = _as_tensor(loss)
        history, nested = _history(_nodes((value, aux)), since)
        seeds = _seeds([value], [np.ones_like(value.value)], nested)
        if not nested:
            # From here on only the two lists refer to the graph, and the backward pass empties them.
            value, aux = value.value, trees.map(value_of, aux)
        del inputs, result, loss
        gradients = _backward(
            history,
            seeds,
            wrt,
            create_graph=nested,
            refusal=f"value_and_grad: the loss depends on no parameter, and so has no gradient: {_LOST}",
        )
        return ((value, aux) if has_aux else value), trees.unflatten(params, gradients)

    return value_and_gradient


def vjp(f: Callable[..., Tree], *primals: Tree) -> tuple[Tree, Callable[[Tree], tuple[Tree, ...]]]:
    """The value of ``f`` and its pullback, which multiplies a cotangent with the Jacobian from the left.

    Args:
        f: a function of trees of float arrays that returns a tree of arrays.
        primals: the point, one tree per argument.

    Returns:
        ``(f(*primals), pullback)``; ``pullback(cotangents)`` takes a tree like the output and returns a tuple, one tree
        per primal. It can be called any number of times.

    Raises:
        TypeError: a primal has no float dtype.
        ValueError: a cotangent does not have the structure or shape of the output.
    """
    inputs, wrt, since = _inputs(primals, "vjp")
    outputs = trees.map(_as_tensor, f(*inputs))
    _, nested = _history(_nodes(outputs), since)

    def pullback(cotangents: Tree) -> tuple[Tree, ...]:
        ys, gs = trees.leaves(outputs), _leaves_like(outputs, cotangents, "vjp")
        for y, g in zip(ys, gs, strict=True):
            _require_alike(y, g, "vjp", "cotangent", "output")
        create_graph = nested or any(isinstance(g, Tensor) for g in gs)
        history, _ = _history(_nodes(outputs), since)
        gradients = _backward(history, _seeds(ys, gs, create_graph), wrt, create_graph)
        return trees.unflatten(primals, gradients)  # type: ignore[no-any-return]

    return (outputs if nested else trees.map(value_of, outputs)), pullback


def jvp(f: Callable[..., Tree], primals: Sequence[Tree], tangents: Sequence[Tree]) -> tuple[Tree, Tree]:
    """The value of ``f`` and its derivative in a direction: the Jacobian times ``tangents``.

    The pullback is linear in its cotangent, and the transpose of its transpose is the Jacobian itself, so no second
    set of rules is needed (J. Townsend, "A new trick for calculating Jacobian vector products", 2017).

    Args:
        f: a function of trees of float arrays that returns a tree of arrays.
        primals: the point, one tree per argument.
        tangents: the direction, with the same structure and shapes.

    Returns:
        ``(f(*primals), tangent)``, the tangent a tree like the value.

    Raises:
        TypeError: a primal has no float dtype.
        ValueError: ``tangents`` does not have the structure or shapes of ``primals``.
    """
    primals, tangents = tuple(primals), tuple(tangents)
    inputs, wrt, since = _inputs(primals, "jvp")
    directions = _leaves_like(primals, tangents, "jvp")
    for x, t in zip(trees.leaves(inputs), directions, strict=True):
        _require_alike(x, t, "jvp", "tangent", "primal")
    outputs = trees.map(_as_tensor, f(*inputs))
    history, nested = _history(_nodes(outputs), since)
    create_graph = nested or any(isinstance(t, Tensor) for t in directions)

    since = next_index()
    ys = trees.leaves(outputs)
    dummies = [_leaf(np.zeros_like(y.value)) for y in ys]
    pulled = _backward(history, _seeds(ys, dummies, create_graph=True), wrt, create_graph=True)
    history, _ = _history(_nodes(pulled), since)
    result = _backward(history, _seeds(pulled, directions, create_graph), _nodes(dummies), create_graph)
    return (outputs if nested else trees.map(value_of, outputs)), trees.unflatten(outputs, result)


def _as_tensor(y: Any) -> Tensor:
    return y if isinstance(y, Tensor) else Tensor(y)


def _leaves_like(like: Tree, tree: Tree, who: str) -> list[Any]:
    """The leaves of ``tree``, which must have the structure of ``like``."""
    try:
        return trees.leaves(trees.map(lambda _, leaf: leaf, like, tree))
    except ValueError as error:
        raise ValueError(f"{who}: {error}") from None


def _require_alike(x: Tensor, other: Any, who: str, its_name: str, like: str) -> None:
    if np.shape(value_of(other)) != x.shape:
        raise ValueError(f"{who}: a {its_name} has shape {np.shape(value_of(other))}, and its {like} has {x.shape}")
