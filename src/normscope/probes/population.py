"""A model with noise-free statistics for a while: every batch norm uses those of one pool of examples."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from normscope.model.attach import before_forward, mode, replayable
from normscope.model.find import NormLayer, find
from normscope.probes.examples import ExampleMoments

if TYPE_CHECKING:
    from collections.abc import Iterator

    from normscope.moments import Moments
    from normscope.probes.replay import Run


@contextmanager
def population_mode(model: nn.Module, run: Run) -> Iterator[dict[str, ExampleMoments]]:
    """Evaluation mode with the statistics of the pool that `run` forwards in one batch, exact at every depth.

    Each layer's statistics are taken with those of the layers below it already in place, so one pass is enough. They
    are the biased variance, which is what training normalizes by. Frozen layers keep theirs.

    Args:
        model: The network that `run` runs; buffers, flags and generators are put back on leaving.
        run: Runs one forward pass of the whole pool in a single batch.

    Yields:
        The pool's example moments at each layer that normalizes by statistics, by name.
    """
    layers = [layer for layer in find(model).require().layers if layer.kind != "frozen"]
    found: dict[str, ExampleMoments] = {}

    def enter(layer: NormLayer, module: nn.Module, x: Tensor) -> None:
        found[layer.name] = ExampleMoments.of(x)
        _place(module, found[layer.name].moments(), x)

    with replayable(model), mode(model, training=False), torch.no_grad():
        with before_forward(layers, enter):
            run()
        yield found


def _place(module: nn.Module, moments: Moments, like: Tensor) -> None:
    """Give `module` these running statistics, as new tensors: `preserved_buffers` puts the old ones back."""
    held = module.running_mean if isinstance(module.running_mean, Tensor) else None
    dtype = held.dtype if held is not None else torch.promote_types(like.dtype, torch.float32)
    module._buffers["running_mean"] = moments.mean.to(dtype)
    module._buffers["running_var"] = moments.variance("biased").to(dtype)
