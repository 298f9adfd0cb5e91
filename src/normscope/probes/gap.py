"""The gap between training and evaluation mode: the same network and batches, a different number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from normscope.errors import InputError
from normscope.model.attach import mode, replayable
from normscope.model.find import find
from normscope.records import Measurement

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn


@dataclass(frozen=True)
class Gap:
    """A loss or metric in each mode.

    Attributes:
        training: Everything in training mode.
        evaluation: Everything in evaluation mode.
        batch_norm: Only the batch-norm layers in training mode, dropout and the rest in evaluation mode.
    """

    training: float
    evaluation: float
    batch_norm: float

    @property
    def difference(self) -> float:
        """Evaluation minus training."""
        return self.evaluation - self.training

    @property
    def batch_norm_difference(self) -> float:
        """Evaluation minus batch norm alone in training mode: the part of the gap that is batch norm's."""
        return self.evaluation - self.batch_norm


def gap(model: nn.Module, metric: Callable[[], float | Tensor]) -> Gap:
    """`metric` of the same batches in training mode, in evaluation mode, and with only batch norm in training mode.

    Args:
        model: The network that `metric` runs; left as it is.
        metric: Runs the forward pass on fixed batches and returns a number; it must not call `model.train` or
            `model.eval` itself.

    Raises:
        UnsupportedError: No batch norm found.
        InputError: `metric` does not return one number.
    """
    layers = [layer.module for layer in find(model).require().layers if layer.kind != "frozen"]
    with mode(model, training=True):
        training = _value(model, metric)
    with mode(model, training=False):
        evaluation = _value(model, metric)
        for module in layers:
            module.training = True
        batch_norm = _value(model, metric)
    return Gap(training, evaluation, batch_norm)


def _value(model: nn.Module, metric: Callable[[], float | Tensor]) -> float:
    with replayable(model), torch.no_grad():
        value = metric()
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(
            f"expected the metric to return one number, got {type(value).__name__}; average over the batch"
        ) from None


def measurements(found: Gap, step: int | None = None) -> list[Measurement]:
    """Both modes and what lies between them."""
    rows = (
        ("loss in training mode", found.training),
        ("loss in evaluation mode", found.evaluation),
        ("evaluation minus training", found.difference),
        ("evaluation minus training, batch norm alone", found.batch_norm_difference),
    )
    return [Measurement("gap", quantity, "", step, value) for quantity, value in rows]
