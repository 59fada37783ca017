"""Data and where it comes from, each kind from three kinds of source, and how it becomes batches.

Text for truncated BPTT, images, texts with labels, tagged sentences, translations; windows, buckets, shuffled batches.
"""

from seqjax.data.corpus import load_corpus
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
from seqjax.data.labelled import LabelledSet, LabelledTexts, load_labelled
from seqjax.data.parallel import Pairs, ParallelSet, load_parallel
from seqjax.data.pipeline.buckets import BucketBatches, choose_boundaries, one_pass
from seqjax.data.pipeline.streams import TokenStream, encode_corpus, encode_documents
from seqjax.data.pipeline.windows import SequenceBatch, Windows
from seqjax.data.tables import read_inputs
from seqjax.data.tagged import TaggedSentences, TaggedSet, load_tagged

__all__ = [
    "ArrayImages", "BucketBatches", "FileImages", "ImageBatch", "ImageBatches", "ImageSet", "Images", "LabelledSet",
    "LabelledTexts", "Pairs", "ParallelSet", "SequenceBatch", "TaggedSentences", "TaggedSet", "TokenStream", "Windows",
    "choose_boundaries", "encode_corpus", "encode_documents", "load_corpus", "load_images", "load_labelled", "load_parallel", "load_tagged",
    "one_pass", "ordered_batches", "read_image", "read_inputs",
]  # fmt: skip
