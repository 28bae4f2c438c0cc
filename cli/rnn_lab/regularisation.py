"""``--weight-dropout`` and ``--zoneout``: cells that are regularised in training."""

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
        UserError: the cell does not have what is to be regularised.
    """
    if not (settings.weight_dropout or settings.zoneout):
        return list(layers)
    name = settings.cell
    if settings.zoneout and layers[0].unrolls_itself:
        raise UserError(
            f"--zoneout is {settings.zoneout:g}, but the cell {name!r} has its own method for running along a "
            "sequence; leave it out"
        )
    try:
        return [Regularised(layer, settings.weight_dropout, settings.zoneout) for layer in layers]
    except TraceError as error:
        reason = f"the step of the cell {name!r} cannot be written as a graph: {error}"
    except ValueError:
        reason = f"in the cell {name!r} no matrix of parameters multiplies a state"
    raise UserError(f"--weight-dropout is {settings.weight_dropout:g}, but {reason}; leave it out")
