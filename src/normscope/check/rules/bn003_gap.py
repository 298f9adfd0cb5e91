"""Eval mode worse than train mode on the same data."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from normscope.check.rule import Rule
from normscope.surgery.recalibrate import student

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from normscope.check.evidence import Evidence
    from normscope.records import Finding


def look(evidence: Evidence) -> Iterator[Finding]:
    """Paired over batches: loss as deployed minus loss by mini-batch statistics."""
    losses = evidence.losses
    deployed, by_batch = losses.deployed, losses.by_batch
    if not all(map(math.isfinite, by_batch)):
        return
    center, population = math.fsum(by_batch) / len(by_batch), math.fsum(losses.by_population) / len(by_batch)
    if not all(map(math.isfinite, deployed)):
        yield RULE.found(
            "",
            f"eval mode gives a loss of NaN or inf, train mode {center:.4g}, population statistics {population:.4g}",
            loss_in_train_mode=center,
            loss_with_population_statistics=population,
        )
        return
    gaps = [a - b for a, b in zip(deployed, by_batch, strict=True)]
    n, gap = len(gaps), math.fsum(gaps) / len(gaps)
    if n < 2:
        return
    low = gap - student(0.999, n - 1) * _error(gaps)
    if low > 0 and gap > _error(by_batch):
        yield RULE.found(
            "",
            f"loss {gap + center:.4g} in eval mode, {center:.4g} when the layers normalize by the batch,"
            f" {population:.4g} with population statistics, on the same data",
            gap=gap,
            low=low,
            loss_in_eval_mode=gap + center,
            loss_in_train_mode=center,
            loss_with_population_statistics=population,
            error_of_the_loss=_error(by_batch),
        )


def _error(values: Sequence[float]) -> float:
    n, center = len(values), math.fsum(values) / len(values)
    return math.sqrt(math.fsum((v - center) ** 2 for v in values) / (n - 1) / n)


RULE = Rule(
    "BN003",
    "eval mode is worse than train mode on the same data",
    ("model", "data", "loss"),
    "The network that was trained is not the one that is deployed. The gap's split by cause and by layer says why.",
    "See the causes in the report; normscope.recalibrate(model, train_loader) closes what stale averages opened.",
    look,
    "The lower 99.9 % bound of the paired gap over batches is above 0, and the gap exceeds the standard error of the"
    " loss itself.",
    repair="recalibrate",
    sources=("wu2021", "ioffe2017"),
    quotes=(
        "Model performs well in train() mode but badly in eval() mode",
        "High training accuracy, eval accuracy at chance",
    ),
)
