"""The architectures of the benchmark, small enough to train in seconds; all but the sequence take 1x8x8 images."""

import torch
from torch import nn


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(64, 48, bias=False),
            nn.BatchNorm1d(48),
            nn.ReLU(),
            nn.Linear(48, 48, bias=False),
            nn.BatchNorm1d(48),
            nn.ReLU(),
            nn.Linear(48, 48, bias=False),
            nn.BatchNorm1d(48),
            nn.ReLU(),
            nn.Linear(48, 10),
        )

    def forward(self, x):
        return self.layers(x)


def unit(fan_in, fan_out, stride=1, groups=1):
    conv = nn.Conv2d(fan_in, fan_out, 3, stride, 1, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(fan_out), nn.ReLU())


class Conv(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(unit(1, 12), unit(12, 16, 2), unit(16, 24, 2))
        self.head = nn.Linear(24 * 4, 10)

    def forward(self, x):
        return self.head(self.features(x).flatten(1))


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.a = unit(width, width)
        self.conv, self.norm = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x):
        return (self.norm(self.conv(self.a(x))) + x).relu()


class ResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.one, self.down, self.two = unit(1, 12), Block(12), unit(12, 20, 2), Block(20)
        self.head = nn.Linear(20, 10)

    def forward(self, x):
        return self.head(self.two(self.down(self.one(self.stem(x)))).mean((2, 3)))


class Depthwise(nn.Module):
    def __init__(self):
        super().__init__()
        point = nn.Sequential(nn.Conv2d(16, 32, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU())
        again = nn.Sequential(nn.Conv2d(32, 32, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU())
        self.features = nn.Sequential(unit(1, 16), unit(16, 16, 1, 16), point, unit(32, 32, 2, 32), again)
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        return self.head(self.features(x).mean((2, 3)))


class Dense(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(8 + 8 * at) for at in range(4))
        self.convs = nn.ModuleList(nn.Conv2d(8 + 8 * at, 8, 3, padding=1, bias=False) for at in range(4))
        self.last, self.head = nn.BatchNorm2d(40), nn.Linear(40 * 4, 10)

    def forward(self, x):
        x = self.stem(x)
        for norm, conv in zip(self.norms, self.convs, strict=True):
            x = torch.cat([x, conv(norm(x).relu())], 1)
        return self.head(nn.functional.avg_pool2d(self.last(x).relu(), 4).flatten(1))


class Sequence(nn.Module):
    """Digits as sequences: 8 channels, one image row after another as time, padded to any length."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv1d(8, 24, 3, padding=1, bias=False),
            nn.BatchNorm1d(24),
            nn.ReLU(),
            nn.Conv1d(24, 24, 3, padding=1, bias=False),
            nn.BatchNorm1d(24),
            nn.ReLU(),
        )
        self.head = nn.Linear(24 * 8, 10)

    def forward(self, x):
        return self.head(nn.functional.adaptive_max_pool1d(self.features(x), 8).flatten(1))


class Recurrent(nn.Module):
    """One batch norm at every time step of a recurrence."""

    def __init__(self, steps=4, growth=1.0):
        super().__init__()
        self.steps, self.growth = steps, growth
        self.enter, self.again = nn.Linear(64, 32), nn.Linear(32, 32)
        self.norm, self.head = nn.BatchNorm1d(32), nn.Linear(32, 10)

    def forward(self, x):
        h = self.norm(self.enter(x.flatten(1))).relu()
        for at in range(self.steps - 1):
            h = self.norm(self.growth ** (at + 1) * (self.again(h) + h)).relu()
        return self.head(h)


TUNED = {"mlp": Mlp, "conv": Conv, "resnet": ResNet}
ASIDE = {"depthwise": Depthwise, "dense": Dense}
ALL = {**TUNED, **ASIDE}
