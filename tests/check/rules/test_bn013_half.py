import pytest
import torch


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_statistics_are_found(kit, kind):
    assert kit.found("BN013", kit.healthy().to(kind).state_dict()) == ["1", "5"]
    assert kit.found("BN013", kit.healthy().double()) == []
