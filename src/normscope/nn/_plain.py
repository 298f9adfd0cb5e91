"""Layers that normalize by the whole batch; where torch does that best, it does all of it (see `aten.does_best`)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from normscope.moments import Moments
from normscope.nn._base import Found, NormLayer
from normscope.ops import aten, backend, cpu
from normscope.ops.context import plain
from normscope.ops.functional import PLAIN, Epilogue


@dataclass(slots=True)
class _Kept:
    """What torch's kernel says of a batch: mean and 1 / sqrt(biased variance + eps), shape [channels]."""

    mean: Tensor
    inverse_deviation: Tensor
    eps: float
    count: int

    def merged(self) -> Moments:
        """The moments, as exact as these two numbers: of a variance far below eps little is left in them."""
        mean, inverse = self.mean.double(), self.inverse_deviation.double()
        m2 = (inverse.pow(-2) - self.eps).clamp_(min=0) * self.count
        return Moments(mean.new_tensor(float(self.count)), mean, m2)


class PlainLayer(NormLayer):
    """A layer whose batch statistics are those of the whole batch, tracked by torch's formula."""

    def _by_batch(self, x: Tensor, epilogue: Epilogue) -> Tensor:
        weight, bias, momentum, buffers = self.weight, self.bias, self.momentum, self._buffers
        tracks = self.training and self.track_running_stats
        mean, variance = (buffers["running_mean"], buffers["running_var"]) if tracks else (None, None)
        if not (
            momentum is not None
            and backend.requested() == "auto"
            and aten.does_best(x, weight, bias, mean, variance)
            and plain()
        ):
            return super()._by_batch(x, epilogue)
        y, found, inverse = aten.tracked(x, weight, bias, mean, variance, momentum, self.eps)
        # Past torch.nn.Module's __setattr__ and __getattr__, each of which costs a tenth of the kernel.
        self.__dict__["_last"] = _Kept(found, inverse, self.eps, x.numel() // x.shape[1])
        if mean is not None and (tracked := buffers["num_batches_tracked"]) is not None:
            cpu.increment(tracked)
        if x.is_cuda or aten.is_near(found, inverse):
            return y if epilogue is PLAIN else epilogue.composed(y)
        # The running statistics stay as torch's kernel left them.
        y, exact = self._normalize(x, epilogue)
        self._last = Found(exact)
        return y
