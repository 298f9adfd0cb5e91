"""Many fully connected networks of one shape trained as one: members x units x batch, a learning rate each.

Two to four times as fast as one after the other on a CPU, where small matrices leave it idle; a member that diverges
stays alone. Equal to `normscope.why.members.Single` up to rounding: tests hold it to that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normscope import nn as norm_layers
from normscope.moments import Moments
from normscope.nn.ghost import ghosts
from normscope.surgery.remove import ChannelAffine, StatisticNoise, statistic_draws
from normscope.why.arms import FULL
from normscope.why.data import Data

_Layer = Callable[[Tensor, bool], Tensor]

# Ghosts up to this size are faster as channels of their own than under layer norm.
_SMALL_GHOST = 16


def stackable(model: nn.Module) -> bool:
    """Whether `model` is a Sequential of the layers that a stack knows, with all the parts that it expects of them."""
    return isinstance(model, nn.Sequential) and all(map(_known, model))


def _known(part: nn.Module) -> bool:
    if isinstance(part, nn.Sequential):
        return stackable(part)
    if isinstance(part, nn.BatchNorm1d):
        return part.affine and part.track_running_stats and part.momentum is not None
    if isinstance(part, StatisticNoise):
        return _known(part.layer)
    if isinstance(part, nn.Linear):
        return part.bias is not None
    return isinstance(part, nn.ReLU | nn.Dropout | ChannelAffine)


class Stack:
    """K networks of one shape as one; cross-entropy loss.

    Activations have shape [K, units, batch], so that a network's batch norm runs along contiguous memory and K of them
    are one call with K * units channels.

    Args:
        models: K Sequentials of equal structure (see `stackable`).
        datas: K data sets of equal size, inputs of shape [examples, features].
        full: Whether training statistics come from up to `FULL` training examples instead of the mini-batch.
    """

    def __init__(self, models: Sequence[nn.Module], datas: Sequence[Data], *, full: bool = False) -> None:
        self.datas, self._full, self._measuring = list(datas), full, False
        self._templates = list(models)
        self._trained: list[nn.Parameter] = []
        self._running: list[Tensor] = []
        self._names: dict[str, Tensor] = {}
        self._layers = [self._layer(parts, str(at)) for at, parts in enumerate(_groups(models))]
        self._flat = nn.Parameter(torch.empty(0))
        self._flatten()
        self._x = {part: torch.stack([getattr(d, part).whole.args[0] for d in datas]) for part in ("train", "test")}
        self._each = torch.arange(len(models)).unsqueeze(1)
        self._y = torch.stack([d.train.target for d in datas])

    def _stacked(self, parts: Sequence[nn.Module], name: str, key: str) -> nn.Parameter:
        trained = getattr(parts[0], key).requires_grad
        value = nn.Parameter(torch.stack([getattr(part, key).detach() for part in parts]), requires_grad=trained)
        if trained:
            self._trained.append(value)
        self._names[f"{name}.{key}"] = value
        return value

    def _flatten(self) -> None:
        """Make what is trained views of one [K, numbers] parameter: a step is then three operations, not a hundred."""
        self._flat.data = torch.cat([value.detach().flatten(1) for value in self._trained], 1)
        sizes = [value[0].numel() for value in self._trained]
        for value, part in zip(self._trained, self._flat.detach().split(sizes, 1), strict=True):
            value.data = part.view(value.shape)

    def _layer(self, parts: Sequence[Any], name: str) -> _Layer:
        first = parts[0]
        if isinstance(first, nn.Sequential):
            inner = [self._layer(group, f"{name}.{at}") for at, group in enumerate(_groups(parts))]
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
            return lambda x, training: _dropout(x, first.p) if training else x
        return lambda x, _: F.relu(x)

    def _norm(self, parts: Sequence[nn.BatchNorm1d], name: str) -> _Layer:
        first = parts[0]
        weight, bias = self._stacked(parts, name, "weight"), self._stacked(parts, name, "bias")
        mean = torch.stack([cast("Tensor", part.running_mean) for part in parts])
        var = torch.stack([cast("Tensor", part.running_var) for part in parts])
        self._names.update({f"{name}.running_mean": mean, f"{name}.running_var": var})
        self._running += [mean, var]
        group = first.ghost_size if isinstance(first, norm_layers.GhostBatchNorm1d) else 0
        momentum, eps = float(first.momentum or 0.0), first.eps

        def forward(x: Tensor, training: bool) -> Tensor:
            members, units, batch = x.shape
            flat = (weight.reshape(-1), bias.reshape(-1))
            if self._measuring:
                found = Moments.of(x.reshape(-1, batch), dim=0)
                mean.copy_(found.mean.view_as(mean))
                var.copy_(found.variance("biased").view_as(var))
            if training and group and not self._full and batch >= 2 * group:
                y = _ghost(x, group, eps, mean, var, momentum)
                return torch.addcmul(bias.unsqueeze(2), y, weight.unsqueeze(2))
            y = F.batch_norm(
                x.reshape(1, members * units, batch), mean.view(-1), var.view(-1), *flat, training, momentum, eps
            )
            return y.view(members, units, batch)

        return forward

    def _noisy(self, parts: Sequence[StatisticNoise], name: str) -> _Layer:
        layers = [cast("nn.BatchNorm1d", part.layer) for part in parts]
        norm = self._norm(layers, f"{name}.layer")
        gamma, beta = self._names[f"{name}.layer.weight"], self._names[f"{name}.layer.bias"]
        scale, shift, group = parts[0].scale, parts[0].shift, parts[0].group

        def forward(x: Tensor, training: bool) -> Tensor:
            y = norm(x, training)
            if not training:
                return y
            a, b = statistic_draws(y.shape[2], group, y.shape[:2])
            mean, size = beta.unsqueeze(2), gamma.unsqueeze(2)
            noisy: Tensor = mean + (1 + scale * a) * (y - mean) + size * (shift * b)
            return noisy

        return forward

    def parameters(self) -> list[nn.Parameter]:
        """One parameter of shape [K, numbers]."""
        return [self._flat]

    def losses(self, index: Tensor) -> Tensor:
        """Cross-entropies [K] of the examples at `index` [K, batch], in train mode."""
        rows = self._with_others(index) if self._full else index
        output = _chain(self._layers, self._x["train"][self._each, rows].transpose(1, 2), training=True)
        return F.cross_entropy(output[:, :, : index.shape[1]], self._y[self._each, index], reduction="none").mean(1)

    def _with_others(self, index: Tensor) -> Tensor:
        """`index` and behind it, in order, the first of the other training examples, `FULL` in all."""
        others = torch.ones_like(self._y, dtype=torch.bool).scatter_(1, index, value=False)
        rest = others.nonzero()[:, 1].view(len(index), -1)
        return torch.cat([index, rest[:, : max(0, FULL - index.shape[1])]], 1)

    def gradients(self, index: Tensor, factors: Tensor) -> None:
        """Put each member's gradient of its loss at `index` [K, batch], times its factor [K], into the parameter."""
        found = torch.autograd.grad(self.losses(index).sum(), self._trained)
        self._flat.grad = torch.cat([value.flatten(1) for value in found], 1).mul_(factors.unsqueeze(1))

    def keep(self, places: Sequence[int]) -> None:
        """Go on with the members at `places` only."""
        chosen = torch.tensor(places)
        self.datas = [self.datas[at] for at in places]
        self._templates = [self._templates[at] for at in places]
        for value in self._names.values():
            value.data = value.data[chosen]
        self._flatten()
        self._flat.grad = None
        self._x = {part: x[chosen] for part, x in self._x.items()}
        self._each, self._y = torch.arange(len(places)).unsqueeze(1), self._y[chosen]

    def outputs(self, part: str, index: Tensor | None = None) -> list[Tensor]:
        """Evaluation-mode outputs [examples, classes] of each member."""
        x = self._x[part]
        with torch.no_grad():
            output = _chain(self._layers, (x if index is None else x[:, index]).transpose(1, 2), training=False)
        return list(output.transpose(1, 2))

    @contextmanager
    def population(self) -> Iterator[None]:
        """For a while, evaluate with the exact statistics of each training set, biased, dropout off."""
        saved = [value.clone() for value in self._running]
        self._measuring = True
        try:
            self.outputs("train")
            self._measuring = False
            yield
        finally:
            self._measuring = False
            for value, old in zip(self._running, saved, strict=True):
                value.copy_(old)

    def models(self) -> list[nn.Module]:
        """Each member as a network of its own with the current numbers."""
        with torch.no_grad():
            for at, model in enumerate(self._templates):
                own = dict(model.named_parameters()) | dict(model.named_buffers())
                for name, value in self._names.items():
                    own[name].copy_(value[at])
        return self._templates


def _groups(models: Sequence[Any]) -> Iterable[tuple[Any, ...]]:
    """The layers of every model that stand at the same place."""
    return zip(*models, strict=True)


def _chain(layers: Sequence[_Layer], x: Tensor, training: bool) -> Tensor:
    for layer in layers:
        x = layer(x, training)
    return x


def _dropout(x: Tensor, p: float) -> Tensor:
    """Dropout that draws 16 bits a value: as `F.dropout`, `p` to within 2^-17, at a quarter of its time."""
    words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    bits = words.view(torch.int16)[: x.numel()].view(x.shape)
    return x * ((bits >= round(p * 2**16) - 2**15).to(x.dtype) / (1 - p))


def _ghost(x: Tensor, group: int, eps: float, mean: Tensor, var: Tensor, momentum: float) -> Tensor:
    """Normalized by ghosts, cut as `normscope.nn.ghost` does; running statistics from the whole batch, once."""
    with torch.no_grad():
        mean.lerp_(x.mean(2), momentum)
        var.lerp_(x.var(2, correction=1), momentum)
    parts, at = [], 0
    for number, size in ghosts(x.shape[2], group):
        part = x[:, :, at : at + number * size]
        if size <= _SMALL_GHOST:
            y = F.batch_norm(part.reshape(1, -1, size), None, None, training=True, eps=eps)
        else:
            y = F.layer_norm(part.reshape(-1, size), (size,), eps=eps)
        parts.append(y.view(part.shape))
        at += number * size
    return parts[0] if len(parts) == 1 else torch.cat(parts, 2)
