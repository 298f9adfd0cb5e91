"""Batch norm with everything fixed: y = (x - running_mean) / sqrt(running_var + eps) * weight + bias, in every mode.

The numbers are buffers, so no optimizer moves them and no forward tracks anything. The state_dict has torch's five
keys; checkpoints load both ways, those without num_batches_tracked included.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from normscope.nn._base import NormLayer, check_channels, check_dtypes, check_eps
from normscope.ops import functional


class _FrozenBatchNorm(NormLayer):
    def __init__(self, num_features: int, eps: float = 1e-5, device: Any = None, dtype: Any = None) -> None:
        super().__init__(num_features, eps, affine=False, device=device, dtype=dtype)
        for name in ("weight", "bias"):
            del self._parameters[name]
        self.register_buffer("weight", torch.ones(num_features, device=device, dtype=dtype))
        self.register_buffer("bias", torch.zeros(num_features, device=device, dtype=dtype))

    def extra_repr(self) -> str:
        return f"{self.num_features}, eps={self.eps}"

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (torch's name, given by keyword)
        """The fixed affine map of `input`, shape [batch, channels, *spatial]."""
        self._check_input_dim(input)  # type: ignore[no-untyped-call]
        check_channels(self, input)
        check_eps(self.eps, by_batch=False)
        check_dtypes(self, input)
        mean, variance = self.running_mean, self.running_var
        assert mean is not None
        assert variance is not None
        return functional.evaluate(input, mean, variance, self.weight, self.bias, self.eps)


class FrozenBatchNorm1d(_FrozenBatchNorm):
    """Frozen batch norm for [batch, channels] and [batch, channels, length].

    Args:
        num_features: Channels.
        eps: Added to the running variance.
        device: Where the buffers live.
        dtype: Their dtype.
    """

    _check_input_dim = nn.BatchNorm1d._check_input_dim


class FrozenBatchNorm2d(_FrozenBatchNorm):
    """Frozen batch norm for [batch, channels, height, width]; arguments as in `FrozenBatchNorm1d`."""

    _check_input_dim = nn.BatchNorm2d._check_input_dim


class FrozenBatchNorm3d(_FrozenBatchNorm):
    """Frozen batch norm for [batch, channels, depth, height, width]; arguments as in `FrozenBatchNorm1d`."""

    _check_input_dim = nn.BatchNorm3d._check_input_dim
