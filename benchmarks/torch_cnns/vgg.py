"""VGG in torch."""

from torch import nn


class VGG(nn.Module):
    """With torchvision's key names; depths and channels are of each stage."""

    def __init__(
        self,
        depths=(1, 1, 2, 2, 2),
        norm=False,
        num_classes=1000,
        in_channels=3,
        dropout=0.5,
        channels=(64, 128, 256, 512, 512),
        hidden=4096,
    ):
        super().__init__()
        layers, last = [], in_channels
        for depth, features in zip(depths, channels):
            for _ in range(depth):
                layers.append(nn.Conv2d(last, features, 3, padding=1))
                layers += [nn.BatchNorm2d(features)] * norm
                layers.append(nn.ReLU())
                last = features
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(7)
        self.classifier = nn.Sequential(
            nn.Linear(last * 49, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, num_classes),
        )

    def forward(self, x):
        return self.classifier(self.avgpool(self.features(x)).flatten(1))
