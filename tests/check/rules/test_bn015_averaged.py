import torch
from torch.optim.swa_utils import AveragedModel, update_bn


def test_old_statistics_under_averaged_weights_are_found_until_they_are_updated(kit, loader):
    model = kit.healthy()
    averaged = AveragedModel(model)
    averaged.update_parameters(model)
    assert kit.found("BN015", averaged, loader) == []
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    averaged.update_parameters(model)
    assert kit.found("BN015", averaged, loader) != []
    assert kit.found("BN001", averaged, loader) == []
    update_bn(loader, averaged)
    assert kit.found("BN015", averaged, loader) == []
