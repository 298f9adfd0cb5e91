"""The variance shift of dropout placed before batch norm: a layer's input varies more in training than when deployed.

For a unit x kept with probability p the variance behind dropout is Var[x] + (1/p - 1) E[x^2], so that

    Var_test / Var_train = V / (V + (1/p - 1) sum_i w_i^2 E[x_i^2])

for a sum of such units with weights w whose variance is V without dropout; one weight of 1 gives dropout directly
before batch norm, v / ((c^2 + v)/p - c^2) with c = E[x] and v = Var[x]. Bibliography key: li2018.
"""

from __future__ import annotations

import copy
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from normscope.model.attach import before_forward, mode, on_module, replayable
from normscope.model.find import NormLayer, canonical_name, find
from normscope.moments import Moments

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from normscope.probes.replay import Run

_LINEAR = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class VarianceShift:
    """Var_test / Var_train at the input of one batch norm, one dropout layer alone at work; means over channels.

    Attributes:
        layer: The batch norm.
        dropout: The dropout layer before it.
        measured: The ratio over many draws of the mask.
        formula: What the formula says; None where other things than ReLU and one linear layer stand between them.
    """

    layer: str
    dropout: str
    measured: float
    formula: float | None


@dataclass
class _Pass:
    """What one forward pass showed: the input of each batch norm, the (input, output) of each linear layer."""

    norms: dict[str, Tensor] = field(default_factory=dict)
    linear: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    dropped: tuple[Tensor, Tensor] | None = None


def variance_shift(model: nn.Module, run: Run, repeats: int = 32) -> list[VarianceShift]:
    """The variance shift that every dropout layer brings to the first batch norms behind it.

    Args:
        model: The network that `run` runs; left as it is.
        run: Runs one forward pass.
        repeats: Passes with masks of their own over which the training variance is taken.

    Returns:
        For each dropout layer the batch norms that the formula reaches, or else the first whose input it changes.
        Layers that drop whole channels are left out.

    Raises:
        UnsupportedError: No batch norm found.
    """
    layers = find(model).require().layers
    out: list[VarianceShift] = []
    with mode(model, training=False), replayable(model), torch.no_grad():
        for name, part in model.named_modules():
            if isinstance(part, nn.Dropout) and 0 < part.p < 1:
                out += _behind(model, layers, canonical_name(name), part, run, repeats)
    return out


def _behind(
    model: nn.Module, layers: tuple[NormLayer, ...], name: str, dropout: nn.Dropout, run: Run, repeats: int
) -> list[VarianceShift]:
    quiet = _observe(model, layers, dropout, run)
    noisy: dict[str, Moments] = {}
    dropout.training = True
    for _ in range(repeats):
        seen = _observe(model, layers, dropout, run)
        for layer, x in seen.norms.items():
            moments = Moments.of(x)
            noisy[layer] = noisy[layer].merge(moments) if layer in noisy else moments
    dropout.training = False
    changed = [layer for layer, x in quiet.norms.items() if not torch.equal(x, seen.norms[layer])]
    added = {layer: _added(model, quiet, seen, layer, dropout.p) for layer in changed}
    reached = [layer for layer in changed if added[layer] is not None] or changed[:1]
    return [_shift(layer, name, quiet.norms[layer], noisy[layer], added[layer]) for layer in reached]


def _shift(layer: str, dropout: str, x: Tensor, noisy: Moments, added: Tensor | None) -> VarianceShift:
    test, train = Moments.of(x).variance("biased"), noisy.variance("biased")
    live = train > 0
    formula = None if added is None else float((test / (test + added))[live].mean())
    return VarianceShift(layer, dropout, float((test / train)[live].mean()), formula)


def _observe(model: nn.Module, layers: tuple[NormLayer, ...], dropout: nn.Dropout, run: Run) -> _Pass:
    seen = _Pass()

    def enter(layer: NormLayer, _module: nn.Module, x: Tensor) -> None:
        seen.norms[layer.name] = x

    def leave(part: nn.Module) -> Callable[[tuple[Any, ...], dict[str, Any], Any], None]:
        def seen_by(args: tuple[Any, ...], _kwargs: dict[str, Any], output: Any) -> None:
            if args and part is dropout:
                seen.dropped = (args[0], output)
            elif args:
                seen.linear[id(part)] = (args[0], output)

        return seen_by

    with ExitStack() as stack:
        stack.enter_context(before_forward(layers, enter))
        for part in model.modules():
            if isinstance(part, _LINEAR) or part is dropout:
                stack.enter_context(on_module(part, leave(part)))
        run()
    return seen


def _added(model: nn.Module, quiet: _Pass, seen: _Pass, layer: str, p: float) -> Tensor | None:
    """Variance per channel that the masks add at `layer`; None where the formula does not reach it."""
    if seen.dropped is not None and seen.dropped[1] is seen.norms[layer] and quiet.dropped is not None:
        return _mean_square(quiet.dropped[0]) * (p / (1 - p))
    for part in model.modules():
        if id(part) not in seen.linear or seen.linear[id(part)][1] is not seen.norms[layer]:
            continue
        before, masked = quiet.linear[id(part)][0], seen.linear[id(part)][0]
        kept = masked != 0
        if torch.allclose(masked[kept], before[kept] / (1 - p), rtol=1e-4):
            squared: nn.Module = copy.deepcopy(part)
            squared.register_parameter("weight", nn.Parameter(part.get_parameter("weight").square()))
            squared.register_parameter("bias", None)
            return Moments.of(squared(before.square())).mean * (p / (1 - p))
    return None


def _mean_square(x: Tensor) -> Tensor:
    found = Moments.of(x)
    return found.variance("biased") + found.mean.square()
