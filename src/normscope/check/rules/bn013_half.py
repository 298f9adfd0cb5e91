"""Running statistics kept in half precision."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from normscope.check.rule import Rule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from normscope.check.evidence import Evidence
    from normscope.records import Finding


def look(evidence: Evidence) -> Iterator[Finding]:
    """By the dtype of the buffers."""
    for norm in evidence.norms:
        assert norm.mean is not None
        assert norm.variance is not None
        kinds = {value.dtype for value in (norm.mean, norm.variance)} & {torch.float16, torch.bfloat16}
        if not kinds:
            continue
        kind = min(map(str, kinds))
        step = torch.finfo(next(iter(kinds))).eps
        yield RULE.found(
            norm.name,
            f"running statistics are {kind}: an update smaller than {50 * step:.2g} % of the average is"
            " lost in rounding",
            resolution=step,
        )


RULE = Rule(
    "BN013",
    "running statistics in half precision",
    (),
    "An average moves by momentum times a difference; in 16 bits such a step is rounded away, the average sticks, and"
    " variances above 65504 overflow in float16.",
    "Keep batch norm in float32: call model.half() on the rest only, or use torch.autocast; for a checkpoint, cast"
    " running_mean and running_var to float32 and recalibrate.",
    look,
    "Relative rounding step of the dtype, 2^-11 for float16 and 2^-8 for bfloat16.",
    repair="widen",
    quotes=("RuntimeError: expected scalar type Half but found Float", "batch norm half precision running_var inf"),
)
