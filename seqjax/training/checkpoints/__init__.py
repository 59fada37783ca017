"""Checkpoints that are whole, and those of this run, or are not loaded."""

from seqjax.training.checkpoints.store import Checkpoints, Restored
from seqjax.training.checkpoints.weights import read_weights

__all__ = ["Checkpoints", "Restored", "read_weights"]
