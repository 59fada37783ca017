"""Residual networks in plain torch, with torchvision's key names: those for ImageNet and those for CIFAR-10."""

import functools

import torch
from torch import nn
from torch.nn import functional


def conv3x3(inputs, outputs, stride=1):
    """A 3x3 convolution that keeps the size at stride 1."""
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)


def conv1x1(inputs, outputs, stride=1):
    """A 1x1 convolution."""
    return nn.Conv2d(inputs, outputs, 1, stride, bias=False)


class PadShortcut(nn.Module):
    """Option A: every stride-th pixel, and zeros for the new channels."""

    def __init__(self, new, stride):
        super().__init__()
        self.new, self.stride = new, stride

    def forward(self, x):
        x = x[:, :, :: self.stride, :: self.stride]
        return torch.cat([x, x.new_zeros(x.shape[0], self.new, *x.shape[2:])], dim=1)


def make_downsample(inputs, outputs, stride, shortcut, preactivation):
    """The shortcut if shapes change, else None."""
    if stride == 1 and inputs == outputs:
        return None
    if shortcut == "A":
        return PadShortcut(outputs - inputs, stride)
    if preactivation:
        return conv1x1(inputs, outputs, stride)
    return nn.Sequential(conv1x1(inputs, outputs, stride), nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut."""

    expansion = 1

    def __init__(self, inputs, planes, stride=1, shortcut="B", preactivation=False):
        super().__init__()
        self.conv1 = conv3x3(inputs, planes, stride)
        self.bn1 = nn.BatchNorm2d(inputs if preactivation else planes)
        self.conv2 = conv3x3(planes, planes)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = make_downsample(inputs, planes, stride, shortcut, preactivation)
        self.preactivation, self.pads = preactivation, shortcut == "A"

    def forward(self, x):
        if self.preactivation:
            entry = functional.relu(self.bn1(x))
            out = self.conv2(functional.relu(self.bn2(self.conv1(entry))))
            return out + shortcut_of(self, x, entry)
        out = functional.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return functional.relu(out + shortcut_of(self, x, x))


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride) and 1x1 convolutions around a shortcut."""

    expansion = 4

    def __init__(self, inputs, planes, stride=1, shortcut="B", preactivation=False):
        super().__init__()
        self.conv1 = conv1x1(inputs, planes)
        self.bn1 = nn.BatchNorm2d(inputs if preactivation else planes)
        self.conv2 = conv3x3(planes, planes, stride)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = conv1x1(planes, 4 * planes)
        self.bn3 = nn.BatchNorm2d(planes if preactivation else 4 * planes)
        self.downsample = make_downsample(inputs, 4 * planes, stride, shortcut, preactivation)
        self.preactivation, self.pads = preactivation, shortcut == "A"

    def forward(self, x):
        if self.preactivation:
            entry = functional.relu(self.bn1(x))
            out = self.conv2(functional.relu(self.bn2(self.conv1(entry))))
            out = self.conv3(functional.relu(self.bn3(out)))
            return out + shortcut_of(self, x, entry)
        out = functional.relu(self.bn1(self.conv1(x)))
        out = functional.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return functional.relu(out + shortcut_of(self, x, x))


def shortcut_of(block, x, entry):
    """The identity, zeros beside x itself, or the projection of what enters the branch."""
    if block.downsample is None:
        return x
    return block.downsample(x if block.pads else entry)


class ResNet(nn.Module):
    """Stem, stages, mean, linear layer."""

    def __init__(
        self,
        block,
        layers,
        num_classes=1000,
        in_channels=3,
        width=64,
        stem="imagenet",
        shortcut="B",
        preactivation=False,
    ):
        super().__init__()
        if stem == "imagenet":
            self.conv1 = nn.Conv2d(in_channels, width, 7, stride=2, padding=3, bias=False)
            self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        else:
            self.conv1 = conv3x3(in_channels, width)
            self.maxpool = nn.Identity()
        self.preactivation = preactivation
        if not preactivation:
            self.bn1 = nn.BatchNorm2d(width)
        inputs = width
        self.depth = len(layers)
        for number, blocks in enumerate(layers, start=1):
            planes = width * 2 ** (number - 1)
            stage = []
            for i in range(blocks):
                stride = 2 if number > 1 and i == 0 else 1
                stage.append(block(inputs, planes, stride, shortcut, preactivation))
                inputs = planes * block.expansion
            setattr(self, f"layer{number}", nn.Sequential(*stage))
        if preactivation:
            self.bn_last = nn.BatchNorm2d(inputs)
        self.fc = nn.Linear(inputs, num_classes)

    def forward(self, x):
        x = self.conv1(x)
        if not self.preactivation:
            x = functional.relu(self.bn1(x))
        x = self.maxpool(x)
        for number in range(1, self.depth + 1):
            x = getattr(self, f"layer{number}")(x)
        if self.preactivation:
            x = functional.relu(self.bn_last(x))
        return self.fc(x.mean(dim=(2, 3)))


cifar = functools.partial(ResNet, BasicBlock, num_classes=10, width=16, stem="small", shortcut="A")

MODELS = {
    "resnet18": functools.partial(ResNet, BasicBlock, (2, 2, 2, 2)),
    "resnet34": functools.partial(ResNet, BasicBlock, (3, 4, 6, 3)),
    "resnet50": functools.partial(ResNet, Bottleneck, (3, 4, 6, 3)),
    "resnet101": functools.partial(ResNet, Bottleneck, (3, 4, 23, 3)),
    "resnet152": functools.partial(ResNet, Bottleneck, (3, 8, 36, 3)),
    **{f"resnet{6 * n + 2}_cifar": functools.partial(cifar, (n, n, n)) for n in (3, 5, 7, 9, 18)},
}
