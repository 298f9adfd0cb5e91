"""Batch renormalization: training sees what evaluation will, up to a bounded correction (bibliography key ioffe2017).

y = gamma * (x_hat * r + d) + beta, with x_hat normalized by the batch and, without gradient,

    r = clip(s_B / sigma, 1 / rmax, rmax)        d = clip((mu_B - mu) / sigma, -dmax, dmax)

where mu and sigma come from the running statistics before this batch and deviations contain eps. Evaluation, and the
variance that is tracked (Bessel-corrected), are those of batch norm. With r = 1 and d = 0 it is batch norm: both bounds
rise from there, linearly in the number of batches seen.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from normscope.errors import InputError
from normscope.nn._base import NormLayer, values_per_channel
from normscope.ops import functional, phases
from normscope.ops.functional import Epilogue, Statistics


class _BatchRenorm(NormLayer):
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
        rmax: float = 3.0,
        dmax: float = 5.0,
        ramp: tuple[int, int] | None = (5000, 40000),
        bias: bool = True,
    ) -> None:
        if not track_running_stats:
            raise InputError(
                "expected track_running_stats=True: batch renormalization corrects towards what is tracked"
            )
        if rmax < 1 or dmax < 0:
            raise InputError(f"expected rmax of at least 1 and dmax of at least 0, got {rmax} and {dmax}")
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, device=device, dtype=dtype, bias=bias
        )
        self.rmax, self.dmax, self.ramp = rmax, dmax, ramp

    def extra_repr(self) -> str:
        shown = super().extra_repr()  # type: ignore[no-untyped-call]
        return f"{shown}, rmax={self.rmax}, dmax={self.dmax}, ramp={self.ramp}"

    def bounds(self) -> tuple[float, float]:
        """Rmax and dmax as they stand after the batches seen so far."""
        if self.ramp is None or self.num_batches_tracked is None:
            return self.rmax, self.dmax
        start, end = self.ramp
        share = min(1.0, max(0.0, (float(self.num_batches_tracked) - start) / max(1, end - start)))
        return 1 + share * (self.rmax - 1), share * self.dmax

    def _corrections(self, x: Tensor) -> tuple[Tensor, Tensor]:
        rmax, dmax = self.bounds()
        with torch.no_grad():
            found = phases.moments(x)[:, 0]
            batch = (found[1] / values_per_channel(x) + self.eps).sqrt()
            sigma = (self.running_var.double() + self.eps).sqrt()  # type: ignore[union-attr]
            r = (batch / sigma).clamp(1 / rmax, rmax)
            d = ((found[0] - self.running_mean.double()) / sigma).clamp(-dmax, dmax)  # type: ignore[union-attr]
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        return r.to(dtype), d.to(dtype)

    def _normalize(self, x: Tensor, epilogue: Epilogue) -> tuple[Tensor, list[Statistics]]:
        if not x.numel():
            return super()._normalize(x, epilogue)
        gain, offset = self._corrections(x)
        if self.weight is not None:
            gain, offset = self.weight * gain, self.weight * offset
        if self.bias is not None:
            offset = offset + self.bias
        y, found = functional.train(x, gain, offset, self.eps, epilogue)
        return y, [found]


class BatchRenorm1d(_BatchRenorm, nn.BatchNorm1d):
    """Batch renormalization for [batch, channels] and [batch, channels, length].

    Args:
        num_features: Channels.
        eps: Added to variances.
        momentum: torch's convention; None for a cumulative average.
        affine: Whether gamma and beta are learned.
        track_running_stats: Must be true.
        device: Where the parameters live.
        dtype: Their dtype.
        rmax: Final bound of r, at least 1.
        dmax: Final bound of d.
        ramp: Batches seen when the bounds begin to rise and when they are reached; None for the final ones at once.
        bias: Whether beta is learned.
    """


class BatchRenorm2d(_BatchRenorm, nn.BatchNorm2d):
    """Batch renormalization for [batch, channels, height, width]; arguments as in `BatchRenorm1d`."""


class BatchRenorm3d(_BatchRenorm, nn.BatchNorm3d):
    """Batch renormalization for [batch, channels, depth, height, width]; arguments as in `BatchRenorm1d`."""
