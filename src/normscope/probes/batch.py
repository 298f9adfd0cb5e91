"""Moments of what a layer was given, read from what the forward pass kept where that is exact enough."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from normscope.model.attach import before_forward, replayable
from normscope.model.find import NormLayer, find
from normscope.moments import Moments
from normscope.probes.order import Site, modules_named
from normscope.probes.summary import Layers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from normscope.probes.replay import Run

SAVED = "saved by torch"
HANDED = "handed out by the layer"
RECOMPUTED = "recomputed"

# Largest |mean| / deviation at which torch's own float32 statistics are good to 1e-4 deviations. Its kernel for
# contiguous images sums in float64, the others in float32.
_LARGE_MEAN_CONTIGUOUS = 1000.0
_LARGE_MEAN = 10.0
# Smallest variance / eps at which 1 / invstd^2 - eps still has a relative error under 1e-4.
_TINY_VARIANCE = 0.01
# A layer may go on to an activation (and dropout) of its own: that many nodes above its output.
_ABOVE = 3
_NODES = ("NativeBatchNormBackward0", "CudnnBatchNormBackward0", "MiopenBatchNormBackward0")


@dataclass(frozen=True)
class Reading:
    """Moments of one layer's input in one forward pass, and how they were read.

    Attributes:
        moments: Over batch and positions, shape [channels], on the CPU.
        source: `SAVED`, `HANDED` or `RECOMPUTED`, the last with its reason.
    """

    moments: Moments
    source: str

    def merge(self, other: Reading) -> Reading:
        """Both passes as one sample."""
        source = self.source if self.source == other.source else f"{self.source}; {other.source}"
        return Reading(self.moments.merge(other.moments), source)


@dataclass(frozen=True)
class Kept:
    """What torch's forward kept of one layer's batch, not yet judged.

    Attributes:
        x: The layer's input.
        mean: Shape [channels].
        invstd: 1 / sqrt(biased variance + eps), shape [channels].
        eps: The layer's.
    """

    x: Tensor
    mean: Tensor
    invstd: Tensor
    eps: float


def look(layer: NormLayer, module: nn.Module, x: Tensor, output: Tensor) -> Kept | Reading:
    """What can be known of `x`, the input of a batch-norm layer that has just returned `output`.

    Args:
        layer: What the layer is.
        module: The module that ran, which is a replica of the layer's under DataParallel.
        x: Its input, shape [batch, channels, *spatial].
        output: Its output.
    """
    if not _by_batch(layer, module):
        return _recomputed(x, "evaluation mode")
    handed = getattr(module, "batch_moments", None)
    if isinstance(handed, Moments):
        moments = Moments(handed.count.cpu(), handed.mean.cpu(), handed.m2.cpu())
        if bool((moments.variance("biased") < _TINY_VARIANCE * layer.eps).any()):
            return _recomputed(x, "variance tiny against eps")
        return Reading(moments, HANDED) if _small_mean(moments, x) else _recomputed(x, "large mean")
    node = _node(output, x)
    mean = None if node is None else node._saved_result1
    if mean is None or mean.numel() != x.shape[1]:
        return _recomputed(x, "nothing saved")
    return Kept(x, mean, node._saved_result2, layer.eps)


def judge(found: Sequence[Kept | Reading]) -> list[Reading]:
    """Readings of what was kept, recomputed where it is not exact enough; one transfer from the device for all."""
    kept = [part for part in found if isinstance(part, Kept)]
    judged = iter(_judge(kept) if kept else ())
    return [part if isinstance(part, Reading) else next(judged) for part in found]


def _judge(kept: Sequence[Kept]) -> list[Reading]:
    flat = torch.cat([half for part in kept for half in (part.mean, part.invstd)]).detach().cpu().double()
    pieces = flat.split([part.mean.numel() for part in kept for _ in range(2)])
    layers = Layers.of(pieces[::2])
    eps = torch.tensor([part.eps for part in kept], dtype=torch.float64)[layers.index]
    limit = torch.tensor([_largest_mean(part.x) for part in kept], dtype=torch.float64)[layers.index]
    mean, variance = torch.cat(pieces[::2]), torch.cat(pieces[1::2]).pow_(-2).sub_(eps)
    tiny = layers.sum((variance < _TINY_VARIANCE * eps).double()).tolist()
    large = layers.sum((mean.square() > limit.square() * variance).double()).tolist()
    parts = zip(kept, mean.split(layers.sizes), variance.split(layers.sizes), tiny, large, strict=True)
    return [_judged(*part) for part in parts]


def _judged(part: Kept, mean: Tensor, variance: Tensor, tiny: float, large: float) -> Reading:
    if tiny:
        return _recomputed(part.x, "variance tiny against eps")
    if large:
        return _recomputed(part.x, "large mean")
    count = part.x.numel() // part.x.shape[1]
    return Reading(Moments(mean.new_tensor(float(count)), mean, variance * count), SAVED)


def read(layer: NormLayer, module: nn.Module, x: Tensor, output: Tensor) -> Reading:
    """`look` and `judge` of one layer at once."""
    return judge([look(layer, module, x, output)])[0]


def _recomputed(x: Tensor, reason: str) -> Reading:
    moments = Moments.of(x)
    return Reading(Moments(moments.count.cpu(), moments.mean.cpu(), moments.m2.cpu()), f"{RECOMPUTED}: {reason}")


def _by_batch(layer: NormLayer, module: nn.Module) -> bool:
    return layer.kind != "frozen" and (module.training or getattr(module, "running_mean", None) is None)


def _largest_mean(x: Tensor) -> float:
    """Largest |mean| / deviation of a layer with input `x` at which its own statistics are trusted."""
    summed_in_double = x.is_contiguous() and x.dim() > 2 and x.device.type == "cpu"
    return _LARGE_MEAN_CONTIGUOUS if summed_in_double else _LARGE_MEAN


def _small_mean(moments: Moments, x: Tensor) -> bool:
    return bool((moments.mean.square() * moments.count <= _largest_mean(x) ** 2 * moments.m2).all())


def _node(output: Tensor, x: Tensor) -> Any:
    """The autograd node of torch's batch norm between `x` and `output`, if it kept anything that may be read.

    Under checkpointing and offloading, reading would run the hooks that unpack: then there is none.
    """
    if torch._C._autograd._top_saved_tensors_default_hooks(False) is not None:  # noqa: FBT003  (by position only)
        return None
    node = output.grad_fn if isinstance(output, Tensor) else None
    for _ in range(_ABOVE + 1):
        if node is None or node is x.grad_fn:
            return None
        if node.name() in _NODES:
            return node
        node = node.next_functions[0][0] if node.next_functions else None
    return None


def input_moments(model: nn.Module, run: Run, sites: Sequence[Site] | None = None) -> dict[str, Moments]:
    """Moments of the input of each batch-norm layer over one forward pass, or several taken together.

    Args:
        model: The network that `run` runs; left as it is. Its mode decides which statistics are used.
        run: Runs one forward pass or several.
        sites: What to look at instead of the batch-norm layers, as (name, module) pairs.

    Returns:
        By name, in the order of the forward pass.

    Raises:
        UnsupportedError: No sites given and no batch norm found.
    """
    layers = find(model).require().layers if sites is None else modules_named(sites)
    found: dict[str, Moments] = {}

    def enter(layer: NormLayer, _module: nn.Module, x: Tensor) -> None:
        moments = Moments.of(x)
        found[layer.name] = found[layer.name].merge(moments) if layer.name in found else moments

    with before_forward(layers, enter), replayable(model), torch.no_grad():
        run()
    return found
