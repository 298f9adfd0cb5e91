"""How far stored statistics stand from a population, measured by what one mini-batch's own statistics err by."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from normscope.surgery.population import Sample


_ROUNDING = torch.finfo(torch.float32).eps


@dataclass(frozen=True)
class Distance:
    """Root mean squares over channels, in deviations sqrt(variance + eps).

    Attributes:
        mean: Of the difference of means.
        scale: Of log(deviation / population deviation).
        batch_mean: What the mean of one mini-batch errs by.
        batch_scale: What the log deviation of one mini-batch errs by.
        mean_error: Standard error of the population mean.
        scale_error: Standard error of the population's log deviation.
    """

    mean: float
    scale: float
    batch_mean: float
    batch_scale: float
    mean_error: float
    scale_error: float

    @property
    def beyond_a_batch(self) -> bool:
        """Whether the statistics are a worse estimate than one mini-batch's, allowing for the population's own error.

        And for float32's rounding, below which nothing is stored. A healthy running average of momentum m errs by
        sqrt(m / (2 - m)) of a mini-batch's error, .23 at m = .1.
        """
        return any(
            math.isfinite(off) and off**2 > one**2 + 4 * error**2 + _ROUNDING**2
            for off, one, error in (
                (self.mean, self.batch_mean, self.mean_error),
                (self.scale, self.batch_scale, self.scale_error),
            )
        )

    @property
    def in_batches(self) -> float:
        """The larger distance over a mini-batch's error: above 1 the statistics are worse than one batch."""
        ratios = (self.mean / max(self.batch_mean, 1e-12), self.scale / max(self.batch_scale, 1e-12))
        return max(ratio for ratio in ratios if math.isfinite(ratio)) if any(map(math.isfinite, ratios)) else math.inf


def distance(sample: Sample, mean: Tensor, variance: Tensor, batch: int, eps: float) -> Distance:
    """Of (mean, variance) from the population `sample`, for mini-batches of `batch` examples.

    Channels are weighted alike; eps keeps channels without spread from counting, and where it rules on both sides the
    scale is that of eps, whatever the variances. Non-finite statistics give NaN.
    """
    population = sample.moments.variance("biased")
    spread = population + eps
    off = (mean.double() - sample.moments.mean) / spread.sqrt()
    log = 0.5 * ((variance.double() + eps) / spread).log()
    log = torch.where((variance < eps) & (variance >= 0) & (population < eps), torch.zeros_like(log), log)
    pull_mean, pull_scale = sample.per_batch
    live = population / spread
    n = max(1, sample.examples)
    return Distance(
        _rms(off.square()),
        _rms(log.square()),
        _rms(pull_mean * live / batch),
        _rms(pull_scale * live.square() / batch),
        _rms(pull_mean * live / n),
        _rms(pull_scale * live.square() / n),
    )


def _rms(squares: Tensor) -> float:
    return float(torch.mean(squares).sqrt())
