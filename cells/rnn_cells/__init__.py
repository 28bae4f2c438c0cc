"""Recurrent cells, each written as its equations."""

from rnn_cells.bidirectional import Bidirectional
from rnn_cells.cell import Cell, parameter_count
from rnn_cells.gru import GRU
from rnn_cells.lstm import LSTM, CoupledLSTM, PeepholeLSTM
from rnn_cells.rnn import IRNN, RNN
from rnn_cells.stacked import Stacked

__all__ = [
    "GRU", "IRNN", "LSTM", "RNN", "Bidirectional", "Cell", "CoupledLSTM", "PeepholeLSTM", "Stacked", "parameter_count",
]  # fmt: skip
