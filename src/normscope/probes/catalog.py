"""The probes that a scope can run in a training loop: one line each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from normscope.errors import InputError
from normscope.model.attach import mode
from normscope.probes import ablation, coupling, drift, gap, noise, ranges, santurkar
from normscope.probes.population import population_mode
from normscope.probes.summary import Layers, joined
from normscope.records import Measurement

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from normscope.model.find import NormLayer
    from normscope.moments import Moments
    from normscope.probes.batch import Reading
    from normscope.probes.replay import Loss

# Units of the first layer that are ablated, one forward pass each.
_UNITS = 8


@dataclass(frozen=True)
class Instant:
    """A training step as the probes find it.

    Attributes:
        model: The network.
        layers: Its batch-norm layers.
        step: Number of the step.
        readings: Moments of each layer's input in this step.
        before: The same of the last step that was measured.
        effective: Effective batch size by layer, as the noise probe last found it; it writes here.
        loss: The closure, if there is one.
        optimizer: The optimizer, if there is one.
    """

    model: nn.Module
    layers: tuple[NormLayer, ...]
    step: int
    readings: dict[str, Reading]
    before: dict[str, Moments]
    effective: dict[str, float]
    loss: Loss | None
    optimizer: torch.optim.Optimizer | None

    @property
    def closure(self) -> Loss:
        """The loss closure of a probe that needs one."""
        return cast("Loss", self.loss)

    @property
    def stepper(self) -> torch.optim.Optimizer:
        """The optimizer of a probe that needs one."""
        return cast("torch.optim.Optimizer", self.optimizer)


@dataclass(frozen=True)
class Probe:
    """A probe of a training loop.

    Attributes:
        take: Measures; leaves the network as it is.
        loss: Whether it needs a closure that returns the loss.
        optimizer: Whether it needs the optimizer.
    """

    take: Callable[[Instant], Sequence[Measurement]]
    loss: bool = False
    optimizer: bool = False

    def missing(self, loss: object, optimizer: object) -> str:
        """What it lacks, in words; '' if nothing."""
        pairs = (("loss=", self.loss, loss), ("optimizer=", self.optimizer, optimizer))
        wants = [word for word, needed, given in pairs if needed and given is None]
        return f"needs {' and '.join(wants)}" if wants else ""


def _moments(now: Instant) -> list[Measurement]:
    if not now.readings:
        return []
    total = joined([reading.moments for reading in now.readings.values()])
    layers = Layers.of([reading.moments.mean for reading in now.readings.values()])
    columns = (
        ("root mean square of the channel means", layers.root_mean_square(total.mean)),
        ("median deviation of a channel", layers.median(total.deviation())),
        ("values per channel", [float(reading.moments.count) for reading in now.readings.values()]),
    )
    return [
        Measurement("moments", what, name, now.step, value, source=reading.source)
        for what, column in columns
        for (name, reading), value in zip(now.readings.items(), column, strict=True)
    ]


def _drift(now: Instant) -> list[Measurement]:
    found = drift.drift(now.before, {name: reading.moments for name, reading in now.readings.items()})
    return [
        row
        for name, item in found.items()
        for row in drift.measurements({name: item}, now.step, now.effective, now.readings[name].source)
    ]


def _range(now: Instant) -> list[Measurement]:
    layers = [layer for layer in now.layers if layer.name in now.readings]
    if not layers:
        return []
    deviations = _output_deviations(layers, [now.readings[layer.name].moments for layer in layers])
    found = dict(zip((layer.name for layer in layers), deviations, strict=True))
    return ranges.measurements(found, now.step, "derived from the input moments")


def _output_deviations(layers: Sequence[NormLayer], inputs: Sequence[Moments]) -> Sequence[Tensor]:
    """|gamma| s / sqrt(v + eps) of each layer, v the variance that it divides by."""
    layout, batch = Layers.of([moments.mean for moments in inputs]), joined(inputs).variance("biased")
    divisors = [
        held.detach().cpu().double() if not layer.normalizes_by_batch and isinstance(held, Tensor) else part
        for layer, held, part in zip(
            layers,
            (getattr(layer.module, "running_var", None) for layer in layers),
            batch.split(layout.sizes),
            strict=True,
        )
    ]
    weights = [getattr(layer.module, "weight", None) for layer in layers]
    gammas = [
        weight.detach().cpu().double() if isinstance(weight, Tensor) else torch.ones(size, dtype=torch.float64)
        for weight, size in zip(weights, layout.sizes, strict=True)
    ]
    eps = torch.tensor([layer.eps for layer in layers], dtype=torch.float64)[layout.index]
    scale = (batch / (torch.cat(divisors) + eps)).sqrt()
    deviations: Sequence[Tensor] = (scale * torch.cat(gammas).abs()).split(layout.sizes)
    return deviations


def _noise(now: Instant) -> list[Measurement]:
    """The batch as the population: what other batches of its size would show."""
    with population_mode(now.model, now.closure) as pools:
        if any(len(pool) < 2 for pool in pools.values()):
            raise InputError("expected batches of at least 2 examples to measure their noise")
        found = {name: (noise.noise_of(pool, len(pool)),) for name, pool in pools.items()}
    now.effective.update({name: sizes[0].effective for name, sizes in found.items()})
    return noise.measurements(found, now.step)


def _gap(now: Instant) -> list[Measurement]:
    return gap.measurements(gap.gap(now.model, now.closure), now.step)


def _ablation(now: Instant) -> list[Measurement]:
    first = now.layers[0]
    stride = max(1, first.channels // _UNITS)
    units = range(0, first.channels, stride)[:_UNITS]
    with mode(now.model, training=False):
        found = ablation.ablation(now.model, now.closure, (first.name, first.module), units)
    return ablation.measurements(first.name, found, now.step)


def _perturbation(now: Instant) -> list[Measurement]:
    found = coupling.coupling_of_noise(now.model, now.closure, seed=now.step)
    return coupling.measurements(found, "3 % noise", now.step)


def _coupling(now: Instant) -> list[Measurement]:
    return coupling.measurements(coupling.coupling_of_step(now.model, now.closure, now.stepper), "a step", now.step)


def _gradient_shift(now: Instant) -> list[Measurement]:
    return santurkar.measurements(santurkar.gradient_shift(now.model, now.closure, now.stepper), None, now.step)


def _landscape(now: Instant) -> list[Measurement]:
    rate = float(now.stepper.param_groups[0]["lr"])
    if not rate > 0:
        return []
    along = santurkar.landscape(now.model, now.closure, [rate * factor for factor in santurkar.STEPS])
    return santurkar.measurements({}, along, now.step)


# In the order in which they run: noise tells drift what to expect.
PROBES = {
    "moments": Probe(_moments),
    "range": Probe(_range),
    "noise": Probe(_noise, loss=True),
    "drift": Probe(_drift),
    "gap": Probe(_gap, loss=True),
    "ablation": Probe(_ablation, loss=True),
    "perturbation": Probe(_perturbation, loss=True),
    "coupling": Probe(_coupling, loss=True, optimizer=True),
    "gradient shift": Probe(_gradient_shift, loss=True, optimizer=True),
    "landscape": Probe(_landscape, loss=True, optimizer=True),
}
