"""Small networks that the tests of surgery share."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn


def sequential(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.ConvTranspose2d(8, 6, 3, groups=2),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(24, 5),
        nn.BatchNorm1d(5),
    )


class Reused(nn.Module):
    """One batch norm behind two layers."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.a, self.b, self.norm, self.last = nn.Linear(4, 6), nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)

    def forward(self, x):
        return self.last(self.norm(self.b(self.norm(self.a(x)).relu())).relu())


def images(n, seed=1):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 3, 6, 6, generator=generator) * 3 + torch.tensor([1.0, -4.0, 20.0]).view(3, 1, 1)
    return x + torch.randn(n, 3, 1, 1, generator=generator), torch.randint(0, 5, (n,), generator=generator)


def batches(x, y, size):
    return list(zip(x.split(size), y.split(size), strict=True))


def state(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def same(model, saved):
    now = model.state_dict()
    return now.keys() == saved.keys() and all(torch.equal(now[key], value) for key, value in saved.items())


def trained_a_little(model, x, steps=5):
    """Running statistics away from their start, affine numbers away from 1 and 0."""
    generator = torch.Generator().manual_seed(2)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.weight.data.copy_(torch.rand(module.num_features, generator=generator) + 0.5)
            module.bias.data.copy_(torch.randn(module.num_features, generator=generator))
    model.train()
    with torch.no_grad():
        for _ in range(steps):
            model(x)
    return model


@pytest.fixture
def kit():
    return SimpleNamespace(
        sequential=sequential,
        Reused=Reused,
        images=images,
        batches=batches,
        state=state,
        same=same,
        trained_a_little=trained_a_little,
    )
