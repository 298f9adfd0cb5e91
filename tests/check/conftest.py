"""A small healthy network and its data, and a short way to run one rule."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from normscope.check.run import check
from normscope.surgery.recalibrate import recalibrate


def data(n=640, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 3, 4, 4, generator=generator) + torch.randn(n, 3, 1, 1, generator=generator)
    return x, (x.mean((1, 2, 3)) > 0).long() + (x[:, 0].mean((1, 2)) > 0).long()


def batches(x, y, size=32):
    return list(zip(x.split(size), y.split(size), strict=True))


def network(seed=0, *, bias=False):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=bias),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(128, 16, bias=False),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.Linear(16, 3),
    )


def healthy(model=None, loader=None):
    """`model` with population statistics and affine numbers that look trained."""
    model = model or network()
    generator = torch.Generator().manual_seed(5)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine:
            module.weight.data.copy_(torch.rand(module.num_features, generator=generator) + 0.5)
            module.bias.data.copy_(0.1 * torch.randn(module.num_features, generator=generator))
    done = recalibrate(model, loader or batches(*data()), tolerance=1e-9).model
    for module in done.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.num_batches_tracked.fill_(100)
    return done


def found(code, model, loader=None, **options):
    """Layers that the rule complains about."""
    report = check(model, loader, select=[code], **options)
    assert report.ran == (code,), report.skipped
    return [finding.layer for finding in report.findings]


def stepping(model, forward=None, every=1):
    """Optimizer and step of a loop; `forward(x)` returns the output."""
    x, y = data(64)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    calls = [0]

    def step():
        model.train()
        calls[0] += 1
        at = 32 * (calls[0] % 2)
        nn.functional.cross_entropy((forward or model)(x[at : at + 32]), y[at : at + 32]).backward()
        if calls[0] % every == 0:
            optimizer.step()
            optimizer.zero_grad()

    return {"optimizer": optimizer, "step": step}


@contextmanager
def every_forward(counted):
    """Counts into `counted[0]` the forwards of every Sequential, copies included."""
    forward = nn.Sequential.forward

    def counting(self, x):
        counted[0] += 1
        return forward(self, x)

    nn.Sequential.forward = counting
    try:
        yield
    finally:
        nn.Sequential.forward = forward


@pytest.fixture
def kit():
    return SimpleNamespace(
        data=data,
        batches=batches,
        network=network,
        healthy=healthy,
        found=found,
        stepping=stepping,
        check=check,
        every_forward=every_forward,
    )


@pytest.fixture
def loader():
    return batches(*data())
