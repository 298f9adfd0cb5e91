"""Batch normalization: torch's layers with compiled kernels where they run and the batch's moments handed out.

Training normalizes by the biased variance of the mini-batch, evaluation by the running statistics; the Bessel-corrected
variance is tracked. The formula stands in `normscope.ops.reference`; the paper is ioffe2015 in the bibliography.
"""

from __future__ import annotations

from torch import nn

from normscope.nn._plain import PlainLayer


class BatchNorm1d(PlainLayer, nn.BatchNorm1d):
    """torch.nn.BatchNorm1d, for [batch, channels] and [batch, channels, length], plus `batch_moments`."""


class BatchNorm2d(PlainLayer, nn.BatchNorm2d):
    """torch.nn.BatchNorm2d, for [batch, channels, height, width], plus `batch_moments`."""


class BatchNorm3d(PlainLayer, nn.BatchNorm3d):
    """torch.nn.BatchNorm3d, for [batch, channels, depth, height, width], plus `batch_moments`."""
