"""A model with noise-free statistics for a while: every batch norm uses those of one pool of examples."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from normscope.model.attach import mode, replayable
from normscope.model.find import NormLayer, find
from normscope.model.population import normalized_by
from normscope.probes.examples import ExampleMoments

if TYPE_CHECKING:
    from collections.abc import Iterator

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

    def own(layer: NormLayer, x: Tensor) -> tuple[Tensor, Tensor]:
        found[layer.name] = ExampleMoments.of(x)
        moments = found[layer.name].moments()
        return moments.mean, moments.variance("biased")

    with replayable(model), mode(model, training=False), torch.no_grad():
        with normalized_by(layers, own):
            run()
        yield found
