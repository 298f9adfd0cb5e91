"""How far a change of the layers below a layer, and of them alone, moves what the layer sees, and the loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from normscope.model.attach import before_forward
from normscope.moments import Moments, log_deviation_ratio, standardized_distance
from normscope.probes.order import Order, Site, modules_named, order_of
from normscope.probes.replay import Loss, gradient_of, loss_of, trainable
from normscope.probes.step import placed, stepped
from normscope.probes.summary import root_mean_square
from normscope.records import Measurement

if TYPE_CHECKING:
    from collections.abc import Sequence

    from normscope.model.find import NormLayer


@dataclass(frozen=True)
class Coupling:
    """What moved at one layer when only the layers below it changed, on the same batch.

    Attributes:
        distance: Move of the input means in deviations from before, root mean square over channels.
        log_ratio: log(deviation after / before) of the input, root mean square over channels.
        representation: Root mean square change per example and unit of the input, in its deviations (pooled).
        loss: Loss after minus loss before.
    """

    distance: float
    log_ratio: float
    representation: float
    loss: float


def coupling_of_step(
    model: nn.Module, loss: Loss, optimizer: torch.optim.Optimizer | float, sites: Sequence[Site] | None = None
) -> dict[str, Coupling]:
    """Coupling when the layers below take the real next step of `optimizer`.

    Args:
        model: The network that `loss` runs; left as it is. Its mode decides which statistics are used.
        loss: Runs the forward pass on a fixed batch and returns the loss.
        optimizer: Whose next step is taken, on a copy; a number is the learning rate of a plain gradient step.
        sites: Layers to look at, as (name, module) pairs; by default every module with weights but the first.

    Returns:
        By layer, bottom first; layers with nothing below them are left out.
    """
    parameters = trainable(model)
    _, gradients = gradient_of(model, loss, parameters)
    after = stepped(optimizer, parameters, gradients)
    return _coupling(model, loss, parameters, after, sites)


def coupling_of_noise(
    model: nn.Module, loss: Loss, scale: float = 0.03, seed: int = 0, sites: Sequence[Site] | None = None
) -> dict[str, Coupling]:
    """Coupling when Gaussian noise is added to every weight tensor below, its norm `scale` times the tensor's.

    Weights are the trainable tensors of two and more dimensions; biases and the affine of norm layers stay.

    Args:
        model: The network that `loss` runs; left as it is. Its mode decides which statistics are used.
        loss: Runs the forward pass on a fixed batch and returns the loss.
        scale: ||noise|| / ||weight|| of each tensor.
        seed: Of the noise, which is the same at every layer looked at.
        sites: Layers to look at, as (name, module) pairs; by default every module with weights but the first.

    Returns:
        By layer, bottom first; layers with nothing below them are left out.
    """
    generator = torch.Generator().manual_seed(seed)
    parameters = [parameter for parameter in trainable(model) if parameter.dim() >= 2]
    return _coupling(model, loss, parameters, [_noisy(p, scale, generator) for p in parameters], sites)


def _noisy(parameter: Tensor, scale: float, generator: torch.Generator) -> Tensor:
    noise = torch.randn(parameter.shape, generator=generator).to(parameter)
    factor = scale * torch.linalg.vector_norm(parameter.detach()) / torch.linalg.vector_norm(noise)
    moved: Tensor = parameter.detach() + noise * factor
    return moved


def _coupling(
    model: nn.Module, loss: Loss, parameters: list[nn.Parameter], after: list[Tensor], sites: Sequence[Site] | None
) -> dict[str, Coupling]:
    order = order_of(model, loss)
    found, moved = {}, {id(p): v for p, v in zip(parameters, after, strict=True)}
    chosen = list(sites) if sites is not None else [(s.name, s.module) for s in order.stages()[1:]]
    start, inputs = inputs_of(model, loss, chosen)
    for name, module in _in_order(order, chosen):
        below = [p for p in order.below(module) if id(p) in moved]
        if not below or name not in inputs:
            continue
        with placed(below, [moved[id(p)] for p in below]):
            value, there = inputs_of(model, loss, [(name, module)])
        found[name] = compare(inputs[name], there[name], value - start)
    return found


def _in_order(order: Order, chosen: Sequence[Site]) -> list[Site]:
    position = {id(module): index for index, (_, module) in enumerate(order.sites)}
    return sorted((s for s in chosen if id(s[1]) in position), key=lambda s: position[id(s[1])])


def inputs_of(model: nn.Module, loss: Loss, sites: Sequence[Site]) -> tuple[float, dict[str, Tensor]]:
    """The loss, and the input of each site at its first use, by name.

    Sites that take no activations are left out: the indices of an embedding have no moments, and nothing moves them.
    """
    found: dict[str, Tensor] = {}

    def enter(layer: NormLayer, _module: nn.Module, x: Tensor) -> None:
        if isinstance(x, Tensor) and x.is_floating_point() and x.dim() > 1:
            found.setdefault(layer.name, x.detach().clone())

    with before_forward(modules_named(sites), enter):
        value = loss_of(model, loss)
    return value, found


def compare(
    before: Tensor, after: Tensor, change: float = 0.0, moments: tuple[Moments, Moments] | None = None
) -> Coupling:
    """How one layer's input moved.

    Args:
        before: Shape [batch, channels, ...].
        after: The same examples in the same layer later.
        change: The change of the loss.
        moments: Of both, where they are known.
    """
    a, b = moments or (Moments.of(before), Moments.of(after))
    moved = (after.double() - before.double()).square().sum()
    return Coupling(
        root_mean_square(standardized_distance(a, b)),
        root_mean_square(log_deviation_ratio(a, b)),
        float((moved / a.m2.sum()).sqrt()),
        change,
    )


def measurements(found: dict[str, Coupling], moved_by: str, step: int | None = None) -> list[Measurement]:
    """Each layer's coupling; `moved_by` ('a step', 'noise') names what moved the layers below."""
    out = []
    for name, item in found.items():
        rows = (
            ("distance of the input means", item.distance, "deviations"),
            ("log ratio of the input deviations", item.log_ratio, ""),
            ("change of the representation", item.representation, "deviations"),
            ("change of the loss", item.loss, ""),
        )
        out += [
            Measurement("coupling", f"{quantity} after {moved_by} below", name, step, value, unit)
            for quantity, value, unit in rows
        ]
    return out
