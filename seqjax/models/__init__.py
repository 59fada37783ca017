"""Models made of cells, embeddings and a head."""

from seqjax.models.classifier import Classified, TextClassifier
from seqjax.models.language_model import LanguageModel
from seqjax.models.seq2seq import Decoded, Encoded, Seq2Seq, make_attention
from seqjax.models.stacks import CELLS, make_cell, make_stack
from seqjax.models.tagger import CharFeatures, Tagger

__all__ = [
    "CELLS", "CharFeatures", "Classified", "Decoded", "Encoded", "LanguageModel", "Seq2Seq", "Tagger", "TextClassifier",
    "make_attention", "make_cell", "make_stack",
]  # fmt: skip
