"""How many forward passes a check will take, said before it starts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from normscope.check import gap as gaps
from normscope.model.batch import Batch
from normscope.surgery.forward import as_batch
from normscope.surgery.pools import pooled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from normscope.check.evidence import Evidence
    from normscope.check.rule import Rule

_POPULATION = {"BN001", "BN002", "BN003", "BN006", "BN015", "BN018"}


def forwards_of(evidence: Evidence, rules: Sequence[Rule], *, gap: bool) -> int:
    """Forward passes that `rules`, and the gap's split, will take; the passes for the plan itself count too."""
    subject, codes = evidence.subject, {one.code for one in rules}
    if subject.model is None or not subject.batches or not evidence.norms:
        return 0
    calls = max([1, *(len(evidence.trace.of(norm.name)) for norm in evidence.norms)])
    passes = 4 if calls > 1 else 1
    total = 0
    if codes & _POPULATION:
        train = passes * _pools(evidence, subject.batches)
        plain, dropping = codes & (_POPULATION - {"BN001", "BN015"}), codes & {"BN001", "BN006", "BN015"}
        total += train * (bool(plain) + bool(dropping) if evidence.dropouts else 1)
    if "BN010" in codes:
        total += len(subject.batches)
    if "BN003" in codes:
        total += 3 * len(subject.held_out)
    if "BN018" in codes:
        total += passes * _pools(evidence, subject.serving)
    if "BN017" in codes and evidence.has_padding:
        total += 1
    if "BN020" in codes and any(call.channels_last for call in evidence.trace.calls):
        total += 1
    return total + evidence.forwards + (_gap(evidence, passes) if gap else 0)


def _pools(evidence: Evidence, batches: Sequence[Any]) -> int:
    return sum(1 for _ in pooled(batches, evidence.pool_size))


def _gap(evidence: Evidence, passes: int) -> int:
    subject = evidence.subject
    serving = [raw for raw in subject.serving if _labelled(raw)]
    causes = 2 + bool(serving) + bool(evidence.dropouts)
    parts = len(evidence.layers) + bool(evidence.dropouts)
    made = gaps.plan(causes, parts, len(serving or subject.batches), subject.gap_forwards)
    evidence.gap_planned = made.forwards
    return made.forwards + (passes * _pools(evidence, serving) if serving else 0)


def _labelled(raw: Any) -> bool:
    return not isinstance(raw, Batch) or as_batch(raw).target is not None
