"""Treatments of a network's batch-norm layers: taken out, made into ghost batches, followed by noise."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from normscope import nn as norm_layers
from normscope.errors import UnsupportedError
from normscope.model.find import NormLayer, find
from normscope.nn.ghost import ghosts


class ChannelAffine(nn.Module):
    """y = weight * x + bias per channel: what is left of batch norm when its normalization is taken out.

    Args:
        weight: Gamma, shape [channels].
        bias: Beta, shape [channels].
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        """`x` of shape [batch, channels, *spatial], scaled and shifted per channel."""
        shape = [1, -1] + [1] * (x.dim() - 2)
        return torch.addcmul(self.bias.view(shape), x, self.weight.view(shape))


class StatisticNoise(nn.Module):
    """A batch norm followed by Gaussian noise on its normalized values, one draw per channel and group of examples.

    y = gamma * (a * z_norm + b) + beta with a ~ N(1, scale^2) and b ~ N(0, shift^2), in training only: the control for
    the noise that mini-batch statistics carry.

    Args:
        layer: The batch norm.
        scale: Standard deviation of the multiplicative part.
        shift: Standard deviation of the additive part.
        group: Examples that share a draw, as a ghost batch shares its statistics; 0 for the whole mini-batch.
    """

    def __init__(self, layer: nn.Module, scale: float, shift: float, group: int = 0) -> None:
        super().__init__()
        self.layer = layer
        self.scale, self.shift, self.group = scale, shift, group

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output for `x`, shape [batch, channels, *spatial], with noise in training."""
        y: Tensor = self.layer(x)
        if not self.training:
            return y
        shape = [1, -1] + [1] * (x.dim() - 2)
        rows = [*y.shape[:2]] + [1] * (x.dim() - 2)
        draws = statistic_draws(y.shape[0], self.group, y.shape[1:2]).to(y).transpose(1, 2)
        a, b = 1 + self.scale * draws[0].reshape(rows), self.shift * draws[1].reshape(rows)
        gamma, beta = affine_of(self.layer, y.shape[1])
        gamma, beta = gamma.to(y).view(shape), beta.to(y).view(shape)
        return beta + a * (y - beta) + gamma * b


def statistic_draws(examples: int, group: int, units: Sequence[int]) -> Tensor:
    """Two independent standard normal draws for each unit and group of examples, shape [2, *units, examples].

    Args:
        examples: Examples in the mini-batch.
        group: Examples that share a draw, cut as ghost batches are; 0 for all of them.
        units: Shape of what draws its own.
    """
    runs = ghosts(examples, group) if group else [(1, examples)]
    sizes = torch.tensor([size for number, size in runs for _ in range(number)])
    return torch.randn(2, *units, len(sizes)).repeat_interleave(sizes, -1)


def affine_of(layer: nn.Module, channels: int) -> tuple[Tensor, Tensor]:
    """(gamma, beta) of a batch norm, ones and zeros where it has none, each of shape [channels]."""
    weight, bias = getattr(layer, "weight", None), getattr(layer, "bias", None)
    return (
        weight if isinstance(weight, Tensor) else torch.ones(channels),
        bias if isinstance(bias, Tensor) else torch.zeros(channels),
    )


def _exchange(model: nn.Module, old: nn.Module, new: nn.Module) -> nn.Module:
    """`model` with `new` wherever `old` stands, under every name that it has; `new` may hold `old` inside."""
    if old is model:
        return new
    inside = set(map(id, new.modules()))
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child is old and id(parent) not in inside:
                parent._modules[name] = new
    return model


def remove_batch_norm(model: nn.Module) -> nn.Module:
    """`model` with each batch norm replaced by its affine, gamma and beta copied; in place.

    An activation that a foreign layer carries (timm's BatchNormAct2d) is kept behind the affine.

    Raises:
        UnsupportedError: There is no batch norm to remove.
    """
    for layer in find(model).require().layers:
        gamma, beta = affine_of(layer.module, layer.channels)
        new: nn.Module = ChannelAffine(gamma.detach().clone(), beta.detach().clone())
        extras = [part for part in layer.module.children() if not isinstance(part, nn.Identity)]
        model = _exchange(model, layer.module, nn.Sequential(new, *extras) if extras else new)
    return model


def to_ghost(model: nn.Module, size: int) -> nn.Module:
    """`model` with each of torch's batch norms normalizing groups of `size` examples; in place.

    An activation that a layer carries (timm's BatchNormAct2d) is kept behind it. Frozen layers stay.

    Raises:
        UnsupportedError: A layer normalizes by the mini-batch but is none of torch's.
    """
    kinds = {
        nn.BatchNorm1d: norm_layers.GhostBatchNorm1d,
        nn.BatchNorm2d: norm_layers.GhostBatchNorm2d,
        nn.BatchNorm3d: norm_layers.GhostBatchNorm3d,
    }
    for layer in find(model).require().layers:
        old = layer.module
        kind = next((ghost for base, ghost in kinds.items() if isinstance(old, base)), None)
        if layer.kind == "frozen":
            continue
        if kind is None or not isinstance(old, _BatchNorm):
            raise UnsupportedError(
                f"expected torch's BatchNorm1d, 2d or 3d to make ghost batches of, {layer.name} is a"
                f" {type(old).__name__}; replace it by torch's layer"
            )
        new: nn.Module = kind(
            old.num_features,
            eps=old.eps,
            momentum=old.momentum,
            affine=old.affine,
            track_running_stats=old.track_running_stats,
            ghost_size=size,
        )
        new.load_state_dict(old.state_dict())
        extras = [part for part in old.children() if not isinstance(part, nn.Identity)]
        new = nn.Sequential(new, *extras) if extras else new
        model = _exchange(model, layer.module, new.train(old.training))
    return model


def after_norm(
    model: nn.Module, *, dropout: float = 0.0, noise: tuple[float, float] = (0.0, 0.0), group: int = 0
) -> nn.Module:
    """`model` with dropout, or noise of the statistics, at every place where batch norm stands or stood; in place.

    A draw of the noise is shared by `group` examples, by the whole mini-batch for 0.

    Dropout stands right behind the layer: before a ReLU it acts exactly as behind it.
    """
    places = [NormLayer("", part, "torch") for part in model.modules() if isinstance(part, ChannelAffine)]
    for layer in [*find(model).layers, *places]:
        new = layer.module
        if noise != (0.0, 0.0) and not isinstance(new, ChannelAffine):
            new = StatisticNoise(new, *noise, group)
        if dropout:
            new = nn.Sequential(new, nn.Dropout(dropout))
        model = _exchange(model, layer.module, new)
    return model


def he_initialize(model: nn.Module, generator: torch.Generator) -> None:
    """Draw every linear and convolution weight from He's normal law for ReLU, and set its bias to 0; in place.

    The last such layer, which no ReLU follows, keeps its own initialization. Source: bibliography key he2015.
    """
    for layer in _weighted(model)[:-1]:
        fan_in = layer.weight[0].numel()
        with torch.no_grad():
            layer.weight.copy_(
                torch.randn(layer.weight.shape, generator=generator).to(layer.weight) * math.sqrt(2 / fan_in)
            )
            if layer.bias is not None:
                layer.bias.zero_()


def default_initialize(model: nn.Module, seed: int) -> None:
    """Draw every layer's parameters anew by torch's own reset_parameters, under `seed`; in place."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for part in model.modules():
            if callable(reset := getattr(part, "reset_parameters", None)):
                reset()


def spread_rows(model: nn.Module, deviation: float, generator: torch.Generator) -> None:
    """Multiply each row of every weight but the last by a log-normal factor of that log deviation; in place."""
    for layer in _weighted(model)[:-1]:
        rows = torch.randn(len(layer.weight), generator=generator).mul(deviation).exp().to(layer.weight)
        with torch.no_grad():
            layer.weight.mul_(rows.view(-1, *[1] * (layer.weight.dim() - 1)))


def freeze_lowest(model: nn.Module, count: int) -> None:
    """Keep the first `count` weight matrices out of training; in place."""
    for layer in _weighted(model)[:count]:
        layer.weight.requires_grad = False


def _weighted(model: nn.Module) -> list[nn.Linear | nn.Conv2d]:
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return [part for part in model.modules() if isinstance(part, kinds)]  # type: ignore[misc]
