import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import normscope.nn
from normscope.model.attach import on_forward
from normscope.model.find import find
from normscope.moments import Moments
from normscope.probes.batch import HANDED, RECOMPUTED, SAVED, input_moments, judge, read


class Activated(nn.BatchNorm2d):
    """An activation and a dropout above the normalization, as timm's."""

    def forward(self, x):
        return nn.functional.dropout(super().forward(x).relu(), 0.1)


class Frozen(nn.Module):
    def __init__(self, channels):
        super().__init__()
        for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            self.register_buffer(name, torch.full((channels,), value))

    def forward(self, x):
        return x * 1.0


def values(shape=(16, 5, 4, 3), mean=0.0, deviation=1.0):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (x * deviation + mean).float()


def reading_of(layer, x):
    found = []
    model = nn.Sequential(layer)
    with on_forward(find(model).layers, lambda *seen: found.append(read(*seen))):
        model(x)
    return found[0]


def close(reading, x, tolerance=1e-4):
    """Mean to within `tolerance` deviations, variance to within `tolerance` of itself."""
    expected = Moments.of(x)
    deviation = expected.deviation()
    error = ((reading.moments.mean - expected.mean) / deviation).abs().max()
    ratio = (reading.moments.variance("biased") / expected.variance("biased") - 1).abs().max()
    return float(error) < tolerance and float(ratio) < tolerance and reading.moments.count == expected.count


@pytest.mark.parametrize("layer", [nn.BatchNorm2d(5), nn.BatchNorm2d(5, affine=False), Activated(5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_read_from_what_torch_kept(layer, dtype):
    x = values().to(dtype).requires_grad_()
    layer = layer.double() if dtype is torch.float64 else layer
    reading = reading_of(layer, x)
    assert reading.source == SAVED
    assert close(reading, x)
    layer.float()


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 7), (2, 5, 3, 2, 2), (1, 5, 31, 33)])
def test_any_shape(shape):
    layers = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
    x = values(shape).requires_grad_()
    reading = reading_of(layers[len(shape)](5), x)
    assert reading.source == SAVED
    assert close(reading, x)


def test_own_layers_hand_theirs_out():
    x = values().requires_grad_()
    reading = reading_of(normscope.nn.BatchNorm2d(5), x)
    assert reading.source == HANDED
    assert close(reading, x)
    ghost = reading_of(normscope.nn.GhostBatchNorm2d(5, ghost_size=4), x)
    assert ghost.source == HANDED
    assert close(ghost, x)


def test_what_own_layers_hand_out_is_recomputed_where_the_variance_is_lost_in_eps():
    x = values() * 1e-6
    reading = reading_of(normscope.nn.BatchNorm2d(5), x.requires_grad_())
    assert reading.source == f"{RECOMPUTED}: variance tiny against eps"
    assert close(reading, x, 1e-12)


def test_recomputed_without_gradients():
    with torch.no_grad():
        reading = reading_of(nn.BatchNorm2d(5), values())
    assert reading.source == f"{RECOMPUTED}: nothing saved"
    assert close(reading, values(), 1e-12)


@pytest.mark.parametrize("layer", [nn.BatchNorm2d(5).eval(), normscope.nn.BatchNorm2d(5).eval(), Frozen(5)])
def test_recomputed_in_evaluation_mode(layer):
    x = values(mean=3.0).requires_grad_()
    reading = reading_of(layer, x)
    assert reading.source == f"{RECOMPUTED}: evaluation mode"
    assert close(reading, x, 1e-12)


@pytest.mark.parametrize("mean", [1e2, 1e4, 1e6])
def test_recomputed_where_a_large_mean_spoils_what_torch_kept(mean):
    x = values((64, 5, 8, 8), mean).to(memory_format=torch.channels_last).requires_grad_()
    reading = reading_of(nn.BatchNorm2d(5), x)
    assert reading.source == f"{RECOMPUTED}: large mean"
    assert close(reading, x, 1e-9)


@pytest.mark.parametrize("mean", [0.0, 1.0, 5.0, 9.0])
@pytest.mark.parametrize("last", [False, True])
def test_what_is_trusted_is_good(mean, last):
    x = values((64, 5, 8, 8), mean)
    x = (x.to(memory_format=torch.channels_last) if last else x).requires_grad_()
    reading = reading_of(nn.BatchNorm2d(5), x)
    assert reading.source == SAVED
    assert close(reading, x)


@pytest.mark.parametrize("deviation", [1e-3, 3e-4, 1e-5])
def test_a_variance_tiny_against_eps_is_recomputed_in_time(deviation):
    x = values(deviation=deviation).requires_grad_()
    reading = reading_of(nn.BatchNorm2d(5), x)
    assert (reading.source == SAVED) == (deviation == 1e-3)
    assert close(reading, x)


def test_the_gate_is_needed():
    """Planted: what torch kept, taken at its word, is wrong by far more than the tolerance above."""
    x = values((64, 5, 8, 8), 1e5).to(memory_format=torch.channels_last).requires_grad_()
    node = nn.BatchNorm2d(5)(x).grad_fn
    error = (node._saved_result1.double() - Moments.of(x).mean).abs().max()
    assert float(error) > 1e-2


def test_under_checkpointing_what_was_packed_is_left_alone():
    layer, calls = nn.BatchNorm2d(5), []
    found = []
    model = nn.Sequential(layer)
    x = values().requires_grad_()

    def forward(x):
        calls.append(1)
        return model(x).square()

    with on_forward(find(model).layers, lambda *seen: found.append(read(*seen))):
        y = checkpoint(forward, x, use_reentrant=False)
    assert calls == [1]
    assert found[0].source == f"{RECOMPUTED}: nothing saved"
    y.sum().backward()
    assert calls == [1, 1]


def test_nothing_to_judge():
    assert judge([]) == []


@pytest.mark.usefixtures("unchanged")
def test_input_moments_over_several_passes_and_sites(task):
    task.model.eval()

    def in_parts():
        for part in task.x.split(10):
            task.model(part)

    whole, parts = input_moments(task.model, task.run), input_moments(task.model, in_parts)
    relu = input_moments(task.model, task.run, [("relu", task.model[2])])["relu"]
    task.model.train()
    assert list(whole) == ["1", "5", "9"]
    torch.testing.assert_close(parts["5"].mean, whole["5"].mean, rtol=1e-5, atol=1e-7)
    bn = copy.deepcopy(task.model[:2]).eval()
    torch.testing.assert_close(relu.mean, Moments.of(bn(task.x)).mean, rtol=1e-5, atol=1e-7)
