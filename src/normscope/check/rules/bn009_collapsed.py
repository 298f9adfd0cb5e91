"""Channels that eps rules, and channels that gamma switched off."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from normscope.check.rule import Rule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from normscope.check.evidence import Evidence
    from normscope.check.state import NormState
    from normscope.records import Finding


# Of a normal channel's deviation: what the statistics of 10,000 values err by.
_LOST = 0.01


def look(evidence: Evidence) -> Iterator[Finding]:
    """By the state: running variance under eps, gamma under rounding error."""
    for norm in evidence.norms:
        assert norm.variance is not None
        if bool(norm.broken.any()) or norm.untouched:
            continue
        small = _dominated(norm)
        lost = small & (norm.variance < _LOST**2 * norm.eps)
        small = small if 2 * int(small.sum()) > len(small) else lost
        if bool(small.any()):
            worst = float((norm.eps / (norm.variance.double() + norm.eps)).max())
            yield RULE.found(
                norm.name,
                f"{int(small.sum())} of {len(small)} channels have a running variance below eps={norm.eps:g}: eps"
                f" makes up to {100 * worst:.3g} % of the divisor, and a shift of the input is amplified up to"
                f" {norm.eps**-0.5:.0f}-fold",
                channels=int(small.sum()),
                share_of_eps=worst,
            )
        off = _off(norm)
        if bool(off.any()):
            yield RULE.found(
                norm.name,
                f"gamma of {int(off.sum())} of {len(off)} channels is 0 but for rounding: their output is constant",
                channels=int(off.sum()),
            )


def _dominated(norm: NormState) -> torch.Tensor:
    """Channels whose variance is below eps and that amplify a shift more than the layer's other channels do."""
    assert norm.variance is not None
    variance = norm.variance.double()
    gamma = torch.ones_like(variance) if norm.weight is None else norm.weight.double().abs()
    gain = gamma / (variance + norm.eps).sqrt()
    small = variance < norm.eps
    others = gain[~small & ~_off(norm)]
    return small & ~_off(norm) & (gain > (others.median() if len(others) else 0))


def _off(norm: NormState) -> torch.Tensor:
    """Channels whose gamma lies under the rounding error of the layer's typical gamma; all if every one is 0."""
    assert norm.mean is not None
    if norm.weight is None:
        return torch.zeros_like(norm.mean, dtype=torch.bool)
    gamma = norm.weight.double().abs()
    return gamma <= torch.finfo(torch.float32).eps * gamma.square().mean().sqrt()


RULE = Rule(
    "BN009",
    "collapsed channels",
    (),
    "Where eps is larger than the variance the layer no longer normalizes, and small shifts of its input come"
    " out hundreds of times larger; a channel whose gamma is 0 computes nothing.",
    "Look at what feeds these channels: constant inputs, dead units, decay on weights or gamma. Remove them, or lower"
    " eps if the inputs are that small by nature.",
    look,
    "A layer is ruled by eps where running_var < eps in most of its channels, a channel has collapsed where what it has"
    " left is .01 of a deviation, which the statistics of 10,000 values err by; either matters where"
    " gamma / sqrt(running_var + eps) is above the layer's median. gamma is off where it is under float32's rounding"
    " error of the layer's root mean square.",
)
