"""A cell with something of its step changed: activations replaced or left out, units of its states held at a number.

The change is made in the step's graph and not in the cell's own code, so it fits any cell whose step can be traced.
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
    """Another cell, whose step is changed in two ways. Parameters, carry and sizes stay those of the cell.

    Activations are ablated as in Greff et al. (2017, arXiv:1503.04069): a gate that is always open is one whose
    activation is 1. What then only serves the gate has gradients of zero. A state is held as an intervention on it:
    all that is computed from the state, in the same step and later, sees the number.

    Attributes:
        cell: whose step it is.
        fixed: activations (``Activation.op``) with the number that is put in place of what they compute, or None, which
            leaves the activation out and takes what goes into it.
        clamped: units of states: the state's place among the leaves of the carry (``State.place``), the unit, its
            number.
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
