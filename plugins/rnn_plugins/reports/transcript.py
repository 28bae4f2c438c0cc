"""A text of which every symbol can be chosen, to see what a network expected there and why."""

from __future__ import annotations

from dataclasses import dataclass

from rnn_plugins.reports.report import Array, Colouring


@dataclass(frozen=True)
class Trace:
    """A number at each step of a text.

    Attributes:
        label: a name.
        values: (N,).
        low: the smallest possible value.
        high: the largest.
    """

    label: str
    values: Array
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Transcript(Colouring):
    """A text with the surprise of each symbol, and what stands behind it.

    Where nothing can be chosen, as in a terminal, it is drawn as a colouring.

    Attributes:
        unit: what a symbol is, in the singular.
        expected: of each of the N symbols, the likeliest ones at its position with their probabilities, the likeliest
            first; none for the first symbol, which is not predicted.
        influence: (N, L), how much each of the inputs before a symbol moves its log-probability, that of the symbol
            k + 1 before it at k; NaN where there is none.
        traces: of the network, in the step that reads each symbol.
    """

    unit: str
    expected: tuple[tuple[tuple[str, float], ...], ...]
    influence: Array
    traces: tuple[Trace, ...]
