"""Gradient accumulation, which batch norm does not see."""

from __future__ import annotations

from typing import TYPE_CHECKING

from normscope.check.rule import Rule
from normscope.check.steps import per_layer, repeated

if TYPE_CHECKING:
    from collections.abc import Iterator

    from normscope.check.evidence import Evidence
    from normscope.records import Finding


def look(evidence: Evidence) -> Iterator[Finding]:
    """Several forwards with different inputs, each with its backward, per optimizer step."""
    layers = []
    each = 0.0
    for name, (passes, steps) in per_layer(evidence.steps).items():
        moved = [one for one in passes if one.moved]
        apart = len({(one.step, one.backwards) for one in moved}) == len(moved)
        if len(moved) >= 2 * steps and apart and not repeated(moved):
            layers.append(name)
            each = len(moved) / steps
    if layers:
        yield RULE.found(
            "",
            f"{each:.3g} forwards and backwards per optimizer step: the gradient is that of {each:.3g} batches, but"
            f" {len(layers)} layers normalize by one at a time",
            batches_per_step=each,
            layers=len(layers),
        )


RULE = Rule(
    "BN016",
    "gradient accumulation that the statistics do not see",
    ("model", "optimizer", "step"),
    "Accumulating gradients makes the optimizer's batch larger, not batch norm's: the noise and the bias of small"
    " batches stay, and the results differ from those of the large batch.",
    "Use the largest batch that fits for each forward, freeze the statistics, or convert:"
    " normscope.convert(model, 'group').",
    look,
    "None: forwards and backwards are counted.",
    sources=("ioffe2017",),
    quotes=("gradient accumulation batch norm different results",),
)
