"""Checkpoints, verified on loading: complete, undamaged and of this run."""

from seqjax.training.checkpoints.store import Checkpoints, Restored
from seqjax.training.checkpoints.weights import read_weights

__all__ = ["Checkpoints", "Restored", "read_weights"]
