import math

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from normscope.check.rules.bn002_few_values import inflation


def test_inflation_agrees_with_the_exact_figures():
    assert inflation(4) == pytest.approx(1.596, abs=1e-3)
    assert inflation(16) == pytest.approx(1.089, abs=1e-3)
    assert inflation(2) == math.inf


def test_inflation_agrees_with_draws():
    x = torch.randn(200_000, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert inflation(12) == pytest.approx(float((1 / x.std(1, correction=0)).mean()), rel=5e-3)


def test_small_batches_are_found(kit):
    x, y = kit.data(256)
    assert kit.found("BN002", kit.healthy(), kit.batches(x, y, 4)) == ["1", "5"]


def test_the_last_batch_of_an_epoch_is_known_from_the_loader(kit):
    x, y = kit.data(641)
    dataset = TensorDataset(x, y)
    report = kit.check(kit.healthy(), DataLoader(dataset, batch_size=32), select=["BN002"])
    assert "Expected more than 1 value per channel when training" in report.findings[-1].message
    assert kit.found("BN002", kit.healthy(), DataLoader(dataset, batch_size=32, drop_last=True)) == []
