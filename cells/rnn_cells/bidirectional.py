"""Two cells over one sequence, one in each direction, for tasks that have the whole sequence."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, NoReturn

import numpy as np

from minigrad import concat
from minigrad.trees import Tree
from rnn_cells.cell import Cell


@dataclass(frozen=True)
class Bidirectional(Cell):
    """One cell forwards, one backwards; an output is the concatenation of theirs (Schuster and Paliwal 1997).

    An output depends on later inputs, so there is no single step, only ``unroll``. The carry is the pair of both cells'
    carries, each at the end of its direction.

    Attributes:
        forward: reads from the first step to the last.
        backward: reads from the last step to the first.

    Raises:
        ValueError: the cells take inputs of different widths.
    """

    input_size: int = field(init=False)
    hidden_size: int = field(init=False)
    forward: Cell
    backward: Cell

    causal: ClassVar[bool] = False

    def __init__(self, forward: Cell, backward: Cell) -> None:
        if forward.input_size != backward.input_size:
            raise ValueError(
                f"Bidirectional: the cells take inputs of {forward.input_size} and {backward.input_size}; "
                "both read the same sequence, so make them equal"
            )
        for name, value in (
            ("input_size", forward.input_size),
            ("hidden_size", forward.hidden_size),
            ("forward", forward),
            ("backward", backward),
        ):
            object.__setattr__(self, name, value)

    @property
    def output_size(self) -> int:
        """The sum of both widths."""
        return self.forward.output_size + self.backward.output_size

    def init_params(self, rng: np.random.Generator) -> Tree:
        """``{"forward": ..., "backward": ...}``."""
        return {"forward": self.forward.init_params(rng), "backward": self.backward.init_params(rng)}

    def init_carry(self, batch_size: int) -> Tree:
        """``(forward's carry, backward's carry)``."""
        return self.forward.init_carry(batch_size), self.backward.init_carry(batch_size)

    def __call__(self, params: Tree, carry: Tree, x: Any) -> NoReturn:
        """There is no single step.

        Raises:
            TypeError: always.
        """
        raise TypeError("Bidirectional has no single step, because it reads the sequence from both ends: use unroll")

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
        """Both cells along the sequence; see ``Cell.unroll``. Outputs are (T, B, output_size)."""
        ahead, ys = self.forward.unroll(
            params["forward"], carry[0], xs, lengths=lengths, mask=mask, reverse=reverse, rng=rng
        )
        back, zs = self.backward.unroll(
            params["backward"], carry[1], xs, lengths=lengths, mask=mask, reverse=not reverse, rng=rng
        )
        return (ahead, back), concat(ys, zs)
