"""Moments of every example on its own, at every layer: what batches and resamples are put together from.

The values of one image are correlated, so a batch of N images is N draws, never N x H x W. Whatever is asked of random
batches is therefore answered from the moments of whole examples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from normscope.errors import InputError
from normscope.model.attach import before_forward, replayable
from normscope.model.find import NormLayer, find
from normscope.moments import Moments
from normscope.probes.order import Site, modules_named

if TYPE_CHECKING:
    from collections.abc import Sequence

    from normscope.probes.replay import Run

# Values widened to float64 at a time.
_CHUNK = 1 << 22
# Up to this many examples in the pool for each one drawn, a product with counts is faster than gathering.
_COUNTED = 40


@dataclass(frozen=True)
class ExampleMoments:
    """Per-channel moments of each example by itself.

    Attributes:
        positions: Values per example and channel, H x W for images, 1 for vectors.
        mean: Shape [examples, channels], float64.
        m2: Sum of squared deviations from the example's own mean, shape [examples, channels], float64.
    """

    positions: int
    mean: Tensor
    m2: Tensor

    @classmethod
    def of(cls, x: Tensor) -> ExampleMoments:
        """Moments of every example of `x`, shape [examples, channels, *spatial], any real dtype."""
        if x.dim() < 2:
            raise InputError(f"expected a layer input [examples, channels, ...], got shape {list(x.shape)}")
        rows = x.detach().flatten(2) if x.dim() > 2 else x.detach().unsqueeze(2)
        blocks = rows.split(max(1, _CHUNK // max(1, rows[:1].numel())))
        parts = [cls._of_block(block.double()) for block in blocks]
        return cls(rows.shape[2], torch.cat([mean for mean, _ in parts]), torch.cat([m2 for _, m2 in parts]))

    @staticmethod
    def _of_block(rows: Tensor) -> tuple[Tensor, Tensor]:
        mean = rows.mean(2)
        return mean, (rows - mean[..., None]).square().sum(2)

    def joined(self, other: ExampleMoments) -> ExampleMoments:
        """The examples of both, for a pass in several batches."""
        if other.positions != self.positions:
            raise InputError(
                f"expected every batch to give a layer {self.positions} values per example, got {other.positions};"
                " use inputs of one size"
            )
        return ExampleMoments(self.positions, torch.cat([self.mean, other.mean]), torch.cat([self.m2, other.m2]))

    def __len__(self) -> int:
        return int(self.mean.shape[0])

    def moments(self, index: Tensor | None = None) -> Moments:
        """Moments of all examples, or of those at `index` (repeats allowed), as one sample.

        Args:
            index: Examples, shape [size] or [draws, size].

        Returns:
            Moments whose mean and m2 have shape [channels] or [draws, channels].
        """
        if index is not None and index.dim() == 2 and len(self) <= _COUNTED * index.shape[1]:
            return self._counted(index)
        mean, m2 = (self.mean, self.m2) if index is None else (self.mean[index], self.m2[index])
        centre = mean.mean(-2, keepdim=True)
        between = (mean - centre).square().sum(-2)
        count = mean.new_tensor(float(mean.shape[-2] * self.positions))
        return Moments(count, centre.squeeze(-2), m2.sum(-2) + self.positions * between)

    def _counted(self, index: Tensor) -> Moments:
        """`moments` of many draws at once: how often each example was drawn, times the moments of the examples.

        About the population mean; what is only rounding beside the total is the 0 of a draw that does not vary.
        """
        times = self.mean.new_zeros(len(index), len(self)).scatter_add_(
            1, index, self.mean.new_ones(1, 1).expand_as(index)
        )
        middle = self.mean.mean(0)
        gap = self.mean - middle
        centre = times @ gap / index.shape[1]
        total = times @ (self.m2 + self.positions * gap.square())
        count = self.mean.new_tensor(float(index.shape[1] * self.positions))
        m2 = total - count * centre.square()
        return Moments(count, middle + centre, torch.where(m2 > 1e-12 * total, m2, torch.zeros_like(m2)))

    def squares(self) -> Tensor:
        """Mean over each example of (x - population mean)^2, shape [examples, channels]."""
        return self.m2 / self.positions + (self.mean - self.mean.mean(0)).square()

    def draws(self, batch: int, repeats: int, generator: torch.Generator) -> Tensor:
        """Indices of `repeats` batches drawn with replacement, shape [repeats, batch]."""
        index = torch.randint(len(self), (repeats, batch), generator=generator)
        return index.to(self.mean.device)


def example_moments(model: nn.Module, run: Run, sites: Sequence[Site] | None = None) -> dict[str, ExampleMoments]:
    """Moments of every example in the input of each batch-norm layer, the model in the mode that it is in.

    In evaluation mode each example is the same in whatever batch it comes, so `run` may take a data set in batches.

    Args:
        model: The network that `run` runs; left as it is.
        run: Runs one forward pass or several.
        sites: What to read instead of the batch-norm layers, as (name, module) pairs.

    Returns:
        By name, in the order of the forward pass.

    Raises:
        UnsupportedError: No sites given and no batch norm found.
    """
    layers = find(model).require().layers if sites is None else modules_named(sites)
    found: dict[str, ExampleMoments] = {}

    def enter(layer: NormLayer, _module: nn.Module, x: Tensor) -> None:
        moments = ExampleMoments.of(x)
        found[layer.name] = found[layer.name].joined(moments) if layer.name in found else moments

    with before_forward(layers, enter), replayable(model), torch.no_grad():
        run()
    return found
