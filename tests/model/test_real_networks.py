"""Networks that nobody here wrote: every batch norm in them is found, and taken out again."""

import pytest
import torch
from torch import nn

from normscope.model.batch import Batch
from normscope.model.find import find
from normscope.surgery.remove import ChannelAffine, remove_batch_norm

transformers = pytest.importorskip("transformers")


def _resnet():
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=4)
    return transformers.ResNetForImageClassification(config)


def _mobilenet():
    config = transformers.MobileNetV2Config(depth_multiplier=0.35, image_size=32, num_labels=4)
    return transformers.MobileNetV2ForImageClassification(config)


def _regnet():
    config = transformers.RegNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], groups_width=8)
    return transformers.RegNetForImageClassification(config)


@pytest.mark.filterwarnings("ignore")  # of the library's own deprecations
@pytest.mark.parametrize("make", [_resnet, _mobilenet, _regnet])
def test_every_batch_norm_is_found_and_removed(make):
    torch.manual_seed(0)
    model = make()
    norms = [part for part in model.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    found = find(model)
    assert len(found.layers) == len(norms) > 3
    assert not found.unsupported
    batch = Batch((), {"pixel_values": torch.randn(4, 3, 32, 32)}, torch.arange(4))
    assert batch(model).dim() == 2
    plain = remove_batch_norm(model)
    assert not find(plain).layers
    assert sum(isinstance(part, ChannelAffine) for part in plain.modules()) == len(norms)
    assert batch(plain).isfinite().all()
