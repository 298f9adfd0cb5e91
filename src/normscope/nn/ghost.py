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
from normscope.nn._base import NormLayer, check_values, values_per_channel
from normscope.ops import functional
from normscope.ops.functional import Epilogue, Statistics


def ghosts(batch: int, ghost_size: int) -> list[tuple[int, int]]:
    """How a batch is cut: (number of ghosts, samples in each), at most two such runs, the larger ghosts first."""
    number = max(1, batch // ghost_size)
    size, extra = batch // number, batch % number  # torch.compile knows no divmod of a dynamic batch
    return [run for run in ((extra, size + 1), (number - extra, size)) if run[0]]


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

    def _normalize(self, x: Tensor, epilogue: Epilogue) -> tuple[Tensor, list[Statistics]]:
        runs = ghosts(x.shape[0], self.ghost_size)
        check_values(x, runs[-1][1] * values_per_channel(x[:1]))
        outputs, found = [], []
        for part, (number, _) in zip(torch.split(x, [n * size for n, size in runs]), runs, strict=True):
            y, statistics = functional.train(part, self.weight, self.bias, self.eps, epilogue, number)
            outputs.append(y)
            found.append(statistics)
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs), found


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
