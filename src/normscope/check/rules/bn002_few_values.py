"""Too few values per channel for a usable variance."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

from normscope.check.rule import Rule
from normscope.check.small import independent, inflation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from normscope.check.evidence import Evidence
    from normscope.records import Finding
    from normscope.surgery.population import Sample

_TOLERATED = 1.1


def look(evidence: Evidence) -> Iterator[Finding]:
    """Train mode's scale in the usual batch, and in the smallest one of an epoch."""
    sizes = Counter(evidence.subject.sizes)
    unknown = evidence.subject.forward is not None and set(sizes) == {1}
    usual, smallest = (evidence.batch,) * 2 if unknown else (sizes.most_common(1)[0][0], min(sizes))
    for layer in evidence.layers:
        sample = evidence.population.get(layer.name)
        if sample is None or not sample.examples:
            continue
        values = float(sample.moments.count) / sample.examples
        ghost = getattr(layer.module, "ghost_size", None)
        group = usual if ghost is None else min(usual, int(ghost))
        drawn, rows = evidence.examples.get(layer.name), evidence.rows(layer.name)
        for examples, words in ((group, "a usual batch"), (smallest, "the smallest batch of an epoch")):
            size = examples * rows
            scale = None if drawn is None else drawn.scale(size, layer.eps)
            scale = _by_formula(sample, size) if scale is None else scale
            if scale <= _TOLERATED:
                continue
            worth = 1.0 if size * values <= 1 else independent(scale)
            yield RULE.found(
                layer.name,
                f"{words} has {size * values:g} values per channel"
                + (
                    ": training on it raises 'Expected more than 1 value per channel when training'"
                    if size * values <= 1
                    else f": train mode scales its output by {scale:.3g} against eval mode, as {worth:.3g} independent"
                    " ones would"
                ),
                batch=examples,
                values=size * values,
                effective_values=worth,
                scale_in_train_mode=scale if size * values > 1 else math.inf,
            )
            break


def _by_formula(sample: Sample, size: int) -> float:
    """For normal values, as many as the variance of a value over that of an example's mean says."""
    pull = sample.per_batch[0]
    live = pull > 0
    return inflation(size * (float(1 / pull[live].mean()) if bool(live.any()) else 1.0))


RULE = Rule(
    "BN002",
    "too few values per channel",
    ("model", "data"),
    "The deviation of a few values is too small on average and very uncertain: train mode then blows up activations"
    " that eval mode does not, and at one value per channel there is no variance at all.",
    "Use larger batches, drop the last one (DataLoader(drop_last=True)), or convert:"
    " normscope.convert(model, 'group').",
    look,
    "Train mode's scale against eval mode's, E[sigma / s], exceeds 1.1, as that of fewer than 14 independent normal"
    " values does: in the median channel, over batches drawn from the examples; by the formula for normal values where"
    " there are fewer than four such batches to draw from.",
    sources=("ioffe2017", "summers2020"),
    quotes=("ValueError: Expected more than 1 value per channel when training, got input size torch.Size([1, 512])",),
)
