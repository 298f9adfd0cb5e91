import copy

import pytest
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from normscope import nn
from normscope.errors import InputError
from normscope.moments import Moments

SHAPES = {"BatchNorm1d": (6, 3), "BatchNorm2d": (6, 3, 4, 5), "BatchNorm3d": (4, 3, 2, 3, 2)}
OPTIONS = [
    {},
    {"momentum": None},
    {"affine": False},
    {"bias": False},
    {"track_running_stats": False},
    {"eps": 0.1, "momentum": 0.7},
]


def draw(*shape, seed=0, **options):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **options)


def pair(name, **options):
    ours, theirs = getattr(nn, name)(3, **options), getattr(torch.nn, name)(3, **options)
    for layer in (ours, theirs):
        for number, parameter in enumerate(layer.parameters()):
            parameter.data.copy_(draw(3, seed=number + 5))
    return ours, theirs


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_three_training_steps_and_evaluation_equal_torch(name, options):
    ours, theirs = pair(name, **options)
    for step in range(3):
        x, cotangent = draw(*SHAPES[name], seed=step) * 2 + 1, draw(*SHAPES[name], seed=step + 40)
        grads = []
        for layer in (ours, theirs):
            leaf = x.clone().requires_grad_()
            y = layer(leaf)
            grads.append([y, *torch.autograd.grad(y, [leaf, *layer.parameters()], cotangent)])
        torch.testing.assert_close(*grads)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


@pytest.mark.parametrize("name", SHAPES)
def test_tools_that_look_for_torch_find_ours_and_checkpoints_load_both_ways(name):
    ours, theirs = pair(name)
    assert isinstance(ours, getattr(torch.nn, name))
    assert isinstance(ours, _BatchNorm)
    ours(draw(*SHAPES[name]))
    assert list(ours.state_dict()) == list(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    fresh = getattr(nn, name)(3)
    fresh.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(fresh.state_dict(), ours.state_dict())


def test_batch_moments_are_those_of_the_input_and_carry_no_graph():
    layer, x = nn.BatchNorm2d(3), draw(6, 3, 4, 5).requires_grad_()
    assert layer.batch_moments is None
    layer(x)
    found, expected = layer.batch_moments, Moments.of(x)
    torch.testing.assert_close(found.mean, expected.mean, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(found.m2, expected.m2, rtol=1e-6, atol=0)
    assert float(found.count) == 120
    assert not found.mean.requires_grad
    layer.eval()(x * 9)
    torch.testing.assert_close(layer.batch_moments.mean, found.mean, rtol=0, atol=0)
    copy.deepcopy(layer)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_inputs_with_wide_parameters(dtype):
    ours, theirs = pair("BatchNorm2d")
    x = draw(6, 3, 4, 5).to(dtype)
    y = ours(x)
    assert y.dtype == dtype
    torch.testing.assert_close(y, theirs(x.float()).to(dtype), rtol=0.02, atol=0.02)
    torch.testing.assert_close(ours.running_var, theirs.running_var, rtol=1e-4, atol=1e-4)


def test_a_large_mean_in_channels_last_keeps_its_digits():
    x = (draw(16, 3, 8, 8) + 1e5).to(memory_format=torch.channels_last)
    y = nn.BatchNorm2d(3)(x)
    expected = torch.nn.functional.batch_norm(x.double(), None, None, training=True)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert (y - expected).abs().max() < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_inputs_in_channels_last_are_rounded_once(dtype):
    x = (draw(12, 3, 5, 7) * 3 + 10).to(dtype).to(memory_format=torch.channels_last)
    layer = nn.BatchNorm2d(3)
    y, expected = layer(x), torch.nn.functional.batch_norm(x.double(), None, None, training=True)
    assert ((y - expected).abs() <= 1.001 * torch.finfo(dtype).eps / 2 * expected.abs().clamp_min(2) + 1e-5).all()
    variance = 0.9 + 0.1 * Moments.of(x).variance("bessel")
    torch.testing.assert_close(layer.running_var.double(), variance, rtol=1e-6, atol=0)


@pytest.mark.parametrize("shape", [(6, 3, 4, 5), (8, 3, 50, 50)], ids=["small", "large"])
def test_tracking_can_be_switched_off_later_as_in_torch(shape):
    ours, theirs = pair("BatchNorm2d")
    for layer in (ours, theirs):
        layer(draw(*shape))
        layer.track_running_stats = False
        layer(draw(*shape, seed=1) * 3 + 1)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


@pytest.mark.parametrize("name", SHAPES)
def test_errors_are_torchs(name):
    ours, theirs = pair(name)
    one = (1, 3, *(1,) * (len(SHAPES[name]) - 2))
    wide = (4, 5, *SHAPES[name][2:])
    for shape, error in ((one, ValueError), (wide, RuntimeError), ((4,), ValueError)):
        with pytest.raises(error) as expected:
            theirs(draw(*shape))
        with pytest.raises(error) as got:
            ours(draw(*shape))
        assert str(got.value).startswith(str(expected.value))
    with pytest.raises(InputError, match="drop_last"):
        ours(draw(*one))


def test_an_empty_batch_leaves_the_running_statistics_as_torch_does():
    ours, theirs = pair("BatchNorm2d")
    assert ours(draw(0, 3, 4, 4)).shape == theirs(draw(0, 3, 4, 4)).shape
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


def test_vmap_over_samples_leaves_nothing_behind():
    layer = nn.BatchNorm2d(3, track_running_stats=False)
    x = draw(4, 6, 3, 2, 2)
    y = torch.func.vmap(lambda part: torch.func.functional_call(layer, {}, (part,)))(x)
    torch.testing.assert_close(y, torch.stack([layer(part) for part in x]))
    torch.func.vmap(lambda part: torch.func.functional_call(layer, {}, (part,)))(x)
    assert layer.batch_moments is None
