"""One number for many channels; channels that never vary have no standardized number and are left out.

A network has many small layers: `Layers` takes all their channels as one vector, so that a probe which runs at every
step costs a few operations and not a few per layer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from normscope.moments import Moments

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


def mean(values: Tensor) -> float:
    """Mean of the finite `values`; NaN if there is none."""
    finite = values[values.isfinite()]
    return float(finite.mean()) if finite.numel() else math.nan


def root_mean_square(values: Tensor) -> float:
    """Root mean square of the finite `values`; NaN if there is none."""
    return math.sqrt(mean(values.square()))


@dataclass(frozen=True)
class Layers:
    """Where each layer's channels lie in one vector.

    Attributes:
        sizes: Channels of each layer.
        index: The layer of each channel, shape [sum of sizes].
    """

    sizes: tuple[int, ...]
    index: Tensor

    @classmethod
    def of(cls, values: Sequence[Tensor]) -> Layers:
        """The layout of the concatenation of `values`, each of shape [channels]."""
        sizes = tuple(value.numel() for value in values)
        return cls(sizes, torch.repeat_interleave(torch.tensor(sizes, device=values[0].device)))

    def sum(self, values: Tensor) -> Tensor:
        """Sum over the channels of each layer, shape [layers]."""
        return values.new_zeros(len(self.sizes)).index_add_(0, self.index, values)

    def root_mean_square(self, values: Tensor) -> list[float]:
        """Root mean square of each layer's finite `values`; NaN where there is none."""
        finite = values.isfinite()
        total = self.sum(torch.where(finite, values, torch.zeros_like(values)).square())
        return (total / self.sum(finite.to(values.dtype))).sqrt().tolist()

    def spread(self, values: Tensor) -> list[float]:
        """Deviation (Bessel) of log `values` of each layer over those above 0; NaN where fewer than two are."""
        alive = values > 0
        logs = torch.where(alive, values, torch.ones_like(values)).log()
        count = self.sum(alive.to(values.dtype))
        gap = torch.where(alive, logs - (self.sum(logs) / count)[self.index], torch.zeros_like(logs))
        return (self.sum(gap.square()) / (count - 1)).sqrt().tolist()

    def median(self, values: Tensor) -> list[float]:
        """Median of each layer's `values`."""
        return [float(part.median()) for part in values.split(self.sizes)]


def joined(moments: Sequence[Moments]) -> Moments:
    """The channels of all of `moments` as one vector; `count` is then one for each channel."""
    return Moments(
        torch.cat([part.count.expand_as(part.mean) for part in moments]),
        torch.cat([part.mean for part in moments]),
        torch.cat([part.m2 for part in moments]),
    )
