"""Optimisers: pairs of pure functions over trees of arrays, in PyTorch's conventions, and gradient clipping.

They keep no state: `update` takes gradients, state, parameters and learning rate, and returns new trees.

    optimizer = adam()
    state = optimizer.init(params)
    params, state = optimizer.update(grads, state, params, learning_rate)

A state is a tree of arrays, so that a checkpoint can contain it. Below, p is a parameter, g its gradient and lr the
learning rate; an array keeps its parameter's dtype through any number of steps.

The rules are elementwise expressions. For large arrays they run as machine code if the time loop does, and otherwise in
NumPy, with the same bits.
"""

import math
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import numpy as np

from minigrad import trees
from minigrad.compiled.flat import BLOCK, WORTH_WIDENING, Fused, fused, sum_of_squares
from minigrad.trees import Tree


class Optimizer(NamedTuple):
    """An optimiser. Neither function changes its arguments.

    Attributes:
        init: `(params) -> state`, the state before the first step. TypeError where a parameter is not a float array.
        update: `(grads, state, params, learning_rate) -> (params, state)`. ValueError where the trees or the shapes of
            their arrays differ, or the rate is negative or not finite; TypeError where a gradient is not a float array.
    """

    init: Callable[[Tree], Tree]
    update: Callable[[Tree, Tree, Tree, float], tuple[Tree, Tree]]


def sgd(momentum: float = 0.0, nesterov: bool = False) -> Optimizer:
    """Stochastic gradient descent, with momentum and Nesterov's variant as in Sutskever et al. 2013 (ICML).

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
        if not momentum:
            (params,) = _each_leaf(_SGD, (lr,), params, grads)
            return params, {}
        rule = _NESTEROV if nesterov else _MOMENTUM
        params, velocity = _each_leaf(rule, (momentum, lr), params, grads, state["velocity"])
        return params, {"velocity": velocity}

    return Optimizer(init, update)


def rmsprop(decay: float = 0.99, epsilon: float = 1e-8, momentum: float = 0.0) -> Optimizer:
    """RMSprop (Tieleman and Hinton 2012, Coursera lecture 6.5): divide by the root mean square of recent gradients.

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
        scalars = (decay, 1 - decay, epsilon)
        if not momentum:
            params, mean_square = _each_leaf(_RMSPROP, (*scalars, lr), params, grads, state["mean_square"])
            return params, {"mean_square": mean_square}
        slots = (state["mean_square"], state["velocity"])
        params, mean_square, velocity = _each_leaf(_RMSPROP_MOMENTUM, (*scalars, momentum, lr), params, grads, *slots)
        return params, {"mean_square": mean_square, "velocity": velocity}

    return Optimizer(init, update)


def adagrad(epsilon: float = 1e-10) -> Optimizer:
    """Adagrad (Duchi, Hazan and Singer 2011, JMLR 12): divide by the root of the sum of all squared gradients.

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
        params, sums = _each_leaf(_ADAGRAD, (epsilon, lr), params, grads, state["sum_of_squares"])
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


def adamw(
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
    *,
    weight_decay: float = 0.01,
    vectors: bool = True,
) -> Optimizer:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2017, arXiv:1711.05101).

        p = p - lr * weight_decay * p           and then Adam's step

    Without `vectors`, parameters of one axis or none do not decay: biases, gains, peepholes.

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
        # The two bias corrections are applied to the rate and epsilon instead of the arrays.
        root = math.sqrt(1 - beta2**step)
        rate = lr * root / (1 - beta1**step)
        scalars = (1 - beta1, beta2, 1 - beta2, epsilon * root, rate)
        kept, given = 1 - lr * weight_decay, (params, grads, state["mean"], state["mean_square"])
        if vectors or not weight_decay:
            params, mean, mean_square = _each_leaf(_ADAM, (*scalars, kept), *given)
        else:
            flat = [trees.flatten(tree) for tree in given]
            apart = [{path for path, leaf in flat[0].items() if (leaf.ndim > 1) == decays} for decays in (True, False)]
            matrices, others = (
                _each_leaf(_ADAM, (*scalars, factor), *({path: tree[path] for path in sorted(paths)} for tree in flat))
                for paths, factor in zip(apart, (kept, 1.0), strict=True)
            )
            joined = [one | other for one, other in zip(matrices, others, strict=True)]
            params, mean, mean_square = (trees.unflatten(params, [new[path] for path in flat[0]]) for new in joined)
        return params, {"step": np.array(step, np.int64), "mean": mean, "mean_square": mean_square}

    return Optimizer(init, update)


def freezing(optimizer: Optimizer, frozen: Collection[str]) -> Optimizer:
    """The optimiser for all parameters but the frozen ones, which stay as they are and have no part in its state.

    Args:
        optimizer: of the others.
        frozen: paths of leaves, as `trees.paths` gives them; without any, it is `optimizer` itself.
    """
    if not frozen:
        return optimizer

    def others(tree: Tree) -> dict[str, Any]:
        return {path: leaf for path, leaf in trees.flatten(tree).items() if path not in frozen}

    def update(grads: Tree, state: Tree, params: Tree, learning_rate: float) -> tuple[Tree, Tree]:
        new, state = optimizer.update(others(grads), state, others(params), learning_rate)
        return trees.unflatten(params, (trees.flatten(params) | new).values()), state

    return Optimizer(lambda params: optimizer.init(others(params)), update)


def towards(average: Tree, params: Tree, share: float) -> Tree:
    """The average moved towards the parameters by a share of the difference: a + share * (p - a).

    With a constant share it is an exponential moving average; with 1 / n, the mean of n trees.

    Raises:
        ValueError: where the trees or the shapes of their arrays differ.
        TypeError: where a parameter is not a float array.
    """
    (moved,) = _each_leaf(_TOWARDS, (share,), average, params)
    return moved


OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "sgd": sgd,
    "rmsprop": rmsprop,
    "adagrad": adagrad,
    "adam": adam,
    "adamw": adamw,
}


def global_norm(tree: Tree) -> float:
    """The Euclidean norm of all the tree's numbers; not finite if one of them is not, and 0 without any.

    Raises:
        TypeError: where a leaf is not a float array.
    """
    _check_floats("gradient", tree)
    compiled = _runs_compiled(tree, WORTH_WIDENING)
    flat = [np.ravel(leaf, order="K") for leaf in trees.leaves(tree)]
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        norm = math.sqrt(sum(sum_of_squares(leaf, compiled=compiled) for leaf in flat))
    if 1e-15 < norm < math.inf:
        return norm
    # A square may overflow its dtype although the norm does not: compute it again, scaled by the largest element.
    largest = max((float(np.max(np.abs(leaf))) for leaf in flat if leaf.size), default=0.0)
    if any(np.isnan(leaf).any() for leaf in flat):
        return math.nan
    if largest == 0 or largest == math.inf:
        return largest
    return largest * math.sqrt(sum(float(np.sum(np.square(leaf / np.float64(largest)))) for leaf in flat))


def clip_by_global_norm(grads: Tree, max_norm: float) -> tuple[Tree, float]:
    """The gradients, scaled down to a global norm of `max_norm` if theirs is larger, and their original norm.

    Pascanu, Mikolov and Bengio 2012, arXiv:1211.5063, algorithm 1. If the norm is not finite, the gradients are
    returned unchanged; the caller must check the norm and not use them.

    Raises:
        ValueError: where `max_norm` is not positive.
        TypeError: where a leaf is not a float array.
    """
    if not max_norm > 0:
        raise ValueError(f"gradients are to be clipped to a norm of {max_norm}; give a positive number")
    norm = global_norm(grads)
    if not math.isfinite(norm) or norm <= max_norm:
        return grads, norm
    factor = max_norm / norm
    compiled = _runs_compiled(grads, WORTH_WIDENING)
    clipped = _SCALED.over([(g,) for g in trees.leaves(grads)], (factor,), compiled=compiled)
    return trees.unflatten(grads, [g for (g,) in clipped]), norm


def clip_by_value(grads: Tree, limit: float) -> Tree:
    """The gradients with every element clipped to [-limit, limit].

    A NaN stays NaN, but an infinity becomes the limit; to detect one, call `global_norm` first.

    Raises:
        ValueError: where `limit` is not positive.
        TypeError: where a leaf is not a float array.
    """
    if not limit > 0:
        raise ValueError(f"gradients are to be clipped to +-{limit}; give a positive number")
    _check_floats("gradient", grads)
    return trees.map(lambda g: np.clip(g, -limit, limit, out=np.empty_like(g)), grads)


# --- rules ------------------------------------------------------------------------------------------------------------

# Each rule maps a parameter p, its gradient g, its slots and scalars to the new p and slots: v is a velocity, m a mean,
# s a mean or sum of squares. What depends on scalars only is computed before, in double precision.


def _sgd(p: Any, g: Any, lr: Any) -> tuple[Any, ...]:
    return (p - lr * g,)


def _momentum(p: Any, g: Any, v: Any, momentum: Any, lr: Any) -> tuple[Any, ...]:
    v = momentum * v + g
    return p - lr * v, v


def _nesterov(p: Any, g: Any, v: Any, momentum: Any, lr: Any) -> tuple[Any, ...]:
    v = momentum * v + g
    return p - lr * (momentum * v + g), v


def _rmsprop(p: Any, g: Any, s: Any, decay: Any, rest: Any, epsilon: Any, lr: Any) -> tuple[Any, ...]:
    s = decay * s + rest * (g * g)
    return p - lr * (g / (np.sqrt(s) + epsilon)), s


def _rmsprop_momentum(
    p: Any, g: Any, s: Any, v: Any, decay: Any, rest: Any, epsilon: Any, momentum: Any, lr: Any
) -> tuple[Any, ...]:
    s = decay * s + rest * (g * g)
    v = momentum * v + g / (np.sqrt(s) + epsilon)
    return p - lr * v, s, v


def _adagrad(p: Any, g: Any, s: Any, epsilon: Any, lr: Any) -> tuple[Any, ...]:
    s = s + g * g
    return p - lr * (g / (np.sqrt(s) + epsilon)), s


def _adam(
    p: Any, g: Any, m: Any, s: Any, rest1: Any, beta2: Any, rest2: Any, epsilon: Any, rate: Any, kept: Any
) -> tuple[Any, ...]:
    m = m + rest1 * (g - m)
    s = beta2 * s + rest2 * (g * g)
    return kept * p - rate * (m / (np.sqrt(s) + epsilon)), m, s


_SGD = fused(_sgd, arrays=2, scalars=1, outputs=1)
_MOMENTUM = fused(_momentum, arrays=3, scalars=2, outputs=2)
_NESTEROV = fused(_nesterov, arrays=3, scalars=2, outputs=2)
_RMSPROP = fused(_rmsprop, arrays=3, scalars=4, outputs=2)
_RMSPROP_MOMENTUM = fused(_rmsprop_momentum, arrays=4, scalars=5, outputs=3)
_ADAGRAD = fused(_adagrad, arrays=3, scalars=2, outputs=2)
_ADAM = fused(_adam, arrays=4, scalars=6, outputs=3)
_TOWARDS = fused(lambda a, p, share: (a + share * (p - a),), arrays=2, scalars=1, outputs=1)
_SCALED = fused(lambda g, factor: (g * factor,), arrays=1, scalars=1, outputs=1)


def _each_leaf(rule: Fused, scalars: tuple[float, ...], params: Tree, grads: Tree, *slots: Tree) -> list[Tree]:
    """Apply `rule(p, g, *slots_of_p) -> (p, *slots_of_p)` to every leaf; return one tree per result."""
    _check_floats("gradient", grads)
    rows = trees.zip_leaves(params, grads, *slots)
    for number, (p, g, *_) in enumerate(rows):
        if np.shape(p) != np.shape(g):
            which = _of(trees.paths(params)[number])
            raise ValueError(
                f"the gradient{which} has the shape {np.shape(g)}, its parameter {np.shape(p)}; give one of its shape"
            )
    results = rule.over(rows, scalars, compiled=_runs_compiled(params, BLOCK))
    return [trees.unflatten(params, [result[index] for result in results]) for index in range(1 + len(slots))]


def _runs_compiled(tree: Tree, short: int) -> bool:
    # For short arrays it makes no difference, and asking would take longer than the update.
    if all(leaf.size <= short for leaf in trees.leaves(tree)):
        return False
    from minigrad.scan import chosen_backend  # imported late, since the time loop is above the optimisers

    return chosen_backend() == "compiled"


def _check_rate(learning_rate: float) -> float:
    # float(), because a product of a NumPy float64 scalar and a float32 array would be float64.
    rate = float(learning_rate)
    if not 0 <= rate < math.inf:
        raise ValueError(f"the learning rate is {rate}; give a finite number of at least 0")
    return rate


def _check_fraction(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise ValueError(f"{name} is {value}; give a number of at least 0 and below 1")


def _check_epsilon(epsilon: float) -> None:
    if not 0 < epsilon < math.inf:
        raise ValueError(f"epsilon is {epsilon}; give a small positive number, which prevents 0 / 0")


def _check_floats(what: str, tree: Tree) -> None:
    for number, leaf in enumerate(trees.leaves(tree)):
        if not isinstance(leaf, (np.ndarray, np.generic)) or leaf.dtype.kind != "f":
            given = getattr(leaf, "dtype", type(leaf).__name__)
            which = _of(trees.paths(tree)[number])
            raise TypeError(f"the {what}{which} is of type {given}; give an array of floating-point numbers")


def _of(path: str) -> str:
    return f" '{path}'" if path else ""
