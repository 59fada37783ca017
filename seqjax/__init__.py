"""seqjax: recurrent networks for JAX, as small pure functions that compose.

The core is imported here and needs jax alone; the other rooms (`seqjax.text`, `seqjax.data`, `seqjax.training`, ...)
are imported by name.
"""

from seqjax import initializers
from seqjax.cells import GRUCarry, GRUParams, LSTMCarry, LSTMParams, RNNCarry, RNNParams, gru, lstm, rnn
from seqjax.errors import UserError
from seqjax.typing import Cell
from seqjax.unroll import unroll
from seqjax.wrappers import dropout, residual, stack

__all__ = [
    "Cell",
    "GRUCarry",
    "GRUParams",
    "LSTMCarry",
    "LSTMParams",
    "RNNCarry",
    "RNNParams",
    "UserError",
    "dropout",
    "gru",
    "initializers",
    "lstm",
    "residual",
    "rnn",
    "stack",
    "unroll",
]
