"""The classic convolutional networks as Flax linen modules: create("resnet50"), names(), summary(), feature_maps()."""

from seqjax.cnn.base import ImageClassifier, Outputs
from seqjax.cnn.blocks import Conv, ConvNormActivation
from seqjax.cnn.convolution import convolve
from seqjax.cnn.depthwise import DepthwiseSeparable, InvertedResidual
from seqjax.cnn.features import Features
from seqjax.cnn.inception_blocks import InceptionBranches
from seqjax.cnn.inspection import Summary, feature_maps, feature_names, first_kernel, summary
from seqjax.cnn.normalization import BatchNorm
from seqjax.cnn.pooling import adaptive_avg_pool, avg_pool, global_avg_pool, max_pool
from seqjax.cnn.registry import create, create_for, names, parse_options
from seqjax.cnn.resnet import BasicBlock, Bottleneck
from seqjax.cnn.tcn import TCN, TemporalBlock, TemporalConvNet
from seqjax.cnn.text_cnn import TextCNN

__all__ = [
    "BasicBlock", "BatchNorm", "Bottleneck", "Conv", "ConvNormActivation", "DepthwiseSeparable", "Features",
    "ImageClassifier", "InceptionBranches", "InvertedResidual", "Outputs", "Summary", "TCN", "TemporalBlock",
    "TemporalConvNet", "TextCNN", "adaptive_avg_pool", "avg_pool", "convolve", "create", "create_for", "feature_maps",
    "feature_names", "first_kernel", "global_avg_pool", "max_pool", "names", "parse_options", "summary",
]  # fmt: skip
