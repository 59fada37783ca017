"""Loaders for every kind of data, from several kinds of source, and pipelines that turn it into batches.

Text for truncated BPTT, images, texts with labels, tagged sentences, translations; windows, buckets, shuffled batches.
"""

from seqjax.data.corpus import load_corpus
from seqjax.data.images import ArrayImages, FileImages, Images, load_images, read_image
from seqjax.data.labelled import load_labelled
from seqjax.data.parallel import load_parallel
from seqjax.data.pipeline.buckets import BucketBatches, choose_boundaries, one_pass
from seqjax.data.pipeline.shuffled import ImageBatch, ImageBatches, ordered_batches
from seqjax.data.pipeline.streams import TokenStream, encode_corpus, encode_documents
from seqjax.data.pipeline.windows import SequenceBatch, Windows
from seqjax.data.readers.tables import Format, read_inputs, read_table
from seqjax.data.records import Dataset, Places, Records
from seqjax.data.series import load_series, read_more_series
from seqjax.data.tagged import load_tagged

__all__ = [
    "ArrayImages", "BucketBatches", "Dataset", "FileImages", "Format", "ImageBatch", "ImageBatches", "Images", "Places",
    "Records", "SequenceBatch", "TokenStream", "Windows", "choose_boundaries", "encode_corpus", "encode_documents",
    "load_corpus", "load_images", "load_labelled", "load_parallel", "load_series", "load_tagged", "one_pass", "ordered_batches",
    "read_image", "read_inputs", "read_more_series", "read_table",
]  # fmt: skip
