"""Statistics updated more than once per optimizer step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from normscope.check.rule import Rule
from normscope.check.steps import extra, per_layer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from normscope.check.evidence import Evidence
    from normscope.records import Finding


def look(evidence: Evidence) -> Iterator[Finding]:
    """Updates per optimizer step, told apart from gradient accumulation by what lies between the forwards."""
    for name, (passes, steps) in per_layer(evidence.steps).items():
        moved, again = extra(passes, steps)
        if not moved:
            continue
        how = (
            "the same input comes again: activation checkpointing recomputes the forward (torch.utils.checkpoint), or"
            " the batch is run twice"
            if again
            else "several forwards with different inputs come before one backward"
        )
        yield RULE.found(
            name,
            f"{len(moved) / steps:.3g} updates of the running statistics per optimizer step: {how}",
            updates_per_step=len(moved) / steps,
            repeated_inputs=again,
        )


RULE = Rule(
    "BN011",
    "statistics are updated twice per step",
    ("model", "optimizer", "step"),
    "Recomputed forwards move the average twice: momentum is doubled in effect, so the average holds half as many"
    " batches; extra forwards on other inputs blend those into the statistics that eval mode uses.",
    "Wrap the extra forward in normscope.hold_statistics(model); for torch.utils.checkpoint pass it in context_fn.",
    look,
    "None: updates are counted.",
    quotes=(
        "BatchNorm running stats updated twice with torch.utils.checkpoint",
        "num_batches_tracked is twice the number of iterations",
    ),
)
