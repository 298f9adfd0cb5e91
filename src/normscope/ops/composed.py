"""The operators in plain torch: what runs where the compiled kernels cannot, with the same signatures and results.

A mask here is one byte per element, true where the activation is closed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from normscope.moments import Moments
from normscope.ops import reference
from normscope.ops.activation import ONE_BIT, applied


def closed(z: Tensor, activation: str) -> Tensor:
    """Where an activation of one bit has its other slope: NaN counts as open, as in torch."""
    return (z <= 0) | (z >= 6) if activation == "relu6" else z <= 0


def gated(dy: Tensor, shut: Tensor, activation: str, slope: float) -> Tensor:
    """What an activation of one bit lets through of `dy`."""
    return torch.where(shut, dy * slope if activation == "leaky_relu" else torch.zeros_like(dy), dy)


def moments(x: Tensor, groups: int = 1) -> Tensor:
    """Mean and m2 of each of `groups` equal ghosts, float64, shape [2, groups, channels]."""
    found = [Moments.of(part) for part in x.chunk(groups)]
    return torch.stack([torch.stack([each.mean for each in found]), torch.stack([each.m2 for each in found])])


def values(x: Tensor, groups: int = 1) -> float:
    """Values per channel of each of `groups` ghosts."""
    return x.numel() / (x.shape[1] * groups)


def before_activation(
    x: Tensor, found: Tensor, count: float, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    """`x` normalized by moments of shape [2, groups, channels], without activation; differentiable."""
    parts = x.chunk(found.shape[1])
    return torch.cat(
        [
            reference.evaluate(part, mean, m2 / count, weight, bias, eps)
            for part, mean, m2 in zip(parts, found[0], found[1], strict=True)
        ]
    )


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
    """Y and the mask; the mask is empty where no residual makes one necessary."""
    z = before_activation(x, found, count, weight, bias, eps)
    mask = torch.empty(0, dtype=torch.uint8, device=x.device)
    if residual is not None:
        z = z + residual
        if activation in ONE_BIT:
            mask = closed(z, activation).flatten().to(torch.uint8)
    return applied(z, activation, slope), mask


def gate(
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
    """The gradient of the normalized value, from that of the output."""
    if activation == "none":
        return dy
    if mask.numel():
        return gated(dy, mask.view(x.shape).bool(), activation, slope)
    with torch.enable_grad():
        z = before_activation(x, found, count, weight, bias, eps).detach().requires_grad_()
        return torch.autograd.grad(applied(z, activation, slope), z, dy)[0]


def reduce(g: Tensor, x: Tensor, found: Tensor, count: float, eps: float) -> Tensor:
    """Sums of g and of g times the normalized x, float64, shape [2, groups, channels]."""
    sums = []
    for part, rows, mean, m2 in zip(x.chunk(found.shape[1]), g.chunk(found.shape[1]), found[0], found[1], strict=True):
        _, dgamma, dbeta = reference.backward_evaluate(rows, part, mean, m2 / count, None, eps)
        sums.append(torch.stack([dbeta, dgamma]))
    return torch.stack(sums, 1)


def input_gradient(
    g: Tensor,
    x: Tensor,
    found: Tensor,
    sums: Tensor,
    count: float,
    weight: Tensor | None,
    eps: float,
    batch_statistics: bool,
) -> Tensor:
    """Dx from the gradient of the normalized value and the sums over it."""
    parts = []
    for part, rows, (mean, m2), (dbeta, dgamma) in zip(
        x.chunk(found.shape[1]), g.chunk(found.shape[1]), found.unbind(1), sums.unbind(1), strict=True
    ):
        scale = torch.rsqrt(m2 / count + eps)
        inner = rows.double()
        if batch_statistics:
            x_hat = (part.double() - reference.per_channel(mean, part)) * reference.per_channel(scale, part)
            inner = (
                inner - reference.per_channel(dbeta / count, part) - x_hat * reference.per_channel(dgamma / count, part)
            )
        gain = scale if weight is None else scale * weight.double()
        parts.append((inner * reference.per_channel(gain, part)).to(x.dtype))
    return torch.cat(parts)
