"""How a step changes the loss and its gradients, as Santurkar et al. define it (bibliography key santurkar2018)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from normscope.errors import InputError
from normscope.probes.order import Stage, order_of
from normscope.probes.replay import Loss, dot, gradient_of, norm_of, trainable
from normscope.probes.step import placed, stepped
from normscope.records import Measurement

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from torch import Tensor, nn

STEPS = (0.5, 1.0, 2.0, 4.0)


@dataclass(frozen=True)
class GradientShift:
    """Internal covariate shift of one layer as a change of its gradient (their definition 2.1).

    Attributes:
        absolute: ||g - g'||, g the gradient of W_i at t, g' the same after the layers below i took their step.
        relative: ||g - g'|| / ||g||.
        cosine: Cosine of the angle between g and g'.
    """

    absolute: float
    relative: float
    cosine: float


@dataclass(frozen=True)
class Landscape:
    """The loss along its gradient g from theta: figure 4 of the paper.

    Attributes:
        steps: Step sizes s.
        losses: L(theta - s g), one for each step.
        start: L(theta).
        changes: ||g(theta) - g(theta - s g)||, gradient predictiveness, one for each step.
        norm: ||g(theta)||.
    """

    steps: tuple[float, ...]
    losses: tuple[float, ...]
    start: float
    changes: tuple[float, ...]
    norm: float

    @property
    def variation(self) -> float:
        """Range of the loss over the steps, largest minus smallest."""
        return max(self.losses) - min(self.losses)

    @property
    def predictiveness(self) -> float:
        """Largest change of the gradient over the steps; small means that the gradient predicts well."""
        return max(self.changes)

    @property
    def smoothness(self) -> float:
        """Effective beta-smoothness: largest ratio of change of gradient to distance moved."""
        return max(
            change / (step * self.norm) if self.norm > 0 else 0.0
            for change, step in zip(self.changes, self.steps, strict=True)
        )


def gradient_shift(
    model: nn.Module,
    loss: Loss,
    optimizer: torch.optim.Optimizer | float,
    stages: Sequence[Stage] | None = None,
) -> dict[str, GradientShift]:
    """Change of each layer's gradient when the layers below it alone take their next step, on the same batch.

    Args:
        model: The network that `loss` runs; left as it is.
        loss: Runs the forward pass on a fixed batch and returns the loss.
        optimizer: Whose next step is taken on a copy; a number is the learning rate of a plain gradient step.
        stages: The layers; by default every module with weights, in the order in which the network runs them.

    Returns:
        One shift for each stage but the first, by name, bottom first.
    """
    stages = tuple(stages) if stages is not None else order_of(model, loss).stages()
    parameters = trainable(model)
    _, gradients = gradient_of(model, loss, parameters)
    now = {id(p): g for p, g in zip(parameters, gradients, strict=True)}
    after = {id(p): v for p, v in zip(parameters, stepped(optimizer, parameters, gradients), strict=True)}
    shifts, below = {}, list(stages[0].parameters) if stages else []
    for stage in stages[1:]:
        with placed(below, [after[id(p)] for p in below]):
            _, moved = gradient_of(model, loss, stage.weights)
        shifts[stage.name] = _compare([now[id(p)] for p in stage.weights], moved)
        below += stage.parameters
    return shifts


def _compare(before: list[Tensor], after: list[Tensor]) -> GradientShift:
    absolute = norm_of([a - b for a, b in zip(before, after, strict=True)])
    size, other = norm_of(before), norm_of(after)
    nan = float("nan")
    return GradientShift(
        absolute,
        absolute / size if size > 0 else nan,
        dot(before, after) / (size * other) if size > 0 and other > 0 else nan,
    )


def landscape(model: nn.Module, loss: Loss, steps: Sequence[float]) -> Landscape:
    """Loss and gradient at several step sizes along the gradient, parameters put back.

    Args:
        model: The network that `loss` runs; left as it is.
        loss: Runs the forward pass on a fixed batch and returns the loss.
        steps: Step sizes s > 0; the paper takes a range around the learning rate (`STEPS` times it).

    Raises:
        InputError: No step, or one that is not positive.
    """
    if not steps or min(steps) <= 0:
        raise InputError(f"expected step sizes greater than 0, got {list(steps)}; take multiples of the rate")
    parameters = trainable(model)
    start, gradients = gradient_of(model, loss, parameters)
    losses, changes = [], []
    for step in steps:
        moved = [p.detach() - step * g for p, g in zip(parameters, gradients, strict=True)]
        with placed(parameters, moved):
            value, there = gradient_of(model, loss, parameters)
        losses.append(value)
        changes.append(norm_of([a - b for a, b in zip(gradients, there, strict=True)]))
    return Landscape(tuple(map(float, steps)), tuple(losses), start, tuple(changes), norm_of(gradients))


def measurements(
    shifts: dict[str, GradientShift], along: Landscape | None, step: int | None = None
) -> list[Measurement]:
    """Both probes as measurements."""
    out = []
    for name, shift in shifts.items():
        out += [
            Measurement("gradient shift", "relative change of the gradient", name, step, shift.relative),
            Measurement("gradient shift", "cosine of the angle", name, step, shift.cosine),
        ]
    if along is not None:
        out += [
            Measurement("landscape", "loss variation", "", step, along.variation),
            Measurement("landscape", "gradient predictiveness", "", step, along.predictiveness),
            Measurement("landscape", "effective smoothness", "", step, along.smoothness),
        ]
    return out
