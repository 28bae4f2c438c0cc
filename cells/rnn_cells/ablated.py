"""A cell with a changed step: activations replaced or removed, units of its states clamped to a number.

The change is made in the step's graph, not in the cell's code, so it works for every cell whose step can be traced.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from minigrad.trees import Tree
from rnn_cells.anatomy import Tapped
from rnn_cells.cell import Cell


@dataclass(frozen=True)
class Ablated(Cell):
    """A cell whose step is changed in two ways. Its parameters, carry and sizes stay the same.

    Activations are ablated as in Greff et al. (2017, arXiv:1503.04069): a gate that is always open has an activation of
    1. Parameters that only the gate uses then have gradients of zero. Clamping a state is an intervention on it:
    everything computed from the state, in the same step and later, uses the number.

    Attributes:
        cell: the cell to change.
        fixed: activations (``Activation.op``), each with the number that replaces its result, or with None to replace
            the result by the activation's input.
        clamped: units of states, each as (index of the state among the leaves of the carry, ``State.index``; unit;
            number).
    """

    input_size: int = field(init=False)
    hidden_size: int = field(init=False)
    cell: Cell
    fixed: tuple[tuple[int, float | None], ...] = ()
    clamped: tuple[tuple[int, int, float], ...] = ()

    def __init__(
        self,
        cell: Cell,
        fixed: tuple[tuple[int, float | None], ...] = (),
        clamped: tuple[tuple[int, int, float], ...] = (),
    ) -> None:
        for name, value in (
            ("input_size", cell.input_size),
            ("hidden_size", cell.hidden_size),
            ("cell", cell),
            ("fixed", fixed),
            ("clamped", clamped),
        ):
            object.__setattr__(self, name, value)

    @property
    def output_size(self) -> int:
        """The width of the cell's output."""
        return self.cell.output_size

    @property
    def suggested_learning_rate(self) -> float | None:  # type: ignore[override]
        """What the cell suggests."""
        return self.cell.suggested_learning_rate

    @property
    def suggested_warmup(self) -> int:  # type: ignore[override]
        """What the cell suggests."""
        return self.cell.suggested_warmup

    @property
    def causal(self) -> bool:  # type: ignore[override]
        """Whether the cell is causal."""
        return self.cell.causal

    def init_params(self, rng: np.random.Generator) -> Tree:
        """The cell's."""
        return self.cell.init_params(rng)

    def init_carry(self, batch_size: int) -> Tree:
        """The cell's."""
        return self.cell.init_carry(batch_size)

    def __call__(self, params: Tree, carry: Tree, x: Any) -> tuple[Tree, Any]:
        """One step.

        Raises:
            TraceError: activations are to be replaced, and the cell's step cannot be traced.
        """
        carry, (y, _, _) = Tapped(self.cell, fixed=self.fixed, clamped=self.clamped)(params, carry, x)
        return carry, y
