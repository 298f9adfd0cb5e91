from __future__ import annotations

import os

import pytest
import torch
from torch import nn


class TimmLike(nn.BatchNorm2d):
    """Batch norm with dropout and activation built in, as timm's BatchNormAct2d: calls the functional itself."""

    def __init__(self, channels):
        super().__init__(channels)
        self.drop = nn.Identity()
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        x = nn.functional.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training, 0.1, self.eps
        )
        return self.act(self.drop(x))


class Foreign(nn.Module):
    """A batch norm that does not derive from torch's."""

    def __init__(self, channels):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.eps = 1e-3

    def forward(self, x):
        return nn.functional.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training, eps=self.eps
        )


class Frozen(nn.Module):
    """As torchvision's and detectron2's FrozenBatchNorm2d: all four numbers are buffers."""

    def __init__(self, channels):
        super().__init__()
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x):
        scale = self.weight * (self.running_var + 1e-5).rsqrt()
        return x * scale[:, None, None] + (self.bias - self.running_mean * scale)[:, None, None]


class Functional(nn.Module):
    """Normalizes in its forward: no module to hook."""

    def __init__(self, channels):
        super().__init__()
        self.inner = nn.BatchNorm2d(channels)

    def forward(self, x):
        return nn.functional.batch_norm(self.inner(x), None, None, training=True)


def small_net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3), nn.Conv2d(4, 3, 3), TimmLike(3)
    )


@pytest.fixture
def kinds():
    return {"timm": TimmLike, "foreign": Foreign, "frozen": Frozen, "functional": Functional}


@pytest.fixture
def net():
    return small_net()


@pytest.fixture
def images():
    return torch.randn(6, 2, 7, 5, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def gloo(tmp_path):
    """A process group of one process."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()
