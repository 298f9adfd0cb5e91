import pytest
import torch


@pytest.mark.parametrize(
    ("offset", "layout", "layers"),
    [(1e5, torch.channels_last, ["0"]), (1e5, torch.contiguous_format, []), (10.0, torch.channels_last, [])],
)
def test_a_large_mean_matters_in_channels_last_only(kit, offset, layout, layers):
    model = torch.nn.Sequential(torch.nn.BatchNorm2d(3), torch.nn.Flatten(), torch.nn.Linear(48, 3))
    x, y = kit.data(4096)
    assert kit.found("BN020", model, kit.batches((x + offset).contiguous(memory_format=layout), y, 1024)) == layers
