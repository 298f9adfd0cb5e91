"""What the batch-norm layers share: which statistics normalize, how they are tracked and handed out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from normscope.errors import InputError, TensorError
from normscope.moments import Moments
from normscope.ops.context import tracing, transformed


@dataclass(slots=True)
class BatchStatistics:
    """What one training forward found.

    Attributes:
        mean: Shape [channels].
        variance: Bessel-corrected, shape [channels].
        count: Values per channel.
    """

    mean: Tensor
    variance: Tensor
    count: int


def check_channels(layer: _BatchNorm, x: Tensor) -> None:
    """Raise torch's error when a parameter or buffer of `layer` does not have one number per channel of `x`."""
    channels = x.shape[1]
    for name in ("running_mean", "running_var", "weight", "bias"):
        value = getattr(layer, name)
        if value is not None and value.numel() != channels:
            raise TensorError(
                f"{name} should contain {channels} elements not {value.numel()}: the layer was made for"
                f" {layer.num_features} channels and the input of shape {list(x.shape)} has {channels} on dim 1"
            )


def values_per_channel(x: Tensor) -> int:
    """How many values each channel of `x`, shape [batch, channels, *spatial], has."""
    return x.numel() // x.shape[1] if x.shape[1] else 0


def check_values(x: Tensor, count: int) -> None:
    """Raise torch's error when the batch has one value per channel, whose variance would be zero."""
    if count == 1:
        raise InputError(
            f"Expected more than 1 value per channel when training, got input size {x.size()}; batch statistics need"
            " at least two: use a larger batch (drop_last=True in the DataLoader) or put the layer in eval mode"
        )


class NormLayer(_BatchNorm):
    """The forward of torch's batch norm, with the normalization by batch statistics left to `_normalize`."""

    _last: BatchStatistics | None = None

    @property
    def batch_moments(self) -> Moments | None:
        """Moments of the input of the last forward that normalized by the batch; None before one.

        They carry no graph and are not in the state_dict. Forwards under torch.compile or torch.func leave None.
        """
        if self._last is None:
            return None
        return Moments.from_variance(self._last.count, self._last.mean, self._last.variance, "bessel")

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (torch's name, given by keyword)
        """Normalize `input`, shape [batch, channels, *spatial]; track its statistics when training.

        Raises:
            InputError: Wrong number of dimensions, or one value per channel when training.
            TensorError: Another number of channels than the layer has.
        """
        self._check_input_dim(input)  # type: ignore[no-untyped-call]
        check_channels(self, input)
        if not self.training and not (self.running_mean is None and self.running_var is None):
            return self._evaluate(input)
        check_values(input, values_per_channel(input))
        y, found = self._normalize(input)
        self._last = None if tracing() or transformed() else found
        if self.training and self.track_running_stats:
            self._track(found)
        return y

    def _evaluate(self, x: Tensor) -> Tensor:
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
        )

    def _normalize(self, x: Tensor) -> tuple[Tensor, BatchStatistics]:
        raise NotImplementedError

    def _track(self, found: BatchStatistics) -> None:
        """One update of the running statistics, by torch's formula: (1 - momentum) * running + momentum * batch."""
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        if self.running_mean is None or self.running_var is None or not found.count:
            return
        factor = self.momentum
        if factor is None:
            factor = 0.0 if self.num_batches_tracked is None else 1.0 / float(self.num_batches_tracked)
        with torch.no_grad():
            self.running_mean.mul_(1 - factor).add_(found.mean, alpha=factor)
            self.running_var.mul_(1 - factor).add_(found.variance, alpha=factor)
