"""One forward of one batch of a loader, and its loss, told apart from what the network does with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from normscope.errors import InputError, NormscopeError
from normscope.model.batch import Batch, output_of, split
from normscope.model.spec import Score, raised

Forward = Callable[[nn.Module, Any], Any]


def as_batch(raw: Any) -> Batch:
    """A loader's item as `Batch`, with or without a target."""
    if isinstance(raw, Batch):
        return raw
    if isinstance(raw, Tensor) or (isinstance(raw, list | tuple) and len(raw) == 1):
        return split(raw, labelled=False)
    if isinstance(raw, Mapping):
        return split(raw, labelled=False)
    return split(raw)


def run(model: nn.Module, raw: Any, forward: Forward | None) -> Any:
    """One forward of `raw` through `model`, on the device of its parameters."""
    if forward is not None:
        return forward(model, raw)
    batch = as_batch(raw).to(device_of(model))
    try:
        return model(*batch.args, **batch.kwargs)
    except NormscopeError:
        raise
    except Exception as error:
        shapes = ", ".join(f"{key} {list(x.shape)}" for key, x in batch.leaves)
        raise raised(error, f"the network, given {shapes},") from error


def score(model: nn.Module, raw: Any, loss: Score, forward: Forward | None, name: str = "loss") -> float:
    """`loss`, or what else `name` says it is, of one batch, the network in the mode that it is in.

    Raises:
        InputError: The batch has no target, or the loss does not take the output with it.
    """
    target = as_batch(raw).target
    if target is None:
        raise InputError(f"expected batches of (input, target) to take a {name} on, came inputs without targets")
    output = output_of(run(model, raw, forward))
    try:
        return float(loss(output, target.to(output.device)))
    except Exception as error:
        raise InputError(
            f"the {name} does not take an output of shape {list(output.shape)} with targets of shape"
            f" {list(target.shape)} and type {target.dtype}: {str(error).splitlines()[0]}; give --{name}"
        ) from error


def device_of(model: nn.Module) -> torch.device:
    """Where the network's first parameter or buffer is; the CPU for a network without."""
    first = next(model.parameters(), next(model.buffers(), None))
    return torch.device("cpu") if first is None else first.device
