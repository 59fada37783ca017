"""Data and where it comes from: text for truncated BPTT, and images to classify, each from three kinds of source."""

from seqjax.data.images import (
    ArrayImages,
    FileImages,
    ImageBatch,
    ImageBatches,
    Images,
    ImageSet,
    load_images,
    ordered_batches,
    read_image,
)
from seqjax.data.sources import Corpus, load_corpus
from seqjax.data.windows import SequenceBatch, TokenStream, Windows, encode_documents

__all__ = [
    "ArrayImages", "Corpus", "FileImages", "ImageBatch", "ImageBatches", "ImageSet", "Images", "SequenceBatch",
    "TokenStream", "Windows", "encode_documents", "load_corpus", "load_images", "ordered_batches", "read_image",
]  # fmt: skip
