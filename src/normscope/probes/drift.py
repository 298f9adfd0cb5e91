"""Drift: how far the moments of each layer's input moved from one step to another."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from normscope.moments import log_deviation_ratio, standardized_distance
from normscope.probes.summary import Layers, joined
from normscope.records import Measurement

if TYPE_CHECKING:
    from collections.abc import Mapping

    from normscope.moments import Moments


@dataclass(frozen=True)
class Drift:
    """Move of one layer's input moments, root mean square over the channels that vary.

    Attributes:
        distance: |mean after - mean before| in deviations from before.
        log_ratio: |log(deviation after / before)|.
    """

    distance: float
    log_ratio: float


def drift(before: Mapping[str, Moments], after: Mapping[str, Moments]) -> dict[str, Drift]:
    """Drift of every layer that both hold.

    On one batch (see `normscope.probes.batch.input_moments`) it is the effect of the weights alone; from one batch to
    the next it holds the difference of the batches too.
    """
    names = [name for name in before if name in after]
    if not names:
        return {}
    layers = Layers.of([before[name].mean for name in names])
    old, new = joined([before[name] for name in names]), joined([after[name] for name in names])
    distances = layers.root_mean_square(standardized_distance(old, new))
    ratios = layers.root_mean_square(log_deviation_ratio(old, new))
    return {name: Drift(*pair) for name, *pair in zip(names, distances, ratios, strict=True)}


def measurements(
    found: Mapping[str, Drift],
    step: int | None = None,
    effective: Mapping[str, float] | None = None,
    source: str = "",
) -> list[Measurement]:
    """Both numbers of every layer.

    Args:
        found: From `drift`.
        step: Training step.
        effective: Effective batch size by layer, where it is known: two batches of an unchanged network are expected
            sqrt(2 / effective) apart.
        source: How the moments were read.
    """
    out = []
    for name, item in found.items():
        size = (effective or {}).get(name)
        still = None if size is None or not size > 0 else math.sqrt(2 / size)
        out += [
            Measurement("drift", "distance of the input means", name, step, item.distance, "deviations", still, source),
            Measurement("drift", "log ratio of the input deviations", name, step, item.log_ratio, source=source),
        ]
    return out
