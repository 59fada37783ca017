"""Recurrent cells: one file a family."""

from seqjax.cells.gru import GRUCarry, GRUParams, gru
from seqjax.cells.lstm import LSTMCarry, LSTMParams, lstm
from seqjax.cells.vanilla import RNNCarry, RNNParams, rnn

__all__ = ["GRUCarry", "GRUParams", "LSTMCarry", "LSTMParams", "RNNCarry", "RNNParams", "gru", "lstm", "rnn"]
