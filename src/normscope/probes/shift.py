"""How far one data set stands from another as each layer sees it, with what chance alone would show beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from normscope.errors import InputError
from normscope.moments import log_deviation_ratio, standardized_distance, wasserstein
from normscope.records import Measurement

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from normscope.moments import Moments
    from normscope.probes.examples import ExampleMoments

# Share of the resamples that a null lies above.
_LEVEL = 0.95


@dataclass(frozen=True)
class Shift:
    """Shift of one layer's input, root mean square over the channels that vary in the source.

    Each null is what 95 % of pairs of samples of these sizes, both drawn from the source by whole examples, stay
    under.

    Attributes:
        distance: |mean of target - mean of source| in deviations of the source.
        distance_null: Its null.
        log_ratio: |log(deviation of target / of source)|.
        log_ratio_null: Its null.
        wasserstein: 2-Wasserstein distance of the normal laws with these moments, in deviations of the source.
        wasserstein_null: Its null.
    """

    distance: float
    distance_null: float
    log_ratio: float
    log_ratio_null: float
    wasserstein: float
    wasserstein_null: float


def shift(
    source: Mapping[str, ExampleMoments],
    target: Mapping[str, ExampleMoments],
    resamples: int = 200,
    seed: int = 0,
) -> dict[str, Shift]:
    """Shift from `source` to `target` at every layer.

    The null resamples whole examples, since the values of one image are correlated: counting every pixel as a draw
    would make it far too small.

    Args:
        source: By layer, from `normscope.probes.examples.example_moments` in evaluation mode.
        target: The same for the other data set, of any size.
        resamples: Pairs of samples behind the null.
        seed: Of the resampling.

    Raises:
        InputError: The two do not hold the same layers.
    """
    if source.keys() != target.keys():
        raise InputError(
            f"expected source and target to hold the same layers, they differ by"
            f" {sorted(source.keys() ^ target.keys())}; measure both on one network"
        )
    generator = torch.Generator().manual_seed(seed)
    return {name: _shift(source[name], target[name], resamples, generator) for name in source}


def _shift(source: ExampleMoments, target: ExampleMoments, resamples: int, generator: torch.Generator) -> Shift:
    seen = _distances(source.moments(), target.moments())
    null = _distances(
        source.moments(source.draws(len(source), resamples, generator)),
        source.moments(source.draws(len(target), resamples, generator)),
    ).nanquantile(_LEVEL, dim=0)
    return Shift(*torch.stack([seen, null], dim=1).flatten().tolist())


def _distances(source: Moments, target: Moments) -> Tensor:
    """The three distances, shape [..., 3], of moments of shape [..., channels]."""
    measures = (standardized_distance, log_deviation_ratio, wasserstein)
    return torch.stack([_root_mean_square(measure(source, target)) for measure in measures], dim=-1)


def _root_mean_square(values: Tensor) -> Tensor:
    """Over the channels where it is finite, which those that never vary are not."""
    return torch.where(values.isfinite(), values, torch.nan).square().nanmean(-1).sqrt()


def measurements(found: Mapping[str, Shift], step: int | None = None) -> list[Measurement]:
    """Three numbers of every layer, each with its null as the expected value."""
    out = []
    for name, item in found.items():
        rows = (
            ("distance of the input means", item.distance, item.distance_null, "deviations"),
            ("log ratio of the input deviations", item.log_ratio, item.log_ratio_null, ""),
            ("Wasserstein distance", item.wasserstein, item.wasserstein_null, "deviations"),
        )
        out += [
            Measurement("shift", quantity, name, step, value, unit, expected=null, source="95 % null as expected")
            for quantity, value, null, unit in rows
        ]
    return out
