"""Too few values per channel for a usable variance."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

from normscope.check.rule import Rule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from normscope.check.evidence import Evidence
    from normscope.records import Finding

_TOLERATED = 1.1


def inflation(values: float) -> float:
    """E[sigma / s] for normal values: sqrt(B / 2) Gamma((B - 2) / 2) / Gamma((B - 1) / 2); infinite up to B = 2."""
    if values <= 2:
        return math.inf
    return math.sqrt(values / 2) * math.exp(math.lgamma((values - 2) / 2) - math.lgamma((values - 1) / 2))


def look(evidence: Evidence) -> Iterator[Finding]:
    """The effective number of values in the usual batch, and in the smallest one of an epoch."""
    sizes = Counter(evidence.subject.sizes)
    usual, smallest = sizes.most_common(1)[0][0], min(sizes)
    for layer in evidence.layers:
        sample = evidence.population.get(layer.name)
        if sample is None or not sample.examples:
            continue
        per_example = float(sample.moments.count) / sample.examples
        effective = _effective(sample)
        ghost = getattr(layer.module, "ghost_size", None)
        group = usual if ghost is None else min(usual, int(ghost))
        for size, words in ((group, "a usual batch"), (smallest, "the smallest batch of an epoch")):
            if inflation(size * effective) <= _TOLERATED:
                continue
            single = size * per_example <= 1
            yield RULE.found(
                layer.name,
                f"{words} has {size * per_example:g} values per channel, worth {size * effective:.3g} independent ones"
                + (
                    ": training on it raises 'Expected more than 1 value per channel when training'"
                    if single
                    else f": train mode scales its output by {inflation(size * effective):.3g} against eval mode"
                ),
                batch=size,
                values=size * per_example,
                effective_values=size * effective,
                scale_in_train_mode=inflation(size * effective),
            )
            break


def _effective(sample: object) -> float:
    """Independent values per example: variance of a value over variance of an example's mean, at least 1 together."""
    pull = sample.per_batch[0]  # type: ignore[attr-defined]
    live = pull > 0
    return float(1 / pull[live].mean()) if bool(live.any()) else 1.0


RULE = Rule(
    "BN002",
    "too few values per channel",
    ("model", "data"),
    "The deviation of a few values is too small on average and very uncertain: train mode then blows up activations"
    " that eval mode does not, and at one value per channel there is no variance at all.",
    "Use larger batches, drop the last one (DataLoader(drop_last=True)), or convert:"
    " normscope.convert(model, 'group').",
    look,
    "Train mode's scale against eval mode's, E[sigma / s], exceeds 1.1 for the effective number of independent values"
    " (14 for normal ones), measured as variance of values over variance of example means.",
    sources=("ioffe2017", "summers2020"),
    quotes=("ValueError: Expected more than 1 value per channel when training, got input size torch.Size([1, 512])",),
)
