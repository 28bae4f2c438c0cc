"""A cell around another one: sizes, parameters and carry are the other's, and its step is changed by a subclass."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from minigrad.trees import Tree
from rnn_cells.cell import Cell


@dataclass(frozen=True)
class Wrapped(Cell):
    """What a cell and the cell around it have in common.

    Attributes:
        cell: the cell inside.
    """

    input_size: int = field(init=False)
    hidden_size: int = field(init=False)
    cell: Cell

    def _wrap(self, cell: Cell, **options: Any) -> None:
        """Set the fields, which are frozen."""
        sizes = {"input_size": cell.input_size, "hidden_size": cell.hidden_size}
        for name, value in {**sizes, "cell": cell, **options}.items():
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
