"""num_batches_tracked that contradicts the statistics, or the other layers."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from normscope.check.rule import Rule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from normscope.check.evidence import Evidence
    from normscope.records import Finding


def look(evidence: Evidence) -> Iterator[Finding]:
    """By the state: counts of 0 under moved statistics, negative counts, layers that disagree."""
    counts = Counter(norm.tracked for norm in evidence.norms if norm.tracked)
    usual = counts.most_common(1)[0][0] if counts else None
    for norm in evidence.norms:
        if norm.tracked is None:
            continue
        if norm.tracked < 0:
            words = f"num_batches_tracked is {norm.tracked}"
        elif norm.tracked == 0 and not norm.untouched:
            words = (
                "num_batches_tracked is 0 but the running statistics have moved: they were loaded or written by hand"
            )
        elif usual and norm.tracked > 0 and norm.tracked != usual:
            words = (
                f"num_batches_tracked is {norm.tracked}, {norm.tracked / usual:.3g} times the {usual} of most layers"
            )
        else:
            continue
        yield RULE.found(norm.name, words, num_batches_tracked=norm.tracked, most_layers=usual)


RULE = Rule(
    "BN014",
    "num_batches_tracked is inconsistent",
    (),
    "With momentum=None the next update is weighted 1 / (num_batches_tracked + 1): a wrong count throws the average"
    " away or freezes it. A layer with another count than its neighbours is run more, or less, often than they are.",
    "Find why the layer runs more or less often (checkpoint recomputation, several forwards, a frozen part); then"
    " normscope.recalibrate(model, train_loader).",
    look,
    "None: counts are compared.",
    quotes=('Missing key(s) in state_dict: "bn1.num_batches_tracked"',),
)
