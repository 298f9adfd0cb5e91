"""What torch raises, these layers raise, with its words; what it takes, they take."""

import pytest
import torch

from normscope import nn
from normscope.ops import cpu, functional, reference


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_layer_on_the_meta_device_gives_shapes():
    layer = nn.BatchNorm2d(3, device="meta")
    assert layer(torch.empty(4, 3, 5, 5, device="meta")).shape == (4, 3, 5, 5)


LAYERS = {
    "BatchNorm2d": {},
    "BatchNormAct2d": {},
    "GhostBatchNorm2d": {"ghost_size": 4},
    "BatchRenorm2d": {},
    "FrozenBatchNorm2d": {},
}


def outcome(layer, x):
    """What a layer gives, or what it raises."""
    try:
        return layer(x).detach()
    except (RuntimeError, ValueError) as error:
        return error


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("side", [2, 40])  # both sides of the size below which torch's kernel runs
def test_wrong_dtypes_of_inputs_parameters_and_buffers_are_refused_where_torch_refuses_them(name, training, side):
    for held in (torch.float32, torch.float64, torch.bfloat16):
        for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.bool):
            x = (draw(8, 3, side, side) * 2).to(dtype)
            theirs = outcome(torch.nn.BatchNorm2d(3, dtype=held).train(training), x)
            ours = outcome(getattr(nn, name)(3, dtype=held, **LAYERS[name]).train(training), x)
            assert isinstance(ours, torch.Tensor) == isinstance(theirs, torch.Tensor), (held, dtype)
            if isinstance(theirs, torch.Tensor):
                assert ours.dtype == theirs.dtype
            else:
                assert isinstance(ours, RuntimeError)
                assert str(ours).startswith(str(theirs)[:19])  # '"batch_norm" not im' or 'mixed dtype (CPU): '
                assert str(dtype) in str(ours)


@pytest.mark.parametrize("side", [2, 40])
def test_parameters_narrower_than_the_running_statistics_are_refused_in_training_too(side):
    layer = nn.BatchNorm2d(3)
    layer.weight = torch.nn.Parameter(layer.weight.detach().bfloat16())
    for training in (True, False):
        with pytest.raises(RuntimeError, match="mixed dtype"):
            layer.train(training)(draw(8, 3, side, side))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("layers", "inputs"), [("meta", "cpu"), ("cpu", "meta")])
def test_a_layer_on_another_device_than_its_input_is_torchs_error(layers, inputs, training):
    for side in (2, 40):
        x = torch.zeros(8, 3, side, side, device=inputs)
        for name in ("BatchNorm2d", "BatchNormAct2d"):
            theirs, ours = (
                outcome(layer.to(layers).train(training), x)
                for layer in (torch.nn.BatchNorm2d(3), getattr(nn, name)(3))
            )
            assert isinstance(theirs, RuntimeError)
            assert str(ours) == str(theirs)


@pytest.mark.parametrize("shape", [(6, 1, 4, 5), (1, 3, 2, 1), (2, 1, 1, 1), (1, 1, 1, 2), (7, 5, 1, 1)], ids=str)
@pytest.mark.parametrize("name", ["BatchNorm2d", "BatchNormAct2d"])
def test_one_channel_one_sample_and_one_position_are_torchs(name, shape):
    results = []
    for layer, after in (
        (torch.nn.BatchNorm2d(shape[1]), torch.relu),
        (getattr(nn, name)(shape[1]), torch.relu if name == "BatchNorm2d" else torch.positive),
    ):
        x = draw(*shape).requires_grad_()
        y = after(layer(x))
        grads = torch.autograd.grad(y, [x, *layer.parameters()], draw(*shape, seed=1))
        results.append([y, *grads, *layer.state_dict().values()])
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("side", [2, 40])
def test_nan_and_infinity_spoil_outputs_gradients_and_buffers_of_their_channel_alone(side, value):
    results = []
    for module in (torch.nn, nn):
        layer, x = module.BatchNorm2d(3), draw(8, 3, side, side)
        x[2, 1, 1, 0] = value
        x.requires_grad_()
        y = layer(x)
        grads = torch.autograd.grad(y, [x, *layer.parameters()], draw(8, 3, side, side, seed=1))
        results.append([y, *grads, layer.running_mean, layer.running_var])
        others = [grads[0][:, [0, 2]], *(value[[0, 2]] for value in results[-1][2:])]
        assert all(part.isfinite().all() for part in others)
        assert not grads[0][:, 1].isfinite().any()
        assert not layer.running_var[1].isfinite()
    for ours, theirs in zip(*reversed(results), strict=True):
        assert torch.equal(ours.isfinite(), theirs.isfinite())


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


@pytest.mark.skipif(cpu.EXTENSION.module is None, reason=cpu.EXTENSION.reason)
def test_a_small_layer_whose_variance_passes_float32_is_not_left_to_torchs_kernel():
    x = draw(12, 3) * 1e25
    layer = nn.BatchNorm1d(3)
    want, exact = reference.train(x, None, None, layer.eps)
    torch.testing.assert_close(layer(x).detach(), want, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(layer.batch_moments.m2, exact.m2, rtol=1e-5, atol=0)
