"""Batch norm as functions: outputs and statistics come back, nothing is updated. Layers are thin shells over these.

Eager mode goes through `normscope.ops.eager`; under torch.compile, torch.export and torch.func the operators of
`normscope.ops.schema` take over. Where the compiled kernels cannot run, torch's own kernel does, or the reference.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from normscope.moments import Moments
from normscope.ops import aten, backend, cpu, eager, reference, schema
from normscope.ops.activation import BEHIND_RESIDUAL, FUSED, applied
from normscope.ops.context import plain, tracing, transformed

# Where moving ghosts into the channels costs torch less than one call per ghost: many ghosts, each of few elements.
_MANY, _SMALL = 16, 2048


class Epilogue(NamedTuple):
    """What follows the normalization: y = activation(normalized + residual)."""

    activation: str = "none"
    slope: float = 0.01
    residual: Tensor | None = None

    def composed(self, y: Tensor) -> Tensor:
        """The epilogue by torch's own functions."""
        if self.residual is not None:
            y = y + self.residual
        return applied(y, self.activation, self.slope)


PLAIN = Epilogue()


@dataclass(slots=True)
class Statistics:
    """What a training forward found, for each of the equal ghosts that the batch was cut into.

    Attributes:
        packed: Mean and sum of squared deviations, shape [2, ghosts, channels].
        count: Values per channel of one ghost.
    """

    packed: Tensor
    count: int

    @property
    def mean(self) -> Tensor:
        """Shape [ghosts, channels]."""
        return self.packed[0]

    @property
    def m2(self) -> Tensor:
        """Sum of squared deviations, shape [ghosts, channels]."""
        return self.packed[1]


def merged(parts: list[Statistics]) -> Moments:
    """Moments of all parts of a batch together, by the law of total variance."""
    if len(parts) == 1 and parts[0].mean.shape[0] == 1:
        only = parts[0]
        count = torch.tensor(float(only.count), dtype=torch.float64, device=only.mean.device)
        return Moments(count, only.mean[0].detach().double(), only.m2[0].detach().double())
    counts = [float(part.count) for part in parts for _ in range(part.mean.shape[0])]
    means = torch.cat([part.mean.detach().double() for part in parts])
    m2s = torch.cat([part.m2.detach().double() for part in parts])
    return Moments.of_groups(torch.tensor(counts, dtype=torch.float64, device=means.device), means, m2s)


def _fusable(x: Tensor, epilogue: Epilogue) -> bool:
    activation, _, residual = epilogue
    if residual is None:
        return activation in FUSED
    same = residual.shape == x.shape and residual.dtype == x.dtype and residual.device == x.device
    return same and activation in BEHIND_RESIDUAL


def _suits(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> bool:
    """Whether the compiled kernels may run: chosen, able, and given parameters that torch would take as well."""
    if backend.requested() in ("torch", "reference") or cpu.objection(x):
        return False
    dtypes = cpu.PARAMETERS[x.dtype]
    for parameter in (weight, bias):
        if parameter is not None and not (parameter.is_cpu and parameter.dtype in dtypes):
            return False
    return True


def train(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    epilogue: Epilogue = PLAIN,
    groups: int = 1,
) -> tuple[Tensor, Statistics]:
    """Normalize each of `groups` equal parts of the batch by its own moments, then apply the epilogue.

    Args:
        x: Shape [batch, channels, *spatial].
        weight: gamma, shape [channels], or None.
        bias: beta, shape [channels], or None.
        eps: Added to the biased variance.
        epilogue: Residual and activation.
        groups: A divisor of the batch.

    Returns:
        y, of the shape and dtype of `x`, and the statistics of each part.
    """
    if not _suits(x, weight, bias):
        y, statistics = _train_without_kernels(x, weight, bias, eps, groups)
        return epilogue.composed(y), statistics
    count = x.numel() // (x.shape[1] * groups)
    fused = epilogue if _fusable(x, epilogue) else PLAIN
    if plain():
        found, overflows = cpu.new_moments(x, groups), False
        try:
            y = eager.train(x, weight, bias, fused.residual, (found, eps, fused.activation, fused.slope))
        except OverflowError:
            overflows = True
        if overflows:
            return _train_in_float64(x, weight, bias, eps, epilogue, groups)
    elif tracing():
        y, found, _ = schema.batch_norm(x, weight, bias, fused.residual, eps, fused.activation, fused.slope, groups)
    else:
        fused = PLAIN
        y, found = eager.Transformed.apply(x, weight, bias, eps, groups)  # type: ignore[no-untyped-call]
    return y if fused is epilogue else epilogue.composed(y), Statistics(found, count)


def _train_in_float64(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, epilogue: Epilogue, groups: int
) -> tuple[Tensor, Statistics]:
    """The reference with its epilogue, rounded once, as the kernels round."""
    parts = [reference.train(part, weight, bias, eps) for part in torch.chunk(x.double(), groups)]
    packed = torch.stack([torch.stack([found.mean, found.m2]) for _, found in parts], 1)
    residual = None if epilogue.residual is None else epilogue.residual.double()
    y = epilogue._replace(residual=residual).composed(torch.cat([y for y, _ in parts]))
    return y.to(x.dtype), Statistics(packed, int(parts[0][1].count))


def _train_without_kernels(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, groups: int
) -> tuple[Tensor, Statistics]:
    if groups > 1:
        return _ghosts_without_kernels(x, weight, bias, eps, groups)
    count = x.numel() // x.shape[1] if x.shape[1] else 0
    if backend.requested() != "reference" and not transformed() and aten.supports(x, weight, bias):
        y, mean, variance = aten.train(x, weight, bias, eps)
        return y, Statistics(torch.stack([mean, (variance * (count - 1)).to(mean.dtype)])[:, None], count)
    y, moments = reference.train(x, weight, bias, eps)
    return y, Statistics(torch.stack([moments.mean, moments.m2])[:, None], count)


def _ghosts_without_kernels(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, groups: int
) -> tuple[Tensor, Statistics]:
    if groups >= _MANY and x.numel() // groups < _SMALL:
        gamma, beta = (None if value is None else value.repeat(groups) for value in (weight, bias))
        y, found = _train_without_kernels(_as_channels(x, groups), gamma, beta, eps, 1)
        y = cpu.laid_out_like(_as_batch(y, groups), x)
        return y, Statistics(found.packed.reshape(2, groups, x.shape[1]), found.count)
    parts = [_train_without_kernels(part, weight, bias, eps, 1) for part in torch.chunk(x, groups)]
    packed = torch.cat([found.packed for _, found in parts], 1)
    return torch.cat([y for y, _ in parts]), Statistics(packed, parts[0][1].count)


def _as_channels(x: Tensor, number: int) -> Tensor:
    """[number * n, C, *spatial] with the ghosts moved into the channels: [n, number * C, *spatial]."""
    apart = x.reshape(number, -1, *x.shape[1:])
    return apart.transpose(0, 1).reshape(-1, number * x.shape[1], *x.shape[2:])


def _as_batch(y: Tensor, number: int) -> Tensor:
    """The inverse of `_as_channels`."""
    apart = y.reshape(y.shape[0], number, -1, *y.shape[2:])
    return apart.transpose(0, 1).reshape(-1, y.shape[1] // number, *y.shape[2:])


def evaluate(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    epilogue: Epilogue = PLAIN,
) -> Tensor:
    """Normalize `x` by a given mean and variance, shape [channels], then apply the epilogue.

    Without an epilogue torch's kernel runs, so that a layer exchanged for torch's evaluates to the same bits.
    """
    alone = epilogue.residual is None and epilogue.activation == "none"
    if alone or not plain() or not _fusable(x, epilogue) or not _suits(x, weight, bias):
        y = torch.nn.functional.batch_norm(x, mean, variance, weight, bias, training=False, eps=eps)
        return epilogue.composed(y)
    statistics = torch.stack([mean.detach(), variance.detach()]).double().unsqueeze(1)
    fused: Tensor = eager.Evaluate.apply(  # type: ignore[no-untyped-call]
        x, weight, bias, epilogue.residual, (statistics, eps, epilogue.activation, epilogue.slope)
    )
    return fused
