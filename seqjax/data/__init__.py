"""Text and where it comes from: corpora from three kinds of source, and the windows that truncated BPTT reads."""

from seqjax.data.sources import Corpus, load_corpus
from seqjax.data.windows import SequenceBatch, TokenStream, Windows, encode_documents

__all__ = ["Corpus", "SequenceBatch", "TokenStream", "Windows", "encode_documents", "load_corpus"]
