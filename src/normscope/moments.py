"""The currency of the package: count, mean and sum of squared deviations per channel, in float64.

Kernels emit moments, synchronized layers reduce them, recalibration accumulates them, and drift, noise and shift
are distances between them. No other code computes a mean or a variance of activations.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Correction = Literal["biased", "bessel"]

# Values widened to float64 at a time: bounds the extra memory of `Moments.of` to 32 MiB.
_CHUNK = 1 << 22
# And of these at a time, channel by channel: blocks that stay in the cache, and are not mapped and cleared each time.
_PART = 1 << 18


@dataclass(frozen=True)
class Moments:
    """Per-channel moments of a sample.

    Attributes:
        count: Values per channel; a float64 tensor of shape [] (the same for every channel).
        mean: Shape [channels], float64.
        m2: Sum of squared deviations from `mean`, shape [channels], float64.
    """

    count: Tensor
    mean: Tensor
    m2: Tensor

    @classmethod
    def empty(cls, channels: int, device: torch.device | str = "cpu") -> Moments:
        """Moments of no values at all: the neutral element of `merge`."""
        zeros = torch.zeros(channels, dtype=torch.float64, device=device)
        return cls(torch.zeros((), dtype=torch.float64, device=device), zeros, zeros.clone())

    @classmethod
    def of(cls, x: Tensor, dim: int = 1) -> Moments:
        """Moments of every channel of `x`, by two passes in float64 with the residual-sum correction.

        Args:
            x: Any shape with channels on `dim`, for example [batch, channels, *spatial]; any real dtype.
            dim: Where the channels are.

        Returns:
            Moments over every other dimension, on the device of `x`.

        Raises:
            ValueError: `x` has no dimension `dim`.
        """
        if not -x.dim() <= dim < x.dim():
            raise ValueError(f"moments over channels on dim {dim} of a tensor of shape {list(x.shape)}")
        rows = x.detach().movedim(dim, 0).flatten(1) if x.dim() > 1 else x.detach().unsqueeze(1)
        channels = rows.shape[0]
        if not rows.shape[1]:
            return cls.empty(channels, x.device)
        blocks = rows.split(max(1, _CHUNK // max(1, channels)), dim=1)
        return functools.reduce(cls.merge, map(cls._in_parts, blocks))

    @classmethod
    def _in_parts(cls, rows: Tensor) -> Moments:
        parts = [cls._of_block(part.double()) for part in rows.split(max(1, _PART // rows.shape[1]))]
        if len(parts) == 1:
            return parts[0]
        return cls(parts[0].count, torch.cat([part.mean for part in parts]), torch.cat([part.m2 for part in parts]))

    @classmethod
    def _of_block(cls, rows: Tensor) -> Moments:
        count = rows.new_tensor(float(rows.shape[1]))
        guess = rows.mean(1)
        residual = rows - guess[:, None]
        low = residual.mean(1)
        return cls(count, guess + low, (residual.square().sum(1) - count * low.square()).clamp_min(0))

    @classmethod
    def from_variance(cls, count: float, mean: Tensor, variance: Tensor, correction: Correction) -> Moments:
        """Moments from a mean and a variance whose correction is named.

        Args:
            count: Values per channel behind the figures.
            mean: Shape [channels].
            variance: Shape [channels].
            correction: 'biased' (divided by count) or 'bessel' (divided by count - 1).
        """
        n = mean.new_tensor(float(count), dtype=torch.float64)
        divisor = n if correction == "biased" else (n - 1).clamp_min(0)
        return cls(n, mean.detach().double(), variance.detach().double() * divisor)

    @classmethod
    def of_groups(cls, counts: Tensor, means: Tensor, m2s: Tensor) -> Moments:
        """Moments of several groups together, all at once: the law of total variance.

        Args:
            counts: Values per channel in each group, shape [groups].
            means: Shape [groups, channels].
            m2s: Sums of squared deviations from `means`, shape [groups, channels].
        """
        weights = counts.double()[:, None]
        wide = means.double()
        total = weights.sum()
        centre = wide[0] + (weights * (wide - wide[0])).sum(0) / total
        between = (weights * (wide - centre).square()).sum(0)
        return cls(total, centre, m2s.double().sum(0) + between)

    def merge(self, other: Moments) -> Moments:
        """Moments of both samples together (Chan, Golub & LeVeque 1979: bibliography key chan1979)."""
        count = self.count + other.count
        share = torch.where(count > 0, other.count / count.clamp_min(1), torch.zeros_like(count))
        delta = other.mean - self.mean
        return Moments(count, self.mean + delta * share, self.m2 + other.m2 + delta.square() * self.count * share)

    def variance(self, correction: Correction) -> Tensor:
        """Variance per channel, shape [channels]; NaN where there are too few values.

        Args:
            correction: 'biased' divides by count (what batch norm normalizes by);
                'bessel' by count - 1 (what it tracks).
        """
        if correction not in ("biased", "bessel"):
            raise ValueError(f"correction is 'biased' or 'bessel', not {correction!r}")
        divisor = self.count if correction == "biased" else self.count - 1
        return torch.where(divisor > 0, self.m2 / divisor, torch.full_like(self.m2, torch.nan))

    def deviation(self, correction: Correction = "biased") -> Tensor:
        """Standard deviation per channel, shape [channels]."""
        return self.variance(correction).sqrt()

    def standard_error(self) -> Tensor:
        """Standard error of the mean for independent values, sqrt(Bessel variance / count), shape [channels]."""
        return (self.variance("bessel") / self.count).sqrt()

    def log_deviation_error(self, kurtosis: float = 3.0) -> Tensor:
        """Standard error of log(deviation) for independent values, sqrt((k - 1) / (4 count)), shape [channels].

        Args:
            kurtosis: k of the values; 3 for normal ones.
        """
        return torch.sqrt((kurtosis - 1) / (4 * self.count)).expand_as(self.mean)


def standardized_distance(a: Moments, b: Moments) -> Tensor:
    """|mean_b - mean_a| / deviation_a, shape [channels]: how far `b` stands from `a`, in deviations of `a`.

    Zero where both means agree, also when `a` has no spread; infinite where only `a` has none.
    """
    gap = (b.mean - a.mean).abs()
    return torch.where(gap == 0, torch.zeros_like(gap), gap / a.deviation())


def standardized_distance_null(a: Moments, b: Moments) -> Tensor:
    """Root mean square of `standardized_distance` when nothing shifted, for independent values: sqrt(1/n_a + 1/n_b)."""
    return torch.sqrt(1 / a.count + 1 / b.count).expand_as(a.mean)


def log_deviation_ratio(a: Moments, b: Moments) -> Tensor:
    """log(deviation_b / deviation_a), shape [channels]."""
    return 0.5 * (b.variance("biased").log() - a.variance("biased").log())


def wasserstein(a: Moments, b: Moments) -> Tensor:
    """2-Wasserstein distance of the two normal laws with these moments, in deviations of `a`, shape [channels].

    sqrt((mean_a - mean_b)^2 + (sd_a - sd_b)^2) / sd_a: one number that holds both a moved mean and a changed scale.
    """
    spread = a.deviation()
    return ((a.mean - b.mean).square() + (spread - b.deviation()).square()).sqrt() / spread
