"""How much a network relies on single units of a layer: its loss without each of them (bibliography key morcos2018)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from normscope.errors import InputError
from normscope.model.attach import on_forward
from normscope.moments import Moments
from normscope.probes.order import Site, modules_named
from normscope.probes.replay import Loss, loss_of
from normscope.records import Measurement

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from normscope.model.find import NormLayer


@dataclass(frozen=True)
class Ablation:
    """The loss with single units of one layer clamped.

    Attributes:
        intact: Loss of the whole network.
        units: Which units (channels) were ablated.
        losses: Loss without each of `units`.
    """

    intact: float
    units: tuple[int, ...]
    losses: tuple[float, ...]

    @property
    def changes(self) -> tuple[float, ...]:
        """Loss without each unit minus loss of the whole network."""
        return tuple(loss - self.intact for loss in self.losses)

    @property
    def mean(self) -> float:
        """Mean change of the loss when one unit goes: reliance on single units."""
        return math.fsum(self.changes) / len(self.changes)

    @property
    def worst(self) -> float:
        """Largest change of the loss."""
        return max(self.changes)


def ablation(
    model: nn.Module,
    loss: Loss,
    site: Site,
    units: Sequence[int] | None = None,
    to: Literal["zero", "mean"] = "zero",
) -> Ablation:
    """The loss with one unit (channel) of the output of `site` clamped at a time.

    Args:
        model: The network that `loss` runs; left as it is. Evaluation mode is what one wants: in training mode the
            layers above normalize the ablation away in part.
        loss: Runs the forward pass on a fixed batch and returns the loss.
        site: (name, module) whose output, shape [batch, channels, ...], is ablated.
        units: Which channels; by default all.
        to: 'zero', or 'mean', the unit's mean over the batch and its positions.

    Raises:
        InputError: A unit that is not there, or a site that does not run.
    """
    shape: list[int] = []

    def look(_layer: NormLayer, _module: nn.Module, _x: Tensor, output: Tensor) -> None:
        shape[:] = list(output.shape)

    with on_forward(modules_named([site]), look):
        intact = loss_of(model, loss)
    if len(shape) < 2:
        raise InputError(f"expected {site[0]!r} to run and return [batch, channels, ...], got shape {shape or None}")
    chosen = tuple(range(shape[1])) if units is None else tuple(units)
    if not chosen or min(chosen) < 0 or max(chosen) >= shape[1]:
        raise InputError(f"expected units of {site[0]!r} from 0 to {shape[1] - 1}, got {list(chosen)}")
    return Ablation(intact, chosen, tuple(_without(model, loss, site, unit, to) for unit in chosen))


def _without(model: nn.Module, loss: Loss, site: Site, unit: int, to: str) -> float:
    def clamp(_layer: NormLayer, _module: nn.Module, _x: Tensor, output: Tensor) -> Tensor:
        changed = output.clone()
        one = output[:, unit : unit + 1]
        changed[:, unit] = 0 if to == "zero" else Moments.of(one).mean.to(output.dtype)
        return changed

    with on_forward(modules_named([site]), clamp):
        return loss_of(model, loss)


def measurements(name: str, found: Ablation, step: int | None = None) -> list[Measurement]:
    """The loss of the whole network and what it gains when single units of layer `name` go."""
    return [
        Measurement("ablation", "mean change of the loss without one unit", name, step, found.mean),
        Measurement("ablation", "largest change of the loss without one unit", name, step, found.worst),
    ]
