"""MobileNet v1 (as Keras computes it) and v2 (torchvision's key names) in plain torch."""

from torch import nn
from torch.nn import functional


class SameConv(nn.Conv2d):
    """A convolution with TensorFlow's SAME padding: an odd remainder is added at the end."""

    def forward(self, x):
        pads = []
        for size, kernel, stride in zip(x.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1]):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            pads += [total // 2, total - total // 2]
        return super().forward(functional.pad(x, pads))


class ConvNorm(nn.Module):
    """Convolution, norm, relu6, with Keras's epsilon and momentum."""

    def __init__(self, inputs, outputs, kernel, stride=1, groups=1):
        super().__init__()
        self.conv = SameConv(inputs, outputs, kernel, stride, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.01)

    def forward(self, x):
        return functional.relu6(self.bn(self.conv(x)))


class Separable(nn.Module):
    """A depthwise and a pointwise convolution."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.depthwise = ConvNorm(inputs, inputs, 3, stride, groups=inputs)
        self.pointwise = ConvNorm(inputs, outputs, 1)

    def forward(self, x):
        return self.pointwise(self.depthwise(x))


class MobileNetV1(nn.Module):
    """Howard et al. 2017, table 1."""

    def __init__(self, num_classes=1000, in_channels=3, width=1.0, dropout=1e-3):
        super().__init__()
        outputs = [64, 128, 128, 256, 256, *[512] * 6, 1024, 1024]
        strides = [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1]
        inputs = int(32 * width)
        layers = [ConvNorm(in_channels, inputs, 3, stride=2)]
        for channels, stride in zip(outputs, strides):
            layers.append(Separable(inputs, int(channels * width), stride))
            inputs = int(channels * width)
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(inputs, num_classes))

    def forward(self, x):
        return self.classifier(self.features(x).mean(dim=(2, 3)))


def conv_bn_relu6(inputs, outputs, kernel=3, stride=1, groups=1):
    """Convolution, norm, relu6, with torch's epsilon, momentum and padding."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU6())


class InvertedResidual(nn.Module):
    """1x1 to more channels, depthwise 3x3, 1x1 to few channels."""

    def __init__(self, inputs, outputs, stride, expansion):
        super().__init__()
        hidden = inputs * expansion
        layers = [conv_bn_relu6(inputs, hidden, kernel=1)] if expansion > 1 else []
        layers.append(conv_bn_relu6(hidden, hidden, stride=stride, groups=hidden))
        layers += [nn.Conv2d(hidden, outputs, 1, bias=False), nn.BatchNorm2d(outputs)]
        self.conv = nn.Sequential(*layers)
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x):
        return x + self.conv(x) if self.adds else self.conv(x)


def multiple_of_8(channels):
    """The nearest multiple of 8, the next above it if that loses more than a tenth."""
    nearest = max(8, 8 * int((channels + 4) // 8))
    return nearest + 8 if nearest < 0.9 * channels else nearest


class MobileNetV2(nn.Module):
    """Sandler et al. 2018, table 2."""

    def __init__(self, num_classes=1000, in_channels=3, width_mult=1.0, dropout=0.2):
        super().__init__()
        expansions, channels = [1, 6, 6, 6, 6, 6, 6], [16, 24, 32, 64, 96, 160, 320]
        depths, strides = [1, 2, 3, 4, 3, 3, 1], [1, 2, 2, 2, 1, 2, 1]
        inputs = multiple_of_8(32 * width_mult)
        layers = [conv_bn_relu6(in_channels, inputs, stride=2)]
        for expansion, width, depth, stride in zip(expansions, channels, depths, strides):
            outputs = multiple_of_8(width * width_mult)
            for i in range(depth):
                layers.append(InvertedResidual(inputs, outputs, stride if i == 0 else 1, expansion))
                inputs = outputs
        last = multiple_of_8(1280 * max(1.0, width_mult))
        layers.append(conv_bn_relu6(inputs, last, kernel=1))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(last, num_classes))

    def forward(self, x):
        return self.classifier(self.features(x).mean(dim=(2, 3)))


MODELS = {"mobilenet_v1": MobileNetV1, "mobilenet_v2": MobileNetV2}
