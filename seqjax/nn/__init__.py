"""Flax modules. The linen ones are here; `seqjax.nn.nnx` has the recurrent layer for NNX."""

from seqjax.nn.recurrent import Recurrent

__all__ = ["Recurrent"]
