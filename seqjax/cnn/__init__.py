"""The classic convolutional networks as Flax linen modules: create("resnet50"), names(), summary(), feature_maps()."""

from seqjax.cnn.base import ImageClassifier, Outputs
from seqjax.cnn.blocks import Conv, ConvNormActivation
from seqjax.cnn.inspection import Summary, feature_maps, feature_names, summary
from seqjax.cnn.normalization import BatchNorm
from seqjax.cnn.pooling import adaptive_avg_pool, avg_pool, global_avg_pool, max_pool
from seqjax.cnn.registry import create, names, parse_options

__all__ = [
    "BatchNorm", "Conv", "ConvNormActivation", "ImageClassifier", "Outputs", "Summary", "adaptive_avg_pool", "avg_pool",
    "create", "feature_maps", "feature_names", "global_avg_pool", "max_pool", "names", "parse_options", "summary",
]  # fmt: skip
