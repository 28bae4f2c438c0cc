"""The engine: NumPy tensors with reverse-mode automatic differentiation."""

from typing import TYPE_CHECKING

from minigrad.functions import affine, concat, cross_entropy, dropout, dropout_mask, layer_norm, one_hot, softmax, split
from minigrad.gradients import grad, jvp, value_and_grad, vjp
from minigrad.numpy_functions import einsum
from minigrad.primitives import (
    abs,
    add,
    astype,
    broadcast_to,
    clip,
    concatenate,
    cos,
    cumsum,
    divide,
    exp,
    expm1,
    getitem,
    log,
    log1p,
    log_softmax,
    logsumexp,
    matmul,
    max,
    maximum,
    mean,
    min,
    minimum,
    multiply,
    negative,
    pad,
    pick,
    place,
    power,
    relu,
    reshape,
    sigmoid,
    sin,
    softplus,
    sqrt,
    square,
    stack,
    stop_gradient,
    subtract,
    sum,
    take,
    tanh,
    transpose,
    where,
)
from minigrad.tensor import Tensor, no_grad

if TYPE_CHECKING:
    from minigrad.scan import scan
else:
    from minigrad import scan  # the package, which is callable; the function would hide its modules

__all__ = [
    "Tensor", "abs", "add", "affine", "astype", "broadcast_to", "clip", "concat", "concatenate", "cos", "cross_entropy",
    "cumsum", "divide", "dropout", "dropout_mask", "einsum", "exp", "expm1", "getitem", "grad", "jvp", "layer_norm",
    "log", "log1p", "log_softmax", "logsumexp", "matmul", "max", "maximum", "mean", "min", "minimum", "multiply",
    "negative", "no_grad", "one_hot", "pad", "pick", "place", "power", "relu", "reshape", "scan", "sigmoid", "sin",
    "softmax", "softplus", "split", "sqrt", "square", "stack", "stop_gradient", "subtract", "sum", "take", "tanh",
    "transpose", "value_and_grad", "vjp", "where",
]  # fmt: skip
