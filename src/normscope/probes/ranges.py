"""The range of a layer's pre-activations: the deviation of every unit, and how unequal units and layers are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from normscope.model.attach import on_normalized, replayable
from normscope.model.find import NormLayer, find
from normscope.moments import Moments
from normscope.probes.order import Site, modules_named
from normscope.probes.summary import Layers
from normscope.records import Measurement

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from normscope.probes.replay import Run


def ranges(model: nn.Module, run: Run, sites: Sequence[Site] | None = None) -> dict[str, Tensor]:
    """Deviation of every unit of the tensor that leaves each norm layer, before any activation of its own.

    In training mode a batch norm makes this |gamma| s / sqrt(s^2 + eps) by construction.

    Args:
        model: The network that `run` runs; left as it is. Its mode decides which statistics are used.
        run: Runs one forward pass, or several: their values are taken together.
        sites: What to read instead of the batch-norm layers, as (name, module) pairs: for example the affine
            transformations that stand where batch norm was removed.

    Returns:
        By name, the deviations of the units, shape [channels], float64, in the order of the forward pass.

    Raises:
        UnsupportedError: No sites given and no batch norm found.
    """
    layers = find(model).require().layers if sites is None else modules_named(sites)
    total: dict[str, Moments] = {}

    def seen(layer: NormLayer, _module: nn.Module, normalized: Tensor) -> None:
        moments = Moments.of(normalized)
        total[layer.name] = total[layer.name].merge(moments) if layer.name in total else moments

    with on_normalized(layers, seen), replayable(model), torch.no_grad():
        run()
    return {name: moments.deviation() for name, moments in total.items()}


def spread(deviations: Mapping[str, Tensor]) -> float:
    """Deviation (Bessel) over all units and layers of log sigma; 0 when every unit has the same range.

    Units that never vary have no log and are left out; NaN when fewer than two remain.
    """
    values = torch.cat([d.reshape(-1).double().cpu() for d in deviations.values()]) if deviations else torch.empty(0)
    values = values[values > 0].log()
    return float(values.std()) if values.numel() > 1 else float("nan")


def measurements(deviations: Mapping[str, Tensor], step: int | None = None, source: str = "") -> list[Measurement]:
    """Per layer the median range, the spread of log sigma over its units and the share of units that never vary."""
    if not deviations:
        return []
    layers, values = Layers.of(list(deviations.values())), torch.cat(list(deviations.values()))
    dead = layers.sum((values == 0).to(values.dtype)) / values.new_tensor(layers.sizes)
    columns = (
        ("median deviation of a unit", layers.median(values)),
        ("spread of log deviation", layers.spread(values)),
        ("units that never vary", dead.tolist()),
    )
    out = [
        Measurement("range", quantity, name, step, value, source=source)
        for quantity, column in columns
        for name, value in zip(deviations, column, strict=True)
    ]
    return [*out, Measurement("range", "spread of log deviation", "", step, spread(deviations), source=source)]
