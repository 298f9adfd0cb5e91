"""Batch norm, a residual and an activation as one layer: y = activation(batch_norm(x) + residual).

One pass writes the result, and the backward computes the activation's input again from x: the input and per-channel
numbers are all that is kept, and with a residual one bit per element. relu, relu6, leaky_relu and silu (silu without
a residual) are fused; other activations are applied by torch. These layers are not subclasses of torch.nn.BatchNorm,
so that no tool that converts batch norm takes one and drops its activation.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from normscope.nn._plain import PlainLayer
from normscope.ops.activation import require
from normscope.ops.functional import Epilogue


class _BatchNormAct(PlainLayer):
    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        activation: str = "relu",
        negative_slope: float = 0.01,
        bias: bool = True,
    ) -> None:
        require(activation)
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, device=device, dtype=dtype, bias=bias
        )
        self.activation, self.negative_slope = activation, negative_slope

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, activation={self.activation}"  # type: ignore[no-untyped-call]

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:  # noqa: A002  (torch's name)
        """activation(batch_norm(input) + residual).

        Args:
            input: Shape [batch, channels, *spatial].
            residual: Added before the activation; shape of `input`, or None.

        Raises:
            InputError: Wrong number of dimensions, or one value per channel when training.
            TensorError: Another number of channels than the layer has, or a dtype that torch does not take either.
        """
        return self._forward(input, Epilogue(self.activation, self.negative_slope, residual))


class BatchNormAct1d(_BatchNormAct):
    """Batch norm and activation for [batch, channels] and [batch, channels, length].

    Args:
        num_features: Channels.
        eps: Added to the biased variance.
        momentum: torch's convention; None for a cumulative average.
        affine: Whether gamma and beta are learned.
        track_running_stats: Whether evaluation uses tracked statistics.
        device: Where the parameters live.
        dtype: Their dtype.
        activation: 'relu', 'relu6', 'leaky_relu', 'silu', 'none', or another of `normscope.ops.activation`.
        negative_slope: Of leaky ReLU below zero.
        bias: Whether beta is learned.
    """

    _check_input_dim = nn.BatchNorm1d._check_input_dim


class BatchNormAct2d(_BatchNormAct):
    """Batch norm and activation for [batch, channels, height, width]; arguments as in `BatchNormAct1d`."""

    _check_input_dim = nn.BatchNorm2d._check_input_dim


class BatchNormAct3d(_BatchNormAct):
    """Batch norm and activation for [batch, channels, depth, height, width]; arguments as in `BatchNormAct1d`."""

    _check_input_dim = nn.BatchNorm3d._check_input_dim
