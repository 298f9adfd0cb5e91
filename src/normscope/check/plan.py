"""How many forward passes a check will take, said before it starts."""

from __future__ import annotations

from dataclasses import dataclass, replace
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
# Of these, what is compared with data as training sees it, dropout on; BN006 compares both.
_DROPPING = {"BN001", "BN006", "BN015"}


@dataclass(frozen=True)
class Passes:
    """Forward passes by what they cost.

    Attributes:
        first: The measurement of `Evidence` that others rest on, '' where none is wanted, and the passes that it takes.
        pooled: Examples in each further pass over pooled batches, measured.
        training: Passes over training batches, measured: every layer's moments are taken.
        held_out: The same over held-out batches.
        plain: Passes over held-out batches, as the network is deployed and by population statistics.
        serving: Passes of the gap's split over labelled serving batches, measured.
    """

    first: tuple[str, tuple[int, ...]] = ("", ())
    pooled: tuple[int, ...] = ()
    training: int = 0
    held_out: int = 0
    plain: int = 0
    serving: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return len(self.first[1]) + len(self.pooled) + self.training + self.held_out + self.plain + self.serving


def passes_of(evidence: Evidence, rules: Sequence[Rule], *, gap: bool) -> Passes:
    """Forward passes that `rules`, and the gap's split, will take beyond those that `evidence` took already."""
    subject, codes = evidence.subject, {one.code for one in rules}
    if subject.model is None or not subject.batches or not evidence.norms:
        return Passes()
    calls = max([1, *(len(evidence.trace.of(norm.name)) for norm in evidence.norms)])
    repeats = 4 if calls > 1 else 1
    first: tuple[str, tuple[int, ...]] = ("", ())
    pooled: tuple[int, ...] = ()
    training = 0
    if codes & _POPULATION:
        still, dropping = bool(codes & (_POPULATION - _DROPPING | {"BN006"})), bool(codes & _DROPPING)
        pools = _pools(evidence, subject.batches, repeats)
        first = ("population" if still or not evidence.dropouts else "trained_on", pools)
        pooled += pools * (bool(evidence.dropouts) and still and dropping)
    if "BN002" in codes and evidence.layers:
        pooled += _pools(evidence, subject.batches, 1)[:1]
    if "BN018" in codes:
        pooled += _pools(evidence, subject.serving, repeats)
    training += len(subject.batches) * ("BN010" in codes)
    training += "BN017" in codes and evidence.has_padding
    training += "BN020" in codes and any(call.channels_last for call in evidence.trace.calls)
    losses = len(subject.held_out) * ("BN003" in codes)
    made = Passes(first, pooled, training, losses, 2 * losses)
    return _with_gap(evidence, made, repeats) if gap else made


def _pools(evidence: Evidence, batches: Sequence[Any], repeats: int) -> tuple[int, ...]:
    return repeats * tuple(examples or evidence.batch for _, examples in pooled(batches, evidence.pool_size))


def _with_gap(evidence: Evidence, made: Passes, repeats: int) -> Passes:
    subject = evidence.subject
    serving = [raw for raw in subject.serving if _labelled(raw)]
    causes = 2 + bool(serving) + bool(evidence.dropouts)
    parts = len(evidence.layers) + bool(evidence.dropouts)
    split = gaps.plan(causes, parts, len(serving or subject.batches), subject.gap_forwards).forwards
    evidence.gap_planned = split
    if not serving:
        return replace(made, training=made.training + split)
    return replace(made, pooled=made.pooled + _pools(evidence, serving, repeats), serving=split)


def _labelled(raw: Any) -> bool:
    return not isinstance(raw, Batch) or as_batch(raw).target is not None
