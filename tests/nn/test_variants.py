import pytest
import torch
from torch.nn import functional as F

from normscope import nn
from normscope.errors import InputError
from normscope.model.find import kind_of
from normscope.moments import Moments


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


ACTIVATIONS = {
    "relu": F.relu,
    "relu6": F.relu6,
    "leaky_relu": lambda z: F.leaky_relu(z, 0.2),
    "silu": F.silu,
    "gelu": F.gelu,
    "none": lambda z: z,
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("training", [True, False])
def test_fused_layer_equals_the_parts(activation, with_residual, training):
    fused = nn.BatchNormAct2d(5, activation=activation, negative_slope=0.2)
    parts = torch.nn.BatchNorm2d(5)
    for layer in (fused, parts):
        layer.weight.data.copy_(draw(5, seed=7))
        layer.bias.data.copy_(draw(5, seed=8))
        layer.train(training)
    x, residual, cotangent = (draw(6, 5, 3, 7, seed=n) * 3 for n in (1, 2, 3))
    results = []
    for whole in (True, False):
        leaves = [x.clone().requires_grad_(), residual.clone().requires_grad_()]
        extra = leaves[1] if with_residual else None
        if whole:
            y, layer = fused(leaves[0], extra), fused
        else:
            z, layer = parts(leaves[0]), parts
            y = ACTIVATIONS[activation](z if extra is None else z + extra)
        wanted = [*leaves[: 1 + with_residual], layer.weight, layer.bias]
        results.append([y, *torch.autograd.grad(y, wanted, cotangent)])
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(fused.state_dict(), parts.state_dict())


def test_no_tool_takes_a_fused_layer_for_batch_norm():
    fused = nn.BatchNormAct2d(3)
    assert not isinstance(fused, torch.nn.modules.batchnorm._BatchNorm)
    model = torch.nn.Sequential(fused)
    assert torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)[0] is fused
    assert kind_of(fused) == "foreign"
    with pytest.raises(InputError, match="activation"):
        nn.BatchNormAct2d(3, activation="rel")


def test_renormalization_is_its_formula():
    layer = nn.BatchRenorm2d(3, rmax=1.2, dmax=0.3, ramp=None).double()
    layer.weight.data.copy_(draw(3, seed=7))
    layer.running_mean.copy_(draw(3, seed=4))
    layer.running_var.copy_(draw(3, seed=5).square() + 0.5)
    mean, sigma = layer.running_mean.clone(), (layer.running_var + layer.eps).sqrt()
    x, cotangent = draw(8, 3, 4, 4).double().requires_grad_(), draw(8, 3, 4, 4, seed=2).double()
    spread = (x.var((0, 2, 3), correction=0) + layer.eps).sqrt()
    r = (spread / sigma).clamp(1 / 1.2, 1.2).detach()[:, None, None]
    d = ((x.mean((0, 2, 3)) - mean) / sigma).clamp(-0.3, 0.3).detach()[:, None, None]
    x_hat = F.batch_norm(x, None, None, training=True)
    expected = (x_hat * r + d) * layer.weight[:, None, None] + layer.bias[:, None, None]
    y = layer(x)
    torch.testing.assert_close(y, expected)
    leaves = [x, layer.weight, layer.bias]
    torch.testing.assert_close(
        torch.autograd.grad(y, leaves, cotangent), torch.autograd.grad(expected, leaves, cotangent)
    )


def test_renormalization_bounds_rise_with_the_batches_seen():
    layer = nn.BatchRenorm1d(2, ramp=(10, 20))
    assert layer.bounds() == (1.0, 0.0)
    layer.num_batches_tracked.fill_(15)
    assert layer.bounds() == (2.0, 2.5)
    layer.num_batches_tracked.fill_(99)
    assert layer.bounds() == (3.0, 5.0)
    with pytest.raises(InputError, match="track_running_stats"):
        nn.BatchRenorm1d(2, track_running_stats=False)


def test_frozen_layers_never_move_and_load_torchs_checkpoints():
    torchs, frozen = torch.nn.BatchNorm2d(3), nn.FrozenBatchNorm2d(3)
    torchs(draw(8, 3, 2, 2) * 3 + 1)
    frozen.load_state_dict(torchs.state_dict())
    torchs.load_state_dict(frozen.state_dict())
    without_counter = {k: v for k, v in torchs.state_dict().items() if k != "num_batches_tracked"}
    nn.FrozenBatchNorm2d(3).load_state_dict(without_counter)
    x = draw(4, 3, 2, 2, seed=1).requires_grad_()
    before = {k: v.clone() for k, v in frozen.state_dict().items()}
    torch.testing.assert_close(frozen.train()(x), torchs.eval()(x))
    torch.testing.assert_close(frozen.state_dict(), before, rtol=0, atol=0)
    assert not list(frozen.parameters())
    assert kind_of(frozen) == "frozen"
    torch.testing.assert_close(
        torch.autograd.grad(frozen(x), x, draw(4, 3, 2, 2)), torch.autograd.grad(torchs(x), x, draw(4, 3, 2, 2))
    )


def test_masked_layer_is_batch_norm_of_the_packed_positions():
    masked, packed = nn.MaskedBatchNorm1d(3), torch.nn.BatchNorm1d(3)
    x, mask = draw(4, 3, 6).requires_grad_(), torch.arange(6) < torch.tensor([6, 2, 5, 1])[:, None]
    y, cotangent = masked(x, mask), draw(4, 3, 6, seed=1)
    expected = packed(x.movedim(1, -1)[mask])
    torch.testing.assert_close(y.movedim(1, -1)[mask], expected)
    assert not y.movedim(1, -1)[~mask].any()
    torch.testing.assert_close(masked.state_dict(), packed.state_dict())
    assert int(masked.batch_moments.count) == int(mask.sum())
    got = torch.autograd.grad(y, x, cotangent)[0]
    want = torch.autograd.grad(expected, x, cotangent.movedim(1, -1)[mask])[0]
    torch.testing.assert_close(got, want)
    poisoned = x.detach().clone()
    poisoned.movedim(1, -1)[~mask] = torch.nan
    torch.testing.assert_close(masked(poisoned, mask), y)
    with pytest.raises(InputError, match="boolean mask"):
        masked(x, mask.float())


def test_fused_layer_hands_out_the_moments_of_its_input():
    layer, x = nn.BatchNormAct2d(3), draw(4, 3, 5, 5) + 3
    layer(x)
    torch.testing.assert_close(layer.batch_moments.mean, Moments.of(x).mean, rtol=1e-6, atol=1e-6)
