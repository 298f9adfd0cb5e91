"""The short way through autograd for eager mode: no operator dispatch, two functions, kernels called with addresses."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import unwrap_if_dead

from normscope.ops import cpu, phases, reference
from normscope.ops.activation import ONE_BIT, applied


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


def _mask(x: Tensor, activation: str, groups: int) -> Tensor | None:
    return cpu.new_mask(x, groups) if activation in ONE_BIT else None


def _memory_for(parameter: Tensor | None, wanted: bool) -> Tensor | None:
    return torch.empty_like(parameter) if wanted and parameter is not None else None


def _gradients(
    ctx: Any, dy: Tensor, count: float, batch_statistics: bool
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """Dx, dgamma, dbeta and the residual's gradient, by the kernels."""
    x, weight, bias, found, mask = ctx.saved_tensors
    eps, activation, slope, residual = ctx.options
    x = cpu.laid_out(x)
    dx, other = torch.empty_like(x), torch.empty_like(x) if residual else None
    gamma, beta = cpu.ready(x, weight), cpu.ready(x, bias)
    dgamma, dbeta = _memory_for(gamma, ctx.needs_input_grad[1]), _memory_for(beta, ctx.needs_input_grad[2])
    cpu.backward(
        cpu.laid_out_like(dy, x), x, dx, found, None, gamma, beta, eps, count=count,
        batch_statistics=batch_statistics, dweight=dgamma, dbias=dbeta, dresidual=other, mask=mask,
        activation=activation, slope=slope, groups=found.shape[1],
    )  # fmt: skip
    if dgamma is not None and dgamma.dtype != weight.dtype:
        dgamma = dgamma.to(weight.dtype)
    if dbeta is not None and dbeta.dtype != bias.dtype:
        dbeta = dbeta.to(bias.dtype)
    return dx, dgamma, dbeta, other


def _differentiable(ctx: Any, dy: Tensor, statistics: Tensor | None) -> tuple[Tensor | None, ...]:
    """What `_gradients` returns, differentiable; without a residual its gradient is None."""
    x, weight, bias, found, mask = ctx.saved_tensors
    eps, activation, slope, residual = ctx.options
    gain = None
    if residual:
        mask = x.new_empty(0, dtype=torch.uint8) if mask is None else mask
        gain = _closed_gain(x, found, mask, activation, slope, batch_statistics=statistics is None)
    grads = differentiable_backward(dy, x, weight, bias, gain, eps, activation, slope, found.shape[1], statistics)
    return grads if residual else (*grads[:3], None)


# Moments or the memory for them, eps, activation, slope: nobody asks for their gradients, and one argument is cheaper.
Options = tuple[Tensor, float, str, float]


class Train(torch.autograd.Function):
    """Training: (x, weight, bias, residual, (memory for moments, eps, activation, slope)) -> y.

    The moments come back in memory of the caller's: a second output would cost more than a small kernel. Its forward
    raises OverflowError where a variance is so large that its square roots and inverses leave the range of float32.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        options: Options,
    ) -> Tensor:
        found, eps, activation, slope = options
        lain, groups, mask = cpu.laid_out(x), found.shape[1], None
        y = torch.empty_like(lain)
        if residual is not None:
            mask, residual = _mask(lain, activation, groups), cpu.laid_out_like(residual, lain)
        if cpu.forward(
            lain, y, found, cpu.ready(x, weight), cpu.ready(x, bias), eps, residual=residual, mask=mask,
            activation=activation, slope=slope, groups=groups,
        ):  # fmt: skip
            raise OverflowError
        ctx.save_for_backward(x, weight, bias, found, mask)
        ctx.options = (eps, activation, slope, residual is not None)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            grads = _differentiable(ctx, dy, None)
        else:
            grads = _gradients(ctx, dy, 0.0, batch_statistics=True)
        return (*grads, None)


# Without the Python that autograd.Function runs for the transforms of torch.func.
_apply = super(torch.autograd.Function, Train).apply


def train(x: Tensor, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None, options: Options) -> Tensor:
    """`Train.apply` where no transform of torch.func is active, in a tenth less of what it takes outside the kernels.

    Of what is left out, only one step matters there: a tensor that escaped from a transform may still be wrapped.
    """
    y: Tensor = _apply(  # type: ignore[no-untyped-call]
        unwrap_if_dead(x),
        None if weight is None else unwrap_if_dead(weight),
        None if bias is None else unwrap_if_dead(bias),
        None if residual is None else unwrap_if_dead(residual),
        options,
    )
    return y


class Evaluate(torch.autograd.Function):
    """Evaluation: (x, weight, bias, residual, (mean and variance, eps, activation, slope)) -> y."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        options: Options,
    ) -> Tensor:
        statistics, eps, activation, slope = options
        lain, mask = cpu.laid_out(x), None
        y = torch.empty_like(lain)
        if residual is not None:
            mask, residual = _mask(lain, activation, 1), cpu.laid_out_like(residual, lain)
        cpu.forward(
            lain, y, statistics, cpu.ready(x, weight), cpu.ready(x, bias), eps, phases=cpu.APPLY, count=1.0,
            residual=residual, mask=mask, activation=activation, slope=slope,
        )  # fmt: skip
        ctx.save_for_backward(x, weight, bias, statistics, mask)
        ctx.options = (eps, activation, slope, residual is not None)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            grads = _differentiable(ctx, dy, ctx.saved_tensors[3])
        else:
            grads = _gradients(ctx, dy, 1.0, batch_statistics=False)
        return (*grads, None)


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
