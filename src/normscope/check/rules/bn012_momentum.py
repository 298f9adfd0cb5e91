"""Momentum that averages nothing, never, or by another framework's convention."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from normscope.check.rule import Rule
from normscope.surgery.freeze import Frozen

if TYPE_CHECKING:
    from collections.abc import Iterator

    from normscope.check.evidence import Evidence
    from normscope.check.state import NormState
    from normscope.records import Finding


def look(evidence: Evidence) -> Iterator[Finding]:
    """By the layer's attribute, and by how often it was updated."""
    for norm in evidence.norms:
        assert norm.layer is not None
        if (
            isinstance(norm.layer.module, Frozen)
            or norm.layer.kind == "frozen"
            or not hasattr(norm.layer.module, "momentum")
        ):
            continue
        momentum: Any = norm.layer.module.momentum
        words = fault(norm, momentum)
        if words is not None:
            yield RULE.found(norm.name, words, momentum=momentum, num_batches_tracked=norm.tracked)


def fault(norm: NormState, momentum: float | None) -> str | None:
    """What is wrong with `momentum`; None if nothing."""
    if momentum is None:
        return "momentum=None weighs every batch alike: the average holds the untrained network's statistics too"
    if not 0 <= momentum <= 1:
        return f"momentum={momentum:g} is no average: outside 0 to 1 the statistics grow without bound"
    if momentum == 0:
        return "momentum=0 never moves the running statistics"
    batches = (2 - momentum) / momentum
    if batches < 2:
        return (
            f"momentum={momentum:g} averages {batches:.3g} batches in effect: the running statistics are those of"
            f" the last batch. Keras and TensorFlow call 1 - momentum momentum: {1 - momentum:.3g} here"
        )
    share = (1 - momentum) ** norm.tracked if norm.tracked else 0.0
    # An average that holds so much of its initial 1 cannot be below that; population statistics can.
    if share >= 0.5 and norm.variance is not None and bool((norm.variance >= share).all()):
        return (
            f"after {norm.tracked} updates with momentum={momentum:g}, {100 * share:.0f} % of the running statistics"
            " are still their initial 0 and 1"
        )
    return None


RULE = Rule(
    "BN012",
    "momentum of no use, or of the other convention",
    ("model",),
    "torch's momentum is the weight of the new batch: running = (1 - momentum) * running + momentum * batch. 0.9 or"
    " 0.99 from Keras keeps only the last batch; 0 keeps the initial values; None averages over the whole training.",
    "Use 0.1, or 0.01 for a longer average; then normscope.recalibrate(model, train_loader).",
    look,
    "An exponential average holds (2 - m) / m batches in effect at fixed weights; fewer than 2 is none. The initial"
    " values weigh (1 - m)^updates; half or more, in every channel's variance, is too much.",
    sources=("ioffe2015",),
    quotes=("BatchNorm momentum convention PyTorch vs TensorFlow",),
)
