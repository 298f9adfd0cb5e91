"""The specification: batch normalization in readable torch, on any device and in any real dtype.

Training (Ioffe & Szegedy 2015, Algorithm 1: bibliography key ioffe2015), m values per channel::

    mu = sum(x) / m                        v = sum((x - mu)^2) / m
    x_hat = (x - mu) / sqrt(v + eps)       y = gamma * x_hat + beta

Evaluation replaces mu and v by the running statistics. Backward of the training form::

    dbeta = sum(dy)                        dgamma = sum(dy * x_hat)
    dx = gamma / sqrt(v + eps) * (dy - dbeta / m - x_hat * dgamma / m)

The arithmetic is done in float64 whatever the dtype of `x`, and rounded once at the end. Every function is
differentiable by autograd any number of times; the moments handed out are not part of the graph.
"""

from __future__ import annotations

import torch
from torch import Tensor

from normscope.moments import Moments


def per_channel(values: Tensor, like: Tensor) -> Tensor:
    """A view of `values`, shape [channels], that broadcasts over `like`, shape [batch, channels, *spatial]."""
    return values.reshape(1, -1, *(1,) * (like.dim() - 2))


def _axes(x: Tensor) -> list[int]:
    return [0, *range(2, x.dim())]


def _centred(x: Tensor) -> tuple[Tensor, Tensor]:
    """float64 deviations from the mean, shape of `x`, and the mean, shape [channels].

    The second subtraction removes what rounding left in the first: the residual-sum correction.
    """
    wide = x.double()
    rough = wide.mean(_axes(x))
    deviations = wide - per_channel(rough, x)
    low = deviations.mean(_axes(x))
    return deviations - per_channel(low, x), rough + low


def _affine(normalized: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    if weight is not None:
        normalized = normalized * per_channel(weight.double(), normalized)
    if bias is not None:
        normalized = normalized + per_channel(bias.double(), normalized)
    return normalized


def train(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> tuple[Tensor, Moments]:
    """The training forward.

    Args:
        x: Shape [batch, channels, *spatial].
        weight: gamma, shape [channels], or None for 1.
        bias: beta, shape [channels], or None for 0.
        eps: Added to the biased variance.

    Returns:
        y, of the shape and dtype of `x`, and the moments of `x` per channel.
    """
    deviations, mean = _centred(x)
    variance = deviations.square().mean(_axes(x))
    y = _affine(deviations * per_channel(torch.rsqrt(variance + eps), x), weight, bias)
    count = mean.new_tensor(float(x.numel() // max(1, x.shape[1])))
    return y.to(x.dtype), Moments(count, mean.detach(), variance.detach() * count)


def evaluate(
    x: Tensor, mean: Tensor, variance: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    """The evaluation forward: `x` normalized by a given mean and variance, each of shape [channels]."""
    deviations = x.double() - per_channel(mean.double(), x)
    normalized = deviations * per_channel(torch.rsqrt(variance.double() + eps), x)
    return _affine(normalized, weight, bias).to(x.dtype)


def backward(dy: Tensor, x: Tensor, weight: Tensor | None, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """The backward of the training forward, by the formula above.

    Args:
        dy: Gradient of the loss with respect to y, shape of `x`.
        x: The input of the forward, shape [batch, channels, *spatial].
        weight: gamma, shape [channels], or None for 1.
        eps: As in the forward.

    Returns:
        dx in the dtype of `x`; dgamma and dbeta, shape [channels], in float64.
    """
    deviations, _ = _centred(x)
    scale = torch.rsqrt(deviations.square().mean(_axes(x)) + eps)
    normalized = deviations * per_channel(scale, x)
    wide = dy.double()
    dbeta, dgamma = wide.sum(_axes(x)), (wide * normalized).sum(_axes(x))
    count = x.numel() // max(1, x.shape[1])
    inner = wide - per_channel(dbeta / count, x) - normalized * per_channel(dgamma / count, x)
    gain = scale if weight is None else scale * weight.double()
    return (inner * per_channel(gain, x)).to(x.dtype), dgamma, dbeta


def backward_evaluate(
    dy: Tensor, x: Tensor, mean: Tensor, variance: Tensor, weight: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The backward of the evaluation forward; returns what `backward` does. The statistics get no gradient."""
    scale = torch.rsqrt(variance.double() + eps)
    normalized = (x.double() - per_channel(mean.double(), x)) * per_channel(scale, x)
    wide = dy.double()
    gain = scale if weight is None else scale * weight.double()
    dx = (wide * per_channel(gain, x)).to(x.dtype)
    return dx, (wide * normalized).sum(_axes(x)), wide.sum(_axes(x))


def updated(running_mean: Tensor, running_var: Tensor, batch: Moments, factor: float) -> tuple[Tensor, Tensor]:
    """The running statistics after a batch: (1 - factor) * running + factor * batch, variance Bessel-corrected.

    Args:
        running_mean: Shape [channels].
        running_var: Shape [channels].
        batch: Moments of the batch.
        factor: torch's momentum; 1 / batches seen for a cumulative average.

    Returns:
        The new mean and variance, in the dtype of the old ones.
    """
    mean = (1 - factor) * running_mean.double() + factor * batch.mean
    variance = (1 - factor) * running_var.double() + factor * batch.variance("bessel")
    return mean.to(running_mean.dtype), variance.to(running_var.dtype)
