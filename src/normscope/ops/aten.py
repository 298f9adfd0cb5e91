"""torch's own batch-norm kernels, and where they are the best there is.

`train` stands behind the package's functional signature: nothing is updated, statistics come back. Its accuracy on data
with a large mean is torch's, except where torch's is lost: in channels_last on a CPU an input of float32 or float64 is
first shifted, per channel, by one of its own values, which costs a pass and keeps the digits.
"""

from __future__ import annotations

import torch
from torch import Tensor

from normscope.ops import cpu

# Elements up to which torch's kernel was measured to be faster (`benchmarks/kernels.py --part small`).
FEW = 1 << 15


def supports(x: Tensor, *values: Tensor | None) -> bool:
    """Whether torch's kernel takes `x` with these parameters and buffers and returns statistics in at least float32."""
    if not x.numel():
        return False
    dtypes = [value.dtype for value in values if value is not None]
    if x.dtype in (torch.float32, torch.float64):
        return all(dtype == x.dtype for dtype in dtypes)
    return x.dtype in (torch.bfloat16, torch.float16) and all(dtype == torch.float32 for dtype in dtypes)


def is_faster(x: Tensor, *values: Tensor | None) -> bool:
    """Whether torch's kernel was measured to be faster on inputs like `x` than one that Python has to call.

    It is also as accurate as ours where `is_near` holds of what it finds.

    Args:
        x: Shape [batch, channels, *spatial].
        values: Parameters and running statistics, all of which must have the dtype of `x`.
    """
    if not 0 < x.numel() <= FEW or x.dtype != torch.float32 or cpu.EXTENSION.module is None:
        return False
    for value in values:
        if value is not None and value.dtype != torch.float32:
            return False
    return x.device.type == "cpu" and x.is_contiguous()


def does_best(x: Tensor, *values: Tensor | None) -> bool:
    """Whether a layer leaves a training forward to torch: on CUDA devices and where `is_faster`; arguments as there."""
    return is_faster(x, *values) or (x.is_cuda and supports(x, *values))


def is_near(mean: Tensor, inverse_deviation: Tensor) -> bool:
    """Whether a mean rounded to float32 costs at most an ulp of the normalized values (2**-24 of the mean)."""
    return cpu.near_zero(mean, inverse_deviation, 8.0)


def tracked(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The training forward that also moves the running statistics, in place: what torch's own layer calls.

    Returns:
        y, the batch mean and 1 / sqrt(biased variance + eps), each of shape [channels].
    """
    given = x, weight, bias, running_mean, running_var, True, momentum, eps
    if x.is_cuda:  # the way to cuDNN, where that takes them
        return torch._batch_norm_impl_index(*given, torch.backends.cudnn.enabled)[:3]
    return torch.native_batch_norm(*given)


def train(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """The training forward: y, the batch mean and the Bessel-corrected variance, each of shape [channels]."""
    dtype = x.dtype if x.dtype == torch.float64 else torch.float32
    mean, variance = torch.zeros(2, x.shape[1], dtype=dtype, device=x.device).unbind()
    pivot = None
    # Differences of narrower numbers would be rounded.
    if x.is_cpu and x.dim() > 2 and not x.is_contiguous() and x.dtype == dtype:
        pivot = x.detach()[(slice(0, 1), slice(None), *(slice(0, 1),) * (x.dim() - 2))]
        x = x - pivot
    # With a momentum of 1 the kernel leaves the batch's own statistics in these buffers.
    y = torch.native_batch_norm(x, weight, bias, mean, variance, True, 1.0, eps)[0]  # noqa: FBT003
    if pivot is not None:
        mean = mean.double() + pivot.flatten().double()
    return y, mean, variance
