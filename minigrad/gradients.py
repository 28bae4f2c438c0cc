"""Gradients: the walk back over what tensors remember, and the functions that start it.

No derivative is written here; each node's primitive brings its own rules.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minigrad import trees
from minigrad.tensor import PRIMITIVES, Array, Node, Scattered, Tensor, observer, unbroadcast, value_of
from minigrad.trees import Tree


class _Cotangent:
    """The sum, so far, of what a node's users sent back."""

    __slots__ = ("owned", "parts", "total")

    def __init__(self) -> None:
        self.total: Any = None
        self.owned = False  # whether `total` is ours alone, so that it can be added to in place
        self.parts: list[Scattered] = []

    def add(self, g: Any) -> None:
        if type(g) is Scattered:
            self.parts.append(g)
        elif self.total is None:
            self.total = g
        elif self.owned:
            np.add(self.total, g, out=self.total)
        else:
            self.total = self.total + g
            self.owned = type(self.total) is np.ndarray

    def sum(self, like: Array) -> Any:
        if not self.parts:
            return self.total
        indices = tuple(part.index for part in self.parts)
        g = PRIMITIVES["scatter"](*(part.g for part in self.parts), indices=indices, shape=like.shape)
        return g if self.total is None else self.total + g


def _history(roots: Sequence[Node]) -> list[Node]:
    """All nodes that ``roots`` were made from, themselves included, earliest first."""
    seen = set(roots)
    todo = list(seen)
    while todo:
        for parent in todo.pop().parents:
            if parent is not None and parent not in seen:
                seen.add(parent)
                todo.append(parent)
    return sorted(seen, key=lambda node: node.index)


def _backward(
    history: list[Node], seeds: list[tuple[Node, Any]], wrt: Sequence[Node], create_graph: bool
) -> list[Any]:
    """Carry the cotangents ``seeds`` back through ``history`` to the nodes ``wrt``.

    Both lists are emptied on the way, so that what only they hold is freed as soon as it has been used.
    """
    wanted = set(wrt)
    needed = set(wanted)
    for node in history:
        if any(parent in needed for parent in node.parents):
            needed.add(node)
    cotangents: dict[Node, _Cotangent] = {}
    while seeds:
        node, g = seeds.pop()
        cotangents.setdefault(node, _Cotangent()).add(g)
    found: dict[Node, Any] = {}
    watching = observer.get()
    while history:
        node = history.pop()
        arrived = cotangents.pop(node, None)
        if arrived is None or node not in needed:
            continue
        g = arrived.sum(node.output)
        if watching is not None:
            watching.saw_cotangent(node, g)
        if node in wanted:
            found[node] = g
        primitive = node.primitive
        if primitive is None:
            continue
        y, inputs = node.output, node.inputs
        if create_graph:
            y = Tensor(y, node)
            inputs = [x if p is None else Tensor(x, p) for x, p in zip(inputs, node.parents, strict=True)]
        for i, parent in enumerate(node.parents):
            if parent is None or parent not in needed:
                continue
            if primitive.variadic:
                rule = primitive.rules[0]
                contribution = rule(g, y, i, *inputs, **node.options) if rule else None
            else:
                rule = primitive.rules[i]
                contribution = rule(g, y, *inputs, **node.options) if rule else None
            if contribution is None:
                continue
            if primitive.broadcasts:
                contribution = unbroadcast(contribution, parent.output.shape)
            if parent not in cotangents:
                cotangents[parent] = _Cotangent()
            cotangents[parent].add(contribution)
    return [found[node] if node in found else np.zeros_like(node.output) for node in wrt]


def _require_float(tree: Tree, who: str) -> None:
    for path, leaf in zip(trees.paths(tree), trees.leaves(tree), strict=True):
        dtype = leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype
        if dtype.kind != "f":
            where = f"parameter {path!r}" if path else "the argument"
            raise TypeError(
                f"{who}: {where} has dtype {dtype}, and only float32 or float64 has a gradient: "
                "convert it, for example with .astype(np.float32)"
            )


def _require_scalar(loss: Any, who: str) -> None:
    shape = np.shape(value_of(loss))
    if shape != ():
        raise ValueError(f"{who}: the loss has shape {shape}, and a gradient needs a scalar: take its mean() or sum()")


def _leaf(x: Any) -> Tensor:
    """A tensor to differentiate by: for a tensor a copy with a node of its own, so that uses are told apart."""
    if isinstance(x, Tensor):
        if x.node is not None:
            return PRIMITIVES["alias"](x)  # type: ignore[no-any-return]
        x = x.value
    x = np.asarray(x)
    return Tensor(x, Node(None, (), x, (), {}))


def grad(loss: Tensor, wrt: Tree, *, create_graph: bool = False) -> Tree:
    """The gradient of a scalar tensor by any tensors that it was computed from, hidden states included.

    Args:
        loss: a tensor of shape ().
        wrt: a tree of tensors.
        create_graph: give tensors that can be differentiated again, instead of plain arrays.

    Returns:
        A tree like ``wrt``; zeros where ``loss`` does not depend on a tensor.

    Raises:
        ValueError: ``loss`` is no scalar.
        TypeError: ``loss`` is no tensor, ``wrt`` holds something else than float tensors, or constants.
    """
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
    one = np.ones_like(loss.value)
    seeds, history = _start([(loss, Tensor(one) if create_graph else one)])
    return trees.unflatten(wrt, _backward(history, seeds, [t.node for t in tensors], create_graph))


def _start(outputs: Sequence[tuple[Tensor, Any]]) -> tuple[list[tuple[Node, Any]], list[Node]]:
    """The seeds and the history of a backward pass from some outputs, each with its cotangent."""
    seeds = [(output.node, g) for output, g in outputs if output.node is not None]
    return seeds, _history([node for node, _ in seeds])


def _inputs(tree: Tree, who: str) -> tuple[Tree, list[Node], bool]:
    """Tensors to differentiate by, their nodes, and whether the result must be differentiable in its turn."""
    _require_float(tree, who)
    nested = any(isinstance(leaf, Tensor) and leaf.node is not None for leaf in trees.leaves(tree))
    inputs = trees.map(_leaf, tree)
    return inputs, [leaf.node for leaf in trees.leaves(inputs)], nested


def value_and_grad(f: Callable[..., Any], *, has_aux: bool = False) -> Callable[..., tuple[Any, Tree]]:
    """A function that gives ``f``'s value and its gradient by its first argument.

    Args:
        f: ``f(params, *args) -> scalar``, or ``(scalar, aux)`` with ``has_aux``; ``params`` is any tree of float arrays.
        has_aux: whether ``f`` also returns a tree of further results, which is passed on without gradients.

    Returns:
        ``g(params, *args) -> (value, gradient)``, or ``((value, aux), gradient)``. Plain arrays, unless ``params``
        holds tensors: then tensors, which can be differentiated again.
    """

    def value_and_gradient(params: Tree, *args: Any, **kwargs: Any) -> tuple[Any, Tree]:
        inputs, wrt, nested = _inputs(params, "value_and_grad")
        loss, aux = f(inputs, *args, **kwargs) if has_aux else (f(inputs, *args, **kwargs), None)
        _require_scalar(loss, "value_and_grad")
        value = loss if isinstance(loss, Tensor) else Tensor(loss)
        one = np.ones_like(value.value)
        seeds, history = _start([(value, Tensor(one) if nested else one)])
        if not nested:
            # From here on only the two lists hold the graph, and the backward pass takes them apart as it goes.
            value, aux = value.value, trees.map(value_of, aux)
        del inputs, loss
        gradients = _backward(history, seeds, wrt, create_graph=nested)
        return ((value, aux) if has_aux else value), trees.unflatten(params, gradients)

    return value_and_gradient


def vjp(f: Callable[..., Tree], *primals: Tree) -> tuple[Tree, Callable[[Tree], tuple[Tree, ...]]]:
    """The value of ``f`` and its pullback, which multiplies a cotangent by the Jacobian from the left.

    Args:
        f: a function of trees of float arrays that gives a tree of arrays.
        primals: where to evaluate it.

    Returns:
        ``(f(*primals), pullback)``; ``pullback(cotangents)`` takes a tree like the output and gives a tuple, one tree
        for each primal. It can be called any number of times.

    Raises:
        TypeError: a primal is not of float type.
        ValueError: a cotangent has not the structure or shape of the output.
    """
    inputs, wrt, nested = _inputs(primals, "vjp")
    outputs = trees.map(lambda y: y if isinstance(y, Tensor) else Tensor(y), f(*inputs))

    def pullback(cotangents: Tree) -> tuple[Tree, ...]:
        create_graph = nested or any(isinstance(g, Tensor) for g in trees.leaves(cotangents))

        def seed(y: Tensor, g: Any) -> tuple[Tensor, Any]:
            _require_alike(y, g, "vjp", "cotangent", "output")
            g = g if isinstance(g, Tensor) else np.asarray(g, y.dtype)
            return y, (g if isinstance(g, Tensor) or not create_graph else Tensor(g))

        pairs = [
            seed(y, g) for y, g in zip(trees.leaves(outputs), _leaves_like(outputs, cotangents, "vjp"), strict=True)
        ]
        seeds, history = _start(pairs)
        gradients = _backward(history, seeds, wrt, create_graph)
        return trees.unflatten(primals, gradients)  # type: ignore[no-any-return]

    return (outputs if nested else trees.map(value_of, outputs)), pullback


def jvp(f: Callable[..., Tree], primals: Sequence[Tree], tangents: Sequence[Tree]) -> tuple[Tree, Tree]:
    """The value of ``f`` and its derivative in a direction: the Jacobian times ``tangents``.

    The pullback is linear in its cotangent, and the transpose of its transpose is the Jacobian itself, so no second
    set of rules is needed (J. Townsend, "A new trick for calculating Jacobian vector products", 2017).

    Args:
        f: a function of trees of float arrays that gives a tree of arrays.
        primals: where to evaluate it, one tree an argument.
        tangents: the direction, of the same structure and shapes.

    Returns:
        ``(f(*primals), tangent)``, the tangent a tree like the value.

    Raises:
        TypeError: a primal is not of float type.
        ValueError: ``tangents`` has not the structure or shapes of ``primals``.
    """
    primals, tangents = tuple(primals), tuple(tangents)
    inputs, wrt, nested = _inputs(primals, "jvp")
    directions = _leaves_like(primals, tangents, "jvp")
    for x, t in zip(trees.leaves(inputs), directions, strict=True):
        _require_alike(x, t, "jvp", "tangent", "primal")
    outputs = trees.map(lambda y: y if isinstance(y, Tensor) else Tensor(y), f(*inputs))
    dummies = [_leaf(np.zeros_like(y.value)) for y in trees.leaves(outputs)]
    seeds, history = _start(list(zip(trees.leaves(outputs), dummies, strict=True)))
    pulled = _backward(history, seeds, wrt, create_graph=True)
    create_graph = nested or any(isinstance(t, Tensor) for t in directions)
    pairs = []
    for x, p, t in zip(trees.leaves(inputs), pulled, directions, strict=True):
        if isinstance(p, Tensor):
            t = t if isinstance(t, Tensor) else np.asarray(t, x.dtype)
            pairs.append((p, Tensor(t) if create_graph and not isinstance(t, Tensor) else t))
    seeds, history = _start(pairs)
    result = _backward(history, seeds, [d.node for d in dummies if d.node is not None], create_graph)
    value = outputs if nested else trees.map(value_of, outputs)
    return value, trees.unflatten(outputs, result)


def _leaves_like(like: Tree, tree: Tree, who: str) -> list[Any]:
    """The leaves of ``tree``, which must have the structure of ``like``."""
    try:
        return trees.leaves(trees.map(lambda _, leaf: leaf, like, tree))
    except ValueError as error:
        raise ValueError(f"{who}: {error}") from None


def _require_alike(x: Tensor, other: Any, who: str, its_name: str, like: str) -> None:
    if np.shape(value_of(other)) != x.shape:
        raise ValueError(f"{who}: a {its_name} has shape {np.shape(value_of(other))}, and its {like} has {x.shape}")
