"""Checkpoints that are whole or are not loaded."""

from seqjax.training.checkpoints.store import Checkpoints, Restored

__all__ = ["Checkpoints", "Restored"]
