"""Batches whose examples are correlated: noise off its theory by a known amount."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from normscope.probes.examples import ExampleMoments


@dataclass(frozen=True)
class CorrelatedDraws(ExampleMoments):
    """A pool whose draws resemble batches from badly shuffled data.

    Every place in a batch holds the batch's own common example with probability sqrt(correlation), else one of its own.
    Each place still holds any example equally often, two places are correlated by `correlation`, and so
    Var(mu_B) = sigma^2 / B * (1 + (B - 1) correlation).

    Attributes:
        correlation: From 0 to 1.
    """

    correlation: float = 0.0

    def draws(self, batch: int, repeats: int, generator: torch.Generator) -> Tensor:
        """Indices of `repeats` batches, shape [repeats, batch]."""
        alone = super().draws(batch, repeats, generator)
        common = torch.randint(len(self), (repeats, 1), generator=generator).to(alone.device)
        shared = torch.rand(repeats, batch, generator=generator) < math.sqrt(self.correlation)
        return torch.where(shared.to(alone.device), common, alone)
