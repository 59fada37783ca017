"""Recurrent cells: one file a family."""

from seqjax.cells.conv_lstm import ConvLSTMCarry, ConvLSTMParams, conv_lstm
from seqjax.cells.gru import GRUCarry, GRUParams, gru
from seqjax.cells.linear import (
    LRUCarry,
    LRUParams,
    MinGRUCarry,
    MinGRUParams,
    MinLSTMCarry,
    MinLSTMParams,
    lru,
    mingru,
    minlstm,
)
from seqjax.cells.lstm import LSTMCarry, LSTMParams, lstm
from seqjax.cells.minimal import MGUCarry, MGUParams, mgu
from seqjax.cells.vanilla import IndRNNParams, RNNCarry, RNNParams, indrnn, rnn

__all__ = [
    "ConvLSTMCarry",
    "ConvLSTMParams",
    "GRUCarry",
    "GRUParams",
    "IndRNNParams",
    "LRUCarry",
    "LRUParams",
    "LSTMCarry",
    "LSTMParams",
    "MGUCarry",
    "MGUParams",
    "MinGRUCarry",
    "MinGRUParams",
    "MinLSTMCarry",
    "MinLSTMParams",
    "RNNCarry",
    "RNNParams",
    "conv_lstm",
    "gru",
    "indrnn",
    "lru",
    "lstm",
    "mgu",
    "mingru",
    "minlstm",
    "rnn",
]
