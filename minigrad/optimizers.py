"""Optimisers: pairs of pure functions over trees of arrays, in PyTorch's conventions, and the clipping of gradients.

They compute no gradients, hold no state and draw no learning rate: `update` takes all of these and returns new trees.

    optimizer = adam()
    state = optimizer.init(params)
    params, state = optimizer.update(grads, state, params, learning_rate)

A state is a tree of arrays, so that a checkpoint holds it beside the parameters. Below, p is a parameter, g its
gradient and lr the learning rate; an array keeps its parameter's dtype through any number of steps.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from minigrad import trees
from minigrad.trees import Tree


class Optimizer(NamedTuple):
    """What a constructor of this module returns. Neither function writes into what it is given.

    Attributes:
        init: `(params) -> state`, the state before the first step. TypeError where a parameter is no float array.
        update: `(grads, state, params, learning_rate) -> (params, state)`. ValueError where the trees or the shapes of
            their arrays differ, or the rate is negative or not finite; TypeError where a gradient is no float array.
    """

    init: Callable[[Tree], Tree]
    update: Callable[[Tree, Tree, Tree, float], tuple[Tree, Tree]]


def sgd(momentum: float = 0.0, nesterov: bool = False) -> Optimizer:
    """Stochastic gradient descent, with momentum and Nesterov's look ahead as Sutskever et al. 2013 (ICML) have them.

        v = momentum * v + g
        p = p - lr * v                          with nesterov: p - lr * (g + momentum * v)

    Raises:
        ValueError: where the momentum is not in [0, 1), or is 0 with `nesterov`.
    """
    _check_fraction("momentum", momentum)
    if nesterov and momentum == 0:
        raise ValueError("Nesterov's step looks ahead along the momentum, which is 0; give a momentum, such as 0.9")

    def init(params: Tree) -> Tree:
        _check_floats("parameter", params)
        return {"velocity": trees.zeros_like(params)} if momentum else {}

    def update(grads: Tree, state: Tree, params: Tree, learning_rate: float) -> tuple[Tree, Tree]:
        lr = _check_rate(learning_rate)

        def plain(p: NDArray[Any], g: NDArray[Any]) -> tuple[NDArray[Any], ...]:
            new_p = np.multiply(g, lr, out=np.empty_like(p))
            np.subtract(p, new_p, out=new_p)
            return (new_p,)

        def with_momentum(p: NDArray[Any], g: NDArray[Any], v: NDArray[Any]) -> tuple[NDArray[Any], ...]:
            new_v = np.multiply(v, momentum, out=np.empty_like(p))
            new_v += g
            new_p = np.empty_like(p)
            if nesterov:
                np.multiply(new_v, momentum, out=new_p)
                new_p += g
                new_p *= lr
            else:
                np.multiply(new_v, lr, out=new_p)
            np.subtract(p, new_p, out=new_p)
            return new_p, new_v

        if not momentum:
            (params,) = _each_leaf(plain, params, grads)
            return params, {}
        params, velocity = _each_leaf(with_momentum, params, grads, state["velocity"])
        return params, {"velocity": velocity}

    return Optimizer(init, update)


def rmsprop(decay: float = 0.99, epsilon: float = 1e-8, momentum: float = 0.0) -> Optimizer:
    """RMSprop (Tieleman and Hinton 2012, Coursera lecture 6.5): each step divided by the root mean square of late ones.

        s = decay * s + (1 - decay) * g^2
        v = momentum * v + g / (sqrt(s) + epsilon)
        p = p - lr * v

    Raises:
        ValueError: where decay or momentum is not in [0, 1), or epsilon is not positive.
    """
    _check_fraction("decay", decay)
    _check_fraction("momentum", momentum)
    _check_epsilon(epsilon)

    def init(params: Tree) -> Tree:
        _check_floats("parameter", params)
        slots = ("mean_square", "velocity") if momentum else ("mean_square",)
        return {slot: trees.zeros_like(params) for slot in slots}

    def update(grads: Tree, state: Tree, params: Tree, learning_rate: float) -> tuple[Tree, Tree]:
        lr = _check_rate(learning_rate)

        def rule(p: NDArray[Any], g: NDArray[Any], s: NDArray[Any], *v: NDArray[Any]) -> tuple[NDArray[Any], ...]:
            new_p = np.empty_like(p)
            new_s = _mean_square(s, g, decay, scratch=new_p)
            _divide_by_root(g, new_s, epsilon, out=new_p)
            if not v:
                new_p *= lr
                np.subtract(p, new_p, out=new_p)
                return new_p, new_s
            new_v = np.multiply(v[0], momentum, out=np.empty_like(p))
            new_v += new_p
            np.multiply(new_v, lr, out=new_p)
            np.subtract(p, new_p, out=new_p)
            return new_p, new_s, new_v

        slots = [state["mean_square"], state["velocity"]] if momentum else [state["mean_square"]]
        params, *slots = _each_leaf(rule, params, grads, *slots)
        return params, dict(zip(("mean_square", "velocity"), slots, strict=False))

    return Optimizer(init, update)


def adagrad(epsilon: float = 1e-10) -> Optimizer:
    """Adagrad (Duchi, Hazan and Singer 2011, JMLR 12): each step divided by the root of the sum of all squares so far.

        s = s + g^2
        p = p - lr * g / (sqrt(s) + epsilon)

    Raises:
        ValueError: where epsilon is not positive.
    """
    _check_epsilon(epsilon)

    def init(params: Tree) -> Tree:
        _check_floats("parameter", params)
        return {"sum_of_squares": trees.zeros_like(params)}

    def update(grads: Tree, state: Tree, params: Tree, learning_rate: float) -> tuple[Tree, Tree]:
        lr = _check_rate(learning_rate)

        def rule(p: NDArray[Any], g: NDArray[Any], s: NDArray[Any]) -> tuple[NDArray[Any], ...]:
            new_s = np.multiply(g, g, out=np.empty_like(p))
            new_s += s
            new_p = _divide_by_root(g, new_s, epsilon, out=np.empty_like(p))
            new_p *= lr
            np.subtract(p, new_p, out=new_p)
            return new_p, new_s

        params, sums = _each_leaf(rule, params, grads, state["sum_of_squares"])
        return params, {"sum_of_squares": sums}

    return Optimizer(init, update)


def adam(beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8) -> Optimizer:
    """Adam (Kingma and Ba 2014, arXiv:1412.6980, algorithm 1).

        m = beta1 * m + (1 - beta1) * g
        s = beta2 * s + (1 - beta2) * g^2
        p = p - lr * m' / (sqrt(s') + epsilon)          m' = m / (1 - beta1^t),  s' = s / (1 - beta2^t)

    Raises:
        ValueError: where a beta is not in [0, 1), or epsilon is not positive.
    """
    return adamw(beta1, beta2, epsilon, weight_decay=0.0)


def adamw(beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8, *, weight_decay: float = 0.01) -> Optimizer:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2017, arXiv:1711.05101).

        p = p - lr * weight_decay * p           and then Adam's step

    Raises:
        ValueError: where a beta is not in [0, 1), epsilon is not positive, or weight_decay is negative or not finite.
    """
    _check_fraction("beta1", beta1)
    _check_fraction("beta2", beta2)
    _check_epsilon(epsilon)
    if not 0 <= weight_decay < math.inf:
        raise ValueError(f"weight_decay is {weight_decay}; give a finite number of at least 0")

    def init(params: Tree) -> Tree:
        _check_floats("parameter", params)
        return {
            "step": np.zeros((), np.int64),
            "mean": trees.zeros_like(params),
            "mean_square": trees.zeros_like(params),
        }

    def update(grads: Tree, state: Tree, params: Tree, learning_rate: float) -> tuple[Tree, Tree]:
        lr = _check_rate(learning_rate)
        step = int(state["step"]) + 1
        # The two corrections are moved out of the arrays, into the rate and epsilon: two passes over memory less.
        root = math.sqrt(1 - beta2**step)
        rate = lr * root / (1 - beta1**step)

        def rule(p: NDArray[Any], g: NDArray[Any], m: NDArray[Any], s: NDArray[Any]) -> tuple[NDArray[Any], ...]:
            new_m = np.subtract(g, m, out=np.empty_like(p))
            new_m *= 1 - beta1
            new_m += m
            new_p = np.empty_like(p)
            new_s = _mean_square(s, g, beta2, scratch=new_p)
            _divide_by_root(new_m, new_s, epsilon * root, out=new_p)
            new_p *= rate
            np.subtract(p * (1 - lr * weight_decay) if weight_decay else p, new_p, out=new_p)
            return new_p, new_m, new_s

        params, mean, mean_square = _each_leaf(rule, params, grads, state["mean"], state["mean_square"])
        return params, {"step": np.array(step, np.int64), "mean": mean, "mean_square": mean_square}

    return Optimizer(init, update)


OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "sgd": sgd,
    "rmsprop": rmsprop,
    "adagrad": adagrad,
    "adam": adam,
    "adamw": adamw,
}


def global_norm(tree: Tree) -> float:
    """The Euclidean norm of all of the tree's numbers together; not finite where one of them is not, and 0 without any.

    Raises:
        TypeError: where a leaf is no float array.
    """
    _check_floats("gradient", tree)
    flat = [np.ravel(leaf, order="K") for leaf in trees.leaves(tree)]
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        norm = math.sqrt(sum(float(np.dot(leaf, leaf)) for leaf in flat))
    if 1e-15 < norm < math.inf:
        return norm
    # A square may have left the range of its dtype where the norm itself has not: once more, scaled by the largest.
    largest = max((float(np.max(np.abs(leaf))) for leaf in flat if leaf.size), default=0.0)
    if any(np.isnan(leaf).any() for leaf in flat):
        return math.nan
    if largest == 0 or largest == math.inf:
        return largest
    return largest * math.sqrt(sum(float(np.sum(np.square(leaf / np.float64(largest)))) for leaf in flat))


def clip_by_global_norm(grads: Tree, max_norm: float) -> tuple[Tree, float]:
    """The gradients, shrunk together to a global norm of `max_norm` where theirs is larger, and the norm they had.

    Pascanu, Mikolov and Bengio 2012, arXiv:1211.5063, algorithm 1. Where that norm is not finite no factor can mend the
    gradients: they come back as they are, and the caller, who sees it in the norm, must not step along them.

    Raises:
        ValueError: where `max_norm` is not positive.
        TypeError: where a leaf is no float array.
    """
    if not max_norm > 0:
        raise ValueError(f"gradients are to be clipped to a norm of {max_norm}; give a positive number")
    norm = global_norm(grads)
    if not math.isfinite(norm) or norm <= max_norm:
        return grads, norm
    factor = max_norm / norm
    return trees.map(lambda g: np.multiply(g, factor, out=np.empty_like(g)), grads), norm


def clip_by_value(grads: Tree, limit: float) -> Tree:
    """The gradients with every element moved into [-limit, limit].

    A NaN stays NaN, but an infinity becomes the limit: whoever wants to stop on one asks for `global_norm` first.

    Raises:
        ValueError: where `limit` is not positive.
        TypeError: where a leaf is no float array.
    """
    if not limit > 0:
        raise ValueError(f"gradients are to be clipped to +-{limit}; give a positive number")
    _check_floats("gradient", grads)
    return trees.map(lambda g: np.clip(g, -limit, limit, out=np.empty_like(g)), grads)


def _each_leaf(rule: Callable[..., tuple[NDArray[Any], ...]], params: Tree, grads: Tree, *slots: Tree) -> list[Tree]:
    """Apply `rule(p, g, *slots_of_p) -> (p, *slots_of_p)` to every leaf, and give back one tree for each place."""
    _check_floats("gradient", grads)
    rows = trees.zip_leaves(params, grads, *slots)
    for number, (p, g, *_) in enumerate(rows):
        if np.shape(p) != np.shape(g):
            place = _of(trees.paths(params)[number])
            raise ValueError(
                f"the gradient{place} has the shape {np.shape(g)}, its parameter {np.shape(p)}; give one of its shape"
            )
    results = [rule(*row) for row in rows]
    return [trees.unflatten(params, [result[place] for result in results]) for place in range(1 + len(slots))]


def _mean_square(old: NDArray[Any], g: NDArray[Any], decay: float, scratch: NDArray[Any]) -> NDArray[Any]:
    """`decay * old + (1 - decay) * g^2` as a new array; `scratch` is overwritten."""
    new = np.empty_like(old)
    np.multiply(g, g, out=new)
    new *= 1 - decay
    np.multiply(old, decay, out=scratch)
    new += scratch
    return new


def _divide_by_root(x: NDArray[Any], square: NDArray[Any], epsilon: float, out: NDArray[Any]) -> NDArray[Any]:
    """`x / (sqrt(square) + epsilon)`, into `out`."""
    np.sqrt(square, out=out)
    out += epsilon
    np.divide(x, out, out=out)
    return out


def _check_rate(learning_rate: float) -> float:
    # float(), for under a NumPy scalar of float64 every product with a float32 array would be one in float64.
    rate = float(learning_rate)
    if not 0 <= rate < math.inf:
        raise ValueError(f"the learning rate is {rate}; give a finite number of at least 0")
    return rate


def _check_fraction(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise ValueError(f"{name} is {value}; give a number of at least 0 and below 1")


def _check_epsilon(epsilon: float) -> None:
    if not 0 < epsilon < math.inf:
        raise ValueError(f"epsilon is {epsilon}; give a small positive number, for it keeps 0 / 0 away")


def _check_floats(what: str, tree: Tree) -> None:
    for number, leaf in enumerate(trees.leaves(tree)):
        if not isinstance(leaf, (np.ndarray, np.generic)) or leaf.dtype.kind != "f":
            given = getattr(leaf, "dtype", type(leaf).__name__)
            place = _of(trees.paths(tree)[number])
            raise TypeError(f"the {what}{place} is of type {given}; give an array of floating-point numbers")


def _of(path: str) -> str:
    return f" '{path}'" if path else ""
