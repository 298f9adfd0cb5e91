import torch
from torch import nn


class Twice(nn.Module):
    def __init__(self, gain):
        super().__init__()
        torch.manual_seed(0)
        self.gain, self.norm, self.last = gain, nn.BatchNorm1d(48), nn.Linear(48, 3)

    def forward(self, x):
        return self.last(self.norm(x.flatten(1)) + self.norm(self.gain * x.flatten(1)))


def test_calls_on_different_distributions_are_found_and_on_equal_ones_not(kit, loader):
    assert kit.found("BN010", Twice(3.0), loader) == ["norm"]
    assert kit.found("BN010", Twice(1.0), loader) == []


def test_sorted_data_are_found_and_shuffled_ones_not(kit):
    x, y = kit.data()
    order = x.mean((1, 2, 3)).argsort()
    assert "1" in kit.found("BN010", kit.healthy(), kit.batches(x[order], y[order]))
    shuffled = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    assert kit.found("BN010", kit.healthy(), kit.batches(x[shuffled], y[shuffled])) == []
