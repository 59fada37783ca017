"""GoogLeNet in torch, with torchvision's key names."""

import torch
from torch import nn


class ConvNorm(nn.Sequential):
    """Convolution without bias, batch norm with epsilon 0.001, relu; keys conv and bn."""

    def __init__(self, channels, features, kernel, **options):
        super().__init__()
        self.add_module("conv", nn.Conv2d(channels, features, kernel, bias=False, **options))
        self.add_module("bn", nn.BatchNorm2d(features, eps=0.001))
        self.add_module("relu", nn.ReLU())


class Branches(nn.Module):
    """1x1; 1x1 and 3x3; 1x1 and the "5x5"; pool and 1x1."""

    def __init__(self, channels, one, reduce3, three, reduce5, five, pool, kernel5=3):
        super().__init__()
        self.branch1 = ConvNorm(channels, one, 1)
        self.branch2 = nn.Sequential(ConvNorm(channels, reduce3, 1), ConvNorm(reduce3, three, 3, padding=1))
        self.branch3 = nn.Sequential(ConvNorm(channels, reduce5, 1), ConvNorm(reduce5, five, kernel5, padding=kernel5 // 2))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, padding=1, ceil_mode=True), ConvNorm(channels, pool, 1))

    def forward(self, x):
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], dim=1)


class Aux(nn.Module):
    """An auxiliary head."""

    def __init__(self, channels, num_classes, dropout):
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(4)
        self.conv = ConvNorm(channels, 128, 1)
        self.fc1 = nn.Linear(2048, 1024)
        self.dropout = nn.Dropout(dropout)
        self.fc2 = nn.Linear(1024, num_classes)

    def forward(self, x):
        x = self.conv(self.pool(x)).flatten(1)
        return self.fc2(self.dropout(torch.relu(self.fc1(x))))


class GoogLeNet(nn.Module):
    """Gives logits in evaluation; in training with heads (logits, (aux1, aux2))."""

    def __init__(self, num_classes=1000, in_channels=3, aux_logits=True, kernel_5x5=False, dropout=0.2, aux_dropout=0.7):
        super().__init__()
        kernel5 = 5 if kernel_5x5 else 3
        self.aux_logits = aux_logits
        self.conv1 = ConvNorm(in_channels, 64, 7, stride=2, padding=3)
        self.conv2 = ConvNorm(64, 64, 1)
        self.conv3 = ConvNorm(64, 192, 3, padding=1)
        self.halve = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.inception3a = Branches(192, 64, 96, 128, 16, 32, 32, kernel5)
        self.inception3b = Branches(256, 128, 128, 192, 32, 96, 64, kernel5)
        self.inception4a = Branches(480, 192, 96, 208, 16, 48, 64, kernel5)
        self.inception4b = Branches(512, 160, 112, 224, 24, 64, 64, kernel5)
        self.inception4c = Branches(512, 128, 128, 256, 24, 64, 64, kernel5)
        self.inception4d = Branches(512, 112, 144, 288, 32, 64, 64, kernel5)
        self.inception4e = Branches(528, 256, 160, 320, 32, 128, 128, kernel5)
        self.last_halve = nn.MaxPool2d(2, 2, ceil_mode=True)
        self.inception5a = Branches(832, 256, 160, 320, 32, 128, 128, kernel5)
        self.inception5b = Branches(832, 384, 192, 384, 48, 128, 128, kernel5)
        if aux_logits:
            self.aux1 = Aux(512, num_classes, aux_dropout)
            self.aux2 = Aux(528, num_classes, aux_dropout)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(1024, num_classes)

    def forward(self, x):
        heads = self.training and self.aux_logits
        x = self.halve(self.conv1(x))
        x = self.halve(self.conv3(self.conv2(x)))
        x = self.halve(self.inception3b(self.inception3a(x)))
        x = self.inception4a(x)
        aux1 = self.aux1(x) if heads else None
        x = self.inception4d(self.inception4c(self.inception4b(x)))
        aux2 = self.aux2(x) if heads else None
        x = self.last_halve(self.inception4e(x))
        x = self.inception5b(self.inception5a(x))
        logits = self.fc(self.dropout(x.mean((2, 3))))
        return (logits, (aux1, aux2)) if heads else logits
