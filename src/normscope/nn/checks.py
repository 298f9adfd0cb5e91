"""Checks of a batch-norm layer that anyone can run on a layer of their own.

::

    from normscope.nn import checks
    checks.check_layer(lambda channels: MyBatchNorm2d(channels), dims=4)

Each check is a function of a `Case`; `CHECKS` lists them, for pytest.mark.parametrize. A check that fails raises
AssertionError and says what was expected.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from normscope.ops import reference

Law = Callable[[Tensor, Tensor | None, Tensor | None, float], Tensor]

_CHANNELS = 3
_SPATIAL = (4, 5, 3)


def batch_norm_law(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Plain batch norm: what `Case.law` is unless given."""
    return reference.train(x, weight, bias, eps)[0]


@dataclass(frozen=True)
class Case:
    """A layer to check.

    Attributes:
        make: Builds the layer for a number of channels, with momentum as its default.
        dims: Dimensions of its input, 2 to 5.
        law: The training output in differentiable torch, from (x, weight, bias, eps), without what comes `after`.
        batch: Samples of the inputs that the checks draw.
        after: What the layer applies to the normalized value in either mode, an activation for example.
    """

    make: Callable[[int], nn.Module]
    dims: int = 4
    law: Law = batch_norm_law
    batch: int = 12
    after: Callable[[Tensor], Tensor] = torch.positive

    def draw(self, seed: int = 0, shift: float = 2.0, channels: int = _CHANNELS) -> Tensor:
        """A float64 input, the same for the same seed."""
        generator = torch.Generator().manual_seed(seed)
        shape = (self.batch, channels, *_SPATIAL[: self.dims - 2])
        return torch.randn(shape, generator=generator, dtype=torch.float64) * 1.5 + shift

    def layer(self) -> nn.Module:
        """A fresh layer in float64 with weight and bias that are not 1 and 0."""
        layer = self.make(_CHANNELS).double()
        with torch.no_grad():
            for number, parameter in enumerate(layer.parameters()):
                parameter.copy_(torch.linspace(0.5, 1.5, parameter.numel()).reshape(parameter.shape) - 0.9 * number)
        return layer


def _torch_twin(case: Case) -> nn.Module:
    kinds = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
    return kinds[case.dims](_CHANNELS).double()


def state_dict_is_torchs(case: Case) -> None:
    """The keys are torch's, and checkpoints load strictly both ways."""
    layer, twin = case.layer(), _torch_twin(case)
    assert set(layer.state_dict()) == set(twin.state_dict()), f"state_dict keys are {sorted(layer.state_dict())}"
    twin.load_state_dict(layer.state_dict())
    layer.load_state_dict(twin.state_dict())


def training_output_follows_its_law(case: Case) -> None:
    """The output in training mode is the law's, at a small and at a large mean."""
    for shift in (2.0, 1e5):
        layer, x = case.layer(), case.draw(shift=shift)
        expected = case.after(case.law(x, layer.weight, layer.bias, float(layer.eps)))  # type: ignore[arg-type]
        torch.testing.assert_close(layer(x), expected, rtol=1e-7, atol=1e-7)


def gradients_follow_its_law(case: Case) -> None:
    """Gradients of input, weight and bias for a random cotangent are those of the law."""
    layer, x = case.layer(), case.draw().requires_grad_()
    leaves = [x, *layer.parameters()]
    cotangent = case.draw(seed=1)
    expected = case.after(case.law(x, layer.weight, layer.bias, float(layer.eps)))  # type: ignore[arg-type]
    want = torch.autograd.grad(expected, leaves, cotangent)
    got = torch.autograd.grad(layer(x), leaves, cotangent)
    torch.testing.assert_close(got, want, rtol=1e-7, atol=1e-7)


def running_statistics_move_once_towards_the_whole_batch(case: Case) -> None:
    """One update per forward, by momentum, towards the mean and the Bessel-corrected variance of the whole batch."""
    layer, twin = case.layer(), _torch_twin(case)
    twin.momentum = layer.momentum
    for seed in range(2):
        layer(case.draw(seed))
        twin(case.draw(seed))
    for name, value in twin.named_buffers():
        torch.testing.assert_close(layer.get_buffer(name), value, rtol=1e-7, atol=1e-7, msg=f"{name} is not torch's")


def evaluation_uses_the_running_statistics_and_changes_nothing(case: Case) -> None:
    """In eval mode the output is that of the running statistics, sample by sample, and no buffer moves."""
    layer = case.layer()
    layer(case.draw())
    layer.eval()
    before = copy.deepcopy(layer.state_dict())
    x = case.draw(seed=1)
    mean, variance = layer.get_buffer("running_mean"), layer.get_buffer("running_var")
    affine: tuple[Any, Any, float] = layer.weight, layer.bias, float(layer.eps)  # type: ignore[arg-type]
    expected = case.after(reference.evaluate(x, mean, variance, *affine))
    torch.testing.assert_close(layer(x), expected, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(layer(x[:1]), layer(x)[:1])
    torch.testing.assert_close(layer.state_dict(), before, rtol=0, atol=0)


def layout_does_not_matter(case: Case) -> None:
    """Channels-last and non-contiguous inputs give what contiguous ones give."""
    x = case.draw()
    expected = case.layer()(x)
    last = x.movedim(1, -1).contiguous().movedim(-1, 1)
    torch.testing.assert_close(case.layer()(last), expected)
    strided = torch.stack([x, x], -1)[..., 0]
    torch.testing.assert_close(case.layer()(strided), expected)


def one_value_per_channel_raises(case: Case) -> None:
    """Training on one value per channel raises torch's error."""
    one = torch.zeros(1, _CHANNELS, *(1,) * (case.dims - 2), dtype=torch.float64)
    raised = ""
    try:
        case.layer()(one)
    except ValueError as error:
        raised = str(error)
    assert "Expected more than 1 value per channel when training" in raised, f"it raised {raised or 'nothing'}"


def copies_are_independent(case: Case) -> None:
    """A deep copy after a training forward works and shares no state."""
    layer = case.layer()
    layer(case.draw().requires_grad_())
    twin = copy.deepcopy(layer)
    before = copy.deepcopy(layer.state_dict())
    twin(case.draw(seed=3))
    torch.testing.assert_close(layer.state_dict(), before, rtol=0, atol=0)


CHECKS: tuple[Callable[[Case], None], ...] = (
    state_dict_is_torchs,
    training_output_follows_its_law,
    gradients_follow_its_law,
    running_statistics_move_once_towards_the_whole_batch,
    evaluation_uses_the_running_statistics_and_changes_nothing,
    layout_does_not_matter,
    one_value_per_channel_raises,
    copies_are_independent,
)


def check_layer(
    make: Callable[[int], nn.Module],
    dims: int = 4,
    law: Law = batch_norm_law,
    after: Callable[[Tensor], Tensor] = torch.positive,
) -> None:
    """Run every check on a layer.

    Args:
        make: Builds the layer for a number of channels.
        dims: Dimensions of its input, 2 to 5.
        law: The training output in differentiable torch, from (x, weight, bias, eps), where it is not batch norm's.
        after: What the layer applies to the normalized value in either mode, an activation for example.

    Raises:
        AssertionError: The first check that fails.
    """
    for check in CHECKS:
        check(Case(make, dims, law, after=after))
