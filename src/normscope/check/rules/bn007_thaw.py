"""Frozen layers that model.train() thaws, and layers frozen by half."""

from __future__ import annotations

from typing import TYPE_CHECKING

from normscope.check.rule import Rule
from normscope.surgery.freeze import Frozen

if TYPE_CHECKING:
    from collections.abc import Iterator

    from normscope.check.evidence import Evidence
    from normscope.model.find import NormLayer
    from normscope.records import Finding


def look(evidence: Evidence) -> Iterator[Finding]:
    """By flags in a network in train mode, by requires_grad in any, and by what the steps did."""
    model = evidence.model
    live = [norm.layer for norm in evidence.subject.norms if norm.layer is not None]
    follow = [layer for layer in live if layer.kind != "frozen" and not isinstance(layer.module, Frozen)]
    trained = any(value.requires_grad for value in model.parameters())
    moved = (
        {one.layer for step in evidence.steps for one in step.passes if one.moved} if evidence.subject.step else set()
    )
    for layer in follow:
        tracks = getattr(layer.module, "running_mean", None) is not None
        fixed, affine = _affine_fixed(layer), getattr(layer.module, "weight", None) is not None
        held = model.training and not layer.module.training
        if held and layer.name in moved:
            yield RULE.found(layer.name, "was in eval mode and its statistics moved in a training step all the same")
        elif held and not evidence.subject.step:
            more = "; its gamma and beta still train on frozen statistics" if affine and not fixed else ""
            yield RULE.found(
                layer.name, f"is in eval mode inside a network in train mode: model.train() thaws it{more}"
            )
        elif held and affine and not fixed:
            yield RULE.found(layer.name, "its gamma and beta train while its statistics are frozen")
        elif fixed and affine and trained and tracks and (not evidence.subject.step or layer.name in moved):
            yield RULE.found(
                layer.name,
                "its gamma and beta have requires_grad=False, but its running statistics follow model.train() and will"
                " move: requires_grad does not freeze batch norm",
            )


def _affine_fixed(layer: NormLayer) -> bool:
    values = list(layer.module.parameters(recurse=False))
    return bool(values) and not any(value.requires_grad for value in values)


RULE = Rule(
    "BN007",
    "a frozen layer that does not stay frozen",
    ("model",),
    "model.train() puts every batch norm back into train mode, and requires_grad=False stops gradients but not running"
    " statistics: the pretrained statistics drift although they were meant to stay.",
    "normscope.freeze(model) freezes statistics, gamma and beta so that train() leaves them alone.",
    look,
    "None: read from flags, and from buffers before and after a step.",
    quotes=(
        "Frozen batch norm layers still update running_mean",
        "How to freeze BN layers while training the rest of network",
    ),
)
