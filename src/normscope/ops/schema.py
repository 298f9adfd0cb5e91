"""The operators, declared once: what torch.compile, torch.export and torch.func see of the arithmetic.

`normscope::batch_norm` is the fused training forward, `normscope::batch_norm_backward` its backward; `moments`,
`normalize`, `backward_reduce` and `backward_input` are their phases, between which a collective can merge moments and
add up sums. Shapes and meaning stand in `normscope.ops.phases`, whose functions are the bodies. Importing this
registers them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from normscope.ops import cpu, phases
from normscope.ops.eager import affine_gradients, differentiable_backward

_MASKED = "Tensor? weight, Tensor? bias, Tensor mask, float eps, str activation, float slope"
_SCHEMAS = {
    "moments": "(Tensor x) -> Tensor",
    "normalize": "(Tensor x, Tensor moments, float count, Tensor? weight, Tensor? bias, Tensor? residual, float eps,"
    " str activation, float slope) -> (Tensor, Tensor)",
    "backward_reduce": f"(Tensor dy, Tensor x, Tensor moments, float count, {_MASKED}) -> Tensor",
    "backward_input": f"(Tensor dy, Tensor x, Tensor moments, Tensor sums, float count, {_MASKED},"
    " bool batch_statistics, bool residual) -> (Tensor, Tensor)",
    "batch_norm": "(Tensor x, Tensor? weight, Tensor? bias, Tensor? residual, float eps, str activation, float slope,"
    " int groups) -> (Tensor, Tensor, Tensor)",
    "batch_norm_backward": f"(Tensor dy, Tensor x, Tensor moments, float count, {_MASKED},"
    " bool batch_statistics, bool residual) -> (Tensor, Tensor, Tensor)",
}
_BODIES: dict[str, Callable[..., Any]] = {
    "moments": phases.moments,
    "normalize": phases.normalize,
    "backward_reduce": phases.backward_reduce,
    "backward_input": phases.backward_input,
    "batch_norm": phases.batch_norm,
    "batch_norm_backward": phases.backward,
}

for _name, _schema in _SCHEMAS.items():
    torch.library.define(f"normscope::{_name}", _schema, tags=(torch.Tag.pt2_compliant_tag,))
    torch.library.impl(f"normscope::{_name}", "CompositeExplicitAutograd")(_BODIES[_name])


batch_norm = torch.ops.normscope.batch_norm


def _fake(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return torch.library.register_fake(f"normscope::{name}")  # type: ignore[no-any-return,unused-ignore]


def _vmap(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return torch.library.register_vmap(f"normscope::{name}")  # type: ignore[no-any-return,unused-ignore]


def _like(x: Tensor) -> Tensor:
    """What the bodies make for an output: the strides of an input that lies dense, else contiguous."""
    return torch.empty_like(cpu.laid_out(x))


def _new_moments(x: Tensor, groups: int = 1) -> Tensor:
    return x.new_empty((2, groups, x.shape[1]), dtype=torch.float64)


def _gradient_of_residual(x: Tensor, residual: bool) -> Tensor:
    return _like(x) if residual else x.new_empty(0)


@_fake("moments")
def _(x: Tensor) -> Tensor:
    return _new_moments(x)


@_fake("normalize")
def _(x: Tensor, _m: Tensor, _n: float, _w: Any, _b: Any, residual: Any, _e: float, activation: str, _s: float) -> Any:
    return _like(x), phases.mask_for(x, residual, activation, 1)


@_fake("backward_reduce")
def _(_dy: Tensor, _x: Tensor, moments: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(moments)


@_fake("backward_input")
def _(_dy: Tensor, x: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    return _like(x), _gradient_of_residual(x, options[-1])


@_fake("batch_norm")
def _(x: Tensor, _w: Any, _b: Any, residual: Any, _e: float, activation: str, _s: float, groups: int) -> Any:
    return _like(x), _new_moments(x, groups), phases.mask_for(x, residual, activation, groups)


@_fake("batch_norm_backward")
def _(_dy: Tensor, x: Tensor, moments: Tensor, *options: Any) -> tuple[Tensor, Tensor, Tensor]:
    return _like(x), torch.empty_like(moments), _gradient_of_residual(x, options[-1])


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, weight, bias, residual, *options = inputs
    ctx.save_for_backward(x, weight, bias, output[1], output[2])
    ctx.options, ctx.residual = options, residual is not None
    ctx.mark_non_differentiable(output[1], output[2])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, dy: Tensor | None, *_: Any) -> tuple[Any, ...]:
    if dy is None:
        return (None,) * 8
    x, weight, bias, found, mask = ctx.saved_tensors
    eps, activation, slope, groups = ctx.options
    if torch.is_grad_enabled() and not ctx.residual and not torch.compiler.is_compiling():
        grads = differentiable_backward(dy, x, weight, bias, None, eps, activation, slope, groups)
        return (*grads[:3], None, None, None, None, None)
    count = x.numel() / (x.shape[1] * groups)
    options = (mask, eps, activation, slope, True, ctx.residual)
    dx, sums, dresidual = torch.ops.normscope.batch_norm_backward(dy, x, found, count, weight, bias, *options)
    dgamma, dbeta = affine_gradients(sums, weight, bias)
    return dx, dgamma, dbeta, dresidual if ctx.residual else None, None, None, None, None


torch.library.register_autograd("normscope::batch_norm", _backward, setup_context=_setup)


def _beside(value: Tensor | None, dim: int | None, size: int, channels_at: int) -> Tensor | None:
    """An ensemble's tensors, stacked on `dim` (None: one for all), laid side by side as more channels."""
    if value is None:
        return None
    stacked = value.unsqueeze(0).expand(size, *value.shape) if dim is None else value.movedim(dim, 0)
    if channels_at == 0:
        return stacked.flatten(0, 1)
    return stacked.movedim(0, 1).flatten(1, 2)


def _apart(value: Tensor, size: int, channels_at: int) -> Tensor:
    apart: Tensor = value.unflatten(channels_at, (size, -1))  # type: ignore[no-untyped-call,unused-ignore]
    return apart.movedim(channels_at, 0)


@_vmap("batch_norm")
def _(info: Any, dims: tuple[int | None, ...], x: Any, weight: Any, bias: Any, residual: Any, *options: Any) -> Any:
    size = info.batch_size
    y, found, mask = torch.ops.normscope.batch_norm(
        _beside(x, dims[0], size, 1),
        _beside(weight, dims[1], size, 0),
        _beside(bias, dims[2], size, 0),
        _beside(residual, dims[3], size, 1),
        *options,
    )
    return (_apart(y, size, 1), _apart(found, size, 2), mask), (0, 0, None)


@_vmap("batch_norm_backward")
def _(info: Any, dims: tuple[int | None, ...], dy: Any, x: Any, moments: Any, count: Any, weight: Any, bias: Any,
      mask: Any, *options: Any) -> Any:  # fmt: skip
    size = info.batch_size
    stacked = moments.unsqueeze(0).expand(size, *moments.shape) if dims[2] is None else moments.movedim(dims[2], 0)
    dx, sums, dresidual = torch.ops.normscope.batch_norm_backward(
        _beside(dy, dims[0], size, 1), _beside(x, dims[1], size, 1), stacked.movedim(0, 2).flatten(2, 3), count,
        _beside(weight, dims[4], size, 0), _beside(bias, dims[5], size, 0), mask, *options,
    )  # fmt: skip
    has_residual = options[-1]
    apart = _apart(dresidual, size, 1) if has_residual else dresidual
    return (_apart(dx, size, 1), _apart(sums, size, 2), apart), (0, 0, 0 if has_residual else None)
