"""seqjax: recurrent networks for JAX, as small pure functions that compose.

The core is imported here and needs jax alone; the other packages (`seqjax.text`, `seqjax.data`, `seqjax.training`, ...)
are imported when they are first asked for.
"""

import importlib
import types

from seqjax import initializers
from seqjax.cells import (
    ConvLSTMCarry,
    ConvLSTMParams,
    GRUCarry,
    GRUParams,
    IndRNNParams,
    LRUCarry,
    LRUParams,
    LSTMCarry,
    LSTMParams,
    MGUCarry,
    MGUParams,
    MinGRUCarry,
    MinGRUParams,
    MinLSTMCarry,
    MinLSTMParams,
    RNNCarry,
    RNNParams,
    conv_lstm,
    gru,
    indrnn,
    lru,
    lstm,
    mgu,
    mingru,
    minlstm,
    rnn,
)
from seqjax.errors import UserError
from seqjax.typing import Cell
from seqjax.unroll import explain, step, unroll
from seqjax.wrappers import (
    BidirectionalCarry,
    BidirectionalParams,
    LayerNormParams,
    LearnedInitialCarryParams,
    bidirectional,
    dropout,
    layer_norm,
    learned_initial_carry,
    recurrent_dropout,
    residual,
    stack,
    weight_drop,
    zoneout,
)

__all__ = [
    "BidirectionalCarry",
    "BidirectionalParams",
    "Cell",
    "ConvLSTMCarry",
    "ConvLSTMParams",
    "GRUCarry",
    "GRUParams",
    "IndRNNParams",
    "LRUCarry",
    "LRUParams",
    "LSTMCarry",
    "LSTMParams",
    "LayerNormParams",
    "LearnedInitialCarryParams",
    "MGUCarry",
    "MGUParams",
    "MinGRUCarry",
    "MinGRUParams",
    "MinLSTMCarry",
    "MinLSTMParams",
    "RNNCarry",
    "RNNParams",
    "UserError",
    "bidirectional",
    "conv_lstm",
    "dropout",
    "explain",
    "gru",
    "indrnn",
    "initializers",
    "layer_norm",
    "learned_initial_carry",
    "lru",
    "lstm",
    "mgu",
    "mingru",
    "minlstm",
    "recurrent_dropout",
    "residual",
    "rnn",
    "stack",
    "step",
    "unroll",
    "weight_drop",
    "zoneout",
]

# Found after `import seqjax`, and imported with all they need only then (PEP 562).
_PACKAGES = ("cnn", "data", "decoding", "diagnostics", "interop", "models", "nn", "run", "text", "training")


def __getattr__(name: str) -> types.ModuleType:
    if name in _PACKAGES:
        return importlib.import_module(f"seqjax.{name}")
    raise AttributeError(f"module 'seqjax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_PACKAGES})
