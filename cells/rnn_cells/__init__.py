"""Recurrent cells, each written as its equations. They know the engine and nothing above it."""

from rnn_cells.bidirectional import Bidirectional
from rnn_cells.cell import Cell, parameter_count
from rnn_cells.stacked import Stacked

__all__ = ["Bidirectional", "Cell", "Stacked", "parameter_count"]
