"""What torch raises, these layers raise, with its words; what it takes, they take."""

import pytest
import torch

from normscope import nn
from normscope.ops import cpu, functional, reference


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_meta_tensor_gives_shapes_and_a_foreign_device_an_error():
    layer = nn.BatchNorm2d(3, device="meta")
    assert layer(torch.empty(4, 3, 5, 5, device="meta")).shape == (4, 3, 5, 5)
    for mine, theirs in ((nn.BatchNorm2d(3), torch.nn.BatchNorm2d(3)),):
        raised = []
        for module in (theirs, mine):
            with pytest.raises((RuntimeError, NotImplementedError)) as caught:
                module(torch.empty(4, 3, 5, 5, device="meta")).sum().item()
            raised.append(type(caught.value))
        assert issubclass(raised[1], raised[0])


@pytest.mark.parametrize("shape", [(32, 3), (40, 3, 40, 40)], ids=str)
def test_parameters_of_a_wrong_dtype_are_refused_or_taken_as_torch_does(shape):
    x = draw(*shape)
    kind = "BatchNorm1d" if len(shape) == 2 else "BatchNorm2d"
    for parameters in (torch.float64, torch.bfloat16, torch.int64):
        outcomes = []
        for module in (torch.nn, nn):
            layer = getattr(module, kind)(3)
            for name in ("weight", "bias"):
                value = getattr(layer, name).detach().to(parameters)
                setattr(layer, name, torch.nn.Parameter(value, requires_grad=False))
            try:
                outcomes.append(layer(x))
            except (RuntimeError, TypeError) as error:
                outcomes.append(error)
        theirs, ours = outcomes
        if isinstance(theirs, torch.Tensor):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
        elif isinstance(ours, torch.Tensor):  # more than torch takes, and right
            want = reference.train(x, layer.weight.double(), layer.bias.double(), layer.eps)[0]
            torch.testing.assert_close(ours, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("large", [False, True])
def test_overlapping_and_expanded_inputs_and_broadcast_gradients(large):
    side = 48 if large else 6
    row = draw(8, 4, side)
    overlapping = draw(8 * 4 * side * side).as_strided((8, 4, side, side), (4 * side, side, side, 1))
    for x in (row[:, :, None].expand(8, 4, side, side), overlapping):
        results = []
        for module in (torch.nn, nn):
            layer, leaf = module.BatchNorm2d(4), x.detach().requires_grad_()
            y = layer(leaf)
            loss = (y * torch.arange(1.0, 9.0).view(8, 1, 1, 1)).mean((2, 3))
            results.append([y, *torch.autograd.grad(loss, [leaf, *layer.parameters()], torch.ones(()).expand(8, 4))])
        torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 3, 0, 4), (0, 3)], ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_dimensions_of_size_zero_are_torchs(shape, training):
    kind = "BatchNorm1d" if len(shape) == 2 else "BatchNorm2d"
    outcomes = []
    for module in (torch.nn, nn):
        layer, x = getattr(module, kind)(shape[1]).train(training), torch.zeros(shape, requires_grad=True)
        try:
            y = layer(x)
            y.sum().backward()
            outcomes.append((y.shape, x.grad.shape))
        except (RuntimeError, ValueError) as error:
            outcomes.append(type(error))
    theirs, ours = outcomes
    assert ours == theirs or (isinstance(ours, type) and isinstance(theirs, type) and issubclass(ours, theirs))


def test_no_channels_give_an_empty_output_where_torch_divides_by_zero():
    assert nn.BatchNorm2d(0)(torch.zeros(2, 0, 4, 4)).shape == (2, 0, 4, 4)


@pytest.mark.skipif(cpu.EXTENSION.module is None, reason=cpu.EXTENSION.reason)
@pytest.mark.parametrize("shape", [(64, 12), (8, 3, 20, 20), (8, 12, 7, 7)], ids=str)
def test_deviations_whose_squares_pass_float32_are_normalized(shape):
    x = draw(*shape) * 1e25
    for layout in ("contiguous", "channels_last"):
        value = x if layout == "contiguous" or x.dim() < 4 else x.contiguous(memory_format=torch.channels_last)
        y, found = functional.train(value, None, None, 1e-5)
        want, exact = reference.train(value, None, None, 1e-5)
        torch.testing.assert_close(found.packed[:, 0], torch.stack([exact.mean, exact.m2]), rtol=1e-5, atol=1e20)
        torch.testing.assert_close(y, want, rtol=1e-5, atol=1e-5)
