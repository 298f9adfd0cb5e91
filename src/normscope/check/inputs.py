"""What inputs are like: where they are padding, and whether torch's kernel is accurate on them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from normscope.moments import Moments
from normscope.surgery.forward import as_batch


def unpadded(raw: Any) -> Tensor | None:
    """Where the first input is no padding, [batch, length]; None where it does not end in zeros of unequal length."""
    x = as_batch(raw).leaves[0][1]
    if x.dim() == 3:
        content = (x != 0).any(1)
    elif x.dim() == 2 and not x.is_floating_point():
        content = x != 0
    else:
        return None
    lengths = content.shape[1] - content.flip(1).to(torch.uint8).argmax(1)
    if bool((~content.any(1)).any()) or bool((lengths == lengths[0]).all()):
        return None
    return torch.arange(content.shape[1], device=x.device) < lengths[:, None]


def kernel_error(x: Tensor, eps: float) -> tuple[float, float, float]:
    """Of the input `x`, [examples, channels, *positions]: what torch's kernel does to it, worst channel.

    Returns:
        Error of its log deviation, the sampling error of this many values, mean over deviation.
    """
    moments = Moments.of(x)
    _, _, invstd = torch.native_batch_norm(x, None, None, None, None, True, 0.0, eps)  # noqa: FBT003
    exact = (moments.variance("biased") + eps).sqrt()
    live = moments.variance("biased") > 0
    if not bool(live.any()):
        return 0.0, 1.0, 0.0
    error = (invstd.double() * exact).log().abs()[live].nan_to_num(nan=float("inf")).max()
    ratio = (moments.mean.abs() / exact)[live].max()
    return float(error), float((2 * moments.count) ** -0.5), float(ratio)
