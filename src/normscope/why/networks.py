"""The networks that come with the package: small enough for a laptop, deep enough for the claims."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import nn

from normscope.surgery.remove import he_initialize


def mlp(*widths: int) -> nn.Sequential:
    """Linear, batch norm, ReLU for each hidden width, then a linear layer; widths[0] inputs, widths[-1] classes."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(widths[:-1]):
        layers += [nn.Linear(fan_in, fan_out), nn.BatchNorm1d(fan_out), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))


def conv(*channels: int, classes: int = 10) -> nn.Sequential:
    """3x3 convolution, batch norm, ReLU for each channel count, halved twice in space, pooled, then a linear layer."""
    layers: list[nn.Module] = []
    for at, (fan_in, fan_out) in enumerate(itertools.pairwise(channels)):
        layers += [
            nn.Conv2d(fan_in, fan_out, 3, padding=1, stride=2 if at in (1, 3) else 1),
            nn.BatchNorm2d(fan_out),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels[-1], classes))


# Name -> (what it is, how it is made).
EMBEDDED: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    "mlp6": ("a fully connected ReLU network, 64-64-64-64-64-64-64-10", lambda: mlp(64, *[64] * 6, 10)),
    "mlp2": ("a fully connected ReLU network, 64-128-128-10", lambda: mlp(64, 128, 128, 10)),
    "conv": ("a convolutional ReLU network, 16-16-32-32 channels", lambda: conv(3, 16, 16, 32, 32)),
}


def embedded(name: str, seed: int) -> nn.Module:
    """A fresh embedded network, initialized by He's law under `seed`."""
    torch.manual_seed(seed)
    model = EMBEDDED[name][1]()
    he_initialize(model, torch.Generator().manual_seed(seed))
    return model
