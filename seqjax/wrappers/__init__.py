"""Wrappers: cell -> cell."""

from seqjax.wrappers.dropout import dropout
from seqjax.wrappers.residual import residual
from seqjax.wrappers.stack import stack

__all__ = ["dropout", "residual", "stack"]
