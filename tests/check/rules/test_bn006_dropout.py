import pytest
import torch
from torch import nn


def dropped(p, *, linear):
    torch.manual_seed(0)
    middle = [nn.Linear(12, 24, bias=False)] if linear else []
    width = 24 if linear else 12
    return nn.Sequential(nn.Dropout(p), *middle, nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 2))


@pytest.mark.parametrize("linear", [False, True])
def test_the_shift_is_measured_as_the_formula_predicts(kit, linear):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1600, 12, generator=generator) + torch.arange(12) / 6
    loader = kit.batches(x, torch.zeros(1600, dtype=torch.long))
    model = kit.healthy(dropped(0.4, linear=linear), loader)
    report = kit.check(model, loader, select=["BN006"])
    assert len(report.findings) == 1
    numbers = dict(report.findings[0].numbers)
    assert numbers["variance ratio"] == pytest.approx(numbers["predicted ratio"], rel=0.05)
    assert 0.1 < numbers["variance ratio"] < 0.8


def test_dropout_behind_the_last_layer_is_fine(kit, loader):
    model = nn.Sequential(*kit.network()[:6], nn.Dropout(0.5), nn.Linear(16, 3))
    assert kit.found("BN006", kit.healthy(model), loader) == []
