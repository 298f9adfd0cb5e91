import math

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from normscope.check.small import Examples, independent, inflation


def test_inflation_agrees_with_the_exact_figures():
    assert inflation(4) == pytest.approx(1.596, abs=1e-3)
    assert inflation(16) == pytest.approx(1.089, abs=1e-3)
    assert inflation(2) == math.inf


def test_inflation_agrees_with_draws():
    x = torch.randn(200_000, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert inflation(12) == pytest.approx(float((1 / x.std(1, correction=0)).mean()), rel=5e-3)


def test_small_batches_are_found(kit):
    x, y = kit.data(256)
    assert kit.found("BN002", kit.healthy(), kit.batches(x, y, 4)) == ["5"]
    assert kit.found("BN002", kit.healthy(), kit.batches(x, y, 2)) == ["1", "5"]


def test_the_last_batch_of_an_epoch_is_known_from_the_loader(kit):
    x, y = kit.data(641)
    dataset = TensorDataset(x, y)
    report = kit.check(kit.healthy(), DataLoader(dataset, batch_size=32), select=["BN002"])
    assert "Expected more than 1 value per channel when training" in report.findings[-1].message
    assert kit.found("BN002", kit.healthy(), DataLoader(dataset, batch_size=32, drop_last=True)) == []


def test_independent_is_the_inverse_of_inflation():
    assert independent(inflation(7.5)) == pytest.approx(7.5)
    assert independent(1.1) == pytest.approx(14.4, abs=0.5)


def test_the_scale_of_drawn_batches_is_the_formula_s_for_normal_values():
    x = torch.randn(4096, 6, generator=torch.Generator().manual_seed(1))
    assert Examples.of(x).scale(12, 0.0) == pytest.approx(inflation(12), rel=0.02)
    assert Examples.of(x).scale(4096, 0.0) is None


def test_the_scale_counts_images_of_unequal_contrast():
    """Zero-mean images whose contrast varies: means say 64 values each, the deviation of one image varies far more."""
    generator = torch.Generator().manual_seed(2)
    contrast = torch.rand(2048, 1, 1, 1, generator=generator) + 0.1
    x = contrast * torch.randn(2048, 3, 8, 8, generator=generator)
    assert Examples.of(x).scale(1, 0.0) > 1.3
    sigma = x.double().square().mean((0, 2, 3)).sqrt()
    assert Examples.of(x).scale(1, 0.0) == pytest.approx(
        float((sigma / x.double().flatten(2).std(2, correction=0)).mean()), rel=1e-3
    )


def test_positions_folded_into_the_batch_count(kit):
    class Folded(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = kit.healthy()

        def forward(self, x):
            return self.net(x.flatten(0, 1)).view(len(x), 8, -1).mean(1)

    x, y = kit.data(2048)
    loader = kit.batches(x.view(256, 8, 3, 4, 4), y[:256], 4)
    assert kit.found("BN002", Folded(), loader) == []
    plain = kit.check(kit.healthy(), [(x, y)] * 4, select=["BN002"], forward_fn=lambda net, batch: net(batch[0]))
    assert plain.findings == ()
