"""Padding inside the statistics of sequences."""

from __future__ import annotations

from typing import TYPE_CHECKING

from normscope.check.distance import distance
from normscope.check.rule import Rule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from normscope.check.evidence import Evidence
    from normscope.records import Finding


def look(evidence: Evidence) -> Iterator[Finding]:
    """Moments of sequence layers with and without the positions that are padding in the network's input."""
    for name, (whole, kept, share) in evidence.padded.items():
        norm = next(one for one in evidence.norms if one.name == name)
        moments = whole.moments
        found = distance(kept, moments.mean, moments.variance("biased"), evidence.batch, norm.eps)
        if found.beyond_a_batch:
            yield RULE.found(
                name,
                f"{100 * share:.0f} % of the positions are padding and count in its statistics: they move the mean by"
                f" {found.mean:.2g} deviations; one batch of {evidence.batch} errs by {found.batch_mean:.2g}",
                padded_share=share,
                mean_off=found.mean,
                log_deviation_off=found.scale,
            )


RULE = Rule(
    "BN017",
    "padding inside the statistics",
    ("model", "data"),
    "The statistics are those of a blend of data and padding, and change with how much padding a batch happens to hold:"
    " the same sequence gets another output in another batch.",
    "Mask: normscope.recalibrate(model, loader, mask=...) for evaluation; in training, normalize the unpadded positions"
    " only.",
    look,
    "With padding the statistics are further from those without than one mini-batch errs. Padding is where an input"
    " [batch, channels, length], or token ids [batch, length], ends in zeros, for sequences of unequal length.",
)
