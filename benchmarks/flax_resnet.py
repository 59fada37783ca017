"""ResNet-18 in plain flax.linen, built as Flax's own ImageNet example builds its ResNets: the other side of benchmarks.cnn_training."""

import functools

from flax import linen as nn


class Block(nn.Module):
    """Two 3 x 3 convolutions and the shortcut around them."""

    features: int
    strides: int

    @nn.compact
    def __call__(self, x, train):
        conv = functools.partial(nn.Conv, use_bias=False)
        norm = functools.partial(nn.BatchNorm, use_running_average=not train, momentum=0.9, epsilon=1e-5)
        y = nn.relu(norm()(conv(self.features, (3, 3), self.strides)(x)))
        y = norm(scale_init=nn.initializers.zeros)(conv(self.features, (3, 3))(y))
        if x.shape != y.shape:
            x = norm()(conv(self.features, (1, 1), self.strides)(x))
        return nn.relu(x + y)


class ResNet18(nn.Module):
    """The network of He et al. 2015 with flax's own layers."""

    num_classes: int

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(64, (7, 7), 2, padding=[(3, 3), (3, 3)], use_bias=False)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5)(x))
        x = nn.max_pool(x, (3, 3), strides=(2, 2), padding="SAME")
        for stage, features in enumerate((64, 128, 256, 512)):
            for block in range(2):
                x = Block(features, 2 if stage and not block else 1)(x, train)
        return nn.Dense(self.num_classes)(x.mean(axis=(1, 2)))
