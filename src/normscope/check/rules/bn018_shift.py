"""Serving data from another distribution than training data, layer by layer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from normscope.check.distance import distance
from normscope.check.rule import Rule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from normscope.check.evidence import Evidence
    from normscope.records import Finding


def look(evidence: Evidence) -> Iterator[Finding]:
    """Moments of each layer's input on serving data, every layer before it normalizing by training statistics."""
    for norm in evidence.norms:
        here, there = evidence.population.get(norm.name), evidence.served.get(norm.name)
        if here is None or there is None:
            continue
        found = distance(here, there.moments.mean, there.moments.variance("biased"), evidence.batch, norm.eps)
        back = distance(there, here.moments.mean, here.moments.variance("biased"), evidence.batch, norm.eps)
        if found.beyond_a_batch and back.beyond_a_batch:
            yield RULE.found(
                norm.name,
                f"mean {found.mean:.2g} deviations and deviation by a factor of {math.exp(found.scale):.3g} away on the"
                f" serving data; sampling alone gives {math.hypot(found.mean_error, back.mean_error):.2g}",
                mean_off=found.mean,
                log_deviation_off=found.scale,
                null=math.hypot(found.mean_error, back.mean_error),
                serving_examples=there.examples,
            )


RULE = Rule(
    "BN018",
    "shift between training and serving data",
    ("model", "data", "serving"),
    "Running statistics are those of the training data: on shifted data the layers no longer normalize, and errors grow"
    " with depth.",
    "normscope.adapt(model, serving_loader) blends in the statistics of unlabelled serving data. Check"
    " with labelled data"
    " that it helps: it cannot repair every shift.",
    look,
    "The shift exceeds what one mini-batch errs by, allowing for the standard errors of both samples.",
    sources=("schneider2020", "benz2021"),
)
