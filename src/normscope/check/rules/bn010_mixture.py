"""One layer fed by several distributions, in one forward or from batch to batch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from normscope.check.distance import distance
from normscope.check.rule import Rule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from normscope.check.evidence import Evidence
    from normscope.records import Finding
    from normscope.surgery.population import Sample


def look(evidence: Evidence) -> Iterator[Finding]:
    """Calls against each other, and spread of batch means against what examples drawn at random would give."""
    rows = evidence.per_batch
    for norm in evidence.norms:
        calls = [row[norm.name] for row in rows if norm.name in row]
        if not calls:
            continue
        first, later = _merged([row[0] for row in calls]), [row[-1] for row in calls if len(row) > 1]
        if later:
            other = _merged(later)
            found = distance(first, other.moments.mean, other.moments.variance("biased"), evidence.batch, norm.eps)
            if found.beyond_a_batch:
                yield RULE.found(
                    norm.name,
                    f"is called {len(calls[0])} times per forward on different distributions: means"
                    f" {found.mean:.2g} deviations apart, deviations by a factor of {math.exp(found.scale):.3g}",
                    calls=len(calls[0]),
                    mean_apart=found.mean,
                    log_deviation_apart=found.scale,
                )
                continue
        spread = _spread([row[0] for row in calls if row[0].examples > 1])
        if spread is not None and spread > max(2.0, 1 + 3.3 * math.sqrt(2 / (len(calls) - 1))):
            yield RULE.found(
                norm.name,
                f"the means of the training batches vary {spread:.3g} times as much as those of examples drawn at"
                " random would: batches come from different distributions, or the loader does not shuffle",
                variance_ratio=spread,
                batches=len(calls),
            )


def _merged(parts: list[Sample]) -> Sample:
    total = parts[0]
    for part in parts[1:]:
        total = total.merge(part)
    return total


def _spread(parts: list[Sample]) -> float | None:
    """Variance of batch means over its expectation from the spread of examples inside batches, mean over channels."""
    if len(parts) < 4:
        return None
    means = torch.stack([part.moments.mean for part in parts])
    expected = torch.stack(
        [part.mean_pull / part.moments.count.square() * part.examples / (part.examples - 1) for part in parts]
    ).mean(0)
    live = expected > 0
    if not bool(live.any()):
        return None
    return float((means.var(0)[live] / expected[live]).mean())


RULE = Rule(
    "BN010",
    "one layer is fed by several distributions",
    ("model", "data"),
    "There is one running average for all of them. Train mode normalizes each by its own statistics, eval mode all by"
    " the blend, which fits none.",
    "Shuffle, so that every batch is a mixture; or give each distribution a batch norm of its own (one per domain, per"
    " time step, real and generated apart).",
    look,
    "Between calls: further apart than one mini-batch errs. Between batches: the variance of batch means is at least"
    " twice, and 3.3 standard errors, above what examples drawn at random give.",
    quotes=(
        "Batch norm works in training but not in eval with a GAN discriminator",
        "shared batch norm siamese network eval mode",
    ),
)
