"""Ghost batch normalization: every few samples of a mini-batch are normalized by their own statistics.

The noise of a small batch in the gradient descent of a large one (bibliography keys hoffer2017, summers2020).
Training cuts the batch, in order, into floor(batch / ghost_size) ghosts, at least one, and spreads a remainder over
the first of them, one sample each: with a ghost size of 32, a batch of 100 becomes 34 + 33 + 33. No ghost is ever
smaller than asked unless the whole batch is.

The running statistics are those of the whole batch, as batch norm without ghosts would track them: the ghosts'
moments are merged (the variance within ghosts plus the variance of their means: the law of total variance),
Bessel-corrected with the whole count, and enter by one momentum update per forward. Evaluation is that of batch norm.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from normscope.errors import InputError
from normscope.moments import Moments
from normscope.nn._base import BatchStatistics, NormLayer, check_values, values_per_channel
from normscope.nn.batchnorm import normalized

# Where moving the ghosts into the channels costs less than one call per ghost: many ghosts, each of few elements.
_MANY, _SMALL = 16, 2048


def ghosts(batch: int, ghost_size: int) -> list[tuple[int, int]]:
    """How a batch is cut: (number of ghosts, samples in each), at most two such runs, the larger ghosts first."""
    number = max(1, batch // ghost_size)
    size, extra = divmod(batch, number)
    return [run for run in ((extra, size + 1), (number - extra, size)) if run[0]]


def _as_channels(x: Tensor, number: int) -> Tensor:
    """[number * n, C, *spatial] with the ghosts moved into the channels: [n, number * C, *spatial]."""
    channels, spatial = x.shape[1], x.shape[2:]
    apart = x.reshape(number, -1, channels, *spatial)
    return apart.transpose(0, 1).reshape(-1, number * channels, *spatial)


def _as_batch(y: Tensor, number: int) -> Tensor:
    """The inverse of `_as_channels`."""
    spatial = y.shape[2:]
    apart = y.reshape(y.shape[0], number, -1, *spatial)
    return apart.transpose(0, 1).reshape(-1, y.shape[1] // number, *spatial)


class _GhostBatchNorm(NormLayer):
    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        ghost_size: int,
        bias: bool = True,
    ) -> None:
        if not isinstance(ghost_size, int) or ghost_size < 1:
            raise InputError(f"expected ghost_size to be a positive whole number of samples, got {ghost_size!r}")
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, device=device, dtype=dtype, bias=bias
        )
        self.ghost_size = ghost_size

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, ghost_size={self.ghost_size}"  # type: ignore[no-untyped-call]

    def _normalize(self, x: Tensor) -> tuple[Tensor, BatchStatistics]:
        runs = ghosts(x.shape[0], self.ghost_size)
        if len(runs) == 1 and runs[0][0] == 1:
            return normalized(x, self.weight, self.bias, self.eps)
        check_values(x, runs[-1][1] * values_per_channel(x[:1]))
        outputs: list[Tensor] = []
        found: list[BatchStatistics] = []
        for part, (number, size) in zip(torch.split(x, [n * size for n, size in runs]), runs, strict=True):
            together = number >= _MANY and part.numel() // number < _SMALL
            for piece in (part,) if together else torch.split(part, size):
                y, statistics = self._normalize_ghosts(piece, piece.shape[0] // size)
                outputs.append(y)
                found.append(statistics)
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs), _merged(found, x.shape[1])

    def _normalize_ghosts(self, piece: Tensor, number: int) -> tuple[Tensor, BatchStatistics]:
        if number == 1:
            return normalized(piece, self.weight, self.bias, self.eps)
        weight = None if self.weight is None else self.weight.repeat(number)
        bias = None if self.bias is None else self.bias.repeat(number)
        y, found = normalized(_as_channels(piece, number), weight, bias, self.eps)
        y = _as_batch(y, number)
        if piece.dim() == 4 and piece.is_contiguous(memory_format=torch.channels_last):
            y = y.contiguous(memory_format=torch.channels_last)
        return y, found


def _merged(found: list[BatchStatistics], channels: int) -> BatchStatistics:
    """Statistics of all ghosts together; each entry holds one ghost or several in a row."""
    means = torch.cat([each.mean.reshape(-1, channels) for each in found])
    variances = torch.cat([each.variance.reshape(-1, channels) for each in found]).double()
    per_ghost = [each.count for each in found for _ in range(each.mean.numel() // channels)]
    counts = torch.tensor(per_ghost, device=means.device)
    total = Moments.of_groups(counts, means, variances * (counts[:, None] - 1))
    return BatchStatistics(total.mean, total.variance("bessel"), sum(per_ghost))


class GhostBatchNorm1d(_GhostBatchNorm, nn.BatchNorm1d):
    """Ghost batch norm for [batch, channels] and [batch, channels, length].

    Args:
        num_features: Channels.
        eps: Added to the biased variance.
        momentum: torch's convention; None for a cumulative average.
        affine: Whether gamma and beta are learned.
        track_running_stats: Whether evaluation uses tracked statistics; else it uses ghosts too.
        device: Where the parameters live.
        dtype: Their dtype.
        ghost_size: Samples that share their statistics; keyword only.
        bias: Whether beta is learned; keyword only.
    """


class GhostBatchNorm2d(_GhostBatchNorm, nn.BatchNorm2d):
    """Ghost batch norm for [batch, channels, height, width]; arguments as in `GhostBatchNorm1d`."""


class GhostBatchNorm3d(_GhostBatchNorm, nn.BatchNorm3d):
    """Ghost batch norm for [batch, channels, depth, height, width]; arguments as in `GhostBatchNorm1d`."""
