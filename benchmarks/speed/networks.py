"""Three networks whose batch norm is fused by `normscope.fuse`, against the same networks as they were: whole steps."""

from __future__ import annotations

import copy
import itertools
import time
from typing import Any

import torch
from speed import pairs
from torch import Tensor, nn

import normscope


class Residual(nn.Module):
    """ResNet's basic block."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after)
        self.conv2, self.bn2 = nn.Conv2d(after, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after)
        self.relu = nn.ReLU()
        same = before == after and stride == 1
        project = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))
        self.shortcut = nn.Identity() if same else project

    def forward(self, x: Tensor) -> Tensor:
        """relu(f(x) + x)."""
        h = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(h + self.shortcut(x))


class Inverted(nn.Module):
    """MobileNetV2's block."""

    def __init__(self, before: int, after: int, stride: int, wider: int) -> None:
        super().__init__()
        inside, self.adds = before * wider, stride == 1 and before == after
        self.body = nn.Sequential(
            nn.Conv2d(before, inside, 1, bias=False),
            nn.BatchNorm2d(inside),
            nn.ReLU6(),
            nn.Conv2d(inside, inside, 3, stride, 1, groups=inside, bias=False),
            nn.BatchNorm2d(inside),
            nn.ReLU6(),
            nn.Conv2d(inside, after, 1, bias=False),
            nn.BatchNorm2d(after),
        )

    def forward(self, x: Tensor) -> Tensor:
        """f(x), plus x where the shapes agree."""
        return x + self.body(x) if self.adds else self.body(x)


class Dense(nn.Module):
    """DenseNet's layer: what it computes is appended to its input."""

    def __init__(self, before: int, growth: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(before), nn.ReLU(), nn.Conv2d(before, 4 * growth, 1, bias=False),
            nn.BatchNorm2d(4 * growth), nn.ReLU(), nn.Conv2d(4 * growth, growth, 3, 1, 1, bias=False),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """[x, f(x)]."""
        return torch.cat([x, self.body(x)], 1)


def _stem(channels: int, activation: nn.Module) -> list[nn.Module]:
    return [nn.Conv2d(3, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels), activation]


def _head(channels: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10)]


def resnet18() -> nn.Module:
    """For images of 32 x 32."""
    widths = [64, 64, 64, 128, 128, 256, 256, 512, 512]
    blocks = [Residual(a, b, 1 if a == b else 2) for a, b in itertools.pairwise(widths)]
    return nn.Sequential(*_stem(64, nn.ReLU()), *blocks, *_head(512))


def mobilenet_v2() -> nn.Module:
    """For images of 32 x 32: strides of 1 in the first stages."""
    plan = [(1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    blocks, before = [], 32
    for wider, after, repeats, stride in plan:
        for at in range(repeats):
            blocks.append(Inverted(before, after, stride if at == 0 else 1, wider))
            before = after
    return nn.Sequential(*_stem(32, nn.ReLU6()), *blocks, *_head(before))


def densenet() -> nn.Module:
    """Three blocks of six layers, growth 12, halved between them."""
    parts, width = _stem(24, nn.ReLU()), 24
    for block in range(3):
        if block:
            parts += [nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width // 2, 1, bias=False), nn.AvgPool2d(2)]
            width //= 2
        parts += [Dense(width + 12 * at, 12) for at in range(6)]
        width += 72
    return nn.Sequential(*parts, nn.BatchNorm2d(width), nn.ReLU(), *_head(width))


NETWORKS = {"ResNet-18": resnet18, "MobileNetV2": mobilenet_v2, "DenseNet": densenet}


def step(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Seconds of a forward, a loss and a backward."""
    start = time.perf_counter()
    nn.functional.cross_entropy(model(x), y).backward()
    return time.perf_counter() - start


def network(name: str, layout: str, repeats: int) -> dict[str, Any]:
    """The plain network's step as a multiple of the fused one's; `fuse` itself verifies outputs and gradients."""
    torch.manual_seed(0)
    form = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    plain = NETWORKS[name]().to(memory_format=form)
    x = torch.randn(32, 3, 32, 32).contiguous(memory_format=form)
    y = torch.randint(10, (32,))
    fused = normscope.fuse(copy.deepcopy(plain), x[:4])
    found = pairs.ratios(lambda: step(plain, x, y), lambda: step(fused.model, x, y), 2 * repeats)
    return {**found, "fused layers": len(fused.fused), "left": len(fused.left)}
