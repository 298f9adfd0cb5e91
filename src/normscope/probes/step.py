"""What an optimizer's next step would do, without taking it."""

from __future__ import annotations

import copy
from contextlib import contextmanager
from typing import TYPE_CHECKING

from normscope.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import torch
    from torch import Tensor, nn


def stepped(
    optimizer: torch.optim.Optimizer | float, parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor]
) -> list[Tensor]:
    """Where one step of `optimizer` with `gradients` would take `parameters`: new tensors, in their order.

    A twin of the optimizer, with its state (momentum, averages) and settings, steps copies of the parameters; the
    optimizer, its hooks and its schedule are not touched. What a training loop does beside `optimizer.step()`
    (clipping, scaling) is not part of it.

    Args:
        optimizer: The optimizer of the training loop; a number is the learning rate of a step along the gradients.
        parameters: The parameters to move; those that the optimizer does not hold stay.
        gradients: One for each of `parameters`.

    Raises:
        InputError: The optimizer cannot step on given gradients (LBFGS wants a closure).
    """
    if isinstance(optimizer, int | float):
        return [value.detach() - optimizer * part.detach() for value, part in zip(parameters, gradients, strict=True)]
    copies = {id(value): value.detach().clone().requires_grad_() for value in parameters}
    for group in optimizer.param_groups:
        for value in group["params"]:
            copies.setdefault(id(value), value.detach().clone().requires_grad_())
    for value, gradient in zip(parameters, gradients, strict=True):
        copies[id(value)].grad = gradient.detach().clone()
    twin = copy.deepcopy(optimizer, dict(copies))
    try:
        twin.step()
    except TypeError as error:
        raise InputError(
            f"expected an optimizer that steps on given gradients, got {type(optimizer).__name__} ({error});"
            " leave the optimizer out to skip the probes that take a step"
        ) from None
    return [copies[id(value)].detach() for value in parameters]


@contextmanager
def placed(parameters: Sequence[Tensor], values: Sequence[Tensor]) -> Iterator[None]:
    """Let `parameters` hold `values` for a while; what they held is put back on leaving, bit for bit."""
    saved = [parameter.detach().clone() for parameter in parameters]
    try:
        put(parameters, values)
        yield
    finally:
        put(parameters, saved)


def put(parameters: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Write `values` into `parameters` without autograd noticing."""
    for parameter, value in zip(parameters, values, strict=True):
        parameter.data.copy_(value)
