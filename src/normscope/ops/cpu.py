"""The compiled kernels behind the package's functional signatures, or the reason why there are none.

They take addresses and numbers and know nothing of torch, so the callers here answer for dtypes, devices and layouts:
`objection` says why a tensor may not come, `laid_out` brings it into a layout that the kernels walk along. Between two
kernels Python runs with cold caches and calls cost microseconds, so `forward` and `backward` write each address out.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from normscope.ops.activation import FUSED

_DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float64: 2}
# The dtypes that weight and bias may have for an input of each of these, that which the kernels read first.
PARAMETERS = {
    torch.float32: (torch.float32,),
    torch.bfloat16: (torch.float32, torch.bfloat16),
    torch.float64: (torch.float64,),
}
STATISTICS, APPLY = 1, 2


@dataclass(frozen=True)
class Extension:
    """The loaded extension module, or None and the reason."""

    module: Any
    reason: str

    @property
    def levels(self) -> tuple[str, ...]:
        """Names of the instruction-set levels that this machine runs, best first."""
        return tuple(self.module.level_names()) if self.module is not None else ()

    @property
    def identity(self) -> str:
        """What numbers depend on: the level in use and a hash of sources and compiler, or that there are no kernels."""
        if self.module is None:
            return "not installed"
        return f"{self.levels[level_in_use]}, build {self.module.fingerprint}"


def _load() -> Extension:
    try:
        module = importlib.import_module("normscope.ops._kernels")
    except ImportError as error:
        return Extension(None, f"the compiled kernels are not installed ({error})")
    return Extension(module, "compiled kernels are installed")


# Loaded after torch, so that both share one pool of threads; a constant, so that torch.compile sees through it.
EXTENSION = _load()

# Which of the machine's levels runs; 0 is the best.
level_in_use = 0


def objection(x: Tensor) -> str:
    """Why the kernels cannot take `x`; empty when they can."""
    if EXTENSION.module is None:
        return EXTENSION.reason
    if not x.is_cpu or x.layout != torch.strided:
        return f"the compiled kernels run on strided CPU tensors, this one is {x.layout} on {x.device}"
    if x.dtype not in _DTYPES:
        return f"the compiled kernels take float32, bfloat16 and float64, this tensor is {x.dtype}"
    if x.dim() < 2 or x.numel() == 0:
        return "the compiled kernels take [batch, channels, *spatial] with at least one element"
    return ""


def _channels_last(x: Tensor) -> bool:
    if x.dim() == 4:
        return x.is_contiguous(memory_format=torch.channels_last)
    return x.dim() > 2 and x.movedim(1, -1).is_contiguous()


def laid_out(x: Tensor) -> Tensor:
    """`x` itself where its elements lie contiguous or channels last, else a contiguous copy."""
    return x if x.is_contiguous() or _channels_last(x) else x.contiguous()


def laid_out_like(value: Tensor, x: Tensor) -> Tensor:
    """`value` with the strides and dtype of `x`."""
    if value.stride() == x.stride() and value.dtype == x.dtype:
        return value
    return torch.empty_like(x).copy_(value)


def ready(x: Tensor, parameter: Tensor | None) -> Tensor | None:
    """A parameter as the kernels read it for `x`: itself where that is how it is, which is cheap to ask."""
    if parameter is None:
        return None
    dtype = PARAMETERS[x.dtype][0]
    if parameter.dtype == dtype and parameter.is_contiguous():
        return parameter
    return parameter.detach().to(dtype).contiguous()


def new_moments(x: Tensor, groups: int) -> Tensor:
    """Memory for the moments of `x` in `groups` ghosts, shape [2, groups, channels]."""
    return torch.empty(2, groups, x.shape[1], dtype=torch.float64, device=x.device)


def _extent(x: Tensor, groups: int) -> tuple[int, int, int]:
    """Samples of a group, channels, and values per channel of a sample."""
    samples, channels = x.shape[:2]
    return samples // groups, channels, x.numel() // (samples * channels)


def new_mask(x: Tensor, groups: int = 1) -> Tensor:
    """Memory for one bit per element of `x`, shape [bytes]."""
    batch, channels, inner = _extent(x, groups)
    size = EXTENSION.module.mask_bytes(_DTYPES[x.dtype], batch, channels, inner, not x.is_contiguous(), groups)
    return torch.empty(size, dtype=torch.uint8)


def forward(
    x: Tensor,
    y: Tensor | None,
    moments: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    *,
    phases: int = STATISTICS | APPLY,
    count: float = 0.0,
    residual: Tensor | None = None,
    mask: Tensor | None = None,
    activation: str = "none",
    slope: float = 0.0,
    groups: int = 1,
) -> bool:
    """Write the moments of `x`, y and the mask, or the part of them that `phases` says.

    Args:
        x: Shape [batch, channels, *spatial], laid out.
        y: Memory with the strides of `x`.
        moments: float64, shape [2, groups, channels], contiguous: mean and m2; read where the statistics phase is not
            run.
        weight: gamma, in the dtype that the kernels read (`PARAMETERS`), contiguous.
        bias: beta, likewise.
        eps: Added to the variance m2 / count.
        phases: STATISTICS, APPLY or both.
        count: What m2 is divided by; 0 for the values per channel of a group.
        residual: Added before the activation, strides of `x`.
        mask: From `new_mask`, written when there is a residual and an activation of one bit.
        activation: A key of FUSED.
        slope: Of leaky ReLU below zero.
        groups: Equal ghosts that the batch consists of.

    Returns:
        Whether a variance is too large for float32's range, so that what was written is not to be used; never of a
        float64 `x`.
    """
    batch, channels, inner = _extent(x, groups)
    beyond: bool = EXTENSION.module.forward(
        level_in_use, _DTYPES[x.dtype], batch, channels, inner, not x.is_contiguous(), torch.get_num_threads(), phases,
        groups, x.data_ptr(),
        0 if residual is None else residual.data_ptr(),
        0 if y is None else y.data_ptr(),
        0 if mask is None else mask.data_ptr(),
        0 if weight is None else weight.data_ptr(),
        0 if bias is None else bias.data_ptr(),
        eps, count or float(batch * inner), moments.data_ptr(), FUSED[activation], slope,
    )  # fmt: skip
    return beyond


def backward(
    dy: Tensor,
    x: Tensor,
    dx: Tensor | None,
    moments: Tensor,
    sums: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    *,
    phases: int = STATISTICS | APPLY,
    count: float = 0.0,
    batch_statistics: bool = True,
    dweight: Tensor | None = None,
    dbias: Tensor | None = None,
    dresidual: Tensor | None = None,
    mask: Tensor | None = None,
    activation: str = "none",
    slope: float = 0.0,
    groups: int = 1,
) -> None:
    """Write the sums over dy, dx and the residual's gradient, or the part of them that `phases` says.

    Args:
        dy: Gradient of the output, strides of `x`.
        x: The forward's input.
        dx: Memory with the strides of `x`.
        moments: As the forward left them.
        sums: float64, shape [2, groups, channels], contiguous: dbeta and dgamma; read where the statistics phase is not
            run; None where nobody asks for them.
        weight: As in the forward.
        bias: As in the forward; needed to compute an activation's input again.
        eps: As in the forward.
        phases: STATISTICS, APPLY or both.
        count: As in the forward.
        batch_statistics: Whether the moments depend on `x`, as in training.
        dweight: Memory for dgamma over all groups, in the dtype of `weight` above, or None.
        dbias: Memory for dbeta, likewise.
        dresidual: Memory with the strides of `x`, or None.
        mask: As the forward left it.
        activation: As in the forward.
        slope: As in the forward.
        groups: As in the forward.
    """
    batch, channels, inner = _extent(x, groups)
    EXTENSION.module.backward(
        level_in_use, _DTYPES[x.dtype], batch, channels, inner, not x.is_contiguous(), torch.get_num_threads(), phases,
        groups, dy.data_ptr(), x.data_ptr(),
        0 if dx is None else dx.data_ptr(),
        0 if dresidual is None else dresidual.data_ptr(),
        0 if mask is None else mask.data_ptr(),
        0 if weight is None else weight.data_ptr(),
        0 if bias is None else bias.data_ptr(),
        eps, count or float(batch * inner), moments.data_ptr(),
        0 if sums is None else sums.data_ptr(),
        0 if dweight is None else dweight.data_ptr(),
        0 if dbias is None else dbias.data_ptr(),
        batch_statistics, FUSED[activation], slope,
    )  # fmt: skip


def near_zero(mean: Tensor, inverse_deviation: Tensor, limit: float) -> bool:
    """Whether every channel's mean lies within `limit` deviations of zero; float32, shape [channels], contiguous."""
    near: bool = EXTENSION.module.near_zero(mean.data_ptr(), inverse_deviation.data_ptr(), mean.shape[0], limit)
    return near


def increment(counter: Tensor) -> None:
    """Add 1 in place to a tensor of one whole number; an addition by torch costs as much as a small kernel."""
    if counter.dtype == torch.int64 and counter.device.type == "cpu":
        EXTENSION.module.increment(counter.data_ptr())
        torch.autograd.graph.increment_version(counter)
    else:
        counter.add_(1)


def can_update(running_mean: Tensor, running_var: Tensor) -> bool:
    """Whether `update` may write into these buffers."""
    dtype = running_mean.dtype
    if EXTENSION.module is None or dtype not in (torch.float32, torch.float64) or running_var.dtype != dtype:
        return False
    return all(v.device.type == "cpu" and v.is_contiguous() and type(v) is Tensor for v in (running_mean, running_var))


def update(running_mean: Tensor, running_var: Tensor, moments: Tensor, count: float, factor: float) -> None:
    """Move running statistics in place towards moments of shape [2, 1, channels]; Bessel-corrected variance."""
    EXTENSION.module.update(
        running_mean.dtype == torch.float64, running_mean.data_ptr(), running_var.data_ptr(), moments.data_ptr(),
        moments.shape[-1], count, factor,
    )  # fmt: skip
    torch.autograd.graph.increment_version((running_mean, running_var))
