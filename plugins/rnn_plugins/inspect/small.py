"""Networks that are small enough to print every number of."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnn_plugins.errors import UserError

Array = NDArray[Any]

MOST_SYMBOLS = 7
"""Most different symbols in a text, and units of a network, whose matrices fit into eighty columns."""


def check_sizes(text: str, hidden_size: int, seed: int) -> tuple[str, ...]:
    """The different symbols of a text, in the order of their first appearance.

    Raises:
        UserError: they or the hidden units are too many for a terminal, or the seed is negative.
    """
    if not 1 <= hidden_size <= MOST_SYMBOLS:
        raise UserError(f"--hidden-size is {hidden_size}; it must be from 1 to {MOST_SYMBOLS}, to be read as numbers")
    if seed < 0:
        raise UserError(f"--seed is {seed}; it must be at least 0")
    symbols = tuple(dict.fromkeys(text))
    if not 2 <= len(symbols) <= MOST_SYMBOLS:
        raise UserError(
            f"--text is {text!r}, with {len(symbols)} different characters; it must have from 2 to {MOST_SYMBOLS}"
        )
    return symbols


def small_network(text: str, hidden_size: int, seed: int) -> tuple[tuple[str, ...], tuple[Array, Array, Array]]:
    """The symbols of a text, and U (H, N), W (H, H) and V (N, H) of a network for them, drawn at random in float64.

    Raises:
        UserError: as ``check_sizes``.
    """
    symbols = check_sizes(text, hidden_size, seed)
    rng = np.random.default_rng(seed)
    U = rng.normal(0, 1, (hidden_size, len(symbols)))
    W = rng.normal(0, 0.8 / np.sqrt(hidden_size), (hidden_size, hidden_size))
    V = rng.normal(0, 1, (len(symbols), hidden_size))
    return symbols, (U, W, V)
