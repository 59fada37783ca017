"""Flax modules made of seqjax cells."""

from seqjax.models.language_model import CELLS, LanguageModel, make_stack

__all__ = ["CELLS", "LanguageModel", "make_stack"]
