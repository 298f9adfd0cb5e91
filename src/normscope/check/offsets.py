"""What a layer's stored statistics are off by, cause by cause, in a form that can be switched on and off.

Statistics that are off are applied as what they are off by, in deviations: mean' = mean + s * d, s' = s * r with
s = sqrt(variance + eps), so that a cause has an effect whether or not the mini-batch's own statistics are in use.

Buffers that a step updates twice have a share of their own where the second forward brought other values: the average
is then one of both. A forward that is recomputed on the same values moves it towards the same mean, only faster; the
shorter memory counts with the stale average.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from normscope.model.find import NormLayer
    from normscope.surgery.population import Sample

STALE, DOUBLED, IMPOSSIBLE, SHIFT = (
    "stale average",
    "doubly updated buffers",
    "impossible buffers",
    "train/serving shift",
)


@dataclass(frozen=True)
class Offset:
    """What a layer's statistics are off by: `mean` in deviations, `ratio` of deviations, both shape [channels]."""

    mean: Tensor
    ratio: Tensor

    @classmethod
    def between(cls, start: tuple[Tensor, Tensor], end: tuple[Tensor, Tensor], eps: float) -> Offset:
        """From the (mean, variance) `start` to `end`."""
        spread = (start[1] + eps).sqrt()
        return cls((end[0] - start[0]) / spread, (end[1] + eps).sqrt() / spread)

    def only(self, where: Tensor) -> Offset:
        """The same at channels where the bool tensor `where` is True, nothing elsewhere."""
        return Offset(
            torch.where(where, self.mean, torch.zeros_like(self.mean)),
            torch.where(where, self.ratio, torch.ones_like(self.ratio)),
        )

    def apply(self, statistics: tuple[Tensor, Tensor], eps: float) -> tuple[Tensor, Tensor]:
        """(mean, variance), moved by this much."""
        spread = (statistics[1] + eps).sqrt()
        return statistics[0] + spread * self.mean, (spread * self.ratio).square() - eps

    def along(self, other: Offset) -> Offset:
        """As much of `other`, from none to all of it, as lies in this one's direction.

        By least squares in each channel that `other` moves further than the mean; the median over these, so that
        channels that something else has hold of do not decide.
        """
        length = other.mean.square() + other.ratio.log().square()
        if not bool((length > 0).any()):
            return other
        far = length >= length.mean()
        shared = self.mean * other.mean + self.ratio.log() * other.ratio.log()
        part = (shared[far] / length[far]).median().clamp(0, 1)
        return Offset(part * other.mean, other.ratio**part)

    @property
    def nothing(self) -> bool:
        """Whether it moves nothing."""
        return bool((self.mean == 0).all() and (self.ratio == 1).all())


@dataclass(frozen=True)
class Layer:
    """What the split needs to know of one layer.

    Attributes:
        layer: The live layer.
        population: (mean, biased variance) at the present weights on the data of the split.
        offsets: Cause -> what it moves the statistics by.
    """

    layer: NormLayer
    population: tuple[Tensor, Tensor]
    offsets: dict[str, Offset]


def layers_of(
    population: dict[str, Sample],
    training: dict[str, Sample] | None,
    layers: Iterable[NormLayer],
    doubled: Mapping[str, Offset] | None = None,
) -> tuple[tuple[Layer, ...], tuple[str, ...]]:
    """The layers with their offsets, and a note for each whose buffers are not finite and were left out.

    Args:
        population: Moments of each layer's input on the data of the split.
        training: The same on training data, where the data of the split are from another place.
        layers: The layers of the network.
        doubled: What the extra forwards of a training step would move a layer's statistics by; counted as far as the
            buffers went that way.
    """
    found, notes = [], []
    for layer in layers:
        if layer.name not in population:
            continue
        here = statistics(population[layer.name])
        start = here if training is None else statistics(training[layer.name])
        module: Any = layer.module
        buffers = (module.running_mean.double(), module.running_var.double())
        broken = ~(buffers[0].isfinite() & buffers[1].isfinite() & (buffers[1] >= 0))
        if bool(broken.any()):
            notes.append(
                f"{layer.name}: {int(broken.sum())} of {len(broken)} channels have NaN, inf or negative running"
                " statistics, which alone makes the eval loss meaningless; the split takes their population figures"
            )
        mended = (torch.where(broken, start[0], buffers[0]), torch.where(broken, start[1], buffers[1]))
        off = Offset.between(start, mended, layer.eps)
        offsets, left = {}, mended
        if doubled is not None and layer.name in doubled:
            offsets[DOUBLED] = off.along(doubled[layer.name])
            off = Offset.between(offsets[DOUBLED].apply(start, layer.eps), mended, layer.eps)
            left = off.apply(start, layer.eps)
        impossible = _impossible(population[layer.name], left)
        offsets |= {STALE: off.only(~impossible), IMPOSSIBLE: off.only(impossible)}
        if training is not None:
            offsets[SHIFT] = Offset.between(here, start, layer.eps)
        found.append(Layer(layer, here, {name: o for name, o in offsets.items() if not o.nothing}))
    return tuple(found), tuple(notes)


def statistics(sample: Sample) -> tuple[Tensor, Tensor]:
    """What a layer in train mode normalizes by: mean and biased variance."""
    return sample.moments.mean, sample.moments.variance("biased")


def _impossible(sample: Sample, buffers: tuple[Tensor, Tensor]) -> Tensor:
    """Channels whose buffers no average of the values seen could hold: outside their range (Popoviciu's bound).

    None in a layer whose buffers are as they were made: nothing spoiled those, they were never updated.
    """
    if not buffers[0].any() and bool((buffers[1] == 1).all()):
        return torch.zeros_like(buffers[0], dtype=torch.bool)
    low, high = sample.low, sample.high
    outside = (buffers[0] < low) | (buffers[0] > high)
    bessel = sample.moments.count / (sample.moments.count - 1).clamp_min(1)
    return outside | (buffers[1] > bessel * ((high - low) / 2).square())
