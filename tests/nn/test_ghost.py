import pytest
import torch
from torch.nn import functional as F

from normscope import nn
from normscope.errors import InputError
from normscope.nn.ghost import ghosts

SHAPES = {"GhostBatchNorm1d": (3,), "GhostBatchNorm2d": (3, 4, 5), "GhostBatchNorm3d": (3, 2, 3, 2)}


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def by_hand(x, layer, batch, size):
    weight, bias = layer.weight, layer.bias
    parts = x.tensor_split(max(1, batch // size))
    return torch.cat([F.batch_norm(part, None, None, weight, bias, training=True) for part in parts])


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize(
    ("batch", "size"),
    [
        (12, 4),
        (13, 4),  # a remainder
        (3, 4),  # fewer samples than a ghost
        (96, 3),  # many small ghosts: the path that moves them into the channels
        (98, 3),  # the same with a remainder
    ],
)
def test_each_ghost_is_normalized_alone(name, batch, size):
    layer, x = getattr(nn, name)(3, ghost_size=size), (draw(batch, *SHAPES[name]) + 2).requires_grad_()
    layer.weight.data.copy_(draw(3, seed=1))
    layer.bias.data.copy_(draw(3, seed=2))
    cotangent, leaves = draw(*x.shape, seed=3), [x, layer.weight, layer.bias]
    y, expected = layer(x), by_hand(x, layer, batch, size)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(
        torch.autograd.grad(y, leaves, cotangent),
        torch.autograd.grad(expected, leaves, cotangent),
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("batch", [32, 45, 100])
def test_running_statistics_are_those_of_the_whole_batch_after_one_update(momentum, batch):
    ghost = nn.GhostBatchNorm2d(3, momentum=momentum, ghost_size=8)
    plain = torch.nn.BatchNorm2d(3, momentum=momentum)
    for step in range(3):
        x = draw(batch, 3, 2, 2, seed=step) * 3 + torch.arange(batch)[:, None, None, None] / 10
        ghost(x)
        plain(x)
    torch.testing.assert_close(ghost.state_dict(), plain.state_dict(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ghost.eval()(x), plain.eval()(x), rtol=1e-5, atol=1e-5)


def test_the_cut():
    assert ghosts(100, 32) == [(1, 34), (2, 33)]
    assert ghosts(64, 32) == [(2, 32)]
    assert ghosts(5, 32) == [(1, 5)]
    assert ghosts(0, 4) == [(1, 0)]


def test_checkpoints_load_both_ways_and_isinstance_holds():
    ghost, plain = nn.GhostBatchNorm2d(3, ghost_size=4), torch.nn.BatchNorm2d(3)
    ghost(draw(8, 3, 2, 2))
    plain.load_state_dict(ghost.state_dict())
    nn.GhostBatchNorm2d(3, ghost_size=2).load_state_dict(plain.state_dict())
    assert isinstance(ghost, torch.nn.BatchNorm2d)
    assert "ghost_size=4" in repr(ghost)


def test_channels_last_comes_back_as_channels_last():
    x = draw(64, 3, 2, 2).to(memory_format=torch.channels_last)
    assert nn.GhostBatchNorm2d(3, ghost_size=2)(x).is_contiguous(memory_format=torch.channels_last)


def test_bad_input():
    with pytest.raises(InputError, match="ghost_size"):
        nn.GhostBatchNorm1d(3, ghost_size=0)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
        nn.GhostBatchNorm1d(3, ghost_size=1)(draw(4, 3))
    assert nn.GhostBatchNorm2d(3, ghost_size=1)(draw(4, 3, 2, 2)).shape == (4, 3, 2, 2)


def test_moments_of_the_whole_batch_are_handed_out():
    x = draw(20, 3) + 7
    layer = nn.GhostBatchNorm1d(3, ghost_size=4)
    layer(x)
    torch.testing.assert_close(layer.batch_moments.variance("bessel"), x.double().var(0), rtol=1e-5, atol=0)
