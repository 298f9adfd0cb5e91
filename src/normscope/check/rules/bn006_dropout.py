"""Dropout before batch norm: its variance is there in training and gone in evaluation."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn

from normscope.check.distance import distance
from normscope.check.rule import Rule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from normscope.check.evidence import Evidence
    from normscope.records import Finding
    from normscope.surgery.population import Sample


def look(evidence: Evidence) -> Iterator[Finding]:
    """Moments of each layer's input with dropout on against off, beside the formula where one applies."""
    if not evidence.dropouts:
        return
    for norm in evidence.norms:
        off, on = evidence.population.get(norm.name), evidence.trained_on.get(norm.name)
        if off is None or on is None:
            continue
        moments = on.moments
        found = distance(off, moments.mean, moments.variance("biased"), evidence.batch, norm.eps)
        ratio = _ratio(off, on, norm.eps)
        noise = found.batch_scale**2 + 4 * found.scale_error**2
        if math.log(1 / ratio) / 2 <= math.sqrt(noise):
            continue
        expected = predicted(evidence, norm.name, off)
        yield RULE.found(
            norm.name,
            f"its input's variance in eval mode is {ratio:.3g} of that in train mode, dropout before it being off"
            + ("" if expected is None else f"; the formula says {expected:.3g}"),
            variance_ratio=ratio,
            predicted_ratio=expected,
            batch_log_deviation_error=found.batch_scale,
        )


def _ratio(off: Sample, on: Sample, eps: float) -> float:
    """Geometric mean over channels of variance without dropout over variance with it."""
    a, b = off.moments.variance("biased") + eps, on.moments.variance("biased") + eps
    return float((a.log() - b.log()).mean().exp())


def predicted(evidence: Evidence, name: str, off: Sample) -> float | None:
    """Var_eval / Var_train by Li et al. for dropout directly before, or before one linear layer; else None."""
    call = next(iter(evidence.trace.of(name)), None)
    before = None if call is None else evidence.trace.before(call)
    if before is None:
        return None
    if isinstance(before.module, nn.Dropout):
        keep = 1 - before.module.p
        mean, variance = off.moments.mean, off.moments.variance("biased")
        return _geometric(variance / ((mean.square() + variance) / keep - mean.square()))
    fed = evidence.trace.before(before)
    if not isinstance(before.module, nn.Linear) or fed is None or not isinstance(fed.module, nn.Dropout):
        return None
    inputs = evidence.dropout_inputs.get(fed.name)
    if inputs is None:
        return None
    noise = (1 / (1 - fed.module.p) - 1) * (
        before.module.weight.detach().double().square() @ (inputs.mean.square() + inputs.variance("biased"))
    )
    variance = off.moments.variance("biased")
    return _geometric(variance / (variance + noise))


def _geometric(ratio: Tensor) -> float:
    return float(ratio[ratio > 0].log().mean().exp()) if bool(torch.any(ratio > 0)) else math.nan


RULE = Rule(
    "BN006",
    "dropout before batch norm shifts its variance",
    ("model", "data"),
    "The running variance is learned with dropout's noise in it; in eval mode the noise is gone and the layer divides"
    " by too large a deviation.",
    "Move dropout behind the last batch norm, or re-estimate the statistics as evaluation sees them:"
    " normscope.recalibrate(model, train_loader) measures with dropout off.",
    look,
    "The shift of log deviation exceeds what one mini-batch errs by and twice its own standard error.",
    repair="recalibrate",
    sources=("li2018",),
)
