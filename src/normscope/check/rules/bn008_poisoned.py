"""Running statistics that no data can give: NaN, inf, a negative variance."""

from __future__ import annotations

from typing import TYPE_CHECKING

from normscope.check.rule import Rule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from normscope.check.evidence import Evidence
    from normscope.records import Finding


def look(evidence: Evidence) -> Iterator[Finding]:
    """By the state, and by the step after which the statistics were no longer finite."""
    for norm in evidence.norms:
        bad = int(norm.broken.sum())
        if bad:
            assert norm.variance is not None
            assert norm.mean is not None
            negative = int((norm.variance < 0).sum())
            words = f"{negative} negative variances" if negative == bad else "NaN, inf or negative statistics"
            yield RULE.found(
                norm.name, f"{words} in {bad} of {len(norm.mean)} channels", channels=bad, negative_variances=negative
            )
    if evidence.subject.step is None or evidence.subject.model is None:
        return
    for at, step in enumerate(evidence.steps):
        for name in step.poisoned:
            yield RULE.found(name, f"its running statistics became NaN or inf in training step {at + 1}", step=at + 1)


RULE = Rule(
    "BN008",
    "NaN, inf or negative running statistics",
    (),
    "One batch with an inf or an overflow makes the running average NaN for good: train mode goes on, since it uses"
    " the batch, and eval mode gives NaN. The averages never recover by themselves.",
    "normscope.recalibrate(model, train_loader) replaces them; in the loop, normscope.guard_statistics rolls back the"
    " buffers of a step that overflowed.",
    look,
    "None: such numbers are no statistics.",
    repair="recalibrate",
    quotes=(
        "Loss is NaN only in eval mode",
        "RuntimeError: Function 'NativeBatchNormBackward0' returned nan values in its 0th output",
    ),
)
