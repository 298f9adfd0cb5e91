"""Many fully connected networks of one shape trained as one: members x units x batch, a learning rate each.

Two to four times as fast as one after the other on a CPU, where small matrices leave it idle; a member that diverges
stays alone. Equal to `normscope.why.members.Single` up to rounding: tests hold it to that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normscope import nn as norm_layers
from normscope.surgery.remove import ChannelAffine, StatisticNoise
from normscope.why.data import Data

_Layer = Callable[[Tensor, bool], Tensor]


def stackable(model: nn.Module) -> bool:
    """Whether `model` is a Sequential of the layers that a stack knows."""
    known = (nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Dropout, ChannelAffine, StatisticNoise)
    return isinstance(model, nn.Sequential) and all(isinstance(part, (*known, nn.Sequential)) for part in model)


class Stack:
    """K networks of one shape as one; cross-entropy loss.

    Activations have shape [K, units, batch], so that a network's batch norm runs along contiguous memory and K of them
    are one call with K * units channels.

    Args:
        models: K Sequentials of equal structure (see `stackable`).
        datas: K data sets of equal size, inputs of shape [examples, features].
        full: Whether training statistics come from the whole training set instead of the mini-batch.
    """

    def __init__(self, models: Sequence[nn.Module], datas: Sequence[Data], *, full: bool = False) -> None:
        self.datas, self._full = list(datas), full
        self._templates = list(models)
        self._parameters: list[nn.Parameter] = []
        self._running: list[tuple[str, Tensor]] = []
        self._names: dict[str, Tensor] = {}
        self._layers = [self._layer(parts, str(at)) for at, parts in enumerate(zip(*models, strict=True))]  # type: ignore[call-overload]
        self._x = {part: torch.stack([getattr(d, part).whole.args[0].t() for d in datas]) for part in ("train", "test")}
        self._y = torch.stack([d.train.target for d in datas])

    def _stacked(self, parts: Sequence[nn.Module], name: str, key: str) -> nn.Parameter:
        value = nn.Parameter(torch.stack([getattr(part, key).detach() for part in parts]))
        self._parameters.append(value)
        self._names[f"{name}.{key}"] = value
        return value

    def _layer(self, parts: Sequence[Any], name: str) -> _Layer:
        first = parts[0]
        if isinstance(first, nn.Sequential):
            inner = [self._layer(group, f"{name}.{at}") for at, group in enumerate(zip(*parts, strict=True))]
            return lambda x, training: _chain(inner, x, training)
        if isinstance(first, nn.Linear):
            weight, bias = self._stacked(parts, name, "weight"), self._stacked(parts, name, "bias")
            return lambda x, _: torch.baddbmm(bias.unsqueeze(2), weight, x)
        if isinstance(first, ChannelAffine):
            weight, bias = self._stacked(parts, name, "weight"), self._stacked(parts, name, "bias")
            return lambda x, _: torch.addcmul(bias.unsqueeze(2), x, weight.unsqueeze(2))
        if isinstance(first, StatisticNoise):
            return self._noisy(parts, name)
        if isinstance(first, nn.BatchNorm1d):
            return self._norm(parts, name)
        if isinstance(first, nn.Dropout):
            return lambda x, training: F.dropout(x, first.p, training)
        return lambda x, _: F.relu(x)

    def _norm(self, parts: Sequence[nn.BatchNorm1d], name: str) -> _Layer:
        first = parts[0]
        weight, bias = self._stacked(parts, name, "weight"), self._stacked(parts, name, "bias")
        mean = torch.stack([part.running_mean for part in parts])  # type: ignore[arg-type]
        var = torch.stack([part.running_var for part in parts])  # type: ignore[arg-type]
        self._names.update({f"{name}.running_mean": mean, f"{name}.running_var": var})
        self._running.append((name, mean))
        group = first.ghost_size if isinstance(first, norm_layers.GhostBatchNorm1d) else 0
        momentum, eps = float(first.momentum or 0.0), first.eps

        def forward(x: Tensor, training: bool) -> Tensor:
            members, units, batch = x.shape
            flat = (weight.view(-1), bias.view(-1))
            if training and group and not self._full and batch > group:
                y = _ghost(x, group, eps, mean, var, momentum)
                return torch.addcmul(bias.unsqueeze(2), y, weight.unsqueeze(2))
            y = F.batch_norm(
                x.reshape(1, members * units, batch), mean.view(-1), var.view(-1), *flat, training, momentum, eps
            )
            return y.view(members, units, batch)

        return forward

    def _noisy(self, parts: Sequence[StatisticNoise], name: str) -> _Layer:
        layers = [part.layer for part in parts]
        norm = self._norm(layers, f"{name}.layer")  # type: ignore[arg-type]
        gamma, beta = self._names[f"{name}.layer.weight"], self._names[f"{name}.layer.bias"]
        scale, shift = parts[0].scale, parts[0].shift

        def forward(x: Tensor, training: bool) -> Tensor:
            y = norm(x, training)
            if not training:
                return y
            a, b = torch.randn(2, *y.shape[:2], 1)
            return beta.unsqueeze(2) + (1 + scale * a) * (y - beta.unsqueeze(2)) + gamma.unsqueeze(2) * (shift * b)

        return forward

    def parameters(self) -> list[nn.Parameter]:
        """Stacked parameters, each of shape [K, ...]."""
        return self._parameters

    def losses(self, index: Tensor) -> Tensor:
        """Cross-entropies [K] of the examples at `index` [K, batch], in train mode."""
        target = self._y.gather(1, index)
        wanted = index.unsqueeze(1)
        if self._full:
            output = _chain(self._layers, self._x["train"], training=True)
            output = output.gather(2, wanted.expand(-1, output.shape[1], -1))
        else:
            x = self._x["train"]
            output = _chain(self._layers, x.gather(2, wanted.expand(-1, x.shape[1], -1)), training=True)
        return F.cross_entropy(output, target, reduction="none").mean(1)

    def scale_gradients(self, factors: Tensor) -> None:
        """Multiply each member's gradients by its factor, shape [K]."""
        for value in self._parameters:
            if value.grad is not None:
                value.grad.mul_(factors.view(-1, *[1] * (value.dim() - 1)))

    def outputs(self, part: str, index: Tensor | None = None) -> list[Tensor]:
        """Evaluation-mode outputs [examples, classes] of each member."""
        x = self._x[part]
        with torch.no_grad():
            output = _chain(self._layers, x if index is None else x[:, :, index], training=False)
        return list(output.transpose(1, 2))

    def models(self) -> list[nn.Module]:
        """Each member as a network of its own with the current numbers."""
        with torch.no_grad():
            for at, model in enumerate(self._templates):
                own = dict(model.named_parameters()) | dict(model.named_buffers())
                for name, value in self._names.items():
                    own[name].copy_(value[at])
        return self._templates


def _chain(layers: Sequence[_Layer], x: Tensor, training: bool) -> Tensor:
    for layer in layers:
        x = layer(x, training)
    return x


def _ghost(x: Tensor, group: int, eps: float, mean: Tensor, var: Tensor, momentum: float) -> Tensor:
    """Normalized by groups of `group` examples along the batch; running statistics from the whole batch, once."""
    members, units, batch = x.shape
    whole = batch - batch % group
    parts = [x[:, :, :whole].reshape(members, units, -1, group)] + ([x[:, :, whole:].unsqueeze(2)] if whole < batch else [])
    with torch.no_grad():
        mean.lerp_(x.mean(2), momentum)
        var.lerp_(x.var(2, correction=1), momentum)
    normalized = [F.layer_norm(part, part.shape[-1:], eps=eps).flatten(2) for part in parts]
    return torch.cat(normalized, 2)
