import dataclasses

import pytest
import torch
from torch import nn

from normscope import nn as norm_layers
from normscope.errors import UnsupportedError
from normscope.surgery.remove import ChannelAffine, StatisticNoise
from normscope.why import arms, networks
from normscope.why.arms import BATCH_NORM, PLAIN, Arm


def net(kind="mlp2"):
    return networks.embedded(kind, 3)


def weights(model):
    return [part.weight for part in model.modules() if isinstance(part, nn.Linear | nn.Conv2d)]


def test_kept_is_the_network_itself():
    model = net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert arms.build(model, BATCH_NORM, 0) is model
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("kind", ["mlp2", "conv"])
def test_both_arms_of_a_pair_start_from_the_same_weights(kind):
    for init in ("given", "he", "default"):
        with_norm = arms.build(net(kind), dataclasses.replace(BATCH_NORM, init=init), 7)
        without = arms.build(net(kind), dataclasses.replace(PLAIN, init=init), 7)
        pairs = list(zip(weights(with_norm), weights(without), strict=True))
        assert len(pairs) >= 3
        assert all(torch.equal(a, b) for a, b in pairs)
        assert not any(isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d) for part in without.modules())
        assert any(isinstance(part, ChannelAffine) for part in without.modules())


def test_initializations_are_what_they_are_called():
    wide = lambda: networks.mlp(64, 512, 512, 10)  # noqa: E731
    he = arms.build(wide(), Arm("he", init="he"), 1)
    assert float(he[0].weight.detach().std()) == pytest.approx((2 / 64) ** 0.5, rel=0.02)
    assert float(he[3].weight.detach().std()) == pytest.approx((2 / 512) ** 0.5, rel=0.02)
    assert float(he[0].bias.detach().abs().max()) == 0
    default = arms.build(wide(), Arm("default", init="default"), 1)
    assert float(default[3].weight.detach().std()) == pytest.approx((1 / 3 / 512) ** 0.5, rel=0.02)
    again, other = (arms.build(wide(), Arm("default", init="default"), seed) for seed in (1, 2))
    assert torch.equal(default[0].weight, again[0].weight)
    assert not torch.equal(default[0].weight, other[0].weight)


def test_the_default_initialization_leaves_the_generator_alone():
    model = net()
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    arms.build(model, Arm("default", init="default"), 1)
    assert torch.equal(torch.rand(3), expected)


def test_ghost_full_and_noise():
    ghost = arms.build(net("conv"), Arm("g", norm="ghost", ghost=8), 0)
    sizes = [part.ghost_size for part in ghost.modules() if isinstance(part, norm_layers.GhostBatchNorm2d)]
    assert sizes == [8] * 4
    noisy = arms.build(net(), Arm("n", norm="full", ghost=32, noise=(0.1, 0.2)), 0)
    found = [part for part in noisy.modules() if isinstance(part, StatisticNoise)]
    assert [(part.scale, part.shift, part.group) for part in found] == [(0.1, 0.2, 32)] * 2


def test_dropout_stands_behind_every_place_of_batch_norm_kept_or_removed():
    for norm in ("kept", "removed", "ghost"):
        model = arms.build(net(), Arm("d", norm=norm, ghost=8, dropout=0.3), 0)
        drops = [part for part in model.modules() if isinstance(part, nn.Dropout)]
        assert [part.p for part in drops] == [0.3, 0.3]
        x = torch.randn(4000, 64)
        hidden = model[:2].train()(x)
        assert float((hidden == 0).double().mean()) == pytest.approx(0.3, abs=0.01)
        assert float((model[:2].eval()(x) == 0).double().mean()) == 0


def test_a_planted_spread_has_the_deviation_asked_for_and_spares_the_last_layer():
    models = []
    for spread in (0.0, 0.5):
        torch.manual_seed(0)
        models.append(arms.build(networks.mlp(64, 1000, 10), Arm("s", spread=spread), 1))
    plain, spread = models
    factors = (spread[0].weight / plain[0].weight).detach().log()
    assert float(factors.std(1).max()) < 1e-5
    assert float(factors[:, 0].std()) == pytest.approx(0.5, rel=0.08)
    assert float(factors[:, 0].mean()) == pytest.approx(0.0, abs=0.05)
    assert torch.equal(spread[3].weight, plain[3].weight)


def test_a_network_without_batch_norm_is_refused():
    with pytest.raises(UnsupportedError, match="at least one batch-norm layer"):
        arms.build(nn.Sequential(nn.Linear(2, 2)), PLAIN, 0)
