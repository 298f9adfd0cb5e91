"""What is given to be checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn
    from torch.optim import Optimizer

    from normscope.check.state import NormState
    from normscope.model.spec import Score
    from normscope.surgery.forward import Forward


@dataclass(frozen=True)
class Subject:
    """What was given to be checked.

    Attributes:
        norms: The layers as numbers.
        model: The live network; None for a checkpoint alone.
        batches: Training batches, as the loader gave them.
        held_out: Labelled batches for the loss; the training batches where none were given.
        serving: Batches from where the network is used.
        sizes: Size of every batch of one epoch, as far as the loader tells.
        loss: (output, target) -> scalar; None where the data have no targets.
        optimizer: The user's optimizer.
        step: Runs one training step of the user's loop.
        forward: (model, batch) -> output.
        gap_forwards: Bound on the passes of the gap split.
        metric: (output, target) -> number, shown before and after fixes.
        notes: What was given and not looked into.
    """

    norms: tuple[NormState, ...]
    model: nn.Module | None = None
    batches: tuple[Any, ...] = ()
    held_out: tuple[Any, ...] = ()
    serving: tuple[Any, ...] = ()
    sizes: tuple[int, ...] = ()
    loss: Score | None = None
    optimizer: Optimizer | None = None
    step: Callable[[], object] | None = None
    forward: Forward | None = None
    gap_forwards: int | None = None
    metric: Score | None = None
    notes: tuple[str, ...] = ()
