"""A bias that batch norm takes away again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from normscope.check.rule import Rule
from normscope.surgery.fold import pairs_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from normscope.check.evidence import Evidence
    from normscope.records import Finding


def look(evidence: Evidence) -> Iterator[Finding]:
    """Convolutions and linear layers with a bias that only a batch norm reads."""
    modules = dict(evidence.model.named_modules())
    for norm, before in pairs_of(evidence.model).items():
        source = modules[before]
        bias = getattr(source, "bias", None)
        if isinstance(bias, nn.Parameter) and bias.requires_grad:
            yield RULE.found(
                before, f"has a bias of {bias.numel()} numbers, which {norm} subtracts again", parameters=bias.numel()
            )


RULE = Rule(
    "BN004",
    "bias before batch norm",
    ("model",),
    "Batch norm subtracts the mean, bias included: it costs memory and time, gets no gradient but rounding error, and"
    " under weight decay wanders. Accuracy does not change.",
    "Make the layer with bias=False.",
    look,
    "None: it holds by construction.",
    style=True,
    sources=("ioffe2015",),
)
