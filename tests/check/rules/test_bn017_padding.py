import torch
from torch import nn


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv1d(4, 8, 1), nn.BatchNorm1d(8), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 3))


def test_padding_that_counts_is_found_and_whole_sequences_are_not(kit):
    x = torch.randn(320, 4, 20, generator=torch.Generator().manual_seed(0)) + 2
    y = torch.zeros(320, dtype=torch.long)
    assert kit.found("BN017", net(), kit.batches(x, y)) == []
    length = torch.randint(4, 20, (320, 1), generator=torch.Generator().manual_seed(1))
    short = x * (torch.arange(20) < length)[:, None]
    report = kit.check(net(), kit.batches(short, y), select=["BN017"])
    assert [finding.layer for finding in report.findings] == ["1"]
    assert 0.3 < dict(report.findings[0].numbers)["padded share"] < 0.6


def test_images_with_dark_borders_are_no_sequences(kit):
    x, y = kit.data()
    x[..., 2:] = 0
    assert kit.found("BN017", kit.healthy(), kit.batches(x, y)) == []
