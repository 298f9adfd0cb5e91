"""The batch-norm layers of a network or of a checkpoint alone, as numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from normscope.model.find import NormLayer, canonical_name, find

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class NormState:
    """What one layer holds.

    Attributes:
        name: The layer.
        mean: running_mean, shape [channels]; None where the layer keeps no statistics.
        variance: running_var, shape [channels].
        tracked: num_batches_tracked; None where there is none.
        weight: gamma, shape [channels]; None without affine.
        bias: beta.
        layer: The live layer; None for a checkpoint alone.
    """

    name: str
    mean: Tensor | None
    variance: Tensor | None
    tracked: int | None
    weight: Tensor | None
    bias: Tensor | None
    layer: NormLayer | None = None

    @property
    def eps(self) -> float:
        """What is added to the variance; torch's default where only a checkpoint is known."""
        return 1e-5 if self.layer is None else self.layer.eps

    @property
    def untouched(self) -> bool:
        """Whether the statistics are still 0 and 1, as made."""
        if self.mean is None or self.variance is None:
            return False
        return bool((self.mean == 0).all() and (self.variance == 1).all())

    @property
    def broken(self) -> Tensor:
        """Channels whose statistics no data can give: NaN, inf or a negative variance; bool, shape [channels]."""
        assert self.mean is not None
        assert self.variance is not None
        return ~(self.mean.isfinite() & self.variance.isfinite() & (self.variance >= 0))


def _value(x: Any) -> Tensor | None:
    usable = isinstance(x, Tensor) and not torch.nn.parameter.is_lazy(x)
    return x.detach() if usable else None


def _count(x: Any) -> int | None:
    return int(x) if isinstance(x, Tensor) and x.numel() == 1 else None


def of_model(model: nn.Module) -> tuple[NormState, ...]:
    """The layers of a live network, shared ones once."""
    return tuple(
        NormState(
            layer.name,
            _value(getattr(layer.module, "running_mean", None)),
            _value(getattr(layer.module, "running_var", None)),
            _count(getattr(layer.module, "num_batches_tracked", None)),
            _value(getattr(layer.module, "weight", None)),
            _value(getattr(layer.module, "bias", None)),
            layer,
        )
        for layer in find(model).layers
    )


def halves_of(state: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Layers of a state_dict with one of running_mean and running_var and not the other."""
    pairs = {"running_mean": "running_var", "running_var": "running_mean"}
    split = (key.rpartition(".") for key in state)
    return tuple(
        f"not looked into: {canonical_name(stem)}, has {last} without {pairs[last]}"
        for stem, dot, last in split
        if last in pairs and f"{stem}{dot}{pairs[last]}" not in state
    )


def of_checkpoint(state: Mapping[str, Tensor]) -> tuple[NormState, ...]:
    """The layers in a state_dict: every prefix with a one-dimensional running_mean and running_var of one length."""
    found = []
    for key, mean in state.items():
        stem, dot, last = key.rpartition(".")
        variance = state.get(f"{stem}{dot}running_var")
        if last != "running_mean" or variance is None or mean.dim() != 1 or mean.shape != variance.shape:
            continue
        tracked, weight, bias = (state.get(f"{stem}{dot}{part}") for part in ("num_batches_tracked", "weight", "bias"))
        found.append(NormState(canonical_name(stem), mean, variance, _count(tracked), _value(weight), _value(bias)))
    return tuple(found)
