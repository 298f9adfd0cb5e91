import copy

import pytest
import torch
from torch import nn

from normscope import nn as norm_layers
from normscope.errors import UnsupportedError
from normscope.surgery import remove
from normscope.surgery.remove import ChannelAffine, StatisticNoise


def trained(kind=nn.BatchNorm2d, channels=4):
    """A batch norm whose gamma, beta and statistics are none of the defaults."""
    layer = kind(channels)
    with torch.no_grad():
        layer.weight.uniform_(0.5, 2)
        layer.bias.normal_()
        layer.running_mean.normal_()
        layer.running_var.uniform_(0.5, 2)
    return layer


class BatchNormAct2d(nn.BatchNorm2d):
    """Batch norm with an activation of its own, as timm has it."""

    def __init__(self, channels):
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), nn.ReLU()

    def forward(self, x):
        return self.act(self.drop(super().forward(x)))


class Foreign(nn.Module):
    """Batch norm by its structure, none of torch's."""

    def __init__(self, channels):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x):
        return nn.functional.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, self.training)


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = trained(nn.BatchNorm1d)
        self.again = self.norm

    def forward(self, x):
        return self.again(self.norm(x))


@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 3), (5, 4, 3, 2), (2, 4, 2, 3, 2)])
def test_what_is_left_is_gamma_x_plus_beta_per_channel(shape):
    affine = ChannelAffine(torch.randn(4), torch.randn(4))
    x = torch.randn(shape)
    view = [1, 4] + [1] * (len(shape) - 2)
    torch.testing.assert_close(affine(x), affine.weight.view(view) * x + affine.bias.view(view))


def test_batch_norm_comes_out_everywhere_and_its_affine_stays():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), trained(), nn.ReLU(), nn.Sequential(trained(), nn.Flatten()))
    gammas = [model[1].weight.detach().clone(), model[3][0].weight.detach().clone()]
    changed = remove.remove_batch_norm(model)
    assert changed is model
    assert torch.equal(model[1].weight, gammas[0])
    assert torch.equal(model[3][0].weight, gammas[1])
    x = torch.randn(6, 3, 5, 5)
    assert torch.equal(model.train()(x), model.eval()(x))
    assert all(value.requires_grad for value in model.parameters())


def test_a_shared_layer_stays_shared_and_a_bare_layer_is_replaced_itself():
    model = remove.remove_batch_norm(Shared())
    assert isinstance(model.norm, ChannelAffine)
    assert model.norm is model.again
    assert isinstance(remove.remove_batch_norm(trained(nn.BatchNorm1d)), ChannelAffine)
    assert isinstance(remove.to_ghost(trained(nn.BatchNorm1d), 4), norm_layers.GhostBatchNorm1d)


def test_the_affine_is_a_copy():
    layer = trained()
    changed = remove.remove_batch_norm(nn.Sequential(layer))
    with torch.no_grad():
        layer.weight.zero_()
    assert float(changed[0].weight.detach().abs().min()) > 0


@pytest.mark.parametrize("surgery", [remove.remove_batch_norm, lambda model: remove.to_ghost(model, 3)])
def test_an_activation_that_the_layer_carries_is_kept(surgery):
    x = torch.randn(6, 4, 3, 3)
    assert float(surgery(nn.Sequential(BatchNormAct2d(4))).train()(x).detach().min()) == 0


def test_without_batch_norm_there_is_nothing_to_remove():
    with pytest.raises(UnsupportedError, match="found none"):
        remove.remove_batch_norm(nn.Sequential(nn.Linear(2, 2)))


def test_ghosts_normalize_their_groups_and_evaluate_as_before():
    model = nn.Sequential(trained())
    old = copy.deepcopy(model)
    remove.to_ghost(model, 3)
    x = torch.randn(6, 4, 2, 2) * 3 + 1
    torch.testing.assert_close(model.eval()(x), old.eval()(x))
    halves = torch.cat([copy.deepcopy(old).train()(part) for part in x.split(3)])
    torch.testing.assert_close(model.train()(x), halves, rtol=1e-5, atol=1e-5)
    assert set(model.state_dict()) == set(old.state_dict())


def test_a_layer_that_cannot_be_cut_into_ghosts_is_refused_not_passed_over():
    with pytest.raises(UnsupportedError, match=r"1 is a Foreign; replace it by torch's layer"):
        remove.to_ghost(nn.Sequential(nn.Flatten(), Foreign(4)), 8)


def test_noise_has_the_deviations_asked_for_and_only_in_training():
    layer = trained(nn.BatchNorm1d, 400)
    noisy = StatisticNoise(layer, 0.2, 0.3)
    x = torch.randn(64, 400)
    clean = copy.deepcopy(layer).train()(x)
    gamma, beta = (value.detach() for value in (layer.weight, layer.bias))
    normalized = (clean.detach() - beta) / gamma
    changed = (noisy.train()(x).detach() - beta) / gamma
    # Each channel is a line a z + b: its slope and offset are the draws.
    slopes = (changed[1] - changed[0]) / (normalized[1] - normalized[0])
    offsets = changed[0] - slopes * normalized[0]
    assert float(slopes.mean()) == pytest.approx(1.0, abs=0.04)
    assert float(slopes.std()) == pytest.approx(0.2, rel=0.12)
    assert float(offsets.std()) == pytest.approx(0.3, rel=0.12)
    torch.testing.assert_close(slopes * normalized[7] + offsets, changed[7], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(noisy.eval()(x), layer.eval()(x))


def test_examples_of_a_group_share_their_draw_and_groups_do_not():
    draws = remove.statistic_draws(10, 3, (5,))
    assert draws.shape == (2, 5, 10)
    # 10 examples in groups of at least 3: 4 + 3 + 3.
    assert all(torch.equal(draws[..., 0], draws[..., at]) for at in (1, 2, 3))
    assert not torch.equal(draws[..., 0], draws[..., 4])
    assert len(draws.unique()) == 2 * 5 * 3
    assert len(remove.statistic_draws(10, 0, (5,)).unique()) == 10


def test_noise_of_images_is_one_number_per_channel_and_group():
    noisy = StatisticNoise(nn.BatchNorm2d(3), 0.0, 1.0, group=2)
    x = torch.randn(4, 3, 5, 5)
    added = noisy.train()(x).detach() - nn.BatchNorm2d(3).train()(x).detach()
    assert float(added.flatten(2).std(2).max()) < 1e-5
    torch.testing.assert_close(added[0], added[1])
    assert not torch.allclose(added[0], added[2])


def test_dropout_and_noise_stand_where_batch_norm_stands_or_stood():
    kept = remove.after_norm(nn.Sequential(nn.Conv2d(1, 4, 3), trained(), nn.ReLU()), dropout=0.5, noise=(0.1, 0.1))
    assert isinstance(kept[1][0], StatisticNoise)
    assert isinstance(kept[1][1], nn.Dropout)
    assert isinstance(kept[1][0].layer, nn.BatchNorm2d)
    removed = remove.remove_batch_norm(nn.Sequential(nn.Linear(2, 4), trained(nn.BatchNorm1d)))
    remove.after_norm(removed, dropout=0.5, noise=(0.1, 0.1))
    assert [type(part) for part in removed[1]] == [ChannelAffine, nn.Dropout]
    bare = remove.after_norm(trained(), dropout=0.5)
    assert isinstance(bare[0], nn.BatchNorm2d)


def test_he_is_for_every_weight_but_the_last_and_repeats_itself():
    model = nn.Sequential(
        nn.Conv2d(8, 64, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 300), nn.ReLU(), nn.Linear(300, 2)
    )
    last = model[5].weight.detach().clone()
    remove.he_initialize(model, torch.Generator().manual_seed(1))
    assert float(model[0].weight.detach().std()) == pytest.approx((2 / 72) ** 0.5, rel=0.05)
    assert float(model[3].weight.detach().std()) == pytest.approx((2 / 64) ** 0.5, rel=0.05)
    assert torch.equal(model[5].weight, last)
    once = model[0].weight.detach().clone()
    remove.he_initialize(model, torch.Generator().manual_seed(1))
    assert torch.equal(model[0].weight, once)
