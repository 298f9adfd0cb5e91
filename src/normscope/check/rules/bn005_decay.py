"""Weight decay on gamma and beta."""

from __future__ import annotations

from typing import TYPE_CHECKING

from normscope.check.rule import Rule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from normscope.check.evidence import Evidence
    from normscope.records import Finding


def look(evidence: Evidence) -> Iterator[Finding]:
    """Parameter groups with weight decay that hold a layer's affine numbers."""
    assert evidence.subject.optimizer is not None
    decay = {
        id(value): float(group.get("weight_decay", 0) or 0)
        for group in evidence.subject.optimizer.param_groups
        for value in group["params"]
    }
    rates: dict[float, list[str]] = {}
    for norm in evidence.subject.norms:
        assert norm.layer is not None
        for key in ("weight", "bias"):
            rate = decay.get(id(getattr(norm.layer.module, key, None)), 0.0)
            if rate > 0:
                rates.setdefault(rate, []).append(f"{norm.name}.{key}")
    for rate, names in rates.items():
        yield RULE.found(
            "",
            f"weight_decay={rate:g} acts on {len(names)} gammas and betas: {', '.join(names[:3])}"
            + (", ..." if len(names) > 3 else ""),
            weight_decay=rate,
            tensors=len(names),
        )


RULE = Rule(
    "BN005",
    "weight decay on gamma and beta",
    ("model", "optimizer"),
    "Decay pulls gamma to 0 and so the layer's output to a constant, though the scale of the weights before it does not"
    " matter; most recipes exempt both.",
    "Give gamma and beta a parameter group of their own with weight_decay=0.",
    look,
    "None: a convention.",
    style=True,
    sources=("luo2019",),
)
