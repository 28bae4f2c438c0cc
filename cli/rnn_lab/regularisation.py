"""``--weight-dropout``: cells that are regularised in training."""

from __future__ import annotations

from collections.abc import Sequence

from minigrad.graph import TraceError
from rnn_cells import Cell
from rnn_cells.regularised import Regularised
from rnn_lab.settings import Settings
from rnn_plugins.errors import UserError


def regularised(layers: Sequence[Cell], settings: Settings) -> list[Cell]:
    """The layers as the settings regularise them.

    Raises:
        UserError: they have no recurrent matrices, or these are unknown.
    """
    if not settings.weight_dropout:
        return list(layers)
    try:
        return [Regularised(layer, settings.weight_dropout) for layer in layers]
    except TraceError as error:
        reason = f"the step of the cell {settings.cell!r} cannot be written as a graph: {error}"
    except ValueError:
        reason = f"in the cell {settings.cell!r} no matrix of parameters multiplies a state"
    raise UserError(f"--weight-dropout is {settings.weight_dropout:g}, but {reason}; leave it out")
