"""Statistics put in place layer by layer, from below, while a batch passes: exact at every depth in one pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from normscope.model.attach import before_forward
from normscope.model.find import NormLayer

# (layer, its input in this call) -> mean and variance to normalize this call by, or None to leave the layer as it is.
Statistics = Callable[[NormLayer, Tensor], tuple[Tensor, Tensor] | None]


@contextmanager
def normalized_by(layers: Iterable[NormLayer], statistics: Statistics) -> Iterator[None]:
    """Normalize each call of `layers` by what `statistics` says, through the layers' own eval mode.

    The caller keeps the layers in eval mode and preserves the buffers.
    """

    def enter(layer: NormLayer, module: nn.Module, x: Tensor) -> None:
        found = statistics(layer, x)
        if found is not None:
            place(module, *found, like=x)

    with before_forward(tuple(layers), enter):
        yield


def place(module: nn.Module, mean: Tensor, variance: Tensor, like: Tensor | None = None) -> None:
    """Copy statistics into the running buffers of `module`; one that has none is given some, in float32 at least.

    Args:
        module: A batch-norm layer.
        mean: Shape [channels].
        variance: Shape [channels].
        like: The layer's input, whose type new buffers take where that is wider.
    """
    with torch.no_grad():
        for name, value in (("running_mean", mean), ("running_var", variance)):
            held = getattr(module, name, None)
            if isinstance(held, Tensor):
                held.copy_(value)
            else:
                dtype = torch.float32 if like is None else torch.promote_types(like.dtype, torch.float32)
                module._buffers[name] = value.to(dtype)
