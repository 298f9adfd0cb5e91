"""Treatments: what is done to a network before it is trained, as data that a run's key is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import nn

# Training examples that give the statistics of an arm that is free of mini-batch noise, at most.
FULL = 512


@dataclass(frozen=True)
class Arm:
    """One treatment of a network.

    Attributes:
        name: Its name in figures and tables.
        norm: 'kept' as the network has it; 'removed' with gamma and beta kept; 'ghost' normalizes groups of `ghost`
            examples; 'full' normalizes by the statistics of up to `FULL` training examples (nearly free of mini-batch
            noise; free of it where these are all).
        ghost: Examples in a ghost batch.
        dropout: Probability of dropping a unit after each place where batch norm stands or stood.
        init: 'given' by the network's factory, 'he' (He et al. 2015: key he2015) for every weight matrix but the last,
            or 'default' (torch's own, by reset_parameters).
        inputs: 'given' by the data, 'standardized' per feature with the training set's moments, or 'raw'.
        noise: Standard deviations of Gaussian multiplicative and additive noise on the normalized values, per channel
            and group of `ghost` examples, or mini-batch where `ghost` is 0; (0, 0) for none.
        updates: Optimizer updates for each counted step; above 1 it plants a known gain of speed.
        examples: Share of the training set that is used; below 1 it plants a known loss of generalization, above 1
            (with 'mlp2', which leaves most of the digits for the test) a known gain.
        spread: Standard deviation of log-normal factors on the rows of every hidden weight matrix; plants a known
            spread of scales.
        correlation: Correlation of the examples within a batch that is drawn to measure noise; above 0 it plants a
            known departure from independent draws.
        frozen: Lowest weight matrices that training leaves as they are; above 0 it plants a known loosening of the
            layers above from what lies below.
        pace: Factor on the learning rate once it is chosen, where a claim asks for it; below 1 it plants smaller moves.
        order: Which of several orders of the examples a seed gives; tells runs apart that are alike in all else.
        shifted: Share of the training images that are shown in the shifted rendering; plants a known robustness.
    """

    name: str
    norm: Literal["kept", "removed", "ghost", "full"] = "kept"
    ghost: int = 0
    dropout: float = 0.0
    init: Literal["given", "he", "default"] = "given"
    inputs: Literal["given", "standardized", "raw"] = "given"
    noise: tuple[float, float] = (0.0, 0.0)
    updates: float = 1.0
    examples: float = 1.0
    spread: float = 0.0
    correlation: float = 0.0
    frozen: int = 0
    pace: float = 1.0
    order: int = 0
    shifted: float = 0.0


PLAIN = Arm("plain", norm="removed")
BATCH_NORM = Arm("batch norm")


def build(model: nn.Module, arm: Arm, seed: int) -> nn.Module:
    """`model` with the treatment of `arm`, in place; the caller owns the model and made it for this run.

    Args:
        model: A fresh network.
        arm: The treatment.
        seed: Seeds what the treatment draws (He's initialization, planted spreads).

    Returns:
        The treated network; every weight that both arms of a pair have is the same under the same seed.
    """
    import torch

    from normscope.surgery import remove

    generator = torch.Generator().manual_seed(seed)
    if arm.init == "he":
        remove.he_initialize(model, generator)
    elif arm.init == "default":
        remove.default_initialize(model, seed)
    if arm.spread:
        remove.spread_rows(model, arm.spread, generator)
    if arm.frozen:
        remove.freeze_lowest(model, arm.frozen)
    if arm.norm == "removed":
        model = remove.remove_batch_norm(model)
    elif arm.norm == "ghost":
        model = remove.to_ghost(model, arm.ghost)
    if arm.dropout or arm.noise != (0.0, 0.0):
        model = remove.after_norm(model, dropout=arm.dropout, noise=arm.noise, group=arm.ghost)
    return model
