"""Recurrent cells, one file per family, and the registry that lists them by name.

The names in `seqjax`, the stacks, the Flax layers, the choices of the experiments, the benchmarks and the test tables
read the registry. Adding a cell means adding its file, an entry here, its equation in `tests/numpy_reference.py` and a
line in `tests/cells/table.py`. docs/own_cell.md shows how to write a cell, inside this package or outside.
"""

import functools

from seqjax.cells._block_gru import BlockGRUCarry, BlockGRUParams, block_gru
from seqjax.cells._conv_lstm import ConvLSTMCarry, ConvLSTMParams, conv_lstm
from seqjax.cells._dense import DenseParams, dense_cell
from seqjax.cells._gru import GRUCarry, GRUParams, gru
from seqjax.cells._lem import LEMCarry, LEMParams, lem
from seqjax.cells._lstm import LSTMCarry, LSTMParams, lstm
from seqjax.cells._slstm import SLSTMCarry, SLSTMParams, slstm
from seqjax.cells.dense_layer import DenseLayerParams, dense
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
from seqjax.cells.minimal import MGUCarry, MGUParams, mgu
from seqjax.cells.oscillators import CoRNNParams, OscillatorCarry, UnICORNNParams, cornn, unicornn
from seqjax.cells.vanilla import IndRNNParams, RNNCarry, RNNParams, indrnn, rnn
from seqjax.initializers import identity

# Every cell that needs only a hidden_size, by the name used in settings and layers: make(hidden_size, **options) ->
# Cell.
CELLS = {
    "lstm": lstm,
    "gru": gru,
    "rnn": rnn,
    "irnn": functools.partial(rnn, activation="relu", recurrent_init=identity()),
    "indrnn": indrnn,
    "mgu": mgu,
    "slstm": slstm,
    "block_gru": block_gru,
    "lem": lem,
    "cornn": cornn,
    "unicornn": unicornn,
    "mingru": mingru,
    "minlstm": minlstm,
    "lru": lru,
}

__all__ = [
    "BlockGRUCarry",
    "BlockGRUParams",
    "CoRNNParams",
    "ConvLSTMCarry",
    "ConvLSTMParams",
    "DenseLayerParams",
    "DenseParams",
    "GRUCarry",
    "GRUParams",
    "IndRNNParams",
    "LEMCarry",
    "LEMParams",
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
    "OscillatorCarry",
    "RNNCarry",
    "RNNParams",
    "SLSTMCarry",
    "SLSTMParams",
    "UnICORNNParams",
    "block_gru",
    "conv_lstm",
    "cornn",
    "dense",
    "dense_cell",
    "gru",
    "indrnn",
    "lem",
    "lru",
    "lstm",
    "mgu",
    "mingru",
    "minlstm",
    "rnn",
    "slstm",
    "unicornn",
]
