"""Averaged weights with the statistics of the weights before averaging."""

from __future__ import annotations

from typing import TYPE_CHECKING

from normscope.check.distance import distance
from normscope.check.rule import Rule
from normscope.check.rules.bn001_stale import averaged

if TYPE_CHECKING:
    from collections.abc import Iterator

    from normscope.check.evidence import Evidence
    from normscope.records import Finding


def look(evidence: Evidence) -> Iterator[Finding]:
    """An AveragedModel whose statistics are further from the population than one mini-batch."""
    if not averaged(evidence.model):
        return
    off = []
    for norm in evidence.norms:
        sample = evidence.trained_on.get(norm.name)
        if sample is None or norm.mean is None or norm.variance is None:
            continue
        found = distance(sample, norm.mean, norm.variance, evidence.batch, norm.eps)
        if found.beyond_a_batch:
            off.append((found.in_batches, norm.name, found))
    if off:
        worst, name, found = max(off, key=lambda row: row[0])
        yield RULE.found(
            name,
            f"the weights are averaged (AveragedModel), the statistics of {len(off)} layers are not those"
            " of the averaged"
            f" weights; worst here, {worst:.3g} times what one batch of {evidence.batch} errs by",
            layers=len(off),
            mean_off=found.mean,
            log_deviation_off=found.scale,
        )


RULE = Rule(
    "BN015",
    "averaged weights with the old statistics",
    ("model", "data"),
    "EMA or SWA weights feed every layer something else than the weights that the statistics were collected with.",
    "normscope.recalibrate(averaged_model, train_loader) after averaging (torch.optim.swa_utils.update_bn does the same"
    " with more images).",
    look,
    "As for stale statistics: worse than one mini-batch's own.",
    repair="recalibrate",
    sources=("wu2021",),
    quotes=("SWA model has much worse accuracy without update_bn",),
)
