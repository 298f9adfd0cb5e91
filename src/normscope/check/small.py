"""How much a batch of a few examples blows up what it normalizes: E[sigma / s], train mode's scale over eval mode's."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from normscope.moments import Moments

if TYPE_CHECKING:
    from torch import Tensor

# Batches drawn at least, and examples to each that there must be: fewer hardly differ from one another.
_DRAWS, _EXAMPLES = 256, 4
# Channels of a layer that are looked at, at most: their median tells.
_CHANNELS = 64


@dataclass(frozen=True)
class Examples:
    """A layer's inputs, example by example.

    Attributes:
        count: Values per channel of one example.
        mean: Shape [examples, channels].
        m2: Sums of squared deviations from `mean`, shape [examples, channels].
    """

    count: float
    mean: Tensor
    m2: Tensor

    @classmethod
    def of(cls, x: Tensor) -> Examples:
        """Of `x`, [examples, channels, *positions]; of a wide layer every so many channels."""
        x = x[:, :: -(-x.shape[1] // _CHANNELS)]
        n, channels = x.shape[:2]
        rows = Moments.of(x.reshape(1, n * channels, -1))
        return cls(float(rows.count), rows.mean.view(n, channels), rows.m2.view(n, channels))

    def scale(self, size: int, eps: float) -> float | None:
        """E[sigma / s] over batches of `size` drawn without replacement, median channel; None with too few to draw.

        Of the distribution that the examples come from, tails and the correlation of positions included. The
        expectation over a handful of normal values is infinite: what is drawn then only shows that it is large.
        """
        n = len(self.mean)
        if n < _EXAMPLES * size:
            return None
        sigma = self._variance(torch.arange(n)[None])[0]
        live = sigma > eps
        if not bool(live.any()):
            return None
        generator = torch.Generator().manual_seed(0)
        total, drawn = torch.zeros_like(sigma[live]), 0
        while drawn < _DRAWS:
            index = torch.randperm(n, generator=generator)[: n // size * size].view(-1, size)
            ratios = ((sigma + eps) / (self._variance(index) + eps)).sqrt()[:, live]
            total, drawn = total + ratios.sum(0), drawn + len(index)
        return float(total.median()) / drawn

    def _variance(self, index: Tensor) -> Tensor:
        """Biased variance of the batches of examples in `index`, [batches, size]; shape [batches, channels]."""
        mean, m2 = self.mean[index], self.m2[index]
        between = (mean - mean.mean(1, keepdim=True)).square().sum(1)
        return (m2.sum(1) + self.count * between) / (self.count * index.shape[1])


def inflation(values: float) -> float:
    """E[sigma / s] for normal values: sqrt(B / 2) Gamma((B - 2) / 2) / Gamma((B - 1) / 2); infinite up to B = 2."""
    if values <= 2:
        return math.inf
    return math.sqrt(values / 2) * math.exp(math.lgamma((values - 2) / 2) - math.lgamma((values - 1) / 2))


def independent(scale: float) -> float:
    """How many independent normal values give this `scale` above 1: the inverse of `inflation`."""
    low, high = 2.0, 1e9
    while high / low > 1 + 1e-6:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if inflation(middle) > scale else (low, middle)
    return low
