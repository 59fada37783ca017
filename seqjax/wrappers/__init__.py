"""Wrappers: cell -> cell.

Wrappers that work inside a step go innermost (layer_norm, recurrent_dropout, weight_drop, zoneout); those that work on
whole sequences go around them (dropout, residual, learned_initial_carry, bidirectional, stack). dropout may go
anywhere.
"""

from seqjax.wrappers._bidirectional import BidirectionalCarry, BidirectionalParams, bidirectional
from seqjax.wrappers._dropout import dropout
from seqjax.wrappers._layer_norm import LayerNormParams, layer_norm
from seqjax.wrappers._learned_initial_carry import LearnedInitialCarryParams, learned_initial_carry
from seqjax.wrappers._recurrent_dropout import recurrent_dropout
from seqjax.wrappers._residual import residual
from seqjax.wrappers._stack import stack
from seqjax.wrappers._weight_drop import weight_drop
from seqjax.wrappers._zoneout import zoneout

__all__ = [
    "BidirectionalCarry",
    "BidirectionalParams",
    "LayerNormParams",
    "LearnedInitialCarryParams",
    "bidirectional",
    "dropout",
    "layer_norm",
    "learned_initial_carry",
    "recurrent_dropout",
    "residual",
    "stack",
    "weight_drop",
    "zoneout",
]
