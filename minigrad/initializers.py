"""Initialisers: functions of a generator and a shape that return a parameter's initial values.

A weight matrix has the shape (fan_in, fan_out), since it multiplies rows from the right: `x @ W`.

All draw in float64 and round to `dtype` at the end, so that a seed gives the same network at every precision.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray


def glorot_uniform(rng: np.random.Generator, shape: Sequence[int], dtype: DTypeLike = np.float32) -> NDArray[Any]:
    """Uniform in +-sqrt(6 / (fan_in + fan_out)), a variance of 2 / (fan_in + fan_out).

    Glorot and Bengio 2010, "Understanding the difficulty of training deep feedforward neural networks", equation 16.

    Raises:
        ValueError: where the shape is not (fan_in, fan_out).
        TypeError: where the dtype is not floating point.
    """
    fan_in, fan_out = _fans("glorot_uniform", shape)
    return uniform(rng, shape, dtype, scale=math.sqrt(6 / max(1, fan_in + fan_out)))


def glorot_normal(rng: np.random.Generator, shape: Sequence[int], dtype: DTypeLike = np.float32) -> NDArray[Any]:
    """Normal with the variance 2 / (fan_in + fan_out) of Glorot and Bengio 2010, equation 12.

    Raises:
        ValueError: where the shape is not (fan_in, fan_out).
        TypeError: where the dtype is not floating point.
    """
    fan_in, fan_out = _fans("glorot_normal", shape)
    return _float(math.sqrt(2 / max(1, fan_in + fan_out)) * rng.standard_normal(shape), dtype)


def he_uniform(rng: np.random.Generator, shape: Sequence[int], dtype: DTypeLike = np.float32) -> NDArray[Any]:
    """Uniform in +-sqrt(6 / fan_in), the variance 2 / fan_in of `he_normal`.

    He, Zhang, Ren and Sun 2015, "Delving deep into rectifiers", arXiv:1502.01852, equation 10.

    Raises:
        ValueError: where the shape is not (fan_in, fan_out).
        TypeError: where the dtype is not floating point.
    """
    fan_in, _ = _fans("he_uniform", shape)
    return uniform(rng, shape, dtype, scale=math.sqrt(6 / max(1, fan_in)))


def he_normal(rng: np.random.Generator, shape: Sequence[int], dtype: DTypeLike = np.float32) -> NDArray[Any]:
    """Normal with a variance of 2 / fan_in, for layers before a ReLU (He et al. 2015, arXiv:1502.01852, equation 10).

    Raises:
        ValueError: where the shape is not (fan_in, fan_out).
        TypeError: where the dtype is not floating point.
    """
    fan_in, _ = _fans("he_normal", shape)
    return _float(math.sqrt(2 / max(1, fan_in)) * rng.standard_normal(shape), dtype)


def orthogonal(
    rng: np.random.Generator, shape: Sequence[int], dtype: DTypeLike = np.float32, *, gain: float = 1.0
) -> NDArray[Any]:
    """`gain` times a random matrix with orthonormal columns, or orthonormal rows if it is wider than high.

    Drawn uniformly from all such matrices: the Q of a normal matrix's QR decomposition, its signs fixed by R's diagonal
    (Mezzadri 2006, arXiv:math-ph/0609050). For networks: Saxe, McClelland and Ganguli 2013, arXiv:1312.6120.

    Raises:
        ValueError: where the shape is not (fan_in, fan_out).
        TypeError: where the dtype is not floating point.
    """
    rows, columns = _fans("orthogonal", shape)
    tall = rng.standard_normal((max(rows, columns), min(rows, columns)))
    q, r = np.linalg.qr(tall)
    q *= np.copysign(1.0, np.diagonal(r))
    return _float(gain * (q if rows >= columns else q.T), dtype)


def identity(
    rng: np.random.Generator, shape: Sequence[int], dtype: DTypeLike = np.float32, *, scale: float = 1.0
) -> NDArray[Any]:
    """`scale` times the identity, or ones on the main diagonal if the shape is not square; draws nothing.

    Le, Jaitly and Hinton 2015, "A simple way to initialize recurrent networks of rectified linear units",
    arXiv:1504.00941.

    Raises:
        ValueError: where the shape is not (fan_in, fan_out).
        TypeError: where the dtype is not floating point.
    """
    return _float(scale * np.eye(*_fans("identity", shape)), dtype)


def uniform(
    rng: np.random.Generator, shape: Sequence[int], dtype: DTypeLike = np.float32, *, scale: float = 0.08
) -> NDArray[Any]:
    """Uniform in +-scale, for any shape; char-rnn (Karpathy 2015) uses 0.08 for all parameters.

    Raises:
        TypeError: where the dtype is not floating point.
    """
    return _float(rng.uniform(-scale, scale, shape), dtype)


def zeros(rng: np.random.Generator, shape: Sequence[int], dtype: DTypeLike = np.float32) -> NDArray[Any]:
    """Zeros, for any shape; draws nothing.

    Raises:
        TypeError: where the dtype is not floating point.
    """
    return _float(np.zeros(shape), dtype)


def _fans(name: str, shape: Sequence[int]) -> tuple[int, int]:
    if len(shape) != 2:
        raise ValueError(f"{name} got the shape {tuple(shape)}; give a matrix's, (fan_in, fan_out)")
    fan_in, fan_out = shape
    return fan_in, fan_out


def _float(values: NDArray[Any], dtype: DTypeLike) -> NDArray[Any]:
    if np.dtype(dtype).kind != "f":
        raise TypeError(f"a parameter cannot start as {np.dtype(dtype)}; give a floating-point dtype, such as float32")
    return values.astype(dtype, copy=False)
