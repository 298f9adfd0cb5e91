"""The four phases and the two fused calls, by the compiled kernels where they can and by plain torch elsewhere.

These are the bodies of the operators in `normscope.ops.schema` and of the eager layers. None is differentiable itself.
Moments are float64 of shape [2, groups, channels]: mean and m2; sums likewise: dbeta and dgamma.
"""

from __future__ import annotations

import torch
from torch import Tensor

from normscope.ops import composed, cpu
from normscope.ops.activation import FUSED, ONE_BIT


def _compiled(x: Tensor, activation: str) -> bool:
    return activation in FUSED and not cpu.objection(x)


def _given(mask: Tensor) -> Tensor | None:
    return mask if mask.numel() else None


def mask_for(x: Tensor, residual: Tensor | None, activation: str, groups: int) -> Tensor:
    """Memory for the mask, empty where none is needed, shape [bytes]."""
    if residual is None or activation not in ONE_BIT:
        return torch.empty(0, dtype=torch.uint8, device=x.device)
    if not _compiled(x, activation):
        return torch.empty(x.numel(), dtype=torch.uint8, device=x.device)
    return cpu.new_mask(x, groups)


def moments(x: Tensor) -> Tensor:
    """Mean and m2 of every channel of `x`, shape [2, 1, channels]."""
    if not _compiled(x, "none"):
        return composed.moments(x)
    found = cpu.new_moments(x, 1)
    cpu.forward(cpu.laid_out(x), None, found, None, None, 0.0, phases=cpu.STATISTICS)
    return found


def normalize(
    x: Tensor,
    found: Tensor,
    count: float,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    eps: float,
    activation: str,
    slope: float,
) -> tuple[Tensor, Tensor]:
    """Y = activation(x normalized by given moments, + residual), and the mask for the backward.

    Args:
        x: Shape [batch, channels, *spatial].
        found: Moments, shape [2, 1, channels].
        count: What m2 is divided by: the values behind the moments, or 1 where m2 holds variances.
        weight: gamma or None.
        bias: beta or None.
        residual: Shape of `x`, or None.
        eps: Added to the variance.
        activation: A name of `normscope.ops.activation`.
        slope: Of leaky ReLU below zero.
    """
    if not _compiled(x, activation):
        return composed.normalize(x, found, count, weight, bias, residual, eps, activation, slope)
    x = cpu.laid_out(x)
    y, mask = torch.empty_like(x), mask_for(x, residual, activation, 1)
    other = None if residual is None else cpu.laid_out_like(residual, x)
    cpu.forward(
        x, y, found.contiguous(), cpu.ready(x, weight), cpu.ready(x, bias), eps, phases=cpu.APPLY, count=count,
        residual=other,
        mask=_given(mask), activation=activation, slope=slope,
    )  # fmt: skip
    return y, mask


def batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    eps: float,
    activation: str,
    slope: float,
    groups: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """The training forward in one call: y, moments and mask; `groups` equal ghosts, each by its own moments."""
    if not _compiled(x, activation):
        found = composed.moments(x, groups)
        count = composed.values(x, groups)
        y, mask = composed.normalize(x, found, count, weight, bias, residual, eps, activation, slope)
        return y, found, mask
    x = cpu.laid_out(x)
    y, found, mask = torch.empty_like(x), cpu.new_moments(x, groups), mask_for(x, residual, activation, groups)
    other = None if residual is None else cpu.laid_out_like(residual, x)
    cpu.forward(
        x, y, found, cpu.ready(x, weight), cpu.ready(x, bias), eps, residual=other, mask=_given(mask),
        activation=activation, slope=slope, groups=groups,
    )  # fmt: skip
    return y, found, mask


def backward(
    dy: Tensor,
    x: Tensor,
    found: Tensor,
    count: float,
    weight: Tensor | None,
    bias: Tensor | None,
    mask: Tensor,
    eps: float,
    activation: str,
    slope: float,
    batch_statistics: bool,
    residual: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The backward in one call: dx, the sums, and the residual's gradient (empty where there was no residual)."""
    if not _compiled(x, activation):
        g = composed.gate(dy, x, found, count, weight, bias, mask, eps, activation, slope)
        sums = composed.reduce(g, x, found, count, eps)
        dx = composed.input_gradient(g, x, found, sums, count, weight, eps, batch_statistics)
        return dx, sums, g.clone() if residual else x.new_empty(0)
    x = cpu.laid_out(x)
    dy = cpu.laid_out_like(dy, x)
    found = found.contiguous()
    dx, sums = torch.empty_like(x), torch.empty_like(found)
    other = torch.empty_like(x) if residual else None
    cpu.backward(
        dy, x, dx, found, sums, cpu.ready(x, weight), cpu.ready(x, bias), eps, count=count,
        batch_statistics=batch_statistics, dresidual=other, mask=_given(mask), activation=activation, slope=slope,
        groups=found.shape[1],
    )  # fmt: skip
    return dx, sums, x.new_empty(0) if other is None else other


def backward_reduce(
    dy: Tensor,
    x: Tensor,
    found: Tensor,
    count: float,
    weight: Tensor | None,
    bias: Tensor | None,
    mask: Tensor,
    eps: float,
    activation: str,
    slope: float,
) -> Tensor:
    """The sums over this part of a batch, shape [2, 1, channels], before a collective adds up the parts'."""
    if not _compiled(x, activation):
        g = composed.gate(dy, x, found, count, weight, bias, mask, eps, activation, slope)
        return composed.reduce(g, x, found, count, eps)
    x = cpu.laid_out(x)
    found = found.contiguous()
    sums = torch.empty_like(found)
    cpu.backward(
        cpu.laid_out_like(dy, x), x, None, found, sums, cpu.ready(x, weight), cpu.ready(x, bias), eps,
        phases=cpu.STATISTICS, count=count, mask=_given(mask), activation=activation, slope=slope,
    )  # fmt: skip
    return sums


def backward_input(
    dy: Tensor,
    x: Tensor,
    found: Tensor,
    sums: Tensor,
    count: float,
    weight: Tensor | None,
    bias: Tensor | None,
    mask: Tensor,
    eps: float,
    activation: str,
    slope: float,
    batch_statistics: bool,
    residual: bool,
) -> tuple[Tensor, Tensor]:
    """Dx and the residual's gradient (empty without a residual), from sums over the whole batch."""
    if not _compiled(x, activation):
        g = composed.gate(dy, x, found, count, weight, bias, mask, eps, activation, slope)
        dx = composed.input_gradient(g, x, found, sums, count, weight, eps, batch_statistics)
        return dx, g.clone() if residual else x.new_empty(0)
    x = cpu.laid_out(x)
    dx, other = torch.empty_like(x), torch.empty_like(x) if residual else None
    cpu.backward(
        cpu.laid_out_like(dy, x), x, dx, found.contiguous(), sums.contiguous(), cpu.ready(x, weight),
        cpu.ready(x, bias), eps, phases=cpu.APPLY, count=count, batch_statistics=batch_statistics, dresidual=other,
        mask=_given(mask), activation=activation, slope=slope,
    )  # fmt: skip
    return dx, x.new_empty(0) if other is None else other
