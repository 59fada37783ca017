"""Weights from and to other libraries, one call each way, with the same outputs up to rounding.

  =========  ================================================  =================================================
  library    in                                                out
  =========  ================================================  =================================================
  PyTorch    `from_torch(module)` -> cell, params              `to_torch(cell, params)` -> module
             `from_torch_state(state, prefix)` -> cell, params
  Keras 3    `from_keras(layer)` -> cell, params               `to_keras(cell, params)` -> layer
  Flax linen `from_flax(module, variables)` -> cell, params    `to_flax(cell, params)` -> module, variables
  Flax NNX   `from_nnx(module)` -> cell, params                `to_nnx(cell, params)` -> module
  Haiku      `from_haiku(params, name)` -> cell, params        `to_haiku(cell, params)` -> make, params
  Equinox    `from_equinox(module)` -> cell, params            `to_equinox(cell, params)` -> module
  =========  ================================================  =================================================

Whole Keras models that are a chain of layers, with an embedding and a head, become pure functions with
`from_keras_model(model)` -> model, params; `to_keras_model(params, model)` puts params into a Keras model.

The networks of `seqjax.cnn` convert to and from torch state dicts, including torchvision's:
`from_torch_cnn(model, state_dict)` -> variables, and `to_torch_cnn(model, variables)` -> state dict.

Which library supports what. Features not listed (peepholes, coupled gates, layer norm, residuals, zoneout, ...) are
supported by none of them; `to_...` refuses unsupported features by name and says which libraries support them.
`parts.HOLDERS` is this table as code.

  ===============================  =======  =======  =======  =======  =======  =======
  ours                             PyTorch  Keras    linen    NNX      Haiku    Equinox
  ===============================  =======  =======  =======  =======  =======  =======
  rnn, tanh                        yes      yes      yes      yes      no       no
  rnn, relu                        yes      yes      yes      yes      yes      no
  lstm                             yes      yes      yes      yes      yes      yes
  lstm with proj_size              yes      no       no       no       no       no
  other activations, also of gates no       most     yes      yes      no       no
  gru, reset_after=True            yes      yes      yes      b_hn = 0 no       yes
  gru, reset_after=False           no       yes      no       no       yes      no
  conv_lstm, "same" and strides 1  no       yes      yes      no       yes      no
  conv_lstm with other options     no       yes      no       no       no       no
  stack                            equals   yes      yes      yes      no       no
  bidirectional, concatenated      yes      yes      yes      yes      no       no
  bidirectional, other merges      no       yes      yes      yes      no       no
  bidirectional, merge=None        no       yes      no       no       no       no
  dropout between layers           one rate yes      no       no       no       no
  dropout shared over time         no       yes      no       no       no       no
  recurrent dropout                no       by gate  no       no       no       no
  compute dtype besides params'    no       bfloat16 yes      yes      no       no
  ===============================  =======  =======  =======  =======  =======  =======

Gate orders, biases and variants differ between libraries; each file here starts with its mapping. All libraries except
Flax are imported when a function is called, and none of them is needed for the others.
"""

from seqjax.interop.equinox import from_equinox, to_equinox
from seqjax.interop.flax import from_flax, to_flax
from seqjax.interop.haiku import from_haiku, to_haiku
from seqjax.interop.keras import from_keras, to_keras
from seqjax.interop.keras_models import from_keras_model, to_keras_model
from seqjax.interop.nnx import from_nnx, to_nnx
from seqjax.interop.torch import from_torch, to_torch
from seqjax.interop.torch_state import from_torch_state
from seqjax.interop.torchvision import from_torch_cnn, to_torch_cnn

__all__ = [
    "from_equinox",
    "from_flax",
    "from_haiku",
    "from_keras",
    "from_keras_model",
    "from_nnx",
    "from_torch",
    "from_torch_cnn",
    "from_torch_state",
    "to_equinox",
    "to_flax",
    "to_haiku",
    "to_keras",
    "to_keras_model",
    "to_nnx",
    "to_torch",
    "to_torch_cnn",
]
