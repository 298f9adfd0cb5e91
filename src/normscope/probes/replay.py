"""Running a user's closure again, for its value or its gradient, without a trace on the model."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from normscope.errors import InputError
from normscope.model.attach import replayable

Run = Callable[[], object]
Loss = Callable[[], Tensor]

_HINT = "the closure runs the forward pass on one fixed batch and returns the loss, without calling backward"


def _checked(value: object) -> Tensor:
    if not isinstance(value, Tensor):
        raise InputError(f"expected the loss closure to return a tensor, got {type(value).__name__}: {_HINT}")
    if value.numel() != 1:
        raise InputError(f"expected the loss closure to return one number, got shape {list(value.shape)}: {_HINT}")
    return value.reshape(())


def loss_of(model: nn.Module, loss: Loss) -> float:
    """The loss, run without gradients; buffers and generators are put back.

    Args:
        model: The network that `loss` runs.
        loss: Runs the forward pass on a fixed batch and returns the loss.

    Raises:
        InputError: The closure does not return one number in a tensor.
    """
    with replayable(model), torch.no_grad():
        return float(_checked(loss()))


def gradient_of(model: nn.Module, loss: Loss, parameters: Sequence[Tensor]) -> tuple[float, list[Tensor]]:
    """The loss and its gradient, `.grad` untouched; parameters that the loss does not use get zeros.

    Args:
        model: The network that `loss` runs.
        loss: Runs the forward pass on a fixed batch and returns the loss.
        parameters: Whose gradients are wanted.

    Returns:
        The loss and one gradient for each parameter, of its shape.

    Raises:
        InputError: The closure does not return one number in a tensor, or no gradient can be taken from it.
    """
    with replayable(model), torch.enable_grad():
        value = _checked(loss())
        if not value.requires_grad:
            raise InputError(f"expected a loss that requires grad, got a constant: {_HINT}")
        try:
            found = torch.autograd.grad(value, list(parameters), allow_unused=True)
        except RuntimeError as error:
            if "second time" not in str(error):
                raise
            raise InputError(f"the loss has been through backward already: {_HINT}") from None
    return float(value.detach()), [
        torch.zeros_like(parameter) if grad is None else grad.detach()
        for parameter, grad in zip(parameters, found, strict=True)
    ]


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The parameters of `model` that take part in training, each once."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def norm_of(tensors: Sequence[Tensor]) -> float:
    """The Euclidean norm of all of `tensors` as one vector, in float64."""
    return math.sqrt(sum(float(tensor.double().square().sum()) for tensor in tensors))


def dot(left: Sequence[Tensor], right: Sequence[Tensor]) -> float:
    """The inner product of two lists of tensors, each as one vector, in float64."""
    return float(sum(float((a.double() * b.double()).sum()) for a, b in zip(left, right, strict=True)))
