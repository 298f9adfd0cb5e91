"""The short way through autograd for eager mode: no operator dispatch, two functions, kernels called with addresses."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from normscope.ops import phases, reference
from normscope.ops.activation import applied


def affine_gradients(sums: Tensor, weight: Tensor | None, bias: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """Dgamma and dbeta in the dtype of the parameters, from sums of shape [2, groups, channels]."""
    total = sums[:, 0] if sums.shape[1] == 1 else sums.sum(1)
    if weight is not None and bias is not None and weight.dtype == bias.dtype:
        dbeta, dgamma = total.to(weight.dtype).unbind(0)
        return dgamma, dbeta
    return None if weight is None else total[1].to(weight.dtype), None if bias is None else total[0].to(bias.dtype)


def differentiable_backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    closed_gain: Tensor | None,
    eps: float,
    activation: str,
    slope: float,
    groups: int,
    statistics: Tensor | None = None,
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor]:
    """Gradients of x, weight, bias and the residual that can be differentiated again, through the reference.

    Args:
        dy: Gradient of the output.
        x: The forward's input.
        weight: gamma or None.
        bias: beta or None.
        closed_gain: What an activation behind a residual multiplies the gradient by, per element; else None.
        eps: As in the forward.
        activation: As in the forward.
        slope: As in the forward.
        groups: As in the forward.
        statistics: Mean and variance, shape [2, 1, channels], of an evaluation; None in training.
    """
    with torch.enable_grad():
        if statistics is None:
            z = torch.cat([reference.train(part, weight, bias, eps)[0] for part in x.chunk(groups)])
        else:
            z = reference.evaluate(x, statistics[0, 0], statistics[1, 0], weight, bias, eps)
        y = z if closed_gain is not None else applied(z, activation, slope)
        g = dy if closed_gain is None else dy * closed_gain
        wanted = [value for value in (x, weight, bias) if value is not None and value.requires_grad]
        found = iter(torch.autograd.grad(y, wanted, g, create_graph=True))
        dx, dgamma, dbeta = (
            next(found) if value is not None and value.requires_grad else None for value in (x, weight, bias)
        )
    return dx, dgamma, dbeta, g


def _closed_gain(
    x: Tensor, found: Tensor, mask: Tensor, activation: str, slope: float, batch_statistics: bool
) -> Tensor:
    """What the mask says each element of a gradient is multiplied by: the residual's gradient for a dy of ones."""
    ones = torch.ones_like(x)
    return phases.backward(
        ones, x, found, 1.0, None, None, mask, 1.0, activation, slope, batch_statistics, residual=True
    )[2]


class Train(torch.autograd.Function):
    """Training: (x, weight, bias, residual, eps, activation, slope, groups) -> y, moments."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        eps: float,
        activation: str,
        slope: float,
        groups: int,
    ) -> tuple[Tensor, Tensor]:
        y, found, mask = phases.batch_norm(x, weight, bias, residual, eps, activation, slope, groups)
        ctx.save_for_backward(x, weight, bias, found, mask)
        ctx.options = (eps, activation, slope, groups, residual is not None)
        ctx.mark_non_differentiable(found)
        ctx.set_materialize_grads(False)
        return y, found

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, _: Tensor | None = None) -> tuple[Tensor | None, ...]:
        if dy is None:
            return (None,) * 8
        x, weight, bias, found, mask = ctx.saved_tensors
        eps, activation, slope, groups, residual = ctx.options
        count = x.numel() / (x.shape[1] * groups)
        if torch.is_grad_enabled():
            gain = _closed_gain(x, found, mask, activation, slope, batch_statistics=True) if residual else None
            grads = differentiable_backward(dy, x, weight, bias, gain, eps, activation, slope, groups)
            return (*grads[:3], grads[3] if residual else None, None, None, None, None)
        dx, sums, dresidual = phases.backward(
            dy, x, found, count, weight, bias, mask, eps, activation, slope, batch_statistics=True, residual=residual
        )
        dgamma, dbeta = affine_gradients(sums, weight, bias)
        return dx, dgamma, dbeta, dresidual if residual else None, None, None, None, None


class Evaluate(torch.autograd.Function):
    """Evaluation: (x, moments, weight, bias, residual, eps, activation, slope) -> y; moments are mean and variance."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        statistics: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        eps: float,
        activation: str,
        slope: float,
    ) -> Tensor:
        y, mask = phases.normalize(x, statistics, 1.0, weight, bias, residual, eps, activation, slope)
        ctx.save_for_backward(x, statistics, weight, bias, mask)
        ctx.options = (eps, activation, slope, residual is not None)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, statistics, weight, bias, mask = ctx.saved_tensors
        eps, activation, slope, residual = ctx.options
        if torch.is_grad_enabled():
            gain = _closed_gain(x, statistics, mask, activation, slope, batch_statistics=False) if residual else None
            grads = differentiable_backward(dy, x, weight, bias, gain, eps, activation, slope, 1, statistics)
            return (grads[0], None, *grads[1:3], grads[3] if residual else None, None, None, None)
        dx, sums, dresidual = phases.backward(
            dy,
            x,
            statistics,
            1.0,
            weight,
            bias,
            mask,
            eps,
            activation,
            slope,
            batch_statistics=False,
            residual=residual,
        )
        dgamma, dbeta = affine_gradients(sums, weight, bias)
        return dx, None, dgamma, dbeta, dresidual if residual else None, None, None, None


class Transformed(torch.autograd.Function):
    """Training under torch.func: the operator forward, and a backward that vmap and grad see through to any order.

    (x, weight, bias, eps, groups) -> y, moments.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, groups: int
    ) -> tuple[Tensor, Tensor]:
        y, found, _ = torch.ops.normscope.batch_norm(x, weight, bias, None, eps, "none", 0.0, groups)
        return y, found

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        x, weight, bias, ctx.eps, ctx.groups = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, dy: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias = ctx.saved_tensors
        parts = [
            reference.backward(g, part, weight, ctx.eps)
            for g, part in zip(dy.chunk(ctx.groups), x.chunk(ctx.groups), strict=True)
        ]
        dx = torch.cat([part[0] for part in parts])
        dgamma = None if weight is None else sum(part[1] for part in parts).to(weight.dtype)  # type: ignore[union-attr]
        dbeta = None if bias is None else sum(part[2] for part in parts).to(bias.dtype)  # type: ignore[union-attr]
        return dx, dgamma, dbeta, None, None
