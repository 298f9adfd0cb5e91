"""Batch normalization: torch's layers with the batch's moments handed out.

Training normalizes by the biased variance of the mini-batch, evaluation by the running statistics; the Bessel-corrected
variance is tracked. The formula stands in `normscope.ops.reference`; the paper is ioffe2015 in the bibliography.
"""

from __future__ import annotations

from torch import Tensor, nn

from normscope.nn._base import BatchStatistics, NormLayer, values_per_channel
from normscope.ops import aten, reference
from normscope.ops.context import transformed


def normalized(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> tuple[Tensor, BatchStatistics]:
    """`x` normalized by its own statistics, and those; by torch's kernel where it serves, else by the reference."""
    count = values_per_channel(x)
    if not transformed() and aten.supports(x, weight, bias):
        y, mean, variance = aten.train(x, weight, bias, eps)
        return y, BatchStatistics(mean, variance, count)
    y, moments = reference.train(x, weight, bias, eps)
    return y, BatchStatistics(moments.mean, moments.variance("bessel"), count)


class _BatchNorm(NormLayer):
    def _normalize(self, x: Tensor) -> tuple[Tensor, BatchStatistics]:
        return normalized(x, self.weight, self.bias, self.eps)


class BatchNorm1d(_BatchNorm, nn.BatchNorm1d):
    """torch.nn.BatchNorm1d, for [batch, channels] and [batch, channels, length], plus `batch_moments`."""


class BatchNorm2d(_BatchNorm, nn.BatchNorm2d):
    """torch.nn.BatchNorm2d, for [batch, channels, height, width], plus `batch_moments`."""


class BatchNorm3d(_BatchNorm, nn.BatchNorm3d):
    """torch.nn.BatchNorm3d, for [batch, channels, depth, height, width], plus `batch_moments`."""
