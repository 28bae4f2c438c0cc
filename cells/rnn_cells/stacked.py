"""A stack of cells as one cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from minigrad import dropout_mask
from minigrad.trees import Tree
from rnn_cells.cell import Cell


@dataclass(frozen=True)
class Stacked(Cell):
    """A stack of cells: each layer's output is the next one's input, and the last one's output is the stack's.

    During training, outputs between layers are dropped at the rate ``dropout`` (Zaremba, Sutskever and Vinyals 2014,
    arXiv:1409.2329). With ``variational``, one mask is used for all steps of a sequence (Gal and Ghahramani 2016,
    arXiv:1512.05287); recurrent connections are not masked.

    Attributes:
        cells: from the input upwards.
        dropout: the rate between layers, 0 for none.
        variational: one mask for all steps, instead of a fresh one for each.

    Raises:
        ValueError: there is no cell, a layer's input size is not the output size below, or ``dropout`` is outside
            [0, 1).
    """

    input_size: int = field(init=False)
    hidden_size: int = field(init=False)
    cells: Sequence[Cell] = ()
    dropout: float = 0.0
    variational: bool = False

    def __init__(self, cells: Sequence[Cell], dropout: float = 0.0, variational: bool = False) -> None:
        cells = tuple(cells)
        if not cells:
            raise ValueError("Stacked: got no cells; give at least one")
        for i, (below, above) in enumerate(pairwise(cells)):
            if above.input_size != below.output_size:
                raise ValueError(
                    f"Stacked: layer {i} gives outputs of {below.output_size}, and layer {i + 1} takes inputs of "
                    f"{above.input_size}: make them equal"
                )
        if not 0 <= dropout < 1:
            raise ValueError(f"Stacked: dropout is {dropout}; it must be at least 0 and below 1")
        for name, value in (
            ("input_size", cells[0].input_size),
            ("hidden_size", cells[-1].hidden_size),
            ("cells", cells),
            ("dropout", dropout),
            ("variational", variational),
        ):
            object.__setattr__(self, name, value)

    @property
    def output_size(self) -> int:
        """The width of the last layer's output."""
        return self.cells[-1].output_size

    @property
    def suggested_learning_rate(self) -> float | None:  # type: ignore[override]
        """The first layer's."""
        return self.cells[0].suggested_learning_rate

    @property
    def suggested_warmup(self) -> int:  # type: ignore[override]
        """The longest of the layers'."""
        return max(cell.suggested_warmup for cell in self.cells)

    @property
    def causal(self) -> bool:  # type: ignore[override]
        """Whether every layer is causal."""
        return all(cell.causal for cell in self.cells)

    def init_params(self, rng: np.random.Generator) -> Tree:
        """``{"0": ..., "1": ...}``, the parameters of each layer."""
        return {str(i): cell.init_params(rng) for i, cell in enumerate(self.cells)}

    def init_carry(self, batch_size: int) -> Tree:
        """A tuple of the layers' carries."""
        return tuple(cell.init_carry(batch_size) for cell in self.cells)

    def __call__(self, params: Tree, carry: Tree, x: Any) -> tuple[Tree, Any]:
        """One step through all layers, without dropout."""
        new = []
        for i, cell in enumerate(self.cells):
            layer_carry, x = cell(params[str(i)], carry[i], x)
            new.append(layer_carry)
        return tuple(new), x

    def unroll(
        self,
        params: Tree,
        carry: Tree,
        xs: Any,
        *,
        lengths: Any = None,
        mask: Any = None,
        reverse: bool = False,
        rng: np.random.Generator | None = None,
    ) -> tuple[Tree, Any]:
        """The whole sequence through one layer after another; see ``Cell.unroll``."""
        new = []
        for i, cell in enumerate(self.cells):
            if i and self.dropout and rng is not None:
                xs = drop_steps(xs, self.dropout, self.variational, rng)
            layer_carry, xs = cell.unroll(
                params[str(i)], carry[i], xs, lengths=lengths, mask=mask, reverse=reverse, rng=rng
            )
            new.append(layer_carry)
        return tuple(new), xs


def drop_steps(xs: Any, rate: float, variational: bool, rng: np.random.Generator) -> Any:
    """Dropout on a sequence (T, B, ...): a fresh mask for every step, or with ``variational`` one mask for all.

    Raises:
        ValueError: ``rate`` is outside [0, 1).
    """
    shape = (1, *xs.shape[1:]) if variational else xs.shape
    return xs * dropout_mask(shape, rate, rng, xs.dtype, axis=1)
