"""Data and where it comes from, each kind from three kinds of source, and how it becomes batches.

Text for truncated BPTT, images, texts with labels, tagged sentences, translations; windows, buckets, shuffled batches.
"""

from seqjax.data.images import ArrayImages, FileImages, Images, load_images, read_image
from seqjax.data.labelled import LabelledSet, LabelledTexts, load_labelled
from seqjax.data.parallel import Pairs, ParallelSet, load_parallel
from seqjax.data.pipeline.buckets import BucketBatches, choose_boundaries, one_pass
from seqjax.data.pipeline.shuffled import ImageBatch, ImageBatches, ordered_batches
from seqjax.data.pipeline.windows import SequenceBatch, TokenStream, Windows, encode_corpus, encode_documents
from seqjax.data.tables import read_inputs
from seqjax.data.tagged import load_tagged
from seqjax.data.texts import Corpus, load_corpus

__all__ = [
    "ArrayImages", "BucketBatches", "Corpus", "FileImages", "ImageBatch", "ImageBatches", "Images", "LabelledSet",
    "LabelledTexts", "Pairs", "ParallelSet", "SequenceBatch", "TokenStream", "Windows",
    "choose_boundaries", "encode_corpus", "encode_documents", "load_corpus", "load_images", "load_labelled", "load_parallel", "load_tagged",
    "one_pass", "ordered_batches", "read_image", "read_inputs",
]  # fmt: skip
