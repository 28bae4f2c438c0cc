"""A cell with a changed step: activations replaced or removed, units of its states clamped to a number.

The change is made in the step's graph, not in the cell's code, so it works for every cell whose step can be traced.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from minigrad.trees import Tree
from rnn_cells.anatomy import Tapped
from rnn_cells.cell import Cell
from rnn_cells.wrapped import Wrapped


@dataclass(frozen=True)
class Ablated(Wrapped):
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

    fixed: tuple[tuple[int, float | None], ...] = ()
    clamped: tuple[tuple[int, int, float], ...] = ()

    def __init__(
        self,
        cell: Cell,
        fixed: tuple[tuple[int, float | None], ...] = (),
        clamped: tuple[tuple[int, int, float], ...] = (),
    ) -> None:
        self._wrap(cell, fixed=fixed, clamped=clamped)

    def __call__(self, params: Tree, carry: Tree, x: Any) -> tuple[Tree, Any]:
        """One step.

        Raises:
            TraceError: activations are to be replaced, and the cell's step cannot be traced.
        """
        carry, (y, _, _) = Tapped(self.cell, fixed=self.fixed, clamped=self.clamped)(params, carry, x)
        return carry, y
